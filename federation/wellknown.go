package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"atoll/spec"
)

const (
	// wellKnownDefault and wellKnownMax are the cache times that the
	// specification recommends for answers without cache headers and at most.
	wellKnownDefault = 24 * time.Hour
	wellKnownMax     = 48 * time.Hour
	// wellKnownMin keeps answers that forbid caching from being asked for at
	// every connection.
	wellKnownMin = 5 * time.Minute
	// wellKnownRetryMin doubles with every failure in a row up to
	// wellKnownRetryMax.
	wellKnownRetryMin = 2 * time.Minute
	wellKnownRetryMax = time.Hour
	// wellKnownMaxSize bounds the body, in bytes.
	wellKnownMaxSize = 64 << 10
	// wellKnownMaxRedirects bounds how often a redirect is followed.
	wellKnownMaxRedirects = 5
)

// delegation is what is known of a host's well-known file.
type delegation struct {
	// server is the delegated name, empty if there is none.
	server spec.ServerName
	// fetched is when server was last confirmed.
	fetched time.Time
	// failures counts the failed look-ups since.
	failures int
}

// wellKnownAnswer is a valid well-known file.
type wellKnownAnswer struct {
	server spec.ServerName
	ttl    time.Duration
}

// errNoAnswer marks look-ups that ended without an HTTP answer.
var errNoAnswer = errors.New("no answer")

// delegated returns the name to which the host's well-known file delegates,
// empty if it does not. A delegation that was seen within the last 48 hours
// stays in force while the host cannot be reached: a short outage must not send
// requests to another place. An HTTP answer that is no delegation ends it.
func (d *Discovery) delegated(ctx context.Context, host string) (spec.ServerName, error) {
	if known, fresh := d.delegations.get(host, d.now()); fresh {
		return known.server, nil
	}
	return shared(ctx, &d.inFlight, "well-known "+host, func(ctx context.Context) spec.ServerName {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		known, _ := d.delegations.get(host, d.now())
		answer, err := d.wellKnown(ctx, host)
		now := d.now()
		if err == nil {
			known = delegation{server: answer.server, fetched: now}
			d.delegations.put(host, known, now, now.Add(answer.ttl))
			return known.server
		}
		if !errors.Is(err, errNoAnswer) || now.Sub(known.fetched) > wellKnownMax {
			known.server = ""
		}
		retry := wellKnownRetryMax
		if known.failures < 5 {
			retry = min(retry, wellKnownRetryMin<<known.failures)
		}
		known.failures++
		d.delegations.put(host, known, now, now.Add(retry))
		return known.server
	})
}

// wellKnownClient fetches well-known files.
type wellKnownClient struct {
	http *http.Client
	now  func() time.Time
}

func newWellKnownClient(d *dialer, now func() time.Time) *wellKnownClient {
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return nil, err
			}
			return d.dialTLS(ctx, host, []Endpoint{{Host: host, Port: uint16(n)}})
		},
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &wellKnownClient{now: now, http: &http.Client{Transport: transport, CheckRedirect: checkWellKnownRedirect}}
}

// checkWellKnownRedirect lets redirects be followed within bounds, never to the
// same place twice and never to a transport that proves nothing.
func checkWellKnownRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > wellKnownMaxRedirects {
		return errors.New("too many redirects")
	}
	if r.URL.Scheme != "https" {
		return errors.New("redirect away from HTTPS")
	}
	for _, earlier := range via {
		if earlier.URL.String() == r.URL.String() {
			return errors.New("redirect loop")
		}
	}
	return nil
}

// fetch gets the well-known file of a host. The error is errNoAnswer, among
// others, if there was no HTTP answer.
//
// Spec: server-server-api#getwell-knownmatrixserver
func (c *wellKnownClient) fetch(ctx context.Context, host string) (wellKnownAnswer, error) {
	u := url.URL{Scheme: "https", Host: host, Path: "/.well-known/matrix/server"}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return wellKnownAnswer{}, err
	}
	r.Header.Set("User-Agent", userAgent)
	resp, err := c.http.Do(r)
	if err != nil {
		if resp != nil { // a redirect that was not followed
			resp.Body.Close()
			return wellKnownAnswer{}, err
		}
		return wellKnownAnswer{}, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return wellKnownAnswer{}, fmt.Errorf("well-known of %s: status %d", host, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, wellKnownMaxSize+1))
	if err != nil {
		return wellKnownAnswer{}, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	server, err := parseWellKnown(body)
	if err != nil {
		return wellKnownAnswer{}, fmt.Errorf("well-known of %s: %w", host, err)
	}
	return wellKnownAnswer{server: server, ttl: wellKnownTTL(resp.Header, c.now())}, nil
}

// parseWellKnown reads the body whatever its declared type.
func parseWellKnown(body []byte) (spec.ServerName, error) {
	if len(body) > wellKnownMaxSize {
		return "", errors.New("body too large")
	}
	var file struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &file, lenient); err != nil {
		return "", err
	}
	name, err := spec.ParseServerName(file.Server)
	if err != nil {
		return "", fmt.Errorf("m.server: %w", err)
	}
	if port, ok := name.Port(); ok && !validPort(port) {
		return "", fmt.Errorf("m.server: %s has no such port", name)
	}
	return name, nil
}

// wellKnownTTL tells how long an answer may be believed.
func wellKnownTTL(h http.Header, now time.Time) time.Duration {
	return min(max(cacheTime(h, now), wellKnownMin), wellKnownMax)
}

// cacheTime reads the cache headers that matter to a private cache.
func cacheTime(h http.Header, now time.Time) time.Duration {
	directives := strings.Split(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",")
	age := time.Duration(-1)
	for _, directive := range directives {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.TrimSpace(name) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			seconds, err := strconv.ParseInt(strings.Trim(strings.TrimSpace(value), `"`), 10, 32)
			if err == nil && seconds >= 0 {
				age = time.Duration(seconds) * time.Second
			}
		}
	}
	if age >= 0 {
		return age
	}
	if expires := h.Get("Expires"); expires != "" {
		at, err := http.ParseTime(expires)
		if err != nil {
			return 0 // an unreadable time counts as past
		}
		return at.Sub(now)
	}
	return wellKnownDefault
}
