package functions_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rekeyhq/rekey/internal/alarms"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/template"
)

// metrics are the metrics of what the functions have printed. Every line is held
// against the schema of the embedded metric format.
func (in *installation) metrics() (data []alarms.Datum) {
	in.t.Helper()
	for line := range strings.Lines(in.log.String()) {
		if !strings.HasPrefix(line, "{") {
			continue // Lambda's own: START, END, REPORT
		}
		of, err := alarms.Read([]byte(line))
		if err != nil {
			in.t.Errorf("%v: %s", err, line)
		}
		data = append(data, of...)
	}
	return data
}

// watched is an installation with what CloudWatch would know of it.
type watched struct {
	*installation
	secrets *secretsmanager.Client

	processes []localaws.Function // of the functions
	twice     bool                // whether all of it happened an hour ago, too
	ago       time.Duration       // how long ago it happened

	mu     sync.Mutex
	lambda []alarms.Datum // what Lambda counts
}

// start runs a shipped binary.
func (w *watched) start(name string) localaws.Function {
	f := w.function(name)
	w.processes = append(w.processes, f)
	return f
}

// known is all that CloudWatch knows.
func (w *watched) known() (data []alarms.Datum) {
	w.t.Helper()
	for _, p := range w.processes {
		_ = p.(*locallambda.Function).Close() // the log is whole when the process is gone
	}
	data = append(w.metrics(), w.queues()...)
	w.mu.Lock()
	defer w.mu.Unlock()
	data = append(data, w.lambda...)
	if w.twice {
		for _, d := range slices.Clone(data) {
			d.At = d.At.Add(-time.Hour)
			data = append(data, d)
		}
	}
	for i := range data {
		data[i].At = data[i].At.Add(-w.ago)
	}
	return data
}

// counted is a function whose errors Lambda counts.
type counted struct {
	localaws.Function
	w    *watched
	name string
}

func (c *counted) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	out, err := c.Function.Invoke(ctx, payload)
	if err != nil {
		c.w.count("Errors", c.name)
	}
	return out, err
}

func (w *watched) count(metric, function string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lambda = append(w.lambda, alarms.Datum{Namespace: "AWS/Lambda", Name: metric, Dimensions: map[string]string{"FunctionName": function}, Value: 1, At: time.Now()})
}

func newWatched(t *testing.T) *watched {
	w := &watched{installation: newInstallation(t)}
	w.secrets = secretsmanager.NewFromConfig(aws.Config{Region: "us-east-1", BaseEndpoint: &w.endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")})
	for name := range resources {
		f := w.start(name)
		if name == "parameter-rotator" {
			f = &reporting{f, w.ended}
		}
		handle := name
		if name == "secret-rotator" {
			handle = "rekey-" + name // as the secrets that it may rotate name it
		}
		w.cloud.Handle(handle, &counted{f, w, name})
	}
	return w
}

// workerOff has no order carried out until the test is over.
func (w *watched) workerOff() {
	over := make(chan struct{})
	w.t.Cleanup(func() { close(over) })
	w.cloud.Handle("parameter-rotator", idle(over))
}

type idle <-chan struct{}

func (i idle) Invoke(context.Context, []byte) ([]byte, error) { <-i; return nil, nil }

// plan has the schedule tick, and waits for nothing.
func (w *watched) plan() {
	w.t.Helper()
	if err := w.cloud.Tick(w.t.Context(), "parameter-planner"); err != nil {
		w.t.Fatal(err)
	}
}

// rotateSecret rotates a secret of a new user, after something was done to it.
func (w *watched) rotateSecret(change func(user string)) {
	w.t.Helper()
	ctx := w.t.Context()
	a := w.add("/unmanaged/"+strconv.FormatInt(users.Load(), 10), 0, nil)
	secret, err := w.secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String(a.user), SecretString: &a.value})
	if err != nil {
		w.t.Fatal(err)
	}
	change(a.user)
	_, err = w.secrets.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
		SecretId: secret.ARN, RotationLambdaARN: aws.String(w.cloud.FunctionARN("rekey-secret-rotator")), RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	_ = w.cloud.Wait(ctx, *secret.ARN) // whether it succeeds, the alarms say
}

func (w *watched) noLogin(user string) {
	w.t.Helper()
	if err := database.Exec(w.t.Context(), "ALTER ROLE "+user+" NOLOGIN"); err != nil {
		w.t.Fatal(err)
	}
}

