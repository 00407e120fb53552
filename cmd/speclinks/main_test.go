package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestInComment(t *testing.T) {
	src := `package x

// Of a rule. Spec: rooms/v1#event-ids
var a int // Spec: rooms/v12#authorisation-rules 5.3, appendices#server-name.

// Spec: client-server-api#get_matrixclientv3sync: the text goes
// on. Spec: rooms/v2, rooms/v3#x
// Spec: an answer without a version is no citation
var b int
`
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "x.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, group := range file.Comments {
		for _, c := range inComment(set, group) {
			got = append(got, fmt.Sprintf("%d %s#%s", c.at.Line, c.page, c.anchor))
		}
	}
	want := "[3 rooms/v1#event-ids 4 rooms/v12#authorisation-rules 4 appendices#server-name 6 client-server-api#get_matrixclientv3sync 7 rooms/v2# 7 rooms/v3#x]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v\nwant %s", got, want)
	}
}

func TestHeadings(t *testing.T) {
	p := &page{anchors: map[string]bool{}}
	for _, h := range []string{"Event IDs", "The `creator` of [m.room.create](#x) events", "Event IDs", "Extensions to /sync {#e2e}", `Login {id="old-login"}`} {
		p.heading(h)
	}
	var got []string
	for _, s := range p.sections {
		got = append(got, s.anchor)
	}
	if want := "[event-ids the-creator-of-mroomcreate-events event-ids-1 e2e old-login]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if got := slug("get/_matrix/client/v3/rooms/{roomId}/state_x"); got != "get_matrixclientv3roomsroomidstate_x" {
		t.Error(got)
	}
}

func TestWithoutSpecification(t *testing.T) {
	var out strings.Builder
	if broken, err := run(&out, "/", "", false); broken != 0 || err != nil || !strings.Contains(out.String(), "SKIPPED") {
		t.Errorf("%d, %v, %s", broken, err, &out)
	}
}

func TestBrokenCitation(t *testing.T) {
	spec := findSpec(".")
	if spec == "" {
		t.Skip("SKIPPED: there is no ../shared/matrix-spec")
	}
	dir := t.TempDir()
	src := "package x\n\n// Spec: rooms/v1#event-ids\n// Spec: rooms/v1#no-such-thing, no-such-page#x\nvar a int\n"
	if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if broken, err := run(&out, dir, spec, true); broken != 2 || err != nil || !strings.Contains(out.String(), "x.go:4:") {
		t.Errorf("%d, %v, %s", broken, err, &out)
	}
}

// The links that the specification itself makes are a test of how anchors are made:
// nearly all of them lead somewhere.
func TestAnchorsAgainstTheLinksOfTheText(t *testing.T) {
	dir := findSpec(".")
	if dir == "" {
		t.Skip("SKIPPED: there is no ../shared/matrix-spec")
	}
	pages, err := specification{dir}.pages()
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(/?([a-z0-9/-]*?)/?#([A-Za-z0-9_.-]+)\)`)
	total, lost := 0, map[string]bool{}
	err = filepath.WalkDir(filepath.Join(dir, "content"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			name := m[1]
			if name == "" && strings.Contains(path, "/client-server-api/") {
				name = "client-server-api"
			}
			p := pages[name]
			if p == nil {
				continue
			}
			if total++; !p.anchors[m[2]] {
				lost[name+"#"+m[2]] = true
			}
		}
		return err
	})
	if err != nil || total < 500 {
		t.Fatal(total, err)
	}
	if len(lost) > total/50 {
		t.Errorf("%d of %d links lead nowhere: %v", len(lost), total, lost)
	}
	t.Logf("%d of %d links lead nowhere: %v", len(lost), total, lost)
}
