package roomcore

import (
	"fmt"
	"slices"
	"strings"

	"atoll/spec"
	"atoll/storage"
)

// MemberChange is a membership that changed with the current state.
type MemberChange struct {
	User       spec.UserID
	Membership string // "leave" when the entry was taken away
	EventNID   int64  // 0 when the entry was taken away
}

// ServerChange says that a server got its first joined member, or lost its last.
type ServerChange struct {
	Server spec.ServerName
	Joined bool
}

// delta is what one input adds to the room. A unit is made of whole deltas.
type delta struct {
	seq      uint64
	rows     []storage.EventRow // events new to the store
	updates  []int64            // events known as outliers that now have their state
	live     bool               // the last row is told to clients and servers
	ours     bool               // and was made here or through us
	afterGap bool               // clients lack something before it
	keys     []storage.StateKeyRow
	nodes    []*spec.Node
	view     View // of the head after it
	rootFrom spec.Hash
	members  []MemberChange
	servers  []ServerChange
	joined   int64   // change of the number of joined members
	invited  int64   // and of invited ones
	state    []int64 // events that became current otherwise than by being the live event
	redacted []redaction
	early    *storage.EarlyRedactionRow // a redaction whose target is not known yet
	gone     []spec.StateKey            // entries that went from the current state
	gapsAt   []storage.TimelineKey      // events whose predecessors are missing
	gapsShut []storage.TimelineKey      // events whose predecessors are no longer
	txn      *storage.TxnRow
}

type redaction struct {
	target *storage.EventRow
	by     int64
	body   *spec.Event // the redacted form that replaces the target's
}

// accepted describes an event that passed its checks.
type accepted struct {
	event    *spec.Event
	before   spec.Hash
	rejected string // the reason, "" if accepted
	soft     bool   // soft-failed
	live     bool   // goes to sync and senders if it is accepted
	ours     bool
	made     bool // built here a moment ago: the store need not be asked for it
	gap      bool // some predecessors are unknown
	afterGap bool // clients lack something between the last event and this one
	reset    bool // it becomes the only extremity
	txn      *storage.TxnRow
}

// add puts an event whose state is known into the room and queues it. It
// returns the event's row and the sequence number of its delta.
func (c *Core) add(a accepted) (*storage.EventRow, uint64, error) {
	d := &delta{live: a.live && a.rejected == "" && !a.soft, ours: a.ours, afterGap: a.afterGap, rootFrom: c.head.Root}
	if a.txn != nil {
		txn := *a.txn
		txn.Result = string(a.event.ID)
		d.txn = &txn
	}
	row, err := c.newRow(a, d)
	if err != nil {
		return nil, 0, err
	}
	if err := c.stateAfter(row, d); err != nil {
		return nil, 0, err
	}
	view := c.head
	if d.live {
		if view, err = c.advance(row, a.reset); err != nil {
			return nil, 0, err
		}
	}
	if err := c.redactions(row, a, d); err != nil {
		return nil, 0, err
	}
	if err := c.stateChanges(row, view.Root, d); err != nil {
		return nil, 0, err
	}
	if a.gap {
		d.gapsAt = append(d.gapsAt, row.Key())
	}
	view.Joined, view.Invited = c.head.Joined+d.joined, c.head.Invited+d.invited
	c.enqueue(d, row, view)
	return row, d.seq, nil
}

func (c *Core) newRow(a accepted, d *delta) (*storage.EventRow, error) {
	row := &storage.EventRow{
		RoomNID: c.cfg.RoomNID, Event: a.event, Kind: storage.StateRoot,
		Before: a.before, After: a.before, Rejected: a.rejected, SoftFailed: a.soft && a.rejected == "",
	}
	var known *storage.EventRow
	var err error
	if !a.made {
		if known, err = c.Event(a.event.ID); err != nil {
			return nil, err
		}
	}
	if known != nil {
		row.NID, row.StateKeyNID = known.NID, known.StateKeyNID
		if known.RedactedBy != 0 { // redacted while it had no place yet
			row.Event, row.RedactedBy = known.Event, known.RedactedBy
		}
		d.updates = append(d.updates, row.NID)
	} else {
		row.NID = c.cfg.Store.NewEventNIDs(1)
	}
	if a.event.Type == "m.room.create" && a.event.IsState() && a.rejected == "" {
		c.createNID = row.NID
	}
	if a.event.IsState() && row.StateKeyNID == 0 {
		nid, keys, err := c.keyRow(a.event.Key())
		if err != nil {
			return nil, err
		}
		row.StateKeyNID = nid
		d.keys = append(d.keys, keys...)
	}
	if a.event.IsState() && !c.citesForeign(a.event) {
		row.Auth, err = c.authNIDs(a.event)
	}
	return row, err
}

func (c *Core) authNIDs(ev *spec.Event) ([]int64, error) {
	nids := make([]int64, 0, len(ev.Auth))
	for _, id := range ev.Auth {
		row, err := c.Event(id)
		if err != nil {
			return nil, err
		}
		if row == nil {
			return nil, fmt.Errorf("auth event %s of %s is missing", id, ev.ID)
		}
		nids = append(nids, row.NID)
	}
	return nids, nil
}

