package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// This model crosses the rotation of a secret, which Secrets Manager drives, with the
// retirement of its older credential, which the worker drives: nobody serialises the two.
// The real engine runs against a target and a store that know the truth. Each run stops
// before each of its calls, and a scheduler with a seed chooses which run goes on and which
// one dies.

type crossing struct {
	alternating   bool   // two users with a password each; else one user with two
	grace         string // rekey:grace
	crash, twice  bool   // runs die; each step is invoked twice at once
	rng           *rand.Rand
	now           time.Time
	store         *memstore.Store
	accepts       map[string]map[string]bool // by user, the passwords
	made          int
	runs          []*crossingRun
	parked        chan *crossingRun
	faults        bool
	trace         []string
	refused       int // instants with a client refused
	rotated, took int // rotations, and retirements that took place
}

type crossingRun struct {
	c       *crossing
	name    string
	step    rotation.Step
	token   string
	tries   int
	resume  chan bool // whether the run goes on
	started time.Time
	wake    time.Time
	dead    bool
	done    bool
	err     error
}

// crossingTimeout is how long an invocation lives.
const crossingTimeout = 2 * time.Minute

func (c *crossing) log(format string, args ...any) {
	c.trace = append(c.trace, c.now.Format("15:04:05.0 ")+fmt.Sprintf(format, args...))
}

// call is one call to the outside.
func (p *crossingRun) call(name string, do func() error) error {
	if p.dead {
		return errProcessDead
	}
	p.c.parked <- p
	goesOn := <-p.resume
	p.c.now = p.c.now.Add(time.Duration(p.c.rng.Intn(300)) * time.Millisecond)
	if p.c.now.Sub(p.started) > crossingTimeout {
		goesOn = false
	}
	if !goesOn {
		// Half of those that die do so after the call.
		if p.dead = true; p.c.faults && p.c.rng.Intn(2) == 0 && p.c.now.Sub(p.started) <= crossingTimeout {
			p.c.log("%s: %s, and dies (%v)", p.name, name, do())
			return errProcessDead
		}
		p.c.log("%s dies before: %s", p.name, name)
		return errProcessDead
	}
	err := do()
	p.c.log("%s: %s (%v)", p.name, name, err)
	return err
}

func (p *crossingRun) pause(context.Context, time.Duration) error {
	if p.dead {
		return errProcessDead
	}
	p.wake = p.c.now.Add(time.Second)
	p.c.parked <- p
	if p.dead = !<-p.resume; p.dead {
		return errProcessDead
	}
	if p.c.now.Before(p.wake) {
		p.c.now = p.wake
	}
	return nil
}

// crossingValue is text that costs nothing to read: the model reads values all the time.
func crossingValue(user, password string) rotators.Secret {
	return rotators.NewSecret(user + " " + password)
}

func crossingLogin(v rotators.Secret) (user, password string) {
	user, password, _ = strings.Cut(v.Reveal(), " ")
	return user, password
}

func (c *crossing) works(v rotators.Secret) bool {
	user, password := crossingLogin(v)
	return c.accepts[user][password]
}

// crossingRotator does what rotators/database does, a call of the target at a time.
type crossingRotator struct{ p *crossingRun }

func (x crossingRotator) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	user, _ := crossingLogin(r.Current)
	if x.p.c.alternating {
		user = map[string]string{"app": "app_clone", "app_clone": "app"}[user]
	}
	x.p.c.made++
	return crossingValue(user, fmt.Sprintf("made-no-%d", x.p.c.made)), nil
}

func (x crossingRotator) login(v rotators.Secret) (ok bool, err error) {
	_, password := crossingLogin(v)
	err = x.p.call("login with "+password, func() error { ok = x.p.c.works(v); return nil })
	return ok, err
}

func (x crossingRotator) change(user string, passwords ...string) error {
	return x.p.call(fmt.Sprintf("have %s accept %v", user, passwords), func() error {
		x.p.c.accepts[user] = map[string]bool{}
		for _, password := range passwords {
			x.p.c.accepts[user][password] = true
		}
		return nil
	})
}

func (x crossingRotator) Set(_ context.Context, r rotators.Rotation) error {
	if ok, err := x.login(r.Pending); err != nil || ok {
		return err
	}
	user, pending := crossingLogin(r.Pending)
	if x.p.c.alternating {
		return x.change(user, pending)
	}
	_, current := crossingLogin(r.Current)
	return x.change(user, pending, current)
}

