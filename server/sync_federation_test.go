package server_test

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

// room is a room as an answer to a sync has it.
type room struct {
	Timeline struct {
		Events    []event
		Limited   bool
		PrevBatch string `json:"prev_batch"`
	}
	State      events
	StateAfter events `json:"state_after"`
}

type events struct{ Events []event }

type event struct {
	ID       spec.EventID `json:"event_id"`
	Type     string
	StateKey *string `json:"state_key"`
	Content  map[string]any
}

type answer struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join, Leave map[spec.RoomID]room
		Invite      map[spec.RoomID]struct {
			State events `json:"invite_state"`
		}
	}
}

func sync(u *atolltest.User, req server.SyncRequest) answer {
	u.T.Helper()
	req.User, req.Device = u.ID, "D"
	got, err := u.Sync.Sync(context.Background(), req)
	if err != nil {
		u.T.Fatal(err)
	}
	var out answer
	if err := json.Unmarshal(got.AppendJSON(nil), &out); err != nil {
		u.T.Fatal(err)
	}
	return out
}

// show is a short text of events.
func show(list []event) string {
	var out []string
	for _, e := range list {
		l := strings.TrimPrefix(e.Type, "m.room.")
		for _, name := range []string{"body", "name", "topic", "membership"} {
			if s, ok := e.Content[name].(string); ok {
				l += " " + s
			}
		}
		if e.StateKey != nil && *e.StateKey != "" {
			l += " " + spec.UserID(*e.StateKey).Localpart()
		}
		out = append(out, strings.TrimPrefix(l, "message "))
	}
	return strings.Join(out, ", ")
}

func sorted(list []event) string {
	parts := strings.Split(show(list), ", ")
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func wants(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func back(u *atolltest.User, id spec.RoomID, from string, limit int) (list []event, pages int) {
	u.T.Helper()
	for pages = 1; ; pages++ {
		page, err := u.Rooms.Messages(context.Background(), server.Messages{Room: id, User: u.ID, Back: true, From: from, Limit: limit})
		if err != nil {
			u.T.Fatal(err)
		}
		for _, raw := range page.Chunk {
			var e event
			if err := json.Unmarshal(raw, &e); err != nil {
				u.T.Fatal(err)
			}
			list = append(list, e)
		}
		if from = page.End; from == "" || pages > 30 {
			return list, pages
		}
	}
}

func TestSyncJoinedOverFederation(t *testing.T) {
	servers := atolltest.New(t, 2)
	alice, bob := servers[0].User("alice"), servers[1].User("bob")
	id := alice.Create(server.CreateRoom{Name: "Lagoon"})
	for i := range 30 {
		alice.Say(id, fmt.Sprint("m", i+1))
	}
	token := sync(bob, server.SyncRequest{}).NextBatch
	bob.Join(id, servers[0])
	const before = "create, guest_access can_join, history_visibility, join_rules, member join alice, name Lagoon, power_levels"
	var prev string
	for what, req := range map[string]server.SyncRequest{"first": {}, "incremental": {Since: token}} {
		t.Run("05-024 "+what, func(t *testing.T) {
			r := sync(bob, req).Rooms.Join[id]
			wants(t, "timeline", show(r.Timeline.Events), "member join bob")
			got := strings.ReplaceAll(sorted(r.State.Events), "guest_access,", "guest_access can_join,")
			wants(t, "state", got, before)
			if !r.Timeline.Limited {
				t.Error("not limited")
			}
			prev = r.Timeline.PrevBatch
		})
	}
	t.Run("04-037 04-038 history of before the join", func(t *testing.T) {
		list, pages := back(bob, id, prev, 200)
		if len(list) != 37 || pages > 3 {
			t.Errorf("%d events in %d pages: %s", len(list), pages, show(list))
		}
		again, _ := back(bob, id, prev, 7)
		wants(t, "page by page", show(again), show(list))
		if last := list[len(list)-1]; last.Type != spec.TypeCreate {
			t.Errorf("the last event is %s", last.Type)
		}
	})
	t.Run("05-034 what was fetched for it is no news", func(t *testing.T) {
		if r, ok := sync(bob, server.SyncRequest{Since: sync(bob, server.SyncRequest{}).NextBatch}).Rooms.Join[id]; ok {
			t.Errorf("news: %s", show(r.Timeline.Events))
		}
	})
	t.Run("05-025 away and back, with nobody of the server left", func(t *testing.T) {
		token := sync(bob, server.SyncRequest{}).NextBatch
		if err := bob.Rooms.Leave(context.Background(), bob.About(id, bob.ID)); err != nil {
			t.Fatal(err)
		}
		servers[0].WaitMember(id, bob.ID, "leave")
		alice.SetState(id, "m.room.name", "", map[string]string{"name": "Changed"})
		bob.Join(id, servers[0])
		r := sync(bob, server.SyncRequest{Since: token}).Rooms.Join[id]
		wants(t, "timeline", show(r.Timeline.Events), "member join bob")
		if s := sorted(r.State.Events); !strings.Contains(s, "name Changed") || !strings.Contains(s, "create") {
			t.Errorf("state %s", s)
		}
	})
}

func TestSyncRemoteInvite(t *testing.T) {
	servers := atolltest.New(t, 2)
	alice, bob := servers[0].User("alice"), servers[1].User("bob")
	id := alice.Create(server.CreateRoom{Name: "Lagoon", Preset: "private_chat"})
	token := sync(bob, server.SyncRequest{}).NextBatch
	if err := alice.Rooms.Invite(context.Background(), alice.About(id, bob.ID)); err != nil {
		t.Fatal(err)
	}
	t.Run("05-047 02-022 the invite with what the room is", func(t *testing.T) {
		for _, since := range []string{token, ""} {
			got := sync(bob, server.SyncRequest{Since: since})
			if s := show(got.Rooms.Invite[id].State.Events); !strings.Contains(s, "name Lagoon") || !strings.Contains(s, "member invite bob") {
				t.Errorf("invite state: %s", s)
			}
		}
	})
	t.Run("02-025 declined", func(t *testing.T) {
		token := sync(bob, server.SyncRequest{Since: token}).NextBatch
		if err := bob.Rooms.Leave(context.Background(), bob.About(id, bob.ID)); err != nil {
			t.Fatal(err)
		}
		got := sync(bob, server.SyncRequest{Since: token})
		if _, ok := got.Rooms.Leave[id]; !ok || len(got.Rooms.Invite) > 0 {
			t.Errorf("after declining: %+v", got.Rooms)
		}
	})
}

func TestSyncGapInFederation(t *testing.T) {
	servers := atolltest.New(t, 2)
	alice, bob := servers[0].User("alice"), servers[1].User("bob")
	id := alice.Create(server.CreateRoom{Name: "Lagoon"})
	bob.Join(id, servers[0])
	servers[1].Sees(id, alice.Say(id, "before"))
	token := sync(bob, server.SyncRequest{}).NextBatch

	servers[1].Cut()
	alice.SetState(id, "m.room.name", "", map[string]string{"name": "New name"})
	for i := range 5 {
		alice.Say(id, fmt.Sprint("missed", i+1))
	}
	servers[0].Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/get_missing_events/") || strings.Contains(r.URL.Path, "/backfill/") {
			http.Error(w, `{"errcode":"M_UNKNOWN"}`, http.StatusInternalServerError)
			return true
		}
		return false
	})
	servers[1].Mend()
	after := alice.Message(id, "after", nil)
	servers[0].Send(servers[1], atolltest.PDU(after))
	servers[1].Sees(id, after.ID)
	prev := ""
	t.Run("05-033 the timeline begins anew behind the gap", func(t *testing.T) {
		r := sync(bob, server.SyncRequest{Since: token}).Rooms.Join[id]
		// The event right before may have been had by itself.
		if l := show(r.Timeline.Events); l != "after" && l != "missed5, after" {
			t.Errorf("timeline %s", l)
		}
		wants(t, "state", show(r.State.Events), "name New name")
		if !r.Timeline.Limited {
			t.Error("not limited")
		}
		prev = r.Timeline.PrevBatch
		r = sync(bob, server.SyncRequest{Since: token, StateAfter: "state_after"}).Rooms.Join[id]
		wants(t, "state_after", show(r.StateAfter.Events), "name New name")
	})
	t.Run("04-039 history that cannot be had now", func(t *testing.T) {
		list, _ := back(bob, id, prev, 3)
		if s := show(list); !strings.HasSuffix(s, "before, member join bob") {
			t.Errorf("history: %s", s)
		}
	})
}

