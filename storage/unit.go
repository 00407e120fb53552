package storage

import (
	"errors"
	"fmt"

	"atoll/spec"
)

// Bounds of a unit. What is larger is written in pieces with WriteChunk, and
// made visible by a small unit at the end.
const (
	UnitMaxRows  = 500
	UnitMaxBytes = 1 << 20
)

// StateKind says what is known of the state at an event.
type StateKind uint8

const (
	// StateRoot: Before and After are the roots of the state around the event.
	StateRoot StateKind = iota + 1
	// StateNone: an outlier; nothing is known of the state at it.
	StateNone
	// StatePartial: as StateRoot, but the room's state was not complete when
	// they were computed.
	StatePartial
	// StateWaiting: the event waits for events that it names; it is invisible.
	StateWaiting
)

// EventRow is an event with what this server found out about it.
type EventRow struct {
	NID, RoomNID int64
	Event        *spec.Event
	Kind         StateKind
	// Before and After are the roots of the state before and after the event;
	// zero for outliers and waiting events.
	Before, After spec.Hash
	Rejected      string // why the checks refused it; "": accepted
	SoftFailed    bool
	StateKeyNID   int64   // of Event.Key(); 0: no state event
	Auth          []int64 // nids of Event.Auth, for state events that do not wait; not filled when read
	// Pos is the event's position in the log, 0 if it has none. Commit fills it
	// from the entry of Unit.Log that names the event.
	Pos        int64
	RedactedBy int64 // nid of the event that redacts it; 0: none
}

// InTimeline tells whether the event stands in the timeline of its room.
func (e *EventRow) InTimeline() bool {
	return (e.Kind == StateRoot || e.Kind == StatePartial) && e.Rejected == "" && !e.SoftFailed
}

// TimelineKey orders the events of a room as /messages shows them. The zero
// key is before all events.
type TimelineKey struct{ Depth, NID int64 }

// Compare returns -1, 0 or 1 as k is before, at or after o.
func (k TimelineKey) Compare(o TimelineKey) int {
	switch {
	case k.Depth < o.Depth, k.Depth == o.Depth && k.NID < o.NID:
		return -1
	case k == o:
		return 0
	}
	return 1
}

// Key returns the event's place in the timeline of its room.
func (e *EventRow) Key() TimelineKey {
	if e.Event == nil {
		return TimelineKey{NID: e.NID}
	}
	return TimelineKey{Depth: max(e.Event.Depth, 0), NID: e.NID}
}

// RoomFlags are facts about a room as a bit set.
type RoomFlags int64

const (
	// RoomPartialState: joined without the members' state, which still comes.
	RoomPartialState RoomFlags = 1 << iota
	// RoomOutside: no user of this server was ever joined; only an invite or a
	// knock is known, and neither events nor state are held.
	RoomOutside
)

// RoomRow is what is kept of a room as a whole.
type RoomRow struct {
	NID         int64
	ID          spec.RoomID
	RoomVersion spec.RoomVersion
	Version     int64     // compared and swapped by commits; from 1
	Root        spec.Hash // of the current state
	Extremities []int64   // nids, ascending
	CreateNID   int64     // nid of the create event; 0: not known
	Joined      int64     // members joined in the current state
	Invited     int64     // members invited in the current state
	Flags       RoomFlags
}

// RoomUpdate gives the row of a room its new values, if its version is still
// the expected one. The new version is ExpectVersion+1; RoomRow.Version does
// not count. ID, RoomVersion are fixed at creation, but RoomVersion may change
// while the room is RoomOutside.
type RoomUpdate struct {
	ExpectVersion int64 // 0: the room must not exist and is created
	RoomRow
}

// StateKeyRow is a state key with its local id. Rows that are New must be in
// Unit.StateKeys of the unit that uses them.
type StateKeyRow struct {
	NID int64
	Key spec.StateKey
	New bool
}

// NodeRow is a node of a room's state trie in stored form. Writing one that is
// there already does nothing.
type NodeRow struct {
	RoomNID int64
	Hash    spec.Hash
	Stored  []byte
}

// Redaction marks an event as redacted.
type Redaction struct {
	NID, By int64       // the event and the event that redacts it
	Event   *spec.Event // what is kept of the event from now on; nil: its bytes stay
}

// GapRow is a place in the timeline of a room where older events are missing:
// just before the event with this key.
type GapRow struct {
	RoomNID int64
	Key     TimelineKey
	RetryTS int64 // no attempt to fill it before this time, ms; 0: at any time
	Closed  bool  // in a Unit: the gap is filled and goes
}

// MembershipRow is the membership of a user in a room.
type MembershipRow struct {
	RoomNID    int64
	User       spec.UserID
	Membership string // join, invite, leave, ban or knock; "" in a Unit: the row goes
	EventNID   int64
	Pos        int64  // position of the log entry that brought it, 0: none; Commit fills it from the entry of EventNID
	Forgotten  bool   // see ForgetRoom; kept through leaves and bans, ended by all else
	Outside    bool   // not from the room's state, which we do not have, but from an invite, knock or leave received
	Stripped   []byte // JSON array of stripped state that came with an invite or knock
}

// RoomServerRow says that a server came into a room or left it. The position is
// that of the log entry of EventNID in the same unit; without one Pos counts.
type RoomServerRow struct {
	RoomNID  int64
	Server   spec.ServerName
	Joined   bool // false: its last user left
	EventNID int64
	Pos      int64
}

// TxnRow is the answer to a request with a transaction id.
type TxnRow struct {
	User   spec.UserID
	Device string // "": an access token without a device
	Scope  string // what the id belongs to, for example "send" and the room
	TxnID  string
	Result string // mostly the event id
	TS     int64  // now, ms
}

// LogKind says what a log entry announces.
type LogKind uint8

