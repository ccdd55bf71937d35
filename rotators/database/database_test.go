package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// unopened is an engine whose databases must not be touched.
func unopened(t *testing.T) Engine {
	return Engine{
		Name: "PostgreSQL", Port: 5432, Database: "postgres", MaxUser: 63, Length: 32, Alphabet: "abcdefghijABCDEFGHIJ0123456789",
		Open: func(context.Context, Login) (Session, error) {
			t.Error("a login was made")
			return nil, errors.New("no login is to be made")
		},
	}
}

func TestLogin(t *testing.T) {
	full := Login{Host: "db", Port: 6432, User: "app", Database: "shop"}
	bare := Login{Host: "db", Port: 5432, User: "app", Database: "postgres"}
	clear := bare
	clear.Plaintext = true
	six := bare
	six.Host = "2001:db8::1"
	for _, c := range []struct {
		value string
		want  Login
		err   string // in place of a login
	}{
		{`{"host":"db","username":"app","password":"pw","port":6432,"dbname":"shop"}`, full, ""},
		{`{"host":"db","username":"app","password":"pw","port":"6432","dbname":"shop","ssl":true}`, full, ""},
		{`postgres://app:pw@db:6432/shop?sslmode=require`, full, ""},
		{`{"host":"db","username":"app","password":"pw","port":null}`, bare, ""},
		{`{"host":"db","username":"app","password":"pw","ssl":"prefer","sslmode":"disable"}`, bare, ""},
		{`{"host":"db","username":"app","password":"pw","ssl":null}`, bare, ""},
		{`postgres://app:pw@db`, bare, ""},
		{`{"host":"db","username":"app","password":"pw","ssl":false}`, clear, ""},
		{`{"host":"db","username":"app","password":"pw","ssl":"false"}`, clear, ""},
		{`postgres://app:pw@db/?sslmode=disable`, clear, ""},
		{`postgres://app:pw@[2001:db8::1]/`, six, ""},
		{`{"username":"app","password":"pw"}`, Login{}, `no field "host"`},
		{`{"host":"db","password":"pw"}`, Login{}, `no field "username"`},
		{`{"host":"db","username":"app","password":""}`, Login{}, `no field "password"`},
		{`{"host":"db","username":"app","password":"pw","port":"0"}`, Login{}, `"port"`},
		{`{"host":"db","username":"app","password":"pw","port":65536}`, Login{}, `"port"`},
		{`{"host":"db:5432","username":"app","password":"pw"}`, Login{}, `"host"`},
		{`{"host":"a,b","username":"app","password":"pw"}`, Login{}, `"host"`},
		{`{"host":"/run/postgresql","username":"app","password":"pw"}`, Login{}, `"host"`},
		{`{"host":"db","password":"pw","username":"` + strings.Repeat("ü", 32) + `"}`, Login{}, "64 bytes long"},
		{`pw`, Login{}, "neither a JSON object nor a connection string"},
	} {
		got, err := unopened(t).login(rotators.NewSecret(c.value))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !rotators.IsPermanent(err) {
				t.Errorf("%s: %v; want a permanent error with %s", c.value, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.value, err)
			continue
		}
		if got.Password.Reveal() != "pw" {
			t.Errorf("%s: wrong password", c.value)
		}
		got.Password = rotators.Secret{}
		if got.differs(c.want) != "" {
			t.Errorf("%s: %+v, want %+v", c.value, got, c.want)
		}
	}
}

