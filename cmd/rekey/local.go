package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
)

func localCommand() *command {
	return &command{
		name: "local",
		args: "[flags]",
		what: "serve AWS on this machine, with the functions behind it",
		help: `
Serves the parts of AWS that rekey uses on 127.0.0.1 and runs the built functions
behind them, so that rotate-secret rotates. It prints what a shell must export
and the functions' ARNs on stdout, and then, on stderr, a line for each rotation
step and the functions' logs. It runs until ctrl-C and keeps everything in memory
only.

  rekey local --port 4566

The functions get your EXCLUDE_*, PASSWORD_LENGTH, REKEY_*, SSL_CERT_FILE,
SSL_CERT_DIR, PATH and TMPDIR, and no others of your variables: nothing here
reaches the real AWS.`,
		run: local,
	}
}

func local(ctx context.Context, c *call) int {
	flags := new(flag.FlagSet)
	port := flags.Uint("port", 4566, "the port `N` to listen on, 0 for any that is free (default 4566)")
	dir := flags.String("functions", "", functionsUsage)
	region := flags.String("region", "us-east-1", "the region `R` to be (default us-east-1)")
	_, status, ok := c.parse(flags, 0)
	if !ok {
		return status
	}
	folder, err := functionsDir(*dir)
	if err != nil {
		return c.misuse("%v", err)
	}
	bootstraps, err := filepath.Glob(filepath.Join(folder, "*", "bootstrap"))
	if err != nil || len(bootstraps) == 0 {
		return c.misuse("there are no functions in %s; run `make build`", folder)
	}

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		return c.fail(fmt.Errorf("%w; choose another with --port", err))
	}
	endpoint := "http://" + listener.Addr().String()
	shell := []string{
		"AWS_ENDPOINT_URL=" + endpoint,
		// Any will do, but the AWS SDKs and the CLI want some.
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_REGION=" + *region,
		"AWS_DEFAULT_REGION=" + *region,
	}

	aws := localaws.New(localaws.Config{
		Region: *region,
		Log:    slog.New(slog.NewTextHandler(c.stderr, nil)),
	})
	fmt.Fprintf(c.stdout, "AWS is at %s. Ctrl-C stops it.\n\nThe functions, for --rotation-lambda-arn:\n\n", endpoint)
	for _, bootstrap := range bootstraps {
		name := filepath.Base(filepath.Dir(bootstrap))
		function := locallambda.New(locallambda.Config{
			Name:      name,
			Bootstrap: bootstrap,
			Region:    *region,
			Env:       append(callersVariables(), shell...),
			Log:       c.stderr,
		})
		defer function.Close()
		aws.Handle(name, function)
		fmt.Fprintf(c.stdout, "  %s\n", aws.FunctionARN(name))
	}
	fmt.Fprint(c.stdout, "\nThe shell that is to use it:\n\n")
	for _, v := range shell {
		fmt.Fprintf(c.stdout, "  export %s\n", v)
	}

	server := &http.Server{Handler: aws}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case <-ctx.Done():
		server.Close()
		err = <-ended
	case err = <-ended:
	}
	// Rotations under way end first, then the functions they are waiting for.
	aws.Close()
	if !errors.Is(err, http.ErrServerClosed) {
		return c.fail(err)
	}
	return succeeded
}