// queues are SQS's metrics, made of what the queues hold. AWS's clock in this test says
// how old that is.
func (w *watched) queues() (data []alarms.Datum) {
	w.t.Helper()
	for _, name := range []string{liveQueue, deadQueue} {
		out, err := w.sqs.GetQueueAttributes(w.t.Context(), &sqs.GetQueueAttributesInput{
			QueueUrl: aws.String(w.cloud.QueueURL(w.endpoint, name)), AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameAll},
		})
		if err != nil {
			w.t.Fatal(err)
		}
		number := func(attribute string) float64 {
			n, err := strconv.ParseFloat(out.Attributes[attribute], 64)
			if err != nil {
				w.t.Fatalf("%s of %s: %v", attribute, name, err)
			}
			return n
		}
		visible := number("ApproximateNumberOfMessages")
		age := 0.0
		if visible+number("ApproximateNumberOfMessagesNotVisible") > 0 {
			in := w.installation
			in.mu.Lock()
			age = in.forward.Seconds() // everything is sent before the clock is set
			in.mu.Unlock()
		}
		of := map[string]string{"QueueName": name}
		data = append(data,
			alarms.Datum{Namespace: "AWS/SQS", Name: "ApproximateNumberOfMessagesVisible", Dimensions: of, Value: visible, At: time.Now()},
			alarms.Datum{Namespace: "AWS/SQS", Name: "ApproximateAgeOfOldestMessage", Dimensions: of, Value: age, At: time.Now()})
	}
	return data
}

// Every alarm of the template fires by the condition it names, made to happen here, and
// by no other, and none does where all is well. What it is about the functions really
// printed; Lambda's and SQS's own metrics are made of what happened in the emulation.
func TestAlarms(t *testing.T) {
	due := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
	const old = 40 * 24 * time.Hour
	all := alarmsOfTheTemplate(t)
	page, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}

	scenarios := map[string]func(w *watched){
		"": func(w *watched) { // all is well
			w.rotateSecret(func(string) {})
			w.add("/app", old-12*24*time.Hour, due)
			w.tick()
		},
		"Failed": func(w *watched) {
			w.rotateSecret(w.noLogin)
			w.plan()
		},
		"Overdue": func(w *watched) {
			w.workerOff()
			w.add("/app", old, due)
			w.plan()
			w.twice = true // the functions' clock cannot be set
		},
		"Misconfigured": func(w *watched) {
			w.add("/app", 0, map[string]string{"rekey:rotator": "postgres", "rekey:every": "monthly"})
			w.plan()
			w.twice = true
		},
		"RetirementsOverdue": func(w *watched) {
			w.workerOff()
			tags := maps.Clone(due)
			tags["rekey:retire"] = "1 " + time.Now().Add(-3*time.Hour).UTC().Format(time.RFC3339)
			w.add("/app", 0, tags)
			w.plan()
		},
		"DeadLetters": func(w *watched) {
			w.noLogin(w.add("/app", old-12*24*time.Hour, due).user)
			w.plan()
			for range 5 {
				<-w.ended
				w.forwardBy(30 * time.Second)
			}
			if err := w.cloud.Idle(w.t.Context(), liveQueue); err != nil {
				w.t.Fatal(err)
			}
		},
		"QueueAge": func(w *watched) {
			w.workerOff()
			w.add("/app", old-12*24*time.Hour, due)
			w.plan()
			w.forwardBy(2*time.Hour + time.Minute)
		},
		"Throttles": func(w *watched) {
			w.cloud.Handle("rekey-secret-rotator", &throttled{Function: w.start("secret-rotator"), w: w})
			w.rotateSecret(func(string) {})
			w.plan()
		},
		"PlannerDidNotRun": func(w *watched) {
			w.plan()
			w.ago = 4 * time.Hour
		},
		"FunctionErrors": func(w *watched) {
			w.plan()
			f := &counted{w.start("secret-rotator"), w, "secret-rotator"}
			if _, err := f.Invoke(w.t.Context(), []byte(`{"Step":"dropSecret"}`)); err == nil {
				w.t.Error("a step that there is not succeeded")
			}
		},
	}
	// An order that is put aside has failed before.
	with := map[string][]string{"DeadLetters": {"Failed"}}

	for _, id := range slices.Sorted(maps.Keys(all)) {
		if scenarios[id] == nil {
			t.Errorf("no test makes the alarm %s fire", id)
		}
		slug := strings.TrimPrefix(all[id].Name, "rekey-")
		title := strings.ReplaceAll(slug, "-", " ")
		if !strings.HasSuffix(all[id].Description, "See docs/operate.md#"+slug) || !regexp.MustCompile("(?mi)^### "+title+"$").Match(page) {
			t.Errorf("%s: docs/operate.md has no %q, or the alarm does not name it: %s", id, title, all[id].Description)
		}
	}
	for id, scenario := range scenarios {
		if id != "" && all[id] == nil {
			t.Errorf("there is no alarm %s", id)
			continue
		}
		t.Run("alarm:"+id, func(t *testing.T) {
			t.Parallel()
			w := newWatched(t)
			scenario(w)
			data := w.known()
			var fire []string
			for name, a := range all {
				fires, err := a.Fires(data, time.Now())
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if fires {
					fire = append(fire, name)
				}
			}
			want := with[id]
			if id != "" {
				want = append(slices.Clone(want), id)
			}
			slices.Sort(fire)
			slices.Sort(want)
			if !slices.Equal(fire, want) {
				t.Errorf("%v fire, and %v should; the functions' log:\n%s", fire, want, w.log.String())
			}
		})
	}
}

