package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
)

const ourTemplate = "../../template.yaml"

// The functions start as the template deploys them, and handle each of the events that
// ship: together they rotate a secret and a parameter.
func TestTheTemplatesFunctionsHandleTheEvents(t *testing.T) {
	a := newAccount(t)
	dir, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.cloud.AddQueue("rekey-parameters.fifo", map[string]string{"FifoQueue": "true", "VisibilityTimeout": "150"}); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"app", "reports"} {
		if err := a.database.Exec(t.Context(), "CREATE ROLE "+user+" LOGIN PASSWORD 'hunter2hunter2'"); err != nil {
			t.Fatal(err)
		}
	}
	client := secretsmanager.NewFromConfig(a.config)
	secret, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("shop/postgres"), SecretString: aws.String(a.value("app", ""))})
	if err != nil {
		t.Fatal(err)
	}
	a.cloud.AddParameter(localaws.Parameter{
		Name: "/shop/db", Type: "SecureString", Value: a.value("reports", ""), Changed: time.Now().AddDate(0, 0, -31),
		Tags: map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d"},
	})

	invoked := 0
	invoke := func(function, name string) {
		t.Helper()
		event, err := os.ReadFile("../../events/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var of struct{ SecretId, ClientRequestToken string }
		if err := json.Unmarshal(event, &of); err != nil {
			t.Fatal(err)
		}
		if of.SecretId != "" {
			if invoked == 0 {
				if err := a.cloud.Reserve(*secret.ARN, of.ClientRequestToken); err != nil {
					t.Fatal(err)
				}
			}
			event = []byte(strings.Replace(string(event), of.SecretId, *secret.ARN, 1)) // its end is random
		}
		status, stdout, stderr := rekey(t.Context(), string(event), "invoke", "--template", ourTemplate, "--functions", dir, function, "-")
		if status != succeeded {
			t.Errorf("%s with %s: exit status %d\n%s%s", function, name, status, stdout, stderr)
		}
		if function == "parameter-planner" && !strings.Contains(stderr, `"queued":1`) {
			t.Errorf("the planner did not queue what is due:\n%s", stderr)
		}
		invoked++
	}
	for _, step := range []string{"create", "set", "test", "finish"} {
		invoke("secret-rotator", step+"-secret.json")
	}
	invoke("parameter-planner", "schedule.json")
	invoke("parameter-rotator", "rotate-parameter.json")
	if files, _ := filepath.Glob("../../events/*.json"); len(files) != invoked {
		t.Errorf("%d of the events %v were tried", invoked, files)
	}

	current, err := client.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: secret.ARN})
	if err != nil {
		t.Fatal(err)
	}
	parameter, err := ssm.NewFromConfig(a.config).GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/shop/db"), WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	for user, value := range map[string]string{"app": *current.SecretString, "reports": *parameter.Parameter.Value} {
		password, err := rotators.NewSecret(value).Field("password")
		if err != nil || password.Reveal() == "hunter2hunter2" {
			t.Errorf("%s was not rotated (%v)", user, err)
		} else if err := a.database.Login(t.Context(), user, password.Reveal()); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
}

func TestDeployedBy(t *testing.T) {
	a := newAccount(t)
	if _, err := a.cloud.AddQueue("rekey-parameters.fifo", map[string]string{"FifoQueue": "true"}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REKEY_STAGE", "the caller's")
	d, err := deployedBy(t.Context(), ourTemplate, "parameter-rotator", "")
	if err != nil {
		t.Fatal(err)
	}
	if d.name != "rekey-parameter-rotator" || d.timeout != 2*time.Minute || d.memoryMB != 256 {
		t.Errorf("got %+v", d)
	}
	for _, want := range []string{"REKEY_ROTATORS=", "REKEY_STAGE=", "REKEY_SSM_WRITES_PER_SECOND=1.5"} {
		if !slices.Contains(d.env, want) {
			t.Errorf("%s is not in %q", want, d.env)
		}
	}
	if !slices.ContainsFunc(d.env, func(v string) bool {
		return strings.HasPrefix(v, "REKEY_QUEUE_URL=http") && strings.HasSuffix(v, "/rekey-parameters.fifo")
	}) {
		t.Errorf("no queue in %q", d.env)
	}
}

func TestNotDeployed(t *testing.T) {
	newAccount(t) // without the queue
	other := filepath.Join(t.TempDir(), "template.yaml")
	if err := os.WriteFile(other, []byte("Resources:\n  F:\n    Type: AWS::Serverless::Function\n    Properties:\n      FunctionName: !Transform x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, function, want string }{
		{ourTemplate, "secret-rotater", `has no function "secret-rotater"; it has parameter-planner, parameter-rotator, secret-rotator`},
		{ourTemplate, "parameter-planner", "the variable REKEY_QUEUE_URL of rekey-parameter-planner: looking for the queue rekey-parameters.fifo: "},
		{other, "f", "resource F: !Transform [x] is not understood"},
		{"none.yaml", "f", "open none.yaml: "},
	} {
		if _, err := deployedBy(t.Context(), c.file, c.function, ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %s: %v; want %q in it", c.function, c.file, err, c.want)
		}
	}
}
