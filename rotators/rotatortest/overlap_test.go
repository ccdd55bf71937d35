package rotatortest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// twoPasswords is a vendor whose user may hold two passwords: the second one is
// added by PUT, and DELETE takes away all but the one that asks. PATCH replaces
// them all, by as many as are sent.
type twoPasswords struct {
	*httptest.Server
	mu        sync.Mutex
	passwords []string
}

func (v *twoPasswords) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, password, _ := r.BasicAuth()
	body, _ := io.ReadAll(r.Body)
	next := string(body)
	switch {
	case !slices.Contains(v.passwords, password):
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodDelete:
		v.passwords = []string{password}
	case r.Method == http.MethodPatch:
		v.passwords = strings.Fields(next)
	case r.Method != http.MethodPut || slices.Contains(v.passwords, next):
	case len(v.passwords) == 2:
		w.WriteHeader(http.StatusConflict)
	default:
		v.passwords = append(v.passwords, next)
	}
}

func (v *twoPasswords) accepts(_ context.Context, value rotators.Secret) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.passwords, password(value)), nil
}

// overlapping is an honest rotator for twoPasswords.
type overlapping struct{ honest }

func (o overlapping) Set(ctx context.Context, r rotators.Rotation) error {
	return o.send(ctx, r.Current, password(r.Pending))
}

func (o overlapping) Grace(s rotators.Settings) time.Duration { return dayUnlessSet(s) }

func dayUnlessSet(s rotators.Settings) time.Duration {
	if s.Grace < 0 {
		return 24 * time.Hour
	}
	return s.Grace
}

func (o overlapping) Retire(ctx context.Context, r rotators.Rotation) error {
	return o.call(ctx, http.MethodDelete, r.Current, "")
}

type retireDoesNothing struct{ overlapping }

func (b retireDoesNothing) Retire(context.Context, rotators.Rotation) error { return nil }

type retiresCurrent struct{ overlapping }

func (b retiresCurrent) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	return b.call(ctx, http.MethodDelete, previous, "")
}

type retireNotIdempotent struct{ overlapping }

func (b retireNotIdempotent) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	if err := b.send(ctx, previous, ""); err != nil {
		return err
	}
	return b.overlapping.Retire(ctx, r)
}

// exactly leaves the vendor with these passwords and no other.
func (o overlapping) exactly(ctx context.Context, as rotators.Secret, values ...rotators.Secret) error {
	var passwords []string
	for _, value := range values {
		passwords = append(passwords, password(value))
	}
	return o.call(ctx, http.MethodPatch, as, strings.Join(passwords, " "))
}

type retiresEverything struct{ overlapping }

func (b retiresEverything) Retire(ctx context.Context, r rotators.Rotation) error {
	return b.exactly(ctx, r.Current) // none
}

type retiresThroughAGap struct{ overlapping }

func (b retiresThroughAGap) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	if rotators.IsRefused(b.send(ctx, previous, "")) {
		return nil
	}
	if err := b.exactly(ctx, previous, previous); err != nil {
		return err
	}
	return b.exactly(ctx, previous, r.Current)
}

type setsThroughAGap struct{ overlapping }

func (b setsThroughAGap) Set(ctx context.Context, r rotators.Rotation) error {
	if b.send(ctx, r.Pending, "") == nil {
		return b.exactly(ctx, r.Pending, r.Pending, r.Current)
	}
	if err := b.exactly(ctx, r.Current, r.Pending); err != nil {
		return err
	}
	return b.exactly(ctx, r.Pending, r.Pending, r.Current)
}

type keepsAThird struct{ overlapping }

func (b keepsAThird) Set(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	return b.exactly(ctx, r.Current, r.Pending, r.Current, previous)
}

// neverRetires fills the vendor's two places, and there is no third.
type neverRetires struct{ overlapping overlapping }

func (b neverRetires) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return b.overlapping.Create(ctx, r)
}

func (b neverRetires) Set(ctx context.Context, r rotators.Rotation) error {
	return b.overlapping.Set(ctx, r)
}

func (b neverRetires) Test(ctx context.Context, r rotators.Rotation) error {
	return b.overlapping.Test(ctx, r)
}

type alwaysTheSame struct{ honest }

func (b alwaysTheSame) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return r.Current.Replace("password", rotators.NewSecret("the-same-for-everybody"))
}

type setHidesFailures struct{ honest }

func (b setHidesFailures) Set(ctx context.Context, r rotators.Rotation) error {
	if err := b.honest.Set(ctx, r); rotators.IsRefused(err) {
		return err
	}
	return nil
}

// generated makes a value that no other system holds.
type generated struct{}

func (generated) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if err := noOptions(r); err != nil {
		return rotators.Secret{}, err
	}
	return r.Settings.Password.Generate(32, "abcdefghijklmnopqrstuvwxyz0123456789")
}
func (generated) Set(context.Context, rotators.Rotation) error  { return nil }
func (generated) Test(context.Context, rotators.Rotation) error { return nil }

