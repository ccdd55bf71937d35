package plaintext

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestWhy(t *testing.T) {
	for _, c := range []struct{ text, mention string }{
		{"\ufeffhunter22", "byte order mark"},
		{`"{\"engine\":\"postgres\"}"`, "encoded once too often"}, {`"hunter22"`, "encoded once too often"},
		{`["hunter22"]`, "array"}, {`{"password":"hunter22"`, "JSON object"}, {"{'password': 'hunter22'}", "JSON object"}, {"{\n}", "JSON object"},
		{"<db><password>hunter22</password></db>", "XML"}, {"-----BEGIN PRIVATE KEY-----\nhunter22", "PEM"},
		{"DB_HOST=h\nDB_PASSWORD=hunter22\n", "several lines"}, {"a\r\nb", "several lines"}, {"hunter22\n", "line break"}, {"\nhunter22", "line break"}, {"hunter22\r\n", "line break"},
		{"postgresql://app@h/d", "URL"}, {"jdbc:oracle:thin:app/hunter22@h", "URL"},
		{"DB_PASSWORD=hunter22", "name=value"}, {"export DB_URL=hunter22", "name=value"}, {"Host=h;Username=app;Password=hunter22", "name=value"}, {"Server=h;Uid=app;Pwd=hunter22;", "name=value"},
		{"Data Source=h;User Id=app", "name=value"}, {"host=h port=5432 user=app", "name=value"}, {"password: hunter22", "name=value"}, {"user: app, password: hunter22", "name=value"}, {"x=1 y=2", "name=value"},
		{"app:hunter22@tcp(h:3306)/shop", "connection string"}, {"app:hunter22@h:5432/shop", "connection string"}, {"app/hunter22@h:1521", "connection string"},
		{base64.StdEncoding.EncodeToString([]byte(`{"password":"hunter22"}`)), "base64"}, {base64.RawURLEncoding.EncodeToString([]byte("postgres://app:hunter22@h/d")), "base64"},
	} {
		if why := Why(c.text); !strings.Contains(why, c.mention) || strings.Contains(why, "hunter22") {
			t.Errorf("%q: %q", c.text, why)
		}
	}
	for _, password := range []string{
		"", "hunter22", "correct horse battery staple", "a=b", "dGVzdA==", "c2VjcmV0cGFzc3dvcmQ=", "{x9]", "[x9}", `"x`, "p@ss:w/rd?#", "<x>", "é", "12345678", "a:b@c", "user", "key", "x; y", "$2y$10$abc=",
	} {
		if why := Why(password); why != "" {
			t.Errorf("%q is a password, and %s", password, why)
		}
	}
}

// TestGeneratedPasswordsPass has the passwords that Secrets Manager generates taken for
// passwords: of 32 characters, with all its punctuation.
func TestGeneratedPasswordsPass(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
	random := rand.New(rand.NewPCG(1, 2))
	refused := map[string]string{}
	const n = 100_000
	for range n {
		var b strings.Builder
		for range 32 {
			b.WriteByte(alphabet[random.IntN(len(alphabet))])
		}
		if why := Why(b.String()); why != "" {
			refused[b.String()] = why
		}
	}
	if len(refused) > n/1000 {
		t.Errorf("%d of %d are refused: %s", len(refused), n, fmt.Sprint(refused)[:2000])
	}
	t.Logf("%d of %d are refused: %v", len(refused), n, refused)
}
