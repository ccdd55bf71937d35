package functions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// No key is revoked that somebody uses.

const keyRole = "arn:aws:iam::000000000000:role/keys"

// everyKeyed runs a test with a secret and with a parameter, each with its own key and
// with a role that mints.
func everyKeyed(t *testing.T, delays localaws.IAMDelays, test func(t *testing.T, k *keyed)) {
	for _, service := range []string{"secretsmanager", "ssm"} {
		for _, admin := range []string{"", keyRole} {
			t.Run(service+" "+admin, func(t *testing.T) {
				k := newKeyed(t, service, delays)
				if admin != "" {
					k.cloud.AddRole(admin)
					k.tagged("rekey:admin", admin)
				}
				test(t, k)
			})
		}
	}
}

// tagged writes a tag, or ends the test.
func (k *keyed) tagged(key, value string) {
	k.t.Helper()
	if err := k.tag(k.t.Context(), key, value); err != nil {
		k.t.Fatal(err)
	}
}

// store stores a value by hand.
func (k *keyed) store(value string) {
	k.t.Helper()
	var err error
	if k.service == "ssm" {
		_, err = ssm.NewFromConfig(k.person).PutParameter(k.t.Context(), &ssm.PutParameterInput{
			Name: aws.String(keyName), Value: &value, Type: ssmtypes.ParameterTypeSecureString, Overwrite: aws.Bool(true),
		})
	} else {
		_, err = secretsmanager.NewFromConfig(k.person).PutSecretValue(k.t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &k.arn, SecretString: &value})
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// giveUp takes the label off the pending version; an attempt of a parameter is over when
// its value was changed.
func (k *keyed) giveUp(token string) {
	k.t.Helper()
	if k.service == "ssm" {
		return
	}
	_, err := secretsmanager.NewFromConfig(k.person).UpdateSecretVersionStage(k.t.Context(), &secretsmanager.UpdateSecretVersionStageInput{
		SecretId: &k.arn, VersionStage: aws.String("AWSPENDING"), RemoveFromVersionId: &token,
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// noIntents checks that none is left.
func (k *keyed) noIntents() {
	k.t.Helper()
	if left, err := k.intents(k.t.Context()); err != nil || len(left) > 0 {
		k.t.Errorf("intents are left: %v (%v)", left, err)
	}
}

// at is a way out that does something before the nth call of an operation, or in its
// place if that returns an answer.
type at struct {
	operation string
	n         int
	do        func(*http.Request) *http.Response
}

func (a *at) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, err := operationOf(r)
	if err == nil && operation == a.operation {
		if a.n--; a.n == 0 {
			if resp := a.do(r); resp != nil {
				return resp, nil
			}
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// answer is one of IAM's.
func answer(r *http.Request, status int, code string) *http.Response {
	body := fmt.Sprintf(`<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>no</Message></Error></ErrorResponse>`, code)
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(bytes.NewReader([]byte(body))), Request: r}
}

// several ways out in a row.
type several []http.RoundTripper

func (s several) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, err := operationOf(r)
	if err != nil {
		return nil, err
	}
	for _, w := range s[:len(s)-1] {
		if a, ok := w.(*at); ok && a.operation == operation {
			return w.RoundTrip(r)
		}
	}
	return s[len(s)-1].RoundTrip(r)
}

// A person makes a key of the user in the very seconds in which rekey is about to make
// one. IAM has no room for rekey's then, and says so: the key is theirs, and stays so.
func TestAKeyThatAPersonMakesBeforeRekeysMint(t *testing.T) {
	for _, moment := range []string{"TagUser", "CreateAccessKey"} {
		t.Run("before "+moment, func(t *testing.T) {
			everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
				ctx := t.Context()
				var theirs string
				err := k.rotate(ctx, &at{moment, 1, func(*http.Request) *http.Response {
					var err error
					if theirs, err = k.theirs(ctx); err != nil {
						t.Error(err)
					}
					return nil
				}}, token)
				if err == nil || !strings.Contains(err.Error(), "the other one, "+idIn(theirs)) {
					t.Errorf("got %v", err)
				}
				k.noIntents()
				for _, later := range []time.Duration{time.Minute, time.Hour, 80 * 24 * time.Hour} {
					k.pass(later)
					if err := k.rotate(ctx, &rotatortest.Wire{}, token); err == nil || !strings.Contains(err.Error(), "the other one, "+idIn(theirs)) {
						t.Errorf("%v later: got %v", later, err)
					}
				}
				if err := errors.Join(k.works(ctx, "their key", theirs), k.serves(ctx), k.harm); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// IAM refuses to make a key, for whatever reason: rekey knows that it made none. A key of
// the same seconds is a person's.
func TestAKeyThatAPersonMakesAfterARefusal(t *testing.T) {
	for code, status := range map[string]int{
		"AccessDenied": 403, "LimitExceeded": 409, "Throttling": 400, "EntityTemporarilyUnmodifiable": 409, "ServiceNotSupported": 404, "InvalidClientTokenId": 403,
	} {
		for _, after := range []time.Duration{0, 3 * time.Second, 6 * time.Second} {
			t.Run(fmt.Sprint(code, " ", after), func(t *testing.T) {
				everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
					ctx := t.Context()
					err := k.rotate(ctx, &at{"CreateAccessKey", 1, func(r *http.Request) *http.Response { return answer(r, status, code) }}, token)
					if err == nil || !strings.Contains(err.Error(), code) {
						t.Errorf("got %v", err)
					}
					k.noIntents()
					k.pass(after)
					theirs, err := k.theirs(ctx)
					if err != nil || theirs == "" {
						t.Fatal(err)
					}
					for _, later := range []time.Duration{time.Minute, 20 * time.Minute, 80 * 24 * time.Hour} {
						k.pass(later)
						if err := k.rotate(ctx, &rotatortest.Wire{}, token); err == nil || !strings.Contains(err.Error(), "the other one, "+idIn(theirs)) {
							t.Errorf("%v later: got %v", later, err)
						}
					}
					if err := errors.Join(k.works(ctx, "their key", theirs), k.serves(ctx), k.harm); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// The intent cannot be taken off, or not even voided. The reason why no key was made is
// reported all the same, and a person's key is safe: at once if the intent is void, and
// after an hour in any case.
func TestAnIntentThatCannotBeTakenBack(t *testing.T) {
	refuse := func(r *http.Request) *http.Response { return answer(r, 403, "AccessDenied") }
	for name, c := range map[string]struct {
		w     several
		later time.Duration
	}{
		"but voided": {several{&at{"CreateAccessKey", 1, refuse}, &at{"UntagUser", 1, refuse}, &rotatortest.Wire{}}, 20 * time.Minute},
		"nor voided": {several{&at{"CreateAccessKey", 1, refuse}, &at{"UntagUser", 1, refuse}, &at{"TagUser", 2, refuse}, &rotatortest.Wire{}}, 61 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
			ctx := t.Context()
			err := k.rotate(ctx, c.w, token)
			if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), `may not call iam:CreateAccessKey for the user "app"`) {
				t.Errorf("got %v", err)
			}
			if left, err := k.intents(ctx); err != nil || len(left) != 1 {
				t.Fatalf("the intents are %v (%v)", left, err)
			}
			theirs, err := k.theirs(ctx)
			if err != nil {
				t.Fatal(err)
			}
			k.pass(c.later)
			if err := k.rotate(ctx, &rotatortest.Wire{}, token); err == nil || !strings.Contains(err.Error(), "the other one, "+idIn(theirs)) {
				t.Errorf("got %v", err)
			}
			if err := errors.Join(k.works(ctx, "their key", theirs), k.harm); err != nil {
				t.Error(err)
			}
			// They follow the advice. What is left of the intent goes, too.
			if _, err := iam.NewFromConfig(k.person).DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String(keyUser), AccessKeyId: aws.String(idIn(theirs))}); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(k.all(ctx, &rotatortest.Wire{}), k.done(ctx)); err != nil {
				t.Error(err)
			}
		})
	}
}

// The answer to a mint is lost, or says that something went wrong inside IAM: there may
// be a key. The next run finds and removes it, and need not wait until the time of the
// one that is through would be over.
func TestAMintWithoutAnAnswer(t *testing.T) {
	for name, minted := range map[string]bool{"minted": true, "not minted": false} {
		for _, answered := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", answered ", answered), func(t *testing.T) {
				everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
					ctx := t.Context()
					err := k.rotate(ctx, &unclear{minted, answered}, token)
					if err == nil || rotators.IsPermanent(err) {
						t.Errorf("got %v", err)
					}
					k.pass(30 * time.Second)
					if err := errors.Join(k.all(ctx, &rotatortest.Wire{}), k.done(ctx)); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// unclear is a way out on which the answer to CreateAccessKey says nothing.
type unclear struct{ minted, answered bool }

func (u *unclear) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, err := operationOf(r)
	if err != nil || operation != "CreateAccessKey" {
		return http.DefaultTransport.RoundTrip(r)
	}
	if u.minted {
		if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
		}
	}
	if u.answered {
		return answer(r, 500, "ServiceFailure"), nil
	}
	return nil, errors.New("the connection broke")
}

// A run died when it was about to mint, and nobody ran it again within the hour. Whose
// the key of those seconds is, nobody can tell any more: it is named and left alone.
func TestAnIntentProvesNothingAfterAnHour(t *testing.T) {
	for name, late := range map[string]bool{"rekey's own": true, "a person's": false} {
		t.Run(name, func(t *testing.T) {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
			ctx := t.Context()
			if err := k.rotate(ctx, &cut{operation: "CreateAccessKey", late: late}, token); err == nil {
				t.Fatal("the process did not die")
			}
			if !late {
				if _, err := k.theirs(ctx); err != nil {
					t.Fatal(err)
				}
			}
			before, err := k.keys(ctx)
			if err != nil || len(before) != 2 {
				t.Fatal(before, err)
			}
			k.pass(time.Hour + 10*time.Second)
			err = k.rotate(ctx, &rotatortest.Wire{}, token)
			if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "is none that this secret recorded") {
				t.Errorf("got %v", err)
			}
			if after, err := k.keys(ctx); err != nil || !maps.Equal(before, after) {
				t.Errorf("the keys were %v and are %v (%v)", before, after, err)
			}
		})
	}
}

// A key is minted that cannot be stored, because its KMS key may not be used. It is
// revoked at once, and so is what proves that it is rekey's.
func TestADiscardTakesTheIntentBack(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		k.under(kms.NewFromConfig(k.person))
		k.deny(map[string]string{"secretsmanager": "kms:GenerateDataKey", "ssm": "kms:Encrypt"}[k.service])
		err := k.rotate(ctx, http.DefaultTransport, token)
		if err == nil || !strings.Contains(err.Error(), "cannot be used") || k.count["CreateAccessKey"] != 1 {
			t.Errorf("got %v", err)
		}
		k.deny("")
		k.noIntents()
		theirs, err := k.theirs(ctx)
		if err != nil || theirs == "" {
			t.Fatalf("there is no room (%v)", err)
		}
		k.pass(time.Minute)
		if err := k.rotate(ctx, &rotatortest.Wire{}, token); err == nil || !strings.Contains(err.Error(), "the other one, "+idIn(theirs)) {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(k.works(ctx, "their key", theirs), k.harm); err != nil {
			t.Error(err)
		}
	})
}

// stall stops the nth call of an operation until it is let go.
type stall struct {
	at
	stopped, on chan bool
}

func hold(operation string, n int) *stall {
	h := &stall{stopped: make(chan bool), on: make(chan bool)}
	h.at = at{operation, n, func(*http.Request) *http.Response {
		h.stopped <- true
		<-h.on
		return nil
	}}
	return h
}

// create takes the step createSecret, or for a parameter all of them.
func (k *keyed) create(ctx context.Context, w http.RoundTripper, token string) error {
	secrets, worker := k.process(w)
	if k.service == "ssm" {
		_, err := worker.Invoke(ctx, k.order)
		return err
	}
	_, err := secrets.Invoke(ctx, k.event("createSecret", token))
	return err
}

// One createSecret stands right before it stores its key; another one begins and ends.
// IAM has no room for a second key: the other one says so, that it is worth another try,
// and leaves the first one's alone. The rotation ends well.
func TestTwoCreatesOfAnIAMKey(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		put := "PutSecretValue"
		if k.service == "ssm" {
			put = "PutParameter"
		}
		h := hold(put, 1)
		first := make(chan error)
		go func() { first <- k.create(ctx, h, token) }()
		<-h.stopped
		for range 2 {
			err := k.create(ctx, http.DefaultTransport, token)
			if err == nil || rotators.IsPermanent(err) || !strings.Contains(err.Error(), "which another run has minted and may be about to store") {
				t.Errorf("the other one: %v", err)
			}
		}
		h.on <- true
		if err := <-first; err != nil {
			t.Errorf("the first one: %v", err)
		}
		if err := errors.Join(k.all(ctx, &rotatortest.Wire{}), k.done(ctx)); err != nil {
			t.Error(err)
		}
	})
}

// A second createSecret stands in the retirement by which a rotation within a grace
// begins, until another one has stored, set, tested and promoted. What it goes on with
// harms nobody.
func TestACreateThatStallsUntilTheRotationIsOver(t *testing.T) {
	for _, operation := range []string{"UpdateAccessKey", "DeleteAccessKey", "GetCallerIdentity"} {
		t.Run(operation, func(t *testing.T) {
			everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
				ctx := t.Context()
				if err := k.rotate(ctx, &rotatortest.Wire{}, token); err != nil {
					t.Fatal(err)
				}
				k.pass(time.Minute)
				k.begin(tokenOf(2))
				h := hold(operation, 1)
				second := make(chan error)
				go func() { second <- k.create(ctx, h, tokenOf(2)) }()
				<-h.stopped
				k.mu.Lock()
				count := maps.Clone(k.count)
				k.mu.Unlock()
				if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err != nil {
					t.Fatal(err)
				}
				promoted, err := k.current(ctx)
				if err != nil {
					t.Fatal(err)
				}
				h.on <- true
				if err := <-second; err != nil {
					t.Errorf("the one that stalled: %v", err)
				}
				if minted := k.count["CreateAccessKey"] - count["CreateAccessKey"]; minted != 1 {
					t.Errorf("%d keys were minted", minted)
				}
				if now, err := k.current(ctx); err != nil || now != promoted {
					t.Errorf("readers get another value (%v)", err)
				}
				k.previous = ""
				if err := errors.Join(k.serves(ctx), k.harm); err != nil {
					t.Error(err)
				}
				k.noIntents()
				// The grace of what was promoted first goes on, and ends.
				keys, err := k.keys(ctx)
				if err != nil || len(keys) != 2 {
					t.Errorf("the keys are %v (%v)", keys, err)
				}
				k.pass(25 * time.Hour)
				if err := errors.Join(k.retire(ctx, &rotatortest.Wire{}), k.serves(ctx)); err != nil {
					t.Error(err)
				}
				if keys, err = k.keys(ctx); err != nil || len(keys) != 1 {
					t.Errorf("after the retirement the keys are %v (%v)", keys, err)
				}
			})
		})
	}
}

// The owner stores a key of another user and rotates at once, while AWS does not know the
// key everywhere yet; or a key that does not work. The old user's is never minted again.
func TestASecretThatMovesToAnotherUser(t *testing.T) {
	for name, c := range map[string]struct {
		user     string
		mistyped bool
		status   iamtypes.StatusType
		works    bool
	}{
		"with UserName":    {`"UserName":"other",`, false, "Active", true},
		"without UserName": {"", false, "Active", true},
		"mistyped":         {"", true, "Active", false},
		"inactive":         {`"UserName":"other",`, false, "Inactive", false},
	} {
		t.Run(name, func(t *testing.T) {
			everyKeyed(t, localaws.IAMDelays{Keys: 12 * time.Second}, func(t *testing.T, k *keyed) {
				ctx := t.Context()
				k.giveUp(token)
				p := iam.NewFromConfig(k.person)
				if _, err := p.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("other")}); err != nil {
					t.Fatal(err)
				}
				out, err := p.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: aws.String("other")})
				if err != nil {
					t.Fatal(err)
				}
				id, secret := *out.AccessKey.AccessKeyId, *out.AccessKey.SecretAccessKey
				if c.mistyped {
					secret = strings.Repeat("x", len(secret))
				}
				if _, err := p.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: aws.String("other"), AccessKeyId: &id, Status: c.status}); err != nil {
					t.Fatal(err)
				}
				theirs := fmt.Sprintf(`{%s"AccessKeyId":%q,"SecretAccessKey":%q,"note":1.50}`, c.user, id, secret)
				k.store(theirs)
				k.begin(tokenOf(2))
				before, err := k.keys(ctx)
				if err != nil {
					t.Fatal(err)
				}
				err = k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2))
				if c.works != (err == nil) {
					t.Errorf("got %v", err)
				}
				if !c.works && (rotators.IsPermanent(err) || !strings.Contains(fmt.Sprint(err), "the current key")) {
					t.Errorf("got %v", err)
				}
				if after, err := k.keys(ctx); err != nil || !maps.Equal(before, after) {
					t.Errorf("the keys of the user that was left were %v and are %v (%v)", before, after, err)
				}
				k.noIntents()
				now, err := k.current(ctx)
				if err != nil || (now == theirs) == c.works {
					t.Errorf("readers get %s (%v)", now, err)
				}
				if keys, err := k.keysOf(ctx, "other"); err != nil || (len(keys) == 2) != c.works {
					t.Errorf("the other user has the keys %v (%v)", keys, err)
				}
				if c.works && !strings.Contains(now, c.user) {
					t.Errorf("readers get %s", now)
				}
			})
		})
	}
}

