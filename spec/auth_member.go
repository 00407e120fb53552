package spec

import (
	"crypto/ed25519"
)

// memberContent is what the rules read of an m.room.member event.
type memberContent struct {
	membership    string // "" if absent or no string
	thirdParty    []byte
	authoriser    string // join_authorised_via_users_server
	hasAuthoriser bool
}

func parseMember(content []byte) (m memberContent) {
	m.membership = contentMembership(content)
	m.thirdParty = get(content, "third_party_invite")
	authoriser := get(content, "join_authorised_via_users_server")
	m.authoriser, _ = text(authoriser)
	m.hasAuthoriser = authoriser != nil
	return m
}

// checkMember is rule 5. Spec: rooms/v12#authorisation-rules 5
func (a *authorizer) checkMember() error {
	m := parseMember(a.ev.Content)
	if !a.ev.IsState() || m.membership == "" {
		return refuse(a.ev, "5.1", "no state key or no membership")
	}
	// v8: the authorising user's server has signed, which the caller has checked.
	// What names no server cannot have been signed.
	if a.rules.Restricted && m.hasAuthoriser {
		if _, err := ParseUserID(m.authoriser); err != nil {
			return refuse(a.ev, "5.2.1", "join_authorised_via_users_server names no user")
		}
	}
	target := UserID(*a.ev.State)
	targetIs, err := a.membership(target)
	if err != nil {
		return err
	}
	switch {
	case m.membership == membershipJoin:
		return a.checkJoin(m, target, targetIs)
	case m.membership == membershipInvite && m.thirdParty != nil:
		return a.checkThirdPartyInvite(m.thirdParty, target, targetIs)
	case m.membership == membershipInvite:
		return a.checkInvite(targetIs)
	case m.membership == membershipLeave:
		return a.checkLeave(target, targetIs)
	case m.membership == membershipBan:
		return a.checkBan(target)
	case m.membership == membershipKnock && a.rules.Knock: // v7
		return a.checkKnock(target, targetIs)
	}
	return refuse(a.ev, "5.8", "membership %q is not known", clip(m.membership))
}

// checkJoin is rule 5.3. Spec: rooms/v12#authorisation-rules 5.3
func (a *authorizer) checkJoin(m memberContent, target UserID, targetIs string) error {
	// 5.3.1 The first creator right after the create event. v1–v10: the one in
	// content.creator, then the sender.
	if len(a.ev.Prev) == 1 && a.ev.Prev[0] == a.create.ID && target == a.creators()[0] {
		return nil
	}
	if a.ev.Sender != target {
		return refuse(a.ev, "5.3.2", "one user cannot join for another")
	}
	if targetIs == membershipBan {
		return refuse(a.ev, "5.3.3", "the user is banned")
	}
	rule, err := a.joinRule()
	if err != nil {
		return err
	}
	isIn := targetIs == membershipInvite || targetIs == membershipJoin
	switch {
	case rule == "public", // 5.3.6
		isIn && (rule == "invite" || rule == "knock" && a.rules.Knock): // 5.3.4
		return nil
	case rule == "restricted" && a.rules.Restricted, rule == "knock_restricted" && a.rules.KnockRestricted:
		if isIn {
			return nil // 5.3.5.1
		}
		return a.checkAuthoriser(UserID(m.authoriser))
	}
	return refuse(a.ev, "5.3.7", "join rule %q does not let the user in", clip(rule))
}

// checkAuthoriser: the user who lets another one in is a member who may invite.
// Spec: rooms/v12#authorisation-rules 5.3.5.2
func (a *authorizer) checkAuthoriser(user UserID) error {
	membership, err := a.membership(user)
	if err != nil {
		return err
	}
	levels, err := a.levels()
	if err != nil {
		return err
	}
	if membership != membershipJoin || levels.User(user) < levels.Invite() {
		return refuse(a.ev, "5.3.5.2", "no member who may invite has authorised the join")
	}
	return nil
}

// joinRule reads the join rule of the state. A room that has none is for the
// invited only. Spec: client-server-api#mroomjoin_rules
func (a *authorizer) joinRule() (string, error) {
	ev, err := a.state(keyJoinRules)
	if err != nil {
		return "", err
	}
	if ev != nil {
		if rule := get(ev.Content, "join_rule"); rule != nil {
			s, _ := text(rule)
			return s, nil
		}
	}
	return "invite", nil
}

// senderLevel is the level of the sender if they are in the room; rule is what
// refuses them if they are not.
func (a *authorizer) senderLevel(rule string) (level int64, levels *PowerLevels, err error) {
	membership, err := a.membership(a.ev.Sender)
	if err != nil {
		return 0, nil, err
	}
	if membership != membershipJoin {
		return 0, nil, refuse(a.ev, rule, "the sender is not in the room")
	}
	if levels, err = a.levels(); err != nil {
		return 0, nil, err
	}
	return levels.User(a.ev.Sender), levels, nil
}

// checkInvite is rule 5.4 but for third party identifiers.
// Spec: rooms/v12#authorisation-rules 5.4.2
func (a *authorizer) checkInvite(targetIs string) error {
	level, levels, err := a.senderLevel("5.4.2")
	if err != nil {
		return err
	}
	if targetIs == membershipJoin || targetIs == membershipBan {
		return refuse(a.ev, "5.4.3", "the invited user's membership is %s", targetIs)
	}
	if level < levels.Invite() {
		return refuse(a.ev, "5.4.5", "inviting needs level %d, the sender has %d", levels.Invite(), level)
	}
	return nil
}

