package functions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/locallambda"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/servers"
	"github.com/rekeyhq/rekey/rotators"
)

// application logs in to a server with what a parameter holds, read anew each time.
type application struct {
	in     *installation
	engine string
	name   string // of the parameter
	arn    string
	value  string // the first
	login  func(ctx context.Context, user, password string) error
}

// applications makes one of Redis and one of PostgreSQL.
func applications(t *testing.T, in *installation, redis *servers.RedisServer, name string, tags map[string]string) (all []*application) {
	t.Helper()
	for _, engine := range []string{"redis", "postgres"} {
		user := fmt.Sprintf("app_%d", users.Add(1))
		a := &application{in: in, engine: engine, name: "/" + engine + name, login: database.Login}
		host, port := database.Host, database.Port
		if engine == "redis" {
			a.login, host, port = redis.Login, redis.Host, redis.Port
			if _, err := redis.Do(t.Context(), "ACL", "SETUSER", user, "on", ">the first password", "+@all"); err != nil {
				t.Fatal(err)
			}
		} else if err := database.Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'the first password'", user)); err != nil {
			t.Fatal(err)
		}
		value, _ := json.Marshal(map[string]any{"host": host, "port": port, "username": user, "password": "the first password", "ssl": false})
		a.value = string(value)
		p := localaws.Parameter{Name: a.name, Type: "SecureString", Value: a.value, Description: "The shop's login", Tags: map[string]string{"rekey:rotator": engine, "rekey:every": "30d"}}
		for key, value := range tags {
			p.Tags[key] = value
		}
		in.cloud.AddParameter(p)
		a.arn = arnOf(a.name)
		all = append(all, a)
	}
	return all
}

func arnOf(name string) string {
	return "arn:aws:ssm:us-east-1:" + ours + ":parameter/" + strings.TrimPrefix(name, "/")
}

// reads is what the application reads now.
func (a *application) reads(t *testing.T) (version int64, value string) {
	t.Helper()
	out, err := a.in.ssm.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &a.name, WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	return out.Parameter.Version, *out.Parameter.Value
}

// logsIn returns the error of a login with a value.
func (a *application) logsIn(t *testing.T, value string) error {
	t.Helper()
	user, err := rotators.NewSecret(value).Field("username")
	password, err2 := rotators.NewSecret(value).Field("password")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return a.login(t.Context(), user.Reveal(), password.Reveal())
}

// untouched checks that nothing was changed: the application logs in as it did, there is
// no new version, and nothing was written for one.
func (a *application) untouched(t *testing.T, what string) {
	t.Helper()
	version, value := a.reads(t)
	if err := a.logsIn(t, value); err != nil {
		t.Errorf("%s: what the application reads: %v", what, err)
	}
	if version != 1 || value != a.value {
		t.Errorf("%s: version %d is current", what, version)
	}
	left, err := a.in.ssm.GetParametersByPath(t.Context(), &ssm.GetParametersByPathInput{Path: aws.String("/rekey/pending/" + paramstore.Parameter{ARN: a.arn}.Group())})
	if err != nil || len(left.Parameters) > 0 {
		t.Errorf("%s: %d records are left (%v)", what, len(left.Parameters), err)
	}
}

// send puts a message into the queue, as a stranger might whom no policy keeps from it, and
// returns what the worker's first invocation said. It ends when the queue has forgotten the
// message.
func (in *installation) send(t *testing.T, body, group string) (first error) {
	t.Helper()
	url := in.cloud.QueueURL(in.endpoint, liveQueue)
	_, err := in.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: &url, MessageBody: &body, MessageGroupId: &group, MessageDeduplicationId: aws.String(fmt.Sprint("stranger-", users.Add(1))),
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		err := <-in.ended
		if n == 0 {
			first = err
		}
		if err == nil {
			break
		}
		in.pass(30 * time.Second)
	}
	if err := in.cloud.Idle(t.Context(), liveQueue); err != nil {
		t.Fatal(err)
	}
	return first
}

// pass moves AWS's clock.
func (in *installation) pass(d time.Duration) {
	in.mu.Lock()
	in.forward += d
	in.mu.Unlock()
	in.cloud.Wake()
}

