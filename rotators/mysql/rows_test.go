package mysql

import (
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// TestRowsThatAreNoAccounts has the server's table of accounts hold what takes long to
// read or to compare. A server of somebody else's may say so of any account.
func TestRowsThatAreNoAccounts(t *testing.T) {
	if !mariaDB {
		return // MySQL has columns, of limited lengths, where MariaDB has a document
	}
	way := `{"plugin":"mysql_native_password","authentication_string":"` + nativeHash("another") + `"}`
	list := func(n int) string { return "[" + strings.Repeat(way+",", n-1) + way + "]" }
	for name, c := range map[string]struct {
		ways      string
		text      string
		permanent bool
		known     int // hashes, if there is no error
	}{
		"as many ways as are looked at": {ways: list(4), known: 1 + maxWays},
		"one more":                      {ways: list(5), text: "has 6 ways to log in, and rekey looks at 5", permanent: true},
		"empty ways":                    {ways: "[" + strings.Repeat("{},", 4) + "{}]", text: "has 6 ways to log in", permanent: true},
		"20,000 ways":                   {ways: list(20000), text: "bytes for .crowd.@.%., which are too many to be an account"},
		"one endless way":               {ways: `[{"plugin":"` + strings.Repeat("x", 8<<20) + `"}]`, text: "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			newUser(t, "crowd", "correct horse")
			newAdmin(t, "crowd_admin")
			exec(t, "UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.auth_or', JSON_EXTRACT('"+c.ways+"', '$')) WHERE User = 'crowd'")
			rows, err := open(t, "crowd_admin", "the admin's password").rows(t.Context(), "crowd")
			if c.text != "" {
				want{text: c.text, permanent: c.permanent}.check(t, err, "correct horse", nativeHash("another"))
				if n := len(err.Error()); n > 500 {
					t.Errorf("the error has %d characters", n)
				}
				return
			}
			if err != nil || len(rows) != 1 || len(rows[0].hashes) != c.known {
				t.Fatalf("%d accounts, %v; want one with %d hashes", len(rows), err, c.known)
			}
		})
	}
}

// TestPasswordsThatAreNotCompared holds that neither a long password nor a hash of many
// rounds is computed with, since both are for others to choose.
func TestPasswordsThatAreNotCompared(t *testing.T) {
	long := strings.Repeat("p", 256)
	salt := strings.Repeat("s", sha2Salt)
	for name, c := range map[string]struct {
		method, stored, password string
		same                     bool
	}{
		"the longest password":        {native, nativeHash(long), long, true},
		"a longer one":                {native, nativeHash(long + "p"), long + "p", false},
		"60,000 characters":           {cachingSHA2, cachingHash("p", salt, sha2Thousands), strings.Repeat("p", 60000), false},
		"the most rounds":             {cachingSHA2, cachingHash("p", salt, 100), "p", true},
		"a thousand more":             {cachingSHA2, cachingHash("p", salt, 100+1), "p", false},
		"the most a server can claim": {cachingSHA2, "$A$FFF$" + salt + strings.Repeat(".", 43), "p", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (row{method: c.method, hashes: []string{c.stored}}).has(rotators.NewSecret(c.password)); got != c.same {
				t.Errorf("the password is the account's: %t, want %t", got, c.same)
			}
		})
	}
}
