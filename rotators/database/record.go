package database

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// Recorder is a Session that can read what the server has stored of a user, as an
// admin's session can, where the server lets that admin.
type Recorder interface {
	Session

	// Record reads what the server has stored of a user.
	Record(ctx context.Context, user string) (Record, error)
	// PutBack undoes what this session has changed of a user's passwords: the server
	// accepts what it accepted before, also passwords that only their hashes tell. The
	// error wraps ErrUnread, and nothing has changed, if this session may not read hashes,
	// or has changed nothing of the user.
	PutBack(ctx context.Context, user string) error
}

// ErrUnread is wrapped by the error of a PutBack that does not know what to put back.
var ErrUnread = errors.New("the stored passwords were not read")

// Record is what a server has stored of a user. The zero Record knows nothing.
type Record struct {
	// Barred says why the server lets the user in by no password, as a sentence about the
	// user goes on: "has expired". Empty: nothing stored keeps the user out.
	Barred string
	// Has reports whether the server has stored a password as one of the user's. known is
	// false where hashes do not tell. Nil: they never do.
	Has func(password rotators.Secret) (has, known bool)
}

// has reports what Has does.
func (r Record) has(password rotators.Secret) (has, known bool) {
	if r.Has == nil {
		return false, false
	}
	return r.Has(password)
}

// bars returns why a login that the server has refused was not refused for its password;
// nil if the record does not say so. Nobody overwrites the password of such a user: it is
// right, or would be of no use, and applications may log in from elsewhere with it.
func (r Record) bars(refused Login, refusal error) error {
	has, _ := r.has(refused.Password)
	switch {
	case r.Barred != "":
		return rotators.Permanent(fmt.Errorf("%s %s, so no password logs in and none was changed: mend that, or rotate another user (%v)", refused, r.Barred, refusal))
	case has:
		return rotators.Permanent(fmt.Errorf("the password of %s is right, the server has stored it, and this login was refused all the same, so nothing was changed: see from where that user may log in (its host, pg_hba.conf, an anonymous account), whether it is to show a certificate (REQUIRE), and whether it is locked or has expired (%v)", refused, refusal))
	}
	return nil
}

// record reads, as the admin, what the server has stored of a user. It is the zero Record
// where there is no admin, or one that cannot read. A record is read once.
func (a *attempt) record(ctx context.Context, user string) (Record, error) {
	if a.admin == "" {
		return Record{}, nil
	}
	read, ok := a.records[user]
	if !ok {
		read.record, read.err = a.look(ctx, user)
		if a.records == nil {
			a.records = map[string]reading{}
		}
		a.records[user] = read
	}
	return read.record, read.err
}

// glance is record before anything has proved the secret to be the rightful one: without
// the word of the admin's owner, the admin is not used then, and the zero Record is all.
func (a *attempt) glance(ctx context.Context, user string) (Record, error) {
	if a.session == nil {
		if vouched, err := a.vouched(ctx); err != nil || !vouched {
			return Record{}, err
		}
	}
	return a.record(ctx, user)
}

// vouched reports whether the admin's owner vouches for this secret.
func (a *attempt) vouched(ctx context.Context) (bool, error) {
	if a.admin == "" || a.r.Vouches == nil || strings.HasPrefix(a.admin, iamPrefix) {
		return false, nil
	}
	if a.word == nil {
		vouched, err := a.r.Vouches(ctx, a.admin)
		if err != nil {
			return false, err
		}
		a.word = &vouched
	}
	return *a.word, nil
}

// reading is a Record, or why there is none.
type reading struct {
	record Record
	err    error
}

func (a *attempt) look(ctx context.Context, user string) (Record, error) {
	session, err := a.openAdmin(ctx)
	if err != nil {
		return Record{}, err
	}
	recorder, ok := session.(Recorder)
	if !ok {
		return Record{}, nil
	}
	record, err := recorder.Record(ctx, user)
	if err != nil {
		return Record{}, fmt.Errorf("looking at user %q: %w", user, err)
	}
	return record, nil
}

// noSession stands for a session where none was made.
type noSession struct{ Session }

func (noSession) Close(context.Context) error { return nil }

// answer is an error of Open that was made by Answered.
type answer struct{ error }

func (a answer) Unwrap() error { return a.error }

// Answered marks the error of a login that the server, or what stands before it, has
// answered: it will not have this login now, for whatever reason. Without the mark, or that
// of rotators.Refused, an error says that nothing was heard.
func Answered(err error) error { return answer{err} }

// isAnswer reports whether an error of Open is an answer.
func isAnswer(err error) bool {
	return errors.As(err, new(answer)) || rotators.IsRefused(err)
}
