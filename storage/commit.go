package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
)

// Bounds of a group of units that are committed together.
const (
	groupMaxUnits = 256
	groupMaxRows  = 4000
	groupMaxBytes = 4 << 20
)

// request is a unit on its way through the writer.
type request struct {
	unit  *Unit
	rows  []Row // of unit, or a piece of them
	bytes int
	state atomic.Int32 // requestWaiting …
	done  chan struct{}
	// Set before done is closed:
	committed Committed
	err       error
}

const (
	requestWaiting int32 = iota
	requestTaken
	requestWithdrawn
)

func newRequest(u *Unit) (*request, error) {
	if err := u.validate(); err != nil {
		return nil, err
	}
	r := &request{unit: u, done: make(chan struct{}), rows: make([]Row, 0, 8)}
	u.each(func(row Row) { r.rows = append(r.rows, row) })
	for _, row := range r.rows {
		r.bytes += row.size()
	}
	r.bytes += 64*len(u.Log) + 128
	return r, nil
}

// count is the number of rows that the request writes.
func (r *request) count() int {
	n := len(r.rows) + len(r.unit.Log)
	if r.unit.Room != nil {
		n++
	}
	return n
}

func (r *request) answer(err error) {
	if r.err = err; err != nil {
		r.committed = Committed{} // of an attempt before
	}
	close(r.done)
}

// Commit writes a unit, all of it or nothing, together with what others commit
// at the same moment, and returns when it is on disk. Units of one room that
// build on each other may be committed side by side, if their calls come in
// order. If ctx ends before the unit's turn came, nothing is written;
// afterwards Commit waits for the outcome.
//
// Errors: ErrConflict, ErrConstraint, ErrTooLarge, ErrUnknownOutcome,
// ErrClosed, the context's.
func (db *DB) Commit(ctx context.Context, u *Unit) (Committed, error) {
	r, err := newRequest(u)
	if err != nil {
		return Committed{}, err
	}
	if n := r.count(); n > UnitMaxRows || r.bytes > UnitMaxBytes {
		return Committed{}, fmt.Errorf("%w: %d rows, %d bytes", ErrTooLarge, n, r.bytes)
	}
	return db.submit(ctx, r)
}

// WriteChunk writes rows that nothing refers to yet, however many, in pieces
// that hold nobody up: state keys, nodes, events, edges. Only a later Commit
// makes them visible. If it fails, some pieces may have been written; writing
// them again does no harm except for Events, which then exist.
func (db *DB) WriteChunk(ctx context.Context, u *Unit) error {
	if u.Room != nil || len(u.Log) > 0 || len(u.Txns) > 0 {
		return errors.New("storage: a chunk has neither room, log entries nor transactions")
	}
	all, err := newRequest(u)
	if err != nil {
		return err
	}
	for rows := all.rows; len(rows) > 0; {
		piece := &request{unit: &Unit{}, done: make(chan struct{})}
		n := 0
		for n < len(rows) && n < UnitMaxRows && (n == 0 || piece.bytes+rows[n].size() <= UnitMaxBytes) {
			piece.bytes += rows[n].size()
			n++
		}
		piece.rows, rows = rows[:n], rows[n:]
		if _, err := db.submit(ctx, piece); err != nil {
			db.keys.forget(u.StateKeys)
			return err
		}
	}
	db.keys.stored(u.StateKeys)
	return nil
}

// submit queues a request and waits for its outcome.
func (db *DB) submit(ctx context.Context, r *request) (Committed, error) {
	select {
	case <-db.quit:
		return Committed{}, ErrClosed
	default:
	}
	select {
	case db.queue <- r:
	case <-ctx.Done():
		return Committed{}, ctx.Err()
	case <-db.quit:
		return Committed{}, ErrClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(requestWaiting, requestWithdrawn) {
			return Committed{}, ctx.Err()
		}
		<-r.done
	case <-db.stopped:
		select {
		case <-r.done: // it was among the last
		default:
			return Committed{}, ErrClosed
		}
	}
	return r.committed, r.err
}

