package clientapi_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"atoll/clientapi/clienttest"
	"atoll/server"
)

// password is the auth object of the stage for a user.
func password(session, user, word string) obj {
	return obj{"type": "m.login.password", "session": session, "identifier": obj{"type": "m.id.user", "user": user}, "password": word}
}

// confirmed does a request that needs user-interactive authentication: first without, then with the
// password.
func confirmed(t *testing.T, c *clienttest.Client, method, path string, body obj) clienttest.Reply {
	t.Helper()
	asked := c.Do(method, path, body).Is(401, "")
	if asked.At("errcode") != nil || asked.Str("flows", 0, "stages", 0) != "m.login.password" {
		t.Error(asked.Raw)
	}
	with := obj{"auth": password(asked.Str("session"), c.User, clienttest.Password)}
	for k, v := range body {
		with[k] = v
	}
	return c.Do(method, path, with)
}

func TestChangePassword(t *testing.T) {
	hs := clienttest.New(t)
	alice := hs.Register("alice")
	bob := hs.Register("bob")
	tryLogin := func(password string) clienttest.Reply {
		return hs.Anonymous().Post("/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": password})
	}
	t.Run("01-037 logout_devices false", func(t *testing.T) {
		other := hs.Anonymous().Login("alice", clienttest.Password, "")
		body := obj{"new_password": "first", "logout_devices": false}
		confirmed(t, alice, "POST", "/account/password", body).Is(200, "")
		other.Get("/account/whoami").Is(200, "")
		alice.Get("/account/whoami").Is(200, "")
	})
	t.Run("01-035 01-036 new and old password", func(t *testing.T) {
		other := hs.Anonymous().Login("alice", "first", "")
		session := alice.Post("/account/password", obj{"new_password": "second"}).Is(401, "").Str("session")
		alice.Post("/account/password", obj{"new_password": "second", "auth": password(session, "alice", "first")}).Is(200, "")
		tryLogin("first").Is(403, "M_FORBIDDEN")
		tryLogin("second").Is(200, "")
		other.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		alice.Get("/account/whoami").Is(200, "")
	})
	t.Run("01-029 01-033 wrong password and another user's", func(t *testing.T) {
		r := alice.Post("/account/password", obj{"new_password": "x", "auth": password("", "alice", "wrong")}).Is(401, "M_FORBIDDEN")
		if r.At("flows") == nil || r.At("params") == nil || r.Str("session") == "" {
			t.Error(r.Raw)
		}
		alice.Post("/account/password", obj{"new_password": "x", "auth": password("", bob.User, clienttest.Password)}).Is(403, "M_FORBIDDEN")
		tryLogin("second").Is(200, "")
	})
	t.Run("20-009 bodies that are no change", func(t *testing.T) {
		alice.Post("/account/password", obj{}).Is(400, "M_MISSING_PARAM")
		alice.Post("/account/password", `{"new_password": 5}`).Is(400, "M_BAD_JSON")
		alice.Post("/account/password", obj{"new_password": strings.Repeat("x", 1000)}).Is(400, "M_INVALID_PARAM")
		hs.Anonymous().Post("/account/password", obj{"new_password": "x"}).Is(401, "M_MISSING_TOKEN")
	})
}

