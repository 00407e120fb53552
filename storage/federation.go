package storage

import (
	"crypto/ed25519"

	"atoll/spec"
)

// ServerKey is a key by which another server signs or signed.
type ServerKey struct {
	Server spec.ServerName
	ID     spec.KeyID
	Public ed25519.PublicKey
	// ValidUntil is up to when the key may be used without asking again, ms.
	// For a key that is out of use it is the same as Expired.
	ValidUntil int64
	// Expired is when the server stopped using the key, ms; 0: still in use.
	Expired int64
	// Fetched is when the answer was received, ms.
	Fetched int64
	// Answer is the signed object that the key was published in.
	Answer []byte
}
