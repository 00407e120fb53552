package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"atoll/spec"
)

// Remote is what the engine asks of other homeservers. Package federation
// implements it; tests use a fake.
//
// Every method waits for the network, so none may be called while a room's
// owner, a transaction or a mutex is held. All are safe for concurrent use.
// Raw events are handed over as they came: nothing has been checked, hashed or
// verified, and the caller parses them with the rules of the room it believes
// in. A failed call gives a *RemoteError, except when the context ended (then
// the context's error can be found with errors.Is) and when the arguments make
// no sense.
type Remote interface {
	RemoteMembership
	RemoteEvents
	RemoteQueries
	EventVerifier
}

// RemoteMembership holds the handshakes by which users of this server enter and
// leave rooms that other servers hold.
//
// Spec: server-server-api#joining-rooms, #inviting-to-a-room,
// #knocking-rooms, #leaving-rooms-rejecting-invites
type RemoteMembership interface {
	// MakeJoin asks dest for the template of a join. The versions are those
	// this server can take; none means all that it supports. The template's
	// fields have not been compared with what was asked for.
	MakeJoin(ctx context.Context, dest spec.ServerName, room spec.RoomID, user spec.UserID, versions []spec.RoomVersion) (EventTemplate, error)
	// SendJoin hands in a signed join and takes the room's state in return. The
	// answer is read as a stream and kept as raw events, bounded in bytes.
	SendJoin(ctx context.Context, dest spec.ServerName, send SendEventRequest) (*SendJoinAnswer, error)
	// MakeKnock is MakeJoin for a knock.
	MakeKnock(ctx context.Context, dest spec.ServerName, room spec.RoomID, user spec.UserID, versions []spec.RoomVersion) (EventTemplate, error)
	// SendKnock hands in a signed knock. It returns the state by which the
	// knocker recognises the room: full events, raw.
	SendKnock(ctx context.Context, dest spec.ServerName, send SendEventRequest) (knockState [][]byte, err error)
	// MakeLeave asks dest for the template of a leave, for invites and knocks
	// that are turned down or taken back.
	MakeLeave(ctx context.Context, dest spec.ServerName, room spec.RoomID, user spec.UserID) (EventTemplate, error)
	// SendLeave hands in a signed leave.
	SendLeave(ctx context.Context, dest spec.ServerName, send SendEventRequest) error
	// Invite asks the invited user's server to sign an invite. The answer is
	// the event as that server returned it; whether it differs from the one
	// sent in more than a signature is for the caller to see. The older form
	// of the request is tried by itself where the specification allows it.
	Invite(ctx context.Context, dest spec.ServerName, invite InviteRequest) (signed []byte, err error)
}

// RemoteEvents fetches events and state that this server lacks.
//
// Spec: server-server-api#backfilling-and-retrieving-missing-events,
// #retrieving-events, #retrieving-event-authorisation-information
type RemoteEvents interface {
	// GetEvent fetches one event.
	GetEvent(ctx context.Context, dest spec.ServerName, event spec.EventID) ([]byte, error)
	// State fetches the state before the event, with its auth chain.
	State(ctx context.Context, dest spec.ServerName, room spec.RoomID, event spec.EventID) (*RemoteState, error)
	// StateIDs is State by ids alone. Ids that are none are left out.
	StateIDs(ctx context.Context, dest spec.ServerName, room spec.RoomID, event spec.EventID) (*RemoteStateIDs, error)
	// Backfill fetches the given events and what precedes them, at most limit
	// in all. dest decides how many there really are.
	Backfill(ctx context.Context, dest spec.ServerName, room spec.RoomID, from []spec.EventID, limit int) ([][]byte, error)
	// MissingEvents fetches what lies between the events that are held and
	// those that arrived.
	MissingEvents(ctx context.Context, dest spec.ServerName, missing MissingEventsRequest) ([][]byte, error)
	// EventAuth fetches the auth chain of one event.
	EventAuth(ctx context.Context, dest spec.ServerName, room spec.RoomID, event spec.EventID) ([][]byte, error)
}

// RemoteQueries holds single questions that mostly serve a client's request.
//
// Spec: server-server-api#querying-for-information
type RemoteQueries interface {
	// QueryProfile asks for a user's profile as the raw JSON object of the
	// answer; an empty field means all of it. The destination is the user's
	// server.
	QueryProfile(ctx context.Context, user spec.UserID, field string) ([]byte, error)
	// QueryDirectory asks which room an alias names. The destination is the
	// alias's server.
	QueryDirectory(ctx context.Context, alias spec.RoomAlias) (DirectoryAnswer, error)
}

