package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"atoll/server"
	"atoll/spec"
)

// fakeHandler is a Handler with the given routes, for which the tokens "good", "guest",
// "suspended" and "locked" exist.
func fakeHandler(t *testing.T, opts Options, routes ...route) *Handler {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	h := newHandler(opts)
	h.authenticate = func(_ context.Context, c server.Credentials) (server.Session, error) {
		switch c.Token {
		case "good":
			return server.Session{User: "@alice:hs"}, nil
		case "guest":
			return server.Session{User: "@1:hs", Guest: true}, nil
		case "suspended":
			return server.Session{User: "@s:hs", Suspended: true}, nil
		case "locked":
			if c.AllowLocked {
				return server.Session{User: "@l:hs"}, nil
			}
			return server.Session{}, &spec.Error{Code: spec.CodeUserLocked, Msg: "locked", Fields: map[string]any{"soft_logout": true}}
		}
		return server.Session{}, &spec.Error{Code: spec.CodeUnknownToken, Msg: "unknown token"}
	}
	h.mount(routes)
	return h
}

type reply struct {
	Status int
	Header http.Header
	Raw    string
	Body   map[string]any // nil when the body is no JSON object
}

func ask(t *testing.T, h http.Handler, method, target, body string, header ...string) reply {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	got := reply{Status: w.Code, Header: w.Header(), Raw: w.Body.String()}
	_ = json.Unmarshal(w.Body.Bytes(), &got.Body)
	return got
}

func (r reply) is(t *testing.T, status int, code spec.Code) {
	t.Helper()
	if r.Status != status {
		t.Errorf("status %d, want %d; body %s", r.Status, status, r.Raw)
	}
	if code != "" && r.Body["errcode"] != string(code) {
		t.Errorf("errcode %v, want %s", r.Body["errcode"], code)
	}
	if code != "" && (r.Body["error"] == nil || r.Body["error"] == "") {
		t.Errorf("no error text: %s", r.Raw)
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	if got := r.Header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("no CORS headers")
	}
}

const bearer = "Authorization"

func echoParams(_ context.Context, r *request) (any, error) { return r.params, nil }

func nothing(context.Context, *request) (any, error) { return nil, nil }

