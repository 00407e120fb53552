package federation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"atoll/spec"
)

const (
	// defaultPort is the one of a server name that gives none.
	defaultPort = 8448
	// lookupTimeout bounds each well-known and each SRV look-up. What takes
	// longer counts as absent.
	lookupTimeout = time.Second

	// srvTTL is how long an SRV answer is believed, be it records or their
	// absence; the resolver does not give the TTL of the zone.
	srvTTL = 10 * time.Minute
	// srvFailureTTL is how long a failed SRV look-up counts as an absence.
	srvFailureTTL = time.Minute
	// maxEndpoints bounds how many SRV records are used.
	maxEndpoints = 8
	// maxCachedNames bounds each of the discovery caches, in names; an entry
	// takes less than 1 KiB.
	maxCachedNames = 10_000
)

// Target tells how to reach a server.
type Target struct {
	// Host is the Host header of requests.
	Host string
	// TLSName is what the certificate must be for: a DNS name, or an IP address
	// without brackets. A DNS name is also sent as SNI.
	TLSName string
	// Endpoints are tried in this order.
	Endpoints []Endpoint
	// pool names the connections that may serve the target, as host and port:
	// those to the same certificate name at the same place. Port 0 stands for
	// the place that SRV records or the default decide.
	pool string
}

// Discovery turns server names into places to connect to. Answers and failures
// are cached; nothing is looked up unless somebody asks for the name. Safe for
// concurrent use.
//
// Spec: server-server-api#server-discovery
type Discovery struct {
	resolver  Resolver
	wellKnown func(ctx context.Context, host string) (wellKnownAnswer, error)
	now       func() time.Time

	delegations *timedCache[string, delegation]
	services    *timedCache[string, []Endpoint]
	inFlight    singleflight.Group
}

func newDiscovery(d *dialer, now func() time.Time) *Discovery {
	return &Discovery{
		resolver:    d.resolver,
		wellKnown:   newWellKnownClient(d, now).fetch,
		now:         now,
		delegations: newTimedCache[string, delegation](maxCachedNames),
		services:    newTimedCache[string, []Endpoint](maxCachedNames),
	}
}

// Resolve finds out where the server is. It fails when the context ends and for
// a port that cannot be; otherwise every name leads somewhere, if only to port
// 8448 of its host. The steps are numbered as in the specification.
//
// Spec: server-server-api#resolving-server-names
func (d *Discovery) Resolve(ctx context.Context, name spec.ServerName) (Target, error) {
	if port, ok := name.Port(); ok && !validPort(port) {
		return Target{}, fmt.Errorf("resolve %s: no such port", name)
	}
	// 1 and 2.
	if t, ok := literalTarget(name); ok {
		return t, nil
	}
	// 3.
	delegated, err := d.delegated(ctx, hostOf(name))
	if err != nil {
		return Target{}, err
	}
	if delegated != "" {
		// 3.1 and 3.2.
		if t, ok := literalTarget(delegated); ok {
			return t, nil
		}
		name = delegated
	}
	// 3.3 to 3.5, or 4 to 6: the same steps for the delegated or the original
	// name.
	return d.serviceTarget(ctx, hostOf(name))
}

// literalTarget handles the names that tell by themselves where to connect: IP
// addresses, and names with a port.
func literalTarget(name spec.ServerName) (Target, bool) {
	host := hostOf(name)
	port, hasPort := name.Port()
	if !hasPort {
		if _, err := netip.ParseAddr(host); err != nil {
			return Target{}, false
		}
		port = defaultPort
	}
	return Target{
		Host:      string(name),
		TLSName:   host,
		Endpoints: []Endpoint{{Host: host, Port: uint16(port)}},
		pool:      net.JoinHostPort(host, strconv.Itoa(port)),
	}, true
}

func validPort(port int) bool { return port > 0 && port <= 65535 }

// hostOf returns the name's host in lower case, an IPv6 address without its
// brackets.
func hostOf(name spec.ServerName) string {
	return strings.ToLower(strings.Trim(name.Host(), "[]"))
}

// serviceTarget looks for SRV records of the host, the registered service first
// and then the deprecated one, and falls back on port 8448.
func (d *Discovery) serviceTarget(ctx context.Context, host string) (Target, error) {
	t := Target{Host: host, TLSName: host, pool: net.JoinHostPort(host, "0")}
	for _, service := range []string{"matrix-fed", "matrix"} {
		endpoints, err := d.service(ctx, service, host)
		if err != nil {
			return Target{}, err
		}
		if len(endpoints) > 0 {
			t.Endpoints = endpoints
			return t, nil
		}
	}
	t.Endpoints = []Endpoint{{Host: host, Port: defaultPort}}
	return t, nil
}

// service returns the endpoints that the SRV records of the service name, none
// if there are no records or they could not be had in time.
func (d *Discovery) service(ctx context.Context, service, host string) ([]Endpoint, error) {
	key := service + " " + host
	if endpoints, fresh := d.services.get(key, d.now()); fresh {
		return endpoints, nil
	}
	return shared(ctx, &d.inFlight, "srv "+key, func(ctx context.Context) []Endpoint {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		_, records, err := d.resolver.LookupSRV(ctx, service, "tcp", host)
		endpoints := srvEndpoints(records)
		ttl := srvTTL
		var dns *net.DNSError
		if len(endpoints) == 0 && err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
			ttl = srvFailureTTL
		}
		now := d.now()
		d.services.put(key, endpoints, now, now.Add(ttl))
		return endpoints
	})
}

// srvEndpoints keeps the order of the records, which is that of their
// priorities and weights. The target "." says that there is no such service.
func srvEndpoints(records []*net.SRV) []Endpoint {
	var out []Endpoint
	for _, r := range records {
		host := strings.TrimSuffix(r.Target, ".")
		if host == "" || r.Port == 0 || len(out) == maxEndpoints {
			continue
		}
		out = append(out, Endpoint{Host: host, Port: r.Port})
	}
	return out
}

// shared runs fn once for all who ask for the same key at the same time. The
// work outlives a caller that gives up, since others may be waiting for it, and
// is bounded by time-outs of its own.
func shared[V any](ctx context.Context, g *singleflight.Group, key string, fn func(context.Context) V) (V, error) {
	var zero V
	if err := ctx.Err(); err != nil {
		return zero, fmt.Errorf("%s: %w", key, err)
	}
	done := g.DoChan(key, func() (any, error) { return fn(context.WithoutCancel(ctx)), nil })
	select {
	case r := <-done:
		v, _ := r.Val.(V) // a nil error has no type
		return v, nil
	case <-ctx.Done():
		return zero, fmt.Errorf("%s: %w", key, ctx.Err())
	}
}
