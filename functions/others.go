package functions

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// others reads secrets other than the one being rotated: admins' logins.
type others struct {
	secrets *secretsmanager.Client
}

var _ rotation.Others = (*others)(nil)

// Lookup implements rotation.Others.
func (o *others) Lookup(ctx context.Context, ref string) (rotators.Secret, error) {
	if strings.HasPrefix(ref, "ssm:") {
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("%q is a parameter, and this version of rekey looks up secrets only", ref))
	}
	v, err := o.secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &ref, VersionStage: aws.String("AWSCURRENT")})
	if err != nil {
		return rotators.Secret{}, fmt.Errorf("reading the secret %s: %w", ref, err)
	}
	return rotators.NewSecret(aws.ToString(v.SecretString)), nil
}

// AdminFor implements rotation.Others.
func (o *others) AdminFor(ctx context.Context, ref string) (string, error) {
	s, err := o.secrets.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &ref})
	if err != nil {
		return "", fmt.Errorf("reading the tags of the secret %s: %w", ref, err)
	}
	for _, tag := range s.Tags {
		if aws.ToString(tag.Key) == rotation.TagPrefix+"admin-for" {
			return aws.ToString(tag.Value), nil
		}
	}
	return "", nil
}
