package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// EnvPrefix begins the name of every environment variable that is read.
const EnvPrefix = "ATOLL_"

// foreignEnv are variables below our prefix that others set: container
// orchestrators announce a service called atoll this way, and the last two are
// the command line's and the tests' own.
var foreignEnv = regexp.MustCompile(`^ATOLL_((.*_)?(SERVICE_(HOST|PORT)|PORT)(_.*)?|CONFIG|TEST_.*)$`)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Where string // "atoll.yaml:12", the name of an environment variable, or empty
	Key   string // as in federation.ca_file; empty when it is about the whole file
	Msg   string // never contains the value of a secret
}

func (p Problem) String() string {
	text := p.Msg
	if p.Key != "" {
		text = p.Key + ": " + text
	}
	if p.Where != "" {
		text = p.Where + ": " + text
	}
	return text
}

// Problems is the error for a bad configuration: everything that is wrong with
// it, in the order of the file.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, 0, len(p)+1)
	if len(p) == 1 {
		return "configuration: " + p[0].String()
	}
	lines = append(lines, fmt.Sprintf("configuration: %d problems", len(p)))
	for _, problem := range p {
		lines = append(lines, "  "+problem.String())
	}
	return strings.Join(lines, "\n")
}

// Load returns base, changed by the file and then by the environment (in the
// form of os.Environ), validated. An empty file name means no file. The error is
// Problems unless the file can not be read.
func Load(base Config, file string, environ []string) (Config, error) {
	l := loader{cfg: base, origin: map[string]string{}}
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return Config{}, fmt.Errorf("configuration: %w", err)
		}
		l.readFile(filepath.Base(file), data)
	}
	l.readEnv(environ)
	l.problems = append(l.problems, l.validate()...)
	if len(l.problems) > 0 {
		return Config{}, l.problems
	}
	return l.cfg, nil
}

// loader lays sources over a configuration and remembers where each key was set.
type loader struct {
	cfg      Config
	file     string
	env      string            // the variable being read, for places
	origin   map[string]string // key → place, in the form of Problem.Where
	problems Problems
}

func (l *loader) readFile(name string, data []byte) {
	l.file = name
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		if len(strings.TrimSpace(string(data))) == 0 || !hasContent(data) {
			return
		}
		l.problems = append(l.problems, Problem{Where: name, Msg: yamlMessage(err)})
		return
	}
	if len(doc.Content) == 1 {
		l.set(doc.Content[0], reflect.ValueOf(&l.cfg).Elem(), "", 0)
	}
}

// hasContent tells whether a file holds more than comments and blank lines.
func hasContent(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && line != "---" {
			return true
		}
	}
	return false
}

// yamlMessage returns what the YAML parser has to say. Its messages carry
// positions and names of constructs, never values.
func yamlMessage(err error) string {
	var load *yaml.LoadError
	if errors.As(err, &load) {
		return load.Error()
	}
	return err.Error()
}

// place names the source of a node.
func (l *loader) place(n *yaml.Node) string {
	if l.env != "" {
		return l.env
	}
	return fmt.Sprintf("%s:%d", l.file, n.Line)
}

func (l *loader) problem(n *yaml.Node, key, format string, args ...any) {
	l.problems = append(l.problems, Problem{Where: l.place(n), Key: key, Msg: fmt.Sprintf(format, args...)})
}

