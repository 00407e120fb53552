package clientapi_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"sync"
	"testing"

	"atoll/clientapi/clienttest"
	"atoll/server"
)

func TestTokens(t *testing.T) {
	hs := clienttest.New(t)
	alice := hs.Register("alice")
	t.Run("01-001 no token, unknown token", func(t *testing.T) {
		hs.Anonymous().Get("/account/whoami").Is(401, "M_MISSING_TOKEN")
		hs.WithToken("nonsense").Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		hs.Anonymous().Put("/profile/nonsense/%FF", "{{{").Is(401, "M_MISSING_TOKEN")
		hs.WithToken("nonsense").Put("/profile/nonsense/%FF", "{{{").Is(401, "M_UNKNOWN_TOKEN")
	})
	t.Run("01-002 the token may be in the query", func(t *testing.T) {
		hs.Anonymous().Get("/account/whoami?access_token="+alice.Token).Is(200, "")
	})
	t.Run("01-003 a destroyed session is no soft logout", func(t *testing.T) {
		r := hs.WithToken("nonsense").Get("/account/whoami")
		if soft := r.At("soft_logout"); soft != nil && soft != false {
			t.Error(r.Raw)
		}
	})
	t.Run("01-004 whoami", func(t *testing.T) {
		r := alice.Get("/account/whoami").OK()
		if r.Str("user_id") != alice.User || r.Str("device_id") != alice.Device || r.At("is_guest") == true {
			t.Error(r.Raw)
		}
	})
	t.Run("01-006 logging in with a device's id ends its older tokens", func(t *testing.T) {
		again := hs.Anonymous().Login("alice", clienttest.Password, alice.Device)
		if again.Device != alice.Device {
			t.Error(again.Device)
		}
		alice.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		again.Get("/account/whoami").Is(200, "")
		alice = again
	})
}

func TestLogin(t *testing.T) {
	hs := clienttest.New(t)
	alice := hs.Register("alice")
	nobody := hs.Anonymous()
	t.Run("01-008 flows", func(t *testing.T) {
		if r := nobody.Get("/login").OK(); r.Str("flows", 0, "type") != "m.login.password" {
			t.Error(r.Raw)
		}
	})
	login := func(user, password string) clienttest.Reply {
		return nobody.Post("/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user}, "password": password})
	}
	t.Run("01-009 localpart and full user id", func(t *testing.T) {
		for _, name := range []string{"alice", alice.User} {
			if r := login(name, clienttest.Password).OK(); r.Str("user_id") != alice.User {
				t.Error(r.Raw)
			}
		}
	})
	t.Run("01-009 the older form of the identifier", func(t *testing.T) {
		nobody.Post("/login", obj{"type": "m.login.password", "user": "alice", "password": clienttest.Password}).Is(200, "")
	})
	t.Run("01-010 device ids", func(t *testing.T) {
		if r := login("alice", clienttest.Password).OK(); r.Str("device_id") == "" || r.Str("access_token") == "" {
			t.Error(r.Raw)
		}
		if c := nobody.Login("alice", clienttest.Password, "PHONE"); c.Device != "PHONE" {
			t.Error(c.Device)
		}
	})
	t.Run("01-011 unknown types and wrong credentials", func(t *testing.T) {
		nobody.Post("/login", obj{"type": "m.login.telepathy"}).Is(400, "M_UNKNOWN")
		for _, r := range []clienttest.Reply{login("alice", "wrong"), login("nobody", clienttest.Password), login("@alice:elsewhere.org", clienttest.Password)} {
			r.Is(403, "M_FORBIDDEN")
			if r.At("flows") != nil {
				t.Error(r.Raw)
			}
		}
	})
	t.Run("01-012 an unknown third-party identifier", func(t *testing.T) {
		nobody.Post("/login", obj{"type": "m.login.password", "password": "x",
			"identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": "a@example.com"}}).Is(403, "M_FORBIDDEN")
	})
	t.Run("20-009 bodies that are no login", func(t *testing.T) {
		nobody.Post("/login", `{"type":`).Is(400, "M_NOT_JSON")
		nobody.Post("/login", nil).Is(400, "M_NOT_JSON")
		nobody.Post("/login", `[]`).Is(400, "M_BAD_JSON")
		nobody.Post("/login", `{"type": 5}`).Is(400, "M_BAD_JSON")
		nobody.Post("/login", `{"type": "m.login.password", "identifier": "alice", "password": "x"}`).Is(400, "M_BAD_JSON")
		nobody.Post("/login", `{"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": 7}`).Is(400, "M_BAD_JSON")
		nobody.Post("/login", `{}`).Is(400, "M_MISSING_PARAM")
	})
	t.Run("01-047 logout ends the session", func(t *testing.T) {
		c := nobody.Login("alice", clienttest.Password, "")
		c.Post("/logout", nil).OK()
		c.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		c.Post("/logout", nil).Is(401, "M_UNKNOWN_TOKEN")
		alice.Get("/account/whoami").Is(200, "")
	})
	t.Run("01-048 logout of all devices", func(t *testing.T) {
		c := nobody.Login("alice", clienttest.Password, "")
		c.Post("/logout/all", "").OK()
		c.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
		alice.Get("/account/whoami").Is(401, "M_UNKNOWN_TOKEN")
	})
}

