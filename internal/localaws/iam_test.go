package localaws_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/rekeyhq/rekey/internal/localaws"
)

// iamCloud is a cloud with the user "app", and a clock that is moved by hand.
type iamCloud struct {
	*cloud
	iam  *iam.Client // the root's
	now  atomic.Pointer[time.Time]
	user string // ARN
}

func newIAMCloud(t *testing.T, config localaws.Config) *iamCloud {
	c := &iamCloud{}
	c.pass(0)
	config.Now = func() time.Time { return *c.now.Load() }
	c.cloud = newCloud(t, config)
	c.iam = iam.NewFromConfig(c.config)
	c.user = c.AddUser(localaws.User{UserName: "App", Path: "/team/", Tags: map[string]string{"Owner": "me"}})
	return c
}

// pass moves the clock.
func (c *iamCloud) pass(d time.Duration) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if was := c.now.Load(); was != nil {
		now = was.Add(d)
	}
	c.now.Store(&now)
}

// as is the SDK's configuration with these credentials.
func (c *iamCloud) as(id, secret, token string) aws.Config {
	config := c.config.Copy()
	config.Credentials = credentials.NewStaticCredentialsProvider(id, secret, token)
	return config
}

// who asks STS who the caller is: its ARN, user id and account, or the error.
func (c *iamCloud) who(config aws.Config) (string, error) {
	out, err := sts.NewFromConfig(config).GetCallerIdentity(c.t.Context(), nil)
	if err != nil {
		return "", err
	}
	return *out.Arn + " " + *out.UserId + " " + *out.Account, nil
}

// keys lists a user's keys as the client's caller sees them: "Active Inactive".
func (c *iamCloud) keys(client *iam.Client, user *string) string {
	c.t.Helper()
	var all []string
	pages := iam.NewListAccessKeysPaginator(client, &iam.ListAccessKeysInput{UserName: user, MaxItems: aws.Int32(1)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(c.t.Context())
		must(c.t, err)
		for _, k := range page.AccessKeyMetadata {
			all = append(all, string(k.Status))
		}
	}
	return strings.Join(all, " ")
}

// tags lists the tags of "app": "a=1 b=2".
func (c *iamCloud) tags() string {
	c.t.Helper()
	var all []string
	pages := iam.NewListUserTagsPaginator(c.iam, &iam.ListUserTagsInput{UserName: aws.String("app")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(c.t.Context())
		must(c.t, err)
		for _, tag := range page.Tags {
			all = append(all, *tag.Key+"="+*tag.Value)
		}
	}
	return strings.Join(all, " ")
}

func iamTags(pairs ...string) (tags []types.Tag) {
	for i := 0; i < len(pairs); i += 2 {
		tags = append(tags, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
	}
	return tags
}

func TestIAMUsers(t *testing.T) {
	c := newIAMCloud(t, localaws.Config{})
	ctx := t.Context()
	out, err := c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("Mail"), Tags: iamTags("z", "1", "a", "")})
	must(t, err)
	if *out.User.Arn != "arn:aws:iam::000000000000:user/Mail" || !regexp.MustCompile(`^AIDA[A-Z2-7]{17}$`).MatchString(*out.User.UserId) || *out.User.Path != "/" || !out.User.CreateDate.Equal(*c.now.Load()) {
		t.Errorf("created %+v", out.User)
	}
	got, err := c.iam.GetUser(ctx, &iam.GetUserInput{UserName: aws.String("mail")}) // names are not told apart by case
	must(t, err)
	if *got.User.UserName != "Mail" || len(got.User.Tags) != 2 || *got.User.Tags[0].Key != "a" || *got.User.UserId != *out.User.UserId {
		t.Errorf("got %+v", got.User)
	}
	_, err = c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("MAIL")})
	want[*types.EntityAlreadyExistsException](t, "the same name", err)
	_, err = c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("a b")})
	wantCode(t, "a bad name", err, "ValidationError")
	_, err = c.iam.GetUser(ctx, &iam.GetUserInput{UserName: aws.String("none")})
	want[*types.NoSuchEntityException](t, "an unknown user", err)
	_, err = c.iam.GetUser(ctx, nil)
	wantCode(t, "the root asks for its own user", err, "ValidationError")

	c.AddUser(localaws.User{UserName: "app", Account: "222222222222"})
	var names []string
	for n := range 5 {
		c.AddUser(localaws.User{UserName: fmt.Sprintf("n%d", n)})
	}
	pages := iam.NewListUsersPaginator(c.iam, &iam.ListUsersInput{MaxItems: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		must(t, err)
		for _, u := range page.Users {
			names = append(names, *u.UserName)
		}
	}
	if got := strings.Join(names, " "); got != "App Mail n0 n1 n2 n3 n4" {
		t.Errorf("the users are %s", got)
	}

	c.AddAccessKey(c.user)
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: aws.String("app")})
	want[*types.DeleteConflictException](t, "delete a user that has a key", err)
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: aws.String("mail")})
	must(t, err)
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: aws.String("mail")})
	want[*types.NoSuchEntityException](t, "delete a user twice", err)
}

