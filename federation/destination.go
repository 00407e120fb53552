package federation

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

// item is an event on its way to a server. The event is nil if it has to be read
// again.
type item struct {
	pos, nid int64
	event    *spec.Event
}

// transaction is what is sent at once. It is sent again with the same id and
// content until the server takes it.
type transaction struct {
	id    string
	made  time.Time
	items []item
	edus  []EDU
}

// destination is what is known of a server that has something to get. Guarded by
// Sender.mu.
type destination struct {
	name spec.ServerName
	// cursor is the position up to which the server has everything.
	cursor int64
	// txn is the transaction that the server has not taken yet, nil if none.
	// After it come plan, then queue.
	txn *transaction
	// plan holds events that were read from the database.
	plan []item
	// queue holds events as the log announced them; empty while behind.
	queue []item
	// behind: what comes after plan was not queued but has to be read from the
	// database, up to missed at least.
	behind bool
	missed int64

	edus    []EDU
	eduTime time.Time // when the first of them came

	failures  int
	retryAt   time.Time
	notBefore time.Time // up to when the server asked to be left alone
	lastTry   time.Time
	running   bool // a goroutine serves it
	timer     *time.Timer

	saved  storage.DestinationRow // what the database holds, if hasRow
	hasRow bool
}

// pending tells whether anything waits, hasEvents whether events do.
func (d *destination) pending() bool {
	return d.hasEvents() || d.txn != nil || len(d.edus) > 0
}

func (d *destination) hasEvents() bool {
	return len(d.unacknowledged()) > 0 || len(d.plan) > 0 || len(d.queue) > 0 || d.behind
}

// unacknowledged are the events of the transaction that was not taken yet.
func (d *destination) unacknowledged() []item {
	if d.txn == nil {
		return nil
	}
	return d.txn.items
}

// floor is the position before the first event that waits, if hasEvents.
func (d *destination) floor() int64 {
	for _, waiting := range [][]item{d.unacknowledged(), d.plan, d.queue} {
		if len(waiting) > 0 {
			return waiting[0].pos - 1
		}
	}
	return d.cursor
}

// needsRow tells whether the database must know of this server on its own, since
// it lacks events that the common position is past or shall not wait for. A
// server that is served without trouble needs no row.
func (d *destination) needsRow(savedPos int64) bool {
	return d.hasEvents() && (d.behind || d.failures > 0 || d.floor() < savedPos)
}

func (d *destination) row() storage.DestinationRow {
	row := storage.DestinationRow{Server: d.name, Cursor: d.floor(), Failures: d.failures}
	if !d.retryAt.IsZero() {
		row.Retry = d.retryAt.UnixMilli()
	}
	return row
}

func (d *destination) stopTimer() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *destination) addEDU(edu EDU, now time.Time) {
	if edu.Key != "" {
		d.edus = slices.DeleteFunc(d.edus, func(e EDU) bool { return e.Type == edu.Type && e.Key == edu.Key })
	}
	if len(d.edus) == 0 {
		d.eduTime = now
	}
	if len(d.edus) == maxEDUs {
		d.edus = d.edus[1:]
	}
	d.edus = append(d.edus, edu)
}

func (s *Sender) destinationLocked(name spec.ServerName) *destination {
	d := s.destinations[name]
	if d == nil {
		d = &destination{name: name, cursor: s.pos}
		s.destinations[name] = d
	}
	return d
}

// retireLocked forgets a server of which nothing needs to be known. Failures are
// remembered.
func (s *Sender) retireLocked(d *destination) {
	if !d.pending() && !d.running && !d.hasRow && d.failures == 0 {
		d.stopTimer()
		delete(s.destinations, d.name)
	}
}

// enqueueLocked gives a server an event to get. Only servers that are in order
// have a queue, and a short one.
func (s *Sender) enqueueLocked(name spec.ServerName, i item) {
	d := s.destinationLocked(name)
	if i.pos <= d.cursor {
		return // delivered before a restart
	}
	if !d.hasEvents() {
		d.cursor = i.pos - 1
	}
	switch {
	case d.behind:
		d.missed = i.pos
	case d.failures > 0 || len(d.queue) >= maxQueued:
		d.fallBehind(i.pos)
	default:
		d.queue = append(d.queue, i)
	}
	s.scheduleLocked(d)
}

// fallBehind gives up the queue for reading the database later.
func (d *destination) fallBehind(missed int64) {
	d.queue, d.behind, d.missed = nil, true, missed
}

