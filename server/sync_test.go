package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"atoll/spec"
)

// syncBed is a server that runs, with rooms and users to sync.
type syncBed struct {
	*roomsBed
	alice, bob, carol spec.UserID
}

func newSyncBed(t *testing.T) *syncBed {
	b := &syncBed{roomsBed: newRoomsBed(t, "alice", "bob", "carol")}
	b.alice, b.bob, b.carol = "@alice:hs", "@bob:hs", "@carol:hs"
	runServer(t, b.Server)
	return b
}

// runServer runs a server until the test ends.
func runServer(t testing.TB, s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// synced is the JSON of an answer, read as clients do.
type synced struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join, Leave map[spec.RoomID]*syncedRoom
		Invite      map[spec.RoomID]struct {
			State eventList `json:"invite_state"`
		}
		Knock map[spec.RoomID]struct {
			State eventList `json:"knock_state"`
		}
	}
	AccountData eventList       `json:"account_data"`
	OneTimeKeys json.RawMessage `json:"device_one_time_keys_count"`
	Fallback    json.RawMessage `json:"device_unused_fallback_key_types"`
	raw         []byte
}

type syncedRoom struct {
	Timeline struct {
		Events    []clientEvent
		Limited   bool
		PrevBatch string `json:"prev_batch"`
	}
	State       *eventList
	StateAfter  *eventList `json:"state_after"`
	AccountData *eventList `json:"account_data"`
	Ephemeral   *eventList
	Summary     *struct {
		Joined  *int `json:"m.joined_member_count"`
		Invited *int `json:"m.invited_member_count"`
		Heroes  []spec.UserID
		HeroesM []spec.UserID `json:"m.heroes"`
	}
	Unread *struct {
		Highlights *int `json:"highlight_count"`
		Count      *int `json:"notification_count"`
	} `json:"unread_notifications"`
}

type eventList struct{ Events []clientEvent }

type clientEvent struct {
	ID       spec.EventID `json:"event_id"`
	Room     spec.RoomID  `json:"room_id"`
	Type     string
	Sender   spec.UserID
	StateKey *string `json:"state_key"`
	TS       int64   `json:"origin_server_ts"`
	Content  map[string]any
	Auth     []string `json:"auth_events"`
	Unsigned struct {
		Membership      string
		TxnID           string         `json:"transaction_id"`
		PrevContent     map[string]any `json:"prev_content"`
		ReplacesState   spec.EventID   `json:"replaces_state"`
		RedactedBecause *clientEvent   `json:"redacted_because"`
	}
}

// label is a short text for an event: its body, or type and state key.
func (e *clientEvent) label() string {
	if body, ok := e.Content["body"].(string); ok {
		return body
	}
	l := strings.TrimPrefix(e.Type, "m.room.")
	if e.StateKey != nil && *e.StateKey != "" {
		l += " " + strings.TrimSuffix(*e.StateKey, ":hs")
	}
	if m, ok := e.Content["membership"].(string); ok {
		l += " " + m
	}
	return l
}

func labels(events []clientEvent) string {
	out := make([]string, len(events))
	for i := range events {
		out[i] = events[i].label()
	}
	return strings.Join(out, ", ")
}

