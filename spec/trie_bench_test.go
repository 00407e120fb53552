package spec

import "testing"

// decodedStore keeps nodes decoded, as a warm cache does.
type decodedStore map[Hash]*Node

func (s decodedStore) Node(h Hash) (*Node, error) { return s[h], nil }

func benchTrie(count int) (decodedStore, Hash, []Leaf) {
	leaves := make([]Leaf, count)
	for i := range leaves {
		leaves[i] = largeLeaf(i, 0)
	}
	root, nodes := BuildTrie(leaves)
	s := decodedStore{}
	for _, n := range nodes {
		s[n.Hash()] = n
	}
	return s, root, leaves
}

func BenchmarkTrieLookup(b *testing.B) {
	s, root, leaves := benchTrie(100_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok, err := Lookup(s, root, leaves[i*7919%len(leaves)].Path); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkTrieApplyOneIn100k(b *testing.B) {
	s, root, leaves := benchTrie(100_000)
	changed := make([]Leaf, 1000)
	for i := range changed {
		changed[i] = largeLeaf(i*97%len(leaves), 1)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, err := Apply(s, root, []Change{{Leaf: changed[i%len(changed)]}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrieBuild50k(b *testing.B) {
	leaves := make([]Leaf, 50_000)
	for i := range leaves {
		leaves[i] = largeLeaf(i, 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		BuildTrie(leaves)
	}
}

func BenchmarkTrieDiffOneIn100k(b *testing.B) {
	s, root, _ := benchTrie(100_000)
	other, created, err := Apply(s, root, []Change{{Leaf: largeLeaf(5, 1)}})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range created {
		s[n.Hash()] = n
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := Diff(s, root, other, func(_, _ *Leaf) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrieWalk50k(b *testing.B) {
	s, root, _ := benchTrie(50_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := Walk(s, root, func(Leaf) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeNode(b *testing.B) {
	s, root, _ := benchTrie(100_000)
	stored := s[root].AppendStored(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeNode(root, stored); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewLeaf(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewLeaf(StateKey{Type: "m.room.member", Key: "@alice:example.org"}, "$bFzWd160EiB_f3HxHwkEfxR1srdSYGMZW3d6Iw_kwqY", 1, 2)
	}
}
