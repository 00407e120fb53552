package clientapi

import (
	"context"

	"atoll/server"
	"atoll/spec"
)

// devices answers GET /devices. Spec: client-server-api#get_matrixclientv3devices
func (h *Handler) devices(ctx context.Context, r *request) (any, error) {
	list, err := h.server.Accounts.Devices(ctx, r.session.User)
	if err != nil {
		return nil, err
	}
	devices := make([]object, len(list))
	for i, d := range list {
		devices[i] = deviceAnswer(d)
	}
	return object{"devices": devices}, nil
}

// device answers GET /devices/{deviceId}.
// Spec: client-server-api#get_matrixclientv3devicesdeviceid
func (h *Handler) device(ctx context.Context, r *request) (any, error) {
	d, err := h.server.Accounts.Device(ctx, r.session.User, r.param("deviceId"))
	if err != nil {
		return nil, err
	}
	return deviceAnswer(d), nil
}

func deviceAnswer(d server.Device) object {
	answer := object{"device_id": d.ID}
	if d.Name != "" {
		answer["display_name"] = d.Name
	}
	if d.LastIP != "" {
		answer["last_seen_ip"] = d.LastIP
	}
	if d.LastSeen != 0 {
		answer["last_seen_ts"] = d.LastSeen
	}
	return answer
}

// renameDevice answers PUT /devices/{deviceId}.
// Spec: client-server-api#put_matrixclientv3devicesdeviceid
func (h *Handler) renameDevice(ctx context.Context, r *request) (any, error) {
	var body struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.DisplayName == nil {
		_, err := h.server.Accounts.Device(ctx, r.session.User, r.param("deviceId"))
		return nil, err
	}
	return nil, h.server.Accounts.RenameDevice(ctx, r.session.User, r.param("deviceId"), *body.DisplayName)
}

// deleteDevice answers DELETE /devices/{deviceId}.
// Spec: client-server-api#delete_matrixclientv3devicesdeviceid
func (h *Handler) deleteDevice(ctx context.Context, r *request) (any, error) {
	var body struct {
		Auth *server.UIAAuth `json:"auth"`
	}
	if err := r.decodeOptional(&body); err != nil {
		return nil, err
	}
	return nil, h.server.Accounts.DeleteOwnDevices(ctx, r.session, server.OwnDevices{Devices: []string{r.param("deviceId")}, Auth: body.Auth})
}

// deleteDevices answers POST /delete_devices.
// Spec: client-server-api#post_matrixclientv3delete_devices
func (h *Handler) deleteDevices(ctx context.Context, r *request) (any, error) {
	var body struct {
		Devices []string        `json:"devices"`
		Auth    *server.UIAAuth `json:"auth"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.Devices == nil {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "devices is missing")
	}
	return nil, h.server.Accounts.DeleteOwnDevices(ctx, r.session, server.OwnDevices{Devices: body.Devices, Auth: body.Auth})
}
