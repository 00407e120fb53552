package federation_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

// eventsOf reads a list of events out of an answer.
func eventsOf(t *testing.T, rules *spec.Rules, a atolltest.Answer, list string) []*spec.Event {
	t.Helper()
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	var answer map[string]json.RawMessage
	must(t, json.Unmarshal(a.Body, &answer))
	var raw []json.RawMessage
	must(t, json.Unmarshal(answer[list], &raw))
	out := []*spec.Event{}
	for _, r := range raw {
		ev, err := spec.ParseEvent(rules, r)
		must(t, err)
		out = append(out, ev)
	}
	return out
}

func idsOf(events []*spec.Event) []spec.EventID {
	out := []spec.EventID{}
	for _, ev := range events {
		out = append(out, ev.ID)
	}
	return out
}

func missingPath(room spec.RoomID) string {
	return atolltest.Path("v1", "get_missing_events", string(room))
}

func backfillPath(room spec.RoomID, limit string, from ...spec.EventID) string {
	query := url.Values{}
	if limit != "" {
		query.Set("limit", limit)
	}
	for _, id := range from {
		query.Add("v", string(id))
	}
	return atolltest.Path("v1", "backfill", string(room)) + "?" + query.Encode()
}

func statePath(what string, room spec.RoomID, at spec.EventID) string {
	return atolltest.Path("v1", what, string(room)) + "?event_id=" + url.QueryEscape(string(at))
}

func TestHistoryRequests(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b, c := s[0], s[1], s[2]
	alice, bob := a.User("alice"), b.User("bob")
	room := alice.Create(server.CreateRoom{Version: "11"})
	secret := alice.Create(server.CreateRoom{Preset: "private_chat"})
	whisper := alice.Say(secret, "psst")
	bob.Join(room, a)
	rules := a.Rules(room)
	said := []spec.EventID{}
	for i := range 30 {
		said = append(said, alice.Say(room, fmt.Sprint(i)))
	}
	b.Sees(room, said[29])
	missing := func(from *atolltest.Server, body any) atolltest.Answer {
		return from.Request(a, "POST", missingPath(room), body)
	}
	ask := func(earliest, latest []spec.EventID, extra map[string]any) map[string]any {
		body := map[string]any{"earliest_events": earliest, "latest_events": latest}
		for k, v := range extra {
			body[k] = v
		}
		return body
	}
	t.Run("15-031 missing events", func(t *testing.T) {
		for _, test := range []struct {
			claim string
			body  map[string]any
			want  []spec.EventID
		}{
			{"what lies between, oldest first", ask(said[3:4], said[10:11], map[string]any{"limit": 50}), said[4:10]},
			{"ten by default", ask(said[:1], said[20:21], nil), said[10:20]},
			{"capped", ask(said[:1], said[29:30], map[string]any{"limit": 1000}), said[9:29]},
			{"a limit", ask(said[:1], said[29:30], map[string]any{"limit": 2}), said[27:29]},
			{"nothing of less depth", ask(said[:1], said[10:11], map[string]any{"min_depth": a.Row(room, said[8]).Event.Depth}), said[8:10]},
			{"nothing between", ask(said[3:4], said[4:5], nil), []spec.EventID{}},
			{"an unknown event", ask(said[3:4], []spec.EventID{"$nowhere"}, nil), []spec.EventID{}},
			{"an event of another room", ask(said[:1], []spec.EventID{whisper}, nil), []spec.EventID{}},
		} {
			if got := idsOf(eventsOf(t, rules, missing(b, test.body), "events")); !slices.Equal(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.claim, got, test.want)
			}
		}
	})
	t.Run("15-032 refusals", func(t *testing.T) {
		good := ask(said[:1], said[4:5], nil)
		expect(t, "not in the room", missing(c, good), 403, spec.CodeForbidden)
		expect(t, "unknown room", b.Request(a, "POST", missingPath("!nowhere:a.test"), good), 404, spec.CodeNotFound)
		expect(t, "a room that the other is not in", b.Request(a, "POST", missingPath(secret), good), 403, spec.CodeForbidden)
		expect(t, "no lists", missing(b, map[string]any{}), 400, spec.CodeMissingParam)
		expect(t, "wrong type", missing(b, map[string]any{"earliest_events": 5, "latest_events": []string{}}), 400, spec.CodeBadJSON)
		expect(t, "no body", missing(b, nil), 400, spec.CodeNotJSON)
	})
	t.Run("15-033 backfill", func(t *testing.T) {
		get := func(limit string, from ...spec.EventID) []spec.EventID {
			got := b.Request(a, "GET", backfillPath(room, limit, from...), nil)
			if got.Object()["origin"] != "a.test:8448" || got.Object()["origin_server_ts"] == nil {
				t.Errorf("the answer is no transaction: %s", got.Body)
			}
			return idsOf(eventsOf(t, rules, got, "pdus"))
		}
		if got := get("5", said[10]); !slices.Equal(got, []spec.EventID{said[10], said[9], said[8], said[7], said[6]}) {
			t.Errorf("got %v", got)
		}
		if got := get("4", said[10], said[2]); !slices.Equal(got, []spec.EventID{said[10], said[9], said[8], said[7]}) {
			t.Errorf("several: got %v", got)
		}
		if got := get("99999999999", said[29]); len(got) < 36 || a.Row(room, got[len(got)-1]).Event.Type != spec.TypeCreate {
			t.Errorf("to the beginning: %d events", len(got))
		}
		if got := get("5", "$nowhere", whisper); len(got) != 0 {
			t.Errorf("unknown or of another room: got %v", got)
		}
		if got := get("0", said[3]); len(got) != 0 {
			t.Errorf("nothing: got %v", got)
		}
	})
	t.Run("15-034 refusals", func(t *testing.T) {
		expect(t, "not in the room", c.Request(a, "GET", backfillPath(room, "5", said[3]), nil), 403, spec.CodeForbidden)
		expect(t, "no v", b.Request(a, "GET", backfillPath(room, "5"), nil), 400, spec.CodeMissingParam)
		expect(t, "no limit", b.Request(a, "GET", backfillPath(room, "", said[3]), nil), 400, spec.CodeMissingParam)
		expect(t, "20-017 a limit that is no number", b.Request(a, "GET", backfillPath(room, "x", said[3]), nil), 400, spec.CodeInvalidParam)
		expect(t, "20-017 a negative limit", b.Request(a, "GET", backfillPath(room, "-1", said[3]), nil), 400, spec.CodeInvalidParam)
		expect(t, "unknown room", b.Request(a, "GET", backfillPath("!nowhere:a.test", "5", said[3]), nil), 404, spec.CodeNotFound)
	})
}

