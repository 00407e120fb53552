package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"

	"atoll/server"
	"atoll/spec"
)

// peer is a server on the fake network that records requests.
type peer struct {
	mu       sync.Mutex
	requests []recorded
	answer   func(w http.ResponseWriter, r *http.Request)
}

type recorded struct {
	method, uri, host, sni, auth string
	body                         []byte
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.requests = append(p.requests, recorded{r.Method, r.RequestURI, r.Host, r.TLS.ServerName, r.Header.Get("Authorization"), body})
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	p.answer(w, r)
}

func (p *peer) last(t *testing.T) recorded {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requests) == 0 {
		t.Fatal("no request came")
	}
	return p.requests[len(p.requests)-1]
}

func says(body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

// peerAt makes a peer that is called peer.example:8448.
func (n *fakeNet) peerAt(answer string) *peer {
	p := &peer{answer: says(answer)}
	n.name("peer.example", "8.8.8.8")
	n.serve("8.8.8.8:8448", p.ServeHTTP, "peer.example")
	return p
}

const peerName = spec.ServerName("peer.example:8448")

func TestHostAndCertificate(t *testing.T) {
	n := newFakeNet(t)
	p := &peer{answer: says(`{}`)}
	n.name("hs.example", "8.8.8.1")
	n.name("srv.example", "8.8.8.2")
	n.name("target.example", "8.8.8.3")
	n.name("deleg.example", "8.8.8.4")
	n.services["matrix-fed srv.example"] = []*net.SRV{{Target: "down.example.", Port: 1}, {Target: "target.example.", Port: 4000}}
	n.serve("8.8.8.1:8448", p.ServeHTTP, "hs.example")
	n.serve("8.8.8.1:4433", p.ServeHTTP, "hs.example")
	n.serve("8.8.8.3:4000", p.ServeHTTP, "srv.example")
	n.serve("8.8.8.5:8448", p.ServeHTTP, "8.8.8.5")
	n.serve("[2606:4700::6]:8448", p.ServeHTTP, "2606:4700::6")
	n.serve("8.8.8.4:443", says(`{"m.server":"hs.example:4433"}`), "deleg.example")
	n.serve("8.8.8.7:8448", p.ServeHTTP, "other.example")
	n.name("wrong.example", "8.8.8.7")
	c := n.client(newFakeClock(), nil)
	for _, test := range []struct {
		claim     string
		name      spec.ServerName
		host, sni string
	}{
		{"13-001 IPv4 literal has no SNI", "8.8.8.5", "8.8.8.5", ""},
		{"13-001 IPv6 literal", "[2606:4700::6]", "[2606:4700::6]", ""},
		{"13-001 name with port", "hs.example:4433", "hs.example:4433", "hs.example"},
		{"13-002 delegated name with port", "deleg.example", "hs.example:4433", "hs.example"},
		{"13-003 SRV, second endpoint, certificate of the original name", "srv.example", "srv.example", "srv.example"},
		{"13-003 port 8448", "hs.example", "hs.example", "hs.example"},
	} {
		t.Run(test.claim, func(t *testing.T) {
			err := c.do(t.Context(), test.name, call{method: "GET", path: "/_matrix/x"})
			must(t, err)
			got := p.last(t)
			if got.host != test.host || got.sni != test.sni {
				t.Errorf("Host %q, SNI %q", got.host, got.sni)
			}
			x, err := spec.ParseXMatrix(got.auth)
			must(t, err)
			if x.Destination != test.name || x.Origin != "us.example" {
				t.Errorf("13-005 header names %s and %s", x.Origin, x.Destination)
			}
		})
	}
	t.Run("a certificate of another name is refused", func(t *testing.T) {
		err := c.do(t.Context(), "wrong.example", call{method: "GET", path: "/_matrix/x"})
		var remote *server.RemoteError
		if !errors.As(err, &remote) || remote.Answer != nil || p.last(t).host == "wrong.example" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("requests to this server itself are refused", func(t *testing.T) {
		if err := c.do(t.Context(), "us.example", call{method: "GET", path: "/"}); err == nil {
			t.Error("no error")
		}
	})
}

func TestSignedRequest(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(`{"room_version":"11","event":{"a":1}}`)
	c := n.client(newFakeClock(), nil)
	got, err := c.MakeJoin(t.Context(), peerName, "!a/b c:x.example", "@ü:us.example", []spec.RoomVersion{"11", "org.example"})
	must(t, err)
	if got.Version != "11" || string(got.Event) != `{"a":1}` {
		t.Errorf("got %+v", got)
	}
	r := p.last(t)
	if want := "/_matrix/federation/v1/make_join/%21a%2Fb%20c:x.example/@%C3%BC:us.example?ver=11&ver=org.example"; r.uri != want {
		t.Errorf("13-019 sent %s", r.uri)
	}
	x, err := spec.ParseXMatrix(r.auth)
	must(t, err)
	signed := spec.FederationRequest{Method: "GET", URI: r.uri, Origin: "us.example", Destination: peerName}
	must(t, signed.Verify(x, testKey("ed25519:us").Public()))

	p.answer = says(`{}`)
	_, err = c.SendTransaction(t.Context(), peerName, "t 1", []byte(`{"pdus": [], "x": 1.0}`))
	must(t, err)
	r = p.last(t)
	x, err = spec.ParseXMatrix(r.auth)
	must(t, err)
	signed = spec.FederationRequest{Method: "PUT", URI: r.uri, Origin: "us.example", Destination: peerName, Content: r.body}
	must(t, signed.Verify(x, testKey("ed25519:us").Public()))
}

func TestPrivateAddresses(t *testing.T) {
	n := newFakeNet(t)
	p := &peer{answer: says(`{}`)}
	for i, ip := range []string{"127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"} {
		name := fmt.Sprintf("p%d.example", i)
		n.name(name, ip)
		n.serve(netip.AddrPortFrom(netip.MustParseAddr(ip).Unmap(), 8448).String(), p.ServeHTTP, name, ip)
		c := n.client(newFakeClock(), nil)
		literal := ip
		if strings.Contains(ip, ":") {
			literal = "[" + ip + "]"
		}
		for _, dest := range []spec.ServerName{spec.ServerName(name), spec.ServerName(name + ":8448"), spec.ServerName(literal)} {
			if err := c.do(t.Context(), dest, call{method: "GET", path: "/"}); !errors.Is(err, ErrBlockedAddress) {
				t.Errorf("%s at %s: %v", dest, ip, err)
			}
		}
		c = n.client(newFakeClock(), func(o *Options) { o.AllowPrivateAddresses = true })
		if err := c.do(t.Context(), spec.ServerName(name+":8448"), call{method: "GET", path: "/"}); err != nil {
			t.Errorf("permitted %s: %v", ip, err)
		}
	}
	t.Run("a name whose address changes is checked at each connection", func(t *testing.T) {
		n.name("rebind.example", "8.8.9.9")
		n.serve("8.8.9.9:8448", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			fmt.Fprint(w, `{}`)
		}, "rebind.example")
		n.serve("10.9.9.9:8448", p.ServeHTTP, "rebind.example")
		c := n.client(newFakeClock(), nil)
		must(t, c.do(t.Context(), "rebind.example:8448", call{method: "GET", path: "/"}))
		n.name("rebind.example", "10.9.9.9")
		if err := c.do(t.Context(), "rebind.example:8448", call{method: "GET", path: "/"}); !errors.Is(err, ErrBlockedAddress) {
			t.Errorf("got %v", err)
		}
		n.name("rebind.example", "10.9.9.9", "8.8.9.9")
		must(t, c.do(t.Context(), "rebind.example:8448", call{method: "GET", path: "/"}))
		if n.count(&n.dialled, "10.9.9.9:8448") != 0 {
			t.Error("a private address was connected to")
		}
	})
	t.Run("redirects are not followed", func(t *testing.T) {
		n.name("redirect.example", "8.8.9.10")
		n.serve("8.8.9.10:8448", redirect("https://p0.example:8448/"), "redirect.example")
		c := n.client(newFakeClock(), func(o *Options) { o.AllowPrivateAddresses = true })
		before := len(p.requests)
		if err := c.do(t.Context(), "redirect.example:8448", call{method: "GET", path: "/"}); err == nil || len(p.requests) != before {
			t.Errorf("got %v", err)
		}
	})
}

func TestBothAddressFamilies(t *testing.T) {
	n := newFakeNet(t)
	p := &peer{answer: says(`{}`)}
	n.serve("8.8.8.1:8448", p.ServeHTTP, "hs.example")
	n.serve("[2606:4700::1]:8448", p.ServeHTTP, "six.example")
	c := n.client(newFakeClock(), nil)
	t.Run("IPv6 refuses, IPv4 is used", func(t *testing.T) {
		n.name("hs.example", "2606:4700::dead", "8.8.8.1")
		must(t, c.do(t.Context(), "hs.example:8448", call{method: "GET", path: "/"}))
	})
	t.Run("IPv4 refuses, IPv6 is used", func(t *testing.T) {
		n.name("six.example", "2606:4700::1", "8.8.8.99")
		must(t, c.do(t.Context(), "six.example:8448", call{method: "GET", path: "/"}))
	})
	t.Run("a family that hangs costs a quarter of a second", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDialer(NetworkOptions{Resolver: n, Connect: func(ctx context.Context, _, address string) (net.Conn, error) {
				if strings.Contains(address, "::") {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return nil, errors.New("reached " + address)
			}}, nil)
			n.name("both.example", "2606:4700::2", "8.8.8.2")
			n.hang["ip6 both.example"] = true
			start := time.Now()
			_, err := d.dialTLS(t.Context(), "both.example", []Endpoint{{"both.example", 8448}})
			if err == nil || !strings.Contains(err.Error(), "reached 8.8.8.2") || time.Since(start) != otherFamilyTimeout {
				t.Errorf("AAAA look-up hangs: %v after %s", err, time.Since(start))
			}
			n.hang["ip6 both.example"] = false
			reached := time.Duration(0)
			d.connect = func(ctx context.Context, _, address string) (net.Conn, error) {
				if strings.Contains(address, "::") {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				reached = time.Since(start)
				return nil, errors.New("refused")
			}
			start = time.Now()
			_, _ = d.dialTLS(t.Context(), "both.example", []Endpoint{{"both.example", 8448}})
			if reached != attemptDelay {
				t.Errorf("IPv4 was tried after %s", reached)
			}
		})
	})
}

func TestRefusals(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(``)
	c := n.client(newFakeClock(), nil)
	ask := func(status int, body string, header ...string) *server.RemoteError {
		p.answer = func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
		err := c.do(t.Context(), peerName, call{method: "GET", path: "/"})
		var remote *server.RemoteError
		if !errors.As(err, &remote) {
			t.Fatalf("got %v", err)
		}
		if own := new(spec.Error); errors.As(err, &own) {
			t.Errorf("the peer's error can be taken for our own: %v", err)
		}
		return remote
	}
	e := ask(400, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"no","room_version":"3"}`)
	if e.Answer.Code != spec.CodeIncompatibleRoomVersion || e.Answer.Msg != "no" || e.Answer.Status != 400 || fmt.Sprintf("%s", e.Answer.Fields["room_version"]) != `"3"` {
		t.Errorf("14-003 got %+v", e.Answer)
	}
	if e := ask(502, `<html>bad gateway`); e.Answer.Code != spec.CodeUnknown || e.Answer.Status != 502 {
		t.Errorf("got %+v", e.Answer)
	}
	if e := ask(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2000}`); e.RetryAfter != 2*time.Second {
		t.Errorf("got %s", e.RetryAfter)
	}
	if e := ask(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2000}`, "Retry-After", "99999999"); e.RetryAfter != time.Hour {
		t.Errorf("got %s", e.RetryAfter)
	}
	if e := ask(404, strings.Repeat("x", 1<<20)); e.Answer.Status != 404 {
		t.Errorf("got %+v", e.Answer)
	}
}

func TestAnswerLimits(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(``)
	c := n.client(newFakeClock(), func(o *Options) { o.MaxJoinBytes = 4 << 20 })
	join := server.SendEventRequest{Room: "!r:x", EventID: "$e", Event: []byte(`{}`)}
	endless := func(start, more string) {
		p.answer = func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, start)
			for range 64 << 20 / len(more) {
				if _, err := io.WriteString(w, more); err != nil {
					return
				}
			}
		}
	}
	filler := strings.Repeat("x", 1<<16)
	for claim, do := range map[string]func() error{
		"a join answer over the limit": func() error {
			endless(`{"state":[{}`, `,{"a":"`+filler+`"}`)
			_, err := c.SendJoin(t.Context(), peerName, join)
			return err
		},
		"a single huge event": func() error {
			endless(`{"state":[{"a":"`, filler)
			_, err := c.SendJoin(t.Context(), peerName, join)
			return err
		},
		"a huge unknown member": func() error {
			endless(`{"x":"`, filler)
			_, err := c.SendJoin(t.Context(), peerName, join)
			return err
		},
		"a small answer that is not small": func() error {
			endless(`{"event":{"x":"`, filler)
			_, err := c.MakeLeave(t.Context(), peerName, "!r:x", "@u:us.example")
			return err
		},
		"endless keys": func() error {
			endless(`{"x":"`, filler)
			_, err := c.fetchKeys(t.Context(), peerName)
			return err
		},
	} {
		t.Run(claim, func(t *testing.T) {
			if err := do(); !errors.Is(err, errAnswerTooLarge) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadSendJoin(t *testing.T) {
	big := `{"type":"m.room.topic","content":{"topic":"` + strings.Repeat("t", 70_000) + `"}}`
	answer := `{"origin":"a.example","servers_in_room":["a.example","not a name",7,"b.example:1"],"members_omitted":true,` +
		`"unknown":{"x":[1,{"y":"` + strings.Repeat("z", 100_000) + `"}]},` +
		`"state":[{"type":"m.room.create"},17,` + big + `,{"dup":1,"dup":2}],"auth_chain":[{"type":"m.room.create"}],"event":{"type":"m.room.member"}}`
	got, err := readSendJoin(strings.NewReader(answer))
	must(t, err)
	want := &server.SendJoinAnswer{
		Origin: "a.example", Event: []byte(`{"type":"m.room.member"}`), MembersOmitted: true,
		State:         [][]byte{[]byte(`{"type":"m.room.create"}`), []byte(big), []byte(`{"dup":1,"dup":2}`)},
		AuthChain:     [][]byte{[]byte(`{"type":"m.room.create"}`)},
		ServersInRoom: []spec.ServerName{"a.example", "b.example:1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	for _, bad := range []string{``, `[]`, `{"state":[{}`, `{"state":{}}`, `{"state":[]} {}`, `{"state":[]`, "null"} {
		if _, err := readSendJoin(strings.NewReader(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if got, err := readSendJoin(strings.NewReader(`{"state":null,"event":null,"origin":null}`)); err != nil || got.Event != nil {
		t.Errorf("nulls: %+v, %v", got, err)
	}
}

func TestMethods(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(``)
	c := n.client(newFakeClock(), nil)
	ctx := t.Context()
	send := server.SendEventRequest{Room: "!r:x", EventID: "$e", Event: []byte(`{"sent":1}`), OmitMembers: true}
	for _, test := range []struct {
		claim, answer, method, uri, body string
		do                               func() (any, error)
		want                             string
	}{
		{"make_leave without version", `{"event":{}}`, "GET", "/_matrix/federation/v1/make_leave/%21r:x/@u:us", "",
			func() (any, error) { return c.MakeLeave(ctx, peerName, "!r:x", "@u:us") }, `{"Version":"1","Event":"e30="}`},
		{"14-031 send_join", `{"state":[],"auth_chain":[{}]}`, "PUT", "/_matrix/federation/v2/send_join/%21r:x/$e?omit_members=true", `{"sent":1}`,
			func() (any, error) { a, err := c.SendJoin(ctx, peerName, send); return a.AuthChain, err }, `["e30="]`},
		{"make_knock", `{"room_version":"7","event":{}}`, "GET", "/_matrix/federation/v1/make_knock/%21r:x/@u:us?ver=7", "",
			func() (any, error) { return c.MakeKnock(ctx, peerName, "!r:x", "@u:us", []spec.RoomVersion{"7"}) }, `{"Version":"7","Event":"e30="}`},
		{"send_knock", `{"knock_room_state":[{}]}`, "PUT", "/_matrix/federation/v1/send_knock/%21r:x/$e", `{"sent":1}`,
			func() (any, error) { return c.SendKnock(ctx, peerName, send) }, `["e30="]`},
		{"send_leave", `{}`, "PUT", "/_matrix/federation/v2/send_leave/%21r:x/$e", `{"sent":1}`,
			func() (any, error) { return nil, c.SendLeave(ctx, peerName, send) }, `null`},
		{"event", `{"origin":"x","pdus":[{}]}`, "GET", "/_matrix/federation/v1/event/$a%2Fb", "",
			func() (any, error) { return c.GetEvent(ctx, peerName, "$a/b") }, `"e30="`},
		{"backfill", `{"pdus":[{},{}]}`, "GET", "/_matrix/federation/v1/backfill/%21r:x?limit=5&v=%24a&v=%24b", "",
			func() (any, error) { return c.Backfill(ctx, peerName, "!r:x", []spec.EventID{"$a", "$b"}, 5) }, `["e30=","e30="]`},
		{"15-020 get_missing_events", `{"events":[{}]}`, "POST", "/_matrix/federation/v1/get_missing_events/%21r:x",
			`{"earliest_events":["$a"],"latest_events":["$b"],"limit":10,"min_depth":3}`,
			func() (any, error) {
				return c.MissingEvents(ctx, peerName, server.MissingEventsRequest{Room: "!r:x", Earliest: []spec.EventID{"$a"}, Latest: []spec.EventID{"$b"}, Limit: 10, MinDepth: 3})
			}, `["e30="]`},
		{"event_auth", `{"auth_chain":[{}]}`, "GET", "/_matrix/federation/v1/event_auth/%21r:x/$e", "",
			func() (any, error) { return c.EventAuth(ctx, peerName, "!r:x", "$e") }, `["e30="]`},
		{"state", `{"pdus":[{}],"auth_chain":[]}`, "GET", "/_matrix/federation/v1/state/%21r:x?event_id=%24e", "",
			func() (any, error) { return c.State(ctx, peerName, "!r:x", "$e") }, `{"State":["e30="],"AuthChain":[]}`},
		{"state_ids", `{"pdu_ids":["$a","bad"],"auth_chain_ids":["$b"]}`, "GET", "/_matrix/federation/v1/state_ids/%21r:x?event_id=%24e", "",
			func() (any, error) { return c.StateIDs(ctx, peerName, "!r:x", "$e") }, `{"State":["$a"],"AuthChain":["$b"]}`},
		{"profile", `{"displayname":"U"}`, "GET", "/_matrix/federation/v1/query/profile?field=displayname&user_id=%40u%3Apeer.example%3A8448", "",
			func() (any, error) {
				raw, err := c.QueryProfile(ctx, "@u:peer.example:8448", "displayname")
				return string(raw), err
			}, `"{\"displayname\":\"U\"}"`},
		{"directory", `{"room_id":"!r:x","servers":["a.example","?"]}`, "GET", "/_matrix/federation/v1/query/directory?room_alias=%23a%3Apeer.example%3A8448", "",
			func() (any, error) { return c.QueryDirectory(ctx, "#a:peer.example:8448") }, `{"Room":"!r:x","Servers":["a.example"]}`},
		{"13-027 transaction", `{"pdus":{"$a":{},"$b":{"error":"no"}}}`, "PUT", "/_matrix/federation/v1/send/t1", `{"pdus":[]}`,
			func() (any, error) { return c.SendTransaction(ctx, peerName, "t1", []byte(`{"pdus":[]}`)) }, `{"$b":"no"}`},
	} {
		t.Run(test.claim, func(t *testing.T) {
			p.answer = says(test.answer)
			got, err := test.do()
			must(t, err)
			r := p.last(t)
			if r.method != test.method || r.uri != test.uri || string(r.body) != test.body {
				t.Errorf("sent %s %s %s", r.method, r.uri, r.body)
			}
			if out, _ := json.Marshal(got); string(out) != test.want {
				t.Errorf("got %s", out)
			}
		})
	}
	t.Run("13-006 version is asked without a signature", func(t *testing.T) {
		p.answer = says(`{"server":{"name":"S","version":"1"}}`)
		name, version, err := c.Version(ctx, peerName)
		if err != nil || name != "S" || version != "1" || p.last(t).auth != "" {
			t.Errorf("got %s %s %v", name, version, err)
		}
	})
	t.Run("wrong shapes are faults of the peer", func(t *testing.T) {
		p.answer = says(`{"pdus":[{},{}],"room_id":"nope"}`)
		var remote *server.RemoteError
		if _, err := c.GetEvent(ctx, peerName, "$e"); !errors.As(err, &remote) {
			t.Errorf("two events: %v", err)
		}
		if _, err := c.QueryDirectory(ctx, "#a:peer.example:8448"); !errors.As(err, &remote) {
			t.Errorf("bad room id: %v", err)
		}
		if _, err := c.MakeLeave(ctx, peerName, "!r:x", "@u:us"); !errors.As(err, &remote) {
			t.Errorf("no event: %v", err)
		}
	})
}

func TestInvite(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(``)
	c := n.client(newFakeClock(), nil)
	invite := server.InviteRequest{
		Room: "!r:x", EventID: "$e", Version: "10", Event: []byte(`{"type":"m.room.member","unsigned":{"age":1}}`),
		RoomState: [][]byte{[]byte(`{"type":"m.room.create"}`)},
	}
	t.Run("14-041 the body of v2", func(t *testing.T) {
		p.answer = says(`{"event":{"signed":true}}`)
		got, err := c.Invite(t.Context(), peerName, invite)
		must(t, err)
		want := `{"room_version":"10","event":{"type":"m.room.member","unsigned":{"age":1}},"invite_room_state":[{"type":"m.room.create"}]}`
		if r := p.last(t); string(got) != `{"signed":true}` || string(r.body) != want || r.uri != "/_matrix/federation/v2/invite/%21r:x/$e" {
			t.Errorf("sent %s %s, got %s", r.uri, r.body, got)
		}
	})
	old := func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.RequestURI, "/v2/") {
			w.WriteHeader(404)
			fmt.Fprint(w, `{"errcode":"M_UNRECOGNIZED"}`)
			return
		}
		fmt.Fprint(w, `[200,{"event":{"signed":true}}]`)
	}
	t.Run("14-043 v1 for old rooms", func(t *testing.T) {
		p.answer = old
		invite.Version = "2"
		got, err := c.Invite(t.Context(), peerName, invite)
		must(t, err)
		r := p.last(t)
		if string(got) != `{"signed":true}` || r.uri != "/_matrix/federation/v1/invite/%21r:x/$e" {
			t.Errorf("sent %s, got %s", r.uri, got)
		}
		if !bytes.Contains(r.body, []byte(`"invite_room_state":[{"type":"m.room.create"}]`)) || !bytes.Contains(r.body, []byte(`"age":1`)) {
			t.Errorf("sent %s", r.body)
		}
	})
	t.Run("14-043 no v1 for newer rooms", func(t *testing.T) {
		invite.Version = "3"
		_, err := c.Invite(t.Context(), peerName, invite)
		if answer, ok := server.RemoteAnswer(err); !ok || answer.Status != 404 {
			t.Errorf("got %v", err)
		}
	})
}

func TestContextEnds(t *testing.T) {
	n := newFakeNet(t)
	p := n.peerAt(``)
	ctx, cancel := context.WithCancel(t.Context())
	p.answer = func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }
	c := n.client(newFakeClock(), nil)
	if err := c.do(ctx, peerName, call{method: "GET", path: "/"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzReadSendJoin(f *testing.F) {
	for _, s := range []string{
		`{"state":[{}],"auth_chain":[{"a":[]}],"event":{},"members_omitted":true,"servers_in_room":["a"]}`,
		`{"state":null}`, `{"state":[1,"x",null]}`, `{"a":{"b":[[[`, `{"origin":"\ud800"}`, "{\"\xff\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := readSendJoin(bytes.NewReader(body))
		if err != nil {
			return
		}
		for _, list := range [][][]byte{got.State, got.AuthChain} {
			for _, raw := range list {
				if len(raw) < 2 || raw[0] != '{' || !bytes.Contains(body, raw) {
					t.Errorf("event %q out of %q", raw, body)
				}
			}
		}
	})
}

func FuzzParseRefusal(f *testing.F) {
	f.Add([]byte(`{"errcode":"M_X","error":"e","retry_after_ms":1e300}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if e := parseRefusal(400, body); e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter || e.Code == "" {
			t.Errorf("got %+v", e)
		}
	})
}
