package clientapi_test

import (
	"strings"
	"testing"

	"atoll/clientapi/clienttest"
)

func TestAliases(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
	path := func(alias string) string { return "/directory/room/" + clienttest.Esc(alias) }
	t.Run("03-035 making aliases", func(t *testing.T) {
		alice.Put(path("#a:"+hs.Name), obj{"room_id": room}).OK()
		alice.Put(path("#a:"+hs.Name), obj{"room_id": room}).Is(409, "M_UNKNOWN")
		alice.Put(path("a"), obj{"room_id": room}).Is(400, "M_INVALID_PARAM")
		alice.Put(path("#b:elsewhere.org"), obj{"room_id": room}).IsOneOf("400 M_INVALID_PARAM", "403 M_FORBIDDEN")
		alice.Put(path("#"+strings.Repeat("x", 255)+":"+hs.Name), obj{"room_id": room}).Is(400, "M_INVALID_PARAM")
	})
	t.Run("20-009 bodies that make none", func(t *testing.T) {
		alice.Put(path("#c:"+hs.Name), nil).Is(400, "M_NOT_JSON")
		alice.Put(path("#c:"+hs.Name), obj{}).Is(400, "M_MISSING_PARAM")
		alice.Put(path("#c:"+hs.Name), obj{"room_id": 5}).Is(400, "M_BAD_JSON")
		alice.Put(path("#c:"+hs.Name), obj{"room_id": "x"}).Is(400, "M_INVALID_PARAM")
		hs.Anonymous().Put(path("#c:"+hs.Name), obj{"room_id": room}).Is(401, "M_MISSING_TOKEN")
	})
	t.Run("03-036 non-ASCII aliases", func(t *testing.T) {
		alias := "#é🐱/x:" + hs.Name
		alice.Put(path(alias), obj{"room_id": room}).OK()
		if r := bob.Get(path(alias)).OK(); r.Str("room_id") != room {
			t.Error(r.Raw)
		}
		bob.Post("/join/"+clienttest.Esc(alias), nil).OK()
		alice.Do("DELETE", path(alias), nil).OK()
		bob.Get(path(alias)).Is(404, "M_NOT_FOUND")
	})
	t.Run("03-037 03-038 resolving", func(t *testing.T) {
		alice.Put(path("#d:"+hs.Name), obj{"room_id": room, "servers": []string{"evil.org"}}).OK()
		r := hs.Anonymous().Get(path("#d:" + hs.Name)).OK()
		if servers := r.List("servers"); r.Str("room_id") != room || len(servers) != 1 || servers[0] != hs.Name {
			t.Error(r.Raw)
		}
		bob.Get(path("#nope:"+hs.Name)).Is(404, "M_NOT_FOUND")
		bob.Get(path("nope")).Is(400, "M_INVALID_PARAM")
	})
	t.Run("03-039 03-040 deleting", func(t *testing.T) {
		bob.Do("DELETE", path("#d:"+hs.Name), nil).Is(403, "M_FORBIDDEN")
		bob.Get(path("#d:"+hs.Name)).Is(200, "")
		alice.Do("DELETE", path("#d:"+hs.Name), nil).OK()
		alice.Do("DELETE", path("#d:"+hs.Name), nil).Is(404, "M_NOT_FOUND")
	})
	t.Run("03-041 a deleted alias leaves the canonical alias event", func(t *testing.T) {
		alice.Put(path("#e:"+hs.Name), obj{"room_id": room}).OK()
		alice.SetState(room, "m.room.canonical_alias", "", obj{"alias": "#e:" + hs.Name, "alt_aliases": []string{"#a:" + hs.Name}})
		alice.Do("DELETE", path("#e:"+hs.Name), nil).OK()
		if r := alice.State(room, "m.room.canonical_alias", "").OK(); r.At("alias") != nil || r.Str("alt_aliases", 0) != "#a:"+hs.Name {
			t.Error(r.Raw)
		}
	})
	t.Run("03-042 a room's aliases", func(t *testing.T) {
		if r := alice.Get(roomPath(room, "aliases")).OK(); len(r.List("aliases")) != 1 || r.Str("aliases", 0) != "#a:"+hs.Name {
			t.Error(r.Raw)
		}
		carol := hs.Register("carol")
		carol.Get(roomPath(room, "aliases")).Is(403, "M_FORBIDDEN")
		alice.SetState(room, "m.room.history_visibility", "", obj{"history_visibility": "world_readable"})
		carol.Get(roomPath(room, "aliases")).Is(200, "")
	})
	t.Run("03-014 03-015 the canonical alias event", func(t *testing.T) {
		set := func(content any) clienttest.Reply {
			return alice.Put(roomPath(room, "state", "m.room.canonical_alias", ""), content)
		}
		set(obj{"alias": "#nope:" + hs.Name}).Is(400, "M_BAD_ALIAS")
		set(obj{"alt_aliases": []string{"#nope:" + hs.Name}}).Is(400, "M_BAD_ALIAS")
		other := alice.Room(obj{"room_alias_name": "other"})
		set(obj{"alias": "#other:" + hs.Name}).Is(400, "M_BAD_ALIAS")
		set(obj{"alias": "nope"}).Is(400, "M_INVALID_PARAM")
		set(obj{"alias": "#a:" + hs.Name}).OK()
		alice.Do("DELETE", path("#other:"+hs.Name), nil).OK()
		set(obj{}).Is(200, "")
		_ = other
	})
}
