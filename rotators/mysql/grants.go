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
	passOn      = "GRANT OPTION FOR " // of MySQL's dynamic privileges each has its own
	everywhere  = "*.*"
	roles       = ""
)

// grants reads an account's grants. The text that is read holds hashes: it goes
// into no error.
func (s *session) grants(ctx context.Context, a account) (grants, error) {
	return s.grantsOf(ctx, a.sql())
}

// grantsOf reads the grants of an account or role that is named in SQL.
func (s *session) grantsOf(ctx context.Context, a string) (grants, error) {
	rows, err := s.query(ctx, "SHOW GRANTS FOR "+a, 1)
	if err != nil {
		return nil, explainChange(ctx, err, s.login)
	}
	g := grants{}
	for _, row := range rows {
		g.read(row[0])
	}
	return g, nil
}

// read adds one line of SHOW GRANTS. What is no grant and no restriction it passes over: a
// default role.
func (g grants) read(line string) {
	if line, ok := strings.CutPrefix(line, "REVOKE "); ok {
		what, _, _ := cut(line, " FROM ")
		if list, on, ok := cut(what, " ON "); ok {
			for list != "" {
				var privilege string
				privilege, list, _ = cut(list, ",")
				g.add(restriction+on, strings.TrimSpace(privilege))
			}
		}
		return
	}
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
	allDynamic := isPrivilege
	for list != "" {
		var privilege string
		privilege, list, _ = cut(list, ",")
		privilege, list = strings.TrimSpace(privilege), strings.TrimSpace(list)
		if isPrivilege {
			g.add(on, privilege)
			if !isDynamic(privilege) {
				allDynamic = false
			} else if strings.Contains(with, grantOption) {
				g.add(on, passOn+privilege)
			}
		} else {
			g[on] = set(g[on], privilege)
			if strings.Contains(with, "ADMIN OPTION") {
				g[on] = set(g[on], adminOption+privilege)
			}
		}
	}
	if isPrivilege && !allDynamic && strings.Contains(with, grantOption) {
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
	if on == roles || isRestriction(on) || strings.HasPrefix(privilege, passOn) {
		return false
	}
	if privilege != grantOption && privilege != "PROXY" && g[on][everything] {
		return true
	}
	return on != everywhere && !isAccount(on) && g.allows(everywhere, privilege)
}

// restriction starts what a restriction stands on. It sorts behind *.*, as it must be made
// after what it restricts.
const restriction = "-"

func isRestriction(on string) bool { return strings.HasPrefix(on, restriction) }

// isDynamic reports whether a privilege is one of those that MySQL's parts register at run
// time. They alone have underscores in their names.
func isDynamic(privilege string) bool {
	return strings.Contains(privilege, "_") && !strings.Contains(privilege, "`")
}

// widen has what is to be taken away be taken in the way MySQL can: it takes the right to
// pass on one role or one dynamic privilege only with that itself, which is then granted again.
func (g grants) widen() {
	for on, privileges := range g {
		for p := range maps.Clone(privileges) {
			for _, option := range []string{adminOption, passOn} {
				if whole, ok := strings.CutPrefix(p, option); ok {
					delete(privileges, p)
					g[on][whole] = true
				}
			}
		}
	}
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
			if !g[on][p] && !(p != grantOption && !strings.HasPrefix(p, passOn) && on != roles && g[on][everything]) {
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
				if !admin && g[on][adminOption+p] {
					continue // MySQL takes the option away if the role is granted again without
				}
				sql := "GRANT " + role + " TO " + to.sql()
				if admin {
					sql += " WITH ADMIN OPTION"
				}
				statements = append(statements, sql)
			}
			continue
		}
		if isRestriction(on) {
			statements = append(statements, "REVOKE "+strings.Join(privileges, ", ")+" ON "+on[len(restriction):]+" FROM "+to.sql())
			continue
		}
		for _, p := range privileges {
			if privilege, ok := strings.CutPrefix(p, passOn); ok {
				statements = append(statements, "GRANT "+privilege+" ON "+on+" TO "+to.sql()+" WITH "+grantOption)
			}
		}
		// With GRANT OPTION in one statement, every dynamic privilege in it could be passed on.
		dynamic := slices.DeleteFunc(slices.Clone(privileges), func(p string) bool {
			return !isDynamic(p) || strings.HasPrefix(p, passOn) || slices.Contains(privileges, passOn+p)
		})
		if len(dynamic) > 0 {
			statements = append(statements, "GRANT "+strings.Join(dynamic, ", ")+" ON "+on+" TO "+to.sql())
		}
		had := len(privileges)
		privileges = slices.DeleteFunc(privileges, isDynamic)
		if had > 0 && len(privileges) == 0 {
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
			if isRestriction(on) {
				statements = append(statements, "GRANT "+p+" ON "+on[len(restriction):]+" TO "+from.sql())
				continue
			}
			sql := "REVOKE " + p
			if on != roles {
				sql += " ON " + on
			}
			statements = append(statements, sql+" FROM "+from.sql())
		}
	}
	return statements
}
