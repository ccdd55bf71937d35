package rotatortest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// Harness is a rotator under test, and the means to see what it does.
type Harness struct {
	// Rotator is under test. All it sends goes through the Wire.
	Rotator rotators.Rotator
	// Value is a first value, which the target accepts, of a credential that
	// no other Harness uses.
	Value rotators.Secret
	// Tags are the secret's, as an owner would write them. Nil: none.
	Tags map[string]string
	// Fields are the fields that a rotation replaces, the secret one first.
	// Nil: the whole value is one plain text.
	Fields []string
	// Accepts asks the target whether it takes a value. It must not go through
	// the Wire, and an error is for when it cannot tell.
	Accepts func(context.Context, rotators.Secret) (bool, error)
	// Overlap declares that what readers get is accepted at every instant of a
	// rotation.
	Overlap bool
	// Lookup reads another secret, as Rotation.Lookup does: an admin's login.
	// Nil: there are no other secrets, and every Lookup fails.
	Lookup func(ctx context.Context, ref string) (rotators.Secret, error)
	// Vouches is what Rotation.Vouches says. Nil: nobody vouches for anybody.
	Vouches func(ctx context.Context, ref string) (bool, error)
}

// others are the secrets that a Harness knows beside the one rotated.
type others struct {
	Harness
	wire *Wire
}

func (o others) Lookup(ctx context.Context, ref string) (v rotators.Secret, err error) {
	err = o.wire.call(func() error { v, err = o.Harness.Lookup(ctx, ref); return err })
	return v, err
}

func (o others) AdminFor(ctx context.Context, ref string) (string, error) {
	if o.Vouches == nil {
		return "", nil
	}
	if ok, err := o.Vouches(ctx, ref); !ok || err != nil {
		return "", err
	}
	return memstore.ID, nil
}

// Run checks a rotator. newHarness is called anew for every check and every
// crash point, so that they share nothing; it may use t to clean up.
func Run(t *testing.T, newHarness func(t *testing.T, w *Wire) Harness) {
	t.Helper()
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(t, newHarness); err != nil {
				t.Errorf("%v\n\nWhy it matters: %s", err, c.why)
			}
		})
	}
}

type maker = func(t *testing.T, w *Wire) Harness

// check is one promise. why is printed when it is broken.
type check struct {
	name, why string
	run       func(*testing.T, maker) error
}

var checks = []check{
	{"Rotates", "the four steps, nothing in their way, must end with a new value that the target accepts.", rotates},
	{"ChangesOnlyItsFields", "an owner's value holds more than the credential, and readers parse it as it was written.", changesOnlyItsFields},
	{"CreateLeavesCurrentWorking", "until the new value is stored and set, readers need the old one; a value that dies with the process must not have replaced it.", createLeavesCurrentWorking},
	{"CreateAgain", "a value that was made and lost before it could be stored is made again.", createAgain},
	{"EveryStepTwice", "Secrets Manager runs all four steps again after any failure, so each must find its work done.", everyStepTwice},
	{"TestRefusesAWrongValue", "a test that passes for a value the target does not take lets a dead credential be promoted.", testRefusesAWrongValue},
	{"DryTest", "Secrets Manager tries a new schedule by calling testSecret alone.", dryTest},
	{"OutageIsNotRefusal", "an unreachable target says nothing about a credential; taken for a refusal it sends the engine to try old ones.", outageIsNotRefusal},
	{"Crashes", "a process can die anywhere; at every point some stored credential must work, and a retry must finish.", crashes},
}

// trial is one secret with one rotator.
type trial struct {
	Harness
	wire   *Wire
	store  *memstore.Store
	engine *rotation.Engine
	first  rotators.Secret
}

// token is the attempt's.
const token = "11111111-1111-4111-8111-111111111111"

