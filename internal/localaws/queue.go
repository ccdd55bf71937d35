package localaws

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of SQS.
const (
	maxMessage    = 1 << 20 // bytes of a message, and of all messages of a batch
	maxVisibility = 43200   // seconds a message may stay in flight: 12 hours
	maxID         = 128     // characters of a MessageGroupId and a MessageDeduplicationId
)

// deduplicationWindow is how long a MessageDeduplicationId is remembered,
// whatever becomes of its message.
const deduplicationWindow = 5 * time.Minute

// queue is a queue of SQS. Server.mu guards it.
type queue struct {
	name, arn         string
	fifo              bool
	attributes        map[string]string // those a request sets; each has a value, RedrivePolicy perhaps
	redrive           *redrive          // what attributes says of it
	created, modified time.Time
	purged            time.Time // zero: never

	messages []*message          // in the order in which they were sent, or moved here
	recent   []*message          // sent within deduplicationWindow, oldest first; some are gone from messages
	repeated map[string]*message // recent, by deduplication id

	changed chan struct{} // closed when a waiter must look again, and replaced
}

// redrive says where a message ends that was received too often.
type redrive struct {
	dead *queue
	most int // receives
}

// message is a message of a queue. It is delayed, visible or in flight.
type message struct {
	id, body         string
	group            string // "": none, on a standard queue
	deduplication    string // FIFO only, as is sequence
	sequence         string
	deadLetterSource string // ARN of the queue it was moved from
	sent             time.Time

	receives        int
	first, received time.Time // when it was received first and last
	visible         time.Time // from when on it can be received
	handle          string    // of the last receive
}

func (m *message) delayed(now time.Time) bool  { return m.receives == 0 && now.Before(m.visible) }
func (m *message) inFlight(now time.Time) bool { return m.receives > 0 && now.Before(m.visible) }

func md5Hex(body string) string {
	sum := md5.Sum([]byte(body))
	return hex.EncodeToString(sum[:])
}

// seconds returns an attribute that is a number of seconds.
func (q *queue) seconds(attribute string) time.Duration {
	n, _ := strconv.Atoi(q.attributes[attribute]) // checked when it was set
	return time.Duration(n) * time.Second
}

// notify wakes all who wait for the queue to change.
func (q *queue) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// expire removes what is older than the retention period.
func (q *queue) expire(now time.Time) {
	retention := q.seconds("MessageRetentionPeriod")
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return now.Sub(m.sent) >= retention })
}

// send adds a message, or returns the first one if this one repeats it.
func (s *Server) send(q *queue, in sendEntry, now time.Time) (*message, error) {
	if err := q.check(in); err != nil {
		return nil, err
	}
	m := &message{
		id:            newUUID(),
		body:          in.MessageBody,
		group:         in.MessageGroupId,
		deduplication: in.MessageDeduplicationId,
		sent:          now,
		visible:       now.Add(q.seconds("DelaySeconds")),
	}
	if in.DelaySeconds != nil {
		m.visible = now.Add(time.Duration(*in.DelaySeconds) * time.Second)
	}
	if q.fifo {
		if m.deduplication == "" {
			sum := sha256.Sum256([]byte(in.MessageBody))
			m.deduplication = hex.EncodeToString(sum[:])
		}
		for len(q.recent) > 0 && now.Sub(q.recent[0].sent) >= deduplicationWindow {
			delete(q.repeated, q.recent[0].deduplication)
			q.recent = q.recent[1:]
		}
		if first, ok := q.repeated[m.deduplication]; ok {
			return first, nil
		}
		q.recent, q.repeated[m.deduplication] = append(q.recent, m), m
		m.sequence = s.nextSequence()
	}
	q.messages = append(q.messages, m)
	q.notify()
	return m, nil
}

// nextSequence returns a number of the form of SQS's sequence numbers. As there,
// later is greater, and one is not the next to another in the same group.
func (s *Server) nextSequence() string {
	s.sent++
	return fmt.Sprintf("%020d", s.sent)
}

