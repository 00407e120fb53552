package atolltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

// User is a local user of a server.
type User struct {
	*Server
	ID spec.UserID
}

// User registers a user.
func (s *Server) User(name string) *User {
	s.T.Helper()
	made, err := s.Accounts.Register(context.Background(), server.Register{
		Username: name, Password: "s3cret", Auth: &server.UIAAuth{Type: server.StageDummy},
	})
	must(s.T, err)
	return &User{Server: s, ID: made.User}
}

// Create makes a room.
func (u *User) Create(req server.CreateRoom) spec.RoomID {
	u.T.Helper()
	req.Creator = u.ID
	if req.Preset == "" {
		req.Preset = "public_chat"
	}
	room, err := u.Rooms.Create(context.Background(), req)
	must(u.T, err)
	return room
}

// TryJoin joins a room through servers.
func (u *User) TryJoin(room spec.RoomID, via ...*Server) error {
	req := server.Join{User: u.ID, Room: string(room)}
	for _, s := range via {
		req.Via = append(req.Via, s.Name())
	}
	_, err := u.Rooms.Join(context.Background(), req)
	return err
}

// Join is TryJoin that must succeed.
func (u *User) Join(room spec.RoomID, via ...*Server) {
	u.T.Helper()
	if err := u.TryJoin(room, via...); err != nil {
		u.T.Fatalf("%s joins: %v", u.ID, err)
	}
}

// Say sends a message.
func (u *User) Say(room spec.RoomID, text string) spec.EventID {
	u.T.Helper()
	return u.Send(room, "m.room.message", map[string]string{"msgtype": "m.text", "body": text})
}

// Send sends a message event.
func (u *User) Send(room spec.RoomID, eventType string, content any) spec.EventID {
	u.T.Helper()
	return u.send(server.SendEvent{Room: room, Sender: u.ID, Type: eventType, Content: Bytes(u.T, content)})
}

// SetState sends a state event.
func (u *User) SetState(room spec.RoomID, eventType, key string, content any) spec.EventID {
	u.T.Helper()
	return u.send(server.SendEvent{Room: room, Sender: u.ID, Type: eventType, StateKey: &key, Content: Bytes(u.T, content)})
}

func (u *User) send(req server.SendEvent) spec.EventID {
	u.T.Helper()
	id, err := u.Rooms.Send(context.Background(), req)
	if err != nil {
		u.T.Fatalf("%s sends %s: %v", u.ID, req.Type, err)
	}
	return id
}

// About names a room and somebody there whose membership is to change.
func (u *User) About(room spec.RoomID, target spec.UserID) server.ChangeMembership {
	return server.ChangeMembership{Room: room, Sender: u.ID, Target: target}
}

// Row reads what the server has of an event; nil if nothing.
func (s *Server) Row(room spec.RoomID, id spec.EventID) *storage.EventRow {
	s.T.Helper()
	var found *storage.EventRow
	err := s.DB.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.RoomByID(room)
		if err != nil {
			return err
		}
		row, err := tx.EventByID(r.NID, id)
		found = &row
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	must(s.T, err)
	return found
}

// Status says what the server made of an event: "unknown", "outlier",
// "rejected", "soft-failed", "history" for one that clients were not told as
// new, or "told".
func (s *Server) Status(room spec.RoomID, id spec.EventID) string {
	s.T.Helper()
	row := s.Row(room, id)
	switch {
	case row == nil:
		return "unknown"
	case row.Rejected != "":
		return "rejected"
	case row.Kind != storage.StateRoot:
		return "outlier"
	case row.SoftFailed:
		return "soft-failed"
	case row.Pos == 0:
		return "history"
	}
	return "told"
}

// Sees waits until the server's clients have been told the event.
func (s *Server) Sees(room spec.RoomID, id spec.EventID) {
	s.T.Helper()
	Eventually(s.T, fmt.Sprintf("%s sees %s", s.Name(), id), func() bool { return s.Status(room, id) == "told" })
}

// StateEvent returns a current state event as readers see it, nil if there is
// none.
func (s *Server) StateEvent(room spec.RoomID, eventType, key string) *spec.Event {
	s.T.Helper()
	var event *spec.Event
	err := s.DB.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.RoomByID(room)
		if err != nil {
			return err
		}
		leaf, ok, err := spec.Lookup(tx.NodeReader(r.NID), r.Root, spec.StatePath(spec.StateKey{Type: eventType, Key: key}))
		if err != nil || !ok {
			return err
		}
		rows, err := tx.EventsByNIDs([]int64{leaf.Event})
		if err == nil && len(rows) > 0 {
			event = rows[0].Event
		}
		return err
	})
	if !errors.Is(err, storage.ErrNotFound) {
		must(s.T, err)
	}
	return event
}

// State is the content of StateEvent, nil if there is none.
func (s *Server) State(room spec.RoomID, eventType, key string) map[string]any {
	s.T.Helper()
	ev := s.StateEvent(room, eventType, key)
	if ev == nil {
		return nil
	}
	var content map[string]any
	must(s.T, json.Unmarshal(ev.Content, &content))
	return content
}

