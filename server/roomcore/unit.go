package roomcore

import (
	"errors"
	"slices"

	"atoll/spec"
	"atoll/storage"
)

// What one unit carries at most; some room is left below the limits of storage
// for what the estimate does not count.
const (
	unitRows  = storage.UnitMaxRows - 50
	unitBytes = storage.UnitMaxBytes - 64<<10
)

// Pending reports whether something is queued that no unit in flight carries.
func (c *Core) Pending() bool { return len(c.queue) > c.inFlight }

// Done returns the sequence number up to which everything is durable.
func (c *Core) Done() uint64 { return c.done }

// Queued returns the number of the last thing that was queued, from 1.
func (c *Core) Queued() uint64 { return c.seq }

// TakeUnit returns the next unit to commit, nil when nothing is queued. Only one
// is in flight at a time: what is queued meanwhile goes into the next one
// together. A chunk holds rows that nothing refers to yet and is to be written
// without the compare-and-swap. Either must be answered with Committed before
// the next call; after a failure the core must be given up.
func (c *Core) TakeUnit() (unit *storage.Unit, chunk bool, err error) {
	if c.inFlight > 0 {
		return nil, false, errors.New("room: a unit is in flight already")
	}
	if len(c.queue) == 0 {
		return nil, false, nil
	}
	if first := c.queue[0]; first.large() {
		return c.split(first), true, nil
	}
	unit = &storage.Unit{}
	rows, bytes := 0, 0
	for _, d := range c.queue {
		r, b := d.measure()
		if d.large() || c.inFlight > 0 && (rows+r > unitRows || bytes+b > unitBytes) {
			break
		}
		if c.unmade() && c.inFlight > 0 && d.live != c.queue[0].live {
			break // a room that does not exist yet gets its outliers first
		}
		rows, bytes = rows+r, bytes+b
		c.fill(unit, d)
		c.inFlight++
	}
	if c.unmade() && !c.queue[0].live {
		return unit, true, nil
	}
	unit.Room = c.roomUpdate(c.queue[c.inFlight-1])
	return unit, false, nil
}

// measure estimates the rows and bytes of a delta.
func (d *delta) measure() (rows, bytes int) {
	for i := range d.rows {
		rows += 3 + len(d.rows[i].Event.Prev)
		bytes += len(d.rows[i].Event.JSON) + 256
	}
	rows += len(d.nodes) + len(d.keys) + len(d.members) + len(d.servers) + len(d.state) + len(d.gone) + 2*len(d.redacted) + 8
	bytes += 700*len(d.nodes) + 128*(len(d.keys)+len(d.members)+len(d.servers)+len(d.state))
	for _, r := range d.redacted {
		bytes += len(r.body.JSON)
	}
	return rows, bytes
}

func (d *delta) large() bool {
	rows, bytes := d.measure()
	return rows > unitRows || bytes > unitBytes
}

// split takes what can be written ahead from a delta that is too large for one
// unit: nodes, which nothing refers to yet, then the memberships of a state that
// becomes current with the rest.
func (c *Core) split(d *delta) *storage.Unit {
	unit := &storage.Unit{StateKeys: d.keys}
	d.keys = nil
	const nodesEach = unitBytes / 1024
	if n := min(len(d.nodes), unitRows, nodesEach); n > 0 {
		c.fillNodes(unit, d.nodes[:n])
		d.nodes = d.nodes[n:]
		return unit
	}
	if n := min(len(d.members), unitRows); n > 0 {
		c.fillMembers(unit, d.members[:n])
		d.members = d.members[n:]
		return unit
	}
	if n := min(len(d.servers), unitRows); n > 0 {
		c.fillServers(unit, d.servers[:n], 0)
		d.servers = d.servers[n:]
		return unit
	}
	// State that changes hands by the thousand is told without naming each. This
	// comes last, as what it leaves may be more than one entry.
	c.nameFew(d)
	return unit
}

