package federation

import (
	"context"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// makeRequest reads what make_join, make_knock and make_leave have in common.
func makeRequest(r *request) (server.MakeMembership, error) {
	room, err := r.roomID()
	if err != nil {
		return server.MakeMembership{}, err
	}
	user, err := r.userID()
	if err != nil {
		return server.MakeMembership{}, err
	}
	req := server.MakeMembership{Origin: r.origin, Room: room, User: user}
	for _, v := range r.query["ver"] {
		req.Versions = append(req.Versions, spec.RoomVersion(v))
	}
	if len(req.Versions) == 0 {
		req.Versions = []spec.RoomVersion{"1"}
	}
	return req, nil
}

func (h *Handler) make(ctx context.Context, r *request, ask func(context.Context, server.MakeMembership) (server.EventTemplate, error)) (any, error) {
	req, err := makeRequest(r)
	if err != nil {
		return nil, err
	}
	template, err := ask(ctx, req)
	if err != nil {
		return nil, err
	}
	return object{"room_version": template.Version, "event": jsontext.Value(template.Event)}, nil
}

// makeJoin answers GET /make_join.
// Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
func (h *Handler) makeJoin(ctx context.Context, r *request) (any, error) {
	return h.make(ctx, r, h.rooms.MakeJoin)
}

// makeLeave answers GET /make_leave.
// Spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
func (h *Handler) makeLeave(ctx context.Context, r *request) (any, error) {
	return h.make(ctx, r, h.rooms.MakeLeave)
}

// makeKnock answers GET /make_knock.
// Spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
func (h *Handler) makeKnock(ctx context.Context, r *request) (any, error) {
	return h.make(ctx, r, h.rooms.MakeKnock)
}

// sendRequest reads what send_join, send_knock and send_leave have in common.
func sendRequest(r *request) (server.SendMembership, error) {
	room, err := r.roomID()
	if err != nil {
		return server.SendMembership{}, err
	}
	event, err := r.eventID()
	if err != nil {
		return server.SendMembership{}, err
	}
	return server.SendMembership{Origin: r.origin, Room: room, EventID: event, Event: r.body}, isObject(r.body)
}

// sendJoin answers PUT /v2/send_join. All members are told also to those who
// could do without. Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (h *Handler) sendJoin(ctx context.Context, r *request) (any, error) {
	req, err := sendRequest(r)
	if err != nil {
		return nil, err
	}
	joined, err := h.rooms.SendJoin(ctx, req)
	if err != nil {
		return nil, err
	}
	return stream(func(ctx context.Context, w io.Writer) error { return h.writeJoined(ctx, w, joined) }), nil
}

func (h *Handler) writeJoined(ctx context.Context, w io.Writer, joined *server.Joined) error {
	head, err := json.Marshal(struct {
		Origin         spec.ServerName   `json:"origin"`
		MembersOmitted bool              `json:"members_omitted"`
		Servers        []spec.ServerName `json:"servers_in_room"`
		Event          jsontext.Value    `json:"event"`
	}{h.server.Name(), false, joined.Servers, joined.Event.AppendFederation(nil, 0)})
	if err != nil {
		return err
	}
	// The lists follow within the same object.
	if _, err := w.Write(append(head[:len(head)-1], ',')); err != nil {
		return err
	}
	return writeStateLists(ctx, w, "state", joined.State, joined.AuthChain)
}

// writeStateLists writes the members of an object with a state and its auth
// chain, and the end of the object.
func writeStateLists(ctx context.Context, w io.Writer, name string, state, chain server.EventList) error {
	if err := writeEvents(ctx, w, "auth_chain", chain); err != nil {
		return err
	}
	if _, err := io.WriteString(w, ","); err != nil {
		return err
	}
	if err := writeEvents(ctx, w, name, state); err != nil {
		return err
	}
	_, err := io.WriteString(w, "}")
	return err
}

// inList makes of an answer that of version 1 of an endpoint: a list of a status
// and the answer.
func inList(result any) stream {
	return func(ctx context.Context, w io.Writer) error {
		if _, err := io.WriteString(w, "[200,"); err != nil {
			return err
		}
		switch body := result.(type) {
		case nil:
			if _, err := io.WriteString(w, "{}"); err != nil {
				return err
			}
		case stream:
			if err := body(ctx, w); err != nil {
				return err
			}
		default:
			raw, err := json.Marshal(body)
			if err != nil {
				return err
			}
			if _, err := w.Write(raw); err != nil {
				return err
			}
		}
		_, err := io.WriteString(w, "]")
		return err
	}
}

// asV1 serves a handler under version 1 of its endpoint.
func asV1(ctx context.Context, r *request, handle handlerFunc) (any, error) {
	result, err := handle(ctx, r)
	if err != nil {
		return nil, err
	}
	return inList(result), nil
}

// sendJoinV1 answers PUT /v1/send_join, which the specification has dropped, for
// servers that still use it.
func (h *Handler) sendJoinV1(ctx context.Context, r *request) (any, error) {
	return asV1(ctx, r, h.sendJoin)
}

// sendLeave answers PUT /v2/send_leave.
// Spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (h *Handler) sendLeave(ctx context.Context, r *request) (any, error) {
	req, err := sendRequest(r)
	if err != nil {
		return nil, err
	}
	return nil, h.rooms.SendLeave(ctx, req)
}

// sendLeaveV1 answers PUT /v1/send_leave, which the specification has dropped,
// for servers that still use it.
func (h *Handler) sendLeaveV1(ctx context.Context, r *request) (any, error) {
	return asV1(ctx, r, h.sendLeave)
}

// sendKnock answers PUT /v1/send_knock.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (h *Handler) sendKnock(ctx context.Context, r *request) (any, error) {
	req, err := sendRequest(r)
	if err != nil {
		return nil, err
	}
	state, err := h.rooms.SendKnock(ctx, req)
	if err != nil {
		return nil, err
	}
	return object{"knock_room_state": rawValues(state)}, nil
}

// invite answers PUT /v2/invite.
// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (h *Handler) invite(ctx context.Context, r *request) (any, error) {
	var body struct {
		Version spec.RoomVersion `json:"room_version"`
		Event   jsontext.Value   `json:"event"`
		State   []jsontext.Value `json:"invite_room_state"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.Version == "" || body.Event == nil {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "room_version and event must be there")
	}
	return h.receiveInvite(ctx, r, body.Version, body.Event, body.State)
}

// inviteV1 answers PUT /v1/invite, which is for rooms of versions 1 and 2 only.
// Spec: server-server-api#put_matrixfederationv1inviteroomideventid
func (h *Handler) inviteV1(ctx context.Context, r *request) (any, error) {
	var body struct {
		Unsigned struct {
			State []jsontext.Value `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	return asV1(ctx, r, func(ctx context.Context, r *request) (any, error) {
		return h.receiveInvite(ctx, r, "1", r.body, body.Unsigned.State)
	})
}

func (h *Handler) receiveInvite(ctx context.Context, r *request, version spec.RoomVersion, event []byte, state []jsontext.Value) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	id, err := r.eventID()
	if err != nil {
		return nil, err
	}
	in := server.Invitation{Origin: r.origin, Version: version, Room: room, EventID: id, Event: event}
	for _, raw := range state {
		in.State = append(in.State, raw)
	}
	signed, err := h.rooms.ReceiveInvite(ctx, in)
	if err != nil {
		return nil, err
	}
	return object{"event": pdus(signed)[0]}, nil
}
