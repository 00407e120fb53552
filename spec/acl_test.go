package spec

import (
	"strings"
	"testing"
)

func TestServerACL(t *testing.T) {
	for _, test := range []struct {
		claim, content string
		server         ServerName
		want           bool
	}{
		{"15-052 a pattern matches in any case", `{"allow":["*.Example"],"deny":[]}`, "HS.eXample", true},
		{"15-052 the port does not count", `{"allow":["*"],"deny":["evil.example"]}`, "evil.example:8448", false},
		{"15-052 a pattern with a port matches nothing", `{"allow":["*"],"deny":["evil.example:8448"]}`, "evil.example:8448", true},
		{"15-052 deny comes before allow", `{"allow":["evil.example"],"deny":["*.example"]}`, "evil.example", false},
		{"15-052 no match denies", `{"allow":["good.example"]}`, "other.example", false},
		{"15-052 ? is exactly one character", `{"allow":["h?.example"]}`, "hs.example", true},
		{"15-052 ? is not none", `{"allow":["hs?.example"]}`, "hs.example", false},
		{"15-052 a dot is a dot", `{"allow":["hs.example"]}`, "hsxexample", false},
		{"15-052 a pattern matches the whole name", `{"allow":["hs"]}`, "hs.example", false},
		{"15-053 IPv4 literals are denied", `{"allow":["*"],"allow_ip_literals":false}`, "10.0.0.1:8448", false},
		{"15-053 IPv6 literals are denied", `{"allow":["*"],"allow_ip_literals":false}`, "[::1]:8448", false},
		{"15-053 names are not", `{"allow":["*"],"allow_ip_literals":false}`, "1.example", true},
		{"15-053 missing allows literals", `{"allow":["*"]}`, "10.0.0.1", true},
		{"15-053 no boolean allows literals", `{"allow":["*"],"allow_ip_literals":"false"}`, "10.0.0.1", true},
		{"15-054 a missing allow denies all", `{"deny":[]}`, "hs.example", false},
		{"15-055 an allow that is no list denies all", `{"allow":"*"}`, "hs.example", false},
		{"15-055 a deny that is no list is empty", `{"allow":["*"],"deny":"*"}`, "hs.example", true},
		{"15-055 entries that are no strings are left out", `{"allow":[null,5,["*"],"*"],"deny":[{},true]}`, "hs.example", true},
		{"15-055 an empty object denies all", `{}`, "hs.example", false},
	} {
		t.Run(test.claim, func(t *testing.T) {
			if got := ParseServerACL([]byte(test.content)).Allows(test.server); got != test.want {
				t.Errorf("allows %s is %v", test.server, got)
			}
		})
	}
	t.Run("15-052 no ACL event allows all", func(t *testing.T) {
		if !(*ServerACL)(nil).Allows("hs.example") {
			t.Error("denied")
		}
	})
}

func TestMatchGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"**", "abc", true}, {"a*", "a", true}, {"*a", "ba", true},
		{"*a*b*", "xxaxxbxx", true}, {"*a*b*", "xxbxxaxx", false}, {"?", "é", true}, {"??", "é", false}, {"a?c", "aéc", true},
		{"*ab", "aab", true}, {"[a]", "a", false}, {`\*`, "*", false},
	} {
		if got := MatchGlob(test.pattern, test.s); got != test.want {
			t.Errorf("%q matches %q is %v", test.pattern, test.s, got)
		}
	}
	// Nested repetition must not take exponential time.
	if MatchGlob(strings.Repeat("*a", 100)+"b", strings.Repeat("a", 1000)) {
		t.Error("a text without b matches a pattern that ends in b")
	}
}
