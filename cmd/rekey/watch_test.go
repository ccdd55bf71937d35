package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/iamkey"
)

// account is an AWS that the environment of this test names, with a database and
// the functions that ship.
type account struct {
	cloud    *localaws.Server
	config   aws.Config
	database *servers.PostgresServer
	queueURL string
}

func newAccount(t *testing.T) *account {
	t.Helper()
	a := &account{cloud: localaws.New(localaws.Config{}), database: servers.StartPostgres(t, servers.PostgresOptions{})}
	t.Cleanup(a.cloud.Close)
	server := httptest.NewServer(a.cloud)
	t.Cleanup(server.Close)
	if _, err := a.cloud.AddQueue("rekey.fifo", map[string]string{"FifoQueue": "true", "VisibilityTimeout": "150"}); err != nil {
		t.Fatal(err)
	}
	a.queueURL = a.cloud.QueueURL(server.URL, "rekey.fifo")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "REKEY_QUEUE_URL": "", "REKEY_STAGE": "",
	} {
		t.Setenv(name, value)
	}
	var err error
	if a.config, err = loadAWS(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// dry is a function whose test of a new schedule finds nothing. The one that ships
// waits five seconds for a pending value first.
type dry struct{}

func (dry) Invoke(context.Context, []byte) ([]byte, error) { return nil, nil }

// secret makes one of a user of its own.
func (a *account) secret(t *testing.T, name, user, more string) {
	t.Helper()
	if err := a.database.Exec(t.Context(), "CREATE ROLE "+user+" LOGIN CREATEROLE PASSWORD 'hunter2hunter2'"); err != nil {
		t.Fatal(err)
	}
	a.cloud.Handle("secret-rotator", dry{})
	client := secretsmanager.NewFromConfig(a.config)
	secret, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: aws.String(a.value(user, more))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: secret.ARN, RotationLambdaARN: aws.String(a.cloud.FunctionARN("secret-rotator")), RotateImmediately: aws.Bool(false),
		RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cloud.Wait(t.Context(), *secret.ARN); err != nil {
		t.Fatal(err)
	}
	a.cloud.Handle("secret-rotator", functions.SecretRotator(a.config, registry(a.config)))
}

func (a *account) value(user, more string) string {
	return fmt.Sprintf(`{"engine":"postgres","host":%q,"port":%d,"username":%q,"password":"hunter2hunter2","ssl":false%s}`, a.database.Host, a.database.Port, user, more)
}

// One account for all, because starting a server takes longest.
func TestWatch(t *testing.T) {
	a := newAccount(t)
	t.Run("rotate", a.watchRotate)
	t.Run("a key", a.watchKey)
	t.Run("refuses", a.watchRefuses)
	t.Run("ends", a.watchEnds)
	t.Run("hostile", a.watchHostile)
}

// A picture of each with one command.
func (a *account) watchRotate(t *testing.T) {
	a.secret(t, "shop/admin", "boss", "")
	a.secret(t, "shop/one", "app", "")
	a.secret(t, "shop/two", "api", `,"masterarn":"shop/admin"`)
	if err := a.database.Exec(t.Context(), "GRANT api TO boss WITH ADMIN OPTION"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"shop/one": `(?s)1 app  .*2 app \(new\) .* logins with what readers got, (\d+ refused, in a gap of \d+ ms|none was refused)\.\n$`,
		"shop/two": `(?s)1 api  .*2 api_clone .* logins with what readers got, none was refused\.\n$`,
	} {
		svg := filepath.Join(t.TempDir(), "rotation.svg")
		status, stdout, stderr := rekey(t.Context(), "", "watch", "--rotate", "--svg", svg, name)
		if status != succeeded || !strings.HasPrefix(stderr, "ordered: secret "+name+", version ") {
			t.Fatalf("exit status %d, stderr %s", status, stderr)
		}
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("printed\n%s", stdout)
		}
		t.Log("\n" + stdout)
		picture, err := os.ReadFile(svg)
		if err != nil || !strings.HasPrefix(string(picture), "<svg ") || len(picture) > 10_000 {
			t.Errorf("%d bytes of SVG (%v)", len(picture), err)
		}
		if strings.Contains(stdout+stderr+string(picture), "hunter2") {
			t.Error("a password is in what was written")
		}
	}
}

