package clientapi_test

import (
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"

	"atoll/clientapi/clienttest"
)

// limited is a filter for timelines of n events.
func limited(n int) string {
	return clienttest.Filter(obj{"room": obj{"timeline": obj{"limit": n}}})
}

func joinedRoom(r clienttest.Reply, room string, path ...any) []clienttest.Event {
	return r.Events(append([]any{"rooms", "join", room}, path...)...)
}

func TestSyncRequests(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(nil)
	t.Run("05-001 05-015 an initial sync", func(t *testing.T) {
		r := alice.Sync("timeout", "600000")
		if r.NextBatch() == "" {
			t.Error(r.Raw)
		}
		for _, path := range [][]any{{"timeline", "events"}, {"timeline", "prev_batch"}, {"state", "events"}, {"ephemeral", "events"}, {"account_data", "events"}, {"summary"}, {"unread_notifications"}} {
			if r.At(append([]any{"rooms", "join", room}, path...)...) == nil {
				t.Errorf("no %v in %s", path, r.Raw)
			}
		}
		for _, e := range r.Timeline(room) {
			if e.At("room_id") != nil || e.ID() == "" {
				t.Error(e)
			}
		}
	})
	t.Run("05-002 05-017 no news", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		r := alice.Sync("since", since)
		if r.At("rooms", "join", room) != nil {
			t.Error(r.Raw)
		}
		alice.Sync("since", since, "timeout", "1")
	})
	t.Run("05-002 a waiting sync is woken", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		wake := map[string]func(){
			"message":      func() { alice.Say(room, "wake up") },
			"invite":       func() { bob.Room(obj{"invite": []string{alice.User}}) },
			"account data": func() { alice.Put("/user/"+clienttest.Esc(alice.User)+"/account_data/x", obj{}).OK() },
			"room account data": func() {
				alice.Put("/user/"+clienttest.Esc(alice.User)+"/rooms/"+clienttest.Esc(room)+"/account_data/x", obj{}).OK()
			},
		}
		for name, act := range wake {
			answers := make(chan clienttest.Reply, 1)
			go func() {
				r, err := alice.Try("GET", "/sync?timeout=60000&since="+url.QueryEscape(since), nil)
				if err != nil {
					t.Error(err)
				}
				answers <- r
			}()
			act()
			r := <-answers
			if r.NextBatch() == "" || r.NextBatch() == since {
				t.Errorf("%s: %s", name, r.Raw)
			}
			since = r.NextBatch()
		}
	})
	t.Run("05-003 full_state", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		r := alice.Sync("since", since, "full_state", "true", "timeout", "600000")
		if clienttest.Find(joinedRoom(r, room, "state", "events"), "m.room.create", "") == nil || len(r.Timeline(room)) != 0 {
			t.Error(r.Raw)
		}
	})
	t.Run("05-004 filters", func(t *testing.T) {
		alice.TrySync("filter", "{").Is(400, "M_NOT_JSON|M_BAD_JSON")
		alice.TrySync("filter", `{"room":5}`).Is(400, "M_BAD_JSON")
		alice.TrySync("filter", "unknown").IsOneOf("400 M_INVALID_PARAM", "404 M_NOT_FOUND", "400 M_UNKNOWN")
		id := alice.Post("/user/"+clienttest.Esc(alice.User)+"/filter", obj{"room": obj{"timeline": obj{"limit": 1}}}).OK().Str("filter_id")
		if n := len(alice.Sync("filter", id).Timeline(room)); n != 1 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("05-005 20-017 parameters", func(t *testing.T) {
		for _, bad := range []string{"nonsense", "s", "-1", "$x", "é"} {
			alice.TrySync("since", bad).Is(400, "M_INVALID_PARAM|M_UNKNOWN")
		}
		since := alice.Sync().NextBatch()
		for _, bad := range []string{"x", "-1", "1.5"} {
			alice.TrySync("since", since, "timeout", bad).Is(400, "M_INVALID_PARAM")
		}
		alice.TrySync("full_state", "maybe").Is(400, "M_INVALID_PARAM")
		alice.TrySync("set_presence", "dancing").Is(400, "M_INVALID_PARAM")
		for _, fine := range []string{"online", "offline", "unavailable"} {
			alice.TrySync("set_presence", fine).Is(200, "")
		}
		hs.Anonymous().TrySync().Is(401, "M_MISSING_TOKEN")
	})
	t.Run("05-006 05-007 the same since twice, and at once", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		id := alice.Say(room, "again")
		phone := hs.Anonymous().Login("alice", clienttest.Password, "")
		var group sync.WaitGroup
		for range 3 {
			for _, c := range []*clienttest.Client{alice, phone} {
				group.Go(func() {
					r, _ := c.Try("GET", "/sync?since="+url.QueryEscape(since), nil)
					if ids := clienttest.IDs(r.Timeline(room)); !slices.Equal(ids, []string{id}) {
						t.Error(ids)
					}
				})
			}
		}
		group.Wait()
	})
	t.Run("20-027 a long poll that is broken off loses nothing", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		alice.Abort("/sync?timeout=60000&since=" + url.QueryEscape(since))
		id := alice.Say(room, "after the break")
		if ids := clienttest.IDs(alice.Sync("since", since).Timeline(room)); !slices.Equal(ids, []string{id}) {
			t.Error(ids)
		}
	})
}

