package server

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// This file has what other parts of the server ask of rooms.

var _ AliasRooms = (*Rooms)(nil)

// ServersInRoom implements AliasRooms.
func (rs *Rooms) ServersInRoom(ctx context.Context, id spec.RoomID) ([]spec.ServerName, error) {
	r, err := rs.room(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	servers := r.servers()
	// This one first: the likeliest to answer whoever asked it.
	if i := slices.Index(servers, rs.name); i > 0 {
		servers[0], servers[i] = servers[i], servers[0]
	}
	return servers, nil
}

// MayAddAlias implements AliasRooms: members may.
func (rs *Rooms) MayAddAlias(ctx context.Context, id spec.RoomID, user spec.UserID) (bool, error) {
	row, err := rs.membership(ctx, id, user)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return row.Membership == "join", err
}

// MayRemoveAlias implements AliasRooms: those may who can change the room's
// canonical alias.
func (rs *Rooms) MayRemoveAlias(ctx context.Context, id spec.RoomID, user spec.UserID) (bool, error) {
	may := false
	err := rs.look(ctx, id, func(c *roomcore.Core) error {
		member, err := c.MemberAt(c.Head().Root, user)
		if err != nil || member != "join" {
			return err
		}
		power, err := c.PowerLevels()
		if err == nil {
			may = power.User(user) >= power.Event("m.room.canonical_alias", true)
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return may, err
}

// AliasRemoved implements AliasRooms.
func (rs *Rooms) AliasRemoved(ctx context.Context, removed AliasRemoved) error {
	content, err := rs.withoutAlias(ctx, removed)
	if err != nil || content == nil {
		return err
	}
	_, err = rs.append(ctx, removed.Room, roomcore.Proposal{
		Sender: removed.By, Type: "m.room.canonical_alias", StateKey: new(string), Content: content, OriginServerTS: rs.ms(),
	})
	var e *spec.Error
	if errors.As(err, &e) && e.Code == spec.CodeForbidden {
		return nil // the alias is gone whether or not the room may say so
	}
	return err
}

// withoutAlias returns the content of the canonical alias event without the
// alias, nil if it does not name it.
func (rs *Rooms) withoutAlias(ctx context.Context, removed AliasRemoved) ([]byte, error) {
	var content []byte
	err := rs.look(ctx, removed.Room, func(c *roomcore.Core) error {
		row, err := c.StateAt(c.Head().Root, spec.StateKey{Type: "m.room.canonical_alias"})
		if err != nil || row == nil {
			return err
		}
		fields := map[string]any{}
		if json.Unmarshal(row.Event.Content, &fields) != nil {
			return nil
		}
		named := fields["alias"] == string(removed.Alias)
		if named {
			delete(fields, "alias")
		}
		if list, ok := fields["alt_aliases"].([]any); ok {
			kept := slices.DeleteFunc(slices.Clone(list), func(v any) bool { return v == string(removed.Alias) })
			named = named || len(kept) < len(list)
			fields["alt_aliases"] = kept
		}
		if named {
			content, err = json.Marshal(fields)
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return content, err
}

// profileChanged brings a changed profile into the rooms that show it.
// Spec: client-server-api#events-on-change-of-profile-information.
func (rs *Rooms) profileChanged(ctx context.Context, change ProfileChange) error {
	rooms, err := rs.JoinedRooms(ctx, change.User)
	if err != nil {
		return err
	}
	key := string(change.User)
	for _, id := range rooms {
		content, err := rs.memberContent(ctx, change.User, "join", nil)
		if err != nil {
			return err
		}
		_, err = rs.append(ctx, id, roomcore.Proposal{
			Sender: change.User, Type: spec.TypeMember, StateKey: &key, Content: content, OriginServerTS: rs.ms(),
		})
		if err != nil {
			rs.log.Info("a profile change did not reach a room", "room", id, "cause", err)
		}
	}
	return nil
}

// profileFields adds what the profile of a local user says to the content of a
// member event.
func (rs *Rooms) profileFields(ctx context.Context, user spec.UserID, fields map[string]any) {
	var p Profile
	err := rs.db.Read(ctx, func(tx *storage.Tx) (err error) {
		p, err = readProfile(tx, user)
		return err
	})
	if err != nil {
		// A member without a name is better than no member.
		rs.log.Warn("profile could not be read", "user", user, "cause", err)
		return
	}
	if name := p.DisplayName(); name != "" {
		fields["displayname"] = name
	}
	if url := p.AvatarURL(); url != "" {
		fields["avatar_url"] = url
	}
}

// ledgerDone removes a judged PDU from the ledger, if it ever was there.
func (rs *Rooms) ledgerDone(r *room, id spec.EventID) {
	r.ledger.mu.Lock()
	kept := r.ledger.kept[id]
	delete(r.ledger.kept, id)
	r.ledger.mu.Unlock()
	if !kept {
		return
	}
	err := rs.db.Write(context.WithoutCancel(rs.life), func(tx *storage.Tx) error { return tx.DropLedger(r.nid, id) })
	if err != nil {
		// It is judged again after a restart, with the same result.
		rs.log.Warn("a judged event stays in the ledger", "room", r.id, "event", id, "cause", err)
	}
}

// RoomStateRoot returns the forward extremities of a room, sorted, and the root
// of its resolved state, as committed: what servers compare to find out whether
// they agree. See spec/state-root.md.
func (rs *Rooms) RoomStateRoot(ctx context.Context, id spec.RoomID) ([]spec.EventID, spec.Hash, error) {
	_, view, err := rs.committedView(ctx, id)
	if err != nil {
		return nil, spec.Hash{}, err
	}
	ids := make([]spec.EventID, 0, len(view.Extremities))
	for _, e := range view.Extremities {
		ids = append(ids, e.ID)
	}
	return ids, view.Root, nil
}
