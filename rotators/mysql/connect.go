package mysql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
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

// pinned has a session read names and strings as they are quoted here, and wait
// no longer for others' locks than people do: what the owner of the server has set
// must not count. The unit is seconds. What only MariaDB reads (/*M! */) has it make no
// user, one without a password, where a right is given to one that somebody has just
// dropped; MySQL never does.
const pinned = "SET NAMES utf8mb4, sql_mode = '' /*M! 'NO_AUTO_CREATE_USER' */, sql_quote_show_create = 1, lock_wait_timeout = 10"

// open implements database.Engine's Open.
func (c *connector) open(ctx context.Context, l database.Login) (database.Session, error) {
	for field, text := range map[string]string{"username": l.User, "password": l.Password.Reveal(), "dbname": l.Database} {
		if strings.ContainsRune(text, 0) {
			return nil, rotators.Permanent(fmt.Errorf("the field %q holds a NUL character, which no MySQL or MariaDB server accepts: correct it", field))
		}
	}
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr = "tcp", net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
	cfg.User, cfg.Passwd, cfg.DBName = l.User, l.Password.Reveal(), l.Database
	cfg.Logger = &mysql.NopLogger{}
	cfg.ConnectionAttributes = "program_name:rekey"
	if !l.Plaintext {
		roots, err := c.roots()
		if err != nil {
			return nil, err
		}
		cfg.TLS = &tls.Config{RootCAs: roots, ServerName: l.Host, MinVersion: tls.VersionTLS12}
	}
	wire := &conn{guarded: l.Plaintext}
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		raw, err := l.Dial(ctx, c.dial)
		if err != nil {
			return nil, err
		}
		wire.Conn = raw
		return wire, nil
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("preparing a connection: %w", err)
	}

	opened, err := connector.Connect(ctx)
	if err != nil {
		if wire.asked != nil {
			err = wire.asked // which the driver reports as a broken connection
		}
		return nil, explainLogin(ctx, err, l, wire.Conn != nil)
	}
	wire.guarded = false
	s := &session{connector: c, conn: opened, wire: wire, login: l, latest: l.Password}
	rows, err := s.query(ctx, pinned)
	if err == nil {
		// A proxy accepts logins on its own. A statement reaches the server.
		rows, err = s.query(ctx, "SELECT VERSION(), CURRENT_USER()")
	}
	if err != nil {
		_ = s.Close(ctx)
		return nil, explainLogin(ctx, err, l, true)
	}
	s.version = rows[0][0]
	at := strings.LastIndexByte(rows[0][1], '@')
	s.account = account{rows[0][1][:at], rows[0][1][at+1:]}
	if s.account.user != l.User {
		_ = s.Close(ctx)
		return nil, rotators.Permanent(fmt.Errorf("MySQL at %s:%d let user %q in as the account %s, which is another user's, so the login proves nothing: drop that account, or correct the field \"username\"", l.Host, l.Port, l.User, s.account))
	}
	return s, nil
}

// errAsked is why a login without TLS was broken off.
var errAsked = errors.New("the server asked for the password itself")

// conn is a network connection. Until the login is over, a guarded one lets the
// answers to challenges pass and nothing else, so that a false server learns no
// password.
type conn struct {
	net.Conn
	guarded bool
	packets int // written while guarded
	asked   error
	goodbye time.Time // how long Close waits for the server to hang up; zero: not at all
}

// Write sends one packet: the driver writes each at once. After the first, by
// which the client introduces itself, only answers to challenges are of these
// lengths: none, mysql_native_password's, caching_sha2_password's and ed25519's.
// A request for the server's key is of length 1, and what is encrypted with a key
// is as long as that, and that is never as short as 64 bytes.
func (c *conn) Write(p []byte) (int, error) {
	if c.guarded {
		c.packets++
		switch len(p) - 4 {
		case 0, 20, 32, 64:
		default:
			if c.packets > 1 {
				c.asked = errAsked
				return 0, errAsked
			}
		}
	}
	return c.Conn.Write(p)
}

// Close hangs up, after the server has if it was told goodbye.
func (c *conn) Close() error {
	if !c.goodbye.IsZero() && c.SetReadDeadline(c.goodbye) == nil {
		_, _ = io.Copy(io.Discard, c.Conn)
	}
	return c.Conn.Close()
}

// maxGoodbye is how long Close waits for the server to end the session.
const maxGoodbye = time.Second

// Close says goodbye and waits until the server has hung up, which it does when
// the session no longer counts: else the next login of a user with few
// connections could meet the last one's ghost.
func (s *session) Close(ctx context.Context) error {
	deadline := time.Now().Add(maxGoodbye)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	s.wire.goodbye = deadline
	return s.conn.Close()
}

// query runs one statement and returns its rows as text, "" for NULL.
func (s *session) query(ctx context.Context, statement string) ([][]string, error) {
	rows, err := s.conn.(driver.QueryerContext).QueryContext(ctx, statement, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all [][]string
	for {
		row := make([]driver.Value, len(rows.Columns()))
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		texts := make([]string, len(row))
		for i, v := range row {
			if b, ok := v.([]byte); ok {
				texts[i] = string(b)
			} else if v != nil {
				texts[i] = fmt.Sprint(v)
			}
		}
		all = append(all, texts)
	}
}