const (
	LogEvent       LogKind = 1  // EventNID was added to the timeline of RoomNID
	LogState       LogKind = 2  // the current state of RoomNID changed other than by an event of the timeline; EventNID: what is now in the state, 0 if something went
	LogMembership  LogKind = 3  // membership of User in RoomNID that no timeline event shows: invite, knock, rejected invite
	LogAccountData LogKind = 4  // account data of User; RoomNID if it belongs to a room; Text: type
	LogReceipt     LogKind = 5  // receipt of User in RoomNID
	LogToDevice    LogKind = 6  // messages for User and Device
	LogDeviceList  LogKind = 7  // devices or keys of User changed
	LogSession     LogKind = 8  // sessions of User were revoked; Device, or all if ""
	LogProfile     LogKind = 9  // profile of User changed
	LogServer      LogKind = 10 // something to deliver to Server
)

// LogEntry is one entry of the log. Its scopes are the fields that are set:
// whoever asks for one of them finds it.
type LogEntry struct {
	Pos      int64 // given by the commit
	Kind     LogKind
	RoomNID  int64
	User     spec.UserID
	Device   string
	Server   spec.ServerName
	EventNID int64
	Text     string // what else the kind needs
	// Event is the event with EventNID if it is at hand, for entries that this
	// process committed a while ago at most. Not to be changed.
	Event *EventRow
	// Txn is the client's transaction that made the event, where Event is at
	// hand and there was one. Not to be changed.
	Txn *TxnRow
}

// Unit is what is committed together: all of it or nothing. Its slices and
// what they point to must not be changed after Commit was called.
type Unit struct {
	Room         *RoomUpdate     // nil: no room changes
	StateKeys    []StateKeyRow   // those that StateKeyNIDs returned as New
	Nodes        []NodeRow       //
	Events       []EventRow      // new events
	EventUpdates []EventRow      // stored events whose kind, roots, verdict or place changed; whole rows
	Redactions   []Redaction     //
	Gaps         []GapRow        //
	Memberships  []MembershipRow //
	Servers      []RoomServerRow //
	Txns         []TxnRow        //
	Log          []LogEntry      // gets consecutive positions in this order
	Extra        []Row           // rows of other table families
}

// Row is a row that a unit writes: a value with its statement. Every table
// family has row types of its own, which implement this with one bulk
// statement each; they are used as pointers.
type Row interface {
	// statement is the bulk statement that writes rows of this type.
	statement() *bulk
	// appendArgs appends the columns of the row in the order of the statement.
	appendArgs(dst []any, at positions) []any
	// size is about how many bytes the row holds.
	size() int
}

// positions tells rows at which positions their unit's log entries stand.
type positions struct {
	log []LogEntry // with Pos set
}

// event returns the position of the entry that names the event; 0 if none.
func (p positions) event(nid int64) int64 {
	for i := range p.log {
		if p.log[i].EventNID == nid && nid != 0 {
			return p.log[i].Pos
		}
	}
	return 0
}

// entry returns the position of the n-th entry of the unit's log, counted from
// 1; 0 for n = 0.
func (p positions) entry(n int) int64 {
	if n < 1 || n > len(p.log) {
		return 0
	}
	return p.log[n-1].Pos
}

// Committed are the positions that a unit's log entries were given, in order;
// both 0 if it had none.
type Committed struct{ First, Last int64 }

// each calls fn for every row of the unit but the room's and the log's.
func (u *Unit) each(fn func(Row)) {
	for i := range u.StateKeys {
		fn(&u.StateKeys[i])
	}
	for i := range u.Nodes {
		fn(&u.Nodes[i])
	}
	for i := range u.Events {
		fn(&u.Events[i])
		u.Events[i].eachEdge(fn)
	}
	for i := range u.EventUpdates {
		fn((*eventUpdate)(&u.EventUpdates[i]))
		u.EventUpdates[i].eachEdge(fn)
	}
	for i := range u.Redactions {
		fn(&u.Redactions[i])
	}
	for i := range u.Gaps {
		fn(&u.Gaps[i])
	}
	for i := range u.Memberships {
		fn(&u.Memberships[i])
	}
	for i := range u.Servers {
		fn(&u.Servers[i])
	}
	for i := range u.Txns {
		fn(&u.Txns[i])
	}
	for _, r := range u.Extra {
		fn(r)
	}
}

// validate finds mistakes of the caller before they reach the database.
func (u *Unit) validate() error {
	if u.Room != nil && (u.Room.NID == 0 || u.Room.ID == "") {
		return errors.New("unit: room without NID or id")
	}
	for i := range u.Events {
		if err := u.Events[i].validate(); err != nil {
			return err
		}
	}
	for i := range u.EventUpdates {
		if err := u.EventUpdates[i].validate(); err != nil {
			return err
		}
	}
	return nil
}

func (e *EventRow) validate() error {
	switch {
	case e.Event == nil:
		return fmt.Errorf("unit: event row %d without event", e.NID)
	case e.NID == 0 || e.RoomNID == 0:
		return fmt.Errorf("unit: event %s without NID or room", e.Event.ID)
	case e.Kind < StateRoot || e.Kind > StateWaiting:
		return fmt.Errorf("unit: event %s without a kind", e.Event.ID)
	case (e.Event.State != nil) != (e.StateKeyNID != 0):
		return fmt.Errorf("unit: event %s: state key and StateKeyNID do not agree", e.Event.ID)
	case e.Event.State != nil && e.Kind != StateWaiting && e.Rejected == "" && len(e.Auth) != len(e.Event.Auth):
		return fmt.Errorf("unit: state event %s has %d auth events, Auth has %d", e.Event.ID, len(e.Event.Auth), len(e.Auth))
	}
	return nil
}
