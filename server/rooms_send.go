package server

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Send puts an event of a local user into a room and returns its id once it is
// durable. A transaction id that the device has used before for the same room
// gives the event of the first time. Spec: client-server-api#sending-events-to-a-room.
func (rs *Rooms) Send(ctx context.Context, req SendEvent) (spec.EventID, error) {
	scope := ""
	if req.TxnID != "" {
		scope = "send/" + string(req.Room) + "/" + req.Type
	}
	p := roomcore.Proposal{
		Sender: req.Sender, Type: req.Type, StateKey: req.StateKey, Content: req.Content, OriginServerTS: req.TS,
	}
	if p.OriginServerTS == 0 {
		p.OriginServerTS = rs.ms()
	}
	switch {
	case req.Type == spec.TypeMember && req.StateKey != nil:
		return rs.sendMember(ctx, req.Room, p)
	case req.Type == spec.TypeRedaction && req.StateKey == nil:
		if err := rs.redactsOf(ctx, req.Room, &p); err != nil {
			return "", err
		}
	case req.Type == "m.room.canonical_alias" && req.StateKey != nil && *req.StateKey == "":
		if err := rs.checkCanonicalAlias(ctx, req.Room, req.Content); err != nil {
			return "", err
		}
	}
	return rs.propose(ctx, req.Room, txnKey{req.Sender, req.Device, scope, req.TxnID}, p)
}

// redactsOf takes the target of a redaction that is sent like any other event to
// where the room version has it. Spec: client-server-api#redactions.
func (rs *Rooms) redactsOf(ctx context.Context, id spec.RoomID, p *roomcore.Proposal) error {
	var content struct {
		Redacts spec.EventID `json:"redacts"`
	}
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(p.Content, &content) != nil || json.Unmarshal(p.Content, &fields) != nil {
		return spec.Errorf(spec.CodeBadJSON, nil, "the content of a redaction must be an object with redacts")
	}
	if content.Redacts == "" {
		return spec.Errorf(spec.CodeMissingParam, nil, "the content of a redaction must name redacts")
	}
	r, err := rs.room(ctx, id)
	if err != nil {
		return asClientError(err)
	}
	if !r.rules.RedactsInContent {
		p.Redacts = content.Redacts
		delete(fields, "redacts")
		if p.Content, err = json.Marshal(fields); err != nil {
			return err
		}
	}
	return asClientError(rs.look(ctx, id, func(c *roomcore.Core) error { return c.CheckRedaction(p.Sender, content.Redacts) }))
}

// Redact redacts an event, if the sender may. Spec: client-server-api#redactions.
func (rs *Rooms) Redact(ctx context.Context, req RedactEvent) (spec.EventID, error) {
	r, err := rs.room(ctx, req.Room)
	if err != nil {
		return "", asClientError(err)
	}
	fields := map[string]any{}
	if req.Reason != "" {
		fields["reason"] = req.Reason
	}
	p := roomcore.Proposal{Sender: req.Sender, Type: "m.room.redaction", OriginServerTS: rs.ms()}
	if r.rules.RedactsInContent {
		fields["redacts"] = req.Event
	} else {
		p.Redacts = req.Event
	}
	if p.Content, err = json.Marshal(fields); err != nil {
		return "", err
	}
	if err := rs.look(ctx, req.Room, func(c *roomcore.Core) error { return c.CheckRedaction(req.Sender, req.Event) }); err != nil {
		return "", asClientError(err)
	}
	scope := ""
	if req.TxnID != "" {
		scope = "redact/" + string(req.Room) + "/" + string(req.Event)
	}
	return rs.propose(ctx, req.Room, txnKey{req.Sender, req.Device, scope, req.TxnID}, p)
}

// propose sends a proposal once per transaction id.
func (rs *Rooms) propose(ctx context.Context, id spec.RoomID, key txnKey, p roomcore.Proposal) (spec.EventID, error) {
	if p.StateKey != nil || p.Type == "m.room.redaction" {
		if r, err := rs.room(ctx, id); err == nil {
			if err := checkStateContent(r.rules, p.Type, p.Content); err != nil {
				return "", err
			}
		}
	}
	if key.txn == "" {
		return rs.append(ctx, id, p)
	}
	answer, err := rs.txns.once(ctx, key, func() (string, error) {
		p.Txn = &storage.TxnRow{User: key.user, Device: key.device, Scope: key.scope, TxnID: key.txn, TS: rs.ms()}
		event, err := rs.append(ctx, id, p)
		return string(event), err
	})
	return spec.EventID(answer), err
}

