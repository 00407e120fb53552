package spec

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// plainGraph is an auth graph as maps, to compare with.
type plainGraph struct {
	ids  []int64
	auth map[int64][]int64
	key  map[int64]int64
}

// randomGraph makes count events that cite earlier ones; with cycles also later
// ones and themselves.
func randomGraph(rng *rand.Rand, count int, cycles bool) plainGraph {
	p := plainGraph{auth: map[int64][]int64{}, key: map[int64]int64{}}
	for i := range count {
		id := int64(i + 1)
		if rng.IntN(3) == 0 {
			id = int64(rng.Uint64()) // unbounded, also negative
		}
		if _, ok := p.key[id]; !ok {
			p.ids = append(p.ids, id)
			p.key[id] = int64(rng.IntN(10))
		}
	}
	for i, id := range p.ids {
		reach := i
		if cycles {
			reach = len(p.ids)
		}
		for range rng.IntN(4) {
			if reach > 0 {
				p.auth[id] = append(p.auth[id], p.ids[rng.IntN(reach)])
			}
		}
	}
	return p
}

// build adds the events in random order.
func (p plainGraph) build(rng *rand.Rand) *AuthGraph {
	g := &AuthGraph{}
	for _, i := range rng.Perm(len(p.ids)) {
		id := p.ids[i]
		g.Add(id, p.auth[id], p.key[id])
	}
	return g
}

// chain is the auth chain of ids by the definition.
func (p plainGraph) chain(ids ...int64) map[int64]bool {
	seen := map[int64]bool{}
	var visit func(int64)
	visit = func(id int64) {
		for _, a := range p.auth[id] {
			if !seen[a] {
				seen[a] = true
				visit(a)
			}
		}
	}
	for _, id := range ids {
		visit(id)
	}
	return seen
}

func TestAuthGraphAgreesWithNaiveReachability(t *testing.T) {
	for seed := range uint64(80) {
		rng := rand.New(rand.NewPCG(seed, 20))
		p := randomGraph(rng, 1+rng.IntN(80), seed%4 == 0)
		g := p.build(rng)
		if g.Len() != len(p.ids) || len(g.Gaps()) != 0 {
			t.Fatalf("%d events, %d gaps, not %d events", g.Len(), len(g.Gaps()), len(p.ids))
		}
		for range 20 {
			var ids []int64
			for range rng.IntN(4) {
				ids = append(ids, p.ids[rng.IntN(len(p.ids))])
			}
			got := map[int64]bool{}
			err := g.Chain(ids, func(event, key int64) error {
				if got[event] || key != p.key[event] {
					t.Fatalf("event %d twice, or its key is not %d", event, key)
				}
				got[event] = true
				return nil
			})
			if err != nil || !maps.Equal(got, p.chain(ids...)) {
				t.Fatalf("seed %d: chain of %v is %v, %v", seed, ids, got, err)
			}
		}
		for _, from := range p.ids {
			p.checkDescends(t, g, from, rng)
		}
	}
}

// checkDescends compares Descends for a random set of current events.
func (p plainGraph) checkDescends(t *testing.T, g *AuthGraph, from int64, rng *rand.Rand) {
	t.Helper()
	current := map[int64]bool{}
	for range rng.IntN(4) {
		current[p.ids[rng.IntN(len(p.ids))]] = true
	}
	want := false
	for id := range current {
		want = want || p.chain(id)[from]
	}
	asked := map[int64]bool{}
	got, err := g.Descends(from, func(event, key int64) (bool, error) {
		if asked[event] || key != p.key[event] || !p.chain(event)[from] {
			t.Fatalf("asked for event %d twice, in vain or with key %d", event, key)
		}
		asked[event] = true
		return current[event], nil
	})
	if got != want || err != nil {
		t.Fatalf("event %d under %v: %v, %v", from, current, got, err)
	}
}

