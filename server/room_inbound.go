package server

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// inboundTimeout bounds one fetch for a waiting event, over all servers asked.
const inboundTimeout = 60 * time.Second

// receive hands a parsed PDU of good signature to the room and returns a channel
// that gets its verdict once that is durable. The channel is closed without one
// when the owner is given up. It is nil when the room has too much waiting.
func (r *room) receive(pdu roomcore.PDU) (chan roomcore.Verdict, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.given != nil {
		return nil, errStaleRoom
	}
	ch := make(chan roomcore.Verdict, 1)
	id := pdu.Event.ID
	r.verdicts[id] = append(r.verdicts[id], ch)
	taken, err := r.inbound.Receive(pdu, r.rooms.ms())
	if err != nil {
		r.giveUpLocked(err)
		return nil, errStaleRoom
	}
	if !taken {
		r.forgetLocked(id, ch)
		return nil, nil
	}
	r.pumpLocked()
	return ch, nil
}

// forget stops waiting for a verdict.
func (r *room) forget(id spec.EventID, ch chan roomcore.Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetLocked(id, ch)
}

func (r *room) forgetLocked(id spec.EventID, ch chan roomcore.Verdict) {
	chs := r.verdicts[id]
	for i, other := range chs {
		if other == ch {
			chs = append(chs[:i], chs[i+1:]...)
			break
		}
	}
	if len(chs) == 0 {
		delete(r.verdicts, id)
	} else {
		r.verdicts[id] = chs
	}
}

// pumpLocked carries out what the step machine wants done.
func (r *room) pumpLocked() {
	judged, asked := r.inbound.Outputs()
	for _, j := range judged {
		r.judgedLocked(j)
	}
	for _, f := range asked {
		r.rooms.spawn(func() { r.fetch(f) })
	}
	r.kickLocked()
	r.wakeLocked()
}

// judgedLocked tells a verdict to those who wait for it, when it is durable.
func (r *room) judgedLocked(j roomcore.Judged) {
	chs := r.verdicts[j.Event]
	delete(r.verdicts, j.Event)
	wait := r.waitLocked(j.Verdict.Seq)
	done := func() {
		for _, ch := range chs {
			ch <- j.Verdict
		}
		r.rooms.ledgerDone(r, j.Event)
	}
	if wait == nil {
		done()
		return
	}
	r.rooms.spawn(func() {
		if err := <-wait; err != nil {
			for _, ch := range chs {
				close(ch)
			}
			return
		}
		done()
	})
}

// wakeLocked sets the timer for what has to be tried again.
func (r *room) wakeLocked() {
	now := r.rooms.ms()
	next, err := r.inbound.Wake(now)
	if err != nil {
		r.giveUpLocked(err)
		return
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if next == 0 {
		return
	}
	r.timer = time.AfterFunc(time.Duration(next-now)*time.Millisecond, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.given == nil && r.rooms.life.Err() == nil {
			r.wakeLocked()
			r.pumpOutputsLocked()
		}
	})
}

// pumpOutputsLocked is pumpLocked without setting the timer again.
func (r *room) pumpOutputsLocked() {
	judged, asked := r.inbound.Outputs()
	for _, j := range judged {
		r.judgedLocked(j)
	}
	for _, f := range asked {
		r.rooms.spawn(func() { r.fetch(f) })
	}
	r.kickLocked()
}

// fetch asks other servers for what the room lacks and hands the answer in.
func (r *room) fetch(f roomcore.Fetch) {
	ctx, cancel := context.WithTimeout(r.rooms.life, inboundTimeout)
	defer cancel()
	answer := r.rooms.fetch(ctx, r, f)
	if r.rooms.life.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.given != nil {
		return
	}
	if err := r.inbound.Fetched(f.ID, answer, r.rooms.ms()); err != nil {
		r.giveUpLocked(err)
		return
	}
	r.pumpLocked()
}

// fetch tries the servers in order until one gives something.
func (rs *Rooms) fetch(ctx context.Context, r *room, f roomcore.Fetch) roomcore.Answer {
	answer := roomcore.Answer{Failed: true}
	if rs.remote == nil {
		return answer
	}
	if f.Kind == roomcore.FetchMissing {
		depth, err := rs.oldestDepth(ctx, r)
		if err != nil {
			return answer
		}
		answer.MinDepth = depth
	}
	want := f.Events
	for _, server := range f.From {
		if ctx.Err() != nil {
			return answer
		}
		got, err := rs.fetchFrom(ctx, server, r, f, want, answer.MinDepth)
		if err != nil {
			rs.log.Debug("fetch failed", "room", r.id, "dest", server, "event", f.Event, "cause", err)
		}
		if err != nil && len(got.Events) == 0 {
			continue
		}
		answer.Failed = false
		answer.Events = append(answer.Events, got.Events...)
		answer.StateIDs, answer.AuthIDs = got.StateIDs, got.AuthIDs
		if want = without(want, got.Events); len(want) == 0 {
			break
		}
	}
	return answer
}

