package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
	"atoll/storage"
)

// fakeRemote answers queries only; anything else would be a nil call.
type fakeRemote struct {
	Remote
	profile   func(user spec.UserID, field string) ([]byte, error)
	directory func(alias spec.RoomAlias) (DirectoryAnswer, error)
}

func (r fakeRemote) QueryProfile(_ context.Context, user spec.UserID, field string) ([]byte, error) {
	return r.profile(user, field)
}

func (r fakeRemote) QueryDirectory(_ context.Context, alias spec.RoomAlias) (DirectoryAnswer, error) {
	return r.directory(alias)
}

// answered is what a peer's error answer looks like.
func answered(status int) error {
	return &RemoteError{Server: "far", Answer: &spec.Error{Code: spec.CodeUnknown, Status: status}}
}

func TestProfileFields(t *testing.T) {
	b := newAccountsBed(t, nil)
	ctx := t.Context()
	alice := b.session(b.register("alice").Token)
	var changes []ProfileChange
	b.Profiles.changed = func(_ context.Context, c ProfileChange) error {
		changes = append(changes, c)
		return nil
	}
	set := func(claim, name, value string, code spec.Code) {
		t.Helper()
		var v jsontext.Value
		if value != "" {
			v = jsontext.Value(value)
		}
		wantCode(t, claim, b.Profiles.Set(ctx, SetProfileField{By: alice, User: alice.User, Name: name, Value: v}), code)
	}
	field := func(claim, name, want string) {
		t.Helper()
		got, err := b.Profiles.Field(ctx, alice.User, name)
		if want == "" {
			wantCode(t, claim, err, spec.CodeNotFound)
		} else if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", claim, got, err, want)
		}
	}
	if p, err := b.Profiles.Get(ctx, alice.User); err != nil || p == nil || len(p) != 0 {
		t.Errorf("08-005 the profile of a new user: %v, %v", p, err)
	}
	field("08-005 a field that is not set", "displayname", "")
	set("08-001 a name", "displayname", `"Alice"`, "")
	set("08-001 an avatar", "avatar_url", `"mxc://hs/a"`, "")
	set("08-010 a custom field", "org.example.pets", `{"dogs":2}`, "")
	set("08-004 a time zone", "m.tz", `"Europe/Berlin"`, "")
	set("a field that is null", "org.example.null", `null`, "")
	set("the same name again", "displayname", `"Alice"`, "")
	b.restart()
	field("08-004 the name", "displayname", `"Alice"`)
	field("the custom field", "org.example.pets", `{"dogs":2}`)
	p, err := b.Profiles.Get(ctx, alice.User)
	if err != nil || len(p) != 5 || p.DisplayName() != "Alice" || p.AvatarURL() != "mxc://hs/a" {
		t.Errorf("08-004 the whole profile: %v, %v", p, err)
	}
	want := []ProfileChange{{alice.User, "Alice", ""}, {alice.User, "Alice", "mxc://hs/a"}}
	if !slices.Equal(changes, want) {
		t.Errorf("08-009 08-010 what rooms were told: %v, want %v", changes, want)
	}

	set("08-003 removing", "org.example.pets", "", "")
	set("08-003 removing again", "org.example.pets", "", "")
	field("08-003 a removed field", "org.example.pets", "")
	set("an empty name", "displayname", `""`, "")
	field("an empty name is no name", "displayname", "")
	set("08-002 a long key", strings.Repeat("k", 256), `1`, spec.CodeKeyTooLarge)
	set("08-002 a key with a capital", "org.Example", `1`, spec.CodeInvalidParam)
	set("08-002 a key that starts with a digit", "1a", `1`, spec.CodeInvalidParam)
	set("08-002 an empty key", "", `1`, spec.CodeInvalidParam)
	set("08-002 a large value", "org.example.big", `"`+strings.Repeat("x", 70_000)+`"`, spec.CodeProfileTooLarge)
	set("08-002 half of it", "org.example.big", `"`+strings.Repeat("x", 40_000)+`"`, "")
	set("08-002 the other half", "org.example.large", `"`+strings.Repeat("x", 40_000)+`"`, spec.CodeProfileTooLarge)
	field("a field that was too large", "org.example.large", "")
	set("a name that is a number", "displayname", `5`, spec.CodeInvalidParam)
	set("a name without end", "displayname", `"`+strings.Repeat("é", 257)+`"`, spec.CodeInvalidParam)
	set("a value that is no JSON", "org.example.x", `{`, spec.CodeBadJSON)

	err = b.Profiles.Set(ctx, SetProfileField{By: alice, User: "@bob:hs", Name: "displayname", Value: jsontext.Value(`"x"`)})
	wantCode(t, "08-001 another user's profile", err, spec.CodeForbidden)
	alice.Suspended = true
	set("01-050 a suspended user", "displayname", `"x"`, spec.CodeUserSuspended)
	_, err = b.Profiles.Get(ctx, "@nobody:hs")
	wantCode(t, "08-006 an unknown user", err, spec.CodeNotFound)
}

