package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Time-outs of the sessions on PostgreSQL. A process that was stopped in the
// middle of a transaction loses it, and with it its locks, after
// pgIdleTimeout; whoever waits for one of them meanwhile must be more patient
// than that.
const (
	pgIdleTimeout      = 4 * time.Second
	pgLockTimeout      = 4500 * time.Millisecond
	pgStatementTimeout = 5 * time.Second
	// pgReadTimeout is for sessions that only read. They hold nobody up; requests
	// end with their contexts, and the checks of an operator may take long.
	pgReadTimeout = 10 * time.Minute
	// pgAnswer is how long a writer waits for the answer of a server that
	// should have given up long before.
	pgAnswer = 15 * time.Second
	// pgPatience is how long a transaction waits for a server that does not take
	// connections, for example because it restarts.
	pgPatience = 5 * time.Second
	pgDial     = 5 * time.Second
	// pgReaders is how many connections read at most; pool_max_conns in the URL
	// sets it.
	pgReaders = 8
	// pgWriters: one writes, another may still be giving up its transaction.
	pgWriters = 2
)

// pgEngine is PostgreSQL: a pool of connections that read, and one of those
// that write. Other processes may use the same database.
type pgEngine struct {
	log     *slog.Logger
	dsn     *pgx.ConnConfig
	readers *pgxpool.Pool
	writers *pgxpool.Pool
	// space tells this database's advisory locks and notifications from those of
	// other schemas on the same server.
	space     string
	announced chan struct{} // asks for a notification, see watch
	// sender tells our notifications from those of other processes.
	sender string
	stop   context.CancelFunc
	ctx    context.Context // ends with close: nobody waits for a server any more
}

// openPostgres connects to the server, which must be there.
func openPostgres(ctx context.Context, dsn string, log *slog.Logger) (*pgEngine, error) {
	base, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("storage: the PostgreSQL URL cannot be read") // without the URL: it may hold a password
	}
	e := &pgEngine{log: log, dsn: base.ConnConfig.Copy(), announced: make(chan struct{}, 1), sender: rand.Text()}
	e.ctx, e.stop = context.WithCancel(context.Background())
	tune(e.dsn)
	if e.readers, err = newPool(ctx, base, pool{connections: pgReaders, statement: pgReadTimeout, idle: pgReadTimeout}); err != nil {
		return nil, err
	}
	w := pool{connections: pgWriters, fixed: true, statement: pgStatementTimeout, idle: pgIdleTimeout}
	if e.writers, err = newPool(ctx, base, w); err != nil {
		e.readers.Close()
		return nil, err
	}
	if err := e.identify(ctx); err != nil {
		_ = e.close()
		return nil, fmt.Errorf("storage: PostgreSQL: %w", err)
	}
	return e, nil
}

// pool says in which way the connections of a pool differ from others.
type pool struct {
	connections     int32
	fixed           bool // their number is not the operator's choice
	statement, idle time.Duration
}

func newPool(ctx context.Context, base *pgxpool.Config, p pool) (*pgxpool.Pool, error) {
	c := base.Copy()
	if p.fixed || c.MaxConns <= 4 { // 4: nothing was said, or too little
		c.MaxConns = p.connections
	}
	c.MinConns, c.MinIdleConns = 0, 0
	c.PingTimeout = pgDial
	tune(c.ConnConfig)
	for name, limit := range map[string]time.Duration{
		"statement_timeout":                   p.statement,
		"idle_in_transaction_session_timeout": p.idle,
		"lock_timeout":                        pgLockTimeout,
	} {
		if _, set := c.ConnConfig.RuntimeParams[name]; !set {
			c.ConnConfig.RuntimeParams[name] = strconv.FormatInt(limit.Milliseconds(), 10)
		}
	}
	return pgxpool.NewWithConfig(ctx, c)
}