func TestAuthGraphGaps(t *testing.T) {
	var g AuthGraph
	visit := func(int64, int64) error { return nil }
	var gap *AuthGapError
	if err := g.Chain([]int64{1}, visit); !errors.As(err, &gap) || gap.Event != 1 {
		t.Errorf("chain of an unknown event: %v", err)
	}
	g.Add(30, []int64{10, 20}, 3)
	g.Add(20, []int64{10}, 2)
	if g.Len() != 2 || !slices.Equal(g.Gaps(), []int64{10}) || g.Has(10) || !g.Has(20) || g.Has(99) {
		t.Errorf("%d events, gaps %v", g.Len(), g.Gaps())
	}
	for _, id := range []int64{30, 10} {
		if err := g.Chain([]int64{id}, visit); !errors.As(err, &gap) || gap.Event != 10 {
			t.Errorf("chain of %d over a gap: %v", id, err)
		}
	}
	if got, err := g.Descends(10, func(event, _ int64) (bool, error) { return event == 20, nil }); !got || err != nil {
		t.Errorf("a gap is not cited: %v, %v", got, err)
	}
	g.Add(10, nil, 1)
	g.Add(10, []int64{30}, 7) // again: without effect
	if g.Len() != 3 || len(g.Gaps()) != 0 {
		t.Errorf("%d events, gaps %v", g.Len(), g.Gaps())
	}
	if err := g.Chain([]int64{30}, visit); err != nil {
		t.Error(err)
	}
	if got, err := g.Descends(99, nil); got || err != nil {
		t.Errorf("an unknown event is cited: %v, %v", got, err)
	}
}

func TestAuthGraphWalksEndWithTheCallersError(t *testing.T) {
	var g AuthGraph
	g.Add(1, nil, 1)
	g.Add(2, []int64{1}, 2)
	stop := errors.New("stop")
	if err := g.Chain([]int64{2}, func(int64, int64) error { return stop }); err != stop {
		t.Error(err)
	}
	if got, err := g.Descends(1, func(int64, int64) (bool, error) { return true, stop }); got || err != stop {
		t.Error(got, err)
	}
}

// roomGraph is a room of count members, who all cite create, power levels, join
// rules and the invitation of themselves.
func roomGraph(count int) *AuthGraph {
	g := &AuthGraph{}
	g.Add(1, nil, 1)
	g.Add(2, []int64{1}, 2)
	g.Add(3, []int64{1, 2}, 3)
	g.Add(4, []int64{1, 2, 3}, 4)
	for i := range count {
		id := int64(10 + 2*i)
		g.Add(id, []int64{1, 2, 3, 4}, id)
		g.Add(id+1, []int64{1, 3, 4, id}, id)
	}
	return g
}

func TestAuthGraphTakesFewBytes(t *testing.T) {
	g := roomGraph(50_000)
	if perEvent := g.Bytes() / g.Len(); perEvent > 130 {
		t.Errorf("%d bytes per event", perEvent)
	}
	asked := 0
	got, err := g.Descends(1, func(event, _ int64) (bool, error) { asked++; return event > 4, nil })
	if !got || err != nil || asked != 1 {
		t.Errorf("%v, %v; the newest event is found after %d questions", got, err, asked)
	}
	t.Logf("%d events, %d bytes", g.Len(), g.Bytes())
}

func BenchmarkAuthGraphChain100k(b *testing.B) {
	g := roomGraph(50_000)
	ids := make([]int64, 0, 50_000)
	for i := range int64(50_000) {
		ids = append(ids, 11+2*i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Chain(ids, func(int64, int64) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// The dearest question: all events descend from the first, none is current.
func BenchmarkAuthGraphDescends100k(b *testing.B) {
	g := roomGraph(50_000)
	b.ReportAllocs()
	for b.Loop() {
		if got, err := g.Descends(1, func(int64, int64) (bool, error) { return false, nil }); got || err != nil {
			b.Fatal(got, err)
		}
	}
}

func BenchmarkAuthGraphAdd100k(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		roomGraph(50_000)
	}
}