func TestPathVariables(t *testing.T) {
	h := fakeHandler(t, Options{},
		route{"GET", "/_matrix/client/v3/profile/{userId}", anyone, limitNone, echoParams},
		route{"GET", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", anyone, limitNone, echoParams},
		route{"GET", "/_matrix/client/v3/rooms/{roomId}/state", anyone, limitNone, echoParams},
	)
	const rooms = "/_matrix/client/v3/rooms/"
	for _, c := range []struct {
		name, path string
		want       map[string]any
	}{
		{"20-018 a plain id", "/_matrix/client/v3/profile/@a:b", map[string]any{"userId": "@a:b"}},
		{"20-018 an encoded id", "/_matrix/client/v3/profile/%40a%3Ab", map[string]any{"userId": "@a:b"}},
		{"20-018 a percent sign is decoded once", "/_matrix/client/v3/profile/@a%2541:b", map[string]any{"userId": "@a%41:b"}},
		{"20-018 a percent sign beside a slash is decoded once", "/_matrix/client/v3/profile/@a%2F%2541:b", map[string]any{"userId": "@a/%41:b"}},
		{"20-018 a plus is a plus", "/_matrix/client/v3/profile/@a+b:c", map[string]any{"userId": "@a+b:c"}},
		{"20-018 a plus beside a slash is a plus", "/_matrix/client/v3/profile/@a+%2Fb:c", map[string]any{"userId": "@a+/b:c"}},
		{"20-018 an encoded plus is a plus", "/_matrix/client/v3/profile/@a%2Bb:c", map[string]any{"userId": "@a+b:c"}},
		{"20-018 question mark, hash and space", "/_matrix/client/v3/profile/%3F%23%20", map[string]any{"userId": "?# "}},
		{"20-018 non-ASCII", "/_matrix/client/v3/profile/%C3%A9%F0%9F%90%B1", map[string]any{"userId": "é🐱"}},
		{"20-019 20-021 an encoded slash stays in its segment", "/_matrix/client/v3/profile/@a%2Fb:c", map[string]any{"userId": "@a/b:c"}},
		{"20-019 dots stay in their segment", "/_matrix/client/v3/profile/..%2F..", map[string]any{"userId": "../.."}},
		{"03-006 encoded type and state key", rooms + "!r:hs/state/a%2Fb%3F/k%2525%20%C3%A9",
			map[string]any{"roomId": "!r:hs", "eventType": "a/b?", "stateKey": "k%25 é"}},
		{"03-002 state without a key", rooms + "!r:hs/state/m.room.name", map[string]any{"roomId": "!r:hs", "eventType": "m.room.name"}},
		{"03-002 state with an empty key", rooms + "!r:hs/state/m.room.name/", map[string]any{"roomId": "!r:hs", "eventType": "m.room.name"}},
		{"03-002 r0 with an empty key", "/_matrix/client/r0/rooms/!r%2f:hs/state/m.room.name/", map[string]any{"roomId": "!r/:hs", "eventType": "m.room.name"}},
		{"20-006 r0 is served like v3", "/_matrix/client/r0/profile/%40a:b", map[string]any{"userId": "@a:b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ask(t, h, "GET", c.path, "")
			got.is(t, 200, "")
			if fmt.Sprint(got.Body) != fmt.Sprint(c.want) {
				t.Errorf("got %v, want %v", got.Body, c.want)
			}
		})
	}
	for _, c := range []struct {
		name, path string
		status     int
		code       spec.Code
	}{
		{"20-020 bytes that are no UTF-8", "/_matrix/client/v3/profile/%FF", 400, spec.CodeInvalidParam},
		{"20-020 a NUL", "/_matrix/client/v3/profile/a%00", 400, spec.CodeInvalidParam},
		{"20-001 an empty variable is another path", "/_matrix/client/v3/profile/", 404, spec.CodeUnrecognized},
		{"20-001 an empty variable in the middle", rooms + "/state/x/y", 404, spec.CodeUnrecognized},
		{"20-001 a state key with a slash", rooms + "!r/state/x/y/z", 404, spec.CodeUnrecognized},
		{"20-001 a state key with a slash of each kind", rooms + "!r/state/x/y/z%2F", 404, spec.CodeUnrecognized},
	} {
		t.Run(c.name, func(t *testing.T) { ask(t, h, "GET", c.path, "").is(t, c.status, c.code) })
	}
}

func TestUnknownPaths(t *testing.T) {
	h := fakeHandler(t, Options{},
		route{"POST", "/_matrix/client/v3/login", anyone, limitNone, nothing},
		route{"GET", "/_matrix/client/v3/profile/{userId}", userToken, limitNone, nothing},
		route{"GET", "/_matrix/client/v3/profile/{userId}/{keyName}", userToken, limitNone, nothing},
		route{"PUT", "/_matrix/client/v3/profile/{userId}/{keyName}", userToken, limitNone, nothing},
	)
	for _, path := range []string{
		"/_matrix/", "/_matrix", "/_matrix/client", "/_matrix/client/v3", "/_matrix/client/v3/nope", "/_matrix/client/v99/login",
		"/_matrix/nope", "/_matrix/client/v3/login/", "/_matrix/client/v3//login", "/", "//", "/../", "/x//y", "/_synapse/x",
	} {
		t.Run("20-001 20-005 "+path, func(t *testing.T) {
			ask(t, h, "GET", path, "").is(t, 404, spec.CodeUnrecognized)
			ask(t, h, "POST", path, "{}", bearer, "Bearer wrong").is(t, 404, spec.CodeUnrecognized)
		})
	}
	t.Run("20-002 20-003 a wrong method is 405, without a token too", func(t *testing.T) {
		ask(t, h, "PUT", "/_matrix/client/v3/login", "{}").is(t, 405, spec.CodeUnrecognized)
		ask(t, h, "GET", "/_matrix/client/v3/login", "").is(t, 405, spec.CodeUnrecognized)
		ask(t, h, "DELETE", "/_matrix/client/v3/profile/@a:b", "").is(t, 405, spec.CodeUnrecognized)
		got := ask(t, h, "POST", "/_matrix/client/v3/profile/@a%2f:b/displayname", "")
		got.is(t, 405, spec.CodeUnrecognized)
		if allow := got.Header.Get("Allow"); !strings.Contains(allow, "PUT") {
			t.Errorf("Allow is %q", allow)
		}
	})
	t.Run("20-024 20-025 preflight needs no token and does nothing", func(t *testing.T) {
		for _, path := range []string{"/_matrix/client/v3/profile/@a:b", "/_matrix/nope"} {
			got := ask(t, h, "OPTIONS", path, "")
			if got.Status != 204 || got.Raw != "" {
				t.Errorf("%d %q", got.Status, got.Raw)
			}
			for name, want := range map[string]string{
				"Access-Control-Allow-Origin":  "*",
				"Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
				"Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
			} {
				if got.Header.Get(name) != want {
					t.Errorf("%s: %q", name, got.Header.Get(name))
				}
			}
		}
	})
	t.Run("HEAD is answered like GET", func(t *testing.T) {
		ask(t, h, "HEAD", "/_matrix/client/v3/profile/@a:b", "", bearer, "Bearer good").is(t, 200, "")
	})
}

func TestAuthentication(t *testing.T) {
	who := func(_ context.Context, r *request) (any, error) { return object{"user": r.session.User}, nil }
	h := fakeHandler(t, Options{},
		route{"GET", "/user/{roomId}", userToken, limitNone, who},
		route{"GET", "/guest", guestToken, limitNone, who},
		route{"GET", "/maybe", maybeUser, limitNone, who},
		route{"GET", "/active", activeToken, limitNone, who},
		route{"GET", "/activeguest", activeGuest, limitNone, who},
		route{"GET", "/logout", lockedToken, limitNone, who},
		route{"GET", "/anyone", anyone, limitNone, who},
	)
	for _, c := range []struct {
		name, path, header string
		status             int
		code               spec.Code
	}{
		{"01-001 no token", "/user/x", "", 401, spec.CodeMissingToken},
		{"01-001 another scheme is no token", "/user/x", "Basic good", 401, spec.CodeMissingToken},
		{"01-001 an unknown token", "/user/x", "Bearer bad", 401, spec.CodeUnknownToken},
		{"01-001 the token comes before the path", "/user/%FF", "", 401, spec.CodeMissingToken},
		{"01-001 the unknown token comes before the query", "/user/x?a=%FF", "Bearer bad", 401, spec.CodeUnknownToken},
		{"01-002 a token in the header", "/user/x", "Bearer good", 200, ""},
		{"01-002 the scheme in any case", "/user/x", "bearer good", 200, ""},
		{"01-002 a token in the query", "/user/x?access_token=good", "", 200, ""},
		{"01-002 an unknown token in the query", "/user/x?access_token=bad", "", 401, spec.CodeUnknownToken},
		{"04-063 a guest elsewhere", "/user/x", "Bearer guest", 403, spec.CodeGuestAccessForbidden},
		{"04-063 a guest where guests may", "/guest", "Bearer guest", 200, ""},
		{"01-049 a locked account", "/guest", "Bearer locked", 401, spec.CodeUserLocked},
		{"01-049 a locked account logs out", "/logout", "Bearer locked", 200, ""},
		{"01-050 a suspended account reads", "/guest", "Bearer suspended", 200, ""},
		{"01-050 a suspended account acts", "/active", "Bearer suspended", 403, spec.CodeUserSuspended},
		{"01-050 a suspended account acts where guests may", "/activeguest", "Bearer suspended", 403, spec.CodeUserSuspended},
		{"04-063 a guest acts", "/active", "Bearer guest", 403, spec.CodeGuestAccessForbidden},
		{"04-063 a guest acts where guests may", "/activeguest", "Bearer guest", 200, ""},
		{"an optional token left out", "/maybe", "", 200, ""},
		{"an optional token that is unknown", "/maybe", "Bearer bad", 401, spec.CodeUnknownToken},
		{"an open route looks at no token", "/anyone", "Bearer bad", 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ask(t, h, "GET", c.path, "", bearer, c.header).is(t, c.status, c.code)
		})
	}
	t.Run("01-049 soft_logout is in the body", func(t *testing.T) {
		got := ask(t, h, "GET", "/guest", "", bearer, "Bearer locked")
		if got.Body["soft_logout"] != true {
			t.Error(got.Raw)
		}
	})
}

