package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// room owns one active room: it serialises the inputs of the step machine and
// carries out its outputs. mu is never held while something is waited for.
type room struct {
	rooms   *Rooms
	id      spec.RoomID
	ready   chan struct{} // closed once loaded
	loadErr error         // of the loading; read after ready

	nid   int64
	rules *spec.Rules
	// view is what readers see: the room as last committed.
	view atomic.Pointer[roomcore.View]

	ledger ledger
	acl    atomic.Pointer[aclAt] // of the last view asked about

	mu         sync.Mutex // guards all below
	core       *roomcore.Core
	inbound    *roomcore.Inbound
	committing bool
	given      error // why the owner was given up; nil while it serves
	waiters    []commitWaiter
	verdicts   map[spec.EventID][]chan roomcore.Verdict
	timer      *time.Timer // wakes inbound
}

// commitWaiter waits until everything up to seq is durable.
type commitWaiter struct {
	seq uint64
	ch  chan error // of room for one, so that answering never blocks
}

// load reads the room from the database. It runs once, by whoever asked first;
// the others wait on ready.
func (r *room) load(ctx context.Context) {
	defer close(r.ready)
	// Others wait for the outcome, so the first asker's going away must not
	// fail it.
	cfg, err := r.rooms.loadConfig(context.WithoutCancel(ctx), r.id)
	if err != nil {
		r.loadErr = err
		r.rooms.drop(r)
		return
	}
	r.start(cfg)
	r.rooms.resume(r)
}

// start fills the owner in. The room is not shared yet.
func (r *room) start(cfg roomcore.Config) {
	r.nid, r.rules = cfg.RoomNID, cfg.Rules
	r.core = roomcore.New(cfg)
	r.inbound = roomcore.NewInbound(r.core)
	r.verdicts = map[spec.EventID][]chan roomcore.Verdict{}
	view := cfg.View
	r.view.Store(&view)
}

// idle reports whether nothing is under way.
func (r *room) idle() bool {
	select {
	case <-r.ready:
	default:
		return false
	}
	if !r.mu.TryLock() {
		return false
	}
	defer r.mu.Unlock()
	return !r.committing && len(r.waiters) == 0 && (r.inbound == nil || r.inbound.Waiting() == 0)
}

// do runs fn on the core and waits until what it queued is durable.
func (r *room) do(ctx context.Context, fn func(*roomcore.Core) (uint64, error)) error {
	r.mu.Lock()
	if r.given != nil {
		r.mu.Unlock()
		return fmt.Errorf("%w: %w", errStaleRoom, r.given)
	}
	seq, err := fn(r.core)
	if errors.Is(err, roomcore.ErrStale) {
		r.giveUpLocked(err)
		r.mu.Unlock()
		return fmt.Errorf("%w: %w", errStaleRoom, err)
	}
	wait := r.waitLocked(seq)
	r.kickLocked()
	r.mu.Unlock()
	if err != nil || wait == nil {
		return err
	}
	select {
	case err := <-wait:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitLocked returns a channel that tells when seq is durable, nil when it is.
func (r *room) waitLocked(seq uint64) chan error {
	if seq <= r.core.Done() {
		return nil
	}
	ch := make(chan error, 1)
	r.waiters = append(r.waiters, commitWaiter{seq: seq, ch: ch})
	return ch
}

// kickLocked starts the commit loop unless it runs or has nothing to do.
func (r *room) kickLocked() {
	if r.committing || !r.core.Pending() {
		return
	}
	r.committing = true
	r.rooms.spawn(r.commitLoop)
}

// commitLoop commits what is queued, unit after unit, and ends when nothing is
// left. Events that arrive during a commit go into the next unit together.
func (r *room) commitLoop() {
	// A commit that has begun is seen through even while the server stops.
	ctx := context.Background()
	for {
		r.mu.Lock()
		unit, chunk, err := r.core.TakeUnit()
		if err != nil {
			r.giveUpLocked(err)
		}
		if unit == nil || err != nil {
			r.committing = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()

		if chunk {
			err = r.rooms.db.WriteChunk(ctx, unit)
		} else {
			_, err = r.rooms.db.Commit(ctx, unit)
		}

		r.mu.Lock()
		if err != nil {
			r.giveUpLocked(fmt.Errorf("committing to %s: %w", r.id, err))
			r.committing = false
			r.mu.Unlock()
			return
		}
		r.committedLocked(unit)
		r.mu.Unlock()
	}
}

// committedLocked tells everybody what is durable now: caches first, then
// readers, then those who wait.
func (r *room) committedLocked(unit *storage.Unit) {
	r.rooms.cache.store(r.nid, unit)
	r.core.Committed(unit)
	view := r.core.CommittedView()
	r.view.Store(&view)
	done := r.core.Done()
	left := r.waiters[:0]
	for _, w := range r.waiters {
		if w.seq <= done {
			w.ch <- nil
		} else {
			left = append(left, w)
		}
	}
	r.waiters = left
}

// giveUpLocked ends this owner: its memory cannot be trusted, so everybody who
// waits is sent back to load the room again.
func (r *room) giveUpLocked(why error) {
	if r.given != nil {
		return
	}
	r.given = why
	r.rooms.log.Warn("room is loaded again", "room", r.id, "cause", why)
	r.rooms.cache.dropRoom(r.nid)
	r.rooms.drop(r)
	if r.timer != nil {
		r.timer.Stop()
	}
	for _, w := range r.waiters {
		w.ch <- fmt.Errorf("%w: %w", errStaleRoom, why)
	}
	r.waiters = nil
	for id, chs := range r.verdicts {
		for _, ch := range chs {
			close(ch) // no verdict: the PDU is handed to the next owner
		}
		delete(r.verdicts, id)
	}
}

// isGiven reports whether the owner was given up.
func (r *room) isGiven() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.given != nil
}
