package mysql

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

var _ database.Twinner = (*session)(nil)

// HasUser implements database.Twinner.
func (s *session) HasUser(ctx context.Context, user string) (bool, error) {
	rows, err := s.rows(ctx, user)
	return len(rows) > 0, err
}

// EnsureTwin implements database.Twinner. The twin has an account for every account
// of base that this secret is for. One that is not finished is locked; the last
// statement sets the password and unlocks it.
func (s *session) EnsureTwin(ctx context.Context, base, twin string, found bool, password rotators.Secret) error {
	if err := s.takes(twin, password); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(twin); !s.isMariaDB() && n > maxMySQLUser {
		return rotators.Permanent(fmt.Errorf("the second of two alternating users would be %q, which is %d characters long, and MySQL has no user name longer than %d: rename the user, or set rekey:strategy to single-user", twin, n, maxMySQLUser))
	}
	if err := s.writable(ctx); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, twin)
	if err != nil {
		return err
	}
	defer unlock()

	all, err := s.rows(ctx, base)
	if err != nil {
		return err
	}
	bases, err := s.choose(ctx, base, all, nil)
	if err != nil {
		return err
	}
	twins, err := s.rows(ctx, twin)
	if err != nil {
		return err
	}
	if len(twins) > 0 && !found {
		return database.NewUser(twin)
	}
	if err := s.owns(ctx, twin, bases, twins, password); err != nil {
		return err
	}
	for _, b := range bases {
		if err := hasRoom(b.account, b.hourly); err != nil {
			return err
		}
		if !b.settable() {
			return otherMethod(b.account)
		}
	}
	if err := s.canBeTried(base, bases); err != nil {
		return err
	}
	var changes []change
	for _, b := range bases {
		c, err := s.plan(ctx, b, twin, twins)
		if err != nil {
			return err
		}
		changes = append(changes, c)
	}
	for _, c := range changes {
		if err := s.carryOut(ctx, c, password); err != nil {
			return err
		}
	}
	s.remember(twin, twins, []rotators.Secret{password})
	return s.finish(ctx, bases, twin, password)
}

// owns refuses accounts of the twin's name that are not this secret's: a name
// proves nothing.
func (s *session) owns(ctx context.Context, twin string, bases, twins []row, password rotators.Secret) error {
	p := s.proofs[twin]
	known := slices.Concat(p.passwords, s.set[twin], []rotators.Secret{password})
	var strange []account
	for _, t := range twins {
		if err := ctx.Err(); err != nil { // checking passwords takes time
			return explainChange(ctx, err, s.login)
		}
		hosts := slices.ContainsFunc(bases, func(b row) bool { return b.host == t.host })
		proved := !t.settable() && p.account == t.host || slices.ContainsFunc(known, t.has)
		if !hosts || !proved {
			strange = append(strange, t.account)
		}
	}
	if len(strange) > 0 {
		return rotators.Permanent(fmt.Errorf("the twin %q has accounts that this secret cannot answer for, because they have another password, or are for other hosts than %s: drop %s, then rotate again", twin, list(accountsOf(bases)), list(strange)))
	}
	return nil
}

// change is what an account of the twin lacks to equal one of base.
type change struct {
	base       row
	twin       account
	now        row // no hashes if there is no such account
	statements []string
}

// plan compares an account of the twin with the one of base that it is to equal.
func (s *session) plan(ctx context.Context, base row, twin string, twins []row) (c change, err error) {
	c = change{base: base, twin: account{twin, base.host}}
	allowed, err := s.grants(ctx, base.account)
	if err != nil {
		return c, err
	}
	is, err := s.attributes(ctx, base)
	if err != nil {
		return c, err
	}
	if err := s.keepsRoutines(ctx, base.account, allowed); err != nil {
		return c, err
	}
	var have grants
	var has attributes
	if i := slices.IndexFunc(twins, func(t row) bool { return t.host == base.host }); i >= 0 {
		c.now = twins[i]
		if have, err = s.grants(ctx, c.twin); err != nil {
			return c, err
		}
		if has, err = s.attributes(ctx, c.now); err != nil {
			return c, err
		}
	}
	more, powers := allowed.lack(have), grants{}
	for on := range more {
		// The twin may have all else from here, from when base had it too.
		if isAccount(on) {
			powers[on] = more[on]
			delete(more, on)
		}
	}
	if len(powers) > 0 {
		// Somebody gave it those, so somebody is to decide.
		return c, rotators.Permanent(fmt.Errorf("the twin %s has powers that %s has not: %s, then rotate again", c.twin, base.account, strings.Join(powers.revoke(c.twin), "; ")))
	}
	if !s.isMariaDB() {
		more.widen()
	}
	// Earlier versions of rekey gave a twin its rights on MySQL by granting it base as a role.
	// That goes last, when the twin has the rights itself: somebody may still be logged in as the twin.
	last := grants{}
	if more[roles][base.sql()] {
		delete(more[roles], base.sql())
		last[roles] = map[string]bool{base.sql(): true}
	}
	// First what is too much, which may stand for what there is to give.
	c.statements = slices.Concat(more.revoke(c.twin), have.less(more).missing(allowed).grant(c.twin), last.revoke(c.twin))
	if has.options != is.options {
		if len(c.now.hashes) > 0 {
			c.statements = append(c.statements, has.unset(c.twin)...)
		}
		c.statements = append(c.statements, "ALTER USER "+c.twin.sql()+is.options)
	}
	if has.defaultRole != is.defaultRole && (is.defaultRole != "" || has.defaultRole != "") {
		c.statements = append(c.statements, s.setDefaultRole(is.defaultRole, c.twin))
	}
	return c, nil
}

