package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

type session struct {
	conn  *pgconn.PgConn
	wire  *bounded.Conn // under it
	login database.Login

	before map[string]string // what the server had stored of users' passwords when Record first read it
}

// pinned stands before a transaction's other statements. The transaction then does not heed
// what others may have set or planted: a statement_timeout too short for any change, another
// role to act as (ALTER ROLE .. SET role, ALTER DATABASE .. SET role), and operators and
// functions in a schema that is searched before PostgreSQL's own.
var pinned = []string{"SET LOCAL statement_timeout TO 0", "SET LOCAL ROLE NONE", "SET LOCAL search_path TO pg_catalog, pg_temp"}

// SetPasswords sets the one password a PostgreSQL user has.
//
// The statements are one message, which the server runs as one transaction and
// leaves, done or undone, when it has answered: a failure leaves nothing behind.
func (s *session) SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error {
	if len(accept) != 1 {
		return rotators.Permanent(fmt.Errorf("a PostgreSQL user has one password, not %d", len(accept)))
	}
	if version := s.conn.ParameterStatus("server_version"); predatesVerifiers(version) {
		return rotators.Permanent(fmt.Errorf("the server is version %s, which would take a SCRAM verifier for the password itself, so nothing was changed: PostgreSQL 10 is the first that rekey can rotate", bounded.Text(version)))
	}
	name, err := quoteName(user)
	if err != nil {
		return err
	}
	verifier, err := newVerifier(accept[0].Reveal())
	if err != nil {
		return err
	}
	// Settings may have made the session read-only (default_transaction_read_only).
	err = s.run(ctx, append(slices.Clone(pinned), "SET TRANSACTION READ WRITE", "ALTER ROLE "+name+" PASSWORD '"+verifier+"'")...)
	return explainChange(ctx, err, s.login)
}

// predatesVerifiers tells whether a server is older than PostgreSQL 10, or
// derived from one that is, as Amazon Redshift. To such a server a verifier is a
// password like any other, which locks the user out, and putting the old one
// back would do so again. What a server does not say is not held against it.
func predatesVerifiers(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n < 10
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
	if !s.conn.IsClosed() {
		_ = s.conn.Conn().SetDeadline(deadline)
		s.conn.Frontend().Send(&pgproto3.Terminate{})
		if s.conn.Frontend().Flush() == nil {
			_, _ = io.Copy(io.Discard, s.conn.Conn())
		}
	}
	err := s.conn.Close(ctx)
	// After an error the driver may still be reading, in the background.
	_ = s.wire.Close()
	return err
}

// maxRows is how many rows an answer may have: a row of nothing takes seven bytes from
// the server and ten times as many here.
const maxRows = 1 << 12

// strange is what is wrong with a server's answer that is not one to what was asked.
type strange string

func (s strange) Error() string { return string(s) }

// recovered calls f, which uses the driver. A panic becomes an error: the driver has
// some for what it takes to be mistakes of its own, and answers that it did not expect
// may lead there.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = strange(fmt.Sprintf("what the driver cannot read: %v", p))
		}
	}()
	return f()
}

// query runs statements, which are one message and so one transaction unless they say
// otherwise, and returns the rows of the last one as text, "" for NULL, each with as
// many columns as that asks for.
func (s *session) query(ctx context.Context, columns int, statements ...string) (rows [][]string, err error) {
	ctx, cancel := bounded.Within(ctx)
	defer cancel()
	err = recovered(func() error {
		results := s.conn.Exec(ctx, strings.Join(statements, "; "))
		answers := 0
		rows, answers, err = read(results, columns, len(statements))
		if err != nil {
			_ = s.wire.Close() // else the driver reads on to the end of the answer
		}
		if ended := results.Close(); err == nil {
			err = ended
		}
		if err == nil && answers != len(statements) {
			err = strange(fmt.Sprintf("%d results of %d statements", answers, len(statements)))
		}
		return err
	})
	if errors.As(err, new(strange)) {
		_ = s.wire.Close()
	}
	if err != nil && s.wire.Spent() {
		err = bounded.ErrTooMuch // which the driver calls a closed connection
	}
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// read reads the results of so many statements, and how many results there are. What
// the server itself calls an error is in the end of results.
func read(results *pgconn.MultiResultReader, columns, statements int) (rows [][]string, answers int, err error) {
	for results.NextResult() {
		if answers++; answers > statements {
			return nil, 0, strange("more results than statements")
		}
		r := results.ResultReader()
		for r.NextRow() {
			values := r.Values()
			if answers < statements || len(values) != columns {
				return nil, 0, strange(fmt.Sprintf("a row of %d columns, which was not asked for", len(values)))
			}
			if len(rows) == maxRows {
				return nil, 0, strange(fmt.Sprintf("more than %d rows", maxRows))
			}
			row := make([]string, columns)
			for i, value := range values {
				row[i] = string(value)
			}
			rows = append(rows, row)
		}
		_, _ = r.Close()
	}
	return rows, answers, nil
}

// row runs statements of which the last one finds one row.
func (s *session) row(ctx context.Context, columns int, statements ...string) ([]string, error) {
	rows, err := s.query(ctx, columns, statements...)
	if err == nil && len(rows) != 1 {
		err = strange(fmt.Sprintf("%d rows where one was asked for", len(rows)))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// run runs statements that find nothing.
func (s *session) run(ctx context.Context, statements ...string) error {
	_, err := s.query(ctx, 0, statements...)
	return err
}

// quoteName writes a name as SQL.
func quoteName(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", rotators.Permanent(errors.New("a PostgreSQL name is not empty and holds no NUL character"))
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}
