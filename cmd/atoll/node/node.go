package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"atoll/clientapi"
	"atoll/cmd/atoll/config"
	"atoll/federation"
	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

// Options say what a node is made of. Config must have been validated.
type Options struct {
	Config config.Config
	// Version is what the node tells others of itself.
	Version string
	// Listeners replace those of Config if there are any.
	Listeners []Listener
	// Passwords say what passwords cost and how short they may be.
	Passwords server.PasswordOptions
	// Resolver and Connect replace the system's for what the node asks of other
	// homeservers; nil leaves them.
	Resolver federation.Resolver
	Connect  func(ctx context.Context, network, address string) (net.Conn, error)
	// Drain is how long requests under way may take when the node stops. 0 ends
	// them at once. Those that only wait for news end at once in any case.
	Drain time.Duration
	// Log may be nil for silence.
	Log *slog.Logger
}

// Listener is an address to listen on, with TLS unless that is nil.
type Listener struct {
	Address string
	TLS     *tls.Config
}

// Node is one homeserver. Open makes it, Run runs it.
type Node struct {
	log       *slog.Logger
	drain     time.Duration
	db        *storage.DB
	remote    *federation.Client // nil where federation is off, and so is sender
	sender    *federation.Sender
	server    *server.Server
	handler   http.Handler
	admin     http.Handler
	listeners []net.Listener
	plain     int // how many of listeners serve the APIs; one for the operator may follow
	lock      io.Closer

	// waiting ends when the node begins to stop: what only waits for news is not
	// waited for.
	waiting    context.Context
	endWaiting context.CancelFunc
}

// KeyFile is the name of the signing key's file below the data directory.
const KeyFile = "signing.key"

// OpenKeys reads the keys of a data directory, and makes both if there are none
// yet.
func OpenKeys(dataDir string) (federation.LocalKeys, error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return federation.LocalKeys{}, err
	}
	return federation.LoadKeys(filepath.Join(dataDir, KeyFile))
}

// Open opens the data of a homeserver, puts it together and begins to listen.
// Nothing is answered before Run. Run or Close must be called.
func Open(ctx context.Context, o Options) (_ *Node, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{log: o.Log, drain: o.Drain}
	n.waiting, n.endWaiting = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	keys, err := OpenKeys(o.Config.DataDir)
	if err != nil {
		return nil, err
	}
	if n.lock, err = lockDataDir(o.Config.DataDir); err != nil {
		return nil, err
	}
	n.db, err = storage.Open(ctx, storage.Options{Database: string(o.Config.Database), DataDir: o.Config.DataDir, Log: o.Log})
	if err != nil {
		return nil, err
	}
	if err := n.db.BindServerName(ctx, spec.ServerName(o.Config.ServerName)); err != nil {
		return nil, err
	}
	if err := n.build(o, keys); err != nil {
		return nil, err
	}
	if err := n.listen(ctx, o); err != nil {
		return nil, err
	}
	return n, nil
}

// Server is the engine.
func (n *Node) Server() *server.Server { return n.server }

// Addresses are where the node listens, in the order of the listeners.
func (n *Node) Addresses() []net.Addr {
	var all []net.Addr
	for _, l := range n.listeners[:n.plain] {
		all = append(all, l.Addr())
	}
	return all
}

