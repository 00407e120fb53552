package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
	"atoll/storage"
)

// The profile fields that rooms show.
const (
	profileDisplayName = "displayname"
	profileAvatarURL   = "avatar_url"
)

const (
	// maxProfileBytes bounds the whole profile as a JSON object.
	maxProfileBytes = 64 << 10
	// maxProfileKey is the length of a field's name in bytes.
	maxProfileKey = 255
	// maxDisplayName is in characters, maxAvatarURL in bytes. Both go into the
	// membership events of every room, so they are far below what a profile holds.
	maxDisplayName = 256
	maxAvatarURL   = 1000
	// remoteQueryTime is how long a client waits for what another server knows.
	remoteQueryTime = 20 * time.Second
)

// Profile is the fields of a user's profile as JSON values by name.
type Profile map[string]jsontext.Value

// DisplayName returns the display name, empty if there is none.
func (p Profile) DisplayName() string { return p.text(profileDisplayName) }

// AvatarURL returns the avatar's URL, empty if there is none.
func (p Profile) AvatarURL() string { return p.text(profileAvatarURL) }

func (p Profile) text(name string) string {
	var s string
	if err := json.Unmarshal(p[name], &s); err != nil {
		return ""
	}
	return s
}

// ProfileChange is a change to what rooms show of a local user.
type ProfileChange struct {
	User spec.UserID
	// DisplayName and AvatarURL are what the profile has since the change;
	// empty where it has none. A later change may be under way already.
	DisplayName, AvatarURL string
}

// ProfileChanged brings a change into the membership events of the rooms that
// the user is joined to. It is called after the change was committed and before
// the client is answered.
type ProfileChanged func(context.Context, ProfileChange) error

// Profiles knows the profiles of local users and asks for those of others. It
// is safe for concurrent use.
//
// Spec: client-server-api#profiles
type Profiles struct {
	*base
	changed ProfileChanged
}

// newProfiles makes the part; changed may be nil.
func newProfiles(b *base, changed ProfileChanged) *Profiles {
	return &Profiles{base: b, changed: changed}
}

// Get returns the whole profile of any user. M_NOT_FOUND for unknown and
// deactivated ones; what a remote server answers is M_NOT_FOUND, M_FORBIDDEN or
// M_UNKNOWN with 502.
// Spec: client-server-api#get_matrixclientv3profileuserid
func (p *Profiles) Get(ctx context.Context, user spec.UserID) (Profile, error) {
	if !p.local(user) {
		return p.query(ctx, user, "")
	}
	return p.Local(ctx, user)
}

// Field returns one field of any user's profile, with the errors of Get, and
// M_NOT_FOUND if it is not set.
// Spec: client-server-api#get_matrixclientv3profileuseridkeyname
func (p *Profiles) Field(ctx context.Context, user spec.UserID, name string) (jsontext.Value, error) {
	if err := checkProfileKey(name); err != nil {
		return nil, err
	}
	var profile Profile
	var err error
	if p.local(user) {
		profile, err = p.Local(ctx, user)
	} else {
		profile, err = p.query(ctx, user, name)
	}
	if err != nil {
		return nil, err
	}
	if value, ok := profile[name]; ok {
		return value, nil
	}
	return nil, spec.Errorf(spec.CodeNotFound, nil, "the profile has no such field")
}

