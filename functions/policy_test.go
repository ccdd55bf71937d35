package functions_test

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/inventory"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/policies"
)

// Every function here calls AWS with an access key of its own, named as the function
// is, and may do what template.yaml allows that function. Tests call with another key,
// "local", and may do everything. At the end of the suite, checkPolicies holds what was
// asked for against the template.

// resources are the functions' logical names in template.yaml, by access key.
var resources = map[string]string{
	"secret-rotator": "SecretRotator", "parameter-planner": "ParameterPlanner", "parameter-rotator": "ParameterRotator",
}

// ledger has all that the functions asked for.
var ledger policies.Ledger

// ours is localaws's account.
const ours = "000000000000"

// templateValues are the template's parameters in tests: the admins that they have.
func templateValues(function, account string) map[string]string {
	secret, parameter := "arn:aws:secretsmanager:us-east-1:"+account+":secret:", "arn:aws:ssm:us-east-1:"+account+":parameter/"
	admins := []string{
		secret + "admin*", secret + "rds!*", secret + "bare*", secret + "plain*", secret + "disguised*", secret + "whole*", secret + "missing", secret + "for-*",
		parameter + "admin", parameter + "root", parameter + "missing", parameter + "open", parameter + "for-*",
	}
	switch function {
	case "ParameterRotator":
		for _, field := range []string{"engine", "host", "port", "username", "dbname", "ssl", "masterarn", "dbInstanceIdentifier", "dbClusterIdentifier", "nodes"} {
			admins = append(admins, parameter+"shop/db/"+field) // siblings
		}
	case "SecretRotator":
		admins = append(admins, parameter+"rekey/pending/*") // more than anybody should allow
	}
	return map[string]string{
		"AWS::AccountId": account,
		"AdminArns":      strings.Join(admins, ","),
		"AdminRoleArns":  "arn:aws:iam::" + account + ":role/key-admin",
		"RoleName":       "rotator",
	}
}

// loadRole is a function's role in an account.
func loadRole(function, account string, more map[string]string) (*policies.Role, error) {
	values := templateValues(function, account)
	maps.Copy(values, more)
	template, err := policies.Load("../template.yaml", values)
	if err != nil {
		return nil, err
	}
	return template.Role(function)
}

// roles are those of loadRole, by all that makes them differ.
var roles sync.Map

// policed decides what the functions may do in an account. more are parameters of
// the template.
func policed(t *testing.T, account string, more ...string) func(string, []localaws.Access) *localaws.Denial {
	t.Helper()
	values := map[string]string{}
	for i := 0; i < len(more); i += 2 {
		values[more[i]] = more[i+1]
	}
	all := map[string]*policies.Role{}
	for key, function := range resources {
		load, _ := roles.LoadOrStore(fmt.Sprint(function, account, more), sync.OnceValues(func() (*policies.Role, error) {
			return loadRole(function, account, values)
		}))
		role, err := load.(func() (*policies.Role, error))()
		if err != nil {
			t.Fatal(err)
		}
		all[key] = role
	}
	return func(key string, needs []localaws.Access) (denial *localaws.Denial) {
		role, ok := all[key]
		if !ok {
			return nil
		}
		for _, a := range needs {
			d := ledger.Decide(role, policies.Access{Action: a.Action, Resource: a.Resource, Context: a.Context, Granted: a.Granted})
			if !d.Allowed && denial == nil {
				denial = &localaws.Denial{Access: a, Explicit: d.Denied}
			}
		}
		return denial
	}
}

// as is how a function calls AWS.
func (s *setup) as(function string, transport http.RoundTripper) aws.Config {
	cfg := s.config(transport)
	cfg.Credentials = credentials.NewStaticCredentialsProvider(function, "secret", "")
	return cfg
}

