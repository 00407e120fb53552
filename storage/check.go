package storage

import (
	"context"
	"errors"
	"fmt"

	"atoll/spec"
)

// checkMax is how many violations Check lists.
const checkMax = 50

// Check verifies that the database says nothing contradictory: positions,
// extremities, states, derived tables. It reads everything, in one transaction,
// so it is for tests, for operators and for after a crash. The error lists the
// violations, checkMax at most; nil means that there are none.
func (db *DB) Check(ctx context.Context) error {
	return db.Read(ctx, func(tx *Tx) error {
		c := &checker{tx: tx}
		if err := c.all(); err != nil && !errors.Is(err, errStop) {
			return fmt.Errorf("check: %w", err)
		}
		return errors.Join(c.found...)
	})
}

// checker collects violations.
type checker struct {
	tx    *Tx
	found []error
}

// violation notes one; errStop when there are enough.
func (c *checker) violation(format string, args ...any) error {
	c.found = append(c.found, fmt.Errorf("check: "+format, args...))
	if len(c.found) >= checkMax {
		return errStop
	}
	return nil
}

// absent checks rows that must not exist: the query returns one column that
// names them.
func (c *checker) absent(claim string, s *stmt, args ...any) error {
	return c.tx.each(s, args, func(r *rows) error {
		return c.violation("%s: %v", claim, r.cols[0])
	})
}

var (
	checkLogHoles = query(`SELECT l.pos FROM log l, log_head h WHERE l.pos > h.compacted_to + 1
		AND NOT EXISTS (SELECT 1 FROM log p WHERE p.pos = l.pos - 1)`)
	checkLogBeyond = query(`SELECT l.pos FROM log l, log_head h WHERE l.pos > h.pos OR l.pos < 1`)
	checkLogEnd    = query(`SELECT h.pos FROM log_head h WHERE h.pos > h.compacted_to AND NOT EXISTS (SELECT 1 FROM log l WHERE l.pos = h.pos)`)
	checkEventLog  = query(`SELECT e.event_id FROM events e WHERE e.pos IS NOT NULL AND NOT EXISTS
		(SELECT 1 FROM log l WHERE l.pos = e.pos AND l.room_nid = e.room_nid AND l.event_nid = e.nid)`)
	checkLogEvent = query(`SELECT l.pos FROM log l WHERE l.kind = 1 AND NOT EXISTS
		(SELECT 1 FROM events e WHERE e.nid = l.event_nid AND e.pos = l.pos AND e.timeline IS NOT NULL)`)
	checkTimeline  = query(`SELECT event_id FROM events WHERE (timeline IS NOT NULL) <> (kind IN (1, 3) AND rejected IS NULL AND NOT soft_failed)`)
	checkHiddenPos = query(`SELECT event_id FROM events WHERE pos IS NOT NULL AND timeline IS NULL`)
	checkRedacted  = query(`SELECT e.event_id FROM events e WHERE e.redacted_by IS NOT NULL AND NOT EXISTS
		(SELECT 1 FROM events r WHERE r.nid = e.redacted_by AND r.room_nid = e.room_nid)`)
	checkStateKeys = query(`SELECT e.event_id FROM events e WHERE e.state_key_nid IS NOT NULL AND NOT EXISTS
		(SELECT 1 FROM state_keys k WHERE k.nid = e.state_key_nid AND k.type = e.type)`)
	checkEdges = query(`SELECT d.prev_id FROM event_edges d WHERE NOT EXISTS
		(SELECT 1 FROM events e WHERE e.nid = d.event_nid AND e.room_nid = d.room_nid AND e.kind NOT IN (2, 4))`)
	checkAuth = query(`SELECT a.event_nid FROM event_auth a WHERE NOT EXISTS
		(SELECT 1 FROM events e WHERE e.nid = a.event_nid AND e.room_nid = a.room_nid AND e.state_key_nid = a.state_key_nid)`)
	checkGaps = query(`SELECT g.event_nid FROM timeline_gaps g WHERE NOT EXISTS
		(SELECT 1 FROM events e WHERE e.nid = g.event_nid AND e.room_nid = g.room_nid AND e.timeline = g.timeline)`)
	checkMemberEvents = query(`SELECT m.user_id FROM memberships m WHERE NOT EXISTS
		(SELECT 1 FROM events e WHERE e.nid = m.event_nid AND e.room_nid = m.room_nid)`)
	checkServers = query(`SELECT s.server FROM room_servers s WHERE s.until_pos <= s.from_pos`)
	checkLeases  = query(`SELECT name FROM sequences WHERE name = 'event' AND next_id <= (SELECT coalesce(max(nid), 0) FROM events)
		OR name = 'room' AND next_id <= (SELECT coalesce(max(nid), 0) FROM rooms)
		OR name = 'state_key' AND next_id <= (SELECT coalesce(max(nid), 0) FROM state_keys)`)
	checkOrphans = query(`SELECT e.event_id FROM events e WHERE e.timeline IS NOT NULL AND NOT EXISTS (SELECT 1 FROM rooms r WHERE r.nid = e.room_nid)
		AND NOT EXISTS (SELECT 1 FROM meta m WHERE m.key LIKE 'purge/%')`)
)

