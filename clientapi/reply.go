package clientapi

import (
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"atoll/spec"
)

// rawJSON is an answer that is JSON already.
type rawJSON []byte

// answer is a reply that is not simply 200 with JSON. Status 0 is 200.
type answer struct {
	Status int
	Header http.Header
	Body   any // as a handler may return it
}

// object is an ad-hoc JSON object.
type object map[string]any

// writeReply writes the result of a handler: nothing as {}, rawJSON and whatever writes its own
// JSON (an io.WriterTo, which can do so piece by piece) as they are, anything else marshalled.
func writeReply(w http.ResponseWriter, result any) error {
	code := http.StatusOK
	if a, ok := result.(answer); ok {
		maps.Copy(w.Header(), a.Header)
		if a.Status != 0 {
			code = a.Status
		}
		result = a.Body
	}
	w.Header().Set("Content-Type", "application/json")
	switch body := result.(type) {
	case nil:
		return writeBytes(w, code, []byte("{}"))
	case rawJSON:
		return writeBytes(w, code, body)
	case io.WriterTo:
		w.WriteHeader(code)
		_, err := body.WriteTo(w)
		return err
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return writeBytes(w, code, raw)
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
	if failure.Code != "" {
		body["errcode"], body["error"] = failure.Code, failure.Msg
	}
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
	// The client is gone if this fails; there is nobody left to tell.
	_ = writeBytes(w, failure.HTTPStatus(), raw)
}