func without(ids []spec.EventID, events []*spec.Event) []spec.EventID {
	have := make(map[spec.EventID]bool, len(events))
	for _, ev := range events {
		have[ev.ID] = true
	}
	var left []spec.EventID
	for _, id := range ids {
		if !have[id] {
			left = append(left, id)
		}
	}
	return left
}

// manyEvents is from how many wanted events on the whole state is asked for
// instead of each event.
const manyEvents = 40

// oldestDepth returns the depth of the oldest event of the room's timeline. What
// is older was before this server joined, and is had by paging back.
func (rs *Rooms) oldestDepth(ctx context.Context, r *room) (int64, error) {
	var depth int64
	err := rs.db.Read(ctx, func(tx *storage.Tx) error {
		rows, _, err := tx.Timeline(storage.TimelineQuery{RoomNID: r.nid, Limit: 1})
		if err == nil && len(rows) > 0 {
			depth = rows[0].Event.Depth
		}
		return err
	})
	return depth, err
}

func (rs *Rooms) fetchFrom(ctx context.Context, from spec.ServerName, r *room, f roomcore.Fetch, want []spec.EventID, minDepth int64) (roomcore.Answer, error) {
	var raw [][]byte
	var err error
	switch f.Kind {
	case roomcore.FetchMissing:
		raw, err = rs.remote.MissingEvents(ctx, from, MissingEventsRequest{
			Room: r.id, Earliest: f.Earliest, Latest: []spec.EventID{f.Event}, Limit: f.Limit, MinDepth: minDepth,
		})
	case roomcore.FetchAuth:
		raw, err = rs.remote.EventAuth(ctx, from, r.id, f.Event)
	case roomcore.FetchStateIDs:
		ids, err := rs.remote.StateIDs(ctx, from, r.id, f.Event)
		if err != nil {
			return roomcore.Answer{}, err
		}
		return roomcore.Answer{StateIDs: ids.State, AuthIDs: ids.AuthChain}, nil
	case roomcore.FetchEvents:
		raw, err = rs.fetchEvents(ctx, from, r, f, want)
	}
	events := rs.verified(ctx, r.rules, raw)
	if f.Kind == roomcore.FetchMissing {
		// New to the room, unlike state and auth chains: the limits hold.
		events = slices.DeleteFunc(events, func(ev *spec.Event) bool { return ev.CheckReferences() != nil })
	}
	return roomcore.Answer{Events: events}, err
}

// fetchEvents gets single events, or the whole state when that is less work.
func (rs *Rooms) fetchEvents(ctx context.Context, from spec.ServerName, r *room, f roomcore.Fetch, want []spec.EventID) ([][]byte, error) {
	var raw [][]byte
	if f.Event != "" && len(want) > manyEvents {
		if state, err := rs.remote.State(ctx, from, r.id, f.Event); err == nil {
			raw = append(state.State, state.AuthChain...)
			// The state is that before the event; the event itself is asked for.
			want = []spec.EventID{f.Event}
		}
	}
	more, err := fetchEach(ctx, rs.remote, from, want)
	return append(raw, more...), err
}

// verified parses events and keeps those whose format and signatures are good.
func (rs *Rooms) verified(ctx context.Context, rules *spec.Rules, raw [][]byte) []*spec.Event {
	events := make([]*spec.Event, 0, len(raw))
	for _, b := range raw {
		ev, err := spec.ParseEvent(rules, b)
		if err != nil {
			rs.log.Debug("dropped a malformed event", "cause", err)
			continue
		}
		events = append(events, ev)
	}
	good := events[:0]
	for i, err := range rs.remote.VerifyEvents(ctx, events) {
		if err != nil {
			rs.log.Debug("dropped an event of bad signature", "event", events[i].ID, "cause", err)
			continue
		}
		good = append(good, events[i])
	}
	return good
}

