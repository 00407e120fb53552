package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"atoll/cmd/atoll/config"
	"atoll/cmd/atoll/node"
	"atoll/spec"
)

type initCommand struct {
	ServerName string `arg:"" optional:"" help:"Name of the homeserver, as in example.org: what stands after the colon in user ids."`
	Config     string `help:"Configuration file to write." default:"atoll.yaml" placeholder:"FILE"`
	DataDir    string `help:"Directory for the signing key and everything else that must be kept." default:"./data" placeholder:"DIR"`
}

// Run writes the two files. An existing configuration is never replaced, an
// existing key is kept.
func (c *initCommand) Run(p *process) error {
	name := c.ServerName
	if name == "" {
		name = config.Default().ServerName
	}
	if _, err := spec.ParseServerName(name); err != nil {
		return err
	}
	text := strings.Replace(config.Sample, "server_name: localhost\n", "server_name: "+yamlText(name)+"\n", 1)
	if c.DataDir != config.Default().DataDir {
		text = strings.Replace(text, "#: data_dir: ./data\n", "data_dir: "+yamlText(c.DataDir)+"\n", 1)
	}
	file, err := os.OpenFile(c.Config, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // it may come to hold secrets
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already and stays as it is", c.Config)
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	keys, err := node.OpenKeys(c.DataDir)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%s: configuration of %s, every key with its default and meaning\n", c.Config, name)
	fmt.Fprintf(p.out, "%s: signing key %s, the identity of the server: keep a copy\n", filepath.Join(c.DataDir, node.KeyFile), keys.Active.ID)
	fmt.Fprintf(p.out, "Next: atoll serve --config %s\n", c.Config)
	return nil
}

// yamlText quotes a value so that YAML takes it as text, whatever is in it.
func yamlText(s string) string {
	if strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./_-") == "" && s != "" && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
