package spec

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// richContent is content in which every member that some version keeps stands
// beside ones that none does, for redaction by type and version.
const richContent = `{"aliases":["#a:b"],"allow":[{"type":"m.room_membership"}],"ban":50,"body":"x","creator":"@c:d","displayname":"N",` +
	`"events":{"m.room.name":50},"events_default":0,"history_visibility":"shared","invite":50,"join_authorised_via_users_server":"@v:domain",` +
	`"join_rule":"restricted","kick":50,"m.federate":false,"membership":"join","notifications":{"room":50},"predecessor":{},"redact":50,` +
	`"redacts":"$target","room_version":"x","state_default":50,"third_party_invite":{"display_name":"n","signed":{"mxid":"@a:b","token":"t"}},` +
	`"users":{"@a:domain":100},"users_default":0}`

func TestRedactedContent(t *testing.T) {
	levels := `{"ban":50,"events":{"m.room.name":50},"events_default":0,"kick":50,"redact":50,"state_default":50,"users":{"@a:domain":100},"users_default":0}`
	levels11 := `{"ban":50,"events":{"m.room.name":50},"events_default":0,"invite":50,"kick":50,"redact":50,"state_default":50,"users":{"@a:domain":100},"users_default":0}`
	cases := []struct {
		name, eventType string
		from, until     int
		want            string
	}{
		{"18-023 messages keep nothing", TypeMessage, 3, 12, `{}`},
		{"18-023 m.room.name keeps nothing", "m.room.name", 3, 12, `{}`},
		{"18-023 members keep membership", TypeMember, 3, 8, `{"membership":"join"}`},
		{"18-025 members keep who authorised them", TypeMember, 9, 10, `{"join_authorised_via_users_server":"@v:domain","membership":"join"}`},
		{"18-026 members keep third_party_invite.signed", TypeMember, 11, 12,
			`{"join_authorised_via_users_server":"@v:domain","membership":"join","third_party_invite":{"signed":{"mxid":"@a:b","token":"t"}}}`},
		{"18-023 create keeps creator", TypeCreate, 3, 10, `{"creator":"@c:d"}`},
		{"18-026 create keeps all", TypeCreate, 11, 12, richContent},
		{"18-023 join rules keep join_rule", TypeJoinRules, 3, 7, `{"join_rule":"restricted"}`},
		{"18-025 join rules keep allow", TypeJoinRules, 8, 12, `{"allow":[{"type":"m.room_membership"}],"join_rule":"restricted"}`},
		{"18-023 power levels", TypePowerLevels, 3, 10, levels},
		{"18-026 power levels keep invite", TypePowerLevels, 11, 12, levels11},
		{"18-023 history visibility", TypeHistoryVisibility, 3, 12, `{"history_visibility":"shared"}`},
		{"18-024 aliases keep aliases", TypeAliases, 3, 5, `{"aliases":["#a:b"]}`},
		{"18-024 aliases keep nothing", TypeAliases, 6, 12, `{}`},
		{"18-026 redactions keep nothing", TypeRedaction, 3, 10, `{}`},
		{"18-026 redactions keep redacts", TypeRedaction, 11, 12, `{"redacts":"$target"}`},
	}
	for _, c := range cases {
		for n := c.from; n <= c.until; n++ {
			t.Run(fmt.Sprintf("%s v%d", c.name, n), func(t *testing.T) {
				rules := mustRules(t, RoomVersion(strconv.Itoa(n)))
				b := testMessage(rules)
				b.Type, b.State, b.Content = c.eventType, ptr("@a:domain"), []byte(richContent)
				e := mustBuild(t, rules, b)
				got, err := e.Redact()
				if err != nil || string(got.Content) != c.want || !got.Redacted || e.Redacted {
					t.Fatalf("got %s, %v", got.Content, err)
				}
				if got.ReferenceHash() != e.ReferenceHash() || got.ID != e.ID {
					t.Error("18-008 redaction changed the reference hash")
				}
				if err := got.VerifySignature("domain", "ed25519:1", testKey(t).Public()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestRedactedThirdPartyInvite(t *testing.T) {
	for in, want := range map[string]string{
		`{"third_party_invite":{"display_name":"n"}}`: `{"third_party_invite":{}}`,
		`{"third_party_invite":"x"}`:                  `{}`,
		`{"third_party_invite":{"signed":5}}`:         `{"third_party_invite":{"signed":5}}`,
	} {
		if got := rulesV11.appendRedactedContent(nil, TypeMember, []byte(in)); string(got) != want {
			t.Errorf("18-026 %s becomes %s", in, got)
		}
	}
}

// reference computes event IDs the plain way, from the tables of the
// specification and maps, sharing no code with the package.
func reference(t *testing.T, version int, raw []byte) string {
	t.Helper()
	var event map[string]json.RawMessage
	if err := json.Unmarshal(raw, &event); err != nil {
		t.Fatal(err)
	}
	keep := []string{"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "depth", "prev_events", "auth_events", "origin_server_ts"}
	if version < 11 {
		keep = append(keep, "origin", "membership", "prev_state")
	}
	kept := map[string]any{}
	for key, value := range event {
		if slices.Contains(keep, key) {
			kept[key] = decode(t, value)
		}
	}
	var eventType string
	if err := json.Unmarshal(event["type"], &eventType); err != nil {
		t.Fatal(err)
	}
	kept["content"] = referenceContent(version, eventType, kept["content"].(map[string]any))
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(kept); err != nil {
		t.Fatal(err)
	}
	// Package json sorts keys as bytes, and for the characters of the test its
	// escapes are the canonical ones.
	sum := sha256.Sum256(bytes.TrimRight(text.Bytes(), "\n"))
	if version == 3 {
		return "$" + base64.RawStdEncoding.EncodeToString(sum[:])
	}
	return "$" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func referenceContent(version int, eventType string, content map[string]any) map[string]any {
	kept := map[string]any{}
	take := func(from int, keys ...string) {
		for _, key := range keys {
			if value, ok := content[key]; ok && version >= from {
				kept[key] = value
			}
		}
	}
	switch eventType {
	case "m.room.member":
		take(1, "membership")
		take(9, "join_authorised_via_users_server")
		if invite, ok := content["third_party_invite"].(map[string]any); ok && version >= 11 {
			signed := map[string]any{}
			if value, ok := invite["signed"]; ok {
				signed["signed"] = value
			}
			kept["third_party_invite"] = signed
		}
	case "m.room.create":
		if version >= 11 {
			return content
		}
		take(1, "creator")
	case "m.room.join_rules":
		take(1, "join_rule")
		take(8, "allow")
	case "m.room.power_levels":
		take(1, "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default")
		take(11, "invite")
	case "m.room.aliases":
		if version < 6 {
			take(1, "aliases")
		}
	case "m.room.history_visibility":
		take(1, "history_visibility")
	case "m.room.redaction":
		take(11, "redacts")
	}
	return kept
}

func TestEventIDsAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, v := range SupportedVersions() {
		t.Run("18-007 18-008 v"+string(v), func(t *testing.T) {
			rules := mustRules(t, v)
			version, err := strconv.Atoi(string(v))
			if err != nil {
				t.Fatal(err)
			}
			hashID := func(e *Event) string { // v1, v2: what others refer to beside the ID
				if rules.EventIDs == EventIDChosen {
					return string(rules.hashID(e.ReferenceHash()))
				}
				return string(e.ID)
			}
			for range 200 {
				b := randomBuilder(t, r, rules)
				if r.IntN(3) == 0 {
					b.Content = []byte(richContent)
				}
				e := mustBuild(t, rules, b)
				if want := reference(t, version, e.JSON); hashID(e) != want {
					t.Fatalf("%s\nhas ID %s, want %s", e.JSON, e.ID, want)
				}
				// Members that the format does not know; old versions keep three of them.
				raw := append(bytes.TrimSuffix(bytes.Clone(e.JSON), []byte("}")), `,"origin":"o","membership":"m","prev_state":[],"zz":1}`...)
				parsed, err := ParseEvent(rules, raw)
				if err != nil {
					t.Fatal(err)
				}
				if want := reference(t, version, raw); !parsed.Redacted || hashID(parsed) != want {
					t.Fatalf("18-026 %s\nhas ID %s, want %s", raw, parsed.ID, want)
				}
			}
		})
	}
}

// Golden events: all bytes, so that no change of the code goes unseen.
func TestGoldenEvents(t *testing.T) {
	for _, g := range goldenEvents {
		t.Run("18-007 v"+g.version+" "+g.eventType, func(t *testing.T) {
			rules := mustRules(t, RoomVersion(g.version))
			b := testMessage(rules)
			b.Type, b.State, b.Content = g.eventType, ptr(""), []byte(richContent)
			if g.eventType == TypeCreate {
				b.Prev, b.Auth = nil, nil
				if rules.RoomIDIsCreateHash {
					b.Room = ""
				}
			}
			e := mustBuild(t, rules, b)
			redacted, err := e.Redact()
			if err != nil {
				t.Fatal(err)
			}
			if string(e.ID) != g.id || string(redacted.JSON) != g.redacted {
				t.Errorf("{%q, %q, %q, `%s`},", g.version, g.eventType, e.ID, redacted.JSON)
			}
		})
	}
}

var goldenEvents = []struct{ version, eventType, id, redacted string }{
	{"10", TypeMember, "$Npv6AUQYuTbh1N7QvaMjBb-lwXJJBGyhVSS3lxfaMys", `{"auth_events":["$a","$b"],"content":{"join_authorised_via_users_server":"@v:domain","membership":"join"},"depth":7,"hashes":{"sha256":"YCXLfH20lsrfr7roO2yIWTF/F4dssg4QcB6MO8jl6Jw"},"origin_server_ts":1700000000000,"prev_events":["$prev"],"room_id":"!room:domain","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"juYtALydbZ4T8wzJve1Z/G6z5yAZtFTehuVMlPvHmSuAkh1u+Zt0EuConS9G7Mn4ZZYOTyugXl8esks0moOtCQ"}},"state_key":"","type":"m.room.member"}`},
	{"10", TypeCreate, "$aM-rG3WCFyXDxLI7j5jihaOGitoGmuXa_MgTF84MejI", `{"auth_events":[],"content":{"creator":"@c:d"},"depth":7,"hashes":{"sha256":"OWajlqcfAxs7mQxmLK9Y+FUkvKVPqlVMn4tM9BBCr1c"},"origin_server_ts":1700000000000,"prev_events":[],"room_id":"!room:domain","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"3Fg1Q44KVtIuOXq4n/gRCJLbYNaKJD7lBG0+2oD1dpl7/LBcMa8Rvt0g7XXsrf+v0SuOTUt9wKASfQQYw9ZNAQ"}},"state_key":"","type":"m.room.create"}`},
	{"10", TypePowerLevels, "$vuuAHk5Ed7hzABltrpdx0ondTS-eLXONTHug7aQi9yI", `{"auth_events":["$a","$b"],"content":{"ban":50,"events":{"m.room.name":50},"events_default":0,"kick":50,"redact":50,"state_default":50,"users":{"@a:domain":100},"users_default":0},"depth":7,"hashes":{"sha256":"xC2qB1JazoiWFrrdbfOdKqt8dyCWVRQSZQ+X8oxcSpE"},"origin_server_ts":1700000000000,"prev_events":["$prev"],"room_id":"!room:domain","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"CarFP9Ii4BF2gSlL0cKexlEPa4QjSRdG6UyqowYynHTX2NokJaL0vGKuMncQvadbXolcia95y5f5ySJ10SftDg"}},"state_key":"","type":"m.room.power_levels"}`},
	{"11", TypeMember, "$UGdxpYtBjD6fMGeAUaV21zK_3TZ_PjYbV3fElSfV_NY", `{"auth_events":["$a","$b"],"content":{"join_authorised_via_users_server":"@v:domain","membership":"join","third_party_invite":{"signed":{"mxid":"@a:b","token":"t"}}},"depth":7,"hashes":{"sha256":"YCXLfH20lsrfr7roO2yIWTF/F4dssg4QcB6MO8jl6Jw"},"origin_server_ts":1700000000000,"prev_events":["$prev"],"room_id":"!room:domain","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"r2AguyKHB/LSukBHapchl9pWKP/fWHBA5WuLBolVfdI2cjnY70rmkdrOKJaQ/TEAXypV1pIXP2XtIEXWBDvtBA"}},"state_key":"","type":"m.room.member"}`},
	{"11", TypeCreate, "$SStNDw8IjGL67j6S37OxawD1gthFAxZx5naFDvHdero", `{"auth_events":[],"content":{"aliases":["#a:b"],"allow":[{"type":"m.room_membership"}],"ban":50,"body":"x","creator":"@c:d","displayname":"N","events":{"m.room.name":50},"events_default":0,"history_visibility":"shared","invite":50,"join_authorised_via_users_server":"@v:domain","join_rule":"restricted","kick":50,"m.federate":false,"membership":"join","notifications":{"room":50},"predecessor":{},"redact":50,"redacts":"$target","room_version":"x","state_default":50,"third_party_invite":{"display_name":"n","signed":{"mxid":"@a:b","token":"t"}},"users":{"@a:domain":100},"users_default":0},"depth":7,"hashes":{"sha256":"OWajlqcfAxs7mQxmLK9Y+FUkvKVPqlVMn4tM9BBCr1c"},"origin_server_ts":1700000000000,"prev_events":[],"room_id":"!room:domain","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"6Gk4mxuBGvkvlR+0gx/dtSbhcPINojlsIGAp3V5I6RP30B5LsksPDJMvdTtgk4w/hTa/H79p4j+XIaA4H52GAw"}},"state_key":"","type":"m.room.create"}`},
	{"11", TypePowerLevels, "$zpjT3NzwaDZR8T0Jhsh4IHouxLC4J-y1sUeJandCHZo", `{"auth_events":["$a","$b"],"content":{"ban":50,"events":{"m.room.name":50},"events_default":0,"invite":50,"kick":50,"redact":50,"state_default":50,"users":{"@a:domain":100},"users_default":0},"depth":7,"hashes":{"sha256":"xC2qB1JazoiWFrrdbfOdKqt8dyCWVRQSZQ+X8oxcSpE"},"origin_server_ts":1700000000000,"prev_events":["$prev"],"room_id":"!room:domain","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"qvm8lymWcOS5PpsYi/V3HUpvQHZIS4ue0r7cfTXkFX6btAVTSTOBk5GFiKCYK9NoDmgIEuPRWjfIDib2IB8UCw"}},"state_key":"","type":"m.room.power_levels"}`},
	{"12", TypeMember, "$2UJDCXh_wc40r9FQ5Or6sJkNts4PEsp9XW0ja68DmS8", `{"auth_events":["$a","$b"],"content":{"join_authorised_via_users_server":"@v:domain","membership":"join","third_party_invite":{"signed":{"mxid":"@a:b","token":"t"}}},"depth":7,"hashes":{"sha256":"qa/dasJTijL3yYnxyItoLgSanEGY7uIS9IZTWPQGBHU"},"origin_server_ts":1700000000000,"prev_events":["$prev"],"room_id":"!rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"wBacbLug2JfPNeiLeGwXfPnP69AGQ56Um1tjROQ2ktfy9iQA7ClpojfglM1+yoUXlApC5vYMbdRXd65N4jekDg"}},"state_key":"","type":"m.room.member"}`},
	{"12", TypeCreate, "$ApDj5hO26Q4704mIwEPThTWUa6UjpCwMy3-o4FCzdl0", `{"auth_events":[],"content":{"aliases":["#a:b"],"allow":[{"type":"m.room_membership"}],"ban":50,"body":"x","creator":"@c:d","displayname":"N","events":{"m.room.name":50},"events_default":0,"history_visibility":"shared","invite":50,"join_authorised_via_users_server":"@v:domain","join_rule":"restricted","kick":50,"m.federate":false,"membership":"join","notifications":{"room":50},"predecessor":{},"redact":50,"redacts":"$target","room_version":"x","state_default":50,"third_party_invite":{"display_name":"n","signed":{"mxid":"@a:b","token":"t"}},"users":{"@a:domain":100},"users_default":0},"depth":7,"hashes":{"sha256":"Mr8pyqBIOddkgyWEVNFD2KjMxFMv62a+I/+bOfBh4Yk"},"origin_server_ts":1700000000000,"prev_events":[],"sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"ole1crU4tNdNeE4KhUzxGsZ8D1WSl7ZWVL4wxF64qx0BlhNkI5d6DVT9KYlXSeP7cqJUDcF6d+Ze6CivMQ9JAg"}},"state_key":"","type":"m.room.create"}`},
	{"12", TypeMessage, "$IJS6SOhdjFhkLGH6JmLJzv87dO6tFF6TuYGeNd_Jr7k", `{"auth_events":["$a","$b"],"content":{},"depth":7,"hashes":{"sha256":"VDApFC8A7Pl6xuQ0Db+Bf36mgpMEaZiQApD+2+W0p8c"},"origin_server_ts":1700000000000,"prev_events":["$prev"],"room_id":"!rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr","sender":"@alice:domain","signatures":{"domain":{"ed25519:1":"AQC4McUg+NcPaIOJXfCiNUeoPK64v75w2GXubiXBL8+VZb+AD3K399jygXLuni2mP14hCT2Lnennu3iw/F4LDQ"}},"state_key":"","type":"m.room.message"}`},
}
