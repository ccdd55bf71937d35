package database

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// maxLeftovers is how many abandoned values are tried.
const maxLeftovers = 5

// unproved is the error of enter when no value this secret holds logs in as an
// account. It is never a refusal: no single credential was wrong.
type unproved struct {
	refusal error    // of the last login; nil if there was none
	untried []string // why values for this user were left out
}

func (u *unproved) Error() string {
	text := "it holds none"
	if u.refusal != nil {
		text = u.refusal.Error()
	}
	if len(u.untried) > 0 {
		text += "; not tried, because a password is sent only where its own value says: " + strings.Join(u.untried, ", ")
	}
	return text
}

// leave notes that the password of a value was not tried.
func (u *unproved) leave(why string) {
	if !slices.Contains(u.untried, why) {
		u.untried = append(u.untried, why)
	}
}

// enter logs in as an account with the stored password that works. It returns
// the login that the server accepted.
//
// A password that the server is known not to have is not tried, because the server may
// count failed logins, those of applications among them.
func (a *attempt) enter(ctx context.Context, account Login) (Session, Login, error) {
	none := &unproved{}
	for rung, err := range a.ladder(ctx, account, none) {
		if err != nil {
			return nil, Login{}, err
		}
		var record Record
		if none.refusal != nil || a.session != nil {
			if record, err = a.glance(ctx, account.User); err != nil {
				return nil, Login{}, err
			}
		}
		if has, known := record.has(rung.Password); known && !has {
			continue
		}
		session, err := a.open(ctx, rung)
		if !rotators.IsRefused(err) {
			return session, rung, err
		}
		none.refusal = err
		if record, err = a.glance(ctx, account.User); err == nil {
			err = record.bars(rung, none.refusal)
		}
		if err != nil {
			return nil, Login{}, err
		}
	}
	return nil, Login{}, none
}

// ladder yields what may log in as an account, best first, so that if all is
// well the first one does: the current password; the pending one, which an
// earlier run may have set; the previous one; and those that abandoned attempts
// have left behind. For a user that is not the current value's, the pending
// password comes after the previous one, because before the change the previous
// one works, or if that was retired the one that took its place. All else but the
// password is taken from account, so that an old value decides neither where a password
// is sent nor whether by TLS. Values for other users are left out, and so are values
// that do not entrust their password to where account goes: else whoever can write a
// value, and not read it, could add a server of theirs and be sent an older password.
// none is told which of these are for the same user.
func (a *attempt) ladder(ctx context.Context, account Login, none *unproved) iter.Seq2[Login, error] {
	var tried []rotators.Secret
	with := func(password rotators.Secret) (Login, bool) {
		if slices.ContainsFunc(tried, password.Equal) {
			return Login{}, false
		}
		tried = append(tried, password)
		l := a.here(account)
		l.Password = password
		return l, true
	}
	fresh := func(value rotators.Secret) (Login, bool) {
		l, err := a.login(value)
		if err != nil {
			if user, err := value.Field("username"); err == nil && user.Reveal() == account.User {
				none.leave("that of a version without a server of its own")
			}
			return Login{}, false
		}
		if l.User != account.User {
			return Login{}, false
		}
		if !l.entrusts(account) {
			none.leave(fmt.Sprintf("that of a version for %s", l))
			return Login{}, false
		}
		return with(l.Password)
	}
	// What the account's own password was replaced by when it was retired, while
	// readers had this value, of its twin.
	retired := func(value rotators.Secret) (Login, bool) {
		l, err := a.login(value)
		if err != nil || !twins(l.User, account.User) {
			return Login{}, false
		}
		password := a.retired(l.Password, account.User)
		if !l.entrusts(account) {
			return Login{}, false
		}
		return with(password)
	}
	return func(yield func(Login, error) bool) {
		known := []rotators.Secret{a.r.Current}
		if a.pending.User == a.current.User {
			known = append(known, a.r.Pending)
		}
		for _, value := range known {
			if rung, ok := fresh(value); ok && !yield(rung, nil) {
				return
			}
		}
		var previous rotators.Secret
		if a.r.Previous != nil {
			var err error
			if previous, err = a.r.Previous(ctx); err != nil {
				yield(Login{}, fmt.Errorf("reading the previous value: %w", err))
				return
			}
		}
		before := func() bool {
			for _, value := range []rotators.Secret{a.r.Current, previous} {
				if rung, ok := retired(value); ok && !yield(rung, nil) {
					return false
				}
			}
			return true
		}
		// Where there is a grace, the previous password has been replaced when it is over,
		// and by a rotation within it.
		replaced := a.r.Settings.Grace > 0 && a.strategy == alternatingUsers
		if replaced && !before() {
			return
		}
		if rung, ok := fresh(previous); ok && !yield(rung, nil) {
			return
		}
		if !replaced && !before() {
			return
		}
		if rung, ok := fresh(a.r.Pending); ok && !yield(rung, nil) {
			return
		}
		if a.r.Leftovers == nil {
			return
		}
		left := maxLeftovers
		for value, err := range a.r.Leftovers(ctx) {
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
