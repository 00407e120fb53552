package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// MakeJoin implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
func (c *Client) MakeJoin(ctx context.Context, dest spec.ServerName, room spec.RoomID, user spec.UserID, versions []spec.RoomVersion) (server.EventTemplate, error) {
	return c.template(ctx, dest, endpoint(v1+"/make_join", string(room), string(user)), versionQuery(versions))
}

// MakeKnock implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
func (c *Client) MakeKnock(ctx context.Context, dest spec.ServerName, room spec.RoomID, user spec.UserID, versions []spec.RoomVersion) (server.EventTemplate, error) {
	return c.template(ctx, dest, endpoint(v1+"/make_knock", string(room), string(user)), versionQuery(versions))
}

// MakeLeave implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
func (c *Client) MakeLeave(ctx context.Context, dest spec.ServerName, room spec.RoomID, user spec.UserID) (server.EventTemplate, error) {
	return c.template(ctx, dest, endpoint(v1+"/make_leave", string(room), string(user)), nil)
}

func (c *Client) template(ctx context.Context, dest spec.ServerName, path string, query url.Values) (out server.EventTemplate, err error) {
	err = c.do(ctx, dest, call{method: http.MethodGet, path: path, query: query, read: func(r io.Reader) (err error) {
		out, err = readTemplate(r)
		return err
	}})
	return out, err
}

// versionQuery always names the versions: a request without them means "1".
func versionQuery(versions []spec.RoomVersion) url.Values {
	if len(versions) == 0 {
		versions = spec.SupportedVersions()
	}
	query := url.Values{}
	for _, v := range versions {
		query.Add("ver", string(v))
	}
	return query
}

