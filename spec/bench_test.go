package spec

import (
	"strings"
	"testing"
)

// benchEvent is a message PDU of about 1.15 KB, as an encrypted room has them.
func benchEvent(b *testing.B) *Event {
	m := testMessage(rulesV12)
	m.Type = TypeEncrypted
	m.Auth = []EventID{EventID("$" + strings.Repeat("a", 43)), EventID("$" + strings.Repeat("b", 43)), EventID("$" + strings.Repeat("c", 43))}
	m.Prev = []EventID{EventID("$" + strings.Repeat("p", 43))}
	m.Content = []byte(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"` + strings.Repeat("AwgAEnACgAkL", 33) +
		`","device_id":"RJYKSTBOIE","sender_key":"IlRMeOPX2e0MurIyfWEucYBRVOEEUMrOHqn/8mLqMjA","session_id":"X3lUlvLELLYxeTx4yOVu6UDpasGEVO0Jbu+QFnm0cKQ"}`)
	return mustBuild(b, rulesV12, m)
}

func BenchmarkParseEvent(b *testing.B) {
	raw := benchEvent(b).AppendFederation(nil, 20)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEvent(rulesV12, raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseEventUnsorted has the members in an order as clients write them.
func BenchmarkParseEventUnsorted(b *testing.B) {
	e := benchEvent(b)
	var parts []string
	for k, v := range members(e.JSON) {
		parts = append([]string{`"` + string(k) + `": ` + string(v)}, parts...)
	}
	raw := []byte("{" + strings.Join(parts, ", ") + "}")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEvent(rulesV12, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadEvent(b *testing.B) {
	e := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := LoadEvent(rulesV12, e.ID, e.JSON); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendClient(b *testing.B) {
	e := benchEvent(b)
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = e.AppendClient(dst[:0], ClientFormat{OmitRoomID: true, Age: 1234, TxnID: "m1"})
	}
}

func BenchmarkAppendFederation(b *testing.B) {
	e := benchEvent(b)
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = e.AppendFederation(dst[:0], 5)
	}
}

func BenchmarkCanonical(b *testing.B) {
	raw := benchEvent(b).JSON
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Canonical(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	m, key := testMessage(rulesV12), testKey(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Build(rulesV12, "domain", key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifySignature(b *testing.B) {
	e, key := benchEvent(b), testKey(b).Public()
	b.ReportAllocs()
	for b.Loop() {
		if err := e.VerifySignature("domain", "ed25519:1", key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	e := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Redact(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkXMatrix(b *testing.B) {
	key := testKey(b)
	r := FederationRequest{Method: "PUT", URI: "/_matrix/federation/v1/send/1", Origin: "a.example", Destination: "domain"}
	x, err := r.Sign(key)
	if err != nil {
		b.Fatal(err)
	}
	header := x.String()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseXMatrix(header); err != nil {
			b.Fatal(err)
		}
	}
}
