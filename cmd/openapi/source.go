package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// endpoint is one line of a route table and what is known of its handler.
type endpoint struct {
	method, path, auth string
	handler            string
	doc                string   // first sentence of the handler's comment
	spec               string   // section of the specification
	body               []member // of the request; nil: none that the code declares
}

// member is a field of a request body.
type member struct {
	name, schema string
}

// source is a parsed package of handlers.
type source struct {
	funcs map[string]*ast.FuncDecl
	types map[string]ast.Expr
	texts map[string]string // constants of the package that are strings
	table *ast.FuncDecl
}

// parse reads the package of a directory, tests left out.
func parse(dir string) (*source, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go")) // in order
	if err != nil {
		return nil, err
	}
	s := &source{funcs: map[string]*ast.FuncDecl{}, types: map[string]ast.Expr{}, texts: map[string]string{}}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, decl := range file.Decls {
			s.collect(decl)
		}
	}
	if s.table == nil {
		return nil, fmt.Errorf("%s has no method table", dir)
	}
	return s, nil
}

func (s *source) collect(decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		// Handlers are methods of Handler, or functions that make one.
		if d.Recv != nil && !ofHandler(d) {
			return
		}
		if d.Name.Name == "table" {
			s.table = d
		}
		s.funcs[d.Name.Name] = d
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				s.types[spec.Name.Name] = spec.Type
			case *ast.ValueSpec:
				learn(spec, s.texts)
			}
		}
	}
}

// ofHandler reports whether a function is a method of *Handler.
func ofHandler(d *ast.FuncDecl) bool {
	star, ok := d.Recv.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	name, ok := star.X.(*ast.Ident)
	return ok && name.Name == "Handler"
}

// endpoints reads the lines of the route table.
func (s *source) endpoints() ([]endpoint, error) {
	consts := maps.Clone(s.texts)
	var list []endpoint
	var failed error
	ast.Inspect(s.table.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			learn(n, consts)
		case *ast.CompositeLit:
			if n.Type != nil || len(n.Elts) < 4 {
				return true
			}
			e, err := s.endpoint(n.Elts, consts)
			if err != nil && failed == nil {
				failed = err
			}
			list = append(list, e)
			return false
		}
		return true
	})
	return list, failed
}

func (s *source) endpoint(columns []ast.Expr, consts map[string]string) (endpoint, error) {
	var e endpoint
	var err error
	if e.method, err = text(columns[0], consts); err != nil {
		return e, err
	}
	if e.path, err = text(columns[1], consts); err != nil {
		return e, err
	}
	if name, ok := columns[2].(*ast.Ident); ok {
		e.auth = name.Name
	}
	e.handler = handlerName(columns[len(columns)-1])
	if f := s.funcs[e.handler]; f != nil {
		e.doc, e.spec = comment(f)
		e.body = s.bodyOf(f)
	}
	return e, nil
}

// learn notes the strings that a declaration gives names to.
func learn(spec *ast.ValueSpec, texts map[string]string) {
	for i, name := range spec.Names {
		if i < len(spec.Values) {
			if value, err := text(spec.Values[i], texts); err == nil {
				texts[name.Name] = value
			}
		}
	}
}

// text evaluates a constant string expression.
func text(x ast.Expr, consts map[string]string) (string, error) {
	switch x := x.(type) {
	case *ast.BasicLit:
		return strconv.Unquote(x.Value)
	case *ast.Ident:
		if v, ok := consts[x.Name]; ok {
			return v, nil
		}
	case *ast.BinaryExpr:
		left, err := text(x.X, consts)
		if err != nil {
			return "", err
		}
		right, err := text(x.Y, consts)
		return left + right, err
	}
	return "", fmt.Errorf("a route table has something other than constant strings in its first columns")
}

// handlerName names the function behind a column like h.sync or moderate(h.x).
func handlerName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.CallExpr:
		return handlerName(x.Fun)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// comment parts a doc comment into what it says first and the section it cites.
func comment(f *ast.FuncDecl) (doc, section string) {
	whole := strings.Join(strings.Fields(f.Doc.Text()), " ")
	whole, section, _ = strings.Cut(whole, "Spec: ")
	section, _, _ = strings.Cut(section, " ")
	whole = strings.TrimSpace(whole)
	if first, _, more := strings.Cut(whole, ". "); more {
		whole = first + "."
	}
	return whole, strings.TrimRight(section, ".,;")
}

// bodyOf finds the struct that a handler reads its body into: the variable that
// the code calls body.
func (s *source) bodyOf(f *ast.FuncDecl) []member {
	var found []member
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Names) != 1 || v.Names[0].Name != "body" || v.Type == nil {
			return true
		}
		found = s.members(v.Type)
		return false
	})
	return found
}

func (s *source) members(x ast.Expr) []member {
	switch x := x.(type) {
	case *ast.Ident:
		if t := s.types[x.Name]; t != nil {
			return s.members(t)
		}
	case *ast.StructType:
		var list []member
		for _, field := range x.Fields.List {
			if field.Tag == nil {
				continue
			}
			tag, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				continue
			}
			name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			if name != "" && name != "-" {
				list = append(list, member{name: name, schema: s.schema(field.Type)})
			}
		}
		return list
	}
	return nil
}

// schema writes the JSON Schema of a Go type on one line of YAML.
func (s *source) schema(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.StarExpr:
		return s.schema(x.X)
	case *ast.ArrayType:
		return "{type: array, items: " + s.schema(x.Elt) + "}"
	case *ast.MapType:
		return "{type: object, additionalProperties: " + s.schema(x.Value) + "}"
	case *ast.StructType:
		var props []string
		for _, m := range s.members(x) {
			props = append(props, m.name+": "+m.schema)
		}
		return "{type: object, properties: {" + strings.Join(props, ", ") + "}}"
	case *ast.Ident:
		return s.named(x.Name)
	case *ast.SelectorExpr:
		switch x.Sel.Name {
		case "RawMessage", "Value":
			return "{}"
		}
		return "{type: string}" // the identifiers of package spec
	}
	return "{}"
}

func (s *source) named(name string) string {
	switch name {
	case "string":
		return "{type: string}"
	case "bool":
		return "{type: boolean}"
	case "int", "int64", "uint64", "int32":
		return "{type: integer}"
	case "content":
		return "{type: object}"
	}
	if t := s.types[name]; t != nil {
		return s.schema(t)
	}
	return "{}"
}
