package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Statements of PostgreSQL alone.
var (
	pgBeginRead  = &stmt{text: `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`}
	pgBeginWrite = &stmt{text: `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`}
	pgCommit     = &stmt{text: `COMMIT`}
	pgRollback   = &stmt{text: `ROLLBACK`}
	// Rows of several rooms are locked in one order before they are swapped, as
	// the plan of the swap may take them in any.
	pgLockRooms = &stmt{text: `SELECT 1 FROM rooms WHERE nid = ANY($1::bigint[]) ORDER BY nid FOR UPDATE`}
	// Moves the head of the log if it is where it is thought to be, and fails
	// the transaction otherwise.
	pgMoveHead = &stmt{text: `/* fails if another process was faster */ WITH done AS (UPDATE log_head SET pos = pos + $1 WHERE one = 1 AND pos = $2 RETURNING pos)
		SELECT 1 / count(*)::int FROM done`}
)

// pgTailBytes is how much may be sent together with the lock on the log's
// head. A process that is stopped while it sends must not be in the middle of
// that, as no time-out of the server ends a half-sent request.
const pgTailBytes = 64 << 10

// pgConn is one transaction. Statements that return nothing are only queued;
// they travel with the next one whose answer is needed, so errors may come
// late. It takes a connection when it first sends something.
type pgConn struct {
	e     *pgEngine
	ctx   context.Context
	write bool
	// patient: the transaction may wait and work for long, as migrations do.
	patient bool
	ending  bool // it is being rolled back

	c        *pgxpool.Conn
	queue    []pgItem
	bytes    int  // of the parameters in queue
	answered bool // the server has answered something within this transaction
	reading  *pgCursor
}

// pgItem is a statement with its parameters, ready to be sent.
type pgItem struct {
	s       *stmt
	what    string // for errors; may be empty
	params  [][]byte
	formats []int16
	once    bool // not worth preparing
	prepare bool // goes with a request to prepare it
}

// pgPrepared are the statements that a connection has prepared.
type pgPrepared struct {
	names map[*stmt]string
	next  int
}

const pgPreparedKey = "atoll/prepared"

func preparedOn(c *pgconn.PgConn) *pgPrepared {
	p, ok := c.CustomData()[pgPreparedKey].(*pgPrepared)
	if !ok {
		p = &pgPrepared{names: map[*stmt]string{}}
		c.CustomData()[pgPreparedKey] = p
	}
	return p
}

var binaryResults = []int16{1}

// add queues a statement.
func (c *pgConn) add(s *stmt, args []any) error {
	c.start()
	it := pgItem{s: s}
	for i, a := range args {
		p, format, err := pgParam(a)
		if err != nil {
			return fmt.Errorf("%.60q: parameter %d: %w", s.text, i+1, err)
		}
		it.params, it.formats = append(it.params, p), append(it.formats, format)
		c.bytes += len(p)
	}
	c.queue = append(c.queue, it)
	return nil
}

// start queues BEGIN before the first statement.
func (c *pgConn) start() {
	if c.answered || len(c.queue) > 0 {
		return
	}
	s := pgBeginRead
	if c.write {
		s = pgBeginWrite
	}
	c.queue = append(c.queue, pgItem{s: s})
}

// addRows queues a bulk statement for rows, with further parameters.
func (c *pgConn) addRows(s *stmt, b *bulk, args []any, more ...any) error {
	c.start()
	n := len(b.types)
	var rows []int
	if b.single {
		rows = []int{0}
	} else {
		rows = lockOrder(args, n)
	}
	it := pgItem{s: s, what: b.name}
	for i, t := range b.types {
		p, err := appendColumn(nil, t, args, rows, i)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		it.params, it.formats = append(it.params, p), append(it.formats, 1)
		c.bytes += len(p)
	}
	for _, a := range more {
		p, format, err := pgParam(a)
		if err != nil {
			return err
		}
		it.params, it.formats = append(it.params, p), append(it.formats, format)
	}
	c.queue = append(c.queue, it)
	return nil
}