// An application reads by a label of the owner's own, and the order to retire names the
// version with that label: the label counts for more. The error is permanent and names the
// tag. Once the label is gone, so is the key.
func TestALabelKeepsAKeyFromRetirement(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		k.label("blue")
		if err := k.rotate(ctx, &rotatortest.Wire{}, token); err != nil {
			t.Fatal(err)
		}
		k.pass(25 * time.Hour)
		err := k.retire(ctx, &rotatortest.Wire{})
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "a version with a label of its owner's own") || !strings.Contains(err.Error(), rotation.TagRetire) {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(k.works(ctx, "the key of the version with the label blue", k.first), k.serves(ctx)); err != nil {
			t.Error(err)
		}
		k.label("blue") // by which the application gets the current version now
		if err := errors.Join(k.retire(ctx, &rotatortest.Wire{}), k.serves(ctx), k.harm); err != nil {
			t.Error(err)
		}
		if ok, err := k.accepts(ctx, k.first); ok || err != nil {
			t.Errorf("the key works after its retirement (%v)", err)
		}
	})
}

// An application reads a version of another form by a label of the owner's own, and that
// version holds the key that is to be retired. It keeps the key in whatever form it has.
func TestALabelledVersionOfAnyFormKeepsItsKey(t *testing.T) {
	for name, value := range map[string]func(id, secret string) any{
		"a credentials file, as text": func(id, secret string) any {
			return fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", id, secret)
		},
		"a credentials file, as binary": func(id, secret string) any {
			return []byte(fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", id, secret))
		},
		"the same JSON, as binary": func(id, secret string) any {
			return []byte(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret))
		},
		"two keys in one object": func(id, secret string) any {
			return fmt.Sprintf(`{"AccessKeyId":"AKIAANOTHERUSERSKEY0","SecretAccessKey":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","mailer":{"AccessKeyId":%q,"SecretAccessKey":%q}}`, id, secret)
		},
		"the id ends with a line's end": func(id, secret string) any {
			return fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, id+"\n", secret)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
			ctx := t.Context()
			_, after, _ := strings.Cut(k.first, `"SecretAccessKey":"`)
			secret, _, _ := strings.Cut(after, `"`)
			put := &secretsmanager.PutSecretValueInput{SecretId: &k.arn, VersionStages: []string{"blue"}}
			switch v := value(idIn(k.first), secret).(type) {
			case string:
				put.SecretString = &v
			case []byte:
				put.SecretBinary = v
			}
			k.giveUp(token)
			if _, err := secretsmanager.NewFromConfig(k.person).PutSecretValue(ctx, put); err != nil {
				t.Fatal(err)
			}
			k.begin(tokenOf(2))
			if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err != nil {
				t.Fatal(err)
			}
			k.pass(25 * time.Hour)
			if err := k.retire(ctx, &rotatortest.Wire{}); err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "a version in use holds the same key") {
				t.Errorf("got %v", err)
			}
			if err := errors.Join(k.works(ctx, "the key of the version with the label blue", k.first), k.serves(ctx)); err != nil {
				t.Error(err)
			}
		})
	}
}

