package database

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// With overlap, one user has two passwords from Set on: the pending one, and the
// one that readers have. So there is no instant at which what they get is refused.
// The older one goes when it is retired, or when the next rotation makes room for
// a newer one.

// overlapGrace is how long the older of two passwords stays valid if the owner
// does not say: a day, within which most readers fetch a secret anew.
const overlapGrace = 24 * time.Hour

// wanted are the passwords that the pending value's user is to have, newest
// first; none if there is nothing to do. held is the login that was accepted.
//
// The current password is kept if the server accepts it, and is never made one
// that it accepts: whoever can write a secret, but not read it, would else choose
// a password that works. No other password is kept, also if it was the one that
// was accepted.
func (a *attempt) wanted(ctx context.Context, held Login) ([]rotators.Secret, error) {
	if held.Password.Equal(a.pending.Password) {
		return nil, nil
	}
	if !a.keepsCurrent(held) {
		return []rotators.Secret{a.pending.Password}, nil
	}
	// An earlier run may have done it. To do it again would be right too, but for
	// an engine that gets there by way of the current password alone: a run that
	// comes late would take the pending one from readers who get it by now.
	err := a.prove(ctx, a.here(a.pending))
	switch {
	case err == nil:
		return nil, nil
	case rotators.IsRefused(err):
		return []rotators.Secret{a.pending.Password, a.current.Password}, nil
	default:
		return nil, err
	}
}

// keepsCurrent tells whether the password that readers have goes on working.
func (a *attempt) keepsCurrent(held Login) bool {
	return a.strategy == overlap && held.Password.Equal(a.current.Password)
}
