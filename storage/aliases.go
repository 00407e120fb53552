package storage

import (
	"atoll/spec"
)

// AliasRow is an alias of this server.
type AliasRow struct {
	Alias   spec.RoomAlias
	Room    spec.RoomID
	Creator spec.UserID
	Created int64 // ms since the epoch
}

var (
	insertAlias = query(`INSERT INTO aliases (alias, room_id, creator, created_ts) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING`)
	selectAlias       = query(`SELECT alias, room_id, creator, created_ts FROM aliases WHERE alias = $1`)
	selectRoomAliases = query(`SELECT alias, room_id, creator, created_ts FROM aliases WHERE room_id = $1 ORDER BY alias`)
	deleteAlias       = query(`DELETE FROM aliases WHERE alias = $1`)
	moveAliases       = query(`UPDATE aliases SET room_id = $1 WHERE room_id = $2`)
)

// InsertAlias makes an alias; ErrConstraint if it exists.
func (tx *Tx) InsertAlias(a AliasRow) error {
	n, err := tx.exec(insertAlias, a.Alias, a.Room, a.Creator, a.Created)
	if err == nil && n == 0 {
		return ErrConstraint
	}
	return err
}

// Alias looks an alias up; ErrNotFound if there is none.
func (tx *Tx) Alias(alias spec.RoomAlias) (AliasRow, error) {
	var a AliasRow
	err := tx.one(selectAlias, []any{alias}, &a.Alias, &a.Room, &a.Creator, &a.Created)
	return a, err
}

// RoomAliases lists the aliases of a room in alphabetical order.
func (tx *Tx) RoomAliases(room spec.RoomID) ([]AliasRow, error) {
	var out []AliasRow
	err := tx.each(selectRoomAliases, []any{room}, func(r *rows) error {
		var a AliasRow
		err := r.scan(&a.Alias, &a.Room, &a.Creator, &a.Created)
		out = append(out, a)
		return err
	})
	return out, err
}

// DeleteAlias removes an alias; ErrNotFound if there is none.
func (tx *Tx) DeleteAlias(alias spec.RoomAlias) error {
	return atLeastOne(tx.exec(deleteAlias, alias))
}

// MoveAliases makes the aliases of one room name another, as an upgrade does.
func (tx *Tx) MoveAliases(from, to spec.RoomID) error {
	_, err := tx.exec(moveAliases, to, from)
	return err
}
