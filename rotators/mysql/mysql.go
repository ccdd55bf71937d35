// Package mysql rotates the passwords of users of MySQL, Aurora MySQL and MariaDB:
// on Amazon RDS and Aurora, and anywhere else. It is for people who list it in a
// registry; what the strategies do is in package rotators/database.
//
// One rotator serves all three; which it talks to, the server's version says. It
// takes MySQL from 8.0.14 on and MariaDB from 10.4 on.
//
// Every connection uses TLS with a verified certificate, unless the value says
// "ssl": false. It never falls back. Without TLS only challenges are answered
// (mysql_native_password, and what caching_sha2_password does for a user whose
// password the server has in memory); a server that asks for the password itself,
// encrypted with a key that it sends along, gets nothing.
//
// # Accounts
//
// A user name stands for several accounts here: 'app'@'%' and 'app'@'10.%' each
// have a password and rights. A user that changes its own password changes the
// account that its login was. An admin changes that one, and all others of the name
// that have the same password, together; those with another password it leaves, and
// names them in the log. A user that sees other accounts with its password, because it may
// read mysql.*, changes nothing.
//
// # Passwords
//
// MariaDB gets a hash of a new password, and so does MySQL from an admin. A MySQL
// user that changes its own password must send it, by TLS, and the server writes
// <secret> in its place into its logs. Accounts are rotated that log in by
// mysql_native_password or caching_sha2_password, and keep to theirs. Without TLS a
// MySQL user does not change itself, and a caching_sha2_password account is not
// changed at all.
//
// Two passwords at once are two ways to log in on MariaDB. On MySQL they are a
// primary and a secondary, and what is done depends on which is which at the time;
// sessions of rekey take turns at it by a lock on the server (GET_LOCK). A password
// that MySQL checks at the very moment at which it is withdrawn may be accepted once
// more (seen with 9.7, whose memory of it outlives it), which fails a retirement; the
// next run withdraws it again. Where PASSWORD HISTORY is on, a MySQL user cannot retire
// a password of its own, and an admin can.
//
// # Alternating users
//
// The second of two alternating users gets the first one's rights, roles, limits and TLS
// requirements one by one, and loses what the first has lost. A new one is locked until it
// has them all. A first user that may create routines which the second could not call is
// refused. The first as a role of the second would do neither: SET ROLE takes the other
// roles away, and roles that the first has off are on.
package mysql

import (
	"github.com/aws/aws-sdk-go-v2/aws"

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

// New returns the rotator for MySQL, Aurora MySQL and MariaDB. The options may be
// nil.
//
// cfg is what asks RDS where a database is, for values that name one by its
// identifier and for read replicas. There are no admins written as iam:USER: the
// server would have to be sent the token by a method that rekey does not answer.
func New(cfg aws.Config, o *Options) rotators.Rotator {
	return database.New(engine(cfg, o))
}

func engine(cfg aws.Config, o *Options) database.Engine {
	return database.Engine{
		Name:     "MySQL or MariaDB",
		Engines:  []string{"mysql", "mariadb", "aurora-mysql", "aurora", "mysql2", "trilogy"}, // aurora was RDS's name, the last two are libraries'
		Port:     3306,
		MaxUser:  maxMariaDBUser, // MySQL has less, which the session knows
		Length:   32,
		Alphabet: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._",
		Overlap:  true,
		Open:     newConnector(o).open,
		Locator:  database.RDS(cfg),
	}
}

// The longest user names: USERNAME_CHAR_LENGTH of MySQL 8, in characters, and
// that of MariaDB.
const (
	maxMySQLUser   = 32
	maxMariaDBUser = 80
)
