package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// TestRefusals asks for changes that are not to be made.
func TestRefusals(t *testing.T) {
	clusterPort := func() int {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port
	}
	const password = "correct horse battery"
	for _, c := range []struct {
		name  string
		value func(t *testing.T) rotators.Secret
		text  string
	}{
		{"no password needed", func(t *testing.T) rotators.Secret {
			v := newUser(t, "open", password, plain)
			do(t, plain, "ACL", "SETUSER", "open", "nopass")
			return v
		}, `user "open" at .* any password or none \(nopass\)`},
		{"no rights", func(t *testing.T) rotators.Secret {
			v := newUser(t, "powerless", password, plain)
			do(t, plain, "ACL", "SETUSER", "powerless", "-@all")
			return v
		}, `user "powerless" may not .* grant it \+info \+acl\|getuser .* or name an admin`},
		{"no right to store", func(t *testing.T) rotators.Secret {
			v := newUser(t, "forgetful", password, plain)
			do(t, plain, "ACL", "SETUSER", "forgetful", "-acl|save")
			return v
		}, `user "forgetful" may not .* grant it`},
		{"a replica that is not named", func(t *testing.T) rotators.Secret {
			return newUser(t, "alone", password, primary)
		}, `have 1 replicas, of which it names 0: .* "nodes"`},
		{"a primary that is not named", func(t *testing.T) rotators.Secret {
			return newUser(t, "alone", password, replica)
		}, fmt.Sprintf(`is a replica of 127.0.0.1:%d, and the value does not name that: .* "nodes"`, primary.Port)},
		{"one server under two names", func(t *testing.T) rotators.Secret {
			v := newUser(t, "twice", password, primary)
			return but(t, v, "nodes", []string{fmt.Sprintf("127.0.0.1:%d", primary.Port)})
		}, `have 1 replicas, of which it names 0`},
		{"a cluster", func(t *testing.T) rotators.Secret {
			s := servers.StartRedis(t, servers.RedisOptions{Conf: []string{"cluster-enabled yes", fmt.Sprintf("cluster-port %d", clusterPort())}})
			v := newUser(t, "clustered", password, s)
			do(t, s, "ACL", "SETUSER", "clustered", "+cluster|info")
			do(t, s, "CLUSTER", "MEET", "127.0.0.1", "1")
			return v
		}, `is in a cluster of 2 nodes, and the value names 1: .* "nodes"`},
		{"a cluster, and no right to ask about it", func(t *testing.T) rotators.Secret {
			s := servers.StartRedis(t, servers.RedisOptions{Conf: []string{"cluster-enabled yes", fmt.Sprintf("cluster-port %d", clusterPort())}})
			return newUser(t, "clustered", password, s)
		}, `grant it .* \+cluster\|info by`},
		{"nowhere to store", func(t *testing.T) rotators.Secret {
			return newUser(t, "app", password, servers.StartRedis(t, servers.RedisOptions{NoConfig: true}))
		}, `started without a configuration file, .* nothing was changed: .*"aclfile"`},
		{"nowhere to store masterauth", func(t *testing.T) rotators.Secret {
			s := servers.StartRedis(t, servers.RedisOptions{NoConfig: true, ACLFile: true})
			do(t, s, "CONFIG", "SET", "masterauth", password)
			do(t, s, "CONFIG", "SET", "masteruser", "app")
			return newUser(t, "app", password, s)
		}, `started without a configuration file, .* nothing was changed`},
		{"a name that would keep the server from starting", func(t *testing.T) rotators.Secret {
			return newUser(t, "o'brien", password, secure)
		}, `has a user "o'brien", and with a quotation mark .*"aclfile"`},
		{"a rule that would", func(t *testing.T) rotators.Secret {
			s := servers.StartRedis(t, servers.RedisOptions{})
			do(t, s, "ACL", "SETUSER", "other", "~it's:*")
			return newUser(t, "app", password, s)
		}, `has a user "other", and with a quotation mark .*"aclfile"`},
		{"a managed service", func(t *testing.T) rotators.Secret {
			return newUser(t, "app", password, servers.StartRedis(t, servers.RedisOptions{Conf: []string{`rename-command CONFIG ""`}}))
		}, `ElastiCache and MemoryDB have users changed by their own API`},
	} {
		t.Run(c.name, func(t *testing.T) {
			current := c.value(t)
			err := New(aws.Config{}, nil).Set(t.Context(), rotators.Rotation{Current: current, Pending: with(t, current, "staple-battery-horse")})
			want{text: c.text, permanent: true}.check(t, err, password, "staple-battery-horse")
			prober := New(aws.Config{}, nil)
			if err := prober.Test(t.Context(), rotators.Rotation{Pending: current}); err != nil {
				t.Errorf("the password does not work any more: %v", err)
			}
			if err := prober.Test(t.Context(), rotators.Rotation{Pending: with(t, current, "staple-battery-horse")}); c.name != "no password needed" && !rotators.IsRefused(err) {
				t.Errorf("the password was changed: %v", err)
			}
		})
	}
}

