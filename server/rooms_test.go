package server

import (
	"context"
	"encoding/json"
	"testing"

	"atoll/server/roomcore"
	"atoll/spec"
)

// roomsBed is a server with some users, to try rooms on.
type roomsBed struct {
	*accountsBed
	t *testing.T
}

func newRoomsBed(t *testing.T, users ...string) *roomsBed {
	t.Helper()
	bed := &roomsBed{accountsBed: newAccountsBed(t, nil), t: t}
	for _, u := range users {
		bed.register(u)
	}
	return bed
}

func (b *roomsBed) create(req CreateRoom) spec.RoomID {
	b.t.Helper()
	id, err := b.Rooms.Create(context.Background(), req)
	if err != nil {
		b.t.Fatalf("create: %v", err)
	}
	return id
}

func (b *roomsBed) say(room spec.RoomID, user spec.UserID, text, txn string) spec.EventID {
	b.t.Helper()
	content, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	id, err := b.Rooms.Send(context.Background(), SendEvent{
		Room: room, Sender: user, Device: "D", TxnID: txn, Type: "m.room.message", Content: content,
	})
	if err != nil {
		b.t.Fatalf("send: %v", err)
	}
	return id
}

// state returns the content of a current state event, nil if there is none.
func (b *roomsBed) state(room spec.RoomID, kind, key string) map[string]any {
	b.t.Helper()
	var content map[string]any
	err := b.Rooms.look(context.Background(), room, func(c *roomcore.Core) error {
		row, err := c.StateAt(c.CommittedView().Root, spec.StateKey{Type: kind, Key: key})
		if err != nil || row == nil {
			return err
		}
		return json.Unmarshal(row.Event.Content, &content)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return content
}

func TestRooms(t *testing.T) {
	ctx := context.Background()
	for _, version := range []spec.RoomVersion{"10", "11", "12"} {
		t.Run("version "+string(version), func(t *testing.T) {
			bed := newRoomsBed(t, "alice", "bob")
			alice, bob := spec.UserID("@alice:"+string(bed.Name())), spec.UserID("@bob:"+string(bed.Name()))
			room := bed.create(CreateRoom{Creator: alice, Version: version, Preset: "private_chat", Name: "Lagoon", Invite: []spec.UserID{bob}})
			if got := bed.state(room, "m.room.name", "")["name"]; got != "Lagoon" {
				t.Fatalf("name is %v", got)
			}
			if got := bed.state(room, "m.room.member", string(bob))["membership"]; got != "invite" {
				t.Fatalf("bob's membership is %v, want invite", got)
			}
			_, err := bed.Rooms.Send(ctx, SendEvent{Room: room, Sender: bob, Type: "m.room.message", Content: []byte(`{}`)})
			wantCode(t, "forbidden", err, spec.CodeForbidden)
			if _, err := bed.Rooms.Join(ctx, Join{User: bob, Room: string(room)}); err != nil {
				t.Fatal(err)
			}
			first := bed.say(room, bob, "hello", "1")
			if again := bed.say(room, bob, "hello", "1"); again != first {
				t.Fatalf("the same transaction gave %s and %s", first, again)
			}
			redaction, err := bed.Rooms.Redact(ctx, RedactEvent{Room: room, Sender: alice, Device: "D", TxnID: "2", Event: first})
			if err != nil {
				t.Fatal(err)
			}
			err = bed.Rooms.look(ctx, room, func(c *roomcore.Core) error {
				row, err := c.Event(first)
				if err != nil {
					return err
				}
				by, err := c.Event(redaction)
				if err != nil {
					return err
				}
				if row.RedactedBy != by.NID || string(row.Event.Content) != "{}" {
					t.Errorf("the redacted event is %s, redacted by %d, want %d", row.Event.Content, row.RedactedBy, by.NID)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := bed.Rooms.Ban(ctx, ChangeMembership{Room: room, Sender: alice, Target: bob, Reason: "storm"}); err != nil {
				t.Fatal(err)
			}
			_, err = bed.Rooms.Join(ctx, Join{User: bob, Room: string(room)})
			wantCode(t, "forbidden", err, spec.CodeForbidden)
		})
	}
}
