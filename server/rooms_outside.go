package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// This file has the rooms that this server is not in: invites to them, and
// turning those down.

// rejectTimeout bounds telling the room's servers that an invite was rejected.
const rejectTimeout = 2 * time.Minute

// Invitation is an invite that another server asks us to sign.
type Invitation struct {
	Origin  spec.ServerName
	Version spec.RoomVersion
	Room    spec.RoomID
	EventID spec.EventID
	Event   []byte   // as received
	State   [][]byte // stripped or full events by which the user recognises the room
}

// ReceiveInvite checks an invite for a local user, signs it and, when this server
// is not in the room, keeps it for the user's clients. It returns the event with
// our signature. Spec: server-server-api#inviting-to-a-room.
func (rs *Rooms) ReceiveInvite(ctx context.Context, in Invitation) (*spec.Event, error) {
	ev, user, err := rs.checkInvite(ctx, in)
	if err != nil {
		return nil, err
	}
	signed, err := ev.Sign(rs.name, rs.key)
	if err != nil {
		return nil, err
	}
	err = rs.ServerAllowed(ctx, in.Origin, in.Room)
	switch spec.CodeOf(err) {
	case "":
		return signed, nil // it comes with the room's events
	case spec.CodeNotFound:
		return signed, rs.keepInvite(ctx, signed, user, stripped(in.State))
	}
	return nil, err
}

func (rs *Rooms) checkInvite(ctx context.Context, in Invitation) (*spec.Event, spec.UserID, error) {
	rules, ok := spec.RulesOf(in.Version)
	if !ok || !rules.Supported {
		return nil, "", &spec.Error{Code: spec.CodeIncompatibleRoomVersion, Msg: "this server does not support the room's version",
			Fields: map[string]any{"room_version": in.Version}}
	}
	ev, err := spec.ParseEvent(rules, in.Event)
	if err != nil {
		return nil, "", spec.Errorf(spec.CodeBadJSON, err, "not a valid event of room version %s", in.Version)
	}
	if ev.Room != in.Room || ev.ID != in.EventID || ev.Type != spec.TypeMember || ev.State == nil || ev.Membership() != "invite" {
		return nil, "", spec.Errorf(spec.CodeInvalidParam, nil, "the event is not the invite to the room that the request names")
	}
	user, err := spec.ParseUserID(*ev.State)
	if err != nil || !rs.local(user) {
		return nil, "", spec.Errorf(spec.CodeInvalidParam, err, "the invited user is not of this server")
	}
	if ev.Sender.Server() != in.Origin {
		return nil, "", spec.Errorf(spec.CodeInvalidParam, nil, "the inviter is not of your server")
	}
	if err := rs.remote.VerifyEvents(ctx, []*spec.Event{ev})[0]; err != nil {
		return nil, "", spec.Errorf(spec.CodeInvalidParam, err, "the invite is not signed by the inviter's server")
	}
	if err := rs.checkInviteState(ctx, ev, in.State); err != nil {
		return nil, "", err
	}
	if err := rs.checkSameVersion(ctx, ev); err != nil {
		return nil, "", err
	}
	return ev, user, rs.accounts.mustExist(ctx, user)
}

// checkInviteState holds the state that comes with an invite to what the
// specification asks of new room versions.
// v3–v11: servers in use send stripped events, which are let pass.
// v12: full events of the room, signed, the create event among them.
// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (rs *Rooms) checkInviteState(ctx context.Context, invite *spec.Event, state [][]byte) error {
	if !invite.Rules.RoomIDIsCreateHash {
		return nil
	}
	events := make([]*spec.Event, 0, len(state))
	create := false
	for _, raw := range state {
		ev, err := spec.ParseEvent(invite.Rules, raw)
		if err != nil {
			return spec.Errorf(spec.CodeInvalidParam, err, "the room state of the invite has an entry that is no event of the room's version")
		}
		if ev.Room != invite.Room {
			return spec.Errorf(spec.CodeInvalidParam, nil, "the room state of the invite has an event of another room")
		}
		create = create || ev.StateKeyIs(spec.TypeCreate, "")
		events = append(events, ev)
	}
	if !create {
		return spec.Errorf(spec.CodeMissingParam, nil, "the room state of the invite lacks the create event")
	}
	for _, err := range rs.remote.VerifyEvents(ctx, events) {
		if err != nil {
			return spec.Errorf(spec.CodeInvalidParam, err, "the room state of the invite has an event of bad signature")
		}
	}
	return nil
}

// checkSameVersion refuses an event that says that a room which this server
// holds has another version than it has.
func (rs *Rooms) checkSameVersion(ctx context.Context, ev *spec.Event) error {
	row, err := rs.roomRow(ctx, ev.Room)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (row.Flags&storage.RoomOutside != 0 || row.RoomVersion == ev.Rules.Version) {
		return nil
	}
	if err == nil {
		err = spec.Errorf(spec.CodeInvalidParam, nil, "the room is of version %s", row.RoomVersion)
	}
	return err
}

