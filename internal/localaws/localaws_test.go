package localaws_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// cloud is a server and the SDK's configuration for it.
type cloud struct {
	t *testing.T
	*localaws.Server
	config aws.Config
	sm     *secretsmanager.Client
}

func newCloud(t *testing.T, config localaws.Config) *cloud {
	t.Helper()
	s := localaws.New(config)
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	t.Cleanup(s.Close)
	c := sdkConfig(web.URL)
	return &cloud{t: t, Server: s, config: c, sm: secretsmanager.NewFromConfig(c)}
}

// sdkConfig is the SDK's configuration for a server at that address.
func sdkConfig(url string) aws.Config {
	return aws.Config{
		Region:           "us-east-1",
		BaseEndpoint:     aws.String(url),
		RetryMaxAttempts: 1, // so that each call is one call
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "local", SecretAccessKey: "local"}, nil
		}),
	}
}

// token makes a version id that tells tests apart: "a" gives "aaaa...".
func token(letter string) *string { return aws.String(strings.Repeat(letter, 32)) }

// create makes the secret "db" with the version "a", and returns its ARN.
func (c *cloud) create() string {
	c.t.Helper()
	out, err := c.sm.CreateSecret(c.t.Context(), &secretsmanager.CreateSecretInput{
		Name: aws.String("db"), ClientRequestToken: token("a"), SecretString: aws.String("value a"),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return *out.ARN
}

// put stores "value <letter>" as the version <letter>.
func (c *cloud) put(letter string, stages ...string) error {
	_, err := c.sm.PutSecretValue(c.t.Context(), &secretsmanager.PutSecretValueInput{
		SecretId: aws.String("db"), ClientRequestToken: token(letter), SecretString: aws.String("value " + letter), VersionStages: stages,
	})
	return err
}

// get reads a value by version, by stage, or by both.
func (c *cloud) get(letter, stage string) (string, error) {
	in := &secretsmanager.GetSecretValueInput{SecretId: aws.String("db")}
	if letter != "" {
		in.VersionId = token(letter)
	}
	if stage != "" {
		in.VersionStage = aws.String(stage)
	}
	out, err := c.sm.GetSecretValue(c.t.Context(), in)
	if err != nil {
		return "", err
	}
	return *out.SecretString, nil
}

func (c *cloud) move(stage, from, to string) error {
	in := &secretsmanager.UpdateSecretVersionStageInput{SecretId: aws.String("db"), VersionStage: aws.String(stage)}
	if from != "" {
		in.RemoveFromVersionId = token(from)
	}
	if to != "" {
		in.MoveToVersionId = token(to)
	}
	_, err := c.sm.UpdateSecretVersionStage(c.t.Context(), in)
	return err
}

func (c *cloud) rotate(letter string, change func(*secretsmanager.RotateSecretInput)) error {
	in := &secretsmanager.RotateSecretInput{
		SecretId: aws.String("db"), ClientRequestToken: token(letter), RotationLambdaARN: aws.String(c.FunctionARN("rotator")),
	}
	if change != nil {
		change(in)
	}
	_, err := c.sm.RotateSecret(c.t.Context(), in)
	return err
}

func (c *cloud) describe() *secretsmanager.DescribeSecretOutput {
	c.t.Helper()
	out, err := c.sm.DescribeSecret(c.t.Context(), &secretsmanager.DescribeSecretInput{SecretId: aws.String("db")})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// labels writes the secret's labels as "a:AWSPREVIOUS b:AWSCURRENT".
func (c *cloud) labels() string {
	c.t.Helper()
	var out []string
	for id, stages := range c.describe().VersionIdsToStages {
		slices.Sort(stages)
		out = append(out, id[:1]+":"+strings.Join(stages, "+"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (c *cloud) wantLabels(want string) {
	c.t.Helper()
	if got := c.labels(); got != want {
		c.t.Errorf("labels are %q, want %q", got, want)
	}
}

// want fails unless err is of the SDK's type E.
func want[E error](t *testing.T, what string, err error) {
	t.Helper()
	if _, ok := errors.AsType[E](err); !ok {
		t.Errorf("%s: error is %v, want %v", what, err, reflect.TypeFor[E]())
	}
}

func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != code {
		t.Errorf("%s: error is %v, want %s", what, err, code)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLabelsMove(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	c.create()
	c.wantLabels("a:AWSCURRENT")
	must(t, c.put("b", "AWSPENDING", "MINE"))
	c.wantLabels("a:AWSCURRENT b:AWSPENDING+MINE")

	want[*types.InvalidParameterException](t, "AWSCURRENT moved without saying from where", c.move("AWSCURRENT", "", "b"))
	want[*types.InvalidParameterException](t, "AWSCURRENT moved from the wrong version", c.move("AWSCURRENT", "b", "b"))
	want[*types.InvalidParameterException](t, "AWSCURRENT taken away", c.move("AWSCURRENT", "a", ""))
	want[*types.InvalidParameterException](t, "a label taken from where it is not", c.move("MINE", "a", ""))
	want[*types.ResourceNotFoundException](t, "AWSCURRENT moved to no version", c.move("AWSCURRENT", "a", "z"))
	c.wantLabels("a:AWSCURRENT b:AWSPENDING+MINE")

	must(t, c.move("AWSCURRENT", "a", "b"))
	c.wantLabels("a:AWSPREVIOUS b:AWSCURRENT+MINE")
	want[*types.InvalidParameterException](t, "AWSCURRENT moved a second time", c.move("AWSCURRENT", "a", "b"))

	must(t, c.put("c")) // without stages: current at once
	c.wantLabels("b:AWSPREVIOUS+MINE c:AWSCURRENT")
	must(t, c.move("MINE", "b", ""))
	must(t, c.move("AWSCURRENT", "c", "b"))
	c.wantLabels("b:AWSCURRENT c:AWSPREVIOUS")

	// The first version, now without a label, answers by id alone.
	if v, err := c.get("a", ""); err != nil || v != "value a" {
		t.Errorf("the unlabelled version reads as %q, %v", v, err)
	}
	for _, row := range []struct {
		deprecated bool
		want       int
	}{{false, 2}, {true, 3}} {
		list, err := c.sm.ListSecretVersionIds(t.Context(), &secretsmanager.ListSecretVersionIdsInput{SecretId: aws.String("db"), IncludeDeprecated: aws.Bool(row.deprecated)})
		must(t, err)
		if len(list.Versions) != row.want {
			t.Errorf("IncludeDeprecated=%t lists %d versions, want %d", row.deprecated, len(list.Versions), row.want)
		}
	}
}

func TestTokenIsIdempotent(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	arn := c.create()
	must(t, c.put("b", "AWSPENDING"))
	must(t, c.put("b", "AWSCURRENT")) // same token, same data: does nothing, the labels stay
	c.wantLabels("a:AWSCURRENT b:AWSPENDING")

	_, err := c.sm.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, ClientRequestToken: token("b"), SecretString: aws.String("other")})
	want[*types.ResourceExistsException](t, "same token, other data", err)
	_, err = c.sm.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, ClientRequestToken: token("b"), SecretBinary: []byte("value b")})
	want[*types.ResourceExistsException](t, "same token, same bytes, not a string", err)
	_, err = c.sm.UpdateSecret(t.Context(), &secretsmanager.UpdateSecretInput{SecretId: &arn, ClientRequestToken: token("b"), SecretString: aws.String("value b")})
	want[*types.ResourceExistsException](t, "UpdateSecret with a known token", err)

	again, err := c.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("db"), ClientRequestToken: token("a"), SecretString: aws.String("value a")})
	if err != nil || *again.ARN != arn {
		t.Errorf("the same CreateSecret once more: %v", err)
	}
	_, err = c.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("db"), ClientRequestToken: token("c"), SecretString: aws.String("value a")})
	want[*types.ResourceExistsException](t, "another secret of the same name", err)
	if v, _ := c.get("b", "AWSPENDING"); v != "value b" {
		t.Errorf("the pending value is %q", v)
	}
}

