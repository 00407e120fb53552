// Package config reads the configuration of the atoll command: defaults, one
// YAML file and environment variables, checked as a whole.
//
// Its types stop at cmd: each package of the homeserver gets the options that it
// declares itself. The comments on the fields below are also the text of the
// sample file and of the table in docs/CONFIGURATION.md; `go generate` writes
// both, and a test fails when they are stale.
package config

//go:generate go test -run ^TestGeneratedFiles$ . -update

import _ "embed"

// Sample is the commented sample file that `atoll init` starts from. It means
// the same as an empty file.
//
//go:embed sample.yaml
var Sample string

// Config is everything that can be configured. The zero value is not usable;
// begin with Default.
type Config struct {
	// The name of this homeserver: what stands after the colon in user ids and
	// room aliases. It can not be changed once users exist.
	ServerName string `yaml:"server_name"`
	// The directory of everything that must be kept: the signing key, the embedded
	// database and media. Relative paths start where the process was started.
	DataDir string `yaml:"data_dir"`
	// The database: "sqlite" for the embedded one in data_dir, "sqlite:PATH", or
	// the URL of a PostgreSQL database as in postgres://user:password@host/name.
	Database SecretURL `yaml:"database"`
	// The message bus between the nodes of one homeserver. Only "embedded" is
	// available in this version.
	NATS SecretURL `yaml:"nats"`
	// The address under which clients reach this server, as in
	// https://matrix.example.org. It is published at /.well-known/matrix/client;
	// empty publishes nothing.
	PublicURL string `yaml:"public_url"`
	// Where to listen. Every listener serves both the client and the federation
	// API, with TLS where a certificate and its key (PEM files) are given. Renewed
	// files are taken up without a restart.
	Listeners []Listener `yaml:"listeners"`
	// Addresses and networks of reverse proxies, as in 10.0.0.0/8. For requests
	// from these the client's address is taken from the X-Forwarded-For header.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Who may create an account.
	Registration Registration `yaml:"registration"`
	// How long sessions and what leads to them live.
	Sessions Sessions `yaml:"sessions"`
	// Login with JSON web tokens (org.matrix.login.jwt) that another service
	// issues. Whoever has no account yet gets one. Off unless there is a
	// secret or a key.
	JWT JWT `yaml:"jwt"`
	// Limits on how often one client may ask.
	RateLimits RateLimits `yaml:"rate_limits"`
	// The exchange with other homeservers.
	Federation Federation `yaml:"federation"`
	// Uploaded files.
	Media Media `yaml:"media"`
	// The log, written to standard error.
	Log Log `yaml:"log"`
	// The listener for operators: profiles of the running process below
	// /debug/pprof/. It asks for no password, so bind it to a private address only.
	Admin Admin `yaml:"admin"`
}

// Listener is one address to listen on.
type Listener struct {
	// Host and port, as in 127.0.0.1:8008, [::1]:8008 or :8008.
	Address string `yaml:"address"`
	// A certificate chain and its private key; both empty for plain HTTP.
	TLS TLS `yaml:"tls"`
}

// TLS names the two files of a certificate.
type TLS struct {
	// The certificate chain, a PEM file.
	Cert string `yaml:"cert"`
	// Its private key, a PEM file.
	Key string `yaml:"key"`
}

// Registration says who may create an account.
type Registration struct {
	// "open": anybody; "token": whoever has a registration token; "closed": nobody,
	// accounts are made with `atoll user create`.
	Mode string `yaml:"mode"`
	// A secret with which programs may create accounts whatever the mode is, at
	// /_synapse/admin/v1/register. Empty switches that endpoint off.
	SharedSecret Secret `yaml:"shared_secret"`
	// Whether people may look around as guests, without an account of their own.
	Guests bool `yaml:"guests"`
	// Documents that whoever makes an account has to accept, as in
	// [{id: terms, version: "1.0", language: en, name: Terms, url: https://example.org/terms}].
	Policies []Policy `yaml:"policies"`
}

