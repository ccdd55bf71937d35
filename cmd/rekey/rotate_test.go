package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/rotators"
)

// watch runs f, once, in the middle of the line that first holds text.
type watch struct {
	bytes.Buffer
	text string
	f    func()
	once sync.Once
}

func (w *watch) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) && w.f != nil {
		w.once.Do(w.f)
	}
	return w.Buffer.Write(b)
}

// rotateNow runs rekey rotate with looks a millisecond apart. When stderr shows
// text, it runs f.
func rotateNow(ctx context.Context, text string, f func(), args ...string) (status int, stdout, stderr string) {
	out, log := new(bytes.Buffer), &watch{text: text, f: f}
	c := &call{command: rotateCommand(), args: args, stdin: strings.NewReader(""), stdout: out, stderr: log, now: time.Now, pause: time.Millisecond}
	status = c.command.run(ctx, c)
	return status, out.String(), log.String()
}

// gated sets a value that everybody accepts, when it is told to.
type gated struct{ set chan struct{} }

func (g gated) Create(context.Context, rotators.Rotation) (rotators.Secret, error) {
	return rotators.NewSecret("the next value"), nil
}

func (g gated) Set(ctx context.Context, _ rotators.Rotation) error {
	select {
	case <-g.set:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gated) Test(context.Context, rotators.Rotation) error { return nil }

// The functions' credentials are not those of whoever calls rekey.
func functionsAWS(t *testing.T, endpoint string) aws.Config {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("function", "local", "")))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// serveQueue makes an AWS with the queue of the parameters and /shop/password,
// which is not due.
func serveQueue(t *testing.T, more tags) (cloud *localaws.Server, endpoint string) {
	t.Helper()
	cloud, endpoint = serveAWS(t, localaws.Config{})
	if _, err := cloud.AddQueue("orders.fifo", map[string]string{"FifoQueue": "true", "VisibilityTimeout": "150"}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REKEY_QUEUE_URL", cloud.QueueURL(endpoint, "orders.fifo"))
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", "1000")
	all := tags{"rotator": "gated", "every": "30d"}
	for key, value := range more {
		all[key] = value
	}
	addTagged(cloud, "/shop/password", time.Now(), all)
	return cloud, endpoint
}

// subscribe has the real function take the orders. It stays in Set until the
// returned function is called.
func subscribe(t *testing.T, cloud *localaws.Server, endpoint string) (set func()) {
	t.Helper()
	g := gated{make(chan struct{})}
	cloud.Handle("parameter-rotator", functions.ParameterRotator(functionsAWS(t, endpoint), rotators.Registry{"gated": g}))
	if err := cloud.Subscribe("orders.fifo", "parameter-rotator", 1); err != nil {
		t.Fatal(err)
	}
	return func() { close(g.set) }
}

func readParameter(t *testing.T, name string) (version int64, value string) {
	t.Helper()
	cfg, err := loadAWS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := ssm.NewFromConfig(cfg).GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	return out.Parameter.Version, *out.Parameter.Value
}

// byHand stores a value as a person would.
func byHand(t *testing.T) {
	t.Helper()
	cfg, err := loadAWS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ssm.NewFromConfig(cfg).PutParameter(t.Context(), &ssm.PutParameterInput{
		Name: aws.String("/shop/password"), Value: aws.String("by hand"), Type: types.ParameterTypeSecureString, Overwrite: aws.Bool(true),
	}); err != nil {
		t.Error(err)
	}
}

func TestRotateFollowsAParameter(t *testing.T) {
	cloud, endpoint := serveQueue(t, tags{"paused": "yes"})
	set := subscribe(t, cloud, endpoint)
	status, stdout, stderr := rotateNow(t.Context(), "a value is pending in /rekey/pending/", set, "--wait", "/shop/password")
	if status != succeeded || stdout != "ordered: parameter /shop/password, from version 1\ndone: version 2 of /shop/password is current\n" {
		t.Errorf("exit status %d, %q; on stderr:\n%s", status, stdout, stderr)
	}
	if !strings.HasPrefix(stderr, "/shop/password is paused; it is rotated all the same\n") || !strings.Contains(stderr, "\na value is pending in /rekey/pending/") {
		t.Errorf("on stderr:\n%s", stderr)
	}
	if strings.Contains(stdout+stderr, "value\n") || strings.Contains(stdout+stderr, "the next value") {
		t.Error("a value was printed")
	}
	if version, value := readParameter(t, "/shop/password"); version != 2 || value != "the next value" {
		t.Errorf("the parameter is version %d, %q", version, value)
	}
}

// Two orders for one version, as the first was not carried out: the queue takes
// both, though the planner's two would be one.
func TestRotateOrdersAsOftenAsAsked(t *testing.T) {
	cloud, endpoint := serveQueue(t, nil)
	for range 2 {
		for _, name := range []string{"ssm:/shop/password", "arn:aws:ssm:us-east-1:000000000000:parameter/shop/password"} {
			status, stdout, stderr := rotateNow(t.Context(), "", nil, name)
			if status != succeeded || stdout != "ordered: parameter /shop/password, from version 1\n" || stderr != "" {
				t.Errorf("%s: exit status %d, %q, %q", name, status, stdout, stderr)
			}
		}
	}
	url := cloud.QueueURL(endpoint, "orders.fifo")
	client := sqs.NewFromConfig(functionsAWS(t, endpoint))
	got, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10})
	if err != nil || len(got.Messages) != 4 {
		t.Fatalf("%d messages (%v)", len(got.Messages), err)
	}
	nonces := map[string]bool{}
	for _, m := range got.Messages {
		order, err := queue.Decode(*m.Body)
		if err != nil || order.Parameter.Name != "/shop/password" || order.Parameter.Base != 1 || !order.Until.IsZero() ||
			!regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(order.Nonce) {
			t.Errorf("the order is %+v (%v)", order, err)
		}
		nonces[order.Nonce] = true
	}
	if len(nonces) != 4 {
		t.Errorf("the nonces are %v", nonces)
	}
}

