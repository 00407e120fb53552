package storage_test

import (
	"testing"

	"atoll/storage"
	"atoll/storage/storagetest"
)

// openSQLite opens an empty database that is checked and closed at the end.
func openSQLite(t testing.TB) *storage.DB {
	t.Helper()
	return storagetest.OpenWith(t, storage.Options{DataDir: t.TempDir()})
}

func TestContractSQLite(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) *storage.DB { return openSQLite(t) })
}

func TestContractPostgres(t *testing.T) {
	storagetest.Postgres(t) // says once if there is none
	storagetest.Run(t, func(t *testing.T) *storage.DB {
		return storagetest.OpenWith(t, storage.Options{Database: storagetest.Postgres(t)})
	})
}
