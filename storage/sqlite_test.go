package storage

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	sqlite3 "modernc.org/sqlite/lib"
)

func TestCheckpointBeginsTheLogAnew(t *testing.T) {
	e, check, err := newSQLite(filepath.Join(t.TempDir(), "a?b %.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
	})
	defer check.shut()
	write := func(text string, args ...any) {
		t.Helper()
		c, err := e.begin(context.Background(), true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.exec(&stmt{sqlite: text}, args); err != nil {
			t.Fatal(err)
		}
		if err := c.commit(); err != nil {
			t.Fatal(err)
		}
	}
	write(`CREATE TABLE t (body BLOB)`)
	big := make([]byte, 1<<20)
	for range walRestart * 4096 >> 20 {
		write(`INSERT INTO t VALUES (?)`, big)
	}
	select {
	case <-e.wake:
	default:
		t.Error("no checkpoint was asked for")
	}
	if err := e.checkpoint(check); err != nil {
		t.Fatal(err)
	}
	write(`INSERT INTO t VALUES (1)`)
	frames, copied, err := check.runCheckpoint(checkpointPassive)
	if err != nil || frames > 10 || copied != frames {
		t.Errorf("the log has %d frames, %d copied, %v", frames, copied, err)
	}
}

func TestWriterSettings(t *testing.T) {
	db := openTest(t)
	err := db.Write(context.Background(), func(tx *Tx) error {
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "temp_store": "2", "wal_autocheckpoint": "0"} {
			got := ""
			err := tx.each(&stmt{sqlite: "PRAGMA " + pragma}, nil, func(r *rows) error {
				if n, ok := r.cols[0].(int64); ok {
					got = string(rune('0' + n))
					return nil
				}
				return r.scan(&got)
			})
			if err != nil {
				return err
			}
			if got != want {
				t.Errorf("%s is %s, want %s", pragma, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := openTest(t)
	err := db.Read(context.Background(), func(tx *Tx) error {
		_, err := tx.exec(advanceHead, 1)
		return err
	})
	if !isSQLiteCode(err, sqlite3.SQLITE_READONLY) {
		t.Errorf("a reader wrote: %v", err)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	db := openTest(t)
	ctx, cancel := context.WithCancel(context.Background())
	err := db.Read(ctx, func(tx *Tx) error {
		n := 0
		return tx.each(&stmt{sqlite: `WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c`}, nil, func(*rows) error {
			if n++; n == 10 {
				cancel()
			}
			return nil
		})
	})
	if err != context.Canceled {
		t.Errorf("read: %v", err)
	}
	if err := db.Read(ctx, func(*Tx) error { return nil }); err != nil && !strings.Contains(err.Error(), "cancel") {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestWaitingForAReaderEndsWithTheContext(t *testing.T) {
	db := openTest(t)
	ctx, cancel := context.WithCancel(context.Background())
	var nest func(n int) error
	nest = func(n int) error {
		return db.Read(ctx, func(*Tx) error {
			if n > 1 {
				return nest(n - 1)
			}
			cancel()
			return nil
		})
	}
	if err := nest(sqliteReaders); err != nil {
		t.Errorf("as many as there are readers: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	var inner func(n int) error
	inner = func(n int) error {
		if n == 0 {
			cancel()
		}
		return db.Read(ctx, func(*Tx) error { return inner(n - 1) })
	}
	if err := inner(sqliteReaders); err != context.Canceled {
		t.Errorf("one more: %v", err)
	}
}