func (c *checker) all() error {
	for _, q := range []struct {
		claim string
		s     *stmt
	}{
		{"hole in the log before position", checkLogHoles},
		{"log entry beyond the head, or without position", checkLogBeyond},
		{"no log entry at the head", checkLogEnd},
		{"event whose position does not announce it", checkEventLog},
		{"log entry that announces no visible event", checkLogEvent},
		{"event that is in the timeline although it should not be, or the other way round", checkTimeline},
		{"event with a position that is in no timeline", checkHiddenPos},
		{"event that is redacted by an unknown event", checkRedacted},
		{"event with an unknown state key", checkStateKeys},
		{"edge of an unknown event, an outlier or a waiting event, to", checkEdges},
		{"auth events of an unknown event", checkAuth},
		{"gap at an unknown event", checkGaps},
		{"membership by an unknown event, of", checkMemberEvents},
		{"interval that ends before it begins, of server", checkServers},
		{"sequence that would give an id again", checkLeases},
		{"event in the timeline of no room", checkOrphans},
	} {
		if err := c.absent(q.claim, q.s); err != nil {
			return err
		}
	}
	var rooms []RoomRow
	err := c.tx.Rooms(func(r RoomRow) error {
		rooms = append(rooms, r)
		return nil
	})
	if err != nil {
		return err
	}
	for i := range rooms {
		if err := c.room(&rooms[i]); err != nil {
			return err
		}
	}
	return nil
}

// room checks what belongs to one room.
func (c *checker) room(room *RoomRow) error {
	if err := c.extremities(room); err != nil {
		return err
	}
	nodes := &checkedNodes{r: c.tx.NodeReader(room.NID), seen: map[spec.Hash]*spec.Node{}}
	if err := c.roots(room, nodes); err != nil {
		return err
	}
	return c.members(room, nodes)
}

// extremities checks that a room's forward extremities are accepted events
// that no accepted event follows.
func (c *checker) extremities(room *RoomRow) error {
	status, err := c.tx.EventStatusesByNID(room.Extremities)
	if err != nil {
		return err
	}
	var ids []spec.EventID
	for _, nid := range room.Extremities {
		s, ok := status[nid]
		switch {
		case !ok:
			err = c.violation("room %s: extremity %d is not stored", room.ID, nid)
		case s.Rejected || s.SoftFailed || s.Kind != StateRoot && s.Kind != StatePartial:
			err = c.violation("room %s: extremity %s is not an accepted event", room.ID, s.ID)
		}
		if err != nil {
			return err
		}
		ids = append(ids, s.ID)
	}
	next, err := c.tx.Successors(room.NID, ids)
	if err != nil {
		return err
	}
	for _, s := range next {
		if s.Rejected || s.SoftFailed || s.Kind != StateRoot && s.Kind != StatePartial {
			continue
		}
		if err := c.violation("room %s: extremity %s is followed by %s", room.ID, s.Prev, s.ID); err != nil {
			return err
		}
	}
	return nil
}

// checkedNodes reads the nodes of one room and remembers them, so that a node
// shared by many roots is read and verified once.
type checkedNodes struct {
	r    NodeReader
	seen map[spec.Hash]*spec.Node
}

// Node implements spec.NodeReader.
func (n *checkedNodes) Node(h spec.Hash) (*spec.Node, error) {
	if node := n.seen[h]; node != nil {
		return node, nil
	}
	node, err := n.r.Node(h)
	if err == nil {
		n.seen[h] = node
	}
	return node, err
}

