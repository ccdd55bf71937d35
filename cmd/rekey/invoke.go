package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/queue"
)

func invokeCommand() *command {
	return &command{
		name: "invoke",
		args: "[flags] FUNCTION EVENT.json",
		what: "run a function once with an event, as Lambda would",
		help: `
Runs a built function once, as Lambda would, with the event in a file, or on
stdin if the file is "-". FUNCTION is its name or the path of its bootstrap file.
The response is printed on stdout and the function's log on stderr. If the
function fails, stdout gets the error as Lambda reports it, and the exit status
is 1. It is 2 if there was nothing to run.

  AWS_PROFILE=dev rekey invoke secret-rotator events/create-secret.json

The function acts on the AWS that your environment names: it gets your AWS_*
variables (credentials, AWS_PROFILE, AWS_ENDPOINT_URL*, AWS_CA_BUNDLE, ...; the
region is AWS_REGION, else AWS_DEFAULT_REGION, else us-east-1), HOME, REKEY_*,
EXCLUDE_*, PASSWORD_LENGTH, SSL_CERT_FILE, SSL_CERT_DIR, PATH and TMPDIR, and no
others.

With --template it runs as that SAM template deploys it if no parameter is set: with
its environment in place of your REKEY_*, EXCLUDE_* and PASSWORD_LENGTH, its timeout
and its memory size. The stack is taken to be called rekey; its queue must exist, and is
looked for in the region that is set.`,
		run: invoke,
	}
}

func invoke(ctx context.Context, c *call) int {
	flags := new(flag.FlagSet)
	dir := flags.String("functions", "", functionsUsage)
	timeout := flags.Duration("timeout", 30*time.Second, "the `TIME` after which the function is killed (default 30s, or the template's)")
	file := flags.String("template", "", "the SAM template `FILE` that says how the function runs (default none)")
	args, status, ok := c.parse(flags, 2)
	if !ok {
		return status
	}
	if *timeout <= 0 {
		return c.misuse("--timeout is %v; it must be more than nothing", *timeout)
	}
	name, bootstrap, err := findFunction(args[0], *dir)
	if err != nil {
		return c.misuse("%v", err)
	}
	event, err := readEvent(args[1], c.stdin)
	if err != nil {
		return c.misuse("%v", err)
	}

	config := locallambda.Config{
		Name:      name,
		Bootstrap: bootstrap,
		Account:   accountOf(event),
		Region:    cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		Env:       append(callersAWS(), callersVariables()...),
		Timeout:   *timeout,
		Log:       c.stderr,
	}
	if *file != "" {
		as, err := deployedBy(ctx, *file, name, config.Account)
		if err != nil {
			return c.misuse("%v", err)
		}
		config.Name, config.MemoryMB, config.Env = as.name, as.memoryMB, append(callersAWS(), as.env...)
		if !given(flags, "timeout") {
			config.Timeout = as.timeout
		}
	}
	function := locallambda.New(config)
	response, err := function.Invoke(ctx, event)
	// The log is complete when the process is gone; the verdict comes after it.
	function.Close()
	if err != nil {
		if lambdaError, ok := errors.AsType[*locallambda.FunctionError](err); ok {
			json.NewEncoder(c.stdout).Encode(lambdaError)
			err = fmt.Errorf("%s failed: %w", name, err)
		}
		return c.fail(err)
	}
	fmt.Fprintf(c.stdout, "%s\n", response)
	return succeeded
}

// given tells whether a flag was set.
func given(flags *flag.FlagSet, name string) (found bool) {
	flags.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// accountOf returns the account of the secret or parameter that an event names; "" if it
// names none. The function takes it for its own, and so acts with the caller's
// credentials, whichever account they are of.
func accountOf(event []byte) string {
	var e struct {
		SecretID string `json:"SecretId"`
		Records  []struct{ Body string }
	}
	_ = json.Unmarshal(event, &e) // an event of any kind may be sent
	id := e.SecretID
	if len(e.Records) == 1 {
		if m, err := queue.Decode(e.Records[0].Body); err == nil && m.Retire != nil {
			id = m.Retire.ARN
		} else if err == nil {
			id = m.Parameter.ARN
		}
	}
	named, _ := arn.Parse(id)
	return named.AccountID
}

// readEvent reads a JSON event from a file, or from stdin if file is "-".
func readEvent(file string, stdin io.Reader) ([]byte, error) {
	var event []byte
	var err error
	if file == "-" {
		file = "stdin"
		event, err = io.ReadAll(stdin)
	} else {
		event, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the event: %v", err)
	}
	var value json.RawMessage
	if err := json.Unmarshal(event, &value); err != nil {
		return nil, fmt.Errorf("the event in %s is not JSON: %v", file, err)
	}
	return event, nil
}
