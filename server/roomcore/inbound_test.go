package roomcore

import (
	"fmt"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

// receive hands in a PDU and returns what is asked for it.
func (r *rig) receiveAt(srv *simServer, ev *spec.Event) []Fetch {
	r.t.Helper()
	if ok, err := srv.in.Receive(PDU{Event: ev, Origin: r.eu.name}, r.now); err != nil || !ok {
		r.t.Fatalf("not taken: %v", err)
	}
	_, asked := srv.in.Outputs()
	return asked
}

func (r *rig) answerAt(srv *simServer, f Fetch, a Answer) ([]Judged, []Fetch) {
	r.t.Helper()
	if err := srv.in.Fetched(f.ID, a, r.now); err != nil {
		r.t.Fatal(err)
	}
	return srv.in.Outputs()
}

func (r *rig) wants(asked []Fetch, kind FetchKind) Fetch {
	r.t.Helper()
	if len(asked) != 1 || asked[0].Kind != kind {
		r.t.Fatalf("asked for %+v, want one of kind %d", asked, kind)
	}
	return asked[0]
}

// chain makes messages of eu that us does not know.
func (r *rig) line(n int) []*spec.Event {
	var events []*spec.Event
	for i := range n {
		events = append(events, r.send(r.eu, fmt.Sprint(i)))
	}
	return events
}

// stateAt is what an honest peer answers about the state before an event.
func (r *rig) stateAt(srv *simServer, id spec.EventID) Answer {
	var a Answer
	if !r.answer(srv, Fetch{Kind: FetchStateIDs, Event: id}, &a) {
		r.t.Fatal("no state")
	}
	return a
}

func TestInbound(t *testing.T) {
	t.Run("15-020 15-021 15-022 a gap is filled in order, what is superfluous dropped", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		line := r.line(3)
		f := r.wants(r.receiveAt(r.us, line[2]), FetchMissing)
		if len(f.Earliest) != 1 || f.Earliest[0] != base.ID || f.From[0] != r.eu.name {
			t.Errorf("%+v", f)
		}
		stray := r.message(r.asia, "stray", base)
		judged, asked := r.answerAt(r.us, f, Answer{Events: []*spec.Event{line[1], stray, line[0]}})
		if len(judged) != 3 || judged[0].Event != line[0].ID || judged[2].Event != line[2].ID || len(asked) != 0 {
			t.Errorf("judged %v, asked %v", judged, asked)
		}
		if row, _ := r.us.core.Event(stray.ID); row != nil || r.us.in.Waiting() != 0 {
			t.Error("the stray event was taken")
		}
		r.extremities(r.us, line[2])
	})
	t.Run("15-024 15-025 state is asked for where the gap is larger, and the rest told live", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		line := r.line(3)
		f := r.wants(r.receiveAt(r.us, line[2]), FetchMissing)
		_, asked := r.answerAt(r.us, f, Answer{})
		f = r.wants(asked, FetchStateIDs)
		_, asked = r.answerAt(r.us, f, r.stateAt(r.eu, line[1].ID))
		f = r.wants(asked, FetchEvents)
		judged, _ := r.answerAt(r.us, f, Answer{Events: []*spec.Event{line[1]}})
		if len(judged) != 1 || judged[0].Verdict.Status != Accepted {
			t.Fatalf("%+v", judged)
		}
		r.commitAll(r.us)
		r.extremities(r.us, base, line[2])
		if last := r.us.store.log[len(r.us.store.log)-1]; last.Text != LogGap {
			t.Errorf("no gap is told: %+v", last)
		}
		// What is between comes late and ties the fork.
		r.hand(r.us, line[0], Accepted)
		r.extremities(r.us, line[2])
	})
	t.Run("15-027 a made-up state does not have an event rejected for ever", func(t *testing.T) {
		r := newRig(t, "11")
		r.shared()
		line := r.line(3)
		f := r.wants(r.receiveAt(r.us, line[2]), FetchMissing)
		_, asked := r.answerAt(r.us, f, Answer{})
		f = r.wants(asked, FetchStateIDs)
		_, asked = r.answerAt(r.us, f, Answer{StateIDs: nil}) // nobody is in the room
		f = r.wants(asked, FetchEvents)
		r.answerAt(r.us, f, Answer{Events: []*spec.Event{line[1]}})
		if row, _ := r.us.core.Event(line[1].ID); row != nil {
			t.Fatalf("it was judged: %+v", row)
		}
		r.hand(r.us, line[0], Accepted)
		r.hand(r.us, line[1], Accepted)
	})
	t.Run("15-026 without an answer it waits, and is tried again on schedule and when it comes again", func(t *testing.T) {
		r := newRig(t, "11")
		r.shared()
		line := r.line(2)
		f := r.wants(r.receiveAt(r.us, line[1]), FetchMissing)
		pause := int64(retryFirst)
		for range 3 {
			_, asked := r.answerAt(r.us, f, Answer{Failed: true})
			f = r.wants(asked, FetchStateIDs)
			r.answerAt(r.us, f, Answer{Failed: true})
			next, err := r.us.in.Wake(r.now)
			if err != nil || next != r.now+pause {
				t.Fatalf("next try after %d, want %d (%v)", next-r.now, pause, err)
			}
			r.now, pause = next, 2*pause
			if _, err := r.us.in.Wake(r.now); err != nil {
				t.Fatal(err)
			}
			_, asked = r.us.in.Outputs()
			f = r.wants(asked, FetchMissing)
		}
		_, asked := r.answerAt(r.us, f, Answer{Failed: true})
		r.answerAt(r.us, r.wants(asked, FetchStateIDs), Answer{Failed: true})
		f = r.wants(r.receiveAt(r.us, line[1]), FetchMissing)
		judged, _ := r.answerAt(r.us, f, Answer{Events: line[:1]})
		if len(judged) != 2 {
			t.Errorf("%+v", judged)
		}
	})
	t.Run("one that is received again brings on what it waits behind", func(t *testing.T) {
		r := newRig(t, "11")
		r.shared()
		line := r.line(3)
		f := r.wants(r.receiveAt(r.us, line[2]), FetchMissing)
		_, asked := r.answerAt(r.us, f, Answer{Events: line[1:2]})
		f = r.wants(asked, FetchStateIDs) // of line[0], for line[1]
		r.answerAt(r.us, f, Answer{Failed: true})
		f = r.wants(r.receiveAt(r.us, line[2]), FetchMissing)
		if judged, _ := r.answerAt(r.us, f, Answer{Events: line[:1]}); len(judged) != 3 {
			t.Errorf("%+v", judged)
		}
	})
	t.Run("a room full of waiting events still takes what it can judge", func(t *testing.T) {
		r := newRig(t, "11")
		base := r.shared()
		line := r.line(2)
		for i := range MaxWaiting {
			r.us.in.waiting[spec.EventID(fmt.Sprint("$", i))] = &waiter{pdu: PDU{Event: line[1]}, fetch: 1}
		}
		if ok, err := r.us.in.Receive(PDU{Event: line[1], Origin: "eu"}, r.now); ok || err != nil {
			t.Errorf("what lacks something was taken: %v", err)
		}
		if ok, err := r.us.in.Receive(PDU{Event: r.message(r.asia, "x", base), Origin: "asia"}, r.now); !ok || err != nil {
			t.Errorf("refused: %v", err)
		}
	})
}

