package localaws_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// function is a Lambda function in this process; nil does nothing, well.
type function func(context.Context, events.SecretsManagerSecretRotationEvent) error

func (f function) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var e events.SecretsManagerSecretRotationEvent
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, nil
	}
	return nil, f(ctx, e)
}

// rotator takes the four steps through the SDK, the way AWS's templates do, and
// writes down each event. before, if there, runs first and may fail the step.
type rotator struct {
	c      *cloud
	before func(events.SecretsManagerSecretRotationEvent) error

	mu     sync.Mutex
	events []events.SecretsManagerSecretRotationEvent
}

// install makes a rotator the function "rotator".
func (c *cloud) install(before func(events.SecretsManagerSecretRotationEvent) error) *rotator {
	r := &rotator{c: c, before: before}
	c.Handle("rotator", function(r.step))
	return r
}

func (r *rotator) step(ctx context.Context, e events.SecretsManagerSecretRotationEvent) error {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.before != nil {
		if err := r.before(e); err != nil {
			return err
		}
	}
	switch e.Step {
	case "createSecret":
		_, err := r.c.sm.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &e.SecretID, VersionId: &e.ClientRequestToken, VersionStage: aws.String("AWSPENDING")})
		if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
			return err
		}
		_, err = r.c.sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
			SecretId: &e.SecretID, ClientRequestToken: &e.ClientRequestToken, RotationToken: &e.RotationToken,
			SecretString: aws.String("rotated"), VersionStages: []string{"AWSPENDING"},
		})
		return err
	case "finishSecret":
		d, err := r.c.sm.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &e.SecretID})
		if err != nil {
			return err
		}
		for id, stages := range d.VersionIdsToStages {
			if slices.Contains(stages, "AWSCURRENT") {
				_, err = r.c.sm.UpdateSecretVersionStage(ctx, &secretsmanager.UpdateSecretVersionStageInput{
					SecretId: &e.SecretID, VersionStage: aws.String("AWSCURRENT"), RemoveFromVersionId: &id, MoveToVersionId: &e.ClientRequestToken,
				})
			}
		}
		return err
	}
	return nil
}

// steps lists the steps taken so far, and checks what all events have in common.
func (r *rotator) steps(t *testing.T, arn, letter string) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.events {
		out = append(out, strings.TrimSuffix(e.Step, "Secret"))
		if e.SecretID != arn || e.ClientRequestToken != *token(letter) || len(e.RotationToken) != 36 {
			t.Errorf("the event is %+v", e)
		}
	}
	return strings.Join(out, " ")
}

func TestRotation(t *testing.T) {
	now := time.Date(2026, 3, 31, 22, 30, 0, 0, time.UTC)
	var log bytes.Buffer
	c := newCloud(t, localaws.Config{Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil))})
	r := c.install(nil)
	arn := c.create()
	must(t, c.rotate("b", func(in *secretsmanager.RotateSecretInput) {
		in.RotationRules = &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)}
	}))
	must(t, c.Wait(t.Context(), arn))

	if got := r.steps(t, arn, "b"); got != "create set test finish" {
		t.Errorf("the steps were %s", got)
	}
	c.wantLabels("a:AWSPREVIOUS b:AWSCURRENT")
	if v, err := c.get("", ""); err != nil || v != "rotated" {
		t.Errorf("readers get %q, %v", v, err)
	}
	d := c.describe()
	if d.LastRotatedDate == nil || !d.LastRotatedDate.Equal(now) || !*d.RotationEnabled || *d.RotationLambdaARN != c.FunctionARN("rotator") {
		t.Errorf("described as %+v", d)
	}
	if end := time.Date(2026, 4, 30, 23, 59, 59, 0, time.UTC); d.NextRotationDate == nil || !d.NextRotationDate.Equal(end) {
		t.Errorf("next rotation is %v, want %v", d.NextRotationDate, end)
	}
	if text := log.String(); strings.Count(text, "\n") != 4 || strings.Count(text, "outcome=ok") != 4 || strings.Contains(text, "rotated") {
		t.Errorf("the log is\n%s", text)
	}

	// The same request once more does nothing; another one rotates again, with
	// what is configured.
	must(t, c.rotate("b", nil))
	must(t, c.Wait(t.Context(), arn))
	c.wantLabels("a:AWSPREVIOUS b:AWSCURRENT")
	must(t, c.rotate("c", func(in *secretsmanager.RotateSecretInput) { in.RotationLambdaARN = nil }))
	must(t, c.Wait(t.Context(), "db"))
	c.wantLabels("b:AWSPREVIOUS c:AWSCURRENT")
}

