package iamkey

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// clock is a clock that who waits by it moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pause(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

func (c *clock) apikey() *apikey.Clock { return &apikey.Clock{Now: c.time, Pause: c.pause} }

// cloud is a private AWS with a clock of its own.
type cloud struct {
	*localaws.Server
	*clock
	endpoint string
}

func newCloud(t *testing.T, config localaws.Config) *cloud {
	t.Helper()
	c := &cloud{clock: &clock{now: time.Date(2026, 11, 24, 1, 2, 3, 4e8, time.UTC)}}
	config.Now = c.time
	c.Server = localaws.New(config)
	t.Cleanup(c.Close)
	server := httptest.NewServer(c.Server)
	t.Cleanup(server.Close)
	c.endpoint = server.URL
	return c
}

// config is that of who holds a key; "local" is the account's root.
func (c *cloud) config(transport http.RoundTripper, id, secret string) aws.Config {
	cfg := aws.Config{Region: "eu-west-1", BaseEndpoint: &c.endpoint, Retryer: func() aws.Retryer { return aws.NopRetryer{} }, Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")}
	if transport != nil {
		cfg.HTTPClient = &http.Client{Transport: transport}
	}
	return cfg
}

func (c *cloud) iam() *iam.Client { return iam.NewFromConfig(c.config(nil, "local", "local")) }

// value is the secret of a user with one key.
func (c *cloud) value(user string, more ...string) rotators.Secret {
	id, secret := c.AddAccessKey(c.AddUser(localaws.User{UserName: user}))
	return rotators.NewSecret(fmt.Sprintf(`{"UserName": %q, "AccessKeyId":%q, "SecretAccessKey":%q%s}`, user, id, secret, strings.Join(more, "")))
}

func field(t *testing.T, v rotators.Secret, name string) string {
	t.Helper()
	f, err := v.Field(name)
	if err != nil {
		t.Fatal(err)
	}
	return f.Reveal()
}

// accepts asks STS with the key in a value.
func (c *cloud) accepts(ctx context.Context, v rotators.Secret) (bool, error) {
	var k struct{ AccessKeyId, SecretAccessKey string }
	if err := json.Unmarshal([]byte(v.Reveal()), &k); err != nil {
		return false, err
	}
	_, err := sts.NewFromConfig(c.config(nil, k.AccessKeyId, k.SecretAccessKey)).GetCallerIdentity(ctx, nil)
	switch code(err) {
	case "InvalidClientTokenId", "SignatureDoesNotMatch":
		return false, nil
	}
	return err == nil, err
}

// ids returns the ids of a user's keys.
func (c *cloud) ids(ctx context.Context, user string) (ids []string, err error) {
	pages := iam.NewListAccessKeysPaginator(c.iam(), &iam.ListAccessKeysInput{UserName: &user})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, k := range page.AccessKeyMetadata {
			ids = append(ids, *k.AccessKeyId)
		}
	}
	return ids, nil
}

const role = "arn:aws:iam::000000000000:role/keys"

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		fields []string
		more   string
		tags   map[string]string
	}{
		"its own key":          {[]string{"SecretAccessKey", "AccessKeyId"}, "", nil},
		"through a role":       {[]string{"SecretAccessKey", "AccessKeyId"}, "", map[string]string{"rekey:admin": role}},
		"SES's password, too ": {[]string{"SecretAccessKey", "AccessKeyId", "SmtpPassword"}, `, "SmtpPassword": ""`, map[string]string{"rekey:options": "ses=eu-west-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
				cloud := newCloud(t, localaws.Config{})
				cloud.AddRole(role)
				return rotatortest.Harness{
					Rotator: New(cloud.config(w, "local", "local"), cloud.apikey()),
					Value:   cloud.value("app", c.more),
					Another: cloud.value("another", c.more),
					Tags:    c.tags,
					Fields:  c.fields,
					Accepts: cloud.accepts,
					Overlap: true,
					Keys: func(ctx context.Context) (int, error) {
						ids, err := cloud.ids(ctx, "app")
						return len(ids), err
					},
					MaxKeys: maxKeys,
					Pass:    func(d time.Duration) { _ = cloud.pause(t.Context(), d) },
				}
			})
		})
	}
}

