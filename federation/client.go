package federation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	// Roots for images that have no certificate store.
	_ "golang.org/x/crypto/x509roots/fallback"

	"atoll/server"
	"atoll/spec"
)

// userAgent is sent with every request.
const userAgent = "Atoll"

// NetworkOptions says how peers are reached.
type NetworkOptions struct {
	// CAFile names a PEM file with authorities that are trusted besides those
	// of the system; empty means none.
	CAFile string
	// AllowPrivateAddresses lets connections go to loopback, private and other
	// addresses that are not public.
	AllowPrivateAddresses bool
	// Resolver is the system's if nil.
	Resolver Resolver
	// Connect opens a TCP connection to an address that has been checked; nil
	// means to the network.
	Connect func(ctx context.Context, network, address string) (net.Conn, error)
}

// Options configure a Client.
type Options struct {
	NetworkOptions
	// Name is this server, Keys what it signs and has signed with.
	Name spec.ServerName
	Keys LocalKeys
	// KeyStore is where the keys of peers are kept.
	KeyStore KeyStore
	// TrustedKeyServers are asked for keys that their owners do not give.
	TrustedKeyServers []spec.ServerName
	// Permit tells whether this server deals with a peer; nil permits all.
	Permit func(spec.ServerName) bool
	// MaxJoinBytes bounds the answer to a join, which is held in memory while
	// it is taken in; 0 means 512 MiB.
	MaxJoinBytes int64
	Log          *slog.Logger
	Now          func() time.Time
}

// Client makes requests of other homeservers, and verifies what they signed. It
// is safe for concurrent use and has no goroutines of its own beyond those of
// pooled connections, which Close ends.
type Client struct {
	name      spec.ServerName
	key       spec.SigningKey
	permit    func(spec.ServerName) bool
	maxJoin   int64
	discovery *Discovery
	dialer    *dialer
	transport *http.Transport
	keys      *KeyRing
	log       *slog.Logger
	now       func() time.Time
}

var _ server.Remote = (*Client)(nil)

const (
	// callTimeout bounds an ordinary request, joinTimeout those whose answers
	// are whole rooms.
	callTimeout = 30 * time.Second
	joinTimeout = 10 * time.Minute
	// transactionTimeout leaves the peer time to fetch what the events of a
	// transaction refer to.
	transactionTimeout = time.Minute
	// dialTimeout bounds all attempts to connect for one request.
	dialTimeout = 20 * time.Second
	// smallAnswer and eventsAnswer bound the bodies of answers, in bytes.
	smallAnswer  = 1 << 20
	eventsAnswer = 64 << 20
	// errorAnswer is how much of an error's body is looked at.
	errorAnswer = 64 << 10
	// maxRetryAfter caps how long a peer can ask to be left alone.
	maxRetryAfter = time.Hour

	maxConnsPerServer     = 32
	maxIdleConnsPerServer = 4
	maxIdleConns          = 256
	idleConnTimeout       = 90 * time.Second
)

// NewClient fails if the CA file cannot be used.
func NewClient(o Options) (*Client, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Permit == nil {
		o.Permit = func(spec.ServerName) bool { return true }
	}
	if o.MaxJoinBytes == 0 {
		o.MaxJoinBytes = 512 << 20
	}
	roots, err := certPool(o.CAFile)
	if err != nil {
		return nil, err
	}
	d := newDialer(o.NetworkOptions, &tls.Config{
		RootCAs:            roots,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(256),
	})
	c := &Client{
		name: o.Name, key: o.Keys.Active, permit: o.Permit, maxJoin: o.MaxJoinBytes,
		discovery: newDiscovery(d, o.Now), dialer: d, log: o.Log, now: o.Now,
	}
	c.transport = &http.Transport{
		DialTLSContext:         dialTarget(d),
		MaxConnsPerHost:        maxConnsPerServer,
		MaxIdleConnsPerHost:    maxIdleConnsPerServer,
		MaxIdleConns:           maxIdleConns,
		IdleConnTimeout:        idleConnTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	c.keys = newKeyRing(c, o)
	return c, nil
}

// Keys is the ring that holds the keys of peers.
func (c *Client) Keys() *KeyRing { return c.keys }

// Close closes idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// certPool adds the file's authorities to the system's.
func certPool(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("federation CA file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("federation CA file %s holds no certificate", file)
	}
	return pool, nil
}

// targetKey is the context key under which a request carries its Target to the
// dialer.
type targetKey struct{}

// dialTarget connects to the Target of the request for which the connection is
// made. The pool hands connections on only among requests with equal pool keys.
func dialTarget(d *dialer) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		t, ok := ctx.Value(targetKey{}).(Target)
		if !ok {
			return nil, errors.New("request without a target")
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return d.dialTLS(ctx, t.TLSName, t.Endpoints)
	}
}

