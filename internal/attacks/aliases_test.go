package attacks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// aliased answers for AWS where the previous version was stored under another key, named by an
// alias, which the function may not use any more.
type aliased struct {
	id    *string
	alias string
}

func (k aliased) RoundTrip(r *http.Request) (*http.Response, error) {
	target := r.Header.Get("X-Amz-Target")
	if r.Body == nil || *k.id == "" {
		return http.DefaultTransport.RoundTrip(r)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := func(status int, text string) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
	}
	if strings.HasSuffix(target, ".GetSecretValue") && bytes.Contains(body, []byte(`"`+*k.id+`"`)) {
		return answer(400, `{"__type":"AccessDeniedException","Message":"Access to KMS is not allowed"}`)
	}
	if strings.HasSuffix(target, ".DescribeKey") {
		return answer(400, `{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::000000000000:assumed-role/rekey/rekey is not authorized to perform: kms:DescribeKey"}`)
	}
	out, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !strings.HasSuffix(target, ".ListSecretVersionIds") {
		return out, err
	}
	var list map[string]any
	if err := json.NewDecoder(out.Body).Decode(&list); err != nil {
		return nil, err
	}
	for _, v := range list["Versions"].([]any) {
		if v := v.(map[string]any); v["VersionId"] == *k.id {
			v["KmsKeyIds"] = []string{k.alias}
		}
	}
	text, _ := json.Marshal(list)
	return answer(200, string(text))
}

// The key of the previous version is named by an alias, which its owner chose.
func TestGuessesInTheAliasOfAnOldKey(t *testing.T) {
	const right = "tr0ub4dor-3"
	d := bankPostgres
	for _, with := range []bool{false, true} {
		w := newWorld(t)
		var all []string
		for i := range 20 {
			all = append(all, fmt.Sprintf("guess-n%03d", i))
		}
		if with {
			all[10] = right
		}
		previous := ""
		w.install(w.config(aliased{&previous, "arn:aws:kms:us-east-1:000000000000:alias/" + strings.Join(all, "_")}), shared())
		admin := w.newSecret("dba/person", d.value(account{"dba_person", right}))
		me := account{fmt.Sprintf("me_%d", serial.Add(1)), "my-Own-password-1"}
		w.check(d.create(t.Context(), me.user, me.password))
		arn := w.newSecret("mine", d.value(account{me.user, "an-older-password"}), "rekey:strategy", "single-user", "rekey:admin", admin)
		previous, _ = w.current(arn)
		w.put(arn, d.value(account{me.user, "wrong-2"}))
		if err := w.rotate(arn); err == nil || strings.Contains(w.lastError(), "[redacted]") {
			t.Errorf("with the right guess %v: %.900s", with, w.lastError())
		}
	}
}
