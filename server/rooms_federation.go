package server

import (
	"context"
	"errors"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// This file has what all questions of other servers about rooms have in common.
// They see what is committed. An event or a state is only ever told to a server
// together with the room in whose name it asked.

// errNoRoom is the answer about rooms that this server is not in, whether or not
// it knows them.
func errNoRoom(cause error) error {
	return spec.Errorf(spec.CodeNotFound, cause, "this server is not in the room")
}

// resident returns the owner of a room that this server is in and about which
// the origin may ask: M_NOT_FOUND, or M_FORBIDDEN for a server that the room's
// ACL denies. Spec: server-server-api#server-access-control-lists-acls
func (rs *Rooms) resident(ctx context.Context, origin spec.ServerName, id spec.RoomID) (*room, error) {
	r, err := rs.room(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNoRoom(err)
	}
	if err != nil {
		return nil, err
	}
	if !r.serverJoined(rs.name) {
		return nil, errNoRoom(nil)
	}
	return r, r.admits(origin)
}

// shared is resident for what only servers in the room may know: M_FORBIDDEN for
// others.
func (rs *Rooms) shared(ctx context.Context, origin spec.ServerName, id spec.RoomID) (*room, error) {
	r, err := rs.resident(ctx, origin, id)
	if err != nil {
		return nil, err
	}
	if !r.serverJoined(origin) {
		return nil, spec.Errorf(spec.CodeForbidden, nil, "your server is not in the room")
	}
	return r, nil
}

func (r *room) serverJoined(s spec.ServerName) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.ServerJoined(s)
}

// store reads the committed room.
func (r *room) store() *roomStore { return &roomStore{rooms: r.rooms, nid: r.nid} }

// eventAt reads a committed event of the room whose state is known; M_NOT_FOUND
// for all others, rejected ones among them.
func (r *room) eventAt(id spec.EventID) (*storage.EventRow, error) {
	row, err := r.store().EventByID(id)
	if err != nil {
		return nil, err
	}
	if row == nil || row.Kind != storage.StateRoot || row.Rejected != "" {
		return nil, spec.Errorf(spec.CodeNotFound, nil, "the event is not known here")
	}
	return row, nil
}

// stateOf reads one key of a committed state; nil where it has none.
func (r *room) stateOf(root spec.Hash, key spec.StateKey) (*spec.Event, error) {
	store := r.store()
	leaf, ok, err := spec.Lookup(store, root, spec.StatePath(key))
	if err != nil || !ok {
		return nil, err
	}
	row, err := store.EventByNID(leaf.Event)
	if err != nil || row == nil {
		return nil, err
	}
	return row.Event, nil
}

// aclAt is the server ACL of a state.
type aclAt struct {
	root spec.Hash
	acl  *spec.ServerACL // nil: the state has none
}

// admits checks the room's ACL: M_FORBIDDEN for a server that it denies.
func (r *room) admits(s spec.ServerName) error {
	root := r.view.Load().Root
	at := r.acl.Load()
	if at == nil || at.root != root {
		ev, err := r.stateOf(root, spec.StateKey{Type: spec.TypeServerACL})
		if err != nil {
			return err
		}
		at = &aclAt{root: root}
		if ev != nil {
			at.acl = spec.ParseServerACL(ev.Content)
		}
		r.acl.Store(at)
	}
	if !at.acl.Allows(s) {
		return spec.Errorf(spec.CodeForbidden, nil, "your server is excluded from the room")
	}
	return nil
}

// ServerAllowed checks what a server may do about a room by its ACL alone, for
// data that is local to a room: M_FORBIDDEN for a server that is denied,
// M_NOT_FOUND for rooms that this server is not in.
func (rs *Rooms) ServerAllowed(ctx context.Context, origin spec.ServerName, id spec.RoomID) error {
	_, err := rs.resident(ctx, origin, id)
	return err
}

// asPeerError turns what the room core refuses into what a server is told.
func asPeerError(err error) error {
	var refused *spec.AuthError
	switch {
	case errors.As(err, &refused):
		return spec.Errorf(spec.CodeForbidden, err, "not allowed in this room: %s", refused.Reason)
	case errors.Is(err, storage.ErrNotFound):
		return errNoRoom(err)
	}
	return err
}

// settled runs fn on the core and returns once the head that it saw is durable.
func (rs *Rooms) settled(ctx context.Context, id spec.RoomID, fn func(*roomcore.Core) error) error {
	return rs.change(ctx, id, func(c *roomcore.Core) (uint64, error) { return c.Queued(), fn(c) })
}

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