// checkPolicies tells whether the template allows what the functions need and no more,
// once all tests have run: false if they have not, or some permission is missing or
// unused. It also takes each permission away, and adds one to each statement, to see
// that it would notice.
func checkPolicies() (ok bool) {
	ok = true
	for _, name := range []string{"run", "skip", "list", "fuzz"} {
		if flag.Lookup("test."+name).Value.String() != "" {
			return true // not all tests have run
		}
	}
	fail := func(format string, args ...any) {
		fmt.Printf("policies: "+format+"\n", args...)
		ok = false
	}
	permissions, added, refused := 0, 0, 0
	for _, function := range slices.Sorted(maps.Values(resources)) {
		role, err := loadRole(function, ours, nil)
		if err != nil {
			fail("%v", err)
			continue
		}
		permissions += len(role.Permissions())
		for _, p := range ledger.Unused(role) {
			fail("%s: nothing needs %s in %s", function, p.Action, p.Sid)
		}
		for _, p := range ledger.Idle(role) {
			fail("%s: without %s in %s nothing changes", function, p.Action, p.Sid)
		}
		const more = "kms:ScheduleKeyDeletion" // which no function may
		for _, s := range role.Statements {
			added++
			want := policies.Permission{Sid: s.Sid, Action: more}
			if unused := ledger.Unused(role.With(s.Sid, more)); !slices.Contains(unused, want) {
				fail("%s: that %s was added to %s would go unnoticed", function, more, s.Sid)
			}
			if idle := ledger.Idle(role.With(s.Sid, more)); !slices.Contains(idle, want) {
				fail("%s: that %s was added to %s would go unnoticed", function, more, s.Sid)
			}
		}
		for _, e := range ledger.Entries(function) {
			if e.Allowed || e.Denied {
				continue
			}
			refused++
			// What is not there, or has lost its tag, is refused as it should be.
			if _, tagged := e.Context["aws:ResourceTag/rekey:rotator"]; tagged || !strings.HasPrefix(e.Action, "ssm:") {
				fail("%s needs %s on %s, which no statement allows (%v)", function, e.Action, e.Resource, e.Context)
			}
		}
	}
	fmt.Printf("policies: of %d requests for a permission %d different ones were refused for want of a tag; each of the %d permissions of the three functions is used, and something changes without it: %t; one too many in any of the %d statements would be noticed\n",
		ledger.Asked(), refused, permissions, ok, added)
	return ok
}

// What the planner learns of parameters of which some are denied: for want of a tag,
// because they are gone, or because an ARN does not tell of the slash in a name.
func TestLookUnderThePolicy(t *testing.T) {
	cloud := localaws.New(localaws.Config{Authorize: policed(t, ours)})
	t.Cleanup(cloud.Close)
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	client := ssm.NewFromConfig((&setup{endpoint: server.URL}).as("parameter-planner", http.DefaultTransport))
	tags := map[string]string{"rekey:rotator": "postgres"}
	var all []*inventory.Parameter
	for name, tags := range map[string]map[string]string{"/in/a/path": tags, "/slash": tags, "none": tags, "/lost/its/tag": nil, "/gone": nil} {
		if name != "/gone" {
			cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: "x", Tags: tags})
		}
		arn, guess := strings.TrimPrefix(name, "/"), name
		if !strings.Contains(arn, "/") {
			guess = arn
		}
		all = append(all, &inventory.Parameter{ARN: "arn:aws:ssm:us-east-1:" + ours + ":parameter/" + arn, Name: guess})
	}
	if err := inventory.Look(t.Context(), client, all); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		var version int64 = 1
		problem := ""
		switch p.Name {
		case "/lost/its/tag":
			version, problem = 0, "it may not be read"
		case "gone":
			version = 0
		case "/in/a/path", "/slash", "none":
		default:
			t.Errorf("there is no %s", p.Name)
		}
		if p.Version != version || (p.Problem == nil) != (problem == "") || p.Problem != nil && !strings.Contains(p.Problem.Error(), problem) {
			t.Errorf("%s: version %d, %v", p.Name, p.Version, p.Problem)
		}
	}
}
