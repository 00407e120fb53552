// Package demo runs three homeservers, us, eu and asia, in one process: each
// with its own data, keys, certificate and ports, speaking to the others as any
// two homeservers do. It lets people in them talk, cuts one region off, heals
// it, and checks that all three came to the same state.
//
// Everything is done through the public client-server API; only the comparison
// of the rooms' state roots asks the engines directly.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"atoll/spec"
)

const (
	// promptly bounds everything that needs no recovery.
	promptly = 20 * time.Second
	// recovery bounds the time until servers that had lost each other agree.
	recovery = time.Minute
	// allOfIt bounds a run that ends by itself.
	allOfIt = 110 * time.Second
)

// Options configure a run.
type Options struct {
	// Once ends the run after the checks; else the servers go on until the
	// context ends.
	Once bool
	// Out gets the transcript, Log what the three servers have to say.
	Out io.Writer
	Log *slog.Logger
	// Version is what the servers say of themselves.
	Version string
}

// Run carries out the demo. The error says what did not hold.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "atoll-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := &world{dir: dir, log: o.Log, version: o.Version, wire: newWire(), t: newTranscript(o.Out), texts: map[string]string{}}

	ctx, cancel := context.WithCancelCause(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel(nil)
	// What goes wrong in the background ends the story, with the reason.
	w.spawn = func(run func(context.Context) error) {
		background.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	story := ctx
	if o.Once {
		bounded, stop := context.WithTimeoutCause(ctx, allOfIt, fmt.Errorf("not done after %v", allOfIt))
		defer stop()
		story = bounded
	}
	if err := w.tell(story); err != nil {
		if cause := context.Cause(story); cause != nil && !errors.Is(err, cause) && !errors.Is(cause, context.Canceled) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		if errors.Is(context.Cause(story), context.Canceled) {
			return errors.New("interrupted")
		}
		return err
	}
	if o.Once {
		return nil
	}
	w.goOn()
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// world is the three regions, what lies between them, and what has happened.
type world struct {
	dir, version string
	log          *slog.Logger
	wire         *wire
	regions      []*region
	t            *transcript
	spawn        func(func(context.Context) error)

	room    string
	count   int               // messages sent, for transaction ids
	texts   map[string]string // event → what was said
	events  []string          // in the order in which they were sent
	delayed []string          // sent during the cut
	live    liveMode
}

// liveMode is on once the story has been told: then what others say is printed.
type liveMode struct {
	mu sync.Mutex // mu guards on
	on bool
}

func (l *liveMode) enable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.on = true
}

func (l *liveMode) enabled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.on
}

// tell is the story from beginning to end.
func (w *world) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{w.open, w.gather, w.talk, w.isolated, w.healed, w.agreed} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// open starts the three servers and registers a user on each.
func (w *world) open(ctx context.Context) error {
	fmt.Fprintf(w.t.out, "Three homeservers in one process, each with its own data, keys and certificate.\n\n")
	began := time.Now()
	if err := w.startRegions(ctx); err != nil {
		return err
	}
	for _, r := range w.regions {
		if err := r.user.register(ctx, r.person, r.password); err != nil {
			return fmt.Errorf("register %s in %s: %w", r.person, r.name, err)
		}
	}
	w.logins()
	w.t.heading("Started, and a user registered on each, in %s", duration(time.Since(began)))
	return nil
}

// logins prints where and as whom a client can log in.
func (w *world) logins() {
	for _, r := range w.regions {
		fmt.Fprintf(w.t.out, "  %-5s  %s   user %-12s password %s\n", r.name, r.user.base, r.user.user, r.password)
	}
}

// gather creates the group in the first region and joins it from the others.
func (w *world) gather(ctx context.Context) error {
	first, others := w.regions[0], w.regions[1:]
	var trusted []string
	for _, r := range others {
		trusted = append(trusted, r.user.user)
	}
	room, err := first.user.createGroup(ctx, "Three regions", trusted)
	if err != nil {
		return fmt.Errorf("create the group: %w", err)
	}
	w.room = room
	w.t.note(first.name, "%s creates the group %s", first.person, room)
	for _, r := range others {
		began := time.Now()
		if err := r.user.join(ctx, "#regions:"+first.name); err != nil {
			return fmt.Errorf("join from %s: %w", r.name, err)
		}
		w.t.note(r.name, "%s joins over federation   %s", r.person, duration(time.Since(began)))
	}
	for _, r := range w.regions {
		if err := w.watch(ctx, r); err != nil {
			return fmt.Errorf("sync in %s: %w", r.name, err)
		}
	}
	return nil
}

