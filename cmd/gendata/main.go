// Command gendata fills a data directory with a large, made-up homeserver, for
// measuring what size does: start-up, first sync, paging, state reads, memory.
// It goes through the engine itself, so that every event is built, signed,
// authorised and committed like any other.
//
//	go run ./cmd/gendata -data ./big -events 1000000 -members 10000 -rooms 200
//	ATOLL_SERVER_NAME=big.local ATOLL_DATA_DIR=./big go run ./cmd/atoll serve
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"atoll/federation"
	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

type options struct {
	dir     string
	name    string
	events  int
	members int
	rooms   int
	senders int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "data", "", "directory to fill; must not hold a database yet")
	flag.StringVar(&o.name, "name", "big.local", "server name")
	flag.IntVar(&o.events, "events", 1_000_000, "messages to send in all")
	flag.IntVar(&o.members, "members", 10_000, "members of the largest room")
	flag.IntVar(&o.rooms, "rooms", 200, "rooms of some members each, besides the largest")
	flag.IntVar(&o.senders, "senders", 64, "messages under way at once")
	flag.Parse()
	if o.dir == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "gendata:", err)
		os.Exit(1)
	}
}

// roomMembers is how many users each of the ordinary rooms has.
const roomMembers = 20

// watcher is the user who is in every room, to sync and page as.
const watcher = "watcher"

func run(ctx context.Context, o options) error {
	if _, err := os.Stat(filepath.Join(o.dir, "atoll.db")); err == nil {
		return fmt.Errorf("%s holds a database already", o.dir)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	keys, err := federation.LoadKeys(filepath.Join(o.dir, "signing.key"))
	if err != nil {
		return err
	}
	db, err := storage.Open(ctx, storage.Options{DataDir: o.dir})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.BindServerName(ctx, spec.ServerName(o.name)); err != nil {
		return err
	}
	s, err := server.New(server.Options{
		Name: spec.ServerName(o.name), Key: keys.Active, DB: db, Passwords: server.CheapPasswords(),
	})
	if err != nil {
		return err
	}
	g := &generator{options: o, server: s, started: time.Now()}
	if err := g.users(ctx); err != nil {
		return err
	}
	rooms, err := g.makeRooms(ctx)
	if err != nil {
		return err
	}
	if err := g.talk(ctx, rooms); err != nil {
		return err
	}
	g.say("checking")
	return db.Check(ctx)
}

type generator struct {
	options
	server  *server.Server
	started time.Time
}

func (g *generator) say(format string, a ...any) {
	fmt.Printf("%8.1fs %s\n", time.Since(g.started).Seconds(), fmt.Sprintf(format, a...))
}

func (g *generator) user(i int) spec.UserID {
	if i == 0 {
		return spec.UserID("@" + watcher + ":" + g.name)
	}
	return spec.UserID(fmt.Sprintf("@user%d:%s", i, g.name))
}

// users makes the accounts; all have the password "gendata-gendata".
func (g *generator) users(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(g.senders)
	for i := range g.members {
		group.Go(func() error {
			_, err := g.server.Accounts.CreateUser(ctx, server.CreateUser{Username: g.user(i).Localpart(), Password: "gendata-gendata"})
			return err
		})
	}
	err := group.Wait()
	g.say("%d users", g.members)
	return err
}

// makeRooms makes the largest room, which comes first, and the others.
func (g *generator) makeRooms(ctx context.Context) ([]spec.RoomID, error) {
	largest, err := g.room(ctx, 0, g.members)
	if err != nil {
		return nil, err
	}
	g.say("a room of %d members", g.members)
	rooms := []spec.RoomID{largest}
	for i := range g.rooms {
		id, err := g.room(ctx, i*roomMembers, roomMembers)
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, id)
	}
	g.say("%d rooms of %d members", g.rooms, roomMembers+1)
	return rooms, nil
}

// room makes a room of the watcher and joins count users to it, from the first
// on.
func (g *generator) room(ctx context.Context, first, count int) (spec.RoomID, error) {
	id, err := g.server.Rooms.Create(ctx, server.CreateRoom{
		Creator: g.user(0), Preset: "public_chat", Name: fmt.Sprintf("Room %d", first),
	})
	if err != nil {
		return "", err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(g.senders)
	for i := range count {
		group.Go(func() error {
			_, err := g.server.Rooms.Join(ctx, server.Join{User: g.user((first + i) % g.members), Room: string(id)})
			return err
		})
	}
	return id, group.Wait()
}

// talk sends the messages, spread over the rooms.
func (g *generator) talk(ctx context.Context, rooms []spec.RoomID) error {
	group, ctx := errgroup.WithContext(ctx)
	for s := range g.senders {
		group.Go(func() error {
			for n := s; n < g.events; n += g.senders {
				_, err := g.server.Rooms.Send(ctx, server.SendEvent{
					Room: rooms[n%len(rooms)], Sender: g.user(0), Type: "m.room.message",
					Content: fmt.Appendf(nil, `{"msgtype":"m.text","body":"Message %d of many, of about the length that people write when they chat."}`, n),
				})
				if err != nil {
					return err
				}
				if n%100_000 == 0 {
					g.say("%d messages", n)
				}
			}
			return nil
		})
	}
	return group.Wait()
}