func TestLargeDelta(t *testing.T) {
	r := newRig(t, "11")
	// A rejoin whose answer lacks a thousand entries and has a thousand others.
	const n = 1000
	var told []*spec.Event
	for i := range n {
		told = append(told, r.state(r.eu, r.eu.users[0], "org.told", fmt.Sprint(i), `{}`))
		r.state(r.us, r.us.users[0], "org.gone", fmt.Sprint(i), `{}`)
	}
	ids := []spec.EventID{}
	if err := spec.Walk(r.eu.core, r.eu.core.Head().Root, func(leaf spec.Leaf) error {
		row, err := r.eu.core.eventByNID(leaf.Event)
		ids = append(ids, row.Event.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.state(r.us, r.us.users[0], "m.room.member", string(r.us.users[0]), `{"membership":"leave"}`)
	answer := Join{Auth: told}
	for _, id := range ids {
		row, _ := r.eu.core.Event(id)
		answer.State = append(answer.State, row.Event)
	}
	user := r.us.users[0]
	key := string(user)
	answer.Event = r.forge(r.us, Proposal{Sender: user, Type: "m.room.member", StateKey: &key, Content: []byte(`{"membership":"join"}`)},
		func(b *spec.EventBuilder) {
			b.Prev = []spec.EventID{told[n-1].ID}
			var err error
			b.Auth, err = r.eu.core.authEvents(Proposal{Sender: user, Type: b.Type, StateKey: &key, Content: b.Content}, r.eu.core.Head().Root)
			r.ok(r.eu, err)
		}, nil...)
	if v, err := r.us.core.Join(answer); err != nil || v.Status != Accepted {
		t.Fatalf("%+v, %v", v, err)
	}
	for k := 0; r.us.core.Pending(); k++ {
		unit, chunk, err := r.us.core.TakeUnit()
		if err != nil || k > 100 {
			t.Fatalf("after %d units: %v", k, err)
		}
		rows := len(unit.Log) + len(unit.Nodes) + len(unit.Memberships) + len(unit.Servers) + len(unit.StateKeys) + len(unit.Gaps) + len(unit.Extra)
		for _, events := range [][]storage.EventRow{unit.Events, unit.EventUpdates} {
			for i := range events {
				rows += 2 + len(events[i].Event.Prev)
			}
		}
		if !chunk && rows+1 > storage.UnitMaxRows {
			t.Fatalf("a unit of %d rows", rows)
		}
		if err := r.us.store.apply(unit); err != nil {
			t.Fatal(err)
		}
		r.us.core.Committed(unit)
	}
	r.checkState(r.us)
	r.extremities(r.us, answer.Event)
}
