package spec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unsafe"
)

// Node is a branch of a state trie with 1 to 16 entries, each a leaf or the
// hash of a node one level down. It is immutable and may be shared freely.
//
// A node's hash fixes its place: two nodes with one hash have the same entries
// at the same depth, and differ at most in the local ids of their leaves.
type Node struct {
	hash     Hash
	children []Hash // in the order of their slots
	leaves   []Leaf // in the order of their slots
	// Slots that hold a child and slots that hold a leaf, bit i for digit i;
	// no slot is in both.
	childSlots, leafSlots uint16
	depth                 uint8 // 0 for a root
}

// entry is what a slot holds: a leaf, the hash of a child, or nothing. It
// points into a node or a list of leaves, neither of which it may change.
type entry struct {
	leaf  *Leaf
	child *Hash
}

// rootEntry is the entry for a whole map: nothing for the zero root.
func rootEntry(root *Hash) entry {
	if root.IsZero() {
		return entry{}
	}
	return entry{child: root}
}

// same tells whether two entries at one place hold the same part of a map.
func (e entry) same(o entry) bool {
	switch {
	case e.leaf != nil:
		return o.leaf != nil && e.leaf.same(o.leaf)
	case e.child != nil:
		return o.child != nil && *e.child == *o.child
	}
	return o == entry{}
}

// newNode makes the node with these entries, which it copies.
func newNode(depth int, entries *[trieFanout]entry) *Node {
	n := &Node{depth: uint8(depth)}
	for slot, e := range entries {
		switch {
		case e.leaf != nil:
			n.leafSlots |= 1 << slot
		case e.child != nil:
			n.childSlots |= 1 << slot
		}
	}
	n.allocate()
	for _, e := range entries {
		switch {
		case e.leaf != nil:
			n.leaves = append(n.leaves, *e.leaf)
		case e.child != nil:
			n.children = append(n.children, *e.child)
		}
	}
	n.hash = n.sum()
	return n
}

// allocate makes room for exactly the entries that the slots announce.
func (n *Node) allocate() {
	if count := bits.OnesCount16(n.childSlots); count > 0 {
		n.children = make([]Hash, 0, count)
	}
	if count := bits.OnesCount16(n.leafSlots); count > 0 {
		n.leaves = make([]Leaf, 0, count)
	}
}

// at returns the entry in a slot.
func (n *Node) at(slot int) entry {
	bit := uint16(1) << slot
	switch {
	case n.leafSlots&bit != 0:
		return entry{leaf: &n.leaves[bits.OnesCount16(n.leafSlots&(bit-1))]}
	case n.childSlots&bit != 0:
		return entry{child: &n.children[bits.OnesCount16(n.childSlots&(bit-1))]}
	}
	return entry{}
}

// Hash returns the node's name: the SHA-256 over its entries without local ids.
func (n *Node) Hash() Hash { return n.hash }

// Children returns the hashes of the nodes directly below, for those who mark
// what is still in use. Callers must not change the slice.
func (n *Node) Children() []Hash { return n.children }

// Leaves returns the leaves that lie in the node itself, in the order of their
// paths. Callers must not change the slice.
func (n *Node) Leaves() []Leaf { return n.leaves }

// Size returns the bytes of memory that the node takes, for caches.
func (n *Node) Size() int {
	return int(unsafe.Sizeof(*n)) + cap(n.children)*len(Hash{}) + cap(n.leaves)*int(unsafe.Sizeof(Leaf{}))
}

// sum computes the hash: tag, occupied slots, slots with leaves, then in the
// order of slots path and sum of a leaf or the hash of a child.
func (n *Node) sum() Hash {
	buf := make([]byte, 1, 5+trieFanout*2*len(Hash{}))
	buf[0] = branchTag
	buf = binary.BigEndian.AppendUint16(buf, n.childSlots|n.leafSlots)
	buf = binary.BigEndian.AppendUint16(buf, n.leafSlots)
	children, leaves := n.children, n.leaves
	for slots := n.childSlots | n.leafSlots; slots != 0; slots &= slots - 1 {
		if n.leafSlots&(slots&-slots) == 0 {
			buf = append(buf, children[0][:]...)
			children = children[1:]
			continue
		}
		buf = append(buf, leaves[0].Path[:]...)
		buf = append(buf, leaves[0].Sum[:]...)
		leaves = leaves[1:]
	}
	return sha256.Sum256(buf)
}

