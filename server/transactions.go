package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// Limits of a transaction. Spec: server-server-api#transactions
const (
	MaxTransactionPDUs = 50
	MaxTransactionEDUs = 100
)

const (
	// transactionWait is how long a transaction waits for the verdicts on its
	// PDUs; what has none then is kept durably and answered as taken.
	transactionWait = 2 * time.Second
	// busyRetry is when a server may come back with what did not fit.
	busyRetry = 30 * time.Second
	// transactionsKept is how long answers are kept for transactions that come
	// again.
	transactionsKept = 24 * time.Hour
	// transactionRooms is how many rooms of one transaction are worked on at once.
	transactionRooms = 8
)

// Transaction is what one server sends to another in one request.
type Transaction struct {
	Origin spec.ServerName
	ID     string
	PDUs   [][]byte // as received
	EDUs   []EDU
}

// EDU is ephemeral data of another server, nothing of it checked but its form.
// Spec: server-server-api#edus
type EDU struct {
	Type    string
	Content []byte // a JSON object
}

// edu takes one kind of EDU. What is wrong with it is no business of its sender;
// an error is one of ours and makes the sender try the transaction again.
type edu func(ctx context.Context, origin spec.ServerName, content []byte) error

// Transactions takes in what other servers send. It is safe for concurrent use.
// Spec: server-server-api#transactions
type Transactions struct {
	*base
	rooms *Rooms
	edus  map[string]edu // by type; not changed after New
	turns keyedLock[transactionKey]
}

type transactionKey struct {
	origin spec.ServerName
	id     string
}

func newTransactions(b *base, rooms *Rooms, edus map[string]edu) *Transactions {
	return &Transactions{base: b, rooms: rooms, edus: edus}
}

// Receive takes a transaction in and returns the body of the answer. One that
// comes again gets the answer of the first time. M_LIMIT_EXCEEDED with status
// 503 says that a room has too much waiting, and that the sender is to try again;
// M_INVALID_PARAM that the transaction is too large. Neither takes anything.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
func (t *Transactions) Receive(ctx context.Context, txn Transaction) ([]byte, error) {
	if len(txn.PDUs) > MaxTransactionPDUs || len(txn.EDUs) > MaxTransactionEDUs {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "a transaction has at most %d PDUs and %d EDUs", MaxTransactionPDUs, MaxTransactionEDUs)
	}
	release, _, err := t.turns.enter(ctx, transactionKey{txn.Origin, txn.ID})
	if err != nil {
		return nil, err
	}
	defer release()
	var answer []byte
	err = t.db.Read(ctx, func(tx *storage.Tx) (err error) {
		answer, err = tx.InboundTxn(txn.Origin, txn.ID)
		return err
	})
	if err == nil || !errors.Is(err, storage.ErrNotFound) {
		return answer, err
	}
	// What has begun is finished and its answer stored, also if the sender has
	// gone: it will come again for the answer.
	return t.process(context.WithoutCancel(ctx), txn)
}

func (t *Transactions) process(ctx context.Context, txn Transaction) ([]byte, error) {
	byRoom := groupByRoom(txn.PDUs)
	for id, pdus := range byRoom {
		takes, err := t.rooms.takes(ctx, id, len(pdus))
		if err != nil {
			return nil, err
		}
		if !takes {
			return nil, busy(ErrRoomBusy)
		}
	}
	for _, e := range txn.EDUs {
		if take := t.edus[e.Type]; take != nil {
			if err := take(ctx, txn.Origin, e.Content); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", e.Type, txn.Origin, err)
			}
		}
	}
	results, err := t.receive(ctx, txn.Origin, byRoom)
	if err != nil {
		return nil, err
	}
	answer, err := json.Marshal(map[string]any{"pdus": results}, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	_, err = t.db.Commit(ctx, &storage.Unit{Extra: []storage.Row{
		&storage.InboundTxnRow{Origin: txn.Origin, TxnID: txn.ID, Answer: answer, ReceivedTS: t.ms()},
	}})
	return answer, err
}

// groupByRoom sorts PDUs by what they say is their room and keeps their order.
// Those that name none cannot even be answered: their ids depend on the room's
// version.
func groupByRoom(pdus [][]byte) map[spec.RoomID][][]byte {
	out := map[spec.RoomID][][]byte{}
	for _, raw := range pdus {
		var names struct {
			Room string `json:"room_id"`
		}
		err := json.Unmarshal(raw, &names, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			continue
		}
		if id, err := spec.ParseRoomID(names.Room); err == nil {
			out[id] = append(out[id], raw)
		}
	}
	return out
}

// pduResult is the entry of one PDU in the answer.
type pduResult struct {
	Error string `json:"error,omitzero"`
}

// receive works on the rooms side by side, and waits for each within bounds.
func (t *Transactions) receive(ctx context.Context, origin spec.ServerName, byRoom map[spec.RoomID][][]byte) (map[spec.EventID]pduResult, error) {
	ctx, cancel := context.WithTimeout(ctx, transactionWait)
	defer cancel()
	rooms := make([]spec.RoomID, 0, len(byRoom))
	for id := range byRoom {
		rooms = append(rooms, id)
	}
	received := make([][]Received, len(rooms))
	var group errgroup.Group
	group.SetLimit(transactionRooms)
	for i, id := range rooms {
		group.Go(func() error {
			received[i] = t.rooms.ReceivePDUs(ctx, origin, id, byRoom[id])
			return nil
		})
	}
	_ = group.Wait() // no function above fails
	results := map[spec.EventID]pduResult{}
	for i, list := range received {
		for _, got := range list {
			result, err := t.result(origin, rooms[i], got)
			if err != nil {
				return nil, err
			}
			if got.Event != "" {
				results[got.Event] = result
			}
		}
	}
	return results, nil
}

// result turns what became of a PDU into its entry. The error is ours: the
// transaction as a whole is to be tried again.
func (t *Transactions) result(origin spec.ServerName, room spec.RoomID, got Received) (pduResult, error) {
	var public *spec.Error
	switch {
	case errors.Is(got.Err, ErrRoomBusy):
		return pduResult{}, busy(got.Err)
	case errors.As(got.Err, &public):
		t.log.Debug("dropped a PDU", "origin", origin, "room", room, "event", got.Event, "cause", got.Err)
		return pduResult{Error: public.Msg}, nil
	case got.Err != nil:
		return pduResult{}, fmt.Errorf("PDU %s of %s: %w", got.Event, room, got.Err)
	}
	if got.Verdict.Status == roomcore.Rejected {
		return pduResult{Error: got.Verdict.Reason}, nil
	}
	return pduResult{}, nil
}

func busy(cause error) error {
	return &spec.Error{Code: spec.CodeLimitExceeded, Status: 503, Msg: "too much is waiting here; try again later",
		Err: cause, RetryAfter: busyRetry}
}

// prune forgets old answers, now and then.
func (t *Transactions) prune(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		err := t.db.Write(ctx, func(tx *storage.Tx) error { return tx.PruneInboundTxns(t.ms() - transactionsKept.Milliseconds()) })
		if err != nil && ctx.Err() == nil {
			t.log.Error("old transactions could not be removed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