// nameFew leaves of the changed state what local users have to hear of, as far as
// it fits, or else one entry that says that something changed.
func (c *Core) nameFew(d *delta) {
	most := unitRows / 4
	state := make([]int64, 0, most)
	for _, nid := range d.state {
		row, err := c.eventByNID(nid)
		if err == nil && len(state) < most && c.localMember(row.Event) != "" {
			state = append(state, nid)
		}
	}
	gone := make([]spec.StateKey, 0, most)
	for _, key := range d.gone {
		if len(gone) < most && key.Type == spec.TypeMember && c.localUser(key.Key) != "" {
			gone = append(gone, key)
		}
	}
	if len(state)+len(gone) == 0 {
		state, gone = d.state[:min(len(d.state), 1)], gone[:0]
		if len(state) == 0 {
			gone = d.gone[:1]
		}
	}
	d.state, d.gone = state, gone
}

func (c *Core) fill(unit *storage.Unit, d *delta) {
	unit.StateKeys = append(unit.StateKeys, d.keys...)
	c.fillNodes(unit, d.nodes)
	for i := range d.rows {
		if slices.Contains(d.updates, d.rows[i].NID) {
			unit.EventUpdates = append(unit.EventUpdates, d.rows[i])
		} else {
			unit.Events = append(unit.Events, d.rows[i])
		}
	}
	for _, r := range d.redacted {
		unit.Redactions = append(unit.Redactions, storage.Redaction{NID: r.target.NID, By: r.by, Event: r.body})
	}
	for _, key := range d.gapsAt {
		unit.Gaps = append(unit.Gaps, storage.GapRow{RoomNID: c.cfg.RoomNID, Key: key})
	}
	for _, key := range d.gapsShut {
		unit.Gaps = append(unit.Gaps, storage.GapRow{RoomNID: c.cfg.RoomNID, Key: key, Closed: true})
	}
	c.fillMembers(unit, d.members)
	if d.txn != nil {
		unit.Txns = append(unit.Txns, *d.txn)
	}
	if d.early != nil {
		unit.Extra = append(unit.Extra, d.early)
	}
	if !d.live {
		return
	}
	event := &d.rows[len(d.rows)-1]
	c.fillServers(unit, d.servers, event.NID)
	c.fillLog(unit, d, event)
	if d.view.Root != d.rootFrom {
		unit.Extra = append(unit.Extra, &storage.RoomRootRow{RoomNID: c.cfg.RoomNID, Root: d.view.Root, EventNID: event.NID})
	}
}

// Marks of a log entry of kind LogEvent, in its Text.
const (
	// LogOurs: the event is ours to send to other servers.
	LogOurs = "o"
	// LogGap: clients lack something between the entries before and this one.
	LogGap = "g"
)

func (c *Core) fillLog(unit *storage.Unit, d *delta, event *storage.EventRow) {
	entry := storage.LogEntry{Kind: storage.LogEvent, RoomNID: c.cfg.RoomNID, EventNID: event.NID, Event: event}
	if slices.ContainsFunc(d.redacted, func(r redaction) bool { return r.target.NID == event.NID }) {
		entry.Event = nil // the row has the text that goes with the same commit
	}
	if d.ours {
		entry.Text += LogOurs
	}
	if d.afterGap {
		entry.Text += LogGap
	}
	entry.User = c.localMember(event.Event)
	unit.Log = append(unit.Log, entry)
	for _, nid := range d.state {
		entry := storage.LogEntry{Kind: storage.LogState, RoomNID: c.cfg.RoomNID, EventNID: nid}
		if row, err := c.eventByNID(nid); err == nil {
			entry.Event, entry.User = row, c.localMember(row.Event)
		}
		unit.Log = append(unit.Log, entry)
	}
	for _, key := range d.gone {
		entry := storage.LogEntry{Kind: storage.LogState, RoomNID: c.cfg.RoomNID}
		if key.Type == "m.room.member" {
			entry.User = c.localUser(key.Key)
		}
		unit.Log = append(unit.Log, entry)
	}
}

// localMember returns the local user whose membership the event is, "" for
// every other event.
func (c *Core) localMember(ev *spec.Event) spec.UserID {
	if ev.Type != "m.room.member" || ev.State == nil {
		return ""
	}
	return c.localUser(*ev.State)
}

