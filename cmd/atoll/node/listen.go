package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"atoll/cmd/atoll/certs"
	"atoll/cmd/atoll/config"
)

// listen opens all listeners, the operator's last. Opened ones are left to
// Close when a later one fails.
func (n *Node) listen(ctx context.Context, o Options) error {
	wanted := o.Listeners
	if len(wanted) == 0 {
		var err error
		if wanted, err = configured(o.Config.Listeners, o.Log); err != nil {
			return err
		}
	}
	for _, want := range wanted {
		if err := n.open(ctx, want, "APIs"); err != nil {
			return err
		}
	}
	n.plain = len(n.listeners)
	if address := o.Config.Admin.Address; address != "" {
		n.admin = adminHandler()
		return n.open(ctx, Listener{Address: address}, "operators")
	}
	return nil
}

func (n *Node) open(ctx context.Context, want Listener, serves string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", want.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	n.log.Info("listening", "address", l.Addr().String(), "tls", want.TLS != nil, "serves", serves)
	if want.TLS != nil {
		config := want.TLS.Clone()
		config.NextProtos = []string{"h2", "http/1.1"}
		l = tls.NewListener(l, config)
	}
	n.listeners = append(n.listeners, l)
	return nil
}

// configured turns the listeners of a configuration into those of a node.
func configured(all []config.Listener, log *slog.Logger) ([]Listener, error) {
	var out []Listener
	for _, l := range all {
		listener := Listener{Address: l.Address}
		if l.TLS.Cert != "" {
			files, err := certs.OpenFiles(l.TLS.Cert, l.TLS.Key, log, time.Now)
			if err != nil {
				return nil, err
			}
			listener.TLS = &tls.Config{GetCertificate: files.GetCertificate, MinVersion: tls.VersionTLS12}
		}
		out = append(out, listener)
	}
	return out, nil
}

// adminHandler is what operators may look at.
func adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
