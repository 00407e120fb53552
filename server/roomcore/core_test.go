package roomcore

import (
	"fmt"
	"slices"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

// rig is a room on three servers without scheduler and network: events are made
// at one and handed to another by hand.
type rig struct {
	*sim
	us, eu, asia *simServer
}

func newRig(t *testing.T, version spec.RoomVersion) *rig {
	t.Helper()
	s := newSim(t, 1, version, false)
	r := &rig{sim: s, us: s.servers[0], eu: s.servers[1], asia: s.servers[2]}
	// All know of everybody.
	for _, srv := range s.servers {
		for _, from := range s.servers {
			for _, e := range from.store.log {
				ev := from.store.events[e.EventNID].Event
				if lacks, _ := srv.core.Lacks(ev); !lacks {
					_, err := srv.core.Insert(ev, Place{Live: true})
					s.ok(srv, err)
				}
			}
		}
		s.commitAll(srv)
	}
	return r
}

// send makes a message of the server's first user at its own head.
func (r *rig) send(srv *simServer, body string) *spec.Event {
	return r.propose(srv, Proposal{Sender: srv.users[0], Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q}`, body)})
}

func (r *rig) state(srv *simServer, sender spec.UserID, kind, key, content string) *spec.Event {
	return r.propose(srv, Proposal{Sender: sender, Type: kind, StateKey: &key, Content: []byte(content)})
}

func (r *rig) propose(srv *simServer, p Proposal) *spec.Event {
	r.t.Helper()
	p.OriginServerTS = r.now
	row, _, err := srv.core.Propose(p)
	if err != nil {
		r.t.Fatalf("%s: %v", srv.name, err)
	}
	r.commitAll(srv)
	return row.Event
}

// forge makes an event of a server anywhere in the graph, with the auth events
// that the state before the first predecessor gives, allowed or not.
func (r *rig) forge(srv *simServer, p Proposal, change func(*spec.EventBuilder), prev ...*spec.Event) *spec.Event {
	r.t.Helper()
	b := spec.EventBuilder{
		Room: r.room, Sender: p.Sender, Type: p.Type, State: p.StateKey, Content: p.Content, Redacts: p.Redacts,
		OriginServerTS: r.now, ReferenceHash: srv.core.referenceHash,
	}
	if len(prev) > 0 {
		at, err := srv.core.Event(prev[0].ID)
		if err != nil || at == nil {
			r.t.Fatalf("%s does not know %s: %v", srv.name, prev[0].ID, err)
		}
		if b.Auth, err = srv.core.authEvents(p, at.After); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, ev := range prev {
		b.Prev = append(b.Prev, ev.ID)
		b.Depth = max(b.Depth, ev.Depth+1)
	}
	if change != nil {
		change(&b)
	}
	ev, err := b.Build(r.rules, srv.name, srv.key)
	if err != nil {
		r.t.Fatal(err)
	}
	return ev
}

func (r *rig) message(srv *simServer, body string, prev ...*spec.Event) *spec.Event {
	r.t.Helper()
	return r.forge(srv, Proposal{Sender: srv.users[0], Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q}`, body)}, nil, prev...)
}

// hand gives an event to a server as new and commits.
func (r *rig) hand(srv *simServer, ev *spec.Event, want Status) Verdict {
	r.t.Helper()
	v, err := srv.core.Insert(ev, Place{Live: true})
	if err != nil {
		r.t.Fatalf("%s: %v", ev.ID, err)
	}
	if v.Status != want {
		r.t.Fatalf("%s %s has status %d (%s), want %d", ev.Type, ev.ID, v.Status, v.Reason, want)
	}
	r.commitAll(srv)
	return v
}

