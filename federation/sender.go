package federation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"atoll/server"
	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Transport delivers transactions; Client is the one in production.
type Transport interface {
	SendTransaction(ctx context.Context, dest spec.ServerName, txnID string, body []byte) (map[spec.EventID]string, error)
}

// SenderStore is what a Sender needs of the database.
type SenderStore interface {
	// Follow reads the log after a position; Head is the last one.
	Follow(from int64) LogReader
	Head() int64
	// Load returns the saved position, found being false if there is none, and
	// the servers that have not caught up.
	Load(ctx context.Context) (pos int64, found bool, behind []storage.DestinationRow, err error)
	// Save makes rows durable, in their order or all at once.
	Save(ctx context.Context, rows []storage.Row) error
	// RoomServers returns who was in a room at a position or later.
	RoomServers(ctx context.Context, roomNID, since int64) ([]storage.ServerInterval, error)
	// Events returns events in the order of the ids, without those that are gone.
	Events(ctx context.Context, nids []int64) ([]storage.EventRow, error)
	// Unsent returns the latest events that the query finds, or of each room
	// the latest only; oldest first.
	Unsent(ctx context.Context, q storage.UnsentQuery, lastOfRooms bool) ([]storage.Unsent, error)
}

// LogReader returns the next entries of the log, waiting for them.
type LogReader interface {
	Next(ctx context.Context) ([]storage.LogEntry, error)
}

// SenderOptions configure a Sender. All but Permit and Log are needed.
type SenderOptions struct {
	Name      spec.ServerName
	Store     SenderStore
	Transport Transport
	// Permit tells whether this server deals with a peer; nil permits all.
	Permit func(spec.ServerName) bool
	Log    *slog.Logger
}

// The budget of a Sender. A server that is in order costs about 1 KiB while it
// has something to get, plus 24 bytes per event that waits; one in back-off less
// than 2 KiB and no goroutine; one with nothing to get costs nothing. Events in
// queues are those of the log's own cache.
const (
	// maxPDUs and maxEDUs bound a transaction.
	// Spec: server-server-api#transactions
	maxPDUs = 50
	maxEDUs = 100
	// maxTransactionBytes bounds the PDUs of a transaction of more than one:
	// many front ends refuse bodies over 1 MiB.
	maxTransactionBytes = 512 << 10
	// maxQueued bounds the events that wait in memory per server. Beyond that
	// they are read from the database when their turn comes.
	maxQueued = 200
	// maxCatchUp bounds the events that a server is sent after it was away: the
	// latest ones. Of rooms with none among those it gets the last event, from
	// which it can fetch the rest; maxCatchUpRooms bounds these.
	maxCatchUp      = 5000
	maxCatchUpRooms = 5000
	// maxSending and maxRetrying bound the transactions on their way at one time
	// to servers whose last one succeeded and to the others.
	maxSending  = 128
	maxRetrying = 32
	// saveInterval is how long a position may stay unsaved.
	saveInterval = 2 * time.Second
	// saveRows bounds the rows saved at once.
	saveRows = 400
	// backoffMin doubles with every failure in a row up to backoffMax.
	backoffMin = 2 * time.Second
	backoffMax = time.Hour
	// heardMin per failure in a row, at most heardMax, is the least time between
	// two attempts that requests of the server bring about: it may be able to
	// reach us though we cannot reach it.
	heardMin = 5 * time.Second
	heardMax = time.Minute
	// eduLifetime is how long EDUs are worth sending.
	eduLifetime = time.Minute
	// poisonAttempts is how often an event that a server calls malformed is
	// sent to it before it is left out.
	poisonAttempts = 5
	// storeRetry is the pause after a failed reading of the database.
	storeRetry = time.Second
)

// ours marks the log entries of events that this server has to send: it is the
// beginning of their text.
const ours = roomcore.LogOurs

// EDU is an ephemeral message.
type EDU struct {
	Type string
	// Content is a JSON object.
	Content []byte
	// Key names what the EDU speaks of; it takes the place of one with the same
	// type and key that still waits. Empty: it takes no one's place.
	Key string
}

