package functions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/due"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/rotators"
)

// How long things take here, in simulated time. The first two are on the side of
// AWS within a region, and of a database that hashes passwords.
const (
	callTakes  = 20 * time.Millisecond
	loginTakes = 50 * time.Millisecond

	// What Lambda allows: the worker as in template.yaml, the planner the most.
	workerTimeout  = time.Minute
	plannerTimeout = 15 * time.Minute
)

// load is AWS with the real functions at both ends of its queue, in a bubble of
// simulated time.
type load struct {
	*testing.T
	*localaws.Server
	vault *vault
	names []string // of the parameters that were added
	logs  *os.File // what the functions log

	// refuses says with which error AWS refuses a call, "" if it does not; nil: it
	// refuses none.
	refuses func(operation, body string) string

	mu   sync.Mutex
	sent []sent
	gaps []time.Duration // from the change of each password until readers could get it
}

// sent is a call that a function made.
type sent struct {
	operation string
	at        time.Time // when AWS had it
	throttled bool
}

// newLoad makes workers of so many writes a second each, all of them invoked at
// once, and a planner that nobody calls.
func newLoad(t *testing.T, quotas localaws.Quotas, workers int, deadline time.Duration) *load {
	t.Helper()
	l := &load{T: t, Server: localaws.New(localaws.Config{Now: time.Now, Quotas: quotas, Authorize: policed(t, ours)}), vault: &vault{passwords: map[string]string{}, changed: map[string]time.Time{}}}
	t.Cleanup(l.Close)
	dead, err := l.AddQueue("dead.fifo", map[string]string{"FifoQueue": "true"})
	l.must(err)
	_, err = l.AddQueue(liveQueue, map[string]string{
		"FifoQueue": "true", "VisibilityTimeout": strconv.Itoa(int((workerTimeout + 30*time.Second).Seconds())),
		"RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":5}`, dead),
	})
	l.must(err)

	// A handler keeps the standard output that was there when it was made.
	l.logs, err = os.CreateTemp(t.TempDir(), "log")
	l.must(err)
	stdout := os.Stdout
	os.Stdout = l.logs
	defer func() { os.Stdout = stdout }()
	l.Handle("planner", newFunction(deadline, functions.ParameterPlanner(l.as("parameter-planner"))))
	var all []lambda.Handler
	for range workers {
		all = append(all, functions.ParameterRotator(l.as("parameter-rotator"), rotators.Registry{"vault": l.vault}))
	}
	if workers > 0 {
		l.Handle("worker", newFunction(workerTimeout, all...))
		l.must(l.Subscribe(liveQueue, "worker", workers))
	}
	return l
}

// simulated runs f in a bubble, as functions of this environment.
func simulated(t *testing.T, writesPerSecond string, f func(t *testing.T)) {
	t.Setenv("REKEY_QUEUE_URL", "http://aws.test/000000000000/"+liveQueue)
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", writesPerSecond)
	started := time.Now()
	synctest.Test(t, f)
	t.Logf("%.1f s of real time", time.Since(started).Seconds())
}

func (l *load) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// config is a person's, who may do everything.
func (l *load) config() aws.Config { return l.as("local") }

// as is how a function calls AWS.
func (l *load) as(function string) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String("http://aws.test"), HTTPClient: l,
		Credentials: credentials.NewStaticCredentialsProvider(function, "secret", ""),
	}
}

// Do is the functions' way to AWS, without a network, which a bubble could not
// wait for.
func (l *load) Do(r *http.Request) (*http.Response, error) {
	if err := wait(r.Context(), callTakes/2); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	call := sent{operation: operation, at: time.Now()}
	w, refusal := httptest.NewRecorder(), ""
	if l.refuses != nil {
		refusal = l.refuses(operation, string(body))
	}
	if refusal != "" {
		w.Header().Set("X-Amzn-Errortype", refusal)
		w.WriteHeader(http.StatusBadRequest)
	} else {
		r.Body, r.Host = io.NopCloser(bytes.NewReader(body)), r.URL.Host
		l.ServeHTTP(w, r)
	}
	call.throttled = w.Header().Get("X-Amzn-Errortype") == "ThrottlingException"
	var put struct{ Name string }
	_ = json.Unmarshal(body, &put)
	user, promoted := strings.CutPrefix(put.Name, "/shop/")
	l.mu.Lock()
	if l.sent = append(l.sent, call); promoted && operation == "PutParameter" && w.Code == http.StatusOK {
		l.gaps = append(l.gaps, l.vault.since(user))
	}
	l.mu.Unlock()
	return w.Result(), wait(r.Context(), callTakes/2)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d): // of the bubble
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lambdaFunction is a Lambda function: so many processes, each of which takes one
// invocation at a time, of limited length.
type lambdaFunction struct {
	processes chan lambda.Handler
	timeout   time.Duration
}

func newFunction(timeout time.Duration, handlers ...lambda.Handler) lambdaFunction {
	f := lambdaFunction{make(chan lambda.Handler, len(handlers)), timeout}
	for _, h := range handlers {
		f.processes <- h
	}
	return f
}

func (f lambdaFunction) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	h := <-f.processes
	defer func() { f.processes <- h }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return h.Invoke(ctx, payload)
}

// vault accepts one password of each user, and is what is rotated here.
type vault struct {
	mu        sync.Mutex
	passwords map[string]string    // by user
	changed   map[string]time.Time // when that was
}

func (v *vault) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	password, err := r.Settings.Password.Generate(32, "abcdefghijklmnopqrstuvwxyz0123456789")
	if err != nil {
		return rotators.Secret{}, err
	}
	return r.Current.Replace("password", password)
}

// Set logs in twice, as rekey's own rotators do: before the change and after it.
func (v *vault) Set(ctx context.Context, r rotators.Rotation) error {
	if err := v.login(ctx, r.Current); err != nil {
		return v.login(ctx, r.Pending)
	}
	user, password, err := userAndPassword(r.Pending)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.passwords[user], v.changed[user] = password, time.Now()
	v.mu.Unlock()
	return v.login(ctx, r.Pending)
}

func (v *vault) Test(ctx context.Context, r rotators.Rotation) error { return v.login(ctx, r.Pending) }

func (v *vault) login(ctx context.Context, value rotators.Secret) error {
	if err := wait(ctx, loginTakes); err != nil {
		return err
	}
	if !v.accepts(value) {
		return rotators.Refused(errors.New("wrong password"))
	}
	return nil
}

func (v *vault) accepts(value rotators.Secret) bool {
	user, password, err := userAndPassword(value)
	v.mu.Lock()
	defer v.mu.Unlock()
	return err == nil && v.passwords[user] == password
}

// since is how long ago the password of a user was changed.
func (v *vault) since(user string) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.changed[user])
}

func userAndPassword(value rotators.Secret) (user, password string, err error) {
	u, userErr := value.Field("username")
	p, passwordErr := value.Field("password")
	return u.Reveal(), p.Reveal(), errors.Join(userErr, passwordErr)
}

// add makes a parameter that was changed then and is to be rotated every 30 days.
func (l *load) add(changed time.Time, change ...func(*localaws.Parameter)) {
	user := fmt.Sprintf("app_%06d", len(l.names))
	l.vault.passwords[user] = "the first password"
	p := localaws.Parameter{
		Name: "/shop/" + user, Type: "SecureString", Value: fmt.Sprintf(`{"username":%q,"password":"the first password"}`, user),
		Tags: map[string]string{"rekey:rotator": "vault", "rekey:every": "30d"}, Changed: changed,
	}
	for _, f := range change {
		f(&p)
	}
	l.names = append(l.names, p.Name)
	l.AddParameter(p)
}

// fill adds so many parameters, of which so many are due, here and there.
func (l *load) fill(parameters, due int) {
	now, random := time.Now(), rand.New(rand.NewPCG(4, 4))
	for _, i := range random.Perm(parameters) {
		if i < due {
			l.add(now.AddDate(0, 0, -40))
		} else {
			l.add(now)
		}
	}
}

// drain waits until nothing is left of the queue, and checks that nothing was
// put aside.
func (l *load) drain() {
	l.Helper()
	l.must(l.Idle(l.Context(), liveQueue))
	ctx, cancel := context.WithCancel(l.Context())
	cancel()
	if err := l.Idle(ctx, "dead.fifo"); err != nil {
		l.Error("the dead-letter queue is not empty")
	}
}

// counts are the calls by operation, and how many of them were throttled.
func (l *load) counts() (operations map[string]int, throttled int) {
	operations = map[string]int{}
	for _, c := range l.sent {
		operations[c.operation]++
		if c.throttled {
			throttled++
		}
	}
	return operations, throttled
}

// last is a number in the planner's last line.
func (l *load) last(name string) int {
	l.Helper()
	text, err := os.ReadFile(l.logs.Name())
	l.must(err)
	found := regexp.MustCompile(`message=plan .*\b`+name+`=(\d+)`).FindAllSubmatch(text, -1)
	if len(found) == 0 {
		l.Fatalf("no line of the planner's tells %s:\n%s", name, text[:min(len(text), 1000)])
	}
	n, err := strconv.Atoi(string(found[len(found)-1][1]))
	l.must(err)
	return n
}

// rotated checks that each parameter has one version more, and its target accepts
// that.
func (l *load) rotated() {
	l.Helper()
	client := ssm.NewFromConfig(l.config())
	for names := range slices.Chunk(l.names, 10) {
		l.must(wait(l.Context(), time.Second)) // the check keeps to the quota too
		out, err := client.GetParameters(l.Context(), &ssm.GetParametersInput{Names: names, WithDecryption: aws.Bool(true)})
		l.must(err)
		if len(out.Parameters) != len(names) {
			l.Errorf("%d of %d are there", len(out.Parameters), len(names))
		}
		for _, p := range out.Parameters {
			if p.Version != 2 || !l.vault.accepts(rotators.NewSecret(*p.Value)) {
				l.Errorf("%s has version %d, accepted: %v", *p.Name, p.Version, l.vault.accepts(rotators.NewSecret(*p.Value)))
			}
		}
	}
}

// records are the names of what holds the pending values of rotations.
func (l *load) records() (names []string) {
	l.Helper()
	pages := ssm.NewGetParametersByPathPaginator(ssm.NewFromConfig(l.config()), &ssm.GetParametersByPathInput{Path: aws.String("/rekey/"), Recursive: aws.Bool(true)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(l.Context())
		l.must(err)
		for _, p := range page.Parameters {
			names = append(names, *p.Name)
		}
	}
	return names
}

// isWrite tells whether a call is of the pool of which an account has three or ten
// a second.
func isWrite(c sent) bool {
	return !c.throttled && slices.Contains([]string{"PutParameter", "DescribeParameters", "GetParameterHistory", "LabelParameterVersion", "UnlabelParameterVersion"}, c.operation)
}

// 1,000 parameters come due at once. From the first write to the last, what the
// account is allowed is what is used.
func TestTheWriteQuotaIsUsed(t *testing.T) {
	for _, c := range []struct {
		name    string
		quotas  localaws.Quotas
		workers int
		share   string
	}{
		{"two workers under the default quota", localaws.DefaultQuotas(), 2, "1.5"},
		{"five workers under the higher quota", localaws.HigherQuotas(), 5, "2"},
	} {
		simulated(t, c.share, func(t *testing.T) {
			l := newLoad(t, c.quotas, c.workers, plannerTimeout)
			l.fill(1000, 1000)
			l.must(l.Tick(l.Context(), "planner"))
			l.drain()
			operations, throttled := l.counts()
			if n := l.last("queued"); n != len(l.names) {
				t.Errorf("%s: %d were queued", c.name, n)
			}

			l.mu.Lock()
			var writes []sent
			puts := 0
			for _, call := range l.sent {
				if isWrite(call) {
					writes = append(writes, call)
				}
				if isWrite(call) && call.operation == "PutParameter" {
					puts++
				}
			}
			l.mu.Unlock()
			took := writes[len(writes)-1].at.Sub(writes[0].at)
			share := float64(len(writes)) / took.Seconds() / c.quotas.ParameterWrites
			slices.Sort(l.gaps)
			gap := l.gaps[len(l.gaps)/2]
			fmt.Printf("%s: 1,000 due at once are rotated in %.0f s, %.2f a second; %d calls of the pool are %.1f %% of it; %d calls were throttled; from a change to its promotion %v, at most %v; %v\n",
				c.name, took.Seconds(), float64(len(l.names))/took.Seconds(), len(writes), 100*share, throttled, gap, l.gaps[len(l.gaps)-1].Round(time.Millisecond), operations)
			if share < 0.95 {
				t.Errorf("%s: %.1f %% of the quota is used, want 95 %%", c.name, 100*share)
			}
			// The logins of Set and Test, three looks and the put: there is no wait for the
			// quota in it, and with one password no reader can log in meanwhile.
			if most := 2*loginTakes + 4*callTakes; gap > most {
				t.Errorf("%s: %v from a change to its promotion, want %v", c.name, gap, most)
			}
			if puts != 2*len(l.names) {
				t.Errorf("%s: %d puts", c.name, puts)
			}
			l.rotated()
			if left := l.records(); len(left) > 0 {
				t.Errorf("%s: the records %v are left over", c.name, left)
			}
		})
	}
}

// Others use up the quota for a while, just when passwords have been changed and
// are to be promoted. The worker does not give up: the message would come back
// half a minute later.
func TestAPromotionThatIsThrottled(t *testing.T) {
	simulated(t, "1.5", func(t *testing.T) {
		l := newLoad(t, localaws.DefaultQuotas(), 2, plannerTimeout)
		l.fill(4, 4)
		const busy = 15 * time.Second
		until := time.Now().Add(busy)
		l.refuses = func(operation, body string) string {
			if operation == "PutParameter" && strings.Contains(body, `"Name":"/shop/`) && time.Now().Before(until) {
				return "ThrottlingException"
			}
			return ""
		}
		l.must(l.Tick(l.Context(), "planner"))
		l.drain()
		operations, throttled := l.counts()
		fmt.Printf("a promotion that is throttled for %s: it comes %s after the change, having been refused %d times\n",
			busy, slices.Max(l.gaps).Round(time.Millisecond), throttled)
		if slices.Max(l.gaps) > busy+2*time.Second || operations["ChangeMessageVisibility"] > 0 {
			t.Errorf("readers wait for %s; %v", slices.Max(l.gaps), operations)
		}
		l.rotated()
	})
}

