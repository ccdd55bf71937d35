package lockout

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// An admin whose owner vouches for a secret changes a password that the secret does not
// hold, and the login with the new one is answered by something else than a welcome. What
// the server had stored is put back by its hash: whoever has the password logs in again.
func TestPutBackByHash(t *testing.T) {
	for name, c := range map[string]struct{ bar, lift func(t *testing.T, u user) }{
		"PostgreSQL": {
			func(t *testing.T, u user) { inPostgres(t, "GRANT shut TO "+u.name) },
			func(t *testing.T, u user) { inPostgres(t, "REVOKE shut FROM "+u.name) },
		},
		"MySQL": {
			func(t *testing.T, u user) { inMySQL(t, "ALTER USER "+u.name+" REQUIRE X509") },
			func(t *testing.T, u user) { inMySQL(t, "ALTER USER "+u.name+" REQUIRE NONE") },
		},
		"Redis": {
			func(t *testing.T, u user) { do(t, "ACL", "SETUSER", u.name, "off") },
			func(t *testing.T, u user) { do(t, "ACL", "SETUSER", u.name, "on") },
		},
	} {
		for _, s := range strategies {
			if !s.delegated || s.alternating || s.overlap && name == "PostgreSQL" {
				continue // the new clone of alternating users had nothing that could be put back
			}
			for _, stored := range []string{"scram", "md5"} {
				if stored == "md5" && name != "PostgreSQL" {
					continue
				}
				t.Run(name+", "+s.name+", "+stored, func(t *testing.T) {
					e := engineOf(t, name)
					u := user{e, newName(), e.port()}
					e.create(t, u.name, "somebody-elses-password")
					if stored == "md5" {
						inPostgres(t, "SET password_encryption TO md5; ALTER ROLE "+u.name+" PASSWORD 'somebody-elses-password'")
					}
					dials := 0
					err := e.new(func(ctx context.Context, network, address string) (net.Conn, error) {
						if dials++; dials == 3 { // the refused one, the admin, and now the proof
							c.bar(t, u)
						}
						return new(net.Dialer).DialContext(ctx, network, address)
					}).Set(t.Context(), s.rotation(u))
					if err == nil || !strings.Contains(err.Error(), "the server has again what it had before") || rotators.IsRefused(err) || dials != 3 {
						t.Errorf("after %d connections: %v", dials, err)
					}
					c.lift(t, u)
					if stored == "md5" {
						log := pg.Log()
						if i := strings.LastIndex(log, "ALTER ROLE \""+u.name+"\""); i < 0 || strings.Contains(log[i:], "PASSWORD E'md5") {
							t.Error("the server's log holds an MD5 hash, or no change at all")
						}
						return // that hash is no use for SCRAM, which the server asks for
					}
					if err := e.lets(t, u.at, u.name, "somebody-elses-password"); err != nil {
						t.Errorf("whoever had the password is locked out: %v", err)
					}
				})
			}
		}
	}
}

// Retirement takes one connection of the user at a time, also where the user changes
// itself, so it succeeds where the application leaves no more than one.
func TestRetireByOneConnection(t *testing.T) {
	for _, c := range []struct{ engine, strategy string }{
		{"MySQL", "overlap by itself"}, {"MySQL", "overlap by an admin"}, {"MySQL", "alternating users"}, {"PostgreSQL", "alternating users"},
	} {
		t.Run(c.engine+", "+c.strategy, func(t *testing.T) {
			e := engineOf(t, c.engine)
			var s strategy
			for _, s = range strategies {
				if s.name == c.strategy {
					break
				}
			}
			u := user{e, newName(), e.port()}
			e.create(t, u.name, current)
			attempt := s.rotation(u)
			rotator := e.new(nil)
			if err := rotator.Set(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}
			if c.engine == "MySQL" {
				inMySQL(t, "ALTER USER "+u.name+" WITH MAX_USER_CONNECTIONS 1")
			} else {
				inPostgres(t, "ALTER ROLE "+u.name+" CONNECTION LIMIT 1")
			}
			old := attempt.Current
			attempt.Current, attempt.Pending = attempt.Pending, rotators.Secret{}
			attempt.Previous = func(context.Context) (rotators.Secret, error) { return old, nil }
			for range 2 {
				if err := rotator.(rotators.Retirer).Retire(t.Context(), attempt); err != nil {
					t.Fatal(err)
				}
			}
			if e.lets(t, u.at, u.name, current) == nil {
				t.Error("the old password is accepted")
			}
			if err := rotator.Test(t.Context(), rotators.Rotation{Pending: attempt.Current}); err != nil {
				t.Errorf("the current password: %v", err)
			}
		})
	}
}

// Redis limits connections, not users. With room for one beside the application's there
// is no room for the proof, and nothing is changed.
func TestOneConnectionOfRedis(t *testing.T) {
	one := servers.StartRedis(t, servers.RedisOptions{ACLFile: true, Conf: []string{"maxclients 3"}})
	e := engineOf(t, "Redis")
	if _, err := one.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">"+current, "~*", "+@all"); err != nil {
		t.Fatal(err)
	}
	u := user{e, "app", one.Port} // one connection is the superuser's
	shut, err := e.open(t.Context(), u.at, u.name, current)
	if err != nil {
		t.Fatal(err)
	}
	defer shut()
	err = e.new(nil).Set(t.Context(), strategies[0].rotation(u))
	if err == nil || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), "maxclients") {
		t.Errorf("%v", err)
	}
	if err := e.lets(t, u.at, u.name, current); err != nil {
		t.Errorf("the application is locked out: %v", err)
	}
}

// A role's own time limit for statements does not keep the password from being changed, here
// by a change that waits longer than that for a lock.
func TestStatementTimeout(t *testing.T) {
	e := engineOf(t, "PostgreSQL")
	u := user{e, newName(), e.port()}
	e.create(t, u.name, current)
	inPostgres(t, "ALTER ROLE "+u.name+" SET statement_timeout TO '300ms'")
	held := make(chan error, 1)
	go func() {
		held <- pg.Exec(context.Background(), "SET statement_timeout TO '20s'", `DO $$ BEGIN
			LOCK TABLE pg_authid IN SHARE ROW EXCLUSIVE MODE;
			WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = '`+u.name+`' AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > '600ms') LOOP
				PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
			END LOOP; END $$`)
	}()
	inPostgres(t, `DO $$ BEGIN
		WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'pg_authid'::regclass AND mode = 'ShareRowExclusiveLock' AND granted) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP; END $$`)
	if err := e.new(nil).Set(t.Context(), strategies[0].rotation(u)); err != nil {
		t.Error(err)
	}
	if err := <-held; err != nil {
		t.Error("the change waited for no lock: ", err)
	}
}
