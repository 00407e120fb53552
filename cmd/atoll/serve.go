package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"atoll/cmd/atoll/config"
	"atoll/cmd/atoll/node"
	"atoll/server"
	"atoll/spec"
)

// configFlag is the configuration file, for every command that needs one.
type configFlag struct {
	Config string `help:"Configuration file. Without one the defaults and the environment count." env:"ATOLL_CONFIG" placeholder:"FILE"`
}

type serveCommand struct {
	configFlag
	conformanceFlags
}

const (
	// drainTime is how long requests under way may take when the server stops;
	// service managers kill what takes longer than 10 s.
	drainTime = 8 * time.Second
	// minPasswordBytes is the least length of a new password.
	minPasswordBytes            = 8
	minPasswordBytesConformance = 6
)

// Run serves until SIGINT or SIGTERM. A second signal kills the process.
func (c *serveCommand) Run(ctx context.Context, p *process) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	options, err := c.options(p)
	if err != nil {
		return err
	}
	limitMemory(p.environ, options.Log)
	options.Log.Info("starting", "version", options.Version, "server", options.Config.ServerName, "database", options.Config.Database)
	began := time.Now()
	n, err := node.Open(ctx, options)
	if err != nil {
		return err
	}
	options.Log.Info("ready", "took", time.Since(began).Round(time.Millisecond))
	return n.Run(ctx)
}

// options turns the command line, the configuration and the environment into
// what a node is made of.
func (c *serveCommand) options(p *process) (node.Options, error) {
	if c.Conformance {
		return c.conformanceOptions(p)
	}
	cfg, err := config.Load(config.Default(), c.Config, p.environ)
	if err != nil {
		return node.Options{}, err
	}
	return node.Options{
		Config: cfg, Version: fullVersion(), Log: newLogger(p.err, cfg.Log), Drain: drainTime,
		Passwords: server.PasswordOptions{MinBytes: minPasswordBytes},
	}, nil
}

func (c *serveCommand) conformanceOptions(p *process) (node.Options, error) {
	if c.Config != "" {
		return node.Options{}, errors.New("--conformance takes no configuration file")
	}
	cfg, err := conformanceConfig(c.conformanceFlags, p.environ)
	if err != nil {
		return node.Options{}, err
	}
	o := node.Options{Config: cfg, Version: fullVersion(), Log: newLogger(p.out, cfg.Log), Passwords: server.CheapPasswords()}
	o.Passwords.MinBytes = minPasswordBytesConformance
	tlsConfig, err := conformanceTLS(c.conformanceFlags, spec.ServerName(cfg.ServerName), time.Now(), o.Log)
	if err != nil {
		return node.Options{}, err
	}
	// The configuration has the two addresses, client and federation, in this order.
	for i, l := range cfg.Listeners {
		o.Listeners = append(o.Listeners, node.Listener{Address: l.Address, TLS: []*tls.Config{nil, tlsConfig}[min(i, 1)]})
	}
	return o, nil
}

// newLogger makes the logger of a configuration that has been validated.
func newLogger(w io.Writer, cfg config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		panic(fmt.Sprintf("log level %q was not validated", cfg.Level))
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// limitMemory tells the garbage collector of the limit of the control group
// around us, less a tenth for what it does not count, so that it works harder
// before the kernel kills the process. GOMEMLIMIT wins.
func limitMemory(environ []string, log *slog.Logger) {
	for _, entry := range environ {
		if strings.HasPrefix(entry, "GOMEMLIMIT=") {
			return
		}
	}
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	limit := cgroupLimit(string(group), func(path string) (string, error) {
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", path))
		return string(data), err
	})
	if limit == math.MaxInt64 {
		return
	}
	debug.SetMemoryLimit(limit / 10 * 9)
	log.Info("memory is limited", "bytes", limit)
}

// cgroupLimit returns the least memory limit of a control group (version 2) and
// those around it, MaxInt64 if there is none. group is the content of
// /proc/self/cgroup; read returns a file below the root of the hierarchy.
func cgroupLimit(group string, read func(path string) (string, error)) int64 {
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(group) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for ; ; path = filepath.Dir(path) {
			if text, err := read(filepath.Join(path, "memory.max")); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && n > 0 {
					limit = min(limit, n)
				}
			}
			if path == "/" || path == "." {
				break
			}
		}
	}
	return limit
}
