package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// RegistrationMode says who may make an account.
type RegistrationMode string

// The registration modes. The zero value is closed.
const (
	RegistrationClosed RegistrationMode = "closed"
	RegistrationOpen   RegistrationMode = "open"
	// RegistrationToken asks for a registration token.
	RegistrationToken RegistrationMode = "token"
)

// RegistrationOptions says who may make an account. The zero value lets nobody.
type RegistrationOptions struct {
	Mode RegistrationMode
	// SharedSecret lets whoever knows it make accounts, administrators too,
	// whatever the mode; empty for nobody.
	SharedSecret Secret
	// Guests may make accounts without a password.
	Guests bool
	// Policies are the documents that whoever makes an account has to accept.
	Policies []Policy
	// Exclusive tells whether a user id is reserved to an application service;
	// nil if none is.
	Exclusive func(spec.UserID) bool
}

// Policy is a document in one language. Those with the same id are the same in
// several languages and have the same version.
type Policy struct{ ID, Version, Language, Name, URL string }

// stages are what somebody has to go through to make an account.
func (o RegistrationOptions) stages() []string {
	var stages []string
	if o.Mode == RegistrationToken {
		stages = append(stages, StageRegistrationToken)
	}
	if len(o.Policies) > 0 {
		stages = append(stages, StageTerms)
	}
	if len(stages) == 0 {
		stages = append(stages, StageDummy)
	}
	return stages
}

// params is what clients need to know of the stages.
// Spec: client-server-api#terms-of-service-at-registration
func (o RegistrationOptions) params() map[string]any {
	if len(o.Policies) == 0 {
		return nil
	}
	policies := map[string]map[string]any{}
	for _, p := range o.Policies {
		if policies[p.ID] == nil {
			policies[p.ID] = map[string]any{"version": p.Version}
		}
		policies[p.ID][p.Language] = map[string]string{"name": p.Name, "url": p.URL}
	}
	return map[string]any{StageTerms: map[string]any{"policies": policies}}
}

// Register is a request for an account. Spec: client-server-api#legacy-account-registration
type Register struct {
	Username string `json:"username"`
	Password Secret `json:"password"`
	// Device, DeviceName: see Login.
	Device       string   `json:"device_id"`
	DeviceName   *string  `json:"initial_device_display_name"`
	RefreshToken bool     `json:"refresh_token"`
	InhibitLogin bool     `json:"inhibit_login"`
	Auth         *UIAAuth `json:"auth"`
	// Guest asks for a guest account; of the rest only DeviceName and RefreshToken
	// count then.
	Guest bool `json:"-"`
}

// Register makes an account. The errors are those of a bad name (see
// CheckUsername), M_FORBIDDEN where the mode does not allow it, those of
// UIA.Authorize, and those of a password that is missing or not accepted.
// Spec: client-server-api#post_matrixclientv3register
func (a *Accounts) Register(ctx context.Context, r Register) (NewSession, error) {
	if r.Guest {
		return a.registerGuest(ctx, r)
	}
	if a.registration.closed() {
		return NewSession{}, errRegistrationClosed()
	}
	user, err := a.newUser(ctx, r.Username)
	if err != nil {
		return NewSession{}, err
	}
	if r.Password != "" { // with none, the client may only be asking for the flows
		if err := a.passwords.checkNew(r.Password); err != nil {
			return NewSession{}, err
		}
	}
	login := Login{Device: r.Device, DeviceName: r.DeviceName, RefreshToken: r.RefreshToken}
	if err := login.checkDevice(); err != nil {
		return NewSession{}, err
	}
	// Clients send the name only with the last request, so the session is not
	// bound to it: all that it authorises is one account.
	grant, err := a.uia.Authorize(ctx, UIARequest{
		Operation: "register", Flows: [][]string{a.registration.stages()}, Params: a.registration.params(), Auth: r.Auth,
	})
	if err != nil {
		return NewSession{}, err
	}
	made, err := a.create(ctx, newAccount{user: user, password: r.Password, token: grant.RegistrationToken, login: login, inhibitLogin: r.InhibitLogin})
	if err == nil {
		a.finish(ctx, grant.Session)
	}
	return made, err
}

