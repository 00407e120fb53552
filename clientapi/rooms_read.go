package clientapi

import (
	"context"
	"io"

	"atoll/server"
	"atoll/spec"
)

// eventList is an answer around a list of events that are JSON already.
type eventList struct {
	before string
	events []server.ClientEvent
	after  string
}

// WriteTo implements io.WriterTo.
func (l eventList) WriteTo(w io.Writer) (int64, error) {
	buf := appendEvents([]byte(l.before), l.events)
	n, err := w.Write(append(buf, l.after...))
	return int64(n), err
}

// appendEvents appends a JSON list of events.
func appendEvents(dst []byte, events []server.ClientEvent) []byte {
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, e...)
	}
	return append(dst, ']')
}

// roomState answers GET /rooms/{roomId}/state.
// Spec: client-server-api#get_matrixclientv3roomsroomidstate
func (h *Handler) roomState(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	events, err := h.server.Rooms.RoomState(ctx, server.ReadRoom{Room: room, User: r.session.User})
	if err != nil {
		return nil, err
	}
	return eventList{"", events, ""}, nil
}

// stateEvent answers GET /rooms/{roomId}/state/{eventType}/{stateKey}.
// Spec: client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey
func (h *Handler) stateEvent(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	format := r.query.Get("format")
	if format != "" && format != "content" && format != "event" {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "format must be content or event")
	}
	key := spec.StateKey{Type: r.param("eventType"), Key: r.param("stateKey")}
	state, err := h.server.Rooms.StateEvent(ctx, server.ReadState{Room: room, User: r.session.User, Key: key})
	if err != nil {
		return nil, err
	}
	if format == "event" {
		return rawJSON(state.Event), nil
	}
	return rawJSON(state.Content), nil
}

// event answers GET /rooms/{roomId}/event/{eventId}.
// Spec: client-server-api#get_matrixclientv3roomsroomideventeventid
func (h *Handler) event(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	id, err := r.eventID()
	if err != nil {
		return nil, err
	}
	event, err := h.server.Rooms.Event(ctx, server.ReadEvent{Room: room, User: r.session.User, Device: r.session.Device, Event: id})
	if err != nil {
		return nil, err
	}
	return rawJSON(event), nil
}

// messages answers GET /rooms/{roomId}/messages.
// Spec: client-server-api#get_matrixclientv3roomsroomidmessages
func (h *Handler) messages(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	ask := server.Messages{
		Room: room, User: r.session.User, Device: r.session.Device,
		From: r.query.Get("from"), To: r.query.Get("to"),
	}
	switch r.query.Get("dir") {
	case "b":
		ask.Back = true
	case "f":
	case "":
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "dir is missing")
	default:
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "dir must be b or f")
	}
	if ask.Limit, ask.Filter, err = r.page(); err != nil {
		return nil, err
	}
	page, err := h.server.Rooms.Messages(ctx, ask)
	if err != nil {
		return nil, err
	}
	return messagesAnswer{page}, nil
}

// Pages of history: how many events when the client does not say, and at most.
const (
	defaultPage = 10
	maxPage     = 1000
)

// page reads how many events the client wants, and which.
func (r *request) page() (limit int, filter *server.RoomEventFilter, err error) {
	n, err := r.number("limit", defaultPage)
	if err != nil {
		return 0, nil, err
	}
	if text := r.query.Get("filter"); text != "" {
		filter, err = server.ParseRoomEventFilter([]byte(text))
	}
	return int(min(n, maxPage)), filter, err
}

type messagesAnswer struct{ page *server.MessagesPage }

// WriteTo implements io.WriterTo.
func (m messagesAnswer) WriteTo(w io.Writer) (int64, error) {
	buf := appendEvents([]byte(`{"chunk":`), m.page.Chunk)
	buf = appendToken(buf, "start", m.page.Start)
	buf = appendToken(buf, "end", m.page.End)
	if len(m.page.State) > 0 {
		buf = appendEvents(append(buf, `,"state":`...), m.page.State)
	}
	n, err := w.Write(append(buf, '}'))
	return int64(n), err
}

// appendToken appends a pagination token as a member of an object, if there is one. Tokens
// consist of letters, digits and marks that JSON does not escape.
func appendToken(dst []byte, name, token string) []byte {
	if token == "" {
		return dst
	}
	return append(append(append(append(append(dst, `,"`...), name...), `":"`...), token...), '"')
}

// eventContext answers GET /rooms/{roomId}/context/{eventId}.
// Spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
func (h *Handler) eventContext(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	id, err := r.eventID()
	if err != nil {
		return nil, err
	}
	ask := server.ReadContext{Room: room, User: r.session.User, Device: r.session.Device, Event: id}
	if ask.Limit, ask.Filter, err = r.page(); err != nil {
		return nil, err
	}
	around, err := h.server.Rooms.Context(ctx, ask)
	if err != nil {
		return nil, err
	}
	return contextAnswer{around}, nil
}

type contextAnswer struct{ *server.EventContext }

// WriteTo implements io.WriterTo.
func (c contextAnswer) WriteTo(w io.Writer) (int64, error) {
	buf := append([]byte(`{"event":`), c.Event...)
	buf = appendEvents(append(buf, `,"events_before":`...), c.Before)
	buf = appendEvents(append(buf, `,"events_after":`...), c.After)
	buf = appendEvents(append(buf, `,"state":`...), c.State)
	buf = appendToken(appendToken(buf, "start", c.Start), "end", c.End)
	n, err := w.Write(append(buf, '}'))
	return int64(n), err
}

// joinedRooms answers GET /joined_rooms.
// Spec: client-server-api#get_matrixclientv3joined_rooms
func (h *Handler) joinedRooms(ctx context.Context, r *request) (any, error) {
	rooms, err := h.server.Rooms.JoinedRooms(ctx, r.session.User)
	if err != nil {
		return nil, err
	}
	return object{"joined_rooms": rooms}, nil
}

// members answers GET /rooms/{roomId}/members.
// Spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (h *Handler) members(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	ask := server.MembersQuery{
		Room: room, User: r.session.User, At: r.query.Get("at"),
		Membership: r.query.Get("membership"), NotMembership: r.query.Get("not_membership"),
	}
	for _, membership := range []string{ask.Membership, ask.NotMembership} {
		switch membership {
		case "", "join", "invite", "knock", "leave", "ban":
		default:
			return nil, spec.Errorf(spec.CodeInvalidParam, nil, "there is no such membership")
		}
	}
	events, err := h.server.Rooms.Members(ctx, ask)
	if err != nil {
		return nil, err
	}
	return eventList{`{"chunk":`, events, `}`}, nil
}

// joinedMembers answers GET /rooms/{roomId}/joined_members.
// Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (h *Handler) joinedMembers(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	joined, err := h.server.Rooms.JoinedMembers(ctx, server.ReadRoom{Room: room, User: r.session.User})
	if err != nil {
		return nil, err
	}
	return object{"joined": joined}, nil
}

// roomAliases answers GET /rooms/{roomId}/aliases. Whoever may read the room's state may know them.
// Spec: client-server-api#get_matrixclientv3roomsroomidaliases
func (h *Handler) roomAliases(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	create := server.ReadState{Room: room, User: r.session.User, Key: spec.StateKey{Type: spec.TypeCreate}}
	if _, err := h.server.Rooms.StateEvent(ctx, create); err != nil {
		return nil, err
	}
	aliases, err := h.server.Aliases.OfRoom(ctx, room)
	if err != nil {
		return nil, err
	}
	return object{"aliases": aliases}, nil
}