// set gives the value of a node to v, which is what stands at key. What a node
// does not mention keeps its value; lists are replaced whole.
func (l *loader) set(n *yaml.Node, v reflect.Value, key string, depth int) {
	if depth > 20 { // an alias inside its own anchor
		l.problem(n, key, "nested too deeply")
		return
	}
	if n.Kind == yaml.AliasNode {
		l.set(n.Alias, v, key, depth+1)
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Style == 0 {
		return
	}
	l.origin[key] = l.place(n)
	switch v.Kind() {
	case reflect.Struct:
		l.setStruct(n, v, key, depth)
	case reflect.Slice:
		l.setSlice(n, v, key, depth)
	default:
		if n.Kind != yaml.ScalarNode {
			l.problem(n, key, "want %s", kindName(v))
			return
		}
		if err := setScalar(v, n.Value); err != nil {
			l.problem(n, key, "%v", err)
		}
	}
}

func (l *loader) setStruct(n *yaml.Node, v reflect.Value, key string, depth int) {
	if n.Kind != yaml.MappingNode {
		l.problem(n, key, "want keys and values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		full := join(key, name.Value)
		if seen[name.Value] {
			l.problem(name, full, "given twice")
			continue
		}
		seen[name.Value] = true
		field, ok := fieldByKey(v, name.Value)
		if !ok {
			l.problem(name, full, "no such key%s", suggestion(v, name.Value))
			continue
		}
		l.set(value, field, full, depth+1)
	}
}

func (l *loader) setSlice(n *yaml.Node, v reflect.Value, key string, depth int) {
	if n.Kind != yaml.SequenceNode {
		l.problem(n, key, "want a list")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		l.set(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i), depth+1)
	}
	v.Set(list)
}

// readEnv lays the environment over the configuration.
func (l *loader) readEnv(environ []string) {
	fields := map[string]string{}
	for _, key := range keys(reflect.ValueOf(l.cfg), "") {
		fields[EnvName(key)] = key
	}
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvPrefix) || foreignEnv.MatchString(name) {
			continue
		}
		l.env = name
		if key, ok := fields[name]; ok {
			l.setEnv(key, value)
		} else {
			l.problem(nil, "", "no such environment variable")
		}
	}
	l.env = ""
}

// setEnv sets one key from text: lists are YAML, or names with commas between
// them.
func (l *loader) setEnv(key, value string) {
	v := reflect.ValueOf(&l.cfg).Elem()
	for part := range strings.SplitSeq(key, ".") {
		v, _ = fieldByKey(v, part)
	}
	l.origin[key] = l.env
	if v.Kind() != reflect.Slice {
		if err := setScalar(v, value); err != nil {
			l.problem(nil, key, "%v", err)
		}
		return
	}
	if v.Type().Elem().Kind() == reflect.String && !strings.HasPrefix(strings.TrimSpace(value), "[") {
		list := reflect.MakeSlice(v.Type(), 0, 0)
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = reflect.Append(list, reflect.ValueOf(item))
			}
		}
		v.Set(list)
		return
	}
	var doc yaml.Node
	if err := yaml.Load([]byte(value), &doc); err != nil || len(doc.Content) != 1 {
		l.problem(nil, key, "want a list in YAML, as in [{address: 127.0.0.1:8008}]")
		return
	}
	l.set(doc.Content[0], v, key, 0)
}

// setScalar parses text into a single value.
func setScalar(v reflect.Value, text string) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true", "yes", "on":
			v.SetBool(true)
		case "false", "no", "off":
			v.SetBool(false)
		default:
			return fmt.Errorf("want %s", kindName(v))
		}
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want %s", kindName(v))
		}
		v.SetInt(int64(n))
	default:
		panic("config: field of kind " + v.Kind().String())
	}
	return nil
}

func kindName(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	default:
		return "text"
	}
}

// EnvName returns the environment variable of a key: federation.ca_file is
// ATOLL_FEDERATION_CA_FILE.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// keys lists the keys of v that have an environment variable of their own: every
// one that is not a section. Lists are one key.
func keys(v reflect.Value, prefix string) []string {
	var all []string
	for i := range v.NumField() {
		key := join(prefix, v.Type().Field(i).Tag.Get("yaml"))
		if v.Field(i).Kind() == reflect.Struct {
			all = append(all, keys(v.Field(i), key)...)
		} else {
			all = append(all, key)
		}
	}
	return all
}

func fieldByKey(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// suggestion names the key that was probably meant, if one is close.
func suggestion(v reflect.Value, key string) string {
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		if oneEditApart(name, strings.ReplaceAll(strings.ToLower(key), "-", "_")) {
			return ", did you mean " + name + "?"
		}
	}
	return ""
}

// oneEditApart tells whether two words are equal but for one letter that was
// added, left out or changed.
func oneEditApart(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return i == len(a) || a[i+1:] == b[i+1:]
	}
	return a[i:] == b[i+1:]
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}
