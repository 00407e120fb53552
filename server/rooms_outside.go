package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"atoll/server/roomcore"
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
	inside, err := rs.inRoom(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	if inside {
		return signed, nil // it comes with the room's events
	}
	return signed, rs.keepInvite(ctx, signed, user, stripped(in.State))
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
	if ev.Room != in.Room || ev.Type != spec.TypeMember || ev.State == nil || ev.Membership() != "invite" {
		return nil, "", spec.Errorf(spec.CodeInvalidParam, nil, "the event is not an invite to the room")
	}
	user, err := spec.ParseUserID(*ev.State)
	if err != nil || !rs.local(user) {
		return nil, "", spec.Errorf(spec.CodeInvalidParam, err, "the invited user is not of this server")
	}
	if ev.Sender.Server() != in.Origin {
		return nil, "", spec.Errorf(spec.CodeForbidden, nil, "the inviter is not of your server")
	}
	if err := rs.remote.VerifyEvents(ctx, []*spec.Event{ev})[0]; err != nil {
		return nil, "", spec.Errorf(spec.CodeForbidden, err, "the invite is not signed by the inviter's server")
	}
	return ev, user, rs.accounts.mustExist(ctx, user)
}

// inRoom reports whether a user of this server is joined.
func (rs *Rooms) inRoom(ctx context.Context, id spec.RoomID) (bool, error) {
	joined := false
	err := rs.look(ctx, id, func(c *roomcore.Core) error {
		joined = c.ServerJoined(rs.name)
		return nil
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return joined, err
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

// withInvite adds the invite itself to the stripped state.
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
	return rs.db.Write(ctx, func(tx *storage.Tx) error {
		unit := &storage.Unit{}
		room, err := tx.RoomByID(ev.Room)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			room = storage.RoomRow{NID: rs.db.NewRoomNID(), ID: ev.Room, RoomVersion: ev.Rules.Version, Flags: storage.RoomOutside}
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
			nid = rs.db.NewEventNIDs(1)
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
	if err != nil || inviter == "" || rs.remote == nil {
		return err
	}
	rs.spawn(func() {
		ctx, cancel := context.WithTimeout(rs.life, rejectTimeout)
		defer cancel()
		if err := rs.tellRejection(ctx, inviter.Server(), req); err != nil {
			rs.log.Info("could not tell that an invite was rejected", "room", req.Room, "dest", inviter.Server(), "cause", err)
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
