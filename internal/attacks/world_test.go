package attacks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/generated"
	"github.com/rekeyhq/rekey/rotators/mysql"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/redis"
)

var serial atomic.Int64

// world is an AWS account in which rekey is installed, with the bank's databases beside it.
// Its functions may read every secret and parameter: no policy helps them.
type world struct {
	t        *testing.T
	cloud    *localaws.Server
	endpoint string
	secrets  *secretsmanager.Client
	ssm      *ssm.Client
	sqs      *sqs.Client

	rotator function
	context *lambdacontext.LambdaContext // what Lambda tells the functions
	worker  lambda.Handler
	file    *os.File // that the functions log to

	open   map[string]string // the token of a rotation that is under way, by the secret's ARN
	before func(step string) // called before each step of Secrets Manager's; nil: not
	race   func(localaws.Call)
	mu     sync.Mutex
	errs   []error // of the functions
	stored map[*database]map[string]string

	// What the columns of the table ask for.
	secret  []string // texts that nobody may see: passwords of people, admins' logins
	own     []string // users that the attacker's own secrets are for
	readers []reader // applications that must go on
	taps    []*relay // of the attacker's, on the path
}

// reader is an application that logs in with what a secret or parameter says.
type reader struct {
	what  string
	db    *database
	value func() string
}

const (
	secretFunction = "rekey-secret-rotator"
	orders         = "rekey-parameters.fifo"
)

// newWorld returns a world. Pairs of environment variables of the functions may follow.
func newWorld(t *testing.T, environment ...string) *world {
	t.Helper()
	w := &world{t: t, open: map[string]string{}, stored: map[*database]map[string]string{}}
	w.cloud = localaws.New(localaws.Config{
		// One try of each rotation: what fails twice fails as it did once.
		Pause: func(context.Context, time.Duration) error { return errors.New("that was the only try") },
		Fault: func(c localaws.Call) localaws.Fault {
			if race := w.race; race != nil {
				race(c)
			}
			return localaws.None
		},
	})
	server := httptest.NewServer(w.cloud)
	t.Cleanup(server.Close)
	t.Cleanup(w.cloud.Close)
	w.endpoint = server.URL
	cfg := w.config(http.DefaultTransport)
	w.secrets, w.ssm, w.sqs = secretsmanager.NewFromConfig(cfg), ssm.NewFromConfig(cfg), sqs.NewFromConfig(cfg)
	if _, err := w.cloud.AddQueue(orders, map[string]string{"FifoQueue": "true", "VisibilityTimeout": "930"}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*database{bankPostgres, bankMariaDB} {
		id, _, _ := strings.Cut(d.host, ".")
		w.cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: id, Engine: d.engine, Endpoint: &localaws.Endpoint{Address: d.host, Port: d.port}})
	}
	for i := 0; i < len(environment); i += 2 {
		t.Setenv(environment[i], environment[i+1])
	}
	t.Setenv("REKEY_QUEUE_URL", w.cloud.QueueURL(w.endpoint, orders))
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", "1000") // nothing here is about the quota

	w.context = &lambdacontext.LambdaContext{InvokedFunctionArn: w.cloud.FunctionARN(secretFunction)}
	w.install(cfg)
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis, clearRedis} {
		w.secret = append(w.secret, d.admin.password)
		d.fake.reset()
		if d.tap != nil {
			d.tap.reset()
		}
		w.stored[d] = d.stored(t)
	}
	return w
}

// install makes the functions that ship, which log to a file.
func (w *world) install(cfg aws.Config) {
	w.t.Helper()
	var err error
	w.file, err = os.Create(filepath.Join(w.t.TempDir(), "log"))
	w.check(err)
	w.t.Cleanup(func() { _ = w.file.Close() })
	pg, my, rd := postgres.New(cfg, nil), mysql.New(cfg, nil), redis.New(cfg, nil)
	registry := rotators.Registry{
		"postgres": pg, "postgresql": pg, "mysql": my, "mariadb": my, "redis": rd, "valkey": rd, "generated": generated.New(),
	}
	var rotator lambda.Handler
	w.logging(func() {
		rotator, w.worker = functions.SecretRotator(cfg, registry), functions.ParameterRotator(cfg, registry)
	})
	w.rotator = function(func(ctx context.Context, payload []byte) ([]byte, error) {
		var event struct{ Step string }
		_ = json.Unmarshal(payload, &event)
		if w.before != nil {
			w.before(event.Step)
		}
		out, err := rotator.Invoke(w.lambda(ctx), payload)
		return out, w.heard(err)
	})
	w.cloud.Handle(secretFunction, w.rotator)
}

