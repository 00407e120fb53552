package roomcore

import (
	"errors"
	"fmt"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// Store is what a room reads. All of it is local and answers at once: from a
// cache, from disk, or from the memory of a simulation. It shows committed rows
// only; the core keeps what is under way itself.
type Store interface {
	spec.NodeReader
	// EventByID gives the room's event of that id, nil when it is unknown.
	EventByID(spec.EventID) (*storage.EventRow, error)
	// EventByNID gives the event of that number, nil when it is unknown.
	EventByNID(int64) (*storage.EventRow, error)
	// StateKeyRows gives the number of each key, a new one where it has none.
	StateKeyRows([]spec.StateKey) ([]storage.StateKeyRow, error)
	// StateKey gives the key of a number that StateKeyRows gave.
	StateKey(nid int64) (spec.StateKey, error)
	// NewEventNIDs gives the first of n consecutive unused event numbers.
	NewEventNIDs(n int) int64
	// AuthGraph gives a new graph of all committed state events of the room.
	AuthGraph() (*spec.AuthGraph, error)
	// RedactionsOf gives the numbers of the room's accepted redactions that
	// name the event, oldest first.
	RedactionsOf(spec.EventID) ([]int64, error)
	// Successors gives the numbers of the room's events with a place in the
	// graph that name the event as a predecessor.
	Successors(spec.EventID) ([]int64, error)
}

// Extremity is an event that no accepted event refers to yet.
type Extremity struct {
	NID   int64
	ID    spec.EventID
	Depth int64
	After spec.Hash // state after the event
}

// View is the room at one moment: what readers see when it is the committed
// one, what the next event is built on when it is the head.
type View struct {
	Root        spec.Hash
	Extremities []Extremity // by event id, ascending
	Version     int64       // of the room row when it was committed; 0: the row does not exist yet
	Joined      int64       // members joined
	Invited     int64       // members invited
}

// Config names the room and the server that holds this copy of it.
type Config struct {
	Room    spec.RoomID
	RoomNID int64
	Rules   *spec.Rules
	Server  spec.ServerName
	Key     spec.SigningKey
	Store   Store
	View    View  // as committed; the zero View for a room that is to be made
	Create  int64 // nid of the create event; 0: not known
	// Servers counts the joined members of each server in View.
	Servers map[spec.ServerName]int
}

// Core is one room. See the package comment for how it is driven.
type Core struct {
	cfg       Config
	head      View // with everything accepted, committed or not
	committed View

	createNID int64 // of the create event; 0: not known yet

	servers map[spec.ServerName]int // joined members by server, at the head

	queue    []*delta // accepted, not yet committed; the first inFlight of them are being committed
	inFlight int
	seq      uint64 // of the last delta queued
	done     uint64 // of the last delta committed

	// What the queue will add, until the store shows it.
	newEvents map[int64]*storage.EventRow
	newIDs    map[spec.EventID]int64
	newLive   map[int64]bool // of newEvents, those that clients will be told
	newNodes  map[spec.Hash]*spec.Node
	unwritten []*spec.Node // of newNodes, those that no delta carries yet
	newKeys   map[int64]spec.StateKey
	keyNIDs   map[spec.StateKey]int64 // numbers met so far, so that hot keys are not asked for again

	current map[spec.StateKey]*storage.EventRow // head state entries met so far; nil rows are absences
	graph   *spec.AuthGraph                     // loaded by the first resolution that needs it
	memo    map[string]spec.Hash                // resolutions by their input roots

	foreign map[spec.EventID]bool // events of other rooms that events of this one cite
}

// memoLimit bounds the resolutions remembered by one room.
const memoLimit = 64

// currentLimit bounds the decoded state entries remembered by one room.
const currentLimit = 256

// New returns the core of a room whose committed state is cfg.View.
func New(cfg Config) *Core {
	c := &Core{
		cfg: cfg, head: cfg.View, committed: cfg.View, createNID: cfg.Create,
		servers:   make(map[spec.ServerName]int, len(cfg.Servers)),
		newEvents: map[int64]*storage.EventRow{}, newIDs: map[spec.EventID]int64{}, newLive: map[int64]bool{},
		newNodes: map[spec.Hash]*spec.Node{}, newKeys: map[int64]spec.StateKey{},
		keyNIDs: map[spec.StateKey]int64{},
		current: map[spec.StateKey]*storage.EventRow{}, memo: map[string]spec.Hash{},
		foreign: map[spec.EventID]bool{},
	}
	c.head.Extremities = slices.Clone(cfg.View.Extremities)
	slices.SortFunc(c.head.Extremities, func(a, b Extremity) int { return compareIDs(a.ID, b.ID) })
	c.committed.Extremities = c.head.Extremities
	for s, n := range cfg.Servers {
		c.servers[s] = n
	}
	return c
}

// Head returns the view that the next event is built on. It may be ahead of the
// database, so nothing of it may leave the process.
func (c *Core) Head() View { return c.head }

// CommittedView returns the view that readers may see.
func (c *Core) CommittedView() View { return c.committed }

// unmade reports whether the database shows no graph of the room yet: it is being
// made, or only an invite to it is known.
func (c *Core) unmade() bool { return len(c.committed.Extremities) == 0 }

// Rules returns the rules of the room's version.
func (c *Core) Rules() *spec.Rules { return c.cfg.Rules }

// Room returns the room's id.
func (c *Core) Room() spec.RoomID { return c.cfg.Room }

// ServerJoined reports whether the server has a joined member at the head.
func (c *Core) ServerJoined(s spec.ServerName) bool { return c.servers[s] > 0 }

// Servers returns the servers with joined members at the head, in order.
func (c *Core) Servers() []spec.ServerName {
	out := make([]spec.ServerName, 0, len(c.servers))
	for s, n := range c.servers {
		if n > 0 {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// Node implements spec.NodeReader over the store and what is under way.
func (c *Core) Node(h spec.Hash) (*spec.Node, error) {
	if n := c.newNodes[h]; n != nil {
		return n, nil
	}
	return c.cfg.Store.Node(h)
}

// Event returns the event of that id, nil when the room does not know it. It
// sees what is accepted but not committed.
func (c *Core) Event(id spec.EventID) (*storage.EventRow, error) {
	if nid, ok := c.newIDs[id]; ok {
		return c.newEvents[nid], nil
	}
	if c.committed.Version == 0 {
		return nil, nil // the store has nothing of the room yet
	}
	return c.cfg.Store.EventByID(id)
}

func (c *Core) eventByNID(nid int64) (*storage.EventRow, error) {
	if row := c.newEvents[nid]; row != nil {
		return row, nil
	}
	row, err := c.cfg.Store.EventByNID(nid)
	if err == nil && row == nil {
		err = fmt.Errorf("event number %d of %s is missing", nid, c.cfg.Room)
	}
	return row, err
}

// StateAt returns the event that the state of that root holds under the key,
// nil when it holds none.
func (c *Core) StateAt(root spec.Hash, key spec.StateKey) (*storage.EventRow, error) {
	if root == c.head.Root {
		return c.currentState(key)
	}
	return c.lookup(root, key)
}

func (c *Core) lookup(root spec.Hash, key spec.StateKey) (*storage.EventRow, error) {
	leaf, ok, err := spec.Lookup(c, root, spec.StatePath(key))
	if err != nil || !ok {
		return nil, err
	}
	return c.eventByNID(leaf.Event)
}

func (c *Core) currentState(key spec.StateKey) (*storage.EventRow, error) {
	if row, ok := c.current[key]; ok {
		return row, nil
	}
	row, err := c.lookup(c.head.Root, key)
	if err != nil {
		return nil, err
	}
	if len(c.current) >= currentLimit {
		clear(c.current)
	}
	c.current[key] = row
	return row, nil
}

// stateReader reads single keys of the state of that root for the auth rules.
func (c *Core) stateReader(root spec.Hash) spec.StateReader {
	return func(key spec.StateKey) (*spec.Event, error) {
		row, err := c.StateAt(root, key)
		if err != nil || row == nil {
			return nil, err
		}
		return row.Event, nil
	}
}

// keyRow returns the number of a state key, and the row to store when the key
// has not been committed yet.
func (c *Core) keyRow(key spec.StateKey) (int64, []storage.StateKeyRow, error) {
	if nid, ok := c.keyNIDs[key]; ok {
		if _, fresh := c.newKeys[nid]; !fresh {
			return nid, nil, nil
		}
		return nid, []storage.StateKeyRow{{NID: nid, Key: key, New: true}}, nil
	}
	rows, err := c.cfg.Store.StateKeyRows([]spec.StateKey{key})
	if err != nil {
		return 0, nil, err
	}
	if len(c.keyNIDs) >= 4*currentLimit && len(c.newKeys) == 0 {
		clear(c.keyNIDs)
	}
	row := rows[0]
	c.keyNIDs[key] = row.NID
	if !row.New {
		return row.NID, nil, nil
	}
	c.newKeys[row.NID] = key
	return row.NID, rows, nil
}

func (c *Core) stateKey(nid int64) (spec.StateKey, error) {
	if key, ok := c.newKeys[nid]; ok {
		return key, nil
	}
	return c.cfg.Store.StateKey(nid)
}

// ErrStale says that the room has to be loaded again: a commit was lost or its
// outcome is unknown, so what this core holds in memory may be out of date.
var ErrStale = errors.New("room: out of date, load it again")