// pgReply is the answer to the last statement of what was sent, which has to
// be finished before anything else is sent.
type pgReply struct {
	p      *pgconn.Pipeline
	rr     *pgconn.ResultReader
	cancel context.CancelFunc
	what   string
}

// finish reads the rest of the answer and returns how many rows the statement
// changed or returned.
func (r *pgReply) finish() (pgconn.CommandTag, error) {
	defer r.cancel()
	tag, err := r.rr.Close()
	err = errors.Join(err, r.p.Close())
	if err != nil {
		return tag, r.wrap(err)
	}
	return tag, nil
}

func (r *pgReply) wrap(err error) error {
	if r.what != "" {
		return fmt.Errorf("%s: %w", r.what, pgError(err))
	}
	return pgError(err)
}

// send sends what is queued and reads the answers up to that of the last
// statement, which is returned. A connection that turns out to be dead before
// anything was answered is replaced, unless the outcome would be unknown.
func (c *pgConn) send() (*pgReply, error) {
	if c.reading != nil {
		if err := c.reading.buffer(); err != nil {
			return nil, err
		}
	}
	for attempt := 1; ; attempt++ {
		if c.c == nil {
			var err error
			if c.c, err = c.e.acquire(c.ctx, c.write); err != nil {
				return nil, err
			}
		}
		r, done, err := c.sendOnce()
		if err == nil {
			c.queue, c.bytes, c.answered = c.queue[:0], 0, true
			return r, nil
		}
		if !c.c.Conn().IsClosed() {
			return nil, err
		}
		if c.queue[len(c.queue)-1].s == pgCommit && !c.undone(err, done) {
			return nil, fmt.Errorf("%w: %w", errOutcome, err)
		}
		if ended := c.ctx.Err(); ended != nil && !c.write {
			return nil, fmt.Errorf("%w: %w", ended, err)
		}
		if c.answered || attempt > pgAttempts {
			return nil, fmt.Errorf("%w: %w", errAgain, err)
		}
		c.c.Release()
		c.c = nil
	}
}

// pgAttempts is how many dead connections a transaction puts up with: after
// the server was restarted all those of a pool may be dead.
const pgAttempts = 16

// undone tells whether the transaction, whose COMMIT was among what was sent,
// did not take effect although the connection is gone: nothing was sent, or the
// server ended the session in the middle of an earlier statement.
func (c *pgConn) undone(err error, done int) bool {
	var pe *pgconn.PgError
	return pgconn.SafeToRetry(err) || errors.As(err, &pe) && done < len(c.queue)-1
}

// sendOnce is send on the connection that is there; done is how many
// statements the server has answered.
func (c *pgConn) sendOnce() (reply *pgReply, done int, err error) {
	ctx, cancel := c.ctx, context.CancelFunc(func() {})
	if c.ending || c.write && !c.patient {
		// Not the caller's: a write that has begun is seen through.
		ctx, cancel = context.WithTimeout(context.Background(), pgAnswer)
	}
	r := &pgReply{p: c.c.Conn().PgConn().StartPipeline(ctx), cancel: cancel}
	defer func() {
		if err != nil {
			_ = r.p.Close()
			cancel()
		}
	}()
	known := preparedOn(c.c.Conn().PgConn())
	fresh := c.sendItems(r.p, known)
	if err := r.p.Sync(); err != nil {
		return nil, 0, err
	}
	for i := range c.queue {
		it := &c.queue[i]
		r.what = it.what
		if it.prepare {
			if _, err := r.p.GetResults(); err != nil {
				return nil, i, fmt.Errorf("prepare %.60q: %w", it.s.text, pgError(err))
			}
			known.names[it.s] = fresh[it.s]
		}
		res, err := r.p.GetResults()
		if err != nil {
			return nil, i, r.wrap(err)
		}
		var ok bool
		if r.rr, ok = res.(*pgconn.ResultReader); !ok {
			return nil, i, fmt.Errorf("the server answered with %T", res)
		}
		if i == len(c.queue)-1 {
			break
		}
		if _, err := r.rr.Close(); err != nil {
			return nil, i, r.wrap(err)
		}
	}
	return r, len(c.queue), nil
}

