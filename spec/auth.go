package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Memberships. Spec: client-server-api#mroommember
const (
	membershipJoin   = "join"
	membershipInvite = "invite"
	membershipLeave  = "leave"
	membershipBan    = "ban"
	membershipKnock  = "knock"
)

var (
	keyCreate      = StateKey{Type: TypeCreate}
	keyPowerLevels = StateKey{Type: TypePowerLevels}
	keyJoinRules   = StateKey{Type: TypeJoinRules}
)

func keyMember[S ~string](user S) StateKey { return StateKey{Type: TypeMember, Key: string(user)} }

// StateReader reads one entry of a room state: nil, nil if it is absent. An
// error aborts what is being checked and is handed on as it is.
type StateReader func(StateKey) (*Event, error)

// StateOf is the state that consists of these events; of two with one key the
// later counts, and events that are no state events do not. To check an event
// against its own auth events pass these and, where the room ID stands for the
// create event (version 12), that one as well.
func StateOf(events ...*Event) StateReader {
	return func(k StateKey) (*Event, error) {
		for _, ev := range slices.Backward(events) {
			if ev.IsState() && ev.Key() == k {
				return ev, nil
			}
		}
		return nil, nil
	}
}

// AuthKeys selects the state that has to be among an event's auth_events as far
// as it exists: each key once, in the order of the specification. A nil stateKey
// means that the event is no state event. It is empty for a create event.
// Spec: server-server-api#auth-events-selection
func AuthKeys(rules *Rules, eventType string, sender UserID, stateKey *string, content []byte) []StateKey {
	if eventType == TypeCreate {
		return nil
	}
	keys := make([]StateKey, 0, 6)
	add := func(k StateKey) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if !rules.RoomIDIsCreateHash {
		add(keyCreate) // v12: the room ID names it
	}
	add(keyPowerLevels)
	add(keyMember(sender))
	if eventType != TypeMember {
		return keys
	}
	if stateKey != nil {
		add(keyMember(*stateKey))
	}
	m := parseMember(content)
	if slices.Contains([]string{membershipJoin, membershipInvite, membershipKnock}, m.membership) {
		add(keyJoinRules)
	}
	if m.membership == membershipInvite {
		if token, ok := getText(get(m.thirdParty, "signed"), "token"); ok {
			add(StateKey{TypeThirdPartyInvite, token})
		}
	}
	if m.membership == membershipJoin && rules.Restricted && m.hasAuthoriser {
		add(keyMember(m.authoriser))
	}
	return keys
}

// CheckAuthEvents applies the rules on the list of auth events as such, which
// come before everything that depends on a state. authEvents are those that
// ev.Auth names, all of them; rejected, which may be nil, tells which of them
// were rejected on receipt. The error is an *AuthError.
// Spec: rooms/v12#authorisation-rules 3
func CheckAuthEvents(ev *Event, authEvents []*Event, rejected func(EventID) bool) error {
	if ev.Type == TypeCreate {
		return nil // all versions: rule 1 decides alone
	}
	seen := make([]StateKey, 0, 8)
	for _, auth := range authEvents {
		if auth.IsState() && slices.Contains(seen, auth.Key()) {
			return refuse(ev, "3.1", "two auth events are %s %q", auth.Type, clip(*auth.State))
		}
		seen = append(seen, auth.Key())
	}
	allowed := AuthKeys(ev.Rules, ev.Type, ev.Sender, ev.State, ev.Content)
	for _, auth := range authEvents {
		if !auth.IsState() || !slices.Contains(allowed, auth.Key()) {
			return refuse(ev, "3.2", "auth event %s, a %s, has no say in this", auth.ID, clip(auth.Type))
		}
	}
	for _, auth := range authEvents {
		if rejected != nil && rejected(auth.ID) {
			return refuse(ev, "3.3", "auth event %s was rejected", auth.ID)
		}
	}
	// v1–v11: the create event must be among them. Spec: rooms/v11#authorisation-rules 2.4
	if !ev.Rules.RoomIDIsCreateHash && !slices.Contains(seen, keyCreate) {
		return refuseAs(ev, "2.4", "no create event among the auth events")
	}
	for _, auth := range authEvents {
		if auth.Room != ev.Room {
			return refuse(ev, "3.4", "auth event %s is of another room", auth.ID)
		}
	}
	return nil
}