// SendJoin implements server.Remote.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (c *Client) SendJoin(ctx context.Context, dest spec.ServerName, send server.SendEventRequest) (*server.SendJoinAnswer, error) {
	var out *server.SendJoinAnswer
	var query url.Values
	if send.OmitMembers {
		query = url.Values{"omit_members": {"true"}}
	}
	err := c.do(ctx, dest, call{
		method: http.MethodPut,
		path:   endpoint(v2+"/send_join", string(send.Room), string(send.EventID)),
		query:  query, body: send.Event, timeout: joinTimeout, limit: c.maxJoin,
		read: func(r io.Reader) (err error) {
			out, err = readSendJoin(r)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SendKnock implements server.Remote.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (c *Client) SendKnock(ctx context.Context, dest spec.ServerName, send server.SendEventRequest) (state [][]byte, err error) {
	err = c.do(ctx, dest, call{
		method: http.MethodPut,
		path:   endpoint(v1+"/send_knock", string(send.Room), string(send.EventID)),
		body:   send.Event,
		read: func(r io.Reader) error {
			return readEvents(r, map[string]*[][]byte{"knock_room_state": &state})
		},
	})
	return state, err
}

// SendLeave implements server.Remote.
// Spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (c *Client) SendLeave(ctx context.Context, dest spec.ServerName, send server.SendEventRequest) error {
	return c.do(ctx, dest, call{
		method: http.MethodPut,
		path:   endpoint(v2+"/send_leave", string(send.Room), string(send.EventID)),
		body:   send.Event,
	})
}

// Invite implements server.Remote.
// Spec: server-server-api#inviting-to-a-room
func (c *Client) Invite(ctx context.Context, dest spec.ServerName, invite server.InviteRequest) ([]byte, error) {
	signed, err := c.inviteV2(ctx, dest, invite)
	// Servers that do not know v2 answer 400 or 404; they know only rooms of
	// versions 1 and 2.
	answer, ok := server.RemoteAnswer(err)
	old := invite.Version == "1" || invite.Version == "2"
	if ok && old && (answer.Status == http.StatusBadRequest || answer.Status == http.StatusNotFound) {
		return c.inviteV1(ctx, dest, invite)
	}
	return signed, err
}

func (c *Client) inviteV2(ctx context.Context, dest spec.ServerName, invite server.InviteRequest) ([]byte, error) {
	body, err := json.Marshal(struct {
		Version   spec.RoomVersion `json:"room_version"`
		Event     jsontext.Value   `json:"event"`
		RoomState []jsontext.Value `json:"invite_room_state"`
	}{invite.Version, invite.Event, rawValues(invite.RoomState)})
	if err != nil {
		return nil, fmt.Errorf("body of invite: %w", err)
	}
	var signed []byte
	err = c.do(ctx, dest, call{
		method: http.MethodPut,
		path:   endpoint(v2+"/invite", string(invite.Room), string(invite.EventID)),
		body:   body,
		read:   func(r io.Reader) (err error) { signed, err = readSignedInvite(newAnswerReader(r)); return err },
	})
	return signed, err
}

// inviteV1 sends the room's state inside of the event, and finds the answer in
// a list after a status.
func (c *Client) inviteV1(ctx context.Context, dest spec.ServerName, invite server.InviteRequest) ([]byte, error) {
	body, err := inviteV1Body(invite)
	if err != nil {
		return nil, fmt.Errorf("body of invite: %w", err)
	}
	var signed []byte
	err = c.do(ctx, dest, call{
		method: http.MethodPut,
		path:   endpoint(v1+"/invite", string(invite.Room), string(invite.EventID)),
		body:   body,
		read: func(r io.Reader) error {
			a, n := newAnswerReader(r), 0
			err := a.list(func() (err error) {
				if n++; n != 2 {
					return a.skip()
				}
				signed, err = readSignedInvite(a)
				return err
			})
			if err == nil && signed == nil {
				err = fmt.Errorf("%w: no event", errBadAnswer)
			}
			return err
		},
	})
	return signed, err
}

func inviteV1Body(invite server.InviteRequest) ([]byte, error) {
	var event map[string]jsontext.Value
	if err := json.Unmarshal(invite.Event, &event); err != nil {
		return nil, err
	}
	unsigned := map[string]jsontext.Value{}
	if raw, ok := event["unsigned"]; ok {
		if err := json.Unmarshal(raw, &unsigned); err != nil {
			return nil, err
		}
	}
	var err error
	if unsigned["invite_room_state"], err = json.Marshal(rawValues(invite.RoomState)); err != nil {
		return nil, err
	}
	if event["unsigned"], err = json.Marshal(unsigned); err != nil {
		return nil, err
	}
	return json.Marshal(event)
}

func readSignedInvite(a *answerReader) (event []byte, err error) {
	err = a.object(map[string]func() error{"event": a.optionalObject(&event)})
	if err == nil && event == nil {
		err = fmt.Errorf("%w: no event", errBadAnswer)
	}
	return event, err
}

// rawValues never is nil, so that it is written as a list.
func rawValues(raw [][]byte) []jsontext.Value {
	out := make([]jsontext.Value, len(raw))
	for i, v := range raw {
		out[i] = v
	}
	return out
}

// GetEvent implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1eventeventid
func (c *Client) GetEvent(ctx context.Context, dest spec.ServerName, event spec.EventID) ([]byte, error) {
	pdus, err := c.events(ctx, dest, "pdus", call{method: http.MethodGet, path: endpoint(v1+"/event", string(event))})
	if err == nil && len(pdus) != 1 {
		err = &server.RemoteError{Server: dest, Cause: fmt.Errorf("%w: %d events instead of one", errBadAnswer, len(pdus))}
	}
	if err != nil {
		return nil, err
	}
	return pdus[0], nil
}

// Backfill implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1backfillroomid
func (c *Client) Backfill(ctx context.Context, dest spec.ServerName, room spec.RoomID, from []spec.EventID, limit int) ([][]byte, error) {
	if len(from) == 0 || limit <= 0 {
		return nil, errors.New("backfill needs events to begin with and a limit")
	}
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, id := range from {
		query.Add("v", string(id))
	}
	return c.events(ctx, dest, "pdus", call{method: http.MethodGet, path: endpoint(v1+"/backfill", string(room)), query: query})
}

// EventAuth implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (c *Client) EventAuth(ctx context.Context, dest spec.ServerName, room spec.RoomID, event spec.EventID) ([][]byte, error) {
	return c.events(ctx, dest, "auth_chain", call{method: http.MethodGet, path: endpoint(v1+"/event_auth", string(room), string(event))})
}

// MissingEvents implements server.Remote.
// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (c *Client) MissingEvents(ctx context.Context, dest spec.ServerName, missing server.MissingEventsRequest) ([][]byte, error) {
	body, err := json.Marshal(struct {
		Earliest []spec.EventID `json:"earliest_events"`
		Latest   []spec.EventID `json:"latest_events"`
		Limit    int            `json:"limit,omitzero"`
		MinDepth int64          `json:"min_depth,omitzero"`
	}{missing.Earliest, missing.Latest, missing.Limit, missing.MinDepth})
	if err != nil {
		return nil, err
	}
	return c.events(ctx, dest, "events", call{
		method: http.MethodPost, path: endpoint(v1+"/get_missing_events", string(missing.Room)), body: body,
	})
}

// events makes a request whose answer holds one list of events.
func (c *Client) events(ctx context.Context, dest spec.ServerName, list string, q call) (pdus [][]byte, err error) {
	q.limit = eventsAnswer
	q.read = func(r io.Reader) error { return readEvents(r, map[string]*[][]byte{list: &pdus}) }
	if err := c.do(ctx, dest, q); err != nil {
		return nil, err
	}
	return pdus, nil
}

