package spec

import (
	"crypto/sha256"
	"strings"
	"testing"
)

func TestHashText(t *testing.T) {
	h := Hash(sha256.Sum256([]byte("atoll")))
	text, err := h.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back Hash
	if err := back.UnmarshalText(text); err != nil || back != h {
		t.Fatalf("%s read back as %s, %v", h, back, err)
	}
	if zero := strings.Repeat("A", 43); (Hash{}).String() != zero || h.IsZero() || !(Hash{}).IsZero() {
		t.Fatalf("zero hash is %s", Hash{})
	}
}

func TestParseHashRefusesAllButOneText(t *testing.T) {
	h := Hash(sha256.Sum256([]byte{3}))
	good := h.String()
	bad := map[string]string{
		"empty":             "",
		"padded":            good + "=",
		"short":             good[:42],
		"line break inside": good[:20] + "\n" + good[21:],
		"standard alphabet": "+" + good[1:],
		"loose last bits":   strings.Repeat("A", 42) + "B",
	}
	for name, text := range bad {
		if got, err := ParseHash(text); err == nil || got != (Hash{}) {
			t.Errorf("%s: %q gives %s, %v", name, text, got, err)
		}
	}
}
