package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"atoll/spec"
	"atoll/storage"
)

const (
	// maxKeyObject bounds a key object, in bytes.
	maxKeyObject = 64 << 10
	// maxKeysPerAnswer bounds how many keys of each kind one object may list.
	maxKeysPerAnswer = 64
	// maxKeyValidity is how long keys are believed at most without being
	// confirmed. Spec: rooms/v5#signing-key-validity-period
	maxKeyValidity = 7 * 24 * time.Hour
)

// keyObject is what a server publishes about its keys.
// Spec: server-server-api#get_matrixkeyv2server
type keyObject struct {
	Server     spec.ServerName              `json:"server_name"`
	Keys       map[spec.KeyID]publishedKey  `json:"verify_keys"`
	OldKeys    map[spec.KeyID]oldPublicKey  `json:"old_verify_keys"`
	ValidUntil int64                        `json:"valid_until_ts"`
	Signatures map[string]map[string]string `json:"signatures,omitempty"`
}

type publishedKey struct {
	Key string `json:"key"`
}

type oldPublicKey struct {
	Key     string `json:"key"`
	Expired int64  `json:"expired_ts"`
}

// parseKeyObject reads the keys of a server out of an object that it has
// signed: the object must be about that server, carry at least one signature
// by a key that it lists as in use, and no bad one by such a key. Keys of
// unknown algorithms are left out. A key that is listed both as in use and as
// old counts as old.
//
// Spec: server-server-api#publishing-keys
func parseKeyObject(name spec.ServerName, raw []byte, now time.Time) ([]storage.ServerKey, error) {
	var object keyObject
	if len(raw) > maxKeyObject {
		return nil, errAnswerTooLarge
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	if object.Server != name {
		return nil, fmt.Errorf("the keys are those of %q", object.Server)
	}
	if len(object.Keys) > maxKeysPerAnswer || len(object.OldKeys) > maxKeysPerAnswer {
		return nil, errors.New("too many keys")
	}
	if object.ValidUntil <= 0 {
		return nil, errors.New("no time of validity")
	}
	fetched := now.UnixMilli()
	validUntil := min(object.ValidUntil, now.Add(maxKeyValidity).UnixMilli())
	keys := make(map[spec.KeyID]storage.ServerKey)
	for id, k := range object.Keys {
		if public, ok := decodeKey(id, k.Key); ok {
			keys[id] = storage.ServerKey{Server: name, ID: id, Public: public, ValidUntil: validUntil, Fetched: fetched, Answer: raw}
		}
	}
	if err := verifySelfSigned(name, raw, keys); err != nil {
		return nil, err
	}
	for id, k := range object.OldKeys {
		if public, ok := decodeKey(id, k.Key); ok && k.Expired > 0 {
			keys[id] = storage.ServerKey{Server: name, ID: id, Public: public, ValidUntil: k.Expired, Expired: k.Expired, Fetched: fetched, Answer: raw}
		}
	}
	out := make([]storage.ServerKey, 0, len(keys))
	for _, k := range keys {
		out = append(out, k)
	}
	return out, nil
}

func decodeKey(id spec.KeyID, text string) (ed25519.PublicKey, bool) {
	if _, err := spec.ParseKeyID(string(id)); err != nil || id.Algorithm() != "ed25519" {
		return nil, false
	}
	public, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	return public, err == nil && len(public) == ed25519.PublicKeySize
}

func verifySelfSigned(name spec.ServerName, raw []byte, keys map[spec.KeyID]storage.ServerKey) error {
	ids, err := spec.SignatureKeyIDs(raw, string(name))
	if err != nil {
		return err
	}
	signed := false
	for _, id := range ids {
		k, ok := keys[id]
		if !ok {
			continue
		}
		if err := spec.VerifyJSON(raw, string(name), id, k.Public); err != nil {
			return err
		}
		signed = true
	}
	if !signed {
		return errors.New("not signed by any of the keys in it")
	}
	return nil
}

// keyObjectServer returns the server that an object speaks of.
func keyObjectServer(raw []byte) (spec.ServerName, error) {
	var object struct {
		Server string `json:"server_name"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return "", err
	}
	return spec.ParseServerName(object.Server)
}

// fetchKeys asks a server for its keys. The request is not signed, as both sides
// may lack the other's keys. Spec: server-server-api#get_matrixkeyv2server
func (c *Client) fetchKeys(ctx context.Context, name spec.ServerName) (raw []byte, err error) {
	err = c.do(ctx, name, call{
		method: http.MethodGet, path: "/_matrix/key/v2/server", unsigned: true, timeout: keyTimeout, limit: maxKeyObject,
		read: func(r io.Reader) (err error) { raw, err = io.ReadAll(r); return err },
	})
	return raw, err
}

// queryKeys asks a notary for the keys of other servers.
// Spec: server-server-api#post_matrixkeyv2query
func (c *Client) queryKeys(ctx context.Context, notary spec.ServerName, want wanted) (objects [][]byte, err error) {
	type criteria struct {
		ValidUntil int64 `json:"minimum_valid_until_ts"`
	}
	query := make(map[spec.ServerName]map[spec.KeyID]criteria, len(want))
	for name, uses := range want {
		query[name] = make(map[spec.KeyID]criteria, len(uses))
		for id, use := range uses {
			query[name][id] = criteria{use.at}
		}
	}
	body, err := json.Marshal(map[string]any{"server_keys": query})
	if err != nil {
		return nil, err
	}
	err = c.do(ctx, notary, call{
		method: http.MethodPost, path: "/_matrix/key/v2/query", body: body, limit: eventsAnswer,
		read: func(r io.Reader) error { return readEvents(r, map[string]*[][]byte{"server_keys": &objects}) },
	})
	return objects, err
}

// VerifyEvents implements server.Remote.
func (c *Client) VerifyEvents(ctx context.Context, events []*spec.Event) []error {
	return c.keys.VerifyEvents(ctx, events)
}
