package spec

import (
	"bytes"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxLevel and -MaxLevel are the limits of a power level wherever canonical
	// JSON is enforced. Spec: client-server-api#mroompower_levels
	MaxLevel int64 = 1<<53 - 1
	// CreatorLevel is the level of room creators from room version 12 on: above
	// everything that an event can say. Spec: rooms/v12#authorisation-rules
	CreatorLevel int64 = math.MaxInt64
	// legacyMax is where levels of room versions 1 to 9 are cut off: their
	// strings and floats may name greater numbers than an integer of ours holds.
	legacyMax int64 = math.MaxInt64 - 1
)

// namedLevel is one of the seven levels that stand directly in the content.
type namedLevel uint8

const (
	levelUsersDefault namedLevel = iota
	levelEventsDefault
	levelStateDefault
	levelBan
	levelRedact
	levelKick
	levelInvite
	namedLevels
)

// namedLevelKeys are in the order in which the rule on changes names them.
var namedLevelKeys = [namedLevels]string{
	"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite",
}

// Spec: client-server-api#mroompower_levels
var namedLevelDefaults = [namedLevels]int64{
	levelStateDefault: 50, levelBan: 50, levelRedact: 50, levelKick: 50,
}

// PowerLevels answers who may do what, from a room's m.room.power_levels event,
// or its absence, and its creators. It is immutable.
// Spec: client-server-api#mroompower_levels
type PowerLevels struct {
	creators []UserID // with CreatorLevel; before version 12 only without an event
	absent   bool     // the room has no power levels event
	above    bool     // creators are above all levels
	content  levelsContent
}

// levelsContent is what an m.room.power_levels event says.
type levelsContent struct {
	named         [namedLevels]int64
	has           [namedLevels]bool
	users         levelMap
	events        levelMap
	notifications levelMap
}

// ParsePowerLevels reads the levels of a room. A nil levels means that the room
// has no such event; a nil create that its creators are not known. The error is
// an *AuthError with the rule that forbids the content: in room versions 1 to 9
// only users must be well formed, elsewhere a level that cannot be read counts
// as absent. Spec: client-server-api#mroompower_levels
func ParsePowerLevels(rules *Rules, create, levels *Event) (*PowerLevels, error) {
	var creators []UserID
	if create != nil {
		creators = creatorsOf(rules, create)
	}
	return newPowerLevels(rules, creators, levels)
}

func newPowerLevels(rules *Rules, creators []UserID, levels *Event) (*PowerLevels, error) {
	p := &PowerLevels{creators: creators, above: rules.CreatorPower, absent: levels == nil}
	if levels == nil {
		return p, nil
	}
	if err := p.content.parse(rules, levels); err != nil {
		return nil, err
	}
	return p, nil
}

// User returns the level of a user; CreatorLevel for the creators of a room of
// version 12 or later. Spec: client-server-api#mroompower_levels
func (p *PowerLevels) User(u UserID) int64 {
	if (p.above || p.absent) && slices.Contains(p.creators, u) {
		if p.above {
			return CreatorLevel
		}
		return 100 // v1–v11: without an event the creator has this level
	}
	if level, ok := p.content.users.get(string(u)); ok {
		return level
	}
	return p.named(levelUsersDefault)
}

// IsCreator reports whether the user is above all levels, which none is before
// room version 12.
func (p *PowerLevels) IsCreator(u UserID) bool {
	return p.above && slices.Contains(p.creators, u)
}

// Event returns the level required to send an event of this type. Memberships
// and m.room.third_party_invite have rules of their own.
// Spec: server-server-api#definitions
func (p *PowerLevels) Event(eventType string, isState bool) int64 {
	if level, ok := p.content.events.get(eventType); ok {
		return level
	}
	if isState {
		return p.named(levelStateDefault)
	}
	return p.named(levelEventsDefault)
}

// Ban returns the level required to ban, and to undo a ban.
func (p *PowerLevels) Ban() int64 { return p.named(levelBan) }

// Kick returns the level required to remove somebody from the room.
func (p *PowerLevels) Kick() int64 { return p.named(levelKick) }

