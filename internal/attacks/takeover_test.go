package attacks

import (
	"fmt"
	"testing"
)

// rebinding is the attack of somebody who owns one secret or parameter with its tags, and
// a host name: the name leads to a server of theirs, where the passwords of the secret are
// right, and later to the bank's. If a proof made at the one counts at the other, an admin
// changes the user of the same name at the bank's.
type rebinding struct {
	db       *database
	strategy string
	address  string // of the attacker's server
	clear    bool   // without TLS
	entrance string
}

func (r rebinding) String() string {
	server, protection := "a real server", "TLS"
	if r.address == fakeAddress {
		server = "a fake"
	}
	if r.clear {
		protection = "no TLS"
	}
	return fmt.Sprintf("%s %s, %s, %s, %s", r.db.engine, r.strategy, server, protection, r.entrance)
}

// The ways into the functions.
const (
	byCreate    = "createSecret cuts a grace short"
	bySet       = "setSecret"
	byPlanner   = "the planner retires a secret"
	byParameter = "the planner retires a parameter"
)

// maxLooks is one more than the looks at a host name that any of these takes.
const maxLooks = 6

// prepare makes the secret or parameter, and the name, which rebinds after so many looks. It
// returns what sets the functions off, if the planner does not, and what looks at the end.
func (r rebinding) prepare(w *world, looks int) (fire, verify func()) {
	t, d := w.t, r.db
	victim := w.person(d, "payments")
	const old, latest = "attackers-Old-1", "attackers-New-2"
	mine, yours := account{victim.user, old}, account{victim.user, latest}
	if r.strategy == "alternating-users" {
		yours.user += "_clone"
	}
	// The admin may make the attacker a user of that name at the bank's. What is looked at
	// is the victim.
	w.own = append(w.own, victim.user+"_clone")

	if r.address == realAddress {
		passwords := []string{old}
		if yours.user == mine.user && d.overlap {
			passwords = append(passwords, latest)
		}
		w.check(d.evil.create(t.Context(), mine.user, passwords...))
		if yours.user != mine.user {
			w.check(d.evil.create(t.Context(), yours.user, latest))
		}
	} else {
		d.fake.knows = []string{old, latest}
	}
	h := host(rebind(answer{addresses: []string{r.address}}, looks, answer{cname: d.host, addresses: []string{bankAddress}}))
	var ssl any
	if r.clear {
		ssl = false
	}
	first, second := d.value(mine, "host", h, "ssl", ssl), d.value(yours, "host", h, "ssl", ssl)
	tags := []string{"rekey:admin", w.adminSecret(d), "rekey:strategy", r.strategy}
	fire = func() {}
	if r.entrance == byParameter {
		name := fmt.Sprintf("/evil/%d", serial.Add(1))
		w.parameter(name, first, append(tags, "rekey:rotator", d.engine, "rekey:retire", "1")...)
		w.putParameter(name, second)
	} else {
		arn := w.newSecret(fmt.Sprintf("evil/%d", serial.Add(1)), first, tags...)
		if r.entrance != bySet {
			version, _ := w.current(arn)
			w.put(arn, second)
			w.tag(arn, "rekey:retire", version)
		}
		if r.entrance == byPlanner {
			w.enable(arn)
		} else {
			fire = func() { _ = w.rotate(arn) }
		}
	}
	return fire, func() {
		if !d.accepts(t, victim.user, victim.password) {
			t.Errorf("after %d looks the victim's own password is refused", looks)
		}
		for _, password := range []string{old, latest} {
			if d.accepts(t, victim.user, password) {
				t.Errorf("after %d looks the attacker logs in as %s", looks, victim.user)
			}
		}
	}
}

// run attacks with names that rebind after 0 looks, 1, and so on.
func (r rebinding) run(w *world) {
	var all []func()
	for looks := range maxLooks {
		fire, verify := r.prepare(w, looks)
		fire()
		all = append(all, verify)
	}
	w.tick()
	for _, verify := range all {
		verify()
	}
}

// rebindings are the combinations that engines allow.
func rebindings() (all []rebinding) {
	for _, d := range []*database{bankPostgres, bankMariaDB} {
		for _, entrance := range []string{byCreate, bySet, byPlanner, byParameter} {
			for _, clear := range []bool{false, true} {
				all = append(all,
					rebinding{d, "alternating-users", realAddress, clear, entrance},
					rebinding{d, "single-user", fakeAddress, clear, entrance})
				if d.overlap {
					all = append(all, rebinding{d, "overlap", realAddress, clear, entrance})
				}
			}
		}
	}
	return all
}

// A host name that leads somewhere else at the next look gives nobody another user's
// account, whenever it turns and whatever the way in.
func TestRebindingTakesNobodyOver(t *testing.T) {
	for _, r := range rebindings() {
		t.Run(r.String(), func(t *testing.T) {
			w := newWorld(t)
			r.run(w)
			w.nothing()
		})
	}
}
