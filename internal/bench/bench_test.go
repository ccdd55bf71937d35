// Package bench measures what BENCHMARKS.md reports. It is for whoever changes
// rekey and wants to know what that costs: make bench runs it.
//
// What is compared is measured in turns, in one run, because only ratios can be
// trusted on a machine that others use too. Times are medians over the
// iterations, so ns/op, a mean, is left out.
package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/servers"
)

// BenchmarkStart measures how long a function takes from exec to its first
// poll of the Runtime API: the part of a cold start that is the function's own.
// Where Python has boto3, it also measures how long it takes from exec until
// that is imported, which is what AWS's own templates do first.
func BenchmarkStart(b *testing.B) {
	empty := function(b, "emptyfunction")
	firstPoll := func(b *testing.B, bootstrap string) float64 {
		f := locallambda.New(locallambda.Config{Name: "bench", Bootstrap: bootstrap, Env: keys})
		defer f.Close()
		// How the invocation ends does not matter: the poll comes before it.
		_, err := f.Invoke(b.Context(), []byte("{}"))
		polled := f.Stats().FirstPoll
		if polled == 0 {
			b.Fatalf("%s never polled: %v", bootstrap, err)
		}
		return milliseconds(polled)
	}
	python := exec.Command("python3", "-c", "import boto3").Run() == nil
	for _, name := range []string{"secret-rotator", "parameter-planner", "parameter-rotator"} {
		b.Run(name, func(b *testing.B) {
			shipped := function(b, name)
			var ofShipped, ofEmpty, ofPython []float64
			for turn := 0; b.Loop(); turn++ {
				// Neither is always the one that comes after the other.
				if turn%2 == 0 {
					ofShipped = append(ofShipped, firstPoll(b, shipped))
					ofEmpty = append(ofEmpty, firstPoll(b, empty))
				} else {
					ofEmpty = append(ofEmpty, firstPoll(b, empty))
					ofShipped = append(ofShipped, firstPoll(b, shipped))
				}
				if python && name == "secret-rotator" { // once is enough
					ofPython = append(ofPython, importBoto3(b))
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(ofShipped), "shipped-ms")
			b.ReportMetric(median(ofEmpty), "empty-ms")
			b.ReportMetric(median(ofShipped)/median(ofEmpty), "ratio")
			if len(ofPython) > 0 {
				b.ReportMetric(median(ofPython), "boto3-ms")
			}
		})
	}
}

// BenchmarkMemory measures the peak resident memory of a process that takes the
// four steps of one rotation.
func BenchmarkMemory(b *testing.B) {
	shipped, empty := function(b, "secret-rotator"), function(b, "emptyfunction")
	s := newSetup(b)
	peak := func(bootstrap, token string) float64 {
		f := s.function(bootstrap, 0)
		defer f.Close()
		s.takeSteps(f, token)
		return float64(f.Stats().PeakRSS) / 1e6
	}
	var ofShipped, ofEmpty []float64
	for b.Loop() {
		ofEmpty = append(ofEmpty, peak(empty, newToken()))
		ofShipped = append(ofShipped, peak(shipped, s.reserve()))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ofShipped), "shipped-MB")
	b.ReportMetric(slices.Max(ofShipped), "shipped-max-MB")
	b.ReportMetric(median(ofEmpty), "empty-MB")
}

// BenchmarkRotation measures the steps of a rotation by a process that has made
// one before, and counts AWS calls and logins. Of the counts it reports the
// largest. The peak of memory is that of the process after all rotations.
func BenchmarkRotation(b *testing.B) {
	shipped := function(b, "secret-rotator")
	s := newSetup(b)
	f := s.function(shipped, 0)
	defer f.Close()
	s.takeSteps(f, s.reserve())

	var whole []float64
	byStep := map[string][]float64{}
	var calls, logins, refused int
	for b.Loop() {
		calledBefore, loggedBefore := len(s.cloud.Calls()), len(s.database.Log())
		sum := 0.0
		for step, took := range s.takeSteps(f, s.reserve()) {
			byStep[step] = append(byStep[step], milliseconds(took))
			sum += milliseconds(took)
		}
		whole = append(whole, sum)
		calls = max(calls, len(s.cloud.Calls())-calledBefore)
		log := s.database.Log()[loggedBefore:]
		logins = max(logins, strings.Count(log, "connection authorized: user="+user))
		refused = max(refused, strings.Count(log, "FATAL"))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(whole), "rotation-ms")
	for step, took := range byStep {
		b.ReportMetric(median(took), step+"-ms")
	}
	b.ReportMetric(float64(calls), "AWS-calls")
	b.ReportMetric(float64(logins), "logins")
	b.ReportMetric(float64(refused), "failed-logins")
	b.ReportMetric(float64(f.Stats().PeakRSS)/1e6, "peak-MB")
}

