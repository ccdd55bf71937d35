// Package account carries, in a context, the credentials for the AWS account of
// the secret that is being rotated, when that is not the function's own. It is
// for rekey's rotators: what they call AWS for belongs to that account, and in
// the function's own a database of the same name would be somebody else's.
package account

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
)

type key struct{}

// With returns a context for work in the account these credentials are for.
func With(ctx context.Context, credentials aws.CredentialsProvider) context.Context {
	return context.WithValue(ctx, key{}, credentials)
}

// Config returns cfg for the account that ctx is for: as it is if With has said
// nothing.
func Config(ctx context.Context, cfg aws.Config) aws.Config {
	if credentials, ok := ctx.Value(key{}).(aws.CredentialsProvider); ok {
		cfg.Credentials = credentials
	}
	return cfg
}
