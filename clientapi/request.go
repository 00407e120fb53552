package clientapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// request is what a handler sees of an HTTP request. It belongs to one goroutine.
type request struct {
	http    *http.Request
	writer  http.ResponseWriter // only to let net/http close the connection after too large a body
	session server.Session      // zero where the route asks for no token
	ip      string
	params  map[string]string
	query   url.Values
	maxBody int64
}

// param is a variable of the path, percent-decoded.
func (r *request) param(name string) string { return r.params[name] }

func (r *request) roomID() (spec.RoomID, error) {
	return parsed(spec.ParseRoomID, "roomId", r.params["roomId"])
}

func (r *request) eventID() (spec.EventID, error) {
	return parsed(spec.ParseEventID, "eventId", r.params["eventId"])
}

func (r *request) userID() (spec.UserID, error) {
	return parsed(spec.ParseUserID, "userId", r.params["userId"])
}

// parsed runs a parser of package spec on something the client sent; failure is the client's.
func parsed[T ~string](parse func(string) (T, error), what, value string) (T, error) {
	id, err := parse(value)
	if err != nil {
		return "", spec.Errorf(spec.CodeInvalidParam, err, "%s is not valid", what)
	}
	return id, nil
}

// ownUser is the user in the path, who must be the one who asks.
func (r *request) ownUser() (spec.UserID, error) {
	user, err := r.userID()
	if err != nil {
		return "", err
	}
	if user != r.session.User {
		return "", spec.Errorf(spec.CodeForbidden, nil, "you may only do this for yourself")
	}
	return user, nil
}

// number reads an integer query parameter of at least zero; absent is preset.
func (r *request) number(name string, preset int64) (int64, error) {
	if !r.query.Has(name) {
		return preset, nil
	}
	text := r.query.Get(name)
	n, err := strconv.ParseInt(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) && text[0] != '-' {
		return n, nil // the largest number there is: callers clamp
	}
	if err != nil || n < 0 {
		return 0, spec.Errorf(spec.CodeInvalidParam, err, "%s must be a whole number of at least 0", name)
	}
	return n, nil
}

// flag reads a boolean query parameter; absent is false.
func (r *request) flag(name string) (bool, error) {
	switch r.query.Get(name) {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, spec.Errorf(spec.CodeInvalidParam, nil, "%s must be true or false", name)
}

// body reads the body, up to the limit.
func (r *request) body() ([]byte, error) {
	if r.http.ContentLength > r.maxBody {
		return nil, spec.Errorf(spec.CodeTooLarge, nil, "the body has more than %d bytes", r.maxBody)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(r.writer, r.http.Body, r.maxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, spec.Errorf(spec.CodeTooLarge, nil, "the body has more than %d bytes", r.maxBody)
	}
	if err != nil {
		if ctxErr := r.http.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		return nil, spec.Errorf(spec.CodeNotJSON, err, "the body could not be read")
	}
	return raw, nil
}

// content is the body as it was sent: one JSON object, strictly checked. It is for free content
// such as that of events.
func (r *request) content() ([]byte, error) {
	raw, err := r.body()
	if err != nil {
		return nil, err
	}
	return raw, checkObject(raw)
}

// decode puts the body, a JSON object, into the struct v points to. Unknown keys are ignored.
func (r *request) decode(v any) error {
	raw, err := r.body()
	if err != nil {
		return err
	}
	return decodeObject(raw, v)
}

// decodeOptional is decode, except that no body at all is taken as {}: clients leave it out
// where everything in it is optional.
func (r *request) decodeOptional(v any) error {
	raw, err := r.body()
	if err != nil || len(bytes.TrimSpace(raw)) == 0 {
		return err
	}
	return decodeObject(raw, v)
}

// decodeObject decodes a JSON object into a struct with the errors of the specification.
// Spec: client-server-api#standard-error-response
func decodeObject(raw []byte, v any) error {
	if err := checkObject(raw); err != nil {
		return err
	}
	if hasNUL(raw) {
		return spec.Errorf(spec.CodeBadJSON, nil, "U+0000 is not allowed here")
	}
	err := json.Unmarshal(raw, v)
	var shape *json.SemanticError
	if errors.As(err, &shape) {
		return spec.Errorf(spec.CodeBadJSON, err, "wrong type of value at %q", string(shape.JSONPointer))
	}
	if err != nil {
		return spec.Errorf(spec.CodeBadJSON, err, "the JSON object does not have the right shape")
	}
	return nil
}

// checkObject checks that raw is exactly one JSON object: valid UTF-8, no duplicate names, no
// lone surrogates.
func checkObject(raw []byte) error {
	decoder := jsontext.NewDecoder(bytes.NewReader(raw))
	value, err := decoder.ReadValue()
	if err == nil && value.Kind() != '{' {
		err = errNoObject
	}
	if err == nil {
		if _, err = decoder.ReadToken(); err == io.EOF {
			return nil
		}
		return spec.Errorf(spec.CodeNotJSON, err, "there is more in the body than one JSON object")
	}
	switch {
	case errors.Is(err, errNoObject):
		return spec.Errorf(spec.CodeBadJSON, nil, "the body must be a JSON object")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return spec.Errorf(spec.CodeBadJSON, err, "an object has the same name twice")
	}
	return spec.Errorf(spec.CodeNotJSON, err, "the body is not valid JSON")
}

var errNoObject = errors.New("not an object")

// hasNUL tells whether some string in the JSON text holds U+0000, which is only ever written as
// an escape.
func hasNUL(raw []byte) bool {
	for rest := raw; ; {
		at := bytes.Index(rest, []byte(`\u0000`))
		if at < 0 {
			return false
		}
		// The escape counts unless its backslash is itself escaped.
		slashes := 0
		for slashes < at && rest[at-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return true
		}
		rest = rest[at+1:]
	}
}
