package localaws_test

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// What old AWS CLIs and SDKs send and read.
func TestSQSQueryProtocol(t *testing.T) {
	s := localaws.New(localaws.Config{})
	t.Cleanup(s.Close)
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)

	// post returns what stands in the elements of those names, in order.
	post := func(to, form string, elements ...string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", to, strings.NewReader(form+"&Version=2012-11-05"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var found []string
		decoder, element := xml.NewDecoder(response.Body), ""
		for {
			token, err := decoder.Token()
			switch token := token.(type) {
			case xml.StartElement:
				if element = token.Name.Local; element == elements[0] {
					found = append(found, "<"+token.Name.Space+">")
				}
			case xml.CharData:
				for _, name := range elements {
					if name == element {
						found = append(found, string(token))
					}
				}
			case xml.EndElement:
				element = ""
			}
			if err == io.EOF {
				return strings.Join(found, " ")
			}
			if err != nil {
				t.Fatalf("%s: %v", form, err)
			}
		}
	}
	const space = "<http://queue.amazonaws.com/doc/2012-11-05/>"
	expect := func(what, got, want string) {
		t.Helper()
		if got != strings.ReplaceAll(want, "<sqs>", space) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}

	queue := web.URL + "/000000000000/q.fifo"
	expect("CreateQueue", post(web.URL, "Action=CreateQueue&QueueName=q.fifo&Attribute.1.Name=FifoQueue&Attribute.1.Value=true&Attribute.2.Name=VisibilityTimeout&Attribute.2.Value=150",
		"CreateQueueResponse", "QueueUrl"), "<sqs> "+queue)
	at := "&QueueUrl=" + url.QueryEscape(queue)
	expect("GetQueueAttributes", post(web.URL, "Action=GetQueueAttributes&AttributeName.1=VisibilityTimeout&AttributeName.2=QueueArn"+at,
		"GetQueueAttributesResult", "Name", "Value"), "<sqs> QueueArn arn:aws:sqs:us-east-1:000000000000:q.fifo VisibilityTimeout 150")
	expect("ListQueues", post(web.URL, "Action=ListQueues&QueueNamePrefix=q", "ListQueuesResult", "QueueUrl"), "<sqs> "+queue)

	// Posted to the queue, which then need not be named.
	expect("SendMessage", post(queue, "Action=SendMessage&MessageBody=a%0Ab&MessageGroupId=g&MessageDeduplicationId=1",
		"SendMessageResult", "MD5OfMessageBody"), "<sqs> 8cdeb44417f3c26826595d5820cf5700")
	expect("SendMessageBatch", post(web.URL, "Action=SendMessageBatch&SendMessageBatchRequestEntry.2.Id=two&SendMessageBatchRequestEntry.2.MessageBody=3"+
		"&SendMessageBatchRequestEntry.1.Id=one&SendMessageBatchRequestEntry.1.MessageBody=2&SendMessageBatchRequestEntry.1.MessageGroupId=g&SendMessageBatchRequestEntry.1.MessageDeduplicationId=2"+at,
		"SendMessageBatchResultEntry", "Id", "MD5OfMessageBody", "Code", "SenderFault"), "<sqs> one c81e728d9d4c2f636f067f89cc14862c two MissingParameter true")
	expect("ReceiveMessage", post(web.URL, "Action=ReceiveMessage&MaxNumberOfMessages=10&VisibilityTimeout=60&WaitTimeSeconds=1&AttributeName.1=MessageGroupId"+at,
		"Message", "MD5OfBody", "Body", "Name", "Value"), "<sqs> 8cdeb44417f3c26826595d5820cf5700 a\nb MessageGroupId g <sqs> c81e728d9d4c2f636f067f89cc14862c 2 MessageGroupId g")
	expect("PurgeQueue", post(web.URL, "Action=PurgeQueue"+at, "PurgeQueueResponse"), "<sqs>")
	expect("an error", post(web.URL, "Action=GetQueueUrl&QueueName=none", "Error", "Code"), "<> AWS.SimpleQueueService.NonExistentQueue")
	expect("another error", post(web.URL, "Action=DeleteMessage&ReceiptHandle=none"+at, "Error", "Code"), "<> ReceiptHandleIsInvalid")

	calls := s.Calls()
	if len(calls) != 9 || calls[0] != (localaws.Call{Service: "sqs", Operation: "CreateQueue", N: 1}) {
		t.Errorf("the calls are %v", calls)
	}
}
