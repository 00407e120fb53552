package storage

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	sqliteReaders     = 4
	sqliteWriterCache = 16 << 10 // KiB of pages
	sqliteReaderCache = 4 << 10  // KiB of pages, per reader
	// sqliteBusy is how long a connection waits for a lock that another process
	// holds, for example the sqlite3 shell.
	sqliteBusy = 10 * time.Second
	// checkpointBytes is about how many bytes of rows are written between two
	// checkpoints; the log grows by ten times as much, as every changed page goes
	// into it. checkpointIdle is when a checkpoint comes although less was written.
	checkpointBytes = 4 << 20
	checkpointIdle  = 5 * time.Second
	// walRestart is the size of the write-ahead log, in frames of 4 KiB, from
	// which on a checkpoint makes the writer begin it anew. walRest is how many
	// may then be left to copy while the writer is held back.
	walRestart = 8 << 10
	walRest    = 1 << 10
	// walLimit is the size, in bytes, to which the log's file is cut if it ever
	// grew beyond.
	walLimit = 128 << 20
	// restartWait is how long the writer may be held back for that by readers.
	restartWait = 20 * time.Millisecond
)

// sqliteEngine is SQLite in one file: one connection that writes, a few that
// read, one that checkpoints. Readers never wait for the writer, nor it for
// them.
type sqliteEngine struct {
	path    string
	log     *slog.Logger
	writer  chan *sqliteConn // holds the writer while it is free
	readers chan *sqliteConn // free readers
	opened  atomic.Int32     // readers opened so far

	written atomic.Int64  // bytes bound since the last checkpoint, about
	wake    chan struct{} // asks for a checkpoint
	stop    chan struct{}
	done    sync.WaitGroup
}

// openSQLite opens or creates the database file, which must be on a local
// disk, and starts its checkpoints.
func openSQLite(path string, log *slog.Logger) (*sqliteEngine, error) {
	e, check, err := newSQLite(path, log)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	e.done.Go(func() { e.checkpoints(check) })
	return e, nil
}

// newSQLite opens the file with two connections: the writer, and the one for
// checkpoints, which the caller has to close.
func newSQLite(path string, log *slog.Logger) (e *sqliteEngine, check *sqliteConn, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, err
	}
	// fdatasync does not wait for the file's time stamps; what it makes durable
	// is the same. Not available everywhere, then fsync is used.
	_, _ = sqlite.Fdatasync(true)
	e = &sqliteEngine{
		path:    path,
		log:     log,
		writer:  make(chan *sqliteConn, 1),
		readers: make(chan *sqliteConn, sqliteReaders),
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
	}
	w, err := e.connect("PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=0",
		fmt.Sprintf("PRAGMA journal_size_limit=%d", walLimit), fmt.Sprintf("PRAGMA cache_size=-%d", sqliteWriterCache))
	if err != nil {
		return nil, nil, err
	}
	w.write = true
	e.writer <- w
	check, err = e.connect("PRAGMA wal_autocheckpoint=0", "PRAGMA cache_size=-64",
		fmt.Sprintf("PRAGMA busy_timeout=%d", restartWait.Milliseconds()))
	if err != nil {
		return nil, nil, errors.Join(err, w.shut())
	}
	return e, check, nil
}

