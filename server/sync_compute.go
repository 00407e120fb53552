package server

import (
	"context"
	"errors"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// errUserMoved: the user was dropped from memory while an answer was computed.
var errUserMoved = errors.New("the user is read again")

// answer computes what is new since a token, from position 0 on for a first
// sync.
func (s *Sync) answer(ctx context.Context, req *SyncRequest, since SyncToken) (*SyncAnswer, error) {
	for {
		u, err := s.live(ctx, req.User)
		if err != nil {
			return nil, err
		}
		var out *SyncAnswer
		err = s.rooms.compute(ctx, s, func(src *source) (err error) {
			out, err = src.answer(req, since, u)
			return err
		})
		if errors.Is(err, errUserMoved) {
			continue
		}
		if err != nil {
			return nil, fault(err, "sync of %s", req.User)
		}
		return out, nil
	}
}

// syncPlan is what an answer is to look at: a copy of what memory has at one
// moment, so that the rest needs no lock.
type syncPlan struct {
	req    *SyncRequest
	since  int64
	now    SyncToken
	first  bool // no token was given
	rules  *userRules
	rooms  []*plannedRoom
	unsure []*plannedRoom // joined rooms that may have had entries that windows lack
	// dataNew: there may be account data newer than since.
	dataNew bool
}

// plannedRoom is one room of a plan.
type plannedRoom struct {
	*userRoom
	id  spec.RoomID
	log roomLog
	// changes are the entries after since that may have changed the membership.
	changes []memberChange
	upTo    int64 // what the user may hear of: now, or where they left
	news    bool  // entries after since are known
	data    []storage.AccountDataRow
}

func (src *source) answer(req *SyncRequest, since SyncToken, u *liveUser) (*SyncAnswer, error) {
	p := &syncPlan{req: req, since: since.Pos, first: req.Since == ""}
	if err := src.plan(p, u); err != nil {
		return nil, err
	}
	if err := src.findNews(p); err != nil {
		return nil, err
	}
	out := &SyncAnswer{next: p.now, request: req}
	if err := src.accountData(p, out); err != nil {
		return nil, err
	}
	for _, room := range p.rooms {
		if err := src.room(p, room, out); err != nil {
			return nil, err
		}
	}
	src.s.lazy.remember(req, p.now.Pos, out)
	return out, nil
}

// plan copies what memory has.
func (src *source) plan(p *syncPlan, u *liveUser) error {
	s := src.s
	s.mu.Lock()
	rules, from := u.rules, u.from
	s.mu.Unlock()
	changes := map[int64][]memberChange{}
	if rules == nil || !p.first && p.since < from {
		tx, err := src.database()
		if err != nil {
			return err
		}
		if rules, err = readUserRules(tx, u.id); err != nil {
			return err
		}
		if err := olderChanges(tx, u.id, p.since, from, changes); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.gone || u.from != from {
		return errUserMoved
	}
	if u.rules == nil {
		u.rules = rules
	}
	p.rules = u.rules
	p.now = s.tokenLocked()
	p.now.Pos = max(p.now.Pos, p.since)
	p.dataNew = p.since < u.from || u.dataPos > p.since
	for _, c := range u.changes {
		if !p.first && c.pos > p.since {
			changes[c.room] = append(changes[c.room], c)
		}
	}
	src.chooseRoomsLocked(p, u, changes)
	return nil
}

// chooseRoomsLocked puts the rooms into the plan that may have to be told of.
func (src *source) chooseRoomsLocked(p *syncPlan, u *liveUser, changes map[int64][]memberChange) {
	whole := p.first || p.req.FullState
	for nid, room := range u.rooms {
		changed := changes[nid]
		if room.Forgotten {
			// That it was left is told to devices that do not know yet, but nothing
			// that came later: forgetting it, for one.
			changed = slices.DeleteFunc(changed, func(c memberChange) bool { return c.pos > room.Pos })
			if whole || len(changed) == 0 {
				continue
			}
		}
		join := room.Membership == "join"
		switch {
		case len(changed) > 0, whole && (join || room.Membership == "invite" || room.Membership == "knock"):
		case whole && p.req.Filter.Room.IncludeLeave && !room.Outside:
		case join && (room.window.last() > p.since || room.window.from > p.since || p.dataNew):
		default:
			continue
		}
		if !p.req.Filter.Room.MatchRoom(room.window.id) {
			continue
		}
		r := &plannedRoom{userRoom: room, id: room.window.id, changes: changed, upTo: p.now.Pos}
		r.log = src.roomLogLocked(room.window, p.now.Pos)
		if !join {
			r.upTo = leftAt(room, changed)
		}
		n := len(r.log.entries)
		r.news = n > 0 && r.log.entries[n-1].pos > p.since
		if join && !r.news && !whole && len(changed) == 0 && r.log.from > p.since {
			p.unsure = append(p.unsure, r)
		}
		p.rooms = append(p.rooms, r)
	}
	slices.SortFunc(p.rooms, func(a, b *plannedRoom) int { return int(a.RoomNID - b.RoomNID) })
}

// leftAt is the position of the entry that took the user out of the room.
func leftAt(room *userRoom, changes []memberChange) int64 {
	if n := len(changes); n > 0 {
		return changes[n-1].pos
	}
	return room.Pos
}

// olderChanges reads entries that may have changed a user's memberships, by room.
func olderChanges(tx *storage.Tx, user spec.UserID, after, upTo int64, out map[int64][]memberChange) error {
	const chunk = 1000
	for after < upTo {
		entries, err := tx.LogOf(storage.LogScope{User: string(user)}, after, upTo, chunk)
		if err != nil {
			return err
		}
		for i := range entries {
			if e := &entries[i]; tellsMembership(e) {
				out[e.RoomNID] = append(out[e.RoomNID], memberChange{pos: e.Pos, room: e.RoomNID, event: e.EventNID})
			}
		}
		if len(entries) < chunk {
			return nil
		}
		after = entries[len(entries)-1].Pos
	}
	return nil
}

// findNews asks the database which of the rooms whose windows do not reach back
// far enough have news at all.
func (src *source) findNews(p *syncPlan) error {
	if len(p.unsure) == 0 {
		return nil
	}
	tx, err := src.database()
	if err != nil {
		return err
	}
	nids := make([]int64, len(p.unsure))
	for i, r := range p.unsure {
		nids[i] = r.RoomNID
	}
	found, err := tx.RoomsWithNews(nids, p.since, p.now.Pos)
	if err != nil {
		return err
	}
	src.s.mu.Lock()
	defer src.s.mu.Unlock()
	for _, r := range p.unsure {
		if r.news = slices.Contains(found, r.RoomNID); !r.news {
			src.s.held += r.window.extendLocked(r.log.from, p.since, nil)
			r.log.from = p.since
		}
	}
	return nil
}

// accountData fills in what changed of the user's account data.
func (src *source) accountData(p *syncPlan, out *SyncAnswer) error {
	if !p.dataNew && !p.first {
		return nil
	}
	tx, err := src.database()
	if err != nil {
		return err
	}
	rows, err := tx.AccountDataRange(p.req.User, p.since, p.now.Pos)
	if err != nil {
		return err
	}
	byRoom := map[spec.RoomID]*plannedRoom{}
	for _, r := range p.rooms {
		byRoom[r.id] = r
	}
	f := p.req.Filter
	for _, row := range rows {
		if row.Room == "" {
			if f.AccountData.Match(row.Type, "") {
				out.accountData = append(out.accountData, row)
			}
		} else if r := byRoom[row.Room]; r != nil && f.Room.AccountData.Match(row.Type, "") && f.Room.AccountData.MatchRoom(row.Room) {
			r.data = append(r.data, row)
		}
	}
	return nil
}

// room adds one room to the answer, if there is something to tell.
func (src *source) room(p *syncPlan, r *plannedRoom, out *SyncAnswer) error {
	switch r.Membership {
	case "invite", "knock":
		return src.strippedRoom(p, r, out)
	case "join":
		if !r.news && len(r.data) == 0 && len(r.changes) == 0 && !p.first && !p.req.FullState {
			return nil
		}
	default:
		if r.Outside {
			// An invite turned down: no more is known of the room.
			out.leave = append(out.leave, &SyncedRoom{ID: r.id, prev: TimelineToken{}})
			return nil
		}
	}
	t := &roomTask{src: src, plan: p, plannedRoom: r}
	answer, err := t.run()
	if err != nil {
		return fault(err, "room %s", r.id)
	}
	switch {
	case answer == nil:
	case r.Membership == "join":
		out.join = append(out.join, answer)
	default:
		out.leave = append(out.leave, answer)
	}
	return nil
}