func TestAccessKeys(t *testing.T) {
	c := newIAMCloud(t, localaws.Config{})
	ctx, app := t.Context(), aws.String("app")
	id, secret := c.AddAccessKey(c.user)
	own := iam.NewFromConfig(c.as(id, secret, "")) // names no user
	out, err := own.CreateAccessKey(ctx, nil)
	must(t, err)
	second := out.AccessKey
	if *second.UserName != "App" || second.Status != types.StatusTypeActive || !regexp.MustCompile(`^AKIA[A-Z2-7]{16}$`).MatchString(*second.AccessKeyId) ||
		!regexp.MustCompile(`^[A-Za-z0-9+/]{40}$`).MatchString(*second.SecretAccessKey) {
		t.Errorf("created %s for %s", *second.AccessKeyId, *second.UserName)
	}
	inactive := &iam.UpdateAccessKeyInput{UserName: app, AccessKeyId: &id, Status: types.StatusTypeInactive}
	_, err = c.iam.UpdateAccessKey(ctx, inactive)
	must(t, err)
	_, err = own.ListAccessKeys(ctx, nil)
	wantCode(t, "signed with an inactive key", err, "InvalidClientTokenId")
	if got := strings.Fields(c.keys(c.iam, app)); len(got) != 2 || got[0] == got[1] {
		t.Errorf("the keys are %v", got)
	}
	_, err = c.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: app})
	want[*types.LimitExceededException](t, "a third key beside an inactive one", err)
	if !strings.Contains(err.Error(), "409") || !strings.Contains(err.Error(), "Cannot exceed quota for AccessKeysPerUser: 2") {
		t.Error(err)
	}
	inactive.Status = types.StatusTypeActive
	_, err = c.iam.UpdateAccessKey(ctx, inactive)
	must(t, err)
	if got := c.keys(own, nil); got != "Active Active" {
		t.Errorf("the keys are %s", got)
	}

	used, err := c.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: second.AccessKeyId})
	must(t, err)
	if u := used.AccessKeyLastUsed; *used.UserName != "App" || u.LastUsedDate != nil || *u.ServiceName != "N/A" || *u.Region != "N/A" {
		t.Errorf("an unused key: %+v", u)
	}
	c.pass(time.Hour)
	if _, err := c.who(c.as(*second.AccessKeyId, *second.SecretAccessKey, "")); err != nil {
		t.Fatal(err)
	}
	used, err = c.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: second.AccessKeyId})
	must(t, err)
	if u := used.AccessKeyLastUsed; !u.LastUsedDate.Equal(*c.now.Load()) || *u.ServiceName != "sts" || *u.Region != "us-east-1" {
		t.Errorf("a used key: %+v", u)
	}

	c.AddUser(localaws.User{UserName: "other"})
	_, err = c.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String("other"), AccessKeyId: &id})
	want[*types.NoSuchEntityException](t, "another user's key", err)
	_, err = own.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{AccessKeyId: &id}) // which signs the call
	must(t, err)
	_, err = c.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: app, AccessKeyId: &id})
	want[*types.NoSuchEntityException](t, "delete a key twice", err)
	inactive.AccessKeyId = aws.String("AKIAIOSFODNN7EXAMPLE")
	_, err = c.iam.UpdateAccessKey(ctx, inactive)
	want[*types.NoSuchEntityException](t, "an unknown key", err)
	_, err = c.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	wantCode(t, "a deleted key's last use", err, "AccessDenied")
	if got := c.keys(c.iam, app); got != "Active" {
		t.Errorf("the keys are %s", got)
	}
	_, err = c.iam.ListAccessKeys(ctx, nil)
	wantCode(t, "the root's own keys", err, "ValidationError")
	inactive.Status = types.StatusTypeExpired
	_, err = c.iam.UpdateAccessKey(ctx, inactive)
	wantCode(t, "an odd status", err, "ValidationError")
}

