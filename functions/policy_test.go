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
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
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

// people are principals of the tests' own, by access key. Their policies allow them all of
// SQS, and the template names the first as an operator.
var people = map[string]*policies.Role{
	"operator": person("role/sso/operators-7f"), "stranger": person("role/stranger"), "namesake": person("role/operators-7f"),
}

func person(name string) *policies.Role {
	return &policies.Role{Name: name, ARN: "arn:aws:iam::" + ours + ":" + name, Statements: []policies.Statement{{Sid: "Own", Actions: []string{"sqs:*"}, Resources: []string{"*"}}}}
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
		"OperatorArns":   "arn:aws:iam::" + account + ":user/jane,arn:aws:iam::" + account + ":role/sso/operators-*",
		"AdminRoleArns":  "arn:aws:iam::" + account + ":role/key-admin",
		"RoleName":       "rotator",
		"RoleAccounts":   ours,
	}
}

// loadTemplate is the template as it is deployed in an account.
func loadTemplate(function, account string, more map[string]string) (*policies.Template, error) {
	values := templateValues(function, account)
	maps.Copy(values, more)
	return policies.Load("../template.yaml", values)
}

// loadRole is a function's role in an account.
func loadRole(function, account string, more map[string]string) (*policies.Role, error) {
	template, err := loadTemplate(function, account, more)
	if err != nil {
		return nil, err
	}
	return template.Role(function)
}

// loadQueuePolicies are the policies of the queues in an account.
func loadQueuePolicies(account string, more map[string]string) ([]*policies.Role, error) {
	template, err := loadTemplate("ParameterRotator", account, more)
	if err != nil {
		return nil, err
	}
	return template.QueuePolicies()
}

// roles and queuePolicies are those of loadRole and loadQueuePolicies, by all that makes
// them differ.
var roles, queuePolicies sync.Map

// once loads what the tests of an account have in common.
func once[T any](of *sync.Map, key string, load func() (T, error)) (T, error) {
	f, _ := of.LoadOrStore(key, sync.OnceValues(load))
	return f.(func() (T, error))()
}

