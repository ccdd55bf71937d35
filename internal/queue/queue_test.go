package queue

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/rotators"
)

const account = "arn:aws:ssm:us-east-1:111122223333:parameter/"

// messages are all kinds that are sent.
func messages() []Message {
	long := "/" + strings.Repeat("a", 1010-len(account))
	return []Message{
		{Parameter: paramstore.Parameter{ARN: account + "shop/db", Name: "/shop/db", Base: 7}},
		{Parameter: paramstore.Parameter{ARN: account + "db", Name: "db", Base: 1 << 62}, Nonce: "0123456789abcdef0123456789abcdef"},
		{Parameter: paramstore.Parameter{ARN: account + "db", Name: "/db", Base: 1}, Until: time.Now()},
		{Parameter: paramstore.Parameter{ARN: account + "db", Name: "/db", Base: 1}, Until: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))},
		{Parameter: paramstore.Parameter{ARN: account + long[1:], Name: long, Base: 1}, Until: time.Now().UTC()},
		{Retire: &Retirement{ARN: account + "shop/db", Name: "/shop/db", Version: "3"}},
		{Retire: &Retirement{ARN: "arn:aws:secretsmanager:us-east-1:111122223333:secret:shop/db-AbCdEf", Version: "11111111-1111-4111-8111-111111111111"}},
	}
}

func TestWhatIsSentIsTaken(t *testing.T) {
	for _, m := range messages() {
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(string(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if again, err := json.Marshal(got); err != nil || string(again) != string(body) {
			t.Errorf("%s became %s (%v)", body, again, err)
		}
		here := arn.ARN{Partition: "aws", Service: "lambda", Region: "us-east-1", AccountID: "111122223333", Resource: "function:f"}
		if err := got.Check(here, got.group()); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if err := got.Check(arn.ARN{}, ""); err != nil {
			t.Errorf("%s, of which nothing is known: %v", body, err)
		}
		for change, edit := range map[string]func(*arn.ARN){
			"another partition": func(a *arn.ARN) { a.Partition = "aws-cn" },
			"another region":    func(a *arn.ARN) { a.Region = "us-east-2" },
			"another account":   func(a *arn.ARN) { a.AccountID = "111122223334" },
		} {
			there := here
			edit(&there)
			if err := got.Check(there, got.group()); err == nil || !rotators.IsPermanent(err) {
				t.Errorf("%s, to a function of %s: %v", body, change, err)
			}
		}
		if err := got.Check(here, got.group()+"x"); err == nil || !rotators.IsPermanent(err) {
			t.Errorf("%s, in another group: %v", body, err)
		}
	}
}

// Whatever comes in, reading it does not panic; what is taken has one spelling, names one
// parameter or secret, and no error is longer than what it is about.
func FuzzDecode(f *testing.F) {
	for _, m := range messages() {
		body, _ := json.Marshal(m)
		f.Add(string(body))
		f.Add(strings.ToUpper(string(body)))
		f.Add(string(body) + "\xff")
	}
	for _, body := range []string{
		"", "null", "{}", "[]", `{"parameter":null}`, `{"retire":{}}`, `{"retire":null}`,
		`{"parameter":{"arn":"` + account + `a","name":"a","base":1,"base":2}}`,
		`{"parameter":{"arn":"` + account + `a","name":"a` + "\xff" + `","base":1}}`,
		`{"parameter":{"arn":"` + account + `a:1","name":"/a:1","base":1}}`,
		`{"parameter":{"arn":"` + account + `a\n","name":"a\n","base":1}}`,
		`{"retire":{"arn":"x:secretsmanager:secret:","version":"1"},"nonce":"n"}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		m, err := Decode(body)
		if err != nil {
			if !rotators.IsPermanent(err) || len(err.Error()) > 6*maxBody {
				t.Errorf("%q: an error of %d bytes, permanent: %t", body, len(err.Error()), rotators.IsPermanent(err))
			}
			return
		}
		if again, err := json.Marshal(m); err != nil || string(again) != body {
			t.Errorf("%q is taken for %q (%v)", body, again, err)
		}
		id, name := m.Parameter.ARN, m.Parameter.Name
		if m.Retire != nil {
			id, name = m.Retire.ARN, m.Retire.Name
		}
		parsed, err := arn.Parse(id)
		if err != nil {
			t.Errorf("%q has no ARN: %v", body, err)
		}
		if name != "" && (!paramstore.IsName(name) || parsed.Resource != "parameter/"+strings.TrimPrefix(name, "/")) || name == "" && parsed.Service != "secretsmanager" {
			t.Errorf("%q: the name %q is not that in %s", body, name, fmt.Sprint(parsed))
		}
	})
}
