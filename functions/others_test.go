package functions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	dbrotator "github.com/rekeyhq/rekey/rotators/database"
	"github.com/rekeyhq/rekey/rotators/postgres"
)

// asker is a rotator that does no more than ask.
type asker struct {
	rotators.Rotator
	ask func(ctx context.Context, r rotators.Rotation) error
}

var errAsked = errors.New("that was all")

func (a *asker) Create(ctx context.Context, r rotators.Rotation) (rotators.Secret, error) {
	return rotators.Secret{}, errors.Join(a.ask(ctx, r), errAsked)
}

// ask runs f inside a step of a rotation of s, with cfg for AWS, and returns the
// step's error.
func (s *setup) ask(ctx context.Context, cfg aws.Config, f func(ctx context.Context, r rotators.Rotation) error) error {
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": &asker{ask: f}})
	_, err := h.Invoke(ctx, s.event("createSecret"))
	return err
}

// create makes another secret, and returns its ARN.
func create(t *testing.T, client *secretsmanager.Client, name, value string, tags ...string) string {
	t.Helper()
	in := &secretsmanager.CreateSecretInput{Name: &name, SecretString: &value}
	for i := 0; i < len(tags); i += 2 {
		in.Tags = append(in.Tags, types.Tag{Key: &tags[i], Value: &tags[i+1]})
	}
	out, err := client.CreateSecret(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return *out.ARN
}

func TestLookup(t *testing.T) {
	s := newSetup(t, "the first password", asJSON)
	instance := s.cloud.AddDBInstance(localaws.DBInstance{
		DBInstanceIdentifier: "db", Engine: "postgres", Endpoint: &localaws.Endpoint{Address: "db.abc.us-east-1.rds.amazonaws.com", Port: 5433},
	})
	cluster := s.cloud.AddDBCluster(localaws.DBCluster{
		DBClusterIdentifier: "cl", Engine: "aurora-postgresql", Endpoint: "cl.cluster-abc.us-east-1.rds.amazonaws.com", Port: 5434,
	})
	const login = `{"username":"root","password":"pw"}`
	managed := func(name string, tags ...string) string {
		arn := create(t, s.client, name, login+"\n", tags...)
		if err := s.cloud.Edit(arn, func(s *localaws.Secret) { s.OwningService = "rds" }); err != nil {
			t.Fatal(err)
		}
		return arn
	}
	managed("rds!db", "aws:rds:primaryDBInstanceArn", instance)
	managed("rds!cluster", "aws:rds:primarydbclusterarn", cluster)
	managed("rds!gone", "aws:rds:primaryDBInstanceArn", strings.Replace(instance, ":db:db", ":db:gone", 1))
	managed("rds!untagged")
	create(t, s.client, "bare", login)
	create(t, s.client, "plain", "a password")
	create(t, s.client, "disguised", login, "aws:rds:primaryDBInstanceArn", instance)
	whole := create(t, s.client, "whole", `{"host":"h","username":"root","password":"pw"}`)
	key := customerKey(t, s.client.Options().Credentials, s.endpoint)
	s.cloud.AddParameter(localaws.Parameter{Name: "/admin", Type: "SecureString", KeyID: key, Value: "postgres://root:pw@h/"})
	s.cloud.AddParameter(localaws.Parameter{Name: "/open", Type: "String", Value: "postgres://root:pw@h/"})

	for _, c := range []struct{ ref, value, refusal string }{
		{"whole", `{"host":"h","username":"root","password":"pw"}`, ""},
		{whole, `{"host":"h","username":"root","password":"pw"}`, ""},
		{"plain", "a password", ""},
		{"bare", login, ""},
		{"disguised", login, ""}, // a tag is no proof that RDS manages it
		{"rds!db", `{"username":"root","password":"pw","host":"db.abc.us-east-1.rds.amazonaws.com","port":5433,"engine":"postgres"}`, ""},
		{"rds!cluster", `{"username":"root","password":"pw","host":"cl.cluster-abc.us-east-1.rds.amazonaws.com","port":5434,"engine":"aurora-postgresql"}`, ""},
		{"ssm:/admin", "postgres://root:pw@h/", ""},
		{"rds!gone", "", "finding the database of the secret"},
		{"rds!untagged", "", "no tag that says for which database"},
		{"missing", "", "there is no secret missing"},
		{"ssm:/missing", "", "there is no parameter /missing"},
		{"ssm:/open", "", "the parameter /open is a String"},
	} {
		var got rotators.Secret
		err := s.ask(t.Context(), s.as("secret-rotator", http.DefaultTransport), func(ctx context.Context, r rotators.Rotation) (err error) {
			got, err = r.Lookup(ctx, c.ref)
			return err
		})
		if got.Reveal() != c.value {
			t.Errorf("%s: %q, want %q (%v)", c.ref, got.Reveal(), c.value, err)
		}
		if c.refusal == "" && rotators.IsPermanent(err) || c.refusal != "" && (!rotators.IsPermanent(err) || !strings.Contains(err.Error(), c.refusal)) {
			t.Errorf("%s: %v; want a permanent error with %q, if any", c.ref, err, c.refusal)
		}
	}
}

func TestVouches(t *testing.T) {
	s := newSetup(t, "the first password", asJSON) // of a secret named app
	create(t, s.client, "for-app", "x", "rekey:admin-for", "other app")
	create(t, s.client, "for-others", "x", "rekey:admin-for", "other app/")
	create(t, s.client, "for-nobody", "x")
	s.cloud.AddParameter(localaws.Parameter{Name: "/for-app", Type: "SecureString", Value: "x", Tags: map[string]string{"rekey:admin-for": "app"}})
	s.cloud.AddParameter(localaws.Parameter{Name: "/for-nobody", Type: "SecureString", Value: "x"})
	for ref, want := range map[string]bool{"for-app": true, "for-others": false, "for-nobody": false, "ssm:/for-app": true, "ssm:/for-nobody": false} {
		err := s.ask(t.Context(), s.as("secret-rotator", http.DefaultTransport), func(ctx context.Context, r rotators.Rotation) error {
			if got, err := r.Vouches(ctx, ref); err != nil || got != want {
				t.Errorf("%s: %v, %v; want %v", ref, got, err, want)
			}
			return nil
		})
		if !errors.Is(err, errAsked) {
			t.Fatal(err)
		}
	}
}

// The function's account; secrets are in localaws's own, 000000000000.
const home = "111111111111"

// twoAccounts is the way to two AWS accounts: what is signed with a role's
// credentials reaches the secret's, all else the function's.
type twoAccounts struct {
	home, there string // URLs

	mu    sync.Mutex
	role  string              // access key of the role
	calls []string            // "OPERATION" or, by the role, "role OPERATION"
	seen  map[string][]string // bodies by operation
}

var (
	credential  = regexp.MustCompile(`Credential=([^/]+)/`)
	accessKeyID = regexp.MustCompile(`<AccessKeyId>(.*)</AccessKeyId>`)
)

func (w *twoAccounts) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_, operation, ok := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if !ok {
		form, _ := url.ParseQuery(string(body))
		operation = form.Get("Action")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string][]string{}
	}
	w.seen[operation] = append(w.seen[operation], string(body))
	to, by := w.home, ""
	if key := credential.FindStringSubmatch(r.Header.Get("Authorization")); w.role != "" && key != nil && key[1] == w.role {
		to, by = w.there, "role "
	}
	w.calls = append(w.calls, by+operation)
	out, err := http.NewRequestWithContext(r.Context(), r.Method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	if by != "" {
		// The other account's server has not issued the key, so it must not look like one of IAM's.
		out.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), w.role, "role", 1))
	}
	reply, err := http.DefaultTransport.RoundTrip(out)
	if err != nil || operation != "AssumeRole" {
		return reply, err
	}
	answer, err := io.ReadAll(reply.Body)
	if err != nil {
		return nil, err
	}
	reply.Body = io.NopCloser(bytes.NewReader(answer))
	if key := accessKeyID.FindSubmatch(answer); key != nil {
		w.role = string(key[1])
	}
	return reply, nil
}