// Redact returns the level required to redact events of others.
func (p *PowerLevels) Redact() int64 { return p.named(levelRedact) }

// Invite returns the level required to invite.
func (p *PowerLevels) Invite() int64 { return p.named(levelInvite) }

// Notification returns the level required to notify everybody with this key,
// for example "room"; 50 if the event does not say.
func (p *PowerLevels) Notification(key string) int64 {
	if level, ok := p.content.notifications.get(key); ok {
		return level
	}
	return 50
}

// CanRedact tells whether the redaction is to be applied to its target: the
// sender has the redact level or is of the server from which the target came.
// Room versions 1 and 2, which ask this when the redaction is authorised, compare
// the servers in the two event IDs, the later ones those of the senders.
// Spec: rooms/v3#handling-redactions
func (p *PowerLevels) CanRedact(redaction, target *Event) bool {
	if p.User(redaction.Sender) >= p.Redact() {
		return true
	}
	if redaction.Rules.RedactionAuth {
		return sameEventServer(redaction.ID, target.ID)
	}
	return redaction.Sender.Server() == target.Sender.Server()
}

func sameEventServer(a, b EventID) bool {
	serverA, okA := a.Server()
	serverB, okB := b.Server()
	return okA && okB && serverA == serverB
}

func (p *PowerLevels) named(n namedLevel) int64 {
	if p.content.has[n] {
		return p.content.named[n]
	}
	return namedLevelDefaults[n]
}

// parse applies the rules on the form of the content, which are the only part
// of the rule on power levels that needs no other event.
func (c *levelsContent) parse(rules *Rules, ev *Event) error {
	var named [namedLevels][]byte
	var users, events, notifications []byte
	for key, value := range members(ev.Content) {
		switch string(key) {
		case "users":
			users = value
		case "events":
			events = value
		case "notifications":
			notifications = value
		default:
			if n := slices.Index(namedLevelKeys[:], string(key)); n >= 0 {
				named[n] = value
			}
		}
	}
	for n, value := range named {
		var bad bool
		if c.named[n], c.has[n], bad = parseLevel(rules, value); bad && value != nil {
			return refuse(ev, "10.1", "%s is no level", namedLevelKeys[n])
		}
	}
	if key, ok := c.events.parse(rules, events); !ok {
		return refuse(ev, "10.2", "events has no level at %q", clip(key))
	}
	if key, ok := c.notifications.parse(rules, notifications); !ok {
		return refuse(ev, "10.2", "notifications has no level at %q", clip(key))
	}
	return c.parseUsers(rules, ev, users)
}

// parseUsers is strict in all versions: the rule on users is as old as v1.
// Spec: rooms/v12#authorisation-rules 10.3
func (c *levelsContent) parseUsers(rules *Rules, ev *Event, value []byte) error {
	if value == nil {
		return nil
	}
	if !isObject(value) {
		return refuse(ev, "10.3", "users is no object")
	}
	c.users = make(levelMap, 0, 1+bytes.Count(value, []byte{','}))
	for key, v := range textMembers(value) {
		level, ok, _ := parseLevel(rules, v)
		if _, err := ParseUserID(key); err != nil || !ok {
			return refuse(ev, "10.3", "users has no user ID or no level at %q", clip(key))
		}
		c.users = append(c.users, levelEntry{key, level})
	}
	c.users.sort()
	return nil
}

// textMembers is members with the keys as texts, which share one allocation.
func textMembers(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(key string, value []byte) bool) {
		all := string(object)
		for k, v := range members(object) {
			at := cap(object) - cap(k)
			key := all[at : at+len(k)]
			if strings.IndexByte(key, '\\') >= 0 {
				key = unquote(k)
			}
			if !yield(key, v) {
				return
			}
		}
	}
}

// parseLevel reads one level. It is not ok if the value is none; bad says that
// this makes the whole event unacceptable and not just the value meaningless.
func parseLevel(rules *Rules, value []byte) (level int64, ok, bad bool) {
	switch s, isText := text(value); {
	case isText:
		if !rules.IntegerLevels {
			level, ok = parseLevelString(s)
		}
	case isNumber(value):
		level, ok = parseNumber(rules, string(value))
		// v1–v5: numbers beyond a double cause the event to be rejected.
		// Spec: rooms/v1#event-format
		return level, ok, !ok
	}
	return level, ok, !ok && rules.IntegerLevels
}