func sortedLabels(l *eventList) string {
	if l == nil {
		return "absent"
	}
	out := make([]string, len(l.Events))
	for i := range l.Events {
		out[i] = l.Events[i].label()
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (b *syncBed) filter(text string) *Filter {
	b.t.Helper()
	if text == "" {
		return nil
	}
	f, err := ParseFilter([]byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (b *syncBed) sync(req SyncRequest) *synced {
	b.t.Helper()
	answer, err := b.Sync.Sync(context.Background(), req)
	if err != nil {
		b.t.Fatalf("sync: %v", err)
	}
	return b.read(answer)
}

func (b *syncBed) read(answer *SyncAnswer) *synced {
	b.t.Helper()
	out := &synced{raw: answer.AppendJSON(nil)}
	if err := json.Unmarshal(out.raw, out); err != nil {
		b.t.Fatalf("%v in %s", err, out.raw)
	}
	var streamed bytes.Buffer
	if _, err := answer.WriteTo(&streamed); err != nil || !bytes.Equal(streamed.Bytes(), out.raw) {
		b.t.Errorf("streamed: %s, %v; appended: %s", streamed.Bytes(), err, out.raw)
	}
	if string(out.OneTimeKeys) != "{}" || string(out.Fallback) != "[]" {
		b.t.Errorf("key counts are missing in %s", out.raw)
	}
	return out
}

// since is a plain sync of a user from a token on.
func (b *syncBed) since(user spec.UserID, token string) *synced {
	b.t.Helper()
	return b.sync(SyncRequest{User: user, Device: "D", Since: token})
}

// join returns a joined room of an answer that must have it.
func (s *synced) join(t *testing.T, room spec.RoomID) *syncedRoom {
	t.Helper()
	r := s.Rooms.Join[room]
	if r == nil {
		t.Fatalf("the room is not joined in %s", s.raw)
	}
	return r
}

func (s *synced) leave(t *testing.T, room spec.RoomID) *syncedRoom {
	t.Helper()
	r := s.Rooms.Leave[room]
	if r == nil {
		t.Fatalf("the room is not left in %s", s.raw)
	}
	return r
}

func (b *syncBed) do(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *syncBed) joins(room spec.RoomID, users ...spec.UserID) {
	b.t.Helper()
	for _, u := range users {
		_, err := b.Rooms.Join(context.Background(), Join{User: u, Room: string(room)})
		b.do(err)
	}
}

func (b *syncBed) change(room spec.RoomID, sender, target spec.UserID) ChangeMembership {
	return ChangeMembership{Room: room, Sender: sender, Target: target}
}

func (b *syncBed) set(room spec.RoomID, user spec.UserID, kind, key, content string) spec.EventID {
	b.t.Helper()
	id, err := b.Rooms.Send(context.Background(), SendEvent{Room: room, Sender: user, Type: kind, StateKey: &key, Content: []byte(content)})
	b.do(err)
	return id
}

func (b *syncBed) says(room spec.RoomID, user spec.UserID, bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		b.say(room, user, body, "")
	}
}

// numbered returns n bodies.
func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(prefix, i+1)
	}
	return out
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// publicRoom makes a room of alice that all may join.
func (b *syncBed) publicRoom() spec.RoomID {
	return b.create(CreateRoom{Creator: b.alice, Preset: "public_chat", Name: "Lagoon"})
}

func TestSyncInitial(t *testing.T) {
	b := newSyncBed(t)
	room := b.publicRoom()

	t.Run("05-001 05-015 05-016 05-022 a fresh room fits into the timeline", func(t *testing.T) {
		got := b.since(b.alice, "")
		r := got.join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events),
			"create, member @alice join, power_levels, join_rules, history_visibility, guest_access, name")
		wantText(t, "state", sortedLabels(r.State), "")
		if r.Timeline.Limited || r.Timeline.PrevBatch == "" || got.NextBatch == "" {
			t.Errorf("limited %v, prev_batch %q, next_batch %q", r.Timeline.Limited, r.Timeline.PrevBatch, got.NextBatch)
		}
		if r.Ephemeral == nil || r.AccountData == nil || r.Summary == nil || r.Unread == nil || r.Unread.Count == nil || r.StateAfter != nil {
			t.Errorf("parts of the room are missing: %s", got.raw)
		}
		for _, e := range r.Timeline.Events {
			if e.Room != "" || e.ID == "" || e.TS == 0 {
				t.Errorf("event %+v", e)
			}
		}
	})
	t.Run("05-016 the state is the one at the start of the timeline", func(t *testing.T) {
		b.set(room, b.alice, typeTopic, "", `{"topic":"old"}`)
		b.says(room, b.alice, numbered("m", 25)...)
		b.set(room, b.alice, typeTopic, "", `{"topic":"new"}`)
		r := b.since(b.alice, "").join(t, room)
		if n := len(r.Timeline.Events); n != timelineDefault || !r.Timeline.Limited {
			t.Errorf("%d events, limited %v", n, r.Timeline.Limited)
		}
		wantText(t, "state", sortedLabels(r.State),
			"create, guest_access, history_visibility, join_rules, member @alice join, name, power_levels, topic")
		for _, e := range r.State.Events {
			if e.Type == typeTopic && e.Content["topic"] != "old" {
				t.Errorf("topic in the state is %v", e.Content)
			}
		}
		last := r.Timeline.Events[len(r.Timeline.Events)-1]
		if last.Content["topic"] != "new" || last.Unsigned.PrevContent["topic"] != "old" || last.Unsigned.ReplacesState == "" {
			t.Errorf("newest event: %+v", last)
		}
	})
	t.Run("05-036 state_after repeats what the timeline has", func(t *testing.T) {
		r := b.sync(SyncRequest{User: b.alice, StateAfter: "state_after"}).join(t, room)
		if r.State != nil || r.StateAfter == nil {
			t.Fatal("state instead of state_after")
		}
		for _, e := range r.StateAfter.Events {
			if e.Type == typeTopic && e.Content["topic"] != "new" {
				t.Errorf("topic in the state is %v", e.Content)
			}
		}
	})
	t.Run("05-005 a token that is none is refused", func(t *testing.T) {
		_, err := b.Sync.Sync(context.Background(), SyncRequest{User: b.alice, Since: "nonsense"})
		wantCode(t, "sync", err, spec.CodeInvalidParam)
	})
}

