package functions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
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

// retiring is an engine and a strategy that leave something to retire.
type retiring struct {
	engine, strategy string
	host             string
	port             int
	admin            bool
	tags             map[string]string
	grace            time.Duration
	user             func(name string) error // makes a user, with the first password
	login            func(ctx context.Context, user, password string) error
	refused          func(error) bool
}

// value is that of a user, as a JSON object.
func (r retiring) value(user, password string) string {
	text, _ := json.Marshal(map[string]any{"engine": r.engine, "host": r.host, "port": r.port, "username": user, "password": password, "ssl": false})
	return string(text)
}

// aged is a secret or a parameter that such a user logs in with.
type aged struct {
	retiring
	what   string
	plain  string // the user whose password alone the value is; "": it is a JSON object
	rotate func()
	value  func() string
	tags   func() map[string]string
	tag    func(key, value string)

	had     []string // the values there were, oldest first
	version string   // to be retired
}

// logsIn tells whether the server takes a value, by a plain driver.
func (a *aged) logsIn(t *testing.T, value string) bool {
	t.Helper()
	user, password := a.plain, value
	if a.plain == "" {
		u, _ := rotators.NewSecret(value).Field("username")
		p, _ := rotators.NewSecret(value).Field("password")
		user, password = u.Reveal(), p.Reveal()
	}
	err := a.login(t.Context(), user, password)
	if err != nil && !a.refused(err) {
		t.Fatalf("%s: cannot tell whether a value logs in: %v", a.what, err)
	}
	return err == nil
}

// works checks which of the values that there were log in, oldest first.
func (a *aged) works(t *testing.T, when string, want ...bool) {
	t.Helper()
	for i, value := range a.had {
		if got := a.logsIn(t, value); got != want[i] {
			t.Errorf("%s, %s: value %d logs in: %t", a.what, when, i, got)
		}
	}
}

// The planner retires what outlived its grace, of every engine and in both services,
// through the shipped binaries: before that the old credential logs in, after it is
// refused, and the next rotation finds its way all the same. All is encrypted under
// customers' keys. One that comes inside
// the grace retires the older credential first.
func TestRetirementAfterTheGrace(t *testing.T) {
	in := newInstallation(t)
	in.cloud.Handle("rekey-secret-rotator", in.function("secret-rotator"))
	cfg := aws.Config{Region: "us-east-1", BaseEndpoint: &in.endpoint, Credentials: credentials.NewStaticCredentialsProvider("local", "local", "")}
	secrets := secretsmanager.NewFromConfig(cfg)
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, in.log.String())
		}
	}
	maria, err := servers.MariaDB(ctx, servers.MySQLOptions{})
	check(err)
	t.Cleanup(maria.Stop)
	redis := servers.StartRedis(t, servers.RedisOptions{ACLFile: true})

	const password = "the first password"
	makesMariaDB := func(name string) error {
		return maria.Exec(ctx, "CREATE USER "+name+" IDENTIFIED BY '"+password+"'")
	}
	var all []*aged
	for _, r := range []retiring{
		{
			engine: "postgres", strategy: "alternating-users", host: database.Host, port: database.Port, admin: true,
			tags: map[string]string{"rekey:grace": "7d"}, grace: 7 * 24 * time.Hour,
			user: func(name string) error {
				return database.Exec(ctx, "CREATE ROLE "+name+" LOGIN PASSWORD '"+password+"'")
			},
			login: database.Login, refused: servers.Refused,
		},
		{
			engine: "mariadb", strategy: "alternating-users", host: maria.Host, port: maria.Port, admin: true,
			tags: map[string]string{"rekey:grace": "7d"}, grace: 7 * 24 * time.Hour,
			user: makesMariaDB, login: maria.Login, refused: servers.MySQLRefused,
		},
		{
			engine: "mariadb", strategy: "overlap", host: maria.Host, port: maria.Port, admin: true,
			tags: map[string]string{"rekey:strategy": "overlap"}, grace: 24 * time.Hour,
			user: makesMariaDB, login: maria.Login, refused: servers.MySQLRefused,
		},
		{
			engine: "redis", strategy: "overlap", host: redis.Host, port: redis.Port,
			tags: map[string]string{"rekey:strategy": "overlap"}, grace: 24 * time.Hour,
			user: func(name string) error {
				_, err := redis.Do(ctx, "ACL", "SETUSER", name, "on", ">"+password, "+@all")
				return err
			},
			login: redis.Login, refused: servers.RedisRefused,
		},
	} {
		tags := maps.Clone(r.tags)
		if r.admin {
			tags["rekey:admin"] = "admin/" + r.engine + "/" + r.strategy
			admin := map[string][2]string{"postgres": {database.User, database.Password}, "mariadb": {maria.User, maria.Password}}[r.engine]
			_, err := secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String(tags["rekey:admin"]), SecretString: aws.String(r.value(admin[0], admin[1]))})
			check(err)
		}
		user := func() string {
			name := fmt.Sprintf("aged_%d", users.Add(1))
			check(r.user(name))
			return name
		}
		name := "/aged/" + r.engine + "/" + r.strategy
		all = append(all,
			in.agedSecret(secrets, check, r, name, r.value(user(), password), tags),
			in.agedParameter(check, r, name, r.value(user(), password), tags))
		if r.strategy == "overlap" {
			tags = maps.Clone(tags)
			owner := user()
			tags["rekey:connection"] = (&url.URL{Scheme: r.engine, User: url.User(owner), Host: fmt.Sprintf("%s:%d", r.host, r.port), RawQuery: "sslmode=disable"}).String()
			plain := in.agedParameter(check, r, name+"/plain", password, tags)
			plain.plain = owner
			all = append(all, plain)
		}
	}

	rotate := func() {
		t.Helper()
		for _, a := range all {
			a.rotate()
			a.had = append(a.had, a.value())
			version, at, _ := strings.Cut(a.tags()[rotation.TagRetire], " ")
			over, err := time.Parse(time.RFC3339, at)
			if left := time.Until(over); err != nil || version == "" || left < a.grace-time.Hour || left > a.grace+time.Hour {
				t.Fatalf("%s: the grace of version %q is over at %q\n%s", a.what, version, at, in.log.String())
			}
			a.version = version
		}
		in.mu.Lock()
		in.forward += 6 * time.Minute // names of records rest, and so does deduplication
		in.mu.Unlock()
	}
	// over ends every grace, and has the planner find out.
	over := func() {
		t.Helper()
		for _, a := range all {
			a.tag(rotation.TagRetire, a.version+" "+time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
		}
		in.tick()
		for _, a := range all {
			if tags := a.tags(); tags[rotation.TagRetire] != "" || tags[rotation.TagRetired] != a.version {
				t.Errorf("%s: after the grace the tags are %v", a.what, tags)
			}
		}
	}

	for _, a := range all {
		a.had = []string{a.value()}
	}
	rotate()
	in.tick() // the grace is not over
	for _, a := range all {
		a.works(t, "inside the grace", true, true)
	}
	oldest := map[*aged]string{}
	for _, a := range all {
		oldest[a] = a.version
	}
	rotate()
	for _, a := range all {
		a.works(t, "rotated again inside the grace", false, true, true)
		if retired := a.tags()[rotation.TagRetired]; retired != oldest[a] {
			t.Errorf("%s: rotated again inside the grace it has retired version %q, not %s", a.what, retired, oldest[a])
		}
	}
	over()
	for _, a := range all {
		a.works(t, "after the grace", false, false, true)
	}
	rotate()
	for _, a := range all {
		a.works(t, "rotated after a retirement", false, false, true, true)
	}
	over()
	for _, a := range all {
		a.works(t, "after the next grace", false, false, false, true)
	}
	if t.Failed() {
		t.Log(in.log.String())
	}
}

