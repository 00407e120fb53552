package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// client is a user's session with a homeserver, on nothing but the public
// client-server API. It is safe for concurrent use once it has its token.
type client struct {
	base  string // http://127.0.0.1:PORT
	user  string
	token string
	http  *http.Client
}

// apiError is an answer that is not 200.
type apiError struct {
	Status  int
	Code    string `json:"errcode"`
	Message string `json:"error"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 32 << 20

// call makes one request. in and out may be nil.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode != http.StatusOK {
		failure := &apiError{Status: response.StatusCode}
		if json.Unmarshal(data, failure) != nil {
			failure.Message = string(data)
		}
		return fmt.Errorf("%s %s: %w", method, path, failure)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// register makes an account and keeps its session.
func (c *client) register(ctx context.Context, name, password string) error {
	var session struct {
		User  string `json:"user_id"`
		Token string `json:"access_token"`
	}
	err := c.call(ctx, "POST", "/_matrix/client/v3/register", map[string]any{
		"username": name, "password": password, "initial_device_display_name": "demo",
		"auth": map[string]string{"type": "m.login.dummy"},
	}, &session)
	c.user, c.token = session.User, session.Token
	return err
}

// createGroup makes a room in which everybody named may do what they like.
func (c *client) createGroup(ctx context.Context, name string, trusted []string) (string, error) {
	levels := map[string]int{}
	for _, user := range trusted {
		levels[user] = 50
	}
	var room struct {
		ID string `json:"room_id"`
	}
	err := c.call(ctx, "POST", "/_matrix/client/v3/createRoom", map[string]any{
		"name": name, "preset": "public_chat", "room_alias_name": "regions",
		"power_level_content_override": map[string]any{"users": levels},
	}, &room)
	return room.ID, err
}

// join enters a room by its alias, over federation if it is another server's.
func (c *client) join(ctx context.Context, alias string) error {
	return c.call(ctx, "POST", "/_matrix/client/v3/join/"+url.PathEscape(alias), map[string]any{}, nil)
}

// say sends a text message and returns its event id.
func (c *client) say(ctx context.Context, room, txn, text string) (string, error) {
	return c.put(ctx, room, "send/m.room.message/"+url.PathEscape(txn), map[string]string{"msgtype": "m.text", "body": text})
}

// setTopic changes the topic of the room.
func (c *client) setTopic(ctx context.Context, room, topic string) (string, error) {
	return c.put(ctx, room, "state/m.room.topic", map[string]string{"topic": topic})
}

func (c *client) put(ctx context.Context, room, path string, content any) (string, error) {
	var answer struct {
		Event string `json:"event_id"`
	}
	err := c.call(ctx, "PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/"+path, content, &answer)
	return answer.Event, err
}

// topic reads the room's topic.
func (c *client) topic(ctx context.Context, room string) (string, error) {
	var content struct {
		Topic string `json:"topic"`
	}
	err := c.call(ctx, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/state/m.room.topic", nil, &content)
	return content.Topic, err
}

// event is what the demo reads of an event.
type event struct {
	ID        string  `json:"event_id"`
	Type      string  `json:"type"`
	Sender    string  `json:"sender"`
	Timestamp int64   `json:"origin_server_ts"` // milliseconds since the epoch
	State     *string `json:"state_key"`
	Content   struct {
		Body       string `json:"body"`
		Topic      string `json:"topic"`
		Membership string `json:"membership"`
	} `json:"content"`
}

// sync waits for news of a room, at most for the given time. The empty position
// is the beginning.
func (c *client) sync(ctx context.Context, room, since string, wait time.Duration) ([]event, string, error) {
	query := url.Values{"timeout": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	if since != "" {
		query.Set("since", since)
	}
	var answer struct {
		Next  string `json:"next_batch"`
		Rooms struct {
			Join map[string]struct {
				Timeline struct {
					Events []event `json:"events"`
				} `json:"timeline"`
			} `json:"join"`
		} `json:"rooms"`
	}
	err := c.call(ctx, "GET", "/_matrix/client/v3/sync?"+query.Encode(), nil, &answer)
	return answer.Rooms.Join[room].Timeline.Events, answer.Next, err
}
