package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators/generated"
)

// accessKey rotates the access key of an IAM user.
func (d *demo) accessKey(ctx context.Context) error {
	const user = "mailer"
	type accessKey struct{ UserName, AccessKeyId, SecretAccessKey string }
	first := accessKey{UserName: user}
	first.AccessKeyId, first.SecretAccessKey = d.cloud.AddAccessKey(d.cloud.AddUser(localaws.User{UserName: user}))
	value, err := json.Marshal(first)
	if err != nil {
		return err
	}
	fmt.Printf(`
IAM: the secret shop/%s holds the access key of the user %[1]s, who may change it. All
of AWS knows a new key after some seconds only, so setSecret waits until it does:

`, user)
	text, err := d.rotate(ctx, &secretsmanager.CreateSecretInput{
		Name: aws.String("shop/" + user), SecretString: aws.String(string(value)), Tags: tags("rekey:rotator", "iam-key"),
	}, 1, map[string]string{
		"createSecret": "made a second key and stored it as AWSPENDING",
		"setSecret":    "asked STS whose it is until it knew for 15 seconds",
		"testSecret":   "asked once more",
		"finishSecret": "moved AWSCURRENT: readers get the new key",
	})
	if err != nil {
		return err
	}
	var second accessKey
	if err := json.Unmarshal([]byte(text), &second); err != nil {
		return err
	}
	works := func(key accessKey) bool {
		cfg := d.config.Copy()
		cfg.Credentials = credentials.NewStaticCredentialsProvider(key.AccessKeyId, key.SecretAccessKey, "")
		who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, nil)
		return err == nil && aws.ToString(who.Arn) == "arn:aws:iam::"+aws.ToString(who.Account)+":user/"+user
	}
	keys := 0
	for pages := iam.NewListAccessKeysPaginator(iam.NewFromConfig(d.config), &iam.ListAccessKeysInput{UserName: aws.String(user)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		keys += len(page.AccessKeyMetadata)
	}
	fmt.Println("\nThe proof, each by a call of its own:")
	return errors.Join(
		prove(user+": the new key works", second.AccessKeyId != first.AccessKeyId && works(second)),
		prove(user+": the old key works until its grace of 24 hours is over", works(first)),
		prove(user+": there is no third key", keys == 2),
	)
}

// keyring rotates a key that signs JWTs.
func (d *demo) keyring(ctx context.Context) error {
	const grace = 2 * time.Hour
	fmt.Print(`
A key that signs JWTs, which no other system holds: the secret shop/jwt keeps the key
before the current one, with the time from which it does not count. Two rotations:

`)
	value, err := d.rotate(ctx, &secretsmanager.CreateSecretInput{
		Name: aws.String("shop/jwt"), SecretString: aws.String("{}"),
		Tags: tags("rekey:rotator", "generated", "rekey:options", "alg=ES256 keyring=yes", "rekey:grace", "2h"),
	}, 2, map[string]string{
		"createSecret": "made a key pair and stored it as AWSPENDING",
		"setSecret":    "nothing: nobody else has to know",
		"testSecret":   "signed with the private key, verified with the public one",
		"finishSecret": "moved AWSCURRENT: signers get the new key",
	})
	if err != nil {
		return err
	}
	before, err := d.secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String("shop/jwt"), VersionStage: aws.String("AWSPREVIOUS")})
	if err != nil {
		return err
	}
	now := time.Now()
	signers, err := generated.Keys(*before.SecretString, now)
	if err != nil {
		return err
	}
	jwt := []byte("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzaG9wIn0") // {"alg":"ES256"}.{"sub":"shop"}
	signature, err := signers[0].Sign(jwt)
	if err != nil {
		return err
	}
	verifies := func(at time.Time) (bool, int) {
		keys, _ := generated.Keys(value, at) // none, and then the proof fails
		for _, key := range keys {
			if key.Verify(jwt, signature) == nil {
				return true, len(keys)
			}
		}
		return false, len(keys)
	}
	within, two := verifies(now)
	after, one := verifies(now.Add(grace))
	fmt.Println("\nThe proof, by what verifiers do:")
	return errors.Join(
		prove("jwt: what the key before has signed verifies", within && two == 2),
		prove("jwt: in two hours, with no further write, it does not", !after && one == 1),
	)
}

// tags are a secret's.
func tags(pairs ...string) (tags []types.Tag) {
	for i := 0; i < len(pairs); i += 2 {
		tags = append(tags, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
	}
	return tags
}
