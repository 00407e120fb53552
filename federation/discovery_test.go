package federation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"atoll/spec"
)

// testDiscovery is a Discovery whose well-known files come from a map.
func testDiscovery(n *fakeNet, clock *fakeClock, files map[string]string) (*Discovery, *int) {
	fetched := new(int)
	d := newDiscovery(newDialer(NetworkOptions{Resolver: n, Connect: n.connect}, nil), clock.now)
	d.wellKnown = func(_ context.Context, host string) (wellKnownAnswer, error) {
		*fetched++
		body, ok := files[host]
		if !ok {
			return wellKnownAnswer{}, fmt.Errorf("%w: refused", errNoAnswer)
		}
		server, err := parseWellKnown([]byte(body))
		return wellKnownAnswer{server: server, ttl: wellKnownDefault}, err
	}
	return d, fetched
}

func TestResolve(t *testing.T) {
	files := map[string]string{
		"to-ip.example":        `{"m.server": "203.0.113.5"}`,
		"to-ip-port.example":   `{"m.server": "[2001:db8::5]:4433"}`,
		"to-port.example":      `{"m.server": "hs.example:4433"}`,
		"to-srv.example":       `{"m.server": "srv.example", "other": [1, 2]}`,
		"to-old-srv.example":   `{"m.server": "oldsrv.example"}`,
		"to-name.example":      `{"m.server": "hs.example"}`,
		"no-json.example":      `<html>`,
		"no-member.example":    `{"m.Server": "hs.example"}`,
		"bad-name.example":     `{"m.server": "https://hs.example/"}`,
		"bad-port.example":     `{"m.server": "hs.example:99999"}`,
		"not-string.example":   `{"m.server": 7}`,
		"chain.example":        `{"m.server": "to-port.example"}`,
		"empty-srv.example":    `{"m.server": "dot.example"}`,
		"too-large.example":    `{"m.server": "hs.example"` + strings.Repeat(" ", wellKnownMaxSize) + `}`,
		"not-object.example":   `["m.server"]`,
		"to-uppercase.example": `{"m.server": "HS.Example"}`,
	}
	n := newFakeNet(t)
	n.services["matrix-fed srv.example"] = []*net.SRV{{Target: "a.example.", Port: 1}, {Target: "b.example.", Port: 2}}
	n.services["matrix srv.example"] = []*net.SRV{{Target: "wrong.example.", Port: 1}}
	n.services["matrix oldsrv.example"] = []*net.SRV{{Target: "c.example.", Port: 3}}
	n.services["matrix-fed direct-srv.example"] = []*net.SRV{{Target: "a.example.", Port: 1}}
	n.services["matrix-fed dot.example"] = []*net.SRV{{Target: ".", Port: 0}}
	n.failures["matrix-fed broken.example"] = errors.New("server misbehaving")
	n.services["matrix broken.example"] = []*net.SRV{{Target: "c.example.", Port: 3}}

	at := func(host string, port uint16) []Endpoint { return []Endpoint{{host, port}} }
	tests := []struct {
		claim string
		name  spec.ServerName
		host  string // Host header
		tls   string
		want  []Endpoint
	}{
		{"13-001 IPv4 literal", "203.0.113.9", "203.0.113.9", "203.0.113.9", at("203.0.113.9", 8448)},
		{"13-001 IPv4 literal with port", "203.0.113.9:444", "203.0.113.9:444", "203.0.113.9", at("203.0.113.9", 444)},
		{"13-001 IPv6 literal", "[2001:db8::9]", "[2001:db8::9]", "2001:db8::9", at("2001:db8::9", 8448)},
		{"13-001 IPv6 literal with port", "[2001:db8::9]:444", "[2001:db8::9]:444", "2001:db8::9", at("2001:db8::9", 444)},
		{"13-001 name with port, no well-known", "to-port.example:444", "to-port.example:444", "to-port.example", at("to-port.example", 444)},
		{"13-001 default port given outright, no SRV", "direct-srv.example:8448", "direct-srv.example:8448", "direct-srv.example", at("direct-srv.example", 8448)},
		{"13-002 delegated to an address", "to-ip.example", "203.0.113.5", "203.0.113.5", at("203.0.113.5", 8448)},
		{"13-002 delegated to an address with port", "to-ip-port.example", "[2001:db8::5]:4433", "2001:db8::5", at("2001:db8::5", 4433)},
		{"13-002 delegated to a name with port", "to-port.example", "hs.example:4433", "hs.example", at("hs.example", 4433)},
		{"13-002 delegated to a name with SRV", "to-srv.example", "srv.example", "srv.example", []Endpoint{{"a.example", 1}, {"b.example", 2}}},
		{"13-002 delegated to a name with deprecated SRV", "to-old-srv.example", "oldsrv.example", "oldsrv.example", at("c.example", 3)},
		{"13-002 delegated to a plain name", "to-name.example", "hs.example", "hs.example", at("hs.example", 8448)},
		{"13-002 delegation is not followed twice", "chain.example", "to-port.example", "to-port.example", at("to-port.example", 8448)},
		{"13-002 SRV target . means no service", "empty-srv.example", "dot.example", "dot.example", at("dot.example", 8448)},
		{"13-003 no well-known, SRV", "direct-srv.example", "direct-srv.example", "direct-srv.example", at("a.example", 1)},
		{"13-003 failing SRV look-up, deprecated SRV", "broken.example", "broken.example", "broken.example", at("c.example", 3)},
		{"13-003 no well-known, no SRV", "plain.example", "plain.example", "plain.example", at("plain.example", 8448)},
		{"13-003 well-known is no JSON", "no-json.example", "no-json.example", "no-json.example", at("no-json.example", 8448)},
		{"13-003 well-known is no object", "not-object.example", "not-object.example", "not-object.example", at("not-object.example", 8448)},
		{"13-003 well-known without m.server", "no-member.example", "no-member.example", "no-member.example", at("no-member.example", 8448)},
		{"13-003 m.server is no string", "not-string.example", "not-string.example", "not-string.example", at("not-string.example", 8448)},
		{"13-003 m.server is no server name", "bad-name.example", "bad-name.example", "bad-name.example", at("bad-name.example", 8448)},
		{"13-003 m.server has no such port", "bad-port.example", "bad-port.example", "bad-port.example", at("bad-port.example", 8448)},
		{"13-003 well-known too large", "too-large.example", "too-large.example", "too-large.example", at("too-large.example", 8448)},
	}
	d, _ := testDiscovery(n, newFakeClock(), files)
	for _, test := range tests {
		t.Run(test.claim, func(t *testing.T) {
			got, err := d.Resolve(t.Context(), test.name)
			must(t, err)
			if got.Host != test.host || got.TLSName != test.tls || !reflect.DeepEqual(got.Endpoints, test.want) {
				t.Errorf("got %+v", got)
			}
		})
	}
	for _, bad := range []spec.ServerName{"example.org:0", "example.org:65536", "203.0.113.9:99999"} {
		if _, err := d.Resolve(t.Context(), bad); err == nil {
			t.Errorf("%s was resolved", bad)
		}
	}
}