// checkThirdPartyInvite is rule 5.4.1: an identity server vouches that the
// invited user has the identifier to which the invitation was made.
// Spec: rooms/v12#authorisation-rules 5.4.1
func (a *authorizer) checkThirdPartyInvite(invite []byte, target UserID, targetIs string) error {
	if targetIs == membershipBan {
		return refuse(a.ev, "5.4.1.1", "the user is banned")
	}
	signed := get(invite, "signed")
	if signed == nil {
		return refuse(a.ev, "5.4.1.2", "the invite is not signed")
	}
	mxid, hasMXID := getText(signed, "mxid")
	token, hasToken := getText(signed, "token")
	if !hasMXID || !hasToken {
		return refuse(a.ev, "5.4.1.3", "the signed part has no mxid or no token")
	}
	if mxid != string(target) {
		return refuse(a.ev, "5.4.1.4", "the invite is signed for another user")
	}
	made, err := a.state(StateKey{TypeThirdPartyInvite, token})
	if err != nil {
		return err
	}
	if made == nil {
		return refuse(a.ev, "5.4.1.5", "nobody has made this invite")
	}
	if made.Sender != a.ev.Sender {
		return refuse(a.ev, "5.4.1.6", "another user has made this invite")
	}
	if !signedByAny(signed, invitePublicKeys(made.Content)) {
		return refuse(a.ev, "5.4.1.8", "no signature by a key of the invite")
	}
	return nil
}

// invitePublicKeys reads the keys of an m.room.third_party_invite event, the one
// in public_key and those in public_keys. Spec: client-server-api#mroomthird_party_invite
func invitePublicKeys(content []byte) (keys []ed25519.PublicKey) {
	add := func(object []byte) {
		encoded, _ := getText(object, "public_key")
		if key, err := decodeBase64(encoded); err == nil && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	add(content)
	for v := range elements(get(content, "public_keys")) {
		add(v)
	}
	return keys
}

// maxInviteSignatures bounds the verifications that one event can cost: each
// signature is tried with each key.
const maxInviteSignatures = 64

// signedByAny tells whether any ed25519 signature on the object is of any of the
// keys. Who is said to have signed does not matter.
func signedByAny(object []byte, keys []ed25519.PublicKey) bool {
	budget := maxInviteSignatures
	for entity, byKey := range members(get(object, "signatures")) {
		for id := range members(byKey) {
			keyID := KeyID(unquote(id))
			if keyID.Algorithm() != "ed25519" {
				continue
			}
			for _, key := range keys {
				if budget--; budget < 0 {
					return false
				}
				if VerifyJSON(object, unquote(entity), keyID, key) == nil {
					return true
				}
			}
		}
	}
	return false
}

// checkLeave is rule 5.5: leaving, declining, kicking and lifting a ban.
// Spec: rooms/v12#authorisation-rules 5.5
func (a *authorizer) checkLeave(target UserID, targetIs string) error {
	if a.ev.Sender == target {
		// v7: a knock can be taken back.
		if targetIs == membershipJoin || targetIs == membershipInvite ||
			targetIs == membershipKnock && a.rules.Knock {
			return nil
		}
		return refuse(a.ev, "5.5.1", "the user is not in the room nor invited")
	}
	level, levels, err := a.senderLevel("5.5.2")
	if err != nil {
		return err
	}
	if targetIs == membershipBan && level < levels.Ban() {
		return refuse(a.ev, "5.5.3", "lifting a ban needs level %d, the sender has %d", levels.Ban(), level)
	}
	if level < levels.Kick() || levels.User(target) >= level {
		return refuse(a.ev, "5.5.5", "kicking needs level %d and one above the target's, the sender has %d", levels.Kick(), level)
	}
	return nil
}

// checkBan is rule 5.6. Spec: rooms/v12#authorisation-rules 5.6
func (a *authorizer) checkBan(target UserID) error {
	level, levels, err := a.senderLevel("5.6.1")
	if err != nil {
		return err
	}
	if level < levels.Ban() || levels.User(target) >= level {
		return refuse(a.ev, "5.6.3", "banning needs level %d and one above the target's, the sender has %d", levels.Ban(), level)
	}
	return nil
}

// checkKnock is rule 5.7, v7+. Spec: rooms/v12#authorisation-rules 5.7
func (a *authorizer) checkKnock(target UserID, targetIs string) error {
	rule, err := a.joinRule()
	if err != nil {
		return err
	}
	if rule != "knock" && !(rule == "knock_restricted" && a.rules.KnockRestricted) {
		return refuse(a.ev, "5.7.1", "join rule %q does not let anybody knock", clip(rule))
	}
	if a.ev.Sender != target {
		return refuse(a.ev, "5.7.2", "one user cannot knock for another")
	}
	if targetIs == membershipBan || targetIs == membershipInvite || targetIs == membershipJoin {
		return refuse(a.ev, "5.7.4", "the user's membership is %s", targetIs)
	}
	return nil
}
