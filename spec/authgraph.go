package spec

import (
	"fmt"
	"math"
	"unsafe"
)

// AuthGraph holds which state events of one room cite which as auth events, by
// the local integer ids of events. It answers questions on auth chains without
// reading an event. The zero AuthGraph is empty and ready.
//
// It takes about 100 bytes for an event with five auth events, in three arrays
// without pointers. Calls may be concurrent as long as none of them is Add.
//
// Ids may be any numbers, and events may be added in any order: an event that
// is cited but not added yet is a gap. Senders choose the event ids of room
// versions 1 and 2, so cycles are possible and do no harm.
type AuthGraph struct {
	nodes []authNode
	edges []authEdge // those of one event are adjacent
	// table finds a node by its id: open addressing, 1 + its index or 0. Its
	// length is a power of two.
	table []uint32
	gaps  int
}

// authNode is an event that was added or cited.
type authNode struct {
	id, key int64
	auth    uint32 // where its edges begin, authGap: not added
	citing  uint32 // 1 + the last edge that leads to it, 0: nobody cites it
}

// authEdge says that from cites to.
type authEdge struct {
	from, to uint32 // indices of nodes
	citing   uint32 // 1 + the edge to the same event added before, 0: none
}

const authGap = math.MaxUint32

// AuthGapError is the error for an auth chain that leads to an event which is
// not in the graph.
type AuthGapError struct{ Event int64 }

func (e *AuthGapError) Error() string {
	return fmt.Sprintf("event %d is not in the auth graph", e.Event)
}

// Add puts in the event with the ids of its auth events, none for a create
// event, and of its state key. Adding an event again changes nothing.
func (g *AuthGraph) Add(id int64, auth []int64, key int64) {
	from := g.intern(id)
	if g.nodes[from].auth != authGap {
		return
	}
	g.gaps--
	g.nodes[from].key, g.nodes[from].auth = key, uint32(len(g.edges))
	for _, a := range auth {
		to := g.intern(a)
		g.edges = append(g.edges, authEdge{from: from, to: to, citing: g.nodes[to].citing})
		g.nodes[to].citing = uint32(len(g.edges))
	}
}

// Len returns how many events were added.
func (g *AuthGraph) Len() int { return len(g.nodes) - g.gaps }

// Bytes returns the memory that the graph takes.
func (g *AuthGraph) Bytes() int {
	return int(unsafe.Sizeof(*g)) + cap(g.table)*4 +
		cap(g.nodes)*int(unsafe.Sizeof(authNode{})) + cap(g.edges)*int(unsafe.Sizeof(authEdge{}))
}

// Has tells whether the event was added.
func (g *AuthGraph) Has(id int64) bool {
	n, ok := g.find(id)
	return ok && g.nodes[n].auth != authGap
}

// Gaps returns the events that are cited but were not added. With none, the
// graph holds the auth chain of all its events.
func (g *AuthGraph) Gaps() []int64 {
	var out []int64
	for i := 0; i < len(g.nodes) && len(out) < g.gaps; i++ {
		if g.nodes[i].auth == authGap {
			out = append(out, g.nodes[i].id)
		}
	}
	return out
}

// Chain calls visit once for each event in the auth chain of any of the events:
// what they cite, what that cites, and so on, in no particular order. The
// events themselves are among them only if another one's chain has them. An
// error of visit ends the walk and is returned as it is; an event of ids or of
// the chain that was not added is an *AuthGapError.
//
// Spec: rooms/v2#definitions
func (g *AuthGraph) Chain(ids []int64, visit func(event, key int64) error) error {
	seen := newBitset(len(g.nodes))
	var todo []uint32
	cite := func(n uint32) {
		for e := g.nodes[n].auth; int(e) < len(g.edges) && g.edges[e].from == n; e++ {
			if to := g.edges[e].to; seen.add(to) {
				todo = append(todo, to)
			}
		}
	}
	for _, id := range ids {
		n, ok := g.find(id)
		if !ok || g.nodes[n].auth == authGap {
			return &AuthGapError{Event: id}
		}
		cite(n)
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if g.nodes[n].auth == authGap {
			return &AuthGapError{Event: g.nodes[n].id}
		}
		if err := visit(g.nodes[n].id, g.nodes[n].key); err != nil {
			return err
		}
		cite(n)
	}
	return nil
}

// Descends tells whether the event from is in the auth chain of an event for
// which isCurrent is true; from itself counts only if a cycle leads back to it.
// It walks from cited to citing events, those added last first, and asks
// isCurrent at most once for each until the answer is known. isCurrent gets the ids of an event and of its
// state key; an error of it ends the walk and is returned as it is.
//
// The answer speaks of the events added. For an event that nobody cites it is
// false, be it known or not; over gaps (see Gaps) the walk does not lead.
func (g *AuthGraph) Descends(from int64, isCurrent func(event, key int64) (bool, error)) (bool, error) {
	n, ok := g.find(from)
	if !ok {
		return false, nil
	}
	seen := newBitset(len(g.nodes))
	for todo := []uint32{n}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for e := g.nodes[n].citing; e != 0; e = g.edges[e-1].citing {
			by := g.edges[e-1].from
			if !seen.add(by) {
				continue
			}
			current, err := isCurrent(g.nodes[by].id, g.nodes[by].key)
			if current || err != nil {
				return current && err == nil, err
			}
			todo = append(todo, by)
		}
	}
	return false, nil
}

// slot returns where the table has the id, or the free place for it.
func (g *AuthGraph) slot(id int64) int {
	mask := len(g.table) - 1
	// Fibonacci hashing, of which the high half is the better one.
	at := int(uint64(id)*0x9e3779b97f4a7c15>>32) & mask
	for g.table[at] != 0 && g.nodes[g.table[at]-1].id != id {
		at = (at + 1) & mask
	}
	return at
}

// find returns the index of the node for an id.
func (g *AuthGraph) find(id int64) (uint32, bool) {
	if len(g.table) == 0 {
		return 0, false
	}
	at := g.table[g.slot(id)]
	return at - 1, at != 0
}

// intern returns the index of the node for an id, and makes a gap if there is
// none.
func (g *AuthGraph) intern(id int64) uint32 {
	if 4*(len(g.nodes)+1) > 3*len(g.table) {
		g.table = make([]uint32, max(16, 2*len(g.table)))
		for i := range g.nodes {
			g.table[g.slot(g.nodes[i].id)] = uint32(i + 1)
		}
	}
	at := g.slot(id)
	if g.table[at] == 0 {
		g.nodes = append(g.nodes, authNode{id: id, auth: authGap})
		g.table[at] = uint32(len(g.nodes))
		g.gaps++
	}
	return g.table[at] - 1
}

// bitset is a set of indices below a fixed number.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

// add puts i in, and tells whether it was not in.
func (b bitset) add(i uint32) bool {
	bit := uint64(1) << (i % 64)
	was := b[i/64]&bit != 0
	b[i/64] |= bit
	return !was
}
