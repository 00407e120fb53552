package clientapi_test

import (
	"slices"
	"testing"

	"atoll/clientapi/clienttest"
)

func TestKnock(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	knockable := func(options obj) string {
		body := obj{"preset": "private_chat", "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}}
		for k, v := range options {
			body[k] = v
		}
		return alice.Room(body)
	}
	knock := func(c *clienttest.Client, room string, body any) clienttest.Reply {
		return c.Post("/knock/"+clienttest.Esc(room), body)
	}
	// where lists the sections of a sync answer that have the room.
	where := func(r clienttest.Reply, room string) string {
		found := ""
		for _, section := range []string{"join", "invite", "knock", "leave"} {
			if r.At("rooms", section, room) != nil {
				found += section
			}
		}
		return found
	}
	t.Run("02-051 02-054 02-055 a knock", func(t *testing.T) {
		bob.Put("/profile/"+clienttest.Esc(bob.User)+"/displayname", obj{"displayname": "Bob"}).OK()
		room := knockable(obj{"name": "Lagoon"})
		hers, his := alice.Sync().NextBatch(), bob.Sync().NextBatch()
		if r := knock(bob, room, obj{"reason": "please"}).OK(); r.Str("room_id") != room {
			t.Error(r.Raw)
		}
		for _, r := range []clienttest.Reply{bob.Sync("since", his), bob.Sync()} {
			state := r.Events("rooms", "knock", room, "knock_state", "events")
			own := clienttest.Find(state, "m.room.member", bob.User)
			if where(r, room) != "knock" || clienttest.Find(state, "m.room.create", "") == nil || own.Str("content", "membership") != "knock" ||
				clienttest.Find(state, "m.room.name", "").Str("content", "name") != "Lagoon" {
				t.Error(r.Raw)
			}
		}
		seen := clienttest.Find(alice.Sync("since", hers).Timeline(room), "m.room.member", bob.User)
		if seen.Str("content", "membership") != "knock" || seen.Str("content", "reason") != "please" || seen.Str("content", "displayname") != "Bob" {
			t.Error(seen)
		}
		if slices.Contains(bob.Get("/joined_rooms").OK().List("joined_rooms"), any(room)) {
			t.Error("02-040 the room counts as joined")
		}
	})
	t.Run("02-051 knock_restricted, an alias, no body", func(t *testing.T) {
		room := knockable(obj{"room_alias_name": "lagoon", "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock_restricted", "allow": []obj{}}}}})
		if r := knock(bob, "#lagoon:hs", nil).OK(); r.Str("room_id") != room {
			t.Error(r.Raw)
		}
		knock(bob, "#nowhere:hs", nil).Is(404, "M_NOT_FOUND")
	})
	t.Run("02-052 rooms that nobody knocks at", func(t *testing.T) {
		knock(bob, alice.Room(obj{"preset": "public_chat"}), obj{}).Is(403, "M_FORBIDDEN")
		knock(bob, alice.Room(obj{"preset": "private_chat"}), obj{}).Is(403, "M_FORBIDDEN")
		knock(bob, knockable(obj{"room_version": "6"}), obj{}).Is(403, "M_FORBIDDEN")
		knock(bob, "!nowhere:hs", obj{}).IsOneOf("404 M_NOT_FOUND", "403 M_FORBIDDEN")
		knock(bob, "nonsense", obj{}).Is(400, "M_INVALID_PARAM")
		knock(bob, "!x:hs", `{"reason": 5}`).Is(400, "M_BAD_JSON")
	})
	t.Run("02-053 invited, joined, banned, knocking", func(t *testing.T) {
		room := knockable(nil)
		knock(bob, room, obj{}).Is(200, "")
		knock(bob, room, obj{"reason": "again"}).Is(200, "")
		alice.Invite(room, bob.User)
		knock(bob, room, obj{}).Is(403, "M_FORBIDDEN")
		bob.Join(room)
		knock(bob, room, obj{}).Is(403, "M_FORBIDDEN")
		alice.Post(roomPath(room, "ban"), obj{"user_id": bob.User}).OK()
		knock(bob, room, obj{}).Is(403, "M_FORBIDDEN")
	})
	t.Run("02-056 taking a knock back", func(t *testing.T) {
		room := knockable(nil)
		knock(bob, room, obj{}).OK()
		since := bob.Sync().NextBatch()
		bob.Leave(room)
		r := bob.Sync("since", since)
		timeline := r.Events("rooms", "leave", room, "timeline", "events")
		if where(r, room) != "leave" || len(timeline) != 1 || timeline[0].Str("content", "membership") != "leave" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-057 02-066 a knock is rejected", func(t *testing.T) {
		room := knockable(nil)
		knock(bob, room, obj{}).OK()
		since := bob.Sync().NextBatch()
		alice.Post(roomPath(room, "kick"), obj{"user_id": bob.User}).OK()
		r := bob.Sync("since", since)
		if where(r, room) != "leave" {
			t.Error(r.Raw)
		}
		knock(bob, room, obj{}).OK()
		if r := bob.Sync("since", r.NextBatch()); where(r, room) != "knock" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-058 02-059 a knock is accepted", func(t *testing.T) {
		room := knockable(nil)
		knock(bob, room, obj{}).OK()
		since := bob.Sync().NextBatch()
		bob.Post(roomPath(room, "join"), obj{}).Is(403, "M_FORBIDDEN")
		alice.Invite(room, bob.User)
		if r := bob.Sync("since", since); where(r, room) != "invite" {
			t.Error(r.Raw)
		}
		bob.Join(room)
		if r := bob.Sync("since", since); where(r, room) != "join" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-060 servers that may be in the room", func(t *testing.T) {
		room := knockable(nil)
		bob.Post("/knock/"+clienttest.Esc(room)+"?via=hs&via=x.org&server_name=y.org", obj{}).Is(200, "")
	})
}

