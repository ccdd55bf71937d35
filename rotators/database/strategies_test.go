package database_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// strategies are all there are, in every way a secret can ask for them.
var strategies = []struct {
	name     string
	settings rotators.Settings
	overlap  bool // readers are never refused
	retires  bool
}{
	{"single-user", rotators.Settings{Grace: -1}, false, false},
	{"single-user by an admin", rotators.Settings{Grace: -1, Strategy: "single-user", Admin: "the-admin"}, false, false},
	{"overlap", rotators.Settings{Grace: -1, Strategy: "overlap"}, true, true},
	{"overlap by an admin", rotators.Settings{Grace: -1, Strategy: "overlap", Admin: "the-admin"}, true, true},
	{"alternating users", rotators.Settings{Grace: -1, Admin: "the-admin"}, true, false},
	{"alternating users with a grace", rotators.Settings{Grace: time.Hour, Admin: "the-admin"}, true, true},
}

func TestConformance(t *testing.T) {
	for _, c := range strategies {
		t.Run(c.name, func(t *testing.T) {
			rotatortest.Run(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Harness {
				s := newServer(t)
				h := rotatortest.Harness{
					Rotator: database.New(s.engine(w, true)),
					Value:   valueOf("app", "number-one"),
					Another: valueOf("someone", "of-someone"),
					Tags:    map[string]string{},
					Fields:  []string{"password", "username"},
					Accepts: func(_ context.Context, v rotators.Secret) (bool, error) { return s.takes(v), nil },
					Usable: func(_ context.Context, v rotators.Secret) error {
						if user, _ := v.Field("username"); user.Reveal() == "app_clone" && !s.right["app_clone"] {
							return errors.New("the twin lacks the right")
						}
						return nil
					},
					Overlap: c.overlap,
				}
				if c.settings.Strategy != "" {
					h.Tags["rekey:strategy"] = c.settings.Strategy
				}
				if c.settings.Admin != "" {
					h.Tags["rekey:admin"], h.Lookup = c.settings.Admin, lookup
				}
				if c.settings.Grace > 0 {
					h.Tags["rekey:grace"] = "1h"
				}
				return h
			})
		})
	}
}

// series is a secret that is rotated, and rotated again, and what is to be
// retired is retired in between. It goes on where it was stopped.
type series struct {
	rotator  rotators.Rotator
	settings rotators.Settings
	values   []rotators.Secret
	current  int // what readers get
	retired  int // the values before this one are retired
}

func (s *series) rotation() rotators.Rotation {
	previous := max(0, s.current-1)
	r := rotators.Rotation{
		Settings: s.settings, Lookup: lookup, Current: s.values[s.current],
		Previous: func(context.Context) (rotators.Secret, error) {
			if s.current == 0 {
				return rotators.Secret{}, nil
			}
			return s.values[previous], nil
		},
	}
	if len(s.values) > s.current+1 {
		r.Pending = s.values[s.current+1]
	}
	return r
}

// until goes on to a value, and retires what comes before it.
func (s *series) until(ctx context.Context, n int) error {
	for {
		if s.retired < s.current {
			if err := s.rotator.(rotators.Retirer).Retire(ctx, s.rotation()); err != nil {
				return fmt.Errorf("retiring value %d: %w", s.current-1, err)
			}
			s.retired = s.current
		}
		if s.current == n {
			return nil
		}
		if len(s.values) == s.current+1 {
			next, err := s.rotator.Create(ctx, s.rotation())
			if err != nil {
				return err
			}
			s.values = append(s.values, next)
		}
		if err := s.rotator.Set(ctx, s.rotation()); err != nil {
			return fmt.Errorf("setting value %d: %w", s.current+1, err)
		}
		if err := s.rotator.Test(ctx, s.rotation()); err != nil {
			return fmt.Errorf("testing value %d: %w", s.current+1, err)
		}
		s.current++
	}
}

