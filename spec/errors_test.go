package spec

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestError(t *testing.T) {
	cause := errors.New("disk full")
	err := fmt.Errorf("sending: %w", Errorf(CodeForbidden, cause, "no %s", "entry"))
	if got := err.Error(); got != "sending: M_FORBIDDEN: no entry: disk full" {
		t.Error(got)
	}
	if !errors.Is(err, cause) || CodeOf(err) != CodeForbidden || CodeOf(cause) != CodeUnknown || CodeOf(nil) != "" {
		t.Error("wrong chain or code")
	}
	if (&Error{Code: CodeUnrecognized, Status: 405}).HTTPStatus() != 405 || Errorf(CodeTooLarge, nil, "").HTTPStatus() != 413 {
		t.Error("wrong status")
	}
	if got := (&AuthError{"$e", "5.3.2", "banned"}).Error(); got != "event $e refused by rule 5.3.2: banned" {
		t.Error(got)
	}
}

func TestCodeStatus(t *testing.T) {
	for code, want := range map[Code]int{
		CodeForbidden: 403, CodeUnknownToken: 401, CodeMissingToken: 401, CodeNotFound: 404, CodeLimitExceeded: 429,
		CodeUnknown: 500, CodeBadJSON: 400, CodeUnrecognized: 404, CodeTooLarge: 413, CodeIncompatibleRoomVersion: 400,
		CodeUserInUse: 400, CodeCannotOverwriteMedia: 409, CodeNotYetUploaded: 504, CodeBadStatus: 502, Code("X_OWN"): 400,
	} {
		if got := code.Status(); got != want {
			t.Errorf("%s has status %d, want %d", code, got, want)
		}
	}
}

// Every code has a comment that begins with its name, and no code stands twice.
func TestCodesAreDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Code") {
			return true
		}
		name, value := spec.Names[0].Name, spec.Values[0].(*ast.BasicLit).Value
		if spec.Doc == nil || !strings.HasPrefix(spec.Doc.Text(), name+": ") {
			t.Errorf("%s has no comment", name)
		}
		if seen[value] {
			t.Errorf("%s stands twice", value)
		}
		seen[value] = true
		return true
	})
	if len(seen) != 66 { // the codes of the specification, without its M_EXAMPLE_ERROR
		t.Errorf("%d codes", len(seen))
	}
}

// matrixSpec is the directory of the pinned specification, which lies in "shared"
// beside the repository or above it. Without it the test is skipped.
func matrixSpec(t *testing.T) string {
	t.Helper()
	for dir := ".."; ; dir = filepath.Join("..", dir) {
		path, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		if found := filepath.Join(path, "shared", "matrix-spec"); isDir(found) {
			return found
		}
		if path == filepath.Dir(path) {
			t.Skip("SKIPPED: the specification is not in ../shared/matrix-spec, so nothing is compared with it")
		}
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Every code in the text and the definitions of the specification is ours, and
// ours are all from there.
func TestCodesAreThoseOfTheSpecification(t *testing.T) {
	root := matrixSpec(t)
	ours := map[string]bool{}
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && strings.HasPrefix(lit.Value, `"M_`) {
			ours[strings.Trim(lit.Value, `"`)] = true
		}
		return true
	})
	// What else has this form: an example, and constants of encryption.
	theirs := map[string]bool{"M_EXAMPLE_ERROR": false, "M_KEYS": false, "M_RATCHET": false, "M_ROOT": false}
	code := regexp.MustCompile(`\bM_[A-Z][A-Z_]*[A-Z]\b`)
	for _, dir := range []string{"content", "data"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(path, "changelog") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, found := range code.FindAllString(string(text), -1) {
				if _, known := theirs[found]; !known {
					theirs[found] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for found, counts := range theirs {
		if counts && !ours[found] {
			t.Errorf("%s is missing in errors.go", found)
		}
	}
	for have := range ours {
		if !theirs[have] {
			t.Errorf("%s is not in the specification", have)
		}
	}
}
