package federation

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

// signedKeys makes the key object of a server.
func signedKeys(t testing.TB, name spec.ServerName, validUntil time.Time, change func(*keyObject), keys ...spec.SigningKey) []byte {
	t.Helper()
	object := keyObject{Server: name, Keys: map[spec.KeyID]publishedKey{}, OldKeys: map[spec.KeyID]oldPublicKey{}, ValidUntil: validUntil.UnixMilli()}
	for _, k := range keys {
		object.Keys[k.ID] = publishedKey{encodeKey(k.Public())}
	}
	if change != nil {
		change(&object)
	}
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if raw, err = spec.SignJSON(raw, string(name), k); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

// testRing is a ring whose peers answer from a map.
type testRing struct {
	*KeyRing
	clock *fakeClock
	store *memoryKeys

	mu      sync.Mutex
	answers map[spec.ServerName][]byte
	asked   map[spec.ServerName]int
}

func newTestRing(t *testing.T) *testRing {
	r := &testRing{clock: newFakeClock(), store: &memoryKeys{}, answers: map[spec.ServerName][]byte{}, asked: map[spec.ServerName]int{}}
	c := newFakeNet(t).client(r.clock, func(o *Options) {
		o.KeyStore = r.store
		o.Keys.Old = []OldKey{{ID: "ed25519:usold", Public: testKey("ed25519:usold").Public(), Expired: r.clock.now().UnixMilli() - 1000}}
	})
	r.KeyRing = c.keys
	r.fetch = r.answer
	return r
}

func (r *testRing) answer(_ context.Context, name spec.ServerName) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[name]++
	if raw, ok := r.answers[name]; ok {
		return raw, nil
	}
	return nil, errors.New("down")
}

// restart forgets what is in memory.
func (r *testRing) restart() {
	r.known = newTimedCache[spec.ServerName, serverKeys](maxKeyServers)
	r.attempts = newTimedCache[spec.ServerName, keyAttempt](maxKeyServers)
}

// event makes one that is signed by the key in the name of its sender's server.
func event(t testing.TB, version spec.RoomVersion, at time.Time, name spec.ServerName, key spec.SigningKey) *spec.Event {
	t.Helper()
	rules, _ := spec.RulesOf(version)
	e, err := spec.EventBuilder{
		Room: "!r:a.example", Sender: spec.UserID("@u:" + string(name)), Type: "m.room.message", Content: []byte(`{"body":"x"}`),
		Prev: []spec.EventID{"$p"}, Auth: []spec.EventID{"$c"}, Depth: 2, OriginServerTS: at.UnixMilli(),
	}.Build(rules, name, key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (r *testRing) verdict(t *testing.T, e *spec.Event) error {
	t.Helper()
	got := r.VerifyEvents(t.Context(), []*spec.Event{e})
	if len(got) != 1 {
		t.Fatalf("%d verdicts", len(got))
	}
	return got[0]
}

func TestVerifyEvents(t *testing.T) {
	k1, k2 := testKey("ed25519:k1"), testKey("ed25519:k2")
	day := 24 * time.Hour
	tests := []struct {
		claim   string
		version spec.RoomVersion
		at      time.Duration // origin_server_ts, from now
		key     spec.SigningKey
		object  func(t *testing.T, now time.Time) []byte
		good    bool
		later   bool // the verdict is not final
	}{
		{claim: "13-044 the sender's key", version: "10", key: k1, good: true,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(day), nil, k1) }},
		{claim: "13-046 v5 needs validity at origin_server_ts", version: "5", at: 2 * day, key: k1,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(day), nil, k1) }},
		{claim: "13-046 v4 ignores valid_until_ts", version: "4", at: 2 * day, key: k1, good: true,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(day), nil, k1) }},
		{claim: "an object that has ended is good for older events", version: "10", at: -2 * day, key: k1, good: true,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(-day), nil, k1) }},
		{claim: "13-018 validity is seven days at most", version: "10", at: 8 * day, key: k1,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(300*day), nil, k1) }},
		{claim: "13-018 validity is seven days at least if so published", version: "10", at: 6 * day, key: k1, good: true,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(300*day), nil, k1) }},
		{claim: "13-048 an old key before it expired", version: "10", at: -2 * day, key: k2, good: true,
			object: func(t *testing.T, now time.Time) []byte {
				return signedKeys(t, "a.example", now.Add(day), withOld(k2, now.Add(-day)), k1)
			}},
		{claim: "13-048 an old key after it expired", version: "10", at: -day / 2, key: k2,
			object: func(t *testing.T, now time.Time) []byte {
				return signedKeys(t, "a.example", now.Add(day), withOld(k2, now.Add(-day)), k1)
			}},
		{claim: "13-048 an old key after it expired, v1", version: "3", at: -day / 2, key: k2,
			object: func(t *testing.T, now time.Time) []byte {
				return signedKeys(t, "a.example", now.Add(day), withOld(k2, now.Add(-day)), k1)
			}},
		{claim: "13-047 an unknown key", version: "10", key: k2,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(day), nil, k1) }},
		{claim: "another key under the same id", version: "10", key: spec.SigningKey{ID: "ed25519:k1", Private: k2.Private},
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "a.example", now.Add(day), nil, k1) }},
		{claim: "the server is down", version: "10", key: k1, later: true,
			object: func(*testing.T, time.Time) []byte { return nil }},
		{claim: "13-017 keys of another server", version: "10", key: k1, later: true,
			object: func(t *testing.T, now time.Time) []byte { return signedKeys(t, "b.example", now.Add(day), nil, k1) }},
	}
	for _, test := range tests {
		t.Run(test.claim, func(t *testing.T) {
			r := newTestRing(t)
			if raw := test.object(t, r.clock.now()); raw != nil {
				r.answers["a.example"] = raw
			}
			err := r.verdict(t, event(t, test.version, r.clock.now().Add(test.at), "a.example", test.key))
			if (err == nil) != test.good || errors.Is(err, server.ErrKeyUnavailable) != test.later {
				t.Errorf("verdict: %v", err)
			}
		})
	}
}

