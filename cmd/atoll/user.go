package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"atoll/cmd/atoll/config"
	"atoll/cmd/atoll/node"
	"atoll/server"
	"atoll/spec"
	"atoll/storage"
)

type userCommands struct {
	Create userCreateCommand `cmd:"" help:"Create an account."`
}

type userCreateCommand struct {
	configFlag
	Name          string `arg:"" help:"User name, as in alice for @alice:example.org."`
	Admin         bool   `help:"Make the user an administrator of the server."`
	Password      string `help:"Password. Other users of this machine may see it here; better is the prompt, or --password-stdin." placeholder:"PASSWORD"`
	PasswordStdin bool   `help:"Read the password from standard input, up to the end of the line."`
	URL           string `help:"Ask the running server at this URL, with the shared secret of the configuration, instead of writing to the database." placeholder:"URL"`
}

// Run creates the account in the database, or through a running server.
func (c *userCreateCommand) Run(ctx context.Context, p *process) error {
	cfg, err := config.Load(config.Default(), c.Config, p.environ)
	if err != nil {
		return err
	}
	if c.URL != "" && cfg.Registration.SharedSecret == "" {
		return errors.New("--url needs registration.shared_secret in the configuration")
	}
	password, err := c.password(p)
	if err != nil {
		return err
	}
	create := c.createInDatabase
	if c.URL != "" {
		create = c.createThroughServer
	}
	user, err := create(ctx, cfg, password)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.out, user)
	return nil
}

// password takes the password from where the command line says it is.
func (c *userCreateCommand) password(p *process) (server.Secret, error) {
	if c.Password != "" {
		return server.Secret(c.Password), nil
	}
	if file, ok := p.in.(*os.File); ok && !c.PasswordStdin && term.IsTerminal(int(file.Fd())) {
		return promptTwice(file, p.err)
	}
	line, err := bufio.NewReader(p.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("no password: standard input is empty")
	}
	return server.Secret(line), nil
}

// promptTwice asks a person at a terminal, without showing what is typed.
func promptTwice(terminal *os.File, out io.Writer) (server.Secret, error) {
	var typed [2][]byte
	for i, question := range []string{"Password: ", "Once more: "} {
		fmt.Fprint(out, question)
		line, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(out)
		if err != nil {
			return "", err
		}
		typed[i] = line
	}
	if !bytes.Equal(typed[0], typed[1]) {
		return "", errors.New("the two passwords differ")
	}
	return server.Secret(typed[0]), nil
}

// createInDatabase writes the account beside a server that may be running.
func (c *userCreateCommand) createInDatabase(ctx context.Context, cfg config.Config, password server.Secret) (user spec.UserID, err error) {
	keys, err := node.OpenKeys(cfg.DataDir)
	if err != nil {
		return "", err
	}
	db, err := storage.Open(ctx, storage.Options{Database: string(cfg.Database), DataDir: cfg.DataDir})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.BindServerName(ctx, spec.ServerName(cfg.ServerName)); err != nil {
		return "", err
	}
	s, err := server.New(server.Options{
		Name: spec.ServerName(cfg.ServerName), Key: keys.Active, DB: db,
		Passwords: server.PasswordOptions{MinBytes: minPasswordBytes},
	})
	if err != nil {
		return "", err
	}
	return s.Accounts.CreateUser(ctx, server.CreateUser{Username: c.Name, Password: password, Admin: c.Admin})
}

// sharedRegister is the endpoint for whoever knows the shared secret.
const sharedRegister = "/_synapse/admin/v1/register"

// createThroughServer asks a running server, proving that we know its secret.
func (c *userCreateCommand) createThroughServer(ctx context.Context, cfg config.Config, password server.Secret) (spec.UserID, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := strings.TrimRight(c.URL, "/") + sharedRegister
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := callJSON(ctx, http.MethodGet, url, nil, &nonce); err != nil {
		return "", err
	}
	role := "notadmin"
	if c.Admin {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(cfg.Registration.SharedSecret))
	mac.Write([]byte(strings.Join([]string{nonce.Nonce, c.Name, string(password), role}, "\x00")))
	var made struct {
		User spec.UserID `json:"user_id"`
	}
	err := callJSON(ctx, http.MethodPost, url, map[string]any{
		"nonce": nonce.Nonce, "username": c.Name, "password": string(password), "admin": c.Admin,
		"mac": hex.EncodeToString(mac.Sum(nil)), "inhibit_login": true,
	}, &made)
	return made.User, err
}

// callJSON makes one request and reads the answer; errors of the server come
// back in its words.
func callJSON(ctx context.Context, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		var failure struct{ Errcode, Error string }
		if json.Unmarshal(data, &failure) != nil || failure.Errcode == "" {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return fmt.Errorf("%s: %s", failure.Errcode, failure.Error)
	}
	return json.Unmarshal(data, out)
}