// A user that the server does not know is not made.
func TestNoSuchUser(t *testing.T) {
	admin := newUser(t, "an_admin", "the admin's", plain)
	current := value("nobody", "password", plain)
	err := New(aws.Config{}, nil).Set(t.Context(), rotators.Rotation{
		Current: current, Pending: with(t, current, "staple-battery-horse"),
		Settings: rotators.Settings{Admin: "admin", Strategy: "single-user"},
		Lookup:   func(context.Context, string) (rotators.Secret, error) { return admin, nil },
		Vouches:  func(context.Context, string) (bool, error) { return true, nil },
	})
	want{text: `there is no user "nobody" at`, permanent: true}.check(t, err, "the admin's", "staple-battery-horse")
	if strings.Contains(fmt.Sprint(do(t, plain, "ACL", "USERS")), "nobody") {
		t.Error("a user was made")
	}
}

func TestErrors(t *testing.T) {
	const password = "somebody's secret"
	somebody := newUser(t, "somebody", password, secure)
	newUser(t, "somebody", password, unknown)
	off := newUser(t, "off", password, secure)
	do(t, secure, "ACL", "SETUSER", "off", "off")
	both := newUser(t, "both", password, primary, replica)
	one := newUser(t, "one", password, primary, replica)
	do(t, replica, "ACL", "SETUSER", "one", "resetpass")
	nothing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nothing.Close()
	nowhere := nothing.Addr().(*net.TCPAddr).Port
	full := servers.StartRedis(t, servers.RedisOptions{Conf: []string{"maxclients 1"}})
	do(t, full, "PING") // by a connection that stays

	for _, c := range []struct {
		name  string
		value rotators.Secret
		want  want
	}{
		{"wrong password", with(t, somebody, password+"x"), want{text: "refuses this password for user \"somebody\"", refused: true}},
		{"no such user", but(t, somebody, "username", "nobody"), want{text: "refuses this password for user \"nobody\"", refused: true}},
		{"a user that is off", off, want{text: "refuses this password for user \"off\", or the user is off", refused: true}},
		{"no user name", but(t, somebody, "username", ""), want{text: "no field \"username\"", permanent: true}},
		{"refused by the second server", one, want{text: fmt.Sprintf("localhost:%d refuses this password", replica.Port), refused: true}},
		{"the second server is gone", but(t, both, "nodes", fmt.Sprintf("localhost:%d", nowhere)), want{text: fmt.Sprintf("nothing listens at localhost:%d: .*\"nodes\"", nowhere)}},
		{"wrong host", but(t, somebody, "host", "127.0.0.1"), want{text: "certificate for another host", permanent: true}},
		{"unknown authority", value("somebody", password, unknown), want{text: "unknown authority: .*SSL_CERT_FILE", permanent: true}},
		{"plaintext where there is TLS", but(t, somebody, "ssl", false), want{text: "broke off, so nothing is known about the password: .*maxclients.* TLS"}},
		{"no such host", but(t, somebody, "host", "redis.invalid"), want{text: "\"redis.invalid\" cannot be resolved"}},
		{"nobody listens", but(t, somebody, "port", nowhere), want{text: fmt.Sprint("nothing listens at localhost:", nowhere)}},
		{"no connection left", value("root", password, full), want{text: "broke off, so nothing is known about the password: .*maxclients"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := New(aws.Config{}, nil).Test(t.Context(), rotators.Rotation{Pending: c.value})
			c.want.check(t, err, password)
		})
	}
}