// A message chooses which parameter is rotated and nothing else, whoever sent it: whatever
// else it says, it is refused, the error says why, and applications log in as before.
func TestForgedMessages(t *testing.T) {
	in := newInstallation(t)
	redis := servers.StartRedis(t, servers.RedisOptions{ACLFile: true})
	group := func(arn string) string { return paramstore.Parameter{ARN: arn}.Group() }
	order := func(arn, name, more string) string {
		return fmt.Sprintf(`{"parameter":{"arn":%q,"name":%q,"base":1%s},"nonce":"n"}`, arn, name, more)
	}
	for what, c := range map[string]struct {
		forge  func(a *application) (body, group string)
		reason string
	}{
		// What the worker took from messages once. Applications were locked out by the first
		// of them: Parameter Store refused the promotion, after the target was changed.
		"a description that Parameter Store refuses": {func(a *application) (string, string) {
			return order(a.arn, a.name, `,"keyId":"alias/aws/ssm","tier":"Standard","description":"`+strings.Repeat("x", 1100)+`"`), group(a.arn)
		}, `unknown field "keyId"`},
		"another key": {func(a *application) (string, string) {
			return order(a.arn, a.name, `,"keyId":"`+in.key()+`","tier":"Standard"`), group(a.arn)
		}, `unknown field "keyId"`},
		"another tier": {func(a *application) (string, string) { return order(a.arn, a.name, `,"tier":"Advanced"`), group(a.arn) }, `unknown field "tier"`},
		"another pattern": {func(a *application) (string, string) {
			return order(a.arn, a.name, `,"tier":"Standard","allowedPattern":"the first"`), group(a.arn)
		}, `unknown field "tier"`},
		"no description": {func(a *application) (string, string) { return order(a.arn, a.name, `,"description":""`), group(a.arn) }, `unknown field "description"`},

		// Names.
		"a version": {func(a *application) (string, string) { return order(a.arn, a.name+":1", ""), group(a.arn) }, ` is not the name of a parameter: write the name alone`},
		"a version that the ARN has too": {func(a *application) (string, string) {
			return order(a.arn+":1", a.name+":1", ""), group(a.arn + ":1")
		}, ` is not the name of a parameter: write the name alone`},
		"the ARN for the name": {func(a *application) (string, string) { return order(a.arn, a.arn, ""), group(a.arn) }, ` is not the name of a parameter: write the name alone`},
		"the name of another":  {func(a *application) (string, string) { return order(a.arn, "/other", ""), group(a.arn) }, ` is not the ARN of the parameter /other`},
		"the ARN of another": {func(a *application) (string, string) {
			return order(arnOf("/other"), a.name, ""), group(arnOf("/other"))
		}, ` is not the ARN of the parameter /`},
		"a slash more": {func(a *application) (string, string) { return order(a.arn, a.name+"/", ""), group(a.arn) }, ` is not the name of a parameter: write the name alone`},
		"a pending value": {func(a *application) (string, string) {
			record := paramstore.Parameter{ARN: a.arn, Base: 1}.Record()
			return order(arnOf(record), record, ""), group(arnOf(record))
		}, "it is the pending value of a rotation"},
		"a secret of Secrets Manager": {func(a *application) (string, string) {
			const name = "/aws/reference/secretsmanager/app"
			return order(arnOf(name), name, ""), group(arnOf(name))
		}, "rotate that secret there"},
		"the ARN of a secret": {func(a *application) (string, string) {
			id := "arn:aws:secretsmanager:us-east-1:" + ours + ":parameter" + a.name
			return order(id, a.name, ""), group(id)
		}, " is not the ARN of the parameter "},
		"another account": {func(a *application) (string, string) {
			id := strings.Replace(a.arn, ours, "111122223333", 1)
			return order(id, a.name, ""), group(id)
		}, "is of the account 111122223333 in us-east-1, and this function is of the account " + ours},
		"another region": {func(a *application) (string, string) {
			id := strings.Replace(a.arn, "us-east-1", "eu-west-1", 1)
			return order(id, a.name, ""), group(id)
		}, "is of the account " + ours + " in eu-west-1"},

		// Versions.
		"version 0": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), `"base":1`, `"base":0`, 1), group(a.arn)
		}, "from which version"},
		"a version before": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), `"base":1`, `"base":-1`, 1), group(a.arn)
		}, "from which version"},
		"no number": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), `"base":1`, `"base":1e0`, 1), group(a.arn)
		}, "none of rekey's messages"},
		"a huge number": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), `"base":1`, `"base":9223372036854775808`, 1), group(a.arn)
		}, "none of rekey's messages"},

		// Spellings.
		"other capitals": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), "nonce", "Nonce", 1), group(a.arn)
		}, "not spelled as rekey spells it"},
		"a field twice": {func(a *application) (string, string) {
			return order(a.arn, a.name, fmt.Sprintf(`,"name":%q`, a.name)), group(a.arn)
		}, "not spelled as rekey spells it"},
		"what follows": {func(a *application) (string, string) { return order(a.arn, a.name, "") + " {}", group(a.arn) }, "not spelled as rekey spells it"},
		"a long message": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), `"n"`, `"`+strings.Repeat("n", 256<<10)+`"`, 1), group(a.arn)
		}, "no message of rekey's has more than 4096"},
		"a rotation and a retirement": {func(a *application) (string, string) {
			return strings.Replace(order(a.arn, a.name, ""), `,"nonce":"n"`, fmt.Sprintf(`,"retire":{"arn":%q,"name":%q,"version":"1"}`, a.arn, a.name), 1), group(a.arn)
		}, "a rotation and a retirement"},

		// Attributes. SQS hands out one message of a group at a time: in another group a
		// message would be processed beside the true one.
		"another group": {func(a *application) (string, string) { return order(a.arn, a.name, ""), "a-group-of-its-own" }, `its group is "a-group-of-its-own"`},
		"another group, to retire": {func(a *application) (string, string) {
			return fmt.Sprintf(`{"retire":{"arn":%q,"name":%q,"version":"1"}}`, a.arn, a.name), "a-group-of-its-own"
		}, `its group is "a-group-of-its-own"`},
		"the name of another, to retire": {func(a *application) (string, string) {
			return fmt.Sprintf(`{"retire":{"arn":%q,"name":"/other","version":"1"}}`, a.arn), group(a.arn)
		}, " is not the ARN of the parameter /other"},
		"no name, to retire": {func(a *application) (string, string) {
			return fmt.Sprintf(`{"retire":{"arn":%q,"version":"1"}}`, a.arn), group(a.arn)
		}, "is not the ARN of a secret"},
		"another account, to retire": {func(a *application) (string, string) {
			const id = "arn:aws:secretsmanager:us-east-1:111122223333:secret:app-AbCdEf"
			return fmt.Sprintf(`{"retire":{"arn":%q,"version":"1"}}`, id), group(id)
		}, "is of the account 111122223333"},
	} {
		t.Run(what, func(t *testing.T) {
			for _, a := range applications(t, in, redis, "/"+strings.NewReplacer(" ", "-", ",", "").Replace(what), nil) {
				asked := len(in.cloud.Calls())
				body, group := c.forge(a)
				var failed *locallambda.FunctionError
				if err := in.send(t, body, group); !errors.As(err, &failed) || failed.Type != "EventError" || !strings.Contains(failed.Message, c.reason) {
					t.Errorf("%s: %v", a.engine, err)
				} else if len(failed.Message) > maxBodyInError {
					t.Errorf("%s: the error has %d bytes", a.engine, len(failed.Message))
				}
				for _, call := range in.cloud.Calls()[asked:] {
					if call.Service != "sqs" && call.Operation != "CreateKey" {
						t.Errorf("%s: AWS was asked for %s", a.engine, call.Operation)
					}
				}
				a.untouched(t, a.engine)
			}
		})
	}
}

