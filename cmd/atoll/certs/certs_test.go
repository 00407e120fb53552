package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authorityFiles writes an authority with the given key as two PEM files.
func authorityFiles(t *testing.T, key crypto.Signer, block *pem.Block) (certFile, keyFile string) {
	t.Helper()
	now := time.Now()
	template, err := newTemplate("test authority", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, keyFile, pem.EncodeToMemory(block))
	return certFile, keyFile
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// handshake connects to a server with the certificate as a client that trusts
// only the authority.
func handshake(t *testing.T, a *Authority, server *tls.Config, host string) (*x509.Certificate, error) {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	go tls.Server(there, server).Handshake()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.PEM()) {
		t.Fatal("the authority's PEM file holds no certificate")
	}
	client := tls.Client(here, &tls.Config{RootCAs: pool, ServerName: host})
	if err := client.Handshake(); err != nil {
		return nil, err
	}
	return client.ConnectionState().PeerCertificates[0], nil
}

func TestAuthorityKeyFormats(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name  string
		key   crypto.Signer
		block *pem.Block
	}{
		{"PKCS#1 RSA", rsaKey, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}},
		{"PKCS#8 RSA", rsaKey, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}},
		{"SEC 1 EC", ecKey, &pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			a, err := LoadAuthority(authorityFiles(t, tc.key, tc.block))
			if err != nil {
				t.Fatal(err)
			}
			cert, err := a.Issue([]string{"hs1", "127.0.0.1"}, time.Now(), 30*24*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			server := &tls.Config{Certificates: []tls.Certificate{cert}}
			for _, host := range []string{"hs1", "127.0.0.1"} {
				leaf, err := handshake(t, a, server, host)
				if err != nil {
					t.Fatalf("%s: %v", host, err)
				}
				if leaf.NotAfter.After(a.Cert.NotAfter) {
					t.Errorf("valid until %s, beyond its authority", leaf.NotAfter)
				}
			}
			if _, err := handshake(t, a, server, "hs2"); err == nil {
				t.Error("the certificate is accepted for another name")
			}
		})
	}
}

func TestAuthorityProblems(t *testing.T) {
	a, err := NewAuthority("one", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	otherKey := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
	for name, files := range map[string][2][]byte{
		"no certificate":       {[]byte("nothing"), otherKey},
		"no key":               {a.PEM(), []byte("nothing")},
		"somebody else's key":  {a.PEM(), otherKey},
		"a broken certificate": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), otherKey},
		"a broken key":         {a.PEM(), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("x")})},
	} {
		if _, err := ParseAuthority(files[0], files[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := LoadAuthority("/nonexistent/ca.crt", "/nonexistent/ca.key"); !os.IsNotExist(unwrap(err)) {
		t.Errorf("missing files: got %v", err)
	}
}

func unwrap(err error) error {
	if inner, ok := err.(interface{ Unwrap() error }); ok {
		return inner.Unwrap()
	}
	return err
}

func TestFilesAreTakenUpWhenRenewed(t *testing.T) {
	now := time.Now()
	a, err := NewAuthority("one", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	renew := func(at time.Time) string {
		cert, err := a.Issue([]string{"hs1"}, now, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
		write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		for _, file := range []string{certFile, keyFile} {
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
		}
		return string(cert.Certificate[0])
	}
	first := renew(now)
	clock := now
	files, err := OpenFiles(certFile, keyFile, slog.New(slog.DiscardHandler), func() time.Time { return clock })
	if err != nil {
		t.Fatal(err)
	}
	served := func() string {
		leaf, err := handshake(t, a, &tls.Config{GetCertificate: files.GetCertificate}, "hs1")
		if err != nil {
			t.Fatal(err)
		}
		return string(leaf.Raw)
	}
	if served() != first {
		t.Error("the first certificate is not served")
	}
	second := renew(now.Add(time.Minute))
	if served() != first {
		t.Error("the files are looked at for every connection")
	}
	clock = clock.Add(lookEvery)
	if served() != second {
		t.Error("the renewed certificate is not served")
	}
	write(t, keyFile, []byte("half a fi"))
	clock = clock.Add(lookEvery)
	if served() != second {
		t.Error("an unusable file replaced a good certificate")
	}
}
