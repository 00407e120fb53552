package clientapi_test

import (
	"slices"
	"strings"
	"testing"

	"atoll/clientapi/clienttest"
)

// stateOf lists the whole state of a room.
func stateOf(t *testing.T, c *clienttest.Client, room string) []clienttest.Event {
	t.Helper()
	return c.Get(roomPath(room, "state")).OK().Events()
}

// history lists all events of a room that c sees, oldest first.
func history(t *testing.T, c *clienttest.Client, room string) []clienttest.Event {
	t.Helper()
	return c.Get(roomPath(room, "messages") + "?dir=f&limit=1000").OK().Events("chunk")
}

func TestCreateRoom(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	t.Run("02-001 order of the events", func(t *testing.T) {
		room := alice.Room(obj{"preset": "public_chat", "name": "N", "topic": "T", "room_alias_name": "first", "invite": []string{bob.User},
			"initial_state": []obj{{"type": "m.x", "content": obj{"n": 1}}, {"type": "m.y", "state_key": "k", "content": obj{}}}})
		want := []string{
			"m.room.create", "m.room.member", "m.room.power_levels", "m.room.canonical_alias", "m.room.join_rules",
			"m.room.history_visibility", "m.room.guest_access", "m.x", "m.y", "m.room.name", "m.room.topic", "m.room.member",
		}
		got := types(history(t, alice, room))
		// public_chat leaves guest access to the default, which may be said or not.
		if !slices.Contains(got, "m.room.guest_access") {
			want = slices.DeleteFunc(want, func(s string) bool { return s == "m.room.guest_access" })
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
	t.Run("02-002 defaults follow from visibility", func(t *testing.T) {
		room := alice.Room(obj{})
		check := func(room, eventType, key, want string) {
			t.Helper()
			if got := alice.State(room, eventType, "").OK().Str(key); got != want {
				t.Errorf("%s is %s, want %s", eventType, got, want)
			}
		}
		check(room, "m.room.join_rules", "join_rule", "invite")
		check(room, "m.room.history_visibility", "history_visibility", "shared")
		check(room, "m.room.guest_access", "guest_access", "can_join")
		room = alice.Room(obj{"visibility": "public"})
		check(room, "m.room.join_rules", "join_rule", "public")
		if r := alice.State(room, "m.room.guest_access", ""); r.Status == 200 && r.Str("guest_access") != "forbidden" {
			t.Error(r.Raw)
		}
		room = alice.Room(obj{"visibility": "private", "preset": "public_chat"})
		check(room, "m.room.join_rules", "join_rule", "public") // 02-003
	})
	t.Run("02-002 a body may be missing", func(t *testing.T) { alice.Post("/createRoom", nil).IsOneOf("200", "400 M_NOT_JSON") })
	t.Run("02-004 what beats what", func(t *testing.T) {
		room := alice.Room(obj{"preset": "private_chat", "name": "mine", "topic": "ours", "initial_state": []obj{
			{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}},
			{"type": "m.room.name", "content": obj{"name": "other"}},
			{"type": "m.room.topic", "content": obj{"topic": "other"}},
		}})
		if r := alice.State(room, "m.room.join_rules", ""); r.Str("join_rule") != "knock" {
			t.Error(r.Raw)
		}
		if r := alice.State(room, "m.room.name", ""); r.Str("name") != "mine" {
			t.Error(r.Raw)
		}
		if r := alice.State(room, "m.room.topic", ""); r.Str("topic") != "ours" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-005 an initial state event without a key", func(t *testing.T) {
		room := alice.Room(obj{"initial_state": []obj{{"type": "m.z", "content": obj{"z": true}}}})
		if r := alice.State(room, "m.z", "").OK(); r.At("z") != true {
			t.Error(r.Raw)
		}
	})
	t.Run("02-006 a topic is given in both forms", func(t *testing.T) {
		room := alice.Room(obj{"topic": "tea"})
		r := alice.State(room, "m.room.topic", "").OK()
		if r.Str("topic") != "tea" || r.Str("m.topic", "m.text", 0, "body") != "tea" || len(r.List("m.topic", "m.text")) != 1 {
			t.Error(r.Raw)
		}
		if kind := r.Str("m.topic", "m.text", 0, "mimetype"); kind != "" && kind != "text/plain" {
			t.Error(kind)
		}
	})
	t.Run("02-007 a topic in initial_state is kept as it is", func(t *testing.T) {
		room := alice.Room(obj{"initial_state": []obj{{"type": "m.room.topic", "content": obj{"topic": "x"}}}})
		if r := alice.State(room, "m.room.topic", "").OK(); r.At("m.topic") != nil {
			t.Error(r.Raw)
		}
	})
	t.Run("02-008 room versions", func(t *testing.T) {
		alice.Post("/createRoom", `{"room_version": 10}`).Is(400, "M_BAD_JSON")
		alice.Post("/createRoom", obj{"room_version": "nope"}).Is(400, "M_UNSUPPORTED_ROOM_VERSION")
		preset := alice.Get("/capabilities").OK().Str("capabilities", "m.room_versions", "default")
		if r := alice.State(alice.Room(nil), "m.room.create", "").OK(); r.Str("room_version") != preset {
			t.Error(r.Raw)
		}
		versions, _ := alice.Get("/capabilities").OK().At("capabilities", "m.room_versions", "available").(map[string]any)
		if len(versions) < 10 {
			t.Error(versions)
		}
		for v := range versions {
			room := alice.Room(obj{"room_version": v, "preset": "public_chat"})
			if r := alice.State(room, "m.room.create", "").OK(); r.Str("room_version") != v && !(v == "1" && r.At("room_version") == nil) {
				t.Error(r.Raw)
			}
			if id := alice.Say(room, "hello"); !strings.HasPrefix(id, "$") {
				t.Error(id)
			}
		}
	})
	t.Run("02-009 creation content", func(t *testing.T) {
		room := alice.Room(obj{"room_version": "10", "creation_content": obj{"creator": "@x:y", "room_version": "3", "m.federate": false, "type": "m.space", "custom": obj{"a": 1}}})
		r := alice.State(room, "m.room.create", "").OK()
		if r.Str("creator") != alice.User || r.Str("room_version") != "10" || r.At("m.federate") != false || r.Str("type") != "m.space" || r.At("custom", "a") != 1.0 {
			t.Error(r.Raw)
		}
	})
	t.Run("02-010 an alias that is taken", func(t *testing.T) {
		room := alice.Room(obj{"room_alias_name": "taken"})
		alias := "#taken:" + hs.Name
		if r := alice.State(room, "m.room.canonical_alias", "").OK(); r.Str("alias") != alias {
			t.Error(r.Raw)
		}
		if r := bob.Get("/directory/room/" + clienttest.Esc(alias)).OK(); r.Str("room_id") != room {
			t.Error(r.Raw)
		}
		before := len(bob.Get("/joined_rooms").OK().List("joined_rooms"))
		bob.Post("/createRoom", obj{"room_alias_name": "taken"}).Is(400, "M_ROOM_IN_USE")
		if after := len(bob.Get("/joined_rooms").OK().List("joined_rooms")); after != before {
			t.Error("a half-made room is left")
		}
	})
	t.Run("02-011 aliases that cannot be", func(t *testing.T) {
		alice.Post("/createRoom", obj{"room_alias_name": strings.Repeat("x", 255)}).Is(400, "M_INVALID_PARAM")
		alice.Post("/createRoom", obj{"room_alias_name": "a:b"}).Is(400, "M_INVALID_PARAM")
		alice.Post("/createRoom", `{"room_alias_name": 5}`).Is(400, "M_BAD_JSON")
	})
	t.Run("02-012 power levels overridden", func(t *testing.T) {
		room := alice.Room(obj{"room_version": "11", "power_level_content_override": obj{"events_default": 7, "users": obj{alice.User: 100, bob.User: 30}}})
		r := alice.State(room, "m.room.power_levels", "").OK()
		if r.At("events_default") != 7.0 || r.At("users", bob.User) != 30.0 || r.At("state_default") != 50.0 {
			t.Error(r.Raw)
		}
		alice.Post("/createRoom", obj{"room_version": "11", "power_level_content_override": obj{"users": obj{alice.User: 0}}}).
			IsOneOf("400 M_INVALID_ROOM_STATE", "403 M_FORBIDDEN")
	})
	t.Run("02-013 invites", func(t *testing.T) {
		room := alice.Room(obj{"invite": []string{bob.User}})
		if bob.Sync().At("rooms", "invite", room) == nil {
			t.Error("no invite")
		}
		before := len(alice.Get("/joined_rooms").OK().List("joined_rooms"))
		alice.Post("/createRoom", obj{"invite": []string{"bob"}}).Is(400, "")
		if after := len(alice.Get("/joined_rooms").OK().List("joined_rooms")); after != before {
			t.Error("a room was made")
		}
	})
	t.Run("02-014 is_direct", func(t *testing.T) {
		room := alice.Room(obj{"invite": []string{bob.User}, "is_direct": true})
		for _, e := range stateOf(t, alice, room) {
			want := e.Type() == "m.room.member" && e.Str("state_key") == bob.User
			if (e.At("content", "is_direct") == true) != want {
				t.Error(e)
			}
		}
	})
	t.Run("02-015 trusted_private_chat", func(t *testing.T) {
		room := alice.Room(obj{"room_version": "11", "preset": "trusted_private_chat", "invite": []string{bob.User}})
		if r := alice.State(room, "m.room.power_levels", "").OK(); r.At("users", bob.User) != 100.0 {
			t.Error(r.Raw)
		}
		room = alice.Room(obj{"room_version": "12", "preset": "trusted_private_chat", "invite": []string{bob.User},
			"creation_content": obj{"additional_creators": []string{bob.User}}})
		if r := alice.State(room, "m.room.create", "").OK(); len(r.List("additional_creators")) != 1 || r.Str("additional_creators", 0) != bob.User {
			t.Error(r.Raw)
		}
	})
	t.Run("03-019 03-020 generated power levels", func(t *testing.T) {
		r := alice.State(alice.Room(obj{"room_version": "11"}), "m.room.power_levels", "").OK()
		for _, key := range []string{"ban", "kick", "redact", "state_default", "events_default", "users_default"} {
			if _, ok := r.At(key).(float64); !ok {
				t.Errorf("%s is %v", key, r.At(key))
			}
		}
		if r.At("users", alice.User) != 100.0 {
			t.Error(r.Raw)
		}
		r = alice.State(alice.Room(obj{"room_version": "12"}), "m.room.power_levels", "").OK()
		tombstone, _ := r.At("events", "m.room.tombstone").(float64)
		standard, _ := r.At("state_default").(float64)
		if users, _ := r.At("users").(map[string]any); len(users) != 0 || tombstone <= standard {
			t.Error(r.Raw)
		}
	})
	t.Run("20-009 bodies that make no room", func(t *testing.T) {
		for _, body := range []string{
			`[]`, `{"name": 5}`, `{"invite": "@a:b"}`, `{"invite": [5]}`, `{"initial_state": {}}`, `{"initial_state": [5]}`, `{"initial_state": [{"type": 5, "content": {}}]}`,
			`{"creation_content": 5}`, `{"creation_content": []}`, `{"power_level_content_override": "x"}`, `{"is_direct": "yes"}`, `{"preset": 1}`,
			`{"initial_state": [{"type": "m.x", "content": "x"}]}`,
		} {
			alice.Post("/createRoom", body).Is(400, "M_BAD_JSON")
		}
		for _, body := range []string{`{"preset": "fancy"}`, `{"visibility": "sometimes"}`, `{"initial_state": [{"content": {}}]}`} {
			alice.Post("/createRoom", body).Is(400, "M_INVALID_PARAM|M_MISSING_PARAM|M_BAD_JSON")
		}
		alice.Post("/createRoom", `{"creation_content": {"x": 1.5}}`).Is(400, "M_BAD_JSON")
		alice.Post("/createRoom", `{"name": "`+strings.Repeat("x", 70_000)+`"}`).IsOneOf("400 M_BAD_JSON", "400 M_INVALID_PARAM", "413 M_TOO_LARGE", "400 M_TOO_LARGE")
		alice.Post("/createRoom", obj{"invite_3pid": []obj{{"medium": "email", "address": "a@b", "id_server": "x", "id_access_token": "y"}}}).Is(400, "M_SERVER_NOT_TRUSTED")
	})
}

func TestInvites(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob, carol := hs.Register("alice"), hs.Register("bob"), hs.Register("carol")
	room := alice.Room(obj{"preset": "private_chat", "name": "Den"})
	invite := func(c *clienttest.Client, body any) clienttest.Reply { return c.Post(roomPath(room, "invite"), body) }
	t.Run("02-018 inviting twice, members, the banned", func(t *testing.T) {
		invite(alice, obj{"user_id": bob.User}).OK()
		invite(alice, obj{"user_id": bob.User}).OK()
		invite(alice, obj{"user_id": alice.User}).Is(403, "M_FORBIDDEN")
		alice.Post(roomPath(room, "ban"), obj{"user_id": carol.User}).OK()
		invite(alice, obj{"user_id": carol.User}).Is(403, "M_FORBIDDEN")
		alice.Post(roomPath(room, "unban"), obj{"user_id": carol.User}).OK()
	})
	t.Run("02-019 who may invite", func(t *testing.T) {
		invite(carol, obj{"user_id": bob.User}).Is(403, "M_FORBIDDEN")
		invite(bob, obj{"user_id": carol.User}).Is(403, "M_FORBIDDEN")
	})
	t.Run("02-021 bodies that invite nobody", func(t *testing.T) {
		invite(alice, obj{}).Is(400, "M_MISSING_PARAM")
		invite(alice, nil).Is(400, "M_NOT_JSON")
		invite(alice, obj{"user_id": "bob"}).Is(400, "M_INVALID_PARAM|M_BAD_JSON")
		invite(alice, obj{"user_id": 5}).Is(400, "M_BAD_JSON")
		invite(alice, obj{"user_id": bob.User, "reason": 5}).Is(400, "M_BAD_JSON")
	})
	t.Run("02-029 third-party invites", func(t *testing.T) {
		invite(alice, obj{"medium": "email", "address": "a@b.c", "id_server": "id.example", "id_access_token": "x"}).Is(400, "M_SERVER_NOT_TRUSTED")
	})
	t.Run("02-020 02-022 02-023 the invite in sync", func(t *testing.T) {
		invite(alice, obj{"user_id": carol.User, "reason": "tea"}).OK()
		stripped := carol.Sync().Events("rooms", "invite", room, "invite_state", "events")
		if own := clienttest.Find(stripped, "m.room.member", carol.User); own.Str("content", "reason") != "tea" || own.Str("content", "membership") != "invite" {
			t.Error(own)
		}
		for _, eventType := range []string{"m.room.create", "m.room.join_rules", "m.room.name"} {
			if clienttest.Find(stripped, eventType, "") == nil {
				t.Errorf("no %s in %v", eventType, types(stripped))
			}
		}
		for _, e := range stripped {
			for key := range e {
				if !slices.Contains([]string{"type", "state_key", "sender", "content"}, key) && e.Type() != "m.room.create" {
					t.Errorf("%s has %s", e.Type(), key)
				}
			}
		}
	})
	t.Run("02-024 the invited may read nothing else", func(t *testing.T) {
		for _, path := range []string{"state", "messages", "members", "joined_members"} {
			carol.Get(roomPath(room, path)+"?dir=b").Is(403, "M_FORBIDDEN")
		}
		carol.State(room, "m.room.name", "").Is(403, "M_FORBIDDEN")
	})
	t.Run("02-025 02-026 02-027 declining, withdrawing, inviting again", func(t *testing.T) {
		since := carol.Sync().NextBatch()
		carol.Leave(room)
		r := carol.Sync("since", since)
		if r.At("rooms", "leave", room) == nil || r.At("rooms", "invite", room) != nil {
			t.Error("declined:", r.Raw)
		}
		invite(alice, obj{"user_id": carol.User}).OK()
		r = carol.Sync("since", r.NextBatch())
		if len(r.Events("rooms", "invite", room, "invite_state", "events")) < 3 {
			t.Error("invited again:", r.Raw)
		}
		alice.Post(roomPath(room, "kick"), obj{"user_id": carol.User}).OK()
		r = carol.Sync("since", r.NextBatch())
		if r.At("rooms", "leave", room) == nil || r.At("rooms", "invite", room) != nil {
			t.Error("withdrawn:", r.Raw)
		}
	})
}

func TestJoin(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob, carol := hs.Register("alice"), hs.Register("bob"), hs.Register("carol")
	room := alice.Room(obj{"preset": "public_chat", "room_alias_name": "hall"})
	alias := "#hall:" + hs.Name
	t.Run("02-033 02-034 the ways to join", func(t *testing.T) {
		for _, path := range []string{roomPath(room, "join"), "/join/" + clienttest.Esc(room), "/join/" + clienttest.Esc(alias)} {
			for _, body := range []any{obj{}, nil} {
				if r := bob.Post(path, body).OK(); r.Str("room_id") != room {
					t.Error(path, r.Raw)
				}
			}
		}
		bob.Leave(room)
		if r := bob.Post("/join/"+clienttest.Esc(alias)+"?server_name="+hs.Name+"&via=x", obj{}).OK(); r.Str("room_id") != room {
			t.Error(r.Raw)
		}
	})
	t.Run("02-034 20-023 what cannot be joined", func(t *testing.T) {
		bob.Post("/join/"+clienttest.Esc("#nope:"+hs.Name), obj{}).Is(404, "M_NOT_FOUND")
		bob.Post("/join/"+clienttest.Esc("!nope:"+hs.Name), obj{}).Is(404, "M_NOT_FOUND")
		bob.Post("/rooms/"+clienttest.Esc("!nope:"+hs.Name)+"/join", obj{}).Is(404, "M_NOT_FOUND")
		bob.Post("/join/nothing", obj{}).IsOneOf("400 M_INVALID_PARAM", "404 M_NOT_FOUND")
		bob.Post("/rooms/nothing/join", obj{}).IsOneOf("400 M_INVALID_PARAM", "404 M_NOT_FOUND")
		bob.Post("/join/"+clienttest.Esc(room), `{"reason": 5}`).Is(400, "M_BAD_JSON")
		bob.Post("/join/"+clienttest.Esc(room), `[]`).Is(400, "M_BAD_JSON")
		bob.Post("/join/"+clienttest.Esc(room), obj{"third_party_signed": obj{"token": "x", "sender": "@a:b", "mxid": bob.User, "signatures": obj{}}}).Is(403, "M_FORBIDDEN")
	})
	t.Run("02-035 invite-only, banned", func(t *testing.T) {
		private := alice.Room(obj{"preset": "private_chat"})
		bob.Post(roomPath(private, "join"), obj{}).Is(403, "M_FORBIDDEN")
		alice.Invite(private, bob.User)
		bob.Join(private)
		alice.Post(roomPath(private, "ban"), obj{"user_id": bob.User}).OK()
		bob.Post(roomPath(private, "join"), obj{}).Is(403, "M_FORBIDDEN")
	})
	t.Run("02-036 further keys of the body are in the content", func(t *testing.T) {
		carol.Post(roomPath(room, "join"), obj{"foo": "bar", "reason": "why not", "membership": "ban"}).OK()
		if r := alice.State(room, "m.room.member", carol.User).OK(); r.Str("foo") != "bar" || r.Str("reason") != "why not" || r.Str("membership") != "join" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-037 joining by state event", func(t *testing.T) {
		dave := hs.Register("dave")
		dave.SetState(room, "m.room.member", dave.User, obj{"membership": "join"})
		dave.State(room, "m.room.name", "").Is(404, "M_NOT_FOUND")
		dave.Put(roomPath(room, "state", "m.room.member", hs.Register("eve").User), obj{"membership": "join"}).Is(403, "M_FORBIDDEN")
	})
	t.Run("02-038 02-039 profile in the join", func(t *testing.T) {
		bob.Put("/profile/"+clienttest.Esc(bob.User)+"/displayname", obj{"displayname": "Bobby"}).OK()
		other := alice.Room(nil)
		bob.Join(other)
		if r := alice.State(other, "m.room.member", bob.User).OK(); r.Str("displayname") != "Bobby" {
			t.Error(r.Raw)
		}
		bob.SetState(other, "m.room.member", bob.User, obj{"membership": "join", "displayname": "Rob"})
		if r := alice.State(other, "m.room.member", bob.User).OK(); r.Str("displayname") != "Rob" {
			t.Error(r.Raw)
		}
		if r := bob.Get("/profile/" + clienttest.Esc(bob.User)).OK(); r.Str("displayname") != "Bobby" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-040 joined_rooms", func(t *testing.T) {
		frank := hs.Register("frank")
		invited := alice.Room(obj{"invite": []string{frank.User}})
		left := alice.Room(nil)
		frank.Join(left)
		frank.Leave(left)
		frank.Join(room)
		r := frank.Get("/joined_rooms").OK()
		if list := r.List("joined_rooms"); len(list) != 1 || list[0] != room {
			t.Error(r.Raw, invited)
		}
		if r := hs.Register("gina").Get("/joined_rooms").OK(); r.Raw != `{"joined_rooms":[]}` {
			t.Error(r.Raw)
		}
	})
	t.Run("02-042 the creator leaves and comes back", func(t *testing.T) {
		den := alice.Room(obj{"preset": "private_chat", "room_version": "11", "invite": []string{bob.User}})
		bob.Join(den)
		alice.Levels(den, obj{"users": obj{alice.User: 100, bob.User: 100}})
		alice.Leave(den)
		bob.Invite(den, alice.User)
		alice.Join(den)
	})
	t.Run("02-043 02-046 02-047 restricted rooms", func(t *testing.T) {
		space := alice.Room(obj{"preset": "public_chat"})
		allow := []obj{{"type": "m.room_membership", "room_id": space}}
		inner := alice.Room(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "restricted", "allow": allow}}}})
		henry := hs.Register("henry")
		henry.Post(roomPath(inner, "join"), obj{}).Is(403, "M_FORBIDDEN")
		alice.Invite(space, henry.User)
		henry.Post(roomPath(inner, "join"), obj{}).Is(403, "M_FORBIDDEN")
		henry.Join(space)
		henry.Join(inner)
		if r := alice.State(inner, "m.room.member", henry.User).OK(); r.Str("join_authorised_via_users_server") != alice.User {
			t.Error("02-044", r.Raw)
		}
		henry.Put(roomPath(inner, "state", "m.room.member", henry.User),
			obj{"membership": "join", "displayname": "H", "join_authorised_via_users_server": "nonsense"}).Is(200, "") // 02-048
		henry.Leave(space)
		if r := henry.Get("/joined_rooms"); !strings.Contains(r.Raw, inner) {
			t.Error("02-046 removed from the inner room")
		}
		henry.Leave(inner)
		henry.Post(roomPath(inner, "join"), obj{}).Is(403, "M_FORBIDDEN")
		alice.Invite(inner, henry.User)
		henry.Join(inner)
	})
	t.Run("02-049 malformed allow lists", func(t *testing.T) {
		for _, allow := range []any{"x", []any{"x"}, []obj{{"type": "m.room_membership"}}, []obj{{"type": "other", "room_id": room}}, []any{5}, nil} {
			inner := alice.Room(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "restricted", "allow": allow}}}})
			bob.Post(roomPath(inner, "join"), obj{}).Is(403, "M_FORBIDDEN")
		}
	})
	t.Run("02-050 restricted in versions that do not know it", func(t *testing.T) {
		inner := alice.Room(obj{"room_version": "7", "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "restricted",
			"allow": []obj{{"type": "m.room_membership", "room_id": room}}}}}})
		bob.Post(roomPath(inner, "join"), obj{}).Is(403, "M_FORBIDDEN")
	})
}

