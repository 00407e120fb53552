package storage

import (
	"slices"

	"atoll/spec"
)

// This file has queries that only sync makes.

var (
	selectLogRoomBack = query(`SELECT ` + logColumns + ` FROM log
		WHERE room_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4`)
	selectRoomsWithNews = query(`SELECT r.nid FROM rooms r WHERE r.nid = ANY($1::bigint[])
		AND EXISTS (SELECT 1 FROM log l WHERE l.room_nid = r.nid AND l.pos > $2 AND l.pos <= $3)`)
	selectRoomIDs      = query(`SELECT nid, room_id FROM rooms WHERE nid = ANY($1::bigint[])`)
	selectFirstMembers = query(`SELECT ` + memberColumns + ` FROM memberships
		WHERE room_nid = $1 AND membership = ANY($2::text[]) ORDER BY event_nid LIMIT $3`)
	selectSomeMembers = query(`SELECT ` + memberColumns + ` FROM memberships
		WHERE room_nid = $1 AND membership = ANY($2::text[]) ORDER BY membership, user_id LIMIT $3`)
)

// LogOfRoomBack is LogOf for a room, newest first.
func (tx *Tx) LogOfRoomBack(room, after, upTo int64, limit int) ([]LogEntry, error) {
	return tx.log(selectLogRoomBack, room, after, upTo, limit)
}

// RoomsWithNews returns those of the rooms that the log has entries of with
// after < position ≤ upTo.
func (tx *Tx) RoomsWithNews(nids []int64, after, upTo int64) ([]int64, error) {
	var out []int64
	for part := range slices.Chunk(nids, listMax) {
		err := tx.each(selectRoomsWithNews, []any{part, after, upTo}, func(r *rows) error {
			var nid int64
			err := r.scan(&nid)
			out = append(out, nid)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// RoomIDs returns the ids of rooms by local id; those that do not exist are
// left out.
func (tx *Tx) RoomIDs(nids []int64) (map[int64]spec.RoomID, error) {
	out := make(map[int64]spec.RoomID, len(nids))
	for part := range slices.Chunk(nids, listMax) {
		err := tx.each(selectRoomIDs, []any{part}, func(r *rows) error {
			var nid int64
			var id spec.RoomID
			err := r.scan(&nid, &id)
			out[nid] = id
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// FirstMembers returns the limit members of a room, of those memberships, whose
// membership events came first; ordered false asks for any of them, which in a
// room of many members costs much less.
func (tx *Tx) FirstMembers(room int64, memberships []string, limit int, ordered bool) ([]MembershipRow, error) {
	if ordered {
		return tx.memberships(selectFirstMembers, room, memberships, limit)
	}
	return tx.memberships(selectSomeMembers, room, memberships, limit)
}

// StateKeys is DB.StateKeysByNID within the transaction.
func (tx *Tx) StateKeys(nids []int64) (map[int64]spec.StateKey, error) {
	out := make(map[int64]spec.StateKey, len(nids))
	var missing []int64
	c := tx.db.keys
	c.mu.Lock()
	for _, nid := range nids {
		if k, ok := c.keyLocked(nid); ok {
			out[nid] = k
		} else {
			missing = append(missing, nid)
		}
	}
	c.mu.Unlock()
	return out, tx.stateKeysByNID(missing, out)
}
