package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// The SQLSTATEs that have sentences of their own (PostgreSQL's manual,
// appendix A).
const (
	invalidPassword      = "28P01"
	invalidAuthorization = "28000"
	invalidCatalogName   = "3D000"
	insufficientRights   = "42501"
	readOnlyTransaction  = "25006"
	featureNotSupported  = "0A000"
	tooManyConnections   = "53300"
	protocolViolation    = "08P01" // what PgBouncer calls each of its own errors
	cannotConnectNow     = "57P03"
	duplicateObject      = "42710"
	serializationFailure = "40001"
	internalError        = "XX000" // "tuple concurrently updated", among others
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

// serverSaid returns the server's error, if err is one, in texts that may be shown.
func serverSaid(err error) (said pgconn.PgError, ok bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return said, false
	}
	return pgconn.PgError{Code: bounded.Text(pg.Code), Message: bounded.Text(pg.Message)}, true
}

// explainLogin says why a login failed and what to do. reached tells whether the
// network connection was made. Only the server's own word that the password is
// wrong becomes a refusal.
func explainLogin(ctx context.Context, err error, l database.Login, reached bool) error {
	where := fmt.Sprintf("PostgreSQL at %s:%d", l.Host, l.Port)
	because := func(format string, args ...any) error { return explain(err, format, args...) }

	if pg, ok := serverSaid(err); ok {
		return database.Answered(explainAnswer(err, pg, l, where))
	}
	if wrongMethod(err) {
		if l.Plaintext {
			err = because("%s does not ask user %q for SCRAM, and without TLS nothing else is answered: remove \"ssl\": false from the secret, or have the server ask for scram-sha-256", where, l.User)
		} else {
			err = because("%s asks user %q for something other than a password, or for nothing, so a login proves nothing: have pg_hba.conf ask for scram-sha-256", where, l.User)
		}
		return database.Answered(rotators.Permanent(err))
	}
	var (
		wrongHost x509.HostnameError
		unknownCA x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
		rounds    errRounds
		long      *pgproto3.ExceededMaxBodyLenErr
		odd       strange
	)
	switch {
	case errors.As(err, &wrongHost):
		return rotators.Permanent(because("%s shows a certificate for another host: name the host in the secret as the certificate does, or correct the certificate: %v", where, wrongHost))
	case errors.As(err, &unknownCA):
		return rotators.Permanent(because("%s shows a certificate from an unknown authority: name a file with the authorities to trust in SSL_CERT_FILE: %v", where, unknownCA))
	case errors.As(err, &invalid):
		return rotators.Permanent(because("%s shows a certificate that is not valid: replace it: %v", where, invalid))
	case strings.Contains(err.Error(), "server refused TLS connection"):
		return rotators.Permanent(because("%s offers no TLS: turn it on there, or write \"ssl\": false into the secret to do without", where))
	case errors.As(err, &rounds) && rounds > maxIterations:
		return rotators.Permanent(because("%s asks for %d rounds of hashing to log in as user %q, and rekey makes at most %d: lower scram_iterations there, and set the password again", where, int(rounds), l.User, maxIterations))
	case errors.As(err, &rounds):
		return rotators.Permanent(because("%s asks for %d rounds of hashing to log in as user %q, and without TLS rekey proves a password by %d at least, because whoever listens could guess it from that: remove \"ssl\": false from the secret, or raise scram_iterations there and set the password again", where, int(rounds), l.User, minIterations))
	case errors.As(err, &odd):
		return because("%s does not answer as a PostgreSQL server does, so nothing is known about the password of user %q: find out what listens there; it sent %v", where, l.User, odd)
	case errors.Is(err, bounded.ErrTooMuch), errors.As(err, &long):
		return because("%s sends more than the %d bytes that rekey reads of one login, so nothing is known about the password of user %q: find out what listens there", where, maxBytes, l.User)
	case errors.As(err, &dns):
		return because("the host name %q cannot be resolved: correct the field \"host\", or let the function use the DNS that knows it: %v", l.Host, dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return because("nothing listens at %s:%d: start the server, or correct the fields \"host\" and \"port\"", l.Host, l.Port)
	case errors.Is(ctx.Err(), context.Canceled):
		return because("the login at %s was called off", where)
	case timedOut(ctx, err) && !reached:
		return because("%s:%d cannot be reached in the time there was: check that subnets, routes and security groups let the function connect to it", l.Host, l.Port)
	case timedOut(ctx, err):
		return because("%s:%d accepts connections and then says nothing: check that it is a PostgreSQL server, that it is not overloaded, and what stands in between", l.Host, l.Port)
	case !reached:
		return because("%s:%d cannot be reached: %v", l.Host, l.Port, err)
	}
	return because("the login of user %q at %s broke off, so nothing is known about the password: %v", l.User, where, err)
}

// explainAnswer says what the server, or a pooler before it, has answered to a login.
func explainAnswer(err error, pg pgconn.PgError, l database.Login, where string) error {
	because := func(format string, args ...any) error { return explain(err, format, args...) }
	switch pg.Code {
	case invalidPassword:
		return rotators.Refused(because("%s refuses this password for user %q, or the user has expired: the server says the same of both", where, l.User))
	case protocolViolation:
		// PgBouncer sends no other code, also with what the server said. It says the first
		// itself by SCRAM, the second by MD5, and the third of a user in no list.
		const advice = "if the server does, have the pooler ask the server for passwords (PgBouncer: auth_query) and keep none of its own (auth_file)"
		switch {
		case strings.HasPrefix(pg.Message, "password authentication failed for user"):
			return rotators.Refused(because("%s refuses this password for user %q", where, l.User))
		case strings.HasPrefix(pg.Message, "SASL authentication failed"), strings.HasPrefix(pg.Message, "password authentication failed"):
			return rotators.Refused(fmt.Errorf("%w: %w", database.ErrPooler, because("%s does not take this password for user %q: %s", where, l.User, advice)))
		case strings.HasPrefix(pg.Message, "no such user"):
			return rotators.Permanent(fmt.Errorf("%w: %w", database.ErrPooler, because("%s knows no user %q: %s", where, l.User, advice)))
		}
	case invalidAuthorization:
		advice := "let that user log in (pg_hba.conf, ALTER ROLE .. LOGIN)"
		if l.Plaintext {
			advice = "if the server insists on TLS, remove \"ssl\": false from the secret, else " + advice
		}
		if strings.HasPrefix(pg.Message, "PAM authentication failed") {
			advice = "on RDS a member of rds_iam logs in by an IAM token only, so REVOKE rds_iam from it, or rotate another user"
		}
		return rotators.Permanent(because("%s does not let user %q log in to database %q from here, whatever the password: %s; it said: %s", where, l.User, l.Database, advice, pg.Message))
	case invalidCatalogName:
		return rotators.Permanent(because("%s has no database %q: correct the field \"dbname\"", where, l.Database))
	case insufficientRights:
		return rotators.Permanent(because("%s does not let user %q connect to database %q: grant it CONNECT or name another in the field \"dbname\"; it said: %s", where, l.User, l.Database, pg.Message))
	case tooManyConnections:
		return because("%s has no connection left for user %q, so nothing is known about the password: raise max_connections or the user's CONNECTION LIMIT, or close some, and leave room for two logins beside those of applications; it said: %s", where, l.User, pg.Message)
	case cannotConnectNow:
		return because("%s is starting up, shutting down or recovering: rotate again when it is up; it said: %s", where, pg.Message)
	}
	return because("%s ended the login of user %q with an error: %s (SQLSTATE %s)", where, l.User, pg.Message, pg.Code)
}

// explainChange says why a password could not be changed and what to do. It
// returns nil for nil.
func explainChange(ctx context.Context, err error, l database.Login) error {
	if err == nil {
		return nil
	}
	because := func(format string, args ...any) error { return explain(err, format, args...) }
	if pg, ok := serverSaid(err); ok {
		switch pg.Code {
		case readOnlyTransaction, featureNotSupported:
			return rotators.Permanent(fmt.Errorf("%w: %w", database.ErrReadOnly, because("name the writer in the field \"host\"; it said: %s", pg.Message)))
		case insufficientRights:
			return rotators.Permanent(because("user %q may not change the password: on RDS, with rds.restrict_password_commands, grant it rds_password; else it must be its own user, or a role that may (CREATEROLE); it said: %s", l.User, pg.Message))
		}
		if pg.Code == duplicateObject || pg.Code == serializationFailure || pg.Code == internalError && strings.Contains(pg.Message, "concurrently") {
			return because("another session changed the user at the same moment, so this change was not made: rotate again; the server said: %s", pg.Message)
		}
		return because("the server answered with an error: %s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	if errors.As(err, new(strange)) {
		return because("the server does not answer as a PostgreSQL server does, so it may or may not have been changed; find out what listens there, then rotate again; it sent %v", err)
	}
	if timedOut(ctx, err) {
		return because("the server did not answer in the time there was, so it may or may not have been changed; rotate again")
	}
	return because("the connection broke, so it may or may not have been changed; rotate again: %v", err)
}

// explainTwin says why a twin could not be given the rights of base and what to
// do. It returns nil for nil.
func explainTwin(ctx context.Context, err error, l database.Login, base string) error {
	if pg, ok := serverSaid(err); ok && pg.Code == insufficientRights {
		return rotators.Permanent(explain(err, "user %q may not make a twin with the rights of %q: the admin needs CREATEROLE and, from PostgreSQL 16 on, %q and the twin WITH ADMIN OPTION; only a superuser passes on what superusers set; the server said: %s", l.User, base, base, pg.Message))
	}
	return explainChange(ctx, err, l)
}

// wrongMethod tells whether the driver broke off a login because the server did
// not ask for an allowed proof. The driver has no type for it.
func wrongMethod(err error) bool {
	if e := (*explained)(nil); errors.As(err, &e) {
		err = e.cause
	}
	return err != nil && strings.Contains(err.Error(), "authentication method requirement")
}

func timedOut(ctx context.Context, err error) bool {
	var timeout net.Error
	return ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