// EventVerifier checks signatures against the keys that servers publish.
type EventVerifier interface {
	// VerifyEvents tells for each event whether the signatures that its room
	// version demands are there and good: the result has the length of the
	// argument, nil where they are. Keys that are not known yet are fetched,
	// all servers at once; a key that cannot be had makes only the events
	// that need it fail, with an error that says so (see ErrKeyUnavailable).
	VerifyEvents(ctx context.Context, events []*spec.Event) []error
}

// EventTemplate is the unsigned event of a make_join, make_knock or make_leave
// answer.
type EventTemplate struct {
	// Version is the room's version; "1" if the answer did not say.
	Version spec.RoomVersion
	// Event is the raw template.
	Event []byte
}

// SendEventRequest is a signed membership event on its way to a resident
// server.
type SendEventRequest struct {
	Room    spec.RoomID
	EventID spec.EventID
	// Event is the event in the format that goes between servers.
	Event []byte
	// OmitMembers, for joins only, says that this server can begin with a
	// state that lacks most memberships.
	OmitMembers bool
}

// SendJoinAnswer is what a resident server returns for a join.
type SendJoinAnswer struct {
	// Origin is the server that the answer names as its sender, empty in
	// answers of newer servers. It is informative only.
	Origin spec.ServerName
	// Event is the join with the resident's signature, nil if it sent none.
	Event []byte
	// State is the state before the join, AuthChain the auth chain of the join
	// and of that state: raw events in the order of the answer, possibly with
	// events in both.
	State, AuthChain [][]byte
	// ServersInRoom lists the servers with joined members. Names that are no
	// server names are left out.
	ServersInRoom []spec.ServerName
	// MembersOmitted tells that State lacks memberships.
	MembersOmitted bool
}

// InviteRequest is an invite to be signed by the invited user's server.
type InviteRequest struct {
	Room    spec.RoomID
	EventID spec.EventID
	Version spec.RoomVersion
	// Event is the event in the format that goes between servers, signed by
	// this server.
	Event []byte
	// RoomState are full events by which the invited user recognises the room.
	RoomState [][]byte
}

// RemoteState is the state before an event and the auth chain of that state, as
// raw events.
type RemoteState struct{ State, AuthChain [][]byte }

// RemoteStateIDs is the state before an event and the auth chain of that state.
type RemoteStateIDs struct{ State, AuthChain []spec.EventID }

// MissingEventsRequest asks for the events between Earliest, which this server
// holds, and Latest, whose ancestors it lacks.
type MissingEventsRequest struct {
	Room             spec.RoomID
	Earliest, Latest []spec.EventID
	// Limit is the greatest number of events wanted; 0 leaves it to the peer.
	Limit int
	// MinDepth leaves out events below that depth.
	MinDepth int64
}

// DirectoryAnswer is the room that an alias names and servers that may hold it.
type DirectoryAnswer struct {
	Room    spec.RoomID
	Servers []spec.ServerName
}

// RemoteError is a request to another server that did not succeed.
//
// It deliberately does not unwrap to Answer: a peer's error must not become
// the answer to a client unless somebody decided so.
type RemoteError struct {
	// Server is the one that was asked.
	Server spec.ServerName
	// Answer is the error with which it answered. Its Status is that of the
	// HTTP answer, its Code M_UNKNOWN when the body had none, and Fields holds
	// the other members of the body. Nil means that there was no answer that
	// could be understood: the server could not be found, reached or
	// authenticated, or sent what is no Matrix answer.
	Answer *spec.Error
	// RetryAfter is how long the peer wants to be left alone; 0 if it did not
	// say.
	RetryAfter time.Duration
	// Cause is the fault behind a missing answer.
	Cause error
}

// Error implements error. The text may hold addresses and is meant for logs.
func (e *RemoteError) Error() string {
	if e.Answer != nil {
		return fmt.Sprintf("%s answered %d %s: %s", e.Server, e.Answer.Status, e.Answer.Code, e.Answer.Msg)
	}
	return fmt.Sprintf("no answer from %s: %v", e.Server, e.Cause)
}

// Unwrap returns the cause of a missing answer.
func (e *RemoteError) Unwrap() error { return e.Cause }

// RemoteAnswer returns the error with which a peer answered, if err holds one.
func RemoteAnswer(err error) (*spec.Error, bool) {
	var remote *RemoteError
	if errors.As(err, &remote) && remote.Answer != nil {
		return remote.Answer, true
	}
	return nil, false
}

// ErrKeyUnavailable is found by errors.Is in the verdict of an event whose
// signature could not be judged because no server gave the key. Such an event
// may be tried again later; any other verdict is final.
var ErrKeyUnavailable = errors.New("signing key cannot be had at present")
