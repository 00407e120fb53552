package server

import (
	"os/exec"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	forbidden := map[string]string{
		"atoll/clientapi":  "the engine does not know who calls it",
		"atoll/federation": "what is asked of other servers is the interface Remote",
		"net/http":         "the engine is free of HTTP",
		"testing":          "test helpers belong in files or packages of tests",
	}
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skipf("IMPORTS NOT CHECKED: go list: %v", err)
	}
	for _, name := range strings.Fields(string(out)) {
		if why, bad := forbidden[name]; bad {
			t.Errorf("server imports %s: %s", name, why)
		}
	}
}
