package server

import (
	"context"
	"encoding/json"
	"errors"
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
	ts := req.TS
	if ts == 0 {
		ts = rs.ms()
	}
	return rs.propose(ctx, req.Room, txnKey{req.Sender, req.Device, scope, req.TxnID}, roomcore.Proposal{
		Sender: req.Sender, Type: req.Type, StateKey: req.StateKey, Content: req.Content, OriginServerTS: ts,
	})
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
		return "", asClientError(sizeError(err))
	}
	return event, nil
}

// sizeError passes on what the builder says about a bad event.
func sizeError(err error) error {
	var e *spec.Error
	if errors.As(err, &e) {
		return e
	}
	return err
}

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
