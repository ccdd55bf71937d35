// Package account carries, in a context, the credentials for AWS accounts: above all
// that of the secret that is being rotated, when that is not the function's own. It is
// for rekey's rotators: what they call AWS for belongs to that account, and in the
// function's own a database of the same name would be somebody else's.
package account

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// Credentials returns those for the account that an ARN is of; nil: the function's own.
type Credentials func(ctx context.Context, id string) aws.CredentialsProvider

type key struct{}

// accounts is what a context carries.
type accounts struct {
	credentials Credentials
	id          string // an ARN of the account that the context is for
}

// With returns a context for work in the account that an ARN is of.
func With(ctx context.Context, credentials Credentials, id string) context.Context {
	return context.WithValue(ctx, key{}, accounts{credentials, id})
}

// Of returns a context for work in the account of another secret or parameter, named as
// in the tag rekey:admin. A ref that is no ARN is of the account that ctx is for already.
func Of(ctx context.Context, ref string) context.Context {
	a, ok := ctx.Value(key{}).(accounts)
	ref = strings.TrimPrefix(ref, "ssm:")
	if parsed, err := arn.Parse(ref); !ok || err != nil || parsed.AccountID == "" {
		return ctx
	}
	return With(ctx, a.credentials, ref)
}

// Config returns cfg for the account that ctx is for: as it is if With has said
// nothing.
func Config(ctx context.Context, cfg aws.Config) aws.Config {
	if a, ok := ctx.Value(key{}).(accounts); ok {
		if credentials := a.credentials(ctx, a.id); credentials != nil {
			cfg.Credentials = credentials
		}
	}
	return cfg
}