// strangers is an account that the template's parameter RoleAccounts does not list, and
// that has a role of the same name.
const strangers = "999999999999"

// abroad is a secret of another account than the function's: its way to AWS,
// what Lambda tells the function, and the function's own account.
func abroad(t *testing.T) (s *setup, w *twoAccounts, ctx context.Context, own *localaws.Server) {
	s = newSetup(t, "the first password", asJSON)
	own = localaws.New(localaws.Config{Account: home, Authorize: policed(t, home, "RoleName", os.Getenv("REKEY_ROLE_NAME"))})
	own.AddRole("arn:aws:iam::000000000000:role/rotator")
	own.AddRole("arn:aws:iam::000000000000:role/team/rotator")
	own.AddRole("arn:aws:iam::" + strangers + ":role/rotator")
	t.Cleanup(own.Close)
	server := httptest.NewServer(own)
	t.Cleanup(server.Close)
	w = &twoAccounts{home: server.URL, there: s.endpoint}
	ctx = lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:us-east-1:" + home + ":function:secret-rotator",
	})
	return s, w, ctx, own
}

// A secret of another account is rotated by a role of that account, which is
// assumed once, and Secrets Manager gets the token it wants from a role.
func TestAnotherAccount(t *testing.T) {
	t.Setenv("REKEY_ROLE_NAME", "team/rotator")
	t.Setenv("REKEY_ROLE_EXTERNAL_ID", "bank")
	s, w, ctx, _ := abroad(t)
	cfg := s.as("secret-rotator", w)
	h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, nil)})
	for _, step := range steps {
		if _, err := h.Invoke(ctx, s.event(step)); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	if err := s.converged(t.Context()); err != nil {
		t.Error(err)
	}
	if w.calls[0] != "AssumeRole" || slices.ContainsFunc(w.calls[1:], func(c string) bool { return !strings.HasPrefix(c, "role ") }) {
		t.Errorf("calls: %v; want the role to be assumed once and to make all others", w.calls)
	}
	if form, _ := url.ParseQuery(w.seen["AssumeRole"][0]); form.Get("RoleArn") != "arn:aws:iam::000000000000:role/team/rotator" {
		t.Errorf("the role was %s", form.Get("RoleArn"))
	} else if form.Get("ExternalId") != "bank" {
		t.Errorf("the external id was %q", form.Get("ExternalId"))
	}
	var put struct{ RotationToken string }
	if err := json.Unmarshal([]byte(w.seen["PutSecretValue"][0]), &put); err != nil || put.RotationToken != "5f1c44b7-1b4a-4a8e-9f2c-1d2e3f405162" {
		t.Errorf("%v; PutSecretValue got the rotation token %q", err, put.RotationToken)
	}
}

