package storage

import (
	"context"
	"errors"
	"testing"

	"modernc.org/sqlite"
)

func openTest(t testing.TB) *DB {
	t.Helper()
	db, err := Open(context.Background(), Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func TestEveryStatementPrepares(t *testing.T) {
	db := openTest(t)
	err := db.Write(context.Background(), func(tx *Tx) error {
		c := tx.c.(*sqliteConn)
		for _, s := range registry.stmts {
			if _, err := c.prepared(s); err != nil {
				t.Error(err)
			}
		}
		for _, b := range registry.bulks {
			for _, s := range b.texts {
				if _, err := c.prepared(s); err != nil {
					t.Errorf("%s: %v", b.name, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStatementsNumberParametersInOrder(t *testing.T) {
	for _, s := range registry.stmts {
		next := 1
		for _, tok := range scanSQL(s.text) {
			if tok[0] != '$' {
				continue
			}
			n := 0
			for _, c := range tok[1:] {
				n = n*10 + int(c-'0')
			}
			if n > next {
				t.Errorf("$%d before $%d in %s", n, next, s.text)
			}
			if n == next {
				next++
			}
		}
	}
}

func TestWriteRollsBack(t *testing.T) {
	db := openTest(t)
	ctx := context.Background()
	stop := errors.New("stop")
	err := db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.exec(advanceHead, 5); err != nil {
			return err
		}
		return stop
	})
	if err != stop {
		t.Fatal(err)
	}
	err = db.Read(ctx, func(tx *Tx) error {
		head, err := tx.Head()
		if head != 0 {
			t.Errorf("head %d after a write that failed", head)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFdatasyncIsUsed(t *testing.T) {
	openTest(t)
	if !sqlite.FdatasyncEnabled() {
		t.Skip("this platform has no fdatasync")
	}
}