func TestRotateTellsOfChangesByHand(t *testing.T) {
	t.Run("before it began", func(t *testing.T) {
		serveQueue(t, nil)
		status, stdout, stderr := rotateNow(t.Context(), "ordered\n", func() { byHand(t) }, "--wait", "/shop/password")
		if want := "version 2 of /shop/password is current, and arn:aws:iam::000000000000:user/operator stored it: if that is the function"; status != failed || !strings.Contains(stderr, want) || strings.Contains(stdout, "done") {
			t.Errorf("exit status %d, %q and %q, want %q", status, stdout, stderr, want)
		}
	})
	t.Run("while it ran", func(t *testing.T) {
		cloud, endpoint := serveQueue(t, nil)
		set := subscribe(t, cloud, endpoint)
		status, stdout, stderr := rotateNow(t.Context(), "a value is pending", func() { byHand(t); set() }, "--wait", "/shop/password")
		if want := "user/operator stored it while arn:aws:iam::000000000000:user/function was rotating it"; status != failed || !strings.Contains(stderr, want) || strings.Contains(stdout, "done") {
			t.Errorf("exit status %d, %q and %q, want %q", status, stdout, stderr, want)
		}
		if version, value := readParameter(t, "/shop/password"); version != 2 || value != "by hand" {
			t.Errorf("the parameter is version %d, %q", version, value)
		}
	})
	t.Run("twice", func(t *testing.T) {
		cloud, endpoint := serveQueue(t, nil)
		set := subscribe(t, cloud, endpoint)
		defer set()
		status, stdout, stderr := rotateNow(t.Context(), "a value is pending", func() { byHand(t); byHand(t) }, "--wait", "/shop/password")
		if want := "version 3 of /shop/password is current, and it was to be 2: somebody changed the parameter meanwhile"; status != failed || !strings.Contains(stderr, want) || strings.Contains(stdout, "done") {
			t.Errorf("exit status %d, %q and %q, want %q", status, stdout, stderr, want)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		serveQueue(t, nil)
		status, _, stderr := rotateNow(t.Context(), "ordered\n", func() {
			cfg, err := loadAWS(t.Context())
			if err == nil {
				_, err = ssm.NewFromConfig(cfg).DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String("/shop/password")})
			}
			if err != nil {
				t.Error(err)
			}
		}, "--wait", "/shop/password")
		if status != failed || !strings.HasSuffix(stderr, "rekey rotate: /shop/password was deleted\n") {
			t.Errorf("exit status %d, %q", status, stderr)
		}
	})
}

