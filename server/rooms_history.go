package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// This file tells other servers the state, auth chains and events of rooms.

// EventList is a list of committed events of one room, read piece by piece so
// that the state of a large room is never in memory as a whole.
type EventList struct {
	rooms *Rooms
	nids  []int64
}

// eventListStep is how many events are read at once.
const eventListStep = 200

// Len returns the number of events.
func (l EventList) Len() int { return len(l.nids) }

// Each calls fn for every event, in order.
func (l EventList) Each(ctx context.Context, fn func(*spec.Event) error) error {
	for part := range slices.Chunk(l.nids, eventListStep) {
		var rows []storage.EventRow
		err := l.rooms.db.Read(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.EventsByNIDs(part)
			return err
		})
		if err == nil && len(rows) != len(part) {
			err = fmt.Errorf("%d of %d events are missing", len(part)-len(rows), len(part))
		}
		if err != nil {
			return err
		}
		for i := range rows {
			if err := fn(rows[i].Event); err != nil {
				return err
			}
		}
	}
	return nil
}

// IDs returns the ids of the events, in order.
func (l EventList) IDs(ctx context.Context) ([]spec.EventID, error) {
	out := make([]spec.EventID, 0, len(l.nids))
	err := l.rooms.db.Read(ctx, func(tx *storage.Tx) error {
		ids, err := tx.EventIDs(l.nids)
		for _, nid := range l.nids {
			if id, ok := ids[nid]; ok {
				out = append(out, id)
			} else if err == nil {
				err = fmt.Errorf("event number %d is missing", nid)
			}
		}
		return err
	})
	return out, err
}

// StateAnswer is the state before an event with its auth chain.
type StateAnswer struct{ State, AuthChain EventList }

// AskEvent is a server's question about an event of a room.
type AskEvent struct {
	Origin spec.ServerName
	Room   spec.RoomID
	Event  spec.EventID
}

// StateAt returns the state before an event of the room. Errors: M_NOT_FOUND for
// an event of which no state is known here, M_FORBIDDEN for a server that is not
// in the room. Spec: server-server-api#get_matrixfederationv1stateroomid
func (rs *Rooms) StateAt(ctx context.Context, ask AskEvent) (StateAnswer, error) {
	var out StateAnswer
	r, err := rs.shared(ctx, ask.Origin, ask.Room)
	if err != nil {
		return out, err
	}
	row, err := r.eventAt(ask.Event)
	if err != nil {
		return out, err
	}
	if out.State, err = r.stateList(ctx, row.Before); err != nil {
		return out, err
	}
	out.AuthChain, err = rs.chainOf(ctx, r, nil, out.State)
	return out, err
}

// EventAuthFor returns the auth chain of an event of the room, with the errors
// of StateAt. Spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (rs *Rooms) EventAuthFor(ctx context.Context, ask AskEvent) (EventList, error) {
	r, err := rs.shared(ctx, ask.Origin, ask.Room)
	if err != nil {
		return EventList{}, err
	}
	row, err := r.store().EventByID(ask.Event)
	if err != nil {
		return EventList{}, err
	}
	if !tellable(row) {
		return EventList{}, spec.Errorf(spec.CodeNotFound, nil, "the event is not known here")
	}
	return rs.chainOf(ctx, r, row.Event, EventList{})
}

// tellable reports whether other servers may hear of an event: it was judged and
// not rejected.
func tellable(row *storage.EventRow) bool {
	return row != nil && row.Kind != storage.StateWaiting && row.Rejected == ""
}

// stateList lists the events of a committed state.
func (r *room) stateList(ctx context.Context, root spec.Hash) (EventList, error) {
	list := EventList{rooms: r.rooms}
	err := r.rooms.db.Read(ctx, func(tx *storage.Tx) error {
		return spec.Walk(tx.NodeReader(r.nid), root, func(leaf spec.Leaf) error {
			list.nids = append(list.nids, leaf.Event)
			return nil
		})
	})
	slices.Sort(list.nids)
	return list, err
}

// chainOf lists the auth chains of a state and of an event, which is nil for
// none.
func (rs *Rooms) chainOf(ctx context.Context, r *room, ev *spec.Event, state EventList) (EventList, error) {
	var direct []int64
	if ev != nil {
		for _, id := range ev.Auth {
			row, err := r.store().EventByID(id)
			if err != nil {
				return EventList{}, err
			}
			if row == nil {
				return EventList{}, fmt.Errorf("auth event %s of %s is missing", id, ev.ID)
			}
			direct = append(direct, row.NID)
		}
	}
	list := EventList{rooms: rs}
	err := rs.look(ctx, r.id, func(c *roomcore.Core) error {
		chain, err := c.AuthChain(append(slices.Clone(direct), state.nids...))
		list.nids = append(direct, chain...)
		return err
	})
	slices.Sort(list.nids)
	list.nids = slices.Compact(list.nids)
	return list, err
}

