package server

import (
	"context"
	"errors"
	"strings"
	"testing"

	"atoll/spec"
)

func TestPasswordHash(t *testing.T) {
	ctx := t.Context()
	p := newPasswords(CheapPasswords())
	stored, err := p.hash(ctx, "s3cret")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(stored, "$argon2id$v=19$m=64,t=1,p=1$") || strings.Contains(stored, "s3cret") {
		t.Fatalf("the stored form does not begin as it should")
	}
	again, _ := p.hash(ctx, "s3cret")
	if again == stored {
		t.Error("two hashes of one password are equal: no salt")
	}
	check := func(claim, stored string, password Secret, want verdict) {
		t.Helper()
		got, err := p.verify(ctx, stored, password)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", claim, got, err)
		}
	}
	check("the right password matches", stored, "s3cret", verdict{OK: true})
	check("a wrong password does not", stored, "s3creT", verdict{})
	check("an unknown user matches nothing", "", "s3cret", verdict{})
	check("an overlong password matches nothing", stored, Secret(strings.Repeat("x", 1<<16)), verdict{})

	dear := newPasswords(PasswordOptions{MemoryKiB: 128, Passes: 1})
	if got, err := dear.verify(ctx, stored, "s3cret"); err != nil || !got.OK || !got.Stale {
		t.Errorf("a hash of another cost is right and stale: %+v, %v", got, err)
	}
	if _, err := p.verify(ctx, "$argon2id$v=19$m=9999999,t=1,p=1$AAAA$AAAA", "x"); err == nil || strings.Contains(err.Error(), "AAAA") {
		t.Errorf("a hash out of range is refused without being quoted: %v", err)
	}
}

func TestPasswordDefaultsAreTheDearOnes(t *testing.T) {
	p := newPasswords(PasswordOptions{})
	if !strings.HasPrefix(p.decoy, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Error("the default cost is not 19 MiB, two passes, one thread")
	}
}

func TestPasswordLengths(t *testing.T) {
	p := newPasswords(PasswordOptions{MinBytes: 8})
	for password, want := range map[Secret]spec.Code{
		"":                               spec.CodeMissingParam,
		"seven77":                        spec.CodeWeakPassword,
		"eight888":                       "",
		Secret(strings.Repeat("x", 513)): spec.CodeInvalidParam,
	} {
		err := p.checkNew(password)
		var e *spec.Error
		if errors.As(err, &e) != (want != "") || (e != nil && e.Code != want) {
			t.Errorf("a password of %d bytes: %v, want %q", len(password), err, want)
		}
	}
}

func TestPasswordsTwoAtOnce(t *testing.T) {
	p := newPasswords(CheapPasswords())
	p.slots <- struct{}{}
	p.slots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.hash(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("a third hash waits until its caller gives up: %v", err)
	}
	p.waiting.Store(hashesWaiting)
	var e *spec.Error
	if _, err := p.hash(t.Context(), "x"); !errors.As(err, &e) || e.Code != spec.CodeLimitExceeded || e.RetryAfter == 0 {
		t.Errorf("a full queue refuses with a time to come back: %v", err)
	}
	p.release()
	p.release()
	if _, err := p.hash(t.Context(), "x"); err != nil {
		t.Errorf("a free slot is taken at once, whoever waits: %v", err)
	}
}