func isNumber(value []byte) bool {
	return len(value) > 0 && (value[0] == '-' || '0' <= value[0] && value[0] <= '9')
}

// parseNumber reads a JSON number. v10+: an integer within ±MaxLevel, which the
// canonical form demands from v6 on in any case. v1–v5: also a float, cut off at
// the point. Spec: rooms/v1#event-format
func parseNumber(rules *Rules, s string) (int64, bool) {
	if level, err := strconv.ParseInt(s, 10, 64); err == nil {
		if rules.StrictJSON {
			return level, -MaxLevel <= level && level <= MaxLevel
		}
		return cutOff(level), true
	}
	if !rules.FloatLevels {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil:
		return 0, false
	case f >= float64(legacyMax):
		return legacyMax, true
	case f <= -float64(legacyMax):
		return -legacyMax, true
	}
	return int64(f), true
}

// parseLevelString reads a level written as a string: digits, a sign before
// them, white space around. v1–v9 only. Spec: rooms/v1#event-format
func parseLevelString(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	digits := strings.TrimLeft(s, "+-")
	if digits == "" || len(s)-len(digits) > 1 || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	// Out of range the result is the limit of its sign, which is what we want.
	level, _ := strconv.ParseInt(s, 10, 64)
	return cutOff(level), true
}

func cutOff(level int64) int64 { return max(-legacyMax, min(level, legacyMax)) }

// levelMap holds levels by key, sorted by key, each key once. A sorted slice
// because canonical JSON brings it in this order, because a search in it costs
// little and because two of them are compared in one walk.
type levelMap []levelEntry

type levelEntry struct {
	key   string
	level int64
}

func (m levelMap) get(key string) (int64, bool) {
	i, ok := slices.BinarySearchFunc(m, key, func(e levelEntry, k string) int { return strings.Compare(e.key, k) })
	if !ok {
		return 0, false
	}
	return m[i].level, true
}

// parse reads an object of levels. If a value makes the event unacceptable it
// returns its key, "" where the whole is no object, and false.
func (m *levelMap) parse(rules *Rules, value []byte) (fault string, ok bool) {
	if value == nil {
		return "", true
	}
	if !isObject(value) {
		return "", !rules.IntegerLevels
	}
	for key, v := range textMembers(value) {
		level, has, bad := parseLevel(rules, v)
		if bad {
			return key, false
		}
		if has {
			*m = append(*m, levelEntry{key, level})
		}
	}
	m.sort()
	return "", true
}

// sort orders by key; of equal keys the last of the text stays.
func (m *levelMap) sort() {
	byKey := func(a, b levelEntry) int { return strings.Compare(a.key, b.key) }
	if !slices.IsSortedFunc(*m, byKey) {
		slices.SortStableFunc(*m, byKey)
	}
	kept := (*m)[:0]
	for i, e := range *m {
		if i+1 == len(*m) || (*m)[i+1].key != e.key {
			kept = append(kept, e)
		}
	}
	*m = kept
}

// levelChange is a key at which two levelMaps differ.
type levelChange struct {
	key            string
	old, new       int64
	hasOld, hasNew bool
}

// changes walks the differences in the order of the keys until fn returns false.
func (m levelMap) changes(to levelMap, fn func(levelChange) bool) {
	for len(m) > 0 || len(to) > 0 {
		var c levelChange
		switch {
		case len(to) == 0 || len(m) > 0 && m[0].key < to[0].key:
			c = levelChange{key: m[0].key, old: m[0].level, hasOld: true}
		case len(m) == 0 || to[0].key < m[0].key:
			c = levelChange{key: to[0].key, new: to[0].level, hasNew: true}
		default:
			c = levelChange{m[0].key, m[0].level, to[0].level, true, true}
		}
		if c.hasOld {
			m = m[1:]
		}
		if c.hasNew {
			to = to[1:]
		}
		if !(c.hasOld && c.hasNew && c.old == c.new) && !fn(c) {
			return
		}
	}
}
