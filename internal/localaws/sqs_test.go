package localaws_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// direct is an HTTP client that calls the server without a network, which a
// synctest bubble could not wait for.
type direct struct{ *localaws.Server }

func (d direct) Do(r *http.Request) (*http.Response, error) {
	r.Host = r.URL.Host
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// queueCloud is a server without a network, with one queue, "q" or "q.fifo", and
// its dead-letter queue "dead" or "dead.fifo" behind the second receive.
type queueCloud struct {
	t *testing.T
	*localaws.Server
	sqs       *sqs.Client
	url, dead string
}

func newQueue(t *testing.T, config localaws.Config, suffix string) *queueCloud {
	t.Helper()
	c := localaws.New(config)
	t.Cleanup(c.Close)
	sdk := sdkConfig("http://aws.test")
	sdk.HTTPClient = direct{c}
	attributes := map[string]string{}
	if suffix == ".fifo" {
		attributes["FifoQueue"] = "true"
	}
	dead, err := c.AddQueue("dead"+suffix, attributes)
	if err != nil {
		t.Fatal(err)
	}
	attributes["RedrivePolicy"] = fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":2}`, dead)
	if _, err := c.AddQueue("q"+suffix, attributes); err != nil {
		t.Fatal(err)
	}
	return &queueCloud{t, c, sqs.NewFromConfig(sdk), c.QueueURL("http://aws.test", "q"+suffix), c.QueueURL("http://aws.test", "dead"+suffix)}
}

// send sends "1" to the group "a" for "a1", with "a1" for deduplication id.
func (c *queueCloud) send(messages ...string) (ids []string) {
	c.t.Helper()
	for _, m := range messages {
		in := &sqs.SendMessageInput{QueueUrl: &c.url, MessageBody: aws.String(m[1:]), MessageGroupId: aws.String(m[:1])}
		if strings.HasSuffix(c.url, ".fifo") {
			in.MessageDeduplicationId = &m
		}
		out, err := c.sqs.SendMessage(c.t.Context(), in)
		if err != nil {
			c.t.Fatal(err)
		}
		ids = append(ids, *out.MessageId)
	}
	return ids
}

// receive receives up to ten messages with all their attributes.
func (c *queueCloud) receive(url string, change ...func(*sqs.ReceiveMessageInput)) []types.Message {
	c.t.Helper()
	in := &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"}}
	for _, f := range change {
		f(in)
	}
	out, err := c.sqs.ReceiveMessage(c.t.Context(), in)
	if err != nil {
		c.t.Fatal(err)
	}
	return out.Messages
}

// names writes messages the way send takes them.
func names(messages []types.Message) string {
	var out []string
	for _, m := range messages {
		out = append(out, m.Attributes["MessageGroupId"]+*m.Body)
	}
	return strings.Join(out, " ")
}

func (c *queueCloud) delete(m types.Message) error {
	_, err := c.sqs.DeleteMessage(c.t.Context(), &sqs.DeleteMessageInput{QueueUrl: &c.url, ReceiptHandle: m.ReceiptHandle})
	return err
}

func (c *queueCloud) changeVisibility(m types.Message, seconds int32) error {
	_, err := c.sqs.ChangeMessageVisibility(c.t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &c.url, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: seconds})
	return err
}

