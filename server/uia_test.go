package server

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"atoll/spec"
)

// fakeStages takes one password and one token.
type fakeStages struct{}

func (fakeStages) checkPassword(_ context.Context, name string, password Secret) (spec.UserID, bool, error) {
	return spec.UserID("@" + name + ":hs"), password == "right", nil
}

func (fakeStages) checkRegistrationToken(_ context.Context, token Secret) (bool, error) {
	return token == "right", nil
}

func (fakeStages) checkJWT(_ context.Context, token Secret) (spec.UserID, bool, error) {
	return "@alice:hs", token == "right", nil
}

// fakeProgress keeps sessions in a map.
type fakeProgress map[string]uiaProgress

func (f fakeProgress) loadProgress(_ context.Context, session string) (uiaProgress, error) {
	return f[session], nil
}

func (f fakeProgress) saveProgress(_ context.Context, s uiaSession) error {
	f[s.id] = s.uiaProgress
	return nil
}

func (f fakeProgress) dropProgress(_ context.Context, session string) error {
	delete(f, session)
	return nil
}

// wantAuthNeeded fails the test unless err is the 401 that asks for
// authentication. It returns the error.
func wantAuthNeeded(t *testing.T, claim string, err error) *spec.Error {
	t.Helper()
	e, ok := err.(*spec.Error)
	if !ok || e.HTTPStatus() != 401 || e.Fields["flows"] == nil || e.Fields["params"] == nil || e.Fields["session"] == nil {
		t.Fatalf("%s: %v is not the 401 with flows, params and session", claim, err)
	}
	return e
}

func TestUIAStages(t *testing.T) {
	now := time.UnixMilli(0)
	u := newUIA(fakeStages{}, fakeProgress{}, nil, func() time.Time { return now })
	try := func(auth *UIAAuth) (UIAGrant, error) {
		return u.Authorize(t.Context(), UIARequest{
			Operation: "delete X", User: "@alice:hs", Auth: auth,
			Flows:  [][]string{{StageDummy, StagePassword}, {StageRegistrationToken}},
			Params: map[string]any{"m.login.terms": 1},
		})
	}
	_, err := try(nil)
	e := wantAuthNeeded(t, "01-021 no auth", err)
	session := e.Fields["session"].(string)
	if got := fmt.Sprint(e.Fields["flows"]); got != "[{[m.login.dummy m.login.password]} {[m.login.registration_token]}]" || e.Code != "" {
		t.Errorf("01-021 flows %s, code %q", got, e.Code)
	}
	right := &UIAAuth{Type: StagePassword, Session: session, Identifier: Identifier{Type: identifierUser, User: "alice"}, Password: "right"}
	_, err = try(right)
	if e := wantAuthNeeded(t, "01-031 a stage out of order", err); e.Fields["completed"] != nil {
		t.Errorf("01-031 a stage out of order was counted: %v", e.Fields)
	}
	for range 2 {
		_, err = try(&UIAAuth{Type: StageDummy, Session: session})
		e = wantAuthNeeded(t, "01-028 01-031 the first stage, once and again", err)
		if e.Code != "" || e.Fields["session"] != session || !reflect.DeepEqual(e.Fields["completed"], []string{StageDummy}) {
			t.Errorf("01-028 the answer to the first stage: %v %v", e.Code, e.Fields)
		}
	}
	_, err = try(&UIAAuth{Session: session})
	wantAuthNeeded(t, "01-032 only a session that is not done", err)

	wrong := *right
	wrong.Password = "wrong"
	_, err = try(&wrong)
	e = wantAuthNeeded(t, "01-029 a wrong password", err)
	if e.Code != spec.CodeForbidden || e.Msg == "" || e.Fields["session"] != session || !reflect.DeepEqual(e.Fields["completed"], []string{StageDummy}) {
		t.Errorf("01-029 the answer to a wrong password: %v %v", e, e.Fields)
	}
	other := *right
	other.Identifier.User = "bob"
	_, err = try(&other)
	if e := wantCode(t, "01-033 another user's password", err, spec.CodeForbidden); e.HTTPStatus() != 403 || e.Fields["flows"] != nil {
		t.Errorf("01-033 status %d, %v", e.HTTPStatus(), e.Fields)
	}
	grant, err := try(right)
	if err != nil || grant.Session != session {
		t.Fatalf("01-029 the right password in the same session: %+v, %v", grant, err)
	}
	if _, err := try(&UIAAuth{Session: session}); err != nil {
		t.Errorf("01-032 only a session that is done: %v", err)
	}
	u.Finish(t.Context(), session)
	_, err = try(&UIAAuth{Session: session})
	if e := wantAuthNeeded(t, "a session whose operation was carried out", err); e.Fields["session"] == session {
		t.Error("the session lives on")
	}
}

