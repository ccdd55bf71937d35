package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/lambda"
)

// build is laid out as make build lays it out: rekey, and a function of the
// name people use, here the one that does as it is told.
var build string

// parameters is the same with the two functions that rotate parameters. They are
// this test's own program, see parameterFunction.
var parameters string

func TestMain(m *testing.M) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		lambda.Start(parameterFunction)
	}
	os.Exit(func() int {
		var err error
		if build, err = os.MkdirTemp("", "rekey"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(build)
		for file, source := range map[string]string{
			"rekey":                    ".",
			"secret-rotator/bootstrap": "../../internal/locallambda/testfunction",
		} {
			if out, err := exec.Command("go", "build", "-o", filepath.Join(build, file), source).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", source, err, out)
				return 1
			}
		}
		if parameters, err = os.MkdirTemp("", "rekey"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(parameters)
		self, err := os.Executable()
		for _, name := range []string{parameterPlanner, parameterRotator} {
			folder := filepath.Join(parameters, name)
			if err = errors.Join(err, os.Mkdir(folder, 0o700), os.Symlink(self, filepath.Join(folder, "bootstrap"))); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return m.Run()
	}())
}

// rekey runs the command in this process.
func rekey(ctx context.Context, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, log bytes.Buffer
	status = run(ctx, args, strings.NewReader(stdin), &out, &log)
	return status, out.String(), log.String()
}

func TestUsage(t *testing.T) {
	tests := []struct {
		args           string
		status         int
		stdout, stderr string // what they must hold; "" is nothing
	}{
		{"", misused, "", "rekey invoke   run a function once"},
		{"help", succeeded, "rekey invoke   run a function once", ""},
		{"--help", succeeded, "rekey invoke   run a function once", ""},
		{"help invoke", succeeded, "usage: rekey invoke [flags] FUNCTION EVENT.json\n", ""},
		{"invoke --help", succeeded, "  --timeout TIME     the TIME after which", ""},
		{"help local", succeeded, "usage: rekey local [flags]\n", ""},
		{"rotated", misused, "", "there is no command \"rotated\"\n\nrekey shows what is rotated"},
		{"help plan", succeeded, "usage: rekey plan [flags]\n", ""},
		{"help rotate", succeeded, "  --queue-url URL    the URL of the queue", ""},
		{"plan prod", misused, "", "wrong number of arguments: 1, not 0; usage: rekey plan [flags]\n"},
		{"rotate", misused, "", "wrong number of arguments: 0, not 1; usage: rekey rotate [flags] NAME|ARN\n"},
		{"rotate x --wait --timeout 0s", misused, "", "--timeout is 0s"},
		{"rotate arn:aws:iam::000000000000:user/app", misused, "", "arn:aws:iam::000000000000:user/app is no name or ARN of what rekey rotates"},
		{"rotate ssm:shop/password", misused, "", "ssm:shop/password is no name or ARN of what rekey rotates"},
		{"version", succeeded, " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n", ""},
		{"version now", misused, "", "wrong number of arguments: 1, not 0; usage: rekey version\n"},
		{"invoke secret-rotator", misused, "", "wrong number of arguments: 1, not 2; usage: rekey invoke [flags] FUNCTION EVENT.json\n"},
		{"invoke a b --colour", misused, "", "flag provided but not defined: -colour\nsee: rekey help invoke\n"},
		{"invoke a b --timeout 0s", misused, "", "--timeout is 0s"},
		{"invoke secret-rotator - --functions /nowhere", misused, "", "no function at /nowhere/secret-rotator/bootstrap; run `make build`"},
		{"invoke ./main.go/bootstrap -", misused, "", "main.go/bootstrap: not a directory"},
		{"invoke ../rekey -", misused, "", "is not a bootstrap file"},
		{"local --port 99999 --functions " + build, failed, "", "invalid port; choose another with --port"},
		{"local --functions /nowhere", misused, "", "there are no functions in /nowhere; run `make build`"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			status, stdout, stderr := rekey(t.Context(), "", strings.Fields(tt.args)...)
			if status != tt.status {
				t.Errorf("exit status %d, want %d", status, tt.status)
			}
			for _, s := range []struct{ name, got, want string }{{"stdout", stdout, tt.stdout}, {"stderr", stderr, tt.stderr}} {
				if !strings.Contains(s.got, s.want) || (s.want == "") != (s.got == "") {
					t.Errorf("%s is %q, want %q in it", s.name, s.got, s.want)
				}
			}
		})
	}
}
