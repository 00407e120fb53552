package roomcore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// maxPrev is how many predecessors an event may name.
// Spec: server-server-api#pdus.
const maxPrev = 20

// Proposal is an event that a local user, or this server for a user, wants in
// the room.
type Proposal struct {
	Sender         spec.UserID
	Type           string
	StateKey       *string
	Content        []byte // a JSON object
	Redacts        spec.EventID
	OriginServerTS int64 // milliseconds since 1970
	Txn            *storage.TxnRow
}

// Build makes and signs the event at the head without adding it. Adding it may
// fail later if the room has moved on.
func (c *Core) Build(p Proposal) (*spec.Event, error) {
	ev, _, err := c.build(p)
	return ev, err
}

// Propose builds the event on the head, checks it against the authorization
// rules and queues it. It returns the event's row, and the sequence number that
// Committed reaches once the event is durable; until then nobody may be told.
// A refusal is a *spec.AuthError or *spec.Error and changes nothing.
func (c *Core) Propose(p Proposal) (*storage.EventRow, uint64, error) {
	ev, before, err := c.authorized(p)
	if err != nil {
		return nil, 0, err
	}
	row, seq, err := c.add(accepted{event: ev, before: before, live: true, ours: true, made: true, txn: p.Txn})
	return row, seq, c.spoiled(err)
}

func (c *Core) build(p Proposal) (*spec.Event, spec.Hash, error) {
	prev, before, err := c.parents()
	if err != nil {
		return nil, spec.Hash{}, err
	}
	auth, err := c.authEvents(p, before)
	if err != nil {
		return nil, spec.Hash{}, err
	}
	b := spec.EventBuilder{
		Room: c.cfg.Room, Sender: p.Sender, Type: p.Type, State: p.StateKey, Content: p.Content,
		Auth: auth, OriginServerTS: p.OriginServerTS, Redacts: p.Redacts, ReferenceHash: c.referenceHash,
	}
	for _, e := range prev {
		b.Prev = append(b.Prev, e.ID)
		b.Depth = max(b.Depth, e.Depth)
	}
	if b.Depth < math.MaxInt64 {
		b.Depth++ // what is too much for the room version is capped when it is built
	}
	ev, err := b.Build(c.cfg.Rules, c.cfg.Server, c.cfg.Key)
	return ev, before, err
}

// Template returns the unsigned event that a remote user would have to sign to
// join, leave or knock, as make_join and the like answer it, if the committed
// state allows it. Spec: server-server-api#joining-rooms.
func (c *Core) Template(p Proposal) ([]byte, error) {
	ev, _, err := c.authorized(p)
	if err != nil {
		return nil, err
	}
	return spec.EventBuilder{
		Room: ev.Room, Sender: ev.Sender, Type: ev.Type, State: ev.State, Content: ev.Content,
		Prev: ev.Prev, Auth: ev.Auth, Depth: ev.Depth, OriginServerTS: ev.OriginServerTS, ReferenceHash: c.referenceHash,
	}.Template(c.cfg.Rules)
}

// referenceHash is what events of room versions 1 and 2 say of those before them.
// Spec: rooms/v1#event-format
func (c *Core) referenceHash(id spec.EventID) ([32]byte, error) {
	row, err := c.Event(id)
	switch {
	case err != nil:
		return [32]byte{}, err
	case row == nil:
		return [32]byte{}, fmt.Errorf("event %s is not here", id)
	}
	return row.Event.ReferenceHash(), nil
}

// parents returns the extremities that the next event will name and the state
// before it.
func (c *Core) parents() ([]Extremity, spec.Hash, error) {
	ext := c.head.Extremities
	if len(ext) <= maxPrev {
		return ext, c.head.Root, nil
	}
	// More than an event may name: the newest ones, so that the rest is taken
	// in by the events after it.
	ext = slices.Clone(ext)
	slices.SortStableFunc(ext, func(a, b Extremity) int { return cmp.Compare(b.Depth, a.Depth) })
	ext = ext[:maxPrev]
	roots := make([]spec.Hash, len(ext))
	for i, e := range ext {
		roots[i] = e.After
	}
	root, err := c.resolve(roots)
	return ext, root, err
}

