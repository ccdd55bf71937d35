package localaws

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) sqsOperations() map[string]operation {
	ops := map[string]operation{}
	sqsOperation(ops, "CreateQueue", s.createQueue)
	sqsOperation(ops, "GetQueueUrl", s.getQueueURL)
	sqsOperation(ops, "ListQueues", s.listQueues)
	sqsOperation(ops, "GetQueueAttributes", s.getQueueAttributes)
	sqsOperation(ops, "SetQueueAttributes", s.setQueueAttributes)
	sqsOperation(ops, "PurgeQueue", s.purgeQueue)
	sqsOperation(ops, "SendMessage", s.sendMessage)
	sqsOperation(ops, "SendMessageBatch", s.sendMessageBatch)
	sqsOperation(ops, "ReceiveMessage", s.receiveMessage)
	sqsOperation(ops, "DeleteMessage", s.deleteMessage)
	sqsOperation(ops, "DeleteMessageBatch", s.deleteMessageBatch)
	sqsOperation(ops, "ChangeMessageVisibility", s.changeMessageVisibility)
	sqsOperation(ops, "ChangeMessageVisibilityBatch", s.changeMessageVisibilityBatch)
	return ops
}

// queueInput is the input of a call to a queue. The URL may be left out if the
// call is posted to it, as old clients do.
type queueInput struct{ QueueUrl string }

func (s *Server) findQueue(c call, in queueInput) (*queue, error) {
	url := in.QueueUrl
	if url == "" {
		url = c.request.URL.Path
	}
	part := strings.Split(strings.TrimSuffix(url, "/"), "/")
	if len(part) < 3 {
		if in.QueueUrl == "" {
			return nil, missingParameter("QueueUrl")
		}
		return nil, invalidAddress(in.QueueUrl)
	}
	q, ok := s.queues[part[len(part)-1]]
	if !ok || part[len(part)-2] != s.config.Account {
		return nil, queueDoesNotExist()
	}
	return q, nil
}

// AddQueue adds a queue with the attributes CreateQueue takes, and returns its
// ARN.
func (s *Server) AddQueue(name string, attributes map[string]string) (arn string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.addQueue(name, attributes, s.config.Now())
	if err != nil {
		return "", err
	}
	return q.arn, nil
}

// QueueURL returns the URL of the queue of that name when the server is at
// endpoint, "http://127.0.0.1:4566".
func (s *Server) QueueURL(endpoint, name string) string {
	return endpoint + "/" + s.config.Account + "/" + name
}

func (s *Server) queueURL(c call, q *queue) string {
	return s.QueueURL("http://"+c.request.Host, q.name)
}

// What a request may set of a queue: the numbers with their limits, and the
// value each has otherwise. Booleans have no entry there.
var (
	queueNumbers = map[string]struct{ min, max, standard int }{
		"DelaySeconds":                  {0, 900, 0},
		"MaximumMessageSize":            {1 << 10, maxMessage, maxMessage},
		"MessageRetentionPeriod":        {60, 1209600, 345600},
		"ReceiveMessageWaitTimeSeconds": {0, 20, 0},
		"VisibilityTimeout":             {0, maxVisibility, 30},
	}
	queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
)

func (s *Server) addQueue(name string, given map[string]string, now time.Time) (*queue, error) {
	given = maps.Clone(given)
	base, named := strings.CutSuffix(name, ".fifo")
	fifo := given["FifoQueue"] == "true"
	switch value, ok := given["FifoQueue"]; {
	case ok && value != "true":
		// AWS takes it by its presence; it answers that "false" is unknown.
		return nil, invalidAttribute("InvalidAttributeName", "Unknown Attribute FifoQueue.")
	case named != fifo || !queueName.MatchString(base) || len(name) > 80:
		return nil, invalidValue("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length; and the name of a FIFO queue, and of no other, ends with .fifo.")
	}
	delete(given, "FifoQueue")
	redrive, err := s.checkAttributes(fifo, given)
	if err != nil {
		return nil, err
	}
	if q, ok := s.queues[name]; ok {
		for key, value := range given {
			if q.attributes[key] != value {
				return nil, &apiError{code: "QueueNameExists", query: "QueueAlreadyExists", message: "A queue already exists with the same name and a different value for attribute " + key}
			}
		}
		return q, nil
	}
	q := &queue{
		name: name, arn: s.arn("sqs", name), fifo: fifo, redrive: redrive, created: now, modified: now,
		attributes: map[string]string{"SqsManagedSseEnabled": "true"},
		repeated:   map[string]*message{},
		changed:    make(chan struct{}),
	}
	for key, n := range queueNumbers {
		q.attributes[key] = strconv.Itoa(n.standard)
	}
	if fifo {
		q.attributes["ContentBasedDeduplication"] = "false"
	}
	maps.Copy(q.attributes, given)
	s.queues[name] = q
	return q, nil
}

