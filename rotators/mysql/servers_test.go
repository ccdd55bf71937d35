package mysql

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

// The servers the tests use: MariaDB, or MySQL if REKEY_MYSQL_BIN names one. Each
// test makes users of its own.
var (
	secure   *servers.MySQLServer // TLS with a certificate for localhost only, from a trusted authority
	readonly *servers.MySQLServer // with --read-only, and a certificate from an unknown authority
	mariaDB  bool

	unknownCA []byte // readonly's authority
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
	unknownCA = unknown.CA
	// Go reads this once in a process, so every test with TLS is a test of it.
	ca := filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(ca, ours.CA, 0o600), os.Setenv("SSL_CERT_FILE", ca)); err != nil {
		return 1, err
	}

	mariaDB = os.Getenv("REKEY_MYSQL_BIN") == ""
	server := servers.MariaDB
	if !mariaDB {
		server = servers.MySQL
	}
	var start sync.WaitGroup
	var errs [2]error
	for i, s := range []struct {
		server **servers.MySQLServer
		o      servers.MySQLOptions
	}{
		{&secure, servers.MySQLOptions{Certificate: ours}},
		{&readonly, servers.MySQLOptions{Certificate: unknown, Args: []string{"--read-only"}}},
	} {
		start.Go(func() { *s.server, errs[i] = server(context.Background(), s.o) })
	}
	start.Wait()
	for _, s := range []*servers.MySQLServer{secure, readonly} {
		if s != nil {
			defer s.Stop()
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return 1, err
	}
	// What an owner may have set, by which names and texts would be read another way,
	// and the statements that servers show be written another way.
	owners := "SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES'"
	if mariaDB { // on MySQL it breaks roles: TestTwinRefused
		owners = "SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', GLOBAL sql_quote_show_create = 0"
	}
	if err := secure.Exec(context.Background(), owners); err != nil {
		return 1, err
	}
	fmt.Fprintln(os.Stderr, "the server is version", secure.Version)
	return m.Run(), nil
}

// exec runs statements as the admin of everything.
func exec(t *testing.T, statements ...string) {
	t.Helper()
	if err := secure.Exec(context.Background(), statements...); err != nil { // so that cleanups can use it too
		t.Fatal(err)
	}
}

// query returns the first column of what a statement finds, as lines.
func query(t *testing.T, statement string) string {
	t.Helper()
	rows, err := secure.Query(context.Background(), statement)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, row := range rows {
		lines = append(lines, row[0])
	}
	return strings.Join(lines, "\n")
}

// newUser makes a user who logs in from anywhere and returns the secret that belongs
// to it.
func newUser(t *testing.T, name, password string) rotators.Secret {
	t.Helper()
	newAccount(t, account{name, "%"}, password)
	return value(name, password)
}

func newAccount(t *testing.T, a account, password string) {
	t.Helper()
	exec(t, "CREATE USER "+a.sql()+" IDENTIFIED BY "+quoteText(password))
	t.Cleanup(func() { exec(t, "DROP USER IF EXISTS "+a.sql()) })
}

// newAdmin makes an admin that has what the master of RDS has, as far as rekey needs
// it, and what is granted besides; it is no SUPER. It returns the admin's secret.
func newAdmin(t *testing.T, name string, more ...string) rotators.Secret {
	t.Helper()
	v := newUser(t, name, "the admin's password")
	a := account{name, "%"}.sql()
	exec(t, "GRANT CREATE USER ON *.* TO "+a, "GRANT SELECT ON mysql.* TO "+a)
	if !mariaDB {
		exec(t, "GRANT ROLE_ADMIN ON *.* TO "+a)
	}
	for _, grant := range more {
		exec(t, "GRANT "+grant+" TO "+a+" WITH GRANT OPTION")
	}
	// MySQL keeps in memory what spares later logins a packet, and sweeps count them.
	if !accepts(t, v) {
		t.Fatal("the admin cannot log in")
	}
	return v
}

// value writes a secret as AWS's templates have it.
func value(name, password string, more ...string) rotators.Secret {
	fields := map[string]any{"engine": "mysql", "host": "localhost", "port": secure.Port, "username": name, "password": password}
	for i := 0; i < len(more); i += 2 {
		fields[more[i]] = more[i+1]
	}
	text, _ := json.Marshal(fields)
	return rotators.NewSecret(string(text))
}

// valueURL writes a secret as a URL.
func valueURL(name, password string, withTLS bool) rotators.Secret {
	u := url.URL{Scheme: "mysql", User: url.UserPassword(name, password), Host: fmt.Sprintf("localhost:%d", secure.Port), Path: "/"}
	if !withTLS {
		u.RawQuery = "sslmode=disable"
	}
	return rotators.NewSecret(u.String())
}

// open logs in as rekey does, with TLS.
func open(t *testing.T, name, password string) *session {
	t.Helper()
	s, err := newConnector(nil).open(t.Context(), database.Login{Host: "localhost", Port: secure.Port, User: name, Password: rotators.NewSecret(password)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s.(*session)
}

// takes tells which of some passwords the server takes for a user, by a driver that
// owes nothing to rekey.
func takes(t *testing.T, name string, passwords ...string) (taken []string) {
	t.Helper()
	for _, p := range passwords {
		err := secure.Login(t.Context(), name, p)
		if err != nil && !servers.MySQLRefused(err) {
			t.Fatalf("cannot tell whether the server takes a password: %v", err)
		}
		if err == nil {
			taken = append(taken, p)
		}
	}
	return taken
}

// with returns value with another password.
func with(t *testing.T, value rotators.Secret, password string) rotators.Secret {
	t.Helper()
	v, err := value.Replace("password", rotators.NewSecret(password))
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

// accepts asks the server, by a rotator of its own, whether it takes a value. A
// locked account takes nobody.
func accepts(t *testing.T, value rotators.Secret) bool {
	t.Helper()
	err := prober.Test(t.Context(), rotators.Rotation{Pending: value})
	if err != nil && !rotators.IsRefused(err) && !errors.Is(err, database.ErrLocked) {
		t.Fatalf("cannot tell whether the server takes a value: %v", err)
	}
	return err == nil
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
