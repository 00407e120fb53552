package demo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// wire is the network between the regions: it knows the port at which each
// region answers the others, and every connection from one to another goes
// through it, so that it can cut a region off. The homeservers do not know of
// it; to them it is a network that fails. It is safe for concurrent use.
type wire struct {
	mu    sync.Mutex // mu guards what follows
	ports map[string]uint16
	cut   map[string]bool
	open  map[*wireConn]struct{}
}

func newWire() *wire {
	return &wire{ports: map[string]uint16{}, cut: map[string]bool{}, open: map[*wireConn]struct{}{}}
}

// wireConn is an open connection between two regions.
type wireConn struct {
	net.Conn
	wire     *wire
	from, to string
}

// Close also takes the connection off the wire.
func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.open, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// attach tells where a region can be reached.
func (w *wire) attach(region string, port uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[region] = port
}

// isolate cuts a region off: open connections break, new ones fail.
func (w *wire) isolate(region string) {
	w.mu.Lock()
	w.cut[region] = true
	var broken []*wireConn
	for c := range w.open {
		if c.from == region || c.to == region {
			broken = append(broken, c)
		}
	}
	w.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}

// heal undoes isolate.
func (w *wire) heal(region string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cut, region)
}

// connector opens the connections of one region. Whatever is not the port of a
// region is unreachable, so nothing leaves the demo.
func (w *wire) connector(from string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to, err := w.passable(from, address)
		if err != nil {
			return nil, err
		}
		raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := &wireConn{Conn: raw, wire: w, from: from, to: to}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cut[from] || w.cut[to] {
			raw.Close()
			return nil, fmt.Errorf("%s is cut off from %s", from, to)
		}
		w.open[conn] = struct{}{}
		return conn, nil
	}
}

// passable returns the region that answers at the address, unless there is none
// or one of the two is cut off.
func (w *wire) passable(from, address string) (string, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for region, port := range w.ports {
		if port != target.Port() {
			continue
		}
		if w.cut[from] || w.cut[region] {
			return "", fmt.Errorf("%s is cut off from %s", from, region)
		}
		return region, nil
	}
	return "", fmt.Errorf("no region answers at %s", address)
}

// LookupNetIP says that every region is at the loopback address.
func (w *wire) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.ports[host]; !ok || network == "ip6" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
}

// LookupSRV tells the port of a region, as a DNS record of the real world would.
func (w *wire) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	port, ok := w.ports[name]
	if !ok || service != "matrix-fed" {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return "_" + service + "._" + proto + "." + name, []*net.SRV{{Target: name, Port: port}}, nil
}

// portOf returns the port of a listener's address.
func portOf(address net.Addr) (uint16, error) {
	_, port, err := net.SplitHostPort(address.String())
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err
}
