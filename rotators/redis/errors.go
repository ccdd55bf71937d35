package redis

import (
	"context"
	"crypto/tls"
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

// rights are what making a change takes, as ACL SETUSER spells them.
const rights = "+info +acl|getuser +acl|setuser +acl|list +acl|save +config|get +config|set +config|rewrite"

// explained is an error in plain words that keeps what it explains.
type explained struct {
	text   string
	cause  error
	answer bool // of a change: it is what the server answered, so nothing was changed
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
	return &explained{text: fmt.Sprintf(format, args...), cause: cause}
}

// serverError is an error that the server answered with, as it was sent.
type serverError string

func (e serverError) Error() string { return string(e) }

// isAnswer tells whether err came from the server.
func isAnswer(err error) bool {
	var e *explained
	return errors.As(err, &e) && e.answer
}

// answered returns the error that the server answered with; "" if it did not.
func answered(err error) (said serverError) {
	errors.As(err, &said)
	return said
}

// curt makes an error that a server answered with its code, the first word: "ERR". Some
// errors go on with what they were sent, which may be a password or its hash. Other
// errors it returns.
func curt(err error) error {
	said := answered(err)
	if said == "" {
		return err
	}
	word, _, _ := strings.Cut(string(said), " ")
	if strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || len(word) > maxCode {
		word = "ERR" // it is no code
	}
	return serverError(word)
}

// maxCode is more than any code of Redis has: UNKILLABLE.
const maxCode = 20

// server says where a login goes.
func server(l database.Login) string { return fmt.Sprintf("Redis at %s:%d", l.Host, l.Port) }

// explainLogin says why a login failed and what to do. reached tells whether the
// network connection was made. Only the server's own word that the password is
// wrong becomes a refusal.
func explainLogin(ctx context.Context, err error, l database.Login, reached bool) error {
	where := server(l)
	because := func(format string, args ...any) error { return explain(err, format, args...) }

	if answer := answered(err); answer != "" {
		return database.Answered(explainAnswer(answer, l))
	}

	var (
		wrongHost x509.HostnameError
		unknownCA x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		noTLS     tls.RecordHeaderError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &wrongHost):
		return rotators.Permanent(because("%s shows a certificate for another host: name the host in the secret as the certificate does, or correct the certificate: %v", where, wrongHost))
	case errors.As(err, &unknownCA):
		return rotators.Permanent(because("%s shows a certificate from an unknown authority: name a file with the authorities to trust in SSL_CERT_FILE: %v", where, unknownCA))
	case errors.As(err, &invalid):
		return rotators.Permanent(because("%s shows a certificate that is not valid: replace it: %v", where, invalid))
	case errors.As(err, &noTLS):
		return rotators.Permanent(because("%s does not speak TLS at this port: %s", where, withoutTLS))
	case errors.As(err, &dns):
		return because("the host name %q cannot be resolved: correct the field \"host\" or \"nodes\", or let the function use the DNS that knows it: %v", l.Host, dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return because("nothing listens at %s:%d: start the server, or correct the fields \"host\", \"port\" and \"nodes\"", l.Host, l.Port)
	case errors.Is(err, errStrange):
		return because("%s does not answer as a Redis server does, so nothing is known about the password of user %q: find out what listens there, and whether it speaks TLS if the value does not say \"ssl\": false", where, l.User)
	case errors.Is(err, bounded.ErrTooMuch):
		return because("%s sends more than is left of the %d bytes that rekey reads in one login from all nodes, so nothing is known about the password of user %q: find out what listens there", where, maxBytes, l.User)
	case errors.Is(ctx.Err(), context.Canceled):
		return because("the login at %s was called off", where)
	case timedOut(ctx, err) && !reached:
		return because("%s:%d cannot be reached in the time there was: check that subnets, routes and security groups let the function connect to it", l.Host, l.Port)
	case timedOut(ctx, err) && !l.Plaintext:
		// What a Redis without TLS makes of a TLS greeting is the start of a line.
		return because("%s accepts connections and then says nothing, as a server without TLS does: %s", where, withoutTLS)
	case timedOut(ctx, err):
		return because("%s accepts connections and then says nothing: check that it is a Redis server without TLS, that it is not overloaded, and what stands in between", where)
	case !reached:
		return because("%s:%d cannot be reached: %v", l.Host, l.Port, err)
	}
	return because("the login of user %q at %s broke off, so nothing is known about the password: see that it has connections left (maxclients), is not in protected mode, and speaks TLS if the value does not say \"ssl\": false: %v", l.User, where, err)
}

// explainAnswer says what the server, or a proxy before it, has answered to a login.
func explainAnswer(answer serverError, l database.Login) error {
	where, said := server(l), curt(answer)
	because := func(format string, args ...any) error { return explain(said, format, args...) }
	tooOld := strings.Contains(string(answer), "wrong number of arguments")
	full := strings.Contains(string(answer), "max number of clients")
	switch {
	case said == serverError("WRONGPASS"):
		return rotators.Refused(because("%s refuses this password for user %q, or the user is off", where, l.User))
	case full:
		return because("%s has no connection left, so nothing is known about the password: raise maxclients, or close some", where)
	case tooOld:
		return rotators.Permanent(because("%s takes passwords and no user names: Redis 6 is the first that has users", where))
	case said == serverError("DENIED"):
		return rotators.Permanent(because("%s is in protected mode and serves its own machine only: give it a password and an address to listen at (\"bind\")", where))
	}
	return because("%s ended the login of user %q with an error, so nothing is known about the password: its code is %s", where, l.User, said)
}

// withoutTLS says what to do about a server that does not speak TLS.
const withoutTLS = "turn it on there, or write \"ssl\": false into the secret, a JSON object, to send the password in the clear"

// explain says why a command failed and what to do. It returns nil for nil. The
// command holds no password, or the error is a code.
func (n *node) explain(ctx context.Context, err error, what string) error {
	if err == nil {
		return nil
	}
	because := func(format string, args ...any) *explained { return explain(err, format, args...) }
	if answer := answered(err); answer != "" {
		said := bounded.Text(string(answer))
		e := because("%s failed at %s, which said: %s", what, n, said)
		e.answer = true
		switch lower := strings.ToLower(said); {
		case strings.HasPrefix(said, "NOPERM"):
			needs := rights
			if n.info["cluster_enabled"] == "1" {
				needs += " +cluster|info"
			}
			e.text = fmt.Sprintf("user %q may not do what changing a password takes: grant it %s by ACL SETUSER, or name an admin that has these in the tag rekey:admin; %s said: %s", n.login.User, needs, n, said)
			return rotators.Permanent(e)
		case strings.Contains(lower, "unknown command"), strings.Contains(lower, "unknown subcommand"):
			e.text = fmt.Sprintf("%s does not know a command that changing a password takes (%s; rekey sends INFO, ACL GETUSER, ACL SETUSER, ACL LIST, ACL SAVE, CONFIG GET, CONFIG SET and CONFIG REWRITE); it said: %s; it may have been renamed or disabled there (rename-command): let the server know it; services such as ElastiCache and MemoryDB have users changed by their own API only, which this rotator does not call, and older servers than Redis 6 have none", n, what, said)
			return rotators.Permanent(e)
		case strings.Contains(lower, "without a config file"), strings.Contains(lower, "rewriting config file"), strings.HasPrefix(lower, "err there was an error trying to save"):
			e.text += "; nothing is changed that cannot be stored: let the server write its files, and look at its log"
			return rotators.Permanent(e)
		}
		return e
	}
	if errors.Is(err, errStrange) {
		return because("%s does not answer as a Redis server does (%s), so it may or may not have been changed; find out what listens there, then rotate again", n, what)
	}
	if errors.Is(err, bounded.ErrTooMuch) {
		return because("%s sends more than is left of the %d bytes that rekey reads in one login from all nodes (%s), so it may or may not have been changed; find out what listens there, or whether there are thousands of users, then rotate again", n, maxBytes, what)
	}
	if timedOut(ctx, err) {
		return because("%s did not answer in the time there was (%s), so it may or may not have been changed; rotate again", n, what)
	}
	return because("the connection to %s broke (%s), so it may or may not have been changed; rotate again: %v", n, what, err)
}

func timedOut(ctx context.Context, err error) bool {
	var timeout net.Error
	return ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
