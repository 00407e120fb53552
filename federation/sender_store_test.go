package federation

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
	"atoll/storage/storagetest"
)

// sends commits an event of a room as the room service does; joined and left are
// servers that come and go with it.
func sends(t *testing.T, db *storage.DB, room int64, body, text string, joined, left []spec.ServerName) int64 {
	t.Helper()
	rules, _ := spec.RulesOf("10")
	e, err := spec.EventBuilder{
		Room: spec.RoomID(fmt.Sprintf("!r%d:us.example", room)), Sender: "@u:us.example", Type: "m.room.message",
		Content: []byte(`{"body":"` + body + `"}`), Prev: []spec.EventID{"$p"}, Auth: []spec.EventID{"$c"}, Depth: 2, OriginServerTS: 1,
	}.Build(rules, "us.example", testKey("ed25519:us"))
	must(t, err)
	row := storage.EventRow{NID: db.NewEventNIDs(1), RoomNID: room, Event: e, Kind: storage.StateRoot}
	unit := &storage.Unit{
		Events: []storage.EventRow{row},
		Log:    []storage.LogEntry{{Kind: storage.LogEvent, RoomNID: room, EventNID: row.NID, Event: &row, Text: text}},
	}
	for _, s := range joined {
		unit.Servers = append(unit.Servers, storage.RoomServerRow{RoomNID: room, Server: s, Joined: true, EventNID: row.NID})
	}
	for _, s := range left {
		unit.Servers = append(unit.Servers, storage.RoomServerRow{RoomNID: room, Server: s, EventNID: row.NID})
	}
	done, err := db.Commit(context.Background(), unit)
	must(t, err)
	return done.Last
}

func openDB(t *testing.T) *storage.DB {
	t.Helper()
	return storagetest.Open(t)
}

func TestStoredSender(t *testing.T) {
	db := openDB(t)
	store := StoredSender(db)
	ctx := context.Background()
	newRoom := func(version spec.RoomVersion) int64 {
		nid := db.NewRoomNID()
		_, err := db.Commit(ctx, &storage.Unit{Room: &storage.RoomUpdate{RoomRow: storage.RoomRow{
			NID: nid, ID: spec.RoomID(fmt.Sprintf("!r%d:us.example", nid)), RoomVersion: version,
		}}})
		must(t, err)
		return nid
	}
	r1, r2 := newRoom("10"), newRoom("10")
	a := []spec.ServerName{"a.example"}
	p1 := sends(t, db, r1, "join", roomcore.LogOurs, a, nil)
	p2 := sends(t, db, r1, "theirs", "", nil, nil)
	p3 := sends(t, db, r2, "elsewhere", roomcore.LogOurs, nil, nil)
	p4 := sends(t, db, r1, "gap", roomcore.LogOurs+roomcore.LogGap, nil, nil)
	p5 := sends(t, db, r2, "joined two", roomcore.LogOurs, a, nil)
	p6 := sends(t, db, r1, "last", roomcore.LogOurs, nil, a)
	sends(t, db, r1, "after", roomcore.LogOurs, nil, nil)
	_ = p2

	positions := func(list []storage.Unsent, err error) (out []int64) {
		t.Helper()
		must(t, err)
		for _, u := range list {
			out = append(out, u.Pos)
		}
		return out
	}
	q := storage.UnsentQuery{Server: "a.example", Mark: ours, UpTo: db.Head(), Limit: 10}
	for _, test := range []struct {
		claim string
		got   []int64
		want  []int64
	}{
		{"13-039 events while the server was in the room", positions(store.Unsent(ctx, q, false)), []int64{p1, p4, p5, p6}},
		{"the latest of them", positions(store.Unsent(ctx, limited(q, 2), false)), []int64{p5, p6}},
		{"the last of each room", positions(store.Unsent(ctx, q, true)), []int64{p5, p6}},
		{"after a position", positions(store.Unsent(ctx, storage.UnsentQuery{Server: "a.example", Mark: ours, After: p1, UpTo: p5, Limit: 9}, false)), []int64{p4, p5}},
	} {
		if fmt.Sprint(test.got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v instead of %v", test.claim, test.got, test.want)
		}
	}
	_ = p3
	intervals, err := store.RoomServers(ctx, r1, p6)
	if err != nil || len(intervals) != 1 || intervals[0] != (storage.ServerInterval{RoomNID: r1, Server: "a.example", From: p1, Until: p6}) {
		t.Errorf("got %v, %v", intervals, err)
	}
	if intervals, err = store.RoomServers(ctx, r1, p6+1); err != nil || len(intervals) != 0 {
		t.Errorf("got %v, %v", intervals, err)
	}
}

func limited(q storage.UnsentQuery, n int) storage.UnsentQuery { q.Limit = n; return q }

// A sender on a real database, stopped and started again.
func TestSenderOnDatabase(t *testing.T) {
	db := openDB(t)
	room := db.NewRoomNID()
	_, err := db.Commit(context.Background(), &storage.Unit{Room: &storage.RoomUpdate{RoomRow: storage.RoomRow{NID: room, ID: "!r1:us.example", RoomVersion: "10"}}})
	must(t, err)
	both := []spec.ServerName{"a.example", "b.example"}
	took := make(chan fakeCall, 100)
	p := &countingPeers{took: took}
	run := func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		s := NewSender(SenderOptions{Name: "us.example", Store: StoredSender(db), Transport: p})
		must(t, s.load(ctx)) // so that what is committed next counts as new
		go func() { done <- s.Run(ctx) }()
		return func() { cancel(); must(t, <-done) }
	}
	stop := run()
	sends(t, db, room, "one", roomcore.LogOurs, both, nil)
	for range 2 {
		<-took
	}
	stop()
	var pos int64
	err = db.Read(context.Background(), func(tx *storage.Tx) (err error) { pos, err = tx.SenderPosition(); return err })
	if err != nil || pos != db.Head() {
		t.Errorf("saved %d of %d, %v", pos, db.Head(), err)
	}
	sends(t, db, room, "two", roomcore.LogOurs, nil, nil)
	stop = run()
	for range 2 {
		if c := <-took; len(c.events) != 1 {
			t.Errorf("got %+v", c)
		}
	}
	stop()
	if len(took) != 0 {
		t.Error("sent more than once after an orderly stop")
	}
}

// countingPeers tells of every transaction that it takes.
type countingPeers struct {
	fakePeers
	took chan fakeCall
}

func (p *countingPeers) SendTransaction(ctx context.Context, dest spec.ServerName, id string, body []byte) (map[spec.EventID]string, error) {
	out, err := p.fakePeers.SendTransaction(ctx, dest, id, body)
	calls := p.to(dest)
	p.took <- calls[len(calls)-1]
	return out, err
}

func TestRecoveringServerKeepsItsRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSender(SenderOptions{Name: "us.example", Store: newFakeLog()})
		s.pos, s.savedPos = 100, 90
		d := &destination{name: "a.example", hasRow: true, cursor: 10, plan: []item{{pos: 50, nid: 5}}}
		s.destinations[d.name] = d
		rows, pos, _ := s.unsaved()
		if len(rows) != 1 || rows[0].Done || rows[0].Cursor != 49 || pos != 100 {
			t.Errorf("got %+v, %d", rows, pos)
		}
		d.plan[0].pos = 95 // now the common position can wait for it
		rows, pos, _ = s.unsaved()
		if len(rows) != 1 || !rows[0].Done || pos != 94 {
			t.Errorf("got %+v, %d", rows, pos)
		}
	})
}
