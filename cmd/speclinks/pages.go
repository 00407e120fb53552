package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// section is a place of the specification that can be cited.
type section struct {
	anchor string
	title  string
}

// page is one page of the specification as the rendered site has it.
type page struct {
	name     string
	sections []section // in the order of the page
	anchors  map[string]bool
}

// add takes in a section with a fixed anchor.
func (p *page) add(anchor, title string) {
	if !p.anchors[anchor] {
		p.anchors[anchor] = true
		p.sections = append(p.sections, section{anchor, title})
	}
}

// specification reads the text and the definitions from one directory.
type specification struct{ root string }

// pages reads all pages, by name: "client-server-api", "rooms/v12".
func (s specification) pages() (map[string]*page, error) {
	files := []string{}
	for _, pattern := range []string{"*.md", "client-server-api/_index.md", "rooms/*.md"} {
		found, err := filepath.Glob(filepath.Join(s.root, "content", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) < 15 {
		return nil, fmt.Errorf("%s has %d pages only", s.root, len(files))
	}
	out := map[string]*page{}
	for _, file := range files {
		name, err := filepath.Rel(filepath.Join(s.root, "content"), file)
		if err != nil {
			return nil, err
		}
		name = strings.TrimSuffix(strings.TrimSuffix(name, ".md"), "/_index")
		p := &page{name: name, anchors: map[string]bool{}}
		if err := s.read(p, file); err != nil {
			return nil, err
		}
		out[name] = p
	}
	return out, nil
}

var (
	heading   = regexp.MustCompile(`^(#{1,6})\s+(.*?)\s*$`)
	fixedID   = regexp.MustCompile(`\s*\{(?:#|id=")([^"}]+)"?\}$`)
	anchorTag = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	shortcode = regexp.MustCompile(`\{\{[%<]\s*([a-z/_-]+)(.*?)[%>]\}\}`)
	attribute = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)
	linkText  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// read goes through a file and what it includes.
func (s specification) read(p *page, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	inCode := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inCode = !inCode
		}
		if inCode {
			continue
		}
		for _, tag := range anchorTag.FindAllStringSubmatch(line, -1) {
			p.add(tag[1], tag[1])
		}
		if h := heading.FindStringSubmatch(line); h != nil {
			p.heading(h[2])
		}
		for _, code := range shortcode.FindAllStringSubmatch(line, -1) {
			if err := s.include(p, code[1], attributes(code[2])); err != nil {
				return fmt.Errorf("%s: %s: %w", file, code[0], err)
			}
		}
	}
	return nil
}

func attributes(text string) map[string]string {
	out := map[string]string{}
	for _, a := range attribute.FindAllStringSubmatch(text, -1) {
		out[a[1]] = a[2]
	}
	return out
}

// heading gives a heading its anchor: the one that it carries, or one that is made
// of its text, with a number where the page has that already.
func (p *page) heading(text string) {
	text = shortcode.ReplaceAllString(text, "")
	if id := fixedID.FindStringSubmatch(text); id != nil {
		p.add(id[1], strings.TrimSpace(fixedID.ReplaceAllString(text, "")))
		return
	}
	text = strings.TrimSpace(linkText.ReplaceAllString(text, "$1"))
	anchor := slug(text)
	for n := 1; p.anchors[anchor]; n++ {
		anchor = fmt.Sprintf("%s-%d", slug(text), n)
	}
	p.add(anchor, strings.ReplaceAll(text, "`", ""))
}

// slug makes an anchor of a text: letters and digits in lower case, - and _, and
// - for a space.
func slug(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, strings.ReplaceAll(text, `\_`, "_"))
}

// include takes in what a shortcode stands for.
func (s specification) include(p *page, code string, attr map[string]string) error {
	switch code {
	case "cs-module":
		return s.read(p, filepath.Join(s.root, "content/client-server-api/modules", attr["filename"]+".md"))
	case "rver-fragment":
		return s.read(p, filepath.Join(s.root, "content/rooms/fragments", attr["name"]+".md"))
	case "http-api":
		prefix := attr["anchor_base"]
		if prefix != "" {
			prefix += "_"
		}
		return s.endpoints(p, prefix, filepath.Join(s.root, "data/api", attr["spec"], attr["api"]+".yaml"))
	case "event":
		p.add(slug(attr["event"]), attr["event"])
	case "event-group":
		return s.events(p, attr["group_name"]+"*.yaml")
	case "msgtypes":
		return s.events(p, "m.room.message$*.yaml")
	case "definition":
		return s.definition(p, filepath.Join(s.root, "data", attr["path"]+".yaml"))
	}
	return nil
}

func (s specification) events(p *page, pattern string) error {
	files, err := filepath.Glob(filepath.Join(s.root, "data/event-schemas/schema", pattern))
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		if _, msgtype, ok := strings.Cut(name, "$"); ok {
			name = msgtype
		}
		p.add(slug(name), name)
	}
	return err
}

var title = regexp.MustCompile(`(?m)^title: *["']?(.*?)["']?$`)

func (s specification) definition(p *page, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if t := title.FindStringSubmatch(string(text)); t != nil {
		p.add("definition-"+slug(t[1]), t[1])
	}
	return nil
}

var (
	pathLine   = regexp.MustCompile(`^  ["']?(/[^"']*?)["']?:\s*$`)
	methodLine = regexp.MustCompile(`^    (get|put|post|delete|head|options|patch):\s*$`)
	baseLine   = regexp.MustCompile(`(?m)^ +basePath:\s*\n\s+default: (\S+)`)
)

// endpoints adds the operations of an OpenAPI file. The files are all laid out in
// one way, so lines suffice to find what is needed.
func (s specification) endpoints(p *page, prefix, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	base := baseLine.FindStringSubmatch(string(text))
	if base == nil {
		return fmt.Errorf("%s has no base path", file)
	}
	path, found := "", 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if m := pathLine.FindStringSubmatch(line); m != nil {
			path = strings.TrimSpace(m[1])
		} else if m := methodLine.FindStringSubmatch(line); m != nil && path != "" {
			found++
			p.add(prefix+slug(m[1]+base[1]+path), strings.ToUpper(m[1])+" "+base[1]+path)
		}
	}
	if found == 0 {
		return fmt.Errorf("%s has no operations", file)
	}
	return nil
}

// names lists the pages in order.
func names(pages map[string]*page) []string {
	var out []string
	for name := range pages {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
