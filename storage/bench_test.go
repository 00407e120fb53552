package storage_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"atoll/storage"
	"atoll/storage/storagetest"
)

// BenchmarkCommit commits plain messages of 1 KiB from concurrent committers,
// each in a room of its own, on SQLite, on PostgreSQL, and on PostgreSQL with a
// millisecond more for every round trip. Extra figures: CPU time per unit, in
// microseconds, of this process (not of PostgreSQL), and the latency of the
// middle one and of the slowest percent.
func BenchmarkCommit(b *testing.B) {
	for _, engine := range []struct {
		name string
		open func(testing.TB) *storage.DB
	}{
		{"sqlite", openSQLite},
		{"postgres", func(b testing.TB) *storage.DB { return openPostgres(b, storagetest.Postgres(b)) }},
		{"postgres+1ms", func(b testing.TB) *storage.DB {
			_, dsn := newProxy(b, storagetest.Postgres(b), time.Millisecond/2)
			return openPostgres(b, dsn)
		}},
	} {
		b.Run(engine.name, func(b *testing.B) {
			for _, committers := range []int{1, 16, 64} {
				b.Run(fmt.Sprint(committers), func(b *testing.B) { benchmarkCommit(b, engine.open(b), committers) })
			}
		})
	}
}

func benchmarkCommit(b *testing.B, db *storage.DB, committers int) {
	sender := storagetest.User("alice")
	units := make([][]*storage.Unit, committers)
	body := storagetest.Text(400)
	for i := range units {
		room := storagetest.NewRoom(b, db, sender)
		for range (b.N + committers - 1) / committers {
			units[i] = append(units[i], room.Message(sender, body))
		}
	}
	took := make([][]time.Duration, committers)
	b.ResetTimer()
	cpu := cpuTime()
	var wg sync.WaitGroup
	for i := range units {
		wg.Go(func() {
			for _, u := range units[i] {
				start := time.Now()
				if _, err := db.Commit(context.Background(), u); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	n := float64((b.N + committers - 1) / committers * committers)
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/n, "cpu-µs/unit")
	b.ReportMetric(n/b.Elapsed().Seconds(), "units/s")
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}

// cpuTime is the CPU time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