// Policy is a document in one language.
type Policy struct {
	// The document's id: letters, digits and _. The same document in several
	// languages has one id and one version.
	ID string `yaml:"id"`
	// Its version, any text.
	Version string `yaml:"version"`
	// The language, as in en.
	Language string `yaml:"language"`
	// What clients call it.
	Name string `yaml:"name"`
	// Where it can be read.
	URL string `yaml:"url"`
}

// Sessions says how long tokens live.
type Sessions struct {
	// The lifetime in minutes of access tokens of clients that can refresh them; 0
	// for ever. Tokens of other clients do not end by themselves.
	AccessTokenMinutes int `yaml:"access_token_minutes"`
	// The lifetime in minutes of the tokens with which a client logs another one
	// in; 0 for no such tokens.
	LoginTokenMinutes int `yaml:"login_token_minutes"`
}

// JWT says which JSON web tokens are accepted.
type JWT struct {
	// The one algorithm that is accepted: HS256, HS384 or HS512 with a secret;
	// RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA with a
	// key.
	Algorithm string `yaml:"algorithm"`
	// The secret that the issuer signs with.
	Secret Secret `yaml:"secret"`
	// The issuer's public key, a PEM file.
	PublicKeyFile string `yaml:"public_key_file"`
	// Who must have issued the token (its claim iss); empty for anybody.
	Issuer string `yaml:"issuer"`
	// Those for one of whom the token must be (its claim aud); none for anybody.
	Audiences []string `yaml:"audiences"`
	// The claim with the user's name, without server.
	SubjectClaim string `yaml:"subject_claim"`
}

// RateLimits says how often one client may ask.
type RateLimits struct {
	// Whether clients are limited at all.
	Enabled bool `yaml:"enabled"`
}

// Federation is the exchange with other homeservers.
type Federation struct {
	// Whether this server speaks to other homeservers.
	Enabled bool `yaml:"enabled"`
	// Where other homeservers reach this one, as in matrix.example.org:443. It is
	// published at /.well-known/matrix/server; empty publishes nothing, and others
	// then use port 8448 of server_name.
	Address string `yaml:"address"`
	// A PEM file of certificate authorities that are trusted for outgoing
	// requests, beside those of the system.
	CAFile string `yaml:"ca_file"`
	// Whether other homeservers may be reached at loopback and private addresses.
	AllowPrivateAddresses bool `yaml:"allow_private_addresses"`
	// Homeservers that are asked for the keys of others that can not be reached.
	TrustedKeyServers []string `yaml:"trusted_key_servers"`
}

// Media says where uploaded files are kept.
type Media struct {
	// Where files are kept. Only "disk", below data_dir, is available in this
	// version.
	Store string `yaml:"store"`
}

// Log says what is logged, and how.
type Log struct {
	// The least level that is written: "debug", "info", "warn" or "error".
	Level string `yaml:"level"`
	// "text" or "json".
	Format string `yaml:"format"`
}

// Admin is the listener for operators.
type Admin struct {
	// Host and port, as in 127.0.0.1:9008; empty for no such listener.
	Address string `yaml:"address"`
}

// Default returns what holds without a file and without environment variables.
func Default() Config {
	return Config{
		ServerName:     "localhost",
		DataDir:        "./data",
		Database:       "sqlite",
		NATS:           "embedded",
		Listeners:      []Listener{{Address: "127.0.0.1:8008"}},
		TrustedProxies: []string{},
		Registration:   Registration{Mode: "closed", Policies: []Policy{}},
		Sessions:       Sessions{AccessTokenMinutes: 60, LoginTokenMinutes: 2},
		JWT:            JWT{Algorithm: "HS256", Audiences: []string{}, SubjectClaim: "sub"},
		RateLimits:     RateLimits{Enabled: true},
		Federation:     Federation{Enabled: true, TrustedKeyServers: []string{}},
		Media:          Media{Store: "disk"},
		Log:            Log{Level: "info", Format: "text"},
	}
}
