package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path"
	"slices"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	tagging "github.com/aws/aws-sdk-go-v2/service/resourcegroupstaggingapi"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/internal/inventory"
	"github.com/rekeyhq/rekey/internal/metrics"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/secretstore"
	"github.com/rekeyhq/rekey/rotators"
)

// plannerReads is what the planner takes of Parameter Store's reads, in calls per second:
// a quarter of the 40 that an account has by default, because applications need them.
// Of the writes it takes none, but for names that its policy denies: an order does not say
// how a parameter is stored, so the planner does not ask.
const plannerReads = 10

// plannerWrites is what the planner takes of Parameter Store's three writes a second, to
// find out what its policy denies: less than the workers leave.
const plannerWrites = 0.05

// ParameterPlanner returns the handler for a schedule's event, which may be any
// JSON object: it finds the parameters that are due and queues an order for each.
// It keeps no state and may be called at any time and twice.
//
// It stops before its deadline, and starts each time at another parameter, so
// that all have their turn however many there are. One that is misconfigured is
// reported by name, with the reason, and stops nothing else.
//
// It reads the environment once: what docs/settings.md lists for functions. A
// mistake there fails every invocation, with an error that names the variable.
func ParameterPlanner(cfg aws.Config) lambda.Handler {
	h := &parameterPlanner{
		stage:   os.Getenv("REKEY_STAGE"),
		tagging: tagging.NewFromConfig(cfg, func(o *tagging.Options) { o.RetryMaxAttempts = 8 }),
		ssm:     parameterStore(cfg),
		secrets: secretsmanager.NewFromConfig(cfg),
		queue:   sqs.NewFromConfig(cfg),
		reads:   rate.NewLimiter(plannerReads, 1),
		writes:  rate.NewLimiter(plannerWrites, 1),
		log:     slog.New(lambdacontext.NewLogHandler()),
	}
	var err error
	h.url, err = queueURL(os.Getenv)
	h.err = environmentError(err)
	return h
}

type parameterPlanner struct {
	stage   string
	tagging *tagging.Client
	ssm     *ssm.Client
	secrets *secretsmanager.Client
	queue   *sqs.Client
	url     string
	reads   *rate.Limiter
	writes  *rate.Limiter
	log     *slog.Logger
	err     error // a mistake in the environment
}

// Invoke implements lambda.Handler.
func (h *parameterPlanner) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	var event struct {
		Time time.Time `json:"time"`
	}
	if err := json.Unmarshal(payload, &event); err != nil || payload[0] != '{' {
		// An event of somebody else's may have a time in another form.
		var object map[string]json.RawMessage
		if json.Unmarshal(payload, &object) != nil {
			return nil, &EventError{errors.New("not a JSON object: this function takes a schedule's event, {} among them")}
		}
	}
	now := time.Now()
	if event.Time.IsZero() {
		event.Time = now
	}
	t := &tick{parameterPlanner: h, time: event.Time, now: now, look: &inventory.Looker{Client: h.ssm, Reads: h.reads, Writes: h.writes}}
	err := t.plan(ctx)
	err = errors.Join(err, t.failures)
	t.report(ctx, err)
	if err != nil {
		return nil, err
	}
	return []byte("null"), nil
}

// tick is one run of the planner.
type tick struct {
	*parameterPlanner
	time time.Time // for which it was scheduled
	now  time.Time

	look   *inventory.Looker
	begun  map[string]bool // the records there are
	orders []queue.Message // not queued yet

	managed, looked, found, queued, misconfigured, paused, overdue, retired, unretired int

	failures error // which stopped nothing else: messages that SQS did not take, say

	oldest time.Duration // for how long the one that is overdue the longest is
}

func (t *tick) plan(ctx context.Context) error {
	all, err := inventory.Tagged(ctx, t.tagging, t.stage, func(int) {})
	if err != nil {
		return err
	}
	t.managed = len(all)
	retireErr := errors.Join(t.retire(ctx), t.remember(ctx))
	if t.begun, err = paramstore.Begun(ctx, t.ssm, t.reads); err != nil {
		return errors.Join(retireErr, err)
	}
	groups := map[string]bool{}
	for name := range t.begun {
		groups[path.Dir(name)] = true
	}
	var begun, rotatable []*inventory.Parameter
	for i := range all {
		p := &all[i]
		isBegun := groups[path.Dir(paramstore.Parameter{ARN: p.ARN}.Record())]
		switch {
		case p.Problem != nil:
			t.complain(ctx, p, p.Problem)
		case p.Schedule.Paused:
			t.paused++
		case !isBegun:
			rotatable = append(rotatable, p)
		}
		if isBegun {
			begun = append(begun, p)
		}
	}
	// What was begun comes first, also of what may not begin: clients may lack what the
	// target accepts.
	err = errors.Join(retireErr, t.choose(ctx, begun))
	if err == nil {
		err = t.choose(ctx, rotatable)
	}
	// What was found is queued, whatever ended the search.
	for len(t.orders) > 0 {
		if queueErr := t.enqueue(ctx); queueErr != nil {
			return errors.Join(err, queueErr)
		}
	}
	return err
}

