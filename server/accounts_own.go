package server

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// This file has what users do to their own accounts and have to confirm by
// user-interactive authentication.

// confirm lets an operation on the session's own account pass once the user has
// authenticated; the errors are those of UIA.Authorize. done is called when the
// operation has succeeded.
func (a *Accounts) confirm(ctx context.Context, s Session, operation string, auth *UIAAuth) (done func(), err error) {
	stage, err := a.ownStage(ctx, s.User)
	if err != nil {
		return nil, err
	}
	grant, err := a.uia.Authorize(ctx, UIARequest{Operation: operation, User: s.User, Flows: [][]string{{stage}}, Auth: auth})
	if err != nil {
		return nil, err
	}
	return func() { a.finish(ctx, grant.Session) }, nil
}

// ownStage is how a user shows who they are: by their password, if they have
// one.
func (a *Accounts) ownStage(ctx context.Context, user spec.UserID) (string, error) {
	if a.jwt == nil {
		return StagePassword, nil
	}
	var row storage.UserRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.User(user)
		return err
	})
	if err != nil || row.PasswordHash != "" {
		return StagePassword, err
	}
	return StageJWT, nil
}

// OwnPassword is a user's request for a new password.
type OwnPassword struct {
	Password Secret `json:"new_password"`
	// LogoutDevices ends all other sessions; nil means true.
	LogoutDevices *bool    `json:"logout_devices"`
	Auth          *UIAAuth `json:"auth"`
}

// ChangeOwnPassword changes the password of the session's user. The errors are
// those of ChangePassword and of UIA.Authorize.
// Spec: client-server-api#post_matrixclientv3accountpassword
func (a *Accounts) ChangeOwnPassword(ctx context.Context, s Session, r OwnPassword) error {
	if err := a.passwords.checkNew(r.Password); err != nil {
		return err
	}
	done, err := a.confirm(ctx, s, "change the password", r.Auth)
	if err != nil {
		return err
	}
	_, err = a.ChangePassword(ctx, PasswordChange{
		User: s.User, Password: r.Password, Device: s.Device, LogoutOthers: r.LogoutDevices == nil || *r.LogoutDevices,
	})
	if err == nil {
		done()
	}
	return err
}

// OwnDeactivation is a user's request to end their account.
type OwnDeactivation struct {
	Erase bool     `json:"erase"`
	Auth  *UIAAuth `json:"auth"`
}

// DeactivateOwn ends the account of the session's user.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
func (a *Accounts) DeactivateOwn(ctx context.Context, s Session, r OwnDeactivation) error {
	done, err := a.confirm(ctx, s, "deactivate the account", r.Auth)
	if err != nil {
		return err
	}
	if err = a.Deactivate(ctx, Deactivation{User: s.User, Erase: r.Erase}); err == nil {
		done()
	}
	return err
}

// OwnDevices is a user's request to end devices of theirs.
type OwnDevices struct {
	Devices []string
	Auth    *UIAAuth
}

// DeleteOwnDevices ends devices of the session's user. Ids that the user does
// not have are fine.
// Spec: client-server-api#post_matrixclientv3delete_devices
func (a *Accounts) DeleteOwnDevices(ctx context.Context, s Session, r OwnDevices) error {
	ids := slices.Sorted(slices.Values(r.Devices))
	var operation strings.Builder
	operation.WriteString("delete devices")
	for _, id := range slices.Compact(ids) {
		operation.WriteString(" " + strconv.Quote(id))
	}
	done, err := a.confirm(ctx, s, operation.String(), r.Auth)
	if err != nil {
		return err
	}
	if err = a.DeleteDevices(ctx, s.User, ids); err == nil {
		done()
	}
	return err
}

// Whois returns an account with its devices to its user or to an administrator:
// M_FORBIDDEN for others, and the errors of Standing.
// Spec: client-server-api#get_matrixclientv3adminwhoisuserid
func (a *Accounts) Whois(ctx context.Context, by Session, user spec.UserID) ([]Device, error) {
	if by.User != user {
		if _, err := a.Standing(ctx, by, user); err != nil {
			return nil, err
		}
	}
	return a.Devices(ctx, user)
}

// pruneLogins removes what has expired of login tokens and of sessions of
// user-interactive authentication, until ctx ends.
func (a *Accounts) pruneLogins(ctx context.Context) error {
	tick := time.NewTicker(uiaLifetime)
	defer tick.Stop()
	for {
		err := a.db.Write(ctx, func(tx *storage.Tx) error { return tx.PruneLogins(a.ms()) })
		if err != nil && ctx.Err() == nil {
			a.log.Warn("expired login tokens were not removed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
