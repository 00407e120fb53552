package federation

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"atoll/spec"
	"atoll/storage"
)

// maxAuthHeaders bounds how many X-Matrix headers of one request are looked at.
const maxAuthHeaders = 4

// Authenticate tells which server made the request, whose body has been read
// already. The request must be signed as it was sent: method, path and query
// with their escapes, and body. It must be meant for this server and signed with
// a key of the origin that is in use now. Every failure is a *spec.Error with
// status 401. Of several headers one must be good, all of them by one origin.
//
// Spec: server-server-api#request-authentication
func (c *Client) Authenticate(ctx context.Context, r *http.Request, body []byte) (spec.ServerName, error) {
	var signatures []spec.XMatrix
	for _, header := range r.Header.Values("Authorization") {
		if scheme, _, _ := strings.Cut(strings.TrimSpace(header), " "); !strings.EqualFold(scheme, "X-Matrix") {
			continue
		}
		x, err := spec.ParseXMatrix(header)
		if err != nil {
			return "", spec.Errorf(spec.CodeUnauthorized, err, "the Authorization header cannot be understood")
		}
		if signatures = append(signatures, x); len(signatures) == maxAuthHeaders {
			break
		}
	}
	if len(signatures) == 0 {
		return "", spec.Errorf(spec.CodeUnauthorized, nil, "the request has no X-Matrix authorization")
	}
	origin := signatures[0].Origin
	// No key is looked up before all that can be known without one is right.
	for _, x := range signatures {
		switch {
		case x.Origin != origin:
			return "", spec.Errorf(spec.CodeUnauthorized, nil, "the request is signed by different servers")
		case x.Destination != "" && x.Destination != c.name:
			return "", spec.Errorf(spec.CodeUnauthorized, nil, "the request is meant for another server")
		}
	}
	if origin == c.name || !c.permit(origin) {
		return "", spec.Errorf(spec.CodeUnauthorized, nil, "this server takes no requests from %s", origin)
	}
	request := spec.FederationRequest{Method: r.Method, URI: requestTarget(r), Origin: origin, Destination: c.name, Content: body}
	var errs []error
	for _, x := range signatures {
		err := c.keys.VerifyRequest(ctx, request, x)
		if err == nil {
			return origin, nil
		}
		errs = append(errs, err)
	}
	return "", spec.Errorf(spec.CodeUnauthorized, errors.Join(errs...), "the signature of %s could not be verified", origin)
}

// requestTarget returns path and query as they were on the wire. Re-encoding
// what was decoded would lose the difference between "!" and "%21".
func requestTarget(r *http.Request) string {
	target := r.RequestURI
	if strings.HasPrefix(target, "/") {
		return target
	}
	// The absolute form, as proxies may send it.
	if _, rest, ok := strings.Cut(target, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
	}
	return r.URL.RequestURI()
}

// VerifyRequest checks that x signs the request with a key that its origin uses
// now. The error is server.ErrKeyUnavailable, among others, if the key could not
// be had.
func (r *KeyRing) VerifyRequest(ctx context.Context, request spec.FederationRequest, x spec.XMatrix) error {
	use := keyUse{at: r.now().UnixMilli(), strict: true, current: true}
	return r.verify(ctx, x.Origin, []spec.KeyID{x.Key}, use, func(_ spec.KeyID, k storage.ServerKey) error {
		return request.Verify(x, k.Public)
	})
}
