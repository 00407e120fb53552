package server

import (
	"cmp"
	"slices"
	"sync"

	"atoll/spec"
)

// stateListsMost is how many rooms' states are remembered without their members.
const stateListsMost = 4000

// stateList is a state without its members. Not changed once made.
type stateList struct {
	root   spec.Hash
	leaves []spec.Leaf // by path
}

// stateLists remembers the latest such state of rooms. Safe for concurrent use.
type stateLists struct {
	mu     sync.Mutex // guards recent
	recent *recent[int64, *stateList]
}

func newStateLists() *stateLists {
	return &stateLists{recent: newRecent[int64, *stateList](stateListsMost)}
}

func (l *stateLists) get(room int64) (*stateList, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent.get(room)
}

func (l *stateLists) put(room int64, list *stateList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent.put(room, list)
}

// stateWithoutMembers returns the leaves of a state that are no members. Only
// the first time of a room costs as much as the room is large; from then on
// states are told apart by their difference.
func (src *source) stateWithoutMembers(room int64, root spec.Hash) ([]spec.Leaf, error) {
	known, ok := src.rooms.stateLists.get(room)
	if ok && known.root == root {
		return known.leaves, nil
	}
	var leaves []spec.Leaf
	var err error
	if ok {
		leaves, err = src.changeStateList(room, known, root)
	} else {
		leaves, err = src.makeStateList(room, root)
	}
	if err != nil {
		return nil, err
	}
	src.rooms.stateLists.put(room, &stateList{root: root, leaves: leaves})
	return leaves, nil
}

func (src *source) makeStateList(room int64, root spec.Hash) ([]spec.Leaf, error) {
	tx, err := src.database()
	if err != nil {
		return nil, err
	}
	var all []spec.Leaf
	var keys []int64
	err = spec.Walk(src.nodes(room), root, func(l spec.Leaf) error {
		all = append(all, l)
		keys = append(keys, l.Key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	names, err := tx.StateKeys(keys)
	if err != nil {
		return nil, err
	}
	return slices.Clip(slices.DeleteFunc(all, func(l spec.Leaf) bool { return names[l.Key].Type == spec.TypeMember })), nil
}

func (src *source) changeStateList(room int64, known *stateList, root spec.Hash) ([]spec.Leaf, error) {
	changed := map[spec.Hash]*spec.Leaf{} // nil: gone
	err := spec.Diff(src.nodes(room), known.root, root, func(old, now *spec.Leaf) error {
		leaf := now
		if leaf == nil {
			leaf = old
		}
		row, err := src.event(leaf.Event)
		if err != nil || row.Event.Type == spec.TypeMember {
			return err
		}
		if now != nil {
			l := *now
			changed[leaf.Path] = &l
		} else {
			changed[leaf.Path] = nil
		}
		return nil
	})
	if err != nil || len(changed) == 0 {
		return known.leaves, err
	}
	leaves := make([]spec.Leaf, 0, len(known.leaves)+len(changed))
	for _, l := range known.leaves {
		if _, ok := changed[l.Path]; !ok {
			leaves = append(leaves, l)
		}
	}
	for _, l := range changed {
		if l != nil {
			leaves = append(leaves, *l)
		}
	}
	slices.SortFunc(leaves, func(a, b spec.Leaf) int { return cmp.Compare(a.Key, b.Key) })
	return leaves, nil
}
