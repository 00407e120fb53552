package federation_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

// inviteBody is the body of an invite of version 2, with the room's create event
// as its state.
func inviteBody(s *atolltest.Server, ev *spec.Event) map[string]any {
	return map[string]any{
		"room_version": ev.Rules.Version, "event": json.RawMessage(atolltest.PDU(ev)),
		"invite_room_state": []json.RawMessage{atolltest.PDU(s.StateEvent(ev.Room, spec.TypeCreate, ""))},
	}
}

// invitation builds an invite by u, without adding it to the room.
func invitation(u *atolltest.User, room spec.RoomID, target spec.UserID, change func(*spec.EventBuilder)) *spec.Event {
	key := string(target)
	return u.Event(room, spec.TypeMember, &key, map[string]string{"membership": "invite"}, change)
}

func TestInviteRequests(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b := s[0], s[1]
	alice, bob, carol := a.User("alice"), b.User("bob"), s[2].User("carol")
	room := alice.Create(server.CreateRoom{Preset: "private_chat"})
	other := alice.Create(server.CreateRoom{})
	key := func(s string) *string { return &s }
	put := func(ev *spec.Event, body any) atolltest.Answer {
		return a.Request(b, "PUT", atolltest.Path("v2", "invite", string(room), string(ev.ID)), body)
	}
	good := invitation(alice, room, bob.ID, nil)
	for _, test := range []struct {
		claim  string
		target spec.UserID
		change func(*spec.EventBuilder)
		status int
		code   spec.Code
	}{
		{"14-046 another type", bob.ID, func(b *spec.EventBuilder) { b.Type = "m.room.lagoon" }, 400, spec.CodeInvalidParam},
		{"14-046 no invite", bob.ID, func(b *spec.EventBuilder) { b.Content = []byte(`{"membership":"join"}`) }, 400, spec.CodeInvalidParam},
		{"14-046 no state event", bob.ID, func(b *spec.EventBuilder) { b.State = nil }, 400, spec.CodeInvalidParam},
		{"14-046 a user of another server", carol.ID, nil, 400, spec.CodeInvalidParam},
		{"14-046 no user", bob.ID, func(b *spec.EventBuilder) { b.State = key("lagoon") }, 400, spec.CodeInvalidParam},
		{"14-046 a sender of another server", bob.ID, func(b *spec.EventBuilder) { b.Sender = carol.ID }, 400, spec.CodeInvalidParam},
		{"14-046 another room", bob.ID, func(b *spec.EventBuilder) { b.Room = other }, 400, spec.CodeInvalidParam},
		{"14-046 an unknown user", "@nobody:b.test:8448", nil, 404, spec.CodeNotFound},
	} {
		t.Run(test.claim, func(t *testing.T) {
			ev := invitation(alice, room, test.target, test.change)
			expect(t, test.claim, put(ev, inviteBody(a, ev)), test.status, test.code)
		})
	}
	t.Run("14-046 a bad signature", func(t *testing.T) {
		raw, _ := json.Marshal(inviteBody(a, good))
		expect(t, "signature", put(good, []byte(strings.Replace(string(raw), `"a.test:8448":{"ed25519:test":"`, `"a.test:8448":{"ed25519:test":"AAAA`, 1))), 400, spec.CodeInvalidParam)
	})
	t.Run("14-048 a version that is not supported", func(t *testing.T) {
		body := inviteBody(a, good)
		body["room_version"] = "lagoon"
		got := put(good, body)
		expect(t, "version", got, 400, spec.CodeIncompatibleRoomVersion)
		if got.Object()["room_version"] != "lagoon" {
			t.Errorf("the answer is %s", got.Body)
		}
		got = a.Request(b, "PUT", atolltest.Path("v1", "invite", string(room), string(good.ID)), atolltest.PDU(good))
		expect(t, "version 1 of the request, which is for old rooms", got, 400, spec.CodeBadJSON)
	})
	t.Run("14-049 18-009 not canonical JSON", func(t *testing.T) {
		raw, _ := json.Marshal(inviteBody(a, good))
		expect(t, "float", put(good, []byte(strings.Replace(string(raw), `"depth":`, `"lagoon":1.5,"depth":`, 1))), 400, spec.CodeBadJSON)
	})
	t.Run("20-009 incomplete bodies", func(t *testing.T) {
		expect(t, "no version", put(good, map[string]any{"event": map[string]any{}}), 400, spec.CodeMissingParam)
		expect(t, "no event", put(good, map[string]any{"room_version": "12"}), 400, spec.CodeMissingParam)
	})
	t.Run("14-047 the room's state", func(t *testing.T) {
		with := func(state ...[]byte) map[string]any {
			body := inviteBody(a, good)
			list := []json.RawMessage{}
			for _, raw := range state {
				list = append(list, raw)
			}
			body["invite_room_state"] = list
			return body
		}
		create := atolltest.PDU(a.StateEvent(room, spec.TypeCreate, ""))
		rules := atolltest.PDU(a.StateEvent(room, spec.TypeJoinRules, ""))
		foreign := atolltest.PDU(a.StateEvent(other, spec.TypeJoinRules, ""))
		forged := []byte(strings.Replace(string(rules), `"a.test:8448":{"ed25519:test":"`, `"a.test:8448":{"ed25519:test":"AAAA`, 1))
		expect(t, "none", put(good, with()), 400, spec.CodeMissingParam)
		expect(t, "no create event", put(good, with(rules)), 400, spec.CodeMissingParam)
		expect(t, "another room's event", put(good, with(create, foreign)), 400, spec.CodeInvalidParam)
		expect(t, "a stripped event", put(good, with(create, []byte(`{"type":"m.room.name","state_key":"","sender":"@x:y","content":{}}`))), 400, spec.CodeInvalidParam)
		expect(t, "a forged event", put(good, with(create, forged)), 400, spec.CodeInvalidParam)
		if got := b.Listed(room, bob.ID); got != "" {
			t.Errorf("bob is %q", got)
		}
	})
	t.Run("14-045 14-054 an invite, twice", func(t *testing.T) {
		for range 2 {
			got := put(good, inviteBody(a, good))
			if got.Status != 200 {
				t.Fatalf("%d %s", got.Status, got.Body)
			}
			var answer struct{ Event json.RawMessage }
			must(t, json.Unmarshal(got.Body, &answer))
			signed, err := spec.ParseEvent(good.Rules, answer.Event)
			if err != nil || signed.ID != good.ID || len(signed.SignatureKeyIDs(b.Name())) == 0 || len(signed.SignatureKeyIDs(a.Name())) == 0 {
				t.Errorf("got %s, %v", answer.Event, err)
			}
		}
		if got := b.Listed(room, bob.ID); got != "invite" {
			t.Errorf("bob is %q", got)
		}
	})
	t.Run("14-057 taking it back", func(t *testing.T) {
		kick := func(u *atolltest.User, change func(*spec.EventBuilder)) *spec.Event {
			key := string(bob.ID)
			return u.Event(room, spec.TypeMember, &key, map[string]string{"membership": "leave"}, change)
		}
		stranger := kick(carolIn(carol, a), func(b *spec.EventBuilder) { b.Sender = carol.ID })
		if got := s[2].Send(b, atolltest.PDU(stranger)); got[stranger.ID] == "" || b.Listed(room, bob.ID) != "invite" {
			t.Errorf("a stranger took it back: %v, bob is %q", got, b.Listed(room, bob.ID))
		}
		message := alice.Message(room, "psst", nil)
		if got := a.Send(b, atolltest.PDU(message)); got[message.ID] == "" || b.Status(room, message.ID) != "unknown" {
			t.Errorf("13-034 a message to a room that one is not in: %v", got)
		}
		back := kick(alice, nil)
		if got := a.Send(b, atolltest.PDU(back)); got[back.ID] != "" || b.Listed(room, bob.ID) != "leave" {
			t.Errorf("got %v, bob is %q", got, b.Listed(room, bob.ID))
		}
	})
}