// checkAttributes refuses what a queue cannot have, and writes the redrive
// policy in the one form it is compared in.
func (s *Server) checkAttributes(fifo bool, given map[string]string) (*redrive, error) {
	var to *redrive
	for key, value := range given {
		number, isNumber := queueNumbers[key]
		switch {
		case isNumber:
			if n, err := strconv.Atoi(value); err != nil || n < number.min || n > number.max {
				return nil, invalidAttribute("InvalidAttributeValue", "Invalid value for the parameter %s: it must be %d to %d.", key, number.min, number.max)
			}
		case key == "SqsManagedSseEnabled", key == "ContentBasedDeduplication" && fifo:
			if value != "true" && value != "false" {
				return nil, invalidAttribute("InvalidAttributeValue", "Invalid value for the parameter %s: it must be true or false.", key)
			}
		case key == "RedrivePolicy" && value == "": // takes the policy away
		case key == "RedrivePolicy":
			var err error
			if to, err = s.redrive(fifo, value); err != nil {
				return nil, err
			}
			given[key] = fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":%d}`, to.dead.arn, to.most)
		default:
			return nil, invalidAttribute("InvalidAttributeName", "Unknown Attribute %s, or localaws does not know it.", key)
		}
	}
	return to, nil
}

// redrive finds what a redrive policy speaks of. Its number may be a string, and
// is 10 if left out.
func (s *Server) redrive(fifo bool, policy string) (*redrive, error) {
	var in struct {
		DeadLetterTargetArn string      `json:"deadLetterTargetArn"`
		MaxReceiveCount     json.Number `json:"maxReceiveCount"`
	}
	in.MaxReceiveCount = "10"
	if err := json.Unmarshal([]byte(policy), &in); err != nil {
		return nil, invalidFor("RedrivePolicy", policy, "Redrive policy is not a valid JSON map.")
	}
	most, err := in.MaxReceiveCount.Int64()
	if err != nil || most < 1 || most > 1000 {
		return nil, invalidFor("RedrivePolicy", policy, "Invalid value for maxReceiveCount: it must be 1 to 1000.")
	}
	name, ok := strings.CutPrefix(in.DeadLetterTargetArn, s.arn("sqs", ""))
	dead := s.queues[name]
	switch {
	case !ok || dead == nil:
		return nil, invalidFor("RedrivePolicy", policy, "Dead letter target does not exist.")
	case dead.fifo != fifo:
		return nil, invalidFor("RedrivePolicy", policy, "Dead-letter queue must be same type of queue as the source.")
	}
	return &redrive{dead, int(most)}, nil
}

type createQueueInput struct {
	QueueName  string
	Attributes map[string]string
}

type queueURLOutput struct{ QueueUrl string }

func (s *Server) createQueue(c call, in createQueueInput) (any, error) {
	if in.QueueName == "" {
		return nil, missingParameter("QueueName")
	}
	q, err := s.addQueue(in.QueueName, in.Attributes, c.now)
	if err != nil {
		return nil, err
	}
	return queueURLOutput{s.queueURL(c, q)}, nil
}

type getQueueURLInput struct{ QueueName, QueueOwnerAWSAccountId string }

func (s *Server) getQueueURL(c call, in getQueueURLInput) (any, error) {
	q, ok := s.queues[in.QueueName]
	if !ok || in.QueueOwnerAWSAccountId != "" && in.QueueOwnerAWSAccountId != s.config.Account {
		return nil, queueDoesNotExist()
	}
	return queueURLOutput{s.queueURL(c, q)}, nil
}

