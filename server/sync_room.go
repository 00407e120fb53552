package server

import (
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// Bounds of the search for events that belong into a timeline; beyond them the
// timeline is limited.
const (
	scanMost   = 2000 // entries looked at
	hiddenMost = 200  // events that the user may not see
)

// roomTask works out what one room has to tell.
type roomTask struct {
	*plannedRoom
	src    *source
	plan   *syncPlan
	reader *reader

	full     bool  // the whole state is wanted
	entered  bool  // the user was not in the room at since
	outsider bool  // and was not in it later either
	lower    int64 // the timeline has entries after this position

	timeline   []*storage.EventRow // newest first
	limited    bool
	cut        *storage.EventRow   // the newest event that the limit cut off
	firstGap   bool                // clients lack something before the oldest event of timeline
	loose      []*storage.EventRow // state that changed beside the timeline since its start
	sawState   bool                // state may have changed among what was looked at
	sawSummary bool
	hidden     int
	scanned    int
	created    bool // the create event was reached

	prev TimelineToken
}

// run returns what the room has to tell, nil for nothing.
func (t *roomTask) run() (*SyncedRoom, error) {
	if err := t.begin(); err != nil {
		return nil, err
	}
	if t.outsider {
		return t.ownEventsOnly()
	}
	if err := t.walk(); err != nil {
		return nil, err
	}
	if err := t.findPrev(); err != nil {
		return nil, err
	}
	out := &SyncedRoom{ID: t.id, Limited: t.limited, prev: t.prev, data: t.data, joined: t.Membership == "join", entered: t.entered}
	if t.Membership == "join" && (t.full || t.sawSummary || t.limited) {
		var err error
		if out.summary, err = t.src.summary(t); err != nil {
			return nil, err
		}
	}
	state, err := t.state(out)
	if err != nil {
		return nil, err
	}
	out.state = state
	if err := t.render(out); err != nil {
		return nil, err
	}
	if len(out.events) == 0 && len(out.state) == 0 && len(out.data) == 0 && !t.sawSummary &&
		!t.full && t.Membership == "join" {
		return nil, nil
	}
	return out, nil
}

// begin finds out in what relation the user is to the room.
func (t *roomTask) begin() error {
	var member *storage.EventRow
	var err error
	if t.EventNID != 0 {
		if member, err = t.src.event(t.EventNID); err != nil {
			return err
		}
	}
	if t.reader, err = t.src.reader(t.RoomNID, t.plan.req.User, t.plan.req.Device, member); err != nil {
		return err
	}
	t.full = t.plan.first || t.plan.req.FullState
	t.lower = t.plan.since
	joined := t.Membership == "join"
	switch {
	case t.plan.first:
		t.entered = true
		t.outsider = !joined && !t.reader.leftJoined
	case len(t.changes) > 0:
		inAtSince, joins, other, err := t.history()
		if err != nil {
			return err
		}
		if joined {
			t.entered = !inAtSince || other
		} else {
			t.entered = !inAtSince
			t.outsider = !inAtSince && !joins
		}
	case !joined: // full_state with include_leave
		t.outsider = !t.reader.leftJoined
	}
	if t.entered {
		t.full, t.lower = true, 0
	}
	return nil
}

// history tells whether the user was in the room at since, and what they were
// after it: joined, something else.
func (t *roomTask) history() (inAtSince, joins, other bool, err error) {
	root, err := t.src.rootAt(t.window, t.plan.since)
	if err != nil {
		return
	}
	view, err := t.reader.view(root)
	if err != nil {
		return
	}
	inAtSince = view.Membership == "join"
	for _, c := range t.changes {
		membership := "leave"
		if c.event != 0 {
			row, err := t.src.event(c.event)
			if err != nil {
				return false, false, false, err
			}
			if row.Rejected != "" || row.SoftFailed {
				continue
			}
			membership = row.Event.Membership()
		}
		if membership == "join" {
			joins = true
		} else {
			other = true
		}
	}
	return inAtSince, joins, other, nil
}

// ownEventsOnly is what a user gets of a room that they did not enter: that an
// invite or a knock came to nothing, or that they were banned.
func (t *roomTask) ownEventsOnly() (*SyncedRoom, error) {
	out := &SyncedRoom{ID: t.id}
	nids := []int64{t.EventNID}
	if len(t.changes) > 0 {
		nids = nids[:0]
		for _, c := range t.changes {
			nids = append(nids, c.event)
		}
	}
	rows, err := t.src.events(nids)
	if err != nil {
		return nil, err
	}
	limit := t.plan.limit()
	for _, row := range slices.Backward(rows) {
		if row == nil || !row.InTimeline() || row.Event.Membership() == "invite" || row.Event.Membership() == "knock" {
			continue
		}
		if t.filtered(row) || len(t.timeline) == limit {
			continue
		}
		t.timeline = append(t.timeline, row)
		out.prev = timelineBefore(row.Key())
	}
	return out, t.render(out)
}

func (p *syncPlan) limit() int {
	return p.req.Filter.Room.Timeline.LimitOr(timelineDefault, timelineMost)
}

// walk collects the timeline, from its end back.
func (t *roomTask) walk() error {
	limit := t.plan.limit()
	err := t.log.back(t.lower, t.upTo, func(e *windowEntry) (bool, error) {
		if e.kind != storage.LogEvent && e.kind != storage.LogState {
			return true, nil
		}
		return t.look(e, limit)
	})
	if err == nil && !t.limited && t.entered {
		// To begin with, everything that may be seen is there only from the
		// room's creation on.
		t.limited = !t.created || t.hidden > 0
	}
	return err
}

// look takes one entry in; false ends the walk.
func (t *roomTask) look(e *windowEntry, limit int) (bool, error) {
	t.scanned++
	t.sawState = t.sawState || e.state
	t.sawSummary = t.sawSummary || e.summary
	if e.event == 0 {
		return true, nil // an entry of the state is gone, which cannot be told
	}
	row, err := t.src.event(e.event)
	if err != nil {
		return false, err
	}
	if e.kind == storage.LogState {
		t.loose = append(t.loose, row)
		return true, nil
	}
	pass, err := t.passes(row)
	switch {
	case err != nil:
		return false, err
	case pass && len(t.timeline) == limit:
		t.limited, t.cut = true, row
		return false, nil
	case pass:
		t.timeline = append(t.timeline, row)
	case row.Event.IsState():
		t.loose = append(t.loose, row)
	}
	t.created = row.Event.StateKeyIs(spec.TypeCreate, "")
	if e.gap || t.scanned >= scanMost || t.hidden >= hiddenMost {
		t.limited = !t.created
		t.firstGap = e.gap && pass
		return false, nil
	}
	return true, nil
}

// filtered reports whether the filter keeps an event out of the timeline.
func (t *roomTask) filtered(row *storage.EventRow) bool {
	return !t.plan.req.Filter.Room.Timeline.MatchEvent(row.Event)
}

// passes reports whether an event belongs into the timeline.
func (t *roomTask) passes(row *storage.EventRow) (bool, error) {
	if t.filtered(row) {
		return false, nil
	}
	// Spec: client-server-api#ignoring-users
	if !row.Event.IsState() && t.plan.rules.ignored[row.Event.Sender] {
		return false, nil
	}
	visible, err := t.reader.visible(row)
	if err != nil {
		return false, err
	}
	if !visible {
		t.hidden++
		// What is in force now is told although it was sent out of sight.
		if !row.Event.IsState() {
			return false, nil
		}
		now, err := t.current(row)
		return now, err
	}
	return t.reader.shown(row)
}

// current reports whether a state event is in force at the end of the timeline.
func (t *roomTask) current(row *storage.EventRow) (bool, error) {
	root, err := t.src.rootAt(t.window, t.upTo)
	if err != nil {
		return false, err
	}
	nid, err := t.src.stateNID(t.RoomNID, root, spec.StatePath(row.Event.Key()))
	return nid == row.NID, err
}

// first returns the oldest event of the timeline, nil if that is empty.
func (t *roomTask) first() *storage.EventRow {
	if n := len(t.timeline); n > 0 {
		return t.timeline[n-1]
	}
	return nil
}

// findPrev works out the place from which a client pages back.
func (t *roomTask) findPrev() error {
	if first := t.first(); first != nil {
		t.prev = timelineBefore(first.Key())
	}
	if t.cut != nil {
		// By arrival it came right before, by depth it may stand further on.
		if after := timelineAfter(t.cut.Key()); after.Key.Compare(t.prev.Key) > 0 {
			t.prev = after
		}
	}
	if t.prev != (TimelineToken{}) {
		return nil
	}
	for _, e := range slices.Backward(t.log.entries) {
		if e.kind == storage.LogEvent && e.pos <= t.upTo {
			row, err := t.src.event(e.event)
			if err == nil {
				t.prev = timelineAfter(row.Key())
			}
			return err
		}
	}
	tx, err := t.src.database()
	if err != nil {
		return err
	}
	t.prev, err = timelinePlace(tx, t.RoomNID, RoomToken{Sync: &SyncToken{Pos: t.upTo}})
	return err
}

// render brings the timeline into order, with what clients get to see of each
// event.
func (t *roomTask) render(out *SyncedRoom) error {
	out.events = make([]syncEvent, 0, len(t.timeline))
	for _, row := range slices.Backward(t.timeline) {
		format, err := t.reader.format(row)
		if err != nil {
			return err
		}
		format.OmitRoomID = true
		out.events = append(out.events, syncEvent{row.Event, format})
	}
	return nil
}
