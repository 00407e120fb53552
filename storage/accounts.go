package storage

import (
	"errors"

	"atoll/spec"
)

// UserRow is an account of this server. Times are in milliseconds since the
// epoch.
type UserRow struct {
	User spec.UserID
	// PasswordHash is a PHC string; empty: no login by password.
	PasswordHash                            string
	Guest, Admin, Locked, Suspended, Erased bool
	Created                                 int64
	// Deactivated is when the account ended; 0: it has not.
	Deactivated int64
}

// DeviceRow is a device of a local user.
type DeviceRow struct {
	User    spec.UserID
	Device  string
	Name    string // display name; empty: none
	Created int64
	// LastSeen is the last use; 0: never. The rest is what was known then.
	LastSeen              int64
	LastIP, LastUserAgent string
}

// DeviceSeen is one use of a device.
type DeviceSeen struct {
	User          spec.UserID
	Device        string
	At            int64
	IP, UserAgent string
}

// SessionRow is an access token of a device.
type SessionRow struct {
	TokenHash    []byte // SHA-256 of the token
	User         spec.UserID
	Device       string
	Created      int64
	Expires      int64  // 0: never
	RefreshHash  []byte // SHA-256 of the refresh token; nil: none
	ReplacesHash []byte // TokenHash of the row that ends when this one is used; nil: none
	// Account is the user's row without the password hash. It is only read.
	Account UserRow
}

// RegistrationTokenRow is a token that lets its bearer register.
type RegistrationTokenRow struct {
	Token   string
	UsesMax int64 // 0: any number
	Uses    int64
	Created int64
	Expires int64 // 0: never
}

// UserDeactivation ends an account.
type UserDeactivation struct {
	User spec.UserID
	At   int64
	// Erase marks the user's messages to be hidden from those who join later.
	Erase bool
}

var (
	insertUser = query(`INSERT INTO users (user_id, password_hash, guest, admin, locked, suspended, erased, created_ts)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`)
	selectUser = query(`SELECT user_id, password_hash, guest, admin, locked, suspended, erased, created_ts, deactivated_ts
		FROM users WHERE user_id = $1`)
	updatePasswordHash = query(`UPDATE users SET password_hash = $1 WHERE user_id = $2`)
	updateStanding     = query(`UPDATE users SET admin = $1, locked = $2, suspended = $3 WHERE user_id = $4`)
	deactivateUser     = query(`UPDATE users SET password_hash = NULL, erased = (erased OR $1), deactivated_ts = COALESCE(deactivated_ts, $2)
		WHERE user_id = $3`)
	deleteProfile     = query(`DELETE FROM profile_fields WHERE user_id = $1`)
	deleteAccountData = query(`DELETE FROM account_data WHERE user_id = $1`)
	deleteFilters     = query(`DELETE FROM filters WHERE user_id = $1`)
)

// InsertUser makes an account; ErrConstraint if the name was ever taken.
func (tx *Tx) InsertUser(u UserRow) error {
	n, err := tx.exec(insertUser, u.User, nullString(u.PasswordHash), u.Guest, u.Admin, u.Locked, u.Suspended, u.Erased, u.Created)
	if err == nil && n == 0 {
		return ErrConstraint
	}
	return err
}

// User returns an account, deactivated ones too; ErrNotFound if there is none.
func (tx *Tx) User(id spec.UserID) (UserRow, error) {
	var u UserRow
	err := tx.one(selectUser, []any{id}, &u.User, &u.PasswordHash, &u.Guest, &u.Admin, &u.Locked, &u.Suspended, &u.Erased, &u.Created, &u.Deactivated)
	return u, err
}

// SetPasswordHash replaces a user's password; ErrNotFound without such a user.
func (tx *Tx) SetPasswordHash(user spec.UserID, hash string) error {
	return atLeastOne(tx.exec(updatePasswordHash, nullString(hash), user))
}

// SetUserStanding writes Admin, Locked and Suspended of a user; ErrNotFound
// without such a user.
func (tx *Tx) SetUserStanding(u UserRow) error {
	return atLeastOne(tx.exec(updateStanding, u.Admin, u.Locked, u.Suspended, u.User))
}

// DeactivateUser ends an account and removes what belongs to it, except the
// devices, which have to be deleted one by one, and notes that the rooms are to
// be left; see Partings. ErrNotFound without such a user.
func (tx *Tx) DeactivateUser(d UserDeactivation) error {
	if err := atLeastOne(tx.exec(deactivateUser, d.Erase, d.At, d.User)); err != nil {
		return err
	}
	for _, s := range []*stmt{deleteProfile, deleteAccountData, deleteFilters, deleteUserLogins, insertParting} {
		if _, err := tx.exec(s, d.User); err != nil {
			return err
		}
	}
	return nil
}

