package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// Errors that callers tell apart with errors.Is. Every other error of this
// package means that the database could not do its work.
var (
	// ErrNotFound: what was asked for is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the room has changed since the unit was built (its version
	// is not the expected one), so nothing of the unit was written. Whoever
	// holds the room in memory must read it again.
	ErrConflict = errors.New("the room has changed meanwhile")
	// ErrConstraint: a row was refused because its key is taken or a value is
	// missing; nothing was written.
	ErrConstraint = errors.New("refused by a rule of the schema")
	// ErrTooLarge: the unit exceeds UnitMaxRows or UnitMaxBytes.
	ErrTooLarge = errors.New("unit too large")
	// ErrUnknownOutcome: the answer to COMMIT was lost; what was written may be
	// there or not. What memory holds about it must be read again.
	ErrUnknownOutcome = errOutcome
	// ErrClosed: the database was closed.
	ErrClosed = errors.New("database is closed")

	errNoNIDs = errors.New("no local ids can be leased")
)

// Options say which database to open. The zero value is not valid: DataDir or
// Database must tell where it lies.
type Options struct {
	// Database is "sqlite" or "" (the file atoll.db in DataDir), "sqlite:PATH",
	// or a URL postgres://….
	Database string
	// DataDir is the directory for what is kept in files. Made if missing.
	DataDir string
	// Log gets what the operator should know. nil: nothing is logged.
	Log *slog.Logger
}

// DB is the database of one homeserver. All methods may be called by many
// goroutines at once.
type DB struct {
	e   engine
	log *slog.Logger

	queue       chan *request
	leaseWanted chan struct{}
	w           *writer // used under writing
	// writing is held for the length of one transaction that writes.
	writing sync.Mutex
	feed    *feed
	nids    [3]leases // by sequence
	keys    *keyCache
	rooms   *roomCache

	closed   atomic.Bool
	quit     chan struct{} // closed by Close: no more commits are taken
	stopped  chan struct{} // closed when the writer has ended
	routines sync.WaitGroup
	commits  commitStats
}

// Open opens the database, brings its schema up to date and makes it ready for
// use. Close must be called at the end.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e, err := openEngine(ctx, o)
	if err != nil {
		return nil, err
	}
	db, err := start(ctx, e, o.Log)
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return db, nil
}

func openEngine(ctx context.Context, o Options) (engine, error) {
	kind, rest, _ := strings.Cut(o.Database, ":")
	switch kind {
	case "", "sqlite":
		path := rest
		if path == "" {
			if o.DataDir == "" {
				return nil, errors.New("storage: neither a database file nor a data directory is given")
			}
			path = filepath.Join(o.DataDir, "atoll.db")
		}
		return openSQLite(path, o.Log)
	case "postgres", "postgresql":
		return openPostgres(ctx, o.Database, o.Log)
	}
	return nil, fmt.Errorf("storage: unknown kind of database %q", kind)
}

// start makes the database on top of an engine.
func start(ctx context.Context, e engine, log *slog.Logger) (*DB, error) {
	db := &DB{
		e:           e,
		log:         log,
		queue:       make(chan *request, groupMaxUnits),
		leaseWanted: make(chan struct{}, 1),
		w:           newWriter(),
		quit:        make(chan struct{}),
		stopped:     make(chan struct{}),
		keys:        newKeyCache(),
		rooms:       newRoomCache(),
	}
	db.feed = newFeed(db)
	for i := range db.nids {
		db.nids[i].db, db.nids[i].seq = db, sequence(i)
	}
	all, err := migrations(schemaFS)
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, all); err != nil {
		return nil, err
	}
	if err := db.loadHead(ctx); err != nil {
		return nil, err
	}
	db.routines.Go(db.runCommits)
	if w, ok := e.(watcher); ok {
		db.routines.Go(func() { w.watch(db.quit, db.feed.setHead) })
	}
	return db, nil
}

// Close waits for the transactions under way, answers waiting commits with
// ErrClosed and closes the database. A second call does nothing.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	close(db.quit)
	db.routines.Wait()
	db.feed.shut()
	return db.e.close()
}

// Tx is one transaction. It is valid only within the function that Read or
// Write calls with it, and for one goroutine. Of all types of this package it
// alone keeps a context: it lives no longer than the call that was given it.
type Tx struct {
	db    *DB
	c     conn
	ctx   context.Context
	write bool
	// published are the entries that Write shall make known after the commit.
	published []LogEntry
	keys      []StateKeyRow
}

// Read calls fn with a transaction that sees one state of the database
// throughout. It never waits for writers. It returns fn's error.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) error {
	if db.closed.Load() {
		return ErrClosed
	}
	c, err := db.e.begin(ctx, false)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			c.rollback() // fn panicked or failed
		}
	}()
	if err := fn(&Tx{db: db, c: c, ctx: ctx}); err != nil {
		return err
	}
	done = true
	return c.commit()
}

// Write calls fn with a transaction that may change the database and commits
// it if fn returns nil. It is for rare work: while it runs nothing else is
// written, so fn must neither wait for anything nor call Write or Commit. What
// has to be announced is appended with tx.Apply.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	if db.closed.Load() {
		return ErrClosed
	}
	db.writing.Lock()
	defer db.writing.Unlock()
	c, err := db.e.begin(ctx, true)
	if err != nil {
		return err
	}
	tx := &Tx{db: db, c: c, ctx: ctx, write: true}
	done := false
	defer func() {
		if !done {
			c.rollback()
			db.keys.forget(tx.keys)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	done = true
	if err := c.commit(); err != nil {
		db.keys.forget(tx.keys)
		if errors.Is(err, errOutcome) {
			db.reloadHead()
		}
		return err
	}
	db.keys.stored(tx.keys)
	db.publish(tx.published)
	return nil
}

// exec runs a statement that returns no rows and returns how many it changed.
func (tx *Tx) exec(s *stmt, args ...any) (int64, error) {
	if err := tx.ctx.Err(); err != nil {
		return 0, err
	}
	return tx.c.exec(s, args)
}

// one runs a query for a single row and stores its columns into dest.
// ErrNotFound if there is none.
func (tx *Tx) one(s *stmt, args []any, dest ...any) error {
	found := false
	err := tx.each(s, args, func(r *rows) error {
		if found {
			return errStop
		}
		found = true
		return r.scan(dest...)
	})
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// errStop ends each without an error.
var errStop = errors.New("stop")

// each runs a query and calls fn for every row. fn may return errStop to end
// early. No other statement may run before each returns, unless it is another.
func (tx *Tx) each(s *stmt, args []any, fn func(*rows) error) error {
	if err := tx.ctx.Err(); err != nil {
		return err
	}
	cur, err := tx.c.query(s, args)
	if err != nil {
		return err
	}
	defer cur.close()
	r := rows{cols: make([]any, cur.width())}
	for n := 1; ; n++ {
		if n%64 == 0 && tx.ctx.Err() != nil {
			return tx.ctx.Err()
		}
		more, err := cur.next(r.cols)
		if err != nil {
			return err
		}
		if !more {
			return cur.close()
		}
		if err := fn(&r); err != nil {
			if err == errStop {
				return nil
			}
			return err
		}
	}
}

// rows is the current row of a query.
type rows struct{ cols []any }

// scan stores the columns into pointers, see assign; NULL becomes the zero
// value.
func (r *rows) scan(dest ...any) error {
	if len(dest) != len(r.cols) {
		return fmt.Errorf("scan of %d columns into %d places", len(r.cols), len(dest))
	}
	for i, d := range dest {
		if err := assign(d, r.cols[i]); err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
	}
	return nil
}
