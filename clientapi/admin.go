package clientapi

import (
	"context"

	"atoll/server"
	"atoll/spec"
)

// whois answers GET /admin/whois/{userId}.
// Spec: client-server-api#get_matrixclientv3adminwhoisuserid
func (h *Handler) whois(ctx context.Context, r *request) (any, error) {
	user, err := r.userID()
	if err != nil {
		return nil, err
	}
	list, err := h.server.Accounts.Whois(ctx, r.session, user)
	if err != nil {
		return nil, err
	}
	devices := object{}
	for _, d := range list {
		connections := []object{}
		if d.LastSeen != 0 {
			connections = append(connections, object{"ip": d.LastIP, "last_seen": d.LastSeen, "user_agent": d.LastUserAgent})
		}
		devices[d.ID] = object{"sessions": []object{{"connections": connections}}}
	}
	return object{"user_id": user, "devices": devices}, nil
}

// standing is one of the two things that administrators may do to accounts.
type standing struct {
	name string // of the member of request and answer
	get  func(server.Account) bool
	set  func(*bool) server.Standing
}

var (
	locking = standing{
		"locked", func(a server.Account) bool { return a.Locked }, func(v *bool) server.Standing { return server.Standing{Locked: v} },
	}
	suspending = standing{
		"suspended", func(a server.Account) bool { return a.Suspended }, func(v *bool) server.Standing { return server.Standing{Suspended: v} },
	}
)

// standing makes the handler for GET /admin/lock and /admin/suspend.
// Spec: client-server-api#server-administration
func (h *Handler) standing(s standing) handlerFunc {
	return func(ctx context.Context, r *request) (any, error) {
		user, err := r.userID()
		if err != nil {
			return nil, err
		}
		account, err := h.server.Accounts.Moderated(ctx, r.session, user)
		if err != nil {
			return nil, err
		}
		return object{s.name: s.get(account)}, nil
	}
}

// setStanding makes the handler for PUT /admin/lock and /admin/suspend.
// Spec: client-server-api#server-administration
func (h *Handler) setStanding(s standing) handlerFunc {
	return func(ctx context.Context, r *request) (any, error) {
		user, err := r.userID()
		if err != nil {
			return nil, err
		}
		var body struct {
			Locked    *bool `json:"locked"`
			Suspended *bool `json:"suspended"`
		}
		if err := r.decode(&body); err != nil {
			return nil, err
		}
		value := body.Locked
		if s.name == suspending.name {
			value = body.Suspended
		}
		if value == nil {
			return nil, spec.Errorf(spec.CodeMissingParam, nil, "%s is missing", s.name)
		}
		if err := h.server.Accounts.SetStanding(ctx, r.session, user, s.set(value)); err != nil {
			return nil, err
		}
		return object{s.name: *value}, nil
	}
}
