package mysql

import (
	"context"
	"fmt"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
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
	)
	t.Cleanup(func() {
		exec(t, "DROP DATABASE "+shop, fmt.Sprintf("DROP ROLE %s_clerk, %[1]s_auditor", shop))
	})
	admin := newAdmin(t, shop+"_admin", fmt.Sprintf("SELECT, INSERT, UPDATE, DELETE, EXECUTE ON %s.*", shop), "PROCESS ON *.*")
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
	s := open(t, user.Reveal(), password(t, v))
	defer s.Close(ctx)
	for _, sql := range []string{
		fmt.Sprintf("SELECT id, price FROM %s.goods", shop), fmt.Sprintf("INSERT INTO %s.goods VALUES (2, 2, 2)", shop),
		fmt.Sprintf("SELECT * FROM %s.`odd `` TO name`", shop), fmt.Sprintf("CALL %s.sell(1)", shop), fmt.Sprintf("SELECT * FROM %s.sold", shop),
	} {
		if err := s.run(ctx, sql); err != nil {
			return fmt.Errorf("%s lacks a right: %w", s.account, err)
		}
	}
	if err := s.run(ctx, fmt.Sprintf("SELECT cost FROM %s.goods", shop)); !says(err, deniedColumn) {
		return fmt.Errorf("%s may do more than its base: %w", s.account, err)
	}
	return nil
}
