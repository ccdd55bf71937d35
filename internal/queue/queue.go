// Package queue is what the planner asks of the worker, as messages of an SQS
// FIFO queue. SQS is what makes rekey a distributed system: it hands out the
// messages of one parameter one after the other, hands one out again if the
// worker failed, and puts aside what fails again and again.
//
// A message is an order and never a fact: it chooses which parameter is rotated now, or
// which old credential is retired if its time has come. Whoever can send to the queue
// can choose that and nothing else. How a parameter is stored, whose it is, whether it is
// tagged, and when a grace period ends are asked of the stores when the message is
// processed.
package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
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
	// the planner's, and than what was ordered a minute ago. A parameter that is paused
	// is rotated by such a message only. It proves nothing: who may order that is who may
	// send to the queue.
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

// maxBody is how many bytes a message has at most. Send writes some 2,300 at most: the
// ARN of a parameter has up to 1,011 characters, that of a secret up to 2,048.
const maxBody = 4096

// Decode reads the body of a message, and takes what Send writes and nothing else. Every
// message has one spelling: an unknown field, a field given twice, other capitals, white
// space, bytes that are not UTF-8, and a message of another version of rekey are errors.
// They are permanent.
func Decode(body string) (Message, error) {
	var m Message
	if len(body) > maxBody {
		return m, refused("it has %d bytes, and no message of rekey's has more than %d", len(body), maxBody)
	}
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, refused("it is none of rekey's messages, or one of another version: %w", err)
	}
	if again, err := json.Marshal(m); err != nil || string(again) != body {
		return m, refused("it is not spelled as rekey spells it: send what the planner sends")
	}
	if m.Retire != nil {
		return m, m.Retire.check(m)
	}
	if m.Parameter.Base < 1 {
		return m, refused("it does not say from which version of which parameter to rotate: send what the planner sends")
	}
	if err := m.Parameter.Check(); err != nil {
		return m, refused("%w", err)
	}
	return m, nil
}

func refused(format string, args ...any) error {
	return rotators.Permanent(fmt.Errorf("the message is refused: "+format, args...))
}

// check returns an error unless a message orders this retirement, and nothing besides.
func (r Retirement) check(m Message) error {
	id, err := arn.Parse(r.ARN)
	switch {
	case r.Version == "":
		return refused("it does not say which version to retire: send what the planner sends")
	case m.Parameter != paramstore.Parameter{}, !m.Until.IsZero(), m.Nonce != "":
		return refused("it orders a rotation and a retirement: send what the planner sends")
	case r.Name != "":
		if err := (paramstore.Parameter{ARN: r.ARN, Name: r.Name}).Check(); err != nil {
			return refused("%w", err)
		}
	case err != nil || id.Service != "secretsmanager" || !strings.HasPrefix(id.Resource, "secret:"):
		return refused("%q is not the ARN of a secret, and a parameter's order has its name too", r.ARN)
	}
	return nil
}

// Check returns an error unless the message is for the account and the region of the
// function that has it, and came in the group of what it is for. It is permanent. What is
// not known is not checked: the zero function, "" as the group.
//
// SQS hands out the messages of one group one after the other. A message in another
// group would be processed beside the true one.
func (m Message) Check(function arn.ARN, group string) error {
	id := m.Parameter.ARN
	if m.Retire != nil {
		id = m.Retire.ARN
	}
	there, err := arn.Parse(id)
	switch {
	case err != nil:
		return refused("%w", err)
	case function != arn.ARN{} && (there.Partition != function.Partition || there.Region != function.Region || there.AccountID != function.AccountID):
		return refused("%s is of the account %s in %s, and this function is of the account %s in %s: order it there", id, there.AccountID, there.Region, function.AccountID, function.Region)
	case group != "" && group != m.group():
		return refused("its group is %q, and that of %s is %s: send what the planner sends", group, id, m.group())
	}
	return nil
}

// NotTaken says that SQS took some messages and not others.
type NotTaken struct {
	Messages, Of int
	First        error
}

func (e *NotTaken) Error() string {
	return fmt.Sprintf("queueing: SQS did not take %d of %d messages, the first because of %v", e.Messages, e.Of, e.First)
}
func (e *NotTaken) Unwrap() error { return e.First }

// AtOnce is how many messages SQS takes in one call.
const AtOnce = 10

// Send queues messages and returns how many were queued, also if it fails. One that SQS does
// not take stops none of the others; the error names the first.
func Send(ctx context.Context, client *sqs.Client, url string, messages []Message) (sent int, err error) {
	refused := 0
	for batch := range slices.Chunk(messages, AtOnce) {
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
		out, sendErr := client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: entries})
		if sendErr != nil {
			return sent, fmt.Errorf("queueing: %w", sendErr)
		}
		sent += len(out.Successful)
		for _, f := range out.Failed {
			if refused++; err == nil {
				err = fmt.Errorf("%s (%s)", aws.ToString(f.Code), aws.ToString(f.Message))
			}
		}
	}
	if refused > 0 {
		return sent, &NotTaken{refused, len(messages), err}
	}
	return sent, nil
}