// talk sends messages from each region to all others.
func (w *world) talk(ctx context.Context) error {
	w.t.heading("Everybody talks. Behind each message: how long it took from sending to arriving.")
	for _, line := range []struct{ region, text string }{
		{"us", "Good morning from us"},
		{"eu", "Good afternoon from eu"},
		{"asia", "Good evening from asia"},
		{"us", "One group, three servers, nobody in the middle"},
		{"eu", "And each of us keeps all of it"},
		{"asia", "Then let us see what happens when I am gone"},
	} {
		if err := w.say(ctx, line.region, line.text, w.names()); err != nil {
			return err
		}
	}
	return nil
}

// isolated cuts asia off and lets both sides go on.
func (w *world) isolated(ctx context.Context) error {
	w.wire.isolate("asia")
	w.t.heading("asia is cut off from the other two. Both sides go on, and both change the topic.")
	before := len(w.events)
	for _, line := range []struct {
		region, text string
		topic        bool
		reaches      []string
	}{
		{"us", "Can you hear us, asia?", false, []string{"us", "eu"}},
		{"asia", "Nobody answers, so I go on alone", false, []string{"asia"}},
		{"eu", "We go on without asia for now", false, []string{"us", "eu"}},
		{"us", "Waiting for asia", true, []string{"us", "eu"}},
		{"asia", "Waiting for the world", true, []string{"asia"}},
		{"eu", "Nothing we say now may be lost", false, []string{"us", "eu"}},
	} {
		send := w.say
		if line.topic {
			send = w.setTopic
		}
		if err := send(ctx, line.region, line.text, line.reaches); err != nil {
			return err
		}
	}
	w.delayed = slices.Clone(w.events[before:])
	return nil
}

// healed connects asia again and waits until everybody has everything.
func (w *world) healed(ctx context.Context) error {
	w.wire.heal("asia")
	began := time.Now()
	w.t.heading("asia is back. What was said meanwhile finds its way:")
	open := w.delayed
	for len(open) > 0 {
		still, changed := w.t.missing(open, w.names())
		for _, event := range open {
			if !slices.Contains(still, event) {
				text, _ := w.t.delays(event, w.names())
				w.t.note(w.t.senderOf(event), "%-52s %s", w.texts[event], text)
			}
		}
		if open = still; len(open) == 0 {
			break
		}
		if err := waitFor(ctx, changed, time.Until(began.Add(recovery))); err != nil {
			return fmt.Errorf("%d of %d events had not reached every region %v after healing: %w", len(open), len(w.delayed), recovery, err)
		}
	}
	w.t.note("", "complete everywhere %s after healing", duration(time.Since(began)))
	return nil
}

// agreed checks that all regions hold the same state at the same extremities,
// before and after one more round of messages.
func (w *world) agreed(ctx context.Context) error {
	w.t.heading("Do all three hold the same room?")
	if err := w.compare(ctx); err != nil {
		return err
	}
	for _, name := range w.names() {
		if err := w.say(ctx, name, "All together again, says "+name, w.names()); err != nil {
			return err
		}
	}
	if err := w.compare(ctx); err != nil {
		return err
	}
	fmt.Fprintf(w.t.out, "\n  %s.\n  All three regions agree.\n", w.t.summary(w.delayed))
	return nil
}

// compare waits until the extremities of the room are the same in all regions,
// and then requires the same state root, and the same topic seen by clients.
func (w *world) compare(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, recovery)
	defer stop()
	for {
		views, err := w.views(ctx)
		if err != nil {
			return err
		}
		if slices.EqualFunc(views[1:], views[:len(views)-1], func(a, b view) bool { return slices.Equal(a.extremities, b.extremities) }) {
			return w.judge(views)
		}
		if err := waitFor(ctx, nil, 20*time.Millisecond); err != nil && ctx.Err() != nil {
			var lines []string
			for i, v := range views {
				lines = append(lines, fmt.Sprintf("%s: %v", w.regions[i].name, v.extremities))
			}
			return fmt.Errorf("the regions still stand at different extremities after %v: %s", recovery, strings.Join(lines, "; "))
		}
	}
}

// view is how one region sees the room.
type view struct {
	extremities []spec.EventID // sorted
	root        spec.Hash
	topic       string
}

func (w *world) views(ctx context.Context) ([]view, error) {
	views := make([]view, len(w.regions))
	group, ctx := errgroup.WithContext(ctx)
	for i, r := range w.regions {
		group.Go(func() error {
			extremities, root, err := r.node.Server().Rooms.RoomStateRoot(ctx, spec.RoomID(w.room))
			if err != nil {
				return fmt.Errorf("state root in %s: %w", r.name, err)
			}
			slices.Sort(extremities)
			topic, err := r.user.topic(ctx, w.room)
			views[i] = view{extremities, root, topic}
			return err
		})
	}
	return views, group.Wait()
}

