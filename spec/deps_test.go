package spec_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// forbidden imports of this package and of every library that it uses. The
// standard library's own use of os and the like does not count.
var forbidden = map[string]string{
	"os":             "no files, environment or processes: bytes are arguments",
	"os/exec":        "no processes",
	"io/fs":          "no files",
	"io/ioutil":      "no files",
	"embed":          "no files: data that the rules need is Go code",
	"syscall":        "no operating system",
	"crypto/rand":    "no randomness: keys and IDs are arguments",
	"math/rand":      "no randomness: every function gives the same answer twice",
	"math/rand/v2":   "no randomness: every function gives the same answer twice",
	"sync":           "no shared mutable state to guard",
	"sync/atomic":    "no shared mutable state to guard",
	"runtime":        "no dependence on the scheduler or the collector",
	"encoding/gob":   "stored and sent forms are specified, not Go's own",
	"html/template":  "nothing here is shown to a person",
	"text/template":  "nothing here is shown to a person",
	"database/sql":   "no storage: storage imports spec",
	"net":            "no network: other homeservers are the server's and federation's matter",
	"net/http":       "no HTTP: status codes are numbers",
	"context":        "nothing here waits, so there is nothing to cancel",
	"log":            "nothing is logged: errors are returned",
	"log/slog":       "nothing is logged: errors are returned",
	"testing":        "not in code that ships",
	"testing/fstest": "not in code that ships",
}

// nowhere may not be reached through the standard library either, since it would
// link a network stack, a logger or a database into whoever uses the rules.
var nowhere = []string{"net", "net/http", "database/sql", "context", "log", "log/slog"}

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", `{{.ImportPath}} {{.Standard}} {{join .Imports ","}}`, ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		standard, imports, _ := strings.Cut(rest, " ")
		all[path] = true
		if strings.HasPrefix(path, "atoll/") && path != "atoll/spec" {
			t.Errorf("spec depends on %s: it is the base, and knows none of the other packages", path)
		}
		if standard == "true" {
			continue
		}
		for imported := range strings.SplitSeq(imports, ",") {
			if why, bad := forbidden[imported]; bad {
				t.Errorf("%s imports %s: %s", path, imported, why)
			}
		}
	}
	for _, path := range nowhere {
		if all[path] {
			t.Errorf("spec depends on %s through some other package: %s", path, forbidden[path])
		}
	}
	if !all["atoll/spec"] {
		t.Fatalf("go list did not list atoll/spec: %s", out)
	}
}

// Package time is for durations and arithmetic; its clock and timers are not for
// pure functions.
func TestNoClock(t *testing.T) {
	clock := map[string]bool{"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true,
		"Tick": true, "NewTimer": true, "NewTicker": true}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && clock[sel.Sel.Name] {
					t.Errorf("%s: time.%s: the time is an argument", set.Position(sel.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}