// BenchmarkGap measures for how long a single-user rotation locks readers out:
// the database has the new password and Secrets Manager still shows the old one.
// RotateSecret drives it; one reader reads the secret and logs in, back to back.
//
// The reader's gap is from its last login with the old password to its first
// with the new one, so it is too long by one to three of the reader's turns: it
// last looked somewhat before, and what it reads just before the promotion is
// refused after it. The function's gap is from the end of ALTER ROLE, as the
// server's log has it to the millisecond, to the end of finishSecret, so it is
// too long by what follows the promotion.
func BenchmarkGap(b *testing.B) {
	shipped := function(b, "secret-rotator")
	s := newSetup(b)
	f := s.function(shipped, 0)
	defer f.Close()
	// A process that has never made a rotation is not what is measured.
	s.takeSteps(f, s.reserve())
	watched := &watched{Function: f}
	s.cloud.Handle("secret-rotator", watched)

	var readers, functions, turns, refused []float64
	for b.Loop() {
		logged, token := len(s.database.Log()), newToken()
		ctx, cancel := context.WithCancel(b.Context())
		ready, done := make(chan struct{}), make(chan reading, 1)
		go func() { done <- s.read(ctx, token, ready) }()
		select {
		case <-ready:
		case r := <-done:
			b.Fatalf("the reader: %v", r.err)
		}
		_, err := s.client.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
			SecretId: &s.arn, ClientRequestToken: &token, RotationLambdaARN: aws.String(s.cloud.FunctionARN("secret-rotator")),
		})
		if err == nil {
			err = s.cloud.Wait(ctx, s.arn)
		}
		if err != nil {
			b.Fatalf("%v\n%s", err, s.log.String())
		}
		r := <-done
		cancel()
		if r.err != nil {
			b.Fatalf("the reader: %v", r.err)
		}
		readers = append(readers, milliseconds(r.gap))
		functions = append(functions, milliseconds(watched.finished().Sub(s.altered(logged))))
		turns = append(turns, milliseconds(r.turn))
		refused = append(refused, float64(r.refused))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(readers), "reader-gap-ms")
	b.ReportMetric(slices.Max(readers), "reader-gap-max-ms")
	b.ReportMetric(median(functions), "function-gap-ms")
	b.ReportMetric(median(turns), "reader-turn-ms")
	b.ReportMetric(median(refused), "refused")
	b.ReportMetric(slices.Max(refused), "refused-max")
}

// function returns the bootstrap file of a function.
func function(b *testing.B, name string) string {
	b.Helper()
	dir, err := builds()
	if err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// builds compiles all for this machine, with the flags of the Makefile.
var builds = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("../../build/bench")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags=-s -w", "-o", dir+"/",
		"../../functions/secret-rotator", "../../functions/parameter-planner", "../../functions/parameter-rotator", "./emptyfunction")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

const (
	user          = "app"
	firstPassword = "the-first-password"
)

var (
	keys  = []string{"AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench"}
	steps = []string{"createSecret", "setSecret", "testSecret", "finishSecret"}
)

// local is AWS, spoken to by TLS as on AWS.
type local struct {
	b           *testing.B
	cloud       *localaws.Server
	endpoint    string
	certificate *servers.Certificate // also for other servers
	ca          string               // folder with the authority of all servers
	config      aws.Config
	log         bytes.Buffer // the function's
}

func newLocal(b *testing.B) *local {
	b.Helper()
	l := &local{b: b, cloud: localaws.New(localaws.Config{}), ca: b.TempDir()}
	b.Cleanup(l.cloud.Close)
	var err error
	if l.certificate, err = servers.NewCertificate("127.0.0.1"); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(l.authority(), l.certificate.CA, 0o600); err != nil {
		b.Fatal(err)
	}
	pair, err := tls.X509KeyPair(l.certificate.Cert, l.certificate.Key)
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewUnstartedServer(l.cloud)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	b.Cleanup(server.Close)
	l.endpoint = server.URL
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.certificate.CA)
	l.config = aws.Config{
		Region: "us-east-1", BaseEndpoint: &l.endpoint,
		Credentials: credentials.NewStaticCredentialsProvider("bench", "bench", ""),
		HTTPClient:  &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}
	return l
}

// setup is one secret and the PostgreSQL user it is for.
type setup struct {
	*local
	database *servers.PostgresServer
	client   *secretsmanager.Client
	arn      string
}

func newSetup(b *testing.B) *setup {
	b.Helper()
	s := &setup{local: newLocal(b)}
	s.database = servers.StartPostgres(b, servers.PostgresOptions{
		Certificate: s.certificate,
		// Seconds since 1970 and the session's process id in front of each line,
		// and a line at the end of each statement.
		Conf: []string{"log_line_prefix = '%n %p '", "log_duration = on"},
	})
	if err := s.database.Exec(b.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", user, firstPassword)); err != nil {
		b.Fatal(err)
	}
	s.client = secretsmanager.NewFromConfig(s.config)
	value := s.value()
	secret, err := s.client.CreateSecret(b.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: &value})
	if err != nil {
		b.Fatal(err)
	}
	s.arn = *secret.ARN
	return s
}