// AWS's emulator of Lambda's runtime, by which sam local invoke runs functions, puts every
// function into the same account. That one is taken for no account where SAM says that it runs
// the function, and nowhere else.
func TestTheAccountOfSAMLocal(t *testing.T) {
	for _, c := range []struct {
		account, sam string
		rotates      bool
	}{{"012345678912", "true", true}, {"012345678912", "", false}, {"012345678912", "false", false}, {home, "true", false}} {
		t.Setenv("AWS_SAM_LOCAL", c.sam)
		s := newSetup(t, "the first password", asJSON)
		ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{InvokedFunctionArn: "arn:aws:lambda:us-east-1:" + c.account + ":function:test"})
		cfg := s.as("secret-rotator", http.DefaultTransport)
		h := functions.SecretRotator(cfg, rotators.Registry{"postgres": postgres.New(cfg, nil)})
		var err error
		for _, step := range steps {
			if _, stepErr := h.Invoke(ctx, s.event(step)); err == nil {
				err = stepErr
			}
		}
		if c.rotates {
			err = errors.Join(err, s.converged(t.Context()))
		} else if err != nil && strings.Contains(err.Error(), "REKEY_ROLE_NAME") {
			err = nil
		} else {
			err = fmt.Errorf("want another account's secret to be refused: %v", err)
		}
		if err != nil {
			t.Errorf("account %s, AWS_SAM_LOCAL=%q: %v", c.account, c.sam, err)
		}
	}
}

