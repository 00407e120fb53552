package storage

import (
	"errors"

	"atoll/spec"
)

// RoomRootRow says that the current state of a room has a new root from the
// log entry of an event of the same unit on. It is a Row, written only when
// the root changes.
type RoomRootRow struct {
	RoomNID  int64
	EventNID int64 // the unit's log entry of this event gives the position
	Root     spec.Hash
}

var insertRoomRoots = newBulk(bulk{
	name: "insert room roots", positioned: true, rank: rankFamily + 6, key: 2,
	head:  `INSERT INTO room_roots (room_nid, pos, root) VALUES `,
	types: types("bigint bigint bytea"),
	tail:  `ON CONFLICT (room_nid, pos) DO UPDATE SET root = excluded.root`,
})

func (r *RoomRootRow) statement() *bulk { return insertRoomRoots }
func (r *RoomRootRow) size() int        { return 48 }
func (r *RoomRootRow) appendArgs(dst []any, at positions) []any {
	return append(dst, r.RoomNID, at.event(r.EventNID), nullHash(r.Root))
}

var selectRoomRootAt = query(`SELECT pos, root FROM room_roots WHERE room_nid = $1 AND pos <= $2 ORDER BY pos DESC LIMIT 1`)

// RoomRootAt returns the root of a room's current state as of a log position;
// zero before the first, which is the empty state.
func (tx *Tx) RoomRootAt(room, pos int64) (spec.Hash, error) {
	_, root, err := tx.RoomRootSince(room, pos)
	return root, err
}

// RoomRootSince is RoomRootAt with the position from which the root holds; 0
// before the first.
func (tx *Tx) RoomRootSince(room, pos int64) (since int64, root spec.Hash, err error) {
	err = tx.one(selectRoomRootAt, []any{room, pos}, &since, &root)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return since, root, err
}
