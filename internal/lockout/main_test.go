// Package lockout tries whether a rotation locks an application out. It holds tests only.
//
// Servers are real: PostgreSQL, MariaDB or MySQL, Redis, and PgBouncer before PostgreSQL.
// rekey comes from 127.0.0.1 and the application from 127.0.0.2, so that a server can treat
// the two differently.
//
// TestTable walks every strategy on every engine through every reason for which a server
// refuses a login. To add a reason, add an entry to reasons, in reasons_test.go. To add an
// engine, add an entry to engines.
package lockout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	goredis "github.com/redis/go-redis/v9"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
	mysqlrotator "github.com/rekeyhq/rekey/rotators/mysql"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/redis"
)

// applications is where applications come from. rekey comes from 127.0.0.1.
const applications = "127.0.0.2"

var (
	pg      *servers.PostgresServer
	sql     *servers.MySQLServer // MariaDB, or MySQL if REKEY_MYSQL_BIN names one
	mariaDB bool
	cache   *servers.RedisServer
	bouncer *servers.Certificate // for poolers, as for the servers
)

// engine is a kind of server, as an application and an owner use it.
type engine struct {
	name  string
	new   func(database.DialFunc) rotators.Rotator
	port  func() int
	tls   bool
	admin string // its user
	// create makes a user who may log in from anywhere and change itself, if the engine
	// lets a user.
	create func(t *testing.T, user, password string)
	// open logs in from where applications are, at a port, and stays until close.
	open func(ctx context.Context, port int, user, password string) (close func(), err error)
	// missing says why a strategy is not there; "" if it is.
	missing func(strategy) string
}

var engines = []engine{
	{name: "PostgreSQL", new: func(d database.DialFunc) rotators.Rotator {
		return postgres.New(aws.Config{}, &postgres.Options{Dial: d})
	}, port: func() int { return pg.Port }, tls: true, admin: "boss",
		create: func(t *testing.T, user, password string) {
			inPostgres(t, "CREATE ROLE "+user+" LOGIN PASSWORD '"+password+"'")
			t.Cleanup(func() {
				for _, u := range []string{user + "_clone", user} {
					_ = pg.Exec(context.Background(), "DROP ROLE IF EXISTS "+u)
				}
			})
		},
		open: func(ctx context.Context, port int, user, password string) (func(), error) {
			// The application does not verify the certificate: that is not what is tested.
			cfg, err := pgconn.ParseConfig(fmt.Sprintf("sslmode=require host=127.0.0.1 port=%d user=%s dbname=postgres", port, user))
			if err != nil {
				return nil, err
			}
			cfg.Password, cfg.DialFunc = password, fromApplications
			conn, err := pgconn.ConnectConfig(ctx, cfg)
			if err == nil {
				// A pooler accepts logins on its own. A statement reaches the server.
				_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
			}
			if err != nil {
				return nil, err
			}
			return func() { _ = conn.Close(context.WithoutCancel(ctx)) }, nil
		},
		missing: func(s strategy) string {
			if s.overlap {
				return "a PostgreSQL user has one password"
			}
			return ""
		}},
	{name: "MySQL", new: func(d database.DialFunc) rotators.Rotator {
		return mysqlrotator.New(aws.Config{}, &mysqlrotator.Options{Dial: d})
	}, port: func() int { return sql.Port }, tls: true, admin: "boss",
		create: func(t *testing.T, user, password string) {
			inMySQL(t, "CREATE USER "+user+" IDENTIFIED BY '"+password+"'", "GRANT SELECT ON shop.* TO "+user)
			if mariaDB {
				inMySQL(t, "GRANT CREATE USER ON *.* TO "+user) // for two passwords of its own
			} else {
				inMySQL(t, "GRANT APPLICATION_PASSWORD_ADMIN ON *.* TO "+user)
			}
			t.Cleanup(func() {
				for _, host := range []string{"%", applications} {
					_ = sql.Exec(context.Background(), "DROP USER IF EXISTS "+user+"@'"+host+"'", "DROP USER IF EXISTS "+user+"_clone@'"+host+"'")
				}
			})
		},
		open: func(ctx context.Context, port int, user, password string) (func(), error) {
			cfg := mysql.NewConfig()
			cfg.User, cfg.Passwd, cfg.Net, cfg.Addr = user, password, "application", fmt.Sprintf("127.0.0.1:%d", port)
			cfg.TLSConfig, cfg.Logger = "skip-verify", silent{}
			connector, err := mysql.NewConnector(cfg)
			if err != nil {
				return nil, err
			}
			conn, err := connector.Connect(ctx)
			if err != nil {
				return nil, err
			}
			return func() { _ = conn.Close() }, nil
		},
		missing: func(strategy) string { return "" }},
	{name: "Redis", new: func(d database.DialFunc) rotators.Rotator { return redis.New(aws.Config{}, &redis.Options{Dial: d}) }, port: func() int { return cache.Port }, admin: "root",
		create: func(t *testing.T, user, password string) {
			do(t, "ACL", "SETUSER", user, "on", ">"+password, "~*", "+@all")
			t.Cleanup(func() { _, _ = cache.Do(context.Background(), "ACL", "DELUSER", user) })
		},
		open: func(ctx context.Context, port int, user, password string) (func(), error) {
			client := goredis.NewClient(&goredis.Options{
				Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return fromApplications(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
				},
				Protocol: 2, DisableIdentity: true, DialerRetries: 1, MaxRetries: -1, PoolSize: 1,
			})
			conn := client.Conn()
			if err := conn.AuthACL(ctx, user, password).Err(); err != nil {
				_ = client.Close()
				return nil, err
			}
			return func() { _, _ = conn.Close(), client.Close() }, nil
		},
		missing: func(s strategy) string {
			if s.alternating {
				return "Redis has no alternating users"
			}
			return ""
		}},
}

