package roomcore

import (
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// History is older events that another server gave for a gap in the timeline.
type History struct {
	Gap    spec.EventID // the event before which the gap is
	Events []*spec.Event
	// States are the ids of the state before those events whose predecessors
	// are neither here nor among Events; Known are events that these need.
	States map[spec.EventID][]spec.EventID
	Known  []*spec.Event
}

// Anchors returns the events of which the state before has to be asked for,
// because some predecessor is neither known nor among them, oldest first.
func (c *Core) Anchors(events []*spec.Event) ([]spec.EventID, error) {
	among := make(map[spec.EventID]bool, len(events))
	for _, ev := range events {
		among[ev.ID] = true
	}
	var anchors []spec.EventID
	for _, ev := range byDepth(events) {
		placed, err := c.placed(ev.ID)
		if err != nil {
			return nil, err
		}
		if placed {
			continue
		}
		for _, id := range ev.Prev {
			known, err := c.placed(id)
			if err != nil {
				return nil, err
			}
			if !known && !among[id] {
				anchors = append(anchors, ev.ID)
				break
			}
		}
	}
	return anchors, nil
}

// placed reports whether the event has its place in the graph.
func (c *Core) placed(id spec.EventID) (bool, error) {
	row, err := c.Event(id)
	return row != nil && row.Kind == storage.StateRoot, err
}

func byDepth(events []*spec.Event) []*spec.Event {
	out := slices.Clone(events)
	slices.SortStableFunc(out, func(a, b *spec.Event) int {
		switch {
		case a.Depth < b.Depth:
			return -1
		case a.Depth > b.Depth:
			return 1
		}
		return compareIDs(a.ID, b.ID)
	})
	return out
}

// InsertHistory puts older events into the timeline, without a position in the
// log: clients find them by paging back. What cannot be placed is left out. It
// closes the gap if all that precedes its event is known now.
// Spec: server-server-api#backfilling-and-retrieving-missing-events.
func (c *Core) InsertHistory(h History) (uint64, error) {
	if err := c.insertOutliers(h.Known); err != nil {
		return 0, c.spoiled(err)
	}
	for _, ev := range byDepth(h.Events) {
		place, ok, err := c.placeOfHistory(ev, h.States)
		if err != nil {
			return 0, c.spoiled(err)
		}
		if !ok {
			continue
		}
		if _, err := c.Insert(ev, place); err != nil {
			return 0, c.spoiled(err)
		}
	}
	err := c.closeGap(h.Gap)
	return c.seq, c.spoiled(err)
}

// placeOfHistory finds out where an event of the past goes, if it can be placed.
func (c *Core) placeOfHistory(ev *spec.Event, states map[spec.EventID][]spec.EventID) (Place, bool, error) {
	lacks, err := c.lacks(ev)
	if err != nil || len(lacks.auth) > 0 {
		return Place{}, false, err
	}
	if len(lacks.prev) == 0 {
		return Place{}, true, nil
	}
	state, told := states[ev.ID]
	if !told {
		return Place{}, false, nil
	}
	for _, id := range state {
		if row, err := c.Event(id); err != nil || !usable(row) {
			return Place{}, false, err // a state with holes is no state
		}
	}
	root, err := c.ForeignState(state)
	return Place{Before: &root}, err == nil, err
}

// closeGap takes away the gap before an event whose predecessors are all known.
func (c *Core) closeGap(id spec.EventID) error {
	row, err := c.Event(id)
	if err != nil || row == nil {
		return err
	}
	lacks, err := c.lacks(row.Event)
	if err != nil || len(lacks.prev) > 0 {
		return err
	}
	d := &delta{rootFrom: c.head.Root, gapsShut: []storage.TimelineKey{row.Key()}}
	c.enqueue(d, nil, c.head)
	return nil
}