func TestReadingWhatIsNotThere(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	arn := c.create()
	must(t, c.Reserve(arn, *token("b")))
	c.wantLabels("a:AWSCURRENT b:AWSPENDING")
	if on := c.describe().RotationEnabled; on == nil || !*on {
		t.Error("rotation is not enabled after Reserve")
	}

	notThere := func(letter, stage string) {
		t.Helper()
		_, err := c.get(letter, stage)
		want[*types.ResourceNotFoundException](t, letter+"/"+stage, err)
	}
	notThere("b", "AWSPENDING") // empty
	notThere("", "AWSPENDING")
	notThere("", "AWSPREVIOUS")
	notThere("z", "")
	_, err := c.get("a", "AWSPENDING")
	want[*types.InvalidRequestException](t, "version and stage disagree", err)
	want[*types.InvalidRequestException](t, "AWSCURRENT moved to an empty version", c.move("AWSCURRENT", "a", "b"))

	must(t, c.put("b", "AWSPENDING")) // the empty version takes its value
	if v, err := c.get("b", "AWSPENDING"); err != nil || v != "value b" {
		t.Errorf("the reserved version reads as %q, %v", v, err)
	}

	for _, id := range []string{"db", arn, arn[:len(arn)-7]} {
		if _, err := c.sm.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &id}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []string{"d", arn + "x", strings.Replace(arn, "us-east-1", "us-east-2", 1)} {
		_, err := c.sm.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &id})
		want[*types.ResourceNotFoundException](t, id, err)
	}
}

