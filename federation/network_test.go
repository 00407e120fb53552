package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// fakeNet is a network with a name service and hosts that speak TLS, all behind
// listeners of this machine.
type fakeNet struct {
	t      *testing.T
	caFile string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey

	mu        sync.Mutex
	addresses map[string][]netip.Addr // by name
	services  map[string][]*net.SRV   // by "service host"
	failures  map[string]error        // of look-ups, by name or "service host"
	listeners map[string]string       // by address on the fake network
	dialled   []string
	lookedUp  []string
	hang      map[string]bool // look-ups and connections that never end
}

func newFakeNet(t *testing.T) *fakeNet {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	ca, err := x509.ParseCertificate(der)
	must(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return &fakeNet{
		t: t, caFile: file, ca: ca, caKey: key,
		addresses: map[string][]netip.Addr{}, services: map[string][]*net.SRV{}, failures: map[string]error{},
		listeners: map[string]string{}, hang: map[string]bool{},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// certificate makes one for names and IP addresses.
func (n *fakeNet) certificate(names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(n.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, n.ca, key.Public(), n.caKey)
	must(n.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve puts a handler at an address, with a certificate for the names.
func (n *fakeNet) serve(address string, h http.HandlerFunc, names ...string) {
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{n.certificate(names...)}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	n.t.Cleanup(s.Close)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[address] = s.Listener.Addr().String()
}

// name gives a name its addresses.
func (n *fakeNet) name(host string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[host] = nil
	for _, a := range addresses {
		n.addresses[host] = append(n.addresses[host], netip.MustParseAddr(a))
	}
}

func (n *fakeNet) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	n.lookedUp = append(n.lookedUp, network+" "+host)
	hang, err, all := n.hang[network+" "+host], n.failures[host], n.addresses[host]
	n.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var out []netip.Addr
	for _, a := range all {
		if a.Is4() == (network == "ip4") {
			out = append(out, a)
		}
	}
	if len(out) == 0 && err == nil {
		err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, err
}

func (n *fakeNet) LookupSRV(ctx context.Context, service, _, host string) (string, []*net.SRV, error) {
	key := service + " " + host
	n.mu.Lock()
	n.lookedUp = append(n.lookedUp, key)
	hang, err, records := n.hang[key], n.failures[key], n.services[key]
	n.mu.Unlock()
	if hang {
		<-ctx.Done()
		return "", nil, &net.DNSError{Err: "timeout", Name: host, IsTimeout: true}
	}
	if len(records) == 0 && err == nil {
		err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return "", records, err
}

func (n *fakeNet) connect(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, address)
	to, hang := n.listeners[address], n.hang[address]
	n.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if to == "" {
		return nil, fmt.Errorf("connect %s: refused", address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

func (n *fakeNet) count(list *[]string, what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := 0
	for _, s := range *list {
		if s == what {
			c++
		}
	}
	return c
}

// fakeClock is a clock that stands until it is told to go.
type fakeClock struct {
	mu sync.Mutex
	at time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{at: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// memoryKeys is a KeyStore in memory.
type memoryKeys struct {
	mu   sync.Mutex
	keys map[spec.ServerName]map[spec.KeyID]storage.ServerKey
	err  error
}

func (m *memoryKeys) ServerKeys(_ context.Context, servers []spec.ServerName) ([]storage.ServerKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []storage.ServerKey
	for _, name := range servers {
		for _, k := range m.keys[name] {
			out = append(out, k)
		}
	}
	return out, m.err
}

func (m *memoryKeys) PutServerKeys(_ context.Context, keys []storage.ServerKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		if m.keys == nil {
			m.keys = map[spec.ServerName]map[spec.KeyID]storage.ServerKey{}
		}
		if m.keys[k.Server] == nil {
			m.keys[k.Server] = map[spec.KeyID]storage.ServerKey{}
		}
		m.keys[k.Server][k.ID] = k
	}
	return m.err
}

// testKey makes the same key for the same name.
func testKey(id spec.KeyID) spec.SigningKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, id)
	key, err := spec.NewSigningKey(id, seed)
	if err != nil {
		panic(err)
	}
	return key
}

// client makes a Client on the fake network.
func (n *fakeNet) client(clock *fakeClock, change func(*Options)) *Client {
	n.t.Helper()
	o := Options{
		NetworkOptions: NetworkOptions{CAFile: n.caFile, Resolver: n, Connect: n.connect},
		Name:           "us.example", Keys: LocalKeys{Active: testKey("ed25519:us")},
		KeyStore: &memoryKeys{}, Now: clock.now,
	}
	if change != nil {
		change(&o)
	}
	c, err := NewClient(o)
	must(n.t, err)
	n.t.Cleanup(c.Close)
	return c
}

func (n *fakeNet) lookups() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.lookedUp)
}
