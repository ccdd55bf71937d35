package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

// What the server itself uses (SCRAM_SHA_256_DEFAULT_ITERATIONS and
// SCRAM_DEFAULT_SALT_LEN in its sources). More iterations would slow down every
// login of every reader, and add nothing to a random password.
const (
	iterations = 4096
	saltSize   = 16
)

// newVerifier returns a SCRAM-SHA-256 verifier of a password (RFC 5803, in
// PostgreSQL's spelling), under a salt of its own. It needs no quoting in SQL.
func newVerifier(password string) (string, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	return verifier(password, salt, iterations)
}

func verifier(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, saslprep(password), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hashing a password: %w", err)
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// allowed is the first half of SASLprep (RFC 4013): what is mapped, and what may
// not occur. The zero width space is in both of its mappings; PostgreSQL takes
// it for a space.
var allowed = stringprep.Profile{
	Mappings:  []stringprep.Mapping{stringprep.SASLprep.Mappings[1], stringprep.SASLprep.Mappings[0]},
	Prohibits: stringprep.SASLprep.Prohibits,
	CheckBiDi: true,
}

// saslprep returns the bytes that a PostgreSQL server takes for a password. They
// are those of SASLprep, with two differences: what may not occur is looked for
// before normalising, not after, and a password in which it does occur counts as
// it is.
func saslprep(password string) string {
	if !utf8.ValidString(password) {
		return password
	}
	mapped, err := allowed.Prepare(password)
	if err != nil || mapped == "" {
		return password
	}
	return norm.NFKC.String(mapped)
}

// driverKeeps tells whether the driver logs in with exactly these bytes by
// SCRAM. It prepares passwords by PRECIS (RFC 8265), unless a character is
// unassigned in SASLprep's Unicode 3.2. What saslprep has normalised stays as it
// is; what it had to leave alone may not.
func driverKeeps(prepared string) bool {
	if strings.ContainsFunc(prepared, stringprep.TableA1.Contains) {
		return true
	}
	sent, err := precis.OpaqueString.String(prepared)
	return err != nil || sent == prepared
}
