package server

import (
	"container/list"
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"atoll/spec"
)

// Stages of user-interactive authentication that this server knows.
//
// Spec: client-server-api#authentication-types
const (
	StageDummy             = "m.login.dummy"
	StagePassword          = "m.login.password"
	StageRegistrationToken = "m.login.registration_token"
)

const (
	// uiaLifetime is how long a client may take to go through the stages.
	uiaLifetime = 15 * time.Minute
	// uiaSessions bounds the sessions in memory; the oldest go first.
	uiaSessions = 10_000
)

// UIARequest is one attempt at an operation that needs user-interactive
// authentication.
type UIARequest struct {
	// Operation names what is to be done, with everything in it that must not
	// change between the first request and the last, such as the ids of the
	// devices to be deleted.
	Operation string
	// User is whose token is on the request; empty for registration.
	User spec.UserID
	// Flows are the ways to authenticate, each a list of stages in order.
	Flows [][]string
	// Params is what clients need to know of stages, by stage; may be nil.
	Params map[string]any
	// Auth is the request's auth member; nil if it had none.
	Auth *UIAAuth
}

// UIAAuth is the auth member of a request. Members of stages that are not
// offered are ignored.
type UIAAuth struct {
	Type       string     `json:"type"`
	Session    string     `json:"session"`
	Identifier Identifier `json:"identifier"`
	// User is the older form of the identifier.
	User     string `json:"user"`
	Password Secret `json:"password"`
	Token    Secret `json:"token"`
}

// Identifier says whose password it is. Type m.id.user is the only one that
// can succeed here.
//
// Spec: client-server-api#identifier-types
type Identifier struct {
	Type string `json:"type"`
	// User is a full user id or its localpart.
	User string `json:"user"`
}

// UIAGrant is a completed authentication.
type UIAGrant struct {
	// Session is what UIA.Finish takes after the operation succeeded.
	Session string
	// RegistrationToken is the token of that stage, if the flow had it.
	RegistrationToken Secret
}

// stageChecker judges the stages that need more than memory.
type stageChecker interface {
	// checkPassword tells whether the password is that of the named account,
	// and returns whose it is.
	checkPassword(ctx context.Context, name string, password Secret) (spec.UserID, bool, error)
	// checkRegistrationToken tells whether the token would be taken now.
	checkRegistrationToken(ctx context.Context, token Secret) (bool, error)
}

// UIA keeps the sessions of user-interactive authentication, in memory: a
// restart makes clients begin again. It is safe for concurrent use.
//
// Spec: client-server-api#user-interactive-authentication-api
type UIA struct {
	check stageChecker
	now   func() time.Time

	mu       sync.Mutex               // mu guards what follows
	sessions map[string]*list.Element // of *uiaSession
	byAge    *list.List               // oldest first
}

type uiaSession struct {
	id, operation string
	user          spec.UserID
	expires       time.Time
	completed     []string
	token         Secret
}

func newUIA(check stageChecker, now func() time.Time) *UIA {
	return &UIA{check: check, now: now, sessions: make(map[string]*list.Element), byAge: list.New()}
}

// Authorize lets an operation pass whose stages are all done. Otherwise it
// returns the 401 error whose Fields hold flows, params, session and, if there
// are any, the completed stages; its Code is empty unless a stage was tried in
// vain, and then the body of the answer has no errcode.
// A session that belongs to another operation or user is M_FORBIDDEN.
func (u *UIA) Authorize(ctx context.Context, r UIARequest) (UIAGrant, error) {
	if r.Auth == nil || (r.Auth.Type == "" && r.Auth.Session == "") {
		return UIAGrant{}, r.unauthorized(u.begin(r), nil)
	}
	// A client that knows the flow may send its first stage without a session.
	id := r.Auth.Session
	if id == "" {
		id = u.begin(r).id
	}
	session, ok := u.session(id)
	if !ok {
		return UIAGrant{}, r.unauthorized(u.begin(r), spec.Errorf(spec.CodeUnknown, nil, "this authentication session is unknown or too old"))
	}
	if session.operation != r.Operation || session.user != r.User {
		return UIAGrant{}, spec.Errorf(spec.CodeForbidden, nil, "this authentication session was begun for something else")
	}
	if stage := r.Auth.Type; stage != "" && !slices.Contains(session.completed, stage) && r.next(session.completed, stage) {
		if err := u.try(ctx, r, &session); err != nil {
			return UIAGrant{}, err
		}
	}
	if !r.complete(session.completed) {
		return UIAGrant{}, r.unauthorized(session, nil)
	}
	return UIAGrant{Session: session.id, RegistrationToken: session.token}, nil
}