func TestSyncIncremental(t *testing.T) {
	b := newSyncBed(t)
	room := b.publicRoom()
	quiet := b.publicRoom()
	b.joins(room, b.bob)
	b.joins(quiet, b.bob)

	t.Run("05-006 05-007 05-017 05-018 05-029 news of one room, each time asked", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "one", "two")
		b.set(room, b.alice, typeTopic, "", `{"topic":"x"}`)
		for range 2 {
			got := b.since(b.bob, token)
			if _, ok := got.Rooms.Join[quiet]; ok {
				t.Error("a room without news is there")
			}
			r := got.join(t, room)
			wantText(t, "timeline", labels(r.Timeline.Events), "one, two, topic")
			wantText(t, "state", sortedLabels(r.State), "")
			if r.Timeline.Limited {
				t.Error("limited")
			}
		}
		next := b.since(b.bob, b.since(b.bob, token).NextBatch)
		if len(next.Rooms.Join) > 0 {
			t.Errorf("told twice: %s", next.raw)
		}
	})
	t.Run("05-019 gappy sync has the state that changed in the gap", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.set(room, b.alice, typeName, "", `{"name":"first"}`)
		b.set(room, b.alice, typeTopic, "", `{"topic":"gap"}`)
		b.says(room, b.alice, numbered("m", 10)...)
		b.set(room, b.alice, typeName, "", `{"name":"second"}`)
		r := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":3}}}`)}).join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "m9, m10, name")
		wantText(t, "state", sortedLabels(r.State), "name, topic")
		for _, e := range r.State.Events {
			if e.Type == typeName && e.Content["name"] != "first" {
				t.Errorf("name at the start is %v", e.Content)
			}
		}
		if !r.Timeline.Limited {
			t.Error("not limited")
		}
		r = b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":3}}}`), StateAfter: "x"}).join(t, room)
		wantText(t, "state", sortedLabels(r.StateAfter), "absent")
		b.t.Run("05-035", func(t *testing.T) {
			r := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":3}}}`), StateAfter: "state_after"}).join(t, room)
			wantText(t, "state after", sortedLabels(r.StateAfter), "name, topic")
			for _, e := range r.StateAfter.Events {
				if e.Type == typeName && e.Content["name"] != "second" {
					t.Errorf("name at the end is %v", e.Content)
				}
			}
		})
	})
	t.Run("05-035 state_after is there even if it is empty", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "plain")
		r := b.sync(SyncRequest{User: b.bob, Since: token, StateAfter: "state_after"}).join(t, room)
		if r.State != nil || sortedLabels(r.StateAfter) != "" {
			t.Errorf("state %v, state_after %s", r.State, sortedLabels(r.StateAfter))
		}
	})
	t.Run("05-003 full_state has all state of all rooms", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "newest")
		got := b.sync(SyncRequest{User: b.bob, Since: token, FullState: true, Timeout: time.Hour})
		r := got.join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "newest")
		if n := len(r.State.Events); n < 8 {
			t.Errorf("%d state events", n)
		}
		if r := got.join(t, quiet); len(r.Timeline.Events) != 0 || len(r.State.Events) < 7 {
			t.Errorf("quiet room: %d events, %d of state", len(r.Timeline.Events), len(r.State.Events))
		}
	})
	t.Run("05-030 limit 0 brings changes by the state", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.set(room, b.alice, typeTopic, "", `{"topic":"by state"}`)
		r := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":0}}}`)}).join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "")
		wantText(t, "state", sortedLabels(r.State), "topic")
	})
	t.Run("05-011 limited speaks of events that pass the filter", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "kept")
		for range 5 {
			b.set(room, b.alice, "org.example", "", `{"n":1}`)
		}
		b.set(room, b.alice, "org.example", "", `{"n":2}`)
		f := b.filter(`{"room":{"timeline":{"limit":2,"types":["m.room.message"]}}}`)
		r := b.sync(SyncRequest{User: b.bob, Since: token, Filter: f}).join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "kept")
		wantText(t, "state", sortedLabels(r.State), "org.example")
		if r.Timeline.Limited {
			t.Error("limited, though nothing that passes was cut off")
		}
	})
	t.Run("05-010 rooms and not_rooms decide first", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "a")
		b.says(quiet, b.alice, "b")
		got := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"not_rooms":["` + string(room) + `"]}}`)})
		if got.Rooms.Join[room] != nil || got.Rooms.Join[quiet] == nil {
			t.Errorf("rooms: %s", got.raw)
		}
	})
	t.Run("05-012 05-013 the form of events", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "form")
		r := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"event_fields":["content.body"]}`)}).join(t, room)
		if e := r.Timeline.Events[0]; e.Content["body"] != "form" || e.Sender != "" {
			t.Errorf("event_fields: %+v", e)
		}
		r = b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"event_format":"federation"}`)}).join(t, room)
		if e := r.Timeline.Events[0]; len(e.Auth) == 0 || e.ID == "" || e.Unsigned.Membership != "join" {
			t.Errorf("event_format: %+v", e)
		}
	})
	t.Run("04-006 the device that sent it sees the transaction id", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.say(room, b.bob, "mine", "txn-1")
		for device, want := range map[string]string{"D": "txn-1", "E": ""} {
			r := b.sync(SyncRequest{User: b.bob, Device: device, Since: token}).join(t, room)
			if got := r.Timeline.Events[0].Unsigned.TxnID; got != want {
				t.Errorf("device %s sees %q", device, got)
			}
		}
		r := b.sync(SyncRequest{User: b.alice, Device: "D", Since: token}).join(t, room)
		if got := r.Timeline.Events[0].Unsigned.TxnID; got != "" {
			t.Errorf("another user sees %q", got)
		}
	})
	t.Run("05-073 a redacted event of the timeline", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		id := b.say(room, b.alice, "secret", "r1")
		redaction, err := b.Rooms.Redact(context.Background(), RedactEvent{Room: room, Sender: b.alice, Event: id})
		b.do(err)
		got := b.since(b.bob, token)
		r := got.join(t, room)
		if bytes.Contains(got.raw, []byte("secret")) {
			t.Errorf("the text is still told: %s", got.raw)
		}
		wantText(t, "timeline", labels(r.Timeline.Events), "message, redaction")
		if by := r.Timeline.Events[0].Unsigned.RedactedBecause; by == nil || by.ID != redaction {
			t.Errorf("redacted_because %+v, want %s", by, redaction)
		}
	})
	t.Run("05-044 the summary comes when it changes", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "no change")
		if s := b.since(b.bob, token).join(t, room).Summary; s != nil && s.Joined != nil {
			t.Errorf("summary %+v without a change", s)
		}
		b.do(b.Rooms.Invite(context.Background(), b.change(room, b.alice, b.carol)))
		if s := b.since(b.bob, token).join(t, room).Summary; s == nil || s.Joined == nil || *s.Joined != 2 || *s.Invited != 1 {
			t.Errorf("summary after the invite: %+v", s)
		}
		b.joins(room, b.carol)
		if s := b.since(b.bob, token).join(t, room).Summary; s == nil || s.Joined == nil || *s.Joined != 3 || *s.Invited != 0 {
			t.Errorf("summary after the join: %+v", s)
		}
	})
}

func TestSyncMemberships(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)

	t.Run("05-021 05-022 a newly joined room comes whole", func(t *testing.T) {
		room := b.publicRoom()
		b.says(room, b.alice, numbered("m", 30)...)
		token := b.since(b.bob, "").NextBatch
		b.joins(room, b.bob)
		r := b.since(b.bob, token).join(t, room)
		if n := len(r.Timeline.Events); n != timelineDefault || !r.Timeline.Limited || len(r.State.Events) != 7 {
			t.Errorf("%d events, limited %v, %d of state", n, r.Timeline.Limited, len(r.State.Events))
		}
		r = b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":100}}}`)}).join(t, room)
		if r.Timeline.Limited || r.Timeline.Events[0].Type != spec.TypeCreate || len(r.State.Events) != 0 {
			t.Errorf("limited %v, first %s, state %s", r.Timeline.Limited, r.Timeline.Events[0].Type, sortedLabels(r.State))
		}
		if m := r.Timeline.Events[10].Unsigned.Membership; m != "leave" {
			t.Errorf("04-017 membership before the join is %q", m)
		}
	})
	t.Run("05-023 a profile change is one event", func(t *testing.T) {
		room := b.publicRoom()
		b.joins(room, b.bob)
		token := b.since(b.bob, "").NextBatch
		b.set(room, b.bob, spec.TypeMember, string(b.bob), `{"membership":"join","displayname":"B"}`)
		r := b.since(b.bob, token).join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "member @bob join")
		wantText(t, "state", sortedLabels(r.State), "")
	})
	t.Run("05-025 away and back between two syncs", func(t *testing.T) {
		room := b.publicRoom()
		b.joins(room, b.bob)
		token := b.since(b.bob, "").NextBatch
		b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
		b.set(room, b.alice, typeTopic, "", `{"topic":"away"}`)
		b.joins(room, b.bob)
		got := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":1}}}`)})
		r := got.join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "member @bob join")
		wantText(t, "state", sortedLabels(r.State),
			"create, guest_access, history_visibility, join_rules, member @alice join, member @bob leave, name, power_levels, topic")
		if len(got.Rooms.Leave) > 0 {
			t.Errorf("also left: %s", got.raw)
		}
	})
	t.Run("05-026 a rejected invite does not show after a join", func(t *testing.T) {
		room := b.publicRoom()
		token := b.since(b.bob, "").NextBatch
		b.do(b.Rooms.Invite(ctx, b.change(room, b.alice, b.bob)))
		b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
		left := b.since(b.bob, token)
		r := left.leave(t, room)
		wantText(t, "02-025 timeline", labels(r.Timeline.Events), "member @bob leave")
		wantText(t, "state", sortedLabels(r.State), "")
		b.joins(room, b.bob)
		for _, full := range []bool{false, true} {
			got := b.sync(SyncRequest{User: b.bob, Since: left.NextBatch, FullState: full})
			got.join(t, room)
			if len(got.Rooms.Leave) > 0 {
				t.Errorf("full_state %v: left rooms in %s", full, got.raw)
			}
		}
	})
	t.Run("05-047 05-048 02-022 02-023 an invite", func(t *testing.T) {
		room := b.create(CreateRoom{Creator: b.alice, Preset: "private_chat", Name: "Den"})
		token := b.since(b.bob, "").NextBatch
		b.do(b.Rooms.Invite(ctx, b.change(room, b.alice, b.bob)))
		got := b.since(b.bob, token)
		wantText(t, "stripped state", labels(got.Rooms.Invite[room].State.Events), "create, join_rules, name, member @bob invite")
		for _, e := range got.Rooms.Invite[room].State.Events {
			if e.Type != spec.TypeCreate && (e.ID != "" || e.TS != 0) {
				t.Errorf("not stripped: %+v", e)
			}
		}
		if again := b.since(b.bob, got.NextBatch); len(again.Rooms.Invite) != 0 {
			t.Errorf("repeated: %s", again.raw)
		}
		if first := b.since(b.bob, ""); len(first.Rooms.Invite) != 1 {
			t.Errorf("not in a first sync: %s", first.raw)
		}
		b.joins(room, b.bob)
		got = b.since(b.bob, got.NextBatch)
		if got.join(t, room); len(got.Rooms.Invite) != 0 {
			t.Errorf("still invited: %s", got.raw)
		}
	})
	t.Run("05-049 02-054 a knock", func(t *testing.T) {
		room := b.create(CreateRoom{Creator: b.alice, Preset: "public_chat", InitialState: []StateInput{
			{Type: spec.TypeJoinRules, Content: []byte(`{"join_rule":"knock"}`)},
		}})
		token := b.since(b.bob, "").NextBatch
		if _, err := b.Rooms.Send(ctx, SendEvent{Room: room, Sender: b.bob, Type: spec.TypeMember, StateKey: ptrTo(string(b.bob)), Content: []byte(`{"membership":"knock"}`)}); err != nil {
			t.Skip("knocks are not there yet:", err)
		}
		got := b.since(b.bob, token)
		wantText(t, "stripped state", labels(got.Rooms.Knock[room].State.Events), "create, join_rules, member @bob knock")
	})
	t.Run("05-050 05-051 05-053 a kick ends the room", func(t *testing.T) {
		room := b.publicRoom()
		b.joins(room, b.bob)
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, "before")
		b.do(b.Rooms.Kick(ctx, b.change(room, b.alice, b.bob)))
		b.says(room, b.alice, "after")
		b.set(room, b.alice, typeTopic, "", `{"topic":"after"}`)
		got := b.since(b.bob, token)
		r := got.leave(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "before, member @bob leave")
		wantText(t, "state", sortedLabels(r.State), "")
		if again := b.since(b.bob, got.NextBatch); len(again.Rooms.Leave) > 0 {
			t.Errorf("told twice: %s", again.raw)
		}
		if first := b.since(b.bob, ""); first.Rooms.Leave[room] != nil {
			t.Error("in a first sync without include_leave")
		}
		with := b.filter(`{"room":{"include_leave":true}}`)
		r = b.sync(SyncRequest{User: b.bob, Filter: with}).leave(t, room)
		if l := labels(r.Timeline.Events); !strings.HasSuffix(l, "before, member @bob leave") {
			t.Errorf("timeline %s", l)
		}
		none := b.filter(`{"room":{"include_leave":true,"timeline":{"limit":0}}}`)
		r = b.sync(SyncRequest{User: b.bob, Filter: none}).leave(t, room)
		wantText(t, "state at the leave", sortedLabels(r.State),
			"create, guest_access, history_visibility, join_rules, member @alice join, member @bob leave, name, power_levels")
		r = b.sync(SyncRequest{User: b.bob, Since: got.NextBatch, FullState: true, Filter: none}).leave(t, room)
		if len(r.State.Events) != 8 {
			t.Errorf("05-052 full_state has %s", sortedLabels(r.State))
		}
	})
	t.Run("05-055 in and out within one interval", func(t *testing.T) {
		room := b.publicRoom()
		token := b.since(b.bob, "").NextBatch
		b.joins(room, b.bob)
		b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
		r := b.sync(SyncRequest{User: b.bob, Since: token, Filter: b.filter(`{"room":{"timeline":{"limit":1}}}`)}).leave(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "member @bob leave")
		wantText(t, "state", sortedLabels(r.State),
			"create, guest_access, history_visibility, join_rules, member @alice join, member @bob join, name, power_levels")
	})
	t.Run("05-027 05-028 05-054 what happened out of sight", func(t *testing.T) {
		room := b.create(CreateRoom{Creator: b.alice, Preset: "public_chat", InitialState: []StateInput{
			{Type: spec.TypeHistoryVisibility, Content: []byte(`{"history_visibility":"joined"}`)},
		}})
		b.joins(room, b.bob)
		token := b.since(b.bob, "").NextBatch
		b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
		left := b.since(b.bob, token)
		wantText(t, "own leave", labels(left.leave(t, room).Timeline.Events), "member @bob leave")
		b.says(room, b.alice, "hidden")
		b.joins(room, b.carol)
		b.joins(room, b.bob)
		b.says(room, b.alice, "seen")
		r := b.since(b.bob, left.NextBatch).join(t, room)
		l := labels(r.Timeline.Events)
		if strings.Contains(l, "hidden") || !strings.HasSuffix(l, "member @carol join, member @bob join, seen") || !r.Timeline.Limited {
			t.Errorf("timeline %s, limited %v", l, r.Timeline.Limited)
		}
	})
}

