package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"atoll/server"
	"atoll/spec"
)

// HandlerOptions is what NewHandler needs.
type HandlerOptions struct {
	Server *server.Server
	// Authenticate tells which server made a request, whose body has been read:
	// (*Client).Authenticate outside of tests.
	Authenticate func(ctx context.Context, r *http.Request, body []byte) (spec.ServerName, error)
	// Keys are this server's own; Notary answers for those of others.
	Keys   *PublishedKeys
	Notary *Notary
	// Version is what this server says about itself.
	Version string
	// HeardFrom, when set, is told of every request that a server has signed: it
	// is up. It must not wait.
	HeardFrom func(spec.ServerName)
	// Observe, when set, hears of every finished request. It is called
	// concurrently. Route is as in the route table, "" for an unknown path; Status
	// is 499 when the asker went away.
	Observe func(method, route string, status int, took time.Duration)
	// Log may be nil for silence, Now for the clock.
	Log *slog.Logger
	Now func() time.Time
}

const (
	// maxBody bounds the body of an ordinary request: an event with some state.
	maxBody = 1 << 20
	// maxTransactionBody bounds that of a transaction: all its PDUs at their
	// largest, and as much again for EDUs.
	maxTransactionBody = 2 * server.MaxTransactionPDUs * spec.MaxEventSize
	// statusGone stands for a request whose asker did not wait for the answer.
	statusGone = 499
)

// Handler answers the server-server API. It is an http.Handler and safe for
// concurrent use.
type Handler struct {
	opts   HandlerOptions
	server *server.Server
	rooms  *server.Rooms
	log    *slog.Logger
	now    func() time.Time
	echo   *echo.Echo
	routes []route
	count  atomic.Uint64 // of requests, to tell their log lines apart
}

// NewHandler makes the handler with all routes of the table.
func NewHandler(o HandlerOptions) *Handler {
	h := &Handler{opts: o, server: o.Server, log: o.Log, now: o.Now, echo: echo.New()}
	if o.Server != nil {
		h.rooms = o.Server.Rooms
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.now == nil {
		h.now = time.Now
	}
	h.echo.HTTPErrorHandler = h.unrouted
	h.routes = h.table()
	for _, rt := range h.routes {
		serve := h.serve(rt)
		path := strings.NewReplacer("{", ":", "}", "").Replace(rt.Path)
		h.echo.Add(rt.Method, path, serve)
		if rt.Method == http.MethodGet {
			h.echo.Add(http.MethodHead, path, serve)
		}
	}
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.echo.ServeHTTP(w, r) }

// route is one line of the table. Path is as in the specification.
type route struct {
	Method, Path string
	// Open: nobody needs to say who asks.
	Open    bool
	MaxBody int64 // bytes; 0: the usual
	Handle  handlerFunc
}

// handlerFunc answers one request. See writeReply for what the result may be;
// errors meant for the asker are *spec.Error.
type handlerFunc func(ctx context.Context, r *request) (any, error)

// Route describes one served endpoint to tools that document the API.
type Route struct {
	Method, Path string
	Open         bool
}

// Routes lists the endpoints of the handler in the order of the table.
func (h *Handler) Routes() []Route {
	list := make([]Route, 0, len(h.routes))
	for _, rt := range h.routes {
		list = append(list, Route{rt.Method, rt.Path, rt.Open})
	}
	return list
}

// request is what a handler sees. It belongs to one goroutine.
type request struct {
	http   *http.Request
	writer http.ResponseWriter // lets net/http close the connection after too large a body
	origin spec.ServerName     // "" on open routes
	params map[string]string
	query  url.Values
	body   []byte
}

// serve wraps the handler of a route with all that is common.
func (h *Handler) serve(rt route) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := h.now()
		id := h.count.Add(1)
		r := &request{http: c.Request(), writer: c.Response()}
		ctx := r.http.Context()
		result, err := h.run(ctx, rt, c, r)
		status := h.finish(ctx, c.Response(), result, err, rt, r.origin)
		took := h.now().Sub(began)
		h.log.Debug("request", "req", id, "method", rt.Method, "route", rt.Path, "origin", r.origin, "status", status, "took", took)
		h.observe(rt.Method, rt.Path, status, took)
		return nil
	}
}

func (h *Handler) observe(method, route string, status int, took time.Duration) {
	if h.opts.Observe != nil {
		h.opts.Observe(method, route, status, took)
	}
}

// run goes through the steps before the handler, in this order: is there such a
// path, who asks, is the request well-formed.
func (h *Handler) run(ctx context.Context, rt route, c echo.Context, r *request) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			result, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if r.params, err = pathParams(c); err != nil {
		return nil, err
	}
	if !rt.Open {
		if err := h.identify(ctx, rt, r); err != nil {
			return nil, err
		}
	}
	if r.query, err = cleanQuery(r); err != nil {
		return nil, err
	}
	return rt.Handle(ctx, r)
}

