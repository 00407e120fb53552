package config

import (
	"log/slog"
	"net/url"
)

const hidden = "***"

// Secret is text that must not be shown: it prints as *** in every format.
type Secret string

// String returns *** for a secret that is set, and nothing for one that is not.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SecretURL is text that may be a URL with a password in it, which prints as ***.
type SecretURL string

// String returns the text without its password. Text that looks like a URL and
// is none is hidden whole, because nobody knows where its password would be.
func (s SecretURL) String() string {
	u, err := url.Parse(string(s))
	if err != nil {
		return hidden
	}
	if _, set := u.User.Password(); set {
		u.User = url.UserPassword(u.User.Username(), hidden)
	}
	query := u.Query()
	if query.Has("password") {
		query.Set("password", hidden)
		u.RawQuery = query.Encode()
	}
	return u.String()
}

// GoString hides the password from %#v.
func (s SecretURL) GoString() string { return `"` + s.String() + `"` }

// LogValue hides the password from slog.
func (s SecretURL) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the password from encoders.
func (s SecretURL) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