// Authorize applies the authorization rules that depend on a room state, in the
// order of the specification; nil allows the event. A refusal is an *AuthError,
// any other error comes from the state reader. CheckAuthEvents has to have
// passed. The state is read lazily and only at keys of AuthKeys and at the create
// event.
//
// It takes two things as given because they need keys and the network: the
// signature of the sender's server, and for a membership with
// join_authorised_via_users_server (v8+) the one of that user's server; see
// Event.RequiredSigners. Spec: server-server-api#authorisation-rules
func Authorize(ev *Event, state StateReader) error {
	return (&authorizer{ev: ev, rules: ev.Rules, state: state}).check()
}

// AuthorizeWith is Authorize for a caller that has parsed the power levels of the
// state already; levels must be those of the state that state reads.
func AuthorizeWith(ev *Event, levels *PowerLevels, state StateReader) error {
	return (&authorizer{ev: ev, rules: ev.Rules, state: state, power: levels}).check()
}

// authorizer is one run of the rules over one event.
type authorizer struct {
	ev     *Event
	rules  *Rules
	state  StateReader
	cache  levelsCache // may be nil
	create *Event      // of the room, set by check

	creatorList []UserID
	power       *PowerLevels // of the state; nil until levels read it
}

// levelsCache keeps parsed power levels by event where many events are checked
// against few of them.
type levelsCache map[*Event]*PowerLevels

// refuse makes the error for a rule, which is given by its number on the page of
// room version 12, whatever the event's version.
func refuse(ev *Event, ruleV12, reason string, a ...any) *AuthError {
	return refuseAs(ev, ruleNumber(ev.Rules, ruleV12), reason, a...)
}

// refuseAs is refuse for a rule that version 12 has no more: the number is the
// one of the event's version.
func refuseAs(ev *Event, rule, reason string, a ...any) *AuthError {
	return &AuthError{Event: ev.ID, Rule: rule, Reason: fmt.Sprintf(reason, a...)}
}

// ruleNumber finds the number of a rule of room version 12 in another version,
// that is, undoes what the versions since have added and removed before it.
// Numbers are counted as a reader of the page sees them: where the source of the
// page repeats or leaves out a number, the list goes on by one.
func ruleNumber(rules *Rules, v12 string) string {
	parts := strings.Split(v12, ".")
	n := make([]int, len(parts), 4)
	for i, p := range parts {
		n[i], _ = strconv.Atoi(p)
	}
	switch n = append(n, 0, 0)[:max(len(n), 3)]; n[0] {
	case 3: // auth events
		if !rules.RoomIDIsCreateHash && n[1] == 4 {
			n[1]++ // v1–v11: 2.4 demanded the create event
		}
	case 5: // membership
		if !rules.Restricted && n[1] == 3 && n[2] > 5 {
			n[2]-- // v8: restricted
		}
		if !rules.Knock && n[1] > 7 {
			n[1]-- // v7: knock
		}
		if !rules.Restricted && n[1] > 2 {
			n[1]-- // v8: join_authorised_via_users_server
		}
	case 10: // power levels
		if !rules.CreatorPower && n[1] > 4 {
			n[1]-- // v12: no creators in users
		}
		if !rules.IntegerLevels {
			n[1] = max(n[1]-2, 1) // v10: form of all levels, before only of users
		}
	}
	if !rules.RoomIDIsCreateHash && n[0] > 2 {
		n[0]-- // v12: the room ID is that of the create event
	}
	if rules.AliasesByDomain && n[0] > 3 {
		n[0]++ // v1–v5: m.room.aliases
	}
	for i := range parts {
		parts[i] = strconv.Itoa(n[i])
	}
	return strings.Join(parts, ".")
}

