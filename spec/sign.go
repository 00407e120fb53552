package spec

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// SigningKey is one of this server's private keys. It prints as ***.
type SigningKey struct {
	ID      KeyID
	Private ed25519.PrivateKey
}

// NewSigningKey makes the key that belongs to a seed of 32 bytes.
func NewSigningKey(id KeyID, seed []byte) (SigningKey, error) {
	if len(seed) != ed25519.SeedSize {
		return SigningKey{}, fmt.Errorf("seed of key %s has %d bytes, not %d", id, len(seed), ed25519.SeedSize)
	}
	return SigningKey{ID: id, Private: ed25519.NewKeyFromSeed(seed)}, nil
}

// Public is the key that verifies what the private one signs.
func (k SigningKey) Public() ed25519.PublicKey {
	return ed25519.PublicKey(k.Private[ed25519.SeedSize:])
}

// Format hides the private key from every verb of package fmt.
func (k SigningKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "***") }

// MarshalText hides the private key from encoders and structured loggers.
func (k SigningKey) MarshalText() ([]byte, error) { return []byte("***"), nil }

// SignJSON returns the canonical form of object with the signature of entity
// added. Signatures of others and "unsigned" stay, and neither is signed.
// Errors: those of Canonical, and an object or signatures that are no objects.
// Spec: appendices#signing-details
func SignJSON(object []byte, entity string, key SigningKey) ([]byte, error) {
	canon, err := Canonical(object)
	if err != nil {
		return nil, err
	}
	if !isObject(canon) {
		return nil, fmt.Errorf("cannot sign: not a JSON object")
	}
	return addSignature(canon, entity, key.ID, ed25519.Sign(key.Private, unsignedForm(canon)))
}

// unsignedForm is a canonical object without what a signature does not cover.
func unsignedForm(canon []byte) []byte {
	return without(make([]byte, 0, len(canon)), canon, func(key []byte) bool {
		return string(key) == "signatures" || string(key) == "unsigned"
	})
}

// addSignature puts a signature into a canonical object. Others stay, also those
// of the same entity by other keys.
func addSignature(canon []byte, entity string, id KeyID, signature []byte) ([]byte, error) {
	all, ours := get(canon, "signatures"), []byte(nil)
	if all == nil {
		all = []byte("{}")
	}
	if !isObject(all) {
		return nil, fmt.Errorf("cannot sign: signatures is not an object")
	}
	if ours = getAny(all, entity); !isObject(ours) {
		ours = []byte("{}")
	}
	encoded := base64.RawStdEncoding.AppendEncode([]byte{'"'}, signature)
	ours = withMember(ours, string(id), append(encoded, '"'))
	return withMember(canon, "signatures", withMember(all, entity, ours)), nil
}

// getAny is get for keys that may need escapes.
func getAny(object []byte, key string) []byte {
	quoted := appendQuoted(nil, key)
	return get(object, string(quoted[1:len(quoted)-1]))
}

// VerifyJSON checks the signature that entity made on object with the key. The
// canonical form is that of CanonicalLegacy, since signed bodies may carry
// events of old room versions. Spec: appendices#checking-for-a-signature
func VerifyJSON(object []byte, entity string, id KeyID, key ed25519.PublicKey) error {
	canon, err := CanonicalLegacy(object)
	if err != nil {
		return err
	}
	if !isObject(canon) {
		return fmt.Errorf("cannot verify: not a JSON object")
	}
	return verifySignature(unsignedForm(canon), get(canon, "signatures"), entity, id, key)
}

// verifySignature looks the signature up in the canonical signatures object.
func verifySignature(signed, signatures []byte, entity string, id KeyID, key ed25519.PublicKey) error {
	encoded, ok := text(getAny(getAny(signatures, entity), string(id)))
	if !ok {
		return fmt.Errorf("no signature of %s by key %s", clip(entity), clip(string(id)))
	}
	signature, err := decodeBase64(encoded)
	if err != nil {
		return fmt.Errorf("signature of %s by key %s: %w", clip(entity), clip(string(id)), err)
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed, signature) {
		return fmt.Errorf("signature of %s by key %s does not verify", clip(entity), clip(string(id)))
	}
	return nil
}

// SignatureKeyIDs lists the keys by which entity has signed object, of those
// algorithms that are understood; empty if there is none.
func SignatureKeyIDs(object []byte, entity string) ([]KeyID, error) {
	canon, err := CanonicalLegacy(object)
	if err != nil {
		return nil, err
	}
	return signatureKeyIDs(get(canon, "signatures"), entity), nil
}

func signatureKeyIDs(signatures []byte, entity string) []KeyID {
	var ids []KeyID
	for k, v := range members(getAny(signatures, entity)) {
		if id := unquote(k); isString(v) && strings.HasPrefix(id, "ed25519:") && len(id) <= MaxIDLength {
			ids = append(ids, KeyID(id))
		}
	}
	return ids
}
