package clientapi_test

import (
	"strings"
	"testing"

	"atoll/clientapi/clienttest"
	"atoll/server"
)

func TestGuests(t *testing.T) {
	hs := clienttest.New(t, func(o *clienttest.Options) {
		o.Server.Registration = server.RegistrationOptions{Mode: server.RegistrationOpen, Guests: true}
	})
	alice := hs.Register("alice")
	r := hs.Anonymous().Post("/register?kind=guest", obj{}).OK()
	guest := hs.WithToken(r.Str("access_token"))
	guest.User = r.Str("user_id")
	open := alice.Room(obj{"preset": "public_chat", "initial_state": []obj{{"type": "m.room.guest_access", "content": obj{"guest_access": "can_join"}}}})
	t.Run("04-063 guests use what is listed for them", func(t *testing.T) {
		guest.Join(open)
		guest.Say(open, "hello from outside")
		guest.Sync()
		for _, path := range []string{"state", "messages?dir=b", "members"} {
			guest.Get("/rooms/"+clienttest.Esc(open)+"/"+path).Is(200, "")
		}
		guest.Put("/profile/"+clienttest.Esc(guest.User)+"/displayname", obj{"displayname": "G"}).Is(200, "")
		guest.Put("/profile/"+clienttest.Esc(guest.User)+"/avatar_url", obj{"avatar_url": "mxc://a/b"}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
		guest.Post("/createRoom", obj{}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
		guest.Post(roomPath(open, "invite"), obj{"user_id": alice.User}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
		guest.Get("/joined_rooms").Is(403, "M_GUEST_ACCESS_FORBIDDEN")
		guest.Put("/user/"+clienttest.Esc(guest.User)+"/account_data/x", obj{}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
		guest.Leave(open)
	})
	t.Run("02-041 guests join where guests may", func(t *testing.T) {
		closed := alice.Room(obj{"preset": "public_chat"})
		guest.Post(roomPath(closed, "join"), obj{}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
		guest.Post("/join/"+clienttest.Esc(closed), obj{}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
	})
}

func TestOddsAndEnds(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	t.Run("20-004 a thing that is not there is no endpoint that is not there", func(t *testing.T) {
		for _, path := range []string{
			"/directory/room/%23nope:" + hs.Name, "/profile/@nope:" + hs.Name, "/user/" + clienttest.Esc(alice.User) + "/account_data/nope",
			"/user/" + clienttest.Esc(alice.User) + "/filter/nope", roomPath(alice.Room(nil), "state", "m.nope", ""), roomPath(alice.Room(nil), "event", "$nope"),
		} {
			alice.Get(path).Is(404, "M_NOT_FOUND")
		}
	})
	t.Run("01-030 a failure that is none of authentication", func(t *testing.T) {
		session := hs.Anonymous().Post("/register", obj{"username": "x"}).Is(401, "").Str("session")
		r := hs.Anonymous().Post("/register", obj{"username": "x", "password": strings.Repeat("x", 10_000), "auth": obj{"type": "m.login.dummy", "session": session}})
		if r.Status != 400 || r.At("flows") != nil || r.Str("errcode") == "" {
			t.Error(r.Status, r.Raw)
		}
	})
	t.Run("01-045 01-046 capabilities say what is so", func(t *testing.T) {
		r := alice.Get("/capabilities").OK()
		for name, want := range map[string]bool{"m.forget_forced_upon_leave": false, "m.profile_fields": true, "m.set_displayname": true, "m.set_avatar_url": true} {
			if r.At("capabilities", name, "enabled") != want {
				t.Errorf("%s: %s", name, r.Raw)
			}
		}
	})
	t.Run("02-066 a kick takes an invite away", func(t *testing.T) {
		room := alice.Room(obj{"invite": []string{bob.User}})
		alice.Post(roomPath(room, "kick"), obj{"user_id": bob.User}).OK()
		bob.Post(roomPath(room, "join"), obj{}).Is(403, "M_FORBIDDEN")
	})
	t.Run("02-060 both names of the list of servers", func(t *testing.T) {
		room := alice.Room(nil)
		for _, query := range []string{"?via=a.example&via=" + hs.Name, "?server_name=b.example&server_name=" + hs.Name, "?via=%21%21"} {
			bob.Post("/join/"+clienttest.Esc(room)+query, nil).Is(200, "")
		}
	})
	t.Run("03-017 levels that are not said", func(t *testing.T) {
		room := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
		carol, dave := hs.Register("carol"), hs.Register("dave")
		bob.Join(room)
		carol.Join(room)
		alice.SetState(room, "m.room.power_levels", "", obj{"users": obj{alice.User: 50}})
		id := alice.Say(room, "x")
		bob.Say(room, "y")
		bob.Invite(room, dave.User)
		bob.Put(roomPath(room, "state", "m.x", ""), obj{}).Is(403, "M_FORBIDDEN")
		bob.Put(roomPath(room, "redact", id, "r"), obj{}).Is(403, "M_FORBIDDEN")
		for _, what := range []string{"kick", "ban"} {
			bob.Post(roomPath(room, what), obj{"user_id": carol.User}).Is(403, "M_FORBIDDEN")
		}
		alice.SetState(room, "m.x", "", obj{})
		alice.Post(roomPath(room, "ban"), obj{"user_id": carol.User}).OK()
	})
	t.Run("04-013 an ordinary user sets no time", func(t *testing.T) {
		room := alice.Room(nil)
		id := alice.Put(roomPath(room, "send", "m.x", "ts")+"?ts=5", obj{}).OK().Str("event_id")
		if ts, _ := alice.Get(roomPath(room, "event", id)).OK().At("origin_server_ts").(float64); ts < 1e12 {
			t.Error(ts)
		}
	})
	t.Run("04-045 a declined invite opens nothing later", func(t *testing.T) {
		room := alice.Room(obj{"preset": "private_chat", "initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "invited"}}}})
		alice.Invite(room, bob.User)
		alice.Say(room, "invited")
		bob.Leave(room)
		alice.Say(room, "declined")
		alice.Invite(room, bob.User)
		alice.Say(room, "again")
		bob.Join(room)
		if got := strings.Join(bodies(pages(t, bob, room, "dir", "f")), " "); got != "invited again" {
			t.Error(got)
		}
	})
	t.Run("05-067 sections about keys", func(t *testing.T) {
		r := alice.Sync()
		if _, ok := r.At("device_unused_fallback_key_types").([]any); !ok || r.At("device_lists") != nil {
			t.Error(r.Raw)
		}
	})
}
