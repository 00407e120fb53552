// Command behaviours writes docs/BEHAVIOURS.md: which of the numbered behaviours
// that clients and peers rely on have a test that carries their number, and
// which have none yet.
//
//	go run ./cmd/behaviours ../shared/behaviours > docs/BEHAVIOURS.md
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: behaviours DIRECTORY")
		os.Exit(2)
	}
	page, err := generate(".", os.Args[1])
	if err == nil {
		_, err = os.Stdout.Write(page)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "behaviours:", err)
		os.Exit(1)
	}
}

// chapter is one file of behaviours.
type chapter struct {
	title   string
	numbers []string // 01-001 …, in order
}

var (
	bullet = regexp.MustCompile(`^- \*\*(\d\d-\d\d\d)\*\*`)
	// A number in a test is written as in the list, or with an underscore in the
	// name of a function.
	cited = regexp.MustCompile(`\b(?:Test_?)?(\d\d)[-_](\d\d\d)(?:\D|$)`)
	// A run of numbers: 02-051…060, or to a full number.
	run = regexp.MustCompile(`\b(\d\d)-(\d\d\d)(?:…|\.\.\.|–)(?:(\d\d)-)?(\d\d\d)`)
	// More numbers of the same file: 01-002/003, 01-002, 003.
	more = regexp.MustCompile(`^(?:/|, |, and | and |,)(\d\d\d)(?:\D|$)`)
)

// chapters reads the lists of a directory.
func chapters(dir string) ([]chapter, error) {
	files, err := filepath.Glob(filepath.Join(dir, "[0-9][0-9]-*.md"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("no lists of behaviours in " + filepath.Base(dir))
	}
	var all []chapter
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var c chapter
		for line := range strings.Lines(string(raw)) {
			if title, ok := strings.CutPrefix(line, "# "); ok && c.title == "" {
				c.title = strings.TrimSpace(title)
			}
			if m := bullet.FindStringSubmatch(line); m != nil {
				c.numbers = append(c.numbers, m[1])
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// tested collects the numbers that tests below root carry.
func tested(root string) (map[string]bool, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(raw)) {
			citations(line, found)
		}
		return nil
	})
	return found, err
}

// citations adds the numbers that one line names.
func citations(line string, found map[string]bool) {
	for _, m := range run.FindAllStringSubmatch(line, -1) {
		for n := number(m[2]); n <= number(m[4]); n++ {
			found[fmt.Sprintf("%s-%03d", m[1], n)] = true
		}
	}
	for _, at := range cited.FindAllStringSubmatchIndex(line, -1) {
		file := line[at[2]:at[3]]
		found[file+"-"+line[at[4]:at[5]]] = true
		rest := line[at[5]:]
		for {
			m := more.FindStringSubmatchIndex(rest)
			if m == nil {
				break
			}
			found[file+"-"+rest[m[2]:m[3]]] = true
			rest = rest[m[3]:]
		}
	}
}

func number(s string) (n int) {
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}

func generate(root, dir string) ([]byte, error) {
	all, err := chapters(dir)
	if err != nil {
		return nil, err
	}
	have, err := tested(root)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("# Behaviours\n\nMade by `go run ./cmd/behaviours` from the tests: each behaviour that clients and other servers rely on has a\nnumber, and a test that covers it carries that number. A number without a test may still work; nothing checks it.\n\n")
	out.WriteString("| area | with a test | of | without a test yet |\n|---|---|---|---|\n")
	sum, of := 0, 0
	for _, c := range all {
		var without []string
		for _, n := range c.numbers {
			if !have[n] {
				without = append(without, n)
			}
		}
		with := len(c.numbers) - len(without)
		sum, of = sum+with, of+len(c.numbers)
		fmt.Fprintf(&out, "| %s | %d | %d | %s |\n", c.title, with, len(c.numbers), runs(without))
	}
	fmt.Fprintf(&out, "| all | %d | %d | |\n", sum, of)
	return out.Bytes(), nil
}

// runs writes sorted numbers of one file shortly: 05-001, 003 to 007.
func runs(numbers []string) string {
	if len(numbers) == 0 {
		return "none"
	}
	slices.Sort(numbers)
	file := numbers[0][:3]
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && number(numbers[j+1][3:]) == number(numbers[j][3:])+1 {
			j++
		}
		part := numbers[i][3:]
		switch {
		case j == i+1:
			part += ", " + numbers[j][3:]
		case j > i:
			part += " to " + numbers[j][3:]
		}
		parts = append(parts, part)
		i = j + 1
	}
	return file + strings.Join(parts, ", ")
}