// sendItems puts what is queued into the pipeline, each statement with the
// request to prepare it if the connection does not know it. It returns the
// names that those will have.
func (c *pgConn) sendItems(p *pgconn.Pipeline, known *pgPrepared) map[*stmt]string {
	var fresh map[*stmt]string
	for i := range c.queue {
		it := &c.queue[i]
		it.prepare = false
		if it.once {
			p.SendQueryParams(it.s.text, it.params, nil, it.formats, binaryResults)
			continue
		}
		name, ok := known.names[it.s]
		if !ok {
			name, ok = fresh[it.s]
		}
		if !ok {
			known.next++
			name = "a" + strconv.Itoa(known.next)
			if fresh == nil {
				fresh = map[*stmt]string{}
			}
			fresh[it.s], it.prepare = name, true
			p.SendPrepare(name, it.s.text, nil)
		}
		p.SendQueryPrepared(name, it.params, it.formats, binaryResults)
	}
	return fresh
}

func (c *pgConn) exec(s *stmt, args []any) (int64, error) {
	if err := c.add(s, args); err != nil {
		return 0, err
	}
	r, err := c.send()
	if err != nil {
		return 0, err
	}
	tag, err := r.finish()
	return tag.RowsAffected(), err
}

func (c *pgConn) query(s *stmt, args []any) (cursor, error) {
	if err := c.add(s, args); err != nil {
		return nil, err
	}
	return c.read()
}

// read sends what is queued and returns a cursor for the last statement.
func (c *pgConn) read() (*pgCursor, error) {
	r, err := c.send()
	if err != nil {
		return nil, err
	}
	c.reading = &pgCursor{c: c, r: r, fields: slices.Clone(r.rr.FieldDescriptions())}
	return c.reading, nil
}

func (c *pgConn) bulk(b *bulk, args []any) error {
	step := len(args)
	if b.single {
		step = len(b.types)
	}
	for ; len(args) > 0; args = args[step:] {
		if err := c.addRows(b.arrays, b, args[:step]); err != nil {
			return err
		}
	}
	return nil
}

func (c *pgConn) returning(b *bulk, args []any, fn func(nid int64)) error {
	if err := c.lockRooms(b, args); err != nil {
		return err
	}
	if err := c.addRows(b.arrays, b, args); err != nil {
		return err
	}
	cur, err := c.read()
	if err != nil {
		return err
	}
	return eachNID(cur, fn)
}

// lockRooms locks the rows of the rooms that are to be swapped, in order.
func (c *pgConn) lockRooms(b *bulk, args []any) error {
	if b != swapRooms || len(args) == len(b.types) {
		return nil
	}
	var nids []int64
	for i := 0; i < len(args); i += len(b.types) {
		nids = append(nids, args[i].(int64))
	}
	return c.add(pgLockRooms, []any{nids})
}

// take implements aheadConn.
func (c *pgConn) take(b *bulk, args []any) error {
	if err := c.lockRooms(b, args); err != nil {
		return err
	}
	return c.addRows(b.taken, b, args, len(args)/len(b.types))
}

// moveHead implements aheadConn.
func (c *pgConn) moveHead(from, n int64) error {
	if c.bytes > pgTailBytes {
		r, err := c.send()
		if err != nil {
			return err
		}
		if _, err := r.finish(); err != nil {
			return err
		}
	}
	return c.add(pgMoveHead, []any{n, from})
}

func (c *pgConn) script(text string) error {
	c.start()
	c.queue = append(c.queue, pgItem{s: &stmt{text: text}, once: true})
	r, err := c.send()
	if err != nil {
		return err
	}
	_, err = r.finish()
	return err
}