func TestUserTags(t *testing.T) {
	c := newIAMCloud(t, localaws.Config{})
	add := func(tags ...types.Tag) error {
		_, err := c.iam.TagUser(t.Context(), &iam.TagUserInput{UserName: aws.String("app"), Tags: tags})
		return err
	}
	must(t, add(iamTags("rekey:intent", "token 2026-01-02T03:04:05Z AKIA=1", "OWNER", "you")...))
	if got := c.tags(); got != "OWNER=you rekey:intent=token 2026-01-02T03:04:05Z AKIA=1" {
		t.Errorf("the tags are %s", got)
	}
	var many []types.Tag
	for n := range 49 {
		many = append(many, iamTags(fmt.Sprintf("k%d", n), "")...)
	}
	for _, row := range []struct {
		what string
		tags []types.Tag
		code string
	}{
		{"the longest", iamTags(strings.Repeat("é", 128), strings.Repeat("ü", 256)), ""},
		{"a long key", iamTags(strings.Repeat("a", 129), ""), "ValidationError"},
		{"a long value", iamTags("a", strings.Repeat("b", 257)), "ValidationError"},
		{"an empty key", iamTags("", "b"), "ValidationError"},
		{"a comma in a value", iamTags("a", "1,2"), "ValidationError"},
		{"AWS's own prefix", iamTags("AWS:a", "b"), "InvalidInput"},
		{"the same key twice", iamTags("a", "1", "A", "2"), "InvalidInput"},
		{"51 at once", append(slices.Clone(many), iamTags("x", "", "y", "")...), "ValidationError"},
		{"51 in all", many[:48], "LimitExceeded"},
		{"50 in all", many[:47], ""},
		{"one that is there", iamTags("Owner", "me"), ""},
	} {
		if err := add(row.tags...); row.code == "" && err != nil {
			t.Errorf("%s: %v", row.what, err)
		} else if row.code != "" {
			wantCode(t, row.what, err, row.code)
		}
	}
	_, err := c.iam.UntagUser(t.Context(), &iam.UntagUserInput{UserName: aws.String("app"), TagKeys: []string{"REKEY:INTENT", "none"}})
	must(t, err)
	if got := c.tags(); !strings.HasPrefix(got, "Owner=me k0= ") || strings.Contains(got, "intent") || strings.Count(got, "=") != 49 {
		t.Errorf("the tags are %s", got)
	}
	_, err = c.iam.ListUserTags(t.Context(), &iam.ListUserTagsInput{UserName: aws.String("none")})
	want[*types.NoSuchEntityException](t, "an unknown user", err)

	conflict := newIAMCloud(t, localaws.Config{Fault: func(call localaws.Call) localaws.Fault {
		if call.Operation == "TagUser" {
			return localaws.Conflict
		}
		return localaws.None
	}})
	retrying := iam.NewFromConfig(conflict.config, func(o *iam.Options) { o.RetryMaxAttempts = 3 })
	_, err = retrying.TagUser(t.Context(), &iam.TagUserInput{UserName: aws.String("app"), Tags: iamTags("a", "b")})
	want[*types.ConcurrentModificationException](t, "a conflict", err)
	if got := conflict.tags(); got != "Owner=me" || conflict.Calls()[0].Service != "iam" || conflict.Calls()[1].Operation != "ListUserTags" {
		t.Errorf("after the conflict: %s, %v", got, conflict.Calls())
	}
}

