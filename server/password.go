package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"atoll/spec"
)

// PasswordOptions sets what passwords are accepted and what their hashes cost.
// The zero value is right for production.
type PasswordOptions struct {
	// MemoryKiB is the memory of one hash in KiB; 0 means 19456 (19 MiB).
	MemoryKiB uint32
	// Passes is the number of passes over that memory; 0 means 2.
	Passes uint32
	// MinBytes is the least length of a new password; 0 means 1.
	MinBytes int
	// MaxBytes is the greatest length of a password; 0 means 512.
	MaxBytes int
}

// CheapPasswords are options for tests and conformance runs, where accounts are
// made by the hundred and protect nothing.
func CheapPasswords() PasswordOptions { return PasswordOptions{MemoryKiB: 64, Passes: 1} }

const (
	// hashesAtOnce bounds the memory and the cores that hashing may take.
	hashesAtOnce = 2
	// hashesWaiting bounds how many requests may queue for a hash. At some
	// 50 ms each this is about as long as a client waits for an answer.
	hashesWaiting = 256

	saltBytes = 16
	hashBytes = 32
)

// passwords hashes and checks passwords. It is safe for concurrent use.
type passwords struct {
	memory, passes     uint32
	minBytes, maxBytes int
	// hashed tells settle that a password was hashed.
	hashed  chan struct{}
	slots   chan struct{}
	waiting atomic.Int32
	// decoy is a well-formed hash that nothing matches. Checking against it
	// takes as long as checking against a real one.
	decoy string
}

func newPasswords(o PasswordOptions) *passwords {
	p := &passwords{
		memory: orDefault(o.MemoryKiB, 19*1024), passes: orDefault(o.Passes, 2),
		minBytes: orDefault(o.MinBytes, 1), maxBytes: orDefault(o.MaxBytes, 512),
		slots: make(chan struct{}, hashesAtOnce), hashed: make(chan struct{}, 1),
	}
	p.decoy = phc{memory: p.memory, passes: p.passes, threads: 1, salt: randomBytes(saltBytes), sum: randomBytes(hashBytes)}.String()
	return p
}

// checkNew tells whether a password may be set. Spec: client-server-api#password-management
func (p *passwords) checkNew(password Secret) error {
	switch {
	case password == "":
		return spec.Errorf(spec.CodeMissingParam, nil, "a password is needed")
	case len(password) < p.minBytes:
		return spec.Errorf(spec.CodeWeakPassword, nil, "the password is shorter than %d bytes", p.minBytes)
	case len(password) > p.maxBytes:
		return spec.Errorf(spec.CodeInvalidParam, nil, "the password is longer than %d bytes", p.maxBytes)
	}
	return nil
}

// hash returns the PHC string of a password. It waits for one of two slots and
// gives M_LIMIT_EXCEEDED when too many wait already.
func (p *passwords) hash(ctx context.Context, password Secret) (string, error) {
	if err := p.acquire(ctx); err != nil {
		return "", err
	}
	defer p.release()
	h := phc{memory: p.memory, passes: p.passes, threads: 1, salt: randomBytes(saltBytes)}
	h.sum = h.derive(password)
	return h.String(), nil
}

// verdict is the outcome of checking a password.
type verdict struct {
	// OK: the password is the right one.
	OK bool
	// Stale: it is right, and its hash was made at another cost than today's.
	Stale bool
}

// verify compares a password with a stored hash. An empty stored hash stands
// for a user who does not exist or has no password; it takes the same work and
// matches nothing. The same slots and errors as hash.
func (p *passwords) verify(ctx context.Context, stored string, password Secret) (verdict, error) {
	known := stored != ""
	if !known {
		stored = p.decoy
	}
	if len(password) > p.maxBytes {
		password, known = password[:p.maxBytes], false
	}
	h, err := parsePHC(stored)
	if err != nil {
		return verdict{}, fmt.Errorf("stored password hash: %w", err)
	}
	if err := p.acquire(ctx); err != nil {
		return verdict{}, err
	}
	defer p.release()
	equal := subtle.ConstantTimeCompare(h.derive(password), h.sum) == 1
	ok := equal && known
	return verdict{OK: ok, Stale: ok && (h.memory != p.memory || h.passes != p.passes)}, nil
}

func (p *passwords) acquire(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > hashesWaiting {
		busy := spec.Errorf(spec.CodeLimitExceeded, nil, "too many logins at once")
		busy.RetryAfter = 5 * time.Second
		return busy
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *passwords) release() {
	<-p.slots
	select {
	case p.hashed <- struct{}{}:
	default: // settle has been told
	}
}

// settleAfter is how long no password must have been hashed before the memory
// of the hashes is given back.
const settleAfter = 2 * time.Second

// settle gives memory back to the system after each burst of hashing. Every hash
// takes 19 MiB for some milliseconds, many times what the rest of a small server
// needs, and the runtime would keep that for minutes. It returns when ctx ends.
func (p *passwords) settle(ctx context.Context) error {
	quiet := time.NewTimer(settleAfter)
	defer quiet.Stop()
	burst := false
	for {
		select {
		case <-p.hashed:
			burst = true
			quiet.Reset(settleAfter)
		case <-quiet.C:
			if burst {
				debug.FreeOSMemory()
			}
			burst = false
		case <-ctx.Done():
			return nil
		}
	}
}

// phc is an argon2id hash with its parameters, in the text form that password
// hashing tools share: $argon2id$v=19$m=…,t=…,p=…$salt$sum.
type phc struct {
	memory, passes uint32
	threads        uint8
	salt, sum      []byte
}

func (h phc) derive(password Secret) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.threads, hashBytes)
}

// String returns the text form.
func (h phc) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.memory, h.passes, h.threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

// parsePHC reads the text form. Errors never quote it.
func parsePHC(s string) (phc, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, fmt.Errorf("not an argon2id hash")
	}
	var h phc
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.threads); n != 3 || err != nil {
		return phc{}, fmt.Errorf("parameters of an argon2id hash cannot be read")
	}
	if h.memory > 1<<20 || h.passes == 0 || h.passes > 64 || h.threads == 0 {
		return phc{}, fmt.Errorf("parameters of an argon2id hash are out of range")
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return phc{}, fmt.Errorf("salt of an argon2id hash cannot be read")
	}
	if h.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(h.sum) != hashBytes {
		return phc{}, fmt.Errorf("sum of an argon2id hash cannot be read")
	}
	return h, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: the runtime ends the program instead
	return b
}

// orDefault returns v, or def where v is zero.
func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
