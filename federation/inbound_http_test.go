package federation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

// expect fails the test unless the answer has the status and the code.
func expect(t *testing.T, claim string, a atolltest.Answer, status int, code spec.Code) {
	t.Helper()
	if a.Status != status || a.Code != code {
		t.Errorf("%s: got %d %s, want %d %s", claim, a.Status, a.Body, status, code)
	}
	if status >= 400 && !json.Valid(a.Body) {
		t.Errorf("%s: the body is no JSON: %s", claim, a.Body)
	}
}

func TestRequestFrame(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	path := atolltest.Path("v1", "query", "profile") + "?user_id=%40x%3Aa.test%3A8448"
	sign := func(change func(*spec.FederationRequest), key spec.SigningKey) string {
		r := spec.FederationRequest{Method: "GET", URI: path, Origin: b.Name(), Destination: a.Name()}
		if change != nil {
			change(&r)
		}
		x, err := r.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		return x.String()
	}
	auth := func(header string) http.Header { return http.Header{"Authorization": {header}} }
	for _, test := range []struct {
		claim  string
		header http.Header
		status int
		code   spec.Code
	}{
		{"13-020 no header", nil, 401, spec.CodeUnauthorized},
		{"13-020 another scheme", auth("Bearer xyz"), 401, spec.CodeUnauthorized},
		{"13-020 garbage", auth("X-Matrix origin"), 401, spec.CodeUnauthorized},
		{"13-020 a bad signature", auth(sign(func(r *spec.FederationRequest) { r.Method = "PUT" }, b.Key)), 401, spec.CodeUnauthorized},
		{"13-020 a foreign key", auth(sign(nil, a.Key)), 401, spec.CodeUnauthorized},
		{"13-021 another destination", auth(sign(func(r *spec.FederationRequest) { r.Destination = "c.test" }, b.Key)), 401, spec.CodeUnauthorized},
		{"13-023 an origin that is no server name", auth(`X-Matrix origin="b.test:x",destination="a.test:8448",key="ed25519:test",sig="AAAA"`), 401, spec.CodeUnauthorized},
		{"13-026 its own name", auth(sign(func(r *spec.FederationRequest) { r.Origin = a.Name() }, a.Key)), 401, spec.CodeUnauthorized},
		{"13-019 a good signature", auth(sign(nil, b.Key)), 404, spec.CodeNotFound},
	} {
		t.Run(test.claim, func(t *testing.T) {
			expect(t, test.claim, a.Serve("GET", path, nil, test.header), test.status, test.code)
		})
	}
	t.Run("13-024 escapes are signed as sent", func(t *testing.T) {
		expect(t, "%21", b.Request(a, "GET", "/_matrix/federation/v1/make_leave/%21x%3Aa.test/@x%3Ab.test%3A8448", nil), 404, spec.CodeNotFound)
		expect(t, "!", b.Request(a, "GET", "/_matrix/federation/v1/make_leave/!x:a.test/%40x:b.test:8448", nil), 404, spec.CodeNotFound)
	})
	for _, test := range []struct {
		claim, method, path string
		status              int
	}{
		{"20-001 an unknown path", "GET", "/_matrix/federation/v1/lagoon", 404},
		{"20-001 an unknown version", "GET", "/_matrix/federation/v9/version", 404},
		{"20-001 an unknown key path", "GET", "/_matrix/key/v2/lagoon", 404},
		{"20-001 a variable left out", "PUT", "/_matrix/federation/v1/send/", 404},
		{"20-001 a segment too many", "PUT", "/_matrix/federation/v1/send/a/b", 404},
		{"20-002 another method", "PUT", "/_matrix/federation/v1/version", 405},
		{"20-002 another method on keys", "PUT", "/_matrix/key/v2/query", 405},
		{"20-003 before authentication", "POST", "/_matrix/federation/v1/send/1", 405},
	} {
		t.Run(test.claim, func(t *testing.T) {
			expect(t, test.path, a.Serve(test.method, test.path, nil, nil), test.status, spec.CodeUnrecognized)
		})
	}
	t.Run("13-006 version needs no authentication", func(t *testing.T) {
		got := a.Serve("GET", "/_matrix/federation/v1/version", nil, nil)
		if about, _ := got.Object()["server"].(map[string]any); got.Status != 200 || about["name"] != "Atoll" || about["version"] != "test" {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	})
	t.Run("13-008 13-011 13-025 keys need no authentication", func(t *testing.T) {
		for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:any", "/_matrix/key/v2/query/a.test:8448"} {
			if got := a.Serve("GET", path, nil, nil); got.Status != 200 || !strings.Contains(string(got.Body), `"verify_keys"`) {
				t.Errorf("%s: %d %s", path, got.Status, got.Body)
			}
		}
		got := a.Serve("POST", "/_matrix/key/v2/query", []byte(`{"server_keys":{}}`), nil)
		if string(got.Body) != `{"server_keys":[]}` {
			t.Errorf("13-013 no servers: %d %s", got.Status, got.Body)
		}
		expect(t, "20-009", a.Serve("POST", "/_matrix/key/v2/query", []byte(`{`), nil), 400, spec.CodeNotJSON)
	})
	t.Run("20-020 malformed text in a path", func(t *testing.T) {
		expect(t, "bytes", b.Request(a, "GET", "/_matrix/federation/v1/event/$%FF", nil), 400, spec.CodeInvalidParam)
		expect(t, "NUL", b.Request(a, "GET", "/_matrix/federation/v1/event/$%00", nil), 400, spec.CodeInvalidParam)
	})
	t.Run("a body that is too large is not read", func(t *testing.T) {
		body := []byte(`{"latest_events":["` + strings.Repeat("x", 2<<20) + `"],"earliest_events":[]}`)
		expect(t, "size", b.Request(a, "POST", "/_matrix/federation/v1/get_missing_events/!x:a.test", body), 413, spec.CodeTooLarge)
	})
}

