package clientapi

import (
	"context"
	"strings"
)

// auth says who may call a route.
type auth uint8

const (
	anyone    auth = iota // no token is looked at
	maybeUser             // a token is checked when there is one
	userToken             // a session of a user
	// guestToken is userToken, open to guests as well.
	// Spec: client-server-api#guest-access
	guestToken
	// activeToken is userToken, closed to suspended accounts, and activeGuest is that for
	// guests as well. Spec: client-server-api#account-suspension
	activeToken
	activeGuest
	// lockedToken is guestToken that also works while the account is locked, so that one can
	// log out. Spec: client-server-api#account-locking
	lockedToken
)

func (a auth) String() string {
	return [...]string{"anyone", "maybeUser", "userToken", "guestToken", "activeToken", "activeGuest", "lockedToken"}[a]
}

// limitClass says which rate limit a route counts against.
type limitClass uint8

const (
	limitNone  limitClass = iota // never limited: version documents, logout, long polls
	limitRead                    // cheap questions
	limitLight                   // small writes: typing, account data, filters
	limitSend                    // events
	limitHeavy                   // making and joining rooms, inviting
	limitLogin                   // guesses at secrets; always counted by address
	limitClasses
)

func (l limitClass) String() string {
	return [...]string{"none", "read", "light", "send", "heavy", "login"}[l]
}

// handlerFunc answers one request. The result is marshalled as JSON, nil as {}; see writeReply
// for types that are written as they are. Errors meant for the client are *spec.Error.
type handlerFunc func(ctx context.Context, r *request) (any, error)

// route is one line of the table. Path is as in the specification, variables in braces.
type route struct {
	Method, Path string
	Auth         auth
	Limit        limitClass
	Handle       handlerFunc
}

// paths lists the router patterns under which the route is served: the path itself; where it ends
// in a state key, the path with that left out, with and without the slash, for the empty key; and
// for version 3 of the client API, its r0 ancestors that old clients still ask for.
// Spec: client-server-api#api-versions
func (rt route) paths() []string {
	pattern := strings.NewReplacer("{", ":", "}", "").Replace(rt.Path)
	list := []string{pattern}
	if stem, ok := strings.CutSuffix(pattern, "/:stateKey"); ok {
		list = append(list, stem, stem+"/")
	}
	for _, path := range list {
		if rest, ok := strings.CutPrefix(path, "/_matrix/client/v3/"); ok {
			list = append(list, "/_matrix/client/r0/"+rest)
		}
	}
	return list
}

// Route describes one served endpoint to tools that document the API.
type Route struct {
	Method, Path string
	Auth, Limit  string
}

// Routes lists the endpoints of the handler in the order of the table, without aliases.
func (h *Handler) Routes() []Route {
	list := make([]Route, 0, len(h.routes))
	for _, rt := range h.routes {
		list = append(list, Route{rt.Method, rt.Path, rt.Auth.String(), rt.Limit.String()})
	}
	return list
}
