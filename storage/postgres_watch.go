package storage

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Notifications between processes are only hints that the head of the log has
// moved: they may be lost, so the head is read every pgWatchPoll all the same,
// and they are sent at most every pgAnnounceGap, and only if there is another
// process.
const (
	pgWatchPoll   = time.Second
	pgAnnounceGap = 5 * time.Millisecond
	pgWatchRetry  = 2 * time.Second
)

// channel is the channel of the notifications of a database.
func (e *pgEngine) channel() string { return pgx.Identifier{"atoll_log/" + e.space}.Sanitize() }

// notify is the statement that notifies other processes.
func (e *pgEngine) notify() string { return fmt.Sprintf(`NOTIFY %s, '%s'`, e.channel(), e.sender) }

// announce implements watcher.
func (e *pgEngine) announce() {
	select {
	case e.announced <- struct{}{}:
	default:
	}
}

// watch implements watcher.
func (e *pgEngine) watch(quit <-chan struct{}, learn func(head int64)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-quit
		cancel()
	}()
	var others atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.announcements(ctx, &others)
	}()
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, pgWatchRetry) {
		began := time.Now()
		err := e.listen(ctx, &others, learn)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > pgWatchRetry {
			pause = 50 * time.Millisecond
		}
		e.log.Warn("commits of other processes are not heard of, trying again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	<-ended
}

// listen waits for notifications on a connection of its own. It returns when
// that is lost or ctx ends.
func (e *pgEngine) listen(ctx context.Context, others *atomic.Bool, learn func(head int64)) error {
	config := e.dsn.Copy()
	// Waiting ends every pgWatchPoll, which must not harm the connection.
	config.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: pc.Conn()}
	}
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), pgDial)
		defer cancel()
		_ = c.Close(ctx)
	}()
	// The lock, which nobody waits for, tells others that we are here; they look
	// at once.
	hello := fmt.Sprintf(`LISTEN %s; SELECT pg_advisory_lock_shared(%d, 0); %s`, e.channel(), e.lockKey("process"), e.notify())
	if _, err := c.Exec(ctx, hello); err != nil {
		return err
	}
	for {
		if err := e.look(ctx, c, others, learn); err != nil {
			return err
		}
		if err := e.wait(ctx, c); err != nil {
			return err
		}
	}
}

// wait waits for a notification by another process, at most for pgWatchPoll.
func (e *pgEngine) wait(ctx context.Context, c *pgx.Conn) error {
	poll, cancel := context.WithTimeout(ctx, pgWatchPoll)
	defer cancel()
	for {
		n, err := c.WaitForNotification(poll)
		switch {
		case err != nil && (ctx.Err() != nil || c.IsClosed()):
			return err
		case err != nil || n.Payload != e.sender:
			return nil
		}
	}
}

const pgLook = `SELECT h.pos, EXISTS (SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid::bigint = $1 AND l.objid = 0
		AND l.objsubid = 2 AND l.pid <> pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
	FROM log_head h WHERE h.one = 1`

// look reads the head of the log and whether there are other processes.
func (e *pgEngine) look(ctx context.Context, c *pgx.Conn, others *atomic.Bool, learn func(head int64)) error {
	ctx, cancel := context.WithTimeout(ctx, pgAnswer)
	defer cancel()
	var head int64
	var more bool
	if err := c.QueryRow(ctx, pgLook, int64(uint32(e.lockKey("process")))).Scan(&head, &more); err != nil {
		return err
	}
	others.Store(more)
	learn(head)
	return nil
}

// announcements notifies other processes, if there are any, of what was
// announced, until ctx ends.
func (e *pgEngine) announcements(ctx context.Context, others *atomic.Bool) {
	// Of what happened is no trace in the database, so nothing need be synced.
	notify := `SET LOCAL synchronous_commit = off; ` + e.notify()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.announced:
		}
		if others.Load() {
			// Lost ones are made good by the others' polling.
			_ = e.readers.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
				_, err := c.Exec(ctx, notify, pgx.QueryExecModeSimpleProtocol)
				return err
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pgAnnounceGap):
		}
	}
}
