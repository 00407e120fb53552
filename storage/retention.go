package storage

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// compactStep is how many positions CompactLog looks at in one transaction.
const compactStep = 5000

var (
	selectCompacted = query(`SELECT pos, compacted_to FROM log_head WHERE one = 1`)
	// Entries of a user that a later one of the same kind, device, room and text
	// repeats. Entries of events stay, as sync and senders page by them.
	deleteSuperseded = query(`DELETE FROM log WHERE pos > $1 AND pos <= $2 AND event_nid IS NULL AND user_id IS NOT NULL AND EXISTS
		(SELECT 1 FROM log n WHERE n.user_id = log.user_id AND n.pos > log.pos AND n.kind = log.kind
			AND n.room_nid IS NOT DISTINCT FROM log.room_nid AND n.device_id IS NOT DISTINCT FROM log.device_id
			AND n.body IS NOT DISTINCT FROM log.body AND n.server IS NOT DISTINCT FROM log.server)`)
	advanceCompacted = query(`UPDATE log_head SET compacted_to = $1 WHERE one = 1`)
)

// CompactLog deletes superseded entries up to a position, which no follower
// that relies on every entry may still be behind of, and returns how many went.
// Whoever reads the log from any position on still learns of every change: the
// later entry says the same.
func (db *DB) CompactLog(ctx context.Context, upTo int64) (int64, error) {
	total := int64(0)
	for {
		done := false
		err := db.Write(ctx, func(tx *Tx) error {
			var head, compacted int64
			if err := tx.one(selectCompacted, nil, &head, &compacted); err != nil {
				return err
			}
			to := min(compacted+compactStep, upTo, head)
			if done = to <= compacted; done {
				return nil
			}
			n, err := tx.exec(deleteSuperseded, compacted, to)
			if err != nil {
				return err
			}
			total += n
			_, err = tx.exec(advanceCompacted, to)
			return err
		})
		if err != nil || done {
			return total, err
		}
	}
}

// purgeStep is how many rows of a table PurgeRoom deletes in one transaction.
const purgeStep = UnitMaxRows

// purges delete some rows each of a room. A test compares them with the tables
// whose rows go with rooms. Log entries go too: whoever reads past them learns
// nothing of a room that is not there.
var purges = []*stmt{
	purgeOf("log", "pos"),
	purgeOf("memberships", "user_id, room_nid"),
	purgeOf("room_servers", "room_nid, server, from_pos"),
	purgeOf("room_roots", "room_nid, pos"),
	purgeOf("published_rooms", "room_nid"),
	purgeOf("early_redactions", "room_nid, target_id, event_nid"),
	purgeOf("ledger", "room_nid, event_id"),
	purgeOf("timeline_gaps", "room_nid, timeline, event_nid"),
	purgeOf("event_edges", "room_nid, prev_id, event_nid"),
	purgeOf("event_auth", "room_nid, event_nid"),
	purgeOf("state_nodes", "room_nid, hash"),
	purgeOf("events", "nid"),
}

// purgeOf makes the statement that deletes at most $2 rows of room $1 from a
// table with that primary key.
func purgeOf(table, key string) *stmt {
	return query(fmt.Sprintf(`DELETE FROM %[1]s WHERE (%[2]s) IN (SELECT %[2]s FROM %[1]s WHERE room_nid = $1 LIMIT $2)`, table, key))
}

// purgeMeta is the key in meta, before the room's local id, of a purge that is
// under way.
const purgeMeta = "purge/"

var (
	insertPurge  = query(`INSERT INTO meta (key, value) VALUES ($1, '') ON CONFLICT DO NOTHING`)
	deletePurge  = query(`DELETE FROM meta WHERE key = $1`)
	selectPurges = query(`SELECT key FROM meta WHERE key LIKE $1`)
	deleteRoom   = query(`DELETE FROM rooms WHERE nid = $1`)
	// The log has holes where a purged room was, so the whole of it counts as
	// compacted.
	compactedToHead = query(`UPDATE log_head SET compacted_to = pos WHERE one = 1`)
)

// PurgeRoom deletes everything that is stored of a room. The caller has taken
// care that nobody uses the room any more. It works in small transactions; the
// row of the room goes first, so that nobody finds what is half deleted, and
// ResumePurges goes on with one that was interrupted.
func (db *DB) PurgeRoom(ctx context.Context, roomNID int64) error {
	err := db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.exec(insertPurge, purgeKey(roomNID)); err != nil {
			return err
		}
		if _, err := tx.exec(deleteRoom, roomNID); err != nil {
			return err
		}
		_, err := tx.exec(compactedToHead)
		return err
	})
	if err != nil {
		return fmt.Errorf("purge room %d: %w", roomNID, err)
	}
	db.rooms.forget(roomNID)
	for _, s := range purges {
		for more := true; more; {
			err := db.Write(ctx, func(tx *Tx) error {
				n, err := tx.exec(s, roomNID, purgeStep)
				more = n > 0
				return err
			})
			if err != nil {
				return fmt.Errorf("purge room %d: %w", roomNID, err)
			}
		}
	}
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.exec(deletePurge, purgeKey(roomNID))
		return err
	})
}

func purgeKey(roomNID int64) string { return purgeMeta + strconv.FormatInt(roomNID, 10) }

// ResumePurges goes on with the purges of rooms that were interrupted.
func (db *DB) ResumePurges(ctx context.Context) error {
	var nids []int64
	err := db.Read(ctx, func(tx *Tx) error {
		return tx.each(selectPurges, []any{purgeMeta + "%"}, func(r *rows) error {
			var key string
			if err := r.scan(&key); err != nil {
				return err
			}
			nid, err := strconv.ParseInt(strings.TrimPrefix(key, purgeMeta), 10, 64)
			nids = append(nids, nid)
			return err
		})
	})
	for _, nid := range nids {
		if err == nil {
			err = db.PurgeRoom(ctx, nid)
		}
	}
	return err
}

func (c *roomCache) forget(nid int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byNID, nid)
}
