package server

import (
	"context"
	"errors"
	"strings"
	"sync"

	"atoll/spec"
	"atoll/storage"
)

// How many devices' transaction ids are held in memory, and how many of each.
const (
	maxTxnDevices = 20_000
	maxTxnsEach   = 1_000
)

// txnKey is the scope of a transaction id: the device, not the access token, and
// the request it was given with. Spec: client-server-api#transaction-identifiers.
type txnKey struct {
	user   spec.UserID
	device string
	scope  string
	txn    string
}

type txnDevice struct {
	user   spec.UserID
	device string
}

// txns remembers what requests with transaction ids answered. The first request
// of a device reads what the database has of it; from then on memory is complete
// for that device, because all of it is written through here. Safe for
// concurrent use.
type txns struct {
	*base
	mu      sync.Mutex // guards devices and their maps
	devices map[txnDevice]*deviceTxns
}

type deviceTxns struct {
	loaded bool
	// partial: some were dropped for space, so what is not here may be in the
	// database.
	partial bool
	done    map[string]string        // scope and id → answer
	names   map[string]string        // and the other way round
	flight  map[string]chan struct{} // closed when the request ends
}

func newTxns(b *base) *txns { return &txns{base: b, devices: map[txnDevice]*deviceTxns{}} }

// once runs fn unless the same transaction was answered before, and then
// returns that answer. A request that comes while its twin is under way waits
// for it. fn stores the transaction itself, together with its effect.
func (t *txns) once(ctx context.Context, key txnKey, fn func() (string, error)) (string, error) {
	name := key.scope + "\x00" + key.txn
	for {
		d, err := t.device(ctx, key)
		if err != nil {
			return "", err
		}
		t.mu.Lock()
		if answer, ok := d.done[name]; ok {
			t.mu.Unlock()
			return answer, nil
		}
		twin := d.flight[name]
		if twin == nil {
			d.flight[name] = make(chan struct{})
			partial := d.partial
			t.mu.Unlock()
			return t.run(d, name, func() (string, error) {
				if partial {
					if answer, err := t.stored(ctx, key); err == nil || !errors.Is(err, storage.ErrNotFound) {
						return answer, err
					}
				}
				return fn()
			})
		}
		t.mu.Unlock()
		select {
		case <-twin:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (t *txns) run(d *deviceTxns, name string, fn func() (string, error)) (answer string, err error) {
	finished := false
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		close(d.flight[name])
		delete(d.flight, name)
		if finished && err == nil {
			d.keep(name, answer)
		}
	}()
	answer, err = fn()
	finished = true
	return answer, err
}

// keep remembers an answer. t.mu is held.
func (d *deviceTxns) keep(name, answer string) {
	if len(d.done) >= maxTxnsEach {
		d.partial = true
		for other := range d.done {
			delete(d.names, d.done[other])
			delete(d.done, other)
			if len(d.done) < maxTxnsEach/2 {
				break
			}
		}
	}
	d.done[name], d.names[answer] = answer, name
}

// note takes in a transaction as the log tells it, which may be before the
// request that it belongs to is answered.
func (t *txns) note(row *storage.TxnRow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.devices[txnDevice{row.User, row.Device}]; d != nil {
		d.names[row.Result] = row.Scope + "\x00" + row.TxnID
	}
}

// idOf returns the transaction id with which a device sent an event, as far as
// memory has the device; "" if it did not.
func (t *txns) idOf(user spec.UserID, device string, event spec.EventID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[txnDevice{user, device}]
	if d == nil {
		return ""
	}
	name := d.names[string(event)]
	return name[strings.IndexByte(name, 0)+1:]
}

// stored looks a transaction up in the database.
func (t *txns) stored(ctx context.Context, key txnKey) (string, error) {
	var answer string
	err := t.db.Read(ctx, func(tx *storage.Tx) (err error) {
		answer, err = tx.Txn(storage.TxnKey{User: string(key.user), Device: key.device, Scope: key.scope, TxnID: key.txn}, t.ms())
		return err
	})
	return answer, err
}

// device returns what is known of a device's transactions, read from the
// database the first time.
func (t *txns) device(ctx context.Context, key txnKey) (*deviceTxns, error) {
	id := txnDevice{key.user, key.device}
	t.mu.Lock()
	d := t.devices[id]
	if d == nil {
		t.makeRoom()
		d = &deviceTxns{done: map[string]string{}, names: map[string]string{}, flight: map[string]chan struct{}{}}
		t.devices[id] = d
	}
	loaded := d.loaded
	t.mu.Unlock()
	if loaded {
		return d, nil
	}
	var rows map[storage.TxnKey]string
	err := t.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.DeviceTxns(string(key.user), key.device, t.ms())
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, answer := range rows {
		d.keep(k.Scope+"\x00"+k.TxnID, answer)
	}
	d.loaded = true
	return d, nil
}

// makeRoom drops devices without requests under way; they are read again when
// they come back. t.mu is held.
func (t *txns) makeRoom() {
	if len(t.devices) < maxTxnDevices {
		return
	}
	for id, d := range t.devices {
		if len(d.flight) == 0 {
			delete(t.devices, id)
			if len(t.devices) < maxTxnDevices*9/10 {
				return
			}
		}
	}
}