// keep puts an event into the ledger, where it survives a restart.
func (rs *Rooms) keep(ctx context.Context, r *room, origin spec.ServerName, ev *spec.Event) error {
	r.ledger.mu.Lock()
	if r.ledger.kept == nil {
		r.ledger.kept = map[spec.EventID]bool{}
	}
	full := len(r.ledger.kept) >= roomcore.MaxWaiting
	if !full {
		r.ledger.kept[ev.ID] = true
	}
	r.ledger.mu.Unlock()
	if full {
		return ErrRoomBusy
	}
	return rs.db.Write(ctx, func(tx *storage.Tx) error {
		return tx.AddLedger(storage.LedgerRow{
			RoomNID: r.nid, Event: ev.ID, Origin: origin, JSON: ev.AppendFederation(nil, 0), ReceivedTS: rs.ms(),
		})
	})
}

// ledger remembers which PDUs of a room lie in the database's ledger.
type ledger struct {
	mu   sync.Mutex // guards kept
	kept map[spec.EventID]bool
}

// resume hands the PDUs of the ledger to the room's owner, unless it has them.
func (rs *Rooms) resume(r *room) {
	if rs.remote == nil {
		return
	}
	var rows []storage.LedgerRow
	err := rs.db.Read(rs.life, func(tx *storage.Tx) (err error) {
		rows, err = tx.Ledger(r.nid)
		return err
	})
	if err != nil {
		rs.log.Warn("the ledger of a room could not be read", "room", r.id, "cause", err)
		return
	}
	if len(rows) == 0 {
		return
	}
	r.ledger.mu.Lock()
	r.ledger.kept = make(map[spec.EventID]bool, len(rows))
	for _, row := range rows {
		r.ledger.kept[row.Event] = true
	}
	r.ledger.mu.Unlock()
	rs.spawn(func() {
		for _, row := range rows {
			if !r.waitsFor(row.Event) {
				rs.retry(r, row)
			}
		}
	})
}

// waitsFor reports whether the room is working on the PDU.
func (r *room) waitsFor(id spec.EventID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inbound.Has(id)
}

// retry judges a PDU of the ledger, or sees that it never can be.
func (rs *Rooms) retry(r *room, row storage.LedgerRow) {
	ev, err := spec.ParseEvent(r.rules, row.JSON)
	if err != nil {
		rs.ledgerDone(r, row.Event)
		return
	}
	if err := rs.remote.VerifyEvents(rs.life, []*spec.Event{ev})[0]; err != nil {
		if !errors.Is(err, ErrKeyUnavailable) && rs.life.Err() == nil {
			rs.ledgerDone(r, row.Event)
		}
		return
	}
	// Whoever waits for the verdict is the ledger; the channel has room for it.
	if _, err := r.receive(roomcore.PDU{Event: ev, Origin: row.Origin}); err != nil {
		rs.log.Debug("a waiting event could not be handed in", "room", r.id, "event", row.Event, "cause", err)
	}
}

// How often the ledger is looked through for events whose signing key could not
// be had, and how long a waiting event is kept.
const (
	ledgerSweep = time.Minute
	ledgerKept  = 7 * 24 * time.Hour
)

// sweepLedger loads the rooms that have something waiting, and tries again what
// no room is working on.
func (rs *Rooms) sweepLedger(ctx context.Context) error {
	var ids []spec.RoomID
	err := rs.db.Read(ctx, func(tx *storage.Tx) (err error) {
		ids, err = tx.LedgerRooms()
		return err
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	err = rs.db.Write(ctx, func(tx *storage.Tx) error { return tx.PruneLedger(rs.ms() - ledgerKept.Milliseconds()) })
	if err != nil {
		return err
	}
	for _, id := range ids {
		r, err := rs.room(ctx, id)
		if err != nil {
			rs.log.Warn("a room with waiting events could not be loaded", "room", id, "cause", err)
			continue
		}
		rs.resume(r)
	}
	return nil
}

// fetchParallel is how many single events are asked for at once of one server.
const fetchParallel = 8

// fetchEach asks one server for single events. What it does not have is left
// out; the error is that of the last failure when nothing came at all.
func fetchEach(ctx context.Context, remote Remote, from spec.ServerName, ids []spec.EventID) ([][]byte, error) {
	got := make([][]byte, len(ids))
	errs := make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(fetchParallel)
	for i, id := range ids {
		group.Go(func() error {
			got[i], errs[i] = remote.GetEvent(ctx, from, id)
			return nil
		})
	}
	_ = group.Wait() // no function above fails
	var events [][]byte
	var last error
	for i, raw := range got {
		if errs[i] != nil {
			last = errs[i]
		} else {
			events = append(events, raw)
		}
	}
	if len(events) > 0 {
		last = nil
	}
	return events, last
}
