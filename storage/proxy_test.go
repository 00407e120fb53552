package storage_test

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between the database and its server: it makes answers late,
// counts round trips and cuts connections.
type proxy struct {
	t      testing.TB
	delay  time.Duration // of every chunk, either way
	server string        // host:port
	addr   string

	// turns counts how often a client spoke after the server had.
	turns atomic.Int64
	// hear is called with what clients send, before it goes on; false cuts the
	// connection once it has gone on.
	hear atomic.Pointer[func([]byte) bool]

	// mu guards what follows.
	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	done     sync.WaitGroup
}

// newProxy returns a proxy and the URL that leads through it.
func newProxy(t testing.TB, dsn string, delay time.Duration) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, delay: delay, server: u.Host, addr: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	if u.Port() == "" {
		p.server = net.JoinHostPort(u.Host, "5432")
	}
	p.open()
	t.Cleanup(func() {
		p.shut()
		p.done.Wait()
	})
	u.Host = p.addr
	return p, u.String()
}

// open takes connections, at the same address each time.
func (p *proxy) open() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener, p.addr = l, l.Addr().String()
	p.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.done.Go(func() { p.serve(c) })
		}
	})
}

// shut cuts all connections and takes no more.
func (p *proxy) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener.Close()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	var answered atomic.Bool
	var both sync.WaitGroup
	both.Go(func() {
		defer client.Close()
		defer server.Close()
		p.pass(server, client, func(b []byte) bool {
			if answered.Swap(false) {
				p.turns.Add(1)
			}
			hear := p.hear.Load()
			return hear == nil || (*hear)(b)
		})
	})
	both.Go(func() {
		defer client.Close()
		defer server.Close()
		p.pass(client, server, func([]byte) bool {
			answered.Store(true)
			return true
		})
	})
	both.Wait()
}

// late is a chunk that is to arrive at a time.
type late struct {
	at    time.Time
	chunk []byte
}

// pass copies with the delay, each chunk after note has seen it, until note
// says no.
func (p *proxy) pass(to io.Writer, from io.Reader, note func([]byte) bool) {
	queue := make(chan late, 4096)
	var writer sync.WaitGroup
	writer.Go(func() {
		for l := range queue {
			time.Sleep(time.Until(l.at))
			if _, err := to.Write(l.chunk); err != nil {
				for range queue { // the reader ends by itself
				}
				return
			}
		}
	})
	for buf := make([]byte, 64<<10); ; {
		n, err := from.Read(buf)
		goOn := true
		if n > 0 {
			chunk := append([]byte(nil), buf[:n]...)
			goOn = note(chunk)
			queue <- late{time.Now().Add(p.delay), chunk}
		}
		if err != nil || !goOn {
			break
		}
	}
	close(queue)
	writer.Wait()
}
