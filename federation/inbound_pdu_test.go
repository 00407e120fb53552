package federation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

// pduBed is a room that alice made on one server and bob has joined from another.
// What bob's server sends is made up by the test.
type pduBed struct {
	t          *testing.T
	a, b       *atolltest.Server
	alice, bob *atolltest.User
	room       spec.RoomID
}

func newPDUBed(t *testing.T, version spec.RoomVersion) *pduBed {
	s := atolltest.New(t, 2)
	bed := &pduBed{t: t, a: s[0], b: s[1], alice: s[0].User("alice"), bob: s[1].User("bob")}
	bed.room = bed.alice.Create(server.CreateRoom{Version: version})
	bed.bob.Join(bed.room, bed.a)
	atolltest.Agree(bed.room, s...)
	return bed
}

// send sends events to alice's server and checks what it says and what becomes
// of them. A status that begins with "!" wants an error in the answer.
func (bed *pduBed) send(want string, events ...*spec.Event) {
	bed.t.Helper()
	raw := make([][]byte, len(events))
	for i, ev := range events {
		raw[i] = atolltest.PDU(ev)
	}
	answer := bed.b.Send(bed.a, raw...)
	status, failed := strings.CutPrefix(want, "!")
	for _, ev := range events {
		if got, ok := answer[ev.ID]; !ok || (got != "") != failed {
			bed.t.Errorf("the answer for %s is %q, %v", ev.ID, got, ok)
		}
		if got := bed.a.Status(bed.room, ev.ID); got != status {
			bed.t.Errorf("%s is %s, want %s", ev.ID, got, status)
		}
	}
}

func (bed *pduBed) topic(text string, change func(*spec.EventBuilder)) *spec.Event {
	return bed.bob.Event(bed.room, "m.room.topic", new(string), map[string]string{"topic": text}, change)
}

// well checks that the room goes on: extremities are as they should be, and both
// servers hear each other.
func (bed *pduBed) well() {
	bed.t.Helper()
	bed.b.Sees(bed.room, bed.alice.Say(bed.room, "still here"))
	bed.a.Sees(bed.room, bed.bob.Say(bed.room, "me too"))
}

