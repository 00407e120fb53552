package spec

import (
	"bytes"
	"strconv"
	"strings"
)

// PushEvent is an event as push rules see it, with what they ask about its room.
// It remembers what it has looked up, so that one event is cheap to judge for
// many users; it is not safe for concurrent use. The zero value is not usable.
type PushEvent struct {
	event   *Event
	members int
	levels  *PowerLevels
	looked  []lookedUp
}

type lookedUp struct {
	key   string
	value []byte
}

// NewPushEvent takes the event, how many members are joined to the room at it, and
// the room's power levels; nil levels give nobody the right to notify all.
func NewPushEvent(ev *Event, members int, levels *PowerLevels) *PushEvent {
	return &PushEvent{event: ev, members: members, levels: levels, looked: make([]lookedUp, 0, 12)}
}

// pushUser is the owner of the rules in a room.
type pushUser struct {
	ID UserID
	// DisplayName is what the user is called in that room; "" if nothing.
	DisplayName string
}

// conditionKind says what a pushCondition looks at.
type conditionKind uint8

const (
	conditionNever conditionKind = iota // unknown or malformed
	conditionMatch
	conditionIs
	conditionContains
	conditionDisplayName
	conditionMembers
	conditionPermission
)

// pushCondition is a condition of a push rule, ready to be applied.
// Spec: client-server-api#conditions-1
type pushCondition struct {
	kind  conditionKind
	key   string // as written; of a permission: which one
	path  []string
	glob  pushGlob
	value []byte // canonical JSON
	// self: the pattern or value is the ID of the rules' owner.
	self bool
	// least and most bound the number of members.
	least, most int64
}

// selfPlaceholder stands for the owner's ID in the default rules. It is no user
// ID, and rules that users make do not give it a meaning.
const selfPlaceholder = "[user]"

// parseCondition makes a condition of a canonical object. One that is not
// understood never holds. Spec: client-server-api#conditions-1
func parseCondition(object []byte) pushCondition {
	kind, _ := getText(object, "kind")
	key, hasKey := getText(object, "key")
	c := pushCondition{key: key}
	switch kind {
	case "event_match":
		if pattern, ok := getText(object, "pattern"); ok && hasKey {
			c.kind, c.path, c.glob = conditionMatch, propertyPath(key), newPushGlob(pattern)
		}
	case "event_property_is", "event_property_contains":
		if c.value = get(object, "value"); !hasKey || !isScalar(c.value) {
			break
		}
		c.path, c.kind = propertyPath(key), conditionIs
		if kind == "event_property_contains" {
			c.kind = conditionContains
		}
	case "contains_display_name":
		c.kind = conditionDisplayName
	case "room_member_count":
		is, _ := getText(object, "is")
		if least, most, ok := parseMemberCount(is); ok {
			c.kind, c.least, c.most = conditionMembers, least, most
		}
	case "sender_notification_permission":
		if hasKey {
			c.kind = conditionPermission
		}
	}
	return c
}

// isScalar tells whether a value is one of those that conditions compare: a
// string, an integer in ±(2^53-1), a boolean or null.
func isScalar(value []byte) bool {
	switch string(value) {
	case "true", "false", "null":
		return true
	}
	n, isInteger := integer(value)
	return isString(value) || isInteger && -maxSafeInteger <= n && n <= maxSafeInteger
}

// parseMemberCount reads "2", "==2", "<10" and the like as bounds, both included.
func parseMemberCount(s string) (least, most int64, ok bool) {
	digits := strings.TrimLeft(s, "<>=")
	n, err := strconv.ParseInt(digits, 10, 63) // room for one more
	if err != nil || digits[0] < '0' || digits[0] > '9' {
		return 0, 0, false
	}
	const unbounded = 1<<63 - 1
	switch s[:len(s)-len(digits)] {
	case "", "==":
		return n, n, true
	case "<":
		return 0, n - 1, true
	case "<=":
		return 0, n, true
	case ">":
		return n + 1, unbounded, true
	case ">=":
		return n, unbounded, true
	}
	return 0, 0, false
}

// propertyPath takes a dotted path apart. A dot or backslash that belongs to a
// name has a backslash before it; any other backslash is one. The names come as
// they stand between quotes in canonical JSON.
// Spec: appendices#dot-separated-property-paths
func propertyPath(key string) []string {
	var path []string
	var name []byte
	for i := 0; i <= len(key); i++ {
		switch {
		case i == len(key) || key[i] == '.':
			quoted := appendQuoted(nil, string(name))
			path, name = append(path, string(quoted[1:len(quoted)-1])), name[:0]
		case key[i] == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			name = append(name, key[i])
		default:
			name = append(name, key[i])
		}
	}
	return path
}

// property returns the canonical value of a property of the event as clients have
// it; nil if there is none. What only servers see is not there.
func (p *PushEvent) property(key string, path []string) []byte {
	for i := range p.looked {
		if p.looked[i].key == key {
			return p.looked[i].value
		}
	}
	value := p.top(path[0])
	for _, name := range path[1:] {
		value = get(value, name)
	}
	p.looked = append(p.looked, lookedUp{key, value})
	return value
}

// top returns a member of the event itself.
func (p *PushEvent) top(name string) []byte {
	ev := p.event
	switch name {
	case "content":
		return ev.Content
	case "type", "sender", "state_key", "origin_server_ts":
		return get(ev.JSON, name)
	case "room_id":
		return appendQuoted(nil, string(ev.Room))
	case "event_id":
		return appendQuoted(nil, string(ev.ID))
	case "redacts":
		if ev.Redacts != "" {
			return appendQuoted(nil, string(ev.Redacts))
		}
	}
	return nil
}

var bodyPath = []string{"content", "body"}

func (p *PushEvent) body() (body []byte, ok bool) {
	return textBytes(p.property("content.body", bodyPath))
}

// holds tells whether the condition is true of the event for this user.
func (c *pushCondition) holds(p *PushEvent, user pushUser) bool {
	switch c.kind {
	case conditionMatch:
		s, ok := textBytes(p.property(c.key, c.path))
		switch {
		case !ok:
			return false
		case c.self:
			return string(s) == string(user.ID)
		case len(c.path) == 2 && c.path[0] == "content" && c.path[1] == "body":
			return c.glob.matchesWords(s)
		}
		return c.glob.matches(s)
	case conditionIs:
		return c.equals(p.property(c.key, c.path), user)
	case conditionContains:
		list := p.property(c.key, c.path)
		if !isArray(list) {
			return false
		}
		for value := range elements(list) {
			if c.equals(value, user) {
				return true
			}
		}
	case conditionDisplayName:
		body, ok := p.body()
		return ok && user.DisplayName != "" && newPushWord(user.DisplayName).matchesWords(body)
	case conditionMembers:
		return c.least <= int64(p.members) && int64(p.members) <= c.most
	case conditionPermission:
		return p.levels != nil && p.levels.User(p.event.Sender) >= p.levels.Notification(c.key)
	}
	return false
}

// equals compares canonical values, so type and value count.
func (c *pushCondition) equals(value []byte, user pushUser) bool {
	if !c.self {
		return bytes.Equal(value, c.value)
	}
	s, ok := textBytes(value)
	return ok && string(s) == string(user.ID)
}
