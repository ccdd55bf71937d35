package mysql

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// The server's error numbers that have sentences of their own (MySQL's manual,
// Server Error Message Reference, and MariaDB's, Error Codes, which share those
// under 1900).
const (
	tooManyConnections   = 1040
	deniedDatabase       = 1044
	deniedAccess         = 1045
	unknownDatabase      = 1049
	serverShutdown       = 1053
	unknownColumn        = 1054
	syntaxError          = 1064
	hostBlocked          = 1129
	hostNotAllowed       = 1130
	deniedTable          = 1142
	deniedColumn         = 1143
	unknownTable         = 1146
	tooManyUserSessions  = 1203
	lockWaitTimeout      = 1205
	deadlock             = 1213
	resourceLimit        = 1226
	deniedPrivilege      = 1227
	optionPrevents       = 1290
	pluginNotLoaded      = 1524
	unknownRoutine       = 1305
	deniedRoutine        = 1370
	operationFailed      = 1396
	deniedGrant          = 1410
	deniedNoPassword     = 1698
	weakPassword         = 1819
	mustChangePassword   = 1820
	readOnlyMode         = 1836
	mustChangeToLogIn    = 1862
	accountLocked        = 3118
	insecureTransport    = 3159
	passwordHistory      = 3638
	wrongReplaced        = 3891
	needsReplaced        = 3892
	lockedByFailures     = 3955
	mariaDBUserBlocked   = 4150
	mariaDBAccountLocked = 4151
)

// explained is an error in plain words that keeps what it explains.
type explained struct {
	text  string
	cause error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.cause }

// explain makes an explained error. Other errors among args may hold what a server
// said, and are shown as such.
func explain(cause error, format string, args ...any) *explained {
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			args[i] = bounded.Text(err.Error())
		}
	}
	return &explained{fmt.Sprintf(format, args...), cause}
}

// serverSaid returns the server's error, if err is one. Of a syntax error it drops
// the text, which quotes the statement, and that may hold a password.
func serverSaid(err error) (*serverError, bool) {
	var my *serverError
	if !errors.As(err, &my) {
		return nil, false
	}
	if my.number == syntaxError {
		return &serverError{my.number, "a statement it does not understand"}, true
	}
	return my, true
}

// says tells whether err is the server's error of one of these numbers.
func says(err error, numbers ...uint16) bool {
	my, ok := serverSaid(err)
	for _, n := range numbers {
		if ok && my.number == n {
			return true
		}
	}
	return false
}

