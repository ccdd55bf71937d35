package database_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// vault is a server in memory. Its admin, root, can see what it has stored of a user, and
// put that back.
type vault struct {
	stored map[string][]string // by user
	barred map[string]string   // by user: see Record.Barred
	hidden bool                // root sees no hashes
	// refuse says how a login with the right password is answered; nil: it is let in. n is
	// how many logins there were.
	refuse  func(n int, l database.Login) error
	putBack error // of PutBack

	logins []string // USER/PASSWORD
	sets   []string // USER=PASSWORD,PASSWORD
	puts   int
	before map[string][]string
}

func newVault(app ...string) *vault {
	return &vault{stored: map[string][]string{"app": app, "root": {"of-root-alone"}}, barred: map[string]string{}, before: map[string][]string{}}
}

func (v *vault) engine() database.Engine {
	return database.Engine{
		Name: "MemSQL", Port: 5432, Database: "db", MaxUser: 63, Length: 32, Alphabet: "abcdefghijABCDEFGHIJ0123456789-_", Overlap: true,
		Open: func(ctx context.Context, l database.Login) (database.Session, error) {
			v.logins = append(v.logins, l.User+"/"+l.Password.Reveal())
			switch {
			case v.barred[l.User] != "" || !slices.Contains(v.stored[l.User], l.Password.Reveal()):
				return nil, rotators.Refused(fmt.Errorf("the password of %s is wrong", l.User))
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case v.refuse != nil:
				if err := v.refuse(len(v.logins), l); err != nil {
					return nil, err
				}
			}
			if l.User == "root" {
				return adminOfVault{ownOfVault{v}}, nil
			}
			return ownOfVault{v}, nil
		},
	}
}

type ownOfVault struct{ *vault }

func (s ownOfVault) Close(context.Context) error { return nil }

func (s ownOfVault) SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var passwords []string
	for _, p := range accept {
		passwords = append(passwords, p.Reveal())
	}
	s.before[user] = s.stored[user]
	s.stored[user] = passwords
	s.sets = append(s.sets, user+"="+strings.Join(passwords, ","))
	return nil
}

type adminOfVault struct{ ownOfVault }

func (s adminOfVault) Record(_ context.Context, user string) (database.Record, error) {
	r := database.Record{Barred: s.barred[user]}
	if !s.hidden {
		r.Has = func(p rotators.Secret) (has, known bool) {
			return slices.Contains(s.stored[user], p.Reveal()), true
		}
	}
	return r, nil
}

func (s adminOfVault) PutBack(ctx context.Context, user string) error {
	if s.putBack != nil {
		return s.putBack
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.puts++
	s.stored[user] = s.before[user]
	return nil
}

func (s ownOfVault) HasUser(_ context.Context, user string) (bool, error) {
	return s.stored[user] != nil, nil
}

func (s ownOfVault) EnsureTwin(ctx context.Context, _, twin string, _ bool, password rotators.Secret) error {
	return s.SetPasswords(ctx, twin, password)
}

func (s ownOfVault) ProveTwin(context.Context, string) error { return nil }

var _ database.Recorder = adminOfVault{}

// byAdmin is a rotation that the admin carries out, and which its owner vouches for if so.
func byAdmin(strategy string, vouched bool, current, pending rotators.Secret) rotators.Rotation {
	return rotators.Rotation{
		Settings: rotators.Settings{Strategy: strategy, Admin: "the-admin", Grace: -1}, Lookup: lookup, Current: current, Pending: pending,
		Vouches: func(context.Context, string) (bool, error) { return vouched, nil },
	}
}

// A user who is kept out by anything else than the password keeps the password, whoever
// vouches: in any strategy, and whether a password was tried or none was worth it.
func TestAUserWhoIsBarredKeepsThePassword(t *testing.T) {
	for _, strategy := range []string{"single-user", "overlap"} {
		v := newVault("current")
		v.barred["app"] = "has expired"
		err := database.New(v.engine()).Set(t.Context(), byAdmin(strategy, true, valueOf("app", "current"), valueOf("app", "pending")))
		if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "has expired, so no password logs in and none was changed") || len(v.sets) > 0 {
			t.Errorf("%s: %v, and set were %v", strategy, err, v.sets)
		}

		// The server refuses this login for where it comes from, say.
		v = newVault("current")
		v.refuse = func(_ int, l database.Login) error {
			if l.User == "app" {
				return rotators.Refused(errors.New("not from here"))
			}
			return nil
		}
		err = database.New(v.engine()).Set(t.Context(), byAdmin(strategy, true, valueOf("app", "current"), valueOf("app", "pending")))
		if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "is right, the server has stored it") || len(v.sets) > 0 {
			t.Errorf("%s: %v, and set were %v", strategy, err, v.sets)
		}
	}

	v := newVault("current")
	v.stored["app_clone"], v.barred["app_clone"] = []string{"somebody's"}, "is locked"
	err := database.New(v.engine()).Set(t.Context(), byAdmin("", true, valueOf("app", "current"), valueOf("app_clone", "pending")))
	if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "is locked, so no password logs in and none was changed") || len(v.sets) > 0 {
		t.Errorf("the twin: %v, and set were %v", err, v.sets)
	}
	if slices.ContainsFunc(v.logins, func(l string) bool { return strings.HasPrefix(l, "app_clone/") }) {
		t.Errorf("the logins were %v", v.logins)
	}
}