func (w *world) judge(views []view) error {
	for i, v := range views {
		w.t.note(w.regions[i].name, "state root %s at %d extremities, topic %q", v.root, len(v.extremities), v.topic)
	}
	for i, v := range views[1:] {
		if v.root != views[0].root {
			return fmt.Errorf("%s and %s hold different states at the same extremities", w.regions[0].name, w.regions[i+1].name)
		}
		if v.topic != views[0].topic {
			return fmt.Errorf("%s and %s show different topics", w.regions[0].name, w.regions[i+1].name)
		}
	}
	return nil
}

// say sends a message from a region and waits until it has arrived in others.
func (w *world) say(ctx context.Context, from, text string, reaches []string) error {
	r := w.region(from)
	return w.post(ctx, r, r.person+": "+text, reaches, func(ctx context.Context) (string, error) {
		return r.user.say(ctx, w.room, fmt.Sprintf("demo-%d", w.count), text)
	})
}

// setTopic is say for a change of the room's topic.
func (w *world) setTopic(ctx context.Context, from, text string, reaches []string) error {
	r := w.region(from)
	return w.post(ctx, r, r.person+" changes the topic to "+text, reaches, func(ctx context.Context) (string, error) {
		return r.user.setTopic(ctx, w.room, text)
	})
}

func (w *world) post(ctx context.Context, r *region, line string, reaches []string, send func(context.Context) (string, error)) error {
	ctx, stop := context.WithTimeout(ctx, promptly)
	defer stop()
	w.count++
	began := time.Now()
	event, err := send(ctx)
	if err != nil {
		return fmt.Errorf("send from %s: %w", r.name, err)
	}
	w.t.dispatched(event, r.name, began)
	w.texts[event] = line
	w.events = append(w.events, event)
	for {
		open, changed := w.t.missing([]string{event}, reaches)
		if len(open) == 0 {
			break
		}
		if err := waitFor(ctx, changed, promptly); err != nil {
			text, _ := w.t.delays(event, w.names())
			return fmt.Errorf("%q of %s did not arrive everywhere within %v (%s): %w", line, r.name, promptly, text, err)
		}
	}
	text, _ := w.t.delays(event, w.names())
	w.t.note(r.name, "%-52s %s", line, text)
	return nil
}

// watch follows the room in a region from now on.
func (w *world) watch(ctx context.Context, r *region) error {
	_, since, err := r.user.sync(ctx, w.room, "", 0)
	if err != nil {
		return err
	}
	w.spawn(func(ctx context.Context) error {
		for {
			events, next, err := r.user.sync(ctx, w.room, since, 30*time.Second)
			now := time.Now()
			if err != nil {
				return fmt.Errorf("sync in %s: %w", r.name, err)
			}
			since = next
			for _, e := range events {
				if !w.t.arrived(e.ID, r.name, now) {
					return fmt.Errorf("%s came twice in %s", e.ID, r.name)
				}
				if w.live.enabled() {
					w.liveLine(r, e)
				}
			}
		}
	})
	return nil
}

// goOn turns to showing what others say in the group.
func (w *world) goOn() {
	fmt.Fprintf(w.t.out, "\nThe three go on. Log in with any Matrix client and join #regions:%s:\n\n", w.regions[0].name)
	w.logins()
	fmt.Fprintf(w.t.out, "\nInterrupt (Ctrl-C) ends them and removes their data.\n\n")
	w.live.enable()
}

// liveLine prints an event that came to a region.
func (w *world) liveLine(r *region, e event) {
	what := e.Type
	switch {
	case e.Content.Body != "":
		what = e.Content.Body
	case e.Type == "m.room.member" && e.State != nil:
		what = *e.State + ": " + e.Content.Membership
	}
	age := ""
	if !strings.HasSuffix(e.Sender, ":"+r.name) {
		age = "   " + duration(time.Since(time.UnixMilli(e.Timestamp)))
	}
	w.t.note(r.name, "%s: %s%s", e.Sender, what, age)
}

func (w *world) names() []string {
	var names []string
	for _, r := range w.regions {
		names = append(names, r.name)
	}
	return names
}

func (w *world) region(name string) *region {
	return w.regions[slices.IndexFunc(w.regions, func(r *region) bool { return r.name == name })]
}

// waitFor waits for a channel to close, at most for the given time.
func waitFor(ctx context.Context, changed <-chan struct{}, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
