package server

import (
	"context"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"atoll/spec"
	"atoll/storage"
)

// JWTOptions says by which JSON web tokens users log in. The zero value accepts
// none.
type JWTOptions struct {
	// Algorithm is the only one that is accepted, as in HS256.
	Algorithm string
	// Key is the secret, a []byte, or the public key; nil switches JWT off.
	Key any
	// Issuer is who must have issued the token; empty for anybody.
	Issuer string
	// Audiences are those for one of which the token must be; empty for any.
	Audiences []string
	// Subject is the claim with the user's localpart; empty means sub.
	Subject string
}

// jwtMost bounds a token, in bytes.
const jwtMost = 16 << 10

// jwtUsers knows the users of JSON web tokens.
type jwtUsers struct {
	options JWTOptions
	parser  *jwt.Parser
	server  spec.ServerName
}

func newJWTUsers(o JWTOptions, server spec.ServerName, now func() time.Time) *jwtUsers {
	if o.Key == nil {
		return nil
	}
	// The algorithm is never taken from the token.
	checks := []jwt.ParserOption{jwt.WithValidMethods([]string{o.Algorithm}), jwt.WithTimeFunc(now)}
	if o.Issuer != "" {
		checks = append(checks, jwt.WithIssuer(o.Issuer))
	}
	if len(o.Audiences) > 0 {
		checks = append(checks, jwt.WithAudience(o.Audiences...))
	}
	o.Subject = orDefault(o.Subject, "sub")
	return &jwtUsers{options: o, parser: jwt.NewParser(checks...), server: server}
}

// user returns whose token it is.
func (j *jwtUsers) user(token Secret) (spec.UserID, error) {
	if len(token) > jwtMost {
		return "", errors.New("the token is too long")
	}
	claims := jwt.MapClaims{}
	if _, err := j.parser.ParseWithClaims(string(token), claims, func(*jwt.Token) (any, error) { return j.options.Key, nil }); err != nil {
		return "", err
	}
	subject, _ := claims[j.options.Subject].(string)
	if subject == "" {
		return "", errors.New("the token names no user")
	}
	return spec.NewUserID(lowerASCII(subject), j.server)
}

// checkJWT implements stageChecker.
func (a *Accounts) checkJWT(_ context.Context, token Secret) (spec.UserID, bool, error) {
	if a.jwt == nil {
		return "", false, nil
	}
	user, err := a.jwt.user(token)
	return user, err == nil, nil
}

// loginJWT logs the user of a JSON web token in. Who has no account yet gets one
// without a password. No specification covers it; clients know it from other
// homeservers.
func (a *Accounts) loginJWT(ctx context.Context, l Login) (NewSession, error) {
	if l.Token == "" {
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "token is missing")
	}
	user, err := a.jwt.user(l.Token)
	if err != nil {
		return NewSession{}, spec.Errorf(spec.CodeForbidden, err, "this token is not valid")
	}
	_, err = a.Account(ctx, user)
	if spec.CodeOf(err) == spec.CodeNotFound {
		made, err := a.create(ctx, newAccount{user: user, passwordless: true, login: l})
		if spec.CodeOf(err) != spec.CodeUserInUse { // else somebody was faster
			return made, err
		}
	} else if err != nil {
		return NewSession{}, err
	}
	return a.startSession(ctx, user, l, func(*storage.Tx, storage.UserRow) error { return nil })
}
