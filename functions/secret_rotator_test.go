package functions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// database is the server all tests here share. Each test has users of its own.
var database *servers.PostgresServer

func TestMain(m *testing.M) {
	var err error
	database, err = servers.Postgres(context.Background(), servers.PostgresOptions{
		Conf: []string{"log_statement = all", "log_connections = on", "log_min_duration_statement = 0"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 && !checkPolicies() {
		code = 1
	}
	database.Stop()
	os.Exit(code)
}

const token = "11111111-1111-4111-8111-111111111111"

var steps = []string{"createSecret", "setSecret", "testSecret", "finishSecret"}

// setup is one secret, of one user of the database, in an AWS of its own.
type setup struct {
	t        *testing.T
	cloud    *localaws.Server
	endpoint string
	client   *secretsmanager.Client // does not go through any Wire
	arn      string
	user     string
	first    string // the value
}

var users atomic.Int64

// newSetup makes a user with this password, and a secret whose value is what
// form makes of the login.
func newSetup(t *testing.T, password string, form func(user, password string) string) *setup {
	t.Helper()
	s := &setup{t: t, user: fmt.Sprintf("app_%d", users.Add(1)), cloud: localaws.New(localaws.Config{Authorize: policed(t, ours)})}
	t.Cleanup(s.cloud.Close)
	server := httptest.NewServer(s.cloud)
	t.Cleanup(server.Close)
	s.endpoint = server.URL
	create := fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", s.user, strings.ReplaceAll(password, "'", "''"))
	if err := database.Exec(t.Context(), create); err != nil {
		t.Fatal(err)
	}
	s.client = secretsmanager.NewFromConfig(s.config(http.DefaultTransport))
	s.first = form(s.user, password)
	out, err := s.client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: &s.first})
	if err != nil {
		t.Fatal(err)
	}
	s.arn = *out.ARN
	if err := s.cloud.Reserve(s.arn, token); err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON is a value as AWS's templates have it.
func asJSON(user, password string) string {
	p, _ := json.Marshal(password)
	return fmt.Sprintf(`{ "engine":"postgres", "host":%q, "port":%d, "username":%q, "password":%s, "ssl":false, "note":1.50 }`, database.Host, database.Port, user, p)
}

func (s *setup) config(transport http.RoundTripper) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(s.endpoint),
		Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
		HTTPClient:  &http.Client{Transport: transport},
		Retryer:     func() aws.Retryer { return aws.NopRetryer{} },
	}
}

// handler is the function that ships, but for its way out.
func (s *setup) handler(w *rotatortest.Wire) func(ctx context.Context, step string) error {
	cfg := s.as("secret-rotator", w)
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, &postgres.Options{Dial: w.DialContext})})
	return func(ctx context.Context, step string) error {
		_, err := h.Invoke(ctx, s.event(step))
		return err
	}
}

func (s *setup) event(step string) []byte {
	event, _ := json.Marshal(map[string]string{
		"Step": step, "SecretId": s.arn, "ClientRequestToken": token, "RotationToken": "5f1c44b7-1b4a-4a8e-9f2c-1d2e3f405162",
	})
	return event
}

// rotate takes all four steps.
func (s *setup) rotate(w *rotatortest.Wire) error {
	invoke := s.handler(w)
	for _, step := range steps {
		if err := invoke(s.t.Context(), step); err != nil {
			return err
		}
	}
	return nil
}

// versions are all the values Secrets Manager holds, by version.
func (s *setup) versions(ctx context.Context) (map[string]string, error) {
	list, err := s.client.ListSecretVersionIds(ctx, &secretsmanager.ListSecretVersionIdsInput{SecretId: &s.arn, IncludeDeprecated: aws.Bool(true)})
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, v := range list.Versions {
		value, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn, VersionId: v.VersionId})
		if err == nil {
			values[*v.VersionId] = *value.SecretString
		}
	}
	return values, nil
}

