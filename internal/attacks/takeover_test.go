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

// run attacks once, with a name that rebinds after so many looks.
func (r rebinding) run(w *world, looks int) {
	t, d := w.t, r.db
	victim := w.person(d, "payments")
	const old, latest = "attackers-Old-1", "attackers-New-2"
	mine, yours := account{victim.user, old}, account{victim.user, latest}
	if r.strategy == "alternating-users" {
		yours.user += "_clone"
	}
	// Users that the admin made at the bank's for the attacker would be called so; what is
	// looked at is the victim.
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
		d.fake.reset()
		d.fake.knows = []string{old, latest}
	}
	h := host(to(r.address))
	var ssl any
	if r.clear {
		ssl = false
	}
	first, second := d.value(mine, "host", h, "ssl", ssl), d.value(yours, "host", h, "ssl", ssl)
	admin := w.adminSecret(d)
	tags := []string{"rekey:admin", admin, "rekey:strategy", r.strategy}
	turn := func() {
		dns.set(h, rebind(answer{addresses: []string{r.address}}, looks, answer{cname: d.host, addresses: []string{bankAddress}}))
	}
	switch r.entrance {
	case byParameter:
		name := fmt.Sprintf("/evil/%d", serial.Add(1))
		w.parameter(name, first, append(tags, "rekey:rotator", d.engine, "rekey:retire", "1")...)
		w.putParameter(name, second)
		turn()
		w.tick() // the rotation is due, too
	case bySet:
		arn := w.newSecret(fmt.Sprintf("evil/%d", serial.Add(1)), first, tags...)
		turn()
		_ = w.rotate(arn)
	default:
		arn := w.newSecret(fmt.Sprintf("evil/%d", serial.Add(1)), first, tags...)
		version, _ := w.current(arn)
		w.put(arn, second)
		if r.entrance == byPlanner {
			w.enable(arn)
		}
		w.tag(arn, "rekey:retire", version)
		turn()
		if r.entrance == byPlanner {
			w.tick()
		} else {
			_ = w.rotate(arn)
		}
	}
	if !d.accepts(t, victim.user, victim.password) {
		t.Errorf("after %d looks the victim's own password is refused", looks)
	}
	for _, password := range []string{old, latest} {
		if d.accepts(t, victim.user, password) {
			t.Errorf("after %d looks the attacker logs in as %s", looks, victim.user)
		}
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
			for looks := range maxLooks {
				r.run(w, looks)
			}
			w.nothing()
		})
	}
}