func TestRotateGivesUpWaiting(t *testing.T) {
	serveQueue(t, nil)
	status, stdout, stderr := rotateNow(t.Context(), "", nil, "--wait", "--timeout", "100ms", "/shop/password")
	if status != failed || stdout != "ordered: parameter /shop/password, from version 1\n" ||
		!strings.HasSuffix(stderr, "rekey rotate: not done after 100ms (ordered): read why in the log of parameter-rotator, and look for the order in the dead-letter queue\n") {
		t.Errorf("exit status %d, %q, %q", status, stdout, stderr)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	status, _, stderr = rotateNow(ctx, "ordered\n", stop, "--wait", "/shop/password")
	if status != failed || !strings.HasSuffix(stderr, "rekey rotate: not waited for its end; the rotation goes on\n") {
		t.Errorf("after ctrl-C: exit status %d, %q", status, stderr)
	}
}

func TestRotateRefuses(t *testing.T) {
	cloud, _ := serveQueue(t, nil)
	now := time.Now()
	addTagged(cloud, "/shop/not-tagged", now, nil)
	addTagged(cloud, "/shop/wrong", now, tags{"rotator": "gated", "every": "1h"}, func(p *localaws.Parameter) { p.Type = "String" })
	addTagged(cloud, "/shop/of-prod", now, tags{"rotator": "gated", "every": "30d", "stage": "prod"})
	addTagged(cloud, "both", now, tags{"rotator": "gated", "every": "30d"})
	secret := createSecret(t, "both")
	createSecret(t, "alone")
	tests := []struct {
		args   string
		status int
		stderr []string // what it must hold
	}{
		{"/shop/not-tagged", failed, []string{"/shop/not-tagged is not rotated:\n", "tag rekey:rotator: is missing: name a rotator", "tag rekey:every: is missing"}},
		{"/shop/wrong", failed, []string{`tag rekey:every: "1h" is too short: write 4h or longer`, "its type is String"}},
		{"/shop/of-prod", failed, []string{"/shop/of-prod is of the stage prod, and this is no stage: give --stage and the queue of that stage"}},
		{"/shop/password --stage prod", failed, []string{"/shop/password is of no stage, and this is the stage prod"}},
		{"/shop/password --queue-url=", misused, []string{"the queue for its order is not known: set REKEY_QUEUE_URL, or --queue-url, to the template's output ParameterQueueUrl"}},
		{"both", misused, []string{"both is the name of a secret and of a parameter: write ssm:both for the parameter, or " + secret + " for the secret"}},
		{"neither", failed, []string{"there is no secret and no parameter neither in us-east-1"}},
		{"some/secret", failed, []string{"there is no secret some/secret in us-east-1"}},
		{"ssm:/some/parameter", failed, []string{"there is no parameter /some/parameter in us-east-1"}},
		{"arn:aws:ssm:us-east-1:123456789012:parameter/shop/password", failed, []string{"there is no parameter arn:aws:ssm:us-east-1:123456789012:parameter/shop/password in us-east-1, or not in this account"}},
		{"alone", failed, []string{"the rotation of the secret alone is not configured, or was turned off: aws secretsmanager rotate-secret --secret-id alone --rotation-lambda-arn ARN"}},
		{secret, failed, []string{"the rotation of the secret both is not configured"}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			status, stdout, stderr := rotateNow(t.Context(), "", nil, strings.Fields(tt.args)...)
			if status != tt.status || stdout != "" {
				t.Errorf("exit status %d, want %d; stdout is %q", status, tt.status, stdout)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr is %q, want %q in it", stderr, want)
				}
			}
		})
	}
	for _, call := range cloud.Calls() {
		if call.Service == "sqs" || call.Operation == "RotateSecret" {
			t.Errorf("%s was called", call.Operation)
		}
	}
	if status, stdout, stderr := rotateNow(t.Context(), "", nil, "ssm:both"); status != succeeded || stdout != "ordered: parameter both, from version 1\n" {
		t.Errorf("ssm:both: exit status %d, %q, %q", status, stdout, stderr)
	}
}

// Whoever may not look in one of the two places is told how to name the other.
func TestRotateWithoutPermission(t *testing.T) {
	var denied string
	serveAWS(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
		if c.Operation == denied {
			return localaws.RefuseBefore
		}
		return localaws.None
	}})
	for operation, want := range map[string]string{
		"DescribeSecret":     "for the parameter of that name, write ssm:app",
		"DescribeParameters": "for the secret of that name, write its ARN",
	} {
		denied = operation
		if status, _, stderr := rotateNow(t.Context(), "", nil, "app"); status != failed || !strings.Contains(stderr, "AccessDeniedException") || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit status %d, %q", operation, status, stderr)
		}
	}
}