func TestProfileSurvivesRoomTrouble(t *testing.T) {
	b := newAccountsBed(t, nil)
	alice := b.session(b.register("alice").Token)
	b.Profiles.changed = func(context.Context, ProfileChange) error { return errors.New("a room is in the way") }
	err := b.Profiles.Set(t.Context(), SetProfileField{By: alice, User: alice.User, Name: "displayname", Value: jsontext.Value(`"A"`)})
	if err != nil || !strings.Contains(b.log.String(), "a room is in the way") {
		t.Errorf("%v; the log has: %s", err, b.log.String())
	}
}

func TestRemoteProfile(t *testing.T) {
	var answer []byte
	var failure error
	b := newAccountsBed(t, func(o *Options) {
		o.Remote = fakeRemote{profile: func(user spec.UserID, field string) ([]byte, error) {
			if user != "@zoe:far" {
				t.Errorf("asked about %s", user)
			}
			return answer, failure
		}}
	})
	ctx := t.Context()
	answer = []byte(`{"displayname":"Zoe","avatar_url":[],"org.example.x":1}`)
	if p, err := b.Profiles.Get(ctx, "@zoe:far"); err != nil || p.DisplayName() != "Zoe" || len(p) != 2 {
		t.Errorf("08-007 a remote profile: %v, %v", p, err)
	}
	if v, err := b.Profiles.Field(ctx, "@zoe:far", "displayname"); err != nil || string(v) != `"Zoe"` {
		t.Errorf("08-007 a field of it: %s, %v", v, err)
	}
	_, err := b.Profiles.Field(ctx, "@zoe:far", "avatar_url")
	wantCode(t, "a remote avatar that is no string", err, spec.CodeNotFound)
	answer = []byte(`[]`)
	_, err = b.Profiles.Get(ctx, "@zoe:far")
	if e := wantCode(t, "an answer that is no object", err, spec.CodeUnknown); e.HTTPStatus() != 502 {
		t.Errorf("status %d", e.HTTPStatus())
	}
	failure = answered(404)
	_, err = b.Profiles.Get(ctx, "@zoe:far")
	wantCode(t, "08-006 unknown there", err, spec.CodeNotFound)
	failure = answered(403)
	_, err = b.Profiles.Get(ctx, "@zoe:far")
	wantCode(t, "refused there", err, spec.CodeForbidden)
	failure = &RemoteError{Server: "far", Cause: errors.New("no route")}
	_, err = b.Profiles.Get(ctx, "@zoe:far")
	if e := wantCode(t, "08-007 a server that is down", err, spec.CodeUnknown); e.HTTPStatus() != 502 || strings.Contains(e.Msg, "no route") {
		t.Errorf("08-007 status %d, %q", e.HTTPStatus(), e.Msg)
	}
}

