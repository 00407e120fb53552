package server

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"atoll/server/roomcore"
	"atoll/spec"
)

// sendMember handles a member event that a client sets as state: it means what
// the endpoint for that membership means.
// Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey.
func (rs *Rooms) sendMember(ctx context.Context, id spec.RoomID, p roomcore.Proposal) (spec.EventID, error) {
	target, err := spec.ParseUserID(*p.StateKey)
	if err != nil {
		return "", spec.Errorf(spec.CodeInvalidParam, err, "the state key of a member event is a user id")
	}
	fields := map[string]any{}
	if json.Unmarshal(p.Content, &fields) != nil {
		return "", spec.Errorf(spec.CodeBadJSON, nil, "the content of an event must be an object")
	}
	membership, _ := fields["membership"].(string)
	if membership == "" {
		return "", spec.Errorf(spec.CodeBadJSON, nil, "a member event needs a membership")
	}
	// Which server lets a user in is not for clients to say.
	delete(fields, "join_authorised_via_users_server")
	if membership == "invite" && !rs.local(target) {
		if err := rs.invite(ctx, id, p.Sender, target, fields); err != nil {
			return "", err
		}
		return rs.currentMember(ctx, id, target)
	}
	if p.Content, err = json.Marshal(fields); err != nil {
		return "", err
	}
	if membership != "join" || p.Sender != target {
		return rs.append(ctx, id, p)
	}
	here, err := rs.joinHere(ctx, id, localJoin{user: p.Sender, content: p.Content, again: true})
	if err == nil && !here {
		err = rs.joinThere(ctx, remoteJoin{room: id, user: p.Sender, content: p.Content})
	}
	if err != nil {
		return "", asClientError(err)
	}
	return rs.currentMember(ctx, id, target)
}

// currentMember returns the id of a user's current member event.
func (rs *Rooms) currentMember(ctx context.Context, id spec.RoomID, user spec.UserID) (spec.EventID, error) {
	var event spec.EventID
	err := rs.look(ctx, id, func(c *roomcore.Core) error {
		row, err := c.StateAt(c.CommittedView().Root, spec.StateKey{Type: spec.TypeMember, Key: string(user)})
		if err == nil && row != nil {
			event = row.Event.ID
		}
		return err
	})
	return event, err
}

// checkCanonicalAlias refuses aliases that do not lead to the room, unless the
// current event names them already.
// Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey.
func (rs *Rooms) checkCanonicalAlias(ctx context.Context, id spec.RoomID, content json.RawMessage) error {
	named, err := aliasesIn(content)
	if err != nil {
		return err
	}
	if len(named) == 0 {
		return nil
	}
	var before []spec.RoomAlias
	err = rs.look(ctx, id, func(c *roomcore.Core) error {
		row, err := c.StateAt(c.Head().Root, spec.StateKey{Type: "m.room.canonical_alias"})
		if err == nil && row != nil {
			before, _ = aliasesIn(row.Event.Content) // what stands there may be malformed
		}
		return err
	})
	if err != nil {
		return asClientError(err)
	}
	for _, alias := range named {
		if slices.Contains(before, alias) {
			continue
		}
		found, err := rs.aliases.Resolve(ctx, alias)
		var e *spec.Error
		if err != nil && !errors.As(err, &e) {
			return err
		}
		if err != nil || found.Room != id {
			return spec.Errorf(spec.CodeBadAlias, err, "the alias %s does not lead to this room", alias)
		}
	}
	return nil
}

// aliasesIn lists the aliases of a canonical alias event.
func aliasesIn(content json.RawMessage) ([]spec.RoomAlias, error) {
	var c struct {
		Alias *string  `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, spec.Errorf(spec.CodeBadJSON, err, "alias must be a string and alt_aliases a list of strings")
	}
	if c.Alias != nil && *c.Alias != "" {
		c.Alt = append(c.Alt, *c.Alias)
	}
	aliases := make([]spec.RoomAlias, 0, len(c.Alt))
	for _, s := range c.Alt {
		alias, err := spec.ParseRoomAlias(s)
		if err != nil {
			return nil, spec.Errorf(spec.CodeInvalidParam, err, "%q is not an alias", s)
		}
		aliases = append(aliases, alias)
	}
	return aliases, nil
}
