package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// rotate runs Create, Set and Test and returns the value they moved to.
func rotate(t *testing.T, r rotators.Rotator, current rotators.Secret) rotators.Secret {
	t.Helper()
	pending, err := r.Create(t.Context(), rotators.Rotation{Current: current})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Set(t.Context(), rotators.Rotation{Current: current, Pending: pending}); err != nil {
		t.Fatal(err)
	}
	if err := r.Test(t.Context(), rotators.Rotation{Pending: pending}); err != nil {
		t.Fatal(err)
	}
	return pending
}

func TestRotate(t *testing.T) {
	for _, c := range []struct{ name, user, password string }{
		{"ordinary", "app", "correct horse"},
		{"quotes and backslashes", `o'br"ien\`, `'"\'' OR 1=1 --`},
		{"percent and dollar", `100%s$1 $$`, `%41%s$HOME$$a$$`},
		{"spaces", " a b ", " c  d "},
		{"URL characters", `u:s/e@r?#&+`, `p:w/@d?#&=+;`},
		{"unicode", "ünï名😀", "pässwörd名😀"},
		{"63 bytes", strings.Repeat("ü", 31) + "x", strings.Repeat("long", 100)},
		{"a word of SQL", "current_user", "NULL"},
	} {
		spellings := map[string]func(*testing.T) rotators.Secret{
			"JSON": func(t *testing.T) rotators.Secret { return newUser(t, secure, c.user, c.password) },
			"URL": func(t *testing.T) rotators.Secret {
				newUser(t, secure, c.user, c.password)
				u := url.URL{Scheme: "postgres", User: url.UserPassword(c.user, c.password), Host: fmt.Sprintf("localhost:%d", secure.Port), Path: "/postgres"}
				return rotators.NewSecret(u.String())
			},
			"URL in a field": func(t *testing.T) rotators.Secret {
				newUser(t, secure, c.user, c.password)
				u := url.URL{Scheme: "PostgreSQL+asyncpg", User: url.UserPassword(c.user, c.password), Host: fmt.Sprintf("localhost:%d", secure.Port), Path: "/postgres"}
				return rotators.NewSecret(fmt.Sprintf(`{"SECRET_KEY_BASE":"x", "DATABASE_URL" : %q}`, u.String()))
			},
			"JDBC": func(t *testing.T) rotators.Secret {
				newUser(t, secure, c.user, c.password)
				return rotators.NewSecret(fmt.Sprintf("jdbc:postgresql://localhost:%d/postgres?user=%s&ssl=true&password=%s", secure.Port, url.QueryEscape(c.user), url.QueryEscape(c.password)))
			},
			"libpq": func(t *testing.T) rotators.Secret {
				newUser(t, secure, c.user, c.password)
				quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
				return rotators.NewSecret(fmt.Sprintf("host=localhost port=%d user='%s' password='%s' dbname=postgres", secure.Port, quote(c.user), quote(c.password)))
			},
		}
		for spelling, newValue := range spellings {
			t.Run(c.name+" "+spelling, func(t *testing.T) {
				w, current := new(wire), newValue(t)
				inBefore, refusedBefore := logins(secure, c.user)
				pending := rotate(t, w.rotator(), current)
				in, refused := logins(secure, c.user)
				if in -= inBefore; in != 4 || refused != refusedBefore || w.dials.Load() != 4 {
					t.Errorf("%d logins, %d refused, %d connections; want 4, 0, 4", in, refused-refusedBefore, w.dials.Load())
				}
				if accepts(t, current) {
					t.Error("the old password still works")
				}
				if back := with(t, pending, c.password); !back.Equal(with(t, current, c.password)) {
					t.Error("more than the password was changed")
				}
				if len(password(t, pending)) != 32 {
					t.Errorf("a password of %d characters", len(password(t, pending)))
				}
				without(t, secure.Log(), password(t, pending))
			})
		}
	}
}

// TestRoleSettings rotates users whose own settings stand in the way.
func TestRoleSettings(t *testing.T) {
	exec(t, secure, "CREATE ROLE owner")
	t.Cleanup(func() { exec(t, secure, "DROP ROLE owner") })
	for user, settings := range map[string][]string{
		"becomes":  {"GRANT owner TO becomes", "ALTER ROLE becomes SET role TO owner"},
		"readonly": {"ALTER ROLE readonly SET default_transaction_read_only TO on"},
		"quotes":   {"ALTER ROLE quotes SET standard_conforming_strings TO off", "ALTER ROLE quotes SET quote_all_identifiers TO on"},
		"lonely":   {"ALTER ROLE lonely CONNECTION LIMIT 2", "ALTER ROLE lonely VALID UNTIL '2100-01-01'"},
		"serial":   {"ALTER ROLE serial SET default_transaction_isolation TO serializable", "ALTER ROLE serial SET default_transaction_deferrable TO on"},
		"tlsonly":  {},
	} {
		t.Run(user, func(t *testing.T) {
			current := newUser(t, secure, user, "before")
			for _, s := range settings {
				exec(t, secure, s)
			}
			rotate(t, new(wire).rotator(), current)
			if accepts(t, current) {
				t.Error("the old password still works")
			}
		})
	}
}

// TestOldMethods rotates users whose passwords are stored as MD5 hashes and asked
// for in the clear or as such.
func TestOldMethods(t *testing.T) {
	for _, user := range []string{"md5", "cleartext"} {
		for _, password := range []string{"before", "\u2168"} { // SASLprep would make it IX
			t.Run(user+" "+password, func(t *testing.T) {
				current := newUser(t, secure, user, password)
				exec(t, secure, "SET password_encryption TO md5; ALTER ROLE "+user+" PASSWORD '"+password+"'")
				rotate(t, new(wire).rotator(), current)
				if accepts(t, current) {
					t.Error("the old password still works")
				}
				if _, refused := logins(secure, user); refused == 0 {
					t.Error("the old password was not asked for")
				}
			})
		}
	}
}

func TestPutBack(t *testing.T) {
	for _, c := range []struct {
		name string
		// sabotage runs before the nth connection.
		sabotage func(t *testing.T, n int)
		want     want
		works    bool
	}{
		{"the new password is refused", func(t *testing.T, n int) {
			if n == 3 {
				exec(t, secure, "ALTER ROLE putback PASSWORD 'somebody else''s'")
			}
		}, want{text: "refused the new password .* old one was put back and works"}, true},
		{"and so is the old one", func(t *testing.T, n int) {
			if n >= 3 {
				exec(t, secure, "ALTER ROLE putback PASSWORD 'somebody else''s'")
			}
		}, want{text: "putting the old one back FAILED"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			current := newUser(t, secure, "putback", "öld password")
			pending := with(t, current, "the-new-password")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := &wire{before: func(n int) error {
				c.sabotage(t, n)
				return nil
			}}
			err := w.rotator().Set(ctx, rotators.Rotation{Current: current, Pending: pending})
			c.want.check(t, err, "öld password", "the-new-password")
			if w.dials.Load() != 4 {
				t.Errorf("%d connections, want 4", w.dials.Load())
			}
			if accepts(t, current) != c.works || accepts(t, pending) {
				t.Error("not the password that should work")
			}
		})
	}
}

// TestPutBackOutlivesTheCaller cancels the caller's context at the moment the
// new password is refused.
func TestPutBackOutlivesTheCaller(t *testing.T) {
	current := newUser(t, secure, "outlived", "old")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	engine := database.Engine{Name: "PostgreSQL", Port: 5432, MaxUser: 63, Database: "postgres"}
	opens, c := 0, newConnector(nil)
	engine.Open = func(ctx context.Context, l database.Login) (database.Session, error) {
		if opens++; opens == 3 {
			cancel()
			return nil, rotators.Refused(errors.New("refused"))
		}
		return c.open(ctx, l)
	}
	err := database.New(engine).Set(ctx, rotators.Rotation{Current: current, Pending: with(t, current, "new")})
	want{text: "put back and works"}.check(t, err)
	if !accepts(t, current) {
		t.Error("the old password was not put back")
	}
}

func TestProofThatCannotBeMade(t *testing.T) {
	current := newUser(t, secure, "unproved", "old")
	pending := with(t, current, "the-new-password")
	broken := true
	w := &wire{before: func(n int) error {
		if n == 3 && broken {
			return errors.New("the network is down")
		}
		return nil
	}}
	r := w.rotator()
	attempt := rotators.Rotation{Current: current, Pending: pending}
	err := r.Set(t.Context(), attempt)
	want{text: "was changed but could not be tried, .* the network is down"}.check(t, err, "the-new-password")
	if accepts(t, current) || !accepts(t, pending) {
		t.Fatal("something was put back")
	}
	broken = false
	if err := r.Set(t.Context(), attempt); err != nil {
		t.Errorf("the retry: %v", err)
	}

}

// TestLadder changes the password under the rotator's feet, to one of the values
// it may still know.
func TestLadder(t *testing.T) {
	current := newUser(t, secure, "climber", "now")
	named := func(password string) rotators.Secret { return with(t, current, password) }
	other := func(password string) rotators.Secret { return value(secure, "somebody", password) }
	elsewhere := value(secure, "climber", "live", "host", "db.invalid")
	var none rotators.Secret

	for _, c := range []struct {
		name      string
		previous  rotators.Secret
		leftovers []rotators.Secret
		live      string // what the server takes
		dials     int32
		works     bool
	}{
		{"pending", none, nil, "next", 2, true},
		{"previous", named("before"), nil, "before", 5, true},
		{"previous, and its password alone", value(secure, "climber", "before", "ssl", "false", "dbname", "missing"), nil, "before", 5, true},
		{"the third leftover", named("before"), []rotators.Secret{named("a"), named("b"), named("c")}, "c", 8, true},
		{"tried once", named("next"), []rotators.Secret{named("now"), named("a"), named("next"), named("a")}, "live", 3, false},
		{"no leftover past the fifth", none, []rotators.Secret{named("1"), named("2"), named("3"), named("4"), named("5"), named("live")}, "live", 7, false},
		{"other accounts' are no rungs", other("live"), []rotators.Secret{other("live"), elsewhere, rotators.NewSecret("live"), named("a")}, "live", 3, false},
		{"nothing", none, nil, "live", 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			exec(t, secure, "ALTER ROLE climber PASSWORD %L", c.live)
			w := new(wire)
			err := w.rotator().Set(t.Context(), rotators.Rotation{
				Current: current, Pending: named("next"),
				Previous:  func(context.Context) (rotators.Secret, error) { return c.previous, nil },
				Leftovers: sequence(c.leftovers),
			})
			if w.dials.Load() != c.dials {
				t.Errorf("%d logins, want %d", w.dials.Load(), c.dials)
			}
			if c.works {
				if err != nil {
					t.Fatal(err)
				}
				if !accepts(t, named("next")) {
					t.Error("the pending password does not work")
				}
				return
			}
			want{text: "refuses the current password .* and each other one", permanent: true}.check(t, err)
			if !accepts(t, named(c.live)) {
				t.Error("the server's password was changed")
			}
		})
	}

	onlyWithTLS(t, secure, "climber")

	t.Run("what is put back is what opened", func(t *testing.T) {
		exec(t, secure, "ALTER ROLE climber PASSWORD 'before'")
		w := &wire{before: func(n int) error {
			if n == 5 { // current, pending, previous, the same once more, then the proof
				exec(t, secure, "ALTER ROLE climber PASSWORD 'live'")
			}
			return nil
		}}
		err := w.rotator().Set(t.Context(), rotators.Rotation{
			Current: current, Pending: named("next"),
			Previous: func(context.Context) (rotators.Secret, error) { return named("before"), nil },
		})
		want{text: "put back and works"}.check(t, err)
		if !accepts(t, named("before")) {
			t.Error("the password that opened the session does not work")
		}
	})

	t.Run("a failure ends it", func(t *testing.T) {
		exec(t, secure, "ALTER ROLE climber PASSWORD 'before'")
		down := errors.New("the network is down")
		w := &wire{before: func(n int) error {
			if n == 2 {
				return down
			}
			return nil
		}}
		attempt := rotators.Rotation{
			Current: current, Pending: named("next"),
			Previous: func(context.Context) (rotators.Secret, error) { return none, down },
		}
		err := w.rotator().Set(t.Context(), attempt)
		want{text: "cannot be reached: .*the network is down"}.check(t, err)
		if !errors.Is(err, down) || w.dials.Load() != 2 {
			t.Errorf("%d logins, want 2; %v", w.dials.Load(), err)
		}
		if err := New(awsConfig, nil).Set(t.Context(), attempt); !errors.Is(err, down) || rotators.IsPermanent(err) {
			t.Errorf("a previous value that cannot be read: %v", err)
		}
	})
}