func TestDeactivate(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := bob.Room(nil)
	alice.Join(room)
	invited := bob.Room(obj{"preset": "private_chat", "invite": []string{alice.User}})
	t.Run("01-039 authentication", func(t *testing.T) {
		r := alice.Post("/account/deactivate", obj{}).Is(401, "")
		if r.At("errcode") != nil || r.Str("flows", 0, "stages", 0) != "m.login.password" {
			t.Error(r.Raw)
		}
		session := r.Str("session")
		r = alice.Post("/account/deactivate", obj{"auth": password(session, "alice", "wrong")}).Is(401, "M_FORBIDDEN")
		if r.At("flows") == nil || r.At("completed") == nil || r.At("params") == nil {
			t.Error(r.Raw)
		}
		alice.Get("/account/whoami").Is(200, "")
		r = alice.Post("/account/deactivate", obj{"erase": true, "auth": password(session, "alice", clienttest.Password)}).Is(200, "")
		if r.Str("id_server_unbind_result") != "success" {
			t.Error(r.Raw)
		}
	})
	t.Run("01-040 nothing works afterwards", func(t *testing.T) {
		alice.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		hs.Anonymous().Post("/login", obj{"type": "m.login.password", "user": "alice", "password": clienttest.Password}).Is(403, "M_FORBIDDEN|M_USER_DEACTIVATED")
		hs.Anonymous().Post("/register", obj{"username": "alice", "password": "x", "auth": obj{"type": "m.login.dummy"}}).Is(400, "M_USER_IN_USE")
		hs.Anonymous().Get("/register/available?username=alice").Is(400, "M_USER_IN_USE")
		hs.Anonymous().Get("/profile/"+alice.User).Is(404, "M_NOT_FOUND")
	})
	t.Run("01-041 rooms are left, invites rejected", func(t *testing.T) {
		for since := ""; ; {
			left := 0
			for _, id := range []string{room, invited} {
				if bob.State(id, "m.room.member", alice.User).Str("membership") == "leave" {
					left++
				}
			}
			if left == 2 || t.Failed() {
				break
			}
			since = bob.Sync("since", since, "timeout", "1000").NextBatch()
		}
		bob.Post(roomPath(room, "invite"), obj{"user_id": alice.User}).Is(404, "M_NOT_FOUND")
	})
}

