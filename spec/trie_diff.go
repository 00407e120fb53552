package spec

// Diff calls fn for every key on which the maps under a and b do not agree, in
// the order of paths: old is nil if only b has the key, new if only a has it.
// Leaves that differ in their local ids alone agree. fn must not change the
// leaves, which are parts of nodes; an error of fn ends the comparison and is
// returned as it is.
//
// It reads only nodes that the two do not share, so costs O(difference).
func Diff(r NodeReader, a, b Hash, fn func(old, new *Leaf) error) error {
	return DiffMany(r, []Hash{a, b}, func(leaves []*Leaf) error { return fn(leaves[0], leaves[1]) })
}

// DiffMany calls fn for every key on which the maps under the roots do not all
// agree, in the order of paths, with each map's leaf in the order of roots; nil
// where a map lacks the key. The slice is good for that call only. Else it is
// like Diff; parts on which all agree are not read, and no node is read twice
// for several roots.
func DiffMany(r NodeReader, roots []Hash, fn func(leaves []*Leaf) error) error {
	d := differ{reader: r, leaves: make([]*Leaf, len(roots)), fn: fn}
	entries := make([]entry, len(roots))
	for i := range roots {
		entries[i] = rootEntry(&roots[i])
	}
	return d.diff(entries, 0)
}

// differ compares tries slot by slot; entries are those of all tries at one
// place.
type differ struct {
	reader NodeReader
	leaves []*Leaf
	fn     func([]*Leaf) error
	levels []*diffLevel // scratch space, one per depth
}

// diffLevel is what the comparison of one place needs until it has finished.
type diffLevel struct {
	nodes   []*Node
	entries []entry
}

func (d *differ) diff(entries []entry, depth int) error {
	equal, branches := true, false
	for _, e := range entries {
		equal = equal && e.same(entries[0])
		branches = branches || e.child != nil
	}
	if equal {
		return nil
	}
	if !branches {
		return d.diffLeaves(entries)
	}
	level := d.level(depth)
	if err := d.read(level.nodes, entries, depth); err != nil {
		return err
	}
	for slot := range trieFanout {
		for i, e := range entries {
			below := entry{}
			if n := level.nodes[i]; n != nil {
				below = n.at(slot)
			} else if e.leaf != nil && digit(&e.leaf.Path, depth) == slot {
				below = e // a leaf stands for the node that would hold it alone
			}
			level.entries[i] = below
		}
		if err := d.diff(level.entries, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// level returns the scratch space of a depth. One is enough, as the comparison
// is at one place per depth at a time.
func (d *differ) level(depth int) *diffLevel {
	for len(d.levels) <= depth {
		d.levels = append(d.levels, &diffLevel{
			nodes:   make([]*Node, len(d.leaves)),
			entries: make([]entry, len(d.leaves)),
		})
	}
	return d.levels[depth]
}

// read sets nodes to those of the entries, nil where an entry has none. The
// same child of several tries is read once.
func (d *differ) read(nodes []*Node, entries []entry, depth int) error {
	clear(nodes)
next:
	for i, e := range entries {
		if e.child == nil {
			continue
		}
		for _, n := range nodes[:i] {
			if n != nil && n.hash == *e.child {
				nodes[i] = n
				continue next
			}
		}
		n, err := readNode(d.reader, *e.child, depth)
		if err != nil {
			return err
		}
		nodes[i] = n
	}
	return nil
}

// diffLeaves reports entries that are leaves or nothing, and not all equal. It
// takes the leaves out of entries, smallest path first.
func (d *differ) diffLeaves(entries []entry) error {
	for {
		var path *Hash
		for _, e := range entries {
			if e.leaf != nil && (path == nil || comparePaths(&e.leaf.Path, path) < 0) {
				path = &e.leaf.Path
			}
		}
		if path == nil {
			return nil
		}
		agree := true
		for i, e := range entries {
			d.leaves[i] = nil
			if e.leaf != nil && e.leaf.Path == *path {
				d.leaves[i], entries[i] = e.leaf, entry{}
			}
			agree = agree && (entry{leaf: d.leaves[i]}).same(entry{leaf: d.leaves[0]})
		}
		if agree {
			continue
		}
		if err := d.fn(d.leaves); err != nil {
			return err
		}
	}
}