// State implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1stateroomid
func (c *Client) State(ctx context.Context, dest spec.ServerName, room spec.RoomID, event spec.EventID) (*server.RemoteState, error) {
	out := new(server.RemoteState)
	err := c.do(ctx, dest, call{
		method: http.MethodGet, path: endpoint(v1+"/state", string(room)), query: url.Values{"event_id": {string(event)}},
		timeout: joinTimeout, limit: c.maxJoin,
		read: func(r io.Reader) error {
			return readEvents(r, map[string]*[][]byte{"pdus": &out.State, "auth_chain": &out.AuthChain})
		},
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// StateIDs implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1state_idsroomid
func (c *Client) StateIDs(ctx context.Context, dest spec.ServerName, room spec.RoomID, event spec.EventID) (*server.RemoteStateIDs, error) {
	var out *server.RemoteStateIDs
	err := c.do(ctx, dest, call{
		method: http.MethodGet, path: endpoint(v1+"/state_ids", string(room)), query: url.Values{"event_id": {string(event)}},
		timeout: joinTimeout, limit: eventsAnswer,
		read: func(r io.Reader) (err error) { out, err = readStateIDs(r); return err },
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// QueryProfile implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1queryprofile
func (c *Client) QueryProfile(ctx context.Context, user spec.UserID, field string) (profile []byte, err error) {
	query := url.Values{"user_id": {string(user)}}
	if field != "" {
		query.Set("field", field)
	}
	err = c.do(ctx, user.Server(), call{
		method: http.MethodGet, path: v1 + "/query/profile", query: query,
		read: func(r io.Reader) error {
			a := newAnswerReader(r)
			err := a.optionalObject(&profile)()
			if err == nil && profile == nil {
				err = fmt.Errorf("%w: no object", errBadAnswer)
			}
			return err
		},
	})
	return profile, err
}

// QueryDirectory implements server.Remote.
// Spec: server-server-api#get_matrixfederationv1querydirectory
func (c *Client) QueryDirectory(ctx context.Context, alias spec.RoomAlias) (out server.DirectoryAnswer, err error) {
	err = c.do(ctx, alias.Server(), call{
		method: http.MethodGet, path: v1 + "/query/directory", query: url.Values{"room_alias": {string(alias)}},
		read: func(r io.Reader) (err error) { out, err = readDirectory(r); return err },
	})
	return out, err
}

func readDirectory(r io.Reader) (out server.DirectoryAnswer, err error) {
	a, room := newAnswerReader(r), ""
	if err := a.object(map[string]func() error{
		"room_id": a.text(&room),
		"servers": ids(a, spec.ParseServerName, maxListedServers, &out.Servers),
	}); err != nil {
		return out, err
	}
	out.Room, err = spec.ParseRoomID(room)
	return out, err
}

// Version asks which implementation a server runs. It needs no signature.
// Spec: server-server-api#get_matrixfederationv1version
func (c *Client) Version(ctx context.Context, dest spec.ServerName) (name, version string, err error) {
	var answer struct {
		Server struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"server"`
	}
	err = c.do(ctx, dest, call{method: http.MethodGet, path: v1 + "/version", unsigned: true, read: into(&answer)})
	return answer.Server.Name, answer.Server.Version, err
}

// SendTransaction delivers a transaction. It returns the errors that the peer
// reported for single PDUs; they are the peer's last word on them and no reason
// to send them again.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
func (c *Client) SendTransaction(ctx context.Context, dest spec.ServerName, txnID string, body []byte) (map[spec.EventID]string, error) {
	refused := make(map[spec.EventID]string)
	err := c.do(ctx, dest, call{
		method: http.MethodPut, path: endpoint(v1+"/send", txnID), body: body, timeout: transactionTimeout,
		read: func(r io.Reader) error { return readTransactionAnswer(r, refused) },
	})
	return refused, err
}

// readTransactionAnswer collects the PDUs with an error. A peer that answered
// 200 has taken the transaction, so a body of another shape is let pass.
func readTransactionAnswer(r io.Reader, refused map[spec.EventID]string) error {
	var answer struct {
		PDUs map[string]jsontext.Value `json:"pdus"`
	}
	if err := into(&answer)(r); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return err // cut off: it may not have been the peer's answer
		}
		return nil
	}
	for id, raw := range answer.PDUs {
		var result struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(raw, &result, lenient) == nil && result.Error != "" {
			refused[spec.EventID(id)] = result.Error
		}
	}
	return nil
}