// extremities checks the head of a server.
func (r *rig) extremities(srv *simServer, want ...*spec.Event) {
	r.t.Helper()
	var ids []spec.EventID
	for _, ev := range want {
		ids = append(ids, ev.ID)
	}
	slices.Sort(ids)
	var got []spec.EventID
	for _, e := range srv.core.Head().Extremities {
		got = append(got, e.ID)
	}
	slices.Sort(got)
	if !slices.Equal(got, ids) {
		r.t.Fatalf("%s has extremities %v, want %v", srv.name, got, ids)
	}
}

// share hands the head of one server to another.
func (r *rig) shared() *spec.Event {
	ev := r.send(r.us, "base")
	for _, srv := range []*simServer{r.eu, r.asia} {
		v, err := srv.core.Insert(ev, Place{Live: true})
		if err != nil || v.Status != Accepted {
			r.t.Fatalf("%s: %+v %v", srv.name, v, err)
		}
		r.commitAll(srv)
	}
	return ev
}

func TestReceiveChecks(t *testing.T) {
	t.Run("15-011 a sender who is not in the room is rejected, and that is final", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		ev := r.forge(r.eu, Proposal{Sender: "@stranger:eu", Type: "m.room.message", Content: []byte(`{}`)}, nil, base)
		v := r.hand(r.us, ev, Rejected)
		r.extremities(r.us, base)
		if again := r.hand(r.us, ev, Rejected); again.Reason != v.Reason {
			t.Errorf("the reason changed from %q to %q", v.Reason, again.Reason)
		}
		// 15-002: what refers to it is judged on its own merits, and takes the
		// place of what was before it.
		next := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.message", Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Prev = []spec.EventID{ev.ID} }, base)
		r.hand(r.us, next, Accepted)
		r.extremities(r.us, next)
	})
	t.Run("15-003 the state after a rejected state event is that before it", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		before := r.us.core.Head().Root
		ev := r.forge(r.eu, Proposal{Sender: "@stranger:eu", Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"x"}`)}, nil, base)
		row := r.hand(r.us, ev, Rejected).Row
		if row.After != before || r.us.core.Head().Root != before {
			t.Error("the state changed")
		}
		// 15-004: and it may not be an auth event.
		next := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.message", Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Auth = append(b.Auth, ev.ID) }, base)
		r.hand(r.us, next, Rejected)
	})
	t.Run("15-005 15-007 wrong auth events are a reason to reject", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		for name, change := range map[string]func(*spec.EventBuilder){
			"twice":     func(b *spec.EventBuilder) { b.Auth = append(b.Auth, b.Auth[0]) },
			"no create": func(b *spec.EventBuilder) { b.Auth = b.Auth[1:] },
			"none":      func(b *spec.EventBuilder) { b.Auth = nil },
			"not asked": func(b *spec.EventBuilder) {
				row, _ := r.eu.core.StateAt(r.eu.core.Head().Root, spec.StateKey{Type: "m.room.join_rules"})
				b.Auth = append(b.Auth, row.Event.ID)
			},
		} {
			ev := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.message", Content: fmt.Appendf(nil, `{"n":%q}`, name)}, change, base)
			r.hand(r.us, ev, Rejected)
		}
		r.extremities(r.us, base)
	})
	t.Run("15-006 events of another room are not kept as outliers", func(t *testing.T) {
		r := newRig(t, "10")
		ev := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.topic", StateKey: new(string), Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Room = "!other:eu" }, r.shared())
		if err := r.us.core.insertOutliers([]*spec.Event{ev}); err != nil {
			t.Fatal(err)
		}
		if row, _ := r.us.core.Event(ev.ID); row != nil {
			t.Error("it was kept")
		}
	})
	t.Run("15-010 a second create event is rejected", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		ev := r.forge(r.us, Proposal{Sender: r.us.users[1], Type: "m.room.create", StateKey: new(string), Content: []byte(`{"room_version":"11"}`)}, nil)
		r.hand(r.eu, ev, Rejected)
		r.extremities(r.eu, base)
		after := r.forge(r.us, Proposal{Sender: r.us.users[1], Type: "m.room.create", StateKey: new(string), Content: []byte(`{"room_version":"11"}`)}, nil, base)
		r.hand(r.eu, after, Rejected)
		if v, err := r.asia.core.InsertOutlier(ev); err != nil || v.Status != Rejected {
			t.Errorf("as an outlier: %+v, %v", v, err)
		}
		r.commitAll(r.asia)
		if r.eu.store.room.CreateNID == r.eu.store.ids[ev.ID] || r.asia.store.room.CreateNID == r.asia.store.ids[ev.ID] {
			t.Error("it took the first one's place")
		}
	})
	t.Run("15-002 a rejected outlier gets its place when it comes as a new event", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		ev := r.forge(r.eu, Proposal{Sender: "@stranger:eu", Type: "m.room.topic", StateKey: new(string), Content: []byte(`{}`)}, nil, base)
		if v, err := r.us.core.InsertOutlier(ev); err != nil || v.Status != Rejected {
			t.Fatalf("%+v, %v", v, err)
		}
		r.hand(r.us, ev, Rejected)
		next := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.message", Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Prev = []spec.EventID{ev.ID} }, base)
		if lacks, _ := r.us.core.Lacks(next); lacks {
			t.Fatal("what follows it cannot be judged")
		}
		r.hand(r.us, next, Accepted)
	})
}

func TestSoftFailure(t *testing.T) {
	ban := func(r *rig) (base, ban *spec.Event, victim spec.UserID) {
		victim = r.eu.users[1]
		join := r.state(r.eu, victim, "m.room.member", string(victim), `{"membership":"join"}`)
		r.hand(r.us, join, Accepted)
		return join, r.state(r.us, r.us.users[0], "m.room.member", string(victim), `{"membership":"ban"}`), victim
	}
	t.Run("15-015 15-016 it is in the graph, but neither told nor an extremity", func(t *testing.T) {
		r := newRig(t, "11")
		r.shared()
		base, ban, victim := ban(r)
		told := len(r.us.store.log)
		first := r.forge(r.eu, Proposal{Sender: victim, Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"1"}`)}, nil, base)
		row := r.hand(r.us, first, SoftFailed).Row
		if row.Rejected != "" || row.Kind != storage.StateRoot || row.After == row.Before {
			t.Errorf("%+v", row)
		}
		r.hand(r.eu, first, Accepted)
		second := r.forge(r.eu, Proposal{Sender: victim, Type: "m.room.message", Content: []byte(`{}`)}, nil, first)
		r.hand(r.us, second, SoftFailed)
		if len(r.us.store.log) != told {
			t.Error("clients were told")
		}
		r.extremities(r.us, ban)
		if next := r.send(r.us, "next"); !slices.Equal(next.Prev, []spec.EventID{ban.ID}) {
			t.Errorf("the next event follows %v", next.Prev)
		}
	})
	t.Run("15-017 what refers to it is taken as usual", func(t *testing.T) {
		r := newRig(t, "11")
		r.shared()
		base, ban, victim := ban(r)
		soft := r.forge(r.eu, Proposal{Sender: victim, Type: "m.room.message", Content: []byte(`{}`)}, nil, base)
		r.hand(r.us, soft, SoftFailed)
		r.hand(r.eu, soft, Accepted)
		next := r.message(r.eu, "after", soft)
		r.hand(r.us, next, Accepted)
		r.extremities(r.us, ban, next) // the ban is not before it
	})
	t.Run("15-019 its state may be in the current one later, and clients are told", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		admin := r.us.users[0]
		level := func(n int) {
			r.state(r.us, admin, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100},"state_default":%d}`, admin, n))
		}
		level(50)
		topic := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"1"}`)}, nil, base)
		r.hand(r.us, topic, SoftFailed)
		r.hand(r.eu, topic, Accepted)
		level(0)
		r.hand(r.us, r.message(r.eu, "after", topic), Accepted)
		row, _ := r.us.core.StateAt(r.us.core.Head().Root, spec.StateKey{Type: "m.room.topic"})
		if row == nil || row.Event.ID != topic.ID {
			t.Fatalf("the topic is %v", row)
		}
		last := r.us.store.log[len(r.us.store.log)-1]
		if last.Kind != storage.LogState || last.EventNID != row.NID {
			t.Errorf("clients are not told of the topic: %+v", last)
		}
	})
	t.Run("15-017 an extremity before a soft-failed event goes with what follows that", func(t *testing.T) {
		r := newRig(t, "11")
		r.shared()
		_, ban, victim := ban(r)
		r.hand(r.eu, ban, Accepted)
		// It says nothing of the ban's fork, but the ban is before it.
		soft := r.forge(r.eu, Proposal{Sender: victim, Type: "m.room.message", Content: []byte(`{}`)}, nil, ban)
		r.hand(r.us, soft, Rejected)
		next := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.message", Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Prev = []spec.EventID{soft.ID} }, ban)
		r.hand(r.us, next, Accepted)
		r.extremities(r.us, next)
	})
}

