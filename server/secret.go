package server

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every secret shows of itself.
const redacted = "***"

// Secret is a password, token or other value that must not be seen: however it
// is formatted, logged or encoded it shows as three asterisks. string(s) is the
// one way to its value, to be taken where the value leaves for its owner.
type Secret string

// String implements fmt.Stringer without telling the value.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer without telling the value.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, so that verbs that fit no string do not tell
// the value in their complaint either.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the value out of encoded structs. Decoding is not affected.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
