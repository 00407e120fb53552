package clientapi_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"atoll/clientapi/clienttest"
)

// page reads one page of messages with the given query parameters, name and value in turn.
func page(c *clienttest.Client, room string, params ...string) clienttest.Reply {
	c.T.Helper()
	query := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		query.Set(params[i], params[i+1])
	}
	return c.Get(roomPath(room, "messages") + "?" + query.Encode())
}

// pages follows the end tokens to the last page and returns all events.
func pages(t *testing.T, c *clienttest.Client, room string, params ...string) []clienttest.Event {
	t.Helper()
	var all []clienttest.Event
	from := ""
	for range 200 {
		ask := slices.Clone(params)
		if from != "" {
			ask = append(ask, "from", from)
		}
		r := page(c, room, ask...).OK()
		if from != "" && r.Str("start") != from {
			t.Errorf("start is %q, from was %q", r.Str("start"), from)
		}
		all = append(all, r.Events("chunk")...)
		if r.At("end") == nil {
			return all
		}
		from = r.Str("end")
	}
	t.Error("paging never ended")
	return all
}

func TestSending(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
	send := func(c *clienttest.Client, room, eventType, txn string, content any) clienttest.Reply {
		return c.Put(roomPath(room, "send", eventType, txn), content)
	}
	t.Run("04-001 a message", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		id := send(alice, room, "m.room.message", "a", obj{"body": "hi", "msgtype": "m.text"}).OK().Str("event_id")
		timeline := alice.Sync("since", since).Timeline(room)
		if len(timeline) != 1 || timeline[0].ID() != id || timeline[0].Body() != "hi" {
			t.Error(timeline)
		}
	})
	t.Run("04-002 no right to send", func(t *testing.T) {
		send(bob, room, "m.x", "1", obj{}).Is(403, "M_FORBIDDEN")
		send(alice, "!nope:"+hs.Name, "m.x", "1", obj{}).IsOneOf("403 M_FORBIDDEN", "404 M_NOT_FOUND")
		send(alice, "nope", "m.x", "1", obj{}).IsOneOf("400 M_INVALID_PARAM", "403 M_FORBIDDEN", "404 M_NOT_FOUND")
		bob.Join(room)
		alice.Levels(room, obj{"events": obj{"m.high": 50}})
		send(bob, room, "m.high", "2", obj{}).Is(403, "M_FORBIDDEN")
		bob.Leave(room)
		send(bob, room, "m.x", "3", obj{}).Is(403, "M_FORBIDDEN")
		bob.Join(room)
	})
	t.Run("04-003 04-004 04-005 transaction ids", func(t *testing.T) {
		first := send(alice, room, "m.x", "t", obj{"n": 1}).OK().Str("event_id")
		again := send(alice, room, "m.x", "t", obj{"n": 2}).OK().Str("event_id")
		if first != again {
			t.Error("two events for one transaction")
		}
		other := alice.Room(nil)
		seen := []string{first}
		for _, r := range []clienttest.Reply{
			send(alice, room, "m.y", "t", obj{}),
			send(alice, other, "m.x", "t", obj{}),
			alice.Put(roomPath(room, "redact", first, "t"), obj{}),
			send(hs.Anonymous().Login("alice", clienttest.Password, ""), room, "m.x", "t", obj{}),
			send(bob, room, "m.x", "t", obj{}),
		} {
			id := r.OK().Str("event_id")
			if id == "" || slices.Contains(seen, id) {
				t.Errorf("%s gave %s", r.What, id)
			}
			seen = append(seen, id)
		}
		same := hs.Anonymous().Login("alice", clienttest.Password, "SAME")
		a := send(same, room, "m.x", "u", obj{}).OK().Str("event_id")
		same = hs.Anonymous().Login("alice", clienttest.Password, "SAME")
		if b := send(same, room, "m.x", "u", obj{}).OK().Str("event_id"); a != b {
			t.Error("a new login of the same device is another scope")
		}
		send(alice, room, "m.x", "a%2F é?", obj{}).Is(200, "")
	})
	t.Run("04-006 transaction ids are told to the sending device", func(t *testing.T) {
		id := send(alice, room, "m.x", "mine", obj{}).OK().Str("event_id")
		phone := hs.Anonymous().Login("alice", clienttest.Password, "")
		for name, c := range map[string]*clienttest.Client{"the device": alice, "another device": phone, "another user": bob} {
			want := ""
			if c == alice {
				want = "mine"
			}
			if r := c.Get(roomPath(room, "event", id)).OK(); r.Str("unsigned", "transaction_id") != want {
				t.Errorf("event, %s: %s", name, r.Raw)
			}
			for what, events := range map[string][]clienttest.Event{
				"messages": page(c, room, "dir", "b").OK().Events("chunk"), "sync": c.Sync().Timeline(room),
			} {
				i := slices.IndexFunc(events, func(e clienttest.Event) bool { return e.ID() == id })
				if i < 0 || events[i].Str("unsigned", "transaction_id") != want {
					t.Errorf("%s, %s: %v", what, name, i)
				}
			}
		}
	})
	t.Run("04-007 concurrent use of one transaction id", func(t *testing.T) {
		ids := make([]string, 6)
		var group sync.WaitGroup
		for i := range ids {
			group.Go(func() {
				r, _ := alice.Try("PUT", roomPath(room, "send", "m.x", "race"), obj{"i": i})
				ids[i] = r.Str("event_id")
			})
		}
		group.Wait()
		if ids[0] == "" || len(slices.Compact(ids)) != 1 {
			t.Error(ids)
		}
	})
	t.Run("04-008 04-009 20-014 20-033 content comes back as it was", func(t *testing.T) {
		for i, content := range []string{
			`{}`, `{"é🐱":"ü","a":null,"b":{"c":null,"d":[null,[],{},""]},"":"empty","z":-9007199254740991}`,
			`{"m.relates_to":"x"}`, `{"m.relates_to":5}`, `{"m.relates_to":{"rel_type":7}}`, `{"a":"\"\\\/\b\f\n\r\t<>&"}`, `{"esc":"\u00e9\ud83d\ude00"}`,
		} {
			id := send(alice, room, "m.room.message", fmt.Sprint("c", i), content).OK().Str("event_id")
			got := alice.Get(roomPath(room, "event", id)).OK().At("content")
			want := clienttest.JSON(content)
			if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
				t.Errorf("sent %s, got %#v", content, got)
			}
		}
	})
	t.Run("20-035 20-036 many senders at once", func(t *testing.T) {
		busy := alice.Room(nil)
		bob.Join(busy)
		var group sync.WaitGroup
		for i := range 20 {
			for _, c := range []*clienttest.Client{alice, bob} {
				group.Go(func() {
					if r, err := c.Try("PUT", roomPath(busy, "send", "m.room.message", fmt.Sprint("busy", i)), obj{"body": fmt.Sprint(i)}); err != nil || r.Status != 200 {
						t.Error(err, r.Raw)
					}
				})
			}
		}
		group.Wait()
		if n := len(bodies(history(t, alice, busy))); n != 40 {
			t.Errorf("%d messages", n)
		}
	})
}

