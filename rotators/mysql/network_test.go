package mysql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// TestErrors makes logins that cannot succeed and checks that each is called what it
// is.
func TestErrors(t *testing.T) {
	const password = "hunter2-hunter2"
	newUser(t, "somebody", password)
	newUser(t, "locked", password)
	exec(t, "ALTER USER locked ACCOUNT LOCK")
	newUser(t, "expired", password)
	exec(t, "ALTER USER expired PASSWORD EXPIRE")
	newUser(t, "tlsonly", password)
	exec(t, "ALTER USER tlsonly REQUIRE SSL")
	newUser(t, "crowded", password)
	exec(t, "ALTER USER crowded WITH MAX_CONNECTIONS_PER_HOUR 1")
	_ = secure.Login(t.Context(), "crowded", password)
	exec(t, "CREATE DATABASE private")
	t.Cleanup(func() { exec(t, "DROP DATABASE private") })
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
		{"wrong password", value("somebody", password+"x"), want{text: "refuses this password for user \"somebody\"", refused: true}},
		{"no such user", value("nobody", password), want{text: "refuses this password for user \"nobody\"", refused: true}},
		{"locked", value("locked", password), want{text: "has user \"locked\" locked: .*ACCOUNT UNLOCK", permanent: true}},
		{"locked, wrong password", value("locked", password+"x"), want{text: "refuses this password", refused: true}},
		{"expired", value("expired", password), want{text: "has expired, .*set it again as an admin", permanent: true}},
		{"expired, wrong password", value("expired", password+"x"), want{text: "refuses this password", refused: true}},
		{"insists on TLS", value("tlsonly", password, "ssl", "false"), want{text: "\"ssl\": false", refused: mariaDB, permanent: !mariaDB}},
		{"no such database", value("somebody", password, "dbname", "missing"), want{text: `database "missing"`, permanent: true}},
		{"a private database", value("somebody", password, "dbname", "private"), want{text: "does not let user \"somebody\" use database \"private\"", permanent: true}},
		{"too many connections", value("crowded", password), want{text: "no connection left .*nothing is known about the password"}},
		{"wrong host", value("somebody", password, "host", "127.0.0.1"), want{text: "certificate for another host", permanent: true}},
		{"unknown authority", value("somebody", password, "port", fmt.Sprint(readonly.Port)), want{text: "unknown authority: .*SSL_CERT_FILE", permanent: true}},
		{"no such host", value("somebody", password, "host", "db.invalid"), want{text: "\"db.invalid\" cannot be resolved"}},
		{"nobody listens", value("somebody", password, "port", nowhere), want{text: "nothing listens at localhost:" + nowhere}},
		{"NUL in a name", value("some\x00body", password), want{text: `"username" holds a NUL`, permanent: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := New(awsConfig, nil).Test(t.Context(), rotators.Rotation{Pending: c.value})
			c.want.check(t, err, password)
		})
	}
}

// TestAnotherUsersAccount logs in where an account for nobody in particular takes the
// login.
func TestAnotherUsersAccount(t *testing.T) {
	newAccount(t, account{"", "127.0.0.1"}, "nobody's")
	err := New(awsConfig, nil).Test(t.Context(), rotators.Rotation{Pending: value("who", "nobody's")})
	want{text: `let user "who" in as the account ''@'127.0.0.1'`, permanent: true}.check(t, err, "nobody's")
}

// TestWithoutTLS rotates where the owner has said so and the server asks for answers
// to challenges only. What MySQL has left asks for more.
func TestWithoutTLS(t *testing.T) {
	newUser(t, "bare", "before")
	current := value("bare", "before", "ssl", "false")
	if mariaDB {
		rotate(t, New(awsConfig, nil), current)
		return
	}
	err := New(awsConfig, nil).Test(t.Context(), rotators.Rotation{Pending: current})
	want{text: `asks for the password of user "bare" itself, which is not sent without TLS: remove "ssl": false`, permanent: true}.check(t, err, "before")

	// It has no more to ask of a user whom it has just seen, and would get a new password.
	if !accepts(t, value("bare", "before")) {
		t.Fatal("the user cannot log in")
	}
	err = New(awsConfig, nil).Set(t.Context(), rotators.Rotation{Current: current, Pending: with(t, current, "after")})
	want{text: `user "bare" cannot do without TLS: remove "ssl": false from the secret, or name an admin`, permanent: true}.check(t, err, "before", "after")
	admin := newAdmin(t, "bare_admin")
	untried := `'bare'@'%' logs in by caching_sha2_password, which without TLS .* nothing was changed: remove "ssl": false`
	for strategy, text := range map[string]string{"single-user": untried, "alternating-users": untried, "overlap": untried} {
		if !accepts(t, value("bare", "before")) {
			t.Fatal("the user cannot log in")
		}
		r := rotators.Rotation{Current: current, Settings: rotators.Settings{Strategy: strategy, Admin: "the-admin"},
			Lookup: func(context.Context, string) (rotators.Secret, error) { return admin, nil }}
		if r.Pending, err = New(awsConfig, nil).Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		err = New(awsConfig, nil).Set(t.Context(), r)
		want{text: text, permanent: true}.check(t, err, "before", password(t, r.Pending))
		if got := takes(t, "bare", "before", password(t, r.Pending)); !slices.Equal(got, []string{"before"}) {
			t.Errorf("%s: the server takes %q", strategy, got)
		}
	}
	if query(t, "SELECT User FROM mysql.user WHERE User = 'bare_clone'") != "" {
		t.Error("there is a twin")
	}
}