// What the planner asks of Parameter Store and of the tagging API, of whose lists
// localaws leaves pages empty or half full, as AWS may. A 720th is an hour's share
// of 30 days. 100,000 take more than Lambda's fifteen minutes: here there is an hour.
func TestCallsOfThePlanner(t *testing.T) {
	for _, c := range []struct{ parameters, due int }{
		{1_000, 1}, {10_000, 0}, {10_000, 14}, {10_000, 1_000}, {100_000, 139},
	} {
		simulated(t, "1.5", func(t *testing.T) {
			l := newLoad(t, localaws.DefaultQuotas(), 0, time.Hour)
			l.fill(c.parameters, c.due)
			started := time.Now()
			l.must(l.Tick(l.Context(), "planner"))
			operations, throttled := l.counts()
			asked := len(l.sent) - operations["SendMessageBatch"]
			budget := c.parameters/100 + c.parameters/10 + 20
			most := l.mostInASecond("GetParameters")
			fmt.Printf("planner at %d, %d due: %d calls (budget %d) and %d to SQS in %.0f s; at most %d reads in a second; %d throttled; %v\n",
				c.parameters, c.due, asked, budget, operations["SendMessageBatch"], time.Since(started).Seconds(), most, throttled, operations)
			if asked > budget {
				t.Errorf("%+v: %d calls, budget %d", c, asked, budget)
			}
			if most > 10 {
				t.Errorf("%+v: %d reads in a second", c, most)
			}
			if queued, looked := l.last("queued"), l.last("looked"); queued != c.due || looked != c.parameters {
				t.Errorf("%+v: %d are queued, and %d looked at", c, queued, looked)
			}
		})
	}
}