// current is what readers get.
func (s *setup) current() (version, value string) {
	s.t.Helper()
	v, err := s.client.GetSecretValue(s.t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &s.arn})
	if err != nil {
		s.t.Fatal(err)
	}
	return *v.VersionId, *v.SecretString
}

// login logs in with a value, by a plain driver and around every Wire.
func (s *setup) login(ctx context.Context, value string) error {
	return database.Login(ctx, s.user, s.password(value))
}

// password is the one in a value.
func (s *setup) password(value string) string {
	s.t.Helper()
	password, err := rotators.NewSecret(value).Field("password")
	if err != nil {
		s.t.Fatal(err)
	}
	return password.Reveal()
}

// converged checks the end of a rotation: readers get a new value, the database
// takes it, and takes the old one no more.
func (s *setup) converged(ctx context.Context) error {
	version, value := s.current()
	if version != token {
		return fmt.Errorf("version %s is current", version)
	}
	if err := s.login(ctx, value); err != nil {
		return fmt.Errorf("the new password: %w", err)
	}
	if err := s.login(ctx, s.first); !servers.Refused(err) {
		return fmt.Errorf("the old password: %v", err)
	}
	return nil
}

// Every point before and after every AWS call and every message to PostgreSQL.
func TestCrashSweep(t *testing.T) {
	points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
		s := newSetup(t, "the first password", asJSON)
		return rotatortest.Scenario{
			Run: func(context.Context) error { return s.rotate(w) },
			Crashed: func(ctx context.Context) error {
				values, err := s.versions(ctx)
				if err != nil {
					return err
				}
				for _, value := range values {
					if s.login(ctx, value) == nil {
						return nil
					}
				}
				return fmt.Errorf("none of the %d values Secrets Manager holds logs in", len(values))
			},
			Recovered: s.converged,
		}
	})
	fmt.Printf("crash sweep: %d points, before and after every AWS call and every message to PostgreSQL; all converge, and at each a stored credential logs in\n", points)
	if points < 40 {
		t.Errorf("only %d points: 11 AWS calls and four logins alone have more", points)
	}
}

// DESIGN's budget: 11 AWS calls, 4 logins, none of them failed.
func TestCallsAndLogins(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	before, logged := len(s.cloud.Calls()), len(database.Log())
	// The function that ships, since what else is in its registry matters.
	f := function(t, s.endpoint, "", nil)
	for _, step := range steps {
		if _, err := f.Invoke(t.Context(), s.event(step)); err != nil {
			t.Fatal(err)
		}
	}
	if calls := s.cloud.Calls()[before:]; len(calls) > 11 {
		t.Errorf("%d AWS calls: %v", len(calls), calls)
	}
	log := database.Log()[logged:]
	authorized := strings.Count(log, "connection authorized: user="+s.user)
	failed := strings.Count(log, "FATAL")
	if authorized > 4 || failed != 0 {
		t.Errorf("%d logins and %d failures, want 4 and none:\n%s", authorized, failed, log)
	}
	if err := s.converged(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestValuesComeOutTheSameButForThePassword(t *testing.T) {
	for name, form := range map[string]func(user, password string) string{
		"JSON": asJSON,
		"JSON, oddly written": func(user, password string) string {
			return strings.ReplaceAll(strings.ReplaceAll(asJSON(user, password), `"port"`, "\r\n\t\"p\\u006frt\""), ", ", " ,  ") + "\n"
		},
		"URL": func(user, password string) string {
			return fmt.Sprintf("postgres://%s:%s@%s:%d/postgres?sslmode=disable&application_name=%%7eshop\n", user, password, database.Host, database.Port)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, "the-first-password", form)
			w := &rotatortest.Wire{}
			if err := s.rotate(w); err != nil {
				t.Fatal(err)
			}
			if err := s.converged(t.Context()); err != nil {
				t.Error(err)
			}
			_, value := s.current()
			was, _ := rotators.NewSecret(s.first).Field("password")
			is, _ := rotators.NewSecret(value).Field("password")
			if strings.ReplaceAll(value, is.Reveal(), was.Reveal()) != s.first {
				t.Errorf("%q became %q", s.first, value)
			}
		})
	}
}

