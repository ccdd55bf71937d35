package postgres

import (
	"context"
	"crypto/md5"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/database"
)

var _ database.Recorder = (*session)(nil)

// Record implements database.Recorder. Every role may read all but the password, which
// takes a superuser; on RDS nobody may read it.
func (s *session) Record(ctx context.Context, user string) (database.Record, error) {
	rows, err := s.query(ctx, 4, append(slices.Clone(pinned), `SELECT r.rolcanlogin, coalesce(r.rolvaliduntil < now(), false), coalesce(r.rolvaliduntil::text, ''),
			has_table_privilege('pg_catalog.pg_authid', 'SELECT') FROM pg_catalog.pg_roles r WHERE r.rolname = `+quoteText(user))...)
	if err != nil {
		return database.Record{}, explainChange(ctx, err, s.login)
	}
	if len(rows) != 1 {
		return database.Record{}, nil
	}
	is := rows[0]
	record := database.Record{}
	switch {
	case is[0] != "t":
		record.Barred = "may not log in (NOLOGIN)"
	case is[1] == "t":
		record.Barred = "has expired (VALID UNTIL '" + bounded.Text(is[2]) + "')"
	}
	if is[3] != "t" {
		return record, nil
	}
	stored, err := s.stored(ctx, user)
	if err != nil {
		return database.Record{}, err
	}
	if _, ok := s.before[user]; !ok {
		if s.before == nil {
			s.before = map[string]string{}
		}
		s.before[user] = stored
	}
	record.Has = func(password rotators.Secret) (has, known bool) { return verifies(stored, user, password.Reveal()) }
	return record, nil
}

// stored reads what the server keeps of a password; "" if there is none.
func (s *session) stored(ctx context.Context, user string) (string, error) {
	row, err := s.row(ctx, 1, append(slices.Clone(pinned), "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = "+quoteText(user))...)
	if err != nil {
		return "", explainChange(ctx, err, s.login)
	}
	return row[0], nil
}

// verifies reports whether a stored password is this one; known is false if it is stored
// in a way that is not known here.
func verifies(stored, user, password string) (has, known bool) {
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	if stored == "" {
		return false, true
	}
	if digest, ok := strings.CutPrefix(stored, "md5"); ok {
		return same(digest, fmt.Sprintf("%x", md5.Sum([]byte(password+user)))), true
	}
	// SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY
	parts := strings.FieldsFunc(stored, func(c rune) bool { return c == '$' || c == ':' })
	if len(parts) != 5 || parts[0] != "SCRAM-SHA-256" {
		return false, false
	}
	rounds, err := strconv.ParseUint(parts[1], 10, 31)
	salt, err2 := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || err2 != nil || rounds > maxIterations {
		return false, false
	}
	want, err := verifier(password, salt, int(rounds))
	return err == nil && same(stored, want), err == nil
}

// PutBack implements database.Recorder.
func (s *session) PutBack(ctx context.Context, user string) error {
	stored, ok := s.before[user]
	if !ok {
		return database.ErrUnread
	}
	name, err := quoteName(user)
	if err != nil {
		return err
	}
	password := "NULL"
	if stored != "" {
		password = quoteText(stored)
	}
	// An MD5 hash is enough to log in with, so no log of the server is to hold it.
	quiet := []string{"SET LOCAL log_statement TO none", "SET LOCAL log_min_duration_statement TO -1", "SET LOCAL log_min_error_statement TO panic"}
	begin := slices.Concat([]string{"BEGIN READ WRITE"}, pinned)
	if strings.HasPrefix(stored, "md5") {
		begin = append(begin, quiet...)
	}
	if err = s.run(ctx, begin...); err == nil {
		err = s.run(ctx, "ALTER ROLE "+name+" PASSWORD "+password, "COMMIT")
	}
	if err != nil && s.conn.TxStatus() != 'I' {
		_ = s.run(ctx, "ROLLBACK")
	}
	return explainChange(ctx, err, s.login)
}
