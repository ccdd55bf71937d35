package secretstore_test

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/rotation/storetest"
	"github.com/rekeyhq/rekey/internal/secretstore"
	"github.com/rekeyhq/rekey/rotators"
)

const token = "11111111-1111-4111-8111-111111111111"

// start serves AWS and returns the real SDK's client for it. Each call has a time of its
// own, because the API's times are in milliseconds.
func start(t *testing.T, config localaws.Config) (*localaws.Server, *secretsmanager.Client) {
	var calls atomic.Int64
	config.Now = func() time.Time { return time.Now().Add(time.Duration(calls.Add(1)) * time.Millisecond) }
	server := localaws.New(config)
	t.Cleanup(server.Close)
	http := httptest.NewServer(server)
	t.Cleanup(http.Close)
	return server, secretsmanager.New(secretsmanager.Options{
		Region:       "us-east-1",
		BaseEndpoint: &http.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond }),
	})
}

// noop is a rotation function that does nothing and succeeds.
type noop struct{}

func (noop) Invoke(context.Context, []byte) ([]byte, error) { return nil, nil }

// enable turns rotation on, the way owners do.
func enable(t *testing.T, server *localaws.Server, client *secretsmanager.Client, id string) {
	server.Handle("noop", noop{})
	_, err := client.RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: &id, RotationLambdaARN: aws.String(server.FunctionARN("noop")), RotateImmediately: aws.Bool(false),
		RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// create makes a secret and returns its ARN.
func create(t *testing.T, client *secretsmanager.Client, value string) string {
	out, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: &value})
	if err != nil {
		t.Fatal(err)
	}
	return *out.ARN
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		server, client := start(t, localaws.Config{})
		id := create(t, client, "the first value")
		enable(t, server, client, id)
		return fixture(t, server, client, id)
	})
}

func fixture(t *testing.T, server *localaws.Server, client *secretsmanager.Client, id string) storetest.Fixture {
	return storetest.Fixture{
		Store: secretstore.New(client, rotators.Secret{}), ID: id, First: rotators.NewSecret("the first value"),
		Begin: func() string {
			if err := server.Reserve(id, token); err != nil {
				t.Fatal(err)
			}
			return token
		},
		Put: func(v rotators.Secret) {
			if _, err := client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &id, SecretString: aws.String(v.Reveal())}); err != nil {
				t.Fatal(err)
			}
		},
		Revert: func() {
			secret, err := client.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &id})
			if err != nil {
				t.Fatal(err)
			}
			for version, labels := range secret.VersionIdsToStages {
				if slices.Contains(labels, "AWSPREVIOUS") {
					_, err = client.UpdateSecretVersionStage(t.Context(), &secretsmanager.UpdateSecretVersionStageInput{
						SecretId: &id, VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: &version, RemoveFromVersionId: aws.String(token),
					})
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		Label: func(label string) {
			v, err := client.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &id})
			if err == nil {
				_, err = client.UpdateSecretVersionStage(t.Context(), &secretsmanager.UpdateSecretVersionStageInput{
					SecretId: &id, VersionStage: &label, MoveToVersionId: v.VersionId,
				})
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		Current: func() rotators.Secret {
			v, err := client.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &id})
			if err != nil {
				t.Fatal(err)
			}
			return rotators.NewSecret(*v.SecretString)
		},
		Tags: func() map[string]string {
			s, err := client.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &id})
			if err != nil {
				t.Fatal(err)
			}
			tags := map[string]string{}
			for _, tag := range s.Tags {
				tags[*tag.Key] = *tag.Value
			}
			return tags
		},
	}
}

// The suite once more on a network that loses the reply of every write once:
// the SDK sends the call again, and the second try must find its work done.
func TestStoreWithEveryReplyLostOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		var on atomic.Bool
		var lost atomic.Pointer[string]
		server, client := start(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
			read := strings.HasPrefix(c.Operation, "Get") || strings.HasPrefix(c.Operation, "Describe") || strings.HasPrefix(c.Operation, "List")
			if !on.Load() || read {
				return localaws.None
			}
			if last := lost.Swap(&c.Operation); last != nil && *last == c.Operation {
				lost.Store(nil)
				return localaws.None
			}
			return localaws.LoseReply
		}})
		id := create(t, client, "the first value")
		enable(t, server, client, id)
		f := fixture(t, server, client, id)
		put, revert, label := f.Put, f.Revert, f.Label
		f.Label = func(name string) { on.Store(false); label(name); on.Store(true) }
		f.Put = func(v rotators.Secret) { on.Store(false); put(v); on.Store(true) }
		f.Revert = func() { on.Store(false); revert(); on.Store(true) }
		on.Store(true)
		return f
	})
}

func TestSecretsThatAreNotRekeysToRotate(t *testing.T) {
	for name, c := range map[string]struct {
		edit    func(*localaws.Secret)
		mention string
	}{
		"another service's": {func(s *localaws.Secret) { s.OwningService = "rds" }, "owned by the service rds"},
		"a replica":         {func(s *localaws.Secret) { s.PrimaryRegion = "eu-west-1" }, "eu-west-1"},
		"managed external":  {func(s *localaws.Secret) { s.Type = "DatadogApiKey" }, "DatadogApiKey"},
	} {
		server, client := start(t, localaws.Config{})
		id := create(t, client, "the first value")
		if err := server.Reserve(id, token); err != nil {
			t.Fatal(err)
		}
		if err := server.Edit(id, func(s *localaws.Secret) { c.edit(s) }); err != nil {
			t.Fatal(err)
		}
		_, err := secretstore.New(client, rotators.Secret{}).Load(t.Context(), id, token)
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), c.mention) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// begun returns the store of a secret, and the attempt that Secrets Manager has just begun.
func begun(t *testing.T, config localaws.Config) (*secretsmanager.Client, *secretstore.Store, *rotation.Attempt) {
	t.Helper()
	server, client := start(t, config)
	id := create(t, client, "the first value")
	if err := server.Reserve(id, token); err != nil {
		t.Fatal(err)
	}
	store := secretstore.New(client, rotators.Secret{})
	a, err := store.Load(t.Context(), id, token)
	if err != nil {
		t.Fatal(err)
	}
	return client, store, a
}

