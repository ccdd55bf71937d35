// Package iamkey rotates the access keys of IAM users, and the password for the SMTP
// interface of SES that is derived from one. It is for those who build a function with
// [New]; docs/rotators/iamkey.md is for the owners of secrets.
//
// Whose key it is, the key itself says: STS is asked with it. So writing a secret is no
// way to be given a key of somebody else.
package iamkey

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/rekeyhq/rekey/rotators"
	"github.com/rekeyhq/rekey/rotators/apikey"
)

// The fields of a value, as IAM spells them in the reply to CreateAccessKey. The last
// one is added with the option ses.
const (
	fieldUser   = "UserName"
	fieldID     = "AccessKeyId"
	fieldSecret = "SecretAccessKey"
	fieldSMTP   = "SmtpPassword"
)

// settling is how long it can take until all of AWS knows a key. AWS gives no number:
// 10 to 15 seconds are what users report, in which one call succeeds and the next one
// fails.
const settling = 15 * time.Second

// New returns the rotator for access keys. cfg is the function's: its region and its
// endpoint are used, and its credentials only to assume the role that rekey:admin
// names. The clock may be nil.
func New(cfg aws.Config, clock *apikey.Clock) rotators.Rotator {
	if clock == nil {
		clock = &apikey.Clock{}
	}
	return apikey.New(func(_ context.Context, r rotators.Rotation) (apikey.Issuer, error) {
		i := &issuer{cfg: cfg, clock: clock, r: r}
		return i, i.check()
	}, clock)
}

// issuer is IAM for one rotation. It is used by one goroutine.
type issuer struct {
	cfg   aws.Config
	clock *apikey.Clock
	r     rotators.Rotation

	ses    string          // the region of SES; "": no password for it
	user   *identity       // whose keys they are; nil: not known yet
	holder rotators.Secret // the value that told it
	client *iam.Client     // nil: none yet
	intent intent          // that Begin wrote last
	uses   map[string]use  // by key, as IAM told before rekey tried the key
}

// identity is an IAM user.
type identity struct{ arn, partition, account, name string }

