package server

import (
	"context"
	"sync"
)

// keyedLock lets one at a time through per key. Waiting ends with the context.
// Safe for concurrent use; the zero value is ready.
type keyedLock[K comparable] struct {
	mu   sync.Mutex // guards held
	held map[K]*keyedTurn
}

type keyedTurn struct {
	free    chan struct{} // holds one token while nobody has the turn
	waiting int
}

// enter waits for the turn. first tells that nobody had it; release gives it up.
func (l *keyedLock[K]) enter(ctx context.Context, key K) (release func(), first bool, err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[K]*keyedTurn{}
	}
	turn := l.held[key]
	first = turn == nil
	if first {
		turn = &keyedTurn{free: make(chan struct{}, 1)}
		turn.free <- struct{}{}
		l.held[key] = turn
	}
	turn.waiting++
	l.mu.Unlock()

	select {
	case <-turn.free:
		return func() { l.leave(key, turn, true) }, first, nil
	case <-ctx.Done():
		l.leave(key, turn, false)
		return nil, false, ctx.Err()
	}
}

func (l *keyedLock[K]) leave(key K, turn *keyedTurn, had bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if had {
		turn.free <- struct{}{}
	}
	if turn.waiting--; turn.waiting == 0 {
		delete(l.held, key)
	}
}
