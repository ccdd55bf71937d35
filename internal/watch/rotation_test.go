package watch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/watch"
)

const first = "the first password&<1>"

// between is how many logins the application makes, at the least, between the
// moment at which the pending credential is accepted and the promotion.
const between = 50

// stage is an AWS whose promotions wait until the application has logged in often
// enough since the pending credential is accepted.
type stage struct {
	t     *testing.T
	cloud *localaws.Server
	aws   aws.Config

	ready, enough, done chan struct{}
	puts                int // of parameters
	mu                  sync.Mutex
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, ready: make(chan struct{}), enough: make(chan struct{}), done: make(chan struct{})}
	s.cloud = localaws.New(localaws.Config{Fault: s.promotion})
	t.Cleanup(s.cloud.Close)
	server := httptest.NewServer(s.cloud)
	t.Cleanup(server.Close)
	s.aws = aws.Config{Region: "us-east-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")}
	return s
}

// promotion holds the call that promotes: of two writes of a parameter's rotation,
// the second.
func (s *stage) promotion(c localaws.Call) localaws.Fault {
	s.mu.Lock()
	if c.Operation == "PutParameter" {
		s.puts++
	}
	holds := c.Operation == "UpdateSecretVersionStage" || c.Operation == "PutParameter" && s.puts == 2
	s.mu.Unlock()
	if holds {
		<-s.enough
	}
	return localaws.None
}

// watch watches while rotate runs, and for some logins before and after.
func (s *stage) watch(source watch.Source, reader *rotation.Reader, rotate func() error) *watch.Record {
	s.t.Helper()
	const before, after = 10, 20
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	tried, since, later, accepted := 0, 0, 0, time.Duration(-1)
	w := &watch.Watcher{Source: source, Reader: reader, Stay: true, Seen: func(l watch.Login) {
		switch {
		case !l.Readers:
			if accepted < 0 && l.Lane == 1 && l.Outcome == watch.Accepted {
				accepted = l.To
			}
		case l.Lane == 1:
			if later++; later == after {
				close(s.done)
			}
		default:
			if tried++; tried == before {
				close(s.ready)
			}
			if accepted >= 0 && l.From >= accepted {
				if since++; since == between {
					close(s.enough)
				}
			}
		}
	}}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	wait := func(what string, c <-chan struct{}) {
		select {
		case <-c:
		case err := <-ended:
			s.t.Fatalf("the watch ended before %s: %v", what, err)
		case <-ctx.Done():
			s.t.Fatalf("the test ended before %s", what)
		}
	}
	wait("the rotation began", s.ready)
	if err := rotate(); err != nil {
		s.t.Fatal(err)
	}
	wait("the new credential was tried often enough", s.done)
	cancel()
	if err := <-ended; err != nil {
		s.t.Fatal(err)
	}
	return w.Record()
}

// rotateSecret makes a secret and watches while the function that ships rotates
// it.
func (s *stage) rotateSecret(name, value string, tags map[string]string) *watch.Record {
	s.t.Helper()
	client := secretsmanager.NewFromConfig(s.aws)
	in := &secretsmanager.CreateSecretInput{Name: &name, SecretString: &value}
	for k, v := range tags {
		in.Tags = append(in.Tags, types.Tag{Key: &k, Value: &v})
	}
	secret, err := client.CreateSecret(s.t.Context(), in)
	if err != nil {
		s.t.Fatal(err)
	}
	const token = "11111111-1111-4111-8111-111111111111"
	read, err := rotation.ReadTags(tags)
	if err != nil {
		s.t.Fatal(err)
	}
	h := functions.SecretRotator(s.aws, registry(s.aws))
	return s.watch(watch.Secret(client, name, *secret.ARN), &rotation.Reader{Registry: registry(s.aws), ID: *secret.ARN, Tags: read}, func() error {
		if err := s.cloud.Reserve(*secret.ARN, token); err != nil {
			return err
		}
		for _, step := range []string{"createSecret", "setSecret", "testSecret", "finishSecret"} {
			event, _ := json.Marshal(map[string]string{"Step": step, "SecretId": *secret.ARN, "ClientRequestToken": token})
			if _, err := h.Invoke(s.t.Context(), event); err != nil {
				return err
			}
		}
		return nil
	})
}

