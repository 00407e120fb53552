package spec

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// storedNode builds the stored form of a node by hand.
func storedNode(depth byte, children, leaves uint16, parts ...[]byte) []byte {
	b := []byte{depth, byte(children >> 8), byte(children), byte(leaves >> 8), byte(leaves)}
	return append(b, slices.Concat(parts...)...)
}

func TestDecodeNodeRefuses(t *testing.T) {
	path := func(digits string) []byte { // the rest of the digits is zero
		p := make([]byte, 32)
		for i, d := range []byte(digits) {
			p[i/2] |= (d - '0') << (4 * (1 - i%2))
		}
		return p
	}
	sum, ids := bytes.Repeat([]byte{7}, 32), []byte{1, 2}
	good := storedNode(0, 1<<3, 1<<2, path("2"), sum, ids, sum)
	cases := map[string]struct {
		stored []byte
		err    string
	}{
		"nothing":                     {nil, "ends early"},
		"half a header":               {good[:4], "ends early"},
		"no slots":                    {storedNode(0, 0, 0), "no entries"},
		"a slot of both kinds":        {storedNode(0, 6, 2, path("1"), sum, ids, sum, sum), "both leaf and child"},
		"depth 64":                    {storedNode(64, 0, 6, path("1"), sum, ids, sum), "depth 64"},
		"a newer format":              {append([]byte{0x40}, good[1:]...), "depth 64"},
		"a lone leaf at depth 1":      {storedNode(1, 0, 2, path("01"), sum, ids), "lone leaf"},
		"children at depth 63":        {storedNode(63, 3, 0, sum, sum), "last digit"},
		"a leaf that is cut":          {good[:60], "ends early"},
		"a leaf without its ids":      {good[:5+64], "varint"},
		"a leaf in another's slot":    {storedNode(0, 1<<3, 1<<4, path("2"), sum, ids, sum), "in slot 4"},
		"leaves of different parents": {storedNode(1, 0, 6, path("11"), sum, ids, path("22"), sum, ids), "part above"},
		"a long varint":               {storedNode(0, 0, 4, path("2"), sum, []byte{0x81, 0, 2}), "varint"},
		"a varint of 65 bits":         {storedNode(0, 0, 4, path("2"), sum, bytes.Repeat([]byte{0xff}, 9), []byte{2, 1}), "varint"},
		"a child that is cut":         {good[:len(good)-1], "bytes of children"},
		"bytes to spare":              {append(slices.Clone(good), 0), "bytes of children"},
		"another hash":                {good, "has hash"},
	}
	for name, c := range cases {
		n, err := DecodeNode(Hash{1}, c.stored)
		if n != nil || err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", name, n, err)
		}
	}
	n, err := parseNode(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeNode(n.sum(), good); err != nil {
		t.Errorf("a good node: %v", err)
	}
}

func TestDecodeNodeFindsEveryChangedBit(t *testing.T) {
	_, nodes := BuildTrie([]Leaf{crowdedLeaf(0, 0), crowdedLeaf(2, 0), crowdedLeaf(7, 0), crowdedLeaf(12, 0)})
	for _, n := range nodes {
		stored := n.AppendStored(nil)
		for bit := range 8 * len(stored) {
			changed := slices.Clone(stored)
			changed[bit/8] ^= 1 << (bit % 8)
			got, err := DecodeNode(n.Hash(), changed)
			if err != nil {
				continue
			}
			// Left are the local ids, which nothing commits to, and the depth of
			// a node without two leaves, which a descent compares.
			if got.depth == n.depth && slices.EqualFunc(got.leaves, n.leaves, func(a, b Leaf) bool { return a.Key == b.Key && a.Event == b.Event }) {
				t.Errorf("bit %d of %x goes unnoticed", bit, stored)
			}
		}
	}
}

func TestLocalIDsOfAnySizeSurvive(t *testing.T) {
	for _, id := range []int64{0, 1, 127, 128, 1 << 40, 1<<63 - 1, -1, -1 << 63} {
		l := testLeaf(1, 1)
		l.Key, l.Event = id, -id
		n := builtRoot([]Leaf{l})
		back, err := DecodeNode(n.Hash(), n.AppendStored(nil))
		if err != nil || back.Leaves()[0] != l {
			t.Errorf("id %d: %v", id, err)
		}
	}
}

func FuzzDecodeNode(f *testing.F) {
	for _, count := range []int{1, 2, 16, 60} {
		var leaves []Leaf
		for i := range count {
			leaves = append(leaves, crowdedLeaf(i, 0))
		}
		_, nodes := BuildTrie(leaves)
		for _, n := range nodes {
			f.Add(n.AppendStored(nil))
		}
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		if _, err := DecodeNode(Hash{}, stored); err == nil {
			t.Fatal("a node with the zero hash")
		}
		n, err := parseNode(stored)
		if err != nil {
			return
		}
		// What is accepted has one encoding, and any descent through it ends.
		back, err := DecodeNode(n.sum(), stored)
		if err != nil || !bytes.Equal(back.AppendStored(nil), stored) {
			t.Fatalf("%x becomes %x, %v", stored, back.AppendStored(nil), err)
		}
		for slot := range trieFanout {
			if l := back.at(slot).leaf; l != nil && digit(&l.Path, int(back.depth)) != slot {
				t.Fatalf("leaf %v in slot %d", l, slot)
			}
		}
		_ = Walk(fixedReader{back}, back.hash, func(Leaf) error { return nil })
		_, _, _ = Lookup(fixedReader{back}, back.hash, Hash{})
	})
}
