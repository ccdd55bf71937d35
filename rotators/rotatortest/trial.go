package rotatortest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// trial is one secret with one rotator.
type trial struct {
	Harness
	wire   *Wire
	store  *memstore.Store
	engine *rotation.Engine
	first  rotators.Secret // what the target accepted before the trial
	token  string          // the attempt under way
	begun  int

	mu       sync.Mutex
	lookedUp []rotators.Secret
}

// newTrial makes a trial whose first attempt has begun. With changes, the
// Harness is changed before the secret is made of it.
func newTrial(t *testing.T, newHarness maker, w *Wire, changes ...func(*Harness)) *trial {
	h := newHarness(t, w)
	first := h.Value
	for _, change := range changes {
		change(&h)
	}
	return newTrialOf(h, w, first)
}

func newTrialOf(h Harness, w *Wire, first rotators.Secret) *trial {
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
		first: first,
	}
	if h.Lookup != nil {
		tr.engine.Others = others{tr, w}
	}
	tr.begin()
	return tr
}

// begin starts a new attempt.
func (tr *trial) begin() {
	tr.begun++
	tr.token = fmt.Sprintf("%08d-1111-4111-8111-111111111111", tr.begun)
	tr.store.Begin(tr.token)
}

// runIsOver lets the longest time pass for which an invocation of a Lambda function may
// run, and a minute more.
func (tr *trial) runIsOver() {
	if tr.Pass != nil {
		tr.Pass(16 * time.Minute)
	}
}

// withTag is a change to a Harness.
func withTag(name, value string) func(*Harness) {
	return func(h *Harness) {
		h.Tags = maps.Clone(h.Tags)
		if h.Tags == nil {
			h.Tags = map[string]string{}
		}
		h.Tags[rotation.TagPrefix+name] = value
	}
}

// withGrace sets how long what a rotator withdraws stays valid. For a rotator
// that withdraws nothing it changes nothing.
func withGrace(grace string) func(*Harness) {
	return func(h *Harness) {
		if h.retires() {
			withTag("grace", grace)(h)
		}
	}
}

// retires tells whether a promotion leaves something to retire, with the tags
// that the Harness has.
func (h *Harness) retires() bool {
	retirer, ok := h.Rotator.(rotators.Retirer)
	if !ok {
		return false
	}
	tags, err := rotation.ReadTags(h.Tags)
	return err == nil && retirer.Grace(tags.Settings) >= 0
}

// step takes one step. The error is the rotator's own, from before the engine
// masked it, and is checked for what an error must not be.
func (tr *trial) step(ctx context.Context, step rotation.Step) error {
	return tr.stepOn(ctx, wired{tr.store, tr.wire}, step)
}

func (tr *trial) stepOn(ctx context.Context, store rotation.Store, step rotation.Step) error {
	return tr.judge(step, tr.engine.Step(ctx, store, step, memstore.ID, tr.token))
}

// retire retires a version, as the planner has it done when its grace is over.
func (tr *trial) retire(ctx context.Context, version string) error {
	err := tr.engine.Retire(ctx, wired{tr.store, tr.wire}, memstore.ID, version)
	return tr.judge(rotation.RetireStep, err)
}

// judge returns the rotator's own error.
func (tr *trial) judge(step rotation.Step, err error) error {
	if err == nil {
		return nil
	}
	raw := errors.Unwrap(errors.Unwrap(err)) // StepError, then the mask
	if form := tr.leak(raw); form != "" {
		return &broken{fmt.Sprintf("the error of %s holds a secret, as %s", step, form)}
	}
	if rotation.IsPanic(raw) {
		return &broken{fmt.Sprintf("%s panics: %v", step, raw)}
	}
	if errors.Is(raw, errDead) && rotators.IsRefused(raw) {
		return &broken{fmt.Sprintf("%s takes a connection that broke for the target's refusal", step)}
	}
	return raw
}

// broken is a promise broken in an error that was to be expected, or not.
type broken struct{ how string }

func (b *broken) Error() string { return b.how }

// asBroken returns the broken promise in err; nil if err is none, or just an
// error.
func asBroken(err error) error {
	var b *broken
	if errors.As(err, &b) {
		return b
	}
	return nil
}