func TestSyncFilters(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room, other := alice.Room(obj{"preset": "public_chat", "name": "R"}), alice.Room(nil)
	bob.Join(room)
	alice.Say(room, "one")
	bob.Send(room, "org.custom", obj{"body": "two", "more": "x"})
	ask := func(filter obj) clienttest.Reply { return alice.Sync("filter", clienttest.Filter(filter)) }
	t.Run("05-010 limits, types, rooms", func(t *testing.T) {
		r := ask(obj{"room": obj{"timeline": obj{"limit": 2}}})
		if n := len(r.Timeline(room)); n != 2 || r.At("rooms", "join", room, "timeline", "limited") != true {
			t.Error(n, r.At("rooms", "join", room, "timeline", "limited"))
		}
		r = ask(obj{"room": obj{"timeline": obj{"types": []string{"org.*"}}}})
		if got := types(r.Timeline(room)); !slices.Equal(got, []string{"org.custom"}) {
			t.Error(got)
		}
		r = ask(obj{"room": obj{"timeline": obj{"not_types": []string{"m.room.*"}}}})
		if got := types(r.Timeline(room)); !slices.Equal(got, []string{"org.custom"}) {
			t.Error(got)
		}
		r = ask(obj{"room": obj{"rooms": []string{room}}})
		if r.At("rooms", "join", room) == nil || r.At("rooms", "join", other) != nil {
			t.Error("rooms", r.Raw)
		}
		r = ask(obj{"room": obj{"not_rooms": []string{room}}})
		if r.At("rooms", "join", room) != nil || r.At("rooms", "join", other) == nil {
			t.Error("not_rooms", r.Raw)
		}
	})
	t.Run("05-011 each section has its filter, limited is about the limit", func(t *testing.T) {
		r := ask(obj{"room": obj{"timeline": obj{"types": []string{"m.room.message"}, "limit": 5}}})
		if got := bodies(r.Timeline(room)); !slices.Equal(got, []string{"one"}) || r.At("rooms", "join", room, "timeline", "limited") == true {
			t.Error(got, r.At("rooms", "join", room, "timeline", "limited"))
		}
		if clienttest.Find(joinedRoom(r, room, "state", "events"), "m.room.create", "") == nil {
			t.Error("the timeline's filter took the state away")
		}
		r = ask(obj{"room": obj{"state": obj{"types": []string{}}, "timeline": obj{"limit": 1}}})
		if len(joinedRoom(r, room, "state", "events")) != 0 {
			t.Error(r.Raw)
		}
	})
	t.Run("05-012 event_fields", func(t *testing.T) {
		r := ask(obj{"event_fields": []string{"content.body", "type"}, "room": obj{"timeline": obj{"types": []string{"org.custom"}}}})
		if e := r.Timeline(room); len(e) != 1 || e[0].Body() != "two" || e[0].At("content", "more") != nil {
			t.Error(e)
		}
	})
	t.Run("05-013 event_format federation", func(t *testing.T) {
		r := ask(obj{"event_format": "federation", "room": obj{"timeline": obj{"limit": 1}}})
		e := r.Timeline(room)
		if len(e) != 1 {
			t.Fatal(r.Raw)
		}
		for _, key := range []string{"auth_events", "prev_events", "depth", "hashes", "signatures", "content", "sender"} {
			if e[0].At(key) == nil {
				t.Errorf("no %s", key)
			}
		}
	})
	t.Run("05-014 sections switched off", func(t *testing.T) {
		alice.Put("/user/"+clienttest.Esc(alice.User)+"/account_data/x", obj{}).OK()
		r := ask(obj{"account_data": obj{"not_types": []string{"*"}}, "presence": obj{"types": []string{}}, "room": obj{"ephemeral": obj{"types": []string{}}}})
		if len(r.List("account_data", "events"))+len(r.List("presence", "events"))+len(joinedRoom(r, room, "ephemeral", "events")) != 0 {
			t.Error(r.Raw)
		}
	})
}

