package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated files")

const configurationPage = "../../../docs/CONFIGURATION.md"

// TestGeneratedFiles compares the sample file and the configuration page with
// what the field comments say today.
func TestGeneratedFiles(t *testing.T) {
	docs := fieldDocs(t)
	for file, want := range map[string]string{
		"sample.yaml":     sampleFile(docs),
		configurationPage: configurationTable(docs),
	} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is stale: run `go generate ./cmd/atoll/config`", file)
		}
	}
}

// fieldDocs returns the comment of every field in config.go, as "Type.Field".
func fieldDocs(t *testing.T) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			name := spec.Name.Name + "." + field.Names[0].Name
			docs[name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
			if docs[name] == "" {
				t.Errorf("%s has no comment", name)
			}
		}
		return false
	})
	return docs
}

// entry is one key in the order of the file.
type entry struct {
	key, name, doc string
	depth          int
	section        bool
	value          reflect.Value
}

func entries(docs map[string]string, v reflect.Value, prefix string, depth int) []entry {
	var all []entry
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("yaml")
		e := entry{key: join(prefix, name), name: name, doc: docs[v.Type().Name()+"."+field.Name], depth: depth, value: v.Field(i)}
		e.section = e.value.Kind() == reflect.Struct
		all = append(all, e)
		if e.section {
			all = append(all, entries(docs, e.value, e.key, depth+1)...)
		}
	}
	return all
}

func sampleFile(docs map[string]string) string {
	var out strings.Builder
	out.WriteString("# The configuration of Atoll. Lines that begin with #: show the default of a key;\n" +
		"# take the #: away to change it. Every key can also be set as an environment\n" +
		"# variable: federation.ca_file is ATOLL_FEDERATION_CA_FILE.\n")
	for _, e := range entries(docs, reflect.ValueOf(Default()), "", 0) {
		indent := strings.Repeat("  ", e.depth)
		if e.depth == 0 {
			out.WriteString("\n")
		}
		for _, line := range wrap(e.doc, 78-len(indent)) {
			fmt.Fprintf(&out, "%s# %s\n", indent, line)
		}
		switch {
		case e.section:
			fmt.Fprintf(&out, "%s%s:\n", indent, e.name)
		case e.key == "server_name":
			fmt.Fprintf(&out, "%s: %s\n", e.name, e.value)
		case e.key == "listeners":
			out.WriteString("#: listeners:\n#:   - address: 127.0.0.1:8008\n" +
				"# - address: 0.0.0.0:8448\n#   tls: {cert: cert.pem, key: key.pem}\n")
		default:
			fmt.Fprintf(&out, "%s#: %s: %s\n", indent, e.name, yamlValue(e.value))
		}
	}
	return out.String()
}

func configurationTable(docs map[string]string) string {
	var out strings.Builder
	out.WriteString(`# Configuration

One YAML file (` + "`atoll serve --config FILE`" + `), and every key also as an environment variable, which wins.
No file is needed: the defaults give a server for this machine alone. Keys that do not exist and
values that make no sense are all reported at once, and nothing is started.

This page is generated from the field comments in cmd/atoll/config/config.go.

| key | default | environment variable | meaning |
|---|---|---|---|
`)
	for _, e := range entries(docs, reflect.ValueOf(Default()), "", 0) {
		if e.section {
			continue
		}
		fmt.Fprintf(&out, "| `%s` | `%s` | `%s` | %s |\n", e.key, yamlValue(e.value), EnvName(e.key), strings.ReplaceAll(e.doc, "|", `\|`))
	}
	for _, list := range []struct {
		key   string
		entry any
	}{{"listeners", Listener{}}, {"registration.policies", Policy{}}} {
		fmt.Fprintf(&out, "\nAn entry of `%s` has these keys:\n\n| key | meaning |\n|---|---|\n", list.key)
		for _, e := range entries(docs, reflect.ValueOf(list.entry), "", 0) {
			fmt.Fprintf(&out, "| `%s` | %s |\n", e.key, e.doc)
		}
	}
	out.WriteString(`
In the environment a list is written as YAML, ` + "`ATOLL_LISTENERS='[{address: \"0.0.0.0:8008\"}]'`" + `; a list of
names also with commas, ` + "`ATOLL_FEDERATION_TRUSTED_KEY_SERVERS=a.example,b.example`" + `.
`)
	return out.String()
}

// yamlValue writes a default as it would stand in the file.
func yamlValue(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Slice && v.Len() == 0:
		return "[]"
	case v.Kind() == reflect.Slice:
		return fmt.Sprintf("[{address: %q}]", v.Index(0).Field(0))
	case v.Kind() == reflect.String && v.String() == "":
		return `""`
	}
	return fmt.Sprint(v.Interface())
}

// wrap breaks text into lines of at most width letters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
