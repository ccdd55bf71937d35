package database

import (
	"context"
	"errors"
	"fmt"

	"github.com/rekeyhq/rekey/rotators"
)

// changeOwn has the user change its own password: strategies single-user and
// overlap without an admin. With single-user, three logins with the one that Test
// makes, none of them refused, if all is well.
func (a *attempt) changeOwn(ctx context.Context) error {
	session, held, err := a.enter(ctx, a.current)
	if none := (*unproved)(nil); errors.As(err, &none) {
		// Not wrapped: what was refused is every password rekey knows, not the
		// credential this call is about.
		return rotators.Permanent(fmt.Errorf("%s refuses the current password of %s and every other one this secret has held: see that the user has not expired, set its password by hand to the one in AWSCURRENT, then rotate again (%v)", a.Name, a.current, none))
	}
	if err != nil {
		return err
	}
	defer session.Close(context.WithoutCancel(ctx))
	accept, err := a.wanted(ctx, held)
	if err != nil || len(accept) == 0 {
		return err
	}
	return a.change(ctx, session, held, func() error {
		return session.SetPasswords(ctx, a.pending.User, accept...)
	})
}