// check is the list of rules. Spec: rooms/v12#authorisation-rules
func (a *authorizer) check() error {
	ev := a.ev
	if ev.Type == TypeCreate {
		return a.checkCreate() // rule 1
	}
	if err := a.readCreate(); err != nil { // rule 2
		return err
	}
	// 4. Rooms that do not federate take events of the creator's server only.
	if !federates(a.create.Content) && ev.Sender.Server() != a.create.Sender.Server() {
		return refuse(ev, "4", "the room does not federate")
	}
	// v1–v5: aliases are their server's. Spec: rooms/v1#authorisation-rules 4
	if a.rules.AliasesByDomain && ev.Type == TypeAliases {
		return a.checkAliases()
	}
	if ev.Type == TypeMember {
		return a.checkMember() // rule 5
	}
	// 6. Only members send.
	switch membership, err := a.membership(ev.Sender); {
	case err != nil:
		return err
	case membership != membershipJoin:
		return refuse(ev, "6", "the sender is not in the room")
	}
	levels, err := a.levels()
	if err != nil {
		return err
	}
	level := levels.User(ev.Sender)
	// 7. Invites by third party identifier need the invite level and nothing else.
	if ev.Type == TypeThirdPartyInvite {
		if level < levels.Invite() {
			return refuse(ev, "7.1", "inviting needs level %d, the sender has %d", levels.Invite(), level)
		}
		return nil
	}
	// 8. The level for the type.
	if need := levels.Event(ev.Type, ev.IsState()); level < need {
		return refuse(ev, "8", "%s needs level %d, the sender has %d", clip(ev.Type), need, level)
	}
	// 9. A state key with the form of a user belongs to that user.
	if ev.IsState() && strings.HasPrefix(*ev.State, "@") && *ev.State != string(ev.Sender) {
		return refuse(ev, "9", "the state key is another user's")
	}
	if ev.Type == TypePowerLevels {
		return a.checkPowerLevels(level) // rule 10
	}
	// v1–v2: redactions. Spec: rooms/v1#authorisation-rules 11
	if a.rules.RedactionAuth && ev.Type == TypeRedaction &&
		level < levels.Redact() && !sameEventServer(ev.ID, ev.Redacts) {
		return refuseAs(ev, "11.3", "redacting needs level %d, the sender has %d", levels.Redact(), level)
	}
	return nil
}

// checkCreate is rule 1. Spec: rooms/v12#authorisation-rules 1
func (a *authorizer) checkCreate() error {
	ev := a.ev
	if len(ev.Prev) > 0 {
		return refuse(ev, "1.1", "a create event with previous events")
	}
	if a.rules.RoomIDIsCreateHash {
		// v12: the ID of the room is not written in it. An event that is not yet
		// serialised has no room_id to look at.
		if get(ev.JSON, "room_id") != nil {
			return refuse(ev, "1.2", "a create event with a room_id")
		}
	} else if server, _ := ev.Room.Server(); server != ev.Sender.Server() {
		// v1–v11: the room ID is of the sender's server.
		return refuse(ev, "1.2", "the room ID is not of the sender's server")
	}
	if v := get(ev.Content, "room_version"); v != nil {
		version, _ := text(v)
		if _, known := RulesOf(RoomVersion(version)); !known {
			return refuse(ev, "1.3", "room version %q is not known", clip(version))
		}
	}
	// v1–v10. Spec: rooms/v10#authorisation-rules 1.4
	if a.rules.CreatorInContent && get(ev.Content, "creator") == nil {
		return refuseAs(ev, "1.4", "no creator")
	}
	// v12. Spec: rooms/v12#authorisation-rules 1.4
	if a.rules.CreatorPower {
		if _, ok := additionalCreators(ev.Content); !ok {
			return refuse(ev, "1.4", "additional_creators is no list of user IDs")
		}
	}
	return nil
}

// additionalCreators reads the users beside the sender who created a room. It is
// ok if there are none and not if one of them is no user ID.
func additionalCreators(content []byte) (users []UserID, ok bool) {
	list := get(content, "additional_creators")
	if list == nil {
		return nil, true
	}
	for v := range elements(list) {
		s, _ := text(v)
		user, err := ParseUserID(s)
		if err != nil {
			return nil, false
		}
		users = append(users, user)
	}
	return users, isArray(list)
}

// creatorsOf returns who created the room: v1–v10 content.creator, v11 the
// sender, v12 the sender and additional_creators.
func creatorsOf(rules *Rules, create *Event) []UserID {
	if rules.CreatorInContent {
		creator, _ := getText(create.Content, "creator")
		return []UserID{UserID(creator)}
	}
	creators := []UserID{create.Sender}
	if rules.CreatorPower {
		if more, ok := additionalCreators(create.Content); ok {
			creators = append(creators, more...)
		}
	}
	return creators
}

func federates(createContent []byte) bool {
	return string(get(createContent, "m.federate")) != "false"
}

// readCreate gets the room's create event. v12: the room ID names it, rule 2.
// v1–v11: the auth events must have it, rule 2.4, and so must every state.
// Spec: rooms/v12#authorisation-rules 2
func (a *authorizer) readCreate() (err error) {
	a.create, err = a.state(keyCreate)
	switch {
	case err != nil:
		return err
	case a.create == nil && !a.rules.RoomIDIsCreateHash:
		return refuseAs(a.ev, "2.4", "the room has no create event")
	case a.create == nil:
		return refuse(a.ev, "2", "the room has no create event")
	case a.rules.RoomIDIsCreateHash && a.create.ID != a.ev.Room.CreateEvent():
		return refuse(a.ev, "2", "the room ID is not that of the create event")
	}
	return nil
}

