package main

import (
	"context"
	"errors"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
)

// attempts is how often a call is sent before it counts as failed. AWS's quotas
// are an account's, so most of what goes wrong is that others are calling too.
const attempts = 10

// loadAWS returns the AWS that the caller's environment names. Calls are as fast
// as AWS lets them be, and slow down when it throttles them.
func loadAWS(ctx context.Context) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRetryMode(aws.RetryModeAdaptive),
		config.WithRetryMaxAttempts(attempts),
		// The SDK would write warnings of its own between the lines of stderr. What
		// matters comes back as an error.
		config.WithLogger(logging.Nop{}),
	)
	if err == nil && cfg.Region == "" {
		err = errors.New("no region is set: set AWS_REGION, or AWS_PROFILE to a profile that has one")
	}
	return cfg, err
}

// stageUsage describes the --stage flag, which two commands have.
const stageUsage = "the `STAGE` that is served, as in the tag rekey:stage (default REKEY_STAGE, else none)"

func callersStage() string { return os.Getenv("REKEY_STAGE") }
