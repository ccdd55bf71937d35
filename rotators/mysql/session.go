package mysql

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

type session struct {
	connector *connector
	client    *client
	login     database.Login
	version   string  // 9.7.4, 10.11.19-MariaDB-log
	account   account // what the login was of

	latest rotators.Secret              // the primary password of the session's own account, as far as known
	proofs map[string]proof             // by user name; of an admin's session
	set    map[string][]rotators.Secret // passwords this session gave to others
	before map[string][]row             // the accounts it gave them to, as they were before the first time
}

// proof is what is known to be a user's.
type proof struct {
	account   string // that logged in; "" if it is locked
	passwords []rotators.Secret
	plaintext bool // the login was without TLS
}

var _ database.Accounts = (*session)(nil)

// Account implements database.Accounts.
func (s *session) Account() string { return s.account.host }

// Hold implements database.Accounts. An account is told apart by its host.
func (s *session) Hold(held database.Login, host string) {
	if s.proofs == nil {
		s.proofs = map[string]proof{}
	}
	p := s.proofs[held.User]
	p.passwords = append(p.passwords, held.Password)
	p.plaintext = held.Plaintext
	if host != "" {
		p.account = host
	}
	s.proofs[held.User] = p
}

// SetPasswords implements database.Session. A user has one or two passwords.
func (s *session) SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error {
	if err := s.takes(user, accept...); err != nil {
		return err
	}
	if len(accept) == 2 && accept[0].Equal(accept[1]) {
		accept = accept[:1]
	}
	if err := s.writable(ctx); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, user)
	if err != nil {
		return err
	}
	defer unlock()
	if user == s.login.User {
		if err := s.mayChangeItself(ctx); err != nil {
			return err
		}
	}
	switch {
	case user == s.login.User && s.isMariaDB():
		err = s.setOwnMariaDB(ctx, accept)
	case user == s.login.User:
		err = s.setOwnMySQL(ctx, accept)
	default:
		err = s.setByAdmin(ctx, user, accept)
	}
	return err
}

// takes checks what the server is to be told, and that it is one that would
// understand.
func (s *session) takes(user string, accept ...rotators.Secret) error {
	if n := len(accept); n < 1 || n > 2 {
		return rotators.Permanent(fmt.Errorf("a MySQL or MariaDB user has one or two passwords, not %d", n))
	}
	for _, p := range accept {
		if strings.ContainsRune(p.Reveal(), 0) || p.IsZero() {
			return rotators.Permanent(errors.New("a MySQL or MariaDB password is not empty and holds no NUL character"))
		}
	}
	if user == "" || strings.ContainsRune(user, 0) {
		return rotators.Permanent(errors.New("a MySQL or MariaDB name is not empty and holds no NUL character"))
	}
	oldest := [3]int{8, 0, 14}
	if s.isMariaDB() {
		oldest = [3]int{10, 4, 0}
	}
	if v := s.number(); slices.Compare(v[:], oldest[:]) < 0 {
		return rotators.Permanent(fmt.Errorf("the server is version %s, so nothing was changed: rekey rotates on MySQL from 8.0.14 on and on MariaDB from 10.4 on", bounded.Text(s.version)))
	}
	return nil
}

func (s *session) isMariaDB() bool { return strings.Contains(s.version, "MariaDB") }

