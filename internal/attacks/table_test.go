package attacks

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// What the table waits for: work that is done beside this. Whoever merges it sets these, and
// the attacks that they keep back run.
const (
	messagesAreOrders = false // a message chooses which parameter rotates, and nothing else
	serversAreBounded = false // what a server may say has a bound, and so has rekey:password
)

// row is what an attacker may do.
type row struct {
	may     string
	attacks []attack
	// limits are the cells that cannot hold, each with the sentence that docs/security.md
	// has about it. They are shown to be so, lest the sentence outlive them.
	limits []limit
	waits  string // what attacks of this row wait for; "": nothing
}

type attack struct {
	name string
	run  func(w *world)
}

type limit struct {
	columns []string
	reason  string
	run     func(w *world)
}

var columns = []string{takeover, sent, read, forged, lockedOut, memory}

// maxMemory is what the process of all these may take, the tests' own share included. The
// functions have 256 MB on AWS.
const maxMemory = 200 << 20

// on makes attacks of a variation on each of some databases.
func on(name string, run func(w *world, d *database), databases ...*database) (all []attack) {
	for _, d := range databases {
		all = append(all, attack{name + " " + d.engine, func(w *world) { run(w, d) }})
	}
	return all
}

// rows are the table.
func rows() []row {
	sql, every := []*database{bankPostgres, bankMariaDB}, []*database{bankPostgres, bankMariaDB, bankRedis}
	redirected := func(path bool) (all []attack) {
		for i, r := range redirects {
			if r.path != path {
				continue
			}
			for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis, clearRedis} {
				if r.says(d) {
					strategies := d.strategies()
					all = append(all, attack{r.name + " " + d.engine, func(w *world) { r.run(w, d, strategies[i%len(strategies)], 1+i%2, i%2 == 0) }})
				}
			}
		}
		return all
	}
	rebound := func(want ...string) (all []attack) {
		for _, r := range rebindings() {
			if slices.Contains(want, r.entrance) && !r.clear && r.strategy == map[bool]string{true: "overlap", false: "alternating-users"}[r.db.overlap] {
				all = append(all, attack{"a name that rebinds: " + r.String(), r.run})
			}
		}
		return all
	}
	replicas := func(byAdmin bool) []attack {
		return on("a server that says it is a replica", func(w *world, d *database) {
			for looks := range 3 {
				replica(w, d, looks, byAdmin, false)
			}
		}, sql...)
	}
	named := on("hostile names", func(w *world, d *database) {
		for i, name := range hostileNames {
			injection(w, d, name, i%2 == 0, false)
		}
	}, every...)
	cloned := on("clones", func(w *world, d *database) {
		for _, c := range clones {
			c.run(w, d)
		}
	}, sql...)
	var intruded, foreign []attack
	for _, i := range intruders {
		intruded = append(intruded, on("a pending value "+i.name, func(w *world, d *database) { i.run(w, d, "attacker1") }, every...)...)
	}
	for _, n := range namesakes {
		foreign = append(foreign, on(n.name, func(w *world, d *database) { n.run(w, d, false) }, sql...)...)
	}

	return []row{
		{
			may:     "write a value",
			attacks: slices.Concat(redirected(false), named, intruded, replicas(false), on("the admin of others in masterarn", adminOfOthers(false), sql...)),
			limits: []limit{
				{[]string{lockedOut}, "where a server locks users out after wrong passwords, whoever may write a value can have the function use them up for any user of that server", wrongPasswords},
			},
		},
		{
			may:     "write tags",
			attacks: slices.Concat(on("the admin of others in rekey:admin", adminOfOthers(true), sql...), on("another rotator", anotherRotator, sql...), waiting(serversAreBounded, attack{"a password of two billion characters", longPassword})),
			waits:   "serversAreBounded",
			limits: []limit{
				{[]string{sent}, "rekey:connection says where a plain password is used, so whoever may write it is sent that password", anotherConnection},
				{[]string{lockedOut}, "rekey:retire ends a grace early, for applications that still have the older password", earlyRetirement(false)},
			},
		},
		{
			may:     "write a value and its tags",
			attacks: slices.Concat(rebound(byCreate, bySet, byPlanner, byParameter), cloned, replicas(true)),
		},
		{
			may: "send to the queue",
			attacks: slices.Concat([]attack{{"messages about other parameters", forgedMessages(foreignMessages)}},
				waiting(messagesAreOrders, attack{"messages that Parameter Store would refuse", forgedMessages(refusedMessages)}, attack{"an early order to retire", earlyRetirement(true)})),
			waits: "messagesAreOrders",
		},
		{
			may: "own the host of a secret",
			attacks: slices.Concat(replicas(false), replicas(true),
				waiting(serversAreBounded, on("lengths that no memory holds", hugeLengths, every...)...)),
			waits: "serversAreBounded",
		},
		{
			may:     "own the DNS of a name that secrets have",
			attacks: slices.Concat(on("a name that leads to a fake", spoofed(true), every...), on("a name that comes to lead to a fake", turning, every...)),
			limits: []limit{
				{[]string{sent, lockedOut}, "without TLS a password of Redis, and a proof of any other, goes wherever the name leads, and a rotation that ends there is lost: applications are refused until the next one", func(w *world) { spoofed(false)(w, clearRedis) }},
			},
		},
		{
			may:     "sit on the path",
			attacks: slices.Concat(redirected(true), on("a relay that reads", onThePath(true), every...), on("a relay that reads, where there is no TLS", onThePath(false), sql...)),
			limits: []limit{
				{[]string{sent}, "without TLS Redis is sent passwords as they are", func(w *world) { onThePath(false)(w, clearRedis) }},
				// The lead's mend: the admin's own read of mysql.user is to confirm which
				// account has the password that logged in. Then this holds.
				{[]string{takeover}, "without TLS whoever sits on the path may answer for the server, and so choose which of several accounts of one name an admin changes", falseAccount},
			},
		},
		{may: "own another account", attacks: foreign},
	}
}

