package functions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// vendor sells keys with names, as many as one likes, in the fields of an access key.
type vendor struct {
	mu   sync.Mutex
	made int
	keys map[string]string // name by id
}

// vendorKey is the key of this id, with the field for its secret.
func vendorKey(id string) string {
	return fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, id, vendorSecret(id))
}

func vendorSecret(id string) string { return "THE SECRET OF " + strings.ToUpper(id) }

func (v *vendor) rotator(clock *apikey.Clock) rotators.Rotator {
	return apikey.New(func(context.Context, rotators.Rotation) (apikey.Issuer, error) { return v, nil }, clock)
}

func (v *vendor) ID(value rotators.Secret) (string, error) {
	return apikey.ID(value, "AccessKeyId", "SecretAccessKey")
}
func (v *vendor) Begin(context.Context, string) error { return nil }
func (v *vendor) Done(context.Context, string) error  { return nil }
func (v *vendor) Settling() time.Duration             { return 0 }

func (v *vendor) Mint(_ context.Context, name string) (apikey.Key, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made++
	id := fmt.Sprint("key-", v.made)
	v.keys[id] = name
	return apikey.Key{ID: id, Fields: map[string]rotators.Secret{"AccessKeyId": rotators.NewSecret(id), "SecretAccessKey": rotators.NewSecret(vendorSecret(id))}}, nil
}

func (v *vendor) Strays(context.Context, ...string) (all []apikey.Stray, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, name := range v.keys {
		all = append(all, apikey.Stray{ID: id, Name: name})
	}
	return all, nil
}

func (v *vendor) Verify(_ context.Context, value rotators.Secret) error {
	if id := idIn(value.Reveal()); !slices.Contains(v.live(), id) {
		return rotators.Refused(fmt.Errorf("there is no key %s", id))
	}
	return nil
}

func (v *vendor) Revoke(_ context.Context, id string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.keys, id)
	return nil
}

func (v *vendor) live() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.keys))
}

// everyNamed runs a test with a secret and with a parameter that hold the vendor's key-0.
func everyNamed(t *testing.T, test func(t *testing.T, k *keyed)) {
	for _, service := range []string{"secretsmanager", "ssm"} {
		t.Run(service, func(t *testing.T) {
			k := newKeyed(t, service, localaws.IAMDelays{})
			k.vendor = &vendor{keys: map[string]string{"key-0": "by hand"}}
			k.giveUp(token)
			k.tagged("rekey:rotator", "acme")
			k.store(vendorKey("key-0"))
			k.begin(tokenOf(9))
			test(t, k)
		})
	}
}

// label puts a label of the owner's own on the current version, and takes it off any other.
func (k *keyed) label(name string) {
	k.t.Helper()
	ctx := k.t.Context()
	var err error
	if k.service == "ssm" {
		_, err = ssm.NewFromConfig(k.person).LabelParameterVersion(ctx, &ssm.LabelParameterVersionInput{Name: aws.String(keyName), Labels: []string{name}})
	} else {
		sm := secretsmanager.NewFromConfig(k.person)
		secret, describeErr := sm.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &k.arn})
		if describeErr != nil {
			k.t.Fatal(describeErr)
		}
		move := &secretsmanager.UpdateSecretVersionStageInput{SecretId: &k.arn, VersionStage: &name}
		for version, labels := range secret.VersionIdsToStages {
			if slices.Contains(labels, "AWSCURRENT") {
				move.MoveToVersionId = &version
			}
			if slices.Contains(labels, name) {
				move.RemoveFromVersionId = &version
			}
		}
		_, err = sm.UpdateSecretVersionStage(ctx, move)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// lives checks which keys the vendor has, and that readers get one of them.
func (k *keyed) lives(want ...string) {
	k.t.Helper()
	if got := k.vendor.live(); !slices.Equal(got, want) {
		k.t.Errorf("the vendor has the keys %v, want %v", got, want)
	}
	if now, err := k.current(k.t.Context()); err != nil || !slices.Contains(k.vendor.live(), idIn(now)) {
		k.t.Errorf("readers get %s (%v)", idIn(now), err)
	}
}

