package spec

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// ResolveInput is what state resolution reads. It is asked for single events and
// single entries only, so that the work is bounded by the part of the state on
// which the forks differ and not by the size of the room.
type ResolveInput struct {
	Rules *Rules
	// Forks has for each state to resolve the keys on which the states differ; a
	// key that is absent from a fork is absent from that state.
	Forks []map[StateKey]EventID
	// Unconflicted reads an entry of the state on which all forks agree; ok is
	// false if there is none. It is never asked for a key that is in Forks.
	Unconflicted func(StateKey) (id EventID, ok bool, err error)
	// Event returns the conflicted events, every member of their auth chains, and
	// what Unconflicted names.
	Event func(EventID) (*Event, error)
	// Rejected tells which events were rejected; nil: none. Such events are not
	// used as auth events but take part otherwise.
	Rejected func(EventID) bool
	// InUnconflictedChain tells whether an event is in the auth chain of some
	// event of the unconflicted state, which makes it a member of the auth chains
	// of all forks.
	InUnconflictedChain func(EventID) (bool, error)
	// AuthOf, which may be nil, returns the auth_events of an event without the
	// event itself, and its generation: a number greater than that of each of its
	// auth events, or 0 if that is not known. Where a conflicted event is old
	// enough to be in the auth chain of the unconflicted state, the walk between
	// the conflicted events goes beyond their differences. It then reads only edges,
	// and stops at the generation of the oldest.
	AuthOf func(EventID) (auth []EventID, generation int64, err error)
}

// Resolve merges the states of several forks. The result is what to lay over the
// unconflicted state: a key of the forks that is not in it is absent from the
// resolved state. It depends on the events alone, not on the order of the forks.
// Errors are those of the input's functions; any of them aborts. The input's
// functions are called from this goroutine only.
// Spec: rooms/v2#state-resolution, rooms/v12#state-resolution
func Resolve(in ResolveInput) (map[StateKey]EventID, error) {
	r := newResolver(in)
	if len(r.conflicted) > 0 {
		if err := r.resolve(); err != nil {
			return nil, fmt.Errorf("state resolution: %w", err)
		}
	}
	return r.result()
}

// resolver is one run of the algorithm.
type resolver struct {
	in         ResolveInput
	nodes      map[EventID]*node
	conflicted []*node              // the conflicted state set
	disputed   map[StateKey]bool    // the keys of the conflicted state set
	agreed     map[StateKey]EventID // keys in Forks on which all forks agree after all
	base       map[StateKey]EventID // what Unconflicted has answered; "" for absent
	fromEmpty  bool                 // v2.1: begin with an empty state
	state      map[StateKey]*Event  // the partially resolved state, without its base
	levels     levelsCache          // parsed power levels
	creators   map[*Event][]UserID  // by create event
	standing   map[*Event]*Event    // by event: the power levels among its auth events
	events     map[EventID]*Event   // what Event has answered
	powers     map[*node]int64      // by event: its sender's level
}

// node is an event in the graph of auth events, as far as it has been walked.
type node struct {
	id         EventID
	auth       []*node
	generation int64
	expanded   bool    // auth and generation are set
	by         []*node // nodes of the walk between conflicted events that have this in auth

	conflicted bool
	forks      int  // how many forks have it in the auth chain of their own events
	lastFork   int  // the last one counted, from 1
	between    bool // on a path from one conflicted event to another
	picked     bool // among those ordered by power
	visited    bool // by the walk between conflicted events
	unconflicted
}

// unconflicted remembers the answer of InUnconflictedChain.
type unconflicted struct{ asked, inChain bool }

func newResolver(in ResolveInput) *resolver {
	r := &resolver{
		in:        in,
		nodes:     map[EventID]*node{},
		disputed:  map[StateKey]bool{},
		agreed:    map[StateKey]EventID{},
		base:      map[StateKey]EventID{},
		fromEmpty: in.Rules.StateResolution == StateResolutionV21,
		state:     map[StateKey]*Event{},
		levels:    levelsCache{},
		creators:  map[*Event][]UserID{},
		standing:  map[*Event]*Event{},
		events:    map[EventID]*Event{},
		powers:    map[*node]int64{},
	}
	for _, fork := range in.Forks {
		for k, id := range fork {
			if r.allForksHave(k, id) {
				r.agreed[k] = id
				continue
			}
			r.disputed[k] = true
			if n := r.node(id); !n.conflicted {
				n.conflicted = true
				r.conflicted = append(r.conflicted, n)
			}
		}
	}
	// The order of the map must not show, not even in which error comes first.
	slices.SortFunc(r.conflicted, func(a, b *node) int { return strings.Compare(string(a.id), string(b.id)) })
	return r
}

