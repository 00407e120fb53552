package config

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"atoll/spec"
)

// Validate returns everything that is wrong with a configuration, without the
// places where it was set, or nil. It looks at the files that are named.
func (c *Config) Validate() error {
	l := loader{cfg: *c}
	if problems := l.validate(); len(problems) > 0 {
		return problems
	}
	return nil
}

// validate checks every key. Keys that could not be read keep their defaults, so
// nothing is reported twice.
func (l *loader) validate() Problems {
	c := check{origin: l.origin}
	cfg := &l.cfg
	if _, err := spec.ParseServerName(cfg.ServerName); err != nil {
		c.add("server_name", "not the name of a server: want a host name or address, with a port if it needs one")
	}
	if cfg.DataDir == "" {
		c.add("data_dir", "must not be empty")
	}
	c.database(string(cfg.Database))
	if cfg.NATS != "embedded" {
		c.add("nats", `only "embedded" is available in this version`)
	}
	c.publicURL(cfg.PublicURL)
	c.listeners(cfg.Listeners)
	for i, proxy := range cfg.TrustedProxies {
		if _, err := ParseNetwork(proxy); err != nil {
			c.add(fmt.Sprintf("trusted_proxies[%d]", i), "want an address or a network, as in 10.0.0.0/8")
		}
	}
	c.oneOf("registration.mode", cfg.Registration.Mode, "open", "token", "closed")
	if s := cfg.Registration.SharedSecret; s != "" && len(s) < 8 {
		c.add("registration.shared_secret", "must have 8 characters at least")
	}
	c.policies(cfg.Registration.Policies)
	c.atLeastZero("sessions.access_token_minutes", cfg.Sessions.AccessTokenMinutes)
	c.atLeastZero("sessions.login_token_minutes", cfg.Sessions.LoginTokenMinutes)
	c.jwt(cfg.JWT)
	if a := cfg.Federation.Address; a != "" {
		if _, err := spec.ParseServerName(a); err != nil {
			c.add("federation.address", "want a host, with a port if it needs one")
		}
	}
	c.certificates("federation.ca_file", cfg.Federation.CAFile)
	for i, name := range cfg.Federation.TrustedKeyServers {
		if _, err := spec.ParseServerName(name); err != nil {
			c.add(fmt.Sprintf("federation.trusted_key_servers[%d]", i), "not the name of a server")
		}
	}
	if cfg.Media.Store != "disk" {
		c.add("media.store", `only "disk" is available in this version`)
	}
	c.oneOf("log.level", cfg.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", cfg.Log.Format, "text", "json")
	if cfg.Admin.Address != "" {
		c.address("admin.address", cfg.Admin.Address)
	}
	return c.problems
}

// ParseNetwork reads a network, or an address as the network of itself alone.
func ParseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(s)
}

// check collects problems.
type check struct {
	origin   map[string]string
	problems Problems
}

// add reports a key, with the place where it, or else what is around it, was set.
func (c *check) add(key, format string, args ...any) {
	where := ""
	for k := key; k != "" && where == ""; k = k[:max(0, strings.LastIndexAny(k, ".["))] {
		where = c.origin[k]
	}
	c.problems = append(c.problems, Problem{Where: where, Key: key, Msg: fmt.Sprintf(format, args...)})
}

func (c *check) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.add(key, "want one of %s", strings.Join(allowed, ", "))
	}
}

func (c *check) database(value string) {
	if value == "sqlite" || (strings.HasPrefix(value, "sqlite:") && len(value) > len("sqlite:")) {
		return
	}
	u, err := url.Parse(value) // the error is not shown: it quotes the password
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		c.add("database", `want "sqlite", "sqlite:PATH" or a URL as in postgres://user:password@host/name`)
	}
}

func (c *check) publicURL(value string) {
	if value == "" {
		return
	}
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		c.add("public_url", "want a URL as in https://matrix.example.org")
	}
}

// lifetimeMost bounds lifetimes given in minutes: ten years.
const lifetimeMost = 10 * 366 * 24 * 60

func (c *check) atLeastZero(key string, n int) {
	if n < 0 || n > lifetimeMost {
		c.add(key, "want a number from 0 to %d", lifetimeMost)
	}
}

var (
	policyID       = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
	policyLanguage = regexp.MustCompile(`^[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8})*$`)
)

func (c *check) policies(all []Policy) {
	versions, seen := map[string]string{}, map[[2]string]bool{}
	for i, p := range all {
		key := fmt.Sprintf("registration.policies[%d]", i)
		if !policyID.MatchString(p.ID) {
			c.add(key+".id", "want letters, digits and _")
		}
		if p.Version == "" {
			c.add(key+".version", "must not be empty")
		}
		if v, ok := versions[p.ID]; ok && v != p.Version {
			c.add(key+".version", "differs from that of another language")
		}
		versions[p.ID] = p.Version
		if !policyLanguage.MatchString(p.Language) || p.Language == "version" {
			c.add(key+".language", "want a language, as in en")
		}
		if seen[[2]string{p.ID, p.Language}] {
			c.add(key, "given twice in this language")
		}
		seen[[2]string{p.ID, p.Language}] = true
		if p.Name == "" {
			c.add(key+".name", "must not be empty")
		}
		if u, err := url.Parse(p.URL); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			c.add(key+".url", "want a URL as in https://example.org/terms")
		}
	}
}

func (c *check) jwt(j JWT) {
	if !slices.Contains(jwtAlgorithms, j.Algorithm) {
		c.add("jwt.algorithm", "want one of %s", strings.Join(jwtAlgorithms, ", "))
		return
	}
	symmetric := strings.HasPrefix(j.Algorithm, "HS")
	switch {
	case !symmetric && j.Secret != "":
		c.add("jwt.secret", "%s needs public_key_file instead", j.Algorithm)
	case symmetric && j.PublicKeyFile != "":
		c.add("jwt.public_key_file", "%s needs secret instead", j.Algorithm)
	case j.Secret != "" && len(j.Secret) < 16:
		c.add("jwt.secret", "must have 16 characters at least")
	case j.PublicKeyFile != "":
		if _, err := j.Key(); err != nil {
			c.add("jwt.public_key_file", "%v", err)
		}
	}
	if j.SubjectClaim == "" {
		c.add("jwt.subject_claim", "must not be empty")
	}
}

func (c *check) listeners(all []Listener) {
	if len(all) == 0 {
		c.add("listeners", "must not be empty")
	}
	seen := map[string]bool{}
	for i, listener := range all {
		key := fmt.Sprintf("listeners[%d]", i)
		c.address(key+".address", listener.Address)
		if seen[listener.Address] && !strings.HasSuffix(listener.Address, ":0") {
			c.add(key+".address", "given twice")
		}
		seen[listener.Address] = true
		tls := listener.TLS
		switch {
		case tls == TLS{}:
		case tls.Cert == "" || tls.Key == "":
			c.add(key+".tls", "needs both cert and key")
		default:
			c.file(key+".tls.cert", tls.Cert)
			c.file(key+".tls.key", tls.Key)
		}
	}
}

func (c *check) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		c.add(key, "want host and port, as in 127.0.0.1:8008")
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		c.add(key, "the port is not a number from 0 to 65535")
	}
}

func (c *check) file(key, path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		c.add(key, "can not be read: %v", err)
	}
	return data
}

func (c *check) certificates(key, path string) {
	if path == "" {
		return
	}
	if data := c.file(key, path); data != nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		c.add(key, "no certificate in %s", filepath.Clean(path))
	}
}