// AppendStored appends the form in which the node is stored, which DecodeNode
// reads. Unlike the hashed form it has the leaves' local ids.
func (n *Node) AppendStored(dst []byte) []byte {
	dst = append(dst, n.depth)
	dst = binary.BigEndian.AppendUint16(dst, n.childSlots)
	dst = binary.BigEndian.AppendUint16(dst, n.leafSlots)
	for i := range n.leaves {
		l := &n.leaves[i]
		skip := 0
		if i > 0 {
			skip = int(n.depth) / 2 // these bytes are the first leaf's
		}
		dst = append(dst, l.Path[skip:]...)
		dst = append(dst, l.Sum[:]...)
		dst = binary.AppendUvarint(dst, uint64(l.Key))
		dst = binary.AppendUvarint(dst, uint64(l.Event))
	}
	for i := range n.children {
		dst = append(dst, n.children[i][:]...)
	}
	return dst
}

// DecodeNode reads a stored node. It keeps no reference to stored. Bytes that
// are not the stored form of a node, or of a node with another hash, are an
// error; the local ids are taken as they are, as no hash covers them.
func DecodeNode(h Hash, stored []byte) (*Node, error) {
	n, err := parseNode(stored)
	if err != nil {
		return nil, fmt.Errorf("state node %s: %w", h, err)
	}
	if n.hash = n.sum(); n.hash != h {
		return nil, fmt.Errorf("state node %s: content has hash %s", h, n.hash)
	}
	return n, nil
}

var errNodeEnds = errors.New("stored form ends early")

// parseNode reads the stored form into a node without its hash.
func parseNode(b []byte) (*Node, error) {
	if len(b) < 5 {
		return nil, errNodeEnds
	}
	n := &Node{
		depth:      b[0],
		childSlots: binary.BigEndian.Uint16(b[1:]),
		leafSlots:  binary.BigEndian.Uint16(b[3:]),
	}
	if err := n.checkShape(); err != nil {
		return nil, err
	}
	n.allocate()
	b = b[5:]
	var err error
	for slots := n.leafSlots; slots != 0; slots &= slots - 1 {
		if b, err = n.parseLeaf(b, bits.TrailingZeros16(slots)); err != nil {
			return nil, err
		}
	}
	if want := cap(n.children) * len(Hash{}); len(b) != want {
		return nil, fmt.Errorf("%d bytes of children, not %d", len(b), want)
	}
	for ; len(b) > 0; b = b[len(Hash{}):] {
		n.children = append(n.children, Hash(b[:len(Hash{})]))
	}
	return n, nil
}

// checkShape refuses slots that no canonical trie has at the node's depth.
func (n *Node) checkShape() error {
	children, leaves := bits.OnesCount16(n.childSlots), bits.OnesCount16(n.leafSlots)
	switch {
	case int(n.depth) >= trieDepth:
		return fmt.Errorf("depth %d", n.depth)
	case n.childSlots&n.leafSlots != 0:
		return errors.New("a slot is both leaf and child")
	case children+leaves == 0:
		return errors.New("no entries")
	case n.depth > 0 && children == 0 && leaves == 1:
		return errors.New("a lone leaf below the root")
	case int(n.depth) == trieDepth-1 && children > 0:
		return errors.New("children below the last digit")
	}
	return nil
}

// parseLeaf reads the leaf of a slot and returns what follows it.
func (n *Node) parseLeaf(b []byte, slot int) ([]byte, error) {
	var l Leaf
	skip := 0
	if len(n.leaves) > 0 {
		skip = copy(l.Path[:int(n.depth)/2], n.leaves[0].Path[:])
	}
	if len(b) < len(l.Path)-skip+len(l.Sum) {
		return nil, errNodeEnds
	}
	b = b[copy(l.Path[skip:], b):]
	b = b[copy(l.Sum[:], b):]
	if digit(&l.Path, int(n.depth)) != slot {
		return nil, fmt.Errorf("path %x in slot %x at depth %d", l.Path, slot, n.depth)
	}
	if n.depth%2 == 1 && len(n.leaves) > 0 && digit(&l.Path, int(n.depth)-1) != digit(&n.leaves[0].Path, int(n.depth)-1) {
		return nil, errors.New("paths of leaves part above their node")
	}
	for _, id := range []*int64{&l.Key, &l.Event} {
		v, size := binary.Uvarint(b)
		if size <= 0 || size > 1 && b[size-1] == 0 {
			return nil, errors.New("local id is not a shortest varint")
		}
		*id, b = int64(v), b[size:]
	}
	n.leaves = append(n.leaves, l)
	return b, nil
}

// comparePaths orders hashes by their bytes.
func comparePaths(a, b *Hash) int { return bytes.Compare(a[:], b[:]) }