// Sender delivers this server's events to the servers in their rooms. It follows
// the log and hands each event to the servers whose time in the room covers its
// position. A server that falls behind is not queued for: it has a position in
// the log, and what came after is read from the database when its turn comes.
// Delivery is at least once, in order of the log.
//
// One goroutine serves each server that has something to get and is not in
// back-off; it belongs to Run, as do all others. Safe for concurrent use.
type Sender struct {
	name      spec.ServerName
	store     SenderStore
	transport Transport
	permit    func(spec.ServerName) bool
	log       *slog.Logger
	rooms     roomServers // used by the distributing goroutine only
	sending   chan struct{}
	retrying  chan struct{}

	// mu guards what follows, and the destinations.
	mu           sync.Mutex
	destinations map[spec.ServerName]*destination
	pos          int64 // what lies at or before it in the log was distributed
	savedPos     int64
	// launch serves a destination in a goroutine of Run; nil when Run is not
	// running.
	launch func(*destination)
	// txnPrefix is new in each process, so that ids never come again.
	txnPrefix  string
	txnCounter int64
}

// NewSender makes a Sender that sends nothing before Run.
func NewSender(o SenderOptions) *Sender {
	if o.Permit == nil {
		o.Permit = func(spec.ServerName) bool { return true }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Sender{
		name: o.Name, store: o.Store, transport: o.Transport, permit: o.Permit, log: o.Log,
		rooms:        roomServers{store: o.Store},
		sending:      make(chan struct{}, maxSending),
		retrying:     make(chan struct{}, maxRetrying),
		destinations: make(map[spec.ServerName]*destination),
		txnPrefix:    strconv.FormatInt(time.Now().UnixMilli(), 36) + rand.Text()[:8] + ".",
	}
}

// Run sends until ctx ends, and then saves how far it has come. The error is
// that of the database; nil if only ctx ended.
func (s *Sender) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.load(ctx); err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	var routines sync.WaitGroup
	s.mu.Lock()
	s.launch = func(d *destination) { routines.Go(func() { s.serve(ctx, d) }) }
	for _, d := range s.destinations {
		s.scheduleLocked(d)
	}
	s.mu.Unlock()
	routines.Go(func() { s.saveOften(ctx) })

	s.distribute(ctx) // until ctx ends or the database is closed
	cancel()

	s.mu.Lock()
	s.launch = nil
	for _, d := range s.destinations {
		d.stopTimer()
	}
	s.mu.Unlock()
	routines.Wait()
	// The context has ended, but what was delivered shall be known.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancelLast()
	if err := s.save(last); err != nil && !errors.Is(err, storage.ErrClosed) {
		return fmt.Errorf("sender: %w", err)
	}
	return nil
}

