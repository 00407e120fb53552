package server

import (
	"context"
	"encoding/json"
	"errors"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Leave takes the sender out of a room, or turns an invite or a knock down. It
// succeeds at once for a user who is not there any more, and for an invite also
// when the servers of the room cannot be reached.
// Spec: client-server-api#leaving-rooms.
func (rs *Rooms) Leave(ctx context.Context, req ChangeMembership) error {
	row, err := rs.membership(ctx, req.Room, req.Sender)
	if errors.Is(err, storage.ErrNotFound) {
		return spec.Errorf(spec.CodeForbidden, err, "you are not in this room")
	}
	if err != nil {
		return err
	}
	if row.Outside {
		return rs.leaveOutside(ctx, req, row)
	}
	switch row.Membership {
	case "leave":
		return nil
	case "ban":
		return spec.Errorf(spec.CodeForbidden, nil, "you are banned from this room")
	}
	return rs.setMembership(ctx, req, req.Sender, "leave")
}

// Kick takes somebody else out of the room; an invite is taken back so too.
// Spec: client-server-api#post_matrixclientv3roomsroomidkick.
func (rs *Rooms) Kick(ctx context.Context, req ChangeMembership) error {
	return rs.changeOther(ctx, req, "leave", func(now string) error {
		switch now {
		case "join", "invite", "knock":
			return nil
		}
		return spec.Errorf(spec.CodeForbidden, nil, "the user is not in the room")
	})
}

// Ban keeps somebody out of the room.
// Spec: client-server-api#banning-users-in-a-room.
func (rs *Rooms) Ban(ctx context.Context, req ChangeMembership) error {
	return rs.changeOther(ctx, req, "ban", func(string) error { return nil })
}

// Unban lifts a ban.
func (rs *Rooms) Unban(ctx context.Context, req ChangeMembership) error {
	return rs.changeOther(ctx, req, "leave", func(now string) error {
		if now == "ban" {
			return nil
		}
		return spec.Errorf(spec.CodeForbidden, nil, "the user is not banned")
	})
}

// Invite invites somebody; one who is joined or invited already, or banned,
// cannot be. Spec: client-server-api#post_matrixclientv3roomsroomidinvite.
func (rs *Rooms) Invite(ctx context.Context, req ChangeMembership) error {
	return rs.invite(ctx, req.Room, req.Sender, req.Target, inviteContent(req.Target, false, req.Reason))
}

// changeOther sets somebody else's membership if it is one that allow lets pass.
func (rs *Rooms) changeOther(ctx context.Context, req ChangeMembership, membership string, allow func(now string) error) error {
	err := rs.look(ctx, req.Room, func(c *roomcore.Core) error {
		own, err := c.MemberAt(c.Head().Root, req.Sender)
		if err != nil {
			return err
		}
		if own != "join" {
			return spec.Errorf(spec.CodeForbidden, nil, "you are not in this room")
		}
		now, err := c.MemberAt(c.Head().Root, req.Target)
		if err != nil {
			return err
		}
		return allow(now)
	})
	if err != nil {
		return asClientError(err)
	}
	return rs.setMembership(ctx, req, req.Target, membership)
}

func (rs *Rooms) setMembership(ctx context.Context, req ChangeMembership, target spec.UserID, membership string) error {
	fields := map[string]any{"membership": membership}
	if req.Reason != "" {
		fields["reason"] = req.Reason
	}
	content, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	key := string(target)
	_, err = rs.append(ctx, req.Room, roomcore.Proposal{
		Sender: req.Sender, Type: spec.TypeMember, StateKey: &key, Content: content, OriginServerTS: rs.ms(),
	})
	return err
}

// membership returns the user's membership row of the room, as committed.
func (rs *Rooms) membership(ctx context.Context, id spec.RoomID, user spec.UserID) (storage.MembershipRow, error) {
	var row storage.MembershipRow
	err := rs.db.Read(ctx, func(tx *storage.Tx) error {
		room, err := tx.RoomByID(id)
		if err != nil {
			return err
		}
		row, err = tx.Membership(room.NID, user)
		return err
	})
	return row, err
}

func inviteContent(_ spec.UserID, direct bool, reason string) map[string]any {
	fields := map[string]any{"membership": "invite"}
	if direct {
		fields["is_direct"] = true
	}
	if reason != "" {
		fields["reason"] = reason
	}
	return fields
}

// invite sends an invite; a user of another server has it signed there first.
func (rs *Rooms) invite(ctx context.Context, id spec.RoomID, sender, target spec.UserID, fields map[string]any) error {
	if rs.local(target) {
		if err := rs.accounts.mustExist(ctx, target); err != nil {
			return err
		}
		rs.profileFields(ctx, target, fields)
	}
	content, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	key := string(target)
	p := roomcore.Proposal{Sender: sender, Type: spec.TypeMember, StateKey: &key, Content: content, OriginServerTS: rs.ms()}
	if err := rs.look(ctx, id, func(c *roomcore.Core) error { return mayInvite(c, sender, target) }); err != nil {
		return asClientError(err)
	}
	if rs.local(target) {
		_, err = rs.append(ctx, id, p)
		return err
	}
	return rs.inviteRemote(ctx, id, target, p)
}

// mayInvite says what an invite meets, before anything is sent anywhere.
func mayInvite(c *roomcore.Core, sender, target spec.UserID) error {
	own, err := c.MemberAt(c.Head().Root, sender)
	if err != nil {
		return err
	}
	if own != "join" {
		return spec.Errorf(spec.CodeForbidden, nil, "you are not in this room")
	}
	now, err := c.MemberAt(c.Head().Root, target)
	if err != nil {
		return err
	}
	switch now {
	case "join":
		return spec.Errorf(spec.CodeForbidden, nil, "the user is in the room already")
	case "ban":
		return spec.Errorf(spec.CodeForbidden, nil, "the user is banned from the room")
	}
	return nil
}

// inviteRemote builds the invite, has the target's server sign it, and then
// appends it. Nothing of the room is held while the peer is asked.
// Spec: server-server-api#inviting-to-a-room.
func (rs *Rooms) inviteRemote(ctx context.Context, id spec.RoomID, target spec.UserID, p roomcore.Proposal) error {
	if rs.remote == nil {
		return spec.Errorf(spec.CodeForbidden, nil, "federation is off")
	}
	var ev *spec.Event
	var state [][]byte
	err := rs.look(ctx, id, func(c *roomcore.Core) (err error) {
		if ev, err = c.Build(p); err != nil {
			return err
		}
		if err = c.Allowed(ev); err != nil {
			return err
		}
		state, err = inviteState(c)
		return err
	})
	if err != nil {
		return asClientError(err)
	}
	signed, err := rs.remote.Invite(ctx, target.Server(), InviteRequest{
		Room: id, EventID: ev.ID, Version: ev.Rules.Version, Event: ev.AppendFederation(nil, 0), RoomState: state,
	})
	if err != nil {
		return inviteError(err)
	}
	if ev, err = rs.takeSignature(ctx, ev, signed, target.Server()); err != nil {
		return err
	}
	return asClientError(rs.change(context.WithoutCancel(ctx), id, func(c *roomcore.Core) (uint64, error) {
		v, err := c.Insert(ev, roomcore.Place{Live: true, Ours: true})
		if err != nil {
			return 0, err
		}
		if v.Status != roomcore.Accepted {
			return 0, spec.Errorf(spec.CodeForbidden, nil, "the invite is no longer allowed: %s", v.Reason)
		}
		return v.Seq, nil
	}))
}

// inviteError tells the inviter what the invited user's server said.
func inviteError(err error) error {
	if answer, ok := RemoteAnswer(err); ok {
		switch answer.Code {
		case spec.CodeForbidden, spec.CodeUnsupportedRoomVersion, spec.CodeIncompatibleRoomVersion, spec.CodeNotFound:
			return spec.Errorf(answer.Code, err, "the user's server refused the invite: %s", answer.Msg)
		}
	}
	return spec.Errorf(spec.CodeUnknown, err, "the user's server could not be reached")
}

// takeSignature returns our event with the peer's signature, after checking that
// nothing else was changed.
func (rs *Rooms) takeSignature(ctx context.Context, ours *spec.Event, raw []byte, server spec.ServerName) (*spec.Event, error) {
	theirs, err := spec.ParseEvent(ours.Rules, raw)
	if err != nil || theirs.ID != ours.ID {
		return nil, spec.Errorf(spec.CodeUnknown, err, "%s answered with another event", server)
	}
	for _, err := range rs.remote.VerifyEvents(ctx, []*spec.Event{theirs}) {
		if err != nil {
			return nil, spec.Errorf(spec.CodeUnknown, err, "%s did not sign the event", server)
		}
	}
	if len(theirs.SignatureKeyIDs(server)) == 0 {
		return nil, spec.Errorf(spec.CodeUnknown, nil, "%s did not sign the event", server)
	}
	return theirs, nil
}

// strippedTypes is the state by which an invited or knocking user recognises a
// room. Spec: client-server-api#stripped-state.
var strippedTypes = []string{
	spec.TypeCreate, "m.room.name", "m.room.avatar", "m.room.topic", spec.TypeJoinRules,
	"m.room.canonical_alias", "m.room.encryption",
}

// inviteState returns the full events that go with an invite over federation.
func inviteState(c *roomcore.Core) ([][]byte, error) {
	var events [][]byte
	for _, t := range strippedTypes {
		row, err := c.StateAt(c.Head().Root, spec.StateKey{Type: t})
		if err != nil {
			return nil, err
		}
		if row != nil {
			events = append(events, row.Event.AppendFederation(nil, 0))
		}
	}
	return events, nil
}

// memberContent makes the content of a user's own member event: the profile,
// and what the client wants to add.
func (rs *Rooms) memberContent(ctx context.Context, user spec.UserID, membership string, extra json.RawMessage) ([]byte, error) {
	fields := map[string]any{}
	if len(extra) > 0 {
		if err := json.Unmarshal(extra, &fields); err != nil {
			return nil, spec.Errorf(spec.CodeBadJSON, err, "the content must be an object")
		}
	}
	fields["membership"] = membership
	rs.profileFields(ctx, user, fields)
	return json.Marshal(fields)
}
