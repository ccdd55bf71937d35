package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// The model runs the real engine and rotators/apikey against a vendor and a store that
// know the truth: processes stop before each of their calls, and a scheduler with a seed
// chooses who goes on, who dies, whose call fails and whose reply is lost. Nothing waits
// but by the model's clock.

// What the model does in one configuration. Nothing in it is likely on AWS, and all of it
// is possible.
type world struct {
	driven        bool          // a parameter: Engine.Run drives it; else a secret: Engine.Step
	limit         int           // of live keys
	late          bool          // the list shows a change only after propagation
	counts        time.Duration // for how long a revoked key counts towards the limit
	overlap       bool          // two invocations of one step at once, of createSecret if create is set, too
	create        bool
	person        bool // makes and deletes keys, stores values, takes them back, sets labels
	kills         bool // a person who deletes keys of rekey's, too
	grace         string
	skew          time.Duration // of the functions' clock
	timeout       time.Duration // of the functions; 0: Lambda's longest, and no deadline is known
	crash, losses bool
}

// propagation is until when all of the vendor's servers know of a change.
const propagation = 12 * time.Second

// lambdaLimit is the longest that an invocation lives.
const lambdaLimit = 15 * time.Minute

type modelKey struct {
	id, name, secret string
	live             bool
	changed          time.Time
	byHand           bool      // a person made it
	killed           bool      // a person deleted it
	read             time.Time // when applications got it last; zero: never
	cut              bool      // a retirement ended its grace
}

// process is one invocation of a function. It stops before each call until it is resumed.
type process struct {
	m             *model
	name          string
	step          rotation.Step
	token         string
	resume        chan fate
	next          string // the call it stands before
	started, wake time.Time
	dead, done    bool
	err           error
}

// fate is what happens to a call.
type fate string

const (
	goesWell   fate = "goes well"
	diesBefore fate = "the process dies before it"
	diesAfter  fate = "the process dies after it"
	replyLost  fate = "its reply is lost"
	fails      fate = "it fails"
)

type model struct {
	world
	rng       *rand.Rand
	now       time.Time
	store     *memstore.Store
	keys      []*modelKey
	processes []*process
	parked    chan *process
	trace     []string
	broken    []string
	faults    bool

	// The rotation under way, as Secrets Manager or the queue drives it.
	token string
	step  rotation.Step
	tries int
	next  time.Time // when the next one begins
	begun int
}

func (m *model) log(format string, args ...any) {
	m.trace = append(m.trace, m.now.Format("02 15:04:05.0 ")+fmt.Sprintf(format, args...))
}

func (m *model) violated(format string, args ...any) {
	m.log("VIOLATED: "+format, args...)
	m.broken = append(m.broken, fmt.Sprintf(format, args...))
}

var (
	errProcessDead = errors.New("the process is dead")
	errConnection  = errors.New("the connection broke")
)

// call is one call to the outside.
func (p *process) call(name string, do func() error) error {
	if p.dead {
		return errProcessDead
	}
	p.next = name
	p.m.parked <- p
	fate := <-p.resume
	p.next = ""
	m := p.m
	m.now = m.now.Add(time.Duration(m.rng.Intn(300)) * time.Millisecond)
	limit := lambdaLimit
	if m.timeout != 0 {
		limit = m.timeout
	}
	if m.now.Sub(p.started) > limit {
		fate = diesBefore
	}
	var err error
	if fate != diesBefore && fate != fails {
		err = do()
	}
	m.log("%s: %s: %s (%v)", p.name, name, fate, err)
	switch fate {
	case diesBefore, diesAfter:
		p.dead = true
		return errProcessDead
	case fails, replyLost:
		return errConnection
	}
	return err
}

func (p *process) pause(ctx context.Context, d time.Duration) error {
	if p.dead {
		return errProcessDead
	}
	p.wake = p.m.now.Add(d)
	p.m.parked <- p
	<-p.resume
	if p.m.now.Before(p.wake) {
		p.m.now = p.wake
	}
	p.wake = time.Time{}
	return ctx.Err()
}

// accepted tells whether the server that happens to be asked accepts a key.
func (m *model) accepted(k *modelKey) bool {
	switch passed := m.now.Sub(k.changed); {
	case passed >= propagation:
		return k.live
	case passed < propagation/2:
		return !k.live
	}
	return k.live == (m.rng.Intn(3) != 0)
}