type listQueuesInput struct {
	QueueNamePrefix, NextToken string
	MaxResults                 *int
}

type listQueuesOutput struct {
	QueueUrls []string `json:",omitempty" xml:"QueueUrl"`
	NextToken string   `json:",omitempty" xml:",omitempty"`
}

// listQueues answers at most 1,000 queues, and then with a token only if the
// request says how many it wants. The token is the last name of the page before.
func (s *Server) listQueues(c call, in listQueuesInput) (any, error) {
	size := 1000
	if in.MaxResults != nil {
		if size = *in.MaxResults; size < 1 || size > 1000 {
			return nil, invalidFor("MaxResults", strconv.Itoa(size), "Must be between 1 and 1000, if provided.")
		}
	}
	names := slices.Sorted(maps.Keys(s.queues))
	names = slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, in.QueueNamePrefix) || name <= in.NextToken
	})
	var out listQueuesOutput
	if len(names) > size {
		names = names[:size]
		if in.MaxResults != nil {
			out.NextToken = names[size-1]
		}
	}
	for _, name := range names {
		out.QueueUrls = append(out.QueueUrls, s.queueURL(c, s.queues[name]))
	}
	return out, nil
}

type getQueueAttributesInput struct {
	queueInput
	AttributeNames []string
}

type attributesOutput struct {
	Attributes attributes `json:",omitempty" xml:"Attribute"`
}

func (s *Server) getQueueAttributes(c call, in getQueueAttributesInput) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	q.expire(c.now)
	delayed, inFlight := 0, 0
	for _, m := range q.messages {
		switch {
		case m.delayed(c.now):
			delayed++
		case m.inFlight(c.now):
			inFlight++
		}
	}
	all := attributes{
		"QueueArn":                              q.arn,
		"CreatedTimestamp":                      strconv.FormatInt(q.created.Unix(), 10),
		"LastModifiedTimestamp":                 strconv.FormatInt(q.modified.Unix(), 10),
		"ApproximateNumberOfMessages":           strconv.Itoa(len(q.messages) - delayed - inFlight),
		"ApproximateNumberOfMessagesDelayed":    strconv.Itoa(delayed),
		"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(inFlight),
	}
	maps.Copy(all, q.attributes)
	if q.fifo {
		all["FifoQueue"] = "true"
	}
	// The names that exist and this queue has not are not answered.
	for _, name := range in.AttributeNames {
		if _, ok := all[name]; !ok && !slices.Contains([]string{"All", "FifoQueue", "ContentBasedDeduplication", "RedrivePolicy"}, name) {
			return nil, invalidAttribute("InvalidAttributeName", "Unknown Attribute %s, or localaws does not know it.", name)
		}
	}
	return attributesOutput{all.only(in.AttributeNames)}, nil
}

func (s *Server) setQueueAttributes(c call, in struct {
	queueInput
	Attributes map[string]string
}) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	to, err := s.checkAttributes(q.fifo, in.Attributes)
	if err != nil {
		return nil, err
	}
	maps.Copy(q.attributes, in.Attributes)
	if policy, ok := in.Attributes["RedrivePolicy"]; ok {
		q.redrive = to
		if policy == "" {
			delete(q.attributes, "RedrivePolicy")
		}
	}
	q.modified = c.now
	q.notify()
	return nil, nil
}

// purgeQueue deletes at once what AWS deletes within 60 seconds.
func (s *Server) purgeQueue(c call, in queueInput) (any, error) {
	q, err := s.findQueue(c, in)
	if err != nil {
		return nil, err
	}
	if !q.purged.IsZero() && c.now.Sub(q.purged) < time.Minute {
		return nil, batchError("PurgeQueueInProgress", "Only one PurgeQueue operation on %s is allowed every 60 seconds.", q.name)
	}
	q.messages, q.purged = nil, c.now
	q.notify()
	return nil, nil
}

type sendEntry struct {
	Id, MessageBody                            string
	MessageGroupId, MessageDeduplicationId     string
	DelaySeconds                               *int
	MessageAttributes, MessageSystemAttributes map[string]any
}

