package mysql

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

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

// printable is every character of ASCII that people put into passwords.
var printable = func() string {
	var all []byte
	for c := byte(' '); c <= '~'; c++ {
		all = append(all, c)
	}
	return string(all)
}()

// longest is how long a user's name can be.
func longest() int {
	if mariaDB {
		return maxMariaDBUser
	}
	return maxMySQLUser
}

// odd are users and passwords that quoting, encoding or lengths could spoil.
func odd() []struct{ name, user, password string } {
	return []struct{ name, user, password string }{
		{"ordinary", "app", "correct horse"},
		{"quotes", `o'br"i` + "`en", `'"` + "`" + `'' OR 1=1 -- `},
		{"backslashes", `back\slash\`, `\'\\"\`},
		{"percent and underscore", `100%_$1`, `%41%s$HOME$$a$$`},
		{"spaces", "a b", " c  d "},
		{"URL characters", `u:s/e@r?#&+`, `p:w/@d?#&=+;`},
		{"Unicode", "ünï名😀"[:len("ünï名")], "pässwörd名😀"},
		{"the longest name", strings.Repeat("long", longest()/4), strings.Repeat("long", 20)},
		{"every printable character", "printable", printable},
		{"a word of SQL", "current_user", "NULL"},
	}
}

func TestRotate(t *testing.T) {
	for _, c := range odd() {
		for spelling, v := range map[string]rotators.Secret{"JSON": value(c.user, c.password), "URL": valueURL(c.user, c.password, true)} {
			t.Run(c.name+" "+spelling, func(t *testing.T) {
				newUser(t, c.user, c.password)
				w := new(wire)
				pending := rotate(t, w.rotator(), v)
				if w.dials.Load() != 4 {
					t.Errorf("%d logins, want 4", w.dials.Load())
				}
				if got := takes(t, c.user, c.password, password(t, pending)); !slices.Equal(got, []string{password(t, pending)}) {
					t.Errorf("the server takes %d passwords, or the old one", len(got))
				}
				if back := with(t, pending, c.password); !back.Equal(with(t, v, c.password)) {
					t.Error("more than the password was changed")
				}
				log, statement := secure.Log(), "SET PASSWORD"
				if !mariaDB {
					statement = "IDENTIFIED BY <secret>"
				}
				if !strings.Contains(log, statement) {
					t.Error("the log does not hold the statement, so it proves nothing")
				}
				without(t, log, password(t, pending))
			})
		}
	}
}

// TestTwoPasswords starts from every way two of three passwords can be an account's
// and has it take two of them, twice, then one. Each time exactly these are taken,
// and at no time is the last one refused that had been taken before.
func TestTwoPasswords(t *testing.T) {
	a, b, c := printable, `readers' password\`, `a "third" one`
	secrets := []rotators.Secret{rotators.NewSecret(a), rotators.NewSecret(b)}
	user := strings.Repeat(`o'two\`, longest())[:longest()]
	for _, letters := range []string{"b", "bc", "cb", "ab", "ba", "a", "ac", "ca", "c"} {
		for _, by := range []string{"the user", "an admin"} {
			t.Run(letters+" by "+by, func(t *testing.T) {
				var start []string
				for letter := range strings.SplitSeq(letters, "") {
					start = append(start, map[string]string{"a": a, "b": b, "c": c}[letter])
				}
				newAccount(t, account{user, "%"}, start[len(start)-1])
				mayKeepTwo(t, user)
				begin(t, account{user, "%"}, start)
				if got := takes(t, user, start...); len(got) != len(start) {
					t.Fatalf("the server takes %q, so this proves nothing", got)
				}
				var s *session
				if by == "the user" {
					s = open(t, user, start[len(start)-1])
				} else {
					newAdmin(t, "two_admin")
					s = open(t, "two_admin", "the admin's password")
				}
				for range 2 {
					if err := s.SetPasswords(t.Context(), user, secrets...); err != nil {
						t.Fatal(err)
					}
					if got := takes(t, user, a, b, c); !slices.Equal(got, []string{a, b}) {
						t.Fatalf("the server takes %q", got)
					}
				}
				for range 2 {
					if err := s.SetPasswords(t.Context(), user, secrets[0]); err != nil {
						t.Fatal(err)
					}
					if got := takes(t, user, a, b, c); !slices.Equal(got, []string{a}) {
						t.Fatalf("the server takes %q", got)
					}
				}
				without(t, secure.Log(), a, b, c)
			})
		}
	}
}

// TestAccountsThatChangeTogether has an admin change the accounts of a user in one
// statement, and put them back in one: no account is left behind if rekey dies between two.
func TestAccountsThatChangeTogether(t *testing.T) {
	for _, host := range []string{"%", "127.%"} {
		newAccount(t, account{"together", host}, "the first password")
	}
	newAdmin(t, "together_admin")
	reader := open(t, "together", "the first password")
	s := open(t, "together_admin", "the admin's password")
	s.Hold(reader.login, reader.Account())
	statement := regexp.MustCompile(`ALTER USER .together.@.%. [^\n]*, .together.@.127\.%. |ALTER USER .together.@.127\.%. [^\n]*, .together.@.%. `)
	changed := func(does string, err error, before string, password string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := takes(t, "together", "the first password", "another"); !slices.Equal(got, []string{password}) {
			t.Errorf("%s: the server takes %q", does, got)
		}
		if !statement.MatchString(strings.TrimPrefix(secure.Log(), before)) {
			t.Errorf("%s: there is no statement that changes both accounts", does)
		}
	}
	before := secure.Log()
	changed("the change", s.SetPasswords(t.Context(), "together", rotators.NewSecret("another")), before, "another")
	before = secure.Log()
	changed("putting back", s.PutBack(t.Context(), "together"), before, "the first password")
}

// TestOwnPasswordsOfMySQL has a user without an admin leave itself one password, of two
// that its login does not tell apart.
func TestOwnPasswordsOfMySQL(t *testing.T) {
	if mariaDB {
		return // it has no primary password
	}
	for _, c := range []struct {
		name  string
		start []string // the primary first
		login string
		grant bool
		want  want     // the zero one: no error
		taken []string // after
	}{
		{"the older one, and the server wants to be told the newer", []string{"new", "old"}, "old", true, want{}, []string{"new"}},
		{"the newer one, and the server wants to be told it", []string{"old", "new"}, "old", true, want{}, []string{"new"}},
		{"what it logged in with, which it may not withdraw", []string{"somebody's", "old"}, "old", false,
			want{text: "may not make this change: .*APPLICATION_PASSWORD_ADMIN", permanent: true}, []string{"old", "somebody's"}},
		{"and what it logged in with is its only one", []string{"old"}, "old", false, want{}, []string{"new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := account{"own", "%"}
			newAccount(t, a, c.start[0])
			begin(t, a, c.start)
			if c.grant {
				mayKeepTwo(t, a.user)
				exec(t, "ALTER USER own PASSWORD REQUIRE CURRENT")
			}
			err := open(t, a.user, c.login).SetPasswords(t.Context(), a.user, rotators.NewSecret("new"))
			if c.want.text != "" {
				c.want.check(t, err, "somebody's")
			} else if err != nil {
				t.Error(err)
			}
			if got := takes(t, a.user, "new", "old", "somebody's"); !slices.Equal(got, c.taken) {
				t.Errorf("the server takes %q, want %q", got, c.taken)
			}
		})
	}
}

// TestTwoAttempts has two attempts give one user a second password, each its own. The
// first stands before each packet that it sends while the second goes as far as it
// can. What readers have is accepted throughout, and the second attempt finds its way
// when it runs again.
func TestTwoAttempts(t *testing.T) {
	t.Parallel()
	admin := newAdmin(t, "attempts_admin")
	for by, settings := range map[string]rotators.Settings{
		"the user": {Strategy: "overlap"}, "an admin": {Strategy: "overlap", Admin: "the-admin"},
	} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			watcher := open(t, "attempts_admin", "the admin's password")
			for stand := 1; ; stand++ {
				user := fmt.Sprintf("attempted_%d", users.Add(1))
				current := newUser(t, user, "readers' password")
				mayKeepTwo(t, user)
				set := func(o *Options, fresh string) error {
					return New(awsConfig, o).Set(context.Background(), rotators.Rotation{Current: current, Pending: with(t, current, fresh), Settings: settings,
						Lookup: func(context.Context, string) (rotators.Secret, error) { return admin, nil }})
				}
				// What the server has stored: once more MySQL takes a password that it was
				// checking while it was replaced.
				all := []string{"readers' password", "the first's", "the second's"}
				stored := func(passwords ...string) (has []string) {
					rows, err := watcher.rows(t.Context(), user)
					if err != nil {
						t.Fatal(err)
					}
					for _, p := range passwords {
						if rows[0].has(rotators.NewSecret(p)) {
							has = append(has, p)
						}
					}
					return has
				}
				second := make(chan error, 1)
				sent, met := 0, false
				// The one goroutine that rotates also sends.
				first := set(&Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					return sender{c, func() {
						if sent++; met && len(stored(all[0])) == 0 {
							t.Errorf("before packet %d, and at %d: the server refuses what readers have", stand, sent)
						}
						if sent != stand {
							return
						}
						met = true
						done := make(chan struct{})
						go func() {
							defer close(done)
							second <- set(nil, "the second's")
						}()
						select {
						case <-done:
						case <-time.After(200 * time.Millisecond): // it waits for a lock
						}
					}}, err
				}}, "the first's")
				if !met {
					break
				}
				for _, err := range []error{first, <-second} {
					if rotators.IsRefused(err) {
						t.Errorf("before packet %d: a refusal, of no password that was wrong: %v", stand, err)
					}
				}
				if got := stored(all...); !slices.Contains(got, all[0]) || len(got) > 2 {
					t.Fatalf("before packet %d: the server takes %q (%v)", stand, got, first)
				}
				if err := set(nil, "the second's"); err != nil {
					t.Fatalf("before packet %d: %v", stand, err)
				}
				if got := stored(all...); !slices.Equal(got, []string{all[0], all[2]}) {
					t.Fatalf("before packet %d: the server takes %q after the second ran again", stand, got)
				}
			}
		})
	}
}