func TestPoolKeys(t *testing.T) {
	n := newFakeNet(t)
	n.services["matrix-fed a.example"] = []*net.SRV{{Target: "b.example.", Port: 8448}}
	d, _ := testDiscovery(n, newFakeClock(), nil)
	seen := map[string]spec.ServerName{}
	for _, name := range []spec.ServerName{"a.example", "a.example:8448", "a.example:443", "b.example", "203.0.113.9", "[2001:db8::1]"} {
		target, err := d.Resolve(t.Context(), name)
		must(t, err)
		if other, ok := seen[target.pool]; ok {
			t.Errorf("%s and %s share connections", name, other)
		}
		seen[target.pool] = name
	}
}

func TestDelegationCache(t *testing.T) {
	t.Run("13-004 an answer is asked for once until it ends", func(t *testing.T) {
		clock := newFakeClock()
		d, fetched := testDiscovery(newFakeNet(t), clock, map[string]string{"a.example": `{"m.server":"b.example:1"}`})
		for range 3 {
			_, err := d.Resolve(t.Context(), "a.example")
			must(t, err)
		}
		if *fetched != 1 {
			t.Errorf("fetched %d times", *fetched)
		}
		clock.advance(wellKnownDefault + 1)
		_, _ = d.Resolve(t.Context(), "A.example")
		if *fetched != 2 {
			t.Errorf("fetched %d times after the end", *fetched)
		}
	})
	t.Run("13-004 failures are cached, for longer each time, an hour at most", func(t *testing.T) {
		clock := newFakeClock()
		d, fetched := testDiscovery(newFakeNet(t), clock, nil)
		for i, wait := range []time.Duration{2, 4, 8, 16, 32, 60, 60, 60} {
			_, _ = d.Resolve(t.Context(), "a.example")
			clock.advance(wait*time.Minute - time.Second)
			_, _ = d.Resolve(t.Context(), "a.example")
			if *fetched != i+1 {
				t.Fatalf("round %d: fetched %d times", i, *fetched)
			}
			clock.advance(time.Second)
		}
	})
	t.Run("a delegation outlives an outage of the host, but not its removal", func(t *testing.T) {
		clock := newFakeClock()
		files := map[string]string{"a.example": `{"m.server":"b.example:1"}`}
		d, _ := testDiscovery(newFakeNet(t), clock, files)
		host := func() string { target, _ := d.Resolve(t.Context(), "a.example"); return target.Host }
		host()
		delete(files, "a.example")
		clock.advance(wellKnownDefault + 1)
		if got := host(); got != "b.example:1" {
			t.Errorf("during an outage: %s", got)
		}
		clock.advance(wellKnownMax - wellKnownDefault)
		if got := host(); got != "a.example" {
			t.Errorf("after a long outage: %s", got)
		}
		files["a.example"] = `{"m.server":"b.example:1"}`
		clock.advance(time.Hour)
		host()
		files["a.example"] = `gone`
		clock.advance(wellKnownDefault + 1)
		if got := host(); got != "a.example" {
			t.Errorf("after the removal: %s", got)
		}
	})
}

