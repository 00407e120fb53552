package server

import (
	"context"
	"encoding/json"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// This file answers send_join, send_leave and send_knock.

// SendMembership is a membership event that a server hands in, to be sent to the
// room on behalf of its user.
type SendMembership struct {
	Origin  spec.ServerName
	Room    spec.RoomID
	EventID spec.EventID
	Event   []byte // as received
}

// Joined is the answer to a join.
type Joined struct {
	// Event is the join with our signature where it needs one.
	Event *spec.Event
	// State is the state before the join, AuthChain the auth chains of that
	// state and of the join.
	State, AuthChain EventList
	// Servers are those with joined users before the join.
	Servers []spec.ServerName
}

// SendJoin takes a join into the room and sends it to the room's servers. The
// errors are M_INVALID_PARAM or M_BAD_JSON for an event that is none such, and
// those of MakeJoin. Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (rs *Rooms) SendJoin(ctx context.Context, req SendMembership) (*Joined, error) {
	r, ev, err := rs.handedIn(ctx, req, "join")
	if err != nil {
		return nil, err
	}
	if ev, err = rs.authoriseHandedIn(ctx, ev); err != nil {
		return nil, err
	}
	out := &Joined{Event: ev}
	row, err := rs.takeIn(ctx, ev, func(c *roomcore.Core) { out.Servers = c.Servers() })
	if err != nil {
		return nil, err
	}
	if out.State, err = r.stateList(ctx, row.Before); err != nil {
		return nil, err
	}
	out.AuthChain, err = rs.chainOf(ctx, r, ev, out.State)
	return out, err
}

// SendLeave takes a leave into the room, with the errors of SendJoin.
// Spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (rs *Rooms) SendLeave(ctx context.Context, req SendMembership) error {
	_, ev, err := rs.handedIn(ctx, req, "leave")
	if err != nil {
		return err
	}
	if err := rs.checkSigned(ctx, ev); err != nil {
		return err
	}
	_, err = rs.takeIn(ctx, ev, func(*roomcore.Core) {})
	return err
}

// SendKnock takes a knock into the room, with the errors of SendJoin. It returns
// the full events by which the knocker recognises the room.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (rs *Rooms) SendKnock(ctx context.Context, req SendMembership) ([][]byte, error) {
	_, ev, err := rs.handedIn(ctx, req, "knock")
	if err != nil {
		return nil, err
	}
	if err := rs.checkSigned(ctx, ev); err != nil {
		return nil, err
	}
	if _, err := rs.takeIn(ctx, ev, func(*roomcore.Core) {}); err != nil {
		return nil, err
	}
	var state [][]byte
	err = rs.settled(ctx, req.Room, func(c *roomcore.Core) (err error) {
		state, err = inviteState(c)
		return err
	})
	return state, asPeerError(err)
}

// handedIn checks that the event is what the request says it is. Signatures are
// checked later.
func (rs *Rooms) handedIn(ctx context.Context, req SendMembership, membership string) (*room, *spec.Event, error) {
	r, err := rs.resident(ctx, req.Origin, req.Room)
	if err != nil {
		return nil, nil, err
	}
	ev, err := spec.ParseEvent(r.rules, req.Event)
	if err != nil {
		return nil, nil, err
	}
	why := ""
	switch {
	case ev.Room != req.Room:
		why = "the event is of another room"
	case ev.ID != req.EventID:
		why = "the event has another id"
	case ev.Type != spec.TypeMember || ev.State == nil || ev.Membership() != membership:
		why = "the event is no " + membership
	case *ev.State != string(ev.Sender):
		why = "the event is about somebody other than its sender"
	case ev.CheckReferences() != nil:
		why = "the event refers to too many others"
	}
	if why != "" {
		return nil, nil, spec.Errorf(spec.CodeInvalidParam, nil, "%s", why)
	}
	if ev.Sender.Server() != req.Origin {
		code := spec.CodeInvalidParam
		if membership == "leave" {
			code = spec.CodeForbidden // somebody else's event, perhaps a good one
		}
		return nil, nil, spec.Errorf(code, nil, "the sender is not of your server")
	}
	return r, ev, nil
}

func (rs *Rooms) checkSigned(ctx context.Context, ev *spec.Event) error {
	if err := rs.remote.VerifyEvents(ctx, []*spec.Event{ev})[0]; err != nil {
		return spec.Errorf(spec.CodeInvalidParam, err, "the event's signatures could not be verified")
	}
	return nil
}

// authoriseHandedIn adds our signature to the join into a restricted room that
// names a user of ours, if the conditions are met, and then checks signatures.
// Spec: server-server-api#restricted-rooms
func (rs *Rooms) authoriseHandedIn(ctx context.Context, ev *spec.Event) (*spec.Event, error) {
	var content struct {
		Via string `json:"join_authorised_via_users_server"`
	}
	_ = json.Unmarshal(ev.Content, &content) // of another type: names nobody
	via, err := spec.ParseUserID(content.Via)
	if !ev.Rules.Restricted || err != nil || !rs.local(via) {
		return ev, rs.checkSigned(ctx, ev)
	}
	err = rs.look(ctx, ev.Room, func(c *roomcore.Core) error {
		_, err := c.MeetsConditions(ev.Sender, rs.memberOf)
		return err
	})
	if err != nil {
		return nil, asPeerError(err)
	}
	if ev, err = ev.Sign(rs.name, rs.key); err != nil {
		return nil, err
	}
	return ev, rs.checkSigned(ctx, ev)
}

// takeIn puts an event into the room that is ours to send on, and returns its
// row once it is durable. before sees the room without it.
func (rs *Rooms) takeIn(ctx context.Context, ev *spec.Event, before func(*roomcore.Core)) (*storage.EventRow, error) {
	var row *storage.EventRow
	err := rs.change(context.WithoutCancel(ctx), ev.Room, func(c *roomcore.Core) (uint64, error) {
		lacks, err := c.Lacks(ev)
		if err != nil {
			return 0, err
		}
		if lacks {
			return 0, spec.Errorf(spec.CodeInvalidParam, nil, "the event refers to events that are not known here")
		}
		before(c)
		v, err := c.Insert(ev, roomcore.Place{Live: true, Ours: true})
		if err != nil {
			return 0, err
		}
		if v.Status != roomcore.Accepted {
			return v.Seq, spec.Errorf(spec.CodeForbidden, nil, "not allowed in this room: %s", v.Reason)
		}
		row = v.Row
		return max(v.Seq, c.Queued()), nil
	})
	return row, asPeerError(err)
}