func TestExtremities(t *testing.T) {
	t.Run("15-030 an outlier neither becomes an extremity nor displaces one", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		ev := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.topic", StateKey: new(string), Content: []byte(`{}`)}, nil, base)
		if _, err := r.us.core.InsertOutlier(ev); err != nil {
			t.Fatal(err)
		}
		r.commitAll(r.us)
		r.extremities(r.us, base)
		r.hand(r.us, ev, Accepted) // and as a new event it does
		r.extremities(r.us, ev)
	})
	t.Run("15-047 more than 20 extremities are taken in 20 at a time", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		for i := range 25 {
			r.hand(r.us, r.message(r.eu, fmt.Sprint(i), base), Accepted)
		}
		if n := len(r.us.core.Head().Extremities); n != 25 {
			t.Fatalf("%d extremities", n)
		}
		ev := r.send(r.us, "one")
		if len(ev.Prev) != 20 || len(r.us.core.Head().Extremities) != 6 {
			t.Errorf("%d predecessors, %d extremities", len(ev.Prev), len(r.us.core.Head().Extremities))
		}
		if ev = r.send(r.us, "two"); len(ev.Prev) != 6 {
			t.Errorf("%d predecessors", len(ev.Prev))
		}
		r.extremities(r.us, ev)
	})
	t.Run("a late event, which others follow already, is no extremity", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		late := r.message(r.eu, "late", base)
		r.hand(r.eu, late, Accepted)
		anchor := r.message(r.eu, "anchor", late)
		r.hand(r.eu, anchor, Accepted)
		next := r.message(r.eu, "next", anchor)
		root := r.us.core.Head().Root
		if _, err := r.us.core.Insert(anchor, Place{Before: &root}); err != nil {
			t.Fatal(err)
		}
		r.extremities(r.us, base)
		r.hand(r.us, next, Accepted)
		r.hand(r.us, late, Accepted)
		r.extremities(r.us, next)
	})
}