func TestCallers(t *testing.T) {
	c := newIAMCloud(t, localaws.Config{})
	role := "arn:aws:iam::222222222222:role/team/rotator"
	c.AddRole(role)
	id, secret := c.AddAccessKey(c.user)
	user, err := c.iam.GetUser(t.Context(), &iam.GetUserInput{UserName: aws.String("app")})
	must(t, err)
	in := &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: aws.String("rekey"), DurationSeconds: aws.Int32(900)}
	out, err := sts.NewFromConfig(c.as(id, secret, "")).AssumeRole(t.Context(), in)
	must(t, err)
	session := out.Credentials
	if !regexp.MustCompile(`^ASIA[A-Z2-7]{16}$`).MatchString(*session.AccessKeyId) || !session.Expiration.Equal(c.now.Load().Add(15*time.Minute)) {
		t.Errorf("%s until %v", *session.AccessKeyId, session.Expiration)
	}
	if c.user != "arn:aws:iam::000000000000:user/team/App" || *out.AssumedRoleUser.Arn != "arn:aws:sts::222222222222:assumed-role/rotator/rekey" {
		t.Errorf("%s assumed %s", c.user, *out.AssumedRoleUser.Arn)
	}
	for _, row := range []struct {
		what, id, secret, token string
		want                    string // "": refused
		query, json             string // codes
	}{
		{"a laptop", "local", "any", "", "arn:aws:iam::000000000000:root 000000000000 000000000000", "", ""},
		{"a user", id, secret, "", c.user + " " + *user.User.UserId + " 000000000000", "", ""},
		{"a user with a wrong secret", id, secret + "x", "", "", "SignatureDoesNotMatch", "InvalidSignatureException"},
		{"an unknown key", "AKIAIOSFODNN7EXAMPLE", secret, "", "", "InvalidClientTokenId", "UnrecognizedClientException"},
		{"a session", *session.AccessKeyId, *session.SecretAccessKey, *session.SessionToken, *out.AssumedRoleUser.Arn + " " + *out.AssumedRoleUser.AssumedRoleId + " 222222222222", "", ""},
		{"a session with a wrong secret", *session.AccessKeyId, secret, *session.SessionToken, "", "SignatureDoesNotMatch", "InvalidSignatureException"},
		{"a session without its token", *session.AccessKeyId, *session.SecretAccessKey, "", "", "InvalidClientTokenId", "UnrecognizedClientException"},
		{"an unknown session", "ASIAIOSFODNN7EXAMPLE", *session.SecretAccessKey, *session.SessionToken, "", "InvalidClientTokenId", "UnrecognizedClientException"},
	} {
		config := c.as(row.id, row.secret, row.token)
		got, err := c.who(config)
		_, ssmErr := ssm.NewFromConfig(config).DescribeParameters(t.Context(), nil)
		if row.want == "" {
			wantCode(t, row.what, err, row.query)
			wantCode(t, row.what, ssmErr, row.json)
			if !strings.Contains(fmt.Sprint(err), "StatusCode: 403") {
				t.Errorf("%s: %v", row.what, err)
			}
		} else if got != row.want || err != nil || ssmErr != nil {
			t.Errorf("%s is %s, %v, %v; want %s", row.what, got, err, ssmErr, row.want)
		}
	}

	abroad := c.as(*session.AccessKeyId, *session.SecretAccessKey, *session.SessionToken)
	theirs := iam.NewFromConfig(abroad)
	_, err = theirs.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("app")})
	must(t, err)
	_, err = theirs.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: aws.String("app")})
	must(t, err)
	_, err = theirs.CreateAccessKey(t.Context(), nil)
	wantCode(t, "a session's own keys", err, "ValidationError")
	_, err = theirs.GetAccessKeyLastUsed(t.Context(), &iam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	wantCode(t, "another account's key", err, "AccessDenied")
	if got, ours := c.keys(theirs, aws.String("app")), c.keys(c.iam, aws.String("app")); got != "Active" || ours != "Active" {
		t.Errorf("the keys are %q there and %q here", got, ours)
	}

	made, err := theirs.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("next"), AssumeRolePolicyDocument: aws.String("{}")})
	must(t, err)
	long, arn := aws.Int32(3601), made.Role.Arn
	for _, row := range []struct {
		what    string
		role    *string
		seconds *int32
		code    string
	}{
		{"a chain of roles", arn, nil, ""},
		{"a long chain", arn, long, "ValidationError"},
		{"an unknown role", aws.String(role + "s"), nil, "AccessDenied"},
		{"a user's ARN", &c.user, nil, "ValidationError"},
	} {
		_, err := sts.NewFromConfig(abroad).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: row.role, RoleSessionName: aws.String("rekey"), DurationSeconds: row.seconds})
		if row.code == "" && err != nil {
			t.Errorf("%s: %v", row.what, err)
		} else if row.code != "" {
			wantCode(t, row.what, err, row.code)
		}
	}

	c.pass(15*time.Minute - time.Second)
	if _, err := c.who(abroad); err != nil {
		t.Errorf("in the last second of the session: %v", err)
	}
	c.pass(time.Second)
	_, err = c.who(abroad)
	wantCode(t, "after the session", err, "ExpiredToken")
}

