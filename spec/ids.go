package spec

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxIDLength is the longest identifier of any kind in bytes, sigil and domain
// included. Spec: appendices#common-identifier-format
const MaxIDLength = 255

// The identifiers of the protocol. A value of one of these types that came out
// of its parser is valid; a plain conversion from string is for constants and
// for text that was valid when it was stored. All compare byte for byte.
type (
	// ServerName is a host with an optional port, the name of a homeserver.
	// Spec: appendices#server-name
	ServerName string
	// UserID is "@localpart:server". Spec: appendices#user-identifiers
	UserID string
	// RoomID is "!opaque:server", from room version 12 on "!hash".
	// Spec: appendices#room-ids
	RoomID string
	// RoomAlias is "#alias:server". Spec: appendices#room-aliases
	RoomAlias string
	// EventID is "$opaque:server" in room versions 1 and 2, "$hash" after.
	// Spec: appendices#event-ids
	EventID string
	// KeyID is "algorithm:name" of a signing key. Spec: appendices#signing-details
	KeyID string
	// RoomVersion is opaque: "1" and "01" are different. Spec: rooms#room-version-grammar
	RoomVersion string
)

// ParseServerName checks the grammar of a server name. It does not ask whether
// the host exists or whether the port is one that can be dialled.
// Spec: appendices#server-name
func ParseServerName(s string) (ServerName, error) {
	if !validServerName(s) {
		return "", fmt.Errorf("%q is not a server name", clip(s))
	}
	return ServerName(s), nil
}

