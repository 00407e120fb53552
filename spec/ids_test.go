package spec

import (
	"strings"
	"testing"
)

func TestParseServerName(t *testing.T) {
	cases := []struct {
		in, host string
		port     int // -1: none
	}{
		{"matrix.org", "matrix.org", -1},
		{"matrix.org:8888", "matrix.org", 8888},
		{"1.2.3.4", "1.2.3.4", -1},
		{"1.2.3.4:1234", "1.2.3.4", 1234},
		{"[1234:5678::abcd]", "[1234:5678::abcd]", -1},
		{"[1234:5678::abcd]:5678", "[1234:5678::abcd]", 5678},
		{"[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", -1},
		{"MATRIX.org", "MATRIX.org", -1},
		{"localhost:1", "localhost", 1},
		{strings.Repeat("a", 255), strings.Repeat("a", 255), -1},
	}
	for _, c := range cases {
		t.Run(clip(c.in), func(t *testing.T) {
			name, err := ParseServerName(c.in)
			if err != nil {
				t.Fatal(err)
			}
			port, ok := name.Port()
			if name.Host() != c.host || ok != (c.port >= 0) || ok && port != c.port {
				t.Fatalf("host %q, port %d %v", name.Host(), port, ok)
			}
		})
	}
	for _, in := range []string{"", ":80", "a:", "a:b", "13-023:http", "a:123456", "a:-1", "a b", "a/b", "a_b", "é.org", "[::1", "::1",
		"[]", "[a]", "[::1]x", "[::g]", "a:1:2", "a\x00", "@a", strings.Repeat("a", 256)} {
		t.Run("refuses "+clip(in), func(t *testing.T) {
			if _, err := ParseServerName(in); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestParseIDs(t *testing.T) {
	long := strings.Repeat("x", 255)
	hash := strings.Repeat("Az0-_", 8) + "abc"
	cases := []struct {
		name  string
		parse func(string) error
		good  []string
		bad   []string
	}{
		{"20-028 historical user IDs", func(s string) error { _, err := ParseUserID(s); return err },
			[]string{"@a:b", "@:b", "@A b:c", "@😀:c", "@a\n:c:80", "@a/b=c:d", "@a:[::1]:5", "@" + long[:252] + ":b"},
			[]string{"", "@", "a:b", "@a", "@a:", "@a:b:c", "@a\x00:b", "@\xff:b", "@\xed\xa0\x80:b", "@" + long[:253] + ":b", "@a:b c"}},
		{"18-027 room IDs", func(s string) error { _, err := ParseRoomID(s); return err },
			[]string{"!a:b", "!a b:c:80", "!" + hash, "!é:b"},
			[]string{"", "!", "!:b", "!a", "!" + hash + "x", "!" + hash[1:], "!" + hash[1:] + "+", "$a:b", "!a:", "!a\x00:b", "!" + long[:253] + ":b"}},
		{"room aliases", func(s string) error { _, err := ParseRoomAlias(s); return err },
			[]string{"#a:b", "#:b", "#a b/c#d:e", "#" + long[:252] + ":b"},
			[]string{"", "#", "#a", "a:b", "#a:", "#a:b:c", "#\x00:b", "#" + long[:253] + ":b"}},
		{"18-006 18-007 event IDs", func(s string) error { _, err := ParseEventID(s); return err },
			[]string{"$a:b", "$" + hash, "$a/+b", "$" + long[:254]},
			[]string{"", "$", "a", "$a\x00", "$\xff", "$" + long}},
		{"key IDs", func(s string) error { _, err := ParseKeyID(s); return err },
			[]string{"ed25519:1", "ed25519:policy_server", "curve25519:AAA"},
			[]string{"", ":", "ed25519", "ed25519:", ":1", "ed25519:\xff", "a:" + long}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, s := range c.good {
				if err := c.parse(s); err != nil {
					t.Error(err)
				}
			}
			for _, s := range c.bad {
				if c.parse(s) == nil {
					t.Errorf("accepted %q", s)
				}
			}
		})
	}
}

func TestNewUserIDIsStrict(t *testing.T) {
	if id, err := NewUserID("a.b_c=d-e/f+1", "h:80"); err != nil || id != "@a.b_c=d-e/f+1:h:80" {
		t.Fatalf("got %q, %v", id, err)
	}
	for _, local := range []string{"", "A", "a b", "é", "a:b", "a!", strings.Repeat("a", 252)} {
		if _, err := NewUserID(local, "host"); err == nil {
			t.Errorf("accepted %q", local)
		}
	}
	if _, err := NewUserID("a", "b c"); err == nil {
		t.Error("accepted a bad server name")
	}
}

func TestIDParts(t *testing.T) {
	if u := UserID("@a:b:80"); u.Localpart() != "a" || u.Server() != "b:80" || !u.Compliant() {
		t.Errorf("user %q %q", u.Localpart(), u.Server())
	}
	for _, u := range []UserID{"@:b", "@a b:c", "@é:c"} {
		if u.Compliant() {
			t.Errorf("20-029 %q is not compliant", u)
		}
	}
	if a := RoomAlias("#a:b"); a.Localpart() != "a" || a.Server() != "b" {
		t.Errorf("alias %q %q", a.Localpart(), a.Server())
	}
	if s, ok := RoomID("!a:b:80").Server(); s != "b:80" || !ok {
		t.Errorf("room server %q %v", s, ok)
	}
	if s, ok := RoomID("!abc").Server(); s != "" || ok {
		t.Errorf("18-027 room server %q %v", s, ok)
	}
	if e := RoomID("!abc").CreateEvent(); e != "$abc" || e.RoomID() != "!abc" {
		t.Errorf("18-012 create event %q", e)
	}
	if s, ok := EventID("$a:b").Server(); s != "b" || !ok {
		t.Errorf("event server %q %v", s, ok)
	}
	if a := KeyID("ed25519:1").Algorithm(); a != "ed25519" {
		t.Errorf("algorithm %q", a)
	}
	if RoomID("").CreateEvent() != "" || EventID("").RoomID() != "" || UserID("").Server() != "" {
		t.Error("empty IDs have parts")
	}
}

func FuzzIDs(f *testing.F) {
	for _, seed := range []string{"@a:b", "!a:[::1]:80", "#é:b", "$abc", "ed25519:1", "matrix.org:8448", "", "@", "!\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := ParseServerName(s); err == nil {
			name.Port()
			if name.Host() == "" {
				t.Fatalf("%q has no host", s)
			}
		}
		if u, err := ParseUserID(s); err == nil && "@"+u.Localpart()+":"+string(u.Server()) != s {
			t.Fatalf("%q falls apart", s)
		}
		if a, err := ParseRoomAlias(s); err == nil && "#"+a.Localpart()+":"+string(a.Server()) != s {
			t.Fatalf("%q falls apart", s)
		}
		if r, err := ParseRoomID(s); err == nil {
			if _, hasServer := r.Server(); hasServer == (len(s) == 44 && isHash(s[1:])) {
				t.Fatalf("%q has a server: %v", s, hasServer)
			}
		}
		if _, err := ParseEventID(s); err == nil && len(s) > MaxIDLength {
			t.Fatalf("%q is too long", s)
		}
		_, _ = ParseKeyID(s)
	})
}