// keepsRoutines refuses a base whose routines would be lost by alternating. The server gives
// who creates a routine the rights to call and to alter it, and gives them to nobody else:
// what the twin creates base could not call after the next rotation, and in the one after
// that the twin would lose the rights too, which base has not. Where base may call and alter
// every routine of the database, nothing is lost.
func (s *session) keepsRoutines(ctx context.Context, base account, allowed grants) error {
	// Rights on no single routine matter here, so the roles' are looked at together.
	all, left, seen := []grants{allowed}, slices.Sorted(maps.Keys(allowed[roles])), map[string]bool{}
	for len(left) > 0 {
		role := left[0]
		left = left[1:]
		if seen[role] || strings.HasPrefix(role, adminOption) {
			continue
		}
		if seen[role] = true; len(seen) > maxRoles {
			return rotators.Permanent(fmt.Errorf("the account %s has more than %d roles, directly or by other roles, and rekey looks at no more: set rekey:strategy to overlap", base, maxRoles))
		}
		g, err := s.grantsOf(ctx, role)
		if err != nil {
			return err
		}
		all, left = append(all, g), append(left, slices.Sorted(maps.Keys(g[roles]))...)
	}
	automatic := ""
	for _, g := range all {
		for _, on := range slices.Sorted(maps.Keys(g)) {
			if on == roles || isRestriction(on) || !g[on]["CREATE ROUTINE"] {
				continue
			}
			// By a role's right, too: readers have the role when they create by it.
			may := func(privilege string) bool { return g.allows(on, privilege) || allowed.allows(on, privilege) }
			if may("EXECUTE") && may("ALTER ROUTINE") {
				continue
			}
			if automatic == "" {
				row, err := s.row(ctx, "SELECT @@global.automatic_sp_privileges", 1)
				if err != nil {
					return explainChange(ctx, err, s.login)
				}
				automatic = row[0]
			}
			if automatic == "0" {
				return nil // the server gives nothing to who creates a routine
			}
			return rotators.Permanent(fmt.Errorf("the account %s may create routines on %s, and not call and alter all of them, so those that one of two alternating users creates the other could not call: GRANT EXECUTE, ALTER ROUTINE ON %[2]s to whom CREATE ROUTINE is granted there, or set rekey:strategy to overlap", base, on))
		}
	}
	return nil
}

// maxRoles is how many roles an account may have: some applications have a dozen, and each
// costs a query.
const maxRoles = 64

func (s *session) setDefaultRole(role string, a account) string {
	to := " TO "
	if s.isMariaDB() {
		to = " FOR "
	}
	if role == "" {
		role = "NONE"
	}
	return "SET DEFAULT ROLE " + role + to + a.sql()
}

// carryOut makes the changes. An account that lacks something is locked before it
// has the new password and until it lacks nothing.
func (s *session) carryOut(ctx context.Context, c change, password rotators.Secret) error {
	switch {
	case len(c.now.hashes) == 0:
		create := "CREATE USER " + c.twin.sql() + s.identified(c.base.method, password) + " ACCOUNT LOCK"
		c.statements = append([]string{create}, c.statements...)
	case len(c.statements) > 0 && !c.now.locked && c.now.has(password):
		c.statements = append([]string{"ALTER USER " + c.twin.sql() + " ACCOUNT LOCK"}, c.statements...)
	}
	return explainChange(ctx, s.run(ctx, c.statements...), s.login)
}

// identified is the clause that sets one password.
func (s *session) identified(method string, password rotators.Secret) string {
	if s.isMariaDB() {
		return viaHashes([]rotators.Secret{password})
	}
	return " IDENTIFIED WITH " + method + " AS " + quoteText(hashFor(method, password.Reveal()))
}

