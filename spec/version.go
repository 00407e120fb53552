package spec

// DefaultVersion is the version of new rooms when nobody asks for another.
// Spec: rooms#complete-list-of-room-versions
const DefaultVersion RoomVersion = "12"

// EventIDFormat is how a room version makes event IDs.
type EventIDFormat uint8

const (
	// EventIDChosen: the sender chooses "$opaque:server" and sends it along.
	// Spec: rooms/v1#event-ids
	EventIDChosen EventIDFormat = iota
	// EventIDHash: the reference hash in the standard base64 alphabet.
	// Spec: rooms/v3#event-ids
	EventIDHash
	// EventIDHashURL: the reference hash in the URL-safe alphabet.
	// Spec: rooms/v4#event-ids
	EventIDHashURL
)

// StateResolution names an algorithm of state resolution.
type StateResolution uint8

const (
	// StateResolutionV1 is the algorithm of room version 1. Spec: rooms/v1#state-resolution
	StateResolutionV1 StateResolution = iota
	// StateResolutionV2 is that of versions 2 to 11. Spec: rooms/v2#state-resolution
	StateResolutionV2
	// StateResolutionV21 is that of version 12. Spec: rooms/v12#state-resolution
	StateResolutionV21
)

// Rules are the facts in which room versions differ. They are shared and never
// changed after package initialisation.
type Rules struct {
	Version RoomVersion
	// Supported: rooms of this version may be made and joined here, which is so
	// for all that are known.
	Supported bool

	// Event format.

	EventIDs EventIDFormat
	// StrictJSON: integers beyond ±(2^53-1) and floats make an event invalid;
	// until then they are tolerated. Spec: rooms/v6#canonical-json
	StrictJSON bool
	// CreatorInContent: create events name their sender in content.creator.
	// Spec: rooms/v11#remove-the-creator-property-of-mroomcreate-events
	CreatorInContent bool
	// RedactsInContent: a redaction names its target in content.redacts, before
	// at the top level. Spec: rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
	RedactsInContent bool
	// RoomIDIsCreateHash: the room ID is "!" and the hash of the create event,
	// which itself carries no room_id. Spec: rooms/v12#event-format
	RoomIDIsCreateHash bool

	// What a redacted event keeps.

	// RedactionKeepsAliases: m.room.aliases keeps aliases. Spec: rooms/v6#redactions
	RedactionKeepsAliases bool
	// RedactionKeepsAllow: join rules keep allow. Spec: rooms/v8#redactions
	RedactionKeepsAllow bool
	// RedactionKeepsAuthorisedVia: members keep join_authorised_via_users_server.
	// Spec: rooms/v9#redactions
	RedactionKeepsAuthorisedVia bool
	// RedactionV11: create keeps all content, power levels invite, redactions
	// redacts, members third_party_invite.signed; origin, membership and
	// prev_state at the top level are dropped. Spec: rooms/v11#redactions
	RedactionV11 bool

	// Signatures.

	// EventIDSigned: the server in the event ID must sign too.
	// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
	EventIDSigned bool
	// KeyValidity: a key must have been valid at origin_server_ts.
	// Spec: rooms/v5#signing-key-validity-period
	KeyValidity bool

	// Authorization.

	// AliasesByDomain: m.room.aliases is allowed by its state key's domain alone.
	// Spec: rooms/v1#authorisation-rules 4
	AliasesByDomain bool
	// RedactionAuth: redactions have a rule of their own. Spec: rooms/v1#authorisation-rules 11
	RedactionAuth bool
	// NotificationLevels: changes of notifications in power levels are checked.
	// Spec: rooms/v6#authorisation-rules
	NotificationLevels bool
	// Knock: membership and join rule knock exist. Spec: rooms/v7#authorisation-rules
	Knock bool
	// Restricted: join rule restricted exists. Spec: rooms/v8#authorisation-rules
	Restricted bool
	// KnockRestricted: join rule knock_restricted exists. Spec: rooms/v10#authorisation-rules
	KnockRestricted bool
	// IntegerLevels: power levels must be integers, until then strings that
	// look like integers count too. Spec: rooms/v10#authorisation-rules
	IntegerLevels bool
	// FloatLevels: floats count as power levels, cut off at the point.
	// Spec: rooms/v1#event-format
	FloatLevels bool
	// CreatorPower: creators stand above every level and are never in
	// m.room.power_levels, and additional_creators exists. Spec: rooms/v12#authorisation-rules
	CreatorPower bool

	StateResolution StateResolution
}

