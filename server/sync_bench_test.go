package server

import (
	"context"
	"fmt"
	"testing"
	"time"

	"atoll/spec"
)

// benchRooms makes rooms of many members, each with some messages.
func benchRooms(b *testing.B, bed *accountsBed, rooms, members, messages int) []spec.RoomID {
	b.Helper()
	ctx := context.Background()
	out := make([]spec.RoomID, rooms)
	for i := range out {
		id, err := bed.Rooms.Create(ctx, CreateRoom{Creator: "@alice:hs", Preset: "public_chat", Name: "Room"})
		if err != nil {
			b.Fatal(err)
		}
		out[i] = id
		for m := 1; m < members; m++ {
			if _, err := bed.Rooms.Join(ctx, Join{User: benchUser(m), Room: string(id)}); err != nil {
				b.Fatal(err)
			}
		}
		for m := range messages {
			benchSay(b, bed, id, benchUser(m%members))
		}
	}
	return out
}

func benchUser(n int) spec.UserID {
	if n == 0 {
		return "@alice:hs"
	}
	return spec.UserID(fmt.Sprintf("@user%d:hs", n))
}

func benchSay(b *testing.B, bed *accountsBed, room spec.RoomID, user spec.UserID) {
	b.Helper()
	_, err := bed.Rooms.Send(context.Background(), SendEvent{
		Room: room, Sender: user, Type: "m.room.message",
		Content: []byte(`{"msgtype":"m.text","body":"The tide is out, the sand is wide, and nobody has come yet."}`),
	})
	if err != nil {
		b.Fatal(err)
	}
}

func benchSyncBed(b *testing.B, users int) *accountsBed {
	bed := newBenchBed(b)
	for n := 1; n < users; n++ {
		bed.register(fmt.Sprint("user", n))
	}
	runServer(b, bed.Server)
	return bed
}

func benchSync(b *testing.B, bed *accountsBed, req SyncRequest) (*SyncAnswer, []byte) {
	answer, err := bed.Sync.Sync(context.Background(), req)
	if err != nil {
		b.Fatal(err)
	}
	return answer, answer.AppendJSON(nil)
}

// BenchmarkSyncInitial is the first sync of a user in 20 rooms of 20 members with
// 30 messages each: as everybody's clients do it, and the first time that this
// process is asked for these rooms.
func BenchmarkSyncInitial(b *testing.B) {
	bed := benchSyncBed(b, 20)
	benchRooms(b, bed, 20, 20, 30)
	for name, filter := range map[string]string{"full": `{}`, "lazy": `{"room":{"state":{"lazy_load_members":true}}}`} {
		f, err := ParseFilter([]byte(filter))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				_, out := benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D", Filter: f})
				size = len(out)
			}
			b.ReportMetric(float64(size), "bytes")
		})
		b.Run(name+"/cold", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := bed.Rooms
				s.cache = newRoomCache()
				s.stateLists = newStateLists()
				b.StartTimer()
				benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D", Filter: f})
			}
		})
	}
}

// BenchmarkSyncQuiet is a sync of such a user when nothing is new.
func BenchmarkSyncQuiet(b *testing.B) {
	bed := benchSyncBed(b, 2)
	benchRooms(b, bed, 20, 2, 5)
	answer, _ := benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D"})
	token := answer.Next()
	b.ReportAllocs()
	for b.Loop() {
		benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D", Since: token})
	}
}

// BenchmarkSyncNews is one message in one of 20 rooms, as one of its members gets
// it.
func BenchmarkSyncNews(b *testing.B) {
	bed := benchSyncBed(b, 20)
	rooms := benchRooms(b, bed, 20, 20, 5)
	answer, _ := benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D"})
	token := answer.Next()
	benchSay(b, bed, rooms[3], "@alice:hs")
	benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D", Since: token})
	b.ReportAllocs()
	for b.Loop() {
		benchSync(b, bed, SyncRequest{User: "@user1:hs", Device: "D", Since: token})
	}
}

// BenchmarkSyncFanOut is a message from the request to send it until all of 20
// waiting clients have it.
func BenchmarkSyncFanOut(b *testing.B) {
	const receivers = 20
	bed := benchSyncBed(b, receivers+1)
	rooms := benchRooms(b, bed, 1, receivers+1, 5)
	got := make(chan error, receivers)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for n := range receivers {
		user := benchUser(n + 1)
		first, _ := benchSync(b, bed, SyncRequest{User: user, Device: "D"})
		go func() {
			token := first.Next()
			for {
				answer, err := bed.Sync.Sync(ctx, SyncRequest{User: user, Device: "D", Since: token, Timeout: time.Hour})
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					token = answer.Next()
					answer.AppendJSON(nil)
				}
				got <- err
			}
		}()
	}
	b.ReportAllocs()
	for b.Loop() {
		benchSay(b, bed, rooms[0], "@alice:hs")
		for range receivers {
			if err := <-got; err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkMessages reads a room of 1,000 members and 1,000 messages back to its
// creation.
func BenchmarkMessages(b *testing.B) {
	bed := benchSyncBed(b, 2)
	ctx := context.Background()
	room := benchRooms(b, bed, 1, 2, 1000)[0]
	for n := range 300 {
		content := fmt.Sprintf(`{"membership":"join","displayname":"name %d"}`, n)
		key := "@user1:hs"
		if _, err := bed.Rooms.Send(ctx, SendEvent{Room: room, Sender: "@user1:hs", Type: spec.TypeMember, StateKey: &key, Content: []byte(content)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	events := 0
	for b.Loop() {
		req := Messages{Room: room, User: "@alice:hs", Device: "D", Back: true, Limit: 100}
		for {
			page, err := bed.Rooms.Messages(ctx, req)
			if err != nil {
				b.Fatal(err)
			}
			events += len(page.Chunk)
			if req.From = page.End; req.From == "" {
				break
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
}
