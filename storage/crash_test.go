package storage_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"atoll/spec"
	"atoll/storage"
	"atoll/storage/storagetest"
)

// crashDir names the data directory to the process that is to be killed.
const crashDir = "ATOLL_TEST_CRASH_DIR"

// TestCrash kills a process that commits, in the middle of its work, several
// times over the same database: everything that it had acknowledged must be
// there, and nothing contradictory.
func TestCrash(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		commitUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	var acknowledged []spec.EventID
	for round := range 4 {
		acknowledged = append(acknowledged, killInMidWork(t, dir, 150+97*round)...)
		verifyAfterCrash(t, dir, acknowledged)
	}
}

// killInMidWork runs the committing process, kills it after n acknowledgements
// and returns all that it managed to write.
func killInMidWork(t *testing.T, dir string, n int) []spec.EventID {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []spec.EventID
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		id, ok := strings.CutPrefix(lines.Text(), "committed ")
		if !ok {
			t.Errorf("the process says: %s", lines.Text())
			continue
		}
		ids = append(ids, spec.EventID(id))
		if len(ids) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if len(ids) < n {
		t.Fatalf("only %d acknowledgements", len(ids))
	}
	return ids
}

func verifyAfterCrash(t *testing.T, dir string, ids []spec.EventID) {
	t.Helper()
	ctx := context.Background()
	db, err := storage.Open(ctx, storage.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Read(ctx, func(tx *storage.Tx) error {
		for _, id := range ids {
			if _, err := tx.EventByIDAnyRoom(id); err != nil {
				t.Errorf("acknowledged %s: %v", id, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := db.Check(ctx); err != nil {
		t.Error(err)
	}
}

// commitUntilKilled commits messages, members and chunks from several
// goroutines and writes a line for each that was acknowledged.
func commitUntilKilled(t *testing.T, dir string) {
	ctx := context.Background()
	db, err := storage.Open(ctx, storage.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 6 {
		user := storagetest.User(fmt.Sprint("u", i))
		room := storagetest.NewRoom(t, db, user)
		wg.Go(func() {
			for n := 0; ; n++ {
				var u *storage.Unit
				switch n % 10 {
				case 3:
					u = room.State(user, spec.TypeMember, string(storagetest.User(fmt.Sprint("m", n))), `{"membership":"invite"}`)
				case 7:
					chunk := storage.Unit{Events: []storage.EventRow{room.Aside(user, "x")}}
					if err := db.WriteChunk(ctx, &chunk); err != nil {
						t.Error(err)
					}
					fallthrough
				default:
					u = room.Message(user, storagetest.Text(n%700))
				}
				if _, err := db.Commit(ctx, u); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				fmt.Println("committed", u.Events[0].Event.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
