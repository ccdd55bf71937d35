package functions_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// newAlternating makes a secret with masterarn, and the admin's secret with it.
// The admin is one as RDS has them, no superuser.
func newAlternating(t *testing.T) *setup {
	t.Helper()
	var admin string
	s := newSetup(t, "the first password", func(user, password string) string {
		admin = "admin_of_" + user
		return strings.Replace(asJSON(user, password), "}", `, "masterarn":"`+admin+`" }`, 1)
	})
	for _, sql := range []string{
		"CREATE ROLE " + admin + " LOGIN CREATEROLE PASSWORD 'the admins password'",
		"GRANT " + s.user + " TO " + admin + " WITH ADMIN OPTION",
		"ALTER ROLE " + s.user + " SET work_mem TO '7MB'",
	} {
		if err := database.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &admin, SecretString: aws.String(asJSON(admin, "the admins password"))}); err != nil {
		t.Fatal(err)
	}
	return s
}

// rotateAs takes all four steps with a token of its own.
func (s *setup) rotateAs(ctx context.Context, w *rotatortest.Wire, token string) error {
	cfg := s.as("secret-rotator", w)
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, &postgres.Options{Dial: w.DialContext})})
	for _, step := range steps {
		if _, err := h.Invoke(ctx, []byte(strings.ReplaceAll(string(s.event(step)), tokenOf(1), token))); err != nil {
			return err
		}
	}
	return nil
}

// tokenOf is the token of the nth rotation; that of the first is the one of all
// other tests.
func tokenOf(n int) string { return fmt.Sprintf("%d1111111-1111-4111-8111-111111111111", n) }

// serves logs in with a value and says how the login differs from one of the base
// user.
func (s *setup) serves(ctx context.Context, value string) error {
	config, err := pgconn.ParseConfig("sslmode=disable dbname=postgres")
	if err != nil {
		return err
	}
	v := rotators.NewSecret(value)
	user, _ := v.Field("username")
	password, _ := v.Field("password")
	config.Host, config.Port, config.User, config.Password = database.Host, uint16(database.Port), user.Reveal(), password.Reveal()
	config.Fallbacks = nil
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	r, err := conn.Exec(ctx, "SELECT current_user || ' ' || current_setting('work_mem')").ReadAll()
	if err != nil {
		return err
	}
	if got := string(r[0].Rows[0][0]); got != s.user+" 7MB" {
		return fmt.Errorf("user %s logs in as %s", user.Reveal(), got)
	}
	return nil
}

// Four rotations in a row through the handler that ships.
func TestAlternatingUsers(t *testing.T) {
	s := newAlternating(t)
	_, before := s.current()
	for n := 1; n <= 4; n++ {
		if n > 1 {
			if err := s.cloud.Reserve(s.arn, tokenOf(n)); err != nil {
				t.Fatal(err)
			}
		}
		calls, logged := len(s.cloud.Calls()), len(database.Log())
		if err := s.rotateAs(t.Context(), &rotatortest.Wire{}, tokenOf(n)); err != nil {
			t.Fatal(err)
		}
		// One user's 11, the admin's login, and the previous value. AWS's template
		// needs 14.
		if c := s.cloud.Calls()[calls:]; len(c) > 13 {
			t.Errorf("rotation %d: %d AWS calls: %v", n, len(c), c)
		}
		if strings.Contains(database.Log()[logged:], "FATAL") {
			t.Errorf("rotation %d: a login failed", n)
		}
		_, now := s.current()
		if want := s.user + []string{"", "_clone"}[n%2]; !strings.Contains(now, `"username":"`+want+`"`) {
			t.Errorf("rotation %d: not the turn of %s", n, want)
		}
		for what, value := range map[string]string{"current": now, "previous": before} {
			if err := s.serves(t.Context(), value); err != nil {
				t.Errorf("rotation %d: the %s value: %v", n, what, err)
			}
		}
		before = now
	}
}

// Every point before and after every AWS call and every message to PostgreSQL of
// a rotation to a twin that there is, and that lacks all rights of the base.
func TestCrashSweepAlternating(t *testing.T) {
	points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
		s := newAlternating(t)
		if err := database.Exec(t.Context(), "CREATE ROLE "+s.user+"_clone LOGIN PASSWORD 'the second password'",
			"GRANT "+s.user+"_clone TO admin_of_"+s.user+" WITH ADMIN OPTION"); err != nil {
			t.Fatal(err)
		}
		twins := strings.NewReplacer(`"`+s.user+`"`, `"`+s.user+`_clone"`, "first", "second").Replace(s.first)
		for _, value := range []string{twins, s.first} {
			if _, err := s.client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &s.arn, SecretString: &value}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.cloud.Reserve(s.arn, tokenOf(3)); err != nil {
			t.Fatal(err)
		}
		readers := func(ctx context.Context) error {
			out, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn})
			if err != nil {
				return err
			}
			return s.serves(ctx, *out.SecretString)
		}
		return rotatortest.Scenario{
			Run:     func(ctx context.Context) error { return s.rotateAs(ctx, w, tokenOf(3)) },
			Crashed: readers,
			Recovered: func(ctx context.Context) error {
				if version, _ := s.current(); version != tokenOf(3) {
					return fmt.Errorf("version %s is current", version)
				}
				return readers(ctx)
			},
		}
	})
	fmt.Printf("crash sweep, alternating users: %d points; all converge, and at each what readers get logs in with every right\n", points)
	if points < 60 {
		t.Errorf("only %d points", points)
	}
}

// A secret that proves nothing is rotated only if the admin's owner says so.
func TestAdminFor(t *testing.T) {
	s := newAlternating(t)
	if err := database.Exec(t.Context(), "ALTER ROLE "+s.user+" PASSWORD 'changed by hand'"); err != nil {
		t.Fatal(err)
	}
	err := s.rotateAs(t.Context(), &rotatortest.Wire{}, token)
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "rekey:admin-for") {
		t.Fatalf("got %v", err)
	}
	if _, err := s.client.TagResource(t.Context(), &secretsmanager.TagResourceInput{
		SecretId: aws.String("admin_of_" + s.user), Tags: []types.Tag{{Key: aws.String("rekey:admin-for"), Value: aws.String("other app")}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.rotateAs(t.Context(), &rotatortest.Wire{}, token); err != nil {
		t.Fatal(err)
	}
	if _, now := s.current(); s.serves(t.Context(), now) != nil {
		t.Error("the current value does not serve")
	}
}

// Of a plain-text value only the password is stored, so there can be no other user.
func TestPlainTextDoesNotAlternate(t *testing.T) {
	s := newSetup(t, "the first password", func(_, password string) string { return password })
	tag(t, s, "rekey:rotator", "postgres")
	tag(t, s, "rekey:admin", "nobody")
	tag(t, s, "rekey:connection", fmt.Sprintf("postgres://%s@%s:%d/postgres?sslmode=disable", s.user, database.Host, database.Port))
	err := s.handler(&rotatortest.Wire{})(t.Context(), "createSecret")
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "single-user") {
		t.Errorf("got %v", err)
	}
}
