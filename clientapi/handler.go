package clientapi

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"atoll/server"
)

// Options is what New needs. Only Server is required.
type Options struct {
	// Server is the engine that every handler calls.
	Server *server.Server
	// PublicURL is the base URL of the client API as clients reach it, without a slash at the
	// end. Empty: /.well-known/matrix/client answers 404.
	PublicURL string
	// FederationAddress is the host:port told by /.well-known/matrix/server. Empty: 404.
	FederationAddress string
	// RateLimits slows down eager users and addresses. The zero value switches limits off.
	RateLimits RateLimits
	// MaxBodyBytes bounds the body of a request. Zero: DefaultMaxBodyBytes.
	MaxBodyBytes int64
	// ClientIP tells the address a request came from, for limits and session records.
	// Nil: the peer of the connection; set it when a trusted proxy stands in front.
	ClientIP func(*http.Request) string
	// Observe, when set, hears of every finished request. It is called concurrently.
	Observe func(Observation)
	// Log gets errors and, at debug level, one line per request. Nil: slog.Default().
	Log *slog.Logger
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
}

// Observation is one finished request. Route is the path of the route table, "" for an unknown
// path, so that it may serve as a metric label. Status is 499 when the client went away.
type Observation struct {
	Method, Route string
	Status        int
	Took          time.Duration
}

// DefaultMaxBodyBytes is the limit for request bodies of JSON endpoints. An event may have
// 64 KiB; uploads of keys for many devices are the largest legitimate bodies.
const DefaultMaxBodyBytes = 1 << 20

// Handler answers the client-server API. It is an http.Handler and safe for concurrent use.
type Handler struct {
	opts         Options
	server       *server.Server
	log          *slog.Logger
	now          func() time.Time
	limits       *limiter
	echo         *echo.Echo
	authenticate func(context.Context, server.Credentials) (server.Session, error)
	routes       []route
}

// New makes the handler with all routes of the table.
func New(opts Options) *Handler {
	h := newHandler(opts)
	if opts.Server != nil {
		h.authenticate = opts.Server.Accounts.Authenticate
	}
	h.mount(h.table())
	return h
}

// newHandler fills in defaults and makes a handler that has no routes yet.
func newHandler(opts Options) *Handler {
	if opts.MaxBodyBytes == 0 {
		opts.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.ClientIP == nil {
		opts.ClientIP = peerAddress
	}
	h := &Handler{
		opts: opts, server: opts.Server, log: opts.Log, now: opts.Now,
		limits: newLimiter(opts.RateLimits, opts.Now),
		echo:   echo.New(),
	}
	h.echo.HTTPErrorHandler = h.unrouted
	return h
}

// mount gives every route of the table, under all its paths, to the router.
func (h *Handler) mount(routes []route) {
	h.routes = routes
	for _, rt := range routes {
		serve := h.serve(rt)
		for _, path := range rt.paths() {
			h.echo.Add(rt.Method, path, serve)
			if rt.Method == http.MethodGet {
				h.echo.Add(http.MethodHead, path, serve)
			}
		}
	}
}

// ServeHTTP sets the CORS headers that every answer has, answers preflight requests and hands
// the rest to the router. Spec: client-server-api#web-browser-clients
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
	header.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization")
	if r.Method == http.MethodOptions {
		header.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.echo.ServeHTTP(w, r)
}

// peerAddress is the IP address at the other end of the connection.
func peerAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