func TestRotationIsTriedAgain(t *testing.T) {
	var rests []time.Duration // appended to by the one rotation that runs, read after it
	c := newCloud(t, localaws.Config{Pause: func(_ context.Context, d time.Duration) error {
		rests = append(rests, d)
		return nil
	}})
	broken := errors.New("the database is away")
	var failures atomic.Int32
	r := c.install(func(e events.SecretsManagerSecretRotationEvent) error {
		if e.Step == "testSecret" && failures.Add(-1) >= 0 {
			return broken
		}
		return nil
	})
	arn := c.create()

	failures.Store(2)
	must(t, c.rotate("b", nil))
	must(t, c.Wait(t.Context(), arn))
	if got, want := r.steps(t, arn, "b"), "create set test create set test create set test finish"; got != want {
		t.Errorf("the steps were %s, want %s", got, want)
	}
	if len(rests) != 2 || rests[0] <= 0 || rests[1] <= rests[0] {
		t.Errorf("it rested %v, which does not grow", rests)
	}
	c.wantLabels("a:AWSPREVIOUS b:AWSCURRENT")

	failures.Store(1000)
	must(t, c.rotate("c", nil))
	if err := c.Wait(t.Context(), arn); !errors.Is(err, broken) {
		t.Errorf("the rotation ended with %v", err)
	}
	c.wantLabels("a:AWSPREVIOUS b:AWSCURRENT c:AWSPENDING")
	want[*types.InvalidRequestException](t, "a new rotation after a failed one", c.rotate("d", nil))

	// The same request goes on with the failed one, and so does, after its label
	// is gone, a new rotation.
	failures.Store(0)
	must(t, c.rotate("c", nil))
	must(t, c.Wait(t.Context(), arn))
	c.wantLabels("b:AWSPREVIOUS c:AWSCURRENT")

	failures.Store(1000)
	must(t, c.rotate("d", nil))
	if err := c.Wait(t.Context(), arn); !errors.Is(err, broken) {
		t.Errorf("the rotation ended with %v", err)
	}
	failures.Store(0)
	must(t, c.move("AWSPENDING", "d", ""))
	must(t, c.rotate("e", nil))
	must(t, c.Wait(t.Context(), arn))
	c.wantLabels("c:AWSPREVIOUS e:AWSCURRENT")
}

func TestFinishMustPromote(t *testing.T) {
	c := newCloud(t, localaws.Config{Functions: map[string]localaws.Function{"rotator": function(nil)}, Pause: func(context.Context, time.Duration) error { return errors.New("no more") }})
	arn := c.create()
	must(t, c.rotate("b", nil))
	if err := c.Wait(t.Context(), arn); err == nil || !strings.Contains(err.Error(), "AWSCURRENT is not on version") {
		t.Errorf("a function that does nothing ended with %v", err)
	}
	if c.describe().LastRotatedDate != nil {
		t.Error("LastRotatedDate is set")
	}
}

func TestDryTest(t *testing.T) {
	for _, broken := range []error{nil, errors.New("refused")} {
		c := newCloud(t, localaws.Config{})
		var during string
		r := c.install(func(events.SecretsManagerSecretRotationEvent) error {
			during = c.labels()
			return broken
		})
		arn := c.create()
		must(t, c.rotate("b", func(in *secretsmanager.RotateSecretInput) {
			in.RotateImmediately = aws.Bool(false)
			in.RotationRules = &types.RotationRulesType{ScheduleExpression: aws.String("rate(10 days)")}
		}))
		if err := c.Wait(t.Context(), arn); !errors.Is(err, broken) {
			t.Errorf("the test ended with %v, want %v", err, broken)
		}
		if got := r.steps(t, arn, "b"); got != "test" || during != "a:AWSCURRENT b:AWSPENDING" {
			t.Errorf("the steps were %s, with the labels %s", got, during)
		}
		c.wantLabels("a:AWSCURRENT")
		if d := c.describe(); d.LastRotatedDate != nil || d.NextRotationDate == nil || !*d.RotationEnabled {
			t.Errorf("described as %+v", d)
		}
	}
}