func (r *resolver) allForksHave(k StateKey, id EventID) bool {
	for _, fork := range r.in.Forks {
		if have, ok := fork[k]; !ok || have != id {
			return false
		}
	}
	return true
}

func (r *resolver) node(id EventID) *node {
	n := r.nodes[id]
	if n == nil {
		n = &node{id: id}
		r.nodes[id] = n
	}
	return n
}

// event is Event with a memory.
func (r *resolver) event(id EventID) (*Event, error) {
	if ev := r.events[id]; ev != nil {
		return ev, nil
	}
	ev, err := r.in.Event(id)
	if err == nil && ev == nil {
		err = errors.New("not there")
	}
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", id, err)
	}
	r.events[id] = ev
	return ev, nil
}

// expand makes the edges of a node known.
func (r *resolver) expand(n *node) error {
	if n.expanded {
		return nil
	}
	var auth []EventID
	if r.in.AuthOf != nil {
		var err error
		if auth, n.generation, err = r.in.AuthOf(n.id); err != nil {
			return fmt.Errorf("auth events of %s: %w", n.id, err)
		}
	} else {
		ev, err := r.event(n.id)
		if err != nil {
			return err
		}
		auth = ev.Auth
	}
	n.auth = make([]*node, len(auth))
	for i, id := range auth {
		n.auth[i] = r.node(id)
	}
	n.expanded = true
	return nil
}

// inUnconflictedChain is InUnconflictedChain with a memory.
func (r *resolver) inUnconflictedChain(n *node) (bool, error) {
	if !n.asked {
		in, err := r.in.InUnconflictedChain(n.id)
		if err != nil {
			return false, fmt.Errorf("auth chain with %s: %w", n.id, err)
		}
		n.asked, n.inChain = true, in
	}
	return n.inChain, nil
}

// resolve is the algorithm up to its last step.
// Spec: rooms/v12#algorithm
func (r *resolver) resolve() error {
	if r.in.Rules.StateResolution == StateResolutionV1 {
		return r.resolveV1()
	}
	if err := r.countForks(); err != nil {
		return err
	}
	if err := r.walkBetween(); err != nil {
		return err
	}
	// Step 1: power events and what authorises them.
	picked, err := r.pickPowerEvents()
	if err != nil {
		return err
	}
	ordered, err := r.powerOrder(picked)
	if err != nil {
		return err
	}
	// Step 2.
	if err := r.apply(ordered); err != nil {
		return err
	}
	// Step 3: everything else.
	rest, err := r.mainlineOrder()
	if err != nil {
		return err
	}
	// Step 4.
	return r.apply(rest)
}

// result is the last step: the unconflicted state goes above everything.
func (r *resolver) result() (map[StateKey]EventID, error) {
	out := make(map[StateKey]EventID, len(r.disputed)+len(r.agreed))
	for k, ev := range r.state {
		if !r.disputed[k] {
			if id, err := r.unconflictedAt(k); err != nil || id != "" {
				if err != nil {
					return nil, err
				}
				continue
			}
		}
		out[k] = ev.ID
	}
	for k, id := range r.agreed {
		out[k] = id
	}
	return out, nil
}

// unconflictedAt reads the unconflicted state map; "" if it has no such key.
func (r *resolver) unconflictedAt(k StateKey) (EventID, error) {
	if id, ok := r.agreed[k]; ok || r.disputed[k] {
		return id, nil
	}
	if id, ok := r.base[k]; ok {
		return id, nil
	}
	id, ok, err := r.in.Unconflicted(k)
	if err != nil {
		return "", fmt.Errorf("state at %s %q: %w", k.Type, k.Key, err)
	}
	if !ok {
		id = ""
	}
	r.base[k] = id
	return id, nil
}

