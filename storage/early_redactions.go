package storage

import "atoll/spec"

// EarlyRedactionRow is a redaction that came before the event it names.
type EarlyRedactionRow struct {
	RoomNID  int64
	Target   spec.EventID
	EventNID int64 // the redaction
}

var (
	insertEarlyRedactions = newBulk(bulk{
		name: "insert early redactions", rank: rankFamily + 7,
		head:  `INSERT INTO early_redactions (room_nid, target_id, event_nid) VALUES `,
		types: types("bigint text bigint"),
		tail:  `ON CONFLICT DO NOTHING`,
	})
	selectEarlyRedactions = query(`SELECT event_nid FROM early_redactions WHERE room_nid = $1 AND target_id = $2 ORDER BY event_nid`)
	selectJoinedUsers     = query(`SELECT user_id FROM memberships WHERE room_nid = $1 AND membership = $2`)
)

func (r *EarlyRedactionRow) statement() *bulk { return insertEarlyRedactions }

func (r *EarlyRedactionRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, r.RoomNID, string(r.Target), r.EventNID)
}

func (r *EarlyRedactionRow) size() int { return len(r.Target) + 32 }

// RedactionsOf returns the redactions that came before the event they name, in
// the order they came.
func (tx *Tx) RedactionsOf(room int64, target spec.EventID) ([]int64, error) {
	var nids []int64
	err := tx.each(selectEarlyRedactions, []any{room, string(target)}, func(r *rows) error {
		var nid int64
		err := r.scan(&nid)
		nids = append(nids, nid)
		return err
	})
	return nids, err
}

// JoinedByServer counts the joined members of a room by their server.
func (tx *Tx) JoinedByServer(room int64) (map[spec.ServerName]int, error) {
	counts := map[spec.ServerName]int{}
	err := tx.each(selectJoinedUsers, []any{room, "join"}, func(r *rows) error {
		var user spec.UserID
		if err := r.scan(&user); err != nil {
			return err
		}
		counts[user.Server()]++
		return nil
	})
	return counts, err
}