func (x crossingRotator) Test(_ context.Context, r rotators.Rotation) error {
	if ok, err := x.login(r.Pending); err != nil || ok {
		return err
	}
	return rotators.Refused(errors.New("the password is wrong"))
}

func (x crossingRotator) Grace(s rotators.Settings) time.Duration { return s.Grace }

func (x crossingRotator) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	if ok, err := x.login(previous); err != nil || !ok {
		return err
	}
	if ok, err := x.login(r.Current); err != nil || !ok {
		return errors.Join(err, errors.New("the current one does not work"))
	}
	user, current := crossingLogin(r.Current)
	if old, _ := crossingLogin(previous); old != user {
		return x.change(old, "retired-while-"+current)
	}
	return x.change(user, current)
}

// crossingStore is the store, with calls that can die.
type crossingStore struct {
	p *crossingRun
	rotation.Store
	fenced rotation.Fenced
}

func (s crossingStore) Load(ctx context.Context, id, token string) (a *rotation.Attempt, err error) {
	err = s.p.call("Load", func() error { a, err = s.Store.Load(ctx, id, token); return err })
	return a, err
}

func (s crossingStore) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (v rotators.Secret, err error) {
	err = s.p.call(fmt.Sprint("Value ", which), func() error { v, err = s.Store.Value(ctx, a, which); return err })
	return v, err
}

func (s crossingStore) PutPending(ctx context.Context, a *rotation.Attempt, v rotators.Secret) error {
	return s.p.call("PutPending", func() error { return s.Store.PutPending(ctx, a, v) })
}

func (s crossingStore) Promote(ctx context.Context, a *rotation.Attempt) error {
	return s.p.call("Promote", func() error { return s.Store.Promote(ctx, a) })
}

func (s crossingStore) Retired(ctx context.Context, a *rotation.Attempt) error {
	return s.p.call("Retired", func() error { s.p.c.took++; return s.Store.Retired(ctx, a) })
}

func (s crossingStore) Fence(ctx context.Context, a *rotation.Attempt, key string, until time.Time) error {
	return s.p.call("Fence", func() error { return s.fenced.Fence(ctx, a, key, until) })
}

func (s crossingStore) Unfence(ctx context.Context, a *rotation.Attempt, keys ...string) error {
	return s.p.call("Unfence", func() error { return s.fenced.Unfence(ctx, a, keys...) })
}

func (c *crossing) invoke(step rotation.Step, token string, tries int) *crossingRun {
	p := &crossingRun{c: c, step: step, token: token, tries: tries, resume: make(chan bool), started: c.now}
	p.name = fmt.Sprintf("%s#%d", step, len(c.trace))
	c.runs = append(c.runs, p)
	c.log("%s begins (%s)", p.name, token)
	engine := &rotation.Engine{Now: func() time.Time { return c.now }, Pause: p.pause, Registry: rotators.Registry{"crossing": crossingRotator{p}}}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), crossingTimeout)
		defer cancel()
		store := crossingStore{p, c.store, c.store}
		switch step {
		case rotation.RetireStep:
			p.err = engine.Retire(ctx, store, memstore.ID, token)
		default: // one invocation after the other, as Secrets Manager drives them
			for s := rotation.CreateSecret; s <= rotation.FinishSecret && p.err == nil; s++ {
				p.err = engine.Step(ctx, store, s, memstore.ID, token)
			}
		}
		p.done = true
		c.parked <- p
	}()
	<-c.parked
	return p
}

// goOn lets a run make its next call.
func (c *crossing) goOn(p *crossingRun) {
	if !p.done {
		p.resume <- !c.faults || !c.crash || c.rng.Intn(100) >= 3
		<-c.parked
	}
	if _, current := c.store.Current(); !c.works(current) {
		c.refused++
		c.log("REFUSED: clients get %s, the target accepts %v", current.Reveal(), c.accepts)
	}
}

// order is the version that rekey:retire names.
func (c *crossing) order() string {
	order, _, _ := strings.Cut(c.store.Tags()[rotation.TagRetire], " ")
	return order
}