func secretsClient(t *testing.T) *secretsmanager.Client {
	t.Helper()
	cfg, err := loadAWS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return secretsmanager.NewFromConfig(cfg)
}

func createSecret(t *testing.T, name string) (arn string) {
	t.Helper()
	out, err := secretsClient(t).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: &name, SecretString: aws.String("a value"),
		Tags: []smtypes.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("gated")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return *out.ARN
}

// serveSecret makes an AWS with the secret shop, whose rotation is configured. It
// stays in setSecret until the returned function is called.
func serveSecret(t *testing.T) (cloud *localaws.Server, arn string, set func()) {
	t.Helper()
	cloud, endpoint := serveAWS(t, localaws.Config{})
	arn = createSecret(t, "shop")
	// The dry test, which configuring it runs, is not what this is about.
	cloud.Handle("secret-rotator", lambda.NewHandler(func() {}))
	if _, err := secretsClient(t).RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: &arn, RotationLambdaARN: aws.String(cloud.FunctionARN("secret-rotator")), RotateImmediately: aws.Bool(false),
		RotationRules: &smtypes.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	}); err != nil {
		t.Fatal(err)
	}
	if err := cloud.Wait(t.Context(), arn); err != nil {
		t.Fatal(err)
	}
	g := gated{make(chan struct{})}
	cloud.Handle("secret-rotator", functions.SecretRotator(functionsAWS(t, endpoint), rotators.Registry{"gated": g}))
	return cloud, arn, func() { close(g.set) }
}

func TestRotateFollowsASecret(t *testing.T) {
	cloud, arn, set := serveSecret(t)
	status, stdout, stderr := rotateNow(t.Context(), " is pending\n", set, "shop", "--wait")
	m := regexp.MustCompile(`^ordered: secret shop, version ([0-9a-f]{32})\ndone: version ([0-9a-f]{32}) of shop is current\n$`).FindStringSubmatch(stdout)
	if status != succeeded || m == nil || m[1] != m[2] || stderr != "version "+m[1]+" is pending\n" {
		t.Fatalf("exit status %d, %q, %q", status, stdout, stderr)
	}
	if err := cloud.Wait(t.Context(), arn); err != nil {
		t.Error(err)
	}
	got, err := secretsClient(t).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &arn})
	if err != nil || *got.SecretString != "the next value" || *got.VersionId != m[1] {
		t.Errorf("the secret is another version (%v)", err)
	}
}

func TestRotateTellsHowASecretsRotationEnds(t *testing.T) {
	tests := []struct {
		name   string
		f      func(ctx context.Context, client *secretsmanager.Client, arn string) error // when the version is pending
		stderr string
	}{
		{"abandoned", func(ctx context.Context, client *secretsmanager.Client, arn string) error {
			_, err := client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: &arn, SecretString: aws.String("by hand")})
			return err
		}, "rekey rotate: the rotation of shop was abandoned by Secrets Manager: somebody stored another version meanwhile"},
		{"canceled", func(ctx context.Context, client *secretsmanager.Client, arn string) error {
			_, err := client.CancelRotateSecret(ctx, &secretsmanager.CancelRotateSecretInput{SecretId: &arn})
			return err
		}, "rekey rotate: the rotation of shop was canceled: before the next one, take AWSPENDING off version "},
		{"deleted", func(ctx context.Context, client *secretsmanager.Client, arn string) error {
			_, err := client.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: &arn})
			return err
		}, "rekey rotate: the secret shop is being deleted: "},
		{"time-out", func(context.Context, *secretsmanager.Client, string) error { return nil },
			"): Secrets Manager tries again while the secret's window is open; read why it fails in the log of arn:aws:lambda:us-east-1:000000000000:function:secret-rotator\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, arn, _ := serveSecret(t)
			client := secretsClient(t)
			args := []string{arn, "--wait"}
			if tt.name == "time-out" {
				args = append(args, "--timeout", "100ms")
			}
			status, stdout, stderr := rotateNow(t.Context(), " is pending\n", func() {
				if err := tt.f(t.Context(), client, arn); err != nil {
					t.Error(err)
				}
			}, args...)
			if status != failed || !strings.HasPrefix(stdout, "ordered: secret shop, ") || strings.Contains(stdout, "done") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("exit status %d, %q, %q; want %q", status, stdout, stderr, tt.stderr)
			}
		})
	}
}
