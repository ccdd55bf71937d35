package rotation

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// Every form of every known value is found, however it is written. What follows the value
// in the text must be left to be read.
func TestTheRedactorKnowsEveryForm(t *testing.T) {
	twice, _ := json.Marshal(`{"password":"ab\"cd\"efghijk"}`)
	basic := func(login string) string { return base64.StdEncoding.EncodeToString([]byte(login)) }
	for _, c := range []struct{ name, value, text, secret string }{
		{"number", `{"username":"app","pin":918273645501}`, "bad key 918273645501", "918273645501"},
		{"number, as Go prints it", `{"pin":918273645501}`, "bad key 9.18273645501e+11", "9.18273645501e+11"},
		{"numbers in an array", `{"keys":[918273645501,{"a":91827364}]}`, "bad key 918273645501, 91827364", "91827364"},
		{"number alone in an array", `[918273645501]`, "bad key 918273645501", "918273645501"},
		{"array", `["s3cretONEs3cret","s3cretTWOs3cret"]`, "bad key s3cretTWOs3cret", "s3cretTWOs3cret"},
		{"JSON string", `"s3cretONEs3cret"`, "bad key s3cretONEs3cret", "s3cretONEs3cret"},
		{"object in a JSON string", `"{\"token\":\"s3cretONEs3cret\"}"`, "bad key s3cretONEs3cret", "s3cretONEs3cret"},
		{"line break at the end", "s3cretONEs3cret\n", "bad password s3cretONEs3cret", "s3cretONEs3cret"},
		{"spaces around a field", `{"password":" s3cretONEs3cret "}`, "bad password \"s3cretONEs3cret\"", "s3cretONEs3cret"},
		{"spaces around a short password", `{"password":" abc\n"}`, "bad password abc.", "abc"},
		{"slash in JSON", `{"password":"abc/def+ghi/jkl"}`, `reply {"password":"abc\/def+ghi\/jkl"}`, `abc\/def`},
		{"plus in JSON", `{"password":"abc+def+ghi+jkl"}`, `reply {"password":"abc\u002Bdef\u002Bghi\u002Bjkl"}`, `abc\u002Bdef`},
		{"plus in JSON, small", `{"password":"abc+def+ghi+jkl"}`, `reply {"password":"abc\u002bdef\u002bghi\u002bjkl"}`, `abc\u002bdef`},
		{"less in JSON, capital", `{"password":"abc<def<ghi<jkl"}`, `reply {"password":"abc\u003Cdef\u003Cghi\u003Cjkl"}`, `abc\u003Cdef`},
		{"HTML", `{"password":"abc&def<ghi'jkl"}`, `reply <m>abc&amp;def&lt;ghi&#39;jkl</m>`, `abc&amp;def`},
		{"XML", `{"password":"abc\"def<ghi'jkl"}`, `reply <m>abc&quot;def&#x3c;ghi&apos;jkl</m>`, `abc&quot;def`},
		{"URL in JSON", `{"password":"abc/def&ghi'jkl"}`, `reply {"url":"x?a=b\u0026p=abc%2fdef\u002526ghi\u0027jkl"}`, `abc%2fdef`},
		{"JSON in a URL", `{"password":"abc/def+ghi/jkl"}`, `GET /x?p=abc%5c/def%5Cu002bghi%5C%2fjkl`, `abc%5c/def`},
		{"small digits after percent", `{"password":"abc/def/ghi/jkl"}`, `GET /x?p=abc%2fdef%2fghi%2fjkl`, `abc%2fdef`},
		{"spaces as %20", `{"password":"abc def/ghi"}`, `GET /x?p=abc%20def%2Fghi`, `abc%20def`},
		{"surrogates, small", `{"password":"abcdef😀ghijkl"}`, `reply {"password":"abcdef\ud83d\ude00ghijkl"}`, `abcdef\ud83d`},
		{"surrogates, capital", `{"password":"abcdef😀ghijkl"}`, `reply {"password":"abcdef\uD83D\uDE00ghijkl"}`, `abcdef\uD83D`},
		{"JSON in JSON", `{"password":"ab\"cd\"efghijk"}`, string(twice), `efghijk`},
		{"URL in a public field", `{"host":"redis://u:s3cretONEs3cret@h:1","username":"u","password":"other-password"}`, "dial redis://u:s3cretONEs3cret@h:1", "s3cretONEs3cret"},
		{"URLs in nodes", `{"nodes":["redis://u:s3cretONEs3cret@h:1"],"password":"other-password"}`, "dial redis://u:s3cretONEs3cret@h:1", "s3cretONEs3cret"},
		{"host with a login", `{"host":"u:s3cretONEs3cret@h","password":"other-password"}`, "dial u:s3cretONEs3cret@h:1", "s3cretONEs3cret"},
		{"URL that is refused", `{"url":"postgres://u:s3cret%2DONEs3cret@h/d?hostaddr=192.0.2.1","password":"other-password"}`, "bad password s3cret-ONEs3cret", "s3cret-ONEs3cret"},
		{"libpq", `host=db user=app password=s3cretONEs3cret dbname=x`, "bad password s3cretONEs3cret", "s3cretONEs3cret"},
		{"libpq, quoted", `host=db password='it\'s s3cret' dbname=x`, "bad password it's s3cret", "it's s3cret"},
		{".NET", `Server=db;User Id=app;Password=s3cret ONE;Database=x`, "bad password s3cret ONE", "s3cret ONE"},
		{"JDBC", `jdbc:postgresql://db/x?user=app&password=s3cretONEs3cret`, "bad password s3cretONEs3cret", "s3cretONEs3cret"},
		{"Go's for MySQL", `app:s3cretONEs3cret@tcp(db:3306)/shop`, "bad password s3cretONEs3cret", "s3cretONEs3cret"},
		{"DSN in a field", `{"url":"app:s3cretONEs3cret@tcp(db:3306)/shop"}`, "bad password s3cretONEs3cret", "s3cretONEs3cret"},
		{"file of settings", "DB_HOST=db\nDB_PASSWORD=s3cretONEs3cret\n", "bad password s3cretONEs3cret", "s3cretONEs3cret"},
		{"field that is there twice", `{"token":"s3cretONEs3cret","token":"s3cretTWOs3cret"}`, "bad key s3cretONEs3cret", "s3cretONEs3cret"},
		{"basic auth, short", `{"username":"app","password":"s3cretX"}`, "Authorization: Basic " + basic("app:s3cretX"), basic("app:s3cretX")},
		{"basic auth, shorter", `{"username":"app","password":"s3c"}`, "Authorization: Basic " + basic("app:s3c"), basic("app:s3c")},
		{"base64 for URLs", `{"password":"s3cretONEs3cret?"}`, base64.URLEncoding.EncodeToString([]byte("s3cretONEs3cret?")), "czNjcmV0T05Fc"},
		{"overlapping, the end", `{"a":"abcdefgh12345678","b":"12345678zyxwvuts"}`, "abcdefgh12345678zyxwvuts", "zyxwvuts"},
		{"overlapping, the beginning", `{"a":"abcdefgh12345678","b":"12345678zyxwvutsrq"}`, "abcdefgh12345678zyxwvutsrq", "abcdefgh"},
	} {
		m := &mask{}
		m.learn(rotators.NewSecret(c.value))
		got := m.hide(c.text + " is what it said")
		if c.secret != "" && strings.Contains(got, c.secret) || !strings.HasSuffix(got, " is what it said") {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

// Users are shown, also where a connection string has them as a parameter.
func TestTheRedactorShowsUsers(t *testing.T) {
	for _, value := range []string{"postgres://h/d?user=app_user&password=s3cretONEs3cret", "host=h user=app_user password=s3cretONEs3cret", `{"url":"jdbc:postgresql://h/d?user=app_user&password=s3cretONEs3cret"}`} {
		m := &mask{}
		m.learn(rotators.NewSecret(value))
		if got := m.hide(`user "app_user"`); got != `user "app_user"` {
			t.Errorf("%s: %s", value, got)
		}
	}
}

// What overlaps a text of another value is no way to guess how that begins.
func TestTheRedactorIsNoOracle(t *testing.T) {
	for _, guess := range []string{"password=s", "password=x"} {
		m := &mask{}
		m.learn(rotators.NewSecret(`{"password":"` + guess + `"}`))
		m.learn(rotators.NewSecret(`{"password":"sesame-and-more"}`))
		if got := m.hide("the password=sesame-and-more."); got != "the password=[redacted]." {
			t.Errorf("with the guess %s: %s", guess, got)
		}
	}
}