// waiting returns attacks if what they wait for is there.
func waiting(there bool, attacks ...attack) []attack {
	if there {
		return attacks
	}
	return nil
}

// bystander makes an application that has nothing to do with the attack, in the same
// account and at the same servers.
func bystander(w *world, d *database) {
	value := d.value(w.person(d, "bystander"))
	w.newSecret(fmt.Sprintf("bystander/%d", serial.Add(1)), value)
	w.readers = append(w.readers, reader{"the bystander of " + d.engine, d, func() string { return value }})
}

// TestTable runs every attack, and after each looks for everything that must not happen.
func TestTable(t *testing.T) {
	for _, r := range rows() {
		cells := map[string]string{}
		for _, a := range r.attacks {
			t.Run(r.may+"/"+a.name, func(t *testing.T) {
				w := newWorld(t)
				for _, d := range []*database{bankPostgres, bankMariaDB, bankRedis} {
					bystander(w, d)
				}
				a.run(w)
				for column, what := range w.outcome() {
					t.Errorf("%s: %s", column, what)
					cells[column] = "FAILED: " + a.name
				}
				if t.Failed() {
					w.nothing()
				}
			})
		}
		for _, l := range r.limits {
			t.Run(r.may+"/"+l.columns[0], func(t *testing.T) {
				w := newWorld(t)
				l.run(w)
				o := w.outcome()
				for _, column := range l.columns {
					if o[column] == "" {
						t.Errorf("%s: it held: correct docs/security.md, which says: %s", column, l.reason)
					}
					delete(o, column)
					cells[column] = "by design: " + l.reason
				}
				for column, what := range o {
					t.Errorf("%s: %s", column, what)
				}
			})
		}
		if used := peak(t); used > maxMemory {
			t.Errorf("%s: %d MB", r.may, used>>20)
			cells[memory] = "FAILED"
		}
		t.Logf("whoever may %s (%d attacks):", r.may, len(r.attacks))
		for _, column := range columns {
			cell := cells[column]
			if cell == "" {
				cell = "held"
			}
			t.Logf("    %s: %s", column, cell)
		}
		if r.waits != "" && !map[string]bool{"messagesAreOrders": messagesAreOrders, "serversAreBounded": serversAreBounded}[r.waits] {
			t.Logf("    some attacks wait for %s", r.waits)
		}
	}
}

// peak is the most memory that this process has had.
func peak(t *testing.T) uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil { // no Linux: what the runtime has had, which it does not give back
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.Sys
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kB, err := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kB << 10
}

