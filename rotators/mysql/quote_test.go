package mysql

import (
	"strings"
	"testing"
)

// A quoted name is one identifier to a server that reads it by the rules of SQL, and
// the name it stands for is the one that was given.
func FuzzQuoteName(f *testing.F) {
	f.Add("app")
	f.Add("o`brien`; DROP USER root; -- ")
	f.Add("back\\slash ' \"")
	f.Fuzz(func(t *testing.T, name string) {
		quoted := quoteName(name)
		inside := quoted[1 : len(quoted)-1]
		if strings.ReplaceAll(inside, "``", "`") != name || strings.Contains(strings.ReplaceAll(inside, "``", ""), "`") {
			t.Errorf("%q is quoted as %s", name, quoted)
		}
	})
}

// A quoted text ends where it should, read as a server reads it, and stands for the
// text that was given.
func FuzzQuoteText(f *testing.F) {
	f.Add("secret")
	f.Add(`'\'' OR 1=1 -- \`)
	f.Fuzz(func(t *testing.T, text string) {
		quoted := quoteText(text)
		var read strings.Builder
		i := 1
		for ; quoted[i] != '\'' || strings.HasPrefix(quoted[i:], "''"); i++ {
			if quoted[i] == '\\' || quoted[i] == '\'' {
				i++
			}
			read.WriteByte(quoted[i])
		}
		if i != len(quoted)-1 || read.String() != text {
			t.Errorf("%q is quoted as %s", text, quoted)
		}
	})
}

// What a server shows of an account is cut where its quotes say, whatever names hold.
func FuzzCut(f *testing.F) {
	f.Add("a` TO `b", "c'd")
	f.Add(`x\`, "y` TO ")
	f.Fuzz(func(t *testing.T, object, user string) {
		on, to := quoteName(object), account{user, "%"}.sql()
		before, after, ok := cut("SELECT ON "+on+".* TO "+to+" IDENTIFIED BY "+quoteText(user), " TO ")
		if !ok || before != "SELECT ON "+on+".*" || !strings.HasPrefix(after, to) {
			t.Errorf("cut into %q and %q", before, after)
		}
	})
}

// Inside of quotes nothing is cut, and only what ends a quotation ends it: a backslash
// takes the next character as it is, but in backticks.
func TestCutHeedsQuotes(t *testing.T) {
	for _, c := range []struct{ sql, before, after string }{
		{`'it\'s TO '@'%' TO x`, `'it\'s TO '@'%'`, "x"},
		{`"a\" TO " TO x`, `"a\" TO "`, "x"},
		{`'a'' TO ' TO x`, `'a'' TO '`, "x"},
		{`'a\\' TO x TO y`, `'a\\'`, "x TO y"},
		{"`a\\` TO x TO y", "`a\\`", "x TO y"},
		{"UPDATE (`a` TO b) TO x", "UPDATE (`a` TO b)", "x"},
	} {
		if before, after, ok := cut(c.sql, " TO "); !ok || before != c.before || after != c.after {
			t.Errorf("%s is cut into %q and %q", c.sql, before, after)
		}
	}
}

// ALL PRIVILEGES means neither the right to pass privileges on nor that to be a proxy, and what
// holds everywhere says nothing about proxies, which are accounts.
func TestWhatAllPrivilegesMean(t *testing.T) {
	const proxied = "`root`@`localhost`"
	all := grants{everywhere: {everything: true, grantOption: true}, "`e`.*": {everything: true}}
	for _, c := range []struct {
		on, privilege string
		allowed       bool
	}{
		{everywhere, "SELECT", true}, {"`d`.*", "SELECT", true}, {"`d`.`t`", grantOption, true}, {"`e`.*", "SELECT", true},
		{everywhere, "PROXY", false}, {proxied, "PROXY", false}, {proxied, grantOption, false}, {roles, "`clerk`", false},
		{everywhere, passOn + "ROLE_ADMIN", false}, {restriction + "`d`.*", "SELECT", false},
	} {
		if got := all.allows(c.on, c.privilege); got != c.allowed {
			t.Errorf("%s on %q: %t", c.privilege, c.on, got)
		}
	}
	if (grants{everywhere: {everything: true}}).allows(everywhere, grantOption) {
		t.Error("all privileges are the right to pass them on")
	}
	missing := all.missing(grants{"`e`.*": {grantOption: true, "SELECT": true}, roles: {"`clerk`": true}})
	if len(missing["`e`.*"]) != 1 || !missing["`e`.*"][grantOption] || !missing[roles]["`clerk`"] {
		t.Errorf("missing are %v", missing)
	}
}

func TestGrants(t *testing.T) {
	g := grants{}
	for _, line := range []string{
		"GRANT `clerk` TO `app`@`%` WITH ADMIN OPTION",
		"GRANT RELOAD, PROCESS ON *.* TO `app`@`%` IDENTIFIED BY PASSWORD '*74445CD742AF268FD22866DA0D12758951D638F7' REQUIRE SSL",
		"GRANT USAGE ON *.* TO `app`@`%` REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 7",
		"GRANT SELECT, UPDATE (`a`, `b ON, c`) ON `d``TO`.`t` TO `app`@`%` WITH GRANT OPTION",
		"GRANT ALL PRIVILEGES ON `e`.* TO `app`@`%`",
		"GRANT EXECUTE ON PROCEDURE `d`.`p` TO `app`@`%`",
		"GRANT PROXY ON `root`@`localhost` TO `app`@`%`",
		"SET DEFAULT ROLE `clerk` FOR `app`@`%`",
	} {
		g.read(line)
	}
	got := strings.Join(g.grant(account{"twin", "10.%"}), "\n")
	const want = "GRANT `clerk` TO `twin`@`10.%` WITH ADMIN OPTION\n" +
		"GRANT PROCESS, RELOAD ON *.* TO `twin`@`10.%`\n" +
		"GRANT EXECUTE ON PROCEDURE `d`.`p` TO `twin`@`10.%`\n" +
		"GRANT SELECT, UPDATE (`a`), UPDATE (`b ON, c`) ON `d``TO`.`t` TO `twin`@`10.%` WITH GRANT OPTION\n" +
		"GRANT ALL PRIVILEGES ON `e`.* TO `twin`@`10.%`\n" +
		"GRANT PROXY ON `root`@`localhost` TO `twin`@`10.%`"
	if got != want {
		t.Errorf("read and written again:\n%s\nwant:\n%s", got, want)
	}
	for _, c := range []struct {
		on, privilege string
		allowed       bool
	}{
		{"`e`.*", "DROP", true}, {"`e`.*", grantOption, false}, {"`e`.`t`", "DROP", false}, {"`x`.*", "PROCESS", true},
		{roles, "`clerk`", true}, {roles, "`boss`", false}, {"`other`@`%`", "PROXY", false}, {"`d``TO`.`t`", "DELETE", false},
	} {
		if g.allows(c.on, c.privilege) != c.allowed {
			t.Errorf("%s on %s: %t", c.privilege, c.on, !c.allowed)
		}
	}
}
