// Package queue is what the planner asks of the worker, as messages of an SQS
// FIFO queue. SQS is what makes rekey a distributed system: it hands out the
// messages of one parameter one after the other, hands one out again if the
// worker failed, and puts aside what fails again and again.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/rotators"
)

// Message orders the rotation of one parameter or, if Retire is set, the retirement
// of one old credential. It never holds a value.
type Message struct {
	Parameter paramstore.Parameter `json:"parameter,omitzero"`
	Retire    *Retirement          `json:"retire,omitempty"`
	// Until is the end of the window in which the rotation may begin; zero: any
	// time.
	Until time.Time `json:"until,omitzero"`
	// Nonce is set in what a person orders, and makes the message another than
	// the planner's, and than what was ordered a minute ago.
	Nonce string `json:"nonce,omitempty"`
}

// Retirement names a version whose credential is to be retired.
type Retirement struct {
	ARN     string `json:"arn"`            // of the secret or parameter
	Name    string `json:"name,omitempty"` // of the parameter
	Version string `json:"version"`
}

// group is the same for all that is ordered of one secret or parameter.
func (m Message) group() string {
	if m.Retire != nil {
		return paramstore.Parameter{ARN: m.Retire.ARN}.Group()
	}
	return m.Parameter.Group()
}

// deduplication tells SQS which messages are the same. Of those it takes one in
// five minutes.
func (m Message) deduplication() string {
	if m.Retire != nil {
		return "retire-" + paramstore.Parameter{ARN: m.Retire.ARN + " " + m.Retire.Version}.Group()
	}
	return m.Parameter.Token() + m.Nonce
}

// Decode reads the body of a message. It refuses what it does not know: an order
// of a later version may ask for something else than a rotation.
func Decode(body string) (Message, error) {
	var m Message
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, rotators.Permanent(fmt.Errorf("the message is none of rekey's orders, or one of another version: %w", err))
	}
	if r := m.Retire; r != nil {
		if r.ARN == "" || r.Version == "" {
			return m, rotators.Permanent(errors.New("the message does not say which version of which secret or parameter to retire: send what the planner sends"))
		}
		return m, nil
	}
	p := m.Parameter
	if p.ARN == "" || p.Name == "" || p.Base < 1 {
		return m, rotators.Permanent(errors.New("the message does not say which version of which parameter to rotate: send what the planner sends"))
	}
	return m, nil
}

// atOnce is how many messages SQS takes in one call.
const atOnce = 10

// Send queues messages and returns how many were queued, also if it fails.
func Send(ctx context.Context, client *sqs.Client, url string, messages []Message) (sent int, err error) {
	for batch := range slices.Chunk(messages, atOnce) {
		var entries []types.SendMessageBatchRequestEntry
		for i, m := range batch {
			body, err := json.Marshal(m)
			if err != nil {
				return sent, err
			}
			entries = append(entries, types.SendMessageBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(body)),
				MessageGroupId: aws.String(m.group()), MessageDeduplicationId: aws.String(m.deduplication()),
			})
		}
		out, err := client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: entries})
		if err != nil {
			return sent, fmt.Errorf("queueing: %w", err)
		}
		sent += len(out.Successful)
		if len(out.Failed) > 0 {
			f := out.Failed[0]
			return sent, fmt.Errorf("queueing: SQS did not take %d of %d messages, the first because of %s (%s)", len(out.Failed), len(entries), aws.ToString(f.Code), aws.ToString(f.Message))
		}
	}
	return sent, nil
}
