package database

import (
	"context"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

const (
	// maxLogin is how long a login may take at most. A login that is not through
	// after ten seconds has met a firewall or a server that is lost.
	maxLogin = 10 * time.Second
	// share is the part of the time left that one login may take, so that the
	// few that Set makes leave time to say which one failed.
	share = 3
)

// New returns the rotator for an engine.
//
// The value it rotates is a JSON object or a connection string with the fields host, username,
// password and, if they are not the engine's defaults, port and dbname. In place
// of a host, dbInstanceIdentifier or dbClusterIdentifier may name a database of
// RDS. The connection uses TLS with a verified certificate unless the field ssl
// is false (in a connection string: sslmode=disable).
func New(e Engine) rotators.Rotator { return &rotator{e} }

type rotator struct{ Engine }

// Create replaces the password in the value and, with alternating users, the
// user by its twin. Nothing outside is touched.
func (d *rotator) Create(_ context.Context, r rotators.Rotation) (rotators.Secret, error) {
	plan, err := d.plan(r.Settings, r.Current)
	if err != nil {
		return rotators.Secret{}, err
	}
	current, err := d.login(r.Current)
	if err == nil {
		err = permitted(r.Limits, current)
	}
	if err != nil {
		return rotators.Secret{}, err
	}
	next, err := d.next(plan, current.User)
	if err != nil {
		return rotators.Secret{}, err
	}
	password, err := r.Settings.Password.Generate(d.Length, d.Alphabet)
	if err != nil {
		return rotators.Secret{}, err
	}
	// The password first: the old one might hold the old user's name.
	value, err := r.Current.Replace("password", password)
	if err != nil || next == current.User {
		return value, err
	}
	return value.Replace("username", rotators.NewSecret(next))
}

var _ rotators.Recognizer = (*rotator)(nil)

// Recognize implements rotators.Recognizer: Create replaces the password by a generated
// one and, with alternating users, the user by its clone.
func (d *rotator) Recognize(r rotators.Rotation) error {
	a, err := d.newAttempt(r)
	if err != nil {
		return err
	}
	return r.Settings.Password.Generated(a.pending.Password, d.Length, d.Alphabet)
}

// Set has the server take the pending password, by the strategy that the owner
// chose, and proves it by a login of its own before it lets go of the session
// that made the change.
func (d *rotator) Set(ctx context.Context, r rotators.Rotation) error {
	a, err := d.newAttempt(r)
	if err != nil {
		return err
	}
	return a.onWriter(ctx, func() error {
		defer a.dismiss(ctx)
		switch {
		case a.admin == "":
			return a.changeOwn(ctx)
		case a.toTwin():
			return a.changeTwin(ctx)
		default:
			return a.changeByAdmin(ctx)
		}
	}, a.pending, true)
}

// Test logs in with the pending password.
func (d *rotator) Test(ctx context.Context, r rotators.Rotation) error {
	if _, err := d.plan(r.Settings, r.Pending); err != nil {
		return err
	}
	pending, err := d.login(r.Pending)
	if err != nil {
		return err
	}
	place, err := d.place(ctx, r.Pending, pending)
	if err != nil {
		return err
	}
	return d.begin(r).prove(ctx, pending.at(place.Host, place.Port))
}

// attempt is one Set under way, or one Retire. For Retire, pending is what the
// user of the previous value is to be left with.
type attempt struct {
	*rotator
	plan
	r                rotators.Rotation
	current, pending Login // as the values have them
	network          network

	// Where the change is made, and by whom. Both are known before the first login: a
	// proof made elsewhere proves nothing there.
	place   Place
	located bool    // RDS was asked for the place
	by      Login   // the admin's login; the zero Login without an admin
	proofs  []proof // for engines whose users are several accounts; made at place

	session Session            // the admin's, while there is one
	records map[string]reading // by user, of that session
	word    *bool              // whether the admin's owner vouches; nil: not asked yet
}

// begin returns an attempt that knows the limits, and nothing yet of the values.
func (d *rotator) begin(r rotators.Rotation) *attempt {
	return &attempt{rotator: d, r: r, network: network{limits: r.Limits}}
}

// newAttempt reads what there is to do, and refuses to act for another account
// than the current value is for.
func (d *rotator) newAttempt(r rotators.Rotation) (a *attempt, err error) {
	a = d.begin(r)
	if a.plan, err = d.plan(r.Settings, r.Current); err != nil {
		return nil, err
	}
	if a.current, err = d.login(r.Current); err != nil {
		return nil, err
	}
	if a.pending, err = d.login(r.Pending); err != nil {
		return nil, fmt.Errorf("the pending value: %w", err)
	}
	want := a.current
	if want.User, err = d.next(a.plan, a.current.User); err != nil {
		return nil, err
	}
	if field := want.differs(a.pending); field != "" {
		return nil, rotators.Permanent(fmt.Errorf("the field \"%s\" was changed while a rotation was under way: the pending value would change the password of %s, and this rotation is to change that of %s; cancel this rotation and start it again", field, a.pending, want))
	}
	return a, nil
}

// prove logs in and out again.
func (a *attempt) prove(ctx context.Context, l Login) error {
	session, err := a.open(ctx, l)
	if err != nil {
		return err
	}
	// The login is the proof; how the session ends proves nothing.
	_ = session.Close(ctx)
	return nil
}

// open logs in, within the share of the time left that a login may take.
func (a *attempt) open(ctx context.Context, l Login) (Session, error) {
	if err := permitted(a.r.Limits, l); err != nil {
		return nil, err
	}
	l.network = &a.network
	limit := maxLogin
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/share)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return a.Open(ctx, l)
}
