package federation

import (
	"context"
	"fmt"
	"time"

	"atoll/storage"
)

// strangersKeys is how long keys of servers that share no room with us are kept.
const strangersKeys = 30 * 24 * time.Hour

// Prune deletes what the tables of this package need no longer: servers that have
// caught up, and old keys of strangers. To be called about once a day.
func Prune(ctx context.Context, db *storage.DB, now time.Time) error {
	err := db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.PruneDestinations(); err != nil {
			return err
		}
		_, err := tx.PruneServerKeys(now.Add(-strangersKeys).UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("prune federation tables: %w", err)
	}
	return nil
}
