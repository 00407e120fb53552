package atolltest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"atoll/federation"
	"atoll/server"
	"atoll/spec"
	"atoll/storage"
	"atoll/storage/storagetest"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// Server is one homeserver of a test.
type Server struct {
	*server.Server
	T       testing.TB
	Network *Network
	DB      *storage.DB
	Key     spec.SigningKey
	// Remote makes requests in the name of the server.
	Remote *federation.Client
	Sender *federation.Sender
	// Handler answers the requests of others, after Intercept.
	Handler *federation.Handler

	intercept atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	address   netip.Addr
	txns      atomic.Int64

	mu       sync.Mutex // guards log
	log      bytes.Buffer
	answered []string
}

// New starts n homeservers, called a.test:8448, b.test:8448 and so on. They stop
// when the test ends; their databases are then checked for contradictions.
func New(t testing.TB, n int) []*Server {
	t.Helper()
	network := newNetwork(t)
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = network.start(string(rune('a'+i)) + ".test")
	}
	return servers
}

// start starts a homeserver on a host.
func (n *Network) start(host string) *Server {
	t := n.t
	t.Helper()
	s := &Server{T: t, Network: n}
	name := spec.ServerName(host + ":8448")
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, host)
	var err error
	s.Key, err = spec.NewSigningKey("ed25519:test", seed)
	must(t, err)
	log := slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", host)
	database := storagetest.Options(t)
	database.Log = log
	s.DB, err = storage.Open(context.Background(), database)
	must(t, err)
	web := httptest.NewUnstartedServer(s)
	web.TLS = &tls.Config{Certificates: []tls.Certificate{n.certificate(host)}}
	web.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	s.address = n.add(host, web.Listener.Addr().String())
	keys := federation.LocalKeys{Active: s.Key}
	s.Remote, err = federation.NewClient(federation.Options{
		NetworkOptions: federation.NetworkOptions{
			CAFile: n.caFile, AllowPrivateAddresses: true, Resolver: n, Connect: n.connect(s.address),
		},
		Name: name, Keys: keys, KeyStore: federation.StoredKeys(s.DB), Log: log,
	})
	must(t, err)
	s.Server, err = server.New(server.Options{
		Name: name, Key: s.Key, DB: s.DB, Remote: s.Remote, Log: log,
		Passwords: server.CheapPasswords(), Registration: server.RegistrationOptions{Mode: server.RegistrationOpen},
	})
	must(t, err)
	s.Sender = federation.NewSender(federation.SenderOptions{
		Name: name, Store: federation.StoredSender(s.DB), Transport: s.Remote, Log: log,
	})
	published := federation.NewPublishedKeys(name, keys, time.Now)
	s.Handler = federation.NewHandler(federation.HandlerOptions{
		Server: s.Server, Authenticate: s.Remote.Authenticate, Version: "test", Log: log, HeardFrom: s.Sender.Heard,
		Keys: published, Notary: federation.NewNotary(s.Remote.Keys(), published),
	})
	web.StartTLS()
	s.run(web)
	return s
}

// run does the background work until the test ends.
func (s *Server) run(web *httptest.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	for _, part := range []func(context.Context) error{s.Server.Run, s.Sender.Run} {
		parts.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				s.T.Errorf("%s: %v", s.Name(), err)
			}
		})
	}
	s.T.Cleanup(func() {
		web.Close()
		cancel()
		parts.Wait()
		s.Remote.Close()
		if err := s.DB.Check(context.Background()); err != nil {
			s.T.Errorf("%s: %v", s.Name(), err)
		}
		if err := s.DB.Close(); err != nil {
			s.T.Errorf("%s: %v", s.Name(), err)
		}
		if s.T.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.T.Logf("log of %s:\n%s", s.Name(), s.log.String())
		}
	})
}