// check refuses messages that SQS refuses. No error holds the body.
func (q *queue) check(in sendEntry) error {
	size, _ := strconv.Atoi(q.attributes["MaximumMessageSize"])
	switch {
	case len(in.MessageAttributes)+len(in.MessageSystemAttributes) > 0:
		return unsupportedBySQS("localaws keeps no attributes of messages: leave MessageAttributes and MessageSystemAttributes out")
	case in.MessageBody == "":
		return missingParameter("MessageBody")
	case len(in.MessageBody) > size:
		return invalidValue("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", size+1)
	case strings.ContainsFunc(in.MessageBody, notXML):
		return &apiError{code: "InvalidMessageContents", message: "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF."}
	case in.DelaySeconds != nil && (*in.DelaySeconds < 0 || *in.DelaySeconds > 900):
		return invalidFor("DelaySeconds", strconv.Itoa(*in.DelaySeconds), "DelaySeconds must be >= 0 and <= 900.")
	case in.MessageGroupId != "" && !isID(in.MessageGroupId):
		return invalidFor("MessageGroupId", in.MessageGroupId, "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.")
	case in.MessageDeduplicationId != "" && !isID(in.MessageDeduplicationId):
		return invalidFor("MessageDeduplicationId", in.MessageDeduplicationId, "MessageDeduplicationId can only include alphanumeric and punctuation characters. 1 to 128 in length.")
	case !q.fifo && in.MessageDeduplicationId != "":
		return invalidFor("MessageDeduplicationId", in.MessageDeduplicationId, "The request includes a parameter that is not valid for this queue type.")
	case q.fifo && in.MessageGroupId == "":
		return missingParameter("MessageGroupId")
	case q.fifo && in.DelaySeconds != nil:
		return invalidFor("DelaySeconds", strconv.Itoa(*in.DelaySeconds), "The request include parameter that is not valid for this queue type.")
	case q.fifo && in.MessageDeduplicationId == "" && q.attributes["ContentBasedDeduplication"] != "true":
		return invalidValue("The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly.")
	}
	return nil
}

// notXML tells whether a message must not contain r. A byte that is no UTF-8
// counts as U+FFFD, which is allowed: the JSON decoder makes it that as well.
func notXML(r rune) bool {
	return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
}

// isID tells whether s is made of letters, digits and punctuation of ASCII.
func isID(s string) bool {
	return len(s) <= maxID && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// receive hands out up to n messages for visibility, or nil for as long as the
// queue says. If there is none it waits until timeout or the end of ctx; a nil
// timeout never comes. s.mu is held, but not while it waits.
func (s *Server) receive(ctx context.Context, q *queue, n int, visibility *time.Duration, timeout <-chan time.Time) []message {
	for ctx.Err() == nil {
		if got := s.take(q, n, visibility, s.config.Now()); len(got) > 0 {
			return got
		}
		if !s.await(ctx, q, timeout) {
			break
		}
	}
	return nil
}

// await waits until q changes or one of its messages becomes visible. It returns
// false if ctx or the time ended first. s.mu is held, but not while it waits.
func (s *Server) await(ctx context.Context, q *queue, timeout <-chan time.Time) bool {
	changed := q.changed
	var visible <-chan time.Time
	if d, ok := q.next(s.config.Now()); ok {
		t := time.NewTimer(d)
		defer t.Stop()
		visible = t.C
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-changed:
		return true
	case <-visible:
		return true
	case <-timeout:
		return false
	case <-ctx.Done():
		return false
	}
}

// next returns how long it takes until the next message becomes visible.
func (q *queue) next(now time.Time) (d time.Duration, ok bool) {
	for _, m := range q.messages {
		if left := m.visible.Sub(now); left > 0 && (!ok || left < d) {
			d, ok = left, true
		}
	}
	return d, ok
}

// take hands out what is visible, up to n messages, and moves to the dead-letter
// queue what was received too often. Of a group of a FIFO queue it hands out
// nothing while one of its messages is in flight or an earlier one is delayed,
// but several messages at once.
func (s *Server) take(q *queue, n int, visibility *time.Duration, now time.Time) []message {
	q.expire(now)
	busy := map[string]bool{} // groups of a FIFO queue
	for _, m := range q.messages {
		if q.fifo && m.inFlight(now) {
			busy[m.group] = true
		}
	}
	var got []message
	var dead []*message
	for _, m := range q.messages {
		switch {
		case len(got) == n:
		case busy[m.group]:
		case now.Before(m.visible):
			busy[m.group] = q.fifo
		case q.redrive != nil && m.receives >= q.redrive.most:
			dead = append(dead, m)
		default:
			m.receives++
			m.received, m.visible = now, now.Add(q.seconds("VisibilityTimeout"))
			if visibility != nil {
				m.visible = now.Add(*visibility)
			}
			if m.first.IsZero() {
				m.first = now
			}
			m.handle = q.newHandle(m)
			got = append(got, *m)
		}
	}
	for _, m := range dead {
		q.remove(m)
		s.bury(q, m, now)
	}
	if len(got)+len(dead) > 0 {
		q.notify()
	}
	return got
}

// bury puts a message of q into its dead-letter queue. As documented, a FIFO
// queue takes it as a new one with its message id for deduplication id; a
// standard queue keeps the time it was sent. AWS does not document the count of
// receives: here it goes on.
func (s *Server) bury(q *queue, m *message, now time.Time) {
	moved := *m
	moved.deadLetterSource = q.arn
	moved.visible = now
	if q.fifo {
		moved.sent, moved.deduplication, moved.sequence = now, m.id, s.nextSequence()
	}
	q.redrive.dead.messages = append(q.redrive.dead.messages, &moved)
	q.redrive.dead.notify()
}

func (q *queue) remove(m *message) {
	if i := slices.Index(q.messages, m); i >= 0 {
		q.messages = slices.Delete(q.messages, i, i+1)
		q.notify()
	}
}

// newHandle returns the receipt handle of the receive that is being made.
func (q *queue) newHandle(m *message) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s %s %d", q.name, m.id, m.receives))
}

