package server

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
)

// Filter says what a sync or a page of messages is to contain. The zero Filter
// lets everything pass. A Filter is not changed after it was parsed, so it may
// be used concurrently.
//
// Spec: client-server-api#filtering
type Filter struct {
	// EventFields are dot-separated paths of what to keep of each event; nil
	// keeps everything. See Fields.
	EventFields []string    `json:"event_fields"`
	EventFormat EventFormat `json:"event_format"`
	Presence    EventFilter `json:"presence"`
	// AccountData applies to the account data that belongs to no room.
	AccountData EventFilter `json:"account_data"`
	Room        RoomFilter  `json:"room"`
}

// EventFormat is the shape in which events are wanted; empty means the client's.
type EventFormat string

// The event formats.
const (
	EventFormatClient     EventFormat = "client"
	EventFormatFederation EventFormat = "federation"
)

// RoomFilter says which rooms occur, and what of them.
type RoomFilter struct {
	Rooms        []spec.RoomID   `json:"rooms"`
	NotRooms     []spec.RoomID   `json:"not_rooms"`
	IncludeLeave bool            `json:"include_leave"`
	Timeline     RoomEventFilter `json:"timeline"`
	State        RoomEventFilter `json:"state"`
	Ephemeral    RoomEventFilter `json:"ephemeral"`
	AccountData  RoomEventFilter `json:"account_data"`
}

// EventFilter chooses events by type and sender. A nil list is no restriction,
// an empty list of what to include lets nothing pass.
type EventFilter struct {
	// Limit is the most events wanted; nil if the filter does not say. See
	// LimitOr.
	Limit      *int          `json:"limit"`
	Types      []string      `json:"types"`
	NotTypes   []string      `json:"not_types"`
	Senders    []spec.UserID `json:"senders"`
	NotSenders []spec.UserID `json:"not_senders"`
}

// RoomEventFilter is an EventFilter with what only events in rooms have.
type RoomEventFilter struct {
	EventFilter
	Rooms    []spec.RoomID `json:"rooms"`
	NotRooms []spec.RoomID `json:"not_rooms"`
	// ContainsURL: true wants only events with a url in their content, false
	// only those without, nil both.
	ContainsURL               *bool `json:"contains_url"`
	LazyLoadMembers           bool  `json:"lazy_load_members"`
	IncludeRedundantMembers   bool  `json:"include_redundant_members"`
	UnreadThreadNotifications bool  `json:"unread_thread_notifications"`
}

// maxFilterBytes bounds a filter, and maxFilterList each list in it, since
// every event of a sync is compared with each entry.
const (
	maxFilterBytes = 64 << 10
	maxFilterList  = 1000
)

// ParseFilter reads a filter from a client. Unknown members are ignored.
// Errors: M_NOT_JSON, M_BAD_JSON for a wrong shape, M_INVALID_PARAM for entries
// that are not what the list is of, M_TOO_LARGE.
func ParseFilter(raw []byte) (*Filter, error) {
	if err := checkObject(raw, maxFilterBytes); err != nil {
		return nil, err
	}
	var f Filter
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, badJSON(err)
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	return &f, nil
}

// ParseRoomEventFilter is ParseFilter for the filter of /messages, /context and
// search, which is what a Filter has for a room's timeline.
func ParseRoomEventFilter(raw []byte) (*RoomEventFilter, error) {
	if err := checkObject(raw, maxFilterBytes); err != nil {
		return nil, err
	}
	var f RoomEventFilter
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, badJSON(err)
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	return &f, nil
}

