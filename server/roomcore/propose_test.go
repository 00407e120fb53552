package roomcore

import (
	"fmt"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

// askedStore counts what a core asks its store for.
type askedStore struct {
	*memStore
	asked int
}

func (s *askedStore) Node(h spec.Hash) (*spec.Node, error) {
	s.asked++
	return s.memStore.Node(h)
}

func (s *askedStore) EventByID(id spec.EventID) (*storage.EventRow, error) {
	s.asked++
	return s.memStore.EventByID(id)
}

func (s *askedStore) EventByNID(nid int64) (*storage.EventRow, error) {
	s.asked++
	return s.memStore.EventByNID(nid)
}

func TestMessageAsksTheStoreForNothing(t *testing.T) {
	rules, _ := spec.RulesOf("11")
	key, err := spec.NewSigningKey("ed25519:t", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	store := &askedStore{memStore: newMemStore()}
	cfg := store.config("!r:us", rules, "us", key)
	cfg.Store = store
	c := New(cfg)
	propose := func(kind string, stateKey *string, content string) {
		t.Helper()
		p := Proposal{Sender: "@a:us", Type: kind, StateKey: stateKey, Content: []byte(content), OriginServerTS: 1}
		if _, _, err := c.Propose(p); err != nil {
			t.Fatal(err)
		}
		for c.Pending() {
			unit, _, err := c.TakeUnit()
			if err != nil {
				t.Fatal(err)
			}
			if err := store.apply(unit); err != nil {
				t.Fatal(err)
			}
			c.Committed(unit)
		}
	}
	none, user := "", "@a:us"
	propose("m.room.create", &none, `{"room_version":"11"}`)
	propose("m.room.member", &user, `{"membership":"join"}`)
	propose("m.room.message", nil, `{}`) // meets the state that messages need
	store.asked = 0
	for i := range 3 {
		propose("m.room.message", nil, fmt.Sprintf(`{"n":%d}`, i))
	}
	if store.asked > 0 {
		t.Errorf("asked %d times", store.asked)
	}
}
