package roomcore

import (
	"errors"
	"fmt"

	"atoll/spec"
	"atoll/storage"
)

// Status is what became of an event that came from another server.
type Status uint8

const (
	// Accepted events are in the room, in its state if they are state.
	Accepted Status = iota + 1
	// SoftFailed events are in the graph, but neither told to clients nor
	// referred to by new events. Spec: server-server-api#soft-failure.
	SoftFailed
	// Rejected events are kept only so that they are not asked for again.
	// Spec: server-server-api#rejection.
	Rejected
	// Waiting events lack ancestors or auth events; no verdict is possible yet.
	Waiting
)

// Verdict is the outcome of the checks on one event.
type Verdict struct {
	Status Status
	Reason string // why it was rejected or soft-failed
	// Seq is reached by Committed when the verdict is durable; 0 when it
	// already was.
	Seq uint64
	Row *storage.EventRow // nil while waiting
}

// Place is where a foreign event enters the room.
type Place struct {
	Live bool // new: it may become an extremity and is told to clients; else it is history
	Ours bool // a join, leave or knock completed through us, ours to send on
	// Before, when set, is the state before the event as another server told
	// it, for an event whose predecessors we lack.
	Before *spec.Hash
}

// missing lists what keeps the event from being checked.
type missing struct {
	auth []spec.EventID
	prev []spec.EventID // unknown, or known without their state
}

func (m missing) none() bool { return len(m.auth) == 0 && len(m.prev) == 0 }

func (c *Core) lacks(ev *spec.Event) (missing, error) {
	var m missing
	var err error
	if m.auth, err = c.lacksAuth(ev); err != nil {
		return m, err
	}
	for _, id := range ev.Prev {
		row, err := c.Event(id)
		if err != nil {
			return m, err
		}
		if row == nil || row.Kind != storage.StateRoot {
			m.prev = append(m.prev, id)
		}
	}
	return m, nil
}

// Insert runs the checks on receipt, from the authorization by the event's own
// auth events on, for a parsed event whose signatures hold. All that it refers
// to must be known (Inbound sees to that), or Place.Before be given. An event
// that was judged before gets the same verdict again.
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu.
func (c *Core) Insert(ev *spec.Event, at Place) (Verdict, error) {
	known, err := c.Event(ev.ID)
	if err != nil {
		return Verdict{}, err
	}
	if known != nil && known.Kind == storage.StateRoot {
		return verdictOf(known, c.durableAt(known)), nil
	}
	if known != nil && known.Rejected != "" && at.Before == nil {
		// It can get its place, for those that follow it, where that is known.
		if m, err := c.lacks(ev); err != nil || len(m.prev) > 0 {
			return verdictOf(known, c.durableAt(known)), err
		}
	}
	before, err := c.stateBefore(ev, at)
	if err != nil {
		return Verdict{}, err
	}
	a := accepted{event: ev, before: before, live: at.Live, ours: at.Ours, gap: at.Before != nil && len(ev.Prev) > 0}
	if a.afterGap, err = c.breaksTimeline(ev, at); err != nil {
		return Verdict{}, err
	}
	if known != nil {
		a.rejected = known.Rejected // final, though the event now gets its place
	}
	if a.rejected == "" {
		if a.rejected, err = c.refusal(ev, before); err != nil {
			return Verdict{}, err
		}
	}
	if a.rejected == "" && at.Live {
		soft, err := authRefusal(spec.Authorize(ev, c.stateReader(c.head.Root)))
		if err != nil {
			return Verdict{}, err
		}
		a.soft = soft != ""
		if a.soft {
			row, seq, err := c.add(a)
			return Verdict{Status: SoftFailed, Reason: soft, Seq: seq, Row: row}, c.spoiled(err)
		}
	}
	row, seq, err := c.add(a)
	if err != nil {
		return Verdict{}, c.spoiled(err)
	}
	return verdictOf(row, seq), nil
}

