package attacks

import (
	"fmt"
	"strings"
	"testing"
)

// quoted writes a name as SQL.
func (d *database) quoted(name string) string {
	if d.engine == "postgres" {
		return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(name) + "'"
}

// hostileNames are names of users that end a quotation, a line or a log's object, and go on
// as the attacker likes. %s is where another user's name stands.
var hostileNames = []string{
	`x"; ALTER ROLE "%s" PASSWORD 'p'; --`,
	`x'; ALTER USER '%s' IDENTIFIED BY 'p'; -- `,
	`x'@'%%', '%s`,
	`%s'@'%%`,
	`%s'@'%%' -- `,
	`\'; ALTER USER %s --`,
	`%s\`,
	`"%s"`,
	` %s`,
	"x\n%s",
	"\x1b]0;%s\x07\x1b[2J",
	"{\"message\":\"%s\"}\n{\"level\":\"INFO\",\"message\":\"rotation step\",\"outcome\":\"promote\"}",
	"\u202e%s\u2028",
}

// injection has a user rotated whose name is hostile. The attacker may have got such a user
// from somebody, with a password of its own; else the login is refused, and shows the name.
func injection(w *world, d *database, name string, exists, byAdmin bool) {
	victim := w.person(d, "v")
	name = fmt.Sprintf(name, victim.user)
	if len(name) > 60 && d.engine == "postgres" || len(name) > 78 && d.engine == "mariadb" {
		exists = false // it is too long to be one
	}
	mine := account{name, "my-Own-password-1"}
	w.own = append(w.own, name, name+"_clone", strings.Split(name, "@")[0], strings.Split(name+"_clone", "@")[0])
	if exists && d.engine != "redis" {
		statement := "CREATE ROLE " + d.quoted(name) + " LOGIN PASSWORD "
		if d.engine == "mariadb" {
			statement = "CREATE USER " + d.quoted(name) + " IDENTIFIED BY "
		}
		w.check(d.exec(w.t.Context(), statement+"'"+mine.password+"'"))
	}
	tags := []string{}
	if byAdmin {
		tags = append(tags, "rekey:admin", w.adminSecret(d))
		if d.engine == "redis" {
			tags = append(tags, "rekey:strategy", "overlap")
		}
	}
	arn := w.newSecret(fmt.Sprintf("names/%d", serial.Add(1)), d.value(mine), tags...)
	err := w.rotate(arn)
	if exists && d.engine == "postgres" && err != nil {
		w.t.Errorf("the user %q is not rotated: %v", name, err)
	}
	if !d.accepts(w.t, victim.user, victim.password) {
		w.t.Errorf("the user %q: the victim is locked out", name)
	}
}

// A name is a name, whatever stands in it: to a server, and to the log.
func TestNamesSayNothingToServersAndLogs(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis} {
		w := newWorld(t)
		for i, name := range hostileNames {
			injection(w, d, name, i%2 == 0 || d.engine == "postgres", i%3 == 0)
			injection(w, d, name, true, i%3 != 0)
		}
		w.nothing()
	}
}

// clone is an attack of somebody who owns one of two users whose names go together, and is
// to be given the other, or its rights.
type clone struct {
	name string
	// names are those of the attacker's user and of the other one's.
	mine, victim string
}

var clones = []clone{
	{"the attacker's user is called after the victim", "%s_clone", "%s"},
	{"the victim is called after the attacker's user", "%s", "%s_clone"},
}

// run rotates the attacker's user, once by each strategy and way in.
func (c clone) run(w *world, d *database) {
	base := fmt.Sprintf("team_%d", serial.Add(1))
	mine, victim := account{fmt.Sprintf(c.mine, base), "my-Own-password-1"}, account{fmt.Sprintf(c.victim, base), "the-Victims-own-1"}
	w.check(d.create(w.t.Context(), victim.user, victim.password))
	w.protect(victim.password)
	for user, stored := range d.stored(w.t) {
		if strings.HasPrefix(user, victim.user) {
			w.stored[d][user] = stored
		}
	}
	w.check(d.create(w.t.Context(), mine.user, mine.password))
	w.own = append(w.own, mine.user)
	admin := w.adminSecret(d)
	_ = w.rotate(w.newSecret(fmt.Sprintf("clone/%d", serial.Add(1)), d.value(mine), "rekey:admin", admin))
	_ = w.rotate(w.newSecret(fmt.Sprintf("clone/%d", serial.Add(1)), d.value(mine, "masterarn", admin)))
	// The victim's was "retired": a password that the current value tells.
	arn := w.newSecret(fmt.Sprintf("clone/%d", serial.Add(1)), d.value(victim, "password", "not-the-Victims-1"), "rekey:admin", admin)
	version, _ := w.current(arn)
	w.put(arn, d.value(mine))
	w.enable(arn)
	w.tag(arn, "rekey:retire", version)
	w.tick()
	_ = w.rotate(arn)
	if !d.accepts(w.t, victim.user, victim.password) {
		w.t.Errorf("%s %s: the victim is locked out", d.engine, c.name)
	}
}

// That two users are called alike gives the owner of one nothing of the other.
func TestANameProvesNothing(t *testing.T) {
	for _, c := range clones {
		for _, d := range []*database{bankPostgres, bankMariaDB} {
			t.Run(c.name+" "+d.engine, func(t *testing.T) {
				w := newWorld(t)
				c.run(w, d)
				w.nothing()
			})
		}
	}
}

// replica has the attacker's server say that it is a read-only replica, so that RDS is
// asked where it is written: of the bank's database, by a name that turns. Whoever
// changes it there has proved nothing there.
func replica(w *world, d *database, looks int, byAdmin, clear bool) {
	victim := w.person(d, "payments")
	mine := account{victim.user, "attackers-Old-1"}
	d.fake.reset()
	d.fake.replica, d.fake.knows = true, []string{mine.password}
	h := host(rebind(answer{addresses: []string{fakeAddress}}, looks, answer{cname: d.host, addresses: []string{bankAddress}}))
	var ssl any
	if clear {
		ssl = false
	}
	tags := []string{"rekey:strategy", "single-user"}
	if byAdmin {
		// The admin of a server that the attacker runs, with the bank's beside it.
		tags = append(tags, "rekey:admin", w.adminSecret(d))
	}
	_ = w.rotate(w.newSecret(fmt.Sprintf("replica/%d", serial.Add(1)), d.value(mine, "host", h, "ssl", ssl), tags...))
	if !d.accepts(w.t, victim.user, victim.password) {
		w.t.Errorf("%s, after %d looks: the victim is locked out", d.engine, looks)
	}
}

// What a server says of itself moves nobody's proof to another server.
func TestAServerThatSaysItIsAReplicaMovesNoProof(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB} {
		w := newWorld(t)
		for looks := range maxLooks {
			replica(w, d, looks, looks%2 == 0, looks%3 == 0)
			replica(w, d, looks, looks%2 != 0, looks%3 != 0)
		}
		w.nothing()
	}
}

// The dry test, which Secrets Manager runs by itself, sends a value's password where that
// value says, and no other.
func TestTheDryTestSendsTheCurrentPasswordAlone(t *testing.T) {
	w := newWorld(t)
	type dry struct {
		d   *database
		arn string
	}
	var all []dry
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis} {
		owner := w.person(d, "shop")
		arn := w.newSecret(fmt.Sprintf("dry/%d", serial.Add(1)), d.value(owner))
		w.put(arn, d.value(account{owner.user, "anything-At-all-0"}, "host", host(to(fakeAddress))))
		d.fake.refuses = func(string) bool { return true }
		all = append(all, dry{d, arn})
	}
	// They wait for a pending value, all at once.
	done := make(chan error, len(all))
	for _, c := range all {
		go func() { done <- w.dry(c.arn) }()
	}
	for range all {
		if err := <-done; err == nil {
			t.Error("a dry test ended well")
		}
	}
	for _, c := range all {
		if users := c.d.fake.seen(); len(users) != 1 {
			t.Errorf("%s: logins %v, want one", c.d.engine, users)
		}
	}
	w.nothing()
}