var versionNumber = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`)

// number is the server's version. One that cannot be read is taken for new.
func (s *session) number() (n [3]int) {
	m := versionNumber.FindStringSubmatch(strings.TrimPrefix(s.version, "5.5.5-"))
	if m == nil {
		return [3]int{999}
	}
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1])
	}
	return n
}

// writable refuses to change a read-only replica. An admin with enough rights
// could, and then the replica would differ from its source for good.
func (s *session) writable(ctx context.Context) error {
	is, err := s.row(ctx, "SELECT @@global.read_only, @@global.innodb_read_only", 2)
	if err != nil {
		return explainChange(ctx, err, s.login)
	}
	for _, v := range is {
		if v != "0" && v != "OFF" {
			return readOnly(errors.New("read_only or innodb_read_only is on"))
		}
	}
	return nil
}

// maxTurn is how many seconds a session waits for others that change the same user.
const maxTurn = 10

// lock takes turns with other sessions of rekey that change the same user.
func (s *session) lock(ctx context.Context, user string) (unlock func(), err error) {
	name := fmt.Sprintf("'rekey %x'", sha256.Sum256([]byte(user)))[:48] + "'"
	got, err := s.row(ctx, fmt.Sprintf("SELECT GET_LOCK(%s, %d)", name, maxTurn), 1)
	if err != nil {
		return nil, explainChange(ctx, err, s.login)
	}
	if got[0] != "1" {
		return nil, fmt.Errorf("another session has been changing user %q for %d seconds: rotate again", user, maxTurn)
	}
	return func() {
		// The end of the session releases it too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxGoodbye)
		defer cancel()
		_ = s.run(ctx, "DO RELEASE_LOCK("+name+")")
	}, nil
}

// run runs statements one after the other.
func (s *session) run(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := s.query(ctx, sql, 0); err != nil {
			return err
		}
	}
	return nil
}

// nativeOnly is how MariaDB shows an account that logs in by
// mysql_native_password, and by nothing else.
var nativeOnly = regexp.MustCompile(`^IDENTIFIED (BY PASSWORD '\*[0-9A-Fa-f]{40}'|VIA ` + native + ` USING '\*[0-9A-Fa-f]{40}'( OR ` + native + ` USING '\*[0-9A-Fa-f]{40}')*)( |$)`)

// setOwnMariaDB sets the passwords of the session's own account.
func (s *session) setOwnMariaDB(ctx context.Context, accept []rotators.Secret) error {
	shown, err := s.row(ctx, "SHOW CREATE USER", 1)
	if err != nil {
		return explainChange(ctx, err, s.login)
	}
	ways, ok := strings.CutPrefix(shown[0], "CREATE USER "+s.account.sql()+" ")
	if !ok || !nativeOnly.MatchString(ways) {
		return otherMethod(s.account)
	}
	if len(accept) == 1 && strings.HasPrefix(ways, "IDENTIFIED BY ") {
		// Whoever may do nothing else may do this. Of several ways to log in it would
		// be for the first.
		err = s.run(ctx, "SET PASSWORD = "+quoteText(nativeHash(accept[0].Reveal())))
	} else {
		err = s.run(ctx, "ALTER USER "+s.account.sql()+viaHashes(accept))
	}
	return explainChange(ctx, err, s.login)
}

// viaHashes is MariaDB's clause for one password or two.
func viaHashes(accept []rotators.Secret) string {
	var ways []string
	for _, p := range accept {
		ways = append(ways, native+" USING "+quoteText(nativeHash(p.Reveal())))
	}
	return " IDENTIFIED VIA " + strings.Join(ways, " OR ")
}

func otherMethod(accounts ...account) error {
	return rotators.Permanent(fmt.Errorf("the account %s logs in by something else than %s or %s, and rekey sets passwords for these only: ALTER USER .. IDENTIFIED WITH (on MariaDB: VIA) one of them, or rotate another user", list(accounts), native, cachingSHA2))
}

func list(accounts []account) string {
	names := make([]string, len(accounts))
	for i, a := range accounts {
		names[i] = a.String()
	}
	return strings.Join(names, ", ")
}

// MySQL has a primary password and perhaps a secondary one, and IDENTIFIED sets
// the primary. With RETAIN CURRENT PASSWORD the primary becomes the secondary,
// whose place it takes; else the secondary stays. To add a password, RETAIN must be
// said when the one to keep is the primary, and never again: repeated after a lost
// reply it would retain the new password in place of the one that readers have.

// setOwnMySQL sets the passwords of the session's own account. A user may not see
// which of them is the primary. REPLACE, which gives the primary and fails if it is
// another, makes sure. The server wants all of them as they are, and hashes them
// itself.
func (s *session) setOwnMySQL(ctx context.Context, accept []rotators.Secret) error {
	if s.login.Plaintext {
		return rotators.Permanent(fmt.Errorf("a MySQL user that changes its own password must send it, which user %q cannot do without TLS: remove \"ssl\": false from the secret, or name an admin in rekey:admin, who sends a hash", s.login.User))
	}
	set := func(p rotators.Secret, more string) error {
		return s.run(ctx, "ALTER USER USER() IDENTIFIED BY "+quoteText(p.Reveal())+more)
	}
	replacing := func(p rotators.Secret) string { return " REPLACE " + quoteText(p.Reveal()) }
	const retain = " RETAIN CURRENT PASSWORD"
	if len(accept) == 1 {
		a := accept[0]
		err := set(a, replacing(s.latest))
		two := false
		if says(err, wrongReplaced) {
			// The login was by the secondary, or by a password that another session has
			// replaced, before or since: the server remembers one that it was checking
			// meanwhile. A login with the new one has it forget that.
			if _, err = s.accepts(ctx, a); err == nil {
				two, err = s.accepts(ctx, s.latest)
			}
			if err != nil {
				return err
			}
			more := ""
			if two {
				// Who may not withdraw a password may not retain one either, and is told so
				// before anything has changed.
				more = retain
			}
			if err = set(a, more); says(err, needsReplaced) {
				err = set(a, replacing(a)+more)
			}
		}
		if err != nil {
			return explainChange(ctx, err, s.login)
		}
		s.latest = a
		err = s.run(ctx, "ALTER USER USER() DISCARD OLD PASSWORD")
		if says(err, deniedPrivilege) && !two {
			// Who may not do this has not been able to make a second password either.
			return nil
		}
		return explainChange(ctx, err, s.login)
	}

	a, b := accept[0], accept[1]
	err := set(a, replacing(b)+retain)
	if says(err, wrongReplaced) {
		var hasA, hasB bool
		if hasA, err = s.accepts(ctx, a); err == nil {
			hasB, err = s.accepts(ctx, b)
		}
		switch {
		case err != nil:
			return err
		case hasA && hasB:
			return nil
		case hasB: // as the secondary, so what is replaced is neither
			err = set(a, "")
		case hasA:
			if err = set(b, replacing(a)+retain); says(err, wrongReplaced) {
				err = set(b, "")
			}
		default:
			if err = set(b, ""); err == nil {
				err = set(a, replacing(b)+retain)
			}
		}
	}
	if err == nil {
		s.latest = a
	}
	return explainChange(ctx, err, s.login)
}

// accepts tells whether the server takes a password for the session's own user.
func (s *session) accepts(ctx context.Context, password rotators.Secret) (bool, error) {
	l := s.login
	l.Password = password
	tried, err := s.connector.open(ctx, l)
	if rotators.IsRefused(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, tried.Close(ctx)
}

// setByAdmin sets the passwords of another user's accounts.
func (s *session) setByAdmin(ctx context.Context, user string, accept []rotators.Secret) error {
	rows, err := s.rows(ctx, user)
	if err != nil {
		return err
	}
	chosen, err := s.choose(ctx, user, rows, accept)
	if err != nil {
		return err
	}
	var other []account
	for _, r := range chosen {
		if err := hasRoom(r.account, r.hourly); err != nil {
			return err
		}
		if !r.settable() {
			other = append(other, r.account)
		}
	}
	if len(other) > 0 {
		return otherMethod(other...)
	}
	if err := s.canBeTried(user, chosen); err != nil {
		return err
	}
	s.remember(user, chosen, accept)
	var each [][]string
	for _, r := range chosen {
		if s.isMariaDB() {
			each = append(each, []string{r.sql() + viaHashes(accept)})
		} else {
			each = append(each, r.become(accept))
		}
	}
	return explainChange(ctx, s.alter(ctx, each), s.login)
}

// alter changes accounts, each by its own clauses of ALTER USER one after the other. What
// stands at the same place in several lists is one statement, which the server makes as a
// whole: so no account is left behind that the others have gone ahead of.
func (s *session) alter(ctx context.Context, each [][]string) error {
	for i := 0; ; i++ {
		var clauses []string
		for _, clause := range each {
			if i < len(clause) {
				clauses = append(clauses, clause[i])
			}
		}
		if len(clauses) == 0 {
			return nil
		}
		if err := s.run(ctx, "ALTER USER "+strings.Join(clauses, ", ")); err != nil {
			return err
		}
	}
}

// canBeTried refuses to change a password that could not be tried then: without TLS the
// server lets those in by caching_sha2_password whom it has in memory, and a change has
// it forget them.
func (s *session) canBeTried(user string, accounts []row) error {
	for _, r := range accounts {
		if s.proofs[user].plaintext && r.method == cachingSHA2 {
			return rotators.Permanent(fmt.Errorf("the account %s logs in by %s, which without TLS takes a new password only if it is sent, so nothing was changed: remove \"ssl\": false from the secret", r.account, cachingSHA2))
		}
	}
	return nil
}

// remember takes down that accounts of a user are about to get passwords.
func (s *session) remember(user string, accounts []row, accept []rotators.Secret) {
	if s.set == nil {
		s.set, s.before = map[string][]rotators.Secret{}, map[string][]row{}
	}
	s.set[user] = append(s.set[user], accept...)
	if _, ok := s.before[user]; !ok {
		s.before[user] = accounts
	}
}

var _ database.Recorder = (*session)(nil)

// Record implements database.Recorder.
func (s *session) Record(ctx context.Context, user string) (record database.Record, err error) {
	rows, err := s.rows(ctx, user)
	if err != nil || len(rows) == 0 {
		return record, err
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return !r.locked }) {
		record.Barred = "is locked (ACCOUNT LOCK)"
	}
	record.Has = func(password rotators.Secret) (has, known bool) {
		has = slices.ContainsFunc(rows, func(r row) bool { return r.has(password) })
		return has, has || len(password.Reveal()) <= maxCompared && !slices.ContainsFunc(rows, row.unseen)
	}
	return record, nil
}

// PutBack implements database.Recorder.
func (s *session) PutBack(ctx context.Context, user string) error {
	var each [][]string
	for _, r := range s.before[user] {
		switch {
		case len(r.hashes) == 0: // it was made since
			continue
		case s.isMariaDB():
			var ways []string
			for _, hash := range r.hashes {
				ways = append(ways, r.method+" USING "+quoteText(hash))
			}
			each = append(each, []string{r.sql() + " IDENTIFIED VIA " + strings.Join(ways, " OR ")})
		default:
			// The older one first, so that it becomes the secondary.
			var clauses []string
			for i := len(r.hashes) - 1; i >= 0; i-- {
				clause := r.sql() + " IDENTIFIED WITH " + r.method + " AS " + quoteText(r.hashes[i])
				if i < len(r.hashes)-1 {
					clause += " RETAIN CURRENT PASSWORD"
				}
				clauses = append(clauses, clause)
			}
			if len(r.hashes) == 1 {
				clauses = append(clauses, r.sql()+" DISCARD OLD PASSWORD")
			}
			each = append(each, clauses)
		}
	}
	if len(each) == 0 {
		return database.ErrUnread
	}
	return explainChange(ctx, s.alter(ctx, each), s.login)
}

// become lists the clauses of ALTER USER after which an account of MySQL has exactly these
// passwords, newest first. Between any two of them the last one works, if it works
// before.
func (r row) become(accept []rotators.Secret) (clauses []string) {
	alter := r.sql()
	set := func(p rotators.Secret, more string) {
		clauses = append(clauses, alter+" IDENTIFIED WITH "+r.method+" AS "+quoteText(hashFor(r.method, p.Reveal()))+more)
	}
	is := func(i int, p rotators.Secret) bool {
		return i < len(r.hashes) && verifies(r.method, r.hashes[i], p.Reveal())
	}
	const retain = " RETAIN CURRENT PASSWORD"
	a := accept[0]
	if len(accept) == 1 {
		if !is(0, a) {
			set(a, "")
		}
		if len(r.hashes) > 1 {
			clauses = append(clauses, alter+" DISCARD OLD PASSWORD")
		}
		return clauses
	}
	b := accept[1]
	switch {
	case is(0, a) && is(1, b), is(0, b) && is(1, a):
	case is(0, b):
		set(a, retain)
	case is(0, a):
		set(b, retain)
	case is(1, b):
		set(a, "")
	case is(1, a):
		set(b, "")
	default:
		set(b, "")
		set(a, retain)
	}
	return clauses
}

// choose picks the accounts of a user that are to be changed: the one that the
// password this secret holds has proved, and all others that have the same password. Who
// holds the password holds these accounts too, and whoever logs in to one of them is to go
// on doing so by the next value. The names of accounts with another password go to the log.
func (s *session) choose(ctx context.Context, user string, rows []row, accept []rotators.Secret) (chosen []row, err error) {
	if len(rows) == 0 {
		return nil, rotators.Permanent(fmt.Errorf("there is no user %q", user))
	}
	p, proved := s.proofs[user]
	var base *row
	for i, r := range rows {
		if proved && p.account == r.host || !proved && len(rows) == 1 {
			base = &rows[i]
		}
	}
	if base == nil {
		return nil, rotators.Permanent(fmt.Errorf("the user %q is the accounts %s, and no password that this secret holds tells which of them it is for: set the password of one by hand to the one in the secret, or drop the others", user, list(accountsOf(rows))))
	}
	if !s.holds(user, *base) && !base.hasAll(accept) {
		// MySQL 9.7 may go on taking a password that it was checking while it was replaced,
		// until it is shown the new one. Where that is set already, the proof shows it.
		return nil, fmt.Errorf("the account %s does not have the password that logged in as that user, so nothing was changed: rotate again, and if it stays so find out what answers logins in the server's place", base.account)
	}
	known := slices.Concat(p.passwords, s.set[user], accept)
	var left, unseen []account
	for _, r := range rows {
		if err := ctx.Err(); err != nil { // checking passwords takes time, as much as the server likes
			return nil, explainChange(ctx, err, s.login)
		}
		switch {
		case r.host == base.host || slices.ContainsFunc(known, r.has):
			chosen = append(chosen, r)
		case r.unseen():
			unseen = append(unseen, r.account)
		default:
			left = append(left, r.account)
		}
	}
	if len(unseen) > 0 {
		return nil, rotators.Permanent(fmt.Errorf("the user %q is also the accounts %s, and whether they have the same password cannot be seen, because they log in by something else than %s or %s, so nothing was changed: drop them, or ALTER USER .. IDENTIFIED WITH (on MariaDB: VIA) one of these", user, list(unseen), native, cachingSHA2))
	}
	if len(left) > 0 {
		slog.WarnContext(ctx, "accounts of the same user have another password, so they were left as they are", "changed", list(accountsOf(chosen)), "left", list(left))
	}
	return chosen, nil
}

// minHourly is how many logins an account must have in an hour: a rotation makes up to five,
// and what is left of them cannot be seen.
const minHourly = 6

// hasRoom refuses an account that may log in so seldom that the last login of a rotation
// would be refused, after its password was changed.
func hasRoom(a account, hourly string) error {
	if n, err := strconv.Atoi(hourly); err != nil || n == 0 || n >= minHourly {
		return nil
	}
	return rotators.Permanent(fmt.Errorf("the account %s may log in %s times in an hour (MAX_CONNECTIONS_PER_HOUR), and a rotation takes %d of them, so nothing was changed: ALTER USER .. WITH MAX_CONNECTIONS_PER_HOUR more", a, hourly, minHourly-1))
}

// mayChangeItself refuses to change the session's own account where the proof would find no room, or
// where others of the same name have the same password, which the session may not change
// with it. It sees these only if it may read mysql.*.
func (s *session) mayChangeItself(ctx context.Context) error {
	of := "SHOW CREATE USER"
	if !s.isMariaDB() {
		of += " CURRENT_USER()"
	}
	if shown, err := s.row(ctx, of, 1); err == nil {
		_, limits, _ := cut(shown[0], " MAX_CONNECTIONS_PER_HOUR ")
		hourly, _, _ := strings.Cut(limits, " ")
		if err := hasRoom(s.account, hourly); err != nil {
			return err
		}
	}
	rows, err := s.rows(ctx, s.login.User)
	if err != nil {
		return nil // it may not look, as a rule
	}
	var same []account
	for _, r := range rows {
		if r.account != s.account && r.has(s.login.Password) {
			same = append(same, r.account)
		}
	}
	if len(same) == 0 {
		return nil
	}
	return rotators.Permanent(fmt.Errorf("the password of %s is also that of %s, and a user changes only the account that it logs in to, so nothing was changed, because whoever logs in to the others would be refused: name an admin in rekey:admin, who changes them together, or drop them", s.account, list(same)))
}

// holds reports whether an account has a password that logged in as its user, before this
// session first changed it: what is put back need not be there. Which account a login was of, the server said that took the
// login; what an account has, the admin reads itself. It is true where no login was
// needed, and of methods whose hashes are not known here.
func (s *session) holds(user string, r row) bool {
	p, proved := s.proofs[user]
	return !proved || !r.settable() || len(s.set[user]) > 0 || slices.ContainsFunc(p.passwords, r.has)
}

func accountsOf(rows []row) (all []account) {
	for _, r := range rows {
		all = append(all, r.account)
	}
	return all
}