func TestSingleEvents(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(nil)
	id := alice.Say(room, "one")
	event := func(c *clienttest.Client, room, id string) clienttest.Reply {
		return c.Get(roomPath(room, "event", id))
	}
	t.Run("04-014 an event and what is none", func(t *testing.T) {
		r := event(alice, room, id).OK()
		for key, want := range map[string]any{"room_id": room, "event_id": id, "type": "m.room.message", "sender": alice.User} {
			if r.At(key) != want {
				t.Errorf("%s is %v", key, r.At(key))
			}
		}
		if _, ok := r.At("origin_server_ts").(float64); !ok || r.Str("content", "body") != "one" {
			t.Error(r.Raw)
		}
		for _, key := range []string{"auth_events", "prev_events", "hashes", "signatures", "depth"} {
			if r.At(key) != nil {
				t.Errorf("%s is in the client's form", key)
			}
		}
		event(bob, room, id).Is(404, "M_NOT_FOUND")
		event(alice, room, "$nope").Is(404, "M_NOT_FOUND")
		event(alice, room, "nope").IsOneOf("404 M_NOT_FOUND", "400 M_INVALID_PARAM")
		event(alice, "!nope:"+hs.Name, id).Is(404, "M_NOT_FOUND")
	})
	t.Run("04-015 a world-readable room", func(t *testing.T) {
		open := alice.Room(obj{"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "world_readable"}}}})
		event(bob, open, alice.Say(open, "for all")).Is(200, "")
		page(bob, open, "dir", "b").Is(200, "")
	})
	t.Run("04-016 an event of another room", func(t *testing.T) {
		other := alice.Room(nil)
		event(alice, room, alice.Say(other, "elsewhere")).Is(404, "M_NOT_FOUND")
	})
	t.Run("04-017 the reader's membership at the event", func(t *testing.T) {
		bob.Join(room)
		later := alice.Say(room, "two")
		joined := clienttest.Find(stateOf(t, bob, room), "m.room.member", bob.User).ID()
		for id, want := range map[string]string{id: "leave", joined: "join", later: "join"} {
			if r := event(bob, room, id).OK(); r.Str("unsigned", "membership") != want {
				t.Errorf("%s, want %s", r.Raw, want)
			}
		}
	})
}

func TestPaging(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(nil)
	var said []string
	for i := range 25 {
		said = append(said, fmt.Sprint("m", i))
		alice.Say(room, said[i])
	}
	t.Run("04-023 dir", func(t *testing.T) {
		page(alice, room).Is(400, "M_MISSING_PARAM|M_INVALID_PARAM")
		page(alice, room, "dir", "x").Is(400, "M_INVALID_PARAM")
	})
	t.Run("04-024 04-029 without from, default limit", func(t *testing.T) {
		back := page(alice, room, "dir", "b").OK()
		if got := bodies(back.Events("chunk")); len(got) != 10 || got[0] != "m24" {
			t.Error(got)
		}
		if e := page(alice, room, "dir", "f").OK().Events("chunk"); len(e) != 10 || e[0].Type() != "m.room.create" {
			t.Error(types(e))
		}
		for _, bad := range []string{"x", "-1", "1.5"} {
			page(alice, room, "dir", "b", "limit", bad).Is(400, "M_INVALID_PARAM")
		}
		page(alice, room, "dir", "b", "limit", "99999999999999999999").Is(200, "")
		page(alice, room, "dir", "b", "limit", "0").IsOneOf("200", "400 M_INVALID_PARAM")
	})
	t.Run("04-025 04-026 04-027 whole history both ways", func(t *testing.T) {
		for _, limit := range []string{"1", "3", "7", "100"} {
			back := pages(t, alice, room, "dir", "b", "limit", limit)
			forth := pages(t, alice, room, "dir", "f", "limit", limit)
			ids := clienttest.IDs(forth)
			slices.Reverse(ids)
			if !slices.Equal(clienttest.IDs(back), ids) {
				t.Errorf("limit %s: the ways differ", limit)
			}
			if len(back) == 0 || back[len(back)-1].Type() != "m.room.create" || !slices.Equal(bodies(forth), said) {
				t.Errorf("limit %s: %v", limit, bodies(forth))
			}
		}
	})
	t.Run("04-026 from a prev_batch", func(t *testing.T) {
		r := alice.Sync("filter", clienttest.Filter(obj{"room": obj{"timeline": obj{"limit": 5}}}))
		prev := r.Str("rooms", "join", room, "timeline", "prev_batch")
		older := pages(t, alice, room, "dir", "b", "limit", "4")
		got := page(alice, room, "dir", "b", "from", prev, "limit", "100").OK()
		if !slices.Equal(clienttest.IDs(got.Events("chunk")), clienttest.IDs(older)[5:]) || got.At("end") != nil {
			t.Error(bodies(got.Events("chunk")), got.At("end"))
		}
	})
	t.Run("05-020 the gap of a limited sync is filled", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		var missed []string
		for i := range 8 {
			missed = append(missed, alice.Say(room, fmt.Sprint("gap", i)))
		}
		r := alice.Sync("since", since, "filter", limited(3))
		gap := page(alice, room, "dir", "b", "from", r.Str("rooms", "join", room, "timeline", "prev_batch"), "to", since, "limit", "100").OK()
		got := clienttest.IDs(gap.Events("chunk"))
		slices.Reverse(got)
		if !slices.Equal(got, missed[:5]) || gap.At("end") != nil && len(page(alice, room, "dir", "b", "from", gap.Str("end"), "to", since).OK().List("chunk")) != 0 {
			t.Error(got, missed)
		}
	})
	t.Run("04-028 to, and from a next_batch", func(t *testing.T) {
		since := alice.Sync().NextBatch()
		alice.Say(room, "new1")
		between := alice.Sync().NextBatch()
		alice.Say(room, "new2")
		if got := bodies(page(alice, room, "dir", "f", "from", since).OK().Events("chunk")); !slices.Equal(got, []string{"new1", "new2"}) {
			t.Error(got)
		}
		if got := bodies(page(alice, room, "dir", "f", "from", since, "to", between).OK().Events("chunk")); !slices.Equal(got, []string{"new1"}) {
			t.Error(got)
		}
		if got := bodies(page(alice, room, "dir", "b", "to", since).OK().Events("chunk")); !slices.Equal(got, []string{"new2", "new1"}) {
			t.Error(got)
		}
	})
	t.Run("04-030 who may not read", func(t *testing.T) {
		page(bob, room, "dir", "b").Is(403, "M_FORBIDDEN")
		page(alice, "!nope:"+hs.Name, "dir", "b").Is(403, "M_FORBIDDEN")
	})
	t.Run("04-031 tokens that are none", func(t *testing.T) {
		for _, bad := range []string{"x", "s", "t1-", "99999999999999999999", "$x", "s-5", "é", "s999999999"} {
			if r := page(alice, room, "dir", "b", "from", bad); r.Status >= 500 {
				t.Errorf("%s: %d", bad, r.Status)
			}
		}
		page(alice, room, "dir", "b", "from", "nonsense").Is(400, "M_INVALID_PARAM|M_UNKNOWN")
		page(alice, room, "dir", "b", "to", "nonsense").Is(400, "M_INVALID_PARAM|M_UNKNOWN")
	})
	t.Run("04-032 04-033 04-034 filters", func(t *testing.T) {
		bob.Join(room)
		bob.Send(room, "m.room.message", obj{"body": "pic", "url": "mxc://x/y"})
		bob.Send(room, "org.custom", obj{})
		count := func(filter obj) (messages int) {
			for _, e := range pages(t, alice, room, "dir", "b", "filter", clienttest.Filter(filter)) {
				_ = e
				messages++
			}
			return messages
		}
		total := count(obj{})
		for want, filter := range map[int]obj{
			36: {"types": []string{"m.room.message"}}, 1: {"types": []string{"org.*"}}, total - 1: {"not_types": []string{"org.*"}},
			3: {"senders": []string{bob.User}}, total - 3: {"not_senders": []string{bob.User}},
			2: {"senders": []string{bob.User}, "contains_url": false}, 0: {"types": []string{"m.room.message"}, "not_types": []string{"m.room.message"}},
		} {
			if got := count(filter); got != want {
				t.Errorf("%v: %d, want %d", filter, got, want)
			}
		}
		if got := count(obj{"contains_url": true}); got != 1 {
			t.Errorf("contains_url: %d", got)
		}
		if got := count(obj{"not_rooms": []string{room}}); got != 0 {
			t.Errorf("not_rooms: %d", got)
		}
		for _, bad := range []string{"x", "[]", `{"types":5}`, `{"limit":"x"}`, "{"} {
			page(alice, room, "dir", "b", "filter", bad).Is(400, "M_NOT_JSON|M_BAD_JSON|M_INVALID_PARAM")
		}
	})
	t.Run("04-035 lazy loading", func(t *testing.T) {
		r := page(alice, room, "dir", "b", "limit", "3", "filter", `{"lazy_load_members":true}`).OK()
		if clienttest.Find(r.Events("state"), "m.room.member", bob.User) == nil {
			t.Error(r.Raw)
		}
		if r := page(alice, room, "dir", "b").OK(); len(r.List("state")) != 0 {
			t.Error(r.Raw)
		}
	})
	t.Run("04-036 ignored users", func(t *testing.T) {
		alice.Put("/user/"+clienttest.Esc(alice.User)+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{bob.User: obj{}}}).OK()
		sawJoin := false
		for _, e := range pages(t, alice, room, "dir", "b", "limit", "20") {
			if e.Str("sender") == bob.User && e["state_key"] == nil {
				t.Error(e)
			}
			sawJoin = sawJoin || e.Str("state_key") == bob.User
		}
		if !sawJoin {
			t.Error("the ignored user's state is missing")
		}
	})
}

