package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// localEnv is the environment of a server with its data in dir.
func localEnv(dir string, more ...string) []string {
	return append([]string{"ATOLL_DATA_DIR=" + dir, "ATOLL_SERVER_NAME=hs.test", `ATOLL_LISTENERS=[{address: "127.0.0.1:0"}]`}, more...)
}

func TestServeNeedsNoFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := serve(t, localEnv(dir))
	s.must("GET", "/_matrix/client/versions", "", nil)
	if status, answer, err := s.ask("POST", "/_matrix/client/v3/register", "", map[string]any{"username": "eve", "password": "hunter2hunter2",
		"auth": map[string]string{"type": "m.login.dummy"}}); err != nil || status != http.StatusForbidden {
		t.Errorf("registration is open by default: %d %v %v", status, answer, err)
	}
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	for _, name := range []string{"atoll.db", "signing.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", name, info.Mode())
		}
	}
}

func TestServeSessions(t *testing.T) {
	s := serve(t, localEnv(filepath.Join(t.TempDir(), "data"), "ATOLL_REGISTRATION_MODE=open", "ATOLL_REGISTRATION_GUESTS=true",
		"ATOLL_JWT_SECRET=a secret of sixteen", "ATOLL_SESSIONS_ACCESS_TOKEN_MINUTES=5",
		`ATOLL_REGISTRATION_POLICIES=[{id: terms, version: "1", language: en, name: Terms, url: "https://hs.test/terms"}]`))
	_, flows, err := s.ask("GET", "/_matrix/client/v3/login", "", nil)
	if text := fmt.Sprint(flows); err != nil || !strings.Contains(text, "m.login.token") || !strings.Contains(text, "org.matrix.login.jwt") {
		t.Errorf("login flows %v, %v", flows, err)
	}
	if status, answer, err := s.ask("POST", "/_matrix/client/v3/register?kind=guest", "", map[string]any{}); err != nil || status != http.StatusOK {
		t.Errorf("a guest: %d %v %v", status, answer, err)
	}
	status, answer, err := s.ask("POST", "/_matrix/client/v3/register", "", map[string]any{"username": "eve", "password": "hunter2hunter2",
		"refresh_token": true, "auth": map[string]string{"type": "m.login.terms"}})
	if err != nil || status != http.StatusOK || fmt.Sprint(answer["expires_in_ms"]) != "300000" {
		t.Errorf("registration: %d %v %v", status, answer, err)
	}
}