// EventForServer returns an event that the origin may see, for whatever room it
// is of. Errors: M_NOT_FOUND, M_FORBIDDEN.
// Spec: server-server-api#get_matrixfederationv1eventeventid
func (rs *Rooms) EventForServer(ctx context.Context, origin spec.ServerName, id spec.EventID) (*spec.Event, error) {
	var row storage.EventRow
	var room spec.RoomID
	err := rs.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if row, err = tx.EventByIDAnyRoom(id); err != nil {
			return err
		}
		room = row.Event.Room
		return nil
	})
	if err != nil {
		return nil, noEvent(err)
	}
	r, err := rs.shared(ctx, origin, room)
	if err != nil {
		return nil, err
	}
	if !tellable(&row) {
		return nil, noEvent(nil)
	}
	visible, err := newServerSight(r, origin).sees(ctx, &row)
	if err == nil && !visible {
		err = spec.Errorf(spec.CodeForbidden, nil, "your server may not see the event")
	}
	return row.Event, err
}

func noEvent(err error) error {
	if err != nil && !isNotFound(err) {
		return err
	}
	return spec.Errorf(spec.CodeNotFound, err, "the event is not known here")
}

// Bounds of what one request for history gets.
const (
	backfillMost       = 100
	missingLimitMost   = 20
	missingLimitPreset = 10
	historyFromMost    = 100 // events to begin with
)

// AskHistory is a server's question for events that come before others.
type AskHistory struct {
	Origin spec.ServerName
	Room   spec.RoomID
	// From are the events to begin with.
	From []spec.EventID
	// Until, for MissingEventsFor, are events at which to stop.
	Until []spec.EventID
	Limit int
	// MinDepth leaves out events below that depth.
	MinDepth int64
}

// BackfillFor returns the given events and what precedes them, newest first.
// Rejected events are among them, here and in MissingEventsFor, if others refer
// to them: without them those could not be placed, and whoever gets them judges
// them again.
// What the origin may not see is redacted. Errors are those of StateAt; events
// that are not known are left out.
// Spec: server-server-api#get_matrixfederationv1backfillroomid
func (rs *Rooms) BackfillFor(ctx context.Context, ask AskHistory) ([]*spec.Event, error) {
	r, err := rs.shared(ctx, ask.Origin, ask.Room)
	if err != nil {
		return nil, err
	}
	limit := min(ask.Limit, backfillMost)
	w := newWalk(r)
	if err := w.add(ask.From); err != nil {
		return nil, err
	}
	var rows []*storage.EventRow
	for len(w.open) > 0 && len(rows) < limit {
		// The newest of all that is open.
		i := 0
		for k, row := range w.open {
			if row.Key().Compare(w.open[i].Key()) > 0 {
				i = k
			}
		}
		row := w.open[i]
		w.open = slices.Delete(w.open, i, i+1)
		if row.Kind == storage.StateRoot {
			rows = append(rows, row)
		}
		if err := w.add(row.Event.Prev); err != nil {
			return nil, err
		}
	}
	return newServerSight(r, ask.Origin).censored(ctx, rows)
}

// MissingEventsFor walks breadth-first from ask.From along prev_events and
// returns what it finds, without those events and not beyond ask.Until, oldest
// first. What the origin may not see is redacted. Errors are those of StateAt.
// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (rs *Rooms) MissingEventsFor(ctx context.Context, ask AskHistory) ([]*spec.Event, error) {
	r, err := rs.shared(ctx, ask.Origin, ask.Room)
	if err != nil {
		return nil, err
	}
	if ask.Limit == 0 {
		ask.Limit = missingLimitPreset
	}
	limit := min(ask.Limit, missingLimitMost)
	w := newWalk(r)
	for _, id := range ask.Until {
		w.seen[id] = true
	}
	first := make(map[spec.EventID]bool, len(ask.From))
	for _, id := range ask.From {
		first[id] = true
		delete(w.seen, id)
	}
	if err := w.add(ask.From); err != nil {
		return nil, err
	}
	var rows []*storage.EventRow
	for len(w.open) > 0 && len(rows) < limit {
		row := w.open[0]
		w.open = w.open[1:]
		if !first[row.Event.ID] {
			if row.Event.Depth < ask.MinDepth {
				continue
			}
			if row.Kind == storage.StateRoot {
				rows = append(rows, row)
			}
		}
		if err := w.add(row.Event.Prev); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(rows, func(a, b *storage.EventRow) int {
		return cmp.Or(cmp.Compare(a.Event.Depth, b.Event.Depth), cmp.Compare(a.NID, b.NID))
	})
	return newServerSight(r, ask.Origin).censored(ctx, rows)
}

