package server

import (
	"context"
	"errors"

	"atoll/spec"
	"atoll/storage"
)

// source is what an answer is computed from: memory, and one transaction of the
// database for what memory lacks. It is used by one goroutine.
type source struct {
	rooms *Rooms
	s     *Sync // nil where rooms are read outside of sync
	ctx   context.Context
	// tx is nil at the first attempt, which must do without the database and
	// gives errNotInMemory where it cannot.
	tx  *storage.Tx
	gen int64 // of the cache of events when the transaction began
}

// errNotInMemory ends an attempt to compute an answer without the database.
var errNotInMemory = errors.New("not in memory")

// compute runs fn on memory alone and, if that does not suffice, again within a
// transaction. fn must begin anew each time.
func (rs *Rooms) compute(ctx context.Context, s *Sync, fn func(*source) error) error {
	err := fn(&source{rooms: rs, s: s, ctx: ctx})
	if !errors.Is(err, errNotInMemory) {
		return err
	}
	gen := rs.cache.generation()
	return rs.db.Read(ctx, func(tx *storage.Tx) error {
		return fn(&source{rooms: rs, s: s, ctx: ctx, tx: tx, gen: gen})
	})
}

// database returns the transaction, errNotInMemory at the first attempt.
func (src *source) database() (*storage.Tx, error) {
	if src.tx == nil {
		return nil, errNotInMemory
	}
	return src.tx, src.ctx.Err()
}

