package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

func makePath(what string, room spec.RoomID, user spec.UserID, versions ...string) string {
	path := atolltest.Path("v1", "make_"+what, string(room), string(user))
	for i, v := range versions {
		path += string("?&"[min(i, 1)]) + "ver=" + v
	}
	return path
}

// template asks for a template and completes it in the name of the user, as the
// user's server would. change sees what was proposed.
func template(t *testing.T, to *atolltest.Server, u *atolltest.User, what string, room spec.RoomID, change func(*spec.EventBuilder)) *spec.Event {
	t.Helper()
	got := u.Request(to, "GET", makePath(what, room, u.ID, "10", "11", "12"), nil)
	if got.Status != 200 {
		t.Fatalf("make_%s: %d %s", what, got.Status, got.Body)
	}
	var answer struct {
		Version spec.RoomVersion `json:"room_version"`
		Event   json.RawMessage
	}
	if err := json.Unmarshal(got.Body, &answer); err != nil {
		t.Fatal(err)
	}
	rules, ok := spec.RulesOf(answer.Version)
	if !ok {
		t.Fatalf("version %q", answer.Version)
	}
	b, err := spec.ParseTemplate(rules, answer.Event)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&b)
	}
	ev, err := b.Build(rules, u.Name(), u.Key)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// handIn sends the event with send_join and the like.
func handIn(to *atolltest.Server, from *atolltest.Server, version, what string, room spec.RoomID, id spec.EventID, body any) atolltest.Answer {
	return from.Request(to, "PUT", atolltest.Path(version, "send_"+what, string(room), string(id)), body)
}