// An access key is tried by asking STS.
func (a *account) watchKey(t *testing.T) {
	id, secret := a.cloud.AddAccessKey(a.cloud.AddUser(localaws.User{UserName: "mailer"}))
	client := secretsmanager.NewFromConfig(a.config)
	created, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: aws.String("shop/key"), SecretString: aws.String(fmt.Sprintf(`{"UserName":"mailer","AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret)),
		Tags: []types.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("iam-key")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.cloud.Handle("secret-rotator", dry{})
	_, err = client.RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: created.ARN, RotationLambdaARN: aws.String(a.cloud.FunctionARN("secret-rotator")), RotateImmediately: aws.Bool(false),
		RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cloud.Wait(t.Context(), *created.ARN); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64 // by which the function's clock is, that does not wait for IAM
	a.cloud.Handle("secret-rotator", functions.SecretRotator(a.config, rotators.Registry{"iam-key": iamkey.New(a.config, &apikey.Clock{
		Now:   func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Pause: func(ctx context.Context, d time.Duration) error { ahead.Add(int64(d)); return ctx.Err() },
	})}))
	status, stdout, stderr := rekey(t.Context(), "", "watch", "--rotate", "shop/key")
	if status != succeeded || !regexp.MustCompile(`(?s)1 mailer  .*2 mailer \(new\) .* logins with what readers got, none was refused\.\n$`).MatchString(stdout) {
		t.Errorf("exit status %d, stderr %s, stdout\n%s", status, stderr, stdout)
	}
	if strings.Contains(stdout+stderr, secret) {
		t.Error("a secret is in what was written")
	}
}

func (a *account) watchRefuses(t *testing.T) {
	a.secret(t, "both", "reader", "")
	a.cloud.AddParameter(localaws.Parameter{Name: "both", Type: "SecureString", Value: a.value("reader", "")})
	a.cloud.AddParameter(localaws.Parameter{Name: "/lost", Type: "SecureString", Value: "hunter2hunter2",
		Tags: map[string]string{"rekey:rotator": "postgres", "rekey:connection": "postgres://app@127.0.0.1:1/shop?sslmode=disable"}})
	a.cloud.AddParameter(localaws.Parameter{Name: "/mistagged", Type: "SecureString", Value: "x", Tags: map[string]string{"rekey:rotates": "postgres"}})
	a.cloud.AddParameter(localaws.Parameter{Name: "/key", Type: "SecureString", Value: "hunter2hunter2", Tags: map[string]string{"rekey:rotator": "generated"}})
	if _, err := secretsmanager.NewFromConfig(a.config).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("manual"), SecretString: aws.String(a.value("reader", ""))}); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]struct {
		status int
		stderr string
	}{
		"":                          {misused, "wrong number of arguments: 0, not 1; usage: rekey watch [flags] NAME|ARN"},
		"--for -1s both":            {misused, "--for is -1s"},
		"arn:aws:s3:::bucket":       {misused, "is no name or ARN"},
		"both":                      {misused, "write ssm:both for the parameter"},
		"--rotate ssm:both":         {misused, "set REKEY_QUEUE_URL, or --queue-url"},
		"/nowhere":                  {failed, "there is no secret and no parameter /nowhere"},
		"/lost":                     {failed, "cannot tell whether the target accepts what /lost holds: nothing listens at 127.0.0.1:1"},
		"/mistagged":                {failed, "there is no such tag"},
		"/key":                      {failed, "there is nothing to watch: what /key holds is made by rekey, no other system knows it"},
		"--rotate manual":           {failed, "the rotation of the secret manual is not configured"},
		"--for 1s --svg /no/x both": {misused, "write ssm:both"},
	} {
		t.Run(args, func(t *testing.T) {
			status, stdout, stderr := rekey(t.Context(), "", append([]string{"watch"}, strings.Fields(args)...)...)
			if status != want.status || !strings.Contains(stderr, want.stderr) || stdout != "" || strings.Contains(stderr, "hunter2") {
				t.Errorf("exit status %d, stdout %q, stderr %s", status, stdout, stderr)
			}
		})
	}
}

// Interrupted, and after --for, it shows what it saw, also of a parameter that
// nobody rotates.
func (a *account) watchEnds(t *testing.T) {
	a.secret(t, "shop/app", "other", "")
	a.cloud.AddParameter(localaws.Parameter{Name: "/shop/db/password", Type: "SecureString", Value: "hunter2hunter2",
		Tags: map[string]string{"rekey:rotator": "postgres", "rekey:connection": "siblings"}})
	for field, value := range map[string]string{"host": a.database.Host, "port": fmt.Sprint(a.database.Port), "username": "other", "ssl": "false"} {
		a.cloud.AddParameter(localaws.Parameter{Name: "/shop/db/" + field, Type: "String", Value: value})
	}
	status, stdout, stderr := rekey(t.Context(), "", "watch", "--for", "300ms", "/shop/db/password")
	if status != succeeded || stderr != "" || !regexp.MustCompile(`Of [1-5] logins? with what readers got, none was refused`).MatchString(stdout) {
		t.Errorf("exit status %d, stdout %s, stderr %s", status, stdout, stderr)
	}

	ctx, interrupt := context.WithTimeout(t.Context(), 2*time.Second)
	defer interrupt()
	status, stdout, stderr = rekey(ctx, "", "watch", "shop/app")
	if status != succeeded || stderr != "" || !strings.Contains(stdout, "none was refused") {
		t.Errorf("exit status %d, stdout %s, stderr %s", status, stdout, stderr)
	}
}
