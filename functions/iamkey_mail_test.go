package functions_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// untagged takes a tag off, as Terraform does with tags that it does not know.
func (k *keyed) untagged(key string) {
	k.t.Helper()
	var err error
	if k.service == "ssm" {
		_, err = ssm.NewFromConfig(k.person).RemoveTagsFromResource(k.t.Context(), &ssm.RemoveTagsFromResourceInput{
			ResourceType: ssmtypes.ResourceTypeForTaggingParameter, ResourceId: aws.String(keyName), TagKeys: []string{key},
		})
	} else {
		_, err = secretsmanager.NewFromConfig(k.person).UntagResource(k.t.Context(), &secretsmanager.UntagResourceInput{SecretId: &k.arn, TagKeys: []string{key}})
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// The password for SES's SMTP interface in the value belongs to the key and to one region.
// Without the option ses, or with another region, a rotation would have applications send
// mail with a password that SES refuses: nothing is changed, and the error says what to do.
func TestTheOptionSESOfAKeyWithAPasswordForMail(t *testing.T) {
	const options = "rekey:options"
	for name, c := range map[string]struct {
		tag  func(k *keyed)
		says string
	}{
		"removed":        {func(k *keyed) { k.untagged(options) }, "does not say ses=REGION"},
		"mistyped":       {func(k *keyed) { k.tagged(options, "ses=eu-wset-1") }, "does not have the form of a region"},
		"in capitals":    {func(k *keyed) { k.tagged(options, "ses=EU-WEST-1") }, "does not have the form of a region"},
		"another region": {func(k *keyed) { k.tagged(options, "ses=eu-west-2") }, "is not the password that SES derives from the key in the region eu-west-2"},
	} {
		t.Run(name, func(t *testing.T) {
			everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
				ctx := t.Context()
				k.tagged(options, "ses=eu-west-1")
				if err := k.rotate(ctx, &rotatortest.Wire{}, token); err != nil {
					t.Fatal(err)
				}
				one, err := k.current(ctx)
				if err != nil {
					t.Fatal(err)
				}
				k.pass(25 * time.Hour)
				c.tag(k)
				// Without the option nothing is said of the password, and the old key ends.
				if err := k.retire(ctx, &rotatortest.Wire{}); err != nil && name == "removed" {
					t.Errorf("retirement: %v", err)
				}
				k.begin(tokenOf(2))
				minted := k.count["CreateAccessKey"]
				err = k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2))
				if err == nil || !strings.Contains(err.Error(), c.says) || k.count["CreateAccessKey"] != minted {
					t.Errorf("%d keys were made: %v", k.count["CreateAccessKey"]-minted, err)
				}
				if now, err := k.current(ctx); err != nil || now != one {
					t.Errorf("applications get another value (%v)", err)
				}
				// The advice is followed.
				k.tagged(options, "ses=eu-west-1")
				if err := errors.Join(k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)), k.serves(ctx), k.harm); err != nil {
					t.Fatal(err)
				}
				two, err := k.current(ctx)
				var before, after struct{ SecretAccessKey, SmtpPassword string }
				if err := errors.Join(err, json.Unmarshal([]byte(one), &before), json.Unmarshal([]byte(two), &after)); err != nil {
					t.Fatal(err)
				}
				if after.SmtpPassword == before.SmtpPassword || after.SmtpPassword == "" || after.SecretAccessKey == before.SecretAccessKey {
					t.Error("the key and the password are not both new")
				}
			})
		})
	}
}
