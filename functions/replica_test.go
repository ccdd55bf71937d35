package functions_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// A secret that names a read replica by its identifier, with RDS and a real
// streaming replica: the password is changed at the source, and tried on the
// replica.
func TestAReplicasSecretIsChangedAtItsSource(t *testing.T) {
	replica := servers.StartPostgres(t, servers.PostgresOptions{ReplicaOf: database, Conf: []string{"log_connections = on", "log_statement = all"}})
	s := newSetup(t, "the first password", func(user, password string) string {
		return fmt.Sprintf(`{"engine":"postgres","dbInstanceIdentifier":"shop-replica","username":%q,"password":%q,"ssl":false}`, user, password)
	})
	s.cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "shop", Engine: "postgres", Endpoint: &localaws.Endpoint{Address: database.Host, Port: database.Port}})
	s.cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "shop-replica", Engine: "postgres", Endpoint: &localaws.Endpoint{Address: replica.Host, Port: replica.Port}, ReadReplicaSourceDBInstanceIdentifier: "shop"})

	logged := len(database.Log())
	if err := s.rotate(&rotatortest.Wire{}); err != nil {
		t.Fatal(err)
	}
	if err := s.converged(t.Context()); err != nil {
		t.Errorf("at the source: %v", err)
	}
	if log := database.Log()[logged:]; !strings.Contains(log, "ALTER ROLE \""+s.user+"\"") {
		t.Error("the source was not told to change the password")
	}
	if log := replica.Log(); strings.Contains(log, "ALTER ROLE") || !strings.Contains(log, "connection authorized: user="+s.user) {
		t.Error("the password was not tried on the replica, or was to be changed there")
	}
	_, value := s.current()
	if err := replica.Login(t.Context(), s.user, s.password(value)); err != nil {
		t.Errorf("on the replica: %v", err)
	}
}
