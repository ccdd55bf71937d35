package rotators

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestConnectionStrings reads the forms as their drivers do, and replaces the password in
// them, alone and as a field of an object, with every other byte as it was.
func TestConnectionStrings(t *testing.T) {
	const with = `n w'\/@&é+`
	for _, c := range []struct {
		text                                       string
		engine, host, port, user, password, dbname string
		ssl                                        string
		becomes                                    string // "": the text with the old spelling replaced is refused
	}{
		{"postgres://App:o%6cd@DB.example:5432/sh%6fp?a=%7e", "postgres", "DB.example", "5432", "App", "old", "shop", "", "postgres://App:n%20w%27%5C%2F%40&%C3%A9+@DB.example:5432/sh%6fp?a=%7e"},
		{"postgresql://db/shop?user=app&password=o%6cd&sslmode=disable", "postgresql", "db", "", "app", "old", "shop", "false", "postgresql://db/shop?user=app&password=n%20w%27%5C%2F%40%26%C3%A9%2B&sslmode=disable"},
		{"PostgreSQL+asyncpg://app:old@[::1]/shop\n", "postgresql+asyncpg", "::1", "", "app", "old", "shop", "", "PostgreSQL+asyncpg://app:n%20w%27%5C%2F%40&%C3%A9+@[::1]/shop\n"},
		{"redis://:old@cache:6379/0", "redis", "cache", "6379", "", "old", "0", "", "redis://:n%20w%27%5C%2F%40&%C3%A9+@cache:6379/0"},
		{" jdbc:postgresql://db:5432/shop?user=a%40b&password=o+l/d@#1&ssl=true", "postgresql", "db", "5432", "a@b", "o l/d@#1", "shop", "", " jdbc:postgresql://db:5432/shop?user=a%40b&password=n%20w%27%5C%2F%40%26%C3%A9%2B&ssl=true"},
		{"jdbc:postgresql://db/shop?password=old&user=app&sslmode=disable", "postgresql", "db", "", "app", "old", "shop", "false", "jdbc:postgresql://db/shop?password=n%20w%27%5C%2F%40%26%C3%A9%2B&user=app&sslmode=disable"},
		{"jdbc:mysql://app:o+l%64@db:3306/shop?sslMode=DISABLED", "mysql", "db", "3306", "app", "o ld", "shop", "false", "jdbc:mysql://app:n%20w%27%5C%2F%40%26%C3%A9%2B@db:3306/shop?sslMode=DISABLED"},
		{"jdbc:mysql://db/shop?User=app&PASSWORD=old&useSSL=false", "mysql", "db", "", "app", "old", "shop", "false", "jdbc:mysql://db/shop?User=app&PASSWORD=n%20w%27%5C%2F%40%26%C3%A9%2B&useSSL=false"},
		{"jdbc:mariadb://db/shop?user=app&password=o%6cd", "mariadb", "db", "", "app", "o%6cd", "shop", "", ""},
		{"jdbc:mysql://db/shop?permitMysqlScheme&user=app&password=o%6cd", "mysql", "db", "", "app", "o%6cd", "shop", "", ""},
		{"host=db port=5432 user=app password=old dbname=shop sslmode=require", "postgres", "db", "5432", "app", "old", "shop", "", `host=db port=5432 user=app password='n w\'\\/@&é+' dbname=shop sslmode=require`},
		{` user = 'a\'p'  password='o l\\d'host=db sslmode=disable` + "\n", "postgres", "db", "", "a'p", `o l\d`, "", "false", ` user = 'a\'p'  password='n w\'\\/@&é+'host=db sslmode=disable` + "\n"},
	} {
		for _, place := range []struct {
			name string
			wrap func(string) string
		}{
			{"alone", func(s string) string { return s }},
			{"in a field", func(s string) string {
				b, _ := json.Marshal(s)
				return fmt.Sprintf(`{ "A":1.0, "DATABASE_URL" : %s , "docs":"https://a:b@example.com/" }`, strings.ReplaceAll(string(b), `\u0026`, "&"))
			}},
			{"in a field, with escapes", func(s string) string {
				return `{"DATABASE_URL":"` + strings.ReplaceAll(escapeAll(s), `\u006e\u0020`, "n ") + `"}`
			}},
		} {
			value := NewSecret(place.wrap(c.text))
			for name, want := range map[string]string{"host": c.host, "port": c.port, "username": c.user, "password": c.password, "dbname": c.dbname, "ssl": c.ssl, "engine": c.engine} {
				if name == "ssl" && (strings.Contains(c.text, "ssl=true") || strings.Contains(c.text, "sslmode=require")) {
					want = "true"
				}
				if got, err := value.Field(name); err != nil || got.Reveal() != want {
					t.Errorf("%s, %s: %s is %q (%v), want %q", c.text, place.name, name, got.Reveal(), err, want)
				}
			}
			got, err := value.Replace("password", NewSecret(with))
			if c.becomes == "" {
				if err == nil || !IsPermanent(err) || strings.Contains(err.Error(), with) {
					t.Errorf("%s, %s, becomes %s (%v)", c.text, place.name, got.Reveal(), err)
				}
				got, err = value.Replace("password", NewSecret("New-1._"))
				if want := strings.Replace(value.Reveal(), "o%6cd", "New-1._", 1); place.name != "in a field, with escapes" && (err != nil || got.Reveal() != want) {
					t.Errorf("%s becomes\n%s (%v), want\n%s", value.Reveal(), got.Reveal(), err, want)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s, %s: %v", c.text, place.name, err)
				continue
			}
			if place.name == "alone" && got.Reveal() != c.becomes {
				t.Errorf("%s becomes\n%s, want\n%s", c.text, got.Reveal(), c.becomes)
			}
			if place.name != "alone" {
				var object map[string]any
				if err := json.Unmarshal([]byte(got.Reveal()), &object); err != nil || object["DATABASE_URL"] != c.becomes {
					t.Errorf("%s becomes\n%s (%v)", value.Reveal(), got.Reveal(), err)
				}
				around(t, value.Reveal(), got.Reveal())
			}
		}
	}
}

// TestWhatIsAConnectionString has texts that lack what makes one, and texts that say a thing
// in the less usual way.
func TestWhatIsAConnectionString(t *testing.T) {
	for _, text := range []string{
		"password=x", "host=db user=app", "host=db\npassword=x", "hots=db password=x", "hots password=x", "PGHOST=db password=x", "",
	} {
		if v, err := parseConnection(text); !errors.Is(err, errNoConnection) || len(v.fields) > 0 {
			t.Errorf("%q is read as %+v (%v)", text, v.fields, err)
		}
	}
	for _, c := range []struct{ text, field, want, problem string }{
		{"jdbc:postgresql://db/shop?user=a&password=b&PORT=5433", "port", "5433", ""},
		{"jdbc:postgresql://db:1/shop?user=a&password=b&Port=5433", "port", "", "twice"},
		{"jdbc:postgresql://db/shop?user=a&password=b&dbName=x", "dbname", "", "twice"},
		{"jdbc:postgresql://db/shop?user=a&password=b&Host=x", "host", "", "twice"},
		// The driver trims before it undoes escapes, so a space that is escaped is a part.
		{"jdbc:mysql://db/shop?user=a& password = %20b%20 &x=y", "password", " b ", ""},
		{"jdbc:mysql://a:%20b @db/shop", "password", " b", ""},
		{"jdbc:mariadb://db/shop?user=a& password = b", "password", "b", ""},
	} {
		got, err := NewSecret(c.text).Field(c.field)
		if got.Reveal() != c.want || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: %s is %q (%v), want %q", c.text, c.field, got.Reveal(), err, c.want)
		}
	}
	for text, want := range map[string]string{"": "''", "a": "a", "a b": "'a b'", `a'\`: `'a\'\\'`, "a\nb": "'a\nb'"} {
		if got, err := spellKeyword(false)(text); err != nil || got != want {
			t.Errorf("%q is spelled %s (%v), want %s", text, got, err, want)
		}
	}
	for text, ok := range map[string]bool{"a%20b": true, "a&b": false, "a b": false, "a\tb": false, "a\nb": false, "a\rb": false} {
		if _, err := spellMariaDB(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// escapeAll spells every character by an escape.
func escapeAll(s string) string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

// around checks that two texts differ in one place only, which is not the whole.
func around(t *testing.T, was, is string) {
	t.Helper()
	before := 0
	for before < min(len(was), len(is)) && was[before] == is[before] {
		before++
	}
	after := 0
	for after < min(len(was), len(is))-before && was[len(was)-1-after] == is[len(is)-1-after] {
		after++
	}
	if changed := len(was) - before - after; changed > 80 {
		t.Errorf("%q becomes %q: %d bytes changed", was, is, changed)
	}
}

// TestConnectionBesideItsCredential has user and password in fields of their own, as Spring
// has them, and the host in a connection string.
func TestConnectionBesideItsCredential(t *testing.T) {
	value := NewSecret(`{"spring.datasource.url":"jdbc:postgresql:\/\/db:5433/shop?sslmode=disable","username":"app","password":"old-password"}`)
	for name, want := range map[string]string{"engine": "postgresql", "host": "db", "port": "5433", "dbname": "shop", "ssl": "false", "username": "app", "password": "old-password"} {
		if got, err := value.Field(name); err != nil || got.Reveal() != want {
			t.Errorf("%s is %q (%v), want %q", name, got.Reveal(), err, want)
		}
	}
	got, err := value.Replace("password", NewSecret("new"))
	if want := strings.Replace(value.Reveal(), "old-password", "new", 1); err != nil || got.Reveal() != want {
		t.Errorf("becomes %s (%v)", got.Reveal(), err)
	}
	got, err = value.Replace("username", NewSecret("app_clone"))
	if want := strings.Replace(value.Reveal(), `"app"`, `"app_clone"`, 1); err != nil || got.Reveal() != want {
		t.Errorf("becomes %s (%v)", got.Reveal(), err)
	}
	// A host of the object's own decides, as it always has.
	value = NewSecret(`{"host":"a","url":"jdbc:postgresql://b/shop?sslmode=disable","username":"app","password":"old-password"}`)
	for name, want := range map[string]string{"host": "a", "ssl": "", "engine": "", "dbname": ""} {
		if got, err := value.Field(name); err != nil || got.Reveal() != want {
			t.Errorf("%s is %q (%v), want %q", name, got.Reveal(), err, want)
		}
	}
}

// TestTLSOfConnections has what the driver of each form takes for going without TLS, and
// what sounds like that and is none. What says TLS twice is refused by the names of what says it.
func TestTLSOfConnections(t *testing.T) {
	const pg, my, maria = "jdbc:postgresql://h/d?user=u&password=hunter2&", "jdbc:mysql://h/d?user=u&password=hunter2&", "jdbc:mariadb://h/d?user=u&password=hunter2&"
	for _, c := range []struct {
		text, ssl string
		mention   []string // of the error, in place of ssl
	}{
		{text: "postgres://u:hunter2@h/d?sslmode=disable", ssl: "false"},
		{text: "postgres://u:hunter2@h/d?sslm%6fde=disable", ssl: "false"},
		{text: "postgres://u:hunter2@h/d?sslmode=prefer", ssl: "true"},
		{text: "postgres://u:hunter2@h/d?ssl=false"},
		{text: "postgres://u:hunter2@h/d?ssl=false&sslmode=disable", ssl: "false"},
		{text: "postgres://u:hunter2@h/d?ssl=false&sslmode=verify-full", mention: []string{"parameter ssl", "parameter sslmode"}},
		{text: "postgres://u:hunter2@h/d?ssl=true&sslmode=disable", mention: []string{"parameter ssl", "parameter sslmode"}},
		{text: "postgres://u:hunter2@h/d?sslmode=disable&sslmode=verify-full", mention: []string{"sslmode twice"}},
		{text: "postgres://u:hunter2@h/d?sslmode=disable&sslm%6fde=verify-full", mention: []string{"sslmode twice"}},
		{text: "postgres://u:hunter2@h/d?sslmode=disable&sslmode=disable", mention: []string{"sslmode twice"}},
		{text: "postgres://u:hunter2@h/d?sslmode=disable&sslmode", mention: []string{"sslmode twice"}},
		{text: "host=h user=u password=hunter2 sslmode=disable", ssl: "false"},
		{text: "host=h user=u password=hunter2 sslmode=disable sslmode=verify-full", mention: []string{"sslmode twice"}},
		{text: "host=h user=u password=hunter2 sslmode=disable sslmode=''", mention: []string{"sslmode twice"}},
		{text: "host=h user=u password=hunter2 sslmode=disable requiressl=1", mention: []string{"requiressl"}},
		{text: pg + "sslmode=DISABLE", ssl: "false"},
		{text: pg + "sslmode=disabled", ssl: "true"}, // the driver does not connect by it
		{text: pg + "SSLMODE=disable"}, // the driver does not read it
		{text: pg + "ssl=false"},
		{text: pg + "ssl", ssl: "true"},
		{text: pg + "ssl=false&sslmode=verify-full", mention: []string{"parameter ssl", "parameter sslmode"}},
		{text: pg + "sslmode=disable&sslmode=verify-full", mention: []string{"sslmode twice"}},
		{text: my + "sslMode=DISABLED", ssl: "false"},
		{text: my + "sslMode=disable", ssl: "true"}, // the driver does not connect by it
		{text: my + "sslMode=false", ssl: "true"},
		{text: my + "useSSL=no", ssl: "false"},
		{text: my + "useSSL=false&requireSSL=false&verifyServerCertificate=false", ssl: "false"},
		{text: my + "useSSL=true&requireSSL=false", ssl: "true"},
		{text: my + "ssl=false"},
		{text: my + "ssl=false&sslMode=VERIFY_IDENTITY", ssl: "true"},
		{text: my + "useSSL=false&sslMode=VERIFY_IDENTITY", mention: []string{"usessl", "sslmode"}},
		{text: my + "useSSL=false&requireSSL=true", mention: []string{"usessl", "requiressl"}},
		{text: my + "sslMode=DISABLED&SSLMODE=REQUIRED", mention: []string{"sslmode twice"}},
		{text: maria + "sslMode=disable", ssl: "false"},
		{text: maria + "sslMode=0", ssl: "false"},
		{text: maria + "useSSL=false", ssl: "false"},
		{text: maria + "useSSL=true&sslMode=disable", mention: []string{"usessl", "sslmode"}},
		{text: maria + "useSSL&sslMode=disable", mention: []string{"usessl", "sslmode"}},
		{text: maria + "useSSL=false&sslMode=verify-full", mention: []string{"usessl", "sslmode"}},
		{text: "mysql://u:hunter2@h/d?sslmode=disable", ssl: "false"},
		{text: "mysql://u:hunter2@h/d?ssl=false"},
		{text: "mysql://u:hunter2@h/d?ssl-mode=REQUIRED&sslmode=disable", mention: []string{"ssl-mode", "parameter sslmode"}},
		{text: "redis://u:hunter2@h/0?ssl=false"},
		{text: "redis://u:hunter2@h/0?sslmode=disable", ssl: "false"},
		{text: "redis://u:hunter2@h/0?tls=true&sslmode=disable", mention: []string{"parameter tls", "parameter sslmode"}},
		{text: "rediss://u:hunter2@h/0", ssl: "true"},
		{text: "rediss://u:hunter2@h/0?ssl=false", mention: []string{"scheme rediss", "parameter ssl"}},
		{text: "rediss+x://u:hunter2@h/0?sslmode=disable", mention: []string{"scheme rediss", "parameter sslmode"}},
		{text: "Rediss://u:hunter2@h/0?sslmode=disable", mention: []string{"scheme rediss", "parameter sslmode"}},
		// In an object, which may say it too.
		{text: `{"url":"jdbc:postgresql://h/d?ssl=false&sslmode=verify-full","username":"u","password":"hunter2"}`, mention: []string{`"url"`, "parameter ssl", "parameter sslmode"}},
		{text: `{"url":"jdbc:postgresql://h/d?sslmode=verify-full","username":"u","password":"hunter2","ssl":false}`, mention: []string{`"url"`, `"ssl"`}},
		{text: `{"url":"postgres://u:hunter2@h/d?sslmode=verify-full","ssl":"False"}`, mention: []string{`"url"`, `"ssl"`}},
		{text: `{"url":"rediss://u:hunter2@h/0","ssl":false}`, mention: []string{`"url"`, `"ssl"`}},
		{text: `{"url":"postgres://u:hunter2@h/d?sslmode=disable","ssl":true}`, mention: []string{`"url"`, `"ssl"`}},
		{text: `{"url":"postgres://u:hunter2@h/d?sslmode=disable","ssl":"False"}`, ssl: "False"},
		{text: `{"url":"postgres://u:hunter2@h/d?sslmode=require","ssl":"prefer"}`, ssl: "prefer"},
	} {
		got, err := NewSecret(c.text).Field("ssl")
		if c.mention == nil {
			if err != nil || got.Reveal() != c.ssl {
				t.Errorf("%s: ssl is %q (%v), want %q", c.text, got.Reveal(), err, c.ssl)
			}
			continue
		}
		checkRefused(t, c.text, err, c.mention...)
	}
}

// checkRefused checks that a text is refused by the names of some of its parameters, and
// that the error holds nothing that one of them says.
func checkRefused(t *testing.T, text string, err error, mention ...string) {
	t.Helper()
	if err == nil || !IsPermanent(err) {
		t.Errorf("%s: %v", text, err)
		return
	}
	for _, what := range mention {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("%s: the error lacks %q: %v", text, what, err)
		}
	}
	for _, piece := range []string{"hunter2", "verify", "VERIFY", "REQUIRED", "elsewhere"} {
		if strings.Contains(err.Error(), piece) {
			t.Errorf("%s: the error holds %q: %v", text, piece, err)
		}
	}
}

// TestConnectionsThatLeadElsewhere has parameters by which a driver connects to another
// place than the host of the text, or as somebody else.
func TestConnectionsThatLeadElsewhere(t *testing.T) {
	for _, c := range []struct{ text, mention string }{
		{"host=h hostaddr=elsewhere user=u password=hunter2", "hostaddr"},
		{"host=h service=elsewhere user=u password=hunter2", "service"},
		{"host=h servicefile=elsewhere user=u password=hunter2", "servicefile"},
		{"host=h host='' user=u password=hunter2", "host twice"},
		{"host='' host=elsewhere user=u password=hunter2", "host twice"},
		{"host=h port=1 port='' user=u password=hunter2", "port twice"},
		{"host=h dbname=d database=elsewhere user=u password=hunter2", "dbname twice"},
		{"host=h user=u user='' password=hunter2", "username twice"},
		{"host=h user=u password=hunter2 password=''", "password twice"},
		{"postgres://u:hunter2@h/d?hostaddr=elsewhere", "hostaddr"},
		{"postgres://u:hunter2@h/d?host%61ddr=elsewhere", "hostaddr"},
		{"postgres://u:hunter2@h/d?service=elsewhere", "service"},
		{"postgres://u:hunter2@h/d?host=", "host twice"},
		{"postgres://u:hunter2@h/d?host", "host twice"},
		{"postgres://u:hunter2@h/d?h%6fst=elsewhere", "host twice"},
		{"postgres://u:hunter2@h:1/d?port=2", "port twice"},
		{"postgres://u:hunter2@h/d?database=elsewhere", "dbname twice"},
		{"postgres://u:hunter2@h/d?user=elsewhere", "username twice"},
		{"postgres://u:hunter2@h/d?a=b#&hostaddr=elsewhere", "has a #"}, // libpq knows no #
		{"postgres://u:hunter2@h/d#?hostaddr=elsewhere", "has a #"},
		{"postgres://h/d?user=u&password=hunter2#1", "has a #"},
		{"postgres://h/d?password=hunter2&user=u#1", "has a #"},
		{"postgres://u:hunter2@h/d#1", "has a #"},
		{"redis://u:hunter2@h/0#a=1", "has a #"},
		{"postgres://u:hunter2@h/d?application_name=my app", "has a space"}, // node-postgres leaves escapes then
		{"postgres://u:hunter2@h/d?dsn=hostaddr%3Delsewhere", "the parameter dsn"},
		{"postgres://u:hunter2@h/d?conninfo=hostaddr%3Delsewhere", "the parameter conninfo"},
		{"mysql://u:hunter2@h/d?passwordSha1=1234", "the parameter passwordSha1"},
		{"postgres://u:hunter2@h/d?ho\tst=elsewhere", "a tab"}, // node-postgres sees host
		{"postgres://u:hunter2@h/d?username=elsewhere", "username twice"},
		{"postgresql+pg8000://u:hunter2@h/d?unix_sock=elsewhere", "unix_sock"},
		{"mysql://u:hunter2@h/d?unix_socket=elsewhere", "unix_socket"},
		{"mysql://u:hunter2@h/d?socketPath=elsewhere", "socketPath"},
		{"mysql+pymysql://u:hunter2@h/d?read_default_file=elsewhere", "read_default_file"},
		{"mysql://u:hunter2@h/d?host=elsewhere", "host twice"},
		{"redis://u:hunter2@h/0?path=elsewhere", "path"},
		{"rediss://u:hunter2@h/0?host=elsewhere", "host twice"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&PGHOST=elsewhere", "PGHOST"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&PGPORT=1", "PGPORT"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&PGDBNAME=elsewhere", "PGDBNAME"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&PGHOST", "PGHOST"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&Host=elsewhere", "host twice"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&password", "password twice"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&service=elsewhere", "service"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&socketFactory=elsewhere", "socketFactory"},
		{"jdbc:postgresql://h/d?user=u&password=hunter2&authenticationPluginClassName=elsewhere", "authenticationPluginClassName"},
		{"jdbc:mysql://u:hunter2@h/d?dbname=elsewhere", "dbname twice"},
		{"jdbc:mysql://u:hunter2@h/d?user=", "username twice"},
		{"jdbc:mysql://u:hunter2@h/d?dnsSrv=true", "dnssrv"},
		{"jdbc:mysql://u:hunter2@h/d?socksProxyHost=elsewhere", "socksproxyhost"},
		{"jdbc:mysql://u:hunter2@h/d?socket%46actory=elsewhere", "socketfactory"},
		{"jdbc:mariadb://h/d?user=u&password=hunter2&localSocket=elsewhere", "localsocket"},
		{"jdbc:mariadb://h/d?user=u&password=hunter2&credentialType=elsewhere", "credentialtype"},
		{"jdbc:mariadb://h/d?user=u&password=hunter2&DATABASE=elsewhere", "dbname twice"},
		{`{"url":"jdbc:postgresql://h/d?PGHOST=elsewhere","username":"u","password":"hunter2"}`, "PGHOST"},
		{`{"a":"jdbc:postgresql://h/d?PGHOST=elsewhere","b":"jdbc:postgresql://h/d","username":"u","password":"hunter2"}`, "PGHOST"},
	} {
		_, err := NewSecret(c.text).Field("host")
		checkRefused(t, c.text, err, c.mention)
	}
	// A parameter has no say by the mere name of a field, and one alone may say the place.
	for _, c := range []struct{ text, field, want string }{
		{"postgres://u:p@h/d?nodes=x&masterarn=x&engine=x&dbInstanceIdentifier=x", "nodes", ""},
		{"postgres://u:p@h/d?masterarn=x", "masterarn", ""},
		{"postgres://u:p@h/d?dbInstanceIdentifier=x", "dbInstanceIdentifier", ""},
		{"postgres://u:p@h/d?engine=mysql", "engine", "postgres"},
		{"jdbc:postgresql://h/d?user=u&password=p&username=x", "username", "u"},
		{"jdbc:mariadb://h/d?user=u&password=p&host=x", "host", "h"},
		{"postgres:///d?host=h&user=u&password=p", "host", "h"},
		{"jdbc:mysql:///?host=h&user=u&password=p&dbname=d", "dbname", "d"},
		{"jdbc:mariadb://h?user=u&password=p&database=d", "dbname", "d"},
		{"redis://h?username=u&password=p", "username", "u"},
		{"redis://u:p@h/0?db=2", "host", "h"},
		{"https://u:p@h/?path=x&service=y", "path", "x"},
	} {
		if got, err := NewSecret(c.text).Field(c.field); err != nil || got.Reveal() != c.want {
			t.Errorf("%s: %s is %q (%v), want %q", c.text, c.field, got.Reveal(), err, c.want)
		}
	}
}

// TestConnectionRefused has texts that drivers or readers understand differently, or that
// hold a password where it would be taken for a host: nothing of them is used, and no
// error holds a piece of them.
func TestConnectionRefused(t *testing.T) {
	for _, c := range []struct{ value, mention string }{
		{"postgresql://leak:Sommer@2024Zq81kLmNp2/x9@localhost:5432/postgres", "%40 %2F"},
		{"postgres://leak:Sommer@2024Zq81kLmNp2@localhost/d", "%40 %2F"},
		{"postgres://leak:Sommer/2024Zq81kLmNp2@localhost/d", "%40 %2F"},
		{"postgres://leak:Sommer?2024Zq81kLmNp2@localhost/d", "%40 %2F"},
		{"postgres://leak:Sommer#2024Zq81kLmNp2@localhost/d", "%40 %2F"},
		{"postgres://leak:Som%mer2024Zq81kLmNp2@localhost/d", "%25"},
		{"postgres://leak:Somm%cer2024Zq81kLmNp2@localhost/d", "%25"},
		{"postgres://localhost/d?user=leak&password=Sommer+2024Zq81kLmNp2", "%2B"},
		{"postgres://leak:a@localhost/d?user=Sommer&password=2024Zq81kLmNp2", "twice"},
		{"jdbc:postgresql://leak:Sommer2024Zq81kLmNp2@localhost/d", "write user and password as parameters"},
		{"jdbc:mysql://leak:Sommer/2024Zq81kLmNp2@localhost/d", "%40 %2F"},
		{"jdbc:mysql://leak:Sommer@2024Zq81kLmNp2@localhost/d", "%40 %2F"},
		{"jdbc:mysql://localhost/d?user=leak&password=Sommer#2024Zq81kLmNp2", "%23"},
		{"jdbc:mysql://leak:Sommer2024Zq81kLmNp2@localhost/d?permitMysqlScheme", "write user and password as parameters"},
		{"jdbc:mysql://leak:Sommer@localhost/d?password=2024Zq81kLmNp2", "twice"},
		{"jdbc:mysql://localhost/d?user=leak&password=Sommer&Password=2024Zq81kLmNp2", "twice"},
		{"jdbc:sqlserver://localhost;user=leak;password=Sommer2024Zq81kLmNp2", "of a kind that rekey does not read"},
		{"jdbc:postgresql://localhost/Sommer2024Zq81kLmNp2?user=leak", "without a password"},
		{"host=db user=leak password='Sommer2024Zq81kLmNp2", "does not end"},
		{"host=db user=leak password=Sommer password=2024Zq81kLmNp2", "twice"},
		{`{"A":"postgres://leak:Sommer2024Zq81kLmNp2@h/d","B":"redis://:Sommer2024Zq81kLmNp2@h/d"}`, `"A" and "B"`},
		{`{"A":"postgres://leak:Sommer@2024Zq81kLmNp2/x9@localhost:5432/postgres"}`, `"A"`},
		{"\ufeff{\"password\":\"Sommer2024Zq81kLmNp2\"}", "byte order mark"},
		{`"{\"password\":\"Sommer2024Zq81kLmNp2\"}"`, "encoded once too often"},
		{"eyJwYXNzd29yZCI6IlNvbW1lcjIwMjRacTgxa0xtTnAyIn0=", "base64"},
		{"DB_HOST=db\nDB_PASSWORD=Sommer2024Zq81kLmNp2\n", "several lines"},
		{"Host=db;Username=leak;Password=Sommer2024Zq81kLmNp2", "name=value"},
		{"leak:Sommer2024Zq81kLmNp2@tcp(db:3306)/shop", "does not read"},
	} {
		for _, name := range []string{"password", "username"} {
			_, err := NewSecret(c.value).Replace(name, NewSecret("new"))
			if strings.Contains(c.mention, "twice") && name == "username" {
				continue // that the password stands there twice
			}
			if err == nil || !IsPermanent(err) || !strings.Contains(err.Error(), c.mention) {
				t.Errorf("%s: %v", c.value, err)
				continue
			}
			for _, piece := range []string{"Som", "2024", "Zq8", "leak", "x9"} {
				if strings.Contains(err.Error(), piece) {
					t.Errorf("%s: the error holds %q: %v", c.value, piece, err)
				}
			}
		}
	}
	for _, c := range []struct{ value, field, mention string }{
		{`{"url":"postgres://app:old-password@a/d","host":"b"}`, "host", `"host" and "url" of the value do not say the same`},
		{`{"url":"postgres://app:old-password@a/d","username":"app"}`, "username", `also stands in the field "url"`},
		{`{"url":"postgres://app:old-password@a/d","PGPASSWORD":"old-password"}`, "password", `"PGPASSWORD"`},
		{`{"url":"postgres://app:old-password@a/d?x=old-password"}`, "password", `"x"`},
		{`{"password":"old-password","host":"h","dsn":"host=db user=app password=old-password"}`, "password", `"dsn"`},
		{`{"url":"postgres://app:old-password@a/d"}`, "host", "only the user and the password"},
	} {
		if got, err := NewSecret(c.value).Replace(c.field, NewSecret("new")); err == nil || !strings.Contains(err.Error(), c.mention) || strings.Contains(err.Error(), "old-password") {
			t.Errorf("%s becomes %s (%v)", c.value, got.Reveal(), err)
		}
	}
	// What no credential stands in stops nothing.
	for _, value := range []string{
		`{"apiKey":"k","A":"postgres://u:p@h/d","B":"redis://:p@h/d"}`, `{"apiKey":"k","A":"postgres://u:p@x/y@h/d"}`,
	} {
		if got, err := NewSecret(value).Field("apiKey"); err != nil || got.Reveal() != "k" {
			t.Errorf("%s: %q, %v", value, got.Reveal(), err)
		}
		if got, err := NewSecret(value).Field("apiKeyId"); err != nil || !got.IsZero() {
			t.Errorf("%s: %q, %v", value, got.Reveal(), err)
		}
	}
}

// FuzzConnection replaces the password of connection strings, alone and in an object: what
// is replaced is what the driver reads, and every other byte stays. For libpq's strings the
// judge is pgx, which reads them as libpq does.
func FuzzConnection(f *testing.F) {
	for _, text := range []string{
		"postgres://a:b@h:1/d?x=y", "postgresql://h/d?user=a&password=b", "jdbc:postgresql://h:1/d?user=a&password=b%20",
		"jdbc:mysql://a:b@h/d?x=y", "jdbc:mysql://h/d?user=a&password=b", "jdbc:mariadb://h/d?user=a&password=%b",
		"host=h user=a password=b", `host = 'h' password='b\'\\' user=a`,
	} {
		f.Add(text, `n'w \x/@&`)
		f.Add(text, "new")
	}
	f.Fuzz(func(t *testing.T, text, with string) {
		v, err := parseConnection(text)
		if err != nil || with == "" || !v.has("password") || strings.Contains(text+with, "\x00") {
			return // nothing that connects can have a NUL in a password
		}
		old, err := v.field("password")
		if err != nil {
			return
		}
		after, err := NewSecret(text).Replace("password", NewSecret(with))
		if err != nil {
			return
		}
		got := after.Reveal()
		if !strings.HasPrefix(got, text[:old.start]) || !strings.HasSuffix(got, text[old.end:]) {
			t.Fatalf("%q becomes %q: bytes around the password changed", text, got)
		}
		again, err := parseConnection(got)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", text, got, err)
		}
		if len(again.fields) != len(v.fields) {
			t.Fatalf("%q becomes %q: it has other fields", text, got)
		}
		for i, f := range again.fields {
			want := v.fields[i].text
			if f.name == "password" {
				want = with
			}
			if f.text != want {
				t.Fatalf("%q becomes %q: the field %q is %q, want %q", text, got, f.name, f.text, want)
			}
		}
		if engine, _ := v.field("engine"); engine.text == "postgres" && !strings.Contains(text, "://") && !slices.ContainsFunc(v.fields, func(f field) bool {
			return strings.HasPrefix(f.name, "ssl") || f.name == "service" || f.name == "servicefile" || f.name == "port"
		}) {
			if was, err := pgconn.ParseConfig(text); err == nil {
				is, err := pgconn.ParseConfig(got)
				if err != nil || is.Password != with || was.Password != old.text || is.Host != was.Host || is.User != was.User {
					t.Fatalf("%q becomes %q, which pgx reads otherwise (%v)", text, got, err)
				}
			}
		}
		if scheme, _, ok := strings.Cut(strings.TrimSpace(text), "://"); ok && !strings.HasPrefix(scheme, "jdbc:") {
			if was, err := url.Parse(strings.TrimSpace(text)); err == nil && was.User != nil {
				is, err := url.Parse(strings.TrimSpace(got))
				if err != nil || is.Host != was.Host || is.User.Username() != was.User.Username() {
					t.Fatalf("%q becomes %q, which net/url reads otherwise (%v)", text, got, err)
				}
			}
		}
		object := `{"n":1.0,"url":` + quoteJSON(text) + `}`
		var spelled string
		if json.Unmarshal([]byte(quoteJSON(text)), &spelled); spelled != text {
			return // it is no UTF-8
		}
		inObject, err := NewSecret(object).Replace("password", NewSecret(with))
		if err != nil {
			return
		}
		var members map[string]any
		if err := json.Unmarshal([]byte(inObject.Reveal()), &members); err != nil || members["url"] != strings.ToValidUTF8(got, "\ufffd") && members["url"] != got {
			t.Fatalf("%q becomes %q (%v), want the url %q", object, inObject.Reveal(), err, got)
		}
	})
}