func (c *Core) localUser(s string) spec.UserID {
	if user, err := spec.ParseUserID(s); err == nil && user.Server() == c.cfg.Server {
		return user
	}
	return ""
}

func (c *Core) fillNodes(unit *storage.Unit, nodes []*spec.Node) {
	for _, n := range nodes {
		unit.Nodes = append(unit.Nodes, storage.NodeRow{RoomNID: c.cfg.RoomNID, Hash: n.Hash(), Stored: n.AppendStored(nil)})
	}
}

func (c *Core) fillMembers(unit *storage.Unit, members []MemberChange) {
	for _, m := range members {
		unit.Memberships = append(unit.Memberships, storage.MembershipRow{
			RoomNID: c.cfg.RoomNID, User: m.User, Membership: m.Membership, EventNID: m.EventNID,
		})
	}
}

func (c *Core) fillServers(unit *storage.Unit, servers []ServerChange, event int64) {
	for _, s := range servers {
		unit.Servers = append(unit.Servers, storage.RoomServerRow{
			RoomNID: c.cfg.RoomNID, Server: s.Server, Joined: s.Joined, EventNID: event,
		})
	}
}

func (c *Core) roomUpdate(d *delta) *storage.RoomUpdate {
	row := storage.RoomRow{
		NID: c.cfg.RoomNID, ID: c.cfg.Room, RoomVersion: c.cfg.Rules.Version,
		Root: d.view.Root, CreateNID: c.createNID, Joined: d.view.Joined, Invited: d.view.Invited,
	}
	for _, e := range d.view.Extremities {
		row.Extremities = append(row.Extremities, e.NID)
	}
	slices.Sort(row.Extremities)
	return &storage.RoomUpdate{ExpectVersion: c.committed.Version, RoomRow: row}
}

// Committed takes the news that the unit in flight, or the chunk, is durable.
func (c *Core) Committed(unit *storage.Unit) {
	carried := c.queue[:c.inFlight]
	if len(carried) == 0 {
		return // a part of a large delta
	}
	last := carried[len(carried)-1]
	version := c.committed.Version
	if unit.Room != nil {
		version++
	}
	c.committed = last.view
	c.committed.Version, c.head.Version = version, version
	c.done = last.seq
	c.queue = slices.Clone(c.queue[c.inFlight:])
	c.inFlight = 0
	if version == 0 {
		return // the store is not asked before the room's row exists
	}
	c.forgetCommitted()
}

// forgetCommitted drops what the store shows by now. Events are kept in the
// decoded state with their positions as committed by the owner's cache.
func (c *Core) forgetCommitted() {
	if len(c.queue) == 0 && len(c.unwritten) == 0 {
		clear(c.newEvents)
		clear(c.newIDs)
		clear(c.newLive)
		clear(c.newNodes)
		for nid := range c.newKeys {
			c.forgetKey(nid)
		}
		return
	}
	// Under steady load the queue is never empty, so what it does not hold is
	// dropped piece by piece.
	keep := map[int64]bool{}
	nodes := map[spec.Hash]bool{}
	keys := map[int64]bool{}
	for _, d := range c.queue {
		for i := range d.rows {
			keep[d.rows[i].NID] = true
		}
		for _, r := range d.redacted {
			keep[r.target.NID] = true
		}
		for _, n := range d.nodes {
			nodes[n.Hash()] = true
		}
		for _, k := range d.keys {
			keys[k.NID] = true
		}
	}
	for _, n := range c.unwritten {
		nodes[n.Hash()] = true
	}
	for nid, row := range c.newEvents {
		if !keep[nid] {
			delete(c.newEvents, nid)
			delete(c.newIDs, row.Event.ID)
			delete(c.newLive, nid)
		}
	}
	for h := range c.newNodes {
		if !nodes[h] {
			delete(c.newNodes, h)
		}
	}
	for nid := range c.newKeys {
		if !keys[nid] {
			c.forgetKey(nid)
		}
	}
}

// forgetKey drops the number of a key that was new. It may not have been stored,
// because what was to use it was dropped: then it is not known to be good.
func (c *Core) forgetKey(nid int64) {
	delete(c.keyNIDs, c.newKeys[nid])
	delete(c.newKeys, nid)
}
