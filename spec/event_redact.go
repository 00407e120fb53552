package spec

// Redact returns the event without what its room version strips from redacted
// events. ID and signatures stay good. An event that is redacted already is
// returned as it is.
// Spec: client-server-api#redactions
func (e *Event) Redact() (*Event, error) {
	if e.Redacted {
		return e, nil
	}
	redacted := &Event{Rules: e.Rules, ID: e.ID, Room: e.Room, Type: e.Type, JSON: e.JSON}
	if err := redacted.becomeRedacted(); err != nil {
		return nil, err
	}
	if redacted.Room == "" {
		redacted.Room = e.Room
	}
	return redacted, nil
}

// becomeRedacted turns an event that nobody else has seen into its redacted form.
func (e *Event) becomeRedacted() error {
	json := e.Rules.appendRedacted(make([]byte, 0, len(e.JSON)), e.Type, e.JSON, true)
	*e = Event{Rules: e.Rules, ID: e.ID, JSON: json, Redacted: true}
	return e.fill(readFields(json))
}

// appendRedacted appends the redacted form of a canonical event, with its
// signatures or without.
func (r *Rules) appendRedacted(dst []byte, eventType string, json []byte, signatures bool) []byte {
	dst = append(dst, '{')
	for key, value := range members(json) {
		switch {
		case string(key) == "content":
			dst = r.appendRedactedContent(appendKey(dst, key), eventType, value)
		case string(key) == "signatures" && !signatures:
		case r.redactionKeeps(key):
			dst = append(appendKey(dst, key), value...)
		}
	}
	return append(dst, '}')
}

// redactionKeeps tells which members of the event itself stay.
// Spec: rooms/v1#redactions, rooms/v11#redactions
func (r *Rules) redactionKeeps(key []byte) bool {
	switch string(key) {
	case "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
		"depth", "prev_events", "auth_events", "origin_server_ts":
		return true
	case "origin", "membership", "prev_state":
		return !r.RedactionV11
	}
	return false
}

// appendRedactedContent appends what stays of content.
func (r *Rules) appendRedactedContent(dst []byte, eventType string, content []byte) []byte {
	// v11: m.room.create keeps all. Spec: rooms/v11#redactions
	if eventType == TypeCreate && r.RedactionV11 {
		return append(dst, content...)
	}
	dst = append(dst, '{')
	if !r.redactionKeepsContent(eventType) {
		return append(dst, '}')
	}
	for key, value := range members(content) {
		switch {
		case eventType == TypeMember && string(key) == "third_party_invite":
			dst = r.appendRedactedInvite(dst, value)
		case r.redactionKeepsIn(eventType, key):
			dst = append(appendKey(dst, key), value...)
		}
	}
	return append(dst, '}')
}

// appendRedactedInvite appends what stays of third_party_invite. Where it has no
// signed, an empty object stays, as in the servers that were first.
// v11: signed stays. Spec: rooms/v11#redactions
func (r *Rules) appendRedactedInvite(dst, invite []byte) []byte {
	if !r.RedactionV11 || !isObject(invite) {
		return dst
	}
	dst = append(appendKey(dst, "third_party_invite"), '{')
	if signed := get(invite, "signed"); signed != nil {
		dst = appendMember(dst, "signed", signed)
	}
	return append(dst, '}')
}

// redactionKeepsContent tells whether anything in content may stay, so that the
// content of messages is not looked through.
func (r *Rules) redactionKeepsContent(eventType string) bool {
	switch eventType {
	case TypeMember, TypeCreate, TypeJoinRules, TypePowerLevels, TypeHistoryVisibility, TypeAliases, TypeRedaction:
		return true
	}
	return false
}

// redactionKeepsIn tells which members of content stay.
func (r *Rules) redactionKeepsIn(eventType string, key []byte) bool {
	switch eventType {
	case TypeMember:
		// v9: join_authorised_via_users_server. Spec: rooms/v9#redactions
		return string(key) == "membership" ||
			string(key) == "join_authorised_via_users_server" && r.RedactionKeepsAuthorisedVia
	case TypeCreate:
		return string(key) == "creator"
	case TypeJoinRules:
		// v8: allow. Spec: rooms/v8#redactions
		return string(key) == "join_rule" || string(key) == "allow" && r.RedactionKeepsAllow
	case TypePowerLevels:
		switch string(key) {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		case "invite": // v11. Spec: rooms/v11#redactions
			return r.RedactionV11
		}
	case TypeHistoryVisibility:
		return string(key) == "history_visibility"
	case TypeAliases: // until v5. Spec: rooms/v6#redactions
		return string(key) == "aliases" && r.RedactionKeepsAliases
	case TypeRedaction: // v11. Spec: rooms/v11#redactions
		return string(key) == "redacts" && r.RedactionV11
	}
	return false
}
