package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// suiteCA writes an authority as a test suite does, with a PKCS#1 RSA key, and
// returns its directory and a pool with its certificate.
func suiteCA(t *testing.T) (string, *x509.CertPool) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "suite"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{
		"ca.crt": certPEM,
		"ca.key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return dir, pool
}

// conformance starts a server as a suite's container does: nothing in the
// environment but the name, no directory for temporary files.
func conformance(t *testing.T, name, ca, data string, more ...string) *running {
	t.Helper()
	return serve(t, []string{"SERVER_NAME=" + name}, append([]string{"--conformance", "--conformance-ca-dir", ca, "--conformance-data-dir", data,
		"--conformance-client-address", "127.0.0.1:0", "--conformance-federation-address", "127.0.0.1:0"}, more...)...)
}

// publishedKey fetches the server's signing key over TLS, as another homeserver
// that trusts only the suite's authority.
func publishedKey(t *testing.T, s *running, host string, pool *x509.CertPool) (name string, keys map[string]any) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: host}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + s.addresses[1] + "/_matrix/key/v2/server")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Name string         `json:"server_name"`
		Keys map[string]any `json:"verify_keys"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Name, answer.Keys
}

func TestConformanceMode(t *testing.T) {
	ca, pool := suiteCA(t)
	data := filepath.Join(t.TempDir(), "data")
	s := conformance(t, "hs1", ca, data)
	s.must("GET", "/_matrix/client/versions", "", nil)
	name, keys := publishedKey(t, s, "hs1", pool)
	if name != "hs1" || len(keys) != 1 {
		t.Errorf("publishes %v as %q, want one key as hs1", keys, name)
	}
	token := s.register("alice", "sixsix")
	for range 100 { // far more than any limit would let through
		s.must("GET", "/_matrix/client/v3/account/whoami", token, nil)
	}
	if status, _, err := s.ask("POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": "bob", "password": "fives", "auth": map[string]string{"type": "m.login.dummy"},
	}); err != nil || status != http.StatusBadRequest {
		t.Errorf("a password of five characters: %d %v, want 400", status, err)
	}
	env := []string{"ATOLL_REGISTRATION_SHARED_SECRET=complement"}
	if _, stderr, code := atoll(t, "sixsix", env, "user", "create", "carol", "--admin", "--url", "http://"+s.addresses[0]); code != 0 {
		t.Errorf("registration by shared secret: %s", stderr)
	}
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}

	s = conformance(t, "hs1", ca, data)
	if _, again := publishedKey(t, s, "hs1", pool); len(again) != 1 || !sameKeys(keys, again) {
		t.Errorf("the key changed from %v to %v over a restart", keys, again)
	}
	s.must("GET", "/_matrix/client/v3/account/whoami", token, nil)
	s.login("carol", "sixsix")
}

// TestConformanceFederation lets two servers under test meet, each in a process
// of its own, under a name that only /etc/hosts knows, with certificates that
// only their suite's authority vouches for.
func TestConformanceFederation(t *testing.T) {
	ca, _ := suiteCA(t)
	var servers []*running
	for range 2 {
		address := freeAddress(t)
		_, port, _ := net.SplitHostPort(address)
		servers = append(servers, serve(t, []string{"SERVER_NAME=localhost:" + port}, "--conformance", "--conformance-ca-dir", ca,
			"--conformance-data-dir", filepath.Join(t.TempDir(), "data"),
			"--conformance-client-address", "127.0.0.1:0", "--conformance-federation-address", address))
	}
	one, two := servers[0], servers[1]
	alice, bob := one.register("alice", "sixsix"), two.register("bob", "sixsix")
	room := one.must("POST", "/_matrix/client/v3/createRoom", alice, map[string]any{"preset": "public_chat", "room_alias_name": "here"})["room_id"].(string)
	_, port, _ := net.SplitHostPort(one.addresses[1])
	two.must("POST", "/_matrix/client/v3/join/"+url.PathEscape("#here:localhost:"+port), bob, map[string]any{})
	event := two.must("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", bob, map[string]any{"msgtype": "m.text", "body": "hello"})["event_id"].(string)
	since := ""
	for deadline := time.Now().Add(patience); ; {
		if time.Now().After(deadline) {
			t.Fatal("the message does not arrive")
		}
		answer := one.must("GET", "/_matrix/client/v3/sync?timeout=5000&since="+since, alice, nil)
		since = answer["next_batch"].(string)
		if strings.Contains(fmt.Sprint(answer["rooms"]), event) {
			return
		}
	}
}

// freeAddress returns an address at which nobody listens. A server under test
// has to know its port before it starts, because it is part of its name.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func sameKeys(a, b map[string]any) bool {
	for id := range a {
		if b[id] == nil {
			return false
		}
	}
	return len(a) == len(b)
}

func TestConformanceConfiguration(t *testing.T) {
	cfg, err := conformanceConfig(conformanceFlags{CADir: "/nonexistent", ConformanceData: "/data", ClientAddress: ":8008", FederationAddress: ":8448"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ServerName != "localhost" || cfg.RateLimits.Enabled || !cfg.Federation.AllowPrivateAddresses || len(cfg.Federation.TrustedKeyServers) != 0 ||
		cfg.Registration.Mode != "open" || cfg.Registration.SharedSecret != "complement" || cfg.Federation.CAFile != "" {
		t.Errorf("got %+v", cfg)
	}
	if _, err := conformanceConfig(conformanceFlags{ConformanceData: "/data", ClientAddress: ":8008", FederationAddress: ":8448"}, []string{"SERVER_NAME=not a name"}); err == nil {
		t.Error("a bad server name is accepted")
	}
	if _, stderr, code := atoll(t, "", nil, "serve", "--conformance", "--config", "x.yaml"); code != 1 || !strings.Contains(stderr, "no configuration file") {
		t.Errorf("with a configuration file: exit code %d, %s", code, stderr)
	}
}
