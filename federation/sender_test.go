package federation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

// fakeLog is a SenderStore in memory. It outlives senders as a database does.
type fakeLog struct {
	mu        sync.Mutex
	entries   []storage.LogEntry // position p at p-1
	rows      map[int64]*storage.EventRow
	intervals []storage.ServerInterval
	grown     chan struct{}

	pos    int64
	found  bool
	behind map[spec.ServerName]storage.DestinationRow
	reads  int           // of Unsent
	slow   time.Duration // of Unsent
	fail   error
}

func newFakeLog() *fakeLog {
	return &fakeLog{rows: map[int64]*storage.EventRow{}, behind: map[spec.ServerName]storage.DestinationRow{}, grown: make(chan struct{})}
}

// append adds an entry and tells its position.
func (l *fakeLog) append(e storage.LogEntry) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Pos = int64(len(l.entries) + 1)
	l.entries = append(l.entries, e)
	close(l.grown)
	l.grown = make(chan struct{})
	return e.Pos
}

// send appends an event of ours in a room, in memory unless old.
func (l *fakeLog) send(room int64, body string, old bool) int64 {
	row := l.event(room, "@u:us.example", body)
	e := storage.LogEntry{Kind: storage.LogEvent, RoomNID: room, EventNID: row.NID, Text: "o"}
	if !old {
		e.Event = row
	}
	return l.append(e)
}

func (l *fakeLog) event(room int64, sender spec.UserID, body string) *storage.EventRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	nid := int64(len(l.rows) + 1000)
	ev := &spec.Event{ID: spec.EventID("$" + body), Sender: sender, Type: "m.room.message", JSON: []byte(`{"body":"` + body + `"}`)}
	l.rows[nid] = &storage.EventRow{NID: nid, RoomNID: room, Event: ev}
	return l.rows[nid]
}

// member tells the followers that the servers of a room may have changed.
func (l *fakeLog) changed(room int64) int64 {
	return l.append(storage.LogEntry{Kind: storage.LogState, RoomNID: room})
}

func (l *fakeLog) join(room int64, from int64, servers ...spec.ServerName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range servers {
		l.intervals = append(l.intervals, storage.ServerInterval{RoomNID: room, Server: s, From: from})
	}
}

func (l *fakeLog) leave(room int64, until int64, server spec.ServerName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.intervals {
		if v := &l.intervals[i]; v.RoomNID == room && v.Server == server && v.Until == 0 {
			v.Until = until
		}
	}
}

type fakeReader struct {
	log *fakeLog
	pos int64
}

func (l *fakeLog) Follow(from int64) LogReader { return &fakeReader{l, from} }

func (r *fakeReader) Next(ctx context.Context) ([]storage.LogEntry, error) {
	for {
		r.log.mu.Lock()
		entries := slices.Clone(r.log.entries[r.pos:])
		grown := r.log.grown
		r.log.mu.Unlock()
		if len(entries) > 0 {
			entries = entries[:min(len(entries), 100)]
			r.pos += int64(len(entries))
			return entries, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *fakeLog) Head() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.entries))
}

func (l *fakeLog) Load(context.Context) (int64, bool, []storage.DestinationRow, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rows []storage.DestinationRow
	for _, r := range l.behind {
		rows = append(rows, r)
	}
	return l.pos, l.found, rows, l.fail
}

func (l *fakeLog) Save(_ context.Context, rows []storage.Row) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	for _, row := range rows {
		switch r := row.(type) {
		case *storage.SenderPosition:
			l.pos, l.found = r.Pos, true
		case *storage.DestinationRow:
			if r.Done {
				delete(l.behind, r.Server)
			} else {
				l.behind[r.Server] = *r
			}
		}
	}
	return nil
}

func (l *fakeLog) RoomServers(_ context.Context, room, since int64) ([]storage.ServerInterval, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []storage.ServerInterval
	for _, i := range l.intervals {
		if i.RoomNID == room && (i.Until == 0 || i.Until >= since) {
			out = append(out, i)
		}
	}
	return out, l.fail
}