func TestLimits(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	c := newCloud(t, localaws.Config{Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	c.create()
	put := func(in secretsmanager.PutSecretValueInput) error {
		in.SecretId = aws.String("db")
		_, err := c.sm.PutSecretValue(t.Context(), &in)
		return err
	}
	wantCode(t, "a value too long", put(secretsmanager.PutSecretValueInput{SecretString: aws.String(strings.Repeat("x", 65537))}), "ValidationException")
	wantCode(t, "an empty value", put(secretsmanager.PutSecretValueInput{SecretString: aws.String("")}), "ValidationException")
	want[*types.InvalidParameterException](t, "a string and bytes", put(secretsmanager.PutSecretValueInput{SecretString: aws.String("x"), SecretBinary: []byte("x")}))
	want[*types.InvalidParameterException](t, "a short token", put(secretsmanager.PutSecretValueInput{SecretString: aws.String("x"), ClientRequestToken: aws.String("short")}))

	var labels []string
	for i := range 20 {
		labels = append(labels, fmt.Sprint("L", i))
	}
	want[*types.LimitExceededException](t, "21 labels on two versions", put(secretsmanager.PutSecretValueInput{SecretString: aws.String("x"), VersionStages: labels}))
	must(t, put(secretsmanager.PutSecretValueInput{SecretString: aws.String("x"), VersionStages: labels[:19]}))

	binary := []byte{0, 1, 0xff}
	must(t, put(secretsmanager.PutSecretValueInput{SecretBinary: binary}))
	out, err := c.sm.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String("db")})
	if err != nil || !slices.Equal(out.SecretBinary, binary) || out.SecretString != nil {
		t.Errorf("bytes read as %v, %v", out, err)
	}

	c = newCloud(t, localaws.Config{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	c.create()
	must(t, c.move("KEEP", "", "a"))
	must(t, c.put("b"))
	for i := range 98 {
		must(t, put(secretsmanager.PutSecretValueInput{SecretString: aws.String(fmt.Sprint(i))}))
	}
	want[*types.LimitExceededException](t, "the 101st version of one day", put(secretsmanager.PutSecretValueInput{SecretString: aws.String("x")}))
	mu.Lock()
	now = now.Add(24 * time.Hour)
	mu.Unlock()
	must(t, put(secretsmanager.PutSecretValueInput{SecretString: aws.String("x")}))
	_, err = c.get("b", "")
	want[*types.ResourceNotFoundException](t, "the oldest version without a label, after a day", err)
	if _, err := c.get("a", "KEEP"); err != nil {
		t.Errorf("the oldest version, which has a label: %v", err)
	}
}

func TestWhoMayWrite(t *testing.T) {
	for name, change := range map[string]func(*localaws.Secret){
		"managed": func(s *localaws.Secret) { s.OwningService = "rds" },
		"replica": func(s *localaws.Secret) { s.PrimaryRegion = "eu-west-1" },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, localaws.Config{Functions: map[string]localaws.Function{"rotator": function(nil)}})
			c.create()
			must(t, c.put("b", "AWSPENDING"))
			must(t, c.Edit("db", change))
			want[*types.InvalidRequestException](t, "PutSecretValue", c.put("c"))
			want[*types.InvalidRequestException](t, "UpdateSecretVersionStage", c.move("AWSCURRENT", "a", "b"))
			want[*types.InvalidRequestException](t, "RotateSecret", c.rotate("c", nil))
			if v, err := c.get("", ""); err != nil || v != "value a" {
				t.Errorf("the value reads as %q, %v", v, err)
			}
			d := c.describe()
			if d.RotationEnabled != nil || d.Type != nil || aws.ToString(d.OwningService) == "" && aws.ToString(d.PrimaryRegion) == "" {
				t.Errorf("described as %+v", d)
			}
		})
	}
}

