package spec

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// refNode is a node as state-root.md defines it.
type refNode struct {
	hash   Hash
	stored []byte
}

// refTrie is the definition of state-root.md word for word, slow and without
// any of the code under test: a recursion over the sorted list of entries.
func refTrie(leaves []Leaf) (Hash, []refNode) {
	if len(leaves) == 0 {
		return Hash{}, nil
	}
	sorted := slices.Clone(leaves)
	slices.SortFunc(sorted, func(a, b Leaf) int {
		return cmp.Compare(hex.EncodeToString(a.Path[:]), hex.EncodeToString(b.Path[:]))
	})
	var nodes []refNode
	root := refBranch(sorted, 0, &nodes)
	return root, nodes
}

func refBranch(leaves []Leaf, depth int, nodes *[]refNode) Hash {
	var occupied, leafSlots, childSlots uint16
	var slots, storedLeaves, storedChildren bytes.Buffer
	for slot := range 16 {
		var here []Leaf
		for _, l := range leaves {
			if hex.EncodeToString(l.Path[:])[depth] == "0123456789abcdef"[slot] {
				here = append(here, l)
			}
		}
		switch {
		case len(here) == 1:
			path := here[0].Path[:]
			slots.Write(path)
			slots.Write(here[0].Sum[:])
			if storedLeaves.Len() > 0 {
				path = path[depth/2:]
			}
			storedLeaves.Write(path)
			storedLeaves.Write(here[0].Sum[:])
			storedLeaves.Write(refVarint(uint64(here[0].Key)))
			storedLeaves.Write(refVarint(uint64(here[0].Event)))
			leafSlots |= 1 << slot
		case len(here) > 1:
			child := refBranch(here, depth+1, nodes)
			slots.Write(child[:])
			storedChildren.Write(child[:])
			childSlots |= 1 << slot
		}
	}
	occupied = leafSlots | childSlots
	var hashed, stored bytes.Buffer
	for _, v := range []any{uint8(2), occupied, leafSlots, slots.Bytes()} {
		_ = binary.Write(&hashed, binary.BigEndian, v)
	}
	for _, v := range []any{uint8(depth), childSlots, leafSlots, storedLeaves.Bytes(), storedChildren.Bytes()} {
		_ = binary.Write(&stored, binary.BigEndian, v)
	}
	h := Hash(sha256.Sum256(hashed.Bytes()))
	*nodes = append(*nodes, refNode{h, stored.Bytes()})
	return h
}

func refVarint(v uint64) []byte {
	var out []byte
	for ; v > 127; v /= 128 {
		out = append(out, byte(v%128)+128)
	}
	return append(out, byte(v))
}

// refLeaf is NewLeaf as state-root.md defines it.
func refLeaf(k StateKey, id EventID, key, event int64) Leaf {
	field := func(s string) string {
		return string([]byte{byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))}) + s
	}
	return Leaf{
		Path:  sha256.Sum256([]byte(field(k.Type) + field(k.Key))),
		Sum:   sha256.Sum256([]byte("\x01" + field(k.Type) + field(k.Key) + field(string(id)))),
		Key:   key,
		Event: event,
	}
}

// stateVectors is the JSON block of state-root.md.
type stateVectors struct {
	Leaves []struct {
		Type     string  `json:"type"`
		StateKey string  `json:"state_key"`
		EventID  EventID `json:"event_id"`
		Path     Hash    `json:"path"`
		Leaf     Hash    `json:"leaf"`
	} `json:"leaves"`
	Maps []struct {
		Name    string     `json:"name"`
		Entries [][3]int64 `json:"entries"`
		Root    Hash       `json:"root"`
		Nodes   []struct {
			Hash   Hash   `json:"hash"`
			Stored string `json:"stored"`
		} `json:"nodes"`
	} `json:"maps"`
	Generated struct {
		Type        string `json:"type"`
		StateKey    string `json:"state_key"`
		EventID     string `json:"event_id"`
		Count       int    `json:"count"`
		Root        Hash   `json:"root"`
		Nodes       int    `json:"nodes"`
		StoredBytes int    `json:"stored_bytes"`
	} `json:"generated"`
}

