package federation

import (
	"context"
	"errors"

	"atoll/storage"
)

// StoredSender is the SenderStore in the database.
func StoredSender(db *storage.DB) SenderStore { return storedSender{db} }

type storedSender struct{ db *storage.DB }

func (s storedSender) Follow(from int64) LogReader { return s.db.Follow(from) }
func (s storedSender) Head() int64                 { return s.db.Head() }

func (s storedSender) Load(ctx context.Context) (pos int64, found bool, behind []storage.DestinationRow, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if behind, err = tx.Destinations(); err != nil {
			return err
		}
		pos, err = tx.SenderPosition()
		found = err == nil
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
		return err
	})
	return pos, found, behind, err
}

func (s storedSender) Save(ctx context.Context, rows []storage.Row) error {
	_, err := s.db.Commit(ctx, &storage.Unit{Extra: rows})
	return err
}

func (s storedSender) RoomServers(ctx context.Context, roomNID, since int64) (out []storage.ServerInterval, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		out, err = tx.RoomServersSince(roomNID, since)
		return err
	})
	return out, err
}

func (s storedSender) Events(ctx context.Context, nids []int64) (out []storage.EventRow, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		out, err = tx.EventsByNIDs(nids)
		return err
	})
	return out, err
}

func (s storedSender) Unsent(ctx context.Context, q storage.UnsentQuery, lastOfRooms bool) (out []storage.Unsent, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if lastOfRooms {
			out, err = tx.UnsentLast(q)
			return err
		}
		out, err = tx.Unsent(q)
		return err
	})
	return out, err
}
