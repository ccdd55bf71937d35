package database

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/rekeyhq/rekey/rotators"
)

var _ rotators.Retirer = (*rotator)(nil)

// Grace is a day with overlap, unless the owner says otherwise. Of alternating
// users the one that readers no longer use keeps its password until its turn
// comes, unless the owner sets a grace. With single-user nothing is left.
func (d *rotator) Grace(s rotators.Settings) time.Duration {
	switch {
	case s.Strategy == singleUser:
		return -1
	case s.Strategy == overlap && s.Grace < 0:
		return overlapGrace
	default:
		return s.Grace
	}
}

// Retire has the server refuse the previous password. If it is of the current
// value's user, that user is left with the current password alone. If it is of its
// twin, the twin gets a password that only the current value tells: the next
// rotation must prove again that the twin is this secret's.
//
// What was set is seen from the previous value, not from the strategy, which the
// owner may have changed since. A previous value for another account or server
// than the current one's is nothing to change: the engine finds out whether it
// still works.
func (d *rotator) Retire(ctx context.Context, r rotators.Rotation) error {
	previous, err := r.Previous(ctx)
	if err != nil || previous.IsZero() {
		return err
	}
	a := d.begin(r)
	if a.plan, err = d.plan(r.Settings, r.Current); err != nil {
		return err
	}
	if a.current, err = d.login(r.Current); err != nil {
		return err
	}
	was, err := d.login(previous)
	if err != nil {
		return fmt.Errorf("the value to retire: %w", err)
	}
	// But for user and password all is taken from the current value, so that an
	// old one does not decide where a password is sent, or how. The old password goes
	// only where the old value's went, and not with less TLS.
	old := a.current
	old.User, old.Password = was.User, was.Password
	old.Plaintext = old.Plaintext && was.Plaintext
	old.Nodes = a.current.nodesOf(was)
	a.pending = a.current
	if !a.Nodes && twins(old.User, a.current.User) {
		a.pending.User, a.pending.Password = old.User, d.retired(a.current.Password, old.User)
	}
	if !was.entrusts(old) || old.User != a.pending.User || old.Password.Equal(a.pending.Password) {
		return nil
	}
	return a.onWriter(ctx, func() error {
		defer a.dismiss(ctx)
		return a.withdraw(ctx, old)
	}, old, false)
}

// withdraw leaves the user of the old login with the pending password alone. With an
// admin it takes one connection of that user at a time. A user that changes itself keeps
// the one that makes the change, to put the old password back, and lets go of it only if
// the server has no other for the proof.
func (a *attempt) withdraw(ctx context.Context, old Login) error {
	old = a.here(old)
	var user Session = noSession{} // of the user that is changed
	if !a.Nodes {
		// With several servers, that one refuses the old password does not say that all do.
		session, err := a.enterOld(ctx, old)
		if session == nil {
			return err
		}
		user = session
	}
	defer func() { _ = end(ctx, user) }()
	if old.User == a.current.User {
		_ = end(ctx, user)
	}
	// Nothing is withdrawn that readers cannot do without.
	reader, err := a.open(ctx, a.here(a.current))
	switch {
	case rotators.IsRefused(err):
		return notRefused(fmt.Errorf("the password of %s was not withdrawn, because the current one does not work: rotate again (%w)", old, err))
	case err != nil:
		return fmt.Errorf("the password of %s was not withdrawn, because the current one could not be tried: %w", old, err)
	}
	if old.User == a.current.User {
		user = reader
	} else {
		_ = end(ctx, reader)
	}
	by := user
	if a.admin != "" {
		_ = end(ctx, user)
		if by, err = a.openAdmin(ctx); err != nil {
			return err
		}
	}
	pending := a.here(a.pending)
	if err := by.SetPasswords(ctx, pending.User, pending.Password); err != nil {
		return fmt.Errorf("withdrawing the password of %s: %w", old, err)
	}
	err = a.prove(ctx, pending)
	if a.admin == "" && isAnswer(err) && !rotators.IsRefused(err) {
		_ = end(ctx, user)
		if err = a.prove(ctx, pending); err != nil {
			return notRefused(fmt.Errorf("the password of %s was withdrawn, but the current one could not be tried then: %w", old, err))
		}
	}
	switch {
	case err == nil && a.Nodes:
		return a.refusedByAll(ctx, old)
	case err == nil:
		return nil
	case isAnswer(err) && old.User == a.current.User:
		return a.putBack(ctx, by, old, err, a.current.Password, old.Password)
	case isAnswer(err):
		return a.putBack(ctx, by, old, err, old.Password)
	default:
		return fmt.Errorf("the password of %s was withdrawn, but what it was replaced by could not be tried: %w", old, err)
	}
}

// enterOld logs in with the password to be withdrawn. Session and error are nil if the
// server takes it no more; it is not tried if the admin sees that.
func (a *attempt) enterOld(ctx context.Context, old Login) (Session, error) {
	record, err := a.record(ctx, old.User)
	if err != nil {
		return nil, err
	}
	has, known := record.has(old.Password)
	if known && !has {
		return nil, nil
	}
	session, err := a.open(ctx, old)
	switch {
	case err == nil:
		a.proved(old, session)
		return session, nil
	case errors.Is(err, ErrLocked), rotators.IsRefused(err) && (!has || record.Barred != ""):
		return nil, nil // whether a locked account still has the password, the engine cannot tell
	case rotators.IsRefused(err):
		return nil, record.bars(old, err)
	}
	return nil, err
}

// refusedByAll proves that each server refuses a login. The engine's own proof is
// over with the first that does.
func (a *attempt) refusedByAll(ctx context.Context, old Login) error {
	for _, at := range old.Servers() {
		switch err := a.prove(ctx, at); {
		case err == nil:
			return fmt.Errorf("%s:%d still accepts the password of user %q that was withdrawn there: find out what else changes its users", at.Host, at.Port, at.User)
		case !rotators.IsRefused(err):
			return err
		}
	}
	return nil
}

// notRefused takes the mark of a refusal off an error.
func notRefused(err error) error {
	if rotators.IsRefused(err) {
		return errors.New(err.Error())
	}
	return err
}

// retired is the password of a user whose own was retired while readers have
// this one. Who does not hold that cannot compute it, and it needs to be stored
// nowhere. It depends on nothing an owner can change between the rotations, and
// holds at least one character of each class that the alphabet has, because many
// servers insist.
func (e Engine) retired(current rotators.Secret, user string) rotators.Secret {
	for n := 0; ; n++ {
		mac := hmac.New(sha256.New, []byte(current.Reveal()))
		fmt.Fprintf(mac, "rekey retired %s", user)
		if n > 0 {
			fmt.Fprintf(mac, "\x00%d", n)
		}
		alphabet, password := []rune(e.Alphabet), []rune(nil)
		for _, b := range mac.Sum(nil)[:min(e.Length, sha256.Size)] {
			password = append(password, alphabet[int(b)%len(alphabet)])
		}
		if strings.IndexFunc(e.Alphabet, func(c rune) bool { return !hasClassOf(string(password), c) }) < 0 {
			return rotators.NewSecret(string(password))
		}
	}
}

// hasClassOf tells whether text holds a character of the class that c is of:
// lower case, upper case, digit or other.
func hasClassOf(text string, c rune) bool {
	class := func(c rune) [3]bool { return [3]bool{unicode.IsLower(c), unicode.IsUpper(c), unicode.IsDigit(c)} }
	return strings.ContainsFunc(text, func(other rune) bool { return class(other) == class(c) })
}