func TestBodies(t *testing.T) {
	h := fakeHandler(t, Options{MaxBodyBytes: 200},
		route{"POST", "/decode", anyone, limitNone, func(_ context.Context, r *request) (any, error) {
			var v struct {
				S string           `json:"s"`
				N int64            `json:"n"`
				L []string         `json:"l"`
				O struct{ X bool } `json:"o"`
			}
			return nil, r.decode(&v)
		}},
		route{"POST", "/optional", anyone, limitNone, func(_ context.Context, r *request) (any, error) {
			return nil, r.decodeOptional(&struct{}{})
		}},
		route{"POST", "/content", anyone, limitNone, func(_ context.Context, r *request) (any, error) {
			raw, err := r.content()
			return rawJSON(raw), err
		}},
		route{"POST", "/ignore", anyone, limitNone, nothing},
	)
	for _, c := range []struct {
		name, path, body string
		status           int
		code             spec.Code
	}{
		{"20-008 no content type is needed", "/decode", `{"s":"x"}`, 200, ""},
		{"20-009 no JSON", "/decode", `{"s":`, 400, spec.CodeNotJSON},
		{"20-009 words", "/decode", `hello`, 400, spec.CodeNotJSON},
		{"20-009 single quotes", "/content", `{'a':1}`, 400, spec.CodeNotJSON},
		{"20-009 a number for a string", "/decode", `{"s":5}`, 400, spec.CodeBadJSON},
		{"20-009 a string for a number", "/decode", `{"n":"5"}`, 400, spec.CodeBadJSON},
		{"20-009 a fraction for a whole number", "/decode", `{"n":5.5}`, 400, spec.CodeBadJSON},
		{"20-009 a number beyond 64 bits", "/decode", `{"n":99999999999999999999}`, 400, spec.CodeBadJSON},
		{"20-009 a string for a list", "/decode", `{"l":"x"}`, 400, spec.CodeBadJSON},
		{"20-009 a number in a list of strings", "/decode", `{"l":["a",1]}`, 400, spec.CodeBadJSON},
		{"20-009 a list for an object", "/decode", `{"o":[]}`, 400, spec.CodeBadJSON},
		{"20-010 an empty body", "/decode", ``, 400, spec.CodeNotJSON},
		{"20-010 an empty body for free content", "/content", ``, 400, spec.CodeNotJSON},
		{"20-010 an empty body where all is optional", "/optional", ``, 200, ""},
		{"20-010 white space where all is optional", "/optional", " \n", 200, ""},
		{"20-010 a body that nobody reads", "/ignore", `{{{`, 200, ""},
		{"20-011 a list", "/decode", `[]`, 400, spec.CodeBadJSON},
		{"20-011 a string", "/content", `"x"`, 400, spec.CodeBadJSON},
		{"20-011 a number", "/optional", `5`, 400, spec.CodeBadJSON},
		{"20-011 null", "/decode", `null`, 400, spec.CodeBadJSON},
		{"20-011 null for free content", "/content", `null`, 400, spec.CodeBadJSON},
		{"20-012 no UTF-8", "/decode", "{\"s\":\"\xff\"}", 400, spec.CodeNotJSON},
		{"20-012 no UTF-8 in free content", "/content", "{\"s\":\"\xff\"}", 400, spec.CodeNotJSON},
		{"20-013 a name twice", "/content", `{"a":1,"a":2}`, 400, spec.CodeBadJSON},
		{"20-013 a name twice further in", "/decode", `{"z":[{"a":1,"a":2}]}`, 400, spec.CodeBadJSON},
		{"20-013 something after the object", "/content", `{} {}`, 400, spec.CodeNotJSON},
		{"20-013 garbage after the object", "/decode", `{}x`, 400, spec.CodeNotJSON},
		{"20-013 a byte order mark", "/decode", "\ufeff{}", 400, spec.CodeNotJSON},
		{"20-014 unknown keys", "/decode", `{"zzz":[1,2,{"a":null}]}`, 200, ""},
		{"20-014 names in another case are other names", "/decode", `{"S":5}`, 200, ""},
		{"20-015 U+0000 where it could reach the database", "/decode", `{"s":"\u0000"}`, 400, spec.CodeBadJSON},
		{"20-015 an escaped backslash is no U+0000", "/decode", `{"s":"\\u0000"}`, 200, ""},
		{"20-015 a backslash before U+0000", "/decode", `{"s":"\\\u0000"}`, 400, spec.CodeBadJSON},
		{"20-015 U+0000 in free content", "/content", `{"s":"\u0000"}`, 200, ""},
		{"20-016 half a surrogate pair", "/content", `{"s":"\ud800"}`, 400, spec.CodeNotJSON},
		{"20-007 too large", "/decode", `{"s":"` + strings.Repeat("x", 200) + `"}`, 413, spec.CodeTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) { ask(t, h, "POST", c.path, c.body).is(t, c.status, c.code) })
	}
	t.Run("20-007 too large without a length", func(t *testing.T) {
		r := httptest.NewRequest("POST", "/content", io.MultiReader(strings.NewReader("{"), strings.NewReader(strings.Repeat(" ", 300))))
		r.ContentLength = -1
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 413 || !strings.Contains(w.Body.String(), "M_TOO_LARGE") {
			t.Error(w.Code, w.Body)
		}
	})
	t.Run("20-013 deep nesting", func(t *testing.T) {
		deep := fakeHandler(t, Options{}, route{"POST", "/content", anyone, limitNone, func(_ context.Context, r *request) (any, error) {
			_, err := r.content()
			return nil, err
		}})
		const n = 100_000
		ask(t, deep, "POST", "/content", `{"a":`+strings.Repeat("[", n)+strings.Repeat("]", n)+"}").is(t, 400, spec.CodeNotJSON)
	})
}

