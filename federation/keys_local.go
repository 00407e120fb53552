package federation

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"atoll/spec"
	"atoll/storage"
)

// LocalKeys are the keys of this server.
type LocalKeys struct {
	// Active signs requests and events.
	Active spec.SigningKey
	// Old are keys that this server has used before.
	Old []OldKey
}

// OldKey is a key that this server no longer signs with.
type OldKey struct {
	ID     spec.KeyID
	Public ed25519.PublicKey
	// Expired is when it went out of use, ms.
	Expired int64
}

// LoadKeys reads the signing key file, or makes one with a fresh key if there is
// none. The file is text, one key per line:
//
//	ed25519 VERSION SEED
//	old ed25519 VERSION PUBLIC EXPIRED
//
// SEED and PUBLIC are 32 bytes each in unpadded base64, EXPIRED is in ms since
// 1970, VERSION is of letters, digits and underscores. There is exactly one line
// of the first form, which is also that of other homeservers. Empty lines and
// those that begin with # are skipped. Only the owner may read a file made here.
func LoadKeys(path string) (LocalKeys, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := generateKeys(path); err != nil {
			return LocalKeys{}, fmt.Errorf("signing key: %w", err)
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return LocalKeys{}, fmt.Errorf("signing key: %w", err)
	}
	keys, err := parseKeys(text)
	if err != nil {
		return LocalKeys{}, fmt.Errorf("signing key file %s: %w", path, err)
	}
	return keys, nil
}

// generateKeys writes a new file and makes sure that it is on disk whole before
// it has its name: a key that signed something must never be lost. If two
// processes do so at once, the first one's key stays.
func generateKeys(path string) error {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	version := "a" + strings.ToLower(rand.Text()[:6])
	line := fmt.Sprintf("ed25519 %s %s\n", version, base64.RawStdEncoding.EncodeToString(seed))
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, ".signing-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(line)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func parseKeys(text []byte) (LocalKeys, error) {
	var keys LocalKeys
	seen := make(map[spec.KeyID]bool)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		id, err := keys.addLine(fields)
		if err == nil && seen[id] {
			err = fmt.Errorf("key %s is there twice", id)
		}
		if err != nil {
			return LocalKeys{}, fmt.Errorf("line %d: %w", n, err)
		}
		seen[id] = true
	}
	if err := lines.Err(); err != nil {
		return LocalKeys{}, err
	}
	if keys.Active.ID == "" {
		return LocalKeys{}, errors.New("no key")
	}
	return keys, nil
}

// addLine never puts the text of a line into its error: it may be a secret.
func (k *LocalKeys) addLine(fields []string) (spec.KeyID, error) {
	old := fields[0] == "old"
	if old {
		fields = fields[1:]
	}
	if old && len(fields) != 4 || !old && len(fields) != 3 || fields[0] != "ed25519" {
		return "", errors.New("neither \"ed25519 VERSION SEED\" nor \"old ed25519 VERSION PUBLIC EXPIRED\"")
	}
	id, err := spec.ParseKeyID("ed25519:" + fields[1])
	if err != nil || strings.Trim(fields[1], keyVersionLetters) != "" {
		return "", errors.New("the version has other characters than letters, digits and underscores")
	}
	bytes, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
	if err != nil || len(bytes) != ed25519.SeedSize {
		return "", errors.New("the key is not 32 bytes in base64")
	}
	if !old {
		if k.Active.ID != "" {
			return "", errors.New("a second key that is not marked as old")
		}
		k.Active, err = spec.NewSigningKey(id, bytes)
		return id, err
	}
	expired, err := strconv.ParseInt(fields[3], 10, 64)
	if err != nil || expired <= 0 {
		return "", errors.New("EXPIRED is not a time in ms")
	}
	k.Old = append(k.Old, OldKey{ID: id, Public: bytes, Expired: expired})
	return id, nil
}

const keyVersionLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

// verifiers are the keys by which signatures of this server are checked.
func (k LocalKeys) verifiers(name spec.ServerName) serverKeys {
	const always = 1<<63 - 1
	out := make(serverKeys, 1+len(k.Old))
	if k.Active.ID != "" {
		out[k.Active.ID] = storage.ServerKey{Server: name, ID: k.Active.ID, Public: k.Active.Public(), ValidUntil: always}
	}
	for _, old := range k.Old {
		out[old.ID] = storage.ServerKey{Server: name, ID: old.ID, Public: old.Public, ValidUntil: old.Expired, Expired: old.Expired}
	}
	return out
}

const (
	// publishedValidity is how far ahead a published object says that the keys
	// are valid; peers ask again after that.
	publishedValidity = 24 * time.Hour
	// republishAfter is how long one object is handed out. Every answer is so
	// valid for at least half a day.
	republishAfter = 12 * time.Hour
)

// PublishedKeys hands out the signed object with this server's keys, made once
// and kept as bytes. It answers GET /_matrix/key/v2/server, and the old form of
// that path with a key id, without authentication. Safe for concurrent use.
//
// Spec: server-server-api#get_matrixkeyv2server
type PublishedKeys struct {
	name spec.ServerName
	keys LocalKeys
	now  func() time.Time

	// mu guards object and made.
	mu     sync.Mutex
	object []byte
	made   time.Time
}

// NewPublishedKeys prepares to publish the keys under the server's name.
func NewPublishedKeys(name spec.ServerName, keys LocalKeys, now func() time.Time) *PublishedKeys {
	return &PublishedKeys{name: name, keys: keys, now: now}
}

// Object returns the signed object. It must not be changed.
func (p *PublishedKeys) Object() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.object != nil && now.Sub(p.made) < republishAfter && !now.Before(p.made) {
		return p.object, nil
	}
	object := keyObject{
		Server:     p.name,
		Keys:       map[spec.KeyID]publishedKey{p.keys.Active.ID: {encodeKey(p.keys.Active.Public())}},
		OldKeys:    make(map[spec.KeyID]oldPublicKey, len(p.keys.Old)), // an object, also if empty
		ValidUntil: now.Add(publishedValidity).UnixMilli(),
	}
	for _, old := range p.keys.Old {
		object.OldKeys[old.ID] = oldPublicKey{Key: encodeKey(old.Public), Expired: old.Expired}
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("published keys: %w", err)
	}
	signed, err := spec.SignJSON(raw, string(p.name), p.keys.Active)
	if err != nil {
		return nil, fmt.Errorf("published keys: %w", err)
	}
	p.object, p.made = signed, now
	return signed, nil
}

// ServeHTTP implements http.Handler.
func (p *PublishedKeys) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	object, err := p.Object()
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		object = []byte(`{"errcode":"M_UNKNOWN","error":"the keys cannot be given"}`)
	}
	_, _ = w.Write(object)
}

func encodeKey(public ed25519.PublicKey) string {
	return base64.RawStdEncoding.EncodeToString(public)
}
