package storage

import (
	"crypto/ed25519"
	"slices"

	"atoll/spec"
)

// ServerKey is a key by which another server signs or signed.
type ServerKey struct {
	Server spec.ServerName
	ID     spec.KeyID
	Public ed25519.PublicKey
	// ValidUntil is up to when the key may be used without asking again, ms.
	// For a key that is out of use it is the same as Expired.
	ValidUntil int64
	// Expired is when the server stopped using the key, ms; 0: still in use.
	Expired int64
	// Fetched is when the answer was received, ms.
	Fetched int64
	// Answer is the signed object that the key was published in.
	Answer []byte
}

// maxServerKeys is how many keys of one server are kept, the latest.
const maxServerKeys = 256

var (
	selectServerKeys = query(`SELECT server, key_id, public_key, valid_until_ts, expired_ts, fetched_ts, answer
		FROM server_keys WHERE server = ANY($1::text[]) ORDER BY server, key_id`)
	upsertServerKey = query(`INSERT INTO server_keys (server, key_id, public_key, valid_until_ts, expired_ts, fetched_ts, answer)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key, valid_until_ts = excluded.valid_until_ts,
			expired_ts = excluded.expired_ts, fetched_ts = excluded.fetched_ts, answer = excluded.answer`)
	deleteSurplusKeys = query(`DELETE FROM server_keys WHERE server = $1 AND key_id NOT IN
		(SELECT key_id FROM server_keys WHERE server = $1 ORDER BY fetched_ts DESC, key_id LIMIT $2)`)
	deleteStrangersKeys = query(`DELETE FROM server_keys WHERE fetched_ts < $1
		AND NOT EXISTS (SELECT 1 FROM room_servers r WHERE r.server = server_keys.server)`)
)

