// Package apikey rotates keys that somebody else mints: an access key of IAM, an API
// key of a vendor. What differs from vendor to vendor is an [Issuer]; what keeps a
// rotation safe is written here, once. It is for those who write rotators for such
// keys; see rotators/iamkey for one.
//
// A key is minted before it can be stored, the one thing that the other rotators never
// do. So the intent is recorded first, or stands in the name of the key itself, and a
// second run finds by it what the first one minted and lost: a stray, which is revoked.
//
// The old key stays valid until its grace is over, for 24 hours unless rekey:grace says
// otherwise, so readers are refused at no time.
package apikey

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// Open returns the issuer of the key that a rotation is about. It makes no outside call,
// or only such as change nothing. It rejects, with permanent errors, options it does not
// know and values that cannot hold a key with its id.
type Open func(context.Context, rotators.Rotation) (Issuer, error)

// Key is a minted key.
type Key struct {
	ID string
	// Fields are the fields of the value that the key fills, the id's included. Those
	// that are not there are added.
	Fields map[string]rotators.Secret
}

// Issuer mints and revokes the keys of one account, for one rotation. Its errors are as
// those of [rotators.Rotator]: plain, Permanent or Refused.
type Issuer interface {
	// ID reads the id of the key in a value. A value without one is refused with a
	// permanent error.
	ID(v rotators.Secret) (string, error)
	// Begin records that the attempt of this token is about to mint, for issuers whose
	// keys cannot carry the token. It is called before each Mint. Others do nothing.
	Begin(ctx context.Context, token string) error
	// Mint makes a new key. The error wraps ErrFull if the account has as many keys as
	// it may.
	Mint(ctx context.Context, token string) (Key, error)
	// Done takes back what Begin recorded: the key of this token is stored, and there
	// are no strays. Others do nothing.
	Done(ctx context.Context, token string) error
	// Strays returns the ids of the keys that rekey provably minted, whichever attempt
	// it was for, except those to keep. A key about which there is doubt is none.
	Strays(ctx context.Context, keep ...string) ([]string, error)
	// Verify tells whether the key in a value works: nil, an error that is Refused, or
	// any other if it cannot tell.
	Verify(ctx context.Context, v rotators.Secret) error
	// Revoke disables the key, where the issuer can, then deletes it. It returns nil if
	// there is no such key any more.
	Revoke(ctx context.Context, id string) error
	// Settling is how long it can take until all of the issuer's servers know that a
	// key was minted or revoked; until then some may accept it and others not. 0: they
	// know at once.
	Settling() time.Duration
}

// ErrFull says that an account has as many keys as it may have.
var ErrFull = errors.New("there is no room for another key")

// DefaultGrace is how long the old key stays valid unless rekey:grace says otherwise:
// longer than any common cache of secrets (AWS's clients keep a value for an hour).
const DefaultGrace = 24 * time.Hour

// Clock is what the rotator waits by.
type Clock struct {
	// Now is the time. Nil: time.Now.
	Now func() time.Time
	// Pause waits, or returns the context's error. Nil: it really waits.
	Pause func(context.Context, time.Duration) error
}

