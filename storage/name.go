package storage

import (
	"context"
	"errors"
	"fmt"

	"atoll/spec"
)

// metaServerName is the name of the homeserver whose database this is.
const metaServerName = "server_name"

var (
	selectMeta = query(`SELECT value FROM meta WHERE key = $1`)
	insertMeta = query(`INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`)
)

// BindServerName says whose database this is. The first call decides for ever;
// later ones fail if they name another server, because every user, room and
// event in here carries the first name. It writes only once.
func (db *DB) BindServerName(ctx context.Context, name spec.ServerName) error {
	var bound spec.ServerName
	err := db.Read(ctx, func(tx *Tx) error { return tx.one(selectMeta, []any{metaServerName}, &bound) })
	if errors.Is(err, ErrNotFound) {
		err = db.Write(ctx, func(tx *Tx) error {
			if _, err := tx.exec(insertMeta, metaServerName, name); err != nil {
				return err
			}
			return tx.one(selectMeta, []any{metaServerName}, &bound)
		})
	}
	if err != nil {
		return fmt.Errorf("server name of the database: %w", err)
	}
	if bound != name {
		return fmt.Errorf("this is the database of %s, it can not serve %s", bound, name)
	}
	return nil
}