func TestSyncStateThatLoses(t *testing.T) {
	servers := atolltest.New(t, 2)
	alice, bob := servers[0].User("alice"), servers[1].User("bob")
	id := alice.Create(server.CreateRoom{Name: "Lagoon", InitialState: []server.StateInput{
		{Type: "m.room.power_levels", Content: json.RawMessage(`{"state_default":0}`)},
	}, Version: "11"})
	bob.Join(id, servers[0])
	tokens := []string{sync(alice, server.SyncRequest{}).NextBatch, sync(bob, server.SyncRequest{}).NextBatch}
	ofAlice := alice.Event(id, "m.room.topic", new(string), map[string]string{"topic": "of alice"}, nil)
	ofBob := bob.Event(id, "m.room.topic", new(string), map[string]string{"topic": "of bob"}, nil)
	for _, s := range servers {
		for _, ev := range []*spec.Event{ofAlice, ofBob} {
			if _, err := s.Rooms.ReceivePDU(context.Background(), ev.Sender.Server(), id, atolltest.PDU(ev)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("05-032 with state_after clients learn what won", func(t *testing.T) {
		for i, u := range []*atolltest.User{alice, bob} {
			r := sync(u, server.SyncRequest{Since: tokens[i], StateAfter: "state_after"}).Rooms.Join[id]
			if n := len(r.Timeline.Events); n != 2 {
				t.Errorf("%s: timeline %s", u.ID, show(r.Timeline.Events))
			}
			wants(t, "state_after", show(r.StateAfter.Events), "topic "+u.State(id, "m.room.topic", "")["topic"].(string))
		}
	})
}