func alarmsOfTheTemplate(t *testing.T) map[string]*alarms.Alarm {
	t.Helper()
	byName := map[string]string{}
	for name, id := range resources {
		byName[id] = name
	}
	deployed, err := template.Load("../template.yaml", template.Options{
		Pseudo: map[string]string{"AWS::StackName": "rekey", "AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": ours},
		Attribute: func(resource, name string, _ func(string) (any, error)) (string, error) {
			switch {
			case name == "Ref" && byName[resource] != "":
				return byName[resource], nil
			case resource == "ParameterQueue" && name == "QueueName":
				return liveQueue, nil
			case resource == "ParameterDeadLetters" && name == "QueueName":
				return deadQueue, nil
			}
			return resource + "." + name, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := alarms.Of(deployed)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Each alarm fires in time: of a function that runs for as long as Lambda lets it, whose metrics bear
// the time at which it began and arrive two minutes after its end; and of one that does
// not run any more. None fires before there is anything.
func TestAlarmsAreInTime(t *testing.T) {
	all := alarmsOfTheTemplate(t)
	const delay = 2 * time.Minute
	start := time.Date(2026, 11, 30, 23, 59, 30, 0, time.UTC)
	fires := func(id string, data []alarms.Datum, from, to time.Time) bool {
		t.Helper()
		fires, err := all[id].FiresBetween(data, from, to)
		if err != nil {
			t.Fatal(err)
		}
		return fires
	}
	for id, of := range map[string]alarms.Datum{
		"Failed":         {Namespace: "rekey", Name: "failed", Dimensions: map[string]string{"function": "secret-rotator"}, Value: 1},
		"FunctionErrors": {Namespace: "AWS/Lambda", Name: "Errors", Dimensions: map[string]string{"FunctionName": "parameter-planner"}, Value: 1},
	} {
		for _, took := range []time.Duration{0, time.Minute, 4 * time.Minute, 5 * time.Minute, 14 * time.Minute, 15 * time.Minute} {
			of.At, of.Arrives = start, start.Add(took+delay)
			if !fires(id, []alarms.Datum{of}, of.Arrives, of.Arrives.Add(time.Minute)) {
				t.Errorf("%s is silent of what took %v", id, took)
			}
			if fires(id, []alarms.Datum{of}, start.Add(time.Hour), start.Add(2*time.Hour)) {
				t.Errorf("%s of what took %v fires an hour later", id, took)
			}
		}
	}
	var ticks []alarms.Datum
	for n := range 5 {
		at := start.Add(time.Duration(n) * time.Hour)
		ticks = append(ticks, alarms.Datum{Namespace: "rekey", Name: "managed", Dimensions: map[string]string{"function": "parameter-planner"}, At: at, Arrives: at.Add(15*time.Minute + delay)})
	}
	last := ticks[4].At
	if fires("PlannerDidNotRun", ticks, start, last.Add(3*time.Hour-time.Minute)) {
		t.Error("the planner's alarm fires while it runs, or sooner than three hours after its last tick")
	}
	if !fires("PlannerDidNotRun", ticks, last.Add(3*time.Hour), last.Add(3*time.Hour+time.Minute)) {
		t.Error("three hours after the last tick the planner's alarm does not fire")
	}
	for id := range all {
		if fires(id, nil, start, start.Add(24*time.Hour)) {
			t.Errorf("%s fires before there is anything", id)
		}
	}
}

// forwardBy sets AWS's clock forward.
func (in *installation) forwardBy(d time.Duration) {
	in.mu.Lock()
	in.forward += d
	in.mu.Unlock()
	in.cloud.Wake()
}

// throttled is a function that Lambda refuses to run at first.
type throttled struct {
	localaws.Function
	w    *watched
	once sync.Once
}

func (f *throttled) Invoke(ctx context.Context, payload []byte) (out []byte, err error) {
	f.once.Do(func() {
		f.w.count("Throttles", "secret-rotator")
		err = errors.New("TooManyRequestsException: Rate Exceeded")
	})
	if err != nil {
		return nil, err
	}
	return f.Function.Invoke(ctx, payload)
}

// The dashboard shows metrics that there are.
func TestDashboard(t *testing.T) {
	w := newWatched(t)
	w.rotateSecret(func(string) {})
	w.plan()
	printed := map[string]bool{}
	for _, d := range w.known() {
		printed[fmt.Sprint(d.Namespace, d.Name, d.Dimensions)] = true
	}
	text, err := os.ReadFile("../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range regexp.MustCompile(`\["rekey", "(\w+)", "function", "\$\{(\w+)\}"`).FindAllStringSubmatch(string(text), -1) {
		function := map[string]string{"SecretRotator": "secret-rotator", "ParameterPlanner": "parameter-planner", "ParameterRotator": "secret-rotator"}[m[2]] // both print the same
		if !printed[fmt.Sprint("rekey", m[1], map[string]string{"function": function})] {
			t.Errorf("nothing prints the metric %s of %s", m[1], m[2])
		}
		found++
	}
	if found < 10 {
		t.Errorf("the dashboard has %d metrics", found)
	}
}