// call is one request and what may be taken from its answer.
type call struct {
	method string
	// path has its segments escaped; query may be nil.
	path  string
	query url.Values
	// body is the JSON object to send, nil for none.
	body []byte
	// unsigned leaves out the authentication.
	unsigned bool
	// timeout bounds the whole exchange (0: callTimeout), limit the body of the
	// answer in bytes (0: smallAnswer).
	timeout time.Duration
	limit   int64
	// read takes the body of a successful answer; nil ignores it.
	read func(io.Reader) error
}

// endpoint joins a path and segments that are escaped here.
func endpoint(prefix string, segments ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// do makes the request. Redirects are not followed: the signature is for one
// target. Every failure is a *server.RemoteError.
func (c *Client) do(ctx context.Context, dest spec.ServerName, q call) error {
	if q.timeout == 0 {
		q.timeout = callTimeout
	}
	if q.limit == 0 {
		q.limit = smallAnswer
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	resp, err := c.exchange(ctx, dest, q)
	if err != nil {
		return &server.RemoteError{Server: dest, Cause: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(dest, resp)
	}
	body := &limitReader{r: resp.Body, left: q.limit}
	if q.read != nil {
		if err := q.read(body); err != nil {
			return &server.RemoteError{Server: dest, Cause: fmt.Errorf("%s: %w", q.path, err)}
		}
	}
	// What is left of a body would keep the connection from being used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	return nil
}

func (c *Client) exchange(ctx context.Context, dest spec.ServerName, q call) (*http.Response, error) {
	if dest == c.name {
		return nil, errors.New("request to this server itself")
	}
	if !c.permit(dest) {
		return nil, errors.New("this server does not deal with that one")
	}
	target, err := c.discovery.Resolve(ctx, dest)
	if err != nil {
		return nil, err
	}
	uri := q.path
	if len(q.query) > 0 {
		uri += "?" + q.query.Encode()
	}
	ctx = context.WithValue(ctx, targetKey{}, target)
	r, err := http.NewRequestWithContext(ctx, q.method, "https://"+target.pool+uri, bodyReader(q.body))
	if err != nil {
		return nil, err
	}
	r.Host = target.Host
	r.Header.Set("User-Agent", userAgent)
	// Every request between homeservers may be repeated, so the transport may
	// do so when a pooled connection turns out to be closed. Not sent.
	r.Header["Idempotency-Key"] = nil
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if !q.unsigned {
		x, err := spec.FederationRequest{
			Method: q.method, URI: uri, Origin: c.name, Destination: dest, Content: q.body,
		}.Sign(c.key)
		if err != nil {
			return nil, fmt.Errorf("sign request: %w", err)
		}
		r.Header.Set("Authorization", x.String())
	}
	return c.transport.RoundTrip(r)
}

func bodyReader(body []byte) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(body)
}

// refusal turns an answer other than 200 into an error.
func (c *Client) refusal(dest spec.ServerName, resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, errorAnswer))
	answer := parseRefusal(resp.StatusCode, body)
	remote := &server.RemoteError{Server: dest, Answer: answer, RetryAfter: answer.RetryAfter}
	if seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
		remote.RetryAfter = time.Duration(seconds) * time.Second
	}
	remote.RetryAfter = min(remote.RetryAfter, maxRetryAfter)
	return remote
}

// parseRefusal reads the body of an error answer. A body that is no error of the
// protocol leaves Code at M_UNKNOWN.
func parseRefusal(status int, body []byte) *spec.Error {
	e := &spec.Error{Code: spec.CodeUnknown, Msg: http.StatusText(status), Status: status}
	var members map[string]jsontext.Value
	if json.Unmarshal(body, &members, lenient) != nil {
		return e
	}
	for name, v := range members {
		switch name {
		case "errcode":
			var code string
			if json.Unmarshal(v, &code) == nil && code != "" && len(code) <= spec.MaxIDLength {
				e.Code = spec.Code(code)
			}
		case "error":
			_ = json.Unmarshal(v, &e.Msg, lenient)
		case "retry_after_ms":
			var ms int64
			if json.Unmarshal(v, &ms) == nil && ms > 0 {
				e.RetryAfter = min(time.Duration(min(ms, 1<<40))*time.Millisecond, maxRetryAfter)
			}
		default:
			if e.Fields == nil {
				e.Fields = make(map[string]any)
			}
			e.Fields[name] = v
		}
	}
	return e
}

// limitReader fails when the body goes on after the limit, instead of ending as
// if it were whole.
type limitReader struct {
	r    io.Reader
	left int64
}

func (l *limitReader) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errAnswerTooLarge
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, errAnswerTooLarge
	}
	return n, err
}

// into reads a small answer into a struct, member names exactly as written.
func into(dst any) func(io.Reader) error {
	return func(r io.Reader) error { return json.UnmarshalRead(r, dst, lenient) }
}
