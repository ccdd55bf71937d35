// Package apikey rotates keys that somebody else mints: an access key of IAM, an API
// key of a vendor. What differs from vendor to vendor is an [Issuer]; what keeps a
// rotation safe is written here, once. It is for those who write rotators for such
// keys; see the example, rotators/iamkey for a whole one, and docs/rotators/apikey.md.
//
// A key is minted before it can be stored, the one thing that the other rotators never
// do. So the intent is recorded first, or stands in the name of the key itself, and a
// second run finds by it what the first one minted and lost: an orphaned key, which is
// revoked. Each key is judged right before its revocation, by what the secret holds then
// (see [rotators.Rotation.Use]): a run may have waited for minutes since it listed the keys.
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
	"strings"
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
// those of [rotators.Rotator]: plain, Permanent or Refused. It acts with the key that
// readers get, or with what [Admin] returns.
type Issuer interface {
	// ID reads the id of the key in a value. It refuses with a permanent error a value
	// without one, and one that could not hold another key; see [ID].
	ID(v rotators.Secret) (string, error)
	// Begin records that a key of this name is about to be minted, and is called before
	// each Mint. An issuer whose keys have names does nothing.
	Begin(ctx context.Context, name string) error
	// Mint makes a new key of this name (see [Name]), a different key each time. Mint does
	// not retry: the caller does. The error wraps ErrFull if the account has as many keys
	// as it may. A refusal, ErrFull included, means that no key was made: Mint then takes
	// back what Begin recorded. After a lost answer there may be a key: the record stays.
	Mint(ctx context.Context, name string) (Key, error)
	// Done takes back all that Begin recorded for the attempt of this name (see
	// [SameAttempt]), whose key is stored or revoked by now. An issuer whose keys have
	// names does nothing.
	Done(ctx context.Context, name string) error
	// Strays lists the account's keys with their names, except keys that are dead for good.
	// The caller picks the orphaned keys of this secret; an issuer may leave out the keys to
	// keep. An issuer whose keys have no names lists the keys that Begin's records prove,
	// with the recorded name. Where a new key is listed late, Strays waits for that long.
	Strays(ctx context.Context, keep ...string) ([]Stray, error)
	// Verify tells whether the key in a value works: nil, an error that is Refused, or
	// any other if it cannot tell. If the issuer says which key it is, and the id in the
	// value is another one's, the error is permanent.
	Verify(ctx context.Context, v rotators.Secret) error
	// Revoke disables the key, where the issuer can, then deletes it. It returns nil if
	// there is no such key any more, or none of that id in this account.
	Revoke(ctx context.Context, id string) error
	// Settling is how long it can take until all of the issuer's servers know that a
	// key was minted or revoked; until then some may accept it and others not. 0: they
	// know at once.
	Settling() time.Duration
}

// Teller may be implemented by an Issuer that can tell of a key, without the key's secret,
// whether it is there and can be used. An Issuer whose Revoke disables a key before it deletes
// the key implements Teller: else a key that was only disabled when a run died stays so.
type Teller interface {
	// State tells what the account has under an id. It is asked before rekey tries the key.
	State(ctx context.Context, id string) (State, error)
}

// State is what an account has under the id of a key.
type State int

const (
	// Untold: there is no such key, or the issuer does not say.
	Untold State = iota
	// Active: the key is there and can be used.
	Active
	// Disabled: the key is there and cannot be used, as after half a revocation.
	Disabled
)

// ErrFull says that an account has as many keys as it may have.
var ErrFull = errors.New("there is no room for another key")

// Stray is a key that may be orphaned: minted by rekey and not stored.
type Stray struct{ ID, Name string }

// ID reads the field of a value that holds the id of the key, and sees to it that this
// field and others, the key's secret say, are there and can be replaced: so that nothing
// is minted that could not be stored. Its errors are permanent.
func ID(v rotators.Secret, field string, others ...string) (string, error) {
	for _, name := range append(others, field) {
		f, err := v.Field(name)
		if err != nil {
			return "", err
		}
		if f.IsZero() {
			return "", rotators.Permanent(fmt.Errorf("the value has no field %q: it must be a JSON object that holds a key of yours in %s; make the first key by hand", name, strings.Join(append([]string{field}, others...), ", ")))
		}
		if _, err := v.Replace(name, rotators.NewSecret("x")); err != nil {
			return "", err
		}
	}
	id, err := v.Field(field)
	return id.Reveal(), err
}

