package rotation

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/rekeyhq/rekey/rotators"
)

// StepError is how every failed step ends. Lambda reports the name of this Go
// type as the errorType, and alarms hang on it, so it never changes.
//
// Its text holds none of the values the attempt knew. The errors it wraps are
// as they were made, for errors.Is and errors.As; do not print them.
type StepError struct {
	Step Step
	ID   string
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s of %s: %s", e.Step, e.ID, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// masked prints as text, and wraps an error that may print as more. The error
// sits behind a func so that no fmt verb reaches it.
type masked struct {
	text  string
	chain func() error
}

func (m *masked) Error() string { return m.text }
func (m *masked) Unwrap() error { return m.chain() }

// guard runs call, turns a panic into an error, and masks the values known to
// m, those it learned during the call included, in what comes out. That is also cut
// and made printable: a rotator may quote a server, and not only ours do.
func (m *mask) guard(call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{value: p, stack: string(debug.Stack())}
		}
		if err != nil {
			chain := err
			err = &masked{text: m.show(err.Error()), chain: func() error { return chain }}
		}
	}()
	return call()
}

// panicked is what a panic becomes. The stack goes into the log only.
type panicked struct {
	value any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// IsPanic tells whether err, or an error it wraps, is what a panic became.
func IsPanic(err error) bool {
	var p *panicked
	return errors.As(err, &p)
}

// errNoCurrent is what a secret without a first value gets.
var errNoCurrent = rotators.Permanent(errors.New("the secret has no current value: store a first, working one"))
