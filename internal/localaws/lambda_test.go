package localaws_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// lambda is a Lambda function in this process that takes any event.
type lambda func(context.Context, []byte) error

func (f lambda) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	return nil, f(ctx, payload)
}

// consumer makes a Function of one that takes SQS's only message.
func consumer(f func(events.SQSMessage) error) lambda {
	return func(_ context.Context, payload []byte) error {
		var e events.SQSEvent
		if err := json.Unmarshal(payload, &e); err != nil || len(e.Records) != 1 {
			return fmt.Errorf("the event is %s: %v", payload, err)
		}
		return f(e.Records[0])
	}
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := newQueue(t, localaws.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, ".fifo")
		start := time.Now()
		var mu sync.Mutex
		var got []string
		var first events.SQSMessage
		running, most := 0, 0
		c.Handle("worker", consumer(func(m events.SQSMessage) error {
			name := m.Attributes["MessageGroupId"] + m.Body
			mu.Lock()
			if got = append(got, fmt.Sprintf("%s/%s at %v", name, m.Attributes["ApproximateReceiveCount"], time.Since(start))); first.MessageId == "" {
				first = m
			}
			running++
			most = max(most, running)
			mu.Unlock()
			<-time.After(time.Second) // of the bubble
			mu.Lock()
			running--
			mu.Unlock()
			switch name {
			case "ax":
				return errors.New("no such database")
			case "b1": // says itself when it wants to be tried again
				if m.Attributes["ApproximateReceiveCount"] == "1" {
					_, err := c.sqs.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &c.url, ReceiptHandle: &m.ReceiptHandle, VisibilityTimeout: 5})
					return errors.Join(errors.New("again in 5 s"), err)
				}
			}
			return nil
		}))
		ids := c.send("ax", "a1", "b1", "c1")
		must(t, c.Subscribe("q.fifo", "worker", 2))
		must(t, c.Idle(t.Context(), "q.fifo"))

		slices.Sort(got)
		if s, want := strings.Join(got, "; "), "a1/1 at 1m0s; ax/1 at 0s; ax/2 at 30s; b1/1 at 0s; b1/2 at 6s; c1/1 at 1s"; s != want {
			t.Errorf("invoked for %s;\nwant %s", s, want)
		}
		if most != 2 {
			t.Errorf("%d ran at once, want 2", most)
		}
		dead := c.receive(c.dead)
		if names(dead) != "ax" || *dead[0].MessageId != ids[0] {
			t.Errorf("the dead-letter queue holds %s", names(dead))
		}
		// Lambda's event, which AWS documents with these members.
		if first.EventSource != "aws:sqs" || first.EventSourceARN != "arn:aws:sqs:us-east-1:000000000000:q.fifo" || first.AWSRegion != "us-east-1" ||
			len(first.Md5OfBody) != 32 || first.ReceiptHandle == "" || first.MessageAttributes == nil || first.Attributes["MessageDeduplicationId"] == "" ||
			first.Attributes["SequenceNumber"] == "" || first.Attributes["SentTimestamp"] != fmt.Sprint(start.UnixMilli()) || first.Attributes["ApproximateFirstReceiveTimestamp"] != fmt.Sprint(start.UnixMilli()) {
			t.Errorf("the event holds %+v", first)
		}
		// The function's call is one, the mapping's own are none.
		changes := 0
		for _, call := range c.Calls() {
			switch call.Operation {
			case "ChangeMessageVisibility":
				changes++
			case "DeleteMessage":
				t.Error("the mapping's DeleteMessage is among the calls")
			}
		}
		if changes != 1 {
			t.Errorf("%d calls of the function are among the calls, want 1", changes)
		}
		for _, want := range []string{
			`level=WARN msg="message delivered" queue=q.fifo message=` + ids[0] + ` receives=2 ms=1000 outcome="no such database"`,
			`level=INFO msg="message delivered" queue=q.fifo message=` + ids[2] + ` receives=2 ms=1000 outcome=ok`,
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log holds no %q:\n%s", want, log.String())
			}
		}
		if n := strings.Count(log.String(), "message delivered"); n != 6 {
			t.Errorf("%d lines about 6 deliveries", n)
		}
	})
}

// A function that is done after its message became visible again may not delete
// it: it is delivered again.
func TestSubscribeToSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := newQueue(t, localaws.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, ".fifo")
		runs := 0
		c.Handle("worker", consumer(func(events.SQSMessage) error {
			if runs++; runs == 1 {
				<-time.After(31 * time.Second) // of the bubble
			}
			return nil
		}))
		c.send("a1")
		must(t, c.Subscribe("q.fifo", "worker", 1))
		must(t, c.Idle(t.Context(), "q.fifo"))
		if runs != 2 || !strings.Contains(log.String(), "message not deleted") {
			t.Errorf("%d runs, and the log is\n%s", runs, log.String())
		}
	})
}