// reserve is what is kept of the time to queue what was found.
const reserve = 20 * time.Second

// choose looks at the parameters and queues those that are due, as many at once as SQS
// takes.
func (t *tick) choose(ctx context.Context, parameters []*inventory.Parameter) error {
	deadline, limited := ctx.Deadline()
	for chunk := range slices.Chunk(turn(parameters, t.time), inventory.LookAtOnce) {
		if limited && time.Until(deadline) < reserve {
			return nil
		}
		mistaken := map[*inventory.Parameter]bool{}
		for _, p := range chunk {
			mistaken[p] = p.Problem != nil
		}
		if err := t.look.Look(ctx, chunk); err != nil {
			return err
		}
		for _, p := range chunk {
			t.consider(ctx, p, mistaken[p])
		}
		if len(t.orders) >= queue.AtOnce {
			if err := t.enqueue(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn returns the parameters in the order of this hour: the same, started at
// another place. Steps of the golden ratio come near every place soon.
func turn[T any](parameters []T, hour time.Time) []T {
	_, fraction := math.Modf(float64(hour.Unix()/3600) * (math.Phi - 1))
	start := int(fraction * float64(len(parameters)))
	return slices.Concat(parameters[start:], parameters[:start])
}

// consider decides about a parameter that was looked at.
// mistaken tells that its tags are wrong.
func (t *tick) consider(ctx context.Context, p *inventory.Parameter, mistaken bool) {
	t.looked++
	if p.Version != 0 && t.isBegun(p) {
		// Its tags may be wrong by now: no window is asked for what is only to be finished.
		t.order(p, t.now)
		return
	}
	if mistaken || p.Schedule.Paused {
		return // plan has counted it
	}
	if p.Problem != nil {
		t.complain(ctx, p, p.Problem)
		return
	}
	if p.Version == 0 {
		return // deleted; the index of tags is late
	}
	if p.Overdue(t.now) {
		t.overdue++
		t.oldest = max(t.oldest, t.now.Sub(p.Schedule.Deadline(p.Changed)))
		t.log.WarnContext(ctx, "overdue", "id", p.ARN, "since", p.Schedule.Deadline(p.Changed))
	}
	if until, due := t.isDue(p); due {
		t.order(p, until)
	}
}

// order orders a rotation that may begin until then; zero: at any time.
func (t *tick) order(p *inventory.Parameter, until time.Time) {
	t.found++
	t.orders = append(t.orders, queue.Message{
		Parameter: paramstore.Parameter{ARN: p.ARN, Name: p.Name, Base: p.Version}, Until: until,
	})
}

// isDue tells whether a rotation may begin now, and until when; zero: any time.
func (t *tick) isDue(p *inventory.Parameter) (until time.Time, due bool) {
	until, open := p.Schedule.Window.Open(t.now)
	return until, open && !t.now.Before(p.Due())
}

// isBegun tells whether there is a rotation that was not finished. It is, at any time:
// the target may have the new value already, which readers lack.
func (t *tick) isBegun(p *inventory.Parameter) bool {
	return t.begun[paramstore.Parameter{ARN: p.ARN, Base: p.Version}.Record()]
}

// enqueue sends orders, as many as SQS takes in one call.
func (t *tick) enqueue(ctx context.Context) error {
	batch := t.orders[:min(len(t.orders), queue.AtOnce)]
	sent, err := queue.Send(ctx, t.queue, t.url, batch)
	t.queued += sent
	if t.refused(err) {
		return err
	}
	t.orders = t.orders[len(batch):]
	return nil
}

// refused reports whether an error of queue.Send ends the tick. Messages that SQS did not
// take, of others that it took, are reported as the tick ends, and stop nothing else.
func (t *tick) refused(err error) bool {
	var some *queue.NotTaken
	if errors.As(err, &some) {
		t.failures = errors.Join(t.failures, err)
		return false
	}
	return err != nil
}

// late is when a retirement counts as overdue: two ticks have ordered it by then, and
// neither order was carried out.
const late = 2 * time.Hour

// retire orders the retirement of what outlived its grace, as many at once as one call
// looks at. It leaves half of the time to rotations: what is ordered is done before the
// next tick, which comes to the others.
func (t *tick) retire(ctx context.Context) error {
	all, err := inventory.Retirements(ctx, t.tagging, t.stage)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(r inventory.Retirement) bool { return r.At.After(t.now) })
	for _, r := range all {
		// Of one without a time nobody knows since when it is over: its grace was none, or a
		// person wrote it. If the worker cannot carry it out, its failures count.
		if !r.At.IsZero() && t.now.Sub(r.At) > late {
			t.unretired++
		}
	}
	deadline, limited := ctx.Deadline()
	for chunk := range slices.Chunk(all, inventory.LookAtOnce) {
		if limited && time.Until(deadline) < deadline.Sub(t.now)/2 {
			return nil
		}
		orders, err := t.retirements(ctx, chunk)
		if err != nil {
			return err
		}
		sent, err := queue.Send(ctx, t.queue, t.url, orders)
		t.retired += sent
		if t.refused(err) {
			return err
		}
	}
	return nil
}

// remembered is how many secrets a tick looks at for orders to retire that somebody took
// off, and describes a second how many: a few hundredths of what Secrets Manager allows.
const (
	remembered      = 1000
	describesSecond = 20
)

// remember orders retirements whose tag is gone: Terraform takes off tags that it does not
// know. It looks at secrets with two live credentials, at others in each tick if there are
// many.
func (t *tick) remember(ctx context.Context) error {
	ids, err := inventory.TwoCredentials(ctx, t.tagging, t.stage)
	if err != nil {
		return err
	}
	deadline, limited := ctx.Deadline()
	limit := rate.NewLimiter(describesSecond, 1)
	ids = turn(ids, t.time)
	for _, id := range ids[:min(len(ids), remembered)] {
		if limited && time.Until(deadline) < deadline.Sub(t.now)/2 {
			return nil
		}
		if err := limit.Wait(ctx); err != nil {
			return err
		}
		version, err := t.forgotten(ctx, id)
		if err != nil && !rotators.IsPermanent(err) {
			t.failures = errors.Join(t.failures, fmt.Errorf("%s: whether the order to retire is gone: %w", id, err))
			continue
		}
		if version == "" {
			continue // or it is not rekey's to rotate
		}
		t.unretired++
		t.log.WarnContext(ctx, "the tag rekey:retire was taken off before the version was retired", "id", id, "version", version)
		sent, err := queue.Send(ctx, t.queue, t.url, []queue.Message{{Retire: &queue.Retirement{ARN: id, Version: version}}})
		t.retired += sent
		if t.refused(err) {
			return err
		}
	}
	return nil
}

// forgotten is the version of a secret that should have been retired; "" if there is none.
// The worker looks for itself before it retires anything.
func (t *tick) forgotten(ctx context.Context, id string) (string, error) {
	store := secretstore.New(t.secrets, rotators.Secret{})
	a, err := store.Load(ctx, id, "")
	if err != nil || a.State != rotation.Current || a.Former == "" || a.Tags.Retire != "" || a.Former == a.Tags.Retired || a.Tags.Paused {
		return "", err
	}
	grace := inventory.Grace(a.Tags.Settings)
	if grace < 0 {
		return "", nil
	}
	at, err := store.PromotedAt(ctx, a)
	if err != nil || at.IsZero() || t.now.Sub(at.Add(grace)) < late {
		return "", err
	}
	return a.Former, nil
}

// retirements makes orders. A parameter's has its name, which its ARN does not quite
// tell.
func (t *tick) retirements(ctx context.Context, chunk []inventory.Retirement) ([]queue.Message, error) {
	parameters := make([]*inventory.Parameter, len(chunk)) // nil: it is a secret
	for i, r := range chunk {
		parameters[i] = r.Parameter()
	}
	if look := slices.DeleteFunc(slices.Clone(parameters), func(p *inventory.Parameter) bool { return p == nil }); len(look) > 0 {
		if err := t.look.Look(ctx, look); err != nil {
			return nil, err
		}
	}
	var orders []queue.Message
	for i, p := range parameters {
		order := &queue.Retirement{ARN: chunk[i].ARN, Version: chunk[i].Version}
		if p != nil {
			if p.Version == 0 {
				continue // deleted; the index of tags is late
			}
			order.Name = p.Name
		}
		orders = append(orders, queue.Message{Retire: order})
	}
	return orders, nil
}

func (t *tick) complain(ctx context.Context, p *inventory.Parameter, problem error) {
	t.misconfigured++
	t.log.WarnContext(ctx, "misconfigured", "id", p.ARN, "error", problem.Error())
}

// report writes the one line of a tick, which is also its metrics.
func (t *tick) report(ctx context.Context, err error) {
	stage := t.stage
	if stage == "" {
		stage = "default"
	}
	level, failed := slog.LevelInfo, 0
	if err != nil {
		level, failed = slog.LevelError, 1
	}
	attrs := []slog.Attr{
		slog.String("stage", stage),
		slog.Int("managed", t.managed),
		slog.Int("looked", t.looked),
		slog.Int("due", t.found),
		slog.Int("queued", t.queued),
		slog.Int("misconfigured", t.misconfigured),
		slog.Int("paused", t.paused),
		slog.Int("overdue", t.overdue),
		slog.Int("oldestOverdue", int(t.oldest.Seconds())),
		slog.Int("retirements", t.retired),
		slog.Int("retirementsOverdue", t.unretired),
		slog.Int64("milliseconds", time.Since(t.now).Milliseconds()),
		slog.Int("failed", failed),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	of := []metrics.Metric{{Name: "oldestOverdue", Unit: "Seconds"}, {Name: "milliseconds", Unit: "Milliseconds"}}
	for _, name := range []string{"managed", "due", "queued", "misconfigured", "overdue", "retirements", "retirementsOverdue", "failed"} {
		of = append(of, metrics.Metric{Name: name, Unit: "Count"})
	}
	attrs = append(attrs, metrics.Attrs(t.now, [][]string{{}}, of...)...)
	t.log.LogAttrs(ctx, level, "plan", attrs...)
}