func TestPDUChecks(t *testing.T) {
	bed := newPDUBed(t, "11")
	a, room, bob, alice := bed.a, bed.room, bed.bob, bed.alice
	other := alice.Create(server.CreateRoom{Version: "11"})
	bob.Join(other, a)
	key := func(s string) *string { return &s }

	t.Run("15-001 15-002 15-003 what the rules refuse is rejected", func(t *testing.T) {
		before := a.Extremities(room)
		ev := bed.topic("bob was here", nil)
		bed.send("!rejected", ev)
		if a.State(room, "m.room.topic", "") != nil || !slices.Equal(a.Extremities(room), before) {
			t.Errorf("topic %v, extremities %v", a.State(room, "m.room.topic", ""), a.Extremities(room))
		}
		if next := alice.Say(room, "next"); slices.Contains(a.Row(room, next).Event.Prev, ev.ID) {
			t.Error("the next event refers to it")
		}
		t.Run("15-002 what refers to it stands for itself", func(t *testing.T) {
			bed.send("told", bob.Message(room, "after it", func(b *spec.EventBuilder) { b.Prev = []spec.EventID{ev.ID}; b.Depth++ }))
		})
		t.Run("15-004 what rests on it is rejected", func(t *testing.T) {
			bed.send("!rejected", bob.Message(room, "with it", func(b *spec.EventBuilder) { b.Auth = append(b.Auth, ev.ID) }))
		})
		t.Run("15-003 the state after it is that before", func(t *testing.T) {
			if row := a.Row(room, ev.ID); row.After != row.Before {
				t.Error("the state has changed")
			}
		})
		bed.send("!rejected", ev) // once more, and finally
	})
	t.Run("15-005 15-006 15-007 the list of auth events", func(t *testing.T) {
		name := a.StateEvent(room, "m.room.guest_access", "")
		for claim, change := range map[string]func(*spec.EventBuilder){
			"15-005 one twice":              func(b *spec.EventBuilder) { b.Auth = append(b.Auth, b.Auth[0]) },
			"15-005 one that is not called": func(b *spec.EventBuilder) { b.Auth = append(b.Auth, name.ID) },
			"15-007 no create event":        func(b *spec.EventBuilder) { b.Auth = b.Auth[1:] },
			"15-007 none":                   func(b *spec.EventBuilder) { b.Auth = nil },
		} {
			t.Run(claim, func(t *testing.T) { bed.send("!rejected", bob.Message(room, claim, change)) })
		}
	})
	t.Run("15-006 an auth event of another room", func(t *testing.T) {
		create := a.StateEvent(other, spec.TypeCreate, "")
		ev := bob.Message(room, "mixed", func(b *spec.EventBuilder) { b.Auth[0] = create.ID })
		if got := bed.b.Send(a, atolltest.PDU(ev)); len(got) != 1 {
			t.Errorf("answer %v", got)
		}
		if got := a.Status(room, ev.ID); got == "told" {
			t.Errorf("the event is %s", got)
		}
	})
	t.Run("15-010 a second create event", func(t *testing.T) {
		ev := bob.Event(room, spec.TypeCreate, new(string), map[string]string{"room_version": "11"}, func(b *spec.EventBuilder) {
			b.Auth, b.Depth = nil, 99
		})
		bed.send("!rejected", ev)
	})
	t.Run("15-011 a sender who is not joined", func(t *testing.T) {
		ghost := &atolltest.User{Server: bed.b, ID: "@ghost:b.test:8448"}
		bed.send("!rejected", ghost.Message(room, "boo", nil))
	})
	t.Run("15-012 too many references", func(t *testing.T) {
		bed.send("!unknown", bob.Message(room, "prev", func(b *spec.EventBuilder) {
			for i := range 21 {
				b.Prev = append(b.Prev, spec.EventID(fmt.Sprintf("$%043d", i)))
			}
		}))
		bed.send("!unknown", bob.Message(room, "auth", func(b *spec.EventBuilder) {
			for i := range 8 {
				b.Auth = append(b.Auth, spec.EventID(fmt.Sprintf("$%043d", i)))
			}
		}))
	})
	t.Run("15-013 too large", func(t *testing.T) {
		ev := bob.Message(room, "large", nil)
		raw := strings.Replace(string(atolltest.PDU(ev)), `"large"`, `"`+strings.Repeat("x", 70000)+`"`, 1)
		if got := bed.b.Send(a, []byte(raw)); len(got) != 0 {
			t.Errorf("answer %v", got)
		}
	})
	t.Run("15-001 13-043 a forged signature is dropped", func(t *testing.T) {
		ev := bob.Message(room, "forged", nil)
		raw := strings.Replace(string(atolltest.PDU(ev)), `"b.test:8448":{"ed25519:test":"`, `"b.test:8448":{"ed25519:test":"AAAA`, 1)
		if got := bed.b.Send(a, []byte(raw)); got[ev.ID] == "" || a.Status(room, ev.ID) != "unknown" {
			t.Errorf("answer %v, the event is %s", got, a.Status(room, ev.ID))
		}
		inHerName := alice.As2(bed.b).Message(room, "in her name", nil)
		bed.send("!unknown", inHerName)
	})
	t.Run("15-001 13-043 a wrong content hash", func(t *testing.T) {
		ev := bob.Message(room, "original", nil)
		raw := strings.Replace(string(atolltest.PDU(ev)), `"original"`, `"changed"`, 1)
		if got := bed.b.Send(a, []byte(raw)); got[ev.ID] != "" {
			t.Errorf("answer %v", got)
		}
		if row := a.Row(room, ev.ID); row == nil || string(row.Event.Content) != "{}" {
			t.Errorf("what is stored is %+v", row)
		}
	})
	t.Run("an event of another room in the room's name", func(t *testing.T) {
		ev := bob.Message(other, "elsewhere", nil)
		bed.b.Send(a, atolltest.PDU(ev))
		if a.Status(other, ev.ID) != "told" || a.Status(room, ev.ID) != "unknown" {
			t.Errorf("there %s, here %s", a.Status(other, ev.ID), a.Status(room, ev.ID))
		}
	})
	t.Run("15-014 a strange depth and time", func(t *testing.T) {
		bed.send("told", bob.Message(room, "deep", func(b *spec.EventBuilder) { b.Depth, b.OriginServerTS = 1<<53-1, b.OriginServerTS+3_600_000 }))
		bed.send("told", bob.Message(room, "past", func(b *spec.EventBuilder) { b.Depth, b.OriginServerTS = 0, -5 }))
		next := alice.Say(room, "after the deep one")
		if got := a.Row(room, next).Event.Depth; got != 1<<53-1 {
			t.Errorf("depth is %d", got)
		}
	})
	t.Run("20-028 a user id of historical form", func(t *testing.T) {
		odd := spec.UserID("@Ödd user:b.test:8448")
		join := (&atolltest.User{Server: bed.b, ID: odd}).Event(room, spec.TypeMember, key(string(odd)), map[string]string{"membership": "join"}, nil)
		bed.send("told", join)
	})
	bed.well()
}

