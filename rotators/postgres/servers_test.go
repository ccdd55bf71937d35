package postgres

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

var awsConfig aws.Config

// staticCredentials are an AWS caller's, made up.
type staticCredentials struct{}

func (staticCredentials) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "AKIAMADEUP", SecretAccessKey: "made up"}, nil
}

// The servers the tests use. Each test makes users of its own.
var (
	secure  *servers.PostgresServer // TLS with a certificate for localhost only, from a trusted authority
	plain   *servers.PostgresServer // no TLS, and room for three users at once
	replica *servers.PostgresServer // a read replica of secure, its certificate from an unknown authority
)

// sameTLS is for servers of other kinds, under the certificate of secure.
var sameTLS *tls.Config

func TestMain(m *testing.M) {
	code, err := withServers(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withServers(m *testing.M) (int, error) {
	ours, trustedErr := servers.NewCertificate("localhost")
	unknown, unknownErr := servers.NewCertificate("localhost")
	dir, dirErr := os.MkdirTemp("", "rekey-test-")
	if err := errors.Join(trustedErr, unknownErr, dirErr); err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	pair, err := tls.X509KeyPair(ours.Cert, ours.Key)
	if err != nil {
		return 1, err
	}
	sameTLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	// Go reads this once in a process, so every test with TLS is a test of it.
	ca := filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(ca, ours.CA, 0o600), os.Setenv("SSL_CERT_FILE", ca)); err != nil {
		return 1, err
	}

	var start sync.WaitGroup
	var errs [2]error
	for i, s := range []struct {
		server **servers.PostgresServer
		o      servers.PostgresOptions
	}{
		{&secure, servers.PostgresOptions{Certificate: ours, HBA: []string{
			"host all md5 all md5",
			"host all cleartext all password",
			"host all trusting all trust",
			"host all rejected all reject",
			"hostssl all tlsonly all scram-sha-256",
			"host all tlsonly all reject",
		}}},
		{&plain, servers.PostgresOptions{Conf: []string{"max_connections = 4", "superuser_reserved_connections = 1"}}},
	} {
		start.Go(func() { *s.server, errs[i] = servers.Postgres(context.Background(), s.o) })
	}
	start.Wait()
	for _, s := range []*servers.PostgresServer{secure, plain} {
		if s != nil {
			defer s.Stop()
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return 1, err
	}
	if replica, err = servers.Postgres(context.Background(), servers.PostgresOptions{Certificate: unknown, ReplicaOf: secure}); err != nil {
		return 1, err
	}
	defer replica.Stop()
	return m.Run(), nil
}

// exec runs a statement as the superuser. %I and %L in it are args, quoted by
// the server as a name and as a string.
func exec(t *testing.T, s *servers.PostgresServer, statement string, args ...string) {
	t.Helper()
	ctx := context.Background() // so that cleanups can use it too
	conn, err := s.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if len(args) > 0 {
		query := "SELECT format($1, VARIADIC $2::text[])"
		r := conn.ExecParams(ctx, query, [][]byte{[]byte(statement), []byte(array(args))}, nil, nil, nil).Read()
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		statement = string(r.Rows[0][0])
	}
	if _, err := conn.Exec(ctx, statement).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// array writes strings as PostgreSQL's text[].
func array(items []string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(item) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

// newUser makes a user and returns the secret that belongs to it.
func newUser(t *testing.T, s *servers.PostgresServer, name, password string) rotators.Secret {
	t.Helper()
	exec(t, s, "CREATE ROLE %I LOGIN PASSWORD %L", name, password)
	t.Cleanup(func() { exec(t, s, "DROP ROLE IF EXISTS %I", name) })
	return value(s, name, password)
}

// value writes a secret as AWS's templates have it.
func value(s *servers.PostgresServer, name, password string, more ...string) rotators.Secret {
	fields := map[string]any{"engine": "postgres", "host": "localhost", "port": s.Port, "username": name, "password": password}
	if s == plain {
		fields["ssl"] = false
	}
	for i := 0; i < len(more); i += 2 {
		fields[more[i]] = more[i+1]
	}
	text, _ := json.Marshal(fields)
	return rotators.NewSecret(string(text))
}

// loginOf returns the login that a secret for the server without TLS stands for.
func loginOf(t *testing.T, value rotators.Secret) database.Login {
	t.Helper()
	user, err := value.Field("username")
	if err != nil {
		t.Fatal(err)
	}
	return database.Login{Host: "localhost", Port: plain.Port, User: user.Reveal(), Database: "postgres",
		Password: rotators.NewSecret(password(t, value)), Plaintext: true}
}

// with returns value with another password.
func with(t *testing.T, value rotators.Secret, password string) rotators.Secret {
	t.Helper()
	return replaced(t, value, "password", password)
}

// replaced returns value with another text in a field.
func replaced(t *testing.T, value rotators.Secret, field, text string) rotators.Secret {
	t.Helper()
	v, err := value.Replace(field, rotators.NewSecret(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func password(t *testing.T, value rotators.Secret) string {
	t.Helper()
	p, err := value.Field("password")
	if err != nil {
		t.Fatal(err)
	}
	return p.Reveal()
}

// wire carries a rotator's connections and counts them.
type wire struct {
	dials  atomic.Int32
	before func(n int) error // called before the nth connection, from 1; its error is the dial's
}

func (w *wire) rotator() rotators.Rotator { return New(awsConfig, &Options{Dial: w.dial}) }

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n := int(w.dials.Add(1))
	if w.before != nil {
		if err := w.before(n); err != nil {
			return nil, err
		}
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

var prober = New(awsConfig, nil)

// accepts asks the server, by a rotator of its own, whether it takes a value.
func accepts(t *testing.T, value rotators.Secret) bool {
	t.Helper()
	err := prober.Test(t.Context(), rotators.Rotation{Pending: value})
	if err != nil && !rotators.IsRefused(err) {
		t.Fatalf("cannot tell whether the server takes a value: %v", err)
	}
	return err == nil
}

// logins counts in a server's log how often a user logged in and was refused.
func logins(s *servers.PostgresServer, user string) (in, refused int) {
	log := s.Log()
	return strings.Count(log, "connection authorized: user="+user+" "),
		strings.Count(log, "password authentication failed for user \""+user+"\"")
}

// without fails the test if text holds one of the secrets, however spelled.
func without(t *testing.T, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		spelled, _ := json.Marshal(s)
		for _, form := range []string{
			s, url.QueryEscape(s), url.PathEscape(s), strings.Trim(string(spelled), `"`),
			strings.ReplaceAll(s, "'", "''"), strings.Trim(strconv.Quote(s), `"`), strings.Trim(strconv.QuoteToASCII(s), `"`),
			fmt.Sprintf("%x", s),
		} {
			if strings.Contains(text, form) {
				t.Errorf("a password stands in:\n%s", text)
				return
			}
		}
	}
}

// want is what an error must be.
type want struct {
	text               string // a pattern
	refused, permanent bool
}

// check compares an error with what it must be, and looks for secrets in its text
// and in everything it holds.
func (w want) check(t *testing.T, err error, secrets ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one like %q", w.text)
	}
	if !regexp.MustCompile(w.text).MatchString(err.Error()) {
		t.Errorf("error is\n%v\nwant one like\n%s", err, w.text)
	}
	if rotators.IsRefused(err) != w.refused || rotators.IsPermanent(err) != w.permanent {
		t.Errorf("refused %t, permanent %t; want %t, %t: %v", rotators.IsRefused(err), rotators.IsPermanent(err), w.refused, w.permanent, err)
	}
	without(t, err.Error(), secrets...)
	for text := range texts(reflect.ValueOf(err), map[uintptr]bool{}) {
		without(t, text, secrets...)
	}
}

// texts yields every string that can be reached from v.
func texts(v reflect.Value, seen map[uintptr]bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		var parts []reflect.Value
		switch v.Kind() {
		case reflect.String:
			yield(v.String())
			return
		case reflect.Pointer:
			if seen[v.Pointer()] {
				return
			}
			seen[v.Pointer()] = true
			parts = append(parts, v.Elem())
		case reflect.Interface:
			parts = append(parts, v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				parts = append(parts, v.Field(i))
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				parts = append(parts, v.Index(i))
			}
		case reflect.Map:
			for k, e := range v.Seq2() {
				parts = append(parts, k, e)
			}
		}
		for _, part := range parts {
			for text := range texts(part, seen) {
				if !yield(text) {
					return
				}
			}
		}
	}
}

// onlyWithTLS fails the test if the user ever logged in without TLS.
func onlyWithTLS(t *testing.T, s *servers.PostgresServer, user string) {
	t.Helper()
	for line := range strings.Lines(s.Log()) {
		if strings.Contains(line, "authorized: user="+user+" ") && !strings.Contains(line, "SSL enabled") {
			t.Errorf("a login without TLS: %s", line)
		}
	}
}
