package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tables are the packages with route tables, and the tag of their endpoints.
var tables = []struct{ dir, tag string }{
	{"clientapi", "client-server"},
	{"federation", "server-server"},
}

const head = `# Made by go run ./cmd/openapi from the route tables; not edited by hand.
openapi: 3.1.0
info:
  title: Atoll
  version: "1"
  description: >-
    Every endpoint that an Atoll homeserver answers. The Matrix specification v1.19 says what
    each means; x-spec names the section. Errors are objects with errcode and error.
components:
  securitySchemes:
    accessToken: {type: http, scheme: bearer}
    signedRequest: {type: apiKey, in: header, name: Authorization, description: "X-Matrix: the request signed by the sending server"}
  responses:
    Error:
      description: What was wrong.
      content:
        application/json:
          schema:
            type: object
            required: [errcode]
            properties: {errcode: {type: string}, error: {type: string}, retry_after_ms: {type: integer}}
paths:
`

// generate makes the whole document for the module at root.
func generate(root string) ([]byte, error) {
	type tagged struct {
		endpoint
		tag string
	}
	byPath := map[string][]tagged{}
	for _, t := range tables {
		src, err := parse(filepath.Join(root, t.dir))
		if err != nil {
			return nil, err
		}
		list, err := src.endpoints()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.dir, err)
		}
		for _, e := range list {
			byPath[e.path] = append(byPath[e.path], tagged{e, t.tag})
		}
	}
	paths := make([]string, 0, len(byPath))
	for p := range byPath {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	var out bytes.Buffer
	out.WriteString(head)
	for _, p := range paths {
		fmt.Fprintf(&out, "  %s:\n", p)
		for _, e := range byPath[p] {
			writeOperation(&out, e.endpoint, e.tag)
		}
	}
	return out.Bytes(), nil
}

func writeOperation(out *bytes.Buffer, e endpoint, tag string) {
	fmt.Fprintf(out, "    %s:\n", strings.ToLower(e.method))
	fmt.Fprintf(out, "      tags: [%s]\n", tag)
	fmt.Fprintf(out, "      operationId: %s\n", operationID(e))
	if e.doc != "" {
		fmt.Fprintf(out, "      description: %s\n", strconv.Quote(e.doc))
	}
	if e.spec != "" {
		fmt.Fprintf(out, "      x-spec: %s\n", strconv.Quote(e.spec))
	}
	fmt.Fprintf(out, "      security: %s\n", security(e.auth, tag))
	if vars := variables(e.path); len(vars) > 0 {
		out.WriteString("      parameters:\n")
		for _, v := range vars {
			fmt.Fprintf(out, "        - {name: %s, in: path, required: true, schema: {type: string}}\n", v)
		}
	}
	if len(e.body) > 0 {
		out.WriteString("      requestBody:\n        content:\n          application/json:\n            schema:\n              type: object\n              properties:\n")
		for _, m := range e.body {
			fmt.Fprintf(out, "                %s: %s\n", strconv.Quote(m.name), m.schema)
		}
	}
	out.WriteString("      responses:\n")
	out.WriteString("        \"200\": {description: Done., content: {application/json: {schema: {type: object}}}}\n")
	out.WriteString("        default: {$ref: \"#/components/responses/Error\"}\n")
}

// operationID is unique: several paths share a handler.
func operationID(e endpoint) string {
	var id strings.Builder
	id.WriteString(strings.ToLower(e.method))
	for _, part := range strings.FieldsFunc(strings.TrimPrefix(e.path, "/_matrix"), func(r rune) bool { return !isAlnum(r) }) {
		id.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return id.String()
}

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func security(auth, tag string) string {
	switch {
	case auth == "anyone" || auth == "true": // of the client and of the server API
		return "[]"
	case tag == "server-server":
		return "[{signedRequest: []}]"
	case auth == "maybeUser":
		return "[{}, {accessToken: []}]"
	}
	return "[{accessToken: []}]"
}

// variables lists the names in braces of a path.
func variables(path string) []string {
	var list []string
	for _, part := range strings.Split(path, "{")[1:] {
		name, _, _ := strings.Cut(part, "}")
		list = append(list, name)
	}
	return list
}
