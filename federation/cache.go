package federation

import (
	"sync"
	"time"
)

// timedCache is a map whose entries end at a time of their own and whose number
// is bounded: what does not fit pushes out an ended entry if one is met at once,
// else any entry. All it holds can be asked for again, so losing an entry costs
// a look-up and no more. Safe for concurrent use.
type timedCache[K comparable, V any] struct {
	max int

	// mu guards entries.
	mu      sync.Mutex
	entries map[K]timedEntry[V]
}

type timedEntry[V any] struct {
	value V
	until time.Time
}

func newTimedCache[K comparable, V any](limit int) *timedCache[K, V] {
	return &timedCache[K, V]{max: limit, entries: make(map[K]timedEntry[V])}
}

// get returns the entry and whether it still holds at the given time. An ended
// entry is returned all the same: some callers fall back on it.
func (c *timedCache[K, V]) get(key K, now time.Time) (value V, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	return e.value, ok && now.Before(e.until)
}

func (c *timedCache[K, V]) put(key K, value V, now, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[key]; !ok && len(c.entries) >= c.max {
		c.evictLocked(now)
	}
	c.entries[key] = timedEntry[V]{value: value, until: until}
}

// evictLocked removes one entry. It looks at a few, in the map's random order,
// so that its cost does not grow with the cache.
func (c *timedCache[K, V]) evictLocked(now time.Time) {
	const looks = 8
	var victim K
	n := 0
	for k, e := range c.entries {
		victim = k
		if n++; n == looks || !now.Before(e.until) {
			break
		}
	}
	delete(c.entries, victim)
}
