// Package database holds the strategies for rotating a database password,
// written once for every engine. It is for people who add an engine: they
// describe it in an [Engine], and [New] makes a rotator of it. People who rotate
// a PostgreSQL password want package rotators/postgres.
//
// There are three strategies. With single-user, one user has one password, which
// the user itself changes, or an admin where the tag rekey:admin names one. With
// overlap, the same user has the new password beside the one that readers have,
// until that is retired. With alternating-users, an admin changes the password of
// the one of two users with equal rights that readers do not use at the time.
//
// Each strategy has a file: single.go, overlap.go and alternating.go. What they
// share is in admin.go (whose login makes the change, and who may have it made),
// ladder.go (which stored password still works), record.go (what an admin sees of a
// user before anything changes), writer.go (read replicas), change.go (a change, its
// proof, and putting it back) and retire.go (the old password, when its grace is over).
package database

import (
	"context"
	"errors"
	"fmt"

	"github.com/rekeyhq/rekey/rotators"
)

// Engine is what the strategies must know about a kind of database.
type Engine struct {
	Name string // as errors write it: "PostgreSQL"
	// Engines are what the field "engine" of a value, or the scheme of a URL up to a plus
	// sign, calls this engine. A value that names another is not logged in with: one engine
	// has a password proved, and another is sent it as it is, so that whoever can write
	// that field could have passwords of others shown to somebody on the way. Empty: a
	// value may name any.
	Engines  []string
	Port     int    // where it listens if the value has no port
	Database string // what to log in to if the value has no dbname
	MaxUser  int    // the longest user name, in bytes; a longer one is refused, never truncated

	// Length and Alphabet are those of generated passwords, unless the owner's
	// policy narrows them. The alphabet should need no escaping where people
	// put passwords: URLs, shells, SQL.
	Length   int
	Alphabet string

	// Nodes says that servers keep users each for itself and may forget them, as
	// Redis does. Then a value may name several in the field nodes, and a password
	// that already logs in is set all the same, because a login does not prove that
	// the change was finished and stored on each. There are no alternating users.
	Nodes bool

	// Overlap says that one user can hold two passwords, so that SetPasswords can
	// be asked to have the server accept two.
	Overlap bool

	// Open logs in, for real, and makes a round trip to prove that the session
	// serves. ctx bounds the login, not the session. The error is wrapped in
	// rotators.Refused if and only if the server said that this user with this
	// password is wrong; anything else, a network failure above all, must not
	// be. The error of a login that was answered otherwise is marked by Answered. No
	// error may hold a password.
	Open func(context.Context, Login) (Session, error)

	// IAMToken makes the password by which IAM lets a user log in at a host and
	// port, for admins written as iam:USER; nil: there are no such logins. It is
	// sent over TLS only.
	IAMToken func(ctx context.Context, host string, port int, user string) (rotators.Secret, error)

	// Locator finds databases that RDS runs; nil: RDS is not asked.
	Locator Locator
}

// Session is one login. It is used by one goroutine at a time.
type Session interface {
	// SetPasswords has the server accept exactly these passwords for user,
	// newest first: one, or two if Engine.Overlap says so. It may run again, also when
	// another run has set the same since. The last of two is what readers have: if the
	// server accepts that now, or both, there is no instant at which it does not. After an error that the server returned nothing
	// has changed, and the session still serves; the error wraps ErrReadOnly if the
	// server is a read-only replica. No server log may come to hold a password
	// because of it, if the engine allows that.
	SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error
	// Close ends the session.
	Close(ctx context.Context) error
}

// Twinner is a Session that can keep a twin: a second user with the rights of a
// first one, the base. An engine whose sessions have it can do alternating-users.
type Twinner interface {
	Session

	// HasUser tells whether there is a user of that name.
	HasUser(ctx context.Context, user string) (bool, error)
	// EnsureTwin creates the twin if there is none, gives it the rights and
	// settings that base has now, and checks that; then it sets the password. A
	// twin to which somebody gave powers that base has not, beyond rights on single
	// objects, is refused with a permanent error; where rights are copied, so that
	// the twin may have them from when base had them, they are taken from it. It may
	// run again, and runs at every rotation to the twin. A failure at any point
	// leaves no twin that logs in with this password and lacks a right. Its errors
	// are as those of SetPasswords. The session is an admin's. Found is what HasUser
	// answered: a user that was created since then has been proved by nobody, and is
	// refused by an error that is not permanent.
	EnsureTwin(ctx context.Context, base, twin string, found bool, password rotators.Secret) error
	// ProveTwin checks, in a session of the twin, that the twin acts with base's
	// rights, and gives base what the twin owns in the database of the session.
	ProveTwin(ctx context.Context, base string) error
}

// NewUser is EnsureTwin's error for a user that was created after HasUser answered.
func NewUser(twin string) error {
	return fmt.Errorf("somebody created the user %q while this rotation was about to, so nothing was changed: rotate again, and if that user is not this secret's, drop or rename it first", twin)
}

// ErrReadOnly is wrapped by the error of a change that a server did not make
// because it is a read-only replica.
var ErrReadOnly = errors.New("the server is a read-only replica")

// ErrPooler is wrapped by the error of Open if a pooler or proxy that has passwords of
// its own has refused a login, and not the server.
var ErrPooler = errors.New("a pooler refuses the login")

// ErrLocked is wrapped by the error of Open if the password is right and the account
// is locked. An engine that makes a twin by several statements locks it meanwhile,
// so this tells a twin that was not finished.
var ErrLocked = errors.New("the account is locked")

// Login is everything it takes to log in.
type Login struct {
	Host      string // one host name or IP address
	Port      int
	User      string
	Password  rotators.Secret
	Database  string
	Plaintext bool // without TLS; else with a verified certificate, and nothing between

	// Nodes are the other servers that are to accept the same passwords, written
	// host:port, in order and with commas between; only for an Engine with Nodes.
	// A login is then one at each server, and a refusal by one is a refusal.
	Nodes string

	id      string   // the identifiers a value has in place of a host; "" if it has one
	network *network // what the step connects by; nil: nothing is known or forbidden
}
