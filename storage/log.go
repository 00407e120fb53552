package storage

import (
	"context"
	"sync"
)

// Bounds of what is kept in memory of the log for followers.
const (
	feedEntries = 2048
	feedBytes   = 8 << 20 // of events; older entries lose theirs first
	// followBatch is how many entries Next returns at most.
	followBatch = 256
)

// feed keeps the latest log entries for followers.
type feed struct {
	db *DB
	// mu guards what follows.
	mu       sync.Mutex
	head     int64
	ring     [feedEntries]LogEntry // the entry of position p lies at p mod feedEntries, if it is here
	bytes    int                   // of the events that ring holds
	stripped int64                 // entries up to this position hold no event
	wake     chan struct{}         // closed and replaced when head grows
	closed   bool
}

func newFeed(db *DB) *feed { return &feed{db: db, wake: make(chan struct{})} }

// publish makes committed entries known, here and to other processes.
func (db *DB) publish(entries []LogEntry) {
	db.feed.publish(entries)
	if w, ok := db.e.(watcher); ok && len(entries) > 0 {
		w.announce()
	}
}

// publish makes committed entries of this process known. What lies between
// them and those before was committed by others, or is published in a moment.
func (f *feed) publish(entries []LogEntry) {
	if len(entries) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		slot := &f.ring[e.Pos%feedEntries]
		if slot.Pos > e.Pos {
			continue
		}
		f.bytes += entrySize(&e) - entrySize(slot)
		*slot = e
	}
	f.head = max(f.head, entries[len(entries)-1].Pos)
	f.stripped = max(f.stripped, f.head-feedEntries)
	for f.bytes > feedBytes && f.stripped < f.head {
		f.stripped++
		if slot := &f.ring[f.stripped%feedEntries]; slot.Pos == f.stripped {
			f.bytes -= entrySize(slot)
			slot.Event = nil
		}
	}
	f.wakeLocked()
}

func (f *feed) wakeLocked() {
	close(f.wake)
	f.wake = make(chan struct{})
}

// setHead moves the head to where the database says it is.
func (f *feed) setHead(pos int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if pos > f.head {
		f.head = pos
		f.wakeLocked()
	}
}

func (f *feed) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wakeLocked()
}

// entrySize is about how many bytes the event of an entry holds.
func entrySize(e *LogEntry) int {
	if e.Event == nil || e.Event.Event == nil {
		return 0
	}
	return 1024 + 2*len(e.Event.Event.JSON)
}

var selectHead = query(`SELECT pos FROM log_head WHERE one = 1`)

func (db *DB) loadHead(ctx context.Context) error {
	return db.Read(ctx, func(tx *Tx) error {
		var pos int64
		if err := tx.one(selectHead, nil, &pos); err != nil {
			return err
		}
		db.feed.setHead(pos)
		return nil
	})
}

// reloadHead reads the head after a commit of unknown outcome, so that
// followers hear of it if it took effect.
func (db *DB) reloadHead() {
	if err := db.loadHead(context.Background()); err != nil {
		db.log.Error("log head cannot be read", "error", err)
	}
}

// Head returns the position of the last committed log entry; 0 if there is
// none.
func (db *DB) Head() int64 {
	db.feed.mu.Lock()
	defer db.feed.mu.Unlock()
	return db.feed.head
}

// Follower reads the log from a position on. It is used by one goroutine.
type Follower struct {
	f   *feed
	pos int64
}

// Follow returns a follower of the entries after position from.
func (db *DB) Follow(from int64) *Follower { return &Follower{f: db.feed, pos: from} }

// Pos returns the position of the last entry that Next returned, or skipped as
// superseded.
func (f *Follower) Pos() int64 { return f.pos }

