package mysql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/internal/bounded"
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
	var cfg *tls.Config
	if !l.Plaintext {
		roots, err := c.roots()
		if err != nil {
			return nil, err
		}
		cfg = &tls.Config{RootCAs: roots, ServerName: l.Host, MinVersion: tls.VersionTLS12}
	}
	raw, err := l.Dial(ctx, c.dial)
	if err != nil {
		return nil, explainLogin(ctx, err, l, false)
	}
	wire := bounded.NewConn(raw, maxBytes)
	opened, err := connect(ctx, wire, cfg, l.User, l.Password.Reveal(), l.Database)
	if err != nil {
		_ = wire.Close()
		return nil, explainLogin(ctx, err, l, true)
	}
	s := &session{connector: c, client: opened, login: l, latest: l.Password}
	if err := s.begin(ctx); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// begin prepares a session that has just logged in, and asks the server what it is.
func (s *session) begin(ctx context.Context) error {
	err := s.run(ctx, pinned)
	var is []string
	if err == nil {
		// A proxy accepts logins on its own. A statement reaches the server.
		is, err = s.row(ctx, "SELECT VERSION(), CURRENT_USER()", 2)
	}
	if err != nil {
		return explainLogin(ctx, err, s.login, true)
	}
	at := strings.LastIndexByte(is[1], '@')
	if is[0] == "" || at < 0 {
		return explainLogin(ctx, strange("no version, or no account that the login is of"), s.login, true)
	}
	s.version, s.account = is[0], account{is[1][:at], is[1][at+1:]}
	if s.account.user != s.login.User {
		return rotators.Permanent(fmt.Errorf("MySQL at %s:%d let user %q in as the account %s, which is another user's, so the login proves nothing: drop that account, or correct the field \"username\"", s.login.Host, s.login.Port, s.login.User, s.account))
	}
	return nil
}

// maxGoodbye is how long Close waits for the server to end the session.
const maxGoodbye = time.Second

// Close says goodbye and waits until the server has hung up, which it does when
// the session no longer counts: else the next login of a user with few
// connections could meet the last one's ghost.
func (s *session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxGoodbye)
	defer cancel()
	s.client.quit(ctx)
	return nil
}

// query runs one statement and returns its rows as text, "" for NULL, each with as many
// columns as the statement asks for.
func (s *session) query(ctx context.Context, statement string, columns int) ([][]string, error) {
	return s.client.query(ctx, statement, columns)
}

// row runs a statement that finds one row.
func (s *session) row(ctx context.Context, statement string, columns int) ([]string, error) {
	rows, err := s.query(ctx, statement, columns)
	if err == nil && len(rows) != 1 {
		err = strange(fmt.Sprintf("%d rows where one was asked for", len(rows)))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}
