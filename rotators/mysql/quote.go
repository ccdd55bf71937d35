package mysql

import (
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// account is what the server keeps a password for: a user name, and a pattern of
// the hosts from which that user logs in.
type account struct{ user, host string }

// String writes an account for people. Its parts may be what a server said.
func (a account) String() string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	return bounded.Text(quote(a.user) + "@" + quote(a.host))
}

// sql writes an account as SQL, the way the server does.
func (a account) sql() string { return quoteName(a.user) + "@" + quoteName(a.host) }

// quoteName writes a name as SQL. In a name a backslash is a character like any
// other.
func quoteName(name string) string {
	return "`" + strings.ReplaceAll(name, "`", "``") + "`"
}

// quoteText writes a text as SQL, for sessions whose sql_mode is pinned: in them a
// backslash escapes.
func quoteText(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(text) + "'"
}
