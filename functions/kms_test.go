package functions_test

import (
	"maps"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
)

// authorize denies one action to everybody.
func (k *keyed) authorize(_ string, needs []localaws.Access) *localaws.Denial {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range needs {
		if k.denied != "" && a.Action == k.denied {
			return &localaws.Denial{Access: a}
		}
	}
	return nil
}

func (k *keyed) deny(action string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denied = action
}

// under has the secret or parameter encrypted under a customer's key, and returns that.
func (k *keyed) under(client *kms.Client) (arn string) {
	k.t.Helper()
	ctx := k.t.Context()
	key, err := client.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		k.t.Fatal(err)
	}
	arn = *key.KeyMetadata.Arn
	if k.service == "ssm" {
		_, err = ssm.NewFromConfig(k.person).PutParameter(ctx, &ssm.PutParameterInput{
			Name: aws.String(keyName), Value: &k.first, Type: ssmtypes.ParameterTypeSecureString, Overwrite: aws.Bool(true), KeyId: &arn,
		})
		k.begin(token)
	} else {
		_, err = secretsmanager.NewFromConfig(k.person).UpdateSecret(ctx, &secretsmanager.UpdateSecretInput{SecretId: &k.arn, KmsKeyId: &arn})
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return arn
}

// A key of KMS that cannot be used is found before anything is changed, and named; an
// access key is made before the value is stored, so it is what could be left over. When
// the key can be used again, the rotation goes on.
func TestAKeyOfKMSThatCannotBeUsed(t *testing.T) {
	for _, service := range []string{"secretsmanager", "ssm"} {
		write := map[string]string{"secretsmanager": "kms:GenerateDataKey", "ssm": "kms:Encrypt"}[service]
		for name, c := range map[string]struct {
			breaks, mends func(*keyed, *kms.Client, string) error
			want          string
			minted        int // and deleted at once
		}{
			"disabled": {
				func(k *keyed, client *kms.Client, key string) error {
					_, err := client.DisableKey(k.t.Context(), &kms.DisableKeyInput{KeyId: &key})
					return err
				},
				func(k *keyed, client *kms.Client, key string) error {
					_, err := client.EnableKey(k.t.Context(), &kms.EnableKeyInput{KeyId: &key})
					return err
				}, `KMS key ARN is in the state Disabled: enable it`, 0,
			},
			"to be deleted": {
				func(k *keyed, client *kms.Client, key string) error {
					_, err := client.ScheduleKeyDeletion(k.t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &key})
					return err
				}, nil, `KMS key ARN is in the state PendingDeletion: .* cancel-key-deletion`, 0,
			},
			"not to be read with": {
				func(k *keyed, _ *kms.Client, _ string) error { k.deny("kms:Decrypt"); return nil },
				func(k *keyed, _ *kms.Client, _ string) error { k.deny(""); return nil },
				`KMS key ARN cannot be used: allow this function's role kms:Decrypt`, 0,
			},
			"not to be written with": {
				func(k *keyed, _ *kms.Client, _ string) error { k.deny(write); return nil },
				func(k *keyed, _ *kms.Client, _ string) error { k.deny(""); return nil },
				`KMS key ARN cannot be used: allow this function's role .*` + write, 1,
			},
		} {
			t.Run(service+"/"+name, func(t *testing.T) {
				k := newKeyed(t, service, localaws.IAMDelays{})
				client := kms.NewFromConfig(k.person)
				key := k.under(client)
				before, err := k.keys(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := c.breaks(k, client, key); err != nil {
					t.Fatal(err)
				}
				err = k.rotate(t.Context(), http.DefaultTransport, token)
				want := regexp.MustCompile(regexp.MustCompile("ARN").ReplaceAllLiteralString(c.want, regexp.QuoteMeta(key)))
				if err == nil || !rotators.IsPermanent(err) && service == "ssm" || !want.MatchString(err.Error()) {
					t.Errorf("got %v", err)
				}
				k.deny("")
				after, err := k.keys(t.Context())
				if err != nil || !maps.Equal(before, after) {
					t.Errorf("the user's keys are %v, and were %v (%v)", after, before, err)
				}
				k.mu.Lock()
				minted := k.count["CreateAccessKey"]
				k.mu.Unlock()
				if minted != c.minted {
					t.Errorf("%d keys were made", minted)
				}
				if c.mends == nil {
					return
				}
				if err := c.mends(k, client, key); err != nil {
					t.Fatal(err)
				}
				if err := k.rotate(t.Context(), http.DefaultTransport, token); err != nil {
					t.Errorf("when the key can be used again: %v", err)
				}
				if err := k.serves(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A key's policy may allow the key's use through Secrets Manager and Parameter Store alone.
// KMS then does not tell this function the key's state, and the rotation goes on.
func TestAKeyOfKMSWhoseStateIsNotTold(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		k.under(kms.NewFromConfig(k.person))
		k.deny("kms:DescribeKey")
		if err := k.rotate(t.Context(), http.DefaultTransport, token); err != nil {
			t.Error(err)
		}
		k.pass(time.Minute)
		k.begin(tokenOf(2)) // within the grace
		if err := k.rotate(t.Context(), http.DefaultTransport, tokenOf(2)); err != nil {
			t.Errorf("within the grace: %v", err)
		}
		k.deny("")
		if err := k.serves(t.Context()); err != nil || k.count["DescribeKey"] == 0 {
			t.Error(err)
		}
	})
}
