package server

import (
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
	"atoll/storage"
)

// SyncAnswer is what is new. Its events are put into JSON only where it is
// written.
type SyncAnswer struct {
	request *SyncRequest
	next    SyncToken

	join, leave   []*SyncedRoom
	invite, knock []StrippedRoom
	accountData   []storage.AccountDataRow
}

// SyncedRoom is what is new in a room in which the user is or was.
type SyncedRoom struct {
	ID      spec.RoomID
	Limited bool // events are missing before the timeline
	prev    TimelineToken
	events  []syncEvent // the timeline, oldest first
	state   []*storage.EventRow
	summary *RoomSummary // nil: not told
	data    []storage.AccountDataRow
	joined  bool // else left
	entered bool
}

// syncEvent is an event of a timeline.
type syncEvent struct {
	event  *spec.Event
	format spec.ClientFormat
}

// StrippedRoom is a room that the user is invited to, or at which they knock.
type StrippedRoom struct {
	ID    spec.RoomID
	State []byte // JSON array of stripped state
}

// Next returns the token for the next request.
func (a *SyncAnswer) Next() string { return a.next.String() }

// Empty tells that nothing is new.
func (a *SyncAnswer) Empty() bool {
	return len(a.join)+len(a.leave)+len(a.invite)+len(a.knock)+len(a.accountData) == 0
}

// WriteTo writes the answer as JSON, piece by piece.
func (a *SyncAnswer) WriteTo(w io.Writer) (int64, error) {
	const piece = 64 << 10
	var n int64
	e := a.encoder(make([]byte, 0, 4<<10))
	e.flush = func(dst []byte) ([]byte, error) {
		if len(dst) < piece {
			return dst, nil
		}
		m, err := w.Write(dst)
		n += int64(m)
		return dst[:0], err
	}
	rest, err := e.answer()
	if err != nil {
		return n, err
	}
	m, err := w.Write(rest)
	return n + int64(m), err
}

// AppendJSON appends the answer as JSON.
func (a *SyncAnswer) AppendJSON(dst []byte) []byte {
	e := a.encoder(dst)
	e.flush = func(dst []byte) ([]byte, error) { return dst, nil }
	dst, _ = e.answer()
	return dst
}

// syncEncoder writes one answer.
type syncEncoder struct {
	a       *SyncAnswer
	dst     []byte
	flush   func([]byte) ([]byte, error) // may write what is there
	fields  Fields
	scratch []byte
	raw     bool // events as other servers get them
	state   string
}

func (a *SyncAnswer) encoder(dst []byte) *syncEncoder {
	e := &syncEncoder{a: a, dst: dst, state: "state"}
	if f := a.request.Filter; f != nil {
		e.fields, e.raw = f.Fields(), f.EventFormat == EventFormatFederation
	}
	if a.request.StateAfter != "" {
		e.state = a.request.StateAfter
	}
	return e
}

func (e *syncEncoder) answer() ([]byte, error) {
	e.text(`{"next_batch":`)
	e.quoted(e.a.Next())
	e.text(`,"device_one_time_keys_count":{},"device_unused_fallback_key_types":[]`)
	if len(e.a.accountData) > 0 {
		e.text(`,"account_data":{"events":[`)
		e.dataEvents(e.a.accountData)
		e.text(`]}`)
	}
	if len(e.a.join)+len(e.a.leave)+len(e.a.invite)+len(e.a.knock) > 0 {
		e.text(`,"rooms":{`)
		first := e.begin(true, "join", len(e.a.join))
		if err := e.rooms(e.a.join); err != nil {
			return nil, err
		}
		first = e.begin(first, "leave", len(e.a.leave))
		if err := e.rooms(e.a.leave); err != nil {
			return nil, err
		}
		first = e.begin(first, "invite", len(e.a.invite))
		e.stripped(e.a.invite, "invite_state")
		e.begin(first, "knock", len(e.a.knock))
		e.stripped(e.a.knock, "knock_state")
		e.text(`}`)
	}
	e.text(`}`)
	return e.dst, nil
}