// What retirement leaves behind must neither be in the way of the next rotation
// nor of the one after a crash, at any point of two rotations in a row.
func TestRotationsAfterRetirement(t *testing.T) {
	const last = 2
	for _, c := range strategies {
		if !c.retires {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
				s := newServer(t)
				run := &series{rotator: database.New(s.engine(w, true)), settings: c.settings, values: []rotators.Secret{valueOf("app", "number-one")}}
				readers := func(context.Context) error {
					if !s.takes(run.values[run.current]) {
						return errors.New("what readers get is refused")
					}
					return nil
				}
				return rotatortest.Scenario{
					Run:     func(ctx context.Context) error { return run.until(ctx, last) },
					Crashed: readers,
					Recovered: func(ctx context.Context) error {
						for _, old := range run.values[:last] {
							if s.takes(old) {
								return errors.New("an old value is accepted after its retirement")
							}
						}
						return readers(ctx)
					},
				}
			})
			t.Logf("crashed at %d points", points)
		})
	}
}

// What Set does with overlap, from every state that the server may be in.
func TestOverlapSet(t *testing.T) {
	for _, c := range []struct {
		has    string // what the server accepts before
		want   string // and after
		sets   int
		err    string
		vouch  bool
		admins bool // only with an admin
	}{
		{has: "current", want: "pending,current", sets: 1},
		{has: "pending,current", want: "pending,current", sets: 1},
		{has: "current,pending", want: "pending,current", sets: 1},
		{has: "current,stray", want: "pending,current", sets: 1},
		// A run that comes late, when the old one is retired, must not revive it.
		{has: "pending", want: "pending"},
		// Whoever can write a secret must not choose a password that works.
		{has: "previous", want: "pending", sets: 1},
		{has: "leftover", want: "pending", sets: 1},
		{has: "stray", want: "stray", err: "each other one that this secret has held"},
		{has: "stray", want: "stray", err: "the admin the-admin does not act for", admins: true},
		{has: "stray", want: "pending", sets: 1, vouch: true, admins: true},
	} {
		for _, admin := range []string{"", "the-admin"} {
			if c.admins && admin == "" || c.err != "" && !c.admins && admin != "" {
				continue
			}
			name := fmt.Sprintf("%s, by %q", c.has, admin)
			s := newServer(t)
			s.accepts["app"] = strings.Split(c.has, ",")
			err := database.New(s.engine(http.DefaultTransport, true)).Set(t.Context(), rotators.Rotation{
				Settings: rotators.Settings{Strategy: "overlap", Admin: admin, Grace: 24 * time.Hour}, Lookup: lookup,
				Current: valueOf("app", "current"), Pending: valueOf("app", "pending"),
				Previous:  func(context.Context) (rotators.Secret, error) { return valueOf("app", "previous"), nil },
				Leftovers: sequence(valueOf("app", "leftover")),
				Vouches:   func(context.Context, string) (bool, error) { return c.vouch, nil },
			})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !rotators.IsPermanent(err)) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			if s.has("app") != c.want || len(s.sets) != c.sets {
				t.Errorf("%s: the server accepts %s after %q, want %s", name, s.has("app"), s.sets, c.want)
			}
		}
	}
}

// An admin that IAM lets in is no secret, so nothing is asked about its tags: it acts only
// for a secret that proves itself.
func TestNobodyVouchesForAnIAMAdmin(t *testing.T) {
	s := newServer(t)
	e := s.engine(http.DefaultTransport, true)
	e.IAMToken = func(context.Context, string, int, string) (rotators.Secret, error) {
		return rotators.NewSecret("of-root-alone"), nil
	}
	value := func(password string) rotators.Secret {
		return rotators.NewSecret(`{"host":"db.c1.eu-west-1.rds.amazonaws.com","username":"app","password":"` + password + `"}`)
	}
	r := rotators.Rotation{
		Settings: rotators.Settings{Strategy: "single-user", Admin: "iam:root"}, Current: value("number-one"), Pending: value("pending"),
		Vouches: func(_ context.Context, ref string) (bool, error) {
			t.Errorf("the tags of %s are asked for", ref)
			return true, nil
		},
	}
	if err := database.New(e).Set(t.Context(), r); err != nil || s.has("app") != "pending" {
		t.Errorf("proved: %v, and the server accepts %s", err, s.has("app"))
	}
	s.accepts["app"] = []string{"stray"}
	err := database.New(e).Set(t.Context(), r)
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "the admin iam:root does not act for") || s.has("app") != "stray" {
		t.Errorf("not proved: %v, and the server accepts %s", err, s.has("app"))
	}
}