func (m *model) key(id string) *modelKey {
	at := slices.IndexFunc(m.keys, func(k *modelKey) bool { return k.id == id })
	if at < 0 {
		return nil
	}
	return m.keys[at]
}

func (m *model) full() bool {
	n := 0
	for _, k := range m.keys {
		if k.live || m.now.Before(k.changed.Add(m.counts)) {
			n++
		}
	}
	return n >= m.limit
}

func (m *model) mint(name string, byHand bool) *modelKey {
	n := len(m.keys)
	k := &modelKey{id: fmt.Sprint("k", n), name: name, secret: fmt.Sprintf("the-secret-of-%d-x", n), live: true, changed: m.now, byHand: byHand}
	m.keys = append(m.keys, k)
	return k
}

func (k *modelKey) value() rotators.Secret {
	return rotators.NewSecret(fmt.Sprintf(`{"apiKeyId":%q,"apiKey":%q}`, k.id, k.secret))
}

func keyIn(v rotators.Secret) string {
	id, _ := v.Field("apiKeyId")
	return id.Reveal()
}

func (m *model) current() string {
	_, v := m.store.Current()
	return keyIn(v)
}

func (m *model) recorded(id string) bool {
	return slices.ContainsFunc(m.store.Values(), func(v rotators.Secret) bool { return keyIn(v) == id })
}

// revoked judges a revocation at its moment.
func (m *model) revoked(k *modelKey) {
	ctx := context.Background()
	if !m.recorded(k.id) && !strings.HasPrefix(k.name, apikey.Name(memstore.ID, "", time.Time{})[:22]) {
		m.violated("%s is revoked, which rekey neither minted nor recorded", k.id)
	}
	if m.current() == k.id {
		m.violated("%s is revoked, which readers get", k.id)
	}
	a, err := m.store.Load(ctx, memstore.ID, "")
	if err != nil {
		m.violated("%v", err)
		return
	}
	if a.State == rotation.Stored {
		if v, _ := m.store.Value(ctx, a, rotation.PendingValue); keyIn(v) == k.id {
			m.violated("%s is revoked, which is stored and pending", k.id)
		}
	}
	ordered := false
	if a.Tags.Retire != "" {
		v, _ := m.store.Value(ctx, a, rotation.PreviousValue)
		ordered = keyIn(v) == k.id
	}
	if v, ok := m.store.Labelled("blue"); ok && keyIn(v) == k.id {
		m.violated("%s is revoked, which a label of the owner's own names", k.id)
	}
	grace, _ := rotation.ParsePeriod(m.grace)
	switch within := !k.read.IsZero() && !k.cut && m.now.Sub(k.read) < grace; {
	case ordered:
		// Its grace is over, or this is an emergency, which ends those of older ones too.
		for _, older := range m.keys {
			older.cut = older.cut || !older.read.After(k.read)
		}
	case within && !m.full(): // else it makes room, which is logged
		m.violated("%s is revoked %v after applications got it last", k.id, m.now.Sub(k.read))
	}
}

// modelIssuer is the vendor's API.
type modelIssuer struct {
	p *process
	r rotators.Rotation
}

// with makes a call with the key that readers get.
func (i modelIssuer) with(name string, do func() error) error {
	return i.p.call(name, func() error {
		if k := i.p.m.key(keyIn(i.r.Current)); k == nil || !i.p.m.accepted(k) {
			return errors.New("401")
		}
		return do()
	})
}

func (i modelIssuer) ID(v rotators.Secret) (string, error) { return apikey.ID(v, "apiKeyId", "apiKey") }
func (i modelIssuer) Begin(context.Context, string) error  { return nil }
func (i modelIssuer) Done(context.Context, string) error   { return nil }
func (i modelIssuer) Settling() time.Duration              { return propagation }

func (i modelIssuer) Mint(_ context.Context, name string) (minted apikey.Key, err error) {
	m := i.p.m
	err = i.with("Mint", func() error {
		if m.full() {
			return apikey.ErrFull
		}
		k := m.mint(name, false)
		m.log("  it is %s", k.id)
		minted = apikey.Key{ID: k.id, Fields: map[string]rotators.Secret{"apiKeyId": rotators.NewSecret(k.id), "apiKey": rotators.NewSecret(k.secret)}}
		return nil
	})
	if err != nil {
		return apikey.Key{}, err
	}
	return minted, nil
}

