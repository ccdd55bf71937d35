package watch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/mysql"
	"github.com/rekeyhq/rekey/rotators/postgres"
	"github.com/rekeyhq/rekey/rotators/redis"
)

// The servers all tests here share: each test has users of its own. maria is MySQL if
// REKEY_MYSQL_BIN names one.
var (
	database *servers.PostgresServer
	maria    *servers.MySQLServer
	cache    *servers.RedisServer
)

func TestMain(m *testing.M) {
	code, err := withServers(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withServers(m *testing.M) (int, error) {
	certificate, certErr := servers.NewCertificate("localhost")
	dir, dirErr := os.MkdirTemp("", "rekey-test-")
	if err := errors.Join(certErr, dirErr); err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ca := filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(ca, certificate.CA, 0o600), os.Setenv("SSL_CERT_FILE", ca)); err != nil {
		return 1, err
	}
	startMaria := servers.MariaDB
	if os.Getenv("REKEY_MYSQL_BIN") != "" {
		startMaria = servers.MySQL
	}
	ctx := context.Background()
	var start sync.WaitGroup
	var errs [3]error
	start.Go(func() { database, errs[0] = servers.Postgres(ctx, servers.PostgresOptions{}) })
	start.Go(func() { maria, errs[1] = startMaria(ctx, servers.MySQLOptions{Certificate: certificate}) })
	start.Go(func() { cache, errs[2] = servers.Redis(ctx, servers.RedisOptions{Certificate: certificate}) })
	start.Wait()
	if database != nil {
		defer database.Stop()
	}
	if maria != nil {
		defer maria.Stop()
	}
	if cache != nil {
		defer cache.Stop()
	}
	if err := errors.Join(errs[:]...); err != nil {
		return 1, err
	}
	fmt.Fprintln(os.Stderr, "the server is version", maria.Version)
	return m.Run(), nil
}

func registry(cfg aws.Config) rotators.Registry {
	return rotators.Registry{"postgres": postgres.New(cfg, nil), "mysql": mysql.New(cfg, nil), "redis": redis.New(cfg, nil)}
}

// target is a kind of server.
type target struct {
	engine string
	port   func() int
	fields string // more of a value
	// users makes a user, and an admin who may do what rekey documents.
	users func(ctx context.Context, user, admin string) error
}

var targets = []target{
	{
		engine: "postgres",
		port:   func() int { return database.Port },
		fields: `,"ssl":false`,
		users: func(ctx context.Context, user, admin string) error {
			return database.Exec(ctx,
				"CREATE ROLE "+user+" LOGIN PASSWORD '"+first+"'",
				"CREATE ROLE "+admin+" LOGIN CREATEROLE PASSWORD '"+first+"'",
				"GRANT "+user+" TO "+admin+" WITH ADMIN OPTION")
		},
	},
	{
		engine: "mysql",
		port:   func() int { return maria.Port },
		users: func(ctx context.Context, user, admin string) error {
			statements := []string{
				"CREATE USER " + user + " IDENTIFIED BY '" + first + "'",
				"CREATE USER " + admin + " IDENTIFIED BY '" + first + "'",
				"GRANT CREATE USER ON *.* TO " + admin,
				"GRANT SELECT ON mysql.* TO " + admin,
			}
			if os.Getenv("REKEY_MYSQL_BIN") != "" {
				statements = append(statements, "GRANT ROLE_ADMIN ON *.* TO "+admin)
			}
			return maria.Exec(ctx, statements...)
		},
	},
	{
		engine: "redis",
		port:   func() int { return cache.Port },
		users: func(ctx context.Context, user, admin string) error {
			_, err := cache.Do(ctx, "ACL", "SETUSER", user, "on", ">"+first, "~*", "+@read")
			_, adminErr := cache.Do(ctx, "ACL", "SETUSER", admin, "on", ">"+first, "+@all")
			return errors.Join(err, adminErr)
		},
	},
}

// value is the secret of a user.
func (g target) value(user string) string {
	password, _ := json.Marshal(first) // a string always encodes
	return fmt.Sprintf(`{"engine":%q,"host":"localhost","port":%d,"username":%q,"password":%s%s}`, g.engine, g.port(), user, password, g.fields)
}
