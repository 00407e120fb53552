package server

import (
	"encoding/json"

	"atoll/spec"
)

// CreateRoom asks for a new room. Spec: client-server-api#post_matrixclientv3createroom.
type CreateRoom struct {
	Creator            spec.UserID
	Version            spec.RoomVersion // "": the default
	Preset             string           // "": by Visibility
	Visibility         string           // "public" lists the room in the directory; "" means private
	Name               string
	Topic              string
	AliasLocalpart     string
	Invite             []spec.UserID
	InitialState       []StateInput
	CreationContent    json.RawMessage
	PowerLevelOverride json.RawMessage
	IsDirect           bool
}

// StateInput is a state event that a client wants to have in a new room.
type StateInput struct {
	Type     string
	StateKey string
	Content  json.RawMessage
}

// Join asks to join a room by id or alias.
type Join struct {
	User    spec.UserID
	Room    string            // a room id or an alias
	Via     []spec.ServerName // servers that may know the room
	Content json.RawMessage   // extra members of the membership content; "reason" among them
}

// ChangeMembership asks to invite, kick, ban or unban somebody, or to leave.
type ChangeMembership struct {
	Room   spec.RoomID
	Sender spec.UserID
	Target spec.UserID
	Reason string
}

// SendEvent asks to send a message event or to set state.
type SendEvent struct {
	Room     spec.RoomID
	Sender   spec.UserID
	Device   string // with TxnID: the scope of the transaction id
	TxnID    string // "": none, as for state
	Type     string
	StateKey *string
	Content  json.RawMessage
	TS       int64 // origin_server_ts in ms; 0: now
}

// RedactEvent asks to redact an event.
type RedactEvent struct {
	Room   spec.RoomID
	Sender spec.UserID
	Device string
	TxnID  string
	Event  spec.EventID
	Reason string
}

// ReadRoom names a reader and a room.
type ReadRoom struct {
	Room spec.RoomID
	User spec.UserID
}

// ClientEvent is an event in the form that clients get, as JSON.
type ClientEvent = json.RawMessage

// Messages asks for a page of a room's history.
type Messages struct {
	Room   spec.RoomID
	User   spec.UserID
	Device string
	From   string // "": the newest end going backward, the oldest going forward
	To     string
	Back   bool
	Limit  int // 0: 10; at most messagesMost count
	Filter *RoomEventFilter
}

// MessagesPage is a page of history.
type MessagesPage struct {
	Start string
	End   string // "": there is no more
	Chunk []ClientEvent
	State []ClientEvent
}

// MembersQuery asks for the members of a room.
type MembersQuery struct {
	Room          spec.RoomID
	User          spec.UserID
	At            string // a sync token; "": now
	Membership    string
	NotMembership string
}

// JoinedMember is what joined_members tells of a member; nil: not set.
type JoinedMember struct {
	DisplayName *string `json:"display_name,omitempty"`
	AvatarURL   *string `json:"avatar_url,omitempty"`
}