func cross(seed int64, c *crossing) *crossing {
	c.rng, c.now, c.parked, c.faults = rand.New(rand.NewSource(seed)), edge(seed), make(chan *crossingRun), true
	c.store = memstore.New(crossingValue("app", "by-hand-0"), map[string]string{"rekey:rotator": "crossing", "rekey:grace": c.grace})
	c.accepts = map[string]map[string]bool{"app": {"by-hand-0": true}}
	for round := 1; round <= 3; round++ {
		// Before each rotation but the first, the one before it has left an order.
		if order := c.order(); order != "" {
			c.now = c.now.Add(25 * time.Hour)
			p := c.invoke(rotation.RetireStep, order, 0)
			for range c.rng.Intn(14) {
				c.goOn(p)
			}
		}
		token := fmt.Sprintf("%08d-1111-4111-8111-111111111111", round)
		c.store.Begin(token)
		c.invoke(rotation.CreateSecret, token, 0)
		if c.twice {
			c.invoke(rotation.CreateSecret, token, 0)
		}
		for steps := 0; len(c.runs) > 0 && steps < 2000; steps++ {
			p := c.runs[c.rng.Intn(len(c.runs))]
			// Most of the time a retirement waits, which is when a rotation can overtake it.
			if p.step == rotation.RetireStep && c.rng.Intn(8) > 0 {
				p = c.runs[len(c.runs)-1]
			}
			c.goOn(p)
			if !p.done {
				continue
			}
			c.log("%s ends: %v", p.name, p.err)
			for i := range c.runs {
				if c.runs[i] == p {
					c.runs = append(c.runs[:i], c.runs[i+1:]...)
					break
				}
			}
			if name, _ := c.store.Current(); p.err == nil && name == p.token {
				c.rotated++
			}
			if p.err != nil && p.tries < 4 {
				c.now = c.now.Add([]time.Duration{time.Second, 30 * time.Second, 2 * time.Minute}[c.rng.Intn(3)])
				c.invoke(p.step, p.token, p.tries+1)
			}
		}
	}
	// All is quiet, and one more rotation and its retirement end well.
	c.faults = false
	c.now = c.now.Add(25 * time.Hour)
	last := "99999999-1111-4111-8111-111111111111"
	c.store.Begin(last)
	finish := func(p *crossingRun) {
		for !p.done {
			c.goOn(p)
		}
		if p.err != nil {
			c.refused++
			c.log("STUCK: %s: %v", p.name, p.err)
		}
	}
	finish(c.invoke(rotation.CreateSecret, last, 0))
	c.now = c.now.Add(25 * time.Hour)
	if order := c.order(); order != "" {
		finish(c.invoke(rotation.RetireStep, order, 0))
	}
	alive := 0
	for _, passwords := range c.accepts {
		for password := range passwords {
			if !strings.HasPrefix(password, "retired-") {
				alive++
			}
		}
	}
	if alive != 1 || c.order() != "" {
		c.refused++
		c.log("LEFT OVER: the target accepts %v, the tags are %v", c.accepts, c.store.Tags())
	}
	return c
}

// No client is refused at any instant of 250 interleavings of each kind, none ends with
// clients refused, and a last rotation leaves one credential that works.
func TestRotationAndRetirementDoNotCross(t *testing.T) {
	const seeds = 250
	for _, alternating := range []bool{false, true} {
		for name, kind := range map[string]crossing{
			"retirement":                       {grace: "24h"},
			"retirement, crash":                {grace: "24h", crash: true},
			"retirement, crash, twice":         {grace: "24h", crash: true, twice: true},
			"retirement at once, crash, twice": {grace: "0m", crash: true, twice: true},
			"retirement, twice":                {grace: "24h", twice: true},
		} {
			strategy := "overlap"
			if alternating {
				strategy = "alternating users"
			}
			t.Run(strategy+", "+name, func(t *testing.T) {
				instants, ends, rotated, took := 0, 0, 0, 0
				for seed := range int64(seeds) {
					k := kind
					k.alternating = alternating
					c := cross(seed, &k)
					rotated, took = rotated+c.rotated, took+c.took
					if c.refused == 0 {
						continue
					}
					if instants++; instants == 1 {
						t.Logf("seed %d:\n%s", seed, strings.Join(c.trace[max(0, len(c.trace)-200):], "\n"))
					}
					if _, current := c.store.Current(); !c.works(current) {
						ends++
					}
				}
				t.Logf("%d interleavings, %d rotations and %d retirements: %d with an instant of a client refused or something left over, %d that end refused", seeds, rotated, took, instants, ends)
				if instants > 0 {
					t.Fail()
				}
				if took == 0 || rotated < seeds {
					t.Error("the model did not rotate or did not retire")
				}
			})
		}
	}
}