// steps takes the steps from one to another.
func (tr *trial) steps(ctx context.Context, from, to rotation.Step) error {
	for step := from; step <= to; step++ {
		if err := tr.step(ctx, step); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
}

// all takes the four steps.
func (tr *trial) all(ctx context.Context) error {
	return tr.steps(ctx, rotation.CreateSecret, rotation.FinishSecret)
}

// graceIsOver has what is to be retired be retired.
func (tr *trial) graceIsOver(ctx context.Context) error {
	version, when, _ := strings.Cut(tr.store.Tags()[rotation.TagRetire], " ")
	if version == "" {
		return fmt.Errorf("the tag %s is not there, so nothing would ever be retired", rotation.TagRetire)
	}
	if when != "" {
		// The engine retires nothing before its time. Without one the time is now.
		tr.store.Tag(rotation.TagRetire, version)
	}
	if err := tr.retire(ctx, version); err != nil {
		return fmt.Errorf("retiring: %w", err)
	}
	return nil
}

// leak tells in which form err holds a secret that the trial knows of; "" if it
// holds none.
func (tr *trial) leak(err error) string {
	var secrets []string
	for _, value := range append(tr.store.Values(), tr.first, tr.Another) {
		secrets = append(secrets, secretsOf(value, tr.secretField()...)...)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, value := range tr.lookedUp {
		secrets = append(secrets, secretsOf(value, append(tr.secretField(), "password")...)...)
	}
	for _, text := range textsOf(err) {
		for _, secret := range secrets {
			if form := standsIn(text, secret); form != "" {
				return form
			}
		}
	}
	return ""
}

// secretField is the one of the fields that no error may hold: the others are
// names and ids.
func (tr *trial) secretField() []string {
	return slices.Clone(tr.Fields[:min(1, len(tr.Fields))])
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

// refuses is the opposite.
func (tr *trial) refuses(ctx context.Context, what string, value rotators.Secret) error {
	ok, err := tr.Accepts(ctx, value)
	if err != nil {
		return fmt.Errorf("asking the target about %s: %w", what, err)
	}
	if ok {
		return fmt.Errorf("the target accepts %s", what)
	}
	return nil
}

// serves checks a value that readers get: accepted, and good for what they do.
func (tr *trial) serves(ctx context.Context, what string, value rotators.Secret) error {
	if err := tr.accepts(ctx, what, value); err != nil {
		return err
	}
	if tr.Usable == nil {
		return nil
	}
	if err := tr.Usable(ctx, value); err != nil {
		return fmt.Errorf("the target accepts %s, but it is not usable: %w", what, err)
	}
	return nil
}

// promoted checks the end of a rotation.
func (tr *trial) promoted(ctx context.Context) error {
	name, value := tr.store.Current()
	if name != tr.token {
		return errors.New("the new value did not become current")
	}
	if value.Equal(tr.first) {
		return errors.New("the new value is the old one")
	}
	if err := tr.serves(ctx, "the value readers get now", value); err != nil {
		return err
	}
	return tr.noStrays(ctx)
}

// noStrays checks that whatever is live at the target stands in the store.
func (tr *trial) noStrays(ctx context.Context) error {
	if tr.Keys == nil {
		return nil
	}
	live, err := tr.Keys(ctx)
	if err != nil {
		return fmt.Errorf("counting the live credentials: %w", err)
	}
	stored := 0
	for _, value := range tr.store.Values() {
		ok, err := tr.Accepts(ctx, value)
		if err != nil {
			return fmt.Errorf("asking the target: %w", err)
		}
		if ok {
			stored++
		}
	}
	if live != stored {
		return fmt.Errorf("the target has %d live credentials, and the store holds %d that it accepts: a stray is left behind", live, stored)
	}
	return nil
}

// watchKeys counts the live credentials before every outside call from now on.
// What it returns tells whether there ever were too many.
func (tr *trial) watchKeys(ctx context.Context) (over func() error) {
	if tr.Keys == nil || tr.MaxKeys == 0 {
		return func() error { return nil }
	}
	var mu sync.Mutex
	var found error
	tr.wire.beforeEach(func() {
		live, err := tr.Keys(ctx)
		if err == nil && live > tr.MaxKeys {
			err = fmt.Errorf("the target has %d live credentials, and may have %d", live, tr.MaxKeys)
		}
		mu.Lock()
		defer mu.Unlock()
		if found == nil {
			found = err
		}
	})
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		return found
	}
}

// retired checks that retirement is done: readers' value serves, nothing else
// that was stored is accepted, and that is on record.
func (tr *trial) retired(ctx context.Context) error {
	name, current := tr.store.Current()
	if err := tr.serves(ctx, "the current value after Retire", current); err != nil {
		return err
	}
	for _, value := range tr.store.Values() {
		if value.Equal(current) {
			continue
		}
		if err := tr.refuses(ctx, "an old value after Retire", value); err != nil {
			return err
		}
	}
	tags := tr.store.Tags()
	if tags[rotation.TagRetire] != "" || tags[rotation.TagRetired] == "" || tags[rotation.TagRetired] == name {
		return fmt.Errorf("retirement is not on record: the tags say %s=%q, %s=%q",
			rotation.TagRetire, tags[rotation.TagRetire], rotation.TagRetired, tags[rotation.TagRetired])
	}
	return nil
}

// survived checks what must hold at any instant.
func (tr *trial) survived(ctx context.Context) error {
	name, current := tr.store.Current()
	if tr.Overlap {
		if err := tr.serves(ctx, "what readers get, though the Harness declares an overlap", current); err != nil {
			return err
		}
	} else if name == tr.token {
		if err := tr.serves(ctx, "what readers get, though it was just promoted", current); err != nil {
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

// like is a value like another, with secret as its secret.
func (tr *trial) like(value rotators.Secret, secret string) (rotators.Secret, error) {
	if len(tr.Fields) == 0 {
		return rotators.NewSecret(secret), nil
	}
	return value.Replace(tr.Fields[0], rotators.NewSecret(secret))
}

// invented is a secret nobody has, and odd is another, with what programs
// escape, quote or choke on.
const (
	invented = "AKIAINVENTEDBYTHESUITE0123456789"
	odd      = "odd '\"`\\%s%2F $HOME <&>é\t\n0123456789"
)

// pend stores a pending value that the rotator did not make.
func (tr *trial) pend(ctx context.Context, value rotators.Secret) error {
	return tr.store.PutPending(ctx, &rotation.Attempt{Token: tr.token}, value)
}
