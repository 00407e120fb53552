package roomcore

import (
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulation with this seed alone and print its trace")
	simSeeds = flag.Int("sim.seeds", 150, "how many seeds of the simulation to run")
)

// simServer is one homeserver of the simulation: its disk, and what it keeps in
// memory and loses with a restart.
type simServer struct {
	name  spec.ServerName
	key   spec.SigningKey
	store *memStore
	core  *Core
	in    *Inbound
	users []spec.UserID

	flight *storage.Unit // being committed
	wake   int64         // when inbound wants to be called
	ledger map[spec.EventID]PDU
	cursor map[spec.ServerName]int // how much of its log each peer has acknowledged

	waiting map[uint64][]spec.EventID // sent by clients, told once their seq is durable
	answers map[spec.EventID]bool     // what clients were told is sent
	judged  map[spec.EventID]Status
}

// sim is a room on several servers under one seeded scheduler.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	rules   *spec.Rules
	room    spec.RoomID
	servers []*simServer
	byName  map[spec.ServerName]*simServer
	now     int64
	events  []simEvent
	cut     map[[2]spec.ServerName]bool
	loss    float64
	trace   bool
	serial  int
	seen    map[string]int // how often each thing happened that is to be exercised
}

type simEvent struct {
	at int64
	n  int // keeps events of the same time in the order they were made
	do func()
}

func (s *sim) logf(format string, a ...any) {
	if s.trace {
		s.t.Logf("%6d %s", s.now, fmt.Sprintf(format, a...))
	}
}

func (s *sim) after(delay int64, do func()) {
	s.serial++
	s.events = append(s.events, simEvent{at: s.now + delay, n: s.serial, do: do})
}

// step runs the next event; false when none is left.
func (s *sim) step() bool {
	if len(s.events) == 0 {
		return false
	}
	next := 0
	for i, e := range s.events {
		if e.at < s.events[next].at || e.at == s.events[next].at && e.n < s.events[next].n {
			next = i
		}
	}
	e := s.events[next]
	s.events = slices.Delete(s.events, next, next+1)
	s.now = max(s.now, e.at)
	e.do()
	return true
}

func newSim(t *testing.T, seed uint64, version spec.RoomVersion, trace bool) *sim {
	rules, ok := spec.RulesOf(version)
	if !ok {
		t.Fatalf("no version %s", version)
	}
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), rules: rules, trace: trace, now: 1_000_000,
		seen: map[string]int{}, byName: map[spec.ServerName]*simServer{}, cut: map[[2]spec.ServerName]bool{},
	}
	for i, name := range []spec.ServerName{"us", "eu", "asia"} {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i + 1)
		srv := &simServer{
			name: name, key: spec.SigningKey{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed)},
			store: newMemStore(), cursor: map[spec.ServerName]int{}, ledger: map[spec.EventID]PDU{},
			waiting: map[uint64][]spec.EventID{}, answers: map[spec.EventID]bool{}, judged: map[spec.EventID]Status{},
		}
		for _, u := range []string{"a", "b", "c"} {
			srv.users = append(srv.users, spec.UserID("@"+u+":"+string(name)))
		}
		s.servers = append(s.servers, srv)
		s.byName[name] = srv
	}
	s.found()
	return s
}