func TestAccountData(t *testing.T) {
	b := newAccountsBed(t, nil)
	ctx := t.Context()
	const alice = spec.UserID("@alice:hs")
	global := AccountDataKey{User: alice, Type: "org.example.x"}
	inRoom := AccountDataKey{User: alice, Room: "!r:hs", Type: "org.example.x"}
	put := func(claim string, key AccountDataKey, content string, code spec.Code) *spec.Error {
		t.Helper()
		return wantCode(t, claim, b.AccountData.Put(ctx, key, []byte(content)), code)
	}
	get := func(claim string, key AccountDataKey, want string) {
		t.Helper()
		got, err := b.AccountData.Get(ctx, key)
		if want == "" {
			wantCode(t, claim, err, spec.CodeNotFound)
		} else if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", claim, got, err, want)
		}
	}
	get("08-051 nothing stored", global, "")
	put("08-051", global, `{"a":1}`, "")
	get("08-051", global, `{"a":1}`)
	get("08-053 no fall-back to what belongs to no room", inRoom, "")
	put("08-053", inRoom, `{"b":1}`, "")
	start := b.o.DB.Head()
	put("08-051 a change", global, `{"a":2}`, "")
	put("08-051 another", global, `{"a":3}`, "")
	get("08-051 the newest", global, `{"a":3}`)
	get("08-051 another user's", AccountDataKey{User: "@bob:hs", Type: "org.example.x"}, "")

	var since, all []storage.AccountDataRow
	var entries []storage.LogEntry
	err := b.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if since, err = tx.AccountDataRange(alice, start, b.o.DB.Head()); err != nil {
			return err
		}
		if all, err = tx.AccountDataRange(alice, 0, b.o.DB.Head()); err != nil {
			return err
		}
		entries, err = tx.Log(start, b.o.DB.Head(), 10)
		return err
	})
	if err != nil || len(since) != 1 || string(since[0].Content) != `{"a":3}` || since[0].Room != "" || len(all) != 2 {
		t.Errorf("05-060 what changed: %+v of %+v, %v", since, all, err)
	}
	if len(entries) != 2 || entries[1].Kind != storage.LogAccountData || entries[1].User != alice || entries[1].Text != "org.example.x" || entries[1].Pos != since[0].Pos {
		t.Errorf("05-002 what the log says: %+v", entries)
	}
	b.restart()
	get("20-038 after a restart", global, `{"a":3}`)
	get("20-038 the room's after a restart", inRoom, `{"b":1}`)

	for _, room := range []spec.RoomID{"", "!r:hs"} {
		for _, kind := range []string{"m.fully_read", "m.push_rules"} {
			e := put("08-052 "+kind, AccountDataKey{User: alice, Room: room, Type: kind}, `{}`, spec.CodeBadJSON)
			if e.HTTPStatus() != 405 {
				t.Errorf("08-052 status %d", e.HTTPStatus())
			}
		}
	}
	put("08-051 a list", global, `[]`, spec.CodeBadJSON)
	put("08-051 no JSON", global, `{`, spec.CodeNotJSON)
	put("20-012 no UTF-8", global, "{\"a\":\"\xff\"}", spec.CodeNotJSON)
	put("20-015 an escaped NUL", global, `{"a":"\u0000"}`, "")
	get("20-015 an escaped NUL", global, `{"a":"\u0000"}`)
	put("20-034 a strange shape", AccountDataKey{User: alice, Type: "m.ignored_user_list"}, `{"ignored_users":[]}`, "")
	put("a large content", global, `{"a":"`+strings.Repeat("x", maxAccountData)+`"}`, spec.CodeTooLarge)
	put("a long type", AccountDataKey{User: alice, Type: strings.Repeat("x", 256)}, `{}`, spec.CodeInvalidParam)
	put("a type with a NUL", AccountDataKey{User: alice, Type: "a\x00"}, `{}`, spec.CodeInvalidParam)
	get("a type with a NUL", AccountDataKey{User: alice, Type: "a\x00"}, "")
	get("20-020 a type that is no text", AccountDataKey{User: alice, Type: "\xff"}, "")
}