// key makes a customer's KMS key.
func (in *installation) key() string {
	return customerKey(in.t, in.ssm.Options().Credentials, in.endpoint)
}

// agedParameter makes a parameter.
func (in *installation) agedParameter(check func(error), r retiring, name, value string, tags map[string]string) *aged {
	ctx := in.t.Context()
	tags = maps.Clone(tags)
	tags["rekey:rotator"], tags["rekey:every"] = r.engine, "30d"
	tier := "Standard"
	if strings.HasSuffix(name, "/plain") {
		tier = "Advanced" // which is encrypted in another way
	}
	in.cloud.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: value, KeyID: in.key(), Tier: tier, Changed: time.Now(), Tags: tags})
	nonce := 0
	return &aged{
		retiring: r, what: "parameter " + name,
		rotate: func() {
			found, err := paramstore.Describe(ctx, in.ssm, []string{name})
			check(err)
			nonce++
			_, err = queue.Send(ctx, in.sqs, in.cloud.QueueURL(in.endpoint, liveQueue), []queue.Message{{Parameter: found[0].Parameter, Nonce: fmt.Sprint(nonce)}})
			check(err)
			check(in.cloud.Idle(ctx, liveQueue))
		},
		value: func() string {
			out, err := in.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
			check(err)
			return *out.Parameter.Value
		},
		tags: func() map[string]string {
			out, err := in.ssm.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: "Parameter", ResourceId: &name})
			check(err)
			tags := map[string]string{}
			for _, tag := range out.TagList {
				tags[*tag.Key] = *tag.Value
			}
			return tags
		},
		tag: func(key, value string) {
			_, err := in.ssm.AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{ResourceType: "Parameter", ResourceId: &name, Tags: []types.Tag{{Key: &key, Value: &value}}})
			check(err)
		},
	}
}

// agedSecret makes a secret.
func (in *installation) agedSecret(secrets *secretsmanager.Client, check func(error), r retiring, name, value string, tags map[string]string) *aged {
	ctx := in.t.Context()
	create := &secretsmanager.CreateSecretInput{Name: &name, SecretString: &value, KmsKeyId: aws.String(in.key())}
	for key, value := range tags {
		create.Tags = append(create.Tags, smtypes.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
	created, err := secrets.CreateSecret(ctx, create)
	check(err)
	return &aged{
		retiring: r, what: "secret " + name,
		rotate: func() {
			_, err := secrets.RotateSecret(ctx, &secretsmanager.RotateSecretInput{
				SecretId: created.ARN, RotationLambdaARN: aws.String(in.cloud.FunctionARN("rekey-secret-rotator")),
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
}

// Somebody who turns a secret's rotation off has the old credential stay, too: the order
// ends, and does not come back at once until it is a dead letter.
func TestNoRetirementWhereRotationIsOff(t *testing.T) {
	p := newParameter(t, asJSON, nil)
	client := secretsmanager.NewFromConfig(p.config(http.DefaultTransport))
	created, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("app"), SecretString: &p.first})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cloud.Reserve(*created.ARN, token); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CancelRotateSecret(t.Context(), &secretsmanager.CancelRotateSecretInput{SecretId: created.ARN}); err != nil {
		t.Fatal(err)
	}
	p.Message = queue.Message{Retire: &queue.Retirement{ARN: *created.ARN, Version: token}}
	if err := p.deliver(); err != nil {
		t.Errorf("the order comes back: %v", err)
	}
}