func (l *fakeLog) Events(_ context.Context, nids []int64) ([]storage.EventRow, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []storage.EventRow
	for _, nid := range nids {
		if row := l.rows[nid]; row != nil {
			out = append(out, *row)
		}
	}
	return out, l.fail
}

func (l *fakeLog) Unsent(_ context.Context, q storage.UnsentQuery, last bool) ([]storage.Unsent, error) {
	defer time.Sleep(l.slow)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	var out []storage.Unsent
	seen := map[int64]bool{}
	for p := q.UpTo; p > q.After && len(out) < q.Limit; p-- {
		e := l.entries[p-1]
		if !toSend(&e) || last && seen[e.RoomNID] {
			continue
		}
		for _, i := range l.intervals {
			if i.RoomNID == e.RoomNID && i.Server == q.Server && i.From <= p && (i.Until == 0 || p <= i.Until) {
				out = append(out, storage.Unsent{Pos: p, NID: e.EventNID, RoomNID: e.RoomNID})
				seen[e.RoomNID] = true
				break
			}
		}
	}
	slices.Reverse(out)
	return out, l.fail
}

// saved returns a copy of what senders saved.
func (l *fakeLog) saved() (int64, map[spec.ServerName]storage.DestinationRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pos, maps.Clone(l.behind)
}

// fakePeers is a Transport that records what each server took.
type fakePeers struct {
	mu       sync.Mutex
	calls    []fakeCall
	inFlight map[spec.ServerName]int
	// answer decides about a transaction; nil takes all.
	answer func(c fakeCall) error
}

type fakeCall struct {
	dest   spec.ServerName
	id     string
	body   string
	events []string
	edus   []string
	at     time.Time
	err    error
}

func (p *fakePeers) SendTransaction(ctx context.Context, dest spec.ServerName, id string, body []byte) (map[spec.EventID]string, error) {
	var txn struct {
		Origin string           `json:"origin"`
		TS     int64            `json:"origin_server_ts"`
		PDUs   []jsontext.Value `json:"pdus"`
		EDUs   []struct {
			Type    string         `json:"edu_type"`
			Content jsontext.Value `json:"content"`
		} `json:"edus"`
	}
	if err := json.Unmarshal(body, &txn, json.RejectUnknownMembers(true)); err != nil {
		panic(err)
	}
	c := fakeCall{dest: dest, id: id, body: string(body), at: time.Now()}
	for _, raw := range txn.PDUs {
		var pdu struct {
			Body string `json:"body"`
		}
		if err := json.Unmarshal(raw, &pdu); err != nil {
			panic(err)
		}
		c.events = append(c.events, pdu.Body)
	}
	for _, e := range txn.EDUs {
		c.edus = append(c.edus, e.Type+string(e.Content))
	}
	p.mu.Lock()
	if p.inFlight == nil {
		p.inFlight = map[spec.ServerName]int{}
	}
	if p.inFlight[dest]++; p.inFlight[dest] > 1 || len(c.events) > maxPDUs || len(c.edus) > maxEDUs || txn.Origin != "us.example" || txn.TS == 0 {
		panic(fmt.Sprintf("bad transaction: %+v", c))
	}
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		c.err = answer(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight[dest]--
	if ctx.Err() != nil {
		c.err = ctx.Err()
	}
	p.calls = append(p.calls, c)
	return nil, c.err
}

func (p *fakePeers) to(dest spec.ServerName) (calls []fakeCall) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c.dest == dest {
			calls = append(calls, c)
		}
	}
	return calls
}

// taken lists the events that a server took, in order.
func (p *fakePeers) taken(dest spec.ServerName) string {
	var out []string
	for _, c := range p.to(dest) {
		if c.err == nil {
			out = append(out, c.events...)
		}
	}
	return strings.Join(out, " ")
}

