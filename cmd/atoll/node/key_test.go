package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSigningKeyIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "data")
	made, err := OpenSigningKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	read, err := OpenSigningKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if made.ID != read.ID || !made.Private.Equal(read.Private) {
		t.Error("the key changed between two starts")
	}
	info, err := os.Stat(filepath.Join(dir, KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, want that only its owner reads it", info.Mode())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("%d files in the data directory, want the key alone", len(entries))
	}
}

func TestSigningKeyFiles(t *testing.T) {
	const seed = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
	cases := []struct {
		name, text string
		ok         bool
	}{
		{"a key of the specification's test vectors", "ed25519 1 " + seed + "\n", true},
		{"a padded seed", "ed25519 a_XyZ1 " + seed + "=", true},
		{"a second key below", "ed25519 1 " + seed + "\ned25519 2 x\n", true},
		{"an empty file", "", false},
		{"another algorithm", "rsa 1 " + seed, false},
		{"a short seed", "ed25519 1 YJDBA9Xnr2sV", false},
		{"a name with a dash", "ed25519 a-b " + seed, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, KeyFile), []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenSigningKey(dir)
			if (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), seed) {
				t.Errorf("the message shows the key: %v", err)
			}
		})
	}
}
