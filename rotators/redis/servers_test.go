package redis

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// The servers the tests use. Each test makes users of its own. secure and plain
// have users who may change passwords, with no more rights than that takes.
var (
	secure  *servers.RedisServer // nothing but TLS, certificate for localhost from a trusted authority; users in redis.conf
	unknown *servers.RedisServer // nothing but TLS, certificate from an unknown authority
	plain   *servers.RedisServer // no TLS; users in an ACL file; logs the slowest of commands: all
	primary *servers.RedisServer // no TLS; users in redis.conf
	replica *servers.RedisServer // of primary; users in an ACL file
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
	untrusted, untrustedErr := servers.NewCertificate("localhost")
	dir, dirErr := os.MkdirTemp("", "rekey-test-")
	if err := errors.Join(trustedErr, untrustedErr, dirErr); err != nil {
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
	for _, s := range []struct {
		server **servers.RedisServer
		o      servers.RedisOptions
	}{
		{&secure, servers.RedisOptions{Certificate: ours}},
		{&unknown, servers.RedisOptions{Certificate: untrusted}},
		{&plain, servers.RedisOptions{ACLFile: true, Conf: []string{"slowlog-log-slower-than 0", "slowlog-max-len 1000000"}}},
		{&primary, servers.RedisOptions{}},
	} {
		var err error
		if *s.server, err = servers.Redis(context.Background(), s.o); err != nil {
			return 1, err
		}
		defer (*s.server).Stop()
	}
	if replica, err = servers.Redis(context.Background(), servers.RedisOptions{ReplicaOf: primary, ACLFile: true}); err != nil {
		return 1, err
	}
	defer replica.Stop()
	// A primary does not count a replica that has not come yet.
	if err := awaitLink(replica); err != nil {
		return 1, err
	}
	fmt.Fprintln(os.Stderr, "the server is", primary.Version)
	return m.Run(), nil
}

// awaitLink returns when a replica follows its primary. Each question is a round
// trip; the test run's own limit ends it.
func awaitLink(s *servers.RedisServer) error {
	for {
		text, err := s.Do(context.Background(), "INFO", "replication")
		if err != nil {
			return err
		}
		if strings.Contains(text.(string), "master_link_status:up") {
			return nil
		}
	}
}

// do runs a command as the superuser.
func do(t *testing.T, s *servers.RedisServer, args ...any) any {
	t.Helper()
	answer, err := s.Do(context.Background(), args...) // so that cleanups can use it too
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return answer
}

// changer are the rules of a user who may change passwords and nothing else.
var changer = strings.Fields("-@all " + rights)

// newUser makes a user, with the rights to change itself, on all of some servers,
// and returns the secret that belongs to it.
func newUser(t *testing.T, name, password string, all ...*servers.RedisServer) rotators.Secret {
	t.Helper()
	for _, s := range all {
		args := []any{"ACL", "SETUSER", name, "reset", "on", ">" + password, "~key:*"}
		for _, rule := range changer {
			args = append(args, rule)
		}
		do(t, s, args...)
		t.Cleanup(func() { do(t, s, "ACL", "DELUSER", name) })
	}
	return value(name, password, all...)
}

// value writes a secret for the first of some servers, with the others as nodes.
func value(name, password string, all ...*servers.RedisServer) rotators.Secret {
	fields := map[string]any{"engine": "redis", "host": "localhost", "port": all[0].Port, "username": name, "password": password}
	if all[0] != secure && all[0] != unknown {
		fields["ssl"] = false
	}
	var nodes []string
	for _, s := range all[1:] {
		nodes = append(nodes, fmt.Sprintf("localhost:%d", s.Port))
	}
	if len(nodes) > 0 {
		fields["nodes"] = nodes
	}
	text, _ := json.Marshal(fields)
	return rotators.NewSecret(string(text))
}

// with returns a value with another password.
func with(t *testing.T, value rotators.Secret, password string) rotators.Secret {
	t.Helper()
	v, err := value.Replace("password", rotators.NewSecret(password))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// but returns a value with another text in a field that is no secret.
func but(t *testing.T, value rotators.Secret, field string, text any) rotators.Secret {
	t.Helper()
	fields := map[string]any{}
	if err := json.Unmarshal([]byte(value.Reveal()), &fields); err != nil {
		t.Fatal(err)
	}
	fields[field] = text
	spelled, _ := json.Marshal(fields)
	return rotators.NewSecret(string(spelled))
}

func field(t *testing.T, value rotators.Secret, name string) string {
	t.Helper()
	p, err := value.Field(name)
	if err != nil {
		t.Fatal(err)
	}
	return p.Reveal()
}

// accepts asks each of some servers, by a plain driver, whether it takes a value's
// user and password. They must agree.
func accepts(t *testing.T, value rotators.Secret, all ...*servers.RedisServer) bool {
	t.Helper()
	var answers []bool
	for _, s := range all {
		err := s.Login(t.Context(), field(t, value, "username"), field(t, value, "password"))
		if err != nil && !servers.RedisRefused(err) {
			t.Fatalf("cannot tell whether the server takes a value: %v", err)
		}
		answers = append(answers, err == nil)
	}
	if slices.Contains(answers, !answers[0]) {
		t.Fatalf("one server takes a value, and another does not: %v", answers)
	}
	return answers[0]
}

// wire carries a rotator's connections and counts them.
type wire struct {
	dials  atomic.Int32
	before func(n int) error           // called before the nth connection, from 1; its error is the dial's
	write  func(n int, p []byte) error // called before each write on the nth; its error is the write's
}

func (w *wire) rotator() rotators.Rotator { return New(aws.Config{}, &Options{Dial: w.dial}) }

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n := int(w.dials.Add(1))
	if w.before != nil {
		if err := w.before(n); err != nil {
			return nil, err
		}
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil || w.write == nil {
		return conn, err
	}
	return &hooked{conn, func(p []byte) error { return w.write(n, p) }}, nil
}

type hooked struct {
	net.Conn
	before func(p []byte) error
}

func (h *hooked) Write(p []byte) (int, error) {
	if err := h.before(p); err != nil {
		return 0, err
	}
	return h.Conn.Write(p)
}

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

// monitor watches a server without TLS. What it returns gives all that MONITOR has
// shown until then.
func monitor(t *testing.T, s *servers.RedisServer) func() string {
	t.Helper()
	conn, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "AUTH %s %s\r\nMONITOR\r\n", s.User, s.Password); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	for range 2 {
		if line, err := lines.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	return sync.OnceValue(func() string {
		t.Helper()
		do(t, s, "ECHO", "that was all")
		var all strings.Builder
		for !strings.Contains(all.String(), "that was all") {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString(line)
		}
		return all.String()
	})
}

// spellings are the ways in which a password may stand in a log.
func spellings(s string) []string {
	spelled, _ := json.Marshal(s)
	// As Redis quotes: all that is not printable ASCII in hexadecimal.
	var repr strings.Builder
	for _, b := range []byte(s) {
		switch {
		case b == '"' || b == '\\':
			repr.WriteString("\\" + string(b))
		case b < ' ' || b > '~':
			fmt.Fprintf(&repr, "\\x%02x", b)
		default:
			repr.WriteByte(b)
		}
	}
	return []string{
		s, repr.String(), url.QueryEscape(s), url.PathEscape(s), strings.Trim(string(spelled), `"`),
		strings.Trim(strconv.Quote(s), `"`), strings.Trim(strconv.QuoteToASCII(s), `"`), hex.EncodeToString([]byte(s)),
	}
}

// without fails the test if text holds one of the secrets, however spelled.
func without(t *testing.T, where, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		for _, form := range spellings(s) {
			if at := strings.Index(text, form); at >= 0 {
				t.Errorf("a password stands in %s: %.200s", where, text[max(0, at-100):])
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
	without(t, "an error", err.Error(), secrets...)
	for text := range texts(reflect.ValueOf(err), map[uintptr]bool{}) {
		without(t, "what an error holds", text, secrets...)
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