// connect opens one more connection and runs pragmas on it.
func (e *sqliteEngine) connect(pragmas ...string) (*sqliteConn, error) {
	name := "file:" + (&url.URL{Path: e.path}).EscapedPath()
	c, err := new(sqlite.Driver).Open(name)
	if err != nil {
		return nil, err
	}
	sc := &sqliteConn{e: e, c: c, stmts: map[*stmt]driver.Stmt{}}
	common := []string{
		fmt.Sprintf("PRAGMA busy_timeout=%d", sqliteBusy.Milliseconds()),
		"PRAGMA temp_store=MEMORY",
		"PRAGMA synchronous=FULL",
	}
	for _, p := range append(common, pragmas...) {
		if err := sc.script(p); err != nil {
			c.Close()
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return sc, nil
}

func (e *sqliteEngine) dialect() dialect { return dialectSQLite }

func (e *sqliteEngine) begin(ctx context.Context, write bool) (conn, error) {
	c, err := e.take(ctx, write)
	if err != nil {
		return nil, err
	}
	begin := beginRead
	if write {
		begin = beginWrite
	}
	if _, err := c.exec(begin, nil); err != nil {
		c.release()
		return nil, fmt.Errorf("begin: %w", err)
	}
	return c, nil
}

var (
	beginRead  = query(`BEGIN`)
	beginWrite = query(`BEGIN IMMEDIATE`)
	commitTx   = query(`COMMIT`)
	rollbackTx = query(`ROLLBACK`)
)

// take waits for a free connection. Readers are opened when first needed.
func (e *sqliteEngine) take(ctx context.Context, write bool) (*sqliteConn, error) {
	pool := e.readers
	if write {
		pool = e.writer
	}
	select {
	case c := <-pool:
		return c, nil
	default:
	}
	if !write {
		if e.opened.Add(1) <= sqliteReaders {
			c, err := e.connect("PRAGMA query_only=1", fmt.Sprintf("PRAGMA cache_size=-%d", sqliteReaderCache))
			if err != nil {
				e.opened.Add(-1)
			}
			return c, err
		}
		e.opened.Add(-1)
	}
	select {
	case c := <-pool:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-e.stop:
		return nil, ErrClosed
	}
}

// close waits for the transactions under way, then folds the write-ahead log
// into the file.
func (e *sqliteEngine) close() error {
	close(e.stop)
	e.done.Wait()
	var errs []error
	for n := e.opened.Load(); n > 0; n-- {
		errs = append(errs, (<-e.readers).shut())
	}
	errs = append(errs, (<-e.writer).shut())
	return errors.Join(errs...)
}

// checkpoints copies the write-ahead log into the database file from time to
// time, beside the writer, which need not wait for it.
func (e *sqliteEngine) checkpoints(c *sqliteConn) {
	defer c.shut()
	tick := time.NewTicker(checkpointIdle)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-e.wake:
		case <-tick.C:
			if e.written.Load() == 0 {
				continue
			}
		}
		e.written.Store(0)
		if err := e.checkpoint(c); err != nil {
			e.log.Error("checkpoint of the database failed", "error", err)
		}
	}
}

var (
	checkpointPassive = query(`PRAGMA wal_checkpoint(PASSIVE)`)
	checkpointRestart = query(`PRAGMA wal_checkpoint(RESTART)`)
)

// checkpoint copies what it can without making anybody wait. If the log has
// grown large, the writer is then held back while the little that came
// meanwhile is copied too, after which it begins the log anew. A checkpoint
// that competes with a busy writer for its lock, as SQLite would do it, never
// gets it.
func (e *sqliteEngine) checkpoint(c *sqliteConn) error {
	log := int64(0)
	for range 3 {
		frames, copied, err := c.runCheckpoint(checkpointPassive)
		if err != nil {
			return err
		}
		if log = frames; frames-copied < walRest {
			break
		}
	}
	if log < walRestart {
		return nil
	}
	select {
	case w := <-e.writer:
		defer func() { e.writer <- w }()
	case <-e.stop:
		return nil
	}
	// Waits for readers of the log's old part for restartWait at most; if one
	// takes longer, the next checkpoint tries again.
	_, _, err := c.runCheckpoint(checkpointRestart)
	return err
}

// runCheckpoint runs a checkpoint statement and returns how many frames, of a
// page each, the log has and how many of them are copied.
func (c *sqliteConn) runCheckpoint(s *stmt) (frames, copied int64, err error) {
	cur, err := c.query(s, nil)
	if err != nil {
		return 0, 0, err
	}
	defer cur.close()
	var busy int64
	r := rows{cols: make([]any, cur.width())}
	if _, err = cur.next(r.cols); err == nil {
		err = r.scan(&busy, &frames, &copied)
	}
	return frames, copied, err
}

// sqliteConn is one connection with its prepared statements.
type sqliteConn struct {
	e     *sqliteEngine
	c     driver.Conn
	write bool
	stmts map[*stmt]driver.Stmt
	named []driver.NamedValue // scratch of bind
	bytes int64               // bound in this transaction, about
}

func (c *sqliteConn) prepared(s *stmt) (driver.Stmt, error) {
	if p := c.stmts[s]; p != nil {
		return p, nil
	}
	p, err := c.c.Prepare(s.sqlite)
	if err != nil {
		return nil, fmt.Errorf("prepare %.60q: %w", s.sqlite, err)
	}
	c.stmts[s] = p
	return p, nil
}