// with returns a copy of base with changes, for the next version.
func with(base *Rules, v RoomVersion, change func(*Rules)) *Rules {
	r := *base
	r.Version = v
	change(&r)
	return &r
}

var (
	// Spec: rooms/v1
	rulesV1 = &Rules{
		Version:               "1",
		Supported:             true,
		CreatorInContent:      true,
		RedactionKeepsAliases: true,
		EventIDSigned:         true,
		AliasesByDomain:       true,
		RedactionAuth:         true,
		FloatLevels:           true,
	}
	// Spec: rooms/v2
	rulesV2 = with(rulesV1, "2", func(r *Rules) { r.StateResolution = StateResolutionV2 })
	// Spec: rooms/v3
	rulesV3 = with(rulesV2, "3", func(r *Rules) {
		r.EventIDs = EventIDHash
		r.EventIDSigned = false
		r.RedactionAuth = false
	})
	// Spec: rooms/v4
	rulesV4 = with(rulesV3, "4", func(r *Rules) { r.EventIDs = EventIDHashURL })
	// Spec: rooms/v5
	rulesV5 = with(rulesV4, "5", func(r *Rules) { r.KeyValidity = true })
	// Spec: rooms/v6
	rulesV6 = with(rulesV5, "6", func(r *Rules) {
		r.StrictJSON = true
		r.RedactionKeepsAliases = false
		r.AliasesByDomain = false
		r.NotificationLevels = true
		r.FloatLevels = false
	})
	// Spec: rooms/v7
	rulesV7 = with(rulesV6, "7", func(r *Rules) { r.Knock = true })
	// Spec: rooms/v8
	rulesV8 = with(rulesV7, "8", func(r *Rules) {
		r.Restricted = true
		r.RedactionKeepsAllow = true
	})
	// Spec: rooms/v9
	rulesV9 = with(rulesV8, "9", func(r *Rules) { r.RedactionKeepsAuthorisedVia = true })
	// Spec: rooms/v10
	rulesV10 = with(rulesV9, "10", func(r *Rules) {
		r.KnockRestricted = true
		r.IntegerLevels = true
	})
	// Spec: rooms/v11
	rulesV11 = with(rulesV10, "11", func(r *Rules) {
		r.CreatorInContent = false
		r.RedactsInContent = true
		r.RedactionV11 = true
	})
	// Spec: rooms/v12
	rulesV12 = with(rulesV11, "12", func(r *Rules) {
		r.RoomIDIsCreateHash = true
		r.CreatorPower = true
		r.StateResolution = StateResolutionV21
	})
)

// RulesOf returns the facts of a room version; ok is false for one that is not
// known. Versions are opaque strings: "01" is not "1". Known is not supported:
// see SupportedVersions.
func RulesOf(v RoomVersion) (rules *Rules, ok bool) {
	switch v {
	case "1":
		return rulesV1, true
	case "2":
		return rulesV2, true
	case "3":
		return rulesV3, true
	case "4":
		return rulesV4, true
	case "5":
		return rulesV5, true
	case "6":
		return rulesV6, true
	case "7":
		return rulesV7, true
	case "8":
		return rulesV8, true
	case "9":
		return rulesV9, true
	case "10":
		return rulesV10, true
	case "11":
		return rulesV11, true
	case "12":
		return rulesV12, true
	}
	return nil, false
}

// SupportedVersions lists the versions of rooms that may be made and joined
// here, oldest first. The slice is the caller's.
func SupportedVersions() []RoomVersion {
	var supported []RoomVersion
	for _, v := range []RoomVersion{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		if rules, _ := RulesOf(v); rules.Supported {
			supported = append(supported, v)
		}
	}
	return supported
}
