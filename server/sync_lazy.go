package server

import (
	"sync"

	"atoll/spec"
	"atoll/storage"
)

// lazyMembers adds the members that a client needs to show what it is told: the
// senders of the timeline, the heroes, and the user's own membership where the
// whole state is given. Members that the device was told before are left out.
// Spec: client-server-api#lazy-loading-room-members
func (t *roomTask) lazyMembers(set *stateSet, root spec.Hash, out *SyncedRoom) error {
	told := t.src.s.lazy.told(t.plan.req, t.plan.since)
	if t.full && !t.plan.req.FullState || t.plan.req.Filter.Room.State.IncludeRedundantMembers {
		told = nil
	}
	wanted := map[spec.UserID]bool{}
	for _, row := range t.timeline {
		wanted[row.Event.Sender] = true
	}
	if out.summary != nil {
		for _, user := range out.summary.Heroes {
			wanted[user] = true
		}
	}
	if t.full {
		wanted[t.plan.req.User] = true
	}
	inTimeline := map[int64]bool{}
	if t.plan.req.StateAfter == "" {
		for _, row := range t.timeline {
			inTimeline[row.NID] = true
		}
	}
	for user := range wanted {
		leaf, ok, err := spec.Lookup(t.src.nodes(t.RoomNID), root, spec.StatePath(memberKeyOf(user)))
		if err != nil {
			return err
		}
		if !ok || inTimeline[leaf.Event] || told != nil && told(leaf.Event) {
			continue
		}
		if _, ok := set.events[leaf.Key]; !ok {
			set.add(leaf.Key, leaf.Event)
		}
	}
	return nil
}

// Bounds of what is remembered of members told.
const (
	lazyDevicesMost = 5_000
	lazyMembersMost = 2_000 // of one device
)

// lazyMembers remembers which membership events devices were told, so that they
// are not told again. It may forget. Safe for concurrent use.
type lazyMembers struct {
	mu      sync.Mutex // guards devices and the maps in it
	devices *recent[lazyKey, map[int64]int64]
}

// lazyKey is a chain of syncs: a device may have several with different filters.
type lazyKey struct {
	user           spec.UserID
	device, filter string
}

func newLazyMembers() *lazyMembers {
	return &lazyMembers{devices: newRecent[lazyKey, map[int64]int64](lazyDevicesMost)}
}

// told returns a function that says whether a client that goes on from a
// position was told a membership event; nil if nothing is known. A client that
// repeats a request goes on from before, so it gets the same again.
func (l *lazyMembers) told(req *SyncRequest, since int64) func(event int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	events, ok := l.devices.get(lazyKey{req.User, req.Device, req.FilterID})
	if !ok || since == 0 {
		return nil
	}
	return func(event int64) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		pos, ok := events[event]
		return ok && pos <= since
	}
}

// remember notes what an answer tells, which ends at a position.
func (l *lazyMembers) remember(req *SyncRequest, pos int64, out *SyncAnswer) {
	if !req.Filter.Room.State.LazyLoadMembers {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := lazyKey{req.User, req.Device, req.FilterID}
	events, ok := l.devices.get(key)
	if !ok || req.Since == "" {
		events = map[int64]int64{}
		l.devices.put(key, events)
	}
	note := func(row *storage.EventRow) {
		if row.Event.Type != spec.TypeMember {
			return
		}
		if len(events) >= lazyMembersMost {
			clear(events)
		}
		if _, ok := events[row.NID]; !ok {
			events[row.NID] = pos
		}
	}
	for _, rooms := range [2][]*SyncedRoom{out.join, out.leave} {
		for _, room := range rooms {
			for _, row := range room.state {
				note(row)
			}
		}
	}
}
