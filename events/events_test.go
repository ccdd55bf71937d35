// Package events_test checks the event files in this folder, which are for
// `rekey invoke` and `sam local invoke`.
package events_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/rekeyhq/rekey/internal/queue"
)

func TestRotationEvents(t *testing.T) {
	files, err := filepath.Glob("*-secret.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("found %v, %v; want one file for each of the four steps", files, err)
	}
	var first events.SecretsManagerSecretRotationEvent
	withRotationToken := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var event events.SecretsManagerSecretRotationEvent
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&event); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if want := strings.TrimSuffix(file, "-secret.json") + "Secret"; event.Step != want {
			t.Errorf("%s: step is %q, want %q", file, event.Step, want)
		}
		if first.Step == "" {
			first = event
		}
		if event.SecretID == "" || event.SecretID != first.SecretID {
			t.Errorf("%s: secret is %q, want %q as in %s", file, event.SecretID, first.SecretID, files[0])
		}
		// 32 to 64 characters are what RotateSecret takes.
		if n := len(event.ClientRequestToken); n < 32 || n > 64 || event.ClientRequestToken != first.ClientRequestToken {
			t.Errorf("%s: token is %q, want %q as in %s", file, event.ClientRequestToken, first.ClientRequestToken, files[0])
		}
		if event.RotationToken != "" {
			withRotationToken++
		}
	}
	if withRotationToken == 0 || withRotationToken == len(files) {
		t.Errorf("%d of %d events carry a RotationToken, want some with and some without", withRotationToken, len(files))
	}
}

func decode(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// The detail of a schedule's event is a string, where that of a rule's is an object.
func TestScheduleEvent(t *testing.T) {
	var event struct {
		events.CloudWatchEvent
		Detail string `json:"detail"`
	}
	decode(t, "schedule.json", &event)
	if event.Source != "aws.scheduler" || event.Time.IsZero() || event.Detail != "{}" {
		t.Errorf("it is %+v", event)
	}
}

func TestRotateParameterEvent(t *testing.T) {
	var event events.SQSEvent
	decode(t, "rotate-parameter.json", &event)
	if len(event.Records) != 1 {
		t.Fatalf("it holds %d messages, and the function takes one at a time", len(event.Records))
	}
	message := event.Records[0]
	m, err := queue.Decode(message.Body)
	if err != nil {
		t.Fatal(err)
	}
	if sum := md5.Sum([]byte(message.Body)); message.Md5OfBody != hex.EncodeToString(sum[:]) {
		t.Error("the checksum is not that of the body")
	}
	function := arn.ARN{Partition: "aws", Region: "us-east-1", AccountID: "000000000000"} // of rekey invoke and rekey local
	if err := m.Check(function, message.Attributes["MessageGroupId"]); err != nil {
		t.Error(err)
	}
	if message.Attributes["MessageGroupId"] != m.Parameter.Group() || message.Attributes["MessageDeduplicationId"] != m.Parameter.Token() {
		t.Error("the ids are not the planner's")
	}
}
