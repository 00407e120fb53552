package server

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// joinServers bounds how many servers one join is tried through.
const joinServers = 8

// joinTimeout bounds a join over federation as a whole; it goes on when the
// client gives up, so that trying again finds it done.
const joinTimeout = 10 * time.Minute

// Join takes a user into a room by id or alias, through another server when this
// one is not in it. Joining a room that the user is in changes nothing.
// Spec: client-server-api#joining-rooms.
func (rs *Rooms) Join(ctx context.Context, req Join) (spec.RoomID, error) {
	id, via, err := rs.whichRoom(ctx, req)
	if err != nil {
		return "", err
	}
	content, err := rs.memberContent(ctx, req.User, "join", req.Content)
	if err != nil {
		return "", err
	}
	here, err := rs.joinHere(ctx, id, localJoin{user: req.User, content: content})
	if err != nil || here {
		return id, asClientError(err)
	}
	return id, rs.joinThere(ctx, remoteJoin{room: id, user: req.User, content: content, via: via})
}

// whichRoom resolves an alias and lists servers to join through.
func (rs *Rooms) whichRoom(ctx context.Context, req Join) (spec.RoomID, []spec.ServerName, error) {
	if !strings.HasPrefix(req.Room, "#") {
		id, err := spec.ParseRoomID(req.Room)
		if err != nil {
			return "", nil, spec.Errorf(spec.CodeInvalidParam, err, "neither a room id nor an alias")
		}
		return id, req.Via, nil
	}
	alias, err := spec.ParseRoomAlias(req.Room)
	if err != nil {
		return "", nil, spec.Errorf(spec.CodeInvalidParam, err, "not a valid alias")
	}
	found, err := rs.aliases.Resolve(ctx, alias)
	if err != nil {
		return "", nil, err
	}
	return found.Room, append(slices.Clone(req.Via), found.Servers...), nil
}

// localJoin is a join on this server's own copy of a room.
type localJoin struct {
	user    spec.UserID
	content []byte
	again   bool // a user who is joined says so again, with other content
}

// joinHere joins on this server's own copy of the room. It reports false when
// there is none with a joined user of ours, or when only another server can let
// the user in.
func (rs *Rooms) joinHere(ctx context.Context, id spec.RoomID, j localJoin) (bool, error) {
	user, content, again := j.user, j.content, j.again
	account, err := rs.accounts.Account(ctx, user)
	if err != nil && spec.CodeOf(err) != spec.CodeNotFound {
		return false, err
	}
	here := false
	key := string(user)
	err = rs.change(context.WithoutCancel(ctx), id, func(c *roomcore.Core) (uint64, error) {
		here = c.ServerJoined(rs.name)
		if !here {
			return 0, nil
		}
		now, err := c.MemberAt(c.Head().Root, user)
		if err != nil || now == "join" && !again {
			return 0, err
		}
		if account.Guest && now != "join" {
			if err := guestsMayJoin(c); err != nil {
				return 0, err
			}
		}
		content, possible, err := c.AuthoriseJoin(user, content, rs.memberOf)
		if err != nil {
			return 0, err
		}
		if !possible {
			here = false
			return 0, nil
		}
		_, seq, err := c.Propose(roomcore.Proposal{
			Sender: user, Type: spec.TypeMember, StateKey: &key, Content: content, OriginServerTS: rs.ms(),
		})
		return seq, err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return here, err
	}
	if account.Guest && !here {
		// Whether guests may come in is not known before the state has been had.
		return false, errNoGuests()
	}
	return here && err == nil, nil
}

// guestsMayJoin returns M_GUEST_ACCESS_FORBIDDEN unless the room lets guests in.
// Spec: client-server-api#guest-access
func guestsMayJoin(c *roomcore.Core) error {
	row, err := c.StateAt(c.Head().Root, spec.StateKey{Type: "m.room.guest_access"})
	if err != nil {
		return err
	}
	var content struct {
		Access any `json:"guest_access"`
	}
	if row == nil || json.Unmarshal(row.Event.Content, &content) != nil || content.Access != "can_join" {
		return errNoGuests()
	}
	return nil
}

func errNoGuests() error {
	return spec.Errorf(spec.CodeGuestAccessForbidden, nil, "guests may not join this room")
}

// memberOf tells whether a user is in a room, as far as this server knows.
func (rs *Rooms) memberOf(id spec.RoomID, user spec.UserID) roomcore.Membership {
	known := rs.local(user)
	joined := false
	err := rs.db.Read(context.Background(), func(tx *storage.Tx) error {
		room, err := tx.RoomByID(id)
		if err != nil {
			return err
		}
		if !known {
			servers, err := tx.RoomServers(room.NID)
			if err != nil {
				return err
			}
			known = slices.Contains(servers, rs.name)
		}
		row, err := tx.Membership(room.NID, user)
		joined = row.Membership == "join"
		return err
	})
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		rs.log.Warn("membership of another room could not be read", "room", id, "user", user, "cause", err)
		return roomcore.MemberUnknown
	case known && joined:
		return roomcore.MemberJoined
	case known:
		return roomcore.MemberNot
	}
	return roomcore.MemberUnknown
}

