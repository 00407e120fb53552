package storage

import (
	"fmt"
	"slices"

	"atoll/spec"
)

const eventColumns = `e.nid, e.room_nid, e.event_id, e.kind, e.before_root, e.after_root, e.rejected, e.soft_failed,
	e.state_key_nid, e.pos, e.redacted_by, e.json`

var (
	selectEvent        = query(`SELECT ` + eventColumns + ` FROM events e WHERE e.event_id = $1 AND e.room_nid = $2`)
	selectEventAnyRoom = query(`SELECT ` + eventColumns + ` FROM events e WHERE e.event_id = $1 ORDER BY e.nid LIMIT 1`)
	selectEventsByIDs  = query(`SELECT ` + eventColumns + ` FROM events e WHERE e.event_id = ANY($1::text[]) AND e.room_nid = $2`)
	selectEventsByNIDs = query(`SELECT ` + eventColumns + ` FROM events e WHERE e.nid = ANY($1::bigint[])`)
	selectUnsettled    = query(`SELECT ` + eventColumns + ` FROM events e
		WHERE e.room_nid = $1 AND e.kind > 2 AND e.kind = $2 AND e.nid > $3 ORDER BY e.nid LIMIT $4`)
	selectEventsByPos = query(`SELECT ` + eventColumns + ` FROM log l JOIN events e ON e.nid = l.event_nid
		WHERE l.room_nid = $1 AND l.kind = 1 AND l.pos > $2 AND l.pos <= $3 ORDER BY l.pos DESC LIMIT $4`)
)

// EventByID returns an event of a room; ErrNotFound if it is not stored. The
// kind, Rejected and SoftFailed tell whether it may be shown.
func (tx *Tx) EventByID(roomNID int64, id spec.EventID) (EventRow, error) {
	return tx.event(selectEvent, string(id), roomNID)
}

// EventByIDAnyRoom returns the event with this id of whatever room: of the one
// stored first where several rooms of versions 1 or 2 have the id.
func (tx *Tx) EventByIDAnyRoom(id spec.EventID) (EventRow, error) {
	return tx.event(selectEventAnyRoom, string(id))
}