// TestNodes reads the servers beside the host, for an engine that has them.
func TestNodes(t *testing.T) {
	var many []string // in the order of their names
	for i := range 64 {
		many = append(many, fmt.Sprintf("n%02d:6379", i))
	}
	for _, c := range []struct{ nodes, want, err string }{
		{`null`, "", ""},
		{`[]`, "", ""},
		{`"c,b:7000, db:6379 ,B:7000"`, "b:7000,c:6379", ""},
		{`["[2001:db8::1]:7000", "2001:db8::2"]`, "[2001:db8::1]:7000,[2001:db8::2]:6379", ""},
		{`"[2001:db8::1]:7000,b"`, "[2001:db8::1]:7000,b:6379", ""},
		{`["b,c"]`, "", `"nodes"`},
		{`"b,"`, "", `"nodes"`},
		{`[1]`, "", `"nodes"`},
		{`"b:0"`, "", `"nodes"`},
		{`"redis://b"`, "", `"nodes"`},
		{`"` + strings.Join(many[:64], ",") + `"`, "", `lists 64 servers beside the one in "host"`},
		{`"db,` + strings.Join(many[:63], ",") + "," + strings.Join(many[:63], ",") + `"`, strings.Join(many[:63], ","), ""},
	} {
		e := unopened(t)
		value := rotators.NewSecret(`{"host":"DB","port":6379,"username":"app","password":"pw","nodes":` + c.nodes + `}`)
		if got, err := e.login(value); err != nil || got.Nodes != "" {
			t.Errorf("%s: an engine without nodes reads %q, %v", c.nodes, got.Nodes, err)
		}
		e.Nodes = true
		got, err := e.login(value)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !rotators.IsPermanent(err) {
				t.Errorf("%s: %v; want a permanent error with %s", c.nodes, err, c.err)
			}
			continue
		}
		if err != nil || got.Nodes != c.want {
			t.Errorf("%s: %q, %v; want %q", c.nodes, got.Nodes, err, c.want)
		}
		var rest []string
		for _, l := range got.Servers()[1:] {
			rest = append(rest, net.JoinHostPort(l.Host, strconv.Itoa(l.Port)))
		}
		if got.Servers()[0].Host != "DB" || strings.Join(rest, ",") != c.want {
			t.Errorf("%s: servers %v", c.nodes, got.Servers())
		}
	}
}

// TestAdminOfTheNodes has an admin be used only where its own value says that all
// the servers are.
func TestAdminOfTheNodes(t *testing.T) {
	for admin, want := range map[string]string{`,"nodes":"b,c"`: "", `,"nodes":["c","b"]`: "", `,"nodes":"b"`: "list the same servers", ``: "list the same servers"} {
		e := unopened(t)
		f := &fakeServer{accepts: func(Login) bool { return true }}
		e.Open, e.Nodes = f.open, true
		value := func(password string) rotators.Secret {
			return rotators.NewSecret(`{"host":"a","username":"app","nodes":"c,b","password":"` + password + `"}`)
		}
		err := New(e).Set(t.Context(), rotators.Rotation{
			Current: value("old"), Pending: value("new"), Settings: rotators.Settings{Strategy: "single-user", Admin: "root"},
			Lookup: func(context.Context, string) (rotators.Secret, error) {
				return rotators.NewSecret(`{"host":"a","username":"root","password":"r"` + admin + `}`), nil
			},
		})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || len(f.logins) > 0) {
			t.Errorf("%s: %v after logins %q, want %q", admin, err, f.logins, want)
		}
	}
}

// TestRefusals asks for what is not to be done. No method may get as far as a
// login.
func TestRefusals(t *testing.T) {
	const (
		plain  = `{"host":"db","username":"app","password":"pw"}`
		master = `{"host":"db","username":"app","password":"pw","masterarn":"arn:aws:secretsmanager:eu-west-1:1:secret:x"}`
	)
	for _, c := range []struct {
		name, value string
		settings    rotators.Settings
		text        string
	}{
		{"alternating users without an admin", plain, rotators.Settings{Strategy: "alternating-users"}, "name an admin in the tag rekey:admin"},
		{"overlap", plain, rotators.Settings{Strategy: "overlap"}, "has one password"},
		{"a misspelt strategy", plain, rotators.Settings{Strategy: "single_user"}, "there is no strategy"},
		{"a variant", plain, rotators.Settings{Rotator: "postgres", Variant: "eu"}, "has no variants: set rekey:rotator to postgres"},
		{"options", plain, rotators.Settings{Options: map[string]string{"b": "1", "a": "2"}}, "rekey:options has a, b"},
	} {
		r := New(unopened(t))
		attempt := rotators.Rotation{Current: rotators.NewSecret(c.value), Pending: rotators.NewSecret(c.value), Settings: c.settings}
		_, create := r.Create(t.Context(), attempt)
		for method, err := range map[string]error{"Create": create, "Set": r.Set(t.Context(), attempt), "Test": r.Test(t.Context(), attempt)} {
			if err == nil || !strings.Contains(err.Error(), c.text) || !rotators.IsPermanent(err) {
				t.Errorf("%s, %s: %v; want a permanent error with %q", c.name, method, err, c.text)
			}
		}
	}

	// An engine with nodes has no twins, and is not to begin what cannot be done.
	e := unopened(t)
	e.Nodes, e.Overlap = true, true
	for _, s := range []rotators.Settings{{Admin: "admin"}, {Admin: "admin", Strategy: "alternating-users"}, {Strategy: "alternating-users"}} {
		if _, err := New(e).Create(t.Context(), rotators.Rotation{Current: rotators.NewSecret(plain), Settings: s}); err == nil || !strings.Contains(err.Error(), "set rekey:strategy to overlap") || !rotators.IsPermanent(err) {
			t.Errorf("%+v: %v", s, err)
		}
	}

	// Said in so many words, the strategy has no use for the admin.
	attempt := rotators.Rotation{Current: rotators.NewSecret(master), Settings: rotators.Settings{Strategy: "single-user"}}
	if _, err := New(unopened(t)).Create(t.Context(), attempt); err != nil {
		t.Error(err)
	}
}

