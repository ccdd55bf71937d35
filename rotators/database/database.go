package database

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

const (
	// maxLogin is how long a login may take at most. A login that is not through
	// after ten seconds has met a firewall or a server that is lost.
	maxLogin = 10 * time.Second
	// share is the part of the time left that one login may take, so that the
	// two that Set makes leave time to say which one failed.
	share = 3
	// putBackTime is how long putting a password back may take, whatever is left
	// of the caller's time: a change and a login.
	putBackTime = 5 * time.Second
	// maxLeftovers is how many abandoned values are tried.
	maxLeftovers = 5
)

// New returns the rotator for an engine.
//
// The value it rotates is a JSON object or a URL with the fields host, username,
// password and, if they are not the engine's defaults, port and dbname. The
// connection uses TLS with a verified certificate unless the field ssl is false
// (in a URL: sslmode=disable).
func New(e Engine) rotators.Rotator { return &rotator{e} }

type rotator struct{ Engine }

// Create replaces the password in the value. Nothing outside is touched.
func (d *rotator) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	if err := d.check(r.Settings, r.Current); err != nil {
		return rotators.Secret{}, err
	}
	if _, err := d.login(r.Current); err != nil {
		return rotators.Secret{}, err
	}
	password, err := r.Settings.Password.Generate(d.Length, d.Alphabet)
	if err != nil {
		return rotators.Secret{}, err
	}
	return r.Current.Replace("password", password)
}

// Set logs in with the current password, changes it, and proves the new one by
// a login of its own before it lets go of the first.
func (d *rotator) Set(ctx context.Context, r rotators.Rotation) error {
	if err := d.check(r.Settings, r.Current); err != nil {
		return err
	}
	current, err := d.login(r.Current)
	if err != nil {
		return err
	}
	pending, err := d.login(r.Pending)
	if err != nil {
		return fmt.Errorf("the pending value: %w", err)
	}
	if field := current.differs(pending); field != "" {
		return rotators.Permanent(fmt.Errorf("the field %q was changed while a rotation was under way: the pending value would change the password of %s, the current one that of %s; cancel this rotation and start it again", field, pending.at(), current.at()))
	}

	session, opened, err := d.enter(ctx, r, current)
	if err != nil {
		return err
	}
	defer session.Close(context.WithoutCancel(ctx))
	if opened.Password.Equal(pending.Password) {
		return nil
	}

	if err := session.SetPasswords(ctx, current.User, pending.Password); err != nil {
		return fmt.Errorf("changing the password of %s: %w", current.at(), err)
	}
	err = d.prove(ctx, pending)
	switch {
	case err == nil:
		return nil
	case rotators.IsRefused(err):
		return d.putBack(ctx, session, opened, err)
	default:
		// Whether the new password works is not known. It is the stored one, so
		// the next attempt finds out.
		return fmt.Errorf("the password of %s was changed but could not be tried, so the rotation must run again: %w", current.at(), err)
	}
}

// Test logs in with the pending password.
func (d *rotator) Test(ctx context.Context, r rotators.Rotation) error {
	if err := d.check(r.Settings, r.Pending); err != nil {
		return err
	}
	pending, err := d.login(r.Pending)
	if err != nil {
		return err
	}
	return d.prove(ctx, pending)
}

// check refuses what this version does not do. Its errors are permanent.
func (d *rotator) check(s rotators.Settings, value rotators.Secret) error {
	if len(s.Options) > 0 {
		return rotators.Permanent(fmt.Errorf("rekey:options has %s, and %s takes no options: remove the tag", strings.Join(slices.Sorted(maps.Keys(s.Options)), ", "), d.Name))
	}
	if s.Variant != "" {
		return rotators.Permanent(fmt.Errorf("rekey:rotator asks for the variant %q, and %s has no variants: set rekey:rotator to %s", s.Variant, d.Name, s.Rotator))
	}
	admin, err := value.Field("masterarn")
	if err != nil {
		return err
	}
	switch {
	case s.Strategy == "alternating-users" || s.Strategy == "overlap":
		return rotators.Permanent(fmt.Errorf("this version does not have the strategy %q yet: set rekey:strategy to single-user", s.Strategy))
	case s.Strategy != "" && s.Strategy != "single-user":
		return rotators.Permanent(fmt.Errorf("there is no strategy %q: set rekey:strategy to single-user", s.Strategy))
	case s.Admin != "":
		return rotators.Permanent(errors.New("this version cannot change a password by an admin's login yet: remove the tag rekey:admin, and the user changes its own"))
	case !admin.IsZero() && s.Strategy == "":
		return rotators.Permanent(errors.New("the field \"masterarn\" names an admin, which asks for the strategy alternating-users, and this version does not have it yet: set rekey:strategy to single-user, and the user changes its own password"))
	}
	return nil
}

