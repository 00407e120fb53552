package spec

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Change sets the leaf at Leaf.Path, or with Delete removes what is there; then
// only Leaf.Path counts.
type Change struct {
	Leaf   Leaf
	Delete bool
}

// Apply returns the root of the map under root after the changes, and the nodes
// of the new map that the old one does not have, children before parents. The
// order of changes does not matter, except that of several with one path the
// last one counts. Setting what is already there (whatever its local ids) and
// removing what is not there change nothing; without any change the root is the
// old one and no node is created. The slice of changes is left as it is.
//
// It reads the nodes on the paths of the changes, each once, and writes those
// whose content changed. Errors are the reader's.
func Apply(r NodeReader, root Hash, changes []Change) (newRoot Hash, created []*Node, err error) {
	changes = sortByPath(changes, func(c *Change) *Hash { return &c.Leaf.Path })
	if len(changes) == 0 {
		return root, nil, nil
	}
	w := trieWriter{reader: r}
	after, err := w.apply(rootEntry(&root), 0, changes)
	if err != nil {
		return Hash{}, nil, err
	}
	return w.root(after), w.created, nil
}

// BuildTrie returns the root of the map with these leaves and all its nodes,
// children before parents. Leaves may come in any order, and are left in it; of
// several with one path the last one counts. Leaves that are sorted by path
// already are the fastest.
func BuildTrie(leaves []Leaf) (Hash, []*Node) {
	leaves = sortByPath(leaves, func(l *Leaf) *Hash { return &l.Path })
	var w trieWriter
	return w.root(w.build(leaves, 0)), w.created
}

// trieWriter makes nodes from the bottom up.
type trieWriter struct {
	reader  NodeReader
	created []*Node
}

// root returns the root for the entry of a whole map. The root alone is a node
// even if it has a single leaf.
func (w *trieWriter) root(e entry) Hash {
	if e.leaf != nil {
		var entries [trieFanout]entry
		entries[digit(&e.leaf.Path, 0)] = e
		e = w.node(0, &entries)
	}
	if e.child == nil {
		return Hash{}
	}
	return *e.child
}

// node makes a node and returns the entry for it.
func (w *trieWriter) node(depth int, entries *[trieFanout]entry) entry {
	n := newNode(depth, entries)
	w.created = append(w.created, n)
	return entry{child: &n.hash}
}

// build returns the entry at depth for leaves in the order of their paths,
// which are distinct and agree in all digits above depth.
func (w *trieWriter) build(leaves []Leaf, depth int) entry {
	switch len(leaves) {
	case 0:
		return entry{}
	case 1:
		return entry{leaf: &leaves[0]}
	}
	var entries [trieFanout]entry
	for len(leaves) > 0 {
		slot, end := digit(&leaves[0].Path, depth), 1
		for end < len(leaves) && digit(&leaves[end].Path, depth) == slot {
			end++
		}
		entries[slot] = w.build(leaves[:end], depth+1)
		leaves = leaves[end:]
	}
	return w.node(depth, &entries)
}

// apply returns the entry at depth after changes, which are in the order of
// their distinct paths and belong below the entry.
func (w *trieWriter) apply(before entry, depth int, changes []Change) (entry, error) {
	if before.child == nil {
		return w.build(mergeLeaf(before.leaf, changes), depth), nil
	}
	n, err := readNode(w.reader, *before.child, depth)
	if err != nil {
		return entry{}, err
	}
	var entries [trieFanout]entry
	for slot := range entries {
		entries[slot] = n.at(slot)
	}
	changed := false
	for len(changes) > 0 {
		slot, end := digit(&changes[0].Leaf.Path, depth), 1
		for end < len(changes) && digit(&changes[end].Leaf.Path, depth) == slot {
			end++
		}
		after, err := w.apply(entries[slot], depth+1, changes[:end])
		if err != nil {
			return entry{}, err
		}
		if !after.same(entries[slot]) {
			entries[slot], changed = after, true
		}
		changes = changes[end:]
	}
	if !changed {
		return before, nil
	}
	return w.collapse(depth, &entries), nil
}

// collapse returns the entry for changed entries of a node: the leaf itself if
// only one is left, so that the form is as if the others had never been there.
func (w *trieWriter) collapse(depth int, entries *[trieFanout]entry) entry {
	var last entry
	count := 0
	for _, e := range entries {
		if e != (entry{}) {
			last = e
			count++
		}
	}
	if count == 0 || count == 1 && last.leaf != nil {
		return last
	}
	return w.node(depth, entries)
}

// mergeLeaf returns the leaves, in the order of their paths, that changes make
// of a place where there was one leaf or, with nil, none.
func mergeLeaf(old *Leaf, changes []Change) []Leaf {
	leaves := make([]Leaf, 0, len(changes)+1)
	for i := range changes {
		c := &changes[i]
		if old != nil {
			order := comparePaths(&old.Path, &c.Leaf.Path)
			if order < 0 {
				leaves = append(leaves, *old)
			}
			if order <= 0 {
				old = nil
			}
		}
		if !c.Delete {
			leaves = append(leaves, c.Leaf)
		}
	}
	if old != nil {
		leaves = append(leaves, *old)
	}
	return leaves
}

// sortByPath returns the items in the order of their paths, of several with one
// path only the last. It returns the slice itself if it is like that already,
// else a copy.
func sortByPath[T any](items []T, path func(*T) *Hash) []T {
	sorted := true
	for i := 1; i < len(items) && sorted; i++ {
		sorted = comparePaths(path(&items[i-1]), path(&items[i])) < 0
	}
	if sorted {
		return items
	}
	// Items are large: sort their positions, by the first bytes of the path
	// where these settle it.
	type position struct {
		prefix uint64
		index  int
	}
	order := make([]position, len(items))
	for i := range items {
		order[i] = position{binary.BigEndian.Uint64(path(&items[i])[:]), i}
	}
	slices.SortFunc(order, func(a, b position) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix),
			comparePaths(path(&items[a.index]), path(&items[b.index])),
			cmp.Compare(a.index, b.index))
	})
	out := make([]T, 0, len(items))
	for i, p := range order {
		if i > 0 && *path(&items[p.index]) == *path(&out[len(out)-1]) {
			out = out[:len(out)-1]
		}
		out = append(out, items[p.index])
	}
	return out
}
