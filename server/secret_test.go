package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretNeverShows(t *testing.T) {
	const value = "correct horse"
	type holder struct{ Password Secret }
	h := holder{value}

	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, h); strings.Contains(got, "horse") || strings.Contains(got, "686f727365") {
			t.Errorf("verb %s shows %q", verb, got)
		}
	}
	encoded, err := json.Marshal(h)
	if err != nil || bytes.Contains(encoded, []byte("horse")) {
		t.Errorf("encoded as %s, %v", encoded, err)
	}
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("in", "secret", h.Password, "holder", h)
		if strings.Contains(out.String(), "horse") {
			t.Errorf("%s handler wrote %s", name, out.String())
		}
	}
	var back holder
	if err := json.Unmarshal([]byte(`{"Password":"correct horse"}`), &back); err != nil || back != h {
		t.Errorf("a request's password decodes to %q, %v", string(back.Password), err)
	}
}