// pieces is an answer that breaks off after its first piece when fail is set.
type pieces struct{ fail bool }

func (p pieces) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, `{"a":1`)
	if err != nil || p.fail {
		return int64(n), errors.Join(err, errors.New("broken off"))
	}
	m, err := io.WriteString(w, `}`)
	return int64(n + m), err
}

func TestReplies(t *testing.T) {
	fail := func(err error) handlerFunc { return func(context.Context, *request) (any, error) { return nil, err } }
	give := func(v any) handlerFunc { return func(context.Context, *request) (any, error) { return v, nil } }
	var log bytes.Buffer
	var seen []Observation
	opts := Options{
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
		Observe: func(o Observation) { seen = append(seen, o) },
	}
	h := fakeHandler(t, opts,
		route{"GET", "/nil", anyone, limitNone, give(nil)},
		route{"GET", "/raw", anyone, limitNone, give(rawJSON(`{"x": 1}`))},
		route{"GET", "/pieces", anyone, limitNone, give(pieces{})},
		route{"GET", "/broken", anyone, limitNone, give(pieces{fail: true})},
		route{"GET", "/status", anyone, limitNone, give(answer{Status: 202, Body: object{"a": []int(nil)}})},
		route{"GET", "/unmarshallable", anyone, limitNone, give(make(chan int))},
		route{"GET", "/panic", anyone, limitNone, func(context.Context, *request) (any, error) { panic("oh no") }},
		route{"GET", "/error", anyone, limitNone, fail(errors.New("disk on fire"))},
		route{"GET", "/gone", anyone, limitNone, func(ctx context.Context, _ *request) (any, error) { return nil, ctx.Err() }},
		route{"GET", "/wrapped", anyone, limitNone, fail(fmt.Errorf("while x: %w", spec.Errorf(spec.CodeForbidden, errors.New("inner"), "no entry")))},
		route{"GET", "/limited", anyone, limitNone, fail(&spec.Error{Code: spec.CodeLimitExceeded, Msg: "slow down", RetryAfter: 1500 * time.Millisecond})},
		route{"GET", "/uia", anyone, limitNone, fail(&spec.Error{Status: 401, Fields: map[string]any{"flows": []any{}}})},
	)
	for path, want := range map[string]string{
		"/nil": `{}`, "/raw": `{"x": 1}`, "/pieces": `{"a":1}`,
	} {
		got := ask(t, h, "GET", path, "")
		got.is(t, 200, "")
		if got.Raw != want {
			t.Errorf("%s: %s", path, got.Raw)
		}
	}
	if got := ask(t, h, "GET", "/status", ""); got.Status != 202 || got.Raw != `{"a":[]}` {
		t.Error(got)
	}
	t.Run("20-007 an unexpected error is 500 and says nothing of its cause", func(t *testing.T) {
		for _, path := range []string{"/error", "/panic", "/unmarshallable"} {
			got := ask(t, h, "GET", path, "")
			got.is(t, 500, spec.CodeUnknown)
			if strings.Contains(got.Raw, "fire") || strings.Contains(got.Raw, "oh no") {
				t.Error(got.Raw)
			}
		}
		if !strings.Contains(log.String(), "disk on fire") || !strings.Contains(log.String(), "oh no") {
			t.Error("the cause is not in the log")
		}
	})
	t.Run("an error for the client keeps its code through wrapping", func(t *testing.T) {
		got := ask(t, h, "GET", "/wrapped", "")
		got.is(t, 403, spec.CodeForbidden)
		if strings.Contains(got.Raw, "inner") {
			t.Error(got.Raw)
		}
	})
	t.Run("20-026 retry times are in body and header", func(t *testing.T) {
		got := ask(t, h, "GET", "/limited", "")
		got.is(t, 429, spec.CodeLimitExceeded)
		if got.Body["retry_after_ms"] != 1500.0 || got.Header.Get("Retry-After") != "2" {
			t.Error(got)
		}
	})
	t.Run("01-021 an error without a code has its fields only", func(t *testing.T) {
		if got := ask(t, h, "GET", "/uia", ""); got.Status != 401 || got.Raw != `{"flows":[]}` {
			t.Error(got)
		}
	})
	t.Run("20-027 a request that is broken off is no failure", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/gone", nil).WithContext(ctx))
		if w.Code != 503 || seen[len(seen)-1].Status != statusGone || strings.Contains(log.String(), "/gone") {
			t.Error(w.Code, seen[len(seen)-1], log.String())
		}
	})
	t.Run("an answer that fails half-way breaks the connection", func(t *testing.T) {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("not aborted")
			}
		}()
		ask(t, h, "GET", "/broken", "")
	})
	if !slices.ContainsFunc(seen, func(o Observation) bool { return o.Route == "/error" && o.Status == 500 && o.Method == "GET" }) {
		t.Error("the request was not observed")
	}
}