func TestManualChangeAbandonsRotation(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	r := c.install(func(e events.SecretsManagerSecretRotationEvent) error {
		if e.Step == "setSecret" {
			return c.put("m")
		}
		return nil
	})
	arn := c.create()
	must(t, c.rotate("b", nil))
	if err := c.Wait(t.Context(), arn); err == nil || !strings.Contains(err.Error(), "abandoned") {
		t.Errorf("the rotation ended with %v", err)
	}
	if got := r.steps(t, arn, "b"); got != "create set" {
		t.Errorf("the steps were %s", got)
	}
	c.wantLabels("a:AWSPREVIOUS m:AWSCURRENT")
	if v, err := c.get("b", ""); err != nil || v != "rotated" {
		t.Errorf("the abandoned version reads as %q, %v", v, err)
	}
}

func TestOneRotationAtATime(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	started, release := make(chan struct{}), make(chan struct{})
	r := c.install(func(e events.SecretsManagerSecretRotationEvent) error {
		switch e.Step {
		case "createSecret":
			close(started) // a second createSecret would panic here
			<-release
		case "finishSecret":
			// Promoted already, but not over: nothing is pending any more.
			if err := c.move("AWSCURRENT", "a", e.ClientRequestToken[:1]); err != nil {
				return err
			}
			want[*types.InvalidRequestException](t, "while finishSecret runs", c.rotate("z", nil))
		}
		return nil
	})
	arn := c.create()
	var won atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for _, letter := range []string{"b", "c", "d", "e", "f"} {
		wg.Go(func() {
			err := c.rotate(letter, nil)
			if err == nil {
				won.Add(1)
				winner.Store(letter)
				return
			}
			want[*types.InvalidRequestException](t, letter, err)
		})
	}
	wg.Wait()
	<-started
	if won.Load() != 1 {
		t.Fatalf("%d rotations were started, want 1", won.Load())
	}
	letter := winner.Load().(string)
	must(t, c.rotate(letter, nil)) // the same request while it runs
	close(release)
	must(t, c.Wait(t.Context(), arn))
	if got := r.steps(t, arn, letter); got != "create set test finish" {
		t.Errorf("the steps were %s", got)
	}
}

func TestCancelAndClose(t *testing.T) {
	for name, stop := range map[string]func(*cloud){
		"cancel": func(c *cloud) {
			if _, err := c.sm.CancelRotateSecret(c.t.Context(), &secretsmanager.CancelRotateSecretInput{SecretId: aws.String("db")}); err != nil {
				t.Error(err)
			}
			if d := c.describe(); d.RotationEnabled == nil || *d.RotationEnabled || d.RotationLambdaARN == nil {
				t.Errorf("described as %+v", d)
			}
		},
		"close": func(c *cloud) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, localaws.Config{})
			started := make(chan struct{})
			c.Handle("rotator", function(func(ctx context.Context, _ events.SecretsManagerSecretRotationEvent) error {
				close(started)
				<-ctx.Done()
				return ctx.Err()
			}))
			arn := c.create()
			must(t, c.rotate("b", nil))
			<-started
			stop(c)
			if err := c.Wait(t.Context(), arn); err == nil || !strings.HasPrefix(err.Error(), "the rotation was ") {
				t.Errorf("the rotation ended with %v", err)
			}
			c.wantLabels("a:AWSCURRENT b:AWSPENDING") // left as they are
		})
	}
}

