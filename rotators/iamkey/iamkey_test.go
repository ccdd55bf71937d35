package iamkey

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
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
				}
			})
		})
	}
}

