package spec

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
)

// applyHashes checks the content hash of a parsed event, replaces the event by
// its redacted form if it is wrong, and sets ID and Room.
// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (e *Event) applyHashes(f fields) error {
	claimed, ok := getText(f.hashes, "sha256")
	if !ok {
		return Errorf(CodeBadJSON, nil, "the event's hashes are missing or malformed")
	}
	scratch := make([]byte, 0, len(e.JSON))
	sum := contentHash(scratch, e.JSON)
	if !sameHash(sum, claimed) {
		if err := e.becomeRedacted(); err != nil {
			return err
		}
		f = readFields(e.JSON)
	}
	if err := e.setID(f.eventID, scratch); err != nil {
		return err
	}
	if e.Room == "" {
		e.Room = e.ID.RoomID()
	}
	return nil
}

// setID works out the event's ID.
func (e *Event) setID(eventID, scratch []byte) error {
	if e.Rules.EventIDs != EventIDChosen {
		e.ID = e.Rules.hashID(e.referenceHash(scratch))
		return nil
	}
	// v1, v2: chosen by the sender. Spec: rooms/v1#event-ids
	s, _ := text(eventID)
	id, err := ParseEventID(s)
	server, _ := id.Server()
	if err != nil || !validServerName(string(server)) {
		return Errorf(CodeBadJSON, err, "the event's event_id is missing or malformed")
	}
	e.ID = id
	return nil
}

// hashID is the event ID that a reference hash makes.
// v3: standard base64; v4: URL-safe. Spec: rooms/v4#event-ids
func (r *Rules) hashID(sum [32]byte) EventID {
	encoding := base64.RawURLEncoding
	if r.EventIDs == EventIDHash {
		encoding = base64.RawStdEncoding
	}
	var id [44]byte
	id[0] = '$'
	encoding.Encode(id[1:], sum[:])
	return EventID(id[:])
}

// ReferenceHash covers what redaction leaves of the event, with the content hash
// but without signatures. Spec: server-server-api#calculating-the-reference-hash-for-an-event
func (e *Event) ReferenceHash() [32]byte { return e.referenceHash(nil) }

func (e *Event) referenceHash(scratch []byte) [32]byte {
	return sha256.Sum256(e.Rules.appendRedacted(scratch[:0], e.Type, e.JSON, false))
}

// contentHash covers all of the event but signatures, hashes and unsigned.
// Spec: server-server-api#calculating-the-content-hash-for-an-event
func contentHash(scratch, json []byte) [32]byte {
	return sha256.Sum256(without(scratch[:0], json, func(key []byte) bool {
		return string(key) == "hashes" || string(key) == "signatures" || string(key) == "unsigned"
	}))
}

// sameHash compares a hash with one in base64 of whichever alphabet.
func sameHash(sum [32]byte, encoded string) bool {
	got, err := decodeBase64(encoded)
	return err == nil && string(got) == string(sum[:])
}

// signedForm is what signatures of the event cover: its redacted form.
// Spec: server-server-api#signing-events
func (e *Event) signedForm() []byte {
	return e.Rules.appendRedacted(nil, e.Type, e.JSON, false)
}

// Sign returns a copy of the event with one more signature. The ID stays, since
// hashes do not cover signatures. Errors: CodeTooLarge when the signature makes
// the event exceed the size limit.
func (e *Event) Sign(server ServerName, key SigningKey) (*Event, error) {
	return e.AddSignature(server, key.ID, ed25519.Sign(key.Private, e.signedForm()))
}

// AddSignature returns a copy of the event with a signature that somebody else
// made, a policy server for example. It is not verified. Other signatures of the
// same server stay.
func (e *Event) AddSignature(server ServerName, id KeyID, signature []byte) (*Event, error) {
	json, err := addSignature(e.JSON, string(server), id, signature)
	if err != nil {
		return nil, err
	}
	if len(json) > MaxEventSize {
		return nil, Errorf(CodeTooLarge, nil, "the event has %d bytes, the limit is %d", len(json), MaxEventSize)
	}
	signed := *e
	signed.JSON = json
	if signed.State != nil {
		signed.State = &signed.stateKey
	}
	signed.Content = get(json, "content")
	return &signed, nil
}

// VerifySignature checks the signature of server by the key. Whether the key is
// the server's, and was valid at the time, is the caller's to know.
func (e *Event) VerifySignature(server ServerName, id KeyID, key ed25519.PublicKey) error {
	return verifySignature(e.signedForm(), get(e.JSON, "signatures"), string(server), id, key)
}

// SignatureKeyIDs lists the keys by which server has signed, of algorithms that
// are understood.
func (e *Event) SignatureKeyIDs(server ServerName) []KeyID {
	return signatureKeyIDs(get(e.JSON, "signatures"), string(server))
}

// RequiredSigners lists the servers whose signatures the event needs, each once:
// the sender's, except for invitations by third-party identifier, which another
// server may complete; in room versions 1 and 2 the one in the event ID; and the
// one that let a user join a restricted room. A join_authorised_via_users_server
// that is no user ID is left to the authorization rules.
// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (e *Event) RequiredSigners() []ServerName {
	var servers []ServerName
	add := func(s ServerName) {
		for _, have := range servers {
			if have == s {
				return
			}
		}
		servers = append(servers, s)
	}
	if !e.isThirdPartyInvite() {
		add(e.Sender.Server())
	}
	if server, ok := e.ID.Server(); ok && e.Rules.EventIDSigned {
		add(server)
	}
	// v8: the server of the user who authorised a join. Spec: rooms/v8#authorisation-rules 4.2
	if e.Rules.Restricted && e.Type == TypeMember {
		via, _ := getText(e.Content, "join_authorised_via_users_server")
		if user, err := ParseUserID(via); err == nil {
			add(user.Server())
		}
	}
	return servers
}

// isThirdPartyInvite: Spec: server-server-api#third-party-invites
func (e *Event) isThirdPartyInvite() bool {
	return e.Type == TypeMember && e.Membership() == "invite" && get(e.Content, "third_party_invite") != nil
}