func TestSyncHeroes(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.create(CreateRoom{Creator: b.alice, Preset: "public_chat"})
	heroes := func(user spec.UserID) string {
		t.Helper()
		s := b.since(user, "").join(t, room).Summary
		if s == nil || s.HeroesM == nil {
			return "absent"
		}
		return fmt.Sprint(s.HeroesM)
	}
	t.Run("05-045 the first others of a room without a name", func(t *testing.T) {
		wantText(t, "alone", heroes(b.alice), "[]")
		b.joins(room, b.bob)
		b.do(b.Rooms.Invite(ctx, b.change(room, b.alice, b.carol)))
		wantText(t, "with two others", heroes(b.alice), "[@bob:hs @carol:hs]")
		wantText(t, "for one of them", heroes(b.bob), "[@alice:hs @carol:hs]")
		b.do(b.Rooms.Kick(ctx, b.change(room, b.alice, b.bob)))
		b.do(b.Rooms.Kick(ctx, b.change(room, b.alice, b.carol)))
		wantText(t, "after they left", heroes(b.alice), "[@bob:hs @carol:hs]")
		b.set(room, b.alice, typeName, "", `{"name":"N"}`)
		wantText(t, "with a name", heroes(b.alice), "absent")
		b.set(room, b.alice, typeName, "", `{"name":""}`)
		wantText(t, "with an empty name", heroes(b.alice), "[@bob:hs @carol:hs]")
	})
}