// region is the form of the names of AWS's regions. All of them end in a direction and a
// digit: us-east-1, ap-southeast-2, us-gov-west-1, eusc-de-east-1.
var region = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)?-(central|north|south|east|west|northeast|northwest|southeast|southwest)-[1-9]$`)

// check reads the options.
func (i *issuer) check() error {
	for _, name := range slices.Sorted(maps.Keys(i.r.Settings.Options)) {
		if name != "ses" {
			return rotators.Permanent(fmt.Errorf("iam-key has no option %q; there is: ses=REGION", name))
		}
		i.ses = i.r.Settings.Options[name]
		if !region.MatchString(i.ses) {
			return rotators.Permanent(fmt.Errorf("the option ses=%s does not have the form of a region: name the region of SES whose SMTP interface the application uses, as in ses=eu-west-1", i.ses))
		}
	}
	if s := i.r.Settings.Strategy; s != "" {
		return rotators.Permanent(fmt.Errorf("iam-key has no strategies, so the tag rekey:strategy=%s means nothing here: remove it", s))
	}
	if admin := i.r.Settings.Admin; admin != "" && i.r.Limits.DelegatedAdmins {
		return rotators.Permanent(fmt.Errorf("the role %s is not used: this function takes only admins whose tag rekey:admin-for names the rotated secret (its environment variable REKEY_ADMINS), and a role has no such tag; remove the tag rekey:admin, and the key rotates itself", admin))
	}
	return nil
}

// ID reads the id, and sees to it that the value can hold another key.
func (i *issuer) ID(v rotators.Secret) (string, error) {
	var id string
	for _, name := range []string{fieldID, fieldSecret} {
		f, err := v.Field(name)
		if err != nil {
			return "", err
		}
		if f.IsZero() || f.Reveal() == "" {
			return "", rotators.Permanent(fmt.Errorf("the value has no field %q: an access key is a JSON object with the fields %s and %s", name, fieldID, fieldSecret))
		}
		if name == fieldID {
			id = f.Reveal()
			if strings.HasPrefix(id, "ASIA") { // as STS issues them
				return "", rotators.Permanent(fmt.Errorf("the key %s is a temporary one, which ends by itself: store a key of an IAM user", id))
			}
		}
		// So that nothing is minted that could not be stored.
		if _, err := v.Replace(name, rotators.NewSecret("x")); err != nil {
			return "", err
		}
	}
	return id, nil
}

// Settling is settling.
func (i *issuer) Settling() time.Duration { return settling }

// Mint makes a key. It is asked for once: a second call after a lost reply could make
// a second key.
func (i *issuer) Mint(ctx context.Context, _ string) (apikey.Key, error) {
	client, err := i.iam(ctx)
	if err != nil {
		return apikey.Key{}, err
	}
	left := i.intent.to.Sub(i.clock.Time())
	if left < minMint {
		i.takeBack(ctx)
		return apikey.Key{}, fmt.Errorf("writing the intent for the user %q took so long that a key made now might not be known for rekey's; the next try writes it anew", i.user.name)
	}
	limited, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	out, err := client.CreateAccessKey(limited, &iam.CreateAccessKeyInput{UserName: &i.user.name}, once)
	switch {
	case refusal(err):
		i.takeBack(ctx) // a key of those seconds is somebody else's
	case err != nil:
		i.letGo(ctx)
	}
	if code(err) == "LimitExceeded" {
		return apikey.Key{}, i.full(ctx, err)
	}
	if err != nil {
		return apikey.Key{}, i.explain("CreateAccessKey", err)
	}
	id, secret := aws.ToString(out.AccessKey.AccessKeyId), aws.ToString(out.AccessKey.SecretAccessKey)
	key := apikey.Key{ID: id, Fields: map[string]rotators.Secret{fieldID: rotators.NewSecret(id), fieldSecret: rotators.NewSecret(secret)}}
	if i.ses != "" {
		key.Fields[fieldSMTP] = smtpPassword(secret, i.ses)
	}
	return key, nil
}

// refusal reports whether AWS said that it did nothing: by any answer with a status of 4xx.
// After a 5xx, or without an answer, AWS may have done what was asked.
func refusal(err error) bool {
	answer := (*awshttp.ResponseError)(nil)
	return code(err) != "" && errors.As(err, &answer) && answer.HTTPStatusCode()/100 == 4
}

// full names the keys there are.
func (i *issuer) full(ctx context.Context, full error) error {
	keys, err := i.keys(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", apikey.ErrFull, full), err)
	}
	others, err := i.others(ctx, keys)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return i.noRoom(others)
	}
	return fmt.Errorf("%w: %w; if IAM lists fewer than two keys of the user %q it is late, and the next try finds the other one", apikey.ErrFull, full, i.user.name)
}

// noRoom is the error about keys that are not rekey's to revoke.
func (i *issuer) noRoom(others []key) error {
	var named []string
	for _, k := range others {
		named = append(named, fmt.Sprintf("%s (%s, made at %s)", k.id, k.status, k.made.UTC().Format(time.RFC3339)))
	}
	return rotators.Permanent(fmt.Errorf("%w: the user %q has two keys already, and the other one, %s, is none that this secret recorded or rekey is known to have made: find out who uses it, and delete it or give this application a user of its own", apikey.ErrFull, i.user.name, strings.Join(named, ", ")))
}

// others returns those of the keys that the secret does not hold in any of the versions
// there are.
func (i *issuer) others(ctx context.Context, keys []key) (others []key, err error) {
	for _, k := range keys {
		if use, err := i.r.Use(ctx, k.in); err != nil {
			return nil, err
		} else if use == rotators.Unused {
			others = append(others, k)
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	for v, err := range i.r.Leftovers(ctx) {
		if err != nil {
			return nil, err
		}
		others = slices.DeleteFunc(others, func(k key) bool { return k.in(v) })
	}
	return others, nil
}

// Verify asks STS who it is that the key belongs to. The answer needs no permission,
// and no policy can refuse it.
func (i *issuer) Verify(ctx context.Context, v rotators.Secret) error {
	who, err := i.identity(ctx, v)
	if err != nil {
		return err
	}
	if i.user == nil && v.Equal(i.r.Current) {
		i.user, i.holder = who, v
	}
	if i.inUse(v) {
		if err := i.mail(v); err != nil {
			return err
		}
	}
	if i.user != nil && who.arn != i.user.arn {
		return rotators.Permanent(fmt.Errorf("the key belongs to %s, and the one that readers get to %s: a rotation stays with one user", who.arn, i.user.arn))
	}
	return nil
}

// inUse reports whether a value is one that applications use or will use. Any older value
// is tried only so that its key can be revoked, whatever else the value says.
func (i *issuer) inUse(v rotators.Secret) bool { return v.Equal(i.r.Current) || v.Equal(i.r.Pending) }

// mail checks the password for SES in a value against the option ses. A current value with a
// password and without the option is not rotated: its password would stay the old key's. A
// first value may hold none yet: the first rotation adds the password. The errors are
// permanent, because the key itself works, and a new key would not have the application's
// mail sent.
func (i *issuer) mail(v rotators.Secret) error {
	secret, err := v.Field(fieldSecret)
	smtp, smtpErr := v.Field(fieldSMTP)
	if err := errors.Join(err, smtpErr); err != nil || smtp.IsZero() || smtp.Reveal() == "" {
		return err
	}
	if i.ses == "" && !v.Equal(i.r.Current) {
		return nil
	}
	if i.ses == "" {
		return rotators.Permanent(fmt.Errorf("the value has a field %s, and the tag rekey:options does not say ses=REGION, so the password there would be an old key's after a rotation: write the tag with the region of SES, or take the field out of the value", fieldSMTP))
	}
	if !smtp.Equal(smtpPassword(secret.Reveal(), i.ses)) {
		return rotators.Permanent(fmt.Errorf("%s is not the password that SES derives from the key in the region %s: put the region in the tag rekey:options right, or, if the application is to use SES in that region, empty the field", fieldSMTP, i.ses))
	}
	return nil
}

// identity finds out whose key a value holds. The field UserName of a value in use must be
// right. In an older value the field may be the user's former name.
func (i *issuer) identity(ctx context.Context, v rotators.Secret) (*identity, error) {
	cfg, err := i.as(v)
	if err != nil {
		return nil, err
	}
	out, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, nil)
	if err != nil {
		id, _ := i.ID(v)
		if refused(err) {
			return nil, rotators.Refused(fmt.Errorf("AWS does not accept the key %s: %s", id, code(err)))
		}
		return nil, fmt.Errorf("cannot tell whether AWS accepts the key %s: %w", id, err)
	}
	who, err := arn.Parse(aws.ToString(out.Arn))
	path, isUser := strings.CutPrefix(who.Resource, "user/")
	if err != nil || !isUser {
		return nil, rotators.Permanent(fmt.Errorf("the key belongs to %s, and only those of IAM users can be rotated: give the application a user", aws.ToString(out.Arn)))
	}
	name := path[strings.LastIndex(path, "/")+1:]
	if said, err := v.Field(fieldUser); err != nil {
		return nil, err
	} else if i.inUse(v) && !said.IsZero() && !strings.EqualFold(said.Reveal(), name) { // IAM does not tell names apart by case
		return nil, rotators.Permanent(fmt.Errorf("the field %s says %q, and the key belongs to %s: put one of them right", fieldUser, said.Reveal(), who))
	}
	return &identity{arn: who.String(), partition: who.Partition, account: who.AccountID, name: name}, nil
}

// refused tells whether AWS said that a key is wrong. It says SignatureDoesNotMatch of a
// clock that is wrong, too.
func refused(err error) bool {
	switch code(err) {
	case "InvalidClientTokenId", "InvalidAccessKeyId", "AuthFailure", "UnrecognizedClientException":
		return true
	case "SignatureDoesNotMatch":
		return !strings.Contains(err.Error(), "Signature expired") && !strings.Contains(err.Error(), "Signature not yet current")
	}
	return false
}

// as returns the configuration of who holds the key in a value.
func (i *issuer) as(v rotators.Secret) (aws.Config, error) {
	id, err := i.ID(v)
	if err != nil {
		return aws.Config{}, err
	}
	secret, err := v.Field(fieldSecret)
	if err != nil {
		return aws.Config{}, err
	}
	cfg := i.cfg.Copy()
	cfg.Credentials = credentials.NewStaticCredentialsProvider(id, secret.Reveal(), "")
	return cfg, nil
}

// Revoke disables a key and deletes it.
func (i *issuer) Revoke(ctx context.Context, id string) error {
	client, err := i.iam(ctx)
	if err != nil {
		return err
	}
	_, err = client.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: &i.user.name, AccessKeyId: &id, Status: "Inactive"})
	if code(err) == "NoSuchEntity" {
		return nil
	}
	if err != nil {
		return i.explain("UpdateAccessKey", err)
	}
	i.logLastUse(ctx, id)
	if _, err := client.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: &i.user.name, AccessKeyId: &id}); err != nil && code(err) != "NoSuchEntity" {
		return i.explain("DeleteAccessKey", err)
	}
	return nil
}

// iam returns a client that acts for the user whose keys are rotated: the user itself,
// or the role that rekey:admin names. Either way a key of the user has to work first.
func (i *issuer) iam(ctx context.Context) (*iam.Client, error) {
	if i.client != nil {
		return i.client, nil
	}
	if i.user == nil {
		if err := i.ask(ctx); err != nil {
			return nil, err
		}
	}
	var cfg aws.Config
	var err error
	if admin := i.r.Settings.Admin; admin == "" {
		cfg, err = i.as(i.holder)
	} else {
		cfg, err = i.assume(ctx, admin)
	}
	if err != nil {
		return nil, err
	}
	i.client = iam.NewFromConfig(cfg)
	return i.client, nil
}

// ask finds out whose keys are rotated: the user of the current key, and nobody else. If
// the current key is refused, the pending key may act, provided that the current value
// names its user.
func (i *issuer) ask(ctx context.Context) (err error) {
	i.holder = i.r.Current
	err = i.clock.Await(ctx, settling, func() error {
		i.user, err = i.identity(ctx, i.holder)
		return err
	})
	if !rotators.IsRefused(err) {
		return err
	}
	refused := err
	name, err := i.r.Current.Field(fieldUser)
	if err == nil && !name.IsZero() && !i.r.Pending.IsZero() {
		user, err := i.identity(ctx, i.r.Pending)
		if err != nil && !rotators.IsRefused(err) {
			return err
		}
		if err == nil && strings.EqualFold(user.name, name.Reveal()) {
			i.user, i.holder = user, i.r.Pending
			return nil
		}
	}
	// The error is not Refused: nobody asked about the current key.
	return fmt.Errorf("nothing was changed, because the current key is refused and only the current key says whose keys to rotate: if it stays so, make a key for the user and store it by hand (%v)", refused)
}

// assume returns the configuration of the role of that ARN. Its session, of an hour, is
// longer than any step.
func (i *issuer) assume(ctx context.Context, admin string) (aws.Config, error) {
	role, err := arn.Parse(admin)
	if err != nil || role.Service != "iam" || !strings.HasPrefix(role.Resource, "role/") {
		return aws.Config{}, rotators.Permanent(fmt.Errorf("rekey:admin=%s is not the ARN of a role, and iam-key has no other admins: name one, or none, and the key rotates itself", admin))
	}
	if role.AccountID != i.user.account || role.Partition != i.user.partition {
		return aws.Config{}, rotators.Permanent(fmt.Errorf("the role %s is of another account than the user %s, and there a user of the same name would be somebody else", admin, i.user.arn))
	}
	out, err := sts.NewFromConfig(i.cfg).AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: &admin, RoleSessionName: aws.String("rekey")})
	if code(err) == "AccessDenied" {
		return aws.Config{}, rotators.Permanent(fmt.Errorf("this function may not assume the role %s, which rekey:admin names: its own policy and the role's trust policy must both allow it; see docs/rotators/iamkey.md: %w", admin, err))
	}
	if err != nil {
		return aws.Config{}, fmt.Errorf("assuming the role %s, which rekey:admin names: %w", admin, err)
	}
	cfg := i.cfg.Copy()
	cfg.Credentials = credentials.NewStaticCredentialsProvider(aws.ToString(out.Credentials.AccessKeyId), aws.ToString(out.Credentials.SecretAccessKey), aws.ToString(out.Credentials.SessionToken))
	return cfg, nil
}

// explain says what to do about an error of IAM's.
func (i *issuer) explain(operation string, err error) error {
	who := i.user.arn
	if i.r.Settings.Admin != "" {
		who = i.r.Settings.Admin
	}
	if code(err) == "AccessDenied" {
		return rotators.Permanent(fmt.Errorf("%s may not call iam:%s for the user %q; see the policy in docs/rotators/iamkey.md: %w", who, operation, i.user.name, err))
	}
	return fmt.Errorf("iam:%s for the user %q: %w", operation, i.user.name, err)
}

// code is AWS's code of an error; "" if AWS said nothing.
func code(err error) string {
	if said := smithy.APIError(nil); errors.As(err, &said) {
		return said.ErrorCode()
	}
	return ""
}

// once has a call made one time only.
func once(o *iam.Options) { o.Retryer = aws.NopRetryer{} }

// smtpPassword derives the password for the SMTP interface of SES from a secret key, as
// the developer guide of SES says. The user name is the id of the key.
func smtpPassword(secret, region string) rotators.Secret {
	sum := []byte("AWS4" + secret)
	for _, part := range []string{"11111111", region, "ses", "aws4_request", "SendRawEmail"} {
		mac := hmac.New(sha256.New, sum)
		mac.Write([]byte(part))
		sum = mac.Sum(nil)
	}
	return rotators.NewSecret(base64.StdEncoding.EncodeToString(append([]byte{4}, sum...)))
}