func TestServiceCache(t *testing.T) {
	n, clock := newFakeNet(t), newFakeClock()
	n.failures["matrix b.example"] = errors.New("server misbehaving")
	d, _ := testDiscovery(n, clock, nil)
	ask := func() (a, b int) {
		for _, name := range []spec.ServerName{"a.example", "b.example"} {
			_, err := d.Resolve(t.Context(), name)
			must(t, err)
		}
		return n.count(&n.lookedUp, "matrix a.example"), n.count(&n.lookedUp, "matrix b.example")
	}
	ask()
	if a, b := ask(); a != 1 || b != 1 {
		t.Errorf("looked up %d and %d times at once", a, b)
	}
	clock.advance(srvFailureTTL)
	if a, b := ask(); a != 1 || b != 2 {
		t.Errorf("looked up %d and %d times after a minute", a, b)
	}
	clock.advance(srvTTL)
	if a, b := ask(); a != 2 || b != 3 {
		t.Errorf("looked up %d and %d times after ten minutes", a, b)
	}
}

func TestLookupTimeouts(t *testing.T) {
	n := newFakeNet(t)
	synctest.Test(t, func(t *testing.T) {
		n.name("slow.example", "203.0.113.1")
		n.hang["203.0.113.1:443"] = true
		n.hang["matrix-fed slow.example"] = true
		n.hang["matrix slow.example"] = true
		n.hang["ip6 slow.example"] = true
		d := newDiscovery(newDialer(NetworkOptions{Resolver: n, Connect: n.connect}, nil), time.Now)
		start := time.Now()
		target, err := d.Resolve(t.Context(), "slow.example")
		must(t, err)
		if target.Endpoints[0] != (Endpoint{"slow.example", 8448}) {
			t.Errorf("got %+v", target)
		}
		if took := time.Since(start); took != 3*lookupTimeout {
			t.Errorf("well-known and two SRV look-ups took %s", took)
		}
		// Somebody who gives up gets out at once.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		n.hang["matrix-fed slow2.example"] = true
		if _, err := d.Resolve(ctx, "slow2.example"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

func TestWellKnownRequest(t *testing.T) {
	n, clock := newFakeNet(t), newFakeClock()
	answer := map[string]http.HandlerFunc{
		"ok.example":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"m.server":"hs.example:1"}`) },
		"redir.example":  redirect("https://ok.example/.well-known/matrix/server"),
		"perm.example":   redirect("https://redir.example/x"),
		"loop.example":   redirect("https://loop.example/.well-known/matrix/server"),
		"plain.example":  redirect("http://ok.example/.well-known/matrix/server"),
		"inward.example": redirect("https://inside.example/"),
		"many.example": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://many.example"+r.URL.Path+"x", http.StatusFound)
		},
		"huge.example": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"m.server":"hs.example:1"`+strings.Repeat(" ", wellKnownMaxSize)+`}`)
		},
		"missing.example": http.NotFound,
		"inside.example":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"m.server":"taken.example:1"}`) },
	}
	i := 0
	for host, h := range answer {
		i++
		ip := fmt.Sprintf("8.8.4.%d", i)
		if host == "inside.example" {
			ip = "10.0.0.1"
		}
		n.name(host, ip)
		n.serve(ip+":443", h, host)
	}
	n.name("wrongcert.example", "8.8.5.1")
	n.serve("8.8.5.1:443", answer["ok.example"], "other.example")
	c := n.client(clock, nil)
	fetch := c.discovery.wellKnown
	for host, claim := range map[string]string{
		"ok.example":    "13-002 a plain answer",
		"redir.example": "13-004 a redirect is followed",
		"perm.example":  "13-004 several redirects are followed",
	} {
		t.Run(claim, func(t *testing.T) {
			got, err := fetch(t.Context(), host)
			if err != nil || got.server != "hs.example:1" || got.ttl != wellKnownDefault {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	for host, claim := range map[string]string{
		"loop.example":      "13-004 a redirect loop ends",
		"many.example":      "13-004 endless redirects end",
		"plain.example":     "a redirect to plain HTTP is refused",
		"inward.example":    "a redirect to a private address is refused",
		"inside.example":    "a private address is refused",
		"huge.example":      "13-003 an oversized body is refused",
		"missing.example":   "13-003 a 404 is no delegation",
		"wrongcert.example": "a certificate of another name is refused",
		"nowhere.example":   "a host without address has no delegation",
	} {
		t.Run(claim, func(t *testing.T) {
			if got, err := fetch(t.Context(), host); err == nil {
				t.Errorf("got %v", got)
			}
		})
	}
	if n.count(&n.dialled, "10.0.0.1:443") != 0 {
		t.Error("a private address was connected to")
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func TestWellKnownTTL(t *testing.T) {
	now := newFakeClock().now()
	for _, test := range []struct {
		claim  string
		header http.Header
		want   time.Duration
	}{
		{"13-004 no header means a day", http.Header{}, 24 * time.Hour},
		{"13-004 max-age counts", http.Header{"Cache-Control": {"public, max-age=3600"}}, time.Hour},
		{"13-004 at most two days", http.Header{"Cache-Control": {"max-age=31536000"}}, 48 * time.Hour},
		{"no-store still keeps for minutes", http.Header{"Cache-Control": {"no-store"}}, 5 * time.Minute},
		{"Expires counts", http.Header{"Expires": {now.Add(2 * time.Hour).Format(http.TimeFormat)}}, 2 * time.Hour},
		{"max-age outweighs Expires", http.Header{"Cache-Control": {"max-age=3600"}, "Expires": {"0"}}, time.Hour},
		{"bad Expires counts as past", http.Header{"Expires": {"0"}}, 5 * time.Minute},
		{"bad max-age is passed over", http.Header{"Cache-Control": {"max-age=-5"}}, 24 * time.Hour},
		{"huge max-age is passed over", http.Header{"Cache-Control": {"max-age=99999999999999999999"}}, 24 * time.Hour},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got := wellKnownTTL(test.header, now); got != test.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

func FuzzParseWellKnown(f *testing.F) {
	for _, s := range []string{`{"m.server":"a.example:1"}`, `{"m.server":"[::1]"}`, `{`, `null`, `{"m.server":"a:70000"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		name, err := parseWellKnown(body)
		if err != nil {
			return
		}
		if _, err := spec.ParseServerName(string(name)); err != nil {
			t.Errorf("%q came out", name)
		}
		if port, ok := name.Port(); ok && !validPort(port) {
			t.Errorf("port %d came out", port)
		}
	})
}
