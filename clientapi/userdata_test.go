package clientapi_test

import (
	"fmt"
	"strings"
	"testing"

	"atoll/clientapi/clienttest"
)

func TestProfile(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	path := func(user, field string) string {
		if field == "" {
			return "/profile/" + clienttest.Esc(user)
		}
		return "/profile/" + clienttest.Esc(user) + "/" + clienttest.Esc(field)
	}
	t.Run("a profile is empty at first", func(t *testing.T) {
		if r := bob.Get(path(alice.User, "")).OK(); r.Raw != "{}" {
			t.Error(r.Raw)
		}
		bob.Get(path(alice.User, "displayname")).Is(404, "M_NOT_FOUND")
	})
	t.Run("20-035 what was written is read", func(t *testing.T) {
		for field, value := range map[string]any{"displayname": "Ålice 🐱", "avatar_url": "mxc://hs/x", "m.tz": "Europe/Berlin", "org.example.thing": obj{"a": []any{1.0, nil}}} {
			alice.Put(path(alice.User, field), obj{field: value}).OK()
			got := hs.Anonymous().Get(path(alice.User, field)).OK().At(field)
			if fmt.Sprint(got) != fmt.Sprint(value) {
				t.Errorf("%s: %v, want %v", field, got, value)
			}
			if whole := bob.Get(path(alice.User, "")).OK().At(field); fmt.Sprint(whole) != fmt.Sprint(value) {
				t.Errorf("%s in the whole profile: %v", field, whole)
			}
		}
		alice.Do("DELETE", path(alice.User, "m.tz"), nil).OK()
		alice.Do("DELETE", path(alice.User, "m.tz"), nil).OK()
		alice.Get(path(alice.User, "m.tz")).Is(404, "M_NOT_FOUND")
	})
	t.Run("who may change it", func(t *testing.T) {
		bob.Put(path(alice.User, "displayname"), obj{"displayname": "x"}).Is(403, "M_FORBIDDEN")
		hs.Anonymous().Put(path(alice.User, "displayname"), obj{"displayname": "x"}).Is(401, "M_MISSING_TOKEN")
		bob.Do("DELETE", path(alice.User, "displayname"), nil).Is(403, "M_FORBIDDEN")
	})
	t.Run("users who are not there", func(t *testing.T) {
		bob.Get(path("@nobody:"+hs.Name, "")).Is(404, "M_NOT_FOUND")
		bob.Get(path("@nobody:"+hs.Name, "displayname")).Is(404, "M_NOT_FOUND")
		bob.Get(path("nobody", "")).Is(400, "M_INVALID_PARAM")
		bob.Get(path("@a/b:"+hs.Name, "")).Is(404, "M_NOT_FOUND")
	})
	t.Run("20-009 bodies that change nothing", func(t *testing.T) {
		alice.Put(path(alice.User, "displayname"), nil).Is(400, "M_NOT_JSON")
		alice.Put(path(alice.User, "displayname"), `{`).Is(400, "M_NOT_JSON")
		alice.Put(path(alice.User, "displayname"), `[]`).Is(400, "M_BAD_JSON")
		alice.Put(path(alice.User, "displayname"), obj{}).Is(400, "M_MISSING_PARAM")
		alice.Put(path(alice.User, "displayname"), obj{"displayname": 5}).Is(400, "M_INVALID_PARAM|M_BAD_JSON")
		alice.Put(path(alice.User, "avatar_url"), obj{"avatar_url": []int{}}).Is(400, "M_INVALID_PARAM|M_BAD_JSON")
		alice.Put(path(alice.User, "Bad Key"), obj{"Bad Key": 5}).Is(400, "M_INVALID_PARAM")
		long := strings.Repeat("x", 256)
		alice.Put(path(alice.User, long), obj{long: 5}).Is(400, "M_KEY_TOO_LARGE")
		alice.Put(path(alice.User, "org.big"), obj{"org.big": strings.Repeat("x", 66_000)}).Is(400, "M_PROFILE_TOO_LARGE")
		alice.Put(path(alice.User, "displayname"), obj{"displayname": strings.Repeat("x", 300)}).Is(400, "M_INVALID_PARAM")
		alice.Put(path(alice.User, "displayname"), `{"displayname": "a\u0000b"}`).Is(400, "M_BAD_JSON")
	})
	t.Run("20-021 a localpart with a slash", func(t *testing.T) {
		carol := hs.Register("a/b")
		carol.Put(path(carol.User, "displayname"), obj{"displayname": "C"}).OK()
		if r := bob.Get(path(carol.User, "displayname")).OK(); r.Str("displayname") != "C" {
			t.Error(r.Raw)
		}
	})
	t.Run("20-022 ids are compared byte for byte", func(t *testing.T) {
		bob.Get(path("@ALICE:"+hs.Name, "")).Is(404, "M_NOT_FOUND")
	})
}