func TestDeleteAndRestore(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	c.create()
	id := aws.String("db")
	_, err := c.sm.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: id})
	must(t, err)
	if c.describe().DeletedDate == nil {
		t.Error("no DeletedDate")
	}
	_, err = c.get("", "")
	want[*types.InvalidRequestException](t, "read", err)
	want[*types.InvalidRequestException](t, "write", c.put("b"))
	_, err = c.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: id})
	want[*types.InvalidRequestException](t, "create again", err)
	_, err = c.sm.RestoreSecret(t.Context(), &secretsmanager.RestoreSecretInput{SecretId: id})
	must(t, err)
	if v, err := c.get("", ""); err != nil || v != "value a" {
		t.Errorf("restored, it reads as %q, %v", v, err)
	}
	_, err = c.sm.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: id, ForceDeleteWithoutRecovery: aws.Bool(true)})
	must(t, err)
	_, err = c.get("", "")
	want[*types.ResourceNotFoundException](t, "read what is gone", err)
	c.create()
}

func TestListAndTags(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	for _, name := range []string{"app/one", "app/two", "app/three", "other"} {
		_, err := c.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: aws.String("x")})
		must(t, err)
	}
	tags := []types.Tag{{Key: aws.String("rekey:grace"), Value: aws.String("1h")}, {Key: aws.String("team"), Value: aws.String("x")}}
	_, err := c.sm.TagResource(t.Context(), &secretsmanager.TagResourceInput{SecretId: aws.String("app/two"), Tags: tags})
	must(t, err)
	_, err = c.sm.UntagResource(t.Context(), &secretsmanager.UntagResourceInput{SecretId: aws.String("app/two"), TagKeys: []string{"team", "none"}})
	must(t, err)

	for _, row := range []struct {
		key    types.FilterNameStringType
		values []string
		want   string
	}{
		{"name", []string{"app/"}, "app/one app/three app/two"},
		{"name", []string{"!app/"}, "other"},
		{"name", []string{"app/o", "o"}, "app/one other"},
		{"tag-key", []string{"rekey:"}, "app/two"},
		{"tag-key", []string{"team"}, ""},
		{"all", []string{"1h"}, "app/two"},
	} {
		var got []string
		pages := secretsmanager.NewListSecretsPaginator(c.sm, &secretsmanager.ListSecretsInput{
			MaxResults: aws.Int32(2), SortBy: types.SortByTypeName,
			Filters: []types.Filter{{Key: row.key, Values: row.values}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			must(t, err)
			for _, s := range page.SecretList {
				got = append(got, *s.Name)
				if len(s.SecretVersionsToStages) != 1 {
					t.Errorf("%s is listed with the versions %v", *s.Name, s.SecretVersionsToStages)
				}
			}
		}
		if strings.Join(got, " ") != row.want {
			t.Errorf("%s %q lists %v, want %s", row.key, row.values, got, row.want)
		}
	}
	_, err = c.sm.ListSecrets(t.Context(), &secretsmanager.ListSecretsInput{NextToken: aws.String("nonsense")})
	want[*types.InvalidNextTokenException](t, "a token nobody gave", err)
}

func TestKeys(t *testing.T) {
	c := newCloud(t, localaws.Config{})
	keys := kms.NewFromConfig(c.config)
	made, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
	must(t, err)
	id := made.KeyMetadata.Arn
	_, err = c.sm.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("db"), ClientRequestToken: token("a"), SecretString: aws.String("value a"), KmsKeyId: id})
	must(t, err)

	unusable := func(why string) {
		t.Helper()
		_, err := c.get("", "")
		want[*types.DecryptionFailure](t, "read, "+why, err)
		want[*types.EncryptionFailure](t, "write, "+why, c.put("b"))
	}
	_, err = keys.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: id})
	must(t, err)
	unusable("disabled")
	c.wantLabels("a:AWSCURRENT")
	_, err = keys.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: made.KeyMetadata.KeyId})
	must(t, err)
	must(t, c.put("b"))

	// Another key takes over what AWS's labels reach, and nothing else.
	must(t, c.put("c"))
	_, err = c.sm.UpdateSecret(t.Context(), &secretsmanager.UpdateSecretInput{SecretId: aws.String("db"), KmsKeyId: aws.String("alias/aws/secretsmanager")})
	must(t, err)
	_, err = keys.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: aws.Int32(7)})
	must(t, err)
	for letter, readable := range map[string]bool{"a": false, "b": true, "c": true} {
		if _, err := c.get(letter, ""); (err == nil) != readable {
			t.Errorf("version %s after the change of key: %v", letter, err)
		}
	}
	_, err = keys.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: id})
	want[*kmstypes.KMSInvalidStateException](t, "enable what is pending deletion", err)
	k, err := keys.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: id})
	if err != nil || k.KeyMetadata.KeyState != kmstypes.KeyStatePendingDeletion || k.KeyMetadata.DeletionDate == nil {
		t.Errorf("described as %+v, %v", k, err)
	}
	_, err = keys.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("none")})
	want[*kmstypes.NotFoundException](t, "an unknown key", err)
}

