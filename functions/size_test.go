package functions_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/generated"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// A keyring grows over what Secrets Manager holds. The error gives both numbers, a person must
// act, and nothing is changed. TestAGeneratedKeyThatIsTooLarge holds the same of parameters.
func TestASecretThatGrowsTooLarge(t *testing.T) {
	l := newLocked(t)
	l.registry = rotators.Registry{"generated": generated.New()}
	var keys []string
	for i := range 45 {
		keys = append(keys, fmt.Sprintf(`{\"secret\":\"%s%04d\",\"exp\":%d}`, strings.Repeat("a", 1364), i, time.Now().Add(500*time.Hour).Unix()))
	}
	value := fmt.Sprintf(`{"secret":"%s","previous":"{\"keys\":[%s]}"}`, strings.Repeat("b", 1368), strings.Join(keys, ","))
	made, err := l.client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: &value})
	check(t, err)
	l.arn = *made.ARN
	tag(t, l.setup, "rekey:rotator", "generated")
	tag(t, l.setup, "rekey:grace", "30d")
	tag(t, l.setup, "rekey:options", "base64=1024 keyring=yes")
	check(t, l.cloud.Reserve(l.arn, token))
	_, err = functions.SecretRotator(l.config(http.DefaultTransport), l.registry).Invoke(t.Context(), l.event("createSecret"))
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "the new value has 66") || !strings.Contains(err.Error(), "a secret holds 65536") {
		t.Errorf("got %v", err)
	}
	for _, c := range l.cloud.Calls() {
		if c.Operation == "PutSecretValue" {
			t.Error("AWS was asked to store it")
		}
	}
}

// The same of a key that is minted: it is revoked at once.
func TestAMintedKeyThatDoesNotFit(t *testing.T) {
	k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
	ctx := t.Context()
	k.tagged("rekey:options", "ses=eu-west-1") // adds the password to the value
	k.giveUp(token)
	k.store(strings.Replace(k.first, `"note":1.50`, `"note":"`+strings.Repeat("x", 65536-len(k.first)-8)+`"`, 1))
	k.begin(tokenOf(2))
	err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2))
	if err == nil || !strings.Contains(err.Error(), "a secret holds 65536") || k.count["CreateAccessKey"] != 1 {
		t.Errorf("got %v", err)
	}
	if keys, err := k.keys(ctx); err != nil || len(keys) != 1 {
		t.Errorf("the keys are %v (%v)", keys, err)
	}
	k.noIntents()
}
