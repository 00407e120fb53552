package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
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
	// half a KiB, and never more than what maxKeysPerAnswer permits.
	maxKeyServers = 10_000
)

// serverKeys are the keys known of one server, without the objects that they
// came in. Never changed once shared.
type serverKeys map[spec.KeyID]storage.ServerKey

// keySet holds the keys that one call works with, so that no verdict depends on
// what the cache has room for.
type keySet map[spec.ServerName]serverKeys

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

// keysOf returns what is in memory; known is false if the store has to be asked.
func (r *KeyRing) keysOf(name spec.ServerName) (keys serverKeys, known bool) {
	if name == r.self {
		return r.own, true
	}
	return r.known.get(name, r.now())
}

// learn adds keys to those in memory. It returns all keys of the server then
// known, and those that are news.
func (r *KeyRing) learn(name spec.ServerName, keys []storage.ServerKey) (all serverKeys, news []storage.ServerKey) {
	r.mergeMu.Lock()
	defer r.mergeMu.Unlock()
	now := r.now()
	old, _ := r.known.get(name, now)
	all = maps.Clone(old)
	if all == nil {
		all = make(serverKeys, len(keys))
	}
	for _, k := range keys {
		if before, ok := all[k.ID]; !ok || supersedes(k, before) {
			news = append(news, k)
			k.Answer = nil
			all[k.ID] = k
		}
	}
	// Facts about keys do not end; what they permit depends on the time.
	r.known.put(name, all, now, now.Add(24*time.Hour))
	return all, news
}

// supersedes tells whether what is newly known of a key replaces what was known
// before. An older answer, as notaries may give, does not shorten a key's life.
func supersedes(k, before storage.ServerKey) bool {
	if k.Public.Equal(before.Public) && k.Expired == before.Expired {
		return k.ValidUntil > before.ValidUntil
	}
	return k.Fetched >= before.Fetched
}

// addKnown adds the keys of the servers to the set, from memory or else the store.
func (r *KeyRing) addKnown(ctx context.Context, set keySet, names []spec.ServerName) error {
	var unknown []spec.ServerName
	for _, name := range names {
		keys, known := r.keysOf(name)
		if set[name] = keys; !known {
			unknown = append(unknown, name)
		}
	}
	return r.addStored(ctx, set, unknown)
}

// addStored adds the keys of the servers to the set, from the store.
func (r *KeyRing) addStored(ctx context.Context, set keySet, names []spec.ServerName) error {
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
		set[name], _ = r.learn(name, byServer[name])
	}
	return nil
}

