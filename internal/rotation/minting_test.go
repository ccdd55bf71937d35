package rotation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/memstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// issuingSpy makes something outside.
type issuingSpy struct {
	retiringSpy
	discarded []string
}

// Discard does as it is to: it asks what the secret holds the value for.
func (s *issuingSpy) Discard(ctx context.Context, r rotators.Rotation) error {
	use, err := r.Use(ctx, r.Pending.Equal)
	switch {
	case err != nil:
		return err
	case use == rotators.Former:
		return rotators.ErrFormer
	case use == rotators.Unused:
		s.discarded = append(s.discarded, r.Pending.Reveal())
	}
	return nil
}

var mintingTags = map[string]string{"rekey:rotator": "spy"}

// Another run of createSecret stores its value between this one's Create and its store:
// what this one made is removed, and what is stored stays.
func TestWhatLosesTheRaceToBeStoredIsDiscarded(t *testing.T) {
	store := memstore.New(rotators.NewSecret(first), mintingTags)
	store.Begin(token)
	r := &issuingSpy{}
	r.create = func(rotators.Rotation) (rotators.Secret, error) {
		a := &rotation.Attempt{Token: token}
		return rotators.NewSecret(second), store.PutPending(t.Context(), a, rotators.NewSecret("of another run"))
	}
	if err := engine(r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.discarded, []string{second}) {
		t.Errorf("discarded: %v", r.discarded)
	}
	if v := store.Values(); len(v) != 2 || v[1].Reveal() != "of another run" {
		t.Errorf("it holds %v", v)
	}
}

// unreadable is a store whose values cannot be read any more from some moment on, and that
// takes no other.
type unreadable struct {
	*memstore.Store
	now bool
}

func (s *unreadable) Load(ctx context.Context, id, token string) (*rotation.Attempt, error) {
	if s.now {
		return nil, errors.New("the key of KMS is disabled")
	}
	return s.Store.Load(ctx, id, token)
}

func (s *unreadable) PutPending(context.Context, *rotation.Attempt, rotators.Secret) error {
	s.now = true
	return rotators.Permanent(errors.New("the key of KMS is disabled"))
}

// What was never stored is removed, even if nothing can be read.
func TestWhatCannotBeStoredIsDiscarded(t *testing.T) {
	store := &unreadable{Store: memstore.New(rotators.NewSecret(first), mintingTags)}
	store.Begin(token)
	r := &issuingSpy{}
	err := engine(r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
	if err == nil || !strings.Contains(err.Error(), "storing the pending value: the key of KMS is disabled") {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(r.discarded, []string{second}) {
		t.Errorf("discarded: %v", r.discarded)
	}
}

// A run ends in the middle of another's: the value is stored, or the secret is another, by
// the time it would go on. It makes nothing then.
func TestACreateThatComesTooLate(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*memstore.Store)
		fails     bool
	}{
		"the value is stored": {func(s *memstore.Store) {
			_ = s.PutPending(context.Background(), &rotation.Attempt{Token: token}, rotators.NewSecret("of another run"))
		}, false},
		"it is promoted": {func(s *memstore.Store) {
			a := &rotation.Attempt{Token: token, Current: memstore.First}
			_ = s.PutPending(context.Background(), a, rotators.NewSecret("of another run"))
			_ = s.Promote(context.Background(), a)
		}, false},
		"somebody stored another": {func(s *memstore.Store) { s.Put(other, rotators.NewSecret("by hand")) }, true},
	} {
		for _, when := range []string{"in the retirement", "before a revocation"} {
			t.Run(name+" "+when, func(t *testing.T) {
				tags := map[string]string{"rekey:rotator": "spy"}
				if when == "in the retirement" {
					tags["rekey:retire"] = "old"
				}
				store := memstore.New(rotators.NewSecret(first), tags)
				store.Begin(token)
				r := &issuingSpy{}
				r.retire = func(rotators.Rotation) error { c.meanwhile(store); return nil }
				made := false
				r.create = func(r rotators.Rotation) (rotators.Secret, error) {
					if when != "in the retirement" {
						c.meanwhile(store)
					}
					if _, err := r.Use(t.Context(), func(rotators.Secret) bool { return false }); err != nil {
						return rotators.Secret{}, err
					}
					made = true
					return rotators.NewSecret(second), nil
				}
				err := engine(r).Step(t.Context(), store, rotation.CreateSecret, memstore.ID, token)
				if c.fails != (err != nil) || made || rotators.IsPermanent(err) {
					t.Errorf("made %t: %v", made, err)
				}
			})
		}
	}
}

// A promoted value was overwritten by hand before rekey knew of the promotion.
func TestAPromotedValueThatIsOverwrittenIsRetired(t *testing.T) {
	now := time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	for name, c := range map[string]struct {
		grace    time.Duration
		promoted bool
		tags     map[string]string
		calls    int // of Retire
	}{
		"it was promoted":                {time.Hour, true, map[string]string{"rekey:rotator": "spy", "rekey:retire": token + " 2026-11-24T02:02:03Z"}, 0},
		"it was promoted, without grace": {0, true, map[string]string{"rekey:rotator": "spy", "rekey:retired": token}, 1},
		"it was not":                     {time.Hour, false, mintingTags, 0},
	} {
		t.Run(name, func(t *testing.T) {
			store := memstore.New(rotators.NewSecret(first), mintingTags)
			store.Begin(token)
			r := &issuingSpy{retiringSpy: retiringSpy{grace: c.grace}}
			retired := 0
			r.retire = func(rotators.Rotation) error { retired++; return nil }
			r.set = func(rotators.Rotation) error {
				if c.promoted {
					if err := store.Promote(t.Context(), &rotation.Attempt{Token: token, Current: memstore.First}); err != nil {
						t.Error(err)
					}
				}
				store.Put(other, rotators.NewSecret("by hand"))
				r.test = func(r rotators.Rotation) error {
					if retired > 0 && r.Pending.Reveal() == second {
						return rotators.Refused(errors.New("withdrawn"))
					}
					return nil
				}
				return nil
			}
			e := engine(r)
			e.Now = func() time.Time { return now }
			if err := e.Run(t.Context(), store, memstore.ID, token); err != nil {
				t.Fatal(err)
			}
			if discarded := len(r.discarded) > 0; discarded == c.promoted {
				t.Errorf("discarded: %t", discarded)
			}
			tags := store.Tags()
			if retired != c.calls || tags["rekey:retire"] != c.tags["rekey:retire"] || tags["rekey:retired"] != c.tags["rekey:retired"] {
				t.Errorf("retired %d times, the tags are %v", retired, tags)
			}
		})
	}
}
