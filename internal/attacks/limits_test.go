package attacks

import (
	"fmt"
	"strings"
	"testing"
)

// Places that the operator's list does not hold are reached by no spelling of an address,
// and by no name: not even by a connection without a byte.
func TestNoSpellingLeadsPastTheHostsThatAreAllowed(t *testing.T) {
	many := host(to(fakeAddress, bankAddress))
	for _, d := range []*database{bankPostgres, bankMariaDB, clearRedis} {
		w := newWorld(t, "REKEY_HOSTS", "127.0.0.1, *.rds.amazonaws.com, db.bank.test, 10.0.0.0/8, fd00::/8")
		for _, h := range []string{
			fakeAddress, "::ffff:127.0.0.3", "::ffff:7f00:3", "0:0:0:0:0:ffff:7f00:0003",
			"127.3", "127.0.3", "0x7f.3", "0x7f000003", "0177.0.0.3", "2130706435", "127.0.0.3.", "127.0.0.03", "[127.0.0.3]", "127.0.0.3%lo", "::ffff:127.0.0.3%lo",
			host(to(fakeAddress)), strings.ToUpper(host(to(fakeAddress))) + ".",
			host(rebind(answer{addresses: []string{bankAddress}}, 1, answer{addresses: []string{fakeAddress}})),
			host(func(int) answer { return answer{cname: d.host, addresses: []string{fakeAddress}} }),
			"rds.amazonaws.com", "x.rds.amazonaws.com.evil.test", "xrds.amazonaws.com", "db.bank.test.evil.test", "evil.db.bank.test",
			"127.0.0.1,127.0.0.3", "127.0.0.3 127.0.0.1", "127.0.0.1@127.0.0.3", "127.0.0.1#127.0.0.3", "127.0.0.1/127.0.0.3", "127.0.0.1\x00.evil.test",
		} {
			if strings.HasSuffix(h, "."+domain) && !strings.HasPrefix(h, "h") {
				dns.set(h, to(fakeAddress))
			}
			mine := account{"mine", "my-Own-password-1"}
			d.fake.behaves(conduct{knows: []string{mine.password}})
			arn := w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), d.value(mine, "host", h, "ssl", false))
			_ = w.rotate(arn)
			if n := d.fake.reached(); n > 0 {
				t.Fatalf("%s: the host %q was reached: %d connections", d.engine, h, n)
			}
			if d.engine == "redis" {
				nodes := w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), d.value(mine, "nodes", fmt.Sprintf("%s:%d", h, d.port)))
				_ = w.rotate(nodes)
				if n := d.fake.reached(); n > 0 {
					t.Fatalf("the node %q was reached: %d connections", h, n)
				}
			}
		}
		// Of a name with several addresses, those that are allowed are.
		owner := w.person(d, "shop")
		w.own = append(w.own, owner.user)
		w.check(w.rotate(w.newSecret("allowed", d.value(owner, "host", many, "ssl", false))))
		if d.fake.reached() > 0 {
			t.Errorf("%s: an address that is not allowed was reached beside one that is", d.engine)
		}
		w.nothing()
	}
}

// Where an operator insists on TLS, neither a value nor an admin's has a connection made
// without, in any step and by any spelling.
func TestNothingIsSentWithoutTLSWhereItIsRequired(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB, clearRedis} {
		w := newWorld(t, "REKEY_REQUIRE_TLS", "true")
		h := host(to(fakeAddress))
		mine := account{"mine", "my-Own-password-1"}
		d.fake.behaves(conduct{knows: []string{mine.password, d.admin.password}})
		values := []string{
			d.value(mine, "host", h, "ssl", false),
			d.value(mine, "host", h, "ssl", "FALSE"),
			fmt.Sprintf("%s://%s:%s@%s:%d/?sslmode=disable", d.engine, mine.user, mine.password, h, d.port),
			fmt.Sprintf(`{"url":"%s://%s:%d/?sslmode=disable","username":%q,"password":%q}`, d.engine, h, d.port, mine.user, mine.password),
		}
		for _, value := range values {
			arn := w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), value)
			_ = w.rotate(arn)
			version, _ := w.current(arn)
			later := w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), value)
			w.put(later, d.value(account{mine.user, "another-Password-2"}, "host", h, "ssl", false))
			w.enable(later)
			w.tag(later, "rekey:retire", version)
			w.tick()
		}
		admin := w.newSecret("dba", d.value(d.admin, "host", h, "ssl", false))
		_ = w.rotate(w.newSecret("by-an-admin", d.value(mine, "host", h, "ssl", true), "rekey:admin", admin, "rekey:strategy", "single-user"))
		if n := d.fake.reached(); n > 0 {
			t.Errorf("%s: %d connections", d.engine, n)
		}
		w.nothing()
	}
}

// Where an operator takes only delegated admins, no other does anything, whichever field or
// tag names it, also for those who hold a password of the user's.
func TestNoAdminActsThatWasNotDelegated(t *testing.T) {
	for _, d := range []*database{bankPostgres, bankMariaDB, clearRedis} {
		w := newWorld(t, "REKEY_ADMINS", "delegated")
		// The admin's login would show at the fake, where the value's own user is let in.
		h := host(to(fakeAddress))
		mine := account{"mine", "my-Own-password-1"}
		d.fake.behaves(conduct{knows: []string{mine.password, d.admin.password}})
		other := func(tag string) string {
			return w.newSecret(fmt.Sprintf("dba/%d", serial.Add(1)), d.value(d.admin, "host", h), "rekey:admin-for", tag)
		}
		name := fmt.Sprintf("/dba/%d", serial.Add(1))
		w.cloud.AddParameter(parameterOf(name, d.value(d.admin, "host", h)))
		admins := []string{
			w.newSecret("dba", d.value(d.admin, "host", h)), "dba",
			other("another"), other("mine"), other("MINE/"), other("mine/x"), other("ssm:mine/"), other("mine/ "), other("ine/"), other("*"), other("arn:aws:secretsmanager:us-east-1:000000000000:secret:mine/"),
			"ssm:" + name, "iam:postgres",
		}
		strategy := "single-user"
		for i, admin := range admins {
			secret := fmt.Sprintf("mine-%d", i)
			_ = w.rotate(w.newSecret(secret, d.value(mine, "host", h), "rekey:admin", admin, "rekey:strategy", strategy))
			if d.engine != "redis" {
				_ = w.rotate(w.newSecret(secret+"-by-value", d.value(mine, "host", h, "masterarn", admin)))
			}
		}
		w.nothing()
		if len(w.errs) < len(admins) {
			t.Errorf("%s: %d of %d rotations failed", d.engine, len(w.errs), len(admins))
		}
	}
}