// Admin reads the value that rekey:admin names, for issuers that mint with another key
// than the one that is rotated. It does so only once verify has accepted what readers
// get, or if the admin's owner vouches for the secret (rekey:admin-for): else whoever can
// write a secret could have the admin make a key for it.
func Admin(ctx context.Context, r rotators.Rotation, verify func(context.Context, rotators.Secret) error) (rotators.Secret, error) {
	admin := r.Settings.Admin
	if err := verify(ctx, r.Current); rotators.IsRefused(err) {
		vouched, vouchErr := r.Vouches(ctx, admin)
		if vouchErr != nil {
			return rotators.Secret{}, vouchErr
		}
		if !vouched {
			// No refusal of the key that is asked about: that nothing can be done.
			return rotators.Secret{}, rotators.Permanent(fmt.Errorf("the admin %s does not act for this secret, because the key that readers get is refused and so proves nothing: store one that works, or name this secret in the tag rekey:admin-for of the admin's secret (%v)", admin, err))
		}
	} else if err != nil {
		return rotators.Secret{}, fmt.Errorf("before the admin %s acts, the key that readers get must work: %w", admin, err)
	}
	value, err := r.Lookup(ctx, admin)
	if err != nil {
		return rotators.Secret{}, fmt.Errorf("the admin %s: %w", admin, err)
	}
	return value, nil
}

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

