package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// pair is a base user with rights and settings of its own, and an admin as RDS
// has them: no superuser, with CREATEROLE and, since it made the base, the ADMIN
// OPTION on it that PostgreSQL wants from 16 on.
type pair struct {
	base, twin     string
	value, admin   rotators.Secret // the base's, and the admin's
	settingsOfBase string
}

func newPair(t *testing.T, base string) *pair {
	t.Helper()
	p := &pair{base: base, twin: base + "_clone"}
	admin := "admin_of_" + base
	p.admin = value(secure, admin, "the admin's password")
	p.value = value(secure, base, "the first password")
	exec(t, secure, `CREATE ROLE %1$I LOGIN PASSWORD 'the admin''s password' CREATEROLE;
		SET SESSION AUTHORIZATION %1$I; CREATE ROLE %2$I LOGIN PASSWORD 'the first password'; RESET SESSION AUTHORIZATION;
		CREATE SCHEMA %2$I AUTHORIZATION %2$I;
		ALTER ROLE %2$I SET search_path TO %2$I, 'o''dd "name', public;
		ALTER ROLE %2$I SET statement_timeout TO '31s';
		ALTER ROLE %2$I IN DATABASE postgres SET lock_timeout TO '7s'`, admin, base)
	t.Cleanup(func() {
		exec(t, secure, "DROP SCHEMA %I CASCADE", base)
		if catalog(t, p.twin) != "missing" {
			exec(t, secure, "DROP OWNED BY %I; DROP ROLE %I", p.twin, p.twin)
		}
		exec(t, secure, "DROP OWNED BY %I; DROP ROLE %I; DROP ROLE %I", base, base, admin)
	})
	p.settingsOfBase = p.settings(t, p.value)
	return p
}

// attempt is a rotation of the pair's secret.
func (p *pair) attempt(current, pending, previous rotators.Secret) rotators.Rotation {
	return rotators.Rotation{
		Current: current, Pending: pending,
		Previous: func(context.Context) (rotators.Secret, error) { return previous, nil },
		Lookup: func(_ context.Context, ref string) (rotators.Secret, error) {
			if ref != "the-admin" {
				return rotators.Secret{}, fmt.Errorf("nobody asked for %q", ref)
			}
			return p.admin, nil
		},
		Settings: rotators.Settings{Admin: "the-admin"},
	}
}

// rotate takes the steps and returns the value they moved to.
func (p *pair) rotate(t *testing.T, r rotators.Rotator, current, previous rotators.Secret) rotators.Secret {
	t.Helper()
	pending, err := r.Create(t.Context(), p.attempt(current, rotators.Secret{}, previous))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Set(t.Context(), p.attempt(current, pending, previous)); err != nil {
		t.Fatal(err)
	}
	if err := r.Test(t.Context(), p.attempt(rotators.Secret{}, pending, previous)); err != nil {
		t.Fatal(err)
	}
	return pending
}

func userOf(t *testing.T, value rotators.Secret) string {
	t.Helper()
	user, err := value.Field("username")
	if err != nil {
		t.Fatal(err)
	}
	return user.Reveal()
}

// trusted is read once, because that takes a while.
var trusted = sync.OnceValues(database.Roots)

// as runs statements in a session that a reader of value has, and returns the
// first field of the last one's first row.
func as(t *testing.T, value rotators.Secret, dbname, statements string) string {
	t.Helper()
	cfg, err := pgconn.ParseConfig("host=localhost dbname=" + dbname)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Port, cfg.User, cfg.Password, cfg.Fallbacks = uint16(secure.Port), userOf(t, value), password(t, value), nil
	roots, err := trusted()
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLSConfig = &tls.Config{RootCAs: roots, ServerName: "localhost"}
	conn, err := pgconn.ConnectConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	results, err := conn.Exec(context.Background(), statements).ReadAll()
	if err != nil {
		t.Fatalf("as %s: %v", cfg.User, err)
	}
	if rows := results[len(results)-1].Rows; len(rows) > 0 {
		return string(rows[0][0])
	}
	return ""
}

// settings is what a login finds: who it acts as, and how.
func (p *pair) settings(t *testing.T, value rotators.Secret) string {
	t.Helper()
	return as(t, value, "postgres", `SELECT concat_ws('; ', current_user, current_setting('search_path'), current_setting('statement_timeout'),
		current_setting('lock_timeout'), current_setting('work_mem'))`)
}

