package storagetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

func timelinePages(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	var keys []storage.TimelineKey
	var last storage.Committed
	for i := range 30 {
		u := r.Message(alice, fmt.Sprint(i))
		if i == 10 {
			u.Gaps = []storage.GapRow{{RoomNID: r.Row.NID, Key: u.Events[0].Key(), RetryTS: 7}}
		}
		last = r.Commit(u)
		keys = append(keys, u.Events[0].Key())
	}
	read(t, db, func(tx *storage.Tx) error {
		var back []storage.TimelineKey
		from, gapAt := storage.MaxTimelineKey, -1
		for page := 0; ; page++ {
			events, gaps, err := tx.Timeline(storage.TimelineQuery{RoomNID: r.Row.NID, Backward: true, From: from, Limit: 7})
			if err != nil {
				return err
			}
			if len(gaps) > 0 {
				gapAt = page
				if len(gaps) != 1 || gaps[0].Key != keys[10] || gaps[0].RetryTS != 7 {
					t.Errorf("gaps %+v", gaps)
				}
			}
			for i := range events {
				back = append(back, events[i].Key())
			}
			if len(events) < 7 {
				break
			}
			from = events[6].Key()
		}
		if len(back) != 32 || back[0] != keys[29] || back[29] != keys[0] || gapAt != 2 {
			t.Errorf("backward %d events, gap on page %d", len(back), gapAt)
		}
		events, gaps, err := tx.Timeline(storage.TimelineQuery{RoomNID: r.Row.NID, From: keys[3], To: keys[9], Limit: 100})
		if err != nil || len(events) != 5 || events[0].Key() != keys[4] || events[4].Key() != keys[8] || len(gaps) != 0 {
			t.Errorf("forward: %d events, %d gaps, %v", len(events), len(gaps), err)
		}
		at, err := tx.TimelineAt(r.Row.NID, last.Last-3)
		if err != nil || at != keys[26] {
			t.Errorf("timeline at a position: %v, want %v, %v", at, keys[26], err)
		}
		newest, err := tx.EventsByPos(r.Row.NID, last.Last-5, last.Last, 3)
		if err != nil || len(newest) != 3 || newest[0].Pos != last.Last || newest[2].Pos != last.Last-2 {
			t.Errorf("by position: %d events, %v", len(newest), err)
		}
		return nil
	})
	r.Commit(&storage.Unit{Gaps: []storage.GapRow{{RoomNID: r.Row.NID, Key: keys[10], Closed: true}}})
	read(t, db, func(tx *storage.Tx) error {
		gaps, err := tx.Gaps(r.Row.NID, storage.TimelineKey{}, storage.MaxTimelineKey)
		if len(gaps) != 0 {
			t.Errorf("gaps after closing: %+v", gaps)
		}
		return err
	})
}

func hiddenEvents(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	base := r.Last
	var u storage.Unit
	for _, change := range []func(*storage.EventRow){
		func(e *storage.EventRow) {},
		func(e *storage.EventRow) { e.Kind, e.Rejected = storage.StateRoot, "5.1: no" },
		func(e *storage.EventRow) { e.Kind, e.SoftFailed = storage.StateRoot, true },
		func(e *storage.EventRow) { e.Kind = storage.StateWaiting },
	} {
		row := r.Aside(alice, "hidden")
		change(&row)
		if row.Kind == storage.StateRoot {
			row.Before, row.After = r.Row.Root, r.Row.Root
		}
		u.Events = append(u.Events, row)
	}
	r.Commit(&u)
	read(t, db, func(tx *storage.Tx) error {
		events, _, err := tx.Timeline(storage.TimelineQuery{RoomNID: r.Row.NID, Limit: 10})
		if err != nil || len(events) != 2 {
			t.Errorf("timeline of %d events, %v", len(events), err)
		}
		var ids []spec.EventID
		for i := range u.Events {
			ids = append(ids, u.Events[i].Event.ID)
		}
		got, err := tx.EventStatuses(r.Row.NID, ids)
		if err != nil {
			return err
		}
		if s := got[ids[1]]; !s.Rejected || s.SoftFailed || s.Kind != storage.StateRoot || s.After != r.Row.Root {
			t.Errorf("rejected event: %+v", s)
		}
		if s := got[ids[2]]; !s.SoftFailed || s.Rejected {
			t.Errorf("soft-failed event: %+v", s)
		}
		waiting, err := tx.Unsettled(r.Row.NID, storage.StateWaiting, 0, 10)
		if err != nil || len(waiting) != 1 || waiting[0].NID != u.Events[3].NID {
			t.Errorf("waiting: %d, %v", len(waiting), err)
		}
		next, err := tx.Successors(r.Row.NID, []spec.EventID{base.Event.ID})
		if err != nil || len(next) != 2 { // neither the outlier nor the waiting one
			t.Errorf("successors: %+v, %v", next, err)
		}
		missing, err := tx.MissingEvents(r.Row.NID, append(ids, "$nowhere"))
		if len(missing) != 1 || missing[0] != "$nowhere" {
			t.Errorf("missing %v", missing)
		}
		return err
	})
}