// find returns the message a receipt handle was given out for, nil if it is gone.
func (q *queue) find(handle string, now time.Time) (*message, error) {
	if handle == "" {
		return nil, missingParameter("ReceiptHandle")
	}
	text, err := base64.StdEncoding.DecodeString(handle)
	part := strings.Split(string(text), " ")
	if err != nil || len(part) != 3 || part[0] != q.name {
		return nil, &apiError{code: "ReceiptHandleIsInvalid", message: fmt.Sprintf("The input receipt handle %q is not a valid receipt handle.", handle)}
	}
	q.expire(now)
	i := slices.IndexFunc(q.messages, func(m *message) bool { return m.id == part[1] })
	if i < 0 {
		return nil, nil
	}
	m := q.messages[i]
	if q.fifo && (m.handle != handle || !m.inFlight(now)) {
		return nil, invalidFor("ReceiptHandle", handle, "The receipt handle has expired.")
	}
	return m, nil
}

// deleteMessage deletes the message a receipt handle was given out for. It
// succeeds for one that is gone and, on a standard queue, does nothing if the
// handle is not the last one.
func (q *queue) deleteMessage(handle string, now time.Time) error {
	m, err := q.find(handle, now)
	if err == nil && m != nil && m.handle == handle {
		q.remove(m)
	}
	return err
}

// changeVisibility lets a message in flight be received so many seconds from now.
func (q *queue) changeVisibility(handle string, seconds *int, now time.Time) error {
	if seconds == nil {
		return missingParameter("VisibilityTimeout")
	}
	visibility, err := visibilityTimeout(seconds)
	if err != nil {
		return err
	}
	m, err := q.find(handle, now)
	if err != nil {
		return err
	}
	switch {
	case m == nil || m.handle != handle:
		return invalidFor("ReceiptHandle", handle, "Message does not exist or is not available for visibility timeout change.")
	case !m.inFlight(now):
		return batchError("MessageNotInflight", "The message referred to isn't in flight.")
	case now.Add(*visibility).Sub(m.received) > maxVisibility*time.Second:
		return invalidFor("VisibilityTimeout", strconv.Itoa(*seconds), fmt.Sprintf("Total VisibilityTimeout for the message is beyond the limit [%d seconds].", maxVisibility))
	}
	m.visible = now.Add(*visibility)
	q.notify()
	return nil
}

// visibilityTimeout checks a request's VisibilityTimeout; nil stays nil.
func visibilityTimeout(seconds *int) (*time.Duration, error) {
	if seconds == nil {
		return nil, nil
	}
	if *seconds < 0 || *seconds > maxVisibility {
		return nil, invalidFor("VisibilityTimeout", strconv.Itoa(*seconds), fmt.Sprintf("Must be between 0 and %d, if provided.", maxVisibility))
	}
	d := time.Duration(*seconds) * time.Second
	return &d, nil
}

// messageAttributes returns the system attributes SQS keeps of m.
func (s *Server) messageAttributes(m message) attributes {
	all := attributes{
		"SenderId":                         s.config.Account, // the root's, as localaws knows no users
		"SentTimestamp":                    strconv.FormatInt(m.sent.UnixMilli(), 10),
		"ApproximateReceiveCount":          strconv.Itoa(m.receives),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first.UnixMilli(), 10),
		"MessageGroupId":                   m.group,
		"MessageDeduplicationId":           m.deduplication,
		"SequenceNumber":                   m.sequence,
		"DeadLetterQueueSourceArn":         m.deadLetterSource,
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all
}

// Idle waits until the queue of that name holds no message, visible or not. It
// returns the error of ctx if that ends first.
func (s *Server) Idle(ctx context.Context, queue string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, ok := s.queues[queue]
	if !ok {
		return fmt.Errorf("there is no queue %s: create it first", queue)
	}
	for {
		if q.expire(s.config.Now()); len(q.messages) == 0 {
			return nil
		}
		if !s.await(ctx, q, nil) {
			return ctx.Err()
		}
	}
}

// Wake makes everybody who waits for a message look at the clock again. It is
// for clocks that are moved by hand.
func (s *Server) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		q.notify()
	}
}
