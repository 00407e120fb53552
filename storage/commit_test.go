package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"atoll/spec"
)

// watchedEngine counts what reaches an engine and may spoil commits.
type watchedEngine struct {
	engine
	writes, statements int
	onCommit           func(conn) error // nil: just commit
}

func (e *watchedEngine) begin(ctx context.Context, write bool) (conn, error) {
	c, err := e.engine.begin(ctx, write)
	if err != nil || !write {
		return c, err
	}
	e.writes++
	return &watchedConn{conn: c, e: e}, nil
}

type watchedConn struct {
	conn
	e *watchedEngine
}

func (c *watchedConn) exec(s *stmt, args []any) (int64, error) {
	c.e.statements++
	return c.conn.exec(s, args)
}

func (c *watchedConn) query(s *stmt, args []any) (cursor, error) {
	c.e.statements++
	return c.conn.query(s, args)
}

func (c *watchedConn) bulk(b *bulk, args []any) error {
	for rest := len(args); rest > 0; c.e.statements++ {
		_, n := b.piece(rest)
		rest -= n
	}
	return c.conn.bulk(b, args)
}

func (c *watchedConn) returning(b *bulk, args []any, fn func(int64)) error {
	c.e.statements++
	return c.conn.returning(b, args, fn)
}

func (c *watchedConn) commit() error {
	if c.e.onCommit != nil {
		return c.e.onCommit(c.conn)
	}
	return c.conn.commit()
}

func openWatched(t *testing.T) (*DB, *watchedEngine) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	e, err := openSQLite(filepath.Join(t.TempDir(), "watched.db"), log)
	if err != nil {
		t.Fatal(err)
	}
	w := &watchedEngine{engine: e}
	db, err := start(context.Background(), w, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for want := range int64(3) { // the rooms that these tests use
		if nid := db.NewRoomNID(); nid != want+1 {
			t.Fatalf("room id %d", nid)
		}
	}
	return db, w
}

// message makes the unit of a message into a room at a version; version 0
// creates the room.
func message(db *DB, room, version int64) *Unit {
	nid := db.NewEventNIDs(1)
	ev := &spec.Event{ID: spec.EventID(fmt.Sprint("$e", nid)), Sender: "@a:b", Type: "m.room.message", Prev: []spec.EventID{"$p"}, Depth: nid,
		JSON: []byte(`{}`)}
	return &Unit{
		Room: &RoomUpdate{ExpectVersion: version, RoomRow: RoomRow{NID: room, ID: spec.RoomID(fmt.Sprint("!r", room)), RoomVersion: "12",
			Extremities: []int64{nid}}},
		Events: []EventRow{{NID: nid, RoomNID: room, Event: ev, Kind: StateRoot}},
		Txns:   []TxnRow{{User: "@a:b", Scope: "send", TxnID: fmt.Sprint(nid), Result: string(ev.ID)}},
		Log:    []LogEntry{{Kind: LogEvent, RoomNID: room, EventNID: nid}},
	}
}

// commitTogether commits units as one group, in their order.
func commitTogether(t *testing.T, db *DB, units ...*Unit) []error {
	t.Helper()
	group := make([]*request, len(units))
	for i, u := range units {
		r, err := newRequest(u)
		if err != nil {
			t.Fatal(err)
		}
		group[i] = r
	}
	db.commitGroup(group)
	errs := make([]error, len(group))
	for i, r := range group {
		<-r.done
		errs[i] = r.err
		if (r.err == nil) != (r.committed != Committed{}) {
			t.Errorf("unit %d: positions %+v, error %v", i, r.committed, r.err)
		}
	}
	return errs
}

// wantErrors compares outcomes; nil means success.
func wantErrors(t *testing.T, got []error, want ...error) {
	t.Helper()
	for i := range want {
		if !errors.Is(got[i], want[i]) {
			t.Errorf("unit %d: %v, want %v", i, got[i], want[i])
		}
	}
}

