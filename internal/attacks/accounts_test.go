package attacks

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// bankAccount is the account of the function; the tenant's is the world's.
const bankAccount = "111111111111"

// twoAccounts is the way to two AWS accounts: what is signed with a role's credentials
// reaches the tenant's, all else the bank's.
type twoAccounts struct {
	bank, tenant string // URLs
	mu           sync.Mutex
	role         string // the access key of the role's session
}

var (
	credential  = regexp.MustCompile(`Credential=([^/]+)/`)
	accessKeyID = regexp.MustCompile(`<AccessKeyId>(.*)</AccessKeyId>`)
)

func (a *twoAccounts) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	to, key := a.bank, credential.FindStringSubmatch(r.Header.Get("Authorization"))
	asRole := a.role != "" && key != nil && key[1] == a.role
	if asRole {
		to = a.tenant
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	if asRole {
		// The tenant's server has not issued the key, so it must not look like one of IAM's.
		out.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), a.role, "role", 1))
	}
	reply, err := http.DefaultTransport.RoundTrip(out)
	if err != nil || !bytes.Contains(body, []byte("Action=AssumeRole")) {
		return reply, err
	}
	answer, err := io.ReadAll(reply.Body)
	reply.Body = io.NopCloser(bytes.NewReader(answer))
	if key := accessKeyID.FindSubmatch(answer); key != nil {
		a.role = string(key[1])
	}
	return reply, err
}

// abroad makes a world the account of a tenant of the bank's: its secrets are rotated by
// the bank's function, which assumes a role there. It returns the bank's account.
func abroad(w *world) *localaws.Server {
	w.t.Setenv("REKEY_ROLE_NAME", "rotator")
	bank := localaws.New(localaws.Config{Account: bankAccount})
	bank.AddRole("arn:aws:iam::000000000000:role/rotator")
	server := httptest.NewServer(bank)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(bank.Close)
	cfg := w.config(&twoAccounts{bank: server.URL, tenant: w.endpoint})
	cfg.BaseEndpoint = &server.URL
	w.context = &lambdacontext.LambdaContext{InvokedFunctionArn: "arn:aws:lambda:us-east-1:" + bankAccount + ":function:" + secretFunction}
	w.install(cfg)
	return bank
}

// namesake is a way to have an admin's login go to a database of the attacker's own account.
type namesake struct {
	name string
	// admin stores the DBA's login in the bank's account, and returns what the tag
	// rekey:admin is to say.
	admin func(w *world, bank *localaws.Server, d *database) string
}

var namesakes = []namesake{
	{"an admin that names its instance", func(w *world, bank *localaws.Server, d *database) string {
		return bankSecret(w, bank, d.value(d.admin, "host", nil, "port", nil, "dbInstanceIdentifier", "shop"))
	}},
	{"an admin that names its cluster", func(w *world, bank *localaws.Server, d *database) string {
		return bankSecret(w, bank, d.value(d.admin, "host", nil, "port", nil, "dbClusterIdentifier", "shop"))
	}},
	{"an admin that RDS manages", func(w *world, bank *localaws.Server, d *database) string {
		arn := bankSecret(w, bank, toJSON(map[string]string{"username": d.admin.user, "password": d.admin.password}),
			"aws:rds:primaryDBInstanceArn", "arn:aws:rds:us-east-1:"+bankAccount+":db:shop")
		w.check(bank.Edit(arn, func(s *localaws.Secret) { s.OwningService = "rds" }))
		return arn
	}},
	{"an admin in a parameter", func(w *world, bank *localaws.Server, d *database) string {
		bank.AddParameter(localaws.Parameter{Name: "/dba", Type: "SecureString", Value: d.value(d.admin, "host", nil, "port", nil, "dbInstanceIdentifier", "shop")})
		return "ssm:arn:aws:ssm:us-east-1:" + bankAccount + ":parameter/dba"
	}},
}

// bankSecret stores a secret in the bank's account.
func bankSecret(w *world, bank *localaws.Server, value string, tags ...string) string {
	server := httptest.NewServer(bank)
	w.t.Cleanup(server.Close)
	cfg := w.config(http.DefaultTransport)
	cfg.BaseEndpoint = &server.URL
	in := &secretsmanager.CreateSecretInput{Name: aws.String(fmt.Sprintf("dba/%d", serial.Add(1))), SecretString: &value}
	for i := 0; i < len(tags); i += 2 {
		in.Tags = append(in.Tags, smtypes.Tag{Key: &tags[i], Value: &tags[i+1]})
	}
	out, err := secretsmanager.NewFromConfig(cfg).CreateSecret(w.t.Context(), in)
	w.check(err)
	return *out.ARN
}

// run has the tenant name the bank's admin. Both accounts have a database of the name that
// the admin's value has: the tenant's is at the attacker's fake.
func (n namesake) run(w *world, d *database, named bool) {
	bank := abroad(w)
	h := host(to(fakeAddress))
	for address, cloud := range map[string]*localaws.Server{d.host: bank, h: w.cloud} {
		cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "shop", Engine: d.engine, Endpoint: &localaws.Endpoint{Address: address, Port: d.port}})
		cloud.AddDBCluster(localaws.DBCluster{DBClusterIdentifier: "shop", Engine: d.engine, Endpoint: address, Port: d.port})
	}
	fields := []any{"host", h}
	if named {
		fields = []any{"host", nil, "port", nil, "dbInstanceIdentifier", "shop"}
	}
	mine := account{"mine", "the-Tenants-own-1"}
	d.fake.knows = []string{mine.password}
	arn := w.newSecret("tenant", d.value(mine, fields...), "rekey:strategy", "single-user", "rekey:admin", n.admin(w, bank, d))
	_ = w.rotate(arn)
	if said := w.lastError(); !strings.Contains(said, "is for another server") {
		w.t.Errorf("%s: the rotation ended with %q", n.name, said)
	}
}

// An admin of one account is looked up, and logs in, in that account alone, also where
// another account has a database of the same name.
func TestAnAdminStaysInItsAccount(t *testing.T) {
	for _, n := range namesakes {
		for _, d := range []*database{bankPostgres, bankMariaDB} {
			for _, named := range []bool{false, true} {
				t.Run(fmt.Sprint(n.name, " ", d.engine, " ", named), func(t *testing.T) {
					w := newWorld(t)
					n.run(w, d, named)
					w.nothing()
				})
			}
		}
	}
}