// A URL that starts with redis: says nothing about TLS, and a server without it
// must not be sent a password by surprise.
func TestURLs(t *testing.T) {
	const password = "in-the-clear"
	newUser(t, "linked", password, secure, plain)
	watched := monitor(t, plain)
	for url, c := range map[string]want{
		fmt.Sprintf("rediss://linked:%s@localhost:%d/0", password, secure.Port):              {},
		fmt.Sprintf("redis://linked:%s@localhost:%d", password, secure.Port):                 {},
		fmt.Sprintf("valkey://linked:%s@localhost:%d?sslmode=disable", password, plain.Port): {},
		fmt.Sprintf("redis://linked:%s@localhost:%d", password, plain.Port):                  {text: "without TLS does: .*\"ssl\": false"},
	} {
		// A server without TLS waits for the end of a line that does not come, for
		// as long as it is let; a third of this.
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		sent := ""
		w := &wire{write: func(_ int, p []byte) error { sent += string(p); return nil }}
		err := w.rotator().Test(ctx, rotators.Rotation{Pending: rotators.NewSecret(url)})
		if c.text == "" && err != nil {
			t.Errorf("%s: %v", url, err)
		} else if c.text != "" {
			c.check(t, err, password)
		}
		if strings.Contains(sent, password) != strings.Contains(url, "sslmode=disable") {
			t.Errorf("%s: the password was sent in the clear, or was to be and was not", url)
		}
	}
	without(t, "MONITOR", watched(), password)
}

// TestAnswers has a false or strange server answer everything with one line.
func TestAnswers(t *testing.T) {
	const password = "a-password"
	for _, c := range []struct {
		line string
		want want
	}{
		{"-WRONGPASS invalid username-password pair", want{text: "refuses this password", refused: true}}, // Redis 6.0
		{"-WRONGPASS invalid username-password pair or user is disabled.", want{text: "refuses this password", refused: true}},
		{"-NOAUTH Authentication required.", want{text: "its code is NOAUTH"}},
		{"-LOADING Redis is loading the dataset in memory", want{text: "its code is LOADING"}},
		{"-NOPERM this user has no permissions", want{text: "its code is NOPERM"}},
		{"-READONLY You can't write against a read only replica.", want{text: "its code is READONLY"}},
		{"-DENIED Redis is running in protected mode", want{text: "protected mode", permanent: true}},
		{"-ERR wrong number of arguments for 'auth' command", want{text: "Redis 6 is the first", permanent: true}},
		{"-ERR unknown command 'auth', with args beginning with: 'app' 'a-password'", want{text: "its code is ERR"}},
		{"-a-password is what I was sent", want{text: "its code is ERR"}},
		{"a-password", want{text: "does not answer as"}},
		{"", want{text: "broke off"}},
	} {
		t.Run(c.line, func(t *testing.T) {
			r := New(aws.Config{}, &Options{Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					defer theirs.Close()
					in := bufio.NewReader(theirs)
					for c.line != "" {
						// A command is an array of strings.
						var n int
						if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
							return
						}
						for range 2 * n {
							if _, err := in.ReadString('\n'); err != nil {
								return
							}
						}
						if _, err := io.WriteString(theirs, c.line+"\r\n"); err != nil {
							return
						}
					}
				}()
				return ours, nil
			}})
			err := r.Test(t.Context(), rotators.Rotation{Pending: rotators.NewSecret(`{"host":"h","ssl":false,"username":"app","password":"` + password + `"}`)})
			c.want.check(t, err, password)
		})
	}
}

// TestDeadline connects to hosts that let it wait.
func TestDeadline(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	blackHole := &Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	for _, c := range []struct {
		name    string
		options *Options
		ssl     bool
		want    string
	}{
		{"unreachable", blackHole, true, "cannot be reached in the time there was"},
		{"silent", nil, true, "accepts connections and then says nothing, as a server without TLS does"},
		{"silent without TLS", nil, false, "accepts connections and then says nothing: check that it is a Redis server"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 600*time.Millisecond)
			defer cancel()
			current := but(t, but(t, value("app", "before", plain), "port", silent.Addr().(*net.TCPAddr).Port), "ssl", c.ssl)
			err := New(aws.Config{}, c.options).Set(ctx, rotators.Rotation{Current: current, Pending: with(t, current, "after")})
			want{text: c.want}.check(t, err, "before", "after")
			if ctx.Err() != nil {
				t.Error("the caller's time was used up")
			}
		})
	}
}

// TestCanceled checks that a caller who gives up is not told about the network.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := New(aws.Config{}, &Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		return nil, ctx.Err()
	}})
	err := r.Test(ctx, rotators.Rotation{Pending: value("app", "before", plain)})
	want{text: "called off"}.check(t, err)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause is lost: %v", err)
	}
}
