package storage

import (
	"errors"
	"math"
)

// MaxTimelineKey is after all events.
var MaxTimelineKey = TimelineKey{Depth: math.MaxInt64, NID: math.MaxInt64}

// TimelineQuery asks for a page of a room's timeline. The bounds do not belong
// to the page.
type TimelineQuery struct {
	RoomNID  int64
	Backward bool        // newest first, from From towards older ones; else oldest first
	From     TimelineKey // where to start
	To       TimelineKey // where to stop; zero: at the end of what is here
	Limit    int         // at most so many events
}

var (
	selectTimelineForward = query(`SELECT ` + eventColumns + ` FROM events e
		WHERE e.room_nid = $1 AND (e.timeline, e.nid) > ($2::bigint, $3::bigint) AND (e.timeline, e.nid) < ($4::bigint, $5::bigint)
		ORDER BY e.timeline, e.nid LIMIT $6`)
	selectTimelineBackward = query(`SELECT ` + eventColumns + ` FROM events e
		WHERE e.room_nid = $1 AND (e.timeline, e.nid) < ($2::bigint, $3::bigint) AND (e.timeline, e.nid) > ($4::bigint, $5::bigint)
		ORDER BY e.timeline DESC, e.nid DESC LIMIT $6`)
	selectGaps = query(`SELECT room_nid, timeline, event_nid, retry_ts FROM timeline_gaps
		WHERE room_nid = $1 AND (timeline, event_nid) >= ($2::bigint, $3::bigint) AND (timeline, event_nid) <= ($4::bigint, $5::bigint)
		ORDER BY timeline, event_nid`)
	selectTimelineAt = query(`SELECT e.timeline, e.nid FROM log l JOIN events e ON e.nid = l.event_nid
		WHERE l.room_nid = $1 AND l.kind = 1 AND l.pos <= $2 ORDER BY l.pos DESC LIMIT 1`)
)

// Timeline returns a page of the events that stand in a room's timeline, and
// the gaps before events of the page, older gaps first. Where Backward ends at
// an event with a gap, older events may exist elsewhere.
func (tx *Tx) Timeline(q TimelineQuery) ([]EventRow, []GapRow, error) {
	s, to := selectTimelineForward, q.To
	if q.Backward {
		s = selectTimelineBackward
		if to == (TimelineKey{}) {
			to.Depth = -1
		}
	} else if to == (TimelineKey{}) {
		to = MaxTimelineKey
	}
	events, err := tx.events(s, q.RoomNID, q.From.Depth, q.From.NID, to.Depth, to.NID, q.Limit)
	if err != nil || len(events) == 0 {
		return nil, nil, err
	}
	first, last := events[0].Key(), events[len(events)-1].Key()
	if q.Backward {
		first, last = last, first
	}
	gaps, err := tx.Gaps(q.RoomNID, first, last)
	return events, gaps, err
}

// Gaps returns the gaps of a room's timeline at events from first to last,
// oldest first.
func (tx *Tx) Gaps(roomNID int64, first, last TimelineKey) ([]GapRow, error) {
	var out []GapRow
	err := tx.each(selectGaps, []any{roomNID, first.Depth, first.NID, last.Depth, last.NID}, func(r *rows) error {
		out = append(out, GapRow{})
		g := &out[len(out)-1]
		return r.scan(&g.RoomNID, &g.Key.Depth, &g.Key.NID, &g.RetryTS)
	})
	return out, err
}

// TimelineAt returns the key of the newest event of a room that the log
// announced at or before a position; the zero key if there is none. It turns a
// sync position into a place in the timeline.
func (tx *Tx) TimelineAt(roomNID, pos int64) (TimelineKey, error) {
	var k TimelineKey
	err := tx.one(selectTimelineAt, []any{roomNID, pos}, &k.Depth, &k.NID)
	if errors.Is(err, ErrNotFound) {
		return TimelineKey{}, nil
	}
	return k, err
}
