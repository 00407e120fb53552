package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

// Run runs the contract on databases that open makes, one per test. open must
// return an empty database and close it at the end of the test.
func Run(t *testing.T, open func(t *testing.T) *storage.DB) {
	for _, c := range []struct {
		claim string
		run   func(*testing.T, *storage.DB)
	}{
		{"what was committed is read back", committedIsRead},
		{"a stale unit conflicts and writes nothing", staleConflicts},
		{"a room is created once", createdOnce},
		{"units of one room chain within a group", unitsChain},
		{"a failing unit does not harm its group", failingUnitLeftOut},
		{"concurrent committers get consecutive positions", positionsConsecutive},
		{"followers see every entry in order", followersInOrder},
		{"a follower that lags reads the database", laggingFollower},
		{"a follower waits and ends with its context", followerWaits},
		{"a unit beyond the bounds is refused", tooLargeRefused},
		{"units with mistakes are refused", mistakesRefused},
		{"a chunk writes many rows that nothing refers to", chunkWrites},
		{"ids are never given twice", idsUnique},
		{"state keys are interned once", stateKeysInterned},
		{"the timeline pages both ways and names gaps", timelinePages},
		{"hidden events stand in no timeline", hiddenEvents},
		{"an outlier becomes part of the timeline", outlierSettles},
		{"a redaction replaces what is kept", redactionReplaces},
		{"memberships and servers follow their events", membershipsFollow},
		{"transaction ids are found for a day and pruned", transactionIDs},
		{"the log is read by scope", logByScope},
		{"superseded log entries are compacted", logCompacted},
		{"a purged room leaves nothing behind", roomPurged},
		{"Apply writes a unit within a transaction", applyWithinWrite},
		{"reads see one state throughout", readsAreSnapshots},
		{"a cancelled commit writes nothing or is answered", cancelledCommit},
		{"nothing is taken after Close", closedRefuses},
	} {
		t.Run(c.claim, func(t *testing.T) {
			db := open(t)
			c.run(t, db)
			if err := db.Check(context.Background()); err != nil && !errors.Is(err, storage.ErrClosed) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

var (
	alice = User("alice")
	bob   = spec.UserID("@bob:elsewhere.test")
)

func read(t *testing.T, db *storage.DB, fn func(*storage.Tx) error) {
	t.Helper()
	if err := db.Read(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func committedIsRead(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	u := r.Message(alice, "hello")
	before := db.Head()
	c := r.Commit(u)
	if c.First != before+1 || c.Last != before+1 || db.Head() != c.Last {
		t.Errorf("committed at %+v after head %d, head now %d", c, before, db.Head())
	}
	want := u.Events[0]
	read(t, db, func(tx *storage.Tx) error {
		got, err := tx.EventByID(r.Row.NID, want.Event.ID)
		if err != nil {
			return err
		}
		if string(got.Event.JSON) != string(want.Event.JSON) || got.Pos != c.Last || got.Before != want.Before ||
			got.After != want.After || got.Kind != storage.StateRoot || got.NID != want.NID {
			t.Errorf("read %+v, wrote %+v", got, want)
		}
		if _, err := tx.EventByID(r.Row.NID+1, want.Event.ID); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("found in another room: %v", err)
		}
		if any, err := tx.EventByIDAnyRoom(want.Event.ID); err != nil || any.NID != want.NID {
			t.Errorf("in any room: %v, %v", any.NID, err)
		}
		room, err := tx.RoomByID(r.Row.ID)
		if err != nil {
			return err
		}
		if room.Version != r.Row.Version || room.Root != r.Row.Root || !slices.Equal(room.Extremities, r.Row.Extremities) ||
			room.Joined != 1 || room.CreateNID != r.Row.CreateNID || room.RoomVersion != r.Row.RoomVersion {
			t.Errorf("room %+v, want %+v", room, r.Row)
		}
		create, err := tx.EventsByNIDs([]int64{want.NID, 1 << 60, r.Row.CreateNID})
		if err != nil || len(create) != 2 || create[0].NID != want.NID || create[1].Event.Type != spec.TypeCreate {
			t.Errorf("events by nid: %d, %v", len(create), err)
		}
		n := 0
		err = spec.Walk(tx.NodeReader(r.Row.NID), room.Root, func(spec.Leaf) error { n++; return nil })
		if n != 2 {
			t.Errorf("state of %d leaves, want 2", n)
		}
		return err
	})
}

func staleConflicts(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	stale := *r
	r.Commit(r.Message(alice, "first"))
	head := db.Head()
	u := stale.Message(alice, "second")
	if _, err := db.Commit(context.Background(), u); !errors.Is(err, storage.ErrConflict) {
		t.Fatalf("a stale unit: %v", err)
	}
	if db.Head() != head {
		t.Errorf("head moved to %d", db.Head())
	}
	read(t, db, func(tx *storage.Tx) error {
		if _, err := tx.EventByID(r.Row.NID, u.Events[0].Event.ID); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("event of the stale unit: %v", err)
		}
		return nil
	})
	r.Commit(r.Message(alice, "third"))
}

func createdOnce(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	for _, row := range []storage.RoomRow{
		{NID: r.Row.NID, ID: "!other", RoomVersion: r.Row.RoomVersion},
		{NID: db.NewRoomNID(), ID: r.Row.ID, RoomVersion: r.Row.RoomVersion},
	} {
		_, err := db.Commit(context.Background(), &storage.Unit{Room: &storage.RoomUpdate{RoomRow: row}})
		if !errors.Is(err, storage.ErrConflict) {
			t.Errorf("second creation of %s as %d: %v", row.ID, row.NID, err)
		}
	}
}

// commitAll commits units at the same moment, so that they meet in groups, in
// their order if they are of one room.
func commitAll(db *storage.DB, units []*storage.Unit) []error {
	errs := make([]error, len(units))
	var wg sync.WaitGroup
	// One Write keeps the writer busy until all units have been handed over.
	started := make(chan struct{}, len(units))
	err := db.Write(context.Background(), func(tx *storage.Tx) error {
		for i, u := range units {
			wg.Go(func() {
				started <- struct{}{}
				_, errs[i] = db.Commit(context.Background(), u)
			})
			<-started
		}
		return nil
	})
	wg.Wait()
	return append(errs, err)
}

func unitsChain(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	ctx := context.Background()
	var units []*storage.Unit
	for i := range 20 {
		units = append(units, r.Message(alice, fmt.Sprint(i)))
	}
	// Handed over in order by one goroutine each, which waits for the one before
	// to be queued: Commit may run concurrently, its order is the queue's.
	var wg sync.WaitGroup
	errs := make([]error, len(units))
	for i, u := range units {
		wg.Go(func() { _, errs[i] = db.Commit(ctx, u) })
	}
	wg.Wait()
	lost := 0
	for _, err := range errs {
		switch {
		case errors.Is(err, storage.ErrConflict):
			lost++
		case err != nil:
			t.Fatal(err)
		}
	}
	// Out of order some lose, but then all that build on them do.
	read(t, db, func(tx *storage.Tx) error {
		room, err := tx.RoomByNID(r.Row.NID)
		if int(room.Version) != int(r.Row.Version)-lost {
			t.Errorf("version %d after %d of %d units were lost", room.Version, lost, len(units))
		}
		return err
	})
}

func failingUnitLeftOut(t *testing.T, db *storage.DB) {
	var rooms []*Room
	var units []*storage.Unit
	for i := range 8 {
		r := NewRoom(t, db, User(fmt.Sprint("u", i)))
		rooms = append(rooms, r)
	}
	taken := rooms[0].Last.NID
	for i, r := range rooms {
		u := r.Message(User(fmt.Sprint("u", i)), "hello")
		if i == 3 {
			u.Events[0].NID = taken // breaks the key
		}
		units = append(units, u)
	}
	errs := commitAll(db, units)
	for i, err := range errs {
		if i == 3 && !errors.Is(err, storage.ErrConstraint) {
			t.Errorf("the unit with a taken id: %v", err)
		}
		if i != 3 && err != nil {
			t.Errorf("unit %d: %v", i, err)
		}
	}
	read(t, db, func(tx *storage.Tx) error {
		for i, r := range rooms {
			room, err := tx.RoomByNID(r.Row.NID)
			if err != nil {
				return err
			}
			if want := r.Row.Version; i != 3 && room.Version != want || i == 3 && room.Version != want-1 {
				t.Errorf("room %d has version %d", i, room.Version)
			}
		}
		return nil
	})
}

func positionsConsecutive(t *testing.T, db *storage.DB) {
	const writers, each = 16, 20
	rooms := make([]*Room, writers)
	for i := range rooms {
		rooms[i] = NewRoom(t, db, User(fmt.Sprint("u", i)))
	}
	first := db.Head()
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for i, r := range rooms {
		units := make([]*storage.Unit, each)
		for j := range units {
			units[j] = r.Message(User(fmt.Sprint("u", i)), fmt.Sprint(j))
		}
		wg.Go(func() {
			last := int64(0)
			for _, u := range units {
				c, err := db.Commit(context.Background(), u)
				if err != nil {
					t.Error(err)
					return
				}
				if c.First <= last || db.Head() < c.Last {
					t.Errorf("position %d after %d, head %d", c.First, last, db.Head())
				}
				last = c.Last
				mu.Lock()
				seen[c.First] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for p := first + 1; p <= first+writers*each; p++ {
		if !seen[p] {
			t.Errorf("nobody got position %d", p)
		}
	}
	if db.Head() != first+writers*each {
		t.Errorf("head %d", db.Head())
	}
}

func tooLargeRefused(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	u := &storage.Unit{Log: make([]storage.LogEntry, storage.UnitMaxRows+1)}
	if _, err := db.Commit(context.Background(), u); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("too many rows: %v", err)
	}
	u = &storage.Unit{Nodes: []storage.NodeRow{{RoomNID: r.Row.NID, Stored: make([]byte, storage.UnitMaxBytes)}}}
	if _, err := db.Commit(context.Background(), u); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
}

func mistakesRefused(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	good := r.Aside(alice, "x")
	for claim, change := range map[string]func(*storage.EventRow){
		"no event":                   func(e *storage.EventRow) { e.Event = nil },
		"no id":                      func(e *storage.EventRow) { e.NID = 0 },
		"no room":                    func(e *storage.EventRow) { e.RoomNID = 0 },
		"no kind":                    func(e *storage.EventRow) { e.Kind = 0 },
		"state key of a message":     func(e *storage.EventRow) { e.StateKeyNID = 1 },
		"state event without its id": func(e *storage.EventRow) { e.Event = r.Last.Event; e.StateKeyNID = 0 },
		"state event without auth":   func(e *storage.EventRow) { e.Event = r.Last.Event; e.StateKeyNID = 1; e.Auth = []int64{1, 2, 3} },
	} {
		row := good
		change(&row)
		if _, err := db.Commit(context.Background(), &storage.Unit{Events: []storage.EventRow{row}}); err == nil {
			t.Errorf("%s: accepted", claim)
		}
	}
}

func chunkWrites(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	u := &storage.Unit{}
	for range 1200 {
		u.Events = append(u.Events, r.Aside(alice, "x"))
	}
	if err := db.WriteChunk(context.Background(), u); err != nil {
		t.Fatal(err)
	}
	read(t, db, func(tx *storage.Tx) error {
		var nids []int64
		for i := range u.Events {
			nids = append(nids, u.Events[i].NID)
		}
		got, err := tx.EventsByNIDs(nids)
		if len(got) != len(nids) {
			t.Errorf("%d of %d events", len(got), len(nids))
		}
		return err
	})
	if err := db.WriteChunk(context.Background(), r.Message(alice, "x")); err == nil {
		t.Error("a chunk with a room was accepted")
	}
}

func idsUnique(t *testing.T, db *storage.DB) {
	var mu sync.Mutex
	type span struct{ first, n int64 }
	var spans []span
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 40 {
				n := int64(1 + (i*j)%700)
				first := db.NewEventNIDs(int(n))
				mu.Lock()
				spans = append(spans, span{first, n})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	spans = append(spans, span{db.NewEventNIDs(100_000), 100_000})
	slices.SortFunc(spans, func(a, b span) int { return int(a.first - b.first) })
	for i, s := range spans {
		if s.first < 1 {
			t.Fatalf("id %d", s.first)
		}
		if i > 0 && spans[i-1].first+spans[i-1].n > s.first {
			t.Errorf("ids from %d are given twice", s.first)
		}
	}
}

func stateKeysInterned(t *testing.T, db *storage.DB) {
	ctx := context.Background()
	keys := []spec.StateKey{{Type: "a", Key: ""}, {Type: "a", Key: "x"}, {Type: "b", Key: "x"}, {Type: "a", Key: "x"}}
	first, err := db.StateKeyNIDs(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	again, err := db.StateKeyNIDs(ctx, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i := range first {
		if first[i] != again[i] || !first[i].New || first[i].Key != keys[i] {
			t.Errorf("before the commit: %+v, then %+v", first[i], again[i])
		}
	}
	if first[1].NID != first[3].NID || first[0].NID == first[1].NID || first[1].NID == first[2].NID {
		t.Errorf("ids %+v", first)
	}
	if _, err := db.Commit(ctx, &storage.Unit{StateKeys: first[:3]}); err != nil {
		t.Fatal(err)
	}
	if again, err = db.StateKeyNIDs(ctx, keys); err != nil || again[0].New || again[0].NID != first[0].NID {
		t.Errorf("after the commit: %+v, %v", again, err)
	}
	byNID, err := db.StateKeysByNID(ctx, []int64{first[0].NID, first[2].NID, 1 << 60})
	if err != nil || len(byNID) != 2 || byNID[first[2].NID] != keys[2] {
		t.Errorf("by id: %v, %v", byNID, err)
	}
	clash := []storage.StateKeyRow{{NID: first[0].NID + 1000, Key: keys[0]}}
	if _, err := db.Commit(ctx, &storage.Unit{StateKeys: clash}); !errors.Is(err, storage.ErrConstraint) {
		t.Errorf("a second id for a key: %v", err)
	}
}

func readsAreSnapshots(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	read(t, db, func(tx *storage.Tx) error {
		before, err := tx.Head()
		if err != nil {
			return err
		}
		r.Commit(r.Message(alice, "meanwhile"))
		after, err := tx.Head()
		if before != after {
			t.Errorf("head went from %d to %d within one read", before, after)
		}
		return err
	})
}

func cancelledCommit(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	version := r.Row.Version
	u := r.Message(alice, "x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := db.Commit(ctx, u)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	read(t, db, func(tx *storage.Tx) error {
		room, rerr := tx.RoomByNID(r.Row.NID)
		if err == nil && room.Version != version+1 || err != nil && room.Version != version {
			t.Errorf("answered %v, but the version is %d", err, room.Version)
		}
		return rerr
	})
}

func applyWithinWrite(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	ctx := context.Background()
	u := r.Message(alice, "x")
	f := db.Follow(db.Head())
	var c storage.Committed
	err := db.Write(ctx, func(tx *storage.Tx) error {
		var err error
		c, err = tx.Apply(u)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Next(ctx)
	if err != nil || len(got) != 1 || got[0].Pos != c.First || got[0].EventNID != u.Events[0].NID {
		t.Errorf("followed %+v, %v", got, err)
	}
	err = db.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.Apply(u)
		return err
	})
	if !errors.Is(err, storage.ErrConflict) {
		t.Errorf("the same unit again: %v", err)
	}
}

func closedRefuses(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	u := r.Message(alice, "x")
	f := db.Follow(db.Head())
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := db.Commit(ctx, u); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("commit: %v", err)
	}
	if err := db.Read(ctx, func(*storage.Tx) error { return nil }); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := db.Write(ctx, func(*storage.Tx) error { return nil }); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, err := f.Next(ctx); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("follower: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
