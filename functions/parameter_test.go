package functions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// parameter is one parameter, of one user of the database, in an AWS of its own.
type parameter struct {
	*setup
	ssm *ssm.Client // a person's, who may do everything, and not through any Wire
	queue.Message
	ahead atomic.Int64 // nanoseconds by which AWS's clock is ahead
}

const parameterName = "/shop/db/password"

// fault is what goes wrong with AWS's calls; nil: nothing.
type fault = func(localaws.Call) localaws.Fault

// newParameter makes a user, and a parameter whose value is what form makes of
// the login.
func newParameter(t *testing.T, form func(user, password string) string, f fault) *parameter {
	t.Helper()
	t.Setenv("REKEY_QUEUE_URL", "https://queue")
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", "1000") // nothing here is about the quota
	p := &parameter{setup: &setup{t: t, user: fmt.Sprintf("app_%d", users.Add(1))}}
	now := func() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) }
	p.cloud = localaws.New(localaws.Config{Fault: f, Now: now, Authorize: policed(t, ours)})
	t.Cleanup(p.cloud.Close)
	server := httptest.NewServer(p.cloud)
	t.Cleanup(server.Close)
	p.endpoint = server.URL
	if err := database.Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'the first password'", p.user)); err != nil {
		t.Fatal(err)
	}
	p.ssm = ssm.NewFromConfig(p.config(http.DefaultTransport))
	p.first = form(p.user, "the first password")
	tags := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
	if p.first == "the first password" {
		tags["rekey:connection"] = p.connection()
	}
	p.cloud.AddParameter(localaws.Parameter{Name: parameterName, Type: "SecureString", Value: p.first, Tags: tags, Changed: time.Now().AddDate(0, 0, -40)})
	p.order()
	return p
}

func (p *parameter) connection() string {
	return fmt.Sprintf("postgres://%s@%s:%d/postgres?sslmode=disable", p.user, database.Host, database.Port)
}

func plain(_, password string) string { return password }

// order makes the message for the parameter as it is now.
func (p *parameter) order() {
	p.t.Helper()
	found, err := paramstore.Describe(p.t.Context(), p.ssm, []string{parameterName})
	if err != nil || len(found) != 1 || found[0].Refused != nil {
		p.t.Fatalf("described as %+v (%v)", found, err)
	}
	p.Parameter = found[0].Parameter
}

// worker is the function that ships, but for its way out.
func (p *parameter) worker(w *rotatortest.Wire) func(context.Context) error {
	cfg := p.as("parameter-rotator", w)
	h := functions.ParameterRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, &postgres.Options{Dial: w.DialContext})})
	return func(ctx context.Context) error {
		_, err := h.Invoke(ctx, p.event())
		return err
	}
}

// deliver hands the message to a new process.
func (p *parameter) deliver() error {
	return p.worker(&rotatortest.Wire{})(p.t.Context())
}

// now is what a reader gets.
func (p *parameter) now(ctx context.Context) (version int64, value string, err error) {
	out, err := p.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(parameterName), WithDecryption: aws.Bool(true)})
	if err != nil {
		return 0, "", err
	}
	return out.Parameter.Version, *out.Parameter.Value, nil
}

