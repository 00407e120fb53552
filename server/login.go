package server

import (
	"context"
	"slices"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// The login types.
const (
	LoginPassword = "m.login.password"
	// LoginByToken takes the tokens of CreateLoginToken.
	LoginByToken = "m.login.token"
	// LoginJWT takes JSON web tokens. No specification covers it.
	LoginJWT = "org.matrix.login.jwt"
)

// SessionOptions says how long tokens live.
type SessionOptions struct {
	// AccessTokens is the lifetime of access tokens that can be refreshed; 0 for
	// ever, as that of all others is.
	AccessTokens time.Duration
	// LoginTokens is the lifetime of login tokens; 0 for no such tokens.
	LoginTokens time.Duration
}

// Login is a request for a session. Spec: client-server-api#legacy-login
type Login struct {
	Type       string     `json:"type"`
	Identifier Identifier `json:"identifier"`
	// User is the older form of the identifier, Address that of one of a third
	// party.
	User     string `json:"user"`
	Address  string `json:"address"`
	Password Secret `json:"password"`
	// Token is that of the types that take one.
	Token Secret `json:"token"`
	// Device is the id that the client wants; empty lets the server choose.
	Device string `json:"device_id"`
	// DeviceName is the display name of a new device; nil for none.
	DeviceName *string `json:"initial_device_display_name"`
	// RefreshToken asks for a refresh token.
	RefreshToken bool `json:"refresh_token"`
}

// NewSession is a session that was just made, or only an account where no
// session was wanted.
type NewSession struct {
	User spec.UserID
	// Device and Token are empty if registration was to make no session.
	Device string
	Token  Secret
	// RefreshToken is empty unless it was asked for.
	RefreshToken Secret
	// Lifetime is that of Token; 0: it does not end.
	Lifetime time.Duration
}

// LoginTypes lists the types that Login takes.
func (a *Accounts) LoginTypes() []string {
	types := []string{LoginPassword}
	if a.options.LoginTokens > 0 {
		types = append(types, LoginByToken)
	}
	if a.jwt != nil {
		types = append(types, LoginJWT)
	}
	return types
}

// Login checks who somebody is and makes a session. Errors: M_UNKNOWN with 400
// for an unknown type, M_MISSING_PARAM, M_FORBIDDEN for whatever is wrong with
// name, password or token, M_USER_DEACTIVATED, M_USER_LOCKED.
// Spec: client-server-api#post_matrixclientv3login
func (a *Accounts) Login(ctx context.Context, l Login) (NewSession, error) {
	if l.Type == "" {
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "type is missing")
	}
	if !slices.Contains(a.LoginTypes(), l.Type) {
		return NewSession{}, badRequest(spec.CodeUnknown, "this login type is not known")
	}
	if err := l.checkDevice(); err != nil {
		return NewSession{}, err
	}
	// todo spec: refuse device ids that equal one of the user's cross-signing
	// keys. client-server-api#post_matrixclientv3login
	switch l.Type {
	case LoginByToken:
		return a.loginByToken(ctx, l)
	case LoginJWT:
		return a.loginJWT(ctx, l)
	}
	return a.loginPassword(ctx, l)
}

func (a *Accounts) loginPassword(ctx context.Context, l Login) (NewSession, error) {
	switch {
	case l.Identifier == Identifier{} && l.User == "" && l.Address == "":
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "identifier is missing")
	case l.Password == "":
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "password is missing")
	}
	// Identifiers of other kinds belong to nobody here and fail as a wrong
	// password does.
	u, err := a.checkAccount(ctx, userName(l.Identifier, l.User), l.Password)
	if err != nil {
		return NewSession{}, err
	}
	if !u.OK {
		return NewSession{}, spec.Errorf(spec.CodeForbidden, nil, "wrong user name or password")
	}
	rehash := ""
	if u.Stale {
		if rehash, err = a.passwords.hash(ctx, l.Password); err != nil {
			return NewSession{}, err
		}
	}
	return a.startSession(ctx, u.row.User, l, func(tx *storage.Tx, now storage.UserRow) error {
		// The password was checked outside: it may have changed, or gone, since.
		if now.PasswordHash != u.row.PasswordHash {
			return spec.Errorf(spec.CodeForbidden, nil, "the account has just been changed")
		}
		if rehash == "" {
			return nil
		}
		return tx.SetPasswordHash(now.User, rehash)
	})
}

func (l Login) checkDevice() error {
	if l.DeviceName != nil && (len(*l.DeviceName) > maxDeviceName || !storable(*l.DeviceName)) {
		return spec.Errorf(spec.CodeInvalidParam, nil, "the device's name is too long or has a NUL in it")
	}
	return checkDeviceID(l.Device)
}

// startSession makes a session of a user, unless check, which sees the account
// as it is, has something against it.
func (a *Accounts) startSession(ctx context.Context, user spec.UserID, l Login, check func(*storage.Tx, storage.UserRow) error) (NewSession, error) {
	var made NewSession
	start := func(tx *storage.Tx) (entries []storage.LogEntry, err error) {
		now, err := tx.User(user)
		switch {
		case err != nil:
			return nil, err
		case now.Deactivated != 0:
			return nil, spec.Errorf(spec.CodeUserDeactivated, nil, "this account was deactivated")
		case now.Locked:
			return nil, errLocked()
		}
		if err := check(tx, now); err != nil {
			return nil, err
		}
		made, entries, err = a.insertSession(tx, user, l)
		return entries, err
	}
	var err error
	if l.Device != "" {
		// The device may exist, and then its older tokens end.
		err = a.revoke(ctx, user, start)
	} else {
		err = a.write(ctx, start)
	}
	if err != nil {
		return NewSession{}, fault(err, "start a session of %s", user)
	}
	return made, nil
}

// insertSession makes a token for a device, which is made too unless the user
// has it. Tokens that the device had end. The entries announce a new device.
// Spec: client-server-api#relationship-between-access-tokens-and-devices
func (a *Accounts) insertSession(tx *storage.Tx, user spec.UserID, l Login) (NewSession, []storage.LogEntry, error) {
	made, row := a.issue(NewSession{User: user, Device: orDefault(l.Device, newDeviceID())}, l.RefreshToken)
	device := storage.DeviceRow{User: user, Device: made.Device, Created: a.ms()}
	if l.DeviceName != nil {
		device.Name = *l.DeviceName
	}
	isNew, err := tx.InsertDevice(device)
	var entries []storage.LogEntry
	switch {
	case err != nil:
	case isNew:
		entries = []storage.LogEntry{deviceChanged(user, made.Device)}
	default:
		err = tx.DeleteSessions(user, made.Device)
	}
	if err != nil {
		return NewSession{}, nil, err
	}
	return made, entries, tx.InsertSession(row)
}

// badRequest is an error with status 400 whatever the code's own is.
func badRequest(code spec.Code, msg string) *spec.Error {
	return &spec.Error{Code: code, Msg: msg, Status: 400}
}
