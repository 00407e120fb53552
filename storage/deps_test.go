package storage_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// forbidden imports of this package and of what it uses of this module.
var forbidden = map[string]string{
	"atoll/server":     "the arrow points from server to storage",
	"atoll/clientapi":  "storage knows no protocol",
	"atoll/federation": "storage knows no protocol",
	"net/http":         "storage talks to a database, to nobody else",
	"testing":          "not in code that ships",
}

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports ","}}`, ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(path, "atoll/") {
			continue
		}
		for imported := range strings.SplitSeq(imports, ",") {
			if why, bad := forbidden[imported]; bad {
				t.Errorf("%s imports %s: %s", path, imported, why)
			}
		}
	}
}

// TestLibcVersion: SQLite is machine-translated and works only with the very
// version of its C library that its own go.mod names.
func TestLibcVersion(t *testing.T) {
	find := func(module, file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("%s does not require %s", file, module)
		}
		return string(m[1])
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.GoMod}}", "modernc.org/sqlite").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	theirs, ours := find("modernc.org/libc", strings.TrimSpace(string(out))), find("modernc.org/libc", "../go.mod")
	if theirs != ours {
		t.Errorf("modernc.org/libc is %s, but modernc.org/sqlite wants %s", ours, theirs)
	}
	if v := find("modernc.org/sqlite", "../go.mod"); v != "v1.62.0" {
		t.Errorf("modernc.org/sqlite is %s: change this test once the new version was tried", v)
	}
}
