package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

// KeyStore keeps the keys of other servers.
type KeyStore interface {
	// ServerKeys returns all keys known of the servers.
	ServerKeys(ctx context.Context, servers []spec.ServerName) ([]storage.ServerKey, error)
	// PutServerKeys adds keys, or replaces those with the same server and id.
	PutServerKeys(ctx context.Context, keys []storage.ServerKey) error
}

const (
	// keyTimeout bounds one request for keys.
	keyTimeout = 10 * time.Second
	// keyRefetch is how long after an answer the same server is not asked
	// again, whatever keys somebody claims it has.
	keyRefetch = 30 * time.Second
	// keyRetryMin doubles with every failure in a row up to keyRetryMax.
	keyRetryMin = 5 * time.Second
	keyRetryMax = 10 * time.Minute
	// maxKeyFetches bounds how many servers one call asks at a time.
	maxKeyFetches = 64
	// maxKeyServers bounds the cache of keys, in servers. A server takes about
	// 1 KiB, and never more than maxKeysPerAnswer and its object.
	maxKeyServers = 10_000
)

// serverKeys are the keys known of one server. Never changed once shared.
type serverKeys map[spec.KeyID]storage.ServerKey

// keyAttempt is the last request for a server's keys.
type keyAttempt struct {
	failures int
	err      error
}

// keyUse says for what a key is needed.
type keyUse struct {
	// at is the moment for which the key must be good, ms.
	at int64
	// strict says that at must lie within the key's published validity.
	strict bool
	// current says that the key must still be in use.
	current bool
}

// permits tells whether the key may be used. Keys out of use are good for what
// was signed before they expired.
// Spec: server-server-api#publishing-keys, rooms/v5#signing-key-validity-period
func (u keyUse) permits(k storage.ServerKey) bool {
	switch {
	case k.Expired != 0:
		return !u.current && u.at <= k.Expired
	case u.strict:
		return u.at <= k.ValidUntil
	}
	return true
}

// wanted are the uses of keys that are lacking, by server and key.
type wanted map[spec.ServerName]map[spec.KeyID]keyUse

func (w wanted) add(name spec.ServerName, id spec.KeyID, use keyUse) {
	if w[name] == nil {
		w[name] = make(map[spec.KeyID]keyUse)
	}
	// The latest moment is the one that decides whether to ask again.
	if old, ok := w[name][id]; !ok || old.at < use.at {
		w[name][id] = use
	}
}

// KeyRing holds the keys by which other servers sign, and fetches them when
// somebody needs them, never before. Safe for concurrent use.
type KeyRing struct {
	self     spec.ServerName
	own      serverKeys
	notaries []spec.ServerName
	store    KeyStore
	fetch    func(ctx context.Context, name spec.ServerName) ([]byte, error)
	query    func(ctx context.Context, notary spec.ServerName, want wanted) ([][]byte, error)
	now      func() time.Time
	log      *slog.Logger

	known    *timedCache[spec.ServerName, serverKeys]
	attempts *timedCache[spec.ServerName, keyAttempt]
	inFlight singleflight.Group
	// mergeMu guards the reading, merging and putting back of an entry of
	// known.
	mergeMu sync.Mutex
}

func newKeyRing(c *Client, o Options) *KeyRing {
	return &KeyRing{
		self: o.Name, own: o.Keys.verifiers(o.Name), notaries: o.TrustedKeyServers, store: o.KeyStore,
		fetch: c.fetchKeys, query: c.queryKeys, now: o.Now, log: o.Log,
		known:    newTimedCache[spec.ServerName, serverKeys](maxKeyServers),
		attempts: newTimedCache[spec.ServerName, keyAttempt](maxKeyServers),
	}
}

// keysOf returns what is in memory; known is false if the store was not asked
// yet.
func (r *KeyRing) keysOf(name spec.ServerName) (keys serverKeys, known bool) {
	if name == r.self {
		return r.own, true
	}
	return r.known.get(name, r.now())
}

