package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
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
	StageTerms             = "m.login.terms"
	// StageJWT is for accounts that log in so and have no password. No
	// specification covers it.
	StageJWT = LoginJWT
)

const (
	// uiaLifetime is how long a client may take to go through the stages.
	uiaLifetime = 15 * time.Minute
	// uiaSessions bounds the sessions whose progress is in memory.
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
	// checkJWT tells whether a JSON web token is good, and returns whose it is.
	checkJWT(ctx context.Context, token Secret) (spec.UserID, bool, error)
}

// UIA does user-interactive authentication. A session's id says itself what the
// session is for and until when, so that beginning one takes no memory and
// outlives a restart. What is kept is the stages that are done: in memory, and
// in the store while there are more to come. It is safe for concurrent use.
//
// Spec: client-server-api#user-interactive-authentication-api
type UIA struct {
	check  stageChecker
	store  progressStore
	secret []byte // authenticates the ids of sessions
	now    func() time.Time

	mu   sync.Mutex // mu guards done
	done *recent[string, uiaProgress]
}

// progressStore keeps the stages that are done of sessions that need more.
type progressStore interface {
	loadProgress(ctx context.Context, session string) (uiaProgress, error)
	saveProgress(ctx context.Context, session uiaSession) error
	dropProgress(ctx context.Context, session string) error
}

// uiaProgress is how far a session has come.
type uiaProgress struct {
	completed []string
	token     Secret // the registration token of that stage
	stored    bool   // the store has it
	spent     bool   // the operation was carried out
}

// uiaSession is a session whose id is in order.
type uiaSession struct {
	id      string
	expires time.Time
	uiaProgress
}

// newUIA makes a UIA. The key must be the same after a restart, and secret.
func newUIA(check stageChecker, store progressStore, key []byte, now func() time.Time) *UIA {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("sessions of user-interactive authentication"))
	return &UIA{
		check: check, store: store, secret: mac.Sum(nil), now: now,
		done: newRecent[string, uiaProgress](uiaSessions),
	}
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
	session := u.begin(r)
	if r.Auth.Session != "" {
		given, err := u.resume(ctx, r)
		if err != nil {
			return UIAGrant{}, err
		}
		if given.id == "" {
			return UIAGrant{}, r.unauthorized(session, spec.Errorf(spec.CodeUnknown, nil, "this authentication session is unknown or too old"))
		}
		session = given
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

// Finish ends a session whose operation was carried out, so that it cannot be
// carried out again: not without going through the stages again after a restart,
// not at all before. An empty or unknown session is fine.
func (u *UIA) Finish(ctx context.Context, session string) error {
	u.mu.Lock()
	progress, _ := u.done.get(session)
	u.done.put(session, uiaProgress{spent: true})
	u.mu.Unlock()
	if !progress.stored {
		return nil
	}
	return u.store.dropProgress(ctx, session)
}

// try judges one stage and records it in the session if it succeeded.
func (u *UIA) try(ctx context.Context, r UIARequest, session *uiaSession) error {
	token := session.token
	switch r.Auth.Type {
	case StageDummy, StageTerms:
	case StagePassword, StageJWT:
		user, ok, err := u.checkUser(ctx, r.Auth)
		switch {
		case err != nil:
			return err
		case !ok && r.Auth.Type == StagePassword:
			return r.unauthorized(*session, spec.Errorf(spec.CodeForbidden, nil, "wrong user name or password"))
		case !ok:
			return r.unauthorized(*session, spec.Errorf(spec.CodeForbidden, nil, "the token is not valid"))
		case r.User != "" && user != r.User:
			return spec.Errorf(spec.CodeForbidden, nil, "that is another user's account")
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
	if !r.complete(session.completed) {
		session.stored = true
		if err := u.store.saveProgress(ctx, *session); err != nil {
			return err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done.put(session.id, session.uiaProgress)
	return nil
}

// checkUser judges a stage that proves who somebody is.
func (u *UIA) checkUser(ctx context.Context, auth *UIAAuth) (spec.UserID, bool, error) {
	if auth.Type == StageJWT {
		return u.check.checkJWT(ctx, auth.Token)
	}
	return u.check.checkPassword(ctx, userName(auth.Identifier, auth.User), auth.Password)
}

// The parts of a session's id, in bytes: a nonce, the end in ms, what it is for,
// and the seal over all of that.
const (
	uiaNonce   = 12
	uiaPurpose = 12
	uiaSeal    = 16
	uiaBody    = uiaNonce + 8 + uiaPurpose
)

// purpose is what tells the operation of one user from all others.
func (r UIARequest) purpose() []byte {
	sum := sha256.Sum256([]byte(string(r.User) + "\x00" + r.Operation))
	return sum[:uiaPurpose]
}

func (u *UIA) seal(body []byte) []byte {
	mac := hmac.New(sha256.New, u.secret)
	mac.Write(body)
	return mac.Sum(nil)[:uiaSeal]
}

// begin opens a session.
func (u *UIA) begin(r UIARequest) uiaSession {
	expires := u.now().Add(uiaLifetime)
	body := binary.BigEndian.AppendUint64(randomBytes(uiaNonce), uint64(expires.UnixMilli()))
	body = append(body, r.purpose()...)
	return uiaSession{id: base64.RawURLEncoding.EncodeToString(append(body, u.seal(body)...)), expires: expires}
}

// resume finds the session that a request names: none if there is no such, or if
// it has expired; M_FORBIDDEN if it is for something else.
func (u *UIA) resume(ctx context.Context, r UIARequest) (uiaSession, error) {
	id := r.Auth.Session
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(raw) != uiaBody+uiaSeal || !hmac.Equal(raw[uiaBody:], u.seal(raw[:uiaBody])) {
		return uiaSession{}, nil
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(raw[uiaNonce:])))
	if !u.now().Before(expires) {
		return uiaSession{}, nil
	}
	if !bytes.Equal(raw[uiaNonce+8:uiaBody], r.purpose()) {
		return uiaSession{}, spec.Errorf(spec.CodeForbidden, nil, "this authentication session was begun for something else")
	}
	u.mu.Lock()
	progress, ok := u.done.get(id)
	u.mu.Unlock()
	if !ok {
		if progress, err = u.store.loadProgress(ctx, id); err != nil {
			return uiaSession{}, err
		}
	}
	if progress.spent {
		return uiaSession{}, nil
	}
	return uiaSession{id: id, expires: expires, uiaProgress: progress}, nil
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