// sender is a connection that calls before ahead of everything it sends.
type sender struct {
	net.Conn
	before func()
}

func (s sender) Write(p []byte) (int, error) {
	s.before()
	return s.Conn.Write(p)
}

// begin gives an account one password or two, the first as MySQL's primary.
func begin(t *testing.T, a account, passwords []string) {
	t.Helper()
	if mariaDB {
		var accept []rotators.Secret
		for _, p := range passwords {
			accept = append(accept, rotators.NewSecret(p))
		}
		exec(t, "ALTER USER "+a.sql()+viaHashes(accept))
		return
	}
	slices.Reverse(passwords)
	defer slices.Reverse(passwords)
	for i, p := range passwords {
		retain := ""
		if i > 0 {
			retain = " RETAIN CURRENT PASSWORD"
		}
		exec(t, "ALTER USER "+a.sql()+" IDENTIFIED BY "+quoteText(p)+retain)
	}
}

// TestBecome takes every statement of every change from one state to another as the
// last one before a crash: what readers have works if it did, and a second run gets
// there.
func TestBecome(t *testing.T) {
	a, b, c := rotators.NewSecret("a"), rotators.NewSecret("b"), rotators.NewSecret("c")
	hash := func(p rotators.Secret) string { return nativeHash(p.Reveal()) }
	name := map[string]string{hash(a): "a", hash(b): "b", hash(c): "c"}
	states := [][]string{{hash(a)}, {hash(b)}, {hash(c)}}
	for _, x := range []rotators.Secret{a, b, c} {
		for _, y := range []rotators.Secret{a, b, c} {
			states = append(states, []string{hash(x), hash(y)})
		}
	}
	// apply does what MySQL does.
	apply := func(r row, sql string) row {
		if strings.Contains(sql, "DISCARD") {
			r.hashes = r.hashes[:1]
			return r
		}
		_, stored, _ := strings.Cut(sql, " AS '")
		stored, more, _ := strings.Cut(stored, "'")
		if strings.Contains(more, "RETAIN") {
			r.hashes = []string{stored, r.hashes[0]}
		} else {
			r.hashes = append([]string{stored}, r.hashes[1:]...)
		}
		return r
	}
	for _, accept := range [][]rotators.Secret{{a, b}, {a}} {
		reader := accept[len(accept)-1]
		for _, start := range states {
			whole := row{method: native, hashes: start}
			for crash := range len(whole.become(accept)) + 1 {
				r := whole
				worked := r.has(reader)
				for run, limit := range []int{crash, 9} {
					for i, sql := range r.become(accept) {
						if i == limit {
							break
						}
						r = apply(r, sql)
						if worked && !r.has(reader) {
							t.Errorf("from %v: run %d refuses the readers' password after %s", start, run, sql)
						}
					}
				}
				if len(r.become(accept)) > 0 || !r.has(accept[0]) || !r.has(reader) || len(accept) == 1 && len(r.hashes) > 1 || len(accept) == 2 && r.has(c) {
					t.Errorf("from %v it ends with %d passwords, %s first", start, len(r.hashes), name[r.hashes[0]])
				}
			}
		}
	}
}

