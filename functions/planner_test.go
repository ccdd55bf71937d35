package functions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/rotators"
)

// planned is AWS for one tick in this process, under the template's policy.
type planned struct {
	*setup
	t     *testing.T
	cfg   aws.Config // a person's
	queue *sqs.Client
	url   *string
	log   string // of the last tick
}

func newPlanned(t *testing.T) *planned { return newPlannedAt(t, nil) }

func newPlannedAt(t *testing.T, now func() time.Time) *planned {
	cloud := localaws.New(localaws.Config{Authorize: policed(t, ours), Now: now})
	t.Cleanup(cloud.Close)
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	p := &planned{setup: &setup{t: t, cloud: cloud, endpoint: server.URL}, t: t}
	p.cfg = p.config(http.DefaultTransport)
	p.queue = sqs.NewFromConfig(p.cfg)
	made, err := p.queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("rekey-parameters.fifo"), Attributes: map[string]string{"FifoQueue": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	p.url = made.QueueUrl
	t.Setenv("REKEY_QUEUE_URL", *made.QueueUrl)
	return p
}

// tick runs the planner, and returns how often it made each call and what it queued.
func (p *planned) tick() (calls map[string]int, bodies []string) {
	p.t.Helper()
	stdout, err := os.Create(filepath.Join(p.t.TempDir(), "log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func(real *os.File) {
		os.Stdout = real
		log, err := os.ReadFile(stdout.Name())
		if err != nil {
			p.t.Error(err)
		}
		p.log = string(log)
		stdout.Close()
	}(os.Stdout)
	os.Stdout = stdout
	before := len(p.cloud.Calls())
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := functions.ParameterPlanner(p.as("parameter-planner", http.DefaultTransport)).Invoke(ctx, []byte("{}")); err != nil {
		p.t.Fatal(err)
	}
	calls = map[string]int{}
	for _, c := range p.cloud.Calls()[before:] {
		calls[c.Operation]++
	}
	for {
		out, err := p.queue.ReceiveMessage(p.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: p.url, MaxNumberOfMessages: 10})
		if err != nil {
			p.t.Fatal(err)
		}
		if len(out.Messages) == 0 {
			return calls, bodies
		}
		for _, m := range out.Messages {
			bodies = append(bodies, *m.Body)
		}
	}
}

// Whatever the form of their names, the planner reads ten parameters a call, and describes
// none if all is well. Names of one level are "x" or "/x", which an ARN does not tell, and
// one name that is not there has the policy deny all ten.
func TestThePlannersCallsForNamesOfOneLevel(t *testing.T) {
	const n = 60
	for _, c := range []struct {
		form                 string
		deleted              bool
		mostReads, describes int
	}{
		{"/shop/p%03d", false, n / 10, 0},
		{"p%03d", false, n / 10, 0},
		{"/p%03d", false, n/10 + 1, 0},
	} {
		p := newPlanned(t)
		for i := range n {
			p.cloud.AddParameter(localaws.Parameter{Name: fmt.Sprintf(c.form, i), Type: "SecureString", Value: "v", Tags: map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}})
		}
		calls, bodies := p.tick()
		if reads := calls["GetParameters"]; reads > c.mostReads || calls["DescribeParameters"] > c.describes || len(bodies) > 0 {
			t.Errorf("%s: %v, queued %d", c.form, calls, len(bodies))
		}
	}
	// Both forms side by side are found, each by its own name.
	p := newPlanned(t)
	for _, name := range []string{"/one", "two", "/three", "four", "/a/b"} {
		p.cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: "v", Changed: time.Now().Add(-99 * 24 * time.Hour), Tags: map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}})
	}
	calls, bodies := p.tick()
	for _, name := range []string{"/one", "two", "/three", "four", "/a/b"} {
		if !strings.Contains(strings.Join(bodies, " "), `"name":"`+name+`"`) {
			t.Errorf("%s is not queued: %v (%v)", name, bodies, calls)
		}
	}
}

