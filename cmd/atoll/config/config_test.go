package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// load reads text as a file called atoll.yaml.
func load(t *testing.T, text string, environ ...string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "atoll.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Default(), file, environ)
}

func TestDefaultsNeedNothing(t *testing.T) {
	got, err := Load(Default(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, Default()) {
		t.Errorf("got %+v, want the defaults", got)
	}
	for _, text := range []string{"", "# nothing here\n\n", "---\n"} {
		if got, err := load(t, text); err != nil || !reflect.DeepEqual(got, Default()) {
			t.Errorf("file %q: got %+v, %v; want the defaults", text, got, err)
		}
	}
}

func TestSampleMeansTheDefaults(t *testing.T) {
	for name, text := range map[string]string{
		"as it is":                  Sample,
		"with every default spoken": strings.ReplaceAll(Sample, "#: ", ""),
	} {
		got, err := load(t, text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, Default()) {
			t.Errorf("%s: got %+v, want the defaults", name, got)
		}
	}
}

func TestFileAndEnvironment(t *testing.T) {
	cases := []struct {
		name, file string
		env        []string
		want       func(*Config)
	}{
		{"a key of a section changes only itself", "federation: {allow_private_addresses: true}", nil,
			func(c *Config) { c.Federation.AllowPrivateAddresses = true }},
		{"a section without content changes nothing", "federation:\nlog:\n", nil, func(*Config) {}},
		{"a list replaces the default", "listeners: [{address: ':1'}, {address: '[::1]:2'}]", nil,
			func(c *Config) { c.Listeners = []Listener{{Address: ":1"}, {Address: "[::1]:2"}} }},
		{"numbers are text where text is wanted", "registration: {shared_secret: 0123456789}", nil,
			func(c *Config) { c.Registration.SharedSecret = "0123456789" }},
		{"an alias is followed", "log: {level: &l warn}\nserver_name: *l", nil,
			func(c *Config) { c.Log.Level, c.ServerName = "warn", "warn" }},
		{"the environment wins", "server_name: file.example", []string{"ATOLL_SERVER_NAME=env.example"},
			func(c *Config) { c.ServerName = "env.example" }},
		{"the environment reaches into sections", "", []string{"ATOLL_FEDERATION_ENABLED=false", "ATOLL_RATE_LIMITS_ENABLED=off"},
			func(c *Config) { c.Federation.Enabled, c.RateLimits.Enabled = false, false }},
		{"names with commas", "", []string{"ATOLL_FEDERATION_TRUSTED_KEY_SERVERS=a.example, b.example:8448"},
			func(c *Config) { c.Federation.TrustedKeyServers = []string{"a.example", "b.example:8448"} }},
		{"names as YAML", "", []string{`ATOLL_FEDERATION_TRUSTED_KEY_SERVERS=["[::1]:8448"]`},
			func(c *Config) { c.Federation.TrustedKeyServers = []string{"[::1]:8448"} }},
		{"listeners as YAML", "listeners: [{address: ':1', tls: {cert: x}}]", []string{`ATOLL_LISTENERS=[{address: ":2"}]`},
			func(c *Config) { c.Listeners = []Listener{{Address: ":2"}} }},
		{"an empty variable empties the key", "public_url: https://a.example", []string{"ATOLL_PUBLIC_URL="}, func(*Config) {}},
		{"variables of an orchestrator are not ours", "",
			[]string{"ATOLL_SERVICE_HOST=10.0.0.1", "ATOLL_PORT=tcp://10.0.0.1:8008", "ATOLL_EU_PORT_8008_TCP_ADDR=10.0.0.1", "ATOLL_CONFIG=x"}, func(*Config) {}},
		{"a database with a password", "database: postgres://u:secret@h/d", nil, func(c *Config) { c.Database = "postgres://u:secret@h/d" }},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, err := load(t, tc.file, tc.env...)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			tc.want(&want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	cases := []struct {
		name, file string
		env        []string
		want       []string
	}{
		{"an unknown key", "server_nam: a.example", nil, []string{"atoll.yaml:1: server_nam: no such key, did you mean server_name?"}},
		{"an unknown key far from any other", "log:\n  colour: red", nil, []string{"atoll.yaml:2: log.colour: no such key"}},
		{"a key given twice", "log: {level: info}\nlog: {level: warn}", nil, []string{"atoll.yaml:2: log: given twice"}},
		{"a list where text is wanted", "server_name: [a]", nil, []string{"atoll.yaml:1: server_name: want text"}},
		{"text where a section is wanted", "log: loud", nil, []string{"atoll.yaml:1: log: want keys and values"}},
		{"text where a list is wanted", "listeners: ':8008'", nil, []string{"atoll.yaml:1: listeners: want a list"}},
		{"neither true nor false", "rate_limits:\n\n  enabled: maybe", nil, []string{"atoll.yaml:3: rate_limits.enabled: want true or false"}},
		{"a file that is no mapping", "- a\n- b", nil, []string{"atoll.yaml:1: want keys and values"}},
		{"a bad server name", "server_name: 'not a name'", nil, []string{"atoll.yaml:1: server_name: not the name"}},
		{"an empty data directory", "data_dir: ''", nil, []string{"atoll.yaml:1: data_dir: must not be empty"}},
		{"a database of another kind", "database: mysql://u:hunter2@h/d", nil, []string{"atoll.yaml:1: database: want"}},
		{"a bus that is not there yet", "nats: nats://u:hunter2@a:4222", nil, []string{"atoll.yaml:1: nats: only"}},
		{"no listeners", "listeners: []", nil, []string{"atoll.yaml:1: listeners: must not be empty"}},
		{"a listener without a port", "listeners:\n  - address: ':1'\n  - address: localhost", nil, []string{"atoll.yaml:3: listeners[1].address: want host and port"}},
		{"a port out of range", "listeners: [{address: ':70000'}]", nil, []string{"listeners[0].address: the port"}},
		{"the same address twice", "listeners: [{address: ':1'}, {address: ':1'}]", nil, []string{"listeners[1].address: given twice"}},
		{"a certificate without its key", "listeners:\n  - address: ':1'\n    tls:\n      cert: c.pem", nil, []string{"atoll.yaml:4: listeners[0].tls: needs both"}},
		{"certificate files that are not there", "listeners: [{address: ':1', tls: {cert: /nonexistent/c, key: /nonexistent/k}}]", nil,
			[]string{"listeners[0].tls.cert: can not be read", "listeners[0].tls.key: can not be read"}},
		{"a CA file that is not there", "federation: {ca_file: /nonexistent/ca}", nil, []string{"federation.ca_file: can not be read"}},
		{"a CA file without a certificate", "federation: {ca_file: /dev/null}", nil, []string{"federation.ca_file: no certificate"}},
		{"a bad key server", "federation:\n  trusted_key_servers:\n    - ok.example\n    - b@d", nil, []string{"atoll.yaml:4: federation.trusted_key_servers[1]: not the name"}},
		{"a bad proxy", "trusted_proxies: [10.0.0.1, 10.0.0.0/33]", nil, []string{"trusted_proxies[1]: want an address"}},
		{"a federation address that is a URL", "federation: {address: 'https://a.example'}", nil, []string{"federation.address: want a host"}},
		{"an unknown registration mode", "registration: {mode: invite}", nil, []string{"registration.mode: want one of open, token, closed"}},
		{"a short secret", "registration: {shared_secret: hunter2}", nil, []string{"registration.shared_secret: must have 8"}},
		{"a policy without anything", "registration: {policies: [{}]}", nil, []string{
			"registration.policies[0].id: want letters", "registration.policies[0].version: must not be empty",
			"registration.policies[0].language: want a language", "registration.policies[0].name: must not be empty", "registration.policies[0].url: want a URL"}},
		{"two versions of a policy", "registration: {policies: [{id: t, version: 1, language: en, name: T, url: 'https://t/'}, {id: t, version: 2, language: en, name: T, url: 'https://t/'}]}",
			nil, []string{"registration.policies[1].version: differs", "registration.policies[1]: given twice"}},
		{"lifetimes below zero", "sessions: {access_token_minutes: -1, login_token_minutes: -1}", nil,
			[]string{"sessions.access_token_minutes: want", "sessions.login_token_minutes: want"}},
		{"an algorithm that trusts everybody", "jwt: {algorithm: none, secret: hunter2}", nil, []string{"jwt.algorithm: want one of HS256"}},
		{"a short secret of tokens", "jwt: {secret: hunter2}", nil, []string{"jwt.secret: must have 16"}},
		{"a secret where a key is needed", "jwt: {algorithm: RS256, secret: hunter2hunter2hunter2}", nil, []string{"jwt.secret: RS256 needs"}},
		{"a key where a secret is needed", "jwt: {public_key_file: /dev/null}", nil, []string{"jwt.public_key_file: HS256 needs"}},
		{"a key file that is not there", "jwt: {algorithm: EdDSA, public_key_file: /nonexistent/k}", nil, []string{"jwt.public_key_file: can not be read"}},
		{"a key file without a key", "jwt: {algorithm: EdDSA, public_key_file: /dev/null, subject_claim: ''}", nil,
			[]string{"jwt.public_key_file: not a PEM", "jwt.subject_claim: must not be empty"}},
		{"an unknown log level", "log: {level: loud, format: xml}", nil, []string{"log.level: want one of", "log.format: want one of"}},
		{"an admin address without a port", "admin: {address: localhost}", nil, []string{"admin.address: want host and port"}},
		{"a public URL without a scheme", "public_url: matrix.example.org", nil, []string{"public_url: want a URL"}},
		{"an unknown variable", "", []string{"ATOLL_SERVERNAME=a"}, []string{"ATOLL_SERVERNAME: no such environment variable"}},
		{"a bad value in a variable", "", []string{"ATOLL_FEDERATION_ENABLED=maybe"}, []string{"ATOLL_FEDERATION_ENABLED: federation.enabled: want true or false"}},
		{"a bad list in a variable", "", []string{"ATOLL_LISTENERS=nonsense: ["}, []string{"ATOLL_LISTENERS: listeners: want a list"}},
		{"a bad listener in a variable", "", []string{"ATOLL_LISTENERS=[{addres: ':1'}]"}, []string{"ATOLL_LISTENERS: listeners[0].addres: no such key", "ATOLL_LISTENERS: listeners[0].address: want host"}},
		{"everything at once", "server_nam: a\nlog: {level: loud}\nmedia: {store: tape}", []string{"ATOLL_DATA_DIR="},
			[]string{"atoll.yaml:1: server_nam", "ATOLL_DATA_DIR: data_dir", "atoll.yaml:3: media.store", "atoll.yaml:2: log.level"}},
		{"broken YAML", "log: {level", nil, []string{"atoll.yaml"}},
		{"an alias within itself", "log: &a {level: *a}", nil, []string{"atoll.yaml"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, tc.file, tc.env...)
			problems, ok := err.(Problems)
			if !ok || len(problems) != len(tc.want) {
				t.Fatalf("got %v, want %d problems", err, len(tc.want))
			}
			for i, want := range tc.want {
				if !strings.Contains(problems[i].String(), want) {
					t.Errorf("problem %d is %q, want %q in it", i, problems[i], want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the message shows a password: %v", err)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Load(Default(), filepath.Join(t.TempDir(), "none.yaml"), nil); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("got %v, want that the file does not exist", err)
	}
}

func unwrapAll(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		if _, isPath := err.(*os.PathError); isPath {
			return err
		}
		err = inner.Unwrap()
	}
}

func TestCAFileWithCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, "federation: {ca_file: "+file+"}"); err != nil {
		t.Error(err)
	}
}

func TestJWTKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, "jwt: {algorithm: ES256, public_key_file: "+file+"}")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.JWT.Key(); err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("the key is read as %v, %v", got, err)
	}
	if _, err := load(t, "jwt: {algorithm: EdDSA, public_key_file: "+file+"}"); err == nil {
		t.Error("a key of another kind was accepted")
	}
	if got, err := Default().JWT.Key(); got != nil || err != nil {
		t.Errorf("no key is read as %v, %v", got, err)
	}
}

func TestSecretsPrintAsStars(t *testing.T) {
	cfg := Default()
	cfg.Registration.SharedSecret, cfg.JWT.Secret = "hunter2hunter2", "hunter2hunter2"
	cfg.Database = "postgres://user:hunter2@host/name?password=hunter2"
	cfg.NATS = "nats://user:hunter2@host:4222"
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Dump(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("configuration", "all", cfg, "secret", cfg.Registration.SharedSecret, "database", cfg.Database)
	for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), string(asJSON), string(asYAML), logged.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the secret shows in %s", text)
		}
		if !strings.Contains(text, "user") {
			t.Errorf("more than the secret is hidden in %s", text)
		}
	}
	if got := Secret("").String(); got != "" {
		t.Errorf("no secret prints as %q", got)
	}
	if got := SecretURL("://hunter2").String(); got != "***" {
		t.Errorf("text that can not be read as a URL prints as %q", got)
	}
}

func TestEveryKeyHasItsOwnVariable(t *testing.T) {
	all := keys(reflect.ValueOf(Config{}), "")
	seen := map[string]string{}
	for _, key := range all {
		name := EnvName(key)
		if foreignEnv.MatchString(name) {
			t.Errorf("%s is taken for a variable that others set", name)
		}
		if other := seen[name]; other != "" {
			t.Errorf("%s stands for %s and %s", name, other, key)
		}
		seen[name] = key
	}
	for _, key := range []string{"server_name", "data_dir", "database", "nats", "listeners", "registration.mode", "registration.shared_secret",
		"rate_limits.enabled", "federation.enabled", "federation.ca_file", "federation.allow_private_addresses", "federation.trusted_key_servers", "media.store"} {
		if !slices.Contains(all, key) {
			t.Errorf("the promised key %s is missing", key)
		}
	}
}
