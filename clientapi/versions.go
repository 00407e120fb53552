package clientapi

import (
	"context"
	"fmt"

	"atoll/spec"
)

// versionsAnswer is the body of GET /versions.
type versionsAnswer struct {
	Versions         []string        `json:"versions"`
	UnstableFeatures map[string]bool `json:"unstable_features"`
}

// specVersions lists the releases of the specification that the server speaks, oldest first:
// clients insist on finding one that they know, and some look only for old ones.
var specVersions = func() []string {
	list := []string{
		"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
	}
	for minor := 1; minor <= 19; minor++ {
		list = append(list, fmt.Sprintf("v1.%d", minor))
	}
	return list
}()

// unstableFeatures names what works beyond the releases. An entry is added together with the
// code that makes it true, never before.
var unstableFeatures = map[string]bool{
	// use_state_after in /sync, under both spellings.
	"org.matrix.msc4222": true,
	// Free profile fields.
	"uk.tcpip.msc4133.stable": true,
}

// versions answers GET /_matrix/client/versions.
// Spec: client-server-api#get_matrixclientversions
func (h *Handler) versions(context.Context, *request) (any, error) {
	return versionsAnswer{specVersions, unstableFeatures}, nil
}

// wellKnownClient answers GET /.well-known/matrix/client.
// Spec: client-server-api#getwell-knownmatrixclient
func (h *Handler) wellKnownClient(context.Context, *request) (any, error) {
	if h.opts.PublicURL == "" {
		return nil, spec.Errorf(spec.CodeNotFound, nil, "no client discovery here")
	}
	return h.discovery(), nil
}

func (h *Handler) discovery() object {
	return object{"m.homeserver": object{"base_url": h.opts.PublicURL}}
}

// wellKnownServer answers GET /.well-known/matrix/server.
// Spec: server-server-api#getwell-knownmatrixserver
func (h *Handler) wellKnownServer(context.Context, *request) (any, error) {
	if h.opts.FederationAddress == "" {
		return nil, spec.Errorf(spec.CodeNotFound, nil, "no server discovery here")
	}
	return object{"m.server": h.opts.FederationAddress}, nil
}
