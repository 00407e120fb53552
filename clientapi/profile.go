package clientapi

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// profile answers GET /profile/{userId}.
// Spec: client-server-api#get_matrixclientv3profileuserid
func (h *Handler) profile(ctx context.Context, r *request) (any, error) {
	user, err := r.userID()
	if err != nil {
		return nil, err
	}
	return h.server.Profiles.Get(ctx, user)
}

// profileField answers GET /profile/{userId}/{keyName}.
// Spec: client-server-api#get_matrixclientv3profileuseridkeyname
func (h *Handler) profileField(ctx context.Context, r *request) (any, error) {
	user, err := r.userID()
	if err != nil {
		return nil, err
	}
	name := r.param("keyName")
	value, err := h.server.Profiles.Field(ctx, user, name)
	if err != nil {
		return nil, err
	}
	return object{name: value}, nil
}

// setProfileField answers PUT /profile/{userId}/{keyName}.
// Spec: client-server-api#put_matrixclientv3profileuseridkeyname
func (h *Handler) setProfileField(ctx context.Context, r *request) (any, error) {
	var body map[string]jsontext.Value
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	value, ok := body[r.param("keyName")]
	if !ok {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "%s is missing", r.param("keyName"))
	}
	return h.changeProfile(ctx, r, value)
}

// deleteProfileField answers DELETE /profile/{userId}/{keyName}.
// Spec: client-server-api#delete_matrixclientv3profileuseridkeyname
func (h *Handler) deleteProfileField(ctx context.Context, r *request) (any, error) {
	return h.changeProfile(ctx, r, nil)
}

func (h *Handler) changeProfile(ctx context.Context, r *request, value jsontext.Value) (any, error) {
	user, err := r.userID()
	if err != nil {
		return nil, err
	}
	name := r.param("keyName")
	// Guests may change their display name only. Spec: client-server-api#guest-access
	if r.session.Guest && name != "displayname" {
		return nil, spec.Errorf(spec.CodeGuestAccessForbidden, nil, "guests may only change their display name")
	}
	return nil, h.server.Profiles.Set(ctx, server.SetProfileField{By: r.session, User: user, Name: name, Value: value})
}
