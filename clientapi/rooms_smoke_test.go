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
