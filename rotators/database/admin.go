package database

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rekeyhq/rekey/internal/account"
	"github.com/rekeyhq/rekey/rotators"
)

// iamPrefix starts an admin that is a user IAM lets in: iam:USER.
const iamPrefix = "iam:"

// changeByAdmin has the admin change the password of the pending value's user,
// and nothing else of it.
func (a *attempt) changeByAdmin(ctx context.Context) error {
	slot, held, err := a.possess(ctx, a.pending)
	if err != nil {
		return err
	}
	defer end(ctx, slot)
	accept := a.wanted(held)
	if len(accept) == 0 {
		return nil
	}
	session, err := a.openAdmin(ctx)
	if err != nil {
		return err
	}
	return a.change(ctx, session, slot, held, func() error {
		return session.SetPasswords(ctx, a.pending.User, accept...)
	})
}

// possess proves that this secret is the rightful one of an account, whose
// password or rights the admin is to give away. It returns the session that proved it,
// and what it logged in with: noSession and the zero Login if the admin's owner vouches
// for the secret instead, and nothing keeps the account's user out but the password. With
// an error that wraps ErrLocked the login is the one whose password was right.
func (a *attempt) possess(ctx context.Context, account Login) (Session, Login, error) {
	session, held, err := a.enter(ctx, account)
	if err == nil {
		a.proved(held, session)
		return session, held, nil
	}
	none := (*unproved)(nil)
	if !errors.As(err, &none) {
		return noSession{}, held, err
	}
	vouched, err := a.vouched(ctx)
	if err != nil {
		return noSession{}, Login{}, err
	}
	if vouched {
		record, err := a.record(ctx, account.User)
		if err == nil {
			err = record.bars(a.here(account), none)
		}
		return noSession{}, Login{}, err
	}
	return noSession{}, Login{}, rotators.Permanent(fmt.Errorf("the admin %s does not act for %s, because this secret does not prove that it may: no password it has held logs in as that user; set that user's password by hand to one this secret holds, drop the user if it is a leftover, or name this secret in the tag rekey:admin-for of the admin's secret (%v)", a.admin, a.here(account), none))
}

// adminLogin reads the admin's login. It refuses an admin of another server than
// the one whose user is to be changed: only a value that the admin's own owner
// wrote decides where the admin's password is sent. Its errors name no field of that
// value, because the owner of the rotated secret may not be allowed to read it.
func (a *attempt) adminLogin(ctx context.Context) (Login, error) {
	if user, ok := strings.CutPrefix(a.admin, iamPrefix); ok {
		return a.iamLogin(ctx, user)
	}
	if a.r.Lookup == nil {
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s cannot be read: no other secrets can be looked up here", a.admin))
	}
	value, err := a.r.Lookup(ctx, a.admin)
	if err != nil {
		return Login{}, fmt.Errorf("the admin %s: %w", a.admin, err)
	}
	l, err := a.login(value)
	if err == nil {
		err = permitted(a.r.Limits, l)
	}
	if err != nil {
		return Login{}, fmt.Errorf("the admin %s: %w", a.admin, err)
	}
	// An identifier in the admin's value names a database of the admin's account, where
	// the rotated secret's account may have another one of that name.
	place, err := a.rotator.place(account.Of(ctx, a.admin), value, l)
	if err != nil {
		return Login{}, &unsaid{fmt.Sprintf("the database that the admin %s names by an RDS identifier was not found in the admin's account and this region: correct that value, or allow the function to ask RDS there", a.admin), err}
	}
	l = l.at(place.Writer, place.WriterPort)
	if a.Database != "" {
		// A pooler leads to another server for each database, so a proof made in one counts
		// for that one.
		l.Database = a.current.Database
	}

	why := ""
	if !a.isWriter(l) && !a.located && a.Locator != nil {
		// The value may name a replica.
		err := a.locate(ctx)
		if err != nil && !rotators.IsPermanent(err) {
			return Login{}, err
		}
		if err != nil {
			why = fmt.Sprintf(" (%v)", err)
		}
	}
	if !a.isWriter(l) {
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s is for another server than %s:%d, where user %q is changed, so the admin is not used: name one of that server, or correct the field \"host\" or \"port\" of the value that is wrong%s", a.admin, a.place.Writer, a.place.WriterPort, a.pending.User, why))
	}
	if l.Nodes != a.current.Nodes {
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s is for other nodes beside its host than the value, so the admin is not used: list the same servers in the field \"nodes\" of both", a.admin))
	}
	return l, a.checkAdmin(l.User)
}