func TestRateLimits(t *testing.T) {
	now := time.Unix(1000, 0)
	limits := RateLimits{Enabled: true, Send: Rate{PerSecond: 1, Burst: 2}, Login: Rate{PerSecond: 1, Burst: 1}}
	calls := 0
	count := func(context.Context, *request) (any, error) { calls++; return nil, nil }
	h := fakeHandler(t, Options{RateLimits: limits, Now: func() time.Time { return now }},
		route{"PUT", "/send", guestToken, limitSend, count},
		route{"POST", "/login", anyone, limitLogin, count},
		route{"GET", "/free", anyone, limitNone, count},
	)
	send := func(token string) reply { return ask(t, h, "PUT", "/send", "{}", bearer, "Bearer "+token) }
	send("good").is(t, 200, "")
	send("good").is(t, 200, "")
	got := send("good")
	got.is(t, 429, spec.CodeLimitExceeded)
	if got.Body["retry_after_ms"] != 1000.0 || got.Header.Get("Retry-After") != "1" {
		t.Error(got)
	}
	if calls != 2 {
		t.Error("20-026 the refused request had an effect")
	}
	send("guest").is(t, 200, "")
	now = now.Add(time.Second)
	send("good").is(t, 200, "")
	ask(t, h, "POST", "/login", "{}").is(t, 200, "")
	ask(t, h, "POST", "/login", "{}").is(t, 429, spec.CodeLimitExceeded)
	for range 1000 {
		ask(t, h, "GET", "/free", "").is(t, 200, "")
	}
	t.Run("limits can be switched off", func(t *testing.T) {
		l := newLimiter(RateLimits{Login: limits.Login}, time.Now)
		for range 100 {
			if l.take(limitLogin, "x") != 0 {
				t.Fatal("limited")
			}
		}
	})
	t.Run("memory is bounded and active keys are kept", func(t *testing.T) {
		l := newLimiter(limits, func() time.Time { return now })
		l.size = 10
		l.take(limitLogin, "busy")
		for i := range 1000 {
			l.take(limitLogin, fmt.Sprint(i))
			if l.take(limitLogin, "busy") == 0 {
				t.Fatal("the busy key was forgotten")
			}
		}
		if len(l.young)+len(l.old) > 20 {
			t.Error(len(l.young), len(l.old))
		}
	})
}

func TestLogHasNoTokens(t *testing.T) {
	var log bytes.Buffer
	opts := Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	h := fakeHandler(t, opts, route{"GET", "/x/{roomId}", userToken, limitNone, nothing})
	ask(t, h, "GET", "/x/!r?access_token=good", "").is(t, 200, "")
	if text := log.String(); !strings.Contains(text, "route=/x/{roomId}") || strings.Contains(text, "good") {
		t.Error(text)
	}
}
