package spec

import (
	"bytes"
	"math"
)

// Limits of events. Spec: client-server-api#size-limits
const (
	// MaxEventSize is the largest event in bytes: canonical JSON with signatures.
	MaxEventSize = 65536
	// MaxFieldSize bounds type, state_key, sender, room_id and event_id in bytes.
	MaxFieldSize = 255
	// MaxPrevEvents and MaxAuthEvents bound the lists of an event that is new to
	// the room; history is not held to them. Spec: rooms/v12#event-format
	MaxPrevEvents = 20
	MaxAuthEvents = 10

	// maxRawEvent bounds the text that ParseEvent looks at: escapes make a text
	// six times longer, and unsigned data is not limited.
	maxRawEvent = 16 * MaxEventSize
)

// Event types that the protocol itself looks at.
const (
	TypeCreate            = "m.room.create"
	TypeMember            = "m.room.member"
	TypePowerLevels       = "m.room.power_levels"
	TypeJoinRules         = "m.room.join_rules"
	TypeHistoryVisibility = "m.room.history_visibility"
	TypeThirdPartyInvite  = "m.room.third_party_invite"
	TypeRedaction         = "m.room.redaction"
	TypeAliases           = "m.room.aliases"
	TypeMessage           = "m.room.message"
	TypeEncrypted         = "m.room.encrypted"
	TypeReaction          = "m.reaction"
)

// StateKey is what a state event is filed under.
type StateKey struct{ Type, Key string }

// Event is one event of any room version. It is immutable once made: nobody
// writes to its fields or its bytes, and so it may be shared between goroutines.
type Event struct {
	Rules  *Rules
	ID     EventID
	Room   RoomID // also of create events that do not carry it
	Sender UserID
	Type   string
	State  *string // state_key; nil: no state event

	Content  []byte // canonical object
	Unsigned []byte // canonical object as it came; nil: none. Nothing in it is trusted.

	Prev, Auth     []EventID
	Depth          int64
	OriginServerTS int64   // milliseconds since 1970, as the sender says
	Redacts        EventID // target of an m.room.redaction, "" where it names none

	// Redacted: the event was redacted when it was parsed, because its content
	// hash was wrong, or by Redact. LoadEvent cannot know and leaves it false.
	Redacted bool

	// JSON is the canonical PDU without unsigned, as stored.
	JSON []byte

	stateKey string // what State points to
}

// Key is where a state event is filed; for other events Key.Key is "".
func (e *Event) Key() StateKey { return StateKey{e.Type, e.stateKey} }

// IsState reports whether the event has a state_key.
func (e *Event) IsState() bool { return e.State != nil }

// StateKeyIs reports whether the event is a state event with this type and key.
func (e *Event) StateKeyIs(eventType, key string) bool {
	return e.State != nil && e.Type == eventType && e.stateKey == key
}

// Membership is content.membership where that is a string, else "".
func (e *Event) Membership() string { return contentMembership(e.Content) }

func contentMembership(content []byte) string {
	switch v := get(content, "membership"); string(v) { // no allocation for the usual ones
	case `"join"`:
		return "join"
	case `"leave"`:
		return "leave"
	case `"invite"`:
		return "invite"
	case `"ban"`:
		return "ban"
	case `"knock"`:
		return "knock"
	default:
		s, _ := text(v)
		return s
	}
}

// Size is the size of the PDU in bytes as limits count it.
func (e *Event) Size() int { return len(e.JSON) }

// ParseEvent reads an event that is a stranger's. It checks the format of the room
// version and the size limits, brings it into canonical form, and works out its
// ID. If the content hash is wrong, the event returned is the redacted one, with
// Redacted set. Signatures are not checked: see RequiredSigners.
//
// Errors are *Error with CodeBadJSON, or CodeTooLarge where a size limit is
// exceeded; such an event is to be dropped.
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
func ParseEvent(rules *Rules, raw []byte) (*Event, error) {
	if len(raw) > maxRawEvent {
		return nil, Errorf(CodeTooLarge, nil, "the event has %d bytes", len(raw))
	}
	canon, err := rules.canonical(raw)
	if err != nil {
		return nil, Errorf(CodeBadJSON, err, "the event is not valid JSON for room version %s", rules.Version)
	}
	if !isObject(canon) {
		return nil, Errorf(CodeBadJSON, nil, "the event is not an object")
	}
	e := &Event{Rules: rules, JSON: canon}
	f := readFields(canon)
	if f.unsigned != nil {
		if f, err = e.dropUnsigned(f); err != nil {
			return nil, err
		}
	}
	if err := e.fill(f); err != nil {
		return nil, err
	}
	if err := e.check(f); err != nil {
		return nil, err
	}
	if err := e.applyHashes(f); err != nil {
		return nil, err
	}
	return e, nil
}

