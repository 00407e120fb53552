package main

import (
	"bytes"
	"os"
	"testing"

	"go.yaml.in/yaml/v4"

	"atoll/clientapi"
	"atoll/federation"
	"atoll/server"
)

// document reads openapi.yaml as anybody would.
func document(t *testing.T, raw []byte) map[string]map[string]any {
	t.Helper()
	var doc struct {
		OpenAPI string                    `yaml:"openapi"`
		Paths   map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Fatalf("openapi is %q", doc.OpenAPI)
	}
	return doc.Paths
}

func TestDocumentIsFresh(t *testing.T) {
	made, err := generate("../..")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("../../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made, kept) {
		t.Error("openapi.yaml is out of date: go run ./cmd/openapi > openapi.yaml")
	}
}

// TestDocumentHasEveryRoute compares the document with the tables that really
// serve, which the generator reads as source only.
func TestDocumentHasEveryRoute(t *testing.T) {
	made, err := generate("../..")
	if err != nil {
		t.Fatal(err)
	}
	paths := document(t, made)
	served := 0
	check := func(method, path string) {
		served++
		operation, ok := paths[path][lower(method)].(map[string]any)
		if !ok {
			t.Errorf("%s %s is served but not in the document", method, path)
			return
		}
		if operation["description"] == nil {
			t.Errorf("%s %s: the handler has no comment", method, path)
		}
	}
	for _, r := range clientapi.New(clientapi.Options{Server: &server.Server{}}).Routes() {
		check(r.Method, r.Path)
	}
	for _, r := range federation.NewHandler(federation.HandlerOptions{}).Routes() {
		check(r.Method, r.Path)
	}
	listed := 0
	for _, operations := range paths {
		listed += len(operations)
	}
	if listed != served {
		t.Errorf("the document lists %d operations, %d are served", listed, served)
	}
}

func lower(s string) string { return string(bytes.ToLower([]byte(s))) }