func overlap(wrap func(overlapping) rotators.Rotator) maker {
	return func(t *testing.T, w *Wire) Harness {
		v := &twoPasswords{passwords: []string{"the-first-password"}}
		v.Server = httptest.NewServer(v)
		t.Cleanup(v.Close)
		return Harness{
			Rotator: wrap(overlapping{honest{v.URL, &http.Client{Transport: w}}}),
			Value:   rotators.NewSecret(`{"password":"the-first-password"}`),
			Fields:  []string{"password"},
			Accepts: v.accepts,
			Overlap: true,
		}
	}
}

func TestAnHonestOverlapPasses(t *testing.T) {
	Run(t, overlap(func(o overlapping) rotators.Rotator { return o }))
}

// A value that no other system holds makes no outside call at all.
func TestAGeneratedValuePasses(t *testing.T) {
	Run(t, func(*testing.T, *Wire) Harness {
		return Harness{
			Rotator: generated{},
			Value:   rotators.NewSecret("the-first-signing-key"),
			Accepts: func(context.Context, rotators.Secret) (bool, error) { return true, nil },
		}
	})
}

// checked is a generated value that not any text can be.
type checked struct{ generated }

func (checked) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return rotators.NewSecret("key " + rand.Text()), noOptions(r)
}

func (checked) Test(_ context.Context, r rotators.Rotation) error {
	if !strings.HasPrefix(r.Pending.Reveal(), "key ") {
		return rotators.Refused(errors.New("this is no key"))
	}
	return nil
}

type unchecked struct{ checked }

func (unchecked) Test(context.Context, rotators.Rotation) error { return nil }

func checkedHarness(r rotators.Rotator) maker {
	return func(*testing.T, *Wire) Harness {
		return Harness{
			Rotator: r,
			Value:   rotators.NewSecret("key the-first-signing-key"),
			Overlap: true,
			Accepts: func(_ context.Context, v rotators.Secret) (bool, error) {
				return strings.HasPrefix(v.Reveal(), "key "), nil
			},
		}
	}
}

// A value that no other system holds can be wrong in itself, and its Test says so.
func TestAGeneratedValueThatCanBeWrong(t *testing.T) {
	Run(t, checkedHarness(checked{}))
	catches(t, "TestRefusesAWrongValue", checkedHarness(unchecked{}), "Test passes")
}

func TestBrokenOverlapsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name    string
		harness maker
		check   string
		mention string
	}{
		{"Create always makes the same value", harness(func(h honest) rotators.Rotator { return alwaysTheSame{h} }), "RotatesAgain", "no new value"},
		{"Set hides that it failed", harness(func(h honest) rotators.Rotator { return setHidesFailures{h} }), "OutageIsNotRefusal", "does not accept the pending value"},
		{"Retire does nothing", overlap(func(o overlapping) rotators.Rotator { return retireDoesNothing{o} }), "Retires", "still works"},
		{"Retire takes the current value", overlap(func(o overlapping) rotators.Rotator { return retiresCurrent{o} }), "Retires", "retiring"},
		{"Retire is not idempotent", overlap(func(o overlapping) rotators.Rotator { return retireNotIdempotent{o} }), "Crashes", "the retry failed"},
		{"Retire does nothing", overlap(func(o overlapping) rotators.Rotator { return retireDoesNothing{o} }), "RetiresAfterItsGrace", "still works"},
		{"Retire takes the current value", overlap(func(o overlapping) rotators.Rotator { return retiresCurrent{o} }), "RetiresAfterItsGrace", "retiring"},
		{"Retire takes both", overlap(func(o overlapping) rotators.Rotator { return retiresEverything{o} }), "RetiresAfterItsGrace", "the current credential"},
		{"Retire takes both", overlap(func(o overlapping) rotators.Rotator { return retiresEverything{o} }), "Crashes", "the current credential"},
		{"Retire drops the current value for an instant", overlap(func(o overlapping) rotators.Rotator { return retiresThroughAGap{o} }), "Crashes", "declares an overlap"},
		{"Set drops the current value for an instant", overlap(func(o overlapping) rotators.Rotator { return setsThroughAGap{o} }), "Crashes", "declares an overlap"},
		{"a third password is alive again", overlap(func(o overlapping) rotators.Rotator { return keepsAThird{o} }), "AcceptedWhenDeclared", "accepted (!)"},
		{"nothing makes room for the next value", overlap(func(o overlapping) rotators.Rotator { return neverRetires{o} }), "RotatesAgain", "409"},
	} {
		t.Run(c.name+" "+c.check, func(t *testing.T) { catches(t, c.check, c.harness, c.mention) })
	}
}