func (a *Accounts) registerGuest(ctx context.Context, r Register) (NewSession, error) {
	if !a.registration.Guests {
		return NewSession{}, spec.Errorf(spec.CodeForbidden, nil, "guests are not admitted here")
	}
	user, err := a.newUser(ctx, "")
	if err != nil {
		return NewSession{}, err
	}
	login := Login{DeviceName: r.DeviceName, RefreshToken: r.RefreshToken}
	if err := login.checkDevice(); err != nil {
		return NewSession{}, err
	}
	return a.create(ctx, newAccount{user: user, guest: true, login: login})
}

func (o RegistrationOptions) closed() bool {
	return o.Mode != RegistrationOpen && o.Mode != RegistrationToken
}

func errRegistrationClosed() error {
	return spec.Errorf(spec.CodeForbidden, nil, "registration is closed on this server")
}

// CheckUsername tells whether somebody could register the name now: nil, or
// M_INVALID_USERNAME, M_EXCLUSIVE or M_USER_IN_USE; M_FORBIDDEN where nobody can
// register. It reserves nothing.
// Spec: client-server-api#get_matrixclientv3registeravailable
func (a *Accounts) CheckUsername(ctx context.Context, username string) error {
	if a.registration.closed() {
		return errRegistrationClosed()
	}
	if username == "" {
		return spec.Errorf(spec.CodeInvalidUsername, nil, "the user name is empty")
	}
	_, err := a.newUser(ctx, username)
	return err
}

// newUser returns the user id for a name that somebody wants, if it can be had,
// or makes one up if the name is empty. Capitals become small letters.
func (a *Accounts) newUser(ctx context.Context, username string) (spec.UserID, error) {
	if username == "" {
		return spec.NewUserID("u"+strings.ToLower(rand.Text()[:12]), a.name)
	}
	// Some clients send the full user id.
	if full, err := spec.ParseUserID(username); err == nil && a.local(full) {
		username = full.Localpart()
	}
	user, err := spec.NewUserID(lowerASCII(username), a.name)
	if err != nil {
		return "", spec.Errorf(spec.CodeInvalidUsername, err, "user names consist of a-z, 0-9 and ._=-/+ and are not too long")
	}
	if a.registration.Exclusive != nil && a.registration.Exclusive(user) {
		return "", spec.Errorf(spec.CodeExclusive, nil, "this user name is reserved to an application service")
	}
	err = a.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.User(user)
		return err
	})
	if err == nil {
		return "", errUserInUse()
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return "", fmt.Errorf("look up %s: %w", user, err)
	}
	return user, nil
}

func errUserInUse() error { return spec.Errorf(spec.CodeUserInUse, nil, "this user name is taken") }

// lowerASCII leaves other capitals alone, so that they are refused and not
// turned into letters that somebody else may own.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// newAccount is an account about to be made, with everything decided.
type newAccount struct {
	user         spec.UserID
	guest, admin bool
	passwordless bool // it is logged into in another way; guests are never
	password     Secret
	displayName  string
	// token is the registration token to be used up; empty if none is.
	token        Secret
	login        Login
	inhibitLogin bool
}

// create writes an account and its first session.
func (a *Accounts) create(ctx context.Context, n newAccount) (NewSession, error) {
	row := storage.UserRow{User: n.user, Guest: n.guest, Admin: n.admin, Created: a.ms()}
	if !n.guest && !n.passwordless {
		if err := a.passwords.checkNew(n.password); err != nil {
			return NewSession{}, err
		}
		var err error
		if row.PasswordHash, err = a.passwords.hash(ctx, n.password); err != nil {
			return NewSession{}, err
		}
	}
	made := NewSession{User: n.user}
	err := a.write(ctx, func(tx *storage.Tx) (entries []storage.LogEntry, err error) {
		if err := a.insertAccount(tx, n, row); err != nil || n.inhibitLogin {
			return nil, err
		}
		made, entries, err = a.insertSession(tx, n.user, n.login)
		return entries, err
	})
	if err != nil {
		return NewSession{}, fault(err, "create %s", n.user)
	}
	return made, nil
}

