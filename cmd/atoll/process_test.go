package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the command itself: whoever starts it under
// the name atoll gets what the real binary does, even in an empty environment.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "atoll" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience bounds what a test waits for; nothing takes nearly as long.
const patience = time.Minute

// command returns the atoll command with no environment but the one given.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = append([]string{"atoll"}, args...)
	cmd.Env = append([]string{"TMPDIR=/nonexistent"}, env...)
	return cmd
}

// atoll runs a command to its end.
func atoll(t *testing.T, input string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := command(ctx, env, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// running is a homeserver in a process of its own.
type running struct {
	t         *testing.T
	cmd       *exec.Cmd
	addresses []string // where it listens, in the order of its listeners
	done      chan struct{}

	mu  sync.Mutex // mu guards log
	log bytes.Buffer
}

var listening = regexp.MustCompile(`msg=listening address=(\S+)`)

// serve starts `atoll serve` and waits until it is ready. It is killed at the
// end of the test if it still runs.
func serve(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: command(context.Background(), env, append([]string{"serve"}, args...)...), done: make(chan struct{})}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stdout, r.cmd.Stderr = write, write
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	ready := make(chan struct{})
	go r.follow(read, ready)
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("log of the server:\n%s", r.logged())
		}
	})
	select {
	case <-ready:
	case <-r.done:
		t.Fatalf("the server ended before it was ready:\n%s", r.logged())
	case <-time.After(patience):
		t.Fatalf("the server is not ready:\n%s", r.logged())
	}
	return r
}

// follow reads the log to its end and then takes the exit code.
func (r *running) follow(log io.Reader, ready chan struct{}) {
	defer close(r.done)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		line := lines.Text()
		r.mu.Lock()
		fmt.Fprintln(&r.log, line)
		r.mu.Unlock()
		if m := listening.FindStringSubmatch(line); m != nil {
			r.addresses = append(r.addresses, m[1])
		}
		if strings.Contains(line, "msg=ready") {
			close(ready)
		}
	}
	r.cmd.Wait()
}

func (r *running) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// stop sends a signal, waits for the end and returns the exit code, -1 if the
// signal killed it.
func (r *running) stop(signal syscall.Signal) int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("the server goes on after %v", signal)
	}
	return r.cmd.ProcessState.ExitCode()
}

// ask makes a request of the client API and returns status and body.
func (r *running) ask(method, path, token string, body any) (int, map[string]any, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequest(method, "http://"+r.addresses[0]+path, content)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer := map[string]any{}
	err = json.NewDecoder(response.Body).Decode(&answer)
	return response.StatusCode, answer, err
}

// must is ask for what has to work.
func (r *running) must(method, path, token string, body any) map[string]any {
	r.t.Helper()
	status, answer, err := r.ask(method, path, token, body)
	if err != nil || status != http.StatusOK {
		r.t.Fatalf("%s %s: %d %v %v", method, path, status, answer, err)
	}
	return answer
}

// register makes a user by open registration and returns the access token.
func (r *running) register(name, password string) string {
	r.t.Helper()
	answer := r.must("POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": name, "password": password, "auth": map[string]string{"type": "m.login.dummy"},
	})
	return answer["access_token"].(string)
}

// login logs a user in and returns the access token.
func (r *running) login(name, password string) string {
	r.t.Helper()
	answer := r.must("POST", "/_matrix/client/v3/login", "", map[string]any{
		"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": name}, "password": password,
	})
	return answer["access_token"].(string)
}