// Write implements io.Writer for the server's log, which is shown when the test
// fails.
func (s *Server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.answered = append(s.answered, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	if f := s.intercept.Load(); f != nil && (*f)(w, r) {
		return
	}
	s.Handler.ServeHTTP(w, r)
}

// Intercept lets fn see every request of others first; it reports whether it has
// answered. Nil ends that.
func (s *Server) Intercept(fn func(http.ResponseWriter, *http.Request) bool) {
	if fn == nil {
		s.intercept.Store(nil)
		return
	}
	s.intercept.Store(&fn)
}

// Asked counts the requests of others so far whose "METHOD path" has the part.
func (s *Server) Asked(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, request := range s.answered {
		if strings.Contains(request, part) {
			n++
		}
	}
	return n
}

// Cut takes the server off the network, Mend brings it back.
func (s *Server) Cut()  { s.Network.cut(s.address, true) }
func (s *Server) Mend() { s.Network.cut(s.address, false) }

// Answer is the answer to a Request.
type Answer struct {
	Status int
	Code   spec.Code // of an error
	Body   []byte
}

// Object is the body as a JSON object.
func (a Answer) Object() map[string]any {
	var out map[string]any
	if err := json.Unmarshal(a.Body, &out); err != nil {
		return map[string]any{"not an object": string(a.Body)}
	}
	return out
}

// Request makes a signed request of another server. path may have a query; a
// body of nil is none, one of []byte goes as it is, others as JSON.
func (s *Server) Request(to *Server, method, path string, body any) Answer {
	s.T.Helper()
	content := Bytes(s.T, body)
	x, err := spec.FederationRequest{Method: method, URI: path, Origin: s.Name(), Destination: to.Name(), Content: content}.Sign(s.Key)
	must(s.T, err)
	return to.Serve(method, path, content, http.Header{"Authorization": {x.String()}})
}

// Bytes is JSON of a value; nil stays nil, []byte is what it is.
func Bytes(t testing.TB, v any) []byte {
	t.Helper()
	switch v := v.(type) {
	case nil:
		return nil
	case []byte:
		return v
	}
	raw, err := json.Marshal(v)
	must(t, err)
	return raw
}

// Serve hands a request to the server without the network.
func (s *Server) Serve(method, path string, body []byte, header http.Header) Answer {
	s.T.Helper()
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	r := httptest.NewRequestWithContext(context.Background(), method, "https://"+string(s.Name())+path, content)
	r.RequestURI = path
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	a := Answer{Status: w.Code, Body: w.Body.Bytes()}
	if code, ok := a.Object()["errcode"].(string); ok {
		a.Code = spec.Code(code)
	}
	return a
}

// Path joins the escaped segments of a path below /_matrix/federation/.
func Path(segments ...string) string {
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
	}
	return "/_matrix/federation/" + strings.Join(segments, "/")
}

// Send sends PDUs in a transaction and returns the entries of the answer: the
// error for each event id, "" for none.
func (s *Server) Send(to *Server, pdus ...[]byte) map[spec.EventID]string {
	s.T.Helper()
	return s.SendTxn(to, fmt.Sprintf("test%d", s.txns.Add(1)), pdus...)
}

// SendTxn is Send with a transaction id.
func (s *Server) SendTxn(to *Server, id string, pdus ...[]byte) map[spec.EventID]string {
	s.T.Helper()
	list := make([]json.RawMessage, len(pdus))
	for i := range pdus {
		list[i] = pdus[i]
	}
	body := map[string]any{"origin": s.Name(), "origin_server_ts": time.Now().UnixMilli(), "pdus": list}
	a := s.Request(to, "PUT", Path("v1", "send", id), body)
	if a.Status != 200 {
		s.T.Fatalf("transaction of %s to %s: %d %s", s.Name(), to.Name(), a.Status, a.Body)
	}
	var answer struct {
		PDUs map[spec.EventID]struct{ Error string } `json:"pdus"`
	}
	must(s.T, json.Unmarshal(a.Body, &answer))
	out := map[spec.EventID]string{}
	for event, result := range answer.PDUs {
		out[event] = result.Error
	}
	return out
}

// Eventually waits until fn is true and fails the test if that does not happen.
func Eventually(t testing.TB, what string, fn func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fn() {
		select {
		case <-ctx.Done():
			t.Fatalf("this never came true: %s", what)
		case <-tick.C:
		}
	}
}