// A plain-text password, with its connection in a tag.
func TestPlainText(t *testing.T) {
	s := newSetup(t, "the first password", func(_, password string) string { return password })
	tag(t, s, "rekey:rotator", "postgres")
	tag(t, s, "rekey:connection", fmt.Sprintf("postgres://%s@%s:%d/postgres?sslmode=disable", s.user, database.Host, database.Port))
	if err := s.rotate(&rotatortest.Wire{}); err != nil {
		t.Fatal(err)
	}
	_, value := s.current()
	if err := database.Login(t.Context(), s.user, value); err != nil {
		t.Errorf("the stored text is not the password: %v", err)
	}
	if err := database.Login(t.Context(), s.user, s.first); !servers.Refused(err) {
		t.Errorf("the old password: %v", err)
	}
}

// The variables by which AWS's own template is told about passwords.
func TestTheTemplatesEnvironment(t *testing.T) {
	t.Setenv("PASSWORD_LENGTH", "20")
	t.Setenv("EXCLUDE_CHARACTERS", `:/@"'\abc.`)
	t.Setenv("EXCLUDE_NUMBERS", "true")
	s := newSetup(t, "the first password", asJSON)
	if err := s.rotate(&rotatortest.Wire{}); err != nil {
		t.Fatal(err)
	}
	if err := s.converged(t.Context()); err != nil {
		t.Error(err)
	}
	_, value := s.current()
	password, _ := rotators.NewSecret(value).Field("password")
	if p := password.Reveal(); len(p) != 20 || strings.ContainsAny(p, `:/@"'\abc.0123456789`) {
		t.Errorf("the password has %d characters, or one that is excluded", len(p))
	}
}

func TestAMistakeInTheEnvironmentIsNamed(t *testing.T) {
	for name, value := range map[string]string{"PASSWORD_LENGTH": "2000000000", "EXCLUDE_NUMBERS": "perhaps", "REKEY_ROTATORS": "postgres,oracle",
		"REKEY_HOSTS": "*", "REKEY_REQUIRE_TLS": "often", "REKEY_ADMINS": "all", "REKEY_ROLE_EXTERNAL_ID": "with spaces",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			s := newSetup(t, "the first password", asJSON)
			before := len(s.cloud.Calls())
			err := s.rotate(&rotatortest.Wire{})
			var mistake *functions.EnvironmentError
			if !errors.As(err, &mistake) || !strings.Contains(err.Error(), name) || !rotators.IsPermanent(err) {
				t.Errorf("got %v", err)
			}
			if len(s.cloud.Calls()) != before {
				t.Error("and yet AWS was called")
			}
		})
	}
}

// What rotators log is JSON, as Lambda was told that it is.
func TestRotatorsLogAsTheFunctionDoes(t *testing.T) {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	functions.SecretRotator(aws.Config{}, rotators.Registry{})
	if got, want := fmt.Sprintf("%T", slog.Default().Handler()), fmt.Sprintf("%T", lambdacontext.NewLogHandler()); got != want {
		t.Errorf("they log by a %s, and the function by a %s", got, want)
	}
}

func TestAFunctionLimitedToSomeRotators(t *testing.T) {
	t.Setenv("REKEY_ROTATORS", " postgres ")
	s := newSetup(t, "the first password", asJSON)
	if err := s.rotate(&rotatortest.Wire{}); err != nil {
		t.Error(err)
	}
}

