package database

import (
	"context"
	"errors"
	"fmt"

	"github.com/rekeyhq/rekey/rotators"
)

// changeOwn has the user change its own password: strategies single-user and
// overlap without an admin. With the login that Test makes there are four, none of them
// refused, if all is well: the one that makes the change; with single-user, before the
// change, one that shows that the proof will have room; the proof; with overlap, the proof
// that the current password goes on working.
func (a *attempt) changeOwn(ctx context.Context) error {
	session, held, err := a.enter(ctx, a.current)
	if none := (*unproved)(nil); errors.As(err, &none) {
		// Not wrapped: what was refused is every password rekey knows, not the
		// credential this call is about.
		return rotators.Permanent(fmt.Errorf("%s refuses the current password of %s and each other one that this secret has held for that user there: see that the user has not expired and need show no certificate; if another secret or parameter holds the same user, its rotation has changed the password, so let one of them hold the user, and give applications that one; if a version for another name of the same server holds the right password, store that with the host of the current version; else have the user and the current version hold the same password again (%v)", a.Name, a.current, none))
	}
	if err != nil {
		return err
	}
	defer end(ctx, session)
	accept := a.wanted(held)
	if len(accept) == 0 {
		return nil
	}
	var slot Session = noSession{}
	if len(accept) == 1 {
		// With two the current password stays, so readers lose nothing if the proof cannot
		// be made.
		if slot, err = a.open(ctx, held); err != nil {
			return notRefused(fmt.Errorf("%s let %s in once and not a second time, which proving a new password takes, so nothing was changed: %w", a.Name, held, err))
		}
		defer end(ctx, slot)
	}
	return a.change(ctx, session, slot, held, func() error {
		return session.SetPasswords(ctx, a.pending.User, accept...)
	})
}
