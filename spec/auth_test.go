package spec

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// authRoom is a room to check events against. Alice created it, Bob (level 50)
// and Carol (0) are in it, Dave is invited, Erin banned, Frank left, Gina knocks.
type authRoom struct {
	rules  *Rules
	room   RoomID
	events map[StateKey]*Event
}

const (
	alice = UserID("@alice:a")
	bob   = UserID("@bob:b")
	carol = UserID("@carol:c")
	dave  = UserID("@dave:d")
	erin  = UserID("@erin:e")
	frank = UserID("@frank:f")
	gina  = UserID("@gina:g")
	henry = UserID("@henry:h") // nobody knows
)

func newAuthRoom(t testing.TB, v RoomVersion) *authRoom {
	t.Helper()
	rules, ok := RulesOf(v)
	if !ok {
		t.Fatalf("no rules of version %s", v)
	}
	r := &authRoom{rules: rules, room: "!room:a", events: map[StateKey]*Event{}}
	create, levels := `{}`, `{"users":{"@alice:a":100,"@bob:b":50}}`
	if rules.CreatorInContent {
		create = `{"creator":"@alice:a"}`
	}
	if rules.RoomIDIsCreateHash {
		r.room = "!create"
	}
	if rules.CreatorPower {
		levels = `{"users":{"@bob:b":50}}`
	}
	r.set(alice, TypeCreate, "", create)
	r.set(alice, TypeMember, string(alice), `{"membership":"join"}`)
	r.set(alice, TypePowerLevels, "", levels)
	r.set(alice, TypeJoinRules, "", `{"join_rule":"invite"}`)
	r.member(bob, "join")
	r.member(carol, "join")
	r.member(dave, "invite")
	r.member(erin, "ban")
	r.member(frank, "leave")
	r.member(gina, "knock")
	return r
}

// event makes an event of the room; key nil: no state event.
func (r *authRoom) event(sender UserID, eventType string, key *string, content string) *Event {
	ev := &Event{
		Rules: r.rules, ID: "$event", Room: r.room, Sender: sender, Type: eventType,
		Content: canonicalContent(content), Prev: []EventID{"$before"},
	}
	if eventType == TypeCreate {
		ev.ID, ev.Prev = "$create", nil
	}
	if key != nil {
		ev.stateKey = *key
		ev.State = &ev.stateKey
	}
	return ev
}

func canonicalContent(content string) []byte {
	canon, err := CanonicalLegacy([]byte(content))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", content, err))
	}
	return canon
}

func (r *authRoom) state(sender UserID, eventType, key, content string) *Event {
	return r.event(sender, eventType, &key, content)
}

func (r *authRoom) set(sender UserID, eventType, key, content string) *Event {
	ev := r.state(sender, eventType, key, content)
	r.events[ev.Key()] = ev
	return ev
}

func (r *authRoom) member(user UserID, membership string) {
	r.set(user, TypeMember, string(user), `{"membership":"`+membership+`"}`)
}

func (r *authRoom) read(k StateKey) (*Event, error) { return r.events[k], nil }

// authCase is a claim about one event. want is empty where it is allowed, else
// the number of the rule in each version of versions.
type authCase struct {
	name     string
	versions string // separated by spaces; "" is "10 11 12"
	room     func(*authRoom)
	event    func(*authRoom) *Event
	want     string // one number for all, or one per version
}

func runAuthCases(t *testing.T, cases []authCase) {
	for _, c := range cases {
		versions := strings.Fields(c.versions)
		if versions == nil {
			versions = []string{"10", "11", "12"}
		}
		wants := strings.Fields(c.want)
		for i, v := range versions {
			t.Run(fmt.Sprintf("v%s %s", v, c.name), func(t *testing.T) {
				r := newAuthRoom(t, RoomVersion(v))
				if c.room != nil {
					c.room(r)
				}
				want := ""
				if len(wants) > 0 {
					want = wants[min(i, len(wants)-1)]
				}
				ev := c.event(r)
				wantRule(t, Authorize(ev, r.read), want)
				levels, err := ParsePowerLevels(r.rules, r.events[keyCreate], r.events[keyPowerLevels])
				if err == nil {
					wantRule(t, AuthorizeWith(ev, levels, r.read), want)
				}
			})
		}
	}
}

func wantRule(t *testing.T, err error, want string) {
	t.Helper()
	var refused *AuthError
	switch {
	case err == nil && want != "":
		t.Errorf("allowed, want refusal by rule %s", want)
	case err != nil && !errors.As(err, &refused):
		t.Errorf("error %v is no refusal", err)
	case err != nil && refused.Rule != want:
		t.Errorf("%v, want rule %q", err, want)
	}
}

// stateEvent and messageEvent are the events of most cases.
func stateEvent(sender UserID, eventType, key, content string) func(*authRoom) *Event {
	return func(r *authRoom) *Event { return r.state(sender, eventType, key, content) }
}

func messageEvent(sender UserID, eventType string) func(*authRoom) *Event {
	return func(r *authRoom) *Event { return r.event(sender, eventType, nil, `{}`) }
}

func membershipEvent(sender, target UserID, membership string) func(*authRoom) *Event {
	return stateEvent(sender, TypeMember, string(target), `{"membership":"`+membership+`"}`)
}

func joinRule(rule string) func(*authRoom) {
	return func(r *authRoom) { r.set(alice, TypeJoinRules, "", `{"join_rule":"`+rule+`"}`) }
}

func levelsOf(content string) func(*authRoom) {
	return func(r *authRoom) { r.set(alice, TypePowerLevels, "", content) }
}

