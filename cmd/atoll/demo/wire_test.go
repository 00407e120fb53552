package demo

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// echoing is a listener that says hello on every connection and keeps it open.
func echoing(t *testing.T) (address string, port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			conn.Write([]byte("hello"))
		}
	}()
	if port, err = portOf(l.Addr()); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), port
}

func TestWire(t *testing.T) {
	w := newWire()
	eu, port := echoing(t)
	w.attach("eu", port)
	stranger, _ := echoing(t)
	dial := w.connector("us")

	conn, err := dial(t.Context(), "tcp", eu)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context(), "tcp", stranger); err == nil {
		t.Error("the wire leads out of the demo")
	}

	for _, cut := range []string{"eu", "us"} {
		w.isolate(cut)
		if _, err := dial(t.Context(), "tcp", eu); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("with %s cut off: got %v", cut, err)
		}
		w.heal(cut)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("an open connection outlived the cut")
	}
	again, err := dial(t.Context(), "tcp", eu)
	if err != nil {
		t.Fatalf("after healing: %v", err)
	}
	defer again.Close()
}

func TestWireResolves(t *testing.T) {
	w := newWire()
	w.attach("eu", 4711)
	_, records, err := w.LookupSRV(t.Context(), "matrix-fed", "tcp", "eu")
	if err != nil || len(records) != 1 || records[0].Port != 4711 {
		t.Errorf("got %v, %v", records, err)
	}
	if addresses, err := w.LookupNetIP(t.Context(), "ip4", records[0].Target); err != nil || len(addresses) != 1 || !addresses[0].IsLoopback() {
		t.Errorf("got %v, %v", addresses, err)
	}
	for _, name := range []string{"asia", "example.org"} {
		if _, err := w.LookupNetIP(t.Context(), "ip4", name); err == nil {
			t.Errorf("%s has an address", name)
		}
	}
}

func TestTranscript(t *testing.T) {
	var out strings.Builder
	tr := newTranscript(&out)
	regions := []string{"us", "eu", "asia"}
	start := time.Now()
	tr.dispatched("$a", "us", start)
	if open, _ := tr.missing([]string{"$a"}, regions); len(open) != 1 {
		t.Error("arrived before it was sent")
	}
	_, changed := tr.missing([]string{"$a"}, regions)
	tr.arrived("$a", "us", start.Add(time.Millisecond))
	<-changed
	tr.arrived("$a", "eu", start.Add(5*time.Millisecond))
	if text, ok := tr.delays("$a", regions); ok || text != "eu 5.0 ms   asia -" {
		t.Errorf("got %q, %v", text, ok)
	}
	if text, ok := tr.delays("$a", []string{"us", "eu"}); !ok || text != "eu 5.0 ms" {
		t.Errorf("got %q, %v", text, ok)
	}
	tr.arrived("$a", "asia", start.Add(2500*time.Millisecond))
	if text, ok := tr.delays("$a", regions); !ok || text != "eu 5.0 ms   asia 2.5 s" {
		t.Errorf("got %q, %v", text, ok)
	}
	if tr.arrived("$a", "asia", start) {
		t.Error("a second arrival is not noticed")
	}
	if got := tr.summary(nil); !strings.HasPrefix(got, "2 deliveries") {
		t.Errorf("got %q", got)
	}
	if got := tr.summary([]string{"$a"}); got != "no deliveries" {
		t.Errorf("got %q", got)
	}
}
