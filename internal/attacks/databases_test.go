package attacks

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// database is a server as the tests see it. What they see owes nothing to rekey's code.
type database struct {
	engine  string // as values name it
	host    string // of the bank's
	port    int
	tls     bool // whether it takes TLS; Redis then takes nothing else
	overlap bool // a user can have two passwords
	twins   bool // it can have alternating users

	admin account // of a DBA, who may change every user

	exec    func(ctx context.Context, statement string) error // as a superuser; not for Redis
	create  func(ctx context.Context, user string, passwords ...string) error
	login   func(ctx context.Context, user, password string) error
	refused func(error) bool
	users   func(ctx context.Context) (map[string]string, error) // all that is stored of each
	heard   func() string                                        // the server's own log

	evil *database // the attacker's real server, at the same port of realAddress; Redis has none
	fake *fake     // the attacker's fake, at the same port of fakeAddress
	tap  *relay    // in front of evil
	path *relay    // in front of the bank's server, made when it is needed
}

// account is a user with a password.
type account struct{ user, password string }

func ofPostgres(s *servers.PostgresServer, host string) *database {
	return &database{
		engine: "postgres", host: host, port: s.Port, tls: true, twins: true,
		exec: func(ctx context.Context, statement string) error { return s.Exec(ctx, statement) },
		create: func(ctx context.Context, user string, passwords ...string) error {
			return s.Exec(ctx, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", user, passwords[0]))
		},
		login: s.Login, refused: servers.Refused, heard: s.Log,
		users: func(ctx context.Context) (map[string]string, error) {
			conn, err := s.Connect(ctx)
			if err != nil {
				return nil, err
			}
			defer conn.Close(ctx)
			results, err := conn.Exec(ctx, `SELECT rolname, concat_ws(' ', rolpassword, rolcanlogin, rolsuper, rolcreaterole, rolconnlimit, rolvaliduntil,
				(SELECT array_agg(roleid::regrole::text ORDER BY 1) FROM pg_auth_members WHERE member = a.oid),
				(SELECT array_agg(setconfig ORDER BY 1) FROM pg_db_role_setting WHERE setrole = a.oid))
				FROM pg_authid a WHERE rolname NOT LIKE 'pg\_%'`).ReadAll()
			if err != nil {
				return nil, err
			}
			all := map[string]string{}
			for _, row := range results[0].Rows {
				all[string(row[0])] = string(row[1])
			}
			return all, nil
		},
	}
}

func ofMariaDB(s *servers.MySQLServer, host string) *database {
	return &database{
		engine: "mariadb", host: host, port: s.Port, tls: true, twins: true, overlap: true,
		exec: func(ctx context.Context, statement string) error { return s.Exec(ctx, statement) },
		create: func(ctx context.Context, user string, passwords ...string) error {
			var ways []string
			for _, p := range passwords {
				ways = append(ways, "mysql_native_password USING PASSWORD('"+p+"')")
			}
			return s.Exec(ctx, "CREATE USER "+user+" IDENTIFIED VIA "+strings.Join(ways, " OR "))
		},
		login: s.Login, refused: servers.MySQLRefused, heard: s.Log,
		users: func(ctx context.Context) (map[string]string, error) {
			rows, err := s.Query(ctx, "SELECT CONCAT(User, '@', Host), Priv FROM mysql.global_priv")
			all := map[string]string{}
			for _, row := range rows {
				all[row[0]] = row[1]
			}
			return all, err
		},
	}
}

func ofRedis(s *servers.RedisServer, host string) *database {
	return &database{
		engine: "redis", host: host, port: s.Port, overlap: true,
		create: func(ctx context.Context, user string, passwords ...string) error {
			rules := []any{"ACL", "SETUSER", user, "on", "~*", "+@all"}
			for _, p := range passwords {
				rules = append(rules, ">"+p)
			}
			_, err := s.Do(ctx, rules...)
			return err
		},
		login: s.Login, refused: servers.RedisRefused, heard: s.Log,
		users: func(ctx context.Context) (map[string]string, error) {
			reply, err := s.Do(ctx, "ACL", "LIST")
			all := map[string]string{}
			lines, _ := reply.([]any)
			for _, line := range lines {
				text, _ := line.(string)
				if fields := strings.Fields(text); len(fields) > 1 {
					all[fields[1]] = text
				}
			}
			return all, err
		},
	}
}

// makeAdmin makes the DBA.
func (d *database) makeAdmin(ctx context.Context) error {
	d.admin = account{"the_dba", "DBA-" + rand.Text()}
	err := d.create(ctx, d.admin.user, d.admin.password)
	switch d {
	case bankPostgres:
		return errors.Join(err, d.exec(ctx, "ALTER ROLE the_dba SUPERUSER"))
	case bankMariaDB:
		return errors.Join(err, d.exec(ctx, "GRANT ALL ON *.* TO the_dba WITH GRANT OPTION"))
	}
	return err
}

// shadow has the attacker listen at the port of d: with the real server, if there is one,
// and with a fake.
func (d *database) shadow(certificate tls.Certificate) (err error) {
	if d.evil != nil {
		if d.tap, err = newRelay(realAddress, d.port, net.JoinHostPort("127.0.0.1", strconv.Itoa(d.evil.port))); err != nil {
			return err
		}
	}
	d.fake, err = newFake(d.engine, fakeAddress, d.port, certificate)
	return err
}

// accepts reports whether the server lets a user in with a password.
func (d *database) accepts(t *testing.T, user, password string) bool {
	t.Helper()
	err := d.login(t.Context(), user, password)
	if err != nil && !d.refused(err) {
		t.Fatalf("%s: cannot tell whether %s logs in: %v", d.engine, user, err)
	}
	return err == nil
}

// stored is what the server stores of all its users.
func (d *database) stored(t *testing.T) map[string]string {
	t.Helper()
	users, err := d.users(t.Context())
	if err != nil || len(users) == 0 {
		t.Fatalf("%s: %d users (%v)", d.engine, len(users), err)
	}
	return users
}

// changed lists the users that differ.
func changed(before, after map[string]string) (names []string) {
	for name, was := range before {
		if after[name] != was {
			names = append(names, name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// value writes a value as JSON. Pairs of more fields follow; one that is nil leaves the
// field out.
func (d *database) value(a account, more ...any) string {
	fields := map[string]any{"engine": d.engine, "host": d.host, "port": d.port, "username": a.user, "password": a.password}
	if d == clearRedis {
		fields["ssl"] = false
	}
	for i := 0; i < len(more); i += 2 {
		fields[more[i].(string)] = more[i+1]
	}
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	return toJSON(fields)
}

// field reads a field of a value.
func field(t *testing.T, value, name string) string {
	t.Helper()
	f, err := rotators.NewSecret(value).Field(name)
	if err != nil {
		t.Fatal(err)
	}
	return f.Reveal()
}