// rotation is one of a value, with nothing before it.
func rotation(v rotators.Secret, s rotators.Settings) rotators.Rotation {
	return rotators.Rotation{
		ID: "arn:aws:secretsmanager:eu-west-1:000000000000:secret:shop/key-AbCdEf", Token: "11111111-1111-4111-8111-111111111111",
		Current: v, Settings: s,
		Previous: func(context.Context) (rotators.Secret, error) { return rotators.Secret{}, nil },
		Leftovers: func(context.Context) iter.Seq2[rotators.Secret, error] {
			return func(func(rotators.Secret, error) bool) {}
		},
		Use: func(_ context.Context, holds func(rotators.Secret) bool) (rotators.Use, error) {
			if holds(v) {
				return rotators.InUse, nil
			}
			return rotators.Unused, nil
		},
	}
}

// What cannot be rotated is refused with a sentence, and nothing is written to IAM.
func TestRefuses(t *testing.T) {
	mine := func(c *cloud) rotators.Secret { return c.value("App") }
	admin := func(arn string) rotators.Settings { return rotators.Settings{Admin: arn} }
	for name, c := range map[string]struct {
		value    func(*cloud) rotators.Secret
		settings rotators.Settings
		want     string
	}{
		"a role of another account":      {mine, admin("arn:aws:iam::222222222222:role/keys"), "the role arn:aws:iam::222222222222:role/keys is of another account than the user arn:aws:iam::000000000000:user/App, and there a user of the same name would be somebody else"},
		"a role of another partition":    {mine, admin("arn:aws-cn:iam::000000000000:role/keys"), "the role arn:aws-cn:iam::000000000000:role/keys is of another account than the user arn:aws:iam::000000000000:user/App"},
		"an admin that is a secret":      {mine, admin("arn:aws:secretsmanager:eu-west-1:000000000000:secret:admin-AbCdEf"), "is not the ARN of a role"},
		"an admin that is a user":        {mine, admin("arn:aws:iam::000000000000:user/admin"), "is not the ARN of a role"},
		"an admin that is a name":        {mine, admin("admin"), "rekey:admin=admin is not the ARN of a role, and iam-key has no other admins: name one, or none, and the key rotates itself"},
		"an admin that is a session":     {mine, admin("arn:aws:sts::000000000000:assumed-role/keys/me"), "is not the ARN of a role"},
		"a role that may not be assumed": {mine, admin("arn:aws:iam::000000000000:role/unknown"), "this function may not assume the role arn:aws:iam::000000000000:role/unknown, which rekey:admin names"},
		"a strategy":                     {mine, rotators.Settings{Strategy: "single-user"}, "remove it"},
		"an unknown option":              {mine, rotators.Settings{Options: map[string]string{"ses": "eu-west-1", "region": "eu-west-1"}}, `iam-key has no option "region"; there is: ses=REGION`},
		"a user that it is not":          {func(c *cloud) rotators.Secret { return replaced(c.value("App"), `"App"`, `"boss"`) }, rotators.Settings{}, `the field UserName says "boss", and the key belongs to arn:aws:iam::000000000000:user/App: put one of them right`},
		"a key without its secret":       {func(c *cloud) rotators.Secret { return replaced(c.value("App"), "SecretAccessKey", "Secret") }, rotators.Settings{}, `the value has no field "SecretAccessKey"`},
		"a key that is no user's": {func(c *cloud) rotators.Secret {
			return rotators.NewSecret(`{"AccessKeyId":"local","SecretAccessKey":"any"}`)
		}, rotators.Settings{}, "the key belongs to arn:aws:iam::000000000000:root, and only those of IAM users can be rotated: give the application a user"},
		"a temporary key, of a role":        {session, rotators.Settings{}, "is a temporary one"},
		"a user that has no room for a tag": {tagged, rotators.Settings{}, `the user "tagged" has as many tags as IAM allows, and rekey needs one more while it rotates: take one off`},
	} {
		t.Run(name, func(t *testing.T) {
			cloud := newCloud(t, localaws.Config{})
			cloud.AddRole(role)
			v := c.value(cloud)
			_, err := New(cloud.config(nil, "local", "local"), cloud.apikey()).Create(t.Context(), rotation(v, c.settings))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v", err)
			}
			if !rotators.IsPermanent(err) {
				t.Error("it is not permanent")
			}
			if secret := field(t, v, "SecretAccessKey"); rotators.IsRefused(err) || len(secret) == 40 && strings.Contains(err.Error(), secret) {
				t.Errorf("got %v", err)
			}
			for _, call := range cloud.Calls() {
				if strings.HasPrefix(call.Operation, "Create") || strings.HasPrefix(call.Operation, "Update") || strings.HasPrefix(call.Operation, "Delete") {
					t.Errorf("and yet there was %s", call.Operation)
				}
			}
		})
	}
}

