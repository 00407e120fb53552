package server

import (
	"context"
	"errors"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// This file follows the log on behalf of all of this node: it keeps what came
// lately in memory, brings what is derived from it up to date and wakes those
// who wait for something in it. Nothing else tells connections that there is
// news.

// followRetry is how long the follower waits when the database fails.
const followRetry = 200 * time.Millisecond

// Subscribe has fn called with every batch of log entries, in the order of the
// positions, before connections hear of them. The follower waits for fn, so it
// must not wait for anything; it must not keep or change the slice. To be called
// before Run.
func (s *Sync) Subscribe(fn func([]storage.LogEntry)) { s.subscribers = append(s.subscribers, fn) }

// Position returns the log position up to which this node has heard.
func (s *Sync) Position() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos
}

// Reach waits until the node has heard of everything up to a position, bounded
// by the context.
func (s *Sync) Reach(ctx context.Context, pos int64) error {
	for {
		s.mu.Lock()
		reached, moved := s.pos >= pos, s.moved
		if !reached {
			s.posWanted = true
		}
		s.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow is the loop of the follower.
func (s *Sync) follow(ctx context.Context) error {
	follower := s.db.Follow(s.Position())
	for {
		entries, err := follower.Next(ctx)
		if err == nil {
			b := &logBatch{entries: entries, pos: follower.Pos()}
			if err = s.complete(ctx, b); err == nil {
				if b.pos > follower.Pos() {
					follower = s.db.Follow(b.pos)
				}
				for _, fn := range s.subscribers {
					fn(b.entries)
				}
				s.take(b)
				continue
			}
			follower = s.db.Follow(s.Position())
		}
		if ctx.Err() != nil || errors.Is(err, storage.ErrClosed) {
			return nil
		}
		s.log.Error("the log cannot be followed", "cause", err)
		select {
		case <-time.After(followRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

// logBatch is a piece of the log with what has to be known to take it in.
type logBatch struct {
	entries []storage.LogEntry
	pos     int64 // where the piece ends
	// members are the memberships of live users that the piece changes, as they
	// are at pos; rows with Membership "" are gone.
	members  map[memberKey]*storage.MembershipRow
	rooms    map[int64]spec.RoomID // ids of the rooms of members
	redacted []int64               // events that redactions of the piece name
}

type memberKey struct {
	room int64
	user spec.UserID
}

// tellsMembership reports whether an entry may change the membership of the
// local user that it names.
func tellsMembership(e *storage.LogEntry) bool {
	switch e.Kind {
	case storage.LogEvent, storage.LogState, storage.LogMembership:
		return e.User != "" && e.RoomNID != 0
	}
	return false
}

// complete reads what the entries do not carry. Most of what this process
// commits carries all, and then nothing is read.
//
// Memberships are read as the database has them, which may be later than the
// piece ends; so the piece is made longer, up to where the database is.
func (s *Sync) complete(ctx context.Context, b *logBatch) error {
	if !s.incomplete(b) {
		return nil
	}
	gen := s.rooms.cache.generation()
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		head, err := tx.Head()
		if err != nil {
			return err
		}
		for b.pos < head {
			more, err := tx.Log(b.pos, head, 1000)
			if err != nil {
				return err
			}
			b.entries = append(b.entries, more...)
			if b.pos = head; len(more) == 1000 {
				b.pos = more[len(more)-1].Pos
			}
		}
		if err := s.completeEvents(tx, b, gen); err != nil {
			return err
		}
		return s.completeMembers(tx, b)
	})
}

func (s *Sync) incomplete(b *logBatch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b.entries {
		e := &b.entries[i]
		if e.EventNID != 0 && e.Event == nil && (e.Kind == storage.LogEvent || e.Kind == storage.LogState) {
			return true
		}
		if e.Kind == storage.LogEvent && e.Event.Event.Type == spec.TypeRedaction {
			return true
		}
		if tellsMembership(e) && s.users[e.User] != nil {
			return true
		}
	}
	return false
}

// completeEvents reads the events that the entries announce without carrying
// them, and finds what redactions name.
func (s *Sync) completeEvents(tx *storage.Tx, b *logBatch, gen int64) error {
	var missing []int64
	for i := range b.entries {
		if e := &b.entries[i]; e.EventNID != 0 && e.Event == nil && (e.Kind == storage.LogEvent || e.Kind == storage.LogState) {
			missing = append(missing, e.EventNID)
		}
	}
	if len(missing) > 0 {
		rows, err := tx.EventsByNIDs(missing)
		if err != nil {
			return err
		}
		byNID := make(map[int64]*storage.EventRow, len(rows))
		for i := range rows {
			byNID[rows[i].NID] = &rows[i]
			s.rooms.cache.putRead(gen, &rows[i])
		}
		for i := range b.entries {
			if e := &b.entries[i]; e.Event == nil {
				e.Event = byNID[e.EventNID]
			}
		}
	}
	for i := range b.entries {
		e := &b.entries[i]
		if e.Kind != storage.LogEvent || e.Event == nil || e.Event.Event.Type != spec.TypeRedaction || e.Event.Event.Redacts == "" {
			continue
		}
		target, err := tx.EventByID(e.RoomNID, e.Event.Event.Redacts)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		b.redacted = append(b.redacted, target.NID)
	}
	return nil
}

// completeMembers reads the memberships of live users that the piece changes.
func (s *Sync) completeMembers(tx *storage.Tx, b *logBatch) error {
	b.members = map[memberKey]*storage.MembershipRow{}
	s.mu.Lock()
	for i := range b.entries {
		if e := &b.entries[i]; tellsMembership(e) && s.users[e.User] != nil {
			b.members[memberKey{e.RoomNID, e.User}] = nil
		}
	}
	s.mu.Unlock()
	nids := make([]int64, 0, len(b.members))
	for k := range b.members {
		nids = append(nids, k.room)
		row, err := tx.Membership(k.room, k.user)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		b.members[k] = &row
	}
	var err error
	b.rooms, err = tx.RoomIDs(nids)
	return err
}

// take brings memory up to the end of the batch and wakes whom it concerns.
func (s *Sync) take(b *logBatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick++
	for i := range b.entries {
		e := &b.entries[i]
		if e.RoomNID != 0 && e.Kind != storage.LogMembership && e.Kind != storage.LogAccountData {
			s.takeRoomLocked(e)
		}
		if u := s.users[e.User]; e.User != "" && u != nil {
			s.takeUserLocked(u, e, b)
		}
	}
	// After the entries, which may carry these events as they were.
	for _, nid := range b.redacted {
		s.rooms.cache.forgetEvent(nid)
	}
	s.pos = b.pos
	if s.posWanted {
		s.posWanted = false
		close(s.moved)
		s.moved = make(chan struct{})
	}
	for _, u := range s.woken {
		u.marked = false
		s.wakeLocked(u, s.wakeDevices[u])
	}
	s.woken = s.woken[:0]
	clear(s.wakeDevices)
	s.trimLocked()
}

// takeRoomLocked adds an entry to its room's window.
func (s *Sync) takeRoomLocked(e *storage.LogEntry) {
	w := s.windows[e.RoomNID]
	if w == nil {
		w = &roomWindow{nid: e.RoomNID, from: e.Pos - 1}
		s.windows[e.RoomNID] = w
	}
	if e.Event != nil {
		if w.id == "" {
			w.id = e.Event.Event.Room
		}
		s.rooms.cache.addNew(e.Event)
	}
	if e.Txn != nil {
		s.rooms.txns.note(e.Txn)
	}
	w.used = s.tick
	w.addLocked(newWindowEntry(e))
	s.held++
	if len(w.entries) > windowMost {
		s.held -= w.cutLocked(windowMost / 2)
	}
	for u := range w.users {
		s.concernLocked(u, e.Pos, "")
	}
}

// takeUserLocked notes an entry of a live user's own.
func (s *Sync) takeUserLocked(u *liveUser, e *storage.LogEntry, b *logBatch) {
	if e.Pos <= u.pos {
		return // the user was read after that
	}
	s.concernLocked(u, e.Pos, e.Device)
	switch {
	case e.Kind == storage.LogAccountData:
		u.dataPos = e.Pos
		switch e.Text {
		case dataIgnored, dataInvites:
			u.rules = nil
		}
	case tellsMembership(e):
		row, ok := b.members[memberKey{e.RoomNID, e.User}]
		if !ok {
			// Became live while the batch was on its way: read it again.
			s.dropUserLocked(u)
			return
		}
		u.changes = append(u.changes, memberChange{pos: e.Pos, room: e.RoomNID, event: e.EventNID})
		if w := s.setMembershipLocked(u, e.RoomNID, row); w != nil && w.id == "" {
			w.id = b.rooms[w.nid]
		}
	}
}

// concernLocked notes that an entry is news for a user; of one device only, if
// that is given.
func (s *Sync) concernLocked(u *liveUser, pos int64, device string) {
	u.last = pos
	if len(u.waiters) == 0 {
		return
	}
	if !u.marked {
		u.marked = true
		s.woken = append(s.woken, u)
		if device != "" {
			s.wakeDevices[u] = device
		}
	} else if other, ok := s.wakeDevices[u]; ok && other != device {
		delete(s.wakeDevices, u)
	}
}
