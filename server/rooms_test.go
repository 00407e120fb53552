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
	for _, version := range spec.SupportedVersions() {
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

func TestStateOfClients(t *testing.T) {
	ctx := context.Background()
	bed := newRoomsBed(t, "alice", "bob")
	alice, bob := spec.UserID("@alice:hs"), spec.UserID("@bob:hs")
	set := func(room spec.RoomID, by spec.UserID, kind, key, content string) error {
		_, err := bed.Rooms.Send(ctx, SendEvent{Room: room, Sender: by, Type: kind, StateKey: &key, Content: []byte(content)})
		return err
	}
	room := bed.create(CreateRoom{Creator: alice, Preset: "public_chat", AliasLocalpart: "lagoon"})
	other := bed.create(CreateRoom{Creator: alice, AliasLocalpart: "reef"})

	t.Run("03-014 an alias of another room is refused", func(t *testing.T) {
		wantCode(t, "alias of another room", set(room, alice, "m.room.canonical_alias", "", `{"alias":"#reef:hs"}`), spec.CodeBadAlias)
		wantCode(t, "no alias", set(room, alice, "m.room.canonical_alias", "", `{"alias":"reef"}`), spec.CodeInvalidParam)
		wantCode(t, "own alias", set(room, alice, "m.room.canonical_alias", "", `{"alt_aliases":["#lagoon:hs"]}`), "")
		wantCode(t, "03-015 none", set(room, alice, "m.room.canonical_alias", "", `{}`), "")
	})
	t.Run("03-016 a second create event is refused", func(t *testing.T) {
		// From version 12 on such an event would be malformed, not only forbidden.
		wantCode(t, "create", set(room, alice, "m.room.create", "", `{"room_version":"12"}`), spec.CodeBadJSON)
		old := bed.create(CreateRoom{Creator: alice, Version: "11"})
		wantCode(t, "create", set(old, alice, "m.room.create", "", `{"room_version":"11"}`), spec.CodeForbidden)
	})
	t.Run("03-034 levels that name the creator are a bad request", func(t *testing.T) {
		wantCode(t, "levels", set(room, alice, "m.room.power_levels", "", `{"users":{"@alice:hs":100}}`), spec.CodeBadJSON)
	})
	t.Run("03-023 a level that is no integer is a bad request", func(t *testing.T) {
		for _, level := range []string{`"50"`, `1.5`, `true`, `null`, `[]`, `9007199254740992`} {
			wantCode(t, level, set(room, alice, "m.room.power_levels", "", `{"ban":`+level+`}`), spec.CodeBadJSON)
		}
	})
	t.Run("02-037 setting one's own membership joins", func(t *testing.T) {
		wantCode(t, "invite only", set(other, bob, "m.room.member", "@bob:hs", `{"membership":"join"}`), spec.CodeForbidden)
		wantCode(t, "somebody else's", set(room, alice, "m.room.member", "@bob:hs", `{"membership":"join"}`), spec.CodeForbidden)
		wantCode(t, "public", set(room, bob, "m.room.member", "@bob:hs", `{"membership":"join"}`), "")
	})
	t.Run("02-048 a name for one room, and no say in who let one in", func(t *testing.T) {
		wantCode(t, "rename", set(room, bob, "m.room.member", "@bob:hs",
			`{"membership":"join","displayname":"Bobby","join_authorised_via_users_server":"@nobody:nowhere"}`), "")
		content := bed.state(room, "m.room.member", "@bob:hs")
		if content["displayname"] != "Bobby" || content["join_authorised_via_users_server"] != nil {
			t.Errorf("bob's member event is %v", content)
		}
	})
	t.Run("04-012 a redaction sent like a message", func(t *testing.T) {
		for _, version := range []spec.RoomVersion{"1", "2", "10", "11"} {
			room := bed.create(CreateRoom{Creator: alice, Version: version})
			said := bed.say(room, alice, "oops", "x"+string(version))
			_, err := bed.Rooms.Send(ctx, SendEvent{
				Room: room, Sender: alice, Type: "m.room.redaction", Content: []byte(`{"redacts":"` + string(said) + `"}`),
			})
			wantCode(t, "redaction", err, "")
			err = bed.Rooms.look(ctx, room, func(c *roomcore.Core) error {
				row, err := c.Event(said)
				if err == nil && row.RedactedBy == 0 {
					t.Errorf("version %s: the message is not redacted", version)
				}
				return err
			})
			wantCode(t, "look", err, "")
		}
	})
}