func (p *fakePeers) set(answer func(fakeCall) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

var errDown = &server.RemoteError{Server: "down", Cause: errors.New("down")}

func down(dests ...spec.ServerName) func(fakeCall) error {
	return func(c fakeCall) error {
		if slices.Contains(dests, c.dest) {
			return errDown
		}
		return nil
	}
}

// running runs a sender until stop is called.
func running(t *testing.T, l *fakeLog, p *fakePeers) (s *Sender, stop func()) {
	t.Helper()
	s = NewSender(SenderOptions{Name: "us.example", Store: l, Transport: p})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	synctest.Wait()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func expect(t *testing.T, p *fakePeers, dest spec.ServerName, want string) {
	t.Helper()
	if got := p.taken(dest); got != want {
		t.Errorf("%s took %q instead of %q", dest, got, want)
	}
}

func TestSenderFansOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		_, stop := running(t, l, p)
		l.join(1, 1, "us.example", "a.example", "b.example")
		l.join(2, 1, "b.example", "c.example")
		l.send(1, "one", false)
		l.append(storage.LogEntry{Kind: storage.LogEvent, RoomNID: 1, EventNID: l.event(1, "@x:a.example", "theirs").NID})
		l.append(storage.LogEntry{Kind: storage.LogAccountData, User: "@u:us.example"})
		relayed := l.event(2, "@x:c.example", "relayed")
		l.append(storage.LogEntry{Kind: storage.LogEvent, RoomNID: 2, EventNID: relayed.NID, Event: relayed, Text: "og"})
		l.send(2, "two", true)
		left := l.send(1, "last", true)
		l.leave(1, left, "a.example")
		l.changed(1)
		l.send(1, "after", false)
		synctest.Wait()
		expect(t, p, "a.example", "one last") // 13-039
		expect(t, p, "b.example", "one relayed two last after")
		expect(t, p, "c.example", "two") // 13-040, but not back to where it is from
		expect(t, p, "us.example", "")
		stop()
		if l.pos != l.Head() || len(l.behind) != 0 {
			t.Errorf("saved %d of %d, %v", l.pos, l.Head(), l.behind)
		}
	})
}

func TestSenderTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "a.example")
		release := make(chan struct{})
		p.set(func(c fakeCall) error { <-release; return nil })
		_, stop := running(t, l, p)
		var want []string
		for i := range 120 {
			want = append(want, fmt.Sprint("e", i))
			l.send(1, want[i], false)
			synctest.Wait()
		}
		close(release)
		synctest.Wait()
		expect(t, p, "a.example", strings.Join(want, " "))
		calls := p.to("a.example")
		if len(calls) != 4 || len(calls[0].events) != 1 || len(calls[1].events) != 50 || len(calls[3].events) != 19 {
			t.Errorf("%d transactions", len(calls))
		}
		ids := map[string]bool{}
		for _, c := range calls {
			ids[c.id] = true
		}
		if len(ids) != len(calls) {
			t.Error("ids came again")
		}
		stop()
	})
}

func TestSenderRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "a.example", "b.example")
		p.set(down("a.example"))
		s, stop := running(t, l, p)
		l.send(1, "one", false)
		synctest.Wait()
		l.send(1, "two", false)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		calls := p.to("a.example")
		for i := 1; i < len(calls); i++ {
			gap, full := calls[i].at.Sub(calls[i-1].at), min(backoffMax, backoffMin<<min(i-1, 20))
			if gap < full/2 || gap > full {
				t.Errorf("%s between attempts %d and %d", gap, i-1, i)
			}
			if calls[i].id != calls[0].id || calls[i].body != calls[0].body {
				t.Error("13-036 another id or body")
			}
		}
		if len(calls) < 30 || len(calls) > 70 {
			t.Errorf("%d attempts in a day", len(calls))
		}
		expect(t, p, "b.example", "one two")
		if row := l.behind["a.example"]; row.Cursor != 0 || row.Failures != len(calls) || row.Retry <= time.Now().UnixMilli() {
			t.Errorf("saved %+v", row)
		}
		if l.pos != 2 {
			t.Errorf("one server holds all back: %d", l.pos)
		}
		// 13-038: a server that is heard from is tried at once.
		before := len(p.to("a.example"))
		p.set(nil)
		time.Sleep(time.Minute)
		s.Heard("a.example")
		s.Heard("stranger.example")
		synctest.Wait()
		if got := len(p.to("a.example")); got != before+2 {
			t.Errorf("%d transactions", got-before)
		}
		expect(t, p, "a.example", "one two") // 13-037
		if len(s.Destinations()) != 0 {
			t.Errorf("left %v", s.Destinations())
		}
		time.Sleep(2 * saveInterval)
		synctest.Wait()
		if len(l.behind) != 0 {
			t.Errorf("saved %v", l.behind)
		}
		s.mu.Lock()
		if n := len(s.destinations); n != 0 {
			t.Errorf("%d servers remembered", n)
		}
		s.mu.Unlock()
		stop()
	})
}

func TestSenderHeardIsNoHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "a.example", "busy.example")
		p.set(func(c fakeCall) error {
			if c.dest == "busy.example" {
				return &server.RemoteError{Server: c.dest, Answer: &spec.Error{Code: spec.CodeLimitExceeded, Status: 429}, RetryAfter: 10 * time.Minute}
			}
			return errDown
		})
		s, stop := running(t, l, p)
		l.send(1, "one", false)
		for range 1000 {
			time.Sleep(time.Second)
			s.Heard("a.example")
			s.Heard("busy.example")
		}
		if n := len(p.to("a.example")); n < 15 || n > 35 {
			t.Errorf("%d attempts in 1000 s", n)
		}
		if n := len(p.to("busy.example")); n != 2 {
			t.Errorf("%d attempts although it asked for 10 minutes", n)
		}
		stop()
	})
}

func TestSenderFallsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "slow.example")
		release := make(chan struct{})
		p.set(func(c fakeCall) error { <-release; return nil })
		s, stop := running(t, l, p)
		var want []string
		for i := range 3*maxQueued + 7 {
			want = append(want, fmt.Sprint("e", i))
			l.send(1, want[i], false)
		}
		synctest.Wait()
		s.mu.Lock()
		if d := s.destinations["slow.example"]; !d.behind && len(d.queue) > maxQueued {
			t.Errorf("%d events queued", len(d.queue))
		}
		s.mu.Unlock()
		close(release)
		synctest.Wait()
		expect(t, p, "slow.example", strings.Join(want, " "))
		reads := l.reads
		l.send(1, "x", false)
		synctest.Wait()
		if reads > 3 || l.reads != reads {
			t.Errorf("%d and then %d readings", reads, l.reads)
		}
		stop()
	})
}

func TestSenderCatchUpBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		for room := range int64(5) {
			l.join(room+1, 1, "a.example")
		}
		p.set(down("a.example"))
		s, stop := running(t, l, p)
		for room := range int64(4) {
			l.send(room+1, fmt.Sprint("old", room), true)
			l.send(room+1, fmt.Sprint("lastof", room), true)
		}
		for i := range maxCatchUp {
			l.send(5, fmt.Sprint("n", i), true)
		}
		l.send(4, "more", true)
		time.Sleep(time.Minute)
		p.set(nil)
		s.Heard("a.example")
		time.Sleep(time.Hour)
		got := strings.Fields(p.taken("a.example"))
		// The transaction that failed first is sent as it was, then the last
		// events of silent rooms, then the latest.
		rest := got[len(got)-maxCatchUp:]
		if rest[0] != "n1" || rest[maxCatchUp-1] != "more" {
			t.Errorf("%s … %s", rest[0], rest[maxCatchUp-1])
		}
		for room := range 3 {
			if !slices.Contains(got, fmt.Sprint("lastof", room)) {
				t.Errorf("13-037 nothing of room %d", room)
			}
		}
		if len(got) > maxCatchUp+maxPDUs+3 {
			t.Errorf("%d events", len(got))
		}
		stop()
	})
}

func TestSenderRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "a.example", "b.example", "c.example")
		block := make(chan struct{})
		p.set(func(c fakeCall) error {
			switch c.dest {
			case "a.example":
				return errDown
			case "b.example":
				<-block
			}
			return nil
		})
		l.send(1, "before", true) // the first start begins at the end
		s, stop := running(t, l, p)
		l.send(1, "one", false)
		l.send(1, "two", false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if l.pos != 1 || l.behind["a.example"].Cursor != 1 {
			t.Errorf("saved %d, %v", l.pos, l.behind)
		}
		if n := len(s.Destinations()); n != 2 {
			t.Errorf("%d servers have something to get", n)
		}
		// The process dies: what it wrote stays, what is under way is lost.
		saved, behind := l.saved()
		go func() { time.Sleep(time.Millisecond); close(block) }()
		stop()
		l.pos, l.behind = saved, behind
		first := p.to("c.example")[0].id

		p = &fakePeers{}
		l.send(1, "three", true)
		_, stop = running(t, l, p)
		time.Sleep(2 * time.Hour)
		expect(t, p, "a.example", "one two three")
		expect(t, p, "b.example", "one two three")
		expect(t, p, "c.example", "one two three") // twice rather than never
		if p.to("c.example")[0].id == first {
			t.Error("an id came again")
		}
		stop()
		if l.pos != 4 || len(l.behind) != 0 {
			t.Errorf("saved %d, %v", l.pos, l.behind)
		}
		p = &fakePeers{}
		_, stop = running(t, l, p)
		time.Sleep(time.Hour)
		if len(p.calls) != 0 {
			t.Errorf("sent without need: %v", p.calls)
		}
		stop()
	})
}

func TestSenderPoison(t *testing.T) {
	refuse := func(status int, code spec.Code) func(fakeCall) error {
		return func(c fakeCall) error {
			if slices.Contains(c.events, "bad") {
				return &server.RemoteError{Server: c.dest, Answer: &spec.Error{Code: code, Status: status}}
			}
			return nil
		}
	}
	run := func(t *testing.T, answer func(fakeCall) error, after time.Duration) *fakePeers {
		p := &fakePeers{}
		synctest.Test(t, func(t *testing.T) {
			l := newFakeLog()
			l.join(1, 1, "a.example")
			p.set(down("a.example"))
			_, stop := running(t, l, p)
			for i := range 30 {
				l.send(1, fmt.Sprint("e", i), false)
				if i == 17 {
					l.send(1, "bad", false)
				}
			}
			synctest.Wait()
			p.set(answer)
			time.Sleep(after)
			stop()
		})
		return p
	}
	var all []string
	for i := range 30 {
		all = append(all, fmt.Sprint("e", i))
	}
	t.Run("an event that a server calls malformed is left out, no other", func(t *testing.T) {
		p := run(t, refuse(400, spec.CodeBadJSON), 24*time.Hour)
		expect(t, p, "a.example", strings.Join(all, " "))
	})
	t.Run("the refusal of a front end loses nothing", func(t *testing.T) {
		p := run(t, refuse(413, spec.CodeUnknown), 24*time.Hour)
		expect(t, p, "a.example", strings.Join(all[:18], " "))
	})
	t.Run("400 without a code is a failure like others", func(t *testing.T) {
		p := run(t, refuse(400, spec.CodeUnknown), 24*time.Hour)
		if got := p.taken("a.example"); strings.Contains(got, "e18") {
			t.Errorf("took %s", got)
		}
	})
}

func TestSenderEDUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "a.example", "down.example")
		release := make(chan struct{})
		p.set(func(c fakeCall) error {
			if c.dest == "down.example" {
				return errDown
			}
			<-release
			return nil
		})
		s, stop := running(t, l, p)
		both := []spec.ServerName{"a.example", "us.example"}
		typing := func(key, content string) { s.SendEDU(both, EDU{"m.typing", []byte(content), key}) }
		typing("r1", `{"n":1}`)
		synctest.Wait()
		typing("r1", `{"n":2}`)
		typing("r2", `{"n":3}`)
		typing("r1", `{"n":4}`)
		l.send(1, "one", false)
		synctest.Wait()
		for range 2 {
			release <- struct{}{}
			synctest.Wait()
		}
		calls := p.to("a.example")
		if len(calls) != 2 || calls[0].edus[0] != `m.typing{"n":1}` || !slices.Equal(calls[1].edus, []string{`m.typing{"n":3}`, `m.typing{"n":4}`}) || len(calls[1].events) != 1 {
			t.Errorf("got %+v", calls)
		}
		for i := range 250 {
			s.SendEDU(both, EDU{Type: "m.x", Content: []byte(fmt.Sprint(`{"n":`, i, `}`))})
			if i == 0 {
				synctest.Wait()
			}
		}
		close(release)
		synctest.Wait()
		calls = p.to("a.example")
		if last := calls[len(calls)-1]; len(last.edus) != maxEDUs || last.edus[maxEDUs-1] != `m.x{"n":249}` {
			t.Errorf("got %d EDUs", len(last.edus))
		}
		before := len(p.to("down.example"))
		for range 60 {
			s.SendEDU([]spec.ServerName{"down.example"}, EDU{"m.typing", []byte(`{}`), "r1"})
			time.Sleep(time.Second)
		}
		if n := len(p.to("down.example")) - before; n > 10 {
			t.Errorf("%d attempts for the sake of EDUs", n)
		}
		p.set(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		for _, c := range p.to("down.example") {
			if c.err == nil && len(c.edus) != 0 {
				t.Errorf("stale EDUs: %+v", c)
			}
		}
		expect(t, p, "down.example", "one")
		if l.behind["down.example"].Failures != 0 {
			t.Errorf("saved %v", l.behind)
		}
		stop()
	})
}

func TestSenderSurvivesTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &fakePeers{}
		l.join(1, 1, "a.example")
		_, stop := running(t, l, p)
		setFail := func(err error) { l.mu.Lock(); defer l.mu.Unlock(); l.fail = err }
		setFail(errors.New("disk"))
		l.send(1, "one", true)
		l.send(1, "two", true)
		time.Sleep(time.Minute)
		setFail(nil)
		time.Sleep(time.Minute)
		expect(t, p, "a.example", "one two")
		stop()
	})
}

// Whatever fails, dies and starts again, every server gets every event of its
// rooms, and for the first time in order.
func TestSenderLosesNothing(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { loseNothing(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func loseNothing(t *testing.T, rng *rand.Rand) {
	l := newFakeLog()
	l.slow = 50 * time.Millisecond
	servers := []spec.ServerName{"a.example", "b.example", "c.example", "d.example"}
	var mu sync.Mutex // guards rng
	number := func(n int) int { mu.Lock(); defer mu.Unlock(); return rng.IntN(n) }
	chance := func(n int) bool { return number(n) == 0 }
	var all []*fakePeers
	in := map[int64]map[spec.ServerName]bool{1: {}, 2: {}}
	want := map[spec.ServerName][]string{}
	for round := range 4 {
		p := &fakePeers{}
		all = append(all, p)
		bad := servers[round%len(servers)]
		p.set(func(c fakeCall) error {
			time.Sleep(10 * time.Millisecond)
			if c.dest == bad && chance(2) || chance(20) {
				return errDown
			}
			return nil
		})
		s, stop := running(t, l, p)
		for i := range 150 + number(400) {
			room := int64(1 + number(2))
			if chance(25) {
				name := servers[number(len(servers))]
				if pos := l.changed(room); in[room][name] {
					l.leave(room, pos, name)
				} else {
					l.join(room, pos+1, name)
				}
				in[room][name] = !in[room][name]
				synctest.Wait()
				l.changed(room)
			}
			body := fmt.Sprintf("%d-%d", round, i)
			l.send(room, body, chance(2))
			for name, there := range in[room] {
				if there {
					want[name] = append(want[name], body)
				}
			}
			if chance(3) {
				time.Sleep(10 * time.Millisecond)
			}
			if chance(10) {
				s.Heard(bad)
				time.Sleep(time.Duration(number(3000)) * time.Millisecond)
			}
		}
		if round == 3 {
			p.set(nil)
			time.Sleep(3 * time.Hour)
		}
		if chance(2) {
			stop()
			continue
		}
		// It dies: nothing is saved at the end.
		pos, behind := l.saved()
		stop()
		l.pos, l.behind = pos, behind
	}
	for name, events := range want {
		var got []string
		seen := map[string]bool{}
		for _, p := range all {
			for _, e := range strings.Fields(p.taken(name)) {
				if !seen[e] {
					got = append(got, e)
				}
				seen[e] = true
			}
		}
		if !slices.Equal(got, events) {
			t.Errorf("%s got %d events instead of %d, or in another order", name, len(got), len(events))
		}
	}
}