// records are the values of the attempts that were not finished.
func (p *parameter) records(ctx context.Context) (values []string, err error) {
	pages := ssm.NewGetParametersByPathPaginator(p.ssm, &ssm.GetParametersByPathInput{
		Path: aws.String("/rekey/pending/"), Recursive: aws.Bool(true), WithDecryption: aws.Bool(true),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Parameters {
			values = append(values, *r.Value)
		}
	}
	return values, nil
}

// byHand stores a value as a person would.
func (p *parameter) byHand(ctx context.Context, value string) error {
	_, err := p.ssm.PutParameter(ctx, &ssm.PutParameterInput{
		Name: aws.String(parameterName), Value: &value, Type: types.ParameterTypeSecureString, Overwrite: aws.Bool(true),
	})
	return err
}

// accepts tells whether the database takes the password in a stored value.
func (p *parameter) accepts(ctx context.Context, value string) error {
	password, err := rotators.NewSecret(value).Field("password")
	if err != nil {
		return database.Login(ctx, p.user, value) // plain text
	}
	return database.Login(ctx, p.user, password.Reveal())
}

// rotated checks the end: readers get this version, the database takes it and the
// first password no more, and nothing is left over.
func (p *parameter) rotated(ctx context.Context, version int64) error {
	got, value, err := p.now(ctx)
	if err != nil {
		return err
	}
	if got != version {
		return fmt.Errorf("version %d, not %d", got, version)
	}
	if err := p.accepts(ctx, value); err != nil {
		return fmt.Errorf("the new password: %w", err)
	}
	if err := p.accepts(ctx, p.first); !servers.Refused(err) {
		return fmt.Errorf("the first password: %v", err)
	}
	left, err := p.records(ctx)
	if err != nil || len(left) > 0 {
		return fmt.Errorf("%d records are left over (%v)", len(left), err)
	}
	return nil
}

// untouched checks that nothing happened.
func (p *parameter) untouched(ctx context.Context) error {
	version, value, err := p.now(ctx)
	if err != nil || version != 1 || value != p.first {
		return fmt.Errorf("version %d (%v)", version, err)
	}
	if left, err := p.records(ctx); err != nil || len(left) > 0 {
		return fmt.Errorf("%d records are left over (%v)", len(left), err)
	}
	return p.accepts(ctx, p.first)
}

// Every point before and after every AWS call and every message to PostgreSQL;
// then the same message is delivered again.
func TestCrashSweepOfAParameter(t *testing.T) {
	for name, form := range map[string]func(user, password string) string{"JSON": asJSON, "plain": plain} {
		points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
			p := newParameter(t, form, nil)
			return rotatortest.Scenario{
				Run: func(ctx context.Context) error { return p.worker(w)(ctx) },
				Crashed: func(ctx context.Context) error {
					version, value, err := p.now(ctx)
					if err != nil {
						return err
					}
					if version == 1 && value != p.first || version > 1 && p.accepts(ctx, value) != nil {
						return fmt.Errorf("readers get version %d, which was not promoted", version)
					}
					stored, err := p.records(ctx)
					if err != nil {
						return err
					}
					for _, value := range append(stored, value) {
						if p.accepts(ctx, value) == nil {
							return nil
						}
					}
					return fmt.Errorf("none of the %d stored values logs in", len(stored)+1)
				},
				Recovered: func(ctx context.Context) error { return p.rotated(ctx, 2) },
			}
		})
		fmt.Printf("crash sweep of a %s parameter: %d points; all converge on the same message, with one version more and no record left\n", name, points)
		if points < 40 {
			t.Errorf("only %d points", points)
		}
	}
}

// What a rotation costs: of the pool of three a second, one description and two writes.
func TestCallsOfAParametersRotation(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	before := len(p.cloud.Calls())
	if err := p.deliver(); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range p.cloud.Calls()[before:] {
		count[c.Operation]++
	}
	fmt.Println("AWS calls of a parameter's rotation:", len(p.cloud.Calls())-before, count)
	if count["DescribeParameters"] != 1 || count["PutParameter"] != 2 || count["DeleteParameters"] != 1 || count["GetParameterHistory"]+count["LabelParameterVersion"] != 0 {
		t.Error("more of the writes than a description and two puts, or more than one delete")
	}
	if n := len(p.cloud.Calls()) - before; n > 14 {
		t.Errorf("%d calls, want 14 at most", n)
	}
	if err := p.rotated(t.Context(), 2); err != nil {
		t.Error(err)
	}
	_, value, _ := p.now(t.Context())
	if strings.ReplaceAll(value, p.password(value), "the first password") != p.first {
		t.Error("more than the password changed")
	}
}

