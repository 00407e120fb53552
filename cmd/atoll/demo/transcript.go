package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// transcript prints what happens as it happens, and knows how long each message
// took to each region. It is safe for concurrent use.
type transcript struct {
	out   io.Writer
	start time.Time

	mu      sync.Mutex // mu guards what follows
	sent    map[string]delivery
	seen    map[string]map[string]time.Time // event → region → when
	changed chan struct{}                   // closed and replaced when seen grows
}

// delivery is a message that a region has sent.
type delivery struct {
	from string
	at   time.Time // when the sender began to send it
}

func newTranscript(out io.Writer) *transcript {
	return &transcript{out: out, start: time.Now(), sent: map[string]delivery{}, seen: map[string]map[string]time.Time{}, changed: make(chan struct{})}
}

// note prints one line with the time since the start.
func (t *transcript) note(region, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noteLocked(region, fmt.Sprintf(format, args...))
}

func (t *transcript) noteLocked(region, text string) {
	fmt.Fprintf(t.out, "%8.3f  %-5s %s\n", time.Since(t.start).Seconds(), region, text)
}

// heading prints a line that tells what comes next.
func (t *transcript) heading(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "\n          %s\n", fmt.Sprintf(format, args...))
}

// dispatched records that a region has sent an event.
func (t *transcript) dispatched(event, from string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent[event] = delivery{from, at}
}

// arrived records that an event was seen in a region. Seeing it again changes
// nothing, but is counted by the caller as a mistake: it returns false then.
func (t *transcript) arrived(event, region string, at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	regions := t.seen[event]
	if regions == nil {
		regions = map[string]time.Time{}
		t.seen[event] = regions
	}
	if _, again := regions[region]; again {
		return false
	}
	regions[region] = at
	close(t.changed)
	t.changed = make(chan struct{})
	return true
}

// delays returns, in the order of the regions, how long an event took to each
// but its own, as text; ok tells whether it has reached all of those that are
// asked for. Regions that it has not reached are shown with a dash.
func (t *transcript) delays(event string, regions []string) (text string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.delaysLocked(event, regions)
}

func (t *transcript) delaysLocked(event string, regions []string) (string, bool) {
	sent := t.sent[event]
	var parts []string
	all := true
	for _, region := range regions {
		if region == sent.from {
			continue
		}
		at, ok := t.seen[event][region]
		if !ok {
			all = false
			parts = append(parts, fmt.Sprintf("%s -", region))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %s", region, duration(at.Sub(sent.at))))
	}
	return strings.Join(parts, "   "), all
}

// senderOf returns the region that sent an event.
func (t *transcript) senderOf(event string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent[event].from
}

// missing returns which of the events have not reached all regions yet, and a
// channel that is closed at the next arrival.
func (t *transcript) missing(events, regions []string) ([]string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var open []string
	for _, event := range events {
		if _, ok := t.delaysLocked(event, regions); !ok {
			open = append(open, event)
		}
	}
	return open, t.changed
}

// summary describes the delays of all messages but those in except.
func (t *transcript) summary(except []string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []time.Duration
	for event, sent := range t.sent {
		if slices.Contains(except, event) {
			continue
		}
		for region, at := range t.seen[event] {
			if region != sent.from {
				all = append(all, at.Sub(sent.at))
			}
		}
	}
	if len(all) == 0 {
		return "no deliveries"
	}
	slices.Sort(all)
	return fmt.Sprintf("%d deliveries from one region to another: median %s, slowest %s",
		len(all), duration(all[len(all)/2]), duration(all[len(all)-1]))
}

// duration writes a delay with as many digits as make sense.
func duration(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}
