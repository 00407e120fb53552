package federation

import (
	"os/exec"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	forbidden := map[string]string{
		"atoll/clientapi": "the two sides of the API never meet: what they share belongs in server",
		"atoll/cmd/atoll": "commands build clients and handlers, not the other way round",
		"testing":         "test helpers belong in test files",
	}
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skipf("IMPORTS NOT CHECKED: go list: %v", err)
	}
	for _, name := range strings.Fields(string(out)) {
		if why, bad := forbidden[name]; bad {
			t.Errorf("federation imports %s: %s", name, why)
		}
	}
}