func TestSyncJoinedRooms(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	t.Run("05-016 05-022 a fresh room fits in the timeline", func(t *testing.T) {
		room := alice.Room(nil)
		r := alice.Sync("filter", limited(50))
		timeline := r.Timeline(room)
		if len(timeline) == 0 || timeline[0].Type() != "m.room.create" || len(joinedRoom(r, room, "state", "events")) != 0 || r.At("rooms", "join", room, "timeline", "limited") == true {
			t.Error(types(timeline), joinedRoom(r, room, "state", "events"))
		}
	})
	t.Run("05-016 state is that at the start of the timeline", func(t *testing.T) {
		room := alice.Room(obj{"preset": "public_chat", "name": "old"})
		alice.SetState(room, "m.room.name", "", obj{"name": "new"})
		r := alice.Sync("filter", limited(1))
		if e := clienttest.Find(joinedRoom(r, room, "state", "events"), "m.room.name", ""); e.Str("content", "name") != "old" {
			t.Error(e)
		}
		alice.Say(room, "x")
		r = alice.Sync("filter", limited(1))
		if e := clienttest.Find(joinedRoom(r, room, "state", "events"), "m.room.name", ""); e.Str("content", "name") != "new" {
			t.Error(e)
		}
	})
	t.Run("05-016 the start of the timeline is found while the log is being followed", func(t *testing.T) {
		for range 30 {
			room := alice.Room(obj{"name": "old"})
			alice.SetState(room, "m.room.name", "", obj{"name": "new"})
			r := alice.Sync("filter", limited(1))
			if e := clienttest.Find(joinedRoom(r, room, "state", "events"), "m.room.name", ""); e.Str("content", "name") != "old" {
				t.Fatal(e)
			}
		}
	})
	room := alice.Room(nil)
	bob.Join(room)
	t.Run("05-018 not limited: state comes in the timeline only", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		id := alice.SetState(room, "m.room.topic", "", obj{"topic": "t"})
		r := bob.Sync("since", since)
		if ids := clienttest.IDs(r.Timeline(room)); !slices.Equal(ids, []string{id}) || len(joinedRoom(r, room, "state", "events")) != 0 {
			t.Error(r.Raw)
		}
	})
	t.Run("05-019 a gappy sync", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		topic := alice.SetState(room, "m.room.topic", "", obj{"topic": "gap"})
		var ids []string
		ids = append(ids, topic)
		for i := range 8 {
			ids = append(ids, alice.Say(room, fmt.Sprint(i)))
		}
		last := alice.SetState(room, "m.room.name", "", obj{"name": "n"})
		r := bob.Sync("since", since, "filter", limited(3))
		timeline := clienttest.IDs(r.Timeline(room))
		if !slices.Equal(timeline, append(slices.Clone(ids[7:]), last)) || r.At("rooms", "join", room, "timeline", "limited") != true {
			t.Error(timeline)
		}
		if state := clienttest.IDs(joinedRoom(r, room, "state", "events")); !slices.Equal(state, []string{topic}) {
			t.Error(state)
		}
	})
	t.Run("05-021 a newly joined room comes with its whole state", func(t *testing.T) {
		fresh := alice.Room(obj{"preset": "public_chat", "name": "old news"})
		for i := range 5 {
			alice.Say(fresh, fmt.Sprint(i))
		}
		since := bob.Sync().NextBatch()
		bob.Join(fresh)
		r := bob.Sync("since", since, "filter", limited(2))
		state := joinedRoom(r, fresh, "state", "events")
		if clienttest.Find(state, "m.room.create", "") == nil || clienttest.Find(state, "m.room.name", "") == nil || r.At("rooms", "join", fresh, "timeline", "limited") != true {
			t.Error(r.Raw)
		}
	})
	t.Run("05-023 a change of profile is no join", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		bob.Put("/profile/"+clienttest.Esc(bob.User)+"/displayname", obj{"displayname": "B"}).OK()
		r := bob.Sync("since", since)
		if e := r.Timeline(room); len(e) != 1 || e[0].Str("content", "displayname") != "B" || len(joinedRoom(r, room, "state", "events")) != 0 {
			t.Error(r.Raw)
		}
	})
	t.Run("05-025 05-026 left and joined again between two syncs", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		bob.Leave(room)
		bob.Join(room)
		r := bob.Sync("since", since)
		if r.At("rooms", "join", room) == nil || r.At("rooms", "leave", room) != nil {
			t.Error(r.Raw)
		}
	})
	t.Run("05-027 05-028 a gap of visibility", func(t *testing.T) {
		hidden := alice.Room(obj{"preset": "public_chat", "initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}}})
		bob.Join(hidden)
		bob.Leave(hidden)
		since := bob.Sync().NextBatch()
		alice.Say(hidden, "secret")
		name := alice.SetState(hidden, "m.room.name", "", obj{"name": "meanwhile"})
		bob.Join(hidden)
		r := bob.Sync("since", since)
		if got := bodies(r.Timeline(hidden)); len(got) != 0 {
			t.Error(got)
		}
		all := append(clienttest.IDs(r.Timeline(hidden)), clienttest.IDs(joinedRoom(r, hidden, "state", "events"))...)
		if !slices.Contains(all, name) {
			t.Error("the new name is missing")
		}
	})
	t.Run("05-029 order and completeness over a chain of syncs", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		var want, got []string
		for i := range 30 {
			want = append(want, alice.Say(room, fmt.Sprint(i)))
			if i%4 == 0 {
				r := bob.Sync("since", since)
				got, since = append(got, clienttest.IDs(r.Timeline(room))...), r.NextBatch()
			}
		}
		got = append(got, clienttest.IDs(bob.Sync("since", since).Timeline(room))...)
		if !slices.Equal(got, want) {
			t.Errorf("got %d events, want %d", len(got), len(want))
		}
	})
	t.Run("05-030 a limit of 0", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		id := alice.SetState(room, "m.room.topic", "", obj{"topic": "zero"})
		r := bob.Sync("since", since, "filter", limited(0))
		if len(r.Timeline(room)) != 0 || !slices.Contains(clienttest.IDs(joinedRoom(r, room, "state", "events")), id) {
			t.Error(r.Raw)
		}
	})
	t.Run("05-035 05-036 use_state_after", func(t *testing.T) {
		for _, spelling := range []string{"use_state_after", "org.matrix.msc4222.use_state_after"} {
			name := "state_after"
			if spelling != "use_state_after" {
				name = "org.matrix.msc4222.state_after"
			}
			topic := alice.SetState(room, "m.room.topic", "", obj{"topic": spelling})
			r := bob.Sync(spelling, "true")
			if e := clienttest.Find(joinedRoom(r, room, name, "events"), "m.room.topic", ""); e.ID() != topic || r.At("rooms", "join", room, "state") != nil {
				t.Error(spelling, r.Raw)
			}
			since := r.NextBatch()
			alice.Say(room, "nothing changed")
			r = bob.Sync(spelling, "true", "since", since)
			if list, ok := r.At("rooms", "join", room, name, "events").([]any); !ok || len(list) != 0 || r.At("rooms", "join", room, "state") != nil {
				t.Error(spelling, r.Raw)
			}
			topic = alice.SetState(room, "m.room.topic", "", obj{"topic": spelling + "2"})
			r = bob.Sync(spelling, "true", "since", r.NextBatch())
			if ids := clienttest.IDs(joinedRoom(r, room, name, "events")); !slices.Equal(ids, []string{topic}) {
				t.Error(spelling, r.Raw)
			}
		}
	})
	t.Run("05-073 a redacted event in the timeline", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		target := alice.Say(room, "bad")
		redaction := alice.Put(roomPath(room, "redact", target, "r"), obj{}).OK().Str("event_id")
		e := bob.Sync("since", since).Timeline(room)
		if len(e) != 2 || e[0].Body() != "" || e[0].Str("unsigned", "redacted_because", "event_id") != redaction || e[1].ID() != redaction {
			t.Error(e)
		}
	})
}

