package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"atoll/spec"
	"atoll/storage"
)

const identifierUser = "m.id.user"

// Accounts knows the server's own users, their devices and sessions.
//
// Spec: client-server-api#client-authentication
type Accounts struct {
	*base
	passwords    *passwords
	registration RegistrationOptions
	options      SessionOptions
	jwt          *jwtUsers // nil: nobody logs in so
	uia          *UIA
	sessions     *sessionCache
	seen         *seenBuffer
	nonces       *nonces
	// parting is told when an account was deactivated; see partings.
	parting chan struct{}
	// follower stands where the log ended when there were no sessions in memory.
	follower *storage.Follower
}

func newAccounts(b *base, o Options) *Accounts {
	a := &Accounts{
		base: b, passwords: newPasswords(o.Passwords), registration: o.Registration, options: o.Sessions,
		jwt:      newJWTUsers(o.JWT, b.name, b.now),
		sessions: newSessionCache(), seen: newSeenBuffer(), nonces: newNonces(b.now), parting: make(chan struct{}, 1),
		follower: b.db.Follow(b.db.Head()),
	}
	a.uia = newUIA(a, a, b.key.Private, b.now)
	return a
}

// Account is what there is to know of a local user apart from the profile.
type Account struct {
	User  spec.UserID
	Guest bool
	// Admin may use the administrative endpoints.
	Admin bool
	// Deactivated accounts are gone, but their names stay taken.
	Deactivated bool
	// Locked accounts can do nothing but log out.
	Locked bool
	// Suspended accounts can read, leave and little else.
	Suspended bool
	// Created is in milliseconds since the epoch.
	Created int64
}

// Account looks a user up. Users of other servers and unknown ones give
// M_NOT_FOUND; deactivated ones are returned.
func (a *Accounts) Account(ctx context.Context, user spec.UserID) (Account, error) {
	var row storage.UserRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.User(user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return Account{}, spec.Errorf(spec.CodeNotFound, nil, "there is no such user")
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up %s: %w", user, err)
	}
	return accountOf(row), nil
}

func accountOf(row storage.UserRow) Account {
	return Account{
		User: row.User, Guest: row.Guest, Admin: row.Admin, Deactivated: row.Deactivated != 0,
		Locked: row.Locked, Suspended: row.Suspended, Created: row.Created,
	}
}

// resolve turns what somebody typed as a user name into a local user id: a full
// id or a localpart. ok is false if it cannot name a local user.
func (a *Accounts) resolve(name string) (user spec.UserID, ok bool) {
	if strings.HasPrefix(name, "@") {
		id, err := spec.ParseUserID(name)
		return id, err == nil && a.local(id)
	}
	id, err := spec.ParseUserID("@" + name + ":" + string(a.name))
	return id, err == nil && name != ""
}

// checkedUser is the account whose password was given.
type checkedUser struct {
	row storage.UserRow
	verdict
}

// checkAccount compares a password with that of the named account. A name that
// nobody has costs the same and does not match. Names are tried as given and
// then in small letters, in which all names are registered.
func (a *Accounts) checkAccount(ctx context.Context, name string, password Secret) (checkedUser, error) {
	var row storage.UserRow
	err := a.db.Read(ctx, func(tx *storage.Tx) error {
		for _, spelling := range []string{name, lowerASCII(name)} {
			user, ok := a.resolve(spelling)
			if !ok {
				continue
			}
			found, err := tx.User(user)
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			row = found
			return err
		}
		return nil
	})
	if err != nil {
		return checkedUser{}, fmt.Errorf("look up an account: %w", err)
	}
	v, err := a.passwords.verify(ctx, row.PasswordHash, password)
	return checkedUser{row, v}, err
}

// checkPassword implements stageChecker.
func (a *Accounts) checkPassword(ctx context.Context, name string, password Secret) (spec.UserID, bool, error) {
	u, err := a.checkAccount(ctx, name, password)
	return u.row.User, u.OK, err
}

// PasswordChange sets a new password. The caller has been authenticated.
type PasswordChange struct {
	User     spec.UserID
	Password Secret
	// LogoutOthers ends all sessions but that of Device.
	LogoutOthers bool
	// Device is the device whose session stays; empty for none.
	Device string
}

// ChangePassword sets a user's password and returns the devices that were
// logged out by it. Spec: client-server-api#post_matrixclientv3accountpassword
func (a *Accounts) ChangePassword(ctx context.Context, c PasswordChange) ([]string, error) {
	if err := a.passwords.checkNew(c.Password); err != nil {
		return nil, err
	}
	hash, err := a.passwords.hash(ctx, c.Password)
	if err != nil {
		return nil, err
	}
	var gone []string
	err = a.revoke(ctx, c.User, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		if err := tx.SetPasswordHash(c.User, hash); err != nil || !c.LogoutOthers {
			return nil, err
		}
		if err := tx.DeleteLoginTokens(c.User); err != nil {
			return nil, err
		}
		entries, err := deleteDevices(tx, c.User, func(device string) bool { return device != c.Device })
		for _, e := range entries {
			gone = append(gone, e.Device)
		}
		return entries, err
	})
	if err != nil {
		return nil, fmt.Errorf("change the password of %s: %w", c.User, err)
	}
	return gone, nil
}

