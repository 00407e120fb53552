package spec

import "strconv"

// ClientFormat says what the client form of an event has beside the event's own
// members. The zero value adds nothing. What peers put under unsigned is never
// passed on. Spec: client-server-api#room-event-format
type ClientFormat struct {
	// OmitRoomID leaves room_id out, as in /sync, where the place implies it.
	OmitRoomID bool
	// TxnID is the transaction ID, for the device that sent the event.
	TxnID string
	// Age is how long ago the event was sent in milliseconds; 0: not told.
	Age int64
	// PrevContent is the content, a JSON object, of the state that the event replaced.
	PrevContent []byte
	// ReplacesState is the state event that the event replaced.
	ReplacesState EventID
	// RedactedBecause is the redaction that redacted the event.
	RedactedBecause *Event
	// Membership is the asking user's at the event.
	Membership string
	// Relations is the JSON object for m.relations, bundled aggregations.
	Relations []byte
}

// AppendClient appends the client form of the event, a JSON object without white
// space. It allocates nothing if dst has room: at most Size plus 300 bytes plus
// what f adds.
func (e *Event) AppendClient(dst []byte, f ClientFormat) []byte {
	dst = append(dst, `{"content":`...)
	dst = e.appendClientContent(dst)
	dst = append(dst, `,"event_id":`...)
	dst = appendQuoted(dst, string(e.ID))
	dst = append(dst, `,"origin_server_ts":`...)
	dst = strconv.AppendInt(dst, e.OriginServerTS, 10)
	// All versions: clients find redacts in both places. Spec: rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
	if e.Redacts != "" {
		dst = append(dst, `,"redacts":`...)
		dst = appendQuoted(dst, string(e.Redacts))
	}
	if !f.OmitRoomID {
		dst = append(dst, `,"room_id":`...)
		dst = appendQuoted(dst, string(e.Room))
	}
	dst = append(dst, `,"sender":`...)
	dst = appendQuoted(dst, string(e.Sender))
	if e.State != nil {
		dst = append(dst, `,"state_key":`...)
		dst = appendQuoted(dst, e.stateKey)
	}
	dst = append(dst, `,"type":`...)
	dst = appendQuoted(dst, e.Type)
	return append(f.appendUnsigned(dst), '}')
}

// appendClientContent appends content, to which redactions of old room versions
// get their target added.
func (e *Event) appendClientContent(dst []byte) []byte {
	if e.Redacts == "" || e.Rules.RedactsInContent {
		return append(dst, e.Content...)
	}
	dst = without(dst, e.Content, func(key []byte) bool { return string(key) == "redacts" })
	return append(appendText(dst[:len(dst)-1], "redacts", string(e.Redacts)), '}')
}

// appendUnsigned appends the unsigned member unless it would be empty.
func (f *ClientFormat) appendUnsigned(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, `,"unsigned":{`...)
	empty := len(dst)
	if f.Age != 0 {
		dst = strconv.AppendInt(appendKey(dst, "age"), f.Age, 10)
	}
	if f.Relations != nil {
		dst = appendMember(dst, "m.relations", f.Relations)
	}
	if f.Membership != "" {
		dst = appendText(dst, "membership", f.Membership)
	}
	if f.PrevContent != nil {
		dst = appendMember(dst, "prev_content", f.PrevContent)
	}
	if f.RedactedBecause != nil {
		dst = appendKey(dst, "redacted_because")
		dst = f.RedactedBecause.AppendClient(dst, ClientFormat{OmitRoomID: f.OmitRoomID})
	}
	if f.ReplacesState != "" {
		dst = appendText(dst, "replaces_state", string(f.ReplacesState))
	}
	if f.TxnID != "" {
		dst = appendText(dst, "transaction_id", f.TxnID)
	}
	if len(dst) == empty {
		return dst[:start]
	}
	return append(dst, '}')
}

// AppendFederation appends the PDU as it goes to other servers; age in
// milliseconds goes to unsigned, 0: not told. What we were sent under unsigned is
// not passed on. Spec: server-server-api#pdus
func (e *Event) AppendFederation(dst []byte, age int64) []byte {
	dst = append(dst, e.JSON...)
	if age == 0 {
		return dst
	}
	dst = append(dst[:len(dst)-1], `,"unsigned":{"age":`...)
	return append(strconv.AppendInt(dst, age, 10), "}}"...)
}

// AppendRaw appends the PDU with what its client form has beside it: event_id and
// unsigned. It is what clients get that ask for the events of servers.
// Spec: client-server-api#filtering
func (e *Event) AppendRaw(dst []byte, f ClientFormat) []byte {
	dst = append(dst, e.JSON[:len(e.JSON)-1]...)
	if get(e.JSON, "event_id") == nil {
		dst = appendText(dst, "event_id", string(e.ID))
	}
	return append(f.appendUnsigned(dst), '}')
}

// StrippedState returns the event as clients see it in the state of a room that
// they are not in: sender, type, state_key and content.
// v12: the create event keeps what makes it a full client event, as servers in
// use do it. Spec: client-server-api#stripped-state
func (e *Event) StrippedState() []byte {
	if e.impliesRoom() {
		return e.AppendClient(make([]byte, 0, len(e.JSON)), ClientFormat{})
	}
	dst := append(make([]byte, 0, 64+len(e.Content)+len(e.Sender)+len(e.Type)+len(e.stateKey)), '{')
	dst = appendMember(dst, "content", e.Content)
	dst = appendText(dst, "sender", string(e.Sender))
	dst = appendText(dst, "state_key", e.stateKey)
	return append(appendText(dst, "type", e.Type), '}')
}
