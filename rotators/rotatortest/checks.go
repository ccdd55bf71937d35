package rotatortest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

func rotates(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.serves(ctx, "the Harness's first value: the Harness is wrong", tr.first); err != nil {
		return err
	}
	if err := tr.noStrays(ctx); err != nil {
		return fmt.Errorf("before the rotation, so the Harness is wrong: %w", err)
	}
	if err := tr.all(ctx); err != nil {
		return err
	}
	return tr.promoted(ctx)
}

// inARow is how many rotations RotatesAgain takes: a target that keeps two
// credentials is full at the third.
const inARow = 3

func rotatesAgain(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	for n := 1; n <= inARow; n++ {
		if n > 1 {
			_, tr.first = tr.store.Current()
			tr.begin()
		}
		if err := tr.all(ctx); err != nil {
			return fmt.Errorf("rotation %d in a row: %w", n, err)
		}
		if err := tr.promoted(ctx); err != nil {
			return fmt.Errorf("rotation %d in a row: %w", n, err)
		}
	}
	return nil
}

// targetless tells whether what is rotated is a value that no other system
// holds, a signing key say: no step makes an outside call, and what a value is good
// for depends on no step. Then nothing can be out of reach, or withdrawn.
func targetless(t *testing.T, newHarness maker) bool {
	if !noTarget(t, newHarness) {
		return false
	}
	t.Log("does not apply: no step makes an outside call, and every value is accepted before it and after it")
	return true
}

func noTarget(t *testing.T, newHarness maker) bool {
	ctx := t.Context()
	w := &Wire{}
	tr := newTrial(t, newHarness, w)
	for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
		if tr.stepOn(ctx, tr.store, step) != nil || w.count() > 0 {
			return false
		}
		for _, value := range tr.store.Values() {
			if ok, err := tr.Accepts(ctx, value); !ok || err != nil {
				return false
			}
		}
	}
	return true
}

// takesAnything tells whether besides, any value will do.
func takesAnything(t *testing.T, newHarness maker) bool {
	if !noTarget(t, newHarness) {
		return false
	}
	tr := newTrial(t, newHarness, &Wire{})
	wrong, err := tr.like(tr.first, invented)
	if err != nil {
		return false
	}
	ok, err := tr.Accepts(t.Context(), wrong)
	if ok && err == nil {
		t.Log("does not apply: no step makes an outside call, and any value is accepted")
	}
	return ok && err == nil
}

func changesOnlyItsFields(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.all(ctx); err != nil {
		return err
	}
	_, after := tr.store.Current()
	return tr.changedOnlyFields(tr.first, after)
}

