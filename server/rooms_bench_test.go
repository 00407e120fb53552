package server

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"atoll/spec"
)

// BenchmarkSend measures a local message from the request to the commit, one
// sender at a time and 64 side by side in rooms of their own.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			bed := newBenchBed(b)
			rooms := make([]spec.RoomID, senders)
			for i := range rooms {
				id, err := bed.Rooms.Create(context.Background(), CreateRoom{Creator: "@alice:hs", Version: "11"})
				if err != nil {
					b.Fatal(err)
				}
				rooms[i] = id
			}
			var next atomic.Int64
			b.SetParallelism(max(1, senders/2))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				room := rooms[int(next.Add(1))%senders]
				device := fmt.Sprint("D", next.Load())
				for n := 0; pb.Next(); n++ {
					_, err := bed.Rooms.Send(context.Background(), SendEvent{
						Room: room, Sender: "@alice:hs", Device: device, TxnID: fmt.Sprint(n), Type: "m.room.message",
						Content: []byte(`{"msgtype":"m.text","body":"The tide is out, the sand is wide, and nobody has come yet."}`),
					})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func newBenchBed(b *testing.B) *accountsBed {
	b.Helper()
	bed := newAccountsBed(b, nil)
	bed.register("alice")
	return bed
}