// Next returns the next entries in order, at least one, at most 256; it waits
// until there are any. What this process committed a moment ago comes from
// memory, with LogEntry.Event; a follower that has fallen behind reads the
// database, where superseded entries are left out. Errors: the context's,
// ErrClosed, the database's; a later call goes on where it was.
func (f *Follower) Next(ctx context.Context) ([]LogEntry, error) {
	for {
		entries, until, wait := f.recent()
		if len(entries) > 0 {
			f.pos = entries[len(entries)-1].Pos
			return entries, nil
		}
		if until > f.pos {
			entries, err := f.older(ctx, until)
			if err != nil {
				return nil, err
			}
			if len(entries) > 0 {
				return entries, nil
			}
			continue
		}
		if wait == nil {
			return nil, ErrClosed
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// recent returns what memory has from the follower's position on, up to where
// the database has to be read if that is nothing, and the channel that is
// closed when there is more; nil if there never will be.
func (f *Follower) recent() (entries []LogEntry, until int64, wait <-chan struct{}) {
	d := f.f
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, f.pos, nil
	}
	for p := f.pos + 1; p <= d.head && len(entries) < followBatch; p++ {
		e := &d.ring[p%feedEntries]
		if e.Pos != p {
			break
		}
		entries = append(entries, *e)
	}
	if len(entries) > 0 {
		return entries, d.head, d.wake
	}
	for p := max(f.pos, d.head-feedEntries) + 1; p <= d.head; p++ {
		if d.ring[p%feedEntries].Pos == p {
			return nil, p - 1, d.wake
		}
	}
	return nil, d.head, d.wake
}

// older reads entries from the database up to a position. None means that all of
// them were superseded; the follower is then past them.
func (f *Follower) older(ctx context.Context, until int64) ([]LogEntry, error) {
	var entries []LogEntry
	err := f.f.db.Read(ctx, func(tx *Tx) error {
		var err error
		entries, err = tx.Log(f.pos, until, followBatch)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(entries) < followBatch {
		f.pos = until
	} else {
		f.pos = entries[len(entries)-1].Pos
	}
	return entries, nil
}

const logColumns = `pos, kind, room_nid, user_id, device_id, server, event_nid, body`

var (
	selectLog       = query(`SELECT ` + logColumns + ` FROM log WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	selectLogRoom   = query(`SELECT ` + logColumns + ` FROM log WHERE room_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
	selectLogUser   = query(`SELECT ` + logColumns + ` FROM log WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
	selectLogServer = query(`SELECT ` + logColumns + ` FROM log WHERE server = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
)

// LogScope says whose entries are meant: exactly one field is set.
type LogScope struct {
	RoomNID int64
	User    string // user id; includes the entries of the user's devices
	Server  string // server name
}

// Log returns the entries with after < position ≤ upTo, oldest first, at most
// limit.
func (tx *Tx) Log(after, upTo int64, limit int) ([]LogEntry, error) {
	return tx.log(selectLog, after, upTo, limit)
}

// LogOf is Log for the entries of one scope.
func (tx *Tx) LogOf(s LogScope, after, upTo int64, limit int) ([]LogEntry, error) {
	switch {
	case s.User != "":
		return tx.log(selectLogUser, s.User, after, upTo, limit)
	case s.Server != "":
		return tx.log(selectLogServer, s.Server, after, upTo, limit)
	}
	return tx.log(selectLogRoom, s.RoomNID, after, upTo, limit)
}

func (tx *Tx) log(s *stmt, args ...any) ([]LogEntry, error) {
	var out []LogEntry
	err := tx.each(s, args, func(r *rows) error {
		var e LogEntry
		out = append(out, e)
		l := &out[len(out)-1]
		return r.scan(&l.Pos, &l.Kind, &l.RoomNID, &l.User, &l.Device, &l.Server, &l.EventNID, &l.Text)
	})
	return out, err
}

// Head returns the last position of the log as the transaction sees it.
func (tx *Tx) Head() (int64, error) {
	var pos int64
	err := tx.one(selectHead, nil, &pos)
	return pos, err
}