// Where the operator insists on delegation, no role is assumed: it has no tag that could
// name the secret.
func TestARoleIsNoDelegatedAdmin(t *testing.T) {
	cloud := newCloud(t, localaws.Config{})
	cloud.AddRole(role)
	r := rotation(cloud.value("App"), rotators.Settings{Admin: role})
	r.Limits.DelegatedAdmins = true
	_, err := New(cloud.config(nil, "local", "local"), cloud.apikey()).Create(t.Context(), r)
	if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "REKEY_ADMINS") || len(cloud.Calls()) > 0 {
		t.Errorf("%v, after the calls %v", err, cloud.Calls())
	}
}

// replaced is a value with one text in the place of another.
func replaced(v rotators.Secret, old, with string) rotators.Secret {
	return rotators.NewSecret(strings.Replace(v.Reveal(), old, with, 1))
}

// session is a key that belongs to somebody who has assumed the role.
func session(c *cloud) rotators.Secret {
	out, err := sts.NewFromConfig(c.config(nil, "local", "local")).AssumeRole(context.Background(), &sts.AssumeRoleInput{RoleArn: aws.String(role), RoleSessionName: aws.String("me")})
	if err != nil {
		panic(err)
	}
	return rotators.NewSecret(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q,"SessionToken":%q}`, *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken))
}

// tagged is the key of a user who has all the tags there may be.
func tagged(c *cloud) rotators.Secret {
	tags := map[string]string{}
	for n := range 50 {
		tags[fmt.Sprintf("tag %d", n)] = "x"
	}
	c.AddUser(localaws.User{UserName: "tagged", Tags: tags})
	id, secret := c.AddAccessKey("arn:aws:iam::000000000000:user/tagged")
	return rotators.NewSecret(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret))
}

// IAM does not tell names of users apart by case, and a path is no part of them.
func TestUserName(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	id, secret := c.AddAccessKey(c.AddUser(localaws.User{UserName: "App", Path: "/shop/web/"}))
	v := rotators.NewSecret(fmt.Sprintf(`{"UserName":"app","AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret))
	made, err := New(c.config(nil, "local", "local"), c.apikey()).Create(t.Context(), rotation(v, rotators.Settings{}))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := c.accepts(t.Context(), made); !ok || field(t, made, "UserName") != "app" {
		t.Errorf("the new value is refused (%v), or of another user", err)
	}
}

// Before a key is deleted it is said when it was used last, and no secret with it.
func TestLogsTheLastUse(t *testing.T) {
	for name, want := range map[string]string{
		"used":  `level=INFO msg="revoking a key" user=arn:aws:iam::000000000000:user/app key=AKIA\w{16} "last used"=2026-11-24T01:02:03Z`,
		"never": `level=INFO msg="revoking a key; nobody is known to have used it" user=arn:aws:iam::000000000000:user/app key=AKIA\w{16}`,
		"gone":  `level=INFO msg="revoking a key; iam:GetAccessKeyLastUsed failed, so when the key was used last is not known" user=arn:aws:iam::000000000000:user/app key=AKIA\w{16}\n`,
	} {
		t.Run(name, func(t *testing.T) {
			var c *cloud
			var old rotators.Secret
			c = newCloud(t, localaws.Config{Fault: func(call localaws.Call) localaws.Fault {
				if name == "gone" && call.Operation == "GetAccessKeyLastUsed" {
					return localaws.RefuseBefore
				}
				return localaws.None
			}})
			old = c.value("app")
			if name == "used" {
				if ok, err := c.accepts(t.Context(), old); !ok {
					t.Fatal(err)
				}
			}
			c.pause(t.Context(), time.Hour)
			id, secret := c.AddAccessKey("arn:aws:iam::000000000000:user/app")
			r := rotation(rotators.NewSecret(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret)), rotators.Settings{})
			r.Previous = func(context.Context) (rotators.Secret, error) { return old, nil }

			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
			err := New(c.config(nil, "local", "local"), c.apikey()).(rotators.Retirer).Retire(t.Context(), r)
			slog.SetDefault(before)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(want).MatchString(log.String()) || !strings.Contains(log.String(), field(t, old, "AccessKeyId")) {
				t.Errorf("logged %s", log.String())
			}
			for _, v := range []rotators.Secret{old, r.Current} {
				if strings.Contains(log.String(), field(t, v, "SecretAccessKey")) {
					t.Errorf("a secret is in the log: %s", log.String())
				}
			}
			asked, deleted := 0, 0
			for _, call := range c.Calls() {
				switch call.Operation {
				case "GetAccessKeyLastUsed":
					asked = call.N
				case "DeleteAccessKey":
					deleted = call.N
				}
			}
			if asked == 0 || deleted < asked {
				t.Errorf("the last use was asked for by call %d, and the key deleted by call %d", asked, deleted)
			}
			if ok, err := c.accepts(t.Context(), old); ok || err != nil {
				t.Errorf("the old key works (%v)", err)
			}
		})
	}
}

