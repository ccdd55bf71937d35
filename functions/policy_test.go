package functions_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/inventory"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/policies"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/iamkey"
)

// Every function here calls AWS with an access key of its own, named as the function
// is, and may do what template.yaml allows that function. Tests call with another key,
// "local", and may do everything. At the end of the suite, checkPolicies holds what was
// asked for against the template.

// resources are the functions' logical names in template.yaml, by access key.
var resources = map[string]string{
	"secret-rotator": "SecretRotator", "parameter-planner": "ParameterPlanner", "parameter-rotator": "ParameterRotator",
}

// byServices are the statements for what AWS's services do in the name of a function's
// role and not the function itself: Lambda writes its log, puts it into a VPC and polls
// the queue, and a database lets its admin log in.
var byServices = []string{"WriteItsLog", "BeInTheVpc", "TakeOrders", "DecryptOrders", "EncryptOrders", "LogInAsAdmins"}

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
		"RoleAccounts":   ours,
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
		for _, p := range role.Permissions() {
			if !slices.Contains(byServices, p.Sid) {
				permissions++
			}
		}
		for _, p := range ledger.Unused(role) {
			if slices.Contains(byServices, p.Sid) {
				continue
			}
			fail("%s: nothing needs %s in %s", function, p.Action, p.Sid)
		}
		for _, p := range ledger.Idle(role) {
			if slices.Contains(byServices, p.Sid) {
				continue
			}
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
	if ok {
		fmt.Printf("policies: %d requests for a permission, of which %d different ones were refused for want of a tag; each of the %d permissions of the three functions is used, and without any one of them something changes; one too many in any of the %d statements would be noticed\n",
			ledger.Asked(), refused, permissions, added)
	}
	return ok
}

// No action is a wildcard, and a statement that allows something is about everything
// only if AWS knows no resources of its actions.
func TestWildcards(t *testing.T) {
	for _, function := range resources {
		role, err := loadRole(function, ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range role.Statements {
			for _, action := range s.Actions {
				if strings.ContainsAny(action, "*?") {
					t.Errorf("%s, %s: the action %s", function, s.Sid, action)
				}
				if slices.Contains(s.Resources, "*") && action != "tag:GetResources" && action != "ssm:DescribeParameters" {
					t.Errorf("%s, %s: %s of everything", function, s.Sid, action)
				}
			}
		}
	}
}

// customerKey makes a KMS key of the account's own, and returns its ARN.
func customerKey(t *testing.T, person aws.CredentialsProvider, endpoint string) string {
	t.Helper()
	client := kms.New(kms.Options{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: person})
	out, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

// A pending value is the password of tomorrow: nobody but the worker gets it, whatever
// AdminArns says and under the key that AWS manages too, and the planner gets no value.
func TestPendingValuesAreTheWorkersAlone(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	store := paramstore.New(p.ssm, p.Parameter, rate.NewLimiter(rate.Inf, 0))
	a, err := store.Load(t.Context(), p.Parameter.ARN, p.Parameter.Token())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.PutPending(t.Context(), a, rotators.NewSecret(p.first)); err != nil {
		t.Fatal(err)
	}
	record := p.Parameter.Record()
	read := func(name string, decrypt bool) func(*ssm.Client) error {
		return func(c *ssm.Client) error {
			_, err := c.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name, WithDecryption: &decrypt})
			return err
		}
	}
	readTen := func(name string, decrypt bool) func(*ssm.Client) error {
		return func(c *ssm.Client) error {
			_, err := c.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{name}, WithDecryption: &decrypt})
			return err
		}
	}
	list := func(path string, decrypt bool) func(*ssm.Client) error {
		return func(c *ssm.Client) error {
			_, err := c.GetParametersByPath(t.Context(), &ssm.GetParametersByPathInput{Path: &path, Recursive: aws.Bool(true), WithDecryption: &decrypt})
			return err
		}
	}
	const explicit = "with an explicit deny"
	for _, c := range []struct {
		function, what string
		ask            func(*ssm.Client) error
		refusal        string
	}{
		{"parameter-rotator", "its value", read(record, true), ""},
		{"parameter-rotator", "all values", list("/rekey/pending", true), "no identity-based policy allows the ssm:GetParametersByPath action"},
		{"secret-rotator", "its value", read(record, true), explicit},
		{"secret-rotator", "its ciphertext", read(record, false), explicit},
		{"secret-rotator", "all names", list("/rekey/pending", false), "no identity-based policy allows the ssm:GetParametersByPath action"},
		{"parameter-planner", "all names", list("/rekey/pending", false), ""},
		{"parameter-planner", "all values", list("/rekey/pending/", true), explicit},
		{"parameter-planner", "its value", read(record, true), "no identity-based policy allows the ssm:GetParameter action"},
		{"parameter-planner", "all parameters", list("/", false), "no identity-based policy allows the ssm:GetParametersByPath action"},
		{"parameter-planner", "a tagged parameter", readTen(parameterName, false), ""},
		{"parameter-planner", "a tagged parameter's value", readTen(parameterName, true), explicit},
	} {
		err := c.ask(ssm.NewFromConfig(p.as(c.function, http.DefaultTransport)))
		if (err == nil) != (c.refusal == "") || err != nil && !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s, %s: %v", c.function, c.what, err)
		}
	}
}

