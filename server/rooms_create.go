package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// maxInvites is how many users one createRoom request may invite.
const maxInvites = 100

// preset is what createRoom's presets stand for.
// Spec: client-server-api#post_matrixclientv3createroom.
type preset struct {
	joinRule, visibility, guests string
	trusted                      bool // invited users get the creator's power
}

var presets = map[string]preset{
	"private_chat":         {"invite", "shared", "can_join", false},
	"trusted_private_chat": {"invite", "shared", "can_join", true},
	"public_chat":          {"public", "shared", "forbidden", false},
}

// Create makes a room with the creator joined and all that was asked for set in
// it, then sends the invites. Nothing is made when any part of the request is
// bad or not allowed. Spec: client-server-api#creation.
func (rs *Rooms) Create(ctx context.Context, req CreateRoom) (spec.RoomID, error) {
	plan, err := rs.planRoom(ctx, req)
	if err != nil {
		return "", err
	}
	r, seq, err := rs.build(ctx, plan)
	if err != nil {
		return "", err
	}
	if err := rs.commitNew(ctx, r, seq); err != nil {
		return "", err
	}
	if plan.alias != "" {
		if err := rs.aliases.Create(ctx, CreateAlias{By: Session{User: req.Creator}, Alias: plan.alias, Room: r.id}); err != nil {
			return "", err
		}
	}
	if req.Visibility == "public" {
		if err := rs.publish(ctx, r, true); err != nil {
			return "", err
		}
	}
	for _, user := range req.Invite {
		err := rs.invite(ctx, r.id, req.Creator, user, inviteContent(user, req.IsDirect, ""))
		if err != nil {
			// The room stands and its creator can invite again; a peer that is
			// away must not undo it.
			rs.log.Info("an invite to a new room failed", "room", r.id, "cause", err)
		}
	}
	return r.id, nil
}

// roomPlan is a checked CreateRoom.
type roomPlan struct {
	req    CreateRoom
	rules  *spec.Rules
	preset preset
	alias  spec.RoomAlias
	states []StateInput // after the create event and the creator's join, in order
	create json.RawMessage
}

func (rs *Rooms) planRoom(ctx context.Context, req CreateRoom) (*roomPlan, error) {
	if req.Version == "" {
		req.Version = spec.DefaultVersion
	}
	rules, ok := spec.RulesOf(req.Version)
	if !ok || !rules.Supported {
		return nil, spec.Errorf(spec.CodeUnsupportedRoomVersion, nil, "room version %q is not supported", req.Version)
	}
	if req.Preset == "" {
		req.Preset = map[bool]string{true: "public_chat", false: "private_chat"}[req.Visibility == "public"]
	}
	p, ok := presets[req.Preset]
	if !ok {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "preset %q is not known", req.Preset)
	}
	if req.Visibility != "" && req.Visibility != "public" && req.Visibility != "private" {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "visibility must be public or private")
	}
	if len(req.Invite) > maxInvites {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "at most %d users can be invited with the room", maxInvites)
	}
	plan := &roomPlan{req: req, rules: rules, preset: p}
	if err := rs.planAlias(ctx, plan); err != nil {
		return nil, err
	}
	if err := plan.content(); err != nil {
		return nil, err
	}
	return plan, plan.state()
}

func (rs *Rooms) planAlias(ctx context.Context, plan *roomPlan) error {
	if plan.req.AliasLocalpart == "" {
		return nil
	}
	alias, err := spec.ParseRoomAlias("#" + plan.req.AliasLocalpart + ":" + string(rs.name))
	if err != nil {
		return spec.Errorf(spec.CodeInvalidParam, err, "room_alias_name is not a valid local part of an alias")
	}
	plan.alias = alias
	_, err = rs.aliases.Resolve(ctx, alias)
	if err == nil {
		return spec.Errorf(spec.CodeRoomInUse, nil, "the alias is taken")
	}
	var e *spec.Error
	if errors.As(err, &e) && e.Code == spec.CodeNotFound {
		return nil
	}
	return err
}