// The option ses was changed to another region. The password in the older value is that of
// the region before, and its key is retired all the same.
func TestRetireAfterSESMovedToAnotherRegion(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	old := c.value("app")
	old, err := old.With(fieldSMTP, smtpPassword(field(t, old, fieldSecret), "us-east-1"))
	if err != nil {
		t.Fatal(err)
	}
	id, secret := c.AddAccessKey("arn:aws:iam::000000000000:user/app")
	r := rotation(rotators.NewSecret(fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret)), rotators.Settings{Options: map[string]string{"ses": "eu-west-1"}})
	r.Previous = func(context.Context) (rotators.Secret, error) { return old, nil }
	if err := New(c.config(nil, "local", "local"), c.apikey()).(rotators.Retirer).Retire(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if ids, err := c.ids(t.Context(), "app"); err != nil || len(ids) != 1 || ids[0] != id {
		t.Errorf("the keys are %v (%v)", ids, err)
	}
}

// The vectors are those that the AWS provider of Terraform tests itself with; the
// algorithm that the developer guide of SES gives in Python makes the same of them.
func TestSMTPPassword(t *testing.T) {
	for _, c := range []struct{ region, secret, want string }{
		{"eu-central-1", "some+secret+key", "BMXhUYlu5Z3gSXVQORxlVa7XPaz91aGWdfHxvkOZdWZ2"},
		{"eu-central-1", "another+secret+key", "BBbphbrQmrKMx42d1N6+C7VINYEBGI5v9VsZeTxwskfh"},
		{"us-west-1", "some+secret+key", "BH+jbMzper5WwlwUar9E1ySBqHa9whi0GPo+sJ0mVYJj"},
	} {
		if got := smtpPassword(c.secret, c.region).Reveal(); got != c.want {
			t.Errorf("%s in %s: %s", c.secret, c.region, got)
		}
	}
}

// A key's time is of IAM's clock, and the intent's of the function's. If the two differ
// by more than the intent allows for, a key of somebody else's could be taken for a
// stray. So nothing is minted.
func TestAClockThatIsWrong(t *testing.T) {
	for by, right := range map[time.Duration]bool{-time.Minute: false, -4 * time.Second: false, 0: true, 4 * time.Second: false, time.Minute: false} {
		t.Run(by.String(), func(t *testing.T) {
			c := newCloud(t, localaws.Config{})
			ahead := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
				c.ServeHTTP(w, r)
			}))
			t.Cleanup(ahead.Close)
			v := c.value("app")
			c.endpoint = ahead.URL
			_, err := New(c.config(nil, "local", "local"), c.apikey()).Create(t.Context(), rotation(v, rotators.Settings{}))
			if right != (err == nil) || !right && !strings.Contains(err.Error(), "clock") {
				t.Errorf("got %v", err)
			}
			if ids, err := c.ids(t.Context(), "app"); err != nil || len(ids) == 1 == right {
				t.Errorf("the user has %d keys (%v)", len(ids), err)
			}
		})
	}
}

// Attempts that IAM refuses to mint for leave no intents behind.
func TestIntentsDoNotPileUp(t *testing.T) {
	c := newCloud(t, localaws.Config{Fault: func(call localaws.Call) localaws.Fault {
		if call.Operation == "CreateAccessKey" {
			return localaws.RefuseBefore
		}
		return localaws.None
	}})
	v := c.value("app")
	for range 60 { // more than a user can have tags
		_, err := New(c.config(nil, "local", "local"), c.apikey()).Create(t.Context(), rotation(v, rotators.Settings{}))
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), `arn:aws:iam::000000000000:user/app may not call iam:CreateAccessKey for the user "app"; see the policy in docs/rotators/iamkey.md`) {
			t.Fatalf("got %v", err)
		}
		c.pause(t.Context(), 10*time.Minute)
	}
	tags := 0
	for pages := iam.NewListUserTagsPaginator(c.iam(), &iam.ListUserTagsInput{UserName: aws.String("app")}); pages.HasMorePages(); {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tags += len(page.Tags)
	}
	if tags != 0 {
		t.Errorf("the user has %d tags", tags)
	}
}
