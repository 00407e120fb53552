package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports holds what the packages below cmd may not reach.
func TestImports(t *testing.T) {
	for _, rule := range []struct{ pkg, forbidden, why string }{
		{"./config", "atoll/storage", "the configuration is read without the homeserver"},
		{"./config", "atoll/server", "the configuration is read without the homeserver"},
		{"./certs", "atoll/spec", "certificates know nothing of Matrix"},
		{"./node", "atoll/cmd/atoll/demo", "a homeserver does not know what it is run for"},
		{".", "testing", "test helpers belong in test files"},
	} {
		out, err := exec.Command("go", "list", "-deps", rule.pkg).Output()
		if err != nil {
			t.Fatalf("go list %s: %v", rule.pkg, err)
		}
		for _, name := range strings.Fields(string(out)) {
			if name == rule.forbidden {
				t.Errorf("%s imports %s: %s", rule.pkg, name, rule.why)
			}
		}
	}
}

// TestNobodyImportsCommands holds the last arrow: cmd is the end of the line.
func TestNobodyImportsCommands(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "atoll/spec", "atoll/storage", "atoll/server", "atoll/clientapi", "atoll/federation").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, "atoll/cmd") {
			t.Errorf("%s is imported below cmd", name)
		}
	}
}
