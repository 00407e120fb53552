package server

import (
	"context"
	"errors"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
	"atoll/storage"
)

// This file has what clients read of rooms one by one: events, state, members.

// errNotHere is what those hear who may not look at a room; rooms that do not
// exist are told in the same way.
func errNotHere(cause error) error {
	return spec.Errorf(spec.CodeForbidden, cause, "you are not in this room")
}

// errNoEvent is what is said of events that do not exist or may not be seen.
func errNoEvent(cause error) error {
	return spec.Errorf(spec.CodeNotFound, cause, "there is no such event")
}

// roomAccess is a room as a reader finds it.
type roomAccess struct {
	*reader
	id spec.RoomID
	// root is the state that the reader may see: the present one, or the one at
	// the time they left.
	root spec.Hash
	now  bool // root is the present state
}

// committedRoom returns local id and current root of a room; storage.ErrNotFound
// for a room of which nothing but an invite is known, or nothing at all.
func (src *source) committedRoom(id spec.RoomID) (nid int64, root spec.Hash, err error) {
	if nid, root, ok := src.rooms.activeRoot(id); ok {
		return nid, root, nil
	}
	tx, err := src.database()
	if err != nil {
		return 0, root, err
	}
	row, err := tx.RoomByID(id)
	if err == nil && row.Root == (spec.Hash{}) {
		err = storage.ErrNotFound
	}
	return row.NID, row.Root, err
}

// activeRoot returns local id and committed root of a room in memory.
func (rs *Rooms) activeRoot(id spec.RoomID) (nid int64, root spec.Hash, ok bool) {
	rs.mu.Lock()
	r := rs.active[id]
	rs.mu.Unlock()
	if r == nil {
		return 0, root, false
	}
	select {
	case <-r.ready:
	default:
		return 0, root, false
	}
	if r.loadErr != nil {
		return 0, root, false
	}
	view := r.view.Load()
	return r.nid, view.Root, view.Root != (spec.Hash{})
}

// enter looks at a room on behalf of a user. M_FORBIDDEN unless they are in it,
// were in it, or anybody may read it.
// Spec: client-server-api#room-history-visibility
func (src *source) enter(id spec.RoomID, user spec.UserID, device string) (*roomAccess, error) {
	nid, root, err := src.committedRoom(id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNotHere(err)
	}
	if err != nil {
		return nil, err
	}
	member, err := src.stateEvent(nid, root, memberKeyOf(user))
	if err != nil {
		return nil, err
	}
	r, err := src.reader(nid, user, device, member)
	if err != nil {
		return nil, err
	}
	a := &roomAccess{reader: r, id: id, root: root, now: true}
	if r.joined {
		return a, nil
	}
	view, err := r.view(root)
	if err != nil {
		return nil, err
	}
	if view.Visibility == "world_readable" {
		return a, nil
	}
	if !r.joinedEver || view.Membership != "leave" && view.Membership != "ban" {
		return nil, errNotHere(nil)
	}
	tx, err := src.database()
	if err != nil {
		return nil, err
	}
	if row, err := tx.Membership(nid, user); err == nil && row.Forgotten {
		return nil, errNotHere(nil)
	}
	a.now = false
	a.root, err = src.rootAfter(r.joinEnd)
	return a, err
}

// rootAfter returns the room's current state right after an event had come.
func (src *source) rootAfter(row *storage.EventRow) (spec.Hash, error) {
	if row.Pos == 0 {
		return row.After, nil
	}
	tx, err := src.database()
	if err != nil {
		return spec.Hash{}, err
	}
	root, err := tx.RoomRootAt(row.RoomNID, row.Pos)
	if root == (spec.Hash{}) {
		root = row.After
	}
	return root, err
}

// ReadEvent asks for one event.
type ReadEvent struct {
	Room   spec.RoomID
	User   spec.UserID
	Device string
	Event  spec.EventID
}

// Event returns an event as the user may see it; M_NOT_FOUND if they may not or
// there is none. Spec: client-server-api#get_matrixclientv3roomsroomideventeventid
func (rs *Rooms) Event(ctx context.Context, req ReadEvent) (ClientEvent, error) {
	if err := rs.knowTxns(ctx, req.User, req.Device); err != nil {
		return nil, err
	}
	var out ClientEvent
	err := rs.compute(ctx, nil, func(src *source) error {
		a, err := src.look(req.Room, req.User, req.Device)
		if err != nil {
			return err
		}
		row, err := a.visibleEvent(req.Event)
		if err == nil {
			out, err = a.client(row)
		}
		return err
	})
	return out, err
}