// canonical is the canonical form that events of the room version must have.
func (r *Rules) canonical(raw []byte) ([]byte, error) {
	mode := numbersLegacy
	if r.StrictJSON {
		mode = numbersInteger
	}
	return canonical(raw, mode)
}

// LoadEvent makes an event of bytes that ParseEvent or Build made before, from
// our own store. It computes no hash and checks no limits; an error means that
// the bytes are damaged. The event keeps raw.
func LoadEvent(rules *Rules, id EventID, raw []byte) (*Event, error) {
	e := &Event{Rules: rules, ID: id, JSON: raw}
	if err := e.fill(readFields(raw)); err != nil {
		return nil, err
	}
	if e.Room == "" {
		e.Room = id.RoomID()
	}
	return e, nil
}

// fields are the raw values of an event's known members, nil where absent.
type fields struct {
	authEvents, content, depth, eventID, hashes, originServerTS, prevEvents []byte
	redacts, roomID, sender, signatures, stateKey, eventType, unsigned      []byte
}

func readFields(json []byte) (f fields) {
	for key, value := range members(json) {
		switch string(key) {
		case "auth_events":
			f.authEvents = value
		case "content":
			f.content = value
		case "depth":
			f.depth = value
		case "event_id":
			f.eventID = value
		case "hashes":
			f.hashes = value
		case "origin_server_ts":
			f.originServerTS = value
		case "prev_events":
			f.prevEvents = value
		case "redacts":
			f.redacts = value
		case "room_id":
			f.roomID = value
		case "sender":
			f.sender = value
		case "signatures":
			f.signatures = value
		case "state_key":
			f.stateKey = value
		case "type":
			f.eventType = value
		case "unsigned":
			f.unsigned = value
		}
	}
	return f
}

// dropUnsigned moves unsigned out of JSON, which nobody else has seen yet, and
// returns the fields of what remains.
func (e *Event) dropUnsigned(f fields) (fields, error) {
	switch {
	case isObject(f.unsigned):
		e.Unsigned = bytes.Clone(f.unsigned)
	case string(f.unsigned) != "null":
		return f, Errorf(CodeBadJSON, nil, "unsigned is not an object")
	}
	const key = `,"unsigned":`
	if at := len(e.JSON) - len(key) - len(f.unsigned) - 1; at > 0 && len(f.unsigned) < 1024 &&
		string(e.JSON[at:at+len(key)]) == key && bytes.Equal(e.JSON[at+len(key):len(e.JSON)-1], f.unsigned) {
		e.JSON = append(e.JSON[:at], '}') // the usual case: it is the last member
		return f, nil
	}
	rest := make([]byte, 0, len(e.JSON)-len(f.unsigned))
	e.JSON = without(rest, e.JSON, func(key []byte) bool { return string(key) == "unsigned" })
	return readFields(e.JSON), nil
}

// fill sets the fields that are read from JSON and checks their JSON types. Room
// stays empty in create events that carry none.
func (e *Event) fill(f fields) error {
	bad := func(field string) error {
		return Errorf(CodeBadJSON, nil, "the event's %s is missing or malformed", field)
	}
	var ok bool
	if e.Type, ok = eventType(f.eventType); !ok {
		return bad("type")
	}
	sender, ok := text(f.sender)
	if !ok {
		return bad("sender")
	}
	e.Sender = UserID(sender)
	if f.stateKey != nil {
		if e.stateKey, ok = text(f.stateKey); !ok {
			return bad("state_key")
		}
		e.State = &e.stateKey
	}
	room, ok := text(f.roomID)
	if !ok && (f.roomID != nil || !e.impliesRoom()) {
		return bad("room_id")
	}
	e.Room = RoomID(room)
	if e.Content = f.content; !isObject(f.content) {
		return bad("content")
	}
	if e.Depth, ok = integer(f.depth); !ok {
		return bad("depth")
	}
	if e.OriginServerTS, ok = integer(f.originServerTS); !ok {
		return bad("origin_server_ts")
	}
	if e.Prev, ok = e.Rules.eventIDs(f.prevEvents); !ok {
		return bad("prev_events")
	}
	if e.Auth, ok = e.Rules.eventIDs(f.authEvents); !ok {
		return bad("auth_events")
	}
	if e.Type == TypeRedaction {
		e.Redacts = e.Rules.redactionTarget(f)
	}
	return nil
}

// impliesRoom reports whether the event's hash is its room's ID.
// v12: the create event has no room_id. Spec: rooms/v12#event-format
func (e *Event) impliesRoom() bool {
	return e.Rules.RoomIDIsCreateHash && e.StateKeyIs(TypeCreate, "")
}

// redactionTarget returns the event that a redaction names, "" if none.
// v11: from content. Spec: rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func (r *Rules) redactionTarget(f fields) EventID {
	value := f.redacts
	if r.RedactsInContent {
		value = get(f.content, "redacts")
	}
	s, _ := text(value)
	id, _ := ParseEventID(s)
	return id
}

