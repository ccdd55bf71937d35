package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators/database"
)

// maxAnswer is how long one command may take where the caller sets no earlier
// deadline. Writing a file is the slowest thing asked for.
const maxAnswer = 10 * time.Second

type connector struct {
	dial  database.DialFunc // nil: a net.Dialer
	roots func() (*x509.CertPool, error)
}

func newConnector(o *Options) *connector {
	// The driver tells stderr about connections with answers to nothing, which any server
	// can send: a line that is none of the log's, and not JSON.
	logging.Disable()
	c := &connector{roots: sync.OnceValues(database.Roots)}
	if o != nil {
		c.dial = o.Dial
	}
	return c
}

// open logs in at every server the login is for.
func (c *connector) open(ctx context.Context, l database.Login) (database.Session, error) {
	s := &session{}
	budget := bounded.NewBudget(maxBytes)
	for _, at := range l.Servers() {
		n, err := c.openNode(ctx, at, budget)
		if err != nil {
			_ = s.Close(ctx)
			return nil, err
		}
		s.nodes = append(s.nodes, n)
	}
	return s, nil
}

// openNode logs in at one server. The answer to AUTH, which every user may send,
// is the proof that it serves: users need not have a right to anything else.
func (c *connector) openNode(ctx context.Context, l database.Login, budget *bounded.Budget) (*node, error) {
	raw, err := l.Dial(ctx, c.dial)
	if err != nil {
		return nil, explainLogin(ctx, err, l, false)
	}
	wire := budget.Conn(raw)
	var conn net.Conn = wire
	if !l.Plaintext {
		roots, err := c.roots()
		if err != nil {
			_ = wire.Close()
			return nil, err
		}
		secured := tls.Client(wire, &tls.Config{RootCAs: roots, ServerName: l.Host, MinVersion: tls.VersionTLS12})
		if err := wire.Do(ctx, func() error { return secured.HandshakeContext(ctx) }); err != nil {
			_ = wire.Close()
			return nil, explainLogin(ctx, err, l, true)
		}
		conn = secured
	}

	n := &node{login: l, wire: wire, guard: &guard{Conn: conn}}
	dialed := false
	n.client = redis.NewClient(&redis.Options{
		// The one connection there is. The driver would make another if it broke.
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			if dialed {
				return nil, errors.New("a login is one connection")
			}
			dialed = true
			return n.guard, nil
		},
		Protocol:              2,
		DisableIdentity:       true,
		MaxRetries:            -1,
		DialerRetries:         1,
		PoolSize:              1,
		PipelinePoolSize:      -1,
		ReadTimeout:           maxAnswer,
		ContextTimeoutEnabled: true,
	})
	n.conn = n.client.Conn()
	// The driver is not given the credentials: it would send them twice where
	// they are refused. The driver begins with HELLO whatever its options say, and goes on
	// if a server answers that with an error.
	if err := n.do(ctx, func() error { return accepted(n.conn.AuthACL(ctx, l.User, l.Password.Reveal())) }); err != nil {
		_ = n.Close(ctx)
		return nil, explainLogin(ctx, err, l, true)
	}
	n.in = true
	return n, nil
}
