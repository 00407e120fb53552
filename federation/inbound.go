package federation

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// table lists every endpoint that is served, with its path as in the
// specification. A test compares it with that.
func (h *Handler) table() []route {
	const keys = "/_matrix/key/v2"
	return []route{
		{"GET", keys + "/server", true, 0, h.ownKeys},
		{"GET", keys + "/server/{keyId}", true, 0, h.ownKeys},
		{"POST", keys + "/query", true, 0, h.queryKeys},
		{"GET", keys + "/query/{serverName}", true, 0, h.queryServerKeys},
		{"GET", keys + "/query/{serverName}/{keyId}", true, 0, h.queryServerKeys},
		{"GET", v1 + "/version", true, 0, h.version},

		{"PUT", v1 + "/send/{txnId}", false, maxTransactionBody, h.send},

		{"GET", v1 + "/event/{eventId}", false, 0, h.event},
		{"GET", v1 + "/state/{roomId}", false, 0, h.state},
		{"GET", v1 + "/state_ids/{roomId}", false, 0, h.stateIDs},
		{"GET", v1 + "/event_auth/{roomId}/{eventId}", false, 0, h.eventAuth},
		{"GET", v1 + "/backfill/{roomId}", false, 0, h.backfill},
		{"POST", v1 + "/get_missing_events/{roomId}", false, 0, h.missingEvents},

		{"GET", v1 + "/make_join/{roomId}/{userId}", false, 0, h.makeJoin},
		{"PUT", v1 + "/send_join/{roomId}/{eventId}", false, 0, h.sendJoinV1},
		{"PUT", v2 + "/send_join/{roomId}/{eventId}", false, 0, h.sendJoin},
		{"GET", v1 + "/make_leave/{roomId}/{userId}", false, 0, h.makeLeave},
		{"PUT", v1 + "/send_leave/{roomId}/{eventId}", false, 0, h.sendLeaveV1},
		{"PUT", v2 + "/send_leave/{roomId}/{eventId}", false, 0, h.sendLeave},
		{"GET", v1 + "/make_knock/{roomId}/{userId}", false, 0, h.makeKnock},
		{"PUT", v1 + "/send_knock/{roomId}/{eventId}", false, 0, h.sendKnock},
		{"PUT", v1 + "/invite/{roomId}/{eventId}", false, 0, h.inviteV1},
		{"PUT", v2 + "/invite/{roomId}/{eventId}", false, 0, h.invite},

		{"GET", v1 + "/query/profile", false, 0, h.queryProfile},
		{"GET", v1 + "/query/directory", false, 0, h.queryDirectory},
		{"GET", v1 + "/query/{queryType}", false, 0, h.queryUnknown},
	}
}

// version answers GET /version.
// Spec: server-server-api#get_matrixfederationv1version
func (h *Handler) version(context.Context, *request) (any, error) {
	return object{"server": object{"name": "Atoll", "version": h.opts.Version}}, nil
}

// send answers PUT /send/{txnId}. PDUs and EDUs that are no objects are skipped;
// "origin" in the body does not count, the signature does.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
func (h *Handler) send(ctx context.Context, r *request) (any, error) {
	var body struct {
		PDUs *[]jsontext.Value `json:"pdus"`
		EDUs []jsontext.Value  `json:"edus"`
	}
	if err := r.decode(&body); err != nil {
		return nil, err
	}
	if body.PDUs == nil {
		return nil, spec.Errorf(spec.CodeBadJSON, nil, "pdus is missing")
	}
	txn := server.Transaction{Origin: r.origin, ID: r.params["txnId"]}
	for _, raw := range *body.PDUs {
		txn.PDUs = append(txn.PDUs, raw)
	}
	for _, raw := range body.EDUs {
		txn.EDUs = append(txn.EDUs, parseEDU(raw))
	}
	answer, err := h.server.Transactions.Receive(ctx, txn)
	return rawJSON(answer), err
}

// parseEDU reads the frame of an EDU; one that is none gets no type.
func parseEDU(raw []byte) server.EDU {
	var frame struct {
		Type    string         `json:"edu_type"`
		Content jsontext.Value `json:"content"`
	}
	if json.Unmarshal(raw, &frame, lenient) != nil || frame.Content.Kind() != '{' {
		return server.EDU{}
	}
	return server.EDU{Type: frame.Type, Content: frame.Content}
}

// queryProfile answers GET /query/profile.
// Spec: server-server-api#get_matrixfederationv1queryprofile
func (h *Handler) queryProfile(ctx context.Context, r *request) (any, error) {
	text, err := r.needed("user_id")
	if err != nil {
		return nil, err
	}
	user, err := parsed(spec.ParseUserID, "user_id", text)
	if err != nil {
		return nil, err
	}
	profile, err := h.server.Profiles.Local(ctx, user)
	if err != nil {
		return nil, err
	}
	field := r.query.Get("field")
	if field == "" {
		return profile, nil
	}
	if value, ok := profile[field]; ok {
		return object{field: value}, nil
	}
	return nil, nil
}

// queryDirectory answers GET /query/directory.
// Spec: server-server-api#get_matrixfederationv1querydirectory
func (h *Handler) queryDirectory(ctx context.Context, r *request) (any, error) {
	text, err := r.needed("room_alias")
	if err != nil {
		return nil, err
	}
	alias, err := parsed(spec.ParseRoomAlias, "room_alias", text)
	if err != nil {
		return nil, err
	}
	answer, err := h.server.Aliases.Local(ctx, alias)
	if err != nil {
		return nil, err
	}
	return object{"room_id": answer.Room, "servers": answer.Servers}, nil
}

// queryUnknown answers GET /query/{queryType} for what nobody has specified.
// Spec: server-server-api#get_matrixfederationv1queryquerytype
func (h *Handler) queryUnknown(context.Context, *request) (any, error) {
	return nil, spec.Errorf(spec.CodeNotFound, nil, "there is no such query")
}