// durableAt returns the sequence number by which a known event is surely
// durable; 0 if it is.
func (c *Core) durableAt(row *storage.EventRow) uint64 {
	if c.newEvents[row.NID] == nil || c.done == c.seq {
		return 0
	}
	return c.seq
}

func verdictOf(row *storage.EventRow, seq uint64) Verdict {
	v := Verdict{Status: Accepted, Reason: row.Rejected, Seq: seq, Row: row}
	switch {
	case row.Rejected != "":
		v.Status = Rejected
	case row.SoftFailed:
		v.Status = SoftFailed
	}
	return v
}

// stateBefore resolves the states after the event's predecessors.
func (c *Core) stateBefore(ev *spec.Event, at Place) (spec.Hash, error) {
	if at.Before != nil {
		return *at.Before, nil
	}
	if c.followsHead(ev) {
		return c.head.Root, nil
	}
	roots := make([]spec.Hash, 0, len(ev.Prev))
	for _, id := range ev.Prev {
		row, err := c.Event(id)
		if err != nil {
			return spec.Hash{}, err
		}
		if row == nil || row.Kind != storage.StateRoot {
			return spec.Hash{}, fmt.Errorf("no state after %s, which %s follows", id, ev.ID)
		}
		roots = append(roots, row.After)
	}
	return c.resolve(roots)
}

// followsHead reports whether the event names exactly the head's extremities, so
// that the state before it is the current one.
func (c *Core) followsHead(ev *spec.Event) bool {
	if len(ev.Prev) != len(c.head.Extremities) {
		return false
	}
	for _, e := range c.head.Extremities {
		found := false
		for _, id := range ev.Prev {
			found = found || id == e.ID
		}
		if !found {
			return false
		}
	}
	return true
}

// breaksTimeline reports whether clients lack something between what they were
// told last and this event, because a predecessor never came as a new event.
func (c *Core) breaksTimeline(ev *spec.Event, at Place) (bool, error) {
	if !at.Live || len(ev.Prev) == 0 {
		return false, nil
	}
	if at.Before != nil {
		return true, nil
	}
	for _, id := range ev.Prev {
		row, err := c.Event(id)
		if err != nil {
			return false, err
		}
		told := row.Pos > 0 || c.newLive[row.NID] || row.SoftFailed || row.Rejected != ""
		if !told {
			return true, nil
		}
	}
	return false, nil
}

// refusal returns why the event is rejected, by its auth events or by the state
// before it; "" if it is not.
func (c *Core) refusal(ev *spec.Event, before spec.Hash) (string, error) {
	reason, err := c.authRefusalOf(ev)
	if err != nil || reason != "" {
		return reason, err
	}
	return c.refusalBy(ev, before)
}

// refusalBy returns why the event is refused by a state; "" if it is not.
func (c *Core) refusalBy(ev *spec.Event, root spec.Hash) (string, error) {
	return authRefusal(spec.Authorize(ev, c.stateReader(root)))
}

// secondCreate refuses a create event for a room that has one: the rules look at
// the create event alone, so that each would pass.
func (c *Core) secondCreate(ev *spec.Event) (string, error) {
	if ev.Type != spec.TypeCreate || !ev.IsState() || c.createNID == 0 {
		return "", nil
	}
	row, err := c.eventByNID(c.createNID)
	if err != nil || row.Event.ID == ev.ID {
		return "", err
	}
	return "the room has another create event", nil
}

