package server

import (
	"context"
	"errors"

	"atoll/storage"
)

// loadProgress implements progressStore.
func (a *Accounts) loadProgress(ctx context.Context, session string) (uiaProgress, error) {
	var row storage.UIAProgressRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.UIAProgress(session)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return uiaProgress{}, nil
	}
	return uiaProgress{completed: row.Completed, token: Secret(row.Token), stored: true}, err
}

// saveProgress implements progressStore.
func (a *Accounts) saveProgress(ctx context.Context, s uiaSession) error {
	row := storage.UIAProgressRow{Session: s.id, Completed: s.completed, Token: string(s.token), Expires: s.expires.UnixMilli()}
	return a.db.Write(ctx, func(tx *storage.Tx) error { return tx.PutUIAProgress(row) })
}

// dropProgress implements progressStore.
func (a *Accounts) dropProgress(ctx context.Context, session string) error {
	return a.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteUIAProgress(session) })
}

// finish forgets a session of user-interactive authentication whose operation
// has succeeded. Should that fail, it expires soon.
func (a *Accounts) finish(ctx context.Context, session string) {
	if err := a.uia.Finish(ctx, session); err != nil {
		a.log.Warn("a session of user-interactive authentication was not forgotten", "err", err)
	}
}