func (e *syncEncoder) text(s string) { e.dst = append(e.dst, s...) }

func (e *syncEncoder) quoted(s string) {
	e.dst, _ = jsontext.AppendQuote(e.dst, s)
}

// begin begins a section of rooms if it has any; the rest ends it.
func (e *syncEncoder) begin(first bool, name string, n int) (stillFirst bool) {
	if n == 0 {
		return first
	}
	if !first {
		e.text(`,`)
	}
	e.quoted(name)
	e.text(`:{`)
	return false
}

func (e *syncEncoder) rooms(rooms []*SyncedRoom) error {
	for i, room := range rooms {
		if i > 0 {
			e.text(`,`)
		}
		e.quoted(string(room.ID))
		e.text(`:`)
		e.room(room)
		var err error
		if e.dst, err = e.flush(e.dst); err != nil {
			return err
		}
	}
	if len(rooms) > 0 {
		e.text(`}`)
	}
	return nil
}

func (e *syncEncoder) room(r *SyncedRoom) {
	e.text(`{"timeline":{"events":[`)
	for i := range r.events {
		if i > 0 {
			e.text(`,`)
		}
		e.event(r.events[i].event, r.events[i].format)
	}
	e.text(`],"limited":`)
	e.dst = strconv.AppendBool(e.dst, r.Limited)
	e.text(`,"prev_batch":`)
	e.quoted(r.prev.String())
	e.text(`},`)
	e.quoted(e.state)
	e.text(`:{"events":[`)
	for i, row := range r.state {
		if i > 0 {
			e.text(`,`)
		}
		e.event(row.Event, spec.ClientFormat{OmitRoomID: true})
	}
	e.text(`]},"account_data":{"events":[`)
	e.dataEvents(r.data)
	e.text(`]}`)
	if r.joined {
		e.text(`,"ephemeral":{"events":[]},"unread_notifications":{"highlight_count":0,"notification_count":0}`)
		e.summary(r.summary)
	}
	e.text(`}`)
}

func (e *syncEncoder) summary(s *RoomSummary) {
	e.text(`,"summary":{`)
	if s != nil {
		e.text(`"m.joined_member_count":`)
		e.dst = strconv.AppendInt(e.dst, s.Joined, 10)
		e.text(`,"m.invited_member_count":`)
		e.dst = strconv.AppendInt(e.dst, s.Invited, 10)
		if s.Heroes != nil {
			e.text(`,"m.heroes":[`)
			for i, user := range s.Heroes {
				if i > 0 {
					e.text(`,`)
				}
				e.quoted(string(user))
			}
			e.text(`]`)
		}
	}
	e.text(`}`)
}

func (e *syncEncoder) event(ev *spec.Event, f spec.ClientFormat) {
	e.dst = appendEvent(e.dst, ev, f, e.raw, e.fields, &e.scratch)
}

// appendEvent appends an event in the form that a filter asks for.
func appendEvent(dst []byte, ev *spec.Event, f spec.ClientFormat, raw bool, fields Fields, scratch *[]byte) []byte {
	render := ev.AppendClient
	if raw {
		render = ev.AppendRaw
	}
	if fields.All() {
		return render(dst, f)
	}
	*scratch = render((*scratch)[:0], f)
	return fields.Append(dst, *scratch)
}

func (e *syncEncoder) dataEvents(rows []storage.AccountDataRow) {
	for i := range rows {
		if i > 0 {
			e.text(`,`)
		}
		e.text(`{"type":`)
		e.quoted(rows[i].Type)
		e.text(`,"content":`)
		e.dst = append(e.dst, rows[i].Content...)
		e.text(`}`)
	}
}

func (e *syncEncoder) stripped(rooms []StrippedRoom, name string) {
	for i, room := range rooms {
		if i > 0 {
			e.text(`,`)
		}
		e.quoted(string(room.ID))
		e.text(`:{`)
		e.quoted(name)
		e.text(`:{"events":`)
		e.dst = append(e.dst, room.State...)
		e.text(`}}`)
	}
	if len(rooms) > 0 {
		e.text(`}`)
	}
}
