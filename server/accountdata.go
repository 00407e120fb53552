package server

import (
	"context"
	"errors"
	"fmt"

	"atoll/spec"
	"atoll/storage"
)

const (
	// maxAccountData is the size of account data of one type in bytes.
	maxAccountData = 256 << 10
	// maxDataType is the length of its type in bytes.
	maxDataType = 255
)

// AccountData keeps what clients store for themselves. It is safe for
// concurrent use.
//
// Spec: client-server-api#client-config
type AccountData struct{ *base }

// AccountDataKey names account data.
type AccountDataKey struct {
	User spec.UserID
	// Room is the room that it belongs to; empty for none.
	Room spec.RoomID
	Type string
}

// Get returns the content, a JSON object; M_NOT_FOUND if nothing was stored.
// There is no fall-back from a room's to that of no room.
// Spec: client-server-api#get_matrixclientv3useruseridaccount_datatype
func (a *AccountData) Get(ctx context.Context, key AccountDataKey) ([]byte, error) {
	if !storable(key.Type) {
		return nil, errNoAccountData()
	}
	var row storage.AccountDataRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.AccountData(key.User, key.Room, key.Type)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNoAccountData()
	}
	if err != nil {
		return nil, fmt.Errorf("account data of %s: %w", key.User, err)
	}
	return row.Content, nil
}

func errNoAccountData() error {
	return spec.Errorf(spec.CodeNotFound, nil, "there is no account data of that type")
}

// Put stores account data for a client. Errors: M_BAD_JSON with 405 for the
// types that only the server writes, M_NOT_JSON and M_BAD_JSON for what is no
// object, M_TOO_LARGE, M_INVALID_PARAM for a type that is too long.
// Spec: client-server-api#put_matrixclientv3useruseridaccount_datatype
func (a *AccountData) Put(ctx context.Context, key AccountDataKey, content []byte) error {
	switch key.Type {
	case "m.fully_read", "m.push_rules":
		return &spec.Error{Code: spec.CodeBadJSON, Msg: "account data of this type has endpoints of its own", Status: 405}
	}
	if key.Type == "" || len(key.Type) > maxDataType || !storable(key.Type) {
		return spec.Errorf(spec.CodeInvalidParam, nil, "this is no valid type of account data")
	}
	if err := checkObject(content, maxAccountData); err != nil {
		return err
	}
	return a.store(ctx, key, content)
}

// store writes account data of any type, the server's own included, and
// announces it to the user's devices. The content is a JSON object.
func (a *AccountData) store(ctx context.Context, key AccountDataKey, content []byte) error {
	entry := storage.LogEntry{Kind: storage.LogAccountData, User: key.User, Text: key.Type}
	if key.Room != "" {
		nid, err := a.roomNID(ctx, key.Room)
		if err != nil {
			return fmt.Errorf("store account data of %s: %w", key.User, err)
		}
		entry.RoomNID = nid
	}
	_, err := a.db.Commit(ctx, &storage.Unit{
		Log:   []storage.LogEntry{entry},
		Extra: []storage.Row{&storage.AccountDataRow{User: key.User, Room: key.Room, Type: key.Type, Content: content, Entry: 1}},
	})
	if err != nil {
		return fmt.Errorf("store account data of %s: %w", key.User, err)
	}
	return nil
}

// roomNID returns the local id of a room, 0 if the room is not known here:
// clients may store what belongs to rooms that they have yet to join.
func (a *AccountData) roomNID(ctx context.Context, room spec.RoomID) (int64, error) {
	var row storage.RoomRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.RoomByID(room)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	return row.NID, err
}
