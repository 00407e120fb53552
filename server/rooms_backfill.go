package server

import (
	"context"
	"errors"
	"time"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

const (
	// backfillLimit is how many events one request for history asks for.
	backfillLimit = 100
	// backfillServers is how many servers are tried for one gap.
	backfillServers = 4
	// backfillAnchors bounds how many states are asked for to place one answer.
	backfillAnchors = 4
	// backfillPause is how long a gap that nobody could fill is left alone.
	backfillPause = time.Minute
)

// Backfill asks other servers for what lies before a gap of the timeline, and
// puts it there. It reports whether anything came. Only one request for the same
// room runs at a time; who comes later finds what it brought.
// Spec: server-server-api#backfilling-and-retrieving-missing-events.
func (rs *Rooms) Backfill(ctx context.Context, id spec.RoomID, gap storage.GapRow) (bool, error) {
	if rs.remote == nil || gap.RetryTS > rs.ms() {
		return false, nil
	}
	release, first, err := rs.backfills.enter(ctx, id)
	if err != nil {
		return false, err
	}
	defer release()
	if !first {
		return true, nil // somebody else was at it just now: look again
	}
	r, err := rs.room(ctx, id)
	if err != nil {
		return false, err
	}
	at, err := (&roomStore{rooms: rs, nid: r.nid}).EventByNID(gap.Key.NID)
	if err != nil || at == nil {
		return false, err
	}
	for i, dest := range r.servers() {
		if i >= backfillServers || ctx.Err() != nil {
			break
		}
		if dest == rs.name {
			continue
		}
		got, err := rs.backfillFrom(ctx, r, dest, at.Event)
		if err != nil {
			rs.log.Debug("backfill failed", "room", id, "dest", dest, "cause", err)
		}
		if got {
			return true, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return false, rs.putOff(ctx, gap)
}

// putOff leaves a gap alone for a while.
func (rs *Rooms) putOff(ctx context.Context, gap storage.GapRow) error {
	gap.RetryTS = rs.ms() + backfillPause.Milliseconds()
	return rs.db.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.Apply(&storage.Unit{Gaps: []storage.GapRow{gap}})
		return err
	})
}

// backfillFrom gets a page of history of one server and places it.
func (rs *Rooms) backfillFrom(ctx context.Context, r *room, dest spec.ServerName, at *spec.Event) (bool, error) {
	raw, err := rs.remote.Backfill(ctx, dest, r.id, at.Prev, backfillLimit)
	if err != nil {
		return false, err
	}
	h := roomcore.History{Gap: at.ID, States: map[spec.EventID][]spec.EventID{}}
	for _, ev := range rs.verified(ctx, r.rules, raw) {
		if ev.Room == r.id && ev.ID != at.ID {
			h.Events = append(h.Events, ev)
		}
	}
	if len(h.Events) == 0 {
		return false, errors.New("nothing of the room in the answer")
	}
	var anchors []spec.EventID
	err = rs.look(ctx, r.id, func(c *roomcore.Core) (err error) {
		anchors, err = c.Anchors(h.Events)
		return err
	})
	if err != nil {
		return false, err
	}
	for i, id := range anchors {
		if i >= backfillAnchors {
			break
		}
		if err := rs.anchorState(ctx, r, dest, id, &h); err != nil {
			return false, err
		}
	}
	placed := 0
	err = rs.change(context.WithoutCancel(ctx), r.id, func(c *roomcore.Core) (uint64, error) {
		before := c.Queued()
		seq, err := c.InsertHistory(h)
		placed = int(c.Queued() - before)
		return seq, err
	})
	return placed > 0, err
}

// anchorState learns the state before an event of the past, and the events of it
// that are not known here.
func (rs *Rooms) anchorState(ctx context.Context, r *room, dest spec.ServerName, id spec.EventID, h *roomcore.History) error {
	ids, err := rs.remote.StateIDs(ctx, dest, r.id, id)
	if err != nil {
		return err
	}
	have := make(map[spec.EventID]bool, len(h.Known))
	for _, ev := range h.Known {
		have[ev.ID] = true
	}
	var unknown []spec.EventID
	err = rs.look(ctx, r.id, func(c *roomcore.Core) error {
		for _, list := range [][]spec.EventID{ids.State, ids.AuthChain} {
			for _, id := range list {
				row, err := c.Event(id)
				if err != nil {
					return err
				}
				if row == nil && !have[id] {
					unknown = append(unknown, id)
					have[id] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	raw, err := rs.fetchEvents(ctx, dest, r, roomcore.Fetch{Event: id}, unknown)
	if err != nil && len(raw) == 0 && len(unknown) > 0 {
		return err
	}
	for _, ev := range rs.verified(ctx, r.rules, raw) {
		if ev.Room == r.id {
			h.Known = append(h.Known, ev)
		}
	}
	h.States[id] = ids.State
	return nil
}
