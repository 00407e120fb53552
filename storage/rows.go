package storage

import (
	"sort"

	"atoll/spec"
)

// This file has the bulk statements of the room tables and says how a unit's
// rows become their arguments.

var (
	// Compares and swaps the rows of all rooms of a group at once. RETURNING
	// names the winners.
	swapRooms = newBulk(bulk{
		name: "swap rooms", rank: rankRooms,
		head: `UPDATE rooms SET version = v.column3, room_version = v.column4, root = v.column5, extremities = v.column6,
			create_nid = v.column7, joined = v.column8, invited = v.column9, flags = v.column10
			FROM (VALUES `,
		types: types("bigint bigint bigint text bytea text bigint bigint bigint bigint"),
		tail:  `) AS v WHERE rooms.nid = v.column1 AND rooms.version = v.column2 RETURNING rooms.nid`,
	})
	insertRooms = newBulk(bulk{
		name: "insert rooms", rank: rankRooms + 1,
		head:  `INSERT INTO rooms (nid, room_id, version, room_version, root, extremities, create_nid, joined, invited, flags) VALUES `,
		types: types("bigint text bigint text bytea text bigint bigint bigint bigint"),
		tail:  `ON CONFLICT DO NOTHING RETURNING nid`,
	})
	insertStateKeys = newBulk(bulk{
		name: "insert state keys", rank: rankStateKeys,
		head:  `INSERT INTO state_keys (type, state_key, nid) VALUES `,
		types: types("text text bigint"),
		// Only for the same nid, which an earlier unit may have brought: a key
		// that got another nid elsewhere must fail.
		tail: `ON CONFLICT (nid) DO NOTHING`,
	})
	insertNodes = newBulk(bulk{
		name: "insert state nodes", rank: rankNodes,
		head:  `INSERT INTO state_nodes (room_nid, hash, stored) VALUES `,
		types: types("bigint bytea bytea"),
		tail:  `ON CONFLICT DO NOTHING`,
	})
	insertEvents = newBulk(bulk{
		name: "insert events", positioned: true, rank: rankEvents,
		head: `INSERT INTO events (nid, room_nid, event_id, sender, type, state_key_nid, kind, timeline, pos, origin_ts,
			soft_failed, rejected, redacted_by, before_root, after_root, json) VALUES `,
		types: types("bigint bigint text text text bigint smallint bigint bigint bigint boolean text bigint bytea bytea bytea"),
	})
	updateEvents = newBulk(bulk{
		name: "update events", positioned: true, rank: rankEvents + 1, key: 1,
		head: `UPDATE events SET kind = v.column2, timeline = v.column3, pos = coalesce(v.column4, events.pos), soft_failed = v.column5,
			rejected = v.column6, before_root = v.column7, after_root = v.column8
			FROM (VALUES `,
		types: types("bigint smallint bigint bigint boolean text bytea bytea"),
		tail:  `) AS v WHERE events.nid = v.column1`,
	})
	updateRedactions = newBulk(bulk{
		name: "update redacted events", rank: rankEvents + 2, key: 1,
		head:  `UPDATE events SET redacted_by = v.column2, json = coalesce(v.column3, events.json) FROM (VALUES `,
		types: types("bigint bigint bytea"),
		tail:  `) AS v WHERE events.nid = v.column1`,
	})
	insertEdges = newBulk(bulk{
		name: "insert event edges", rank: rankEdges,
		head:  `INSERT INTO event_edges (room_nid, prev_id, event_nid) VALUES `,
		types: types("bigint text bigint"),
		tail:  `ON CONFLICT DO NOTHING`,
	})
	insertAuth = newBulk(bulk{
		name: "insert auth events", rank: rankEdges + 1,
		head:  `INSERT INTO event_auth (room_nid, event_nid, state_key_nid, auth_nids) VALUES `,
		types: types("bigint bigint bigint text"),
		tail:  `ON CONFLICT DO NOTHING`,
	})
	insertGaps = newBulk(bulk{
		name: "insert gaps", rank: rankEdges + 2, key: 3,
		head:  `INSERT INTO timeline_gaps (room_nid, timeline, event_nid, retry_ts) VALUES `,
		types: types("bigint bigint bigint bigint"),
		tail:  `ON CONFLICT (room_nid, timeline, event_nid) DO UPDATE SET retry_ts = excluded.retry_ts`,
	})
	deleteGaps = newBulk(bulk{
		name: "delete gaps", rank: rankEdges + 3,
		head:  `DELETE FROM timeline_gaps WHERE (room_nid, timeline, event_nid) IN (VALUES `,
		types: types("bigint bigint bigint"),
		tail:  `)`,
	})
	upsertMemberships = newBulk(bulk{
		name: "upsert memberships", positioned: true, rank: rankMembers, key: 2,
		head:  `INSERT INTO memberships (user_id, room_nid, membership, event_nid, pos, forgotten, outside, stripped) VALUES `,
		types: types("text bigint text bigint bigint boolean boolean bytea"),
		tail: `ON CONFLICT (user_id, room_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid,
			pos = excluded.pos, forgotten = (memberships.forgotten AND excluded.membership IN ('leave', 'ban')), outside = excluded.outside, stripped = excluded.stripped`,
	})
	deleteMemberships = newBulk(bulk{
		name: "delete memberships", rank: rankMembers + 1,
		head:  `DELETE FROM memberships WHERE (user_id, room_nid) IN (VALUES `,
		types: types("text bigint"),
		tail:  `)`,
	})
	insertRoomServers = newBulk(bulk{
		name: "insert room servers", positioned: true, rank: rankMembers + 2,
		head:  `INSERT INTO room_servers (room_nid, server, from_pos) VALUES `,
		types: types("bigint text bigint"),
		tail:  `ON CONFLICT DO NOTHING`,
	})
	endRoomServers = newBulk(bulk{
		name: "end room servers", positioned: true, rank: rankMembers + 3, single: true,
		head:  `UPDATE room_servers SET until_pos = v.column3 FROM (VALUES `,
		types: types("bigint text bigint"),
		tail: `) AS v WHERE room_servers.room_nid = v.column1 AND room_servers.server = v.column2
			AND room_servers.until_pos IS NULL AND room_servers.from_pos < v.column3`,
	})
	insertTxns = newBulk(bulk{
		name: "insert transactions", rank: rankTxns,
		head:  `INSERT INTO txns (day, user_id, device_id, scope, txn_id, result) VALUES `,
		types: types("bigint text text text text text"),
		tail:  `ON CONFLICT DO NOTHING`,
	})
	insertLog = newBulk(bulk{
		name: "insert log entries", positioned: true, rank: rankLog,
		head:  `INSERT INTO log (pos, kind, room_nid, user_id, device_id, server, event_nid, body) VALUES `,
		types: types("bigint smallint bigint text text text bigint text"),
	})
)

