//go:build moto

package functions_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/queue"
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

	// Without a function moto's RotateSecret enables rotation, and moves both
	// labels to an empty version. Moved back, that is what createSecret finds.
	_, err = client.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
		SecretId: &s.arn, ClientRequestToken: aws.String(token), RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, move := range []*secretsmanager.UpdateSecretVersionStageInput{
		{VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: created.VersionId, RemoveFromVersionId: aws.String(token)},
		{VersionStage: aws.String("AWSPENDING"), MoveToVersionId: aws.String(token)},
	} {
		move.SecretId = &s.arn
		if _, err := client.UpdateSecretVersionStage(ctx, move); err != nil {
			t.Fatal(err)
		}
	}

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

func startMoto(t *testing.T) (endpoint string) {
	t.Helper()
	program, err := exec.LookPath("moto_server")
	if err != nil {
		t.Fatal("moto is not installed: python3 -m pip install 'moto[server]', or make test-moto, which does it")
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
