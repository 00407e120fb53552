package clientapi

import (
	"context"

	"atoll/server"
	"atoll/spec"
)

func (r *request) roomAlias() (spec.RoomAlias, error) {
	return parsed(spec.ParseRoomAlias, "roomAlias", r.param("roomAlias"))
}

// alias answers GET /directory/room/{roomAlias}.
// Spec: client-server-api#get_matrixclientv3directoryroomroomalias
func (h *Handler) alias(ctx context.Context, r *request) (any, error) {
	alias, err := r.roomAlias()
	if err != nil {
		return nil, err
	}
	answer, err := h.server.Aliases.Resolve(ctx, alias)
	if err != nil {
		return nil, err
	}
	return object{"room_id": answer.Room, "servers": answer.Servers}, nil
}

// putAlias answers PUT /directory/room/{roomAlias}.
// Spec: client-server-api#put_matrixclientv3directoryroomroomalias
func (h *Handler) putAlias(ctx context.Context, r *request) (any, error) {
	alias, err := r.roomAlias()
	if err != nil {
		return nil, err
	}
	var body struct {
		RoomID string `json:"room_id"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.RoomID == "" {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "room_id is missing")
	}
	room, err := parsed(spec.ParseRoomID, "room_id", body.RoomID)
	if err != nil {
		return nil, err
	}
	return nil, h.server.Aliases.Create(ctx, server.CreateAlias{By: r.session, Alias: alias, Room: room})
}

// deleteAlias answers DELETE /directory/room/{roomAlias}.
// Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
func (h *Handler) deleteAlias(ctx context.Context, r *request) (any, error) {
	alias, err := r.roomAlias()
	if err != nil {
		return nil, err
	}
	return nil, h.server.Aliases.Delete(ctx, r.session, alias)
}
