package attacks

import (
	"fmt"
	"testing"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// intruder is somebody who may write a secret and start its rotation, and stores a pending
// value before rekey does.
type intruder struct {
	name string
	// arm has the value stored at some time in the rotation of that token.
	arm func(w *world, arn, token, value string)
}

var intruders = []intruder{
	{"before createSecret", func(w *world, arn, token, value string) {
		w.before = func(step string) {
			if step == "createSecret" {
				w.before = nil
				w.putPending(arn, token, value)
			}
		}
	}},
	{"in the instant before createSecret stores its own", func(w *world, arn, token, value string) {
		w.race = func(c localaws.Call) {
			if c.Operation == "PutSecretValue" {
				w.race = nil
				w.putPending(arn, token, value)
			}
		}
	}},
	{"between createSecret and setSecret, as another version", func(w *world, arn, _, value string) {
		w.before = func(step string) {
			if step == "setSecret" {
				w.before = nil
				w.putPending(arn, newToken(), value)
			}
		}
	}},
}

// newToken makes the id of a version.
func newToken() string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", serial.Add(1)) }

// run has the password be set of which the intruder knows the text, and returns the user.
func (i intruder) run(w *world, d *database, password string) (user string) {
	owner := w.person(d, "shop")
	w.own = append(w.own, owner.user)
	arn := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner))
	w.readers = append(w.readers, reader{"the applications of " + owner.user, d, func() string { _, value := w.current(arn); return value }})
	token := newToken()
	i.arm(w, arn, token, d.value(account{owner.user, password}))
	_ = w.start(arn, token, true)
	return owner.user
}

// A password that nobody generated is not set, however early or quick somebody stores it.
func TestAPendingValueOfSomebodyElsesIsNotSet(t *testing.T) {
	for _, i := range intruders {
		for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis} {
			t.Run(i.name+" "+d.engine, func(t *testing.T) {
				w := newWorld(t)
				const password = "attacker1"
				if user := i.run(w, d, password); d.accepts(t, user, password) {
					t.Errorf("%s has the password of the attacker's", user)
				}
				w.nothing()
			})
		}
	}
}

// What is not told apart, and stands in docs/security.md: a password that looks like one of
// rekey's. Whoever may write a secret and start its rotation may so come to know the
// password of that secret's own user, and of nobody else.
func TestAPendingValueThatLooksGeneratedIsNotToldApart(t *testing.T) {
	w := newWorld(t)
	const password = "Abcdefghijklmnopqrstuvwxyz-12345"
	if user := intruders[0].run(w, bankPostgres, password); !bankPostgres.accepts(t, user, password) {
		t.Error("it is: correct docs/security.md, and this test")
	}
	w.nothing()
}