// authEvents selects the auth events out of the state before the event.
// Spec: server-server-api#auth-events-selection.
func (c *Core) authEvents(p Proposal, before spec.Hash) ([]spec.EventID, error) {
	keys := spec.AuthKeys(c.cfg.Rules, p.Type, p.Sender, p.StateKey, p.Content)
	ids := make([]spec.EventID, 0, len(keys))
	for _, key := range keys {
		row, err := c.StateAt(before, key)
		if err != nil {
			return nil, fmt.Errorf("auth events of a new event in %s: %w", c.cfg.Room, err)
		}
		if row != nil {
			ids = append(ids, row.Event.ID)
		}
	}
	return ids, nil
}

// spoiled wraps an error that may have left the core half changed.
func (c *Core) spoiled(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(ErrStale, err)
}

// SameState returns the current state event when the proposal would only say
// again what it says, from the same sender; nil otherwise. Sending such an event
// changes nothing for anybody.
func (c *Core) SameState(p Proposal) (*storage.EventRow, error) {
	if p.StateKey == nil || p.Type == spec.TypeMember {
		return nil, nil
	}
	row, err := c.StateAt(c.head.Root, spec.StateKey{Type: p.Type, Key: *p.StateKey})
	if err != nil || row == nil || row.Event.Sender != p.Sender {
		return nil, err
	}
	content, err := spec.Canonical(p.Content)
	if err != nil || !bytes.Equal(content, row.Event.Content) {
		return nil, nil // the builder says what is wrong with it
	}
	member, err := c.MemberAt(c.head.Root, p.Sender)
	if err != nil || member != "join" {
		return nil, err
	}
	// Whoever lost the right to set it gets the refusal, not an old success.
	if _, _, err := c.authorized(p); err != nil {
		return nil, err
	}
	return row, nil
}

// authorized builds the proposal and asks the rules, without adding it.
func (c *Core) authorized(p Proposal) (*spec.Event, spec.Hash, error) {
	ev, before, err := c.build(p)
	if err != nil {
		return nil, spec.Hash{}, err
	}
	return ev, before, spec.Authorize(ev, c.stateReader(before))
}

// MemberAt returns a user's membership in the state of that root; "leave" for
// one that the state does not name. Spec: client-server-api#room-membership.
func (c *Core) MemberAt(root spec.Hash, user spec.UserID) (string, error) {
	row, err := c.StateAt(root, spec.StateKey{Type: spec.TypeMember, Key: string(user)})
	if err != nil || row == nil {
		return "leave", err
	}
	return row.Event.Membership(), nil
}

// CheckRedaction refuses a redaction that would have no effect: of an event that
// is not known here, or that the sender may not redact.
// Spec: client-server-api#redactions.
func (c *Core) CheckRedaction(sender spec.UserID, target spec.EventID) error {
	row, err := c.Event(target)
	if err != nil {
		return err
	}
	if row == nil || row.Rejected != "" {
		return spec.Errorf(spec.CodeNotFound, nil, "the event to redact is not known")
	}
	if row.Event.Sender == sender {
		return nil
	}
	power, err := c.PowerLevels()
	if err != nil {
		return err
	}
	if power.User(sender) < power.Redact() {
		return spec.Errorf(spec.CodeForbidden, nil, "you may not redact other people's events in this room")
	}
	return nil
}

// PowerLevels returns the levels of the head.
func (c *Core) PowerLevels() (*spec.PowerLevels, error) {
	read := c.stateReader(c.head.Root)
	create, err := read(spec.StateKey{Type: spec.TypeCreate})
	if err != nil {
		return nil, err
	}
	levels, err := read(spec.StateKey{Type: spec.TypePowerLevels})
	if err != nil {
		return nil, err
	}
	return spec.ParsePowerLevels(c.cfg.Rules, create, levels)
}

// Allowed asks the rules about an event that was built on the head.
func (c *Core) Allowed(ev *spec.Event) error {
	return spec.Authorize(ev, c.stateReader(c.head.Root))
}