func TestRotationMustBeEnabled(t *testing.T) {
	server, client := start(t, localaws.Config{})
	id := create(t, client, "the first value")
	refused := func(when string) {
		_, err := secretstore.New(client, rotators.Secret{}).Load(t.Context(), id, token)
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "not enabled") {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("never configured")
	if err := server.Reserve(id, token); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CancelRotateSecret(t.Context(), &secretsmanager.CancelRotateSecretInput{SecretId: &id}); err != nil {
		t.Fatal(err)
	}
	refused("cancelled")
}

// The primary of a replicated secret names its own region as the primary one.
func TestThePrimaryOfReplicasIsRotated(t *testing.T) {
	server, client := start(t, localaws.Config{})
	id := create(t, client, "the first value")
	if err := server.Reserve(id, token); err != nil {
		t.Fatal(err)
	}
	if err := server.Edit(id, func(s *localaws.Secret) { s.PrimaryRegion = "us-east-1" }); err != nil {
		t.Fatal(err)
	}
	if _, err := secretstore.New(client, rotators.Secret{}).Load(t.Context(), id, token); err != nil {
		t.Error(err)
	}
}

// Only Secrets Manager's own word is "not found".
func TestAFailureIsNotNotFound(t *testing.T) {
	var fault atomic.Int32
	_, store, a := begun(t, localaws.Config{Fault: func(localaws.Call) localaws.Fault { return localaws.Fault(fault.Load()) }})
	for _, f := range []localaws.Fault{localaws.RefuseBefore, localaws.Throttle} {
		fault.Store(int32(f))
		if v, err := store.Value(t.Context(), a, rotation.PendingValue); err == nil {
			t.Errorf("fault %d reads as no value: %v", f, v)
		}
		if _, err := store.Load(t.Context(), a.ID, token); err == nil || rotators.IsPermanent(err) {
			t.Errorf("fault %d: Load says %v", f, err)
		}
		fault.Store(0)
	}
}

// A label that has moved since Load makes the value that it named an error: no step goes on
// with a value that readers do not get any more, or that is not pending any more.
func TestALabelThatHasMovedIsAnError(t *testing.T) {
	for which, move := range map[rotation.Which]func(*secretsmanager.Client, string) error{
		rotation.CurrentValue: func(client *secretsmanager.Client, id string) error {
			_, err := client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &id, SecretString: aws.String("by hand")})
			return err
		},
		rotation.PendingValue: func(client *secretsmanager.Client, id string) error {
			_, err := client.UpdateSecretVersionStage(t.Context(), &secretsmanager.UpdateSecretVersionStageInput{
				SecretId: &id, VersionStage: aws.String("AWSPENDING"), RemoveFromVersionId: aws.String(token),
			})
			return err
		},
	} {
		client, store, a := begun(t, localaws.Config{})
		if err := store.PutPending(t.Context(), a, rotators.NewSecret("the next value")); err != nil {
			t.Fatal(err)
		}
		if v, err := store.Value(t.Context(), a, which); err != nil || v.IsZero() {
			t.Fatalf("value %d is %q (%v)", which, v.Reveal(), err)
		}
		if err := move(client, a.ID); err != nil {
			t.Fatal(err)
		}
		if v, err := store.Value(t.Context(), a, which); err == nil {
			t.Errorf("value %d is read after its label moved: %q", which, v.Reveal())
		}
	}
}

// A secret that is deleted before the pending value is stored: nobody will ever get that value,
// so that what was made for it outside is removed at once.
func TestADeletedSecretTakesNoPendingValue(t *testing.T) {
	for name, del := range map[string]secretsmanager.DeleteSecretInput{
		"scheduled": {RecoveryWindowInDays: aws.Int64(7)}, "at once": {ForceDeleteWithoutRecovery: aws.Bool(true)},
	} {
		client, store, a := begun(t, localaws.Config{})
		del.SecretId = &a.ID
		if _, err := client.DeleteSecret(t.Context(), &del); err != nil {
			t.Fatal(err)
		}
		if err := store.PutPending(t.Context(), a, rotators.NewSecret("the second value")); !rotators.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBinaryIsRefused(t *testing.T) {
	server, client := start(t, localaws.Config{})
	out, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretBinary: []byte{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Reserve(*out.ARN, token); err != nil {
		t.Fatal(err)
	}
	store := secretstore.New(client, rotators.Secret{})
	a, err := store.Load(t.Context(), *out.ARN, token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Value(t.Context(), a, rotation.CurrentValue); err == nil || !strings.Contains(err.Error(), "binary") {
		t.Errorf("got %v", err)
	}
}

// A malformed tag stops the attempt where nothing is changed yet.
func TestAMalformedTagIsAnError(t *testing.T) {
	server, client := start(t, localaws.Config{})
	id := create(t, client, "the first value")
	if err := server.Reserve(id, token); err != nil {
		t.Fatal(err)
	}
	_, err := client.TagResource(t.Context(), &secretsmanager.TagResourceInput{SecretId: &id, Tags: []types.Tag{{Key: aws.String("rekey:strategy"), Value: aws.String("both")}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = secretstore.New(client, rotators.Secret{}).Load(t.Context(), id, token)
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("got %v", err)
	}
}