func TestServeReportsEveryProblem(t *testing.T) {
	file := filepath.Join(t.TempDir(), "atoll.yaml")
	if err := os.WriteFile(file, []byte("server_nam: x\nlog: {level: loud}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := atoll(t, "", []string{"ATOLL_REGISTRATION_MODE=maybe"}, "serve", "--config", file)
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range []string{"3 problems", "atoll.yaml:1: server_nam", "atoll.yaml:2: log.level", "ATOLL_REGISTRATION_MODE: registration.mode"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
}

func TestServeRefusesASecondProcess(t *testing.T) {
	dir := t.TempDir()
	serve(t, localEnv(dir))
	_, stderr, code := atoll(t, "", localEnv(dir), "serve")
	if code != 1 || !strings.Contains(stderr, "in use") {
		t.Errorf("exit code %d, %s; want that the data directory is in use", code, stderr)
	}
}

func TestServeKeepsItsName(t *testing.T) {
	dir := t.TempDir()
	serve(t, localEnv(dir)).stop(syscall.SIGTERM)
	_, stderr, code := atoll(t, "", localEnv(dir, "ATOLL_SERVER_NAME=other.test"), "serve")
	if code != 1 || !strings.Contains(stderr, "the database of hs.test") {
		t.Errorf("under another name: exit code %d, %s", code, stderr)
	}
}

func TestServeOperatorsListener(t *testing.T) {
	s := serve(t, localEnv(t.TempDir(), "ATOLL_ADMIN_ADDRESS=127.0.0.1:0"))
	if len(s.addresses) != 2 {
		t.Fatalf("listens at %v, want a second address for operators", s.addresses)
	}
	for i, want := range []int{http.StatusNotFound, http.StatusOK} {
		response, err := http.Get("http://" + s.addresses[i] + "/debug/pprof/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("profiles at listener %d: %d, want %d", i, response.StatusCode, want)
		}
	}
}

func TestUserCreate(t *testing.T) {
	dir := t.TempDir()
	env := localEnv(dir, "ATOLL_REGISTRATION_SHARED_SECRET=an operator's secret")
	stdout, stderr, code := atoll(t, "correct horse\n", env, "user", "create", "--password-stdin", "alice")
	if code != 0 || stdout != "@alice:hs.test\n" {
		t.Fatalf("before the first start: exit code %d, %q, %s", code, stdout, stderr)
	}
	s := serve(t, env)
	s.login("alice", "correct horse")
	url := "http://" + s.addresses[0]
	for _, how := range []struct {
		name string
		args []string
	}{
		{"bob", nil}, {"carol", []string{"--url", url}}, {"dave", []string{"--admin", "--url", url + "/"}},
	} {
		stdout, stderr, code := atoll(t, "correct horse", env, append([]string{"user", "create", how.name}, how.args...)...)
		if code != 0 || stdout != "@"+how.name+":hs.test\n" {
			t.Fatalf("%s while the server runs: exit code %d, %q, %s", how.name, code, stdout, stderr)
		}
		s.login(how.name, "correct horse")
	}
	for _, bad := range []struct {
		name, input string
		args        []string
		want        string
	}{
		{"a name that is taken", "correct horse", []string{"alice"}, "taken"},
		{"a name that is taken, through the server", "correct horse", []string{"alice", "--url", url}, "taken"},
		{"a short password", "short", []string{"frank"}, "password"},
		{"no password", "", []string{"frank"}, "no password"},
		{"a name that is none", "correct horse", []string{"Frank Zappa"}, ""},
	} {
		if _, stderr, code := atoll(t, bad.input, env, append([]string{"user", "create"}, bad.args...)...); code != 1 || !strings.Contains(stderr, bad.want) {
			t.Errorf("%s: exit code %d, %s; want 1 and %q", bad.name, code, stderr, bad.want)
		}
	}
}

func TestInit(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "atoll.yaml"), filepath.Join(dir, "its data")
	stdout, stderr, code := atoll(t, "", nil, "init", "hs.test", "--config", file, "--data-dir", data)
	if code != 0 || !strings.Contains(stdout, "ed25519:") {
		t.Fatalf("exit code %d, %s %s", code, stdout, stderr)
	}
	s := serve(t, []string{`ATOLL_LISTENERS=[{address: "127.0.0.1:0"}]`}, "--config", file)
	if !strings.Contains(s.logged(), "server=hs.test") {
		t.Errorf("the server does not have the name of the file:\n%s", s.logged())
	}
	if _, err := os.Stat(filepath.Join(data, "atoll.db")); err != nil {
		t.Error(err)
	}
	if _, stderr, code := atoll(t, "", nil, "init", "other.test", "--config", file); code != 1 || !strings.Contains(stderr, "exists already") {
		t.Errorf("a second init: exit code %d, %s", code, stderr)
	}
}

func TestCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, stderr, code := atoll(t, "", localEnv(dir), "check"); code != 1 || !strings.Contains(stderr, "no such file") {
		t.Errorf("without a database: exit code %d, %s", code, stderr)
	}
	if _, stderr, code := atoll(t, "correct horse", localEnv(dir), "user", "create", "alice"); code != 0 {
		t.Fatal(stderr)
	}
	if stdout, stderr, code := atoll(t, "", localEnv(dir), "check"); code != 0 || !strings.Contains(stdout, "consistent") {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
}

func TestCommandLine(t *testing.T) {
	if stdout, _, code := atoll(t, "", nil, "version"); code != 0 || !strings.HasPrefix(stdout, "atoll "+version) {
		t.Errorf("version: %d %s", code, stdout)
	}
	if stdout, _, code := atoll(t, "", nil, "--help"); code != 0 || !strings.Contains(stdout, "serve") {
		t.Errorf("help: %d %s", code, stdout)
	}
	if _, stderr, code := atoll(t, "", nil, "sevre"); code != 2 || !strings.Contains(stderr, "sevre") {
		t.Errorf("nonsense: %d %s", code, stderr)
	}
}

func TestMemoryLimitOfTheControlGroup(t *testing.T) {
	files := map[string]string{"/a/b/memory.max": "max\n", "/a/memory.max": "1073741824\n", "/memory.max": "2147483648\n"}
	read := func(path string) (string, error) {
		if text, ok := files[path]; ok {
			return text, nil
		}
		return "", fs.ErrNotExist
	}
	for group, want := range map[string]int64{
		"0::/a/b\n":           1 << 30,
		"0::/\n":              2 << 30,
		"4:memory:/docker/x":  math.MaxInt64,
		"":                    math.MaxInt64,
		"1:cpu:/x\n0::/c/d\n": 2 << 30,
	} {
		if got := cgroupLimit(group, read); got != want {
			t.Errorf("%q: %d, want %d", group, got, want)
		}
	}
}

// TestServeStopsWhenTold is for whoever calls run in a process of their own.
func TestServeStopsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stop before the start"))
	p := &process{in: strings.NewReader(""), out: t.Output(), err: t.Output(), environ: localEnv(t.TempDir())}
	if code := run(ctx, []string{"serve"}, p); code != 0 && code != 1 {
		t.Errorf("exit code %d", code)
	}
}
func TestServeStopsLongPolls(t *testing.T) {
	s := serve(t, localEnv(t.TempDir(), "ATOLL_REGISTRATION_MODE=open"))
	token := s.register("alice", "correct horse")
	since := s.must("GET", "/_matrix/client/v3/sync?timeout=0", token, nil)["next_batch"].(string)
	polls := make(chan error, 1)
	entered := make(chan struct{})
	go func() {
		close(entered)
		_, _, err := s.ask("GET", "/_matrix/client/v3/sync?timeout=600000&since="+since, token, nil)
		polls <- err
	}()
	<-entered
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	select {
	case <-polls: // an empty answer or a closed connection, but not ten minutes
	case <-time.After(patience):
		t.Error("the long poll goes on")
	}
}
