package server

import (
	"context"
	"testing"
	"time"

	"atoll/spec"
	"atoll/storage"
)

func TestPruneForgetsOldTransactionIDs(t *testing.T) {
	ctx := context.Background()
	bed := newRoomsBed(t, "alice")
	room := bed.create(CreateRoom{Creator: "@alice:hs"})
	first := bed.say(room, "@alice:hs", "hello", "1")
	key := storage.TxnKey{User: "@alice:hs", Device: "D", Scope: "send/" + string(room) + "/m.room.message", TxnID: "1"}
	stored := func() (answer string) {
		err := bed.o.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			all, err := tx.DeviceTxns(key.User, key.Device, bed.ms())
			answer = all[key]
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if err := bed.prune(ctx); err != nil {
		t.Fatal(err)
	}
	if got := stored(); spec.EventID(got) != first {
		t.Fatalf("a transaction of today is %q, want %s", got, first)
	}
	sent := bed.now
	bed.now = bed.now.Add(4 * 24 * time.Hour)
	if err := bed.prune(ctx); err != nil {
		t.Fatal(err)
	}
	bed.now = sent // as if it were asked for on its day
	if got := stored(); got != "" {
		t.Errorf("a transaction of four days ago is still there: %q", got)
	}
	if err := bed.o.DB.Check(ctx); err != nil {
		t.Error(err)
	}
}