func TestSyncLazyMembers(t *testing.T) {
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob, b.carol)
	b.says(room, b.alice, numbered("m", 25)...)
	lazy := b.filter(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":5}}}`)
	ask := func(since string) *synced {
		t.Helper()
		return b.sync(SyncRequest{User: b.bob, Device: "D", Since: since, Filter: lazy, FilterID: "lazy"})
	}
	const rest = "create, guest_access, history_visibility, join_rules, "
	first := ask("")
	t.Run("05-038 05-039 only senders and oneself", func(t *testing.T) {
		wantText(t, "state", sortedLabels(first.join(t, room).State), rest+"member @alice join, member @bob join, name, power_levels")
	})
	t.Run("05-041 05-043 a member is told once, and again when asked again", func(t *testing.T) {
		b.says(room, b.alice, "known")
		b.says(room, b.carol, "unknown")
		second := ask(first.NextBatch)
		wantText(t, "new sender", sortedLabels(second.join(t, room).State), "member @carol join")
		wantText(t, "asked again", sortedLabels(ask(first.NextBatch).join(t, room).State), "member @carol join")
		b.says(room, b.carol, "known")
		wantText(t, "known sender", sortedLabels(ask(second.NextBatch).join(t, room).State), "")
		redundant := b.filter(`{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`)
		r := b.sync(SyncRequest{User: b.bob, Device: "D", Since: second.NextBatch, Filter: redundant}).join(t, room)
		wantText(t, "redundant", sortedLabels(r.State), "member @carol join")
	})
	t.Run("05-037 state_after has the senders' members", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.carol, "x")
		r := b.sync(SyncRequest{User: b.bob, Device: "E", Since: token, Filter: lazy, StateAfter: "state_after"}).join(t, room)
		wantText(t, "state_after", sortedLabels(r.StateAfter), "member @carol join")
	})
	t.Run("05-040 05-042 members that changed in a gap are all there", func(t *testing.T) {
		token := ask("").NextBatch
		b.set(room, b.carol, spec.TypeMember, string(b.carol), `{"membership":"join","displayname":"C"}`)
		b.says(room, b.alice, numbered("g", 10)...)
		r := ask(token).join(t, room)
		wantText(t, "state", sortedLabels(r.State), "member @carol join")
		b.set(room, b.carol, spec.TypeMember, string(b.carol), `{"membership":"join","displayname":"CC"}`)
		l := labels(ask(token).join(t, room).Timeline.Events)
		if !strings.HasSuffix(l, "member @carol join") {
			t.Errorf("timeline %s", l)
		}
	})
	t.Run("05-046 heroes are there", func(t *testing.T) {
		room := b.create(CreateRoom{Creator: b.alice, Preset: "public_chat"})
		b.joins(room, b.carol, b.bob)
		b.says(room, b.alice, numbered("m", 6)...)
		r := ask("").join(t, room)
		if l := sortedLabels(r.State); !strings.Contains(l, "member @carol join") {
			t.Errorf("state %s", l)
		}
	})
}

