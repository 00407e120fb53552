package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// Sync tells clients what is new. It follows the log for this node and keeps
// what came lately in memory, so that those who keep up are answered without
// the database. It is safe for concurrent use.
//
// Spec: client-server-api#syncing
type Sync struct {
	*base
	rooms *Rooms
	// epoch tells this run of the server from others, for what is not durable.
	epoch int64

	subscribers []func([]storage.LogEntry) // fixed once Run is called

	// mu guards what follows and all that live users and windows have. It is
	// held for moments only: never while something is read or waited for.
	mu        sync.Mutex
	pos       int64         // up to where the log was taken in
	moved     chan struct{} // closed and replaced when pos grows and posWanted
	posWanted bool
	tick      int64 // counts batches, to tell what was used lately
	windows   map[int64]*roomWindow
	held      int // entries of all windows
	users     map[spec.UserID]*liveUser
	userRooms int // memberships of all users
	// woken are the users whom the batch being taken in concerns, wakeDevices
	// the only device where it is one.
	woken       []*liveUser
	wakeDevices map[*liveUser]string

	lazy *lazyMembers

	wakes atomic.Int64 // connections woken so far
	// waitsChanged is closed and replaced when a connection begins to wait, if
	// somebody wants to know. Guarded by mu.
	waitsChanged chan struct{}
}

func newSync(b *base, rooms *Rooms) *Sync {
	return &Sync{
		base: b, rooms: rooms, epoch: b.ms(), pos: b.db.Head(), moved: make(chan struct{}),
		windows: map[int64]*roomWindow{}, users: map[spec.UserID]*liveUser{}, wakeDevices: map[*liveUser]string{},
		lazy: newLazyMembers(),
	}
}

// SyncRequest asks what is new for a device.
// Spec: client-server-api#get_matrixclientv3sync
type SyncRequest struct {
	User   spec.UserID
	Device string
	// Since is the token of the answer before; empty asks for everything.
	Since string
	// Filter is what Filters.Load gives; nil lets everything pass. Requests of
	// one filter should pass the same FilterID, which may be empty.
	Filter   *Filter
	FilterID string
	// FullState asks for the whole state of all rooms, at once.
	FullState bool
	// StateAfter is the name under which the answer is to have the state at the
	// end of the timeline; empty asks for "state", the one at its start.
	StateAfter string
	// Timeout is how long to wait for news. 0 does not wait.
	Timeout time.Duration
}

// Bounds of a sync.
const (
	timelineDefault = 20
	timelineMost    = 1000
	// syncTimeoutMost bounds how long a client may wait.
	syncTimeoutMost = 5 * time.Minute
	// reachTimeout bounds the wait for this node to hear of what a token or the
	// database already has.
	reachTimeout = 10 * time.Second
)

// Sync answers what is new since the request's token: at once if there is
// something or the request is for everything, otherwise after the time-out with
// nothing. Errors: M_INVALID_PARAM for a token that is none; the context's.
func (s *Sync) Sync(ctx context.Context, req SyncRequest) (*SyncAnswer, error) {
	var since SyncToken
	if req.Since != "" {
		var err error
		if since, err = ParseSyncToken(req.Since); err != nil {
			return nil, err
		}
	}
	if req.Filter == nil {
		req.Filter = &Filter{}
	}
	if err := s.catchUp(ctx, since); err != nil {
		return nil, err
	}
	// Own events show their transaction ids, which are then in memory.
	if _, err := s.rooms.txns.device(ctx, txnKey{user: req.User, device: req.Device}); err != nil {
		return nil, err
	}
	if req.Since == "" || req.FullState {
		return s.answer(ctx, &req, since)
	}
	return s.poll(ctx, &req, since)
}

// catchUp waits until this node has heard of what the client or anybody who just
// committed knows already.
func (s *Sync) catchUp(ctx context.Context, since SyncToken) error {
	need := max(since.Pos, s.db.Head())
	if s.Position() >= need {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	_ = s.Reach(bounded, need) // what is not here by then comes with a later sync
	return ctx.Err()
}

// poll waits for news.
func (s *Sync) poll(ctx context.Context, req *SyncRequest, since SyncToken) (*SyncAnswer, error) {
	w := &syncWaiter{device: req.Device, ch: make(chan struct{}, 1)}
	var timer *time.Timer
	for {
		u, err := s.live(ctx, req.User)
		if err != nil {
			return nil, err
		}
		if req.Timeout > 0 {
			s.await(u, w)
		}
		answer, err := s.news(ctx, req, since, u)
		if err != nil || !answer.Empty() || req.Timeout <= 0 {
			s.unawait(u, w)
			return answer, err
		}
		if timer == nil {
			timer = time.NewTimer(min(req.Timeout, syncTimeoutMost))
			defer timer.Stop()
		}
		select {
		case <-w.ch:
			// What was looked at already need not be looked at again.
			since.Pos = max(since.Pos, answer.next.Pos)
			s.unawait(u, w)
			continue
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.unawait(u, w)
		if err != nil {
			return nil, err
		}
		return s.news(ctx, req, since, u)
	}
}

func (s *Sync) await(u *liveUser, w *syncWaiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.gone {
		w.ch <- struct{}{} // look again at once
		return
	}
	u.waiters[w] = struct{}{}
	if s.waitsChanged != nil {
		close(s.waitsChanged)
		s.waitsChanged = nil
	}
}

func (s *Sync) unawait(u *liveUser, w *syncWaiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(u.waiters, w)
	select {
	case <-w.ch:
	default:
	}
}

// news is answer for a request that goes on, which costs nothing if nothing
// concerns the user.
func (s *Sync) news(ctx context.Context, req *SyncRequest, since SyncToken, u *liveUser) (*SyncAnswer, error) {
	s.mu.Lock()
	quiet := !u.gone && u.last <= since.Pos
	next := s.tokenLocked()
	s.mu.Unlock()
	if quiet {
		if next.Pos < since.Pos {
			next.Pos = since.Pos
		}
		return &SyncAnswer{next: next, request: req}, nil
	}
	return s.answer(ctx, req, since)
}

func (s *Sync) tokenLocked() SyncToken { return SyncToken{Pos: s.pos, Epoch: s.epoch} }
