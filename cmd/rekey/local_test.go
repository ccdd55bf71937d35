package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

func TestLocal(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, out := io.Pipe()
	stderr, log := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		status := run(ctx, []string{"local", "--port", "0", "--functions", build, "--region", "eu-west-1"}, nil, out, log)
		out.Close()
		log.Close()
		ended <- status
	}()

	lines := bufio.NewScanner(stdout)
	const arn = "arn:aws:lambda:eu-west-1:000000000000:function:secret-rotator"
	waitFor(t, lines, "  "+arn)
	endpoint := strings.TrimPrefix(waitFor(t, lines, "  export AWS_ENDPOINT_URL="), "  export AWS_ENDPOINT_URL=")
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-1"} {
		waitFor(t, lines, "  export "+name)
	}

	secretsManager(t, endpoint, "CreateSecret", `{"Name":"s","SecretString":"{}","ClientRequestToken":"00000000-0000-4000-8000-000000000001"}`)
	secretsManager(t, endpoint, "RotateSecret", fmt.Sprintf(`{"SecretId":"s","ClientRequestToken":"00000000-0000-4000-8000-000000000002",
		"RotationLambdaARN":%q,"RotationRules":{"AutomaticallyAfterDays":30}}`, arn))

	// The function's own words and the line about the step come from two writers,
	// in either order.
	asked, step := false, false
	for lines := bufio.NewScanner(stderr); !(asked && step) && lines.Scan(); {
		asked = asked || lines.Text() == "the function was asked to createSecret"
		step = step || strings.Contains(lines.Text(), "step=createSecret") && strings.Contains(lines.Text(), "outcome=ok")
	}
	if !asked || !step {
		t.Errorf("on stderr: the function's log %v, the step %v; want both", asked, step)
	}
	stop()
	go io.Copy(io.Discard, stderr)
	if status := <-ended; status != succeeded {
		t.Errorf("exit status %d after ctrl-C, want 0", status)
	}
}

// parameterFunction is parameter-planner, which queues one message for itself, and
// parameter-rotator, which writes down what it was given.
func parameterFunction(ctx context.Context, event json.RawMessage) error {
	queue := os.Getenv("REKEY_QUEUE_URL")
	if lambdacontext.FunctionName == parameterPlanner {
		client := sqs.New(sqs.Options{
			Region:       os.Getenv("AWS_REGION"),
			BaseEndpoint: aws.String(os.Getenv("AWS_ENDPOINT_URL")),
			Credentials:  credentials.NewStaticCredentialsProvider("local", "local", ""),
		})
		_, err := client.SendMessage(ctx, &sqs.SendMessageInput{
			QueueUrl: &queue, MessageBody: aws.String("/app/password"), MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String("d"),
		})
		return err
	}
	var e events.SQSEvent
	if err := json.Unmarshal(event, &e); err != nil || len(e.Records) != 1 {
		return fmt.Errorf("not one message: %s, %v", event, err)
	}
	deadline, _ := ctx.Deadline()
	fmt.Printf("%s from %s, %v left\n", e.Records[0].Body, queue, time.Until(deadline).Round(time.Minute))
	return nil
}

func TestLocalRotatesParameters(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, out := io.Pipe()
	stderr, log := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		status := run(ctx, []string{"local", "--port", "0", "--functions", parameters}, nil, out, log)
		out.Close()
		log.Close()
		ended <- status
	}()
	lines := bufio.NewScanner(stdout)
	waitFor(t, lines, "  arn:aws:lambda:us-east-1:000000000000:function:parameter-planner")
	endpoint := strings.TrimPrefix(waitFor(t, lines, "  export AWS_ENDPOINT_URL="), "  export AWS_ENDPOINT_URL=")
	queue := strings.TrimPrefix(waitFor(t, lines, "  export REKEY_QUEUE_URL="), "  export REKEY_QUEUE_URL=")
	if want := endpoint + "/000000000000/rekey-parameters.fifo"; queue != want {
		t.Errorf("the queue's URL is %s, want %s", queue, want)
	}
	go io.Copy(io.Discard, stdout)

	wanted := map[string]bool{
		"/app/password from " + queue + ", 2m0s left":      false,
		"msg=tick function=parameter-planner":              false,
		"msg=\"message delivered\" queue=rekey-parameters": false,
	}
	missing := len(wanted)
	for lines := bufio.NewScanner(stderr); missing > 0 && lines.Scan(); {
		for what, seen := range wanted {
			if !seen && strings.Contains(lines.Text(), what) {
				wanted[what] = true
				missing--
			}
		}
	}
	if missing > 0 {
		t.Errorf("on stderr: %v", wanted)
	}
	go io.Copy(io.Discard, stderr)

	client := sqs.New(sqs.Options{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")})
	for name, want := range map[string]map[string]string{
		parameterQueue: {"VisibilityTimeout": "150", "RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:rekey-parameters-dead.fifo","maxReceiveCount":5}`},
		parameterDead:  {"MessageRetentionPeriod": "1209600"},
	} {
		url := endpoint + "/000000000000/" + name
		got, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{"All"}})
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got.Attributes[key] != value {
				t.Errorf("%s of %s is %q, want %q", key, name, got.Attributes[key], value)
			}
		}
	}
	stop()
	if status := <-ended; status != succeeded {
		t.Errorf("exit status %d after ctrl-C, want 0", status)
	}
}

// ctrl-C in a terminal is a signal to the program.
func TestLocalEndsWellOnCtrlC(t *testing.T) {
	c := exec.CommandContext(t.Context(), filepath.Join(build, "rekey"), "local", "--port", "0")
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, bufio.NewScanner(stdout), "  export AWS_DEFAULT_REGION=us-east-1")
	c.Process.Signal(os.Interrupt)
	if err := c.Wait(); err != nil {
		t.Errorf("ended with %v, want exit status 0", err)
	}
}

// waitFor returns the next line that starts with prefix.
func waitFor(t *testing.T, lines *bufio.Scanner, prefix string) string {
	t.Helper()
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), prefix) {
			return lines.Text()
		}
	}
	t.Fatalf("there is no line %q...", prefix)
	return ""
}

// secretsManager makes a call as any AWS client would.
func secretsManager(t *testing.T, endpoint, operation, body string) {
	t.Helper()
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+$`).MatchString(endpoint) {
		t.Fatalf("the endpoint is %q, want http://127.0.0.1:PORT", endpoint)
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", endpoint, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "secretsmanager."+operation)
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=local/20260101/eu-west-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s", operation, response.Status, answer)
	}
}
