package clientapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"atoll/server"
	"atoll/spec"
)

// statusGone stands in logs and metrics for a request that was broken off, mostly because the
// client did not wait for the answer.
const statusGone = 499

type requestIDKey struct{}

// requestCount numbers the requests of this process; the number only serves to tell the log
// lines of one request from those of another.
var requestCount atomic.Uint64

// RequestID is the number of the request that ctx belongs to, "" outside of one.
func RequestID(ctx context.Context) string {
	n, ok := ctx.Value(requestIDKey{}).(uint64)
	if !ok {
		return ""
	}
	return "c" + strconv.FormatUint(n, 10)
}

// serve wraps the handler of a route with all that is common: path variables, authentication,
// rate limits, panics, the answer, the log line.
func (h *Handler) serve(rt route) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := h.now()
		ctx := context.WithValue(c.Request().Context(), requestIDKey{}, requestCount.Add(1))
		r := &request{http: c.Request(), writer: c.Response(), maxBody: h.opts.MaxBodyBytes}
		result, err := h.run(ctx, rt, c, r)
		status := h.finish(ctx, c.Response(), result, err, rt)
		took := h.now().Sub(began)
		if h.log.Enabled(ctx, slog.LevelDebug) {
			h.log.Debug("request", "req", RequestID(ctx), "method", rt.Method, "route", rt.Path, "status", status,
				"took", took, "user", r.session.User)
		}
		h.observe(rt.Method, rt.Path, status, took)
		return nil
	}
}

func (h *Handler) observe(method, route string, status int, took time.Duration) {
	if h.opts.Observe != nil {
		h.opts.Observe(Observation{Method: method, Route: route, Status: status, Took: took})
	}
}

// run goes through the steps before the handler, in the order that clients may rely on: is there
// such a path, who asks, how often, is the request well-formed.
func (h *Handler) run(ctx context.Context, rt route, c echo.Context, r *request) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			h.log.Error("panic in handler", "req", RequestID(ctx), "route", rt.Path, "panic", p, "stack", string(debug.Stack()))
			result, err = nil, &spec.Error{Code: spec.CodeUnknown, Msg: "internal error"}
		}
	}()
	params, err := pathParams(c)
	if err != nil {
		return nil, err
	}
	r.params = params
	r.ip = h.opts.ClientIP(r.http)
	if err := h.identify(ctx, rt, r); err != nil {
		return nil, err
	}
	if err := h.allow(rt, r); err != nil {
		return nil, err
	}
	if err := r.checkText(); err != nil {
		return nil, err
	}
	return rt.Handle(ctx, r)
}

// pathParams takes the path variables, percent-decoded exactly once. The router matches the
// undecoded path when it differs from the plain one (then a variable may hold %2F), else the
// decoded path, whose variables must not be decoded again.
func pathParams(c echo.Context) (map[string]string, error) {
	names := c.ParamNames()
	if len(names) == 0 {
		return nil, nil
	}
	encoded := c.Request().URL.RawPath != ""
	params := make(map[string]string, len(names))
	for i, value := range c.ParamValues()[:len(names)] {
		// The router lets a variable be empty, and the last one hold slashes. Either is another
		// path than this one. (What was %2F is not decoded yet here.)
		if value == "" || strings.Contains(value, "/") {
			return nil, unrecognized()
		}
		if encoded {
			plain, err := url.PathUnescape(value)
			if err != nil {
				return nil, spec.Errorf(spec.CodeInvalidParam, err, "malformed percent-encoding in the path")
			}
			value = plain
		}
		params[names[i]] = value
	}
	return params, nil
}

