package servers

import (
	"testing"
)

// TestReplicaStreams makes a change that a replica must come to have.
func TestReplicaStreams(t *testing.T) {
	primary := StartPostgres(t, PostgresOptions{})
	replica := StartPostgres(t, PostgresOptions{ReplicaOf: primary})
	if err := primary.Exec(t.Context(), "CREATE ROLE streamed"); err != nil {
		t.Fatal(err)
	}
	conn, err := replica.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// Each question is a round trip; the test's own deadline ends it.
	for {
		r, err := conn.Exec(t.Context(), "SELECT FROM pg_roles WHERE rolname = 'streamed'; SELECT pg_is_in_recovery()").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if string(r[1].Rows[0][0]) != "t" {
			t.Fatal("the replica is none")
		}
		if len(r[0].Rows) == 1 {
			return
		}
	}
}
