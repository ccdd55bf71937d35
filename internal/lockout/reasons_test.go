package lockout

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/servers"
)

// reasons are all for which a server is known to refuse a login.
var reasons = []reason{
	{"none", map[string]on{
		"PostgreSQL": {want: always(works)}, "MySQL": {want: always(works)}, "Redis": {want: always(works)},
	}},

	{"the password is wrong", map[string]on{
		"PostgreSQL": {wrong: true, want: wrongPassword}, "MySQL": {wrong: true, want: wrongPassword}, "Redis": {wrong: true, want: wrongPassword},
	}},

	{"the host", map[string]on{
		"PostgreSQL": {want: always(`! does not let user .* from here, whatever the password: .*pg_hba.conf`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inPostgres(t, "GRANT shut TO "+u.name)
			return func(t *testing.T, u user) { inPostgres(t, "REVOKE shut FROM "+u.name) }
		}},
		"MySQL": {want: byOwner("the password of user .* is right, the server has stored it, and this login was refused all the same"), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inMySQL(t, "RENAME USER "+u.name+"@'%' TO "+u.name+"@'"+applications+"'")
			return nothing
		}},
		"Redis": {missing: "a Redis user logs in from anywhere"},
	}},

	// The application's account has more rights than the one that rekey logs in to.
	{"another account of the same name and password", map[string]on{
		"PostgreSQL": {missing: "a PostgreSQL user is one account"},
		"MySQL": {arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inMySQL(t, "CREATE USER "+u.name+"@'"+applications+"' IDENTIFIED BY '"+current+"'", "GRANT ALL ON shop.* TO "+u.name+"@'"+applications+"'",
				"GRANT SELECT ON mysql.* TO "+u.name) // else it cannot see the other account
			return nothing
		}, want: func(s strategy) string {
			if s.itself {
				return `! the password of '\w+'@'%' is also that of '\w+'@'127.0.0.2', .* name an admin`
			}
			return works
		}},
		"Redis": {missing: "a Redis user is one account"},
	}},

	{"a certificate", map[string]on{
		"PostgreSQL": {want: always(`! does not let user .* whatever the password`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inPostgres(t, "GRANT certified TO "+u.name)
			return func(t *testing.T, u user) { inPostgres(t, "REVOKE certified FROM "+u.name) }
		}},
		"MySQL": {want: byOwner(`the password of user .* is right, .*certificate`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inMySQL(t, "ALTER USER "+u.name+" REQUIRE X509")
			return func(t *testing.T, u user) { inMySQL(t, "ALTER USER "+u.name+" REQUIRE NONE") }
		}},
		"Redis": {missing: "Redis asks clients for certificates before it knows whose login it is: no connection is made then"},
	}},

	{"the expiry", map[string]on{
		"PostgreSQL": {arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inPostgres(t, "ALTER ROLE "+u.name+" VALID UNTIL '2020-01-01'")
			return func(t *testing.T, u user) { inPostgres(t, "ALTER ROLE "+u.name+" VALID UNTIL 'infinity'") }
		}, want: func(s strategy) string {
			if s.delegated {
				return `! user .* has expired \(VALID UNTIL '2020-01-01`
			}
			if s.admin {
				return "! does not act for .* or the user has expired"
			}
			return "! refuses the current password .*see that the user has not expired"
		}},
		"MySQL": {want: always(`! takes this password, and it has expired`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			before := stored(t, u)
			inMySQL(t, "ALTER USER "+u.name+" PASSWORD EXPIRE")
			return func(t *testing.T, u user) {
				// Only another password ends that, so the application logs in by one after.
				if stored(t, u) != before {
					t.Error("the server has stored another password")
				}
				inMySQL(t, "ALTER USER "+u.name+" IDENTIFIED BY '"+current+"'")
			}
		}},
		"Redis": {missing: "Redis has no expiry"},
	}},

	{"a lock", map[string]on{
		"PostgreSQL": {want: always(`! does not let user .*ALTER ROLE .. LOGIN`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inPostgres(t, "ALTER ROLE "+u.name+" NOLOGIN")
			return func(t *testing.T, u user) { inPostgres(t, "ALTER ROLE "+u.name+" LOGIN") }
		}},
		"MySQL": {want: always(`! has user .* locked`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inMySQL(t, "ALTER USER "+u.name+" ACCOUNT LOCK")
			return func(t *testing.T, u user) { inMySQL(t, "ALTER USER "+u.name+" ACCOUNT UNLOCK") }
		}},
		"Redis": {arrange: func(t *testing.T, u user) func(*testing.T, user) {
			do(t, "ACL", "SETUSER", u.name, "off")
			return func(t *testing.T, u user) { do(t, "ACL", "SETUSER", u.name, "on") }
		}, want: func(s strategy) string {
			if s.delegated {
				return `! is off at Redis`
			}
			return `! refuses .* or the user is off`
		}},
	}},

	// All connections but one are the application's.
	{"the limit of connections", map[string]on{
		"PostgreSQL": {want: oneLeft("CONNECTION LIMIT"), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inPostgres(t, "ALTER ROLE "+u.name+" CONNECTION LIMIT 3")
			return pool(t, u, 2)
		}},
		"MySQL": {want: oneLeft("MAX_USER_CONNECTIONS"), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			inMySQL(t, "ALTER USER "+u.name+" WITH MAX_USER_CONNECTIONS 3")
			return pool(t, u, 2)
		}},
		"Redis": {missing: "Redis limits the connections of all users together (maxclients): rotators/redis tests that"},
	}},

	{"too few connections in an hour", map[string]on{
		"PostgreSQL": {missing: "PostgreSQL counts no logins"},
		"MySQL": {want: always(`! may log in 2 times in an hour \(MAX_CONNECTIONS_PER_HOUR\)`), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			return hourly(t, u, 2, 0)
		}},
		"Redis": {missing: "Redis counts no logins"},
	}},
	{"all connections of the hour but one used up", map[string]on{
		"PostgreSQL": {missing: "PostgreSQL counts no logins"},
		"MySQL": {arrange: func(t *testing.T, u user) func(*testing.T, user) {
			return hourly(t, u, 6, 5)
		}, want: func(s strategy) string {
			if s.alternating {
				return works // the clone has the limit for itself
			}
			return "MAX_CONNECTIONS_PER_HOUR"
		}},
		"Redis": {missing: "Redis counts no logins"},
	}},

	{"a pooler that has passwords of its own, by session", map[string]on{
		"PostgreSQL": {port: pooler(servers.PgBouncerOptions{Closed: true, Mode: "session"}), want: pooled},
		"MySQL":      {missing: noPooler}, "Redis": {missing: noPooler},
	}},
	{"a pooler that has passwords of its own, by transaction", map[string]on{
		"PostgreSQL": {port: pooler(servers.PgBouncerOptions{Closed: true, Mode: "transaction"}), want: pooled},
		"MySQL":      {missing: noPooler}, "Redis": {missing: noPooler},
	}},
	{"a pooler that has passwords of its own, by MD5", map[string]on{
		"PostgreSQL": {port: pooler(servers.PgBouncerOptions{Closed: true, AuthType: "md5"}), want: pooled},
		"MySQL":      {missing: noPooler}, "Redis": {missing: noPooler},
	}},
	{"a pooler that asks the server, by session", map[string]on{
		"PostgreSQL": {port: pooler(servers.PgBouncerOptions{Mode: "session"}), want: always(works)},
		"MySQL":      {missing: noPooler}, "Redis": {missing: noPooler},
	}},
	{"a pooler that asks the server, by transaction", map[string]on{
		"PostgreSQL": {port: pooler(servers.PgBouncerOptions{Mode: "transaction"}), want: always(works)},
		"MySQL":      {missing: noPooler}, "Redis": {missing: noPooler},
	}},

	// A rotation that goes well makes no failed login, so the account stays open.
	{"one wrong password locks the account", map[string]on{
		"PostgreSQL": {missing: "PostgreSQL counts no failed logins"},
		"MySQL":      {want: always(works), arrange: oneWrongPassword},
		"Redis":      {missing: "Redis counts no failed logins"},
	}},
	{"too many wrong passwords", map[string]on{
		"PostgreSQL": {missing: "PostgreSQL counts no failed logins"},
		"MySQL": {want: always("too many wrong passwords"), arrange: func(t *testing.T, u user) func(*testing.T, user) {
			lift := oneWrongPassword(t, u)
			if u.lets(t, u.at, u.name, "a-wrong-password") == nil {
				t.Fatal("the wrong password is right")
			}
			return lift
		}},
		"Redis": {missing: "Redis counts no failed logins"},
	}},
}