func TestSyncLazyLoading(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob, carol := hs.Register("alice"), hs.Register("bob"), hs.Register("carol")
	room := alice.Room(obj{"preset": "public_chat", "name": "named"})
	bob.Join(room)
	carol.Join(room)
	alice.Say(room, "a")
	bob.Say(room, "b")
	lazy := func(extra obj) string {
		state := obj{"lazy_load_members": true}
		for k, v := range extra {
			state[k] = v
		}
		return clienttest.Filter(obj{"room": obj{"timeline": obj{"limit": 1}, "state": state}})
	}
	members := func(r clienttest.Reply, section string) []string {
		var users []string
		for _, e := range joinedRoom(r, room, section, "events") {
			if e.Type() == "m.room.member" {
				users = append(users, e.Str("state_key"))
			}
		}
		slices.Sort(users)
		return users
	}
	t.Run("05-037 05-038 05-039 members of the timeline's senders and oneself", func(t *testing.T) {
		r := carol.Sync("filter", lazy(nil))
		if got := members(r, "state"); !slices.Equal(got, []string{bob.User, carol.User}) && !slices.Equal(got, []string{bob.User}) {
			t.Error(got)
		}
		if clienttest.Find(joinedRoom(r, room, "state", "events"), "m.room.name", "") == nil {
			t.Error("other state is missing")
		}
		r = carol.Sync("filter", lazy(nil), "use_state_after", "true")
		if got := members(r, "state_after"); !slices.Contains(got, bob.User) || slices.Contains(got, alice.User) {
			t.Error(got)
		}
		all := carol.Sync("filter", clienttest.Filter(obj{"room": obj{"timeline": obj{"limit": 1, "lazy_load_members": true}}}))
		if got := members(all, "state"); len(got) != 3 {
			t.Error(got)
		}
	})
	t.Run("05-041 redundant members on request", func(t *testing.T) {
		since := carol.Sync("filter", lazy(nil)).NextBatch()
		bob.Say(room, "again")
		r := carol.Sync("filter", lazy(obj{"include_redundant_members": true}), "since", since)
		if got := members(r, "state"); !slices.Contains(got, bob.User) {
			t.Error(got)
		}
	})
	t.Run("05-040 members changed in a gap", func(t *testing.T) {
		since := carol.Sync("filter", lazy(nil)).NextBatch()
		dave := hs.Register("dave")
		dave.Join(room)
		alice.Say(room, "x")
		alice.Say(room, "y")
		r := carol.Sync("filter", lazy(nil), "since", since)
		if got := members(r, "state"); !slices.Contains(got, dave.User) {
			t.Error(got)
		}
	})
	t.Run("05-044 05-045 05-046 summaries", func(t *testing.T) {
		nameless := alice.Room(obj{"preset": "private_chat", "invite": []string{bob.User}})
		r := alice.Sync("filter", lazy(nil))
		summary := func(key string) any { return r.At("rooms", "join", nameless, "summary", key) }
		if summary("m.joined_member_count") != 1.0 || summary("m.invited_member_count") != 1.0 || fmt.Sprint(summary("m.heroes")) != "["+bob.User+"]" {
			t.Error(r.At("rooms", "join", nameless, "summary"))
		}
		since := r.NextBatch()
		bob.Join(nameless)
		r = alice.Sync("since", since)
		if summary("m.joined_member_count") != 2.0 || summary("m.invited_member_count") != 0.0 {
			t.Error(r.At("rooms", "join", nameless, "summary"))
		}
	})
}

