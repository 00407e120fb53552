package clientapi

import (
	"context"
	"errors"
	"time"

	"atoll/server"
	"atoll/spec"
)

// sync answers GET /sync. Spec: client-server-api#get_matrixclientv3sync
func (h *Handler) sync(ctx context.Context, r *request) (any, error) {
	ask, err := h.syncRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	answer, err := h.server.Sync.Sync(ctx, ask)
	if errors.Is(err, context.Canceled) && ask.Since != "" {
		// The server is stopping (or the client has gone, and does not care). Nothing has been
		// told since then, which is an answer that the client can go on from elsewhere.
		return object{"next_batch": ask.Since}, nil
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (h *Handler) syncRequest(ctx context.Context, r *request) (server.SyncRequest, error) {
	ask := server.SyncRequest{User: r.session.User, Device: r.session.Device, Since: r.query.Get("since"), FilterID: r.query.Get("filter")}
	var err error
	if ask.FullState, err = r.flag("full_state"); err != nil {
		return ask, err
	}
	timeout, err := r.number("timeout", 0)
	if err != nil {
		return ask, err
	}
	ask.Timeout = time.Duration(min(timeout, time.Hour.Milliseconds())) * time.Millisecond
	switch r.query.Get("set_presence") {
	case "", "online", "offline", "unavailable":
	default:
		return ask, spec.Errorf(spec.CodeInvalidParam, nil, "set_presence must be online, offline or unavailable")
	}
	// The parameter had a name of its own before the specification took it up, and then the
	// section of the answer has it too.
	for _, prefix := range []string{"org.matrix.msc4222.", ""} {
		after, err := r.flag(prefix + "use_state_after")
		if err != nil {
			return ask, err
		}
		if after {
			ask.StateAfter = prefix + "state_after"
		}
	}
	ask.Filter, err = h.server.Filters.Load(ctx, r.session.User, ask.FilterID)
	return ask, err
}