// A fleet whose graces end together, as after a window in which all were rotated: the
// planner orders every retirement, and does not let them take all of its time.
func TestCallsOfThePlannerForRetirements(t *testing.T) {
	const parameters = 2_000
	simulated(t, "1.5", func(t *testing.T) {
		l := newLoad(t, localaws.DefaultQuotas(), 0, 3*time.Minute)
		l.fill(parameters, 10)
		for _, name := range l.names {
			l.must(l.EditParameter(name, func(p *localaws.Parameter) {
				p.Tags["rekey:retire"] = "1 " + time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
			}))
		}
		// These two are not its to touch.
		for key, value := range map[string]string{"rekey:paused": "yes", "rekey:stage": "other"} {
			l.add(time.Now(), func(p *localaws.Parameter) { p.Tags["rekey:retire"], p.Tags[key] = "1", value })
		}
		l.must(l.Tick(l.Context(), "planner"))
		operations, _ := l.counts()
		asked := len(l.sent) - operations["SendMessageBatch"]
		// The tags and the parameters are looked at once more.
		if budget := 2*parameters/100 + 2*parameters/10 + 20; asked > budget {
			t.Errorf("%d calls, budget %d; %v", asked, budget, operations)
		}
		if most := l.mostInASecond("GetParameters"); most > 10 {
			t.Errorf("%d reads in a second", most)
		}
		if retirements, queued := l.last("retirements"), l.last("queued"); retirements != parameters || queued != 10 {
			t.Errorf("%d retirements and %d rotations are queued", retirements, queued)
		}
	})
}