func TestSyncIgnoredUsers(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob, b.carol)
	ignore := func(users string) {
		t.Helper()
		b.do(b.AccountData.Put(ctx, AccountDataKey{User: b.bob, Type: dataIgnored}, []byte(`{"ignored_users":`+users+`}`)))
	}
	t.Run("05-057 05-058 messages are left out, state is not", func(t *testing.T) {
		ignore(`{"@carol:hs":{}}`)
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.carol, "ignored")
		got := b.since(b.bob, token)
		if len(got.Rooms.Join) != 0 {
			t.Errorf("a room with nothing but ignored messages: %s", got.raw)
		}
		b.set(room, b.carol, spec.TypeMember, string(b.carol), `{"membership":"join","displayname":"C"}`)
		b.says(room, b.alice, "heard")
		r := b.since(b.bob, token).join(t, room)
		wantText(t, "timeline", labels(r.Timeline.Events), "member @carol join, heard")
	})
	t.Run("05-056 invites are left out", func(t *testing.T) {
		ignore(`{"@alice:hs":{}}`)
		other := b.create(CreateRoom{Creator: b.alice, Preset: "private_chat"})
		token := b.since(b.bob, "").NextBatch
		b.do(b.Rooms.Invite(ctx, b.change(other, b.alice, b.bob)))
		if got := b.since(b.bob, token); len(got.Rooms.Invite) > 0 {
			t.Errorf("incremental: %s", got.raw)
		}
		if got := b.since(b.bob, ""); len(got.Rooms.Invite) > 0 {
			t.Errorf("initial: %s", got.raw)
		}
	})
	t.Run("05-059 after un-ignoring later events flow", func(t *testing.T) {
		ignore(`{}`)
		token := b.since(b.bob, "").NextBatch
		b.says(room, b.carol, "again")
		wantText(t, "timeline", labels(b.since(b.bob, token).join(t, room).Timeline.Events), "again")
	})
}