func TestStateRequests(t *testing.T) {
	for _, version := range []spec.RoomVersion{"11", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			s := atolltest.New(t, 3)
			a, b, c := s[0], s[1], s[2]
			alice, bob := a.User("alice"), b.User("bob")
			room := alice.Create(server.CreateRoom{Version: version})
			secret := alice.Create(server.CreateRoom{Version: version, Preset: "private_chat"})
			whisper := alice.Say(secret, "psst")
			bob.Join(room, a)
			rules := a.Rules(room)
			first := alice.SetState(room, "m.room.topic", "", map[string]string{"topic": "first"})
			second := alice.SetState(room, "m.room.topic", "", map[string]string{"topic": "second"})
			message := alice.Say(room, "hello")
			b.Sees(room, message)
			topicAt := func(id spec.EventID) spec.EventID {
				for _, ev := range eventsOf(t, rules, b.Request(a, "GET", statePath("state", room, id), nil), "pdus") {
					if ev.Type == "m.room.topic" {
						return ev.ID
					}
				}
				return ""
			}
			t.Run("15-036 the state before", func(t *testing.T) {
				for id, want := range map[spec.EventID]spec.EventID{first: "", second: first, message: second} {
					if got := topicAt(id); got != want {
						t.Errorf("topic is %q, want %q", got, want)
					}
				}
			})
			t.Run("15-036 ids and events are the same", func(t *testing.T) {
				got := b.Request(a, "GET", statePath("state", room, message), nil)
				ids := b.Request(a, "GET", statePath("state_ids", room, message), nil)
				for list, of := range map[string]string{"pdus": "pdu_ids", "auth_chain": "auth_chain_ids"} {
					want := idsOf(eventsOf(t, rules, got, list))
					var answer map[string][]spec.EventID
					must(t, json.Unmarshal(ids.Body, &answer))
					slices.Sort(want)
					slices.Sort(answer[of])
					if len(want) == 0 || !slices.Equal(want, answer[of]) {
						t.Errorf("%s: %v and %v", list, want, answer[of])
					}
				}
			})
			t.Run("15-037 refusals", func(t *testing.T) {
				rejected := bob.Event(room, "m.room.name", new(string), map[string]string{"name": "Bob's"}, nil)
				b.Send(a, atolltest.PDU(rejected))
				if got := a.Status(room, rejected.ID); got != "rejected" {
					t.Fatalf("the event is %s", got)
				}
				for _, what := range []string{"state", "state_ids"} {
					ask := func(from *atolltest.Server, path string) atolltest.Answer { return from.Request(a, "GET", path, nil) }
					expect(t, "no event", ask(b, atolltest.Path("v1", what, string(room))), 400, spec.CodeMissingParam)
					expect(t, "no event id", ask(b, statePath(what, room, "lagoon")), 400, spec.CodeInvalidParam)
					expect(t, "unknown", ask(b, statePath(what, room, "$nowhere")), 404, spec.CodeNotFound)
					expect(t, "rejected", ask(b, statePath(what, room, rejected.ID)), 404, spec.CodeNotFound)
					expect(t, "of another room", ask(b, statePath(what, room, whisper)), 404, spec.CodeNotFound)
					expect(t, "not in the room", ask(c, statePath(what, room, message)), 403, spec.CodeForbidden)
					expect(t, "another's room", ask(b, statePath(what, secret, whisper)), 403, spec.CodeForbidden)
					expect(t, "unknown room", ask(b, statePath(what, "!nowhere:a.test", message)), 404, spec.CodeNotFound)
				}
				outlier := b.Row(room, a.StateEvent(room, spec.TypeCreate, "").ID)
				if b.Status(room, outlier.Event.ID) != "outlier" {
					t.Fatalf("the create event is %s", b.Status(room, outlier.Event.ID))
				}
				expect(t, "outlier", a.Request(b, "GET", statePath("state", room, outlier.Event.ID), nil), 404, spec.CodeNotFound)
				expect(t, "15-002 a rejected event", b.Request(a, "GET", atolltest.Path("v1", "event", string(rejected.ID)), nil), 404, spec.CodeNotFound)
			})
			t.Run("15-038 one event", func(t *testing.T) {
				get := func(from *atolltest.Server, id spec.EventID) atolltest.Answer {
					return from.Request(a, "GET", atolltest.Path("v1", "event", string(id)), nil)
				}
				if got := idsOf(eventsOf(t, rules, get(b, message), "pdus")); !slices.Equal(got, []spec.EventID{message}) {
					t.Errorf("got %v", got)
				}
				expect(t, "unknown", get(b, "$nowhere"), 404, spec.CodeNotFound)
				expect(t, "not in the room", get(c, message), 403, spec.CodeForbidden)
				expect(t, "another's room", get(b, whisper), 403, spec.CodeForbidden)
			})
			t.Run("15-039 the auth chain", func(t *testing.T) {
				path := func(room spec.RoomID, id spec.EventID) string {
					return atolltest.Path("v1", "event_auth", string(room), string(id))
				}
				for _, id := range []spec.EventID{message, second, stateEvent(t, a, room, bob.ID).ID} {
					got := idsOf(eventsOf(t, rules, b.Request(a, "GET", path(room, id), nil), "auth_chain"))
					want := chain(a, room, id)
					slices.Sort(got)
					if !slices.Equal(got, want) {
						t.Errorf("got %v, want %v", got, want)
					}
				}
				expect(t, "unknown", b.Request(a, "GET", path(room, "$nowhere"), nil), 404, spec.CodeNotFound)
				expect(t, "of another room", b.Request(a, "GET", path(room, whisper), nil), 404, spec.CodeNotFound)
				expect(t, "not in the room", c.Request(a, "GET", path(room, message), nil), 403, spec.CodeForbidden)
			})
		})
	}
}