// stranger stores, without reading anything, an id of another application's key with a
// made-up secret; then the owner puts back what was there.
func (k *keyed) stranger(theirs string) (version string) {
	ctx := k.t.Context()
	k.giveUp(token)
	was := ""
	sm := secretsmanager.NewFromConfig(k.person)
	if k.service != "ssm" {
		v, err := sm.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &k.arn})
		if err != nil {
			k.t.Fatal(err)
		}
		was = *v.VersionId
	}
	k.store(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":"made-up-made-up-made-up-made-up-made-up"}`, idIn(theirs)))
	if k.service == "ssm" {
		k.store(k.first)
		return "2"
	}
	v, err := sm.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &k.arn})
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := sm.UpdateSecretVersionStage(ctx, &secretsmanager.UpdateSecretVersionStageInput{SecretId: &k.arn, VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: &was, RemoveFromVersionId: v.VersionId}); err != nil {
		k.t.Fatal(err)
	}
	return *v.VersionId
}

// The id alone of another application's key makes no room for a new one. The rotation stops
// and names the key.
func TestAnIDAloneMakesNoRoom(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		theirs, err := k.theirs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		k.stranger(theirs)
		k.begin(tokenOf(2))
		if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err == nil || !strings.Contains(err.Error(), idIn(theirs)+" is left alone") {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(k.works(ctx, "the other application's key", theirs), k.serves(ctx), k.harm); err != nil {
			t.Error(err)
		}
	})
}