// Other secrets are read, and RDS is asked, in the account they are of.
func TestLookupsFromAnotherAccount(t *testing.T) {
	t.Setenv("REKEY_ROLE_NAME", "rotator")
	s, w, ctx, own := abroad(t)
	cfg := s.as("secret-rotator", w)
	ownServer := secretsmanager.NewFromConfig(s.config(w), func(o *secretsmanager.Options) { o.BaseEndpoint = &w.home; o.HTTPClient = http.DefaultClient })
	ours := create(t, ownServer, "admin", "ours", "rekey:admin-for", "app")
	oursByARN := create(t, ownServer, "admin-by-arn", "ours", "rekey:admin-for", "app "+s.arn)
	parameter := "arn:aws:ssm:us-east-1:" + home + ":parameter/root"
	own.AddParameter(localaws.Parameter{Name: parameter, Type: "SecureString", Value: "ours", Tags: map[string]string{"rekey:admin-for": "app"}})
	theirs := create(t, s.client, "admin", "theirs", "rekey:admin-for", "app")
	s.cloud.AddParameter(localaws.Parameter{Name: "/admin", Type: "SecureString", Value: "theirs"})
	own.AddParameter(localaws.Parameter{Name: "/admin", Type: "SecureString", Value: "ours"})
	// Both accounts have a database of this name, and RDS manages its admin.
	for account, cloud := range map[string]*localaws.Server{"ours": own, "theirs": s.cloud} {
		cloud.AddDBInstance(localaws.DBInstance{DBInstanceIdentifier: "db", Engine: "postgres", Endpoint: &localaws.Endpoint{Address: account + ".example", Port: 5432}})
	}
	managed := create(t, ownServer, "rds!db", `{"username":"root","password":"pw"}`, "aws:rds:primaryDBInstanceArn", "arn:aws:rds:us-east-1:"+home+":db:db")
	if err := own.Edit(managed, func(s *localaws.Secret) { s.OwningService = "rds" }); err != nil {
		t.Fatal(err)
	}

	err := s.ask(ctx, cfg, func(ctx context.Context, r rotators.Rotation) error {
		for ref, want := range map[string]string{"admin": "theirs", theirs: "theirs", ours: "ours", "ssm:/admin": "theirs"} {
			if got, err := r.Lookup(ctx, ref); err != nil || got.Reveal() != want {
				t.Errorf("%s: %q, %v; want %q", ref, got.Reveal(), err, want)
			}
		}
		// Anybody may name a secret app in an account of their own.
		for ref, want := range map[string]bool{"admin": true, theirs: true, ours: false, oursByARN: true, "ssm:" + parameter: false} {
			if got, err := r.Vouches(ctx, ref); err != nil || got != want {
				t.Errorf("%s vouches: %v, %v; want %v", ref, got, err, want)
			}
		}
		// An admin of an account that the stack does not name is not read there.
		stranger := "arn:aws:secretsmanager:us-east-1:" + strangers + ":secret:admin-AbCdEf"
		if _, err := r.Lookup(ctx, stranger); err == nil || !strings.Contains(err.Error(), "sts:AssumeRole") {
			t.Errorf("a stranger's admin: %v; want AssumeRole to be denied", err)
		}
		place, err := dbrotator.RDS(cfg).Locate(ctx, rotators.NewSecret(`{"dbInstanceIdentifier":"db"}`))
		if err != nil || place.Host != "theirs.example" {
			t.Errorf("the database is %v, %v", place, err)
		}
		admin, err := r.Lookup(ctx, managed)
		if err != nil {
			return err
		}
		if host, err := admin.Field("host"); err != nil || host.Reveal() != "ours.example" {
			t.Errorf("the admin's host is %q, %v", host.Reveal(), err)
		}
		return nil
	})
	if !errors.Is(err, errAsked) || rotators.IsPermanent(err) {
		t.Fatal(err)
	}
}

// Without a role nothing is called, and the error says which variable to set.
func TestAnotherAccountWithoutARole(t *testing.T) {
	s, w, ctx, _ := abroad(t)
	err := s.ask(ctx, s.as("secret-rotator", w), func(context.Context, rotators.Rotation) error { return nil })
	if !rotators.IsPermanent(err) || !strings.Contains(fmt.Sprint(err), "REKEY_ROLE_NAME") || !strings.Contains(fmt.Sprint(err), home) {
		t.Errorf("%v; want a permanent error that names the variable", err)
	}
	if len(w.calls) != 0 {
		t.Errorf("and yet AWS was called: %v", w.calls)
	}
	t.Setenv("REKEY_ROLE_NAME", "arn:aws:iam::000000000000:role/rotator")
	err = s.ask(ctx, s.as("secret-rotator", w), func(context.Context, rotators.Rotation) error { return nil })
	if !rotators.IsPermanent(err) || !strings.Contains(fmt.Sprint(err), "REKEY_ROLE_NAME") {
		t.Errorf("an ARN in place of a name: %v", err)
	}
}