// event returns an event by local id; storage.ErrNotFound if it is not stored.
func (src *source) event(nid int64) (*storage.EventRow, error) {
	if row, ok := src.rooms.cache.byNID.GetIfPresent(nid); ok {
		return row, nil
	}
	rows, err := src.events([]int64{nid})
	if err == nil && rows[0] == nil {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// events returns events by local id, nil for those that are not stored.
func (src *source) events(nids []int64) ([]*storage.EventRow, error) {
	out := make([]*storage.EventRow, len(nids))
	var missing []int64
	for i, nid := range nids {
		if row, ok := src.rooms.cache.byNID.GetIfPresent(nid); ok {
			out[i] = row
		} else {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	tx, err := src.database()
	if err != nil {
		return nil, err
	}
	rows, err := tx.EventsByNIDs(missing)
	if err != nil {
		return nil, err
	}
	found := make(map[int64]*storage.EventRow, len(rows))
	for i := range rows {
		found[rows[i].NID] = &rows[i]
		src.rooms.cache.putRead(src.gen, &rows[i])
	}
	for i, nid := range nids {
		if out[i] == nil {
			out[i] = found[nid]
		}
	}
	return out, nil
}

// eventByID returns an event of a room; storage.ErrNotFound if it is not stored.
func (src *source) eventByID(room int64, id spec.EventID) (*storage.EventRow, error) {
	if nid, ok := src.rooms.cache.byID.GetIfPresent(eventKey{room, id}); ok {
		return src.event(nid)
	}
	tx, err := src.database()
	if err != nil {
		return nil, err
	}
	row, err := tx.EventByID(room, id)
	if err != nil {
		return nil, err
	}
	src.rooms.cache.putRead(src.gen, &row)
	return &row, nil
}

// stateNodes reads the state tries of a room.
type stateNodes struct {
	src  *source
	room int64
}

// Node implements spec.NodeReader.
func (n stateNodes) Node(h spec.Hash) (*spec.Node, error) {
	key := nodeKey{n.room, h}
	if node, ok := n.src.rooms.cache.nodes.GetIfPresent(key); ok {
		return node, nil
	}
	tx, err := n.src.database()
	if err != nil {
		return nil, err
	}
	node, err := tx.StateNode(n.room, h)
	if err == nil {
		n.src.rooms.cache.nodes.Set(key, node)
	}
	return node, err
}

// nodes returns a reader of a room's state tries.
func (src *source) nodes(room int64) stateNodes { return stateNodes{src, room} }

// stateNID returns the local id of the event under a path of a state, 0 if there
// is none.
func (src *source) stateNID(room int64, root, path spec.Hash) (int64, error) {
	leaf, ok, err := spec.Lookup(src.nodes(room), root, path)
	if err != nil || !ok {
		return 0, err
	}
	return leaf.Event, nil
}

// stateEvent returns the event under a key of a state, nil if there is none.
func (src *source) stateEvent(room int64, root spec.Hash, k spec.StateKey) (*storage.EventRow, error) {
	nid, err := src.stateNID(room, root, spec.StatePath(k))
	if err != nil || nid == 0 {
		return nil, err
	}
	return src.event(nid)
}

// rootAt returns the root of a room's current state as of a log position.
func (src *source) rootAt(w *roomWindow, pos int64) (spec.Hash, error) {
	src.s.mu.Lock()
	root, ok := w.rootLocked(pos)
	src.s.mu.Unlock()
	if ok {
		return root, nil
	}
	tx, err := src.database()
	if err != nil {
		return root, err
	}
	since, root, err := tx.RoomRootSince(w.nid, pos)
	if err != nil {
		return root, err
	}
	src.s.mu.Lock()
	defer src.s.mu.Unlock()
	w.setRootLocked(since, pos, root)
	return root, nil
}

// roomLog reads the log of one room backward: first from the window as it was
// when the answer was begun, then from the database.
type roomLog struct {
	src     *source
	window  *roomWindow
	entries []windowEntry // not after now
	from    int64         // entries is complete after this position
}

// roomLogLocked returns the room's log up to a position. s.mu is held.
func (src *source) roomLogLocked(w *roomWindow, upTo int64) roomLog {
	w.used = src.s.tick
	n := len(w.entries)
	for n > 0 && w.entries[n-1].pos > upTo {
		n--
	}
	return roomLog{src: src, window: w, entries: w.entries[:n:n], from: min(w.from, upTo)}
}

// logChunk is how many entries of a room are read at a time.
const logChunk = 64

// back calls fn for the entries with after < position ≤ upTo, newest first, until
// it returns false.
func (l *roomLog) back(after, upTo int64, fn func(*windowEntry) (bool, error)) error {
	for i := len(l.entries) - 1; i >= 0; i-- {
		e := &l.entries[i]
		if e.pos > upTo {
			continue
		}
		if e.pos <= after {
			return nil
		}
		if l.src.tx != nil && i%logChunk == logChunk-1 {
			l.prefetch(l.entries[max(0, i-logChunk):i])
		}
		if more, err := fn(e); err != nil || !more {
			return err
		}
	}
	if after >= l.from {
		return nil
	}
	return l.older(after, min(upTo, l.from), fn)
}

// prefetch brings the events of entries into memory with one query.
func (l *roomLog) prefetch(entries []windowEntry) {
	nids := make([]int64, 0, len(entries))
	for i := range entries {
		if entries[i].event != 0 {
			nids = append(nids, entries[i].event)
		}
	}
	_, _ = l.src.events(nids) // what fails here fails again where it counts
}

// older is back for entries that the window does not have.
func (l *roomLog) older(after, upTo int64, fn func(*windowEntry) (bool, error)) error {
	tx, err := l.src.database()
	if err != nil {
		return err
	}
	for upTo > after {
		rows, err := tx.LogOfRoomBack(l.window.nid, after, upTo, logChunk)
		if err != nil {
			return err
		}
		from := after
		if len(rows) == logChunk {
			from = rows[len(rows)-1].Pos - 1
		}
		entries, err := l.withEvents(rows)
		if err != nil {
			return err
		}
		l.src.s.mu.Lock()
		l.src.s.held += l.window.extendLocked(upTo, from, entries)
		l.src.s.mu.Unlock()
		for i := range entries {
			if more, err := fn(&entries[i]); err != nil || !more {
				return err
			}
		}
		upTo = from
	}
	return nil
}

func (l *roomLog) withEvents(rows []storage.LogEntry) ([]windowEntry, error) {
	var nids []int64
	for i := range rows {
		if rows[i].EventNID != 0 {
			nids = append(nids, rows[i].EventNID)
		}
	}
	events, err := l.src.events(nids)
	if err != nil {
		return nil, err
	}
	out := make([]windowEntry, 0, len(rows))
	for i := range rows {
		if rows[i].EventNID != 0 {
			rows[i].Event, events = events[0], events[1:]
		}
		if k := rows[i].Kind; k != storage.LogMembership && k != storage.LogAccountData {
			out = append(out, newWindowEntry(&rows[i]))
		}
	}
	return out, nil
}
