package spec

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"strconv"
)

// EventBuilder holds what an event is made of. Room stays empty for a create
// event of a room version whose room ID is its hash.
type EventBuilder struct {
	Room           RoomID
	Sender         UserID
	Type           string
	State          *string // nil: no state event
	Content        []byte  // JSON object in any form; nil: {}
	Prev, Auth     []EventID
	Depth          int64   // capped at the largest that the room version permits
	OriginServerTS int64   // milliseconds since 1970
	Redacts        EventID // put where the room version wants it; "": none
	Unsigned       []byte  // goes to Event.Unsigned, is not part of the PDU
}

// Build makes the event, hashed and signed by origin. Errors are *Error:
// CodeBadJSON where content is not what the room version permits, CodeTooLarge
// where a size limit is exceeded, CodeUnsupportedRoomVersion in room versions 1
// and 2, whose events need the hashes of others.
// Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
func (b EventBuilder) Build(rules *Rules, origin ServerName, key SigningKey) (*Event, error) {
	proto, err := b.Template(rules)
	if err != nil {
		return nil, err
	}
	json, err := rules.hashAndSign(proto, b.Type, string(origin), key)
	if err != nil {
		return nil, err
	}
	e := &Event{Rules: rules, JSON: json}
	f := readFields(json)
	if err := e.fill(f); err != nil {
		return nil, err
	}
	if err := e.check(f); err != nil {
		return nil, err
	}
	if err := e.setID(nil, nil); err != nil {
		return nil, err
	}
	if e.Room == "" {
		e.Room = e.ID.RoomID()
	}
	if b.Unsigned != nil {
		if e.Unsigned, err = CanonicalLegacy(b.Unsigned); err != nil || !isObject(e.Unsigned) {
			return nil, Errorf(CodeBadJSON, err, "unsigned is not a JSON object")
		}
	}
	return e, nil
}

// hashAndSign adds hashes and a signature to a canonical event that has neither.
func (r *Rules) hashAndSign(proto []byte, eventType, origin string, key SigningKey) ([]byte, error) {
	sum := contentHash(make([]byte, 0, len(proto)), proto)
	hashes := base64.RawStdEncoding.AppendEncode([]byte(`{"sha256":"`), sum[:])
	hashed := withMember(proto, "hashes", append(hashes, `"}`...))
	signed := r.appendRedacted(make([]byte, 0, len(hashed)), eventType, hashed, false)
	return addSignature(hashed, origin, key.ID, ed25519.Sign(key.Private, signed))
}

// Template makes the canonical event without hashes and signatures, which
// another server completes: the answer of make_join, make_leave and make_knock.
// Errors are those of Build, but for sizes, which are checked when it is built.
// Spec: server-server-api#joining-rooms
func (b EventBuilder) Template(rules *Rules) ([]byte, error) {
	if rules.EventIDs == EventIDChosen {
		return nil, Errorf(CodeUnsupportedRoomVersion, nil, "events of room version %s cannot be made here", rules.Version)
	}
	content, err := b.content(rules)
	if err != nil {
		return nil, err
	}
	if limit := int64(maxSafeInteger); rules.StrictJSON && b.Depth > limit {
		b.Depth = limit // Spec: rooms/v6#event-format
	}
	dst := append(make([]byte, 0, 512+len(content)+64*(len(b.Prev)+len(b.Auth))), '{')
	dst = appendIDs(appendKey(dst, "auth_events"), b.Auth)
	dst = appendMember(dst, "content", content)
	dst = strconv.AppendInt(appendKey(dst, "depth"), b.Depth, 10)
	dst = strconv.AppendInt(appendKey(dst, "origin_server_ts"), b.OriginServerTS, 10)
	dst = appendIDs(appendKey(dst, "prev_events"), b.Prev)
	if b.Redacts != "" && !rules.RedactsInContent {
		dst = appendText(dst, "redacts", string(b.Redacts))
	}
	if b.Room != "" {
		dst = appendText(dst, "room_id", string(b.Room))
	}
	dst = appendText(dst, "sender", string(b.Sender))
	if b.State != nil {
		dst = appendText(dst, "state_key", *b.State)
	}
	return append(appendText(dst, "type", b.Type), '}'), nil
}

// content brings the content into canonical form and puts Redacts into it where
// the room version wants that.
func (b EventBuilder) content(rules *Rules) ([]byte, error) {
	content := []byte("{}")
	if b.Content != nil {
		var err error
		if content, err = rules.canonical(b.Content); err != nil {
			return nil, Errorf(CodeBadJSON, err, "the content is not valid JSON for room version %s", rules.Version)
		}
		if !isObject(content) {
			return nil, Errorf(CodeBadJSON, nil, "the content is not an object")
		}
	}
	if b.Redacts != "" && rules.RedactsInContent {
		content = withMember(content, "redacts", appendQuoted(nil, string(b.Redacts)))
	}
	return content, nil
}

func appendText(dst []byte, key, value string) []byte {
	return appendQuoted(appendKey(dst, key), value)
}

func appendIDs(dst []byte, ids []EventID) []byte {
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, string(id))
	}
	return append(dst, ']')
}

// ParseTemplate reads the event that another server proposes in its answer to
// make_join, make_leave or make_knock. The caller checks that it is what was
// asked for. Unknown members are dropped. Errors are *Error with CodeBadJSON.
// Spec: server-server-api#joining-rooms
func ParseTemplate(rules *Rules, raw []byte) (EventBuilder, error) {
	canon, err := rules.canonical(raw)
	if err != nil {
		return EventBuilder{}, Errorf(CodeBadJSON, err, "the proposed event is not valid JSON")
	}
	f := readFields(canon)
	if f.depth == nil {
		f.depth = []byte("0")
	}
	if f.originServerTS == nil {
		f.originServerTS = []byte("0")
	}
	e := &Event{Rules: rules, JSON: canon}
	if err := e.fill(f); err != nil {
		return EventBuilder{}, err
	}
	f.signatures = []byte("{}")
	if err := e.check(f); err != nil {
		return EventBuilder{}, err
	}
	return EventBuilder{Room: e.Room, Sender: e.Sender, Type: e.Type, State: e.State, Content: bytes.Clone(e.Content),
		Prev: e.Prev, Auth: e.Auth, Depth: e.Depth, OriginServerTS: e.OriginServerTS}, nil
}