// obtain adds the wanted keys to the set as far as they can be had: from the
// store, where another node may have put them, from their servers, and from
// notaries. It returns by server why keys are still lacking; a server that
// answered and does not have the key is not among them.
func (r *KeyRing) obtain(ctx context.Context, set keySet, want wanted) map[spec.ServerName]error {
	failed := make(map[spec.ServerName]error)
	names := make([]spec.ServerName, 0, len(want))
	for name := range want {
		if name != r.self {
			names = append(names, name)
		}
	}
	if err := r.addStored(ctx, set, names); err != nil {
		for _, name := range names {
			failed[name] = err
		}
		return failed
	}
	names = slices.DeleteFunc(names, func(name spec.ServerName) bool { return has(set[name], want[name]) })
	var mu sync.Mutex // guards set and failed
	var g errgroup.Group
	g.SetLimit(maxKeyFetches)
	for _, name := range names {
		g.Go(func() error {
			keys, err := r.refresh(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !has(keys, want[name]) {
				failed[name] = err
				return nil
			}
			set[name] = keys
			return nil
		})
	}
	_ = g.Wait()
	r.askNotaries(ctx, set, want, failed)
	return failed
}

// has tells whether every wanted key can be used.
func has(keys serverKeys, uses map[spec.KeyID]keyUse) bool {
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
// now, unless it was asked too recently. With an error come the keys that are
// known without asking; somebody else may just have fetched them.
func (r *KeyRing) refresh(ctx context.Context, name spec.ServerName) (serverKeys, error) {
	type outcome struct {
		keys serverKeys
		err  error
	}
	recent := func() (outcome, bool) {
		last, fresh := r.attempts.get(name, r.now())
		if last.err == nil {
			last.err = errAskedRecently
		}
		keys, _ := r.keysOf(name)
		return outcome{keys, last.err}, fresh
	}
	if o, ok := recent(); ok {
		return o.keys, o.err
	}
	done, err := shared(ctx, &r.inFlight, "keys of "+string(name), func(ctx context.Context) outcome {
		if o, ok := recent(); ok {
			return o
		}
		keys, err := r.fetchNow(ctx, name)
		return outcome{keys, err}
	})
	return done.keys, errors.Join(done.err, err)
}

func (r *KeyRing) fetchNow(ctx context.Context, name spec.ServerName) (keys serverKeys, err error) {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	raw, err := r.fetch(ctx, name)
	if err == nil {
		keys, err = r.take(ctx, name, raw)
	}
	now := r.now()
	if err == nil {
		r.attempts.put(name, keyAttempt{}, now, now.Add(keyRefetch))
		return keys, nil
	}
	last, _ := r.attempts.get(name, now)
	wait := keyRetryMax
	if last.failures < 7 {
		wait = min(wait, keyRetryMin<<last.failures)
	}
	r.attempts.put(name, keyAttempt{failures: last.failures + 1, err: err}, now, now.Add(wait))
	return nil, err
}

// take checks a key object and adds its keys, in memory and in the store. It
// returns all keys of the server then known.
func (r *KeyRing) take(ctx context.Context, name spec.ServerName, raw []byte) (serverKeys, error) {
	keys, err := parseKeyObject(name, raw, r.now())
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", name, err)
	}
	all, news := r.learn(name, keys)
	if len(news) > 0 {
		if err := r.store.PutServerKeys(ctx, news); err != nil {
			// The keys are good without being stored; they are fetched again
			// after a restart.
			r.log.Error("keys of a server could not be stored", "server", name, "err", err)
		}
	}
	return all, nil
}

// askNotaries asks the trusted key servers, one after the other, for what is
// still lacking, and takes servers whose keys came off the list of failures.
func (r *KeyRing) askNotaries(ctx context.Context, set keySet, want wanted, failed map[spec.ServerName]error) {
	for _, notary := range r.notaries {
		lacking := make(wanted)
		for name, uses := range want {
			if name != notary && name != r.self && !has(set[name], uses) {
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
			name, keys, err := r.takeNotarized(ctx, notary, raw, lacking)
			if err != nil {
				r.log.Warn("a trusted key server gave keys that cannot be used", "server", notary, "err", err)
				continue
			}
			if set[name] = keys; has(keys, want[name]) {
				delete(failed, name)
			}
		}
	}
}

// takeNotarized takes an object that a notary gave for a server that it was
// asked for: it must be signed by the notary as well as by that server.
func (r *KeyRing) takeNotarized(ctx context.Context, notary spec.ServerName, raw []byte, asked wanted) (spec.ServerName, serverKeys, error) {
	name, err := keyObjectServer(raw)
	if err != nil {
		return "", nil, err
	}
	if asked[name] == nil {
		return "", nil, fmt.Errorf("nobody asked for the keys of %s", name)
	}
	if err := r.VerifyJSON(ctx, notary, raw); err != nil {
		return "", nil, err
	}
	keys, err := r.take(ctx, name, raw)
	return name, keys, err
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
	set := make(keySet)
	if err := r.addKnown(ctx, set, []spec.ServerName{name}); err != nil {
		return fmt.Errorf("%w: %w", server.ErrKeyUnavailable, err)
	}
	found, err := judge(set[name], ids, use, check)
	if found {
		return err
	}
	want := make(wanted)
	for _, id := range ids {
		want.add(name, id, use)
	}
	failed := r.obtain(ctx, set, want)
	if found, err = judge(set[name], ids, use, check); found {
		return err
	}
	return lackingKey(name, ids, failed[name])
}

// judge applies check with those of the keys that may be used; found is false if
// none may.
func judge(keys serverKeys, ids []spec.KeyID, use keyUse, check func(spec.KeyID, storage.ServerKey) error) (found bool, err error) {
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
	set := make(keySet)
	if err := r.addKnown(ctx, set, signers(events)); err != nil {
		for i := range verdicts {
			verdicts[i] = fmt.Errorf("%w: %w", server.ErrKeyUnavailable, err)
		}
		return verdicts
	}
	all := make([]int, len(events))
	for i := range all {
		all[i] = i
	}
	lacking := set.judgeEvents(events, all, verdicts)
	if len(lacking) == 0 {
		return verdicts
	}
	want := make(wanted)
	for _, i := range lacking {
		for _, name := range events[i].RequiredSigners() {
			if found, _ := set.judgeEvent(events[i], name); found {
				continue
			}
			for _, id := range events[i].SignatureKeyIDs(name) {
				want.add(name, id, eventUse(events[i]))
			}
		}
	}
	failed := r.obtain(ctx, set, want)
	for _, i := range set.judgeEvents(events, lacking, verdicts) {
		verdicts[i] = set.lackingEventKey(events[i], failed)
	}
	return verdicts
}

func eventUse(e *spec.Event) keyUse {
	return keyUse{at: e.OriginServerTS, strict: e.Rules.KeyValidity}
}

// signers lists the servers that must have signed some of the events, each once.
func signers(events []*spec.Event) (out []spec.ServerName) {
	seen := make(map[spec.ServerName]bool)
	for _, e := range events {
		for _, name := range e.RequiredSigners() {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out
}

// judgeEvents sets the verdicts of the events with the given indices, on all
// processors, and returns the indices of those that lack keys.
func (set keySet) judgeEvents(events []*spec.Event, which []int, verdicts []error) (lacking []int) {
	missing := make([]bool, len(which))
	workers := min(runtime.GOMAXPROCS(0), len(which))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := w; n < len(which); n += workers {
				e := events[which[n]]
				for _, name := range e.RequiredSigners() {
					found, err := set.judgeEvent(e, name)
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
func (set keySet) judgeEvent(e *spec.Event, name spec.ServerName) (found bool, err error) {
	ids := e.SignatureKeyIDs(name)
	if len(ids) == 0 {
		return false, fmt.Errorf("event %s has no signature of %s", e.ID, name)
	}
	found, err = judge(set[name], ids, eventUse(e), func(id spec.KeyID, k storage.ServerKey) error {
		return e.VerifySignature(name, id, k.Public)
	})
	if err != nil {
		err = fmt.Errorf("event %s: %w", e.ID, err)
	}
	return found, err
}

// lackingEventKey explains which signer's key is lacking.
func (set keySet) lackingEventKey(e *spec.Event, failed map[spec.ServerName]error) error {
	for _, name := range e.RequiredSigners() {
		if found, err := set.judgeEvent(e, name); !found && err == nil {
			return fmt.Errorf("event %s: %w", e.ID, lackingKey(name, e.SignatureKeyIDs(name), failed[name]))
		}
	}
	return fmt.Errorf("event %s: %w", e.ID, server.ErrKeyUnavailable) // not reached
}
