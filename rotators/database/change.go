package database

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// putBackTime is how long putting a password back may take, whatever is left of
// the caller's time: a change and a login.
const putBackTime = 5 * time.Second

// change makes a change through session and proves the pending password by a
// fresh login on the same server, before session ends, and with it the current
// one, if that is kept. slot is a session of the user whose password changes, which has
// kept a connection free for the proof and ends right before that. held is the login that
// worked before, which is put back if the proof is answered by anything but a login; the
// zero Login if there is none.
func (a *attempt) change(ctx context.Context, session, slot Session, held Login, do func() error) error {
	pending := a.here(a.pending)
	if err := do(); err != nil {
		return fmt.Errorf("changing the password of %s: %w", pending, err)
	}
	_ = end(ctx, slot)
	err := a.proveChange(ctx, pending)
	if err == nil && a.keepsCurrent(held) {
		if err = a.proveKept(ctx, held); err != nil {
			err = fmt.Errorf("beside it the current one: %w", err)
		}
	}
	switch {
	case err == nil:
		return nil
	case isAnswer(err):
		return a.putBack(ctx, session, held, err, held.Password)
	default:
		// Whether the new password works is not known. It is the stored one, so
		// the next attempt finds out.
		return fmt.Errorf("the password of %s was changed but could not be tried, so the rotation must run again: %w", pending, err)
	}
}

// proveChange logs in with the pending password. For a twin it also proves that
// the login has the base's rights.
func (a *attempt) proveChange(ctx context.Context, pending Login) error {
	session, err := a.open(ctx, pending)
	if err != nil {
		return err
	}
	defer end(ctx, session)
	if !a.toTwin() {
		return nil
	}
	return session.(Twinner).ProveTwin(ctx, a.current.User)
}

// proveKept proves that the current password goes on working. An admin that can see what
// the server has stored sees it there, after a login with it before the change: that
// spares a login.
func (a *attempt) proveKept(ctx context.Context, held Login) error {
	delete(a.records, held.User)
	if record, err := a.record(ctx, held.User); err == nil && record.Barred == "" {
		if has, _ := record.has(held.Password); has {
			return nil
		}
	}
	return a.prove(ctx, held)
}

// putBack restores the passwords that worked before, because a login with the new one was
// answered by something else than a welcome, and returns the error that Set or Retire is
// to return. held is a login with one of them; the zero Login if none is known, and then a
// session that has read the hashes puts these back. The error is never a refusal: no
// credential that the caller knows is wrong.
func (a *attempt) putBack(ctx context.Context, session Session, held Login, said error, accept ...rotators.Secret) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTime)
	defer cancel()
	err := ErrUnread
	if s, ok := session.(Recorder); ok {
		err = s.PutBack(ctx, a.pending.User)
	}
	known := !held.Password.IsZero()
	if known && errors.Is(err, ErrUnread) {
		err = session.SetPasswords(ctx, held.User, accept...)
	}
	var untried error
	if err == nil && known {
		if untried = a.prove(ctx, held); rotators.IsRefused(untried) {
			err, untried = untried, nil
		}
	}

	happened := fmt.Sprintf("%s refused the new password of %s right after it was set", a.Name, a.here(a.pending))
	advice := "find out what decides about logins besides the server itself, a proxy or another rotation perhaps"
	switch {
	case errors.Is(said, ErrPooler):
		happened = fmt.Sprintf("a pooler before %s refused the new password of %s right after it was set", a.Name, a.here(a.pending))
		advice = "have the pooler ask the server for passwords and keep none of its own (PgBouncer: auth_query), or rotate at the server's own address"
	case !rotators.IsRefused(said):
		happened = fmt.Sprintf("%s did not let %s in with the new password right after it was set", a.Name, a.here(a.pending))
		advice = "see what the answer says, then rotate again"
	}
	switch {
	case errors.Is(err, ErrUnread):
		err = fmt.Errorf("%s, and this secret held none that could be put back: %s (%v)", happened, advice, said)
	case err != nil:
		err = fmt.Errorf("%s, and putting the old one back FAILED, so whoever uses it may be locked out: rotate again at once, and if that fails set the password by hand to that of the current version, or for a user that applications have left to that of the previous version (%v; %v)", happened, err, said)
	case untried != nil:
		err = fmt.Errorf("%s; the old one was put back, and could not be tried: %s (%v; %v)", happened, advice, untried, said)
	case !known:
		err = fmt.Errorf("%s; the server has again what it had before, which no password of this secret is: %s (%v)", happened, advice, said)
	default:
		err = fmt.Errorf("%s; the old one was put back and works: %s (%v)", happened, advice, said)
	}
	if rotators.IsPermanent(said) || errors.Is(said, ErrPooler) {
		return rotators.Permanent(err)
	}
	return err
}

// hurry is how long each session takes to end once the step has no time left: there may be
// several of them, and together they must not take the second that the function needs to say
// why the step failed.
const hurry = 100 * time.Millisecond

// end ends a session, also if the step has no time left.
func end(ctx context.Context, s Session) error {
	over := context.WithoutCancel(ctx)
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		over, cancel = context.WithTimeout(over, hurry)
		defer cancel()
	}
	return s.Close(over)
}
