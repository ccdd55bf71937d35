package database

import (
	"context"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// putBackTime is how long putting a password back may take, whatever is left of
// the caller's time: a change and a login.
const putBackTime = 5 * time.Second

// change makes a change through session and proves the pending password by a
// fresh login on the same server, before session ends, and with it the current
// one, if that is kept. held is the login that worked before, which is put back if
// the server refuses one of them; the zero Login if there is none.
func (a *attempt) change(ctx context.Context, session Session, held Login, do func() error) error {
	pending := a.here(a.pending)
	if err := do(); err != nil {
		return fmt.Errorf("changing the password of %s: %w", pending, err)
	}
	err := a.proveChange(ctx, pending)
	if err == nil && a.keepsCurrent(held) {
		if err = a.prove(ctx, held); err != nil {
			err = fmt.Errorf("beside it the current one: %w", err)
		}
	}
	switch {
	case err == nil:
		return nil
	case rotators.IsRefused(err):
		return a.putBack(ctx, session, held, err, held.Password)
	default:
		// Whether the new password works is not known. It is the stored one, so
		// the next attempt finds out.
		return fmt.Errorf("the password of %s was changed but could not be tried, so the rotation must run again: %w", pending, err)
	}
}

// proveChange logs in with the pending password. For a twin it also proves that
// the login has the base's rights.
func (a *attempt) proveChange(ctx context.Context, pending Login) error {
	session, err := a.open(ctx, pending)
	if err != nil {
		return err
	}
	defer session.Close(context.WithoutCancel(ctx))
	if !a.toTwin() {
		return nil
	}
	return session.(Twinner).ProveTwin(ctx, a.current.User)
}

// putBack restores the passwords that worked before, because the server has
// refused the new one, and returns the error that Set or Retire is to return. held
// is a login with one of them. The error is never a refusal: no credential that
// the caller knows is wrong.
func (a *attempt) putBack(ctx context.Context, session Session, held Login, refusal error, accept ...rotators.Secret) error {
	if held.Password.IsZero() {
		return fmt.Errorf("%s refused the new password of %s right after it was set, and this secret held none that could be put back: find out what decides about logins besides the server itself, a proxy or another rotation perhaps (%v)", a.Name, a.here(a.pending), refusal)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTime)
	defer cancel()
	err := session.SetPasswords(ctx, held.User, accept...)
	if err == nil {
		err = a.prove(ctx, held)
	}
	if err != nil {
		return fmt.Errorf("%s refused the new password of %s right after it was set, and putting the old one back FAILED, so whoever uses it may be locked out: rotate again at once, and if that fails set the password by hand to the one in AWSCURRENT, or for the second of two alternating users in AWSPREVIOUS (%v; %v)", a.Name, held, err, refusal)
	}
	return fmt.Errorf("%s refused the new password of %s right after it was set; the old one was put back and works: find out what decides about logins besides the server itself, a proxy or another rotation perhaps (%v)", a.Name, held, refusal)
}