// counts are how many messages are visible, in flight and delayed.
func (c *queueCloud) counts(url string) string {
	c.t.Helper()
	out, err := c.sqs.GetQueueAttributes(c.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil {
		c.t.Fatal(err)
	}
	a := out.Attributes
	return a["ApproximateNumberOfMessages"] + "+" + a["ApproximateNumberOfMessagesNotVisible"] + "+" + a["ApproximateNumberOfMessagesDelayed"]
}

// wantAnswer demands the error that callers know by this code, "" none.
func wantAnswer(t *testing.T, what string, err error, code string) {
	t.Helper()
	if code != "" {
		wantCode(t, what, err, code)
	} else if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestQueues(t *testing.T) {
	c := newCloud(t, localaws.Config{Region: "eu-west-1"})
	client := sqs.NewFromConfig(c.config)
	create := func(name string, attributes map[string]string) (string, error) {
		out, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
		if err != nil {
			return "", err
		}
		return *out.QueueUrl, nil
	}
	url, err := create("dead.fifo", map[string]string{"FifoQueue": "true", "MessageRetentionPeriod": "1209600"})
	if want := *c.config.BaseEndpoint + "/000000000000/dead.fifo"; err != nil || url != want {
		t.Fatalf("%s, %v; want %s", url, err, want)
	}
	const arn = "arn:aws:sqs:eu-west-1:000000000000:dead.fifo"
	redrive := func(arn, most string) map[string]string {
		return map[string]string{"FifoQueue": "true", "RedrivePolicy": `{"maxReceiveCount":` + most + `, "deadLetterTargetArn":"` + arn + `"}`}
	}
	for _, tt := range []struct {
		name       string
		attributes map[string]string
		code       string
	}{
		{"q.fifo", redrive(arn, "5"), ""},
		{"q.fifo", redrive(arn, `"5"`), ""}, // as CloudFormation writes it
		{"q.fifo", redrive(arn, "6"), "QueueAlreadyExists"},
		{"dead.fifo", map[string]string{"FifoQueue": "true"}, ""},
		{"dead.fifo", map[string]string{"FifoQueue": "true", "VisibilityTimeout": "31"}, "QueueAlreadyExists"},
		{"dead.fifo", nil, "InvalidParameterValue"},
		{"dead", map[string]string{"FifoQueue": "true"}, "InvalidParameterValue"},
		{"dead", map[string]string{"FifoQueue": "false"}, "InvalidAttributeName"},
		{"a queue", nil, "InvalidParameterValue"},
		{strings.Repeat("q", 81), nil, "InvalidParameterValue"},
		{"x.fifo", redrive(arn+"x", "5"), "InvalidParameterValue"},
		{"x.fifo", redrive(arn, "0"), "InvalidParameterValue"},
		{"x", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"` + arn + `"}`}, "InvalidParameterValue"},
		{"x", map[string]string{"VisibilityTimeout": "43201"}, "InvalidAttributeValue"},
		{"x", map[string]string{"SqsManagedSseEnabled": "yes"}, "InvalidAttributeValue"},
		{"x", map[string]string{"ContentBasedDeduplication": "true"}, "InvalidAttributeName"},
		{"x", map[string]string{"Colour": "red"}, "InvalidAttributeName"},
	} {
		_, err := create(tt.name, tt.attributes)
		wantAnswer(t, fmt.Sprintf("create %s %v", tt.name, tt.attributes), err, tt.code)
	}
	list, err := client.ListQueues(t.Context(), &sqs.ListQueuesInput{MaxResults: aws.Int32(1)})
	if err != nil || !slices.Equal(list.QueueUrls, []string{url}) || list.NextToken == nil {
		t.Fatalf("the first page: %+v, %v", list, err)
	}
	list, err = client.ListQueues(t.Context(), &sqs.ListQueuesInput{MaxResults: aws.Int32(1), NextToken: list.NextToken})
	if err != nil || len(list.QueueUrls) != 1 || list.NextToken != nil {
		t.Errorf("the last page: %+v, %v", list, err)
	}

	found, err := client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("q.fifo")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: found.QueueUrl, Attributes: map[string]string{"VisibilityTimeout": "150"}}); err != nil {
		t.Fatal(err)
	}
	out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: found.QueueUrl, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"QueueArn": strings.Replace(arn, "dead", "q", 1), "FifoQueue": "true", "VisibilityTimeout": "150", "MessageRetentionPeriod": "345600", "ContentBasedDeduplication": "false",
		"SqsManagedSseEnabled": "true", "MaximumMessageSize": "1048576", "ApproximateNumberOfMessages": "0", "RedrivePolicy": `{"deadLetterTargetArn":"` + arn + `","maxReceiveCount":5}`,
	} {
		if out.Attributes[key] != want {
			t.Errorf("%s is %q, want %q", key, out.Attributes[key], want)
		}
	}
	_, err = client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("none")})
	want[*types.QueueDoesNotExist](t, "an unknown queue", err)
	// Callers that knew the query protocol know the error by this name.
	wantAnswer(t, "an unknown queue", err, "AWS.SimpleQueueService.NonExistentQueue")
	_, err = client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: aws.String(strings.Replace(url, "000000000000", "111111111111", 1))})
	want[*types.QueueDoesNotExist](t, "another account's queue", err)
}

func TestAGroupIsHandedOutInOrder(t *testing.T) {
	c := newQueue(t, localaws.Config{}, ".fifo")
	c.send("a1", "a2", "b1", "a3", "b2")
	two := func(in *sqs.ReceiveMessageInput) { in.MaxNumberOfMessages = 2 }
	first := c.receive(c.url, two)
	if got := names(first); got != "a1 a2" {
		t.Errorf("the first two are %s", got)
	}
	second := c.receive(c.url)
	if got := names(second); got != "b1 b2" {
		t.Errorf("while a is in flight, there is %s", got)
	}
	if got := c.counts(c.url); got != "1+4+0" {
		t.Errorf("visible, in flight and delayed are %s", got)
	}
	// a2 again first, though a1 is still in flight: nothing of a is handed out.
	if err := c.changeVisibility(first[1], 0); err != nil {
		t.Fatal(err)
	}
	if got := names(c.receive(c.url)); got != "" {
		t.Errorf("while a1 is in flight, there is %s", got)
	}
	wantAnswer(t, "delete a1", c.delete(first[0]), "")
	got := c.receive(c.url)
	if names(got) != "a2 a3" || got[0].Attributes["ApproximateReceiveCount"] != "2" || got[0].Attributes["SequenceNumber"] >= got[1].Attributes["SequenceNumber"] {
		t.Errorf("after a1, there is %s with %v", names(got), got[0].Attributes)
	}
}

func TestStandardQueue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	c := newQueue(t, localaws.Config{Now: func() time.Time { return now }}, "")
	c.send("a1", "a1") // a group orders nothing here, and nothing is deduplicated
	_, err := c.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &c.url, MessageBody: aws.String("é\n<&>\t\U0001F511"), DelaySeconds: 10})
	if err != nil {
		t.Fatal(err)
	}
	one := func(in *sqs.ReceiveMessageInput) { in.MaxNumberOfMessages = 1 }
	if got := names(c.receive(c.url, one)) + names(c.receive(c.url)); got != "a1a1" || c.counts(c.url) != "0+2+1" {
		t.Errorf("received %s, left %s", got, c.counts(c.url))
	}
	now = now.Add(10 * time.Second)
	got := c.receive(c.url)
	if len(got) != 1 || *got[0].Body != "é\n<&>\t\U0001F511" { // the SDK checks the MD5
		t.Fatalf("after its delay: %v", got)
	}
	if a := got[0].Attributes; a["SentTimestamp"] != "1767323045006" || a["ApproximateFirstReceiveTimestamp"] != "1767323055006" || a["ApproximateReceiveCount"] != "1" || a["SenderId"] != "000000000000" || len(a) != 4 {
		t.Errorf("its attributes are %v", a)
	}
	now = now.Add(4 * 24 * time.Hour)
	if got := c.counts(c.url); got != "0+0+0" {
		t.Errorf("after the retention period there are %s", got)
	}
}

func TestDeduplication(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newQueue(t, localaws.Config{Now: func() time.Time { return now }}, ".fifo")
	id := c.send("a1")[0]
	wantAnswer(t, "delete", c.delete(c.receive(c.url)[0]), "")
	now = now.Add(5*time.Minute - 1)
	again, err := c.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: &c.url, MessageBody: aws.String("another body"), MessageGroupId: aws.String("b"), MessageDeduplicationId: aws.String("a1"),
	})
	if err != nil || *again.MessageId != id || c.counts(c.url) != "0+0+0" {
		t.Errorf("within five minutes: %v, %v, then %s messages", again, err, c.counts(c.url))
	}
	now = now.Add(1)
	if again := c.send("a1")[0]; again == id || c.counts(c.url) != "1+0+0" {
		t.Errorf("after five minutes: %s, then %s messages", again, c.counts(c.url))
	}

	in := &sqs.SendMessageInput{QueueUrl: &c.url, MessageBody: aws.String("body"), MessageGroupId: aws.String("c")}
	_, err = c.sqs.SendMessage(t.Context(), in)
	wantAnswer(t, "no deduplication id", err, "InvalidParameterValue")
	_, err = c.sqs.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &c.url, Attributes: map[string]string{"ContentBasedDeduplication": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := c.sqs.SendMessage(t.Context(), in)
	in.MessageGroupId = aws.String("d")
	second, err2 := c.sqs.SendMessage(t.Context(), in)
	if err1 != nil || err2 != nil || *first.MessageId != *second.MessageId {
		t.Errorf("the same content twice: %v, %v", err1, err2)
	}
}

func TestSendMessageRefuses(t *testing.T) {
	long := strings.Repeat("x", 129)
	fifo, standard := newQueue(t, localaws.Config{}, ".fifo"), newQueue(t, localaws.Config{}, "")
	for _, tt := range []struct {
		what   string
		c      *queueCloud
		change func(*sqs.SendMessageInput)
		code   string
	}{
		{"no group", fifo, func(in *sqs.SendMessageInput) { in.MessageGroupId = nil }, "MissingParameter"},
		{"a long group", fifo, func(in *sqs.SendMessageInput) { in.MessageGroupId = &long }, "InvalidParameterValue"},
		{"a long deduplication id", fifo, func(in *sqs.SendMessageInput) { in.MessageDeduplicationId = &long }, "InvalidParameterValue"},
		{"a deduplication id with a space", fifo, func(in *sqs.SendMessageInput) { in.MessageDeduplicationId = aws.String("a b") }, "InvalidParameterValue"},
		{"a delay of its own", fifo, func(in *sqs.SendMessageInput) { in.DelaySeconds = 1 }, "InvalidParameterValue"},
		{"an empty body", fifo, func(in *sqs.SendMessageInput) { in.MessageBody = aws.String("") }, "MissingParameter"},
		{"1 MiB", fifo, func(in *sqs.SendMessageInput) { in.MessageBody = aws.String(strings.Repeat("\"", 1<<20)) }, ""},
		{"more than 1 MiB", fifo, func(in *sqs.SendMessageInput) { in.MessageBody = aws.String(strings.Repeat("\"", 1<<20+1)) }, "InvalidParameterValue"},
		{"a control character", fifo, func(in *sqs.SendMessageInput) { in.MessageBody = aws.String("a\x01") }, "InvalidMessageContents"},
		{"a message attribute", fifo, func(in *sqs.SendMessageInput) {
			in.MessageAttributes = map[string]types.MessageAttributeValue{"n": {DataType: aws.String("String"), StringValue: aws.String("v")}}
		}, "AWS.SimpleQueueService.UnsupportedOperation"},
		{"an unknown queue", fifo, func(in *sqs.SendMessageInput) { in.QueueUrl = aws.String(fifo.url + "x") }, "AWS.SimpleQueueService.NonExistentQueue"},
		{"a deduplication id", standard, func(*sqs.SendMessageInput) {}, "InvalidParameterValue"},
		{"a long delay", standard, func(in *sqs.SendMessageInput) { in.MessageDeduplicationId, in.DelaySeconds = nil, 901 }, "InvalidParameterValue"},
	} {
		in := &sqs.SendMessageInput{QueueUrl: &tt.c.url, MessageBody: aws.String("body"), MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String("d")}
		tt.change(in)
		_, err := tt.c.sqs.SendMessage(t.Context(), in)
		wantAnswer(t, tt.what, err, tt.code)
	}
}

func TestReceiptHandles(t *testing.T) {
	for _, suffix := range []string{".fifo", ""} {
		t.Run("q"+suffix, func(t *testing.T) {
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			c := newQueue(t, localaws.Config{Now: func() time.Time { return now }}, suffix)
			fifo := suffix == ".fifo"
			code := func(ofFIFO, ofStandard string) string {
				if fifo {
					return ofFIFO
				}
				return ofStandard
			}
			c.send("a1")
			old := c.receive(c.url, func(in *sqs.ReceiveMessageInput) { in.VisibilityTimeout = 40 })[0]
			now = now.Add(40*time.Second - 1)
			if got := names(c.receive(c.url)); got != "" {
				t.Errorf("before its visibility timeout ends, there is %s", got)
			}
			wantAnswer(t, "more time than twelve hours after the receive", c.changeVisibility(old, 43200), "InvalidParameterValue")
			wantAnswer(t, "more time than any", c.changeVisibility(old, 43201), "InvalidParameterValue")
			wantAnswer(t, "less time", c.changeVisibility(old, 5), "")
			now = now.Add(5 * time.Second)
			wantAnswer(t, "time for what is visible again", c.changeVisibility(old, 5), code("InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"))

			last := c.receive(c.url)
			if len(last) != 1 || last[0].Attributes["ApproximateReceiveCount"] != "2" || *last[0].ReceiptHandle == *old.ReceiptHandle {
				t.Fatalf("received again: %v", last)
			}
			wantAnswer(t, "delete by the first handle", c.delete(old), code("InvalidParameterValue", ""))
			wantAnswer(t, "time by the first handle", c.changeVisibility(old, 5), "InvalidParameterValue")
			if got := c.counts(c.url); got != "0+1+0" {
				t.Errorf("the first handle changed something: %s", got)
			}
			now = now.Add(30 * time.Second) // the queue's own timeout, not the last one
			if fifo {
				wantAnswer(t, "delete too late", c.delete(last[0]), "InvalidParameterValue")
				return // TestRedrive goes on from here
			}
			wantAnswer(t, "delete what is visible again", c.delete(last[0]), "")
			wantAnswer(t, "delete what is deleted", c.delete(last[0]), "")
			wantAnswer(t, "time for what is deleted", c.changeVisibility(last[0], 5), "InvalidParameterValue")
			if got := c.counts(c.url); got != "0+0+0" {
				t.Errorf("after the deletion: %s", got)
			}
			for _, handle := range []string{"no handle", "bm8gaGFuZGxl"} {
				wantAnswer(t, handle, c.delete(types.Message{ReceiptHandle: &handle}), "ReceiptHandleIsInvalid")
			}
		})
	}
}

func TestRedrive(t *testing.T) {
	for _, suffix := range []string{".fifo", ""} {
		t.Run("q"+suffix, func(t *testing.T) {
			sent := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			now := sent
			c := newQueue(t, localaws.Config{Now: func() time.Time { return now }}, suffix)
			id := c.send("a1", "a2")[0]
			one := func(in *sqs.ReceiveMessageInput) { in.MaxNumberOfMessages = 1 }
			for range 2 {
				if got := names(c.receive(c.url, one)); got != "a1" {
					t.Fatalf("received %s", got)
				}
				if suffix == "" { // there, a2 comes next and takes its turns too
					c.delete(c.receive(c.url, one)[0])
					c.send("a2")
				}
				now = now.Add(30 * time.Second)
			}
			// The third receive moves it, and with it goes what kept its group back.
			if got := names(c.receive(c.url)); got != "a2" {
				t.Fatalf("after two receives there is %s", got)
			}
			dead := c.receive(c.dead)
			if names(dead) != "a1" || *dead[0].MessageId != id {
				t.Fatalf("in the dead-letter queue there is %v", dead)
			}
			a := dead[0].Attributes
			wantSent, wantDeduplication := sent, ""
			if suffix == ".fifo" {
				wantSent, wantDeduplication = now, id
			}
			if a["DeadLetterQueueSourceArn"] != "arn:aws:sqs:us-east-1:000000000000:q"+suffix || a["MessageDeduplicationId"] != wantDeduplication || a["SentTimestamp"] != fmt.Sprint(wantSent.UnixMilli()) {
				t.Errorf("its attributes are %v", a)
			}
		})
	}
}

func TestBatches(t *testing.T) {
	c := newQueue(t, localaws.Config{}, ".fifo")
	entry := func(id, group, body string) types.SendMessageBatchRequestEntry {
		return types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body, MessageGroupId: &group, MessageDeduplicationId: &id}
	}
	send := func(entries ...types.SendMessageBatchRequestEntry) (*sqs.SendMessageBatchOutput, error) {
		return c.sqs.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &c.url, Entries: entries})
	}
	nobody := entry("three", "", "3")
	nobody.MessageGroupId = nil
	out, err := send(entry("one", "a", "1"), entry("two", "a", "\x02"), nobody, entry("four", "a", "4"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range out.Successful {
		got = append(got, *e.Id)
	}
	for _, e := range out.Failed {
		got = append(got, *e.Id+":"+*e.Code)
		if !e.SenderFault || *e.Message == "" {
			t.Errorf("%+v", e)
		}
	}
	if s := strings.Join(got, " "); s != "one four two:InvalidMessageContents three:MissingParameter" {
		t.Errorf("the batch was answered %s", s)
	}

	big := strings.Repeat("x", 1<<19)
	for _, tt := range []struct {
		entries []types.SendMessageBatchRequestEntry
		code    string
	}{
		{nil, "EmptyBatchRequest"},
		{slices.Repeat([]types.SendMessageBatchRequestEntry{entry("x", "a", "b")}, 11), "TooManyEntriesInBatchRequest"},
		{[]types.SendMessageBatchRequestEntry{entry("x", "a", "b"), entry("x", "a", "c")}, "BatchEntryIdsNotDistinct"},
		{[]types.SendMessageBatchRequestEntry{entry("x y", "a", "b")}, "InvalidBatchEntryId"},
		{[]types.SendMessageBatchRequestEntry{entry("x", "a", big), entry("y", "a", big+"x")}, "BatchRequestTooLong"},
	} {
		if tt.entries == nil {
			tt.entries = []types.SendMessageBatchRequestEntry{} // nil is refused by the SDK itself
		}
		_, err := send(tt.entries...)
		wantAnswer(t, tt.code, err, "AWS.SimpleQueueService."+tt.code)
	}

	messages := c.receive(c.url)
	if names(messages) != "a1 a4" {
		t.Fatalf("received %s", names(messages))
	}
	changed, err := c.sqs.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &c.url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{
		{Id: aws.String("one"), ReceiptHandle: messages[0].ReceiptHandle, VisibilityTimeout: 60},
		{Id: aws.String("four"), ReceiptHandle: messages[1].ReceiptHandle, VisibilityTimeout: 50000},
	}})
	if err != nil || len(changed.Successful) != 1 || len(changed.Failed) != 1 || *changed.Failed[0].Id != "four" || *changed.Failed[0].Code != "InvalidParameterValue" {
		t.Errorf("changed: %+v, %v", changed, err)
	}
	deleted, err := c.sqs.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &c.url, Entries: []types.DeleteMessageBatchRequestEntry{
		{Id: aws.String("one"), ReceiptHandle: messages[0].ReceiptHandle}, {Id: aws.String("none"), ReceiptHandle: aws.String("none")},
	}})
	if err != nil || len(deleted.Successful) != 1 || len(deleted.Failed) != 1 || *deleted.Failed[0].Code != "ReceiptHandleIsInvalid" || c.counts(c.url) != "0+1+0" {
		t.Errorf("deleted: %+v, %v, then %s", deleted, err, c.counts(c.url))
	}

	purge := &sqs.PurgeQueueInput{QueueUrl: &c.url}
	if _, err := c.sqs.PurgeQueue(t.Context(), purge); err != nil || c.counts(c.url) != "0+0+0" {
		t.Errorf("purged: %v, then %s", err, c.counts(c.url))
	}
	_, err = c.sqs.PurgeQueue(t.Context(), purge)
	want[*types.PurgeQueueInProgress](t, "purge again", err)
	if err == nil || !strings.Contains(err.Error(), "every 60 seconds") {
		t.Errorf("the error's message does not reach the SDK: %v", err)
	}
}

func TestReceiveMessageWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newQueue(t, localaws.Config{}, ".fifo")
		start := time.Now()
		wait := func(seconds int32) string {
			got := names(c.receive(c.url, func(in *sqs.ReceiveMessageInput) { in.WaitTimeSeconds = seconds }))
			return fmt.Sprintf("%s at %v", got, time.Since(start))
		}
		expect := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		expect("nothing comes", wait(20), " at 20s")
		time.AfterFunc(5*time.Second, func() { c.send("a1") })
		expect("a message is sent", wait(20), "a1 at 25s")
		c.send("a2")
		expect("its group is in flight", wait(20), " at 45s")
		expect("a visibility timeout ends", wait(20), "a1 a2 at 55s")
		_, err := c.sqs.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &c.url, Attributes: map[string]string{"ReceiveMessageWaitTimeSeconds": "3"}})
		wantAnswer(t, "set the queue's wait time", err, "")
		c.receive(c.url)
		expect("the queue's own wait time", time.Since(start).String(), "58s")
	})
}
