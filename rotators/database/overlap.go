package database

import (
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
//
// Whether an earlier run has set the pending one already is not tried, since the server
// may count failed logins against readers: to set it again is right too.
func (a *attempt) wanted(held Login) []rotators.Secret {
	switch {
	case held.Password.Equal(a.pending.Password) && !a.Nodes:
		return nil
	case a.keepsCurrent(held):
		return []rotators.Secret{a.pending.Password, a.current.Password}
	default:
		return []rotators.Secret{a.pending.Password}
	}
}

// keepsCurrent tells whether the password that readers have goes on working.
func (a *attempt) keepsCurrent(held Login) bool {
	return a.strategy == overlap && held.Password.Equal(a.current.Password)
}
