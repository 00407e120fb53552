package server

import (
	"context"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// ReadContext asks for what stands around an event.
type ReadContext struct {
	Room   spec.RoomID
	User   spec.UserID
	Device string
	Event  spec.EventID
	Limit  int // of events before and after together
	Filter *RoomEventFilter
}

// EventContext is what stands around an event.
type EventContext struct {
	Event         ClientEvent
	Before, After []ClientEvent // newest first; oldest first
	State         []ClientEvent // at the last of the events
	Start, End    string
}

// Context returns an event with its neighbours; M_NOT_FOUND if the user may not
// see it. Spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
func (rs *Rooms) Context(ctx context.Context, req ReadContext) (*EventContext, error) {
	if req.Filter == nil {
		req.Filter = &RoomEventFilter{}
	}
	if err := rs.knowTxns(ctx, req.User, req.Device); err != nil {
		return nil, err
	}
	var out *EventContext
	gen := rs.cache.generation()
	err := rs.db.Read(ctx, func(tx *storage.Tx) error {
		src := &source{rooms: rs, ctx: ctx, tx: tx, gen: gen}
		a, err := src.look(req.Room, req.User, req.Device)
		if err != nil {
			return err
		}
		row, err := a.visibleEvent(req.Event)
		if err != nil {
			return err
		}
		if !row.InTimeline() {
			return errNoEvent(nil)
		}
		out, err = a.context(req, row)
		return err
	})
	return out, err
}

func (a *roomAccess) context(req ReadContext, row *storage.EventRow) (*EventContext, error) {
	rules, err := readUserRules(a.src.tx, req.User)
	if err != nil {
		return nil, err
	}
	out := &EventContext{Before: []ClientEvent{}, After: []ClientEvent{}, State: []ClientEvent{}}
	if out.Event, err = a.client(row); err != nil {
		return nil, err
	}
	limit := min(max(req.Limit, 0), messagesMost)
	before := &messagePage{req: Messages{Back: true, Filter: req.Filter}, limit: limit / 2, at: timelineBefore(row.Key())}
	after := &messagePage{req: Messages{Filter: req.Filter}, limit: limit - limit/2, at: timelineAfter(row.Key())}
	last := row
	senders := map[spec.UserID]bool{row.Event.Sender: true}
	for _, p := range []*messagePage{before, after} {
		p.senders, p.ignored = senders, rules.ignored
		p.taken = func(row *storage.EventRow) {
			senders[row.Event.Sender] = true
			if row.Key().Compare(last.Key()) > 0 {
				last = row
			}
		}
		for !p.over && len(p.chunk) < p.limit && p.scanned < pageScanMost {
			if err := p.piece(a); err != nil {
				return nil, err
			}
			if p.gap != nil { // other servers are not asked for this
				p.skipGap, p.gap = p.gap.Key, nil
			}
		}
	}
	out.Before, out.After = append(out.Before, before.chunk...), append(out.After, after.chunk...)
	out.Start, out.End = before.at.String(), after.at.String()
	out.State, err = a.stateFor(last.After, req.Filter, senders)
	return out, err
}

// stateFor returns a state as far as a filter lets it pass; of lazily loaded
// members only those given.
func (a *roomAccess) stateFor(root spec.Hash, filter *RoomEventFilter, members map[spec.UserID]bool) ([]ClientEvent, error) {
	var nids []int64
	if filter.LazyLoadMembers {
		leaves, err := a.src.stateWithoutMembers(a.room, root)
		if err != nil {
			return nil, err
		}
		for _, l := range leaves {
			nids = append(nids, l.Event)
		}
		for user := range members {
			nid, err := a.src.stateNID(a.room, root, spec.StatePath(memberKeyOf(user)))
			if err != nil {
				return nil, err
			}
			if nid != 0 {
				nids = append(nids, nid)
			}
		}
	} else {
		err := spec.Walk(a.src.nodes(a.room), root, func(l spec.Leaf) error {
			nids = append(nids, l.Event)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(nids)
	rows, err := a.src.events(nids)
	if err != nil {
		return nil, err
	}
	out := make([]ClientEvent, 0, len(rows))
	for _, row := range rows {
		if row != nil && filter.MatchEvent(row.Event) {
			out = append(out, row.Event.AppendClient(nil, spec.ClientFormat{}))
		}
	}
	return out, nil
}
