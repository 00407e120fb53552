package spec

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// nodeStore keeps stored nodes as a database would, and counts reads.
type nodeStore struct {
	stored map[Hash][]byte
	reads  int
}

func newNodeStore() *nodeStore { return &nodeStore{stored: map[Hash][]byte{}} }

func (s *nodeStore) Node(h Hash) (*Node, error) {
	s.reads++
	stored, ok := s.stored[h]
	if !ok {
		return nil, errors.New("no such node")
	}
	return DecodeNode(h, stored)
}

// put stores nodes, and returns the bytes they take.
func (s *nodeStore) put(nodes []*Node) (size int) {
	for _, n := range nodes {
		b := n.AppendStored(nil)
		s.stored[n.Hash()] = b
		size += len(b)
	}
	return size
}

// counted runs fn and returns how many nodes it read.
func (s *nodeStore) counted(fn func()) int {
	before := s.reads
	fn()
	return s.reads - before
}

// trieMap is a trie beside the plain map that it should be equal to.
type trieMap struct {
	*nodeStore
	root   Hash
	leaves map[Hash]Leaf
}

func newTrieMap() *trieMap { return &trieMap{nodeStore: newNodeStore(), leaves: map[Hash]Leaf{}} }

// fork returns a map with the same content that shares the store.
func (m *trieMap) fork() *trieMap {
	return &trieMap{nodeStore: m.nodeStore, root: m.root, leaves: maps.Clone(m.leaves)}
}

// apply changes both sides; it returns the nodes that were created.
func (m *trieMap) apply(t testing.TB, changes ...Change) []*Node {
	t.Helper()
	root, created, err := Apply(m, m.root, changes)
	if err != nil {
		t.Fatal(err)
	}
	m.put(created)
	m.root = root
	for _, c := range changes {
		if c.Delete {
			delete(m.leaves, c.Leaf.Path)
		} else if old, ok := m.leaves[c.Leaf.Path]; !ok || old.Sum != c.Leaf.Sum {
			m.leaves[c.Leaf.Path] = c.Leaf
		}
	}
	return created
}

// sorted returns the leaves of the plain map in the order of paths.
func (m *trieMap) sorted() []Leaf {
	return slices.SortedFunc(maps.Values(m.leaves), func(a, b Leaf) int { return comparePaths(&a.Path, &b.Path) })
}

// check compares the trie with the plain map in every way of reading it.
func (m *trieMap) check(t testing.TB) {
	t.Helper()
	want := m.sorted()
	if root, _ := BuildTrie(want); root != m.root {
		t.Fatalf("root %s, but %s when the %d leaves are built at once", m.root, root, len(want))
	}
	var got []Leaf
	if err := Walk(m, m.root, func(l Leaf) error { got = append(got, l); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("walk gives %d leaves, not the %d of the map", len(got), len(want))
	}
	for _, l := range want {
		if got, ok, err := Lookup(m, m.root, l.Path); got != l || !ok || err != nil {
			t.Fatalf("lookup gives %v, %v, %v, not %v", got, ok, err, l)
		}
	}
}

// testLeaf is the leaf of member number key with event number event.
func testLeaf(key, event int) Leaf {
	k := StateKey{Type: "m.room.member", Key: fmt.Sprintf("@u%d:example.org", key)}
	return NewLeaf(k, EventID(fmt.Sprintf("$%d-%d", key, event)), int64(key), int64(event))
}

// crowdedLeaf is like testLeaf, but its path shares many digits with others,
// as no path will in practice.
func crowdedLeaf(key, event int) Leaf {
	l := testLeaf(key, event)
	shared := []int{0, 1, 5, 62, 63}[key%5]
	for i := range l.Path {
		switch {
		case i < shared/2:
			l.Path[i] = 0x11
		case i == shared/2 && shared%2 == 1:
			l.Path[i] = 0x10 | l.Path[i]&15
		}
	}
	if shared >= 62 { // make the last digits tell the keys apart
		l.Path[31] = byte(key)
	}
	return l
}

func TestTrieAgreesWithPlainMap(t *testing.T) {
	for name, leaf := range map[string]func(int, int) Leaf{"random paths": testLeaf, "crowded paths": crowdedLeaf} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				rng := rand.New(rand.NewPCG(seed, 1))
				m := newTrieMap()
				for range 60 {
					var changes []Change
					keys := 1 + rng.IntN(150) // small at times, so that maps empty again
					for range 1 + rng.IntN(1<<rng.IntN(7)) {
						changes = append(changes, Change{Leaf: leaf(rng.IntN(keys), rng.IntN(3)), Delete: rng.IntN(5) < 2})
					}
					m.apply(t, changes...)
					m.check(t)
				}
				for _, l := range m.sorted() {
					m.apply(t, Change{Leaf: Leaf{Path: l.Path}, Delete: true})
				}
				if !m.root.IsZero() {
					t.Fatalf("seed %d: root %s after all is deleted", seed, m.root)
				}
			}
		})
	}
}