// scheduleLocked sees to it that a server with something to get is served: at
// once, or when its back-off ends.
func (s *Sender) scheduleLocked(d *destination) {
	if s.launch == nil || d.running || !d.pending() {
		return
	}
	d.stopTimer()
	if wait := time.Until(d.retryAt); d.failures > 0 && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.scheduleLocked(d)
		})
		return
	}
	d.running = true
	s.launch(d)
}

// serve sends what waits for a server until nothing does or an attempt fails.
func (s *Sender) serve(ctx context.Context, d *destination) {
	for ctx.Err() == nil {
		var body []byte
		txn, err := s.nextTransaction(ctx, d)
		if err == nil && txn == nil {
			return
		}
		if err == nil {
			body, err = s.body(ctx, txn)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("events to send cannot be read", "server", d.name, "err", err)
				pause(ctx, storeRetry)
			}
			continue
		}
		err = s.attempt(ctx, d, txn, body)
		if err != nil && ctx.Err() != nil {
			break // not the server's fault
		}
		if !s.finish(d, txn, err) {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.running = false
}

// attempt sends the transaction once.
func (s *Sender) attempt(ctx context.Context, d *destination, txn *transaction, body []byte) error {
	s.mu.Lock()
	slots := s.sending
	if d.failures > 0 {
		slots = s.retrying
	}
	s.mu.Unlock()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	d.lastTry = time.Now()
	s.mu.Unlock()
	refused, err := s.transport.SendTransaction(ctx, d.name, txn.id, body)
	for id, reason := range refused {
		s.log.Info("a server refused an event", "server", d.name, "event", id, "reason", reason)
	}
	return err
}

// nextTransaction returns what is to be sent next; nil if nothing is, and the
// destination is then no longer served.
func (s *Sender) nextTransaction(ctx context.Context, d *destination) (*transaction, error) {
	for {
		s.mu.Lock()
		if d.txn == nil && d.behind && len(d.plan) == 0 {
			after, upTo := d.cursor, s.pos
			s.mu.Unlock()
			if err := s.plan(ctx, d, after, upTo); err != nil {
				return nil, err
			}
			continue
		}
		txn := s.takeLocked(d)
		if txn == nil {
			d.running = false
			s.retireLocked(d)
		}
		s.mu.Unlock()
		return txn, nil
	}
}

// plan reads from the database what a server has to get between two positions,
// within the bounds of catching up. Nothing else of the server waits.
func (s *Sender) plan(ctx context.Context, d *destination, after, upTo int64) error {
	var found []storage.Unsent
	if upTo > after {
		q := storage.UnsentQuery{Server: d.name, Mark: ours, After: after, UpTo: upTo, Limit: maxCatchUp}
		var err error
		if found, err = s.store.Unsent(ctx, q, false); err != nil {
			return err
		}
		if len(found) == maxCatchUp {
			q.UpTo, q.Limit = found[0].Pos-1, maxCatchUpRooms
			older, err := s.store.Unsent(ctx, q, true)
			if err != nil {
				return err
			}
			found = append(lastOfOtherRooms(older, found), found...)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range found {
		d.plan = append(d.plan, item{pos: u.Pos, nid: u.NID})
	}
	if len(d.plan) == 0 {
		d.cursor = max(d.cursor, upTo)
	}
	// When nothing came in the meantime, what comes now is queued again.
	d.behind = d.missed > upTo
	return nil
}

// lastOfOtherRooms keeps the events of rooms that newer does not have.
func lastOfOtherRooms(older, newer []storage.Unsent) []storage.Unsent {
	seen := make(map[int64]bool)
	for _, u := range newer {
		seen[u.RoomNID] = true
	}
	return slices.DeleteFunc(older, func(u storage.Unsent) bool { return seen[u.RoomNID] })
}

// takeLocked makes the next transaction, or returns the one that was not taken.
func (s *Sender) takeLocked(d *destination) *transaction {
	now := time.Now()
	if d.txn != nil {
		if len(d.txn.edus) > 0 && now.Sub(d.txn.made) > eduLifetime {
			// With other content it is another transaction.
			d.txn.edus, d.txn.id = nil, s.nextTxnIDLocked()
		}
		if len(d.txn.items) > 0 || len(d.txn.edus) > 0 {
			return d.txn
		}
		d.txn = nil
	}
	txn := &transaction{made: now}
	from := &d.plan
	if len(d.plan) == 0 {
		from = &d.queue
	}
	n := fitting(*from)
	txn.items = slices.Clone((*from)[:n])
	if *from = (*from)[n:]; len(*from) == 0 {
		*from = nil
	}
	if now.Sub(d.eduTime) <= eduLifetime {
		txn.edus = d.edus
	}
	d.edus = nil
	if len(txn.items) == 0 && len(txn.edus) == 0 {
		return nil
	}
	txn.id = s.nextTxnIDLocked()
	d.txn = txn
	return txn
}

// fitting tells how many of the items go into one transaction. The size of
// events that are not in memory counts when the body is made.
func fitting(items []item) int {
	size := 0
	for n, i := range items {
		if n == maxPDUs {
			return n
		}
		if i.event != nil {
			if size += i.event.Size(); size > maxTransactionBytes && n > 0 {
				return n
			}
		}
	}
	return len(items)
}

// finish records the outcome of an attempt and tells whether to go on.
func (s *Sender) finish(d *destination, txn *transaction, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.deliveredLocked(d, txn)
		return true
	}
	if poison, sure := isPoison(err); poison {
		switch {
		case len(txn.items) > 1:
			s.splitLocked(d, txn)
			return true
		case sure && d.failures >= poisonAttempts:
			s.log.Warn("a server does not take an event, it is left out", "server", d.name, "nids", nids(txn.items), "err", err)
			s.deliveredLocked(d, txn)
			return true
		}
	}
	d.failures++
	now, wait := time.Now(), backoff(d.failures)
	var remote *server.RemoteError
	if errors.As(err, &remote) && remote.RetryAfter > 0 {
		asked := min(remote.RetryAfter, backoffMax)
		d.notBefore, wait = now.Add(asked), max(wait, asked)
	}
	d.retryAt = now.Add(wait)
	for i := range txn.items {
		txn.items[i].event = nil // read again, not held for an hour
	}
	if len(d.queue) > 0 {
		d.fallBehind(d.queue[len(d.queue)-1].pos)
	}
	d.edus = nil
	d.running = false
	if d.failures == 1 {
		s.log.Info("a server cannot be sent to", "server", d.name, "err", err)
	} else {
		s.log.Debug("a server cannot be sent to", "server", d.name, "failures", d.failures, "err", err)
	}
	s.scheduleLocked(d)
	return false
}

func (s *Sender) deliveredLocked(d *destination, txn *transaction) {
	if d.failures > 0 {
		s.log.Info("a server can be sent to again", "server", d.name, "failures", d.failures)
	}
	if n := len(txn.items); n > 0 {
		d.cursor = max(d.cursor, txn.items[n-1].pos)
	}
	d.txn, d.failures, d.retryAt = nil, 0, time.Time{}
}

// splitLocked goes on with half of a transaction, to find the event that the
// server does not take.
func (s *Sender) splitLocked(d *destination, txn *transaction) {
	half := len(txn.items) / 2
	d.plan = append(slices.Clone(txn.items[half:]), d.plan...)
	d.txn = &transaction{id: s.nextTxnIDLocked(), made: time.Now(), items: txn.items[:half]}
}

func nids(items []item) []int64 {
	out := make([]int64, len(items))
	for i := range items {
		out[i] = items[i].nid
	}
	return out
}

// body writes the transaction, and reads those of its events that are not at
// hand. Events that are gone are left out.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
func (s *Sender) body(ctx context.Context, txn *transaction) ([]byte, error) {
	var missing []int64
	for _, i := range txn.items {
		if i.event == nil {
			missing = append(missing, i.nid)
		}
	}
	read := make(map[int64]*spec.Event, len(missing))
	if len(missing) > 0 {
		rows, err := s.store.Events(ctx, missing)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			read[rows[i].NID] = rows[i].Event
		}
	}
	b := append([]byte(`{"origin":`), strconv.Quote(string(s.name))...)
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, txn.made.UnixMilli(), 10)
	b = append(b, `,"pdus":[`...)
	first := true
	for _, i := range txn.items {
		event := i.event
		if event == nil {
			event = read[i.nid]
		}
		if event == nil {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = event.AppendFederation(b, 0)
	}
	b = append(b, ']')
	if len(txn.edus) > 0 {
		b = appendEDUs(append(b, `,"edus":`...), txn.edus)
	}
	return append(b, '}'), nil
}

func appendEDUs(b []byte, edus []EDU) []byte {
	b = append(b, '[')
	for i, e := range edus {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"edu_type":`...)
		b = append(b, strconv.Quote(e.Type)...)
		b = append(b, `,"content":`...)
		b = append(append(b, e.Content...), '}')
	}
	return append(b, ']')
}
