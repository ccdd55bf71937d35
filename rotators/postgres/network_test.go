package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// TestErrors makes logins that cannot succeed and checks that each is called
// what it is.
func TestErrors(t *testing.T) {
	const password = "hunter2-hunter2"
	newUser(t, secure, "somebody", password)
	newUser(t, secure, "rejected", password)
	newUser(t, secure, "trusting", password)
	newUser(t, secure, "tlsonly", password)
	newUser(t, secure, "locked", password)
	exec(t, secure, "ALTER ROLE locked NOLOGIN")
	newUser(t, secure, "crowded", password)
	exec(t, secure, "ALTER ROLE crowded CONNECTION LIMIT 0")
	exec(t, secure, "CREATE DATABASE private")
	exec(t, secure, "REVOKE CONNECT ON DATABASE private FROM PUBLIC")
	t.Cleanup(func() { exec(t, secure, "DROP DATABASE private") })
	exec(t, secure, "CREATE DATABASE closed ALLOW_CONNECTIONS false")
	t.Cleanup(func() { exec(t, secure, "DROP DATABASE closed") })
	nothing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nothing.Close()
	nowhere := fmt.Sprint(nothing.Addr().(*net.TCPAddr).Port)

	for _, c := range []struct {
		name  string
		value rotators.Secret
		want  want
	}{
		{"wrong password", value(secure, "somebody", password+"x"), want{text: "refuses this password for user \"somebody\"", refused: true}},
		{"no such user", value(secure, "nobody", password), want{text: "refuses this password for user \"nobody\"", refused: true}},
		{"rejected by pg_hba.conf", value(secure, "rejected", password), want{text: "does not let user \"rejected\" log in .*pg_hba", permanent: true}},
		{"may not log in", value(secure, "locked", password), want{text: "does not let user \"locked\" log in .*ALTER ROLE", permanent: true}},
		{"insists on TLS", value(secure, "tlsonly", password, "ssl", "false"), want{text: "if the server insists on TLS, remove \"ssl\": false", permanent: true}},
		{"no such database", value(secure, "somebody", password, "dbname", "missing"), want{text: `has no database "missing"`, permanent: true}},
		{"a private database", value(secure, "somebody", password, "dbname", "private"), want{text: "grant it CONNECT", permanent: true}},
		{"a closed database", value(secure, "somebody", password, "dbname", "closed"), want{text: "SQLSTATE 55000"}},
		{"too many connections for the role", value(secure, "crowded", password), want{text: "no connection left .*nothing is known about the password"}},
		{"no password asked for", value(secure, "trusting", password), want{text: "asks user \"trusting\" for .* nothing", permanent: true}},
		{"wrong host", value(secure, "somebody", password, "host", "127.0.0.1"), want{text: "certificate for another host", permanent: true}},
		{"unknown authority", value(replica, "somebody", password), want{text: "unknown authority: .*SSL_CERT_FILE", permanent: true}},
		{"no TLS", value(plain, "somebody", password, "ssl", "true"), want{text: "offers no TLS: .*\"ssl\": false", permanent: true}},
		{"no such host", value(secure, "somebody", password, "host", "db.invalid"), want{text: "\"db.invalid\" cannot be resolved"}},
		{"nobody listens", value(secure, "somebody", password, "port", nowhere), want{text: "nothing listens at localhost:" + nowhere}},
		{"NUL in a name", value(secure, "some\x00body", password), want{text: `"username" holds a NUL`, permanent: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := New(awsConfig, nil).Test(t.Context(), rotators.Rotation{Pending: c.value})
			c.want.check(t, err, password)
		})
	}
	// Where TLS was asked for and not to be had, nobody logged in without it.
	for _, s := range []*servers.PostgresServer{secure, replica, plain} {
		onlyWithTLS(t, s, "somebody")
	}
}