// finish sets the password of the twin's accounts and unlocks them, after it has
// seen that they lack nothing.
func (s *session) finish(ctx context.Context, bases []row, twin string, password rotators.Secret) error {
	twins, err := s.rows(ctx, twin)
	if err != nil {
		return err
	}
	var each, discards []string
	for _, b := range bases {
		c, err := s.plan(ctx, b, twin, twins)
		if err != nil {
			return err
		}
		if len(c.statements) > 0 {
			return rotators.Permanent(fmt.Errorf("the twin %s could not be given the rights of %s; what did not last is: %s", c.twin, b.account, strings.Join(c.statements, "; ")))
		}
		if len(c.now.hashes) > 1 && !s.isMariaDB() {
			// Last, because it may be what proves to another run whose the twin is.
			discards = append(discards, "ALTER USER "+c.twin.sql()+" DISCARD OLD PASSWORD")
		}
		each = append(each, c.twin.sql()+s.identified(b.method, password))
	}
	statements := append([]string{"ALTER USER " + strings.Join(each, ", ") + " ACCOUNT UNLOCK"}, discards...)
	return explainChange(ctx, s.run(ctx, statements...), s.login)
}

// attributes is what an account is besides its grants and passwords, as SQL.
type attributes struct{ options, defaultRole string }

// unset lists the statements that take limits from an account that setting another's
// options would leave: MySQL does not show a limit that is not there, so that what it
// shows of the other takes none away.
func (a attributes) unset(from account) (statements []string) {
	for _, limits := range []struct{ shown, none string }{
		{" WITH MAX_", " WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_USER_CONNECTIONS 0"},
		{" FAILED_LOGIN_ATTEMPTS ", " FAILED_LOGIN_ATTEMPTS 0 PASSWORD_LOCK_TIME 0"},
	} {
		if _, _, ok := cut(a.options, limits.shown); ok {
			statements = append(statements, "ALTER USER "+from.sql()+limits.none)
		}
	}
	return statements
}

func (s *session) attributes(ctx context.Context, r row) (attributes, error) {
	if s.isMariaDB() {
		return r.priv.attributes(), nil
	}
	shown, err := s.row(ctx, "SHOW CREATE USER "+r.sql(), 1)
	if err != nil {
		return attributes{}, explainChange(ctx, err, s.login)
	}
	// CREATE USER .. IDENTIFIED .. [DEFAULT ROLE ..] REQUIRE .. [ATTRIBUTE ..]. Comments
	// and other attributes are the owner's notes on the one account.
	before, tail, ok := cut(shown[0], " REQUIRE ")
	if !ok {
		return attributes{}, fmt.Errorf("what the server shows of the account %s cannot be read: it may be a version that is too new for this one of rekey", r.account)
	}
	_, listed, _ := cut(before, " DEFAULT ROLE ")
	var defaults []string
	for listed != "" {
		var role string
		role, listed, _ = cut(listed, ",")
		defaults = append(defaults, strings.TrimSpace(role))
	}
	slices.Sort(defaults)
	for _, notes := range []string{" ATTRIBUTE ", " COMMENT "} {
		tail, _, _ = cut(tail, notes)
	}
	for _, lock := range []string{" ACCOUNT LOCK", " ACCOUNT UNLOCK"} {
		if before, after, ok := cut(tail, lock); ok {
			tail = before + after
			break
		}
	}
	return attributes{" REQUIRE " + tail, strings.Join(defaults, ", ")}, nil
}

// attributes writes out every one, so that setting them also unsets.
func (p privileges) attributes() (a attributes) {
	var o strings.Builder
	switch p.SSL {
	case 0:
		o.WriteString(" REQUIRE NONE")
	case 1:
		o.WriteString(" REQUIRE SSL")
	case 2:
		o.WriteString(" REQUIRE X509")
	default:
		o.WriteString(" REQUIRE")
		for _, part := range []struct{ word, text string }{{"CIPHER", p.Cipher}, {"ISSUER", p.Issuer}, {"SUBJECT", p.Subject}} {
			if part.text != "" {
				o.WriteString(" " + part.word + " " + quoteText(part.text))
			}
		}
	}
	fmt.Fprintf(&o, " WITH MAX_QUERIES_PER_HOUR %d MAX_UPDATES_PER_HOUR %d MAX_CONNECTIONS_PER_HOUR %d MAX_USER_CONNECTIONS %d MAX_STATEMENT_TIME %f",
		p.Questions, p.Updates, p.Connections, p.Sessions, p.StatementTime)
	switch {
	case p.Lifetime == nil || *p.Lifetime < 0:
		o.WriteString(" PASSWORD EXPIRE DEFAULT")
	case *p.Lifetime == 0:
		o.WriteString(" PASSWORD EXPIRE NEVER")
	default:
		fmt.Fprintf(&o, " PASSWORD EXPIRE INTERVAL %d DAY", *p.Lifetime)
	}
	a.options = o.String()
	if p.DefaultRole != "" {
		a.defaultRole = quoteName(p.DefaultRole)
	}
	return a
}

// ProveTwin implements database.Twinner. There is nothing that the twin itself could see:
// EnsureTwin has compared every account that a login as the twin can be of.
func (s *session) ProveTwin(context.Context, string) error { return nil }
