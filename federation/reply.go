package federation

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// rawJSON is an answer that is JSON already.
type rawJSON []byte

// object is an ad-hoc JSON object.
type object map[string]any

// stream is an answer that is written piece by piece, so that the state of a
// large room is never in memory as a whole.
type stream func(ctx context.Context, w io.Writer) error

// writeReply writes the result of a handler: nothing as {}, rawJSON as it is, a
// stream as it comes, anything else marshalled.
func writeReply(ctx context.Context, w http.ResponseWriter, result any) error {
	w.Header().Set("Content-Type", "application/json")
	switch body := result.(type) {
	case nil:
		return writeBytes(w, http.StatusOK, []byte("{}"))
	case rawJSON:
		return writeBytes(w, http.StatusOK, body)
	case stream:
		buffered := bufio.NewWriterSize(w, 32<<10)
		if err := body(ctx, buffered); err != nil {
			return err
		}
		return buffered.Flush()
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return writeBytes(w, http.StatusOK, raw)
}

func writeBytes(w http.ResponseWriter, code int, body []byte) error {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, err := w.Write(body)
	return err
}

// writeError writes the standard error response.
// Spec: client-server-api#standard-error-response
func writeError(w http.ResponseWriter, failure *spec.Error) {
	body := object{}
	maps.Copy(body, failure.Fields)
	body["errcode"], body["error"] = failure.Code, failure.Msg
	if failure.RetryAfter > 0 {
		body["retry_after_ms"] = (failure.RetryAfter + time.Millisecond - 1).Milliseconds()
		seconds := int64((failure.RetryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	raw, err := json.Marshal(body)
	if err != nil {
		raw = []byte(`{"errcode":"M_UNKNOWN","error":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	// The asker is gone if this fails; there is nobody left to tell.
	_ = writeBytes(w, failure.HTTPStatus(), raw)
}

// writeEvents writes `"name":[events]`.
func writeEvents(ctx context.Context, w io.Writer, name string, list server.EventList) error {
	buf := append([]byte{'"'}, name...)
	buf = append(buf, `":[`...)
	first := true
	err := list.Each(ctx, func(ev *spec.Event) error {
		if !first {
			buf = append(buf, ',')
		}
		first = false
		_, err := w.Write(ev.AppendFederation(buf, 0))
		buf = buf[:0]
		return err
	})
	if err != nil {
		return err
	}
	_, err = w.Write(append(buf, ']'))
	return err
}

// pdus makes a list of events for an answer.
func pdus(events ...*spec.Event) []jsontext.Value {
	out := make([]jsontext.Value, 0, len(events))
	for _, ev := range events {
		out = append(out, ev.AppendFederation(nil, 0))
	}
	return out
}

// decode puts the body, a JSON object, into the struct v points to. Events in it
// are taken as they are: whether their JSON is good depends on the version of
// their room. Spec: client-server-api#standard-error-response
func (r *request) decode(v any) error {
	if err := isObject(r.body); err != nil {
		return err
	}
	err := json.Unmarshal(r.body, v, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	var shape *json.SemanticError
	if errors.As(err, &shape) {
		return spec.Errorf(spec.CodeBadJSON, err, "wrong type of value at %q", string(shape.JSONPointer))
	}
	if err != nil {
		return spec.Errorf(spec.CodeBadJSON, err, "the JSON object does not have the right shape")
	}
	return nil
}

// isObject checks that raw is one JSON object and nothing more.
func isObject(raw []byte) error {
	decoder := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	value, err := decoder.ReadValue()
	if err != nil {
		return spec.Errorf(spec.CodeNotJSON, err, "the body is not valid JSON")
	}
	if value.Kind() != '{' {
		return spec.Errorf(spec.CodeBadJSON, nil, "the body must be a JSON object")
	}
	if _, err := decoder.ReadToken(); err != io.EOF {
		return spec.Errorf(spec.CodeNotJSON, err, "there is more in the body than one JSON object")
	}
	return nil
}

// parsed runs a parser of package spec on something the asker sent.
func parsed[T ~string](parse func(string) (T, error), what, value string) (T, error) {
	id, err := parse(value)
	if err != nil {
		return "", spec.Errorf(spec.CodeInvalidParam, err, "%s is not valid", what)
	}
	return id, nil
}

func (r *request) roomID() (spec.RoomID, error) {
	return parsed(spec.ParseRoomID, "roomId", r.params["roomId"])
}

func (r *request) eventID() (spec.EventID, error) {
	return parsed(spec.ParseEventID, "eventId", r.params["eventId"])
}

func (r *request) userID() (spec.UserID, error) {
	return parsed(spec.ParseUserID, "userId", r.params["userId"])
}

// needed reads a query parameter that must be there.
func (r *request) needed(name string) (string, error) {
	if value := r.query.Get(name); value != "" {
		return value, nil
	}
	return "", spec.Errorf(spec.CodeMissingParam, nil, "%s is missing", name)
}
