package lockout

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

const (
	current = "the-current-password"
	pending = "the-pending-password"
)

// reason is why a server refuses a login.
type reason struct {
	name string
	on   map[string]on // by engine
}

// on is a reason on an engine.
type on struct {
	missing string // why the engine has no such reason; "" if it has
	// arrange has the server refuse rekey. What it returns has the server let in whoever
	// has the right password, from wherever they come.
	arrange func(t *testing.T, u user) (lift func(t *testing.T, u user))
	port    func(t *testing.T, u user) int // where rekey and the application log in; nil: the server's own
	wrong   bool                           // the password of the secret is not the user's
	// want is what becomes of the rotation by a strategy: works, or else a pattern that the
	// error is to match, after "! " if the error is to be permanent.
	want func(strategy) string
}

const works = ""

// user is one that is rotated.
type user struct {
	engine
	name string
	at   int // the port
}

func always(want string) func(strategy) string { return func(strategy) string { return want } }

// numbers makes names of users.
var numbers atomic.Int32

// TestTable rotates by every strategy on every engine while the server refuses logins for
// every reason. An application that could log in before can log in after, by the password
// that it gets; the error names the reason, and is permanent where a person must act.
func TestTable(t *testing.T) {
	for _, r := range reasons {
		for _, e := range engines {
			cell := r.on[e.name]
			if cell.missing != "" {
				t.Logf("%s, %s: left out: %s", e.name, r.name, cell.missing)
				continue
			}
			if cell.want == nil {
				t.Errorf("%s, %s: say what is wanted, or why there is nothing", e.name, r.name)
				continue
			}
			for _, s := range strategies {
				if why := e.missing(s); why != "" {
					continue
				}
				t.Run(strings.Join([]string{r.name, e.name, s.name}, "/"), func(t *testing.T) { walk(t, e, s, cell) })
			}
		}
	}
}

func newName() string { return fmt.Sprintf("u%d", numbers.Add(1)) }

func engineOf(t *testing.T, name string) engine {
	for _, e := range engines {
		if e.name == name {
			return e
		}
	}
	t.Fatalf("no engine %q", name)
	return engine{}
}

// next is the user of the pending value.
func (s strategy) next(u user) string {
	if s.alternating {
		return u.name + "_clone"
	}
	return u.name
}

// rotation is an attempt to rotate a user's secret.
func (s strategy) rotation(u user) rotators.Rotation {
	return rotators.Rotation{
		Current: u.value(u.at, u.name, current), Pending: u.value(u.at, s.next(u), pending), Settings: s.settings,
		Lookup: func(context.Context, string) (rotators.Secret, error) {
			return u.value(u.at, u.admin, bossPassword), nil
		},
		Vouches: func(context.Context, string) (bool, error) { return s.delegated, nil },
	}
}

// walk tries one cell.
func walk(t *testing.T, e engine, s strategy, cell on) {
	u := user{e, newName(), e.port()}
	stored := current
	if cell.wrong {
		stored = "somebody-elses-password"
	}
	e.create(t, u.name, stored)
	if cell.port != nil {
		u.at = cell.port(t, u)
	}
	if err := e.lets(t, u.at, u.name, stored); err != nil {
		t.Fatalf("the application cannot log in, so this proves nothing: %v", err)
	}
	lift := func(*testing.T, user) {}
	if cell.arrange != nil {
		lift = cell.arrange(t, u)
	}
	attempt := s.rotation(u)
	rotator := e.new(nil)
	err := rotator.Set(t.Context(), attempt)
	if err == nil {
		err = rotator.Test(t.Context(), attempt)
	}
	want, permanent := strings.CutPrefix(cell.want(s), "! ")
	switch {
	case want == works && err != nil:
		t.Errorf("the rotation failed: %v", err)
	case want != works && err == nil:
		t.Errorf("the rotation succeeded, want an error like %q", want)
	case err != nil && (!regexp.MustCompile(want).MatchString(err.Error()) || rotators.IsPermanent(err) != permanent || rotators.IsRefused(err)):
		t.Errorf("permanent %t, refused %t; want permanent %t: %v\nwant one like %s", rotators.IsPermanent(err), rotators.IsRefused(err), permanent, err, want)
	}
	lift(t, u)
	if err != nil {
		if err := e.lets(t, u.at, u.name, stored); err != nil {
			t.Errorf("the application is locked out: %v", err)
		}
		return
	}
	if err := e.lets(t, u.at, s.next(u), pending); err != nil {
		t.Errorf("the application is locked out by the new value: %v", err)
	}
	if s.overlap && !cell.wrong || s.alternating {
		if err := e.lets(t, u.at, u.name, stored); err != nil {
			t.Errorf("the application is locked out by the value that it has: %v", err)
		}
	}
}