// historyWalk goes from events to their predecessors, as far as they are known.
type historyWalk struct {
	store *roomStore
	seen  map[spec.EventID]bool
	open  []*storage.EventRow
}

func newWalk(r *room) *historyWalk {
	return &historyWalk{store: r.store(), seen: map[spec.EventID]bool{}}
}

// add opens those of the events that are known and new to the walk.
func (w *historyWalk) add(ids []spec.EventID) error {
	for _, id := range ids[:min(len(ids), historyFromMost)] {
		if w.seen[id] {
			continue
		}
		w.seen[id] = true
		row, err := w.store.EventByID(id)
		if err != nil {
			return err
		}
		if row != nil && row.Kind != storage.StateWaiting {
			w.open = append(w.open, row)
		}
	}
	return nil
}

// serverSight judges which events of a room a server may see.
// Spec: client-server-api#room-history-visibility
type serverSight struct {
	room   *room
	origin spec.ServerName
	users  []spec.UserID // of the server, loaded when first needed
	loaded bool
	// byRoot remembers what was found out about events that change nothing.
	byRoot map[spec.Hash]bool
}

func newServerSight(r *room, origin spec.ServerName) *serverSight {
	return &serverSight{room: r, origin: origin, byRoot: map[spec.Hash]bool{}}
}

// censored returns the events, redacted where the server may not see them: the
// graph stays whole, and redaction does not touch ids and signatures.
func (s *serverSight) censored(ctx context.Context, rows []*storage.EventRow) ([]*spec.Event, error) {
	out := make([]*spec.Event, 0, len(rows))
	for _, row := range rows {
		ev := row.Event
		visible, err := s.sees(ctx, row)
		if err != nil {
			return nil, err
		}
		if !visible {
			if ev, err = ev.Redact(); err != nil {
				return nil, err
			}
		}
		out = append(out, ev)
	}
	return out, nil
}

func (s *serverSight) sees(ctx context.Context, row *storage.EventRow) (bool, error) {
	ev := row.Event
	if row.Kind != storage.StateRoot {
		return ev.IsState(), nil // of an auth chain, which every member may need
	}
	plain := !ev.StateKeyIs(spec.TypeHistoryVisibility, "") && !(ev.Type == spec.TypeMember && ev.IsState())
	if visible, known := s.byRoot[row.Before]; plain && known {
		return visible, nil
	}
	before, err := s.room.stateOf(row.Before, spec.StateKey{Type: spec.TypeHistoryVisibility})
	if err != nil {
		return false, err
	}
	view := spec.RoomView{}.After(before, "")
	after := view.After(ev, "")
	visible := spec.VisibleToServer(view.Visibility, after.Visibility, nil)
	if !visible {
		members, err := s.memberships(ctx, row)
		if err != nil {
			return false, err
		}
		visible = spec.VisibleToServer(view.Visibility, after.Visibility, members)
	}
	if plain {
		s.byRoot[row.Before] = visible
	}
	return visible, nil
}

// memberships lists those of the server's users before and after the event.
func (s *serverSight) memberships(ctx context.Context, row *storage.EventRow) ([]string, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	var out []string
	for _, user := range s.users {
		member, err := s.room.stateOf(row.Before, spec.StateKey{Type: spec.TypeMember, Key: string(user)})
		if err != nil {
			return nil, err
		}
		view := spec.RoomView{}.After(member, user)
		out = append(out, view.Membership, view.After(row.Event, user).Membership)
	}
	return out, nil
}

func (s *serverSight) load(ctx context.Context) error {
	if s.loaded {
		return nil
	}
	s.loaded = true
	return s.room.rooms.db.Read(ctx, func(tx *storage.Tx) error {
		members, err := tx.Members(s.room.nid)
		for _, m := range members {
			if m.User.Server() == s.origin {
				s.users = append(s.users, m.User)
			}
		}
		return err
	})
}