// Time is what time it is.
func (c *Clock) Time() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// Wait waits, or returns the context's error.
func (c *Clock) Wait(ctx context.Context, d time.Duration) error {
	if c.Pause != nil {
		return c.Pause(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// New returns the rotator for the keys of an issuer. The clock may be nil.
func New(open Open, clock *Clock) rotators.Rotator {
	if clock == nil {
		clock = &Clock{}
	}
	return &rotator{open: open, clock: clock}
}

type rotator struct {
	open  Open
	clock *Clock
}

// account is what one call works with: the issuer, and the ids that the secret
// recorded.
type account struct {
	Issuer
	current, previous string // ids; "": none
}

// account opens the issuer and reads the ids. A previous value without an id was not
// made here, and no key of it is known.
func (x *rotator) account(ctx context.Context, r rotators.Rotation) (account, error) {
	issuer, err := x.open(ctx, r)
	if err != nil {
		return account{}, err
	}
	a := account{Issuer: issuer}
	if a.current, err = issuer.ID(r.Current); err != nil {
		return account{}, err
	}
	previous, err := r.Previous(ctx)
	if err != nil {
		return account{}, err
	}
	if !previous.IsZero() {
		a.previous, _ = issuer.ID(previous)
	}
	return a, nil
}

// Create mints a key.
func (x *rotator) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	a, err := x.account(ctx, r)
	if err != nil {
		return rotators.Secret{}, err
	}
	if err := a.sweep(ctx, a.current, a.previous); err != nil {
		return rotators.Secret{}, err
	}
	key, err := a.mint(ctx, r.Token)
	if errors.Is(err, ErrFull) {
		key, err = a.mintInPlace(ctx, r, err)
	}
	if err != nil {
		return rotators.Secret{}, fmt.Errorf("minting a key: %w", err)
	}
	value := r.Current
	for _, name := range slices.Sorted(maps.Keys(key.Fields)) {
		if value, err = fill(value, name, key.Fields[name]); err != nil {
			return rotators.Secret{}, errors.Join(err, a.Revoke(ctx, key.ID))
		}
	}
	return value, nil
}

// mint mints a key once the intent is recorded.
func (a account) mint(ctx context.Context, token string) (Key, error) {
	if err := a.Begin(ctx, token); err != nil {
		return Key{}, err
	}
	return a.Mint(ctx, token)
}

// fill replaces a field, or adds it.
func fill(value rotators.Secret, name string, with rotators.Secret) (rotators.Secret, error) {
	switch f, err := value.Field(name); {
	case err != nil:
		return rotators.Secret{}, err
	case f.IsZero():
		return value.With(name, with)
	}
	return value.Replace(name, with)
}

// mintInPlace mints once a key has made room that the secret recorded and that readers
// do not get: one of an attempt that was given up, else the previous one.
func (a account) mintInPlace(ctx context.Context, r rotators.Rotation, full error) (Key, error) {
	var ids []string
	for v, err := range r.Leftovers(ctx) {
		if err != nil {
			return Key{}, err
		}
		// A value without an id was not made here.
		if id, err := a.ID(v); err == nil {
			ids = append(ids, id)
		}
	}
	ids = slices.DeleteFunc(append(ids, a.previous), func(id string) bool { return id == "" || id == a.current })
	if len(ids) == 0 {
		return Key{}, full
	}
	if err := a.Verify(ctx, r.Current); err != nil {
		return Key{}, fmt.Errorf("%w; no older key is revoked to make some, because what readers get does not work: %w", full, err)
	}
	for _, id := range ids {
		if err := a.Revoke(ctx, id); err != nil {
			return Key{}, fmt.Errorf("%w; revoking the older key %s to make some: %w", full, id, err)
		}
		key, err := a.mint(ctx, r.Token)
		if !errors.Is(err, ErrFull) {
			slog.WarnContext(ctx, "there was no room for another key, so an older one of this secret's was revoked before its time", "secret", r.ID, "key", id)
			return key, err
		}
		full = err
	}
	return Key{}, full
}

// Discard revokes the key of a value that was not stored, because another run of the
// same attempt stored its own first.
func (x *rotator) Discard(ctx context.Context, r rotators.Rotation) error {
	issuer, err := x.open(ctx, r)
	if err != nil {
		return err
	}
	id, err := issuer.ID(r.Pending)
	if err != nil {
		return err
	}
	return issuer.Revoke(ctx, id)
}

// Set waits until the key works everywhere, and clears up after runs that minted a key
// and could not store it.
func (x *rotator) Set(ctx context.Context, r rotators.Rotation) error {
	a, err := x.account(ctx, r)
	if err != nil {
		return err
	}
	pending, err := a.ID(r.Pending)
	if err != nil {
		return err
	}
	if err := a.sweep(ctx, a.current, a.previous, pending); err != nil {
		return err
	}
	err = x.settled(ctx, a, func() error { return a.Verify(ctx, r.Pending) })
	if rotators.IsRefused(err) {
		return fmt.Errorf("the new key %s: %w; if it stays so, give this attempt up: take the label AWSPENDING off version %s, or delete the record of the parameter's pending value, and rotate anew", pending, err, r.Token)
	}
	if err != nil {
		return fmt.Errorf("the new key %s: %w", pending, err)
	}
	if err := a.Done(ctx, r.Token); err != nil {
		return fmt.Errorf("taking back what was recorded before the key was minted: %w", err)
	}
	return nil
}

// Test tries the key once: that it has settled is Set's to see.
func (x *rotator) Test(ctx context.Context, r rotators.Rotation) error {
	issuer, err := x.open(ctx, r)
	if err != nil {
		return err
	}
	if _, err := issuer.ID(r.Pending); err != nil {
		return err
	}
	return issuer.Verify(ctx, r.Pending)
}

// Grace is what the owner set, else DefaultGrace.
func (x *rotator) Grace(s rotators.Settings) time.Duration {
	if s.Grace < 0 {
		return DefaultGrace
	}
	return s.Grace
}

// Retire revokes the previous key and waits until it is refused everywhere.
func (x *rotator) Retire(ctx context.Context, r rotators.Rotation) error {
	a, err := x.account(ctx, r)
	if err != nil {
		return err
	}
	if a.previous == "" || a.previous == a.current {
		return nil
	}
	if err := a.Revoke(ctx, a.previous); err != nil {
		return fmt.Errorf("revoking the key %s: %w", a.previous, err)
	}
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	err = x.settled(ctx, a, func() error {
		switch err := a.Verify(ctx, previous); {
		case err == nil:
			return errors.New("it was revoked and still works")
		case rotators.IsRefused(err):
			return nil
		default:
			return err
		}
	})
	if err != nil {
		return fmt.Errorf("the old key %s: %w", a.previous, err)
	}
	return nil
}

// sweep revokes the strays.
func (a account) sweep(ctx context.Context, keep ...string) error {
	strays, err := a.Strays(ctx, keep...)
	if err != nil {
		return fmt.Errorf("looking for keys that were minted and never stored: %w", err)
	}
	for _, id := range strays {
		if err := a.Revoke(ctx, id); err != nil {
			return fmt.Errorf("revoking the key %s, which was minted and never stored: %w", id, err)
		}
		slog.WarnContext(ctx, "a key that an earlier run minted and could not store was revoked", "key", id)
	}
	return nil
}

// How often, and for how long at the most, something is looked at until it has settled.
const (
	looks   = 5
	patient = 4 // times the issuer's settling time
)

// settled calls check until it has succeeded for the whole of the issuer's settling
// time: while the issuer settles, a success may be followed by a failure. It gives up
// with check's last error after four times as long, and at once if that is permanent.
func (x *rotator) settled(ctx context.Context, issuer Issuer, check func() error) error {
	whole := issuer.Settling()
	start := x.clock.Time()
	since := start // when the row of successes began
	for {
		err := check()
		now := x.clock.Time()
		switch {
		case err == nil && now.Sub(since) >= whole:
			return nil
		case err != nil && (rotators.IsPermanent(err) || now.Sub(start) >= patient*whole):
			return err
		}
		if pauseErr := x.clock.Wait(ctx, whole/looks); pauseErr != nil {
			return errors.Join(err, fmt.Errorf("waiting until it has settled: %w", pauseErr))
		}
		if err != nil {
			since = x.clock.Time()
		}
	}
}
