package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// maxActiveRooms is how many rooms are kept in memory at once. Idle ones beyond
// it are dropped; they are loaded again when somebody asks.
const maxActiveRooms = 10_000

// loadAttempts is how often an operation is tried when its room turns out to be
// out of date in memory.
const loadAttempts = 3

// Rooms holds the rooms of this server: who owns which, and all that can be
// asked of them. Each active room has one owner, a *room, that serialises what
// changes it. Safe for concurrent use.
type Rooms struct {
	*base
	accounts *Accounts
	aliases  *Aliases
	cache    *roomCache
	txns     *txns
	// stateLists has states without members, for those who load them lazily.
	stateLists *stateLists
	joins      keyedLock[spec.RoomID] // joins through other servers
	// backfills are the requests for history under way.
	backfills keyedLock[spec.RoomID]

	mu         sync.Mutex // guards active, lastCreate and background
	active     map[spec.RoomID]*room
	lastCreate int64 // ms; time of the newest create event made here

	// background counts work that outlives the request that caused it: commits
	// and fetches for waiting events.
	background int
	quiet      *sync.Cond      // signalled when background falls to 0; uses mu
	life       context.Context // ends with Run
	end        context.CancelFunc
}

func newRooms(b *base, accounts *Accounts) *Rooms {
	r := &Rooms{base: b, accounts: accounts, cache: newRoomCache(), txns: newTxns(b), stateLists: newStateLists(), active: map[spec.RoomID]*room{}}
	r.aliases = newAliases(b, r)
	r.quiet = sync.NewCond(&r.mu)
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

// run waits for the end and lets what is under way finish.
func (rs *Rooms) run(ctx context.Context) error {
	sweep := time.NewTicker(ledgerSweep)
	defer sweep.Stop()
	for ctx.Err() == nil {
		if err := rs.sweepLedger(ctx); err != nil && ctx.Err() == nil {
			rs.log.Error("the ledger could not be looked through", "cause", err)
		}
		select {
		case <-sweep.C:
		case <-ctx.Done():
		}
	}
	rs.end()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for rs.background > 0 {
		rs.quiet.Wait()
	}
	return nil
}

// spawn runs fn in a goroutine that run waits for.
func (rs *Rooms) spawn(fn func()) {
	rs.mu.Lock()
	rs.background++
	rs.mu.Unlock()
	go func() {
		defer func() {
			rs.mu.Lock()
			defer rs.mu.Unlock()
			if rs.background--; rs.background == 0 {
				rs.quiet.Broadcast()
			}
		}()
		fn()
	}()
}

// errStaleRoom tells that the owner was given up while something was under way;
// the caller may load the room again and retry.
var errStaleRoom = errors.New("the room is out of date in memory")

// room returns the owner of a room that exists here, loading it if need be. The
// error is storage.ErrNotFound when this server does not know the room.
func (rs *Rooms) room(ctx context.Context, id spec.RoomID) (*room, error) {
	rs.mu.Lock()
	r := rs.active[id]
	if r == nil {
		r = &room{rooms: rs, id: id, ready: make(chan struct{})}
		rs.admit(r)
		rs.mu.Unlock()
		r.load(ctx)
	} else {
		rs.mu.Unlock()
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.loadErr != nil {
		return nil, r.loadErr
	}
	return r, nil
}

// admit puts the room among the active ones and drops an idle one if there are
// too many. rs.mu is held.
func (rs *Rooms) admit(r *room) {
	if len(rs.active) >= maxActiveRooms {
		for id, other := range rs.active {
			if other.idle() {
				delete(rs.active, id)
				break
			}
		}
	}
	rs.active[r.id] = r
}

// drop forgets an owner, if it still is the one of its room.
func (rs *Rooms) drop(r *room) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.active[r.id] == r {
		delete(rs.active, r.id)
	}
}

// change runs fn on the room's core and returns once what it queued is durable.
// fn returns the sequence number to wait for, 0 for nothing. It may run again,
// on a core loaded afresh, when the memory of the first was out of date; it must
// not keep anything of the earlier run. fn does not wait for anything.
func (rs *Rooms) change(ctx context.Context, id spec.RoomID, fn func(*roomcore.Core) (uint64, error)) error {
	var err error
	for range loadAttempts {
		var r *room
		if r, err = rs.room(ctx, id); err != nil {
			return err
		}
		if err = r.do(ctx, fn); !errors.Is(err, errStaleRoom) {
			return err
		}
	}
	return err
}

// look runs fn on the core without waiting for a commit. What fn sees of the
// head must not leave the process.
func (rs *Rooms) look(ctx context.Context, id spec.RoomID, fn func(*roomcore.Core) error) error {
	return rs.change(ctx, id, func(c *roomcore.Core) (uint64, error) { return 0, fn(c) })
}

// committedView returns what readers may see of the room.
func (rs *Rooms) committedView(ctx context.Context, id spec.RoomID) (*room, roomcore.View, error) {
	r, err := rs.room(ctx, id)
	if err != nil {
		return nil, roomcore.View{}, err
	}
	return r, *r.view.Load(), nil
}

// asClientError turns what the room core refuses into what a client is told.
func asClientError(err error) error {
	var refused *spec.AuthError
	var told *spec.Error
	switch {
	case errors.As(err, &told):
		return err
	case errors.As(err, &refused):
		return spec.Errorf(spec.CodeForbidden, err, "not allowed in this room: %s", refused.Reason)
	case errors.Is(err, storage.ErrNotFound):
		return spec.Errorf(spec.CodeForbidden, err, "you are not in this room")
	case errors.Is(err, errStaleRoom):
		return fmt.Errorf("room kept changing under us: %w", err)
	}
	return err
}