func TestProtocol(t *testing.T) {
	c := newCloud(t, localaws.Config{Account: "123456789012"})
	who, err := sts.NewFromConfig(c.config).GetCallerIdentity(t.Context(), nil)
	if err != nil || *who.Account != "123456789012" || *who.Arn != "arn:aws:iam::123456789012:root" {
		t.Errorf("the caller is %+v, %v", who, err)
	}
	_, err = c.sm.GetRandomPassword(t.Context(), nil)
	wantCode(t, "an operation it does not speak", err, "UnknownOperationException")
	if !strings.Contains(err.Error(), "localaws does not speak secretsmanager GetRandomPassword") {
		t.Errorf("the error does not name the operation: %v", err)
	}
	_, err = sts.NewFromConfig(c.config).GetSessionToken(t.Context(), nil)
	wantCode(t, "an action it does not speak", err, "InvalidAction")

	for _, row := range []struct {
		target, body, auth string
		status             int
		want               string
	}{
		{"secretsmanager.ListSecrets", `{}`, "", 400, `"__type":"MissingAuthenticationTokenException"`},
		{"", "Action=GetCallerIdentity&Version=2011-06-15", "", 403, "<Code>MissingAuthenticationToken</Code>"},
		{"", "", "AWS4-HMAC-SHA256 x", 400, "localaws does not speak POST /"},
		{"secretsmanager.PutSecretValue", `{"SecretString":"hunter2"`, "AWS4-HMAC-SHA256 x", 400, "SerializationException"},
		{"secretsmanager.DescribeSecret", `{"SecretId":"none"}`, "AWS4-HMAC-SHA256 x", 400, `{"__type":"ResourceNotFoundException","Message":"Secrets Manager can't find the specified secret."}`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", *c.config.BaseEndpoint, strings.NewReader(row.body))
		must(t, err)
		if row.target != "" {
			req.Header.Set("X-Amz-Target", row.target)
		}
		if row.auth != "" {
			req.Header.Set("Authorization", row.auth)
		}
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, errors.Join(err, res.Body.Close()))
		if res.StatusCode != row.status || !strings.Contains(string(body), row.want) || strings.Contains(string(body), "hunter2") {
			t.Errorf("%s %s: %d %s, want %d with %s", row.target, row.body, res.StatusCode, body, row.status, row.want)
		}
	}
}

func TestFaults(t *testing.T) {
	var mu sync.Mutex
	next := localaws.None
	c := newCloud(t, localaws.Config{Fault: func(call localaws.Call) localaws.Fault {
		mu.Lock()
		defer mu.Unlock()
		if call.Operation == "PutSecretValue" {
			return next
		}
		return localaws.None
	}})
	c.create()
	put := func(f localaws.Fault, letter string) error {
		mu.Lock()
		next = f
		mu.Unlock()
		return c.put(letter)
	}

	wantCode(t, "refused", put(localaws.RefuseBefore, "b"), "AccessDeniedException")
	wantCode(t, "throttled", put(localaws.Throttle, "b"), "ThrottlingException")
	c.wantLabels("a:AWSCURRENT")

	err := put(localaws.LoseReply, "b")
	if _, answered := errors.AsType[smithy.APIError](err); err == nil || answered {
		t.Errorf("the lost reply came: %v", err)
	}
	c.wantLabels("a:AWSPREVIOUS b:AWSCURRENT")

	must(t, put(localaws.Lag, "c"))
	c.wantLabels("b:AWSPREVIOUS c:AWSCURRENT")
	_, err = c.get("c", "")
	want[*types.ResourceNotFoundException](t, "a value that lags", err)
	c.CatchUp()
	if v, err := c.get("c", ""); err != nil || v != "value c" {
		t.Errorf("after catching up it reads as %q, %v", v, err)
	}

	var puts []int
	calls := c.Calls()
	for i, call := range calls {
		if call.N != i+1 || call.Service != "secretsmanager" {
			t.Errorf("call %d is %+v", i+1, call)
		}
		if call.Operation == "PutSecretValue" {
			puts = append(puts, call.N)
		}
	}
	if !slices.Equal(puts, []int{2, 3, 5, 7}) {
		t.Errorf("PutSecretValue is among the calls at %v: %v", puts, calls)
	}
}