// silent is a log that nobody reads.
type silent struct{}

func (silent) Print(...any) {}

func fromApplications(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(applications)}}).DialContext(ctx, network, address)
}

// strategy is a way to rotate.
type strategy struct {
	name                         string
	settings                     rotators.Settings
	admin, delegated             bool
	alternating, overlap, itself bool
}

var strategies = []strategy{
	{name: "single-user by itself", itself: true, settings: rotators.Settings{Strategy: "single-user"}},
	{name: "single-user by an admin", admin: true, settings: rotators.Settings{Strategy: "single-user", Admin: "the-admin"}},
	{name: "single-user, delegated", admin: true, delegated: true, settings: rotators.Settings{Strategy: "single-user", Admin: "the-admin"}},
	{name: "alternating users", admin: true, alternating: true, settings: rotators.Settings{Strategy: "alternating-users", Admin: "the-admin"}},
	{name: "alternating users, delegated", admin: true, delegated: true, alternating: true, settings: rotators.Settings{Strategy: "alternating-users", Admin: "the-admin"}},
	{name: "overlap by itself", itself: true, overlap: true, settings: rotators.Settings{Strategy: "overlap"}},
	{name: "overlap by an admin", admin: true, overlap: true, settings: rotators.Settings{Strategy: "overlap", Admin: "the-admin"}},
	{name: "overlap, delegated", admin: true, delegated: true, overlap: true, settings: rotators.Settings{Strategy: "overlap", Admin: "the-admin"}},
}

// value is a secret for a login at a port.
func (e engine) value(port int, user, password string) rotators.Secret {
	fields := map[string]any{"host": "localhost", "port": port, "username": user, "password": password}
	if !e.tls {
		fields["ssl"] = false
	}
	text, _ := json.Marshal(fields)
	return rotators.NewSecret(string(text))
}

// lets reports whether the server lets an application in by a password.
func (e engine) lets(t *testing.T, port int, user, password string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	shut, err := e.open(ctx, port, user, password)
	if err == nil {
		shut()
	}
	return err
}

// inPostgres and inMySQL run statements as the superuser.
func inPostgres(t *testing.T, statements ...string) {
	t.Helper()
	if err := pg.Exec(context.Background(), statements...); err != nil {
		t.Fatal(err)
	}
}

func inMySQL(t *testing.T, statements ...string) {
	t.Helper()
	if err := sql.Exec(context.Background(), statements...); err != nil {
		t.Fatal(err)
	}
}

// do runs a command of Redis.
func do(t *testing.T, args ...any) any {
	t.Helper()
	answer, err := cache.Do(context.Background(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestMain(m *testing.M) {
	code, err := withServers(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const bossPassword = "the-admins-password"

func withServers(m *testing.M) (int, error) {
	ours, err := servers.NewCertificate("localhost")
	if err != nil {
		return 1, err
	}
	bouncer = ours
	dir, err := os.MkdirTemp("", "rekey-lockout-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ca := filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(ca, ours.CA, 0o600), os.Setenv("SSL_CERT_FILE", ca)); err != nil {
		return 1, err
	}
	mysql.RegisterDialContext("application", func(ctx context.Context, address string) (net.Conn, error) {
		return fromApplications(ctx, "tcp", address)
	})
	mariaDB = os.Getenv("REKEY_MYSQL_BIN") == ""
	startSQL := servers.MySQL
	if mariaDB {
		startSQL = servers.MariaDB
	}
	ctx := context.Background()
	var start sync.WaitGroup
	var errs [3]error
	start.Go(func() {
		pg, errs[0] = servers.Postgres(ctx, servers.PostgresOptions{Certificate: ours, Conf: []string{"ssl_ca_file = '../cert.pem'"}, HBA: []string{
			"host all +shut 127.0.0.1/32 reject",
			"hostssl all +certified 127.0.0.1/32 scram-sha-256 clientcert=verify-ca",
		}})
	})
	start.Go(func() { sql, errs[1] = startSQL(ctx, servers.MySQLOptions{Certificate: ours}) })
	start.Go(func() { cache, errs[2] = servers.Redis(ctx, servers.RedisOptions{ACLFile: true}) })
	start.Wait()
	for i, s := range []interface{ Stop() }{pg, sql, cache} {
		if errs[i] == nil {
			defer s.Stop()
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return 1, err
	}
	boss := []string{"CREATE USER boss IDENTIFIED BY '" + bossPassword + "'", "GRANT CREATE USER ON *.* TO boss", "GRANT SELECT ON mysql.* TO boss",
		"CREATE DATABASE shop", "GRANT ALL ON shop.* TO boss WITH GRANT OPTION"}
	if mariaDB {
		boss = append(boss, "GRANT CREATE USER ON *.* TO boss WITH GRANT OPTION")
	} else {
		boss = append(boss, "GRANT ROLE_ADMIN, APPLICATION_PASSWORD_ADMIN ON *.* TO boss WITH GRANT OPTION")
	}
	_, redisErr := cache.Do(ctx, "ACL", "SETUSER", "root", ">"+bossPassword)
	if err := errors.Join(redisErr, sql.Exec(ctx, boss...), pg.Exec(ctx, "CREATE ROLE shut", "CREATE ROLE certified",
		"CREATE ROLE boss LOGIN SUPERUSER PASSWORD '"+bossPassword+"'")); err != nil {
		return 1, err
	}
	return m.Run(), nil
}
