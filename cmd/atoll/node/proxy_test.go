package node

import (
	"net/http"
	"testing"
)

func TestClientIP(t *testing.T) {
	cases := []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"a client without a proxy", "198.51.100.7:4000", nil, "198.51.100.7"},
		{"a client that claims to be another", "198.51.100.7:4000", []string{"192.0.2.1"}, "198.51.100.7"},
		{"through one proxy", "10.1.2.3:4000", []string{"198.51.100.7"}, "198.51.100.7"},
		{"through two proxies", "10.1.2.3:4000", []string{"198.51.100.7, 192.168.0.9"}, "198.51.100.7"},
		{"through two proxies with a header each", "10.1.2.3:4000", []string{"198.51.100.7", "192.168.0.9"}, "198.51.100.7"},
		{"a made-up address before the proxy's", "10.1.2.3:4000", []string{"192.0.2.1, 198.51.100.7"}, "198.51.100.7"},
		{"a proxy that says nothing", "10.1.2.3:4000", nil, "10.1.2.3"},
		{"a proxy that says nonsense", "10.1.2.3:4000", []string{"unknown"}, "10.1.2.3"},
		{"IPv6", "[2001:db8::1]:4000", []string{"192.0.2.1"}, "2001:db8::1"},
		{"an IPv4 proxy on an IPv6 socket", "[::ffff:10.1.2.3]:4000", []string{"2001:db8::2"}, "2001:db8::2"},
	}
	ip, err := clientIP([]string{"10.0.0.0/8", "192.168.0.9"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: tc.peer, Header: http.Header{"X-Forwarded-For": tc.forwarded}}
			if got := ip(r); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