func TestStoredFilters(t *testing.T) {
	b := newAccountsBed(t, nil)
	ctx := t.Context()
	const alice = spec.UserID("@alice:hs")
	id, err := b.Filters.Create(ctx, alice, []byte(`{"room": {"timeline": {"limit": 5}}, "future": 1.5}`))
	if err != nil || id == "" || strings.HasPrefix(id, "{") {
		t.Fatalf("05-008 the id is %q, %v", id, err)
	}
	same, err := b.Filters.Create(ctx, alice, []byte(`{"room":{"timeline":{"limit":5}},"future":1.5}`))
	if err != nil || same != id {
		t.Errorf("the same filter again has the id %q, %v", same, err)
	}
	a, _ := b.Filters.Create(ctx, alice, []byte(`{"room":{"include_leave":true},"presence":{}}`))
	c, _ := b.Filters.Create(ctx, alice, []byte(`{"presence":{},"room":{"include_leave":true}}`))
	if a != c || a == id {
		t.Errorf("ids %q and %q for members in another order", a, c)
	}
	b.restart()
	raw, err := b.Filters.Get(ctx, alice, id)
	if err != nil || string(raw) != `{"room":{"timeline":{"limit":5}},"future":1.5}` {
		t.Errorf("05-008 what comes back: %s, %v", raw, err)
	}
	_, err = b.Filters.Get(ctx, alice, "none")
	wantCode(t, "05-008 an unknown id", err, spec.CodeNotFound)
	_, err = b.Filters.Get(ctx, "@bob:hs", id)
	wantCode(t, "05-008 another user's", err, spec.CodeNotFound)
	_, err = b.Filters.Create(ctx, alice, []byte(`{"room":1}`))
	wantCode(t, "05-009 a wrong shape", err, spec.CodeBadJSON)

	for range 2 {
		f, err := b.Filters.Load(ctx, alice, id)
		if err != nil || f.Room.Timeline.LimitOr(20, 100) != 5 {
			t.Errorf("05-004 a stored filter: %+v, %v", f, err)
		}
	}
	if f, err := b.Filters.Load(ctx, alice, `{"room":{"include_leave":true}}`); err != nil || !f.Room.IncludeLeave {
		t.Errorf("05-004 an inline filter: %+v, %v", f, err)
	}
	if f, err := b.Filters.Load(ctx, alice, ""); err != nil || !f.Room.Timeline.MatchRoom("!r:hs") {
		t.Errorf("no filter: %+v, %v", f, err)
	}
	_, err = b.Filters.Load(ctx, alice, "none")
	wantCode(t, "05-004 an unknown id", err, spec.CodeNotFound)
	_, err = b.Filters.Load(ctx, alice, "{")
	wantCode(t, "05-004 broken JSON", err, spec.CodeNotJSON)
}

// fakeAliasRooms lets only alice add and only the moderator remove.
type fakeAliasRooms struct{ removed []AliasRemoved }

func (r *fakeAliasRooms) ServersInRoom(context.Context, spec.RoomID) ([]spec.ServerName, error) {
	return []spec.ServerName{"hs", "far"}, nil
}

func (r *fakeAliasRooms) MayAddAlias(_ context.Context, _ spec.RoomID, user spec.UserID) (bool, error) {
	return user == "@alice:hs", nil
}

func (r *fakeAliasRooms) MayRemoveAlias(_ context.Context, _ spec.RoomID, user spec.UserID) (bool, error) {
	return user == "@moderator:hs", nil
}

func (r *fakeAliasRooms) AliasRemoved(_ context.Context, a AliasRemoved) error {
	r.removed = append(r.removed, a)
	return errors.New("may not send that")
}

