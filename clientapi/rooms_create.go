package clientapi

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// content is free JSON in a typed body that must be an object where it is given; null counts as
// left out.
type content []byte

// UnmarshalJSONFrom implements the interface of the JSON package.
func (c *content) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	switch value.Kind() {
	case '{':
		*c = append([]byte(nil), value...)
		return nil
	case 'n':
		*c = nil
		return nil
	}
	return errors.New("not an object")
}

// createRoomBody is the body of POST /createRoom.
type createRoomBody struct {
	Visibility      string             `json:"visibility"`
	RoomAliasName   string             `json:"room_alias_name"`
	Name            string             `json:"name"`
	Topic           string             `json:"topic"`
	Invite          []string           `json:"invite"`
	Invite3PID      []jsontext.Value   `json:"invite_3pid"`
	RoomVersion     string             `json:"room_version"`
	CreationContent content            `json:"creation_content"`
	InitialState    []initialStateBody `json:"initial_state"`
	Preset          string             `json:"preset"`
	IsDirect        bool               `json:"is_direct"`
	PowerLevels     content            `json:"power_level_content_override"`
}

type initialStateBody struct {
	Type     string  `json:"type"`
	StateKey string  `json:"state_key"`
	Content  content `json:"content"`
}

// createRoom answers POST /createRoom.
// Spec: client-server-api#post_matrixclientv3createroom
func (h *Handler) createRoom(ctx context.Context, r *request) (any, error) {
	var body createRoomBody
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	ask := server.CreateRoom{
		Creator: r.session.User, Version: spec.RoomVersion(body.RoomVersion), Preset: body.Preset,
		Visibility: body.Visibility, Name: body.Name, Topic: body.Topic, AliasLocalpart: body.RoomAliasName,
		CreationContent: json.RawMessage(body.CreationContent), PowerLevelOverride: json.RawMessage(body.PowerLevels),
		IsDirect: body.IsDirect,
	}
	for _, text := range body.Invite {
		user, err := parsed(spec.ParseUserID, "invited user", text)
		if err != nil {
			return nil, err
		}
		ask.Invite = append(ask.Invite, user)
	}
	for _, s := range body.InitialState {
		ask.InitialState = append(ask.InitialState, server.StateInput{Type: s.Type, StateKey: s.StateKey, Content: json.RawMessage(s.Content)})
	}
	room, err := h.server.Rooms.Create(ctx, ask)
	if err != nil {
		return nil, err
	}
	return object{"room_id": room}, nil
}

// check refuses values that no room could have.
func (b *createRoomBody) check() error {
	switch b.Visibility {
	case "", "public", "private":
	default:
		return spec.Errorf(spec.CodeInvalidParam, nil, "visibility must be public or private")
	}
	switch b.Preset {
	case "", "private_chat", "trusted_private_chat", "public_chat":
	default:
		return spec.Errorf(spec.CodeInvalidParam, nil, "there is no such preset")
	}
	if len(b.Invite3PID) > 0 {
		return errNoIdentityServer()
	}
	for _, s := range b.InitialState {
		if s.Type == "" {
			return spec.Errorf(spec.CodeMissingParam, nil, "an entry of initial_state has no type")
		}
		if s.Content == nil {
			return spec.Errorf(spec.CodeMissingParam, nil, "an entry of initial_state has no content")
		}
	}
	return nil
}

// errNoIdentityServer answers invitations to addresses: this server trusts no identity server.
// Spec: client-server-api#third-party-invites
func errNoIdentityServer() error {
	return spec.Errorf(spec.CodeServerNotTrusted, nil, "this server works with no identity server")
}
