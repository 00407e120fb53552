package clientapi_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"atoll/clientapi"
	"atoll/clientapi/clienttest"
)

var variable = regexp.MustCompile(`\{(\w+)\}`)

// fill puts a value for every variable of a route's path.
func fill(path string, value func(name string) string) string {
	return variable.ReplaceAllStringFunc(path, func(s string) string { return value(s[1 : len(s)-1]) })
}

// sound fails the test unless the answer is what any client can take: no server error, JSON, and
// when it is an error one with errcode and text.
func sound(t *testing.T, r clienttest.Reply) {
	t.Helper()
	switch {
	case r.Status >= 500 || r.Status < 200:
		t.Errorf("%s: status %d: %s", r.What, r.Status, r.Raw)
	case r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Access-Control-Allow-Origin") != "*":
		t.Errorf("%s: headers %v", r.What, r.Header)
	case r.JSON == nil:
		t.Errorf("%s: status %d without JSON: %q", r.What, r.Status, r.Raw)
	case r.Status >= 400 && (r.Str("errcode") == "" || r.Str("error") == "") && r.At("flows") == nil:
		t.Errorf("%s: status %d: %s", r.What, r.Status, r.Raw)
	}
}

func needsToken(rt clientapi.Route) bool { return rt.Auth != "anyone" && rt.Auth != "maybeUser" }

