package rotation

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// Attempt is what a store knows about one attempt without reading a value.
type Attempt struct {
	ID    string // ARN of the secret or parameter
	Token string
	State State
	Tags  Tags

	// Names of versions, as the store names them; "" for none. Current is what
	// readers get. Previous is the version to retire if Tags.Retire names one,
	// and else the one readers got before Current.
	Current, Previous string
	// Former is the version that readers got before Current, whatever the tags say.
	Former string

	// Note is what an operator should hear of although nothing failed; "" for
	// nothing. A store may write it at any time, and it holds no value.
	Note string

	// Written are texts that the owner chose beside the value, and that an error may quote: tags,
	// a parameter's AllowedPattern, the alias of a KMS key.
	Written []string

	// Known are values, beside the secret's own, that must not leave the
	// process either: Secrets Manager's rotation token.
	Known []rotators.Secret
}

// Which names one of an attempt's values.
type Which int

const (
	CurrentValue Which = iota
	PendingValue
	PreviousValue
)

// Store keeps the versions of a secret. Its methods take a version's name from
// the attempt, never from a label alone, and take only not-found for not
// found: a throttle or a refused permission is an error.
type Store interface {
	// Load finds the attempt that token names and reads its tags, but no
	// value. It refuses, with a permanent error, a secret that is not rekey's
	// to rotate. It drops an order to retire what readers get: the promotion
	// that the order was written ahead of did not come about, or was taken back
	// by hand. A store to which a pending version without a value looks like
	// one with a value says Stored: the engine asks for the value, and takes
	// Reserved if there is none, before every step but finishSecret.
	//
	// The empty token stands for the attempt that is open, and if none is, for
	// what readers get: the State is Stored, Reserved or Current accordingly.
	Load(ctx context.Context, id, token string) (*Attempt, error)

	// Value reads a value; the zero Secret if there is none.
	Value(ctx context.Context, a *Attempt, which Which) (rotators.Secret, error)

	// Leftovers yields values that were stored once and that no label names
	// any more, newest first. A value that cannot be read is yielded as an error, which
	// is permanent if no retry cures it, and others may follow.
	Leftovers(ctx context.Context, a *Attempt) iter.Seq2[rotators.Secret, error]

	// Held yields the values of all versions that a label or a.Tags.Retire names, but
	// the pending one, as Load has just found them, and what for: InUse or Former. A
	// version without a value is left out.
	Held(ctx context.Context, a *Attempt) iter.Seq2[Held, error]

	// PutPending stores the attempt's value. It creates and never overwrites:
	// it returns an error wrapping ErrStored if the attempt has another value
	// already, and nil if it has this one.
	PutPending(ctx context.Context, a *Attempt, value rotators.Secret) error

	// Promote makes the pending value what readers get, provided that readers
	// still get a.Current; nil if they get the pending value already. If
	// a.Tags.Retire is set it is written to the secret first, so that no crash
	// can lose what is to be retired.
	Promote(ctx context.Context, a *Attempt) error

	// Retired records that a.Tags.Retire is retired, and takes the order away, unless
	// that names another version since.
	Retired(ctx context.Context, a *Attempt) error
}

// Held is the value of a version, and what the secret holds it for.
type Held struct {
	Value rotators.Secret
	Use   rotators.Use
}

// Driven is a Store whose attempts nobody drives but rekey: no service notices
// that one was overtaken, or clears up after it.
type Driven interface {
	Store
	// Discard drops the pending values of this attempt and of those before it.
	// It is called when the attempt is over.
	Discard(ctx context.Context, a *Attempt) error

	// Promoted names the version that held the attempt's pending value and is not
	// current any more; "" if none did. Its promotion was not heard of, or somebody
	// stored another value over it at once.
	Promoted(ctx context.Context, a *Attempt) (string, error)

	// Order writes the order to retire a.Tags.Retire, in place of any other.
	Order(ctx context.Context, a *Attempt) error
}

// Fenced is implemented by a Store whose rotations and retirements nobody serialises: the
// worker retires a secret's credential while Secrets Manager may begin a rotation of the
// secret. A run that withdraws a credential says so first, in a tag of its own.
//
// A run writes its tag and then looks for an open attempt; createSecret and setSecret of an
// open attempt look for tags. So one of the two sees the other, however they interleave, and
// no tag is shared that one run could take away from another.
type Fenced interface {
	// Fence writes the tag of a run, which is over at that time at the latest.
	Fence(ctx context.Context, a *Attempt, key string, until time.Time) error
	// Unfence removes tags of runs that are over.
	Unfence(ctx context.Context, a *Attempt, keys ...string) error
}

// Forgetful is implemented by a Store whose tags others take off.
type Forgetful interface {
	// PromotedAt is when a rotation made the current version current; zero if a person
	// stored that version, or nobody knows.
	PromotedAt(ctx context.Context, a *Attempt) (time.Time, error)
	// Remember writes the order to retire a.Tags.Retire.
	Remember(ctx context.Context, a *Attempt) error
}

// Keyed is implemented by a Store that encrypts by a key of the owner's. PutPending
// fails if that cannot be used, which is too late where something is changed before
// it: an issuer mints, a grace is cut short.
type Keyed interface {
	// KeyUsable tells whether the key can be used, and changes nothing. The error
	// names it, and is permanent if a person must act.
	KeyUsable(ctx context.Context, a *Attempt) error
}

// ErrSuperseded says that somebody else changed what readers get meanwhile, and
// that their change stays.
var ErrSuperseded = errors.New("somebody else changed the value meanwhile, and that stays so")

// ErrReadersRefused says that an attempt was overtaken by a change that the
// target does not accept: what readers get does not work. A new attempt mends it.
var ErrReadersRefused = errors.New("somebody else changed the value meanwhile, and the target refuses what they stored")

// ErrStored says that another run of the same attempt stored its value first.
var ErrStored = errors.New("another run of this attempt has stored its value first")
