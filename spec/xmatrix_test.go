package spec

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
)

func TestParseXMatrix(t *testing.T) {
	sig := strings.Repeat("A", 84) + "AQ"
	raw, err := base64.RawStdEncoding.DecodeString(sig)
	if err != nil {
		t.Fatal(err)
	}
	full := XMatrix{Origin: "a.example:8448", Destination: "b.example", Key: "ed25519:k", Signature: raw}
	old := full
	old.Destination = ""
	quoted := `X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k",sig="` + sig + `"`
	cases := []struct {
		name, header string
		want         XMatrix
	}{
		{"13-019 the form that we send", quoted, full},
		{"13-021 no destination", `X-Matrix origin="a.example:8448",key="ed25519:k",sig="` + sig + `"`, old},
		{"13-022 scheme in any case", strings.Replace(quoted, "X-Matrix", "x-mATRIX", 1), full},
		{"13-022 names in any case", strings.NewReplacer("origin", "Origin", "key", "KEY").Replace(quoted), full},
		{"13-022 any order", `X-Matrix sig="` + sig + `",key="ed25519:k",destination="b.example",origin="a.example:8448"`, full},
		{"13-022 spaces and tabs round commas", strings.ReplaceAll(quoted, ",", " \t,\t "), full},
		{"13-022 several spaces after the scheme", strings.Replace(quoted, " ", "   ", 1), full},
		{"13-022 tokens, colons in them", `X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k,sig=` + sig, full},
		{"13-022 tokens with spaces round", `X-Matrix origin=a.example:8448 , destination=b.example ,key=ed25519:k, sig=` + sig + " ", full},
		{"13-022 backslash escapes", strings.Replace(quoted, "a.example", `\a\.ex\ample`, 1), full},
		{"13-022 unknown parameters", strings.Replace(quoted, "destination", `x="1,\"2",y=z,destination`, 1), full},
		{"the name signature, as the text has it", strings.Replace(quoted, "sig=", "signature=", 1), full},
		{"empty list elements", strings.ReplaceAll(quoted, ",", ",,") + ",", full},
		{"padded signature", strings.TrimSuffix(quoted, `"`) + `=="`, full},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseXMatrix(c.header)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
	if full.String() != quoted {
		t.Errorf("written as %s", full)
	}
	bad := map[string]string{
		"13-020 empty":                       ``,
		"another scheme":                     `Bearer abc`,
		"no space after the scheme":          `X-Matrixorigin="a"`,
		"nothing after the scheme":           `X-Matrix `,
		"13-023 origin is no server name":    strings.Replace(quoted, "8448", "http", 1),
		"13-023 empty origin":                strings.Replace(quoted, "a.example:8448", "", 1),
		"13-023 destination no server name":  strings.Replace(quoted, "b.example", "b example", 1),
		"no origin":                          strings.Replace(quoted, "origin", "origins", 1),
		"no key":                             strings.Replace(quoted, "key", "kay", 1),
		"key without algorithm":              strings.Replace(quoted, "ed25519:k", "k", 1),
		"signature too short":                strings.Replace(quoted, sig, "AAAA", 1),
		"signature that is not base64":       strings.Replace(quoted, "AAAA", "*AAA", 1),
		"quote without end":                  strings.TrimSuffix(quoted, `"`),
		"quote without end after backslash":  `X-Matrix origin="a\`,
		"text after a quote":                 strings.Replace(quoted, `",`, `"x,`, 1),
		"parameter without value":            `X-Matrix origin`,
		"parameter without name":             `X-Matrix ="a"`,
		"a comma is missing between strings": strings.Replace(quoted, ",", " ", 1),
	}
	for name, header := range bad {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseXMatrix(header); err == nil {
				t.Fatalf("accepted as %+v", got)
			}
		})
	}
}

func TestFederationRequest(t *testing.T) {
	key := testKey(t)
	request := FederationRequest{Method: "PUT", URI: "/_matrix/federation/v1/send/%21a%2Fb?x=!y", Origin: "a.example", Destination: "domain",
		Content: []byte(`{"pdus": [], "float": 1.50}`)}
	x, err := request.Sign(key)
	if err != nil || x.Origin != "a.example" || x.Destination != "domain" || x.Key != "ed25519:1" {
		t.Fatalf("%+v, %v", x, err)
	}
	if err := request.Verify(x, key.Public()); err != nil {
		t.Fatal(err)
	}
	// The same as a signed object. Spec: server-server-api#request-authentication
	object := `{"content":{"float":1.5,"pdus":[]},"destination":"domain","method":"PUT","origin":"a.example","signatures":{"a.example":{"ed25519:1":"` +
		base64.RawStdEncoding.EncodeToString(x.Signature) + `"}},"uri":"/_matrix/federation/v1/send/%21a%2Fb?x=!y"}`
	if err := VerifyJSON([]byte(object), "a.example", "ed25519:1", key.Public()); err != nil {
		t.Fatal(err)
	}
	old := x
	old.Destination = ""
	if err := request.Verify(old, key.Public()); err != nil {
		t.Errorf("13-021 header without destination: %v", err)
	}
	refused := map[string]func(*FederationRequest, *XMatrix){
		"another method":                      func(r *FederationRequest, _ *XMatrix) { r.Method = "POST" },
		"13-024 path in another encoding":     func(r *FederationRequest, _ *XMatrix) { r.URI = strings.Replace(r.URI, "%21", "!", 1) },
		"another body":                        func(r *FederationRequest, _ *XMatrix) { r.Content = []byte(`{}`) },
		"no body":                             func(r *FederationRequest, _ *XMatrix) { r.Content = nil },
		"body that is not JSON":               func(r *FederationRequest, _ *XMatrix) { r.Content = []byte(`{`) },
		"13-021 signed for another server":    func(_ *FederationRequest, x *XMatrix) { x.Destination = "other" },
		"signed by another server":            func(_ *FederationRequest, x *XMatrix) { x.Origin = "other" },
		"received by another server than due": func(r *FederationRequest, x *XMatrix) { r.Destination, x.Destination = "other", "other" },
		"changed signature":                   func(_ *FederationRequest, x *XMatrix) { x.Signature[3] ^= 1 },
	}
	for name, change := range refused {
		t.Run(name, func(t *testing.T) {
			r, y := request, x
			y.Signature = bytes.Clone(x.Signature)
			change(&r, &y)
			if r.Verify(y, key.Public()) == nil {
				t.Fatal("verified")
			}
		})
	}
	if request.Verify(x, nil) == nil {
		t.Error("verified without a key")
	}
	if _, err := (FederationRequest{Content: []byte("x")}).Sign(key); err == nil {
		t.Error("signed a body that is not JSON")
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a",destination="b",key="ed25519:k",sig="` + strings.Repeat("A", 86) + `"`)
	f.Add(`x-matrix ORIGIN=a:1 , sig=` + strings.Repeat("A", 86) + `,key=ed25519:\1,a="\"`)
	f.Add(`X-Matrix origin="a\`)
	f.Add(`X-Matrix ,,=,`)
	f.Fuzz(func(t *testing.T, header string) {
		x, err := ParseXMatrix(header)
		if err != nil {
			return
		}
		if strings.ContainsAny(string(x.Key), `"\`) {
			return // cannot be written, and no key ID of ours has them
		}
		if again, err := ParseXMatrix(x.String()); err != nil || !reflect.DeepEqual(again, x) {
			t.Fatalf("%q became %q, %v", header, x, err)
		}
	})
}
