package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"atoll/spec"
	"atoll/storage"
)

// Options is what a Server is made of.
type Options struct {
	// Name is the homeserver's name, for ever.
	Name spec.ServerName
	// Key signs this server's events and requests.
	Key spec.SigningKey
	DB  *storage.DB
	// Remote reaches other homeservers; nil where federation is off.
	Remote Remote
	// Log may be nil for silence.
	Log *slog.Logger
	// Now may be nil for the clock.
	Now func() time.Time

	Registration RegistrationOptions
	Passwords    PasswordOptions
	Sessions     SessionOptions
	JWT          JWTOptions
}

// Server is the engine of one homeserver process. What it does lies in its
// parts, each of which is safe for concurrent use.
type Server struct {
	*base
	Accounts    *Accounts
	UIA         *UIA
	Profiles    *Profiles
	AccountData *AccountData
	Filters     *Filters
	Rooms       *Rooms
	Aliases     *Aliases
	Sync        *Sync
	// Transactions takes in what other servers send.
	Transactions *Transactions

	// loops are the long-running functions of the parts. Each returns nil soon
	// after its context has ended; an error ends the server.
	loops []func(context.Context) error
}

// base is what all parts of a server have in common. It is not changed after
// New.
type base struct {
	name   spec.ServerName
	key    spec.SigningKey
	db     *storage.DB
	remote Remote
	log    *slog.Logger
	now    func() time.Time
}

// New builds a server. Nothing runs until Run, but requests that need no
// background work are answered before that.
func New(o Options) (*Server, error) {
	b := &base{name: o.Name, key: o.Key, db: o.DB, remote: o.Remote, log: o.Log, now: o.Now}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.now == nil {
		b.now = time.Now
	}
	s := &Server{base: b}
	s.Accounts = newAccounts(b, o)
	s.UIA = s.Accounts.uia
	s.Rooms = newRooms(b, s.Accounts)
	s.Profiles = newProfiles(b, s.Rooms.profileChanged)
	s.AccountData = &AccountData{base: b}
	s.Filters = newFilters(b)
	s.Aliases = s.Rooms.aliases
	s.Sync = newSync(b, s.Rooms)
	s.Transactions = newTransactions(b, s.Rooms, map[string]edu{})
	s.loops = append(s.loops, s.Accounts.followLog, s.Accounts.flushSeen, s.Accounts.passwords.settle, s.Accounts.pruneLogins,
		(&partings{base: b, accounts: s.Accounts, rooms: s.Rooms}).run, s.Rooms.run, s.maintain, s.Sync.follow, s.Transactions.prune)
	return s, nil
}

// Name returns the homeserver's name.
func (b *base) Name() spec.ServerName { return b.name }

// Run does the background work of all parts until ctx ends, and then returns
// nil once they have stopped. It is called once.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, loop := range s.loops {
		group.Go(func() error { return loop(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		return nil
	})
	return group.Wait()
}

// fault wraps an error of a store or a bug with what was being done. What is
// meant for a client goes on as it is. err is not nil.
func fault(err error, format string, args ...any) error {
	var public *spec.Error
	if errors.As(err, &public) {
		return public
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// write runs a rare write and then announces what fn returns. The log comes
// last because its head is what all writers wait for.
func (b *base) write(ctx context.Context, fn func(*storage.Tx) ([]storage.LogEntry, error)) error {
	return b.db.Write(ctx, func(tx *storage.Tx) error {
		entries, err := fn(tx)
		if err != nil || len(entries) == 0 {
			return err
		}
		_, err = tx.Apply(&storage.Unit{Log: entries})
		return err
	})
}

// local tells whether the user is one of this server's.
func (b *base) local(user spec.UserID) bool { return user.Server() == b.name }

// ms is a time as it is stored: milliseconds since the epoch.
func (b *base) ms() int64 { return b.now().UnixMilli() }