// TestNext walks through the users of two values in a row.
func TestNext(t *testing.T) {
	long := strings.Repeat("x", 57)
	for _, c := range []struct{ user, next, err string }{
		{"app", "app_clone", ""},
		{"app_clone", "app", ""},
		{"app_clone_clone", "app_clone", ""},
		{"_clone", "_clone_clone", ""},
		{"APP_CLONE", "APP_CLONE_clone", ""},
		{long, long + "_clone", ""},
		{long + "x", "", "64 bytes long, and PostgreSQL has no user name longer than 63"},
		{strings.Repeat("ü", 30), "", "66 bytes long"},
	} {
		current := rotators.NewSecret(`{"host":"db", "username":"` + c.user + `", "password":"the user ` + c.user + `'s", "dbname":"` + c.user + `", "masterarn":"admin"}`)
		pending, err := New(unopened(t)).Create(t.Context(), rotators.Rotation{Current: current})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !rotators.IsPermanent(err) {
				t.Errorf("%s: %v; want a permanent error with %q", c.user, err, c.err)
			}
			err := New(unopened(t)).Set(t.Context(), rotators.Rotation{Current: current, Pending: current})
			if err == nil || !strings.Contains(err.Error(), c.err) || !rotators.IsPermanent(err) {
				t.Errorf("%s: Set: %v; want a permanent error with %q", c.user, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.user, err)
			continue
		}
		password, err := pending.Field("password")
		if err != nil {
			t.Fatal(err)
		}
		want := `{"host":"db", "username":"` + c.next + `", "password":"` + password.Reveal() + `", "dbname":"` + c.user + `", "masterarn":"admin"}`
		if pending.Reveal() != want {
			t.Errorf("%s: %s\nwant %s", c.user, pending.Reveal(), want)
		}
	}
}

// TestSetGuards changes, in the pending value, what a rotation must not change.
func TestSetGuards(t *testing.T) {
	current := rotators.NewSecret(`{"host":"db","username":"app","password":"old","port":5432,"dbname":"shop","ssl":true}`)
	for field, pending := range map[string]string{
		"username": `{"host":"db","username":"admin","password":"new","port":5432,"dbname":"shop"}`,
		"host":     `{"host":"evil","username":"app","password":"new","port":5432,"dbname":"shop"}`,
		"port":     `{"host":"db","username":"app","password":"new","port":5433,"dbname":"shop"}`,
		"dbname":   `{"host":"db","username":"app","password":"new","port":5432}`,
		"ssl":      `{"host":"db","username":"app","password":"new","port":5432,"dbname":"shop","ssl":false}`,
	} {
		err := New(unopened(t)).Set(t.Context(), rotators.Rotation{Current: current, Pending: rotators.NewSecret(pending)})
		if err == nil || !strings.Contains(err.Error(), `"`+field+`"`) || !rotators.IsPermanent(err) {
			t.Errorf("%v; want a permanent error that names %q", err, field)
		}
	}
	// Of two users it is the other one's turn, and nobody else's.
	for _, user := range []string{"app", "admin", "app_clone_clone"} {
		pending := rotators.NewSecret(`{"host":"db","username":"` + user + `","password":"new","port":5432,"dbname":"shop"}`)
		err := New(unopened(t)).Set(t.Context(), rotators.Rotation{Current: current, Pending: pending, Settings: rotators.Settings{Admin: "admin"}})
		if err == nil || !strings.Contains(err.Error(), `"username"`) || !rotators.IsPermanent(err) {
			t.Errorf("%s: %v; want a permanent error that names the user", user, err)
		}
	}
}