// found makes the room on the first server and joins the others to it.
func (s *sim) found() {
	first := s.servers[0]
	creator := first.users[0]
	b := spec.EventBuilder{Sender: creator, Type: "m.room.create", State: new(string), Depth: 1, OriginServerTS: s.now,
		Content: fmt.Appendf(nil, `{"room_version":%q}`, s.rules.Version)}
	if s.rules.CreatorInContent {
		b.Content = fmt.Appendf(nil, `{"room_version":%q,"creator":%q}`, s.rules.Version, creator)
	}
	if !s.rules.RoomIDIsCreateHash {
		b.Room = "!sim:us"
	}
	create, err := b.Build(s.rules, first.name, first.key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.room = create.Room
	s.boot(first)
	if _, err := first.core.Insert(create, Place{Live: true, Ours: true}); err != nil {
		s.t.Fatal(err)
	}
	s.must(first, creator, "m.room.member", string(creator), `{"membership":"join"}`)
	users := `{}`
	if !s.rules.CreatorPower {
		users = fmt.Sprintf(`{%q:100}`, creator)
	}
	s.must(first, creator, "m.room.power_levels", "", fmt.Sprintf(`{"users":%s,"users_default":0,"events_default":0,"state_default":0,"ban":50,"kick":50,"redact":50,"invite":0,"events":{"m.room.power_levels":50}}`, users))
	s.must(first, creator, "m.room.join_rules", "", `{"join_rule":"public"}`)
	s.commitAll(first)
	for _, srv := range s.servers[1:] {
		s.boot(srv)
		s.joinThrough(srv, first, srv.users[0])
	}
}

func (s *sim) must(srv *simServer, sender spec.UserID, kind, key, content string) {
	_, _, err := srv.core.Propose(Proposal{Sender: sender, Type: kind, StateKey: &key, Content: []byte(content), OriginServerTS: s.now})
	if err != nil {
		s.t.Fatalf("%s of %s: %v", kind, sender, err)
	}
}

// joinThrough brings a server into the room by way of a resident, without faults:
// those of the handshake itself are not this simulation's.
func (s *sim) joinThrough(srv, resident *simServer, user spec.UserID) {
	key := string(user)
	raw, err := resident.core.Template(Proposal{Sender: user, Type: "m.room.member", StateKey: &key, Content: []byte(`{"membership":"join"}`), OriginServerTS: s.now})
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := spec.ParseTemplate(s.rules, raw)
	if err != nil {
		s.t.Fatal(err)
	}
	join, err := b.Build(s.rules, srv.name, srv.key)
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := resident.core.Insert(join, Place{Live: true, Ours: true})
	if err != nil || v.Status != Accepted {
		s.t.Fatalf("join of %s: %+v, %v", user, v, err)
	}
	s.commitAll(resident)
	var answer Join
	answer.Event = join
	err = spec.Walk(resident.store, v.Row.Before, func(leaf spec.Leaf) error {
		answer.State = append(answer.State, resident.store.events[leaf.Event].Event)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, row := range resident.store.events {
		if row.Event.IsState() && row.Event.ID != join.ID {
			answer.Auth = append(answer.Auth, row.Event)
		}
	}
	if v, err = srv.core.Join(answer); err != nil || v.Status != Accepted {
		s.t.Fatalf("entering with %s: %+v, %v", user, v, err)
	}
	s.commitAll(srv)
}

// boot loads a server's memory from its disk.
func (s *sim) boot(srv *simServer) {
	if srv.flight != nil {
		s.seen["restart with a commit in flight"]++
	}
	srv.core = New(srv.store.config(s.room, s.rules, srv.name, srv.key))
	srv.in = NewInbound(srv.core)
	srv.flight, srv.wake = nil, 0
	srv.waiting = map[uint64][]spec.EventID{}
	ids := make([]spec.EventID, 0, len(srv.ledger))
	for id := range srv.ledger {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		s.receive(srv, srv.ledger[id])
	}
}

// commitAll commits everything queued at once.
func (s *sim) commitAll(srv *simServer) {
	for {
		if srv.flight == nil {
			unit, _, err := srv.core.TakeUnit()
			if err != nil {
				s.t.Fatal(err)
			}
			if unit == nil {
				return
			}
			srv.flight = unit
		}
		s.committed(srv)
	}
}

func (s *sim) committed(srv *simServer) {
	unit := srv.flight
	srv.flight = nil
	if err := srv.store.apply(unit); err != nil {
		s.t.Fatalf("%s: commit: %v", srv.name, err)
	}
	srv.core.Committed(unit)
	for seq, ids := range srv.waiting {
		if seq <= srv.core.Done() {
			for _, id := range ids {
				srv.answers[id] = true
			}
			delete(srv.waiting, seq)
		}
	}
}

// pump carries out what a server's step machines want.
func (s *sim) pump(srv *simServer) {
	judged, asked := srv.in.Outputs()
	for _, j := range judged {
		srv.judged[j.Event] = j.Verdict.Status
		s.seen[map[Status]string{Accepted: "accepted", SoftFailed: "soft failure", Rejected: "rejection"}[j.Verdict.Status]]++
		id, core, seq := j.Event, srv.core, j.Verdict.Seq
		s.whenDone(srv, core, seq, func() { delete(srv.ledger, id) })
	}
	for _, f := range asked {
		s.fetch(srv, f)
	}
	if len(srv.core.memo) > 0 {
		s.seen["fork resolved"]++
	}
	s.kick(srv)
	if srv.wake == 0 {
		next, err := srv.in.Wake(s.now)
		s.ok(srv, err)
		if next != 0 {
			srv.wake = next
			in := srv.in
			s.after(next-s.now, func() {
				if srv.in == in {
					srv.wake = 0
					s.seen["retry"]++
					_, err := srv.in.Wake(s.now)
					s.ok(srv, err)
					s.pump(srv)
				}
			})
		}
	}
}

// whenDone runs fn once seq is durable, unless the server restarts before.
func (s *sim) whenDone(srv *simServer, core *Core, seq uint64, fn func()) {
	if srv.core != core {
		return
	}
	if core.Done() >= seq {
		fn()
		return
	}
	s.after(1, func() { s.whenDone(srv, core, seq, fn) })
}

func (s *sim) kick(srv *simServer) {
	if srv.flight != nil || !srv.core.Pending() {
		return
	}
	unit, _, err := srv.core.TakeUnit()
	s.ok(srv, err)
	srv.flight = unit
	core := srv.core
	s.after(1+s.rng.Int64N(20), func() {
		if srv.core == core && srv.flight == unit {
			s.committed(srv)
			s.pump(srv)
		}
	})
}

func (s *sim) ok(srv *simServer, err error) {
	if err != nil {
		s.t.Fatalf("%s at %d: %v", srv.name, s.now, err)
	}
}

// reachable draws whether a message between two servers gets through.
func (s *sim) reachable(a, b spec.ServerName) bool {
	return !s.cut[[2]spec.ServerName{a, b}] && !s.cut[[2]spec.ServerName{b, a}] && s.rng.Float64() >= s.loss
}

func (s *sim) delay() int64 { return 1 + s.rng.Int64N(80) }

func (s *sim) receive(srv *simServer, pdu PDU) {
	if row, _ := srv.core.Event(pdu.Event.ID); row != nil {
		s.seen["duplicate"]++
	} else if srv.in.Has(pdu.Event.ID) {
		s.seen["another chance"]++
	}
	srv.ledger[pdu.Event.ID] = pdu
	_, err := srv.in.Receive(pdu, s.now)
	s.ok(srv, err)
	s.pump(srv)
}

// send pushes what a peer has not acknowledged, as the sender with its cursor
// does, and comes back later.
func (s *sim) send(from, to *simServer) {
	defer s.after(40+s.rng.Int64N(60), func() { s.send(from, to) })
	at := from.cursor[to.name]
	if at >= len(from.store.log) || !s.reachable(from.name, to.name) {
		return
	}
	var batch []*spec.Event
	upTo := min(at+10, len(from.store.log))
	for _, e := range from.store.log[at:upTo] {
		if e.Kind == storage.LogEvent && strings.Contains(e.Text, LogOurs) {
			batch = append(batch, from.store.events[e.EventNID].Event)
		}
	}
	deliver := func() {
		for _, ev := range batch {
			s.receive(to, PDU{Event: s.reparse(ev), Origin: from.name})
		}
		if s.reachable(to.name, from.name) { // else the answer is lost and it is sent again
			from.cursor[to.name] = max(from.cursor[to.name], upTo)
		}
	}
	s.after(s.delay(), deliver)
	if s.rng.IntN(10) == 0 {
		s.after(s.delay(), deliver) // twice
	}
}

// reparse takes an event over the wire.
func (s *sim) reparse(ev *spec.Event) *spec.Event {
	out, err := spec.ParseEvent(s.rules, ev.AppendFederation(nil, 0))
	if err != nil {
		s.t.Fatalf("event %s does not parse: %v", ev.ID, err)
	}
	return out
}

// fetch answers a request after a while, or fails it.
func (s *sim) fetch(srv *simServer, f Fetch) {
	in := srv.in
	s.seen[[]string{FetchMissing: "missing events", FetchStateIDs: "state ids", FetchAuth: "auth chain", FetchEvents: "single events"}[f.Kind]]++
	s.after(s.delay(), func() {
		if srv.in != in {
			return
		}
		answer := Answer{Failed: true}
		for _, name := range f.From {
			peer := s.byName[name]
			if peer != nil && s.reachable(srv.name, name) && s.answer(peer, f, &answer) {
				break
			}
		}
		s.ok(srv, srv.in.Fetched(f.ID, answer, s.now))
		s.pump(srv)
	})
}

// answer gives what a peer has committed; false if it has nothing of it.
func (s *sim) answer(peer *simServer, f Fetch, a *Answer) bool {
	st := peer.store
	add := func(id spec.EventID) {
		if row := st.events[st.ids[id]]; row != nil && row.Rejected == "" {
			a.Events = append(a.Events, s.reparse(row.Event))
		}
	}
	switch f.Kind {
	case FetchMissing:
		for _, id := range s.between(st, f) {
			add(id)
		}
	case FetchEvents:
		for _, id := range f.Events {
			add(id)
		}
	default:
		row := st.events[st.ids[f.Event]]
		if row == nil || row.Kind != storage.StateRoot {
			return false
		}
		state := map[spec.EventID]bool{}
		if f.Kind == FetchStateIDs {
			err := spec.Walk(st, row.Before, func(leaf spec.Leaf) error {
				state[st.events[leaf.Event].Event.ID] = true
				return nil
			})
			if err != nil {
				s.t.Fatal(err)
			}
		} else {
			state[f.Event] = true
		}
		chain := s.chain(st, state)
		for id := range chain {
			if f.Kind == FetchStateIDs {
				a.AuthIDs = append(a.AuthIDs, id)
			} else {
				add(id)
			}
		}
		if f.Kind == FetchStateIDs {
			for id := range state {
				a.StateIDs = append(a.StateIDs, id)
			}
		}
		slices.Sort(a.AuthIDs)
		slices.Sort(a.StateIDs)
		slices.SortFunc(a.Events, func(x, y *spec.Event) int { return compareIDs(x.ID, y.ID) })
	}
	a.Failed = false
	return len(a.Events)+len(a.StateIDs) > 0
}

func (s *sim) chain(st *memStore, of map[spec.EventID]bool) map[spec.EventID]bool {
	chain := map[spec.EventID]bool{}
	var todo []spec.EventID
	for id := range of {
		todo = append(todo, st.events[st.ids[id]].Event.Auth...)
	}
	for len(todo) > 0 {
		id := todo[0]
		todo = todo[1:]
		if chain[id] {
			continue
		}
		chain[id] = true
		todo = append(todo, st.events[st.ids[id]].Event.Auth...)
	}
	return chain
}

func (s *sim) between(st *memStore, f Fetch) []spec.EventID {
	var out, todo []spec.EventID
	seen := map[spec.EventID]bool{}
	for _, id := range f.Earliest {
		seen[id] = true
	}
	if row := st.events[st.ids[f.Event]]; row != nil {
		todo = append(todo, row.Event.Prev...)
	}
	for len(todo) > 0 && len(out) < f.Limit {
		id := todo[0]
		todo = todo[1:]
		row := st.events[st.ids[id]]
		if seen[id] || row == nil {
			continue
		}
		seen[id] = true
		out = append(out, id)
		todo = append(todo, row.Event.Prev...)
	}
	return out
}

// act lets some client of some server do something.
func (s *sim) act(n int) {
	srv := s.servers[s.rng.IntN(len(s.servers))]
	sender := srv.users[s.rng.IntN(len(srv.users))]
	p := Proposal{Sender: sender, OriginServerTS: s.now, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":"%d"}`, n)}
	state := func(kind, key, content string) { p.Type, p.StateKey, p.Content = kind, &key, []byte(content) }
	anyone := s.servers[s.rng.IntN(len(s.servers))]
	target := anyone.users[s.rng.IntN(len(anyone.users))]
	switch s.rng.IntN(12) {
	case 0, 1:
		state("m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, n))
	case 2, 3:
		state("m.room.member", string(sender), `{"membership":"join"}`)
	case 4:
		if sender != srv.users[0] { // one user of each server stays
			state("m.room.member", string(sender), `{"membership":"leave"}`)
		}
	case 5:
		if s.stays(target) {
			state("m.room.member", string(target), `{"membership":"ban"}`)
		}
	case 6:
		if s.stays(target) {
			state("m.room.member", string(target), `{"membership":"leave"}`)
		}
	case 7:
		state("m.room.power_levels", "", s.levels(n))
	case 8:
		// Never to invite: whoever joined on another branch would be out after
		// the merge, and with the one user who stays a server as well.
		state("m.room.join_rules", "", fmt.Sprintf(`{"join_rule":"public","n":%d}`, n))
	}
	row, seq, err := srv.core.Propose(p)
	if refused := (*spec.AuthError)(nil); errors.As(err, &refused) {
		s.logf("%s: %s %s refused: %s", srv.name, sender, p.Type, refused.Reason)
		return
	}
	s.ok(srv, err)
	s.logf("%s: %s %s %s → %s", srv.name, sender, p.Type, p.Content, row.Event.ID)
	srv.waiting[seq] = append(srv.waiting[seq], row.Event.ID)
	s.pump(srv)
}

// stays reports whether the user may be thrown out: not the one of each server
// who keeps it in the room.
func (s *sim) stays(u spec.UserID) bool { return !strings.HasPrefix(string(u), "@a:") }

func (s *sim) levels(n int) string {
	users := []string{}
	for _, srv := range s.servers {
		for i, u := range srv.users {
			if s.rules.CreatorPower && u == s.servers[0].users[0] {
				continue
			}
			level := []int{100, 50, 0}[i]
			if i > 0 && s.rng.IntN(3) == 0 {
				level = []int{0, 50, 75}[s.rng.IntN(3)]
			}
			users = append(users, fmt.Sprintf("%q:%d", u, level))
		}
	}
	return fmt.Sprintf(`{"users":{%s},"users_default":0,"events_default":0,"state_default":%d,"ban":50,"kick":50,"redact":50,"invite":0,"events":{"m.room.power_levels":50}}`,
		strings.Join(users, ","), []int{0, 0, 25}[s.rng.IntN(3)])
}

// run plays a schedule of clients' doings and faults, heals everything and lets
// the servers settle.
func (s *sim) run(actions int) {
	s.loss = 0.15
	for _, a := range s.servers {
		for _, b := range s.servers {
			if a != b {
				s.send(a, b)
			}
		}
	}
	for n := range actions {
		s.after(s.rng.Int64N(20_000), func() { s.act(n) })
	}
	for range 3 {
		a, b := s.servers[s.rng.IntN(3)].name, s.servers[s.rng.IntN(3)].name
		from := s.rng.Int64N(15_000)
		s.after(from, func() { s.cut[[2]spec.ServerName{a, b}] = true; s.logf("cut %s %s", a, b) })
		s.after(from+s.rng.Int64N(10_000), func() { delete(s.cut, [2]spec.ServerName{a, b}) })
	}
	for range 2 {
		srv := s.servers[s.rng.IntN(3)]
		s.after(s.rng.Int64N(20_000), func() {
			s.logf("%s restarts", srv.name)
			s.boot(srv)
		})
	}
	heal := s.now + 30_000
	for s.now < heal && s.step() {
	}
	clear(s.cut)
	s.loss = 0
	// One more message of each server ties its forks together.
	for end := s.now + 600_000; s.now < end && s.step(); {
		if s.settled() {
			break
		}
	}
	for _, srv := range s.servers {
		row, seq, err := srv.core.Propose(Proposal{Sender: s.speaker(srv), Type: "m.room.message", Content: []byte(`{"body":"last"}`), OriginServerTS: s.now})
		s.ok(srv, err)
		srv.waiting[seq] = append(srv.waiting[seq], row.Event.ID)
		s.pump(srv)
		for end := s.now + 600_000; s.now < end && s.step(); {
			if s.settled() {
				break
			}
		}
	}
}

// speaker is a user of the server who may speak: the one who stays.
func (s *sim) speaker(srv *simServer) spec.UserID { return srv.users[0] }

// settled reports whether nothing is under way and everybody was told all.
func (s *sim) settled() bool {
	for _, a := range s.servers {
		if a.flight != nil || a.core.Pending() || a.in.Waiting() > 0 {
			return false
		}
		for _, b := range s.servers {
			if a != b && a.cursor[b.name] < len(a.store.log) {
				return false
			}
		}
	}
	return true
}

// check verifies what must hold after everything has healed.
func (s *sim) check() {
	if !s.settled() {
		for _, srv := range s.servers {
			s.t.Errorf("%s did not settle: %d waiting", srv.name, srv.in.Waiting())
		}
		s.t.FailNow()
	}
	first := s.servers[0].core.CommittedView()
	for _, srv := range s.servers {
		view := srv.core.CommittedView()
		if !slices.EqualFunc(view.Extremities, first.Extremities, func(a, b Extremity) bool { return a.ID == b.ID }) {
			s.t.Errorf("%s has extremities %v, %s has %v", srv.name, ids(view), s.servers[0].name, ids(first))
		} else if view.Root != first.Root {
			s.t.Errorf("%s has state %s, %s has %s at the same extremities", srv.name, view.Root, s.servers[0].name, first.Root)
		}
		s.checkAnswers(srv)
		s.checkState(srv)
	}
}

// checkAnswers: what a client was told is sent is known everywhere.
func (s *sim) checkAnswers(srv *simServer) {
	for id := range srv.answers {
		for _, other := range s.servers {
			if row, _ := other.store.EventByID(id); row == nil {
				s.t.Errorf("%s acknowledged %s, %s does not know it", srv.name, id, other.name)
			}
		}
	}
}

// checkState: the derived numbers agree with the state, and nothing rejected or
// unknown is in it.
func (s *sim) checkState(srv *simServer) {
	var joined, invited int64
	err := spec.Walk(srv.store, srv.store.room.Root, func(leaf spec.Leaf) error {
		row := srv.store.events[leaf.Event]
		if row.Rejected != "" {
			s.t.Errorf("%s: rejected event %s is in the state", srv.name, row.Event.ID)
		}
		if row.Event.Type == "m.room.member" {
			joined += changed("", row.Event.Membership(), "join")
			invited += changed("", row.Event.Membership(), "invite")
			if got := srv.store.members[spec.UserID(*row.Event.State)]; got != row.Event.Membership() {
				s.t.Errorf("%s: membership of %s is %q in the table, %q in the state", srv.name, *row.Event.State, got, row.Event.Membership())
			}
		}
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	if srv.store.room.Joined != joined || srv.store.room.Invited != invited {
		s.t.Errorf("%s counts %d joined and %d invited, the state has %d and %d", srv.name, srv.store.room.Joined, srv.store.room.Invited, joined, invited)
	}
}

func ids(v View) (out []spec.EventID) {
	for _, e := range v.Extremities {
		out = append(out, e.ID)
	}
	return out
}

// TestSimulation runs the room cores of three servers under loss, delay,
// duplicates, partitions and restarts. They must converge to one state and lose
// nothing that was acknowledged. A failing seed is replayed exactly by
// -sim.seed.
func TestSimulation(t *testing.T) {
	for _, version := range []spec.RoomVersion{"1", "2", "10", "11", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			seeds := make([]uint64, *simSeeds)
			for i := range seeds {
				seeds[i] = uint64(i + 1)
			}
			if *simSeed != 0 {
				seeds = []uint64{*simSeed}
			}
			seen := map[string]int{}
			for _, seed := range seeds {
				s := newSim(t, seed, version, *simSeed != 0)
				s.run(60)
				s.check()
				for what, n := range s.seen {
					seen[what] += n
				}
				if t.Failed() {
					t.Fatalf("replay with: go test ./server/roomcore -run 'TestSimulation/version_%s' -sim.seed=%d -v", version, seed)
				}
			}
			t.Logf("exercised: %v", seen)
			for _, what := range []string{
				"accepted", "soft failure", "missing events", "state ids", "retry", "duplicate",
				"another chance", "fork resolved", "restart with a commit in flight",
			} {
				if seen[what] == 0 && len(seeds) > 100 {
					t.Errorf("no seed exercised: %s", what)
				}
			}
		})
	}
}