// insertAccount writes an account and uses up its registration token.
func (a *Accounts) insertAccount(tx *storage.Tx, n newAccount, row storage.UserRow) error {
	if n.token != "" {
		// One that was lost in a race is refused like a wrong one.
		if err := tx.UseRegistrationToken(string(n.token), a.ms()); errors.Is(err, storage.ErrNotFound) {
			return spec.Errorf(spec.CodeForbidden, nil, "this registration token is not valid any more")
		} else if err != nil {
			return err
		}
	}
	if err := tx.InsertUser(row); errors.Is(err, storage.ErrConstraint) {
		return errUserInUse()
	} else if err != nil || n.displayName == "" {
		return err
	}
	return tx.PutProfileField(n.user, storage.ProfileField{Name: profileDisplayName, Value: quoteJSON(n.displayName)})
}

// RegistrationTokenValid tells whether a registration token would be taken now;
// M_FORBIDDEN where nobody can register.
// Spec: client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity
func (a *Accounts) RegistrationTokenValid(ctx context.Context, token Secret) (bool, error) {
	if a.registration.closed() {
		return false, errRegistrationClosed()
	}
	return a.checkRegistrationToken(ctx, token)
}

// checkRegistrationToken implements stageChecker.
func (a *Accounts) checkRegistrationToken(ctx context.Context, token Secret) (bool, error) {
	if token == "" || !storable(string(token)) {
		return false, nil
	}
	var valid bool
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		valid, err = tx.RegistrationTokenValid(string(token), a.ms())
		return err
	})
	return valid, err
}

// NewRegistrationToken is a registration token to be made.
type NewRegistrationToken struct {
	// Token is its text; empty makes one up.
	Token Secret
	// Uses is how many accounts it is good for; 0 for any number.
	Uses int64
	// Expires is when it ends; the zero time for never.
	Expires time.Time
}

// CreateRegistrationToken makes a registration token and returns its text. It is
// for the operator. M_INVALID_PARAM for one that exists or is not well-formed.
// Spec: client-server-api#token-authenticated-registration
func (a *Accounts) CreateRegistrationToken(ctx context.Context, t NewRegistrationToken) (Secret, error) {
	t.Token = orDefault(t.Token, Secret(rand.Text()))
	// The grammar of opaque identifiers.
	if len(t.Token) > 64 || strings.Trim(string(t.Token), "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~") != "" {
		return "", spec.Errorf(spec.CodeInvalidParam, nil, "registration tokens are up to 64 letters, digits and -._~")
	}
	row := storage.RegistrationTokenRow{Token: string(t.Token), UsesMax: t.Uses, Created: a.ms()}
	if !t.Expires.IsZero() {
		row.Expires = t.Expires.UnixMilli()
	}
	err := a.db.Write(ctx, func(tx *storage.Tx) error { return tx.InsertRegistrationToken(row) })
	if errors.Is(err, storage.ErrConstraint) {
		return "", spec.Errorf(spec.CodeInvalidParam, nil, "this registration token exists already")
	}
	return t.Token, err
}

// SharedSecretRegister is a request by somebody who knows the shared secret, in
// the form that the tools of other homeservers send.
type SharedSecretRegister struct {
	Nonce       string  `json:"nonce"`
	Username    string  `json:"username"`
	DisplayName string  `json:"displayname"`
	Password    Secret  `json:"password"`
	Admin       bool    `json:"admin"`
	UserType    *string `json:"user_type"`
	// MAC is HMAC-SHA1 under the secret, in hex, over nonce, name, password,
	// "admin" or "notadmin" and the user type if there is one, with NULs between.
	MAC          string `json:"mac"`
	InhibitLogin bool   `json:"inhibit_login"`
}