// enter logs in as the user whose password is to be changed: with the current
// password, and with others only if the server refuses that one. It returns the
// login that the server accepted.
func (d *rotator) enter(ctx context.Context, r rotators.Rotation, current Login) (Session, Login, error) {
	session, err := d.open(ctx, current)
	if !rotators.IsRefused(err) {
		return session, current, err
	}
	for rung, err := range d.ladder(ctx, r, current) {
		if err != nil {
			return nil, Login{}, err
		}
		session, err := d.open(ctx, rung)
		if !rotators.IsRefused(err) {
			return session, rung, err
		}
	}
	// Not wrapped: what was refused is every password rekey knows, not the
	// credential this call is about.
	return nil, Login{}, rotators.Permanent(fmt.Errorf("%s refuses the current password of %s and every other one this secret has held: see that the user has not expired, set its password by hand to the one in AWSCURRENT, then rotate again (%v)", d.Name, current.at(), err))
}

// ladder yields what else may log in as the user of current, best first: the
// pending password, which an earlier run may have set; the previous one; and
// those that abandoned attempts have left behind. Values for other accounts are
// left out, and all else but the password is taken from current, so that an old
// value decides neither where a password is sent nor whether by TLS.
func (d *rotator) ladder(ctx context.Context, r rotators.Rotation, current Login) iter.Seq2[Login, error] {
	tried := []rotators.Secret{current.Password}
	fresh := func(value rotators.Secret) (Login, bool) {
		l, err := d.login(value)
		if err != nil || !l.sameAccount(current) || slices.ContainsFunc(tried, l.Password.Equal) {
			return Login{}, false
		}
		tried = append(tried, l.Password)
		rung := current
		rung.Password = l.Password
		return rung, true
	}
	return func(yield func(Login, error) bool) {
		if rung, ok := fresh(r.Pending); ok && !yield(rung, nil) {
			return
		}
		if r.Previous != nil {
			value, err := r.Previous(ctx)
			if err != nil {
				yield(Login{}, fmt.Errorf("reading the previous value: %w", err))
				return
			}
			if rung, ok := fresh(value); ok && !yield(rung, nil) {
				return
			}
		}
		if r.Leftovers == nil {
			return
		}
		left := maxLeftovers
		for value, err := range r.Leftovers(ctx) {
			if err != nil {
				yield(Login{}, fmt.Errorf("reading the values of abandoned attempts: %w", err))
				return
			}
			rung, ok := fresh(value)
			if !ok {
				continue
			}
			if left--; !yield(rung, nil) || left == 0 {
				return
			}
		}
	}
}

// putBack restores the password that opened the session, because the server has
// refused the new one, and returns the error that Set is to return. It is never
// a refusal: no credential that the caller knows is wrong.
func (d *rotator) putBack(ctx context.Context, session Session, opened Login, refusal error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTime)
	defer cancel()
	err := session.SetPasswords(ctx, opened.User, opened.Password)
	if err == nil {
		err = d.prove(ctx, opened)
	}
	if err != nil {
		return fmt.Errorf("%s refused the new password of %s right after it was set, and putting the old one back FAILED, so readers may be locked out: rotate again at once, and if that fails set the password by hand to the one in AWSCURRENT (%v; %v)", d.Name, opened.at(), err, refusal)
	}
	return fmt.Errorf("%s refused the new password of %s right after it was set; the old one was put back and works: find out what decides about logins besides the server itself, a proxy or another rotation perhaps (%v)", d.Name, opened.at(), refusal)
}

// prove logs in and out again.
func (d *rotator) prove(ctx context.Context, l Login) error {
	session, err := d.open(ctx, l)
	if err != nil {
		return err
	}
	// The login is the proof; how the session ends proves nothing.
	_ = session.Close(ctx)
	return nil
}

// open logs in, within the share of the time left that a login may take.
func (d *rotator) open(ctx context.Context, l Login) (Session, error) {
	limit := maxLogin
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/share)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return d.Open(ctx, l)
}