func readStateVectors(t *testing.T) stateVectors {
	t.Helper()
	page, err := os.ReadFile("state-root.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(page), "```json vectors\n")
	block, _, end := strings.Cut(block, "```")
	if !ok || !end {
		t.Fatal("state-root.md has no block of vectors")
	}
	var v stateVectors
	d := json.NewDecoder(strings.NewReader(block))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Page, reference and implementation must agree; the reference is what makes
// the vectors more than a copy of the output.
func TestStateRootVectors(t *testing.T) {
	v := readStateVectors(t)
	for _, l := range v.Leaves {
		key := StateKey{Type: l.Type, Key: l.StateKey}
		want := Leaf{Path: l.Path, Sum: l.Leaf, Key: 7, Event: 8}
		if got := refLeaf(key, l.EventID, 7, 8); got != want {
			t.Errorf("reference: leaf of %v is %v", key, got)
		}
		if got := NewLeaf(key, l.EventID, 7, 8); got != want {
			t.Errorf("leaf of %v is %v", key, got)
		}
		if got := StatePath(key); got != l.Path {
			t.Errorf("path of %v is %s", key, got)
		}
	}
	for _, m := range v.Maps {
		t.Run(m.Name, func(t *testing.T) {
			var leaves []Leaf
			for _, e := range m.Entries {
				leaves = append(leaves, Leaf{Path: v.Leaves[e[0]].Path, Sum: v.Leaves[e[0]].Leaf, Key: e[1], Event: e[2]})
			}
			root, nodes := refTrie(leaves)
			if root != m.Root || len(nodes) != len(m.Nodes) {
				t.Fatalf("reference: root %s of %d nodes", root, len(nodes))
			}
			for i, n := range m.Nodes {
				if n.Hash != nodes[i].hash || n.Stored != hex.EncodeToString(nodes[i].stored) {
					t.Errorf("reference: node %d is %s, %x", i, nodes[i].hash, nodes[i].stored)
				}
			}
			compareToReference(t, leaves)
		})
	}
	t.Run("generated", func(t *testing.T) {
		g, leaves := v.Generated, []Leaf(nil)
		for i := range g.Count {
			n := strconv.Itoa(i)
			key := StateKey{Type: g.Type, Key: strings.Replace(g.StateKey, "N", n, 1)}
			leaves = append(leaves, refLeaf(key, EventID(strings.Replace(g.EventID, "N", n, 1)), int64(i), int64(i)))
		}
		root, nodes := refTrie(leaves)
		size := 0
		for _, n := range nodes {
			size += len(n.stored)
		}
		if root != g.Root || len(nodes) != g.Nodes || size != g.StoredBytes {
			t.Errorf("reference: root %s of %d nodes with %d bytes", root, len(nodes), size)
		}
		compareToReference(t, leaves)
	})
}

// compareToReference builds the trie of leaves both ways, at once and one by
// one, and compares root, nodes, their order and their stored forms.
func compareToReference(t *testing.T, leaves []Leaf) {
	t.Helper()
	wantRoot, want := refTrie(leaves)
	root, nodes := BuildTrie(leaves)
	if root != wantRoot || len(nodes) != len(want) {
		t.Fatalf("root %s of %d nodes, reference: %s of %d", root, len(nodes), wantRoot, len(want))
	}
	for i, n := range nodes {
		if n.Hash() != want[i].hash || !bytes.Equal(n.AppendStored(nil), want[i].stored) {
			t.Fatalf("node %d is %s, %x, reference: %s, %x", i, n.Hash(), n.AppendStored(nil), want[i].hash, want[i].stored)
		}
		back, err := DecodeNode(n.Hash(), want[i].stored)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(back.AppendStored(nil), want[i].stored) {
			t.Fatalf("node %d does not survive decoding", i)
		}
	}
	m := newTrieMap()
	for _, l := range leaves {
		m.apply(t, Change{Leaf: l})
	}
	if m.root != wantRoot {
		t.Fatalf("root %s one by one, reference: %s", m.root, wantRoot)
	}
}