func validServerName(s string) bool {
	host, port, hasPort := splitHostPort(s)
	if hasPort && (len(port) < 1 || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return false
	}
	if len(s) > MaxIDLength || host == "" {
		return false
	}
	if host[0] == '[' {
		return validIPv6Literal(host)
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !isAlnum(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// validIPv6Literal takes the literal with its brackets.
func validIPv6Literal(host string) bool {
	n := len(host) - 2
	if n < 2 || n > 45 || host[len(host)-1] != ']' {
		return false
	}
	inner := host[1 : len(host)-1]
	return strings.Contains(inner, ":") && strings.Trim(inner, "0123456789abcdefABCDEF:.") == ""
}

// splitHostPort splits at the port's colon; the brackets of an IPv6 literal stay
// with the host.
func splitHostPort(s string) (host, port string, hasPort bool) {
	end := 0
	if strings.HasPrefix(s, "[") {
		if end = strings.IndexByte(s, ']'); end < 0 {
			return s, "", false
		}
	}
	i := strings.IndexByte(s[end:], ':')
	if i < 0 {
		return s, "", false
	}
	return s[:end+i], s[end+i+1:], true
}

// Host returns the name without its port. The brackets of an IPv6 literal stay.
func (s ServerName) Host() string {
	host, _, _ := splitHostPort(string(s))
	return host
}

// Port returns the port that the name carries; ok is false if it carries none.
// The number may be beyond 65535, which the grammar permits.
func (s ServerName) Port() (port int, ok bool) {
	_, digits, ok := splitHostPort(string(s))
	for _, c := range digits {
		port = port*10 + int(c-'0')
	}
	return port, ok
}

// ParseUserID accepts every user ID that must be accepted from others, which
// includes the historical forms: an empty localpart, capitals, spaces, emoji.
// Spec: appendices#historical-user-ids
func ParseUserID(s string) (UserID, error) {
	if !validDomainID(s, '@', true) {
		return "", fmt.Errorf("%q is not a user ID", clip(s))
	}
	return UserID(s), nil
}

// NewUserID makes an ID for a new account and so takes only the strict grammar:
// a localpart of a-z, 0-9 and "._=-/+" that is not empty.
// Spec: appendices#user-identifiers
func NewUserID(localpart string, s ServerName) (UserID, error) {
	id := "@" + localpart + ":" + string(s)
	switch {
	case localpart == "":
		return "", fmt.Errorf("a user ID needs a localpart")
	case !strictLocalpart(localpart):
		return "", fmt.Errorf("localpart %q has characters other than a-z, 0-9 and ._=-/+", clip(localpart))
	case len(id) > MaxIDLength:
		return "", fmt.Errorf("user ID is %d bytes long, limit is %d", len(id), MaxIDLength)
	}
	return ParseUserID(id)
}

func strictLocalpart(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("._=-/+", c) >= 0) {
			return false
		}
	}
	return true
}

// Localpart is what stands between the sigil and the first colon.
func (u UserID) Localpart() string { local, _ := splitID(string(u)); return local }

// Server is the homeserver of the account.
func (u UserID) Server() ServerName { _, server := splitID(string(u)); return ServerName(server) }

// Compliant reports whether the ID may be told to clients outside of events: a
// localpart that is not empty and has only U+0021 to U+007E.
// Spec: appendices#historical-user-ids
func (u UserID) Compliant() bool {
	local := u.Localpart()
	for i := 0; i < len(local); i++ {
		if local[i] < 0x21 || local[i] > 0x7e {
			return false
		}
	}
	return local != ""
}

// ParseRoomAlias checks "#alias:server". Spec: appendices#room-aliases
func ParseRoomAlias(s string) (RoomAlias, error) {
	if !validDomainID(s, '#', true) {
		return "", fmt.Errorf("%q is not a room alias", clip(s))
	}
	return RoomAlias(s), nil
}

// Localpart is what stands between the sigil and the first colon.
func (a RoomAlias) Localpart() string { local, _ := splitID(string(a)); return local }

// Server is the homeserver that answers for the alias.
func (a RoomAlias) Server() ServerName { _, server := splitID(string(a)); return ServerName(server) }

// ParseRoomID accepts both forms, with a server (room versions 1 to 11) and the
// bare hash of the create event (from 12 on), since a path does not tell the
// room version. Spec: appendices#room-ids
func ParseRoomID(s string) (RoomID, error) {
	if !validDomainID(s, '!', false) && !(len(s) == 44 && s[0] == '!' && isHash(s[1:])) {
		return "", fmt.Errorf("%q is not a room ID", clip(s))
	}
	return RoomID(s), nil
}

// Server returns the domain in the ID; ok is false for room version 12 and
// later, whose IDs have none. It says nothing about who is in the room.
func (r RoomID) Server() (name ServerName, ok bool) {
	_, server := splitID(string(r))
	return ServerName(server), server != ""
}

// CreateEvent returns the ID of the room's create event. It has meaning only
// where the room ID is the hash of that event. Spec: rooms/v12#event-format
func (r RoomID) CreateEvent() EventID {
	if r == "" {
		return ""
	}
	return EventID("$" + string(r[1:]))
}

// ParseEventID accepts the forms of all room versions: "$" and up to 254 bytes
// of UTF-8 without NUL. Spec: appendices#event-ids
func ParseEventID(s string) (EventID, error) {
	if len(s) < 2 || len(s) > MaxIDLength || s[0] != '$' || !validIDText(s) {
		return "", fmt.Errorf("%q is not an event ID", clip(s))
	}
	return EventID(s), nil
}

// Server returns the domain in an event ID of room versions 1 and 2; ok is
// false where the ID is a hash.
func (e EventID) Server() (name ServerName, ok bool) {
	_, server := splitID(string(e))
	return ServerName(server), server != ""
}

// RoomID returns the ID of the room that this create event makes, in room
// versions whose room IDs are that hash. Spec: rooms/v12#event-format
func (e EventID) RoomID() RoomID {
	if e == "" {
		return ""
	}
	return RoomID("!" + string(e[1:]))
}

// ParseKeyID checks "algorithm:name", the name being letters, digits and
// underscores. Spec: appendices#signing-details
func ParseKeyID(s string) (KeyID, error) {
	algorithm, name, ok := strings.Cut(s, ":")
	if !ok || algorithm == "" || name == "" || len(s) > MaxIDLength || !validIDText(s) {
		return "", fmt.Errorf("%q is not a key ID", clip(s))
	}
	return KeyID(s), nil
}

// Algorithm is the part before the colon, "ed25519" for all keys in use.
func (k KeyID) Algorithm() string { a, _, _ := strings.Cut(string(k), ":"); return a }

// validDomainID checks sigil, localpart, ":" and server name, and the length.
func validDomainID(s string, sigil byte, emptyLocalpart bool) bool {
	if len(s) > MaxIDLength || len(s) == 0 || s[0] != sigil || !validIDText(s) {
		return false
	}
	colon := strings.IndexByte(s, ':')
	if colon < 0 || colon == 1 && !emptyLocalpart {
		return false
	}
	return validServerName(s[colon+1:])
}

// validIDText refuses NUL and whatever is not UTF-8, encoded surrogates included.
func validIDText(s string) bool {
	return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s)
}

// isHash reports 43 characters of URL-safe unpadded base64, the form of SHA-256.
func isHash(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) == 43
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// splitID takes "&localpart:server" apart; the server is empty if there is none.
func splitID(s string) (localpart, server string) {
	if s == "" {
		return "", ""
	}
	localpart, server, _ = strings.Cut(s[1:], ":")
	return localpart, server
}

// clip keeps error texts short when the input is long.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
