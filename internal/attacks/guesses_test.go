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
