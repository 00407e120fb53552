package spec

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func ptr(s string) *string { return &s }

func mustRules(t testing.TB, v RoomVersion) *Rules {
	t.Helper()
	rules, ok := RulesOf(v)
	if !ok {
		t.Fatalf("no room version %s", v)
	}
	return rules
}

// roomFor is a room ID that fits the room version.
func roomFor(rules *Rules) RoomID {
	if rules.RoomIDIsCreateHash {
		return RoomID("!" + strings.Repeat("r", 43))
	}
	return "!room:domain"
}

func testMessage(rules *Rules) EventBuilder {
	return EventBuilder{
		Room: roomFor(rules), Sender: "@alice:domain", Type: TypeMessage,
		Content: []byte(`{"msgtype":"m.text","body":"hello"}`),
		Prev:    []EventID{"$prev"}, Auth: []EventID{"$a", "$b"}, Depth: 7, OriginServerTS: 1700000000000,
		ReferenceHash: testReferenceHash,
	}
}

func testReferenceHash(id EventID) ([32]byte, error) { return sha256.Sum256([]byte(id)), nil }

func mustBuild(t testing.TB, rules *Rules, b EventBuilder) *Event {
	t.Helper()
	e, err := b.Build(rules, "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// parse(build(x)) is x, and so is load.
func TestEventRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, v := range SupportedVersions() {
		t.Run("18-001 v"+string(v), func(t *testing.T) {
			rules := mustRules(t, v)
			for range 200 {
				b := randomBuilder(t, r, rules)
				built := mustBuild(t, rules, b)
				parsed, err := ParseEvent(rules, built.AppendFederation(nil, r.Int64N(3)))
				if err != nil {
					t.Fatalf("%s: %v", built.JSON, err)
				}
				parsed.Unsigned = nil
				if !reflect.DeepEqual(parsed, built) {
					t.Fatalf("built  %+v\nparsed %+v", built, parsed)
				}
				loaded, err := LoadEvent(rules, built.ID, built.JSON)
				if err != nil || !reflect.DeepEqual(loaded, built) {
					t.Fatalf("built  %+v\nloaded %+v, %v", built, loaded, err)
				}
				if err := parsed.VerifySignature("domain", "ed25519:1", testKey(t).Public()); err != nil {
					t.Fatal(err)
				}
				again, err := Canonical(built.JSON)
				if err != nil || !bytes.Equal(again, built.JSON) {
					t.Fatalf("%s is not canonical", built.JSON)
				}
				for _, form := range [][]byte{built.AppendClient(nil, ClientFormat{Age: 5, TxnID: randomText(r)}), built.StrippedState()} {
					if _, err := Canonical(form); err != nil {
						t.Fatalf("%s: %v", form, err)
					}
				}
			}
		})
	}
}

func randomBuilder(t *testing.T, r *rand.Rand, rules *Rules) EventBuilder {
	types := []string{TypeCreate, TypeMember, TypePowerLevels, TypeJoinRules, TypeHistoryVisibility, TypeAliases,
		TypeRedaction, TypeMessage, TypeReaction, TypeEncrypted, "a\"\\\n日"}
	b := testMessage(rules)
	b.Type = types[r.IntN(len(types))]
	b.Depth, b.OriginServerTS = r.Int64N(maxSafeInteger), r.Int64N(maxSafeInteger)-1000
	b.Sender = UserID("@" + strings.NewReplacer("\x00", "").Replace(randomText(r)) + ":domain:8448")
	object := map[string]any{}
	for _, key := range []string{"membership", "creator", "third_party_invite", "invite", "redacts", "body"} {
		object[key] = randomValue(r, 2)
	}
	var err error
	if b.Content, err = MarshalCanonical(object); err != nil {
		t.Fatal(err)
	}
	if r.IntN(2) == 0 {
		b.State = ptr(randomText(r))
	}
	if b.Type == TypeCreate && rules.RoomIDIsCreateHash && r.IntN(2) == 0 {
		b.State, b.Room = ptr(""), ""
	}
	if b.Type == TypeCreate && b.State != nil && *b.State == "" && rules.RoomIDIsCreateHash {
		b.Room = ""
	}
	if b.Type == TypeRedaction && r.IntN(2) == 0 {
		b.Redacts = "$target"
	}
	return b
}

func TestParseEventRefuses(t *testing.T) {
	hash := strings.Repeat("h", 43)
	base := func() map[string]any {
		return map[string]any{"auth_events": []string{"$a"}, "content": map[string]any{}, "depth": 1, "hashes": map[string]any{"sha256": hash},
			"origin_server_ts": 1, "prev_events": []string{"$p"}, "room_id": "!a:domain", "sender": "@a:domain", "signatures": map[string]any{}, "type": "T"}
	}
	cases := []struct {
		name, version string
		set           map[string]any // nil removes
	}{
		{"15-001 no type", "11", map[string]any{"type": nil}},
		{"15-001 type is no string", "11", map[string]any{"type": 5}},
		{"15-001 no sender", "11", map[string]any{"sender": nil}},
		{"15-001 sender is no user ID", "11", map[string]any{"sender": "alice"}},
		{"15-001 state_key is null", "11", map[string]any{"state_key": json.RawMessage("null")}},
		{"15-001 no content", "11", map[string]any{"content": nil}},
		{"15-001 content is a list", "11", map[string]any{"content": []int{}}},
		{"15-001 no depth", "11", map[string]any{"depth": nil}},
		{"15-001 depth is a string", "11", map[string]any{"depth": "1"}},
		{"15-001 negative depth", "11", map[string]any{"depth": -1}},
		{"15-001 no origin_server_ts", "11", map[string]any{"origin_server_ts": nil}},
		{"15-001 no prev_events", "11", map[string]any{"prev_events": nil}},
		{"15-001 prev_events is an object", "11", map[string]any{"prev_events": map[string]any{}}},
		{"15-001 prev_events holds a number", "11", map[string]any{"prev_events": []int{1}}},
		{"15-001 prev_events holds what is no ID", "11", map[string]any{"prev_events": []string{"a"}}},
		{"15-001 auth_events of room version 1 in 11", "11", map[string]any{"auth_events": []any{[]any{"$a:b", map[string]any{}}}}},
		{"15-001 auth_events of room version 11 in 1", "1", map[string]any{"event_id": "$a:b", "prev_events": []any{}}},
		{"18-006 v1 needs an event_id", "1", map[string]any{"prev_events": []any{}, "auth_events": []any{}}},
		{"18-006 v1 event_id has a server", "1", map[string]any{"event_id": "$abc", "prev_events": []any{}, "auth_events": []any{}}},
		{"15-001 no hashes", "11", map[string]any{"hashes": nil}},
		{"15-001 hashes without sha256", "11", map[string]any{"hashes": map[string]any{"sha1": "x"}}},
		{"15-001 no signatures", "11", map[string]any{"signatures": nil}},
		{"15-001 unsigned is a list", "11", map[string]any{"unsigned": []int{1}}},
		{"15-001 no room_id", "11", map[string]any{"room_id": nil}},
		{"15-001 room_id is null", "12", map[string]any{"room_id": json.RawMessage("null"), "type": TypeCreate, "state_key": ""}},
		{"18-012 v12 room ID with a server", "12", nil},
		{"18-012 v11 room ID without a server", "11", map[string]any{"room_id": "!" + hash}},
		{"18-012 v12 create event with a room_id", "12", map[string]any{"room_id": "!" + hash, "type": TypeCreate, "state_key": ""}},
		{"18-012 v12 other event without room_id", "12", map[string]any{"room_id": nil}},
		{"18-009 v6+ float", "6", map[string]any{"content": json.RawMessage(`{"a":1.5}`)}},
		{"18-009 v6+ float that is an integer", "10", map[string]any{"content": json.RawMessage(`{"a":1.0}`)}},
		{"18-009 v6+ exponent", "12", map[string]any{"room_id": "!" + hash, "content": json.RawMessage(`{"a":1e3}`)}},
		{"18-009 v6+ integer beyond 2^53", "6", map[string]any{"content": json.RawMessage(`{"a":9007199254740992}`)}},
		{"18-009 v6+ depth beyond 2^53", "6", map[string]any{"depth": 9007199254740992}},
		{"18-009 v5 depth beyond 2^63", "5", map[string]any{"depth": json.RawMessage("9223372036854775808")}},
		{"20-028 sender of 256 bytes", "11", map[string]any{"sender": "@" + strings.Repeat("a", 248) + ":domain"}},
		{"15-013 type of 256 bytes", "11", map[string]any{"type": strings.Repeat("t", 256)}},
		{"15-013 type of 128 characters in 256 bytes", "11", map[string]any{"type": strings.Repeat("é", 128)}},
		{"15-013 state_key of 256 bytes", "11", map[string]any{"state_key": strings.Repeat("t", 256)}},
		{"15-013 room_id of 256 bytes", "11", map[string]any{"room_id": "!" + strings.Repeat("a", 248) + ":domain"}},
		{"15-013 event over 64 KiB", "11", map[string]any{"content": map[string]any{"a": strings.Repeat("a", 65536)}}},
		{"15-013 text over a megabyte", "11", map[string]any{"unsigned": map[string]any{"a": strings.Repeat("a", maxRawEvent)}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			object := base()
			for key, value := range c.set {
				if object[key] = value; value == nil {
					delete(object, key)
				}
			}
			raw, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			e, err := ParseEvent(mustRules(t, RoomVersion(c.version)), raw)
			if e != nil && err != nil {
				t.Error("both event and error")
			}
			if code := CodeOf(err); code != CodeBadJSON && code != CodeTooLarge {
				t.Fatalf("got %+v, %v", e, err)
			}
		})
	}
	for _, raw := range []string{``, `null`, `[]`, `{}`, `"a"`, `{"type":"a","type":"a"}`} {
		if _, err := ParseEvent(rulesV11, []byte(raw)); CodeOf(err) != CodeBadJSON {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

// The limits of 65,536 and 255 bytes are reached exactly and not exceeded.
func TestEventSizeLimits(t *testing.T) {
	for _, v := range SupportedVersions() {
		t.Run("15-013 v"+string(v), func(t *testing.T) {
			rules := mustRules(t, v)
			b := testMessage(rules)
			empty := mustBuild(t, rules, b).Size()
			body := func(n int) []byte { return []byte(`{"msgtype":"m.text","body":"` + strings.Repeat("x", n) + `"}`) }
			b.Content = body(MaxEventSize - empty + len("hello"))
			full := mustBuild(t, rules, b)
			if full.Size() != MaxEventSize {
				t.Fatalf("size %d", full.Size())
			}
			if e, err := ParseEvent(rules, full.AppendFederation(nil, 1234)); err != nil || e.Redacted {
				t.Fatal(err)
			}
			if _, err := full.Sign("other", testKey(t)); CodeOf(err) != CodeTooLarge {
				t.Errorf("signature beyond the limit: %v", err)
			}
			b.Content = body(MaxEventSize - empty + len("hello") + 1)
			if _, err := b.Build(rules, "domain", testKey(t)); CodeOf(err) != CodeTooLarge {
				t.Errorf("one byte more: %v", err)
			}
			b = testMessage(rules)
			b.Type, b.State = strings.Repeat("é", 127)+"x", ptr(strings.Repeat("\n", 255))
			b.Sender = UserID("@" + strings.Repeat("a", 247) + ":domain")
			if e := mustBuild(t, rules, b); len(e.Type) != 255 || len(e.Key().Key) != 255 || len(e.Sender) != 255 {
				t.Error("fields of 255 bytes changed")
			}
		})
	}
}

// 18-009: until version 5 an event with numbers beyond the rules is taken as it
// is, and its hashes cover the numbers as their makers wrote them.
func TestLegacyNumbers(t *testing.T) {
	b := testMessage(rulesV5)
	b.Content = []byte(`{"a":1.50,"b":9007199254740993,"c":1e20}`)
	e := mustBuild(t, rulesV5, b)
	if string(e.Content) != `{"a":1.5,"b":9007199254740993,"c":1e+20}` {
		t.Errorf("content %s", e.Content)
	}
	if got, err := ParseEvent(rulesV5, e.JSON); err != nil || got.ID != e.ID || got.Redacted {
		t.Errorf("18-009 v5: %v, %v", got, err)
	}
	if _, err := b.Build(rulesV6, "domain", testKey(t)); CodeOf(err) != CodeBadJSON {
		t.Errorf("18-009 v6: %v", err)
	}
}

func TestContentHashMismatch(t *testing.T) {
	for _, v := range SupportedVersions() {
		t.Run("13-043 15-001 v"+string(v), func(t *testing.T) {
			rules := mustRules(t, v)
			b := testMessage(rules)
			b.Type, b.State, b.Content = TypeMember, ptr("@alice:domain"), []byte(`{"membership":"join","displayname":"A"}`)
			good := mustBuild(t, rules, b)
			raw := bytes.Replace(good.JSON, []byte(`"displayname":"A"`), []byte(`"displayname":"B"`), 1)
			got, err := ParseEvent(rules, raw)
			if err != nil || !got.Redacted || got.ID != good.ID || string(got.Content) != `{"membership":"join"}` || got.Room != good.Room {
				t.Fatalf("got %+v, %v", got, err)
			}
			want, err := good.Redact()
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v\nwant %+v, %v", got, want, err)
			}
			if err := got.VerifySignature("domain", "ed25519:1", testKey(t).Public()); err != nil {
				t.Error(err)
			}
			again, err := ParseEvent(rules, got.JSON)
			if err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("redacted copy parsed again: %+v, %v", again, err)
			}
			if twice, err := got.Redact(); err != nil || twice != got {
				t.Errorf("redacted twice: %v", err)
			}
			bad := bytes.Replace(good.JSON, []byte(`"sha256":"`), []byte(`"sha256":"*`), 1)
			if got, err := ParseEvent(rules, bad); err != nil || !got.Redacted {
				t.Errorf("hash that is not base64: %+v, %v", got, err)
			}
		})
	}
}

func TestV12CreateEvent(t *testing.T) {
	b := testMessage(rulesV12)
	b.Room, b.Type, b.State, b.Prev, b.Auth = "", TypeCreate, ptr(""), nil, nil
	b.Content = []byte(`{"room_version":"12"}`)
	create := mustBuild(t, rulesV12, b)
	if create.Room != create.ID.RoomID() || len(create.Room) != 44 || get(create.JSON, "room_id") != nil {
		t.Fatalf("18-012 room %q, JSON %s", create.Room, create.JSON)
	}
	if create.Room.CreateEvent() != create.ID {
		t.Errorf("18-012 create event %q", create.Room.CreateEvent())
	}
	loaded, err := LoadEvent(rulesV12, create.ID, create.JSON)
	if err != nil || loaded.Room != create.Room {
		t.Errorf("loaded with room %q, %v", loaded.Room, err)
	}
	redacted, err := create.Redact()
	if err != nil || redacted.Room != create.Room || string(redacted.Content) != `{"room_version":"12"}` {
		t.Errorf("redacted %+v, %v", redacted, err)
	}
	if form := create.AppendClient(nil, ClientFormat{}); string(get(form, "room_id")) != `"`+string(create.Room)+`"` {
		t.Errorf("18-013 client form %s", form)
	}
	stripped := create.StrippedState()
	if get(stripped, "origin_server_ts") == nil || get(stripped, "room_id") == nil {
		t.Errorf("18-037 stripped state %s", stripped)
	}
	later := b
	later.OriginServerTS++
	if mustBuild(t, rulesV12, later).Room == create.Room {
		t.Error("18-039 another timestamp makes another room")
	}
}

func TestOldEventFormat(t *testing.T) {
	// Room versions 1 and 2: the ID is chosen, references are pairs.
	unsigned := `{"auth_events":[["$a:domain",{"sha256":"x"}]],"content":{"body":"x"},"depth":9223372036854775807,"event_id":"$e:other","hashes":{},` +
		`"origin_server_ts":1,"prev_events":[["$p:domain",{"sha256":"x"}],["$q:domain",{}]],"room_id":"!r:domain","sender":"@a:domain","type":"m.room.message"}`
	raw, err := rulesV1.hashAndSign([]byte(unsigned), TypeMessage, "domain", testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEvent(rulesV1, raw)
	if err != nil || e.ID != "$e:other" || len(e.Prev) != 2 || e.Prev[1] != "$q:domain" || e.Auth[0] != "$a:domain" || e.Redacted || e.Depth != 1<<63-1 {
		t.Fatalf("18-006 got %+v, %v", e, err)
	}
	if got := e.RequiredSigners(); !slices.Equal(got, []ServerName{"domain", "other"}) {
		t.Errorf("13-044 signers %v", got)
	}
}

func TestBuildOldEvents(t *testing.T) {
	for _, rules := range []*Rules{rulesV1, rulesV2} {
		b := testMessage(rules)
		e := mustBuild(t, rules, b)
		sum, _ := testReferenceHash("$prev")
		want := `[["$prev",{"sha256":"` + base64.RawStdEncoding.EncodeToString(sum[:]) + `"}]]`
		if got := get(e.JSON, "prev_events"); string(got) != want {
			t.Errorf("18-006 prev_events %s, want %s", got, want)
		}
		if server, _ := e.ID.Server(); server != "domain" || string(get(e.JSON, "event_id")) != `"`+string(e.ID)+`"` {
			t.Errorf("18-006 ID %s in %s", e.ID, e.JSON)
		}
		if again := mustBuild(t, rules, b); again.ID != e.ID {
			t.Errorf("the same event is %s and then %s", e.ID, again.ID)
		}
		b.Depth++
		if other := mustBuild(t, rules, b); other.ID == e.ID {
			t.Error("two events have one ID")
		}
		if got := e.RequiredSigners(); !slices.Equal(got, []ServerName{"domain"}) {
			t.Errorf("13-044 signers %v", got)
		}
		if err := e.VerifySignature("domain", "ed25519:1", testKey(t).Public()); err != nil {
			t.Error(err)
		}
		unknown := errors.New("no such event")
		b.ReferenceHash = func(EventID) ([32]byte, error) { return [32]byte{}, unknown }
		if _, err := b.Build(rules, "domain", testKey(t)); !errors.Is(err, unknown) {
			t.Errorf("without a hash: %v", err)
		}
		b.ReferenceHash = nil
		if _, err := b.Build(rules, "domain", testKey(t)); err == nil {
			t.Error("an event was built without the hashes that it needs")
		}
		b.Prev, b.Auth = nil, nil
		if e := mustBuild(t, rules, b); string(get(e.JSON, "prev_events")) != "[]" {
			t.Errorf("first event %s", e.JSON)
		}
	}
}

// 14-003 in old rooms: what another server proposes is completed with its hashes.
func TestOldTemplate(t *testing.T) {
	b := testMessage(rulesV2)
	proto, err := b.Template(rulesV2)
	if err != nil || get(proto, "event_id") != nil {
		t.Fatalf("template %s, %v", proto, err)
	}
	got, err := ParseTemplate(rulesV2, proto)
	if err != nil {
		t.Fatal(err)
	}
	if e, want := mustBuild(t, rulesV2, got), mustBuild(t, rulesV2, b); e.ID != want.ID || !bytes.Equal(e.JSON, want.JSON) {
		t.Errorf("built %s, want %s", e.JSON, want.JSON)
	}
	broken := bytes.Replace(proto, []byte(`{"sha256":`), []byte(`{"sha1":`), 1)
	if got, err = ParseTemplate(rulesV2, broken); err == nil {
		_, err = got.Build(rulesV2, "domain", testKey(t))
	}
	if CodeOf(err) != CodeBadJSON {
		t.Errorf("template without hashes: %v", err)
	}
}

func TestEventIDAlphabet(t *testing.T) {
	sum := [32]byte{0xfb, 0xef, 0xff, 0xff}
	if id := rulesV3.hashID(sum); !strings.HasPrefix(string(id), "$++///") || len(id) != 44 {
		t.Errorf("18-007 v3 %s", id)
	}
	if id := rulesV4.hashID(sum); !strings.HasPrefix(string(id), "$--___") || len(id) != 44 {
		t.Errorf("18-007 v4 %s", id)
	}
}

func TestRequiredSigners(t *testing.T) {
	cases := []struct {
		name, version, eventType, content, want string
	}{
		{"13-044 v3+ the sender's server", "3", TypeMessage, `{}`, "[domain]"},
		{"18-017 v8+ the server that authorised a restricted join", "8", TypeMember, `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, "[domain other]"},
		{"the same server only once", "8", TypeMember, `{"membership":"join","join_authorised_via_users_server":"@b:domain"}`, "[domain]"},
		{"18-017 v7 knows no restricted joins", "7", TypeMember, `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, "[domain]"},
		{"a user ID that is none is for the auth rules", "10", TypeMember, `{"membership":"join","join_authorised_via_users_server":"b"}`, "[domain]"},
		{"13-045 invitation by third-party identifier", "11", TypeMember, `{"membership":"invite","third_party_invite":{}}`, "[]"},
		{"third_party_invite in a join", "11", TypeMember, `{"membership":"join","third_party_invite":{}}`, "[domain]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rules := mustRules(t, RoomVersion(c.version))
			b := testMessage(rules)
			b.Type, b.State, b.Content = c.eventType, ptr("@a:domain"), []byte(c.content)
			if got := fmt.Sprint(mustBuild(t, rules, b).RequiredSigners()); got != c.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestSignEvent(t *testing.T) {
	key := testKey(t)
	e := mustBuild(t, rulesV12, testMessage(rulesV12))
	second, err := e.Sign("other", key)
	if err != nil {
		t.Fatal(err)
	}
	policy := key
	policy.ID = "ed25519:policy_server"
	third, err := second.Sign("domain", policy)
	if err != nil || third.ID != e.ID || !bytes.Equal(third.Content, e.Content) {
		t.Fatalf("%+v, %v", third, err)
	}
	// A policy server that shares the sender's name keeps the sender's signature.
	if got := third.SignatureKeyIDs("domain"); !slices.Equal(got, []KeyID{"ed25519:1", "ed25519:policy_server"}) {
		t.Errorf("15-059 keys %v", got)
	}
	if err := third.VerifySignature("other", "ed25519:1", key.Public()); err != nil {
		t.Error(err)
	}
	parsed, err := ParseEvent(rulesV12, third.JSON)
	if err != nil || !reflect.DeepEqual(parsed, third) {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	if e.SignatureKeyIDs("other") != nil || e.VerifySignature("other", "ed25519:1", key.Public()) == nil {
		t.Error("the first event was changed")
	}
	changed := *e
	changed.JSON = bytes.Replace(e.JSON, []byte("@alice"), []byte("@alicf"), 1)
	if changed.VerifySignature("domain", "ed25519:1", key.Public()) == nil {
		t.Error("13-043 a changed event verifies")
	}
}

func TestCheckReferences(t *testing.T) {
	b := testMessage(rulesV12)
	b.Prev, b.Auth = slices.Repeat([]EventID{"$p"}, 20), slices.Repeat([]EventID{"$a"}, 10)
	if err := mustBuild(t, rulesV12, b).CheckReferences(); err != nil {
		t.Error(err)
	}
	longer := b
	longer.Prev = append(longer.Prev, "$p")
	e := mustBuild(t, rulesV12, longer)
	if e.CheckReferences() == nil {
		t.Error("15-012 21 prev_events accepted")
	}
	if _, err := ParseEvent(rulesV12, e.JSON); err != nil {
		t.Errorf("15-012 history may have more: %v", err)
	}
	b.Auth = append(b.Auth, "$a")
	if mustBuild(t, rulesV12, b).CheckReferences() == nil {
		t.Error("15-012 11 auth_events accepted")
	}
}

func TestRedactsByVersion(t *testing.T) {
	for _, v := range SupportedVersions() {
		t.Run("18-005 18-011 v"+string(v), func(t *testing.T) {
			rules := mustRules(t, v)
			b := testMessage(rules)
			b.Type, b.Content, b.Redacts = TypeRedaction, []byte(`{"reason":"spam"}`), "$target"
			e := mustBuild(t, rules, b)
			top, inside := get(e.JSON, "redacts") != nil, get(e.Content, "redacts") != nil
			if e.Redacts != "$target" || top == rules.RedactsInContent || inside != rules.RedactsInContent {
				t.Fatalf("PDU %s", e.JSON)
			}
			want := `{"content":{"reason":"spam","redacts":"$target"},"event_id":"` + string(e.ID) + `","origin_server_ts":1700000000000,"redacts":"$target","sender":"@alice:domain","type":"m.room.redaction"}`
			if got := string(e.AppendClient(nil, ClientFormat{OmitRoomID: true})); got != want {
				t.Errorf("client form %s", got)
			}
			redacted, err := e.Redact()
			if err != nil || (redacted.Redacts == "$target") != rules.RedactionV11 {
				t.Errorf("18-026 redacted %+v, %v", redacted, err)
			}
		})
	}
	// A member called redacts in the content of an old redaction means nothing.
	b := testMessage(rulesV10)
	b.Type, b.Content, b.Redacts = TypeRedaction, []byte(`{"redacts":"$other"}`), "$target"
	e := mustBuild(t, rulesV10, b)
	if got := get(e.AppendClient(nil, ClientFormat{}), "content"); string(got) != `{"redacts":"$target"}` {
		t.Errorf("content %s", got)
	}
}

func TestAppendClient(t *testing.T) {
	b := testMessage(rulesV11)
	b.Type, b.State, b.Unsigned = "m.\"quoted\"", ptr("k\n"), []byte(`{"age":999999,"transaction_id":"theirs"}`)
	e := mustBuild(t, rulesV11, b)
	if string(e.Unsigned) != `{"age":999999,"transaction_id":"theirs"}` {
		t.Errorf("unsigned %s", e.Unsigned)
	}
	plain := `{"content":{"body":"hello","msgtype":"m.text"},"event_id":"` + string(e.ID) +
		`","origin_server_ts":1700000000000,"room_id":"!room:domain","sender":"@alice:domain","state_key":"k\n","type":"m.\"quoted\""}`
	if got := string(e.AppendClient([]byte("x"), ClientFormat{})); got != "x"+plain {
		t.Errorf("13-049 got %s", got)
	}
	r := testMessage(rulesV11)
	r.Type, r.Content, r.Redacts = TypeRedaction, nil, e.ID
	because := mustBuild(t, rulesV11, r)
	full := ClientFormat{OmitRoomID: true, TxnID: "t", Age: -5, PrevContent: []byte(`{}`), ReplacesState: "$old",
		RedactedBecause: because, Membership: "join", Relations: []byte(`{"m.thread":{}}`)}
	want := strings.Replace(strings.TrimSuffix(plain, "}"), `"room_id":"!room:domain",`, "", 1) +
		`,"unsigned":{"age":-5,"m.relations":{"m.thread":{}},"membership":"join","prev_content":{},"redacted_because":` +
		string(because.AppendClient(nil, ClientFormat{OmitRoomID: true})) + `,"replaces_state":"$old","transaction_id":"t"}}`
	if got := string(e.AppendClient(nil, full)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { dst = e.AppendClient(dst[:0], full); dst = e.AppendFederation(dst[:0], 7) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := string(e.AppendFederation(nil, 7)); got != strings.TrimSuffix(string(e.JSON), "}")+`,"unsigned":{"age":7}}` {
		t.Errorf("13-049 federation form %s", got)
	}
	if got := string(e.StrippedState()); got != `{"content":{"body":"hello","msgtype":"m.text"},"sender":"@alice:domain","state_key":"k\n","type":"m.\"quoted\""}` {
		t.Errorf("stripped %s", got)
	}
}

func TestUnsignedIsLeftOut(t *testing.T) {
	e := mustBuild(t, rulesV12, testMessage(rulesV12))
	body := strings.TrimSuffix(string(e.JSON), "}")
	cases := map[string]string{
		"last member":              body + `,"unsigned":{"age":1}}`,
		"first member, long":       `{"unsigned":{"a":"` + strings.Repeat("x", 2000) + `"},` + strings.TrimPrefix(string(e.JSON), "{"),
		"null":                     body + `,"unsigned":null}`,
		"empty":                    body + `,"unsigned":{}}`,
		"escapes and odd ordering": strings.Replace(body, `{"auth`, `{ "\u0075nsigned" : {"b":1,"a":2} , "auth`, 1) + "}",
	}
	for name, raw := range cases {
		t.Run("18-008 "+name, func(t *testing.T) {
			got, err := ParseEvent(rulesV12, []byte(raw))
			if err != nil || got.ID != e.ID || !bytes.Equal(got.JSON, e.JSON) || got.Redacted {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
	// A member that sorts after unsigned and looks like it belongs to the event.
	raw := body + `,"unsigned":{},"z":{"a":1,"unsigned":{}}}`
	if got, err := ParseEvent(rulesV12, []byte(raw)); err != nil || !got.Redacted || got.ID != e.ID {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTemplate(t *testing.T) {
	b := testMessage(rulesV11)
	b.Type, b.State, b.Content = TypeMember, ptr("@alice:domain"), []byte(`{"membership":"join"}`)
	proposal, err := b.Template(rulesV11)
	if err != nil || get(proposal, "hashes") != nil || get(proposal, "signatures") != nil {
		t.Fatalf("%s, %v", proposal, err)
	}
	got, err := ParseTemplate(rulesV11, proposal)
	b.ReferenceHash = nil // functions do not compare
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Fatalf("got %+v, %v", got, err)
	}
	sparse, err := ParseTemplate(rulesV11, []byte(`{"type":"m.room.member","room_id":"!r:domain","sender":"@a:b","state_key":"@a:b","content":{"membership":"join"},"auth_events":["$a"],"prev_events":["$p"],"origin":"x"}`))
	if err != nil || sparse.Depth != 0 || sparse.OriginServerTS != 0 || sparse.Prev[0] != "$p" {
		t.Errorf("got %+v, %v", sparse, err)
	}
	for _, raw := range []string{``, `[]`, `{}`, `{"type":"m.room.member"}`} {
		if _, err := ParseTemplate(rulesV11, []byte(raw)); CodeOf(err) != CodeBadJSON {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	cases := map[string]func(*EventBuilder){
		"content that is a list":         func(b *EventBuilder) { b.Content = []byte(`[]`) },
		"content that is not JSON":       func(b *EventBuilder) { b.Content = []byte(`{`) },
		"18-009 content with a float":    func(b *EventBuilder) { b.Content = []byte(`{"a":1.5}`) },
		"20-016 lone surrogate":          func(b *EventBuilder) { b.Content = []byte(`{"a":"\ud800"}`) },
		"sender that is no user ID":      func(b *EventBuilder) { b.Sender = "alice" },
		"no room":                        func(b *EventBuilder) { b.Room = "" },
		"unsigned that is not an object": func(b *EventBuilder) { b.Unsigned = []byte(`5`) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			b := testMessage(rulesV12)
			change(&b)
			if _, err := b.Build(rulesV12, "domain", testKey(t)); CodeOf(err) != CodeBadJSON {
				t.Errorf("got %v", err)
			}
		})
	}
	b := testMessage(rulesV12)
	b.Depth, b.Content = 1<<60, []byte(`{"a":"\u0000"}`)
	if e := mustBuild(t, rulesV12, b); e.Depth != maxSafeInteger || string(e.Content) != `{"a":"\u0000"}` {
		t.Errorf("20-015 depth %d, content %s", e.Depth, e.Content)
	}
}

func TestLoadEventDamaged(t *testing.T) {
	e := mustBuild(t, rulesV12, testMessage(rulesV12))
	for n := range e.JSON {
		if got, err := LoadEvent(rulesV12, e.ID, e.JSON[:n]); err == nil {
			t.Fatalf("cut after %d bytes: %+v", n, got)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, v := range SupportedVersions() {
		rules, _ := RulesOf(v)
		b := testMessage(rules)
		f.Add(string(v), mustBuild(f, rules, b).JSON)
		b.Type, b.State, b.Content = TypeMember, ptr("@a:b"), []byte(`{"membership":"invite","third_party_invite":{"signed":{},"x":1}}`)
		f.Add(string(v), mustBuild(f, rules, b).AppendFederation(nil, 3))
	}
	f.Add("1", []byte(`{"auth_events":[["$a:b",{}]],"content":{},"depth":1,"event_id":"$a:b","hashes":{"sha256":""},"origin_server_ts":1,"prev_events":[],"room_id":"!a:b","sender":"@a:b","signatures":{},"type":"\n"}`))
	f.Fuzz(func(t *testing.T, version string, raw []byte) {
		rules, ok := RulesOf(RoomVersion(version))
		if !ok {
			return
		}
		e, err := ParseEvent(rules, raw)
		if err != nil {
			return
		}
		if again, err := ParseEvent(rules, e.JSON); err != nil || again.ID != e.ID || !bytes.Equal(again.JSON, e.JSON) {
			t.Fatalf("%q became %+v, %v", raw, again, err)
		}
		if loaded, err := LoadEvent(rules, e.ID, e.JSON); err != nil || loaded.Room != e.Room || loaded.Sender != e.Sender {
			t.Fatalf("%q loaded as %+v, %v", raw, loaded, err)
		}
		redacted, err := e.Redact()
		if err != nil || redacted.ReferenceHash() != e.ReferenceHash() {
			t.Fatalf("%q redacted as %+v, %v", raw, redacted, err)
		}
		if form := e.AppendClient(nil, ClientFormat{Age: 1}); !json.Valid(form) {
			t.Fatalf("%q has the client form %q", raw, form)
		}
		e.RequiredSigners()
		e.SignatureKeyIDs("b")
	})
}