type sendOutput struct {
	MD5OfMessageBody string
	MessageId        string
	SequenceNumber   string `json:",omitempty" xml:",omitempty"`
}

func (s *Server) sendMessage(c call, in struct {
	queueInput
	sendEntry
}) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	return s.sendOne(q, in.sendEntry, c.now)
}

// sendOne answers a message that repeats another one with the MD5 of what it was
// sent, which SDKs check, and else as the first one was answered.
func (s *Server) sendOne(q *queue, in sendEntry, now time.Time) (sendOutput, error) {
	m, err := s.send(q, in, now)
	if err != nil {
		return sendOutput{}, err
	}
	return sendOutput{MD5OfMessageBody: md5Hex(in.MessageBody), MessageId: m.id, SequenceNumber: m.sequence}, nil
}

type sendResult struct {
	XMLName struct{} `json:"-" xml:"SendMessageBatchResultEntry"`
	Id      string
	sendOutput
}

func (s *Server) sendMessageBatch(c call, in struct {
	queueInput
	Entries []sendEntry
}) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, e := range in.Entries {
		size += len(e.MessageBody)
	}
	if size > maxMessage {
		return nil, batchError("BatchRequestTooLong", "Batch requests cannot be longer than %d bytes. You have sent %d bytes.", maxMessage, size)
	}
	return batch(in.Entries, func(e sendEntry) string { return e.Id }, func(e sendEntry) (sendResult, error) {
		out, err := s.sendOne(q, e, c.now)
		return sendResult{Id: e.Id, sendOutput: out}, err
	})
}

type receiveMessageInput struct {
	queueInput
	AttributeNames, MessageSystemAttributeNames []string // the first is the older name
	MaxNumberOfMessages                         *int
	VisibilityTimeout, WaitTimeSeconds          *int
	ReceiveRequestAttemptId                     string
}

type messageOutput struct {
	MessageId, ReceiptHandle string
	MD5OfBody, Body          string
	Attributes               attributes `json:",omitempty" xml:"Attribute"`
}

type receiveMessageOutput struct {
	Messages []messageOutput `json:",omitempty" xml:"Message"`
}

func (s *Server) receiveMessage(c call, in receiveMessageInput) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	n, wait := 1, q.seconds("ReceiveMessageWaitTimeSeconds")
	if in.MaxNumberOfMessages != nil {
		n = *in.MaxNumberOfMessages
	}
	if in.WaitTimeSeconds != nil {
		wait = time.Duration(*in.WaitTimeSeconds) * time.Second
	}
	visibility, err := visibilityTimeout(in.VisibilityTimeout)
	switch {
	case err != nil:
		return nil, err
	case n < 1 || n > 10:
		return nil, invalidFor("MaxNumberOfMessages", strconv.Itoa(n), "Must be between 1 and 10, if provided.")
	case wait < 0 || wait > 20*time.Second:
		return nil, invalidFor("WaitTimeSeconds", strconv.Itoa(*in.WaitTimeSeconds), "Must be >= 0 and <= 20, if provided.")
	case in.ReceiveRequestAttemptId != "":
		return nil, unsupportedBySQS("localaws repeats no receives: leave ReceiveRequestAttemptId out")
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var got []message
	if wait == 0 {
		got = s.take(q, n, visibility, c.now)
	} else {
		got = s.receive(c.request.Context(), q, n, visibility, timer.C)
	}
	var out receiveMessageOutput
	for _, m := range got {
		out.Messages = append(out.Messages, messageOutput{
			MessageId: m.id, ReceiptHandle: m.handle, MD5OfBody: md5Hex(m.body), Body: m.body,
			Attributes: s.messageAttributes(m).only(slices.Concat(in.AttributeNames, in.MessageSystemAttributeNames)),
		})
	}
	return out, nil
}

type handleEntry struct {
	Id, ReceiptHandle string
	VisibilityTimeout *int
}

func handleEntryID(e handleEntry) string { return e.Id }

type handleInput struct {
	queueInput
	handleEntry
}

type handleBatchInput struct {
	queueInput
	Entries []handleEntry
}

func (s *Server) deleteMessage(c call, in handleInput) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	return nil, q.deleteMessage(in.ReceiptHandle, c.now)
}