// content makes the content of the create event.
func (p *roomPlan) content() error {
	fields := map[string]any{}
	if len(p.req.CreationContent) > 0 {
		if err := json.Unmarshal(p.req.CreationContent, &fields); err != nil || fields == nil {
			return spec.Errorf(spec.CodeBadJSON, err, "creation_content must be an object")
		}
	}
	delete(fields, "creator")
	if p.rules.CreatorInContent {
		fields["creator"] = p.req.Creator
	}
	fields["room_version"] = p.req.Version
	if err := p.creators(fields); err != nil {
		return err
	}
	content, err := spec.MarshalCanonical(fields)
	if err != nil {
		return spec.Errorf(spec.CodeBadJSON, err, "creation_content cannot be part of an event")
	}
	p.create = content
	return nil
}

// creators checks additional_creators and, for a trusted chat, adds the invited
// users, who are to be the creator's equals. Spec: client-server-api#post_matrixclientv3createroom.
func (p *roomPlan) creators(fields map[string]any) error {
	if !p.rules.CreatorPower {
		return nil
	}
	list, _ := fields["additional_creators"].([]any)
	if _, given := fields["additional_creators"]; given && list == nil {
		return spec.Errorf(spec.CodeInvalidParam, nil, "additional_creators must be a list of user ids")
	}
	seen := map[string]bool{}
	for _, v := range list {
		s, _ := v.(string)
		if _, err := spec.ParseUserID(s); err != nil {
			return spec.Errorf(spec.CodeInvalidParam, err, "additional_creators must be a list of user ids")
		}
		seen[s] = true
	}
	if p.preset.trusted {
		for _, u := range p.req.Invite {
			if !seen[string(u)] {
				list = append(list, string(u))
			}
		}
	}
	if len(list) > 0 {
		fields["additional_creators"] = list
	}
	return nil
}

// state lists the events after the creator's join in the order of the
// specification: power levels, alias, what the preset says, initial_state, name,
// topic.
func (p *roomPlan) state() error {
	levels, err := p.powerLevels()
	if err != nil {
		return err
	}
	p.set("m.room.power_levels", levels)
	if p.alias != "" {
		p.set("m.room.canonical_alias", map[string]any{"alias": p.alias})
	}
	given := map[string]bool{}
	for _, s := range p.req.InitialState {
		if s.StateKey == "" {
			given[s.Type] = true
		}
	}
	byPreset := []struct {
		kind    string
		content map[string]any
	}{
		{"m.room.join_rules", map[string]any{"join_rule": p.preset.joinRule}},
		{"m.room.history_visibility", map[string]any{"history_visibility": p.preset.visibility}},
		{"m.room.guest_access", map[string]any{"guest_access": p.preset.guests}},
	}
	for _, e := range byPreset {
		if !given[e.kind] {
			p.set(e.kind, e.content)
		}
	}
	for _, s := range p.req.InitialState {
		switch {
		case s.Type == "":
			return spec.Errorf(spec.CodeBadJSON, nil, "initial_state needs a type in every entry")
		case s.Type == "m.room.create" || s.Type == "m.room.member":
			return spec.Errorf(spec.CodeInvalidParam, nil, "initial_state cannot hold %s", s.Type)
		}
		p.states = append(p.states, s)
	}
	if p.req.Name != "" {
		p.set("m.room.name", map[string]any{"name": p.req.Name})
	}
	if p.req.Topic != "" {
		p.set("m.room.topic", map[string]any{
			"topic": p.req.Topic,
			// The same text for clients that know extensible topics.
			"m.topic": map[string]any{"m.text": []any{map[string]any{"body": p.req.Topic}}},
		})
	}
	return nil
}

func (p *roomPlan) set(kind string, content map[string]any) {
	raw, err := json.Marshal(content)
	if err != nil {
		panic(err) // made of strings, numbers and maps above
	}
	p.states = append(p.states, StateInput{Type: kind, Content: raw})
}

// powerLevels makes the first power levels: the defaults, the creator's level
// where the version has no creators of unlimited power, and what the request
// lays over it.
func (p *roomPlan) powerLevels() (map[string]any, error) {
	users := map[string]any{}
	tombstone := 100
	if p.rules.CreatorPower {
		tombstone = 150
	} else {
		users[string(p.req.Creator)] = 100
		if p.preset.trusted {
			for _, u := range p.req.Invite {
				users[string(u)] = 100
			}
		}
	}
	levels := map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": 0,
		"events": map[string]any{
			"m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100,
			"m.room.canonical_alias": 50, "m.room.avatar": 50, "m.room.tombstone": tombstone,
			"m.room.server_acl": 100, "m.room.encryption": 100,
		},
	}
	if len(p.req.PowerLevelOverride) > 0 {
		var over map[string]any
		dec := json.Unmarshal(p.req.PowerLevelOverride, &over)
		if dec != nil || over == nil {
			return nil, spec.Errorf(spec.CodeBadJSON, dec, "power_level_content_override must be an object")
		}
		for k, v := range over {
			levels[k] = v
		}
	}
	return levels, nil
}