// runCommits is the writer: it takes what waits, commits it as one group and
// answers. It ends when quit is closed.
func (db *DB) runCommits() {
	defer close(db.stopped)
	for {
		select {
		case r := <-db.queue:
			db.commitGroup(db.gather(r))
		case <-db.leaseWanted:
			db.refillLeases()
		case <-db.quit:
			return
		}
	}
}

// gather collects what waits besides first, up to the bounds of a group.
func (db *DB) gather(first *request) []*request {
	// Those who were just answered get a chance to bring their next unit. With
	// nobody to run this returns at once.
	runtime.Gosched()
	var group []*request
	rows, bytes := 0, 0
	for r := first; ; {
		if r.state.CompareAndSwap(requestWaiting, requestTaken) {
			group = append(group, r)
			rows += r.count()
			bytes += r.bytes
		}
		if len(group) >= groupMaxUnits || rows >= groupMaxRows || bytes >= groupMaxBytes {
			return group
		}
		select {
		case r = <-db.queue:
		default:
			return group
		}
	}
}

// commitGroup commits the requests in their order and answers each. Those that
// cannot go with the group follow in groups of their own.
func (db *DB) commitGroup(group []*request) {
	for len(group) > 0 {
		now, later := chain(group)
		later = append(db.tryGroup(now), later...)
		group = later
	}
}

// chain parts a group into what can be committed at once and what must wait
// for that: of each room the units that build on each other from the first on.
func chain(group []*request) (now, later []*request) {
	if len(group) == 1 {
		return group, nil
	}
	last := make(map[int64]*RoomUpdate, len(group))
	closed := map[int64]bool{}
	for _, r := range group {
		room := r.unit.Room
		if room == nil {
			now = append(now, r)
			continue
		}
		before := last[room.NID]
		if closed[room.NID] || before != nil && room.ExpectVersion != before.ExpectVersion+1 {
			closed[room.NID] = true
			later = append(later, r)
			continue
		}
		last[room.NID] = room
		now = append(now, r)
	}
	return now, later
}

// tryGroup commits a group in one transaction. It answers every request except
// those that it returns, which are to be tried again.
func (db *DB) tryGroup(group []*request) (again []*request) {
	if len(group) == 0 {
		return nil
	}
	won, lost, entries, err := db.writeGroup(group)
	switch {
	case err == nil:
	case errors.Is(err, ErrConstraint) && len(group) > 1:
		// One of them is to blame. Halves keep the order of the rooms' chains.
		half := len(group) / 2
		db.commitGroup(group[:half])
		return group[half:]
	default:
		for _, r := range group {
			db.keys.forget(r.unit.StateKeys)
			r.answer(err)
		}
		return nil
	}
	for _, r := range won {
		db.keys.stored(r.unit.StateKeys)
	}
	db.commits.count(len(won), len(entries))
	db.publish(entries)
	for _, r := range won {
		r.answer(nil)
	}
	// Only the first unit of a lost room has been refused for good: the ones
	// behind it may be what the room waits for.
	refused := map[int64]bool{}
	for _, r := range lost {
		if nid := r.unit.Room.NID; !refused[nid] {
			refused[nid] = true
			r.answer(ErrConflict)
			continue
		}
		again = append(again, r)
	}
	return again
}

// groupAttempts is how often a group is tried that others were in the way of.
const groupAttempts = 4

// writeGroup runs the transaction of a group. On error nothing was written,
// except with ErrUnknownOutcome.
func (db *DB) writeGroup(group []*request) (won, lost []*request, entries []LogEntry, err error) {
	db.writing.Lock()
	defer db.writing.Unlock()
	for attempt := 1; ; attempt++ {
		won, lost, entries, err = db.writeOnce(group)
		if attempt < groupAttempts && errors.Is(err, errAgain) {
			db.log.Warn("commit is tried again", "units", len(group), "error", err)
			continue
		}
		if errors.Is(err, errOutcome) {
			db.reloadHead()
		}
		return won, lost, entries, err
	}
}