// swapArgs are the columns of swapRooms. first is the update whose expected
// version must be found, r the last of the chain, whose values are written.
func (r *RoomUpdate) swapArgs(dst []any, first *RoomUpdate) []any {
	return append(dst, r.NID, first.ExpectVersion, r.ExpectVersion+1, string(r.RoomVersion), nullHash(r.Root),
		r.extremities(), nullInt(r.CreateNID), r.Joined, r.Invited, int64(r.Flags))
}

// insertArgs are the columns of insertRooms.
func (r *RoomUpdate) insertArgs(dst []any) []any {
	return append(dst, r.NID, string(r.ID), r.ExpectVersion+1, string(r.RoomVersion), nullHash(r.Root),
		r.extremities(), nullInt(r.CreateNID), r.Joined, r.Invited, int64(r.Flags))
}

func (r *RoomUpdate) extremities() string {
	if sort.SliceIsSorted(r.Extremities, func(i, j int) bool { return r.Extremities[i] < r.Extremities[j] }) {
		return encodeNIDs(r.Extremities)
	}
	sorted := append([]int64(nil), r.Extremities...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	return encodeNIDs(sorted)
}

func (r *StateKeyRow) statement() *bulk { return insertStateKeys }
func (r *StateKeyRow) size() int        { return 8 + len(r.Key.Type) + len(r.Key.Key) }
func (r *StateKeyRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, r.Key.Type, r.Key.Key, r.NID)
}

func (r *NodeRow) statement() *bulk { return insertNodes }
func (r *NodeRow) size() int        { return 40 + len(r.Stored) }
func (r *NodeRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, r.RoomNID, r.Hash[:], r.Stored)
}

func (e *EventRow) statement() *bulk { return insertEvents }
func (e *EventRow) size() int        { return 160 + len(e.Event.JSON) + len(e.Event.ID) }
func (e *EventRow) appendArgs(dst []any, at positions) []any {
	e.place(at)
	ev := e.Event
	return append(dst, e.NID, e.RoomNID, string(ev.ID), string(ev.Sender), ev.Type, nullInt(e.StateKeyNID), int64(e.Kind),
		e.timeline(), nullInt(e.Pos), ev.OriginServerTS, e.SoftFailed, nullString(e.Rejected), nullInt(e.RedactedBy),
		nullHash(e.Before), e.after(), ev.JSON)
}

// place fills Pos if the unit announces the event.
func (e *EventRow) place(at positions) {
	if p := at.event(e.NID); p != 0 && e.InTimeline() {
		e.Pos = p
	}
}

func (e *EventRow) timeline() any {
	if !e.InTimeline() {
		return nil
	}
	return e.Key().Depth
}

