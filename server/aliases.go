package server

import (
	"context"
	"errors"
	"fmt"

	"atoll/spec"
	"atoll/storage"
)

// Aliases maps names to rooms. It is safe for concurrent use.
//
// Spec: client-server-api#room-aliases
type Aliases struct {
	*base
	rooms AliasRooms
}

// AliasRooms is what aliases need to know of rooms.
type AliasRooms interface {
	// ServersInRoom lists servers with users in the room, this one included if
	// it has any; none for a room that is not known.
	ServersInRoom(ctx context.Context, room spec.RoomID) ([]spec.ServerName, error)
	// MayAddAlias tells whether a user may give the room an alias.
	MayAddAlias(ctx context.Context, room spec.RoomID, user spec.UserID) (bool, error)
	// MayRemoveAlias tells whether a user who did not make the room's alias may
	// remove it all the same.
	MayRemoveAlias(ctx context.Context, room spec.RoomID, user spec.UserID) (bool, error)
	// AliasRemoved lets the room give up an alias in its canonical alias event,
	// if the user may send that.
	AliasRemoved(ctx context.Context, removed AliasRemoved) error
}

// AliasRemoved says that an alias does not name a room any more.
type AliasRemoved struct {
	Room  spec.RoomID
	Alias spec.RoomAlias
	By    spec.UserID
}

// newAliases makes the part. rooms may be nil: then everybody may add, and
// rooms have no servers but this one.
func newAliases(b *base, rooms AliasRooms) *Aliases { return &Aliases{base: b, rooms: rooms} }

// CreateAlias gives a room an alias.
type CreateAlias struct {
	By    Session
	Alias spec.RoomAlias
	Room  spec.RoomID
}

// Create makes an alias of this server. Errors: M_INVALID_PARAM for an alias of
// another server, M_FORBIDDEN, M_UNKNOWN with 409 if it exists.
// Spec: client-server-api#put_matrixclientv3directoryroomroomalias
func (a *Aliases) Create(ctx context.Context, c CreateAlias) error {
	if c.Alias.Server() != a.name || c.Alias.Localpart() == "" {
		return spec.Errorf(spec.CodeInvalidParam, nil, "this is no alias that belongs on this server")
	}
	if err := c.By.CheckNotSuspended(); err != nil {
		return err
	}
	if a.rooms != nil {
		may, err := a.rooms.MayAddAlias(ctx, c.Room, c.By.User)
		if err != nil {
			return fault(err, "who may add aliases to %s", c.Room)
		}
		if !may {
			return spec.Errorf(spec.CodeForbidden, nil, "you may not give this room an alias")
		}
	}
	row := storage.AliasRow{Alias: c.Alias, Room: c.Room, Creator: c.By.User, Created: a.ms()}
	err := a.db.Write(ctx, func(tx *storage.Tx) error { return tx.InsertAlias(row) })
	if errors.Is(err, storage.ErrConstraint) {
		return &spec.Error{Code: spec.CodeUnknown, Msg: "this alias exists already", Status: 409}
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", c.Alias, err)
	}
	return nil
}

// Resolve returns the room that an alias names, on whichever server, and
// servers through which it may be joined. M_NOT_FOUND if there is none; a
// remote server that cannot be asked is M_UNKNOWN with 502.
// Spec: client-server-api#get_matrixclientv3directoryroomroomalias
func (a *Aliases) Resolve(ctx context.Context, alias spec.RoomAlias) (DirectoryAnswer, error) {
	if alias.Server() == a.name {
		return a.Local(ctx, alias)
	}
	if a.remote == nil {
		return DirectoryAnswer{}, errNoAlias()
	}
	ctx, cancel := context.WithTimeout(ctx, remoteQueryTime)
	defer cancel()
	answer, err := a.remote.QueryDirectory(ctx, alias)
	if err != nil {
		return DirectoryAnswer{}, remoteFailure(err, "the alias could not be looked up on its server")
	}
	if _, err := spec.ParseRoomID(string(answer.Room)); err != nil {
		return DirectoryAnswer{}, badGateway(err, "the alias could not be looked up on its server")
	}
	if len(answer.Servers) == 0 {
		answer.Servers = []spec.ServerName{alias.Server()}
	}
	return answer, nil
}

// Local resolves an alias of this server; M_NOT_FOUND for any other.
func (a *Aliases) Local(ctx context.Context, alias spec.RoomAlias) (DirectoryAnswer, error) {
	row, err := a.row(ctx, alias)
	if err != nil {
		return DirectoryAnswer{}, err
	}
	answer := DirectoryAnswer{Room: row.Room}
	if a.rooms != nil {
		if answer.Servers, err = a.rooms.ServersInRoom(ctx, row.Room); err != nil {
			return DirectoryAnswer{}, fmt.Errorf("servers in %s: %w", row.Room, err)
		}
	}
	if len(answer.Servers) == 0 {
		answer.Servers = []spec.ServerName{a.name}
	}
	return answer, nil
}

func (a *Aliases) row(ctx context.Context, alias spec.RoomAlias) (storage.AliasRow, error) {
	var row storage.AliasRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.Alias(alias)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return row, errNoAlias()
	}
	if err != nil {
		return row, fmt.Errorf("look up %s: %w", alias, err)
	}
	return row, nil
}

func errNoAlias() error { return spec.Errorf(spec.CodeNotFound, nil, "there is no such alias") }

// OfRoom lists this server's aliases of a room. Who may know them is for the
// caller to say. Spec: client-server-api#get_matrixclientv3roomsroomidaliases
func (a *Aliases) OfRoom(ctx context.Context, room spec.RoomID) ([]spec.RoomAlias, error) {
	var rows []storage.AliasRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.RoomAliases(room)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("aliases of %s: %w", room, err)
	}
	aliases := make([]spec.RoomAlias, len(rows))
	for i, r := range rows {
		aliases[i] = r.Alias
	}
	return aliases, nil
}

// Delete removes an alias of this server. Who made it may, administrators of
// the server, and whom the room lets. Errors: M_NOT_FOUND, M_FORBIDDEN.
// Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
func (a *Aliases) Delete(ctx context.Context, by Session, alias spec.RoomAlias) error {
	row, err := a.row(ctx, alias)
	if err != nil {
		return err
	}
	may := row.Creator == by.User || by.Admin
	if !may && a.rooms != nil {
		if may, err = a.rooms.MayRemoveAlias(ctx, row.Room, by.User); err != nil {
			return fault(err, "who may remove aliases of %s", row.Room)
		}
	}
	if !may {
		return spec.Errorf(spec.CodeForbidden, nil, "this alias is not yours to remove")
	}
	err = a.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteAlias(alias) })
	if errors.Is(err, storage.ErrNotFound) {
		return errNoAlias()
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", alias, err)
	}
	if a.rooms == nil {
		return nil
	}
	// The alias is gone, whether or not the room can say so.
	if err := a.rooms.AliasRemoved(ctx, AliasRemoved{Room: row.Room, Alias: alias, By: by.User}); err != nil {
		a.log.Warn("a removed alias stays in the room's canonical alias event", "room", row.Room, "err", err)
	}
	return nil
}
