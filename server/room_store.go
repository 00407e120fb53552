package server

import (
	"context"
	"errors"
	"sync"

	"github.com/maypok86/otter/v2"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Byte budgets of what is kept of rooms in memory, by this process.
const (
	eventCacheBytes = 24 << 20
	nodeCacheBytes  = 12 << 20
)

// roomCache keeps committed events and state nodes of all rooms, bounded in
// bytes. What it holds is never newer than the database and never changed in
// place. Safe for concurrent use.
type roomCache struct {
	byNID *otter.Cache[int64, *storage.EventRow]
	byID  *otter.Cache[eventKey, int64]
	nodes *otter.Cache[nodeKey, *spec.Node]

	// mu keeps what was read before a redaction from being put in after it. It
	// guards forgotten, which counts the events that were taken out.
	mu        sync.Mutex
	forgotten int64
}

type eventKey struct {
	room int64
	id   spec.EventID
}

type nodeKey struct {
	room int64
	hash spec.Hash
}

func newRoomCache() *roomCache {
	return &roomCache{
		byNID: otter.Must(&otter.Options[int64, *storage.EventRow]{
			MaximumWeight: eventCacheBytes,
			Weigher:       func(_ int64, row *storage.EventRow) uint32 { return uint32(2*len(row.Event.JSON) + 700) },
		}),
		byID: otter.Must(&otter.Options[eventKey, int64]{
			MaximumWeight: eventCacheBytes / 8,
			Weigher:       func(k eventKey, _ int64) uint32 { return uint32(len(k.id) + 120) },
		}),
		nodes: otter.Must(&otter.Options[nodeKey, *spec.Node]{
			MaximumWeight: nodeCacheBytes,
			Weigher:       func(_ nodeKey, n *spec.Node) uint32 { return uint32(n.Size() + 120) },
		}),
	}
}

func (c *roomCache) putEvent(row *storage.EventRow) {
	c.byNID.Set(row.NID, row)
	c.byID.Set(eventKey{row.RoomNID, row.Event.ID}, row.NID)
}

// generation is to be asked for before a transaction whose events are given to
// putRead.
func (c *roomCache) generation() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forgotten
}

// putRead puts in an event that was read, unless it may be out of date by now.
func (c *roomCache) putRead(generation int64, row *storage.EventRow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgotten == generation {
		c.putEvent(row)
	}
}

// addNew puts in an event that was just committed, unless it is there. One that
// came without its position was handed on before its own commit and is left to
// whoever reads it.
func (c *roomCache) addNew(row *storage.EventRow) {
	if row.Pos == 0 {
		return
	}
	if _, ok := c.byNID.GetIfPresent(row.NID); !ok {
		c.putEvent(row)
	}
}

// forgetEvent takes out an event that was redacted.
func (c *roomCache) forgetEvent(nid int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgotten++
	c.byNID.Invalidate(nid)
}

// store takes in what a unit has committed, with the positions it was given.
func (c *roomCache) store(room int64, unit *storage.Unit) {
	for _, rows := range [][]storage.EventRow{unit.Events, unit.EventUpdates} {
		for i := range rows {
			row := rows[i]
			c.putEvent(&row)
		}
	}
	for _, red := range unit.Redactions {
		c.forgetEvent(red.NID)
	}
	for _, n := range unit.Nodes {
		if node, err := spec.DecodeNode(n.Hash, n.Stored); err == nil {
			c.nodes.Set(nodeKey{room, n.Hash}, node)
		}
	}
}

// dropRoom forgets what may be wrong after a commit of unknown outcome. Nodes
// are what their hash says and stay.
func (c *roomCache) dropRoom(room int64) {
	for nid, row := range c.byNID.All() {
		if row.RoomNID == room {
			c.byNID.Invalidate(nid)
			c.byID.Invalidate(eventKey{room, row.Event.ID})
		}
	}
}

// roomStore reads one room for its core: from the cache, else from the database.
// It implements roomcore.Store, whose callers cannot wait for a request's end,
// so its reads are bound to nothing but the database.
type roomStore struct {
	rooms *Rooms
	nid   int64
}

var _ roomcore.Store = (*roomStore)(nil)

func (s *roomStore) read(fn func(*storage.Tx) error) error {
	return s.rooms.db.Read(context.Background(), fn)
}

