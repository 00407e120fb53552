package storage

import (
	"context"
	"errors"
)

// engine is one database behind the package: SQLite in a file, or PostgreSQL.
// Everything above it is written once.
type engine interface {
	dialect() dialect
	// begin starts a transaction on a connection of its own: to write, or to
	// read one snapshot. It waits for a free connection until ctx ends.
	begin(ctx context.Context, write bool) (conn, error)
	close() error
}

// conn is a connection within one transaction, used by one goroutine. After
// commit or rollback it must not be used again.
type conn interface {
	exec(s *stmt, args []any) (changed int64, err error)
	query(s *stmt, args []any) (cursor, error)
	// bulk runs a statement for len(args)/len(b.types) rows, in as many pieces
	// as the sizes of its texts call for.
	bulk(b *bulk, args []any) error
	// returning is bulk for a statement that returns local ids.
	returning(b *bulk, args []any, fn func(nid int64)) error
	// script runs text of the schema, already in the engine's dialect.
	script(text string) error
	// commit returns errOutcome if it is not known whether the transaction took
	// effect; after any other error it did not.
	commit() error
	rollback()
}

// cursor reads the rows of a query. close may be called at any time and again.
type cursor interface {
	// next fills dest with the columns of the next row; false at the end.
	next(dest []any) (bool, error)
	width() int
	close() error
}

// errOutcome is what conn.commit wraps when the answer to COMMIT was lost.
var errOutcome = errors.New("outcome of the commit is unknown")

// aheadConn is a conn whose answers take long to come: it can send a whole
// group at once, on the assumption that nobody else has been faster. If that is
// wrong, some method or commit returns errRefuted, and nothing was written.
type aheadConn interface {
	conn
	// take is returning, on the assumption that every row comes through.
	take(b *bulk, args []any) error
	// moveHead moves the head of the log by n, on the assumption that it is at
	// from. Only the log entries may follow.
	moveHead(from, n int64) error
}

// schemaLocker is a conn to a database that several processes may want to
// bring up to date.
type schemaLocker interface {
	// lockSchema waits until no other process changes the schema, and keeps them
	// from it until the end of the transaction.
	lockSchema() error
}

// watcher is an engine whose database other processes may write to.
type watcher interface {
	// watch calls learn with the head of the log when it may have moved, at least
	// every second or so, until quit is closed.
	watch(quit <-chan struct{}, learn func(head int64))
	// announce tells other processes that the head has moved. It returns at once.
	announce()
}

// eachNID reads local ids, the only column of a query, to the end.
func eachNID(cur cursor, fn func(nid int64)) error {
	defer cur.close()
	var col [1]any
	for {
		more, err := cur.next(col[:])
		if err != nil || !more {
			return err
		}
		nid, err := asInt(col[0])
		if err != nil {
			return err
		}
		fn(nid)
	}
}
