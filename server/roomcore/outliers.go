package roomcore

import (
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// insertOutliers keeps those of the events whose auth events are known or are
// kept with them; the others are dropped. Its work grows with the number of
// auth references, in whatever order a peer has put the events.
func (c *Core) insertOutliers(events []*spec.Event) error {
	if err := c.meetKeys(events); err != nil {
		return err
	}
	set := make(map[spec.EventID]*spec.Event, len(events))
	for _, ev := range events {
		if ev.Room == c.cfg.Room { // else a peer has no business to send it
			set[ev.ID] = ev
		}
	}
	open := map[spec.EventID]int{}             // how many auth events an event still lacks
	behind := map[spec.EventID][]*spec.Event{} // who lacks it
	ready := make([]*spec.Event, 0, len(events))
	for _, ev := range set {
		lacks, err := c.lacksAuth(ev)
		if err != nil {
			return err
		}
		for _, id := range lacks {
			behind[id] = append(behind[id], ev)
		}
		if open[ev.ID] = len(lacks); len(lacks) == 0 {
			ready = append(ready, ev)
		}
	}
	slices.SortFunc(ready, func(a, b *spec.Event) int { return compareIDs(a.ID, b.ID) })
	for len(ready) > 0 {
		ev := ready[0]
		ready = ready[1:]
		if _, err := c.InsertOutlier(ev); err != nil {
			return err
		}
		for _, next := range behind[ev.ID] {
			if open[next.ID]--; open[next.ID] == 0 {
				ready = append(ready, next)
			}
		}
	}
	return nil
}

func compareIDs(a, b spec.EventID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// lacksAuth lists the distinct auth events that the room does not know.
func (c *Core) lacksAuth(ev *spec.Event) ([]spec.EventID, error) {
	needs := ev.Auth
	if c.cfg.Rules.RoomIDIsCreateHash && !ev.StateKeyIs(spec.TypeCreate, "") {
		// The create event is not listed, but needed. Spec: rooms/v12#event-format
		needs = append(slices.Clip(needs), c.cfg.Room.CreateEvent())
	}
	var ids []spec.EventID
	for _, id := range needs {
		row, err := c.Event(id)
		if err != nil {
			return nil, err
		}
		if !usable(row) && !c.foreign[id] && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// foreignLimit bounds the events of other rooms that one room remembers.
const foreignLimit = 1000

// noteForeign remembers an event that turned out to be of another room.
func (c *Core) noteForeign(id spec.EventID) {
	if len(c.foreign) >= foreignLimit {
		clear(c.foreign)
	}
	c.foreign[id] = true
}

// citesForeign reports whether an auth event is known to be of another room.
func (c *Core) citesForeign(ev *spec.Event) bool {
	return len(c.foreign) > 0 && slices.ContainsFunc(ev.Auth, func(id spec.EventID) bool { return c.foreign[id] })
}

// usable reports whether an event can be referred to: it is known, and more than
// an invite that came before the room.
func usable(row *storage.EventRow) bool { return row != nil && row.Kind != storage.StateWaiting }

// meetKeys asks for the numbers of all state keys of the events at once.
func (c *Core) meetKeys(events []*spec.Event) error {
	var keys []spec.StateKey
	for _, ev := range events {
		if ev.IsState() {
			if _, met := c.keyNIDs[ev.Key()]; !met {
				keys = append(keys, ev.Key())
			}
		}
	}
	if len(keys) < 2 {
		return nil
	}
	slices.SortFunc(keys, compareKeys)
	rows, err := c.cfg.Store.StateKeyRows(slices.Compact(keys))
	if err != nil {
		return err
	}
	for _, row := range rows {
		c.keyNIDs[row.Key] = row.NID
		if row.New {
			c.newKeys[row.NID] = row.Key
		}
	}
	return nil
}

func compareKeys(a, b spec.StateKey) int {
	if n := compareIDs(spec.EventID(a.Type), spec.EventID(b.Type)); n != 0 {
		return n
	}
	return compareIDs(spec.EventID(a.Key), spec.EventID(b.Key))
}

// Join is what a resident server answered to a join through it.
type Join struct {
	Event *spec.Event   // the join, signed by all who must
	State []*spec.Event // the state before it
	Auth  []*spec.Event // the auth chains of the state and of the join
}

// Join puts the room where the answer to a join says it is: the state before
// the join is the one that was told, as far as its events pass their checks, and
// the join is the only extremity. For a room that was left earlier the old
// graph stays, with a gap before the join.
// Spec: server-server-api#joining-rooms.
func (c *Core) Join(j Join) (Verdict, error) {
	if err := c.insertOutliers(append(slices.Clone(j.Auth), j.State...)); err != nil {
		return Verdict{}, c.spoiled(err)
	}
	ids := make([]spec.EventID, 0, len(j.State))
	for _, ev := range j.State {
		if row, err := c.Event(ev.ID); err != nil {
			return Verdict{}, c.spoiled(err)
		} else if row != nil {
			ids = append(ids, ev.ID)
		}
	}
	root, err := c.ForeignState(ids)
	if err != nil {
		return Verdict{}, c.spoiled(err)
	}
	lacks, err := c.lacksAuth(j.Event)
	if err != nil {
		return Verdict{}, c.spoiled(err)
	}
	if len(lacks) > 0 {
		return Verdict{Status: Waiting, Reason: "the answer lacks auth events of the join"}, nil
	}
	reason, err := c.refusal(j.Event, root)
	if err != nil {
		return Verdict{}, c.spoiled(err)
	}
	if reason != "" {
		return Verdict{Status: Rejected, Reason: reason}, nil
	}
	if c.ServerJoined(c.cfg.Server) {
		// Somebody of this server is in the room already: what happened since
		// the answer was made stays.
		at := Place{Live: true, Ours: true, Before: &root}
		if lacks, err := c.lacks(j.Event); err != nil {
			return Verdict{}, c.spoiled(err)
		} else if lacks.none() {
			at.Before = nil
		}
		return c.Insert(j.Event, at)
	}
	row, seq, err := c.add(accepted{
		event: j.Event, before: root, live: true, ours: true, gap: true, afterGap: true, reset: true,
	})
	if err != nil {
		return Verdict{}, c.spoiled(err)
	}
	return verdictOf(row, seq), nil
}
