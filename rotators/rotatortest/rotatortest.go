package rotatortest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// Harness is a rotator under test, and the means to see what it does. Rotator,
// Value, Fields and Accepts are all that many rotators need; every other field
// says what leaving it out means.
//
// The functions must not go through the Wire: they are the suite's own eyes.
type Harness struct {
	// Rotator is under test. All it sends goes through the Wire.
	Rotator rotators.Rotator
	// Value is a first value, which the target accepts, of a credential that
	// no other Harness uses.
	Value rotators.Secret
	// Tags are the secret's, as an owner would write them. If with them something
	// outlives a promotion (see rotators.Retirer), the suite sets rekey:grace
	// itself where that matters. Nil: none.
	Tags map[string]string
	// Fields are the fields that a rotation replaces, the secret one first.
	// Nil: the whole value is one plain text.
	Fields []string
	// Accepts asks the target whether it takes a value as a login or a key. An
	// error is for when it cannot tell.
	Accepts func(context.Context, rotators.Secret) (bool, error)

	// Overlap declares that what readers get is accepted at every instant of a
	// rotation, and that what they got before is accepted still when the
	// rotation is over: until Retire, or until the next rotation. False: Set
	// replaces the old credential, and the suite insists that it is refused
	// from then on.
	Overlap bool
	// Usable does with a value what readers do with it, and says what fails: a
	// table that cannot be read, a scope that is missing. The suite asks it
	// about every value readers get. Nil: what is accepted is usable.
	Usable func(context.Context, rotators.Secret) error
	// Keys counts the credentials of this account that are live at the target,
	// for a rotator whose Create mints them there. Each must be one that the
	// store holds, or it is a stray. Nil: Create mints nothing, and the suite
	// insists that a new value is refused until it is set.
	Keys func(context.Context) (int, error)
	// MaxKeys is the most that Keys may count at any instant, however often a
	// run crashes. 0: there is no limit, or the target refuses what is over it.
	MaxKeys int
	// Pass lets time pass for the rotator and the target. A run that died may have minted
	// a key, and until its time is over the next one cannot know that it is dead; the suite
	// lets that time pass before it runs a crashed step again. Nil: no time has to pass.
	Pass func(time.Duration)
	// Lookup reads another secret, as Rotation.Lookup does: an admin's login. A
	// Harness that has one is also tried with a current value that proves
	// nothing. Nil: there are no other secrets, and every Lookup fails.
	Lookup func(ctx context.Context, ref string) (rotators.Secret, error)
	// Vouches is what Rotation.Vouches says. Nil: nobody vouches for anybody.
	Vouches func(ctx context.Context, ref string) (bool, error)
	// Another is a first value of a second credential, which the same Rotator
	// can rotate under the same Tags, and Accepts tell about. The zero Secret:
	// it is not checked that a rotator keeps two secrets apart.
	Another rotators.Secret
}

// Run checks a rotator. newHarness is called anew for every check and every
// crash point, so that they share nothing; it may use t to clean up.
//
// With names, only the checks of these names run: for what other settings change
// about a rotator that passes the whole suite, where that takes minutes.
func Run(t *testing.T, newHarness func(t *testing.T, w *Wire) Harness, names ...string) {
	t.Helper()
	for _, name := range names {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			t.Errorf("there is no check %s", name)
		}
	}
	for _, c := range checks {
		if len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(t, newHarness); err != nil {
				t.Errorf("%v\n\nWhy it matters: %s", err, c.why)
			}
		})
	}
}

type maker = func(t *testing.T, w *Wire) Harness

// check is one promise. why is printed when it is broken.
type check struct {
	name, why string
	run       func(*testing.T, maker) error
}

// checks is everything; the package comment tells what each proves.
var checks = []check{
	{"Rotates", "the four steps, nothing in their way, must end with a new value that the target accepts.", rotates},
	{"RotatesAgain", "a secret is rotated many times: each value must be a new one, and what earlier rotations leave at the target must not add up.", rotatesAgain},
	{"ChangesOnlyItsFields", "an owner's value holds more than the credential, and readers parse it as it was written.", changesOnlyItsFields},
	{"CreateLeavesCurrentWorking", "until the new value is stored and set, readers need the old one; a value that dies with the process must not have replaced it.", createLeavesCurrentWorking},
	{"CreateAgain", "a value that was made and lost before it could be stored is made again.", createAgain},
	{"EveryStepTwice", "Secrets Manager runs all four steps again after any failure, so each must find its work done.", everyStepTwice},
	{"StepsAtOnce", "a function that timed out may run on while its retry runs; together they must not leave what neither would leave alone.", stepsAtOnce},
	{"AcceptedWhenDeclared", "owners choose a strategy by what readers go through in a rotation, so a rotator must do what it declares.", acceptedWhenDeclared},
	{"Retires", "retirement is run until it is recorded as done, so it must find its work done too; and an old credential that goes on working was never rotated.", retires},
	{"RetiresAfterItsGrace", "readers that keep a value for a while need the old one until its grace is over; and what retirement leaves behind must not be in the next rotation's way.", retiresAfterItsGrace},
	{"TestRefusesAWrongValue", "a test that passes for a value the target does not take lets a dead credential be promoted.", testRefusesAWrongValue},
	{"OddBytes", "passwords hold quotes, escapes and line ends, and libraries quote what they cannot parse.", oddBytes},
	{"DryTest", "Secrets Manager tries a new schedule by calling testSecret alone.", dryTest},
	{"OutageIsNotRefusal", "an unreachable target says nothing about a credential; taken for a refusal it sends the engine to try old ones.", outageIsNotRefusal},
	{"RejectsUnknownOptions", "an owner who misspells an option must hear of it, not be rotated without it.", rejectsUnknownOptions},
	{"TwoSecrets", "a warm function rotates one secret after another: what a rotator remembers of one ends up in the other.", twoSecrets},
	{"AnotherAccount", "whoever can write a secret would choose whose password is changed.", anotherAccount},
	{"BorrowedPower", "whoever can write a secret would have any password changed by its admin.", borrowedPower},
	{"Crashes", "a process can die anywhere; at every point some stored credential must work, and a retry must finish.", crashes},
}