// checkAliases is rule 4 of versions 1 to 5. Spec: rooms/v1#authorisation-rules 4
func (a *authorizer) checkAliases() error {
	switch {
	case !a.ev.IsState():
		return refuseAs(a.ev, "4.1", "aliases without a state key")
	case string(a.ev.Sender.Server()) != *a.ev.State:
		return refuseAs(a.ev, "4.2", "aliases of another server")
	}
	return nil
}

// membership reads what a user is in the state; "" if nothing is known.
func (a *authorizer) membership(user UserID) (string, error) {
	ev, err := a.state(keyMember(user))
	if ev == nil || err != nil {
		return "", err
	}
	return ev.Membership(), nil
}

func (a *authorizer) creators() []UserID {
	if a.creatorList == nil {
		a.creatorList = creatorsOf(a.rules, a.create)
	}
	return a.creatorList
}

// levels reads the power levels of the state once.
func (a *authorizer) levels() (*PowerLevels, error) {
	if a.power != nil {
		return a.power, nil
	}
	ev, err := a.state(keyPowerLevels)
	if err != nil {
		return nil, err
	}
	a.power = a.cache[ev]
	if a.power == nil {
		if a.power, err = newPowerLevels(a.rules, a.creators(), ev); err != nil {
			return nil, err
		}
		if a.cache != nil {
			a.cache[ev] = a.power
		}
	}
	return a.power, nil
}

// checkPowerLevels is rule 10, for a sender of this level.
// Spec: rooms/v12#authorisation-rules 10
func (a *authorizer) checkPowerLevels(level int64) error {
	var next levelsContent
	if err := next.parse(a.rules, a.ev); err != nil { // 10.1 to 10.3
		return err
	}
	// v12: creators are above it.
	if a.rules.CreatorPower {
		for _, creator := range a.creators() {
			if _, ok := next.users.get(string(creator)); ok {
				return refuse(a.ev, "10.4", "users has the creator %s", creator)
			}
		}
	}
	levels, err := a.levels()
	if err != nil || levels.absent { // 10.5
		return err
	}
	return a.checkLevelChanges(&levels.content, &next, level)
}

// checkLevelChanges is what a sender of this level may change in an existing
// event. Spec: rooms/v12#authorisation-rules 10.6
func (a *authorizer) checkLevelChanges(old, next *levelsContent, level int64) error {
	for n, key := range namedLevelKeys {
		switch {
		case old.has[n] == next.has[n] && old.named[n] == next.named[n]:
		case old.has[n] && old.named[n] > level:
			return refuse(a.ev, "10.6.1", "%s is above the sender's level %d", key, level)
		case next.has[n] && next.named[n] > level:
			return refuse(a.ev, "10.6.2", "%s would be above the sender's level %d", key, level)
		}
	}
	// v6: notifications like events. Spec: rooms/v6#authorisation-rules 9.4
	pairs := [][2]levelMap{{old.events, next.events}, {old.notifications, next.notifications}}
	if !a.rules.NotificationLevels {
		pairs = pairs[:1]
	}
	for _, pair := range pairs {
		if key, found := firstChange(pair, func(c levelChange) bool { return c.hasOld && c.old > level }); found {
			return refuse(a.ev, "10.7.1", "%q is above the sender's level %d", clip(key), level)
		}
	}
	for _, pair := range pairs {
		if key, found := firstChange(pair, func(c levelChange) bool { return c.hasNew && c.new > level }); found {
			return refuse(a.ev, "10.8.1", "%q would be above the sender's level %d", clip(key), level)
		}
	}
	users := [2]levelMap{old.users, next.users}
	if key, found := firstChange(users, func(c levelChange) bool {
		return c.hasOld && c.old >= level && c.key != string(a.ev.Sender)
	}); found {
		return refuse(a.ev, "10.9.1", "%s is not below the sender's level %d", clip(key), level)
	}
	if key, found := firstChange(users, func(c levelChange) bool { return c.hasNew && c.new > level }); found {
		return refuse(a.ev, "10.10.1", "%s would be above the sender's level %d", clip(key), level)
	}
	return nil
}

// firstChange returns the key of the first change that is forbidden.
func firstChange(pair [2]levelMap, forbidden func(levelChange) bool) (key string, found bool) {
	pair[0].changes(pair[1], func(c levelChange) bool {
		if forbidden(c) {
			key, found = c.key, true
		}
		return !found
	})
	return key, found
}
