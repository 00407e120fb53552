package roomcore

import (
	"bytes"
	"fmt"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// resolve returns the root of the state that the given states resolve to. The
// order of the roots does not matter.
func (c *Core) resolve(roots []spec.Hash) (spec.Hash, error) {
	roots = distinct(roots)
	switch len(roots) {
	case 0:
		return spec.Hash{}, nil
	case 1:
		return roots[0], nil
	}
	memoKey := memoKeyOf(roots)
	if root, ok := c.memo[memoKey]; ok {
		return root, nil
	}
	root, err := c.resolveForks(roots)
	if err != nil {
		return spec.Hash{}, fmt.Errorf("resolving %d states of %s: %w", len(roots), c.cfg.Room, err)
	}
	if len(c.memo) >= memoLimit {
		clear(c.memo)
	}
	c.memo[memoKey] = root
	return root, nil
}

// apply returns the root of the changed state. The nodes that it makes are
// written with the next delta, whichever that is, so that no root in memory can
// outlive its nodes.
func (c *Core) apply(root spec.Hash, changes []spec.Change) (spec.Hash, error) {
	root, nodes, err := spec.Apply(c, root, changes)
	if err != nil {
		return spec.Hash{}, err
	}
	for _, n := range nodes {
		c.newNodes[n.Hash()] = n
	}
	c.unwritten = append(c.unwritten, nodes...)
	return root, nil
}

func distinct(roots []spec.Hash) []spec.Hash {
	out := slices.Clone(roots)
	slices.SortFunc(out, func(a, b spec.Hash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

func memoKeyOf(roots []spec.Hash) string {
	key := make([]byte, 0, len(roots)*len(spec.Hash{}))
	for _, r := range roots {
		key = append(key, r[:]...)
	}
	return string(key)
}

// forkDiff is the conflicted part of some states.
type forkDiff struct {
	forks []map[spec.StateKey]spec.EventID
	nids  map[spec.EventID]int64
	keys  map[spec.StateKey]bool
}

func (c *Core) diffForks(roots []spec.Hash) (*forkDiff, error) {
	d := &forkDiff{
		forks: make([]map[spec.StateKey]spec.EventID, len(roots)),
		nids:  map[spec.EventID]int64{}, keys: map[spec.StateKey]bool{},
	}
	for i := range d.forks {
		d.forks[i] = map[spec.StateKey]spec.EventID{}
	}
	err := spec.DiffMany(c, roots, func(leaves []*spec.Leaf) error {
		for i, leaf := range leaves {
			if leaf == nil {
				continue
			}
			row, err := c.eventByNID(leaf.Event)
			if err != nil {
				return err
			}
			key := row.Event.Key()
			d.forks[i][key] = row.Event.ID
			d.nids[row.Event.ID] = leaf.Event
			d.keys[key] = true
		}
		return nil
	})
	return d, err
}

func (c *Core) resolveForks(roots []spec.Hash) (spec.Hash, error) {
	diff, err := c.diffForks(roots)
	if err != nil {
		return spec.Hash{}, err
	}
	base := roots[0]
	unconflicted := func(key spec.StateKey) (*storage.EventRow, error) {
		if diff.keys[key] {
			return nil, nil
		}
		return c.lookup(base, key)
	}
	overlay, err := spec.Resolve(spec.ResolveInput{
		Rules: c.cfg.Rules,
		Forks: diff.forks,
		Unconflicted: func(key spec.StateKey) (spec.EventID, bool, error) {
			row, err := unconflicted(key)
			if err != nil || row == nil {
				return "", false, err
			}
			return row.Event.ID, true, nil
		},
		Event:    c.requireEvent,
		Rejected: c.rejected,
		InUnconflictedChain: func(id spec.EventID) (bool, error) {
			return c.inChainOf(id, diff, base)
		},
	})
	if err != nil {
		return spec.Hash{}, err
	}
	changes, keyErr := c.overlayChanges(diff, overlay)
	if keyErr != nil {
		return spec.Hash{}, keyErr
	}
	return c.apply(base, changes)
}

func (c *Core) overlayChanges(diff *forkDiff, overlay map[spec.StateKey]spec.EventID) ([]spec.Change, error) {
	changes := make([]spec.Change, 0, len(diff.keys))
	for key := range diff.keys {
		if _, kept := overlay[key]; !kept {
			changes = append(changes, spec.Change{Delete: true, Leaf: spec.Leaf{Path: spec.StatePath(key)}})
		}
	}
	for key, id := range overlay {
		row, err := c.Event(id)
		if err != nil {
			return nil, err
		}
		if row == nil {
			return nil, fmt.Errorf("resolved event %s is missing", id)
		}
		changes = append(changes, spec.Change{Leaf: spec.NewLeaf(key, id, row.StateKeyNID, row.NID)})
	}
	return changes, nil
}

// inChainOf reports whether the event is in the auth chain of a state event on
// which all forks agree.
func (c *Core) inChainOf(id spec.EventID, diff *forkDiff, base spec.Hash) (bool, error) {
	graph, err := c.authGraph()
	if err != nil {
		return false, err
	}
	row, err := c.Event(id)
	if err != nil || row == nil {
		return false, err
	}
	return graph.Descends(row.NID, func(event, keyNID int64) (bool, error) {
		key, err := c.stateKey(keyNID)
		if err != nil || diff.keys[key] {
			return false, err
		}
		leaf, ok, err := spec.Lookup(c, base, spec.StatePath(key))
		return ok && leaf.Event == event, err
	})
}

func (c *Core) authGraph() (*spec.AuthGraph, error) {
	if c.graph != nil {
		return c.graph, nil
	}
	graph, err := c.cfg.Store.AuthGraph()
	if err != nil {
		return nil, fmt.Errorf("auth graph of %s: %w", c.cfg.Room, err)
	}
	for _, d := range c.queue {
		for i := range d.rows {
			c.addToGraph(graph, &d.rows[i])
		}
	}
	c.graph = graph
	return graph, nil
}

func (c *Core) addToGraph(graph *spec.AuthGraph, row *storage.EventRow) {
	if row.StateKeyNID == 0 {
		return
	}
	graph.Add(row.NID, row.Auth, row.StateKeyNID)
}

func (c *Core) requireEvent(id spec.EventID) (*spec.Event, error) {
	row, err := c.Event(id)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, fmt.Errorf("event %s of an auth chain is missing", id)
	}
	return row.Event, nil
}

func (c *Core) rejected(id spec.EventID) bool {
	row, err := c.Event(id)
	return err == nil && row != nil && row.Rejected != ""
}