func sequence(values []rotators.Secret) func(context.Context) iter.Seq2[rotators.Secret, error] {
	return func(context.Context) iter.Seq2[rotators.Secret, error] {
		return func(yield func(rotators.Secret, error) bool) {
			for v := range slices.Values(values) {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
}

// TestFailedStatement makes changes that the server refuses: the session serves
// on, and the log, which holds the statement, does not hold the password.
func TestFailedStatement(t *testing.T) {
	current := newUser(t, secure, "limited", "current-password")
	newUser(t, secure, "victim", "victims-password")
	s, err := newConnector(nil).open(t.Context(), database.Login{
		Host: "localhost", Port: secure.Port, User: "limited", Password: rotators.NewSecret("current-password"), Database: "postgres"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())

	const password = `new-'"\-password`
	err = s.SetPasswords(t.Context(), "victim", rotators.NewSecret(password))
	want{text: "may not change the password: .*rds_password", permanent: true}.check(t, err, password)
	err = s.SetPasswords(t.Context(), "nobody here", rotators.NewSecret(password))
	want{text: "does not exist"}.check(t, err, password)
	err = s.SetPasswords(t.Context(), "NUL\x00", rotators.NewSecret(password))
	want{text: "NUL", permanent: true}.check(t, err, password)
	err = s.SetPasswords(t.Context(), "limited", rotators.NewSecret(password), rotators.NewSecret("current-password"))
	want{text: "one password, not 2", permanent: true}.check(t, err, password)
	if !accepts(t, current) || !accepts(t, value(secure, "victim", "victims-password")) {
		t.Fatal("a password was changed")
	}
	if err := s.SetPasswords(t.Context(), "limited", rotators.NewSecret(password)); err != nil {
		t.Fatalf("the session is of no use after a failed statement: %v", err)
	}
	if !accepts(t, with(t, current, password)) {
		t.Error("the password was not changed")
	}
	log := secure.Log()
	if !strings.Contains(log, `ALTER ROLE "victim" PASSWORD`) {
		t.Error("the log does not hold the statement, so it proves nothing")
	}
	without(t, log, password)
}

func TestReplica(t *testing.T) {
	current := value(replica, replica.User, replica.Password, "ssl", "false")
	err := New(awsConfig, nil).Set(t.Context(), rotators.Rotation{Current: current, Pending: with(t, current, "new-password")})
	want{text: "read-only replica: name the writer", permanent: true}.check(t, err, replica.Password, "new-password")
	without(t, replica.Log(), "new-password")
}

// TestEnvironment sets everything that PostgreSQL's own programs read from the
// environment to something that would spoil a login.
func TestEnvironment(t *testing.T) {
	current := newUser(t, secure, "surrounded", "before")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"PGHOST": "db.invalid", "PGHOSTADDR": "192.0.2.1", "PGPORT": "nonsense", "PGDATABASE": "nonsense", "PGUSER": "nonsense",
		"PGPASSWORD": "nonsense", "PGPASSFILE": dir, "PGAPPNAME": "nonsense", "PGCONNECT_TIMEOUT": "nonsense",
		"PGSSLMODE": "nonsense", "PGSSLKEY": "nonsense", "PGSSLCERT": "nonsense", "PGSSLCERTMODE": "nonsense", "PGSSLSNI": "nonsense",
		"PGSSLROOTCERT": "nonsense", "PGSSLPASSWORD": "nonsense", "PGSSLNEGOTIATION": "direct", "PGREQUIRESSL": "0",
		"PGTARGETSESSIONATTRS": "standby", "PGSERVICE": "nonsense", "PGSERVICEFILE": "/nonsense", "PGTZ": "nonsense",
		"PGOPTIONS": "-c nonsense=on", "PGMINPROTOCOLVERSION": "nonsense", "PGMAXPROTOCOLVERSION": "nonsense",
		"PGCHANNELBINDING": "nonsense", "PGREQUIREAUTH": "none", "PGCLIENTENCODING": "nonsense", "HOME": dir,
	} {
		t.Setenv(name, text)
	}
	if _, err := pgconn.ParseConfig("host=localhost"); err == nil {
		t.Fatal("the driver is not impressed, so this proves nothing")
	}
	rotate(t, New(awsConfig, nil), current)
	if in, _ := logins(secure, "surrounded"); in != strings.Count(secure.Log(), "user=surrounded database=postgres application_name=rekey SSL enabled") {
		t.Error("a login without TLS, to another database or by another name")
	}
}

// TestServersThatKnowNoVerifiers changes nothing on a server that would take a
// verifier for the password itself, and the same when the old one is put back.
func TestServersThatKnowNoVerifiers(t *testing.T) {
	current := newUser(t, plain, "ancient", "before")
	for version, want := range map[string]want{
		"9.6.24":            {text: `9\.6\.24, .*PostgreSQL 10`, permanent: true},
		"8.0.2":             {text: `8\.0\.2, .*PostgreSQL 10`, permanent: true}, // Amazon Redshift
		"9.4.24 (Greenplum": {text: "PostgreSQL 10", permanent: true},
	} {
		opened, err := newConnector(nil).open(t.Context(), loginOf(t, current))
		if err != nil {
			t.Fatal(err)
		}
		// The server is real, and what it says of itself is not.
		parts, err := opened.(*session).conn.Hijack()
		if err != nil {
			t.Fatal(err)
		}
		parts.ParameterStatuses["server_version"] = version
		conn, err := pgconn.Construct(parts)
		if err != nil {
			t.Fatal(err)
		}
		s := &session{conn: conn, wire: opened.(*session).wire, login: loginOf(t, current)}
		want.check(t, s.SetPasswords(t.Context(), "ancient", rotators.NewSecret("after")), "before", "after")
		_ = s.Close(t.Context())
	}
	if !accepts(t, current) {
		t.Error("the password was changed")
	}
	for version, old := range map[string]bool{"10.23": false, "15.18 (Debian 15.18-0+deb12u1)": false, "19beta1": false, "": false, "unknown": false, "9.6devel": true} {
		if predatesVerifiers(version) != old {
			t.Errorf("%q: %t", version, !old)
		}
	}
}