// mostInASecond is how many calls of an operation there were in any second.
func (l *load) mostInASecond(operation string) (most int) {
	var times []time.Time
	for _, c := range l.sent {
		if c.operation == operation {
			times = append(times, c.at)
		}
	}
	for i, end := range times {
		first, _ := slices.BinarySearchFunc(times, end.Add(-time.Second+1), time.Time.Compare)
		most = max(most, i-first+1)
	}
	return most
}

// More parameters than one run of the planner has time for: 20,000 in three
// minutes, which is to it what 100,000 are in Lambda's fifteen. They come due as
// in a fleet that has been rotated for long: an hour's share every hour.
func TestAPlannerThatRunsOutOfTime(t *testing.T) {
	const (
		parameters = 20_000
		deadline   = plannerTimeout / 5
	)
	simulated(t, "1.5", func(t *testing.T) {
		l := newLoad(t, localaws.DefaultQuotas(), 0, deadline)
		schedule, _, err := due.Read(map[string]string{"rekey:rotator": "vault", "rekey:every": "30d"})
		l.must(err)
		arn := func(name string) string { return "arn:aws:ssm:us-east-1:000000000000:parameter" + name }
		start := time.Now()
		dueAt := map[string]time.Time{}
		for range parameters {
			name := fmt.Sprintf("/shop/app_%06d", len(l.names))
			// It is due every 30 days less two hours, and was rotated when it was last.
			changed := schedule.Due(arn(name), start.Add(2*time.Hour-30*24*time.Hour)).Add(time.Second)
			l.add(changed)
			dueAt[name] = schedule.Due(arn(name), changed)
		}
		// What a worker would do, at once and for nothing.
		var waited []time.Duration
		l.Handle("worker", consumer(func(m queue.Message) error {
			name := m.Parameter.Name
			waited = append(waited, time.Since(dueAt[name]))
			delete(dueAt, name)
			return l.EditParameter(name, func(p *localaws.Parameter) { p.Changed = time.Now() })
		}))
		l.must(l.Subscribe(liveQueue, "worker", 1))

		ended := start
		for hour := range 24 {
			l.must(wait(l.Context(), time.Until(start.Add(time.Duration(hour)*time.Hour))))
			ended = time.Now()
			l.must(l.Tick(l.Context(), "planner"))
			if took := time.Since(ended); took > deadline-10*time.Second {
				t.Errorf("tick %d took %s of %s", hour, took, deadline)
			}
			if looked, queued, found := l.last("looked"), l.last("queued"), l.last("due"); looked > parameters*9/10 || looked < parameters/2 || queued != found {
				t.Errorf("tick %d looked at %d, found %d due and queued %d", hour, looked, found, queued)
			}
			l.drain()
		}
		slices.Sort(waited)
		longest := waited[len(waited)-1]
		late, _ := slices.BinarySearch(waited, 2*time.Hour) // which is how early they come due
		left := 0
		for name, at := range dueAt {
			if at.Before(ended) {
				left++
				if wait := ended.Sub(at); wait > longest {
					t.Errorf("%s is due for %s", name, wait)
				}
			}
		}
		fmt.Printf("planner at %d with %s: looks at %d in a run; in a day of 24 runs %d came due and were queued, half of them within %s, the last after %s, %d of them after their period ended; %d wait for the next run\n",
			parameters, deadline, l.last("looked"), len(waited), waited[len(waited)/2].Round(time.Minute), longest.Round(time.Minute), len(waited)-late, left)
		if longest > 2*time.Hour+deadline {
			t.Errorf("one was queued after %s", longest)
		}
	})
}