// bind converts the arguments; the result is valid until the next call.
func (c *sqliteConn) bind(args []any) []driver.NamedValue {
	c.named = c.named[:0]
	for i, a := range args {
		v := bindValue(a)
		switch x := v.(type) {
		case []byte:
			if x == nil {
				v = nil
			}
			c.bytes += int64(len(x))
		case string:
			c.bytes += int64(len(x))
		case []int64, []string:
			v, _ = listArg(x)
		}
		c.named = append(c.named, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	c.bytes += 16 * int64(len(args))
	return c.named
}

func (c *sqliteConn) exec(s *stmt, args []any) (int64, error) {
	p, err := c.prepared(s)
	if err != nil {
		return 0, err
	}
	// Without a context that ends: the driver would start a goroutine for each
	// statement to watch it. Tx looks at the context between statements.
	res, err := p.(driver.StmtExecContext).ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, sqliteError(err)
	}
	return res.RowsAffected()
}

func (c *sqliteConn) query(s *stmt, args []any) (cursor, error) {
	p, err := c.prepared(s)
	if err != nil {
		return nil, err
	}
	rows, err := p.(driver.StmtQueryContext).QueryContext(context.Background(), c.bind(args))
	if err != nil {
		return nil, sqliteError(err)
	}
	n := len(rows.Columns())
	return &sqliteCursor{rows: rows, cols: make([]driver.Value, n)}, nil
}

func (c *sqliteConn) bulk(b *bulk, args []any) error {
	for len(args) > 0 {
		text, n := b.piece(len(args))
		if _, err := c.exec(text, args[:n]); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		args = args[n:]
	}
	return nil
}

func (c *sqliteConn) returning(b *bulk, args []any, fn func(nid int64)) error {
	for len(args) > 0 {
		text, n := b.piece(len(args))
		cur, err := c.query(text, args[:n])
		if err == nil {
			err = eachNID(cur, fn)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		args = args[n:]
	}
	return nil
}

func (c *sqliteConn) script(text string) error {
	_, err := c.c.(driver.ExecerContext).ExecContext(context.Background(), text, nil)
	return sqliteError(err)
}

func (c *sqliteConn) commit() error {
	_, err := c.exec(commitTx, nil)
	if err == nil {
		c.wrote()
		c.release()
		return nil
	}
	// Busy: SQLite is still within the transaction and nothing was written. Any
	// other failure may have come after the log held the whole transaction.
	if isSQLiteCode(err, sqlite3.SQLITE_BUSY) {
		c.rollback()
		return err
	}
	c.rollback()
	return fmt.Errorf("%w: %w", errOutcome, err)
}

// wrote counts what was written and asks for a checkpoint when it is much.
func (c *sqliteConn) wrote() {
	if !c.write {
		return
	}
	if c.e.written.Add(c.bytes) >= checkpointBytes {
		select {
		case c.e.wake <- struct{}{}:
		default:
		}
	}
}

func (c *sqliteConn) rollback() {
	// Fails when an error has ended the transaction already, which is as good.
	_, _ = c.exec(rollbackTx, nil)
	c.release()
}

func (c *sqliteConn) release() {
	c.bytes = 0
	clear(c.named[:cap(c.named)]) // keeps no caller's bytes alive
	if cap(c.named) > 4096 {
		c.named = nil
	}
	if c.write {
		c.e.writer <- c
		return
	}
	c.e.readers <- c
}

func (c *sqliteConn) shut() error {
	for _, p := range c.stmts {
		p.Close()
	}
	return c.c.Close()
}

type sqliteCursor struct {
	rows driver.Rows
	cols []driver.Value
}

func (r *sqliteCursor) width() int { return len(r.cols) }

func (r *sqliteCursor) next(dest []any) (bool, error) {
	if err := r.rows.Next(r.cols); err != nil {
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, sqliteError(err)
	}
	for i, v := range r.cols {
		dest[i] = v
	}
	return true, nil
}

func (r *sqliteCursor) close() error {
	if r.rows == nil {
		return nil
	}
	err := r.rows.Close()
	r.rows = nil
	return sqliteError(err)
}

// sqliteError maps the driver's errors to the package's.
func sqliteError(err error) error {
	switch {
	case err == nil:
		return nil
	case isSQLiteCode(err, sqlite3.SQLITE_CONSTRAINT):
		return fmt.Errorf("%w: %w", ErrConstraint, err)
	}
	return err
}

func isSQLiteCode(err error, code int) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == code
}
