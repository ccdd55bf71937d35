// Package database holds the strategies for rotating a database password,
// written once for every engine. It is for people who add an engine: they
// describe it in an [Engine], and [New] makes a rotator of it. People who rotate
// a PostgreSQL password want package rotators/postgres.
//
// So far there is one strategy, single-user: a user changes its own password.
package database

import (
	"context"

	"github.com/rekeyhq/rekey/rotators"
)

// Engine is what the strategies must know about a kind of database.
type Engine struct {
	Name     string // as errors write it: "PostgreSQL"
	Port     int    // where it listens if the value has no port
	Database string // what to log in to if the value has no dbname
	MaxUser  int    // the longest user name, in bytes; a longer one is refused, never truncated

	// Length and Alphabet are those of generated passwords, unless the owner's
	// policy narrows them. The alphabet should need no escaping where people
	// put passwords: URLs, shells, SQL.
	Length   int
	Alphabet string

	// Open logs in, for real, and makes a round trip to prove that the session
	// serves. ctx bounds the login, not the session. The error is wrapped in
	// rotators.Refused if and only if the server said that this user with this
	// password is wrong; anything else, a network failure above all, must not
	// be. No error may hold a password.
	Open func(context.Context, Login) (Session, error)

	// Locator finds databases that RDS runs; nil: RDS is not asked.
	Locator Locator
}

// Session is one login. It is used by one goroutine at a time.
type Session interface {
	// SetPasswords has the server accept exactly these passwords for user,
	// newest first. It may run again. After an error that the server returned
	// nothing has changed, and the session still serves. No server log may come
	// to hold a password because of it, if the engine allows that.
	SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error
	// Close ends the session.
	Close(ctx context.Context) error
}

// Login is everything it takes to log in.
type Login struct {
	Host      string // one host name or IP address
	Port      int
	User      string
	Password  rotators.Secret
	Database  string
	Plaintext bool // without TLS; else with a verified certificate, and nothing between
}
