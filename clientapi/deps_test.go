package clientapi

import (
	"os/exec"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	forbidden := map[string]string{
		"atoll/federation": "the two sides of the API never meet: what they share belongs in server",
		"atoll/cmd/atoll":  "commands build handlers, not the other way round",
		"testing":          "test helpers belong in clienttest",
	}
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skipf("IMPORTS NOT CHECKED: go list: %v", err)
	}
	for _, name := range strings.Fields(string(out)) {
		if why, bad := forbidden[name]; bad {
			t.Errorf("clientapi imports %s: %s", name, why)
		}
	}
	direct, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(direct)) {
		if name == "atoll/storage" || name == "database/sql" {
			t.Errorf("clientapi imports %s: handlers reach the database through server only", name)
		}
	}
}
