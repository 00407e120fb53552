package server

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"atoll/spec"
)

func (b *syncBed) events(list []ClientEvent) []clientEvent {
	b.t.Helper()
	out := make([]clientEvent, len(list))
	for i, raw := range list {
		b.do(json.Unmarshal(raw, &out[i]))
		if out[i].Room == "" || out[i].ID == "" {
			b.t.Errorf("no full event: %s", raw)
		}
	}
	return out
}

func (b *syncBed) page(req Messages) *MessagesPage {
	b.t.Helper()
	page, err := b.Rooms.Messages(context.Background(), req)
	b.do(err)
	return page
}

// pages reads page after page until there is no more.
func (b *syncBed) pages(req Messages) []clientEvent {
	b.t.Helper()
	var out []clientEvent
	for n := 0; ; n++ {
		page := b.page(req)
		out = append(out, b.events(page.Chunk)...)
		if page.End == "" {
			return out
		}
		if req.From != "" && page.Start != req.From || n > 100 {
			b.t.Fatalf("page %d from %q starts at %q", n, req.From, page.Start)
		}
		req.From = page.End
	}
}

func (b *syncBed) roomFilter(text string) *RoomEventFilter {
	b.t.Helper()
	f, err := ParseRoomEventFilter([]byte(text))
	b.do(err)
	return f
}

func TestRoomState(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob)
	read := func(room spec.RoomID, user spec.UserID, kind string) (string, error) {
		got, err := b.Rooms.StateEvent(ctx, ReadState{Room: room, User: user, Key: spec.StateKey{Type: kind}})
		return string(got.Content), err
	}
	t.Run("03-001 content and event", func(t *testing.T) {
		got, err := b.Rooms.StateEvent(ctx, ReadState{Room: room, User: b.alice, Key: spec.StateKey{Type: typeName}})
		b.do(err)
		wantText(t, "content", string(got.Content), `{"name":"Lagoon"}`)
		if e := b.events([]ClientEvent{got.Event})[0]; e.Type != typeName || e.StateKey == nil || e.Sender != b.alice || e.TS == 0 {
			t.Errorf("event %s", got.Event)
		}
	})
	t.Run("03-003 nothing there, or no right to see it", func(t *testing.T) {
		_, err := read(room, b.alice, typeTopic)
		wantCode(t, "no topic", err, spec.CodeNotFound)
		_, err = read(room, b.carol, typeName)
		wantCode(t, "a stranger", err, spec.CodeForbidden)
		_, err = read("!nowhere:hs", b.carol, typeName)
		wantCode(t, "no room", err, spec.CodeForbidden)
	})
	t.Run("03-004 each key once", func(t *testing.T) {
		list, err := b.Rooms.RoomState(ctx, ReadRoom{Room: room, User: b.alice})
		b.do(err)
		wantText(t, "state", labels(b.events(list)),
			"create, member @alice join, power_levels, join_rules, history_visibility, guest_access, name, member @bob join")
	})
	t.Run("03-003 one who left sees the state of then", func(t *testing.T) {
		b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
		b.set(room, b.alice, typeName, "", `{"name":"Later"}`)
		got, err := read(room, b.bob, typeName)
		b.do(err)
		wantText(t, "name", got, `{"name":"Lagoon"}`)
		list, err := b.Rooms.Members(ctx, MembersQuery{Room: room, User: b.bob})
		b.do(err)
		wantText(t, "members", labels(b.events(list)), "member @alice join, member @bob leave")
	})
	t.Run("02-024 the invited see nothing", func(t *testing.T) {
		b.do(b.Rooms.Invite(ctx, b.change(room, b.alice, b.carol)))
		_, err := read(room, b.carol, typeName)
		wantCode(t, "state", err, spec.CodeForbidden)
		_, err = b.Rooms.Messages(ctx, Messages{Room: room, User: b.carol, Back: true})
		wantCode(t, "messages", err, spec.CodeForbidden)
		_, err = b.Rooms.Members(ctx, MembersQuery{Room: room, User: b.carol})
		wantCode(t, "members", err, spec.CodeForbidden)
	})
	t.Run("03-005 04-015 a world-readable room is read by all", func(t *testing.T) {
		b.set(room, b.alice, spec.TypeHistoryVisibility, "", `{"history_visibility":"world_readable"}`)
		id := b.say(room, b.alice, "to all", "")
		got, err := read(room, b.carol, typeName)
		b.do(err)
		wantText(t, "name", got, `{"name":"Later"}`)
		_, err = b.Rooms.Event(ctx, ReadEvent{Room: room, User: b.carol, Event: id})
		b.do(err)
		page := b.page(Messages{Room: room, User: b.carol, Back: true})
		wantText(t, "messages", labels(b.events(page.Chunk)), "to all, history_visibility")
	})
}

