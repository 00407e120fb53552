package spec

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// The state of a room is an immutable map from (type, state key) to event id,
// kept as a hash array mapped trie: 16-way, over the 64 hex digits of the
// SHA-256 of the key. A node is named by the hash of its content, so snapshots
// share all that they have in common, two maps are equal exactly if their roots
// are, and comparing two costs no more than their difference. The form is
// canonical: below the root no node has a single leaf under it, whatever order
// of insertions and deletions led there. state-root.md specifies all bytes.

const (
	trieFanout = 16
	trieDepth  = 2 * len(Hash{}) // digits of a path; distinct paths part before it
)

// Tags that keep the hashed inputs apart. A path's input begins with the
// length of the type, so with a zero byte, as no event holds 16 MiB.
const (
	leafTag   = 0x01
	branchTag = 0x02
)

// Leaf is one entry of a state map. Path says where it lies and Sum what it
// says; both are the same on every server. Key and Event are this server's
// integer ids for the state key and the event; no hash covers them.
type Leaf struct {
	Path, Sum  Hash
	Key, Event int64
}

// StatePath returns the path of a state key: the SHA-256 of its type and state
// key, each behind its length as 32-bit big-endian number.
func StatePath(k StateKey) Hash {
	buf := make([]byte, 0, 512)
	buf = appendPrefixed(buf, k.Type)
	buf = appendPrefixed(buf, k.Key)
	return sha256.Sum256(buf)
}

// NewLeaf returns the leaf that maps k to the event id, with the local ids of
// the state key and the event.
func NewLeaf(k StateKey, id EventID, key, event int64) Leaf {
	buf := make([]byte, 1, 512)
	buf[0] = leafTag
	buf = appendPrefixed(buf, k.Type)
	buf = appendPrefixed(buf, k.Key)
	path := sha256.Sum256(buf[1:])
	buf = appendPrefixed(buf, string(id))
	return Leaf{Path: path, Sum: sha256.Sum256(buf), Key: key, Event: event}
}

func appendPrefixed(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// same tells whether two leaves are the same entry on every server.
func (l *Leaf) same(o *Leaf) bool { return l.Path == o.Path && l.Sum == o.Sum }

// digit returns the digit of a path that chooses the slot in a node at depth.
func digit(path *Hash, depth int) int {
	b := path[depth/2]
	if depth%2 == 0 {
		return int(b >> 4)
	}
	return int(b & 15)
}

// NodeReader gives the nodes of one room's tries by hash. An unknown hash is an
// error. It must be as safe for concurrent calls as the use made of it; the
// functions of this package call it from the calling goroutine only.
type NodeReader interface {
	Node(Hash) (*Node, error)
}

// readNode gets the node at a depth. It verifies that it is the node asked for
// and at its place, so that no store, however wrong, makes a walk go round.
func readNode(r NodeReader, h Hash, depth int) (*Node, error) {
	n, err := r.Node(h)
	switch {
	case err != nil:
		return nil, fmt.Errorf("state node %s: %w", h, err)
	case n == nil || n.hash != h:
		return nil, fmt.Errorf("state node %s: the reader gave another node", h)
	case int(n.depth) != depth:
		return nil, fmt.Errorf("state node %s: made for depth %d, found at %d", h, n.depth, depth)
	}
	return n, nil
}

// Lookup finds the leaf with the path in the map under root; false if there is
// none. It reads one node per level, about log16 of the number of entries.
func Lookup(r NodeReader, root, path Hash) (Leaf, bool, error) {
	at := rootEntry(&root)
	for depth := 0; at.child != nil; depth++ {
		n, err := readNode(r, *at.child, depth)
		if err != nil {
			return Leaf{}, false, err
		}
		at = n.at(digit(&path, depth))
	}
	if at.leaf == nil || at.leaf.Path != path {
		return Leaf{}, false, nil
	}
	return *at.leaf, true, nil
}

// Walk calls fn for every leaf of the map under root, in the order of paths. An
// error of fn ends the walk and is returned as it is.
func Walk(r NodeReader, root Hash, fn func(Leaf) error) error {
	return walkEntry(r, rootEntry(&root), 0, fn)
}

func walkEntry(r NodeReader, e entry, depth int, fn func(Leaf) error) error {
	if e.leaf != nil {
		return fn(*e.leaf)
	}
	if e.child == nil {
		return nil
	}
	n, err := readNode(r, *e.child, depth)
	if err != nil {
		return err
	}
	for slot := range trieFanout {
		if err := walkEntry(r, n.at(slot), depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}
