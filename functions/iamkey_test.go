package functions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/functions"
	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/queue"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/iamkey"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// keyed is a user of IAM whose one key is in a secret or a parameter, in an AWS with
// a clock that only those move who wait by it.
type keyed struct {
	t        *testing.T
	cloud    *localaws.Server
	rekeys   string                   // endpoint of the functions
	person   aws.Config               // of somebody who may do everything
	service  string                   // "secretsmanager" or "ssm"
	arn      string                   // of the secret or parameter
	order    []byte                   // of the parameter's rotation
	vendor   *vendor                  // of keys with names; nil: none
	first    string                   // the value
	previous string                   // the value that the rotation is to replace
	over     bool                     // whether its grace is
	slow     map[string]time.Duration // how long calls take, by operation
	reader   func()                   // called before each call of the functions; nil: nobody is
	mu       sync.Mutex               // of all below
	now      time.Time
	died     bool                // whether a process did
	reached  func(moment string) // called when a process dies
	count    map[string]int      // the functions' calls, by operation
	moments  []string            // all of them
	ours     map[string]bool     // keys that the functions minted or the secret recorded
	full     int                 // times that there was no room for a key
	harm     error               // to somebody else's key
	denied   string              // the action that nobody may; "": everybody may everything
}

const (
	keyName = "/shop/key"
	keyUser = "app"
	// runIsOver is after how long no run can be alive any more that began before: the
	// longest that Lambda lets one be, and a minute.
	runIsOver = 16 * time.Minute
)

func newKeyed(t *testing.T, service string, delays localaws.IAMDelays) *keyed {
	t.Helper()
	t.Setenv("REKEY_QUEUE_URL", "https://queue")
	t.Setenv("REKEY_SSM_WRITES_PER_SECOND", "1000") // nothing here is about the quota
	k := &keyed{t: t, service: service, now: time.Date(2026, 11, 24, 1, 2, 3, 4e8, time.UTC), count: map[string]int{}, ours: map[string]bool{}}
	k.cloud = localaws.New(localaws.Config{Now: k.time, IAMDelays: delays, Authorize: k.authorize})
	t.Cleanup(k.cloud.Close)
	person, rekeys := httptest.NewServer(k.cloud), httptest.NewServer(http.HandlerFunc(k.serve))
	t.Cleanup(person.Close)
	t.Cleanup(rekeys.Close)
	k.person, k.rekeys = k.config(http.DefaultTransport, person.URL), rekeys.URL

	id, secret := k.cloud.AddAccessKey(k.cloud.AddUser(localaws.User{UserName: keyUser, Path: "/shop/"}))
	k.ours[id] = true
	k.first = fmt.Sprintf(`{ "UserName":%q, "AccessKeyId":%q, "SecretAccessKey":%q, "note":1.50 }`, keyUser, id, secret)
	k.previous = k.first
	tags := map[string]string{"rekey:rotator": "iam-key", "rekey:every": "30d"}
	if service == "ssm" {
		k.cloud.AddParameter(localaws.Parameter{Name: keyName, Type: "SecureString", Value: k.first, Tags: tags, Changed: k.now.AddDate(0, 0, -40)})
	} else {
		create := &secretsmanager.CreateSecretInput{Name: aws.String(keyName), SecretString: &k.first}
		for key, value := range tags {
			create.Tags = append(create.Tags, smtypes.Tag{Key: aws.String(key), Value: aws.String(value)})
		}
		out, err := secretsmanager.NewFromConfig(k.person).CreateSecret(t.Context(), create)
		if err != nil {
			t.Fatal(err)
		}
		k.arn = *out.ARN
	}
	k.begin(token)
	return k
}

// begin orders a rotation.
func (k *keyed) begin(token string) {
	k.t.Helper()
	if k.service != "ssm" {
		if err := k.cloud.Reserve(k.arn, token); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	found, err := paramstore.Describe(k.t.Context(), ssm.NewFromConfig(k.person), []string{keyName})
	if err != nil || len(found) != 1 || found[0].Refused != nil {
		k.t.Fatalf("described as %+v (%v)", found, err)
	}
	k.arn = found[0].ARN
	k.order = k.message(queue.Message{Parameter: found[0].Parameter})
}

// message is the event that carries an order.
func (k *keyed) message(m queue.Message) []byte {
	k.t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		k.t.Fatal(err)
	}
	event, err := json.Marshal(events.SQSEvent{Records: []events.SQSMessage{{MessageId: "m", Body: string(body)}}})
	if err != nil {
		k.t.Fatal(err)
	}
	return event
}