// stripped makes the stripped state that clients get with an invite. What cannot
// be read is left out.
func stripped(state [][]byte) []byte {
	out := []byte{'['}
	for _, raw := range state {
		s := strip(raw)
		if s == nil {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, s...)
	}
	return append(out, ']')
}

// strip leaves of a state event what stripped state has; nil if it is none.
// Spec: client-server-api#stripped-state.
func strip(raw []byte) []byte {
	var ev struct {
		Content  json.RawMessage `json:"content"`
		Sender   string          `json:"sender"`
		StateKey *string         `json:"state_key"`
		Type     string          `json:"type"`
	}
	if json.Unmarshal(raw, &ev) != nil || ev.StateKey == nil || ev.Type == "" || !bytes.HasPrefix(ev.Content, []byte("{")) {
		return nil
	}
	if _, err := spec.ParseUserID(ev.Sender); err != nil {
		return nil
	}
	out, err := json.Marshal(ev)
	if err != nil {
		return nil
	}
	return out
}

// withInvite adds the invite or knock itself to the stripped state.
func withInvite(state []byte, ev *spec.Event) []byte {
	out := bytes.TrimSuffix(state, []byte{']'})
	if len(out) > 1 {
		out = append(out, ',')
	}
	return append(append(out, ev.StrippedState()...), ']')
}

// keepInvite stores an invite to a room that this server is not in.
func (rs *Rooms) keepInvite(ctx context.Context, ev *spec.Event, user spec.UserID, state []byte) error {
	return rs.writeOutside(ctx, ev, storage.MembershipRow{
		User: user, Membership: "invite", Outside: true, Stripped: withInvite(state, ev),
	})
}

// writeOutside stores the membership event of a local user in a room that this
// server is not in, and tells the user's clients.
func (rs *Rooms) writeOutside(ctx context.Context, ev *spec.Event, member storage.MembershipRow) error {
	rows, err := rs.db.StateKeyNIDs(ctx, []spec.StateKey{ev.Key()})
	if err != nil {
		return err
	}
	// Taken before the write, as new numbers may themselves need one.
	newRoom, newEvent := rs.db.NewRoomNID(), rs.db.NewEventNIDs(1)
	return rs.db.Write(ctx, func(tx *storage.Tx) error {
		unit := &storage.Unit{}
		room, err := tx.RoomByID(ev.Room)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			room = storage.RoomRow{NID: newRoom, ID: ev.Room, RoomVersion: ev.Rules.Version, Flags: storage.RoomOutside}
			unit.Room = &storage.RoomUpdate{RoomRow: room}
		case err != nil:
			return err
		}
		nid := int64(0)
		known, err := tx.EventByID(room.NID, ev.ID)
		switch {
		case err == nil:
			nid = known.NID
		case errors.Is(err, storage.ErrNotFound):
			nid = newEvent
			if rows[0].New {
				unit.StateKeys = rows
			}
			unit.Events = []storage.EventRow{{
				NID: nid, RoomNID: room.NID, Event: ev, Kind: storage.StateWaiting, StateKeyNID: rows[0].NID,
			}}
		default:
			return err
		}
		member.RoomNID, member.EventNID = room.NID, nid
		unit.Memberships = []storage.MembershipRow{member}
		unit.Log = []storage.LogEntry{{Kind: storage.LogMembership, RoomNID: room.NID, User: member.User, EventNID: nid}}
		_, err = tx.Apply(unit)
		return err
	})
}

// leaveOutside turns an invite or a knock down. It holds at once; the servers of
// the room are told as far as they can be reached.
func (rs *Rooms) leaveOutside(ctx context.Context, req ChangeMembership, row storage.MembershipRow) error {
	if row.Membership != "invite" && row.Membership != "knock" {
		return nil
	}
	inviter, err := rs.inviter(ctx, req.Room, req.Sender)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	servers := knownServers(req.Room, row.Stripped)
	if row.Membership == "invite" && inviter != "" {
		servers = slices.DeleteFunc(servers, func(s spec.ServerName) bool { return s == inviter.Server() })
		servers = slices.Insert(servers, 0, inviter.Server())
	}
	servers = slices.DeleteFunc(servers, func(s spec.ServerName) bool { return s == rs.name })
	err = rs.db.Write(ctx, func(tx *storage.Tx) error {
		row.Membership, row.Stripped = "leave", nil
		_, err := tx.Apply(&storage.Unit{
			Memberships: []storage.MembershipRow{row},
			Log: []storage.LogEntry{{
				Kind: storage.LogMembership, RoomNID: row.RoomNID, User: req.Sender, EventNID: row.EventNID,
			}},
		})
		return err
	})
	if err != nil || rs.remote == nil {
		return err
	}
	rs.spawn(func() {
		ctx, cancel := context.WithTimeout(rs.life, rejectTimeout)
		defer cancel()
		for _, dest := range servers {
			err := rs.tellRejection(ctx, dest, req)
			if err == nil {
				return
			}
			rs.log.Info("could not tell that an invite or a knock is over", "room", req.Room, "dest", dest, "cause", err)
		}
	})
	return nil
}

