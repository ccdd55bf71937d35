package attacks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// TestGuessesInOnesOwnValue has the owner of a secret write guesses of an admin's password
// into the fields of the secret that errors show. No error tells which guess is right.
func TestGuessesInOnesOwnValue(t *testing.T) {
	w := newWorld(t)
	const right = "tr0ub4dor-3"
	admin := w.newSecret("dba/person", bankPostgres.value(account{"dba_person", right}))
	guesses := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("guess-n%04d", i))
		}
		all[n/2] = right
		return strings.Join(all, ".")
	}
	shown := 0
	for i, c := range []struct {
		field string
		n     int
	}{{"host", 600}, {"host", 20}, {"username", 600}, {"username", 5}, {"dbname", 600}, {"nodes", 20}, {"masterarn", 20}, {"engine", 20}} {
		var value map[string]any
		if err := json.Unmarshal([]byte(bankPostgres.value(account{"me", "my-Own-password-1"})), &value); err != nil {
			t.Fatal(err)
		}
		value[c.field] = guesses(c.n)
		arn := w.newSecret(fmt.Sprintf("mine/%d", i), toJSON(value), "rekey:admin", admin)
		if err := w.rotate(arn); err == nil {
			t.Fatalf("%s: the rotation did not fail", c.field)
		}
		text := w.lastError()
		if strings.Contains(text, right) {
			shown++
		}
		if strings.Contains(text, "[redacted]") {
			t.Errorf("%d guesses in %s: the error tells which one is right: %.600s", c.n, c.field, text)
		}
	}
	// Errors show the list of nodes in a spelling that the owner did not choose.
	for name, nodes := range map[string]any{"a list": strings.Split(guesses(40), "."), "a text": strings.ReplaceAll(guesses(40), ".", ", ")} {
		var value map[string]any
		if err := json.Unmarshal([]byte(bankRedis.value(account{"me", "my-Own-password-1"})), &value); err != nil {
			t.Fatal(err)
		}
		value["nodes"] = nodes
		arn := w.newSecret("mine/nodes/"+strings.ReplaceAll(name, " ", ""), toJSON(value), "rekey:admin", w.newSecret("dba/redis/"+strings.ReplaceAll(name, " ", ""), bankRedis.value(account{"dba_person", right})), "rekey:strategy", "single-user")
		if err := w.rotate(arn); err == nil || strings.Contains(w.lastError(), "[redacted]") {
			t.Errorf("guesses in nodes as %s: %.600s", name, w.lastError())
		}
	}
	if shown == 0 {
		t.Error("no error shows what the owner wrote, so this proves nothing")
	}
}

