package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Knock asks the members of a room to be let in, through another server when
// this one is not in the room. Whoever knocks already may do it again; the
// errors are those of Join. Spec: client-server-api#knocking-on-rooms
func (rs *Rooms) Knock(ctx context.Context, req Join) (spec.RoomID, error) {
	id, via, err := rs.whichRoom(ctx, req)
	if err != nil {
		return "", err
	}
	content, err := rs.memberContent(ctx, req.User, "knock", req.Content)
	if err != nil {
		return "", err
	}
	here, err := rs.knockHere(ctx, id, req.User, content)
	if err != nil || here {
		return id, asClientError(err)
	}
	return id, rs.knockThere(ctx, remoteJoin{room: id, user: req.User, content: content, via: via})
}

// knockHere knocks on this server's own copy of the room. It reports false when
// there is none with a joined user of ours.
func (rs *Rooms) knockHere(ctx context.Context, id spec.RoomID, user spec.UserID, content []byte) (bool, error) {
	here := false
	key := string(user)
	err := rs.change(context.WithoutCancel(ctx), id, func(c *roomcore.Core) (uint64, error) {
		here = c.ServerJoined(rs.name)
		if !here {
			return 0, nil
		}
		now, err := c.MemberAt(c.Head().Root, user)
		if err != nil || now == "knock" {
			return 0, err
		}
		_, seq, err := c.Propose(roomcore.Proposal{
			Sender: user, Type: spec.TypeMember, StateKey: &key, Content: content, OriginServerTS: rs.ms(),
		})
		return seq, err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return here, err
}

// knockThere knocks through another server.
func (rs *Rooms) knockThere(ctx context.Context, j remoteJoin) error {
	if rs.remote == nil {
		return spec.Errorf(spec.CodeNotFound, nil, "the room is not known here, and federation is off")
	}
	row, err := rs.membership(ctx, j.room, j.user)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if row.Outside && row.Membership == "invite" {
		return spec.Errorf(spec.CodeForbidden, nil, "you are invited to this room")
	}
	servers := rs.joinCandidates(ctx, j)
	if len(servers) == 0 {
		return spec.Errorf(spec.CodeNotFound, nil, "no server is known that is in the room")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinTimeout)
	defer cancel()
	for _, dest := range servers {
		if err = rs.knockThrough(ctx, dest, j); err == nil {
			return nil
		}
		rs.log.Info("knock through a server failed", "room", j.room, "dest", dest, "cause", err)
		if final(err) {
			break
		}
	}
	return joinError(err)
}

// knockThrough does the handshake with one resident server.
// Spec: server-server-api#knocking-rooms
func (rs *Rooms) knockThrough(ctx context.Context, dest spec.ServerName, j remoteJoin) error {
	tpl, err := rs.remote.MakeKnock(ctx, dest, j.room, j.user, spec.SupportedVersions())
	if err != nil {
		return err
	}
	rules, ok := spec.RulesOf(tpl.Version)
	if !ok || !rules.Supported {
		return spec.Errorf(spec.CodeIncompatibleRoomVersion, nil, "room version %s is not supported here", tpl.Version)
	}
	ev, err := rs.fromTemplate(rules, tpl.Event, j)
	if err != nil {
		return err
	}
	if err := rs.checkSameVersion(ctx, ev); err != nil {
		return err
	}
	state, err := rs.remote.SendKnock(ctx, dest, SendEventRequest{Room: j.room, EventID: ev.ID, Event: ev.AppendFederation(nil, 0)})
	if err != nil {
		return err
	}
	return rs.writeOutside(ctx, ev, storage.MembershipRow{
		User: j.user, Membership: "knock", Outside: true, Stripped: withInvite(stripped(rs.knockState(ctx, ev, state)), ev),
	})
}

// knockState returns what of a room's state, as it came with the answer to a
// knock, the knocker may be shown.
// v1–v11: older servers answer with stripped events, which nobody can verify and
// which are let pass. Full events need good signatures and the right room.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (rs *Rooms) knockState(ctx context.Context, knock *spec.Event, raw [][]byte) [][]byte {
	var full, shown [][]byte
	for _, b := range raw {
		var ev struct {
			Signatures json.RawMessage `json:"signatures"`
		}
		if json.Unmarshal(b, &ev) != nil {
			continue
		}
		if len(ev.Signatures) > 0 || knock.Rules.RoomIDIsCreateHash {
			full = append(full, b)
		} else {
			shown = append(shown, b)
		}
	}
	for _, ev := range rs.verified(ctx, knock.Rules, full) {
		if ev.Room == knock.Room && ev.IsState() {
			shown = append(shown, ev.AppendFederation(nil, 0))
		}
	}
	return shown
}

// knownServers lists the servers that what a user was shown of a room tells to
// have been in it, the likeliest first.
func knownServers(id spec.RoomID, stripped []byte) []spec.ServerName {
	var list []spec.ServerName
	add := func(s spec.ServerName) {
		if s != "" && len(list) < joinServers && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	var events []struct {
		Sender spec.UserID `json:"sender"`
	}
	if len(bytes.TrimSpace(stripped)) > 0 && json.Unmarshal(stripped, &events) == nil {
		for _, ev := range slices.Backward(events) {
			if user, err := spec.ParseUserID(string(ev.Sender)); err == nil {
				add(user.Server())
			}
		}
	}
	if s, ok := id.Server(); ok {
		add(s)
	}
	return list
}
