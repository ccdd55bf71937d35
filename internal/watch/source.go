package watch

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/rotators"
)

const (
	// secretsPace is one in a hundred of the reads that Secrets Manager answers in
	// a second (10,000).
	secretsPace = 10 * time.Millisecond
	// parametersPace is, with what is pending, less than half of the reads that
	// Parameter Store answers an account in a second by default (40).
	parametersPace = 100 * time.Millisecond
)

var errBinary = errors.New("it holds binary data, and rekey rotates text")

// Secret is a secret of Secrets Manager.
func Secret(client *secretsmanager.Client, name, arn string) Source {
	read := func(ctx context.Context, stage string) (rotators.Secret, error) {
		out, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &arn, VersionStage: &stage})
		switch {
		case err != nil:
			return rotators.Secret{}, err
		case out.SecretString == nil:
			return rotators.Secret{}, errBinary
		}
		return rotators.NewSecret(*out.SecretString), nil
	}
	return Source{
		Name:    name,
		Pace:    secretsPace,
		Current: func(ctx context.Context) (rotators.Secret, error) { return read(ctx, "AWSCURRENT") },
		Pending: func(ctx context.Context) (rotators.Secret, error) {
			value, err := read(ctx, "AWSPENDING")
			if none := (*smtypes.ResourceNotFoundException)(nil); errors.As(err, &none) {
				return rotators.Secret{}, nil
			}
			return value, err
		},
	}
}

// Parameter is a parameter of Parameter Store. What is pending is in the record of
// the version that readers got last, so it is looked for only after a read.
func Parameter(client *ssm.Client, name, arn string) Source {
	read := func(ctx context.Context, name string) (*ssmtypes.Parameter, error) {
		out, err := client.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
		if err != nil {
			return nil, err
		}
		return out.Parameter, nil
	}
	var version atomic.Int64
	return Source{
		Name: name,
		Pace: parametersPace,
		Current: func(ctx context.Context) (rotators.Secret, error) {
			p, err := read(ctx, name)
			if err != nil {
				return rotators.Secret{}, err
			}
			version.Store(p.Version)
			return rotators.NewSecret(aws.ToString(p.Value)), nil
		},
		Pending: func(ctx context.Context) (rotators.Secret, error) {
			p, err := read(ctx, paramstore.Parameter{ARN: arn, Base: version.Load()}.Record())
			if none := (*ssmtypes.ParameterNotFound)(nil); errors.As(err, &none) {
				return rotators.Secret{}, nil
			}
			if err != nil {
				return rotators.Secret{}, err
			}
			return rotators.NewSecret(aws.ToString(p.Value)), nil
		},
	}
}
