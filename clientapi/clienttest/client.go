package clienttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"testing"
)

// Client speaks to a homeserver as one session of a user, or as nobody when Token is empty.
// Methods without an error fail the test when the server does not answer as they expect. They may
// be called from the test's goroutine only; Do may be called from any.
type Client struct {
	T      testing.TB
	URL    string // of the homeserver, without a slash at the end
	User   string
	Device string
	Token  string
	txn    int
}

// Reply is the answer to a request.
type Reply struct {
	T      testing.TB
	What   string // method and path, for messages
	Status int
	Header http.Header
	Raw    string
	JSON   any // nil when the body is not JSON
}

// At is the same session at a homeserver that was restarted.
func (c *Client) At(h *Homeserver) *Client {
	moved := *c
	moved.URL = h.URL
	return &moved
}

// Delete is Do.
func (c *Client) Delete(path string, body any) Reply { c.T.Helper(); return c.Do("DELETE", path, body) }

// Object is a JSON object to send.
type Object = map[string]any

// V3 is the prefix of most client endpoints.
const V3 = "/_matrix/client/v3"

// Do sends a request. A path that does not begin with /_ or /. is under V3. The body is sent as
// it is when it is a string, not at all when it is nil, and else as JSON.
func (c *Client) Do(method, path string, body any) Reply {
	c.T.Helper()
	reply, err := c.Try(method, path, body)
	if err != nil {
		c.T.Errorf("%s %s: %v", method, path, err)
		return Reply{T: c.T, What: method + " " + path}
	}
	return reply
}

// Try is Do that returns the error of a connection that broke.
func (c *Client) Try(method, path string, body any) (Reply, error) {
	if !strings.HasPrefix(path, "/_") && !strings.HasPrefix(path, "/.") {
		path = V3 + path
	}
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			return Reply{}, err
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, c.URL+path, reader)
	if err != nil {
		return Reply{}, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	reply := Reply{T: c.T, What: method + " " + path, Status: resp.StatusCode, Header: resp.Header, Raw: string(raw)}
	_ = json.Unmarshal(raw, &reply.JSON)
	return reply, err
}

// Get is Do without a body.
func (c *Client) Get(path string) Reply { c.T.Helper(); return c.Do("GET", path, nil) }

// Post is Do.
func (c *Client) Post(path string, body any) Reply { c.T.Helper(); return c.Do("POST", path, body) }

// Put is Do.
func (c *Client) Put(path string, body any) Reply { c.T.Helper(); return c.Do("PUT", path, body) }

// OK fails the test unless the answer is 200.
func (r Reply) OK() Reply {
	r.T.Helper()
	if r.Status != http.StatusOK {
		// No FailNow: T may be the parent of the subtest that this runs in.
		r.T.Errorf("%s: status %d: %s", r.What, r.Status, r.Raw)
	}
	return r
}

// Is checks status and, unless code is empty, the error code of the answer. It accepts several
// codes separated by "|".
func (r Reply) Is(status int, code string) Reply {
	r.T.Helper()
	if r.Status != status {
		r.T.Errorf("%s: status %d, want %d: %s", r.What, r.Status, status, r.Raw)
		return r
	}
	if code == "" {
		return r
	}
	for want := range strings.SplitSeq(code, "|") {
		if r.Str("errcode") == want {
			if r.Str("error") == "" {
				r.T.Errorf("%s: no error text: %s", r.What, r.Raw)
			}
			return r
		}
	}
	r.T.Errorf("%s: want %s: %s", r.What, code, r.Raw)
	return r
}

// IsOneOf accepts several statuses, each as in "403 M_FORBIDDEN".
func (r Reply) IsOneOf(wanted ...string) Reply {
	r.T.Helper()
	got := fmt.Sprintf("%d %s", r.Status, r.Str("errcode"))
	for _, want := range wanted {
		if strings.TrimSpace(got) == want {
			return r
		}
	}
	r.T.Errorf("%s: got %s, want one of %q: %s", r.What, got, wanted, r.Raw)
	return r
}

// At finds a value in the answer: strings are names in objects, ints positions in lists (-1 is the
// last). It is nil when there is no such thing.
func (r Reply) At(path ...any) any { return At(r.JSON, path...) }

// Str is At for strings; "" when there is none.
func (r Reply) Str(path ...any) string { s, _ := r.At(path...).(string); return s }

// List is At for lists; nil when there is none.
func (r Reply) List(path ...any) []any { l, _ := r.At(path...).([]any); return l }

// Events is At for lists of events.
func (r Reply) Events(path ...any) []Event {
	var events []Event
	for _, item := range r.List(path...) {
		if e, ok := item.(map[string]any); ok {
			events = append(events, Event(e))
		}
	}
	return events
}

// Event is the answer as one event.
func (r Reply) Event() Event { e, _ := r.JSON.(map[string]any); return Event(e) }

// At finds a value in decoded JSON; see Reply.At.
func At(v any, path ...any) any {
	for _, step := range path {
		switch key := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[key]
		case int:
			l, _ := v.([]any)
			if key < 0 {
				key += len(l)
			}
			if key < 0 || key >= len(l) {
				return nil
			}
			v = l[key]
		}
	}
	return v
}

// Event is an event as a client gets it.
type Event map[string]any

// Str finds a string in the event.
func (e Event) Str(path ...any) string { s, _ := At(map[string]any(e), path...).(string); return s }