// append builds the event on the room's head and waits until it is durable.
func (rs *Rooms) append(ctx context.Context, id spec.RoomID, p roomcore.Proposal) (spec.EventID, error) {
	var event spec.EventID
	// The client may go away, the event may not half be sent: what has entered
	// the pipeline is waited for.
	err := rs.change(context.WithoutCancel(ctx), id, func(c *roomcore.Core) (uint64, error) {
		if same, err := c.SameState(p); err != nil || same != nil {
			if same != nil {
				event = same.Event.ID
			}
			return 0, err
		}
		row, seq, err := c.Propose(p)
		if err != nil {
			return 0, err
		}
		event = row.Event.ID
		return seq, nil
	})
	if err != nil {
		return "", asClientError(refusal(p, err))
	}
	return event, nil
}

// refusal makes of what the core says about a proposal what the client is told.
func refusal(p roomcore.Proposal, err error) error {
	var e *spec.Error
	if errors.As(err, &e) {
		return e
	}
	var refused *spec.AuthError
	if p.Type == spec.TypePowerLevels && errors.As(err, &refused) && slices.Contains(malformedLevels, refused.Rule) {
		return spec.Errorf(spec.CodeBadJSON, err, "not valid power levels: %s", refused.Reason)
	}
	return err
}

// malformedLevels are the rules that look at the content of power levels alone;
// what they refuse is a bad request rather than a missing right.
// Spec: rooms/v12#authorisation-rules 10.
var malformedLevels = []string{"10.1", "10.2", "10.3", "10.4"}

// checkStateContent refuses content that the rules would take, or only remote
// servers would refuse, but that no client should send.
func checkStateContent(rules *spec.Rules, kind string, content json.RawMessage) error {
	if !strings.HasPrefix(strings.TrimSpace(string(content)), "{") {
		return spec.Errorf(spec.CodeBadJSON, nil, "the content of an event must be an object")
	}
	if kind != "m.room.power_levels" {
		return nil
	}
	return checkPowerLevels(rules, content)
}

// checkPowerLevels refuses levels that are no integers, also in room versions
// that would take strings. Spec: server-server-api#definitions.
func checkPowerLevels(rules *spec.Rules, content json.RawMessage) error {
	var levels map[string]json.RawMessage
	if err := json.Unmarshal(content, &levels); err != nil {
		return spec.Errorf(spec.CodeBadJSON, err, "power levels must be an object")
	}
	for _, name := range []string{"ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"} {
		if raw, ok := levels[name]; ok && !isInteger(raw) {
			return spec.Errorf(spec.CodeBadJSON, nil, "power level %s must be an integer", name)
		}
	}
	for _, name := range []string{"events", "users", "notifications"} {
		raw, ok := levels[name]
		if !ok {
			continue
		}
		var entries map[string]json.RawMessage
		if err := json.Unmarshal(raw, &entries); err != nil || entries == nil {
			return spec.Errorf(spec.CodeBadJSON, err, "power levels: %s must be an object", name)
		}
		for key, level := range entries {
			if !isInteger(level) {
				return spec.Errorf(spec.CodeBadJSON, nil, "power level of %q must be an integer", key)
			}
			if name != "users" {
				continue
			}
			if _, err := spec.ParseUserID(key); err != nil {
				return spec.Errorf(spec.CodeBadJSON, err, "power levels: %q is not a user id", key)
			}
		}
	}
	return nil
}

// isInteger reports whether the JSON value is an integer that canonical JSON can
// carry.
func isInteger(raw json.RawMessage) bool {
	var n json.Number
	if len(raw) == 0 || raw[0] == '"' || json.Unmarshal(raw, &n) != nil {
		return false
	}
	v, err := n.Int64()
	return err == nil && v >= -(1<<53-1) && v <= 1<<53-1
}
