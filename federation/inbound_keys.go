package federation

import (
	"context"
	"strconv"

	"atoll/spec"
)

// ownKeys answers GET /_matrix/key/v2/server, and the old form of the path with
// a key id. Spec: server-server-api#get_matrixkeyv2server
func (h *Handler) ownKeys(context.Context, *request) (any, error) {
	raw, err := h.opts.Keys.Object()
	return rawJSON(raw), err
}

// queryKeys answers POST /_matrix/key/v2/query.
// Spec: server-server-api#post_matrixkeyv2query
func (h *Handler) queryKeys(ctx context.Context, r *request) (any, error) {
	raw, err := readBody(ctx, r, maxBody)
	if err != nil {
		return nil, err
	}
	query, err := ParseKeyQuery(raw)
	if err != nil {
		return nil, err
	}
	return h.notary(ctx, query)
}

// queryServerKeys answers GET /_matrix/key/v2/query/{serverName}, and the old
// form of the path with a key id, which does not narrow the answer.
// Spec: server-server-api#get_matrixkeyv2queryservername
func (h *Handler) queryServerKeys(ctx context.Context, r *request) (any, error) {
	name, err := parsed(spec.ParseServerName, "serverName", r.params["serverName"])
	if err != nil {
		return nil, err
	}
	var until int64
	if text := r.query.Get("minimum_valid_until_ts"); text != "" {
		if until, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, spec.Errorf(spec.CodeInvalidParam, err, "minimum_valid_until_ts must be a number")
		}
	}
	return h.notary(ctx, KeyQuery{name: {"": until}})
}

func (h *Handler) notary(ctx context.Context, query KeyQuery) (any, error) {
	raw, err := h.opts.Notary.Answer(ctx, query)
	return rawJSON(raw), err
}
