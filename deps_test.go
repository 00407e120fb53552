package atoll_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// layer is how far up a top directory of the module stands. A package imports
// only what stands below it or shares its top directory; those not named here
// (tools, helpers of tests) stand at the top.
var layer = map[string]int{"spec": 0, "storage": 1, "server": 2, "clientapi": 3, "federation": 3, "cmd": 4}

const top = 5

// goPackage is what is needed of the output of go list.
type goPackage struct {
	ImportPath, Dir                            string
	GoFiles, IgnoredGoFiles, CgoFiles, Imports []string
}

func modulePackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages", len(all))
	}
	return all
}

// topDir is the directory below the module's root; ok is false for imports of
// others.
func topDir(importPath string) (dir string, ok bool) {
	rest, ok := strings.CutPrefix(importPath, "atoll/")
	dir, _, _ = strings.Cut(rest, "/")
	return dir, ok
}

func layerOf(dir string) int {
	if n, ok := layer[dir]; ok {
		return n
	}
	return top
}

// spec ← storage ← server ← {clientapi, federation} ← cmd, and the two siblings
// never meet.
func TestImportsPointOneWay(t *testing.T) {
	for _, p := range modulePackages(t) {
		from, _ := topDir(p.ImportPath)
		for _, imported := range p.Imports {
			to, ours := topDir(imported)
			if !ours || to == from || layerOf(to) < layerOf(from) {
				continue
			}
			why := "imports point from cmd down to spec"
			if layerOf(from) == 3 && layerOf(to) == 3 {
				why = "clientapi and federation never meet: what both need belongs to server"
			}
			t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
		}
	}
}

// server is free of HTTP, and so is what lies below it.
func TestEngineIsFreeOfHTTP(t *testing.T) {
	forbidden := map[string]string{
		"net/http":                    "status codes and headers are clientapi's and federation's matter",
		"github.com/labstack/echo/v4": "routes are clientapi's and federation's matter",
		"github.com/coder/websocket":  "sockets are clientapi's matter",
	}
	for _, p := range modulePackages(t) {
		if dir, _ := topDir(p.ImportPath); layerOf(dir) > layer["server"] {
			continue
		}
		for _, imported := range p.Imports {
			if why, bad := forbidden[imported]; bad {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
	}
}

// No package needs a C compiler.
func TestNoCgo(t *testing.T) {
	for _, p := range modulePackages(t) {
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo in %v: the server is one static binary", p.ImportPath, p.CgoFiles)
		}
	}
}

// Every package says what it is for, in one place.
func TestPackageComments(t *testing.T) {
	for _, p := range modulePackages(t) {
		if len(p.GoFiles)+len(p.IgnoredGoFiles) == 0 {
			continue // tests only
		}
		var with []string
		for _, name := range append(p.GoFiles, p.IgnoredGoFiles...) {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				with = append(with, name)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s has %d package comments %v, it needs exactly one", p.ImportPath, len(with), with)
		}
	}
}
