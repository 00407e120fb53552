package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// LoginToken logs its bearer in once.
type LoginToken struct {
	Token Secret
	// Lifetime is how long it may be used.
	Lifetime time.Duration
}

// CreateLoginToken makes a login token for the session's user, who has to
// authenticate; M_UNRECOGNIZED where there are none.
// Spec: client-server-api#post_matrixclientv1loginget_token
func (a *Accounts) CreateLoginToken(ctx context.Context, s Session, auth *UIAAuth) (LoginToken, error) {
	if a.options.LoginTokens == 0 {
		return LoginToken{}, spec.Errorf(spec.CodeUnrecognized, nil, "there are no login tokens here")
	}
	done, err := a.confirm(ctx, s, "get a login token", auth)
	if err != nil {
		return LoginToken{}, err
	}
	made := LoginToken{Token: Secret("lt_" + rand.Text() + rand.Text()), Lifetime: a.options.LoginTokens}
	hash := hashToken(made.Token)
	row := storage.LoginTokenRow{TokenHash: hash[:], User: s.User, Expires: a.now().Add(made.Lifetime).UnixMilli()}
	if err := a.db.Write(ctx, func(tx *storage.Tx) error { return tx.InsertLoginToken(row) }); err != nil {
		return LoginToken{}, fmt.Errorf("make a login token of %s: %w", s.User, err)
	}
	done()
	return made, nil
}

// loginByToken logs in whoever a login token was made for.
// Spec: client-server-api#post_matrixclientv3login
func (a *Accounts) loginByToken(ctx context.Context, l Login) (NewSession, error) {
	if l.Token == "" {
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "token is missing")
	}
	hash := hashToken(l.Token)
	var row storage.LoginTokenRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.LoginToken(hash[:])
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return NewSession{}, errLoginToken()
	case err != nil:
		return NewSession{}, fmt.Errorf("look up a login token: %w", err)
	case a.ms() >= row.Expires:
		return NewSession{}, errLoginToken()
	}
	return a.startSession(ctx, row.User, l, func(tx *storage.Tx, _ storage.UserRow) error {
		err := tx.UseLoginToken(hash[:])
		if errors.Is(err, storage.ErrNotFound) {
			return errLoginToken()
		}
		return err
	})
}

func errLoginToken() error {
	return spec.Errorf(spec.CodeForbidden, nil, "this login token is not valid")
}
