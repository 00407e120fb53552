package clientapi

import (
	"bytes"
	"context"
	"encoding/json"

	"atoll/server"
	"atoll/spec"
)

// joinRoom answers POST /rooms/{roomId}/join.
// Spec: client-server-api#post_matrixclientv3roomsroomidjoin
func (h *Handler) joinRoom(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	return h.join(ctx, r, string(room))
}

// joinRoomOrAlias answers POST /join/{roomIdOrAlias}.
// Spec: client-server-api#post_matrixclientv3joinroomidoralias
func (h *Handler) joinRoomOrAlias(ctx context.Context, r *request) (any, error) {
	name, err := r.roomIDOrAlias()
	if err != nil {
		return nil, err
	}
	return h.join(ctx, r, name)
}

// roomIDOrAlias is the room id or alias in the path.
func (r *request) roomIDOrAlias() (string, error) {
	name := r.param("roomIdOrAlias")
	_, err := spec.ParseRoomID(name)
	if len(name) > 0 && name[0] == '#' {
		_, err = spec.ParseRoomAlias(name)
	}
	if err != nil {
		return "", spec.Errorf(spec.CodeInvalidParam, err, "that is neither a room id nor an alias")
	}
	return name, nil
}

// knock answers POST /knock/{roomIdOrAlias}.
// Spec: client-server-api#post_matrixclientv3knockroomidoralias
func (h *Handler) knock(ctx context.Context, r *request) (any, error) {
	name, err := r.roomIDOrAlias()
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	extra := object{}
	if body.Reason != "" {
		extra["reason"] = body.Reason
	}
	raw, err := json.Marshal(extra)
	if err != nil {
		return nil, err
	}
	id, err := h.server.Rooms.Knock(ctx, server.Join{User: r.session.User, Room: name, Via: r.via(), Content: raw})
	if err != nil {
		return nil, err
	}
	return object{"room_id": id}, nil
}

// forget answers POST /rooms/{roomId}/forget.
// Spec: client-server-api#post_matrixclientv3roomsroomidforget
func (h *Handler) forget(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	return nil, h.server.Rooms.Forget(ctx, room, r.session.User)
}

func (h *Handler) join(ctx context.Context, r *request, room string) (any, error) {
	raw, err := r.contentOptional()
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason           string  `json:"reason"`
		ThirdPartySigned content `json:"third_party_signed"`
	}
	if err := decodeObject(raw, &body); err != nil {
		return nil, err
	}
	// A third-party invite would have had to be made through an identity server.
	if body.ThirdPartySigned != nil {
		return nil, spec.Errorf(spec.CodeForbidden, nil, "there is no such third-party invite")
	}
	joined, err := h.server.Rooms.Join(ctx, server.Join{User: r.session.User, Room: room, Via: r.via(), Content: json.RawMessage(raw)})
	if err != nil {
		return nil, err
	}
	return object{"room_id": joined}, nil
}

// contentOptional is content, except that no body at all is taken as {}.
func (r *request) contentOptional() ([]byte, error) {
	raw, err := r.body()
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return []byte("{}"), nil
	}
	return raw, checkObject(raw)
}

// via lists the servers that the client names as knowing a room, under the new and the old name
// of the parameter. What is no server name is left out.
func (r *request) via() []spec.ServerName {
	var list []spec.ServerName
	for _, parameter := range []string{"via", "server_name"} {
		for _, text := range r.query[parameter] {
			if name, err := spec.ParseServerName(text); err == nil {
				list = append(list, name)
			}
		}
	}
	return list
}

// membershipBody is the body of the endpoints that change a membership.
type membershipBody struct {
	UserID string `json:"user_id"`
	Reason string `json:"reason"`
}

// leaveRoom answers POST /rooms/{roomId}/leave.
// Spec: client-server-api#post_matrixclientv3roomsroomidleave
func (h *Handler) leaveRoom(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	var body membershipBody
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	user := r.session.User
	return nil, h.server.Rooms.Leave(ctx, server.ChangeMembership{Room: room, Sender: user, Target: user, Reason: body.Reason})
}

// inviteBody is the body of POST /rooms/{roomId}/invite in both of its forms.
type inviteBody struct {
	membershipBody
	IDServer string `json:"id_server"`
	Medium   string `json:"medium"`
	Address  string `json:"address"`
}

// invite answers POST /rooms/{roomId}/invite.
// Spec: client-server-api#post_matrixclientv3roomsroomidinvite
func (h *Handler) invite(ctx context.Context, r *request) (any, error) {
	room, err := r.roomID()
	if err != nil {
		return nil, err
	}
	var body inviteBody
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.UserID == "" && body.Medium != "" && body.Address != "" {
		return nil, errNoIdentityServer()
	}
	change, err := body.change(r.session.User, room)
	if err != nil {
		return nil, err
	}
	return nil, h.server.Rooms.Invite(ctx, change)
}

// moderate makes the handler for kicks, bans and unbans, which differ in what they call only.
// Spec: client-server-api#banning-users-in-a-room
func moderate(call func(context.Context, server.ChangeMembership) error) handlerFunc {
	return func(ctx context.Context, r *request) (any, error) {
		room, err := r.roomID()
		if err != nil {
			return nil, err
		}
		var body membershipBody
		if err := r.decode(&body); err != nil {
			return nil, err
		}
		change, err := body.change(r.session.User, room)
		if err != nil {
			return nil, err
		}
		return nil, call(ctx, change)
	}
}

func (b membershipBody) change(sender spec.UserID, room spec.RoomID) (server.ChangeMembership, error) {
	if b.UserID == "" {
		return server.ChangeMembership{}, spec.Errorf(spec.CodeMissingParam, nil, "user_id is missing")
	}
	target, err := parsed(spec.ParseUserID, "user_id", b.UserID)
	if err != nil {
		return server.ChangeMembership{}, err
	}
	return server.ChangeMembership{Room: room, Sender: sender, Target: target, Reason: b.Reason}, nil
}