// explainLogin says why a login failed and what to do. reached tells whether the
// network connection was made. Only the server's own word that user and password
// do not go together becomes a refusal.
func explainLogin(ctx context.Context, err error, l database.Login, reached bool) error {
	where := fmt.Sprintf("MySQL at %s:%d", l.Host, l.Port)
	because := func(format string, args ...any) error {
		return explain(err, format, args...)
	}

	if my, ok := serverSaid(err); ok {
		return database.Answered(explainAnswer(my, l, where))
	}
	switch {
	case errors.Is(err, errAsked):
		return database.Answered(rotators.Permanent(because("%s asks for the password of user %q itself, which is not sent without TLS: remove \"ssl\": false from the secret", where, l.User)))
	case errors.Is(err, errMethod):
		return database.Answered(rotators.Permanent(because("%s wants user %q to log in by another method than %s or %s, and rekey answers no other: ALTER USER .. IDENTIFIED WITH one of them (%v)", where, l.User, cachingSHA2, native, err)))
	}

	var (
		wrongHost x509.HostnameError
		unknownCA x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
		odd       strange
	)
	switch {
	case errors.As(err, &odd):
		return because("%s does not answer as a MySQL or MariaDB server does, so nothing is known about the password of user %q: find out what listens there; it sent %v", where, l.User, odd)
	case errors.Is(err, bounded.ErrTooMuch):
		return because("%s sends more than the %d bytes that rekey reads of one login, so nothing is known about the password of user %q: find out what listens there", where, maxBytes, l.User)
	case errors.Is(err, errNoTLS):
		return rotators.Permanent(because("%s offers no TLS: turn it on there, or write \"ssl\": false into the secret to do without", where))
	case errors.As(err, &wrongHost):
		return rotators.Permanent(because("%s shows a certificate for another host: name the host in the secret as the certificate does, or correct the certificate: %v", where, wrongHost))
	case errors.As(err, &unknownCA):
		return rotators.Permanent(because("%s shows a certificate from an unknown authority: name a file with the authorities to trust in SSL_CERT_FILE: %v", where, unknownCA))
	case errors.As(err, &invalid):
		return rotators.Permanent(because("%s shows a certificate that is not valid: replace it: %v", where, invalid))
	case errors.As(err, &dns):
		return because("the host name %q cannot be resolved: correct the field \"host\", or let the function use the DNS that knows it: %v", l.Host, dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return because("nothing listens at %s:%d: start the server, or correct the fields \"host\" and \"port\"", l.Host, l.Port)
	case errors.Is(ctx.Err(), context.Canceled):
		return because("the login at %s was called off", where)
	case timedOut(ctx, err) && !reached:
		return because("%s:%d cannot be reached in the time there was: check that subnets, routes and security groups let the function connect to it", l.Host, l.Port)
	case timedOut(ctx, err):
		return because("%s:%d accepts connections and then says nothing: check that it is a MySQL or MariaDB server, that it is not overloaded, and what stands in between", l.Host, l.Port)
	case !reached:
		return because("%s:%d cannot be reached: %v", l.Host, l.Port, err)
	}
	return because("the login of user %q at %s broke off, so nothing is known about the password: %v", l.User, where, err)
}

// explainAnswer says what the server, or a proxy before it, has answered to a login.
func explainAnswer(my *serverError, l database.Login, where string) error {
	because := func(format string, args ...any) error { return explain(my, format, args...) }
	switch my.number {
	case deniedAccess:
		if l.Plaintext {
			// A server says the same to a user that it wants to use TLS.
			return rotators.Refused(because("%s refuses this password for user %q, or wants that user to use TLS, which \"ssl\": false in the secret keeps it from", where, l.User))
		}
		return rotators.Refused(because("%s refuses this password for user %q, or that user from here, or without a client's certificate: the server says the same of all three", where, l.User))
	case deniedNoPassword:
		return rotators.Permanent(because("%s does not let user %q in by a password at all: give the user one (ALTER USER .. IDENTIFIED ..); it said: %s", where, l.User, my.message))
	case accountLocked, mariaDBAccountLocked:
		return rotators.Permanent(fmt.Errorf("%w: %w", database.ErrLocked, because("%s takes this password, and has user %q locked: find out who locked it and why, then ALTER USER .. ACCOUNT UNLOCK, or drop it if it is a leftover", where, l.User)))
	case mustChangeToLogIn, mustChangePassword:
		return rotators.Permanent(because("%s takes this password, and it has expired, so user %q can do nothing: set it again as an admin, and see that it expires less often than it is rotated (PASSWORD EXPIRE)", where, l.User))
	case lockedByFailures, mariaDBUserBlocked:
		return because("%s has locked user %q for a while after too many wrong passwords, so nothing is known about this one: find out who tries them; it said: %s", where, l.User, my.message)
	case hostBlocked:
		return because("%s takes no connections from here after too many errors, so nothing is known about the password: FLUSH HOSTS there (TRUNCATE performance_schema.host_cache), and find out what failed; it said: %s", where, my.message)
	case hostNotAllowed:
		return rotators.Permanent(because("%s has no account that logs in from here: make one for the function's addresses ('%s'@'%%'), or name another host in the secret; it said: %s", where, l.User, my.message))
	case insecureTransport:
		return rotators.Permanent(because("%s insists on TLS: remove \"ssl\": false from the secret", where))
	case unknownDatabase:
		return rotators.Permanent(because("%s has no database %q: correct the field \"dbname\"", where, l.Database))
	case deniedDatabase:
		return rotators.Permanent(because("%s does not let user %q use database %q: grant it something there, or name another in the field \"dbname\"; it said: %s", where, l.User, l.Database, my.message))
	case tooManyConnections, tooManyUserSessions, resourceLimit:
		return because("%s has no connection left for user %q, so nothing is known about the password: raise max_connections or the user's limits (MAX_USER_CONNECTIONS, MAX_CONNECTIONS_PER_HOUR), or close some; it said: %s", where, l.User, my.message)
	case pluginNotLoaded:
		return rotators.Permanent(because("%s has not loaded the method that user %q logs in by, so nobody logs in as it: ALTER USER .. IDENTIFIED WITH %s, or have the server load the method; it said: %s", where, l.User, cachingSHA2, my.message))
	case serverShutdown:
		return because("%s is shutting down: rotate again when it is up", where)
	}
	return because("%s ended the login of user %q with an error: %s (error %d)", where, l.User, my.message, my.number)
}

// explainChange says why a user could not be changed or looked at and what to do.
// It returns nil for nil.
func explainChange(ctx context.Context, err error, l database.Login) error {
	if err == nil {
		return nil
	}
	my, ok := serverSaid(err)
	if ok {
		err = my
	}
	because := func(format string, args ...any) error {
		return explain(err, format, args...)
	}
	if ok {
		switch my.number {
		case readOnlyMode:
			return readOnly(err)
		case optionPrevents:
			if m := strings.ToLower(my.message); strings.Contains(m, "read-only") || strings.Contains(m, "read_only") {
				return readOnly(err)
			}
			if strings.Contains(my.message, "strict-password-validation") {
				return rotators.Permanent(because("the server takes no password as a hash, and rekey sends no other: SET GLOBAL strict_password_validation = OFF; it said: %s", my.message))
			}
			return rotators.Permanent(because("the server is set up not to make this change; it said: %s", my.message))
		case deniedAccess, deniedNoPassword, deniedDatabase, deniedTable, deniedColumn, deniedPrivilege, deniedRoutine, deniedGrant:
			return rotators.Permanent(because("user %q may not make this change: an admin needs CREATE USER and SELECT on mysql.*, and to make the second of two alternating users what the first has WITH GRANT OPTION, its roles WITH ADMIN OPTION (on MySQL ROLE_ADMIN will do) and, for a default role on MariaDB, UPDATE on mysql.*; a user with two passwords of its own needs APPLICATION_PASSWORD_ADMIN on MySQL, CREATE USER on MariaDB, or an admin in rekey:admin; the server said: %s", l.User, my.message))
		case weakPassword:
			return rotators.Permanent(because("the server's password policy does not take the new password: say in rekey:password how passwords must be, or have an admin rotate; it said: %s", my.message))
		case passwordHistory:
			return rotators.Permanent(because("the account's password history stands in the way: ALTER USER .. PASSWORD HISTORY 0 PASSWORD REUSE INTERVAL 0 DAY, since generated passwords do not repeat, or name an admin in rekey:admin; it said: %s", my.message))
		case wrongReplaced, needsReplaced:
			return because("another session changed the user's password at the same moment, or it must be told the one it replaces: rotate again, and if that does not help have an admin rotate; the server said: %s", my.message)
		case unknownTable, unknownColumn, unknownRoutine:
			return rotators.Permanent(because("the first of two alternating users has a right on what is no longer there, which the server gives to nobody else: REVOKE it; the server said: %s", my.message))
		case lockWaitTimeout, deadlock, operationFailed:
			return because("another session may have changed the user at the same moment, so this change was not made: rotate again; the server said: %s", my.message)
		}
		return because("the server answered with an error: %s (error %d)", my.message, my.number)
	}
	if errors.As(err, new(strange)) {
		return because("the server does not answer as a MySQL or MariaDB server does, so it may or may not have been changed; find out what listens there, then rotate again; it sent %v", err)
	}
	if timedOut(ctx, err) {
		return because("the server did not answer in the time there was, so it may or may not have been changed; rotate again")
	}
	return because("the connection broke, so it may or may not have been changed; rotate again: %v", err)
}

func readOnly(err error) error {
	return rotators.Permanent(fmt.Errorf("%w: %w", database.ErrReadOnly, &explained{"name the writer in the field \"host\"", err}))
}

func timedOut(ctx context.Context, err error) bool {
	var timeout net.Error
	return ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
