package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// behind is a secret of a user that logs in by a pooler.
func behind(b *servers.PgBouncer, user, password, database string) rotators.Secret {
	text, _ := json.Marshal(map[string]any{"engine": "postgres", "host": "localhost", "port": b.Port, "username": user, "password": password, "dbname": database, "ssl": false})
	return rotators.NewSecret(string(text))
}

// A pooler leads to another server for each database. The admin changes the user in the
// server where the proof was made, whatever database the admin's own value names, and the
// user of that name on the other server keeps its password.
func TestPoolerOfTwoServers(t *testing.T) {
	other := servers.StartPostgres(t, servers.PostgresOptions{})
	for _, mode := range []string{"session", "transaction"} {
		for _, strategy := range []string{"single-user", "alternating-users"} {
			t.Run(mode+", "+strategy, func(t *testing.T) {
				name := "split_" + mode
				boss := name + "_admin"
				all := []*servers.PostgresServer{secure, other}
				for i, s := range all {
					newUser(t, s, name, fmt.Sprintf("password-on-%d", i))
					exec(t, s, "CREATE ROLE %I LOGIN SUPERUSER PASSWORD 'admins-password'", boss)
					t.Cleanup(func() {
						exec(t, s, "DROP ROLE IF EXISTS %I", boss)
						exec(t, s, "DROP ROLE IF EXISTS %I", name+"_clone")
					})
				}
				b := servers.StartPgBouncer(t, servers.PgBouncerOptions{Databases: map[string]*servers.PostgresServer{"one": secure, "two": other}, Mode: mode})
				current := behind(b, name, "password-on-1", "two")
				next := name
				if strategy == "alternating-users" {
					next += "_clone"
				}
				pending := behind(b, next, "the-next-password", "two")
				err := New(awsConfig, nil).Set(t.Context(), rotators.Rotation{
					Current: current, Pending: pending, Settings: rotators.Settings{Strategy: strategy, Admin: "the-admin"},
					Lookup: func(context.Context, string) (rotators.Secret, error) {
						return behind(b, boss, "admins-password", "one"), nil
					},
				})
				if err != nil {
					t.Fatalf("%v\n%s", err, b.Log())
				}
				if err := other.Login(t.Context(), next, "the-next-password"); err != nil {
					t.Errorf("on the server where the proof was made: %v", err)
				}
				if !accepts(t, pending) {
					t.Error("the pooler refuses the new password")
				}
				if !accepts(t, value(secure, name, "password-on-0")) {
					t.Error("the user of the same name on the other server was changed")
				}
				if strategy == "alternating-users" && strings.Contains(secure.Log(), next) {
					t.Error("the other server heard of the clone")
				}
			})
		}
	}
}