// learn adds keys to those in memory and returns those that are news.
func (r *KeyRing) learn(name spec.ServerName, keys []storage.ServerKey) (news []storage.ServerKey) {
	r.mergeMu.Lock()
	defer r.mergeMu.Unlock()
	now := r.now()
	old, _ := r.known.get(name, now)
	merged := maps.Clone(old)
	if merged == nil {
		merged = make(serverKeys, len(keys))
	}
	for _, k := range keys {
		if before, ok := merged[k.ID]; !ok || supersedes(k, before) {
			merged[k.ID] = k
			news = append(news, k)
		}
	}
	// Facts about keys do not end; what they permit depends on the time.
	r.known.put(name, merged, now, now.Add(24*time.Hour))
	return news
}

// supersedes tells whether what is newly known of a key replaces what was known
// before. An older answer, as notaries may give, does not shorten a key's life.
func supersedes(k, before storage.ServerKey) bool {
	if k.Public.Equal(before.Public) && k.Expired == before.Expired {
		return k.ValidUntil > before.ValidUntil
	}
	return k.Fetched >= before.Fetched
}

// load brings the keys of the servers from the store into memory.
func (r *KeyRing) load(ctx context.Context, names []spec.ServerName) error {
	if len(names) == 0 {
		return nil
	}
	keys, err := r.store.ServerKeys(ctx, names)
	if err != nil {
		return fmt.Errorf("stored keys: %w", err)
	}
	byServer := make(map[spec.ServerName][]storage.ServerKey)
	for _, k := range keys {
		byServer[k.Server] = append(byServer[k.Server], k)
	}
	for _, name := range names {
		r.learn(name, byServer[name])
	}
	return nil
}

