package attacks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
)

// redirect is the attack of somebody who may write a value and not read it: the value names
// a server of theirs, or a way without protection, and rekey is to send an older password
// there, because the one in the value is refused.
type redirect struct {
	name string
	// fields are what the attacker writes into the value beside what is right; h is a host
	// name that leads to the attacker's fake. Nil: the value is a URL.
	fields func(d *database, h string) []any
	url    string // the query of the URL
	path   bool   // the attacker sits on the path, and answers for the bank's host
	speaks string // what the fake speaks; "": what the bank's server does
	clear  bool   // against a secret that says "ssl": false itself
}

// redirects are the variations.
var redirects = []redirect{
	{name: "a node is added", fields: func(d *database, h string) []any { return []any{"nodes", fmt.Sprintf("%s:%d", h, d.port)} }},
	{name: "nodes as a list", fields: func(d *database, h string) []any {
		return []any{"nodes", []string{fmt.Sprintf("%s:%d", strings.ToUpper(h), d.port), d.host}}
	}},
	{name: "the host becomes a node", fields: func(d *database, h string) []any {
		return []any{"host", h, "nodes", fmt.Sprintf("%s:%d", d.host, d.port)}
	}},
	{name: "another host", fields: func(_ *database, h string) []any { return []any{"host", h} }},
	{name: "another host, without TLS", fields: func(_ *database, h string) []any { return []any{"host", h, "ssl", false} }},
	{name: "another port", fields: func(d *database, _ string) []any { return []any{"port", fmt.Sprint(d.port + 1)} }},
	{name: "no TLS", path: true, fields: func(*database, string) []any { return []any{"ssl", false} }},
	{name: "no TLS, as text", path: true, fields: func(*database, string) []any { return []any{"ssl", "False"} }},
	{name: "no TLS, the host in capitals and with a dot", path: true, fields: func(d *database, _ string) []any {
		return []any{"ssl", false, "host", strings.ToUpper(d.host) + "."}
	}},
	{name: "no TLS, by sslmode in a URL", path: true, url: "sslmode=disable"},
	{name: "no TLS, by ssl in a URL", path: true, url: "ssl=false"},
	{name: "an identifier of RDS beside the host", fields: func(d *database, h string) []any {
		return []any{"host", h, "dbInstanceIdentifier", strings.Split(d.host, ".")[0]}
	}},
	{name: "an identifier of RDS in place of the host", fields: func(*database, string) []any {
		return []any{"host", nil, "dbInstanceIdentifier", "trap"}
	}},
	{name: "another engine", path: true, speaks: "redis", fields: func(*database, string) []any { return []any{"engine", "redis", "ssl", false} }},
	{name: "another engine, where there was no TLS", path: true, speaks: "redis", clear: true,
		fields: func(*database, string) []any { return []any{"engine", "redis", "ssl", false} }},
}

// strategies are those that an engine can do.
func (d *database) strategies() []string {
	all := []string{"single-user"}
	if d.twins {
		all = append(all, "alternating-users")
	}
	if d.overlap {
		all = append(all, "overlap")
	}
	return all
}

// says reports whether the variation says anything to a database.
func (r redirect) says(d *database) bool {
	redis := d.engine == "redis"
	switch {
	case d == clearRedis: // there is no TLS to take away, and no other engine that would
		return !r.path
	case r.clear, r.speaks != "":
		return !redis
	}
	return true
}

// written is the value that the attacker writes.
func (r redirect) written(d *database, user, h string) string {
	const anything = "anything-At-all-0"
	if r.fields == nil {
		return fmt.Sprintf("%s://%s:%s@%s:%d/?%s", d.engine, user, anything, d.host, d.port, r.url)
	}
	return d.value(account{user, anything}, r.fields(d, h)...)
}

// run attacks a secret that rekey has rotated before. The attacker writes depth times, so
// that the password that works is in the previous version, or in one without a label. The
// fake at the end of the way lets everybody in, or nobody.
func (r redirect) run(w *world, d *database, strategy string, depth int, lets bool) {
	t := w.t
	owner := w.person(d, "shop")
	w.own = append(w.own, owner.user, owner.user+"_clone")
	var fields []any
	if r.clear {
		fields = []any{"ssl", false}
	}
	tags := []string{"rekey:strategy", strategy}
	if strategy == "alternating-users" || strategy == "overlap" && d.engine != "redis" {
		tags = append(tags, "rekey:admin", w.newSecret(fmt.Sprintf("dba/%d", serial.Add(1)), d.value(d.admin, fields...)))
	}
	arn := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner, fields...), tags...)
	w.check(w.rotate(arn))
	version, value := w.current(arn)
	user, password := field(t, value, "username"), field(t, value, "password")
	w.protect(password)

	h := host(to(fakeAddress))
	w.cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "trap", Engine: d.engine, Endpoint: &localaws.Endpoint{Address: h, Port: d.port}})
	d.fake.reset()
	d.fake.speaks = r.speaks
	d.fake.refuses = func(string) bool { return !lets }
	for range depth {
		w.put(arn, r.written(d, user, h))
	}
	if r.path {
		dns.set(d.host, to(fakeAddress))
		defer dns.set(d.host, to(bankAddress))
	}
	_ = w.rotate(arn)
	w.tag(arn, "rekey:retire", version)
	w.tick()
	w.seen(r.name)
}

