package functions_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/iamkey"
	"github.com/rekeyhq/rekey/rotators/postgres"
)

// lockedAt is when it is in the tests of KMS keys: an instant before the midnight after which
// a key that is scheduled for deletion is deleted on a leap day.
var lockedAt = time.Date(2028, 2, 22, 23, 59, 59, 999e6, time.UTC)

// locked is an AWS with a KMS key, and what is encrypted with it.
type locked struct {
	*setup
	keys     *kms.Client
	key      string // its ARN
	registry rotators.Registry
}

func newLocked(t *testing.T) *locked {
	t.Helper()
	now := func() time.Time { return lockedAt }
	l := &locked{setup: &setup{t: t, cloud: localaws.New(localaws.Config{Now: now})}}
	t.Cleanup(l.cloud.Close)
	server := httptest.NewServer(l.cloud)
	t.Cleanup(server.Close)
	l.endpoint = server.URL
	cfg := l.config(http.DefaultTransport)
	l.keys, l.client = kms.NewFromConfig(cfg), secretsmanager.NewFromConfig(cfg)
	l.registry = rotators.Registry{"postgres": postgres.New(cfg, nil), "iam-key": iamkey.New(cfg, &apikey.Clock{Now: now})}
	l.key = l.newKey()
	return l
}

func (l *locked) newKey() string {
	l.t.Helper()
	out, err := l.keys.CreateKey(l.t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		l.t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

// value is what is rotated by the rotator of that name.
func (l *locked) value(rotator string) string {
	if rotator == "postgres" {
		return asJSON("nobody", "the first password") // no step gets as far as a login
	}
	id, secret := l.cloud.AddAccessKey(l.cloud.AddUser(localaws.User{UserName: "app"}))
	return fmt.Sprintf(`{"UserName":"app","AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret)
}

// accessKeys is how many keys the user has.
func (l *locked) accessKeys() int {
	l.t.Helper()
	n := 0
	pages := iam.NewListAccessKeysPaginator(iam.NewFromConfig(l.config(http.DefaultTransport)), &iam.ListAccessKeysInput{UserName: aws.String("app")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		n += len(page.AccessKeyMetadata)
	}
	return n
}

// keyStates are what can be wrong with a key, and what the error says to do.
var keyStates = map[string]struct {
	make func(l *locked) error
	says string
}{
	"Disabled": {func(l *locked) error {
		_, err := l.keys.DisableKey(l.t.Context(), &kms.DisableKeyInput{KeyId: &l.key})
		return err
	}, "is in the state Disabled: enable it"},
	"PendingDeletion": {func(l *locked) error {
		_, err := l.keys.ScheduleKeyDeletion(l.t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &l.key, PendingWindowInDays: aws.Int32(7)})
		return err
	}, "is in the state PendingDeletion: what it encrypts is lost from 2028-02-29 on"},
	"denied": {func(l *locked) error { return l.cloud.DenyKey(l.key, true) }, "cannot be used: allow this function's role kms:Decrypt"},
}

// unchanged checks that a step failed for the key's sake, said so, and that AWS was asked
// to change nothing.
func (l *locked) unchanged(err error, step, says string, calls []localaws.Call, stored bool) {
	l.t.Helper()
	for _, part := range []string{step + " of arn:", "the KMS key " + l.key + " ", says} {
		if err == nil || !strings.Contains(err.Error(), part) {
			l.t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if !rotators.IsPermanent(err) {
		l.t.Error("it is to be tried again")
	}
	for _, c := range calls {
		switch c.Operation {
		case "PutSecretValue", "PutParameter":
			if stored {
				continue // it was tried
			}
		case "DescribeSecret", "GetSecretValue", "ListSecretVersionIds", "DescribeKey", "GetParameters", "GetParameter", "DescribeParameters", "ListTagsForResource", "GetCallerIdentity", "ListAccessKeys":
			continue
		}
		l.t.Errorf("AWS was asked for %s", c.Operation)
	}
}

// A key that cannot be used is named before anything outside is changed: whether it is the
// one that holds what readers get, or the one that was chosen for what comes next.
func TestASecretsKeyThatCannotBeUsed(t *testing.T) {
	for state, s := range keyStates {
		for _, rotator := range []string{"postgres", "iam-key"} {
			for _, next := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, only what comes next: %t", state, rotator, next), func(t *testing.T) {
					l := newLocked(t)
					create := &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: aws.String(l.value(rotator)), KmsKeyId: &l.key}
					if next {
						create.KmsKeyId = aws.String(l.newKey())
					}
					made, err := l.client.CreateSecret(t.Context(), create)
					check(t, err)
					l.arn = *made.ARN
					tag(t, l.setup, "rekey:rotator", rotator)
					check(t, l.cloud.Reserve(l.arn, token))
					if next {
						// Who may not encrypt with the new key leaves what is there under the old one.
						check(t, l.cloud.DenyKey(l.key, true))
						_, err := l.client.UpdateSecret(t.Context(), &secretsmanager.UpdateSecretInput{SecretId: made.ARN, KmsKeyId: &l.key})
						check(t, err)
						check(t, l.cloud.DenyKey(l.key, false))
					}
					check(t, s.make(l))
					before := len(l.cloud.Calls())
					_, err = functions.SecretRotator(l.config(http.DefaultTransport), l.registry).Invoke(t.Context(), l.event("createSecret"))
					if state == "denied" && rotator == "iam-key" && next {
						// Nothing told before the access key was made; that one is deleted at once.
						if err == nil || !strings.Contains(err.Error(), s.says) || l.accessKeys() != 1 {
							t.Errorf("got %v, and the user has %d keys", err, l.accessKeys())
						}
						return
					}
					// A database's password is stored before the database is changed.
					l.unchanged(err, "createSecret", s.says, l.cloud.Calls()[before:], next && rotator == "postgres")
				})
			}
		}
	}
}

func TestAParametersKeyThatCannotBeUsed(t *testing.T) {
	t.Setenv("REKEY_QUEUE_URL", "https://queue")
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", "1000")
	for state, s := range keyStates {
		for _, rotator := range []string{"postgres", "iam-key"} {
			t.Run(state+", "+rotator, func(t *testing.T) {
				l := newLocked(t)
				l.cloud.AddParameter(localaws.Parameter{
					Name: parameterName, Type: "SecureString", Value: l.value(rotator), KeyID: l.key,
					Tags: map[string]string{"rekey:rotator": rotator, "rekey:every": "30d"},
				})
				found, err := paramstore.Describe(t.Context(), ssm.NewFromConfig(l.config(http.DefaultTransport)), []string{parameterName})
				check(t, err)
				p := &parameter{setup: l.setup, Message: queue.Message{Parameter: found[0].Parameter}}
				check(t, s.make(l))
				before := len(l.cloud.Calls())
				_, err = l.worker().Invoke(t.Context(), p.event())
				l.unchanged(err, "createSecret", s.says, l.cloud.Calls()[before:], false)
			})
		}
	}
}

func (l *locked) worker() lambda.Handler {
	return functions.ParameterRotator(l.config(http.DefaultTransport), l.registry)
}

// A key that can be used costs one call where a key is minted, and none elsewhere.
func TestWhatAUsableKeyCosts(t *testing.T) {
	for rotator, want := range map[string]int{"postgres": 0, "iam-key": 1} {
		l := newLocked(t)
		made, err := l.client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: aws.String(l.value(rotator)), KmsKeyId: &l.key})
		check(t, err)
		l.arn = *made.ARN
		tag(t, l.setup, "rekey:rotator", rotator)
		check(t, l.cloud.Reserve(l.arn, token))
		_, err = functions.SecretRotator(l.config(http.DefaultTransport), l.registry).Invoke(t.Context(), l.event("createSecret"))
		check(t, err)
		n := 0
		for _, c := range l.cloud.Calls() {
			if c.Operation == "DescribeKey" {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: the key was asked for %d times, want %d", rotator, n, want)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