// The admin does nothing, and does not even log in, for a secret that proves nothing and that
// the admin's owner does not vouch for.
func TestTheAdminStaysOutUntilSomethingIsProved(t *testing.T) {
	for _, vouched := range []bool{false, true} {
		v := newVault("somebody's")
		err := database.New(v.engine()).Set(t.Context(), byAdmin("single-user", vouched, valueOf("app", "current"), valueOf("app", "pending")))
		if used := slices.Contains(v.logins, "root/of-root-alone"); used != vouched || vouched != (err == nil) {
			t.Errorf("vouched for: %t; the logins were %v, and %v", vouched, v.logins, err)
		}
	}
}

// Nor does the admin change itself, be it the current value's user or the pending one's.
func TestAnAdminDoesNotChangeItself(t *testing.T) {
	for _, user := range []string{"app", "app_clone"} {
		v := newVault("current")
		v.stored["app_clone"] = []string{"of-the-twin"}
		r := byAdmin("", true, valueOf("app", "current"), valueOf("app_clone", "pending"))
		r.Lookup = func(context.Context, string) (rotators.Secret, error) { return valueOf(user, v.stored[user][0]), nil }
		err := database.New(v.engine()).Set(t.Context(), r)
		if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), fmt.Sprintf("is the user %q, which this secret rotates", user)) || len(v.logins) > 0 {
			t.Errorf("%s: %v, after the logins %v", user, err, v.logins)
		}
	}
}

// A password that the server is known not to have is not tried: applications may be locked out
// by failed logins. Where hashes are hidden each one is tried, and of abandoned ones five.
func TestWhichPasswordsAreTried(t *testing.T) {
	var abandoned []rotators.Secret
	for n := range 9 {
		abandoned = append(abandoned, valueOf("app", fmt.Sprint("abandoned-", n)))
	}
	for _, c := range []struct {
		hidden bool
		want   []string
	}{
		{false, []string{"app/current", "root/of-root-alone", "app/pending"}},
		{true, []string{"app/current", "root/of-root-alone", "app/pending", "app/previous", "app/abandoned-0", "app/abandoned-1", "app/abandoned-2", "app/abandoned-3", "app/abandoned-4", "app/pending"}},
	} {
		v := newVault("somebody's")
		v.hidden = c.hidden
		r := byAdmin("single-user", true, valueOf("app", "current"), valueOf("app", "pending"))
		r.Previous = func(context.Context) (rotators.Secret, error) { return valueOf("app", "previous"), nil }
		r.Leftovers = sequence(abandoned...)
		if err := database.New(v.engine()).Set(t.Context(), r); err != nil || !slices.Equal(v.logins, c.want) {
			t.Errorf("hidden %t: %v, and the logins were\n%v, want\n%v", c.hidden, err, v.logins, c.want)
		}
	}
}

// A password goes to no server but those of its own value, be it a version's own, or the one
// that took its place when it was retired.
func TestNoPasswordGoesToAnotherServer(t *testing.T) {
	derived := derivedBy(t, "app_clone") // while readers had "current"
	elsewhere := func(user, password string) rotators.Secret {
		return rotators.NewSecret(`{"host":"elsewhere","username":"` + user + `","password":"` + password + `"}`)
	}
	for _, previous := range []struct {
		value rotators.Secret
		has   string // the twin's password
	}{{elsewhere("app_clone", "old"), "old"}, {elsewhere("app", "current"), derived}} {
		v := newVault("by-hand")
		v.stored["app_clone"], v.hidden = []string{previous.has}, true
		r := byAdmin("", false, valueOf("app", "by-hand"), valueOf("app_clone", "pending"))
		r.Previous = func(context.Context) (rotators.Secret, error) { return previous.value, nil }
		err := database.New(v.engine()).Set(t.Context(), r)
		if err == nil || slices.Contains(v.logins, "app_clone/"+previous.has) || len(v.sets) > 0 {
			t.Errorf("%v, and the logins were %v", err, v.logins)
		}
	}
}

