package rotatortest

import (
	"context"
	"fmt"
	"testing"
)

// Scenario is what a sweep crashes and runs again.
type Scenario struct {
	// Run does the whole of it, through the Wire. It must succeed on a Wire
	// that does not crash, also after it was crashed anywhere.
	Run func(context.Context) error
	// Crashed checks what must hold right after a crash, with means of its own
	// that do not go through the Wire.
	Crashed func(context.Context) error
	// Recovered checks what must hold after the run that followed.
	Recovered func(context.Context) error
}

// Sweep runs a scenario whole, counts its outside calls, and then crashes a new
// one before and after each call, checks it, runs it again and checks it. It
// returns the number of points at which it crashed.
func Sweep(t *testing.T, newScenario func(t *testing.T, w *Wire) Scenario) int {
	t.Helper()
	points, err := sweep(t, newScenario)
	if err != nil {
		t.Fatal(err)
	}
	return points
}

func sweep(t *testing.T, newScenario func(t *testing.T, w *Wire) Scenario) (points int, err error) {
	ctx := t.Context()
	w := &Wire{}
	whole := newScenario(t, w)
	if err := whole.Run(ctx); err != nil {
		return 0, fmt.Errorf("without a crash: %w", err)
	}
	if err := whole.Recovered(ctx); err != nil {
		return 0, fmt.Errorf("without a crash: %w", err)
	}
	calls := w.count()
	if calls == 0 {
		return 0, fmt.Errorf("no call went through the Wire: hand it to whatever dials or sends")
	}
	for call := 1; call <= calls; call++ {
		for _, after := range []bool{false, true} {
			points++
			w := &Wire{crash: call, after: after}
			if err := crashOnce(ctx, w, newScenario(t, w)); err != nil {
				when := "before"
				if after {
					when = "after"
				}
				return points, fmt.Errorf("crashed %s outside call %d of %d: %w", when, call, calls, err)
			}
		}
	}
	return points, nil
}

func crashOnce(ctx context.Context, w *Wire, s Scenario) error {
	err := s.Run(ctx)
	if err := asBroken(err); err != nil {
		return err
	}
	if !w.isDead() {
		return fmt.Errorf("this run made only %d outside calls (error: %v): the count must not depend on chance", w.count(), err)
	}
	if err := s.Crashed(ctx); err != nil {
		return err
	}
	w.revive()
	if err := s.Run(ctx); err != nil {
		return fmt.Errorf("the retry failed: %w", err)
	}
	if err := s.Recovered(ctx); err != nil {
		return fmt.Errorf("after the retry: %w", err)
	}
	return nil
}
