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
func (s *session) EnsureTwin(ctx context.Context, base, twin string, password rotators.Secret) error {
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
		proved := len(p.passwords) == 0 || !t.settable() && p.account == t.host || slices.ContainsFunc(known, t.has)
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
	want := allowed
	if !s.isMariaDB() {
		if err := s.passesOn(ctx, base.account, allowed); err != nil {
			return c, err
		}
		want = grants{roles: {base.sql(): true}}
		allowed = maps.Clone(allowed)
		allowed[roles] = maps.Clone(allowed[roles])
		allowed[roles] = set(allowed[roles], base.sql())
		is.defaultRole = base.sql()
		// A role passes on everything but whose proxy it may be.
		for on := range allowed {
			if isAccount(on) {
				want[on] = allowed[on]
			}
		}
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
		// On MariaDB the twin may have them from here, from when base had them too.
		if on == everywhere && !s.isMariaDB() || isAccount(on) {
			powers[on] = more[on]
			delete(more, on)
		}
	}
	if len(powers) > 0 {
		// Somebody gave it those, so somebody is to decide.
		return c, rotators.Permanent(fmt.Errorf("the twin %s has powers that %s has not: %s, then rotate again", c.twin, base.account, strings.Join(powers.revoke(c.twin), "; ")))
	}
	// First what is too much, which may stand for what there is to give.
	c.statements = append(more.revoke(c.twin), have.less(more).missing(want).grant(c.twin)...)
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

// passesOn refuses rights that MySQL loses where an account is a role. Seen with 9.7:
// those on single routines, if the server quotes names otherwise than by backticks.
func (s *session) passesOn(ctx context.Context, base account, allowed grants) error {
	for on := range allowed {
		if !strings.HasPrefix(on, "PROCEDURE ") && !strings.HasPrefix(on, "FUNCTION ") {
			continue
		}
		quotes, err := s.row(ctx, "SELECT FIND_IN_SET('ANSI_QUOTES', @@global.sql_mode) = 0 AND @@global.sql_quote_show_create", 1)
		if err != nil {
			return explainChange(ctx, err, s.login)
		}
		if quotes[0] != "1" {
			return rotators.Permanent(fmt.Errorf("the account %s has rights on single routines, which MySQL does not let another account have from it where the server's sql_mode has ANSI_QUOTES or sql_quote_show_create is off: grant it EXECUTE on the database instead, or set rekey:strategy to overlap", base))
		}
		return nil
	}
	return nil
}

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
	_, role, _ := cut(before, " DEFAULT ROLE ")
	for _, notes := range []string{" ATTRIBUTE ", " COMMENT "} {
		tail, _, _ = cut(tail, notes)
	}
	for _, lock := range []string{" ACCOUNT LOCK", " ACCOUNT UNLOCK"} {
		if before, after, ok := cut(tail, lock); ok {
			tail = before + after
			break
		}
	}
	return attributes{" REQUIRE " + tail, role}, nil
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

// ProveTwin implements database.Twinner. On MySQL the twin has its rights from base
// as a role, if that is active. On MariaDB there is nothing that the twin itself
// could see: EnsureTwin has compared every account a login as the twin can be of.
func (s *session) ProveTwin(ctx context.Context, base string) error {
	if s.isMariaDB() {
		return nil
	}
	active, err := s.row(ctx, "SELECT CURRENT_ROLE()", 1)
	if err != nil {
		return explainLogin(ctx, err, s.login, true)
	}
	want := account{base, s.account.host}
	for left := active[0]; left != ""; {
		var role string
		if role, left, _ = cut(left, ","); role == want.sql() {
			return nil
		}
	}
	return fmt.Errorf("%s logs in as %s, but not with the rights of %s, which is no active role of it: rotate again, and if it stays so drop the twin", s.login, s.account, want)
}