// identify reads the body and finds out who signed the request.
// Spec: server-server-api#request-authentication
func (h *Handler) identify(ctx context.Context, rt route, r *request) (err error) {
	if r.http.Header.Get("Authorization") == "" { // not worth reading its body
		return spec.Errorf(spec.CodeUnauthorized, nil, "the request has no X-Matrix authorization")
	}
	limit := rt.MaxBody
	if limit == 0 {
		limit = maxBody
	}
	if r.body, err = readBody(ctx, r, limit); err != nil {
		return err
	}
	signed := r.body
	if len(signed) == 0 {
		signed = nil // Spec: content is left out where there is no body
	} else if !jsontext.Value(signed).IsValid(lenient) { // nothing that could be signed
		return spec.Errorf(spec.CodeNotJSON, nil, "the body is not valid JSON")
	}
	if r.origin, err = h.opts.Authenticate(ctx, r.http, signed); err != nil {
		return err
	}
	if h.opts.HeardFrom != nil {
		h.opts.HeardFrom(r.origin)
	}
	return nil
}

func readBody(ctx context.Context, r *request, limit int64) ([]byte, error) {
	tooLarge := spec.Errorf(spec.CodeTooLarge, nil, "the body has more than %d bytes", limit)
	if r.http.ContentLength > limit {
		return nil, tooLarge
	}
	raw, err := io.ReadAll(http.MaxBytesReader(r.writer, r.http.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, spec.Errorf(spec.CodeNotJSON, err, "the body could not be read")
	}
	return raw, nil
}

// pathParams takes the path variables, percent-decoded exactly once. The router
// matches the undecoded path where it differs from the plain one (then a
// variable may hold %2F), else the decoded path, whose variables must not be
// decoded again.
func pathParams(c echo.Context) (map[string]string, error) {
	names := c.ParamNames()
	encoded := c.Request().URL.RawPath != ""
	params := make(map[string]string, len(names))
	for i, value := range c.ParamValues()[:len(names)] {
		if value == "" || strings.Contains(value, "/") {
			return nil, unrecognized() // the router lets both pass, but they are other paths
		}
		if encoded {
			plain, err := url.PathUnescape(value)
			if err != nil {
				return nil, spec.Errorf(spec.CodeInvalidParam, err, "malformed percent-encoding in the path")
			}
			value = plain
		}
		if !cleanText(value) {
			return nil, spec.Errorf(spec.CodeInvalidParam, nil, "%s in the path is not valid text", names[i])
		}
		params[names[i]] = value
	}
	return params, nil
}

func cleanQuery(r *request) (url.Values, error) {
	query, err := url.ParseQuery(r.http.URL.RawQuery)
	if err != nil {
		return nil, spec.Errorf(spec.CodeInvalidParam, err, "malformed query")
	}
	for name, values := range query {
		for _, value := range values {
			if !cleanText(value) {
				return nil, spec.Errorf(spec.CodeInvalidParam, nil, "query parameter %q is not valid text", name)
			}
		}
	}
	return query, nil
}

// cleanText refuses bytes that no identifier has and PostgreSQL does not store.
func cleanText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// finish writes the answer and returns the status for the log.
func (h *Handler) finish(ctx context.Context, w *echo.Response, result any, err error, rt route, origin spec.ServerName) int {
	if err == nil {
		err = writeReply(ctx, w, result)
	}
	if err == nil {
		return w.Status
	}
	if ctx.Err() != nil {
		if w.Committed {
			panic(http.ErrAbortHandler)
		}
		return statusGone
	}
	failure := h.publicError(err, rt, origin)
	if w.Committed {
		// The status has gone out. Breaking the connection is all that can still
		// tell the asker that the body is not whole.
		panic(http.ErrAbortHandler)
	}
	writeError(w, failure)
	return w.Status
}

// publicError turns any error into the one that the asker sees, and logs what
// only we may see.
func (h *Handler) publicError(err error, rt route, origin spec.ServerName) *spec.Error {
	var known *spec.Error
	if errors.As(err, &known) {
		if known.HTTPStatus() < 500 {
			h.log.Debug("request refused", "route", rt.Path, "origin", origin, "code", known.Code, "msg", known.Msg, "cause", known.Err)
			return known
		}
	} else {
		known = &spec.Error{Code: spec.CodeUnknown, Msg: "internal error"}
	}
	h.log.Error("request failed", "route", rt.Path, "origin", origin, "err", err)
	return known
}

// unrouted answers requests that match no route: 404 for an unknown path, 405
// for a known path with another method.
// Spec: server-server-api#unsupported-endpoints
func (h *Handler) unrouted(err error, c echo.Context) {
	failure := unrecognized()
	var status *echo.HTTPError
	if errors.As(err, &status) && status.Code == http.StatusMethodNotAllowed {
		failure.Status = http.StatusMethodNotAllowed
		failure.Msg = "this endpoint does not know the method"
	}
	if c.Response().Committed {
		return
	}
	writeError(c.Response(), failure)
	h.observe(c.Request().Method, "", failure.Status, 0)
}

func unrecognized() *spec.Error {
	return &spec.Error{Code: spec.CodeUnrecognized, Status: http.StatusNotFound, Msg: "unknown endpoint"}
}