func (f *Filter) validate() error {
	switch f.EventFormat {
	case "", EventFormatClient, EventFormatFederation:
	default:
		return spec.Errorf(spec.CodeInvalidParam, nil, "event_format is neither client nor federation")
	}
	if len(f.EventFields) > maxFilterList {
		return errFilterList("event_fields")
	}
	for _, section := range []*EventFilter{&f.Presence, &f.AccountData} {
		if err := section.validate(); err != nil {
			return err
		}
	}
	if err := validateRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
		return err
	}
	for _, section := range []*RoomEventFilter{&f.Room.Timeline, &f.Room.State, &f.Room.Ephemeral, &f.Room.AccountData} {
		if err := section.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (f *RoomEventFilter) validate() error {
	if err := f.EventFilter.validate(); err != nil {
		return err
	}
	return validateRooms(f.Rooms, f.NotRooms)
}

func (f *EventFilter) validate() error {
	// Deviates: 0 is no valid limit by the letter, but bots use it to ask for
	// no events at all, and it can be understood no other way.
	if f.Limit != nil && *f.Limit < 0 {
		return spec.Errorf(spec.CodeInvalidParam, nil, "limit is negative")
	}
	if len(f.Types) > maxFilterList || len(f.NotTypes) > maxFilterList {
		return errFilterList("types")
	}
	for _, list := range [][]spec.UserID{f.Senders, f.NotSenders} {
		if len(list) > maxFilterList {
			return errFilterList("senders")
		}
		for _, id := range list {
			if _, err := spec.ParseUserID(string(id)); err != nil {
				return spec.Errorf(spec.CodeInvalidParam, err, "an entry of senders is no user ID")
			}
		}
	}
	return nil
}

func validateRooms(lists ...[]spec.RoomID) error {
	for _, list := range lists {
		if len(list) > maxFilterList {
			return errFilterList("rooms")
		}
		for _, id := range list {
			if _, err := spec.ParseRoomID(string(id)); err != nil {
				return spec.Errorf(spec.CodeInvalidParam, err, "an entry of rooms is no room ID")
			}
		}
	}
	return nil
}

func errFilterList(name string) error {
	return spec.Errorf(spec.CodeInvalidParam, nil, "%s has more than %d entries", name, maxFilterList)
}

// LimitOr returns the filter's limit, def if it has none, at most most.
func (f *EventFilter) LimitOr(def, most int) int {
	if f.Limit != nil {
		def = *f.Limit
	}
	return min(def, most)
}

// Match tells whether an event of that type and sender passes. Use it for what
// is not in a room; account data has no sender, so pass an empty one.
func (f *EventFilter) Match(eventType string, sender spec.UserID) bool {
	return allows(f.Types, f.NotTypes, func(pattern string) bool { return globMatch(pattern, eventType) }) &&
		allows(f.Senders, f.NotSenders, func(id spec.UserID) bool { return id == sender })
}

// MatchesNothing tells that no event can pass, so that a section need not be
// computed at all.
func (f *EventFilter) MatchesNothing() bool {
	return (f.Limit != nil && *f.Limit == 0) ||
		(f.Types != nil && len(f.Types) == 0) || (f.Senders != nil && len(f.Senders) == 0) ||
		slices.Contains(f.NotTypes, "*")
}

// MatchRoom tells whether the room occurs at all. It is asked before the
// filters of the sections.
func (f *RoomFilter) MatchRoom(room spec.RoomID) bool { return roomAllowed(f.Rooms, f.NotRooms, room) }

// MatchRoom tells whether anything of the room passes.
func (f *RoomEventFilter) MatchRoom(room spec.RoomID) bool {
	return roomAllowed(f.Rooms, f.NotRooms, room)
}

// MatchEvent tells whether a room's event passes. Its content is looked into,
// without being decoded, only for filters that speak of url.
func (f *RoomEventFilter) MatchEvent(ev *spec.Event) bool {
	if !f.Match(ev.Type, ev.Sender) || !f.MatchRoom(ev.Room) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == hasMember(ev.Content, "url")
}

func roomAllowed(rooms, notRooms []spec.RoomID, room spec.RoomID) bool {
	return allows(rooms, notRooms, func(id spec.RoomID) bool { return id == room })
}

// allows applies a pair of lists: exclusion wins, and an absent list of what to
// include includes everything.
func allows[T any](include, exclude []T, match func(T) bool) bool {
	return !slices.ContainsFunc(exclude, match) && (include == nil || slices.ContainsFunc(include, match))
}

// globMatch matches s with a pattern in which * stands for any characters.
func globMatch(pattern, s string) bool {
	prefix, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	if !strings.HasPrefix(s, prefix) {
		return false
	}
	s = s[len(prefix):]
	// Each literal between two stars is found as early as possible; the last
	// must be where s ends.
	for {
		literal, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, literal)
		}
		i := strings.Index(s, literal)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(literal):], after
	}
}

// hasMember tells whether a JSON object has a member of that name on its top
// level. What is no object has none.
func hasMember(object []byte, name string) bool {
	// Most contents do not hold the bytes at all. An escaped spelling of an
	// ASCII name cannot be in canonical JSON.
	if !bytes.Contains(object, []byte(`"`+name+`"`)) {
		return false
	}
	dec := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	for {
		t, err := dec.ReadToken()
		if err != nil || t.Kind() != '"' {
			return false
		}
		if t.String() == name {
			return true
		}
		if err := dec.SkipValue(); err != nil {
			return false
		}
	}
}

// checkObject tells whether raw is one JSON object of at most most bytes.
func checkObject(raw []byte, most int) error {
	if len(raw) > most {
		return spec.Errorf(spec.CodeTooLarge, nil, "more than %d bytes", most)
	}
	v := jsontext.Value(raw)
	if !v.IsValid() {
		return spec.Errorf(spec.CodeNotJSON, nil, "this is not valid JSON")
	}
	if v.Kind() != '{' {
		return spec.Errorf(spec.CodeBadJSON, nil, "this is not a JSON object")
	}
	return nil
}

// badJSON is the error for JSON of another shape than wanted.
func badJSON(err error) error {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && semantic.JSONPointer != "" {
		return spec.Errorf(spec.CodeBadJSON, err, "%s is not of the right kind", semantic.JSONPointer)
	}
	return spec.Errorf(spec.CodeBadJSON, err, "the JSON is not of the right shape")
}
