package attacks

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestGuessesInOnesOwnValue has the owner of a secret write guesses of an admin's password
// into the fields of the secret that errors show. No error tells which guess is right.
func TestGuessesInOnesOwnValue(t *testing.T) {
	w := newWorld(t)
	const right = "tr0ub4dor-3"
	admin := w.newSecret("dba/person", bankPostgres.value(account{"dba_person", right}))
	guesses := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("guess-n%04d", i))
		}
		all[n/2] = right
		return strings.Join(all, ".")
	}
	shown := 0
	for i, c := range []struct {
		field string
		n     int
	}{{"host", 600}, {"host", 20}, {"username", 600}, {"username", 5}, {"dbname", 600}, {"nodes", 20}, {"masterarn", 20}, {"engine", 20}} {
		var value map[string]any
		if err := json.Unmarshal([]byte(bankPostgres.value(account{"me", "my-Own-password-1"})), &value); err != nil {
			t.Fatal(err)
		}
		value[c.field] = guesses(c.n)
		arn := w.newSecret(fmt.Sprintf("mine/%d", i), toJSON(value), "rekey:admin", admin)
		if err := w.rotate(arn); err == nil {
			t.Fatalf("%s: the rotation did not fail", c.field)
		}
		text := w.lastError()
		if strings.Contains(text, right) {
			shown++
		}
		if strings.Contains(text, "[redacted]") {
			t.Errorf("%d guesses in %s: the error tells which one is right: %.600s", c.n, c.field, text)
		}
	}
	// Errors show the list of nodes in a spelling that the owner did not choose.
	for name, nodes := range map[string]any{"a list": strings.Split(guesses(40), "."), "a text": strings.ReplaceAll(guesses(40), ".", ", ")} {
		var value map[string]any
		if err := json.Unmarshal([]byte(bankRedis.value(account{"me", "my-Own-password-1"})), &value); err != nil {
			t.Fatal(err)
		}
		value["nodes"] = nodes
		arn := w.newSecret("mine/nodes/"+strings.ReplaceAll(name, " ", ""), toJSON(value), "rekey:admin", w.newSecret("dba/redis/"+strings.ReplaceAll(name, " ", ""), bankRedis.value(account{"dba_person", right})), "rekey:strategy", "single-user")
		if err := w.rotate(arn); err == nil || strings.Contains(w.lastError(), "[redacted]") {
			t.Errorf("guesses in nodes as %s: %.600s", name, w.lastError())
		}
	}
	if shown == 0 {
		t.Error("no error shows what the owner wrote, so this proves nothing")
	}
}

// Errors also show pieces of connection strings, decoded on the way, and names of members.
func TestGuessesInAConnectionStringAndInNames(t *testing.T) {
	const right = "tr0ub4dor-3"
	guesses := func(n int, with bool, between string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("g-%03d%04d", i, i))
		}
		if with {
			all[n/2] = right
		}
		return strings.Join(all, between)
	}
	// rotate rotates a new secret, and returns the error.
	type rotate func(w *world, with bool) string
	inHost := func(value string, n int) rotate {
		return func(w *world, with bool) string {
			admin := w.newSecret("dba/person", bankPostgres.value(account{"dba_person", right}))
			arn := w.newSecret("mine", fmt.Sprintf(value, guesses(n, with, ".")), "rekey:admin", admin, "rekey:rotator", "postgres")
			if w.rotate(arn) == nil {
				t.Fatalf("%s: the rotation did not fail", value)
			}
			return w.lastError()
		}
	}
	inName := func(d *database, strategy string) rotate {
		return func(w *world, with bool) string {
			admin := w.newSecret("dba/person", d.value(account{"dba_person", right}, "port", 1)) // of any other server
			me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
			w.check(d.create(t.Context(), me.user, me.password))
			arn := w.newSecret("mine", d.value(account{me.user, "an-older-password"}), "rekey:admin", admin, "rekey:strategy", strategy, "rekey:grace", "1d")
			older, _ := w.current(arn)
			w.put(arn, d.value(me, guesses(600, with, " "), me.password))
			w.tag(arn, "rekey:retire", older)
			if w.rotate(arn) == nil {
				t.Fatalf("%s: the rotation did not fail", d.engine)
			}
			return w.lastError()
		}
	}
	for name, rotate := range map[string]rotate{
		"host in a URL":            inHost(`{"DATABASE_URL":"postgres://me:my-Own-password-1@%s:5432/bank"}`, 20),
		"host in a URL of JDBC":    inHost(`{"url":"jdbc:postgresql://%s:5432/bank?user=me&password=my-Own-password-1"}`, 20),
		"host beside the password": inHost(`{"url":"jdbc:postgresql://%s:5432/bank","username":"me","password":"my-Own-password-1"}`, 20),
		"host in libpq's text":     inHost(`{"url":"host=%s user=me password=my-Own-password-1 dbname=x"}`, 20),
		"database in a URL": func(w *world, with bool) string {
			admin := w.newSecret("dba/person", bankPostgres.value(account{"dba_person", right}))
			me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
			w.check(bankPostgres.create(t.Context(), me.user, me.password))
			value := fmt.Sprintf(`{"DATABASE_URL":"postgres://%s:%s@%s:%d/%s"}`, me.user, me.password, bankPostgres.host, bankPostgres.port, guesses(600, with, "%20"))
			if w.rotate(w.newSecret("mine", value, "rekey:rotator", "postgres", "rekey:strategy", "single-user", "rekey:admin", admin)) == nil {
				t.Fatal("the rotation did not fail")
			}
			return w.lastError()
		},
		"name of a member, MariaDB":    inName(bankMariaDB, "overlap"),
		"name of a member, PostgreSQL": inName(bankPostgres, "alternating-users"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, with := range []bool{false, true} {
				if text := rotate(newWorld(t), with); strings.Contains(text, "[redacted]") || !strings.Contains(text, "g-000") {
					t.Errorf("with the right guess %v: %.600s", with, text)
				}
			}
		})
	}
}