func TestContext(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	room := alice.Room(nil)
	bob.Join(room)
	var ids []string
	for i := range 12 {
		ids = append(ids, alice.Say(room, fmt.Sprint("m", i)))
	}
	around := func(c *clienttest.Client, id, query string) clienttest.Reply {
		return c.Get(roomPath(room, "context", id) + query)
	}
	t.Run("04-018 04-019 an event and its neighbours", func(t *testing.T) {
		r := around(alice, ids[6], "?limit=4").OK()
		if r.Str("event", "event_id") != ids[6] || !slices.Equal(bodies(r.Events("events_before")), []string{"m5", "m4"}) ||
			!slices.Equal(bodies(r.Events("events_after")), []string{"m7", "m8"}) {
			t.Error(r.Raw)
		}
		if clienttest.Find(r.Events("state"), "m.room.create", "") == nil || r.Str("start") == "" || r.Str("end") == "" {
			t.Error(r.Raw)
		}
		r = around(alice, ids[6], "").OK()
		if n := len(r.List("events_before")) + len(r.List("events_after")); n != 10 {
			t.Errorf("%d events", n)
		}
		r = around(alice, ids[6], "?limit=0").OK()
		if n := len(r.List("events_before")) + len(r.List("events_after")); n != 0 || r.Str("event", "event_id") != ids[6] {
			t.Error(r.Raw)
		}
		around(alice, ids[6], "?limit=x").Is(400, "M_INVALID_PARAM")
	})
	t.Run("04-020 filters", func(t *testing.T) {
		r := around(alice, ids[6], "?limit=100&filter="+url.QueryEscape(`{"types":["m.room.member"],"lazy_load_members":true}`)).OK()
		if r.Str("event", "event_id") != ids[6] || len(r.List("events_after")) != 0 || slices.Contains(types(r.Events("events_before")), "m.room.create") {
			t.Error(r.Raw)
		}
	})
	t.Run("04-021 going on with messages", func(t *testing.T) {
		r := around(alice, ids[6], "?limit=4").OK()
		if got := bodies(page(alice, room, "dir", "b", "from", r.Str("start"), "limit", "2").OK().Events("chunk")); !slices.Equal(got, []string{"m3", "m2"}) {
			t.Error(got)
		}
		if got := bodies(page(alice, room, "dir", "f", "from", r.Str("end"), "limit", "2").OK().Events("chunk")); !slices.Equal(got, []string{"m9", "m10"}) {
			t.Error(got)
		}
	})
	t.Run("04-022 who may not look", func(t *testing.T) {
		around(hs.Register("carol"), ids[6], "").IsOneOf("403 M_FORBIDDEN", "404 M_NOT_FOUND")
		around(alice, "$nope", "").Is(404, "M_NOT_FOUND")
	})
}

