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
	"slices"
	"strconv"
	"time"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
)

// What rotates parameters, as the template deploys it.
const (
	parameterPlanner = "parameter-planner"
	parameterRotator = "parameter-rotator"

	parameterQueue   = "rekey-parameters.fifo"
	parameterDead    = "rekey-parameters-dead.fifo"
	parameterTimeout = 120 * time.Second // of parameter-rotator
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
step, queued message and tick of the schedule, and the functions' logs. It runs
until ctrl-C and keeps everything in memory only.

  rekey local --port 4566

With parameter-planner and parameter-rotator among the functions, it has the queue
and the dead-letter queue between them, invokes parameter-rotator with each
message, and parameter-planner at once and then every minute. On AWS that is every
hour.

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
	aws := localaws.New(localaws.Config{
		Region: *region,
		Log:    slog.New(slog.NewTextHandler(c.stderr, nil)),
	})
	shell := []string{"AWS_ENDPOINT_URL=" + endpoint}
	built := func(name string) bool { return slices.Contains(bootstraps, filepath.Join(folder, name, "bootstrap")) }
	parameters := built(parameterPlanner) && built(parameterRotator)
	if parameters {
		shell = append(shell, "REKEY_QUEUE_URL="+aws.QueueURL(endpoint, parameterQueue))
	}
	shell = append(shell,
		// Any will do, but the AWS SDKs and the CLI want some.
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_REGION="+*region,
		"AWS_DEFAULT_REGION="+*region,
	)

	fmt.Fprintf(c.stdout, "AWS is at %s. Ctrl-C stops it.\n\nThe functions, for --rotation-lambda-arn:\n\n", endpoint)
	for _, bootstrap := range bootstraps {
		name := filepath.Base(filepath.Dir(bootstrap))
		function := locallambda.New(locallambda.Config{
			Name:      name,
			Bootstrap: bootstrap,
			Region:    *region,
			// A function is somebody else than the shell, as on AWS.
			Env:     slices.Concat(callersVariables(), shell, []string{"AWS_ACCESS_KEY_ID=" + name}),
			Timeout: timeout(name),
			Log:     c.stderr,
		})
		defer function.Close()
		aws.Handle(name, function)
		fmt.Fprintf(c.stdout, "  %s\n", aws.FunctionARN(name))
	}
	fmt.Fprint(c.stdout, "\nThe shell that is to use it:\n\n")
	for _, v := range shell {
		fmt.Fprintf(c.stdout, "  export %s\n", v)
	}

	if parameters {
		if err := rotateParameters(aws); err != nil {
			return c.fail(err)
		}
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
	// What is under way ends first, then the functions it is waiting for.
	aws.Close()
	if !errors.Is(err, http.ErrServerClosed) {
		return c.fail(err)
	}
	return succeeded
}

// timeout returns that of the function of this name, 0 for locallambda's own.
func timeout(function string) time.Duration {
	if function == parameterRotator {
		return parameterTimeout
	}
	return 0
}

// rotateParameters makes the queues between the two functions and starts what
// invokes these.
func rotateParameters(aws *localaws.Server) error {
	dead, err := aws.AddQueue(parameterDead, map[string]string{
		"FifoQueue":              "true",
		"MessageRetentionPeriod": "1209600", // 14 days, the longest there is
	})
	if err != nil {
		return err
	}
	// A message must stay hidden for as long as a function may work on it.
	visibility := parameterTimeout + 30*time.Second
	if _, err := aws.AddQueue(parameterQueue, map[string]string{
		"FifoQueue":         "true",
		"VisibilityTimeout": strconv.Itoa(int(visibility.Seconds())),
		"RedrivePolicy":     fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":5}`, dead),
	}); err != nil {
		return err
	}
	if err := aws.Subscribe(parameterQueue, parameterRotator, 2); err != nil {
		return err
	}
	return aws.Schedule(parameterPlanner, time.Minute)
}
