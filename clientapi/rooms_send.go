package clientapi

import (
	"context"
	"encoding/json"

	"atoll/server"
	"atoll/spec"
)

// sentAnswer is what all endpoints that send an event answer.
type sentAnswer struct {
	EventID spec.EventID `json:"event_id"`
}

// sendEvent answers PUT /rooms/{roomId}/send/{eventType}/{txnId}.
// Spec: client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid
func (h *Handler) sendEvent(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	raw, err := r.content()
	if err != nil {
		return nil, err
	}
	event, err := h.server.Rooms.Send(ctx, server.SendEvent{
		Room: room, Sender: r.session.User, Device: r.session.Device, TxnID: r.param("txnId"),
		Type: r.param("eventType"), Content: json.RawMessage(raw),
	})
	if err != nil {
		return nil, err
	}
	return sentAnswer{event}, nil
}

// setState answers PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
// Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
func (h *Handler) setState(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	raw, err := r.content()
	if err != nil {
		return nil, err
	}
	key := r.param("stateKey")
	event, err := h.server.Rooms.Send(ctx, server.SendEvent{
		Room: room, Sender: r.session.User, Type: r.param("eventType"), StateKey: &key, Content: json.RawMessage(raw),
	})
	if err != nil {
		return nil, err
	}
	return sentAnswer{event}, nil
}

// redact answers PUT /rooms/{roomId}/redact/{eventId}/{txnId}.
// Spec: client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid
func (h *Handler) redact(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	target, err := r.eventID()
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	if err := h.mayRedact(ctx, r, room, target); err != nil {
		return nil, err
	}
	event, err := h.server.Rooms.Redact(ctx, server.RedactEvent{
		Room: room, Sender: r.session.User, Device: r.session.Device, TxnID: r.param("txnId"),
		Event: target, Reason: body.Reason,
	})
	if err != nil {
		return nil, err
	}
	return sentAnswer{event}, nil
}

// mayRedact lets suspended accounts redact nothing but their own events.
// Spec: client-server-api#account-suspension
func (h *Handler) mayRedact(ctx context.Context, r *request, room spec.RoomID, target spec.EventID) error {
	refusal := r.session.CheckNotSuspended()
	if refusal == nil {
		return nil
	}
	raw, err := h.server.Rooms.Event(ctx, server.ReadEvent{Room: room, User: r.session.User, Event: target})
	if err != nil {
		return refusal
	}
	var event struct {
		Sender spec.UserID `json:"sender"`
	}
	if err := json.Unmarshal(raw, &event); err != nil || event.Sender != r.session.User {
		return refusal
	}
	return nil
}
