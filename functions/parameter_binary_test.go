package functions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

const (
	liveQueue = "rekey-parameters.fifo"
	deadQueue = "rekey-parameters-dead.fifo"
)

// installation is rekey's two functions for parameters as they ship, with the
// queue between them.
type installation struct {
	t        *testing.T
	cloud    *localaws.Server
	endpoint string
	ssm      *ssm.Client
	sqs      *sqs.Client
	log      lockedBuffer
	asked    lockedBuffer // what the functions sent to AWS
	ended    chan error   // of each invocation of the worker

	mu      sync.Mutex
	forward time.Duration // by which AWS's clock is ahead
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	in := &installation{t: t, ended: make(chan error, 1000)}
	t.Cleanup(func() { in.metrics() }) // of every line, that it is what CloudWatch takes
	in.cloud = localaws.New(localaws.Config{Authorize: policed(t, ours), Now: func() time.Time {
		in.mu.Lock()
		defer in.mu.Unlock()
		return time.Now().Add(in.forward)
	}})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = io.NopCloser(io.TeeReader(r.Body, &in.asked))
		in.cloud.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	in.endpoint = web.URL
	own := httptest.NewServer(in.cloud)
	t.Cleanup(own.Close)
	cfg := aws.Config{Region: "us-east-1", BaseEndpoint: &own.URL, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")}
	in.ssm, in.sqs = ssm.NewFromConfig(cfg), sqs.NewFromConfig(cfg)

	dead, err := in.cloud.AddQueue(deadQueue, map[string]string{"FifoQueue": "true"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.cloud.AddQueue(liveQueue, map[string]string{
		"FifoQueue": "true", "VisibilityTimeout": "150", "RedrivePolicy": `{"deadLetterTargetArn":"` + dead + `","maxReceiveCount":5}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	in.cloud.Handle("parameter-rotator", &reporting{in.function("parameter-rotator"), in.ended})
	in.cloud.Handle("parameter-planner", in.function("parameter-planner"))
	t.Cleanup(in.cloud.Close)
	if err := in.cloud.Subscribe(liveQueue, "parameter-rotator", 2); err != nil {
		t.Fatal(err)
	}
	return in
}

// function runs a shipped binary.
func (in *installation) function(name string, env ...string) localaws.Function {
	in.t.Helper()
	file, err := bootstrap(name)
	if err != nil {
		in.t.Fatal(err)
	}
	f := locallambda.New(locallambda.Config{
		Name: name, Bootstrap: file, Log: &in.log,
		Env: append(env, "AWS_ENDPOINT_URL="+in.endpoint, "AWS_ACCESS_KEY_ID="+name, "AWS_SECRET_ACCESS_KEY=test",
			"REKEY_QUEUE_URL="+in.cloud.QueueURL(in.endpoint, liveQueue), "REKEY_SSM_WRITES_PER_SECOND=1000"),
	})
	in.t.Cleanup(func() { _ = f.Close() })
	return f
}

// reporting says when an invocation is over.
type reporting struct {
	localaws.Function
	ended chan<- error
}

func (r *reporting) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	out, err := r.Function.Invoke(ctx, payload)
	r.ended <- err
	return out, err
}

// account is a user of the database whose login a parameter holds.
type account struct {
	user, value string
}

// add makes a user and a parameter.
func (in *installation) add(name string, age time.Duration, tags map[string]string) account {
	in.t.Helper()
	a := account{user: fmt.Sprintf("app_%d", users.Add(1))}
	if err := database.Exec(in.t.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'the first password'", a.user)); err != nil {
		in.t.Fatal(err)
	}
	a.value = asJSON(a.user, "the first password")
	in.cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: a.value, Tags: tags, Changed: time.Now().Add(-age)})
	return a
}

func (in *installation) tick() {
	in.t.Helper()
	if err := in.cloud.Tick(in.t.Context(), "parameter-planner"); err != nil {
		in.t.Fatalf("%v\n%s", err, in.log.String())
	}
	if err := in.cloud.Idle(in.t.Context(), liveQueue); err != nil {
		in.t.Fatal(err)
	}
}

// rotations tells how often the parameter was rotated, and checks that readers get
// what the database takes, and that it takes nothing else.
func (in *installation) rotations(name string, a account) int64 {
	in.t.Helper()
	out, err := in.ssm.GetParameter(in.t.Context(), &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	if err != nil {
		in.t.Fatal(err)
	}
	password, err := rotators.NewSecret(*out.Parameter.Value).Field("password")
	if err != nil {
		in.t.Fatal(err)
	}
	if err := database.Login(in.t.Context(), a.user, password.Reveal()); err != nil {
		in.t.Errorf("%s: what readers get: %v", name, err)
	}
	if *out.Parameter.Value != a.value {
		if err := database.Login(in.t.Context(), a.user, "the first password"); !servers.Refused(err) {
			in.t.Errorf("%s: the first password: %v", name, err)
		}
	}
	return out.Parameter.Version - 1
}

func TestTheShippedPlannerAndWorker(t *testing.T) {
	in := newInstallation(t)
	const day = 24 * time.Hour
	tags := func(more ...string) map[string]string {
		tags := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
		for i := 0; i < len(more); i += 2 {
			tags[more[i]] = more[i+1]
		}
		return tags
	}
	accounts, want := map[string]account{}, map[string]int64{}
	for name, c := range map[string]struct {
		age       time.Duration
		tags      map[string]string
		rotations int64
	}{
		"/due":           {40 * day, tags(), 1},
		"/due/too":       {40 * day, tags("team", "shop"), 1},
		"/not/due":       {0, tags("rekey:every", "999d"), 0},
		"/not/tagged":    {40 * day, nil, 0},
		"/paused":        {40 * day, tags("rekey:paused", "yes"), 0},
		"/other/stage":   {40 * day, tags("rekey:stage", "blue"), 0},
		"/misconfigured": {40 * day, tags("rekey:every", "monthly"), 0},
		"/empty/tag":     {40 * day, tags("rekey:rotator", ""), 0},
		"/too/short":     {40 * day, tags("rekey:grace", "30d"), 0},
	} {
		accounts[name], want[name] = in.add(name, c.age, c.tags), c.rotations
	}
	in.cloud.AddParameter(localaws.Parameter{Name: "/plain/text", Type: "String", Value: "x", Tags: tags(), Changed: time.Now().AddDate(0, 0, -40)})
	in.tick()
	for name, rotations := range want {
		if got := in.rotations(name, accounts[name]); got != rotations {
			t.Errorf("%s was rotated %d times, want %d", name, got, rotations)
		}
	}
	log := in.log.String()
	for _, said := range []string{
		`"managed":8,`, `"due":2,`, `"queued":2,`, `"misconfigured":4,`, `"paused":1,`,
		`parameter/misconfigured","error":"tag rekey:every`, `parameter/too/short","error":"tags rekey:every, rekey:grace`,
		`parameter/empty/tag","error":"tag rekey:rotator: is empty`, `parameter/plain/text","error":"its type is String`,
	} {
		if !strings.Contains(log, said) {
			t.Errorf("the log does not say %s", said)
		}
	}
	for _, never := range []string{"/not/tagged", "/other/stage", "the first password"} {
		if strings.Contains(log, never) {
			t.Errorf("the log says %s", never)
		}
	}
	asked := in.asked.String()
	if !strings.Contains(asked, "/due/too") || strings.Contains(asked, "/not/tagged") || strings.Contains(asked, "/other/stage") {
		t.Error("AWS was asked about what is not tagged, or of another stage")
	}
	if t.Failed() {
		t.Log(log)
	}
	in.tick() // what was rotated is not due any more
	for name, rotations := range want {
		if got := in.rotations(name, accounts[name]); got != rotations {
			t.Errorf("%s was rotated %d times after the second tick, want %d", name, got, rotations)
		}
	}
}

// Two installations in one account, each with functions and a queue of its own.
func TestTwoStages(t *testing.T) {
	in := newInstallation(t)
	tags := func(stage string) map[string]string {
		return map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d", "rekey:stage": stage}
	}
	blue := in.add("/app/blue", 40*24*time.Hour, tags("blue"))
	green := in.add("/app/green", 40*24*time.Hour, tags("green"))
	for _, stage := range []string{"green", "blue"} {
		in.cloud.Handle("parameter-planner", in.function("parameter-planner", "REKEY_STAGE="+stage))
		in.cloud.Handle("parameter-rotator", in.function("parameter-rotator", "REKEY_STAGE="+stage))
		in.tick()
		if got := in.rotations("/app/green", green); got != 1 {
			t.Errorf("after a tick of %s, green was rotated %d times", stage, got)
		}
		if got, want := in.rotations("/app/blue", blue), map[string]int64{"green": 0, "blue": 1}[stage]; got != want {
			t.Errorf("after a tick of %s, blue was rotated %d times", stage, got)
		}
	}
}

// A person orders a rotation while a scheduled one runs: that is what they get.
// Five minutes are not over when they order another.
func TestAPersonsOrders(t *testing.T) {
	in := newInstallation(t)
	const name = "/app"
	a := in.add(name, 40*24*time.Hour, map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"})
	order := func(nonce string) {
		found, err := paramstore.Describe(t.Context(), in.ssm, []string{name})
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		sent, err := queue.Send(t.Context(), in.sqs, in.cloud.QueueURL(in.endpoint, liveQueue), []queue.Message{{Parameter: found[0].Parameter, Nonce: nonce}})
		if err != nil || sent != 1 {
			t.Fatal(sent, err)
		}
	}
	started, release := make(chan struct{}), make(chan struct{})
	worker := in.function("parameter-rotator")
	in.cloud.Handle("parameter-rotator", held{worker, started, release})
	if err := in.cloud.Tick(t.Context(), "parameter-planner"); err != nil {
		t.Fatal(err)
	}
	<-started // the scheduled one runs
	order("1")
	close(release)
	if err := in.cloud.Idle(t.Context(), liveQueue); err != nil {
		t.Fatal(err)
	}
	if got := in.rotations(name, a); got != 1 {
		t.Errorf("rotated %d times, want once", got)
	}
	for n := int64(2); n <= 3; n++ {
		order(fmt.Sprint(n))
		if err := in.cloud.Idle(t.Context(), liveQueue); err != nil {
			t.Fatal(err)
		}
		if got := in.rotations(name, a); got != n {
			t.Errorf("rotated %d times, want %d", got, n)
		}
	}
}

// held keeps its first invocation until it is released.
type held struct {
	localaws.Function
	started, release chan struct{}
}

func (h held) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	select {
	case h.started <- struct{}{}:
	case <-h.release:
	}
	<-h.release
	return h.Function.Invoke(ctx, payload)
}

// failures lets AWS's clock run until the only message is in the dead-letter queue,
// half a minute at a time, and returns the errors on the way.
func (in *installation) failures(body string, group string) (errs []error) {
	in.t.Helper()
	_, err := in.sqs.SendMessage(in.t.Context(), &sqs.SendMessageInput{
		QueueUrl: aws.String(in.cloud.QueueURL(in.endpoint, liveQueue)), MessageBody: &body, MessageGroupId: &group, MessageDeduplicationId: &group,
	})
	if err != nil {
		in.t.Fatal(err)
	}
	for range 5 {
		errs = append(errs, <-in.ended)
		in.mu.Lock()
		in.forward += 30 * time.Second
		in.mu.Unlock()
		in.cloud.Wake()
	}
	if err := in.cloud.Idle(in.t.Context(), liveQueue); err != nil {
		in.t.Fatal(err)
	}
	return errs
}

// A message that cannot be carried out comes back after 30 seconds, and after five
// times it is put aside, with its reason in the log.
func TestAPoisonMessage(t *testing.T) {
	in := newInstallation(t)
	for body, reason := range map[string]string{
		`{"parameter":{"arn":"a","name":"b","base":1},"retire":7}`: "none of rekey's messages, or one of another version",
		`rotate everything`:                             "none of rekey's messages",
		`{"parameter":{"arn":"a","name":"b","base":0}}`: "which version of which parameter",
	} {
		for _, err := range in.failures(body, "poison") {
			var failed *locallambda.FunctionError
			if !errors.As(err, &failed) || failed.Type != "EventError" || !strings.Contains(failed.Message, reason) {
				t.Errorf("%s: %v", body, err)
			}
		}
		if n := strings.Count(in.log.String(), reason); n < 5 {
			t.Errorf("%s: the log gives the reason %d times", body, n)
		}
		dead, err := in.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(in.cloud.QueueURL(in.endpoint, deadQueue))})
		if err != nil || len(dead.Messages) != 1 || *dead.Messages[0].Body != body {
			t.Fatalf("%s: the dead-letter queue has %v (%v)", body, dead, err)
		}
		_, err = in.sqs.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: aws.String(in.cloud.QueueURL(in.endpoint, deadQueue)), ReceiptHandle: dead.Messages[0].ReceiptHandle})
		if err != nil {
			t.Fatal(err)
		}
		in.mu.Lock()
		in.forward += 5 * time.Minute // the deduplication window
		in.mu.Unlock()
	}
}

// A target that is not there: the attempt fails five times and is put aside. When
// the target is back, the next tick finishes what was begun.
func TestATargetThatIsNotThere(t *testing.T) {
	in := newInstallation(t)
	a := in.add("/app", 40*24*time.Hour, map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"})
	if err := database.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s NOLOGIN", a.user)); err != nil {
		t.Fatal(err)
	}
	if err := in.cloud.Tick(t.Context(), "parameter-planner"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := <-in.ended; err == nil {
			t.Fatal("it succeeded")
		}
		in.mu.Lock()
		in.forward += 30 * time.Second
		in.mu.Unlock()
		in.cloud.Wake()
	}
	if err := in.cloud.Idle(t.Context(), liveQueue); err != nil {
		t.Fatal(err)
	}
	attributes, err := in.sqs.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(in.cloud.QueueURL(in.endpoint, deadQueue)), AttributeNames: []sqstypes.QueueAttributeName{"ApproximateNumberOfMessages"},
	})
	if err != nil || attributes.Attributes["ApproximateNumberOfMessages"] != "1" {
		t.Errorf("the dead-letter queue: %v (%v)", attributes, err)
	}
	if err := database.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s LOGIN", a.user)); err != nil {
		t.Fatal(err)
	}
	in.mu.Lock()
	in.forward += 5 * time.Minute
	in.mu.Unlock()
	in.tick()
	if got := in.rotations("/app", a); got != 1 {
		t.Errorf("it was rotated %d times\n%s", got, in.log.String())
	}
}

// A rotation that was begun and ended in the dead-letter queue is finished at the next
// tick, due or not, and whether its window is open: the target has the new password,
// and readers the old one. A record that somebody's change has overtaken is not.
func TestWhatWasBegunIsFinished(t *testing.T) {
	in := newInstallation(t)
	later := time.Now().UTC().Add(3 * time.Hour)
	tags := map[string]string{
		"rekey:rotator": "postgres", "rekey:every": "30d",
		"rekey:window": later.Format("15:04") + "-" + later.Add(2*time.Hour).Format("15:04"),
	}
	begin := func(name string) account {
		a := in.add(name, time.Minute, tags)
		found, err := paramstore.Describe(t.Context(), in.ssm, []string{name})
		if err != nil || len(found) != 1 {
			t.Fatalf("%v (%v)", found, err)
		}
		p := found[0].Parameter
		store := paramstore.New(in.ssm, p, rate.NewLimiter(rate.Inf, 0))
		attempt, err := store.Load(t.Context(), p.ARN, p.Token())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.PutPending(t.Context(), attempt, rotators.NewSecret(asJSON(a.user, "the second password"))); err != nil {
			t.Fatal(err)
		}
		return a
	}
	half, overtaken := begin("/half"), begin("/overtaken")
	in.add("/untouched", time.Minute, tags)
	if err := database.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s PASSWORD 'the second password'", half.user)); err != nil {
		t.Fatal(err)
	}
	_, err := in.ssm.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/overtaken"), Value: &overtaken.value, Overwrite: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	in.tick()
	if got := in.rotations("/half", half); got != 1 {
		t.Errorf("it was rotated %d times\n%s", got, in.log.String())
	}
	if n := strings.Count(in.log.String(), `"due":1,"queued":1,`); n != 1 {
		t.Errorf("more or less than one was queued\n%s", in.log.String())
	}
	in.mu.Lock()
	in.forward += 10 * time.Minute
	in.mu.Unlock()
	in.tick()
	if !strings.Contains(in.log.String(), `"due":0,"queued":0,`) {
		t.Errorf("it was queued again\n%s", in.log.String())
	}
}