// logging makes a function that will log to the file: it keeps the standard output that
// there is when it is made.
func (w *world) logging(makes func()) {
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	os.Stdout = w.file
	makes()
}

// lambda returns the context that Lambda calls a function with.
func (w *world) lambda(ctx context.Context) context.Context {
	return lambdacontext.NewContext(ctx, w.context)
}

type function func(context.Context, []byte) ([]byte, error)

func (f function) Invoke(ctx context.Context, payload []byte) ([]byte, error) { return f(ctx, payload) }

func (w *world) heard(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errs = append(w.errs, err)
	}
	return err
}

func (w *world) config(transport http.RoundTripper) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: &w.endpoint,
		Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
		HTTPClient:  &http.Client{Transport: transport},
		Retryer:     func() aws.Retryer { return aws.NopRetryer{} },
	}
}

// check ends the test where the attack could not be made.
func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// lastError is the last error of a function; "" if there was none.
func (w *world) lastError() string {
	if len(w.errs) == 0 {
		return ""
	}
	return w.errs[len(w.errs)-1].Error()
}

// adminSecret stores the login of a database's DBA, and returns its ARN.
func (w *world) adminSecret(d *database, tags ...string) string {
	return w.newSecret(fmt.Sprintf("dba/%d", serial.Add(1)), d.value(d.admin), tags...)
}

// newSecret makes a secret, and returns its ARN. Tags come in pairs.
func (w *world) newSecret(name, value string, tags ...string) string {
	w.t.Helper()
	in := &secretsmanager.CreateSecretInput{Name: &name, SecretString: &value}
	for i := 0; i < len(tags); i += 2 {
		in.Tags = append(in.Tags, smtypes.Tag{Key: &tags[i], Value: &tags[i+1]})
	}
	out, err := w.secrets.CreateSecret(w.t.Context(), in)
	w.check(err)
	return *out.ARN
}

// put stores a value as what applications read, and returns its version.
func (w *world) put(arn, value string) string {
	w.t.Helper()
	out, err := w.secrets.PutSecretValue(w.t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, SecretString: &value})
	w.check(err)
	return *out.VersionId
}

// putPending stores a value under a rotation's token.
func (w *world) putPending(arn, token, value string) {
	w.t.Helper()
	_, err := w.secrets.PutSecretValue(w.t.Context(), &secretsmanager.PutSecretValueInput{
		SecretId: &arn, SecretString: &value, ClientRequestToken: &token, VersionStages: []string{"AWSPENDING"},
	})
	w.check(err)
}

func (w *world) tag(arn, key, value string) {
	w.t.Helper()
	_, err := w.secrets.TagResource(w.t.Context(), &secretsmanager.TagResourceInput{SecretId: &arn, Tags: []smtypes.Tag{{Key: &key, Value: &value}}})
	w.check(err)
}

// current is the version and the value that applications read.
func (w *world) current(arn string) (version, value string) {
	w.t.Helper()
	out, err := w.secrets.GetSecretValue(w.t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &arn})
	w.check(err)
	return *out.VersionId, *out.SecretString
}

// pending is the version and the value that a rotation has stored.
func (w *world) pending(arn string) (version, value string) {
	w.t.Helper()
	out, err := w.secrets.GetSecretValue(w.t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &arn, VersionStage: aws.String("AWSPENDING")})
	w.check(err)
	return *out.VersionId, *out.SecretString
}

