package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// A twin is a member of its base, and the setting "role" makes it log in as the
// base. So it has the base's rights whatever becomes of them, and what it creates
// belongs to the base. What a role cannot hand to a member is copied: its
// settings, its connection limit, its expiry, and REPLICATION.

var _ database.Twinner = (*session)(nil)

// HasUser implements database.Twinner.
func (s *session) HasUser(ctx context.Context, user string) (bool, error) {
	rows, err := s.query(ctx, 0, append(slices.Clone(pinned), "SELECT FROM pg_catalog.pg_roles WHERE rolname = "+quoteText(user))...)
	return len(rows) > 0, explainChange(ctx, err, s.login)
}

// EnsureTwin implements database.Twinner. All of it is one transaction.
func (s *session) EnsureTwin(ctx context.Context, base, twin string, found bool, password rotators.Secret) error {
	verifier, err := newVerifier(password.Reveal())
	if err != nil {
		return err
	}
	b, err := quoteName(base)
	if err != nil {
		return err
	}
	t, err := quoteName(twin)
	if err != nil {
		return err
	}
	// It is undone if it does not get to its end, and the session serves on.
	defer func() {
		if s.conn.TxStatus() != 'I' {
			_ = s.run(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	// What it reads is of one moment: another run may be at the same twin.
	begin := slices.Concat([]string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE"}, pinned, []string{"SET LOCAL DateStyle TO 'ISO'", "SET LOCAL TimeZone TO 'UTC'"})
	if err := s.run(ctx, begin...); err != nil {
		return explainTwin(ctx, err, s.login, base)
	}
	is, err := s.roles(ctx, base, twin)
	if err != nil {
		return explainTwin(ctx, err, s.login, base)
	}
	if !is[base].exists {
		return rotators.Permanent(fmt.Errorf("there is no user %q any more that the twin %q could be made after", base, twin))
	}
	if is[twin].exists && !found {
		return database.NewUser(twin)
	}
	if less := is[twin].shed(is[base], t); len(less) > 0 {
		return rotators.Permanent(fmt.Errorf("the twin %q has rights that %q has not: %s, then rotate again", twin, base, bounded.Text(strings.Join(less, "; "))))
	}
	want := is[base].twin(base)
	changes := is[twin].become(want, b, t, s.grantOptions())
	if len(changes) > 0 {
		if err := s.run(ctx, changes...); err != nil {
			return explainTwin(ctx, err, s.login, base)
		}
		if is, err = s.roles(ctx, base, twin); err != nil {
			return explainTwin(ctx, err, s.login, base)
		}
		if left := is[twin].become(want, b, t, s.grantOptions()); len(left) > 0 {
			return rotators.Permanent(fmt.Errorf("the twin %q could not be given the rights of %q; what did not last is: %s", twin, base, bounded.Text(strings.Join(withoutValues(left), "; "))))
		}
	}
	err = s.run(ctx, "ALTER ROLE "+t+" PASSWORD '"+verifier+"'", "COMMIT")
	return explainTwin(ctx, err, s.login, base)
}

// maxLockWait is how long ProveTwin waits for tables that others use, while those
// that want them next wait behind it.
const maxLockWait = "2s"

// ProveTwin implements database.Twinner. It needs no admin: the twin gives away
// what is its own. Only twins that were not made by EnsureTwin own anything.
func (s *session) ProveTwin(ctx context.Context, base string) error {
	b, err := quoteName(base)
	if err != nil {
		return err
	}
	is, err := s.row(ctx, 2, "SELECT session_user, current_user")
	if err != nil {
		return explainLogin(ctx, err, s.login, true)
	}
	if is[0] == is[1] {
		return fmt.Errorf("%s logs in, but not with the rights of %q: PostgreSQL does not heed its setting \"role\": see that %[2]q may become what its own setting \"role\" names, if it has one, then rotate again", s.login, base)
	}
	err = s.run(ctx, append(slices.Clone(pinned), "SET TRANSACTION READ WRITE", "SET LOCAL lock_timeout TO '"+maxLockWait+"'", "REASSIGN OWNED BY CURRENT_USER TO "+b)...)
	if pg, ok := serverSaid(err); ok {
		return explain(err, "%s owns something in the database %q that could not be given to %q: rotate again when nobody uses it, or as one who may, REASSIGN OWNED BY that user TO %s; the server said: %s (SQLSTATE %s)",
			s.login, s.login.Database, base, b, pg.Message, pg.Code)
	}
	return explainChange(ctx, err, s.login)
}

// role is what is known of a role.
type role struct {
	exists, replication, canLogin, inherits bool
	super, createDB, createRole, bypassRLS  bool   // what no member gets
	member                                  bool   // of the base: has its rights, and may become it
	others                                  string // that it is a member of and the base is not, as SQL
	limit, until                            string
	settings                                map[setting]string
}

// setting names one of a role's settings: in one database, or in all for "".
type setting struct{ database, name string }

// roles reads two roles, of which the second may not exist.
func (s *session) roles(ctx context.Context, base, twin string) (map[string]role, error) {
	may := "MEMBER"
	if s.major() >= 16 {
		may = "SET"
	}
	b, t := quoteText(base), quoteText(twin)
	rows, err := s.query(ctx, 12, `SELECT r.rolname, r.rolsuper, r.rolreplication, r.rolcanlogin, r.rolinherit, r.rolconnlimit,
			coalesce(r.rolvaliduntil::text, 'infinity'),
			coalesce(pg_has_role(r.oid, b.oid, 'USAGE') AND pg_has_role(r.oid, b.oid, '`+may+`'), false),
			r.rolcreatedb, r.rolcreaterole, r.rolbypassrls,
			(SELECT string_agg(DISTINCT quote_ident(o.rolname), ', ') FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.roleid
				WHERE m.member = r.oid AND o.oid <> b.oid AND NOT pg_has_role(b.oid, o.oid, 'MEMBER'))
		FROM pg_roles r LEFT JOIN pg_roles b ON b.rolname = `+b+` WHERE r.rolname IN (`+b+`, `+t+`)`)
	if err != nil {
		return nil, err
	}
	found := map[string]role{}
	for _, r := range rows {
		found[r[0]] = role{exists: true, super: r[1] == "t", replication: r[2] == "t", canLogin: r[3] == "t", inherits: r[4] == "t",
			limit: r[5], until: r[6], member: r[7] == "t", createDB: r[8] == "t", createRole: r[9] == "t", bypassRLS: r[10] == "t", others: r[11], settings: map[setting]string{}}
	}
	rows, err = s.query(ctx, 3, `SELECT r.rolname, coalesce(d.datname, ''), c FROM pg_db_role_setting s
		JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
		WHERE r.rolname IN (`+b+`, `+t+`)`)
	for _, r := range rows {
		if !found[r[0]].exists {
			return nil, strange("the setting of a role that was not asked for")
		}
		name, text, _ := strings.Cut(r[2], "=")
		found[r[0]].settings[setting{r[1], name}] = text
	}
	return found, err
}

// twin is what a twin of this role must be.
func (r role) twin(name string) role {
	r.canLogin, r.inherits, r.member = true, true, true
	r.settings = maps.Clone(r.settings)
	// A base that becomes a third role itself has its twin do the same.
	everywhere := setting{"", "role"}
	if _, ok := r.settings[everywhere]; !ok {
		r.settings[everywhere] = "none"
	}
	for k, text := range r.settings {
		if k.name == "role" && text == "none" {
			r.settings[k] = name
		}
	}
	return r
}

// shed lists the statements that take from a twin the rights that its base has not.
// Somebody gave it those, so somebody is to decide. Of what is granted on objects
// nothing is known here: most of it is in other databases.
func (r role) shed(base role, twin string) (statements []string) {
	more := ""
	for _, c := range []struct {
		has, may bool
		no       string
	}{
		{r.super, base.super, " NOSUPERUSER"}, {r.createDB, base.createDB, " NOCREATEDB"},
		{r.createRole, base.createRole, " NOCREATEROLE"}, {r.bypassRLS, base.bypassRLS, " NOBYPASSRLS"},
	} {
		if c.has && !c.may && !base.super {
			more += c.no
		}
	}
	if more != "" {
		statements = append(statements, "ALTER ROLE "+twin+more)
	}
	if r.others != "" {
		statements = append(statements, "REVOKE "+r.others+" FROM "+twin)
	}
	return statements
}

// become lists the statements that make one role what another is to be; none if
// it is so already.
func (r role) become(want role, base, twin, grantOptions string) (statements []string) {
	do := func(format string, args ...any) { statements = append(statements, fmt.Sprintf(format, args...)) }
	if !r.exists {
		do("CREATE ROLE %s LOGIN INHERIT", twin)
		r.canLogin, r.inherits = true, true
	}
	if !r.canLogin || !r.inherits {
		do("ALTER ROLE %s LOGIN INHERIT", twin)
	}
	if !r.member {
		do("GRANT %s TO %s%s", base, twin, grantOptions)
	}
	switch {
	case want.replication && !r.replication:
		do("ALTER ROLE %s REPLICATION", twin)
	case r.replication && !want.replication:
		do("ALTER ROLE %s NOREPLICATION", twin)
	}
	if r.limit != want.limit {
		do("ALTER ROLE %s CONNECTION LIMIT %s", twin, want.limit)
	}
	if r.until != want.until {
		do("ALTER ROLE %s VALID UNTIL %s", twin, quoteText(want.until))
	}
	byName := func(a, b setting) int {
		return strings.Compare(a.database+"\x00"+a.name, b.database+"\x00"+b.name)
	}
	for _, k := range slices.SortedFunc(maps.Keys(want.settings), byName) {
		if text, ok := r.settings[k]; !ok || k.spell(text) != k.spell(want.settings[k]) {
			do("ALTER ROLE %s%s SET %s TO %s", twin, k.in(), k.quoted(), k.spell(want.settings[k]))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(r.settings), byName) {
		if _, ok := want.settings[k]; !ok {
			do("ALTER ROLE %s%s RESET %s", twin, k.in(), k.quoted())
		}
	}
	return statements
}

// withoutValues leaves the values of settings out of statements, for errors: some
// people keep keys in them.
func withoutValues(statements []string) (names []string) {
	for _, s := range statements {
		if before, _, ok := strings.Cut(s, " TO "); ok && strings.Contains(before, " SET ") {
			s = before
		}
		names = append(names, s)
	}
	return names
}

func (k setting) in() string {
	if k.database == "" {
		return ""
	}
	return ` IN DATABASE "` + strings.ReplaceAll(k.database, `"`, `""`) + `"`
}

func (k setting) quoted() string { return `"` + strings.ReplaceAll(k.name, `"`, `""`) + `"` }

// nameLists are the settings that PostgreSQL keeps as lists of quoted names, and
// that must be written name by name. pg_dump has the same list: the server does
// not tell (variable_is_guc_list_quote).
var nameLists = []string{
	"local_preload_libraries", "search_path", "session_preload_libraries",
	"shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
}

// spell writes the stored text of a setting as SQL.
func (k setting) spell(text string) string {
	if !slices.Contains(nameLists, strings.ToLower(k.name)) {
		return quoteText(text)
	}
	var names []string
	// The server folds names of its own, but not those of files.
	fold := strings.EqualFold(k.name, "search_path") || strings.EqualFold(k.name, "temp_tablespaces")
	for _, name := range splitNames(text, fold) {
		names = append(names, quoteText(name))
	}
	return strings.Join(names, ", ")
}

// splitNames reads a stored list of names, of which some are quoted. As a rule the
// server stores what it wrote itself; after SET .. FROM CURRENT, what somebody typed.
func splitNames(text string, fold bool) []string {
	var names []string
	var name strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' && quoted && strings.HasPrefix(text[i+1:], `"`):
			name.WriteByte(c)
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == ',':
			names = append(names, name.String())
			name.Reset()
		case !quoted && strings.IndexByte(" \t\n\r\f\v", c) >= 0:
		case !quoted && fold && 'A' <= c && c <= 'Z':
			name.WriteByte(c + 'a' - 'A')
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}

// grantOptions are those of a membership that gives all rights. Before PostgreSQL
// 16 there were none to choose.
func (s *session) grantOptions() string {
	if s.major() >= 16 {
		return " WITH INHERIT TRUE, SET TRUE"
	}
	return ""
}

// major is the server's version: 15, 18.
func (s *session) major() int {
	text := s.conn.ParameterStatus("server_version")
	digits := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(text)
	}
	n, _ := strconv.Atoi(text[:digits])
	return n
}

// quoteText writes a text as SQL, in the one way that no setting changes.
func quoteText(text string) string {
	return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(text) + `'`
}
