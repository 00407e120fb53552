package clientapi

import (
	"context"

	"atoll/server"
)

// accountDataKey reads from the path which account data is meant, of oneself and nobody else.
func (r *request) accountDataKey() (server.AccountDataKey, error) {
	user, err := r.ownUser()
	if err != nil {
		return server.AccountDataKey{}, err
	}
	key := server.AccountDataKey{User: user, Type: r.param("type")}
	if r.param("roomId") != "" {
		key.Room, err = r.roomID()
	}
	return key, err
}

// accountData answers GET /user/{userId}/account_data/{type} and its form for a room.
// Spec: client-server-api#get_matrixclientv3useruseridaccount_datatype
func (h *Handler) accountData(ctx context.Context, r *request) (any, error) {
	key, err := r.accountDataKey()
	if err != nil {
		return nil, err
	}
	content, err := h.server.AccountData.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return rawJSON(content), nil
}

// putAccountData answers PUT /user/{userId}/account_data/{type} and its form for a room.
// Spec: client-server-api#put_matrixclientv3useruseridaccount_datatype
func (h *Handler) putAccountData(ctx context.Context, r *request) (any, error) {
	key, err := r.accountDataKey()
	if err != nil {
		return nil, err
	}
	content, err := r.content()
	if err != nil {
		return nil, err
	}
	return nil, h.server.AccountData.Put(ctx, key, content)
}

// createFilter answers POST /user/{userId}/filter.
// Spec: client-server-api#post_matrixclientv3useruseridfilter
func (h *Handler) createFilter(ctx context.Context, r *request) (any, error) {
	user, err := r.ownUser()
	if err != nil {
		return nil, err
	}
	raw, err := r.content()
	if err != nil {
		return nil, err
	}
	id, err := h.server.Filters.Create(ctx, user, raw)
	if err != nil {
		return nil, err
	}
	return object{"filter_id": id}, nil
}

// filter answers GET /user/{userId}/filter/{filterId}.
// Spec: client-server-api#get_matrixclientv3useruseridfilterfilterid
func (h *Handler) filter(ctx context.Context, r *request) (any, error) {
	user, err := r.ownUser()
	if err != nil {
		return nil, err
	}
	raw, err := h.server.Filters.Get(ctx, user, r.param("filterId"))
	if err != nil {
		return nil, err
	}
	return rawJSON(raw), nil
}