// Each with the outcome it is to have.
func TestDeliveries(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(p *parameter) error
		want func(p *parameter) error
	}{
		"the same message twice": {
			// The second finds its work done.
			func(p *parameter) error {
				if err := p.deliver(); err != nil {
					return err
				}
				return p.deliver()
			},
			func(p *parameter) error { return p.rotated(t.Context(), 2) },
		},
		"a message that arrives after its window": {
			func(p *parameter) error { p.Until = time.Now().Add(-time.Minute); return p.deliver() },
			func(p *parameter) error { return p.untouched(t.Context()) },
		},
		"a message that arrives inside its window": {
			func(p *parameter) error { p.Until = time.Now().Add(time.Minute); return p.deliver() },
			func(p *parameter) error { return p.rotated(t.Context(), 2) },
		},
		"a parameter that was paused since": {
			func(p *parameter) error { p.tag("rekey:paused", "yes"); return p.deliver() },
			func(p *parameter) error { return p.untouched(t.Context()) },
		},
		"one that a person wants rotated though it is paused": {
			func(p *parameter) error { p.tag("rekey:paused", "yes"); p.Nonce = "n"; return p.deliver() },
			func(p *parameter) error { return p.rotated(t.Context(), 2) },
		},
		"one of another stage since": {
			func(p *parameter) error { p.tag("rekey:stage", "blue"); return p.deliver() },
			func(p *parameter) error { return p.untouched(t.Context()) },
		},
		"one whose opt-in was taken back": {
			func(p *parameter) error { p.untag("rekey:rotator"); return p.deliver() },
			func(p *parameter) error { return p.untouched(t.Context()) },
		},
		"one that was deleted": {
			func(p *parameter) error { p.delete(parameterName); return p.deliver() },
			func(p *parameter) error { return p.accepts(t.Context(), p.first) },
		},
		"a person's order and a scheduled one of the same version": {
			// The person's asks for a version that was rotated meanwhile.
			func(p *parameter) error {
				if err := p.deliver(); err != nil {
					return err
				}
				p.Nonce = "n"
				return p.deliver()
			},
			func(p *parameter) error { return p.rotated(t.Context(), 2) },
		},
		"a person's order after that": {
			func(p *parameter) error {
				if err := p.deliver(); err != nil {
					return err
				}
				p.order()
				p.Nonce = "n"
				return p.deliver()
			},
			func(p *parameter) error { return p.rotated(t.Context(), 3) },
		},
		"a change by hand before it was begun": {
			func(p *parameter) error {
				if err := p.byHand(t.Context(), p.first); err != nil {
					return err
				}
				return p.deliver()
			},
			func(p *parameter) error {
				if version, value, err := p.now(t.Context()); err != nil || version != 2 || value != p.first {
					return fmt.Errorf("version %d (%v)", version, err)
				}
				return p.accepts(t.Context(), p.first)
			},
		},
		"one made of siblings": {
			func(p *parameter) error {
				for field, value := range map[string]string{"host": database.Host, "port": fmt.Sprint(database.Port), "username": p.user, "ssl": "false"} {
					p.cloud.AddParameter(localaws.Parameter{Name: "/shop/db/" + field, Type: "String", Value: value})
				}
				p.tag("rekey:connection", "siblings")
				if err := p.byHand(t.Context(), "the first password"); err != nil {
					return err
				}
				p.first = "the first password"
				p.order()
				return p.deliver()
			},
			func(p *parameter) error { return p.rotated(t.Context(), 3) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParameter(t, asJSON, nil)
			if err := c.run(p); err != nil {
				t.Fatal(err)
			}
			if err := c.want(p); err != nil {
				t.Error(err)
			}
		})
	}
}