// fakeServer answers logins by host and password, in a bubble where time does not
// pass by itself.
type fakeServer struct {
	accepts  func(Login) bool
	readOnly string // the host that makes no change
	logins   []string
}

func (f *fakeServer) open(_ context.Context, l Login) (Session, error) {
	f.logins = append(f.logins, l.String())
	if !f.accepts(l) {
		return nil, rotators.Refused(errors.New("refused"))
	}
	return fakeSession{f, l}, nil
}

type fakeSession struct {
	*fakeServer
	Login
}

func (s fakeSession) SetPasswords(context.Context, string, ...rotators.Secret) error {
	if s.Host == s.readOnly {
		return ErrReadOnly
	}
	return nil
}

func (s fakeSession) Close(context.Context) error { return nil }

// located is what RDS says.
type located struct {
	Place
	err   error
	asked int
}

func (l *located) Locate(context.Context, rotators.Secret) (Place, error) {
	l.asked++
	return l.Place, l.err
}

// TestReplicaLag waits for a replica, which takes the change after a while.
func TestReplicaLag(t *testing.T) {
	for _, c := range []struct {
		lag, deadline, took time.Duration // deadline 0: none
		err                 string
	}{
		{0, time.Minute, 0, ""},
		{time.Second, time.Minute, 1500 * time.Millisecond, ""},
		{50 * time.Second, time.Minute, 51100 * time.Millisecond, ""},
		{50 * time.Second, 0, 27100 * time.Millisecond, "has not heard of it yet"},
		{time.Hour, 10 * time.Second, 7100 * time.Millisecond, "has not heard of it yet"},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			f := &fakeServer{readOnly: "reader", accepts: func(l Login) bool {
				return l.Host != "reader" || l.Password.Reveal() == "old" || time.Since(start) >= c.lag
			}}
			e := unopened(t)
			e.Open = f.open
			where := &located{Place: Place{Host: "reader", Port: 5432, Writer: "writer", WriterPort: 5433}}
			e.Locator = where
			ctx := t.Context()
			if c.deadline != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.deadline)
				defer cancel()
			}
			value := func(password string) rotators.Secret {
				return rotators.NewSecret(`{"host":"reader","username":"app","password":"` + password + `"}`)
			}
			err := New(e).Set(ctx, rotators.Rotation{Current: value("old"), Pending: value("new")})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || rotators.IsRefused(err)) {
				t.Errorf("lag %s: %v, want %q", c.lag, err, c.err)
			}
			if took := time.Since(start); took != c.took {
				t.Errorf("lag %s: took %s, want %s", c.lag, took, c.took)
			}
			if where.asked != 1 || !slices.Equal(f.logins[:6], []string{
				`user "app" at reader:5432`, `user "app" at reader:5432`,
				`user "app" at writer:5433`, `user "app" at writer:5433`, `user "app" at writer:5433`, `user "app" at reader:5432`,
			}) {
				t.Errorf("RDS was asked %d times; logins %q", where.asked, f.logins)
			}
		})
	}
}