func TestUIASessionIsBound(t *testing.T) {
	now := time.UnixMilli(0)
	u := newUIA(fakeStages{}, fakeProgress{}, nil, func() time.Time { return now })
	begin := UIARequest{Operation: "delete A", User: "@alice:hs", Flows: [][]string{{StageDummy}}, Auth: &UIAAuth{Type: StageDummy}}
	grant, err := u.Authorize(t.Context(), begin)
	if err != nil {
		t.Fatalf("the first stage without a session: %v", err)
	}
	change := begin
	change.Operation, change.Auth = "delete B", &UIAAuth{Session: grant.Session}
	_, err = u.Authorize(t.Context(), change)
	wantCode(t, "01-034 another operation", err, spec.CodeForbidden)
	change = begin
	change.User, change.Auth = "@bob:hs", &UIAAuth{Session: grant.Session}
	_, err = u.Authorize(t.Context(), change)
	wantCode(t, "01-033 another user", err, spec.CodeForbidden)

	now = now.Add(uiaLifetime)
	change = begin
	change.Auth = &UIAAuth{Session: grant.Session}
	_, err = u.Authorize(t.Context(), change)
	if e := wantAuthNeeded(t, "a session that is too old", err); e.Fields["session"] == grant.Session {
		t.Error("the session lives on")
	}
}

func TestUIASessionsOutliveARestart(t *testing.T) {
	now := time.UnixMilli(0)
	clock := func() time.Time { return now }
	store := fakeProgress{}
	first := newUIA(fakeStages{}, store, []byte("key"), clock)
	r := UIARequest{
		Operation: "register", Flows: [][]string{{StageRegistrationToken, StageTerms}},
		Auth: &UIAAuth{Type: StageRegistrationToken, Token: "right"},
	}
	_, err := first.Authorize(t.Context(), r)
	session := wantAuthNeeded(t, "the first of two stages", err).Fields["session"].(string)
	second := newUIA(fakeStages{}, store, []byte("key"), clock)
	r.Auth = &UIAAuth{Type: StageTerms, Session: session}
	grant, err := second.Authorize(t.Context(), r)
	if err != nil || grant.RegistrationToken != "right" || grant.Session != session {
		t.Fatalf("the second stage after a restart: %+v, %v", grant, err)
	}
	if err := second.Finish(t.Context(), session); err != nil || len(store) != 0 {
		t.Errorf("after the end %d sessions are stored, %v", len(store), err)
	}
	r.Auth = &UIAAuth{Session: session}
	third := newUIA(fakeStages{}, store, []byte("key"), clock)
	for claim, u := range map[string]*UIA{"in the same process": second, "after another restart": third} {
		_, err = u.Authorize(t.Context(), r)
		if e := wantAuthNeeded(t, "a session that was used, "+claim, err); e.Fields["completed"] == nil == (u == second) {
			t.Errorf("%s: %v", claim, e.Fields)
		}
	}
	other := newUIA(fakeStages{}, store, []byte("another key"), clock)
	_, err = other.Authorize(t.Context(), r)
	wantCode(t, "a session of another server", err, spec.CodeUnknown)
}

func TestUIASessionsTakeNoMemory(t *testing.T) {
	u := newUIA(fakeStages{}, fakeProgress{}, nil, time.Now)
	r := UIARequest{Flows: [][]string{{StageDummy}}, Auth: &UIAAuth{Type: StageDummy}}
	for range 2 * uiaSessions {
		u.begin(r)
	}
	if n := len(u.done.young) + len(u.done.old); n != 0 {
		t.Errorf("%d sessions are kept before anything was done", n)
	}
	for range 2 * uiaSessions {
		if _, err := u.Authorize(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(u.done.young) + len(u.done.old); n > uiaSessions {
		t.Errorf("%d sessions are kept, want %d at most", n, uiaSessions)
	}
}