// consumer makes a Lambda function of one that takes the only order.
type consumer func(queue.Message) error

func (f consumer) Invoke(_ context.Context, payload []byte) ([]byte, error) {
	var event events.SQSEvent
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, err
	}
	m, err := queue.Decode(event.Records[0].Body)
	if err != nil {
		return nil, err
	}
	return nil, f(m)
}

// Among 300 parameters, all of them due, there is one of each kind that cannot be
// rotated. It is reported by name and changed in nothing, and the others are rotated.
func TestABadParameterStopsNothing(t *testing.T) {
	const expiration = `[{"Type":"Expiration","Version":"1.0","Attributes":{"Timestamp":"2030-01-01T00:00:00.000Z"}}]`
	simulated(t, "1.5", func(t *testing.T) {
		l := newLoad(t, localaws.DefaultQuotas(), 2, plannerTimeout)
		changed := time.Now().AddDate(0, 0, -40)
		// How many times it is ordered in vain: each of five receives.
		inVain := map[string]int{}
		good := []string{}
		for i := range 300 {
			change, orders := func(*localaws.Parameter) {}, -1
			switch i {
			case 10: // a tag that is wrong
				change, orders = func(p *localaws.Parameter) { p.Tags["rekey:every"] = "often" }, 0
			case 50: // a value in sight of everybody
				change, orders = func(p *localaws.Parameter) { p.Type = "String" }, 0
			case 100: // one that AWS is to delete, which only its description tells
				change, orders = func(p *localaws.Parameter) { p.Tier, p.Policies = "Advanced", expiration }, 5
			case 150: // one that may not be read
				change, orders = func(p *localaws.Parameter) {
					l.refuses = func(operation, body string) string {
						if operation == "GetParameters" && strings.Contains(body, strconv.Quote(p.Name)) {
							return "AccessDeniedException" // of the whole call
						}
						return ""
					}
				}, 0
			case 200: // a rotator that the worker does not have
				change, orders = func(p *localaws.Parameter) { p.Tags["rekey:rotator"] = "oracle" }, 5
			case 250: // a password that its target refuses
				change, orders = func(p *localaws.Parameter) { p.Value = strings.Replace(p.Value, "first", "wrong", 1) }, 5
			}
			l.add(changed, change)
			if name := l.names[i]; orders < 0 {
				good = append(good, name)
			} else {
				inVain[name] = orders
			}
		}
		l.must(l.Tick(l.Context(), "planner"))
		if n := l.last("misconfigured"); n != 3 {
			t.Errorf("%d are misconfigured, want 3", n)
		}
		l.must(l.Idle(l.Context(), liveQueue))
		logs, err := os.ReadFile(l.logs.Name())
		l.must(err)
		for name, orders := range inVain {
			line := "level=WARN message=misconfigured"
			if orders > 0 {
				line = "level=ERROR message=.*"
			}
			lines := regexp.MustCompile(line+` id=[^ ]*`+name+` .*`).FindAllString(string(logs), -1)
			if len(lines) != max(orders, 1) {
				t.Errorf("%d lines about %s, want %d: %q", len(lines), name, orders, lines)
			}
		}
		l.names, l.refuses = good, nil
		l.rotated()
		// That of the one whose target refuses what readers get. It is kept.
		if left := l.records(); len(left) != 1 {
			t.Errorf("the records %v are left", left)
		}
	})
}
