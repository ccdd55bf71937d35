package postgres

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

// Which methods of proving a password a server may ask for, in the driver's
// terms. "none" is never among them: a server that asks for no password proves
// nothing about one.
const (
	scram = "scram-sha-256"
	naive = "md5,password" // show a false server the password, or enough to log in with
)

type connector struct {
	dial  database.DialFunc // nil: a net.Dialer
	roots func() (*x509.CertPool, error)
}

func newConnector(o *Options) *connector {
	c := &connector{roots: sync.OnceValues(database.Roots)}
	if o != nil {
		c.dial = o.Dial
	}
	return c
}

// maxBytes is how much one login may be sent, from the first byte to the goodbye. The
// most that an honest server says is what the roles of two alternating users are and
// have set, some kilobytes.
const maxBytes = 1 << 20

// open logs in and asks the server for a first answer.
func (c *connector) open(ctx context.Context, l database.Login) (database.Session, error) {
	for field, text := range map[string]string{"username": l.User, "password": l.Password.Reveal(), "dbname": l.Database} {
		if strings.ContainsRune(text, 0) {
			return nil, rotators.Permanent(fmt.Errorf("the field %q holds a NUL character, which no PostgreSQL server accepts: correct it", field))
		}
	}
	// For SCRAM the driver must be given what SASLprep makes of the password,
	// since it prepares passwords by a newer standard than the server does. For
	// the other methods it must be given the password as it is. Most passwords
	// are the same either way, and one connection will do for all methods.
	raw := l.Password.Reveal()
	prepared := saslprep(raw)
	if !driverKeeps(prepared) {
		return nil, rotators.Permanent(errors.New("the field \"password\" holds characters that this version cannot log in with: set the user's password by hand to one of ASCII characters, and the field with it"))
	}
	switch {
	case l.Plaintext:
		return c.openWith(ctx, l, scram, prepared)
	case prepared == raw:
		return c.openWith(ctx, l, scram+","+naive, raw)
	}
	session, err := c.openWith(ctx, l, scram, prepared)
	if wrongMethod(err) {
		return c.openWith(ctx, l, naive, raw)
	}
	return session, err
}

func (c *connector) openWith(ctx context.Context, l database.Login, methods, password string) (_ database.Session, err error) {
	ctx, cancel := bounded.Within(ctx)
	defer cancel()
	cfg, err := blankConfig()
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port = l.Host, uint16(l.Port)
	cfg.User, cfg.Password, cfg.Database = l.User, password, l.Database
	cfg.RequireAuth = methods
	if !l.Plaintext {
		roots, err := c.roots()
		if err != nil {
			return nil, err
		}
		cfg.TLSConfig = &tls.Config{RootCAs: roots, ServerName: l.Host, MinVersion: tls.VersionTLS12}
	}
	// The dialer resolves names, and tries all addresses of a name.
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	var dialed atomic.Bool
	var wire *bounded.Conn
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		// When a connection breaks the driver dials again, in the background, to
		// cancel what was running. That must not outlive the call.
		if !dialed.CompareAndSwap(false, true) {
			return nil, errors.New("a login is one connection")
		}
		conn, err := l.Dial(ctx, c.dial)
		if err != nil {
			return nil, err
		}
		wire = bounded.NewConn(conn, maxBytes)
		return wire, nil
	}
	cfg.MaxProtocolMessageBodyLen = maxBytes
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&scramGuard{r: bufio.NewReader(r), plaintext: l.Plaintext}, w)
	}

	s := &session{login: l}
	defer func() {
		// The driver goes on reading after an error, in the background.
		if err != nil && wire != nil {
			_ = wire.Close()
		}
	}()
	err = recovered(func() (err error) {
		s.conn, err = pgconn.ConnectConfig(ctx, cfg)
		return err
	})
	if err != nil {
		// The driver's error carries the configuration, and that the password.
		var failed *pgconn.ConnectError
		if errors.As(err, &failed) {
			err = failed.Unwrap()
		}
		return nil, explainLogin(ctx, err, l, wire != nil)
	}
	s.wire = wire
	// A pooler accepts logins on its own. A statement reaches the server.
	if _, err := s.row(ctx, 1, "SELECT 1"); err != nil {
		return nil, explainLogin(ctx, err, l, true)
	}
	return s, nil
}

// everySetting names every setting the driver would take from an environment
// variable or a service file, because what its connection string has wins over
// both. It also keeps it from reading certificates, password files and the
// account database. The fields that matter are set afterwards.
const everySetting = "host=- port=1 user=- password=- dbname=- passfile='' application_name=rekey connect_timeout=0 " +
	"sslmode=disable sslkey='' sslcert='' sslcertmode=allow sslsni=1 sslrootcert='' sslpassword='' sslnegotiation=postgres " +
	"target_session_attrs=any timezone='' options='' min_protocol_version=3.0 max_protocol_version=3.0 " +
	"channel_binding=prefer require_auth=''"

// blankConfig returns a driver configuration that the environment has no part in.
func blankConfig() (*pgconn.Config, error) {
	settings := everySetting
	if os.Getenv("PGSERVICE") != "" {
		// The driver cannot be told to use no service file, so it is given one in
		// which there is nothing.
		file, err := emptyServiceFile()
		if err != nil {
			return nil, fmt.Errorf("the environment variable PGSERVICE is in the way of connecting, unset it: %w", err)
		}
		defer file.Close()
		settings += fmt.Sprintf(" service=rekey servicefile=/dev/fd/%d", file.Fd())
	}
	cfg, err := pgconn.ParseConfig(settings)
	if err != nil {
		return nil, fmt.Errorf("preparing a connection: %w", err)
	}
	// Poolers refuse settings they do not know, empty ones too. What the database's
	// owner has set for client_encoding must not count: in some encodings a
	// character ends in a backslash, and no quoting is safe.
	cfg.RuntimeParams = map[string]string{"application_name": "rekey", "client_encoding": "UTF8"}
	cfg.Fallbacks = nil
	return cfg, nil
}

// emptyServiceFile returns a file that reads as a service named rekey without
// settings.
func emptyServiceFile() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if _, err := w.WriteString("[rekey]\n"); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