// obtain makes the wanted keys known as far as they can be had: from the store,
// where another node may have put them, from their servers, and from notaries.
// It returns by server why keys are still lacking; a server that answered and
// does not have the key is not among them.
func (r *KeyRing) obtain(ctx context.Context, want wanted) map[spec.ServerName]error {
	failed := make(map[spec.ServerName]error)
	names := make([]spec.ServerName, 0, len(want))
	for name := range want {
		if name != r.self {
			names = append(names, name)
		}
	}
	if err := r.load(ctx, names); err != nil {
		for _, name := range names {
			failed[name] = err
		}
		return failed
	}
	var mu sync.Mutex // guards failed
	var g errgroup.Group
	g.SetLimit(maxKeyFetches)
	for _, name := range names {
		if r.has(name, want[name]) {
			continue
		}
		g.Go(func() error {
			if err := r.refresh(ctx, name); err != nil {
				mu.Lock()
				failed[name] = err
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait()
	r.askNotaries(ctx, want, failed)
	return failed
}

// has tells whether every wanted key of the server can be used.
func (r *KeyRing) has(name spec.ServerName, uses map[spec.KeyID]keyUse) bool {
	keys, _ := r.keysOf(name)
	for id, use := range uses {
		if k, ok := keys[id]; !ok || !use.permits(k) {
			return false
		}
	}
	return true
}

// errAskedRecently is the verdict on a server that answered a moment ago
// without giving the wanted key.
var errAskedRecently = errors.New("its keys were fetched a moment ago")

// refresh asks the server for its keys, together with all others who want that
// now, unless it was asked too recently.
func (r *KeyRing) refresh(ctx context.Context, name spec.ServerName) error {
	if last, fresh := r.attempts.get(name, r.now()); fresh {
		if last.err != nil {
			return last.err
		}
		return errAskedRecently
	}
	failed, err := shared(ctx, &r.inFlight, "keys of "+string(name), func(ctx context.Context) error {
		return r.fetchNow(ctx, name)
	})
	return errors.Join(failed, err)
}

func (r *KeyRing) fetchNow(ctx context.Context, name spec.ServerName) error {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	raw, err := r.fetch(ctx, name)
	if err == nil {
		err = r.take(ctx, name, raw)
	}
	now := r.now()
	if err == nil {
		r.attempts.put(name, keyAttempt{}, now, now.Add(keyRefetch))
		return nil
	}
	last, _ := r.attempts.get(name, now)
	wait := keyRetryMax
	if last.failures < 7 {
		wait = min(wait, keyRetryMin<<last.failures)
	}
	r.attempts.put(name, keyAttempt{failures: last.failures + 1, err: err}, now, now.Add(wait))
	return err
}

// take checks a key object and adds its keys, in memory and in the store.
func (r *KeyRing) take(ctx context.Context, name spec.ServerName, raw []byte) error {
	keys, err := parseKeyObject(name, raw, r.now())
	if err != nil {
		return fmt.Errorf("keys of %s: %w", name, err)
	}
	if news := r.learn(name, keys); len(news) > 0 {
		if err := r.store.PutServerKeys(ctx, news); err != nil {
			// The keys are good without being stored; they are fetched again
			// after a restart.
			r.log.Error("keys of a server could not be stored", "server", name, "err", err)
		}
	}
	return nil
}

// askNotaries asks the trusted key servers, one after the other, for what is
// still lacking, and takes servers whose keys came off the list of failures.
func (r *KeyRing) askNotaries(ctx context.Context, want wanted, failed map[spec.ServerName]error) {
	for _, notary := range r.notaries {
		lacking := make(wanted)
		for name, uses := range want {
			if name != notary && name != r.self && !r.has(name, uses) {
				lacking[name] = uses
			}
		}
		if len(lacking) == 0 {
			return
		}
		objects, err := r.query(ctx, notary, lacking)
		if err != nil {
			r.log.Info("a trusted key server gave no answer", "server", notary, "err", err)
			continue
		}
		for _, raw := range objects {
			name, err := keyObjectServer(raw)
			if err == nil && lacking[name] == nil {
				err = errors.New("keys of a server that was not asked for")
			}
			if err == nil {
				err = r.VerifyJSON(ctx, notary, raw)
			}
			if err == nil {
				err = r.take(ctx, name, raw)
			}
			if err != nil {
				r.log.Warn("a trusted key server gave keys that cannot be used", "server", notary, "err", err)
			} else if r.has(name, want[name]) {
				delete(failed, name)
			}
		}
	}
}

// VerifyJSON checks that the server has signed the object with a key that is in
// use now. The error is server.ErrKeyUnavailable, among others, if the key could
// not be had.
func (r *KeyRing) VerifyJSON(ctx context.Context, name spec.ServerName, object []byte) error {
	ids, err := spec.SignatureKeyIDs(object, string(name))
	if err != nil {
		return err
	}
	use := keyUse{at: r.now().UnixMilli(), strict: true, current: true}
	return r.verify(ctx, name, ids, use, func(id spec.KeyID, k storage.ServerKey) error {
		return spec.VerifyJSON(object, string(name), id, k.Public)
	})
}

// verify checks one thing that a server signed: every signature by a key that
// may be used must be good, and there must be one. Keys are fetched if none of
// those that are known will do.
// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (r *KeyRing) verify(ctx context.Context, name spec.ServerName, ids []spec.KeyID, use keyUse, check func(spec.KeyID, storage.ServerKey) error) error {
	if len(ids) == 0 {
		return fmt.Errorf("no signature of %s", name)
	}
	if _, known := r.keysOf(name); !known {
		if err := r.load(ctx, []spec.ServerName{name}); err != nil {
			return fmt.Errorf("%w: %w", server.ErrKeyUnavailable, err)
		}
	}
	found, err := r.judge(name, ids, use, check)
	if found {
		return err
	}
	want := make(wanted)
	for _, id := range ids {
		want.add(name, id, use)
	}
	failed := r.obtain(ctx, want)
	if found, err = r.judge(name, ids, use, check); found {
		return err
	}
	return lackingKey(name, ids, failed[name])
}

// judge applies check with the keys in memory; found is false if none may be
// used.
func (r *KeyRing) judge(name spec.ServerName, ids []spec.KeyID, use keyUse, check func(spec.KeyID, storage.ServerKey) error) (found bool, err error) {
	keys, _ := r.keysOf(name)
	for _, id := range ids {
		k, ok := keys[id]
		if !ok || !use.permits(k) {
			continue
		}
		if err := check(id, k); err != nil {
			return true, err
		}
		found = true
	}
	return found, nil
}

// lackingKey is the error for signatures none of whose keys may be used. It is
// final if the server was asked, and answered.
func lackingKey(name spec.ServerName, ids []spec.KeyID, failed error) error {
	if failed != nil {
		return fmt.Errorf("%w: %v of %s: %w", server.ErrKeyUnavailable, ids, name, failed)
	}
	return fmt.Errorf("no key of %s among %v is valid for the time of the signature", name, ids)
}

// VerifyEvents implements server.EventVerifier.
// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (r *KeyRing) VerifyEvents(ctx context.Context, events []*spec.Event) []error {
	verdicts := make([]error, len(events))
	if err := r.load(ctx, r.unloaded(events)); err != nil {
		for i := range verdicts {
			verdicts[i] = fmt.Errorf("%w: %w", server.ErrKeyUnavailable, err)
		}
		return verdicts
	}
	all := make([]int, len(events))
	for i := range all {
		all[i] = i
	}
	lacking := r.judgeEvents(events, all, verdicts)
	if len(lacking) == 0 {
		return verdicts
	}
	want := make(wanted)
	for _, i := range lacking {
		for _, name := range events[i].RequiredSigners() {
			for _, id := range events[i].SignatureKeyIDs(name) {
				if found, _ := r.judgeEvent(events[i], name); !found {
					want.add(name, id, eventUse(events[i]))
				}
			}
		}
	}
	failed := r.obtain(ctx, want)
	for _, i := range r.judgeEvents(events, lacking, verdicts) {
		verdicts[i] = r.lackingEventKey(events[i], failed)
	}
	return verdicts
}

func eventUse(e *spec.Event) keyUse {
	return keyUse{at: e.OriginServerTS, strict: e.Rules.KeyValidity}
}

// unloaded lists the signers whose keys the store was not asked for.
func (r *KeyRing) unloaded(events []*spec.Event) []spec.ServerName {
	seen := make(map[spec.ServerName]bool)
	var out []spec.ServerName
	for _, e := range events {
		for _, name := range e.RequiredSigners() {
			if seen[name] {
				continue
			}
			seen[name] = true
			if _, known := r.keysOf(name); !known {
				out = append(out, name)
			}
		}
	}
	return out
}

// judgeEvents sets the verdicts of the events with the given indices, on all
// processors, and returns the indices of those that lack keys.
func (r *KeyRing) judgeEvents(events []*spec.Event, which []int, verdicts []error) (lacking []int) {
	missing := make([]bool, len(which))
	workers := min(runtime.GOMAXPROCS(0), len(which))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := w; n < len(which); n += workers {
				e := events[which[n]]
				for _, name := range e.RequiredSigners() {
					found, err := r.judgeEvent(e, name)
					if !found && err == nil {
						missing[n] = true
						continue
					}
					if err != nil { // a bad signature outweighs a missing key
						verdicts[which[n]], missing[n] = err, false
						break
					}
				}
			}
		})
	}
	wg.Wait()
	for n, m := range missing {
		if m {
			lacking = append(lacking, which[n])
		}
	}
	return lacking
}

// judgeEvent checks the signatures of one server; found is false without an
// error if no key for them may be used.
func (r *KeyRing) judgeEvent(e *spec.Event, name spec.ServerName) (found bool, err error) {
	ids := e.SignatureKeyIDs(name)
	if len(ids) == 0 {
		return false, fmt.Errorf("event %s has no signature of %s", e.ID, name)
	}
	found, err = r.judge(name, ids, eventUse(e), func(id spec.KeyID, k storage.ServerKey) error {
		return e.VerifySignature(name, id, k.Public)
	})
	if err != nil {
		err = fmt.Errorf("event %s: %w", e.ID, err)
	}
	return found, err
}

// lackingEventKey explains which signer's key is lacking.
func (r *KeyRing) lackingEventKey(e *spec.Event, failed map[spec.ServerName]error) error {
	for _, name := range e.RequiredSigners() {
		if found, err := r.judgeEvent(e, name); !found && err == nil {
			return fmt.Errorf("event %s: %w", e.ID, lackingKey(name, e.SignatureKeyIDs(name), failed[name]))
		}
	}
	return nil // its keys have come in the meantime, and they are good
}