func TestHistoryVisibility(t *testing.T) {
	hs := clienttest.New(t)
	alice := hs.Register("alice")
	sees := func(c *clienttest.Client, room string) string {
		return strings.Join(bodies(pages(t, c, room, "dir", "f")), " ")
	}
	for visibility, want := range map[string]string{"shared": "before invited after", "invited": "invited after", "joined": "after", "world_readable": "before invited after", "nonsense": "before invited after"} {
		t.Run("04-040 04-041 "+visibility, func(t *testing.T) {
			bob := hs.Register("bob" + visibility[:2] + fmt.Sprint(len(visibility)))
			room := alice.Room(obj{"preset": "private_chat", "initial_state": []obj{
				{"type": "m.room.history_visibility", "content": obj{"history_visibility": visibility}}}})
			first := alice.Say(room, "before")
			alice.Invite(room, bob.User)
			alice.Say(room, "invited")
			bob.Join(room)
			alice.Say(room, "after")
			if got := sees(bob, room); got != want {
				t.Errorf("sees %q, want %q", got, want)
			}
			status := 404
			if strings.HasPrefix(want, "before") {
				status = 200
			}
			bob.Get(roomPath(room, "event", first)).Is(status, "") // 04-046
			bob.Leave(room)
			alice.Say(room, "later")
			if got := sees(bob, room); got != want && visibility != "world_readable" {
				t.Errorf("04-044 after leaving sees %q, want %q", got, want)
			}
		})
	}
	t.Run("04-042 04-043 a change opens nothing older", func(t *testing.T) {
		carol := hs.Register("carol")
		room := alice.Room(obj{"preset": "public_chat", "initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}}})
		alice.Say(room, "hidden")
		alice.SetState(room, "m.room.history_visibility", "", obj{"history_visibility": "shared"})
		alice.Say(room, "open")
		carol.Join(room)
		if got := sees(carol, room); got != "open" {
			t.Error(got)
		}
		found := slices.ContainsFunc(pages(t, carol, room, "dir", "f"), func(e clienttest.Event) bool {
			return e.Type() == "m.room.history_visibility" && e.Str("content", "history_visibility") == "shared"
		})
		if !found {
			t.Error("the change itself is hidden")
		}
	})
	t.Run("04-044 a gap between two stays", func(t *testing.T) {
		dave := hs.Register("dave")
		room := alice.Room(obj{"preset": "public_chat", "initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}}})
		dave.Join(room)
		alice.Say(room, "first")
		dave.Leave(room)
		alice.Say(room, "away")
		dave.Join(room)
		alice.Say(room, "second")
		if got := sees(dave, room); got != "first second" {
			t.Error(got)
		}
	})
}

func TestRedactions(t *testing.T) {
	hs := clienttest.New(t)
	alice, bob := hs.Register("alice"), hs.Register("bob")
	redact := func(c *clienttest.Client, room, event, txn string) clienttest.Reply {
		return c.Put(roomPath(room, "redact", event, txn), obj{"reason": "spam"})
	}
	for _, version := range []string{"3", "6", "10", "11", "12"} {
		t.Run("04-047 04-048 04-053 04-058 version "+version, func(t *testing.T) {
			room := alice.Room(obj{"preset": "public_chat", "room_version": version})
			bob.Join(room)
			target := bob.Say(room, "bad words")
			id := redact(alice, room, target, "r").OK().Str("event_id")
			if again := redact(alice, room, target, "r").OK().Str("event_id"); again != id {
				t.Error("a second redaction for one transaction")
			}
			for what, events := range map[string][]clienttest.Event{
				"event": {bob.Get(roomPath(room, "event", target)).OK().Event()}, "messages": history(t, bob, room), "sync": bob.Sync().Timeline(room),
			} {
				i := slices.IndexFunc(events, func(e clienttest.Event) bool { return e.ID() == target })
				if i < 0 {
					t.Errorf("%s: target missing", what)
					continue
				}
				content, _ := events[i].At("content").(map[string]any)
				if len(content) != 0 || events[i].Str("unsigned", "redacted_because", "event_id") != id {
					t.Errorf("%s: %v", what, events[i])
				}
			}
			r := alice.Get(roomPath(room, "event", id)).OK()
			if r.Str("redacts") != target || r.Str("content", "redacts") != target || r.Str("content", "reason") != "spam" {
				t.Error(r.Raw)
			}
		})
	}
	room := alice.Room(obj{"preset": "public_chat", "room_version": "11"})
	bob.Join(room)
	t.Run("04-012 by send", func(t *testing.T) {
		for _, version := range []string{"6", "11"} {
			room := alice.Room(obj{"preset": "public_chat", "room_version": version})
			target := alice.Say(room, "oops")
			id := alice.Send(room, "m.room.redaction", obj{"redacts": target, "reason": "r"})
			if r := alice.Get(roomPath(room, "event", target)).OK(); r.Str("unsigned", "redacted_because", "event_id") != id {
				t.Error(version, r.Raw)
			}
			if r := alice.Get(roomPath(room, "event", id)).OK(); r.Str("redacts") != target || r.Str("content", "redacts") != target {
				t.Error(version, r.Raw)
			}
		}
	})
	t.Run("04-049 04-050 who may", func(t *testing.T) {
		hers, his := alice.Say(room, "hers"), bob.Say(room, "his")
		redact(bob, room, hers, "1").Is(403, "M_FORBIDDEN")
		redact(bob, room, his, "2").Is(200, "")
		other := alice.Room(nil)
		elsewhere := alice.Say(other, "elsewhere")
		redact(alice, room, elsewhere, "3").IsOneOf("400 M_INVALID_PARAM", "403 M_FORBIDDEN", "404 M_NOT_FOUND", "400 M_BAD_JSON")
		if r := alice.Get(roomPath(other, "event", elsewhere)).OK(); r.Str("content", "body") != "elsewhere" {
			t.Error(r.Raw)
		}
		redact(alice, room, "$nope", "4").IsOneOf("400 M_INVALID_PARAM", "403 M_FORBIDDEN", "404 M_NOT_FOUND")
		alice.Put(roomPath(room, "redact", hers, "5"), nil).IsOneOf("200", "400 M_NOT_JSON")
		alice.Put(roomPath(room, "redact", hers, "6"), obj{"reason": 5}).Is(400, "M_BAD_JSON")
	})
	t.Run("04-051 redacting a redaction", func(t *testing.T) {
		target := alice.Say(room, "x")
		first := redact(alice, room, target, "a").OK().Str("event_id")
		redact(alice, room, first, "b").OK()
		if r := alice.Get(roomPath(room, "event", first)).OK(); r.At("content", "reason") != nil {
			t.Error(r.Raw)
		}
		if r := alice.Get(roomPath(room, "event", target)).OK(); r.At("content", "body") != nil {
			t.Error(r.Raw)
		}
	})
	t.Run("04-052 redacted state stays in force", func(t *testing.T) {
		name := alice.SetState(room, "m.room.name", "", obj{"name": "N"})
		redact(alice, room, name, "c").OK()
		if r := alice.State(room, "m.room.name", "").OK(); r.Raw != "{}" {
			t.Error(r.Raw)
		}
		joined := clienttest.Find(stateOf(t, alice, room), "m.room.member", bob.User).ID()
		redact(alice, room, joined, "d").OK()
		bob.Say(room, "still here")
	})
}