// value is the first one.
func (s *setup) value() string {
	return fmt.Sprintf(`{"engine":"postgres","host":%q,"port":%d,"username":%q,"password":%q,"dbname":"postgres"}`,
		s.database.Host, s.database.Port, user, firstPassword)
}

func (l *local) authority() string { return filepath.Join(l.ca, "ca.pem") }

// function returns the function of that bootstrap file. It trusts the system's
// authorities too: reading them costs what it costs on Lambda. A timeout of 0 is
// locallambda's own.
func (l *local) function(bootstrap string, timeout time.Duration, env ...string) *locallambda.Function {
	return locallambda.New(locallambda.Config{
		Name: "bench", Bootstrap: bootstrap, Log: &l.log, Timeout: timeout,
		Env: slices.Concat([]string{"AWS_ENDPOINT_URL=" + l.endpoint, "SSL_CERT_DIR=" + l.ca}, keys, env),
	})
}

// reserve opens a rotation as RotateSecret does and returns its token.
func (s *setup) reserve() string {
	s.b.Helper()
	token := newToken()
	if err := s.cloud.Reserve(s.arn, token); err != nil {
		s.b.Fatal(err)
	}
	return token
}

// takeSteps has f take the four steps and returns how long each took.
func (s *setup) takeSteps(f *locallambda.Function, token string) map[string]time.Duration {
	s.b.Helper()
	took := map[string]time.Duration{}
	for _, step := range steps {
		event, err := json.Marshal(events.SecretsManagerSecretRotationEvent{
			Step: step, SecretID: s.arn, ClientRequestToken: token, RotationToken: newToken(),
		})
		if err != nil {
			s.b.Fatal(err)
		}
		started := time.Now()
		if _, err := f.Invoke(s.b.Context(), event); err != nil {
			s.b.Fatalf("%s: %v\n%s", step, err, s.log.String())
		}
		took[step] = time.Since(started)
	}
	return took
}

// altered returns when the first ALTER ROLE was done that the server has
// logged from byte offset on.
func (s *setup) altered(offset int) time.Time {
	s.b.Helper()
	session := ""
	for line := range strings.Lines(s.database.Log()[offset:]) {
		words := strings.Fields(line)
		switch {
		case len(words) < 4:
		case strings.Contains(line, "ALTER ROLE"):
			session = words[1]
		case words[1] == session && words[3] == "duration:":
			seconds, err := strconv.ParseFloat(words[0], 64)
			if err != nil {
				s.b.Fatal(err)
			}
			return time.UnixMilli(int64(math.Round(seconds * 1000)))
		}
	}
	s.b.Fatal("the server's log has no ALTER ROLE that was done")
	return time.Time{}
}

// reading is what a reader saw of one rotation.
type reading struct {
	gap     time.Duration // from the last login with the old password to the first with the new one
	turn    time.Duration // mean of reading the secret and logging in
	refused int           // logins
	err     error
}

// read reads the secret and logs in, back to back, until a login with version
// next is accepted. It closes ready when the first login is accepted.
func (s *setup) read(ctx context.Context, next string, ready chan<- struct{}) (r reading) {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=verify-full sslrootcert=%s",
		s.database.Host, s.database.Port, user, s.authority()))
	if err != nil {
		return reading{err: err}
	}
	var old time.Time
	started := time.Now()
	for turns := 1; ; turns++ {
		secret, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn})
		if err != nil {
			return reading{err: err}
		}
		var value struct{ Password string }
		if err := json.Unmarshal([]byte(*secret.SecretString), &value); err != nil {
			return reading{err: err}
		}
		config.Password = value.Password
		conn, err := pgconn.ConnectConfig(ctx, config)
		now := time.Now()
		var refusal *pgconn.PgError
		switch {
		case errors.As(err, &refusal) && refusal.Code == "28P01":
			r.refused++
			continue
		case err != nil:
			return reading{err: errors.New("a login failed, and not for the password")}
		}
		_ = conn.Close(ctx)
		if *secret.VersionId == next {
			r.gap, r.turn = now.Sub(old), now.Sub(started)/time.Duration(turns)
			return r
		}
		if old.IsZero() {
			close(ready)
		}
		old = now
	}
}

// watched is a function that notes when its last invocation ended.
type watched struct {
	*locallambda.Function
	mu   sync.Mutex
	last time.Time
}

func (w *watched) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	response, err := w.Function.Invoke(ctx, payload)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	return response, err
}

func (w *watched) finished() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// importBoto3 returns the milliseconds Python takes until it has boto3.
func importBoto3(b *testing.B) float64 {
	b.Helper()
	cmd := exec.Command("python3", "-c", "import boto3, os; os.write(1, b'.')")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_, err = out.Read(make([]byte, 1))
	took := time.Since(started)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		b.Fatalf("importing boto3: %v", err)
	}
	return milliseconds(took)
}

// newToken returns a version id, of 52 characters: Secrets Manager takes 32 to 64.
func newToken() string { return rand.Text() + rand.Text() }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(of []float64) float64 {
	slices.Sort(of)
	return (of[(len(of)-1)/2] + of[len(of)/2]) / 2
}