// Close gives up a node that was not run.
func (n *Node) Close() error {
	n.endWaiting()
	var errs []error
	for _, l := range n.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.remote != nil {
		n.remote.Close()
	}
	if n.db != nil {
		errs = append(errs, n.db.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// Run answers requests and does the background work until ctx ends, then lets
// requests under way finish, closes the data and returns nil. An error means
// that a part failed; the node has stopped then too. It is called once.
func (n *Node) Run(ctx context.Context) error {
	// Requests and the work behind them outlive ctx by the time they may take to
	// finish, so both have a context of their own.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	group, failed := errgroup.WithContext(work)
	group.Go(func() error { return n.server.Run(failed) })
	if n.sender != nil {
		group.Go(func() error { return n.sender.Run(failed) })
		group.Go(func() error { return n.prune(failed) })
	}
	var servers []*http.Server
	for i, l := range n.listeners {
		handler := n.handler
		if i >= n.plain {
			handler = n.admin
		}
		s := n.httpServer(work, handler)
		servers = append(servers, s)
		group.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("listener %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	n.log.Info("stopping")
	n.endWaiting()
	n.shutDown(servers)
	stopWork()
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil // a part that was told to stop says so
	}
	err = errors.Join(err, n.Close())
	n.log.Info("stopped")
	return err
}

// shutDown stops to accept, waits for requests under way within bounds, and
// breaks off what is left.
func (n *Node) shutDown(servers []*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), n.drain)
	defer cancel()
	var group errgroup.Group
	for _, s := range servers {
		group.Go(func() error {
			if err := s.Shutdown(ctx); err != nil {
				return s.Close()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		n.log.Warn("listeners did not close cleanly", "error", err)
	}
}

func (n *Node) httpServer(work context.Context, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return work },
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// What clients do wrong on the wire is no news for the operator.
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
}

// build makes the parts in the order of their needs.
func (n *Node) build(o Options, keys federation.LocalKeys) error {
	cfg := o.Config
	name := spec.ServerName(cfg.ServerName)
	options := server.Options{
		Name: name, Key: keys.Active, DB: n.db, Log: o.Log, Passwords: o.Passwords,
		Registration: server.RegistrationOptions{
			Mode:         server.RegistrationMode(cfg.Registration.Mode),
			SharedSecret: server.Secret(cfg.Registration.SharedSecret),
			Guests:       cfg.Registration.Guests,
		},
		Sessions: server.SessionOptions{
			AccessTokens: time.Duration(cfg.Sessions.AccessTokenMinutes) * time.Minute,
			LoginTokens:  time.Duration(cfg.Sessions.LoginTokenMinutes) * time.Minute,
		},
	}
	for _, p := range cfg.Registration.Policies {
		options.Registration.Policies = append(options.Registration.Policies, server.Policy(p))
	}
	key, err := cfg.JWT.Key()
	if err != nil {
		return fmt.Errorf("jwt.public_key_file: %w", err)
	}
	options.JWT = server.JWTOptions{
		Algorithm: cfg.JWT.Algorithm, Key: key, Issuer: cfg.JWT.Issuer, Audiences: cfg.JWT.Audiences, Subject: cfg.JWT.SubjectClaim,
	}
	if cfg.Federation.Enabled {
		if err := n.buildRemote(o, keys); err != nil {
			return err
		}
		options.Remote = n.remote
	}
	if n.server, err = server.New(options); err != nil {
		return err
	}
	ip, err := clientIP(cfg.TrustedProxies)
	if err != nil {
		return err
	}
	client := clientapi.New(clientapi.Options{
		Server: n.server, PublicURL: strings.TrimRight(cfg.PublicURL, "/"), FederationAddress: cfg.Federation.Address,
		RateLimits: clientapi.RateLimits{Enabled: cfg.RateLimits.Enabled}, ClientIP: ip, Log: o.Log,
	})
	var inbound http.Handler = client // which knows no such endpoints
	if n.remote != nil {
		published := federation.NewPublishedKeys(name, keys, time.Now)
		inbound = federation.NewHandler(federation.HandlerOptions{
			Server: n.server, Authenticate: n.remote.Authenticate,
			Keys: published, Notary: federation.NewNotary(n.remote.Keys(), published),
			Version: o.Version, HeardFrom: n.sender.Heard, Log: o.Log,
		})
	}
	n.handler = endPolls(n.waiting, route(client, inbound))
	return nil
}

// buildRemote makes what speaks to other homeservers.
func (n *Node) buildRemote(o Options, keys federation.LocalKeys) error {
	cfg := o.Config.Federation
	name := spec.ServerName(o.Config.ServerName)
	var trusted []spec.ServerName
	for _, s := range cfg.TrustedKeyServers {
		trusted = append(trusted, spec.ServerName(s))
	}
	var err error
	n.remote, err = federation.NewClient(federation.Options{
		NetworkOptions: federation.NetworkOptions{
			CAFile: cfg.CAFile, AllowPrivateAddresses: cfg.AllowPrivateAddresses, Resolver: o.Resolver, Connect: o.Connect,
		},
		Name: name, Keys: keys, KeyStore: federation.StoredKeys(n.db), TrustedKeyServers: trusted, Log: o.Log,
	})
	if err != nil {
		return err
	}
	n.sender = federation.NewSender(federation.SenderOptions{
		Name: name, Store: federation.StoredSender(n.db), Transport: n.remote, Log: o.Log,
	})
	return nil
}

// pruneEvery is how often what federation keeps is looked through for what has
// outlived its use.
const pruneEvery = 24 * time.Hour

// prune does so until ctx ends.
func (n *Node) prune(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if err := federation.Prune(ctx, n.db, time.Now()); err != nil && ctx.Err() == nil {
			n.log.Error("old federation data could not be removed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// route gives requests of other homeservers to the federation API and all else
// to the client API.
func route(client, federation http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_matrix/federation/") || strings.HasPrefix(r.URL.Path, "/_matrix/key/") {
			federation.ServeHTTP(w, r)
			return
		}
		client.ServeHTTP(w, r)
	})
}

// endPolls ends the requests that wait for news when waiting ends, long before
// their own time: whoever made them asks again, and finds the next process.
func endPolls(waiting context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/sync") {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(waiting, cancel)()
			r = r.WithContext(ctx)
		}
		h.ServeHTTP(w, r)
	})
}