// adminOfOthers names the DBA, and secrets of others that hold no admin, as the admin of a
// secret for a user of somebody else's, whose password the attacker does not have.
func adminOfOthers(byTag bool) func(w *world, d *database) {
	return func(w *world, d *database) {
		victim := w.person(d, "payments")
		// A secret that the functions may read, with what nobody should see.
		hidden := "hidden-" + rand.Text()
		w.protect(hidden)
		others := w.newSecret(fmt.Sprintf("others/%d", serial.Add(1)), d.value(account{strings.Repeat("u", 100) + hidden, hidden}, "dbname", hidden, "token", hidden))
		strange := w.newSecret(fmt.Sprintf("others/%d", serial.Add(1)), `{"host":"`+hidden+`","username":"`+hidden+`","password":"`+hidden+`","port":"`+hidden+`"}`)
		plain := w.newSecret(fmt.Sprintf("others/%d", serial.Add(1)), hidden)
		for _, admin := range []string{w.adminSecret(d), others, strange, plain} {
			for _, user := range []string{victim.user, d.admin.user} {
				mine := account{user, "anything-At-all-0"}
				if byTag {
					_ = w.rotate(w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), d.value(mine), "rekey:admin", admin, "rekey:strategy", "single-user"))
					_ = w.rotate(w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), d.value(mine), "rekey:admin", admin))
				} else {
					_ = w.rotate(w.newSecret(fmt.Sprintf("mine/%d", serial.Add(1)), d.value(mine, "masterarn", admin)))
				}
			}
		}
	}
}

// anotherRotator has the tag name the rotator of an engine that sends passwords as they are,
// of a secret that has no TLS, with the attacker on the path.
func anotherRotator(w *world, d *database) {
	owner := w.person(d, "shop")
	w.own = append(w.own, owner.user)
	admin := w.newSecret(fmt.Sprintf("dba/%d", serial.Add(1)), d.value(d.admin, "ssl", false))
	arn := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner, "ssl", false))
	w.tag(arn, "rekey:rotator", "redis")
	w.tag(arn, "rekey:admin", admin)
	w.tag(arn, "rekey:strategy", "overlap")
	d.fake.speaks = "redis"
	dns.set(d.host, to(fakeAddress))
	defer dns.set(d.host, to(bankAddress))
	_ = w.rotate(arn)
}

func longPassword(w *world) {
	owner := w.person(bankRedis, "shop")
	_ = w.rotate(w.newSecret("shop", bankRedis.value(owner), "rekey:password", "length=2000000000"))
}

func anotherConnection(w *world) {
	d := bankRedis
	owner := w.person(d, "shop")
	arn := w.newSecret("plain", owner.password, "rekey:rotator", "redis", "rekey:connection", fmt.Sprintf("redis://%s@%s:%d/", owner.user, d.host, d.port))
	w.tag(arn, "rekey:connection", fmt.Sprintf("redis://%s@%s:%d/", owner.user, host(to(fakeAddress)), d.port))
	_ = w.rotate(arn)
}

// earlyRetirement has the older of two passwords be withdrawn inside its grace: by the tag,
// or by a message that nobody's planner has sent.
func earlyRetirement(byMessage bool) func(w *world) {
	return func(w *world) {
		d := bankRedis
		owner := w.person(d, "shop")
		w.own = append(w.own, owner.user)
		first := d.value(owner)
		arn := w.newSecret("shop", first, "rekey:strategy", "overlap")
		version, _ := w.current(arn)
		w.check(w.rotate(arn))
		w.readers = append(w.readers, reader{"applications inside their grace", d, func() string { return first }})
		if byMessage {
			w.send(arn, toJSON(map[string]any{"retire": map[string]string{"arn": arn, "version": version}}))
		} else {
			w.tag(arn, "rekey:retire", version)
		}
		w.tick()
	}
}

// wrongPasswords has a server that counts them lock a user out that is no business of the
// attacker's.
func wrongPasswords(w *world) {
	d := bankMariaDB
	victim := w.person(d, "payments")
	value := d.value(victim)
	w.readers = append(w.readers, reader{"the victim's applications", d, func() string { return value }})
	// The server's word for it is no refusal of a password.
	refused := d.refused
	d.refused = func(err error) bool {
		return refused(err) || strings.Contains(err.Error(), "4150") || strings.Contains(err.Error(), "blocked")
	}
	w.check(d.exec(w.t.Context(), "SET GLOBAL max_password_errors = 2"))
	w.t.Cleanup(func() {
		d.refused = refused
		for _, statement := range []string{"SET GLOBAL max_password_errors = 4294967295", "FLUSH PRIVILEGES"} {
			if err := d.exec(context.Background(), statement); err != nil {
				w.t.Error(err)
			}
		}
	})
	arn := w.newSecret("mine", d.value(account{victim.user, "anything-At-all-0"}))
	_ = w.rotate(arn)
	_ = w.rotate(arn)
}

