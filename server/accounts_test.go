package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"atoll/spec"
	"atoll/storage"
	"atoll/storage/storagetest"
)

// accountsBed is a server with a clock that stands still.
type accountsBed struct {
	*Server
	t        testing.TB
	database storage.Options
	now      time.Time
	log      bytes.Buffer
	o        Options
}

func newAccountsBed(t testing.TB, change func(*Options)) *accountsBed {
	t.Helper()
	b := &accountsBed{t: t, database: storagetest.Options(t), now: time.UnixMilli(1_700_000_000_000)}
	b.o = Options{
		Name: "hs", Key: testKey, Now: func() time.Time { return b.now }, Passwords: CheapPasswords(),
		Log:          slog.New(slog.NewJSONHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registration: RegistrationOptions{Mode: RegistrationOpen},
	}
	if change != nil {
		change(&b.o)
	}
	b.database.Log = b.o.Log
	b.open()
	t.Cleanup(func() {
		if err := b.o.DB.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func (b *accountsBed) open() {
	b.t.Helper()
	db, err := storage.Open(context.Background(), b.database)
	if err != nil {
		b.t.Fatal(err)
	}
	b.o.DB = db
	if b.Server, err = New(b.o); err != nil {
		b.t.Fatal(err)
	}
}

// restart closes the database and opens it again.
func (b *accountsBed) restart() {
	b.t.Helper()
	if err := b.o.DB.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// register makes an account the way clients do that know the flow.
func (b *accountsBed) register(name string) NewSession {
	b.t.Helper()
	made, err := b.Accounts.Register(context.Background(), Register{Username: name, Password: "s3cret", Auth: &UIAAuth{Type: StageDummy}})
	if err != nil {
		b.t.Fatalf("register %s: %v", name, err)
	}
	return made
}

func (b *accountsBed) session(token Secret) Session {
	b.t.Helper()
	s, err := b.Accounts.Authenticate(context.Background(), Credentials{Token: token})
	if err != nil {
		b.t.Fatalf("authenticate: %v", err)
	}
	return s
}

// refuses fails the test unless the token is refused with the code.
func (b *accountsBed) refuses(claim string, token Secret, code spec.Code) {
	b.t.Helper()
	_, err := b.Accounts.Authenticate(context.Background(), Credentials{Token: token})
	wantCode(b.t, claim, err, code)
}

// wantCode fails the test unless err is a *spec.Error of that code; the code ""
// wants no error. It returns the error.
func wantCode(t testing.TB, claim string, err error, code spec.Code) *spec.Error {
	t.Helper()
	var e *spec.Error
	switch {
	case code == "" && err == nil:
	case code == "":
		t.Errorf("%s: %v", claim, err)
	case !errors.As(err, &e) || e.Code != code:
		t.Errorf("%s: %v, want %s", claim, err, code)
	}
	if e == nil {
		e = &spec.Error{}
	}
	return e
}

func passwordLogin(user string, password Secret) Login {
	return Login{Type: LoginPassword, Identifier: Identifier{Type: identifierUser, User: user}, Password: password}
}

func TestTokens(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.register("alice")

	b.refuses("01-001 no token", "", spec.CodeMissingToken)
	b.refuses("01-001 a token that was never issued", "nonsense", spec.CodeUnknownToken)
	if s := b.session(alice.Token); s.User != "@alice:hs" || s.Device != alice.Device || s.Guest || s.Admin {
		t.Errorf("01-004 the token belongs to %+v", s)
	}
	b.restart()
	if s := b.session(alice.Token); s.User != "@alice:hs" {
		t.Errorf("20-038 after a restart the token belongs to %+v", s)
	}
	if err := b.Accounts.Logout(t.Context(), b.session(alice.Token)); err != nil {
		t.Fatal(err)
	}
	b.refuses("01-047 a token after logout", alice.Token, spec.CodeUnknownToken)
	if devices, err := b.Accounts.Devices(t.Context(), "@alice:hs"); err != nil || len(devices) != 0 {
		t.Errorf("01-047 devices after logout: %v, %v", devices, err)
	}
	b.restart()
	b.refuses("20-038 a token after logout and restart", alice.Token, spec.CodeUnknownToken)
}

func TestExpiredToken(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.register("alice")
	hash := hashToken("soon over")
	err := b.db.Write(t.Context(), func(tx *storage.Tx) error {
		return tx.InsertSession(storage.SessionRow{TokenHash: hash[:], User: alice.User, Device: alice.Device, Expires: b.now.UnixMilli() + 1000})
	})
	if err != nil {
		t.Fatal(err)
	}
	b.session("soon over")
	b.now = b.now.Add(time.Second)
	_, err = b.Accounts.Authenticate(t.Context(), Credentials{Token: "soon over"})
	if e := wantCode(t, "01-003 an expired token", err, spec.CodeUnknownToken); e.Fields["soft_logout"] != true {
		t.Errorf("01-003 no soft logout: %v", e.Fields)
	}
	_, err = b.Accounts.Authenticate(t.Context(), Credentials{Token: "destroyed"})
	if e := wantCode(t, "01-003 a destroyed session", err, spec.CodeUnknownToken); e.Fields["soft_logout"] != nil {
		t.Errorf("01-003 a destroyed session gives a soft logout: %v", e.Fields)
	}
}

func TestLogin(t *testing.T) {
	b := newAccountsBed(t, nil)
	b.register("alice")
	ctx := t.Context()

	for _, name := range []string{"alice", "@alice:hs", "Alice"} {
		if s, err := b.Accounts.Login(ctx, passwordLogin(name, "s3cret")); err != nil || s.User != "@alice:hs" || s.Device == "" {
			t.Errorf("01-009 login as %s: %+v, %v", name, s, err)
		}
	}
	if s, err := b.Accounts.Login(ctx, Login{Type: LoginPassword, User: "alice", Password: "s3cret"}); err != nil || s.User != "@alice:hs" {
		t.Errorf("01-009 login with the older user member: %+v, %v", s, err)
	}
	for claim, c := range map[string]struct {
		login Login
		code  spec.Code
	}{
		"01-011 an unknown type":         {Login{Type: "m.login.dance"}, spec.CodeUnknown},
		"01-011 a wrong password":        {passwordLogin("alice", "S3cret"), spec.CodeForbidden},
		"01-011 an unknown user":         {passwordLogin("bob", "s3cret"), spec.CodeForbidden},
		"01-011 another server's user":   {passwordLogin("@alice:elsewhere", "s3cret"), spec.CodeForbidden},
		"01-011 no user name at all":     {passwordLogin("\x00", "s3cret"), spec.CodeForbidden},
		"01-012 a mail address":          {Login{Type: LoginPassword, Identifier: Identifier{Type: "m.id.thirdparty"}, Password: "s3cret"}, spec.CodeForbidden},
		"a login without type":           {Login{User: "alice"}, spec.CodeMissingParam},
		"a login without identifier":     {Login{Type: LoginPassword, Password: "s3cret"}, spec.CodeMissingParam},
		"a login without password":       {passwordLogin("alice", ""), spec.CodeMissingParam},
		"a device ID that is no text":    {Login{Type: LoginPassword, User: "alice", Password: "s3cret", Device: "a\x00"}, spec.CodeInvalidParam},
		"a device ID that is too long":   {Login{Type: LoginPassword, User: "alice", Password: "s3cret", Device: strings.Repeat("x", 256)}, spec.CodeInvalidParam},
		"the mail address of an old app": {Login{Type: LoginPassword, Identifier: Identifier{Type: "m.id.phone"}, User: "alice", Password: "s3cret"}, spec.CodeForbidden},
	} {
		_, err := b.Accounts.Login(ctx, c.login)
		if e := wantCode(t, claim, err, c.code); e.HTTPStatus() == 401 || e.HTTPStatus() == 500 || e.Fields["flows"] != nil {
			t.Errorf("%s: status %d, %v", claim, e.HTTPStatus(), e.Fields)
		}
	}
}

func TestLoginOnExistingDevice(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.register("alice")
	ctx := t.Context()
	first, second := "first name", "second name"

	login := passwordLogin("alice", "s3cret")
	login.Device, login.DeviceName = "PHONE", &first
	one, err := b.Accounts.Login(ctx, login)
	if err != nil || one.Device != "PHONE" {
		t.Fatalf("01-010 the device ID that was asked for: %+v, %v", one, err)
	}
	b.session(one.Token)
	login.DeviceName = &second
	two, err := b.Accounts.Login(ctx, login)
	if err != nil {
		t.Fatal(err)
	}
	b.refuses("01-006 the older token of the device", one.Token, spec.CodeUnknownToken)
	b.session(two.Token)
	b.session(alice.Token)
	d, err := b.Accounts.Device(ctx, alice.User, "PHONE")
	if err != nil || d.Name != first {
		t.Errorf("01-006 the device's name: %+v, %v", d, err)
	}
	if devices, err := b.Accounts.Devices(ctx, alice.User); err != nil || len(devices) != 2 {
		t.Errorf("01-006 devices: %+v, %v", devices, err)
	}
	if _, err := b.Accounts.Device(ctx, "@bob:hs", "PHONE"); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("somebody else's device: %v", err)
	}
	if err := b.Accounts.LogoutAll(ctx, alice.User); err != nil {
		t.Fatal(err)
	}
	b.refuses("01-048 one token after logging out of all", two.Token, spec.CodeUnknownToken)
	b.refuses("01-048 the other", alice.Token, spec.CodeUnknownToken)
}

func TestDevices(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.register("alice")
	ctx := t.Context()

	wantCode(t, "a name", b.Accounts.RenameDevice(ctx, alice.User, alice.Device, "phone"), "")
	wantCode(t, "a name for no device", b.Accounts.RenameDevice(ctx, alice.User, "NONE", "phone"), spec.CodeNotFound)
	wantCode(t, "a long name", b.Accounts.RenameDevice(ctx, alice.User, alice.Device, strings.Repeat("x", 300)), spec.CodeTooLarge)

	_, err := b.Accounts.Authenticate(ctx, Credentials{Token: alice.Token, IP: "192.0.2.1", UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	want := Device{ID: alice.Device, Name: "phone", LastSeen: b.now.UnixMilli(), LastIP: "192.0.2.1", LastUserAgent: "test"}
	if d, err := b.Accounts.Device(ctx, alice.User, alice.Device); err != nil || d != want {
		t.Errorf("last use before it is written: %+v, %v", d, err)
	}
	// Run writes it when it stops.
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Run(stopped); err != nil {
		t.Fatal(err)
	}
	b.restart()
	if d, err := b.Accounts.Device(ctx, alice.User, alice.Device); err != nil || d != want {
		t.Errorf("last use after a restart: %+v, %v", d, err)
	}
}

func TestOtherNodeRevokes(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.register("alice")
	ctx := t.Context()
	other, err := New(b.o)
	if err != nil {
		t.Fatal(err)
	}
	authenticate := func() error {
		_, err := other.Accounts.Authenticate(ctx, Credentials{Token: alice.Token})
		return err
	}
	if err := authenticate(); err != nil {
		t.Fatal(err)
	}
	if err := b.Accounts.LogoutAll(ctx, alice.User); err != nil {
		t.Fatal(err)
	}
	if err := authenticate(); err != nil {
		t.Errorf("a session in memory was looked up again: %v", err)
	}
	entries, err := other.Accounts.follower.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	other.Accounts.heed(entries)
	wantCode(t, "a session that another node has ended", authenticate(), spec.CodeUnknownToken)
}

func TestSessionCacheForgetsWhatItReadBeforeARevocation(t *testing.T) {
	c := newSessionCache()
	since := c.generation()
	c.drop("@alice:hs")
	c.put(hashToken("t"), Session{User: "@alice:hs"}, since)
	if _, ok := c.get(hashToken("t")); ok {
		t.Error("a look-up that began before a revocation was remembered after it")
	}
	c.put(hashToken("t"), Session{User: "@alice:hs"}, c.generation())
	c.put(hashToken("u"), Session{User: "@bob:hs"}, c.generation())
	c.drop("@alice:hs")
	_, alice := c.get(hashToken("t"))
	_, bob := c.get(hashToken("u"))
	if alice || !bob {
		t.Errorf("after a revocation of alice's: alice's is there %v, bob's %v", alice, bob)
	}
}

func TestRecentStaysBounded(t *testing.T) {
	r := newRecent[int, int](10)
	r.put(-1, 7)
	for i := range 1000 {
		r.put(i, i)
		if v, ok := r.get(-1); !ok || v != 7 {
			t.Fatalf("what is asked for all the time fell out after %d", i)
		}
		if n := len(r.young) + len(r.old); n > 11 {
			t.Fatalf("%d entries", n)
		}
	}
	if _, ok := r.get(0); ok {
		t.Error("what nobody asked for is still there")
	}
}

func TestPasswordChange(t *testing.T) {
	b := newAccountsBed(t, nil)
	mine := b.register("alice")
	ctx := t.Context()
	other, err := b.Accounts.Login(ctx, passwordLogin("alice", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := b.Accounts.ChangePassword(ctx, PasswordChange{User: mine.User, Password: "n3w", Device: mine.Device})
	if err != nil || len(gone) != 0 {
		t.Fatalf("01-037 a change that logs nobody out: %v, %v", gone, err)
	}
	b.session(other.Token)
	_, err = b.Accounts.Login(ctx, passwordLogin("alice", "s3cret"))
	wantCode(t, "01-035 the old password", err, spec.CodeForbidden)

	gone, err = b.Accounts.ChangePassword(ctx, PasswordChange{User: mine.User, Password: "n3wer", Device: mine.Device, LogoutOthers: true})
	if err != nil || !slices.Equal(gone, []string{other.Device}) {
		t.Errorf("01-036 devices that were logged out: %v, %v", gone, err)
	}
	b.session(mine.Token)
	b.refuses("01-036 another session", other.Token, spec.CodeUnknownToken)
	if _, err := b.Accounts.Login(ctx, passwordLogin("alice", "n3wer")); err != nil {
		t.Errorf("01-035 the new password: %v", err)
	}
}

func TestDeactivation(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.register("alice")
	ctx := t.Context()
	for range 2 {
		if err := b.Accounts.Deactivate(ctx, Deactivation{User: alice.User}); err != nil {
			t.Fatal(err)
		}
	}
	b.refuses("01-040 a token of a deactivated account", alice.Token, spec.CodeUnknownToken)
	_, err := b.Accounts.Login(ctx, passwordLogin("alice", "s3cret"))
	wantCode(t, "01-015 login after deactivation", err, spec.CodeForbidden)
	wantCode(t, "01-040 the name stays taken", b.Accounts.CheckUsername(ctx, "alice"), spec.CodeUserInUse)
	_, err = b.Profiles.Get(ctx, alice.User)
	wantCode(t, "the profile is gone", err, spec.CodeNotFound)
	wantCode(t, "an account that never was", b.Accounts.Deactivate(ctx, Deactivation{User: "@nobody:hs"}), spec.CodeNotFound)
	if account, err := b.Accounts.Account(ctx, alice.User); err != nil || !account.Deactivated {
		t.Errorf("the account: %+v, %v", account, err)
	}
}

func TestStanding(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice, root := b.register("alice"), b.register("root")
	ctx := t.Context()
	b.session(alice.Token)
	b.session(root.Token)
	yes, no := true, false

	for _, user := range []spec.UserID{"@alice:hs", "@nobody:hs", "@a:elsewhere"} {
		err := b.Accounts.SetStanding(ctx, b.session(root.Token), user, Standing{Locked: &yes})
		wantCode(t, "01-051 by no administrator, of "+string(user), err, spec.CodeForbidden)
	}
	if err := b.Accounts.MakeAdmin(ctx, root.User); err != nil {
		t.Fatal(err)
	}
	admin := b.session(root.Token)
	if !admin.Admin {
		t.Fatal("the session does not know that it is an administrator's now")
	}
	set := func(claim string, user spec.UserID, s Standing, code spec.Code) {
		t.Helper()
		wantCode(t, claim, b.Accounts.SetStanding(ctx, admin, user, s), code)
	}
	set("01-052 a remote user", "@a:elsewhere", Standing{Locked: &yes}, spec.CodeInvalidParam)
	set("01-052 an unknown user", "@nobody:hs", Standing{Locked: &yes}, spec.CodeNotFound)
	set("01-052 oneself", root.User, Standing{Locked: &yes}, spec.CodeForbidden)
	set("01-052 a user", alice.User, Standing{Locked: &yes}, "")
	if account, err := b.Accounts.Standing(ctx, admin, alice.User); err != nil || !account.Locked || account.Suspended {
		t.Errorf("01-052 the standing reads %+v, %v", account, err)
	}
	_, err := b.Accounts.Authenticate(ctx, Credentials{Token: alice.Token})
	if e := wantCode(t, "01-049 a locked account", err, spec.CodeUserLocked); e.HTTPStatus() != 401 || e.Fields["soft_logout"] != true {
		t.Errorf("01-049 status %d, %v", e.HTTPStatus(), e.Fields)
	}
	if _, err := b.Accounts.Authenticate(ctx, Credentials{Token: alice.Token, AllowLocked: true}); err != nil {
		t.Errorf("01-049 a locked account that logs out: %v", err)
	}
	_, err = b.Accounts.Login(ctx, passwordLogin("alice", "s3cret"))
	wantCode(t, "01-049 login to a locked account", err, spec.CodeUserLocked)
	set("unlocking", alice.User, Standing{Locked: &no, Suspended: &yes}, "")
	s := b.session(alice.Token) // 01-049: the token works again
	wantCode(t, "01-050 what suspended users may not do", s.CheckNotSuspended(), spec.CodeUserSuspended)
}

func TestRegister(t *testing.T) {
	b := newAccountsBed(t, func(o *Options) {
		o.Registration.Exclusive = func(u spec.UserID) bool { return strings.HasPrefix(string(u), "@bridge_") }
	})
	ctx := t.Context()
	_, err := b.Accounts.Register(ctx, Register{Username: "alice", Password: "s3cret"})
	e := wantAuthNeeded(t, "01-021 no auth", err)
	session, _ := e.Fields["session"].(string)
	if e.Code != "" || session == "" || e.Fields["completed"] != nil {
		t.Errorf("01-021 the first answer: code %q, %v", e.Code, e.Fields)
	}
	name := "my phone"
	made, err := b.Accounts.Register(ctx, Register{
		Username: "Alice", Password: "s3cret", Device: "PHONE", DeviceName: &name, Auth: &UIAAuth{Type: StageDummy, Session: session},
	})
	if err != nil || made.User != "@alice:hs" || made.Device != "PHONE" || made.Token == "" {
		t.Fatalf("01-022 registration: %+v, %v", made, err)
	}
	b.session(made.Token)
	_, err = b.Accounts.Register(ctx, Register{Username: "carol", Password: "s3cret", Auth: &UIAAuth{Type: StageDummy, Session: session}})
	wantAuthNeeded(t, "a session that has made its account", err)

	quiet, err := b.Accounts.Register(ctx, Register{Username: "bob", Password: "s3cret", InhibitLogin: true, Auth: &UIAAuth{Type: StageDummy}})
	if err != nil || quiet != (NewSession{User: "@bob:hs"}) {
		t.Errorf("01-022 registration without login: %+v, %v", quiet, err)
	}
	if devices, err := b.Accounts.Devices(ctx, "@bob:hs"); err != nil || len(devices) != 0 {
		t.Errorf("01-022 a device nevertheless: %v, %v", devices, err)
	}
	if anon, err := b.Accounts.Register(ctx, Register{Password: "s3cret", Auth: &UIAAuth{Type: StageDummy}}); err != nil || anon.User.Localpart() == "" {
		t.Errorf("a made-up name: %+v, %v", anon, err)
	}
	for name, code := range map[string]spec.Code{
		"alice": spec.CodeUserInUse, "ALICE": spec.CodeUserInUse, "@alice:hs": spec.CodeUserInUse,
		"é": spec.CodeInvalidUsername, "a b": spec.CodeInvalidUsername, "a:b": spec.CodeInvalidUsername, "@a:elsewhere": spec.CodeInvalidUsername,
		strings.Repeat("x", 255): spec.CodeInvalidUsername, "\u212aelvin": spec.CodeInvalidUsername,
		"bridge_x": spec.CodeExclusive, "a.b_c=d-e/f+0": "",
	} {
		wantCode(t, "01-026 is "+name+" available", b.Accounts.CheckUsername(ctx, name), code)
		if code != "" {
			_, err := b.Accounts.Register(ctx, Register{Username: name})
			wantCode(t, "01-023 01-025 registering "+name+" before any auth", err, code)
		}
	}
	_, err = b.Accounts.Register(ctx, Register{Username: "dave", Auth: &UIAAuth{Type: StageDummy}})
	wantCode(t, "a registration without password", err, spec.CodeMissingParam)
	_, err = b.Accounts.Register(ctx, Register{Guest: true})
	wantCode(t, "01-024 a guest", err, spec.CodeForbidden)
}

func TestRegisterGuest(t *testing.T) {
	b := newAccountsBed(t, func(o *Options) { o.Registration = RegistrationOptions{Guests: true} })
	made, err := b.Accounts.Register(t.Context(), Register{Guest: true, Username: "ignored", Device: "IGNORED"})
	if err != nil || made.Device == "IGNORED" || made.User == "@ignored:hs" {
		t.Fatalf("a guest: %+v, %v", made, err)
	}
	if s := b.session(made.Token); !s.Guest {
		t.Error("01-004 the session is not a guest's")
	}
	_, err = b.Accounts.Register(t.Context(), Register{Username: "alice"})
	wantCode(t, "01-024 registration that is switched off", err, spec.CodeForbidden)
	wantCode(t, "availability where nobody can register", b.Accounts.CheckUsername(t.Context(), "alice"), spec.CodeForbidden)
	_, err = b.Accounts.RegistrationTokenValid(t.Context(), "x")
	wantCode(t, "01-027 validity where registration is closed", err, spec.CodeForbidden)
}

func TestRegisterSameNameAtOnce(t *testing.T) {
	b := newAccountsBed(t, nil)
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			_, err := b.Accounts.Register(t.Context(), Register{Username: "alice", Password: "s3cret", Auth: &UIAAuth{Type: StageDummy}})
			results <- err
		}()
	}
	made := 0
	for range cap(results) {
		if err := <-results; err == nil {
			made++
		} else {
			wantCode(t, "20-037 the later of two", err, spec.CodeUserInUse)
		}
	}
	if made != 1 {
		t.Errorf("20-037 %d accounts of one name", made)
	}
}

func TestRegistrationTokens(t *testing.T) {
	b := newAccountsBed(t, func(o *Options) { o.Registration.Mode = RegistrationToken })
	ctx := t.Context()
	once, err := b.Accounts.CreateRegistrationToken(ctx, NewRegistrationToken{Token: "once", Uses: 1, Expires: b.now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	forever, err := b.Accounts.CreateRegistrationToken(ctx, NewRegistrationToken{})
	if err != nil || forever == "" {
		t.Fatal(err)
	}
	_, err = b.Accounts.CreateRegistrationToken(ctx, NewRegistrationToken{Token: "once"})
	wantCode(t, "a token that exists", err, spec.CodeInvalidParam)

	valid := func(claim string, token Secret, want bool) {
		t.Helper()
		if got, err := b.Accounts.RegistrationTokenValid(ctx, token); err != nil || got != want {
			t.Errorf("%s: %v, %v", claim, got, err)
		}
	}
	valid("01-027 a known token", once, true)
	valid("01-027 an unknown one", "never", false)

	register := func(name string, auth *UIAAuth) error {
		_, err := b.Accounts.Register(ctx, Register{Username: name, Password: "s3cret", Auth: auth})
		return err
	}
	wantAuthNeeded(t, "dummy is no way in", register("alice", &UIAAuth{Type: StageDummy}))
	e := wantCode(t, "01-029 a wrong token", register("alice", &UIAAuth{Type: StageRegistrationToken, Token: "never"}), spec.CodeForbidden)
	wantAuthNeeded(t, "01-029 a wrong token", e)
	session, _ := e.Fields["session"].(string)
	// The token is not used up by registrations that fail for another reason.
	_, err = b.Accounts.Register(ctx, Register{Username: "alice", Auth: &UIAAuth{Type: StageRegistrationToken, Session: session, Token: once}})
	wantCode(t, "no password", err, spec.CodeMissingParam)
	valid("a token after a registration that failed", once, true)
	wantCode(t, "the right token", register("alice", &UIAAuth{Type: StageRegistrationToken, Session: session, Token: once}), "")
	valid("a token that is used up", once, false)
	wantAuthNeeded(t, "a token that is used up", register("bob", &UIAAuth{Type: StageRegistrationToken, Token: once}))
	wantCode(t, "a token for any number", register("bob", &UIAAuth{Type: StageRegistrationToken, Token: forever}), "")

	if _, err := b.Accounts.CreateRegistrationToken(ctx, NewRegistrationToken{Token: "hour", Expires: b.now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	valid("a token before its end", "hour", true)
	b.now = b.now.Add(time.Hour)
	valid("a token after its end", "hour", false)
}

func TestRegisterBySharedSecret(t *testing.T) {
	b := newAccountsBed(t, func(o *Options) { o.Registration = RegistrationOptions{SharedSecret: "sesame"} })
	ctx := t.Context()
	request := func(name string, admin bool) SharedSecretRegister {
		nonce, err := b.Accounts.Nonce()
		if err != nil {
			t.Fatal(err)
		}
		role := "notadmin"
		if admin {
			role = "admin"
		}
		h := hmac.New(sha1.New, []byte("sesame"))
		h.Write([]byte(nonce + "\x00" + name + "\x00s3cret\x00" + role))
		return SharedSecretRegister{Nonce: nonce, Username: name, Password: "s3cret", Admin: admin, MAC: hex.EncodeToString(h.Sum(nil))}
	}
	r := request("root", true)
	r.DisplayName = "The Root"
	made, err := b.Accounts.RegisterShared(ctx, r)
	if err != nil || !b.session(made.Token).Admin {
		t.Fatalf("an administrator: %+v, %v", made, err)
	}
	if p, err := b.Profiles.Get(ctx, made.User); err != nil || p.DisplayName() != "The Root" {
		t.Errorf("display name %q, %v", p.DisplayName(), err)
	}
	_, err = b.Accounts.RegisterShared(ctx, r)
	wantCode(t, "a nonce for the second time", err, spec.CodeUnknown)
	r = request("alice", false)
	r.Admin = true
	_, err = b.Accounts.RegisterShared(ctx, r)
	wantCode(t, "a mac for something else", err, spec.CodeForbidden)
	r = request("alice", false)
	b.now = b.now.Add(nonceLifetime)
	_, err = b.Accounts.RegisterShared(ctx, r)
	wantCode(t, "a nonce that is too old", err, spec.CodeUnknown)
	made, err = b.Accounts.RegisterShared(ctx, request("alice", false))
	if err != nil || b.session(made.Token).Admin {
		t.Errorf("no administrator: %+v, %v", made, err)
	}
	_, err = b.Accounts.Register(ctx, Register{Username: "bob"})
	wantCode(t, "01-024 registration is closed otherwise", err, spec.CodeForbidden)

	off := newAccountsBed(t, nil)
	if _, err := off.Accounts.Nonce(); err == nil {
		t.Error("a nonce where no secret is set")
	}
	_, err = off.Accounts.RegisterShared(ctx, SharedSecretRegister{Nonce: "x", Username: "x", Password: "x", MAC: "00"})
	wantCode(t, "where no secret is set", err, spec.CodeUnknown)
}

func TestCreateUser(t *testing.T) {
	b := newAccountsBed(t, func(o *Options) { o.Registration = RegistrationOptions{} })
	user, err := b.Accounts.CreateUser(t.Context(), CreateUser{Username: "root", Password: "s3cret", Admin: true})
	if err != nil || user != "@root:hs" {
		t.Fatal(user, err)
	}
	made, err := b.Accounts.Login(t.Context(), passwordLogin("root", "s3cret"))
	if err != nil || !b.session(made.Token).Admin {
		t.Errorf("%+v, %v", made, err)
	}
}

func TestPasswordOfAnotherCostIsHashedAgain(t *testing.T) {
	b := newAccountsBed(t, nil)
	b.register("alice")
	b.o.Passwords.MemoryKiB = 128
	b.restart()
	for range 2 {
		if _, err := b.Accounts.Login(t.Context(), passwordLogin("alice", "s3cret")); err != nil {
			t.Fatal(err)
		}
	}
	u, err := b.Accounts.checkAccount(t.Context(), "alice", "s3cret")
	if err != nil || !u.OK || u.Stale || !strings.Contains(u.row.PasswordHash, "m=128,") {
		t.Errorf("right %v, stale %v, %v", u.OK, u.Stale, err)
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	b := newAccountsBed(t, nil)
	ctx := t.Context()
	made := b.register("alice")
	_, _ = b.Accounts.Authenticate(ctx, Credentials{Token: made.Token, IP: "192.0.2.1"})
	_, _ = b.Accounts.Login(ctx, passwordLogin("alice", "wrong-passw0rd"))
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := b.Accounts.Login(cancelled, passwordLogin("alice", "s3cret"))
	b.o.Log.Error("as the edge would log it", "err", err, "request", passwordLogin("alice", "s3cret"), "session", made)
	_, err = b.Accounts.Register(cancelled, Register{Username: "bob", Password: "s3cret", Auth: &UIAAuth{Type: StageDummy}})
	b.o.Log.Error("as the edge would log it", "err", err, "options", b.o.Registration)
	stopped, stop := context.WithCancel(ctx)
	stop()
	_ = b.Run(stopped)
	for _, secret := range []string{string(made.Token), "s3cret", "wrong-passw0rd", "$argon2id$"} {
		if strings.Contains(b.log.String(), secret) {
			t.Errorf("the log has %q in it:\n%s", secret, b.log.String())
		}
	}
	if b.log.Len() == 0 {
		t.Error("nothing was logged, so nothing was tested")
	}
}

// testKey signs for the server under test.
var testKey = spec.SigningKey{ID: "ed25519:t", Private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
