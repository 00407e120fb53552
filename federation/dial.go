package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"code.dny.dev/ssrf"
)

// Resolver looks names up. *net.Resolver is the one used in production; with
// PreferGo it honours /etc/hosts.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
}

// ErrBlockedAddress is found in the error of a connection that was refused
// because the name led to an address that is not public.
var ErrBlockedAddress = errors.New("address is not public")

// Endpoint is a place to connect to.
type Endpoint struct {
	// Host is a DNS name or an IP address without brackets.
	Host string
	Port uint16
}

const (
	// addressTimeout bounds the look-up of a name's addresses, and so how
	// long an unreachable resolver delays a connection.
	addressTimeout = 5 * time.Second
	// otherFamilyTimeout is how long the second address family may take once
	// the first is known.
	otherFamilyTimeout = time.Second
	// attemptTimeout bounds one attempt, TLS handshake included.
	attemptTimeout = 10 * time.Second
	// attemptDelay is the head start of an address over the next one; the
	// value is the one that RFC 8305 recommends.
	attemptDelay = 250 * time.Millisecond
	// maxAddresses bounds how many addresses of one name are tried.
	maxAddresses = 8
)

// dialer connects to endpoints: it looks addresses up, refuses those that are
// not public, and races the rest. The check is made on the very address that is
// then connected to, so neither a redirect nor a name whose address changes
// between two look-ups gets round it. Safe for concurrent use.
type dialer struct {
	resolver     Resolver
	allowPrivate bool
	guard        *ssrf.Guardian
	tls          *tls.Config
	connect      func(ctx context.Context, network, address string) (net.Conn, error)
}

func newDialer(o NetworkOptions, roots *tls.Config) *dialer {
	d := &dialer{
		resolver:     o.Resolver,
		allowPrivate: o.AllowPrivateAddresses,
		// Peers listen on any port they like.
		guard:   ssrf.New(ssrf.WithAnyPort()),
		tls:     roots,
		connect: o.Connect,
	}
	if d.resolver == nil {
		d.resolver = &net.Resolver{PreferGo: true}
	}
	if d.connect == nil {
		d.connect = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return d
}

// dialTLS connects to the first endpoint that proves to be tlsName.
// The name is an IP address if the certificate has to be for one; no SNI is
// sent then. Spec: server-server-api#tls
func (d *dialer) dialTLS(ctx context.Context, tlsName string, endpoints []Endpoint) (net.Conn, error) {
	var errs []error
	for _, e := range endpoints {
		addresses, err := d.addresses(ctx, e)
		if err == nil {
			var conn net.Conn
			if conn, err = d.race(ctx, tlsName, addresses); err == nil {
				return conn, nil
			}
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// addresses returns the public addresses of an endpoint, the families taking
// turns. A look-up that fails or takes too long counts as giving none.
func (d *dialer) addresses(ctx context.Context, e Endpoint) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(e.Host); err == nil {
		return d.permitted(e, []netip.Addr{ip})
	}
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	var (
		wg    sync.WaitGroup
		found [2][]netip.Addr
		errs  [2]error
	)
	for i, network := range []string{"ip6", "ip4"} {
		wg.Go(func() {
			found[i], errs[i] = d.resolver.LookupNetIP(ctx, network, e.Host)
			if len(found[i]) > 0 {
				time.AfterFunc(otherFamilyTimeout, cancel)
			}
		})
	}
	wg.Wait()
	var all []netip.Addr
	for i := range max(len(found[0]), len(found[1])) {
		for _, family := range found {
			if i < len(family) {
				all = append(all, family[i].Unmap())
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("look up %s: %w", e.Host, errors.Join(errs[:]...))
	}
	return d.permitted(e, all)
}

func (d *dialer) permitted(e Endpoint, all []netip.Addr) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var refused error
	for _, ip := range all {
		if len(out) == maxAddresses {
			break
		}
		addr := netip.AddrPortFrom(ip, e.Port)
		if err := d.check(addr); err != nil {
			refused = err
			continue
		}
		out = append(out, addr)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("connect to %s: %w", net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), refused)
	}
	return out, nil
}

func (d *dialer) check(addr netip.AddrPort) error {
	if d.allowPrivate {
		return nil
	}
	network := "tcp6"
	if addr.Addr().Is4() {
		network = "tcp4"
	}
	if err := d.guard.Safe(network, addr.String(), nil); err != nil {
		return fmt.Errorf("%w: %w", ErrBlockedAddress, err)
	}
	return nil
}

// race tries the addresses one after the other, each with a short head start
// over the next, and returns the first connection whose handshake succeeds. All
// its goroutines have ended, or are ending after a cancelled context, when it
// returns; connections that come too late are closed.
func (d *dialer) race(ctx context.Context, tlsName string, addresses []netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(addresses))
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for started, running := 0, 0; ; {
		select {
		case <-next.C:
			if started == len(addresses) {
				continue
			}
			addr := addresses[started]
			started++
			running++
			next.Reset(attemptDelay)
			go func() {
				conn, err := d.attempt(ctx, tlsName, addr)
				results <- result{conn, err}
			}()
		case r := <-results:
			running--
			if r.err == nil {
				go func() { // takes what the other attempts still give
					for range running {
						if late := <-results; late.conn != nil {
							late.conn.Close()
						}
					}
				}()
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if running == 0 && started == len(addresses) {
				return nil, errors.Join(errs...)
			}
			next.Reset(0)
		}
	}
}

func (d *dialer) attempt(ctx context.Context, tlsName string, addr netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	raw, err := d.connect(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	config := d.tls.Clone()
	config.ServerName = tlsName
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s as %s: %w", addr, tlsName, err)
	}
	return conn, nil
}