// spoofed has the bank's name lead to the attacker's fake, while a secret of somebody's is
// rotated, with an admin where the engine has one, and retired.
func spoofed(secure bool) func(w *world, d *database) {
	return func(w *world, d *database) {
		owner := w.person(d, "shop")
		w.own = append(w.own, owner.user, owner.user+"_clone")
		arn := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner))
		admin := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner), "rekey:admin", w.adminSecret(d), "rekey:strategy", d.strategies()[len(d.strategies())-1])
		w.readers = append(w.readers, reader{"the secret's own applications", d, func() string { _, value := w.current(arn); return value }})
		dns.set(d.host, to(fakeAddress))
		_, _ = w.rotate(arn), w.rotate(admin)
		dns.set(d.host, to(bankAddress))
		if secure {
			w.check(w.rotate(arn)) // it goes on when the name is right again
		}
	}
}

// turning has the bank's name lead to the fake from the second, third or a later look on.
func turning(w *world, d *database) {
	for looks := range maxLooks {
		owner := w.person(d, "shop")
		w.own = append(w.own, owner.user)
		arn := w.newSecret(fmt.Sprintf("shop/%d", serial.Add(1)), d.value(owner))
		dns.set(d.host, rebind(answer{addresses: []string{bankAddress}}, looks, answer{addresses: []string{fakeAddress}}))
		_ = w.rotate(arn)
		dns.set(d.host, to(bankAddress))
		_ = w.rotate(arn) // what was begun is finished
		w.readers = append(w.readers, reader{fmt.Sprintf("applications after %d looks", looks), d, func() string { _, value := w.current(arn); return value }})
	}
}

// pathAddress is where a relay of the attacker's stands in the way of the bank's servers.
const pathAddress = "127.0.0.4"

// onThePath reads what passes while a secret is rotated and retired.
func onThePath(secure bool) func(w *world, d *database) {
	return func(w *world, d *database) {
		r := d.onPath(w)
		owner := w.person(d, "shop")
		w.own = append(w.own, owner.user, owner.user+"_clone")
		var fields []any
		if !secure {
			fields = []any{"ssl", false}
		}
		tags := []string{"rekey:strategy", d.strategies()[len(d.strategies())-1]}
		if d.engine != "redis" {
			tags = append(tags, "rekey:admin", w.newSecret("dba", d.value(d.admin, fields...)))
		}
		arn := w.newSecret("shop", d.value(owner, fields...), tags...)
		version, _ := w.current(arn)
		w.check(w.rotate(arn))
		_, value := w.current(arn)
		w.protect(field(w.t, value, "password"))
		w.tag(arn, "rekey:retire", version)
		w.tick()
		if r.sent.Len() == 0 {
			w.t.Error("nothing has passed the relay")
		}
		w.taps = append(w.taps, r)
	}
}

// onPath puts a relay in the way of the bank's server for the rest of the test.
func (d *database) onPath(w *world) *relay {
	if d.path == nil {
		var err error
		d.path, err = newRelay(pathAddress, d.port, fmt.Sprintf("%s:%d", bankAddress, d.port))
		w.check(err)
	}
	d.path.reset()
	dns.set(d.host, to(pathAddress))
	w.t.Cleanup(func() { dns.set(d.host, to(bankAddress)) })
	return d.path
}

// falseAccount has a relay answer the first login in the server's place, and say that it was
// of an account of somebody else's with the same user name.
func falseAccount(w *world) {
	d := bankMariaDB
	r := d.onPath(w)
	owner := w.person(d, "shop")
	w.own = append(w.own, owner.user)
	w.check(d.exec(w.t.Context(), "CREATE USER "+owner.user+"@'10.%' IDENTIFIED BY 'of-Another-team-1'"))
	w.own = slices.DeleteFunc(w.own, func(user string) bool { return user == owner.user })
	w.stored[d] = d.stored(w.t)
	d.fake.account = owner.user + "@10.%"
	r.intercept = func(n int, conn net.Conn) bool {
		if n > 0 {
			return false
		}
		p := &peer{fake: d.fake}
		p.use(conn)
		_ = d.fake.mysql(p)
		return true
	}
	admin := w.newSecret("dba", d.value(d.admin, "ssl", false))
	_ = w.rotate(w.newSecret("shop", d.value(owner, "ssl", false), "rekey:admin", admin, "rekey:strategy", "single-user"))
	d.fake.reset() // it was sent the proof that anybody on the path may ask for
	_ = w.rotate(w.newSecret("shop-again", d.value(owner, "ssl", false), "rekey:strategy", "single-user"))
}

