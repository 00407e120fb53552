package server

import (
	"context"
	"errors"
	"time"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// keyWait is how long the PDUs of one room wait for signing keys that are not
// known yet; what lacks its key then goes to the ledger.
const keyWait = time.Second

// Received is what became of a PDU from another server.
type Received struct {
	Event   spec.EventID // "": the PDU is so malformed that it has none
	Verdict roomcore.Verdict
	// Waiting: no verdict yet; the PDU is kept durably and tried again.
	Waiting bool
	// Err says that the event was dropped: of bad format or signature, of a room
	// that this server is not in, of a server that the room excludes, or for want
	// of space (ErrRoomBusy).
	Err error
}

// ErrRoomBusy tells that a room has too many events waiting to take another.
var ErrRoomBusy = errors.New("too many events of the room are waiting")

// ReceivePDU is ReceivePDUs for one.
func (rs *Rooms) ReceivePDU(ctx context.Context, origin spec.ServerName, id spec.RoomID, raw []byte) (Received, error) {
	got := rs.ReceivePDUs(ctx, origin, id, [][]byte{raw})[0]
	return got, got.Err
}

// ReceivePDUs takes events of one room from another server, in their order: it
// parses them, verifies their signatures, runs the checks on receipt, and returns
// the verdicts once they are durable. Where ancestors have to be fetched it waits
// at most until ctx ends and then keeps the event in the ledger. A bad event does
// not touch the others.
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu.
func (rs *Rooms) ReceivePDUs(ctx context.Context, origin spec.ServerName, id spec.RoomID, raw [][]byte) []Received {
	out := make([]Received, len(raw))
	r, err := rs.room(ctx, id)
	if err == nil && !r.serverJoined(rs.name) {
		err = storage.ErrNotFound
	}
	if errors.Is(err, storage.ErrNotFound) {
		for i := range raw {
			var ev *spec.Event
			if ev, out[i].Err = rs.receiveOutside(ctx, origin, id, raw[i]); ev != nil {
				out[i].Event = ev.ID
			}
		}
		return out
	}
	if err != nil {
		for i := range out {
			out[i].Err = err
		}
		return out
	}
	events := r.parsed(origin, raw, out)
	unavailable := rs.dropForged(ctx, events, out)
	for i, ev := range events {
		if unavailable[i] {
			out[i].Waiting, out[i].Err = rs.keepAnyway(ctx, r, origin, ev)
			events[i] = nil
		}
	}
	rs.judge(ctx, r, origin, events, out)
	return out
}

// parsed reads the PDUs; those that are dropped get their error and stay nil.
func (r *room) parsed(origin spec.ServerName, raw [][]byte, out []Received) []*spec.Event {
	events := make([]*spec.Event, len(raw))
	denied := r.admits(origin)
	for i := range raw {
		ev, err := spec.ParseEvent(r.rules, raw[i])
		if err != nil {
			out[i].Err = err
			continue
		}
		out[i].Event = ev.ID
		switch {
		case denied != nil:
			out[i].Err = denied
		case ev.Room != r.id:
			out[i].Err = spec.Errorf(spec.CodeInvalidParam, nil, "the event is of another room")
		default:
			out[i].Err = ev.CheckReferences()
		}
		if out[i].Err == nil {
			events[i] = ev
		}
	}
	return events
}

// dropForged verifies signatures. It gives events of bad signature their error
// and takes them out; it reports those whose keys cannot be had at present.
func (rs *Rooms) dropForged(ctx context.Context, events []*spec.Event, out []Received) (unavailable map[int]bool) {
	ctx, cancel := context.WithTimeout(ctx, keyWait)
	defer cancel()
	list := make([]*spec.Event, 0, len(events))
	at := make([]int, 0, len(events))
	for i, ev := range events {
		if ev != nil {
			list, at = append(list, ev), append(at, i)
		}
	}
	if len(list) == 0 {
		return nil
	}
	unavailable = map[int]bool{}
	for k, err := range rs.remote.VerifyEvents(ctx, list) {
		i := at[k]
		switch {
		case err == nil:
		case errors.Is(err, ErrKeyUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			unavailable[i] = true
		default:
			out[i].Err = spec.Errorf(spec.CodeInvalidParam, err, "the event's signatures could not be verified")
			events[i] = nil
		}
	}
	return unavailable
}

// judge hands the events to the room, all of them before it waits for verdicts.
func (rs *Rooms) judge(ctx context.Context, r *room, origin spec.ServerName, events []*spec.Event, out []Received) {
	waits := make([]chan roomcore.Verdict, len(events))
	for i, ev := range events {
		if ev == nil {
			continue
		}
		ch, err := r.receive(roomcore.PDU{Event: ev, Origin: origin})
		switch {
		case errors.Is(err, errStaleRoom):
			waits[i] = make(chan roomcore.Verdict)
			close(waits[i]) // the next owner is asked
		case err != nil:
			out[i].Err = err
		case ch == nil:
			out[i].Err = ErrRoomBusy
		default:
			waits[i] = ch
		}
	}
	for i, ch := range waits {
		if ch != nil {
			rs.await(ctx, r, roomcore.PDU{Event: events[i], Origin: origin}, ch, &out[i])
		}
	}
}

// await waits for a verdict, or until ctx ends. Owners that are given up
// meanwhile are replaced.
func (rs *Rooms) await(ctx context.Context, r *room, pdu roomcore.PDU, ch chan roomcore.Verdict, out *Received) {
	for range loadAttempts {
		select {
		case v, ok := <-ch:
			if ok {
				out.Verdict = v
				return
			}
		case <-ctx.Done():
			r.forget(pdu.Event.ID, ch)
			select { // a verdict that is there counts
			case v, ok := <-ch:
				if ok {
					out.Verdict = v
					return
				}
			default:
			}
			out.Waiting, out.Err = rs.keepAnyway(ctx, r, pdu.Origin, pdu.Event)
			return
		}
		if r, out.Err = rs.room(ctx, pdu.Event.Room); out.Err != nil {
			return
		}
		next, err := r.receive(pdu)
		if errors.Is(err, errStaleRoom) {
			continue // ch is closed still
		}
		if out.Err = err; err != nil {
			return
		}
		if next == nil {
			out.Err = ErrRoomBusy
			return
		}
		ch = next
	}
	out.Err = errStaleRoom
}

// keepAnyway is keep for a request whose time may be over.
func (rs *Rooms) keepAnyway(ctx context.Context, r *room, origin spec.ServerName, ev *spec.Event) (bool, error) {
	err := rs.keep(context.WithoutCancel(ctx), r, origin, ev)
	return err == nil, err
}

// takes reports whether a room has space for so many more waiting events. Rooms
// that are not here take any number: their events are not kept.
func (rs *Rooms) takes(ctx context.Context, id spec.RoomID, n int) (bool, error) {
	r, err := rs.room(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	r.ledger.mu.Lock()
	kept := len(r.ledger.kept)
	r.ledger.mu.Unlock()
	r.mu.Lock()
	waiting := r.inbound.Waiting()
	r.mu.Unlock()
	return max(kept, waiting)+n <= roomcore.MaxWaiting, nil
}