// seen fails the test if a fake has got what it must not have. It is for tests that have a
// fake forget.
func (w *world) seen(what string) {
	w.t.Helper()
	if o := w.outcome(); len(o) > 0 {
		w.t.Errorf("%s: %v", what, o)
	}
}

// Whoever may write a value, and not read it, is sent no password that was there before:
// by no field of the value, of no engine and by no way in.
func TestAnOlderPasswordGoesOnlyWhereItsOwnValueWent(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis, clearRedis} {
		for j, strategy := range d.strategies() {
			t.Run(fmt.Sprint(d.engine, " ", strategy, " ", d == clearRedis), func(t *testing.T) {
				w := newWorld(t)
				for i, r := range redirects {
					if !r.says(d) {
						continue
					}
					r.run(w, d, strategy, 1+i%2, (i+j)%2 == 0)
					if r.speaks != "" {
						r.run(w, d, strategy, 2-i%2, (i+j)%2 != 0)
					}
				}
				w.nothing()
			})
		}
	}
}

// The same of a parameter: of its versions, of which the tag rekey:retire names one, and of
// the records that an attempt has left. What a parameter is its tag rekey:rotator says, so
// its value cannot.
func TestAParametersOlderPasswordGoesOnlyWhereItsOwnValueWent(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis, clearRedis} {
		for _, path := range []bool{false, true} {
			w := newWorld(t)
			d.fake.refuses = func(string) bool { return true }
			for _, r := range redirects {
				if r.says(d) && r.speaks == "" && r.path == path {
					r.ofParameter(w, d, false)
					r.ofParameter(w, d, true)
				}
			}
			if path {
				dns.set(d.host, to(fakeAddress))
			}
			w.tick()
			dns.set(d.host, to(bankAddress))
			w.nothing()
		}
	}
}

// ofParameter writes the attacker's value into a parameter. The password that works is in an
// older version or, if an attempt was cut off, in its record.
func (r redirect) ofParameter(w *world, d *database, record bool) {
	owner := w.person(d, "shop")
	w.own = append(w.own, owner.user)
	name := fmt.Sprintf("/shop/%d", serial.Add(1))
	value, tags := d.value(owner), []string{"rekey:rotator", d.engine, "rekey:retire", "1 2099-01-01T00:00:00Z"}
	if record {
		value, tags = d.value(account{owner.user, "not-The-one-any-more-0"}), tags[:2]
	}
	arn := w.parameter(name, value, tags...)
	w.putParameter(name, r.written(d, owner.user, host(to(fakeAddress))))
	if record {
		w.cloud.AddParameter(parameterOf(paramstore.Parameter{ARN: arn, Name: name, Base: 1}.Record(), d.value(owner)))
	}
}

// What is pending goes nowhere else either: a value that is written between createSecret
// and setSecret, or between a failed setSecret and the next, moves no password.
func TestAPendingPasswordGoesOnlyWhereItsOwnValueWent(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis} {
		t.Run(d.engine, func(t *testing.T) {
			w := newWorld(t)
			for _, r := range redirects {
				if !r.says(d) || r.clear {
					continue
				}
				owner := w.person(d, "shop")
				w.own = append(w.own, owner.user)
				arn := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner))
				h := host(to(fakeAddress))
				d.fake.reset()
				d.fake.speaks = r.speaks
				d.fake.refuses = func(string) bool { return true }
				w.before = func(step string) {
					if step != "setSecret" {
						return
					}
					w.before = nil
					_, pending := w.pending(arn)
					w.protect(field(t, pending, "password"))
					w.put(arn, r.written(d, owner.user, h))
					if r.path {
						dns.set(d.host, to(fakeAddress))
					}
				}
				_ = w.rotate(arn)
				dns.set(d.host, to(bankAddress))
				w.seen(r.name)
			}
		})
	}
}
