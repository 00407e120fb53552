package federation

import (
	"testing"
	"time"

	"atoll/spec"
)

// Keys on a real database, over a restart.
func TestStoredKeys(t *testing.T) {
	db := openDB(t)
	r := newTestRing(t)
	r.KeyRing.store = StoredKeys(db)
	k := testKey("ed25519:k1")
	now := r.clock.now()
	r.answers["a.example"] = signedKeys(t, "a.example", now.Add(time.Hour), withOld(testKey("ed25519:old"), now.Add(-time.Hour)), k)
	e := event(t, "10", now, "a.example", k)
	must(t, r.verdict(t, e))
	r.restart()
	delete(r.answers, "a.example")
	must(t, r.verdict(t, e))
	must(t, r.verdict(t, event(t, "10", now.Add(-2*time.Hour), "a.example", testKey("ed25519:old"))))
	if r.asked["a.example"] != 1 {
		t.Errorf("asked %d times", r.asked["a.example"])
	}
	if r.verdict(t, event(t, "10", now, "a.example", testKey("ed25519:old"))) == nil {
		t.Error("an old key is good after a restart")
	}
	must(t, Prune(t.Context(), db, now.Add(40*24*time.Hour)))
	keys, err := StoredKeys(db).ServerKeys(t.Context(), []spec.ServerName{"a.example"})
	if err != nil || len(keys) != 0 {
		t.Errorf("left %v, %v", keys, err)
	}
}
