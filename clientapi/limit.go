package clientapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// RateLimits bounds how often one user, or one address where there is no user, may ask. A rate
// whose PerSecond is zero has its default.
type RateLimits struct {
	Enabled bool
	Read    Rate // cheap questions
	Light   Rate // small writes
	Send    Rate // events
	Heavy   Rate // making and joining rooms, inviting
	Login   Rate // guesses at secrets, per address
}

// Rate allows Burst requests at once and PerSecond in the long run.
type Rate struct {
	PerSecond float64
	Burst     int
}

// limiterBuckets bounds how many users and addresses are remembered per generation.
const limiterBuckets = 50_000

// limiter counts requests per class and key in token buckets. It keeps two generations of
// buckets: when the newer one is full it becomes the older one and what was not used since is
// forgotten, so memory is bounded and active keys stay. Safe for concurrent use.
type limiter struct {
	rates [limitClasses]Rate
	now   func() time.Time
	size  int

	mu    sync.Mutex // guards the maps
	young map[limiterKey]*rate.Limiter
	old   map[limiterKey]*rate.Limiter
}

type limiterKey struct {
	class limitClass
	key   string
}

// newLimiter makes a limiter; it lets everything through unless limits are enabled.
func newLimiter(limits RateLimits, now func() time.Time) *limiter {
	l := &limiter{now: now, size: limiterBuckets, young: map[limiterKey]*rate.Limiter{}}
	if !limits.Enabled {
		return l
	}
	pick := func(given, preset Rate) Rate {
		if given.PerSecond == 0 {
			return preset
		}
		return Rate{given.PerSecond, max(given.Burst, 1)}
	}
	l.rates = [limitClasses]Rate{
		limitRead:  pick(limits.Read, Rate{50, 200}),
		limitLight: pick(limits.Light, Rate{20, 100}),
		limitSend:  pick(limits.Send, Rate{10, 50}),
		limitHeavy: pick(limits.Heavy, Rate{1, 20}),
		limitLogin: pick(limits.Login, Rate{0.5, 10}),
	}
	return l
}

// take uses up one request of the key's allowance. It returns 0, or how long to wait when there
// is none left; then nothing was used up.
func (l *limiter) take(class limitClass, key string) time.Duration {
	allowed := l.rates[class]
	if allowed.PerSecond == 0 {
		return 0
	}
	now := l.now()
	reservation := l.bucket(limiterKey{class, key}, allowed).ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

func (l *limiter) bucket(key limiterKey, allowed Rate) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.young[key]; ok {
		return b
	}
	b, ok := l.old[key]
	if !ok {
		b = rate.NewLimiter(rate.Limit(allowed.PerSecond), allowed.Burst)
	}
	if len(l.young) >= l.size {
		l.old, l.young = l.young, map[limiterKey]*rate.Limiter{}
	}
	l.young[key] = b
	return b
}