func TestRegistration(t *testing.T) {
	hs := clienttest.New(t)
	hs.Register("alice")
	nobody := hs.Anonymous()
	dummy := obj{"type": "m.login.dummy"}
	t.Run("01-021 registration asks for authentication first", func(t *testing.T) {
		r := nobody.Post("/register", obj{"username": "carol", "password": "a long password"})
		r.Is(401, "")
		if r.At("errcode") != nil || r.Str("session") == "" || r.Str("flows", 0, "stages", 0) != "m.login.dummy" || r.At("params") == nil {
			t.Error(r.Raw)
		}
		r = nobody.Post("/register", obj{"username": "carol", "password": "a long password",
			"auth": obj{"type": "m.login.dummy", "session": r.Str("session")}}).OK()
		if r.Str("user_id") != "@carol:"+hs.Name || r.Str("access_token") == "" || r.Str("device_id") == "" {
			t.Error(r.Raw)
		}
		hs.WithToken(r.Str("access_token")).Get("/account/whoami").Is(200, "")
	})
	t.Run("01-022 inhibit_login", func(t *testing.T) {
		r := nobody.Post("/register", obj{"username": "dave", "password": "a long password", "inhibit_login": true, "auth": dummy}).OK()
		if r.At("access_token") != nil || r.At("device_id") != nil || r.Str("user_id") == "" {
			t.Error(r.Raw)
		}
	})
	t.Run("01-022 a name is made up when none is given, the device id is kept", func(t *testing.T) {
		r := nobody.Post("/register", obj{"password": "a long password", "device_id": "DEV", "auth": dummy}).OK()
		if !strings.HasPrefix(r.Str("user_id"), "@") || r.Str("device_id") != "DEV" {
			t.Error(r.Raw)
		}
	})
	t.Run("01-023 01-025 names that cannot be had", func(t *testing.T) {
		for name, code := range map[string]string{
			"alice": "M_USER_IN_USE", "a b": "M_INVALID_USERNAME", "ünal": "M_INVALID_USERNAME", "a:b": "M_INVALID_USERNAME",
			"a@b": "M_INVALID_USERNAME", strings.Repeat("x", 256): "M_INVALID_USERNAME", "🐱": "M_INVALID_USERNAME",
		} {
			nobody.Post("/register", obj{"username": name, "password": "a long password", "auth": dummy}).Is(400, code)
			nobody.Post("/register", obj{"username": name, "password": "a long password"}).Is(400, code)
			nobody.Get("/register/available?username="+clienttest.Esc(name)).Is(400, code)
		}
		nobody.Post("/register", obj{"username": "a.b_c=d-e/f+g", "password": "a long password", "auth": dummy}).Is(200, "")
	})
	t.Run("01-026 availability", func(t *testing.T) {
		for range 2 {
			if r := nobody.Get("/register/available?username=free").OK(); r.At("available") != true {
				t.Error(r.Raw)
			}
		}
		nobody.Get("/register/available").Is(400, "M_MISSING_PARAM")
	})
	t.Run("01-024 kinds that are switched off", func(t *testing.T) {
		nobody.Post("/register?kind=guest", obj{}).Is(403, "M_FORBIDDEN|M_GUEST_ACCESS_FORBIDDEN")
		nobody.Post("/register?kind=robot", obj{}).Is(400, "M_INVALID_PARAM")
	})
	t.Run("20-009 bodies that are no registration", func(t *testing.T) {
		nobody.Post("/register", `{"username": 5}`).Is(400, "M_BAD_JSON")
		nobody.Post("/register", `{"auth": "dummy"}`).Is(400, "M_BAD_JSON")
		nobody.Post("/register", `{"username"`).Is(400, "M_NOT_JSON")
		nobody.Post("/register", `null`).Is(400, "M_BAD_JSON")
	})
	t.Run("20-037 concurrent registration of one name", func(t *testing.T) {
		replies := make([]clienttest.Reply, 4)
		var group sync.WaitGroup
		for i := range replies {
			group.Go(func() {
				replies[i], _ = hs.Anonymous().Try("POST", "/register", obj{"username": "race", "password": "a long password", "auth": dummy})
			})
		}
		group.Wait()
		won := 0
		for _, r := range replies {
			if r.Status == 200 {
				won++
			} else {
				r.Is(400, "M_USER_IN_USE")
			}
		}
		if won != 1 {
			t.Errorf("%d registrations succeeded", won)
		}
	})
}

