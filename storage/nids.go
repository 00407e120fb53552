package storage

import (
	"context"
	"slices"
	"sync"

	"atoll/spec"
)

// sequence is one of the sequences of local ids.
type sequence int

const (
	seqEvents sequence = iota
	seqRooms
	seqStateKeys
)

// leased are the names of the sequences in the database and how many ids are
// leased at a time. What is left of a block at the end of the process is lost.
var leased = [...]struct {
	name  string
	block int64
}{
	seqEvents:    {"event", 8192},
	seqRooms:     {"room", 64},
	seqStateKeys: {"state_key", 512},
}

// leases gives out ids of one sequence from blocks that are leased from the
// database, so that no id is ever given twice.
type leases struct {
	db  *DB
	seq sequence
	// mu guards what follows. It is held while a block is leased, as nobody
	// could be served meanwhile.
	mu    sync.Mutex
	cur   idRange
	spare idRange // leased ahead
}

type idRange struct{ next, end int64 }

func (r idRange) left() int64 { return r.end - r.next }

// take returns the first of n consecutive ids; 0 if the database fails.
func (l *leases) take(n int) int64 {
	want := int64(n)
	if n < 1 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur.left() < want && l.spare.left() >= want {
		l.cur, l.spare = l.spare, idRange{}
	}
	if l.cur.left() < want {
		block, err := l.db.lease(context.Background(), l.seq, max(want, leased[l.seq].block))
		if err != nil {
			l.db.log.Error("no local ids can be leased", "sequence", leased[l.seq].name, "error", err)
			return 0
		}
		l.cur = block
	}
	first := l.cur.next
	l.cur.next += want
	if l.cur.left() < leased[l.seq].block/2 && l.spare.left() == 0 {
		select {
		case l.db.leaseWanted <- struct{}{}:
		default:
		}
	}
	return first
}

// refillLeases leases the blocks that will be needed soon. The writer calls it
// between two groups.
func (db *DB) refillLeases() {
	for i := range db.nids {
		l := &db.nids[i]
		l.mu.Lock()
		want := l.cur.end > 0 && l.spare.left() == 0 && l.cur.left() < leased[l.seq].block/2
		l.mu.Unlock()
		if !want {
			continue
		}
		block, err := db.lease(context.Background(), l.seq, leased[l.seq].block)
		if err != nil {
			db.log.Warn("local ids cannot be leased ahead", "sequence", leased[l.seq].name, "error", err)
			continue
		}
		l.mu.Lock()
		if l.spare.left() == 0 {
			l.spare = block
		}
		l.mu.Unlock()
	}
}

var advanceSequence = query(`UPDATE sequences SET next_id = next_id + $1 WHERE name = $2 RETURNING next_id`)

// lease takes n ids from the database.
func (db *DB) lease(ctx context.Context, seq sequence, n int64) (idRange, error) {
	var end int64
	err := db.Write(ctx, func(tx *Tx) error {
		return tx.one(advanceSequence, []any{n, leased[seq].name}, &end)
	})
	return idRange{end - n, end}, err
}

// NewEventNIDs returns the first of n consecutive local ids for events, which
// nobody else gets, also after a crash. It mostly answers from memory. 0: the
// database fails, and so would any commit; a row with NID 0 is refused.
func (db *DB) NewEventNIDs(n int) int64 { return db.nids[seqEvents].take(n) }

// NewRoomNID returns a local id for a room; see NewEventNIDs.
func (db *DB) NewRoomNID() int64 { return db.nids[seqRooms].take(1) }

// keyCacheMax is how many state keys each of the two generations of the cache
// holds at most.
const keyCacheMax = 16 << 10

// keyPendingMax bounds the keys that wait for their commit. Beyond it they are
// forgotten: two ids for one key cannot both be committed.
const keyPendingMax = 16 << 10

// keyCache knows the state keys used of late, in both directions, and those
// that got an id but are not committed yet.
type keyCache struct {
	// mu guards what follows.
	mu       sync.Mutex
	nids     [2]map[spec.StateKey]int64 // young, old
	byNID    [2]map[int64]spec.StateKey
	pending  map[spec.StateKey]int64
	inFlight map[int64]spec.StateKey // pending by nid
}

func newKeyCache() *keyCache {
	c := &keyCache{pending: map[spec.StateKey]int64{}, inFlight: map[int64]spec.StateKey{}}
	for i := range c.nids {
		c.nids[i], c.byNID[i] = map[spec.StateKey]int64{}, map[int64]spec.StateKey{}
	}
	return c
}

func (c *keyCache) putLocked(k spec.StateKey, nid int64) {
	if len(c.nids[0]) >= keyCacheMax {
		c.nids[1], c.nids[0] = c.nids[0], make(map[spec.StateKey]int64)
		c.byNID[1], c.byNID[0] = c.byNID[0], make(map[int64]spec.StateKey)
	}
	c.nids[0][k], c.byNID[0][nid] = nid, k
}

// getLocked finds a committed key.
func (c *keyCache) getLocked(k spec.StateKey) (int64, bool) {
	if nid, ok := c.nids[0][k]; ok {
		return nid, true
	}
	nid, ok := c.nids[1][k]
	if ok {
		c.putLocked(k, nid)
	}
	return nid, ok
}