func TestSyncLeaving(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	withLeave := clienttest.Filter(obj{"room": obj{"include_leave": true}})
	t.Run("05-047 05-048 invites", func(t *testing.T) {
		since := bob.Sync().NextBatch()
		room := alice.Room(obj{"invite": []string{bob.User}})
		r := bob.Sync("since", since)
		if len(r.List("rooms", "invite", room, "invite_state", "events")) == 0 {
			t.Error(r.Raw)
		}
		if r := bob.Sync("since", r.NextBatch()); r.At("rooms", "invite", room) != nil {
			t.Error("the invite is repeated")
		}
		if r := bob.Sync(); r.At("rooms", "invite", room) == nil {
			t.Error("the invite is not in an initial sync")
		}
		bob.Join(room)
		r = bob.Sync("since", r.NextBatch())
		if r.At("rooms", "join", room) == nil || r.At("rooms", "invite", room) != nil {
			t.Error(r.Raw)
		}
	})
	for what, leave := range map[string]func(room string){
		"leave": func(room string) { bob.Leave(room) },
		"kick":  func(room string) { alice.Post(roomPath(room, "kick"), obj{"user_id": bob.User}).OK() },
		"ban":   func(room string) { alice.Post(roomPath(room, "ban"), obj{"user_id": bob.User}).OK() },
	} {
		t.Run("05-050 05-051 05-053 05-054 "+what, func(t *testing.T) {
			room := alice.Room(obj{"preset": "public_chat", "initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}}})
			bob.Join(room)
			since := bob.Sync().NextBatch()
			alice.Say(room, "bye")
			leave(room)
			alice.Say(room, "he is gone")
			r := bob.Sync("since", since)
			timeline := r.Events("rooms", "leave", room, "timeline", "events")
			if len(timeline) != 2 || timeline[1].Str("state_key") != bob.User || r.At("rooms", "join", room) != nil {
				t.Error(r.Raw)
			}
			if r := bob.Sync("since", r.NextBatch()); r.At("rooms", "leave", room) != nil {
				t.Error("the leave is repeated")
			}
			if r := bob.Sync(); r.At("rooms", "leave", room) != nil {
				t.Error("left rooms are in an initial sync")
			}
			if r := bob.Sync("filter", withLeave); r.At("rooms", "leave", room) == nil {
				t.Error("left rooms are missing with include_leave")
			}
		})
	}
	t.Run("05-055 joined and left within one interval", func(t *testing.T) {
		room := alice.Room(nil)
		since := bob.Sync().NextBatch()
		bob.Join(room)
		bob.Leave(room)
		r := bob.Sync("since", since)
		if r.At("rooms", "leave", room) == nil || r.At("rooms", "join", room) != nil {
			t.Error(r.Raw)
		}
	})
	t.Run("05-056 invites by ignored users", func(t *testing.T) {
		carol := hs.Register("carol")
		since := carol.Sync().NextBatch()
		carol.Put("/user/"+clienttest.Esc(carol.User)+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{alice.User: obj{}}}).OK()
		room := alice.Room(obj{"invite": []string{carol.User}})
		if carol.Sync().At("rooms", "invite", room) != nil || carol.Sync("since", since).At("rooms", "invite", room) != nil {
			t.Error("the invite is shown")
		}
	})
}

func TestSyncUserData(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(nil)
	bob.Join(room)
	own := "/user/" + clienttest.Esc(alice.User)
	t.Run("05-060 global account data", func(t *testing.T) {
		alice.Put(own+"/account_data/a", obj{"v": 1}).OK()
		alice.Put(own+"/account_data/b", obj{"v": 1}).OK()
		r := alice.Sync()
		if got := types(r.Events("account_data", "events")); !slices.Contains(got, "a") || !slices.Contains(got, "b") {
			t.Error(got)
		}
		alice.Put(own+"/account_data/a", obj{"v": 2}).OK()
		alice.Put(own+"/account_data/a", obj{"v": 3}).OK()
		e := alice.Sync("since", r.NextBatch()).Events("account_data", "events")
		if len(e) != 1 || e[0].Type() != "a" || e[0].At("content", "v") != 3.0 {
			t.Error(e)
		}
	})
	t.Run("05-061 room account data", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		alice.Put(own+"/rooms/"+clienttest.Esc(room)+"/account_data/r", obj{"v": 1}).OK()
		r := alice.Sync("since", since)
		if e := joinedRoom(r, room, "account_data", "events"); len(e) != 1 || e[0].Type() != "r" || e[0].At("content", "v") != 1.0 {
			t.Error(r.Raw)
		}
	})
	t.Run("05-057 05-058 05-059 ignored users", func(t *testing.T) {
		alice.Put(own+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{bob.User: obj{}}}).OK()
		since := alice.Sync().NextBatch()
		bob.Say(room, "you cannot hear me")
		r := alice.Sync("since", since)
		if r.At("rooms", "join", room) != nil {
			t.Error(r.Raw)
		}
		bob.SetState(room, "m.room.member", bob.User, obj{"membership": "join", "displayname": "Shouting"})
		r = alice.Sync("since", since)
		if e := r.Timeline(room); len(e) != 1 || e[0].Type() != "m.room.member" {
			t.Error(r.Raw)
		}
		alice.Put(own+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{}}).OK()
		since = alice.Sync("since", r.NextBatch()).NextBatch()
		bob.Say(room, "now you do")
		if got := bodies(alice.Sync("since", since).Timeline(room)); !slices.Equal(got, []string{"now you do"}) {
			t.Error(got)
		}
	})
}