// look is enter where an absent right is told as M_NOT_FOUND, and where a user
// who never was in the room may still see what was world readable then.
func (src *source) look(id spec.RoomID, user spec.UserID, device string) (*roomAccess, error) {
	nid, root, err := src.committedRoom(id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNoEvent(err)
	}
	if err != nil {
		return nil, err
	}
	member, err := src.stateEvent(nid, root, memberKeyOf(user))
	if err != nil {
		return nil, err
	}
	r, err := src.reader(nid, user, device, member)
	if err != nil {
		return nil, err
	}
	a := &roomAccess{reader: r, id: id, root: root, now: true}
	if r.joinedEver && !r.joined {
		tx, err := src.database()
		if err != nil {
			return nil, err
		}
		if row, err := tx.Membership(nid, user); err == nil && row.Forgotten {
			return nil, errNoEvent(nil)
		}
	}
	return a, nil
}

// visibleEvent returns an event of the room if the reader may see it; else
// M_NOT_FOUND.
func (a *roomAccess) visibleEvent(id spec.EventID) (*storage.EventRow, error) {
	row, err := a.src.eventByID(a.room, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNoEvent(err)
	}
	if err != nil {
		return nil, err
	}
	ok := false
	switch {
	case row.InTimeline():
		if ok, err = a.visible(row); err == nil && ok {
			ok, err = a.shown(row)
		}
	case row.Event.IsState() && row.Rejected == "" && row.Kind != storage.StateWaiting && a.joined:
		// State from before this server came into the room, or that state
		// resolution brought back, is seen by those who see the state.
		var nid int64
		nid, err = a.src.stateNID(a.room, a.root, spec.StatePath(row.Event.Key()))
		ok = nid == row.NID
	}
	if err == nil && !ok {
		err = errNoEvent(nil)
	}
	return row, err
}

// client returns the client form of an event.
func (a *roomAccess) client(row *storage.EventRow) (ClientEvent, error) {
	f, err := a.format(row)
	if err != nil {
		return nil, err
	}
	return row.Event.AppendClient(nil, f), nil
}

// knowTxns brings the transaction ids of a device into memory.
func (rs *Rooms) knowTxns(ctx context.Context, user spec.UserID, device string) error {
	if device == "" {
		return nil
	}
	_, err := rs.txns.device(ctx, txnKey{user: user, device: device})
	return err
}

// RoomState returns the state events of a room: as they are now, or were when
// the user left. Spec: client-server-api#get_matrixclientv3roomsroomidstate
func (rs *Rooms) RoomState(ctx context.Context, req ReadRoom) ([]ClientEvent, error) {
	var out []ClientEvent
	err := rs.compute(ctx, nil, func(src *source) error {
		a, err := src.enter(req.Room, req.User, "")
		if err != nil {
			return err
		}
		var nids []int64
		err = spec.Walk(src.nodes(a.room), a.root, func(l spec.Leaf) error {
			nids = append(nids, l.Event)
			return nil
		})
		if err != nil {
			return err
		}
		slices.Sort(nids)
		out, err = src.clientState(nids)
		return err
	})
	return out, err
}

// clientState returns the client form of state events.
func (src *source) clientState(nids []int64) ([]ClientEvent, error) {
	rows, err := src.events(nids)
	if err != nil {
		return nil, err
	}
	out := make([]ClientEvent, 0, len(rows))
	for _, row := range rows {
		if row != nil {
			out = append(out, row.Event.AppendClient(nil, spec.ClientFormat{}))
		}
	}
	return out, nil
}

// ReadState asks for one state event.
type ReadState struct {
	Room spec.RoomID
	User spec.UserID
	Key  spec.StateKey
}

// StateEvent is a state event and its content.
type StateEvent struct {
	Event   ClientEvent
	Content jsontext.Value
}

// StateEvent returns the state event under a key, as it is now or was when the
// user left; M_NOT_FOUND if there is none.
// Spec: client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey
func (rs *Rooms) StateEvent(ctx context.Context, req ReadState) (StateEvent, error) {
	var out StateEvent
	err := rs.compute(ctx, nil, func(src *source) error {
		a, err := src.enter(req.Room, req.User, "")
		if err != nil {
			return err
		}
		row, err := src.stateEvent(a.room, a.root, req.Key)
		if err != nil {
			return err
		}
		if row == nil {
			return spec.Errorf(spec.CodeNotFound, nil, "the room has no such state")
		}
		out.Content = row.Event.Content
		out.Event, err = a.client(row)
		return err
	})
	return out, err
}

