package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"atoll/spec"
	"atoll/storage"
)

const (
	// filtersAtMost is how many filters a user may have stored; the oldest go.
	filtersAtMost = 1000
	// parsedFilters bounds the filters kept in parsed form, parsedBytes the
	// content of each: larger ones are parsed every time.
	parsedFilters = 2000
	parsedBytes   = 4 << 10
)

// Filters keeps the filters that clients store, each content once for a user.
// It is safe for concurrent use.
//
// Spec: client-server-api#filtering
type Filters struct {
	*base

	mu     sync.Mutex // mu guards parsed
	parsed *recent[filterKey, *Filter]
}

type filterKey struct {
	user spec.UserID
	id   string
}

func newFilters(b *base) *Filters {
	return &Filters{base: b, parsed: newRecent[filterKey, *Filter](parsedFilters)}
}

// Create stores a filter and returns its id. The errors are those of
// ParseFilter. Spec: client-server-api#post_matrixclientv3useruseridfilter
func (f *Filters) Create(ctx context.Context, user spec.UserID, raw []byte) (string, error) {
	if _, err := ParseFilter(raw); err != nil {
		return "", err
	}
	content, err := spec.Canonical(raw)
	if err != nil { // numbers that canonical JSON lacks, in members that nobody reads
		compact := jsontext.Value(append([]byte(nil), raw...))
		if err := compact.Compact(); err != nil {
			return "", badJSON(err)
		}
		content = compact
	}
	sum := sha256.Sum256(content)
	id := base64.RawURLEncoding.EncodeToString(sum[:18])
	err = f.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := tx.Filter(user, id)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		row := storage.FilterRow{User: user, ID: id, Content: content, Used: f.ms()}
		err = f.db.Write(ctx, func(tx *storage.Tx) error { return tx.PutFilter(row, filtersAtMost) })
	}
	if err != nil {
		return "", fmt.Errorf("store a filter of %s: %w", user, err)
	}
	return id, nil
}

// Get returns a stored filter as JSON; M_NOT_FOUND if the user has none of that
// id. Spec: client-server-api#get_matrixclientv3useruseridfilterfilterid
func (f *Filters) Get(ctx context.Context, user spec.UserID, id string) ([]byte, error) {
	if !storable(id) {
		return nil, errNoFilter()
	}
	var content []byte
	err := f.db.Read(ctx, func(tx *storage.Tx) (err error) {
		content, err = tx.Filter(user, id)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errNoFilter()
	}
	if err != nil {
		return nil, fmt.Errorf("filter of %s: %w", user, err)
	}
	return content, nil
}

func errNoFilter() error { return spec.Errorf(spec.CodeNotFound, nil, "there is no such filter") }

// Load returns the filter that a request names: JSON if it begins with a brace,
// else the id of a stored one. An empty text is the filter that lets everything
// pass. The errors are those of ParseFilter and Get.
// Spec: client-server-api#get_matrixclientv3sync
func (f *Filters) Load(ctx context.Context, user spec.UserID, text string) (*Filter, error) {
	if text == "" {
		return &Filter{}, nil
	}
	if strings.HasPrefix(text, "{") {
		return ParseFilter([]byte(text))
	}
	key := filterKey{user, text}
	f.mu.Lock()
	filter, ok := f.parsed.get(key)
	f.mu.Unlock()
	if ok {
		return filter, nil
	}
	raw, err := f.Get(ctx, user, text)
	if err != nil {
		return nil, err
	}
	if filter, err = ParseFilter(raw); err != nil {
		return nil, fmt.Errorf("stored filter %s of %s: %w", text, user, err)
	}
	if len(raw) <= parsedBytes {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.parsed.put(key, filter)
	}
	return filter, nil
}