// Whoever moves the clock by hand has nothing to wait for.
func TestSubscribeByAClockMovedByHand(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newQueue(t, localaws.Config{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}, ".fifo")
	failed := make(chan string)
	c.Handle("worker", consumer(func(m events.SQSMessage) error {
		failed <- m.Attributes["ApproximateReceiveCount"]
		return errors.New("always")
	}))
	must(t, c.Subscribe("q.fifo", "worker", 1))
	c.send("a1")
	for _, want := range []string{"1", "2"} {
		if got := <-failed; got != want {
			t.Fatalf("receive %s, want %s", got, want)
		}
		mu.Lock()
		now = now.Add(30 * time.Second)
		mu.Unlock()
		c.Wake()
	}
	must(t, c.Idle(t.Context(), "q.fifo"))
	if got := c.counts(c.dead); got != "1+0+0" {
		t.Errorf("the dead-letter queue holds %s", got)
	}
}

func TestSubscribeRefusesAndEnds(t *testing.T) {
	c := newQueue(t, localaws.Config{}, "")
	started := make(chan bool)
	c.Handle("worker", lambda(func(ctx context.Context, _ []byte) error {
		started <- true
		<-ctx.Done()
		return ctx.Err()
	}))
	for what, err := range map[string]error{
		"no queue none":    c.Subscribe("none", "worker", 1),
		"no function none": c.Subscribe("q", "none", 1),
		"at least 1":       c.Subscribe("q", "worker", 0),
		"more than noth":   c.Schedule("worker", 0),
		"add it with Han":  c.Schedule("none", time.Minute),
		"function none: a": c.Tick(t.Context(), "none"),
		"queue none: crea": c.Idle(t.Context(), "none"),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %s in it", err, what)
		}
	}
	must(t, c.Subscribe("q", "worker", 2))
	c.send("a1")
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Idle(ctx, "q"); !errors.Is(err, context.Canceled) {
		t.Errorf("Idle while a message is in flight: %v", err)
	}
	c.Close() // returns, though the function only ends with it
	if got := c.counts(c.url); got != "0+1+0" {
		t.Errorf("after Close there are %s messages", got)
	}
	for _, err := range []error{c.Subscribe("q", "worker", 1), c.Schedule("worker", time.Minute), c.Tick(t.Context(), "worker")} {
		if err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := localaws.New(localaws.Config{Region: "eu-west-1", Log: slog.New(slog.NewTextHandler(&log, nil))})
		start := time.Now()
		var at []time.Duration
		var payload string
		s.Handle("planner", lambda(func(_ context.Context, event []byte) error {
			at, payload = append(at, time.Since(start)), string(event)
			switch len(at) {
			case 2:
				<-time.After(90 * time.Second) // of the bubble: over the next tick
			case 3:
				return errors.New("not planned")
			}
			return nil
		}))
		must(t, s.Schedule("planner", time.Minute))
		<-time.After(4*time.Minute + time.Second)
		synctest.Wait()
		if want := []time.Duration{0, time.Minute, 3 * time.Minute, 4 * time.Minute}; !slices.Equal(at, want) {
			t.Errorf("invoked at %v, want %v", at, want)
		}
		event := regexp.MustCompile(`^\{"version":"0","id":"[0-9a-f-]{36}","detail-type":"Scheduled Event","source":"aws.scheduler","account":"000000000000",` +
			`"time":"2000-01-01T00:04:00Z","region":"eu-west-1","resources":\["arn:aws:scheduler:eu-west-1:000000000000:schedule/default/planner"\],"detail":"\{\}"\}$`)
		if !event.MatchString(payload) {
			t.Errorf("the event is %s", payload)
		}
		for _, want := range []string{
			`msg="tick skipped" function=planner outcome="the last one is still running"`,
			`level=WARN msg=tick function=planner ms=0 outcome="not planned"`,
			`level=INFO msg=tick function=planner ms=90000 outcome=ok`,
		} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("the log holds not one %q:\n%s", want, log.String())
			}
		}
		at = at[:2]
		if err := s.Tick(t.Context(), "planner"); err == nil || err.Error() != "not planned" {
			t.Errorf("Tick: %v", err)
		}
		s.Close()
		<-time.After(time.Hour)
		if len(at) != 3 {
			t.Errorf("invoked %d times after Close", len(at)-3)
		}
	})
}

// A producer that lost the reply sends again, and nothing is queued twice.
func TestALostReplyToSendMessage(t *testing.T) {
	c := newCloud(t, localaws.Config{Fault: func(call localaws.Call) localaws.Fault {
		if call.N == 1 {
			return localaws.LoseReply
		}
		return localaws.None
	}})
	_, err := c.AddQueue("q.fifo", map[string]string{"FifoQueue": "true"})
	must(t, err)
	c.config.RetryMaxAttempts = 2
	c.config.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
		})
	}
	client, url := sqs.NewFromConfig(c.config), c.QueueURL(*c.config.BaseEndpoint, "q.fifo")
	_, err = client.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: &url, MessageBody: aws.String("body"), MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String("d"),
	})
	must(t, err)
	out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{"ApproximateNumberOfMessages"}})
	must(t, err)
	if len(c.Calls()) != 3 || len(out.Attributes) != 1 || out.Attributes["ApproximateNumberOfMessages"] != "1" {
		t.Errorf("%v after %v", out.Attributes, c.Calls())
	}
}