// Await returns check's error unless the error is Refused. A key that was made a moment ago
// is refused for a while, so Await then repeats check until the key was accepted for the
// whole settling time, or is still refused after that time.
func (c *Clock) Await(ctx context.Context, settling time.Duration, check func() error) error {
	err := check()
	if !rotators.IsRefused(err) {
		return err
	}
	start := c.Time()
	for refused := start; ; { // last
		if pauseErr := c.Wait(ctx, settling/looks); pauseErr != nil {
			return errors.Join(err, pauseErr)
		}
		err = check()
		now := c.Time()
		switch {
		case err == nil && now.Sub(refused) >= settling:
			return nil
		case err == nil:
			continue
		case !rotators.IsRefused(err) || now.Sub(start) >= settling:
			return err
		}
		refused = now
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

// state is what the issuer tells of a key.
func (a account) state(ctx context.Context, id string) (State, error) {
	teller, ok := a.Issuer.(Teller)
	if !ok {
		return Untold, nil
	}
	state, err := teller.State(ctx, id)
	if err != nil {
		return Untold, fmt.Errorf("whether the key %s can be used: %w", id, err)
	}
	return state, nil
}

// holds returns a function that reports whether a value holds the key of an id: in the
// field of the id, or anywhere in its text. A value may hold several keys, or be a file of
// an application's own.
func (a account) holds(id string) func(rotators.Secret) bool {
	return func(v rotators.Secret) bool {
		its, err := a.ID(v)
		return err == nil && strings.TrimSpace(its) == id || Mentions(v, id)
	}
}

// Create mints a key.
func (x *rotator) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	a, err := x.account(ctx, r)
	if err != nil {
		return rotators.Secret{}, err
	}
	// Retirement will revoke the key of this id, so the value must hold that key. A key that
	// somebody made by hand a moment ago is refused only until it has settled. A delegated
	// admin may replace a key that is refused for good.
	refused := x.clock.Await(ctx, a.Settling(), func() error { return a.Verify(ctx, r.Current) })
	switch {
	case refused != nil && !rotators.IsRefused(refused):
		return rotators.Secret{}, fmt.Errorf("the key that readers get: %w", refused)
	case refused != nil && r.Settings.Admin == "":
		// The error is not Refused: Create was not asked about this key.
		return rotators.Secret{}, fmt.Errorf("the current key does not work, and only the current key says whose keys to rotate, so nothing was changed: store one that works (%v)", refused)
	}
	value, err := x.issue(ctx, a, r, refused == nil)
	if err != nil && refused != nil {
		err = fmt.Errorf("%w; the key that readers get does not work either, so store one that does (%v)", err, refused)
	}
	return value, err
}

// issue mints a key and returns the value with it. Only if what readers get works does an
// older key make room.
func (x *rotator) issue(ctx context.Context, a account, r rotators.Rotation, works bool) (rotators.Secret, error) {
	swept, err := x.sweep(ctx, a, r, a.current, a.previous)
	if err != nil {
		return rotators.Secret{}, err
	}
	key, err := x.mint(ctx, a, r, swept)
	if errors.Is(err, ErrFull) {
		if busy := x.busy(ctx, a, r); busy != nil {
			return rotators.Secret{}, busy
		}
		if works {
			key, err = x.mintInPlace(ctx, a, r, err)
		}
	}
	if err != nil {
		return rotators.Secret{}, fmt.Errorf("minting a key: %w", err)
	}
	value, err := a.store(r.Current, key)
	if err != nil {
		return rotators.Secret{}, errors.Join(err, a.revokeLost(ctx, r, key.ID))
	}
	return value, nil
}

// busy returns an error if another run has minted a key and may be about to store it. That one takes up the room, and no older key makes any then.
func (x *rotator) busy(ctx context.Context, a account, r rotators.Rotation) error {
	strays, err := a.Strays(ctx, a.current, a.previous)
	if err != nil {
		return fmt.Errorf("looking for keys that another run has minted: %w", err)
	}
	for _, s := range strays {
		if x.alive(r, s) {
			return fmt.Errorf("no key was minted: there is no room for another key beside %s, which another run has minted and may be about to store; if that key is not stored, run this step again after %s", s.ID, Over(s.Name).UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// alive reports whether the run that minted a key for this secret may still store the key.
// The run does not know whether its attempt was given up meanwhile.
func (x *rotator) alive(r rotators.Rotation, s Stray) bool {
	return named(r.ID, s.Name) && x.clock.Time().Before(Over(s.Name))
}

// store returns the value with the key in it.
func (a account) store(value rotators.Secret, key Key) (_ rotators.Secret, err error) {
	for _, name := range slices.Sorted(maps.Keys(key.Fields)) {
		if value, err = fill(value, name, key.Fields[name]); err != nil {
			return rotators.Secret{}, err
		}
	}
	if id, err := a.ID(value); err != nil {
		return rotators.Secret{}, err
	} else if id != key.ID {
		// It names neither: the one in the value may be the secret, in the wrong field.
		return rotators.Secret{}, rotators.Permanent(errors.New("the id in the new value is not that of the key which was minted: the rotator must fill the field with it"))
	}
	return value, nil
}

// fill replaces a field, or adds it.
func fill(value rotators.Secret, name string, with rotators.Secret) (rotators.Secret, error) {
	switch f, err := value.Field(name); {
	case err != nil:
		return rotators.Secret{}, err
	case with.IsZero():
		return rotators.Secret{}, rotators.Permanent(fmt.Errorf("the issuer answered with nothing for the field %q", name))
	case f.IsZero():
		return value.With(name, with)
	}
	return value.Replace(name, with)
}

// revokeLost revokes a key that cannot be stored. One without an id is left to the sweep
// of the next run: nobody knows what an issuer makes of an empty one.
func (a account) revokeLost(ctx context.Context, r rotators.Rotation, id string) error {
	if id == "" {
		return nil
	}
	if err := a.Revoke(ctx, id); err != nil {
		return err
	}
	a.done(ctx, Name(r.ID, r.Token, time.Time{}))
	return nil
}

// done takes back what was recorded before a key was minted that is revoked now. A failure
// is only logged, because an issuer goes by such a record for a short time only. The line
// leaves out the error, which may hold what a server answered, or a secret in a URL.
func (a account) done(ctx context.Context, name string) {
	if err := a.Done(ctx, name); err != nil {
		slog.WarnContext(ctx, "a key was revoked, and the issuer's Done failed, so what was recorded before the key was minted is still there")
	}
}

// mint records the intent and mints. If a key was revoked a moment ago, the issuer may
// count it for a while.
func (x *rotator) mint(ctx context.Context, a account, r rotators.Rotation, revoked bool) (key Key, err error) {
	start := x.clock.Time()
	for {
		name := x.name(ctx, r.ID, r.Token)
		if err = a.Begin(ctx, name); err != nil {
			err = fmt.Errorf("recording that a key is about to be minted: %w", err)
		} else {
			key, err = a.Mint(ctx, name)
		}
		if !revoked || !errors.Is(err, ErrFull) || rotators.IsPermanent(err) || x.clock.Time().Sub(start) >= a.Settling() {
			return key, err
		}
		if pauseErr := x.clock.Wait(ctx, a.Settling()/looks); pauseErr != nil {
			return Key{}, errors.Join(err, fmt.Errorf("waiting until there is room: %w", pauseErr))
		}
	}
}

// maxLeftovers is how many keys of versions without a label are looked at.
const maxLeftovers = 5

// mintInPlace mints once a key has made room that the secret recorded and that readers
// do not get: those of attempts that were given up, else the previous one.
func (x *rotator) mintInPlace(ctx context.Context, a account, r rotators.Rotation, full error) (Key, error) {
	found, err := a.older(ctx, r)
	if err != nil {
		return Key{}, err
	}
	revoked := found.revoked
	for {
		if revoked {
			key, err := x.mint(ctx, a, r, true)
			if !errors.Is(err, ErrFull) {
				return key, err
			}
			full = err
		}
		if len(found.live) == 0 {
			if len(found.refused) > 0 {
				full = fmt.Errorf("%w; of the older keys that this secret recorded, %s is left alone: it is refused with the secret beside it, so nothing proves that the key was this secret's; find out whose it is, and delete it if nobody uses it", full, strings.Join(found.refused, ", "))
			}
			if len(found.others) > 0 {
				full = fmt.Errorf("%w; of the older keys that this secret recorded, these are left alone: %s", full, strings.Join(found.others, ", "))
			}
			return Key{}, full
		}
		id := found.live[0]
		if revoked, err = a.makeRoom(ctx, r, id); err != nil {
			return Key{}, fmt.Errorf("%w; revoking the older key %s to make some: %w", full, id, err)
		}
		if revoked {
			slog.WarnContext(ctx, "there was no room for another key, so an older one of this secret's was revoked before its time", "secret", r.ID, "key", id)
		}
		found.live = found.live[1:]
	}
}

// makeRoom revokes an older key, unless a version in use holds it.
func (a account) makeRoom(ctx context.Context, r rotators.Rotation, id string) (revoked bool, err error) {
	use, err := r.Use(ctx, a.holds(id))
	if err != nil || use == rotators.InUse {
		return false, err
	}
	return true, a.Revoke(ctx, id)
}

// olderKeys are keys that the secret recorded and that readers do not get, by their ids.
type olderKeys struct {
	live    []string // each works with the secret beside its id
	refused []string // each is refused with the secret beside its id, and is not known to be disabled
	others  []string // each belongs to somebody else, or whose it is cannot be told
	revoked bool     // whether a disabled key was revoked
}

// older finds the older keys, and revokes those that are disabled: a disabled key takes up
// room as any other. Whoever can write a secret can write any id into it, so an id proves
// nothing: only a key that works with the secret beside the id was this secret's.
func (a account) older(ctx context.Context, r rotators.Rotation) (found olderKeys, err error) {
	var values []rotators.Secret
	seen := []string{a.current}
	add := func(v rotators.Secret) {
		// A value without an id was not made here.
		if id, err := a.ID(v); err == nil && !slices.Contains(seen, id) {
			values, seen = append(values, v), append(seen, id)
		}
	}
	for v, err := range r.Leftovers(ctx) {
		if err != nil {
			return found, err
		}
		if add(v); len(values) == maxLeftovers {
			break
		}
	}
	previous, err := r.Previous(ctx)
	if err != nil {
		return found, err
	}
	add(previous)
	for i, v := range values {
		id := seen[i+1]
		state, err := a.state(ctx, id)
		if err != nil {
			return found, fmt.Errorf("looking for an older key that could make room: %w", err)
		}
		if state == Disabled {
			made, err := a.makeRoom(ctx, r, id)
			if err != nil {
				return found, fmt.Errorf("revoking the older key %s, which is disabled, to make room: %w", id, err)
			}
			found.revoked = found.revoked || made
			continue
		}
		switch err := a.Verify(ctx, v); {
		case err == nil:
			found.live = append(found.live, id)
		case rotators.IsRefused(err):
			found.refused = append(found.refused, id)
		case rotators.IsPermanent(err):
			found.others = append(found.others, fmt.Sprintf("%s (%v)", id, err))
		default:
			return found, fmt.Errorf("looking for an older key that could make room: %w", err)
		}
	}
	return found, nil
}

// Discard revokes the key of a value that will not be promoted.
func (x *rotator) Discard(ctx context.Context, r rotators.Rotation) error {
	issuer, err := x.open(ctx, r)
	if err != nil {
		return err
	}
	a := account{Issuer: issuer}
	id, err := a.ID(r.Pending)
	if err != nil {
		return err
	}
	switch use, err := r.Use(ctx, a.holds(id)); {
	case err != nil:
		return err
	case use == rotators.InUse:
		return nil
	case use == rotators.Former:
		return fmt.Errorf("the key %s: %w", id, rotators.ErrFormer)
	}
	return a.revokeLost(ctx, r, id)
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
	if _, err := x.sweep(ctx, a, r, a.current, a.previous, pending); err != nil {
		return err
	}
	err = x.settled(ctx, a, func() error { return a.Verify(ctx, r.Pending) })
	if rotators.IsRefused(err) {
		return fmt.Errorf("the new key %s: %w; if it stays so, give this attempt up: take the label AWSPENDING off version %s, or delete the record of the parameter's pending value, and rotate anew", pending, err, r.Token)
	}
	if err != nil {
		return fmt.Errorf("the new key %s: %w", pending, err)
	}
	if err := a.Done(ctx, Name(r.ID, r.Token, time.Time{})); err != nil {
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
	if a.previous == "" {
		return nil
	}
	previous, err := r.Previous(ctx)
	if err != nil {
		return err
	}
	ours, err := x.proven(ctx, a, previous)
	if err != nil {
		return fmt.Errorf("before revoking the key %s: %w", a.previous, err)
	}
	if !ours {
		return nil
	}
	switch use, err := r.Use(ctx, a.holds(a.previous)); {
	case err != nil:
		return fmt.Errorf("before revoking the key %s: %w", a.previous, err)
	case use == rotators.InUse:
		return rotators.Permanent(fmt.Errorf("the key %s is not revoked, because a version in use holds the same key (the current version, the pending version, or a version with a label of its owner's own): if that is right, remove the tag rekey:retire", a.previous))
	}
	if err := a.Revoke(ctx, a.previous); err != nil {
		return fmt.Errorf("revoking the key %s: %w", a.previous, err)
	}
	err = x.settled(ctx, a, func() error {
		switch err := a.Verify(ctx, previous); {
		case err == nil:
			return errStillWorks
		case rotators.IsRefused(err):
			return nil
		default:
			return err
		}
	})
	if errors.Is(err, errStillWorks) && ctx.Err() == nil {
		// Permanent, so that a rotation in an emergency does not wait for it.
		return rotators.Permanent(fmt.Errorf("the old key %s: %w, for %v now; it is tried again, and if it stays so ask the issuer", a.previous, err, patient*a.Settling()))
	}
	if err != nil {
		return fmt.Errorf("whether the old key %s is refused is not known: %w", a.previous, err)
	}
	return nil
}

// proven reports whether the previous value proves that the key of its id was this secret's:
// the key works with the secret beside the id, or is disabled already, as after half a
// revocation. A key that does not work, and that the issuer does not call active, is gone or
// withdrawn, and proven returns false. An active key that is refused is a permanent error:
// whoever can write a secret can write any id into it.
func (x *rotator) proven(ctx context.Context, a account, previous rotators.Secret) (bool, error) {
	state, err := a.state(ctx, a.previous)
	if err != nil || state == Disabled {
		return err == nil, err
	}
	refused := x.clock.Await(ctx, a.Settling(), func() error { return a.Verify(ctx, previous) })
	if !rotators.IsRefused(refused) {
		return refused == nil, refused
	}
	// A run that died a moment ago may have disabled the key before the issuer showed it.
	if state, err = a.state(ctx, a.previous); err != nil || state != Active {
		return err == nil && state == Disabled, err
	}
	return false, rotators.Permanent(fmt.Errorf("the key is active, and is refused with the secret that was recorded beside its id, so nothing proves that the key was this secret's (%v): find out whose key it is, delete it by hand if nobody uses it, and remove the tag rekey:retire", refused))
}

var errStillWorks = errors.New("it was revoked and still works")

// sweep revokes the orphaned keys, and reports whether there were any. Create, which has no
// pending value, leaves alone a key whose run may still store it.
func (x *rotator) sweep(ctx context.Context, a account, r rotators.Rotation, keep ...string) (swept bool, err error) {
	strays, err := a.Strays(ctx, keep...)
	if err != nil {
		return false, fmt.Errorf("looking for keys that were minted and never stored: %w", err)
	}
	var revoked, done []string
	for _, s := range strays {
		// A key without a name of its own may be listed by the names of several runs.
		alive := slices.ContainsFunc(strays, func(other Stray) bool { return other.ID == s.ID && x.alive(r, other) })
		if !named(r.ID, s.Name) || slices.Contains(keep, s.ID) || r.Pending.IsZero() && alive {
			continue
		}
		if !slices.Contains(revoked, s.ID) {
			switch use, err := r.Use(ctx, a.holds(s.ID)); {
			case err != nil:
				return false, fmt.Errorf("before revoking the key %s, which an earlier run seems to have minted and not stored: %w", s.ID, err)
			case use != rotators.Unused:
				continue
			}
			if err := a.Revoke(ctx, s.ID); err != nil {
				return false, fmt.Errorf("revoking the key %s, which was minted and never stored: %w", s.ID, err)
			}
			revoked = append(revoked, s.ID)
			slog.WarnContext(ctx, "a key that an earlier run minted and could not store was revoked", "key", s.ID)
		}
		if !slices.ContainsFunc(done, func(name string) bool { return SameAttempt(name, s.Name) }) {
			done = append(done, s.Name)
		}
	}
	for _, name := range done {
		a.done(ctx, name)
	}
	return len(revoked) > 0, nil
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