// remoteJoin is a join through other servers.
type remoteJoin struct {
	room    spec.RoomID
	user    spec.UserID
	content []byte
	via     []spec.ServerName
}

// joinThere joins through another server. Only one such join of a room runs at a
// time; who comes later joins on what it brought.
func (rs *Rooms) joinThere(ctx context.Context, j remoteJoin) error {
	if rs.remote == nil {
		return spec.Errorf(spec.CodeNotFound, nil, "the room is not known here, and federation is off")
	}
	release, first, err := rs.joins.enter(ctx, j.room)
	if err != nil {
		return err
	}
	defer release()
	if !first {
		if here, err := rs.joinHere(ctx, j.room, localJoin{user: j.user, content: j.content}); err != nil || here {
			return asClientError(err)
		}
	}
	servers := rs.joinCandidates(ctx, j)
	if len(servers) == 0 {
		return spec.Errorf(spec.CodeNotFound, nil, "no server is known that is in the room")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinTimeout)
	defer cancel()
	for _, dest := range servers {
		if err = rs.joinThrough(ctx, dest, j); err == nil {
			return nil
		}
		rs.log.Info("join through a server failed", "room", j.room, "dest", dest, "cause", err)
		if final(err) {
			break
		}
	}
	return joinError(err)
}

// final reports whether another server would give the same answer.
func final(err error) bool {
	var e *spec.Error
	return errors.As(err, &e) && e.Code == spec.CodeIncompatibleRoomVersion
}

// joinError is what the client is told after the last server failed.
func joinError(err error) error {
	var e *spec.Error
	if errors.As(err, &e) {
		return e
	}
	answer, ok := RemoteAnswer(err)
	if !ok {
		return spec.Errorf(spec.CodeUnknown, err, "no server of the room could be reached")
	}
	switch answer.Code {
	case spec.CodeForbidden, spec.CodeNotFound, spec.CodeIncompatibleRoomVersion,
		spec.CodeUnableToAuthoriseJoin, spec.CodeUnableToGrantJoin:
		return &spec.Error{Code: answer.Code, Msg: answer.Msg, Err: err, Fields: answer.Fields}
	}
	return spec.Errorf(spec.CodeUnknown, err, "the room could not be joined: %s", answer.Msg)
}