func TestDurable(t *testing.T) {
	t.Run("a duplicate of what is not committed yet is not durable", func(t *testing.T) {
		r := newRig(t, "11")
		ev := r.message(r.eu, "x", r.shared())
		first, err := r.us.core.Insert(ev, Place{Live: true})
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.us.core.Insert(ev, Place{Live: true})
		if err != nil || second.Seq < first.Seq || r.us.core.Done() >= second.Seq {
			t.Errorf("the second is durable by %d, the first by %d (%v)", second.Seq, first.Seq, err)
		}
		r.commitAll(r.us)
		third := r.hand(r.us, ev, Accepted)
		if third.Seq > r.us.core.Done() {
			t.Errorf("durable by %d of %d", third.Seq, r.us.core.Done())
		}
	})
	t.Run("the number of a key is stored though the first event with it was dropped", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		topic := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "org.a", StateKey: new(string), Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Auth = append(b.Auth, "$unknown") }, base)
		other := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "org.b", StateKey: new(string), Content: []byte(`{}`)},
			func(b *spec.EventBuilder) { b.Auth = append(b.Auth, "$unknown") }, base)
		if err := r.us.core.insertOutliers([]*spec.Event{topic, other}); err != nil {
			t.Fatal(err)
		}
		r.send(r.us, "commit")
		r.state(r.us, r.us.users[0], "org.a", "", `{}`)
		row, err := r.us.core.StateAt(r.us.core.Head().Root, spec.StateKey{Type: "org.a"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.us.store.StateKey(row.StateKeyNID); err != nil {
			t.Error(err)
		}
	})
}

