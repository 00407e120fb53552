package spec

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
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
	}
}

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

var _ = errors.As
var _ = fmt.Sprint