func (p *parameter) tag(key, value string) {
	p.t.Helper()
	_, err := p.ssm.AddTagsToResource(p.t.Context(), &ssm.AddTagsToResourceInput{
		ResourceType: "Parameter", ResourceId: aws.String(parameterName), Tags: []types.Tag{{Key: &key, Value: &value}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *parameter) untag(key string) {
	p.t.Helper()
	_, err := p.ssm.RemoveTagsFromResource(p.t.Context(), &ssm.RemoveTagsFromResourceInput{
		ResourceType: "Parameter", ResourceId: aws.String(parameterName), TagKeys: []string{key},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *parameter) delete(name string) {
	p.t.Helper()
	if _, err := p.ssm.DeleteParameter(p.t.Context(), &ssm.DeleteParameterInput{Name: &name}); err != nil {
		p.t.Fatal(err)
	}
}

// Somebody changes the parameter by hand in the middle of a rotation, at each of
// its moments: to a password that the database does not know, or, having changed
// the database too, to one that it does.
func TestAChangeByHand(t *testing.T) {
	for moment, at := range map[string]struct {
		operation string
		n         int // after so many calls of it
	}{
		"before Set":                {"GetParameters", 2},
		"between Set and Test":      {"GetParameters", 3},
		"between Test and Promote":  {"GetParameters", 4},
		"before Promote's own look": {"GetParameters", 5},
		"inside the Put":            {"PutParameter", 1},
	} {
		for _, theirs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, changed in the database too: %v", moment, theirs), func(t *testing.T) {
				var p *parameter
				armed, seen := false, 0
				var mu sync.Mutex
				p = newParameter(t, asJSON, func(c localaws.Call) localaws.Fault {
					mu.Lock()
					now := false
					if armed && c.Operation == at.operation {
						now = seen == at.n
						seen++
					}
					if now {
						armed = false
					}
					mu.Unlock()
					if now {
						if theirs {
							if err := database.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s PASSWORD 'by hand'", p.user)); err != nil {
								t.Error(err)
							}
						}
						if err := p.byHand(t.Context(), strings.Replace(p.first, "the first password", "by hand", 1)); err != nil {
							t.Error(err)
						}
					}
					return localaws.None
				})
				mu.Lock()
				armed = true
				mu.Unlock()
				if err := p.deliver(); err != nil {
					t.Fatal(err)
				}
				if armed {
					t.Fatal("the moment never came")
				}
				version, value, err := p.now(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				stays := strings.Contains(value, "by hand") && version == 2
				// What they stored stays if it works. If it does not, or was
				// overwritten, readers get a new value that works.
				if want := theirs && moment != "inside the Put"; stays != want {
					t.Errorf("readers get version %d, theirs: %v", version, stays)
				}
				if err := p.rotated(t.Context(), version); err != nil {
					t.Error(err)
				}
				// The message once more changes nothing.
				if err := p.deliver(); err != nil {
					t.Fatal(err)
				}
				if again, _, _ := p.now(t.Context()); again != version {
					t.Errorf("version %d became %d", version, again)
				}
			})
		}
	}
}

// Somebody changes the parameter by hand after it was read and before it is described.
// What was described is not what was ordered, so nothing is done.
func TestAChangeBeforeItIsDescribed(t *testing.T) {
	var p *parameter
	var armed atomic.Bool
	p = newParameter(t, asJSON, func(c localaws.Call) localaws.Fault {
		if c.Operation == "DescribeParameters" && armed.CompareAndSwap(true, false) {
			if err := p.byHand(t.Context(), p.first+" "); err != nil {
				t.Error(err)
			}
		}
		return localaws.None
	})
	armed.Store(true)
	if err := p.deliver(); err != nil {
		t.Error(err)
	}
	version, value, err := p.now(t.Context())
	left, err2 := p.records(t.Context())
	if armed.Load() || version != 2 || value != p.first+" " || len(left) > 0 || err != nil || err2 != nil {
		t.Errorf("version %d, and %d records are left over (%v, %v)", version, len(left), err, err2)
	}
}

// One that an Expiration policy will delete is refused before anything is changed: also
// where the rotator would change something outside before it has a value to store.
func TestAParameterThatIsToBeDeletedIsRefused(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	if err := p.cloud.EditParameter(parameterName, func(p *localaws.Parameter) {
		p.Tier, p.Policies = "Advanced", `[{"Type":"Expiration","Version":"1.0","Attributes":{"Timestamp":"2050-01-01T00:00:00.000Z"}}]`
	}); err != nil {
		t.Fatal(err)
	}
	asked := &asker{ask: func(context.Context, rotators.Rotation) error { return nil }}
	h := functions.ParameterRotator(p.as("parameter-rotator", http.DefaultTransport), rotators.Registry{"postgres": asked})
	_, err := h.Invoke(t.Context(), p.event())
	if err == nil || !rotators.IsPermanent(err) || errors.Is(err, errAsked) || !strings.Contains(err.Error(), "createSecret of "+p.Parameter.ARN) || !strings.Contains(err.Error(), "Expiration policy") {
		t.Errorf("got %v", err)
	}
	if err := p.untouched(t.Context()); err != nil {
		t.Error(err)
	}
}

// Somebody deletes the parameter in the middle of its rotation. The record, which
// may hold the only password that works, is named and kept.
func TestADeletionMidway(t *testing.T) {
	for n := 2; n <= 5; n++ {
		var p *parameter
		var calls atomic.Int32
		p = newParameter(t, asJSON, func(c localaws.Call) localaws.Fault {
			if c.Operation == "GetParameters" && calls.Add(1) == int32(n+1) {
				p.delete(parameterName)
			}
			return localaws.None
		})
		err := p.deliver()
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), p.Parameter.Record()) {
			t.Errorf("deleted before look %d: %v", n, err)
		}
		left, err := p.records(t.Context())
		if err != nil || len(left) != 1 {
			t.Fatalf("deleted before look %d: %d records (%v)", n, len(left), err)
		}
		if p.accepts(t.Context(), left[0]) != nil && p.accepts(t.Context(), p.first) != nil {
			t.Errorf("deleted before look %d: neither password works", n)
		}
	}
}