func (db *DB) writeOnce(group []*request) (won, lost []*request, entries []LogEntry, err error) {
	c, err := db.e.begin(context.Background(), true)
	if err != nil {
		return nil, nil, nil, err
	}
	if db.w.sure > 0 {
		db.w.sure--
	} else if a, ok := c.(aheadConn); ok {
		if entries, err = db.writeAhead(a, group); !errors.Is(err, errRefuted) {
			return group, nil, entries, err
		}
		if c, err = db.e.begin(context.Background(), true); err != nil {
			return nil, nil, nil, err
		}
	}
	db.w.c = c
	defer db.w.reset()
	won, lost, entries, err = db.w.group(group)
	if err != nil || len(won) == 0 {
		c.rollback()
		return won, lost, entries, err
	}
	return won, lost, entries, c.commit()
}

// surePause is how many groups are not sent ahead after one that was refuted:
// where others write too, guesses mostly fail.
const surePause = 16

// writeAhead writes a group without waiting for any answer but the last;
// errRefuted if that did not work out.
func (db *DB) writeAhead(c aheadConn, group []*request) ([]LogEntry, error) {
	db.w.c = c
	defer db.w.reset()
	entries, err := db.w.ahead(c, group, db.Head())
	if err != nil {
		c.rollback()
	} else {
		err = c.commit()
	}
	if errors.Is(err, errRefuted) {
		db.w.sure = surePause
	}
	return entries, err
}

// Apply writes a unit within the transaction and announces its log entries
// after the commit. As it locks the head of the log it belongs at the end of
// the transaction. Errors as of Commit, whereupon Write must return an error.
func (tx *Tx) Apply(u *Unit) (Committed, error) {
	if !tx.write {
		return Committed{}, errors.New("storage: Apply within Read")
	}
	r, err := newRequest(u)
	if err != nil {
		return Committed{}, err
	}
	tx.keys = append(tx.keys, u.StateKeys...)
	w := newWriter()
	w.c = tx.c
	_, lost, entries, err := w.group([]*request{r})
	if err != nil {
		return Committed{}, err
	}
	if len(lost) > 0 {
		return Committed{}, ErrConflict
	}
	tx.published = append(tx.published, entries...)
	return r.committed, nil
}

// writer turns requests into statements. It is used by one goroutine.
type writer struct {
	c     conn
	slots []slot // by bulk.id
	order []int  // ids of the bulks by rank
	args  []any  // scratch
	sure  int    // groups that are not to be sent ahead
}

// slot collects the arguments of one bulk statement.
type slot struct {
	args []any
	at   map[string]int // with bulk.key: where in args the row of a key starts
}

func newWriter() *writer {
	w := &writer{slots: make([]slot, len(registry.bulks))}
	for i := range registry.bulks {
		w.order = append(w.order, i)
	}
	slices.SortStableFunc(w.order, func(a, b int) int { return registry.bulks[a].rank - registry.bulks[b].rank })
	return w
}

// reset lets go of the rows of the last group.
func (w *writer) reset() {
	w.c = nil
	for i := range w.slots {
		s := &w.slots[i]
		clear(s.args[:cap(s.args)])
		if s.args = s.args[:0]; cap(s.args) > 16<<10 {
			s.args = nil
		}
		clear(s.at)
	}
}

// group writes requests, which are chains as chain makes them. lost are those
// whose room was not found at the expected version; they wrote nothing.
func (w *writer) group(group []*request) (won, lost []*request, entries []LogEntry, err error) {
	if won, lost, err = w.swap(group); err != nil || len(won) == 0 {
		return won, lost, nil, err
	}
	for _, r := range won {
		for _, row := range r.rows {
			if b := row.statement(); !b.positioned {
				w.add(b, row, positions{})
			}
		}
	}
	if err = w.flush(func(b *bulk) bool { return !b.positioned }); err != nil {
		return nil, nil, nil, err
	}
	last := int64(0)
	if n := logSize(won); n > 0 {
		if last, err = w.advance(n); err != nil {
			return nil, nil, nil, err
		}
		entries = w.positions(won, last-n)
	}
	w.addPositioned(won)
	return won, lost, entries, w.flush(func(b *bulk) bool { return b.positioned })
}