func withOld(key spec.SigningKey, expired time.Time) func(*keyObject) {
	return func(o *keyObject) {
		o.OldKeys[key.ID] = oldPublicKey{Key: encodeKey(key.Public()), Expired: expired.UnixMilli()}
	}
}

func TestVerifyManyEvents(t *testing.T) {
	r := newTestRing(t)
	now := r.clock.now()
	k := testKey("ed25519:k1")
	var events []*spec.Event
	for i := range 100 {
		name := spec.ServerName(fmt.Sprintf("s%d.example", i%10))
		if i%10 != 9 {
			r.answers[name] = signedKeys(t, name, now.Add(time.Hour), nil, k)
		}
		key := k
		if i == 50 {
			key = spec.SigningKey{ID: k.ID, Private: testKey("ed25519:bad").Private}
		}
		events = append(events, event(t, "10", now, name, key))
	}
	events = append(events, event(t, "10", now, "us.example", testKey("ed25519:us")))
	events = append(events, event(t, "10", now, "us.example", testKey("ed25519:usold")))
	events = append(events, event(t, "10", now.Add(-time.Minute), "us.example", testKey("ed25519:usold")))
	for i, err := range r.VerifyEvents(t.Context(), events) {
		bad := i == 50 || i%10 == 9 && i < 100 || i == 101
		if (err != nil) != bad || errors.Is(err, server.ErrKeyUnavailable) != (i%10 == 9 && i < 100) {
			t.Errorf("event %d: %v", i, err)
		}
	}
	for name, n := range r.asked {
		if n != 1 {
			t.Errorf("%s was asked %d times", name, n)
		}
	}
	if r.asked["us.example"] != 0 {
		t.Error("this server asked itself")
	}
	if r.VerifyEvents(t.Context(), nil) == nil {
		t.Error("no verdicts for no events")
	}
}

