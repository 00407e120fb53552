package federation

import (
	"context"

	"atoll/spec"
	"atoll/storage"
)

// StoredKeys is the KeyStore in the database.
func StoredKeys(db *storage.DB) KeyStore { return storedKeys{db} }

type storedKeys struct{ db *storage.DB }

func (s storedKeys) ServerKeys(ctx context.Context, servers []spec.ServerName) (keys []storage.ServerKey, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		keys, err = tx.ServerKeys(servers)
		return err
	})
	return keys, err
}

func (s storedKeys) PutServerKeys(ctx context.Context, keys []storage.ServerKey) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error { return tx.PutServerKeys(keys) })
}
