package federation_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"atoll/federation"
)

// specification is where the OpenAPI files of the specification lie, seen from
// this directory.
const specification = "../../shared/matrix-spec/data/api"

// later lists the endpoints of the specification that this handler does not
// serve, by the reason. An endpoint leaves the list when it is in the route
// table: the test insists.
var later = map[string]string{
	"served by the client API's handler, which owns the well-known paths": `
		GET /.well-known/matrix/server`,
	"devices and end-to-end encryption": `
		GET /_matrix/federation/v1/user/devices/{userId}
		POST /_matrix/federation/v1/user/keys/claim
		POST /_matrix/federation/v1/user/keys/query`,
	"media": `
		GET /_matrix/federation/v1/media/download/{mediaId}
		GET /_matrix/federation/v1/media/thumbnail/{mediaId}`,
	"room directory and spaces": `
		GET /_matrix/federation/v1/publicRooms
		POST /_matrix/federation/v1/publicRooms
		GET /_matrix/federation/v1/hierarchy/{roomId}`,
	"looking up events by time": `
		GET /_matrix/federation/v1/timestamp_to_event/{roomId}`,
	"third-party invites": `
		PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}
		PUT /_matrix/federation/v1/3pid/onbind`,
	"OpenID tokens": `
		GET /_matrix/federation/v1/openid/userinfo`,
	"policy servers": `
		POST /_matrix/policy/v1/sign`,
}

// extensions lists what is served beyond the specification, and why.
var extensions = map[string]string{
	"PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}":  "for servers that have not learnt version 2",
	"GET /_matrix/key/v2/server/{keyId}":                       "the path of before 1.6",
	"GET /_matrix/key/v2/query/{serverName}/{keyId}":           "the path of before 1.6",
	"PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}": "for servers that have not learnt version 2",
}

func TestRouteCoverage(t *testing.T) {
	wanted := specEndpoints(t)
	served := map[string]bool{}
	for _, rt := range federation.NewHandler(federation.HandlerOptions{}).Routes() {
		name := rt.Method + " " + rt.Path
		if served[name] {
			t.Errorf("%s is in the route table twice", name)
		}
		served[name] = true
	}
	postponed := map[string]bool{}
	for _, names := range later {
		for line := range strings.Lines(strings.TrimSpace(names)) {
			postponed[strings.TrimSpace(line)] = true
		}
	}
	count := 0
	for name, file := range wanted {
		switch {
		case !served[name] && !postponed[name]:
			t.Errorf("%s (%s) is neither served nor on the list of what comes later", name, file)
		case served[name] && postponed[name]:
			t.Errorf("%s is served: take it off the list of what comes later", name)
		case served[name]:
			count++
		}
	}
	for name := range served {
		if wanted[name] == "" && extensions[name] == "" {
			t.Errorf("%s is served, but is neither in the specification nor among the extensions", name)
		}
	}
	for name := range postponed {
		if wanted[name] == "" {
			t.Errorf("%s is to come later, but is not in the specification", name)
		}
	}
	t.Logf("%d of %d endpoints of the server-server API are served", count, len(wanted))
}

// specEndpoints reads "METHOD path" of every endpoint from the OpenAPI files;
// values are files.
func specEndpoints(t *testing.T) map[string]string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(specification, "server-server", "*.yaml"))
	if len(files) == 0 {
		t.Skipf("ROUTES NOT COMPARED WITH THE SPECIFICATION: no OpenAPI files in %s", specification)
	}
	methods := []string{"get", "put", "post", "delete", "patch", "head"}
	endpoints := map[string]string{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Servers []struct {
				Variables map[string]struct {
					Default string `yaml:"default"`
				} `yaml:"variables"`
			} `yaml:"servers"`
			Paths map[string]map[string]any `yaml:"paths"`
		}
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for path, operations := range doc.Paths {
			for method := range maps.Keys(operations) {
				if slices.Contains(methods, method) {
					full := doc.Servers[0].Variables["basePath"].Default + strings.TrimSpace(path)
					endpoints[strings.ToUpper(method)+" "+full] = filepath.Base(file)
				}
			}
		}
	}
	if len(endpoints) < 30 {
		t.Fatalf("only %d endpoints found in %d files", len(endpoints), len(files))
	}
	return endpoints
}