func TestAuthorizeCreate(t *testing.T) {
	create := func(content string, change func(*Event)) func(*authRoom) *Event {
		return func(r *authRoom) *Event {
			if r.rules.CreatorInContent && content == `{}` {
				content = `{"creator":"@alice:a"}`
			}
			ev := r.state(alice, TypeCreate, "", content)
			if change != nil {
				change(ev)
			}
			return ev
		}
	}
	runAuthCases(t, []authCase{
		{name: "1 a plain create event is allowed", versions: "1 5 10 11 12", event: create(`{}`, nil)},
		{name: "1.1 no previous events", event: create(`{}`, func(ev *Event) { ev.Prev = []EventID{"$x"} }), want: "1.1"},
		{name: "1.2 the room ID is of the sender's server", versions: "1 10 11",
			event: create(`{}`, func(ev *Event) { ev.Room = "!room:b" }), want: "1.2"},
		{name: "1.2 no room_id", versions: "12",
			event: create(`{}`, func(ev *Event) { ev.JSON = []byte(`{"room_id":"!room:a"}`) }), want: "1.2"},
		{name: "1.3 known room versions only", event: create(`{"creator":"@alice:a","room_version":"0"}`, nil), want: "1.3"},
		{name: "18-003 1.3 01 is not 1", event: create(`{"creator":"@alice:a","room_version":"01"}`, nil), want: "1.3"},
		{name: "18-003 1.3 a number is no version", event: create(`{"creator":"@alice:a","room_version":1}`, nil), want: "1.3"},
		{name: "18-020 1.4 a creator", versions: "1 10", event: create(`{"a":1}`, nil), want: "1.4"},
		{name: "18-010 1.4 a creator is not needed", versions: "11 12", event: create(`{"a":1}`, nil)},
		{name: "18-031 additional creators of unknown servers are fine", versions: "12",
			event: create(`{"additional_creators":["@henry:h","@Émile x:never.example:1"]}`, nil)},
		{name: "18-031 1.4 additional creators as an object", versions: "12", event: create(`{"additional_creators":{}}`, nil), want: "1.4"},
		{name: "18-031 1.4 additional creators as null", versions: "12", event: create(`{"additional_creators":null}`, nil), want: "1.4"},
		{name: "18-031 1.4 an additional creator that is no string", versions: "12", event: create(`{"additional_creators":[1]}`, nil), want: "1.4"},
		{name: "18-031 1.4 an additional creator without domain", versions: "12", event: create(`{"additional_creators":["@x"]}`, nil), want: "1.4"},
		{name: "18-031 1.4 an additional creator that is too long", versions: "12",
			event: create(`{"additional_creators":["@`+strings.Repeat("x", 254)+`:h"]}`, nil), want: "1.4"},
		{name: "additional creators mean nothing", versions: "11", event: create(`{"additional_creators":[1]}`, nil)},
	})
}

func TestAuthorizeRoomAndServer(t *testing.T) {
	noFederation := func(r *authRoom) {
		r.events[keyCreate].Content = canonicalContent(`{"creator":"@alice:a","m.federate":false}`)
	}
	runAuthCases(t, []authCase{
		{name: "2.4 a state without create event", versions: "1 10 11 12",
			room:  func(r *authRoom) { delete(r.events, keyCreate) },
			event: messageEvent(alice, TypeMessage), want: "2.4 2.4 2.4 2"},
		{name: "18-029 2 the room ID is that of the create event", versions: "12",
			room:  func(r *authRoom) { r.room = "!other" },
			event: messageEvent(alice, TypeMessage), want: "2"},
		{name: "m.federate false keeps others out", versions: "1 10 12", room: noFederation, event: messageEvent(bob, TypeMessage), want: "3 3 4"},
		{name: "m.federate false lets the own server send", room: noFederation, event: messageEvent(alice, TypeMessage)},
		{name: "m.federate is false only if it is false", event: messageEvent(bob, TypeMessage), room: func(r *authRoom) {
			r.events[keyCreate].Content = canonicalContent(`{"creator":"@alice:a","m.federate":"false"}`)
		}},
	})
}

func TestAuthorizeAliases(t *testing.T) {
	runAuthCases(t, []authCase{
		{name: "18-015 4.1 aliases need a state key", versions: "1 5", event: messageEvent(carol, TypeAliases), want: "4.1"},
		{name: "18-015 4.2 aliases of another server", versions: "1 5", event: stateEvent(carol, TypeAliases, "a", `{}`), want: "4.2"},
		{name: "18-015 4.3 own aliases need no level, not even membership", versions: "1 5", event: stateEvent(henry, TypeAliases, "h", `{}`)},
		{name: "18-015 aliases are an ordinary state event", versions: "6 10 12", event: stateEvent(carol, TypeAliases, "c", `{}`), want: "7 7 8"},
	})
}

func TestAuthorizeJoin(t *testing.T) {
	first := func(target UserID) func(*authRoom) *Event {
		return func(r *authRoom) *Event {
			ev := r.state(target, TypeMember, string(target), `{"membership":"join"}`)
			ev.Prev = []EventID{"$create"}
			return ev
		}
	}
	fresh := func(r *authRoom) {
		for k := range r.events {
			if k != keyCreate {
				delete(r.events, k)
			}
		}
	}
	authorised := func(by string) func(*authRoom) *Event {
		return stateEvent(henry, TypeMember, string(henry), `{"membership":"join","join_authorised_via_users_server":`+by+`}`)
	}
	runAuthCases(t, []authCase{
		{name: "5.1 a membership without state key", versions: "1 6 10 11 12",
			event: func(r *authRoom) *Event { return r.event(alice, TypeMember, nil, `{"membership":"join"}`) },
			want:  "5.1 4.1 4.1 4.1 5.1"},
		{name: "5.1 no membership", event: stateEvent(alice, TypeMember, string(alice), `{}`), want: "4.1 4.1 5.1"},
		{name: "5.1 a membership that is no string", event: stateEvent(alice, TypeMember, string(alice), `{"membership":1}`), want: "4.1 4.1 5.1"},
		{name: "18-021 the creator joins after the create event", versions: "1 10 11 12", room: fresh, event: first(alice)},
		{name: "18-021 nobody else joins after the create event", versions: "1 7 8 10 11 12", room: fresh, event: first(bob),
			want: "5.2.6 4.2.6 4.3.7 4.3.7 4.3.7 5.3.7"},
		{name: "18-021 the creator joins later only as others do", room: fresh, event: membershipEvent(alice, alice, "join"), want: "4.3.7 4.3.7 5.3.7"},
		{name: "the creator is the one in content", versions: "10", event: first(bob),
			room: func(r *authRoom) {
				fresh(r)
				r.events[keyCreate].Content = canonicalContent(`{"creator":"@bob:b"}`)
			}},
		{name: "the creator is the sender", versions: "11 12", event: first(bob), want: "4.3.7 5.3.7",
			room: func(r *authRoom) {
				fresh(r)
				r.events[keyCreate].Content = canonicalContent(`{"creator":"@bob:b"}`)
			}},
		{name: "an additional creator does not join like the sender", versions: "12", event: first(bob), want: "5.3.7",
			room: func(r *authRoom) {
				fresh(r)
				r.events[keyCreate].Content = canonicalContent(`{"additional_creators":["@bob:b"]}`)
			}},
		{name: "nobody joins for another", versions: "1 7 8 10 11 12", room: joinRule("public"), event: membershipEvent(alice, henry, "join"),
			want: "5.2.2 4.2.2 4.3.2 4.3.2 4.3.2 5.3.2"},
		{name: "the banned do not join", room: joinRule("public"), event: membershipEvent(erin, erin, "join"), want: "4.3.3 4.3.3 5.3.3"},
		{name: "everybody joins a public room", room: joinRule("public"), event: membershipEvent(henry, henry, "join")},
		{name: "the invited join", event: membershipEvent(dave, dave, "join")},
		{name: "members join again, to change their profile", event: membershipEvent(carol, carol, "join")},
		{name: "those who left do not join by themselves", event: membershipEvent(frank, frank, "join"), want: "4.3.7 4.3.7 5.3.7"},
		{name: "no join rule is invite", room: func(r *authRoom) { delete(r.events, keyJoinRules) }, event: membershipEvent(dave, dave, "join")},
		{name: "no join rule is not public", room: func(r *authRoom) { delete(r.events, keyJoinRules) },
			event: membershipEvent(henry, henry, "join"), want: "4.3.7 4.3.7 5.3.7"},
		{name: "join rules without join_rule are invite", room: func(r *authRoom) { r.set(alice, TypeJoinRules, "", `{}`) }, event: membershipEvent(dave, dave, "join")},
		{name: "an unknown join rule lets nobody in", room: joinRule("private"), event: membershipEvent(dave, dave, "join"), want: "4.3.7 4.3.7 5.3.7"},
		{name: "knock: the invited join", versions: "7 10 12", room: joinRule("knock"), event: membershipEvent(dave, dave, "join")},
		{name: "18-016 knock is no join rule", versions: "6", room: joinRule("knock"), event: membershipEvent(dave, dave, "join"), want: "4.2.6"},
		{name: "knock: who knocks does not join", room: joinRule("knock"), event: membershipEvent(gina, gina, "join"), want: "4.3.7 4.3.7 5.3.7"},
		{name: "restricted: the invited join", versions: "8 10 12", room: joinRule("restricted"), event: membershipEvent(dave, dave, "join")},
		{name: "restricted is no join rule", versions: "7", room: joinRule("restricted"), event: membershipEvent(dave, dave, "join"), want: "4.2.6"},
		{name: "restricted: others need somebody", versions: "8 10 11 12", room: joinRule("restricted"),
			event: membershipEvent(henry, henry, "join"), want: "4.3.5.2 4.3.5.2 4.3.5.2 5.3.5.2"},
		{name: "18-017 restricted: a member who may invite lets others in", versions: "8 10 11 12", room: joinRule("restricted"), event: authorised(`"@carol:c"`)},
		{name: "18-017 restricted: the member must have the invite level", room: func(r *authRoom) {
			joinRule("restricted")(r)
			levelsOf(`{"invite":10}`)(r)
		}, event: authorised(`"@carol:c"`), want: "4.3.5.2 4.3.5.2 5.3.5.2"},
		{name: "18-017 restricted: one who left lets nobody in", room: joinRule("restricted"), event: authorised(`"@frank:f"`), want: "4.3.5.2 4.3.5.2 5.3.5.2"},
		{name: "18-017 5.2.1 no server can have signed for no user", event: authorised(`"carol"`), want: "4.2.1 4.2.1 5.2.1"},
		{name: "18-018 knock_restricted: the invited join", room: joinRule("knock_restricted"), event: membershipEvent(dave, dave, "join")},
		{name: "18-018 knock_restricted: a member lets others in", room: joinRule("knock_restricted"), event: authorised(`"@alice:a"`)},
		{name: "18-018 knock_restricted is no join rule", versions: "9", room: joinRule("knock_restricted"), event: membershipEvent(dave, dave, "join"), want: "4.3.7"},
	})
}

