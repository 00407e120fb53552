package server

import (
	"context"
	"time"

	"atoll/storage"
)

const (
	// maintenanceEvery is how often the retention rules are carried out that no
	// other part sees to.
	maintenanceEvery = time.Hour
	// compactBehind is how many of the last log entries are never compacted, so
	// that who follows closely sees each.
	compactBehind = 10_000
)

// maintain keeps what the server stores small, until ctx ends: superseded log
// entries, transaction ids of clients, servers that left rooms long ago, and
// purges that were interrupted. What fails is logged and tried again.
func (s *Server) maintain(ctx context.Context) error {
	tick := time.NewTicker(maintenanceEvery)
	defer tick.Stop()
	for {
		if err := s.db.ResumePurges(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("interrupted purges could not go on", "cause", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.prune(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("old data could not be removed", "cause", err)
		}
	}
}

// prune carries out the rules once.
func (s *Server) prune(ctx context.Context) error {
	var floor int64 // no other server is behind it
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.PruneTxns(s.ms()); err != nil {
			return err
		}
		var err error
		if floor, err = tx.SenderFloor(); err != nil {
			return err
		}
		_, err = tx.PruneRoomServers(floor)
		return err
	})
	if err != nil {
		return err
	}
	upTo := min(floor, s.db.Head()) - compactBehind
	if upTo <= 0 {
		return nil
	}
	_, err = s.db.CompactLog(ctx, upTo)
	return err
}