func TestV12CreateInAuthEvents(t *testing.T) {
	bed := newPDUBed(t, "12")
	t.Run("15-007 v12 rejects what lists the create event", func(t *testing.T) {
		bed.send("!rejected", bed.bob.Message(bed.room, "listed", func(b *spec.EventBuilder) {
			b.Auth = append(b.Auth, bed.room.CreateEvent())
		}))
	})
	bed.well()
}

func TestSoftFailure(t *testing.T) {
	bed := newPDUBed(t, "11")
	a, room, alice, bob := bed.a, bed.room, bed.alice, bed.bob
	carol := bed.b.User("carol")
	carol.Join(room)
	a.WaitMember(room, carol.ID, "join")
	atolltest.Agree(room, a, bed.b)
	late := bob.Message(room, "late", nil)
	later := bob.Message(room, "later", func(b *spec.EventBuilder) { b.Prev, b.Depth = []spec.EventID{late.ID}, b.Depth+1 })
	beside := bob.Message(room, "beside", nil)
	must(t, a.Rooms.Ban(t.Context(), alice.About(room, bob.ID)))
	ban := a.Extremities(room)
	t.Run("15-015 15-016 by one who is banned by now", func(t *testing.T) {
		bed.send("soft-failed", late, beside)
		bed.send("soft-failed", later)
		if got := a.Extremities(room); !slices.Equal(got, ban) {
			t.Errorf("extremities are %v", got)
		}
		next := a.Row(room, alice.Say(room, "next"))
		if !slices.Equal(next.Event.Prev, ban) {
			t.Errorf("the next event follows %v", next.Event.Prev)
		}
	})
	t.Run("15-018 it is given to those who ask", func(t *testing.T) {
		got := bed.b.Request(a, "GET", atolltest.Path("v1", "event", string(late.ID)), nil)
		if ids := idsOf(eventsOf(t, late.Rules, got, "pdus")); !slices.Equal(ids, []spec.EventID{late.ID}) {
			t.Errorf("got %v", ids)
		}
	})
	t.Run("15-017 what others say after it is as usual", func(t *testing.T) {
		ev := carol.Message(room, "I heard him", func(b *spec.EventBuilder) { b.Prev, b.Depth = []spec.EventID{late.ID}, late.Depth+1 })
		bed.send("told", ev)
		if !slices.Contains(a.Extremities(room), ev.ID) {
			t.Error("it is no extremity")
		}
		ids := idsOf(eventsOf(t, late.Rules, bed.b.Request(a, "GET", backfillPath(room, "2", ev.ID), nil), "pdus"))
		if !slices.Equal(ids, []spec.EventID{ev.ID, late.ID}) {
			t.Errorf("15-018 backfill gives %v", ids)
		}
		if got := a.Member(room, bob.ID); got != "ban" {
			t.Errorf("bob is %q", got)
		}
	})
}

// serves lets bob's server answer questions with what the test has made up.
type serves struct {
	missing  []*spec.Event                  // get_missing_events
	stateIDs map[spec.EventID]any           // state_ids by event
	events   map[spec.EventID]*spec.Event   // event
	chains   map[spec.EventID][]*spec.Event // event_auth
	raw      [][]byte                       // more for get_missing_events
}