func TestSmallKeyCache(t *testing.T) {
	r := newTestRing(t)
	r.known = newTimedCache[spec.ServerName, serverKeys](2)
	r.attempts = newTimedCache[spec.ServerName, keyAttempt](2)
	k := testKey("ed25519:k1")
	var events []*spec.Event
	for i := range 20 {
		name := spec.ServerName(fmt.Sprintf("s%d.example", i))
		r.answers[name] = signedKeys(t, name, r.clock.now().Add(time.Hour), nil, k)
		events = append(events, event(t, "10", r.clock.now(), name, k))
	}
	for range 2 { // from the servers, then from the store
		for i, err := range r.VerifyEvents(t.Context(), events) {
			if err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		}
	}
	if len(r.asked) != 20 || r.asked["s0.example"] != 1 {
		t.Errorf("asked %v", r.asked)
	}
}

func TestUnsignedEvent(t *testing.T) {
	r := newTestRing(t)
	e := event(t, "10", r.clock.now(), "b.example", testKey("ed25519:k1"))
	raw := strings.Replace(string(e.JSON), `"b.example":{"ed25519:k1"`, `"c.example":{"ed25519:k1"`, 1)
	e, err := spec.ParseEvent(e.Rules, []byte(raw))
	must(t, err)
	if err := r.verdict(t, e); err == nil || errors.Is(err, server.ErrKeyUnavailable) || len(r.asked) != 0 {
		t.Errorf("verdict %v, asked %v", err, r.asked)
	}
}

func TestKeyRotation(t *testing.T) {
	r := newTestRing(t)
	k1, k2 := testKey("ed25519:k1"), testKey("ed25519:k2")
	now := r.clock.now()
	r.answers["a.example"] = signedKeys(t, "a.example", now.Add(time.Hour), nil, k1)
	must(t, r.verdict(t, event(t, "10", now, "a.example", k1)))

	r.answers["a.example"] = signedKeys(t, "a.example", now.Add(time.Hour), nil, k2)
	err := r.verdict(t, event(t, "10", now, "a.example", k2))
	if !errors.Is(err, server.ErrKeyUnavailable) || r.asked["a.example"] != 1 {
		t.Errorf("asked again at once: %v", err)
	}
	r.clock.advance(keyRefetch)
	must(t, r.verdict(t, event(t, "10", now, "a.example", k2)))
	t.Run("13-016 a key that is no longer listed stays good for its time", func(t *testing.T) {
		must(t, r.verdict(t, event(t, "10", now, "a.example", k1)))
		r.restart()
		delete(r.answers, "a.example")
		must(t, r.verdict(t, event(t, "10", now, "a.example", k1)))
		if err := r.verdict(t, event(t, "10", now.Add(2*time.Hour), "a.example", k1)); !errors.Is(err, server.ErrKeyUnavailable) {
			t.Errorf("verdict: %v", err)
		}
	})
	t.Run("a key that went out of use is so after a restart too", func(t *testing.T) {
		r.answers["a.example"] = signedKeys(t, "a.example", now.Add(time.Hour), withOld(k1, now.Add(-time.Minute)), k2)
		r.clock.advance(time.Hour)
		_ = r.verdict(t, event(t, "10", now.Add(3*time.Hour), "a.example", k2)) // makes it ask
		for range 2 {
			if r.verdict(t, event(t, "10", now, "a.example", k1)) == nil {
				t.Error("good after it expired")
			}
			must(t, r.verdict(t, event(t, "10", now.Add(-time.Hour), "a.example", k1)))
			r.restart()
		}
	})
}

func TestKeyBackoff(t *testing.T) {
	r := newTestRing(t)
	e := event(t, "10", r.clock.now(), "a.example", testKey("ed25519:k1"))
	for i, wait := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 600, 600} {
		for range 3 {
			_ = r.verdict(t, e)
		}
		if r.asked["a.example"] != i+1 {
			t.Fatalf("round %d: asked %d times", i, r.asked["a.example"])
		}
		r.clock.advance(wait * time.Second)
	}
}

func TestKeySingleFlight(t *testing.T) {
	r := newTestRing(t)
	raw := signedKeys(t, "a.example", r.clock.now().Add(time.Hour), nil, testKey("ed25519:k1"))
	var calls atomic.Int32
	started, release := make(chan struct{}), make(chan struct{})
	r.fetch = func(context.Context, spec.ServerName) ([]byte, error) {
		if calls.Add(1) == 1 {
			close(started)
		}
		<-release
		return raw, nil
	}
	e := event(t, "10", r.clock.now(), "a.example", testKey("ed25519:k1"))
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() { impatient <- r.VerifyEvents(ctx, []*spec.Event{e})[0] }()
	<-started
	cancel() // one who gives up does not end the others' request
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := r.VerifyEvents(t.Context(), []*spec.Event{e})[0]; err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("%d requests", calls.Load())
	}
}

