package server

import (
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// stateSet collects the state events of an answer, one for each key.
type stateSet struct {
	events map[int64]int64 // state key → event, by local ids
}

func (s *stateSet) add(key, event int64) {
	if s.events == nil {
		s.events = map[int64]int64{}
	}
	s.events[key] = event
}

// state returns the room's state events that the answer is to have.
// Spec: client-server-api#get_matrixclientv3sync
func (t *roomTask) state(out *SyncedRoom) ([]*storage.EventRow, error) {
	var set stateSet
	var root spec.Hash // of the state that the answer describes
	var err error
	if t.plan.req.StateAfter != "" {
		root, err = t.stateAfter(&set)
	} else {
		root, err = t.stateBefore(&set)
	}
	if err != nil {
		return nil, err
	}
	if t.plan.req.Filter.Room.State.LazyLoadMembers {
		if err := t.lazyMembers(&set, root, out); err != nil {
			return nil, err
		}
	}
	nids := make([]int64, 0, len(set.events))
	for _, nid := range set.events {
		nids = append(nids, nid)
	}
	slices.Sort(nids)
	rows, err := t.src.events(nids)
	if err != nil {
		return nil, err
	}
	filter := &t.plan.req.Filter.Room.State
	return slices.DeleteFunc(rows, func(row *storage.EventRow) bool {
		return row == nil || !filter.MatchEvent(row.Event)
	}), nil
}

// stateAfter collects the state at the end of the timeline.
func (t *roomTask) stateAfter(set *stateSet) (spec.Hash, error) {
	if !t.full && !t.limited && !t.sawState && !t.plan.req.Filter.Room.State.LazyLoadMembers {
		return spec.Hash{}, nil
	}
	root, err := t.src.rootAt(t.window, t.upTo)
	if err != nil {
		return root, err
	}
	return root, t.stateUpTo(set, root)
}

// stateUpTo collects the state of a root: the whole of it, or what is not as it
// was at since.
func (t *roomTask) stateUpTo(set *stateSet, root spec.Hash) error {
	if t.full {
		return t.wholeState(set, root)
	}
	old, err := t.src.rootAt(t.window, t.plan.since)
	if err != nil || old == root {
		return err
	}
	return spec.Diff(t.src.nodes(t.RoomNID), old, root, func(_, now *spec.Leaf) error {
		if now != nil {
			set.add(now.Key, now.Event)
		}
		return nil
	})
}

// wholeState collects all of a state; of its members only if they are not loaded
// lazily.
func (t *roomTask) wholeState(set *stateSet, root spec.Hash) error {
	if t.plan.req.Filter.Room.State.LazyLoadMembers {
		leaves, err := t.src.stateWithoutMembers(t.RoomNID, root)
		for _, l := range leaves {
			set.add(l.Key, l.Event)
		}
		return err
	}
	return spec.Walk(t.src.nodes(t.RoomNID), root, func(l spec.Leaf) error {
		set.add(l.Key, l.Event)
		return nil
	})
}

// stateBefore collects the state at the start of the timeline, and what changed
// since then without the timeline showing it.
func (t *roomTask) stateBefore(set *stateSet) (spec.Hash, error) {
	root, err := t.startRoot()
	if err != nil {
		return root, err
	}
	first := t.first()
	if t.full || t.limited || first == nil && t.sawState {
		if err := t.stateUpTo(set, root); err != nil {
			return root, err
		}
		if first != nil && first.StateKeyNID != 0 && set.events[first.StateKeyNID] == first.NID {
			delete(set.events, first.StateKeyNID)
		}
	}
	if first == nil {
		return root, nil
	}
	return root, t.looseState(set)
}

// startRoot returns the root of the state at the start of the timeline.
func (t *roomTask) startRoot() (spec.Hash, error) {
	first := t.first()
	switch {
	case first == nil:
		if !t.full && !t.limited && !t.sawState && !t.plan.req.Filter.Room.State.LazyLoadMembers {
			return spec.Hash{}, nil
		}
		return t.src.rootAt(t.window, t.upTo)
	case !t.full && !t.limited:
		if !t.plan.req.Filter.Room.State.LazyLoadMembers {
			return spec.Hash{}, nil // nobody looks at it
		}
		return t.src.rootAt(t.window, t.plan.since)
	}
	if !t.firstGap {
		root, err := t.src.rootAt(t.window, first.Pos-1)
		if err != nil || root != (spec.Hash{}) || first.Event.StateKeyIs(spec.TypeCreate, "") {
			return root, err
		}
	}
	// With the first event the room came from elsewhere, or went on after a gap:
	// the state before that is not what this server had before.
	return t.src.rootAt(t.window, first.Pos)
}

// looseState adds what changed since the start of the timeline by events that are
// not in it: held back by a filter, or brought by state resolution. Where the
// timeline has an event of the same key nothing can be done about the client's
// view; state_after exists for that.
func (t *roomTask) looseState(set *stateSet) error {
	if len(t.loose) == 0 {
		return nil
	}
	shown := map[int64]bool{}
	for _, row := range t.timeline {
		shown[row.StateKeyNID] = true
	}
	root, err := t.src.rootAt(t.window, t.upTo)
	if err != nil {
		return err
	}
	for _, row := range t.loose {
		if shown[row.StateKeyNID] {
			continue
		}
		shown[row.StateKeyNID] = true
		nid, err := t.src.stateNID(t.RoomNID, root, spec.StatePath(row.Event.Key()))
		if err != nil {
			return err
		}
		if nid != 0 {
			set.add(row.StateKeyNID, nid)
		}
	}
	return nil
}