// carolIn is a user who sees a room through another server but signs with her
// own.
func carolIn(u *atolltest.User, sees *atolltest.Server) *atolltest.User {
	return &atolltest.User{Server: sees.As(u.Server), ID: u.ID}
}

func TestInviteAcross(t *testing.T) {
	for _, version := range []spec.RoomVersion{"1", "11", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			s := atolltest.New(t, 2)
			a, b := s[0], s[1]
			alice, bob := a.User("alice"), b.User("bob")
			room := alice.Create(server.CreateRoom{Preset: "private_chat", Name: "Lagoon", Version: version})
			t.Run("14-052 the server cannot be reached", func(t *testing.T) {
				b.Cut()
				if err := a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)); err == nil || a.Member(room, bob.ID) != "" {
					t.Errorf("got %v, bob is %q", err, a.Member(room, bob.ID))
				}
				b.Mend()
			})
			t.Run("14-042 an answer that was changed", func(t *testing.T) {
				b.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, "/invite/") {
						return false
					}
					ev := invitation(carolIn(alice, a), room, bob.ID, func(b *spec.EventBuilder) { b.OriginServerTS++ })
					raw, _ := json.Marshal(map[string]any{"event": json.RawMessage(atolltest.PDU(ev))})
					_, _ = w.Write(raw)
					return true
				})
				if err := a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)); err == nil || a.Member(room, bob.ID) != "" {
					t.Errorf("got %v, bob is %q", err, a.Member(room, bob.ID))
				}
				b.Intercept(nil)
			})
			t.Run("14-041 14-045 an invite and a join", func(t *testing.T) {
				must(t, a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
				if got := b.Listed(room, bob.ID); got != "invite" || a.Member(room, bob.ID) != "invite" {
					t.Errorf("bob is %q there and %q here", got, a.Member(room, bob.ID))
				}
				bob.Join(room)
				a.WaitMember(room, bob.ID, "join")
				a.Sees(room, bob.Say(room, "thank you"))
				b.Sees(room, alice.Say(room, "welcome"))
				atolltest.Agree(room, a, b)
			})
			t.Run("14-056 an invite to a room that the server is in", func(t *testing.T) {
				dora := b.User("dora")
				must(t, a.Rooms.Invite(t.Context(), alice.About(room, dora.ID)))
				b.WaitMember(room, dora.ID, "invite")
				if ev := stateEvent(t, b, room, dora.ID); len(ev.SignatureKeyIDs(b.Name())) == 0 {
					t.Error("the invite lacks the signature of the invited user's server")
				}
				dora.Join(room)
				a.WaitMember(room, dora.ID, "join")
				atolltest.Agree(room, a, b)
			})
			t.Run("14-055 ban, unban, invite, join", func(t *testing.T) {
				must(t, a.Rooms.Ban(t.Context(), alice.About(room, bob.ID)))
				b.WaitMember(room, bob.ID, "ban")
				if spec.CodeOf(bob.TryJoin(room)) != spec.CodeForbidden {
					t.Error("a banned user joined")
				}
				if spec.CodeOf(a.Rooms.Invite(t.Context(), alice.About(room, bob.ID))) != spec.CodeForbidden {
					t.Error("a banned user was invited")
				}
				must(t, a.Rooms.Unban(t.Context(), alice.About(room, bob.ID)))
				b.WaitMember(room, bob.ID, "leave")
				must(t, a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
				b.WaitMember(room, bob.ID, "invite")
				bob.Join(room)
				a.WaitMember(room, bob.ID, "join")
				atolltest.Agree(room, a, b)
			})
		})
	}
}