// A parameter that was deleted in the middle of its rotation is made anew, and its
// versions begin at 1 again, as do the names of records.
func TestAParameterMadeAnew(t *testing.T) {
	for name, c := range map[string]struct {
		base    int64 // of the attempt that was not finished
		pending bool  // made anew with the value of the record
	}{
		"with the record's value, as the error says":           {1, true},
		"with the record's value, of a later version":          {3, true},
		"with what readers got, of a version it had once":      {1, false},
		"with what readers got, of a version it has not again": {3, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParameter(t, asJSON, nil)
			for p.Parameter.Base < c.base {
				if err := p.byHand(t.Context(), p.first); err != nil {
					t.Fatal(err)
				}
				p.order()
			}
			store := paramstore.New(p.ssm, p.Parameter, rate.NewLimiter(rate.Inf, 0))
			a, err := store.Load(t.Context(), p.Parameter.ARN, p.Parameter.Token())
			if err != nil {
				t.Fatal(err)
			}
			value := p.first
			const second = "The-second.password_of-the-app-2" // of the length and characters of generated ones
			pending := asJSON(p.user, second)
			if err := store.PutPending(t.Context(), a, rotators.NewSecret(pending)); err != nil {
				t.Fatal(err)
			}
			if c.pending {
				if err := database.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", p.user, second)); err != nil {
					t.Fatal(err)
				}
				value = pending
			}
			tags := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
			p.cloud.AddParameter(localaws.Parameter{Name: parameterName, Type: "SecureString", Value: value, Tags: tags, Changed: time.Now().Add(time.Minute)})
			p.order()
			for range 2 { // the second time as the planner would, while it is due
				if err := p.deliver(); err != nil {
					t.Fatal(err)
				}
				p.ahead.Add(int64(time.Minute)) // the name of a record must rest
			}
			if err := p.rotated(t.Context(), 2); err != nil {
				t.Error(err)
			}
		})
	}
}

