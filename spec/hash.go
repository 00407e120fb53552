package spec

import (
	"encoding/base64"
	"fmt"
)

// Hash is a SHA-256 digest: the root of a state trie, the hash of one of its
// nodes or leaves, or the path of a state key. The zero Hash stands for the
// empty state and is the digest of nothing. Its text form is unpadded URL-safe
// base64, 43 characters. No spec rule; see spec/state-root.md.
type Hash [32]byte

// hashText is the encoding of Hash.String. Strict: one text per hash.
var hashText = base64.RawURLEncoding.Strict()

// ParseHash reads the text form of a hash. It accepts exactly what String
// makes, so different texts are different hashes.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != hashText.EncodedLen(len(h)) {
		return Hash{}, fmt.Errorf("hash of %d characters, not %d", len(s), hashText.EncodedLen(len(h)))
	}
	// The decoder skips line breaks, so the length alone does not settle it.
	if n, err := hashText.Decode(h[:], []byte(s)); err != nil || n != len(h) {
		return Hash{}, fmt.Errorf("hash %q is not unpadded URL-safe base64", s)
	}
	return h, nil
}

// String returns the text form.
func (h Hash) String() string { return hashText.EncodeToString(h[:]) }

// IsZero tells whether h is the zero hash, the root of the empty state.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements encoding.TextMarshaler with the text form.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; errors are ParseHash's.
func (h *Hash) UnmarshalText(text []byte) error {
	parsed, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}
