package functions_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/rotators"
)

// builds are the functions as they ship, each compiled once.
var builds sync.Map // by name: a func() (string, error)

func bootstrap(name string) (string, error) {
	build, _ := builds.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		dir, err := filepath.Abs("../build/test/" + name)
		if err != nil {
			return "", err
		}
		file := filepath.Join(dir, "bootstrap")
		build := exec.Command("go", "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags=-s -w", "-o", file, "./"+name)
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return file, nil
	}))
	return build.(func() (string, error))()
}

// function runs the shipped binary, in an account, against an endpoint, and
// nothing else tells it where it is.
func function(t *testing.T, endpoint, account string, log io.Writer) *locallambda.Function {
	t.Helper()
	file, err := bootstrap("secret-rotator")
	if err != nil {
		t.Fatal(err)
	}
	f := locallambda.New(locallambda.Config{
		Name: "secret-rotator", Bootstrap: file, Account: account, Log: log,
		Env: []string{"AWS_ENDPOINT_URL=" + endpoint, "AWS_ACCESS_KEY_ID=secret-rotator", "AWS_SECRET_ACCESS_KEY=test"},
	})
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestTheShippedBinaryRotates(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	var log bytes.Buffer
	f := function(t, s.endpoint, "", &log)
	for _, step := range steps {
		if _, err := f.Invoke(t.Context(), s.event(step)); err != nil {
			_ = f.Close() // the log is whole when the process is gone
			t.Fatalf("%s: %v\n%s", step, err, log.String())
		}
	}
	if err := s.converged(t.Context()); err != nil {
		t.Error(err)
	}
	if stats := f.Stats(); stats.Starts != 1 || stats.Invocations != 4 {
		t.Errorf("%d processes for %d invocations", stats.Starts, stats.Invocations)
	}
}

// A failed step of the shipped binary is a StepError: alarms hang on that name.
func TestTheShippedBinarysErrorType(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	tag(t, s, "rekey:rotator", "oracle")
	f := function(t, s.endpoint, "", nil)
	_, err := f.Invoke(t.Context(), s.event("createSecret"))
	var failed *locallambda.FunctionError
	if !errors.As(err, &failed) || failed.Type != "StepError" || !strings.Contains(failed.Message, "aurora-mysql, aurora-postgresql, generated, iam-key, mariadb, mysql, postgres, postgresql, redis, valkey") {
		t.Errorf("got %v", err)
	}
	_, err = f.Invoke(t.Context(), []byte(`{}`))
	if !errors.As(err, &failed) || failed.Type != "EventError" {
		t.Errorf("got %v", err)
	}
}

// Passwords of unusual bytes, through a rotation that works and through ones
// that fail: none comes out of the process or stands in the server's log, as it
// is or escaped.
func TestNothingLeaksFromTheShippedBinary(t *testing.T) {
	for _, password := range []string{
		`it's "quoted" back\slash\'x`, `100%s %d  $HOME ${x} $(id)`, "pässwörd-Ω-世界-😀", "tab\tand\nnewline+/=?#<&>{}",
	} {
		for name, form := range map[string]func(user, password string) string{
			"a rotation that works": asJSON,
			"a refused password":    func(user, password string) string { return asJSON(user, password+"-wrong") },
			"an unknown engine": func(user, password string) string {
				return strings.Replace(asJSON(user, password), `"postgres"`, `"oracle"`, 1)
			},
			"damaged JSON": func(user, password string) string { return strings.TrimSuffix(asJSON(user, password), "}") },
			"a second place": func(user, password string) string {
				return strings.Replace(asJSON(user, password), `"note"`, `"copy":`+quoted(password)+`,"note"`, 1)
			},
			"no TLS there": func(user, password string) string {
				return strings.Replace(asJSON(user, password), `"ssl":false`, `"ssl":true`, 1)
			},
			"a closed port": func(user, password string) string {
				return strings.Replace(asJSON(user, password), fmt.Sprint(database.Port), "1", 1)
			},
			"plain text": func(_, password string) string { return password },
		} {
			s := newSetup(t, password, form)
			logged := len(database.Log())
			var out, said bytes.Buffer
			f := function(t, s.endpoint, "", &out)
			var err error
			for _, step := range steps {
				var response []byte
				response, err = f.Invoke(t.Context(), s.event(step))
				fmt.Fprintf(&said, "%s\n%v\n%#v\n", response, err, err)
				if err != nil {
					break
				}
			}
			if (err == nil) != (name == "a rotation that works") {
				t.Fatalf("%q, %s: %v", password, name, err)
			}
			_ = f.Close()
			seen := out.String() + said.String() + database.Log()[logged:]
			values, err := s.versions(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			secrets := []string{password, password + "-wrong"}
			for _, value := range values {
				if p, err := rotators.NewSecret(value).Field("password"); err == nil {
					secrets = append(secrets, p.Reveal())
				}
			}
			for _, secret := range secrets {
				for spelling, text := range spellings(secret) {
					if strings.Contains(seen, text) {
						t.Errorf("%s: %q comes out, as %s", name, secret, spelling)
					}
				}
			}
			if name == "a rotation that works" && !strings.Contains(seen, "SCRAM-SHA-256$4096:") {
				t.Error("the server's log shows no verifier, so this test looks in the wrong place")
			}
		}
	}
}

func quoted(s string) string { b, _ := json.Marshal(s); return string(b) }

// spellings are the ways in which a text may come out.
func spellings(s string) map[string]string {
	strip := func(q string) string { return q[1 : len(q)-1] }
	return map[string]string{
		"it is": s, "Go": strip(strconv.Quote(s)), "ASCII": strip(strconv.QuoteToASCII(s)), "JSON": strip(quoted(s)), "JSON in JSON": strip(quoted(strip(quoted(s)))),
		"query": url.QueryEscape(s), "path": url.PathEscape(s), "userinfo": strings.TrimPrefix(url.UserPassword("", s).String(), ":"),
		"SQL": strings.ReplaceAll(s, "'", "''"), "base64": base64.RawStdEncoding.EncodeToString([]byte(s)), "base64url": base64.RawURLEncoding.EncodeToString([]byte(s)),
		"hex": hex.EncodeToString([]byte(s)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(s))),
	}
}
