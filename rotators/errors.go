package rotators

import "errors"

// Permanent marks err as one that no retry cures: a person must act. The
// attempt fails as with any error; the mark goes into the log and the alarms.
// Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

// IsPermanent tells whether err, or an error it wraps, was made by Permanent.
func IsPermanent(err error) bool {
	var p *permanent
	return errors.As(err, &p)
}

// Refused marks err as the target's own statement that this credential is
// wrong. Use it for nothing else: with a single password, "refused" is what
// sends the engine looking for the value the target does accept.
// Refused(nil) is nil.
func Refused(err error) error {
	if err == nil {
		return nil
	}
	return &refused{err}
}

// IsRefused tells whether err, or an error it wraps, was made by Refused.
func IsRefused(err error) bool {
	var r *refused
	return errors.As(err, &r)
}

type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

type refused struct{ err error }

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }
