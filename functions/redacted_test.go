package functions_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
)

// babbler is a rotator that says whatever it is told to.
type babbler struct {
	says   string
	panics bool
}

func (b babbler) Create(context.Context, rotators.Rotation) (rotators.Secret, error) {
	if b.panics {
		panic(b.says)
	}
	return rotators.Secret{}, fmt.Errorf("the server said: %w", errors.New(b.says))
}
func (b babbler) Set(context.Context, rotators.Rotation) error  { return nil }
func (b babbler) Test(context.Context, rotators.Rotation) error { return nil }

// spelled are the forms of a text that programs write, each made by other code than the
// redactor's.
func spelled(text string) []string {
	escape := func(how string) string { // each character that is no letter or digit
		var b strings.Builder
		for _, c := range []byte(text) {
			if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_' || c == '.' || c == '~' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, how, c)
			}
		}
		return b.String()
	}
	quoted, _ := json.Marshal(text)
	twice, _ := json.Marshal(string(quoted))
	forms := []string{
		text, string(quoted), string(twice), strings.ReplaceAll(text, "/", `\/`), fmt.Sprintf("%q", text), escape("%%%02x"), escape("%%%02X"),
		url.QueryEscape(text), url.PathEscape(text), hex.EncodeToString([]byte(text)), fmt.Sprintf("%X", text),
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		forms = append(forms, encoding.EncodeToString([]byte(text)), encoding.EncodeToString([]byte("app:"+text)))
	}
	for _, how := range []string{`\u%04x`, `\u%04X`} {
		for _, c := range "<>&+/" {
			forms = append(forms, strings.ReplaceAll(text, string(c), fmt.Sprintf(how, c)))
		}
	}
	return forms
}

// What a function logs, its metrics among that, and the error that Lambda logs hold no
// form of any known value.
func TestNoFormOfAValueLeavesAFunction(t *testing.T) {
	for _, c := range []struct {
		value  string
		known  []string
		public string
	}{
		{`{"engine":"babbler","host":"db.example.com","username":"app","password":"pa+ss/w<o>r&d-One"}`, []string{"pa+ss/w<o>r&d-One"}, "db.example.com"},
		{`{"engine":"babbler","username":"app","password":"x","pin":918273645501,"codes":[55667788,"an-array-value"],"more":{"token":"nested/token+x"}}`, []string{"918273645501", "55667788", "an-array-value", "nested/token+x"}, "app"},
		{`{"engine":"babbler","username":"app","password":"s3cretX"}`, []string{"s3cretX"}, "app"},
		{`{"engine":"babbler","username":"app","password":"x","dsn":"app:s3cret+DSN/pw@tcp(db:3306)/shop","pq":"host=db password='a b/c+d' user=app"}`, []string{"s3cret+DSN/pw", "a b/c+d"}, "app"},
		{`{"engine":"babbler","host":"redis://u:in/a+host-1@h:1","username":"app","password":"x"}`, []string{"in/a+host-1"}, "app"},
		{"plain-text/with+more\n", []string{"plain-text/with+more"}, "app"},
		{`["an/array+alone","of-texts-22"]`, []string{"an/array+alone", "of-texts-22"}, "app"},
	} {
		cloud := localaws.New(localaws.Config{})
		t.Cleanup(cloud.Close)
		server := httptest.NewServer(cloud)
		t.Cleanup(server.Close)
		s := &setup{t: t, cloud: cloud, endpoint: server.URL}
		cfg := s.config(http.DefaultTransport)
		out, err := secretsmanager.NewFromConfig(cfg).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
			Name: aws.String("app"), SecretString: &c.value, Tags: []smtypes.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("babbler")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := cloud.Reserve(*out.ARN, token); err != nil {
			t.Fatal(err)
		}
		for _, known := range c.known {
			for _, form := range spelled(known) {
				for _, panics := range []bool{false, true} {
					said, err := invoked(t, cfg, *out.ARN, babbler{c.public + " says " + form + " at the end", panics})
					if err == nil || !strings.Contains(err.Error(), "at the end") || !strings.Contains(said, "_aws") {
						t.Fatalf("%v: %s", err, said)
					}
					escaped, _ := json.Marshal(form)
					for where, text := range map[string]string{"log": said, "error": fmt.Sprintf("%v %+v %q", err, err, err)} {
						for _, leak := range []string{form, strings.Trim(string(escaped), `"`), known} {
							if strings.Contains(text, leak) {
								t.Errorf("%q stands in the %s: %s", leak, where, text)
							}
						}
					}
				}
			}
		}
	}
}

// invoked has the function take createSecret, and returns what it logs and its error.
func invoked(t *testing.T, cfg aws.Config, id string, b babbler) (log string, err error) {
	t.Helper()
	stdout, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	real := os.Stdout
	os.Stdout = stdout
	_, err = functions.SecretRotator(cfg, rotators.Registry{"babbler": b}).Invoke(t.Context(), fmt.Appendf(nil, `{"Step":"createSecret","SecretId":%q,"ClientRequestToken":%q}`, id, token))
	os.Stdout = real
	text, readErr := os.ReadFile(stdout.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), err
}
