// Package storagetest has the contract that every database must keep, as a
// suite of tests, and rooms for tests to fill a database with.
package storagetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"atoll/spec"
	"atoll/storage"
)

// Server is the name of the server that makes the events of a Room.
const Server spec.ServerName = "storage.test"

// Room makes units that fill a room the way its owner would: every event
// follows the one before. It is used by one goroutine.
type Room struct {
	DB    *storage.DB
	Rules *spec.Rules
	Row   storage.RoomRow // as after the last unit made
	Last  *storage.EventRow
	TS    int64 // origin_server_ts of the next event, ms; grows by 1000

	t       testing.TB
	key     spec.SigningKey
	nodes   map[spec.Hash]*spec.Node
	state   map[spec.StateKey]*storage.EventRow
	joined  map[spec.ServerName]int
	members map[spec.UserID]string
}

// User returns a user of the test server.
func User(localpart string) spec.UserID { return spec.UserID("@" + localpart + ":" + string(Server)) }

// NewRoom makes a room of the default version with its create event and its
// creator's join, and commits it.
func NewRoom(t testing.TB, db *storage.DB, creator spec.UserID) *Room {
	t.Helper()
	rules, ok := spec.RulesOf(spec.DefaultVersion)
	if !ok {
		t.Fatal("no rules for the default room version")
	}
	key, err := spec.NewSigningKey("ed25519:t", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := &Room{
		DB: db, Rules: rules, TS: 1_700_000_000_000, t: t, key: key,
		nodes:   map[spec.Hash]*spec.Node{},
		state:   map[spec.StateKey]*storage.EventRow{},
		joined:  map[spec.ServerName]int{},
		members: map[spec.UserID]string{},
	}
	r.Row = storage.RoomRow{NID: db.NewRoomNID(), RoomVersion: rules.Version}
	create := fmt.Sprintf(`{"room_version":%q,"nonce":"%d"}`, rules.Version, r.Row.NID)
	r.Commit(r.State(creator, spec.TypeCreate, "", create))
	r.Commit(r.State(creator, spec.TypeMember, string(creator), `{"membership":"join"}`))
	return r
}

// Node implements spec.NodeReader with the nodes made so far.
func (r *Room) Node(h spec.Hash) (*spec.Node, error) {
	if n := r.nodes[h]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("node %s: %w", h, storage.ErrNotFound)
}

// Commit commits a unit and fails the test if that fails.
func (r *Room) Commit(u *storage.Unit) storage.Committed {
	r.t.Helper()
	c, err := r.DB.Commit(context.Background(), u)
	if err != nil {
		r.t.Fatalf("commit into %s: %v", r.Row.ID, err)
	}
	return c
}

// Message makes the unit of a message with a transaction id.
func (r *Room) Message(sender spec.UserID, body string) *storage.Unit {
	r.t.Helper()
	text, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": body})
	if err != nil {
		r.t.Fatal(err)
	}
	u := r.unit(r.build(sender, spec.TypeMessage, nil, string(text)), 0)
	u.Txns = []storage.TxnRow{{User: sender, Device: "DEV", Scope: "send/" + string(r.Row.ID), TxnID: fmt.Sprint("t", r.TS),
		Result: string(u.Events[0].Event.ID), TS: r.TS}}
	return u
}

// State makes the unit of a state event.
func (r *Room) State(sender spec.UserID, eventType, stateKey, content string) *storage.Unit {
	r.t.Helper()
	key := spec.StateKey{Type: eventType, Key: stateKey}
	ids, err := r.DB.StateKeyNIDs(context.Background(), []spec.StateKey{key})
	if err != nil {
		r.t.Fatal(err)
	}
	u := r.unit(r.build(sender, eventType, &stateKey, content), ids[0].NID)
	if ids[0].New {
		u.StateKeys = ids
	}
	e := &u.Events[0]
	for _, id := range e.Event.Auth {
		for _, s := range r.state {
			if s.Event.ID == id {
				e.Auth = append(e.Auth, s.NID)
			}
		}
	}
	r.apply(u, key)
	return u
}

// apply brings the new state into the unit and into the room.
func (r *Room) apply(u *storage.Unit, key spec.StateKey) {
	e := &u.Events[0]
	leaf := spec.NewLeaf(key, e.Event.ID, e.StateKeyNID, e.NID)
	root, created, err := spec.Apply(r, e.Before, []spec.Change{{Leaf: leaf}})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range created {
		r.nodes[n.Hash()] = n
		u.Nodes = append(u.Nodes, storage.NodeRow{RoomNID: r.Row.NID, Hash: n.Hash(), Stored: n.AppendStored(nil)})
	}
	e.After = root
	r.state[key] = e
	if key.Type == spec.TypeMember {
		r.member(u, spec.UserID(key.Key), e)
	}
	r.Row.Root = root
	if key.Type == spec.TypeCreate {
		r.Row.CreateNID = e.NID
	}
	u.Room.RoomRow = r.Row
}

// member brings a change of membership into the unit and into the room.
func (r *Room) member(u *storage.Unit, user spec.UserID, e *storage.EventRow) {
	server, before, now := user.Server(), r.members[user], e.Event.Membership()
	r.members[user] = now
	u.Memberships = []storage.MembershipRow{{RoomNID: r.Row.NID, User: user, Membership: now, EventNID: e.NID}}
	count := func(membership string, n int64) {
		switch membership {
		case "join":
			r.Row.Joined += n
			r.joined[server] += int(n)
		case "invite":
			r.Row.Invited += n
		}
	}
	had := r.joined[server] > 0
	count(before, -1)
	count(now, 1)
	if has := r.joined[server] > 0; has != had {
		u.Servers = []storage.RoomServerRow{{RoomNID: r.Row.NID, Server: server, Joined: has, EventNID: e.NID}}
	}
}

// build makes the next event.
func (r *Room) build(sender spec.UserID, eventType string, stateKey *string, content string) *spec.Event {
	r.t.Helper()
	b := spec.EventBuilder{Room: r.Row.ID, Sender: sender, Type: eventType, State: stateKey, Content: []byte(content),
		Depth: 1, OriginServerTS: r.TS}
	r.TS += 1000
	if r.Last != nil {
		b.Prev, b.Depth = []spec.EventID{r.Last.Event.ID}, r.Last.Event.Depth+1
	}
	for _, k := range spec.AuthKeys(r.Rules, eventType, sender, stateKey, []byte(content)) {
		if s := r.state[k]; s != nil {
			b.Auth = append(b.Auth, s.Event.ID)
		}
	}
	e, err := b.Build(r.Rules, Server, r.key)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.Row.ID == "" {
		r.Row.ID = e.Room
	}
	return e
}

// unit makes the unit of an event that leaves the state as it is.
func (r *Room) unit(e *spec.Event, stateKeyNID int64) *storage.Unit {
	row := storage.EventRow{NID: r.DB.NewEventNIDs(1), RoomNID: r.Row.NID, Event: e, Kind: storage.StateRoot,
		Before: r.Row.Root, After: r.Row.Root, StateKeyNID: stateKeyNID}
	u := &storage.Unit{Events: []storage.EventRow{row}}
	r.Last = &u.Events[0]
	r.Row.Extremities = []int64{row.NID}
	u.Room = &storage.RoomUpdate{ExpectVersion: r.Row.Version, RoomRow: r.Row}
	r.Row.Version++
	u.Log = []storage.LogEntry{{Kind: storage.LogEvent, RoomNID: r.Row.NID, EventNID: row.NID}}
	return u
}

// Aside makes the row of an event that nothing refers to and that the next
// unit does not follow: an outlier, until the caller gives it another kind.
func (r *Room) Aside(sender spec.UserID, body string) storage.EventRow {
	r.t.Helper()
	e := r.build(sender, spec.TypeMessage, nil, fmt.Sprintf(`{"body":%q}`, body))
	return storage.EventRow{NID: r.DB.NewEventNIDs(1), RoomNID: r.Row.NID, Event: e, Kind: storage.StateNone}
}

// Text returns a body of n bytes.
func Text(n int) string { return strings.Repeat("lorem ipsum ", n/12+1)[:n] }