// TestAdminOfTheWriter compares the admin's host with where a value is changed.
func TestAdminOfTheWriter(t *testing.T) {
	writer := Place{Host: "db", Port: 5432, Writer: "Writer.", WriterPort: 5432}
	for _, c := range []struct {
		name, host string
		locator    *located
		admin, err string
		asked      int
	}{
		{"the same", "db", &located{}, `"host":"DB."`, "", 0},
		{"the writer", "db", &located{Place: writer}, `"host":"writer"`, "", 1},
		{"neither", "db", &located{Place: writer}, `"host":"other"`, `is for another server than Writer.:5432, where user "app" is changed`, 1},
		{"not of RDS", "db", &located{err: rotators.Permanent(errors.New("no endpoint"))}, `"host":"other"`, `than db:5432, .*no endpoint`, 1},
		{"RDS does not answer", "db", &located{err: errors.New("throttled")}, `"host":"other"`, `^throttled$`, 1},
		{"both by identifier", "", &located{Place: writer}, `"dbClusterIdentifier":"c"`, "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := unopened(t)
			f := &fakeServer{accepts: func(Login) bool { return true }}
			e.Open, e.Locator = f.open, c.locator
			value := func(password string) rotators.Secret {
				return rotators.NewSecret(`{"host":"` + c.host + `","dbInstanceIdentifier":"i","username":"app","password":"` + password + `"}`)
			}
			err := New(e).Set(t.Context(), rotators.Rotation{
				Current: value("old"), Pending: value("new"), Settings: rotators.Settings{Strategy: "single-user", Admin: "root"},
				Lookup: func(context.Context, string) (rotators.Secret, error) {
					return rotators.NewSecret(`{"username":"root","password":"r",` + c.admin + `}`), nil
				},
			})
			permanent := c.err != "" && c.name != "RDS does not answer"
			if c.err == "" && err != nil || c.err != "" && (err == nil || !regexp.MustCompile(c.err).MatchString(err.Error())) || rotators.IsPermanent(err) != permanent {
				t.Errorf("%v, want %q", err, c.err)
			}
			if c.err != "" && len(f.logins) > 0 {
				t.Errorf("logins: %q", f.logins)
			}
			if c.locator.asked != c.asked {
				t.Errorf("RDS was asked %d times, want %d", c.locator.asked, c.asked)
			}
		})
	}
}

func TestCreateKeepsEverythingElse(t *testing.T) {
	for _, spelled := range []string{
		"{ \"password\" :\t\"PASSWORD\",\"port\":5432, \"x\":[1, 2],\n\"host\":\"db\",\"username\":\"\\u0061pp\" }\n",
		"postgresql://app:PASSWORD@db/shop?application_name=a%20b&sslmode=require",
	} {
		current := rotators.NewSecret(strings.Replace(spelled, "PASSWORD", "s3cret", 1))
		settings := rotators.Settings{Password: rotators.PasswordPolicy{Length: 20, Only: "0123456789"}}
		pending, err := New(unopened(t)).Create(t.Context(), rotators.Rotation{Current: current, Settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := pending.Field("password")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Replace(pending.Reveal(), fresh.Reveal(), "PASSWORD", 1); got != spelled {
			t.Errorf("got  %q\nwant %q", got, spelled)
		}
		if len(fresh.Reveal()) != 20 || strings.Trim(fresh.Reveal(), "0123456789") != "" {
			t.Error("the owner's policy was not followed")
		}
	}
}

// TestLoginTimes looks at how long logins are given.
func TestLoginTimes(t *testing.T) {
	value := rotators.NewSecret(`{"host":"db","username":"app","password":"pw"}`)
	for _, c := range []struct {
		caller, most time.Duration // caller 0: no deadline
	}{
		{0, 10 * time.Second},
		{time.Hour, 10 * time.Second},
		{15 * time.Second, 5 * time.Second},
	} {
		e, given := unopened(t), time.Duration(0)
		e.Open = func(ctx context.Context, _ Login) (Session, error) {
			deadline, _ := ctx.Deadline()
			given = time.Until(deadline)
			return nil, errors.New("enough seen")
		}
		ctx := t.Context()
		if c.caller != 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.caller)
			defer cancel()
		}
		if err := New(e).Test(ctx, rotators.Rotation{Pending: value}); err == nil {
			t.Fatal("no error")
		}
		if given > c.most || given < c.most-2*time.Second {
			t.Errorf("of %s a login was given %s, want %s", c.caller, given, c.most)
		}
	}
}

func TestRoots(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", "/dev/null")
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	pool, err := Roots()
	if err != nil {
		t.Fatal(err)
	}
	count := strings.Count(string(rdsRoots), "BEGIN CERTIFICATE")
	//lint:ignore SA1019 the pool holds no system roots here, whose names it would not list
	if got := len(pool.Subjects()); got != count || count < 80 {
		t.Errorf("%d of %d authorities", got, count)
	}
}
