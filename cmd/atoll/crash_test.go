package main

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"testing"
)

// TestKillLosesNothing kills a server in the middle of a load of sends, as hard
// as can be, and asks the next one for every event that was answered.
func TestKillLosesNothing(t *testing.T) {
	const rooms, answered = 4, 400
	dir := t.TempDir()
	env := localEnv(dir, "ATOLL_REGISTRATION_MODE=open", "ATOLL_RATE_LIMITS_ENABLED=false")
	s := serve(t, env)
	token := s.register("alice", "correct horse")

	var mu sync.Mutex // guards sent
	sent := map[string]string{}
	enough := make(chan struct{})
	var senders sync.WaitGroup
	for range rooms {
		room := s.must("POST", "/_matrix/client/v3/createRoom", token, map[string]any{"preset": "private_chat"})["room_id"].(string)
		for sender := range 2 {
			senders.Go(func() {
				for i := 0; ; i++ {
					path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/%d-%d", url.PathEscape(room), sender, i)
					status, answer, err := s.ask("PUT", path, token, map[string]any{"msgtype": "m.text", "body": fmt.Sprint(i)})
					if err != nil {
						return // killed
					}
					if status != http.StatusOK {
						t.Errorf("send: %d %v", status, answer)
						return
					}
					mu.Lock()
					sent[answer["event_id"].(string)] = room
					if len(sent) == answered {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
	}
	gone := make(chan struct{})
	go func() { senders.Wait(); close(gone) }()
	select {
	case <-enough:
	case <-gone:
	}
	s.stop(syscall.SIGKILL)
	<-gone
	if len(sent) < answered {
		t.Fatalf("only %d sends were answered", len(sent))
	}

	s = serve(t, env)
	for event, room := range sent {
		path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/event/%s", url.PathEscape(room), url.PathEscape(event))
		if status, answer, err := s.ask("GET", path, token, nil); err != nil || status != http.StatusOK {
			t.Errorf("%s was answered and is lost: %d %v %v", event, status, answer, err)
		}
	}
	for room := range uniqueRooms(sent) { // the rooms go on as if nothing had happened
		s.must("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/after", token, map[string]any{"msgtype": "m.text", "body": "after"})
	}
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if stdout, stderr, code := atoll(t, "", env, "check"); code != 0 {
		t.Errorf("the database is not consistent: %s%s", stdout, stderr)
	}
}

func uniqueRooms(sent map[string]string) map[string]bool {
	rooms := map[string]bool{}
	for _, room := range sent {
		rooms[room] = true
	}
	return rooms
}
