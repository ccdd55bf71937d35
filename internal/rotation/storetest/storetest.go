// Package storetest holds the one suite that every rotation.Store runs, so that
// the engine may rely on the same contract whatever it is given.
package storetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// Fixture is a store under test with one secret, which has a first value and
// no attempt.
type Fixture struct {
	Store rotation.Store
	ID    string
	// First is the first value.
	First rotators.Secret
	// Begin starts an attempt, the way the service does, and returns its token.
	Begin func() string
	// Put changes the secret by hand, around the store.
	Put func(rotators.Secret)
	// Revert has readers get the first value again, around the store, after a
	// promotion.
	Revert func()
	// Label puts a label of the owner's own on the current version, around the store.
	Label func(string)
	// Current reads what readers get, around the store.
	Current func() rotators.Secret
	// Tags reads the secret's tags, around the store.
	Tags func() map[string]string
}

// Run checks a store. newFixture is called anew for every check.
func Run(t *testing.T, newFixture func(t *testing.T) Fixture) {
	next, other := rotators.NewSecret("the next value"), rotators.NewSecret("another value")
	last := rotators.NewSecret("the last value")
	for _, c := range []struct {
		name string
		run  func(t *testing.T, ctx context.Context, f Fixture)
	}{
		{"a foreign token is Unknown", func(t *testing.T, ctx context.Context, f Fixture) {
			a := load(t, ctx, f, "99999999-9999-4999-8999-999999999999")
			if a.State != rotation.Unknown {
				t.Errorf("the state is %s", a.State)
			}
		}},
		{"no such secret", func(t *testing.T, ctx context.Context, f Fixture) {
			if _, err := f.Store.Load(ctx, f.ID+"x", "99999999-9999-4999-8999-999999999999"); err == nil || !rotators.IsPermanent(err) {
				t.Errorf("got %v", err)
			}
		}},
		{"an attempt from its start to its end", func(t *testing.T, ctx context.Context, f Fixture) {
			token := f.Begin()
			a := load(t, ctx, f, token)
			if a.State != rotation.Stored && a.State != rotation.Reserved {
				t.Fatalf("the state is %s", a.State)
			}
			want(t, f, a, rotation.CurrentValue, f.First)
			want(t, f, a, rotation.PendingValue, rotators.Secret{})
			want(t, f, a, rotation.PreviousValue, rotators.Secret{})
			if err := f.Store.PutPending(ctx, a, next); err != nil {
				t.Fatal(err)
			}
			if !f.Current().Equal(f.First) {
				t.Error("readers get a value that is not promoted")
			}
			a = load(t, ctx, f, token)
			if a.State != rotation.Stored {
				t.Fatalf("the state is %s", a.State)
			}
			want(t, f, a, rotation.PendingValue, next)
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			if !f.Current().Equal(next) {
				t.Error("readers do not get the promoted value")
			}
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Errorf("promoting again: %v", err)
			}
			a = load(t, ctx, f, token)
			if a.State != rotation.Current {
				t.Errorf("the state is %s", a.State)
			}
			want(t, f, a, rotation.CurrentValue, next)
			want(t, f, a, rotation.PreviousValue, f.First)
		}},
		{"a pending value is created and never overwritten", func(t *testing.T, ctx context.Context, f Fixture) {
			token := f.Begin()
			a := load(t, ctx, f, token)
			for _, value := range []rotators.Secret{next, next} {
				if err := f.Store.PutPending(ctx, a, value); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Store.PutPending(ctx, a, other); !errors.Is(err, rotation.ErrStored) {
				t.Errorf("another value: %v", err)
			}
			want(t, f, a, rotation.PendingValue, next)
		}},
		{"a change by hand stays", func(t *testing.T, ctx context.Context, f Fixture) {
			token := f.Begin()
			a := load(t, ctx, f, token)
			if err := f.Store.PutPending(ctx, a, next); err != nil {
				t.Fatal(err)
			}
			a = load(t, ctx, f, token)
			f.Put(other)
			if err := f.Store.Promote(ctx, a); err == nil || !rotators.IsPermanent(err) {
				t.Errorf("promoting over it: %v", err)
			}
			if !f.Current().Equal(other) {
				t.Error("it is gone")
			}
			a = load(t, ctx, f, token)
			if a.State != rotation.Superseded {
				t.Errorf("the state is %s", a.State)
			}
			var left []string
			for value, err := range f.Store.Leftovers(ctx, a) {
				if err != nil {
					t.Fatal(err)
				}
				left = append(left, value.Reveal())
			}
			if !slices.Equal(left, []string{next.Reveal()}) {
				t.Errorf("%d values are left over, want the one that was never promoted", len(left))
			}
		}},
		{"what is left over comes newest first", func(t *testing.T, ctx context.Context, f Fixture) {
			for _, v := range []rotators.Secret{next, other, last} {
				f.Put(v)
			}
			var left []string
			for value, err := range f.Store.Leftovers(ctx, load(t, ctx, f, "")) {
				if err != nil {
					t.Fatal(err)
				}
				left = append(left, value.Reveal())
			}
			// Readers get the last value, and got the one before it.
			if !slices.Equal(left, []string{next.Reveal(), f.First.Reveal()}) {
				t.Errorf("left over are %q", left)
			}
		}},
		{"retirement is recorded before promotion and after it is done", func(t *testing.T, ctx context.Context, f Fixture) {
			token := f.Begin()
			a := load(t, ctx, f, token)
			if err := f.Store.PutPending(ctx, a, next); err != nil {
				t.Fatal(err)
			}
			a.Tags.Retire = a.Current
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			a = load(t, ctx, f, token)
			if a.Tags.Retire == "" || f.Tags()[rotation.TagRetire] != a.Tags.Retire {
				t.Fatalf("the tags are %v", f.Tags())
			}
			want(t, f, a, rotation.PreviousValue, f.First)
			retired := a.Tags.Retire
			if err := f.Store.Retired(ctx, a); err != nil {
				t.Fatal(err)
			}
			if tags := f.Tags(); tags[rotation.TagRetired] != retired || tags[rotation.TagRetire] != "" {
				t.Errorf("the tags are %v", tags)
			}
		}},
		{"an order that came since stays", func(t *testing.T, ctx context.Context, f Fixture) {
			token := f.Begin()
			a := load(t, ctx, f, token)
			if err := f.Store.PutPending(ctx, a, next); err != nil {
				t.Fatal(err)
			}
			before := *a
			before.Tags.Retire = "99999999-9999-4999-8999-999999999999"
			a.Tags.Retire, a.Tags.RetireAt = a.Current, time.Now().Add(time.Hour)
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			if err := f.Store.Retired(ctx, &before); err != nil {
				t.Fatal(err)
			}
			if tags := f.Tags(); tags[rotation.TagRetired] != before.Tags.Retire || tags[rotation.TagRetire] != a.Tags.RetireOrder() {
				t.Errorf("the tags are %v", tags)
			}
		}},
		{"an order to retire what readers get is void", func(t *testing.T, ctx context.Context, f Fixture) {
			token := f.Begin()
			a := load(t, ctx, f, token)
			if err := f.Store.PutPending(ctx, a, next); err != nil {
				t.Fatal(err)
			}
			// Somebody takes the promotion back while the old value is waiting to
			// be retired. A crash between Promote's two writes ends the same way.
			a.Tags.Retire = a.Current
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			f.Revert()
			a = load(t, ctx, f, token)
			if a.Tags.Retire != "" {
				t.Errorf("version %q is to be retired", a.Tags.Retire)
			}
			want(t, f, a, rotation.CurrentValue, f.First)
			want(t, f, a, rotation.PreviousValue, next)
		}},
		{"what every labelled version holds", func(t *testing.T, ctx context.Context, f Fixture) {
			// Before: the first value is current.
			token := f.Begin()
			held(t, f, token, uses{f.First.Reveal(): rotators.InUse})
			if err := f.Store.PutPending(ctx, load(t, ctx, f, token), next); err != nil {
				t.Fatal(err)
			}
			a := load(t, ctx, f, token)
			a.Tags.Retire = a.Current
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			held(t, f, token, uses{next.Reveal(): rotators.InUse, f.First.Reveal(): rotators.Former})
			// The order hides the version before the current one, which is another now.
			f.Put(other)
			held(t, f, token, uses{other.Reveal(): rotators.InUse, next.Reveal(): rotators.Former, f.First.Reveal(): rotators.Former})
			a = load(t, ctx, f, token)
			if a.Former == a.Previous || a.Previous != a.Tags.Retire {
				t.Errorf("the version before the current one is %q, the one to retire %q and the previous one %q", a.Former, a.Tags.Retire, a.Previous)
			}
			// The owner's own label keeps a version, however old it is.
			f.Label("blue")
			f.Put(last)
			held(t, f, token, uses{last.Reveal(): rotators.InUse, other.Reveal(): rotators.InUse, f.First.Reveal(): rotators.Former})
		}},
		{"the owner's label counts for more than an order to retire its version", func(t *testing.T, ctx context.Context, f Fixture) {
			f.Label("blue")
			token := f.Begin()
			if err := f.Store.PutPending(ctx, load(t, ctx, f, token), next); err != nil {
				t.Fatal(err)
			}
			a := load(t, ctx, f, token)
			a.Tags.Retire = a.Current
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			held(t, f, token, uses{next.Reveal(): rotators.InUse, f.First.Reveal(): rotators.InUse})
		}},
		{"a promoted value that was overwritten is found", func(t *testing.T, ctx context.Context, f Fixture) {
			store, ok := f.Store.(rotation.Driven)
			if !ok {
				return // Secrets Manager keeps the version
			}
			token := f.Begin()
			if err := f.Store.PutPending(ctx, load(t, ctx, f, token), next); err != nil {
				t.Fatal(err)
			}
			promoted := func(want bool) string {
				t.Helper()
				a := load(t, ctx, f, token)
				version, err := store.Promoted(ctx, a)
				if err != nil || (version != "") != want {
					t.Fatalf("got %q (%v)", version, err)
				}
				return version
			}
			promoted(false)
			if err := f.Store.Promote(ctx, load(t, ctx, f, token)); err != nil {
				t.Fatal(err)
			}
			promoted(false)
			for _, v := range []rotators.Secret{other, last} {
				f.Put(v)
				version := promoted(true)
				a := load(t, ctx, f, token)
				a.Tags.Retire, a.Tags.RetireAt = version, time.Now().Add(time.Hour)
				if err := store.Order(ctx, a); err != nil {
					t.Fatal(err)
				}
				a = load(t, ctx, f, token)
				if f.Tags()[rotation.TagRetire] != a.Tags.RetireOrder() || a.Tags.Retire != version {
					t.Errorf("the tags are %v", f.Tags())
				}
				want(t, f, a, rotation.PreviousValue, next)
			}
		}},
		{"the empty token finds the attempt that is open", func(t *testing.T, ctx context.Context, f Fixture) {
			if a := load(t, ctx, f, ""); a.State != rotation.Current {
				t.Errorf("before: the state is %s", a.State)
			}
			token := f.Begin()
			if err := f.Store.PutPending(ctx, load(t, ctx, f, token), next); err != nil {
				t.Fatal(err)
			}
			a := load(t, ctx, f, "")
			if a.State != rotation.Stored || a.Token != token {
				t.Errorf("meanwhile: the state is %s, and the token is not the attempt's: %t", a.State, a.Token != token)
			}
			a.Tags.Retire = a.Current
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			a = load(t, ctx, f, "")
			if a.State != rotation.Current || a.Token != token {
				t.Errorf("afterwards: the state is %s, and the token is not the attempt's: %t", a.State, a.Token != token)
			}
			want(t, f, a, rotation.CurrentValue, next)
			want(t, f, a, rotation.PreviousValue, f.First)
			f.Put(other)
			if a = load(t, ctx, f, ""); a.State != rotation.Current {
				t.Errorf("after a change by hand: the state is %s", a.State)
			}
		}},
		{"an attempt that is over leaves nothing behind", func(t *testing.T, ctx context.Context, f Fixture) {
			store, ok := f.Store.(rotation.Driven)
			if !ok {
				return // the service that drives this store clears up
			}
			token := f.Begin()
			a := load(t, ctx, f, token)
			if err := f.Store.PutPending(ctx, a, next); err != nil {
				t.Fatal(err)
			}
			a = load(t, ctx, f, token)
			if err := f.Store.Promote(ctx, a); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := store.Discard(ctx, a); err != nil {
					t.Fatal(err)
				}
			}
			a = load(t, ctx, f, token)
			if a.State != rotation.Current {
				t.Errorf("the state is %s", a.State)
			}
			want(t, f, a, rotation.CurrentValue, next)
			for range f.Store.Leftovers(ctx, a) {
				t.Error("a value is left over")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, t.Context(), newFixture(t)) })
	}
}

func load(t *testing.T, ctx context.Context, f Fixture, token string) *rotation.Attempt {
	t.Helper()
	a, err := f.Store.Load(ctx, f.ID, token)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

type uses map[string]rotators.Use // by value

// held checks what the versions hold that a label or an order names.
func held(t *testing.T, f Fixture, token string, want uses) {
	t.Helper()
	got := uses{}
	for h, err := range f.Store.Held(t.Context(), load(t, t.Context(), f, token)) {
		if err != nil {
			t.Fatal(err)
		}
		got[h.Value.Reveal()] = max(got[h.Value.Reveal()], h.Use)
	}
	if !maps.Equal(got, want) {
		t.Errorf("it holds %v, want %v", got, want)
	}
}

func want(t *testing.T, f Fixture, a *rotation.Attempt, which rotation.Which, value rotators.Secret) {
	t.Helper()
	got, err := f.Store.Value(t.Context(), a, which)
	if err != nil || !got.Equal(value) {
		t.Errorf("value %d is %q (%v), want %q", which, got.Reveal(), err, value.Reveal())
	}
}
