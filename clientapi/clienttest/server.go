// Package clienttest runs a whole homeserver over HTTP in a test, on an empty database, and speaks to it as clients do.
package clienttest

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"atoll/clientapi"
	"atoll/server"
	"atoll/spec"
	"atoll/storage"
	"atoll/storage/storagetest"
)

// Password is the password of every user that Register makes.
const Password = "correct horse battery staple"

// Options is what a test may change about its server before it starts.
type Options struct {
	Server server.Options
	API    clientapi.Options
}

// Homeserver is one running homeserver.
type Homeserver struct {
	T      testing.TB
	Name   string // server name
	URL    string // without a slash at the end
	Server *server.Server
	API    *clientapi.Handler
	DB     *storage.DB

	opts     Options
	database storage.Options
	stop     func()
}

// New starts a homeserver called "hs" with open registration and without rate limits. It ends,
// and its database is checked, when the test ends.
func New(t testing.TB, change ...func(*Options)) *Homeserver {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Server: server.Options{
		Name: "hs", Key: spec.SigningKey{ID: "ed25519:test", Private: private}, Log: log,
		Registration: server.RegistrationOptions{Mode: server.RegistrationOpen},
		Passwords:    server.CheapPasswords(),
	}}
	opts.API.Log = log
	for _, f := range change {
		f(&opts)
	}
	h := &Homeserver{T: t, Name: string(opts.Server.Name), opts: opts, database: storagetest.Options(t)}
	h.database.Log = log
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// Restart ends the homeserver and starts another one on its data, at another URL: clients have to
// be made anew, or moved with Client.At.
func (h *Homeserver) Restart() {
	h.T.Helper()
	h.stop()
	h.start()
}

func (h *Homeserver) start() {
	t, opts := h.T, h.opts
	t.Helper()
	db, err := storage.Open(context.Background(), h.database)
	if err != nil {
		t.Fatal(err)
	}
	opts.Server.DB = db
	srv, err := server.New(opts.Server)
	if err != nil {
		t.Fatal(err)
	}
	opts.API.Server = srv
	api := clientapi.New(opts.API)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	front := httptest.NewServer(api)
	h.URL, h.Server, h.API, h.DB = front.URL, srv, api, db
	h.stop = func() {
		front.CloseClientConnections()
		front.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if err := db.Check(context.Background()); err != nil {
			t.Errorf("the database is not sound: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	}
}

// Anonymous is a client without a token.
func (h *Homeserver) Anonymous() *Client { return &Client{T: h.T, URL: h.URL} }

// WithToken is a client with any token.
func (h *Homeserver) WithToken(token string) *Client {
	return &Client{T: h.T, URL: h.URL, Token: token}
}

// Register makes an account and returns its first session.
func (h *Homeserver) Register(localpart string) *Client {
	h.T.Helper()
	r := h.Anonymous().Post("/register", Object{
		"username": localpart, "password": Password, "auth": Object{"type": "m.login.dummy"},
	}).OK()
	return &Client{T: h.T, URL: h.URL, User: r.Str("user_id"), Device: r.Str("device_id"), Token: r.Str("access_token")}
}

// UserID is the id of a user of this server.
func (h *Homeserver) UserID(localpart string) spec.UserID {
	return spec.UserID("@" + localpart + ":" + h.Name)
}

// ServeHTTP lets a Homeserver stand for its API.
func (h *Homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.API.ServeHTTP(w, r) }

// testWriter writes log lines to the test that caused them.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Logf("%s", line)
	return len(line), nil
}