func (k *keyed) time() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *keyed) pass(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = k.now.Add(d)
}

func (k *keyed) pause(ctx context.Context, d time.Duration) error {
	k.pass(d)
	return ctx.Err()
}

func (k *keyed) config(transport http.RoundTripper, endpoint string) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: &endpoint, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
		Retryer:     func() aws.Retryer { return aws.NopRetryer{} },
	}
}

var (
	mintedKey = regexp.MustCompile(`<AccessKeyId>(\w+)</AccessKeyId>`)
)

// serve is AWS as the functions see it. It keeps book of the keys they make, and
// tells when they touch another one.
func (k *keyed) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	reply := httptest.NewRecorder()
	k.cloud.ServeHTTP(reply, r)
	k.mu.Lock()
	switch id := form.Get("AccessKeyId"); form.Get("Action") {
	case "CreateAccessKey":
		if m := mintedKey.FindStringSubmatch(reply.Body.String()); m != nil {
			k.ours[m[1]] = true
		} else if strings.Contains(reply.Body.String(), "LimitExceeded") {
			k.full++
		}
	case "UpdateAccessKey", "DeleteAccessKey":
		if !k.ours[id] {
			k.harm = errors.Join(k.harm, fmt.Errorf("%s of the key %s, which rekey neither minted nor recorded", form.Get("Action"), id))
		}
	}
	k.mu.Unlock()
	for name, values := range reply.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(reply.Code)
	_, _ = w.Write(reply.Body.Bytes())
}

// named is a way out that has a name for each call, and tells at which one its
// process died.
type named struct {
	http.RoundTripper
	k    *keyed
	dead bool
}

func (n *named) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, err := operationOf(r)
	if err != nil {
		return nil, err
	}
	if n.k.reader != nil {
		n.k.reader()
	}
	n.k.pass(n.k.slow[operation])
	before := len(n.k.cloud.Calls())
	resp, err := n.RoundTripper.RoundTrip(r)
	if n.dead {
		return resp, err
	}
	n.k.count[operation]++
	moment := fmt.Sprintf("%s %d", operation, n.k.count[operation])
	n.k.moments = append(n.k.moments, moment)
	if err != nil {
		n.dead, n.k.died = true, true
		when := "before "
		if len(n.k.cloud.Calls()) > before {
			when = "after "
		}
		if n.k.reached != nil {
			n.k.reached(when + moment)
		}
	}
	return resp, err
}

// cut is a way out on which an operation fails: before it has its effect or, if late is
// set, after it.
type cut struct {
	operation string
	late      bool
}

func (c *cut) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, err := operationOf(r)
	if err != nil || operation != c.operation {
		return http.DefaultTransport.RoundTrip(r)
	}
	if c.late {
		if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
		}
	}
	return nil, errors.New("the connection broke")
}

// operationOf is AWS's name of what a request asks for.
func operationOf(r *http.Request) (string, error) {
	if _, operation, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		return operation, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, err := url.ParseQuery(string(body))
	return form.Get("Action"), err
}

// process is one process of both functions that ship, but for its way out.
func (k *keyed) process(w http.RoundTripper) (secrets, worker lambda.Handler) {
	cfg := k.config(&named{RoundTripper: w, k: k}, k.rekeys)
	clock := &apikey.Clock{Now: k.time, Pause: k.pause}
	registry := rotators.Registry{"iam-key": iamkey.New(cfg, clock)}
	if k.vendor != nil {
		registry["acme"] = k.vendor.rotator(clock)
	}
	return functions.SecretRotator(cfg, registry), functions.ParameterRotator(cfg, registry)
}

// rotate takes all four steps.
func (k *keyed) rotate(ctx context.Context, w http.RoundTripper, token string) error {
	secrets, worker := k.process(w)
	if k.service == "ssm" {
		_, err := worker.Invoke(ctx, k.order)
		return err
	}
	for _, step := range steps {
		if _, err := secrets.Invoke(ctx, k.event(step, token)); err != nil {
			return err
		}
	}
	return nil
}

