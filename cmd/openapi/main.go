// Command openapi writes openapi.yaml: every endpoint that the server answers, as
// the route tables list them, with what the handlers' Go code says of each: its
// doc comment, its place in the specification, and the type that its body is
// read into.
//
//	go run ./cmd/openapi > openapi.yaml
package main

import (
	"fmt"
	"os"
)

func main() {
	doc, err := generate(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(doc); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}