// maxBodyInError is how long an error about a message may be: what is wrong is quoted.
const maxBodyInError = 6 << 10

// A true message, sent by whoever may send, rotates and changes nothing else; a second
// one finds its work done.
func TestATrueMessageChangesNothingButThePassword(t *testing.T) {
	in := newInstallation(t)
	redis := servers.StartRedis(t, servers.RedisOptions{ACLFile: true})
	for _, a := range applications(t, in, redis, "/true", nil) {
		describe := func() string {
			found, err := paramstore.Describe(t.Context(), in.ssm, []string{a.name})
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			found[0].Base = 0
			return fmt.Sprintf("%+v", found[0])
		}
		before := describe()
		body := fmt.Sprintf(`{"parameter":{"arn":%q,"name":%q,"base":1}}`, a.arn, a.name)
		for range 2 {
			if err := in.send(t, body, paramstore.Parameter{ARN: a.arn}.Group()); err != nil {
				t.Fatal(err)
			}
			version, value := a.reads(t)
			if err := a.logsIn(t, value); err != nil || version != 2 {
				t.Errorf("%s: version %d: %v", a.engine, version, err)
			}
			if a.logsIn(t, a.value) == nil {
				t.Errorf("%s: the first password logs in", a.engine)
			}
		}
		if after := describe(); after != before {
			t.Errorf("%s: before %s\nafter  %s", a.engine, before, after)
		}
	}
}