func (c *keyCache) keyLocked(nid int64) (spec.StateKey, bool) {
	if k, ok := c.byNID[0][nid]; ok {
		return k, true
	}
	if k, ok := c.byNID[1][nid]; ok {
		c.putLocked(k, nid)
		return k, true
	}
	k, ok := c.inFlight[nid]
	return k, ok
}

// stored notes keys whose rows were committed.
func (c *keyCache) stored(rows []StateKeyRow) {
	if len(rows) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rows {
		c.putLocked(r.Key, r.NID)
		delete(c.pending, r.Key)
		delete(c.inFlight, r.NID)
	}
}

// forget drops keys whose commit failed, so that they are looked up again.
func (c *keyCache) forget(rows []StateKeyRow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rows {
		if c.pending[r.Key] == r.NID {
			delete(c.pending, r.Key)
			delete(c.inFlight, r.NID)
		}
	}
}

// StateKeyNIDs returns the local ids of state keys, in the order of the keys.
// Keys that no event used so far get new ids; until they are committed
// everybody who asks is told that they are New.
func (db *DB) StateKeyNIDs(ctx context.Context, keys []spec.StateKey) ([]StateKeyRow, error) {
	out := make([]StateKeyRow, len(keys))
	var missing []int
	db.keys.mu.Lock()
	for i, k := range keys {
		out[i].Key = k
		if nid, ok := db.keys.getLocked(k); ok {
			out[i].NID = nid
		} else if nid, ok := db.keys.pending[k]; ok {
			out[i].NID, out[i].New = nid, true
		} else {
			missing = append(missing, i)
		}
	}
	db.keys.mu.Unlock()
	if len(missing) == 0 {
		return out, nil
	}
	return out, db.findStateKeys(ctx, out, missing)
}

// findStateKeys looks the missing keys up in the database and gives those that
// are not there new ids.
func (db *DB) findStateKeys(ctx context.Context, out []StateKeyRow, missing []int) error {
	byType := map[string][]string{}
	for _, i := range missing {
		k := out[i].Key
		byType[k.Type] = append(byType[k.Type], k.Key)
	}
	found := map[spec.StateKey]int64{}
	err := db.Read(ctx, func(tx *Tx) error {
		for t, keys := range byType {
			if err := tx.stateKeys(t, keys, found); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fresh := 0
	for _, i := range missing {
		if _, ok := found[out[i].Key]; !ok {
			fresh++
		}
	}
	next := int64(0)
	if fresh > 0 {
		if next = db.nids[seqStateKeys].take(fresh); next == 0 {
			return errNoNIDs
		}
	}
	c := db.keys
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range missing {
		k := out[i].Key
		nid, ok := found[k]
		if !ok {
			nid, ok = c.getLocked(k) // committed since
		}
		if ok {
			c.putLocked(k, nid)
			out[i].NID = nid
			continue
		}
		if nid, ok = c.pending[k]; !ok {
			nid = next
			next++
			if len(c.pending) >= keyPendingMax {
				clear(c.pending)
				clear(c.inFlight)
			}
			c.pending[k], c.inFlight[nid] = nid, k
		}
		out[i].NID, out[i].New = nid, true
	}
	return nil
}

var (
	selectStateKeys      = query(`SELECT nid, state_key FROM state_keys WHERE type = $1 AND state_key = ANY($2::text[])`)
	selectStateKeysByNID = query(`SELECT nid, type, state_key FROM state_keys WHERE nid = ANY($1::bigint[])`)
)

// listMax is how many values a list parameter gets at a time.
const listMax = 500

// stateKeys looks up the keys of one event type.
func (tx *Tx) stateKeys(eventType string, keys []string, into map[spec.StateKey]int64) error {
	var nid int64
	var key string
	for part := range slices.Chunk(keys, listMax) {
		err := tx.each(selectStateKeys, []any{eventType, part}, func(r *rows) error {
			if err := r.scan(&nid, &key); err != nil {
				return err
			}
			into[spec.StateKey{Type: eventType, Key: key}] = nid
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// StateKeysByNID returns the state keys with these local ids; ids that do not
// exist are left out.
func (db *DB) StateKeysByNID(ctx context.Context, nids []int64) (map[int64]spec.StateKey, error) {
	out := make(map[int64]spec.StateKey, len(nids))
	var missing []int64
	db.keys.mu.Lock()
	for _, nid := range nids {
		if k, ok := db.keys.keyLocked(nid); ok {
			out[nid] = k
		} else {
			missing = append(missing, nid)
		}
	}
	db.keys.mu.Unlock()
	if len(missing) == 0 {
		return out, nil
	}
	found := map[int64]spec.StateKey{}
	err := db.Read(ctx, func(tx *Tx) error { return tx.stateKeysByNID(missing, found) })
	if err != nil {
		return nil, err
	}
	db.keys.mu.Lock()
	defer db.keys.mu.Unlock()
	for nid, k := range found {
		db.keys.putLocked(k, nid)
		out[nid] = k
	}
	return out, nil
}

func (tx *Tx) stateKeysByNID(nids []int64, into map[int64]spec.StateKey) error {
	for part := range slices.Chunk(nids, listMax) {
		err := tx.each(selectStateKeysByNID, []any{part}, func(r *rows) error {
			var nid int64
			var k spec.StateKey
			if err := r.scan(&nid, &k.Type, &k.Key); err != nil {
				return err
			}
			into[nid] = k
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