// changedOnlyFields compares two values outside the fields that may change.
func (tr *trial) changedOnlyFields(before, after rotators.Secret) error {
	if len(tr.Fields) == 0 {
		return nil
	}
	// With the same text in every field that may change, both must be the same.
	for i, name := range tr.Fields {
		var err error
		same := rotators.NewSecret(fmt.Sprintf("the same in both, %d", i))
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
	return tr.serves(ctx, "the current value after Create", tr.first)
}

func createAgain(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.step(ctx, rotation.CreateSecret); err != nil {
		return err
	}
	tr.store.Forget()
	tr.runIsOver()
	if err := tr.all(ctx); err != nil {
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
	if err := tr.all(ctx); err != nil {
		return fmt.Errorf("all four again, after the end: %w", err)
	}
	return tr.promoted(ctx)
}

// stepsAtOnce runs a second invocation of a step while the first one stands
// before one of its outside calls: each in turn, so that no schedule depends on
// chance. Before its first call it would be one after the other, which is
// another check; and testSecret, which changes nothing, cannot get in the way.
func stepsAtOnce(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	for _, step := range []rotation.Step{rotation.CreateSecret, rotation.SetSecret, rotation.FinishSecret} {
		for call := 2; ; call++ {
			w := &Wire{}
			tr := newTrial(t, newHarness, w, withGrace("0m"))
			if err := tr.steps(ctx, rotation.CreateSecret, step-1); err != nil {
				return err
			}
			met, err := tr.atOnce(ctx, step, call)
			if !met {
				break
			}
			if err != nil {
				return fmt.Errorf("a second %s while the first stands before its outside call %d: %w", step, call, err)
			}
		}
	}
	return nil
}

// turn is how long the first invocation stands still for the second at most,
// which may wait for a lock that the first one holds. Whether it is through by
// then decides nothing: the two must converge either way.
const turn = 300 * time.Millisecond

func (tr *trial) atOnce(ctx context.Context, step rotation.Step, call int) (met bool, err error) {
	second := make(chan error, 1)
	tr.wire.standBefore(call, func() {
		met = true
		done := make(chan struct{})
		go func() {
			defer close(done)
			second <- tr.step(ctx, step)
		}()
		select {
		case <-done:
		case <-time.After(turn):
		}
	})
	firstErr := tr.step(ctx, step)
	if !met {
		return false, nil
	}
	// Either may fail, as long as neither does harm.
	for _, err := range []error{firstErr, <-second} {
		if err := asBroken(err); err != nil {
			return true, err
		}
	}
	if err := tr.survived(ctx); err != nil {
		return true, err
	}
	// Of two runs that mint, one may have left alone what the other one minted.
	tr.runIsOver()
	if err := tr.all(ctx); err != nil {
		return true, fmt.Errorf("run again after both were through: %w", err)
	}
	return true, tr.promoted(ctx)
}

func retires(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{}, withGrace("0m"))
	if !tr.retires() {
		t.Log(notRetiring)
		return nil
	}
	if err := tr.all(ctx); err != nil {
		return err
	}
	if err := tr.retired(ctx); err != nil {
		return err
	}
	return tr.retiresAgain(ctx)
}

const notRetiring = "does not apply: with the tags of the Harness, nothing outlives a promotion"

// retiresAgain runs retirement as after a crash between it and its record.
func (tr *trial) retiresAgain(ctx context.Context) error {
	gone := tr.store.Tags()[rotation.TagRetired]
	tr.store.Tag(rotation.TagRetire, gone)
	if err := tr.retire(ctx, gone); err != nil {
		return fmt.Errorf("retiring what is gone already: %w", err)
	}
	if err := tr.retired(ctx); err != nil {
		return fmt.Errorf("retiring what is gone already: %w", err)
	}
	return tr.promoted(ctx)
}

// retiresAfterItsGrace takes rotations in a row, as many as it takes to come
// round again where two users take turns, and looks at the old value before and
// after its grace is over.
func retiresAfterItsGrace(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{}, withGrace("1h"))
	if !tr.retires() {
		t.Log(notRetiring)
		return nil
	}
	for n := 1; n <= inARow; n++ {
		_, old := tr.store.Current()
		if n > 1 {
			tr.first = old
			tr.begin()
		}
		if err := tr.all(ctx); err != nil {
			return fmt.Errorf("rotation %d, the one before retired: %w", n, err)
		}
		if err := tr.promoted(ctx); err != nil {
			return fmt.Errorf("rotation %d, the one before retired: %w", n, err)
		}
		if tr.Overlap {
			if err := tr.accepts(ctx, "the old value within its grace", old); err != nil {
				return err
			}
		}
		if err := tr.graceIsOver(ctx); err != nil {
			return err
		}
		if err := tr.retired(ctx); err != nil {
			return err
		}
		if err := tr.retiresAgain(ctx); err != nil {
			return err
		}
	}
	return nil
}

func testRefusesAWrongValue(t *testing.T, newHarness maker) error {
	if takesAnything(t, newHarness) {
		return nil
	}
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	wrong, err := tr.like(tr.first, invented)
	if err != nil {
		return err
	}
	if err := tr.pend(ctx, wrong); err != nil {
		return err
	}
	switch err := tr.step(ctx, rotation.TestSecret); {
	case err == nil:
		return errors.New("this Test passes for a value the target does not accept")
	case !rotators.IsRefused(err):
		return fmt.Errorf("the target refuses the value, and Test's error is not Refused: %w", err)
	}
	return tr.serves(ctx, "the current value after Test", tr.first)
}