// Somebody takes the opt-in back in the middle of a rotation, or deletes the parameter
// before the message comes back. What may hold the only password that works is named
// and kept; with the tag back, the rotation is finished.
func TestNotToBeReadMidway(t *testing.T) {
	for name, c := range map[string]struct{ do, undo func(*parameter) }{
		"untagged": {func(p *parameter) { p.untag("rekey:rotator") }, func(p *parameter) { p.tag("rekey:rotator", "postgres") }},
		"deleted":  {func(p *parameter) { p.delete(parameterName) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var puts atomic.Int32
			p := newParameter(t, asJSON, func(c localaws.Call) localaws.Fault {
				if c.Operation == "PutParameter" && puts.Add(1) > 1 {
					return localaws.RefuseBefore // whatever keeps it from promoting
				}
				return localaws.None
			})
			if err := p.deliver(); err == nil {
				t.Fatal("it was promoted")
			}
			c.do(p)
			err := p.deliver()
			if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), p.Parameter.Record()) {
				t.Errorf("got %v", err)
			}
			left, err := p.records(t.Context())
			if err != nil || len(left) != 1 || p.accepts(t.Context(), left[0]) != nil {
				t.Fatalf("%d records, %v", len(left), err)
			}
			if c.undo == nil {
				return
			}
			c.undo(p)
			puts.Store(-100)
			if err := p.deliver(); err != nil {
				t.Fatal(err)
			}
			if err := p.rotated(t.Context(), 2); err != nil {
				t.Error(err)
			}
		})
	}
}

// transport does something before the nth request.
type transport struct {
	n      int
	before func(*http.Request)
	sent   atomic.Int32
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if int(t.sent.Add(1)) == t.n {
		t.before(r)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// handlerOver is the worker on a transport of the test's.
func (p *parameter) handlerOver(rt http.RoundTripper) lambda.Handler {
	cfg := p.as("parameter-rotator", rt)
	return functions.ParameterRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, nil)})
}

func (p *parameter) event() []byte {
	p.t.Helper()
	body, err := json.Marshal(p.Message)
	if err != nil {
		p.t.Fatal(err)
	}
	event, err := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{MessageId: "m", Body: string(body)}}})
	if err != nil {
		p.t.Fatal(err)
	}
	return event
}

// Two workers have the same message: one stands still before each of its AWS
// calls in turn, and the other rotates meanwhile from beginning to end.
func TestTwoWorkers(t *testing.T) {
	moments := 0
	for n := 1; ; n++ {
		p := newParameter(t, asJSON, nil)
		reached := false
		slow := p.handlerOver(&transport{n: n, before: func(*http.Request) {
			reached = true
			if err := p.deliver(); err != nil {
				t.Errorf("call %d: the other worker: %v", n, err)
			}
		}})
		_, err := slow.Invoke(t.Context(), p.event())
		if !reached {
			break
		}
		moments++
		if err != nil {
			// It may fail, and then the message comes back.
			if err := p.deliver(); err != nil {
				t.Errorf("call %d: redelivered: %v", n, err)
			}
		}
		// Between the look and the put there is no lock: then the same value is put
		// twice.
		version, _, _ := p.now(t.Context())
		if version > 3 {
			t.Errorf("call %d: version %d", n, version)
		}
		if version == 3 {
			fmt.Printf("two workers: the same value is put twice if the second stands still before call %d\n", n)
		}
		if err := p.rotated(t.Context(), version); err != nil {
			t.Errorf("call %d: %v", n, err)
		}
	}
	if moments < 8 {
		t.Errorf("only %d moments", moments)
	}
}