// countForks walks the auth chains of each fork's own events, as far as they are
// not in the chain of the unconflicted state: from an event that is, everything
// that follows is as well, and so in the chains of all forks.
// Spec: rooms/v2#definitions (auth chain, auth difference)
func (r *resolver) countForks() error {
	for i, fork := range r.in.Forks {
		var todo []*node
		for _, id := range fork {
			n := r.node(id)
			if err := r.expand(n); err != nil {
				return err
			}
			todo = append(todo, n.auth...)
		}
		for len(todo) > 0 {
			n := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if n.lastFork == i+1 {
				continue
			}
			n.lastFork = i + 1
			if in, err := r.inUnconflictedChain(n); err != nil {
				return err
			} else if in {
				continue
			}
			n.forks++
			if err := r.expand(n); err != nil {
				return err
			}
			todo = append(todo, n.auth...)
		}
	}
	return nil
}

// walkBetween marks the nodes on paths from one conflicted event to another, the
// conflicted state subgraph. v2 does not replay them, but follows them to find
// which events of the full conflicted set come before which.
//
// If no conflicted event is in the chain of the unconflicted state, then no event
// of that chain leads to a conflicted one and the walk stays out of it.
// Spec: rooms/v12#definitions (conflicted state subgraph)
func (r *resolver) walkBetween() error {
	oldest, enter := int64(math.MaxInt64), false
	for _, n := range r.conflicted {
		in, err := r.inUnconflictedChain(n)
		if err != nil {
			return err
		}
		if err := r.expand(n); err != nil {
			return err
		}
		oldest, enter = min(oldest, n.generation), enter || in
		n.visited = true
	}
	todo := slices.Clone(r.conflicted)
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, a := range n.auth {
			a.by = append(a.by, n)
			if a.visited {
				continue
			}
			a.visited = true
			if !enter {
				if in, err := r.inUnconflictedChain(a); err != nil {
					return err
				} else if in {
					continue
				}
			}
			if err := r.expand(a); err != nil {
				return err
			}
			if a.generation == 0 || a.generation > oldest {
				todo = append(todo, a)
			}
		}
	}
	for todo = append(todo, r.conflicted...); len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, b := range n.by {
			if !b.between {
				b.between = true
				todo = append(todo, b)
			}
		}
	}
	return nil
}

// isFull tells whether a node is in the full conflicted set.
// Spec: rooms/v12#definitions (full conflicted set)
func (r *resolver) isFull(n *node) bool {
	return n.conflicted ||
		n.forks > 0 && n.forks < len(r.in.Forks) || // auth difference
		r.fromEmpty && n.between // v2.1
}

// fullConflictedSet is sorted by event ID, for the sake of a fixed course only.
func (r *resolver) fullConflictedSet() []*node {
	var full []*node
	for _, n := range r.nodes {
		if r.isFull(n) {
			full = append(full, n)
		}
	}
	slices.SortFunc(full, func(a, b *node) int { return strings.Compare(string(a.id), string(b.id)) })
	return full
}

// isPowerEvent: an event that may take somebody's rights away.
// Spec: rooms/v2#definitions (power events)
func isPowerEvent(ev *Event) bool {
	if !ev.IsState() {
		return false
	}
	switch ev.Type {
	case TypePowerLevels, TypeJoinRules:
		return true
	case TypeMember:
		m := ev.Membership()
		return (m == membershipLeave || m == membershipBan) && string(ev.Sender) != *ev.State
	}
	return false
}

// pickPowerEvents returns the power events of the full conflicted set with those
// of their auth chains that are in the set too, and also, not picked, the nodes
// by which one leads to the other. All such paths lie in the set or between
// conflicted events. Spec: rooms/v2#algorithm 1
func (r *resolver) pickPowerEvents() (region []*node, err error) {
	in := map[*node]bool{}
	for _, n := range r.fullConflictedSet() {
		ev, err := r.event(n.id)
		if err != nil {
			return nil, err
		}
		if isPowerEvent(ev) && !in[n] {
			in[n] = true
			region = append(region, n)
		}
	}
	for i := 0; i < len(region); i++ {
		n := region[i]
		n.picked = r.isFull(n)
		if err := r.expand(n); err != nil {
			return nil, err
		}
		for _, a := range n.auth {
			if !in[a] && (a.between || r.isFull(a)) {
				in[a] = true
				region = append(region, a)
			}
		}
	}
	return region, nil
}

