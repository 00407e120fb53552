package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// Bounds of a page of history.
const (
	messagesDefault = 10
	messagesMost    = 500
	// pageScanMost is how many events are looked at for one page; what comes then
	// is for the next.
	pageScanMost = 3000
	// pageFills is how many times a page goes to other servers at most, and
	// pageFillTimeout for how long together.
	pageFills       = 4
	pageFillTimeout = 8 * time.Second
)

// Messages returns a page of a room's history. Where events are missing it asks
// other servers for them, for some seconds at most, and otherwise goes on with
// what is here. Errors: M_INVALID_PARAM for a token that is none, M_FORBIDDEN.
// Spec: client-server-api#get_matrixclientv3roomsroomidmessages
func (rs *Rooms) Messages(ctx context.Context, req Messages) (*MessagesPage, error) {
	p := &messagePage{req: req, rooms: rs, limit: messagesDefault}
	if req.Limit > 0 {
		p.limit = min(req.Limit, messagesMost)
	}
	if req.Filter == nil {
		p.req.Filter = &RoomEventFilter{}
	}
	for _, t := range []struct {
		text string
		to   *RoomToken
		set  *bool
	}{{req.From, &p.from, &p.hasFrom}, {req.To, &p.to, &p.hasTo}} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.to, err = ParseRoomToken(t.text); err != nil {
			return nil, err
		}
		*t.set = true
	}
	if err := rs.knowTxns(ctx, req.User, req.Device); err != nil {
		return nil, err
	}
	return p.collect(ctx)
}

// messagePage is a page of history on the way.
type messagePage struct {
	req            Messages
	rooms          *Rooms
	from, to       RoomToken
	hasFrom, hasTo bool
	limit          int

	started    bool
	start, at  TimelineToken // where the page begins, and how far it got
	stop       TimelineToken // where it must end; only with hasTo
	chunk      []ClientEvent
	state      []ClientEvent
	senders    map[spec.UserID]bool // whose members are in state
	scanned    int
	over, done bool // nothing more is here in this direction; nor anywhere
	pieces     int
	skipGap    storage.TimelineKey
	gap        *storage.GapRow // met before going on
	ignored    map[spec.UserID]bool
	taken      func(*storage.EventRow) // nil, or told of every event of the chunk
}

// collect fills the page: from the database, then from other servers at a gap,
// then from the database again.
func (p *messagePage) collect(ctx context.Context) (*MessagesPage, error) {
	deadline := time.Now().Add(pageFillTimeout)
	for fills := 0; ; fills++ {
		p.gap = nil
		if err := p.read(ctx); err != nil {
			return nil, fault(err, "messages of %s", p.req.Room)
		}
		if p.gap == nil {
			break
		}
		more := false
		if fills < pageFills && time.Now().Before(deadline) {
			var err error
			if more, err = p.fill(ctx, deadline); err != nil {
				return nil, err
			}
		}
		if !more {
			p.skipGap = p.gap.Key
		}
	}
	out := &MessagesPage{Start: p.req.From, Chunk: p.chunk, State: p.state}
	if out.Chunk == nil {
		out.Chunk = []ClientEvent{}
	}
	if out.Start == "" {
		out.Start = p.start.String()
	}
	if !p.done {
		out.End = p.at.String()
	}
	return out, nil
}

// fill asks other servers for what is missing at the gap; it reports whether
// anything came. What goes wrong with them is not the client's business.
func (p *messagePage) fill(ctx context.Context, deadline time.Time) (bool, error) {
	bounded, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	more, err := p.rooms.Backfill(bounded, p.req.Room, *p.gap)
	if err != nil && ctx.Err() == nil {
		p.rooms.log.Debug("history is missing", "room", p.req.Room, "cause", err)
		err = nil
	}
	return more, err
}

// read adds what the database has.
func (p *messagePage) read(ctx context.Context) error {
	gen := p.rooms.cache.generation()
	return p.rooms.db.Read(ctx, func(tx *storage.Tx) error {
		src := &source{rooms: p.rooms, ctx: ctx, tx: tx, gen: gen}
		a, err := src.enter(p.req.Room, p.req.User, p.req.Device)
		if err != nil {
			return err
		}
		if !p.started {
			if err := p.begin(a); err != nil {
				return err
			}
		}
		for p.gap == nil && !p.over && len(p.chunk) < p.limit && p.scanned < pageScanMost {
			if err := p.piece(a); err != nil {
				return err
			}
		}
		return nil
	})
}

