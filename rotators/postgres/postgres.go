// Package postgres rotates the passwords of PostgreSQL users: on Amazon RDS and
// Aurora, and anywhere else. It is for people who list it in a registry; what
// the strategies do is in package rotators/database.
//
// Every connection uses TLS with a verified certificate, unless the value says
// "ssl": false. It never falls back. Without TLS only SCRAM logins are made, of 4,096
// rounds or more, so that what a false server gets is slow to guess a password from. No
// PG* environment variable, service file or password file has a say.
//
// A new password reaches the server as a SCRAM-SHA-256 verifier, so no log of
// the server can hold it. Servers that store passwords as MD5 hashes store a
// verifier from then on, which clients since PostgreSQL 10 understand.
//
// The second of two alternating users is a member of the first and logs in as it.
// What it takes of an admin to make one is in docs/settings.md.
package postgres

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/rekeyhq/rekey/internal/account"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// Options changes how the rotator reaches servers.
type Options struct {
	// Dial makes network connections; nil: a net.Dialer. It is called once per
	// login, with network "tcp" and the host name as the value spells it, or in the
	// later logins of a step the address that the first one reached.
	Dial database.DialFunc
}

// New returns the rotator for PostgreSQL, RDS for PostgreSQL and Aurora
// PostgreSQL. The options may be nil.
//
// cfg is what asks RDS where a database is, for values that name one by its
// identifier and for read replicas, and what signs the IAM tokens of admins
// written as iam:USER.
func New(cfg aws.Config, o *Options) rotators.Rotator {
	return database.New(engine(cfg, o))
}

func engine(cfg aws.Config, o *Options) database.Engine {
	return database.Engine{
		Name:     "PostgreSQL",
		Engines:  []string{"postgres", "postgresql", "aurora-postgresql", "postgis", "psql", "pgsql"}, // the last are Django's
		Port:     5432,
		Database: "postgres",
		MaxUser:  63, // NAMEDATALEN - 1
		Length:   32,
		Alphabet: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._",
		Open:     newConnector(o).open,
		IAMToken: func(ctx context.Context, host string, port int, user string) (rotators.Secret, error) {
			return iamToken(ctx, account.Config(ctx, cfg), host, port, user)
		},
		Locator: database.RDS(cfg),
	}
}
