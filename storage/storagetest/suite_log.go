package storagetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

// follow reads n entries.
func follow(t *testing.T, f *storage.Follower, n int) []storage.LogEntry {
	t.Helper()
	var out []storage.LogEntry
	for len(out) < n {
		more, err := f.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, more...)
	}
	return out
}

func followersInOrder(t *testing.T, db *storage.DB) {
	const writers, each = 8, 25
	rooms := make([]*Room, writers)
	for i := range rooms {
		rooms[i] = NewRoom(t, db, User(fmt.Sprint("u", i)))
	}
	from := db.Head()
	f := db.Follow(from)
	for i, r := range rooms {
		units := make([]*storage.Unit, each)
		for j := range units {
			units[j] = r.Message(User(fmt.Sprint("u", i)), fmt.Sprint(j))
		}
		go func() {
			for _, u := range units {
				if _, err := db.Commit(context.Background(), u); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	got := follow(t, f, writers*each)
	seen := map[int64]int64{} // room → nid
	for i, e := range got {
		if e.Pos != from+int64(i)+1 {
			t.Fatalf("entry %d has position %d", i, e.Pos)
		}
		if e.Event == nil || e.Event.NID != e.EventNID || e.Event.Pos != e.Pos {
			t.Errorf("entry %d does not bring its event", e.Pos)
		}
		if e.EventNID <= seen[e.RoomNID] {
			t.Errorf("room %d: event %d after %d", e.RoomNID, e.EventNID, seen[e.RoomNID])
		}
		seen[e.RoomNID] = e.EventNID
	}
}

func laggingFollower(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	slow := db.Follow(0)
	const units, each = 12, 300
	for range units {
		u := &storage.Unit{}
		for range each {
			u.Log = append(u.Log, storage.LogEntry{Kind: storage.LogReceipt, RoomNID: r.Row.NID, User: alice, Text: "x"})
		}
		r.Commit(u)
	}
	r.Commit(r.Message(alice, "last"))
	got := follow(t, slow, int(db.Head()))
	for i, e := range got {
		if e.Pos != int64(i)+1 {
			t.Fatalf("entry %d has position %d", i, e.Pos)
		}
	}
	if e := got[len(got)-1]; e.Kind != storage.LogEvent || slow.Pos() != e.Pos {
		t.Errorf("last entry %+v at %d", e, slow.Pos())
	}
	if e := got[100]; e.Kind != storage.LogReceipt || e.User != alice || e.Text != "x" || e.RoomNID != r.Row.NID {
		t.Errorf("entry from the database: %+v", e)
	}
}

func followerWaits(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	ctx, cancel := context.WithCancel(context.Background())
	f := db.Follow(db.Head())
	answer := make(chan error)
	go func() {
		_, err := f.Next(ctx)
		answer <- err
	}()
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	go func() {
		_, err := f.Next(context.Background())
		answer <- err
	}()
	c := r.Commit(r.Message(alice, "x"))
	if err := <-answer; err != nil || f.Pos() != c.Last {
		t.Errorf("at %d: %v", f.Pos(), err)
	}
}

func logByScope(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	from := db.Head()
	entries := []storage.LogEntry{
		{Kind: storage.LogAccountData, User: alice, Text: "m.direct"},
		{Kind: storage.LogToDevice, User: alice, Device: "D1"},
		{Kind: storage.LogReceipt, User: bob, RoomNID: r.Row.NID},
		{Kind: storage.LogServer, Server: "elsewhere.test"},
	}
	c := r.Commit(&storage.Unit{Log: entries})
	r.Commit(r.Message(alice, "x"))
	read(t, db, func(tx *storage.Tx) error {
		for _, s := range []struct {
			scope storage.LogScope
			want  []storage.LogKind
		}{
			{storage.LogScope{User: string(alice)}, []storage.LogKind{storage.LogAccountData, storage.LogToDevice}},
			{storage.LogScope{User: string(bob)}, []storage.LogKind{storage.LogReceipt}},
			{storage.LogScope{RoomNID: r.Row.NID}, []storage.LogKind{storage.LogReceipt, storage.LogEvent}},
			{storage.LogScope{Server: "elsewhere.test"}, []storage.LogKind{storage.LogServer}},
		} {
			got, err := tx.LogOf(s.scope, from, db.Head(), 10)
			if err != nil {
				return err
			}
			var kinds []storage.LogKind
			for _, e := range got {
				kinds = append(kinds, e.Kind)
			}
			if fmt.Sprint(kinds) != fmt.Sprint(s.want) {
				t.Errorf("scope %+v has %v, want %v", s.scope, kinds, s.want)
			}
		}
		got, err := tx.LogOf(storage.LogScope{User: string(alice)}, c.First, db.Head(), 10)
		if len(got) != 1 || got[0].Device != "D1" {
			t.Errorf("after the first: %+v", got)
		}
		got, err2 := tx.Log(from, c.First+1, 10)
		if len(got) != 2 {
			t.Errorf("up to the second: %+v", got)
		}
		return errors.Join(err, err2)
	})
}

func logCompacted(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	from := db.Head()
	for i := range 20 {
		r.Commit(&storage.Unit{Log: []storage.LogEntry{
			{Kind: storage.LogReceipt, User: alice, RoomNID: r.Row.NID},
			{Kind: storage.LogAccountData, User: alice, Text: fmt.Sprint(i % 2)},
		}})
	}
	r.Commit(r.Message(alice, "x"))
	upTo := db.Head() - 5
	n, err := db.CompactLog(context.Background(), upTo)
	if err != nil || n == 0 {
		t.Fatalf("compacted %d: %v", n, err)
	}
	read(t, db, func(tx *storage.Tx) error {
		got, err := tx.Log(from, db.Head(), 100)
		kinds := map[string]bool{}
		for i, e := range got {
			kinds[fmt.Sprint(e.Kind, e.Text)] = true
			if i > 0 && e.Pos <= got[i-1].Pos {
				t.Errorf("position %d after %d", e.Pos, got[i-1].Pos)
			}
		}
		if int64(len(got)) != 41-n || len(kinds) != 4 {
			t.Errorf("%d entries of %v are left after %d went", len(got), kinds, n)
		}
		return err
	})
	// Whoever follows from before still gets to the end.
	f := db.Follow(from)
	for f.Pos() < db.Head() {
		follow(t, f, 1)
	}
	if again, err := db.CompactLog(context.Background(), upTo); err != nil || again != 0 {
		t.Errorf("again: %d, %v", again, err)
	}
}

func transactionIDs(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	u := r.Message(alice, "x")
	r.Commit(u)
	const hour = 60 * 60 * 1000
	now := u.Txns[0].TS
	key := storage.TxnKey{User: string(alice), Device: "DEV", Scope: u.Txns[0].Scope, TxnID: u.Txns[0].TxnID}
	read(t, db, func(tx *storage.Tx) error {
		for _, age := range []int64{0, hour, 24 * hour} {
			if got, err := tx.Txn(key, now+age); err != nil || got != string(u.Events[0].Event.ID) {
				t.Errorf("after %d ms: %q, %v", age, got, err)
			}
		}
		other := key
		other.Device = "OTHER"
		if _, err := tx.Txn(other, now); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("of another device: %v", err)
		}
		all, err := tx.DeviceTxns(string(alice), "DEV", now)
		if len(all) != 1 || all[key] != string(u.Events[0].Event.ID) {
			t.Errorf("of the device: %v", all)
		}
		return err
	})
	for age, want := range map[int64]int64{24 * hour: 0, 72 * hour: 1} {
		err := db.Write(context.Background(), func(tx *storage.Tx) error {
			n, err := tx.PruneTxns(now + age)
			if age == 24*hour && n != 0 || age == 72*hour && n > 1 {
				t.Errorf("pruned %d after %d ms, want %d", n, age, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	read(t, db, func(tx *storage.Tx) error {
		if _, err := tx.Txn(key, now); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after pruning: %v", err)
		}
		return nil
	})
}

func membershipsFollow(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	invited := r.Commit(r.State(alice, spec.TypeMember, string(bob), `{"membership":"invite"}`))
	joined := r.Commit(r.State(bob, spec.TypeMember, string(bob), `{"membership":"join"}`))
	r.Commit(r.Message(bob, "hello"))
	left := r.Commit(r.State(bob, spec.TypeMember, string(bob), `{"membership":"leave"}`))
	r.Commit(r.Message(alice, "bye"))
	back := r.Commit(r.State(bob, spec.TypeMember, string(bob), `{"membership":"join"}`))
	read(t, db, func(tx *storage.Tx) error {
		for _, at := range []struct {
			pos int64
			in  bool
		}{{invited.Last, false}, {joined.Last, true}, {left.Last, true}, {left.Last + 1, false}, {back.Last, true}, {back.Last + 9, true}} {
			servers, err := tx.RoomServersAt(r.Row.NID, at.pos)
			if err != nil {
				return err
			}
			if want := 1 + map[bool]int{true: 1}[at.in]; len(servers) != want {
				t.Errorf("servers at %d: %v", at.pos, servers)
			}
		}
		m, err := tx.Membership(r.Row.NID, bob)
		if err != nil || m.Membership != "join" || m.Pos != back.Last {
			t.Errorf("membership %+v, %v", m, err)
		}
		rooms, err := tx.Memberships(bob)
		if err != nil || len(rooms) != 1 || rooms[0].RoomNID != r.Row.NID {
			t.Errorf("rooms %+v, %v", rooms, err)
		}
		for want, list := range map[int][]string{2: {"join"}, 0: {"invite", "ban"}} {
			members, err := tx.Members(r.Row.NID, list...)
			if err != nil || len(members) != want {
				t.Errorf("members %v: %+v, %v", list, members, err)
			}
		}
		intervals, err := tx.ServerRooms(bob.Server())
		if err != nil || len(intervals) != 2 || intervals[0].Until != left.Last || intervals[1].Until != 0 {
			t.Errorf("intervals %+v, %v", intervals, err)
		}
		all, err := tx.Servers()
		if len(all) != 2 {
			t.Errorf("servers %v", all)
		}
		return err
	})
	err := db.Write(context.Background(), func(tx *storage.Tx) error {
		n, err := tx.PruneRoomServers(db.Head() + 1)
		if n != 1 {
			t.Errorf("pruned %d intervals", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	outside := storage.MembershipRow{RoomNID: r.Row.NID, User: User("carol"), Membership: "invite", EventNID: r.Last.NID, Outside: true,
		Stripped: []byte(`[{}]`)}
	r.Commit(&storage.Unit{Memberships: []storage.MembershipRow{outside}})
	read(t, db, func(tx *storage.Tx) error {
		got, err := tx.Membership(r.Row.NID, User("carol"))
		if string(got.Stripped) != `[{}]` || !got.Outside {
			t.Errorf("invite from outside: %+v", got)
		}
		return err
	})
	outside.Membership = ""
	r.Commit(&storage.Unit{Memberships: []storage.MembershipRow{outside}})
	read(t, db, func(tx *storage.Tx) error {
		if _, err := tx.Membership(r.Row.NID, User("carol")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after it went: %v", err)
		}
		return nil
	})
}