// ServerKeys returns all keys known of the servers.
func (tx *Tx) ServerKeys(servers []spec.ServerName) ([]ServerKey, error) {
	names := make([]string, len(servers))
	for i, s := range servers {
		names[i] = string(s)
	}
	var out []ServerKey
	for part := range slices.Chunk(names, listMax) {
		err := tx.each(selectServerKeys, []any{part}, func(r *rows) error {
			out = append(out, ServerKey{})
			k := &out[len(out)-1]
			return r.scan(&k.Server, &k.ID, &k.Public, &k.ValidUntil, &k.Expired, &k.Fetched, &k.Answer)
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// PutServerKeys adds keys, or replaces those with the same server and id. Of
// each server the 256 that were fetched last are kept.
func (tx *Tx) PutServerKeys(keys []ServerKey) error {
	counted := make(map[spec.ServerName]bool)
	for _, k := range keys {
		_, err := tx.exec(upsertServerKey, k.Server, k.ID, []byte(k.Public), k.ValidUntil, nullInt(k.Expired), k.Fetched, k.Answer)
		if err != nil {
			return err
		}
		counted[k.Server] = true
	}
	for server := range counted {
		if _, err := tx.exec(deleteSurplusKeys, server, maxServerKeys); err != nil {
			return err
		}
	}
	return nil
}

// PruneServerKeys forgets keys that were fetched before a time, ms, of servers
// that are in no room that we know. It returns how many went.
func (tx *Tx) PruneServerKeys(before int64) (int64, error) {
	return tx.exec(deleteStrangersKeys, before)
}

// DestinationRow says how far a server has what it is to be sent.
type DestinationRow struct {
	Server spec.ServerName
	// Cursor is the position up to which the server has everything.
	Cursor int64
	// Done: the server has caught up with the senders; Cursor means nothing.
	Done bool
	// Failures counts the failed attempts in a row.
	Failures int
	// Retry is when to try again, ms; 0: at any time.
	Retry int64
}

// SenderPosition moves the position up to which everything has been delivered to
// every server that has no DestinationRow of its own.
type SenderPosition struct{ Pos int64 }

const rankFederation = rankFamily + 5

var (
	upsertDestinations = newBulk(bulk{
		name: "upsert destinations", rank: rankFederation, key: 1,
		head:  `INSERT INTO destinations (server, cursor, failures, retry_ts) VALUES `,
		types: types("text bigint bigint bigint"),
		tail: `ON CONFLICT (server) DO UPDATE SET cursor = excluded.cursor, failures = excluded.failures,
			retry_ts = excluded.retry_ts`,
	})
	upsertSenderPosition = newBulk(bulk{
		name: "move sender position", rank: rankFederation, key: 1,
		head:  `INSERT INTO sender_position (one, pos) VALUES `,
		types: types("smallint bigint"),
		tail:  `ON CONFLICT (one) DO UPDATE SET pos = excluded.pos`,
	})
	selectSenderPosition = query(`SELECT pos FROM sender_position WHERE one = 1`)
	selectDestinations   = query(`SELECT server, cursor, failures, retry_ts FROM destinations WHERE cursor IS NOT NULL ORDER BY server`)
	deleteDestinations   = query(`DELETE FROM destinations WHERE cursor IS NULL`)
	selectSenderFloor    = query(`SELECT min(pos) FROM (SELECT pos FROM sender_position
		UNION ALL SELECT cursor FROM destinations WHERE cursor IS NOT NULL) AS all_positions`)
)

func (r *DestinationRow) statement() *bulk { return upsertDestinations }
func (r *DestinationRow) size() int        { return 40 + len(r.Server) }
func (r *DestinationRow) appendArgs(dst []any, _ positions) []any {
	var cursor any
	if !r.Done {
		cursor = r.Cursor
	}
	return append(dst, string(r.Server), cursor, int64(r.Failures), r.Retry)
}

func (r *SenderPosition) statement() *bulk { return upsertSenderPosition }
func (r *SenderPosition) size() int        { return 16 }
func (r *SenderPosition) appendArgs(dst []any, _ positions) []any {
	return append(dst, int64(1), r.Pos)
}

// SenderPosition returns the position that the row of that name moved last;
// ErrNotFound if there never was one.
func (tx *Tx) SenderPosition() (int64, error) {
	var pos int64
	err := tx.one(selectSenderPosition, nil, &pos)
	return pos, err
}

// Destinations returns the servers that have not caught up.
func (tx *Tx) Destinations() ([]DestinationRow, error) {
	var out []DestinationRow
	err := tx.each(selectDestinations, nil, func(r *rows) error {
		out = append(out, DestinationRow{})
		d := &out[len(out)-1]
		return r.scan(&d.Server, &d.Cursor, &d.Failures, &d.Retry)
	})
	return out, err
}

// PruneDestinations forgets the servers that have caught up.
func (tx *Tx) PruneDestinations() (int64, error) { return tx.exec(deleteDestinations) }

// SenderFloor returns the position that every server is past; 0 if nothing was
// sent yet. Intervals of room_servers that ended before it can be pruned.
func (tx *Tx) SenderFloor() (int64, error) {
	var pos int64
	err := tx.one(selectSenderFloor, nil, &pos)
	return pos, err
}

// Unsent is an event that a server has yet to be sent.
type Unsent struct{ Pos, NID, RoomNID int64 }

// UnsentQuery asks for the events that a server is to be sent: those whose
// position its time in their room covers, and whose log entry has a text that
// begins with Mark.
type UnsentQuery struct {
	Server      spec.ServerName
	Mark        string // neither % nor _
	After, UpTo int64  // After < position ≤ UpTo
	Limit       int
}

const fromUnsent = ` FROM room_servers s
	JOIN log l ON l.room_nid = s.room_nid AND l.pos >= s.from_pos AND (s.until_pos IS NULL OR l.pos <= s.until_pos)
	WHERE s.server = $1 AND l.pos > $2 AND l.pos <= $3 AND l.kind = 1 AND l.body LIKE $4`

var (
	selectUnsent     = query(`SELECT l.pos, l.event_nid, l.room_nid` + fromUnsent + ` ORDER BY l.pos DESC LIMIT $5`)
	selectUnsentLast = query(`SELECT pos, event_nid, room_nid FROM log WHERE pos IN
		(SELECT max(l.pos)` + fromUnsent + ` GROUP BY l.room_nid) ORDER BY pos DESC LIMIT $5`)
)

// Unsent returns the latest events that the query finds, oldest first.
func (tx *Tx) Unsent(q UnsentQuery) ([]Unsent, error) { return tx.unsent(selectUnsent, q) }

// UnsentLast returns the latest event of each room that the query finds, oldest
// first.
func (tx *Tx) UnsentLast(q UnsentQuery) ([]Unsent, error) { return tx.unsent(selectUnsentLast, q) }

func (tx *Tx) unsent(s *stmt, q UnsentQuery) ([]Unsent, error) {
	var out []Unsent
	args := []any{q.Server, q.After, q.UpTo, q.Mark + "%", q.Limit}
	err := tx.each(s, args, func(r *rows) error {
		out = append(out, Unsent{})
		u := &out[len(out)-1]
		return r.scan(&u.Pos, &u.NID, &u.RoomNID)
	})
	slices.Reverse(out)
	return out, err
}

var selectServersSince = query(`SELECT ` + serverColumns + ` FROM room_servers
	WHERE room_nid = $1 AND (until_pos IS NULL OR until_pos >= $2) ORDER BY server, from_pos`)

// RoomServersSince returns the times during which servers had users in a room
// that end at a position or later, or have not ended.
func (tx *Tx) RoomServersSince(roomNID, pos int64) ([]ServerInterval, error) {
	return tx.intervals(selectServersSince, roomNID, pos)
}