// hourly has the server let a user in so many times in an hour, of which the application
// uses up some.
func hourly(t *testing.T, u user, limit, used int) func(*testing.T, user) {
	inMySQL(t, fmt.Sprintf("ALTER USER %s WITH MAX_CONNECTIONS_PER_HOUR %d", u.name, limit), "FLUSH USER_RESOURCES")
	for range used {
		if err := u.lets(t, u.at, u.name, current); err != nil {
			t.Fatal(err)
		}
	}
	return func(t *testing.T, u user) {
		inMySQL(t, "ALTER USER "+u.name+" WITH MAX_CONNECTIONS_PER_HOUR 0", "FLUSH USER_RESOURCES")
	}
}

const noPooler = "the system's packages have no pooler for it"

func nothing(*testing.T, user) {}

func wrongPassword(s strategy) string {
	switch {
	case s.delegated:
		return works // that is what delegating is for
	case s.admin:
		return "! does not act for .* no password it has held logs in"
	}
	return "! refuses the current password .* and each other one that this secret has held"
}

// byOwner is what an admin sees, who looks before the secret has proved anything only if
// the admin's owner vouches for it.
func byOwner(admins string) func(strategy) string {
	return func(s strategy) string {
		switch {
		case s.delegated:
			return "! " + admins
		case s.admin:
			return "! does not act for .*from here, or without a client's certificate"
		}
		return "! refuses the current password .*certificate"
	}
}

