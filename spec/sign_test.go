package spec

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// testKey is the signing key of the specification's vectors.
// Spec: appendices#signing-key
func testKey(t testing.TB) SigningKey {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewSigningKey("ed25519:1", seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignJSONVectors(t *testing.T) {
	// Spec: appendices#json-signing
	key := testKey(t)
	cases := []struct{ name, in, want string }{
		{"13-042 empty object", `{}`,
			`{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{"13-042 object with data", `{"one": 1, "two": "Two"}`,
			`{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := SignJSON([]byte(c.in), "domain", key)
			if err != nil || string(got) != c.want {
				t.Fatalf("got %s, %v", got, err)
			}
			if err := VerifyJSON(got, "domain", "ed25519:1", key.Public()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestSignJSONKeepsOthers(t *testing.T) {
	key := testKey(t)
	second := key
	second.ID = "ed25519:a"
	signed, err := SignJSON([]byte(`{"unsigned":{"age":5},"signatures":{"other":{"ed25519:x":"abc"},"domain":{"ed25519:0":"old"}},"a":1}`), "domain", key)
	if err == nil {
		signed, err = SignJSON(signed, "domain", second)
	}
	if err != nil || !strings.Contains(string(signed), `"other":{"ed25519:x":"abc"}`) || !strings.Contains(string(signed), `"unsigned":{"age":5}`) {
		t.Fatalf("got %s, %v", signed, err)
	}
	for _, id := range []KeyID{"ed25519:1", "ed25519:a"} {
		if err := VerifyJSON(signed, "domain", id, key.Public()); err != nil {
			t.Error(err)
		}
	}
	ids, err := SignatureKeyIDs(signed, "domain")
	if err != nil || fmt.Sprint(ids) != "[ed25519:0 ed25519:1 ed25519:a]" {
		t.Fatalf("keys %v, %v", ids, err)
	}
}

func TestVerifyJSONRefuses(t *testing.T) {
	key := testKey(t)
	good, err := SignJSON([]byte(`{"one":1}`), "domain", key)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, object, entity string }{
		{"changed object", strings.Replace(string(good), `"one":1`, `"one":2`, 1), "domain"},
		{"another entity", string(good), "other"},
		{"signature that is not base64", `{"signatures":{"domain":{"ed25519:1":"%%"}}}`, "domain"},
		{"short signature", `{"signatures":{"domain":{"ed25519:1":"AAAA"}}}`, "domain"},
		{"signature that is no string", `{"signatures":{"domain":{"ed25519:1":5}}}`, "domain"},
		{"signatures of the wrong shape", `{"signatures":{"domain":[]}}`, "domain"},
		{"signatures that are a list", `{"signatures":[]}`, "domain"},
		{"no signatures", `{}`, "domain"},
		{"no object", `[]`, "domain"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if VerifyJSON([]byte(c.object), c.entity, "ed25519:1", key.Public()) == nil {
				t.Fatal("verified")
			}
		})
	}
	if VerifyJSON(good, "domain", "ed25519:1", nil) == nil {
		t.Fatal("verified with no key")
	}
}

func TestSigningKeyPrintsStars(t *testing.T) {
	key := testKey(t)
	text, _ := key.MarshalText()
	for _, s := range []string{fmt.Sprint(key), fmt.Sprintf("%+v %#v %x %s", key, key, key, &key), string(text)} {
		if strings.Trim(s, "* ") != "" {
			t.Errorf("printed %q", s)
		}
	}
}

func TestEventSigningVectors(t *testing.T) {
	// Spec: appendices#event-signing. They are of room version 1, whose first one
	// lacks an event_id and whose second one lacks more, so they go past ParseEvent.
	cases := []struct{ name, eventType, in, want string }{
		{"13-041 13-042 minimal event", "X",
			`{"auth_events":[],"content":{},"depth":3,"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{},"type":"X"}`,
			`{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X"}`},
		{"13-041 13-042 event with content that redaction strips", "m.room.message",
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"room_id":"!r:domain","sender":"@u:domain","signatures":{},"type":"m.room.message"}`,
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},"origin":"domain","origin_server_ts":1000000,"room_id":"!r:domain","sender":"@u:domain","signatures":{"domain":{"ed25519:1":"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}},"type":"m.room.message"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := rulesV1.hashAndSign([]byte(c.in), c.eventType, "domain", testKey(t))
			if err != nil || string(got) != c.want {
				t.Fatalf("got  %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}
