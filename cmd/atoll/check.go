package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"atoll/cmd/atoll/config"
	"atoll/storage"
)

type checkCommand struct{ configFlag }

// Run verifies what must hold in the database and reports what does not.
func (c *checkCommand) Run(ctx context.Context, p *process) error {
	cfg, err := config.Load(config.Default(), c.Config, p.environ)
	if err != nil {
		return err
	}
	if file, ok := databaseFile(cfg); ok {
		if _, err := os.Stat(file); err != nil { // else it would be made, and be consistent
			return err
		}
	}
	db, err := storage.Open(ctx, storage.Options{
		Database: string(cfg.Database), DataDir: cfg.DataDir, Log: newLogger(p.err, config.Log{Level: slog.LevelWarn.String(), Format: cfg.Log.Format}),
	})
	if err != nil {
		return err
	}
	if err := errors.Join(db.Check(ctx), db.Close()); err != nil {
		return err
	}
	fmt.Fprintln(p.out, "The database is consistent.")
	return nil
}

// databaseFile returns the file of an embedded database.
func databaseFile(cfg config.Config) (string, bool) {
	kind, path, _ := strings.Cut(string(cfg.Database), ":")
	if kind != "sqlite" {
		return "", false
	}
	if path == "" {
		path = filepath.Join(cfg.DataDir, "atoll.db")
	}
	return path, true
}
