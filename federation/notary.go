package federation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"atoll/spec"
	"atoll/storage"
)

// maxNotaryServers bounds how many servers one query may name, as each may cost
// a request to that server.
const maxNotaryServers = 100

// KeyQuery names keys that somebody wants of this server as a notary: by server
// and key id the time, ms, until which the key should be valid. A server without
// key ids stands for all of its keys; the empty key id then has the time. The
// time 0 means now.
type KeyQuery map[spec.ServerName]map[spec.KeyID]int64

// ParseKeyQuery reads the body of POST /_matrix/key/v2/query. Errors are meant
// for the peer.
// Spec: server-server-api#post_matrixkeyv2query
func ParseKeyQuery(body []byte) (KeyQuery, error) {
	var request struct {
		Servers map[string]map[string]struct {
			ValidUntil int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if !jsontext.Value(body).IsValid() {
		return nil, spec.Errorf(spec.CodeNotJSON, nil, "the body is not JSON")
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, spec.Errorf(spec.CodeBadJSON, err, "the body is not a key query")
	}
	if request.Servers == nil {
		return nil, spec.Errorf(spec.CodeMissingParam, nil, "server_keys is missing")
	}
	if len(request.Servers) > maxNotaryServers {
		return nil, spec.Errorf(spec.CodeInvalidParam, nil, "at most %d servers can be asked for at once", maxNotaryServers)
	}
	query := make(KeyQuery, len(request.Servers))
	for text, keys := range request.Servers {
		name, err := spec.ParseServerName(text)
		if err != nil {
			return nil, spec.Errorf(spec.CodeInvalidParam, err, "server_keys names something that is no server")
		}
		query[name] = make(map[spec.KeyID]int64, len(keys))
		for id, criteria := range keys {
			query[name][spec.KeyID(id)] = criteria.ValidUntil
		}
	}
	return query, nil
}

// Notary answers for the keys of other servers.
// Spec: server-server-api#querying-keys-through-another-server
type Notary struct {
	ring *KeyRing
	name spec.ServerName
	own  *PublishedKeys
}

// NewNotary makes the notary that signs as the published keys' server.
func NewNotary(ring *KeyRing, own *PublishedKeys) *Notary {
	return &Notary{ring: ring, name: own.name, own: own}
}

// Answer returns the body of an answer: the objects in which the wanted keys were
// published, with this server's signature added. Keys that are not known, or not
// for long enough, are fetched within the bounds of the ring; what cannot be had
// is answered from before, or left out.
func (n *Notary) Answer(ctx context.Context, query KeyQuery) ([]byte, error) {
	var mu sync.Mutex // guards objects
	objects := []jsontext.Value{}
	var g errgroup.Group
	g.SetLimit(maxKeyFetches)
	for name, ids := range query {
		g.Go(func() error {
			found, err := n.objects(ctx, name, ids)
			mu.Lock()
			defer mu.Unlock()
			objects = append(objects, found...)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return json.Marshal(map[string][]jsontext.Value{"server_keys": objects})
}

// objects returns the signed objects of one server, each once.
func (n *Notary) objects(ctx context.Context, name spec.ServerName, ids map[spec.KeyID]int64) ([]jsontext.Value, error) {
	if name == n.name {
		object, err := n.own.Object()
		return []jsontext.Value{object}, err
	}
	keys, err := n.stored(ctx, name)
	if err != nil {
		return nil, err
	}
	if n.stale(keys, ids) {
		// If this does not succeed, what is known is given.
		if _, err := n.ring.refresh(ctx, name); err == nil {
			if keys, err = n.stored(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	objects := make(map[string]bool) // objects
	for id, k := range keys {
		if wantsKey(ids, id) {
			objects[string(k.Answer)] = true
		}
	}
	out := make([]jsontext.Value, 0, len(objects))
	for object := range objects {
		signed, err := spec.SignJSON([]byte(object), string(n.name), n.own.keys.Active)
		if err != nil {
			return nil, fmt.Errorf("stored keys of %s: %w", name, err)
		}
		out = append(out, signed)
	}
	slices.SortFunc(out, func(a, b jsontext.Value) int { return strings.Compare(string(a), string(b)) })
	return out, nil
}

// stored reads the keys from the store, which has the objects.
func (n *Notary) stored(ctx context.Context, name spec.ServerName) (serverKeys, error) {
	list, err := n.ring.store.ServerKeys(ctx, []spec.ServerName{name})
	keys := make(serverKeys, len(list))
	for _, k := range list {
		keys[k.ID] = k
	}
	return keys, err
}

func wantsKey(ids map[spec.KeyID]int64, id spec.KeyID) bool {
	if _, all := ids[""]; all || len(ids) == 0 {
		return true
	}
	_, ok := ids[id]
	return ok
}

// stale tells whether the server has to be asked: a wanted key is not known, or
// is in use but not known to be valid for long enough.
func (n *Notary) stale(keys serverKeys, ids map[spec.KeyID]int64) bool {
	short := func(k storage.ServerKey, until int64) bool {
		if until == 0 {
			until = n.ring.now().UnixMilli()
		}
		return k.Expired == 0 && k.ValidUntil < until
	}
	if until, all := ids[""]; all || len(ids) == 0 {
		for _, k := range keys {
			if k.Expired == 0 && !short(k, until) {
				return false
			}
		}
		return true
	}
	for id, until := range ids {
		if k, ok := keys[id]; !ok || short(k, until) {
			return true
		}
	}
	return false
}