// begin finds where the page begins and must end.
func (p *messagePage) begin(a *roomAccess) error {
	tx := a.src.tx
	rules, err := readUserRules(tx, p.req.User)
	if err != nil {
		return err
	}
	p.ignored, p.senders = rules.ignored, map[spec.UserID]bool{}
	switch {
	case p.hasFrom:
		if p.start, err = timelinePlace(tx, a.room, p.from); err != nil {
			return err
		}
	case p.req.Back:
		p.start = TimelineToken{storage.MaxTimelineKey}
		if rows, _, err := tx.Timeline(storage.TimelineQuery{RoomNID: a.room, Backward: true, From: storage.MaxTimelineKey, Limit: 1}); err != nil {
			return err
		} else if len(rows) > 0 {
			p.start = timelineAfter(rows[0].Key())
		}
	}
	p.at, p.started = p.start, true
	if p.hasTo {
		if p.stop, err = timelinePlace(tx, a.room, p.to); err != nil {
			return err
		}
	}
	if !a.now {
		// Nothing after the user left can be seen, so it need not be looked at.
		left := timelineAfter(a.joinEnd.Key())
		switch {
		case p.req.Back && left.Key.Compare(p.at.Key) < 0:
			p.at = left
		case !p.req.Back && (!p.hasTo || left.Key.Compare(p.stop.Key) < 0):
			p.stop, p.hasTo = left, true
		}
	}
	return nil
}

// piece takes in some of the events that come next.
func (p *messagePage) piece(a *roomAccess) error {
	// One more than wanted tells whether there is more.
	want := p.limit - len(p.chunk) + 1
	if p.pieces++; p.pieces > 1 {
		want = max(want, 100) // a filter lets little pass
	}
	rows, gaps, err := a.src.tx.Timeline(p.query(a.room, want))
	if err != nil {
		return err
	}
	for i := range rows {
		row := &rows[i]
		if len(p.chunk) == p.limit {
			return nil
		}
		gap := gapAt(gaps, row.Key())
		// Forward, what is missing before the event comes before it.
		if gap != nil && !p.req.Back && p.skipGap != gap.Key {
			p.gap = gap
			return nil
		}
		if err := p.take(a, row); err != nil {
			return err
		}
		if p.req.Back {
			p.at = timelineBefore(row.Key())
		} else {
			p.at = timelineAfter(row.Key())
		}
		if p.scanned++; gap != nil && p.req.Back && p.skipGap != gap.Key {
			if len(p.chunk) < p.limit { // else the next page sees to it
				p.gap = gap
			}
			return nil
		}
		if p.req.Back && row.Event.StateKeyIs(spec.TypeCreate, "") {
			p.over, p.done = true, true
			return nil
		}
	}
	if len(rows) < want {
		return p.exhausted(a)
	}
	return nil
}

// exhausted decides what it means that nothing more is here: the end, unless the
// events went on at a gap that nobody could fill just now.
func (p *messagePage) exhausted(a *roomAccess) error {
	p.over, p.done = true, true
	if !p.req.Back || p.hasTo {
		return nil
	}
	gaps, err := a.src.tx.Gaps(a.room, p.at.Key, p.at.Key)
	if err != nil || len(gaps) == 0 {
		return err
	}
	p.done = false // to be tried again later
	if p.skipGap != p.at.Key {
		p.over, p.gap = false, &gaps[0]
	}
	return nil
}

// query returns the query for the events that come next.
func (p *messagePage) query(room int64, limit int) storage.TimelineQuery {
	q := storage.TimelineQuery{RoomNID: room, Backward: p.req.Back, Limit: limit, From: p.at.Key}
	if p.hasTo {
		q.To = p.stop.Key
	}
	// The bounds of a query do not belong to it; a place lies right before its key.
	if p.req.Back {
		if q.To != (storage.TimelineKey{}) {
			q.To.NID--
		}
	} else if q.From != (storage.TimelineKey{}) {
		q.From.NID--
	} else {
		q.From.Depth = -1
	}
	return q
}

func gapAt(gaps []storage.GapRow, k storage.TimelineKey) *storage.GapRow {
	i := slices.IndexFunc(gaps, func(g storage.GapRow) bool { return g.Key == k })
	if i < 0 {
		return nil
	}
	return &gaps[i]
}

// take adds an event to the page if it belongs there.
func (p *messagePage) take(a *roomAccess, row *storage.EventRow) error {
	if !p.req.Filter.MatchEvent(row.Event) || !row.Event.IsState() && p.ignored[row.Event.Sender] {
		// Where states change, what is known of them goes on all the same.
		_, _, err := a.around(row)
		return err
	}
	ok, err := a.visible(row)
	if err == nil && ok {
		ok, err = a.shown(row)
	}
	if err != nil || !ok {
		return err
	}
	ev, err := a.client(row)
	if err != nil {
		return err
	}
	p.chunk = append(p.chunk, ev)
	if p.taken != nil {
		p.taken(row)
		return nil
	}
	if p.req.Filter.LazyLoadMembers {
		return p.addSender(a, row)
	}
	return nil
}

// addSender adds the membership of an event's sender.
// Spec: client-server-api#lazy-loading-room-members
func (p *messagePage) addSender(a *roomAccess, row *storage.EventRow) error {
	if p.senders[row.Event.Sender] {
		return nil
	}
	p.senders[row.Event.Sender] = true
	member, err := a.src.stateEvent(a.room, row.After, memberKeyOf(row.Event.Sender))
	if errors.Is(err, storage.ErrNotFound) || err == nil && member == nil {
		return nil
	}
	if err == nil {
		p.state = append(p.state, member.Event.AppendClient(nil, spec.ClientFormat{}))
	}
	return err
}
