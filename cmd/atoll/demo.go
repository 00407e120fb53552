package main

import (
	"context"
	"log/slog"
	"os/signal"
	"syscall"

	"atoll/cmd/atoll/config"
	"atoll/cmd/atoll/demo"
)

type demoCommand struct {
	Once bool   `help:"End after the checks, with exit code 0 if all of them held."`
	Log  string `help:"What of the servers' log to show: debug, info, warn, error or none." enum:"debug,info,warn,error,none" default:"none"`
}

// Run tells the story, and lets the servers go on until SIGINT or SIGTERM.
func (c *demoCommand) Run(ctx context.Context, p *process) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	log := slog.New(slog.DiscardHandler)
	if c.Log != "none" {
		log = newLogger(p.err, config.Log{Level: c.Log, Format: "text"})
	}
	return demo.Run(ctx, demo.Options{Once: c.Once, Out: p.out, Log: log, Version: fullVersion()})
}
