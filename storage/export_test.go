package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// This file lets tests outside the package, which have a server to run on,
// reach its inside.

// PrepareAll prepares every statement of the package on PostgreSQL.
func PrepareAll(db *DB) error {
	var errs []error
	list := append([]*stmt{pgLockRooms, pgMoveHead}, registry.stmts...)
	for _, b := range registry.bulks {
		list = append(list, b.arrays)
		if b.taken != nil {
			list = append(list, b.taken)
		}
	}
	ofSQLite := []*stmt{beginRead, beginWrite, commitTx, rollbackTx, checkpointPassive, checkpointRestart}
	for _, s := range list {
		if slices.Contains(ofSQLite, s) {
			continue
		}
		err := db.Write(context.Background(), func(tx *Tx) error {
			return tx.c.script("PREPARE p AS " + s.text)
		})
		if err == nil {
			err = db.Write(context.Background(), func(tx *Tx) error { return tx.c.script("DEALLOCATE p") })
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.text, err))
		}
	}
	return errors.Join(errs...)
}

// HoldHead locks the head of the log within a transaction and calls fn.
func HoldHead(db *DB, fn func()) error {
	return db.Write(context.Background(), func(tx *Tx) error {
		if _, err := tx.exec(advanceHead, 0); err != nil {
			return err
		}
		fn()
		return nil
	})
}

// Setting returns a setting of the session in which transactions write.
func Setting(db *DB, name string) (value string, err error) {
	err = db.Write(context.Background(), func(tx *Tx) error {
		return tx.one(&stmt{text: `SELECT current_setting($1)`}, []any{name}, &value)
	})
	return value, err
}

// KillSessions ends all other sessions that have a schema in their search
// path, as a restart of the server would.
func KillSessions(db *DB) (n int64, err error) {
	err = db.Write(context.Background(), func(tx *Tx) error {
		n, err = tx.exec(&stmt{text: `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND application_name = current_setting('application_name')`})
		return err
	})
	return n, err
}
