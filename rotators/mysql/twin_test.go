package mysql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// newShop makes a database with something of each kind that can be granted, and an
// admin who may grant it. It returns the admin's secret.
func newShop(t *testing.T, shop string) rotators.Secret {
	t.Helper()
	exec(t,
		"CREATE DATABASE "+shop,
		fmt.Sprintf("CREATE TABLE %s.goods (id int, price int, cost int)", shop),
		fmt.Sprintf("INSERT INTO %s.goods VALUES (1, 2, 1)", shop),
		fmt.Sprintf("CREATE TABLE %s.`odd `` TO name` (id int)", shop),
		fmt.Sprintf("CREATE TABLE %s.sold (id int)", shop),
		fmt.Sprintf("CREATE PROCEDURE %s.sell(n int) SQL SECURITY INVOKER INSERT INTO %[1]s.sold VALUES (n)", shop),
		fmt.Sprintf("CREATE ROLE %s_clerk", shop), fmt.Sprintf("CREATE ROLE %s_auditor", shop),
		fmt.Sprintf("GRANT INSERT, SELECT ON %s.sold TO %[1]s_clerk", shop),
		fmt.Sprintf("CREATE USER %s_front", shop),
	)
	t.Cleanup(func() {
		exec(t, "DROP DATABASE "+shop, fmt.Sprintf("DROP ROLE %s_clerk, %[1]s_auditor", shop), fmt.Sprintf("DROP USER %s_front", shop))
	})
	admin := newAdmin(t, shop+"_admin", fmt.Sprintf("SELECT, INSERT, UPDATE, DELETE, EXECUTE ON %s.*", shop), "PROCESS ON *.*", fmt.Sprintf("PROXY ON %s_front", shop))
	if mariaDB {
		exec(t, fmt.Sprintf("GRANT %s_clerk TO %[1]s_admin WITH ADMIN OPTION", shop), fmt.Sprintf("GRANT %s_auditor TO %[1]s_admin WITH ADMIN OPTION", shop),
			fmt.Sprintf("GRANT UPDATE ON mysql.* TO %s_admin", shop))
	}
	return admin
}

// newBase makes the first of two alternating users, with grants of each kind.
func newBase(t *testing.T, shop, name string) rotators.Secret {
	t.Helper()
	v := newUser(t, name, "the first password")
	a := account{name, "%"}.sql()
	exec(t,
		fmt.Sprintf("GRANT SELECT (id, price), INSERT ON %s.goods TO %s WITH GRANT OPTION", shop, a),
		fmt.Sprintf("GRANT SELECT ON %s.`odd `` TO name` TO %s", shop, a),
		fmt.Sprintf("GRANT EXECUTE ON PROCEDURE %s.sell TO %s", shop, a),
		fmt.Sprintf("GRANT %s_clerk TO %s", shop, a), fmt.Sprintf("GRANT %s_auditor TO %s", shop, a),
		fmt.Sprintf("GRANT PROXY ON %s_front TO %s", shop, a),
		fmt.Sprintf("ALTER USER %s REQUIRE SSL WITH MAX_USER_CONNECTIONS 50", a),
	)
	if mariaDB {
		exec(t, fmt.Sprintf("SET DEFAULT ROLE %s_clerk FOR %s", shop, a))
	} else {
		exec(t, fmt.Sprintf("SET DEFAULT ROLE %s_clerk TO %s", shop, a))
	}
	t.Cleanup(func() { exec(t, "DROP USER IF EXISTS "+account{name + "_clone", "%"}.sql()) })
	return v
}