func list(events []*spec.Event) []json.RawMessage {
	out := []json.RawMessage{}
	for _, ev := range events {
		out = append(out, atolltest.PDU(ev))
	}
	return out
}

func (bed *pduBed) answers(s serves) {
	bed.b.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		var body any
		last, _ := url.PathUnescape(r.URL.EscapedPath()[strings.LastIndex(r.URL.EscapedPath(), "/")+1:])
		switch {
		case strings.Contains(r.URL.Path, "/get_missing_events/"):
			all := list(s.missing)
			for _, raw := range s.raw {
				all = append(all, raw)
			}
			body = map[string]any{"events": all}
		case strings.Contains(r.URL.Path, "/state_ids/"):
			body = s.stateIDs[spec.EventID(r.URL.Query().Get("event_id"))]
		case strings.Contains(r.URL.Path, "/event_auth/"):
			if chain := s.chains[spec.EventID(last)]; chain != nil {
				body = map[string]any{"auth_chain": list(chain)}
			}
		case strings.Contains(r.URL.Path, "/event/"):
			if ev := s.events[spec.EventID(last)]; ev != nil {
				body = map[string]any{"origin": "b.test:8448", "origin_server_ts": 1, "pdus": list([]*spec.Event{ev})}
			}
		default:
			return false
		}
		if body == nil {
			w.WriteHeader(404)
			body = map[string]any{"errcode": "M_NOT_FOUND", "error": "not here"}
		}
		_ = json.NewEncoder(w).Encode(body)
		return true
	})
}

// after puts an event after others.
func after(events ...*spec.Event) func(*spec.EventBuilder) {
	return func(b *spec.EventBuilder) {
		b.Prev = nil
		for _, ev := range events {
			b.Prev = append(b.Prev, ev.ID)
			b.Depth = max(b.Depth, ev.Depth+1)
		}
	}
}

func TestMissingEvents(t *testing.T) {
	bed := newPDUBed(t, "11")
	a, b, room, bob := bed.a, bed.b, bed.room, bed.bob
	other := bed.alice.Create(server.CreateRoom{Version: "11"})
	bob.Join(other, a)

	t.Run("15-020 15-021 15-022 a gap that is filled", func(t *testing.T) {
		tips := a.Extremities(room)
		line := []*spec.Event{bob.Message(room, "0", nil)}
		for i := range 5 {
			line = append(line, bob.Message(room, fmt.Sprint(i+1), after(line[i])))
		}
		elsewhere := bob.Message(other, "elsewhere", nil)
		shuffled := append([]*spec.Event{line[3], line[1], elsewhere, line[5], line[0], line[4], line[2]}, bob.Message(room, "superfluous", nil))
		bed.answers(serves{missing: shuffled})
		made := b.Asked("")
		bed.send("told", line[5])
		for _, ev := range line {
			a.Sees(room, ev.ID)
		}
		for i := 1; i < len(line); i++ {
			if a.Row(room, line[i].ID).Pos < a.Row(room, line[i-1].ID).Pos {
				t.Errorf("%d was told before %d", i, i-1)
			}
		}
		if b.Asked("/get_missing_events/") != 1 || b.Asked("/state") != 0 {
			t.Errorf("%d requests, %d for missing events, %d for state", b.Asked("")-made, b.Asked("/get_missing_events/"), b.Asked("/state"))
		}
		if a.Status(other, elsewhere.ID) == "told" {
			t.Error("an event of another room was taken")
		}
		if got := a.Extremities(room); slices.Equal(got, tips) || !slices.Contains(got, line[5].ID) {
			t.Errorf("extremities are %v", got)
		}
	})
	b.Intercept(nil)
	bed.well()
	t.Run("15-009 15-022 events of the answer are checked", func(t *testing.T) {
		first := bob.Message(room, "first", nil)
		power := bob.Event(room, spec.TypePowerLevels, new(string), map[string]any{"users": map[string]int{string(bob.ID): 100}}, after(first))
		last := bob.Message(room, "last", after(power))
		bed.answers(serves{missing: []*spec.Event{first, power}})
		bed.send("told", last)
		if got := a.Status(room, power.ID); got != "rejected" {
			t.Errorf("the levels are %s", got)
		}
		users, _ := a.State(room, spec.TypePowerLevels, "")["users"].(map[string]any)
		if users[string(bob.ID)] != nil {
			t.Error("bob has power")
		}
	})
	b.Intercept(nil)
	bed.well()
	t.Run("15-029 one bad auth event takes with it what rests on it", func(t *testing.T) {
		// A membership that is not known here, of a user who never could join.
		ghost := &atolltest.User{Server: b, ID: "@ghost:b.test:8448"}
		key := string(ghost.ID)
		join := ghost.Event(room, spec.TypeMember, &key, map[string]string{"membership": "join"}, func(b *spec.EventBuilder) { b.Auth = b.Auth[:1] })
		said := ghost.Message(room, "boo", func(b *spec.EventBuilder) { b.Auth = append(b.Auth, join.ID) })
		bed.answers(serves{chains: map[spec.EventID][]*spec.Event{said.ID: {join}}})
		bed.send("!rejected", said)
		if got := a.Status(room, join.ID); got != "rejected" {
			t.Errorf("the join is %s", got)
		}
		bed.send("told", bob.Message(room, "beside", nil))
	})
	b.Intercept(nil)
	bed.well()
}