func TestDevices(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	login := func(device string) *clienttest.Client {
		return hs.Anonymous().Login("alice", clienttest.Password, device)
	}
	phone := login("PHONE")
	ids := func() string {
		var list []string
		for _, d := range alice.Get("/devices").OK().List("devices") {
			list = append(list, d.(map[string]any)["device_id"].(string))
		}
		return strings.Join(list, " ")
	}
	t.Run("09-001 reading devices", func(t *testing.T) {
		phone.Get("/account/whoami").OK()
		r := alice.Get("/devices/PHONE").OK()
		if r.Str("device_id") != "PHONE" || r.Str("last_seen_ip") != "127.0.0.1" || r.At("last_seen_ts") == nil {
			t.Error(r.Raw)
		}
		if len(alice.Get("/devices").OK().List("devices")) != 2 {
			t.Error(ids())
		}
		alice.Get("/devices/NONE").Is(404, "M_NOT_FOUND")
		bob.Get("/devices/PHONE").Is(404, "M_NOT_FOUND")
	})
	t.Run("09-002 09-003 renaming devices", func(t *testing.T) {
		alice.Put("/devices/PHONE", obj{"display_name": "My phone"}).Is(200, "")
		alice.Put("/devices/PHONE", obj{}).Is(200, "")
		if r := alice.Get("/devices/PHONE").OK(); r.Str("display_name") != "My phone" {
			t.Error(r.Raw)
		}
		alice.Put("/devices/NONE", obj{"display_name": "x"}).Is(404, "M_NOT_FOUND")
		alice.Put("/devices/NONE", obj{}).Is(404, "M_NOT_FOUND")
		alice.Put("/devices/PHONE", obj{"display_name": strings.Repeat("x", 1000)}).Is(400, "M_TOO_LARGE")
		alice.Put("/devices/PHONE", `{"display_name": 5}`).Is(400, "M_BAD_JSON")
	})
	t.Run("09-004 a device is not deleted without authentication", func(t *testing.T) {
		r := alice.Delete("/devices/PHONE", nil).Is(401, "")
		if r.At("flows") == nil || r.At("params") == nil || r.Str("session") == "" || r.At("errcode") != nil {
			t.Error(r.Raw)
		}
		session := r.Str("session")
		r = alice.Delete("/devices/PHONE", obj{"auth": password(session, "alice", "wrong")}).Is(401, "M_FORBIDDEN")
		if r.At("flows") == nil || r.Str("session") != session {
			t.Error(r.Raw)
		}
		alice.Delete("/devices/PHONE", obj{"auth": password(session, "bob", clienttest.Password)}).Is(403, "M_FORBIDDEN")
		bob.Delete("/devices/PHONE", obj{"auth": password(session, "bob", clienttest.Password)}).Is(403, "M_FORBIDDEN")
		phone.Get("/account/whoami").Is(200, "")
	})
	t.Run("01-034 a session is bound to its devices", func(t *testing.T) {
		login("A")
		session := alice.Delete("/devices/A", nil).Is(401, "").Str("session")
		auth := obj{"auth": password(session, "alice", clienttest.Password)}
		alice.Delete("/devices/PHONE", auth).Is(403, "M_FORBIDDEN")
		alice.Post("/account/deactivate", auth).Is(403, "M_FORBIDDEN")
		alice.Delete("/devices/A", auth).Is(200, "")
		phone.Get("/account/whoami").Is(200, "")
	})
	t.Run("09-005 a deleted device is gone", func(t *testing.T) {
		confirmed(t, alice, "DELETE", "/devices/PHONE", obj{}).Is(200, "")
		alice.Get("/devices/PHONE").Is(404, "M_NOT_FOUND")
		phone.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("09-007 deleting several", func(t *testing.T) {
		b, c, d := login("B"), login("C"), login("D")
		confirmed(t, alice, "POST", "/delete_devices", obj{"devices": []string{"C", "B", "NONE", "C"}}).Is(200, "")
		b.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		c.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		d.Get("/account/whoami").Is(200, "")
		alice.Post("/delete_devices", obj{}).Is(400, "M_MISSING_PARAM")
		alice.Post("/delete_devices", obj{"devices": "B"}).Is(400, "M_BAD_JSON")
	})
}

func TestAdministration(t *testing.T) {
	hs := clienttest.New(t)
	admin, other, alice, gone := hs.Register("admin"), hs.Register("other"), hs.Register("alice"), hs.Register("gone")
	for _, name := range []string{"admin", "other"} {
		if err := hs.Server.Accounts.MakeAdmin(t.Context(), hs.UserID(name)); err != nil {
			t.Fatal(err)
		}
	}
	confirmed(t, gone, "POST", "/account/deactivate", obj{}).Is(200, "")
	const base = "/_matrix/client/v1/admin/"
	for what, member := range map[string]string{"lock": "locked", "suspend": "suspended"} {
		path := func(user string) string { return base + what + "/" + url.PathEscape(user) }
		t.Run("01-051 "+what+" by somebody else", func(t *testing.T) {
			for _, user := range []string{alice.User, admin.User, "@nobody:hs", "@x:elsewhere.org"} {
				alice.Get(path(user)).Is(403, "M_FORBIDDEN")
				alice.Put(path(user), obj{member: true}).Is(403, "M_FORBIDDEN")
			}
		})
		t.Run("01-052 "+what+" by an administrator", func(t *testing.T) {
			for user, want := range map[string]struct {
				status int
				code   string
			}{
				"@x:elsewhere.org": {400, "M_INVALID_PARAM"}, "@nobody:hs": {404, "M_NOT_FOUND"}, gone.User: {404, "M_NOT_FOUND"},
				admin.User: {403, "M_FORBIDDEN"}, other.User: {403, "M_FORBIDDEN"}, "nonsense": {400, "M_INVALID_PARAM"},
			} {
				admin.Get(path(user)).Is(want.status, want.code)
				admin.Put(path(user), obj{member: true}).Is(want.status, want.code)
			}
			for _, value := range []bool{true, false} {
				for _, r := range []clienttest.Reply{
					admin.Put(path(alice.User), obj{member: value}).OK(), admin.Get(path(alice.User)).OK(),
				} {
					if r.At(member) != value {
						t.Error(r.What, r.Raw)
					}
				}
			}
			admin.Put(path(alice.User), obj{}).Is(400, "M_MISSING_PARAM")
			admin.Put(path(alice.User), obj{member: "yes"}).Is(400, "M_BAD_JSON")
			alice.Get("/account/whoami").Is(200, "")
		})
	}
	t.Run("01-049 tokens work again after unlocking", func(t *testing.T) {
		admin.Put(base+"lock/"+alice.User, obj{"locked": true}).OK()
		alice.TrySync().Is(401, "M_USER_LOCKED")
		admin.Put(base+"lock/"+alice.User, obj{"locked": false}).OK()
		alice.TrySync().Is(200, "")
	})
	t.Run("01-053 whois", func(t *testing.T) {
		for _, c := range []*clienttest.Client{alice, admin} {
			r := c.Get("/admin/whois/" + alice.User).OK()
			connection, _ := r.At("devices", alice.Device, "sessions", 0, "connections", 0).(map[string]any)
			if r.Str("user_id") != alice.User || connection["ip"] != "127.0.0.1" || connection["last_seen"] == nil || connection["user_agent"] == "" {
				t.Error(r.Raw)
			}
		}
		alice.Get("/admin/whois/"+admin.User).Is(403, "M_FORBIDDEN")
	})
	t.Run("administrators are told what they may do", func(t *testing.T) {
		if r := admin.Get("/capabilities").OK(); r.At("capabilities", "m.account_moderation", "lock") != true {
			t.Error(r.Raw)
		}
	})
}

func TestRefresh(t *testing.T) {
	at := make(chan time.Time, 1)
	at <- time.UnixMilli(1_700_000_000_000)
	now := func() time.Time { v := <-at; at <- v; return v }
	pass := func(d time.Duration) { v := <-at; at <- v.Add(d) }
	hs := clienttest.New(t, func(o *clienttest.Options) {
		o.Server.Now, o.Server.Sessions.AccessTokens = now, time.Hour
	})
	alice := hs.Register("alice")
	login := func(device string) clienttest.Reply {
		return hs.Anonymous().Post("/login", obj{"type": "m.login.password", "user": "alice", "password": clienttest.Password,
			"device_id": device, "refresh_token": true}).OK()
	}
	refresh := func(token string) clienttest.Reply {
		return hs.Anonymous().Post("/refresh", obj{"refresh_token": token})
	}
	with := func(r clienttest.Reply) *clienttest.Client { return hs.WithToken(r.Str("access_token")) }
	t.Run("01-016 only who asks gets refresh tokens", func(t *testing.T) {
		r := login("R")
		if r.Str("refresh_token") == "" || r.At("expires_in_ms") != 3600000.0 {
			t.Error(r.Raw)
		}
		r = hs.Anonymous().Post("/register", obj{"username": "bob", "password": "x", "refresh_token": true, "auth": obj{"type": "m.login.dummy"}}).OK()
		if r.Str("refresh_token") == "" || r.At("expires_in_ms") != 3600000.0 {
			t.Error(r.Raw)
		}
		pass(48 * time.Hour)
		alice.Get("/account/whoami").Is(200, "")
	})
	t.Run("01-003 01-018 an expired token is refreshed", func(t *testing.T) {
		first := login("A")
		with(first).Get("/account/whoami").Is(200, "")
		pass(time.Hour)
		if r := with(first).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN"); r.At("soft_logout") != true {
			t.Error(r.Raw)
		}
		second := refresh(first.Str("refresh_token")).OK()
		if second.Str("refresh_token") == "" || second.At("expires_in_ms") != 3600000.0 {
			t.Error(second.Raw)
		}
		if r := with(second).Get("/account/whoami").OK(); r.Str("device_id") != "A" {
			t.Error(r.Raw)
		}
		if r := refresh("unknown").Is(401, "M_UNKNOWN_TOKEN"); r.At("soft_logout") == true {
			t.Error(r.Raw)
		}
		refresh("").Is(400, "M_MISSING_PARAM")
		refresh(second.Str("access_token")).Is(401, "M_UNKNOWN_TOKEN")
		with(second).Get("/account/whoami").Is(200, "")
		hs.WithToken(second.Str("refresh_token")).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("01-019 a lost answer, the new access token is used", func(t *testing.T) {
		first := login("B")
		lost := refresh(first.Str("refresh_token")).OK()
		with(first).Get("/account/whoami").Is(200, "")
		second := refresh(first.Str("refresh_token")).OK()
		with(second).Get("/account/whoami").Is(200, "")
		refresh(first.Str("refresh_token")).Is(401, "M_UNKNOWN_TOKEN")
		with(first).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		with(lost).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		refresh(lost.Str("refresh_token")).Is(401, "M_UNKNOWN_TOKEN")
		with(second).Get("/account/whoami").Is(200, "")
	})
	t.Run("01-019 the new refresh token is used", func(t *testing.T) {
		first := login("C")
		second := refresh(first.Str("refresh_token")).OK()
		third := refresh(second.Str("refresh_token")).OK()
		refresh(first.Str("refresh_token")).Is(401, "M_UNKNOWN_TOKEN")
		again := refresh(second.Str("refresh_token")).OK()
		with(again).Get("/account/whoami").Is(200, "")
		with(third).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("01-019 20-038 over a restart", func(t *testing.T) {
		first := login("D")
		second := refresh(first.Str("refresh_token")).OK()
		hs.Restart()
		with(first).Get("/account/whoami").Is(200, "")
		with(second).Get("/account/whoami").Is(200, "")
		with(first).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		hs.Restart()
		refresh(first.Str("refresh_token")).Is(401, "M_UNKNOWN_TOKEN")
		with(second).Get("/account/whoami").Is(200, "")
		refresh(second.Str("refresh_token")).Is(200, "")
		alice = alice.At(hs)
	})
	t.Run("only so many answers are lost", func(t *testing.T) {
		first := login("E")
		oldest := refresh(first.Str("refresh_token")).OK()
		for range 10 {
			pass(time.Millisecond)
			refresh(first.Str("refresh_token")).OK()
		}
		with(oldest).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		with(first).Get("/account/whoami").Is(200, "")
	})
	t.Run("01-020 transaction ids are those of the device", func(t *testing.T) {
		room := alice.Room(nil)
		first := login("F")
		with(first).Join(room)
		path := roomPath(room, "send", "m.room.message", "once")
		one := with(first).Put(path, obj{"body": "x"}).OK().Str("event_id")
		second := refresh(first.Str("refresh_token")).OK()
		if two := with(second).Put(path, obj{"body": "x"}).OK().Str("event_id"); two != one {
			t.Errorf("%s and %s", one, two)
		}
	})
	t.Run("01-006 01-047 tokens go with the device", func(t *testing.T) {
		first := login("G")
		login("G")
		refresh(first.Str("refresh_token")).Is(401, "M_UNKNOWN_TOKEN")
		second := login("H")
		with(second).Post("/logout", nil).OK()
		refresh(second.Str("refresh_token")).Is(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("01-049 a locked account cannot refresh", func(t *testing.T) {
		first := login("I")
		lock := func(value bool) {
			err := hs.Server.Accounts.SetStanding(t.Context(), server.Session{User: "@x:hs", Admin: true}, hs.UserID("alice"), server.Standing{Locked: &value})
			if err != nil {
				t.Fatal(err)
			}
		}
		lock(true)
		refresh(first.Str("refresh_token")).Is(401, "M_USER_LOCKED")
		lock(false)
		refresh(first.Str("refresh_token")).Is(200, "")
	})
}

func TestLoginTokens(t *testing.T) {
	at := make(chan time.Time, 1)
	at <- time.UnixMilli(1_700_000_000_000)
	now := func() time.Time { v := <-at; at <- v; return v }
	pass := func(d time.Duration) { v := <-at; at <- v.Add(d) }
	const path = "/_matrix/client/v1/login/get_token"
	t.Run("01-014 switched off", func(t *testing.T) {
		hs := clienttest.New(t)
		alice := hs.Register("alice")
		alice.Post(path, obj{}).Is(404, "M_UNRECOGNIZED")
		alice.Post("/login", obj{"type": "m.login.token", "token": "x"}).Is(400, "M_UNKNOWN")
	})
	hs := clienttest.New(t, func(o *clienttest.Options) {
		o.Server.Now, o.Server.Sessions.LoginTokens = now, 2*time.Minute
	})
	alice := hs.Register("alice")
	login := func(token string) clienttest.Reply {
		return hs.Anonymous().Post("/login", obj{"type": "m.login.token", "token": token, "refresh_token": true})
	}
	t.Run("01-014 capability and flow", func(t *testing.T) {
		if r := alice.Get("/capabilities").OK(); r.At("capabilities", "m.get_login_token", "enabled") != true {
			t.Error(r.Raw)
		}
		if r := alice.Get("/login").OK(); r.Str("flows", 1, "type") != "m.login.token" || r.At("flows", 1, "get_login_token") != true {
			t.Error(r.Raw)
		}
	})
	get := func() string {
		r := confirmed(t, alice, "POST", path, obj{}).Is(200, "")
		if r.At("expires_in_ms") != 120000.0 {
			t.Error(r.Raw)
		}
		return r.Str("login_token")
	}
	t.Run("01-013 a token works once", func(t *testing.T) {
		token := get()
		hs.WithToken(token).Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		r := login(token).OK()
		if r.Str("user_id") != alice.User || r.Str("device_id") == alice.Device || r.Str("refresh_token") == "" {
			t.Error(r.Raw)
		}
		login(token).Is(403, "M_FORBIDDEN")
	})
	t.Run("01-013 invalid and expired tokens", func(t *testing.T) {
		login("nonsense").Is(403, "M_FORBIDDEN")
		login("").Is(400, "M_MISSING_PARAM")
		token := get()
		pass(2 * time.Minute)
		login(token).Is(403, "M_FORBIDDEN")
	})
	t.Run("20-038 a token outlives a restart", func(t *testing.T) {
		token := get()
		hs.Restart()
		alice = alice.At(hs)
		login(token).Is(200, "")
	})
	t.Run("01-048 tokens end with the sessions", func(t *testing.T) {
		token := get()
		alice.Post("/logout/all", nil).OK()
		login(token).Is(403, "M_FORBIDDEN")
	})
}

func TestJWT(t *testing.T) {
	secret := []byte("a secret of thirty-two bytes, it is")
	hs := clienttest.New(t, func(o *clienttest.Options) {
		o.Server.JWT = server.JWTOptions{Algorithm: "HS256", Key: secret, Issuer: "idp", Audiences: []string{"hs", "other"}}
	})
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		text, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := func(user string) jwt.MapClaims {
		return jwt.MapClaims{"sub": user, "iss": "idp", "aud": "hs", "exp": time.Now().Add(time.Hour).Unix()}
	}
	login := func(token string) clienttest.Reply {
		return hs.Anonymous().Post("/login", obj{"type": "org.matrix.login.jwt", "token": token})
	}
	t.Run("01-008 the flow is offered", func(t *testing.T) {
		if r := hs.Anonymous().Get("/login").OK(); r.Str("flows", 1, "type") != "org.matrix.login.jwt" {
			t.Error(r.Raw)
		}
	})
	var carol *clienttest.Client
	t.Run("an account is made at the first login and found at the next", func(t *testing.T) {
		for range 2 {
			r := login(sign(jwt.SigningMethodHS256, secret, good("Carol"))).OK()
			if r.Str("user_id") != "@carol:hs" || r.Str("access_token") == "" {
				t.Error(r.Raw)
			}
			carol = &clienttest.Client{T: t, URL: hs.URL, User: r.Str("user_id"), Device: r.Str("device_id"), Token: r.Str("access_token")}
		}
		if n := len(carol.Get("/devices").OK().List("devices")); n != 2 {
			t.Errorf("%d devices", n)
		}
	})
	t.Run("01-011 tokens that are not good", func(t *testing.T) {
		change := func(name string, value any) jwt.MapClaims {
			c := good("carol")
			c[name] = value
			return c
		}
		for claim, token := range map[string]string{
			"none":                 sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good("carol")),
			"another algorithm":    sign(jwt.SigningMethodHS512, secret, good("carol")),
			"another key":          sign(jwt.SigningMethodHS256, []byte("another secret"), good("carol")),
			"expired":              sign(jwt.SigningMethodHS256, secret, change("exp", time.Now().Add(-time.Hour).Unix())),
			"not yet":              sign(jwt.SigningMethodHS256, secret, change("nbf", time.Now().Add(time.Hour).Unix())),
			"another issuer":       sign(jwt.SigningMethodHS256, secret, change("iss", "x")),
			"another audience":     sign(jwt.SigningMethodHS256, secret, change("aud", "x")),
			"no user":              sign(jwt.SigningMethodHS256, secret, change("sub", "")),
			"a number":             sign(jwt.SigningMethodHS256, secret, change("sub", 5)),
			"what can be no user":  sign(jwt.SigningMethodHS256, secret, change("sub", "a b")),
			"no token":             "nonsense",
			"of monstrous size":    strings.Repeat("x", 100_000),
			"a user of elsewhere:": sign(jwt.SigningMethodHS256, secret, change("sub", "@a:elsewhere")),
		} {
			if r := login(token).Is(403, "M_FORBIDDEN"); t.Failed() {
				t.Fatal(claim, r.Raw)
			}
		}
		login("").Is(400, "M_MISSING_PARAM")
	})
	t.Run("who has no password confirms by token", func(t *testing.T) {
		hs.Anonymous().Post("/login", obj{"type": "m.login.password", "user": "carol", "password": ""}).Is(400, "M_MISSING_PARAM")
		hs.Anonymous().Post("/login", obj{"type": "m.login.password", "user": "carol", "password": "x"}).Is(403, "M_FORBIDDEN")
		r := carol.Post("/account/deactivate", obj{}).Is(401, "")
		if r.Str("flows", 0, "stages", 0) != "org.matrix.login.jwt" {
			t.Error(r.Raw)
		}
		auth := func(token string) obj {
			return obj{"auth": obj{"type": "org.matrix.login.jwt", "session": r.Str("session"), "token": token}}
		}
		carol.Post("/account/deactivate", auth("x")).Is(401, "M_FORBIDDEN")
		carol.Post("/account/deactivate", auth(sign(jwt.SigningMethodHS256, secret, good("dave")))).Is(403, "M_FORBIDDEN")
		carol.Post("/account/deactivate", auth(sign(jwt.SigningMethodHS256, secret, good("carol")))).Is(200, "")
		login(sign(jwt.SigningMethodHS256, secret, good("carol"))).Is(403, "M_USER_DEACTIVATED")
	})
	t.Run("who has a password confirms by it", func(t *testing.T) {
		alice := hs.Register("alice")
		login(sign(jwt.SigningMethodHS256, secret, good("alice"))).Is(200, "")
		confirmed(t, alice, "DELETE", "/devices/X", obj{}).Is(200, "")
	})
}

func TestTerms(t *testing.T) {
	policies := []server.Policy{
		{ID: "terms", Version: "1.2", Language: "en", Name: "Terms", URL: "https://hs/terms"},
		{ID: "terms", Version: "1.2", Language: "de", Name: "Bedingungen", URL: "https://hs/de"},
	}
	t.Run("01-021 policies are to be accepted", func(t *testing.T) {
		hs := clienttest.New(t, func(o *clienttest.Options) { o.Server.Registration.Policies = policies })
		c := hs.Anonymous()
		body := obj{"username": "alice", "password": "x"}
		r := c.Post("/register", body).Is(401, "")
		terms := []any{"params", "m.login.terms", "policies", "terms"}
		if r.Str("flows", 0, "stages", 0) != "m.login.terms" || len(r.List("flows", 0, "stages")) != 1 ||
			r.Str(append(terms, "version")...) != "1.2" || r.Str(append(terms, "de", "name")...) != "Bedingungen" ||
			r.Str(append(terms, "en", "url")...) != "https://hs/terms" {
			t.Error(r.Raw)
		}
		session := r.Str("session")
		body["auth"] = obj{"type": "m.login.dummy", "session": session}
		c.Post("/register", body).Is(401, "")
		body["auth"] = obj{"type": "m.login.terms", "session": session}
		c.Post("/register", body).Is(200, "")
	})
	t.Run("01-028 01-031 20-038 stages in order, over a restart", func(t *testing.T) {
		hs := clienttest.New(t, func(o *clienttest.Options) {
			o.Server.Registration.Policies, o.Server.Registration.Mode = policies, server.RegistrationToken
		})
		token, err := hs.Server.Accounts.CreateRegistrationToken(t.Context(), server.NewRegistrationToken{Uses: 1})
		if err != nil {
			t.Fatal(err)
		}
		body := obj{"username": "alice", "password": "x"}
		session := hs.Anonymous().Post("/register", body).Is(401, "").Str("session")
		body["auth"] = obj{"type": "m.login.terms", "session": session}
		if r := hs.Anonymous().Post("/register", body).Is(401, ""); r.At("completed") != nil {
			t.Error(r.Raw)
		}
		body["auth"] = obj{"type": "m.login.registration_token", "token": string(token), "session": session}
		for range 2 {
			r := hs.Anonymous().Post("/register", body).Is(401, "")
			if r.Str("completed", 0) != "m.login.registration_token" || r.Str("session") != session {
				t.Error(r.Raw)
			}
		}
		hs.Restart()
		body["auth"] = obj{"type": "m.login.terms", "session": session}
		hs.Anonymous().Post("/register", body).Is(200, "")
		if valid, err := hs.Server.Accounts.RegistrationTokenValid(t.Context(), token); valid || err != nil {
			t.Errorf("the token is still good: %v", err)
		}
	})
}