func TestTrieAgreesWithReference(t *testing.T) {
	for name, leaf := range map[string]func(int, int) Leaf{"random paths": testLeaf, "crowded paths": crowdedLeaf} {
		t.Run(name, func(t *testing.T) {
			for _, count := range []int{0, 1, 2, 3, 17, 90} {
				var leaves []Leaf
				for i := range count {
					leaves = append(leaves, leaf(i, i%4))
				}
				compareToReference(t, leaves)
			}
		})
	}
}

func TestTrieRootIsIndependentOfOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var changes []Change
	for i := range 250 { // up to 255, where crowded paths begin to collide
		changes = append(changes, Change{Leaf: crowdedLeaf(i, 0)})
	}
	for i := range 100 { // come and go again
		changes = append(changes, Change{Leaf: testLeaf(1000+i, 0)})
	}
	roots := map[Hash]bool{}
	for range 5 {
		rng.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
		oneByOne, batches, once := newTrieMap(), newTrieMap(), newTrieMap()
		for i, c := range changes {
			oneByOne.apply(t, c)
			if i%37 == 0 {
				batches.apply(t, changes[i:min(i+37, len(changes))]...)
			}
		}
		once.apply(t, changes...)
		for _, m := range []*trieMap{oneByOne, batches, once} {
			for i := range 100 {
				m.apply(t, Change{Leaf: testLeaf(1000+i, 0), Delete: true})
			}
			m.check(t)
			roots[m.root] = true
		}
	}
	if len(roots) != 1 {
		t.Fatalf("%d roots for one map", len(roots))
	}
}

func TestTrieRootsAreEqualExactlyIfMapsAre(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	byContent := map[string]Hash{}
	byRoot := map[Hash]string{}
	for range 3000 {
		m, content := newTrieMap(), ""
		for key := range 4 {
			if event := rng.IntN(4); event > 0 {
				m.leaves[testLeaf(key, 0).Path] = testLeaf(key, event)
				content += fmt.Sprintf("%d=%d ", key, event)
			}
		}
		root, _ := BuildTrie(m.sorted())
		if old, ok := byContent[content]; ok && old != root {
			t.Fatalf("%q has roots %s and %s", content, old, root)
		}
		if old, ok := byRoot[root]; ok && old != content {
			t.Fatalf("%q and %q share a root", old, content)
		}
		byContent[content], byRoot[root] = root, content
	}
}