// rotate starts a rotation, or goes on with one that failed, and waits for its end.
func (w *world) rotate(arn string) error {
	w.t.Helper()
	token := w.open[arn]
	if token == "" {
		token = newToken()
	}
	err := w.start(arn, token, true)
	delete(w.open, arn)
	if err != nil {
		w.open[arn] = token
	}
	return err
}

// enable turns rotation on. Secrets Manager then tries the function by its step
// testSecret alone, which is left out here: see dry.
func (w *world) enable(arn string) {
	w.t.Helper()
	w.cloud.Handle(secretFunction, function(func(context.Context, []byte) ([]byte, error) { return nil, nil }))
	defer w.cloud.Handle(secretFunction, w.rotator)
	w.check(w.dry(arn))
}

// dry turns rotation on, and returns how testSecret ended.
func (w *world) dry(arn string) error {
	return w.start(arn, newToken(), false)
}

func (w *world) start(arn, token string, now bool) error {
	w.t.Helper()
	_, err := w.secrets.RotateSecret(w.t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: &arn, ClientRequestToken: &token, RotateImmediately: &now,
		RotationLambdaARN: aws.String(w.cloud.FunctionARN(secretFunction)),
		RotationRules:     &smtypes.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	w.check(err)
	return w.cloud.Wait(w.t.Context(), arn)
}

// parameter makes a parameter that is due, and returns its ARN. Tags come in pairs.
func (w *world) parameter(name, value string, tags ...string) string {
	all := map[string]string{"rekey:every": "30d"}
	for i := 0; i < len(tags); i += 2 {
		all[tags[i]] = tags[i+1]
	}
	w.cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: value, Tags: all, Changed: time.Now().AddDate(0, 0, -40)})
	return "arn:aws:ssm:us-east-1:000000000000:parameter/" + strings.TrimPrefix(name, "/")
}

// putParameter stores a value as what applications read, and has it be due.
func (w *world) putParameter(name, value string) {
	w.t.Helper()
	_, err := w.ssm.PutParameter(w.t.Context(), &ssm.PutParameterInput{Name: &name, Value: &value, Type: ssmtypes.ParameterTypeSecureString, Overwrite: aws.Bool(true)})
	w.check(err)
	w.check(w.cloud.EditParameter(name, func(p *localaws.Parameter) { p.Changed = time.Now().AddDate(0, 0, -40) }))
}

// currentParameter is what applications read.
func (w *world) currentParameter(name string) string {
	w.t.Helper()
	out, err := w.ssm.GetParameter(w.t.Context(), &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	w.check(err)
	return *out.Parameter.Value
}

// tick runs the planner, in a process of its own, and the worker with each message that
// is in the queue.
func (w *world) tick() {
	w.t.Helper()
	ctx := w.lambda(w.t.Context())
	var planner lambda.Handler
	w.logging(func() { planner = functions.ParameterPlanner(w.config(http.DefaultTransport)) })
	_, err := planner.Invoke(ctx, []byte("{}"))
	_ = w.heard(err)
	url := w.cloud.QueueURL(w.endpoint, orders)
	for {
		out, err := w.sqs.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{"All"}})
		w.check(err)
		if len(out.Messages) == 0 {
			return
		}
		m := out.Messages[0]
		payload, err := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{
			MessageId: *m.MessageId, ReceiptHandle: *m.ReceiptHandle, Body: *m.Body, Attributes: m.Attributes,
			EventSource: "aws:sqs", EventSourceARN: "arn:aws:sqs:us-east-1:000000000000:" + orders, AWSRegion: "us-east-1",
		}}})
		w.check(err)
		if _, err := w.worker.Invoke(ctx, payload); w.heard(err) == nil {
			_, err := w.sqs.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle})
			w.check(err)
		}
	}
}

// person makes a user of the bank's with a password of its own, which is to stay as it is
// and to be seen by nobody. More passwords are others of the same user.
func (w *world) person(d *database, name string, passwords ...string) account {
	w.t.Helper()
	a := account{fmt.Sprintf("%s_%d", name, serial.Add(1)), name + "-" + rand.Text()}
	w.check(d.create(w.t.Context(), a.user, append([]string{a.password}, passwords...)...))
	w.protect(append(passwords, a.password)...)
	for user, stored := range d.stored(w.t) {
		if _, ok := w.stored[d][user]; !ok {
			w.stored[d][user] = stored
		}
	}
	return a
}

