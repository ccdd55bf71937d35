package rotation

import (
	"fmt"
	"strings"

	"github.com/rekeyhq/rekey/rotators"
)

// State is where an attempt stands: what the store knows about the version
// that its token names.
type State int

const (
	// Unknown: the token is not among the secret's labelled versions. An
	// attempt never enters this state; it was asked for with a wrong token.
	Unknown State = iota
	// Reserved: the version is pending and has no value yet. createSecret
	// moves it to Stored. A crash here loses nothing: whatever value was being
	// made was never stored and never set.
	Reserved
	// Stored: the version is pending and has a value. finishSecret moves it to
	// Current. After a crash here the target may accept the current value, the
	// pending one, or both; setSecret finds out and goes on.
	Stored
	// Current: the version is what readers get. After a crash here only
	// retirement can be left to do, and finishSecret does it.
	Current
	// Superseded: the version had a value, and another version is what readers
	// get. Somebody changed the secret by hand, or a later attempt finished.
	// Nothing moves an attempt out of this state.
	Superseded
)

func (s State) String() string {
	return [...]string{"Unknown", "Reserved", "Stored", "Current", "Superseded"}[s]
}

// Step is one of the four steps Secrets Manager asks for, or the one after them.
type Step int

// The steps, in the order they are asked for.
const (
	CreateSecret Step = iota
	SetSecret
	TestSecret
	FinishSecret
	// RetireStep comes when a grace is over. The planner asks for it, by
	// [Engine.Retire]; it belongs to no attempt, so the plan has no column for it.
	RetireStep
)

func (s Step) String() string {
	return [...]string{"createSecret", "setSecret", "testSecret", "finishSecret", "retire"}[s]
}

// ParseStep reads the Step field of a rotation event. AWS's guide also prints
// the steps as create_secret and so on, so that spelling is taken too.
func ParseStep(name string) (Step, error) {
	for s := CreateSecret; s <= FinishSecret; s++ {
		if name == s.String() || name == strings.Replace(s.String(), "Secret", "_secret", 1) {
			return s, nil
		}
	}
	return 0, rotators.Permanent(fmt.Errorf("unknown step %q: Secrets Manager sends createSecret, setSecret, testSecret or finishSecret", name))
}

// action is what the engine does for a state and a step.
type action int

const (
	refuse  action = iota // an error that says why; nothing is changed
	nothing               // success: the work is done
	create                // Create, and store what it returns
	set                   // Set
	test                  // Test the pending value
	dryTest               // Test the current value, which is how Secrets Manager tries a configuration
	promote               // make the pending value current, then retire the old one if that is due
	retire                // retire the old value if that is due
)

func (a action) String() string {
	return [...]string{"refuse", "nothing", "create", "set", "test", "dry test", "promote", "retire"}[a]
}

// plan decides everything. testdata/plan.golden holds it as text.
var plan = [5][4]action{
	Unknown:    {CreateSecret: refuse, SetSecret: refuse, TestSecret: refuse, FinishSecret: refuse},
	Reserved:   {CreateSecret: create, SetSecret: refuse, TestSecret: dryTest, FinishSecret: refuse},
	Stored:     {CreateSecret: nothing, SetSecret: set, TestSecret: test, FinishSecret: promote},
	Current:    {CreateSecret: nothing, SetSecret: nothing, TestSecret: nothing, FinishSecret: retire},
	Superseded: {CreateSecret: refuse, SetSecret: refuse, TestSecret: refuse, FinishSecret: refuse},
}
