package storage

import (
	"atoll/spec"
)

// ProfileField is one field of a user's profile.
type ProfileField struct {
	Name  string
	Value []byte // JSON
}

// AccountDataRow is account data of one type. It is a Row, written as
// part of a unit.
type AccountDataRow struct {
	User    spec.UserID
	Room    spec.RoomID // empty: belongs to no room
	Type    string
	Content []byte // JSON object
	Pos     int64  // log position of the last change
	// Entry is the number, from 1, of the entry of Unit.Log whose position
	// becomes Pos; only for writing.
	Entry int
}

var (
	upsertProfileField = query(`INSERT INTO profile_fields (user_id, name, value) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value`)
	selectProfile      = query(`SELECT name, value FROM profile_fields WHERE user_id = $1 ORDER BY name`)
	deleteProfileField = query(`DELETE FROM profile_fields WHERE user_id = $1 AND name = $2`)
)

// PutProfileField sets a field of a profile.
func (tx *Tx) PutProfileField(user spec.UserID, f ProfileField) error {
	_, err := tx.exec(upsertProfileField, user, f.Name, string(f.Value))
	return err
}

// Profile returns the fields of a profile by name; none for users without one.
func (tx *Tx) Profile(user spec.UserID) ([]ProfileField, error) {
	var out []ProfileField
	err := tx.each(selectProfile, []any{user}, func(r *rows) error {
		var f ProfileField
		err := r.scan(&f.Name, &f.Value)
		out = append(out, f)
		return err
	})
	return out, err
}

// DeleteProfileField removes a field of a profile, if it is there.
func (tx *Tx) DeleteProfileField(user spec.UserID, name string) error {
	_, err := tx.exec(deleteProfileField, user, name)
	return err
}

var (
	selectAccountData = query(`SELECT user_id, room_id, type, content, pos FROM account_data
		WHERE user_id = $1 AND room_id = $2 AND type = $3`)
	selectAccountDataSince = query(`SELECT user_id, room_id, type, content, pos FROM account_data
		WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`)
)

// accountDataRank is where account data stands among the statements of a
// transaction.
const accountDataRank = rankFamily + 3

var upsertAccountData = newBulk(bulk{
	name: "upsert account data", rank: accountDataRank, key: 3, positioned: true,
	head:  `INSERT INTO account_data (user_id, room_id, type, content, pos) VALUES `,
	types: types("text text text text bigint"),
	tail:  `ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, pos = excluded.pos`,
})

func (r *AccountDataRow) statement() *bulk { return upsertAccountData }
func (r *AccountDataRow) size() int {
	return 16 + len(r.User) + len(r.Room) + len(r.Type) + len(r.Content)
}
func (r *AccountDataRow) appendArgs(dst []any, at positions) []any {
	if p := at.entry(r.Entry); p != 0 {
		r.Pos = p
	}
	return append(dst, string(r.User), string(r.Room), r.Type, string(r.Content), r.Pos)
}

// AccountData returns account data of one type; ErrNotFound if there is none.
func (tx *Tx) AccountData(user spec.UserID, room spec.RoomID, dataType string) (AccountDataRow, error) {
	var d AccountDataRow
	err := tx.one(selectAccountData, []any{user, room, dataType}, &d.User, &d.Room, &d.Type, &d.Content, &d.Pos)
	return d, err
}

// AccountDataRange returns a user's account data, of rooms and of none, that
// was last changed after one log position and not after another, in that
// order. From 0 it is all of it.
func (tx *Tx) AccountDataRange(user spec.UserID, after, upTo int64) ([]AccountDataRow, error) {
	var out []AccountDataRow
	err := tx.each(selectAccountDataSince, []any{user, after, upTo}, func(r *rows) error {
		var d AccountDataRow
		err := r.scan(&d.User, &d.Room, &d.Type, &d.Content, &d.Pos)
		out = append(out, d)
		return err
	})
	return out, err
}

// FilterRow is a filter that a client has stored.
type FilterRow struct {
	User    spec.UserID
	ID      string
	Content []byte // JSON object
	Used    int64  // when it was last stored, ms
}

var (
	upsertFilter = query(`INSERT INTO filters (user_id, filter_id, content, used_ts) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, filter_id) DO UPDATE SET used_ts = excluded.used_ts`)
	// One user's filters beyond so many, the newest counted first.
	trimFilters = query(`DELETE FROM filters WHERE user_id = $1 AND filter_id IN (
		SELECT filter_id FROM filters WHERE user_id = $1 ORDER BY used_ts DESC, filter_id LIMIT 1000 OFFSET $2)`)
	selectFilter = query(`SELECT content FROM filters WHERE user_id = $1 AND filter_id = $2`)
)

// PutFilter stores a filter, once, and keeps only the user's newest.
func (tx *Tx) PutFilter(f FilterRow, keep int) error {
	if _, err := tx.exec(upsertFilter, f.User, f.ID, string(f.Content), f.Used); err != nil {
		return err
	}
	_, err := tx.exec(trimFilters, f.User, keep)
	return err
}

// Filter returns the content of a user's filter; ErrNotFound if there is none.
func (tx *Tx) Filter(user spec.UserID, id string) ([]byte, error) {
	var content []byte
	err := tx.one(selectFilter, []any{user, id}, &content)
	return content, err
}