// stateAfter fills in the state after the event: with it if it is an accepted
// state event, else the state before. Spec: rooms/v2#state-resolution.
func (c *Core) stateAfter(row *storage.EventRow, d *delta) error {
	if row.Rejected != "" || !row.Event.IsState() {
		return nil
	}
	leaf := spec.NewLeaf(row.Event.Key(), row.Event.ID, row.StateKeyNID, row.NID)
	after, err := c.apply(row.Before, []spec.Change{{Leaf: leaf}})
	row.After = after
	return err
}

// advance returns the head with the event as its newest extremity.
func (c *Core) advance(row *storage.EventRow, reset bool) (View, error) {
	view := View{Version: c.head.Version}
	behind, err := c.behind(row.Event)
	if err != nil {
		return View{}, err
	}
	for _, e := range c.head.Extremities {
		if !reset && !behind[e.ID] {
			view.Extremities = append(view.Extremities, e)
		}
	}
	late := false
	if !reset && len(view.Extremities) > 0 {
		if late, err = c.followed(row.Event.ID); err != nil {
			return View{}, err
		}
	}
	if !late {
		view.Extremities = append(view.Extremities, Extremity{
			NID: row.NID, ID: row.Event.ID, Depth: row.Event.Depth, After: row.After,
		})
	}
	slices.SortFunc(view.Extremities, func(a, b Extremity) int { return strings.Compare(string(a.ID), string(b.ID)) })
	// The resolution may have to read the event itself.
	c.newEvents[row.NID], c.newIDs[row.Event.ID] = row, row.NID
	roots := make([]spec.Hash, len(view.Extremities))
	for i, e := range view.Extremities {
		roots[i] = e.After
	}
	root, err := c.resolve(roots)
	view.Root = root
	return view, err
}

// stateChanges works out from the difference of the roots what else changes
// with the current state, and brings the decoded state up to date.
func (c *Core) stateChanges(row *storage.EventRow, root spec.Hash, d *delta) error {
	if root == c.head.Root {
		return nil
	}
	return spec.Diff(c, c.head.Root, root, func(old, now *spec.Leaf) error {
		leaf := now
		if leaf == nil {
			leaf = old
		}
		key, err := c.stateKey(leaf.Key)
		if err != nil {
			return err
		}
		var ev *storage.EventRow
		if now != nil {
			if ev, err = c.eventByNID(now.Event); err != nil {
				return err
			}
			if now.Event != row.NID {
				d.state = append(d.state, now.Event)
			}
		} else {
			d.gone = append(d.gone, key)
		}
		if _, cached := c.current[key]; cached || ev != nil {
			c.current[key] = ev
		}
		if key.Type == "m.room.member" {
			return c.memberChange(key, old, ev, d)
		}
		return nil
	})
}

func (c *Core) memberChange(key spec.StateKey, old *spec.Leaf, ev *storage.EventRow, d *delta) error {
	user, err := spec.ParseUserID(key.Key)
	if err != nil {
		return nil // a member event of nobody, possible in foreign state only
	}
	change := MemberChange{User: user, Membership: "leave"}
	if ev != nil {
		change.Membership, change.EventNID = ev.Event.Membership(), ev.NID
	}
	d.members = append(d.members, change)
	was := ""
	if old != nil {
		row, err := c.eventByNID(old.Event)
		if err != nil {
			return err
		}
		was = row.Event.Membership()
	}
	d.joined += changed(was, change.Membership, "join")
	d.invited += changed(was, change.Membership, "invite")
	c.countServer(user.Server(), int(changed(was, change.Membership, "join")), d)
	return nil
}

// changed returns by how much a change of membership changes the number of
// members that have the given one.
func changed(was, now, membership string) int64 {
	var n int64
	if now == membership {
		n++
	}
	if was == membership {
		n--
	}
	return n
}

func (c *Core) countServer(s spec.ServerName, by int, d *delta) {
	before := c.servers[s]
	after := before + by
	c.servers[s] = after
	switch {
	case before == 0 && after > 0:
		d.servers = append(d.servers, ServerChange{Server: s, Joined: true})
	case before > 0 && after == 0:
		delete(c.servers, s)
		d.servers = append(d.servers, ServerChange{Server: s})
	}
}

// enqueue makes the delta the head. From here on only a failed commit undoes it,
// and then the whole core is given up.
func (c *Core) enqueue(d *delta, row *storage.EventRow, view View) {
	if row != nil {
		d.rows = append(d.rows, *row)
		if !slices.ContainsFunc(d.redacted, func(r redaction) bool { return r.target == row }) {
			c.newEvents[row.NID], c.newIDs[row.Event.ID] = row, row.NID
		} // else the redacted form is there already
		if d.live {
			c.newLive[row.NID] = true
		}
		if c.graph != nil {
			c.addToGraph(c.graph, row)
		}
	}
	d.nodes, c.unwritten = c.unwritten, nil
	d.view = view
	c.seq++
	d.seq = c.seq
	c.head = view
	c.queue = append(c.queue, d)
}