// joinCandidates lists the servers to join through, the likeliest first.
func (rs *Rooms) joinCandidates(ctx context.Context, j remoteJoin) []spec.ServerName {
	var list []spec.ServerName
	add := func(s spec.ServerName) {
		if s != "" && s != rs.name && len(list) < joinServers && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	for _, s := range j.via {
		add(s)
	}
	if sender, err := rs.inviter(ctx, j.room, j.user); err == nil {
		add(sender.Server())
	}
	if r, err := rs.room(ctx, j.room); err == nil {
		for _, s := range r.servers() {
			add(s)
		}
	}
	if s, ok := j.room.Server(); ok {
		add(s)
	}
	return list
}

// joinThrough does the handshake with one resident server.
// Spec: server-server-api#joining-rooms.
func (rs *Rooms) joinThrough(ctx context.Context, dest spec.ServerName, j remoteJoin) error {
	tpl, err := rs.remote.MakeJoin(ctx, dest, j.room, j.user, spec.SupportedVersions())
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
	answer, err := rs.remote.SendJoin(ctx, dest, SendEventRequest{Room: j.room, EventID: ev.ID, Event: ev.AppendFederation(nil, 0)})
	if err != nil {
		return err
	}
	if answer.Event != nil {
		if signed, err := rs.takeSignature(ctx, ev, answer.Event, dest); err == nil {
			ev = signed
		}
	}
	return rs.enter(ctx, roomcore.Join{
		Event: ev, State: rs.verified(ctx, rules, answer.State), Auth: rs.verified(ctx, rules, answer.AuthChain),
	})
}

// fromTemplate turns the answer of make_join or make_leave into our event. Of the
// template only what the resident has to choose is taken.
func (rs *Rooms) fromTemplate(rules *spec.Rules, raw []byte, j remoteJoin) (*spec.Event, error) {
	b, err := spec.ParseTemplate(rules, raw)
	if err != nil {
		return nil, spec.Errorf(spec.CodeUnknown, err, "the other server answered with no usable event")
	}
	var told struct {
		Via string `json:"join_authorised_via_users_server"`
	}
	fields := map[string]any{}
	if json.Unmarshal(b.Content, &told) != nil || json.Unmarshal(j.content, &fields) != nil {
		return nil, spec.Errorf(spec.CodeUnknown, nil, "the other server answered with no usable event")
	}
	if told.Via != "" {
		fields["join_authorised_via_users_server"] = told.Via
	}
	if b.Content, err = json.Marshal(fields); err != nil {
		return nil, err
	}
	key := string(j.user)
	b.Room, b.Sender, b.Type, b.State = j.room, j.user, spec.TypeMember, &key
	b.OriginServerTS, b.Redacts, b.Unsigned = rs.ms(), "", nil
	return b.Build(rules, rs.name, rs.key)
}

// enter makes the room here, or brings it up to date, as the answer to a join
// says.
func (rs *Rooms) enter(ctx context.Context, j roomcore.Join) error {
	r, err := rs.roomToEnter(ctx, j.Event)
	if err != nil {
		return err
	}
	refused := error(nil)
	err = r.do(ctx, func(c *roomcore.Core) (uint64, error) {
		v, err := c.Join(j)
		if err != nil {
			return 0, err
		}
		if v.Status != roomcore.Accepted {
			refused = spec.Errorf(spec.CodeUnknown, nil, "the answer to the join does not hold: %s", v.Reason)
		}
		return v.Seq, nil
	})
	if err != nil {
		return err
	}
	if refused != nil {
		rs.drop(r) // with the outliers it may hold
		return refused
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.active[r.id] == nil && !r.isGiven() {
		rs.admit(r)
	}
	return nil
}

// roomToEnter returns the owner of a room we were in, or a new one for a room
// of which at most an invite is known.
func (rs *Rooms) roomToEnter(ctx context.Context, join *spec.Event) (*room, error) {
	known, err := rs.roomRow(ctx, join.Room)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return rs.unborn(join.Room, join.Rules), nil
	case err != nil:
		return nil, err
	case known.Flags&storage.RoomOutside == 0:
		return rs.room(ctx, join.Room)
	}
	r := &room{rooms: rs, id: join.Room, ready: make(chan struct{})}
	close(r.ready)
	r.start(roomcore.Config{
		Room: join.Room, RoomNID: known.NID, Rules: join.Rules, Server: rs.name, Key: rs.key,
		Store: &roomStore{rooms: rs, nid: known.NID}, View: roomcore.View{Version: known.Version},
	})
	return r, nil
}

func (rs *Rooms) roomRow(ctx context.Context, id spec.RoomID) (storage.RoomRow, error) {
	var row storage.RoomRow
	err := rs.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, err = tx.RoomByID(id)
		return err
	})
	return row, err
}

// servers lists the servers with joined users, as committed or about to be.
func (r *room) servers() []spec.ServerName {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.Servers()
}
