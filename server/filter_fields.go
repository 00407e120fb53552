package server

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Fields is the set of paths that a filter wants of events, made by
// Filter.Fields. The zero Fields keeps everything.
//
// Spec: client-server-api#filtering, appendices#dot-separated-property-paths
type Fields struct{ root *fieldNode }

// fieldNode is one property name's worth of paths.
type fieldNode struct {
	// whole: a path ends here, so all below is wanted.
	whole bool
	below map[string]*fieldNode
}

// Fields returns the filter's event_fields in the form that is applied to
// events: make it once for each sync.
func (f *Filter) Fields() Fields {
	if f.EventFields == nil {
		return Fields{}
	}
	root := &fieldNode{below: make(map[string]*fieldNode)}
	for _, path := range f.EventFields {
		node := root
		for _, name := range splitPath(path) {
			child := node.below[name]
			if child == nil {
				child = &fieldNode{below: make(map[string]*fieldNode)}
				node.below[name] = child
			}
			node = child
		}
		node.whole = true
	}
	return Fields{root}
}

// All tells that everything is kept.
func (f Fields) All() bool { return f.root == nil }

// Append appends those members of a JSON object that the paths name. A path
// that leads nowhere gives nothing, an object on the way is kept only if
// something in it is. An object that cannot be read is appended as it is.
func (f Fields) Append(dst, object []byte) []byte {
	if f.root == nil {
		return append(dst, object...)
	}
	start := len(dst)
	dec := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true))
	out, _, err := f.root.appendObject(dst, dec)
	if err != nil {
		return append(dst[:start], object...)
	}
	return out
}

// appendObject copies the wanted members of the object that dec is at. any
// tells whether there was one.
func (n *fieldNode) appendObject(dst []byte, dec *jsontext.Decoder) (out []byte, any bool, err error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, false, err
	}
	dst = append(dst, '{')
	for dec.PeekKind() == '"' {
		token, err := dec.ReadToken()
		if err != nil {
			return nil, false, err
		}
		name := token.String() // the token is void after the next look
		child := n.below[name]
		if child == nil || (!child.whole && dec.PeekKind() != '{') {
			if err := dec.SkipValue(); err != nil {
				return nil, false, err
			}
			continue
		}
		before := len(dst)
		if any {
			dst = append(dst, ',')
		}
		if dst, err = jsontext.AppendQuote(dst, name); err != nil {
			return nil, false, err
		}
		dst = append(dst, ':')
		kept := true
		if child.whole {
			var v jsontext.Value
			if v, err = dec.ReadValue(); err == nil {
				dst = append(dst, v...)
			}
		} else {
			dst, kept, err = child.appendObject(dst, dec)
		}
		if err != nil {
			return nil, false, err
		}
		if !kept {
			dst = dst[:before]
			continue
		}
		any = true
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, false, err
	}
	return append(dst, '}'), any, nil
}

// splitPath splits a path at its dots. A backslash makes a literal of a dot or
// backslash after it and is itself one before anything else.
func splitPath(path string) []string {
	var names []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			name.WriteByte(path[i])
		case c == '.':
			names = append(names, name.String())
			name.Reset()
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}