func TestQueries(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	alice := a.User("alice")
	if err := a.Profiles.Set(t.Context(), server.SetProfileField{By: server.Session{User: alice.ID}, User: alice.ID, Name: "displayname", Value: []byte(`"Alice"`)}); err != nil {
		t.Fatal(err)
	}
	room := alice.Create(server.CreateRoom{AliasLocalpart: "lagoon"})
	query := func(path string) atolltest.Answer {
		return b.Request(a, "GET", "/_matrix/federation/v1/query/"+path, nil)
	}
	for _, test := range []struct {
		claim, path, want string
		status            int
		code              spec.Code
	}{
		{"15-044 the whole profile", "profile?user_id=" + string(alice.ID), `{"displayname":"Alice"}`, 200, ""},
		{"15-044 one field", "profile?field=displayname&user_id=" + string(alice.ID), `{"displayname":"Alice"}`, 200, ""},
		{"15-044 a field that is not set", "profile?field=avatar_url&user_id=" + string(alice.ID), `{}`, 200, ""},
		{"15-044 an unknown user", "profile?user_id=@nobody:a.test:8448", "", 404, spec.CodeNotFound},
		{"15-044 a user of another server", "profile?user_id=@x:b.test:8448", "", 404, spec.CodeNotFound},
		{"15-044 no user", "profile", "", 400, spec.CodeMissingParam},
		{"15-044 no user id", "profile?user_id=alice", "", 400, spec.CodeInvalidParam},
		{"15-043 an alias", "directory?room_alias=%23lagoon:a.test:8448", fmt.Sprintf(`{"room_id":%q,"servers":["a.test:8448"]}`, room), 200, ""},
		{"15-043 an unknown alias", "directory?room_alias=%23reef:a.test:8448", "", 404, spec.CodeNotFound},
		{"15-043 an alias of another server", "directory?room_alias=%23lagoon:b.test:8448", "", 404, spec.CodeNotFound},
		{"15-043 no alias", "directory", "", 400, spec.CodeMissingParam},
		{"15-046 an unknown query", "lagoon", "", 404, spec.CodeNotFound},
	} {
		t.Run(test.claim, func(t *testing.T) {
			got := query(test.path)
			expect(t, test.path, got, test.status, test.code)
			if test.want != "" && !sameJSON(got.Body, test.want) {
				t.Errorf("got %s, want %s", got.Body, test.want)
			}
		})
	}
}

func sameJSON(a []byte, b string) bool {
	x, errX := spec.Canonical(a)
	y, errY := spec.Canonical([]byte(b))
	return errX == nil && errY == nil && string(x) == string(y)
}

