package server

import (
	"context"

	"atoll/spec"
	"atoll/storage"
)

// LoginPassword is the one login type there is.
const LoginPassword = "m.login.password"

// Login is a request for a session. Spec: client-server-api#legacy-login
type Login struct {
	Type       string     `json:"type"`
	Identifier Identifier `json:"identifier"`
	// User is the older form of the identifier.
	User     string `json:"user"`
	Password Secret `json:"password"`
	// Device is the id that the client wants; empty lets the server choose.
	Device string `json:"device_id"`
	// DeviceName is the display name of a new device; nil for none.
	DeviceName *string `json:"initial_device_display_name"`
}

// NewSession is a session that was just made, or only an account where no
// session was wanted.
type NewSession struct {
	User spec.UserID
	// Device and Token are empty if registration was to make no session.
	Device string
	Token  Secret
}

// LoginTypes lists the types that Login takes.
func (a *Accounts) LoginTypes() []string { return []string{LoginPassword} }

// Login checks who somebody is and makes a session. Errors: M_UNKNOWN with 400
// for an unknown type, M_MISSING_PARAM, M_FORBIDDEN for whatever is wrong with
// name or password, M_USER_DEACTIVATED, M_USER_LOCKED.
// Spec: client-server-api#post_matrixclientv3login
func (a *Accounts) Login(ctx context.Context, l Login) (NewSession, error) {
	switch {
	case l.Type == "":
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "type is missing")
	case l.Type != LoginPassword:
		return NewSession{}, badRequest(spec.CodeUnknown, "this login type is not known")
	case l.Identifier == Identifier{} && l.User == "":
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "identifier is missing")
	case l.Password == "":
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "password is missing")
	}
	if err := l.checkDevice(); err != nil {
		return NewSession{}, err
	}
	// Identifiers of other kinds belong to nobody here and fail as a wrong
	// password does.
	u, err := a.checkAccount(ctx, userName(l.Identifier, l.User), l.Password)
	switch {
	case err != nil:
		return NewSession{}, err
	case !u.OK:
		return NewSession{}, spec.Errorf(spec.CodeForbidden, nil, "wrong user name or password")
	case u.row.Deactivated != 0:
		return NewSession{}, spec.Errorf(spec.CodeUserDeactivated, nil, "this account was deactivated")
	case u.row.Locked:
		return NewSession{}, errLocked()
	}
	// todo spec: refuse device ids that equal one of the user's cross-signing
	// keys. client-server-api#post_matrixclientv3login
	return a.startSession(ctx, u, l)
}

func (l Login) checkDevice() error {
	if l.DeviceName != nil && (len(*l.DeviceName) > maxDeviceName || !storable(*l.DeviceName)) {
		return spec.Errorf(spec.CodeInvalidParam, nil, "the device's name is too long or has a NUL in it")
	}
	return checkDeviceID(l.Device)
}

func (a *Accounts) startSession(ctx context.Context, u checkedUser, l Login) (NewSession, error) {
	rehash := ""
	if u.Stale {
		var err error
		if rehash, err = a.passwords.hash(ctx, l.Password); err != nil {
			return NewSession{}, err
		}
	}
	var made NewSession
	start := func(tx *storage.Tx) (entries []storage.LogEntry, err error) {
		// The password was checked outside: it may have changed, or gone, since.
		now, err := tx.User(u.row.User)
		if err != nil {
			return nil, err
		}
		if now.PasswordHash != u.row.PasswordHash || now.Locked {
			return nil, spec.Errorf(spec.CodeForbidden, nil, "the account has just been changed")
		}
		if rehash != "" {
			if err := tx.SetPasswordHash(u.row.User, rehash); err != nil {
				return nil, err
			}
		}
		made, entries, err = a.insertSession(tx, u.row.User, l)
		return entries, err
	}
	var err error
	if l.Device != "" {
		// The device may exist, and then its older tokens end.
		err = a.revoke(ctx, u.row.User, start)
	} else {
		err = a.write(ctx, start)
	}
	if err != nil {
		return NewSession{}, fault(err, "start a session of %s", u.row.User)
	}
	return made, nil
}

// insertSession makes a token for a device, which is made too unless the user
// has it. Tokens that the device had end. The entries announce a new device.
// Spec: client-server-api#relationship-between-access-tokens-and-devices
func (a *Accounts) insertSession(tx *storage.Tx, user spec.UserID, l Login) (NewSession, []storage.LogEntry, error) {
	made := NewSession{User: user, Device: orDefault(l.Device, newDeviceID()), Token: newToken()}
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
	hash := hashToken(made.Token)
	return made, entries, tx.InsertSession(storage.SessionRow{TokenHash: hash[:], User: user, Device: made.Device, Created: a.ms()})
}

// badRequest is an error with status 400 whatever the code's own is.
func badRequest(code spec.Code, msg string) *spec.Error {
	return &spec.Error{Code: code, Msg: msg, Status: 400}
}
