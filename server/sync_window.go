package server

import (
	"math"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// Bounds of what is kept of the log by room.
const (
	// windowMost is how many entries the window of one room has at most, which
	// is then cut to half.
	windowMost = 512
	// windowsBytes bounds the windows of all rooms together.
	windowsBytes = 12 << 20
	// windowEntryBytes is about what an entry takes, with its share of the slice.
	windowEntryBytes = 48
)

// roomWindow is what is known in memory of a room's latest log entries.
// Guarded by Sync.mu.
type roomWindow struct {
	nid int64
	id  spec.RoomID
	// entries has every entry of the room after position from, in order.
	// Elements are never changed, so a copy of the slice may be read without the
	// lock.
	from    int64
	entries []windowEntry
	roots   []rootSpan             // roots of the current state that were asked for
	users   map[*liveUser]struct{} // live users that are joined
	used    int64                  // tick of the last use
	// memberPos is the position of the last entry that changed who is in the
	// room or what it is called, as far as the window knows.
	memberPos int64
	summary   *roomSummary // nil: not known
}

// windowEntry is a log entry as windows keep it.
type windowEntry struct {
	pos, event int64
	kind       storage.LogKind
	gap        bool // clients lack something before it
	state      bool // the current state may have changed with it
	summary    bool // the room's summary may have changed with it
}

func newWindowEntry(e *storage.LogEntry) windowEntry {
	w := windowEntry{pos: e.Pos, event: e.EventNID, kind: e.Kind, gap: e.Kind == storage.LogEvent && hasGap(e.Text)}
	switch {
	case e.Kind == storage.LogState, e.Kind == storage.LogEvent && (e.Event == nil || e.Event.Event.IsState()):
		w.state = true
	}
	if w.state {
		w.summary = true
		if e.Event != nil {
			switch e.Event.Event.Type {
			case spec.TypeMember, typeName, typeCanonicalAlias:
			default:
				w.summary = false
			}
		}
	}
	return w
}

// last is the position of the last entry known; entries up to from may be later
// than what it says when there is none in the window.
func (w *roomWindow) last() int64 {
	if n := len(w.entries); n > 0 {
		return w.entries[n-1].pos
	}
	return w.from
}

func (w *roomWindow) addLocked(e windowEntry) {
	w.entries = append(w.entries, e)
	if e.state {
		for i := range w.roots {
			w.roots[i].to = min(w.roots[i].to, e.pos-1)
		}
	}
	if e.summary {
		w.memberPos = e.pos
	}
}

// cutLocked leaves the newest keep entries and returns how many went.
func (w *roomWindow) cutLocked(keep int) int {
	n := len(w.entries) - keep
	if n <= 0 {
		return 0
	}
	w.from = w.entries[n-1].pos
	w.entries = slices.Clone(w.entries[n:])
	return n
}

// extendLocked puts older entries, newest first, before the window, which must
// still begin at upTo; the window is then complete after position from. It
// returns how many were added.
func (w *roomWindow) extendLocked(upTo, from int64, older []windowEntry) int {
	if w.from != upTo || len(w.entries)+len(older) > windowMost/2 {
		return 0
	}
	all := make([]windowEntry, 0, len(older)+len(w.entries)+8)
	for _, e := range slices.Backward(older) {
		all = append(all, e)
		if e.summary {
			w.memberPos = max(w.memberPos, e.pos)
		}
	}
	w.entries, w.from = append(all, w.entries...), from
	return len(older)
}

// trimLocked keeps the windows within their bounds: those not used for long
// lose their entries.
func (s *Sync) trimLocked() {
	for s.held*windowEntryBytes > windowsBytes || len(s.windows) > windowsMost {
		var oldest *roomWindow
		tried := 0
		for _, w := range s.windows { // any few of them
			if oldest == nil || w.used < oldest.used || len(oldest.entries) == 0 && len(oldest.users) > 0 {
				oldest = w
			}
			if tried++; tried == 16 {
				break
			}
		}
		if oldest == nil {
			return
		}
		oldest.used = s.tick
		s.held -= oldest.cutLocked(0)
		oldest.roots, oldest.summary = nil, nil
		if len(oldest.users) == 0 {
			delete(s.windows, oldest.nid)
		} else if s.held*windowEntryBytes <= windowsBytes {
			return
		}
	}
}

// windowsMost is how many rooms have a window at most, those of live users
// aside.
const windowsMost = 50_000

// rootSpan says that the room's current state had a root from one position to
// another, both included.
type rootSpan struct {
	from, to int64
	root     spec.Hash
}

// rootSpansMost is how many roots are remembered of one room.
const rootSpansMost = 8

// rootLocked returns the root of the room's current state as of a position, if
// it is known.
func (w *roomWindow) rootLocked(pos int64) (spec.Hash, bool) {
	for i := range w.roots {
		if r := &w.roots[i]; r.from <= pos && pos <= r.to {
			return r.root, true
		}
	}
	return spec.Hash{}, false
}

// setRootLocked remembers that the root as of pos has been in force since a
// position.
func (w *roomWindow) setRootLocked(since, pos int64, root spec.Hash) {
	to := pos
	if w.from <= pos {
		to = math.MaxInt64
		for _, e := range w.entries {
			if e.pos > pos && e.state {
				to = e.pos - 1
				break
			}
		}
	}
	for i := range w.roots {
		if r := &w.roots[i]; r.from == since && r.root == root {
			r.to = max(r.to, to)
			return
		}
	}
	if len(w.roots) >= rootSpansMost {
		w.roots = slices.Delete(w.roots, 0, 1)
	}
	w.roots = append(w.roots, rootSpan{from: since, to: to, root: root})
}