// inviter returns who sent the invite that a user has to a room.
func (rs *Rooms) inviter(ctx context.Context, id spec.RoomID, user spec.UserID) (spec.UserID, error) {
	row, err := rs.membership(ctx, id, user)
	if err != nil {
		return "", err
	}
	var sender spec.UserID
	err = rs.db.Read(ctx, func(tx *storage.Tx) error {
		ev, err := eventByNID(tx, row.EventNID)
		if err == nil {
			sender = ev.Event.Sender
		}
		return err
	})
	return sender, err
}

// tellRejection does the leave handshake with a resident server.
// Spec: server-server-api#leaving-rooms-rejecting-invites.
func (rs *Rooms) tellRejection(ctx context.Context, dest spec.ServerName, req ChangeMembership) error {
	tpl, err := rs.remote.MakeLeave(ctx, dest, req.Room, req.Sender)
	if err != nil {
		return err
	}
	rules, ok := spec.RulesOf(tpl.Version)
	if !ok {
		return spec.Errorf(spec.CodeIncompatibleRoomVersion, nil, "room version %q", tpl.Version)
	}
	ev, err := rs.fromTemplate(rules, tpl.Event, remoteJoin{room: req.Room, user: req.Sender, content: leaveContent(req.Reason)})
	if err != nil {
		return err
	}
	return rs.remote.SendLeave(ctx, dest, SendEventRequest{Room: req.Room, EventID: ev.ID, Event: ev.AppendFederation(nil, 0)})
}

func leaveContent(reason string) []byte {
	fields := map[string]string{"membership": "leave"}
	if reason != "" {
		fields["reason"] = reason
	}
	content, err := json.Marshal(fields)
	if err != nil {
		panic(err) // a map of strings
	}
	return content
}

// receiveOutside takes an event about a room that this server is not in. The
// only ones that matter are those that end the invite or the knock of a local
// user. They cannot be checked against the room's state, so the event must come
// from the server that invited, or cite the invite or knock itself, which nobody
// outside of the room can. All other events are refused.
// Spec: server-server-api#leaving-rooms-rejecting-invites
func (rs *Rooms) receiveOutside(ctx context.Context, origin spec.ServerName, id spec.RoomID, raw []byte) (*spec.Event, error) {
	room, err := rs.roomRow(ctx, id)
	if err != nil {
		return nil, noRoom(err)
	}
	rules, ok := spec.RulesOf(room.RoomVersion)
	if !ok {
		return nil, errNoRoom(nil)
	}
	ev, err := spec.ParseEvent(rules, raw)
	if err != nil {
		return nil, err
	}
	now := ev.Membership()
	if ev.Room != id || ev.Type != spec.TypeMember || ev.State == nil || now != "leave" && now != "ban" {
		return ev, errNoRoom(nil)
	}
	user, err := spec.ParseUserID(*ev.State)
	if err != nil || !rs.local(user) {
		return ev, errNoRoom(err)
	}
	row, err := rs.membership(ctx, id, user)
	if err != nil {
		return ev, noRoom(err)
	}
	if !row.Outside || row.Membership != "invite" && row.Membership != "knock" {
		return ev, errNoRoom(nil)
	}
	var pending storage.EventRow
	err = rs.db.Read(ctx, func(tx *storage.Tx) (err error) {
		pending, err = eventByNID(tx, row.EventNID)
		return err
	})
	if err != nil {
		return ev, noRoom(err)
	}
	cites := slices.Contains(ev.Auth, pending.Event.ID)
	if !cites && (row.Membership == "knock" || ev.Sender.Server() != pending.Event.Sender.Server()) {
		return ev, spec.Errorf(spec.CodeForbidden, nil, "the event does not belong to what is known of the room")
	}
	if err := rs.checkSigned(ctx, ev); err != nil {
		return ev, err
	}
	rs.log.Debug("an invite was taken back", "room", id, "user", user, "origin", origin)
	return ev, rs.writeOutside(ctx, ev, storage.MembershipRow{User: user, Membership: now, Outside: true})
}

// noRoom is errNoRoom for what could not be found.
func noRoom(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return errNoRoom(err)
	}
	return err
}