func newTrial(t *testing.T, newHarness maker, w *Wire) *trial {
	h := newHarness(t, w)
	tags := maps.Clone(h.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	if tags[rotation.TagPrefix+"rotator"] == "" {
		tags[rotation.TagPrefix+"rotator"] = "under-test"
	}
	name, _, _ := strings.Cut(tags[rotation.TagPrefix+"rotator"], ":")
	tr := &trial{
		Harness: h,
		wire:    w,
		store:   memstore.New(h.Value, tags),
		engine: &rotation.Engine{
			Registry: rotators.Registry{name: h.Rotator},
			Pause:    func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		},
		first: h.Value,
	}
	if h.Lookup != nil {
		tr.engine.Others = others{h, w}
	}
	tr.store.Begin(token)
	return tr
}

// step takes one step. The error is the rotator's own, from before the engine
// masked it, and is checked for what an error must not be.
func (tr *trial) step(ctx context.Context, step rotation.Step) error {
	err := tr.engine.Step(ctx, wired{tr.store, tr.wire}, step, memstore.ID, token)
	if err == nil {
		return nil
	}
	raw := errors.Unwrap(errors.Unwrap(err)) // StepError, then the mask
	for _, value := range append(tr.store.Values(), tr.first) {
		for _, text := range tr.secrets(value) {
			if form := standsIn(raw.Error(), text); form != "" {
				return &broken{fmt.Sprintf("the error of %s holds a secret, as %s", step, form)}
			}
		}
	}
	if errors.Is(raw, errDead) && rotators.IsRefused(raw) {
		return &broken{fmt.Sprintf("%s takes a connection that broke for the target's refusal", step)}
	}
	return raw
}

// broken is a promise broken in an error that was to be expected, or not.
type broken struct{ how string }

func (b *broken) Error() string { return b.how }

// steps takes the steps from one to another.
func (tr *trial) steps(ctx context.Context, from, to rotation.Step) error {
	for step := from; step <= to; step++ {
		if err := tr.step(ctx, step); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
}

// secrets are the texts in a value that must not leave it.
func (tr *trial) secrets(value rotators.Secret) (texts []string) {
	if len(tr.Fields) == 0 {
		return []string{value.Reveal()}
	}
	if f, err := value.Field(tr.Fields[0]); err == nil && !f.IsZero() {
		texts = append(texts, f.Reveal())
	}
	return texts
}

// standsIn tells in which form a secret stands in a text; "" if in none.
func standsIn(text, secret string) string {
	for form, spelled := range map[string]string{
		"it is":         secret,
		"a Go string":   strings.Trim(strconv.Quote(secret), `"`),
		"URL text":      url.QueryEscape(secret),
		"a path":        url.PathEscape(secret),
		"base64":        base64.RawStdEncoding.EncodeToString([]byte(secret)),
		"URL base64":    base64.RawURLEncoding.EncodeToString([]byte(secret)),
		"hexadecimal":   hex.EncodeToString([]byte(secret)),
		"an SQL string": strings.ReplaceAll(secret, "'", "''"),
	} {
		if strings.Contains(text, spelled) {
			return form
		}
	}
	return ""
}

// accepts is Accepts, with a sentence for each answer that is not wanted.
func (tr *trial) accepts(ctx context.Context, what string, value rotators.Secret) error {
	ok, err := tr.Accepts(ctx, value)
	if err != nil {
		return fmt.Errorf("asking the target about %s: %w", what, err)
	}
	if !ok {
		return fmt.Errorf("the target does not accept %s", what)
	}
	return nil
}

// promoted checks the end of a rotation.
func (tr *trial) promoted(ctx context.Context) error {
	name, value := tr.store.Current()
	if name != token {
		return errors.New("the new value did not become current")
	}
	if value.Equal(tr.first) {
		return errors.New("the new value is the old one")
	}
	return tr.accepts(ctx, "the value readers get now", value)
}

// wrong is a value like the current one, with a secret nobody has.
func (tr *trial) wrong() (rotators.Secret, error) {
	invented := rotators.NewSecret("AKIAINVENTEDBYTHESUITE0123456789")
	if len(tr.Fields) == 0 {
		return invented, nil
	}
	return tr.first.Replace(tr.Fields[0], invented)
}

func rotates(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.accepts(ctx, "the Harness's first value: the Harness is wrong", tr.first); err != nil {
		return err
	}
	if err := tr.steps(ctx, rotation.CreateSecret, rotation.FinishSecret); err != nil {
		return err
	}
	return tr.promoted(ctx)
}

func changesOnlyItsFields(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.steps(ctx, rotation.CreateSecret, rotation.FinishSecret); err != nil {
		return err
	}
	_, after := tr.store.Current()
	before := tr.first
	if len(tr.Fields) == 0 {
		return nil
	}
	// With the same text in every field that may change, both must be the same.
	for _, name := range tr.Fields {
		var err error
		same := rotators.NewSecret("the same in both")
		if before, err = before.Replace(name, same); err != nil {
			return fmt.Errorf("the first value: %w", err)
		}
		if after, err = after.Replace(name, same); err != nil {
			return fmt.Errorf("the new value: %w", err)
		}
	}
	if !before.Equal(after) {
		return fmt.Errorf("the new value differs from the old one in more than %s", strings.Join(tr.Fields, ", "))
	}
	return nil
}

func createLeavesCurrentWorking(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.step(ctx, rotation.CreateSecret); err != nil {
		return err
	}
	return tr.accepts(ctx, "the current value after Create", tr.first)
}

func createAgain(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.step(ctx, rotation.CreateSecret); err != nil {
		return err
	}
	tr.store.Forget()
	if err := tr.steps(ctx, rotation.CreateSecret, rotation.FinishSecret); err != nil {
		return fmt.Errorf("after a first Create whose value was lost: %w", err)
	}
	return tr.promoted(ctx)
}

func everyStepTwice(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
		for _, time := range []string{"first", "second"} {
			if err := tr.step(ctx, step); err != nil {
				return fmt.Errorf("%s, the %s time: %w", step, time, err)
			}
		}
	}
	if err := tr.promoted(ctx); err != nil {
		return err
	}
	if err := tr.steps(ctx, rotation.CreateSecret, rotation.FinishSecret); err != nil {
		return fmt.Errorf("all four again, after the end: %w", err)
	}
	return tr.promoted(ctx)
}

func testRefusesAWrongValue(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	wrong, err := tr.wrong()
	if err != nil {
		return err
	}
	if err := tr.store.PutPending(ctx, &rotation.Attempt{Token: token}, wrong); err != nil {
		return err
	}
	switch err := tr.step(ctx, rotation.TestSecret); {
	case err == nil:
		return errors.New("this Test passes for a value the target does not accept")
	case !rotators.IsRefused(err):
		return fmt.Errorf("the target refuses the value, and Test's error is not Refused: %w", err)
	}
	return tr.accepts(ctx, "the current value after Test", tr.first)
}

func dryTest(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.step(ctx, rotation.TestSecret); err != nil {
		return fmt.Errorf("testSecret with nothing before it: %w", err)
	}
	return tr.accepts(ctx, "the current value after Test", tr.first)
}

func outageIsNotRefusal(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	for step := rotation.CreateSecret; step <= rotation.TestSecret; step++ {
		w := &Wire{}
		tr := newTrial(t, newHarness, w)
		if err := tr.steps(ctx, rotation.CreateSecret, step-1); err != nil {
			return err
		}
		// Only what the rotator itself sends is cut: the store still answers.
		before := w.count()
		w.die()
		err := tr.engine.Step(ctx, tr.store, step, memstore.ID, token)
		if rotators.IsRefused(err) {
			return fmt.Errorf("%s with the target out of reach: %w, and that is marked Refused", step, errors.Unwrap(errors.Unwrap(err)))
		}
		if err == nil && step == rotation.TestSecret {
			return fmt.Errorf("%s passes with the target out of reach (after %d calls that went well)", step, before)
		}
	}
	return nil
}

func crashes(t *testing.T, newHarness maker) error {
	points, err := sweep(t, func(t *testing.T, w *Wire) Scenario {
		tr := newTrial(t, newHarness, w)
		return Scenario{
			Run: func(ctx context.Context) error {
				return tr.steps(ctx, rotation.CreateSecret, rotation.FinishSecret)
			},
			Crashed:   tr.survived,
			Recovered: tr.promoted,
		}
	})
	t.Logf("crashed at %d points", points)
	return err
}

// survived checks what must hold at any instant.
func (tr *trial) survived(ctx context.Context) error {
	if tr.Overlap {
		_, current := tr.store.Current()
		if err := tr.accepts(ctx, "what readers get, though the Harness declares an overlap", current); err != nil {
			return err
		}
	}
	for _, value := range tr.store.Values() {
		if ok, err := tr.Accepts(ctx, value); err != nil {
			return fmt.Errorf("asking the target: %w", err)
		} else if ok {
			return nil
		}
	}
	return errors.New("the target accepts none of the values the store holds: the last working credential is lost")
}

// wired sends a store's calls through the Wire, so that a crash can fall
// before and after each of them too.
type wired struct {
	rotation.Store
	wire *Wire
}

func (s wired) Load(ctx context.Context, id, token string) (a *rotation.Attempt, err error) {
	err = s.wire.call(func() error { a, err = s.Store.Load(ctx, id, token); return err })
	return a, err
}

func (s wired) Value(ctx context.Context, a *rotation.Attempt, which rotation.Which) (v rotators.Secret, err error) {
	err = s.wire.call(func() error { v, err = s.Store.Value(ctx, a, which); return err })
	return v, err
}

func (s wired) Leftovers(ctx context.Context, a *rotation.Attempt) iter.Seq2[rotators.Secret, error] {
	return func(yield func(rotators.Secret, error) bool) {
		var err error
		var all iter.Seq2[rotators.Secret, error]
		if err = s.wire.call(func() error { all = s.Store.Leftovers(ctx, a); return nil }); err != nil {
			yield(rotators.Secret{}, err)
			return
		}
		all(yield)
	}
}

func (s wired) PutPending(ctx context.Context, a *rotation.Attempt, v rotators.Secret) error {
	return s.wire.call(func() error { return s.Store.PutPending(ctx, a, v) })
}

func (s wired) Promote(ctx context.Context, a *rotation.Attempt) error {
	return s.wire.call(func() error { return s.Store.Promote(ctx, a) })
}

func (s wired) Retired(ctx context.Context, a *rotation.Attempt) error {
	return s.wire.call(func() error { return s.Store.Retired(ctx, a) })
}