// At finds a value in the event.
func (e Event) At(path ...any) any { return At(map[string]any(e), path...) }

// ID is the event_id.
func (e Event) ID() string { return e.Str("event_id") }

// Type is the type.
func (e Event) Type() string { return e.Str("type") }

// Body is content.body.
func (e Event) Body() string { return e.Str("content", "body") }

// IDs lists the event_ids.
func IDs(events []Event) []string {
	ids := make([]string, 0, len(events))
	for _, e := range events {
		ids = append(ids, e.ID())
	}
	return ids
}

// Find returns the last event with the type and state key, nil when there is none.
func Find(events []Event, eventType, stateKey string) Event {
	for i := len(events) - 1; i >= 0; i-- {
		key, isState := events[i]["state_key"].(string)
		if isState && key == stateKey && events[i].Type() == eventType {
			return events[i]
		}
	}
	return nil
}

// Esc escapes a path segment.
func Esc(segment string) string { return strings.ReplaceAll(url.PathEscape(segment), "+", "%2B") }

// Login logs the user in with a password; device may be empty.
func (c *Client) Login(user, password, device string) *Client {
	c.T.Helper()
	body := Object{"type": "m.login.password", "identifier": Object{"type": "m.id.user", "user": user}, "password": password}
	if device != "" {
		body["device_id"] = device
	}
	r := (&Client{T: c.T, URL: c.URL}).Post("/login", body).OK()
	return &Client{T: c.T, URL: c.URL, User: r.Str("user_id"), Device: r.Str("device_id"), Token: r.Str("access_token")}
}

// Room makes a room and returns its id. Nil makes a public chat.
func (c *Client) Room(options Object) string {
	c.T.Helper()
	if options == nil {
		options = Object{"preset": "public_chat"}
	}
	return c.Post("/createRoom", options).OK().Str("room_id")
}

// RoomPath is the path of an endpoint of a room; segments are escaped.
func RoomPath(room string, segments ...string) string {
	path := "/rooms/" + Esc(room)
	for _, s := range segments {
		path += "/" + Esc(s)
	}
	return path
}

// Join joins a room.
func (c *Client) Join(room string) { c.T.Helper(); c.Post(RoomPath(room, "join"), Object{}).OK() }

// Leave leaves a room.
func (c *Client) Leave(room string) { c.T.Helper(); c.Post(RoomPath(room, "leave"), Object{}).OK() }

// Invite invites a user.
func (c *Client) Invite(room, user string) {
	c.T.Helper()
	c.Post(RoomPath(room, "invite"), Object{"user_id": user}).OK()
}

// Txn makes a transaction id that this Client has not used yet.
func (c *Client) Txn() string { c.txn++; return fmt.Sprintf("txn%d", c.txn) }

// Send sends an event and returns its id.
func (c *Client) Send(room, eventType string, content any) string {
	c.T.Helper()
	return c.Put(RoomPath(room, "send", eventType, c.Txn()), content).OK().Str("event_id")
}

// Say sends a text message.
func (c *Client) Say(room, text string) string {
	c.T.Helper()
	return c.Send(room, "m.room.message", Object{"msgtype": "m.text", "body": text})
}

// SetState sends a state event and returns its id.
func (c *Client) SetState(room, eventType, stateKey string, content any) string {
	c.T.Helper()
	return c.Put(RoomPath(room, "state", eventType, stateKey), content).OK().Str("event_id")
}

// State returns the content of a state event.
func (c *Client) State(room, eventType, stateKey string) Reply {
	c.T.Helper()
	return c.Get(RoomPath(room, "state", eventType, stateKey))
}

// Levels changes keys of the room's power levels.
func (c *Client) Levels(room string, changes Object) {
	c.T.Helper()
	levels, _ := c.State(room, "m.room.power_levels", "").OK().JSON.(map[string]any)
	if levels == nil {
		levels = map[string]any{}
	}
	for key, value := range changes {
		levels[key] = value
	}
	c.SetState(room, "m.room.power_levels", "", levels)
}

// Sync syncs with the given query parameters, name and value in turn.
func (c *Client) Sync(params ...string) Reply { c.T.Helper(); return c.TrySync(params...).OK() }

// TrySync is Sync that may fail.
func (c *Client) TrySync(params ...string) Reply {
	c.T.Helper()
	query := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		query.Set(params[i], params[i+1])
	}
	return c.Get("/sync?" + query.Encode())
}

// NextBatch is the token of a sync answer.
func (r Reply) NextBatch() string { return r.Str("next_batch") }

// Timeline lists the timeline events of a joined room in a sync answer.
func (r Reply) Timeline(room string) []Event {
	return r.Events("rooms", "join", room, "timeline", "events")
}

// Filter is a filter as a query parameter of sync and messages.
func Filter(filter Object) string {
	raw, err := json.Marshal(filter)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// JSON decodes a text, nil when it is no JSON.
func JSON(text string) any {
	var v any
	_ = json.Unmarshal([]byte(text), &v)
	return v
}

// Abort begins a GET request and breaks the connection off before there can be an answer to a
// long poll.
func (c *Client) Abort(path string) {
	c.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+V3+path, nil)
	if err != nil {
		c.T.Error(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	// The trace tells when the request is on its way.
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { cancel() }}
	resp, err := http.DefaultClient.Do(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err == nil {
		_ = resp.Body.Close()
	}
}
