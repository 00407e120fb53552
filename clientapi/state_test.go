package clientapi_test

import (
	"strings"
	"sync"
	"testing"

	"atoll/clientapi/clienttest"
)

func TestReadingState(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(obj{"preset": "public_chat", "name": "Room"})
	t.Run("03-001 content and event", func(t *testing.T) {
		if r := alice.State(room, "m.room.name", "").OK(); r.Raw != `{"name":"Room"}` {
			t.Error(r.Raw)
		}
		e := alice.Get(roomPath(room, "state", "m.room.name", "") + "?format=event").OK()
		for _, key := range []string{"type", "sender", "event_id", "room_id"} {
			if e.Str(key) == "" {
				t.Errorf("no %s in %s", key, e.Raw)
			}
		}
		if e.At("state_key") != "" || e.At("origin_server_ts") == nil || e.Str("content", "name") != "Room" {
			t.Error(e.Raw)
		}
		alice.Get(roomPath(room, "state", "m.room.name", "")+"?format=xml").Is(400, "M_INVALID_PARAM")
	})
	t.Run("03-002 03-007 ways to write an empty key", func(t *testing.T) {
		for _, path := range []string{"state/m.room.topic", "state/m.room.topic/"} {
			alice.Put("/rooms/"+clienttest.Esc(room)+"/"+path, obj{"topic": path}).OK()
			for _, other := range []string{"state/m.room.topic", "state/m.room.topic/"} {
				if r := alice.Get("/rooms/" + clienttest.Esc(room) + "/" + other).OK(); r.Str("topic") != path {
					t.Error(r.Raw)
				}
			}
		}
		alice.Post("/rooms/"+clienttest.Esc(room)+"/state/m.room.topic", obj{}).Is(405, "M_UNRECOGNIZED")
		alice.Post("/rooms/"+clienttest.Esc(room)+"/state/m.room.topic/", obj{}).Is(405, "M_UNRECOGNIZED")
		alice.Post("/rooms/"+clienttest.Esc(room)+"/state/m.room.topic/x", obj{}).Is(405, "M_UNRECOGNIZED")
	})
	t.Run("03-003 absent keys, strangers, rooms that are not", func(t *testing.T) {
		alice.State(room, "m.none", "").Is(404, "M_NOT_FOUND")
		bob.State(room, "m.room.name", "").Is(403, "M_FORBIDDEN")
		bob.Get(roomPath(room, "state")).Is(403, "M_FORBIDDEN")
		for _, path := range []string{"state", "state/m.room.name", "members", "joined_members"} {
			alice.Get("/rooms/"+clienttest.Esc("!nope:"+hs.Name)+"/"+path).Is(403, "M_FORBIDDEN")
			alice.Get("/rooms/nope/"+path).IsOneOf("400 M_INVALID_PARAM", "403 M_FORBIDDEN", "404 M_NOT_FOUND")
		}
	})
	t.Run("03-004 whole state", func(t *testing.T) {
		seen := map[string]bool{}
		for _, e := range stateOf(t, alice, room) {
			key := e.Type() + "|" + e.Str("state_key")
			if seen[key] || e.ID() == "" || e.Str("room_id") != room {
				t.Error(e)
			}
			seen[key] = true
		}
		if !seen["m.room.create|"] || !seen["m.room.member|"+alice.User] || !seen["m.room.name|"] {
			t.Error(seen)
		}
	})
	t.Run("03-005 a world-readable room", func(t *testing.T) {
		open := alice.Room(obj{"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "world_readable"}}}})
		bob.Get(roomPath(open, "state")).Is(200, "")
		bob.State(open, "m.room.history_visibility", "").Is(200, "")
	})
	t.Run("03-006 20-018 20-019 nasty types and keys", func(t *testing.T) {
		for _, text := range []string{"a/b", "100%", "a?b#c", "with space", "é🐱", "a+b", "%2F", "..", ".", "a&b=c", `q"uote\`} {
			eventType, key := "t."+text, text
			id := alice.SetState(room, eventType, key, obj{"v": text})
			if r := alice.State(room, eventType, key).OK(); r.Str("v") != text {
				t.Errorf("%q: %s", text, r.Raw)
			}
			if r := alice.Get(roomPath(room, "event", id)).OK(); r.Str("type") != eventType || r.Str("state_key") != key {
				t.Errorf("%q: %s", text, r.Raw)
			}
		}
		alice.Put(roomPath(room, "state", "t")+"/a%00b", obj{}).Is(400, "")
		alice.Put(roomPath(room, "state", "t")+"/a%FFb", obj{}).Is(400, "")
	})
}

func TestSendingState(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
	bob.Join(room)
	t.Run("03-008 the same and other content", func(t *testing.T) {
		a := alice.SetState(room, "m.x", "", obj{"v": 1})
		b := alice.SetState(room, "m.x", "", obj{"v": 2})
		alice.SetState(room, "m.x", "", obj{"v": 2})
		if a == b {
			t.Error("a change made no event")
		}
	})
	t.Run("03-009 no right", func(t *testing.T) {
		hs.Register("carol").Put(roomPath(room, "state", "m.x", ""), obj{}).Is(403, "M_FORBIDDEN")
		bob.Put(roomPath(room, "state", "m.x", ""), obj{"v": 3}).Is(403, "M_FORBIDDEN")
		if r := alice.State(room, "m.x", "").OK(); r.At("v") != 2.0 {
			t.Error(r.Raw)
		}
	})
	t.Run("03-010 limits in bytes", func(t *testing.T) {
		alice.Put(roomPath(room, "state", "m.big", ""), obj{"x": strings.Repeat("x", 65536)}).Is(413, "M_TOO_LARGE")
		alice.Put(roomPath(room, "send", "m.big", "big1"), obj{"x": strings.Repeat("é", 32800)}).Is(413, "M_TOO_LARGE")
		alice.Put(roomPath(room, "send", "m.big", "big2"), obj{"x": strings.Repeat("é", 30000)}).Is(200, "")
		for _, long := range []string{strings.Repeat("x", 256), strings.Repeat("é", 128)} {
			alice.Put(roomPath(room, "state", long, ""), obj{}).IsOneOf("400 M_INVALID_PARAM", "400 M_BAD_JSON", "413 M_TOO_LARGE", "400 M_TOO_LARGE")
			alice.Put(roomPath(room, "state", "m.x", long), obj{}).IsOneOf("400 M_INVALID_PARAM", "400 M_BAD_JSON", "413 M_TOO_LARGE", "400 M_TOO_LARGE")
			alice.Put(roomPath(room, "send", long, "t"), obj{}).IsOneOf("400 M_INVALID_PARAM", "400 M_BAD_JSON", "413 M_TOO_LARGE", "400 M_TOO_LARGE")
		}
		alice.Put(roomPath(room, "state", "m.x", strings.Repeat("é", 127)), obj{}).Is(200, "")
	})
	t.Run("03-011 03-012 state keys that look like users", func(t *testing.T) {
		for _, key := range []string{bob.User, "@oops", alice.User + "_x", "@"} {
			alice.Put(roomPath(room, "state", "m.x", key), obj{}).Is(403, "M_FORBIDDEN")
		}
		alice.Put(roomPath(room, "state", "m.x", alice.User), obj{}).Is(200, "")
	})
	t.Run("03-013 what was replaced", func(t *testing.T) {
		first := alice.SetState(room, "m.y", "", obj{"v": "old"})
		second := alice.SetState(room, "m.y", "", obj{"v": "new"})
		r := alice.Get(roomPath(room, "event", second)).OK()
		if r.Str("unsigned", "replaces_state") != first || r.Str("unsigned", "prev_content", "v") != "old" {
			t.Error(r.Raw)
		}
	})
	t.Run("03-016 a second create event", func(t *testing.T) {
		before := alice.State(room, "m.room.create", "").OK().Raw
		if r := alice.Put(roomPath(room, "state", "m.room.create", ""), obj{"creator": alice.User}); r.Status < 400 || r.Status > 499 {
			t.Error(r.Status, r.Raw)
		}
		if after := alice.State(room, "m.room.create", "").OK().Raw; after != before {
			t.Error(after)
		}
	})
	t.Run("20-036 concurrent changes of one key", func(t *testing.T) {
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				if r, err := alice.Try("PUT", roomPath(room, "state", "m.race", ""), obj{"i": i}); err != nil || r.Status != 200 {
					t.Error(err, r.Raw)
				}
			})
		}
		group.Wait()
		count := 0
		for _, e := range history(t, alice, room) {
			if e.Type() == "m.race" {
				count++
			}
		}
		if count != 8 {
			t.Errorf("%d events", count)
		}
	})
	t.Run("20-009 20-011 bodies that are no content", func(t *testing.T) {
		for body, code := range map[string]string{
			`{`: "M_NOT_JSON", ``: "M_NOT_JSON", `[]`: "M_BAD_JSON", `null`: "M_BAD_JSON", `"x"`: "M_BAD_JSON", `{"a":1.5}`: "M_BAD_JSON",
			`{"a":9007199254740993}`: "M_BAD_JSON", `{"a":1e400}`: "M_BAD_JSON", `{"a":"\ud800"}`: "M_BAD_JSON|M_NOT_JSON",
			"{\"a\":\"\xff\"}": "M_NOT_JSON|M_BAD_JSON", `{"a":1,"a":2}`: "M_BAD_JSON|M_NOT_JSON",
		} {
			alice.Put(roomPath(room, "state", "m.x", ""), body).Is(400, code)
			alice.Put(roomPath(room, "send", "m.x", alice.Txn()), body).Is(400, code)
		}
	})
	t.Run("20-015 U+0000 in content", func(t *testing.T) {
		r := alice.Put(roomPath(room, "send", "m.x", alice.Txn()), `{"a":"x\u0000y"}`)
		if r.Status != 400 {
			if got := alice.Get(roomPath(room, "event", r.OK().Str("event_id"))).OK(); got.Str("content", "a") != "x\x00y" {
				t.Error(got.Raw)
			}
		}
	})
	t.Run("20-030 20-031 malformed state of known types breaks nothing", func(t *testing.T) {
		odd := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
		bob.Join(odd)
		for eventType, content := range map[string]any{
			"m.room.name": obj{"name": 5}, "m.room.topic": obj{"topic": []int{1}}, "m.room.history_visibility": obj{"history_visibility": 7},
			"m.room.encryption": obj{}, "m.room.tombstone": obj{}, "m.room.guest_access": obj{"guest_access": nil}, "m.room.avatar": obj{"url": obj{}},
			"m.room.join_rules": obj{},
		} {
			alice.Put(roomPath(odd, "state", eventType, ""), content).Is(200, "")
		}
		alice.Put(roomPath(odd, "state", "m.room.member", alice.User), obj{"membership": "join", "displayname": 5, "avatar_url": []int{}}).IsOneOf("200", "400 M_BAD_JSON", "400 M_INVALID_PARAM")
		for _, c := range []*clienttest.Client{alice, bob} {
			c.Sync()
			for _, path := range []string{"state", "members", "joined_members", "messages?dir=b"} {
				c.Get("/rooms/"+clienttest.Esc(odd)+"/"+path).Is(200, "")
			}
		}
		hs.Register("dora").Post(roomPath(odd, "join"), obj{}).Is(403, "M_FORBIDDEN") // 20-032
	})
}

func TestPowerLevels(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob, carol := hs.Register("alice"), hs.Register("bob"), hs.Register("carol")
	room := func(version string) string {
		id := alice.Room(obj{"preset": "public_chat", "room_version": version})
		bob.Join(id)
		carol.Join(id)
		return id
	}
	put := func(c *clienttest.Client, room string, content any) clienttest.Reply {
		return c.Put(roomPath(room, "state", "m.room.power_levels", ""), content)
	}
	t.Run("03-022 levels replaced by nothing", func(t *testing.T) {
		id := room("11")
		put(alice, id, obj{}).OK()
		put(alice, id, obj{"users_default": 1}).Is(403, "M_FORBIDDEN")
		if r := alice.State(id, "m.room.power_levels", "").OK(); r.Raw != "{}" {
			t.Error(r.Raw)
		}
	})
	t.Run("03-021 03-023 03-024 03-025 values", func(t *testing.T) {
		id := room("11")
		ok := obj{alice.User: 100, "@x:other.server": 20}
		put(alice, id, obj{"users": ok}).OK()
		for _, bad := range []any{
			obj{"users": ok, "ban": 5.5}, obj{"users": ok, "ban": true}, obj{"users": ok, "ban": nil}, obj{"users": ok, "ban": []int{}},
			obj{"users": ok, "ban": "50"}, obj{"users": obj{alice.User: 100, "nobody": 5}}, obj{"users": []int{}}, obj{"users": ok, "events": obj{"x": "5"}},
			`{"users":{"` + alice.User + `":100},"ban":9007199254740992}`,
		} {
			r := put(alice, id, bad)
			r.IsOneOf("400 M_BAD_JSON", "403 M_FORBIDDEN", "400 M_INVALID_PARAM")
		}
		old := room("9")
		put(alice, old, obj{"users": ok, "ban": "50"}).IsOneOf("200", "400 M_BAD_JSON")
	})
	t.Run("03-026 03-027 03-028 nobody rises above themselves", func(t *testing.T) {
		id := room("11")
		alice.Levels(id, obj{"users": obj{alice.User: 100, bob.User: 50, carol.User: 50}, "events": obj{"m.top": 100, "m.room.power_levels": 50}})
		base := func() map[string]any { return alice.State(id, "m.room.power_levels", "").OK().Event() }
		try := func(change func(map[string]any)) clienttest.Reply {
			levels := base()
			change(levels)
			return put(bob, id, levels)
		}
		users := func(m map[string]any) map[string]any { return m["users"].(map[string]any) }
		for name, change := range map[string]func(map[string]any){
			"raise ban":         func(m map[string]any) { m["ban"] = 51 },
			"raise self":        func(m map[string]any) { users(m)[bob.User] = 51 },
			"lower an equal":    func(m map[string]any) { users(m)[carol.User] = 0 },
			"remove a higher":   func(m map[string]any) { delete(users(m), alice.User) },
			"remove an event":   func(m map[string]any) { delete(m["events"].(map[string]any), "m.top") },
			"lower an event":    func(m map[string]any) { m["events"].(map[string]any)["m.top"] = 10 },
			"add an event":      func(m map[string]any) { m["events"].(map[string]any)["m.new"] = 60 },
			"add a user":        func(m map[string]any) { users(m)["@new:hs"] = 60 },
			"raise notify":      func(m map[string]any) { m["notifications"] = obj{"room": 60} },
			"raise the default": func(m map[string]any) { m["users_default"] = 60 },
		} {
			if r := try(change); r.Status != 403 {
				t.Errorf("%s: %d %s", name, r.Status, r.Raw)
			}
		}
		try(func(m map[string]any) { users(m)["@new:hs"] = 50 }).Is(200, "")
		try(func(m map[string]any) { users(m)[bob.User] = 40 }).Is(200, "")
	})
	t.Run("03-029 03-030 levels of event types", func(t *testing.T) {
		id := room("11")
		alice.Levels(id, obj{"events": obj{"m.room.topic": 0}})
		bob.SetState(id, "m.room.topic", "", obj{"topic": "bob's"})
		alice.Levels(id, obj{"events": obj{"m.room.message": 50}})
		bob.Put(roomPath(id, "send", "m.room.message", bob.Txn()), obj{"body": "x"}).Is(403, "M_FORBIDDEN")
		bob.Put(roomPath(id, "send", "m.other", bob.Txn()), obj{"body": "x"}).Is(200, "")
	})
	t.Run("03-032 03-033 memberships have levels of their own", func(t *testing.T) {
		id := room("11")
		alice.Levels(id, obj{"events": obj{"m.room.member": 100}, "invite": 0})
		bob.Leave(id)
		bob.Join(id)
		bob.Invite(id, hs.Register("dora").User)
	})
	t.Run("03-034 v12 creators", func(t *testing.T) {
		id := room("12")
		r := put(alice, id, obj{"users": obj{alice.User: 100}})
		r.IsOneOf("400 M_BAD_JSON", "400 M_INVALID_PARAM", "400 M_FORBIDDEN", "403 M_FORBIDDEN")
		alice.Levels(id, obj{"users": obj{bob.User: int64(1)<<53 - 1}})
		bob.Post(roomPath(id, "kick"), obj{"user_id": alice.User}).Is(403, "M_FORBIDDEN")
		bob.Post(roomPath(id, "ban"), obj{"user_id": alice.User}).Is(403, "M_FORBIDDEN")
		alice.Post(roomPath(id, "kick"), obj{"user_id": bob.User}).Is(200, "")
	})
}