func TestForget(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	withLeave := clienttest.Filter(obj{"room": obj{"include_leave": true}})
	forget := func(room string) clienttest.Reply { return bob.Post(roomPath(room, "forget"), obj{}) }
	shown := func(r clienttest.Reply, room string) bool {
		for _, section := range []string{"join", "invite", "knock", "leave"} {
			if r.At("rooms", section, room) != nil {
				return true
			}
		}
		return false
	}
	t.Run("02-069 rooms that cannot be forgotten", func(t *testing.T) {
		room := alice.Room(nil)
		forget(room).Is(404, "M_NOT_FOUND")
		forget("!nowhere:hs").Is(404, "M_NOT_FOUND")
		alice.Invite(room, bob.User)
		forget(room).Is(400, "M_UNKNOWN")
		bob.Join(room)
		forget(room).Is(400, "M_UNKNOWN")
		if !shown(bob.Sync(), room) {
			t.Error("the room is forgotten")
		}
	})
	for what, end := range map[string]func(room string){
		"after leaving": func(room string) { bob.Leave(room) },
		"after a ban":   func(room string) { alice.Post(roomPath(room, "ban"), obj{"user_id": bob.User}).OK() },
	} {
		t.Run("02-069 "+what, func(t *testing.T) {
			room := alice.Room(nil)
			bob.Join(room)
			event := alice.Say(room, "hello")
			before := bob.Sync().NextBatch()
			end(room)
			if !shown(bob.Sync("filter", withLeave), room) {
				t.Error("the room is missing before it is forgotten")
			}
			after := bob.Sync("since", before).NextBatch()
			forget(room).Is(200, "")
			forget(room).Is(200, "")
			for name, r := range map[string]clienttest.Reply{
				"initial": bob.Sync("filter", withLeave), "incremental": bob.Sync("since", after, "filter", withLeave),
				"full state": bob.Sync("since", after, "filter", withLeave, "full_state", "true"),
			} {
				if shown(r, room) {
					t.Errorf("%s: %s", name, r.Raw)
				}
			}
			if r := bob.Sync("since", before); r.At("rooms", "leave", room) == nil {
				t.Error("a device that knows the room as joined never hears that it was left")
			}
			bob.Get(roomPath(room, "messages")+"?dir=b").Is(403, "M_FORBIDDEN")
			bob.Get(roomPath(room, "state")).Is(403, "M_FORBIDDEN")
			bob.Get(roomPath(room, "members")).Is(403, "M_FORBIDDEN")
			bob.Get(roomPath(room, "event", event)).Is(404, "M_NOT_FOUND")
			bob.Get(roomPath(room, "context", event)).IsOneOf("404 M_NOT_FOUND", "403 M_FORBIDDEN")
		})
	}
	t.Run("02-069 20-038 over a restart, and through further events about the user", func(t *testing.T) {
		room := alice.Room(nil)
		bob.Join(room)
		bob.Leave(room)
		forget(room).OK()
		hs.Restart()
		alice, bob = alice.At(hs), bob.At(hs)
		since := bob.Sync().NextBatch()
		alice.Post(roomPath(room, "ban"), obj{"user_id": bob.User}).OK()
		if shown(bob.Sync("filter", withLeave), room) {
			t.Error("the ban brought the room back")
		}
		bob.Get(roomPath(room, "messages")+"?dir=b").Is(403, "M_FORBIDDEN")
		bob.Sync("since", since)
	})
	t.Run("02-070 a forgotten room comes back", func(t *testing.T) {
		for what, back := range map[string]func(room string){
			"join":   func(room string) { bob.Join(room) },
			"invite": func(room string) { alice.Invite(room, bob.User) },
			"knock": func(room string) {
				alice.SetState(room, "m.room.join_rules", "", obj{"join_rule": "knock"})
				bob.Post("/knock/"+clienttest.Esc(room), obj{}).OK()
			},
		} {
			room := alice.Room(nil)
			bob.Join(room)
			bob.Leave(room)
			forget(room).OK()
			since := bob.Sync().NextBatch()
			back(room)
			if !shown(bob.Sync("since", since), room) || !shown(bob.Sync(), room) {
				t.Errorf("%s: the room is still forgotten", what)
			}
			bob.Leave(room)
			if !shown(bob.Sync("filter", withLeave), room) {
				t.Errorf("%s: the room is forgotten again", what)
			}
		}
	})
}