// Nor does an order to retire revoke a key by its id alone. The error is permanent.
func TestAnIDAloneIsNotRetired(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		theirs, err := k.theirs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		k.tagged(rotation.TagRetire, k.stranger(theirs))
		if err := k.retire(ctx, &rotatortest.Wire{}); err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), idIn(theirs)+": the key is active, and is refused") {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(k.works(ctx, "the other application's key", theirs), k.serves(ctx), k.harm); err != nil {
			t.Error(err)
		}
	})
}

// Whoever may only store versions, under a label of their own, and who reads nothing, has
// no key revoked: the first of the two versions is left without a label.
func TestAStrangerWhoMayOnlyStoreVersions(t *testing.T) {
	k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
	ctx := t.Context()
	theirs, err := k.theirs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	k.giveUp(token)
	for _, id := range []string{idIn(theirs), "x"} {
		if _, err := secretsmanager.NewFromConfig(k.person).PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
			SecretId: &k.arn, VersionStages: []string{"x"}, SecretString: aws.String(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":"made-up-made-up-made-up-made-up-made-up"}`, id)),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := k.current(ctx); err != nil || now != k.first {
		t.Fatal(now, err)
	}
	if err := k.works(ctx, "before", theirs); err != nil { // the other application is at work: IAM knows it
		t.Fatal(err)
	}
	k.begin(tokenOf(2))
	if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err == nil || !strings.Contains(err.Error(), idIn(theirs)+" is left alone") {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(k.works(ctx, "the other application's key", theirs), k.serves(ctx), k.harm); err != nil {
		t.Error(err)
	}
}

// A retirement died between disabling the key and deleting it. The key is deleted later,
// although it does not work any more: by the retirement, run again, or by the next rotation.
func TestAHalfRevokedKeyIsDeleted(t *testing.T) {
	for name, end := range map[string]func(k *keyed) error{
		"by the retirement":    func(k *keyed) error { return k.retire(k.t.Context(), &rotatortest.Wire{}) },
		"by the next rotation": func(k *keyed) error { return k.rotate(k.t.Context(), &rotatortest.Wire{}, tokenOf(2)) },
		"for want of room": func(k *keyed) error {
			k.tagged(rotation.TagRetire, "")
			return k.rotate(k.t.Context(), &rotatortest.Wire{}, tokenOf(2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
				ctx := t.Context()
				if err := k.rotate(ctx, &rotatortest.Wire{}, token); err != nil {
					t.Fatal(err)
				}
				k.pass(25 * time.Hour)
				if err := k.retire(ctx, &cut{operation: "DeleteAccessKey"}); err == nil {
					t.Fatal("the process did not die")
				}
				if keys, err := k.keys(ctx); err != nil || len(keys) != 2 {
					t.Fatal(keys, err)
				}
				k.pass(time.Minute)
				if name != "by the retirement" {
					k.begin(tokenOf(2))
				}
				if err := errors.Join(end(k), k.serves(ctx), k.harm); err != nil {
					t.Error(err)
				}
				keys, err := k.keys(ctx)
				if _, there := keys[idIn(k.first)]; there || err != nil {
					t.Errorf("the keys are %v (%v)", keys, err)
				}
			})
		})
	}
}

// Within a grace a person deletes the old key, makes one by hand and stores it. The next
// rotation makes room by the key that readers got before, at its first try, and says
// nothing about keys that the secret is not said to have recorded.
func TestAKeyByHandWithinAGrace(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		if err := k.rotate(ctx, &rotatortest.Wire{}, token); err != nil {
			t.Fatal(err)
		}
		if _, err := iam.NewFromConfig(k.person).DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String(keyUser), AccessKeyId: aws.String(idIn(k.first))}); err != nil {
			t.Fatal(err)
		}
		theirs, err := k.theirs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		k.store(theirs)
		k.pass(time.Minute)
		k.begin(tokenOf(2))
		if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(k.works(ctx, "the key that was stored by hand, within its grace,", theirs), k.serves(ctx)); err != nil {
			t.Error(err)
		}
	})
}