func TestApplyWithoutEffectCreatesNothing(t *testing.T) {
	m := newTrieMap()
	for i := range 50 {
		m.leaves[testLeaf(i, 0).Path] = testLeaf(i, 0)
	}
	root, nodes := BuildTrie(m.sorted())
	m.root = root
	m.put(nodes)
	other := testLeaf(7, 0)
	other.Key, other.Event = 12345, 54321
	cases := map[string][]Change{
		"no changes":                    nil,
		"the leaf that is there":        {{Leaf: testLeaf(7, 0)}},
		"the same with other local ids": {{Leaf: other}},
		"a deletion of what is absent":  {{Leaf: testLeaf(99, 0), Delete: true}},
		"a leaf set and set back":       {{Leaf: testLeaf(7, 1)}, {Leaf: testLeaf(7, 0)}},
		"a leaf added and deleted":      {{Leaf: testLeaf(99, 0)}, {Leaf: testLeaf(99, 0), Delete: true}},
	}
	for name, changes := range cases {
		got, created, err := Apply(m, root, changes)
		if got != root || len(created) != 0 || err != nil {
			t.Errorf("%s: root %s, %d nodes, %v", name, got, len(created), err)
		}
	}
	if got, created, err := Apply(m, Hash{}, []Change{{Leaf: other, Delete: true}}); !got.IsZero() || len(created) != 0 || err != nil {
		t.Errorf("deletion from the empty map: %s, %d nodes, %v", got, len(created), err)
	}
}

func TestApplyCreatesExactlyTheNewNodes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	m := newTrieMap()
	for range 200 {
		old := m.reachable(t)
		var changes []Change
		for range 1 + rng.IntN(8) {
			changes = append(changes, Change{Leaf: testLeaf(rng.IntN(300), rng.IntN(3)), Delete: rng.IntN(3) == 0})
		}
		created := map[Hash]bool{}
		for _, n := range m.apply(t, changes...) {
			if created[n.Hash()] {
				t.Fatalf("node %s created twice", n.Hash())
			}
			for _, child := range n.Children() {
				if !created[child] && !old[child] {
					t.Fatal("a node comes before its child")
				}
			}
			created[n.Hash()] = true
		}
		want := m.reachable(t)
		maps.DeleteFunc(want, func(h Hash, _ bool) bool { return old[h] })
		if !maps.Equal(created, want) {
			t.Fatalf("%d nodes created, %d are new", len(created), len(want))
		}
	}
}

// reachable returns the nodes under the root.
func (m *trieMap) reachable(t testing.TB) map[Hash]bool {
	t.Helper()
	seen := map[Hash]bool{}
	var visit func(Hash)
	visit = func(h Hash) {
		n, err := m.Node(h)
		if err != nil {
			t.Fatal(err)
		}
		seen[h] = true
		for _, child := range n.Children() {
			visit(child)
		}
	}
	if !m.root.IsZero() {
		visit(m.root)
	}
	return seen
}

func TestSortingLeavesTheCallersSlice(t *testing.T) {
	leaves := []Leaf{testLeaf(1, 0), testLeaf(2, 0), testLeaf(1, 1), testLeaf(3, 0), testLeaf(2, 0)}
	before := slices.Clone(leaves)
	root, _ := BuildTrie(leaves)
	if !slices.Equal(leaves, before) {
		t.Error("BuildTrie moved the leaves")
	}
	if want, _ := BuildTrie([]Leaf{testLeaf(1, 1), testLeaf(2, 0), testLeaf(3, 0)}); root != want {
		t.Error("the last of several leaves with one path does not count")
	}
}

// largeTrie builds a room of count members, with local ids as large as those of
// a server that has seen many rooms.
func largeTrie(count int) (*trieMap, []Leaf) {
	m := newTrieMap()
	leaves := make([]Leaf, count)
	for i := range leaves {
		leaves[i] = largeLeaf(i, 0)
	}
	root, nodes := BuildTrie(leaves)
	m.root = root
	m.put(nodes)
	return m, leaves
}

func largeLeaf(key, event int) Leaf {
	l := testLeaf(key, event)
	l.Key += 1 << 34
	l.Event += 1 << 40
	return l
}