func TestAccountData(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	own := "/user/" + clienttest.Esc(alice.User)
	for _, prefix := range []string{own + "/account_data/", own + "/rooms/" + clienttest.Esc("!r:hs") + "/account_data/"} {
		alice.Get(prefix+"org.x").Is(404, "M_NOT_FOUND")
		alice.Put(prefix+"org.x", obj{"a": 1}).OK()
		if r := alice.Get(prefix + "org.x").OK(); r.At("a") != 1.0 {
			t.Error(r.Raw)
		}
		alice.Put(prefix+"org.x", obj{}).OK()
		if r := alice.Get(prefix + "org.x").OK(); r.Raw != "{}" {
			t.Error(r.Raw)
		}
		alice.Put(prefix+"a%2Fb%20%C3%A9", obj{"b": 2}).OK()
		if r := alice.Get(prefix + "a%2Fb%20%C3%A9").OK(); r.At("b") != 2.0 {
			t.Error(r.Raw)
		}
		alice.Put(prefix+"org.x", `{"f": 1.5, "big": 99999999999999999999, "nul": "\u0000"}`).IsOneOf("200", "400 M_BAD_JSON")
		bob.Get(prefix+"org.x").Is(403, "M_FORBIDDEN")
		bob.Put(prefix+"org.x", obj{}).Is(403, "M_FORBIDDEN")
		alice.Put(prefix+"org.x", `[]`).Is(400, "M_BAD_JSON")
		alice.Put(prefix+"org.x", `{`).Is(400, "M_NOT_JSON")
		alice.Put(prefix+"org.x", nil).Is(400, "M_NOT_JSON")
		alice.Put(prefix+"m.push_rules", obj{}).Is(405, "M_BAD_JSON")
		alice.Put(prefix+"m.fully_read", obj{}).Is(405, "M_BAD_JSON")
		alice.Put(prefix+strings.Repeat("x", 300), obj{}).Is(400, "M_INVALID_PARAM")
	}
	alice.Put(own+"/rooms/nonsense/account_data/x", obj{}).Is(400, "M_INVALID_PARAM")
	t.Run("20-034 wrong shapes of known types are stored", func(t *testing.T) {
		alice.Put(own+"/account_data/m.ignored_user_list", obj{"ignored_users": []string{"x"}}).OK()
		alice.Put(own+"/account_data/m.direct", obj{"x": "y"}).OK()
		alice.Sync()
	})
}

func TestFilters(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	path := "/user/" + clienttest.Esc(alice.User) + "/filter"
	t.Run("05-008 a filter is stored and read", func(t *testing.T) {
		id := alice.Post(path, obj{"room": obj{"timeline": obj{"limit": 3, "types": []string{"m.room.*"}}}}).OK().Str("filter_id")
		if id == "" || strings.HasPrefix(id, "{") {
			t.Fatalf("id %q", id)
		}
		if r := alice.Get(path + "/" + clienttest.Esc(id)).OK(); r.At("room", "timeline", "limit") != 3.0 {
			t.Error(r.Raw)
		}
		alice.Get(path+"/nonsense").Is(404, "M_NOT_FOUND")
		bob.Get(path+"/"+id).Is(403, "M_FORBIDDEN")
		bob.Post(path, obj{}).Is(403, "M_FORBIDDEN")
	})
	t.Run("05-009 wrong shapes", func(t *testing.T) {
		for _, body := range []string{
			`{"room": 5}`, `{"room": []}`, `{"room": {"timeline": {"types": "x"}}}`, `{"room": {"timeline": {"limit": "x"}}}`,
			`{"presence": {"senders": [5]}}`, `{"room": {"rooms": ["x"]}}`, `{"presence": {"senders": ["x"]}}`, `{"event_fields": "x"}`,
			`{"event_format": "html"}`, `{"room": {"timeline": {"limit": 1.5}}}`, `{"account_data": {"types": {}}}`,
		} {
			alice.Post(path, body).Is(400, "M_BAD_JSON|M_INVALID_PARAM")
		}
		alice.Post(path, `{`).Is(400, "M_NOT_JSON")
		alice.Post(path, `[]`).Is(400, "M_BAD_JSON")
		alice.Post(path, nil).Is(400, "M_NOT_JSON")
	})
}