func TestLeavingAndModeration(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob, carol := hs.Register("alice"), hs.Register("bob"), hs.Register("carol")
	room := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
	bob.Join(room)
	act := func(c *clienttest.Client, what, user string) clienttest.Reply {
		return c.Post(roomPath(room, what), obj{"user_id": user, "reason": "because"})
	}
	t.Run("02-061 leaving what one is not in", func(t *testing.T) {
		carol.Post(roomPath(room, "leave"), obj{}).IsOneOf("403 M_FORBIDDEN", "404 M_NOT_FOUND")
		carol.Post(roomPath("!nope:"+hs.Name, "leave"), nil).IsOneOf("403 M_FORBIDDEN", "404 M_NOT_FOUND")
		carol.Post(roomPath("nope", "leave"), nil).IsOneOf("400 M_INVALID_PARAM", "404 M_NOT_FOUND")
	})
	t.Run("02-062 02-064 after leaving", func(t *testing.T) {
		alice.SetState(room, "m.room.name", "", obj{"name": "before"})
		bob.Leave(room)
		alice.SetState(room, "m.room.name", "", obj{"name": "after"})
		carol.Join(room)
		if r := bob.State(room, "m.room.name", "").OK(); r.Str("name") != "before" {
			t.Error(r.Raw)
		}
		if e := clienttest.Find(stateOf(t, bob, room), "m.room.name", ""); e.Str("content", "name") != "before" {
			t.Error(e)
		}
		members := bob.Get(roomPath(room, "members")).OK().Events("chunk")
		if clienttest.Find(members, "m.room.member", carol.User) != nil || clienttest.Find(members, "m.room.member", bob.User).Str("content", "membership") != "leave" {
			t.Error(members)
		}
		bob.Get(roomPath(room, "joined_members")).Is(403, "M_FORBIDDEN")
		carol.Leave(room)
	})
	t.Run("02-063 history after leaving", func(t *testing.T) {
		bob.Join(room)
		bob.Leave(room)
		since := bob.Sync().NextBatch()
		alice.Say(room, "bob is gone")
		if r := bob.Get(roomPath(room, "messages") + "?dir=f&from=" + since).OK(); len(r.List("chunk")) != 0 {
			t.Error(r.Raw)
		}
		chunk := bob.Get(roomPath(room, "messages") + "?dir=b&from=" + since).OK().Events("chunk")
		if len(chunk) == 0 || chunk[0].Str("content", "membership") != "leave" || chunk[0].Str("state_key") != bob.User {
			t.Error(chunk)
		}
	})
	t.Run("02-065 who may kick", func(t *testing.T) {
		bob.Join(room)
		carol.Join(room)
		act(bob, "kick", carol.User).Is(403, "M_FORBIDDEN")
		act(bob, "kick", alice.User).Is(403, "M_FORBIDDEN")
		act(alice, "kick", hs.Register("nowhere").User).Is(403, "M_FORBIDDEN")
		alice.Levels(room, obj{"users": obj{alice.User: 100, bob.User: 50, carol.User: 50}})
		act(bob, "kick", carol.User).Is(403, "M_FORBIDDEN")
		act(alice, "kick", carol.User).OK()
		if r := alice.State(room, "m.room.member", carol.User).OK(); r.Str("membership") != "leave" || r.Str("reason") != "because" {
			t.Error(r.Raw)
		}
	})
	t.Run("02-067 bans", func(t *testing.T) {
		act(alice, "ban", string(hs.UserID("stranger"))).OK()
		act(alice, "ban", carol.User).OK()
		carol.Post(roomPath(room, "join"), obj{}).Is(403, "M_FORBIDDEN")
		act(carol, "ban", bob.User).Is(403, "M_FORBIDDEN")
		act(bob, "ban", alice.User).Is(403, "M_FORBIDDEN")
		act(bob, "kick", bob.User).IsOneOf("200", "403 M_FORBIDDEN")
	})
	t.Run("02-068 unbans", func(t *testing.T) {
		act(alice, "unban", carol.User).OK()
		if r := alice.State(room, "m.room.member", carol.User).OK(); r.Str("membership") != "leave" {
			t.Error(r.Raw)
		}
		act(alice, "unban", carol.User).IsOneOf("403 M_FORBIDDEN", "403 M_BAD_STATE", "400 M_BAD_STATE")
		carol.Join(room)
		act(carol, "unban", bob.User).Is(403, "M_FORBIDDEN|M_BAD_STATE")
	})
	t.Run("20-009 bodies of moderation", func(t *testing.T) {
		for _, what := range []string{"kick", "ban", "unban"} {
			alice.Post(roomPath(room, what), nil).Is(400, "M_NOT_JSON|M_MISSING_PARAM")
			alice.Post(roomPath(room, what), obj{}).Is(400, "M_MISSING_PARAM")
			alice.Post(roomPath(room, what), obj{"user_id": "carol"}).Is(400, "M_INVALID_PARAM|M_BAD_JSON")
			alice.Post(roomPath(room, what), obj{"user_id": []int{1}}).Is(400, "M_BAD_JSON")
			alice.Post(roomPath("nope", what), obj{"user_id": carol.User}).IsOneOf("400 M_INVALID_PARAM", "404 M_NOT_FOUND", "403 M_FORBIDDEN")
			alice.Post(roomPath("!nope:"+hs.Name, what), obj{"user_id": carol.User}).IsOneOf("403 M_FORBIDDEN", "404 M_NOT_FOUND")
		}
	})
	t.Run("02-071 02-072 member lists", func(t *testing.T) {
		dave := hs.Register("dave")
		alice.Invite(room, dave.User)
		filter := func(query string) []string {
			var users []string
			for _, e := range alice.Get(roomPath(room, "members") + query).OK().Events("chunk") {
				if e.Str("room_id") != room || e.ID() == "" {
					t.Error(e)
				}
				users = append(users, e.Str("state_key"))
			}
			return users
		}
		joined := filter("?membership=join")
		if !slices.Contains(joined, alice.User) || slices.Contains(joined, dave.User) {
			t.Error(joined)
		}
		rest := filter("?not_membership=leave")
		if !slices.Contains(rest, dave.User) {
			t.Error(rest)
		}
		both := filter("?membership=leave&not_membership=join")
		if !slices.Contains(both, dave.User) || slices.Contains(both, alice.User) {
			t.Error(both)
		}
		alice.Get(roomPath(room, "members")+"?membership=lost").Is(400, "M_INVALID_PARAM")
		dave.Get(roomPath(room, "members")).Is(403, "M_FORBIDDEN")
		alice.Put("/profile/"+clienttest.Esc(alice.User)+"/displayname", obj{"displayname": "Alice"}).OK()
		r := alice.Get(roomPath(room, "joined_members")).OK()
		if r.Str("joined", alice.User, "display_name") != "Alice" || r.At("joined", carol.User) == nil || r.At("joined", dave.User) != nil {
			t.Error(r.Raw)
		}
	})
}