type deleteResult struct {
	XMLName struct{} `json:"-" xml:"DeleteMessageBatchResultEntry"`
	Id      string
}

func (s *Server) deleteMessageBatch(c call, in handleBatchInput) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	return batch(in.Entries, handleEntryID, func(e handleEntry) (deleteResult, error) {
		return deleteResult{Id: e.Id}, q.deleteMessage(e.ReceiptHandle, c.now)
	})
}

func (s *Server) changeMessageVisibility(c call, in handleInput) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	return nil, q.changeVisibility(in.ReceiptHandle, in.VisibilityTimeout, c.now)
}

type changeResult struct {
	XMLName struct{} `json:"-" xml:"ChangeMessageVisibilityBatchResultEntry"`
	Id      string
}

func (s *Server) changeMessageVisibilityBatch(c call, in handleBatchInput) (any, error) {
	q, err := s.findQueue(c, in.queueInput)
	if err != nil {
		return nil, err
	}
	return batch(in.Entries, handleEntryID, func(e handleEntry) (changeResult, error) {
		return changeResult{Id: e.Id}, q.changeVisibility(e.ReceiptHandle, e.VisibilityTimeout, c.now)
	})
}

// batchOutput says what became of each entry of a batch.
type batchOutput[Result any] struct {
	Successful []Result
	Failed     []failedEntry `json:",omitempty" xml:"BatchResultErrorEntry"`
}

type failedEntry struct {
	Id, Code, Message string
	SenderFault       bool
}

var entryID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// batch does what is asked for each entry by itself, or refuses the whole batch.
func batch[Entry, Result any](entries []Entry, id func(Entry) string, do func(Entry) (Result, error)) (any, error) {
	switch {
	case len(entries) == 0:
		return nil, batchError("EmptyBatchRequest", "There should be at least one entry in the request.")
	case len(entries) > 10:
		return nil, batchError("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10. You have sent %d.", len(entries))
	}
	seen := map[string]bool{}
	for _, e := range entries {
		switch {
		case !entryID.MatchString(id(e)):
			return nil, batchError("InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.")
		case seen[id(e)]:
			return nil, batchError("BatchEntryIdsNotDistinct", "Id %s repeated.", id(e))
		}
		seen[id(e)] = true
	}
	out := batchOutput[Result]{Successful: []Result{}}
	for _, e := range entries {
		result, err := do(e)
		if err == nil {
			out.Successful = append(out.Successful, result)
			continue
		}
		failed, ok := err.(*apiError)
		if !ok {
			return nil, err
		}
		out.Failed = append(out.Failed, failedEntry{Id: id(e), Code: failed.queryCode(), Message: failed.message, SenderFault: true})
	}
	return out, nil
}

// SQS's errors. JSON names those its model does not know with "Exception" at the
// end, and the query protocol has "AWS.SimpleQueueService." before many of those
// it knows.

func invalidValue(format string, args ...any) error {
	return &apiError{code: "InvalidParameterValueException", query: "InvalidParameterValue", message: fmt.Sprintf(format, args...)}
}

func invalidFor(parameter, value, reason string) error {
	return invalidValue("Value %s for parameter %s is invalid. Reason: %s", value, parameter, reason)
}

func missingParameter(name string) error {
	return &apiError{code: "MissingRequiredParameterException", query: "MissingParameter", message: fmt.Sprintf("The request must contain the parameter %s.", name)}
}

func invalidAttribute(code, format string, args ...any) error {
	return &apiError{code: code, message: fmt.Sprintf(format, args...)}
}

func invalidAddress(url string) error {
	return &apiError{code: "InvalidAddress", message: fmt.Sprintf("The address %s is not valid for this endpoint.", url)}
}

func batchError(code, format string, args ...any) error {
	return &apiError{code: code, query: "AWS.SimpleQueueService." + code, message: fmt.Sprintf(format, args...)}
}

func unsupportedBySQS(message string) error { return batchError("UnsupportedOperation", "%s", message) }

func queueDoesNotExist() error {
	return &apiError{code: "QueueDoesNotExist", query: "AWS.SimpleQueueService.NonExistentQueue", message: "The specified queue does not exist."}
}