func TestRegistrationModes(t *testing.T) {
	t.Run("01-024 closed", func(t *testing.T) {
		hs := clienttest.New(t, func(o *clienttest.Options) { o.Server.Registration = server.RegistrationOptions{} })
		c := hs.Anonymous()
		c.Post("/register", obj{"username": "a", "password": "a long password"}).Is(403, "M_FORBIDDEN")
		c.Post("/register?kind=guest", obj{}).Is(403, "M_FORBIDDEN|M_GUEST_ACCESS_FORBIDDEN")
		c.Get("/_matrix/client/v1/register/m.login.registration_token/validity?token=x").Is(403, "M_FORBIDDEN")
		c.Get("/_synapse/admin/v1/register").IsOneOf("400 M_UNKNOWN", "404 M_UNRECOGNIZED")
	})
	t.Run("01-004 04-063 guests", func(t *testing.T) {
		hs := clienttest.New(t, func(o *clienttest.Options) { o.Server.Registration.Guests = true })
		r := hs.Anonymous().Post("/register?kind=guest", nil).OK()
		guest := hs.WithToken(r.Str("access_token"))
		if r := guest.Get("/account/whoami").OK(); r.At("is_guest") != true {
			t.Error(r.Raw)
		}
		guest.Put("/directory/room/%23x:hs", obj{}).Is(403, "M_GUEST_ACCESS_FORBIDDEN")
	})
	t.Run("01-027 registration tokens", func(t *testing.T) {
		hs := clienttest.New(t, func(o *clienttest.Options) { o.Server.Registration.Mode = server.RegistrationToken })
		token, err := hs.Server.Accounts.CreateRegistrationToken(t.Context(), server.NewRegistrationToken{Uses: 1})
		if err != nil {
			t.Fatal(err)
		}
		c := hs.Anonymous()
		valid := func(token string) any {
			return c.Get("/_matrix/client/v1/register/m.login.registration_token/validity?token=" + token).OK().At("valid")
		}
		if valid(string(token)) != true || valid("unknown") != false {
			t.Error("validity is wrong")
		}
		body := obj{"username": "erin", "password": "a long password"}
		session := c.Post("/register", body).Is(401, "").Str("session")
		body["auth"] = obj{"type": "m.login.registration_token", "session": session, "token": "wrong"}
		r := c.Post("/register", body).Is(401, "M_FORBIDDEN")
		if r.At("flows") == nil || r.Str("session") != session {
			t.Error("01-029", r.Raw)
		}
		body["auth"] = obj{"type": "m.login.dummy", "session": session}
		c.Post("/register", body).Is(401, "")
		body["auth"] = obj{"type": "m.login.registration_token", "session": session, "token": string(token)}
		c.Post("/register", body).OK()
		if valid(string(token)) != false {
			t.Error("the token can be used twice")
		}
	})
	t.Run("registration by shared secret", func(t *testing.T) {
		hs := clienttest.New(t, func(o *clienttest.Options) {
			o.Server.Registration = server.RegistrationOptions{SharedSecret: "s3cret"}
		})
		c := hs.Anonymous()
		nonce := c.Get("/_synapse/admin/v1/register").OK().Str("nonce")
		mac := hmac.New(sha1.New, []byte("s3cret"))
		mac.Write([]byte(nonce + "\x00root\x00a long password\x00admin"))
		body := obj{"nonce": nonce, "username": "root", "password": "a long password", "admin": true, "mac": hex.EncodeToString(mac.Sum(nil))}
		r := c.Post("/_synapse/admin/v1/register", body).OK()
		if r.Str("user_id") != "@root:"+hs.Name || r.Str("access_token") == "" {
			t.Error(r.Raw)
		}
		c.Post("/_synapse/admin/v1/register", body).IsOneOf("400 M_UNKNOWN")
		body["nonce"] = c.Get("/_synapse/admin/v1/register").OK().Str("nonce")
		c.Post("/_synapse/admin/v1/register", body).Is(403, "M_FORBIDDEN")
	})
}