// Node implements spec.NodeReader.
func (s *roomStore) Node(h spec.Hash) (*spec.Node, error) {
	key := nodeKey{s.nid, h}
	if n, ok := s.rooms.cache.nodes.GetIfPresent(key); ok {
		return n, nil
	}
	var node *spec.Node
	err := s.read(func(tx *storage.Tx) (err error) {
		node, err = tx.StateNode(s.nid, h)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.rooms.cache.nodes.Set(key, node)
	return node, nil
}

// EventByID implements roomcore.Store.
func (s *roomStore) EventByID(id spec.EventID) (*storage.EventRow, error) {
	if nid, ok := s.rooms.cache.byID.GetIfPresent(eventKey{s.nid, id}); ok {
		if row, ok := s.rooms.cache.byNID.GetIfPresent(nid); ok {
			return row, nil
		}
	}
	return s.event(func(tx *storage.Tx) (storage.EventRow, error) { return tx.EventByID(s.nid, id) })
}

// EventByNID implements roomcore.Store.
func (s *roomStore) EventByNID(nid int64) (*storage.EventRow, error) {
	if row, ok := s.rooms.cache.byNID.GetIfPresent(nid); ok {
		return row, nil
	}
	return s.event(func(tx *storage.Tx) (storage.EventRow, error) { return eventByNID(tx, nid) })
}

func (s *roomStore) event(get func(*storage.Tx) (storage.EventRow, error)) (*storage.EventRow, error) {
	var row storage.EventRow
	err := s.read(func(tx *storage.Tx) (err error) {
		row, err = get(tx)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.rooms.cache.putEvent(&row)
	return &row, nil
}

func eventByNID(tx *storage.Tx, nid int64) (storage.EventRow, error) {
	rows, err := tx.EventsByNIDs([]int64{nid})
	if err == nil && len(rows) == 0 {
		err = storage.ErrNotFound
	}
	if err != nil {
		return storage.EventRow{}, err
	}
	return rows[0], nil
}

// StateKeyRows implements roomcore.Store.
func (s *roomStore) StateKeyRows(keys []spec.StateKey) ([]storage.StateKeyRow, error) {
	return s.rooms.db.StateKeyNIDs(context.Background(), keys)
}

// StateKey implements roomcore.Store.
func (s *roomStore) StateKey(nid int64) (spec.StateKey, error) {
	keys, err := s.rooms.db.StateKeysByNID(context.Background(), []int64{nid})
	if err != nil {
		return spec.StateKey{}, err
	}
	return keys[nid], nil
}

// NewEventNIDs implements roomcore.Store.
func (s *roomStore) NewEventNIDs(n int) int64 { return s.rooms.db.NewEventNIDs(n) }

// AuthGraph implements roomcore.Store.
func (s *roomStore) AuthGraph() (*spec.AuthGraph, error) {
	graph := &spec.AuthGraph{}
	err := s.read(func(tx *storage.Tx) error {
		return tx.AuthGraph(s.nid, func(n storage.AuthNode) error {
			graph.Add(n.NID, n.Auth, n.StateKeyNID)
			return nil
		})
	})
	return graph, err
}

// RedactionsOf implements roomcore.Store.
func (s *roomStore) RedactionsOf(id spec.EventID) ([]int64, error) {
	var nids []int64
	err := s.read(func(tx *storage.Tx) (err error) {
		nids, err = tx.RedactionsOf(s.nid, id)
		return err
	})
	return nids, err
}

// Successors implements roomcore.Store.
func (s *roomStore) Successors(id spec.EventID) ([]int64, error) {
	var nids []int64
	err := s.read(func(tx *storage.Tx) error {
		next, err := tx.Successors(s.nid, []spec.EventID{id})
		for _, ev := range next {
			nids = append(nids, ev.NID)
		}
		return err
	})
	return nids, err
}

// loadConfig reads what a room's core starts from; storage.ErrNotFound for a room
// that no user of this server was ever in.
func (rs *Rooms) loadConfig(ctx context.Context, id spec.RoomID) (roomcore.Config, error) {
	cfg := roomcore.Config{Room: id, Server: rs.name, Key: rs.key}
	err := rs.db.Read(ctx, func(tx *storage.Tx) error {
		row, err := tx.RoomByID(id)
		if err != nil {
			return err
		}
		if row.Flags&storage.RoomOutside != 0 {
			return storage.ErrNotFound // an invite is no room
		}
		rules, ok := spec.RulesOf(row.RoomVersion)
		if !ok {
			return spec.Errorf(spec.CodeUnsupportedRoomVersion, nil, "room version %s is not supported", row.RoomVersion)
		}
		cfg.RoomNID, cfg.Rules, cfg.Create = row.NID, rules, row.CreateNID
		cfg.View = roomcore.View{Root: row.Root, Version: row.Version, Joined: row.Joined, Invited: row.Invited}
		for _, nid := range row.Extremities {
			ev, err := eventByNID(tx, nid)
			if err != nil {
				return err
			}
			cfg.View.Extremities = append(cfg.View.Extremities, roomcore.Extremity{
				NID: nid, ID: ev.Event.ID, Depth: ev.Event.Depth, After: ev.After,
			})
		}
		cfg.Servers, err = tx.JoinedByServer(row.NID)
		return err
	})
	cfg.Store = &roomStore{rooms: rs, nid: cfg.RoomNID}
	return cfg, err
}
