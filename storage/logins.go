package storage

import (
	"encoding/json"

	"atoll/spec"
)

// LoginTokenRow is a token that logs its bearer in once.
type LoginTokenRow struct {
	TokenHash []byte // SHA-256 of the token
	User      spec.UserID
	Expires   int64 // ms
}

// UIAProgressRow is how far a session of user-interactive authentication has
// come.
type UIAProgressRow struct {
	Session   string
	Completed []string // stages that are done, in order
	Token     string   // registration token of that stage; empty: none
	Expires   int64    // ms
}

var (
	insertLoginToken = query(`INSERT INTO login_tokens (token_hash, user_id, expires_ts) VALUES ($1, $2, $3)`)
	selectLoginToken = query(`SELECT token_hash, user_id, expires_ts FROM login_tokens WHERE token_hash = $1`)
	deleteLoginToken = query(`DELETE FROM login_tokens WHERE token_hash = $1`)
	oldLoginTokens   = query(`DELETE FROM login_tokens WHERE expires_ts <= $1`)
	deleteUserLogins = query(`DELETE FROM login_tokens WHERE user_id = $1`)

	upsertUIAProgress = query(`INSERT INTO uia_progress (session_id, completed, token, expires_ts) VALUES ($1, $2, $3, $4)
		ON CONFLICT (session_id) DO UPDATE SET completed = excluded.completed, token = excluded.token`)
	selectUIAProgress = query(`SELECT session_id, completed, token, expires_ts FROM uia_progress WHERE session_id = $1`)
	deleteUIAProgress = query(`DELETE FROM uia_progress WHERE session_id = $1`)
	oldUIAProgress    = query(`DELETE FROM uia_progress WHERE expires_ts <= $1`)
)

// InsertLoginToken stores a login token.
func (tx *Tx) InsertLoginToken(t LoginTokenRow) error {
	_, err := tx.exec(insertLoginToken, t.TokenHash, t.User, t.Expires)
	return err
}

// LoginToken returns a login token, one that has expired too; ErrNotFound if
// there is none.
func (tx *Tx) LoginToken(hash []byte) (LoginTokenRow, error) {
	var t LoginTokenRow
	err := tx.one(selectLoginToken, []any{hash}, &t.TokenHash, &t.User, &t.Expires)
	return t, err
}

// UseLoginToken removes a login token; ErrNotFound if there is none any more.
func (tx *Tx) UseLoginToken(hash []byte) error {
	return atLeastOne(tx.exec(deleteLoginToken, hash))
}

// DeleteLoginTokens removes a user's login tokens.
func (tx *Tx) DeleteLoginTokens(user spec.UserID) error {
	_, err := tx.exec(deleteUserLogins, user)
	return err
}

// PutUIAProgress stores how far a session has come, in place of what was stored
// of it before.
func (tx *Tx) PutUIAProgress(p UIAProgressRow) error {
	completed, err := json.Marshal(p.Completed)
	if err != nil {
		return err
	}
	_, err = tx.exec(upsertUIAProgress, p.Session, string(completed), nullString(p.Token), p.Expires)
	return err
}

// UIAProgress returns how far a session has come; ErrNotFound if nothing is
// stored of it.
func (tx *Tx) UIAProgress(session string) (UIAProgressRow, error) {
	var p UIAProgressRow
	var completed string
	err := tx.one(selectUIAProgress, []any{session}, &p.Session, &completed, &p.Token, &p.Expires)
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal([]byte(completed), &p.Completed)
}

// DeleteUIAProgress forgets a session. One that is not there is fine.
func (tx *Tx) DeleteUIAProgress(session string) error {
	_, err := tx.exec(deleteUIAProgress, session)
	return err
}

// PruneLogins removes login tokens and sessions of user-interactive
// authentication that have expired.
func (tx *Tx) PruneLogins(now int64) error {
	for _, s := range []*stmt{oldLoginTokens, oldUIAProgress} {
		if _, err := tx.exec(s, now); err != nil {
			return err
		}
	}
	return nil
}

var (
	insertParting  = query(`INSERT INTO partings (user_id) VALUES ($1) ON CONFLICT DO NOTHING`)
	selectPartings = query(`SELECT user_id FROM partings ORDER BY user_id`)
	deleteParting  = query(`DELETE FROM partings WHERE user_id = $1`)
)

// Partings lists the deactivated users who may still be in rooms.
func (tx *Tx) Partings() ([]spec.UserID, error) {
	var out []spec.UserID
	err := tx.each(selectPartings, nil, func(r *rows) error {
		var u spec.UserID
		err := r.scan(&u)
		out = append(out, u)
		return err
	})
	return out, err
}

// EndParting notes that a deactivated user is in no room any more.
func (tx *Tx) EndParting(user spec.UserID) error {
	_, err := tx.exec(deleteParting, user)
	return err
}

// The rows of a chain of refreshed tokens.
var (
	selectSessionByRefresh = query(`SELECT s.token_hash, s.user_id, s.device_id, s.created_ts, s.expires_ts, s.refresh_hash, s.replaces_hash,
			u.guest, u.admin, u.locked, u.suspended, u.erased, u.created_ts, u.deactivated_ts
		FROM sessions s JOIN users u ON u.user_id = s.user_id WHERE s.refresh_hash = $1`)
	selectReplacing = query(`SELECT token_hash FROM sessions WHERE replaces_hash = $1 ORDER BY created_ts, token_hash`)
	deleteSession   = query(`DELETE FROM sessions WHERE token_hash = $1`)
	deleteRivals    = query(`DELETE FROM sessions WHERE replaces_hash = $1 AND token_hash <> $2`)
	settleSession   = query(`UPDATE sessions SET replaces_hash = NULL WHERE token_hash = $1`)
)

// SessionByRefresh returns the session of a refresh token with its account;
// ErrNotFound if there is none.
func (tx *Tx) SessionByRefresh(refreshHash []byte) (SessionRow, error) {
	return tx.session(selectSessionByRefresh, refreshHash)
}

// SettleSession ends what a session replaces and what else would replace the
// same, because the session was used.
func (tx *Tx) SettleSession(s SessionRow) error {
	if s.ReplacesHash == nil {
		return nil
	}
	if _, err := tx.exec(deleteRivals, s.ReplacesHash, s.TokenHash); err != nil {
		return err
	}
	if _, err := tx.exec(deleteSession, s.ReplacesHash); err != nil {
		return err
	}
	_, err := tx.exec(settleSession, s.TokenHash)
	return err
}

// LimitReplacing removes the oldest of the sessions that would replace one when
// they are used, so that at most so many are left.
func (tx *Tx) LimitReplacing(tokenHash []byte, most int) error {
	var list [][]byte
	err := tx.each(selectReplacing, []any{tokenHash}, func(r *rows) error {
		var hash []byte
		err := r.scan(&hash)
		list = append(list, hash)
		return err
	})
	for _, hash := range list[:max(0, len(list)-most)] {
		if err == nil {
			_, err = tx.exec(deleteSession, hash)
		}
	}
	return err
}