func roomVersion(t *testing.T, db *DB, nid int64) int64 {
	t.Helper()
	var version int64
	err := db.Read(context.Background(), func(tx *Tx) error {
		r, err := tx.RoomByNID(nid)
		version = r.Version
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func TestMessageTakesSixStatements(t *testing.T) {
	db, w := openWatched(t)
	wantErrors(t, commitTogether(t, db, message(db, 1, 0)), nil)
	u := message(db, 1, 1)
	w.statements = 0
	wantErrors(t, commitTogether(t, db, u), nil)
	if w.statements != 6 {
		t.Errorf("%d statements for a message, want 6", w.statements)
	}
}

func TestGroupIsOneTransaction(t *testing.T) {
	db, w := openWatched(t)
	units := []*Unit{message(db, 1, 0), message(db, 2, 0), message(db, 1, 1), message(db, 1, 2), message(db, 3, 0)}
	w.writes = 0
	wantErrors(t, commitTogether(t, db, units...), nil, nil, nil, nil, nil)
	if w.writes != 1 {
		t.Errorf("%d transactions", w.writes)
	}
	if v := roomVersion(t, db, 1); v != 3 {
		t.Errorf("version %d after three units", v)
	}
	for i := 1; i < len(units); i++ {
		if units[i].Log[0].Pos != units[i-1].Log[0].Pos+1 {
			t.Errorf("unit %d at %d, the one before at %d", i, units[i].Log[0].Pos, units[i-1].Log[0].Pos)
		}
	}
}

func TestConflictsLeaveTheOthers(t *testing.T) {
	db, _ := openWatched(t)
	wantErrors(t, commitTogether(t, db, message(db, 1, 0), message(db, 1, 1), message(db, 2, 0)), nil, nil, nil)
	t.Run("a stale unit before a good one of its room", func(t *testing.T) {
		errs := commitTogether(t, db, message(db, 1, 1), message(db, 1, 2), message(db, 2, 1))
		wantErrors(t, errs, ErrConflict, nil, nil)
	})
	t.Run("a stale unit whose successor fits", func(t *testing.T) {
		errs := commitTogether(t, db, message(db, 1, 2), message(db, 1, 3), message(db, 1, 4))
		wantErrors(t, errs, ErrConflict, nil, nil)
	})
	t.Run("a unit that comes twice", func(t *testing.T) {
		u := message(db, 2, 2)
		again := *u
		wantErrors(t, commitTogether(t, db, u, &again), nil, ErrConflict)
	})
}

func TestFailingUnitBreaksItsChainOnly(t *testing.T) {
	db, _ := openWatched(t)
	wantErrors(t, commitTogether(t, db, message(db, 1, 0), message(db, 2, 0)), nil, nil)
	bad := message(db, 1, 2)
	bad.Events[0].NID = 1 // taken
	errs := commitTogether(t, db, message(db, 1, 1), message(db, 2, 1), bad, message(db, 1, 3), message(db, 2, 2))
	wantErrors(t, errs, nil, nil, ErrConstraint, ErrConflict, nil)
	if v := roomVersion(t, db, 1); v != 2 {
		t.Errorf("version %d", v)
	}
	if err := db.Check(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestUnknownOutcome(t *testing.T) {
	for claim, took := range map[string]bool{"that took effect": true, "that did not": false} {
		t.Run(claim, func(t *testing.T) {
			db, w := openWatched(t)
			wantErrors(t, commitTogether(t, db, message(db, 1, 0)), nil)
			head := db.Head()
			f := db.Follow(head)
			w.onCommit = func(c conn) error {
				if !took {
					c.rollback()
				} else if err := c.commit(); err != nil {
					t.Error(err)
				}
				return fmt.Errorf("%w: connection lost", errOutcome)
			}
			errs := commitTogether(t, db, message(db, 1, 1))
			wantErrors(t, errs, ErrUnknownOutcome)
			w.onCommit = nil
			expect := int64(1)
			if took {
				expect = 2
			}
			if v := roomVersion(t, db, 1); v != expect {
				t.Fatalf("version %d", v)
			}
			wantErrors(t, commitTogether(t, db, message(db, 1, expect)), nil)
			for p := head + 1; p <= db.Head(); {
				got, err := f.Next(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range got {
					if e.Pos != p {
						t.Fatalf("followed position %d, want %d", e.Pos, p)
					}
					p++
				}
			}
			if db.Head() != head+expect {
				t.Errorf("head %d after %d", db.Head(), head)
			}
		})
	}
}

func TestFailedCommitWritesNothing(t *testing.T) {
	db, w := openWatched(t)
	wantErrors(t, commitTogether(t, db, message(db, 1, 0)), nil)
	full := errors.New("disk full")
	w.onCommit = func(c conn) error { c.rollback(); return full }
	wantErrors(t, commitTogether(t, db, message(db, 1, 1), message(db, 2, 0)), full, full)
	err := db.Write(context.Background(), func(tx *Tx) error { return nil })
	if !errors.Is(err, full) {
		t.Errorf("write: %v", err)
	}
	w.onCommit = nil
	wantErrors(t, commitTogether(t, db, message(db, 1, 1), message(db, 2, 0)), nil, nil)
}

func TestWithdrawnRequestsAreSkipped(t *testing.T) {
	db, w := openWatched(t)
	r, err := newRequest(message(db, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	r.state.Store(requestWithdrawn)
	w.writes = 0
	if group := db.gather(r); len(group) != 0 {
		t.Errorf("a withdrawn request is in the group")
	}
	db.commitGroup(nil)
	if w.writes != 0 {
		t.Errorf("%d transactions", w.writes)
	}
}

func TestCheckFindsViolations(t *testing.T) {
	for claim, text := range map[string]string{
		"a hole in the log":        `DELETE FROM log WHERE pos = 1`,
		"a missing last entry":     `DELETE FROM log WHERE pos = 2`,
		"a lost edge target":       `DELETE FROM events WHERE event_id = '$e1'`,
		"a wrong timeline":         `UPDATE events SET timeline = NULL WHERE event_id = '$e1'`,
		"a lost extremity":         `UPDATE rooms SET extremities = '[77]'`,
		"a wrong count":            `UPDATE rooms SET joined = 5`,
		"a root without nodes":     `UPDATE rooms SET root = randomblob(32)`,
		"a state without nodes":    `UPDATE events SET after_root = randomblob(32) WHERE event_id = '$e1'`,
		"a sequence gone back":     `UPDATE sequences SET next_id = 1`,
		"a membership from nobody": `INSERT INTO memberships VALUES (1, '@a:b', 'join', 77, NULL, FALSE, FALSE, NULL)`,
	} {
		t.Run(claim, func(t *testing.T) {
			db, _ := openWatched(t)
			wantErrors(t, commitTogether(t, db, message(db, 1, 0), message(db, 1, 1)), nil, nil)
			if err := db.Check(context.Background()); err != nil {
				t.Fatalf("before: %v", err)
			}
			err := db.Write(context.Background(), func(tx *Tx) error {
				_, err := tx.exec(&stmt{sqlite: text})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Check(context.Background()); err == nil {
				t.Error("not found")
			}
		})
	}
}