// Deactivation ends an account for good. The caller has been authenticated.
type Deactivation struct {
	User spec.UserID
	// Erase asks that the user's messages be hidden from those who join later.
	Erase bool
}

// Deactivate removes password, sessions, devices, profile and account data of a
// user. The name stays taken. Doing it twice is fine. The user's rooms are left
// soon afterwards; see partings.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
func (a *Accounts) Deactivate(ctx context.Context, d Deactivation) error {
	err := a.revoke(ctx, d.User, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		if err := tx.DeactivateUser(storage.UserDeactivation{User: d.User, At: a.ms(), Erase: d.Erase}); err != nil {
			return nil, err
		}
		return deleteDevices(tx, d.User, func(string) bool { return true })
	})
	if errors.Is(err, storage.ErrNotFound) {
		return spec.Errorf(spec.CodeNotFound, nil, "there is no such user")
	}
	if err != nil {
		return fmt.Errorf("deactivate %s: %w", d.User, err)
	}
	select {
	case a.parting <- struct{}{}:
	default: // it has been told
	}
	return nil
}

// Standing is what an administrator may change about an account; nil leaves a
// point as it is.
type Standing struct{ Locked, Suspended, Admin *bool }

// SetStanding changes an account's standing on behalf of an administrator.
// Errors, in this order: M_FORBIDDEN unless by is an administrator,
// M_INVALID_PARAM for users of other servers, M_NOT_FOUND for unknown and
// deactivated ones, M_FORBIDDEN for oneself and other administrators.
// Spec: client-server-api#server-administration
func (a *Accounts) SetStanding(ctx context.Context, by Session, user spec.UserID, s Standing) error {
	if _, err := a.Moderated(ctx, by, user); err != nil {
		return err
	}
	return a.setStanding(ctx, user, s)
}

// Moderated returns an account to an administrator who may change its standing,
// with the errors of SetStanding.
func (a *Accounts) Moderated(ctx context.Context, by Session, user spec.UserID) (Account, error) {
	target, err := a.Standing(ctx, by, user)
	if err == nil && (target.Admin || user == by.User) {
		err = spec.Errorf(spec.CodeForbidden, nil, "neither oneself nor another administrator can be locked or suspended")
	}
	return target, err
}

// Standing returns an account to an administrator, with the same errors as
// SetStanding but the last.
func (a *Accounts) Standing(ctx context.Context, by Session, user spec.UserID) (Account, error) {
	if !by.Admin {
		return Account{}, spec.Errorf(spec.CodeForbidden, nil, "this is for administrators of the server")
	}
	if !a.local(user) {
		return Account{}, spec.Errorf(spec.CodeInvalidParam, nil, "this is not a user of this server")
	}
	account, err := a.Account(ctx, user)
	if err == nil && account.Deactivated {
		return Account{}, spec.Errorf(spec.CodeNotFound, nil, "this account was deactivated")
	}
	return account, err
}

// MakeAdmin makes a user an administrator. It is for the operator's command
// line and asks nobody.
func (a *Accounts) MakeAdmin(ctx context.Context, user spec.UserID) error {
	admin := true
	return a.setStanding(ctx, user, Standing{Admin: &admin})
}

func (a *Accounts) setStanding(ctx context.Context, user spec.UserID, s Standing) error {
	err := a.revoke(ctx, user, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		row, err := tx.User(user)
		if err != nil {
			return nil, err
		}
		for _, point := range []struct{ have, want *bool }{{&row.Locked, s.Locked}, {&row.Suspended, s.Suspended}, {&row.Admin, s.Admin}} {
			if point.want != nil {
				*point.have = *point.want
			}
		}
		return nil, tx.SetUserStanding(row)
	})
	if errors.Is(err, storage.ErrNotFound) {
		return spec.Errorf(spec.CodeNotFound, nil, "there is no such user")
	}
	if err != nil {
		return fmt.Errorf("change the standing of %s: %w", user, err)
	}
	return nil
}

// mustExist gives M_NOT_FOUND for a user of this server who never registered or
// was deactivated.
func (a *Accounts) mustExist(ctx context.Context, user spec.UserID) error {
	account, err := a.Account(ctx, user)
	if err == nil && account.Deactivated {
		return spec.Errorf(spec.CodeNotFound, nil, "this account was deactivated")
	}
	return err
}
