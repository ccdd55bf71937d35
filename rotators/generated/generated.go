package generated

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// defaultGrace is how long earlier keys count where rekey:grace says nothing: as long
// as an earlier password does where a user may have two.
const defaultGrace = 24 * time.Hour

// Rotator makes values that no other system holds. It calls nothing outside.
type Rotator struct {
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

var _ rotators.Rotator = (*Rotator)(nil)

// New returns the rotator.
func New() *Rotator { return new(Rotator) }

func (g *Rotator) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}

// Create implements rotators.Rotator. What it makes is not known to anybody yet, so a
// second run makes another, and that is as good.
func (g *Rotator) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	o, err := readOptions(r.Settings.Options)
	if err != nil {
		return rotators.Secret{}, err
	}
	value, err := g.create(o.kind(), o.keyring, r)
	return value, rotators.Permanent(err)
}

func (g *Rotator) create(k kind, keyring bool, r rotators.Rotation) (rotators.Secret, error) {
	if !isObject(r.Current) {
		if err := plain(k, keyring, r.Current); err != nil {
			return rotators.Secret{}, err
		}
		next, err := k.generate(r, Key{})
		return next.Secret, err
	}
	keys, err := k.read(r.Current)
	if err != nil {
		return rotators.Secret{}, err
	}
	var current Key
	if len(keys) > 0 {
		current = keys[0]
	} else if keyring {
		// The owner emptied the field of the current key. What was signed by that key and the
		// ones before it is still to verify.
		if keys, err = k.past(r.Current); err != nil {
			return rotators.Secret{}, err
		}
	}
	next, err := k.generate(r, current)
	if err != nil {
		return rotators.Secret{}, err
	}
	var counts time.Duration
	if keyring {
		counts = grace(r.Settings)
	}
	return k.write(r.Current, append([]Key{next}, g.older(keys, counts)...))
}

// grace is how long earlier keys count.
func grace(s rotators.Settings) time.Duration {
	if s.Grace < 0 {
		return defaultGrace
	}
	return s.Grace
}

// older are the keys that go on counting beside a new one, with their times: none
// longer than a grace from now.
func (g *Rotator) older(keys []Key, grace time.Duration) []Key {
	now := g.now()
	end := time.Unix(now.Add(grace).Unix(), 0)
	var left []Key
	for _, k := range keys {
		if k.Until.IsZero() || k.Until.After(end) {
			k.Until = end
		}
		if k.counts(now) {
			left = append(left, k)
		}
	}
	return left
}

// plain says why a value that is no JSON object is not to be rotated whole.
func plain(k kind, keyring bool, value rotators.Secret) error {
	if _, err := value.Field("password"); err == nil {
		return errors.New("the value is a URL with a password, of which nothing else may be lost: take off the tag rekey:connection if that makes it one, or keep a generated text by itself")
	}
	if _, ok := k.(text); !ok || keyring {
		return fmt.Errorf("the value is a plain text, which has no room for a key and what belongs to it: store {}, or an object whose field %q is \"\", to have it filled", k.main())
	}
	return nil
}

// Set implements rotators.Rotator. No other system has to accept the value, so it
// only keeps one from being promoted that would do harm: a value without a key, or
// one that lay for so long that the key which applications have now would count for less
// than the grace after the promotion. A tenth of the grace is allowed for.
func (g *Rotator) Set(ctx context.Context, r rotators.Rotation) error {
	if err := g.Test(ctx, r); err != nil {
		return err
	}
	o, err := readOptions(r.Settings.Options)
	if err != nil || !isObject(r.Pending) {
		return err
	}
	keys, err := o.kind().read(r.Pending)
	if err == nil && keys == nil {
		err = errors.New("the pending value holds no key")
	}
	if err != nil {
		return rotators.Permanent(err)
	}
	current, err := o.kind().read(r.Current)
	if err != nil || current == nil {
		return nil // as to the current value, Create has the say
	}
	left := grace(r.Settings) * 9 / 10
	for _, k := range keys[1:] {
		if k.same(current[0]) && k.Until.Sub(g.now()) < left {
			return rotators.Permanent(fmt.Errorf("this rotation lay too long: its value has the key that applications have now end at %s, which is sooner than the grace after a promotion now, and what they signed until now would not verify for the whole of the grace: drop the pending value (of a secret: update-secret-version-stage --version-stage AWSPENDING --remove-from-version-id %s; of a parameter: delete its record under /rekey/pending/), and rotate again", k.Until.UTC().Format(time.RFC3339), r.Token))
		}
	}
	return nil
}

// Test implements rotators.Rotator. It proves that the value is well formed, that the
// public half verifies what the private half signs, and that ids and key set name
// what is there. A value that is still to be filled passes: it is tried when a
// schedule is configured, before the first rotation.
func (g *Rotator) Test(_ context.Context, r rotators.Rotation) error {
	o, err := readOptions(r.Settings.Options)
	if err != nil {
		return err
	}
	if !isObject(r.Pending) {
		return rotators.Permanent(plain(o.kind(), o.keyring, r.Pending))
	}
	keys, err := o.kind().read(r.Pending)
	if err == nil && len(keys) > 0 {
		err = prove(keys[0])
	}
	if err != nil {
		return rotators.Refused(rotators.Permanent(err))
	}
	return nil
}

// prove signs and verifies.
func prove(k Key) error {
	if algorithms[k.Alg].family == textFamily {
		return nil
	}
	message := []byte("rekey proves that the halves of a key belong together")
	signature, err := k.Sign(message)
	if err != nil {
		return errors.New("the private key does not sign")
	}
	if k.Verify(message, signature) != nil {
		return errors.New("the public key does not verify what the private key signs")
	}
	return nil
}
