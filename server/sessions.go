package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"atoll/spec"
	"atoll/storage"
)

// Session is whose token is on a request.
type Session struct {
	User spec.UserID
	// Device is the device that the token belongs to.
	Device string
	Guest  bool
	Admin  bool
	// Suspended users may read, leave and little else; see CheckNotSuspended.
	Suspended bool

	locked  bool
	unused  bool  // it replaces another session once it is used
	expires int64 // ms since the epoch, 0: never
}

// CheckNotSuspended returns M_USER_SUSPENDED for suspended users. Operations
// that they may not do call it first.
// Spec: client-server-api#account-suspension
func (s Session) CheckNotSuspended() error {
	if s.Suspended {
		return spec.Errorf(spec.CodeUserSuspended, nil, "this account is suspended")
	}
	return nil
}

// Credentials are what a request brings to say who it is from.
type Credentials struct {
	// Token is the access token; empty if the request has none.
	Token Secret
	// AllowLocked lets locked accounts pass. Only logging out does.
	AllowLocked bool
	// IP and UserAgent are remembered as the device's last.
	IP, UserAgent string
}

// tokenHash is what is kept of a token.
type tokenHash [sha256.Size]byte

func hashToken(t Secret) tokenHash { return sha256.Sum256([]byte(t)) }

// newToken returns an access token: 260 random bits.
func newToken() Secret { return Secret("at_" + rand.Text() + rand.Text()) }

// newDeviceID returns an id for a device whose client did not choose one.
func newDeviceID() string { return rand.Text()[:10] }

// Authenticate tells whose token it is. The errors are M_MISSING_TOKEN,
// M_UNKNOWN_TOKEN, with soft_logout if the token has merely expired, and
// M_USER_LOCKED.
//
// Spec: client-server-api#using-access-tokens, #soft-logout, #account-locking
func (a *Accounts) Authenticate(ctx context.Context, c Credentials) (Session, error) {
	if c.Token == "" {
		return Session{}, spec.Errorf(spec.CodeMissingToken, nil, "an access token is needed")
	}
	hash := hashToken(c.Token)
	session, err := a.lookUp(ctx, hash)
	if errors.Is(err, storage.ErrNotFound) {
		return Session{}, errUnknownToken()
	}
	if err != nil {
		return Session{}, fmt.Errorf("look up a session: %w", err)
	}
	if session.expires != 0 && a.ms() >= session.expires {
		e := spec.Errorf(spec.CodeUnknownToken, nil, "this access token has expired")
		e.Fields = map[string]any{"soft_logout": true}
		return Session{}, e
	}
	if session.locked && !c.AllowLocked {
		return Session{}, errLocked()
	}
	if session.unused {
		if err := a.settle(ctx, session, hash); errors.Is(err, storage.ErrNotFound) {
			return Session{}, errUnknownToken()
		} else if err != nil {
			return Session{}, err
		}
	}
	a.seen.note(storage.DeviceSeen{User: session.User, Device: session.Device, At: a.ms(), IP: clip(c.IP), UserAgent: clip(c.UserAgent)})
	return session, nil
}

func errUnknownToken() error {
	return spec.Errorf(spec.CodeUnknownToken, nil, "this access token is not known")
}

func errLocked() *spec.Error {
	e := spec.Errorf(spec.CodeUserLocked, nil, "this account is locked")
	e.Fields = map[string]any{"soft_logout": true}
	return e
}

func (a *Accounts) lookUp(ctx context.Context, hash tokenHash) (Session, error) {
	if s, ok := a.sessions.get(hash); ok {
		return s, nil
	}
	since := a.sessions.generation()
	var row storage.SessionRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.Session(hash[:])
		return err
	})
	if err != nil {
		return Session{}, err
	}
	s := Session{
		User: row.User, Device: row.Device, expires: row.Expires,
		Guest: row.Account.Guest, Admin: row.Account.Admin, Suspended: row.Account.Suspended, locked: row.Account.Locked,
		unused: row.ReplacesHash != nil,
	}
	if !s.unused {
		a.sessions.put(hash, s, since)
	}
	return s, nil
}

// revoke makes a change after which what is remembered of a user's sessions may
// be wrong. It drops that here before it returns and leaves an entry in the log
// that makes all other nodes drop it. change returns further entries.
func (a *Accounts) revoke(ctx context.Context, user spec.UserID, change func(*storage.Tx) ([]storage.LogEntry, error)) error {
	err := a.write(ctx, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		entries, err := change(tx)
		return append(entries, storage.LogEntry{Kind: storage.LogSession, User: user}), err
	})
	// Also after an error: whether the commit came about may be unknown.
	a.sessions.drop(user)
	return err
}

// Logout ends the session's device. Spec: client-server-api#post_matrixclientv3logout
func (a *Accounts) Logout(ctx context.Context, s Session) error {
	return a.DeleteDevices(ctx, s.User, []string{s.Device})
}

// LogoutAll ends all of a user's devices.
// Spec: client-server-api#post_matrixclientv3logoutall
func (a *Accounts) LogoutAll(ctx context.Context, user spec.UserID) error {
	err := a.revoke(ctx, user, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		if err := tx.DeleteLoginTokens(user); err != nil {
			return nil, err
		}
		return deleteDevices(tx, user, func(string) bool { return true })
	})
	if err != nil {
		return fmt.Errorf("log %s out: %w", user, err)
	}
	return nil
}

// sessionsAtMost bounds the cache; an entry takes some 300 bytes.
const sessionsAtMost = 40_000

// sessionCache remembers whom tokens belong to. It is safe for concurrent use.
type sessionCache struct {
	mu      sync.Mutex // mu guards all below
	byToken *recent[tokenHash, Session]
	// dropped counts invalidations, so that a look-up that began before one
	// does not put back what it read.
	dropped uint64
}

func newSessionCache() *sessionCache {
	return &sessionCache{byToken: newRecent[tokenHash, Session](sessionsAtMost)}
}

func (c *sessionCache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

func (c *sessionCache) get(h tokenHash) (Session, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byToken.get(h)
}

// put stores what was read when the generation was since.
func (c *sessionCache) put(h tokenHash, s Session, since uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped == since {
		c.byToken.put(h, s)
	}
}

// drop forgets a user's sessions.
func (c *sessionCache) drop(user spec.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped++
	c.byToken.deleteFunc(func(_ tokenHash, s Session) bool { return s.User == user })
}

// followLog drops what other nodes have changed.
func (a *Accounts) followLog(ctx context.Context) error {
	for {
		entries, err := a.follower.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow the log for sessions: %w", err)
		}
		a.heed(entries)
	}
}

// heed drops the sessions that entries of the log say were changed.
func (a *Accounts) heed(entries []storage.LogEntry) {
	for _, e := range entries {
		if e.Kind == storage.LogSession {
			a.sessions.drop(e.User)
		}
	}
}

// checkDeviceID tells whether a client may name a device so.
func checkDeviceID(id string) error {
	if len(id) > spec.MaxIDLength || !storable(id) {
		return spec.Errorf(spec.CodeInvalidParam, nil, "this is no valid device ID")
	}
	return nil
}

// storable tells whether a database column can hold the text.
func storable(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

// clip makes what a request's headers hold fit to be stored.
func clip(s string) string {
	const most = 256
	return strings.ReplaceAll(strings.ToValidUTF8(s[:min(len(s), most)], ""), "\x00", "")
}