func TestUnfillableGap(t *testing.T) {
	bed := newPDUBed(t, "11")
	a, b, room, bob := bed.a, bed.b, bed.room, bed.bob
	lost := bob.Message(room, "lost", nil)
	next := bob.Message(room, "next", after(lost))
	t.Run("15-023 15-026 the event waits, the room goes on", func(t *testing.T) {
		broken := strings.Replace(string(atolltest.PDU(lost)), `"depth":`, `"lagoon":1.5,"depth":`, 1)
		bed.answers(serves{raw: [][]byte{[]byte(broken), []byte(`5`), []byte(`"x"`)}})
		beside := bob.Message(room, "beside", nil)
		bed.send("unknown", next)
		bed.send("told", beside)
		b.Intercept(nil)
		bed.well()
	})
	t.Run("15-026 and is placed when it comes again with what it lacks", func(t *testing.T) {
		bed.answers(serves{missing: []*spec.Event{lost}})
		bed.b.Send(a, atolltest.PDU(next))
		a.Sees(room, next.ID)
		a.Sees(room, lost.ID)
		b.Intercept(nil)
	})
	t.Run("15-027 15-028 a made-up state gives no power", func(t *testing.T) {
		hidden := bob.Message(room, "hidden", nil)
		power := bob.Event(room, spec.TypePowerLevels, new(string), map[string]any{"users": map[string]int{string(bob.ID): 100}}, nil)
		topic := bob.Event(room, "m.room.topic", new(string), map[string]string{"topic": "mine"}, func(b *spec.EventBuilder) {
			after(hidden)(b)
			for i, id := range b.Auth {
				if id == a.StateEvent(room, spec.TypePowerLevels, "").ID {
					b.Auth[i] = power.ID
				}
			}
		})
		state := []spec.EventID{power.ID}
		for _, key := range []spec.StateKey{{Type: spec.TypeCreate}, {Type: spec.TypeJoinRules}, {Type: spec.TypeMember, Key: string(bob.ID)}} {
			state = append(state, a.StateEvent(room, key.Type, key.Key).ID)
		}
		bed.answers(serves{
			stateIDs: map[spec.EventID]any{hidden.ID: map[string]any{"pdu_ids": state, "auth_chain_ids": []string{}}},
			events:   map[spec.EventID]*spec.Event{hidden.ID: hidden, power.ID: power},
			chains:   map[spec.EventID][]*spec.Event{topic.ID: {power}},
		})
		bed.b.Send(a, atolltest.PDU(topic))
		if a.State(room, "m.room.topic", "") != nil {
			t.Errorf("the topic is %v", a.State(room, "m.room.topic", ""))
		}
		users, _ := a.State(room, spec.TypePowerLevels, "")["users"].(map[string]any)
		if users[string(bob.ID)] != nil || users[string(bed.alice.ID)] == nil {
			t.Errorf("levels are %v", users)
		}
		b.Intercept(nil)
	})
	bed.well()
}