func outlierSettles(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	row := r.Aside(alice, "late")
	r.Commit(&storage.Unit{Events: []storage.EventRow{row}})
	row.Kind, row.Before, row.After = storage.StateRoot, r.Row.Root, r.Row.Root
	r.Row.Extremities = []int64{row.NID}
	u := &storage.Unit{
		Room:         &storage.RoomUpdate{ExpectVersion: r.Row.Version, RoomRow: r.Row},
		EventUpdates: []storage.EventRow{row},
		Log:          []storage.LogEntry{{Kind: storage.LogEvent, RoomNID: r.Row.NID, EventNID: row.NID}},
	}
	c := r.Commit(u)
	read(t, db, func(tx *storage.Tx) error {
		events, _, err := tx.Timeline(storage.TimelineQuery{RoomNID: r.Row.NID, Backward: true, From: storage.MaxTimelineKey, Limit: 1})
		if err != nil || len(events) != 1 || events[0].NID != row.NID || events[0].Pos != c.Last || events[0].After != r.Row.Root {
			t.Errorf("timeline ends with %+v, %v", events, err)
		}
		next, err := tx.Successors(r.Row.NID, row.Event.Prev)
		if len(next) != 1 {
			t.Errorf("successors %+v", next)
		}
		return err
	})
}

func redactionReplaces(t *testing.T, db *storage.DB) {
	r := NewRoom(t, db, alice)
	u := r.Message(alice, "secret")
	r.Commit(u)
	victim := u.Events[0]
	u = r.Message(alice, "redaction")
	pruned, err := victim.Event.Redact()
	if err != nil {
		t.Fatal(err)
	}
	u.Redactions = []storage.Redaction{{NID: victim.NID, By: u.Events[0].NID, Event: pruned}}
	r.Commit(u)
	read(t, db, func(tx *storage.Tx) error {
		got, err := tx.EventByID(r.Row.NID, victim.Event.ID)
		if err != nil {
			return err
		}
		if got.RedactedBy != u.Events[0].NID || string(got.Event.JSON) != string(pruned.JSON) {
			t.Errorf("redacted event: %+v", got)
		}
		return nil
	})
}

func roomPurged(t *testing.T, db *storage.DB) {
	kept := NewRoom(t, db, User("kept"))
	r := NewRoom(t, db, alice)
	for i := range 600 {
		if i%100 == 0 {
			r.Commit(r.State(alice, spec.TypeMember, string(User(fmt.Sprint("m", i))), `{"membership":"invite"}`))
		}
	}
	var chunk storage.Unit
	for range 700 {
		chunk.Events = append(chunk.Events, r.Aside(alice, "x"))
	}
	if err := db.WriteChunk(context.Background(), &chunk); err != nil {
		t.Fatal(err)
	}
	if err := db.PurgeRoom(context.Background(), r.Row.NID); err != nil {
		t.Fatal(err)
	}
	if err := db.ResumePurges(context.Background()); err != nil {
		t.Fatal(err)
	}
	read(t, db, func(tx *storage.Tx) error {
		if _, err := tx.RoomByID(r.Row.ID); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("the room: %v", err)
		}
		if _, err := tx.EventByIDAnyRoom(r.Last.Event.ID); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("an event: %v", err)
		}
		rooms, err := tx.Memberships(alice)
		if err != nil || len(rooms) != 0 {
			t.Errorf("memberships %v, %v", rooms, err)
		}
		nodes := 0
		if err := tx.EachStateNode(r.Row.NID, func(spec.Hash, []byte) error { nodes++; return nil }); err != nil || nodes > 0 {
			t.Errorf("%d nodes, %v", nodes, err)
		}
		graph := 0
		if err := tx.AuthGraph(r.Row.NID, func(storage.AuthNode) error { graph++; return nil }); err != nil || graph > 0 {
			t.Errorf("%d state events, %v", graph, err)
		}
		log, err := tx.LogOf(storage.LogScope{RoomNID: r.Row.NID}, 0, db.Head(), 10)
		if len(log) != 0 {
			t.Errorf("log %v", log)
		}
		return err
	})
	kept.Commit(kept.Message(User("kept"), "still here"))
	if _, err := db.Commit(context.Background(), r.Message(alice, "x")); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("commit into the purged room: %v", err)
	}
}