// Signatures are right, too, of calls with what the SDK must escape, of calls
// with a body's length among the signed headers, and of JSON.
func TestSignaturesOfEveryKind(t *testing.T) {
	c := newIAMCloud(t, localaws.Config{})
	id, secret := c.AddAccessKey(c.user)
	config := c.as(id, secret, "")
	_, err := iam.NewFromConfig(config).TagUser(t.Context(), &iam.TagUserInput{UserName: aws.String("app"), Tags: iamTags("ä b", "a=b+c/d @:")})
	must(t, err)
	if got := c.tags(); got != "Owner=me ä b=a=b+c/d @:" {
		t.Errorf("the tags are %s", got)
	}
	client := ssm.NewFromConfig(config)
	_, err = client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/p"), Type: "String", Value: aws.String("<\u2028ä>")})
	must(t, err)
	history, err := client.GetParameterHistory(t.Context(), &ssm.GetParameterHistoryInput{Name: aws.String("/p")})
	must(t, err)
	if *history.Parameters[0].LastModifiedUser != c.user {
		t.Errorf("the parameter is by %s", *history.Parameters[0].LastModifiedUser)
	}
}

func TestIAMDelays(t *testing.T) {
	c := newIAMCloud(t, localaws.Config{IAMDelays: localaws.IAMDelays{Keys: 12 * time.Second, Reads: 8 * time.Second}})
	ctx, app := context.Background(), aws.String("app")
	first, firstSecret := c.AddAccessKey(c.user)
	if _, err := c.who(c.as(first, firstSecret, "")); err != nil {
		t.Fatalf("an added key is not known at once: %v", err)
	}
	out, err := c.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: app})
	must(t, err)
	key := c.as(*out.AccessKey.AccessKeyId, *out.AccessKey.SecretAccessKey, "")

	// accepted asks STS so often: "+" for an answer, "-" for a key that is unknown.
	accepted := func(n int) (seen string) {
		t.Helper()
		for range n {
			if _, err := c.who(key); err == nil {
				seen += "+"
			} else {
				wantCode(t, "a key not known", err, "InvalidClientTokenId")
				seen += "-"
			}
		}
		return seen
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	update := func(status types.StatusType) {
		t.Helper()
		_, err := c.iam.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: app, AccessKeyId: out.AccessKey.AccessKeyId, Status: status})
		must(t, err)
	}
	expect("a new key", accepted(3), "---")
	expect("the keys listed at once", c.keys(c.iam, app), "Active")
	_, err = c.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: app})
	want[*types.LimitExceededException](t, "a third key while the second is not listed", err)
	c.pass(6 * time.Second)
	expect("a new key after 6 s", accepted(11), "-+-++-+++-+")
	c.pass(6*time.Second - 1)
	expect("a new key just before 12 s", accepted(5), "+++-+")
	c.pass(1)
	expect("a new key after 12 s", accepted(5), "+++++")
	expect("the keys listed after 12 s", c.keys(c.iam, app), "Active Active")

	update(types.StatusTypeInactive)
	expect("an inactive key", accepted(2), "++")
	c.pass(7 * time.Second)
	expect("an inactive key after 7 s", accepted(5), "+-+--")
	update(types.StatusTypeInactive) // which it is
	c.pass(5 * time.Second)
	expect("an inactive key after 12 s", accepted(5), "-----")

	update(types.StatusTypeActive)
	c.pass(12 * time.Second)
	update(types.StatusTypeInactive)
	c.pass(4 * time.Second)
	_, err = c.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: app, AccessKeyId: out.AccessKey.AccessKeyId})
	must(t, err)
	expect("a key made inactive 4 s ago and now deleted", accepted(2), "++")
	c.pass(8 * time.Second)
	expect("a key deleted 8 s ago", accepted(3), "+-+")
	expect("the keys listed when it is deleted", c.keys(c.iam, app), "Active")
	c.pass(4 * time.Second)
	expect("a key deleted 12 s ago", accepted(3), "---")

	_, err = c.iam.TagUser(ctx, &iam.TagUserInput{UserName: app, Tags: iamTags("new", "1")})
	must(t, err)
	expect("new tags", c.tags(), "Owner=me")
	c.pass(4 * time.Second)
	var seen []string
	for range 3 {
		user, err := c.iam.GetUser(ctx, &iam.GetUserInput{UserName: app})
		must(t, err)
		seen = append(seen, fmt.Sprint(len(user.User.Tags)))
	}
	expect("how many tags there are after 4 s", strings.Join(seen, ""), "121")
	c.pass(4 * time.Second)
	expect("tags after 8 s", c.tags(), "Owner=me new=1")

	// A user who is gone cannot make itself a key while the last one still works.
	_, err = c.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: app, AccessKeyId: &first})
	must(t, err)
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: app})
	must(t, err)
	_, err = iam.NewFromConfig(c.as(first, firstSecret, "")).CreateAccessKey(ctx, nil)
	want[*types.NoSuchEntityException](t, "a key for a deleted user", err)
}