// The worker reads admins' logins too, of secrets and of what RDS manages.
func TestAdminsOfParameters(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	p.client = secretsmanager.NewFromConfig(p.config(http.DefaultTransport))
	instance := p.cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "db", Engine: "postgres", Endpoint: &localaws.Endpoint{Address: "db.example", Port: 5432}})
	cluster := p.cloud.AddDBCluster(localaws.DBCluster{DBClusterIdentifier: "cl", Engine: "aurora-postgresql", Endpoint: "cl.example", Port: 5432})
	for name, tags := range map[string][]string{
		"rds!db": {"aws:rds:primaryDBInstanceArn", instance, "rekey:admin-for", "ssm:" + parameterName}, "rds!cl": {"aws:rds:primaryDBClusterArn", cluster},
	} {
		arn := create(t, p.client, name, `{"username":"root","password":"pw"}`, tags...)
		if err := p.cloud.Edit(arn, func(s *localaws.Secret) { s.OwningService = "rds" }); err != nil {
			t.Fatal(err)
		}
	}
	h := functions.ParameterRotator(p.as("parameter-rotator", http.DefaultTransport), rotators.Registry{"postgres": &asker{ask: func(ctx context.Context, r rotators.Rotation) error {
		for ref, host := range map[string]string{"rds!db": "db.example", "rds!cl": "cl.example"} {
			admin, err := r.Lookup(ctx, ref)
			if err != nil {
				t.Errorf("%s: %v", ref, err)
				continue
			}
			if got, err := admin.Field("host"); err != nil || got.Reveal() != host {
				t.Errorf("%s: host %q, %v", ref, got.Reveal(), err)
			}
		}
		if vouches, err := r.Vouches(ctx, "rds!db"); err != nil || !vouches {
			t.Errorf("rds!db vouches: %v, %v", vouches, err)
		}
		return nil
	}}})
	if _, err := h.Invoke(t.Context(), p.event()); !errors.Is(err, errAsked) {
		t.Error(err)
	}
}

// A role that rekey:admin names makes the new access key, of a secret and of a
// parameter.
func TestKeysMadeByARole(t *testing.T) {
	const role = "arn:aws:iam::" + ours + ":role/key-admin"
	var ahead time.Duration // of the clock
	clock := &apikey.Clock{
		Now:   func() time.Time { return time.Now().Add(ahead) },
		Pause: func(ctx context.Context, d time.Duration) error { ahead += d; return ctx.Err() },
	}
	p := newParameter(t, asJSON, nil)
	p.cloud.AddRole(role)
	id, secret := p.cloud.AddAccessKey(p.cloud.AddUser(localaws.User{UserName: "mailer"}))
	value := fmt.Sprintf(`{"UserName":"mailer","AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret)
	if err := p.byHand(t.Context(), value); err != nil {
		t.Fatal(err)
	}
	p.tag("rekey:rotator", "iam-key")
	p.tag("rekey:admin", role)
	p.order()
	cfg := p.as("parameter-rotator", http.DefaultTransport)
	if _, err := functions.ParameterRotator(cfg, rotators.Registry{"iam-key": iamkey.New(cfg, clock)}).Invoke(t.Context(), p.event()); err != nil {
		t.Fatal(err)
	}
	if version, now, err := p.now(t.Context()); err != nil || version != 3 || now == value {
		t.Errorf("version %d: %v", version, err)
	}

	s := newSetup(t, "the first password", func(string, string) string { return value })
	s.cloud.AddRole(role)
	id, secret = s.cloud.AddAccessKey(s.cloud.AddUser(localaws.User{UserName: "mailer"}))
	value = fmt.Sprintf(`{"UserName":"mailer","AccessKeyId":%q,"SecretAccessKey":%q}`, id, secret)
	if _, err := s.client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &s.arn, SecretString: &value}); err != nil {
		t.Fatal(err)
	}
	if err := s.cloud.Reserve(s.arn, tokenOf(2)); err != nil {
		t.Fatal(err)
	}
	tag(t, s, "rekey:rotator", "iam-key")
	tag(t, s, "rekey:admin", role)
	cfg = s.as("secret-rotator", http.DefaultTransport)
	h := functions.SecretRotator(cfg, rotators.Registry{"iam-key": iamkey.New(cfg, clock)})
	for _, step := range steps {
		if _, err := h.Invoke(t.Context(), []byte(strings.ReplaceAll(string(s.event(step)), token, tokenOf(2)))); err != nil {
			t.Fatal(err)
		}
	}
	if version, now := s.current(); version != tokenOf(2) || now == value {
		t.Errorf("version %s is current", version)
	}
}

// A parameter that has as many versions as there can be: the oldest makes room, and
// the worker looks first whether it can.
func TestAParameterOfAHundredVersions(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	for range 99 {
		if err := p.byHand(t.Context(), p.first); err != nil {
			t.Fatal(err)
		}
	}
	p.order()
	if err := p.deliver(); err != nil {
		t.Fatal(err)
	}
	if err := p.rotated(t.Context(), 101); err != nil {
		t.Error(err)
	}
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
