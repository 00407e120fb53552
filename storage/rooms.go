package storage

import (
	"fmt"
	"sync"

	"atoll/spec"
)

const roomColumns = `nid, room_id, room_version, version, root, extremities, create_nid, joined, invited, flags`

var (
	selectRoomByID  = query(`SELECT ` + roomColumns + ` FROM rooms WHERE room_id = $1`)
	selectRoomByNID = query(`SELECT ` + roomColumns + ` FROM rooms WHERE nid = $1`)
	selectRooms     = query(`SELECT ` + roomColumns + ` FROM rooms ORDER BY nid`)
)

// RoomByID returns the row of a room; ErrNotFound if the room is not known.
func (tx *Tx) RoomByID(id spec.RoomID) (RoomRow, error) { return tx.room(selectRoomByID, string(id)) }

// RoomByNID is RoomByID by local id.
func (tx *Tx) RoomByNID(nid int64) (RoomRow, error) { return tx.room(selectRoomByNID, nid) }

func (tx *Tx) room(s *stmt, key any) (RoomRow, error) {
	out, found := RoomRow{}, false
	err := tx.each(s, []any{key}, func(r *rows) error {
		found = true
		return scanRoom(r, &out)
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	return out, err
}

// Rooms calls fn for every room, by local id. fn must not use the transaction.
func (tx *Tx) Rooms(fn func(RoomRow) error) error {
	return tx.each(selectRooms, nil, func(r *rows) error {
		var room RoomRow
		if err := scanRoom(r, &room); err != nil {
			return err
		}
		return fn(room)
	})
}

func scanRoom(r *rows, out *RoomRow) error {
	var extremities string
	err := r.scan(&out.NID, &out.ID, &out.RoomVersion, &out.Version, &out.Root, &extremities, &out.CreateNID,
		&out.Joined, &out.Invited, &out.Flags)
	if err != nil {
		return err
	}
	out.Extremities, err = decodeNIDs(extremities)
	return err
}

// roomCacheMax bounds the cache of what never changes about rooms.
const roomCacheMax = 16 << 10

// roomCache knows id and rules of rooms by local id, to decode their events.
type roomCache struct {
	// mu guards byNID.
	mu    sync.Mutex
	byNID map[int64]roomFacts
}

type roomFacts struct {
	id    spec.RoomID
	rules *spec.Rules
}

func newRoomCache() *roomCache { return &roomCache{byNID: map[int64]roomFacts{}} }

var selectRoomFacts = query(`SELECT room_id, room_version, flags FROM rooms WHERE nid = $1`)

// roomFacts returns id and rules of a room.
func (tx *Tx) roomFacts(nid int64) (roomFacts, error) {
	c := tx.db.rooms
	c.mu.Lock()
	f, ok := c.byNID[nid]
	c.mu.Unlock()
	if ok {
		return f, nil
	}
	var version spec.RoomVersion
	var flags RoomFlags
	if err := tx.one(selectRoomFacts, []any{nid}, &f.id, &version, &flags); err != nil {
		return f, fmt.Errorf("room %d: %w", nid, err)
	}
	if f.rules, ok = spec.RulesOf(version); !ok {
		return f, fmt.Errorf("room %s has the unknown version %q", f.id, version)
	}
	if flags&RoomOutside != 0 || tx.write {
		return f, nil // the version may still be corrected, or the row rolled back
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byNID) >= roomCacheMax {
		clear(c.byNID)
	}
	c.byNID[nid] = f
	return f, nil
}