func TestAliases(t *testing.T) {
	b := newAccountsBed(t, nil)
	rooms := &fakeAliasRooms{}
	b.Aliases.rooms = rooms
	ctx := t.Context()
	alice := Session{User: "@alice:hs"}
	create := func(claim string, c CreateAlias, code spec.Code) *spec.Error {
		t.Helper()
		return wantCode(t, claim, b.Aliases.Create(ctx, c), code)
	}
	create("03-035 an alias", CreateAlias{By: alice, Alias: "#é x:hs", Room: "!r:hs"}, "")
	if e := create("03-035 an alias that exists", CreateAlias{By: alice, Alias: "#é x:hs", Room: "!other:hs"}, spec.CodeUnknown); e.HTTPStatus() != 409 {
		t.Errorf("03-035 status %d", e.HTTPStatus())
	}
	create("03-035 another server's alias", CreateAlias{By: alice, Alias: "#a:far", Room: "!r:hs"}, spec.CodeInvalidParam)
	create("an alias without a name", CreateAlias{By: alice, Alias: "#:hs", Room: "!r:hs"}, spec.CodeInvalidParam)
	create("an alias by one who may not", CreateAlias{By: Session{User: "@bob:hs"}, Alias: "#b:hs", Room: "!r:hs"}, spec.CodeForbidden)
	create("01-050 an alias by a suspended user", CreateAlias{By: Session{User: "@alice:hs", Suspended: true}, Alias: "#b:hs", Room: "!r:hs"}, spec.CodeUserSuspended)
	create("a second alias", CreateAlias{By: alice, Alias: "#a:hs", Room: "!r:hs"}, "")

	if got, err := b.Aliases.Resolve(ctx, "#é x:hs"); err != nil || got.Room != "!r:hs" || !slices.Equal(got.Servers, []spec.ServerName{"hs", "far"}) {
		t.Errorf("03-036 03-037 resolved to %+v, %v", got, err)
	}
	if got, err := b.Aliases.OfRoom(ctx, "!r:hs"); err != nil || !slices.Equal(got, []spec.RoomAlias{"#a:hs", "#é x:hs"}) {
		t.Errorf("03-042 aliases of the room: %v, %v", got, err)
	}
	_, err := b.Aliases.Resolve(ctx, "#none:hs")
	wantCode(t, "03-037 an unknown alias", err, spec.CodeNotFound)

	wantCode(t, "03-039 by somebody else", b.Aliases.Delete(ctx, Session{User: "@bob:hs"}, "#a:hs"), spec.CodeForbidden)
	if _, err := b.Aliases.Resolve(ctx, "#a:hs"); err != nil {
		t.Errorf("03-039 the alias does not resolve any more: %v", err)
	}
	wantCode(t, "03-040 an unknown alias", b.Aliases.Delete(ctx, alice, "#none:hs"), spec.CodeNotFound)
	wantCode(t, "03-041 by its creator, who may not send the event", b.Aliases.Delete(ctx, alice, "#a:hs"), "")
	if !slices.Equal(rooms.removed, []AliasRemoved{{"!r:hs", "#a:hs", "@alice:hs"}}) {
		t.Errorf("03-041 the room was told %v", rooms.removed)
	}
	_, err = b.Aliases.Resolve(ctx, "#a:hs")
	wantCode(t, "a deleted alias", err, spec.CodeNotFound)
	wantCode(t, "by whom the room lets", b.Aliases.Delete(ctx, Session{User: "@moderator:hs"}, "#é x:hs"), "")
	create("an alias again", CreateAlias{By: alice, Alias: "#a:hs", Room: "!r:hs"}, "")
	wantCode(t, "by an administrator", b.Aliases.Delete(ctx, Session{User: "@root:hs", Admin: true}, "#a:hs"), "")
}

func TestRemoteAlias(t *testing.T) {
	answer, failure := DirectoryAnswer{Room: "!r:far"}, error(nil)
	b := newAccountsBed(t, func(o *Options) {
		o.Remote = fakeRemote{directory: func(spec.RoomAlias) (DirectoryAnswer, error) { return answer, failure }}
	})
	if got, err := b.Aliases.Resolve(t.Context(), "#a:far"); err != nil || got.Room != "!r:far" || !slices.Equal(got.Servers, []spec.ServerName{"far"}) {
		t.Errorf("03-036 resolved to %+v, %v", got, err)
	}
	answer.Room = "nonsense"
	_, err := b.Aliases.Resolve(t.Context(), "#a:far")
	wantCode(t, "an answer that makes no sense", err, spec.CodeUnknown)
	failure = answered(404)
	_, err = b.Aliases.Resolve(t.Context(), "#a:far")
	wantCode(t, "03-037 unknown there", err, spec.CodeNotFound)

	alone := newAccountsBed(t, nil)
	_, err = alone.Aliases.Resolve(t.Context(), "#a:far")
	wantCode(t, "without federation", err, spec.CodeNotFound)
	_, err = alone.Profiles.Get(t.Context(), "@zoe:far")
	wantCode(t, "a profile without federation", err, spec.CodeNotFound)
}
