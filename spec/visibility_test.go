package spec

import (
	"strings"
	"testing"
)

func TestVisible(t *testing.T) {
	view := func(s string) RoomView {
		visibility, membership, _ := strings.Cut(s, "/")
		return RoomView{visibility, membership}
	}
	for _, c := range []struct {
		name          string
		before, after string // after "" is the same
		later, want   bool
	}{
		{"world_readable is for everybody", "world_readable/", "", false, true},
		{"world_readable is for the banned too", "world_readable/ban", "", false, true},
		{"joined is for members", "joined/join", "", false, true},
		{"joined is for nobody who joins later", "joined/leave", "", true, false},
		{"joined is not for the invited", "joined/invite", "", true, false},
		{"invited is for the invited", "invited/invite", "", false, true},
		{"invited is for members", "invited/join", "", false, true},
		{"invited is not for who was not even invited", "invited/", "", true, false},
		{"invited is not for those who left", "invited/leave", "", true, false},
		{"shared is for members", "shared/join", "", false, true},
		{"shared is for those who join later", "shared/", "", true, true},
		{"shared is not for those who never join", "shared/", "", false, false},
		{"shared is not for the invited who never join", "shared/invite", "", false, false},
		{"shared is not for those who left", "shared/leave", "", false, false},
		{"no visibility is shared", "/", "", true, true},
		{"no visibility is not world_readable", "/", "", false, false},
		{"an unknown visibility is shared", "custom/leave", "", true, true},
		{"the end of world_readable is for everybody", "world_readable/", "joined/", false, true},
		{"the beginning of world_readable is for everybody", "joined/", "world_readable/", false, true},
		{"from joined to invited is for the invited", "joined/invite", "invited/invite", false, true},
		{"from joined to shared is not for strangers", "joined/", "shared/", false, false},
		{"one's own join", "joined/invite", "joined/join", false, true},
		{"one's own leaving", "joined/join", "joined/leave", false, true},
		{"one's own ban", "joined/join", "joined/ban", false, true},
		{"the end of one's invite under invited", "invited/invite", "invited/leave", false, true},
		{"one's own invite under joined", "joined/", "joined/invite", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := VisibilityInput{view(c.before), view(c.before), c.later}
			if c.after != "" {
				in.After = view(c.after)
			}
			if got := Visible(in); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestVisibleToServer(t *testing.T) {
	for _, c := range []struct {
		before, after, members string
		want                   bool
	}{
		{"world_readable", "world_readable", "", true},
		{"shared", "shared", "leave", true},
		{"", "", "", true},
		{"invited", "invited", "leave ban", false},
		{"invited", "invited", "leave invite", true},
		{"joined", "joined", "invite leave", false},
		{"joined", "joined", "ban join", true},
		{"joined", "shared", "", true},
		{"shared", "joined", "", true},
	} {
		if got := VisibleToServer(c.before, c.after, strings.Fields(c.members)); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestViewOf(t *testing.T) {
	r := newAuthRoom(t, "12")
	r.set(alice, TypeHistoryVisibility, "", `{"history_visibility":"joined"}`)
	got, err := ViewOf(dave, r.read)
	if want := (RoomView{"joined", "invite"}); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, c := range []struct {
		event *Event
		want  RoomView
	}{
		{nil, RoomView{"joined", "invite"}},
		{r.event(alice, TypeMessage, nil, `{}`), RoomView{"joined", "invite"}},
		{r.state(dave, TypeMember, string(dave), `{"membership":"join"}`), RoomView{"joined", "join"}},
		{r.state(bob, TypeMember, string(bob), `{"membership":"leave"}`), RoomView{"joined", "invite"}},
		{r.state(alice, TypeHistoryVisibility, "", `{"history_visibility":"shared"}`), RoomView{"shared", "invite"}},
		{r.state(alice, TypeHistoryVisibility, "", `{}`), RoomView{"", "invite"}},
		{r.state(alice, TypeHistoryVisibility, "x", `{"history_visibility":"shared"}`), RoomView{"joined", "invite"}},
	} {
		if after := got.After(c.event, dave); after != c.want {
			t.Errorf("after %+v: got %+v, want %+v", c.event, after, c.want)
		}
	}
}