func TestRotateSecretRefusals(t *testing.T) {
	c := newCloud(t, localaws.Config{Functions: map[string]localaws.Function{"rotator": function(nil), "other": function(nil)}})
	c.create()
	err := c.rotate("b", func(in *secretsmanager.RotateSecretInput) { in.RotationLambdaARN = aws.String(c.FunctionARN("none")) })
	want[*types.ResourceNotFoundException](t, "an unknown function", err)
	for _, name := range []string{"none", "rotator", "other"} {
		if !strings.Contains(err.Error(), c.FunctionARN(name)) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
	want[*types.InvalidRequestException](t, "no function", c.rotate("b", func(in *secretsmanager.RotateSecretInput) { in.RotationLambdaARN = nil }))
	want[*types.InvalidRequestException](t, "the token of a version", c.rotate("a", nil))
	c.wantLabels("a:AWSCURRENT")
	if c.describe().RotationEnabled != nil {
		t.Error("a refused RotateSecret configured rotation")
	}
}

func TestSchedules(t *testing.T) {
	now := time.Date(2026, 2, 27, 22, 30, 0, 0, time.UTC)
	for _, row := range []struct {
		days             int64
		expression, hour string
		next             string // "": none is shown; "refused"
	}{
		{days: 1, next: "2026-02-28T23:59:59Z"},
		{days: 2, hour: "3h", next: "2026-03-01T02:59:59Z"},
		{days: 1000, next: "2028-11-23T23:59:59Z"},
		{days: 1001, next: "refused"},
		{expression: "rate(1 day)", next: "2026-02-28T23:59:59Z"},
		{expression: "rate(10 days)", hour: "24h", next: "2026-03-09T23:59:59Z"},
		{expression: "rate(4 hours)", next: "2026-02-28T02:59:59Z"},
		{expression: "rate(4 hours)", hour: "4h", next: "2026-02-28T05:59:59Z"},
		{expression: "rate(4 hours)", hour: "5h", next: "refused"},
		{expression: "rate(3 hours)", next: "refused"},
		{expression: "rate(1000 days)", next: "refused"},
		{expression: "rate(30 minutes)", next: "refused"},
		{expression: "cron(0 8 * * ? *)"},
		{expression: "cron(0 /8 * * ? *)"},
		{expression: "cron(0 8/8 1,15 * ? *)"},
		{expression: "cron(0 2 ? JAN-DEC SUN#1 *)", hour: "2h"},
		{expression: "cron(0 16 L * ? *)"},
		{expression: "cron(0 /2 * * ? *)", next: "refused"},
		{expression: "cron(5 8 * * ? *)", next: "refused"},
		{expression: "cron(0 24 * * ? *)", next: "refused"},
		{expression: "cron(0 8 * * * *)", next: "refused"},
		{expression: "cron(0 8 ? * ? *)", next: "refused"},
		{expression: "cron(0 8 * * ? 2027)", next: "refused"},
		{expression: "daily", next: "refused"},
		{days: 1, expression: "rate(1 day)", next: "refused"},
		{hour: "2h", next: "refused"},
		{days: 1, hour: "25h", next: "refused"},
		{days: 1, hour: "2m", next: "refused"},
	} {
		c := newCloud(t, localaws.Config{Now: func() time.Time { return now }})
		c.install(nil)
		c.create()
		rules := &types.RotationRulesType{}
		if row.days != 0 {
			rules.AutomaticallyAfterDays = &row.days
		}
		if row.expression != "" {
			rules.ScheduleExpression = &row.expression
		}
		if row.hour != "" {
			rules.Duration = &row.hour
		}
		got := ""
		err := c.rotate("b", func(in *secretsmanager.RotateSecretInput) { in.RotationRules = rules })
		if err != nil {
			want[*types.InvalidParameterException](t, row.expression, err)
			got = "refused"
		} else {
			must(t, c.Wait(t.Context(), "db"))
			if next := c.describe().NextRotationDate; next != nil {
				got = next.UTC().Format(time.RFC3339)
			}
		}
		if got != row.next {
			t.Errorf("%d days, %q, %q: next is %q, want %q", row.days, row.expression, row.hour, got, row.next)
		}
	}
}
