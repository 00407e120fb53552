package spec

import (
	"net/netip"
	"strings"
)

// TypeServerACL is the type of the state event with a room's server ACL.
const TypeServerACL = "m.room.server_acl"

// ServerACL says which servers may make requests about a room. It does not
// judge events. It is immutable.
// Spec: client-server-api#server-access-control-lists-acls-for-rooms
type ServerACL struct {
	noLiterals  bool
	allow, deny []string // patterns in lower case
}

// ParseServerACL reads the content of an m.room.server_acl event, in canonical
// form. What has the wrong type counts as left out, so there are no errors.
// Spec: client-server-api#mroomserver_acl
func ParseServerACL(content []byte) *ServerACL {
	return &ServerACL{
		noLiterals: string(get(content, "allow_ip_literals")) == "false",
		allow:      patterns(get(content, "allow")),
		deny:       patterns(get(content, "deny")),
	}
}

func patterns(list []byte) []string {
	if !isArray(list) {
		return nil
	}
	var out []string
	for value := range elements(list) {
		if s, ok := text(value); ok {
			out = append(out, strings.ToLower(s))
		}
	}
	return out
}

// Allows tells whether the server may make requests about the room. The port of
// its name does not count. A nil ACL is that of a room without one: it allows
// everybody. Spec: client-server-api#mroomserver_acl
func (a *ServerACL) Allows(server ServerName) bool {
	if a == nil {
		return true
	}
	host := strings.ToLower(server.Host())
	if a.noLiterals && isIPLiteral(host) {
		return false
	}
	return !matchAny(a.deny, host) && matchAny(a.allow, host)
}

// isIPLiteral tells whether a host is an address and no name.
func isIPLiteral(host string) bool {
	if strings.HasPrefix(host, "[") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

func matchAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if MatchGlob(p, s) {
			return true
		}
	}
	return false
}

// MatchGlob tells whether the whole of s matches the pattern, in which * stands
// for any characters, also none, and ? for exactly one. Case counts. Its time is
// bounded by the product of the lengths.
// Spec: appendices#glob-style-matching
func MatchGlob(pattern, s string) bool {
	star, mark := -1, 0 // the last * met, and where what it stands for ends
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			i += runeLen(s[i:])
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// runeLen is the length in bytes of the first character; 1 if it is none.
func runeLen(s string) int {
	for i := range s {
		if i > 0 {
			return i
		}
	}
	return len(s)
}