// load takes up where the last process stopped. The very first one begins at the
// end of the log, and says so at once.
func (s *Sender) load(ctx context.Context) error {
	pos, found, behind, err := s.store.Load(ctx)
	if err != nil {
		return err
	}
	if !found {
		pos = s.store.Head()
		if err := s.store.Save(ctx, []storage.Row{&storage.SenderPosition{Pos: pos}}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pos, s.savedPos = pos, pos
	for _, row := range behind {
		d := &destination{name: row.Server, cursor: row.Cursor, behind: true, failures: row.Failures, saved: row, hasRow: true}
		if row.Retry > 0 {
			d.retryAt = time.UnixMilli(row.Retry)
		}
		s.destinations[row.Server] = d
	}
	return nil
}

// distribute hands the events of the log to destinations until ctx ends.
func (s *Sender) distribute(ctx context.Context) {
	s.mu.Lock()
	reader := s.store.Follow(s.pos)
	s.mu.Unlock()
	for {
		entries, err := reader.Next(ctx)
		if err == nil {
			err = s.again(ctx, func() error { return s.distributeEntries(ctx, entries) })
		}
		if ctx.Err() != nil || errors.Is(err, storage.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("the log cannot be read", "err", err)
			pause(ctx, storeRetry)
		}
	}
}

// again repeats fn until it succeeds or ctx ends. What was distributed already
// is passed over.
func (s *Sender) again(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil || ctx.Err() != nil || errors.Is(err, storage.ErrClosed) {
			return err
		}
		s.log.Error("events to send cannot be read", "err", err)
		pause(ctx, storeRetry)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *Sender) distributeEntries(ctx context.Context, entries []storage.LogEntry) error {
	s.rooms.notice(entries)
	events, err := s.loadEvents(ctx, entries)
	if err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if row := events[e.EventNID]; row != nil {
			if err := s.distributeEvent(ctx, e.Pos, row); err != nil {
				return err
			}
		}
		s.mu.Lock()
		s.pos = max(s.pos, e.Pos)
		s.mu.Unlock()
	}
	return nil
}

func toSend(e *storage.LogEntry) bool {
	return e.Kind == storage.LogEvent && strings.HasPrefix(e.Text, ours)
}

// loadEvents returns the events to be sent by nid, from memory where they are.
func (s *Sender) loadEvents(ctx context.Context, entries []storage.LogEntry) (map[int64]*storage.EventRow, error) {
	out := make(map[int64]*storage.EventRow)
	var missing []int64
	for i := range entries {
		e := &entries[i]
		switch {
		case !toSend(e):
		case e.Event != nil:
			out[e.EventNID] = e.Event
		default:
			missing = append(missing, e.EventNID)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	rows, err := s.store.Events(ctx, missing)
	for i := range rows {
		out[rows[i].NID] = &rows[i]
	}
	return out, err
}

func (s *Sender) distributeEvent(ctx context.Context, pos int64, row *storage.EventRow) error {
	servers, err := s.rooms.at(ctx, row.RoomNID, pos)
	if err != nil {
		return err
	}
	if name := shutOut(row.Event); name != "" && !slices.Contains(servers, name) {
		servers = append(servers, name)
	}
	sender := row.Event.Sender.Server()
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos <= s.pos {
		return nil // the entries were begun before, and failed
	}
	for _, name := range servers {
		// A join that was completed through us comes from a server that has it.
		if name != s.name && name != sender && s.permit(name) {
			s.enqueueLocked(name, item{pos: pos, nid: row.NID, event: row.Event})
		}
	}
	s.pos = pos // with the same lock: what a destination missed is never beyond it
	return nil
}

// Heard tells that a request of the server came in, so that it seems to be up:
// what waits for it is tried at once.
func (s *Sender) Heard(name spec.ServerName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destinations[name]
	if d == nil || d.failures == 0 || d.running {
		return
	}
	soon := d.lastTry.Add(min(time.Duration(d.failures)*heardMin, heardMax))
	if soon.Before(d.notBefore) {
		soon = d.notBefore
	}
	if soon.Before(d.retryAt) {
		d.retryAt = soon
		s.scheduleLocked(d)
	}
}

// SendEDU sends an ephemeral message to servers, with the next transaction that
// goes to each. Servers that cannot be reached do not get it.
func (s *Sender) SendEDU(names []spec.ServerName, edu EDU) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if name == s.name || !s.permit(name) {
			continue
		}
		if d := s.destinationLocked(name); d.failures == 0 || !time.Now().Before(d.retryAt) {
			d.addEDU(edu, time.Now())
			s.scheduleLocked(d)
		}
	}
}

// DestinationStatus tells an operator how a server is doing.
type DestinationStatus struct {
	Server spec.ServerName
	// Cursor is the log position up to which it has everything.
	Cursor int64
	// Failures counts failed attempts in a row; Retry is when the next one is,
	// zero if at once.
	Failures int
	Retry    time.Time
}

// Destinations lists the servers that have events to get, in no order.
func (s *Sender) Destinations() []DestinationStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]DestinationStatus, 0, len(s.destinations))
	for _, d := range s.destinations {
		if d.hasEvents() {
			out = append(out, DestinationStatus{Server: d.name, Cursor: d.floor(), Failures: d.failures, Retry: d.retryAt})
		}
	}
	return out
}

// saveOften saves positions until ctx ends.
func (s *Sender) saveOften(ctx context.Context) {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.save(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("the senders' positions cannot be saved", "err", err)
		}
	}
}

