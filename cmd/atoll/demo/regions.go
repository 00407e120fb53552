package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"atoll/cmd/atoll/certs"
	"atoll/cmd/atoll/config"
	"atoll/cmd/atoll/node"
)

// region is one homeserver and the person who lives there.
type region struct {
	name, person, password string
	node                   *node.Node
	user                   *client
}

// startRegions starts the three homeservers, all at once.
func (w *world) startRegions(ctx context.Context) error {
	now := time.Now()
	authority, err := certs.NewAuthority("atoll demo", now, 24*time.Hour)
	if err != nil {
		return err
	}
	caFile := filepath.Join(w.dir, "ca.crt")
	if err := os.WriteFile(caFile, authority.PEM(), 0o600); err != nil {
		return err
	}
	for _, r := range []region{{name: "us", person: "ana"}, {name: "eu", person: "ben"}, {name: "asia", person: "chiyo"}} {
		r.password = strings.ToLower(rand.Text()[:12])
		w.regions = append(w.regions, &r)
	}
	var group errgroup.Group
	for _, r := range w.regions {
		group.Go(func() error {
			cert, err := authority.Issue([]string{r.name}, now, 24*time.Hour)
			if err != nil {
				return err
			}
			if err := w.startRegion(ctx, r, caFile, cert); err != nil {
				return fmt.Errorf("start %s: %w", r.name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (w *world) startRegion(ctx context.Context, r *region, caFile string, cert tls.Certificate) error {
	cfg := config.Default()
	cfg.ServerName = r.name
	cfg.DataDir = filepath.Join(w.dir, r.name)
	cfg.Registration.Mode = "open"
	cfg.RateLimits.Enabled = false
	cfg.Federation.CAFile = caFile
	cfg.Federation.AllowPrivateAddresses = true
	n, err := node.Open(ctx, node.Options{
		Config:  cfg,
		Version: w.version,
		Listeners: []node.Listener{
			{Address: "127.0.0.1:0"},
			{Address: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}},
		},
		Resolver: w.wire,
		Connect:  w.wire.connector(r.name),
		Log:      w.log.With("region", r.name),
	})
	if err != nil {
		return err
	}
	port, err := portOf(n.Addresses()[1])
	if err != nil {
		return err
	}
	w.wire.attach(r.name, port)
	r.node = n
	r.user = &client{base: "http://" + n.Addresses()[0].String(), http: &http.Client{}}
	w.spawn(n.Run)
	return nil
}
