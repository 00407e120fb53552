package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"atoll/spec"
)

// KeyFile is the name of the signing key's file below the data directory.
const KeyFile = "signing.key"

// OpenSigningKey reads the signing key of a data directory, and makes both when
// there are none yet. The file has one line: the algorithm, the name of the key
// and its seed in unpadded base64, the form that other homeservers use too.
//
// A key is on disk before this returns: whatever is signed with it must still
// be verifiable after a power cut.
func OpenSigningKey(dataDir string) (spec.SigningKey, error) {
	path := filepath.Join(dataDir, KeyFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newSigningKey(dataDir, path)
	}
	if err != nil {
		return spec.SigningKey{}, fmt.Errorf("signing key: %w", err)
	}
	key, err := parseSigningKey(string(data))
	if err != nil {
		return spec.SigningKey{}, fmt.Errorf("signing key %s: %w", path, err)
	}
	return key, nil
}

// parseSigningKey reads the first key of a file; further lines are ignored.
// Its errors do not quote the file.
func parseSigningKey(text string) (spec.SigningKey, error) {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "ed25519" {
		return spec.SigningKey{}, errors.New(`want a line "ed25519 NAME SEED"`)
	}
	seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
	if err != nil || len(seed) != ed25519.SeedSize {
		return spec.SigningKey{}, errors.New("the seed is not 32 bytes in base64")
	}
	if strings.Trim(fields[1], keyNameLetters) != "" {
		return spec.SigningKey{}, errors.New("the name may have letters, digits and underscores only")
	}
	return spec.SigningKey{ID: spec.KeyID("ed25519:" + fields[1]), Private: ed25519.NewKeyFromSeed(seed)}, nil
}

const keyNameLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

func newSigningKey(dataDir, path string) (spec.SigningKey, error) {
	fail := func(err error) (spec.SigningKey, error) {
		return spec.SigningKey{}, fmt.Errorf("new signing key: %w", err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fail(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	name := "a_" + rand.Text()[:6]
	line := fmt.Sprintf("ed25519 %s %s\n", name, base64.RawStdEncoding.EncodeToString(private.Seed()))
	if err := writeOnce(path, []byte(line)); err != nil {
		return fail(err)
	}
	return spec.SigningKey{ID: spec.KeyID("ed25519:" + name), Private: private}, nil
}

// writeOnce makes a file with all of its content or not at all, readable by its
// owner only, and never replaces one that is there.
func writeOnce(path string, data []byte) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp.Name())) }()
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