// Errors also show pieces of connection strings, decoded on the way, names of members, and
// what else than the value the owner wrote.
func TestGuessesInAConnectionStringAndInNames(t *testing.T) {
	right := "tr0ub4dor-3"
	spell := func(guess string) string { return guess }
	guesses := func(n int, with bool, between string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("g-%03d%04d", i, i))
		}
		if with {
			all[n/2] = right
		}
		for i := range all {
			all[i] = spell(all[i])
		}
		return strings.Join(all, between)
	}
	// rotate rotates a new secret, and returns the error.
	type rotate func(w *world, with bool) string
	inHost := func(value string, n int) rotate {
		return func(w *world, with bool) string {
			admin := w.newSecret("dba/person", bankPostgres.value(account{"dba_person", right}))
			arn := w.newSecret("mine", fmt.Sprintf(value, guesses(n, with, ".")), "rekey:admin", admin, "rekey:rotator", "postgres")
			if w.rotate(arn) == nil {
				t.Fatalf("%s: the rotation did not fail", value)
			}
			return w.lastError()
		}
	}
	// begun is a secret within a grace, whose current version is the value that ends so.
	begun := func(w *world, d *database, strategy, end string, tags ...string) string {
		admin := w.newSecret("dba/person", d.value(account{"dba_person", right}, "port", 1)) // of any other server
		me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
		w.check(d.create(t.Context(), me.user, me.password))
		arn := w.newSecret("mine", d.value(account{me.user, "an-older-password"}), append(tags, "rekey:admin", admin, "rekey:strategy", strategy, "rekey:grace", "1d")...)
		older, _ := w.current(arn)
		w.put(arn, strings.TrimSuffix(d.value(me), "}")+strings.ReplaceAll(end, "PASSWORD", me.password))
		w.tag(arn, "rekey:retire", older)
		return arn
	}
	inName := func(d *database, strategy string) rotate {
		return func(w *world, with bool) string {
			if w.rotate(begun(w, d, strategy, `,"`+guesses(600, with, ";")+`":"PASSWORD"}`)) == nil {
				t.Fatalf("%s: the rotation did not fail", d.engine)
			}
			return w.lastError()
		}
	}
	inDatabase := func(format, between string) rotate {
		return func(w *world, with bool) string {
			admin := w.newSecret("dba/person", bankPostgres.value(account{"dba_person", right}))
			me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
			w.check(bankPostgres.create(t.Context(), me.user, me.password))
			value := strings.NewReplacer("USER", me.user, "PASSWORD", me.password, "HOST", bankPostgres.host, "PORT", fmt.Sprint(bankPostgres.port), "GUESSES", guesses(600, with, between)).Replace(format)
			if w.rotate(w.newSecret("mine", value, "rekey:rotator", "postgres", "rekey:strategy", "single-user", "rekey:admin", admin)) == nil {
				t.Fatal("the rotation did not fail")
			}
			return w.lastError()
		}
	}
	for name, rotate := range map[string]rotate{
		"host in a URL":                inHost(`{"DATABASE_URL":"postgres://me:my-Own-password-1@%s:5432/bank"}`, 20),
		"host in a URL of JDBC":        inHost(`{"url":"jdbc:postgresql://%s:5432/bank?user=me&password=my-Own-password-1"}`, 20),
		"host beside the password":     inHost(`{"url":"jdbc:postgresql://%s:5432/bank","username":"me","password":"my-Own-password-1"}`, 20),
		"host in libpq's text":         inHost(`{"url":"host=%s user=me password=my-Own-password-1 dbname=x"}`, 20),
		"database in a URL":            inDatabase(`{"DATABASE_URL":"postgres://USER:PASSWORD@HOST:PORT/GUESSES"}`, "%20"),
		"name of a member, MariaDB":    inName(bankMariaDB, "overlap"),
		"name of a member, PostgreSQL": inName(bankPostgres, "alternating-users"),
		"AllowedPattern": func(w *world, with bool) string {
			d := bankMariaDB
			admin := w.newSecret("dba/person", d.value(account{"dba_person", right}, "port", 1))
			me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
			w.check(d.create(t.Context(), me.user, me.password))
			w.cloud.AddParameter(localaws.Parameter{Name: "/mine/p", Type: "SecureString", Value: d.value(account{me.user, "an-older-password"}), Tags: map[string]string{
				"rekey:every": "30d", "rekey:rotator": "mariadb", "rekey:strategy": "overlap", "rekey:admin": admin, "rekey:grace": "1d", "rekey:retire": "1 2099-01-01T00:00:00Z"},
				Changed: time.Now().AddDate(0, 0, -50)})
			w.putParameter("/mine/p", d.value(me))
			w.check(w.cloud.EditParameter("/mine/p", func(p *localaws.Parameter) { p.AllowedPattern = ".*password-1.*|" + guesses(80, with, "|") }))
			w.tick()
			return w.lastError()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, with := range []bool{false, true} {
				if text := rotate(newWorld(t), with); strings.Contains(text, "[redacted]") || !strings.Contains(text, "g-000") {
					t.Errorf("with the right guess %v: %.600s", with, text)
				}
			}
		})
	}

	// What reads the value may decode otherwise than what looks through the error.
	for name, c := range map[string]struct {
		right  string
		spell  func(guess string) string
		rotate rotate
	}{
		"+ for a space": {"correct horse 7", func(g string) string { return strings.ReplaceAll(g, " ", "+") }, inName(bankMariaDB, "overlap")},
		"+ for a space, JDBC": {"correct horse 7", func(g string) string { return strings.ReplaceAll(g, " ", "+") },
			inDatabase("jdbc:postgresql://HOST:PORT/GUESSES?user=USER&password=PASSWORD", ";")},
		"quotes doubled":       {"it's-me-4me", func(g string) string { return strings.ReplaceAll(g, "'", "''") }, inName(bankMariaDB, "overlap")},
		"half a surrogate":     {"tr0ub4dor-3", func(g string) string { return fmt.Sprintf(`\ud800\u%04x%s`, g[0], g[1:]) }, inName(bankMariaDB, "overlap")},
		"backslashes of libpq": {"tr0ub4dor-3", func(g string) string { return `\` + strings.Join(strings.Split(g, ""), `\`) }, inDatabase("host=HOST port=PORT user=USER password=PASSWORD dbname=GUESSES", ";")},
	} {
		t.Run(name, func(t *testing.T) {
			right, spell = c.right, c.spell
			without := strings.Contains(c.rotate(newWorld(t), false), "[redacted]")
			if text := c.rotate(newWorld(t), true); strings.Contains(text, "[redacted]") != without {
				t.Errorf("%.600s", text)
			}
		})
	}
}

// answering answers some of the function's calls for AWS: what says what to answer to an operation,
// and what to make of AWS's own answer; "" for that itself.
type answering func(operation, body, answer string) string

func (what answering) RoundTrip(r *http.Request) (*http.Response, error) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	out, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(out.Body)
	if err != nil {
		return nil, err
	}
	if text := what(operation, string(body), string(answer)); text != "" {
		answer = []byte(text)
		out.StatusCode = map[bool]int{true: http.StatusBadRequest, false: http.StatusOK}[strings.Contains(text, "AccessDeniedException")]
		out.Header.Del("Content-Length")
		out.ContentLength = int64(len(answer))
	}
	out.Body = io.NopCloser(bytes.NewReader(answer))
	return out, nil
}

var keysOfVersions = regexp.MustCompile(`"KmsKeyIds":\[[^]]*\]`)

// denied is how AWS refuses an operation.
func denied(message string) string {
	return fmt.Sprintf(`{"__type":"AccessDeniedException","Message":%q}`, message)
}

// An owner chooses the ids of versions and the names of keys, and which of them the function may use.
func TestGuessesInTheNamesOfOldVersionsAndKeys(t *testing.T) {
	const right = "tr0ub4d0r"
	d := bankPostgres
	for _, guess := range []string{"guess-003", right} {
		for name, c := range map[string]struct {
			id       *string // of the old version
			previous bool    // whether that is the previous version, or one without a label
			what     func(id string) answering
		}{
			"an old version's id": {aws.String("guess-001.guess-002." + guess + ".guess-004.guess-005.guess-006"), false, func(id string) answering {
				return func(operation, body, _ string) string {
					if operation == "GetSecretValue" && strings.Contains(body, `"`+id+`"`) {
						return denied("User: arn:aws:sts::000000000000:assumed-role/rekey/rekey is not authorized to perform: secretsmanager:GetSecretValue with an explicit deny in a resource-based policy")
					}
					return ""
				}
			}},
			"the alias of an old key": {nil, true, func(id string) answering {
				return func(operation, body, answer string) string {
					switch {
					case operation == "GetSecretValue" && strings.Contains(body, `"`+id+`"`):
						return denied("Access to KMS is not allowed")
					case operation == "DescribeKey":
						return denied("User: arn:aws:sts::000000000000:assumed-role/rekey/rekey is not authorized to perform: kms:DescribeKey")
					case operation == "ListSecretVersionIds":
						alias := "arn:aws:kms:us-east-1:000000000000:alias/guess-001_guess-002_" + guess + "_guess-004"
						return keysOfVersions.ReplaceAllString(answer, `"KmsKeyIds":["`+alias+`"]`)
					}
					return ""
				}
			}},
		} {
			w := newWorld(t)
			admin := w.newSecret("dba/person", d.value(account{"dba_person", right}))
			me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
			w.check(d.create(t.Context(), me.user, me.password))
			arn := w.newSecret("mine", d.value(account{me.user, "an-older-password"}), "rekey:strategy", "single-user", "rekey:admin", admin)
			_, err := w.secrets.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, SecretString: aws.String(d.value(account{me.user, "wrong-0"})), ClientRequestToken: c.id})
			w.check(err)
			id, _ := w.current(arn)
			w.put(arn, d.value(account{me.user, "wrong-1"}))
			if !c.previous {
				w.put(arn, d.value(account{me.user, "wrong-2"}))
			}
			w.install(w.config(c.what(id)), shared())
			if err := w.rotate(arn); err == nil || strings.Contains(w.lastError(), "[redacted]") || !strings.Contains(w.lastError(), "reading one of its versions") {
				t.Errorf("%s with %s: %.600s", name, guess, w.lastError())
			}
		}
	}
}