// oddBytes asks for no particular error: a target may have rules about what a
// credential looks like.
func oddBytes(t *testing.T, newHarness maker) error {
	if takesAnything(t, newHarness) {
		return nil
	}
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	value, err := tr.like(tr.first, odd)
	if err != nil {
		return err
	}
	if err := tr.pend(ctx, value); err != nil {
		return err
	}
	switch err := tr.step(ctx, rotation.TestSecret); {
	case err == nil:
		return errors.New("this Test passes for a value the target does not accept")
	case asBroken(err) != nil:
		return err
	}
	return tr.serves(ctx, "the current value after Test", tr.first)
}

func dryTest(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if err := tr.step(ctx, rotation.TestSecret); err != nil {
		return fmt.Errorf("testSecret with nothing before it: %w", err)
	}
	return tr.serves(ctx, "the current value after Test", tr.first)
}

func outageIsNotRefusal(t *testing.T, newHarness maker) error {
	if targetless(t, newHarness) {
		return nil
	}
	ctx := t.Context()
	for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
		w := &Wire{}
		tr := newTrial(t, newHarness, w, withGrace("0m"))
		if err := tr.steps(ctx, rotation.CreateSecret, step-1); err != nil {
			return err
		}
		// Only what the rotator itself sends is cut: the store still answers,
		// and so do other secrets.
		if tr.Lookup != nil {
			tr.engine.Others = others{tr, &Wire{}}
		}
		before := w.count()
		w.die()
		err := tr.stepOn(ctx, tr.store, step)
		if err := asBroken(err); err != nil {
			return err
		}
		if rotators.IsRefused(err) {
			return fmt.Errorf("%s with the target out of reach: %w, and that is marked Refused", step, err)
		}
		switch {
		case err == nil && step == rotation.SetSecret:
			pending, err := tr.store.Value(ctx, &rotation.Attempt{Token: tr.token}, rotation.PendingValue)
			if err != nil {
				return err
			}
			if err := tr.accepts(ctx, "the pending value", pending); err != nil {
				return fmt.Errorf("%s passes with the target out of reach, and yet %w", step, err)
			}
		case err == nil && step == rotation.TestSecret:
			return fmt.Errorf("%s passes with the target out of reach (after %d calls that went well)", step, before)
		}
	}
	return nil
}

func rejectsUnknownOptions(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{}, func(h *Harness) {
		withTag("options", h.Tags[rotation.TagPrefix+"options"]+" no-rotator-has-this-option=1")(h)
	})
	switch err := tr.step(ctx, rotation.CreateSecret); {
	case err == nil:
		return errors.New("this Create succeeds with an option in rekey:options that no rotator has")
	case asBroken(err) != nil:
		return err
	case !rotators.IsPermanent(err):
		return fmt.Errorf("no retry cures an unknown option, and Create's error is not Permanent: %w", err)
	}
	if err := tr.serves(ctx, "the current value after Create", tr.first); err != nil {
		return err
	}
	return tr.noStrays(ctx)
}

// twoSecrets takes the steps of two secrets in turn, with one rotator.
func twoSecrets(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	w := &Wire{}
	one := newTrial(t, newHarness, w)
	if one.Another.IsZero() {
		t.Log("does not apply: the Harness has no Another")
		return nil
	}
	h := one.Harness
	h.Value, h.Another = one.Another, one.first
	h.Keys = nil // it counts those of the other one's account
	two := newTrialOf(h, w, h.Value)
	for step := rotation.CreateSecret; step <= rotation.FinishSecret; step++ {
		for _, tr := range []*trial{one, two} {
			if err := tr.step(ctx, step); err != nil {
				return fmt.Errorf("%s, with another secret's steps in between: %w", step, err)
			}
		}
	}
	for _, tr := range []*trial{one, two} {
		if err := tr.promoted(ctx); err != nil {
			return fmt.Errorf("with another secret's steps in between: %w", err)
		}
		_, after := tr.store.Current()
		if err := tr.changedOnlyFields(tr.first, after); err != nil {
			return fmt.Errorf("with another secret's steps in between: %w", err)
		}
	}
	return nil
}

