package server

import (
	"context"
	"encoding/json"
	"slices"

	"atoll/server/roomcore"
	"atoll/spec"
)

// This file answers make_join, make_leave and make_knock.

// MakeMembership is a server's question for the template of a membership event
// of one of its users.
type MakeMembership struct {
	Origin spec.ServerName
	Room   spec.RoomID
	User   spec.UserID
	// Versions are the room versions that the server can take.
	Versions []spec.RoomVersion
}

// MakeJoin answers with the join that the user would have to sign. Errors:
// M_NOT_FOUND, M_FORBIDDEN, M_INCOMPATIBLE_ROOM_VERSION, and for restricted
// rooms M_UNABLE_TO_AUTHORISE_JOIN and M_UNABLE_TO_GRANT_JOIN.
// Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
func (rs *Rooms) MakeJoin(ctx context.Context, req MakeMembership) (EventTemplate, error) {
	return rs.template(ctx, req, "join", true, func(c *roomcore.Core, content []byte) ([]byte, error) {
		content, possible, err := c.AuthoriseJoin(req.User, content, rs.memberOf)
		if err == nil && !possible {
			err = spec.Errorf(spec.CodeUnableToGrantJoin, nil, "no user of this server may let others into the room")
		}
		return content, err
	})
}

// MakeKnock is MakeJoin for a knock. Users who are in the room or invited get
// M_FORBIDDEN like those who may not knock.
// Spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
func (rs *Rooms) MakeKnock(ctx context.Context, req MakeMembership) (EventTemplate, error) {
	return rs.template(ctx, req, "knock", true, nil)
}

// MakeLeave is MakeJoin for a leave; M_FORBIDDEN for a user who is not in the
// room, invited or knocking.
// Spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
func (rs *Rooms) MakeLeave(ctx context.Context, req MakeMembership) (EventTemplate, error) {
	return rs.template(ctx, req, "leave", false, func(c *roomcore.Core, content []byte) ([]byte, error) {
		now, err := c.MemberAt(c.Head().Root, req.User)
		if err == nil && now != "join" && now != "invite" && now != "knock" {
			err = spec.Errorf(spec.CodeForbidden, nil, "the user is not in the room")
		}
		return content, err
	})
}

// template builds the event on the head and waits until that is committed.
// complete adds to its content.
func (rs *Rooms) template(ctx context.Context, req MakeMembership, membership string, versioned bool,
	complete func(*roomcore.Core, []byte) ([]byte, error),
) (EventTemplate, error) {
	if req.User.Server() != req.Origin {
		return EventTemplate{}, spec.Errorf(spec.CodeForbidden, nil, "the user is not of your server")
	}
	r, err := rs.resident(ctx, req.Origin, req.Room)
	if err != nil {
		return EventTemplate{}, err
	}
	if versioned && !slices.Contains(req.Versions, r.rules.Version) {
		return EventTemplate{}, &spec.Error{Code: spec.CodeIncompatibleRoomVersion,
			Msg: "your server does not support the room's version", Fields: map[string]any{"room_version": r.rules.Version}}
	}
	out := EventTemplate{Version: r.rules.Version}
	key := string(req.User)
	err = rs.settled(ctx, req.Room, func(c *roomcore.Core) error {
		content, err := json.Marshal(map[string]string{"membership": membership})
		if err != nil {
			return err
		}
		if complete != nil {
			if content, err = complete(c, content); err != nil {
				return err
			}
		}
		out.Event, err = c.Template(roomcore.Proposal{
			Sender: req.User, Type: spec.TypeMember, StateKey: &key, Content: content, OriginServerTS: rs.ms(),
		})
		return err
	})
	return out, asPeerError(err)
}
