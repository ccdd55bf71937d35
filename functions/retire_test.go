package functions_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// aged is a secret or a parameter of two alternating users with a grace.
type aged struct {
	rotate func()
	value  func() string
	tags   func() map[string]string
	tag    func(key, value string)
}

// The planner retires what outlived its grace, in both services, through the shipped
// binaries: before that the old credential logs in, after it is refused, and the next
// rotation finds its way all the same.
func TestRetirementAfterTheGrace(t *testing.T) {
	in := newInstallation(t)
	in.cloud.Handle("secret-rotator", in.function("secret-rotator"))
	cfg := aws.Config{Region: "us-east-1", BaseEndpoint: &in.endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")}
	secrets := secretsmanager.NewFromConfig(cfg)
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, in.log.String())
		}
	}
	user := func(admins string) (first string) {
		user := fmt.Sprintf("app_%d", users.Add(1))
		admin := "admin_of_" + user
		for _, sql := range []string{
			"CREATE ROLE " + user + " LOGIN PASSWORD 'the first password'",
			"CREATE ROLE " + admin + " LOGIN CREATEROLE PASSWORD 'the admins password'",
			"GRANT " + user + " TO " + admin + " WITH ADMIN OPTION",
		} {
			check(database.Exec(ctx, sql))
		}
		_, err := secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: &admin, SecretString: aws.String(asJSON(admin, "the admins password"))})
		check(err)
		return strings.Replace(asJSON(user, "the first password"), "}", `, "masterarn":"`+admin+`" }`, 1)
	}

	const name = "/aged"
	in.cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: user("ssm"), Changed: time.Now(), Tags: map[string]string{
		"rekey:rotator": "postgres", "rekey:every": "30d", "rekey:grace": "7d",
	}})
	nonce := 0
	parameter := aged{
		rotate: func() {
			found, err := paramstore.Describe(ctx, in.ssm, []string{name})
			check(err)
			nonce++
			_, err = queue.Send(ctx, in.sqs, in.cloud.QueueURL(in.endpoint, liveQueue), []queue.Message{{Parameter: found[0].Parameter, Nonce: fmt.Sprint(nonce)}})
			check(err)
			check(in.cloud.Idle(ctx, liveQueue))
		},
		value: func() string {
			out, err := in.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(name), WithDecryption: aws.Bool(true)})
			check(err)
			return *out.Parameter.Value
		},
		tags: func() map[string]string {
			out, err := in.ssm.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: "Parameter", ResourceId: aws.String(name)})
			check(err)
			tags := map[string]string{}
			for _, tag := range out.TagList {
				tags[*tag.Key] = *tag.Value
			}
			return tags
		},
		tag: func(key, value string) {
			_, err := in.ssm.AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{ResourceType: "Parameter", ResourceId: aws.String(name), Tags: []types.Tag{{Key: &key, Value: &value}}})
			check(err)
		},
	}

	created, err := secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{
		Name: aws.String("aged"), SecretString: aws.String(user("secret")), Tags: []smtypes.Tag{{Key: aws.String("rekey:grace"), Value: aws.String("7d")}},
	})
	check(err)
	secret := aged{
		rotate: func() {
			_, err := secrets.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
				SecretId: created.ARN, RotationLambdaARN: aws.String(in.cloud.FunctionARN("secret-rotator")),
				RotationRules: &smtypes.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
			})
			check(err)
			check(in.cloud.Wait(ctx, *created.ARN))
		},
		value: func() string {
			out, err := secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: created.ARN})
			check(err)
			return *out.SecretString
		},
		tags: func() map[string]string {
			out, err := secrets.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: created.ARN})
			check(err)
			tags := map[string]string{}
			for _, tag := range out.Tags {
				tags[*tag.Key] = *tag.Value
			}
			return tags
		},
		tag: func(key, value string) {
			_, err := secrets.TagResource(ctx, &secretsmanager.TagResourceInput{SecretId: created.ARN, Tags: []smtypes.Tag{{Key: &key, Value: &value}}})
			check(err)
		},
	}

	login := func(value string) error {
		v := rotators.NewSecret(value)
		user, _ := v.Field("username")
		password, _ := v.Field("password")
		return database.Login(ctx, user.Reveal(), password.Reveal())
	}
	for what, a := range map[string]aged{"a parameter": parameter, "a secret": secret} {
		for n := 1; n <= 2; n++ {
			old := a.value()
			a.rotate()
			version, at, _ := strings.Cut(a.tags()[rotation.TagRetire], " ")
			over, err := time.Parse(time.RFC3339, at)
			if err != nil || over.Before(time.Now().AddDate(0, 0, 6)) || over.After(time.Now().AddDate(0, 0, 8)) {
				t.Errorf("%s, rotation %d: the grace of version %q is over at %q", what, n, version, at)
			}
			in.tick() // the grace is not over
			if err := login(old); err != nil {
				t.Errorf("%s, rotation %d: inside the grace the old credential: %v", what, n, err)
			}
			a.tag(rotation.TagRetire, version+" "+time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
			in.tick()
			if err := login(old); !servers.Refused(err) {
				t.Errorf("%s, rotation %d: after the grace the old credential: %v", what, n, err)
			}
			if err := login(a.value()); err != nil {
				t.Errorf("%s, rotation %d: after the grace the current credential: %v", what, n, err)
			}
			if tags := a.tags(); tags[rotation.TagRetire] != "" || tags[rotation.TagRetired] != version {
				t.Errorf("%s, rotation %d: the tags are %v", what, n, tags)
			}
			in.mu.Lock()
			in.forward += 6 * time.Minute // names of records rest, and so does deduplication
			in.mu.Unlock()
		}
	}
	if t.Failed() {
		t.Log(in.log.String())
	}
}