// catalog is what the catalog says of a role beside its password.
func catalog(t *testing.T, user string) string {
	t.Helper()
	ctx := context.Background() // so that cleanups can use it too
	conn, err := secure.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	r := conn.ExecParams(ctx, `SELECT concat_ws('; ', rolconnlimit, coalesce(rolvaliduntil, 'infinity'),
			(SELECT string_agg(coalesce(datname, '') || ':' || c, ', ' ORDER BY datname, c) FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = setdatabase,
			unnest(setconfig) c WHERE setrole = r.oid AND c NOT LIKE 'role=%'))
		FROM pg_roles r WHERE rolname = $1`, [][]byte{[]byte(user)}, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if len(r.Rows) == 0 {
		return "missing"
	}
	return string(r.Rows[0][0])
}

// TestAlternate rotates five times. What either user makes is the base's and both
// can use it, both find the same settings, and the value before keeps working.
func TestAlternate(t *testing.T) {
	p := newPair(t, `al"tér'nate\`)
	exec(t, secure, "CREATE DATABASE elsewhere")
	t.Cleanup(func() { exec(t, secure, "DROP DATABASE elsewhere") })
	// What the owner changes before each rotation.
	changes := [][]string{
		{"ALTER ROLE %[1]s CONNECTION LIMIT 17", "ALTER ROLE %[1]s VALID UNTIL '2100-01-02 03:04:05+06'"},
		{"ALTER ROLE %[1]s SET work_mem TO '5MB'", "ALTER ROLE %[1]s RESET statement_timeout", "ALTER ROLE %[1]s IN DATABASE elsewhere SET datestyle TO 'ISO, DMY'"},
		{},
		{"ALTER ROLE %[1]s CONNECTION LIMIT -1", "ALTER ROLE %[1]s VALID UNTIL 'infinity'", "ALTER ROLE %[1]s SET search_path TO ''"},
		{"ALTER ROLE %[1]s RESET ALL", "ALTER ROLE %[1]s IN DATABASE postgres SET search_path TO \"$user\", 'a, b'"},
	}
	schema, err := quoteName(p.base)
	if err != nil {
		t.Fatal(err)
	}
	w := new(wire)
	current, previous := p.value, rotators.Secret{}
	for n, statements := range changes {
		for _, s := range statements {
			exec(t, secure, fmt.Sprintf(s, schema))
		}
		count := func() (in, refused int) {
			for _, user := range []string{p.base, p.twin, "admin_of_" + p.base} {
				i, r := logins(secure, user)
				in, refused = in+i, refused+r
			}
			return in, refused
		}
		inBefore, refusedBefore := count()
		pending := p.rotate(t, w.rotator(), current, previous)
		in, refused := count()
		// To the base, or to a new twin: the base, the admin, the proof, the test.
		// To a twin that there is, also with its previous password.
		want := 4
		if n > 0 && n%2 == 0 {
			want = 5
		}
		if in -= inBefore; in != want || refused != refusedBefore {
			t.Errorf("rotation %d: %d logins, %d refused; want %d, 0", n+1, in, refused-refusedBefore, want)
		}
		if want := []string{p.twin, p.base}[n%2]; userOf(t, pending) != want {
			t.Errorf("rotation %d: to %q, want %q", n+1, userOf(t, pending), want)
		}
		if !accepts(t, current) {
			t.Errorf("rotation %d: the value before is refused", n+1)
		}
		if accepts(t, with(t, pending, "the first password")) && n > 0 {
			t.Errorf("rotation %d: the first password still works", n+1)
		}
		if n%2 == 0 {
			if b, tw := catalog(t, p.base), catalog(t, p.twin); b != tw {
				t.Errorf("rotation %d:\nbase: %s\ntwin: %s", n+1, b, tw)
			}
		}

		// Both users work with what either made.
		as(t, pending, "postgres", fmt.Sprintf(`CREATE TABLE %[1]s.t%[2]d (id serial, x int); INSERT INTO %[1]s.t%[2]d (x) VALUES (1);
			CREATE FUNCTION %[1]s.f%[2]d() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER DEFAULT PRIVILEGES IN SCHEMA %[1]s GRANT SELECT ON TABLES TO PUBLIC`, schema, n))
		for made := range n + 1 {
			for _, v := range []rotators.Secret{current, pending} {
				as(t, v, "postgres", fmt.Sprintf(`SELECT nextval('%[3]s.t%[2]d_id_seq'), %[1]s.f%[2]d(); INSERT INTO %[1]s.t%[2]d (x) VALUES (2);
					ALTER TABLE %[1]s.t%[2]d ALTER x SET DEFAULT 3; ALTER FUNCTION %[1]s.f%[2]d() COST 7; COMMENT ON SEQUENCE %[1]s.t%[2]d_id_seq IS 'mine'`, schema, made, strings.ReplaceAll(schema, "'", "''")))
			}
		}
		owners := as(t, pending, "postgres", "SELECT string_agg(DISTINCT pg_get_userbyid(o), '; ') FROM (SELECT relowner o, relnamespace n FROM pg_class UNION SELECT proowner, pronamespace FROM pg_proc) x JOIN pg_namespace s ON s.oid = n WHERE nspname = current_user")
		if owners != p.base {
			t.Errorf("rotation %d: owners are %q", n+1, owners)
		}
		without(t, secure.Log(), password(t, pending))
		current, previous = pending, current
	}
	if b, tw := p.settings(t, previous), p.settings(t, current); b != tw {
		t.Errorf("settings:\nbase: %s\ntwin: %s", b, tw)
	}
}

// TestAdopt takes on a twin that AWS's template made: a member of the base that
// acts as itself, and owns what it made.
func TestAdopt(t *testing.T) {
	p := newPair(t, "adopter")
	exec(t, secure, "SET SESSION AUTHORIZATION admin_of_adopter; CREATE ROLE adopter_clone LOGIN PASSWORD 'by the template'; GRANT adopter TO adopter_clone")
	exec(t, secure, "CREATE DATABASE shop OWNER adopter")
	t.Cleanup(func() { exec(t, secure, "DROP DATABASE shop") })
	current := value(secure, "adopter", "the first password", "dbname", "shop")
	previous := value(secure, "adopter_clone", "by the template", "dbname", "shop")
	as(t, previous, "shop", "CREATE SCHEMA its; CREATE TABLE its.t (x serial); CREATE FUNCTION its.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")

	pending := p.rotate(t, New(awsConfig, nil), current, previous)
	for _, v := range []rotators.Secret{current, pending} {
		as(t, v, "shop", "INSERT INTO its.t DEFAULT VALUES; ALTER TABLE its.t ADD y_"+userOf(t, v)+" int; ALTER FUNCTION its.f() COST 7; SELECT * FROM its.t")
	}
	if s := p.settings(t, pending); s != p.settingsOfBase {
		t.Errorf("settings of the twin: %s", s)
	}

	// While somebody works with what the twin owns, nobody waits for long.
	exec(t, secure, "ALTER ROLE adopter_clone RESET role")
	as(t, pending, "shop", "CREATE TABLE its.busy ()")
	reader, err := newConnector(nil).open(t.Context(), database.Login{Host: "localhost", Port: secure.Port, User: "adopter_clone", Password: rotators.NewSecret(password(t, pending)), Database: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(t.Context())
	if _, err := reader.(*session).query(t.Context(), 0, "BEGIN", "SELECT FROM its.busy"); err != nil {
		t.Fatal(err)
	}
	err = New(awsConfig, nil).Set(t.Context(), p.attempt(current, with(t, pending, "the next one"), pending))
	want{text: `owns something in the database "shop" .* lock timeout`}.check(t, err, "the next one")
}

// TestTakeovers asks, in each way there is, for power over somebody else's user.
func TestTakeovers(t *testing.T) {
	someone := rotators.NewSecret
	for _, c := range []struct {
		name string
		// ask returns what the attacker wrote: the current value and the previous.
		ask     func(t *testing.T, p *pair) (current, previous rotators.Secret)
		want    want
		twin    string // what there must be of the twin's account
		adminIn int    // logins of the admin
	}{
		{"a twin's name", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			return newUser(t, secure, p.twin, "low"), rotators.Secret{}
		}, want{text: "does not act for user \"victim\" .*this secret does not prove .*rekey:admin-for", permanent: true}, "low", 0},
		{"a twin's name, and a guess", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			return newUser(t, secure, p.twin, "low"), with(t, p.value, "a guess")
		}, want{text: "does not act for user \"victim\"", permanent: true}, "low", 0},
		{"a wrong password", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			return with(t, p.value, "a guess"), someone("whatever")
		}, want{text: "does not act for user \"victim\"", permanent: true}, "", 0},
		{"a stranger by the name of the twin", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			newUser(t, secure, p.twin, "a stranger's")
			return p.value, with(t, p.value, "older")
		}, want{text: "does not act for user \"victim_clone\"", permanent: true}, "a stranger's", 1},
		{"a name that is another's twin to be", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			return newUser(t, secure, p.twin+"_clone", "low"), rotators.Secret{}
		}, want{text: "does not act for user \"victim_clone\"", permanent: true}, "", 0},
		{"another host", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			p.admin = value(secure, "admin_of_"+p.base, "the admin's password", "host", "prod.example.com")
			return p.value, rotators.Secret{}
		}, want{text: "is for another server than localhost:[0-9]+, where user \"victim_clone\"", permanent: true}, "", 0},
		{"another port", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			p.admin = value(secure, "admin_of_"+p.base, "the admin's password", "port", "5432")
			return p.value, rotators.Secret{}
		}, want{text: "is for another server than localhost:[0-9]+, where user \"victim_clone\"", permanent: true}, "", 0},
		{"the admin itself", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			p.admin = p.value
			return p.value, rotators.Secret{}
		}, want{text: "the admin the-admin is the user", permanent: true}, "", 0},
		{"the twin as admin", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			p.admin = newUser(t, secure, p.twin, "low")
			return p.value, rotators.Secret{}
		}, want{text: "the admin the-admin is the user", permanent: true}, "low", 0},
		{"a superuser for a twin", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			v := newUser(t, secure, p.twin, "high")
			exec(t, secure, "ALTER ROLE %I SUPERUSER", p.twin)
			return p.value, v
		}, want{text: `has rights that "victim" has not: ALTER ROLE "victim_clone" NOSUPERUSER, then`, permanent: true}, "high", 1},
		{"a twin with more rights", func(t *testing.T, p *pair) (rotators.Secret, rotators.Secret) {
			v := newUser(t, secure, p.twin, "high")
			exec(t, secure, "ALTER ROLE %I CREATEROLE CREATEDB BYPASSRLS; GRANT pg_monitor, pg_read_server_files TO %I; GRANT pg_monitor TO %I", p.twin, p.twin, p.base)
			return p.value, v
		}, want{text: `: ALTER ROLE "victim_clone" NOCREATEDB NOCREATEROLE NOBYPASSRLS; REVOKE pg_read_server_files FROM "victim_clone", then`, permanent: true}, "high", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, "victim")
			current, previous := c.ask(t, p)
			before, _ := logins(secure, "admin_of_"+p.base)
			r := New(awsConfig, nil)
			pending, err := r.Create(t.Context(), p.attempt(current, rotators.Secret{}, previous))
			if err != nil {
				t.Fatal(err)
			}
			err = r.Set(t.Context(), p.attempt(current, pending, previous))
			c.want.check(t, err, password(t, pending), "the admin's password", "a guess")
			if in, _ := logins(secure, "admin_of_"+p.base); in-before != c.adminIn {
				t.Errorf("the admin logged in %d times, want %d", in-before, c.adminIn)
			}
			if accepts(t, pending) || !accepts(t, p.value) {
				t.Error("the takeover succeeded")
			}
			if c.twin != "" && !accepts(t, value(secure, p.twin, c.twin)) {
				t.Error("the other user's password was changed")
			}
			if c.twin == "" && catalog(t, p.twin) != "missing" {
				t.Error("a twin was made")
			}
		})
	}
}

// TestVouched lets an admin act without a proof, because its owner says so.
func TestVouched(t *testing.T) {
	p := newPair(t, "vouched")
	newUser(t, secure, p.twin, "a stranger's")
	// From 16 on CREATEROLE is not enough for roles that others have made.
	exec(t, secure, "GRANT vouched_clone TO admin_of_vouched WITH ADMIN OPTION")
	wrong := with(t, p.value, "wrong")
	for strategy, user := range map[string]string{"alternating-users": p.twin, "single-user": p.base} {
		r := New(awsConfig, nil)
		a := p.attempt(wrong, rotators.Secret{}, rotators.Secret{})
		a.Settings.Strategy = strategy
		a.Vouches = func(_ context.Context, ref string) (bool, error) { return ref == "the-admin", nil }
		var err error
		if a.Pending, err = r.Create(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := r.Set(t.Context(), a); err != nil {
			t.Fatalf("%s: %v", strategy, err)
		}
		if userOf(t, a.Pending) != user || !accepts(t, a.Pending) || p.settings(t, a.Pending) != p.settingsOfBase {
			t.Errorf("%s: the pending value is for %q, or does not work", strategy, userOf(t, a.Pending))
		}
	}
}

// TestPlanted has the owner of the database that the admin logs in to plant what
// would be run in the admin's name.
func TestPlanted(t *testing.T) {
	p := newPair(t, "planted")
	newUser(t, secure, "mallory", "m")
	exec(t, secure, "CREATE DATABASE orchard OWNER mallory")
	t.Cleanup(func() { exec(t, secure, "DROP DATABASE orchard") })
	p.admin = value(secure, "admin_of_planted", "the admin's password", "dbname", "orchard")
	as(t, value(secure, "mallory", "m"), "orchard", `
		CREATE SCHEMA trap; GRANT ALL ON SCHEMA trap TO PUBLIC; CREATE TABLE trap.caught (who name); GRANT ALL ON trap.caught TO PUBLIC;
		CREATE FUNCTION trap.spring(name, name) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN $1 OPERATOR(pg_catalog.=) $2; END';
		CREATE OPERATOR trap.= (FUNCTION = trap.spring, LEFTARG = name, RIGHTARG = name);
		CREATE FUNCTION trap.pg_has_role(oid, oid, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN true; END';
		CREATE FUNCTION trap.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); END';
		CREATE VIEW trap.pg_roles AS SELECT pg_catalog.current_database() AS rolname;
		ALTER DATABASE orchard SET search_path TO trap, pg_catalog;
		ALTER DATABASE orchard SET default_transaction_read_only TO on;
		ALTER DATABASE orchard SET standard_conforming_strings TO off;
		ALTER DATABASE orchard SET role TO mallory`)
	caught := func() string {
		return as(t, value(secure, "mallory", "m"), "orchard", "SELECT pg_catalog.count(*) FROM trap.caught")
	}
	// The trap works.
	as(t, p.admin, "orchard", "SET transaction_read_only TO off; SELECT FROM pg_catalog.pg_roles WHERE rolname = 'planted'; SELECT pg_has_role(0, 0, '')")
	before := caught()
	if before == "0" {
		t.Fatal("the trap catches nobody, so this proves nothing")
	}
	pending := p.rotate(t, New(awsConfig, nil), p.value, rotators.Secret{})
	p.rotate(t, New(awsConfig, nil), pending, p.value)
	if caught() != before {
		t.Error("what was planted was run")
	}
}

// TestPlantedEncoding has the owner of the database that the admin logs in to
// choose an encoding in which the last byte of a character can be a backslash, and
// the base write a setting that ends its own quotes in it.
func TestPlantedEncoding(t *testing.T) {
	p := newPair(t, "encoded")
	newUser(t, secure, "bystander", "its own")
	exec(t, secure, "GRANT bystander TO admin_of_encoded WITH ADMIN OPTION")
	exec(t, secure, "CREATE DATABASE polyglot OWNER encoded TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
	t.Cleanup(func() { exec(t, secure, "DROP DATABASE polyglot") })
	p.admin = value(secure, "admin_of_encoded", "the admin's password", "dbname", "polyglot")
	as(t, p.value, "polyglot", `ALTER DATABASE polyglot SET client_encoding TO 'SJIS'; ALTER DATABASE polyglot SET backslash_quote TO on;
		ALTER ROLE encoded SET search_path TO '表', '; ALTER ROLE bystander PASSWORD $$taken$$; COMMIT --'`)
	pending := value(secure, p.twin, "new", "dbname", "polyglot")
	current := value(secure, p.base, "the first password", "dbname", "polyglot")
	if err := New(awsConfig, nil).Set(t.Context(), p.attempt(current, pending, rotators.Secret{})); err != nil {
		t.Error(err)
	}
	if !accepts(t, value(secure, "bystander", "its own")) {
		t.Error("what was written into a setting was run as the admin")
	}
	if b, tw := catalog(t, p.base), catalog(t, p.twin); b != tw {
		t.Errorf("\nbase: %s\ntwin: %s", b, tw)
	}
}

// TestShed has a twin with rights of its own: those that the base lacks are named, and a base
// that is a superuser lacks none of them. Memberships count for a superuser too: they go
// on when the base ceases to be one.
func TestShed(t *testing.T) {
	all := role{super: true, createDB: true, createRole: true, bypassRLS: true}
	for name, c := range map[string]struct {
		twin, base role
		want       string
	}{
		"none":                            {role{}, role{}, ""},
		"all of them":                     {all, role{}, "ALTER ROLE t NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"},
		"as the base":                     {all, all, ""},
		"one more than the base":          {role{createDB: true, bypassRLS: true}, role{createDB: true}, "ALTER ROLE t NOBYPASSRLS"},
		"the base may do it as superuser": {role{createDB: true, createRole: true, bypassRLS: true}, role{super: true}, ""},
		"memberships":                     {role{others: "a, b"}, role{super: true}, "REVOKE a, b FROM t"},
	} {
		if got := strings.Join(c.twin.shed(c.base, "t"), "; "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestAlternatePutBack refuses the new password after the change.
func TestAlternatePutBack(t *testing.T) {
	p := newPair(t, "backward")
	first := p.value
	second := p.rotate(t, New(awsConfig, nil), first, rotators.Secret{})
	third := p.rotate(t, New(awsConfig, nil), second, first)
	for _, c := range []struct {
		current, previous rotators.Secret
		proof             int // which login it is
	}{{third, second, 4}, {second, third, 3}} {
		pending, err := New(awsConfig, nil).Create(t.Context(), p.attempt(c.current, rotators.Secret{}, c.previous))
		if err != nil {
			t.Fatal(err)
		}
		w := &wire{before: func(n int) error {
			if n == c.proof {
				exec(t, secure, "ALTER ROLE %I PASSWORD 'somebody else''s'", userOf(t, pending))
			}
			return nil
		}}
		err = w.rotator().Set(t.Context(), p.attempt(c.current, pending, c.previous))
		want{text: "refused the new password .* old one was put back and works"}.check(t, err, password(t, pending), password(t, c.previous))
		if !accepts(t, c.current) || !accepts(t, c.previous) || accepts(t, pending) {
			t.Error("not the passwords that should work")
		}
	}

	// A twin that was new has nothing to be put back.
	p = newPair(t, "forward")
	pending := value(secure, "forward_clone", "new")
	w := &wire{before: func(n int) error {
		if n == 3 {
			exec(t, secure, "ALTER ROLE forward_clone PASSWORD 'somebody else''s'")
		}
		return nil
	}}
	err := w.rotator().Set(t.Context(), p.attempt(p.value, pending, rotators.Secret{}))
	want{text: "held none that could be put back"}.check(t, err)
}

// TestAdminSingleUser has an admin change the password of a user.
func TestAdminSingleUser(t *testing.T) {
	p := newPair(t, "restricted")
	r := New(awsConfig, nil)
	a := p.attempt(p.value, with(t, p.value, "the next one"), rotators.Secret{})
	a.Settings.Strategy = "single-user"
	own, _ := logins(secure, "restricted")
	admin, _ := logins(secure, "admin_of_restricted")
	for range 2 {
		if err := r.Set(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	ownAfter, _ := logins(secure, "restricted")
	adminAfter, _ := logins(secure, "admin_of_restricted")
	if ownAfter-own != 3 || adminAfter-admin != 1 || accepts(t, p.value) || !accepts(t, a.Pending) {
		t.Errorf("%d logins of the user, want 3; %d of the admin, want 1; or not the password that should work", ownAfter-own, adminAfter-admin)
	}

	// An admin who may not.
	exec(t, secure, "ALTER ROLE admin_of_restricted NOCREATEROLE")
	a = p.attempt(a.Pending, with(t, p.value, "the third"), rotators.Secret{})
	a.Settings.Strategy = "single-user"
	want{text: `user "admin_of_restricted" may not change the password`, permanent: true}.check(t, r.Set(t.Context(), a), "the third")
	a.Settings.Strategy = ""
	a.Pending = value(secure, "restricted_clone", "the third")
	want{text: `user "admin_of_restricted" may not make a twin`, permanent: true}.check(t, r.Set(t.Context(), a), "the third")
	// Nor one with a wrong password.
	p.admin = with(t, p.admin, "wrong")
	want{text: `the admin the-admin cannot log in`}.check(t, r.Set(t.Context(), a), "the third")
}

// TestEnsureTwinIsOneTransaction fails half way and must leave nothing behind.
func TestEnsureTwinIsOneTransaction(t *testing.T) {
	p := newPair(t, "whole")
	exec(t, secure, "ALTER ROLE whole SET log_statement TO 'none'") // what only a superuser may set
	a := p.attempt(p.value, value(secure, "whole_clone", "new"), rotators.Secret{})
	err := New(awsConfig, nil).Set(t.Context(), a)
	want{text: `only a superuser passes on what superusers set; the server said: .*log_statement`, permanent: true}.check(t, err, "new")
	if catalog(t, "whole_clone") != "missing" {
		t.Error("half a twin was left behind")
	}
	exec(t, secure, "ALTER ROLE admin_of_whole SUPERUSER")
	if err := New(awsConfig, nil).Set(t.Context(), a); err != nil || catalog(t, "whole") != catalog(t, "whole_clone") {
		t.Errorf("by a superuser: %v", err)
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

// A user of the twin's name that somebody creates between the look and the change was
// proved by nobody, and keeps its password.
func TestAUserThatCameAfterTheLookIsNoTwin(t *testing.T) {
	p := newPair(t, "latecomer")
	e := engine(awsConfig, nil)
	open, created := e.Open, false
	e.Open = func(ctx context.Context, l database.Login) (database.Session, error) {
		opened, err := open(ctx, l)
		if s, ok := opened.(*session); ok && l.User == "admin_of_latecomer" {
			return late{s, func() {
				if !created {
					created = true
					exec(t, secure, "CREATE ROLE latecomer_clone LOGIN PASSWORD 'somebody else''s'")
				}
			}}, err
		}
		return opened, err
	}
	a := p.attempt(p.value, value(secure, "latecomer_clone", "new"), rotators.Secret{})
	err := database.New(e).Set(t.Context(), a)
	want{text: `somebody created the user "latecomer_clone"`}.check(t, err, "new")
	if !created || !accepts(t, value(secure, "latecomer_clone", "somebody else's")) {
		t.Errorf("created: %v, and that user is refused", created)
	}
	// The retry asks whose the user is.
	if err := database.New(e).Set(t.Context(), a); err == nil || strings.Contains(err.Error(), "somebody created the user") {
		t.Errorf("the retry: %v", err)
	}
	if !accepts(t, value(secure, "latecomer_clone", "somebody else's")) {
		t.Error("after the retry, that user is refused")
	}
}

// TestIAMAdmin looks at the login an IAM admin makes. No real RDS was asked.
func TestIAMAdmin(t *testing.T) {
	cfg := awsConfig
	cfg.Region = "eu-central-1"
	cfg.Credentials = staticCredentials{}
	p := newPair(t, "cloudy")
	e := engine(cfg, nil)
	const endpoint = "cloudy.c1.eu-central-1.rds.amazonaws.com"
	open, token := e.Open, ""
	e.Open = func(ctx context.Context, l database.Login) (database.Session, error) {
		if l.User == "admin_of_cloudy" {
			if l.Plaintext {
				t.Error("a token was sent in the clear")
			}
			token = l.Password.Reveal()
			l.Password = rotators.NewSecret("the admin's password")
		}
		l.Host = "localhost"
		return open(ctx, l)
	}
	// IAM lets nobody in but at RDS, so nobody else is sent a token.
	a := p.attempt(p.value, value(secure, "cloudy_clone", "new"), rotators.Secret{})
	a.Settings.Admin = "iam:admin_of_cloudy"
	want{text: "\"localhost\" is no endpoint", permanent: true}.check(t, database.New(e).Set(t.Context(), a))
	e.Locator = nil
	want{text: "no name of Amazon RDS", permanent: true}.check(t, database.New(e).Set(t.Context(), a))
	if token != "" {
		t.Fatal("a token was sent to a host that is not RDS's")
	}
	at := func(v rotators.Secret) rotators.Secret { return replaced(t, v, "host", endpoint) }
	a.Current, a.Pending = at(a.Current), at(a.Pending)
	a.Limits.DelegatedAdmins = true
	want{text: "REKEY_ADMINS", permanent: true}.check(t, database.New(e).Set(t.Context(), a))
	a.Limits.DelegatedAdmins = false
	if err := database.New(e).Set(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse("https://" + token)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Host != fmt.Sprintf("%s:%d", endpoint, secure.Port) || q.Get("DBUser") != "admin_of_cloudy" || q.Get("Action") != "connect" ||
		!strings.HasSuffix(q.Get("X-Amz-Credential"), "/eu-central-1/rds-db/aws4_request") || q.Get("X-Amz-Signature") == "" {
		t.Errorf("the token is for %s", strings.ReplaceAll(token, q.Get("X-Amz-Signature"), "..."))
	}
	if !accepts(t, value(secure, "cloudy_clone", "new")) {
		t.Error("the pending value does not work")
	}

	for host, region := range map[string]string{
		"db.c1.eu-west-1.rds.amazonaws.com": "eu-west-1", "DB.cluster-c1.cn-north-1.RDS.amazonaws.com.cn.": "cn-north-1",
		"rds.amazonaws.com": "", "db.rds.example.com": "", "localhost": "",
	} {
		if got := regionOf(host); got != region {
			t.Errorf("%s is in %q, want %q", host, got, region)
		}
	}
	a.Current, a.Pending = value(secure, "cloudy", "the first password", "ssl", "false"), value(secure, "cloudy_clone", "x", "ssl", "false")
	want{text: "logs in with TLS only", permanent: true}.check(t, database.New(e).Set(t.Context(), a))
	a.Settings.Admin = "iam:cloudy"
	a.Current, a.Pending = at(p.value), at(value(secure, "cloudy_clone", "x"))
	want{text: "is the user", permanent: true}.check(t, database.New(e).Set(t.Context(), a))
}

// TestSettingAsTyped copies a list of names that was not stored as the server
// itself writes one.
func TestSettingAsTyped(t *testing.T) {
	p := newPair(t, "typed")
	as(t, p.value, "postgres", `SELECT set_config('search_path', 'Typed , "Mixed",PUBLIC', false); ALTER ROLE typed SET search_path FROM CURRENT`)
	const found = "SELECT current_schemas(false)"
	pending := value(secure, p.twin, "new")
	for range 2 {
		if err := New(awsConfig, nil).Set(t.Context(), p.attempt(p.value, pending, pending)); err != nil {
			t.Fatal(err)
		}
	}
	if b, tw := as(t, p.value, "postgres", found), as(t, pending, "postgres", found); b != tw || b != "{typed,public}" {
		t.Errorf("base: %s\ntwin: %s", b, tw)
	}
}

// An error names the settings it is about, and shows none of their values.
func TestWithoutValues(t *testing.T) {
	got := strings.Join(withoutValues([]string{
		`GRANT "app" TO "app_clone"`, `ALTER ROLE "app_clone" CONNECTION LIMIT 5`, `ALTER ROLE "app_clone" SET "app.key" TO E'a key TO hide'`,
	}), "; ")
	if want := `GRANT "app" TO "app_clone"; ALTER ROLE "app_clone" CONNECTION LIMIT 5; ALTER ROLE "app_clone" SET "app.key"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSplitNames(t *testing.T) {
	for text, want := range map[string]string{
		`"$user", public`: `E'$user', E'public'`,
		`""`:              `E''`,
		``:                `E''`,
		`a,"b ""c"", d"`:  `E'a', E'b "c", d'`,
		`"it's \\", x`:    `E'it''s \\\\', E'x'`,
		"\tA ,\n\"B\"":    `E'a', E'B'`, // as a user typed it: ALTER ROLE .. SET search_path FROM CURRENT
	} {
		if got := (setting{"", "search_path"}).spell(text); got != want {
			t.Errorf("%s is spelled %s, want %s", text, got, want)
		}
	}
}

// away is where the tests' server stands in for a writer.
type away struct {
	place database.Place
	asked int
}

func (a *away) Locate(context.Context, rotators.Secret) (database.Place, error) {
	a.asked++
	return a.place, nil
}

// TestReadReplica rotates secrets that name a real streaming replica: changed at
// the source, and done when the replica has it.
func TestReadReplica(t *testing.T) {
	// Without TLS, because the replica's certificate is not to be trusted.
	clear := func(user, password string, more ...string) rotators.Secret {
		return value(replica, user, password, append([]string{"ssl", "false"}, more...)...)
	}
	at := database.Place{Host: "localhost", Port: replica.Port, Writer: "localhost", WriterPort: secure.Port, Engine: "postgres"}
	for _, c := range []struct {
		name  string
		admin bool
		byID  bool
		asked int
	}{{"single-user", false, false, 1}, {"alternating-users", true, false, 1}, {"by identifier", false, true, 2}} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, "copied "+c.name)
			caughtUp(t)
			more := []string{}
			if c.byID {
				more = []string{"host", "", "dbInstanceIdentifier", "shop-replica"}
			}
			current := clear(userOf(t, p.value), "the first password", more...)
			a := p.attempt(current, rotators.Secret{}, rotators.Secret{})
			if !c.admin {
				a.Settings = rotators.Settings{}
			}
			where := &away{place: at}
			w := new(wire)
			e := engine(awsConfig, &Options{Dial: w.dial})
			e.Locator = where
			r := database.New(e)
			var err error
			if a.Pending, err = r.Create(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			// The replica lags until it has refused the pending password twice.
			exec(t, replica, "SELECT pg_wal_replay_pause()")
			refusals := 0
			w.before = func(int) error {
				if _, refused := logins(replica, userOf(t, a.Pending)); refused > 1 && refusals <= 1 {
					exec(t, replica, "SELECT pg_wal_replay_resume()")
					refusals = refused
				}
				return nil
			}
			err = r.Set(t.Context(), a)
			exec(t, replica, "SELECT pg_wal_replay_resume()")
			if err != nil {
				t.Fatal(err)
			}
			if refusals < 2 {
				t.Error("the replica never lagged, so this proves little")
			}
			if err := r.Test(t.Context(), a); err != nil {
				t.Errorf("on the replica: %v", err)
			}
			if where.asked != c.asked {
				t.Errorf("RDS was asked %d times, want %d", where.asked, c.asked)
			}

			// A replica that lags for good is no reason to put anything back.
			exec(t, replica, "SELECT pg_wal_replay_pause()")
			defer exec(t, replica, "SELECT pg_wal_replay_resume()")
			w.before = nil
			previous := a.Current
			a.Current = a.Pending
			a.Previous = func(context.Context) (rotators.Secret, error) { return previous, nil }
			if a.Pending, err = r.Create(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			err = r.Set(ctx, a)
			want{text: "was changed at localhost:[0-9]+, and the replica has not heard of it yet"}.check(t, err, password(t, a.Pending))
			if !accepts(t, value(secure, userOf(t, a.Pending), password(t, a.Pending))) {
				t.Error("the writer does not take the pending password")
			}
		})
	}
}

// caughtUp waits until the replica has all that its source has.
func caughtUp(t *testing.T) {
	t.Helper()
	ask := func(s interface {
		Connect(context.Context) (*pgconn.PgConn, error)
	}, sql string) string {
		conn, err := s.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		r, err := conn.Exec(t.Context(), sql).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return string(r[0].Rows[0][0])
	}
	lsn := ask(secure, "SELECT pg_current_wal_lsn()")
	for ask(replica, "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'") != "t" {
		continue // each question is a round trip
	}
}
