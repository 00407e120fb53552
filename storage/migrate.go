package storage

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"
	"time"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// migration is one file of the schema.
type migration struct {
	number int64
	name   string // file name without directory and .sql
	text   string
	sum    string // SHA-256 of text, hex
}

// migrations returns the files of the schema by number.
func migrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "schema/*.sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var out []migration
	seen := map[int64]string{}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		base := strings.TrimSuffix(strings.TrimPrefix(name, "schema/"), ".sql")
		digits, _, _ := strings.Cut(base, "-")
		number, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || len(digits) != 4 {
			return nil, fmt.Errorf("schema file %s: the name does not start with four digits and a hyphen", name)
		}
		if seen[number] != "" {
			return nil, fmt.Errorf("schema files %s and %s have the same number", seen[number], base)
		}
		seen[number] = base
		sum := sha256.Sum256(text)
		out = append(out, migration{number: number, name: base, text: string(text), sum: hex.EncodeToString(sum[:])})
	}
	return out, nil
}

const createMigrations = `CREATE TABLE IF NOT EXISTS migrations (
    number     bigint NOT NULL PRIMARY KEY, -- number of the schema file
    name       text   NOT NULL,             -- its name
    sum        text   NOT NULL,             -- SHA-256 of its text, hex
    applied_ts bigint NOT NULL              -- when it was applied, ms
)`

var (
	selectMigrations = query(`SELECT number, name, sum FROM migrations ORDER BY number`)
	insertMigration  = query(`INSERT INTO migrations (number, name, sum, applied_ts) VALUES ($1, $2, $3, $4)`)
)

// migrate brings the schema up to date, each file in a transaction of its own.
// A database that a newer version has touched, or whose files differ from
// ours, is refused.
func (db *DB) migrate(ctx context.Context, all []migration) error {
	var done map[int64]string
	err := db.Write(ctx, func(tx *Tx) error {
		if err := tx.lockSchema(); err != nil {
			return err
		}
		create, _ := ddl{text: createMigrations, isMade: "migrations"}.forDialect(db.e.dialect())
		if err := tx.c.script(create); err != nil {
			return err
		}
		var err error
		done, err = tx.applied(all)
		return err
	})
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	for _, m := range all {
		if _, ok := done[m.number]; ok {
			continue
		}
		err := db.Write(ctx, func(tx *Tx) error {
			if err := tx.lockSchema(); err != nil {
				return err
			}
			// Another process may have been faster.
			if now, err := tx.applied(all); err != nil || now[m.number] != "" {
				return err
			}
			return tx.apply(m)
		})
		if err != nil {
			return fmt.Errorf("schema file %s: %w", m.name, err)
		}
		db.log.Debug("schema changed", "file", m.name)
	}
	return nil
}

// lockSchema keeps other processes from changing the schema until the end of
// the transaction.
func (tx *Tx) lockSchema() error {
	if l, ok := tx.c.(schemaLocker); ok {
		return l.lockSchema()
	}
	return nil
}

// applied returns the sums of the files that the database has had, by number.
func (tx *Tx) applied(all []migration) (map[int64]string, error) {
	known := map[int64]migration{}
	for _, m := range all {
		known[m.number] = m
	}
	done := map[int64]string{}
	var number int64
	var name, sum string
	err := tx.each(selectMigrations, nil, func(r *rows) error {
		if err := r.scan(&number, &name, &sum); err != nil {
			return err
		}
		m, ok := known[number]
		if !ok {
			return fmt.Errorf("the database has %s, which this version does not know: it was opened by a newer one", name)
		}
		if m.sum != sum {
			return fmt.Errorf("%s is not the file that the database was made with", name)
		}
		done[number] = sum
		return nil
	})
	return done, err
}

// apply runs one schema file.
func (tx *Tx) apply(m migration) error {
	for _, d := range splitSchema(m.text) {
		text, ok := d.forDialect(tx.db.e.dialect())
		if !ok {
			continue
		}
		if err := tx.c.script(text); err != nil {
			return fmt.Errorf("%.60q: %w", text, err)
		}
	}
	_, err := tx.exec(insertMigration, m.number, m.name, m.sum, time.Now().UnixMilli())
	return err
}
