package server

import (
	"context"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Account data that the server itself heeds.
const (
	dataIgnored = "m.ignored_user_list"
	dataInvites = "m.invite_permission_config"
)

// Bounds of what is kept of users that sync.
const (
	liveUsersMost = 20_000
	// userRoomsMost bounds the memberships of all live users together, each some
	// 200 bytes.
	userRoomsMost   = 200_000
	userChangesMost = 256
)

// liveUser is a local user who syncs on this node: where they are, and what of
// the log concerned them lately. Guarded by Sync.mu, but for what is said below.
type liveUser struct {
	id spec.UserID
	// ready is closed when the user was read; err is why that failed.
	ready chan struct{}
	err   error
	// gone: something about the user was missed; whoever holds it must ask for
	// the user again.
	gone bool

	// pos is the log position at which the user was read. Everything below is
	// kept up to date with the follower from there on.
	pos   int64
	rooms map[int64]*userRoom
	// changes has every entry after from that may have changed a membership.
	from    int64
	changes []memberChange
	last    int64 // last entry that concerned the user
	dataPos int64 // last change of account data; 0: none since pos
	rules   *userRules
	waiters map[*syncWaiter]struct{}
	marked  bool // among Sync.woken
	used    int64
}

// userRoom is a user's membership in a room. Not changed once made.
type userRoom struct {
	storage.MembershipRow
	window *roomWindow
}

// memberChange is an entry that may have changed the user's membership.
type memberChange struct{ pos, room, event int64 }

// userRules is what account data says about whom the user wants to hear. Not
// changed once made.
type userRules struct {
	ignored      map[spec.UserID]bool
	blockInvites bool
}

// syncWaiter is a connection that waits for news.
type syncWaiter struct {
	device string
	ch     chan struct{} // of room for one
}

// wakeLocked wakes the user's connections: of one device only, if given.
func (s *Sync) wakeLocked(u *liveUser, device string) {
	for w := range u.waiters {
		if device != "" && w.device != device {
			continue
		}
		select {
		case w.ch <- struct{}{}:
			s.wakes.Add(1)
		default: // it is awake already
		}
	}
}

// live returns the user, read from the database if this node does not know them.
// The node has then heard of everything up to the position of the reading.
func (s *Sync) live(ctx context.Context, id spec.UserID) (*liveUser, error) {
	for {
		s.mu.Lock()
		u := s.users[id]
		if u == nil {
			u = &liveUser{id: id, ready: make(chan struct{}), waiters: map[*syncWaiter]struct{}{}}
			s.admitLocked(u)
			s.mu.Unlock()
			s.load(context.WithoutCancel(ctx), u)
		} else {
			u.used = s.tick
			s.mu.Unlock()
		}
		select {
		case <-u.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if u.err != nil {
			return nil, u.err
		}
		s.mu.Lock()
		gone, pos := u.gone, u.pos
		s.mu.Unlock()
		if gone {
			continue
		}
		return u, s.Reach(ctx, pos)
	}
}

// admitLocked adds a user and drops some that have not synced for long if there
// are too many.
func (s *Sync) admitLocked(u *liveUser) {
	u.used = s.tick
	for len(s.users) >= liveUsersMost || s.userRooms > userRoomsMost {
		var oldest *liveUser
		tried := 0
		for _, o := range s.users { // any few of them
			if len(o.waiters) == 0 && o.rooms != nil && (oldest == nil || o.used < oldest.used) {
				oldest = o
			}
			if tried++; tried == 32 {
				break
			}
		}
		if oldest == nil {
			break // nearly all of them wait
		}
		s.dropUserLocked(oldest)
	}
	s.users[u.id] = u
}

// dropUserLocked forgets a user; their connections look again.
func (s *Sync) dropUserLocked(u *liveUser) {
	u.gone = true
	if s.users[u.id] == u {
		delete(s.users, u.id)
	}
	for _, r := range u.rooms {
		delete(r.window.users, u)
	}
	s.userRooms -= len(u.rooms)
	u.rooms = nil
	s.wakeLocked(u, "")
}

// load reads a user. It runs once, by whoever asked first.
func (s *Sync) load(ctx context.Context, u *liveUser) {
	defer close(u.ready)
	var pos int64
	var rows []storage.MembershipRow
	var ids map[int64]spec.RoomID
	var rules *userRules
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if pos, err = tx.Head(); err != nil {
			return err
		}
		if rows, err = tx.Memberships(u.id); err != nil {
			return err
		}
		nids := make([]int64, len(rows))
		for i := range rows {
			nids[i] = rows[i].RoomNID
		}
		if ids, err = tx.RoomIDs(nids); err != nil {
			return err
		}
		rules, err = readUserRules(tx, u.id)
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		u.err = err
		s.dropUserLocked(u)
		return
	}
	u.pos, u.from, u.last, u.rules = pos, pos, pos, rules
	u.rooms = make(map[int64]*userRoom, len(rows))
	for i := range rows {
		if w := s.setMembershipLocked(u, rows[i].RoomNID, &rows[i]); w != nil && w.id == "" {
			w.id = ids[w.nid]
		}
	}
}

// setMembershipLocked takes in a membership; a row with Membership "" is gone.
func (s *Sync) setMembershipLocked(u *liveUser, room int64, row *storage.MembershipRow) *roomWindow {
	w := s.windows[room]
	s.userRooms -= len(u.rooms)
	defer func() { s.userRooms += len(u.rooms) }()
	if row.Membership == "" {
		delete(u.rooms, room)
		if w != nil {
			delete(w.users, u)
		}
		return nil
	}
	if w == nil {
		w = &roomWindow{nid: room, from: s.pos, used: s.tick}
		s.windows[room] = w
	}
	u.rooms[room] = &userRoom{MembershipRow: *row, window: w}
	if row.Membership == "join" {
		if w.users == nil {
			w.users = map[*liveUser]struct{}{}
		}
		w.users[u] = struct{}{}
	} else {
		delete(w.users, u)
	}
	if n := len(u.changes); n > userChangesMost {
		u.from = u.changes[n/2-1].pos
		u.changes = append([]memberChange(nil), u.changes[n/2:]...)
	}
	return w
}

// readUserRules reads whom a user wants to hear.
func readUserRules(tx *storage.Tx, user spec.UserID) (*userRules, error) {
	rules := &userRules{}
	row, err := tx.AccountData(user, "", dataIgnored)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		var list struct {
			Users map[spec.UserID]jsontext.Value `json:"ignored_users"`
		}
		// What cannot be read ignores nobody. Spec: client-server-api#ignoring-users
		if json.Unmarshal(row.Content, &list) == nil && len(list.Users) > 0 {
			rules.ignored = make(map[spec.UserID]bool, len(list.Users))
			for id := range list.Users {
				rules.ignored[id] = id != user
			}
		}
	}
	row, err = tx.AccountData(user, "", dataInvites)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		var config struct {
			Default string `json:"default_action"`
		}
		rules.blockInvites = json.Unmarshal(row.Content, &config) == nil && config.Default == "block"
	}
	return rules, nil
}

// hasGap reports whether the text of a log entry says that clients lack
// something before it.
func hasGap(text string) bool { return strings.Contains(text, roomcore.LogGap) }