// oneLeft is what becomes of a rotation for which one connection is left. An admin needs no
// more. A user that changes itself needs another for the proof.
func oneLeft(limit string) func(strategy) string {
	return func(s strategy) string {
		switch {
		case s.itself && s.overlap:
			return "did not let user .* in with the new password.*" + limit
		case s.itself:
			return "nothing was changed: .*" + limit
		}
		return works
	}
}

// pool has the application hold connections until the reason is lifted.
func pool(t *testing.T, u user, size int) func(*testing.T, user) {
	var held []func()
	for range size {
		shut, err := u.open(t.Context(), u.at, u.name, current)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, shut)
	}
	return func(*testing.T, user) {
		for _, shut := range held {
			shut()
		}
	}
}

// pooler starts a PgBouncer before the server.
func pooler(o servers.PgBouncerOptions) func(t *testing.T, u user) int {
	return func(t *testing.T, u user) int {
		o.Databases, o.Certificate = map[string]*servers.PostgresServer{"postgres": pg}, bouncer
		if o.Closed {
			o.Users = map[string]string{u.name: current, "boss": bossPassword}
		}
		return servers.StartPgBouncer(t, o).Port
	}
}

func pooled(strategy) string {
	return `! a pooler before PostgreSQL refused the new password .*auth_query`
}

func oneWrongPassword(t *testing.T, u user) func(*testing.T, user) {
	if mariaDB {
		inMySQL(t, "SET GLOBAL max_password_errors = 1")
		return func(t *testing.T, u user) {
			inMySQL(t, "SET GLOBAL max_password_errors = 4294967295", "FLUSH PRIVILEGES")
		}
	}
	inMySQL(t, "ALTER USER "+u.name+" FAILED_LOGIN_ATTEMPTS 1 PASSWORD_LOCK_TIME 1")
	return func(t *testing.T, u user) { inMySQL(t, "ALTER USER "+u.name+" ACCOUNT UNLOCK") }
}

// stored is what the server has stored of a user's passwords.
func stored(t *testing.T, u user) string {
	t.Helper()
	rows, err := sql.Query(t.Context(), fmt.Sprintf("SELECT HEX(authentication_string) FROM mysql.user WHERE User = '%s' ORDER BY Host", u.name))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, row := range rows {
		all = append(all, row[0])
	}
	return strings.Join(all, " ")
}