func TestLargeGap(t *testing.T) {
	bed := newPDUBed(t, "11")
	a, b, room, bob, alice := bed.a, bed.b, bed.room, bed.bob, bed.alice
	// What bob says for a while is lost on the way.
	a.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/send/") {
			return false
		}
		_, _ = w.Write([]byte(`{"pdus":{}}`))
		return true
	})
	carol := b.User("carol")
	lost := []spec.EventID{}
	for i := range 30 {
		lost = append(lost, bob.Say(room, fmt.Sprint(i)))
		if i == 3 {
			carol.Join(room)
		}
	}
	atolltest.Eventually(t, "all is sent", func() bool { return a.Asked("/send/") > 0 && len(b.Sender.Destinations()) == 0 })
	a.Intercept(nil)
	last := bob.Say(room, "last")
	t.Run("15-024 15-025 a gap larger than the answer", func(t *testing.T) {
		a.Sees(room, last)
		if b.Asked("/get_missing_events/") == 0 || b.Asked("/state") == 0 {
			t.Errorf("%d requests for missing events, %d for state", b.Asked("/get_missing_events/"), b.Asked("/state"))
		}
		if got := a.Status(room, lost[29]); got != "told" {
			t.Errorf("what came just before is %s", got)
		}
		if got := a.Status(room, lost[0]); got == "told" {
			t.Errorf("what came long before is %s", got)
		}
		a.WaitMember(room, carol.ID, "join") // from the state at the gap
	})
	t.Run("both go on", func(t *testing.T) {
		bed.well()
		alice.Say(room, "done")
		atolltest.Agree(room, a, b)
	})
}

func TestEventOnOldHistory(t *testing.T) {
	s := atolltest.New(t, 3)
	a, b, c := s[0], s[1], s[2]
	alice, bob, carol := a.User("alice"), b.User("bob"), c.User("carol")
	room := alice.Create(server.CreateRoom{Version: "11"})
	carol.Join(room, a)
	said := []spec.EventID{}
	for i := range 12 {
		said = append(said, alice.Say(room, fmt.Sprint(i)))
	}
	c.Sees(room, said[11])
	bob.Join(room, a)
	atolltest.Agree(room, s...)
	t.Run("15-025 what was before the join is not told as new", func(t *testing.T) {
		ev := carol.Message(room, "on old history", after(a.Row(room, said[3]).Event))
		c.Send(a, atolltest.PDU(ev))
		a.Sees(room, ev.ID)
		if got := a.Send(b, atolltest.PDU(ev)); got[ev.ID] != "" { // it knows what came before
			t.Errorf("answer %v", got)
		}
		b.Sees(room, ev.ID)
		for _, id := range said {
			if got := b.Status(room, id); got == "told" {
				t.Errorf("%s is %s", id, got)
			}
		}
		atolltest.Agree(room, a, b)
	})
}

func TestForks(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	alice, bob := a.User("alice"), b.User("bob")
	room := alice.Create(server.CreateRoom{Version: "12"})
	bob.Join(room, a)
	atolltest.Agree(room, a, b)
	t.Run("15-048 both speak at the same time", func(t *testing.T) {
		b.Cut()
		one, two := alice.Say(room, "one"), bob.Say(room, "two")
		b.Mend()
		three := bob.Message(room, "three", nil) // a request of bob's server wakes alice's
		b.Send(a, atolltest.PDU(b.Row(room, two).Event), atolltest.PDU(three))
		a.Sees(room, two)
		b.Sees(room, one)
		atolltest.Eventually(t, "both branches are joined", func() bool {
			next := alice.Say(room, "next")
			prev := a.Row(room, next).Event.Prev
			b.Sees(room, next)
			return len(prev) >= 1 && len(b.Extremities(room)) == 1
		})
		atolltest.Agree(room, a, b)
	})
}
