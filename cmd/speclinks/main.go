// Command speclinks checks what comments cite of the Matrix specification, which
// they do as page#anchor after the word "Spec:", against a copy of it, and lists the sections
// that no comment cites. It exits with 1 if a citation leads nowhere, and with 0
// and a notice where there is no copy.
//
//	speclinks [-uncited] [-spec DIRECTORY] [ROOT]
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	uncited := flag.Bool("uncited", false, "list the sections that no comment cites")
	dir := flag.String("spec", "", "the directory of the specification; shared/matrix-spec beside or above ROOT if empty")
	flag.Parse()
	root := "."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	broken, err := run(os.Stdout, root, *dir, *uncited)
	if err != nil {
		fmt.Fprintln(os.Stderr, "speclinks:", err)
		os.Exit(2)
	}
	if broken > 0 {
		os.Exit(1)
	}
}

// run returns how many citations lead nowhere.
func run(out io.Writer, root, dir string, uncited bool) (broken int, err error) {
	if dir == "" {
		if dir = findSpec(root); dir == "" {
			fmt.Fprintln(out, "speclinks: SKIPPED, NOTHING IS CHECKED: there is no ../shared/matrix-spec")
			return 0, nil
		}
	}
	pages, err := specification{dir}.pages()
	if err != nil {
		return 0, err
	}
	citations, err := scan(root)
	if err != nil {
		return 0, err
	}
	cited := map[string]bool{}
	for _, c := range citations {
		if why := c.check(pages); why != "" {
			fmt.Fprintf(out, "%s: %s\n", c.at, why)
			broken++
		}
		cited[c.page+"#"+c.anchor] = true
	}
	report(out, pages, cited, uncited)
	fmt.Fprintf(out, "%d citations, %d lead nowhere\n", len(citations), broken)
	return broken, nil
}

// findSpec looks beside root and beside each directory above it; "" if there is none.
func findSpec(root string) string {
	dir, err := filepath.Abs(root)
	if err != nil {
		return ""
	}
	for {
		dir = filepath.Dir(dir)
		found := filepath.Join(dir, "shared", "matrix-spec")
		if info, err := os.Stat(found); err == nil && info.IsDir() {
			return found
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// report tells for each page how much of it is cited.
func report(out io.Writer, pages map[string]*page, cited map[string]bool, uncited bool) {
	for _, name := range names(pages) {
		p, n := pages[name], 0
		for _, s := range p.sections {
			if cited[name+"#"+s.anchor] {
				n++
			}
		}
		fmt.Fprintf(out, "%-28s %4d of %4d sections are cited\n", name, n, len(p.sections))
		for _, s := range p.sections {
			if uncited && !cited[name+"#"+s.anchor] {
				fmt.Fprintf(out, "    %s  (%s)\n", s.anchor, s.title)
			}
		}
	}
}

// citation is one mention of a place in the specification.
type citation struct {
	at           token.Position
	page, anchor string
}

// check returns what is wrong with the citation; "" if nothing is.
func (c citation) check(pages map[string]*page) string {
	p := pages[c.page]
	switch {
	case p == nil:
		return fmt.Sprintf("the specification has no page %q", c.page)
	case c.anchor != "" && !p.anchors[c.anchor]:
		return fmt.Sprintf("the page %s has no section %q", c.page, c.anchor)
	}
	return ""
}

// scan finds all citations in the comments of the Go files below root.
func scan(root string) ([]citation, error) {
	var out []citation
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, group := range file.Comments {
			out = append(out, inComment(set, group)...)
		}
		return nil
	})
	return out, err
}

// cite is one place, with an anchor or a page that can be nothing else, and the
// rule in it that is meant. Several are parted by commas.
var cite = regexp.MustCompile(`^\s*([a-z][a-z0-9_/-]*)(?:#([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*))?(?:,? \d+(?:\.\d+)*)?(, )?`)

// inComment reads the citations of a comment, which may go over several lines.
func inComment(set *token.FileSet, group *ast.CommentGroup) (out []citation) {
	var text strings.Builder
	for _, c := range group.List {
		text.WriteString(strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), " ") + "\n")
	}
	all := text.String()
	for offset := 0; ; {
		i := strings.Index(all[offset:], "Spec: ")
		if i < 0 {
			return out
		}
		at := set.Position(group.Pos())
		at.Line += strings.Count(all[:offset+i], "\n")
		at.Column = 1
		offset += i + len("Spec: ")
		for {
			m := cite.FindStringSubmatch(all[offset:])
			if m == nil || m[2] == "" && !isPage(m[1]) {
				break
			}
			out = append(out, citation{at, m[1], m[2]})
			offset += len(m[0])
			if m[3] == "" {
				break
			}
		}
	}
}

// isPage tells a page from a word of a sentence.
func isPage(s string) bool {
	return strings.Contains(s, "/") || strings.HasSuffix(s, "-api") || s == "appendices" || s == "rooms"
}
