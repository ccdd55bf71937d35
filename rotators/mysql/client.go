package mysql

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/go-sql-driver/mysql"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// maxBytes is how much one login may be sent, from the first byte to the goodbye. The
// most that an honest server says is SHOW GRANTS, of which alternating users take four
// to six: the rights on a table are a line of about a hundred bytes, so that this is
// enough for ten thousand tables.
const maxBytes = 8 << 20

// maxRows is how many rows an answer may have: a row of nothing takes five bytes from
// the server and ten times as many here.
const maxRows = 1 << 16

// client is a login by the driver, behind a guard.
type client struct {
	wire  *bounded.Conn
	guard *guard
	conn  driver.Conn // nil: the login failed, or an error has ended the connection
}

// serverError is an error that the server answered with.
type serverError struct {
	number  uint16
	message string // to be shown as it is
}

func (e *serverError) Error() string { return fmt.Sprintf("error %d: %s", e.number, e.message) }

// errBroken is what a client returns after an error that was no answer.
var errBroken = errors.New("the connection was ended by an earlier error")

// connect logs in on wire, with TLS if cfg is not nil.
func connect(ctx context.Context, wire *bounded.Conn, cfg *tls.Config, user, password, database string) (*client, error) {
	c := &client{wire: wire, guard: newGuard(wire, cfg)}
	options := mysql.NewConfig()
	options.User, options.Passwd, options.DBName = user, password, database
	options.Logger = &mysql.NopLogger{}
	options.ConnectionAttributes = "program_name:rekey"
	options.DialFunc = func(context.Context, string, string) (net.Conn, error) { return c.guard, nil }
	options.Net, options.Addr = "tcp", "guard"
	if cfg != nil {
		// So that the driver takes the connection for one that nobody else reads.
		options.Net = "unix"
	}
	connector, err := mysql.NewConnector(options)
	if err != nil {
		return nil, fmt.Errorf("preparing a connection: %w", err)
	}
	err = c.do(ctx, func() (err error) {
		c.conn, err = connector.Connect(ctx)
		return err
	})
	return c, err
}

// do runs f, which uses the driver, until ctx ends. After an error that is not the
// server's the connection is over: what comes next might be half of an answer. A panic
// of the driver's becomes an error.
func (c *client) do(ctx context.Context, f func() error) error {
	err := c.wire.Do(ctx, func() (err error) {
		defer func() {
			if recover() != nil {
				err = strange("what the driver cannot read")
			}
		}()
		return f()
	})
	if err == nil {
		return nil
	}
	if said := (*mysql.MySQLError)(nil); errors.As(err, &said) {
		return &serverError{said.Number, bounded.Text(said.Message)}
	}
	c.conn = nil
	_ = c.wire.Close()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case c.guard.broken != nil: // which the driver calls a broken connection
		return c.guard.broken
	case errors.Is(err, mysql.ErrMalformPkt), errors.Is(err, mysql.ErrPktSync), errors.Is(err, mysql.ErrPktSyncMul), errors.Is(err, mysql.ErrPktTooLarge):
		return strange(err.Error())
	}
	return err
}

// quit says goodbye and reads until the server has hung up.
func (c *client) quit(ctx context.Context) {
	if c.conn != nil {
		_ = c.do(ctx, func() error {
			c.guard.quitting = true
			return c.conn.Close()
		})
	}
	_ = c.wire.Close()
}

// query runs one statement and returns its rows as text, "" for NULL. columns is how
// many the statement asks for; 0 for one that has no rows.
func (c *client) query(ctx context.Context, statement string, columns int) (all [][]string, err error) {
	if c.conn == nil {
		return nil, errBroken
	}
	err = c.do(ctx, func() error {
		rows, err := c.conn.(driver.QueryerContext).QueryContext(ctx, statement, nil)
		if err != nil {
			return err
		}
		if n := len(rows.Columns()); n != columns {
			return strange(fmt.Sprintf("%d columns where %d were asked for", n, columns))
		}
		row := make([]driver.Value, columns)
		for {
			switch err := rows.Next(row); {
			case errors.Is(err, io.EOF):
				return rows.Close()
			case err != nil:
				return err
			case len(all) == maxRows:
				return strange(fmt.Sprintf("more than %d rows", maxRows))
			}
			texts := make([]string, columns)
			for i, v := range row {
				if b, ok := v.([]byte); ok {
					texts[i] = string(b)
				} else if v != nil {
					texts[i] = fmt.Sprint(v)
				}
			}
			all = append(all, texts)
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
