//go:build moto

package functions_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/rotators"
)

// The shipped binary against moto, an implementation of the AWS API that has
// nothing to do with rekey: only AWS_ENDPOINT_URL differs. Run it with
// make test-moto.
//
// moto runs no rotation function without Docker, so the test puts the secret
// into the state that Secrets Manager hands over, and takes the four steps.
func TestTheShippedBinaryRotatesAgainstMoto(t *testing.T) {
	endpoint := startMoto(t)
	ctx := t.Context()
	client := secretsmanager.New(secretsmanager.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})

	s := &setup{t: t, user: fmt.Sprintf("app_%d", users.Add(1)), endpoint: endpoint, client: client}
	if err := database.Exec(ctx, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'the first password'", s.user)); err != nil {
		t.Fatal(err)
	}
	s.first = asJSON(s.user, "the first password")
	created, err := client.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: &s.first})
	if err != nil {
		t.Fatal(err)
	}
	s.arn = *created.ARN
	reserveInMoto(t, client, s.arn, *created.VersionId)

	var log bytes.Buffer
	f := function(t, endpoint, "123456789012", &log) // moto's account
	for _, step := range steps {
		if _, err := f.Invoke(ctx, s.event(step)); err != nil {
			t.Fatalf("%s: %v\n%s", step, err, log.String())
		}
	}
	if err := s.converged(ctx); err != nil {
		t.Error(err)
	}
}