func (i modelIssuer) Strays(ctx context.Context, _ ...string) (strays []apikey.Stray, err error) {
	m := i.p.m
	if m.late {
		if err := i.p.pause(ctx, propagation); err != nil {
			return nil, err
		}
	}
	err = i.with("List", func() error {
		for _, k := range m.keys {
			if k.live != (m.late && m.now.Sub(k.changed) < propagation) {
				strays = append(strays, apikey.Stray{ID: k.id, Name: k.name})
			}
		}
		return nil
	})
	return strays, err
}

func (i modelIssuer) Verify(_ context.Context, v rotators.Secret) error {
	return i.p.call("Verify "+keyIn(v), func() error {
		if k := i.p.m.key(keyIn(v)); k == nil || !i.p.m.accepted(k) {
			return rotators.Refused(errors.New("401"))
		}
		return nil
	})
}

func (i modelIssuer) Revoke(_ context.Context, id string) error {
	return i.with("Revoke "+id, func() error {
		if k := i.p.m.key(id); k != nil && k.live {
			i.p.m.revoked(k)
			k.live, k.changed = false, i.p.m.now
		}
		return nil
	})
}

// modelStore is the store, with calls that can fail.
type modelStore struct {
	p *process
	*memstore.Store
}

func (s modelStore) Load(ctx context.Context, id, token string) (a *rotation.Attempt, err error) {
	err = s.p.call("Load", func() error { a, err = s.Store.Load(ctx, id, token); return err })
	return a, err
}

func (s modelStore) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (v rotators.Secret, err error) {
	err = s.p.call(fmt.Sprint("Value ", which), func() error { v, err = s.Store.Value(ctx, a, which); return err })
	return v, err
}

func (s modelStore) Held(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotation.Held, error] {
	return func(yield func(rotation.Held, error) bool) {
		var all iter.Seq2[rotation.Held, error]
		if err := s.p.call("Held", func() error { all = s.Store.Held(ctx, a); return nil }); err != nil {
			yield(rotation.Held{}, err)
			return
		}
		all(yield)
	}
}

// ended tells whether an attempt was abandoned. Then Secrets Manager, which moves the
// labels, neither stores nor promotes a value of it.
func (s modelStore) ended(ctx context.Context, a *rotation.Attempt) bool {
	now, err := s.Store.Load(ctx, memstore.ID, a.Token)
	return err != nil || now.State == rotation.Superseded || now.State == rotation.Unknown
}

func (s modelStore) PutPending(ctx context.Context, a *rotation.Attempt, v rotators.Secret) error {
	return s.p.call("PutPending "+keyIn(v), func() error {
		if s.ended(ctx, a) {
			return errors.New("it is not pending any more")
		}
		return s.Store.PutPending(ctx, a, v)
	})
}

func (s modelStore) Promote(ctx context.Context, a *rotation.Attempt) error {
	return s.p.call("Promote", func() error {
		if s.ended(ctx, a) {
			return rotators.Permanent(rotation.ErrSuperseded)
		}
		return s.Store.Promote(ctx, a)
	})
}

func (s modelStore) Retired(ctx context.Context, a *rotation.Attempt) error {
	return s.p.call("Retired", func() error { return s.Store.Retired(ctx, a) })
}

func (s modelStore) Discard(ctx context.Context, a *rotation.Attempt) error {
	return s.p.call("Discard", func() error { return s.Store.Discard(ctx, a) })
}

func (s modelStore) Promoted(ctx context.Context, a *rotation.Attempt) (version string, err error) {
	err = s.p.call("Promoted", func() error { version, err = s.Store.Promoted(ctx, a); return err })
	return version, err
}

func (s modelStore) Order(ctx context.Context, a *rotation.Attempt) error {
	return s.p.call("Order", func() error { return s.Store.Order(ctx, a) })
}

// stepped hides that a store can be driven.
type stepped struct{ rotation.Store }

