package roomcore

import (
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// Limits of what one room keeps waiting.
const (
	// MaxWaiting is how many PDUs one room holds back at most; more are refused
	// so that the sender tries again later.
	MaxWaiting = 1000
	// missingLimit is how many events one get_missing_events request asks for.
	missingLimit = 20
	// retryFirst and retryMost bound the pause between two attempts, in ms.
	retryFirst = 5_000
	retryMost  = 3_600_000
	// fetchServers is how many servers one fetch may be tried at.
	fetchServers = 4
)

// FetchKind says what to ask another server for.
type FetchKind uint8

const (
	// FetchMissing asks for the events between Earliest and Event.
	// Spec: server-server-api#backfilling-and-retrieving-missing-events.
	FetchMissing FetchKind = iota + 1
	// FetchStateIDs asks for the ids of the state before Event and its auth chain.
	FetchStateIDs
	// FetchAuth asks for the auth chain of Event.
	FetchAuth
	// FetchEvents asks for Events, each for itself.
	FetchEvents
)

// Fetch is an output: something that the owner has to ask other servers for. It
// tries From in order and hands the answer to Fetched, also an empty one.
type Fetch struct {
	ID       uint64
	Kind     FetchKind
	From     []spec.ServerName
	Event    spec.EventID
	Events   []spec.EventID
	Earliest []spec.EventID
	Limit    int
}

// Answer is what came of a Fetch. Events are parsed, of good signature, in any
// order; what could not be had or failed these checks is left out.
type Answer struct {
	Events   []*spec.Event
	StateIDs []spec.EventID // FetchStateIDs only, the state before the event
	AuthIDs  []spec.EventID
	MinDepth int64 // FetchMissing only: the depth below which nothing was wanted
	Failed   bool  // nobody answered
}

// PDU is an event that came from another server, parsed, of good signature.
type PDU struct {
	Event  *spec.Event
	Origin spec.ServerName
	Ours   bool // it completes a join, leave or knock through us
}

// Judged is an output: the verdict on a PDU that was handed to Receive.
type Judged struct {
	Event   spec.EventID
	Verdict Verdict
}

// Inbound holds the PDUs of a room until they can be judged: it finds out what
// they lack, asks for it, and tries again on a schedule and whenever one is
// received again. Like Core it is a step machine and belongs to one owner.
type Inbound struct {
	core    *Core
	waiting map[spec.EventID]*waiter
	wants   map[spec.EventID][]spec.EventID // an event, and those that wait for it
	fetches map[uint64]*fetching
	nextID  uint64

	judged []Judged
	asked  []Fetch
}

// waiter is one PDU without a verdict.
type waiter struct {
	pdu       PDU
	filled    bool // get_missing_events was tried, or it came from one
	authAsked bool
	fetch     uint64 // the request under way for it, 0: none
	attempts  int
	retryAt   int64 // ms; 0: something under way will bring it on
}

// fetching remembers what a request was for.
type fetching struct {
	kind   FetchKind
	waiter spec.EventID
	anchor spec.EventID // the predecessor whose state is being fetched
	state  []spec.EventID
}

// NewInbound returns an Inbound with nothing waiting.
func NewInbound(core *Core) *Inbound {
	return &Inbound{
		core: core, waiting: map[spec.EventID]*waiter{},
		wants: map[spec.EventID][]spec.EventID{}, fetches: map[uint64]*fetching{},
	}
}

// Waiting returns how many PDUs have no verdict yet.
func (in *Inbound) Waiting() int { return len(in.waiting) }

// Has reports whether the PDU waits here.
func (in *Inbound) Has(id spec.EventID) bool { return in.waiting[id] != nil }

// Outputs returns what is to be done since the last call: verdicts to hand on
// and requests to send.
func (in *Inbound) Outputs() ([]Judged, []Fetch) {
	judged, asked := in.judged, in.asked
	in.judged, in.asked = nil, nil
	return judged, asked
}

// Receive takes a PDU in. Its verdict comes as an output, at once or later. It
// reports false, and takes nothing, when too many are waiting already. now is
// in milliseconds.
func (in *Inbound) Receive(pdu PDU, now int64) (bool, error) {
	w := in.waiting[pdu.Event.ID]
	if w == nil {
		if len(in.waiting) >= MaxWaiting {
			// What can be judged at once needs no place.
			if lacks, err := in.core.lacks(pdu.Event); err != nil || !lacks.none() {
				return false, err
			}
		}
		in.waiting[pdu.Event.ID] = &waiter{pdu: pdu}
		return true, in.bringOn([]spec.EventID{pdu.Event.ID}, now)
	}
	return true, in.bringOn(in.again(w, pdu.Origin), now)
}

// again gives a waiter another chance, now from the server that sent it once
// more, and with it those that it waits behind.
func (in *Inbound) again(w *waiter, origin spec.ServerName) []spec.EventID {
	ids := in.behind(w)
	for _, id := range ids {
		if w := in.waiting[id]; w.fetch == 0 {
			w.pdu.Origin, w.filled, w.authAsked = origin, false, false
		}
	}
	slices.Reverse(ids) // the deepest first
	return ids
}

// behind returns the waiter itself and all others that it refers to, at once or
// by way of each other.
func (in *Inbound) behind(w *waiter) []spec.EventID {
	ids := []spec.EventID{w.pdu.Event.ID}
	seen := map[spec.EventID]bool{ids[0]: true}
	for n := 0; n < len(ids); n++ {
		ev := in.waiting[ids[n]].pdu.Event
		for _, id := range slices.Concat(ev.Auth, ev.Prev) {
			if in.waiting[id] != nil && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// Wake tries again what is due and returns when to call next, in ms; 0: nothing
// waits for a time.
func (in *Inbound) Wake(now int64) (int64, error) {
	var due []spec.EventID
	for id, w := range in.waiting {
		if w.retryAt != 0 && w.retryAt <= now {
			w.retryAt, w.filled, w.authAsked = 0, false, false
			due = append(due, id)
		}
	}
	slices.Sort(due)
	if err := in.bringOn(due, now); err != nil {
		return 0, err
	}
	var next int64
	for _, w := range in.waiting {
		if w.retryAt != 0 && (next == 0 || w.retryAt < next) {
			next = w.retryAt
		}
	}
	return next, nil
}

// bringOn works through the given waiters and all that their verdicts set free.
func (in *Inbound) bringOn(ids []spec.EventID, now int64) error {
	for len(ids) > 0 {
		id := ids[0]
		ids = ids[1:]
		w := in.waiting[id]
		if w == nil || w.fetch != 0 {
			continue
		}
		done, err := in.step(w, now)
		if err != nil {
			return err
		}
		if done {
			ids = append(ids, in.free(id)...)
		}
	}
	return nil
}

// free returns those that waited for the event, in order.
func (in *Inbound) free(id spec.EventID) []spec.EventID {
	ids := in.wants[id]
	delete(in.wants, id)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// step brings one waiter as far as it goes and reports whether it was judged.
func (in *Inbound) step(w *waiter, now int64) (bool, error) {
	ev := w.pdu.Event
	lacks, err := in.core.lacks(ev)
	if err != nil {
		return false, err
	}
	placed, err := in.core.placed(ev.ID) // by way of another that needed it
	if err != nil {
		return false, err
	}
	if placed || lacks.none() {
		v, err := in.core.Insert(ev, Place{Live: true, Ours: w.pdu.Ours})
		if err != nil {
			return false, err
		}
		in.judge(ev.ID, v)
		return true, nil
	}
	switch {
	case in.blocked(w, lacks.auth), len(lacks.auth) == 0 && in.blocked(w, lacks.prev):
		// Those it waits for bring it on.
	case len(lacks.auth) > 0 && !w.authAsked:
		w.authAsked = true
		in.ask(w, Fetch{Kind: FetchAuth, Event: ev.ID}, &fetching{})
	case len(lacks.auth) > 0:
		in.later(w, now)
	case !w.filled:
		w.filled = true
		in.ask(w, Fetch{Kind: FetchMissing, Event: ev.ID, Earliest: in.extremities(), Limit: missingLimit}, &fetching{})
	default:
		anchor := in.firstUnknown(lacks.prev)
		in.ask(w, Fetch{Kind: FetchStateIDs, Event: anchor}, &fetching{anchor: anchor})
	}
	return false, nil
}

func (in *Inbound) judge(id spec.EventID, v Verdict) {
	delete(in.waiting, id)
	in.judged = append(in.judged, Judged{Event: id, Verdict: v})
}

// blocked reports whether one of the events is itself waiting, and then puts w
// behind all of those.
func (in *Inbound) blocked(w *waiter, ids []spec.EventID) bool {
	blocked := false
	for _, id := range ids {
		other := in.waiting[id]
		if other == nil || other == w || in.circular(other, w) {
			continue
		}
		if !slices.Contains(in.wants[id], w.pdu.Event.ID) {
			in.wants[id] = append(in.wants[id], w.pdu.Event.ID)
		}
		blocked = true
	}
	return blocked
}

// circular reports whether a waiter refers to another one that refers to it, which
// is possible only where servers choose the ids of their events.
// Spec: rooms/v1#event-ids
func (in *Inbound) circular(from, to *waiter) bool {
	return in.core.cfg.Rules.EventIDs == spec.EventIDChosen && slices.Contains(in.behind(from), to.pdu.Event.ID)
}

func (in *Inbound) firstUnknown(ids []spec.EventID) spec.EventID {
	for _, id := range ids {
		if in.waiting[id] == nil {
			return id
		}
	}
	return ids[0]
}

func (in *Inbound) extremities() []spec.EventID {
	ids := make([]spec.EventID, 0, len(in.core.head.Extremities))
	for _, e := range in.core.head.Extremities {
		ids = append(ids, e.ID)
	}
	return ids
}

func (in *Inbound) ask(w *waiter, f Fetch, about *fetching) {
	in.nextID++
	f.ID, f.From = in.nextID, in.servers(w)
	about.kind, about.waiter = f.Kind, w.pdu.Event.ID
	w.fetch, w.retryAt = f.ID, 0
	in.fetches[f.ID] = about
	in.asked = append(in.asked, f)
}

// servers lists whom to ask: the sender of the PDU, the server that made it,
// and some others in the room.
func (in *Inbound) servers(w *waiter) []spec.ServerName {
	self := in.core.cfg.Server
	list := make([]spec.ServerName, 0, fetchServers)
	add := func(s spec.ServerName) {
		if s != "" && s != self && len(list) < fetchServers && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	add(w.pdu.Origin)
	add(w.pdu.Event.Sender.Server())
	for _, s := range in.core.Servers() {
		add(s)
	}
	return list
}

// later puts the waiter off; each further attempt waits twice as long.
func (in *Inbound) later(w *waiter, now int64) {
	pause := int64(retryFirst) << min(w.attempts, 20)
	w.attempts++
	w.retryAt = now + min(pause, retryMost)
}

// Fetched takes the answer to a Fetch. Answers to requests of an earlier life of
// the room are ignored.
func (in *Inbound) Fetched(id uint64, a Answer, now int64) error {
	about := in.fetches[id]
	if about == nil {
		return nil
	}
	delete(in.fetches, id)
	w := in.waiting[about.waiter]
	if w == nil {
		return nil
	}
	w.fetch = 0
	a.Events = in.ofRoom(w.pdu.Event, a.Events)
	switch about.kind {
	case FetchMissing:
		return in.gotMissing(w, a, now)
	case FetchAuth:
		return in.gotAuth(w, a, now)
	case FetchStateIDs:
		return in.gotStateIDs(w, about, a, now)
	default:
		return in.gotEvents(w, about, a, now)
	}
}

// ofRoom drops events of other rooms, which a peer has no business to send here,
// unless it was asked for what an event cites: that decides its fate.
func (in *Inbound) ofRoom(by *spec.Event, events []*spec.Event) []*spec.Event {
	return slices.DeleteFunc(events, func(ev *spec.Event) bool {
		if ev.Room == in.core.cfg.Room {
			return false
		}
		if slices.Contains(by.Auth, ev.ID) {
			in.core.noteForeign(ev.ID)
		}
		return true
	})
}

// gotMissing takes in what leads from the waiting event to what is here. The
// rest of the answer may be much older than what clients have seen.
func (in *Inbound) gotMissing(w *waiter, a Answer, now int64) error {
	given := make(map[spec.EventID]*spec.Event, len(a.Events))
	for _, ev := range a.Events {
		if ev.Depth >= a.MinDepth {
			given[ev.ID] = ev
		}
	}
	ids := []spec.EventID{w.pdu.Event.ID}
	for open := []*spec.Event{w.pdu.Event}; len(open) > 0; open = open[1:] {
		lacks, err := in.core.lacks(open[0])
		if err != nil {
			return err
		}
		for _, id := range lacks.prev {
			ev := given[id]
			if ev == nil {
				continue
			}
			delete(given, id)
			open = append(open, ev)
			ids = append(ids, id)
			if in.waiting[id] == nil && len(in.waiting) < MaxWaiting {
				in.waiting[id] = &waiter{pdu: PDU{Event: ev, Origin: w.pdu.Origin}, filled: true}
			}
		}
	}
	slices.Reverse(ids) // the oldest first
	return in.bringOn(ids, now)
}

// outliers keeps events without a place and returns who waited for one of them.
func (in *Inbound) outliers(events []*spec.Event) ([]spec.EventID, error) {
	if err := in.core.insertOutliers(events); err != nil {
		return nil, err
	}
	var freed []spec.EventID
	for _, ev := range events {
		freed = append(freed, in.free(ev.ID)...)
	}
	return freed, nil
}

func (in *Inbound) gotAuth(w *waiter, a Answer, now int64) error {
	freed, err := in.outliers(a.Events)
	if err != nil {
		return err
	}
	lacks, err := in.core.lacks(w.pdu.Event)
	if err != nil {
		return err
	}
	if len(lacks.auth) > 0 {
		// The chain was not to be had as a whole; its members may be.
		in.ask(w, Fetch{Kind: FetchEvents, Events: lacks.auth}, &fetching{})
	}
	return in.bringOn(append(freed, w.pdu.Event.ID), now)
}

func (in *Inbound) gotStateIDs(w *waiter, about *fetching, a Answer, now int64) error {
	if a.Failed {
		in.later(w, now)
		return nil
	}
	want := append(slices.Clone(a.StateIDs), a.AuthIDs...)
	want = append(want, about.anchor)
	slices.Sort(want)
	var unknown []spec.EventID
	for _, id := range slices.Compact(want) {
		row, err := in.core.Event(id)
		if err != nil {
			return err
		}
		if row == nil {
			unknown = append(unknown, id)
		}
	}
	next := &fetching{anchor: about.anchor, state: a.StateIDs}
	if len(unknown) == 0 {
		return in.anchor(w, next, nil, now)
	}
	in.ask(w, Fetch{Kind: FetchEvents, Event: about.anchor, Events: unknown}, next)
	return nil
}

func (in *Inbound) gotEvents(w *waiter, about *fetching, a Answer, now int64) error {
	if about.anchor == "" {
		freed, err := in.outliers(a.Events)
		if err != nil {
			return err
		}
		return in.bringOn(append(freed, w.pdu.Event.ID), now)
	}
	return in.anchor(w, about, a.Events, now)
}

// anchor gives a predecessor whose own past we lack its place, by the state that
// another server told, so that what follows it can be judged.
func (in *Inbound) anchor(w *waiter, about *fetching, events []*spec.Event, now int64) error {
	var anchor *spec.Event
	rest := make([]*spec.Event, 0, len(events))
	for _, ev := range events {
		if ev.ID == about.anchor {
			anchor = ev
		} else {
			rest = append(rest, ev)
		}
	}
	ids, err := in.outliers(rest)
	if err != nil {
		return err
	}
	ok, err := in.placeAnchor(anchor, about)
	if err != nil {
		return err
	}
	if !ok {
		in.later(w, now)
		return in.bringOn(ids, now)
	}
	ids = append(ids, about.anchor) // if it came as a PDU too
	ids = append(ids, in.free(about.anchor)...)
	return in.bringOn(append(ids, w.pdu.Event.ID), now)
}

func (in *Inbound) placeAnchor(anchor *spec.Event, about *fetching) (bool, error) {
	if anchor == nil {
		row, err := in.core.Event(about.anchor)
		if err != nil || row == nil {
			return false, err
		}
		anchor = row.Event
	}
	for _, id := range about.state {
		if row, err := in.core.Event(id); err != nil || row == nil {
			return false, err // a state with holes is no state
		}
	}
	lacks, err := in.core.lacks(anchor)
	if err != nil || len(lacks.auth) > 0 {
		return false, err
	}
	var at Place
	if pdu := in.waiting[anchor.ID]; pdu != nil {
		at.Live, at.Ours = true, pdu.pdu.Ours // it came as a new event as well
	}
	if len(lacks.prev) > 0 {
		root, err := in.core.ForeignState(about.state)
		if err != nil {
			return false, err
		}
		// A rejection is final, so it must not rest on what one server says.
		if reason, err := in.core.refusalBy(anchor, root); err != nil || reason != "" {
			return false, err
		}
		at.Before = &root
	}
	if _, err := in.core.Insert(anchor, at); err != nil {
		return false, err
	}
	row, err := in.core.Event(about.anchor)
	return row != nil && row.Kind == storage.StateRoot, err
}