func TestOneChangeIn100000MembersStoresAtMost4KiB(t *testing.T) {
	m, leaves := largeTrie(100_000)
	rng := rand.New(rand.NewPCG(7, 8))
	largest, sum, runs := 0, 0, 2000
	for run := range runs {
		key := rng.IntN(len(leaves))
		change := Change{Leaf: largeLeaf(key, 1)}
		switch run % 3 {
		case 1:
			change.Leaf = largeLeaf(len(leaves)+key, 1)
		case 2:
			change.Delete = true
		}
		var created []*Node
		reads := m.counted(func() {
			var err error
			if _, created, err = Apply(m, m.root, []Change{change}); err != nil {
				t.Fatal(err)
			}
		})
		size := 0
		for _, n := range created {
			size += len(n.AppendStored(nil))
		}
		if size > 4096 {
			t.Fatalf("a change of key %d stores %d bytes in %d nodes", key, size, len(created))
		}
		if reads > 10 {
			t.Fatalf("a change of key %d reads %d nodes", key, reads)
		}
		largest, sum = max(largest, size), sum+size
	}
	t.Logf("%d bytes on average, at most %d", sum/runs, largest)
}

func TestBulkBuildMakesEachNodeOnce(t *testing.T) {
	m, leaves := largeTrie(50_000)
	_, nodes := BuildTrie(leaves)
	if len(nodes) != len(m.stored) {
		t.Fatalf("%d nodes made, %d different", len(nodes), len(m.stored))
	}
	size, memory := 0, 0
	for _, n := range nodes {
		size += len(n.AppendStored(nil))
		memory += n.Size()
	}
	root, created, err := Apply(newNodeStore(), Hash{}, changesOf(leaves))
	if root != m.root || len(created) != len(nodes) || err != nil {
		t.Fatalf("applied at once: root %s, %d nodes, %v", root, len(created), err)
	}
	t.Logf("%d nodes, %d bytes stored, %d in memory", len(nodes), size, memory)
}

func changesOf(leaves []Leaf) []Change {
	changes := make([]Change, len(leaves))
	for i := range leaves {
		changes[i].Leaf = leaves[i]
	}
	return changes
}

func TestLookupReadsOneNodePerLevel(t *testing.T) {
	m, leaves := largeTrie(20_000)
	for i := 0; i < len(leaves); i += 97 {
		reads := m.counted(func() {
			if got, ok, err := Lookup(m, m.root, leaves[i].Path); got != leaves[i] || !ok || err != nil {
				t.Fatal(got, ok, err)
			}
		})
		if reads > 8 {
			t.Fatalf("%d reads for one key", reads)
		}
	}
	if _, ok, err := Lookup(m, m.root, testLeaf(-1, 0).Path); ok || err != nil {
		t.Fatal("found what is absent", err)
	}
	if _, ok, err := Lookup(m, Hash{}, leaves[0].Path); ok || err != nil {
		t.Fatal("found in the empty map", err)
	}
}

func TestTrieErrorsOfReader(t *testing.T) {
	m, leaves := largeTrie(500)
	for h := range m.stored {
		if h != m.root {
			delete(m.stored, h)
		}
	}
	fail := func(name string, err error) {
		if err == nil {
			t.Errorf("%s: no error for a missing node", name)
		}
	}
	_, _, err := Lookup(m, m.root, leaves[0].Path)
	fail("Lookup", err)
	_, _, err = Apply(m, m.root, []Change{{Leaf: leaves[0], Delete: true}})
	fail("Apply", err)
	fail("Walk", Walk(m, m.root, func(Leaf) error { return nil }))
	fail("Diff", Diff(m, m.root, Hash{}, func(_, _ *Leaf) error { return nil }))
	for name, r := range map[string]NodeReader{
		"nothing":               fixedReader{nil},
		"another node":          fixedReader{builtRoot(leaves[:3])},
		"a node of other depth": fixedReader{&Node{hash: m.root, depth: 3, leafSlots: 1, leaves: leaves[:1]}},
	} {
		_, _, err := Lookup(r, m.root, leaves[0].Path)
		fail(name, err)
	}
}

// fixedReader is a broken store that gives one node for every hash.
type fixedReader struct{ n *Node }

func (r fixedReader) Node(Hash) (*Node, error) { return r.n, nil }

// builtRoot returns the root node for leaves.
func builtRoot(leaves []Leaf) *Node {
	_, nodes := BuildTrie(leaves)
	return nodes[len(nodes)-1]
}
