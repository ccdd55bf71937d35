package database

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

const (
	// How long to wait between two looks whether a replica has a change: most
	// have it within a tenth of a second, some not for a while.
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
	// maxLag is how long a replica is given if the caller has no deadline.
	maxLag = 30 * time.Second
)

// place finds where a value's database is. RDS is asked only for a value without
// a host: secrets that AWS's console makes have an identifier beside the host,
// and functions that rotate them often have no way to RDS's API.
func (d *rotator) place(ctx context.Context, value rotators.Secret, l Login) (Place, error) {
	if l.Host != "" {
		return Place{Host: l.Host, Port: l.Port, Writer: l.Host, WriterPort: l.Port}, nil
	}
	return d.Locator.Locate(ctx, value)
}

// isReplica tells whether changes are made elsewhere than logins go.
func (p Place) isReplica() bool {
	return !sameHost(p.Writer, p.Host) || p.WriterPort != p.Port
}

// here is a login, moved to where changes are made. If the admin's login is by TLS, so
// is this one, whatever its value says: a proof made without TLS may come from somebody
// on the way, and would have the admin change a user of the true server.
func (a *attempt) here(l Login) Login {
	l = l.at(a.place.Writer, a.place.WriterPort)
	l.Plaintext = l.Plaintext && (a.admin == "" || a.by.Plaintext)
	return l
}

// locate asks RDS where changes are made.
func (a *attempt) locate(ctx context.Context) error {
	place, err := a.Locator.Locate(ctx, a.r.Current)
	if err == nil {
		a.move(place)
		a.located = true
	}
	return err
}

// move has changes made at a place. Proofs made elsewhere are forgotten.
func (a *attempt) move(to Place) { a.place, a.proofs = to, nil }

// arrive finds where changes are made, and whose login makes them, before anybody logs
// in there.
func (a *attempt) arrive(ctx context.Context) error {
	place, err := a.rotator.place(ctx, a.r.Current, a.current)
	if err != nil {
		return err
	}
	a.move(place)
	a.located = a.current.Host == ""
	return a.findAdmin(ctx)
}

// findAdmin reads the admin's login, if the plan has an admin. It may move the place.
func (a *attempt) findAdmin(ctx context.Context) (err error) {
	if a.admin != "" {
		a.by, err = a.adminLogin(ctx)
	}
	return err
}

// onWriter makes a change. If the value names a read-only replica, the change is
// made again where RDS says that the replica is written, and then waited for on
// the replica: until that accepts the login shown, or until it refuses it.
func (a *attempt) onWriter(ctx context.Context, change func() error, shown Login, accepted bool) error {
	if err := a.arrive(ctx); err != nil {
		return err
	}
	err := change()
	if errors.Is(err, ErrReadOnly) && !a.located && a.Locator != nil {
		if lost := a.locate(ctx); lost != nil {
			return fmt.Errorf("%w; and where it is written could not be found: %w", err, lost)
		}
		if a.place.isReplica() {
			if err := a.findAdmin(ctx); err != nil {
				return err
			}
			err = change()
		}
	}
	if err != nil || !a.place.isReplica() {
		return err
	}
	return a.awaitReplica(ctx, shown.at(a.place.Host, a.place.Port), accepted)
}

// awaitReplica waits until the endpoint that the value names, which is not where
// the change was made, accepts or refuses a login. What it answers so soon after
// the change says only that the replica lags behind.
func (a *attempt) awaitReplica(ctx context.Context, replica Login, accepted bool) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(maxLag)
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := a.prove(ctx, replica)
		if err != nil && !rotators.IsRefused(err) {
			return fmt.Errorf("the password of %s was changed at %s:%d, and could not be tried at the replica: %w", replica, a.place.Writer, a.place.WriterPort, err)
		}
		if (err == nil) == accepted {
			return nil
		}
		// As much again is kept for one more login.
		if time.Until(deadline) < 2*pause {
			return fmt.Errorf("the password of %s was changed at %s:%d, and the replica has not heard of it yet: it lags behind, so run this again, and if that does not help look at its replication", replica, a.place.Writer, a.place.WriterPort)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for the replica at %s:%d: %w", a.place.Host, a.place.Port, ctx.Err())
		}
	}
}
