package atolltest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Network is a name service and the connections between the servers of a test.
// Safe for concurrent use.
type Network struct {
	t      testing.TB
	caFile string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey

	mu        sync.Mutex            // guards what follows
	addresses map[string]netip.Addr // by host
	listeners map[netip.Addr]string // where an address really listens
	down      map[netip.Addr]bool   // addresses that nobody can reach
	conns     map[netip.Addr][]net.Conn
}

func newNetwork(t testing.TB) *Network {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	ca, err := x509.ParseCertificate(der)
	must(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return &Network{
		t: t, caFile: file, ca: ca, caKey: key,
		addresses: map[string]netip.Addr{}, listeners: map[netip.Addr]string{},
		down: map[netip.Addr]bool{}, conns: map[netip.Addr][]net.Conn{},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// certificate makes one for a host.
func (n *Network) certificate(host string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(n.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, n.ca, key.Public(), n.caKey)
	must(n.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// add gives a host an address whose connections go to a listener.
func (n *Network) add(host, listener string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	address := netip.AddrFrom4([4]byte{10, 0, 0, byte(len(n.addresses) + 1)})
	n.addresses[host], n.listeners[address] = address, listener
	return address
}

// LookupNetIP implements federation.Resolver.
func (n *Network) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if address, ok := n.addresses[host]; ok && network != "ip6" {
		return []netip.Addr{address}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// LookupSRV implements federation.Resolver: there are no such records.
func (n *Network) LookupSRV(_ context.Context, _, _, host string) (string, []*net.SRV, error) {
	return "", nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// connect opens a connection for the server at an address.
func (n *Network) connect(from netip.Addr) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		listener, down := n.listeners[to.Addr()], n.down[to.Addr()] || n.down[from]
		n.mu.Unlock()
		if down || listener == "" {
			return nil, fmt.Errorf("connect %s: %w", address, errDown)
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, listener)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.conns[from] = append(n.conns[from], conn)
		n.conns[to.Addr()] = append(n.conns[to.Addr()], conn)
		return conn, nil
	}
}

var errDown = errors.New("unreachable")

// cut makes an address unreachable and breaks its connections, or mends it.
func (n *Network) cut(address netip.Addr, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[address] = down
	if down {
		for _, conn := range n.conns[address] {
			conn.Close()
		}
		delete(n.conns, address)
	}
}