func TestSyncAccountData(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.publicRoom()
	put := func(r spec.RoomID, kind, content string) {
		t.Helper()
		b.do(b.AccountData.Put(ctx, AccountDataKey{User: b.alice, Room: r, Type: kind}, []byte(content)))
	}
	put("", "org.a", `{"n":1}`)
	put("", "org.b", `{"n":1}`)
	t.Run("05-060 all at first, then what changed, newest only", func(t *testing.T) {
		got := b.since(b.alice, "")
		wantText(t, "first", labels(got.AccountData.Events), "org.a, org.b")
		put("", "org.a", `{"n":2}`)
		put("", "org.a", `{"n":3}`)
		next := b.since(b.alice, got.NextBatch)
		wantText(t, "next", labels(next.AccountData.Events), "org.a")
		if next.AccountData.Events[0].Content["n"] != 3.0 {
			t.Errorf("content %v", next.AccountData.Events[0].Content)
		}
		if last := b.since(b.alice, next.NextBatch); len(last.AccountData.Events) > 0 {
			t.Errorf("told twice: %s", last.raw)
		}
	})
	t.Run("05-061 05-062 a room shows for its account data alone", func(t *testing.T) {
		token := b.since(b.alice, "").NextBatch
		put(room, "m.tag", `{"tags":{"u.x":{"order":0.5}}}`)
		r := b.since(b.alice, token).join(t, room)
		wantText(t, "account data", sortedLabels(r.AccountData), "m.tag")
		if len(r.Timeline.Events) != 0 || r.Timeline.PrevBatch == "" {
			t.Errorf("timeline %+v", r.Timeline)
		}
	})
	t.Run("05-014 a filter switches it off", func(t *testing.T) {
		got := b.sync(SyncRequest{User: b.alice, Filter: b.filter(`{"account_data":{"not_types":["*"]},"room":{"account_data":{"types":[]}}}`)})
		if len(got.AccountData.Events) > 0 || len(got.join(t, room).AccountData.Events) > 0 {
			t.Errorf("account data in %s", got.raw)
		}
	})
}

// whenWaiting returns once n connections of a user wait for news.
func (s *Sync) whenWaiting(user spec.UserID, n int) {
	for {
		s.mu.Lock()
		if u := s.users[user]; u != nil && len(u.waiters) >= n {
			s.mu.Unlock()
			return
		}
		if s.waitsChanged == nil {
			s.waitsChanged = make(chan struct{})
		}
		changed := s.waitsChanged
		s.mu.Unlock()
		<-changed
	}
}