// Local returns the profile of a local user; M_NOT_FOUND for any other.
func (p *Profiles) Local(ctx context.Context, user spec.UserID) (Profile, error) {
	var profile Profile
	err := p.db.Read(ctx, func(tx *storage.Tx) error {
		account, err := tx.User(user)
		if err != nil {
			return err
		}
		if account.Deactivated != 0 {
			return storage.ErrNotFound
		}
		profile, err = readProfile(tx, user)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, spec.Errorf(spec.CodeNotFound, nil, "there is no such user")
	}
	if err != nil {
		return nil, fmt.Errorf("profile of %s: %w", user, err)
	}
	return profile, nil
}

func readProfile(tx *storage.Tx, user spec.UserID) (Profile, error) {
	fields, err := tx.Profile(user)
	profile := make(Profile, len(fields))
	for _, f := range fields {
		profile[f.Name] = f.Value
	}
	return profile, err
}

// SetProfileField changes one field of a profile.
type SetProfileField struct {
	By   Session
	User spec.UserID
	Name string
	// Value is JSON; nil removes the field.
	Value jsontext.Value
}

// Set changes or removes a field. Errors: M_FORBIDDEN for another user's
// profile, M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE, M_INVALID_PARAM for a bad name
// or value.
// Spec: client-server-api#put_matrixclientv3profileuseridkeyname
func (p *Profiles) Set(ctx context.Context, s SetProfileField) error {
	if err := s.check(); err != nil {
		return err
	}
	var before, after Profile
	err := p.write(ctx, func(tx *storage.Tx) (entries []storage.LogEntry, err error) {
		if before, err = readProfile(tx, s.User); err != nil {
			return nil, err
		}
		after, err = writeProfileField(tx, s, before)
		return []storage.LogEntry{{Kind: storage.LogProfile, User: s.User, Text: s.Name}}, err
	})
	if err != nil {
		return fault(err, "set %s of the profile of %s", s.Name, s.User)
	}
	change := ProfileChange{User: s.User, DisplayName: after.DisplayName(), AvatarURL: after.AvatarURL()}
	if p.changed == nil || (change.DisplayName == before.DisplayName() && change.AvatarURL == before.AvatarURL()) {
		return nil
	}
	// The profile is changed already, so what fails in rooms does not make the
	// request fail.
	if err := p.changed(ctx, change); err != nil {
		p.log.Error("a profile change was not brought into rooms", "user", s.User, "err", err)
	}
	return nil
}

// check refuses what need not be looked up, and turns the old ways of removing
// a name or avatar into a nil value.
func (s *SetProfileField) check() error {
	if s.User != s.By.User {
		return spec.Errorf(spec.CodeForbidden, nil, "this is another user's profile")
	}
	if err := s.By.CheckNotSuspended(); err != nil {
		return err
	}
	if err := checkProfileKey(s.Name); err != nil {
		return err
	}
	if len(s.Value) > maxProfileBytes {
		return errProfileTooLarge()
	}
	if s.Value != nil && !s.Value.IsValid() {
		return spec.Errorf(spec.CodeBadJSON, nil, "the value is not valid JSON")
	}
	if s.Value == nil || (s.Name != profileDisplayName && s.Name != profileAvatarURL) {
		return nil
	}
	if k := s.Value.Kind(); k != '"' && k != 'n' {
		return spec.Errorf(spec.CodeInvalidParam, nil, "%s is a string", s.Name)
	}
	text := Profile{s.Name: s.Value}.text(s.Name)
	if text == "" {
		s.Value = nil
	}
	if s.Name == profileDisplayName {
		return checkDisplayName(text)
	}
	if len(text) > maxAvatarURL {
		return spec.Errorf(spec.CodeInvalidParam, nil, "the avatar's URL is longer than %d bytes", maxAvatarURL)
	}
	return nil
}

func checkDisplayName(name string) error {
	if utf8.RuneCountInString(name) > maxDisplayName {
		return spec.Errorf(spec.CodeInvalidParam, nil, "the display name is longer than %d characters", maxDisplayName)
	}
	return nil
}

// writeProfileField changes one field of the stored profile, which is before,
// and returns what it is after.
func writeProfileField(tx *storage.Tx, s SetProfileField, before Profile) (Profile, error) {
	after := maps.Clone(before)
	if s.Value == nil {
		delete(after, s.Name)
		return after, tx.DeleteProfileField(s.User, s.Name)
	}
	after[s.Name] = s.Value
	if after.size() > maxProfileBytes {
		return nil, errProfileTooLarge()
	}
	return after, tx.PutProfileField(s.User, storage.ProfileField{Name: s.Name, Value: s.Value})
}

// size is the length of the profile as a JSON object.
func (p Profile) size() int {
	n := len("{}")
	for name, value := range p {
		n += len(`"":,`) + len(name) + len(value)
	}
	return n
}

func errProfileTooLarge() error {
	return spec.Errorf(spec.CodeProfileTooLarge, nil, "the profile would exceed %d bytes", maxProfileBytes)
}

// checkProfileKey applies the grammar of field names.
// Spec: appendices#common-namespaced-identifier-grammar
func checkProfileKey(name string) error {
	if len(name) > maxProfileKey {
		return spec.Errorf(spec.CodeKeyTooLarge, nil, "the field's name is longer than %d bytes", maxProfileKey)
	}
	const letters = "abcdefghijklmnopqrstuvwxyz"
	if name == "" || strings.IndexByte(letters, name[0]) < 0 || strings.Trim(name, letters+"0123456789-_.") != "" {
		return spec.Errorf(spec.CodeInvalidParam, nil, "this is no valid name of a profile field")
	}
	return nil
}

// query asks the user's server. An empty field asks for all.
func (p *Profiles) query(ctx context.Context, user spec.UserID, field string) (Profile, error) {
	if p.remote == nil {
		return nil, spec.Errorf(spec.CodeNotFound, nil, "this server does not talk to others")
	}
	ctx, cancel := context.WithTimeout(ctx, remoteQueryTime)
	defer cancel()
	raw, err := p.remote.QueryProfile(ctx, user, field)
	if err != nil {
		return nil, remoteFailure(err, "the profile could not be had from its server")
	}
	if len(raw) > 2*maxProfileBytes {
		return nil, badGateway(errors.New("the profile is too large"), "the profile could not be had from its server")
	}
	var profile Profile
	if err := json.Unmarshal(raw, &profile); err != nil {
		return nil, badGateway(err, "the profile could not be had from its server")
	}
	for _, name := range []string{profileDisplayName, profileAvatarURL} {
		if v, ok := profile[name]; ok && v.Kind() != '"' {
			delete(profile, name)
		}
	}
	return profile, nil
}

// remoteFailure is what a client is told when another server was asked on its
// behalf in vain: its "not found" and "forbidden" as such, anything else as a
// bad gateway with the given text.
func remoteFailure(err error, msg string) error {
	if answer, ok := RemoteAnswer(err); ok {
		switch answer.HTTPStatus() {
		case 404:
			return spec.Errorf(spec.CodeNotFound, err, "not found on the other server")
		case 403:
			return spec.Errorf(spec.CodeForbidden, err, "the other server refused")
		}
	}
	return badGateway(err, msg)
}

func badGateway(cause error, msg string) error {
	return &spec.Error{Code: spec.CodeUnknown, Msg: msg, Err: cause, Status: 502}
}

// quoteJSON returns a string as JSON.
func quoteJSON(s string) jsontext.Value {
	quoted, _ := jsontext.AppendQuote(nil, s) // invalid UTF-8 is replaced
	return quoted
}