func TestMakeJoin(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b := s[0], s[1]
	alice, bob, carol := a.User("alice"), b.User("bob"), s[2].User("carol")
	public := alice.Create(server.CreateRoom{Version: "11"})
	private := alice.Create(server.CreateRoom{Preset: "private_chat"})
	local := alice.Create(server.CreateRoom{CreationContent: []byte(`{"m.federate":false}`)})
	left := alice.Create(server.CreateRoom{})
	must(t, a.Rooms.Leave(t.Context(), alice.About(left, alice.ID)))
	for _, test := range []struct {
		claim  string
		room   spec.RoomID
		user   spec.UserID
		ver    []string
		status int
		code   spec.Code
	}{
		{"14-008 an unknown room", "!nowhere:a.test", bob.ID, []string{"11"}, 404, spec.CodeNotFound},
		{"14-008 a room that this server has left", left, bob.ID, []string{"12"}, 404, spec.CodeNotFound},
		{"14-008 a user of another server", public, carol.ID, []string{"11"}, 403, spec.CodeForbidden},
		{"14-008 a malformed user", public, "bob", []string{"11"}, 400, spec.CodeInvalidParam},
		{"20-023 a malformed room", "lagoon", bob.ID, []string{"11"}, 400, spec.CodeInvalidParam},
		{"14-009 not invited", private, bob.ID, []string{"12"}, 403, spec.CodeForbidden},
		{"14-009 a room that is not federated", local, bob.ID, []string{"12"}, 403, spec.CodeForbidden},
		{"14-010 a version that is not supported", public, bob.ID, []string{"10", "12"}, 400, spec.CodeIncompatibleRoomVersion},
		{"14-004 no version means 1", public, bob.ID, nil, 400, spec.CodeIncompatibleRoomVersion},
	} {
		t.Run(test.claim, func(t *testing.T) {
			got := b.Request(a, "GET", makePath("join", test.room, test.user, test.ver...), nil)
			expect(t, test.claim, got, test.status, test.code)
			if test.code == spec.CodeIncompatibleRoomVersion && got.Object()["room_version"] != "11" {
				t.Errorf("the answer is %s", got.Body)
			}
		})
	}
	t.Run("14-009 banned", func(t *testing.T) {
		must(t, a.Rooms.Ban(t.Context(), alice.About(public, bob.ID)))
		expect(t, "banned", b.Request(a, "GET", makePath("join", public, bob.ID, "11"), nil), 403, spec.CodeForbidden)
		must(t, a.Rooms.Unban(t.Context(), alice.About(public, bob.ID)))
	})
	t.Run("14-011 the template", func(t *testing.T) {
		got := b.Request(a, "GET", makePath("join", public, bob.ID, "10", "11"), nil)
		event, _ := got.Object()["event"].(map[string]any)
		content, _ := event["content"].(map[string]any)
		if got.Status != 200 || got.Object()["room_version"] != "11" || event["type"] != "m.room.member" || event["room_id"] != string(public) ||
			event["sender"] != string(bob.ID) || event["state_key"] != string(bob.ID) || content["membership"] != "join" ||
			event["depth"] == nil || event["signatures"] != nil || event["hashes"] != nil {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		if tips := a.Extremities(public); fmt.Sprint(event["prev_events"]) != fmt.Sprint(tips) {
			t.Errorf("prev_events are %v, the extremities %v", event["prev_events"], tips)
		}
		if auth, _ := event["auth_events"].([]any); len(auth) != 4 { // create, levels, join rules, the lifted ban
			t.Errorf("auth_events are %v", auth)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSendJoin(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b := s[0], s[1]
	alice, bob, carol := a.User("alice"), b.User("bob"), s[2].User("carol")
	room := alice.Create(server.CreateRoom{Name: "Lagoon", Version: "11"})
	other := alice.Create(server.CreateRoom{Version: "11"})
	carol.Join(room, a)
	key := func(s string) *string { return &s }
	for _, test := range []struct {
		claim  string
		change func(*spec.EventBuilder)
		status int
		code   spec.Code
	}{
		{"14-018 another type", func(b *spec.EventBuilder) { b.Type = "m.room.lagoon" }, 400, spec.CodeInvalidParam},
		{"14-018 no state event", func(b *spec.EventBuilder) { b.State = nil }, 400, spec.CodeInvalidParam},
		{"14-018 another membership", func(b *spec.EventBuilder) { b.Content = []byte(`{"membership":"leave"}`) }, 400, spec.CodeInvalidParam},
		{"14-018 another state key", func(b *spec.EventBuilder) { b.State = key(string(carol.ID)) }, 400, spec.CodeInvalidParam},
		{"14-018 a sender of another server", func(b *spec.EventBuilder) { b.Sender, b.State = carol.ID, key(string(carol.ID)) }, 400, spec.CodeInvalidParam},
		{"14-018 another room", func(b *spec.EventBuilder) { b.Room = other }, 400, spec.CodeInvalidParam},
		{"predecessors that nobody knows", func(b *spec.EventBuilder) { b.Prev = []spec.EventID{"$Mdrwn7FqEMHQGNfaBoj1jdHyPHhoX1lG4tSlRzmQ7Uc"} }, 400, spec.CodeInvalidParam},
		{"15-012 too many predecessors", func(b *spec.EventBuilder) {
			for i := range 21 {
				b.Prev = append(b.Prev, spec.EventID(fmt.Sprintf("$%043d", i)))
			}
		}, 400, spec.CodeInvalidParam},
		{"15-007 no create event among the auth events", func(b *spec.EventBuilder) { b.Auth = b.Auth[1:] }, 403, spec.CodeForbidden},
	} {
		t.Run(test.claim, func(t *testing.T) {
			ev := template(t, a, bob, "join", room, test.change)
			expect(t, test.claim, handIn(a, b, "v2", "join", room, ev.ID, atolltest.PDU(ev)), test.status, test.code)
			if got := a.Member(room, bob.ID); got != "" {
				t.Errorf("bob is %q", got)
			}
		})
	}
	ev := template(t, a, bob, "join", room, nil)
	t.Run("14-018 a bad signature", func(t *testing.T) {
		forged := strings.Replace(string(atolltest.PDU(ev)), `{"ed25519:test":"`, `{"ed25519:test":"AAAA`, 1)
		expect(t, "signature", handIn(a, b, "v2", "join", room, ev.ID, []byte(forged)), 400, spec.CodeInvalidParam)
	})
	t.Run("14-019 another event id", func(t *testing.T) {
		expect(t, "id", handIn(a, b, "v2", "join", room, "$Mdrwn7FqEMHQGNfaBoj1jdHyPHhoX1lG4tSlRzmQ7Uc", atolltest.PDU(ev)), 400, spec.CodeInvalidParam)
	})
	t.Run("14-021 18-009 not canonical JSON", func(t *testing.T) {
		bad := strings.Replace(string(atolltest.PDU(ev)), `"depth":`, `"lagoon":1.5,"depth":`, 1)
		expect(t, "float", handIn(a, b, "v2", "join", room, ev.ID, []byte(bad)), 400, spec.CodeBadJSON)
		expect(t, "no object", handIn(a, b, "v2", "join", room, ev.ID, []byte(`[]`)), 400, spec.CodeBadJSON)
	})
	t.Run("14-016 14-023 a join", func(t *testing.T) {
		before := a.Extremities(room)
		got := handIn(a, b, "v2", "join", room, ev.ID, atolltest.PDU(ev))
		if got.Status != 200 {
			t.Fatalf("%d %s", got.Status, got.Body)
		}
		checkJoinAnswer(t, a, room, ev, got.Body)
		if tips := a.Extremities(room); slices.Equal(tips, before) || len(tips) != 1 || tips[0] != ev.ID {
			t.Errorf("extremities are %v", tips)
		}
		s[2].Sees(room, ev.ID) // sent on by the resident
		a.WaitMember(room, bob.ID, "join")
	})
	t.Run("14-024 a join of a joined user", func(t *testing.T) {
		ev := template(t, a, bob, "join", room, func(b *spec.EventBuilder) { b.Content = []byte(`{"membership":"join","displayname":"B"}`) })
		got := handIn(a, b, "v1", "join", room, ev.ID, atolltest.PDU(ev))
		if got.Status != 200 || !strings.HasPrefix(string(got.Body), "[200,{") {
			t.Errorf("14-017 version 1: %d %s", got.Status, got.Body)
		}
		if a.State(room, "m.room.member", string(bob.ID))["displayname"] != "B" {
			t.Error("the name did not change")
		}
	})
	t.Run("14-020 banned between the two requests", func(t *testing.T) {
		ev := template(t, a, bob, "join", room, nil)
		must(t, a.Rooms.Ban(t.Context(), alice.About(room, bob.ID)))
		expect(t, "banned", handIn(a, b, "v2", "join", room, ev.ID, atolltest.PDU(ev)), 403, spec.CodeForbidden)
		if got := a.Member(room, bob.ID); got != "ban" {
			t.Errorf("bob is %q", got)
		}
	})
}

func checkJoinAnswer(t *testing.T, a *atolltest.Server, room spec.RoomID, join *spec.Event, body []byte) {
	t.Helper()
	var answer struct {
		State, AuthChain []json.RawMessage
		Event            json.RawMessage
		Omitted          *bool             `json:"members_omitted"`
		Servers          []spec.ServerName `json:"servers_in_room"`
		Chain            []json.RawMessage `json:"auth_chain"`
	}
	must(t, json.Unmarshal(body, &answer))
	rules := a.Rules(room)
	known := map[spec.EventID]*spec.Event{}
	types := map[string]int{}
	for i, raw := range append(slices.Clone(answer.Chain), answer.State...) {
		ev, err := spec.ParseEvent(rules, raw)
		must(t, err)
		if ev.Room != room || ev.Redacted {
			t.Errorf("%s is of %s, redacted: %v", ev.ID, ev.Room, ev.Redacted)
		}
		if i < len(answer.Chain) && known[ev.ID] != nil {
			t.Errorf("%s is in the chain twice", ev.ID)
		}
		known[ev.ID] = ev
		if i >= len(answer.Chain) {
			types[ev.Type]++
			if ev.StateKeyIs("m.room.member", string(join.Sender)) {
				t.Error("the state has the join itself")
			}
		}
	}
	for _, ev := range append(slices.Collect(values(known)), join) {
		for _, id := range ev.Auth {
			if known[id] == nil {
				t.Errorf("auth event %s of %s is missing", id, ev.ID)
			}
		}
	}
	if types["m.room.create"] != 1 || types["m.room.name"] != 1 || types["m.room.member"] != 2 {
		t.Errorf("the state has %v", types)
	}
	if answer.Omitted == nil || *answer.Omitted || !slices.Equal(answer.Servers, []spec.ServerName{"a.test:8448", "c.test:8448"}) {
		t.Errorf("members omitted: %v, servers: %v", answer.Omitted, answer.Servers)
	}
	if ev, err := spec.ParseEvent(rules, answer.Event); err != nil || ev.ID != join.ID {
		t.Errorf("the event is %s (%v)", answer.Event, err)
	}
}

func values(m map[spec.EventID]*spec.Event) func(func(*spec.Event) bool) {
	return func(yield func(*spec.Event) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

func restricted(rooms ...spec.RoomID) map[string]any {
	allow := []any{}
	for _, id := range rooms {
		allow = append(allow, map[string]any{"type": "m.room_membership", "room_id": id})
	}
	return map[string]any{"join_rule": "restricted", "allow": allow}
}

func TestRestrictedJoin(t *testing.T) {
	for _, version := range []spec.RoomVersion{"8", "10", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			s := atolltest.New(t, 3)
			a, b := s[0], s[1]
			alice, bob, carol := a.User("alice"), b.User("bob"), s[2].User("carol")
			club := alice.Create(server.CreateRoom{Version: version})
			room := alice.Create(server.CreateRoom{Version: version})
			alice.SetState(room, "m.room.join_rules", "", restricted(club))
			ask := func(u *atolltest.User) atolltest.Answer {
				return u.Request(a, "GET", makePath("join", room, u.ID, string(version)), nil)
			}
			expect(t, "14-013 no member of the club", ask(bob), 403, spec.CodeForbidden)
			bob.Join(club, a)
			got := ask(bob)
			content, _ := got.Object()["event"].(map[string]any)["content"].(map[string]any)
			if got.Status != 200 || content["join_authorised_via_users_server"] != string(alice.ID) {
				t.Fatalf("14-012: %d %s", got.Status, got.Body)
			}
			bob.Join(room, a)
			a.WaitMember(room, bob.ID, "join")
			b.WaitMember(room, bob.ID, "join")
			join := stateEvent(t, b, room, bob.ID)
			if len(join.SignatureKeyIDs(a.Name())) == 0 || len(join.SignatureKeyIDs(b.Name())) == 0 {
				t.Errorf("14-022: the join lacks a signature: %s", join.JSON)
			}
			atolltest.Agree(room, a, b)

			t.Run("14-022 one who meets no condition gets no signature", func(t *testing.T) {
				ev := joinWithVia(t, a, carol, room, alice.ID)
				expect(t, "carol", handIn(a, s[2], "v2", "join", room, ev.ID, atolltest.PDU(ev)), 403, spec.CodeForbidden)
			})
			t.Run("14-022 a named user without power", func(t *testing.T) {
				dora := a.User("dora")
				dora.Join(club)
				dora.Join(room)
				alice.SetState(room, "m.room.power_levels", "", levels(version, alice.ID, 50))
				carol.Join(club, a)
				ev := joinWithVia(t, a, carol, room, dora.ID)
				expect(t, "carol", handIn(a, s[2], "v2", "join", room, ev.ID, atolltest.PDU(ev)), 403, spec.CodeForbidden)
			})
			t.Run("14-014 an invited user needs nobody's leave", func(t *testing.T) {
				erin := s[2].User("erin")
				must(t, a.Rooms.Invite(t.Context(), alice.About(room, erin.ID)))
				got := ask(erin)
				content, _ := got.Object()["event"].(map[string]any)["content"].(map[string]any)
				if _, named := content["join_authorised_via_users_server"]; got.Status != 200 || named {
					t.Errorf("%d %s", got.Status, got.Body)
				}
				erin.Join(room, a)
				a.WaitMember(room, erin.ID, "join")
			})
			t.Run("14-013 rooms that are not known here", func(t *testing.T) {
				frank := s[2].User("frank")
				elsewhere := carol.Create(server.CreateRoom{Version: version})
				alice.SetState(room, "m.room.join_rules", "", restricted(elsewhere))
				expect(t, "unknown", ask(frank), 400, spec.CodeUnableToAuthoriseJoin)
				alice.SetState(room, "m.room.join_rules", "", restricted(elsewhere, club))
				expect(t, "one is unknown", ask(frank), 400, spec.CodeUnableToAuthoriseJoin)
				alice.SetState(room, "m.room.join_rules", "", restricted())
				expect(t, "no conditions", ask(frank), 403, spec.CodeForbidden)
			})
			t.Run("14-013 nobody here may invite", func(t *testing.T) {
				frank := s[2].User("frank2")
				frank.Join(club, a)
				alice.SetState(room, "m.room.join_rules", "", restricted(club))
				b.WaitMember(room, bob.ID, "join")
				got := frank.Request(b, "GET", makePath("join", room, frank.ID, string(version)), nil)
				// bob's server knows the club too, but bob may not invite.
				a.WaitMember(club, frank.ID, "join")
				atolltest.Eventually(t, "bob's server knows of frank", func() bool {
					got = frank.Request(b, "GET", makePath("join", room, frank.ID, string(version)), nil)
					return got.Code == spec.CodeUnableToGrantJoin
				})
			})
		})
	}
}

// levels are power levels with the given level for invites. Creators of version
// 12 cannot be named.
func levels(version spec.RoomVersion, admin spec.UserID, invite int) map[string]any {
	users := map[string]any{}
	if version != "12" {
		users[string(admin)] = 100
	}
	return map[string]any{"users": users, "invite": invite, "state_default": 50, "events": map[string]any{}}
}

// joinWithVia makes a join that claims to be authorised by a user.
func joinWithVia(t *testing.T, a *atolltest.Server, u *atolltest.User, room spec.RoomID, via spec.UserID) *spec.Event {
	t.Helper()
	owner := &atolltest.User{Server: a, ID: u.ID}
	key := string(u.ID)
	content := map[string]string{"membership": "join", "join_authorised_via_users_server": string(via)}
	proto := owner.Event(room, "m.room.member", &key, content, nil)
	ev, err := spec.EventBuilder{
		Room: room, Sender: u.ID, Type: proto.Type, State: &key, Content: proto.Content, Prev: proto.Prev, Auth: proto.Auth,
		Depth: proto.Depth, OriginServerTS: proto.OriginServerTS,
	}.Build(proto.Rules, u.Name(), u.Key)
	must(t, err)
	return ev
}

// stateEvent reads the membership event of a user in the current state.
func stateEvent(t *testing.T, s *atolltest.Server, room spec.RoomID, user spec.UserID) *spec.Event {
	t.Helper()
	ev := s.StateEvent(room, spec.TypeMember, string(user))
	if ev == nil {
		t.Fatalf("%s has no membership of %s", s.Name(), user)
	}
	return ev
}

func TestJoinThroughSeveralServers(t *testing.T) {
	s := atolltest.New(t, 4)
	alice, bob, carol := s[0].User("alice"), s[1].User("bob"), s[2].User("carol")
	room := alice.Create(server.CreateRoom{Version: "11"})
	bob.Join(room, s[0])
	t.Run("14-001 14-002 the next one is tried", func(t *testing.T) {
		if err := carol.TryJoin(room, s[3], s[2], s[1]); err != nil {
			t.Fatal(err)
		}
		s[0].WaitMember(room, carol.ID, "join")
		atolltest.Agree(room, s[:3]...)
	})
	t.Run("14-002 a malformed template", func(t *testing.T) {
		dora := s[3].User("dora")
		s[1].Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "make_join") {
				fmt.Fprint(w, `{"room_version":"11","event":{"type":"m.room.message"}}`)
				return true
			}
			return false
		})
		dora.Join(room, s[1], s[0])
		s[0].WaitMember(room, dora.ID, "join")
		if s[1].Asked("send_join") != 1 { // carol's
			t.Errorf("%d joins were sent to the server with the malformed template", s[1].Asked("send_join"))
		}
		s[1].Intercept(nil)
	})
	t.Run("14-003 refused by all", func(t *testing.T) {
		erin := s[3].User("erin")
		private := alice.Create(server.CreateRoom{Preset: "private_chat"})
		err := erin.TryJoin(private, s[0])
		if spec.CodeOf(err) != spec.CodeForbidden {
			t.Errorf("got %v", err)
		}
	})
	t.Run("14-028 a room that was left is joined anew", func(t *testing.T) {
		must(t, s[1].Rooms.Leave(context.Background(), bob.About(room, bob.ID)))
		s[0].WaitMember(room, bob.ID, "leave")
		missed := alice.Say(room, "while bob was away")
		before := s[0].Asked("make_join")
		bob.Join(room, s[0])
		if s[0].Asked("make_join") != before+1 {
			t.Error("no handshake")
		}
		s[1].Sees(room, alice.Say(room, "bob is back"))
		if got := s[1].Status(room, missed); got != "unknown" {
			t.Errorf("what was said meanwhile is %s", got)
		}
		atolltest.Agree(room, s[0], s[1])
	})
}