// Members returns the membership events of a room, as they are now, were at a
// place, or were when the user left.
// Spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (rs *Rooms) Members(ctx context.Context, req MembersQuery) ([]ClientEvent, error) {
	var at *RoomToken
	if req.At != "" {
		t, err := ParseRoomToken(req.At)
		if err != nil {
			return nil, err
		}
		at = &t
	}
	var out []ClientEvent
	err := rs.compute(ctx, nil, func(src *source) error {
		a, err := src.enter(req.Room, req.User, "")
		if err != nil {
			return err
		}
		if at != nil {
			if err := a.goTo(*at); err != nil {
				return err
			}
		}
		rows, err := src.members(a.room, a.root)
		if err != nil {
			return err
		}
		out = make([]ClientEvent, 0, len(rows))
		for _, row := range rows {
			if req.wants(row.Event.Membership()) {
				out = append(out, row.Event.AppendClient(nil, spec.ClientFormat{}))
			}
		}
		return nil
	})
	return out, err
}

// wants tells whether a membership is asked for. Of two conditions one suffices.
func (q MembersQuery) wants(membership string) bool {
	if q.Membership == "" && q.NotMembership == "" {
		return true
	}
	return q.Membership != "" && membership == q.Membership || q.NotMembership != "" && membership != q.NotMembership
}

// goTo turns the state that is looked at to the one at a place, unless that is
// later than what the reader may see.
func (a *roomAccess) goTo(at RoomToken) error {
	tx, err := a.src.database()
	if err != nil {
		return err
	}
	if at.Sync != nil {
		pos := at.Sync.Pos
		if !a.now && a.joinEnd.Pos != 0 {
			pos = min(pos, a.joinEnd.Pos)
		}
		root, err := tx.RoomRootAt(a.room, pos)
		if err == nil && root != (spec.Hash{}) {
			a.root = root
		}
		return err
	}
	rows, _, err := tx.Timeline(storage.TimelineQuery{RoomNID: a.room, Backward: true, From: at.Place.Key, Limit: 1})
	if err != nil || len(rows) == 0 {
		return err
	}
	if a.now || rows[0].Key().Compare(a.joinEnd.Key()) <= 0 {
		a.root = rows[0].After
	}
	return nil
}

// members returns the membership events of a state.
func (src *source) members(room int64, root spec.Hash) ([]*storage.EventRow, error) {
	tx, err := src.database()
	if err != nil {
		return nil, err
	}
	var leaves []spec.Leaf
	var keys []int64
	err = spec.Walk(src.nodes(room), root, func(l spec.Leaf) error {
		leaves, keys = append(leaves, l), append(keys, l.Key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	names, err := tx.StateKeys(keys)
	if err != nil {
		return nil, err
	}
	nids := keys[:0]
	for _, l := range leaves {
		if names[l.Key].Type == spec.TypeMember {
			nids = append(nids, l.Event)
		}
	}
	slices.Sort(nids)
	rows, err := src.events(nids)
	return slices.DeleteFunc(rows, func(row *storage.EventRow) bool { return row == nil }), err
}

// JoinedMembers returns who is joined to a room, for those who are.
// Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (rs *Rooms) JoinedMembers(ctx context.Context, req ReadRoom) (map[spec.UserID]JoinedMember, error) {
	var out map[spec.UserID]JoinedMember
	err := rs.compute(ctx, nil, func(src *source) error {
		a, err := src.enter(req.Room, req.User, "")
		if err != nil {
			return err
		}
		if !a.joined {
			return errNotHere(nil)
		}
		rows, err := src.members(a.room, a.root)
		out = make(map[spec.UserID]JoinedMember, len(rows))
		for _, row := range rows {
			if row.Event.Membership() == "join" {
				out[spec.UserID(*row.Event.State)] = joinedMember(row.Event.Content)
			}
		}
		return err
	})
	return out, err
}

// joinedMember reads a member's profile; what is not a text is not told.
func joinedMember(content []byte) JoinedMember {
	var fields struct {
		DisplayName jsontext.Value `json:"displayname"`
		AvatarURL   jsontext.Value `json:"avatar_url"`
	}
	_ = json.Unmarshal(content, &fields)
	text := func(v jsontext.Value) *string {
		if v.Kind() != '"' {
			return nil
		}
		var s string
		if json.Unmarshal(v, &s) != nil {
			return nil
		}
		return &s
	}
	return JoinedMember{DisplayName: text(fields.DisplayName), AvatarURL: text(fields.AvatarURL)}
}

// JoinedRooms returns the rooms that a user is joined to.
// Spec: client-server-api#get_matrixclientv3joined_rooms
func (rs *Rooms) JoinedRooms(ctx context.Context, user spec.UserID) ([]spec.RoomID, error) {
	out := []spec.RoomID{}
	err := rs.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Memberships(user)
		if err != nil {
			return err
		}
		var nids []int64
		for _, row := range rows {
			if row.Membership == "join" {
				nids = append(nids, row.RoomNID)
			}
		}
		ids, err := tx.RoomIDs(nids)
		for _, nid := range nids {
			out = append(out, ids[nid])
		}
		return err
	})
	return out, err
}