func (m *model) invoke(step rotation.Step, token string) *process {
	p := &process{m: m, step: step, token: token, resume: make(chan fate), started: m.now}
	p.name = fmt.Sprintf("%s#%d", step, len(m.trace))
	m.processes = append(m.processes, p)
	m.log("%s starts (%s)", p.name, token)
	clock := &apikey.Clock{Now: func() time.Time { return m.now.Add(m.skew) }, Pause: p.pause}
	engine := &rotation.Engine{Now: clock.Now, Pause: p.pause, Registry: rotators.Registry{
		"acme": apikey.New(func(_ context.Context, r rotators.Rotation) (apikey.Issuer, error) { return modelIssuer{p, r}, nil }, clock),
	}}
	store := modelStore{p, m.store}
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		if m.timeout != 0 {
			ctx, cancel = context.WithTimeout(ctx, m.timeout)
		}
		defer cancel()
		switch {
		case step == rotation.RetireStep:
			p.err = engine.Retire(ctx, stepped{store}, memstore.ID, token)
		case m.driven:
			p.err = engine.Run(ctx, store, memstore.ID, token)
		default:
			p.err = engine.Step(ctx, stepped{store}, step, memstore.ID, token)
		}
		p.done = true
		m.parked <- p
	}()
	<-m.parked
	m.settle()
	return p
}

func (m *model) run(p *process, f fate) {
	p.resume <- f
	<-m.parked
	m.settle()
}

// settle takes note of the processes that have ended, and of what readers get.
func (m *model) settle() {
	for _, p := range slices.Clone(m.processes) {
		if !p.done {
			continue
		}
		m.processes = slices.DeleteFunc(m.processes, func(other *process) bool { return other == p })
		m.log("%s ends: %v", p.name, p.err)
		if p.token != m.token || p.step != m.step || m.token == "" || p.step == rotation.RetireStep {
			continue
		}
		switch m.tries++; {
		case p.err == nil:
			m.tries = 0
			if m.step++; m.driven || m.step > rotation.FinishSecret {
				m.token = ""
				m.next = m.now.Add([]time.Duration{time.Second, time.Minute, time.Hour, 30 * time.Hour}[m.rng.Intn(4)])
			}
		case m.tries > 5:
			m.log("%s is given up", m.token)
			m.token, m.next = "", m.now.Add(time.Minute)
			m.store.Begin("")
		default:
			m.step = rotation.CreateSecret
		}
	}
	k := m.key(m.current())
	k.read, k.cut = m.now, false
	if !k.live && !k.killed {
		m.violated("%s is what readers get, and is dead", k.id)
	}
}

// fate draws one.
func (m *model) fate() fate {
	switch n := m.rng.Intn(100); {
	case !m.faults:
	case m.crash && n < 2:
		return diesBefore
	case m.crash && n < 4:
		return diesAfter
	case m.losses && n < 6:
		return replyLost
	case m.losses && n < 8:
		return fails
	}
	return goesWell
}

// pick draws a process that can go on, or the one that wakes first.
func (m *model) pick() *process {
	ready := slices.DeleteFunc(slices.Clone(m.processes), func(p *process) bool { return p.wake.After(m.now) })
	if len(ready) == 0 {
		return slices.MinFunc(m.processes, func(a, b *process) int { return a.wake.Compare(b.wake) })
	}
	return ready[m.rng.Intn(len(ready))]
}

func (m *model) running(step rotation.Step) (n int) {
	for _, p := range m.processes {
		if p.step == step {
			n++
		}
	}
	return n
}

func (m *model) begin() {
	m.begun++
	m.token, m.step, m.tries = fmt.Sprintf("%08d-0000-4000-8000-000000000000", m.begun), rotation.CreateSecret, 0
	m.store.Begin(m.token)
	m.log("the rotation %s begins", m.token)
}

func (m *model) tick() {
	if m.token == "" && !m.now.Before(m.next) {
		m.begin()
	}
	order, at, _ := strings.Cut(m.store.Tags()[rotation.TagRetire], " ")
	due, err := time.Parse(time.RFC3339, at)
	isDue := order != "" && (err != nil || !due.After(m.now))
	again := m.overlap && (m.create || m.step != rotation.CreateSecret)
	switch n := m.rng.Intn(1000); {
	case m.person && n < 12:
		m.intervene()
	case isDue && n < 80 && m.running(rotation.RetireStep) < 2:
		m.invoke(rotation.RetireStep, order)
	case m.token != "" && m.running(m.step) == 0:
		m.invoke(m.step, m.token)
	case m.token != "" && again && n < 110 && m.running(m.step) < 2:
		m.invoke(m.step, m.token)
	case len(m.processes) > 0:
		m.run(m.pick(), m.fate())
	case m.now.Before(m.next):
		m.now = m.now.Add(min(time.Hour, m.next.Sub(m.now)))
	default:
		m.now = m.now.Add(time.Minute)
	}
}