// authRefusalOf checks the event by its own auth events alone.
func (c *Core) authRefusalOf(ev *spec.Event) (string, error) {
	if c.citesForeign(ev) {
		return "an auth event is of another room", nil
	}
	if reason, err := c.secondCreate(ev); err != nil || reason != "" {
		return reason, err
	}
	events := make([]*spec.Event, 0, len(ev.Auth))
	state := map[spec.StateKey]*spec.Event{}
	for _, id := range ev.Auth {
		row, err := c.Event(id)
		if err != nil {
			return "", err
		}
		if row == nil {
			return "", fmt.Errorf("auth event %s of %s is missing", id, ev.ID)
		}
		events = append(events, row.Event)
		if row.Event.IsState() {
			state[row.Event.Key()] = row.Event
		}
	}
	if reason, err := authRefusal(spec.CheckAuthEvents(ev, events, c.rejected)); err != nil || reason != "" {
		return reason, err
	}
	create, err := c.createFor(ev, state)
	if err != nil {
		return "", err
	}
	return authRefusal(spec.Authorize(ev, func(key spec.StateKey) (*spec.Event, error) {
		if key.Type == "m.room.create" && key.Key == "" && create != nil {
			return create, nil
		}
		return state[key], nil
	}))
}

// createFor returns the create event where the room version implies it instead
// of listing it. Spec: rooms/v12#authorisation-rules 2.
func (c *Core) createFor(ev *spec.Event, listed map[spec.StateKey]*spec.Event) (*spec.Event, error) {
	if !c.cfg.Rules.RoomIDIsCreateHash || ev.Type == "m.room.create" {
		return listed[spec.StateKey{Type: "m.room.create"}], nil
	}
	row, err := c.Event(c.cfg.Room.CreateEvent())
	if err != nil || row == nil || row.Rejected != "" {
		return nil, err
	}
	return row.Event, nil
}

// authRefusal splits what the rules refuse from what went wrong.
func authRefusal(err error) (string, error) {
	if refused := (*spec.AuthError)(nil); errors.As(err, &refused) {
		return refused.Error(), nil
	}
	return "", err
}

// InsertOutlier keeps an event of an auth chain or of a foreign state, without a
// place in the room's graph. It must be known to belong to the room, its
// signatures hold, and its auth events be known. A rejected one is kept as such.
func (c *Core) InsertOutlier(ev *spec.Event) (Verdict, error) {
	known, err := c.Event(ev.ID)
	if err != nil {
		return Verdict{}, err
	}
	if usable(known) {
		return verdictOf(known, c.durableAt(known)), nil
	}
	reason, err := c.authRefusalOf(ev)
	if err != nil {
		return Verdict{}, err
	}
	d := &delta{rootFrom: c.head.Root}
	row, err := c.newRow(accepted{event: ev, rejected: reason}, d)
	if err != nil {
		return Verdict{}, err
	}
	row.Kind = storage.StateNone
	c.enqueue(d, row, c.head)
	return verdictOf(row, d.seq), nil
}

// ForeignState returns the root of a state that another server told, made of
// events that are known here. Rejected events are left out. Only the difference
// from the current state is written.
func (c *Core) ForeignState(ids []spec.EventID) (spec.Hash, error) {
	told := make(map[spec.Hash]spec.Leaf, len(ids))
	for _, id := range ids {
		row, err := c.Event(id)
		if err != nil {
			return spec.Hash{}, err
		}
		if row == nil {
			return spec.Hash{}, fmt.Errorf("state event %s is missing", id)
		}
		if row.Rejected != "" || !row.Event.IsState() {
			continue
		}
		leaf := spec.NewLeaf(row.Event.Key(), id, row.StateKeyNID, row.NID)
		told[leaf.Path] = leaf
	}
	var changes []spec.Change
	err := spec.Walk(c, c.head.Root, func(leaf spec.Leaf) error {
		now, ok := told[leaf.Path]
		switch {
		case !ok:
			changes = append(changes, spec.Change{Leaf: leaf, Delete: true})
		case now.Event != leaf.Event:
			changes = append(changes, spec.Change{Leaf: now})
		}
		delete(told, leaf.Path)
		return nil
	})
	if err != nil {
		return spec.Hash{}, err
	}
	for _, leaf := range told {
		changes = append(changes, spec.Change{Leaf: leaf})
	}
	return c.apply(c.head.Root, changes)
}