// tune sets what all connections have in common.
func tune(c *pgx.ConnConfig) {
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "atoll"
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = pgDial
	}
	c.DialFunc = (&net.Dialer{Timeout: pgDial, KeepAlive: 15 * time.Second, Control: limitSilence}).DialContext
	// A request that is given up mostly ends a statement that is about to answer;
	// only a slow one is cancelled, so that the connection can be kept.
	c.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: pc, CancelRequestDelay: 200 * time.Millisecond, DeadlineDelay: 2 * time.Second}
	}
}

// identify checks that the database can hold our text, and learns what tells
// it from others.
func (e *pgEngine) identify(ctx context.Context) error {
	var encoding, database, schema string
	err := e.readers.QueryRow(ctx, `SELECT current_setting('server_encoding'), current_database(), coalesce(current_schema(), '')`).
		Scan(&encoding, &database, &schema)
	switch {
	case err != nil:
		return err
	case encoding != "UTF8":
		return fmt.Errorf("the database %s has the encoding %s, UTF8 is needed", database, encoding)
	case schema == "":
		return fmt.Errorf("the database %s has none of the schemas of the search path", database)
	}
	e.space = schema
	return nil
}

// lockKey is the key of one of this database's advisory locks.
func (e *pgEngine) lockKey(name string) int32 {
	h := fnv.New32a()
	h.Write([]byte(name + "/" + e.space))
	return int32(h.Sum32())
}

func (e *pgEngine) dialect() dialect { return dialectPostgres }

// begin starts a transaction. Nothing is sent yet: BEGIN goes together with
// what comes first, on a connection that is taken then.
func (e *pgEngine) begin(ctx context.Context, write bool) (conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if e.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return &pgConn{e: e, ctx: ctx, write: write}, nil
}

// acquire takes a connection. While the server does not take any, it tries
// again for pgPatience.
func (e *pgEngine) acquire(ctx context.Context, write bool) (*pgxpool.Conn, error) {
	from := e.readers
	if write {
		from = e.writers
	}
	giveUp := time.NewTimer(pgPatience)
	defer giveUp.Stop()
	for pause := 25 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		c, err := from.Acquire(ctx)
		if err == nil || ctx.Err() != nil || !unreachable(err) {
			return c, err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
			continue
		case <-giveUp.C:
		case <-ctx.Done():
		case <-e.ctx.Done():
		}
		again.Stop()
		return nil, err
	}
}

// unreachable tells whether a connection failed because of a server that is
// not there or not ready, rather than one that refuses us.
func unreachable(err error) bool {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return false
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) { // shutting down, starting up, crashed, too many connections
		return pe.Code[:3] == "57P" || pe.Code == "53300"
	}
	return true
}

// close waits for the transactions under way.
func (e *pgEngine) close() error {
	e.stop()
	e.readers.Close()
	e.writers.Close()
	return nil
}

// errAgain marks errors after which nothing was written and the same
// transaction may succeed: a deadlock, a lock that somebody held for long, a
// connection that was lost.
var errAgain = errors.New("may be tried again")

// errRefuted: the transaction was sent ahead of answers, which came out
// otherwise. Nothing was written.
var errRefuted = errors.New("not as expected")

// pgError maps errors of the server to the package's.
func pgError(err error) error {
	if err == nil {
		return nil
	}
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return err
	}
	switch {
	case pe.Code == "22012": // division by zero, see newBulk
		return fmt.Errorf("%w: %w", errRefuted, err)
	case pe.ConstraintName == "state_keys_key":
		// Another process has given the key a local id meanwhile. The unit is as
		// stale as one that was built on another version of the room.
		return fmt.Errorf("%w: %w: %w", ErrConstraint, ErrConflict, err)
	}
	switch class := pe.Code[:2]; {
	case class == "22" || class == "23" || class == "54": // bad value, constraint, row too large for an index
		return fmt.Errorf("%w: %w", ErrConstraint, err)
	case class == "40", class == "57", // serialization and deadlock; cancelled by a time-out, shut down
		pe.Code == "55P03", pe.Code == "25P03": // lock time-out, idle for too long
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return err
}
