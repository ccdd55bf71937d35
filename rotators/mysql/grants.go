package mysql

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// grants is what an account may do: by what it was granted on, each privilege. What
// it was granted on is SQL as the server writes it: *.*, `shop`.*, PROCEDURE
// `shop`.`sell`, and for a proxy an account. A privilege on a column stands with
// that one column. Roles are granted on "", and as the privilege stands the role.
type grants map[string]map[string]bool

// The privileges that mean others.
const (
	everything  = "ALL PRIVILEGES"
	grantOption = "GRANT OPTION" // for a role: key "ADMIN OPTION FOR role"
	adminOption = "ADMIN OPTION FOR "
	everywhere  = "*.*"
	roles       = ""
)

// grants reads an account's grants. The text that is read holds hashes: it goes
// into no error.
func (s *session) grants(ctx context.Context, a account) (grants, error) {
	rows, err := s.query(ctx, "SHOW GRANTS FOR "+a.sql(), 1)
	if err != nil {
		return nil, explainChange(ctx, err, s.login)
	}
	g := grants{}
	for _, row := range rows {
		g.read(row[0])
	}
	return g, nil
}

// read adds one line of SHOW GRANTS. What is no grant it passes over: a default
// role, and privileges that MySQL takes back in one database (REVOKE), which makes
// an account look as if it may do more.
func (g grants) read(line string) {
	line, ok := strings.CutPrefix(line, "GRANT ")
	if !ok {
		return
	}
	what, to, _ := cut(line, " TO ")
	list, on, isPrivilege := cut(what, " ON ")
	_, with, _ := cut(to, " WITH ")
	if !isPrivilege {
		on = roles
	}
	for list != "" {
		var privilege string
		privilege, list, _ = cut(list, ",")
		privilege, list = strings.TrimSpace(privilege), strings.TrimSpace(list)
		if isPrivilege {
			g.add(on, privilege)
		} else {
			g[on] = set(g[on], privilege)
			if strings.Contains(with, "ADMIN OPTION") {
				g[on] = set(g[on], adminOption+privilege)
			}
		}
	}
	if isPrivilege && strings.Contains(with, grantOption) {
		g[on] = set(g[on], grantOption)
	}
}

// add adds a privilege, one by one if it is for several columns.
func (g grants) add(on, privilege string) {
	if privilege == "USAGE" {
		return
	}
	verb, columns, ok := cut(privilege, " (")
	if !ok {
		g[on] = set(g[on], privilege)
		return
	}
	columns = strings.TrimSuffix(columns, ")")
	for columns != "" {
		var column string
		column, columns, _ = cut(columns, ",")
		g[on] = set(g[on], verb+" ("+strings.TrimSpace(column)+")")
	}
}

func set(m map[string]bool, key string) map[string]bool {
	if m == nil {
		m = map[string]bool{}
	}
	m[key] = true
	return m
}

// cut cuts SQL as strings.Cut does a string, around the first sep that stands
// outside of quotes and, unless sep opens some, parentheses.
func cut(sql, sep string) (before, after string, found bool) {
	depth := 0
	for i := 0; i < len(sql); i++ {
		if depth == 0 && strings.HasPrefix(sql[i:], sep) {
			return sql[:i], sql[i+len(sep):], true
		}
		switch c := sql[i]; c {
		case '`', '\'', '"':
			// A doubled quote ends one quotation and starts the next.
			for i++; i < len(sql) && sql[i] != c; i++ {
				if sql[i] == '\\' && c != '`' {
					i++
				}
			}
		case '(':
			depth++
		case ')':
			depth--
		}
	}
	return sql, "", false
}

// allows tells whether a privilege is among the grants, by itself or by one that
// means it.
func (g grants) allows(on, privilege string) bool {
	if g[on][privilege] {
		return true
	}
	if on == roles {
		return false
	}
	if privilege != grantOption && privilege != "PROXY" && g[on][everything] {
		return true
	}
	return on != everywhere && !isAccount(on) && g.allows(everywhere, privilege)
}

// isAccount tells whether a privilege on this is one to be the proxy of an account.
func isAccount(on string) bool {
	_, _, ok := cut(on, "@")
	return ok
}

// lack is what other grants have and these do not allow.
func (g grants) lack(other grants) grants {
	lacking := grants{}
	for on, privileges := range other {
		for p := range privileges {
			if !g.allows(on, p) {
				lacking[on] = set(lacking[on], p)
			}
		}
	}
	return lacking
}

// less is what is left of these grants without others.
func (g grants) less(other grants) grants {
	left := grants{}
	for on, privileges := range g {
		for p := range privileges {
			if !other[on][p] {
				left[on] = set(left[on], p)
			}
		}
	}
	return left
}

// missing is what other grants have and these do not have in the same words.
func (g grants) missing(other grants) grants {
	missing := grants{}
	for on, privileges := range other {
		for p := range privileges {
			if !g[on][p] && !(p != grantOption && on != roles && g[on][everything]) {
				missing[on] = set(missing[on], p)
			}
		}
	}
	return missing
}

// grant lists the statements that give an account these grants.
func (g grants) grant(to account) (statements []string) {
	for _, on := range slices.Sorted(maps.Keys(g)) {
		privileges := slices.Sorted(maps.Keys(g[on]))
		if on == roles {
			for _, p := range privileges {
				role, admin := strings.CutPrefix(p, adminOption)
				sql := "GRANT " + role + " TO " + to.sql()
				if admin {
					sql += " WITH ADMIN OPTION"
				}
				statements = append(statements, sql)
			}
			continue
		}
		with := ""
		if i := slices.Index(privileges, grantOption); i >= 0 {
			privileges, with = slices.Delete(privileges, i, i+1), " WITH "+grantOption
		}
		if len(privileges) == 0 {
			privileges = []string{"USAGE"}
		}
		statements = append(statements, "GRANT "+strings.Join(privileges, ", ")+" ON "+on+" TO "+to.sql()+with)
	}
	return statements
}

// revoke lists the statements that take these grants from an account.
func (g grants) revoke(from account) (statements []string) {
	for _, on := range slices.Sorted(maps.Keys(g)) {
		for _, p := range slices.Sorted(maps.Keys(g[on])) {
			sql := "REVOKE " + p
			if on != roles {
				sql += " ON " + on
			}
			statements = append(statements, sql+" FROM "+from.sql())
		}
	}
	return statements
}