// byHand stores a value by hand.
func (m *model) byHand(v rotators.Secret) {
	m.store.Put(fmt.Sprint("by-hand-", len(m.trace)), v)
	m.log("a person stores %s", keyIn(v))
	m.token, m.next = "", m.now.Add(time.Minute)
	m.settle()
}

// intervene is a person doing something.
func (m *model) intervene() {
	switch m.rng.Intn(8) {
	case 0:
		if !m.full() {
			m.log("a person makes %s", m.mint("by hand", true).id)
		}
	case 1:
		for _, k := range m.keys {
			if k.byHand && k.live && !m.recorded(k.id) {
				k.live, k.changed, k.killed = false, m.now, true
				m.log("a person deletes %s", k.id)
				return
			}
		}
	case 2, 3:
		if !m.full() {
			k := m.mint("by hand", true)
			k.changed = m.now.Add(-time.Minute)
			m.byHand(k.value())
		}
	case 4: // the current value, with something beside it
		m.byHand(rotators.NewSecret(strings.TrimSuffix(m.key(m.current()).value().Reveal(), "}") + fmt.Sprintf(`,"note":%d}`, len(m.trace))))
	case 5: // what readers got before
		values := m.store.Values()
		v := values[m.rng.Intn(len(values))]
		// Between the last look and the revocation there are milliseconds, and nothing that
		// could be done about them.
		revoked := func(p *process) bool { return p.next == "Revoke "+keyIn(v) }
		if m.key(keyIn(v)).live && !slices.ContainsFunc(m.processes, revoked) {
			m.byHand(v)
		}
	case 6: // a label of the owner's own, on the current version
		name, _ := m.store.Current()
		m.store.Label("blue", name)
		m.log("a person labels %s", name)
	case 7:
		k := m.keys[m.rng.Intn(len(m.keys))]
		if m.kills && k.live && k.id != m.current() {
			k.live, k.changed, k.killed = false, m.now, true
			m.log("a person kills %s", k.id)
		}
	}
}

// quiet ends what runs, has the person clear up, and takes two rotations and their
// retirements without a fault: nothing may be left over then.
func (m *model) quiet() {
	m.faults = false
	m.log("from now on all is quiet")
	finish := func(p *process) {
		for !p.done {
			m.run(p, goesWell)
		}
	}
	for len(m.processes) > 0 {
		m.run(m.pick(), goesWell)
	}
	for _, k := range m.keys {
		if k.byHand && k.live && !m.recorded(k.id) {
			k.live, k.changed, k.killed = false, m.now, true
		}
	}
	m.store.Label("blue", "")
	m.now = m.now.Add(lambdaLimit + time.Minute)
	for range 2 {
		m.begin()
		for m.token != "" && m.tries < 3 {
			finish(m.invoke(m.step, m.token))
			m.now = m.now.Add(time.Second)
		}
		if m.token != "" {
			m.violated("the rotation cannot be finished: %s", m.trace[len(m.trace)-1])
			for _, k := range m.keys {
				m.log("%+v", *k)
			}
			for _, v := range m.store.Values() {
				m.log("stored: %s", keyIn(v))
			}
			return
		}
		m.now = m.now.Add(48 * time.Hour)
		for range 3 {
			if order, _, _ := strings.Cut(m.store.Tags()[rotation.TagRetire], " "); order != "" {
				finish(m.invoke(rotation.RetireStep, order))
				m.now = m.now.Add(time.Hour)
			}
		}
	}
	if order := m.store.Tags()[rotation.TagRetire]; order != "" {
		m.violated("the order to retire %s is left over", order)
	}
	for _, k := range m.keys {
		if k.live && !k.byHand && k.id != m.current() {
			m.violated("%s is left over (recorded: %t)", k.id, m.recorded(k.id))
		}
	}
}

// edge is the instant at which the run of a seed begins: a tenth of a second before a month, a
// leap day, the day after one, or a year begins, so that its first steps are on both sides.
func edge(seed int64) time.Time {
	days := []time.Time{
		time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC),
		time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	return days[seed%int64(len(days))].Add(-100 * time.Millisecond)
}