// The worker dies, or hears nothing, right after the promotion; somebody stores another
// value over it; then the message comes back. Applications have had the promoted key: it
// gets its grace.
func TestAPromotedKeyThatIsOverwritten(t *testing.T) {
	overwrite := func(k *keyed) {
		k.pass(2 * time.Minute)
		k.store(strings.Replace(k.first, `"note":1.50`, `"note":"by hand"`, 1))
	}
	for name, admin := range map[string]string{"its own key": "", "a role": keyRole} {
		for _, dies := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", the worker dies: ", dies), func(t *testing.T) {
				k := newKeyed(t, "ssm", localaws.IAMDelays{})
				if admin != "" {
					k.cloud.AddRole(admin)
					k.tagged("rekey:admin", admin)
				}
				ctx := t.Context()
				var promoted string
				var dead bool
				err := k.rotate(ctx, roundTrip(func(r *http.Request) (*http.Response, error) {
					if dead {
						return nil, errors.New("the process is dead")
					}
					operation, err := operationOf(r)
					if err != nil {
						return nil, err
					}
					resp, err := http.DefaultTransport.RoundTrip(r)
					if operation == "PutParameter" && promoted == "" {
						if now, currentErr := k.current(ctx); currentErr == nil && now != k.first {
							promoted, dead = now, dies
							overwrite(k)
							return nil, errors.New("the connection broke")
						}
					}
					return resp, err
				}), token)
				if dies != (err != nil) || promoted == "" {
					t.Fatalf("got %v", err)
				}
				if dies {
					if err := k.rotate(ctx, &rotatortest.Wire{}, token); err != nil {
						t.Fatal(err)
					}
				}
				if err := errors.Join(k.works(ctx, "what readers got until a moment ago", promoted), k.serves(ctx)); err != nil {
					t.Error(err)
				}
				tags, err := k.tags(ctx)
				if order, at, _ := strings.Cut(tags[rotation.TagRetire], " "); err != nil || order != "2" || at == "" {
					t.Errorf("the tags are %v (%v)", tags, err)
				}
				k.pass(25 * time.Hour)
				if err := errors.Join(k.retire(ctx, &rotatortest.Wire{}), k.serves(ctx), k.harm); err != nil {
					t.Error(err)
				}
				if ok, err := k.accepts(ctx, promoted); ok || err != nil {
					t.Errorf("it works after its grace (%v)", err)
				}
			})
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The user is renamed in the middle of a rotation, and the owner puts UserName in the value
// right. The attempt is given up, and its key makes room for the next one's: whose key it is,
// AWS says, whatever name the value has. The older key still ends with its grace.
func TestAUserThatIsRenamedMidway(t *testing.T) {
	for _, admin := range []string{"", keyRole} {
		t.Run("role "+admin, func(t *testing.T) {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
			if admin != "" {
				k.cloud.AddRole(admin)
				k.tagged("rekey:admin", admin)
			}
			ctx := t.Context()
			if err := k.create(ctx, http.DefaultTransport, token); err != nil {
				t.Fatal(err)
			}
			k.cloud.RenameUser("arn:aws:iam::000000000000:user/shop/"+keyUser, "renamed")
			k.giveUp(token)
			k.store(strings.Replace(k.first, `"UserName":"app"`, `"UserName":"renamed"`, 1))
			k.pass(time.Hour)
			k.begin(tokenOf(2))
			if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err != nil {
				t.Fatal(err)
			}
			k.pass(25 * time.Hour)
			if err := errors.Join(k.retire(ctx, &rotatortest.Wire{}), k.serves(ctx), k.harm); err != nil {
				t.Error(err)
			}
			out, err := iam.NewFromConfig(k.person).ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: aws.String("renamed")})
			if err != nil || len(out.AccessKeyMetadata) != 1 {
				t.Errorf("the user has %d keys (%v)", len(out.AccessKeyMetadata), err)
			}
		})
	}
}

// The token of an attempt is whatever its owner wrote (rotate-secret --client-request-token).
// The intent holds a hash of it, so a run that dies with such a token leaves an orphaned key
// that the next one finds, too.
func TestTokensWithOddCharacters(t *testing.T) {
	for _, odd := range []string{"release 2026-11-29 of the mailer key", "release#2026-11-29,of-the-mailer-key", "Schl\u00fcssel \u2013 \u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375\u9375"} {
		t.Run(odd, func(t *testing.T) {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
			ctx := t.Context()
			k.giveUp(token)
			k.begin(odd)
			if err := k.rotate(ctx, &cut{operation: "CreateAccessKey", late: true}, odd); err == nil {
				t.Fatal("the process did not die")
			}
			k.pass(runIsOver)
			if err := errors.Join(k.rotate(ctx, &rotatortest.Wire{}, odd), k.serves(ctx), k.harm); err != nil {
				t.Error(err)
			}
			k.noIntents()
			if keys, err := k.keys(ctx); err != nil || len(keys) != 2 {
				t.Errorf("the keys are %v (%v)", keys, err)
			}
		})
	}
}
