package localaws

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

// Subscribe makes the function the consumer of the queue, both by name, as an
// event source mapping of Lambda's with a batch size of 1: until Close, it is
// invoked with each message, at most concurrency times at once. When it returns
// well the message is deleted. When it fails the message stays in flight until
// its visibility timeout ends, or the one the function gave it. What the mapping
// itself asks of SQS is not among Calls.
//
// Lambda refuses a queue whose visibility timeout is shorter than the function's
// timeout. A Function has none to compare.
func (s *Server) Subscribe(queue, function string, concurrency int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, ok := s.queues[queue]
	if !ok {
		return fmt.Errorf("there is no queue %s: create it first", queue)
	}
	if concurrency < 1 {
		return fmt.Errorf("the concurrency of %s on %s is %d: it must be at least 1", function, queue, concurrency)
	}
	if err := s.invokes(function); err != nil {
		return err
	}
	for range concurrency {
		s.runs.Go(func() { s.poll(q, function) })
	}
	return nil
}

// invokes tells whether there is a function of that name and the server still
// invokes any; s.mu is held.
func (s *Server) invokes(function string) error {
	switch {
	case s.functions[function] == nil:
		return fmt.Errorf("there is no function %s: add it with Handle first", function)
	case s.life.Err() != nil:
		return fmt.Errorf("%s is not invoked: localaws is closed", function)
	}
	return nil
}

// poll delivers one message after the other, until Close.
func (s *Server) poll(q *queue, function string) {
	for {
		s.mu.Lock()
		got := s.receive(s.life, q, 1, nil, nil)
		f := s.functions[function]
		var payload []byte
		if len(got) == 1 {
			payload = s.sqsEvent(q, got[0])
		}
		s.mu.Unlock()
		if payload == nil {
			return
		}
		s.deliver(q, got[0], f, payload)
	}
}

func (s *Server) deliver(q *queue, m message, f Function, payload []byte) {
	started := s.config.Now()
	_, err := f.Invoke(s.life, payload)
	if err != nil && s.life.Err() != nil {
		return // Close ended it, which says nothing about the function
	}
	ended := s.config.Now()
	log, outcome := s.config.Log.Info, "ok"
	if err != nil {
		log, outcome = s.config.Log.Warn, err.Error()
	}
	log("message delivered", "queue", q.name, "message", m.id, "receives", m.receives,
		slog.Int64("ms", ended.Sub(started).Milliseconds()), "outcome", outcome)
	if err != nil {
		return
	}
	s.mu.Lock()
	err = q.deleteMessage(m.handle, ended)
	s.mu.Unlock()
	if err != nil {
		s.config.Log.Warn("message not deleted", "queue", q.name, "message", m.id, "outcome", err.Error())
	}
}

// sqsEvent is what Lambda hands to a function that consumes q.
func (s *Server) sqsEvent(q *queue, m message) []byte {
	payload, _ := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{ // strings always encode
		MessageId:         m.id,
		ReceiptHandle:     m.handle,
		Body:              m.body,
		Md5OfBody:         md5Hex(m.body),
		Attributes:        s.messageAttributes(m),
		MessageAttributes: map[string]events.SQSMessageAttribute{},
		EventSource:       "aws:sqs",
		EventSourceARN:    q.arn,
		AWSRegion:         s.config.Region,
	}}})
	return payload
}

// Schedule makes EventBridge Scheduler invoke the function of that name at once
// and then every so often, until Close. When its time comes while it still runs,
// it is left out. A function that failed is only logged: the two retries of
// Lambda's asynchronous invocation are left out.
func (s *Server) Schedule(function string, every time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if every <= 0 {
		return fmt.Errorf("the schedule of %s is every %v: it must be more than nothing", function, every)
	}
	if err := s.invokes(function); err != nil {
		return err
	}
	s.runs.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		ended := make(chan struct{}, 1)
		ended <- struct{}{}
		for {
			select {
			case <-ended:
				s.runs.Go(func() {
					_ = s.Tick(s.life, function) // logged there
					ended <- struct{}{}
				})
			default:
				s.config.Log.Warn("tick skipped", "function", function, "outcome", "the last one is still running")
			}
			select {
			case <-ticker.C:
			case <-s.life.Done():
				return
			}
		}
	})
	return nil
}

// scheduledEvent is what EventBridge Scheduler sends to a function whose
// schedule gives no input. Detail is a string that holds JSON.
type scheduledEvent struct {
	Version    string   `json:"version"`
	ID         string   `json:"id"`
	DetailType string   `json:"detail-type"`
	Source     string   `json:"source"`
	Account    string   `json:"account"`
	Time       string   `json:"time"` // UTC, to the second
	Region     string   `json:"region"`
	Resources  []string `json:"resources"`
	Detail     string   `json:"detail"`
}

// Tick invokes the function of that name once, as its schedule does, and returns
// its error.
func (s *Server) Tick(ctx context.Context, function string) error {
	s.mu.Lock()
	f, err := s.functions[function], s.invokes(function)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	started := s.config.Now()
	payload, _ := json.Marshal(scheduledEvent{ // strings always encode
		Version:    "0",
		ID:         newUUID(),
		DetailType: "Scheduled Event",
		Source:     "aws.scheduler",
		Account:    s.config.Account,
		Time:       started.UTC().Format(time.RFC3339),
		Region:     s.config.Region,
		Resources:  []string{s.arn("scheduler", "schedule/default/"+function)},
		Detail:     "{}",
	})
	_, err = f.Invoke(ctx, payload)
	if s.life.Err() != nil {
		return err // Close may have ended it, which says nothing about the function
	}
	log, outcome := s.config.Log.Info, "ok"
	if err != nil {
		log, outcome = s.config.Log.Warn, err.Error()
	}
	log("tick", "function", function, slog.Int64("ms", s.config.Now().Sub(started).Milliseconds()), "outcome", outcome)
	return err
}