// policed decides what the functions, and people, may do in an account. more are
// parameters of the template.
func policed(t *testing.T, account string, more ...string) func(string, []localaws.Access) *localaws.Denial {
	t.Helper()
	values := map[string]string{}
	for i := 0; i < len(more); i += 2 {
		values[more[i]] = more[i+1]
	}
	all := maps.Clone(people)
	for key, function := range resources {
		role, err := once(&roles, fmt.Sprint(function, account, more), func() (*policies.Role, error) { return loadRole(function, account, values) })
		if err != nil {
			t.Fatal(err)
		}
		all[key] = role
	}
	queues, err := once(&queuePolicies, fmt.Sprint(account, more), func() ([]*policies.Role, error) { return loadQueuePolicies(account, values) })
	if err != nil {
		t.Fatal(err)
	}
	return func(key string, needs []localaws.Access) (denial *localaws.Denial) {
		role, ok := all[key]
		if !ok {
			return nil
		}
		for _, a := range needs {
			access := policies.Access{Action: a.Action, Resource: a.Resource, Context: maps.Clone(a.Context), Granted: a.Granted}
			if access.Context == nil {
				access.Context = map[string][]string{}
			}
			access.Context["aws:PrincipalArn"] = []string{role.ARN}
			access.Context["aws:PrincipalIsAWSService"] = []string{"false"}
			byQueue := strings.HasPrefix(a.Action, "sqs:") && slices.ContainsFunc(queues, func(q *policies.Role) bool { return ledger.Decide(q, access).Denied })
			if byQueue {
				denial = &localaws.Denial{Access: a, Explicit: true, ByResource: true}
				continue
			}
			if d := ledger.Decide(role, access); !d.Allowed && denial == nil {
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
	// hold tells what of a role or of a queue's policy nobody needs, and whether it would
	// tell that of more.
	hold := func(role *policies.Role) {
		for _, p := range role.Permissions() {
			if !slices.Contains(byServices, p.Sid) {
				permissions++
			}
		}
		for _, p := range ledger.Unused(role) {
			if !slices.Contains(byServices, p.Sid) {
				fail("%s: nothing needs %s in %s", role.Name, p.Action, p.Sid)
			}
		}
		for _, p := range ledger.Idle(role) {
			if !slices.Contains(byServices, p.Sid) {
				fail("%s: without %s in %s nothing changes", role.Name, p.Action, p.Sid)
			}
		}
		const more = "kms:ScheduleKeyDeletion" // which no function may
		for _, s := range role.Statements {
			added++
			want := policies.Permission{Sid: s.Sid, Action: more}
			if unused := ledger.Unused(role.With(s.Sid, more)); !slices.Contains(unused, want) {
				fail("%s: that %s was added to %s would go unnoticed", role.Name, more, s.Sid)
			}
			if idle := ledger.Idle(role.With(s.Sid, more)); !slices.Contains(idle, want) {
				fail("%s: that %s was added to %s would go unnoticed", role.Name, more, s.Sid)
			}
		}
	}
	queues, err := loadQueuePolicies(ours, nil)
	if err != nil || len(queues) != 2 {
		fail("%d policies of queues (%v)", len(queues), err)
	}
	for _, queue := range queues {
		hold(queue)
	}
	for _, function := range slices.Sorted(maps.Values(resources)) {
		role, err := loadRole(function, ours, nil)
		if err != nil {
			fail("%v", err)
			continue
		}
		hold(role)
		for _, e := range ledger.Entries(function) {
			if e.Allowed || e.Denied {
				continue
			}
			if e.Action == "sts:AssumeRole" && slices.Contains(e.Context["aws:ResourceAccount"], strangers) {
				continue // an account that the stack does not name, where every role is refused
			}
			refused++
			// What is not there, or has lost its tag, is refused as it should be.
			if _, tagged := e.Context["aws:ResourceTag/rekey:rotator"]; tagged || !strings.HasPrefix(e.Action, "ssm:") {
				fail("%s needs %s on %s, which no statement allows (%v)", function, e.Action, e.Resource, e.Context)
			}
		}
	}
	if ok {
		fmt.Printf("policies: %d requests for a permission, of which %d different ones were refused for want of a tag; each of the %d permissions of the three functions and denials of the two queues is used, and without any one of them something changes; one too many in any of the %d statements would be noticed\n",
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

// Who may send and take orders, of those whose own policies allow it all: the planner and
// operators send, the worker takes (and Lambda, which polls in its name), and operators
// look after what failed. By no policy does somebody else, also not under a name that
// looks like an operator's.
func TestTheQueuesAreForThoseWhoAreNamed(t *testing.T) {
	for named, operators := range map[string][]string{"an operator is named": nil, "nobody is named": {"OperatorArns", ""}} {
		t.Run(named, func(t *testing.T) {
			cloud := localaws.New(localaws.Config{Authorize: policed(t, ours, operators...)})
			t.Cleanup(cloud.Close)
			server := httptest.NewServer(cloud)
			t.Cleanup(server.Close)
			as := func(key string) *sqs.Client {
				return sqs.NewFromConfig((&setup{endpoint: server.URL}).as(key, http.DefaultTransport))
			}
			for queue, may := range map[string]map[string]string{
				liveQueue: {"send": "parameter-planner operator", "take": "parameter-rotator", "purge": "operator"},
				deadQueue: {"send": "operator", "take": "operator", "purge": "operator"},
			} {
				if _, err := cloud.AddQueue(queue, map[string]string{"FifoQueue": "true"}); err != nil {
					t.Fatal(err)
				}
				url := aws.String(cloud.QueueURL(server.URL, queue))
				n := 0
				send := func(c *sqs.Client) error {
					n++
					_, err := c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("x"), MessageGroupId: aws.String(fmt.Sprint(n)), MessageDeduplicationId: aws.String(fmt.Sprint(n))})
					return err
				}
				sendBatch := func(c *sqs.Client) error {
					n++
					_, err := c.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: url, Entries: []sqstypes.SendMessageBatchRequestEntry{
						{Id: aws.String("a"), MessageBody: aws.String("x"), MessageGroupId: aws.String(fmt.Sprint(n)), MessageDeduplicationId: aws.String(fmt.Sprint(n))},
					}})
					return err
				}
				receive := func(c *sqs.Client) (*string, error) {
					out, err := c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: url})
					if err != nil || len(out.Messages) == 0 {
						return aws.String("none"), err
					}
					return out.Messages[0].ReceiptHandle, nil
				}
				// held is a message that somebody received who may.
				held := func() *string {
					if err := send(as("local")); err != nil {
						t.Fatal(err)
					}
					handle, err := receive(as("local"))
					if err != nil {
						t.Fatal(err)
					}
					return handle
				}
				for _, c := range []struct {
					right, call string
					do          func(*sqs.Client) error
				}{
					{"send", "SendMessage", send},
					{"send", "SendMessageBatch", sendBatch},
					{"take", "ReceiveMessage", func(c *sqs.Client) error { _, err := receive(c); return err }},
					{"take", "ChangeMessageVisibility", func(c *sqs.Client) error {
						_, err := c.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: url, ReceiptHandle: held(), VisibilityTimeout: 30})
						return err
					}},
					{"take", "DeleteMessage", func(c *sqs.Client) error {
						_, err := c.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: url, ReceiptHandle: held()})
						return err
					}},
					{"purge", "PurgeQueue", func(c *sqs.Client) error {
						_, err := c.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: url})
						return err
					}},
				} {
					for _, who := range []string{"parameter-planner", "parameter-rotator", "secret-rotator", "operator", "namesake", "stranger"} {
						if c.call == "PurgeQueue" && who == "parameter-planner" && queue == liveQueue {
							continue // not denied, nor allowed by its role
						}
						allowed := slices.Contains(strings.Fields(may[c.right]), who) && !(who == "operator" && operators != nil)
						err := c.do(as(who))
						switch {
						case allowed && err != nil:
							t.Errorf("%s, %s by %s: %v", queue, c.call, who, err)
						case !allowed && (err == nil || !strings.Contains(err.Error(), "with an explicit deny in a resource-based policy")):
							t.Errorf("%s, %s by %s: %v", queue, c.call, who, err)
						}
					}
				}
				// What CloudFormation needs in the name of whoever deploys is left to IAM.
				if _, err := as("stranger").SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: url, Attributes: map[string]string{"VisibilityTimeout": "150"}}); err != nil {
					t.Errorf("%s: %v", queue, err)
				}
			}
		})
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
	if err := (&inventory.Looker{Client: client, Reads: rate.NewLimiter(rate.Inf, 0), Writes: rate.NewLimiter(rate.Inf, 0)}).Look(t.Context(), all); err != nil {
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
