package rotators

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"
)

// Rotation is one attempt to replace one secret. Fields may be added, so write
// literals of it with field names.
type Rotation struct {
	// ID is the ARN of the secret or parameter. Errors may name it.
	ID string
	// Token identifies the attempt: the same in every step and every retry of
	// it, and in no other. Use it as the idempotency key towards a target.
	Token string

	// Current is what readers get now. It is set for Create, Set and Retire.
	Current Secret
	// Pending is the value to move to. It is set for Set and Test. In the dry
	// test that Secrets Manager runs when a schedule is configured, it is the
	// current value.
	Pending Secret

	// Previous reads what readers got before Current; the zero Secret if there
	// is none. In Retire it is the value to withdraw.
	Previous func(context.Context) (Secret, error)
	// Leftovers yields values that were stored once and that readers no longer
	// get, newest first: what attempts that were abandoned half way may have
	// left the target with. Read it only when nothing else is accepted.
	Leftovers func(context.Context) iter.Seq2[Secret, error]
	// Use reports what the secret holds a credential for at this moment; holds reports
	// whether a value contains the credential. Call Use right before each revocation of a
	// credential that Create made outside: any list read earlier may be out of date. An
	// error means that another run or a person has changed the secret since this step
	// began, or that a version cannot be read. Then revoke nothing, and return an error
	// that wraps this one.
	Use func(ctx context.Context, holds func(Secret) bool) (Use, error)
	// Lookup reads another secret, by ARN or name, or a parameter, as
	// "ssm:/path": an admin's login, usually. To a login that RDS manages, whose
	// value is a user and a password only, it adds the host, the port and the
	// engine that RDS says it is for.
	Lookup func(ctx context.Context, ref string) (Secret, error)
	// Vouches tells whether the owner of what Lookup reads has written, in its
	// tag rekey:admin-for, that it may act for this secret. Without that word an
	// admin acts only for those who prove that they hold the credential now:
	// else whoever can write a secret could have any password changed.
	Vouches func(ctx context.Context, ref string) (bool, error)

	// Settings is what the owner asked for.
	Settings Settings
	// Limits is what the operator of the function allows, whatever Settings ask for.
	Limits Limits
}

// Use is what a secret holds a credential for: the most that any of its versions does.
type Use int

const (
	// Unused: no application can hold it any more, if any ever did. No version holds it,
	// or only such as lost their labels before the version that was retired last.
	Unused Use = iota
	// Former: applications may hold it, although they no longer get it. The version
	// before the current one, the one that an order to retire names or, until that is
	// carried out, one without a label holds it. A label of the owner's own makes each of
	// them InUse.
	Former
	// InUse: the current version holds it, the pending one, or one with a label that the
	// owner has given it.
	InUse
)

// Rotator makes, installs and proves credentials of one kind. Implementations
// are safe for concurrent use and keep nothing between calls: each call may
// come in another process.
type Rotator interface {
	// Create returns the whole next value: Current with what is rotated
	// replaced. It must leave Current working. It may run twice for one token,
	// when the first run's value was lost before it could be stored; what the
	// first run left at the target is then Create's to find and remove.
	//
	// Any error ends the attempt for now and it is run again; IsPermanent is
	// reported as needing a person.
	Create(ctx context.Context, r Rotation) (Secret, error)

	// Set has the target accept Pending. It returns nil if the target already
	// does. When it returns an error, some value the store holds must still be
	// accepted. A change that is refused at once is undone inside Set, while
	// the means to undo it are still at hand; nothing is undone later.
	//
	// Refuse, with Permanent, to act for another account or on another host
	// than Current names: whoever can write a secret would otherwise choose
	// whose password is changed.
	Set(ctx context.Context, r Rotation) error

	// Test proves that the target accepts Pending, and changes nothing. It must
	// stand alone: Secrets Manager also calls it with no Create and no Set
	// before it. It returns an error wrapped in Refused if the target says that
	// Pending is wrong, and a plain error if it cannot tell.
	Test(ctx context.Context, r Rotation) error
}

// Retirer may be implemented by a Rotator whose old values outlive promotion:
// a second key, a second password. A Rotator whose Set replaces the old value
// has nothing to retire.
type Retirer interface {
	// Grace tells how long what readers got before stays valid after a promotion
	// with these settings: what the owner set, else what is usual for this
	// rotator. Negative: nothing outlives the promotion, and there is nothing to
	// retire.
	Grace(s Settings) time.Duration

	// Retire has the target accept Current only; nil if that is so already, and
	// nil if what is to be retired is gone. Previous is the value to withdraw.
	// It runs after promotion, and again until it has succeeded. The engine
	// proves with Test, right before, that Current works, and afterwards that
	// Previous is refused and Current accepted.
	Retire(ctx context.Context, r Rotation) error
}

// Discarder may be implemented by a Rotator whose Create makes something outside: a
// key that an issuer mints. Before such a Create it is made sure that the KMS key the
// value is to be encrypted with can be used. It is used only for secrets whose tag
// rekey:rotator names it, and not by the field "engine" of a value.
type Discarder interface {
	// Discard removes what Create made for Pending, which will not be promoted: it could
	// not be stored, another run of the same attempt had stored its own value by then, or
	// somebody else changed Current meanwhile, and that stays. Pending itself is no use in
	// the sense of Rotation.Use. What a version in use holds too is left alone, and so is
	// what applications may hold: the error then wraps ErrFormer. Discard may never run,
	// after a crash: the next Set or Create finds then what was left.
	Discard(ctx context.Context, r Rotation) error
}

// Recognizer may be implemented by a Rotator that can tell a value of its own making
// from one that somebody else stored: whoever may write a secret and start a rotation
// can store a pending value before Create runs, and so choose the new credential.
type Recognizer interface {
	// Recognize returns nil if Create may have made Pending of Current, and else a
	// permanent error that says what Create would not have made. It makes no outside
	// call. It is asked before Set; what it does not recognize is then refused, unless the
	// target accepts it already.
	Recognize(r Rotation) error
}

// ErrFormer says that a credential was not discarded, because a version that
// applications got before holds it: it is to be retired when its grace is over.
var ErrFormer = errors.New("applications may hold the credential, so it is not discarded")

// Registry holds the rotators a function can use, by the name owners write in
// the rekey:rotator tag or in the engine field of a value. It is a literal in
// main: a duplicate name does not compile, and only what is listed is linked.
type Registry map[string]Rotator

// Names lists the registry in order, for error messages.
func (r Registry) Names() []string {
	return slices.Sorted(maps.Keys(r))
}