// save makes durable which servers are behind, and then how far all others have
// come. In that order, since a server without a row counts as having everything
// up to the position. Servers that are just being sent something hold the
// position back instead of being written.
func (s *Sender) save(ctx context.Context) error {
	rows, pos, moved := s.unsaved()
	for len(rows) > 0 || moved {
		part := rows[:min(saveRows, len(rows))]
		rows = rows[len(part):]
		units := make([]storage.Row, 0, len(part)+1)
		for i := range part {
			units = append(units, &part[i])
		}
		if len(rows) == 0 && moved {
			units = append(units, &storage.SenderPosition{Pos: pos})
			moved = false
		}
		if err := s.store.Save(ctx, units); err != nil {
			return err
		}
		s.noteSaved(part)
	}
	s.mu.Lock()
	s.savedPos = pos
	s.mu.Unlock()
	return nil
}

func (s *Sender) unsaved() (rows []storage.DestinationRow, pos int64, moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pos = s.pos
	for _, d := range s.destinations {
		switch {
		case d.needsRow(s.savedPos):
			if row := d.row(); !d.hasRow || row != d.saved {
				rows = append(rows, row)
			}
			continue
		case d.hasRow:
			rows = append(rows, storage.DestinationRow{Server: d.name, Done: true})
		}
		if d.hasEvents() {
			pos = min(pos, d.floor())
		}
	}
	pos = max(pos, s.savedPos)
	return rows, pos, pos != s.savedPos
}

// noteSaved remembers what the database holds, and forgets servers that need not
// be remembered.
func (s *Sender) noteSaved(rows []storage.DestinationRow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range rows {
		if d := s.destinations[row.Server]; d != nil {
			d.saved, d.hasRow = row, !row.Done
			s.retireLocked(d)
		}
	}
}

// nextTxnID is unique over the life of this server.
func (s *Sender) nextTxnIDLocked() string {
	s.txnCounter++
	return s.txnPrefix + strconv.FormatInt(s.txnCounter, 36)
}

// backoff returns how long to leave a server alone after n failures in a row,
// n ≥ 1: 2 s, doubling to 1 h, less up to a half by chance so that servers that
// failed together do not come back together. No spec rule.
func backoff(n int) time.Duration {
	full := backoffMax
	if n < 12 {
		full = min(full, backoffMin<<(n-1))
	}
	return full/2 + mathrand.N(full/2)
}

// roomServers remembers who is in rooms, so that a busy room costs no reading.
type roomServers struct {
	store SenderStore
	known map[int64][]storage.ServerInterval
	size  int // intervals in known
}

// maxKnownIntervals bounds roomServers; one interval takes about 60 bytes.
const maxKnownIntervals = 500_000

// notice forgets rooms whose servers may have changed.
func (r *roomServers) notice(entries []storage.LogEntry) {
	for i := range entries {
		e := &entries[i]
		changed := e.Kind == storage.LogState ||
			e.Kind == storage.LogEvent && (e.Event == nil || e.Event.Event.Type == "m.room.member")
		if changed {
			r.size -= len(r.known[e.RoomNID])
			delete(r.known, e.RoomNID)
		}
	}
}

// at returns the servers whose time in the room covers the position. Intervals
// carry positions, so it does no harm that they may be newer than the event.
func (r *roomServers) at(ctx context.Context, roomNID, pos int64) ([]spec.ServerName, error) {
	all, ok := r.known[roomNID]
	if !ok {
		var err error
		if all, err = r.store.RoomServers(ctx, roomNID, pos); err != nil {
			return nil, err
		}
		if r.size += len(all); r.known == nil || r.size > maxKnownIntervals {
			r.known, r.size = make(map[int64][]storage.ServerInterval), len(all)
		}
		r.known[roomNID] = all
	}
	var out []spec.ServerName
	for _, i := range all {
		if i.From <= pos && (i.Until == 0 || pos <= i.Until) {
			out = append(out, i.Server)
		}
	}
	return out, nil
}

var _ Transport = (*Client)(nil)

// isPoison tells whether the peer calls the transaction itself bad, as opposed
// to being unable or unwilling to take any. sure is false if the refusal may be
// that of a front end.
func isPoison(err error) (poison, sure bool) {
	answer, ok := server.RemoteAnswer(err)
	if !ok {
		return false, false
	}
	sure = answer.Code != spec.CodeUnknown
	return answer.Status == 413 || answer.Status == 400 && sure, sure
}
