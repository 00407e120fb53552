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