// An event the function does not take is an error that says what is wrong with
// it, and changes nothing.
func TestEvents(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	before := len(s.cloud.Calls())
	cfg := s.as("secret-rotator", http.DefaultTransport)
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, nil)})
	for payload, mention := range map[string]string{
		``:                        "JSON",
		`null`:                    "Step is missing",
		`{`:                       "JSON",
		`[]`:                      "JSON",
		`"createSecret"`:          "JSON",
		`{}`:                      "Step is missing",
		`{"Step":"createSecret"}`: "SecretId is missing",
		`{"Step":"createSecret","SecretId":"arn"}`:                                                                   "ClientRequestToken is missing",
		`{"Step":"createSecret","SecretId":"arn","ClientRequestToken":"short"}`:                                      "5 characters",
		`{"Step":"dropSecret","SecretId":"arn","ClientRequestToken":"` + token + `"}`:                                `"dropSecret"`,
		`{"Step":"createSecret","SecretId":"arn","ClientRequestToken":"` + token + `","RotationToken":123456789123}`: "RotationToken",
	} {
		_, err := h.Invoke(t.Context(), []byte(payload))
		var bad *functions.EventError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), mention) {
			t.Errorf("%s: %v", payload, err)
		}
		if err != nil && strings.Contains(err.Error(), "123456789123") {
			t.Errorf("the error holds a rotation token: %v", err)
		}
	}
	if calls := s.cloud.Calls()[before:]; len(calls) != 0 {
		t.Errorf("and yet AWS was called: %v", calls)
	}
}

// A token that is not of this rotation, and a version that was overtaken.
func TestOtherVersionsTokens(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	cfg := s.as("secret-rotator", http.DefaultTransport)
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, nil)})
	unchanged := func(what string) {
		t.Helper()
		for _, step := range steps {
			event := strings.ReplaceAll(string(s.event(step)), token, "99999999-9999-4999-8999-999999999999")
			if what == "overtaken" {
				event = string(s.event(step))
			}
			_, err := h.Invoke(t.Context(), []byte(event))
			var failed *rotation.StepError
			if !errors.As(err, &failed) || failed.Step.String() != step || failed.ID != s.arn {
				t.Errorf("%s, %s: %v", what, step, err)
			}
		}
		if err := s.login(t.Context(), s.first); err != nil {
			t.Errorf("%s: the first password: %v", what, err)
		}
	}
	unchanged("a foreign token")
	if _, err := h.Invoke(t.Context(), s.event("createSecret")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &s.arn, SecretString: aws.String(s.first + " ")}); err != nil {
		t.Fatal(err)
	}
	unchanged("overtaken")
}

// After an attempt that was abandoned between Set and finish, the database has a
// password that no label names. The next rotation finds it.
func TestAnAbandonedPasswordIsFound(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	invoke := s.handler(&rotatortest.Wire{})
	for _, step := range steps[:2] {
		if err := invoke(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	// Twice, so that the abandoned version is not even the previous one.
	for _, space := range []string{" ", "  "} {
		if _, err := s.client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &s.arn, SecretString: aws.String(s.first + space)}); err != nil {
			t.Fatal(err)
		}
	}
	const next = "22222222-2222-4222-8222-222222222222"
	if err := s.cloud.Reserve(s.arn, next); err != nil {
		t.Fatal(err)
	}
	cfg := s.as("secret-rotator", http.DefaultTransport)
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, nil)})
	for _, step := range steps {
		if _, err := h.Invoke(t.Context(), []byte(strings.ReplaceAll(string(s.event(step)), token, next))); err != nil {
			t.Fatal(err)
		}
	}
	if _, value := s.current(); s.login(t.Context(), value) != nil {
		t.Error("what readers get does not log in")
	}
}

func tag(t *testing.T, s *setup, key, value string) {
	t.Helper()
	if err := s.tag(key, value); err != nil {
		t.Fatal(err)
	}
}

func (s *setup) tag(key, value string) error {
	_, err := s.client.TagResource(s.t.Context(), &secretsmanager.TagResourceInput{SecretId: &s.arn, Tags: []types.Tag{{Key: &key, Value: &value}}})
	return err
}