// hugeLengths has a server let everybody in, and then announce more than memory holds.
func hugeLengths(w *world, d *database) {
	d.fake.huge = true
	mine := account{"mine", "my-Own-password-1"}
	d.fake.knows = []string{mine.password}
	_ = w.rotate(w.newSecret("mine", d.value(mine, "host", host(to(fakeAddress)))))
}

// send puts a message into the queue, as whoever may send can.
func (w *world) send(group, body string) {
	w.t.Helper()
	url := w.cloud.QueueURL(w.endpoint, orders)
	_, err := w.sqs.SendMessage(w.t.Context(), &sqs.SendMessageInput{
		QueueUrl: &url, MessageBody: &body, MessageGroupId: aws.String(fmt.Sprintf("%.32x", group)), MessageDeduplicationId: aws.String(rand.Text()),
	})
	w.check(err)
}

// forgedMessages sends messages about a parameter whose applications must go on.
func forgedMessages(bodies func(arn, name, other string) []string) func(w *world) {
	return func(w *world) {
		d := bankRedis
		owner, else_ := w.person(d, "shop"), w.person(d, "payments")
		w.own = append(w.own, owner.user)
		name, other := fmt.Sprintf("/shop/%d", serial.Add(1)), fmt.Sprintf("/payments/%d", serial.Add(1))
		arn := w.parameter(name, d.value(owner), "rekey:rotator", "redis", "rekey:paused", "yes")
		w.cloud.AddParameter(localaws.Parameter{Name: other, Type: "SecureString", Value: d.value(else_)}) // not rekey's
		w.readers = append(w.readers, reader{"the parameter's applications", d, func() string { return w.currentParameter(name) }},
			reader{"those of another parameter", d, func() string { return w.currentParameter(other) }})
		for _, body := range bodies(arn, name, other) {
			w.send(arn, body)
			w.tick()
		}
	}
}

func foreignMessages(arn, name, other string) []string {
	theirs := strings.Replace(arn, name, other, 1)
	order := func(arn, name string, more string) string {
		return fmt.Sprintf(`{"parameter":{"arn":%q,"name":%q,"base":1%s},"nonce":"n%s"}`, arn, name, more, rand.Text())
	}
	return []string{
		order(arn, other, ""), order(theirs, name, ""), order(theirs, other, ""),
		order("arn:aws:ssm:us-east-1:999999999999:parameter"+name, name, ""),
		order(arn, "/rekey/pending/x/1", ""), order(arn, "/aws/reference/secretsmanager/dba", ""),
		toJSON(map[string]any{"retire": map[string]string{"arn": arn, "name": other, "version": "1"}}),
		toJSON(map[string]any{"retire": map[string]string{"arn": theirs, "name": other, "version": "1"}}),
		`{}`, `[]`, `null`, `{"parameter":null}`, "\ufffd", `{"parameter":{"arn":"x","name":"y","base":-1}}`,
		"{\"parameter\":{\"arn\":\"" + arn + "\\n{\\\"message\\\":\\\"forged\\\"}\",\"name\":\"" + name + "\",\"base\":1}}",
	}
}

func refusedMessages(arn, name, _ string) []string {
	order := func(name, more string) string {
		return fmt.Sprintf(`{"parameter":{"arn":%q,"name":%q,"base":1%s},"nonce":"n%s"}`, arn, name, more, rand.Text())
	}
	return []string{
		order(name, `,"keyId":"alias/aws/ssm","tier":"Standard","description":"`+strings.Repeat("x", 1100)+`"`),
		order(name, `,"keyId":"alias/none","tier":"Standard"`),
		order(name, `,"allowedPattern":"^never$"`),
		order(name+":1", ""), order(arn, ""),
	}
}