// A rotation that was promoted and not cleared up is finished though the parameter was paused
// since, or its tags are wrong: the record holds a password.
func TestWhatWasPromotedIsClearedUp(t *testing.T) {
	for tag, value := range map[string]string{"rekey:paused": "yes", "rekey:every": "never"} {
		var off atomic.Bool
		p := newParameter(t, asJSON, func(c localaws.Call) localaws.Fault {
			if c.Operation == "DeleteParameters" && !off.Load() {
				return localaws.RefuseBefore
			}
			return localaws.None
		})
		if err := p.deliver(); err == nil {
			t.Fatal("it was cleared up")
		}
		off.Store(true)
		p.tag(tag, value)
		if err := p.deliver(); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
		if err := p.rotated(t.Context(), 2); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

// A function that hangs is killed, and the message comes back.
func TestRedeliveryAfterATimeout(t *testing.T) {
	for n := 1; n <= 12; n++ {
		p := newParameter(t, asJSON, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := p.handlerOver(&transport{n: n, before: func(r *http.Request) { <-r.Context().Done() }}).Invoke(ctx, p.event())
		cancel()
		if err == nil {
			t.Errorf("call %d: it did not hang", n)
		}
		if err := p.deliver(); err != nil {
			t.Errorf("call %d: redelivered: %v", n, err)
		}
		if err := p.rotated(t.Context(), 2); err != nil {
			t.Errorf("call %d: %v", n, err)
		}
	}
}

// Somebody reads the parameter all the time, as applications do.
func TestReadersGetPromotedValuesOnly(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	stop, read := make(chan struct{}), make(chan map[string]bool)
	go func() {
		seen := map[string]bool{}
		for {
			select {
			case <-stop:
				read <- seen
				return
			default:
				if _, value, err := p.now(t.Context()); err == nil {
					seen[value] = true
				}
			}
		}
	}()
	promoted := map[string]bool{p.first: true}
	for range 5 {
		if err := p.deliver(); err != nil {
			t.Fatal(err)
		}
		_, value, err := p.now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		promoted[value] = true
		p.order()
	}
	close(stop)
	seen := <-read
	for value := range seen {
		if !promoted[value] {
			t.Error("a reader got a value that was not promoted")
		}
	}
	if len(seen) < 2 || len(promoted) != 6 {
		t.Errorf("the reader saw %d values of %d", len(seen), len(promoted))
	}
}

// Two users take turns, with a change by hand between that moves the previous
// version: the twin's password is then found in the version before.
func TestAlternatingUsersInAParameter(t *testing.T) {
	var admin string
	p := newParameter(t, func(user, password string) string {
		admin = "admin_of_" + user
		return strings.Replace(asJSON(user, password), "}", `, "masterarn":"ssm:/admin" }`, 1)
	}, nil)
	for _, sql := range []string{
		"CREATE ROLE " + admin + " LOGIN CREATEROLE PASSWORD 'the admins password'",
		"GRANT " + p.user + " TO " + admin + " WITH ADMIN OPTION",
		"ALTER ROLE " + p.user + " SET work_mem TO '7MB'",
	} {
		if err := database.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	p.cloud.AddParameter(localaws.Parameter{Name: "/admin", Type: "SecureString", Value: asJSON(admin, "the admins password")})
	for n := 1; n <= 4; n++ {
		if err := p.deliver(); err != nil {
			t.Fatalf("rotation %d: %v", n, err)
		}
		_, value, err := p.now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := p.user + []string{"", "_clone"}[n%2]; !strings.Contains(value, `"username":"`+want+`"`) {
			t.Errorf("rotation %d: not the turn of %s", n, want)
		}
		if err := p.serves(t.Context(), value); err != nil {
			t.Errorf("rotation %d: %v", n, err)
		}
		if n == 2 {
			if err := p.byHand(t.Context(), value+" "); err != nil {
				t.Fatal(err)
			}
		}
		p.order()
	}
}

// What Parameter Store does not take is not set in the database.
func TestAValueParameterStoreRefuses(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	if err := p.cloud.EditParameter(parameterName, func(p *localaws.Parameter) { p.AllowedPattern = "the first" }); err != nil {
		t.Fatal(err)
	}
	p.order()
	err := p.deliver()
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "AllowedPattern the first") {
		t.Errorf("got %v", err)
	}
	if err := p.untouched(t.Context()); err != nil {
		t.Error(err)
	}
}