// buys does with a value what the shop's readers do, and says what fails.
func buys(t *testing.T, shop string, v rotators.Secret) error {
	t.Helper()
	user, err := v.Field("username")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, sql := range []string{
		fmt.Sprintf("SELECT id, price FROM %s.goods", shop), fmt.Sprintf("INSERT INTO %s.goods VALUES (2, 2, 2)", shop),
		fmt.Sprintf("SELECT * FROM %s.`odd `` TO name`", shop), fmt.Sprintf("CALL %s.sell(1)", shop), fmt.Sprintf("SELECT * FROM %s.sold", shop),
	} {
		if err := secure.Run(ctx, user.Reveal(), password(t, v), sql); err != nil {
			return fmt.Errorf("%s lacks a right: %w", user.Reveal(), err)
		}
	}
	err = secure.Run(ctx, user.Reveal(), password(t, v), fmt.Sprintf("SELECT cost FROM %s.goods", shop))
	if said := (*mysql.MySQLError)(nil); !errors.As(err, &said) || said.Number != deniedColumn {
		return fmt.Errorf("%s may do more than its base: %w", user.Reveal(), err)
	}
	return nil
}

// alternate rotates by an admin to the other of two users, and returns the value it
// moved to.
func alternate(t *testing.T, admin, current, previous rotators.Secret) (rotators.Secret, error) {
	t.Helper()
	r := rotators.Rotation{Current: current, Settings: rotators.Settings{Admin: "the-admin"},
		Previous: func(context.Context) (rotators.Secret, error) { return previous, nil },
		Lookup:   func(context.Context, string) (rotators.Secret, error) { return admin, nil }}
	var err error
	if r.Pending, err = New(awsConfig, nil).Create(t.Context(), r); err != nil {
		return rotators.Secret{}, err
	}
	return r.Pending, New(awsConfig, nil).Set(t.Context(), r)
}

