package spec

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
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