// Membership is what is known of a user in another room.
type Membership uint8

const (
	MemberUnknown Membership = iota // this server is not in that room
	MemberNot                       // surely not joined
	MemberJoined
)

// AuthoriseJoin completes the content of a join for rooms that are restricted to
// members of other rooms: it names a local user who may let people in, when the
// joining user meets a condition. member answers for other rooms. It reports
// false when the join needs another server, because nobody here may let people
// in. The errors are M_FORBIDDEN for a user who meets no condition, and
// M_UNABLE_TO_AUTHORISE_JOIN where this server cannot know.
// Spec: server-server-api#restricted-rooms.
func (c *Core) AuthoriseJoin(user spec.UserID, content []byte, member func(spec.RoomID, spec.UserID) Membership) ([]byte, bool, error) {
	restricted, err := c.MeetsConditions(user, member)
	if err != nil || !restricted {
		return content, true, err
	}
	via, err := c.localInviter()
	if err != nil || via == "" {
		return nil, false, err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil, false, err
	}
	fields["join_authorised_via_users_server"] = via
	content, err = json.Marshal(fields)
	return content, true, err
}

// MeetsConditions checks the conditions of a restricted room. It reports false
// where they do not apply to the user: in rooms that are not restricted, and for
// users who are joined or invited, or banned and so refused anyway. The errors
// are those of AuthoriseJoin.
func (c *Core) MeetsConditions(user spec.UserID, member func(spec.RoomID, spec.UserID) Membership) (restricted bool, err error) {
	rule, allow, err := c.joinRule()
	if err != nil || rule != "restricted" && rule != "knock_restricted" {
		return false, err
	}
	now, err := c.MemberAt(c.head.Root, user)
	if err != nil || now == "join" || now == "invite" || now == "ban" {
		return false, err
	}
	unknown := false
	for _, room := range allow {
		switch member(room, user) {
		case MemberJoined:
			return true, nil
		case MemberUnknown:
			unknown = true
		}
	}
	if unknown {
		return true, spec.Errorf(spec.CodeUnableToAuthoriseJoin, nil, "this server is not in the rooms whose members may join")
	}
	return true, spec.Errorf(spec.CodeForbidden, nil, "you are in none of the rooms whose members may join")
}

// joinRule returns the join rule of the head, and the rooms whose members a
// restricted one lets in.
func (c *Core) joinRule() (string, []spec.RoomID, error) {
	row, err := c.StateAt(c.head.Root, spec.StateKey{Type: spec.TypeJoinRules})
	if err != nil || row == nil {
		return "invite", nil, err
	}
	var content struct {
		Rule  string `json:"join_rule"`
		Allow []struct {
			Type string `json:"type"`
			Room string `json:"room_id"`
		} `json:"allow"`
	}
	if json.Unmarshal(row.Event.Content, &content) != nil {
		return "invite", nil, nil
	}
	var rooms []spec.RoomID
	for _, a := range content.Allow {
		if id, err := spec.ParseRoomID(a.Room); err == nil && a.Type == "m.room_membership" {
			rooms = append(rooms, id)
		}
	}
	return content.Rule, rooms, nil
}

// localInviter returns a joined user of this server who may invite, "" if there
// is none. It looks through the members, which such joins are rare enough for.
func (c *Core) localInviter() (spec.UserID, error) {
	power, err := c.PowerLevels()
	if err != nil {
		return "", err
	}
	var found spec.UserID
	err = spec.Walk(c, c.head.Root, func(leaf spec.Leaf) error {
		key, err := c.stateKey(leaf.Key)
		if err != nil || key.Type != spec.TypeMember || c.localUser(key.Key) == "" {
			return err
		}
		user := spec.UserID(key.Key)
		if power.User(user) < power.Invite() {
			return nil
		}
		row, err := c.eventByNID(leaf.Event)
		if err == nil && row.Event.Membership() == "join" {
			found = user
			return errFound
		}
		return err
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return found, err
}

// errFound ends a walk early.
var errFound = errors.New("found")
