package storage

// TxnKey names a request with a transaction id.
type TxnKey struct {
	User   string // user id
	Device string // "": an access token without a device
	Scope  string // as in TxnRow
	TxnID  string
}

var (
	selectTxn = query(`SELECT result FROM txns
		WHERE day = ANY($1::bigint[]) AND user_id = $2 AND device_id = $3 AND scope = $4 AND txn_id = $5 ORDER BY day DESC LIMIT 1`)
	selectDeviceTxns = query(`SELECT scope, txn_id, result FROM txns WHERE day = ANY($1::bigint[]) AND user_id = $2 AND device_id = $3`)
	deleteTxns       = query(`DELETE FROM txns WHERE day < $1`)
)

// txnDays are the days that still count at a time.
func txnDays(now int64) []int64 { return []int64{now/txnDay - 1, now / txnDay} }

// Txn returns what a request with a transaction id answered, within the last
// day at least; ErrNotFound otherwise. now is the time in ms.
func (tx *Tx) Txn(k TxnKey, now int64) (string, error) {
	var result string
	err := tx.one(selectTxn, []any{txnDays(now), k.User, k.Device, k.Scope, k.TxnID}, &result)
	return result, err
}

// DeviceTxns returns all answers to requests of a device that Txn would find,
// for a cache to begin with.
func (tx *Tx) DeviceTxns(user, device string, now int64) (map[TxnKey]string, error) {
	out := map[TxnKey]string{}
	err := tx.each(selectDeviceTxns, []any{txnDays(now), user, device}, func(r *rows) error {
		k := TxnKey{User: user, Device: device}
		var result string
		if err := r.scan(&k.Scope, &k.TxnID, &result); err != nil {
			return err
		}
		out[k] = result
		return nil
	})
	return out, err
}

// PruneTxns throws away the transaction ids that Txn does not find any more.
func (tx *Tx) PruneTxns(now int64) (int64, error) { return tx.exec(deleteTxns, now/txnDay-1) }
