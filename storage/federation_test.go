package storage

import (
	"context"
	"reflect"
	"testing"

	"atoll/spec"
)

func TestServerKeys(t *testing.T) {
	db := openTest(t)
	ctx := context.Background()
	key := func(server spec.ServerName, id spec.KeyID, fetched int64) ServerKey {
		return ServerKey{Server: server, ID: id, Public: make([]byte, 32), ValidUntil: 10, Fetched: fetched, Answer: []byte(`{}`)}
	}
	old := key("a.example", "ed25519:old", 2)
	old.Expired = 5
	var many []ServerKey
	for i := range maxServerKeys + 10 {
		many = append(many, key("many.example", spec.KeyID("ed25519:"+string(rune('a'+i%26))+string(rune('a'+i/26))), int64(i)))
	}
	err := db.Write(ctx, func(tx *Tx) error {
		if err := tx.PutServerKeys([]ServerKey{key("a.example", "ed25519:1", 1), old, key("b.example", "ed25519:1", 9)}); err != nil {
			return err
		}
		if err := tx.PutServerKeys(many); err != nil {
			return err
		}
		return tx.PutServerKeys([]ServerKey{key("a.example", "ed25519:1", 3)})
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(servers ...spec.ServerName) (out []ServerKey) {
		t.Helper()
		if err := db.Read(ctx, func(tx *Tx) (err error) { out, err = tx.ServerKeys(servers); return err }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := read("a.example", "c.example"); !reflect.DeepEqual(got, []ServerKey{key("a.example", "ed25519:1", 3), old}) {
		t.Errorf("got %+v", got)
	}
	if got := read("many.example"); len(got) != maxServerKeys {
		t.Errorf("%d keys of one server are kept", len(got))
	}
	err = db.Write(ctx, func(tx *Tx) error { _, err := tx.PruneServerKeys(5); return err })
	if err != nil {
		t.Fatal(err)
	}
	if got := read("a.example", "b.example"); len(got) != 1 || got[0].Server != "b.example" {
		t.Errorf("left after pruning: %+v", got)
	}
}

func TestDestinations(t *testing.T) {
	db := openTest(t)
	ctx := context.Background()
	commit := func(rows ...Row) {
		t.Helper()
		if _, err := db.Commit(ctx, &Unit{Extra: rows}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(wantPos, wantFloor int64, want ...DestinationRow) {
		t.Helper()
		err := db.Read(ctx, func(tx *Tx) error {
			pos, err := tx.SenderPosition()
			if err != nil || pos != wantPos {
				t.Errorf("position %d, %v", pos, err)
			}
			floor, err := tx.SenderFloor()
			if err != nil || floor != wantFloor {
				t.Errorf("floor %d, %v", floor, err)
			}
			rows, err := tx.Destinations()
			if err != nil || !reflect.DeepEqual(rows, want) {
				t.Errorf("rows %+v, %v", rows, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := db.Read(ctx, func(tx *Tx) error {
		if _, err := tx.SenderPosition(); err != ErrNotFound {
			t.Errorf("first position: %v", err)
		}
		floor, err := tx.SenderFloor()
		if floor != 0 {
			t.Errorf("first floor %d", floor)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a := DestinationRow{Server: "a.example", Cursor: 7, Failures: 3, Retry: 99}
	commit(&SenderPosition{20}, &a, &DestinationRow{Server: "b.example", Cursor: 0})
	check(20, 0, a, DestinationRow{Server: "b.example"})
	commit(&SenderPosition{30}, &DestinationRow{Server: "b.example", Done: true})
	check(30, 7, a)
	err = db.Write(ctx, func(tx *Tx) error {
		n, err := tx.PruneDestinations()
		if n != 1 {
			t.Errorf("%d pruned", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	check(30, 7, a)
}
