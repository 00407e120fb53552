package spec

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
)

// XMatrix is what the Authorization header of a federation request says.
// Spec: server-server-api#request-authentication
type XMatrix struct {
	Origin      ServerName
	Destination ServerName // "" from servers older than v1.3
	Key         KeyID
	Signature   []byte
}

// ParseXMatrix reads an Authorization header. It takes all that the
// specification asks of receivers: names in any case and order, spaces and tabs
// round commas, tokens or quoted strings with backslashes, colons and more in
// values without quotes, unknown parameters. Of equal names the last one counts.
func ParseXMatrix(header string) (XMatrix, error) {
	scheme, rest, _ := strings.Cut(strings.TrimLeft(header, " \t"), " ")
	if !strings.EqualFold(scheme, "X-Matrix") {
		return XMatrix{}, fmt.Errorf("authorization scheme %q is not X-Matrix", clip(scheme))
	}
	var origin, destination, key, sig string
	for rest = strings.TrimLeft(rest, " \t,"); rest != ""; rest = strings.TrimLeft(rest, " \t,") {
		name, value, tail, err := cutParameter(rest)
		if err != nil {
			return XMatrix{}, err
		}
		switch strings.ToLower(name) {
		case "origin":
			origin = value
		case "destination":
			destination = value
		case "key":
			key = value
		case "sig", "signature":
			sig = value
		}
		rest = tail
	}
	return newXMatrix(origin, destination, key, sig)
}

func newXMatrix(origin, destination, key, sig string) (x XMatrix, err error) {
	if x.Origin, err = ParseServerName(origin); err != nil {
		return XMatrix{}, fmt.Errorf("X-Matrix origin: %w", err)
	}
	if destination != "" {
		if x.Destination, err = ParseServerName(destination); err != nil {
			return XMatrix{}, fmt.Errorf("X-Matrix destination: %w", err)
		}
	}
	if x.Key, err = ParseKeyID(key); err != nil {
		return XMatrix{}, fmt.Errorf("X-Matrix key: %w", err)
	}
	if x.Signature, err = decodeBase64(sig); err != nil || len(x.Signature) != ed25519.SignatureSize {
		return XMatrix{}, fmt.Errorf("X-Matrix sig is not a signature")
	}
	return x, nil
}

// cutParameter takes name=value from the front of s, up to the next comma.
func cutParameter(s string) (name, value, tail string, err error) {
	name, s, ok := strings.Cut(s, "=")
	if name = strings.TrimRight(name, " \t"); !ok || name == "" || strings.ContainsAny(name, " \t,\"") {
		return "", "", "", fmt.Errorf("X-Matrix parameter %q has no value", clip(name))
	}
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		value, tail, _ = strings.Cut(s, ",")
		return name, strings.TrimRight(value, " \t"), tail, nil
	}
	value, tail, err = cutQuoted(s)
	if tail = strings.TrimLeft(tail, " \t"); err == nil && tail != "" && tail[0] != ',' {
		err = fmt.Errorf("X-Matrix parameter %q is followed by something else than a comma", clip(name))
	}
	return name, value, tail, err
}

// cutQuoted takes a quoted string from the front of s and resolves backslashes.
func cutQuoted(s string) (value, tail string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			if i++; i == len(s) {
				break
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf("X-Matrix has a quote without end")
}

// String writes the header in the form that all servers understand.
func (x XMatrix) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, `X-Matrix origin="%s",`, x.Origin)
	if x.Destination != "" {
		fmt.Fprintf(&b, `destination="%s",`, x.Destination)
	}
	fmt.Fprintf(&b, `key="%s",sig="%s"`, x.Key, base64.RawStdEncoding.EncodeToString(x.Signature))
	return b.String()
}

// FederationRequest is what a server signs to prove that a request is its own.
type FederationRequest struct {
	Method string
	// URI is path and query as they are on the wire, escapes included.
	URI         string
	Origin      ServerName
	Destination ServerName
	Content     []byte // JSON body; empty: none
}

// signedForm is canonical in the legacy way, since bodies carry events of all
// room versions, and also bad ones that only their own verdict may concern.
func (r FederationRequest) signedForm() ([]byte, error) {
	dst := append(make([]byte, 0, 256+len(r.URI)+len(r.Content)), '{')
	if len(r.Content) > 0 {
		content, err := CanonicalLegacy(r.Content)
		if err != nil {
			return nil, err
		}
		dst = appendMember(dst, "content", content)
	}
	dst = appendText(dst, "destination", string(r.Destination))
	dst = appendText(dst, "method", r.Method)
	dst = appendText(dst, "origin", string(r.Origin))
	return append(appendText(dst, "uri", r.URI), '}'), nil
}

// Sign makes the header that goes with the request. It fails only if Content is
// not JSON.
func (r FederationRequest) Sign(key SigningKey) (XMatrix, error) {
	signed, err := r.signedForm()
	if err != nil {
		return XMatrix{}, err
	}
	return XMatrix{r.Origin, r.Destination, key.ID, ed25519.Sign(key.Private, signed)}, nil
}

// Verify checks that x signs the request. Destination must be this server's own
// name; a header that names another one, or another origin, fails.
func (r FederationRequest) Verify(x XMatrix, key ed25519.PublicKey) error {
	if x.Origin != r.Origin || x.Destination != "" && x.Destination != r.Destination {
		return fmt.Errorf("request from %s to %s has a header from %s to %s", r.Origin, r.Destination, x.Origin, x.Destination)
	}
	signed, err := r.signedForm()
	if err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed, x.Signature) {
		return fmt.Errorf("signature of %s by key %s does not verify", r.Origin, x.Key)
	}
	return nil
}
