package postgres

import (
	"encoding/base64"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/rotators"
)

// TestVerifier has the server make a verifier from clear text and compares it
// with ours, then logs in with it and rotates.
func TestVerifier(t *testing.T) {
	for _, password := range []string{
		"plain", "I\u00ADX", "\u2168", "\ufb01", "pässwörd", "a\u0308", "\u00a0 \u3000", "😀", "\u00aa", "\u0221",
		"\u0627\u0031", "\u0627\u0031\u0628", "\x07", "\u00ad", "\u200b", "\U000e0001", "\ufffd", "名前", "\u1e9b\u0323", "\u2126",
	} {
		t.Run(strconv.QuoteToASCII(password), func(t *testing.T) {
			current := newUser(t, secure, "spelled", password)
			stored := storedPassword(t, "spelled")
			iterations, salt := saltOf(t, stored)
			ours, err := verifier(password, salt, iterations)
			if err != nil {
				t.Fatal(err)
			}
			if ours != stored {
				t.Errorf("the verifier is %s, the server's %s", ours, stored)
			}
			rotate(t, new(wire).rotator(), current)
		})
	}
}

// TestPasswordTheDriverChanges has the server store a password as it is, which
// the driver would normalise. That must not look like a wrong password.
func TestPasswordTheDriverChanges(t *testing.T) {
	current := newUser(t, secure, "changed", "\u0340")
	err := New(awsConfig, nil).Test(t.Context(), rotators.Rotation{Pending: current})
	want{text: "cannot log in with", permanent: true}.check(t, err, "\u0340")
}

func storedPassword(t *testing.T, user string) string {
	t.Helper()
	conn, err := secure.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	return one(t, conn, "SELECT rolpassword FROM pg_authid WHERE rolname = '"+user+"'")
}

func one(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	if err != nil || len(results[0].Rows) != 1 {
		t.Fatalf("%s: %v", sql, err)
	}
	return string(results[0].Rows[0][0])
}

func saltOf(t *testing.T, verifier string) (int, []byte) {
	t.Helper()
	parts := strings.FieldsFunc(verifier, func(r rune) bool { return r == '$' || r == ':' })
	if len(parts) != 5 || parts[0] != "SCRAM-SHA-256" {
		t.Fatalf("this is no verifier: %q", verifier)
	}
	iterations, err := strconv.Atoi(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	return iterations, salt
}