func TestTransactions(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	alice, bob := a.User("alice"), b.User("bob")
	room := alice.Create(server.CreateRoom{})
	bob.Join(room, a)
	put := func(id string, body any) atolltest.Answer {
		return b.Request(a, "PUT", atolltest.Path("v1", "send", id), body)
	}
	for _, test := range []struct {
		claim, body string
		code        spec.Code
	}{
		{"13-032 no body", "", spec.CodeNotJSON},
		{"13-032 no JSON", "lagoon", spec.CodeNotJSON},
		{"13-032 no object", `[]`, spec.CodeBadJSON},
		{"13-032 pdus missing", `{"edus":[]}`, spec.CodeBadJSON},
		{"13-032 pdus no list", `{"pdus":{}}`, spec.CodeBadJSON},
		{"20-013 more than an object", `{"pdus":[]}{}`, spec.CodeNotJSON},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if test.code == spec.CodeNotJSON && test.body != "" { // cannot even be signed
				header := http.Header{"Authorization": {`X-Matrix origin="b.test:8448",key="ed25519:test",sig="AAAA"`}}
				expect(t, test.body, a.Serve("PUT", atolltest.Path("v1", "send", "bad"), []byte(test.body), header), 400, test.code)
				return
			}
			var body any
			if test.body != "" {
				body = []byte(test.body)
			}
			expect(t, test.body, put("bad", body), 400, test.code)
		})
	}
	t.Run("13-033 unknown and malformed EDUs are ignored", func(t *testing.T) {
		got := put("edus", []byte(`{"pdus":[],"edus":[{"edu_type":"im.lagoon","content":{}},{"edu_type":5},7,null,{"edu_type":"m.typing","content":[]}]}`))
		if got.Status != 200 || string(got.Body) != `{"pdus":{}}` {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	})
	t.Run("13-028 too many", func(t *testing.T) {
		ev := bob.Message(room, "one of many", nil)
		many := make([]json.RawMessage, 51)
		for i := range many {
			many[i] = atolltest.PDU(ev)
		}
		expect(t, "PDUs", put("many1", map[string]any{"pdus": many}), 400, spec.CodeInvalidParam)
		expect(t, "EDUs", put("many2", map[string]any{"pdus": many[:1], "edus": make([]any, 101)}), 400, spec.CodeInvalidParam)
		if got := a.Status(room, ev.ID); got != "unknown" {
			t.Errorf("the event is %s", got)
		}
	})
	t.Run("13-027 13-030 13-031 13-034 each PDU for itself", func(t *testing.T) {
		good := bob.Message(room, "good", nil)
		forged := bob.Message(room, "forged", nil)
		bad := strings.Replace(string(atolltest.PDU(forged)), `"signatures":{"b.test:8448":{"ed25519:test":"`, `"signatures":{"b.test:8448":{"ed25519:test":"AAAA`, 1)
		elsewhere := strings.Replace(string(atolltest.PDU(bob.Message(room, "elsewhere", nil))), string(room), "!nowhere:b.test", 1)
		got := b.Send(a, []byte(`{}`), []byte(`5`), []byte(`{"room_id":7}`), []byte(fmt.Sprintf(`{"room_id":%q,"depth":1.5}`, room)),
			[]byte(bad), []byte(elsewhere), atolltest.PDU(good))
		if len(got) != 2 || got[good.ID] != "" || got[forged.ID] == "" {
			t.Errorf("answer %v", got)
		}
		if a.Status(room, good.ID) != "told" || a.Status(room, forged.ID) != "unknown" {
			t.Errorf("good is %s, forged is %s", a.Status(room, good.ID), a.Status(room, forged.ID))
		}
	})
	t.Run("13-035 an event comes twice", func(t *testing.T) {
		ev := bob.Message(room, "twice", nil)
		before := a.DB.Head()
		if got := b.Send(a, atolltest.PDU(ev), atolltest.PDU(ev)); got[ev.ID] != "" {
			t.Errorf("answer %v", got)
		}
		if got := b.Send(a, atolltest.PDU(ev)); got[ev.ID] != "" {
			t.Errorf("answer %v", got)
		}
		if got := a.DB.Head() - before; got != 1 {
			t.Errorf("%d log entries", got)
		}
	})
	t.Run("13-029 a transaction comes again", func(t *testing.T) {
		first := bob.Message(room, "first", nil)
		body := map[string]any{"pdus": []json.RawMessage{atolltest.PDU(first)}}
		one := put("again", body)
		second := bob.Message(room, "second", nil)
		two := put("again", map[string]any{"pdus": []json.RawMessage{atolltest.PDU(second)}})
		if one.Status != 200 || string(one.Body) != string(two.Body) {
			t.Errorf("answers %s and %s", one.Body, two.Body)
		}
		if got := a.Status(room, second.ID); got != "unknown" {
			t.Errorf("what came under an old id is %s", got)
		}
	})
	t.Run("13-029 at the same time", func(t *testing.T) {
		ev := bob.Message(room, "at once", nil)
		body := map[string]any{"pdus": []json.RawMessage{atolltest.PDU(ev)}}
		before := a.DB.Head()
		answers := make([]string, 8)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = string(put("at once", body).Body) })
		}
		all.Wait()
		for _, answer := range answers {
			if answer != answers[0] || !strings.Contains(answer, string(ev.ID)) {
				t.Errorf("answers %q", answers)
				break
			}
		}
		if got := a.DB.Head() - before; got != 1 {
			t.Errorf("%d log entries", got)
		}
	})
}