// TestFalseServer answers logins without TLS as somebody would who wants to learn the
// password.
func TestFalseServer(t *testing.T) {
	switchTo := func(method string, more string) []byte { return []byte("\xfe" + method + "\x00" + more) }
	const challenge = "abcdefghijklmnopqrst\x00"
	for _, c := range []struct {
		name, method string
		answers      [][]byte
		want         want
	}{
		{"in the clear", native, [][]byte{switchTo("mysql_clear_password", "")}, want{text: "by another method", permanent: true}},
		{"by the oldest method", native, [][]byte{switchTo("mysql_old_password", challenge)}, want{text: "by another method", permanent: true}},
		{"by a key it sends", cachingSHA2, [][]byte{{1, 4}}, want{text: "asks for the password .* itself", permanent: true}},
		{"by a key it sends, after a switch", native, [][]byte{switchTo(cachingSHA2, challenge), {1, 4}}, want{text: "asks for the password .* itself", permanent: true}},
		{"by a key it sends, for an older method", "sha256_password", [][]byte{[]byte("\x01" + publicKey)}, want{text: "asks for the password .* itself", permanent: true}},
		{"and switches to that", native, [][]byte{switchTo("sha256_password", challenge)}, want{text: "asks for the password .* itself", permanent: true}},
		{"by an empty answer", native, nil, want{text: "broke off"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			learned := make(chan []byte, 1)
			go func() {
				defer theirs.Close()
				var sent []byte
				defer func() { learned <- sent }()
				packets := append([][]byte{greeting(c.method)}, c.answers...)
				for i, p := range packets {
					if _, err := theirs.Write(append([]byte{byte(len(p)), byte(len(p) >> 8), 0, byte(2 * i)}, p...)); err != nil {
						return
					}
					header := make([]byte, 4)
					if _, err := io.ReadFull(theirs, header); err != nil {
						return
					}
					body := make([]byte, int(header[0])|int(header[1])<<8)
					_, _ = io.ReadFull(theirs, body)
					sent = append(sent, body...)
				}
			}()
			r := New(awsConfig, &Options{Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
			err := r.Test(t.Context(), rotators.Rotation{Pending: value("somebody", "before-before", "ssl", "false")})
			c.want.check(t, err, "before-before")
			if sent := <-learned; bytes.Contains(sent, []byte("before")) || len(sent) > 400 {
				t.Errorf("the false server learned %q", sent)
			}
		})
	}

	t.Run("offers no TLS", func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() {
			p := greeting(native)
			_, _ = theirs.Write(append([]byte{byte(len(p)), 0, 0, 0}, p...))
			_, _ = io.Copy(io.Discard, theirs)
		}()
		r := New(awsConfig, &Options{Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
		err := r.Test(t.Context(), rotators.Rotation{Pending: value("somebody", "before")})
		want{text: "offers no TLS: .*\"ssl\": false", permanent: true}.check(t, err, "before")
	})
}

// greeting is a server's first packet, of one without TLS.
func greeting(method string) []byte {
	p := []byte("\x0a8.0.99\x00\x01\x00\x00\x00abcdefgh\x00")
	// Protocol 4.1, secure connections, several methods of logging in.
	p = append(p, 0x00, 0x82, 0x2d, 0x02, 0x00, 0x08, 0x00, 21)
	p = append(p, make([]byte, 10)...)
	return append(p, "ijklmnopqrst\x00"+method+"\x00"...)
}

// publicKey is an RSA key of 2048 bits, whose other half nobody has.
const publicKey = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqswN+o/TwDQpJNhh3XEq
Wqa3oI4H0I1/7EFyOrjDNeFV/6Qad+5RKvA1q2F3Br9YDHzj+96QxJTsSYiDgobD
FIwQkp1Xl3EcZ3o84gPRUWTmn6HId9ZVdMozk3D5zkyLl90VVZqloCvnagXl3l1B
8MO+v6N88K8hK72xxTlnsdn2vilPS6FKZBcf0MzQtMYohM84IlYYx4o1f2OlJKCx
tppKWaVDdqzGRgEwxDiTygyULURUqAWFjTGP1Z+JhXM28UBKSwXMraI/JJXgDCap
Nm3FcxnCZwzCgNfp9XprmOnUXnLVdpEI2pDp1f61C94mTSFQtPt3hwKyuUjtNgN2
lQIDAQAB
-----END PUBLIC KEY-----
`

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
			current := value("somebody", "before", "port", port, "ssl", c.ssl)
			err := New(awsConfig, c.options).Set(ctx, rotators.Rotation{Current: current, Pending: with(t, current, "after")})
			want{text: c.want}.check(t, err, "before", "after")
			if ctx.Err() != nil {
				t.Error("the caller's time was used up")
			}
		})
	}
}

// TestUnlock gives a lock back to a server that no longer answers. Nobody waits for it.
func TestUnlock(t *testing.T) {
	t.Parallel()
	newUser(t, "unlocking", "a password")
	s := open(t, "unlocking", "a password")
	unlock, err := s.lock(t.Context(), "somebody")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	_ = s.client.wire.Conn.Close()
	s.client.wire.Conn = ours
	done := make(chan struct{})
	go func() {
		defer close(done)
		unlock()
	}()
	select {
	case <-done:
	case <-time.After(5 * maxGoodbye):
		t.Error("it waits for ever")
		_ = ours.Close()
		<-done
	}
}

// TestCanceled checks that a caller who gives up is not told about the network.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := New(awsConfig, &Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		return nil, ctx.Err()
	}})
	err := r.Test(ctx, rotators.Rotation{Pending: value("somebody", "before")})
	want{text: "called off"}.check(t, err)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause is lost: %v", err)
	}
}

// TestWhatServersSay gives errors that no server here can be brought to.
func TestWhatServersSay(t *testing.T) {
	l := database.Login{Host: "db", Port: 3306, User: "app"}
	for _, c := range []struct {
		number  uint16
		message string
		login   bool
		want    want
	}{
		{1698, "Access denied for user 'app'@'db'", true, want{text: "by a password at all", permanent: true}},
		{3159, "Connections using insecure transport are prohibited", true, want{text: `insists on TLS: remove "ssl": false`, permanent: true}},
		{3955, "Account is blocked for 1 day(s)", true, want{text: "nothing is known about this one"}},
		{1130, "Host 'x' is not allowed to connect", true, want{text: "no account that logs in from here", permanent: true}},
		{1129, "Host 'x' is blocked", true, want{text: "nothing is known about the password"}},
		{1040, "Too many connections", true, want{text: "no connection left"}},
		{1064, "near 'hunter2'", false, want{text: "a statement it does not understand .error 1064"}},
		{1819, "Your password does not satisfy the current policy requirements", false, want{text: "say in rekey:password", permanent: true}},
		{3638, "Cannot use these credentials", false, want{text: "PASSWORD HISTORY 0", permanent: true}},
		{1290, "The MariaDB server is running with the --strict-password-validation option so it cannot execute this statement", false, want{text: "strict_password_validation = OFF", permanent: true}},
		{1205, "Lock wait timeout exceeded", false, want{text: "at the same moment.*rotate again"}},
	} {
		said := &serverError{c.number, c.message}
		err := explainChange(t.Context(), said, l)
		if c.login {
			err = explainLogin(t.Context(), said, l, true)
		}
		c.want.check(t, err, "hunter2")
	}
}

// TestOldServers changes nothing on servers that know less than rekey needs.
func TestOldServers(t *testing.T) {
	for version, old := range map[string]bool{
		"5.7.44": true, "8.0.13": true, "8.0.14": false, "8.0.mysql_aurora.3.04": false, "9.7.4-2": false,
		"10.3.39-MariaDB": true, "10.4.0-MariaDB-log": false, "5.5.5-10.11.6-MariaDB": false, "11.8.2-MariaDB": false,
	} {
		s := &session{version: version}
		err := s.takes("app", rotators.NewSecret("x"))
		if (err != nil) != old || err != nil && !rotators.IsPermanent(err) {
			t.Errorf("%s: %v", version, err)
		}
	}
}
