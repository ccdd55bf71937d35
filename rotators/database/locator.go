package database

import (
	"context"

	"github.com/rekeyhq/rekey/rotators"
)

// Locator finds databases that RDS runs. It is an Engine's Locator field; nil: RDS is not asked.
type Locator interface {
	// Locate finds the database a value names, by dbInstanceIdentifier or dbClusterIdentifier if it has one, else by
	// its host, which may be a CNAME. The error, permanent if a person must act, says what was looked for.
	Locate(ctx context.Context, value rotators.Secret) (Place, error)
}

// Place is where a database is.
type Place struct {
	Host       string // where logins of the value's user go: the endpoint of what the identifier names, or the value's own host
	Port       int
	Writer     string // where changes are made: the same, or for a read replica its source, for a cluster's reader its writer endpoint
	WriterPort int
	Engine     string // RDS's name: "postgres", "aurora-postgresql"
}