// One createSecret stands right before it stores its key while another one takes place,
// alone or with all the steps that follow. There is room for both keys: one is stored and
// lives, and the other one is gone in the end.
func TestTwoCreatesOfANamedKey(t *testing.T) {
	for name, all := range map[string]bool{"createSecret": false, "all steps": true} {
		t.Run(name, func(t *testing.T) {
			everyNamed(t, func(t *testing.T, k *keyed) {
				ctx := t.Context()
				put := "PutSecretValue"
				if k.service == "ssm" {
					put = "PutParameter"
				}
				h := hold(put, 1)
				first := make(chan error)
				go func() { first <- k.create(ctx, h, tokenOf(9)) }()
				<-h.stopped
				other := k.create
				if all {
					other = k.rotate
				}
				if err := other(ctx, http.DefaultTransport, tokenOf(9)); err != nil {
					t.Errorf("the other one: %v", err)
				}
				h.on <- true
				// A parameter's record is gone by then, and its name must rest for a while.
				if err := <-first; err != nil && (k.service != "ssm" || rotators.IsPermanent(err)) {
					t.Errorf("the first one: %v", err)
				}
				if err := k.rotate(ctx, http.DefaultTransport, tokenOf(9)); err != nil {
					t.Error(err)
				}
				if k.service != "ssm" {
					k.lives("key-0", "key-2")
				}
				k.pass(25 * time.Hour)
				if err := k.retire(ctx, http.DefaultTransport); err != nil {
					t.Error(err)
				}
				k.begin(tokenOf(2))
				if err := k.rotate(ctx, http.DefaultTransport, tokenOf(2)); err != nil {
					t.Error(err)
				}
				k.lives("key-2", "key-3")
			})
		})
	}
}

// Somebody stores keys by hand over one of rekey's, with an order to retire another one
// open. The key is kept while applications may hold it, or while a label of the owner's
// own names its version, and goes two rotations later.
func TestANamedKeyThatWasReplacedByHand(t *testing.T) {
	for name, labelled := range map[string]bool{"it has a label": true, "it has none": false} {
		for _, byHand := range []int{1, 2} {
			t.Run(fmt.Sprint(name, ", replaced times ", byHand), func(t *testing.T) {
				everyNamed(t, func(t *testing.T, k *keyed) {
					ctx := t.Context()
					rotate := func(n int) {
						t.Helper()
						k.begin(tokenOf(n))
						if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(n)); err != nil {
							t.Fatal(err)
						}
					}
					if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(9)); err != nil { // to key-1
						t.Fatal(err)
					}
					if labelled {
						k.label("blue")
					}
					for range byHand {
						k.pass(time.Minute)
						id := fmt.Sprint("by-hand-", k.vendor.made)
						k.vendor.made++
						k.vendor.keys[id] = "by hand"
						k.store(vendorKey(id))
					}
					k.pass(time.Minute)
					rotate(2)
					if !slices.Contains(k.vendor.live(), "key-1") {
						t.Error("it is gone a few minutes after applications got it")
					}
					for n := 3; n <= 4; n++ {
						k.pass(25 * time.Hour)
						if err := k.retire(ctx, &rotatortest.Wire{}); err != nil {
							t.Fatal(err)
						}
						rotate(n)
					}
					if got := slices.Contains(k.vendor.live(), "key-1"); got != labelled {
						t.Errorf("two rotations later it lives: %t", got)
					}
					now, err := k.current(ctx)
					if err == nil && !slices.Contains(k.vendor.live(), idIn(now)) {
						err = errors.New("it is dead")
					}
					if err != nil {
						t.Errorf("what readers get: %v", err)
					}
				})
			})
		}
	}
}

// notedIssuer is an issuer that records intents at the vendor, by a URL with the key in it, as
// many vendors want it. An http.Client's error holds the URL.
type notedIssuer struct {
	*vendor
	r rotators.Rotation
}

func (n notedIssuer) Done(context.Context, string) error {
	f, _ := n.r.Current.Field("SecretAccessKey")
	return fmt.Errorf("Delete \"https://vendor.test/notes?key=%s\": dial tcp: connection refused", f.Reveal())
}

// A rotator logs by itself, past the redactor: so its lines hold no error.
func TestNoIssuersErrorIsLogged(t *testing.T) {
	everyNamed(t, func(t *testing.T, k *keyed) {
		var log bytes.Buffer
		was := slog.Default()
		slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
		defer slog.SetDefault(was)
		k.vendor.keys["key-77"] = apikey.Name(k.arn, "an earlier run", k.time().Add(-time.Hour))
		cfg := k.config(&named{RoundTripper: &rotatortest.Wire{}, k: k}, k.rekeys)
		clock := &apikey.Clock{Now: k.time, Pause: k.pause}
		registry := rotators.Registry{"acme": apikey.New(func(_ context.Context, r rotators.Rotation) (apikey.Issuer, error) {
			return notedIssuer{k.vendor, r}, nil
		}, clock)}
		if k.service == "ssm" {
			h := functions.ParameterRotator(cfg, registry)
			slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil))) // setUp's goes to stdout
			_, _ = h.Invoke(t.Context(), k.order)                     // Done fails in setSecret, too
		} else {
			h := functions.SecretRotator(cfg, registry)
			slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
			if _, err := h.Invoke(t.Context(), k.event("createSecret", tokenOf(9))); err != nil {
				t.Error(err)
			}
		}
		if strings.Contains(log.String(), vendorSecret("key-0")) {
			t.Errorf("a secret is in the log: %s", log.String())
		}
		if !strings.Contains(log.String(), "the issuer's Done failed") {
			t.Errorf("logged %s", log.String())
		}
	})
}
