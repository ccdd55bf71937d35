package watch

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// target is one that a test moves by hand, with what is stored for it.
type target struct {
	rotators.Rotator // only Test is called

	mu               sync.Mutex
	current, pending string
	accepts          map[string]bool
	down             error // why nothing can be told of logins
	denied           error // why what is pending cannot be read
	unread           error // why nothing can be read
}

const oldValue, newValue = `{"username":"app","password":"old-secret"}`, `{"username":"app","password":"new-secret"}`

func newTarget() *target {
	return &target{current: oldValue, accepts: map[string]bool{"old-secret": true}}
}

func (x *target) set(f func()) { x.mu.Lock(); defer x.mu.Unlock(); f() }

func (x *target) Test(_ context.Context, r rotators.Rotation) error {
	time.Sleep(5 * time.Millisecond) // in simulated time: how long a login takes
	x.mu.Lock()
	defer x.mu.Unlock()
	password, err := r.Pending.Field("password")
	switch {
	case err != nil:
		return err
	case x.down != nil:
		return x.down
	case !x.accepts[password.Reveal()]:
		return rotators.Refused(errors.New("wrong password"))
	}
	return nil
}

func (x *target) watcher() *Watcher {
	read := func(from *string, err *error) func(context.Context) (rotators.Secret, error) {
		return func(context.Context) (rotators.Secret, error) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if failed := errors.Join(x.unread, *err); failed != nil {
				return rotators.Secret{}, failed
			}
			return rotators.NewSecret(*from), nil
		}
	}
	var none error
	return &Watcher{
		Source: Source{Name: "shop", Current: read(&x.current, &none), Pending: read(&x.pending, &x.denied), Pace: 10 * time.Millisecond},
		Reader: &rotation.Reader{Registry: rotators.Registry{"target": x}, Tags: rotation.Tags{Settings: rotators.Settings{Rotator: "target"}}},
	}
}

// start runs a watcher and returns its end.
func start(ctx context.Context, w *Watcher) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return ended
}

func TestEndsWhenARotationIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTarget()
		w := x.watcher()
		begun := time.Now()
		ended := start(t.Context(), w)
		time.Sleep(time.Minute) // nothing happens, and it goes on
		x.set(func() { x.pending = newValue })
		time.Sleep(time.Second)
		x.set(func() { x.accepts["new-secret"] = true })
		time.Sleep(time.Second)
		x.set(func() { x.current, x.pending = newValue, "" })
		time.Sleep(time.Second)
		x.set(func() { delete(x.accepts, "old-secret") })
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		// Two seconds after the last change, which a login has to show first.
		if took := time.Since(begun); took < 65*time.Second || took > 65*time.Second+100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		r := w.Record()
		var letters strings.Builder
		for _, m := range r.marks() {
			letters.WriteString(m.letter)
		}
		if letters.String() != "CSPR" || r.Refused != 0 || len(r.Lanes) != 2 {
			t.Errorf("%s\n%s", letters.String(), r.Text())
		}
		if r.Tried < 6000 || r.Tried > 6600 {
			t.Errorf("%d logins in 65 s, not a hundred a second", r.Tried)
		}
		if n := len(r.Lanes[0].Spans) + len(r.Lanes[1].Spans); n > 7 {
			t.Errorf("%d spans for what happened: %+v", n, r.Lanes)
		}
	})
}

// Its end is the caller's if it is to stay, or if no rotation comes.
func TestEndsWithItsContext(t *testing.T) {
	for _, stay := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			x := newTarget()
			w := x.watcher()
			w.Stay = stay
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			ended := start(ctx, w)
			time.Sleep(time.Second)
			if stay {
				x.set(func() { x.accepts["new-secret"] = true; x.current = newValue })
			}
			if err := <-ended; err != nil || ctx.Err() == nil {
				t.Errorf("ended with %v, and %v", err, ctx.Err())
			}
		})
	}
}

func TestFailsAtTheStart(t *testing.T) {
	for want, breaks := range map[string]func(*target){
		"reading shop: no":         func(x *target) { x.unread = errors.New("no") },
		"[redacted]":               func(x *target) { x.down = errors.New("no answer to old-secret") },
		"accepts what shop holds:": func(x *target) { x.down = errors.New("no answer") },
	} {
		x := newTarget()
		breaks(x)
		err := x.watcher().Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "old-secret") {
			t.Errorf("got %v, not %s", err, want)
		}
	}
}

// What fails later is told and keeps nothing from going on.
func TestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTarget()
		x.denied = &smithy.GenericAPIError{Code: "AccessDeniedException"}
		w := x.watcher()
		ended := start(t.Context(), w)
		time.Sleep(time.Second)
		x.set(func() { x.unread = errors.New("throttled") })
		time.Sleep(time.Second)
		x.set(func() { x.unread, x.down = nil, errors.New("no answer to old-secret") })
		time.Sleep(time.Second)
		x.set(func() { x.down = nil; x.accepts["new-secret"] = true; x.current = newValue })
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		r := w.Record()
		notes := strings.Join(r.Notes, "\n")
		for _, want := range []string{"may not be read", "reads failed, the last one so: throttled", "told nothing: no answer to [redacted]"} {
			if !strings.Contains(notes, want) {
				t.Errorf("no %q in %s", want, notes)
			}
		}
		if r.Unclear < 90 || r.Refused != 0 {
			t.Error(r.Summary())
		}
		// The lane of the second begins when readers get it.
		if !r.Lanes[1].Spans[0].Readers {
			t.Errorf("%+v", r.Lanes[1])
		}
	})
}