// EventsByIDs returns events of a room in the order of the ids; those that are
// not stored are left out.
func (tx *Tx) EventsByIDs(roomNID int64, ids []spec.EventID) ([]EventRow, error) {
	var out []EventRow
	for part := range slices.Chunk(ids, listMax) {
		found, err := tx.events(selectEventsByIDs, part, roomNID)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return inOrder(out, ids, func(e *EventRow) spec.EventID { return e.Event.ID }), nil
}

// EventsByNIDs returns events by local id, in the order of the ids; those that
// are not stored are left out.
func (tx *Tx) EventsByNIDs(nids []int64) ([]EventRow, error) {
	var out []EventRow
	for part := range slices.Chunk(nids, listMax) {
		found, err := tx.events(selectEventsByNIDs, part)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return inOrder(out, nids, func(e *EventRow) int64 { return e.NID }), nil
}

// Unsettled returns events of a room whose kind is StateWaiting or
// StatePartial, by local id from after on, at most limit.
func (tx *Tx) Unsettled(roomNID int64, kind StateKind, after int64, limit int) ([]EventRow, error) {
	return tx.events(selectUnsettled, roomNID, kind, after, limit)
}

// EventsByPos returns the events that the log announced in a room with
// after < position ≤ upTo, newest first, at most limit.
func (tx *Tx) EventsByPos(roomNID, after, upTo int64, limit int) ([]EventRow, error) {
	return tx.events(selectEventsByPos, roomNID, after, upTo, limit)
}

// inOrder sorts rows as their keys stand in order.
func inOrder[T any, K comparable](found []T, order []K, key func(*T) K) []T {
	if len(found) < 2 {
		return found
	}
	at := make(map[K]int, len(order))
	for i, k := range order {
		at[k] = i
	}
	slices.SortFunc(found, func(a, b T) int { return at[key(&a)] - at[key(&b)] })
	return found
}

// rawEvent is an event's row before its JSON is read.
type rawEvent struct {
	row  EventRow
	id   spec.EventID
	json []byte
}

func (tx *Tx) event(s *stmt, args ...any) (EventRow, error) {
	rows, err := tx.events(s, args...)
	if err == nil && len(rows) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return EventRow{}, err
	}
	return rows[0], nil
}

// events runs a query for eventColumns. The events are read after the query is
// at its end, as that may need another.
func (tx *Tx) events(s *stmt, args ...any) ([]EventRow, error) {
	var raw []rawEvent
	err := tx.each(s, args, func(r *rows) error {
		raw = append(raw, rawEvent{})
		e := &raw[len(raw)-1]
		return e.scan(r)
	})
	if err != nil {
		return nil, err
	}
	out := make([]EventRow, len(raw))
	var facts roomFacts
	for i := range raw {
		e := &raw[i]
		if i == 0 || e.row.RoomNID != raw[i-1].row.RoomNID {
			if facts, err = tx.roomFacts(e.row.RoomNID); err != nil {
				return nil, err
			}
		}
		if e.row.Event, err = spec.LoadEvent(facts.rules, e.id, e.json); err != nil {
			return nil, fmt.Errorf("stored event %s: %w", e.id, err)
		}
		out[i] = e.row
	}
	return out, nil
}

func (e *rawEvent) scan(r *rows) error {
	row := &e.row
	err := r.scan(&row.NID, &row.RoomNID, &e.id, (*uint8)(&row.Kind), &row.Before, &row.After, &row.Rejected, &row.SoftFailed,
		&row.StateKeyNID, &row.Pos, &row.RedactedBy, &e.json)
	if row.After == (spec.Hash{}) {
		row.After = row.Before
	}
	return err
}

// EventStatus is what this server found out about an event, without the event.
type EventStatus struct {
	NID           int64
	ID            spec.EventID
	Kind          StateKind
	Before, After spec.Hash
	Rejected      bool
	SoftFailed    bool
	StateKeyNID   int64
	Pos           int64
}

const statusColumns = `e.nid, e.event_id, e.kind, e.before_root, e.after_root, e.rejected IS NOT NULL, e.soft_failed, e.state_key_nid, e.pos`

var (
	selectStatusByIDs  = query(`SELECT ` + statusColumns + ` FROM events e WHERE e.event_id = ANY($1::text[]) AND e.room_nid = $2`)
	selectStatusByNIDs = query(`SELECT ` + statusColumns + ` FROM events e WHERE e.nid = ANY($1::bigint[])`)
	selectSuccessors   = query(`SELECT d.prev_id, ` + statusColumns + ` FROM event_edges d JOIN events e ON e.nid = d.event_nid
		WHERE d.room_nid = $1 AND d.prev_id = ANY($2::text[]) ORDER BY e.nid`)
	selectEventIDs = query(`SELECT nid, event_id FROM events WHERE nid = ANY($1::bigint[])`)
)

func (s *EventStatus) dest() []any {
	return []any{&s.NID, &s.ID, (*uint8)(&s.Kind), &s.Before, &s.After, &s.Rejected, &s.SoftFailed, &s.StateKeyNID, &s.Pos}
}

func (s *EventStatus) settle() {
	if s.After == (spec.Hash{}) {
		s.After = s.Before
	}
}

// EventStatuses returns the status of those of the events of a room that are
// stored.
func (tx *Tx) EventStatuses(roomNID int64, ids []spec.EventID) (map[spec.EventID]EventStatus, error) {
	out := make(map[spec.EventID]EventStatus, len(ids))
	for part := range slices.Chunk(ids, listMax) {
		err := tx.each(selectStatusByIDs, []any{part, roomNID}, func(r *rows) error {
			var s EventStatus
			if err := r.scan(s.dest()...); err != nil {
				return err
			}
			s.settle()
			out[s.ID] = s
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// EventStatusesByNID is EventStatuses by local id.
func (tx *Tx) EventStatusesByNID(nids []int64) (map[int64]EventStatus, error) {
	out := make(map[int64]EventStatus, len(nids))
	for part := range slices.Chunk(nids, listMax) {
		err := tx.each(selectStatusByNIDs, []any{part}, func(r *rows) error {
			var s EventStatus
			if err := r.scan(s.dest()...); err != nil {
				return err
			}
			s.settle()
			out[s.NID] = s
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// MissingEvents returns those of the ids that are not stored in a room, in
// their order.
func (tx *Tx) MissingEvents(roomNID int64, ids []spec.EventID) ([]spec.EventID, error) {
	known, err := tx.EventStatuses(roomNID, ids)
	if err != nil {
		return nil, err
	}
	var out []spec.EventID
	for _, id := range ids {
		if _, ok := known[id]; !ok {
			out = append(out, id)
		}
	}
	return out, nil
}

// EventIDs returns the ids of events by local id; those that are not stored
// are left out.
func (tx *Tx) EventIDs(nids []int64) (map[int64]spec.EventID, error) {
	out := make(map[int64]spec.EventID, len(nids))
	for part := range slices.Chunk(nids, listMax) {
		err := tx.each(selectEventIDs, []any{part}, func(r *rows) error {
			var nid int64
			var id spec.EventID
			if err := r.scan(&nid, &id); err != nil {
				return err
			}
			out[nid] = id
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Successor is an event that names another among its prev_events.
type Successor struct {
	Prev spec.EventID // the event that is named
	EventStatus
}

// Successors returns the stored events of a room, outliers and waiting ones
// aside, that name any of the ids among their prev_events, by local id.
func (tx *Tx) Successors(roomNID int64, ids []spec.EventID) ([]Successor, error) {
	var out []Successor
	for part := range slices.Chunk(ids, listMax) {
		err := tx.each(selectSuccessors, []any{roomNID, part}, func(r *rows) error {
			var s Successor
			if err := r.scan(append([]any{&s.Prev}, s.dest()...)...); err != nil {
				return err
			}
			s.settle()
			out = append(out, s)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// AuthNode is a state event in the graph of auth events of its room.
type AuthNode struct {
	NID, StateKeyNID int64
	Auth             []int64 // nids of its auth events
}

var (
	selectAuthGraph = query(`SELECT event_nid, state_key_nid, auth_nids FROM event_auth WHERE room_nid = $1 ORDER BY event_nid`)
	selectAuthNodes = query(`SELECT event_nid, state_key_nid, auth_nids FROM event_auth WHERE room_nid = $1 AND event_nid = ANY($2::bigint[])`)
)

// AuthGraph calls fn for every state event of a room that does not wait, by
// local id. fn must not use the transaction.
func (tx *Tx) AuthGraph(roomNID int64, fn func(AuthNode) error) error {
	return tx.authNodes(fn, selectAuthGraph, roomNID)
}

// AuthNodes is AuthGraph for some events; those that are not stored are left
// out.
func (tx *Tx) AuthNodes(roomNID int64, nids []int64) ([]AuthNode, error) {
	var out []AuthNode
	for part := range slices.Chunk(nids, listMax) {
		err := tx.authNodes(func(n AuthNode) error {
			out = append(out, n)
			return nil
		}, selectAuthNodes, roomNID, part)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (tx *Tx) authNodes(fn func(AuthNode) error, s *stmt, args ...any) error {
	return tx.each(s, args, func(r *rows) error {
		var n AuthNode
		var list string
		if err := r.scan(&n.NID, &n.StateKeyNID, &list); err != nil {
			return err
		}
		var err error
		if n.Auth, err = decodeNIDs(list); err != nil {
			return err
		}
		return fn(n)
	})
}
