package spec

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzTemplate reads what another server proposes, and completes it.
func FuzzTemplate(f *testing.F) {
	for _, v := range []RoomVersion{"1", "3", "6", "11", "12"} {
		rules, _ := RulesOf(v)
		b := testMessage(rules)
		b.Type, b.State, b.Content = TypeMember, ptr("@alice:domain"), []byte(`{"membership":"join"}`)
		proto, err := b.Template(rules)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(v), proto)
	}
	key := testKey(f)
	f.Fuzz(func(t *testing.T, version string, raw []byte) {
		rules, ok := RulesOf(RoomVersion(version))
		if !ok {
			return
		}
		b, err := ParseTemplate(rules, raw)
		if err != nil {
			return
		}
		e, err := b.Build(rules, "domain", key)
		if err != nil {
			return // a pair without a hash, an event that signing makes too large
		}
		parsed, err := ParseEvent(rules, e.JSON)
		if err != nil || parsed.ID != e.ID || parsed.Redacted || !bytes.Equal(parsed.JSON, e.JSON) {
			t.Fatalf("%q became %s, which reads as %+v, %v", raw, e.JSON, parsed, err)
		}
	})
}

// FuzzServerACL reads a room's ACL and asks it about a server.
func FuzzServerACL(f *testing.F) {
	f.Add([]byte(`{"allow":["*"],"deny":["*.evil.example","?.b"],"allow_ip_literals":false}`), "a.evil.example:80")
	f.Add([]byte(`{"allow":[1,"[::1]"]}`), "[::1]")
	f.Fuzz(func(t *testing.T, raw []byte, server string) {
		content, err := Canonical(raw)
		if err != nil {
			return
		}
		name, err := ParseServerName(server)
		if err != nil {
			return
		}
		acl := ParseServerACL(content)
		if name.Host() != string(name) && acl.Allows(name) != acl.Allows(ServerName(name.Host())) {
			t.Errorf("the port of %s counts in %s", name, content)
		}
	})
}

// FuzzSignJSON signs an object and finds its own signature again.
func FuzzSignJSON(f *testing.F) {
	f.Add([]byte(`{"a":1,"signatures":{"x":{"ed25519:1":"AAAA"}},"unsigned":{}}`), "domain")
	f.Add([]byte(`{"signatures":{"domain":1}}`), "do\"main")
	key := testKey(f)
	f.Fuzz(func(t *testing.T, object []byte, entity string) {
		_, _ = SignatureKeyIDs(object, entity)
		if VerifyJSON(object, entity, key.ID, key.Public()) == nil {
			return // it has our signature
		}
		signed, err := SignJSON(object, entity, key)
		if err != nil || !validIDText(entity) {
			return
		}
		if err := VerifyJSON(signed, entity, key.ID, key.Public()); err != nil || !json.Valid(signed) {
			t.Fatalf("%q signed for %q is %s: %v", object, entity, signed, err)
		}
	})
}

// FuzzPropertyPath: a path says the names that were put into it.
func FuzzPropertyPath(f *testing.F) {
	f.Add(`content.m\.mentions.user_ids`)
	f.Add(`a\\b.\x.`)
	f.Fuzz(func(t *testing.T, key string) {
		if !validIDText(key) {
			return
		}
		var again []byte
		for i, name := range propertyPath(key) {
			if i > 0 {
				again = append(again, '.')
			}
			again = append(again, escapeName(unquote([]byte(name)))...)
		}
		first, second := propertyPath(key), propertyPath(string(again))
		if len(first) != len(second) {
			t.Fatalf("%q became %q", key, again)
		}
		for i := range first {
			if first[i] != second[i] {
				t.Fatalf("%q became %q", key, again)
			}
		}
	})
}

func escapeName(name string) (out string) {
	for _, r := range name {
		if r == '.' || r == '\\' {
			out += `\`
		}
		out += string(r)
	}
	return out
}

// FuzzResolveGraph makes a room of any bytes and resolves states of it in every
// room version: the definition and the algorithm agree, whatever the order.
func FuzzResolveGraph(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed, byte(seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, version byte) {
		versions := SupportedVersions()
		checkRandomRoom(t, versions[int(version)%len(versions)], seed)
	})
}
