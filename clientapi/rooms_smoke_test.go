package clientapi_test

import (
	"testing"

	"atoll/clientapi/clienttest"
)

// TestRoomLife goes through a room's life without looking at it.
func TestRoomLife(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(obj{"preset": "public_chat", "room_alias_name": "hall", "name": "Hall"})
	bob.Post("/join/"+clienttest.Esc("#hall:"+hs.Name)+"?via="+hs.Name, nil).OK()
	bob.Say(room, "hello")
	alice.SetState(room, "m.room.topic", "", obj{"topic": "tea"})
	id := alice.Say(room, "hello bob")
	alice.Put(clienttest.RoomPath(room, "redact", id, "r"), obj{}).OK()
	for _, what := range []string{"kick", "ban", "unban"} {
		alice.Post(clienttest.RoomPath(room, what), obj{"user_id": bob.User}).OK()
	}
	alice.Invite(room, bob.User)
	bob.Join(room)
	bob.Leave(room)
	bob.Put(clienttest.RoomPath(room, "send", "m.x", "1"), obj{}).Is(403, "M_FORBIDDEN")
}

// TestSpecialEvents sends by /send and /state what has endpoints of its own.
func TestSpecialEvents(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(obj{"preset": "public_chat", "room_version": "10", "room_alias_name": "hall"})
	state := func(c *clienttest.Client, eventType, key string, content any) clienttest.Reply {
		return c.Put(clienttest.RoomPath(room, "state", eventType, key), content)
	}
	t.Run("02-037 02-048 memberships by state event", func(t *testing.T) {
		joined := state(bob, "m.room.member", bob.User, obj{"membership": "join"}).OK().Str("event_id")
		if joined == "" {
			t.Error("no event id")
		}
		state(bob, "m.room.member", bob.User, obj{"membership": "join", "displayname": "B", "join_authorised_via_users_server": "nonsense"}).OK()
		state(bob, "m.room.member", bob.User, obj{"membership": "leave"}).OK()
		if r := state(alice, "m.room.member", bob.User, obj{"membership": "invite"}).OK(); r.Str("event_id") == joined {
			t.Error(r.Raw)
		}
		state(alice, "m.room.member", "@nobody", obj{"membership": "invite"}).IsOneOf("400 M_INVALID_PARAM", "403 M_FORBIDDEN")
		state(alice, "m.room.member", bob.User, obj{"membership": 5}).IsOneOf("400 M_BAD_JSON", "403 M_FORBIDDEN")
		bob.Join(room)
	})
	t.Run("03-014 03-015 canonical aliases must lead here", func(t *testing.T) {
		state(alice, "m.room.canonical_alias", "", obj{"alias": "#hall:" + hs.Name}).OK()
		state(alice, "m.room.canonical_alias", "", obj{"alias": "#nope:" + hs.Name}).Is(400, "M_BAD_ALIAS")
		state(alice, "m.room.canonical_alias", "", obj{"alt_aliases": []string{"#nope:" + hs.Name}}).Is(400, "M_BAD_ALIAS")
		state(alice, "m.room.canonical_alias", "", obj{"alias": "nope"}).Is(400, "M_INVALID_PARAM")
		alice.Do("DELETE", "/directory/room/"+clienttest.Esc("#hall:"+hs.Name), nil).OK()
		state(alice, "m.room.canonical_alias", "", obj{}).Is(200, "")
	})
	t.Run("04-012 a redaction by send", func(t *testing.T) {
		id := bob.Say(room, "oops")
		bob.Put(clienttest.RoomPath(room, "send", "m.room.redaction", "y"), obj{"redacts": alice.Say(room, "mine")}).Is(403, "M_FORBIDDEN")
		alice.Send(room, "m.room.redaction", obj{"redacts": id})
		alice.Put(clienttest.RoomPath(room, "send", "m.room.redaction", "x"), obj{}).Is(400, "M_INVALID_PARAM|M_MISSING_PARAM")
	})
}