func TestEveryRoute(t *testing.T) {
	hs := clienttest.New(t)
	alice := hs.Register("alice")
	room := alice.Room(nil)
	good := func(name string) string {
		return map[string]string{
			"roomId": clienttest.Esc(room), "userId": clienttest.Esc(alice.User), "roomAlias": clienttest.Esc("#x:" + hs.Name), "eventId": "$x",
			"roomIdOrAlias": clienttest.Esc(room),
		}[name]
	}
	or := func(name, other string) string {
		if v := good(name); v != "" {
			return v
		}
		return other
	}
	nasties := []string{
		"x", "%FF", "%00", "%2F", "%25", "%2525", "..%2F..", "..", "%3F", "%23", "+", "%20", "%C3%A9", "%F0%9F%90%B1", "@a:b", "!a:b", "$a", "%23a:b",
		"@:", "!", "$", "%23", "@a:b%0Ac", "%22", "%5C", "'", ";", strings.Repeat("x", 300), "!" + strings.Repeat("x", 300) + ":hs",
		"@" + strings.Repeat("%C3%A9", 200) + ":hs", "%E2%80%AE", "%7Bx%7D", "*", ":x",
	}
	bodies := []string{
		``, `{`, `[]`, `null`, `"x"`, `5`, `{}`, `{"a":1.5}`, `{"x":"\u0000"}`, `{"x":"\ud800"}`, "{\"x\":\"\xff\"}", `{"a":1,"a":2}`, `{} {}`, "\ufeff{}",
		`{"user_id":5,"room_id":5,"type":5,"identifier":5,"username":5,"displayname":5,"reason":5,"filter":5}`,
		`{"user_id":[],"room_id":[],"type":[],"identifier":[],"username":[],"displayname":[],"reason":[],"auth":[]}`,
		`{"user_id":{},"room_id":{},"type":{},"identifier":{},"username":{},"displayname":{},"reason":{},"auth":{}}`,
		`{"user_id":null,"room_id":null,"type":null,"identifier":null,"username":null,"displayname":null,"reason":null,"auth":null}`,
		`{"user_id":"","room_id":"","type":"","username":"","displayname":"","reason":""}`,
		`{"username":"` + strings.Repeat("x", 5000) + `","displayname":"` + strings.Repeat("x", 5000) + `","reason":"` + strings.Repeat("x", 70000) + `","name":"` + strings.Repeat("x", 5000) + `"}`,
		`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
	}
	for _, rt := range hs.API.Routes() {
		c := alice
		if strings.HasSuffix(rt.Path, "/logout") || strings.HasSuffix(rt.Path, "/logout/all") {
			c = hs.WithToken("spent")
		}
		path := fill(rt.Path, func(name string) string { return or(name, "x") })
		t.Run("01-001 tokens: "+rt.Method+" "+rt.Path, func(t *testing.T) {
			if !needsToken(rt) {
				t.SkipNow()
			}
			for _, p := range []string{path, fill(rt.Path, func(string) string { return "%FF" })} {
				for _, body := range []string{"{}", "{{{"} {
					hs.Anonymous().Do(rt.Method, p, body).Is(401, "M_MISSING_TOKEN")
					hs.WithToken("nonsense").Do(rt.Method, p, body).Is(401, "M_UNKNOWN_TOKEN")
				}
			}
		})
		t.Run("20-009 20-013 bodies: "+rt.Method+" "+rt.Path, func(t *testing.T) {
			for i, body := range bodies {
				sound(t, c.Do(rt.Method, fill(rt.Path, func(name string) string { return or(name, fmt.Sprint("b", i)) }), body))
			}
		})
		t.Run("20-017 20-018 20-020 20-023 paths and queries: "+rt.Method+" "+rt.Path, func(t *testing.T) {
			for _, match := range variable.FindAllStringSubmatch(rt.Path, -1) {
				for _, nasty := range nasties {
					sound(t, c.Do(rt.Method, fill(rt.Path, func(name string) string {
						if name == match[1] {
							return nasty
						}
						return or(name, "y")
					}), "{}"))
				}
			}
			for _, query := range []string{
				"limit=x&dir=b", "limit=-1&dir=b", "limit=99999999999999999999&dir=b", "timeout=x", "timeout=-5", "since=x", "from=x&dir=f", "to=x&dir=f",
				"filter=x&dir=b", "filter=%7B&dir=b", "kind=x", "format=x", "at=x", "membership=x", "a=%FF", "a=%00", "%zz", "username=%FF", "username=", "token=%00",
				"via=%00", "via=x&via=!!", "server_name=" + strings.Repeat("x", 500), "full_state=2", "set_presence=x", "user_id=x", ";;", "=&=&&",
			} {
				sound(t, c.Do(rt.Method, path+"?"+query, "{}"))
			}
		})
		t.Run("20-025 preflight: "+rt.Method+" "+rt.Path, func(t *testing.T) {
			if r := hs.Anonymous().Do("OPTIONS", path, nil); r.Status != 204 && r.Status != 200 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Error(r.Status, r.Header)
			}
		})
	}
	t.Run("20-002 other methods", func(t *testing.T) {
		have := map[string]bool{}
		for _, rt := range hs.API.Routes() {
			have[rt.Method+" "+rt.Path] = true
		}
		for _, rt := range hs.API.Routes() {
			for _, method := range []string{"GET", "PUT", "POST", "DELETE", "PATCH"} {
				if !have[method+" "+rt.Path] {
					hs.Anonymous().Do(method, fill(rt.Path, func(name string) string { return or(name, "x") }), nil).Is(405, "M_UNRECOGNIZED")
				}
			}
		}
	})
}

// TestOddRequests sends what no client library would.
func TestOddRequests(t *testing.T) {
	hs := clienttest.New(t)
	raw := func(t *testing.T, request string) *http.Response {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(hs.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	for name, c := range map[string]struct {
		target string
		status []int
	}{
		"20-020 malformed percent-encoding": {"/_matrix/client/v3/profile/%zz", []int{400, 404}},
		"20-005 a double slash":             {"//_matrix/client/versions", []int{404}},
		"20-005 dots":                       {"/../_matrix/../x", []int{404}},
		"20-005 only slashes":               {"///", []int{404}},
		"20-005 an absolute target":         {"http://elsewhere/_matrix/client/versions", []int{200, 404}},
		"20-005 bytes above ASCII":          {"/_matrix/client/v3/profile/\xff\xfe", []int{400, 404}},
		"20-005 an asterisk":                {"*", []int{400, 404}},
	} {
		t.Run(name, func(t *testing.T) {
			resp := raw(t, "GET "+c.target+" HTTP/1.1\r\nHost: hs\r\n\r\n")
			for _, status := range c.status {
				if resp.StatusCode == status {
					return
				}
			}
			t.Errorf("status %d", resp.StatusCode)
		})
	}
	t.Run("20-007 a body that is too large", func(t *testing.T) {
		alice := hs.Register("alice")
		alice.Put("/user/"+clienttest.Esc(alice.User)+"/account_data/x", `{"x":"`+strings.Repeat("x", 2<<20)+`"}`).Is(413, "M_TOO_LARGE")
		alice.Get("/account/whoami").Is(200, "")
	})
}