// What was begun is finished, also of what is paused or has wrong tags by now: clients may
// lack what the target accepts.
func TestWhatWasBegunIsOrderedWhateverItsTags(t *testing.T) {
	for _, tags := range []map[string]string{{}, {"rekey:paused": "yes"}, {"rekey:window": "25:00-26:00"}, {"rekey:every": "soon"}} {
		for _, begun := range []bool{true, false} {
			p := newPlanned(t)
			all := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
			for k, v := range tags {
				all[k] = v
			}
			p.cloud.AddParameter(localaws.Parameter{Name: "/shop/db", Type: "SecureString", Value: "v", Tags: all})
			if begun {
				d, err := paramstore.Describe(t.Context(), ssm.NewFromConfig(p.cfg), []string{"/shop/db"})
				if err != nil {
					t.Fatal(err)
				}
				p.cloud.AddParameter(localaws.Parameter{Name: d[0].Record(), Type: "SecureString", Value: "the target accepts only this"})
			}
			if _, bodies := p.tick(); len(bodies) > 0 != begun {
				t.Errorf("begun %t, with %v: queued %v", begun, tags, bodies)
			}
		}
	}
}

// An order to retire that cannot be carried out is no failure of every hour: for a secret
// that is scheduled for deletion, and for a replica, which has the tags of its primary one.
func TestOrdersToRetireWhatCannotBeRetired(t *testing.T) {
	for what, change := range map[string]func(*planned, string) error{
		"scheduled for deletion": func(p *planned, id string) error {
			_, err := secretsmanager.NewFromConfig(p.cfg).DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &id})
			return err
		},
		"a replica": func(p *planned, id string) error {
			return p.cloud.Edit(id, func(s *localaws.Secret) { s.PrimaryRegion = "eu-west-1" })
		},
	} {
		p := newPlanned(t)
		out, err := secretsmanager.NewFromConfig(p.cfg).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
			Name: aws.String("app"), SecretString: aws.String("{}"),
			Tags: []smtypes.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("postgres")}, {Key: aws.String("rekey:retire"), Value: aws.String("11111111-1111-4111-8111-111111111111")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.cloud.Reserve(*out.ARN, "22222222-2222-4222-8222-222222222222"); err != nil {
			t.Fatal(err)
		}
		if err := change(p, *out.ARN); err != nil {
			t.Fatal(err)
		}
		_, bodies := p.tick()
		if len(bodies) != 1 {
			t.Fatalf("%s: queued %v", what, bodies)
		}
		// Nobody knows since when an order without a time is overdue.
		if !strings.Contains(p.log, "retirementsOverdue=0") && !strings.Contains(p.log, `"retirementsOverdue":0`) {
			t.Errorf("%s: the log of the tick is %s", what, p.log)
		}
		event, err := json.Marshal(map[string]any{"Records": []map[string]any{{"messageId": "1", "body": bodies[0]}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := functions.ParameterRotator(p.cfg, rotators.Registry{}).Invoke(t.Context(), event); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// overlapping is a target with two passwords.
type overlapping struct {
	accepts map[string]bool
	made    int
}

func (o *overlapping) Create(context.Context, rotators.Rotation) (rotators.Secret, error) {
	o.made++
	return rotators.NewSecret(fmt.Sprintf("made %d", o.made)), nil
}

func (o *overlapping) Set(_ context.Context, r rotators.Rotation) error {
	o.accepts = map[string]bool{r.Pending.Reveal(): true, r.Current.Reveal(): true}
	return nil
}

func (o *overlapping) Test(_ context.Context, r rotators.Rotation) error {
	if o.accepts[r.Pending.Reveal()] {
		return nil
	}
	return rotators.Refused(errors.New("refused"))
}

func (o *overlapping) Grace(s rotators.Settings) time.Duration { return s.Grace }

func (o *overlapping) Retire(_ context.Context, r rotators.Rotation) error {
	o.accepts = map[string]bool{r.Current.Reveal(): true}
	return nil
}

// Terraform takes the tag rekey:retire off. The older credential is found all the same once
// its grace is over, counted as overdue, and retired; not before, and not if a person stored
// the current version.
func TestARetirementWhoseTagIsGone(t *testing.T) {
	for _, c := range []struct {
		name           string
		ago            time.Duration
		byHand, paused bool
		found          bool
	}{
		{"overdue", 4 * time.Hour, false, false, true},
		{"within its grace", 90 * time.Minute, false, false, false},
		{"a person's version is current", 4 * time.Hour, true, false, false},
		{"paused", 4 * time.Hour, false, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var later atomic.Int64 // by how much the clock was set forward
			p := newPlannedAt(t, func() time.Time { return time.Now().Add(-c.ago + time.Duration(later.Load())) })
			client := secretsmanager.NewFromConfig(p.cfg)
			out, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
				Name: aws.String("app"), SecretString: aws.String("first"),
				Tags: []smtypes.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("over")}, {Key: aws.String("rekey:grace"), Value: aws.String("1h")}},
			})
			if err != nil {
				t.Fatal(err)
			}
			o := &overlapping{accepts: map[string]bool{"first": true}}
			if err := p.cloud.Reserve(*out.ARN, token); err != nil {
				t.Fatal(err)
			}
			rotator := functions.SecretRotator(p.as("secret-rotator", http.DefaultTransport), rotators.Registry{"over": o})
			for _, step := range []string{"createSecret", "setSecret", "testSecret", "finishSecret"} {
				if _, err := rotator.Invoke(t.Context(), fmt.Appendf(nil, `{"Step":%q,"SecretId":%q,"ClientRequestToken":%q}`, step, *out.ARN, token)); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.cloud.Edit(*out.ARN, func(s *localaws.Secret) { s.Rotated = time.Now().Add(-c.ago) }); err != nil {
				t.Fatal(err)
			}
			if o.made != 1 || len(o.accepts) != 2 {
				t.Fatalf("the rotation made %d, the target accepts %v", o.made, o.accepts)
			}
			if _, err := client.UntagResource(t.Context(), &secretsmanager.UntagResourceInput{SecretId: out.ARN, TagKeys: []string{"rekey:retire"}}); err != nil {
				t.Fatal(err)
			}
			if c.byHand {
				later.Store(int64(time.Minute)) // Secrets Manager tells times to the millisecond
				if _, err := client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: out.ARN, SecretString: aws.String("by hand")}); err != nil {
					t.Fatal(err)
				}
				o.accepts["by hand"] = true
			}
			if c.paused {
				if _, err := client.TagResource(t.Context(), &secretsmanager.TagResourceInput{SecretId: out.ARN, Tags: []smtypes.Tag{{Key: aws.String("rekey:paused"), Value: aws.String("yes")}}}); err != nil {
					t.Fatal(err)
				}
			}
			_, bodies := p.tick()
			counted := strings.Contains(p.log, "retirementsOverdue=1") || strings.Contains(p.log, `"retirementsOverdue":1`)
			if (len(bodies) == 1) != c.found || counted != c.found {
				t.Fatalf("queued %v, counted %t:\n%s", bodies, counted, p.log)
			}
			deliver := func(body string) {
				t.Helper()
				event, err := json.Marshal(map[string]any{"Records": []map[string]any{{"messageId": "1", "body": body}}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := functions.ParameterRotator(p.as("parameter-rotator", http.DefaultTransport), rotators.Registry{"over": o}).Invoke(t.Context(), event); err != nil {
					t.Fatal(err)
				}
			}
			if !c.found {
				// A message that somebody makes up changes nothing either.
				before := len(o.accepts)
				d, err := client.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: out.ARN})
				if err != nil {
					t.Fatal(err)
				}
				for version, labels := range d.VersionIdsToStages {
					if c.ago > 2*time.Hour && slices.Contains(labels, "AWSPREVIOUS") {
						deliver(fmt.Sprintf(`{"retire":{"arn":%q,"version":%q}}`, *out.ARN, version))
					}
				}
				if len(o.accepts) != before {
					t.Errorf("the target accepts %v", o.accepts)
				}
				return
			}
			deliver(bodies[0])
			if len(o.accepts) != 1 || !o.accepts["made 1"] {
				t.Errorf("the target accepts %v", o.accepts)
			}
			if _, bodies := p.tick(); len(bodies) > 0 {
				t.Errorf("the next tick queued %v", bodies)
			}
		})
	}
}