// TestTwinKeepsUp changes the base between rotations, and the twin has to follow:
// what the base may pass on, what it has lost, its limits.
func TestTwinKeepsUp(t *testing.T) {
	admin := newShop(t, "keeps")
	base := newBase(t, "keeps", `o'keeper`)
	b := account{`o'keeper`, "%"}.sql()
	exec(t, "CREATE TABLE keeps.stock (id int)", "GRANT ALL ON keeps.stock TO keeps_admin WITH GRANT OPTION", "GRANT ALL ON keeps.stock TO "+b, "GRANT PROCESS ON *.* TO "+b)
	if !mariaDB {
		exec(t, "ALTER USER "+b+" FAILED_LOGIN_ATTEMPTS 9 PASSWORD_LOCK_TIME 9")
	}
	first, err := alternate(t, admin, base, rotators.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	// What it may do it may pass on.
	newAccount(t, account{"friend", "%"}, "friend")
	passOn := "GRANT INSERT ON keeps.goods TO friend"
	if err := secure.Run(t.Context(), `o'keeper_clone`, password(t, first), passOn); err != nil {
		t.Errorf("WITH GRANT OPTION is lost: %v", err)
	}

	for _, line := range strings.Split(query(t, "SHOW GRANTS FOR "+b), "\n") {
		if twin := strings.ReplaceAll(line, b, account{`o'keeper_clone`, "%"}.sql()); strings.Contains(line, "PROXY") && !strings.Contains(query(t, "SHOW GRANTS FOR 'o''keeper_clone'"), twin) {
			t.Errorf("the twin lacks %s", twin)
		}
	}

	lost := []string{"REVOKE SELECT (price) ON keeps.goods FROM " + b, "REVOKE GRANT OPTION ON keeps.goods FROM " + b,
		"REVOKE EXECUTE ON PROCEDURE keeps.sell FROM " + b, "REVOKE keeps_auditor FROM " + b,
		"REVOKE ALL ON keeps.stock FROM " + b, "GRANT SELECT ON keeps.stock TO " + b, "REVOKE PROCESS ON *.* FROM " + b}
	exec(t, append(lost, "GRANT DELETE ON keeps.goods TO "+b, "ALTER USER "+b+" WITH MAX_USER_CONNECTIONS 0 MAX_UPDATES_PER_HOUR 900")...)
	if !mariaDB {
		exec(t, "ALTER USER "+b+" FAILED_LOGIN_ATTEMPTS 0 PASSWORD_LOCK_TIME 0")
	}
	back, err := alternate(t, admin, first, base)
	if err != nil {
		t.Fatal(err)
	}
	second, err := alternate(t, admin, back, first)
	if err != nil {
		t.Fatal(err)
	}
	for sql, may := range map[string]bool{
		"SELECT id FROM keeps.goods": true, "SELECT price FROM keeps.goods": false, "DELETE FROM keeps.goods": true, "CALL keeps.sell(1)": false,
		passOn: false, "SELECT * FROM keeps.sold": true, "SELECT * FROM keeps.stock": true, "DELETE FROM keeps.stock": false, "SHOW ENGINE INNODB STATUS": false,
	} {
		if err := secure.Run(t.Context(), `o'keeper_clone`, password(t, second), sql); (err == nil) != may {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if mariaDB {
		if err := secure.Run(t.Context(), `o'keeper_clone`, password(t, second), "SET ROLE keeps_auditor"); err == nil {
			t.Error("the twin has a role that the base has lost")
		}
	}
	limits := "SELECT CONCAT(max_user_connections, ' ', max_updates, ' ', ssl_type) FROM mysql.user WHERE User = 'o''keeper_clone'"
	if got := query(t, limits); got != "0 900 ANY" {
		t.Errorf("the twin's limits and TLS are %s", got)
	}
	if strings.Contains(query(t, "SHOW CREATE USER 'o''keeper_clone'"), "FAILED_LOGIN_ATTEMPTS") {
		t.Error("the twin is locked after failed logins, and the base is not")
	}
	without(t, secure.Log(), password(t, first), password(t, back), password(t, second))
}

// TestTwinRefused tries twins that must not be made, or not be touched.
func TestTwinRefused(t *testing.T) {
	admin := newShop(t, "refuses")
	poor := newAdmin(t, "poor_admin")
	none := rotators.Secret{}
	// It may have them from rekey, so they are taken from it. This admin has none to take.
	powerful := want{text: `"poor_admin" may not make this change`, permanent: true}
	for _, c := range []struct {
		name     string
		user     string
		prepare  []string // before the first rotation
		admin    rotators.Secret
		previous rotators.Secret
		want     want
	}{
		{"somebody else's", "ra", []string{"CREATE USER ra_clone IDENTIFIED BY 'theirs'"}, admin, none, want{text: "does not prove that it may", permanent: true}},
		{"somebody else's, locked", "rb", []string{"CREATE USER rb_clone IDENTIFIED BY 'theirs' ACCOUNT LOCK"}, admin, none, want{text: "does not prove that it may", permanent: true}},
		{"for another host", "rc", []string{"CREATE USER rc_clone IDENTIFIED BY 'before'", "CREATE USER rc_clone@'10.%' IDENTIFIED BY 'theirs'"}, admin, value("rc_clone", "before"),
			want{text: `accounts that this secret cannot answer for.* drop 'rc_clone'@'10.%'`, permanent: true}},
		{"more powerful", "rd", []string{"CREATE USER rd_clone IDENTIFIED BY 'before'", "GRANT RELOAD, PROCESS ON *.* TO rd_clone"}, poor, value("rd_clone", "before"), powerful},
		{"locked by somebody", "re", []string{"CREATE USER re_clone IDENTIFIED BY 'before' ACCOUNT LOCK"}, admin, value("re_clone", "before"),
			want{text: `has user "re_clone" locked: find out who locked it and why`, permanent: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			current := newUser(t, c.user, "the first password")
			t.Cleanup(func() {
				exec(t, fmt.Sprintf("DROP USER IF EXISTS %s_clone", c.user), fmt.Sprintf("DROP USER IF EXISTS %s_clone@'10.%%'", c.user))
			})
			exec(t, c.prepare...)
			_, err := alternate(t, c.admin, current, c.previous)
			c.want.check(t, err, "the first password", "the admin's password")
			locked := strings.Contains(c.prepare[0], "LOCK")
			if got := accepts(t, value(c.user+"_clone", "before")); c.want.text != "does not prove that it may" && got == locked {
				t.Error("the twin was changed")
			}
		})
	}

	t.Run("a right that the admin cannot give", func(t *testing.T) {
		base := newBase(t, "refuses", "given")
		_, err := alternate(t, poor, base, none)
		want{text: `"poor_admin" may not make this change: .*WITH GRANT OPTION`, permanent: true}.check(t, err, "the first password")
		locked := "SELECT JSON_VALUE(Priv, '$.account_locked') FROM mysql.global_priv WHERE User = 'given_clone'"
		if !mariaDB {
			locked = "SELECT account_locked FROM mysql.user WHERE User = 'given_clone'"
		}
		if got := query(t, locked); got != "1" && got != "true" && got != "Y" {
			t.Errorf("a twin that lacks rights is not locked (%q)", got)
		}
		// Another attempt has another password, and no word of the one before.
		if _, err := alternate(t, admin, base, none); err == nil {
			t.Error("a locked twin with a password that nobody proved was taken over")
		}
		exec(t, "DROP USER given_clone")
		pending, err := alternate(t, admin, base, none)
		if err != nil {
			t.Fatal(err)
		}
		if err := buys(t, "refuses", pending); err != nil {
			t.Error(err)
		}
	})

	t.Run("a right on what is gone", func(t *testing.T) {
		base := newUser(t, "rf", "the first password")
		t.Cleanup(func() { exec(t, "DROP USER IF EXISTS rf_clone") })
		exec(t, "CREATE TABLE refuses.gone (id int)", "GRANT SELECT ON refuses.gone TO rf", "DROP TABLE refuses.gone")
		_, err := alternate(t, admin, base, none)
		want{text: "right on what is no longer there, .*REVOKE it; the server said: .*refuses.gone", permanent: true}.check(t, err)
	})

	t.Run("a right on a routine where names are quoted otherwise", func(t *testing.T) {
		before := query(t, "SELECT @@GLOBAL.sql_mode")
		exec(t, "SET GLOBAL sql_mode = 'ANSI_QUOTES'")
		t.Cleanup(func() { exec(t, "SET GLOBAL sql_mode = "+quoteText(before)) })
		// Where a role is active, MySQL 9.7 forgets such a right, the base's too.
		base := newUser(t, "rg", "the first password")
		t.Cleanup(func() { exec(t, "DROP USER IF EXISTS rg_clone") })
		exec(t, "GRANT EXECUTE ON PROCEDURE refuses.sell TO rg", "GRANT INSERT ON refuses.sold TO rg")
		pending, err := alternate(t, admin, base, none)
		if err != nil {
			t.Fatal(err)
		}
		if err := secure.Run(t.Context(), "rg_clone", password(t, pending), "CALL refuses.sell(1)"); err != nil {
			t.Error(err)
		}
	})

	t.Run("too long a name", func(t *testing.T) {
		name := strings.Repeat("n", longest()-5)
		_, err := alternate(t, admin, newUser(t, name, "the first password"), none)
		want{text: fmt.Sprintf("is %d (bytes|characters) long, and MySQL .*no user name longer than %d", longest()+1, longest()), permanent: true}.check(t, err)
	})
}

// alternateOn rotates to the other of two users, and returns the values there are then and
// the name of that user.
func alternateOn(t *testing.T, admin, current, previous rotators.Secret) (_, _, user rotators.Secret) {
	t.Helper()
	next, err := alternate(t, admin, current, previous)
	if err != nil {
		t.Fatal(err)
	}
	if user, err = next.Field("username"); err != nil {
		t.Fatal(err)
	}
	return next, current, user
}

// TestTwinHasItsBasesRoles has applications that switch roles on: a twin can do so as its
// base can, has none on that its base has off, and may pass on what its base may.
func TestTwinHasItsBasesRoles(t *testing.T) {
	admin := newShop(t, "roles")
	base := newUser(t, "rolling", "the first password")
	exec(t, "CREATE ROLE roles_danger", "GRANT DROP ON roles.* TO roles_danger", "GRANT SELECT ON roles.goods TO rolling",
		"GRANT roles_danger TO rolling", "GRANT roles_clerk TO rolling WITH ADMIN OPTION", "CREATE TABLE roles.victim (id int)")
	if mariaDB {
		exec(t, "GRANT roles_danger TO roles_admin WITH ADMIN OPTION")
	}
	t.Cleanup(func() { exec(t, "DROP ROLE roles_danger", "DROP USER IF EXISTS rolling_clone") })
	var current, previous rotators.Secret = base, rotators.Secret{}
	for range 3 {
		var user rotators.Secret
		current, previous, user = alternateOn(t, admin, current, previous)
		run := func(sql ...string) error { return secure.Run(t.Context(), user.Reveal(), password(t, current), sql...) }
		if run("DROP TABLE roles.victim") == nil {
			t.Fatalf("%s has a role on that its base has off", user.Reveal())
		}
		for _, sql := range [][]string{
			{"SELECT * FROM roles.goods"}, {"SET ROLE roles_clerk", "SELECT * FROM roles.sold"},
			{"CREATE TABLE IF NOT EXISTS roles.other (id int)"}, {"SET ROLE roles_danger", "DROP TABLE roles.other"},
			{"GRANT roles_clerk TO roles_front", "REVOKE roles_clerk FROM roles_front"},
		} {
			if strings.HasPrefix(sql[0], "CREATE") {
				exec(t, sql[0])
				continue
			}
			if err := run(sql...); err != nil {
				t.Errorf("%s: %s: %v", user.Reveal(), strings.Join(sql, "; "), err)
			}
		}
	}
	// What the base may no longer pass on, and what is on without SET ROLE, follows.
	b := account{"rolling", "%"}.sql()
	exec(t, "REVOKE roles_clerk FROM rolling", "GRANT roles_clerk TO rolling", "GRANT roles_auditor TO rolling")
	if mariaDB {
		exec(t, "SET DEFAULT ROLE roles_auditor FOR "+b)
	} else {
		exec(t, "SET DEFAULT ROLE roles_auditor, roles_clerk TO "+b)
	}
	next, err := alternate(t, admin, current, previous) // to rolling
	if err != nil {
		t.Fatal(err)
	}
	next, err = alternate(t, admin, next, current) // to rolling_clone
	if err != nil {
		t.Fatal(err)
	}
	if err := secure.Run(t.Context(), "rolling_clone", password(t, next), "GRANT roles_clerk TO roles_front"); err == nil {
		t.Error("the twin may pass on a role that the base may not pass on")
	}
	if err := secure.Run(t.Context(), "rolling_clone", password(t, next), "SELECT * FROM roles.sold"); (err == nil) == mariaDB {
		t.Errorf("the default roles are not the base's: %v", err)
	}
}

// TestWhatATwinCreates has the routines of alternating users stay usable: where the server
// would give the rights to them to one of the two users only, the base is refused.
func TestWhatATwinCreates(t *testing.T) {
	admin := newShop(t, "makes")
	exec(t, "GRANT ALL ON makes.* TO makes_admin WITH GRANT OPTION")
	base := newUser(t, "maker", "the first password")
	t.Cleanup(func() { exec(t, "DROP USER IF EXISTS maker_clone", "DROP ROLE makes_builder") })
	exec(t, "CREATE ROLE makes_builder", "GRANT CREATE ROUTINE ON makes.* TO makes_builder", "GRANT SELECT, CREATE VIEW, SHOW VIEW, CREATE, DROP ON makes.* TO maker")
	if mariaDB {
		exec(t, "GRANT makes_builder TO makes_admin WITH ADMIN OPTION")
	}
	refused := want{text: "'maker'@'%' may create routines on `makes`\\.\\*, and not call and alter all of them, .*GRANT EXECUTE, ALTER ROUTINE ON `makes`\\.\\*", permanent: true}
	for _, setUp := range [][2]string{
		{"GRANT CREATE ROUTINE ON makes.* TO maker", "REVOKE CREATE ROUTINE ON makes.* FROM maker"},
		{"GRANT CREATE ROUTINE, EXECUTE ON makes.* TO maker", "REVOKE CREATE ROUTINE, EXECUTE ON makes.* FROM maker"},
		{"GRANT makes_builder TO maker", "REVOKE makes_builder FROM maker"},
	} {
		exec(t, setUp[0])
		_, err := alternate(t, admin, base, rotators.Secret{})
		refused.check(t, err, "the first password")
		if query(t, "SELECT User FROM mysql.user WHERE User = 'maker_clone'") != "" {
			t.Fatal("a twin was made")
		}
		exec(t, setUp[1])
	}

	exec(t, "GRANT CREATE ROUTINE, EXECUTE, ALTER ROUTINE ON makes.* TO maker")
	var current, previous rotators.Secret = base, rotators.Secret{}
	for i := range 4 {
		var user rotators.Secret
		current, previous, user = alternateOn(t, admin, current, previous)
		for n := range i {
			// What the other one of the two has created before.
			for _, sql := range []string{fmt.Sprintf("CALL makes.p%d()", n), fmt.Sprintf("SELECT * FROM makes.v%d", n), fmt.Sprintf("ALTER PROCEDURE makes.p%d COMMENT 'x'", n)} {
				if err := secure.Run(t.Context(), user.Reveal(), password(t, current), sql); err != nil {
					t.Errorf("%s: %s: %v", user.Reveal(), sql, err)
				}
			}
		}
		if err := secure.Run(t.Context(), user.Reveal(), password(t, current), fmt.Sprintf("CREATE PROCEDURE makes.p%d() SELECT 1", i), fmt.Sprintf("CREATE VIEW makes.v%d AS SELECT id FROM makes.goods", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTwinHasItsBasesGlobalPrivileges has what MySQL alone has copied: privileges that can be
// passed on one by one, and databases in which global ones do not hold.
func TestTwinHasItsBasesGlobalPrivileges(t *testing.T) {
	if mariaDB {
		return // it has neither: TestTwinKeepsUp
	}
	admin := newShop(t, "globals")
	exec(t, "GRANT ALL ON *.* TO globals_admin WITH GRANT OPTION", "SET GLOBAL partial_revokes = ON")
	base := newUser(t, "global", "the first password")
	t.Cleanup(func() { exec(t, "DROP USER IF EXISTS global, global_clone", "SET GLOBAL partial_revokes = OFF") })
	exec(t, "GRANT SELECT, PROCESS ON *.* TO global WITH GRANT OPTION", "GRANT BACKUP_ADMIN, XA_RECOVER_ADMIN ON *.* TO global", "GRANT CONNECTION_ADMIN ON *.* TO global WITH GRANT OPTION",
		"REVOKE SELECT ON globals.* FROM global", "GRANT SELECT (id) ON globals.goods TO global")
	same := func(when string) {
		t.Helper()
		clone := strings.ReplaceAll(query(t, "SHOW GRANTS FOR global_clone"), "global_clone", "global")
		if of := query(t, "SHOW GRANTS FOR global"); of != clone {
			t.Errorf("%s the base has\n%s\nand the twin\n%s", when, of, clone)
		}
	}
	first, err := alternate(t, admin, base, rotators.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	same("at first")
	exec(t, "GRANT SELECT ON globals.* TO global", "REVOKE SELECT ON mysql.* FROM global", "REVOKE CONNECTION_ADMIN, XA_RECOVER_ADMIN ON *.* FROM global", "GRANT CONNECTION_ADMIN ON *.* TO global")
	back, err := alternate(t, admin, first, base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alternate(t, admin, back, first); err != nil {
		t.Fatal(err)
	}
	same("after changes")
}

// TestTwinOfAnEarlierVersion has a twin that has its rights by its base as a role, as rekey
// gave them before: it gets them itself, and the role goes.
func TestTwinOfAnEarlierVersion(t *testing.T) {
	if mariaDB {
		return // there they were always copied
	}
	admin := newShop(t, "early")
	base := newBase(t, "early", "early_bird")
	exec(t, "CREATE USER early_bird_clone IDENTIFIED BY 'before' REQUIRE SSL", "GRANT early_bird TO early_bird_clone", "SET DEFAULT ROLE early_bird TO early_bird_clone", "GRANT PROXY ON early_front TO early_bird_clone")
	pending, err := alternate(t, admin, base, value("early_bird_clone", "before"))
	if err != nil {
		t.Fatal(err)
	}
	if err := buys(t, "early", pending); err != nil {
		t.Error(err)
	}
	if shown := query(t, "SHOW GRANTS FOR early_bird_clone"); strings.Contains(shown, "`early_bird`") {
		t.Errorf("the twin still has its base as a role:\n%s", shown)
	}
}

// TestDroppedTwin gives rights to a twin that somebody has dropped at that moment: it
// does not come back, above all not without a password.
func TestDroppedTwin(t *testing.T) {
	newAdmin(t, "dropped_admin", "PROCESS ON *.*")
	s := open(t, "dropped_admin", "the admin's password")
	t.Cleanup(func() { exec(t, "DROP USER IF EXISTS dropped_clone") })
	if err := s.run(t.Context(), grants{everywhere: {"PROCESS": true}}.grant(account{"dropped_clone", "%"})...); err == nil {
		t.Error("the server gave a right to nobody")
	}
	if query(t, "SELECT User FROM mysql.user WHERE User = 'dropped_clone'") != "" {
		t.Error("there is a user who was only given a right")
	}
}

// TestTwinIsLockedWhileItLacksARight has an existing twin whose password is the
// pending one already lose a right, and an admin who cannot give it back.
func TestTwinIsLockedWhileItLacksARight(t *testing.T) {
	admin := newShop(t, "locks")
	base := newBase(t, "locks", "locking")
	pending, err := alternate(t, admin, base, rotators.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, "REVOKE EXECUTE ON PROCEDURE locks.sell FROM locking_clone", "REVOKE EXECUTE ON locks.* FROM locks_admin")
	again := rotators.Rotation{Current: base, Pending: pending, Settings: rotators.Settings{Admin: "the-admin"},
		Lookup: func(context.Context, string) (rotators.Secret, error) { return admin, nil }}
	err = New(awsConfig, nil).Set(t.Context(), again)
	want{text: "may not make this change", permanent: true}.check(t, err)
	if accepts(t, pending) {
		t.Error("a twin that lacks a right logs in")
	}
	exec(t, "GRANT EXECUTE ON locks.* TO locks_admin WITH GRANT OPTION")
	if err := New(awsConfig, nil).Set(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if err := buys(t, "locks", pending); err != nil {
		t.Error(err)
	}
}

// TestHalfBuiltTwin crashes the making of a twin at every point, and the making over of
// one whose base has lost one right and won another: whatever is there of it then does
// not log in with the new password, or does all that its base does and no more.
func TestHalfBuiltTwin(t *testing.T) {
	t.Parallel()
	admin := newShop(t, "half")
	for _, old := range []bool{false, true} {
		t.Run(map[bool]string{false: "new", true: "old"}[old], func(t *testing.T) {
			t.Parallel()
			points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
				name := fmt.Sprintf("half_%d", users.Add(1))
				base := newBase(t, "half", name)
				r := New(awsConfig, &Options{Dial: w.DialContext})
				a := rotators.Rotation{Current: base, Settings: rotators.Settings{Admin: "the-admin"},
					Lookup: func(context.Context, string) (rotators.Secret, error) { return admin, nil }}
				if old {
					b := account{name, "%"}
					exec(t, "GRANT SELECT (cost) ON half.goods TO "+b.sql(), "REVOKE EXECUTE ON PROCEDURE half.sell FROM "+b.sql())
					twin, err := alternate(t, admin, base, rotators.Secret{})
					if err != nil {
						t.Fatal(err)
					}
					exec(t, "REVOKE SELECT (cost) ON half.goods FROM "+b.sql(), "GRANT EXECUTE ON PROCEDURE half.sell TO "+b.sql())
					if !mariaDB {
						// What proves that the twin is this secret's is its second password.
						exec(t, "ALTER USER "+name+"_clone IDENTIFIED BY 'somebody''s' RETAIN CURRENT PASSWORD")
					}
					a.Previous = func(context.Context) (rotators.Secret, error) { return twin, nil }
				}
				var err error
				if a.Pending, err = r.Create(t.Context(), a); err != nil {
					t.Fatal(err)
				}
				return rotatortest.Scenario{
					Run: func(ctx context.Context) error { return r.Set(ctx, a) },
					Crashed: func(context.Context) error {
						if !accepts(t, a.Pending) {
							return nil
						}
						return buys(t, "half", a.Pending)
					},
					Recovered: func(context.Context) error {
						if got := takes(t, name+"_clone", "somebody's", password(t, a.Pending)); len(got) != 1 {
							return fmt.Errorf("the twin has %d passwords", len(got))
						}
						return buys(t, "half", a.Pending)
					},
				}
			})
			t.Logf("crashed at %d points", points)
		})
	}
}

// late is an admin's session in whose back somebody creates the twin.
type late struct {
	*session
	create func()
}

func (l late) HasUser(ctx context.Context, user string) (bool, error) {
	found, err := l.session.HasUser(ctx, user)
	l.create()
	return found, err
}

// An account of the twin's name that somebody creates between the look and the change was
// proved by nobody, and keeps its password.
func TestAnAccountThatCameAfterTheLookIsNoTwin(t *testing.T) {
	admin := newShop(t, "late")
	base := newBase(t, "late", "latecomer")
	e := engine(awsConfig, nil)
	open, created := e.Open, false
	e.Open = func(ctx context.Context, l database.Login) (database.Session, error) {
		opened, err := open(ctx, l)
		if s, ok := opened.(*session); ok && l.User == "late_admin" {
			return late{s, func() {
				if !created {
					created = true
					exec(t, "CREATE USER latecomer_clone IDENTIFIED BY 'somebody else''s'")
				}
			}}, err
		}
		return opened, err
	}
	r := rotators.Rotation{Current: base, Settings: rotators.Settings{Admin: "the-admin"},
		Previous: func(context.Context) (rotators.Secret, error) { return rotators.Secret{}, nil },
		Lookup:   func(context.Context, string) (rotators.Secret, error) { return admin, nil }}
	var err error
	if r.Pending, err = database.New(e).Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	err = database.New(e).Set(t.Context(), r)
	if !created || err == nil || !strings.Contains(err.Error(), "somebody created the user") || rotators.IsPermanent(err) {
		t.Errorf("created %v, and %v", created, err)
	}
	if err := secure.Run(t.Context(), "latecomer_clone", "somebody else's", "SELECT 1"); err != nil {
		t.Errorf("that account is refused: %v", err)
	}
	// The retry asks whose the account is.
	if err := database.New(e).Set(t.Context(), r); err == nil || strings.Contains(err.Error(), "somebody created the user") {
		t.Errorf("the retry: %v", err)
	}
	if err := secure.Run(t.Context(), "latecomer_clone", "somebody else's", "SELECT 1"); err != nil {
		t.Errorf("after the retry, that account is refused: %v", err)
	}
}