func TestMembers(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob)
	token := b.since(b.alice, "").NextBatch
	b.joins(room, b.carol)
	b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
	for _, c := range []struct {
		query MembersQuery
		want  string
	}{
		{MembersQuery{}, "member @alice join, member @carol join, member @bob leave"},
		{MembersQuery{Membership: "join"}, "member @alice join, member @carol join"},
		{MembersQuery{NotMembership: "join"}, "member @bob leave"},
		{MembersQuery{At: token}, "member @alice join, member @bob join"},
	} {
		c.query.Room, c.query.User = room, b.alice
		list, err := b.Rooms.Members(ctx, c.query)
		b.do(err)
		wantText(t, fmt.Sprintf("%+v", c.query), labels(b.events(list)), c.want)
	}
	prev := b.sync(SyncRequest{User: b.alice, Filter: b.filter(`{"room":{"timeline":{"limit":1}}}`)}).join(t, room).Timeline.PrevBatch
	list, err := b.Rooms.Members(ctx, MembersQuery{Room: room, User: b.alice, At: prev})
	b.do(err)
	wantText(t, "before the last event", labels(b.events(list)), "member @alice join, member @bob join, member @carol join")

	b.set(room, b.carol, spec.TypeMember, string(b.carol), `{"membership":"join","displayname":"C","avatar_url":7}`)
	joined, err := b.Rooms.JoinedMembers(ctx, ReadRoom{Room: room, User: b.alice})
	b.do(err)
	if len(joined) != 2 || joined[b.carol].DisplayName == nil || *joined[b.carol].DisplayName != "C" || joined[b.carol].AvatarURL != nil {
		t.Errorf("joined members %+v", joined)
	}
	_, err = b.Rooms.JoinedMembers(ctx, ReadRoom{Room: room, User: b.bob})
	wantCode(t, "one who left", err, spec.CodeForbidden)
	t.Run("02-040 joined rooms", func(t *testing.T) {
		for user, want := range map[spec.UserID]int{b.alice: 1, b.bob: 0} {
			rooms, err := b.Rooms.JoinedRooms(ctx, user)
			b.do(err)
			if len(rooms) != want || want == 1 && rooms[0] != room {
				t.Errorf("%s is in %v", user, rooms)
			}
		}
	})
}

