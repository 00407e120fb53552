package federation

import (
	"context"
	"errors"
	"io"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// transaction is an answer in the form of one.
func (h *Handler) transaction(events []jsontext.Value) object {
	return object{"origin": h.server.Name(), "origin_server_ts": h.now().UnixMilli(), "pdus": events}
}

// event answers GET /event.
// Spec: server-server-api#get_matrixfederationv1eventeventid
func (h *Handler) event(ctx context.Context, r *request) (any, error) {
	id, err := r.eventID()
	if err != nil {
		return nil, err
	}
	ev, err := h.rooms.EventForServer(ctx, r.origin, id)
	if err != nil {
		return nil, err
	}
	return h.transaction(pdus(ev)), nil
}

// stateAt reads the question of /state and /state_ids and gets the answer.
func (h *Handler) stateAt(ctx context.Context, r *request) (server.StateAnswer, error) {
	room, err := r.roomID()
	if err != nil {
		return server.StateAnswer{}, err
	}
	text, err := r.needed("event_id")
	if err != nil {
		return server.StateAnswer{}, err
	}
	id, err := parsed(spec.ParseEventID, "event_id", text)
	if err != nil {
		return server.StateAnswer{}, err
	}
	return h.rooms.StateAt(ctx, server.AskEvent{Origin: r.origin, Room: room, Event: id})
}

// state answers GET /state.
// Spec: server-server-api#get_matrixfederationv1stateroomid
func (h *Handler) state(ctx context.Context, r *request) (any, error) {
	at, err := h.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return stream(func(ctx context.Context, w io.Writer) error {
		if _, err := io.WriteString(w, "{"); err != nil {
			return err
		}
		return writeStateLists(ctx, w, "pdus", at.State, at.AuthChain)
	}), nil
}

// stateIDs answers GET /state_ids.
// Spec: server-server-api#get_matrixfederationv1state_idsroomid
func (h *Handler) stateIDs(ctx context.Context, r *request) (any, error) {
	at, err := h.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	state, err := at.State.IDs(ctx)
	if err != nil {
		return nil, err
	}
	chain, err := at.AuthChain.IDs(ctx)
	if err != nil {
		return nil, err
	}
	return object{"pdu_ids": state, "auth_chain_ids": chain}, nil
}

// eventAuth answers GET /event_auth.
// Spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (h *Handler) eventAuth(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	id, err := r.eventID()
	if err != nil {
		return nil, err
	}
	chain, err := h.rooms.EventAuthFor(ctx, server.AskEvent{Origin: r.origin, Room: room, Event: id})
	if err != nil {
		return nil, err
	}
	return stream(func(ctx context.Context, w io.Writer) error {
		if _, err := io.WriteString(w, "{"); err != nil {
			return err
		}
		if err := writeEvents(ctx, w, "auth_chain", chain); err != nil {
			return err
		}
		_, err := io.WriteString(w, "}")
		return err
	}), nil
}

// backfill answers GET /backfill.
// Spec: server-server-api#get_matrixfederationv1backfillroomid
func (h *Handler) backfill(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	text, err := r.needed("limit")
	if err != nil {
		return nil, err
	}
	limit, err := strconv.ParseInt(text, 10, 32)
	if errors.Is(err, strconv.ErrRange) && text[0] != '-' {
		limit, err = math.MaxInt32, nil // whoever answers has a limit too
	}
	if err != nil || limit < 0 {
		return nil, spec.Errorf(spec.CodeInvalidParam, err, "limit must be a whole number of at least 0")
	}
	from, err := eventIDs(r.query["v"])
	if err != nil {
		return nil, err
	}
	if len(from) == 0 {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "v is missing")
	}
	events, err := h.rooms.BackfillFor(ctx, server.AskHistory{Origin: r.origin, Room: room, From: from, Limit: int(limit)})
	if err != nil {
		return nil, err
	}
	return h.transaction(pdus(events...)), nil
}

func eventIDs(list []string) ([]spec.EventID, error) {
	out := make([]spec.EventID, 0, len(list))
	for _, s := range list {
		id, err := parsed(spec.ParseEventID, "event id", s)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, nil
}

// missingEvents answers POST /get_missing_events.
// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (h *Handler) missingEvents(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Limit    int64    `json:"limit"`
		MinDepth int64    `json:"min_depth"`
		Earliest []string `json:"earliest_events"`
		Latest   []string `json:"latest_events"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.Earliest == nil || body.Latest == nil {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "earliest_events and latest_events must be there")
	}
	if body.Limit < 0 {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "limit must not be negative")
	}
	ask := server.AskHistory{Origin: r.origin, Room: room, Limit: int(min(body.Limit, math.MaxInt32)), MinDepth: body.MinDepth}
	if ask.From, err = eventIDs(body.Latest); err != nil {
		return nil, err
	}
	if ask.Until, err = eventIDs(body.Earliest); err != nil {
		return nil, err
	}
	events, err := h.rooms.MissingEventsFor(ctx, ask)
	if err != nil {
		return nil, err
	}
	return object{"events": pdus(events...)}, nil
}