func (k *keyed) event(step, token string) []byte {
	event, _ := json.Marshal(map[string]string{"Step": step, "SecretId": k.arn, "ClientRequestToken": token, "RotationToken": "5f1c44b7-1b4a-4a8e-9f2c-1d2e3f405162"})
	return event
}

// retire has the worker retire what the rotation left, as the planner orders it.
func (k *keyed) retire(ctx context.Context, w http.RoundTripper) error {
	tags, err := k.tags(ctx)
	version, _, _ := strings.Cut(tags[rotation.TagRetire], " ")
	if err != nil || version == "" {
		return err
	}
	// The engine's clock is not the test's.
	if err := k.tag(ctx, rotation.TagRetire, version+" "+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	order := &queue.Retirement{ARN: k.arn, Version: version}
	if k.service == "ssm" {
		order.Name = keyName
	}
	_, worker := k.process(w)
	_, err = worker.Invoke(ctx, k.message(queue.Message{Retire: order}))
	return err
}

// all is a rotation, its grace, and the retirement after it, from wherever it stands.
func (k *keyed) all(ctx context.Context, w http.RoundTripper) error {
	if !k.over {
		if err := k.rotate(ctx, w, token); err != nil {
			return err
		}
		if err := k.works(ctx, "the previous key, within its grace", k.previous); err != nil {
			return err
		}
		k.over = true
		k.pass(24 * time.Hour)
	}
	return k.retire(ctx, w)
}

// tag writes a tag as a person would.
func (k *keyed) tag(ctx context.Context, key, value string) (err error) {
	if k.service == "ssm" {
		_, err = ssm.NewFromConfig(k.person).AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{
			ResourceType: ssmtypes.ResourceTypeForTaggingParameter, ResourceId: aws.String(keyName), Tags: []ssmtypes.Tag{{Key: &key, Value: &value}},
		})
	} else {
		_, err = secretsmanager.NewFromConfig(k.person).TagResource(ctx, &secretsmanager.TagResourceInput{SecretId: &k.arn, Tags: []smtypes.Tag{{Key: &key, Value: &value}}})
	}
	return err
}

func (k *keyed) tags(ctx context.Context) (map[string]string, error) {
	tags := map[string]string{}
	if k.service == "ssm" {
		out, err := ssm.NewFromConfig(k.person).ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: ssmtypes.ResourceTypeForTaggingParameter, ResourceId: aws.String(keyName)})
		if err != nil {
			return nil, err
		}
		for _, tag := range out.TagList {
			tags[*tag.Key] = *tag.Value
		}
		return tags, nil
	}
	out, err := secretsmanager.NewFromConfig(k.person).DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &k.arn})
	if err != nil {
		return nil, err
	}
	for _, tag := range out.Tags {
		tags[*tag.Key] = *tag.Value
	}
	return tags, nil
}

// current is what readers get.
func (k *keyed) current(ctx context.Context) (string, error) {
	if k.service == "ssm" {
		out, err := ssm.NewFromConfig(k.person).GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(keyName), WithDecryption: aws.Bool(true)})
		if err != nil {
			return "", err
		}
		return *out.Parameter.Value, nil
	}
	out, err := secretsmanager.NewFromConfig(k.person).GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &k.arn})
	if err != nil {
		return "", err
	}
	return *out.SecretString, nil
}

// accepts asks STS, as an application would, around every Wire.
func (k *keyed) accepts(ctx context.Context, value string) (bool, error) {
	var key struct{ AccessKeyId, SecretAccessKey string }
	if err := json.Unmarshal([]byte(value), &key); err != nil {
		return false, err
	}
	cfg := k.person.Copy()
	cfg.Credentials = credentials.NewStaticCredentialsProvider(key.AccessKeyId, key.SecretAccessKey, "")
	_, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, nil)
	if said := smithy.APIError(nil); errors.As(err, &said) && said.ErrorCode() == "InvalidClientTokenId" {
		return false, nil
	}
	return err == nil, err
}