func TestEvent(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room, other := b.publicRoom(), b.publicRoom()
	id := b.say(room, b.alice, "hello", "txn")
	get := func(room spec.RoomID, user spec.UserID, device string, id spec.EventID) (clientEvent, error) {
		raw, err := b.Rooms.Event(ctx, ReadEvent{Room: room, User: user, Device: device, Event: id})
		if err != nil {
			return clientEvent{}, err
		}
		return b.events([]ClientEvent{raw})[0], nil
	}
	t.Run("04-014 04-006 the event", func(t *testing.T) {
		e, err := get(room, b.alice, "D", id)
		b.do(err)
		if e.ID != id || e.Room != room || e.Content["body"] != "hello" || e.TS == 0 || e.Unsigned.TxnID != "txn" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("04-014 04-016 M_NOT_FOUND for all else", func(t *testing.T) {
		_, err := get(other, b.alice, "D", id)
		wantCode(t, "another room", err, spec.CodeNotFound)
		_, err = get(room, b.bob, "D", id)
		wantCode(t, "a stranger", err, spec.CodeNotFound)
		_, err = get(room, b.alice, "D", "$none")
		wantCode(t, "no event", err, spec.CodeNotFound)
		_, err = get("!nowhere:hs", b.alice, "D", id)
		wantCode(t, "no room", err, spec.CodeNotFound)
	})
	t.Run("04-017 the reader's membership at the event", func(t *testing.T) {
		b.joins(room, b.bob)
		e, err := get(room, b.bob, "", id)
		b.do(err)
		wantText(t, "before the join", e.Unsigned.Membership, "leave")
		after := b.say(room, b.alice, "after", "")
		e, err = get(room, b.bob, "", after)
		b.do(err)
		wantText(t, "after the join", e.Unsigned.Membership, "join")
	})
	t.Run("04-048 a redacted event", func(t *testing.T) {
		redaction, err := b.Rooms.Redact(ctx, RedactEvent{Room: room, Sender: b.alice, Event: id, Reason: "why"})
		b.do(err)
		e, err := get(room, b.bob, "", id)
		b.do(err)
		if len(e.Content) != 0 || e.Unsigned.RedactedBecause == nil || e.Unsigned.RedactedBecause.ID != redaction {
			t.Errorf("%+v", e)
		}
	})
}

func TestMessages(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob)
	b.says(room, b.alice, numbered("m", 30)...)
	const begin = "create, member @alice join, power_levels, join_rules, history_visibility, guest_access, name, member @bob join, "
	all := begin + strings.Join(numbered("m", 30), ", ")
	reversed := func(list []clientEvent) string {
		list = slices.Clone(list)
		slices.Reverse(list)
		return labels(list)
	}
	t.Run("04-024 04-025 04-026 04-029 back to the creation", func(t *testing.T) {
		for _, limit := range []int{0, 1, 7, 37, 38, 39, 1000} {
			wantText(t, fmt.Sprint("limit ", limit), reversed(b.pages(Messages{Room: room, User: b.bob, Back: true, Limit: limit})), all)
		}
		first := b.page(Messages{Room: room, User: b.bob, Back: true})
		if len(first.Chunk) != 10 || first.Start == "" || first.End == "" {
			t.Errorf("a first page of %d events from %q to %q", len(first.Chunk), first.Start, first.End)
		}
	})
	t.Run("04-027 forward gives the reverse order", func(t *testing.T) {
		for _, limit := range []int{0, 7, 38} {
			wantText(t, fmt.Sprint("limit ", limit), labels(b.pages(Messages{Room: room, User: b.bob, Limit: limit})), all)
		}
	})
	t.Run("05-020 04-028 exactly what a gappy sync left out", func(t *testing.T) {
		since := b.since(b.bob, "").NextBatch
		b.says(room, b.alice, numbered("g", 15)...)
		got := b.sync(SyncRequest{User: b.bob, Since: since, Filter: b.filter(`{"room":{"timeline":{"limit":5}}}`)})
		prev := got.join(t, room).Timeline.PrevBatch
		missing := b.pages(Messages{Room: room, User: b.bob, Back: true, From: prev, To: since, Limit: 4})
		wantText(t, "the gap", reversed(missing), strings.Join(numbered("g", 10), ", "))
		missing = b.pages(Messages{Room: room, User: b.bob, From: since, To: prev, Limit: 4})
		wantText(t, "the gap forward", labels(missing), strings.Join(numbered("g", 10), ", "))
		b.says(room, b.alice, "newer")
		wantText(t, "from next_batch", labels(b.pages(Messages{Room: room, User: b.bob, From: got.NextBatch})), "newer")
	})
	t.Run("04-032 04-033 filters", func(t *testing.T) {
		f := b.roomFilter(`{"types":["m.room.na*","m.room.topic"]}`)
		wantText(t, "types", labels(b.pages(Messages{Room: room, User: b.bob, Filter: f})), "name")
		f = b.roomFilter(`{"senders":["@bob:hs"],"not_senders":["@bob:hs"]}`)
		wantText(t, "both lists", labels(b.pages(Messages{Room: room, User: b.bob, Filter: f})), "")
	})
	t.Run("04-035 lazily loaded members", func(t *testing.T) {
		b.says(room, b.bob, "by bob")
		f := b.roomFilter(`{"lazy_load_members":true}`)
		page := b.page(Messages{Room: room, User: b.bob, Back: true, Limit: 1, Filter: f})
		wantText(t, "state", labels(b.events(page.State)), "member @bob join")
		page = b.page(Messages{Room: room, User: b.bob, Back: true, Limit: 3, Filter: f})
		wantText(t, "state", labels(b.events(page.State)), "member @bob join, member @alice join")
	})
	t.Run("04-036 ignored users", func(t *testing.T) {
		b.do(b.AccountData.Put(ctx, AccountDataKey{User: b.bob, Type: dataIgnored}, []byte(`{"ignored_users":{"@alice:hs":{}}}`)))
		got := labels(b.pages(Messages{Room: room, User: b.bob}))
		wantText(t, "all", got, begin+"by bob")
	})
	t.Run("04-030 04-031 what is refused", func(t *testing.T) {
		_, err := b.Rooms.Messages(ctx, Messages{Room: room, User: b.carol, Back: true})
		wantCode(t, "a stranger", err, spec.CodeForbidden)
		_, err = b.Rooms.Messages(ctx, Messages{Room: "!nowhere:hs", User: b.alice, Back: true})
		wantCode(t, "no room", err, spec.CodeForbidden)
		_, err = b.Rooms.Messages(ctx, Messages{Room: room, User: b.alice, From: "foreign"})
		wantCode(t, "a foreign token", err, spec.CodeInvalidParam)
	})
}

func TestHistoryVisibility(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	read := func(room spec.RoomID, user spec.UserID) string {
		t.Helper()
		var bodies []string
		for _, e := range b.pages(Messages{Room: room, User: user}) {
			if body, ok := e.Content["body"].(string); ok {
				bodies = append(bodies, body)
			}
		}
		return strings.Join(bodies, " ")
	}
	for visibility, want := range map[string]string{
		"shared": "one two three", "world_readable": "one two three", "invited": "two three", "joined": "three", "nonsense": "one two three",
	} {
		t.Run("04-040 04-041 "+visibility, func(t *testing.T) {
			room := b.create(CreateRoom{Creator: b.alice, Preset: "private_chat", InitialState: []StateInput{
				{Type: spec.TypeHistoryVisibility, Content: []byte(`{"history_visibility":"` + visibility + `"}`)},
			}})
			b.says(room, b.alice, "one")
			b.do(b.Rooms.Invite(ctx, b.change(room, b.alice, b.bob)))
			b.says(room, b.alice, "two")
			b.joins(room, b.bob)
			b.says(room, b.alice, "three")
			wantText(t, "joined", read(room, b.bob), want)
			b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
			b.says(room, b.alice, "four")
			after := want
			if visibility == "world_readable" {
				after += " four"
			}
			wantText(t, "04-044 left", read(room, b.bob), after)
		})
	}
	t.Run("04-042 04-043 opening it later does not open what was hidden", func(t *testing.T) {
		room := b.create(CreateRoom{Creator: b.alice, Preset: "public_chat", InitialState: []StateInput{
			{Type: spec.TypeHistoryVisibility, Content: []byte(`{"history_visibility":"joined"}`)},
		}})
		b.says(room, b.alice, "hidden")
		b.set(room, b.alice, spec.TypeHistoryVisibility, "", `{"history_visibility":"shared"}`)
		b.says(room, b.alice, "open")
		b.joins(room, b.bob)
		wantText(t, "bodies", read(room, b.bob), "open")
		got := labels(b.pages(Messages{Room: room, User: b.bob}))
		wantText(t, "events", got, "create, member @alice join, power_levels, join_rules, guest_access, history_visibility, history_visibility, open, member @bob join")
	})
	t.Run("04-044 away for a while", func(t *testing.T) {
		room := b.create(CreateRoom{Creator: b.alice, Preset: "public_chat", InitialState: []StateInput{
			{Type: spec.TypeHistoryVisibility, Content: []byte(`{"history_visibility":"joined"}`)},
		}})
		b.joins(room, b.bob)
		b.says(room, b.alice, "here")
		b.do(b.Rooms.Leave(ctx, b.change(room, b.bob, b.bob)))
		b.says(room, b.alice, "away")
		b.joins(room, b.bob)
		b.says(room, b.alice, "back")
		wantText(t, "bodies", read(room, b.bob), "here back")
	})
}

func TestContext(t *testing.T) {
	ctx := context.Background()
	b := newSyncBed(t)
	room := b.publicRoom()
	b.joins(room, b.bob)
	b.says(room, b.alice, numbered("a", 5)...)
	id := b.say(room, b.bob, "middle", "")
	b.says(room, b.alice, numbered("z", 5)...)
	get := func(req ReadContext) *EventContext {
		t.Helper()
		req.Room, req.Event = room, id
		if req.User == "" {
			req.User = b.bob
		}
		got, err := b.Rooms.Context(ctx, req)
		b.do(err)
		return got
	}
	t.Run("04-018 04-019 what is around", func(t *testing.T) {
		got := get(ReadContext{Limit: 5})
		wantText(t, "event", labels(b.events([]ClientEvent{got.Event})), "middle")
		wantText(t, "before", labels(b.events(got.Before)), "a5, a4")
		wantText(t, "after", labels(b.events(got.After)), "z1, z2, z3")
		if len(got.State) != 8 {
			t.Errorf("%d state events", len(got.State))
		}
		got = get(ReadContext{})
		if len(got.Before)+len(got.After) != 0 {
			t.Error("limit 0 has neighbours")
		}
	})
	t.Run("04-021 the tokens go on next to it", func(t *testing.T) {
		got := get(ReadContext{Limit: 4})
		back := b.page(Messages{Room: room, User: b.bob, Back: true, From: got.Start, Limit: 2})
		wantText(t, "back", labels(b.events(back.Chunk)), "a3, a2")
		on := b.page(Messages{Room: room, User: b.bob, From: got.End, Limit: 2})
		wantText(t, "on", labels(b.events(on.Chunk)), "z3, z4")
	})
	t.Run("04-020 filters act on all but the event", func(t *testing.T) {
		got := get(ReadContext{Limit: 4, Filter: b.roomFilter(`{"types":["m.room.member"],"lazy_load_members":true}`)})
		wantText(t, "event", labels(b.events([]ClientEvent{got.Event})), "middle")
		wantText(t, "before", labels(b.events(got.Before)), "member @bob join, member @alice join")
		wantText(t, "state", labels(b.events(got.State)), "member @alice join, member @bob join")
	})
	t.Run("04-022 a stranger sees nothing", func(t *testing.T) {
		_, err := b.Rooms.Context(ctx, ReadContext{Room: room, User: b.carol, Event: id, Limit: 2})
		wantCode(t, "context", err, spec.CodeNotFound)
	})
}
