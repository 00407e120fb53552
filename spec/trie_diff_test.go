package spec

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// differing is one key on which maps differ: each map's leaf, or nil.
type differing struct {
	path   Hash
	leaves []*Leaf
}

// naiveDiff compares plain maps key by key.
func naiveDiff(ms ...*trieMap) []differing {
	paths := map[Hash]bool{}
	for _, m := range ms {
		for p := range m.leaves {
			paths[p] = true
		}
	}
	var out []differing
	for _, p := range slices.SortedFunc(maps.Keys(paths), func(a, b Hash) int { return comparePaths(&a, &b) }) {
		d, agree := differing{path: p}, true
		first, ok := ms[0].leaves[p]
		for _, m := range ms {
			l, found := m.leaves[p]
			agree = agree && found == ok && l.Sum == first.Sum
			if found {
				d.leaves = append(d.leaves, &l)
			} else {
				d.leaves = append(d.leaves, nil)
			}
		}
		if !agree {
			out = append(out, d)
		}
	}
	return out
}

func compareDiffs(t *testing.T, got, want []differing) {
	t.Helper()
	equal := slices.EqualFunc(got, want, func(a, b differing) bool {
		return a.path == b.path && slices.EqualFunc(a.leaves, b.leaves, func(x, y *Leaf) bool {
			return x == nil && y == nil || x != nil && y != nil && *x == *y
		})
	})
	if !equal {
		t.Fatalf("%d differences, naive comparison has %d, or others", len(got), len(want))
	}
}

func collectDiffMany(t *testing.T, r NodeReader, roots []Hash) []differing {
	t.Helper()
	var got []differing
	err := DiffMany(r, roots, func(leaves []*Leaf) error {
		at := slices.IndexFunc(leaves, func(l *Leaf) bool { return l != nil })
		got = append(got, differing{leaves[at].Path, slices.Clone(leaves)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDiffAgreesWithNaive(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		leaf := testLeaf
		if seed%2 == 1 {
			leaf = crowdedLeaf
		}
		base := newTrieMap()
		keys := 1 + rng.IntN(1<<rng.IntN(10))
		for range rng.IntN(keys + 1) {
			base.apply(t, Change{Leaf: leaf(rng.IntN(keys), 0)})
		}
		forks := make([]*trieMap, 1+rng.IntN(5))
		roots := make([]Hash, len(forks))
		for i := range forks {
			forks[i] = base.fork()
			for range rng.IntN(1 << rng.IntN(8)) {
				forks[i].apply(t, Change{Leaf: leaf(rng.IntN(keys), rng.IntN(3)), Delete: rng.IntN(3) == 0})
			}
			roots[i] = forks[i].root
		}
		compareDiffs(t, collectDiffMany(t, base, roots), naiveDiff(forks...))
		var got []differing
		err := Diff(base, base.root, forks[0].root, func(old, new *Leaf) error {
			d := differing{leaves: []*Leaf{old, new}}
			if old != nil {
				d.path = old.Path
			} else {
				d.path = new.Path
			}
			got = append(got, d)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		compareDiffs(t, got, naiveDiff(base, forks[0]))
	}
}

func TestDiffCostsNoMoreThanTheDifference(t *testing.T) {
	m, leaves := largeTrie(30_000)
	rng := rand.New(rand.NewPCG(10, 11))
	for _, count := range []int{0, 1, 2, 10, 100} {
		var changes []Change
		for range count {
			key := rng.IntN(2 * len(leaves))
			changes = append(changes, Change{Leaf: largeLeaf(key, 1), Delete: key%3 == 0 && key < len(leaves)})
		}
		root, created, err := Apply(m, m.root, changes)
		if err != nil {
			t.Fatal(err)
		}
		m.put(created)
		found := 0
		reads := m.counted(func() {
			if err := Diff(m, m.root, root, func(_, _ *Leaf) error { found++; return nil }); err != nil {
				t.Fatal(err)
			}
		})
		// Each created node, and at most one of the old trie for each.
		if found != count || reads > 2*len(created)+2*count {
			t.Errorf("%d of %d differences, %d nodes read, %d created", found, count, reads, len(created))
		}
		again := m.counted(func() {
			roots := []Hash{m.root, root, m.root, root, m.root}
			if err := DiffMany(m, roots, func([]*Leaf) error { return nil }); err != nil {
				t.Fatal(err)
			}
		})
		if again != reads {
			t.Errorf("five roots, two of them different, read %d nodes instead of %d", again, reads)
		}
	}
}

func TestDiffOfDisjointAndEmptyMaps(t *testing.T) {
	a, b := newTrieMap(), newTrieMap()
	b.nodeStore = a.nodeStore
	for i := range 40 {
		a.apply(t, Change{Leaf: testLeaf(i, 0)})
		b.apply(t, Change{Leaf: testLeaf(100+i, 0)})
	}
	empty := newTrieMap()
	for _, ms := range [][]*trieMap{{a, b}, {a, empty}, {empty, b}, {empty, empty}, {empty, a, b}, {a}, {}} {
		var roots []Hash
		for _, m := range ms {
			roots = append(roots, m.root)
		}
		var want []differing
		if len(ms) > 0 {
			want = naiveDiff(ms...)
		}
		compareDiffs(t, collectDiffMany(t, a, roots), want)
	}
}

func TestWalksEndWithTheCallersError(t *testing.T) {
	m, _ := largeTrie(100)
	stop := errors.New("stop")
	calls := 0
	fail := func() error { calls++; return stop }
	errs := []error{
		Walk(m, m.root, func(Leaf) error { return fail() }),
		Diff(m, m.root, Hash{}, func(_, _ *Leaf) error { return fail() }),
		DiffMany(m, []Hash{m.root, {}, {}}, func([]*Leaf) error { return fail() }),
	}
	for i, err := range errs {
		if err != stop {
			t.Errorf("walk %d ends with %v", i, err)
		}
	}
	if calls != len(errs) {
		t.Errorf("%d calls, not one per walk", calls)
	}
}