// verify reads everything below a root that was not read before.
func (n *checkedNodes) verify(root spec.Hash, done map[spec.Hash]bool) error {
	if root == (spec.Hash{}) || done[root] {
		return nil
	}
	node, err := n.Node(root)
	if err != nil {
		return err
	}
	done[root] = true
	for _, child := range node.Children() {
		if err := n.verify(child, done); err != nil {
			return err
		}
	}
	return nil
}

var selectRoots = query(`SELECT event_id, before_root, after_root FROM events
	WHERE room_nid = $1 AND (before_root IS NOT NULL OR after_root IS NOT NULL) ORDER BY nid`)

// roots checks that all nodes of the current state and of the states around
// every event are there and can be decoded.
func (c *checker) roots(room *RoomRow, nodes *checkedNodes) error {
	done := map[spec.Hash]bool{}
	if err := nodes.verify(room.Root, done); err != nil {
		if err := c.violation("room %s: current state: %w", room.ID, err); err != nil {
			return err
		}
	}
	type roots struct {
		id            spec.EventID
		before, after spec.Hash
	}
	var list []roots
	err := c.tx.each(selectRoots, []any{room.NID}, func(r *rows) error {
		list = append(list, roots{})
		e := &list[len(list)-1]
		return r.scan(&e.id, &e.before, &e.after)
	})
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := errors.Join(nodes.verify(e.before, done), nodes.verify(e.after, done)); err != nil {
			if err := c.violation("room %s: state at %s: %w", room.ID, e.id, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// members checks that the current memberships and the counters are what the
// current state says.
func (c *checker) members(room *RoomRow, nodes *checkedNodes) error {
	fromState := map[int64]string{} // membership event → user
	keys := map[int64]spec.StateKey{}
	var leaves []spec.Leaf
	err := spec.Walk(nodes, room.Root, func(l spec.Leaf) error {
		leaves = append(leaves, l)
		return nil
	})
	if err != nil {
		return nil // missing nodes are reported by roots
	}
	nids := make([]int64, len(leaves))
	for i, l := range leaves {
		nids[i] = l.Key
	}
	if err := c.tx.stateKeysByNID(nids, keys); err != nil {
		return err
	}
	for _, l := range leaves {
		k, ok := keys[l.Key]
		if !ok || spec.StatePath(k) != l.Path {
			if err := c.violation("room %s: the state has a leaf with the wrong state key %d", room.ID, l.Key); err != nil {
				return err
			}
		}
		if k.Type == spec.TypeMember {
			fromState[l.Event] = k.Key
		}
	}
	return c.compareMembers(room, fromState)
}

func (c *checker) compareMembers(room *RoomRow, fromState map[int64]string) error {
	rows, err := c.tx.Members(room.NID)
	if err != nil {
		return err
	}
	counts := map[string]int64{}
	for i := range rows {
		m := &rows[i]
		if m.Outside {
			continue
		}
		counts[m.Membership]++
		if fromState[m.EventNID] != string(m.User) {
			if err := c.violation("room %s: membership of %s is not that of the current state", room.ID, m.User); err != nil {
				return err
			}
		}
		delete(fromState, m.EventNID)
	}
	for nid, user := range fromState {
		if err := c.violation("room %s: membership of %s by event %d is missing", room.ID, user, nid); err != nil {
			return err
		}
	}
	if counts["join"] != room.Joined || counts["invite"] != room.Invited {
		return c.violation("room %s: counts %d joined and %d invited, but %d and %d are", room.ID,
			room.Joined, room.Invited, counts["join"], counts["invite"])
	}
	return c.memberEvents(room, rows)
}

// memberEvents checks that membership rows say what their events say.
func (c *checker) memberEvents(room *RoomRow, rows []MembershipRow) error {
	for start := 0; start < len(rows); start += listMax {
		part := rows[start:min(start+listMax, len(rows))]
		nids := make([]int64, len(part))
		for i := range part {
			nids[i] = part[i].EventNID
		}
		events, err := c.tx.EventsByNIDs(nids)
		if err != nil {
			return err
		}
		byNID := map[int64]*EventRow{}
		for i := range events {
			byNID[events[i].NID] = &events[i]
		}
		for i := range part {
			e := byNID[part[i].EventNID]
			if e == nil || part[i].Outside {
				continue
			}
			if got := e.Event.Membership(); got != part[i].Membership {
				if err := c.violation("room %s: %s is %s, but the event says %q", room.ID, part[i].User, part[i].Membership, got); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