// ahead is group for a connection that sends everything at once. head is where
// the log is thought to end.
func (w *writer) ahead(c aheadConn, group []*request, head int64) ([]LogEntry, error) {
	swaps, inserts := w.roomRows(group).args()
	if len(swaps) > 0 {
		if err := c.take(swapRooms, swaps); err != nil {
			return nil, err
		}
	}
	if len(inserts) > 0 {
		if err := c.take(insertRooms, inserts); err != nil {
			return nil, err
		}
	}
	var entries []LogEntry
	n := logSize(group)
	if n > 0 {
		entries = w.positions(group, head)
	}
	for _, r := range group {
		for _, row := range r.rows {
			if b := row.statement(); !b.positioned {
				w.add(b, row, positions{})
			}
		}
	}
	w.addPositioned(group)
	if err := w.flush(func(b *bulk) bool { return b != insertLog }); err != nil || n == 0 {
		return nil, err
	}
	if err := c.moveHead(head, n); err != nil {
		return nil, err
	}
	return entries, w.flush(func(b *bulk) bool { return b == insertLog })
}

// addPositioned puts the rows that need positions among those of their
// statements.
func (w *writer) addPositioned(group []*request) {
	for _, r := range group {
		at := positions{log: r.unit.Log}
		for _, row := range r.rows {
			if b := row.statement(); b.positioned {
				w.add(b, row, at)
			}
		}
	}
}

// roomRows are the rooms of a group: of each the update whose expected version
// must be found and the one whose values are written.
type roomRows struct {
	nids        []int64 // ascending
	first, last map[int64]*RoomUpdate
}

func (w *writer) roomRows(group []*request) roomRows {
	first := make(map[int64]*RoomUpdate, len(group))
	last := make(map[int64]*RoomUpdate, len(group))
	var nids []int64
	for _, r := range group {
		room := r.unit.Room
		if room == nil {
			continue
		}
		if first[room.NID] == nil {
			first[room.NID] = room
			nids = append(nids, room.NID)
		}
		last[room.NID] = room
	}
	slices.Sort(nids)
	return roomRows{nids: nids, first: first, last: last}
}

// args are the arguments of swapRooms and insertRooms.
func (r roomRows) args() (swaps, inserts []any) {
	for _, nid := range r.nids {
		if r.first[nid].ExpectVersion == 0 {
			inserts = r.last[nid].insertArgs(inserts)
		} else {
			swaps = r.last[nid].swapArgs(swaps, r.first[nid])
		}
	}
	return swaps, inserts
}