// unsaid is an error whose cause names fields of an admin's value.
type unsaid struct {
	text  string
	cause error
}

func (u *unsaid) Error() string { return u.text }
func (u *unsaid) Unwrap() error { return u.cause }

// iamLogin makes the login of an admin that IAM lets in. It has no value of its
// own that could name a server, and needs none: the token is good for one user
// at one server only.
func (a *attempt) iamLogin(ctx context.Context, user string) (Login, error) {
	switch {
	case a.IAMToken == nil:
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s: %s knows no IAM logins: name a secret in rekey:admin", a.admin, a.Name))
	case a.r.Limits.DelegatedAdmins:
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s is not used: this function takes only admins whose tag rekey:admin-for names the rotated secret (its environment variable REKEY_ADMINS), and an IAM login has no tags; name an admin's secret in rekey:admin", a.admin))
	case user == "":
		return Login{}, rotators.Permanent(errors.New("the admin iam: lacks a name: write it like iam:USER"))
	case a.current.Plaintext:
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s logs in with TLS only: remove \"ssl\": false from the value", a.admin))
	}
	if !isRDS(a.place.Writer) && !a.located && a.Locator != nil {
		// The value may name a CNAME of the endpoint.
		if err := a.locate(ctx); err != nil {
			return Login{}, fmt.Errorf("the admin %s: %w", a.admin, err)
		}
	}
	if !isRDS(a.place.Writer) {
		return Login{}, rotators.Permanent(fmt.Errorf("the admin %s is not used at %s, which is no name of Amazon RDS: IAM lets nobody in elsewhere, so the token is sent nowhere else; name an admin's secret in rekey:admin", a.admin, a.place.Writer))
	}
	token, err := a.IAMToken(ctx, a.place.Writer, a.place.WriterPort, user)
	if err != nil {
		return Login{}, fmt.Errorf("making the IAM token for the admin %s: %w", a.admin, err)
	}
	l := Login{Host: a.place.Writer, Port: a.place.WriterPort, User: user, Password: token, Database: a.current.Database}
	return l, a.checkAdmin(user)
}

// checkAdmin refuses an admin that would change itself.
func (a *attempt) checkAdmin(user string) error {
	if user == a.current.User || user == a.pending.User {
		return rotators.Permanent(fmt.Errorf("the admin %s is the user %q, which this secret rotates: name another admin, or set rekey:strategy to single-user without one, and the user changes its own password", a.admin, user))
	}
	return nil
}

// openAdmin returns the admin's session, which lasts until dismiss. The error is no
// refusal of the credential that is rotated.
func (a *attempt) openAdmin(ctx context.Context) (Session, error) {
	if a.session != nil {
		return a.session, nil
	}
	session, err := a.open(ctx, a.by)
	if rotators.IsRefused(err) {
		return nil, fmt.Errorf("the admin %s cannot log in: rotate again, and if it stays so correct its password (%v)", a.admin, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the admin %s: %w", a.admin, err)
	}
	a.session = session
	a.tell(session)
	return session, nil
}

// dismiss ends the admin's session, if there is one.
func (a *attempt) dismiss(ctx context.Context) {
	if a.session != nil {
		_ = end(ctx, a.session)
	}
	a.session, a.records = nil, nil
}

// isWriter tells whether a login goes to where changes are made.
func (a *attempt) isWriter(l Login) bool {
	return sameHost(l.Host, a.place.Writer) && l.Port == a.place.WriterPort
}

// sameHost compares host names as DNS does.
func sameHost(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
