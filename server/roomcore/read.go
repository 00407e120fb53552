package roomcore

import (
	"fmt"

	"atoll/spec"
)

// Lacks reports whether the event refers to something that the room does not
// know, so that Insert could not judge it.
func (c *Core) Lacks(ev *spec.Event) (bool, error) {
	m, err := c.lacks(ev)
	return !m.none(), err
}

// AuthChain returns the numbers of the events in the auth chains of the state
// events with these numbers, each once. The events themselves are left out
// unless another one's chain has them. They must be committed.
// Spec: rooms/v2#definitions
func (c *Core) AuthChain(nids []int64) ([]int64, error) {
	graph, err := c.authGraph()
	if err != nil {
		return nil, err
	}
	var chain []int64
	err = graph.Chain(nids, func(event, _ int64) error {
		chain = append(chain, event)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("auth chain in %s: %w", c.cfg.Room, err)
	}
	return chain, nil
}
