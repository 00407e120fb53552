package storage_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"atoll/spec"
	"atoll/storage"
	"atoll/storage/storagetest"
)

var alice = storagetest.User("alice")

func openPostgres(t testing.TB, dsn string) *storage.DB {
	t.Helper()
	return storagetest.OpenWith(t, storage.Options{Database: dsn})
}

func check(t *testing.T, db *storage.DB) {
	t.Helper()
	if err := db.Check(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestPostgresPreparesEveryStatement(t *testing.T) {
	if err := storage.PrepareAll(openPostgres(t, storagetest.Postgres(t))); err != nil {
		t.Error(err)
	}
}

// A message alone, from the first statement to the outcome, takes one answer
// of the server.
func TestPostgresMessageTakesOneRoundTrip(t *testing.T) {
	p, dsn := newProxy(t, storagetest.Postgres(t), 0)
	db := openPostgres(t, dsn)
	r := storagetest.NewRoom(t, db, alice)
	r.Commit(r.Message(alice, "prepares the statements"))
	u := r.Message(alice, "hello")
	before := p.turns.Load()
	r.Commit(u)
	// The watcher looks at the head every second; twice at most in between.
	if n := p.turns.Load() - before; n < 1 || n > 3 {
		t.Errorf("%d round trips", n)
	}
	check(t, db)
}

func TestPostgresSessionsHaveTimeouts(t *testing.T) {
	db := openPostgres(t, storagetest.Postgres(t))
	for _, name := range []string{"lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"} {
		text, err := storage.Setting(db, name)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := time.ParseDuration(strings.Replace(text, "min", "m", 1)); err != nil || d <= 0 || d > 5*time.Second {
			t.Errorf("%s is %s, %v", name, text, err)
		}
	}
}

func TestPostgresRefusesWhatItCannotUse(t *testing.T) {
	dsn := storagetest.Postgres(t)
	for claim, database := range map[string]string{
		"no server":           "postgres://atoll:hunter2@127.0.0.1:1/atoll?connect_timeout=5",
		"a URL that is none":  "postgres://atoll:hunter2@host:port/",
		"no such schema":      strings.Replace(dsn, "search_path=t_", "search_path=u_", 1),
		"an unknown setting":  dsn + "&no_such_setting=1",
		"an unknown database": strings.Replace(dsn, "?", "_none?", 1),
	} {
		db, err := storage.Open(context.Background(), storage.Options{Database: database})
		if err == nil {
			db.Close()
			t.Errorf("%s: opened", claim)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error has the password: %v", claim, err)
		}
	}
}

// Several processes may start at once on a new database.
func TestPostgresConcurrentMigration(t *testing.T) {
	dsn := storagetest.Postgres(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			db, err := storage.Open(context.Background(), storage.Options{Database: dsn})
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPostgresKeepsAnyText(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db := openPostgres(t, dsn)
	r := storagetest.NewRoom(t, db, alice)
	var keys []spec.StateKey
	for _, s := range []string{"\x00", "a\x00b", "\x01", "\x010", "\x01\x00", "\\000", "é\x00"} {
		key := spec.StateKey{Type: "x.y", Key: s}
		r.Commit(r.State(alice, key.Type, s, `{}`))
		keys = append(keys, key)
	}
	again := openPostgres(t, dsn)
	rows, err := again.StateKeyNIDs(context.Background(), keys)
	if err != nil {
		t.Fatal(err)
	}
	byNID, err := again.StateKeysByNID(context.Background(), nids(rows))
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range rows {
		if row.New || byNID[row.NID] != keys[i] {
			t.Errorf("%q came back as %q, new is %v", keys[i].Key, byNID[row.NID].Key, row.New)
		}
	}
	check(t, again)
}

func nids(rows []storage.StateKeyRow) []int64 {
	var out []int64
	for _, r := range rows {
		out = append(out, r.NID)
	}
	return out
}

// Two processes write to rooms of their own and follow the log of both.
func TestPostgresSeveralProcesses(t *testing.T) {
	dsn := storagetest.Postgres(t)
	dbs := []*storage.DB{openPostgres(t, dsn), openPostgres(t, dsn)}
	const rooms, each = 4, 30
	type writer struct {
		db    *storage.DB
		units []*storage.Unit
	}
	var writers []writer
	for i, db := range dbs {
		for j := range rooms {
			user := storagetest.User(fmt.Sprintf("u%d-%d", i, j))
			r := storagetest.NewRoom(t, db, user)
			w := writer{db: db}
			for k := range each {
				w.units = append(w.units, r.Message(user, fmt.Sprint(k)))
			}
			writers = append(writers, w)
		}
	}
	var wg sync.WaitGroup
	for _, db := range dbs {
		wg.Go(func() { followAll(t, db, 2*rooms*(2+each)) })
	}
	for _, w := range writers {
		wg.Go(func() {
			for _, u := range w.units {
				if _, err := w.db.Commit(context.Background(), u); err != nil {
					t.Errorf("commit: %v", err)
				}
			}
		})
	}
	wg.Wait()
	check(t, dbs[0])
}

// followAll reads the log from its begin and checks that no position is missed.
func followAll(t *testing.T, db *storage.DB, n int) {
	f := db.Follow(0)
	for next := int64(1); next <= int64(n); {
		entries, err := f.Next(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range entries {
			if e.Pos != next {
				t.Errorf("position %d, want %d", e.Pos, next)
			}
			next++
		}
	}
	if db.Head() < int64(n) {
		t.Errorf("head %d after entry %d", db.Head(), n)
	}
}

// Two processes write the same rows in opposite orders; as each sorts them,
// neither waits for a row that the other holds while that waits for one of its.
func TestPostgresLockOrder(t *testing.T) {
	dsn := storagetest.Postgres(t)
	var log bytes.Buffer
	var mu sync.Mutex
	o := storage.Options{Database: dsn, Log: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	dbs := []*storage.DB{storagetest.OpenWith(t, o), storagetest.OpenWith(t, o)}
	var wg sync.WaitGroup
	for i, db := range dbs {
		wg.Go(func() {
			for round := range 40 {
				u := &storage.Unit{}
				for n := range 60 {
					if i == 1 {
						n = 59 - n
					}
					u.Nodes = append(u.Nodes, storage.NodeRow{RoomNID: 1, Hash: spec.Hash{byte(n), byte(round)}, Stored: []byte("x")})
					u.Extra = append(u.Extra, &storage.DestinationRow{Server: spec.ServerName(fmt.Sprint("s", n)), Cursor: 1})
				}
				if _, err := db.Commit(context.Background(), u); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", &log)
	}
}

// lockedWriter lets several goroutines write.
type lockedWriter struct {
	mu *sync.Mutex
	to io.Writer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}

func TestPostgresStaleProcessConflicts(t *testing.T) {
	dsn := storagetest.Postgres(t)
	a, b := openPostgres(t, dsn), openPostgres(t, dsn)
	ctx := context.Background()
	r := storagetest.NewRoom(t, a, alice)
	stale := *r
	stale.DB = b
	r.Commit(r.Message(alice, "by a"))
	if _, err := b.Commit(ctx, stale.Message(alice, "by b")); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("a unit on an old version: %v", err)
	}
	// Both give the same new key an id; the second must learn of the first.
	key := []spec.StateKey{{Type: "x", Key: "both"}}
	first, err := a.StateKeyNIDs(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.StateKeyNIDs(ctx, key)
	if err != nil || first[0].NID == second[0].NID {
		t.Fatalf("ids %v and %v, %v", first, second, err)
	}
	if _, err := a.Commit(ctx, &storage.Unit{StateKeys: first}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(ctx, &storage.Unit{StateKeys: second}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("a second id for the key: %v", err)
	}
	if second, err = b.StateKeyNIDs(ctx, key); err != nil || second[0].New || second[0].NID != first[0].NID {
		t.Errorf("afterwards: %+v, %v", second, err)
	}
	for i, write := range []func(u *storage.Unit) error{
		func(u *storage.Unit) error { return b.WriteChunk(ctx, u) },
		func(u *storage.Unit) error {
			return b.Write(ctx, func(tx *storage.Tx) error {
				_, err := tx.Apply(u)
				return err
			})
		},
	} {
		key[0].Key = fmt.Sprint("otherwise", i)
		first, err1 := a.StateKeyNIDs(ctx, key)
		second, err2 := b.StateKeyNIDs(ctx, key)
		_, err3 := a.Commit(ctx, &storage.Unit{StateKeys: first})
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		if err := write(&storage.Unit{StateKeys: second}); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("%d: a second id for the key: %v", i, err)
		}
		if again, err := b.StateKeyNIDs(ctx, key); err != nil || again[0].New || again[0].NID != first[0].NID {
			t.Errorf("%d: afterwards %+v, %v", i, again, err)
		}
	}
	check(t, b)
}

// A process hears of what another commits although nothing of its own happens.
func TestPostgresFollowerHearsOfOthers(t *testing.T) {
	dsn := storagetest.Postgres(t)
	a, b := openPostgres(t, dsn), openPostgres(t, dsn)
	r := storagetest.NewRoom(t, a, alice)
	followAll(t, b, 2)
	f := b.Follow(2)
	c := r.Commit(r.Message(alice, "hello"))
	entries, err := f.Next(context.Background())
	if err != nil || len(entries) != 1 || entries[0].Pos != c.First || entries[0].EventNID != r.Last.NID {
		t.Errorf("%+v, %v", entries, err)
	}
}

func TestPostgresHealsAfterSessionsEnd(t *testing.T) {
	dsn := storagetest.Postgres(t) + "&application_name=atoll-heals"
	a, b := openPostgres(t, dsn), openPostgres(t, dsn)
	r := storagetest.NewRoom(t, a, alice)
	for i := range 3 {
		if _, err := storage.KillSessions(b); err != nil {
			t.Fatal(err)
		}
		r.Commit(r.Message(alice, fmt.Sprint(i)))
		if err := a.Read(context.Background(), func(tx *storage.Tx) error {
			_, err := tx.RoomByNID(r.Row.NID)
			return err
		}); err != nil {
			t.Errorf("read: %v", err)
		}
	}
	followAll(t, b, 5)
	check(t, a)
}

// A commit that comes while the server cannot be reached waits for it.
func TestPostgresWaitsForServer(t *testing.T) {
	p, dsn := newProxy(t, storagetest.Postgres(t), 0)
	db := openPostgres(t, dsn)
	r := storagetest.NewRoom(t, db, alice)
	p.shut()
	u := r.Message(alice, "later")
	answer := make(chan error)
	go func() {
		_, err := db.Commit(context.Background(), u)
		answer <- err
	}()
	p.open()
	// The cut may have looked like a lost answer, if it came with the request.
	if err := <-answer; err != nil && !errors.Is(err, storage.ErrUnknownOutcome) {
		t.Error(err)
	}
	storagetest.NewRoom(t, db, storagetest.User("bob"))
	check(t, db)
}

// The connection is lost between the request to commit and its answer.
func TestPostgresLostAnswer(t *testing.T) {
	p, dsn := newProxy(t, storagetest.Postgres(t), 0)
	db := openPostgres(t, dsn)
	r := storagetest.NewRoom(t, db, alice)
	cut := func(b []byte) bool { return !bytes.Contains(b, []byte("lorem")) }
	p.hear.Store(&cut)
	f := db.Follow(db.Head())
	u := r.Message(alice, "lorem")
	_, err := db.Commit(context.Background(), u)
	p.hear.Store(nil)
	if !errors.Is(err, storage.ErrUnknownOutcome) {
		t.Fatalf("a lost answer: %v", err)
	}
	stored := false
	err = db.Read(context.Background(), func(tx *storage.Tx) error {
		room, err := tx.RoomByNID(r.Row.NID)
		stored = room.Version == r.Row.Version
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if stored {
		if entries, err := f.Next(context.Background()); err != nil || entries[0].EventNID != r.Last.NID {
			t.Errorf("followed %+v, %v", entries, err)
		}
	}
	storagetest.NewRoom(t, db, storagetest.User("bob"))
	check(t, db)
}

// envHold makes the test binary a process that locks the head of the log.
const envHold = "ATOLL_TEST_HOLD_HEAD"

func TestMain(m *testing.M) {
	if dsn := os.Getenv(envHold); dsn != "" {
		holdHead(dsn)
		return
	}
	os.Exit(m.Run())
}

// holdHead locks the head of the log, says so, waits for a line and says how
// the transaction ended.
func holdHead(dsn string) {
	db, err := storage.Open(context.Background(), storage.Options{Database: dsn})
	if err == nil {
		err = storage.HoldHead(db, func() {
			fmt.Println("held")
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		})
	}
	fmt.Println("ended:", err != nil)
	if err == nil {
		return
	}
	err = db.Write(context.Background(), func(*storage.Tx) error { return nil })
	fmt.Println("again:", err)
}

// A process that is stopped while it holds the lock which every commit needs
// loses it; the others wait no longer than the time-outs of the sessions.
func TestPostgresStoppedProcess(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db := openPostgres(t, dsn)
	r := storagetest.NewRoom(t, db, alice)
	hold := exec.Command(os.Args[0])
	hold.Env = append(os.Environ(), envHold+"="+dsn)
	hold.Stderr = os.Stderr
	in, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Process.Kill() }()
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := hold.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.Commit(r.Message(alice, "while it is stopped"))
	if err := hold.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "\n")
	rest, err := io.ReadAll(lines)
	if string(rest) != "ended: true\nagain: <nil>\n" {
		t.Errorf("the stopped process: %q, %v", rest, err)
	}
	if err := hold.Wait(); err != nil {
		t.Error(err)
	}
	check(t, db)
}