// identify finds the session of the request, as far as the route wants one.
// Spec: client-server-api#using-access-tokens
func (h *Handler) identify(ctx context.Context, rt route, r *request) error {
	if rt.Auth == anyone {
		return nil
	}
	token := accessToken(r.http)
	if token == "" {
		if rt.Auth == maybeUser {
			return nil
		}
		return &spec.Error{Code: spec.CodeMissingToken, Msg: "this endpoint needs an access token"}
	}
	session, err := h.authenticate(ctx, server.Credentials{
		Token: server.Secret(token), AllowLocked: rt.Auth == lockedToken,
		IP: r.ip, UserAgent: r.http.UserAgent(),
	})
	if err != nil {
		return err
	}
	if session.Guest && rt.Auth != guestToken && rt.Auth != lockedToken && rt.Auth != activeGuest && rt.Auth != maybeUser {
		return &spec.Error{Code: spec.CodeGuestAccessForbidden, Msg: "guests may not do this"}
	}
	if rt.Auth == activeToken || rt.Auth == activeGuest {
		if err := session.CheckNotSuspended(); err != nil {
			return err
		}
	}
	r.session = session
	return nil
}

// accessToken takes the token from the header or, as old clients send it, from the query.
// Spec: client-server-api#using-access-tokens
func accessToken(r *http.Request) string {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return ""
		}
		return strings.TrimSpace(token)
	}
	if !strings.Contains(r.URL.RawQuery, "access_token") {
		return ""
	}
	return r.URL.Query().Get("access_token")
}

// allow counts the request against its rate limit.
// Spec: client-server-api#rate-limiting
func (h *Handler) allow(rt route, r *request) error {
	key := string(r.session.User)
	if key == "" || rt.Limit == limitLogin {
		key = r.ip
	}
	wait := h.limits.take(rt.Limit, key)
	if wait == 0 {
		return nil
	}
	return &spec.Error{Code: spec.CodeLimitExceeded, Msg: "too many requests", RetryAfter: wait}
}

// finish writes the answer and returns the status for the log.
func (h *Handler) finish(ctx context.Context, w *echo.Response, result any, err error, rt route) int {
	if err != nil && errors.Is(err, context.Canceled) && ctx.Err() != nil {
		// Either the client has gone, and then nobody reads this, or the server is stopping.
		if !w.Committed {
			writeError(w, &spec.Error{Code: spec.CodeUnknown, Status: http.StatusServiceUnavailable, Msg: "the server is stopping", RetryAfter: time.Second})
		}
		return statusGone
	}
	if err == nil {
		err = writeReply(w, result)
		if err == nil {
			return w.Status
		}
		if ctx.Err() != nil {
			return statusGone
		}
		err = fmt.Errorf("write the answer: %w", err)
	}
	failure := h.publicError(ctx, err, rt)
	if w.Committed {
		// The status has gone out. Breaking the connection is all that can still tell the
		// client that the body is not whole.
		panic(http.ErrAbortHandler)
	}
	writeError(w, failure)
	return w.Status
}

// publicError turns any error into the one that the client sees, and logs what only we may see.
func (h *Handler) publicError(ctx context.Context, err error, rt route) *spec.Error {
	var known *spec.Error
	if errors.As(err, &known) {
		if known.HTTPStatus() < 500 {
			if known.Err != nil {
				h.log.Debug("request refused", "req", RequestID(ctx), "route", rt.Path, "code", known.Code, "cause", known.Err)
			}
			return known
		}
	} else {
		known = &spec.Error{Code: spec.CodeUnknown, Msg: "internal error"}
	}
	h.log.Error("request failed", "req", RequestID(ctx), "route", rt.Path, "err", err)
	return known
}

// unrouted answers requests that match no route: 404 for an unknown path, 405 for a known path
// with another method. Spec: client-server-api#common-error-codes
func (h *Handler) unrouted(err error, c echo.Context) {
	failure := unrecognized()
	var http4xx *echo.HTTPError
	if errors.As(err, &http4xx) && http4xx.Code == http.StatusMethodNotAllowed {
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

// checkText refuses bytes in the path and query that are no text: they cannot be part of any
// identifier, and PostgreSQL stores neither.
func (r *request) checkText() error {
	for name, value := range r.params {
		if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
			return spec.Errorf(spec.CodeInvalidParam, nil, "%s in the path is not valid text", name)
		}
	}
	if r.http.URL.RawQuery == "" {
		return nil
	}
	r.query = r.http.URL.Query()
	for name, values := range r.query {
		for _, value := range values {
			if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
				return spec.Errorf(spec.CodeInvalidParam, nil, "query parameter %q is not valid text", name)
			}
		}
	}
	return nil
}
