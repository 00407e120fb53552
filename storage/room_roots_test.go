package storage

import (
	"context"
	"testing"

	"atoll/spec"
)

func TestRoomRootAt(t *testing.T) {
	db := openTest(t)
	ctx := context.Background()
	root := func(n byte) spec.Hash { return spec.Hash{n} }
	// The roots get the positions of the entries that name their events.
	_, err := db.Commit(ctx, &Unit{
		Log: []LogEntry{
			{Kind: LogEvent, RoomNID: 1, EventNID: 11}, // 1
			{Kind: LogEvent, RoomNID: 1, EventNID: 12}, // 2
			{Kind: LogEvent, RoomNID: 2, EventNID: 21}, // 3
			{Kind: LogEvent, RoomNID: 1, EventNID: 13}, // 4
		},
		Extra: []Row{
			&RoomRootRow{RoomNID: 1, EventNID: 12, Root: root(2)},
			&RoomRootRow{RoomNID: 2, EventNID: 21, Root: root(3)},
			&RoomRootRow{RoomNID: 1, EventNID: 13, Root: root(4)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		room, pos, since int64
		root             spec.Hash
	}{
		{1, 1, 0, root(0)}, {1, 2, 2, root(2)}, {1, 3, 2, root(2)}, {1, 4, 4, root(4)}, {1, 99, 4, root(4)},
		{2, 2, 0, root(0)}, {2, 3, 3, root(3)}, {3, 99, 0, root(0)},
	}
	for _, c := range cases {
		err := db.Read(ctx, func(tx *Tx) error {
			since, got, err := tx.RoomRootSince(c.room, c.pos)
			if got != c.root || since != c.since {
				t.Errorf("room %d at %d: root %v since %d, want %v since %d", c.room, c.pos, got[0], since, c.root[0], c.since)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
