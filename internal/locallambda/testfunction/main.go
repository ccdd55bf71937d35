// The command testfunction is a Lambda function that does what its event says.
// It is for the tests of locallambda and of the rekey command, which build it
// and run it as a bootstrap file.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type event struct {
	Do   string // what to do; handle lists it
	Text string // what to do it with
	Step string // set in a rotation event, which is agreed to
}

func main() {
	// What to do instead of starting.
	switch os.Getenv("TESTFUNCTION_INIT") {
	case "exit":
		os.Exit(3)
	case "hang":
		hang()
	case "error":
		http.Post("http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+"/2018-06-01/runtime/init/error", "application/json",
			strings.NewReader(`{"errorType":"Config.Missing","errorMessage":"no table named"}`))
		os.Exit(1)
	}
	lambda.Start(handle)
}

func handle(ctx context.Context, e event) (any, error) {
	if e.Step != "" {
		fmt.Println("the function was asked to", e.Step)
		return nil, nil
	}
	switch e.Do {
	case "echo":
		return e.Text, nil
	case "print":
		fmt.Println(e.Text)
		fmt.Fprintln(os.Stderr, "stderr: "+e.Text)
		return nil, nil
	case "pid":
		return os.Getpid(), nil
	case "environ":
		return os.Environ(), nil
	case "context":
		lc, _ := lambdacontext.FromContext(ctx)
		deadline, _ := ctx.Deadline()
		return map[string]any{"id": lc.AwsRequestID, "arn": lc.InvokedFunctionArn, "left": time.Until(deadline)}, nil
	case "big":
		return strings.Repeat("x", 7<<20), nil
	case "call": // Text is a URL; returns when it answers.
		_, err := http.Get(e.Text)
		return nil, err
	case "fail":
		return nil, errors.New(e.Text)
	case "fail as":
		return nil, messages.InvokeResponse_Error{Type: e.Text, Message: "as asked"}
	case "panic":
		panic(e.Text)
	case "exit":
		os.Exit(7)
	case "exit well":
		os.Exit(0)
	case "hang":
		hang()
	}
	return nil, fmt.Errorf("cannot %q", e.Do)
}

// hang returns when the process is told to end; kill -9 does not tell.
func hang() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	<-told
}
