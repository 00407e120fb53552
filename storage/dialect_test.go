package storage

import (
	"strings"
	"testing"
)

func TestRewriteQuery(t *testing.T) {
	for _, c := range []struct{ claim, in, want string }{
		{"parameters are numbered the same", `SELECT a FROM t WHERE b = $1 AND c > $12`, `SELECT a FROM t WHERE b = ?1 AND c > ?12`},
		{"ANY reads a JSON list", `SELECT a FROM t WHERE b = ANY($1)`, `SELECT a FROM t WHERE b IN (SELECT value FROM json_each(?1))`},
		{"ANY may have a cast", `WHERE b = ANY($2::bigint[]) AND c`, `WHERE b IN (SELECT value FROM json_each(?2)) AND c`},
		{"ANY may be spaced and small", `WHERE b = any ( $1 )`, `WHERE b IN (SELECT value FROM json_each(?1))`},
		{"ALL excludes a list", `WHERE b <> ALL($1::text[])`, `WHERE b NOT IN (SELECT value FROM json_each(?1))`},
		{"casts go", `SELECT $1::bigint, x::text FROM t`, `SELECT ?1, x FROM t`},
		{"row locks go", `SELECT a FROM t WHERE b = $1 FOR UPDATE`, `SELECT a FROM t WHERE b = ?1`},
		{"row locks go with SKIP LOCKED", `SELECT a FROM t LIMIT 1 FOR UPDATE SKIP LOCKED`, `SELECT a FROM t LIMIT 1`},
		{"literals stay", `SELECT '$1::x = ANY($1) it''s' , $1`, `SELECT '$1::x = ANY($1) it''s' , ?1`},
		{"quoted names stay", `SELECT "a::b" FROM t`, `SELECT "a::b" FROM t`},
		{"comparisons stay", `WHERE a <> $1 AND b <= $2 AND c >= $3`, `WHERE a <> ?1 AND b <= ?2 AND c >= ?3`},
		{"comments stay", "SELECT a -- $1 it's\nFROM t", "SELECT a -- $1 it's\nFROM t"},
	} {
		if got := rewriteQuery(c.in); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.claim, got, c.want)
		}
	}
}

func TestSchemaRewriting(t *testing.T) {
	file := `-- A file.

-- Things. Here: nothing.
-- owner: somebody
-- retention: forever, test
-- clustered: small
CREATE TABLE things (
    id   bigint NOT NULL PRIMARY KEY, -- text; a word
    name text,                        -- null: none
    raw  bytea,                       -- null: none
    ok   boolean NOT NULL             -- whether
);

-- only: postgres
CREATE INDEX things_name ON things (name);
-- only: sqlite
CREATE INDEX things_id ON things (id);
INSERT INTO things (id, ok) VALUES (1, ';' = ';');
`
	parts := splitSchema(file)
	if len(parts) != 4 {
		t.Fatalf("%d statements, want 4: %q", len(parts), parts)
	}
	if parts[0].isMade != "things" || parts[0].marks["owner"] != "somebody" || parts[0].marks["retention"] != "forever, test" {
		t.Errorf("marks of the table: %+v", parts[0])
	}
	want := `CREATE TABLE things (
    id   INTEGER NOT NULL PRIMARY KEY, -- text; a word
    name TEXT,                        -- null: none
    raw  BLOB,                       -- null: none
    ok   INTEGER NOT NULL             -- whether
) STRICT, WITHOUT ROWID`
	if got, ok := parts[0].forDialect(dialectSQLite); !ok || got != want {
		t.Errorf("for SQLite:\n%s", got)
	}
	want = strings.Replace(parts[0].text, "name text,", `name text COLLATE "C",`, 1)
	if got, ok := parts[0].forDialect(dialectPostgres); !ok || got != want {
		t.Errorf("for PostgreSQL:\n%s", got)
	}
	for i, to := range []dialect{dialectPostgres, dialectSQLite} {
		for _, d := range []dialect{dialectPostgres, dialectSQLite} {
			if _, ok := parts[1+i].forDialect(d); ok != (d == to) {
				t.Errorf("statement for %s only: kept for %s is %v", to, d, ok)
			}
		}
	}
}