func TestLockedAndSuspended(t *testing.T) {
	hs := clienttest.New(t)
	hs.Register("admin")
	alice := hs.Register("alice")
	admin := server.Session{User: "@admin:hs", Admin: true}
	set := func(s server.Standing) {
		t.Helper()
		if err := hs.Server.Accounts.SetStanding(t.Context(), admin, hs.UserID("alice"), s); err != nil {
			t.Fatal(err)
		}
	}
	yes, no := true, false
	t.Run("01-049 a locked account", func(t *testing.T) {
		set(server.Standing{Locked: &yes})
		if r := alice.Get("/account/whoami").Is(401, "M_USER_LOCKED"); r.At("soft_logout") != true {
			t.Error(r.Raw)
		}
		alice.Get("/capabilities").Is(401, "M_USER_LOCKED")
		set(server.Standing{Locked: &no})
		alice.Get("/account/whoami").Is(200, "")
		set(server.Standing{Locked: &yes})
		alice.Post("/logout", nil).Is(200, "")
		set(server.Standing{Locked: &no})
		alice = hs.Anonymous().Login("alice", clienttest.Password, "")
	})
	t.Run("01-050 a suspended account", func(t *testing.T) {
		admin := hs.Anonymous().Login("admin", clienttest.Password, "")
		room := admin.Room(nil)
		alice.Join(room)
		hers, mine := admin.Say(room, "hers"), alice.Say(room, "mine")
		set(server.Standing{Suspended: &yes})
		alice.Post("/createRoom", obj{}).Is(403, "M_USER_SUSPENDED")
		alice.Post(roomPath(room, "join"), obj{}).Is(403, "M_USER_SUSPENDED")
		alice.Post(roomPath(room, "invite"), obj{"user_id": "@x:hs"}).Is(403, "M_USER_SUSPENDED")
		alice.Put(roomPath(room, "send", "m.x", "1"), obj{}).Is(403, "M_USER_SUSPENDED")
		alice.Put(roomPath(room, "redact", hers, "2"), obj{}).Is(403, "M_USER_SUSPENDED")
		alice.Put(roomPath(room, "redact", mine, "3"), obj{}).Is(200, "")
		alice.Get(roomPath(room, "messages")+"?dir=b").Is(200, "")
		alice.Sync()
		alice.Leave(room)
		alice.Put("/profile/"+alice.User+"/displayname", obj{"displayname": "x"}).Is(403, "M_USER_SUSPENDED")
		alice.Get("/account/whoami").Is(200, "")
		alice.Post("/logout", nil).Is(200, "")
	})
}

func TestDiscovery(t *testing.T) {
	hs := clienttest.New(t, func(o *clienttest.Options) {
		o.API.PublicURL, o.API.FederationAddress = "https://matrix.example.org", "matrix.example.org:443"
	})
	c := hs.Anonymous()
	t.Run("01-061 versions", func(t *testing.T) {
		r := c.Get("/_matrix/client/versions").OK()
		have := map[any]bool{}
		for _, v := range r.List("versions") {
			have[v] = true
		}
		for _, v := range []string{"r0.6.1", "v1.1", "v1.11", "v1.19"} {
			if !have[v] {
				t.Errorf("no %s in %s", v, r.Raw)
			}
		}
		features, _ := r.At("unstable_features").(map[string]any)
		for name, value := range features {
			if _, isBool := value.(bool); !isBool {
				t.Errorf("%s is %v", name, value)
			}
		}
		hs.WithToken("nonsense").Get("/_matrix/client/versions").IsOneOf("200", "401 M_UNKNOWN_TOKEN")
	})
	t.Run("01-062 well-known documents", func(t *testing.T) {
		r := c.Get("/.well-known/matrix/client").Is(200, "")
		if r.Str("m.homeserver", "base_url") != "https://matrix.example.org" || r.Header.Get("Access-Control-Allow-Origin") != "*" ||
			r.Header.Get("Content-Type") != "application/json" {
			t.Error(r.Raw, r.Header)
		}
		if r := c.Get("/.well-known/matrix/server").OK(); r.Str("m.server") != "matrix.example.org:443" {
			t.Error(r.Raw)
		}
		plain := clienttest.New(t).Anonymous()
		plain.Get("/.well-known/matrix/client").Is(404, "M_NOT_FOUND")
		plain.Get("/.well-known/matrix/server").Is(404, "M_NOT_FOUND")
	})
	t.Run("01-043 01-044 capabilities", func(t *testing.T) {
		c.Get("/capabilities").Is(401, "M_MISSING_TOKEN")
		r := hs.Register("alice").Get("/capabilities").OK()
		preset := r.Str("capabilities", "m.room_versions", "default")
		if preset == "" || r.Str("capabilities", "m.room_versions", "available", preset) != "stable" {
			t.Error(r.Raw)
		}
		if r.At("capabilities", "m.change_password", "enabled") != true || r.At("capabilities", "m.get_login_token", "enabled") != false ||
			r.At("capabilities", "m.account_moderation") != nil {
			t.Error(r.Raw)
		}
	})
}
