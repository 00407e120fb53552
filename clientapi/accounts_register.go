package clientapi

import (
	"context"

	"atoll/server"
	"atoll/spec"
)

// register answers POST /register. Spec: client-server-api#post_matrixclientv3register
func (h *Handler) register(ctx context.Context, r *request) (any, error) {
	var body server.Register
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	switch r.query.Get("kind") {
	case "", "user":
	case "guest":
		body.Guest = true
	default:
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "kind must be user or guest")
	}
	made, err := h.server.Accounts.Register(ctx, body)
	if err != nil {
		return nil, err
	}
	return h.sessionAnswer(made), nil
}

// registerAvailable answers GET /register/available.
// Spec: client-server-api#get_matrixclientv3registeravailable
func (h *Handler) registerAvailable(ctx context.Context, r *request) (any, error) {
	if !r.query.Has("username") {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "username is missing")
	}
	if err := h.server.Accounts.CheckUsername(ctx, r.query.Get("username")); err != nil {
		return nil, err
	}
	return object{"available": true}, nil
}

// registrationTokenValidity answers GET /register/m.login.registration_token/validity.
// Spec: client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity
func (h *Handler) registrationTokenValidity(ctx context.Context, r *request) (any, error) {
	if !r.query.Has("token") {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "token is missing")
	}
	valid, err := h.server.Accounts.RegistrationTokenValid(ctx, server.Secret(r.query.Get("token")))
	if err != nil {
		return nil, err
	}
	return object{"valid": valid}, nil
}

// sharedNonce answers GET /_synapse/admin/v1/register, the first step of registration by shared
// secret as tools for bots and load tests do it. No Matrix specification covers it.
func (h *Handler) sharedNonce(context.Context, *request) (any, error) {
	nonce, err := h.server.Accounts.Nonce()
	if err != nil {
		return nil, err
	}
	return object{"nonce": nonce}, nil
}

// sharedRegister answers POST /_synapse/admin/v1/register, the second step.
func (h *Handler) sharedRegister(ctx context.Context, r *request) (any, error) {
	var body server.SharedSecretRegister
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	made, err := h.server.Accounts.RegisterShared(ctx, body)
	if err != nil {
		return nil, err
	}
	return h.sessionAnswer(made), nil
}