// eventIDs reads a list of event IDs; in room versions 1 and 2 each is a pair of
// ID and hash, of which the hash is not used. Spec: rooms/v3#event-format
func (r *Rules) eventIDs(list []byte) (ids []EventID, ok bool) {
	if !isArray(list) {
		return nil, false
	}
	if len(list) == 2 {
		return nil, true
	}
	ids = make([]EventID, 0, 1+bytes.Count(list, []byte{','}))
	for value := range elements(list) {
		if r.EventIDs == EventIDChosen {
			value = firstElement(value)
		}
		id, ok := text(value)
		if !ok {
			return nil, false
		}
		ids = append(ids, EventID(id))
	}
	return ids, true
}

// firstElement returns the first of an [ID, hashes] pair, nil if it is none.
func firstElement(pair []byte) (first []byte) {
	n := 0
	if isArray(pair) {
		for value := range elements(pair) {
			if n++; n == 1 {
				first = value
			} else if !isObject(value) {
				return nil
			}
		}
	}
	if n != 2 {
		return nil
	}
	return first
}

// integer reads a canonical integer that fits.
func integer(value []byte) (n int64, ok bool) {
	digits := bytes.TrimPrefix(value, []byte{'-'})
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' || n > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) < len(value) {
		n = -n
	}
	return n, true
}

// eventType reads the type; the usual ones cost no allocation.
func eventType(value []byte) (t string, ok bool) {
	switch string(value) {
	case `"m.room.message"`:
		return TypeMessage, true
	case `"m.room.encrypted"`:
		return TypeEncrypted, true
	case `"m.room.member"`:
		return TypeMember, true
	case `"m.reaction"`:
		return TypeReaction, true
	case `"m.room.redaction"`:
		return TypeRedaction, true
	}
	return text(value)
}

// check holds the event to the format's grammars and the size limits.
// Spec: client-server-api#size-limits
func (e *Event) check(f fields) error {
	switch {
	case len(e.JSON) > MaxEventSize:
		return Errorf(CodeTooLarge, nil, "the event has %d bytes, the limit is %d", len(e.JSON), MaxEventSize)
	case len(e.Type) > MaxFieldSize:
		return Errorf(CodeTooLarge, nil, "the event's type has %d bytes, the limit is %d", len(e.Type), MaxFieldSize)
	case len(e.stateKey) > MaxFieldSize:
		return Errorf(CodeTooLarge, nil, "the event's state_key has %d bytes, the limit is %d", len(e.stateKey), MaxFieldSize)
	case len(e.Sender) > MaxFieldSize || len(e.Room) > MaxFieldSize:
		return Errorf(CodeTooLarge, nil, "the event's sender or room_id has more than %d bytes", MaxFieldSize)
	case e.Depth < 0 || e.Rules.StrictJSON && e.Depth > maxSafeInteger:
		return Errorf(CodeBadJSON, nil, "the event's depth %d is out of range", e.Depth)
	}
	if _, err := ParseUserID(string(e.Sender)); err != nil {
		return Errorf(CodeBadJSON, err, "the event's sender is not a user ID")
	}
	if err := e.checkRoom(); err != nil {
		return err
	}
	for _, list := range [][]EventID{e.Prev, e.Auth} {
		for _, id := range list {
			if _, err := ParseEventID(string(id)); err != nil {
				return Errorf(CodeBadJSON, err, "the event refers to what is not an event ID")
			}
		}
	}
	if !isObject(f.signatures) {
		return Errorf(CodeBadJSON, nil, "the event's signatures are missing or malformed")
	}
	return nil
}

// checkRoom checks the form of the room ID.
// v1–v11: with a server; v12: the hash of the create event, and the create event
// itself carries none. Spec: rooms/v12#event-format
func (e *Event) checkRoom() error {
	if e.impliesRoom() {
		if e.Room != "" {
			return Errorf(CodeBadJSON, nil, "a create event of room version %s has no room_id", e.Rules.Version)
		}
		return nil
	}
	_, err := ParseRoomID(string(e.Room))
	if _, hasServer := e.Room.Server(); err != nil || hasServer == e.Rules.RoomIDIsCreateHash {
		return Errorf(CodeBadJSON, err, "the event's room_id is not one of room version %s", e.Rules.Version)
	}
	return nil
}

// CheckReferences holds the lists of an event that is new to the room to their
// limits. It is not for events of the past: /backfill, state and auth chains may
// have longer lists. Spec: rooms/v12#event-format
func (e *Event) CheckReferences() error {
	if len(e.Prev) > MaxPrevEvents || len(e.Auth) > MaxAuthEvents {
		return Errorf(CodeBadJSON, nil, "the event has %d prev_events and %d auth_events, the limits are %d and %d",
			len(e.Prev), len(e.Auth), MaxPrevEvents, MaxAuthEvents)
	}
	return nil
}
