package database

import (
	"context"
	"errors"
	"fmt"

	"github.com/rekeyhq/rekey/rotators"
)

// Of two alternating users one is the base, whose rights they both have, and one
// the twin, which is named after it. Whoever has a change made must have proved
// to hold what it gives away:
//
//   - from base to twin (changeTwin): the twin gets a password and the base's
//     rights. So the base must be proved, which the current password usually
//     does, and the twin, if there is one already.
//   - from twin to base (changeByAdmin): the base gets a password, and must be
//     proved, which the previous password usually does. The twin gives nothing:
//     that it is called after the base proves nothing.
//
// At no point is the current password touched, so readers never notice.

// toTwin tells whether it is the twin's turn. The base's name may itself end like
// a twin's.
func (a *attempt) toTwin() bool {
	return a.strategy == alternatingUsers && a.current.User == base(a.current.User)
}

// changeTwin has the admin give the twin the base's rights and the pending
// password. It does so at every rotation to the twin, also when the twin has that
// password already: a login does not prove the rights.
func (a *attempt) changeTwin(ctx context.Context) error {
	base, _, err := a.possess(ctx, a.current)
	if err != nil {
		return err
	}
	_ = end(ctx, base)
	session, err := a.openAdmin(ctx)
	if err != nil {
		return err
	}
	twinner, ok := session.(Twinner)
	if !ok {
		return rotators.Permanent(fmt.Errorf("%s has no alternating users: set rekey:strategy to single-user", a.Name))
	}
	found, err := twinner.HasUser(ctx, a.pending.User)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", a.here(a.pending), err)
	}
	var slot Session = noSession{}
	var held Login
	if found {
		slot, held, err = a.possess(ctx, a.pending)
		if errors.Is(err, ErrLocked) && !a.wasFinished(ctx, held) {
			// A twin that was not finished. There is nothing to put back.
			a.take(proof{login: held})
			held, err = Login{}, nil
		}
		if err != nil {
			return err
		}
		defer end(ctx, slot)
	}
	return a.change(ctx, session, slot, held, func() error {
		return twinner.EnsureTwin(ctx, a.current.User, a.pending.User, found, a.pending.Password)
	})
}

// wasFinished tells whether a locked twin once was: readers have had the password that
// is right, or it has taken the place of theirs. Then somebody has locked it, and had a
// reason.
func (a *attempt) wasFinished(ctx context.Context, held Login) bool {
	if held.Password.Equal(a.retired(a.current.Password, a.pending.User)) {
		return true
	}
	if a.r.Previous == nil {
		return false
	}
	previous, err := a.r.Previous(ctx)
	if err != nil {
		return true
	}
	was, err := a.login(previous)
	return err == nil && was.User == a.pending.User && was.Password.Equal(held.Password)
}
