package spec

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
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
	// ReferenceHash returns Event.ReferenceHash of an event of Prev or Auth. Room
	// versions 1 and 2 cannot do without where there is one; others never call it.
	ReferenceHash func(EventID) ([32]byte, error)
}

// Build makes the event, hashed and signed by origin. Errors are *Error:
// CodeBadJSON where content is not what the room version permits, CodeTooLarge
// where a size limit is exceeded; those of ReferenceHash are wrapped.
//
// In room versions 1 and 2 the ID that the sender has to choose is a hash of
// everything else that is in the event, so that equal events have equal IDs as
// they have in the later versions.
// Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
func (b EventBuilder) Build(rules *Rules, origin ServerName, key SigningKey) (*Event, error) {
	proto, err := b.Template(rules)
	if err != nil {
		return nil, err
	}
	if rules.EventIDs == EventIDChosen {
		proto = withMember(proto, "event_id", appendQuoted(nil, string(chooseEventID(proto, origin))))
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
	if err := e.setID(f.eventID, nil); err != nil {
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
	content, err := b.content(rules)
	if err != nil {
		return nil, err
	}
	if limit := int64(maxSafeInteger); rules.StrictJSON && b.Depth > limit {
		b.Depth = limit // Spec: rooms/v6#event-format
	}
	dst := append(make([]byte, 0, 512+len(content)+64*(len(b.Prev)+len(b.Auth))), '{')
	if dst, err = b.appendReferences(appendKey(dst, "auth_events"), rules, b.Auth); err != nil {
		return nil, err
	}
	dst = appendMember(dst, "content", content)
	dst = strconv.AppendInt(appendKey(dst, "depth"), b.Depth, 10)
	dst = strconv.AppendInt(appendKey(dst, "origin_server_ts"), b.OriginServerTS, 10)
	if dst, err = b.appendReferences(appendKey(dst, "prev_events"), rules, b.Prev); err != nil {
		return nil, err
	}
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

// chooseEventID makes the ID of an event that has everything but that, hashes and
// signatures. 24 characters of the hash are enough to never meet again, and leave
// room for long server names. Spec: rooms/v1#event-ids
func chooseEventID(proto []byte, origin ServerName) EventID {
	sum := sha256.Sum256(proto)
	return EventID("$" + base64.RawURLEncoding.EncodeToString(sum[:18]) + ":" + string(origin))
}

// appendReferences appends a list of events as the room version names them.
// v1, v2: each with its reference hash. Spec: rooms/v1#event-format
func (b EventBuilder) appendReferences(dst []byte, rules *Rules, ids []EventID) ([]byte, error) {
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		if rules.EventIDs != EventIDChosen {
			dst = appendQuoted(dst, string(id)) // v3
			continue
		}
		if b.ReferenceHash == nil {
			return nil, fmt.Errorf("an event of room version %s needs the reference hash of %s", rules.Version, id)
		}
		sum, err := b.ReferenceHash(id)
		if err != nil {
			return nil, fmt.Errorf("reference hash of %s: %w", id, err)
		}
		dst = appendQuoted(append(dst, '['), string(id))
		dst = base64.RawStdEncoding.AppendEncode(append(dst, `,{"sha256":"`...), sum[:])
		dst = append(dst, `"}]`...)
	}
	return append(dst, ']'), nil
}

// ParseTemplate reads the event that another server proposes in its answer to
// make_join, make_leave or make_knock. The caller checks that it is what was
// asked for. Unknown members are dropped. The builder's ReferenceHash knows the
// events that the proposal names. Errors are *Error with CodeBadJSON.
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
	b := EventBuilder{Room: e.Room, Sender: e.Sender, Type: e.Type, State: e.State, Content: bytes.Clone(e.Content),
		Prev: e.Prev, Auth: e.Auth, Depth: e.Depth, OriginServerTS: e.OriginServerTS}
	if rules.EventIDs == EventIDChosen {
		b.ReferenceHash = func(id EventID) ([32]byte, error) { return referenceHashIn(id, f.prevEvents, f.authEvents) }
	}
	return b, nil
}

// referenceHashIn finds the hash of an event in lists of references of room
// versions 1 and 2.
func referenceHashIn(id EventID, lists ...[]byte) (sum [32]byte, err error) {
	for _, list := range lists {
		for pair := range elements(list) {
			if have, _ := text(firstElement(pair)); have != string(id) {
				continue
			}
			for hashes := range elements(pair) {
				encoded, _ := getText(hashes, "sha256")
				if raw, err := decodeBase64(encoded); err == nil && len(raw) == len(sum) {
					return [32]byte(raw), nil
				}
			}
		}
	}
	return sum, Errorf(CodeBadJSON, nil, "there is no reference hash of %s", id)
}
