package clientapi

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"atoll/server"
)

// specification is where the OpenAPI files of the specification lie, seen from this directory.
const specification = "../../shared/matrix-spec/data/api"

// later lists the endpoints of the specification that are not served yet, by what they wait for.
// An endpoint leaves the list when it is in the route table: the test insists.
var later = map[string]string{
	"account management": `
		POST /_matrix/client/v3/user/{userId}/openid/request_token`,
	"third-party identifiers": `
		GET /_matrix/client/v3/account/3pid
		POST /_matrix/client/v3/account/3pid
		POST /_matrix/client/v3/account/3pid/add
		POST /_matrix/client/v3/account/3pid/bind
		POST /_matrix/client/v3/account/3pid/delete
		POST /_matrix/client/v3/account/3pid/unbind
		POST /_matrix/client/v3/account/3pid/email/requestToken
		POST /_matrix/client/v3/account/3pid/msisdn/requestToken
		POST /_matrix/client/v3/account/password/email/requestToken
		POST /_matrix/client/v3/account/password/msisdn/requestToken
		POST /_matrix/client/v3/register/email/requestToken
		POST /_matrix/client/v3/register/msisdn/requestToken`,
	"single sign-on and OAuth 2.0": `
		GET /_matrix/client/v3/login/sso/redirect
		GET /_matrix/client/v3/login/sso/redirect/{idpId}
		GET /_matrix/client/v1/auth_metadata`,
	"application services": `
		POST /_matrix/client/v1/appservice/{appserviceId}/ping
		PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}
		GET /_matrix/client/v3/thirdparty/protocols
		GET /_matrix/client/v3/thirdparty/protocol/{protocol}
		GET /_matrix/client/v3/thirdparty/location/{protocol}
		GET /_matrix/client/v3/thirdparty/user/{protocol}
		GET /_matrix/client/v3/thirdparty/location
		GET /_matrix/client/v3/thirdparty/user`,
	"media": `
		GET /_matrix/client/v1/media/download/{serverName}/{mediaId}
		GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}
		GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}
		GET /_matrix/client/v1/media/preview_url
		GET /_matrix/client/v1/media/config
		POST /_matrix/media/v3/upload
		PUT /_matrix/media/v3/upload/{serverName}/{mediaId}
		POST /_matrix/media/v1/create
		GET /_matrix/media/v3/download/{serverName}/{mediaId}
		GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}
		GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}
		GET /_matrix/media/v3/preview_url
		GET /_matrix/media/v3/config`,
	"devices, end-to-end encryption and key backup": `
		POST /_matrix/client/v3/keys/device_signing/upload
		POST /_matrix/client/v3/keys/signatures/upload
		POST /_matrix/client/v3/keys/upload
		POST /_matrix/client/v3/keys/query
		POST /_matrix/client/v3/keys/claim
		GET /_matrix/client/v3/keys/changes
		PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}
		POST /_matrix/client/v3/room_keys/version
		GET /_matrix/client/v3/room_keys/version
		GET /_matrix/client/v3/room_keys/version/{version}
		PUT /_matrix/client/v3/room_keys/version/{version}
		DELETE /_matrix/client/v3/room_keys/version/{version}
		PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}
		GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}
		DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}
		PUT /_matrix/client/v3/room_keys/keys/{roomId}
		GET /_matrix/client/v3/room_keys/keys/{roomId}
		DELETE /_matrix/client/v3/room_keys/keys/{roomId}
		PUT /_matrix/client/v3/room_keys/keys
		GET /_matrix/client/v3/room_keys/keys
		DELETE /_matrix/client/v3/room_keys/keys`,
	"upgrading rooms": `
		POST /_matrix/client/v3/rooms/{roomId}/upgrade`,
	"room directory, spaces and user directory": `
		GET /_matrix/client/v3/directory/list/room/{roomId}
		PUT /_matrix/client/v3/directory/list/room/{roomId}
		GET /_matrix/client/v3/publicRooms
		POST /_matrix/client/v3/publicRooms
		GET /_matrix/client/v1/room_summary/{roomIdOrAlias}
		GET /_matrix/client/v1/rooms/{roomId}/hierarchy
		GET /_matrix/client/v1/mutual_rooms
		POST /_matrix/client/v3/user_directory/search`,
	"relations, threads, search and looking up by time": `
		GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event
		GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}
		GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}
		GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}
		GET /_matrix/client/v1/rooms/{roomId}/threads
		POST /_matrix/client/v3/search`,
	"reports": `
		POST /_matrix/client/v3/rooms/{roomId}/report
		POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}
		POST /_matrix/client/v3/users/{userId}/report`,
	"the sync of before r0, deprecated": `
		GET /_matrix/client/v3/events
		GET /_matrix/client/v3/events/{eventId}
		GET /_matrix/client/v3/initialSync
		GET /_matrix/client/v3/rooms/{roomId}/initialSync`,
	"receipts, typing, presence and tags": `
		POST /_matrix/client/v3/rooms/{roomId}/read_markers
		POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}
		PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}
		PUT /_matrix/client/v3/presence/{userId}/status
		GET /_matrix/client/v3/presence/{userId}/status
		GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags
		PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}
		DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`,
	"push": `
		GET /_matrix/client/v3/notifications
		GET /_matrix/client/v3/pushers
		POST /_matrix/client/v3/pushers/set
		GET /_matrix/client/v3/pushrules/
		GET /_matrix/client/v3/pushrules/global/
		GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}
		PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}
		DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}
		GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled
		PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled
		GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions
		PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`,
	"voice, support and policy servers": `
		GET /_matrix/client/v3/voip/turnServer
		GET /.well-known/matrix/support
		GET /.well-known/matrix/policy_server`,
}

// extensions lists what is served beyond the client-server API's OpenAPI files, and why.
var extensions = map[string]string{
	"GET /.well-known/matrix/server":   "server discovery; in the server-server API, served on the same name",
	"GET /_synapse/admin/v1/register":  "registration by shared secret, as tools for bots and tests expect it",
	"POST /_synapse/admin/v1/register": "registration by shared secret, as tools for bots and tests expect it",
}

func TestRouteCoverage(t *testing.T) {
	wanted := specEndpoints(t)
	h := New(Options{Server: &server.Server{Rooms: new(server.Rooms)}})
	served := map[string]bool{}
	for _, rt := range h.Routes() {
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
	for name, file := range wanted {
		switch {
		case !served[name] && !postponed[name]:
			t.Errorf("%s (%s) is neither served nor on the list of what comes later", name, file)
		case served[name] && postponed[name]:
			t.Errorf("%s is served: take it off the list of what comes later", name)
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
	count := 0
	for name := range wanted {
		if served[name] {
			count++
		}
	}
	t.Logf("%d of %d endpoints of the client-server API are served", count, len(wanted))
}

// specEndpoints reads "METHOD path" of every endpoint from the OpenAPI files; values are files.
func specEndpoints(t *testing.T) map[string]string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(specification, "client-server", "*.yaml"))
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
	if len(endpoints) < 150 {
		t.Fatalf("only %d endpoints found in %d files", len(endpoints), len(files))
	}
	return endpoints
}