// lines are what the functions logged.
func (w *world) lines() []string {
	w.t.Helper()
	text, err := os.ReadFile(w.file.Name())
	w.check(err)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// protect has everybody but its owner be kept from a text: a password of somebody's.
func (w *world) protect(texts ...string) { w.secret = append(w.secret, texts...) }

// toJSON writes what always encodes.
func toJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// host makes a name of the attacker's, which leads where answer says.
func host(answer func(look int) answer) string {
	h := fmt.Sprintf("h%d.%s", serial.Add(1), domain)
	dns.set(h, answer)
	return h
}

// outcome is what must not happen, by the columns of the table; "" where it did not.
type outcome map[string]string

// The columns of the table.
const (
	takeover  = "another user's password changed"
	sent      = "a password or an admin's login sent elsewhere or with less TLS"
	read      = "another secret read"
	forged    = "a log line forged"
	lockedOut = "applications locked out that the attacker could not have locked out without rekey"
	memory    = "the process's memory over 200 MB"
)

// outcome looks at the servers, at what was recorded, at the errors and at the log.
func (w *world) outcome() outcome {
	w.t.Helper()
	o := outcome{}
	add := func(column, format string, args ...any) {
		o[column] = strings.TrimPrefix(o[column]+"; "+fmt.Sprintf(format, args...), "; ")
	}
	for d, before := range w.stored {
		for _, user := range changed(before, d.stored(w.t)) {
			name, _, _ := strings.Cut(user, "@")
			if !slices.Contains(w.own, name) {
				add(takeover, "%s: user %s", d.engine, user)
			}
		}
		for _, text := range d.fake.learned(w.secret...) {
			add(sent, "the fake %s was sent %.6s.. (users %v)", d.engine, text, d.fake.seen())
		}
		if slices.Contains(d.fake.seen(), d.admin.user) {
			add(sent, "the admin logged in at the fake %s", d.engine)
		}
		if d.tap != nil {
			for _, text := range append(w.secret, d.admin.user) {
				if d.tap.holds(text) {
					add(sent, "the attacker's %s was sent %.6s..", d.engine, text)
				}
			}
			if heard := d.evil.heard(); strings.Contains(heard, d.admin.user) {
				add(sent, "the admin logged in at the attacker's %s", d.engine)
			}
		}
	}
	for _, tap := range w.taps {
		for _, text := range w.secret {
			if tap.holds(text) {
				add(sent, "%.6s.. has passed the path as it is", text)
			}
		}
	}
	lines := w.lines()
	for _, text := range w.secret {
		for _, err := range w.errs {
			if strings.Contains(err.Error(), text) {
				add(read, "an error shows %.6s..", text)
			}
		}
		if strings.Contains(strings.Join(lines, "\n"), text) {
			add(read, "the log shows %.6s..", text)
		}
	}
	for _, line := range lines {
		var object struct{ Message string }
		if line != "" && (json.Unmarshal([]byte(line), &object) != nil || object.Message == "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f })) {
			add(forged, "%.80q", line)
		}
	}
	for _, r := range w.readers {
		value := r.value()
		if !r.db.accepts(w.t, field(w.t, value, "username"), field(w.t, value, "password")) {
			add(lockedOut, "%s", r.what)
		}
	}
	return o
}

// nothing fails the test if anything happened that must not.
func (w *world) nothing() {
	w.t.Helper()
	for column, what := range w.outcome() {
		w.t.Errorf("%s: %s", column, what)
	}
	if w.t.Failed() {
		for _, err := range w.errs {
			w.t.Logf("a function failed: %v", err)
		}
	}
}

// parameterOf is a SecureString.
func parameterOf(name, value string) localaws.Parameter {
	return localaws.Parameter{Name: name, Type: "SecureString", Value: value}
}
