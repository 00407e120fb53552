package clientapi

import (
	"context"
	"slices"

	"atoll/server"
	"atoll/spec"
)

// loginFlows answers GET /login. Spec: client-server-api#get_matrixclientv3login
func (h *Handler) loginFlows(context.Context, *request) (any, error) {
	flows := []object{}
	for _, name := range h.server.Accounts.LoginTypes() {
		flow := object{"type": name}
		if name == server.LoginByToken {
			flow["get_login_token"] = true
		}
		flows = append(flows, flow)
	}
	return object{"flows": flows}, nil
}

// login answers POST /login. Spec: client-server-api#post_matrixclientv3login
func (h *Handler) login(ctx context.Context, r *request) (any, error) {
	var body server.Login
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	made, err := h.server.Accounts.Login(ctx, body)
	if err != nil {
		return nil, err
	}
	return h.sessionAnswer(made), nil
}

// sessionAnswer is what login and registration answer. Where registration made no session, device
// and token are left out.
func (h *Handler) sessionAnswer(made server.NewSession) object {
	// Clients of the r0 time want home_server as well.
	answer := object{"user_id": made.User, "home_server": made.User.Server()}
	if made.Token != "" {
		answer["device_id"] = made.Device
		tokens(answer, made)
	}
	if h.opts.PublicURL != "" {
		answer["well_known"] = h.discovery()
	}
	return answer
}

// tokens puts the tokens of a session into an answer.
// Spec: client-server-api#refreshing-access-tokens
func tokens(answer object, made server.NewSession) {
	answer["access_token"] = string(made.Token)
	if made.RefreshToken != "" {
		answer["refresh_token"] = string(made.RefreshToken)
	}
	if made.Lifetime > 0 {
		answer["expires_in_ms"] = made.Lifetime.Milliseconds()
	}
}

// logout answers POST /logout. The body is of no interest.
// Spec: client-server-api#post_matrixclientv3logout
func (h *Handler) logout(ctx context.Context, r *request) (any, error) {
	return nil, h.server.Accounts.Logout(ctx, r.session)
}

// logoutAll answers POST /logout/all. Spec: client-server-api#post_matrixclientv3logoutall
func (h *Handler) logoutAll(ctx context.Context, r *request) (any, error) {
	return nil, h.server.Accounts.LogoutAll(ctx, r.session.User)
}

// whoami answers GET /account/whoami.
// Spec: client-server-api#get_matrixclientv3accountwhoami
func (h *Handler) whoami(_ context.Context, r *request) (any, error) {
	answer := object{"user_id": r.session.User, "device_id": r.session.Device}
	if r.session.Guest {
		answer["is_guest"] = true
	}
	return answer, nil
}

// capabilities answers GET /capabilities.
// Spec: client-server-api#capabilities-negotiation
func (h *Handler) capabilities(_ context.Context, r *request) (any, error) {
	versions := map[spec.RoomVersion]string{}
	for _, v := range spec.SupportedVersions() {
		versions[v] = "stable"
	}
	enabled := func(yes bool) object { return object{"enabled": yes} }
	all := object{
		"m.room_versions":            object{"default": spec.DefaultVersion, "available": versions},
		"m.change_password":          enabled(!r.session.Guest),
		"m.3pid_changes":             enabled(false),
		"m.get_login_token":          enabled(slices.Contains(h.server.Accounts.LoginTypes(), server.LoginByToken) && !r.session.Guest),
		"m.set_displayname":          enabled(true),
		"m.set_avatar_url":           enabled(true),
		"m.profile_fields":           enabled(true),
		"m.forget_forced_upon_leave": enabled(false),
	}
	if r.session.Admin {
		all["m.account_moderation"] = object{"lock": true, "suspend": true}
	}
	return object{"capabilities": all}, nil
}