func TestLeaveRequests(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b := s[0], s[1]
	alice, bob, carol := a.User("alice"), b.User("bob"), s[2].User("carol")
	room := alice.Create(server.CreateRoom{Preset: "private_chat", Version: "11"})
	must(t, a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
	for _, test := range []struct {
		claim  string
		room   spec.RoomID
		user   spec.UserID
		status int
		code   spec.Code
	}{
		{"14-060 an unknown room", "!nowhere:a.test", bob.ID, 404, spec.CodeNotFound},
		{"14-060 a user who is not there", room, "@dora:b.test:8448", 403, spec.CodeForbidden},
		{"14-060 a user of another server", room, carol.ID, 403, spec.CodeForbidden},
	} {
		t.Run(test.claim, func(t *testing.T) {
			expect(t, test.claim, b.Request(a, "GET", makePath("leave", test.room, test.user), nil), test.status, test.code)
		})
	}
	key := func(s string) *string { return &s }
	for _, test := range []struct {
		claim  string
		change func(*spec.EventBuilder)
		status int
		code   spec.Code
	}{
		{"14-061 another type", func(b *spec.EventBuilder) { b.Type = "m.room.lagoon" }, 400, spec.CodeInvalidParam},
		{"14-061 another membership", func(b *spec.EventBuilder) { b.Content = []byte(`{"membership":"join"}`) }, 400, spec.CodeInvalidParam},
		{"14-061 another state key", func(b *spec.EventBuilder) { b.State = key(string(carol.ID)) }, 400, spec.CodeInvalidParam},
		{"14-061 a sender of another server", func(b *spec.EventBuilder) { b.Sender, b.State = carol.ID, key(string(carol.ID)) }, 403, spec.CodeForbidden},
	} {
		t.Run(test.claim, func(t *testing.T) {
			ev := template(t, a, bob, "leave", room, test.change)
			expect(t, test.claim, handIn(a, b, "v2", "leave", room, ev.ID, atolltest.PDU(ev)), test.status, test.code)
		})
	}
	ev := template(t, a, bob, "leave", room, nil)
	t.Run("14-061 a bad signature", func(t *testing.T) {
		forged := strings.Replace(string(atolltest.PDU(ev)), `{"ed25519:test":"`, `{"ed25519:test":"AAAA`, 1)
		expect(t, "signature", handIn(a, b, "v2", "leave", room, ev.ID, []byte(forged)), 400, spec.CodeInvalidParam)
		missing := strings.Replace(string(atolltest.PDU(ev)), `"b.test:8448":`, `"d.test":`, 1)
		expect(t, "none", handIn(a, b, "v2", "leave", room, ev.ID, []byte(missing)), 400, spec.CodeInvalidParam)
	})
	t.Run("14-063 not canonical JSON", func(t *testing.T) {
		bad := strings.Replace(string(atolltest.PDU(ev)), `"depth":`, `"lagoon":1.5,"depth":`, 1)
		expect(t, "float", handIn(a, b, "v2", "leave", room, ev.ID, []byte(bad)), 400, spec.CodeBadJSON)
	})
	t.Run("14-062 another server's leave", func(t *testing.T) {
		expect(t, "replay", handIn(a, s[2], "v2", "leave", room, ev.ID, atolltest.PDU(ev)), 403, spec.CodeForbidden)
		if got := a.Member(room, bob.ID); got != "invite" {
			t.Errorf("bob is %q", got)
		}
	})
	t.Run("14-061 a leave", func(t *testing.T) {
		got := handIn(a, b, "v2", "leave", room, ev.ID, atolltest.PDU(ev))
		if got.Status != 200 || string(got.Body) != "{}" || a.Member(room, bob.ID) != "leave" {
			t.Errorf("%d %s, bob is %q", got.Status, got.Body, a.Member(room, bob.ID))
		}
	})
	t.Run("a leave by version 1", func(t *testing.T) {
		must(t, a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
		ev := template(t, a, bob, "leave", room, nil)
		if got := handIn(a, b, "v1", "leave", room, ev.ID, atolltest.PDU(ev)); got.Status != 200 || string(got.Body) != "[200,{}]" {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	})
}

func TestRejectAcross(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	alice, bob := a.User("alice"), b.User("bob")
	t.Run("14-058 an invite is turned down", func(t *testing.T) {
		room := alice.Create(server.CreateRoom{Preset: "private_chat"})
		must(t, a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
		must(t, b.Rooms.Leave(t.Context(), bob.About(room, bob.ID)))
		if got := b.Listed(room, bob.ID); got != "leave" {
			t.Errorf("bob is %q", got)
		}
		a.WaitMember(room, bob.ID, "leave")
	})
	t.Run("14-059 while the other server cannot be reached", func(t *testing.T) {
		room := alice.Create(server.CreateRoom{Preset: "private_chat"})
		must(t, a.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
		a.Cut()
		must(t, b.Rooms.Leave(t.Context(), bob.About(room, bob.ID)))
		if got := b.Listed(room, bob.ID); got != "leave" {
			t.Errorf("bob is %q", got)
		}
		a.Mend()
	})
	t.Run("13-039 kick and leave", func(t *testing.T) {
		room := alice.Create(server.CreateRoom{})
		bob.Join(room, a)
		a.WaitMember(room, bob.ID, "join")
		must(t, a.Rooms.Kick(t.Context(), alice.About(room, bob.ID)))
		b.WaitMember(room, bob.ID, "leave")
		bob.Join(room, a)
		must(t, b.Rooms.Leave(t.Context(), bob.About(room, bob.ID)))
		a.WaitMember(room, bob.ID, "leave")
		unheard := alice.Say(room, "nobody hears this")
		bob.Join(room, a)
		b.Sees(room, alice.Say(room, "again"))
		if got := b.Status(room, unheard); got == "told" {
			t.Error("what was said while bob was away was told as new")
		}
		atolltest.Agree(room, a, b)
	})
}

func TestKnockRequests(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b := s[0], s[1]
	alice, bob, carol := a.User("alice"), b.User("bob"), s[2].User("carol")
	room := alice.Create(server.CreateRoom{Version: "11", Name: "Lagoon"})
	carol.Join(room, a)
	ask := func(u spec.UserID, versions ...string) atolltest.Answer {
		return b.Request(a, "GET", makePath("knock", room, u, versions...), nil)
	}
	t.Run("14-065 refusals", func(t *testing.T) {
		expect(t, "join rule", ask(bob.ID, "11"), 403, spec.CodeForbidden)
		alice.SetState(room, "m.room.join_rules", "", map[string]string{"join_rule": "knock"})
		expect(t, "version", ask(bob.ID, "10"), 400, spec.CodeIncompatibleRoomVersion)
		expect(t, "room", b.Request(a, "GET", makePath("knock", "!nowhere:a.test", bob.ID, "11"), nil), 404, spec.CodeNotFound)
		expect(t, "joined", carol.Request(a, "GET", makePath("knock", room, carol.ID, "11"), nil), 403, spec.CodeForbidden)
		must(t, a.Rooms.Ban(t.Context(), alice.About(room, bob.ID)))
		expect(t, "banned", ask(bob.ID, "11"), 403, spec.CodeForbidden)
		must(t, a.Rooms.Unban(t.Context(), alice.About(room, bob.ID)))
	})
	t.Run("14-067 refusals", func(t *testing.T) {
		for claim, change := range map[string]func(*spec.EventBuilder){
			"type":       func(b *spec.EventBuilder) { b.Type = "m.room.lagoon" },
			"no state":   func(b *spec.EventBuilder) { b.State = nil },
			"membership": func(b *spec.EventBuilder) { b.Content = []byte(`{"membership":"join"}`) },
			"sender":     func(b *spec.EventBuilder) { b.Sender = carol.ID },
		} {
			ev := template(t, a, bob, "knock", room, change)
			expect(t, claim, handIn(a, b, "v1", "knock", room, ev.ID, atolltest.PDU(ev)), 400, spec.CodeInvalidParam)
		}
	})
	t.Run("14-066 14-069 a knock", func(t *testing.T) {
		ev := template(t, a, bob, "knock", room, func(b *spec.EventBuilder) { b.Content = []byte(`{"membership":"knock","reason":"please"}`) })
		got := handIn(a, b, "v1", "knock", room, ev.ID, atolltest.PDU(ev))
		state, _ := got.Object()["knock_room_state"].([]any)
		create, _ := state[0].(map[string]any)
		if got.Status != 200 || create["type"] != "m.room.create" || create["signatures"] == nil {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		s[2].Sees(room, ev.ID)
		if got := s[2].State(room, spec.TypeMember, string(bob.ID)); got["membership"] != "knock" || got["reason"] != "please" {
			t.Errorf("bob is %v", got)
		}
	})
	t.Run("14-064 taking it back", func(t *testing.T) {
		ev := template(t, a, bob, "leave", room, nil)
		got := handIn(a, b, "v2", "leave", room, ev.ID, atolltest.PDU(ev))
		if got.Status != 200 || a.Member(room, bob.ID) != "leave" {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	})
}