// lockSchema keeps other processes from changing the schema until the end of
// the transaction, which may take its time.
func (c *pgConn) lockSchema() error {
	c.patient = true
	for _, text := range []string{
		`SET LOCAL statement_timeout = 0`,
		`SET LOCAL lock_timeout = 0`,
		fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d, 0)`, c.e.lockKey("schema")),
		fmt.Sprintf(`SET LOCAL lock_timeout = %d`, pgLockTimeout.Milliseconds()),
	} {
		if err := c.script(text); err != nil {
			return err
		}
	}
	return nil
}

func (c *pgConn) commit() error {
	if !c.write {
		c.end()
		return nil
	}
	defer c.release()
	if !c.answered && len(c.queue) == 0 {
		return nil
	}
	c.queue = append(c.queue, pgItem{s: pgCommit, what: "commit"})
	r, err := c.send()
	if err != nil {
		c.undo()
		return err
	}
	// The answer to COMMIT has come; only what the protocol adds is missing.
	tag, _ := r.rr.Close()
	_, _ = r.finish()
	if tag.String() != "COMMIT" {
		return fmt.Errorf("the transaction had failed before its commit: %s", tag)
	}
	return nil
}

func (c *pgConn) rollback() {
	if !c.write {
		c.end()
		return
	}
	c.undo()
	c.release()
}

// end ends a transaction that only read. Nobody needs to wait for that.
func (c *pgConn) end() {
	if c.c == nil {
		return
	}
	go func() {
		c.undo()
		c.release()
	}()
}

// undo rolls back, if there is anything and the connection lives.
func (c *pgConn) undo() {
	if c.c == nil {
		return
	}
	c.ending = true
	if c.reading != nil {
		_ = c.reading.close()
	}
	pc := c.c.Conn().PgConn()
	if pc.IsClosed() || pc.TxStatus() == 'I' {
		return
	}
	c.queue = append(c.queue[:0], pgItem{s: pgRollback})
	c.answered = true
	if r, err := c.send(); err == nil {
		_, _ = r.finish()
	}
}

// release gives the connection back; the pool closes it if it is broken or
// still within a transaction.
func (c *pgConn) release() {
	if c.c != nil {
		c.c.Release()
		c.c = nil
	}
	c.queue = nil
}

// pgCursor reads rows as they come. If another statement comes first, the rest
// of the rows is kept in memory.
type pgCursor struct {
	c      *pgConn
	r      *pgReply // nil: at its end
	fields []pgconn.FieldDescription
	kept   [][]any
	err    error // of the end
}

func (q *pgCursor) width() int { return len(q.fields) }

func (q *pgCursor) next(dest []any) (bool, error) {
	if len(q.kept) > 0 {
		copy(dest, q.kept[0])
		q.kept = q.kept[1:]
		return true, nil
	}
	return q.receive(dest)
}

// receive is next for the rows that have not been read yet.
func (q *pgCursor) receive(dest []any) (bool, error) {
	if q.r == nil {
		return false, q.err
	}
	if !q.r.rr.NextRow() {
		q.end()
		return false, q.err
	}
	for i, v := range q.r.rr.Values() {
		var err error
		if dest[i], err = pgColumn(&q.fields[i], v); err != nil {
			return false, err
		}
	}
	return true, nil
}

// end finishes the answer and makes the connection free for the next.
func (q *pgCursor) end() {
	if q.r == nil {
		return
	}
	_, q.err = q.r.finish()
	q.r, q.c.reading = nil, nil
}

// buffer reads the rest of the rows into memory.
func (q *pgCursor) buffer() error {
	for {
		row := make([]any, len(q.fields))
		more, err := q.receive(row)
		if err != nil || !more {
			return err
		}
		q.kept = append(q.kept, row)
	}
}

func (q *pgCursor) close() error {
	q.kept = nil
	q.end()
	return q.err
}