// chain is the auth chain of an event as the events tell it, sorted.
func chain(s *atolltest.Server, room spec.RoomID, id spec.EventID) []spec.EventID {
	seen := map[spec.EventID]bool{}
	var visit func(spec.EventID)
	visit = func(id spec.EventID) {
		for _, auth := range s.Row(room, id).Event.Auth {
			if !seen[auth] {
				seen[auth] = true
				visit(auth)
			}
		}
	}
	visit(id)
	out := []spec.EventID{}
	for id := range seen {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func TestHistoryVisibilityForServers(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	alice, bob := a.User("alice"), b.User("bob")
	room := alice.Create(server.CreateRoom{Version: "11"})
	shared := alice.Say(room, "shared")
	alice.SetState(room, "m.room.history_visibility", "", map[string]string{"history_visibility": "joined"})
	before := alice.Say(room, "before bob")
	bob.Join(room, a)
	after := alice.Say(room, "after bob")
	get := func(id spec.EventID) atolltest.Answer {
		return b.Request(a, "GET", atolltest.Path("v1", "event", string(id)), nil)
	}
	expect(t, "15-038 before the server joined", get(before), 403, spec.CodeForbidden)
	expect(t, "15-038 under another visibility", get(shared), 200, "")
	expect(t, "15-038 since the server joined", get(after), 200, "")
	t.Run("in a list it is redacted", func(t *testing.T) {
		got := b.Request(a, "GET", backfillPath(room, "50", after), nil)
		text := map[spec.EventID]bool{}
		for _, ev := range eventsOf(t, a.Rules(room), got, "pdus") {
			text[ev.ID] = strings.Contains(string(ev.Content), "body")
		}
		if hidden, ok := text[before]; !ok || hidden || !text[after] || !text[shared] {
			t.Errorf("got %s", got.Body)
		}
	})
}

func TestServerACLs(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b, c := s[0], s[1], s[2]
	alice, bob, carol := a.User("alice"), b.User("bob"), c.User("carol")
	room := alice.Create(server.CreateRoom{Version: "11"})
	free := alice.Create(server.CreateRoom{Version: "11"})
	for _, id := range []spec.RoomID{room, free} {
		bob.Join(id, a)
		carol.Join(id, a)
		a.WaitMember(id, carol.ID, "join")
		b.WaitMember(id, carol.ID, "join")
	}
	message := alice.Say(room, "hello")
	b.Sees(room, message)
	leave := template(t, a, bob, "leave", room, nil)
	acl := alice.SetState(room, spec.TypeServerACL, "", map[string]any{"allow": []string{"*"}, "deny": []string{"B.test"}})
	t.Run("15-057 the denied server still hears", func(t *testing.T) {
		b.Sees(room, acl)
		b.Sees(room, alice.Say(room, "can you hear me"))
	})
	t.Run("15-050 every request is refused", func(t *testing.T) {
		dora := a.User("dora")
		invite := invitation(bob, room, dora.ID, nil)
		for _, test := range []struct {
			method, path string
			body         any
		}{
			{"GET", makePath("join", room, bob.ID, "11"), nil},
			{"GET", makePath("leave", room, bob.ID), nil},
			{"GET", makePath("knock", room, bob.ID, "11"), nil},
			{"PUT", atolltest.Path("v1", "send_join", string(room), string(leave.ID)), atolltest.PDU(leave)},
			{"PUT", atolltest.Path("v2", "send_join", string(room), string(leave.ID)), atolltest.PDU(leave)},
			{"PUT", atolltest.Path("v1", "send_leave", string(room), string(leave.ID)), atolltest.PDU(leave)},
			{"PUT", atolltest.Path("v2", "send_leave", string(room), string(leave.ID)), atolltest.PDU(leave)},
			{"PUT", atolltest.Path("v1", "send_knock", string(room), string(leave.ID)), atolltest.PDU(leave)},
			{"PUT", atolltest.Path("v2", "invite", string(room), string(invite.ID)), inviteBody(b, invite)},
			{"GET", statePath("state", room, message), nil},
			{"GET", statePath("state_ids", room, message), nil},
			{"GET", backfillPath(room, "5", message), nil},
			{"GET", atolltest.Path("v1", "event_auth", string(room), string(message)), nil},
			{"POST", missingPath(room), map[string]any{"earliest_events": []string{}, "latest_events": []spec.EventID{message}}},
		} {
			expect(t, test.path, b.Request(a, test.method, test.path, test.body), 403, spec.CodeForbidden)
		}
		if got := a.Member(room, bob.ID); got != "join" {
			t.Errorf("bob is %q", got)
		}
	})
	t.Run("15-051 PDUs of the room are ignored, others not", func(t *testing.T) {
		here, there := bob.Message(room, "here", nil), bob.Message(free, "there", nil)
		got := b.Send(a, atolltest.PDU(here), atolltest.PDU(there))
		if got[here.ID] == "" || a.Status(room, here.ID) != "unknown" {
			t.Errorf("denied: %v, the event is %s", got, a.Status(room, here.ID))
		}
		if got[there.ID] != "" || a.Status(free, there.ID) != "told" {
			t.Errorf("allowed: %v, the event is %s", got, a.Status(free, there.ID))
		}
	})
	t.Run("15-056 relayed by an allowed server", func(t *testing.T) {
		ev := bob.Message(room, "relayed", nil)
		if got := c.Send(a, atolltest.PDU(ev)); got[ev.ID] != "" || a.Status(room, ev.ID) != "told" {
			t.Errorf("%v, the event is %s", got, a.Status(room, ev.ID))
		}
	})
	t.Run("allowed again", func(t *testing.T) {
		b.Sees(room, alice.SetState(room, spec.TypeServerACL, "", map[string]any{"allow": []string{"*"}}))
		a.Sees(room, bob.Say(room, "thank you"))
	})
}
