package main

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"atoll/cmd/atoll/certs"
	"atoll/cmd/atoll/config"
	"atoll/spec"
)

// conformanceFlags say where a test suite's container has its things. The
// defaults are what public homeserver test suites expect; tests of our own move
// them elsewhere.
type conformanceFlags struct {
	Conformance       bool   `help:"Run for a public homeserver test suite: open registration, no limits, a certificate from /complement/ca. Never for real users."`
	CADir             string `hidden:"" default:"/complement/ca" name:"conformance-ca-dir"`
	ConformanceData   string `hidden:"" default:"/data" name:"conformance-data-dir"`
	ClientAddress     string `hidden:"" default:":8008" name:"conformance-client-address"`
	FederationAddress string `hidden:"" default:":8448" name:"conformance-federation-address"`
}

// conformanceSecret is the shared secret that the suites register users with.
const conformanceSecret = "complement"

// certificateTime is how long the certificate of one run is valid.
const certificateTime = 30 * 24 * time.Hour

// caFiles are the certificate and the key of the suite's authority.
func (f conformanceFlags) caFiles() (cert, key string) {
	return filepath.Join(f.CADir, "ca.crt"), filepath.Join(f.CADir, "ca.key")
}

// conformanceConfig is the configuration of a server under test: the client
// listener, then the federation listener, which gets its certificate from
// conformanceTLS.
func conformanceConfig(f conformanceFlags, environ []string) (config.Config, error) {
	cfg := config.Default()
	for _, entry := range environ {
		if name, ok := strings.CutPrefix(entry, "SERVER_NAME="); ok && name != "" {
			cfg.ServerName = name
		}
	}
	cfg.DataDir = f.ConformanceData
	cfg.Listeners = []config.Listener{{Address: f.ClientAddress}, {Address: f.FederationAddress}}
	cfg.Registration = config.Registration{Mode: "open", SharedSecret: conformanceSecret}
	cfg.RateLimits.Enabled = false
	cfg.Federation.AllowPrivateAddresses = true
	if cert, _ := f.caFiles(); exists(cert) {
		cfg.Federation.CAFile = cert
	}
	return config.Load(cfg, "", environ)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// conformanceTLS makes the certificate of a server under test, signed by the
// suite's authority. Without an authority, as when somebody tries the mode by
// hand, the certificate is signed by one that nobody knows.
func conformanceTLS(f conformanceFlags, name spec.ServerName, now time.Time, log *slog.Logger) (*tls.Config, error) {
	authority, err := certs.LoadAuthority(f.caFiles())
	if errors.Is(err, fs.ErrNotExist) {
		log.Warn("no certificate authority, so other homeservers will not trust this one", "error", err)
		authority, err = certs.NewAuthority("atoll conformance", now, certificateTime)
	}
	if err != nil {
		return nil, err
	}
	hosts := []string{strings.Trim(name.Host(), "[]")}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	cert, err := authority.Issue(hosts, now, certificateTime)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}
