// Package storage keeps everything durable: one SQL text for SQLite and
// PostgreSQL, group commit of hot writes, and one log whose positions order
// everything that anybody may have to hear of.
//
// Reading is done by methods of Tx, which DB.Read hands out. Hot writes are
// values: DB.Commit takes a Unit, and one writer commits what many callers
// bring at the same moment as one group. DB.Write is for rare administrative
// work; within it Tx.Apply writes a unit and its log entries.
//
// A table family is one file here and one in schema/, for example receipts.go
// and schema/0007-receipts.sql; the head of schema/0001-framework.sql says how
// the latter is written. The Go file has
//
//   - its queries, each in a package variable above the method that uses it,
//     as PostgreSQL text with $N in order of first use:
//
//     var selectReceipt = query(`SELECT event_nid, ts FROM receipts WHERE room_nid = $1 AND user_id = $2`)
//
//   - methods on Tx, which run them with tx.one (a single row or ErrNotFound),
//     tx.each (every row) and tx.exec (no rows; how many changed). Arguments
//     may be named strings and integers; a NULL is read as the zero value, and
//     written with nullString, nullInt and so on; lists are passed as []int64
//     or []string to `= ANY($1::bigint[])`;
//
//   - for rows that hot paths write, a bulk statement and a row type whose
//     pointer implements Row; they travel in Unit.Extra:
//
//     var upsertReceipts = newBulk(bulk{name: "upsert receipts", rank: rankFamily + 7, key: 2, positioned: true,
//     head:  `INSERT INTO receipts (room_nid, user_id, event_nid, pos) VALUES `,
//     types: types("bigint text bigint bigint"),
//     tail:  `ON CONFLICT (room_nid, user_id) DO UPDATE SET event_nid = excluded.event_nid, pos = excluded.pos`})
//
//     func (r *ReceiptRow) statement() *bulk { return upsertReceipts }
//     func (r *ReceiptRow) size() int { return 32 + len(r.User) }
//     func (r *ReceiptRow) appendArgs(dst []any, at positions) []any {
//     return append(dst, r.RoomNID, string(r.User), r.EventNID, at.entry(r.LogEntry)) }
//
//     where LogEntry is the number, from 1, of the entry in Unit.Log that
//     announces the row.
package storage