// Member is a user's membership in the current state, "" if it has none.
func (s *Server) Member(room spec.RoomID, user spec.UserID) string {
	s.T.Helper()
	m, _ := s.State(room, spec.TypeMember, string(user))["membership"].(string)
	return m
}

// WaitMember waits for a membership in the current state.
func (s *Server) WaitMember(room spec.RoomID, user spec.UserID, membership string) {
	s.T.Helper()
	Eventually(s.T, fmt.Sprintf("%s is %s on %s", user, membership, s.Name()), func() bool { return s.Member(room, user) == membership })
}

// Listed is a user's membership of the room as the user's own list of rooms has
// it, "" if it is not there.
func (s *Server) Listed(room spec.RoomID, user spec.UserID) string {
	s.T.Helper()
	var row storage.MembershipRow
	err := s.DB.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.RoomByID(room)
		if err != nil {
			return err
		}
		row, err = tx.Membership(r.NID, user)
		return err
	})
	if !errors.Is(err, storage.ErrNotFound) {
		must(s.T, err)
	}
	return row.Membership
}

// Extremities lists the room's forward extremities as readers see them.
func (s *Server) Extremities(room spec.RoomID) []spec.EventID {
	s.T.Helper()
	ids, _, err := s.Rooms.RoomStateRoot(context.Background(), room)
	must(s.T, err)
	return ids
}

// Agree waits until the servers have equal extremities and state.
func Agree(room spec.RoomID, servers ...*Server) {
	t := servers[0].T
	t.Helper()
	Eventually(t, "all servers agree on the state", func() bool {
		first := ""
		for i, s := range servers {
			ids, root, err := s.Rooms.RoomStateRoot(context.Background(), room)
			must(t, err)
			now := fmt.Sprint(ids, root)
			if i == 0 {
				first = now
			}
			if now != first {
				return false
			}
		}
		return true
	})
}

// Event builds an event on a server's view of a room, without adding it there.
// change may give it another place in the graph; what it leaves is what the room
// would choose. It is signed by the server of the sender.
func (u *User) Event(room spec.RoomID, eventType string, key *string, content any, change func(*spec.EventBuilder)) *spec.Event {
	u.T.Helper()
	rules := u.Rules(room)
	b := spec.EventBuilder{
		Room: room, Sender: u.ID, Type: eventType, State: key, Content: Bytes(u.T, content), OriginServerTS: time.Now().UnixMilli(),
	}
	must(u.T, u.DB.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.RoomByID(room)
		if err != nil {
			return err
		}
		tips, err := tx.EventsByNIDs(r.Extremities)
		if err != nil {
			return err
		}
		for _, tip := range tips {
			b.Prev = append(b.Prev, tip.Event.ID)
			b.Depth = max(b.Depth, tip.Event.Depth+1)
		}
		for _, k := range spec.AuthKeys(rules, b.Type, b.Sender, b.State, b.Content) {
			leaf, ok, err := spec.Lookup(tx.NodeReader(r.NID), r.Root, spec.StatePath(k))
			if err != nil {
				return err
			}
			if ok {
				ids, err := tx.EventIDs([]int64{leaf.Event})
				if err != nil {
					return err
				}
				b.Auth = append(b.Auth, ids[leaf.Event])
			}
		}
		return nil
	}))
	b.ReferenceHash = func(id spec.EventID) ([32]byte, error) {
		if row := u.Row(room, id); row != nil {
			return row.Event.ReferenceHash(), nil
		}
		return [32]byte{}, fmt.Errorf("event %s is not here", id)
	}
	if change != nil {
		change(&b)
	}
	ev, err := b.Build(rules, u.Name(), u.Key)
	must(u.T, err)
	return ev
}

// As is the server's view of rooms with the name and the key of another: what
// that one could make up if it saw the same.
func (s *Server) As(other *Server) *Server {
	return &Server{T: s.T, DB: s.DB, Server: other.Server, Key: other.Key}
}

// As2 is the user as another server could make them up.
func (u *User) As2(s *Server) *User { return &User{Server: s, ID: u.ID} }

// Message is Event for a message.
func (u *User) Message(room spec.RoomID, text string, change func(*spec.EventBuilder)) *spec.Event {
	u.T.Helper()
	return u.Event(room, "m.room.message", nil, map[string]string{"msgtype": "m.text", "body": text}, change)
}

// Rules are those of the room's version.
func (s *Server) Rules(room spec.RoomID) *spec.Rules {
	s.T.Helper()
	var rules *spec.Rules
	must(s.T, s.DB.Read(context.Background(), func(tx *storage.Tx) error {
		row, err := tx.RoomByID(room)
		rules, _ = spec.RulesOf(row.RoomVersion)
		return err
	}))
	return rules
}

// PDU is an event as it goes between servers.
func PDU(ev *spec.Event) []byte { return ev.AppendFederation(nil, 0) }
