package federation_test

import (
	"testing"

	"atoll/atolltest"
	"atoll/server"
	"atoll/spec"
)

func TestJoinAndTalk(t *testing.T) {
	for _, version := range spec.SupportedVersions() {
		t.Run("version "+string(version), func(t *testing.T) {
			s := atolltest.New(t, 2)
			alice, bob := s[0].User("alice"), s[1].User("bob")
			room := alice.Create(server.CreateRoom{Name: "Lagoon", Version: version})
			bob.Join(room, s[0])
			s[0].WaitMember(room, bob.ID, "join")
			s[0].Sees(room, bob.Say(room, "hello"))
			s[1].Sees(room, alice.Say(room, "welcome"))
			atolltest.Agree(room, s...)
			if got := s[1].State(room, "m.room.name", "")["name"]; got != "Lagoon" {
				t.Errorf("name is %v", got)
			}
		})
	}
}
