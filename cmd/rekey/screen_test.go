package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/internal/hostile"
)

// fit fails the test if a terminal would obey something in what was printed.
func fit(t *testing.T, printed string) {
	t.Helper()
	for _, c := range printed {
		if !unicode.IsPrint(c) && c != '\n' && c != '\t' {
			t.Errorf("%q in what is printed: %.300q", c, printed)
			return
		}
	}
}

// A database that cannot be logged in to says why, in 64 KB that a terminal would obey.
// So long a text is not shown.
func (a *account) watchHostile(t *testing.T) {
	for _, c := range hostile.Postgres() {
		if c.Name != "at the greeting: an error for terminals" {
			continue
		}
		s := hostile.Listen(t, c, nil)
		_, err := secretsmanager.NewFromConfig(a.config).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
			Name: aws.String("shop/hostile"), SecretString: aws.String(fmt.Sprintf(`{"engine":"postgres","host":"localhost","port":%d,"username":"app","password":"hunter2hunter2","ssl":false}`, s.Port)),
		})
		if err != nil {
			t.Fatal(err)
		}
		status, stdout, stderr := rekey(t.Context(), "", "watch", "shop/hostile")
		if status != failed || !strings.Contains(stderr, `which are too many to be shown)`) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("exit status %d, %q", status, stderr)
		}
		fit(t, stdout+stderr)
		return
	}
	t.Error("there is no such server")
}

// What a function logs, answers and fails with is printed as it is, but for what a
// terminal obeys.
func TestTerminalsAreNotDriven(t *testing.T) {
	const nasty = "a\tb\nc\x1b]0;PWNED\x07\x7f\u009b2J\r\u202e\xff"
	const shown = "a\tb\nc\\x1b]0;PWNED\\a\\x7f\\u009b2J\\r\\u202e\\xff"
	var out, raw bytes.Buffer
	c := &call{command: &command{name: "test"}, stdout: &screen{&out}, stderr: &screen{&out}}
	c.fail(errors.New(nasty))
	c.misuse("%s", nasty)
	fmt.Fprint(c.stdout, nasty)
	if got := strings.Count(out.String(), shown); got != 3 {
		t.Errorf("shown %d times in %q", got, out.String())
	}
	fit(t, out.String())

	// The terminal's own lines are moved to all the same.
	p := newProgress(&screen{&raw})
	p.terminal = true
	p.part("looking", 2)(1)
	if !strings.HasPrefix(raw.String(), "\r") {
		t.Errorf("%q", raw.String())
	}

	text, _ := json.Marshal("\u009b2J\x7f")
	for _, does := range []string{"echo", "print"} {
		status, stdout, stderr := rekey(t.Context(), fmt.Sprintf(`{"do":%q,"text":%s}`, does, text), "invoke", "--functions", build, "secret-rotator", "-")
		if fit(t, stdout+stderr); status != succeeded || !strings.Contains(stdout+stderr, `\u009b2J\x7f`) {
			t.Errorf("exit status %d, %s%s", status, stdout, stderr)
		}
	}
}
