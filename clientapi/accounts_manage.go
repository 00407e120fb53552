package clientapi

import (
	"context"

	"atoll/server"
)

// changePassword answers POST /account/password. It takes a token: who has none
// could only prove who they are by mail.
// Spec: client-server-api#post_matrixclientv3accountpassword
func (h *Handler) changePassword(ctx context.Context, r *request) (any, error) {
	var body server.OwnPassword
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	return nil, h.server.Accounts.ChangeOwnPassword(ctx, r.session, body)
}

// deactivate answers POST /account/deactivate.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
func (h *Handler) deactivate(ctx context.Context, r *request) (any, error) {
	var body server.OwnDeactivation
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	if err := h.server.Accounts.DeactivateOwn(ctx, r.session, body); err != nil {
		return nil, err
	}
	// There is nothing at identity servers that could be unbound.
	return object{"id_server_unbind_result": "success"}, nil
}

// refresh answers POST /refresh. Spec: client-server-api#post_matrixclientv3refresh
func (h *Handler) refresh(ctx context.Context, r *request) (any, error) {
	var body struct {
		RefreshToken server.Secret `json:"refresh_token"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	made, err := h.server.Accounts.Refresh(ctx, body.RefreshToken)
	if err != nil {
		return nil, err
	}
	answer := object{}
	tokens(answer, made)
	return answer, nil
}

// loginToken answers POST /login/get_token.
// Spec: client-server-api#post_matrixclientv1loginget_token
func (h *Handler) loginToken(ctx context.Context, r *request) (any, error) {
	var body struct {
		Auth *server.UIAAuth `json:"auth"`
	}
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	made, err := h.server.Accounts.CreateLoginToken(ctx, r.session, body.Auth)
	if err != nil {
		return nil, err
	}
	return object{"login_token": string(made.Token), "expires_in_ms": made.Lifetime.Milliseconds()}, nil
}
