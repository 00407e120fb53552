package federation

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
)

func TestNotary(t *testing.T) {
	r := newTestRing(t)
	now := r.clock.now
	own := NewPublishedKeys("us.example", LocalKeys{Active: testKey("ed25519:us")}, now)
	n := NewNotary(r.KeyRing, own)
	k1, k2 := testKey("ed25519:k1"), testKey("ed25519:k2")
	ask := func(body string) []jsontext.Value {
		t.Helper()
		query, err := ParseKeyQuery([]byte(body))
		must(t, err)
		raw, err := n.Answer(t.Context(), query)
		must(t, err)
		var answer struct {
			Keys []jsontext.Value `json:"server_keys"`
		}
		must(t, json.Unmarshal(raw, &answer))
		if answer.Keys == nil {
			t.Error("server_keys is no list")
		}
		for _, object := range answer.Keys {
			must(t, spec.VerifyJSON(object, "us.example", "ed25519:us", testKey("ed25519:us").Public()))
		}
		return answer.Keys
	}
	r.answers["a.example"] = signedKeys(t, "a.example", now().Add(time.Hour), nil, k1)

	if got := ask(`{"server_keys":{}}`); len(got) != 0 {
		t.Errorf("13-013 no servers: %s", got)
	}
	got := ask(`{"server_keys":{"a.example":{}}}`)
	if len(got) != 1 {
		t.Fatalf("13-013 all keys: %s", got)
	}
	must(t, spec.VerifyJSON(got[0], "a.example", k1.ID, k1.Public())) // 13-012
	if got := ask(`{"server_keys":{"a.example":{"ed25519:k1":{}}, "down.example":{}}}`); len(got) != 1 || r.asked["a.example"] != 1 {
		t.Errorf("13-014 one is down: %s, asked %d times", got, r.asked["a.example"])
	}
	if got := ask(`{"server_keys":{"us.example":{}}}`); len(got) != 1 || r.asked["us.example"] != 0 {
		t.Errorf("own keys: %s", got)
	}

	// 13-016: another key now, but the earlier one is still given.
	r.clock.advance(keyRefetch)
	r.answers["a.example"] = signedKeys(t, "a.example", now().Add(2*time.Hour), nil, k2)
	if got := ask(`{"server_keys":{"a.example":{"ed25519:k2":{}}}}`); len(got) != 1 || !strings.Contains(string(got[0]), `"ed25519:k2":{"key"`) {
		t.Errorf("a new key: %s", got)
	}
	if got := ask(`{"server_keys":{"a.example":{"ed25519:k1":{}}}}`); len(got) != 1 || !strings.Contains(string(got[0]), `"ed25519:k1":{"key"`) {
		t.Errorf("13-016 an old key: %s", got)
	}
	if got := ask(`{"server_keys":{"a.example":{}}}`); len(got) != 2 {
		t.Errorf("13-016 all keys: %d objects", len(got))
	}

	// 13-015: validity too short, the origin is down, the old answer is given.
	delete(r.answers, "a.example")
	r.clock.advance(24 * time.Hour)
	before := r.asked["a.example"]
	if got := ask(`{"server_keys":{"a.example":{"ed25519:k2":{"minimum_valid_until_ts":99999999999999}}}}`); len(got) != 1 || r.asked["a.example"] != before+1 {
		t.Errorf("13-015 got %s, asked %d times", got, r.asked["a.example"]-before)
	}
}

func TestParseKeyQuery(t *testing.T) {
	for body, code := range map[string]spec.Code{
		`{`:                               spec.CodeNotJSON,
		`[]`:                              spec.CodeBadJSON,
		`{}`:                              spec.CodeMissingParam,
		`{"server_keys":{"a b":{}}}`:      spec.CodeInvalidParam,
		`{"server_keys":{"a.example":3}}`: spec.CodeBadJSON,
	} {
		_, err := ParseKeyQuery([]byte(body))
		var refusal *spec.Error
		if !errors.As(err, &refusal) || refusal.Code != code {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func FuzzParseKeyQuery(f *testing.F) {
	f.Add([]byte(`{"server_keys":{"a.example":{"ed25519:k":{"minimum_valid_until_ts":1}}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		query, err := ParseKeyQuery(body)
		if err == nil && len(query) > maxNotaryServers {
			t.Errorf("%d servers", len(query))
		}
	})
}
