package storagetest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"atoll/storage"
)

// Environment of tests that need a database.
const (
	// EnvPostgres is the URL of a PostgreSQL server on which tests may make
	// schemas, for example postgres://atoll@127.0.0.1:5432/postgres.
	EnvPostgres = "ATOLL_TEST_POSTGRES"
	// EnvEngine set to "postgres" makes Open use that server instead of SQLite.
	EnvEngine = "ATOLL_TEST_ENGINE"
)

// Options names an empty database: SQLite in a directory of its own, or what
// EnvEngine says. It can be opened again and is gone after the test.
func Options(t testing.TB) storage.Options {
	t.Helper()
	switch engine := os.Getenv(EnvEngine); engine {
	case "", "sqlite":
		return storage.Options{DataDir: t.TempDir()}
	case "postgres":
		return storage.Options{Database: Postgres(t)}
	default:
		t.Fatalf("%s=%s: the engines are sqlite and postgres", EnvEngine, engine)
		return storage.Options{}
	}
}

// Open opens an empty database as Options names it and closes it when the test
// ends.
func Open(t testing.TB) *storage.DB {
	t.Helper()
	return OpenWith(t, Options(t))
}

// OpenWith opens a database and closes it when the test ends.
func OpenWith(t testing.TB, o storage.Options) *storage.DB {
	t.Helper()
	db, err := storage.Open(context.Background(), o)
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

// Postgres returns the URL of an empty schema of its own on the server that
// EnvPostgres names, with settings "name=value" of the session. Without a
// server the test is skipped, in CI it fails.
func Postgres(t testing.TB, settings ...string) string {
	t.Helper()
	server := os.Getenv(EnvPostgres)
	switch {
	case server == "" && os.Getenv("CI") == "true":
		t.Fatalf("no PostgreSQL: %s names no server, which must not happen in CI", EnvPostgres)
	case server == "":
		t.Skipf("SKIPPED, NOT TESTED ON POSTGRESQL: %s names no server", EnvPostgres)
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		t.Fatalf("%s is no URL postgres://…", EnvPostgres)
	}
	schema := "t_" + strings.ToLower(rand.Text())
	onServer(t, server, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { onServer(t, server, "DROP SCHEMA "+schema+" CASCADE") })
	q := u.Query()
	q.Set("search_path", schema)
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func onServer(t testing.TB, server, text string) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, text); err != nil {
		t.Error(err)
	}
}
