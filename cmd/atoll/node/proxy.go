package node

import (
	"net/http"
	"net/netip"
	"strings"

	"atoll/cmd/atoll/config"
)

// clientIP returns a function that tells the address a request came from: the
// peer's, or, if that is a trusted proxy, the last address in X-Forwarded-For
// that is none. Whatever stands before that one could have been made up by the
// client.
func clientIP(trusted []string) (func(*http.Request) string, error) {
	var networks []netip.Prefix
	for _, text := range trusted {
		network, err := config.ParseNetwork(text)
		if err != nil {
			return nil, err
		}
		networks = append(networks, network)
	}
	isTrusted := func(addr netip.Addr) bool {
		for _, network := range networks {
			if network.Contains(addr) {
				return true
			}
		}
		return false
	}
	return func(r *http.Request) string {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return r.RemoteAddr
		}
		addr := peer.Addr().Unmap()
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0 && isTrusted(addr); i-- {
			hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
			if err != nil {
				break
			}
			addr = hop.Unmap()
		}
		return addr.String()
	}, nil
}
