package federation_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

// knockSection is what a user's sync has of the rooms they knock at.
func knockSection(t *testing.T, u *atolltest.User, room spec.RoomID) []map[string]any {
	t.Helper()
	got, err := u.Sync.Sync(t.Context(), server.SyncRequest{User: u.ID, Device: "D"})
	must(t, err)
	var out struct {
		Rooms struct {
			Knock map[spec.RoomID]struct {
				State struct{ Events []map[string]any } `json:"knock_state"`
			}
		}
	}
	must(t, json.Unmarshal(got.AppendJSON(nil), &out))
	return out.Rooms.Knock[room].State.Events
}

func TestKnockAcross(t *testing.T) {
	s := atolltest.New(t, 2)
	a, b := s[0], s[1]
	alice, bob := a.User("alice"), b.User("bob")
	knock := func(room spec.RoomID) error {
		_, err := bob.Rooms.Knock(t.Context(), server.Join{
			User: bob.ID, Room: string(room), Via: []spec.ServerName{a.Name()}, Content: []byte(`{"reason":"please"}`),
		})
		return err
	}
	knockable := func(version spec.RoomVersion) spec.RoomID {
		room := alice.Create(server.CreateRoom{Preset: "private_chat", Version: version, Name: "Lagoon"})
		alice.SetState(room, spec.TypeJoinRules, "", map[string]string{"join_rule": "knock"})
		return room
	}
	for _, version := range []spec.RoomVersion{"7", "11", "12"} {
		t.Run("02-051 02-054 14-069 version "+string(version), func(t *testing.T) {
			room := knockable(version)
			must(t, knock(room))
			a.WaitMember(room, bob.ID, "knock")
			if got := a.State(room, spec.TypeMember, string(bob.ID)); got["reason"] != "please" {
				t.Errorf("alice sees %v", got)
			}
			state := knockSection(t, bob, room)
			types := map[any]bool{}
			for _, ev := range state {
				types[ev["type"]] = true
				for key := range ev {
					if key != "type" && key != "state_key" && key != "sender" && key != "content" {
						t.Errorf("14-068 stripped state has %s", key)
					}
				}
			}
			if !types[spec.TypeCreate] || !types["m.room.name"] || !types[spec.TypeMember] {
				t.Errorf("bob sees %v", state)
			}
			must(t, knock(room)) // 02-053
			must(t, alice.Rooms.Invite(t.Context(), alice.About(room, bob.ID)))
			atolltest.Eventually(t, "bob is invited", func() bool { return b.Listed(room, bob.ID) == "invite" })
			if err := knock(room); spec.CodeOf(err) != spec.CodeForbidden {
				t.Errorf("02-053 a knock of who is invited: %v", err)
			}
			bob.Join(room, a)
		})
		t.Run("02-056 14-064 taking it back in version "+string(version), func(t *testing.T) {
			room := knockable(version)
			must(t, knock(room))
			must(t, bob.Rooms.Leave(t.Context(), bob.About(room, bob.ID)))
			if got := b.Listed(room, bob.ID); got != "leave" || knockSection(t, bob, room) != nil {
				t.Errorf("bob is %q", got)
			}
			a.WaitMember(room, bob.ID, "leave")
			must(t, bob.Rooms.Forget(t.Context(), room, bob.ID))
			must(t, knock(room))
			if knockSection(t, bob, room) == nil {
				t.Error("02-070 the forgotten room does not come back")
			}
		})
	}
	t.Run("02-057 14-070 it is rejected", func(t *testing.T) {
		room := knockable("12")
		must(t, knock(room))
		must(t, alice.Rooms.Kick(t.Context(), alice.About(room, bob.ID)))
		atolltest.Eventually(t, "bob hears of it", func() bool { return b.Listed(room, bob.ID) == "leave" })
	})
	t.Run("14-065 who may not knock", func(t *testing.T) {
		room := alice.Create(server.CreateRoom{Preset: "private_chat"})
		if err := knock(room); spec.CodeOf(err) != spec.CodeForbidden || b.Listed(room, bob.ID) != "" {
			t.Errorf("%v, bob is %q", err, b.Listed(room, bob.ID))
		}
	})
	t.Run("14-068 badly signed state is left out", func(t *testing.T) {
		room := knockable("11")
		a.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/send_knock/") {
				return false
			}
			answer := httptest.NewRecorder()
			a.Handler.ServeHTTP(answer, r)
			w.WriteHeader(answer.Code)
			_, _ = w.Write([]byte(strings.Replace(answer.Body.String(), "Lagoon", "Harbour", 1)))
			return true
		})
		defer a.Intercept(nil)
		must(t, knock(room))
		for _, ev := range knockSection(t, bob, room) {
			if content, _ := ev["content"].(map[string]any); content["name"] == "Harbour" {
				t.Error("a forged name is shown")
			}
		}
	})
	t.Run("nobody can be reached", func(t *testing.T) {
		room := knockable("12")
		a.Cut()
		defer a.Mend()
		if err := knock(room); err == nil || b.Listed(room, bob.ID) != "" {
			t.Errorf("%v, bob is %q", err, b.Listed(room, bob.ID))
		}
	})
}