func TestAuthorizeInvite(t *testing.T) {
	runAuthCases(t, []authCase{
		{name: "a member invites", versions: "1 10 11 12", event: membershipEvent(carol, henry, "invite")},
		{name: "only members invite", versions: "1 7 10 12", event: membershipEvent(frank, henry, "invite"), want: "5.3.2 4.3.2 4.4.2 5.4.2"},
		{name: "members are not invited", event: membershipEvent(alice, carol, "invite"), want: "4.4.3 4.4.3 5.4.3"},
		{name: "the banned are not invited", event: membershipEvent(alice, erin, "invite"), want: "4.4.3 4.4.3 5.4.3"},
		{name: "the invite level", room: levelsOf(`{"invite":1}`), event: membershipEvent(carol, henry, "invite"), want: "4.4.5 4.4.5 5.4.5"},
		{name: "who knocks can be invited", event: membershipEvent(carol, gina, "invite")},
		{name: "03-032 m.room.member among events means nothing", room: levelsOf(`{"events":{"m.room.member":100}}`),
			event: membershipEvent(carol, henry, "invite")},
	})
}

func TestAuthorizeThirdPartyInvite(t *testing.T) {
	seed := make([]byte, ed25519.SeedSize)
	key := SigningKey{ID: "ed25519:0", Private: ed25519.NewKeyFromSeed(seed)}
	seed[0] = 1
	other := SigningKey{ID: "ed25519:0", Private: ed25519.NewKeyFromSeed(seed)}
	public := base64.RawURLEncoding.EncodeToString(key.Public())
	otherPublic := base64.RawStdEncoding.EncodeToString(other.Public())
	sign := func(object string, key SigningKey) string {
		signed, err := SignJSON([]byte(object), "id.example", key)
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	made := func(content string) func(*authRoom) {
		return func(r *authRoom) { r.set(carol, TypeThirdPartyInvite, "tok", content) }
	}
	invite := func(sender, target UserID, signed string) func(*authRoom) *Event {
		return stateEvent(sender, TypeMember, string(target), `{"membership":"invite","third_party_invite":`+signed+`}`)
	}
	good := `{"signed":` + sign(`{"mxid":"@henry:h","token":"tok"}`, key) + `}`
	one, many := `{"public_key":"`+public+`"}`, `{"public_key":"`+otherPublic+`","public_keys":[{"public_key":"no"},{"public_key":"`+public+`"}]}`
	runAuthCases(t, []authCase{
		{name: "a signed invite is allowed", versions: "1 10 11 12", room: made(one), event: invite(carol, henry, good)},
		{name: "any of public_keys will do", room: made(many), event: invite(carol, henry, good)},
		{name: "the one who made it need not be in the room any more", event: invite(carol, henry, good),
			room: func(r *authRoom) { made(one)(r); r.member(carol, "leave") }},
		{name: "the banned are not invited", versions: "1 10 12", room: made(one),
			event: invite(carol, erin, `{"signed":`+sign(`{"mxid":"@erin:e","token":"tok"}`, key)+`}`), want: "5.3.1.1 4.4.1.1 5.4.1.1"},
		{name: "no signed", room: made(one), event: invite(carol, henry, `{}`), want: "4.4.1.2 4.4.1.2 5.4.1.2"},
		{name: "third_party_invite null has no signed", room: made(one), event: invite(carol, henry, `null`), want: "4.4.1.2 4.4.1.2 5.4.1.2"},
		{name: "no token", room: made(one), event: invite(carol, henry, `{"signed":{"mxid":"@henry:h"}}`), want: "4.4.1.3 4.4.1.3 5.4.1.3"},
		{name: "no mxid", room: made(one), event: invite(carol, henry, `{"signed":{"token":"tok"}}`), want: "4.4.1.3 4.4.1.3 5.4.1.3"},
		{name: "another user's invite", room: made(one), event: invite(carol, frank, good), want: "4.4.1.4 4.4.1.4 5.4.1.4"},
		{name: "an invite that nobody made", event: invite(carol, henry, good), want: "4.4.1.5 4.4.1.5 5.4.1.5"},
		{name: "an invite that another made", room: made(one), event: invite(alice, henry, good), want: "4.4.1.6 4.4.1.6 5.4.1.6"},
		{name: "a signature by another key", room: made(`{"public_key":"` + otherPublic + `"}`), event: invite(carol, henry, good), want: "4.4.1.8 4.4.1.8 5.4.1.8"},
		{name: "no signature", room: made(one), event: invite(carol, henry, `{"signed":{"mxid":"@henry:h","token":"tok"}}`), want: "4.4.1.8 4.4.1.8 5.4.1.8"},
		{name: "a changed text", room: made(one), event: invite(carol, frank, strings.Replace(good, "@henry:h", "@frank:f", 1)), want: "4.4.1.8 4.4.1.8 5.4.1.8"},
	})
}

func TestAuthorizeLeaveBanKnock(t *testing.T) {
	runAuthCases(t, []authCase{
		{name: "members leave", event: membershipEvent(carol, carol, "leave")},
		{name: "the invited decline", versions: "1 10 12", event: membershipEvent(dave, dave, "leave")},
		{name: "a knock is taken back", versions: "7 10 12", event: membershipEvent(gina, gina, "leave")},
		{name: "a knock is unknown", versions: "1 6", event: membershipEvent(gina, gina, "leave"), want: "5.4.1 4.4.1"},
		{name: "who left does not leave", versions: "1 7 10 12", event: membershipEvent(frank, frank, "leave"), want: "5.4.1 4.4.1 4.5.1 5.5.1"},
		{name: "the banned do not lift their ban", event: membershipEvent(erin, erin, "leave"), want: "4.5.1 4.5.1 5.5.1"},
		{name: "who is not in the room does not kick", event: membershipEvent(henry, carol, "leave"), want: "4.5.2 4.5.2 5.5.2"},
		{name: "the kick level", event: membershipEvent(carol, dave, "leave"), want: "4.5.5 4.5.5 5.5.5"},
		{name: "moderators kick those below", event: membershipEvent(bob, carol, "leave")},
		{name: "moderators do not kick their like", room: levelsOf(`{"users":{"@bob:b":50,"@carol:c":50}}`), event: membershipEvent(bob, carol, "leave"), want: "4.5.5 4.5.5 5.5.5"},
		{name: "lifting a ban needs the ban level", room: levelsOf(`{"users":{"@bob:b":50},"ban":60,"kick":10}`),
			event: membershipEvent(bob, erin, "leave"), want: "4.5.3 4.5.3 5.5.3"},
		{name: "lifting a ban needs the kick level too", room: levelsOf(`{"users":{"@bob:b":50},"ban":10,"kick":60}`),
			event: membershipEvent(bob, erin, "leave"), want: "4.5.5 4.5.5 5.5.5"},
		{name: "a ban is lifted", event: membershipEvent(bob, erin, "leave")},
		{name: "who is not in the room does not ban", event: membershipEvent(henry, carol, "ban"), want: "4.6.1 4.6.1 5.6.1"},
		{name: "the ban level", versions: "1 7 8 12", event: membershipEvent(carol, dave, "ban"), want: "5.5.3 4.5.3 4.6.3 5.6.3"},
		{name: "moderators ban those below", event: membershipEvent(bob, henry, "ban")},
		{name: "nobody bans the equal", event: membershipEvent(bob, bob, "ban"), want: "4.6.3 4.6.3 5.6.3"},
		{name: "knocking needs the rule", event: membershipEvent(henry, henry, "knock"), want: "4.7.1 4.7.1 5.7.1"},
		{name: "18-016 knocking where there is none", versions: "1 6", room: joinRule("knock"), event: membershipEvent(henry, henry, "knock"), want: "5.6 4.6"},
		{name: "18-016 knocking in the first version that has it", versions: "7", event: membershipEvent(henry, henry, "knock"), want: "4.6.1"},
		{name: "nobody knocks for another", room: joinRule("knock"), event: membershipEvent(alice, henry, "knock"), want: "4.7.2 4.7.2 5.7.2"},
		{name: "strangers knock", versions: "7 10 12", room: joinRule("knock"), event: membershipEvent(henry, henry, "knock")},
		{name: "18-018 strangers knock under knock_restricted", room: joinRule("knock_restricted"), event: membershipEvent(henry, henry, "knock")},
		{name: "18-018 knock_restricted is no rule for knocking", versions: "9", room: joinRule("knock_restricted"), event: membershipEvent(henry, henry, "knock"), want: "4.7.1"},
		{name: "the banned do not knock", room: joinRule("knock"), event: membershipEvent(erin, erin, "knock"), want: "4.7.4 4.7.4 5.7.4"},
		{name: "members do not knock", room: joinRule("knock"), event: membershipEvent(carol, carol, "knock"), want: "4.7.4 4.7.4 5.7.4"},
		{name: "18-022 an unknown membership", versions: "1 6 7 8 10 12", event: membershipEvent(alice, alice, "dance"), want: "5.6 4.6 4.7 4.8 4.8 5.8"},
		{name: "03-034 18-033 nobody kicks a creator", versions: "12", room: levelsOf(`{"users":{"@bob:b":9007199254740991}}`),
			event: membershipEvent(bob, alice, "leave"), want: "5.5.5"},
		{name: "03-034 18-033 nobody bans a creator", versions: "12", room: levelsOf(`{"users":{"@bob:b":9007199254740991}}`),
			event: membershipEvent(bob, alice, "ban"), want: "5.6.3"},
		{name: "03-034 18-033 not even another creator bans one", versions: "12", event: membershipEvent(carol, alice, "ban"), want: "5.6.3",
			room: func(r *authRoom) {
				r.events[keyCreate].Content = canonicalContent(`{"additional_creators":["@carol:c"]}`)
			}},
		{name: "03-034 creators kick everybody else", versions: "12", room: levelsOf(`{"users":{"@bob:b":9007199254740991}}`), event: membershipEvent(alice, bob, "leave")},
	})
}

func TestAuthorizeSending(t *testing.T) {
	runAuthCases(t, []authCase{
		{name: "members send", versions: "1 6 10 11 12", event: messageEvent(carol, TypeMessage)},
		{name: "only members send", versions: "1 6 10 12", event: messageEvent(frank, TypeMessage), want: "6 5 5 6"},
		{name: "03-033 third party invites need the invite level", room: levelsOf(`{"invite":10}`),
			event: stateEvent(carol, TypeThirdPartyInvite, "x", `{}`), want: "6.1 6.1 7.1"},
		{name: "03-033 third party invites need no other level", event: stateEvent(carol, TypeThirdPartyInvite, "x", `{}`)},
		{name: "state needs state_default", versions: "1 6 10 12", event: stateEvent(carol, "m.room.topic", "", `{}`), want: "8 7 7 8"},
		{name: "03-029 state may need less", room: levelsOf(`{"events":{"m.room.topic":0}}`), event: stateEvent(carol, "m.room.topic", "", `{}`)},
		{name: "messages may need more", room: levelsOf(`{"events_default":1}`), event: messageEvent(carol, TypeMessage), want: "7 7 8"},
		{name: "03-011 9 state of another user", versions: "1 6 10 12", event: stateEvent(bob, "m.x", "@carol:c", `{}`), want: "9 8 8 9"},
		{name: "03-011 9 what only looks like a user", event: stateEvent(bob, "m.x", "@oops", `{}`), want: "8 8 9"},
		{name: "03-011 9 own user ID with a suffix", event: stateEvent(bob, "m.x", "@bob:b_x", `{}`), want: "8 8 9"},
		{name: "03-011 9 not even by a creator", versions: "12", event: stateEvent(alice, "m.x", "@carol:c", `{}`), want: "9"},
		{name: "03-012 state of one's own", event: stateEvent(bob, "m.x", "@bob:b", `{}`)},
		{name: "03-018 without power levels the creator has 100", versions: "10 11", event: stateEvent(alice, "m.x", "", `{}`),
			room: func(r *authRoom) { delete(r.events, keyPowerLevels) }},
		{name: "03-018 without power levels others have 0", event: stateEvent(bob, "m.x", "", `{}`),
			room: func(r *authRoom) { delete(r.events, keyPowerLevels) }, want: "7 7 8"},
		{name: "03-022 empty power levels leave the creator without", versions: "10 11", room: levelsOf(`{}`),
			event: stateEvent(alice, TypePowerLevels, "", `{}`), want: "7"},
		{name: "18-030 creators are above every number", versions: "12", room: levelsOf(`{"state_default":9007199254740991}`),
			event: stateEvent(alice, "m.x", "", `{}`)},
		{name: "18-033 so are additional creators", versions: "12", event: stateEvent(carol, "m.x", "", `{}`),
			room: func(r *authRoom) {
				r.events[keyCreate].Content = canonicalContent(`{"additional_creators":["@carol:c"]}`)
			}},
		{name: "additional creators mean nothing", versions: "11", event: stateEvent(carol, "m.x", "", `{}`), want: "7",
			room: func(r *authRoom) {
				r.events[keyCreate].Content = canonicalContent(`{"additional_creators":["@carol:c"]}`)
			}},
	})
}

func TestAuthorizeRedaction(t *testing.T) {
	redaction := func(id, target EventID) func(*authRoom) *Event {
		return func(r *authRoom) *Event {
			ev := r.event(carol, TypeRedaction, nil, `{}`)
			ev.ID, ev.Redacts = id, target
			return ev
		}
	}
	runAuthCases(t, []authCase{
		{name: "18-014 11.3 redacting another server's event", versions: "1 2", event: redaction("$1:c", "$2:b"), want: "11.3"},
		{name: "18-014 11.2 redacting the own server's event", versions: "1 2", event: redaction("$1:c", "$2:c")},
		{name: "18-014 11.1 the redact level", versions: "1 2", room: levelsOf(`{"redact":0}`), event: redaction("$1:c", "$2:b")},
		{name: "18-014 every redaction is authorised", versions: "3 10 11 12", event: redaction("$1", "$2")},
	})
}

func TestAuthorizePowerLevels(t *testing.T) {
	to := func(sender UserID, content string) func(*authRoom) *Event {
		return stateEvent(sender, TypePowerLevels, "", content)
	}
	// Bob, level 50, may send the event in this room.
	old := func(more string) func(*authRoom) {
		return levelsOf(`{"users":{"@bob:b":50,"@carol:c":50,"@dave:d":70},"state_default":50` + more + `}`)
	}
	next := func(more string) func(*authRoom) *Event {
		return to(bob, `{"users":{"@bob:b":50,"@carol:c":50,"@dave:d":70},"state_default":50`+more+`}`)
	}
	users := func(users string) func(*authRoom) *Event {
		return to(bob, `{"users":{`+users+`},"state_default":50}`)
	}
	runAuthCases(t, []authCase{
		{name: "03-023 10.1 a string", event: next(`,"ban":"50"`), want: "9.1 9.1 10.1"},
		{name: "03-023 10.1 a float", event: next(`,"ban":5.5`), want: "9.1 9.1 10.1"},
		{name: "03-023 10.1 null", event: next(`,"invite":null`), want: "9.1 9.1 10.1"},
		{name: "03-024 10.1 2^53", event: next(`,"kick":9007199254740992`), want: "9.1 9.1 10.1"},
		{name: "03-024 -(2^53-1)", room: old(""), event: next(`,"kick":-9007199254740991`)},
		{name: "18-018 10.2 a string among events", event: next(`,"events":{"m.x":"0"}`), want: "9.2 9.2 10.2"},
		{name: "18-018 10.2 events as a list", event: next(`,"events":[]`), want: "9.2 9.2 10.2"},
		{name: "18-018 10.2 a bool among notifications", event: next(`,"notifications":{"room":true}`), want: "9.2 9.2 10.2"},
		{name: "10.3 users as null", event: to(bob, `{"users":null}`), want: "9.3 9.3 10.3"},
		{name: "10.3 a string among users", event: to(bob, `{"users":{"@bob:b":"50"}}`), want: "9.3 9.3 10.3"},
		{name: "03-025 10.3 no user ID among users", versions: "1 5 6 9 10 12", event: to(bob, `{"users":{"bob":50}}`), want: "10.1 10.1 9.1 9.1 9.3 10.3"},
		{name: "18-032 10.4 the creator among users", versions: "12", event: to(alice, `{"users":{"@alice:a":100}}`), want: "10.4"},
		{name: "18-032 10.4 an additional creator among users", versions: "12", event: to(alice, `{"users":{"@carol:c":0}}`), want: "10.4",
			room: func(r *authRoom) {
				r.events[keyCreate].Content = canonicalContent(`{"additional_creators":["@carol:c"]}`)
			}},
		{name: "10.5 the first event may say anything", versions: "10 11 12", event: to(alice, `{"ban":1000,"users":{"@bob:b":1000}}`),
			room: func(r *authRoom) { delete(r.events, keyPowerLevels) }},
		{name: "03-031 10.5 but not from anybody", event: to(bob, `{}`), want: "7 7 8",
			room: func(r *authRoom) { delete(r.events, keyPowerLevels) }},
		{name: "03-026 10.6.1 changing what is above", versions: "1 5 6 9 10 11 12", room: old(`,"ban":60`), event: next(`,"ban":50`),
			want: "10.3.1 10.3.1 9.3.1 9.3.1 9.5.1 9.5.1 10.6.1"},
		{name: "03-027 10.6.1 removing what is above", room: old(`,"ban":60`), event: next(``), want: "9.5.1 9.5.1 10.6.1"},
		{name: "10.6 what is above may stay", room: old(`,"ban":60`), event: next(`,"ban":60`)},
		{name: "03-026 10.6.2 setting what is above", room: old(``), event: next(`,"users_default":51`), want: "9.5.2 9.5.2 10.6.2"},
		{name: "03-026 10.7.1 changing an event's level above", versions: "1 6 10 12", room: old(`,"events":{"m.x":60}`), event: next(`,"events":{"m.x":1}`),
			want: "10.4.1 9.4.1 9.6.1 10.7.1"},
		{name: "03-027 10.7.1 removing an event's level above", room: old(`,"events":{"m.x":60}`), event: next(``), want: "9.6.1 9.6.1 10.7.1"},
		{name: "03-026 10.8.1 setting an event's level above", versions: "1 6 10 12", room: old(``), event: next(`,"events":{"m.x":60}`),
			want: "10.5.1 9.5.1 9.7.1 10.8.1"},
		{name: "03-026 10.7.1 changing a notification above", versions: "6 10 12", room: old(`,"notifications":{"room":60}`), event: next(``), want: "9.4.1 9.6.1 10.7.1"},
		{name: "03-026 notifications are not looked at", versions: "1 5", room: old(`,"notifications":{"room":60}`), event: next(``)},
		{name: "03-028 10.9.1 lowering the equal", versions: "1 6 10 11 12", room: old(``), event: users(`"@bob:b":50,"@carol:c":40,"@dave:d":70`),
			want: "10.6.1 9.6.1 9.8.1 9.8.1 10.9.1"},
		{name: "10.9.1 removing one above", room: old(``), event: users(`"@bob:b":50,"@carol:c":50`), want: "9.8.1 9.8.1 10.9.1"},
		{name: "03-028 10.9 lowering oneself", room: old(``), event: users(`"@bob:b":1,"@carol:c":50,"@dave:d":70`)},
		{name: "10.10.1 raising oneself", versions: "1 6 10 11 12", room: old(``), event: users(`"@bob:b":51,"@carol:c":50,"@dave:d":70`),
			want: "10.7.1 9.7.1 9.9.1 9.9.1 10.10.1"},
		{name: "03-028 10.10 raising others to one's own level", room: old(``), event: users(`"@bob:b":50,"@carol:c":50,"@dave:d":70,"@frank:f":50`)},
		{name: "10.10.1 raising others above", room: old(``), event: users(`"@bob:b":50,"@carol:c":50,"@dave:d":70,"@frank:f":51`), want: "9.9.1 9.9.1 10.10.1"},
		{name: "03-021 levels of users nobody knows", room: old(``), event: users(`"@bob:b":50,"@carol:c":50,"@dave:d":70,"@x:other.server":20`)},
		{name: "03-034 creators set anything", versions: "12", room: old(`,"ban":9007199254740991`), event: to(alice, `{"users":{"@bob:b":9007199254740991}}`)},
		{name: "18-019 strings are levels", versions: "1 5 6 9", room: old(``), event: next(`,"events":{"m.x":" +0050 "},"ban":"50","redact":"-1"`)},
		{name: "18-019 strings count", versions: "6 9", room: old(``), event: next(`,"ban":"051"`), want: "9.3.2 9.3.2"},
		{name: "18-019 equal levels are no change however they are written", versions: "1 9", room: old(`,"ban":"60"`), event: next(`,"ban":60`)},
		{name: "18-019 floats are cut off", versions: "1 5", room: old(``), event: next(`,"ban":50.9,"events":{"m.x":5.09E1}`)},
	})
}

func TestAuthKeys(t *testing.T) {
	member := func(target UserID, content string) func(*authRoom) *Event {
		return stateEvent(carol, TypeMember, string(target), content)
	}
	for _, c := range []struct {
		name, versions string
		event          func(*authRoom) *Event
		want           string // of version 12, without the create event
	}{
		{"a message", "10 11 12", messageEvent(carol, TypeMessage), "levels carol"},
		{"the creator's join", "10 12", member(carol, `{"membership":"join"}`), "levels carol rules"},
		{"an invite", "10 12", member(henry, `{"membership":"invite"}`), "levels carol henry rules"},
		{"a knock", "7 10 12", member(carol, `{"membership":"knock"}`), "levels carol rules"},
		{"a kick", "10 12", member(dave, `{"membership":"leave"}`), "levels carol dave"},
		{"a third party invite", "1 12", member(dave, `{"membership":"invite","third_party_invite":{"signed":{"token":"tok"}}}`), "levels carol dave rules 3pid"},
		{"a ban does not look at the token", "12", member(dave, `{"membership":"ban","third_party_invite":{"signed":{"token":"tok"}}}`), "levels carol dave"},
		{"18-017 a restricted join", "8 10 12", member(carol, `{"membership":"join","join_authorised_via_users_server":"@bob:b"}`), "levels carol rules bob"},
		{"18-017 a restricted join before there were any", "7", member(carol, `{"membership":"join","join_authorised_via_users_server":"@bob:b"}`), "levels carol rules"},
	} {
		names := map[string]StateKey{"levels": keyPowerLevels, "rules": keyJoinRules, "3pid": {TypeThirdPartyInvite, "tok"},
			"carol": keyMember(carol), "henry": keyMember(henry), "dave": keyMember(dave), "bob": keyMember(bob)}
		for _, v := range strings.Fields(c.versions) {
			t.Run("v"+v+" "+c.name, func(t *testing.T) {
				r := newAuthRoom(t, RoomVersion(v))
				var want []StateKey
				if v != "12" {
					want = append(want, keyCreate)
				}
				for _, name := range strings.Fields(c.want) {
					want = append(want, names[name])
				}
				ev := c.event(r)
				if got := AuthKeys(r.rules, ev.Type, ev.Sender, ev.State, ev.Content); !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		}
	}
	t.Run("a create event has none", func(t *testing.T) {
		r := newAuthRoom(t, "10")
		if got := AuthKeys(r.rules, TypeCreate, alice, new(string), nil); len(got) != 0 {
			t.Error(got)
		}
	})
}

func TestCheckAuthEvents(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(r *authRoom, list []*Event) []*Event
		want   string // v10 and v11, v12
	}{
		{"what is selected is allowed", nil, ""},
		{"the same entry twice", func(r *authRoom, l []*Event) []*Event {
			return append(l, r.state(carol, TypeMember, string(carol), `{"membership":"join"}`))
		}, "2.1 3.1"},
		{"somebody else's membership", func(r *authRoom, l []*Event) []*Event { return append(l, r.events[keyMember(bob)]) }, "2.2 3.2"},
		{"a message", func(r *authRoom, l []*Event) []*Event { return append(l, r.event(carol, TypePowerLevels, nil, `{}`)) }, "2.2 3.2"},
		{"a rejected event", func(_ *authRoom, l []*Event) []*Event { l[0].ID = "$rejected"; return l }, "2.3 3.3"},
		{"an event of another room", func(_ *authRoom, l []*Event) []*Event { l[0].Room = "!other"; return l }, "2.5 3.4"},
	} {
		for i, v := range []RoomVersion{"10", "11", "12"} {
			t.Run("v"+string(v)+" "+c.name, func(t *testing.T) {
				r := newAuthRoom(t, v)
				ev := r.event(carol, TypeMessage, nil, `{}`)
				list := []*Event{r.events[keyPowerLevels], r.events[keyMember(carol)]}
				if v != "12" {
					list = append(list, r.events[keyCreate])
				}
				if c.change != nil {
					list = c.change(r, list)
				}
				want := ""
				if wants := strings.Fields(c.want); len(wants) > 0 {
					want = wants[i/2]
				}
				wantRule(t, CheckAuthEvents(ev, list, func(id EventID) bool { return id == "$rejected" }), want)
			})
		}
	}
	t.Run("v11 2.4 the create event is missing", func(t *testing.T) {
		r := newAuthRoom(t, "11")
		wantRule(t, CheckAuthEvents(r.event(carol, TypeMessage, nil, `{}`), []*Event{r.events[keyPowerLevels]}, nil), "2.4")
	})
	t.Run("v12 18-028 3.2 the create event is there", func(t *testing.T) {
		r := newAuthRoom(t, "12")
		wantRule(t, CheckAuthEvents(r.event(carol, TypeMessage, nil, `{}`), []*Event{r.events[keyCreate]}, nil), "3.2")
	})
	t.Run("v12 18-028 an empty list will do", func(t *testing.T) {
		r := newAuthRoom(t, "12")
		wantRule(t, CheckAuthEvents(r.event(carol, TypeMessage, nil, `{}`), nil, nil), "")
	})
}

func TestAuthorizeReadsOnlyItsKeys(t *testing.T) {
	for _, v := range []RoomVersion{"1", "10", "12"} {
		r := newAuthRoom(t, v)
		for _, ev := range []*Event{
			r.event(carol, TypeMessage, nil, `{}`),
			r.state(bob, TypePowerLevels, "", `{}`),
			r.state(carol, TypeMember, string(henry), `{"membership":"invite"}`),
			r.state(bob, TypeMember, string(carol), `{"membership":"ban"}`),
			r.state(henry, TypeMember, string(henry), `{"membership":"join","join_authorised_via_users_server":"@carol:c"}`),
		} {
			keys := append(AuthKeys(r.rules, ev.Type, ev.Sender, ev.State, ev.Content), keyCreate)
			_ = Authorize(ev, func(k StateKey) (*Event, error) {
				if !slices.Contains(keys, k) {
					t.Errorf("v%s %s reads %v", v, ev.Type, k)
				}
				return r.read(k)
			})
		}
	}
}

func TestAuthorizeHandsErrorsOn(t *testing.T) {
	broken := errors.New("disk on fire")
	r := newAuthRoom(t, "12")
	for _, at := range []StateKey{keyCreate, keyMember(carol), keyPowerLevels} {
		err := Authorize(r.event(carol, TypeMessage, nil, `{}`), func(k StateKey) (*Event, error) {
			if k == at {
				return nil, broken
			}
			return r.read(k)
		})
		if err != broken {
			t.Errorf("at %v: %v", at, err)
		}
	}
}

func TestPowerLevels(t *testing.T) {
	parse := func(t *testing.T, v RoomVersion, content string) (*PowerLevels, error) {
		t.Helper()
		r := newAuthRoom(t, v)
		ev := r.state(alice, TypePowerLevels, "", `{}`)
		ev.Content = []byte(content)
		return ParsePowerLevels(r.rules, r.events[keyCreate], ev)
	}
	t.Run("03-017 defaults of an event that says nothing", func(t *testing.T) {
		p, err := parse(t, "12", `{}`)
		if err != nil {
			t.Fatal(err)
		}
		got := []int64{p.Ban(), p.Kick(), p.Redact(), p.Event("m.x", true), p.Invite(), p.Event("m.x", false), p.User(bob), p.Notification("room")}
		if want := []int64{50, 50, 50, 50, 0, 0, 0, 50}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("03-018 no event at all", func(t *testing.T) {
		for v, want := range map[RoomVersion]int64{"1": 100, "10": 100, "11": 100, "12": CreatorLevel} {
			r := newAuthRoom(t, v)
			p, err := ParsePowerLevels(r.rules, r.events[keyCreate], nil)
			if err != nil {
				t.Fatal(err)
			}
			got := []int64{p.Ban(), p.Kick(), p.Redact(), p.Event("m.x", true), p.Invite(), p.Event("m.x", false), p.User(bob), p.User(alice)}
			if want := []int64{50, 50, 50, 50, 0, 0, 0, want}; !slices.Equal(got, want) {
				t.Errorf("v%s: got %v, want %v", v, got, want)
			}
			if p.IsCreator(alice) != (v == "12") || p.IsCreator(bob) {
				t.Errorf("v%s: IsCreator is wrong", v)
			}
		}
	})
	t.Run("values", func(t *testing.T) {
		p, err := parse(t, "12", `{"ban":1,"events":{"m.a":2,"m.b":3},"events_default":4,"invite":5,"kick":6,`+
			`"notifications":{"room":7},"redact":8,"state_default":9,"users":{"@bob:b":10},"users_default":11}`)
		if err != nil {
			t.Fatal(err)
		}
		got := []int64{p.Ban(), p.Event("m.a", true), p.Event("m.b", false), p.Event("m.c", false), p.Invite(), p.Kick(),
			p.Notification("room"), p.Redact(), p.Event("m.c", true), p.User(bob), p.User(carol)}
		if want := []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	for _, c := range []struct {
		name     string
		versions string
		value    string
		want     int64
		bad      bool // the event is refused
	}{
		{"18-019 a string", "1 9", `"50"`, 50, false},
		{"18-019 a string with white space", "1 9", `" 50 "`, 50, false},
		{"18-019 a string with a sign", "1 9", `"+50"`, 50, false},
		{"18-019 a string with zeros", "1 9", `"0050"`, 50, false},
		{"18-019 a negative string", "1 9", `"-50"`, -50, false},
		{"18-019 a string with two signs is none", "1 9", `"+-50"`, 0, false},
		{"18-019 a string with a point is none", "1 9", `"50.0"`, 0, false},
		{"18-019 a string with underscores is none", "1 9", `"5_0"`, 0, false},
		{"18-019 an empty string is none", "1 9", `""`, 0, false},
		{"18-019 a string beyond an int64 is cut off", "1 9", `"99999999999999999999"`, legacyMax, false},
		{"18-019 a float", "1 5", `50.57`, 50, false},
		{"18-019 a negative float", "1 5", `-50.57`, -50, false},
		{"18-019 an exponent", "1 5", `5.114698E4`, 51146, false},
		{"a float beyond an int64 is cut off", "1 5", `-1e300`, -legacyMax, false},
		{"a number beyond a double", "1 5", `1e999`, 0, true},
		{"a float where there are none", "6 9 10 12", `50.5`, 0, true},
		{"18-018 a string where there are none", "10 11 12", `"50"`, 0, true},
		{"null", "1 9", `null`, 0, false},
		{"null where levels are integers", "10 12", `null`, 0, true},
		{"03-024 the greatest", "1 6 10 12", `9007199254740991`, MaxLevel, false},
		{"03-024 the greatest and one", "6 10 12", `9007199254740992`, 0, true},
		{"03-024 the least and one less", "6 10 12", `-9007199254740992`, 0, true},
		{"greater integers in old rooms", "1 5", `9007199254740993`, 9007199254740993, false},
	} {
		for _, v := range strings.Fields(c.versions) {
			t.Run("v"+v+" "+c.name, func(t *testing.T) {
				p, err := parse(t, RoomVersion(v), `{"invite":`+c.value+`}`)
				if (err != nil) != c.bad {
					t.Fatalf("error %v, want one: %v", err, c.bad)
				}
				if err == nil && p.Invite() != c.want {
					t.Errorf("got %d, want %d", p.Invite(), c.want)
				}
			})
		}
	}
}

func TestCanRedact(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions string
		sender   UserID
		ids      [2]EventID
		target   UserID
		want     bool
	}{
		{"the redact level", "1 3 10 12", bob, [2]EventID{"$1:b", "$2:c"}, carol, true},
		{"18-014 the same server", "3 10 12", carol, [2]EventID{"$1:c", "$2:b"}, "@carla:c", true},
		{"18-014 another server", "3 10 12", carol, [2]EventID{"$1:c", "$2:c"}, bob, false},
		{"18-014 event IDs of the same server", "1 2", carol, [2]EventID{"$1:c", "$2:c"}, bob, true},
		{"18-014 event IDs of other servers", "1 2", carol, [2]EventID{"$1:c", "$2:b"}, carol, false},
	} {
		for _, v := range strings.Fields(c.versions) {
			t.Run("v"+v+" "+c.name, func(t *testing.T) {
				r := newAuthRoom(t, RoomVersion(v))
				p, err := ParsePowerLevels(r.rules, r.events[keyCreate], r.events[keyPowerLevels])
				if err != nil {
					t.Fatal(err)
				}
				redaction, target := r.event(c.sender, TypeRedaction, nil, `{}`), r.event(c.target, TypeMessage, nil, `{}`)
				redaction.ID, target.ID = c.ids[0], c.ids[1]
				if got := p.CanRedact(redaction, target); got != c.want {
					t.Errorf("got %v", got)
				}
			})
		}
	}
}

func TestLevelMapChanges(t *testing.T) {
	old := levelMap{{"a", 1}, {"b", 2}, {"d", 4}}
	next := levelMap{{"b", 2}, {"c", 3}, {"d", 5}, {"e", 6}}
	var got []string
	old.changes(next, func(c levelChange) bool {
		got = append(got, fmt.Sprint(c.key, c.old, c.hasOld, c.new, c.hasNew))
		return true
	})
	want := []string{"a1 true 0 false", "c0 false 3 true", "d4 true 5 true", "e0 false 6 true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkAuthorizeMessage(b *testing.B) {
	for _, v := range []RoomVersion{"10", "12"} {
		for _, users := range []int{10, 1000} {
			b.Run(fmt.Sprintf("v%s/%d users with levels", v, users), func(b *testing.B) {
				r := newAuthRoom(b, v)
				var levels strings.Builder
				levels.WriteString(`{"users":{"@bob:b":50`)
				for i := range users {
					fmt.Fprintf(&levels, `,"@user%d:example.org":10`, i)
				}
				levels.WriteString(`}}`)
				levelsOf(levels.String())(r)
				ev := r.event(carol, TypeMessage, nil, `{}`)
				b.ReportAllocs()
				for b.Loop() {
					if err := Authorize(ev, r.read); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkAuthorizeWithLevels(b *testing.B) {
	r := newAuthRoom(b, "12")
	levels, err := ParsePowerLevels(r.rules, r.events[keyCreate], r.events[keyPowerLevels])
	if err != nil {
		b.Fatal(err)
	}
	ev := r.event(carol, TypeMessage, nil, `{}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := AuthorizeWith(ev, levels, r.read); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzAuthorize(f *testing.F) {
	f.Add(TypePowerLevels, "", `{"users":{"@bob:b":50},"events":{"m.x":1},"ban":1}`)
	f.Add(TypeMember, "@henry:h", `{"membership":"invite","third_party_invite":{"signed":{"mxid":"@henry:h","token":"t","signatures":{"x":{"ed25519:0":"AA"}}}}}`)
	f.Add(TypeMember, "@henry:h", `{"membership":"join","join_authorised_via_users_server":"@carol:c"}`)
	f.Add(TypeCreate, "", `{"creator":"@a:a","room_version":"10","additional_creators":["@a:a"],"m.federate":false}`)
	f.Add(TypeJoinRules, "", `{"join_rule":"public"}`)
	f.Fuzz(func(t *testing.T, eventType, key, content string) {
		for _, v := range []RoomVersion{"1", "9", "10", "12"} {
			r := newAuthRoom(t, v)
			r.set(carol, TypeThirdPartyInvite, "t", `{}`).Content = []byte(content)
			ev := r.event(bob, eventType, nil, `{}`)
			ev.stateKey = key
			ev.State = &ev.stateKey
			ev.Content = []byte(content) // also what is not canonical must not harm
			AuthKeys(r.rules, eventType, bob, &key, ev.Content)
			_ = Authorize(ev, r.read)
			r.events[ev.Key()] = ev
			_ = Authorize(r.event(carol, TypeMessage, nil, `{}`), r.read)
		}
	})
}

func FuzzPowerLevels(f *testing.F) {
	f.Add(`{"users":{"@bob:b":50},"events":{"m.x":1},"notifications":{"room":9007199254740991},"ban":-1}`)
	f.Add(`{"users":{"@bob:b":"+50"},"events":null,"ban":1e3,"kick":"  7"}`)
	f.Fuzz(func(t *testing.T, content string) {
		canon, err := CanonicalLegacy([]byte(content))
		if err != nil {
			return
		}
		for _, v := range []RoomVersion{"1", "9", "10", "12"} {
			r := newAuthRoom(t, v)
			ev := r.state(alice, TypePowerLevels, "", `{}`)
			ev.Content = canon
			p, err := ParsePowerLevels(r.rules, r.events[keyCreate], ev)
			if err != nil {
				continue
			}
			for _, m := range []levelMap{p.content.users, p.content.events, p.content.notifications} {
				for i, e := range m {
					if i > 0 && m[i-1].key >= e.key {
						t.Fatalf("v%s: keys out of order in %s", v, content)
					}
					if v != "1" && v != "9" && (e.level > MaxLevel || e.level < -MaxLevel) || e.level == CreatorLevel {
						t.Fatalf("v%s: level %d in %s", v, e.level, content)
					}
				}
			}
		}
	})
}