// The same for parameters: the planner finds what is tagged, and the worker
// rotates it by the order that the test puts into moto's queue.
func TestTheShippedPlannerAndWorkerAgainstMoto(t *testing.T) {
	endpoint := startMoto(t)
	ctx := t.Context()
	cfg := aws.Config{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
	p := &parameter{setup: &setup{t: t, user: fmt.Sprintf("app_%d", users.Add(1)), endpoint: endpoint}, ssm: ssm.NewFromConfig(cfg)}
	if err := database.Exec(ctx, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'the first password'", p.user)); err != nil {
		t.Fatal(err)
	}
	p.first = asJSON(p.user, "the first password")
	_, err := p.ssm.PutParameter(ctx, &ssm.PutParameterInput{
		Name: aws.String(parameterName), Value: &p.first, Type: ssmtypes.ParameterTypeSecureString, Description: aws.String("the shop's"), Tier: ssmtypes.ParameterTierStandard,
		Tags: []ssmtypes.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("postgres")}, {Key: aws.String("rekey:every"), Value: aws.String("30d")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	client := sqs.NewFromConfig(cfg)
	created, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(liveQueue), Attributes: map[string]string{"FifoQueue": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	run := func(name string, event []byte) {
		file, err := bootstrap(name)
		if err != nil {
			t.Fatal(err)
		}
		f := locallambda.New(locallambda.Config{
			Name: name, Bootstrap: file, Account: "123456789012", Log: &log,
			Env: []string{"AWS_ENDPOINT_URL=" + endpoint, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "REKEY_QUEUE_URL=" + *created.QueueUrl},
		})
		_, err = f.Invoke(ctx, event)
		_ = f.Close()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, log.String())
		}
	}
	run("parameter-planner", []byte("{}"))
	if !strings.Contains(log.String(), `"managed":1,"looked":1,`) {
		t.Errorf("the planner did not find the parameter: %s", log.String())
	}
	p.order()
	p.Parameter.ARN = "arn:aws:ssm:us-east-1:123456789012:parameter" + parameterName // moto does not describe it
	if _, err := queue.Send(ctx, client, *created.QueueUrl, []queue.Message{p.Message}); err != nil {
		t.Fatal(err)
	}
	got, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: created.QueueUrl})
	if err != nil || len(got.Messages) != 1 {
		t.Fatal(got, err)
	}
	event, err := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{
		MessageId: *got.Messages[0].MessageId, ReceiptHandle: *got.Messages[0].ReceiptHandle, Body: *got.Messages[0].Body,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	run("parameter-rotator", event)
	if err := p.rotated(ctx, 2); err != nil {
		t.Error(err)
	}
}

// The same for an access key, which rotates itself, and is retired by the worker. moto
// checks who calls once it is told to: then every call must be signed by a key that
// there is, with the right secret, of a user whose policies allow it. It does not check
// that a key is active, which resources a policy names, or how much a user's tags hold,
// and knows what was written at once. Here the rotation waits in real time until
// AWS would know, twice for 15 seconds.
func TestTheShippedBinaryRotatesAnIAMKeyAgainstMoto(t *testing.T) {
	endpoint := likeSTS(t, startMoto(t))
	ctx := t.Context()
	as := func(id, secret string) aws.Config {
		return aws.Config{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// user makes one who may do something, and a key.
	anybody := iam.NewFromConfig(as("test", "test"))
	user := func(name, actions string) (id, secret string) {
		_, err := anybody.CreateUser(ctx, &iam.CreateUserInput{UserName: &name})
		check(err)
		_, err = anybody.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: &name, PolicyName: aws.String("may"), PolicyDocument: aws.String(
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[` + actions + `],"Resource":"*"}]}`)})
		check(err)
		key, err := anybody.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &name})
		check(err)
		return *key.AccessKey.AccessKeyId, *key.AccessKey.SecretAccessKey
	}
	functionsID, functionsSecret := user("functions", `"*"`)
	id, secret := user("app", `"iam:CreateAccessKey","iam:UpdateAccessKey","iam:DeleteAccessKey","iam:ListAccessKeys","iam:GetAccessKeyLastUsed","iam:TagUser","iam:UntagUser","iam:ListUserTags"`)
	reset, err := http.Post(endpoint+"/moto-api/reset-auth", "text/plain", strings.NewReader("0"))
	check(err)
	_ = reset.Body.Close()

	client := secretsmanager.NewFromConfig(as(functionsID, functionsSecret))
	first := fmt.Sprintf(`{ "UserName":"app", "AccessKeyId":%q, "SecretAccessKey":%q, "note":1.50 }`, id, secret)
	created, err := client.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("key"), SecretString: &first, Tags: []types.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("iam-key")}}})
	check(err)
	reserveInMoto(t, client, *created.ARN, *created.VersionId)

	var log lockedBuffer
	run := func(name string, event any) {
		file, err := bootstrap(name)
		check(err)
		f := locallambda.New(locallambda.Config{
			Name: name, Bootstrap: file, Account: "123456789012", Log: &log,
			Env: []string{"AWS_ENDPOINT_URL=" + endpoint, "AWS_ACCESS_KEY_ID=" + functionsID, "AWS_SECRET_ACCESS_KEY=" + functionsSecret, "REKEY_QUEUE_URL=https://queue"},
		})
		payload, err := json.Marshal(event)
		check(err)
		_, err = f.Invoke(ctx, payload)
		_ = f.Close()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, log.String())
		}
	}
	for _, step := range steps {
		run("secret-rotator", map[string]string{"Step": step, "SecretId": *created.ARN, "ClientRequestToken": token})
	}
	now, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: created.ARN})
	check(err)
	value := rotators.NewSecret(*now.SecretString)
	newID, _ := value.Field("AccessKeyId")
	newSecret, _ := value.Field("SecretAccessKey")
	if *now.VersionId != token || strings.NewReplacer(newID.Reveal(), id, newSecret.Reveal(), secret).Replace(*now.SecretString) != first || newID.Reveal() == id {
		t.Errorf("version %s with the key %s is current", *now.VersionId, newID.Reveal())
	}
	whoami := func(id, secret string) error {
		_, err := sts.NewFromConfig(as(id, secret)).GetCallerIdentity(ctx, nil)
		return err
	}
	check(whoami(newID.Reveal(), newSecret.Reveal()))
	check(whoami(id, secret)) // within its grace

	body, err := json.Marshal(queue.Message{Retire: &queue.Retirement{ARN: *created.ARN, Version: *created.VersionId}})
	check(err)
	run("parameter-rotator", events.SQSEvent{Records: []events.SQSMessage{{MessageId: "m", Body: string(body)}}})
	check(whoami(newID.Reveal(), newSecret.Reveal()))
	if err := whoami(id, secret); err == nil || !strings.Contains(err.Error(), "InvalidClientTokenId") {
		t.Errorf("the old key after its grace: %v", err)
	}
	admin := iam.NewFromConfig(as(functionsID, functionsSecret))
	keys, err := admin.ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: aws.String("app")})
	check(err)
	tags, err := admin.ListUserTags(ctx, &iam.ListUserTagsInput{UserName: aws.String("app")})
	check(err)
	if len(keys.AccessKeyMetadata) != 1 || len(tags.Tags) != 0 {
		t.Errorf("the user has %d keys and %d tags", len(keys.AccessKeyMetadata), len(tags.Tags))
	}
	if out := log.String(); strings.Contains(out, secret) || strings.Contains(out, newSecret.Reveal()) || !strings.Contains(out, "revoking a key") {
		t.Errorf("the log: %s", out)
	}
}

// likeSTS relays to moto, and writes what it says of a wrong key as STS and IAM do. moto
// 5.2.1 writes it as EC2 does, and in that the SDK finds no code.
func likeSTS(t *testing.T, moto string) (endpoint string) {
	t.Helper()
	target, err := url.Parse(moto)
	if err != nil {
		t.Fatal(err)
	}
	relay := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // which is signed
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			text := strings.NewReplacer("<Errors><Error>", "<Error>", "</Error></Errors>", "</Error>").Replace(string(body))
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
			r.Header.Set("Content-Length", strconv.Itoa(len(text)))
			return nil
		},
	})
	t.Cleanup(relay.Close)
	return relay.URL
}

// reserveInMoto brings a secret into the state in which createSecret finds it. Without
// a function moto's RotateSecret enables rotation, and moves both labels to an empty
// version. They are moved back.
func reserveInMoto(t *testing.T, client *secretsmanager.Client, arn, current string) {
	t.Helper()
	_, err := client.RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: &arn, ClientRequestToken: aws.String(token), RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, move := range []*secretsmanager.UpdateSecretVersionStageInput{
		{VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: &current, RemoveFromVersionId: aws.String(token)},
		{VersionStage: aws.String("AWSPENDING"), MoveToVersionId: aws.String(token)},
	} {
		move.SecretId = &arn
		if _, err := client.UpdateSecretVersionStage(t.Context(), move); err != nil {
			t.Fatal(err)
		}
	}
}

func startMoto(t *testing.T) (endpoint string) {
	t.Helper()
	program, err := exec.LookPath("moto_server")
	if err != nil {
		t.Fatal("there is no moto_server on PATH: python3 -m pip install 'moto[server]', in an environment of your own")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(listener.Addr().String(), ":")
	_ = listener.Close()
	moto := exec.CommandContext(t.Context(), program, "-H", host, "-p", port)
	said, err := moto.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := moto.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = moto.Process.Kill(); _ = moto.Wait() })
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Running on http") {
			go func() { _, _ = io.Copy(io.Discard, said) }()
			return "http://" + host + ":" + port
		}
	}
	t.Fatal("moto ended before it served")
	return ""
}