// Nonce returns a value for one SharedSecretRegister within the next minute.
func (a *Accounts) Nonce() (string, error) {
	if a.registration.SharedSecret == "" {
		return "", errNoSharedSecret()
	}
	return a.nonces.issue(), nil
}

func errNoSharedSecret() error {
	return badRequest(spec.CodeUnknown, "registration by shared secret is not enabled")
}

// RegisterShared makes an account for somebody who knows the shared secret.
// No specification covers it.
func (a *Accounts) RegisterShared(ctx context.Context, r SharedSecretRegister) (NewSession, error) {
	switch {
	case a.registration.SharedSecret == "":
		return NewSession{}, errNoSharedSecret()
	case r.Username == "" || r.Password == "" || r.Nonce == "" || r.MAC == "":
		return NewSession{}, spec.Errorf(spec.CodeMissingParam, nil, "nonce, username, password and mac are needed")
	case !a.nonces.use(r.Nonce):
		return NewSession{}, badRequest(spec.CodeUnknown, "this nonce is not known")
	}
	given, err := hex.DecodeString(r.MAC)
	if err != nil || !hmac.Equal(given, r.mac(a.registration.SharedSecret)) {
		return NewSession{}, spec.Errorf(spec.CodeForbidden, nil, "the mac is not right")
	}
	user, err := a.newUser(ctx, r.Username)
	if err != nil {
		return NewSession{}, err
	}
	if err := checkDisplayName(r.DisplayName); err != nil {
		return NewSession{}, err
	}
	return a.create(ctx, newAccount{
		user: user, admin: r.Admin, password: r.Password, displayName: r.DisplayName, inhibitLogin: r.InhibitLogin,
	})
}

func (r SharedSecretRegister) mac(secret Secret) []byte {
	role := "notadmin"
	if r.Admin {
		role = "admin"
	}
	parts := []string{r.Nonce, r.Username, string(r.Password), role}
	if r.UserType != nil {
		parts = append(parts, *r.UserType)
	}
	h := hmac.New(sha1.New, []byte(secret))
	h.Write([]byte(strings.Join(parts, "\x00")))
	return h.Sum(nil)
}

// CreateUser makes an account for the operator's command line: no questions, no
// session. The errors are those of a bad name or password.
func (a *Accounts) CreateUser(ctx context.Context, c CreateUser) (spec.UserID, error) {
	if c.Username == "" {
		return "", spec.Errorf(spec.CodeInvalidUsername, nil, "the user name is empty")
	}
	user, err := a.newUser(ctx, c.Username)
	if err != nil {
		return "", err
	}
	_, err = a.create(ctx, newAccount{user: user, admin: c.Admin, password: c.Password, inhibitLogin: true})
	return user, err
}

// CreateUser is an account to be made by the operator.
type CreateUser struct {
	Username string
	Password Secret
	Admin    bool
}

const (
	nonceLifetime = time.Minute
	noncesAtMost  = 1000
)

// nonces are values that can be used once, soon. It is safe for concurrent use.
type nonces struct {
	now func() time.Time

	mu     sync.Mutex // mu guards issued
	issued map[string]time.Time
}

func newNonces(now func() time.Time) *nonces {
	return &nonces{now: now, issued: make(map[string]time.Time)}
}

func (n *nonces) issue() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	for nonce, at := range n.issued {
		if now.Sub(at) >= nonceLifetime || len(n.issued) >= noncesAtMost {
			delete(n.issued, nonce)
		}
	}
	nonce := rand.Text()
	n.issued[nonce] = now
	return nonce
}

func (n *nonces) use(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.issued[nonce]
	delete(n.issued, nonce)
	return ok && n.now().Sub(at) < nonceLifetime
}
