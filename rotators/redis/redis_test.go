package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// printable is every printable character of ASCII, and some beyond.
var printable = func() string {
	var all strings.Builder
	for c := ' '; c <= '~'; c++ {
		all.WriteRune(c)
	}
	return all.String() + "äß名😀"
}()

// What a user may do, and in which ways it has passwords, must not change.
func rightsOf(t *testing.T, s *servers.RedisServer, user string) string {
	t.Helper()
	for line := range strings.Lines(fmt.Sprint(strings.Join(lines(do(t, s, "ACL", "LIST")), "\n"))) {
		if fields := strings.Fields(line); fields[1] == user {
			var rest []string
			for _, f := range fields {
				if len(f) != 65 { // a hash
					rest = append(rest, f)
				}
			}
			return strings.Join(rest, " ")
		}
	}
	t.Fatalf("no user %q", user)
	return ""
}

func lines(list any) (texts []string) {
	for _, text := range list.([]any) {
		texts = append(texts, text.(string))
	}
	return texts
}

func TestRotate(t *testing.T) {
	watched := monitor(t, plain)
	refusedBefore := len(do(t, plain, "ACL", "LOG", "10000").([]any))
	var secrets []string
	for _, c := range []struct{ name, user, password string }{
		{"ordinary", "app", "correct horse"},
		{"every printable character", "printable", printable},
		{"all of them in the name too", "u" + strings.ReplaceAll(printable, " ", ""), strings.Repeat("long", 1000)},
		{"a quote first", `"'\`, `'"\'' OR 1=1 --`},
		{"like a hash", "#" + strings.Repeat("ab", 32), "#" + strings.Repeat("cd", 32)},
		{"a line end", "crlf", "one\r\nACL SETUSER crlf nopass\r\n"},
		{"like a rule", "nopass", ">resetpass"},
		{"512 bytes", strings.Repeat("ü", 256), "\x00\x01\xff"},
	} {
		for spelling, spell := range map[string]func(rotators.Secret) rotators.Secret{
			"JSON": func(v rotators.Secret) rotators.Secret { return v },
			"URL": func(rotators.Secret) rotators.Secret {
				u := url.URL{Scheme: "redis", User: url.UserPassword(c.user, c.password), Host: fmt.Sprintf("localhost:%d", plain.Port), Path: "/0", RawQuery: "sslmode=disable"}
				return rotators.NewSecret(u.String())
			},
		} {
			t.Run(c.name+" "+spelling, func(t *testing.T) {
				if c.password == "\x00\x01\xff" && spelling == "JSON" {
					c.password = "\x00\x01" // JSON has no bytes that are no text
				}
				current := spell(newUser(t, c.user, c.password, plain))
				before := rightsOf(t, plain, c.user)
				w := new(wire)
				pending := rotate(t, w.rotator(), current)
				if w.dials.Load() != 4 {
					t.Errorf("%d connections, want 4", w.dials.Load())
				}
				if after := rightsOf(t, plain, c.user); after != before {
					t.Errorf("the rights were\n%s\nand are\n%s", before, after)
				}
				if refused := len(do(t, plain, "ACL", "LOG", "10000").([]any)); refused != refusedBefore {
					t.Errorf("%d logins were refused", refused-refusedBefore)
				}
				if !accepts(t, pending, plain) || accepts(t, current, plain) {
					t.Error("not the password that should work")
				}
				refusedBefore = len(do(t, plain, "ACL", "LOG", "10000").([]any))
				if back := with(t, pending, c.password); !back.Equal(with(t, current, c.password)) {
					t.Error("more than the password was changed")
				}
				if got := field(t, pending, "password"); len(got) != 32 {
					t.Errorf("a password of %d characters", len(got))
				}
				secrets = append(secrets, field(t, pending, "password"), c.password)
			})
		}
	}
	for _, place := range []struct{ name, text string }{
		{"MONITOR", watched()},
		{"ACL LOG", fmt.Sprint(do(t, plain, "ACL", "LOG", "10000"))},
		{"SLOWLOG", fmt.Sprint(do(t, plain, "SLOWLOG", "GET", "-1"))},
		{"the log", plain.Log()},
		{"a file", plain.Files()},
	} {
		if place.name == "SLOWLOG" && !strings.Contains(place.text, "setuser") && !strings.Contains(place.text, "SETUSER") {
			t.Errorf("SLOWLOG does not hold the change itself, so nothing is proved: %s", place.text)
		}
		for _, s := range secrets {
			if len(s) > 3 { // two bytes may stand anywhere
				without(t, place.name, place.text, s)
			}
		}
	}
}

// Readers' password works at any moment while another is added, and while it is
// taken away again, on every server.
func TestNoGap(t *testing.T) {
	both := []*servers.RedisServer{primary, replica}
	current := newUser(t, "gapless", "readers have this", both...)
	s := openSession(t, current)
	done := make(chan struct{})
	var tried atomic.Int64
	failed := make(chan error, len(both))
	for _, server := range both {
		go func() {
			for {
				select {
				case <-done:
					failed <- nil
					return
				default:
				}
				if err := server.Login(context.Background(), "gapless", "readers have this"); err != nil {
					failed <- err
					return
				}
				tried.Add(1)
			}
		}()
	}
	for i := 0; i < 20 || tried.Load() < 100; i++ {
		passwords := []rotators.Secret{rotators.NewSecret(fmt.Sprint("new ", i)), rotators.NewSecret("readers have this")}
		if err := s.SetPasswords(t.Context(), "gapless", passwords...); err != nil {
			t.Fatal(err)
		}
		if !accepts(t, with(t, current, fmt.Sprint("new ", i)), both...) || accepts(t, with(t, current, fmt.Sprint("new ", i-1)), both...) {
			t.Fatal("not exactly the passwords asked for")
		}
		if err := s.SetPasswords(t.Context(), "gapless", passwords[1]); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	for range both {
		if err := <-failed; err != nil {
			t.Errorf("after %d logins: %v", tried.Load(), err)
		}
	}
}

func openSession(t *testing.T, value rotators.Secret) database.Session {
	t.Helper()
	var s database.Session
	e := engine(nil)
	open := e.Open
	e.Open = func(ctx context.Context, l database.Login) (database.Session, error) {
		var err error
		s, err = open(ctx, l)
		return nil, errors.Join(errors.New("that was the session"), err)
	}
	_ = database.New(e).Test(t.Context(), rotators.Rotation{Pending: value})
	if s == nil {
		t.Fatal("no session")
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// What a rotation has changed must be there when the server was killed right
// after it.
func TestRestart(t *testing.T) {
	for name, o := range map[string]servers.RedisOptions{
		"ACL file":                           {ACLFile: true},
		"configuration file":                 {},
		"ACL file and no configuration file": {ACLFile: true, NoConfig: true},
	} {
		for _, user := range []string{"app", `back\slash{#}`, "default"} {
			t.Run(name+" "+user, func(t *testing.T) {
				t.Parallel()
				s := servers.StartRedis(t, o)
				do(t, s, "ACL", "SETUSER", user, "on", ">before", "+@all", "~*")
				current := value(user, "before", s)
				pending := rotate(t, New(aws.Config{}, nil), current)
				for range 2 {
					if !accepts(t, pending, s) || accepts(t, current, s) {
						t.Fatal("not the password that should work")
					}
					if err := s.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// The old form of a password of the user default, and what servers log in to each
// other with, follow; and nothing else does.
func TestDefault(t *testing.T) {
	for name, o := range map[string]servers.RedisOptions{"ACL file": {ACLFile: true}, "configuration file": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := servers.StartRedis(t, o)
			o.ReplicaOf = first
			both := []*servers.RedisServer{first, servers.StartRedis(t, o)}
			// A value that a configuration file must quote.
			const before = `the "first" one \ 'x'`
			for _, s := range both {
				do(t, s, "CONFIG", "SET", "requirepass", before)
				do(t, s, "CONFIG", "SET", "masteruser", "")
				do(t, s, "CONFIG", "SET", "masterauth", before)
				do(t, s, "CONFIG", "REWRITE")
			}
			if err := awaitLink(both[1]); err != nil {
				t.Fatal(err)
			}
			current := value("default", before, both...)
			pending := rotate(t, New(aws.Config{}, nil), current)
			for range 2 {
				after := field(t, pending, "password")
				if !accepts(t, pending, both...) || accepts(t, current, both...) {
					t.Fatal("not the password that should work")
				}
				for _, s := range both {
					for _, name := range []string{"requirepass", "masterauth"} {
						if got := lines(do(t, s, "CONFIG", "GET", name)); got[1] != after {
							t.Fatalf("%s is not the new password", name) // else the replica would never come
						}
					}
				}
				// Both start anew, and the replica logs in to its primary.
				for _, s := range both {
					if err := s.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if err := awaitLink(both[1]); err != nil {
					t.Fatal(err)
				}
			}

			// Another user's rotation leaves all that alone, and so does a password
			// that is for a primary elsewhere.
			for _, s := range both {
				do(t, s, "ACL", "SETUSER", "app", "on", ">app's", "+@all")
				do(t, s, "CONFIG", "SET", "masteruser", "app")
				do(t, s, "CONFIG", "SET", "masterauth", "elsewhere")
			}
			rotate(t, New(aws.Config{}, nil), value("app", "app's", both...))
			for _, s := range both {
				if got := lines(do(t, s, "CONFIG", "GET", "masterauth")); got[1] != "elsewhere" {
					t.Error("masterauth was changed")
				}
				if got := lines(do(t, s, "CONFIG", "GET", "requirepass")); got[1] != field(t, pending, "password") {
					t.Error("requirepass was changed")
				}
			}
		})
	}
}

// TestUndo has one of two servers fail at each command of a change in turn: by an
// answer, after which all is as it was, or by a connection that breaks, after which
// there is a password that both take, and the next run finishes.
func TestUndo(t *testing.T) {
	dir := lines(do(t, replica, "CONFIG", "GET", "dir"))[1]
	aclFile := filepath.Join(dir, "users.acl")
	both := []*servers.RedisServer{primary, replica}
	// The second server's SETUSER and SAVE, each twice after a first SAVE that
	// only tries.
	for _, c := range []struct {
		at   int
		what string
	}{{2, "SETUSER"}, {3, "SAVE"}, {4, "SETUSER"}, {5, "SAVE"}} {
		for _, breaks := range []bool{false, true} {
			if !breaks && c.what == "SETUSER" {
				continue // which a server does not answer with an error if it did not the first time
			}
			t.Run(fmt.Sprintf("%s %d, breaks %t", c.what, c.at, breaks), func(t *testing.T) {
				current := newUser(t, "undone", "before", both...)
				pending := with(t, current, "the-new-password")
				seen, broken := 0, false
				w := &wire{write: func(n int, p []byte) error {
					if n != 2 || !strings.Contains(strings.ToUpper(string(p)), "SETUSER") && !strings.Contains(string(p), "SAVE") {
						return nil
					}
					seen++
					if broken {
						broken = false
						return errors.Join(os.Remove(aclFile), os.Rename(aclFile+".kept", aclFile))
					}
					if seen != c.at {
						return nil
					}
					if !strings.Contains(strings.ToUpper(string(p)), c.what) {
						t.Errorf("command %d is %q, not %s", seen, p, c.what)
					}
					if breaks {
						return errors.New("the network is down")
					}
					broken = true
					// What is to be replaced is a folder with something in it.
					return errors.Join(os.Rename(aclFile, aclFile+".kept"), os.Mkdir(aclFile, 0o700))
				}}
				r := w.rotator()
				err := r.Set(t.Context(), rotators.Rotation{Current: current, Pending: pending})
				if !breaks {
					want{text: "ACL SAVE, without which .* failed at Redis at localhost:.*which said", permanent: true}.check(t, err, "before", "the-new-password")
					if broken {
						t.Error("nothing was put back on the server that failed")
					}
					if !accepts(t, current, both...) || accepts(t, pending, both...) {
						t.Error("not what was before")
					}
					return
				}
				want{text: "the network is down"}.check(t, err, "before", "the-new-password")
				some := false
				for _, v := range []rotators.Secret{current, pending} {
					ok, err := allAccept(t.Context(), t, v, both)
					if err != nil {
						t.Fatal(err)
					}
					some = some || ok
				}
				if ok, _ := allAccept(t.Context(), t, current, both[:1]); !ok || !some {
					t.Error("the password that readers have is refused by a server that could put it back, or no password works everywhere")
				}
				w.write = nil
				if err := r.Set(t.Context(), rotators.Rotation{Current: current, Pending: pending}); err != nil {
					t.Fatal(err)
				}
				if accepts(t, current, both...) || !accepts(t, pending, both...) {
					t.Error("the next run did not finish")
				}
			})
		}
	}
}

// Retirement ends on all servers, also where one has let go of the old password
// already.
func TestRetire(t *testing.T) {
	both := []*servers.RedisServer{primary, replica}
	for _, gone := range []*servers.RedisServer{nil, primary, replica} {
		previous := newUser(t, "retiring", "before", both...)
		current := with(t, previous, "after")
		for _, s := range both {
			do(t, s, "ACL", "SETUSER", "retiring", ">after")
			if s == gone {
				do(t, s, "ACL", "SETUSER", "retiring", "<before")
			}
		}
		r := New(aws.Config{}, nil).(rotators.Retirer)
		attempt := rotators.Rotation{Current: current, Settings: rotators.Settings{Strategy: "overlap"}, Previous: func(context.Context) (rotators.Secret, error) { return previous, nil }}
		for range 2 {
			if err := r.Retire(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}
			if accepts(t, previous, both...) || !accepts(t, current, both...) {
				t.Error("not the password that should work")
			}
		}
		// Without the current one nothing is withdrawn.
		do(t, replica, "ACL", "SETUSER", "retiring", ">before", "<after")
		err := r.Retire(t.Context(), attempt)
		want{text: "refuses this password"}.check(t, err, "before", "after")
		if err := replica.Login(t.Context(), "retiring", "before"); err != nil {
			t.Error(err)
		}
	}
}

// That one server refuses the old password does not say that all do.
func TestRetirementIsProvedOnEachServer(t *testing.T) {
	both := []*servers.RedisServer{primary, replica}
	previous := newUser(t, "retiring", "before", both...)
	current := with(t, previous, "after")
	for _, s := range both {
		do(t, s, "ACL", "SETUSER", "retiring", ">after")
	}
	w := &wire{before: func(n int) error {
		if n == 5 { // the first login after the change: two made it, and two proved the current password
			do(t, replica, "ACL", "SETUSER", "retiring", ">before")
		}
		return nil
	}}
	err := w.rotator().(rotators.Retirer).Retire(t.Context(), rotators.Rotation{
		Current: current, Settings: rotators.Settings{Strategy: "overlap"},
		Previous: func(context.Context) (rotators.Secret, error) { return previous, nil },
	})
	want{text: fmt.Sprintf("localhost:%d still accepts the password .* was withdrawn", replica.Port)}.check(t, err, "before", "after")
}

// A user that is called like the second of two alternating users proves nothing: an
// admin must not change the password of another user for it.
func TestRetireLeavesOthersAlone(t *testing.T) {
	current := newUser(t, "victim_clone", "mine", plain)
	victim := newUser(t, "victim", "the victim's", plain)
	admin := newUser(t, "an_admin", "the admin's", plain)
	before := do(t, plain, "ACL", "GETUSER", "victim")
	for _, previous := range []rotators.Secret{victim, with(t, victim, "not the victim's")} {
		err := New(aws.Config{}, nil).(rotators.Retirer).Retire(t.Context(), rotators.Rotation{
			Current: current, Settings: rotators.Settings{Strategy: "overlap", Admin: "the-admin"},
			Previous: func(context.Context) (rotators.Secret, error) { return previous, nil },
			Lookup:   func(context.Context, string) (rotators.Secret, error) { return admin, nil },
		})
		if err != nil {
			t.Error(err)
		}
		if after := do(t, plain, "ACL", "GETUSER", "victim"); !reflect.DeepEqual(before, after) {
			t.Errorf("the other user is now %v", after)
		}
	}
}

// Each node of a cluster has users of its own.
func TestCluster(t *testing.T) {
	var all []*servers.RedisServer
	var bus []string
	for _, aclFile := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		bus = append(bus, port)
		all = append(all, servers.StartRedis(t, servers.RedisOptions{ACLFile: aclFile, Conf: []string{"cluster-enabled yes", "cluster-port " + port}}))
	}
	do(t, all[0], "CLUSTER", "MEET", "127.0.0.1", all[1].Port, bus[1])
	for _, s := range all {
		for !strings.Contains(do(t, s, "CLUSTER", "INFO").(string), "cluster_known_nodes:2") { // the test run's own limit ends it
		}
	}
	previous := newUser(t, "clustered", "before", all...)
	for _, s := range all {
		do(t, s, "ACL", "SETUSER", "clustered", "+cluster|info")
	}
	current, r := with(t, previous, "after"), New(aws.Config{}, nil)
	attempt := rotators.Rotation{
		Current: previous, Pending: current, Settings: rotators.Settings{Strategy: "overlap"},
		Previous: func(context.Context) (rotators.Secret, error) { return previous, nil },
	}
	if err := r.Set(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	if !accepts(t, previous, all...) || !accepts(t, current, all...) {
		t.Error("not both passwords")
	}
	attempt.Current = current
	if err := r.(rotators.Retirer).Retire(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	if accepts(t, previous, all...) || !accepts(t, current, all...) {
		t.Error("not the password that should work")
	}
}

// A change that a server has in memory only is stored by the next run, which a
// login alone would call unnecessary.
func TestStoredByTheNextRun(t *testing.T) {
	s := servers.StartRedis(t, servers.RedisOptions{})
	current := newUser(t, "app", "before", s)
	pending := with(t, current, "after")
	do(t, s, "CONFIG", "REWRITE")
	do(t, s, "ACL", "SETUSER", "app", "resetpass", ">after")
	if err := New(aws.Config{}, nil).Set(t.Context(), rotators.Rotation{Current: current, Pending: pending}); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if accepts(t, current, s) || !accepts(t, pending, s) {
		t.Error("the change was lost")
	}
}

// The server itself applies a command whole or not at all, on which all rests.
func TestServerAppliesRulesWhole(t *testing.T) {
	current := newUser(t, "whole", "before", plain)
	if _, err := plain.Do(t.Context(), "ACL", "SETUSER", "whole", "resetpass", ">after", "nonsense"); err == nil {
		t.Fatal("nonsense was taken")
	}
	if !accepts(t, current, plain) || accepts(t, with(t, current, "after"), plain) {
		t.Error("half a command was applied")
	}
}
