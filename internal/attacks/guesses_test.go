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
	if shown == 0 {
		t.Error("no error shows what the owner wrote, so this proves nothing")
	}
}