// Who orders a retirement does not choose when: before the grace is over, while
// rekey:paused is set, and by another spelling of the ARN, the old credential goes on
// working. The grace over, the same message withdraws it.
func TestForgedRetirements(t *testing.T) {
	in := newInstallation(t)
	in.cloud.Handle("rekey-secret-rotator", in.function("secret-rotator"))
	redis := servers.StartRedis(t, servers.RedisOptions{ACLFile: true})
	secrets := secretsmanager.NewFromConfig(aws.Config{Region: "us-east-1", BaseEndpoint: &in.endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, in.log.String())
		}
	}
	group := func(arn string) string { return paramstore.Parameter{ARN: arn}.Group() }
	r := retiring{
		engine: "redis", strategy: "overlap", host: redis.Host, port: redis.Port, login: redis.Login, refused: servers.RedisRefused,
	}
	tags := map[string]string{"rekey:strategy": "overlap", "rekey:rotator": "redis"}
	user := func() string {
		name := fmt.Sprintf("aged_%d", users.Add(1))
		_, err := redis.Do(t.Context(), "ACL", "SETUSER", name, "on", ">the first password", "+@all")
		check(err)
		return name
	}
	secret := in.agedSecret(secrets, check, r, "/aged/redis/secret", r.value(user(), "the first password"), tags)
	parameter := in.agedParameter(check, r, "/aged/redis/parameter", r.value(user(), "the first password"), tags)
	described, err := secrets.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: aws.String("/aged/redis/secret")})
	check(err)
	for _, c := range []struct {
		*aged
		id, name string
	}{
		{secret, *described.ARN, ""},
		{parameter, arnOf("/aged/redis/parameter"), `,"name":"/aged/redis/parameter"`},
	} {
		c.had = []string{c.value()}
		c.rotate()
		c.had = append(c.had, c.value())
		for len(in.ended) > 0 {
			<-in.ended
		}
		version, _, _ := strings.Cut(c.tags()[rotation.TagRetire], " ")
		order := func(id string) error {
			return in.send(t, fmt.Sprintf(`{"retire":{"arn":%q%s,"version":%q}}`, id, c.name, version), group(id))
		}
		ends := func(in time.Duration) {
			c.tag(rotation.TagRetire, version+" "+time.Now().Add(in).UTC().Format(time.RFC3339))
		}
		for what, prepare := range map[string]func(){
			"a day early":         func() {},
			"two minutes early":   func() { ends(2 * time.Minute) },
			"paused, and in time": func() { ends(-time.Hour); c.tag("rekey:paused", "yes") },
		} {
			prepare()
			if err := order(c.id); err != nil {
				t.Errorf("%s, %s: %v", c.what, what, err)
			}
			c.works(t, what, true, true)
			c.tag("rekey:paused", "no")
			ends(24 * time.Hour)
		}
		ends(-time.Hour)
		if c.name == "" {
			partial := c.id[:len(c.id)-len("-AbCdEf")]
			if err := order(partial); err == nil || !strings.Contains(err.Error(), "the whole ARN of that secret is "+c.id) {
				t.Errorf("%s, by a part of its ARN: %v", c.what, err)
			}
			c.works(t, "by a part of its ARN", true, true)
		}
		check(order(c.id))
		c.works(t, "in time", false, true)
	}
}
