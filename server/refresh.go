package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"atoll/spec"
	"atoll/storage"
)

// refreshRivals bounds how many sessions may stand by to replace one: each
// answer to a refresh that the client lost leaves one.
const refreshRivals = 4

// newRefreshToken returns a refresh token: 260 random bits.
func newRefreshToken() Secret { return Secret("rt_" + rand.Text() + rand.Text()) }

// issue makes access token and, if wanted, refresh token for a session.
func (a *Accounts) issue(s NewSession, refresh bool) (NewSession, storage.SessionRow) {
	s.Token = newToken()
	hash := hashToken(s.Token)
	row := storage.SessionRow{TokenHash: hash[:], User: s.User, Device: s.Device, Created: a.ms()}
	if refresh {
		s.RefreshToken, s.Lifetime = newRefreshToken(), a.options.AccessTokens
		refreshHash := hashToken(s.RefreshToken)
		row.RefreshHash = refreshHash[:]
		if s.Lifetime > 0 {
			row.Expires = a.now().Add(s.Lifetime).UnixMilli()
		}
	}
	return s, row
}

// Refresh returns new tokens for the device that a refresh token belongs to. The
// old ones go on working until one of the new ones is used, so that a client
// that lost the answer can ask again. M_UNKNOWN_TOKEN if the token is not known
// or was replaced.
// Spec: client-server-api#refreshing-access-tokens
func (a *Accounts) Refresh(ctx context.Context, token Secret) (NewSession, error) {
	if token == "" {
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "refresh_token is missing")
	}
	hash := hashToken(token)
	find := func(tx *storage.Tx) (storage.SessionRow, error) {
		row, err := tx.SessionByRefresh(hash[:])
		if errors.Is(err, storage.ErrNotFound) {
			err = spec.Errorf(spec.CodeUnknownToken, nil, "this refresh token is not known")
		}
		if err == nil && row.Account.Locked {
			err = errLocked()
		}
		return row, err
	}
	var old storage.SessionRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		old, err = find(tx)
		return err
	})
	if err != nil {
		return NewSession{}, fault(err, "look up a refresh token")
	}
	made, row := a.issue(NewSession{User: old.User, Device: old.Device}, true)
	row.ReplacesHash = old.TokenHash
	err = a.revoke(ctx, old.User, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		now, err := find(tx)
		if err != nil {
			return nil, err
		}
		if err := tx.SettleSession(now); err != nil {
			return nil, err
		}
		if err := tx.LimitReplacing(now.TokenHash, refreshRivals-1); err != nil {
			return nil, err
		}
		return nil, tx.InsertSession(row)
	})
	if err != nil {
		return NewSession{}, fault(err, "refresh a session of %s", old.User)
	}
	return made, nil
}

// settle ends what a session replaces, as it is used for the first time.
// storage.ErrNotFound if another one has taken its place meanwhile.
func (a *Accounts) settle(ctx context.Context, s Session, hash tokenHash) error {
	err := a.revoke(ctx, s.User, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		row, err := tx.Session(hash[:])
		if err != nil {
			return nil, err
		}
		return nil, tx.SettleSession(row)
	})
	if err != nil {
		return fmt.Errorf("begin a refreshed session of %s: %w", s.User, err)
	}
	return nil
}
