package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/account"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// others reads secrets and parameters other than the secret being rotated:
// admins' logins. An ARN says of which account they are; a name is one in the
// account of the secret being rotated.
type others struct {
	accounts *accounts
	id       string // of the secret being rotated
}

var _ rotation.Others = (*others)(nil)

// Lookup implements rotation.Others.
func (o *others) Lookup(ctx context.Context, ref string) (rotators.Secret, error) {
	if name, ok := strings.CutPrefix(ref, "ssm:"); ok {
		return o.parameter(ctx, name)
	}
	client := o.secrets(ctx, ref)
	v, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &ref, VersionStage: aws.String("AWSCURRENT")})
	switch {
	case isNoSecret(err):
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("there is no secret %s, or it has no value: correct what names it (%w)", ref, err))
	case err != nil:
		return rotators.Secret{}, fmt.Errorf("reading the secret %s: %w", ref, err)
	case v.SecretString == nil:
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("the secret %s holds binary data, and rekey reads text: store it as a SecretString", ref))
	}
	value := rotators.NewSecret(*v.SecretString)
	if !bare(value) {
		return value, nil
	}
	secret, err := client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &ref})
	if err != nil {
		return rotators.Secret{}, fmt.Errorf("reading the tags of the secret %s, to learn which database it is for: %w", ref, err)
	}
	if aws.ToString(secret.OwningService) != "rds" {
		return value, nil
	}
	return o.managed(account.Of(ctx, ref), secret, value)
}

// bare tells whether a value is a login that does not say where to: what the
// secrets hold that RDS manages.
func bare(value rotators.Secret) bool {
	for name, want := range map[string]bool{"username": true, "password": true, "host": false} {
		if field, err := value.Field(name); err != nil || field.IsZero() == want {
			return false
		}
	}
	return true
}

// managed adds to the value of a secret that RDS manages where its database is.
func (o *others) managed(ctx context.Context, secret *secretsmanager.DescribeSecretOutput, value rotators.Secret) (rotators.Secret, error) {
	names := map[string]string{}
	for _, tag := range secret.Tags {
		switch strings.ToLower(aws.ToString(tag.Key)) {
		case "aws:rds:primarydbinstancearn":
			names["dbInstanceIdentifier"] = aws.ToString(tag.Value)
		case "aws:rds:primarydbclusterarn":
			names["dbClusterIdentifier"] = aws.ToString(tag.Value)
		}
	}
	if len(names) == 0 {
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("the secret %s is managed by RDS and has no tag that says for which database: name an admin's secret that holds a host", aws.ToString(secret.ARN)))
	}
	asked, _ := json.Marshal(names) // strings always encode
	place, err := database.RDS(o.accounts.cfg).Locate(ctx, rotators.NewSecret(string(asked)))
	if err != nil {
		return rotators.Secret{}, fmt.Errorf("finding the database of the secret %s, which RDS manages: %w", aws.ToString(secret.ARN), err)
	}
	fields, _ := json.Marshal(struct {
		Host   string `json:"host"`
		Port   int    `json:"port"`
		Engine string `json:"engine"`
	}{place.Host, place.Port, place.Engine})
	text := strings.TrimSpace(value.Reveal())
	return rotators.NewSecret(strings.TrimSuffix(text, "}") + "," + string(fields[1:])), nil
}

// parameter reads a SecureString.
func (o *others) parameter(ctx context.Context, name string) (rotators.Secret, error) {
	out, err := ssm.NewFromConfig(o.config(ctx, name)).GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	var missing *ssmtypes.ParameterNotFound
	switch {
	case errors.As(err, &missing):
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("there is no parameter %s: correct what names it (%w)", name, err))
	case err != nil:
		return rotators.Secret{}, fmt.Errorf("reading the parameter %s: %w", name, err)
	case out.Parameter.Type != ssmtypes.ParameterTypeSecureString:
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("the parameter %s is a %s, which everybody can read who can describe it: store the login as a SecureString, and change the password that was in it", name, out.Parameter.Type))
	}
	return rotators.NewSecret(aws.ToString(out.Parameter.Value)), nil
}

// AdminFor implements rotation.Others. Names in the tag are those of secrets of
// the admin's own account: to one of another account, where anybody may have
// given it that name, the tag speaks by ARN only.
func (o *others) AdminFor(ctx context.Context, ref string) (string, error) {
	list, err := o.adminFor(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("reading the tags of %s: %w", ref, err)
	}
	if admin := parse(strings.TrimPrefix(ref, "ssm:")).AccountID; admin != "" && admin != parse(o.id).AccountID {
		var kept []string
		for entry := range strings.FieldsSeq(list) {
			if parse(entry).AccountID != "" {
				kept = append(kept, entry)
			}
		}
		list = strings.Join(kept, " ")
	}
	return list, nil
}

func (o *others) adminFor(ctx context.Context, ref string) (string, error) {
	const key = rotation.TagPrefix + "admin-for"
	if name, ok := strings.CutPrefix(ref, "ssm:"); ok {
		out, err := ssm.NewFromConfig(o.config(ctx, name)).ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{
			ResourceType: ssmtypes.ResourceTypeForTaggingParameter, ResourceId: &name,
		})
		if err != nil {
			return "", err
		}
		for _, tag := range out.TagList {
			if aws.ToString(tag.Key) == key {
				return aws.ToString(tag.Value), nil
			}
		}
		return "", nil
	}
	secret, err := o.secrets(ctx, ref).DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &ref})
	if err != nil {
		return "", err
	}
	for _, tag := range secret.Tags {
		if aws.ToString(tag.Key) == key {
			return aws.ToString(tag.Value), nil
		}
	}
	return "", nil
}

// place is the ARN that says in whose account ref is.
func (o *others) place(ref string) string {
	if parse(ref).AccountID == "" {
		return o.id
	}
	return ref
}

func (o *others) secrets(ctx context.Context, ref string) *secretsmanager.Client {
	return o.accounts.secrets(ctx, o.place(ref))
}

func (o *others) config(ctx context.Context, ref string) aws.Config {
	return o.accounts.config(ctx, o.place(ref))
}

func isNoSecret(err error) bool {
	var missing *types.ResourceNotFoundException
	return errors.As(err, &missing)
}
