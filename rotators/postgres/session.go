package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

type session struct {
	conn  *pgconn.PgConn
	login database.Login
}

// pinned, before a transaction's other statements, has it not heed what others
// may have set or planted: another role to act as (ALTER ROLE .. SET role, ALTER
// DATABASE .. SET role), and operators and functions in a schema that is searched
// before PostgreSQL's own.
const pinned = "SET LOCAL ROLE NONE; SET LOCAL search_path TO pg_catalog, pg_temp; "

// SetPasswords sets the one password a PostgreSQL user has.
//
// The statements are one message, which the server runs as one transaction and
// leaves, done or undone, when it has answered: a failure leaves nothing behind.
func (s *session) SetPasswords(ctx context.Context, user string, accept ...rotators.Secret) error {
	if len(accept) != 1 {
		return rotators.Permanent(fmt.Errorf("a PostgreSQL user has one password, not %d", len(accept)))
	}
	if version := s.conn.ParameterStatus("server_version"); predatesVerifiers(version) {
		return rotators.Permanent(fmt.Errorf("the server is version %s, which would take a SCRAM verifier for the password itself, so nothing was changed: PostgreSQL 10 is the first that rekey can rotate", version))
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
	_, err = s.conn.Exec(ctx, pinned+"SET TRANSACTION READ WRITE; ALTER ROLE "+name+" PASSWORD '"+verifier+"'").ReadAll()
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
	return s.conn.Close(ctx)
}

// quoteName writes a name as SQL.
func quoteName(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", rotators.Permanent(errors.New("a PostgreSQL name is not empty and holds no NUL character"))
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}
