package storage_test

import (
	"context"
	"testing"

	"atoll/storage"
	"atoll/storage/storagetest"
)

// openSQLite opens an empty database that is checked and closed at the end.
func openSQLite(t testing.TB) *storage.DB {
	t.Helper()
	db, err := storage.Open(context.Background(), storage.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func TestContractSQLite(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) *storage.DB { return openSQLite(t) })
}