// All being well no login fails: with a grace the twin's password was replaced when that was
// over, and without one it is what it was.
func TestTheTwinIsEnteredAtOnce(t *testing.T) {
	derived := derivedBy(t, "app_clone")
	for _, c := range []struct {
		grace string
		has   string
	}{{"1h", derived}, {"", "old"}} {
		v := newVault("current")
		v.stored["app_clone"], v.hidden = []string{c.has}, true
		r := byAdmin("", false, valueOf("app", "current"), valueOf("app_clone", "pending"))
		if c.grace != "" {
			r.Settings.Grace = 1
		}
		r.Previous = func(context.Context) (rotators.Secret, error) { return valueOf("app_clone", "old"), nil }
		want := []string{"app/current", "root/of-root-alone", "app_clone/" + c.has, "app_clone/pending"}
		if err := database.New(v.engine()).Set(t.Context(), r); err != nil || !slices.Equal(v.logins, want) {
			t.Errorf("grace %q: %v, and the logins were %v, want %v", c.grace, err, v.logins, want)
		}
	}
}

// The proof of a new password is answered by something else than a welcome: the old password is
// put back, by the hashes that the admin has read or else as it is known, and the error says
// what became of it. Without an answer nothing is put back, because the stored value may work.
func TestWhatFollowsAProofThatFails(t *testing.T) {
	permanent, unreachable := rotators.Permanent(errors.New("too many errors")), errors.New("no route to host")
	for name, c := range map[string]struct {
		answer    error
		app       string // what the server has before
		putBack   error
		after     error // how the old password is answered then
		vouched   bool
		says      string
		has       string // in the end
		puts      int
		permanent bool
	}{
		"it is refused":                     {answer: rotators.Refused(errors.New("no")), app: "current", says: "refused the new password .. put back and works", has: "current", puts: 1},
		"it is answered otherwise":          {answer: database.Answered(errors.New("too many connections")), app: "current", says: "did not let .. put back and works", has: "current", puts: 1},
		"a person must act":                 {answer: database.Answered(permanent), app: "current", says: "put back and works", has: "current", puts: 1, permanent: true},
		"a pooler answers":                  {answer: database.Answered(database.ErrPooler), app: "current", says: "a pooler before .. auth_query", has: "current", puts: 1, permanent: true},
		"nothing is heard":                  {answer: unreachable, app: "current", says: "could not be tried, so the rotation must run again", has: "pending"},
		"no hash was read":                  {answer: rotators.Refused(errors.New("no")), app: "current", putBack: database.ErrUnread, says: "put back and works", has: "current"},
		"the hash cannot be put back":       {answer: rotators.Refused(errors.New("no")), app: "current", putBack: errors.New("read only"), says: "putting the old one back FAILED", has: "pending"},
		"the old one is refused after":      {answer: rotators.Refused(errors.New("no")), app: "current", after: rotators.Refused(errors.New("no")), says: "putting the old one back FAILED", has: "current", puts: 1},
		"the old one cannot be tried after": {answer: rotators.Refused(errors.New("no")), app: "current", after: unreachable, says: "was put back, and could not be tried", has: "current", puts: 1},
		"no password is known":              {answer: rotators.Refused(errors.New("no")), app: "somebody's", vouched: true, says: "the server has again what it had before", has: "somebody's", puts: 1},
		"no password is known, nor a hash":  {answer: rotators.Refused(errors.New("no")), app: "somebody's", vouched: true, putBack: database.ErrUnread, says: "held none that could be put back", has: "pending"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			v := newVault(c.app)
			v.putBack = c.putBack
			v.refuse = func(_ int, l database.Login) error {
				switch {
				case l.Password.Reveal() == "pending":
					cancel() // putting back outlives the caller
					return c.answer
				case l.User == "app" && len(v.sets) > 0:
					return c.after
				}
				return nil
			}
			err := database.New(v.engine()).Set(ctx, byAdmin("single-user", c.vouched, valueOf("app", "current"), valueOf("app", "pending")))
			if err == nil || rotators.IsRefused(err) || rotators.IsPermanent(err) != c.permanent {
				t.Errorf("permanent %t: %v", rotators.IsPermanent(err), err)
			}
			for _, part := range strings.Split(c.says, " .. ") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v: nothing of %q", err, part)
				}
			}
			if has := strings.Join(v.stored["app"], ","); has != c.has || v.puts != c.puts {
				t.Errorf("the server has %s after %d times of putting back, want %s after %d", has, v.puts, c.has, c.puts)
			}
		})
	}
}
