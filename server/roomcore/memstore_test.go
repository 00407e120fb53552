package roomcore

import (
	"fmt"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// memStore is the disk of one simulated server: it has what was committed and
// survives a restart of everything else.
type memStore struct {
	roomNID int64
	room    *storage.RoomRow // nil: no room yet
	events  map[int64]*storage.EventRow
	ids     map[spec.EventID]int64
	nodes   map[spec.Hash]*spec.Node
	keys    map[spec.StateKey]int64
	keyOf   map[int64]spec.StateKey
	members map[spec.UserID]string
	log     []storage.LogEntry
	early   map[spec.EventID][]int64

	nextEvent, nextKey int64
}

func newMemStore() *memStore {
	return &memStore{
		roomNID: 1, events: map[int64]*storage.EventRow{}, ids: map[spec.EventID]int64{},
		nodes: map[spec.Hash]*spec.Node{}, keys: map[spec.StateKey]int64{}, keyOf: map[int64]spec.StateKey{},
		members: map[spec.UserID]string{}, early: map[spec.EventID][]int64{},
	}
}

func (m *memStore) Node(h spec.Hash) (*spec.Node, error) {
	if n := m.nodes[h]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("node %s is not stored", h)
}

func (m *memStore) EventByID(id spec.EventID) (*storage.EventRow, error) {
	return m.events[m.ids[id]], nil
}

func (m *memStore) EventByNID(nid int64) (*storage.EventRow, error) { return m.events[nid], nil }

func (m *memStore) StateKeyRows(keys []spec.StateKey) ([]storage.StateKeyRow, error) {
	rows := make([]storage.StateKeyRow, len(keys))
	for i, key := range keys {
		nid, ok := m.keys[key]
		if !ok {
			m.nextKey++
			nid = m.nextKey
		}
		rows[i] = storage.StateKeyRow{NID: nid, Key: key, New: !ok}
	}
	return rows, nil
}

func (m *memStore) StateKey(nid int64) (spec.StateKey, error) {
	key, ok := m.keyOf[nid]
	if !ok {
		return key, fmt.Errorf("state key %d is not stored", nid)
	}
	return key, nil
}

func (m *memStore) NewEventNIDs(n int) int64 {
	first := m.nextEvent + 1
	m.nextEvent += int64(n)
	return first
}

func (m *memStore) AuthGraph() (*spec.AuthGraph, error) {
	graph := &spec.AuthGraph{}
	for nid, row := range m.events {
		if row.Event.IsState() {
			graph.Add(nid, row.Auth, row.StateKeyNID)
		}
	}
	return graph, nil
}

func (m *memStore) RedactionsOf(id spec.EventID) ([]int64, error) { return m.early[id], nil }

func (m *memStore) Successors(id spec.EventID) ([]int64, error) {
	var nids []int64
	for nid := range m.nextEvent {
		if row := m.events[nid+1]; row != nil && row.Kind == storage.StateRoot && slices.Contains(row.Event.Prev, id) {
			nids = append(nids, nid+1)
		}
	}
	return nids, nil
}

// apply commits a unit as the database would: compare and swap, then all of it.
func (m *memStore) apply(u *storage.Unit) error {
	if u.Room != nil {
		have := int64(0)
		if m.room != nil {
			have = m.room.Version
		}
		if u.Room.ExpectVersion != have {
			return storage.ErrConflict
		}
		row := u.Room.RoomRow
		row.Version = have + 1
		m.room = &row
	}
	for _, k := range u.StateKeys {
		if nid, ok := m.keys[k.Key]; ok && nid != k.NID {
			return storage.ErrConstraint
		}
		m.keys[k.Key], m.keyOf[k.NID] = k.NID, k.Key
	}
	for _, n := range u.Nodes {
		node, err := spec.DecodeNode(n.Hash, n.Stored)
		if err != nil {
			return err
		}
		m.nodes[n.Hash] = node
	}
	at := map[int64]int64{}
	for i := range u.Log {
		e := u.Log[i]
		e.Pos = int64(len(m.log) + 1)
		m.log = append(m.log, e)
		if at[e.EventNID] == 0 {
			at[e.EventNID] = e.Pos
		}
	}
	for i := range u.Events {
		row := u.Events[i]
		row.Pos = at[row.NID]
		if _, dup := m.ids[row.Event.ID]; dup {
			return storage.ErrConstraint
		}
		m.events[row.NID], m.ids[row.Event.ID] = &row, row.NID
	}
	for i := range u.EventUpdates {
		row := u.EventUpdates[i]
		row.Pos = at[row.NID]
		m.events[row.NID] = &row
	}
	for _, r := range u.Redactions {
		row := *m.events[r.NID]
		row.Event, row.RedactedBy = r.Event, r.By
		m.events[r.NID] = &row
	}
	for _, r := range u.Memberships {
		m.members[r.User] = r.Membership
	}
	for _, r := range u.Extra {
		if early, ok := r.(*storage.EarlyRedactionRow); ok {
			m.early[early.Target] = append(m.early[early.Target], early.EventNID)
		}
	}
	return nil
}

// config is what a restarted server loads.
func (m *memStore) config(room spec.RoomID, rules *spec.Rules, server spec.ServerName, key spec.SigningKey) Config {
	cfg := Config{Room: room, RoomNID: m.roomNID, Rules: rules, Server: server, Key: key, Store: m, Servers: map[spec.ServerName]int{}}
	if m.room == nil {
		return cfg
	}
	cfg.View = View{Root: m.room.Root, Version: m.room.Version, Joined: m.room.Joined, Invited: m.room.Invited}
	cfg.Create = m.room.CreateNID
	for _, nid := range m.room.Extremities {
		row := m.events[nid]
		cfg.View.Extremities = append(cfg.View.Extremities, Extremity{NID: nid, ID: row.Event.ID, Depth: row.Event.Depth, After: row.After})
	}
	for user, membership := range m.members {
		if membership == "join" {
			cfg.Servers[user.Server()]++
		}
	}
	return cfg
}
