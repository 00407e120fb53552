package roomcore

import (
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// walkMost bounds how many events one walk through the graph looks at. Where it
// ends early an extremity stays that is none, which the next event mends.
const walkMost = 256

// told reports whether the event came as a new one, so that it is an extremity or
// behind one.
func (c *Core) told(row *storage.EventRow) bool { return row.Pos > 0 || c.newLive[row.NID] }

// behind returns what is surely before the event: its predecessors, and theirs
// where these never were extremities themselves, because they were soft-failed,
// rejected or part of the past.
func (c *Core) behind(ev *spec.Event) (map[spec.EventID]bool, error) {
	left := map[spec.EventID]bool{} // extremities that are not found to be behind
	for _, e := range c.head.Extremities {
		left[e.ID] = true
	}
	seen := map[spec.EventID]bool{}
	todo := slices.Clone(ev.Prev)
	for _, id := range todo {
		seen[id] = true
	}
	for n := 0; n < len(todo) && n < walkMost; n++ {
		id := todo[n]
		if left[id] {
			delete(left, id)
			continue
		}
		if len(left) == 0 {
			continue
		}
		row, err := c.Event(id)
		if err != nil {
			return nil, err
		}
		if row == nil || row.Kind != storage.StateRoot || c.told(row) {
			continue
		}
		for _, prev := range row.Event.Prev {
			if !seen[prev] {
				seen[prev] = true
				todo = append(todo, prev)
			}
		}
	}
	return seen, nil
}

// followed reports whether a new event is late: one that was told before follows
// it, at once or by way of events that were not told.
func (c *Core) followed(id spec.EventID) (bool, error) {
	seen := map[spec.EventID]bool{id: true}
	todo := []spec.EventID{id}
	for n := 0; n < len(todo) && n < walkMost; n++ {
		nids, err := c.successors(todo[n])
		if err != nil {
			return false, err
		}
		for _, nid := range nids {
			row, err := c.eventByNID(nid)
			if err != nil {
				return false, err
			}
			if row.Rejected == "" && !row.SoftFailed && c.told(row) {
				return true, nil
			}
			if !seen[row.Event.ID] {
				seen[row.Event.ID] = true
				todo = append(todo, row.Event.ID)
			}
		}
	}
	return false, nil
}

func (c *Core) successors(id spec.EventID) ([]int64, error) {
	var nids []int64
	if c.committed.Version != 0 {
		var err error
		if nids, err = c.cfg.Store.Successors(id); err != nil {
			return nil, err
		}
	}
	for _, d := range c.queue {
		for i := range d.rows {
			if d.rows[i].Kind == storage.StateRoot && slices.Contains(d.rows[i].Event.Prev, id) {
				nids = append(nids, d.rows[i].NID)
			}
		}
	}
	return nids, nil
}
