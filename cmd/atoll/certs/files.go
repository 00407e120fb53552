package certs

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often at most the files are looked at for a change.
const lookEvery = 10 * time.Second

// Files serves a certificate from two files and takes up renewed ones. It is
// safe for concurrent use.
type Files struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex // mu guards what follows
	cert    *tls.Certificate
	changed time.Time // the younger modification time of the two files
	looked  time.Time
}

// OpenFiles reads a certificate chain and its key from PEM files.
func OpenFiles(certFile, keyFile string, log *slog.Logger, now func() time.Time) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log, now: now, looked: now()}
	changed, err := f.modified()
	if err != nil {
		return nil, err
	}
	if err := f.loadLocked(changed); err != nil {
		return nil, err
	}
	return f, nil
}

// GetCertificate is for tls.Config. While renewed files are unusable, for
// example half written, the certificate before them stays in use.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		changed, err := f.modified()
		if err == nil && !changed.Equal(f.changed) {
			if err = f.loadLocked(changed); err == nil {
				f.log.Info("certificate renewed", "file", f.certFile)
			}
		}
		if err != nil {
			f.log.Error("renewed certificate is unusable, the old one stays", "file", f.certFile, "error", err)
		}
	}
	return f.cert, nil
}

func (f *Files) modified() (time.Time, error) {
	var last time.Time
	for _, name := range []string{f.certFile, f.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return time.Time{}, fmt.Errorf("certificate: %w", err)
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}

func (f *Files) loadLocked(changed time.Time) error {
	cert, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	f.cert, f.changed = &cert, changed
	return nil
}