func TestKeyStoreFailure(t *testing.T) {
	r := newTestRing(t)
	r.store.err = errors.New("disk")
	r.answers["a.example"] = signedKeys(t, "a.example", r.clock.now().Add(time.Hour), nil, testKey("ed25519:k1"))
	if err := r.verdict(t, event(t, "10", r.clock.now(), "a.example", testKey("ed25519:k1"))); !errors.Is(err, server.ErrKeyUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestParseKeyObject(t *testing.T) {
	now := newFakeClock().now()
	k1, k2 := testKey("ed25519:k1"), testKey("ed25519:k2")
	until := now.Add(time.Hour)
	set := func(name string, value any) func(raw []byte) []byte {
		return func(raw []byte) []byte {
			var object map[string]any
			must(t, json.Unmarshal(raw, &object))
			object[name] = value
			raw, err := json.Marshal(object)
			must(t, err)
			return raw
		}
	}
	good := signedKeys(t, "a.example", until, nil, k1)
	for claim, raw := range map[string][]byte{
		"13-017 not about the server asked": signedKeys(t, "b.example", until, nil, k1),
		"13-017 not signed":                 set("signatures", map[string]any{})(good),
		"13-017 signed by somebody else":    strip(t, good, "a.example", "b.example"),
		"changed after signing":             set("valid_until_ts", until.UnixMilli()+1)(good),
		"signed only by a key not listed":   signedKeys(t, "a.example", until, func(o *keyObject) { delete(o.Keys, k1.ID); o.Keys[k2.ID] = publishedKey{encodeKey(k2.Public())} }, k1),
		"signed only by an old key":         signedKeys(t, "a.example", until, func(o *keyObject) { delete(o.Keys, k1.ID); withOld(k1, until)(o) }, k1),
		"one of two signatures is bad":      signedKeys(t, "a.example", until, func(o *keyObject) { o.Keys[k2.ID] = o.Keys[k1.ID] }, k1, k2),
		"valid_until_ts is missing":         signedKeys(t, "a.example", time.UnixMilli(0), nil, k1),
		"no JSON":                           []byte(`<html>`),
		"too many keys":                     signedKeys(t, "a.example", until, manyKeys, k1),
		"larger than any such object":       append(good, make([]byte, maxKeyObject)...),
	} {
		t.Run(claim, func(t *testing.T) {
			if keys, err := parseKeyObject("a.example", raw, now); err == nil {
				t.Errorf("got %v", keys)
			}
		})
	}
	t.Run("keys of other algorithms or of the wrong size are left out", func(t *testing.T) {
		raw := signedKeys(t, "a.example", until, func(o *keyObject) {
			o.Keys["ed448:x"] = publishedKey{encodeKey(k2.Public())}
			o.Keys["ed25519:short"] = publishedKey{"AAAA"}
			o.Keys["nonsense"] = publishedKey{"?"}
			o.OldKeys["ed25519:o"] = oldPublicKey{Key: encodeKey(k2.Public()) + "=", Expired: 5}
			o.OldKeys["ed25519:p"] = oldPublicKey{Key: encodeKey(k2.Public())}
		}, k1)
		keys, err := parseKeyObject("a.example", raw, now)
		must(t, err)
		byID := map[spec.KeyID]storage.ServerKey{}
		for _, k := range keys {
			byID[k.ID] = k
		}
		if len(byID) != 2 || byID["ed25519:k1"].ValidUntil != until.UnixMilli() || byID["ed25519:o"].Expired != 5 {
			t.Errorf("got %v", byID)
		}
	})
	t.Run("13-009 a key that is both in use and old is old", func(t *testing.T) {
		keys, err := parseKeyObject("a.example", signedKeys(t, "a.example", until, withOld(k2, now), k1, k2), now)
		must(t, err)
		for _, k := range keys {
			if k.ID == k2.ID && k.Expired != now.UnixMilli() {
				t.Errorf("got %+v", k)
			}
		}
	})
}

func manyKeys(o *keyObject) {
	for i := range maxKeysPerAnswer {
		o.Keys[spec.KeyID(fmt.Sprintf("ed25519:x%d", i))] = publishedKey{"AA"}
	}
}

func strip(t *testing.T, raw []byte, from, to string) []byte {
	t.Helper()
	var object keyObject
	must(t, json.Unmarshal(raw, &object))
	object.Signatures[to] = object.Signatures[from]
	delete(object.Signatures, from)
	raw, err := json.Marshal(object)
	must(t, err)
	return raw
}

func TestNotaries(t *testing.T) {
	r := newTestRing(t)
	now := r.clock.now()
	k, notaryKey := testKey("ed25519:k1"), testKey("ed25519:notary")
	r.notaries = []spec.ServerName{"down.example", "notary.example"}
	r.answers["notary.example"] = signedKeys(t, "notary.example", now.Add(time.Hour), nil, notaryKey)
	byNotary := func(raw []byte) []byte {
		out, err := spec.SignJSON(raw, "notary.example", notaryKey)
		must(t, err)
		return out
	}
	asked := map[spec.ServerName]wanted{}
	var objects [][]byte
	r.query = func(_ context.Context, notary spec.ServerName, want wanted) ([][]byte, error) {
		asked[notary] = maps.Clone(want)
		if notary == "down.example" {
			return nil, errors.New("down")
		}
		return objects, nil
	}
	objects = [][]byte{
		signedKeys(t, "unsigned.example", now.Add(time.Hour), nil, k),
		byNotary(signedKeys(t, "unasked.example", now.Add(time.Hour), nil, k)),
		byNotary(strip(t, signedKeys(t, "forged.example", now.Add(time.Hour), nil, k), "forged.example", "x.example")),
		[]byte(`{}`),
		byNotary(signedKeys(t, "a.example", now.Add(time.Hour), nil, k)),
	}
	var events []*spec.Event
	names := []spec.ServerName{"a.example", "unsigned.example", "forged.example"}
	for _, name := range names {
		events = append(events, event(t, "10", now, name, k))
	}
	for i, err := range r.VerifyEvents(t.Context(), events) {
		if (err == nil) != (i == 0) {
			t.Errorf("%s: %v", names[i], err)
		}
	}
	if keys, _ := r.keysOf("unasked.example"); len(keys) != 0 {
		t.Error("keys that were not asked for were taken")
	}
	if got := asked["notary.example"]["a.example"]["ed25519:k1"].at; got != now.UnixMilli() {
		t.Errorf("asked for validity until %d", got)
	}
}

func TestNotaryQueryBody(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(`{"server_keys":[{"a":1},{"b":2}]}`)
	c := n.client(newFakeClock(), nil)
	got, err := c.queryKeys(t.Context(), peerName, wanted{"a.example": {"ed25519:k1": {at: 7}}})
	must(t, err)
	if r := p.last(t); string(r.body) != `{"server_keys":{"a.example":{"ed25519:k1":{"minimum_valid_until_ts":7}}}}` || r.uri != "/_matrix/key/v2/query" || len(got) != 2 {
		t.Errorf("sent %s %s, got %s", r.uri, r.body, got)
	}
}

func TestAuthenticate(t *testing.T) {
	n, clock := newFakeNet(t), newFakeClock()
	key := testKey("ed25519:peer")
	p := n.peerAt("")
	p.answer = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(signedKeys(t, peerName, clock.now().Add(time.Hour), withOld(testKey("ed25519:old"), clock.now()), key))
	}
	c := n.client(clock, func(o *Options) {
		o.Permit = func(name spec.ServerName) bool { return name != "blocked.example" }
	})
	const uri = "/_matrix/federation/v1/event/%24a%2Fb%21?x=%20"
	header := func(origin, destination spec.ServerName, key spec.SigningKey, uri, body string) string {
		x, err := spec.FederationRequest{Method: "PUT", URI: uri, Origin: origin, Destination: destination, Content: []byte(body)}.Sign(key)
		must(t, err)
		return x.String()
	}
	good := header(peerName, "us.example", key, uri, `{"b": 1, "a": 2}`)
	tests := []struct {
		claim   string
		headers []string
		uri     string
		body    string
		good    bool
	}{
		{"13-019 a signed request", []string{good}, uri, `{"b": 1, "a": 2}`, true},
		{"the body's form does not matter, only its content", []string{good}, uri, `{"a":2,"b":1}`, true},
		{"13-020 no header", nil, uri, `{}`, false},
		{"13-020 another scheme", []string{"Bearer abc"}, uri, `{}`, false},
		{"13-020 another body", []string{good}, uri, `{"b": 1, "a": 3}`, false},
		{"13-020 no body", []string{good}, uri, ``, false},
		{"13-020 body is no JSON", []string{good}, uri, `{`, false},
		{"13-024 the path is compared as sent", []string{good}, strings.Replace(uri, "%21", "!", 1), `{"b": 1, "a": 2}`, false},
		{"13-024 the query is compared as sent", []string{good}, strings.Replace(uri, "%20", "+", 1), `{"b": 1, "a": 2}`, false},
		{"13-021 meant for another server", []string{header(peerName, "them.example", key, uri, `{}`)}, uri, `{}`, false},
		{"13-021 no destination, from old senders", []string{strings.Replace(good, `destination="us.example",`, "", 1)}, uri, `{"b": 1, "a": 2}`, true},
		{"13-020 unknown key", []string{header(peerName, "us.example", testKey("ed25519:other"), uri, `{}`)}, uri, `{}`, false},
		{"an old key does not sign requests", []string{header(peerName, "us.example", testKey("ed25519:old"), uri, `{}`)}, uri, `{}`, false},
		{"13-026 in the name of this server", []string{header("us.example", "us.example", testKey("ed25519:us"), uri, `{}`)}, uri, `{}`, false},
		{"of a server that is not dealt with", []string{header("blocked.example", "us.example", key, uri, `{}`)}, uri, `{}`, false},
		{"13-023 origin is no server name", []string{strings.Replace(good, string(peerName), "peer.example:http", 1)}, uri, `{}`, false},
		{"two headers, one good", []string{header(peerName, "us.example", testKey("ed25519:other"), uri, `{"b": 1, "a": 2}`), good}, uri, `{"b": 1, "a": 2}`, true},
		{"two headers of different servers", []string{header("x.example", "us.example", key, uri, `{"b": 1, "a": 2}`), good}, uri, `{"b": 1, "a": 2}`, false},
		{"the absolute form of a proxy", []string{good}, "http://us.example" + uri, `{"b": 1, "a": 2}`, true},
	}
	for _, test := range tests {
		t.Run(test.claim, func(t *testing.T) {
			r, err := http.NewRequest("PUT", "https://us.example"+strings.TrimPrefix(test.uri, "http://us.example"), nil)
			must(t, err)
			r.RequestURI = test.uri
			r.Header["Authorization"] = test.headers
			origin, err := c.Authenticate(t.Context(), r, []byte(test.body))
			if test.good {
				if err != nil || origin != peerName {
					t.Errorf("got %q, %v", origin, err)
				}
				return
			}
			var refusal *spec.Error
			if !errors.As(err, &refusal) || refusal.Code != spec.CodeUnauthorized || refusal.Code.Status() != 401 || origin != "" {
				t.Errorf("got %q, %v", origin, err)
			}
		})
	}
	t.Run("13-023 no key look-up for what is refused anyway", func(t *testing.T) {
		for _, looked := range n.lookups() {
			if strings.Contains(looked, "x.example") || strings.Contains(looked, "blocked") || strings.Contains(looked, "them") {
				t.Errorf("looked up %s", looked)
			}
		}
	})
	t.Run("a key whose validity has ended is fetched again", func(t *testing.T) {
		before := len(p.requests)
		clock.advance(2 * time.Hour)
		r, _ := http.NewRequest("PUT", "https://us.example"+uri, nil)
		r.RequestURI = uri
		r.Header.Set("Authorization", good)
		_, err := c.Authenticate(t.Context(), r, []byte(`{"b": 1, "a": 2}`))
		if err != nil || len(p.requests) != before+1 {
			t.Errorf("%d requests, %v", len(p.requests)-before, err)
		}
	})
}

func TestLocalKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing.key")
	made, err := LoadKeys(path)
	must(t, err)
	again, err := LoadKeys(path)
	must(t, err)
	if made.Active.ID == "" || made.Active.ID != again.Active.ID || !made.Active.Private.Equal(again.Active.Private) {
		t.Error("the key did not stay")
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("files left: %v", entries)
	}
	seed := base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	keys, err := parseKeys([]byte("# ours\n\ned25519 a_1 " + seed + "=\nold ed25519 0ld " + seed + " 1234\n"))
	must(t, err)
	if keys.Active.ID != "ed25519:a_1" || len(keys.Old) != 1 || keys.Old[0].ID != "ed25519:0ld" || keys.Old[0].Expired != 1234 {
		t.Errorf("got %+v", keys)
	}
	for claim, text := range map[string]string{
		"empty":                   "",
		"only old":                "old ed25519 a " + seed + " 5",
		"two in use":              "ed25519 a " + seed + "\ned25519 b " + seed,
		"13-009 in use and old":   "ed25519 a " + seed + "\nold ed25519 a " + seed + " 5",
		"13-009 version has dots": "ed25519 a.b " + seed,
		"another algorithm":       "ed448 a " + seed,
		"short seed":              "ed25519 a AAAA",
		"no time":                 "ed25519 a " + seed + "\nold ed25519 b " + seed + " x",
	} {
		if _, err := parseKeys([]byte(text)); err == nil {
			t.Errorf("%s: no error", claim)
		} else if strings.Contains(err.Error(), seed) {
			t.Errorf("%s: the secret is in the error", claim)
		}
	}
}