// after is the column after_root, which is NULL where the event did not change
// the state.
func (e *EventRow) after() any {
	if e.After == e.Before {
		return nil
	}
	return nullHash(e.After)
}

// eachEdge calls fn for the rows that an event has in the graphs.
func (e *EventRow) eachEdge(fn func(Row)) {
	if e.Kind != StateNone && e.Kind != StateWaiting { // both get their place in the graph later, if at all
		for _, id := range e.Event.Prev {
			fn(&edgeRow{room: e.RoomNID, prev: id, event: e.NID})
		}
	}
	if e.StateKeyNID != 0 && e.Kind != StateWaiting && len(e.Auth) == len(e.Event.Auth) {
		fn((*authRow)(e))
	}
}

// eventUpdate is an EventRow that overwrites what was found out about a stored
// event.
type eventUpdate EventRow

func (u *eventUpdate) statement() *bulk { return updateEvents }
func (u *eventUpdate) size() int        { return 100 }
func (u *eventUpdate) appendArgs(dst []any, at positions) []any {
	e := (*EventRow)(u)
	e.place(at)
	return append(dst, e.NID, int64(e.Kind), e.timeline(), nullInt(e.Pos), e.SoftFailed, nullString(e.Rejected),
		nullHash(e.Before), e.after())
}

// edgeRow is one entry of prev_events.
type edgeRow struct {
	room  int64
	prev  spec.EventID
	event int64
}

func (r *edgeRow) statement() *bulk { return insertEdges }
func (r *edgeRow) size() int        { return 16 + len(r.prev) }
func (r *edgeRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, r.room, string(r.prev), r.event)
}

// authRow is a state event's row in the graph of auth events.
type authRow EventRow

func (r *authRow) statement() *bulk { return insertAuth }
func (r *authRow) size() int        { return 24 + 8*len(r.Auth) }
func (r *authRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, r.RoomNID, r.NID, r.StateKeyNID, encodeNIDs(r.Auth))
}

func (r *Redaction) statement() *bulk { return updateRedactions }
func (r *Redaction) size() int {
	if r.Event == nil {
		return 16
	}
	return 16 + len(r.Event.JSON)
}
func (r *Redaction) appendArgs(dst []any, _ positions) []any {
	if r.Event == nil {
		return append(dst, r.NID, r.By, nil)
	}
	return append(dst, r.NID, r.By, r.Event.JSON)
}

func (r *GapRow) statement() *bulk {
	if r.Closed {
		return deleteGaps
	}
	return insertGaps
}
func (r *GapRow) size() int { return 32 }
func (r *GapRow) appendArgs(dst []any, _ positions) []any {
	dst = append(dst, r.RoomNID, r.Key.Depth, r.Key.NID)
	if r.Closed {
		return dst
	}
	return append(dst, r.RetryTS)
}

func (r *MembershipRow) statement() *bulk {
	if r.Membership == "" {
		return deleteMemberships
	}
	return upsertMemberships
}
func (r *MembershipRow) size() int { return 40 + len(r.User) + len(r.Stripped) }
func (r *MembershipRow) appendArgs(dst []any, at positions) []any {
	dst = append(dst, string(r.User), r.RoomNID)
	if r.Membership == "" {
		return dst
	}
	if p := at.event(r.EventNID); p != 0 {
		r.Pos = p
	}
	return append(dst, r.Membership, r.EventNID, nullInt(r.Pos), r.Forgotten, r.Outside, nullBytes(r.Stripped))
}

func (r *RoomServerRow) statement() *bulk {
	if r.Joined {
		return insertRoomServers
	}
	return endRoomServers
}
func (r *RoomServerRow) size() int { return 24 + len(r.Server) }
func (r *RoomServerRow) appendArgs(dst []any, at positions) []any {
	if p := at.event(r.EventNID); p != 0 {
		r.Pos = p
	}
	return append(dst, r.RoomNID, string(r.Server), r.Pos)
}

// txnDay is the length of the days by which transaction ids are thrown away,
// ms.
const txnDay = 24 * 60 * 60 * 1000

func (r *TxnRow) statement() *bulk { return insertTxns }
func (r *TxnRow) size() int {
	return 16 + len(r.User) + len(r.Device) + len(r.Scope) + len(r.TxnID) + len(r.Result)
}
func (r *TxnRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, r.TS/txnDay, string(r.User), r.Device, r.Scope, r.TxnID, r.Result)
}

// appendArgs appends the columns of the entry, whose Pos is set.
func (l *LogEntry) appendArgs(dst []any) []any {
	return append(dst, l.Pos, int64(l.Kind), nullInt(l.RoomNID), nullString(l.User), nullString(l.Device),
		nullString(l.Server), nullInt(l.EventNID), nullString(l.Text))
}
