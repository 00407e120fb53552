package storage

import "atoll/spec"

// LedgerRow is a PDU that waits for what it lacks.
type LedgerRow struct {
	RoomNID    int64
	Event      spec.EventID
	Origin     spec.ServerName
	JSON       []byte // as it goes between servers
	ReceivedTS int64  // ms
}

var (
	insertLedger = query(`INSERT INTO ledger (room_nid, event_id, origin, json, received_ts) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (room_nid, event_id) DO UPDATE SET origin = excluded.origin`)
	selectLedger = query(`SELECT room_nid, event_id, origin, json, received_ts FROM ledger WHERE room_nid = $1
		ORDER BY received_ts, event_id`)
	selectLedgerRooms = query(`SELECT DISTINCT rooms.room_id FROM ledger JOIN rooms ON rooms.nid = ledger.room_nid ORDER BY rooms.room_id`)
	countLedger       = query(`SELECT count(*) FROM ledger WHERE room_nid = $1`)
	deleteLedger      = query(`DELETE FROM ledger WHERE room_nid = $1 AND event_id = $2`)
	pruneLedger       = query(`DELETE FROM ledger WHERE received_ts < $1`)

	insertInboundTxns = newBulk(bulk{
		name: "insert inbound transactions", rank: rankFamily + 7,
		head:  `INSERT INTO inbound_txns (origin, txn_id, answer, received_ts) VALUES `,
		types: types("text text bytea bigint"),
		tail:  `ON CONFLICT (origin, txn_id) DO NOTHING`,
	})
	selectInboundTxn = query(`SELECT answer FROM inbound_txns WHERE origin = $1 AND txn_id = $2`)
	pruneInboundTxns = query(`DELETE FROM inbound_txns WHERE received_ts < $1`)

	insertPublished  = query(`INSERT INTO published_rooms (room_nid, published_ts) VALUES ($1, $2) ON CONFLICT (room_nid) DO NOTHING`)
	deletePublished  = query(`DELETE FROM published_rooms WHERE room_nid = $1`)
	selectPublished  = query(`SELECT count(*) FROM published_rooms WHERE room_nid = $1`)
	selectPublishedN = query(`SELECT rooms.room_id FROM published_rooms JOIN rooms ON rooms.nid = published_rooms.room_nid ORDER BY rooms.joined DESC, rooms.room_id`)
)

// AddLedger keeps a waiting PDU; one that is there already keeps its time and
// gets the newer sender.
func (tx *Tx) AddLedger(row LedgerRow) error {
	_, err := tx.exec(insertLedger, row.RoomNID, string(row.Event), string(row.Origin), row.JSON, row.ReceivedTS)
	return err
}

// Ledger returns the waiting PDUs of a room, oldest first.
func (tx *Tx) Ledger(room int64) ([]LedgerRow, error) {
	var out []LedgerRow
	err := tx.each(selectLedger, []any{room}, func(r *rows) error {
		var row LedgerRow
		if err := r.scan(&row.RoomNID, &row.Event, &row.Origin, &row.JSON, &row.ReceivedTS); err != nil {
			return err
		}
		out = append(out, row)
		return nil
	})
	return out, err
}

// LedgerSize returns how many PDUs of a room wait.
func (tx *Tx) LedgerSize(room int64) (int64, error) {
	var n int64
	err := tx.one(countLedger, []any{room}, &n)
	return n, err
}

// LedgerRooms returns the rooms with waiting PDUs, in order.
func (tx *Tx) LedgerRooms() ([]spec.RoomID, error) {
	var out []spec.RoomID
	err := tx.each(selectLedgerRooms, nil, func(r *rows) error {
		var id spec.RoomID
		if err := r.scan(&id); err != nil {
			return err
		}
		out = append(out, id)
		return nil
	})
	return out, err
}

// DropLedger removes a PDU that was judged. One that is not there is no error.
func (tx *Tx) DropLedger(room int64, event spec.EventID) error {
	_, err := tx.exec(deleteLedger, room, string(event))
	return err
}

// PruneLedger removes the PDUs first received before the time, in ms.
func (tx *Tx) PruneLedger(before int64) error {
	_, err := tx.exec(pruneLedger, before)
	return err
}

// InboundTxnRow is what a transaction of another server was answered. It is a
// Row; the first answer to a transaction stays.
type InboundTxnRow struct {
	Origin     spec.ServerName
	TxnID      string
	Answer     []byte
	ReceivedTS int64 // ms
}

func (r *InboundTxnRow) statement() *bulk { return insertInboundTxns }

func (r *InboundTxnRow) appendArgs(dst []any, _ positions) []any {
	return append(dst, string(r.Origin), r.TxnID, r.Answer, r.ReceivedTS)
}

func (r *InboundTxnRow) size() int { return len(r.TxnID) + len(r.Answer) + 64 }

// InboundTxn returns what a transaction was answered; ErrNotFound for a new one.
func (tx *Tx) InboundTxn(origin spec.ServerName, txnID string) ([]byte, error) {
	var answer []byte
	err := tx.one(selectInboundTxn, []any{string(origin), txnID}, &answer)
	return answer, err
}

// PruneInboundTxns removes answers older than the time, in ms.
func (tx *Tx) PruneInboundTxns(before int64) error {
	_, err := tx.exec(pruneInboundTxns, before)
	return err
}

// SetPublished puts a room into the public directory, or takes it out.
func (tx *Tx) SetPublished(room int64, listed bool, now int64) error {
	if !listed {
		_, err := tx.exec(deletePublished, room)
		return err
	}
	_, err := tx.exec(insertPublished, room, now)
	return err
}

// Published reports whether a room is in the public directory.
func (tx *Tx) Published(room int64) (bool, error) {
	var n int64
	err := tx.one(selectPublished, []any{room}, &n)
	return n > 0, err
}

// PublishedRooms returns the public directory, the largest rooms first.
func (tx *Tx) PublishedRooms() ([]spec.RoomID, error) {
	var out []spec.RoomID
	err := tx.each(selectPublishedN, nil, func(r *rows) error {
		var id spec.RoomID
		if err := r.scan(&id); err != nil {
			return err
		}
		out = append(out, id)
		return nil
	})
	return out, err
}
