// Package attacks tries to break into databases through rekey. It holds tests only.
//
// The functions are the ones that ship, called with the events and messages that AWS
// sends. The databases are real servers on 127.0.0.1 (the bank's). At the same ports of
// 127.0.0.2 the attacker has servers that behave (real ones, behind a relay), and at the
// same ports of 127.0.0.3 servers that lie (fakes), which record what they are sent. The
// attacker also owns the domain evil.test, whose names lead where the attacker likes, and
// somewhere else at the next look.
//
// TestTable holds every attack against everything that must not happen.
package attacks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/rekeyhq/rekey/internal/servers"
)

// Host names. The first two are those that RDS gives.
const (
	postgresEndpoint = "bank.c1abc.us-east-1.rds.amazonaws.com"
	mariaDBEndpoint  = "ledger.c1abc.us-east-1.rds.amazonaws.com"
	bankHost         = "db.bank.test"
	domain           = "evil.test" // the attacker's
)

// Where servers listen, each at the port of the server that it stands for.
const (
	bankAddress = "127.0.0.1"
	realAddress = "127.0.0.2" // the attacker's real servers
	fakeAddress = "127.0.0.3" // the attacker's fakes
)

// The bank's servers, which all tests share. Each test makes users of its own.
var (
	bankPostgres, bankMariaDB *database
	bankRedis, clearRedis     *database // with TLS, and without
	dns                       *zone
)

func TestMain(m *testing.M) {
	// The package that logs reads this once, before main. It is what the template sets.
	const format = "AWS_LAMBDA_LOG_FORMAT"
	if self, err := os.Executable(); err == nil && os.Getenv(format) != "JSON" {
		if err := errors.Join(os.Setenv(format, "JSON"), syscall.Exec(self, os.Args, os.Environ())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code, err := withServers(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withServers(m *testing.M) (code int, err error) {
	ours, err := servers.NewCertificate(postgresEndpoint, mariaDBEndpoint, bankHost, "localhost", bankAddress)
	if err != nil {
		return 1, err
	}
	// Any authority gives the attacker certificates for names of the attacker's.
	theirs, err := servers.NewCertificate(domain, "*."+domain)
	if err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "rekey-attacks-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	authorities := filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(authorities, append(ours.CA, theirs.CA...), 0o600), os.Setenv("SSL_CERT_FILE", authorities)); err != nil {
		return 1, err
	}
	if dns, err = newZone(); err != nil {
		return 1, err
	}
	*net.DefaultResolver = net.Resolver{PreferGo: true, Dial: dns.dial}

	ctx := context.Background()
	var (
		start          sync.WaitGroup
		errs           [6]error
		pg, evilPG     *servers.PostgresServer
		maria, evilSQL *servers.MySQLServer
		safe, clear    *servers.RedisServer
	)
	start.Go(func() { pg, errs[0] = servers.Postgres(ctx, servers.PostgresOptions{Certificate: ours}) })
	start.Go(func() { evilPG, errs[1] = servers.Postgres(ctx, servers.PostgresOptions{Certificate: theirs}) })
	start.Go(func() { maria, errs[2] = servers.MariaDB(ctx, servers.MySQLOptions{Certificate: ours}) })
	start.Go(func() { evilSQL, errs[3] = servers.MariaDB(ctx, servers.MySQLOptions{Certificate: theirs}) })
	start.Go(func() {
		safe, errs[4] = servers.Redis(ctx, servers.RedisOptions{Certificate: ours, ACLFile: true})
	})
	start.Go(func() { clear, errs[5] = servers.Redis(ctx, servers.RedisOptions{ACLFile: true}) })
	start.Wait()
	for i, s := range []interface{ Stop() }{pg, evilPG, maria, evilSQL, safe, clear} {
		if errs[i] == nil {
			defer s.Stop()
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return 1, err
	}
	bankPostgres, bankMariaDB = ofPostgres(pg, postgresEndpoint), ofMariaDB(maria, mariaDBEndpoint)
	bankRedis, clearRedis = ofRedis(safe, bankHost), ofRedis(clear, bankHost)
	bankPostgres.evil, bankMariaDB.evil = ofPostgres(evilPG, ""), ofMariaDB(evilSQL, "")

	certificate, err := tls.X509KeyPair(theirs.Cert, theirs.Key)
	if err != nil {
		return 1, err
	}
	dns.set(postgresEndpoint, to(bankAddress))
	dns.set(mariaDBEndpoint, to(bankAddress))
	dns.set(bankHost, to(bankAddress))
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis, clearRedis} {
		if err := d.shadow(certificate); err != nil {
			return 1, err
		}
		if err := d.makeAdmin(ctx); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}