// build makes all events of the room in memory and returns the room's owner,
// which nobody else knows yet, and the number of the last event.
func (rs *Rooms) build(ctx context.Context, p *roomPlan) (*room, uint64, error) {
	now := rs.createTime()
	b := spec.EventBuilder{
		Sender: p.req.Creator, Type: "m.room.create", State: new(string), Content: p.create, Depth: 1, OriginServerTS: now,
	}
	if !p.rules.RoomIDIsCreateHash {
		b.Room = spec.RoomID("!" + rand.Text()[:18] + ":" + string(rs.name))
	}
	create, err := b.Build(p.rules, rs.name, rs.key)
	if err != nil {
		return nil, 0, spec.Errorf(spec.CodeBadJSON, err, "the create event would not be valid: %v", err)
	}
	r := rs.unborn(create.Room, p.rules)
	v, err := r.core.Insert(create, roomcore.Place{Live: true, Ours: true})
	if err != nil {
		return nil, 0, err
	}
	if v.Status != roomcore.Accepted {
		return nil, 0, spec.Errorf(spec.CodeInvalidParam, nil, "the room could not be made: %s", v.Reason)
	}
	seq, err := rs.populate(ctx, r.core, p, now)
	return r, seq, err
}

// createTime returns the time for a create event, a different one for each: from
// room version 12 on the room id is the hash of that event, so two rooms made
// alike in the same millisecond would be one.
func (rs *Rooms) createTime() int64 {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.lastCreate = max(rs.ms(), rs.lastCreate+1)
	return rs.lastCreate
}

func (rs *Rooms) populate(ctx context.Context, core *roomcore.Core, p *roomPlan, now int64) (uint64, error) {
	creator := string(p.req.Creator)
	join, err := rs.memberContent(ctx, p.req.Creator, "join", nil)
	if err != nil {
		return 0, err
	}
	_, seq, err := core.Propose(roomcore.Proposal{
		Sender: p.req.Creator, Type: "m.room.member", StateKey: &creator, Content: join, OriginServerTS: now,
	})
	if err != nil {
		return 0, asClientError(err)
	}
	for _, s := range p.states {
		if err := checkStateContent(p.rules, s.Type, s.Content); err != nil {
			return 0, err
		}
		_, seq, err = core.Propose(roomcore.Proposal{
			Sender: p.req.Creator, Type: s.Type, StateKey: &s.StateKey, Content: s.Content, OriginServerTS: now,
		})
		if err != nil {
			return 0, fmt.Errorf("%s of a new room: %w", s.Type, asCreateError(err))
		}
	}
	return seq, nil
}

// asCreateError tells the creator what of the request was not allowed.
func asCreateError(err error) error {
	var refused *spec.AuthError
	if errors.As(err, &refused) {
		return spec.Errorf(spec.CodeInvalidRoomState, err, "the room cannot have this state: %s", refused.Reason)
	}
	return err
}

// unborn returns an owner for a room that is not in the database yet.
func (rs *Rooms) unborn(id spec.RoomID, rules *spec.Rules) *room {
	nid := rs.db.NewRoomNID()
	r := &room{rooms: rs, id: id, ready: make(chan struct{})}
	close(r.ready)
	r.start(roomcore.Config{
		Room: id, RoomNID: nid, Rules: rules, Server: rs.name, Key: rs.key,
		Store: &roomStore{rooms: rs, nid: nid},
	})
	return r
}

// commitNew writes a new room and makes its owner known.
func (rs *Rooms) commitNew(ctx context.Context, r *room, seq uint64) error {
	if err := r.do(ctx, func(*roomcore.Core) (uint64, error) { return seq, nil }); err != nil {
		return err
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.active[r.id] == nil && !r.isGiven() {
		rs.admit(r)
	}
	return nil
}

// publish lists the room in the public directory, or takes it out.
func (rs *Rooms) publish(ctx context.Context, r *room, listed bool) error {
	return rs.db.Write(ctx, func(tx *storage.Tx) error { return tx.SetPublished(r.nid, listed, rs.ms()) })
}