var (
	insertDevice = query(`INSERT INTO devices (user_id, device_id, display_name, created_ts)
		VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	selectDevices = query(`SELECT user_id, device_id, display_name, created_ts, last_seen_ts, last_ip, last_agent
		FROM devices WHERE user_id = $1 ORDER BY device_id`)
	updateDeviceName = query(`UPDATE devices SET display_name = $1 WHERE user_id = $2 AND device_id = $3`)
	updateDeviceSeen = query(`UPDATE devices SET last_seen_ts = $1, last_ip = $2, last_agent = $3
		WHERE user_id = $4 AND device_id = $5 AND (last_seen_ts IS NULL OR last_seen_ts < $1)`)
	deleteDevices       = query(`DELETE FROM devices WHERE user_id = $1 AND device_id = ANY($2::text[])`)
	deleteDevicesTokens = query(`DELETE FROM sessions WHERE user_id = $1 AND device_id = ANY($2::text[])`)
)

// InsertDevice makes a device unless the user has it, and tells whether it did.
func (tx *Tx) InsertDevice(d DeviceRow) (isNew bool, err error) {
	n, err := tx.exec(insertDevice, d.User, d.Device, nullString(d.Name), d.Created)
	return n > 0, err
}

// Devices lists a user's devices by id.
func (tx *Tx) Devices(user spec.UserID) ([]DeviceRow, error) {
	var out []DeviceRow
	err := tx.each(selectDevices, []any{user}, func(r *rows) error {
		var d DeviceRow
		err := r.scan(&d.User, &d.Device, &d.Name, &d.Created, &d.LastSeen, &d.LastIP, &d.LastUserAgent)
		out = append(out, d)
		return err
	})
	return out, err
}

// RenameDevice sets a device's display name; empty removes it. ErrNotFound
// without such a device.
func (tx *Tx) RenameDevice(user spec.UserID, device, name string) error {
	return atLeastOne(tx.exec(updateDeviceName, nullString(name), user, device))
}

// NoteDevicesSeen writes when devices were used, unless a later use is known.
// Devices that are gone are passed over.
func (tx *Tx) NoteDevicesSeen(seen []DeviceSeen) error {
	for _, s := range seen {
		if _, err := tx.exec(updateDeviceSeen, s.At, nullString(s.IP), nullString(s.UserAgent), s.User, s.Device); err != nil {
			return err
		}
	}
	return nil
}

// DeleteDevices removes devices and their sessions. Ids that the user does not
// have are passed over.
func (tx *Tx) DeleteDevices(user spec.UserID, devices []string) error {
	if len(devices) == 0 {
		return nil
	}
	for _, s := range []*stmt{deleteDevicesTokens, deleteDevices} {
		if _, err := tx.exec(s, user, devices); err != nil {
			return err
		}
	}
	return nil
}

var (
	insertSession = query(`INSERT INTO sessions (token_hash, user_id, device_id, created_ts, expires_ts, refresh_hash, replaces_hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`)
	selectSession = query(`SELECT s.token_hash, s.user_id, s.device_id, s.created_ts, s.expires_ts, s.refresh_hash, s.replaces_hash,
			u.guest, u.admin, u.locked, u.suspended, u.erased, u.created_ts, u.deactivated_ts
		FROM sessions s JOIN users u ON u.user_id = s.user_id WHERE s.token_hash = $1`)
	deleteSessions = query(`DELETE FROM sessions WHERE user_id = $1 AND device_id = $2`)
)

// InsertSession stores an access token.
func (tx *Tx) InsertSession(s SessionRow) error {
	_, err := tx.exec(insertSession, s.TokenHash, s.User, s.Device, s.Created, nullInt(s.Expires), nullBytes(s.RefreshHash), nullBytes(s.ReplacesHash))
	return err
}

// Session returns the session of an access token with its account; ErrNotFound
// if there is none.
func (tx *Tx) Session(tokenHash []byte) (SessionRow, error) {
	return tx.session(selectSession, tokenHash)
}

func (tx *Tx) session(by *stmt, hash []byte) (SessionRow, error) {
	var s SessionRow
	u := &s.Account
	err := tx.one(by, []any{hash}, &s.TokenHash, &s.User, &s.Device, &s.Created, &s.Expires, &s.RefreshHash, &s.ReplacesHash,
		&u.Guest, &u.Admin, &u.Locked, &u.Suspended, &u.Erased, &u.Created, &u.Deactivated)
	u.User = s.User
	return s, err
}

// DeleteSessions removes the sessions of one device, which stays.
func (tx *Tx) DeleteSessions(user spec.UserID, device string) error {
	_, err := tx.exec(deleteSessions, user, device)
	return err
}

var (
	insertRegistrationToken = query(`INSERT INTO registration_tokens (token, uses_max, uses, created_ts, expires_ts)
		VALUES ($1, $2, 0, $3, $4) ON CONFLICT DO NOTHING`)
	selectRegistrationToken = query(`SELECT token FROM registration_tokens
		WHERE token = $1 AND (uses_max IS NULL OR uses < uses_max) AND (expires_ts IS NULL OR expires_ts > $2)`)
	useRegistrationToken = query(`UPDATE registration_tokens SET uses = uses + 1
		WHERE token = $1 AND (uses_max IS NULL OR uses < uses_max) AND (expires_ts IS NULL OR expires_ts > $2)`)
)

// InsertRegistrationToken stores a registration token; ErrConstraint if there
// is one of that text.
func (tx *Tx) InsertRegistrationToken(t RegistrationTokenRow) error {
	n, err := tx.exec(insertRegistrationToken, t.Token, nullInt(t.UsesMax), t.Created, nullInt(t.Expires))
	if err == nil && n == 0 {
		return ErrConstraint
	}
	return err
}

// RegistrationTokenValid tells whether a token exists, has uses left and has
// not expired at the given time.
func (tx *Tx) RegistrationTokenValid(token string, now int64) (bool, error) {
	var found string
	err := tx.one(selectRegistrationToken, []any{token, now}, &found)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// UseRegistrationToken takes one use of a token; ErrNotFound if it is not
// valid.
func (tx *Tx) UseRegistrationToken(token string, now int64) error {
	return atLeastOne(tx.exec(useRegistrationToken, token, now))
}

// atLeastOne turns a statement that changed nothing into ErrNotFound.
func atLeastOne(n int64, err error) error {
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}