func simulate(seed int64, w world) *model {
	m := &model{world: w, rng: rand.New(rand.NewSource(seed)), now: edge(seed), parked: make(chan *process), faults: true}
	first := m.mint("by hand", true)
	first.changed = m.now.Add(-time.Hour)
	m.store = memstore.New(first.value(), map[string]string{"rekey:rotator": "acme", "rekey:grace": w.grace})
	for range 500 {
		if len(m.broken) == 0 {
			m.tick()
		}
	}
	if len(m.broken) == 0 {
		m.quiet()
	}
	return m
}

// No key is revoked that rekey neither minted nor recorded, that readers get or will get,
// that the owner has labelled, or that applications may hold within their grace, and none
// is left over after two whole rotations: whatever dies, fails, comes twice or is changed
// by hand.
//
// REKEY_MODEL_RUNS is how many seeds each configuration is run with. REKEY_MODEL_SEED
// runs one seed alone and prints what happened.
func TestModelOfKeys(t *testing.T) {
	runs, first := int64(12), int64(1)
	if n, err := strconv.ParseInt(os.Getenv("REKEY_MODEL_RUNS"), 10, 64); err == nil {
		runs = n
	}
	seed, err := strconv.ParseInt(os.Getenv("REKEY_MODEL_SEED"), 10, 64)
	alone := err == nil
	if alone {
		runs, first = 1, seed
	}
	base := world{limit: 2, grace: "24h", crash: true, losses: true}
	for name, change := range map[string]func(*world){
		"limit 2":                               func(w *world) {},
		"limit 2, timeout":                      func(w *world) { w.timeout = time.Minute },
		"limit 50, late list":                   func(w *world) { w.limit, w.late = 50, true },
		"limit 3, counts late":                  func(w *world) { w.limit, w.counts = 3, propagation },
		"limit 2, overlap":                      func(w *world) { w.overlap = true },
		"limit 50, overlap":                     func(w *world) { w.overlap, w.limit = true, 50 },
		"limit 2, creates overlap":              func(w *world) { w.overlap, w.create = true, true },
		"limit 3, creates overlap":              func(w *world) { w.overlap, w.create, w.limit = true, true, 3 },
		"limit 3, creates overlap, timeout":     func(w *world) { w.overlap, w.create, w.limit, w.timeout = true, true, 3, 2*time.Minute },
		"limit 50, creates overlap, late list":  func(w *world) { w.overlap, w.create, w.late, w.limit = true, true, true, 50 },
		"limit 3, a person":                     func(w *world) { w.person, w.limit = true, 3 },
		"limit 50, a person, overlap":           func(w *world) { w.person, w.overlap, w.limit = true, true, 50 },
		"limit 50, a person, creates overlap":   func(w *world) { w.person, w.overlap, w.create, w.limit = true, true, true, 50 },
		"limit 50, grace 0, late list, overlap": func(w *world) { w.grace, w.late, w.overlap, w.limit = "0m", true, true, 50 },
		"limit 3, grace 0, a person, overlap":   func(w *world) { w.grace, w.person, w.overlap, w.limit = "0m", true, true, 3 },
		"limit 2, clock ahead, grace 1m":        func(w *world) { w.grace, w.skew = "1m", 2*time.Minute },
		"limit 2, clock behind, overlap":        func(w *world) { w.grace, w.skew, w.overlap = "1m", -2*time.Minute, true },
	} {
		for _, driven := range []bool{false, true} {
			w := base
			change(&w)
			w.driven = driven
			service := "secret"
			if driven {
				service = "parameter"
			}
			t.Run(service+", "+name, func(t *testing.T) {
				rotations := 0
				for s := first; s < first+runs; s++ {
					m := simulate(s, w)
					rotations += m.begun
					if len(m.broken) > 0 || alone {
						t.Logf("seed %d:\n%s", s, strings.Join(m.trace[max(0, len(m.trace)-150):], "\n"))
					}
					for _, what := range m.broken {
						t.Errorf("seed %d: %s", s, what)
					}
					if len(m.broken) > 0 {
						return
					}
				}
				t.Logf("seeds %d to %d: %d rotations", first, first+runs-1, rotations)
			})
		}
	}
}