// powerOrder sorts the picked nodes of the region into the reverse topological
// power ordering, by Kahn's algorithm. Nodes that are not picked only hand the
// order on: they pass as soon as they can.
// Spec: rooms/v2#definitions (reverse topological power ordering)
func (r *resolver) powerOrder(region []*node) ([]*Event, error) {
	waits := make(map[*node]int, len(region)) // auth events in the region not yet out
	next := make(map[*node][]*node, len(region))
	for _, n := range region {
		waits[n] = 0
	}
	ready := &powerHeap{}
	var passing []*node
	var out []*Event
	for _, n := range region {
		for _, a := range n.auth {
			if _, ok := waits[a]; ok {
				waits[n]++
				next[a] = append(next[a], n)
			}
		}
	}
	release := func(n *node) error {
		if !n.picked {
			passing = append(passing, n)
			return nil
		}
		ev, err := r.event(n.id)
		if err != nil {
			return err
		}
		power, err := r.senderPower(ev)
		if err != nil {
			return err
		}
		heap.Push(ready, powerItem{n, ev, power})
		return nil
	}
	for _, n := range region {
		if waits[n] == 0 {
			if err := release(n); err != nil {
				return nil, err
			}
		}
	}
	for len(passing) > 0 || ready.Len() > 0 {
		var n *node
		if last := len(passing) - 1; last >= 0 {
			n, passing = passing[last], passing[:last]
		} else {
			item := heap.Pop(ready).(powerItem)
			n = item.node
			out = append(out, item.ev)
		}
		for _, b := range next[n] {
			if waits[b]--; waits[b] == 0 {
				if err := release(b); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// powerItem is an event whose turn may come.
type powerItem struct {
	*node
	ev    *Event
	power int64
}

// powerHeap has the smallest by the comparison of the power ordering on top.
type powerHeap []powerItem

func (h powerHeap) Len() int      { return len(h) }
func (h powerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h powerHeap) Less(i, j int) bool {
	if h[i].power != h[j].power {
		return h[i].power > h[j].power
	}
	return compareAge(h[i].ev, h[j].ev) < 0
}
func (h *powerHeap) Push(x any) { *h = append(*h, x.(powerItem)) }
func (h *powerHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// compareAge is what both orderings do where nothing else decides.
func compareAge(a, b *Event) int {
	switch {
	case a.OriginServerTS < b.OriginServerTS:
		return -1
	case a.OriginServerTS > b.OriginServerTS:
		return 1
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// senderPower is the level of an event's sender by the event's own auth events.
func (r *resolver) senderPower(ev *Event) (int64, error) {
	standing, err := r.powerLevelsOf(ev)
	if err != nil {
		return 0, err
	}
	create, err := r.createOf(ev)
	if err != nil {
		return 0, err
	}
	var creators []UserID
	if create != nil {
		if creators = r.creators[create]; creators == nil {
			creators = creatorsOf(r.in.Rules, create)
			r.creators[create] = creators
		}
	}
	levels, err := newPowerLevels(r.in.Rules, creators, standing)
	if err != nil {
		return 0, nil // what cannot be read gives nobody power
	}
	return levels.User(ev.Sender), nil
}

// authEvent finds the auth event of ev with this key; nil if there is none.
func (r *resolver) authEvent(ev *Event, k StateKey, accepted bool) (*Event, error) {
	for _, id := range ev.Auth {
		auth, err := r.event(id)
		if err != nil {
			return nil, err
		}
		if auth.IsState() && auth.Key() == k && !(accepted && r.rejected(id)) {
			return auth, nil
		}
	}
	return nil, nil
}

func (r *resolver) rejected(id EventID) bool { return r.in.Rejected != nil && r.in.Rejected(id) }

// createOf is the create event on which an event builds: v12 the one that the
// room ID names, else the one among the auth events.
func (r *resolver) createOf(ev *Event) (*Event, error) {
	if ev.Type == TypeCreate {
		return ev, nil
	}
	if r.in.Rules.RoomIDIsCreateHash {
		return r.event(ev.Room.CreateEvent())
	}
	return r.authEvent(ev, keyCreate, false)
}

// powerLevelsOf is the power levels event among the auth events of ev.
func (r *resolver) powerLevelsOf(ev *Event) (*Event, error) {
	standing, ok := r.standing[ev]
	if !ok {
		var err error
		if standing, err = r.authEvent(ev, keyPowerLevels, false); err != nil {
			return nil, err
		}
		r.standing[ev] = standing
	}
	return standing, nil
}

// apply is the iterative auth checks algorithm over the state so far.
// Spec: rooms/v2#definitions (iterative auth checks)
func (r *resolver) apply(events []*Event) error {
	for _, ev := range events {
		check := authorizer{ev: ev, rules: ev.Rules, state: r.reader(ev), cache: r.levels}
		err := check.check()
		var refused *AuthError
		switch {
		case err == nil && ev.IsState():
			r.state[ev.Key()] = ev
		case err != nil && !errors.As(err, &refused):
			return err
		}
	}
	return nil
}

// reader is the state against which ev is checked: the partially resolved state,
// which v2 begins with the unconflicted one, and then the event's auth events.
func (r *resolver) reader(ev *Event) StateReader {
	return func(k StateKey) (*Event, error) {
		if have := r.state[k]; have != nil {
			return have, nil
		}
		if !r.fromEmpty {
			if id, err := r.unconflictedAt(k); err != nil {
				return nil, err
			} else if id != "" {
				return r.event(id)
			}
		}
		// v12: the room ID stands for the create event among the auth events.
		if id := ev.Room.CreateEvent(); k == keyCreate && r.in.Rules.RoomIDIsCreateHash && !r.rejected(id) {
			return r.event(id)
		}
		return r.authEvent(ev, k, true)
	}
}

// mainlineOrder sorts what was not picked in step 1 by the mainline of the power
// levels that step 2 arrived at. Spec: rooms/v2#definitions (mainline ordering)
func (r *resolver) mainlineOrder() ([]*Event, error) {
	tip, err := r.reader(&Event{})(keyPowerLevels)
	if err != nil {
		return nil, err
	}
	line := &mainline{r: r, next: tip, at: map[EventID]int{}, beside: map[EventID]int{}}
	type placed struct {
		ev *Event
		at int
	}
	var rest []placed
	for _, n := range r.fullConflictedSet() {
		if n.picked {
			continue
		}
		ev, err := r.event(n.id)
		if err != nil {
			return nil, err
		}
		at, err := line.position(ev)
		if err != nil {
			return nil, err
		}
		rest = append(rest, placed{ev, at})
	}
	slices.SortFunc(rest, func(a, b placed) int {
		if a.at != b.at {
			return b.at - a.at
		}
		return compareAge(a.ev, b.ev)
	})
	out := make([]*Event, len(rest))
	for i, p := range rest {
		out[i] = p.ev
	}
	return out, nil
}

// offMainline is the position of an event whose power levels never meet the line.
const offMainline = math.MaxInt

// mainline is walked only as far back as the events to be placed ask for.
type mainline struct {
	r      *resolver
	next   *Event          // the first event that is not in at; nil: no more
	at     map[EventID]int // position of those walked
	beside map[EventID]int // positions of power levels that are not on the line
}

// position of an event: that of the first of its power levels, going back, that
// is on the line. Line and event are followed alternately, so neither goes far
// beyond where they meet.
func (m *mainline) position(ev *Event) (int, error) {
	if m.next == nil && len(m.at) == 0 {
		return offMainline, nil // no line; in v2.1 that means undisputed power levels
	}
	cur, err := m.r.powerLevelsOf(ev)
	if err != nil || cur == nil {
		return offMainline, err
	}
	var walk []EventID
	for cur != nil || m.next != nil {
		if cur != nil {
			at, met := m.at[cur.ID]
			if !met {
				at, met = m.beside[cur.ID]
			}
			if met {
				return m.note(walk, at), nil
			}
			walk = append(walk, cur.ID)
			if cur, err = m.r.powerLevelsOf(cur); err != nil {
				return 0, err
			}
			if cur != nil && slices.Contains(walk, cur.ID) {
				cur = nil // chosen event IDs (v1, v2) can go in a circle
			}
		}
		added, err := m.extend()
		if err != nil {
			return 0, err
		}
		if i := slices.Index(walk, added); i >= 0 {
			return m.note(walk[:i], m.at[added]), nil
		}
	}
	return m.note(walk, offMainline), nil
}

func (m *mainline) note(walk []EventID, at int) int {
	for _, id := range walk {
		m.beside[id] = at
	}
	return at
}

// extend takes one more event into the line and returns its ID.
func (m *mainline) extend() (EventID, error) {
	if m.next == nil {
		return "", nil
	}
	id := m.next.ID
	m.at[id] = len(m.at)
	next, err := m.r.powerLevelsOf(m.next)
	if err != nil {
		return "", err
	}
	if next != nil {
		if _, again := m.at[next.ID]; again {
			next = nil
		}
	}
	m.next = next
	return id, nil
}
