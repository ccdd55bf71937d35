package attacks

import (
	"fmt"
	"strings"
	"testing"
)

// Where libpq connects to another place than the host that a value names, or by TLS where
// a first sslmode says none, nothing is changed, and rekey logs in nowhere.
func TestWhatLibpqReadsOtherwiseIsRefused(t *testing.T) {
	const evil = "hostaddr=" + realAddress
	for _, c := range []struct {
		name, value, parameter string
	}{
		{"hostaddr", "host=%[1]s " + evil + " port=%[2]d user=%[3]s password=%[4]s dbname=postgres sslmode=disable", "hostaddr"},
		{"hostaddr in a URL", "postgres://%[3]s:%[4]s@%[1]s:%[2]d/postgres?" + evil + "&sslmode=disable", "hostaddr"},
		{"a second host", "host=%[1]s port=%[2]d user=%[3]s password=%[4]s dbname=postgres sslmode=disable host=" + realAddress, "host twice"},
		{"two sslmodes", "host=" + bankAddress + " port=%[2]d user=%[3]s password=%[4]s dbname=postgres sslmode=disable sslmode=require", "sslmode twice"},
		{"two sslmodes in a URL", "postgres://%[3]s:%[4]s@" + bankAddress + ":%[2]d/postgres?sslmode=disable&sslmode=require", "sslmode twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			me := account{fmt.Sprintf("app_%d", serial.Add(1)), "Old-Password-1"}
			w.check(bankPostgres.create(t.Context(), me.user, me.password))
			w.check(bankPostgres.evil.create(t.Context(), me.user, me.password))
			value := fmt.Sprintf(c.value, bankPostgres.host, bankPostgres.port, me.user, me.password)
			arn := w.newSecret("shop/"+me.user, value, "rekey:rotator", "postgres")
			from := len(bankPostgres.heard())
			if err := w.rotate(arn); err == nil || !strings.Contains(w.lastError(), c.parameter) || strings.Contains(w.lastError(), realAddress) {
				t.Errorf("the rotation: %v; %s", err, w.lastError())
			}
			if heard := bankPostgres.heard()[from:]; strings.Contains(heard, "user="+me.user) {
				t.Errorf("rekey logged in: %s", heard)
			}
			if !bankPostgres.accepts(t, me.user, me.password) || !bankPostgres.evil.accepts(t, me.user, me.password) {
				t.Error("the application is locked out")
			}
		})
	}
}

// pgjdbc heeds sslmode, and ssl only without it: with both rekey makes no login without TLS.
func TestAParameterNamedSSLTakesNoTLSAway(t *testing.T) {
	for _, query := range []string{"ssl=false&sslmode=verify-full", "ssl=false"} {
		w := newWorld(t)
		me := account{fmt.Sprintf("app_%d", serial.Add(1)), "Old-Password-1"}
		w.check(bankPostgres.create(t.Context(), me.user, me.password))
		arn := w.newSecret("shop/"+me.user, fmt.Sprintf("jdbc:postgresql://%s:%d/postgres?user=%s&password=%s&%s", bankPostgres.host, bankPostgres.port, me.user, me.password, query), "rekey:rotator", "postgres")
		from := len(bankPostgres.heard())
		if err := w.rotate(arn); (err == nil) != (query == "ssl=false") {
			t.Errorf("%s: the rotation: %v", query, err)
		}
		for line := range strings.Lines(bankPostgres.heard()[from:]) {
			if strings.Contains(line, "connection authorized: user="+me.user) && !strings.Contains(line, "SSL enabled") {
				t.Errorf("%s: a login without TLS: %s", query, line)
			}
		}
	}
}
