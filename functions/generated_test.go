package functions_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/generated"
)

// Values that no other system holds, through the shipped binaries: a secret that
// begins as {}, with the dry test first, and parameters that are due.
func TestGeneratedValues(t *testing.T) {
	in := newInstallation(t)
	in.cloud.Handle("rekey-secret-rotator", in.function("secret-rotator"))
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, in.log.String())
		}
	}

	secrets := secretsmanager.NewFromConfig(aws.Config{Region: "us-east-1", BaseEndpoint: &in.endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")})
	created, err := secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("shop/jwt"), SecretString: aws.String("{}"), Tags: []smtypes.Tag{
		{Key: aws.String("rekey:rotator"), Value: aws.String("generated")},
		{Key: aws.String("rekey:options"), Value: aws.String("alg=ES256 keyring=yes")},
		{Key: aws.String("rekey:grace"), Value: aws.String("2h")},
	}})
	check(err)
	secret := func() string {
		out, err := secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: created.ARN})
		check(err)
		return *out.SecretString
	}
	for _, keys := range []int{0, 1, 2, 3} {
		_, err := secrets.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
			SecretId: created.ARN, RotationLambdaARN: aws.String(in.cloud.FunctionARN("rekey-secret-rotator")),
			RotationRules: &smtypes.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)}, RotateImmediately: aws.Bool(keys > 0),
		})
		check(err)
		check(in.cloud.Wait(ctx, *created.ARN))
		if keys == 0 {
			if got := secret(); got != "{}" {
				t.Errorf("the dry test left %s", got)
			}
			continue
		}
		got, err := generated.Keys(secret(), time.Now())
		check(err)
		if len(got) != keys {
			t.Errorf("%d keys count after rotation %d", len(got), keys)
		}
		if later, err := generated.Keys(secret(), time.Now().Add(2*time.Hour)); err != nil || len(later) != 1 {
			t.Errorf("%d keys count after the grace (%v)", len(later), err)
		}
	}
	out, err := secrets.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: created.ARN})
	check(err)
	if len(out.Tags) != 3 {
		t.Errorf("something is to be retired: %d tags", len(out.Tags))
	}

	for name, c := range map[string]struct{ value, options, want string }{
		"/token": {"changeme", "hex=32", `^[0-9a-f]{64}$`},
		"/ssh":   {`{ "host":"shop", "private_key":"", "port":22.0 }`, "alg=ssh-ed25519", `^{ "host":"shop", "private_key":"-----BEGIN OPENSSH PRIVATE KEY-----.*", "port":22\.0,"public_key":"ssh-ed25519 [^"]*" }$`},
	} {
		in.cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: c.value, Changed: time.Now().AddDate(0, 0, -40), Tags: map[string]string{
			"rekey:rotator": "generated", "rekey:every": "30d", "rekey:options": c.options,
		}})
		in.tick()
		out, err := in.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
		check(err)
		if !regexp.MustCompile(c.want).MatchString(*out.Parameter.Value) {
			t.Errorf("%s became %s\n%s", name, *out.Parameter.Value, in.log.String())
		}
	}
	if log := in.log.String(); strings.Contains(log, "PRIVATE KEY") {
		t.Errorf("a key is in the log:\n%s", log)
	}
}

// A key that is too large for the parameter's tier is refused before anything is
// changed.
func TestAGeneratedKeyThatIsTooLarge(t *testing.T) {
	p := newParameter(t, func(string, string) string { return "{}" }, nil)
	p.tag("rekey:rotator", "generated")
	p.tag("rekey:options", "alg=RS256 bits=4096")
	h := functions.ParameterRotator(p.as("parameter-rotator", http.DefaultTransport), rotators.Registry{"generated": generated.New()})
	_, err := h.Invoke(t.Context(), p.event())
	if err == nil || !rotators.IsPermanent(err) || !regexp.MustCompile(`the new value has \d+ bytes, and a parameter of the tier Standard holds 4096: shorten it, or raise the tier`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
	version, value, err := p.now(t.Context())
	left, err2 := p.records(t.Context())
	if version != 1 || value != "{}" || len(left) > 0 || err != nil || err2 != nil {
		t.Errorf("version %d is %s, and %d records are left over (%v, %v)", version, value, len(left), err, err2)
	}
}