func TestSyncForgetsUsers(t *testing.T) {
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob)
	token := b.since(b.bob, "").NextBatch
	drop := func() {
		b.Sync.mu.Lock()
		defer b.Sync.mu.Unlock()
		for _, u := range b.Sync.users {
			b.Sync.dropUserLocked(u)
		}
		if b.Sync.userRooms != 0 {
			t.Errorf("%d memberships are left", b.Sync.userRooms)
		}
	}
	t.Run("one who was forgotten goes on", func(t *testing.T) {
		b.says(room, b.alice, "one")
		drop()
		wantText(t, "timeline", labels(b.since(b.bob, token).join(t, room).Timeline.Events), "one")
	})
	t.Run("one who waits goes on waiting", func(t *testing.T) {
		token := b.since(b.bob, "").NextBatch
		got := make(chan *SyncAnswer, 1)
		go func() {
			answer, err := b.Sync.Sync(context.Background(), SyncRequest{User: b.bob, Since: token, Timeout: time.Hour})
			if err != nil {
				t.Error(err)
			}
			got <- answer
		}()
		b.Sync.whenWaiting(b.bob, 1)
		drop()
		b.Sync.whenWaiting(b.bob, 1)
		b.says(room, b.alice, "two")
		wantText(t, "timeline", labels(b.read(<-got).join(t, room).Timeline.Events), "two")
	})
}

// ptrTo returns a pointer to a copy of v.
func ptrTo[T any](v T) *T { return &v }

func TestSyncWaits(t *testing.T) {
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob)
	type result struct {
		answer *SyncAnswer
		err    error
	}
	start := func(ctx context.Context, req SyncRequest) chan result {
		ch := make(chan result, 1)
		go func() {
			answer, err := b.Sync.Sync(ctx, req)
			ch <- result{answer, err}
		}()
		return ch
	}
	finish := func(ch chan result) *synced {
		t.Helper()
		r := <-ch
		if r.err != nil {
			t.Fatal(r.err)
		}
		return b.read(r.answer)
	}
	t.Run("05-002 each kind of news ends the wait", func(t *testing.T) {
		other := b.create(CreateRoom{Creator: b.alice, Preset: "private_chat"})
		for what, news := range map[string]func(){
			"a message": func() { b.says(room, b.alice, "wake") },
			"account data": func() {
				b.do(b.AccountData.Put(context.Background(), AccountDataKey{User: b.bob, Type: "org.x"}, []byte(`{}`)))
			},
			"an invite": func() { b.do(b.Rooms.Invite(context.Background(), b.change(other, b.alice, b.bob))) },
		} {
			ch := start(context.Background(), SyncRequest{User: b.bob, Since: b.since(b.bob, "").NextBatch, Timeout: time.Hour})
			b.Sync.whenWaiting(b.bob, 1)
			news()
			if got := finish(ch); len(got.Rooms.Join)+len(got.AccountData.Events)+len(got.Rooms.Invite) != 1 {
				t.Errorf("%s gave %s", what, got.raw)
			}
		}
	})
	t.Run("only those whom it concerns are woken", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		ch := start(ctx, SyncRequest{User: b.carol, Since: b.since(b.carol, "").NextBatch, Timeout: time.Hour})
		b.Sync.whenWaiting(b.carol, 1)
		before := b.Sync.wakes.Load()
		b.says(room, b.alice, "not for carol")
		b.do(b.Sync.Reach(context.Background(), b.o.DB.Head()))
		if n := b.Sync.wakes.Load() - before; n != 0 {
			t.Errorf("%d connections were woken", n)
		}
		cancel()
		if r := <-ch; !errors.Is(r.err, context.Canceled) {
			t.Errorf("after the client went away: %v", r.err)
		}
	})
	t.Run("05-002 the time-out ends it with nothing", func(t *testing.T) {
		got := finish(start(context.Background(), SyncRequest{User: b.bob, Since: b.since(b.bob, "").NextBatch, Timeout: time.Millisecond}))
		if len(got.Rooms.Join) != 0 || got.NextBatch == "" {
			t.Errorf("%s", got.raw)
		}
	})
}

func TestSyncAfterRestart(t *testing.T) {
	// Tokens stay good, and what memory lacks is read.
	b := &syncBed{roomsBed: newRoomsBed(t, "alice", "bob", "carol")}
	b.alice, b.bob, b.carol = "@alice:hs", "@bob:hs", "@carol:hs"
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	room, quiet := b.publicRoom(), b.publicRoom()
	b.joins(room, b.bob)
	b.joins(quiet, b.bob)
	token := b.since(b.bob, "").NextBatch
	b.says(room, b.alice, numbered("m", 3)...)
	later := b.publicRoom()
	b.joins(later, b.bob)
	cancel()
	b.do(<-done)
	b.restart()
	runServer(t, b.Server)
	got := b.since(b.bob, token)
	wantText(t, "timeline", labels(got.join(t, room).Timeline.Events), "m1, m2, m3")
	if got.Rooms.Join[quiet] != nil {
		t.Errorf("a room without news: %s", got.raw)
	}
	if r := got.join(t, later); r.Timeline.Events[0].Type != spec.TypeCreate {
		t.Errorf("newly joined room begins with %s", r.Timeline.Events[0].Type)
	}
}