// TestFullServer fills a server until it lets nobody in.
func TestFullServer(t *testing.T) {
	current := newUser(t, plain, "squeezed", "before")
	connect := newConnector(nil)
	login := loginOf(t, current)
	for range 3 {
		s, err := connect.open(t.Context(), login)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
	}
	err := New(awsConfig, nil).Set(t.Context(), rotators.Rotation{Current: current, Pending: with(t, current, "after")})
	want{text: "no connection left for user \"squeezed\""}.check(t, err, "before", "after")
}

// TestWithoutTLS rotates where the owner has said so.
func TestWithoutTLS(t *testing.T) {
	current := newUser(t, plain, "bare", "before")
	pending := rotate(t, new(wire).rotator(), current)
	without(t, plain.Log(), password(t, pending))
}

// TestDeadline connects to hosts that let it wait.
func TestDeadline(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	port := fmt.Sprint(silent.Addr().(*net.TCPAddr).Port)
	blackHole := &Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	for _, c := range []struct {
		name    string
		options *Options
		ssl     string
		want    string
	}{
		{"unreachable", blackHole, "true", "cannot be reached in the time there was"},
		{"silent", nil, "true", "accepts connections and then says nothing"},
		{"silent without TLS", nil, "false", "accepts connections and then says nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 600*time.Millisecond)
			defer cancel()
			current := value(secure, "somebody", "before", "port", port, "ssl", c.ssl)
			err := New(awsConfig, c.options).Set(ctx, rotators.Rotation{Current: current, Pending: with(t, current, "after")})
			want{text: c.want}.check(t, err, "before", "after")
			if ctx.Err() != nil {
				t.Error("the caller's time was used up")
			}
		})
	}
}

// TestFalseServer answers logins without TLS as somebody would who wants to
// learn the password.
func TestFalseServer(t *testing.T) {
	for _, c := range []struct {
		name string
		asks pgproto3.BackendMessage
		want want
	}{
		{"in the clear", &pgproto3.AuthenticationCleartextPassword{}, want{text: "does not ask user .* for SCRAM", permanent: true}},
		{"by MD5", &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}}, want{text: "does not ask user .* for SCRAM", permanent: true}},
		{"not at all", &pgproto3.AuthenticationOk{}, want{text: "does not ask user .* for SCRAM", permanent: true}},
		{"by SCRAM of its own making", &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-1"}}, want{text: "broke off"}},
		{"by an empty answer", nil, want{text: "broke off"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			learned := make(chan []byte, 1)
			go func() {
				defer theirs.Close()
				server := pgproto3.NewBackend(theirs, theirs)
				if _, err := server.ReceiveStartupMessage(); err != nil || c.asks == nil {
					learned <- nil
					return
				}
				server.Send(c.asks)
				_ = server.Flush()
				sent, _ := io.ReadAll(theirs)
				learned <- sent
			}()
			r := New(awsConfig, &Options{Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
			err := r.Test(t.Context(), rotators.Rotation{Pending: value(secure, "somebody", "before", "ssl", "false")})
			c.want.check(t, err, "before")
			if sent := <-learned; len(bytes.Trim(sent, "X\x00\x04")) > 0 { // but for a goodbye
				t.Errorf("the false server learned %q", sent)
			}
		})
	}
}

// TestCanceled checks that a caller who gives up is not told about the network.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := New(awsConfig, &Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		return nil, ctx.Err()
	}})
	err := r.Test(ctx, rotators.Rotation{Pending: value(secure, "somebody", "before")})
	want{text: "called off"}.check(t, err)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause is lost: %v", err)
	}
}

// Two rotations of one user at once: what the server says to the second is no
// riddle, and no reason to call anybody.
func TestChangedAtOnce(t *testing.T) {
	for code, message := range map[string]string{
		"XX000": "tuple concurrently updated", "42710": `role "app_clone" already exists`, "40001": "could not serialize access due to concurrent update",
	} {
		err := explainChange(t.Context(), &pgconn.PgError{Code: code, Message: message}, database.Login{User: "app"})
		want{text: "at the same moment.*rotate again.*" + message[:8]}.check(t, err)
	}
}