func TestRedactionOrder(t *testing.T) {
	redaction := func(r *rig, srv *simServer, target, prev *spec.Event, n int) *spec.Event {
		return r.forge(srv, Proposal{Sender: srv.users[0], Type: "m.room.redaction", Content: fmt.Appendf(nil, `{"redacts":%q,"n":%d}`, target.ID, n)}, nil, prev)
	}
	t.Run("a redaction that came first takes effect when its target comes", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		target := r.message(r.eu, "secret", base)
		first, second := redaction(r, r.eu, target, base, 1), redaction(r, r.eu, target, base, 2)
		r.hand(r.us, first, Accepted)
		r.hand(r.us, second, Accepted)
		r.hand(r.us, target, Accepted)
		row := r.us.store.events[r.us.store.ids[target.ID]]
		if !row.Event.Redacted && string(row.Event.Content) != `{}` {
			t.Errorf("the content is %s", row.Event.Content)
		}
		if row.RedactedBy != r.us.store.ids[first.ID] {
			t.Error("not the first one counts")
		}
	})
	t.Run("also when it is not committed yet", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		target := r.message(r.eu, "secret", base)
		for _, ev := range []*spec.Event{redaction(r, r.eu, target, base, 1), target} {
			if _, err := r.us.core.Insert(ev, Place{Live: true}); err != nil {
				t.Fatal(err)
			}
		}
		if row, _ := r.us.core.Event(target.ID); row.RedactedBy == 0 || string(row.Event.Content) != `{}` {
			t.Errorf("the text is still here: %s", row.Event.Content)
		}
		r.commitAll(r.us)
		if row := r.us.store.events[r.us.store.ids[target.ID]]; row.RedactedBy == 0 {
			t.Error("not redacted")
		}
	})
	t.Run("any number of early redactions fits", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		target := r.message(r.eu, "secret", base)
		prev := base
		for i := range 300 {
			ev := redaction(r, r.eu, target, prev, i)
			r.hand(r.us, ev, Accepted)
			r.hand(r.eu, ev, Accepted)
			prev = ev
		}
		v, err := r.us.core.Insert(target, Place{Live: true})
		if err != nil || v.Status != Accepted {
			t.Fatalf("%+v, %v", v, err)
		}
		for n := 0; r.us.core.Pending(); n++ {
			if n > 10 {
				t.Fatal("it never fits into a unit")
			}
			unit, _, err := r.us.core.TakeUnit()
			if err != nil || r.us.store.apply(unit) != nil {
				t.Fatal(err)
			}
			r.us.core.Committed(unit)
		}
	})
	t.Run("a redacted outlier stays redacted when it gets its place", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		target := r.forge(r.eu, Proposal{Sender: r.eu.users[0], Type: "m.room.topic", StateKey: new(string), Content: []byte(`{"topic":"secret"}`)}, nil, base)
		if _, err := r.us.core.InsertOutlier(target); err != nil {
			t.Fatal(err)
		}
		r.hand(r.us, redaction(r, r.eu, target, base, 1), Accepted)
		row := r.hand(r.us, target, Accepted).Row
		if row.RedactedBy == 0 || string(row.Event.Content) != `{}` {
			t.Errorf("it shows %s", row.Event.Content)
		}
	})
}