func sequence(values ...rotators.Secret) func(context.Context) iter.Seq2[rotators.Secret, error] {
	return func(context.Context) iter.Seq2[rotators.Secret, error] {
		return func(yield func(rotators.Secret, error) bool) {
			for _, v := range values {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
}

// A server that takes a change and then refuses a password that it should accept
// is brought back to where it was, and no credential is blamed.
func TestOverlapPutBack(t *testing.T) {
	for lost, drop := range map[string]string{"the pending password": "pending", "the current password": "current"} {
		for _, admin := range []string{"", "the-admin"} {
			s := newServer(t)
			s.accepts["app"] = []string{"current"}
			s.afterSet = func(user string, s *server) {
				s.accepts[user] = slices.DeleteFunc(s.accepts[user], func(p string) bool { return p == drop })
				s.afterSet = nil
			}
			err := database.New(s.engine(http.DefaultTransport, true)).Set(t.Context(), rotators.Rotation{
				Settings: rotators.Settings{Strategy: "overlap", Admin: admin}, Lookup: lookup,
				Current: valueOf("app", "current"), Pending: valueOf("app", "pending"),
			})
			if err == nil || rotators.IsRefused(err) || !strings.Contains(err.Error(), "put back and works") {
				t.Errorf("%s: %v", lost, err)
			}
			if got := s.sets[len(s.sets)-1]; s.has("app") != "current" || got != "app=current" {
				t.Errorf("%s: the server accepts %s after %q", lost, s.has("app"), s.sets)
			}
		}
	}
}

// What Retire does, from every state that the server may be in. "derived" is the
// password that only the current value tells.
func TestRetire(t *testing.T) {
	const current = "app"
	derived := derivedBy(t, "app_clone")
	for _, c := range []struct {
		name            string
		app, clone      string // what the server accepts before
		previous        rotators.Secret
		wantApp, wantCl string
		err             string
		strategy        string
	}{
		{name: "two passwords", app: "current,old", previous: valueOf("app", "old"), wantApp: "current"},
		{name: "two passwords, the other way round", app: "old,current", previous: valueOf("app", "old"), wantApp: "current"},
		{name: "done already", app: "current", previous: valueOf("app", "old"), wantApp: "current"},
		{name: "done already, and the next is being set", app: "pending,current", previous: valueOf("app", "old"), wantApp: "pending,current"},
		{name: "of which the current does not work", app: "old", previous: valueOf("app", "old"), wantApp: "old", err: "the current one does not work"},
		{name: "with another strategy since", app: "current,old", previous: valueOf("app", "old"), wantApp: "current", strategy: "single-user"},
		{name: "no previous value", app: "current,old", wantApp: "current,old"},
		{name: "the same password in another value", app: "current", previous: rotators.NewSecret(`{"username":"app","password":"current","host":"db","note":1}`), wantApp: "current"},
		{name: "a twin", app: "current", clone: "old", previous: valueOf("app_clone", "old"), wantApp: "current", wantCl: derived},
		{name: "a twin, done already", app: "current", clone: derived, previous: valueOf("app_clone", "old"), wantApp: "current", wantCl: derived},
		{name: "a twin, while the current does not work", app: "changed", clone: "old", previous: valueOf("app_clone", "old"), wantApp: "changed", wantCl: "old", err: "the current one does not work"},
		{name: "a twin on another server", app: "current", clone: "old", previous: rotators.NewSecret(`{"username":"app_clone","password":"old","host":"other"}`), wantApp: "current", wantCl: "old"},
		{name: "somebody else", app: "current", clone: "old", previous: valueOf("someone", "of-someone"), wantApp: "current", wantCl: "old"},
		{name: "no login", app: "current", previous: rotators.NewSecret(`{"username":"app"}`), wantApp: "current", err: "the value to retire"},
	} {
		for _, admin := range []string{"", "the-admin"} {
			name := fmt.Sprintf("%s, by %q", c.name, admin)
			s := newServer(t)
			s.accepts[current] = strings.Split(c.app, ",")
			if c.clone != "" {
				s.accepts["app_clone"] = []string{c.clone}
			}
			strategy := c.strategy
			if strategy == "" && admin == "" {
				strategy = "overlap"
			}
			retirer := database.New(s.engine(http.DefaultTransport, true)).(rotators.Retirer)
			for range 2 {
				err := retirer.Retire(t.Context(), rotators.Rotation{
					Settings: rotators.Settings{Strategy: strategy, Admin: admin}, Lookup: lookup, Current: valueOf(current, "current"),
					Previous: func(context.Context) (rotators.Secret, error) { return c.previous, nil },
				})
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || rotators.IsRefused(err)) {
					t.Errorf("%s: %v, want %q", name, err, c.err)
				}
				if s.has("app") != c.wantApp || s.has("app_clone") != c.wantCl || s.has("someone") != "of-someone" {
					t.Errorf("%s: the server accepts %s and %s, want %s and %s", name, s.has("app"), s.has("app_clone"), c.wantApp, c.wantCl)
				}
			}
			if len(s.sets) > 1 {
				t.Errorf("%s: changed twice: %q", name, s.sets)
			}
		}
	}
}

// derivedBy retires the password of a user, its twin having the password
// "current", and returns what it was replaced by.
func derivedBy(t *testing.T, user string) string {
	s := newServer(t)
	s.accepts["app"], s.accepts[user] = []string{"current"}, []string{"old"}
	err := database.New(s.engine(http.DefaultTransport, false)).(rotators.Retirer).Retire(t.Context(), rotators.Rotation{
		Settings: rotators.Settings{Admin: "the-admin"}, Lookup: lookup, Current: valueOf("app", "current"),
		Previous: func(context.Context) (rotators.Secret, error) { return valueOf(user, "old"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.has(user)
}

// The password that takes a retired one's place is one that servers with rules
// take, and the next rotation finds it though the owner has changed the policy.
func TestWhatTakesARetiredPasswordsPlace(t *testing.T) {
	got := derivedBy(t, "app_clone")
	for _, class := range []func(rune) bool{unicode.IsLower, unicode.IsUpper, unicode.IsDigit, func(c rune) bool { return c == '-' || c == '_' }} {
		if !strings.ContainsFunc(got, class) {
			t.Error("a class of characters is missing")
		}
	}
	// It is part of the contract between two versions of rekey.
	if got != "7H5c34Hb-93bCF6hJ8beeDfDgFca1cAA" {
		t.Errorf("it is %q, so a twin that an older rekey retired is not recognized", got)
	}
	s := newServer(t)
	s.accepts["app"], s.accepts["app_clone"] = []string{"current"}, []string{got}
	r := rotators.Rotation{
		Settings: rotators.Settings{Admin: "the-admin", Password: rotators.PasswordPolicy{Length: 12, Exclude: "-_0123456789"}}, Lookup: lookup,
		Current: valueOf("app", "current"), Pending: valueOf("app_clone", "pending"),
	}
	rotator := database.New(s.engine(http.DefaultTransport, false))
	if err := rotator.Set(t.Context(), r); err != nil || s.has("app_clone") != "pending" {
		t.Errorf("the next rotation: %v; the twin has %s", err, s.has("app_clone"))
	}
	// Readers' password was changed by hand since: the value before it still tells.
	s.accepts["app"], s.accepts["app_clone"] = []string{"by-hand"}, []string{got}
	r.Current, r.Previous = valueOf("app", "by-hand"), func(context.Context) (rotators.Secret, error) { return valueOf("app", "current"), nil }
	if err := rotator.Set(t.Context(), r); err != nil || s.has("app_clone") != "pending" {
		t.Errorf("after a change by hand: %v; the twin has %s", err, s.has("app_clone"))
	}
	// Who cannot log in as the twin has no say in it still.
	s.accepts["app"], s.accepts["app_clone"] = []string{"current"}, []string{"victim's"}
	r.Current, r.Previous = valueOf("app", "current"), nil
	if err := rotator.Set(t.Context(), r); err == nil || s.has("app_clone") != "victim's" {
		t.Errorf("another's user: %v; it has %s", err, s.has("app_clone"))
	}
}

// A retirement that the server takes and then does not serve is taken back.
func TestRetirePutBack(t *testing.T) {
	for _, c := range []struct{ old, want string }{{"app", "current,old"}, {"app_clone", "old"}} {
		s := newServer(t)
		s.accepts["app_clone"] = []string{"old"}
		s.accepts["app"] = []string{"current", "old"}
		s.afterSet = func(user string, s *server) { s.accepts[user], s.afterSet = []string{"nothing of use"}, nil }
		err := database.New(s.engine(http.DefaultTransport, true)).(rotators.Retirer).Retire(t.Context(), rotators.Rotation{
			Settings: rotators.Settings{Admin: "the-admin"}, Lookup: lookup, Current: valueOf("app", "current"),
			Previous: func(context.Context) (rotators.Secret, error) { return valueOf(c.old, "old"), nil },
		})
		if err == nil || rotators.IsRefused(err) || !strings.Contains(err.Error(), "put back and works") || s.has(c.old) != c.want {
			t.Errorf("%s: %v; the server accepts %s", c.old, err, s.has(c.old))
		}
	}
}

// An account that somebody locked lets nobody in, and is left locked.
func TestRetireALockedAccount(t *testing.T) {
	s := newServer(t)
	e := s.engine(http.DefaultTransport, false)
	open := e.Open
	e.Open = func(ctx context.Context, l database.Login) (database.Session, error) {
		if l.User == "app_clone" {
			return nil, fmt.Errorf("not now: %w", database.ErrLocked)
		}
		return open(ctx, l)
	}
	err := database.New(e).(rotators.Retirer).Retire(t.Context(), rotators.Rotation{
		Current: valueOf("app", "number-one"), Settings: rotators.Settings{Admin: "the-admin"}, Lookup: lookup,
		Previous: func(context.Context) (rotators.Secret, error) { return valueOf("app_clone", "number-zero"), nil },
	})
	if err != nil || len(s.sets) > 0 {
		t.Errorf("%v, and changed were %v", err, s.sets)
	}
}

func TestGrace(t *testing.T) {
	retirer := database.New(database.Engine{}).(rotators.Retirer)
	for _, c := range []struct {
		strategy         string
		set, want, want2 time.Duration
	}{
		{"single-user", time.Hour, -1, -1},
		{"overlap", time.Hour, time.Hour, 24 * time.Hour},
		{"alternating-users", time.Hour, time.Hour, -1},
		{"", time.Hour, time.Hour, -1},
		{"overlap", 0, 0, 24 * time.Hour},
	} {
		got, unset := retirer.Grace(rotators.Settings{Strategy: c.strategy, Grace: c.set}), retirer.Grace(rotators.Settings{Strategy: c.strategy, Grace: -1})
		if got != c.want || unset != c.want2 {
			t.Errorf("%q: %s, and %s if nothing is set", c.strategy, got, unset)
		}
	}
}

// Retirement is made where the replica is written, and is over when the replica
// refuses the old password too.
func TestRetireBehindAReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, retired := time.Now(), time.Time{}
		const lag = 3 * time.Second
		e := database.Engine{Name: "MemSQL", Port: 5432, MaxUser: 63, Overlap: true, Locator: replicaOf("writer")}
		e.Open = func(_ context.Context, l database.Login) (database.Session, error) {
			gone := !retired.IsZero() && (l.Host == "writer" || time.Since(retired) >= lag)
			if l.Password.Reveal() == "old" && gone {
				return nil, rotators.Refused(errors.New("refused"))
			}
			return setter(func() error {
				if l.Host != "writer" {
					return database.ErrReadOnly
				}
				retired = time.Now()
				return nil
			}), nil
		}
		value := func(password string) rotators.Secret {
			return rotators.NewSecret(`{"host":"reader","username":"app","password":"` + password + `"}`)
		}
		err := database.New(e).(rotators.Retirer).Retire(t.Context(), rotators.Rotation{
			Settings: rotators.Settings{Strategy: "overlap"}, Current: value("current"),
			Previous: func(context.Context) (rotators.Secret, error) { return value("old"), nil },
		})
		if took := time.Since(start); err != nil || took < lag || took > 2*lag {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

type setter func() error

func (s setter) SetPasswords(context.Context, string, ...rotators.Secret) error { return s() }
func (s setter) Close(context.Context) error                                    { return nil }

type replicaOf string

func (r replicaOf) Locate(context.Context, rotators.Secret) (database.Place, error) {
	return database.Place{Host: "reader", Port: 5432, Writer: string(r), WriterPort: 5432}, nil
}
