// Command atoll is a Matrix homeserver.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// commands is the grammar of the command line.
type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run the homeserver."`
	Demo    demoCommand    `cmd:"" help:"Run three homeservers that talk, lose each other and meet again."`
	Init    initCommand    `cmd:"" help:"Write a commented configuration file and a signing key."`
	User    userCommands   `cmd:"" help:"Manage accounts."`
	Check   checkCommand   `cmd:"" help:"Verify that the database is consistent."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// process is what a command may use of the process around it.
type process struct {
	in       io.Reader
	out, err io.Writer
	environ  []string // in the form of os.Environ
}

func main() {
	privateFiles()
	os.Exit(run(context.Background(), os.Args[1:], &process{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}))
}

// run carries out one command line and returns the exit code: 0 when it worked,
// 1 when it did not, 2 when the command line makes no sense.
func run(ctx context.Context, args []string, p *process) int {
	exit, code := false, 0
	parser, err := kong.New(&commands{},
		kong.Name("atoll"),
		kong.Description("Atoll is a Matrix homeserver."),
		kong.UsageOnError(),
		kong.Writers(p.out, p.err),
		kong.Exit(func(c int) { exit, code = true, c }),
		kong.Bind(p),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		panic(err) // the grammar itself is wrong
	}
	command, err := parser.Parse(args)
	if exit { // --help
		return code
	}
	var usage *kong.ParseError
	if errors.As(err, &usage) {
		fmt.Fprintf(p.err, "atoll: %v\n\nTry \"atoll --help\".\n", err)
		return 2
	}
	if err == nil {
		err = command.Run()
	}
	if err != nil {
		fmt.Fprintf(p.err, "atoll: %v\n", err)
		return 1
	}
	return 0
}