// With one password readers are locked out from Set until they get the new one; with
// two users, or two passwords, no login is refused.
func TestStrategies(t *testing.T) {
	for _, g := range targets {
		for _, strategy := range []string{"single-user", "alternating-users", "overlap"} {
			if g.engine == "postgres" && strategy == "overlap" || g.engine == "redis" && strategy == "alternating-users" {
				continue // there is no such thing
			}
			t.Run(g.engine+" "+strategy, func(t *testing.T) {
				s := newStage(t)
				user := strings.ReplaceAll(strategy, "-", "_")
				admin := "admin_of_" + user
				if err := g.users(t.Context(), user, admin); err != nil {
					t.Fatal(err)
				}
				if _, err := secretsmanager.NewFromConfig(s.aws).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
					Name: &admin, SecretString: aws.String(g.value(admin)),
				}); err != nil {
					t.Fatal(err)
				}
				tags := map[string]string{"rekey:strategy": strategy, "rekey:admin": admin}
				r := s.rotateSecret("shop/"+strategy, g.value(user), tags)
				show(t, r)
				next := user
				if strategy == "alternating-users" {
					next += "_clone"
				}
				if len(r.Lanes) != 2 || r.Lanes[0].User != user || r.Lanes[1].User != next || r.Lanes[1].New != (next == user) {
					t.Fatalf("lanes %+v", r.Lanes)
				}
				old, current := r.Lanes[0].Spans, r.Lanes[1].Spans
				if last := current[len(current)-1]; last.Outcome != watch.Accepted || !last.Readers {
					t.Errorf("the new credential ends as %+v", last)
				}
				if strategy == "single-user" {
					if r.Refused < between || r.Gaps != 1 || r.Longest <= 0 || r.Refused >= r.Tried {
						t.Errorf("%s", r.Summary())
					}
					if last := old[len(old)-1]; last.Outcome != watch.Refused || last.Readers {
						t.Errorf("the old password ends as %+v", last)
					}
					return
				}
				if r.Refused+r.Unclear+r.Gaps != 0 || r.Longest != 0 || r.Tried < between {
					t.Errorf("%s", r.Summary())
				}
				if r.Lanes[0].Refused > 0 { // its grace lasts
					t.Errorf("the old credential was refused %d times", r.Lanes[0].Refused)
				}
			})
		}
	}
}

func TestParameters(t *testing.T) {
	t.Setenv("REKEY_QUEUE_URL", "https://queue")
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", "1000") // nothing here is about the quota
	for name, c := range map[string]struct {
		value string
		tags  map[string]string
	}{
		"json":  {targets[0].value("p_json"), nil},
		"plain": {first, map[string]string{"rekey:connection": fmt.Sprintf("postgres://p_plain@%s:%d/postgres?sslmode=disable", database.Host, database.Port)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			if err := targets[0].users(t.Context(), "p_"+name, "admin_of_p_"+name); err != nil {
				t.Fatal(err)
			}
			tags := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"}
			for k, v := range c.tags {
				tags[k] = v
			}
			path := "/shop/" + name
			s.cloud.AddParameter(localaws.Parameter{Name: path, Type: "SecureString", Value: c.value, Tags: tags})
			client := ssm.NewFromConfig(s.aws)
			described, err := paramstore.Describe(t.Context(), client, []string{path})
			if err != nil || len(described) != 1 {
				t.Fatal(described, err)
			}
			read, err := rotation.ReadTags(tags)
			if err != nil {
				t.Fatal(err)
			}
			source := watch.Parameter(client, path, described[0].ARN)
			source.Pace = 0 // this AWS has no quota
			h := functions.ParameterRotator(s.aws, registry(s.aws))
			r := s.watch(source, &rotation.Reader{Registry: registry(s.aws), ID: described[0].ARN, Tags: read}, func() error {
				body, _ := json.Marshal(queue.Message{Parameter: described[0].Parameter})
				event, _ := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{
					MessageId: "1", Body: string(body), Attributes: map[string]string{"ApproximateReceiveCount": "1"},
				}}})
				_, err := h.Invoke(t.Context(), event)
				return err
			})
			show(t, r)
			if r.Refused < between || r.Gaps != 1 || len(r.Lanes) != 2 || r.Lanes[1].User != "p_"+name {
				t.Errorf("%s %+v", r.Summary(), r.Lanes)
			}
		})
	}
}

// show prints the drawing, and checks what is in both.
func show(t *testing.T, r *watch.Record) {
	t.Helper()
	t.Log("\n" + r.Text())
	if len(r.SVG()) > 10_000 {
		t.Errorf("the SVG has %d bytes", len(r.SVG()))
	}
	for _, mark := range []string{"C", "S", "P"} {
		if !strings.Contains(r.Text(), "\n  "+mark+" ") {
			t.Errorf("no mark %s", mark)
		}
	}
	for _, drawing := range []string{r.Text(), r.SVG(), fmt.Sprintf("%+v", *r)} {
		for _, spelled := range []string{first, url.QueryEscape(first), "first password", "[secret]"} {
			if strings.Contains(drawing, spelled) {
				t.Errorf("%q is in the drawing", spelled)
			}
		}
	}
}