// anotherAccount hands Set a pending value that names somebody else.
func anotherAccount(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	tr := newTrial(t, newHarness, &Wire{})
	if tr.Another.IsZero() || len(tr.Fields) == 0 {
		t.Log("does not apply: the Harness has no Another, or no Fields that name an account")
		return nil
	}
	theirs, err := tr.like(tr.Another, invented)
	if err != nil {
		return err
	}
	if err := tr.pend(ctx, theirs); err != nil {
		return err
	}
	switch err := tr.steps(ctx, rotation.SetSecret, rotation.TestSecret); {
	case err == nil:
		return errors.New("this Set and this Test succeed for a pending value of another account")
	case asBroken(err) != nil:
		return err
	}
	if err := tr.refuses(ctx, "a new secret for another account than the current value names", theirs); err != nil {
		return err
	}
	if err := tr.serves(ctx, "the other account's value, which this secret has no say in", tr.Another); err != nil {
		return err
	}
	return tr.serves(ctx, "the current value", tr.first)
}

// borrowedPower rotates a secret whose value was written by somebody who does
// not know the password.
func borrowedPower(t *testing.T, newHarness maker) error {
	ctx := t.Context()
	var wrongErr error
	tr := newTrial(t, newHarness, &Wire{}, func(h *Harness) {
		h.Vouches = nil
		var wrong rotators.Secret
		if wrong, wrongErr = (&trial{Harness: *h}).like(h.Value, invented); wrongErr == nil {
			h.Value = wrong
		}
	})
	if tr.Lookup == nil {
		t.Log("does not apply: the Harness has no Lookup, so there is no admin")
		return nil
	}
	if wrongErr != nil {
		return wrongErr
	}
	before := 0
	if tr.Keys != nil {
		var err error
		if before, err = tr.Keys(ctx); err != nil {
			return fmt.Errorf("counting the live credentials: %w", err)
		}
	}
	err := tr.all(ctx)
	if err := asBroken(err); err != nil {
		return err
	}
	if err == nil {
		return errors.New("a secret with a wrong current value rotates, by an admin that nobody vouches for")
	}
	for _, value := range tr.store.Values() {
		if err := tr.refuses(ctx, "a value of a secret whose current value is wrong, by an admin that nobody vouches for", value); err != nil {
			return err
		}
	}
	if err := tr.serves(ctx, "the account's own value, which the secret does not know", tr.first); err != nil {
		return err
	}
	if tr.Keys != nil {
		if after, err := tr.Keys(ctx); err != nil {
			return fmt.Errorf("counting the live credentials: %w", err)
		} else if after != before {
			return fmt.Errorf("an admin that nobody vouches for changed the number of live credentials from %d to %d, for a secret whose current value is wrong", before, after)
		}
	}
	return nil
}

func crashes(t *testing.T, newHarness maker) error {
	points, err := sweep(t, func(t *testing.T, w *Wire) Scenario {
		tr := newTrial(t, newHarness, w, withGrace("1h"))
		tooMany := tr.watchKeys(t.Context())
		return Scenario{
			Run: func(ctx context.Context) error {
				err := tr.all(ctx)
				if err == nil && tr.retires() && tr.store.Tags()[rotation.TagRetired] == "" {
					err = tr.graceIsOver(ctx)
				}
				return err
			},
			Crashed: func(ctx context.Context) error {
				tr.runIsOver()
				return tr.survived(ctx)
			},
			Recovered: func(ctx context.Context) error {
				if err := tr.promoted(ctx); err != nil {
					return err
				}
				if tr.retires() {
					if err := tr.retired(ctx); err != nil {
						return err
					}
				}
				return tooMany()
			},
		}
	})
	t.Logf("crashed at %d points", points)
	return err
}