func TestPublishedKeys(t *testing.T) {
	clock := newFakeClock()
	old := OldKey{ID: "ed25519:old", Public: testKey("ed25519:old").Public(), Expired: 99}
	keys := LocalKeys{Active: testKey("ed25519:us"), Old: []OldKey{old}}
	p := NewPublishedKeys("us.example", keys, clock.now)
	first, err := p.Object()
	must(t, err)
	t.Run("13-008 peers take it", func(t *testing.T) {
		got, err := parseKeyObject("us.example", first, clock.now())
		if err != nil || len(got) != 2 {
			t.Errorf("got %v, %v", got, err)
		}
		if !strings.Contains(string(first), `"old_verify_keys":{"ed25519:old":{"expired_ts":99,`) {
			t.Errorf("got %s", first)
		}
	})
	t.Run("13-010 it is always valid for an hour and more", func(t *testing.T) {
		for range 100 {
			clock.advance(time.Hour)
			raw, err := p.Object()
			must(t, err)
			var object keyObject
			must(t, json.Unmarshal(raw, &object))
			if left := object.ValidUntil - clock.now().UnixMilli(); left < time.Hour.Milliseconds() {
				t.Fatalf("%d ms left", left)
			}
		}
	})
	t.Run("13-008 old_verify_keys is there, also if empty", func(t *testing.T) {
		raw, err := NewPublishedKeys("us.example", LocalKeys{Active: keys.Active}, clock.now).Object()
		if err != nil || !strings.Contains(string(raw), `"old_verify_keys":{}`) {
			t.Errorf("got %s, %v", raw, err)
		}
	})
}

func FuzzParseKeyObject(f *testing.F) {
	now := newFakeClock().now()
	f.Add(signedKeys(f, "a.example", now.Add(time.Hour), withOld(testKey("ed25519:k2"), now), testKey("ed25519:k1")))
	f.Add([]byte(`{"server_name":"a.example","verify_keys":{"ed25519:a":{"key":"AA"}},"valid_until_ts":1,"signatures":{"a.example":{"ed25519:a":"AA"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseKeyObject("a.example", raw, now)
		if err != nil {
			return
		}
		for _, k := range keys {
			if k.Server != "a.example" || len(k.Public) != 32 || k.ValidUntil > now.Add(maxKeyValidity).UnixMilli() && k.Expired == 0 {
				t.Errorf("got %+v", k)
			}
		}
	})
}