// Finish forgets a session whose operation was carried out, so that it cannot
// be carried out again. An empty or unknown session is fine.
func (u *UIA) Finish(session string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e, ok := u.sessions[session]; ok {
		u.dropLocked(e)
	}
}

// try judges one stage and records it in the session if it succeeded.
func (u *UIA) try(ctx context.Context, r UIARequest, session *uiaSession) error {
	token := session.token
	switch r.Auth.Type {
	case StageDummy:
	case StagePassword:
		user, ok, err := u.check.checkPassword(ctx, userName(r.Auth.Identifier, r.Auth.User), r.Auth.Password)
		switch {
		case err != nil:
			return err
		case !ok:
			return r.unauthorized(*session, spec.Errorf(spec.CodeForbidden, nil, "wrong user name or password"))
		case r.User != "" && user != r.User:
			return spec.Errorf(spec.CodeForbidden, nil, "that is another user's password")
		}
	case StageRegistrationToken:
		ok, err := u.check.checkRegistrationToken(ctx, r.Auth.Token)
		switch {
		case err != nil:
			return err
		case !ok:
			return r.unauthorized(*session, spec.Errorf(spec.CodeForbidden, nil, "this registration token is not valid"))
		}
		token = r.Auth.Token
	default: // offered by the caller, but done outside of this request
		return r.unauthorized(*session, nil)
	}
	session.completed, session.token = append(slices.Clone(session.completed), r.Auth.Type), token
	u.mu.Lock()
	defer u.mu.Unlock()
	if e, ok := u.sessions[session.id]; ok {
		stored := *session
		e.Value = &stored
	}
	return nil
}

// begin opens a session and makes room for it.
func (u *UIA) begin(r UIARequest) uiaSession {
	s := uiaSession{id: rand.Text(), operation: r.Operation, user: r.User, expires: u.now().Add(uiaLifetime)}
	u.mu.Lock()
	defer u.mu.Unlock()
	for e := u.byAge.Front(); e != nil && (u.byAge.Len() >= uiaSessions || !u.now().Before(e.Value.(*uiaSession).expires)); e = u.byAge.Front() {
		u.dropLocked(e)
	}
	stored := s
	u.sessions[s.id] = u.byAge.PushBack(&stored)
	return s
}

// session returns a copy of a session that has not expired.
func (u *UIA) session(id string) (uiaSession, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	e, ok := u.sessions[id]
	if !ok || !u.now().Before(e.Value.(*uiaSession).expires) {
		return uiaSession{}, false
	}
	return *e.Value.(*uiaSession), true
}

func (u *UIA) dropLocked(e *list.Element) {
	delete(u.sessions, u.byAge.Remove(e).(*uiaSession).id)
}

// next tells whether some flow goes on from the completed stages with stage.
func (r UIARequest) next(completed []string, stage string) bool {
	return slices.ContainsFunc(r.Flows, func(flow []string) bool {
		n := len(completed)
		return len(flow) > n && slices.Equal(flow[:n], completed) && flow[n] == stage
	})
}

// complete tells whether the stages are all of some flow.
func (r UIARequest) complete(completed []string) bool {
	return slices.ContainsFunc(r.Flows, func(flow []string) bool { return slices.Equal(flow, completed) })
}

// unauthorized is the answer that asks for (more) authentication. reason is
// nil unless a stage failed.
func (r UIARequest) unauthorized(s uiaSession, reason *spec.Error) *spec.Error {
	answer := &spec.Error{Status: 401}
	if reason != nil {
		answer.Code, answer.Msg = reason.Code, reason.Msg
	}
	type flow struct {
		Stages []string `json:"stages"`
	}
	flows := make([]flow, len(r.Flows))
	for i, stages := range r.Flows {
		flows[i].Stages = stages
	}
	params := r.Params
	if params == nil {
		params = map[string]any{}
	}
	answer.Fields = map[string]any{"flows": flows, "params": params, "session": s.id}
	if len(s.completed) > 0 || reason != nil {
		answer.Fields["completed"] = append([]string{}, s.completed...)
	}
	return answer
}

// userName returns the account that an identifier, or failing that the older
// user member, names; empty for identifiers of kinds that nobody has here.
func userName(id Identifier, legacy string) string {
	switch id.Type {
	case identifierUser:
		return id.User
	case "":
		return legacy
	}
	return ""
}