// TestAccounts has an admin change a user that is several accounts.
func TestAccounts(t *testing.T) {
	const user = `o'brien\`
	admin := newAdmin(t, "accounts_admin")
	here, same, more, other := account{user, "%"}, account{user, "10.%"}, account{user, "192.0.2.1"}, account{user, "192.0.2.%"}
	for _, a := range []account{here, same, more} {
		newAccount(t, a, "before")
	}
	newAccount(t, other, "another password")
	exec(t, "CREATE DATABASE rights", "GRANT SELECT, INSERT ON rights.* TO "+here.sql(), "GRANT INSERT ON rights.* TO "+same.sql(), "GRANT INSERT, DELETE ON rights.* TO "+more.sql())
	t.Cleanup(func() { exec(t, "DROP DATABASE rights") })
	current := value(user, "before")
	attempt := rotators.Rotation{Current: current, Pending: with(t, current, "after"),
		Settings: rotators.Settings{Strategy: "single-user", Admin: "the-admin"},
		Lookup:   func(context.Context, string) (rotators.Secret, error) { return admin, nil }}
	if err := New(awsConfig, nil).Set(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	rows, err := open(t, "accounts_admin", "the admin's password").rows(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		has := ""
		for _, p := range []string{"before", "after", "another password"} {
			if r.has(rotators.NewSecret(p)) {
				has += p
			}
		}
		if want := map[account]string{here: "after", same: "after", more: "after", other: "another password"}[r.account]; has != want {
			t.Errorf("%s has %q, want %q", r.account, has, want)
		}
	}

	// Nothing proves which account is meant.
	vouched := attempt
	vouched.Current, vouched.Pending = value(user, "nobody's"), value(user, "nobody's either")
	vouched.Vouches = func(context.Context, string) (bool, error) { return true, nil }
	err = New(awsConfig, nil).Set(t.Context(), vouched)
	want{text: `'o''brien\\'@'%', .* no password that this secret holds tells which`, permanent: true}.check(t, err, "nobody's")
	exec(t, "DROP USER "+same.sql(), "DROP USER "+more.sql(), "DROP USER "+other.sql())
	if err := New(awsConfig, nil).Set(t.Context(), vouched); err != nil {
		t.Fatal(err)
	}
	if !accepts(t, vouched.Pending) {
		t.Error("the one account was not changed")
	}
}

// TestOddHost has an account of a narrow host change itself, with what an owner has
// set on it, which must survive.
func TestOddHost(t *testing.T) {
	a := account{`o'brien`, "127.0.%"}
	newAccount(t, a, "before")
	exec(t, "ALTER USER "+a.sql()+" REQUIRE SSL WITH MAX_USER_CONNECTIONS 7 MAX_QUERIES_PER_HOUR 1000 PASSWORD EXPIRE INTERVAL 90 DAY")
	shape := func() string {
		before, after, _ := cut(query(t, "SHOW CREATE USER "+a.sql()), " REQUIRE ")
		return before[:20] + after
	}
	before := shape()
	pending := rotate(t, New(awsConfig, nil), value(a.user, "before"))
	if after := shape(); after != before || !strings.Contains(after, "90 DAY") {
		t.Errorf("the account was %q and is %q", before, after)
	}
	admin := newAdmin(t, "odd_admin")
	err := New(awsConfig, nil).Set(t.Context(), rotators.Rotation{Current: pending, Pending: with(t, pending, "at last"),
		Settings: rotators.Settings{Strategy: "single-user", Admin: "the-admin"},
		Lookup:   func(context.Context, string) (rotators.Secret, error) { return admin, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if after := shape(); after != before {
		t.Errorf("the account was %q and is %q", before, after)
	}
}

// TestPutBack has somebody else set the password right after rekey did.
func TestPutBack(t *testing.T) {
	admin := newAdmin(t, "putback_admin")
	for strategy, settings := range map[string]rotators.Settings{"the user": {}, "an admin": {Strategy: "single-user", Admin: "the-admin"}} {
		t.Run(strategy, func(t *testing.T) {
			current := newUser(t, "putback", "old-password")
			newAccount(t, account{"putback", "10.%"}, "old-password")
			const last = 3 // the change, a login to hold the room, or the proof and the admin
			w := new(wire)
			w.before = func(n int) error {
				if n == last {
					exec(t, "ALTER USER putback IDENTIFIED BY 'somebody else''s'")
				}
				return nil
			}
			err := w.rotator().Set(t.Context(), rotators.Rotation{Current: current, Pending: with(t, current, "the-new-password"), Settings: settings,
				Lookup: func(context.Context, string) (rotators.Secret, error) { return admin, nil }})
			want{text: "refused the new password .* old one was put back and works"}.check(t, err, "old-password", "the-new-password")
			if got := takes(t, "putback", "old-password", "the-new-password"); !slices.Equal(got, []string{"old-password"}) {
				t.Errorf("the server takes %q", got)
			}
		})
	}
}

// TestRefusedChanges makes changes that the server does not make: the session serves
// on, and nobody's password was changed.
func TestRefusedChanges(t *testing.T) {
	current := newUser(t, "limited", "current-password")
	newUser(t, "victim", "victims-password")
	s := open(t, "limited", "current-password")
	const fresh = `new-'"\-password`
	set := func(user string, passwords ...string) error {
		var accept []rotators.Secret
		for _, p := range passwords {
			accept = append(accept, rotators.NewSecret(p))
		}
		return s.SetPasswords(t.Context(), user, accept...)
	}
	want{text: `user "limited" may not make this change: an admin needs CREATE USER`, permanent: true}.check(t, set("victim", fresh), fresh)
	want{text: `may not make this change: .*APPLICATION_PASSWORD_ADMIN`, permanent: true}.check(t, set("limited", fresh, "current-password"), fresh)
	want{text: "NUL", permanent: true}.check(t, set("limited", "NUL\x00"))
	want{text: "one or two passwords, not 3", permanent: true}.check(t, set("limited", fresh, fresh, fresh), fresh)
	if !accepts(t, current) || !accepts(t, value("victim", "victims-password")) {
		t.Fatal("a password was changed")
	}
	if err := set("limited", fresh); err != nil {
		t.Fatalf("the session is of no use after a failed statement: %v", err)
	}
	if !accepts(t, with(t, current, fresh)) {
		t.Error("the password was not changed")
	}
	newAdmin(t, "refused_admin")
	s = open(t, "refused_admin", "the admin's password")
	want{text: `there is no user "nobody here"`, permanent: true}.check(t, set("nobody here", fresh), fresh)
	if mariaDB {
		exec(t, "ALTER USER victim IDENTIFIED VIA mysql_native_password USING PASSWORD('x') OR unix_socket")
	} else {
		exec(t, "ALTER USER victim IDENTIFIED WITH sha256_password BY 'x'")
	}
	want{text: `'victim'@'%' logs in by something else`, permanent: true}.check(t, set("victim", fresh), fresh)
	without(t, secure.Log(), fresh)
}

func TestReadOnly(t *testing.T) {
	login := database.Login{Host: "localhost", Port: readonly.Port, User: readonly.User, Password: rotators.NewSecret(readonly.Password)}
	c := newConnector(nil)
	c.roots = func() (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(unknownCA)
		return pool, nil
	}
	opened, err := c.open(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*session)
	defer s.Close(t.Context())
	// Its rights would let this admin do it.
	err = s.SetPasswords(t.Context(), login.User, rotators.NewSecret("after"))
	want{text: "read-only replica: name the writer", permanent: true}.check(t, err, "after")
	if !errors.Is(err, database.ErrReadOnly) {
		t.Errorf("not ErrReadOnly: %v", err)
	}
	if again, err := c.open(t.Context(), login); err != nil {
		t.Errorf("the password was changed: %v", err)
	} else {
		_ = again.Close(t.Context())
	}
	// What the server says where nobody looked first.
	said := &serverError{1290, "The MariaDB server is running with the --read-only option so it cannot execute this statement"}
	if err := explainChange(t.Context(), said, login); !errors.Is(err, database.ErrReadOnly) {
		t.Errorf("not ErrReadOnly: %v", err)
	}
}

// TestRotateConnectionStrings rotates the forms in which Java's drivers and frameworks have
// a credential.
func TestRotateConnectionStrings(t *testing.T) {
	for i, form := range []string{
		"jdbc:mysql://localhost:%[1]d/?user=%[2]s&password=the+first%%20password&useUnicode=true",
		"jdbc:mysql://%[2]s:the+first+password@localhost:%[1]d/",
		"jdbc:mariadb://localhost:%[1]d/?user=%[2]s&password=the first password",
		`{"spring.datasource.url":"jdbc:mysql:\/\/localhost:%[1]d/","username":"%[2]s","password":"the first password"}`,
		`{"DATABASE_URL":"mysql://%[2]s:the%%20first%%20password@localhost:%[1]d/","SENTRY_DSN":"https://key:x@example.com/1"}`,
	} {
		name := fmt.Sprintf("stringy_%d", i)
		newUser(t, name, "the first password")
		current := rotators.NewSecret(fmt.Sprintf(form, secure.Port, name))
		r := rotators.Rotation{Current: current}
		var err error
		if r.Pending, err = New(awsConfig, nil).Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := New(awsConfig, nil).Set(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := New(awsConfig, nil).Test(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if accepts(t, current) {
			t.Errorf("%s: the old password works", form)
		}
		if again, err := r.Pending.Replace("password", rotators.NewSecret("x")); err != nil || len(again.Reveal()) != len(r.Pending.Reveal())-31 {
			t.Errorf("%s: %v", form, err)
		}
	}
}