func (k *keyed) works(ctx context.Context, what, value string) error {
	if ok, err := k.accepts(ctx, value); !ok {
		return fmt.Errorf("%s is refused (%v)", what, err)
	}
	return nil
}

// serves checks that what readers get works.
func (k *keyed) serves(ctx context.Context) error {
	value, err := k.current(ctx)
	if err != nil {
		return err
	}
	return k.works(ctx, "what readers get", value)
}

func idIn(value string) string {
	id, _ := rotators.NewSecret(value).Field("AccessKeyId")
	return id.Reveal()
}

// keys are those of the user, by id, with their status.
func (k *keyed) keys(ctx context.Context) (map[string]string, error) { return k.keysOf(ctx, keyUser) }

func (k *keyed) keysOf(ctx context.Context, user string) (map[string]string, error) {
	keys := map[string]string{}
	for pages := iam.NewListAccessKeysPaginator(iam.NewFromConfig(k.person), &iam.ListAccessKeysInput{UserName: &user}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, key := range page.AccessKeyMetadata {
			keys[*key.AccessKeyId] = string(key.Status)
		}
	}
	return keys, nil
}

// intents are the values of the user's tags that rekey wrote.
func (k *keyed) intents(ctx context.Context) (values []string, err error) {
	for pages := iam.NewListUserTagsPaginator(iam.NewFromConfig(k.person), &iam.ListUserTagsInput{UserName: aws.String(keyUser)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, tag := range page.Tags {
			if strings.HasPrefix(*tag.Key, rotation.TagPrefix) {
				values = append(values, *tag.Value)
			}
		}
	}
	return values, nil
}

// done checks the end: readers get a new key and it works, the one before does not,
// and the user has it and those of other people.
func (k *keyed) done(ctx context.Context, theirs ...string) error {
	value, err := k.current(ctx)
	if err != nil {
		return err
	}
	if value == k.previous || strings.NewReplacer(idIn(value), "", idIn(k.previous), "").Replace(value[:60]) != strings.ReplaceAll(k.previous[:60], idIn(k.previous), "") {
		return fmt.Errorf("readers get the key %s, and before it was %s", idIn(value), idIn(k.previous))
	}
	if err := k.serves(ctx); err != nil {
		return err
	}
	if ok, err := k.accepts(ctx, k.previous); ok || err != nil {
		return fmt.Errorf("the previous key works after its grace (%v)", err)
	}
	keys, err := k.keys(ctx)
	if err != nil {
		return err
	}
	for _, id := range append(theirs, idIn(value)) {
		if keys[id] != "Active" {
			return fmt.Errorf("the key %s is not active: %v", id, keys)
		}
		delete(keys, id)
	}
	if len(keys) > 0 {
		return fmt.Errorf("stray keys are left: %v", keys)
	}
	tags, err := k.tags(ctx)
	if err != nil || tags[rotation.TagRetire] != "" || tags[rotation.TagRetired] == "" {
		return fmt.Errorf("the tags are %v (%v)", tags, err)
	}
	if left, err := k.intents(ctx); err != nil || len(left) > 0 {
		return fmt.Errorf("intents are left: %v (%v)", left, err)
	}
	return k.harm
}

// keyMoments are the moments of a rotation at which a process must have died, by
// name. Each stands for the calls of that operation, the nth or all of them.
func keyMoments(service string) map[string]string {
	put, promote, tag, untag := "PutSecretValue 1", "UpdateSecretVersionStage 1", "TagResource", "UntagResource"
	if service == "ssm" {
		put, promote, tag, untag = "PutParameter 1", "PutParameter 2", "AddTagsToResource", "RemoveTagsFromResource"
	}
	return map[string]string{
		"before the intent":                           "before TagUser 1",
		"after the intent":                            "after TagUser 1",
		"before the mint":                             "before CreateAccessKey 1",
		"after the mint, before its reply":            "after CreateAccessKey 1",
		"after the reply, before the value is stored": "before " + put,
		"after the value is stored, before its reply": "after " + put,
		"before a Verify":                             "before GetCallerIdentity",
		"after a Verify":                              "after GetCallerIdentity",
		"before the intent is taken back":             "before UntagUser 1",
		"after the intent is taken back":              "after UntagUser 1",
		"before promotion":                            "before " + promote,
		"after promotion":                             "after " + promote,
		"before disable":                              "before UpdateAccessKey 1",
		"after disable":                               "after UpdateAccessKey 1",
		"before delete":                               "before DeleteAccessKey 1",
		"after delete":                                "after DeleteAccessKey 1",
		"before the marker":                           "before " + tag + " 2", // the first is the order
		"after the marker":                            "after " + tag + " 2",
		"before the order to retire is taken back":    "before " + untag + " 1",
		"after the order to retire is taken back":     "after " + untag + " 1",
	}
}

// missing are the moments that were not among those reached.
func missing(service string, moments []string, reached map[string]bool) (names []string) {
	for name, at := range keyMoments(service) {
		if strings.HasSuffix(at, " GetCallerIdentity") { // every one of them
			for _, moment := range moments {
				if when := strings.TrimSuffix(at, "GetCallerIdentity"); strings.HasPrefix(moment, "GetCallerIdentity ") && !reached[when+moment] {
					names = append(names, name+": "+moment)
				}
			}
		} else if !reached[at] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Every moment before and after every call, in both services; then the same is done
// again, as Secrets Manager and SQS do it.
func TestCrashSweepOfAnIAMKey(t *testing.T) {
	for _, service := range []string{"secretsmanager", "ssm"} {
		t.Run(service, func(t *testing.T) {
			reached := map[string]bool{}
			var whole *keyed
			points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
				k := newKeyed(t, service, localaws.IAMDelays{})
				k.reached = func(moment string) { reached[moment] = true }
				if whole == nil {
					whole = k
				}
				return rotatortest.Scenario{
					Run: func(ctx context.Context) error { return k.all(ctx, w) },
					Crashed: func(ctx context.Context) error {
						k.pass(runIsOver)
						return k.serves(ctx)
					},
					Recovered: func(ctx context.Context) error {
						if k.full > 0 {
							return errors.New("rekey asked for a third key")
						}
						return k.done(ctx)
					},
				}
			})
			if left := missing(service, whole.moments, reached); len(left) > 0 {
				t.Errorf("no process died %s", strings.Join(left, ", "))
			}
			if verifies := whole.count["GetCallerIdentity"]; verifies < 15 {
				t.Errorf("only %d calls of STS", verifies)
			}
			fmt.Printf("crash sweep of an access key in %s: %d points; all converge, at each readers get a key that works, and no other key is touched\n", service, points)
		})
	}
}

// theirs makes a key of another person's, and tells its value; "" if there is no room.
func (k *keyed) theirs(ctx context.Context) (string, error) {
	out, err := iam.NewFromConfig(k.person).CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: aws.String(keyUser)})
	if said := smithy.APIError(nil); errors.As(err, &said) && said.ErrorCode() == "LimitExceeded" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q}`, *out.AccessKey.AccessKeyId, *out.AccessKey.SecretAccessKey), nil
}

// The same of a secret, and after each crash another person makes a key, if there is
// room for one. It stays. If there is none for rekey's then, the rotation says so.
func TestCrashSweepOfAnIAMKeyAndAnotherPerson(t *testing.T) {
	made, stopped := 0, 0
	rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
		k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
		theirs, stops := "", false
		return rotatortest.Scenario{
			Run: func(ctx context.Context) error {
				err := k.all(ctx, w)
				if err != nil && theirs != "" && !k.over && rotators.IsPermanent(err) &&
					strings.Contains(err.Error(), fmt.Sprintf("the user %q has two keys already, and the other one, %s (Active, made at 2026-11-24T01:02:1", keyUser, idIn(theirs))) {
					stops = true
					stopped++
					return nil
				}
				return err
			},
			Crashed: func(ctx context.Context) (err error) {
				k.pass(10 * time.Second) // the process was killed, and the person had to find out how
				if theirs, err = k.theirs(ctx); theirs != "" {
					made++
				}
				k.pass(runIsOver)
				return err
			},
			Recovered: func(ctx context.Context) error {
				if theirs != "" {
					if err := k.works(ctx, "the other person's key", theirs); err != nil {
						return err
					}
				}
				if !stops {
					var kept []string
					if theirs != "" {
						kept = append(kept, idIn(theirs))
					}
					return k.done(ctx, kept...)
				}
				if value, err := k.current(ctx); value != k.first || err != nil {
					return fmt.Errorf("the rotation stopped, and yet the value is another (%v)", err)
				}
				return errors.Join(k.serves(ctx), k.harm)
			},
		}
	})
	if made < 20 || stopped < 10 {
		t.Errorf("they made a key at %d moments, and the rotation stopped at %d: that is too few", made, stopped)
	}
	fmt.Printf("crash sweep of an access key, with a key of another person's at %d moments: it stays at all; the rotation stops and names it at %d\n", made, stopped)
}

// What is written to IAM is known everywhere only after 12 seconds: at first to nobody,
// then to some. The rotation is tried again meanwhile, and then every half minute. It
// fails until IAM shows what it did, or until the run that died cannot be alive any more,
// and never for good.
func TestCrashSweepOfAnIAMKeyWhileIAMIsLate(t *testing.T) {
	for _, after := range []time.Duration{4 * time.Second, 8 * time.Second} {
		points := rotatortest.Sweep(t, func(t *testing.T, w *rotatortest.Wire) rotatortest.Scenario {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{Keys: 12 * time.Second, Reads: 12 * time.Second})
			return rotatortest.Scenario{
				Run: func(ctx context.Context) (err error) {
					k.died = false
					for _, rest := range []time.Duration{30 * time.Second, 30 * time.Second, runIsOver, 30 * time.Second, 0} {
						if err = k.all(ctx, w); err == nil || k.died {
							break
						}
						k.pass(rest)
					}
					return err
				},
				Crashed: func(ctx context.Context) error {
					k.pass(after)
					return k.serves(ctx)
				},
				Recovered: func(ctx context.Context) error {
					k.pass(time.Minute) // until IAM shows that the intent is taken back
					return k.done(ctx)
				},
			}
		})
		fmt.Printf("crash sweep of an access key while IAM is 12 seconds late, tried again after %v: %d points, all converge\n", after, points)
	}
}

// Writing the intent takes so long that a key minted then would not be known as
// rekey's, should the reply be lost.
func TestAnIntentThatIsWrittenSlowly(t *testing.T) {
	k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
	k.slow = map[string]time.Duration{"TagUser": 7 * time.Second}
	err := k.rotate(t.Context(), &cut{operation: "CreateAccessKey", late: true}, token)
	if err == nil || rotators.IsPermanent(err) || !strings.Contains(err.Error(), "took so long") {
		t.Fatalf("got %v", err)
	}
	k.slow = nil
	if err := k.all(t.Context(), &rotatortest.Wire{}); err != nil {
		t.Fatal(err)
	}
	if err := k.done(t.Context()); err != nil {
		t.Error(err)
	}
}

// An attempt is given up when its key works already. The next one knows the key for the
// secret's, and makes room.
func TestAnAbandonedAccessKeyIsFound(t *testing.T) {
	k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
	secrets, _ := k.process(&rotatortest.Wire{})
	for _, step := range steps[:2] {
		if _, err := secrets.Invoke(t.Context(), k.event(step, token)); err != nil {
			t.Fatal(err)
		}
	}
	k.previous = k.first + " "
	if _, err := secretsmanager.NewFromConfig(k.person).PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &k.arn, SecretString: &k.previous}); err != nil {
		t.Fatal(err)
	}
	k.begin(tokenOf(2))
	if err := k.rotate(t.Context(), &rotatortest.Wire{}, tokenOf(2)); err != nil {
		t.Fatal(err)
	}
	k.pass(24 * time.Hour)
	if err := k.retire(t.Context(), &rotatortest.Wire{}); err != nil {
		t.Fatal(err)
	}
	if err := k.done(t.Context()); err != nil {
		t.Error(err)
	}
}

// For 12 seconds some of AWS know a new key and others do not; of a key that is gone,
// too. Who reads the secret or parameter all the time is refused at no time, although
// reading it he may be as unlucky as anybody.
func TestAnIAMKeyThatFlaps(t *testing.T) {
	for name, delays := range map[string]localaws.IAMDelays{
		"the services":         {Keys: 12 * time.Second},
		"the services and IAM": {Keys: 12 * time.Second, Reads: 12 * time.Second},
	} {
		for _, service := range []string{"secretsmanager", "ssm"} {
			t.Run(name+" in "+service, func(t *testing.T) {
				k := newKeyed(t, service, delays)
				ctx, w := t.Context(), &rotatortest.Wire{}
				tried := map[string]int{} // by key
				read := func() {
					value, err := k.current(ctx)
					if err == nil {
						err = k.works(ctx, "the key "+idIn(value)+", which a reader got,", value)
					}
					if err != nil {
						t.Errorf("at %s: %v", k.time(), err)
					}
					tried[idIn(value)]++
				}
				meanwhile := func(d time.Duration) {
					for ; d > 0; d -= time.Second / 2 {
						k.pass(time.Second / 2)
						read()
					}
				}
				k.reader = read
				for n := 1; n <= 3; n++ {
					before, err := k.current(ctx)
					if err != nil {
						t.Fatal(err)
					}
					k.previous = before
					if n > 1 {
						k.begin(tokenOf(n))
					}
					start := k.time()
					if err := k.rotate(ctx, w, tokenOf(n)); err != nil {
						t.Fatal(err)
					}
					// 6 seconds at which nobody knows the key, 6 at which some do, and
					// then 15 without a refusal, of which the last ones may be among those.
					if took := k.time().Sub(start); took < 21*time.Second || took > time.Minute {
						t.Errorf("rotation %d waited %v", n, took)
					}
					meanwhile(30 * time.Second)
					k.pass(24 * time.Hour)
					start = k.time()
					if err := k.retire(ctx, w); err != nil {
						t.Fatal(err)
					}
					if took := k.time().Sub(start); took < 21*time.Second || took > time.Minute {
						t.Errorf("retirement %d waited %v", n, took)
					}
					meanwhile(30 * time.Second)
					if err := k.done(ctx); err != nil {
						t.Fatal(err)
					}
				}
				// Twice within a grace: the older key goes before its time.
				for n := 4; n <= 5; n++ {
					var err error
					if k.previous, err = k.current(ctx); err != nil {
						t.Fatal(err)
					}
					k.begin(tokenOf(n))
					if err := k.rotate(ctx, w, tokenOf(n)); err != nil {
						t.Fatal(err)
					}
					if err := k.works(ctx, "the previous key, within its grace", k.previous); err != nil {
						t.Error(err)
					}
				}
				if err := k.retire(ctx, w); err != nil {
					t.Fatal(err)
				}
				meanwhile(30 * time.Second)
				if err := k.done(ctx); err != nil {
					t.Error(err)
				}
				if len(tried) != 6 || slices.Min(slices.Collect(maps.Values(tried))) < 30 {
					t.Errorf("readers tried %v", tried)
				}
			})
		}
	}
}

// The user has a second key that is nobody's business here. The rotation stops and
// names it, and nothing is changed.
func TestASecondIAMKey(t *testing.T) {
	for name, c := range map[string]struct {
		inactive bool
		made     string
	}{
		"that is used": {false, "Active"},
		"that is not":  {true, "Inactive"},
	} {
		for _, service := range []string{"secretsmanager", "ssm"} {
			t.Run(name+", in "+service, func(t *testing.T) {
				k := newKeyed(t, service, localaws.IAMDelays{})
				ctx := t.Context()
				theirs, err := k.theirs(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if c.inactive {
					_, err := iam.NewFromConfig(k.person).UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: aws.String(keyUser), AccessKeyId: aws.String(idIn(theirs)), Status: "Inactive"})
					if err != nil {
						t.Fatal(err)
					}
				}
				keys, err := k.keys(ctx)
				if err != nil {
					t.Fatal(err)
				}
				tags, err := k.tags(ctx)
				if err != nil {
					t.Fatal(err)
				}
				k.pass(time.Hour)
				for try := 1; try <= 2; try++ {
					err := k.rotate(ctx, &rotatortest.Wire{}, token)
					want := fmt.Sprintf("the user %q has two keys already, and the other one, %s (%s, made at 2026-11-24T01:02:03Z), is none that this secret recorded or rekey is known to have made: find out who uses it, and delete it or give this application a user of its own", keyUser, idIn(theirs), c.made)
					if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), want) {
						t.Errorf("try %d: got %v", try, err)
					}
				}
				after, err := k.keys(ctx)
				if err != nil || !maps.Equal(keys, after) {
					t.Errorf("the keys were %v and are %v (%v)", keys, after, err)
				}
				if now, err := k.tags(ctx); err != nil || !maps.Equal(tags, now) {
					t.Errorf("the tags were %v and are %v (%v)", tags, now, err)
				}
				if left, err := k.intents(ctx); err != nil || len(left) > 0 {
					t.Errorf("intents are left: %v (%v)", left, err)
				}
				if value, err := k.current(ctx); err != nil || value != k.first {
					t.Errorf("the value was changed (%v)", err)
				}
				for what, value := range map[string]string{"the secret's key": k.first, "the other key": theirs} {
					if ok, err := k.accepts(ctx, value); err != nil || ok != (what == "the secret's key" || !c.inactive) {
						t.Errorf("%s works: %t (%v)", what, ok, err)
					}
				}
				if k.harm != nil {
					t.Error(k.harm)
				}
			})
		}
	}
}

// A person makes a key in the very seconds in which a process died that had written its
// intent, and uses it. Nothing but that tells it from a stray.
func TestAnIAMKeyOfTheSameSeconds(t *testing.T) {
	k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
	ctx := t.Context()
	if err := k.rotate(ctx, &cut{operation: "CreateAccessKey"}, token); err == nil {
		t.Fatal("the process did not die")
	}
	k.pass(time.Second)
	theirs, err := k.theirs(ctx)
	if err == nil {
		err = k.works(ctx, "their key", theirs)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err = k.rotate(ctx, &rotatortest.Wire{}, token)
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "the other one, "+idIn(theirs)) {
			t.Errorf("got %v", err)
		}
		k.pass(time.Hour)
	}
	if err := errors.Join(k.works(ctx, "their key", theirs), k.serves(ctx), k.harm); err != nil {
		t.Error(err)
	}
	// They follow the advice, and the rotation goes on.
	if _, err := iam.NewFromConfig(k.person).DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String(keyUser), AccessKeyId: aws.String(idIn(theirs))}); err != nil {
		t.Fatal(err)
	}
	if err := k.all(ctx, &rotatortest.Wire{}); err != nil {
		t.Fatal(err)
	}
	if err := k.done(ctx); err != nil {
		t.Error(err)
	}
}

// Somebody deletes the new key before anybody has used it: another run of the same
// attempt that took it for a stray, say. The attempt cannot be finished, and says how to
// begin another.
func TestANewIAMKeyThatIsGone(t *testing.T) {
	k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
	ctx := t.Context()
	secrets, _ := k.process(&rotatortest.Wire{})
	if _, err := secrets.Invoke(ctx, k.event("createSecret", token)); err != nil {
		t.Fatal(err)
	}
	keys, err := k.keys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	delete(keys, idIn(k.first))
	for id := range keys {
		if _, err := iam.NewFromConfig(k.person).DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String(keyUser), AccessKeyId: &id}); err != nil {
			t.Fatal(err)
		}
	}
	err = k.rotate(ctx, &rotatortest.Wire{}, token)
	if err == nil || !strings.Contains(err.Error(), "if it stays so, give this attempt up: take the label AWSPENDING off version "+token+", or delete the record of the parameter's pending value, and rotate anew") {
		t.Errorf("got %v", err)
	}
	_, err = secretsmanager.NewFromConfig(k.person).UpdateSecretVersionStage(ctx, &secretsmanager.UpdateSecretVersionStageInput{SecretId: &k.arn, VersionStage: aws.String("AWSPENDING"), RemoveFromVersionId: aws.String(token)})
	if err != nil {
		t.Fatal(err)
	}
	k.pass(time.Hour) // until the intent of that attempt is spent
	k.begin(tokenOf(2))
	if err := errors.Join(k.serves(ctx), k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2))); err != nil {
		t.Fatal(err)
	}
	k.pass(24 * time.Hour)
	if err := errors.Join(k.retire(ctx, &rotatortest.Wire{}), k.done(ctx)); err != nil {
		t.Error(err)
	}
}