// swap compares and swaps the rows of all rooms of the group.
func (w *writer) swap(group []*request) (won, lost []*request, err error) {
	rooms := w.roomRows(group)
	winners := make(map[int64]bool, len(rooms.nids))
	swaps, inserts := rooms.args()
	note := func(nid int64) { winners[nid] = true }
	if len(swaps) > 0 {
		err = w.c.returning(swapRooms, swaps, note)
	}
	if err == nil && len(inserts) > 0 {
		err = w.c.returning(insertRooms, inserts, note)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(winners) == len(rooms.nids) {
		return group, nil, nil
	}
	for _, r := range group {
		if room := r.unit.Room; room == nil || winners[room.NID] {
			won = append(won, r)
		} else {
			lost = append(lost, r)
		}
	}
	return won, lost, nil
}

// add puts a row among those of its statement.
func (w *writer) add(b *bulk, row Row, at positions) {
	s := &w.slots[b.id]
	if b.key == 0 {
		s.args = row.appendArgs(s.args, at)
		return
	}
	w.args = row.appendArgs(w.args[:0], at)
	key := fmt.Sprintf("%q", w.args[:b.key]) // quoted, so that no two keys run into the same text
	if i, ok := s.at[key]; ok {
		copy(s.args[i:], w.args)
		return
	}
	if s.at == nil {
		s.at = map[string]int{}
	}
	s.at[key] = len(s.args)
	s.args = append(s.args, w.args...)
	clear(w.args)
}

// flush runs those of the statements that were collected which are wanted, by
// rank.
func (w *writer) flush(wanted func(*bulk) bool) error {
	for _, id := range w.order {
		b := registry.bulks[id]
		if args := w.slots[id].args; len(args) > 0 && wanted(b) {
			if len(args)%len(b.types) != 0 {
				return fmt.Errorf("%s: %d arguments for rows of %d", b.name, len(args), len(b.types))
			}
			if err := w.c.bulk(b, args); err != nil {
				return err
			}
		}
	}
	return nil
}

var advanceHead = query(`UPDATE log_head SET pos = pos + $1 WHERE one = 1 RETURNING pos`)

// logSize counts the log entries of requests.
func logSize(group []*request) int64 {
	n := 0
	for _, r := range group {
		n += len(r.unit.Log)
	}
	return int64(n)
}

// positions gives the log entries of the requests the positions after pos and
// collects them, with the rows of the events that they announce, for the
// followers.
func (w *writer) positions(won []*request, pos int64) []LogEntry {
	entries := make([]LogEntry, 0, logSize(won))
	s := &w.slots[insertLog.id]
	for _, r := range won {
		u := r.unit
		if len(u.Log) == 0 {
			continue
		}
		r.committed.First = pos + 1
		for i := range u.Log {
			pos++
			u.Log[i].Pos = pos
			s.args = u.Log[i].appendArgs(s.args)
			entry := u.Log[i]
			// The row that is written is the one that knows its position, whatever
			// the maker of the entry had at hand.
			if own := u.event(entry.EventNID); own != nil {
				entry.Event = own
			}
			entry.Txn = u.txn(entry.Event)
			entries = append(entries, entry)
		}
		r.committed.Last = pos
	}
	return entries
}

// advance moves the head of the log by n and returns where it is then.
func (w *writer) advance(n int64) (int64, error) {
	cur, err := w.c.query(advanceHead, []any{n})
	if err != nil {
		return 0, err
	}
	defer cur.close()
	var col [1]any
	more, err := cur.next(col[:])
	if err != nil || !more {
		return 0, fmt.Errorf("log head: %w", errors.Join(err, ErrNotFound))
	}
	head, err := asInt(col[0])
	if err != nil {
		return 0, err
	}
	return head, cur.close()
}

// txn returns the transaction that made an event, nil if the unit has none.
func (u *Unit) txn(e *EventRow) *TxnRow {
	for i := range u.Txns {
		if e != nil && u.Txns[i].Result == string(e.Event.ID) {
			return &u.Txns[i]
		}
	}
	return nil
}

// event returns the row of an event that the unit writes; nil if it does not,
// or redacts it at once.
func (u *Unit) event(nid int64) *EventRow {
	if nid == 0 || slices.ContainsFunc(u.Redactions, func(r Redaction) bool { return r.NID == nid }) {
		return nil
	}
	for i := range u.Events {
		if u.Events[i].NID == nid {
			return &u.Events[i]
		}
	}
	for i := range u.EventUpdates {
		if u.EventUpdates[i].NID == nid {
			return &u.EventUpdates[i]
		}
	}
	return nil
}

// commitStats counts what the writer did.
type commitStats struct{ groups, units, entries atomic.Int64 }

func (s *commitStats) count(units, entries int) {
	s.groups.Add(1)
	s.units.Add(int64(units))
	s.entries.Add(int64(entries))
}

// Stats counts what the writer has done since the database was opened.
type Stats struct {
	Groups  int64 // transactions of Commit and WriteChunk
	Units   int64 // units that they committed
	Entries int64 // log entries that they appended
}

// Stats returns the counters as they are now.
func (db *DB) Stats() Stats {
	return Stats{db.commits.groups.Load(), db.commits.units.Load(), db.commits.entries.Load()}
}
