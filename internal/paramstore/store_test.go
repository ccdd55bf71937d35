package paramstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"golang.org/x/time/rate"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/internal/rotation/storetest"
	"github.com/rekeyhq/rekey/rotators"
)

const name = "/shop/db"

// start serves AWS and returns the real SDK's client for it.
func start(t *testing.T, config localaws.Config) (*localaws.Server, *ssm.Client) {
	server := localaws.New(config)
	t.Cleanup(server.Close)
	http := httptest.NewServer(server)
	t.Cleanup(http.Close)
	return server, ssm.New(ssm.Options{
		Region:       "us-east-1",
		BaseEndpoint: &http.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond }),
	})
}

// described is a parameter as the planner hands it on.
func described(t *testing.T, client *ssm.Client) paramstore.Parameter {
	t.Helper()
	found, err := paramstore.Describe(t.Context(), client, []string{name})
	if err != nil || len(found) != 1 || found[0].Refused != nil {
		t.Fatalf("described as %+v (%v)", found, err)
	}
	return found[0].Parameter
}

func put(t *testing.T, client *ssm.Client, value string) {
	t.Helper()
	_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{
		Name: aws.String(name), Value: &value, Type: types.ParameterTypeSecureString, Overwrite: aws.Bool(true),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, client *ssm.Client, name string) string {
	t.Helper()
	out, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	return *out.Parameter.Value
}

func unlimited() *rate.Limiter { return rate.NewLimiter(rate.Inf, 0) }

func fixture(t *testing.T, client *ssm.Client) storetest.Fixture {
	put(t, client, "the first value")
	p := described(t, client)
	return storetest.Fixture{
		Store: paramstore.New(client, p, unlimited()), ID: p.ARN, First: rotators.NewSecret("the first value"),
		Begin:  p.Token,
		Put:    func(v rotators.Secret) { put(t, client, v.Reveal()) },
		Revert: func() { put(t, client, "the first value") },
		Label: func(label string) {
			_, err := client.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String(name), Labels: []string{label}})
			if err != nil {
				t.Fatal(err)
			}
		},
		Current: func() rotators.Secret { return rotators.NewSecret(read(t, client, name)) },
		Tags:    func() map[string]string { return tags(t, client) },
	}
}

func tags(t *testing.T, client *ssm.Client) map[string]string {
	t.Helper()
	out, err := client.ListTagsForResource(t.Context(), &ssm.ListTagsForResourceInput{ResourceType: "Parameter", ResourceId: aws.String(name)})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, tag := range out.TagList {
		tags[*tag.Key] = *tag.Value
	}
	return tags
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		_, client := start(t, localaws.Config{})
		return fixture(t, client)
	})
}

// With an owner's 48 tags and the record of a retirement, somebody adds one more after the
// attempt has begun: the record makes room for the order to retire.
func TestAnOrderFindsRoom(t *testing.T) {
	_, client := start(t, localaws.Config{})
	put(t, client, "the first value")
	add := func(key string) {
		t.Helper()
		_, err := client.AddTagsToResource(t.Context(), &ssm.AddTagsToResourceInput{
			ResourceType: "Parameter", ResourceId: aws.String(name), Tags: []types.Tag{{Key: &key, Value: aws.String("1")}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 48 {
		add(fmt.Sprintf("team-%d", i))
	}
	add(rotation.TagRetired)
	p := described(t, client)
	store := paramstore.New(client, p, unlimited())
	a, err := store.Load(t.Context(), p.ARN, p.Token())
	if err != nil {
		t.Fatal(err)
	}
	add("team-48")
	a.Tags.Retire = "1"
	if err := store.Order(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if tags := tags(t, client); tags[rotation.TagRetire] != "1" || tags[rotation.TagRetired] != "" || len(tags) != 50 {
		t.Errorf("the tags are %v", tags)
	}
}

// The suite once more on a network that loses the reply of every write once.
func TestStoreWithEveryReplyLostOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		var on atomic.Bool
		var lost atomic.Pointer[string]
		_, client := start(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
			read := strings.HasPrefix(c.Operation, "Get") || strings.HasPrefix(c.Operation, "Describe") || strings.HasPrefix(c.Operation, "List")
			if !on.Load() || read {
				return localaws.None
			}
			if last := lost.Swap(&c.Operation); last != nil && *last == c.Operation {
				lost.Store(nil)
				return localaws.None
			}
			return localaws.LoseReply
		}})
		f := fixture(t, client)
		byHand, revert, label := f.Put, f.Revert, f.Label
		f.Label = func(name string) { on.Store(false); label(name); on.Store(true) }
		f.Put = func(v rotators.Secret) { on.Store(false); byHand(v); on.Store(true) }
		f.Revert = func() { on.Store(false); revert(); on.Store(true) }
		on.Store(true)
		return f
	})
}

// begin loads an attempt and stores a pending value.
func begin(t *testing.T, client *ssm.Client, value string) (*paramstore.Store, *rotation.Attempt) {
	t.Helper()
	p := described(t, client)
	s := paramstore.New(client, p, unlimited())
	a, err := s.Load(t.Context(), p.ARN, p.Token())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutPending(t.Context(), a, rotators.NewSecret(value)); err != nil {
		t.Fatal(err)
	}
	if a, err = s.Load(t.Context(), p.ARN, p.Token()); err != nil {
		t.Fatal(err)
	}
	return s, a
}

// Everything about the parameter but its value is the same after a rotation.
// The server forgets whatever is not sent again, but for policies.
func TestAllElseSurvives(t *testing.T) {
	_, client := start(t, localaws.Config{})
	_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{
		Name: aws.String(name), Value: aws.String("first"), Type: types.ParameterTypeSecureString, KeyId: aws.String("alias/aws/ssm"),
		Tier: types.ParameterTierAdvanced, Description: aws.String("The shop's login: don't touch"), AllowedPattern: aws.String("^[a-z]+$"),
		Policies: aws.String(`[{"Type":"NoChangeNotification","Version":"1.0","Attributes":{"After":"30","Unit":"Days"}}]`),
		Tags:     []types.Tag{{Key: aws.String("team"), Value: aws.String("shop")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	before := describe(t, client)
	s, a := begin(t, client, "second")
	if err := s.Promote(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	after := describe(t, client)
	if after.Version != before.Version+1 || read(t, client, name) != "second" {
		t.Errorf("version %d became %d", before.Version, after.Version)
	}
	before.Version, before.LastModifiedDate = after.Version, after.LastModifiedDate
	if was, is := show(before), show(after); was != is {
		t.Errorf("before %s\nafter  %s", was, is)
	}
	if got := tags(t, client); len(got) != 1 || got["team"] != "shop" {
		t.Errorf("the tags are %v", got)
	}
}

func describe(t *testing.T, client *ssm.Client) types.ParameterMetadata {
	t.Helper()
	pages := ssm.NewDescribeParametersPaginator(client, &ssm.DescribeParametersInput{
		ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Values: []string{name}}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Parameters) == 1 {
			return page.Parameters[0]
		}
	}
	t.Fatal("it is gone")
	return types.ParameterMetadata{}
}

func show(m types.ParameterMetadata) string {
	policies := ""
	for _, p := range m.Policies {
		policies += *p.PolicyType + " " + *p.PolicyText
	}
	return fmt.Sprintf("%s %s %s %s %s %s %s %s %s", *m.Name, *m.ARN, m.Type, m.Tier, aws.ToString(m.KeyId), aws.ToString(m.DataType), aws.ToString(m.Description), aws.ToString(m.AllowedPattern), policies)
}

// What Parameter Store would refuse at promotion is refused when the pending value
// is stored, in a sentence that says what to do, and nothing is left behind.
func TestRefusedBeforeAnythingIsChanged(t *testing.T) {
	for label, c := range map[string]struct {
		prepare func(t *testing.T, client *ssm.Client)
		edit    func(*localaws.Parameter)
		value   string
		mention []string
	}{
		"the pattern":  {edit: func(p *localaws.Parameter) { p.AllowedPattern = "^[a-z]+$" }, value: "UPPER", mention: []string{"AllowedPattern ^[a-z]+$", "rekey:password"}},
		"a reference":  {value: "a{{b}}", mention: []string{`"{{"`, "rekey:password"}},
		"the length":   {value: strings.Repeat("x", 4097), mention: []string{"4097 bytes", "4096", "Standard"}},
		"longer still": {edit: func(p *localaws.Parameter) { p.Tier = "Advanced" }, value: strings.Repeat("x", 8193), mention: []string{"8193 bytes", "8192", "Advanced"}},
		"a label on the oldest of 100 versions": {
			prepare: func(t *testing.T, client *ssm.Client) {
				for n := 2; n <= 100; n++ {
					put(t, client, fmt.Sprint("value ", n))
				}
				_, err := client.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String(name), ParameterVersion: aws.Int64(1), Labels: []string{"golden"}})
				if err != nil {
					t.Fatal(err)
				}
			},
			value: "next", mention: []string{"version 1,", "it has a label", "unlabel-parameter-version"},
		},
	} {
		t.Run(label, func(t *testing.T) {
			server, client := start(t, localaws.Config{})
			put(t, client, "first")
			if c.prepare != nil {
				c.prepare(t, client)
			}
			if c.edit != nil {
				if err := server.EditParameter(name, c.edit); err != nil {
					t.Fatal(err)
				}
			}
			p := described(t, client)
			before := read(t, client, name)
			s := paramstore.New(client, p, unlimited())
			a, err := s.Load(t.Context(), p.ARN, p.Token())
			if err != nil {
				t.Fatal(err)
			}
			err = s.PutPending(t.Context(), a, rotators.NewSecret(c.value))
			if err == nil || !rotators.IsPermanent(err) {
				t.Fatalf("got %v", err)
			}
			for _, mention := range c.mention {
				if !strings.Contains(err.Error(), mention) {
					t.Errorf("%v: nothing of %q", err, mention)
				}
			}
			if a, err = s.Load(t.Context(), p.ARN, p.Token()); err != nil || a.State != rotation.Reserved || read(t, client, name) != before {
				t.Errorf("the state is %v (%v)", a, err)
			}
		})
	}
}

// A parameter of 100 versions without a label there is rotated.
func TestTheHundredFirstVersion(t *testing.T) {
	_, client := start(t, localaws.Config{})
	for n := range 101 {
		put(t, client, fmt.Sprint("value ", n))
	}
	s, a := begin(t, client, "next")
	if err := s.Promote(t.Context(), a); err != nil || read(t, client, name) != "next" {
		t.Errorf("got %v", err)
	}
}

// The sizes and the pattern are not all that Parameter Store looks at. The key is named
// also if the value cannot be read, which comes before the parameter is described.
func TestADisabledKeyIsNamed(t *testing.T) {
	for _, when := range []string{"before Load", "after Load"} {
		_, client := start(t, localaws.Config{})
		o := client.Options()
		keys := kms.New(kms.Options{Region: o.Region, BaseEndpoint: o.BaseEndpoint, Credentials: o.Credentials})
		key, err := keys.CreateKey(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		id := key.KeyMetadata.KeyId
		_, err = client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String(name), Value: aws.String("first"), Type: types.ParameterTypeSecureString, KeyId: id})
		if err != nil {
			t.Fatal(err)
		}
		disable := func() {
			if _, err := keys.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: id}); err != nil {
				t.Fatal(err)
			}
		}
		p := described(t, client)
		s := paramstore.New(client, p, unlimited())
		if when == "before Load" {
			disable()
		}
		a, err := s.Load(t.Context(), p.ARN, p.Token())
		if when == "after Load" {
			if err != nil {
				t.Fatal(err)
			}
			disable()
			err = s.PutPending(t.Context(), a, rotators.NewSecret("next"))
		}
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), *id) {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func TestParametersThatAreNotRekeysToRotate(t *testing.T) {
	server, client := start(t, localaws.Config{})
	for label, c := range map[string]struct {
		p       localaws.Parameter
		mention string
	}{
		"plain text":                {localaws.Parameter{Name: "/a", Type: "String", Value: "x"}, "delete it, make it anew as a SecureString"},
		"a list":                    {localaws.Parameter{Name: "/b", Type: "StringList", Value: "x,y"}, "its type is StringList"},
		"one that is to be deleted": {localaws.Parameter{Name: "/c", Type: "SecureString", Value: "x", Tier: "Advanced", Policies: `[{"Type":"Expiration","Version":"1.0","Attributes":{"Timestamp":"2030-01-01T00:00:00.000Z"}}]`}, "Expiration policy"},
		"a record of rekey's own":   {localaws.Parameter{Name: "/rekey/pending/x/1", Type: "SecureString", Value: "x"}, "take its tags off"},
	} {
		server.AddParameter(c.p)
		found, err := paramstore.Describe(t.Context(), client, []string{c.p.Name})
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v, %v", label, found, err)
		}
		if err := found[0].Refused; err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), c.mention) {
			t.Errorf("%s: %v", label, err)
		}
	}
	if err := paramstore.Refuse("/aws/reference/secretsmanager/app", "SecureString"); err == nil || !strings.Contains(err.Error(), "rotate that secret there") {
		t.Errorf("a reference: %v", err)
	}
}

// Somebody writes in the instant between the look and the write of a promotion.
// That cannot be prevented, but it is seen.
func TestAChangeInsideThePut(t *testing.T) {
	var client *ssm.Client
	var armed atomic.Bool
	_, client = start(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
		if c.Operation == "PutParameter" && armed.CompareAndSwap(true, false) {
			put(t, client, "by hand")
		}
		return localaws.None
	}})
	put(t, client, "first")
	s, a := begin(t, client, "second")
	armed.Store(true)
	err := s.Promote(t.Context(), a)
	if !errors.Is(err, rotation.ErrSuperseded) || !strings.Contains(err.Error(), "version 2") || read(t, client, name) != "second" {
		t.Errorf("got %v, and readers get %q", err, read(t, client, name))
	}
}

// The parameter is deleted in the instant between the look and the write of a promotion,
// which so makes it anew, without its tags. A person has to know: no retry can tell.
func TestADeletionInsideThePut(t *testing.T) {
	var client *ssm.Client
	var armed, deleting atomic.Bool
	now := func() time.Time {
		if deleting.Load() { // long before, because for half a minute AWS may refuse the name
			return time.Now().Add(-time.Minute)
		}
		return time.Now()
	}
	_, client = start(t, localaws.Config{Now: now, Fault: func(c localaws.Call) localaws.Fault {
		if c.Operation == "PutParameter" && armed.CompareAndSwap(true, false) {
			deleting.Store(true)
			defer deleting.Store(false)
			if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
				t.Error(err)
			}
		}
		return localaws.None
	}})
	put(t, client, "first")
	s, a := begin(t, client, "second")
	armed.Store(true)
	err := s.Promote(t.Context(), a)
	if !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "deleted in the instant of promotion") || !strings.Contains(err.Error(), "without its tags") {
		t.Errorf("got %v", err)
	}
}

// An attempt that is over takes away the records that were stored before its own, whatever
// their base, and those of older bases, whenever they were stored: each holds a password.
// What was stored later for a later base is of another attempt. Until then the records are
// left over, the newest first.
func TestRecordsOfOtherAttempts(t *testing.T) {
	var calls atomic.Int64 // each has a time of its own: the API's times are in milliseconds
	_, client := start(t, localaws.Config{Now: func() time.Time { return time.Now().Add(time.Duration(calls.Add(1)) * time.Millisecond) }})
	put(t, client, "first")
	past := described(t, client)
	put(t, client, "by hand")
	p := described(t, client)
	deleted, later := p, p
	deleted.Base, later.Base = 7, 3 // the first of a parameter of this name that was deleted
	record := func(p paramstore.Parameter) {
		t.Helper()
		_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String(p.Record()), Value: aws.String(fmt.Sprint("of base ", p.Base)), Type: types.ParameterTypeSecureString})
		if err != nil {
			t.Fatal(err)
		}
	}
	record(deleted)
	s, a := begin(t, client, "second")
	record(past) // by a run that came late
	record(later)
	var left []string
	for v, err := range s.Leftovers(t.Context(), a) {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, v.Reveal())
	}
	if want := []string{"of base 3", "of base 1", "of base 7"}; !slices.Equal(left, want) {
		t.Errorf("left over are %q, want %q", left, want)
	}
	if err := s.Promote(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	var records []string
	pages := ssm.NewGetParametersByPathPaginator(client, &ssm.GetParametersByPathInput{Path: aws.String("/rekey/pending/"), Recursive: aws.Bool(true)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Parameters {
			records = append(records, *p.Name)
		}
	}
	if !slices.Equal(records, []string{later.Record()}) {
		t.Errorf("the records are %q, want %q", records, later.Record())
	}
}

// A promotion whose reply is lost, and one whose request is, make one version.
func TestALostPromotion(t *testing.T) {
	for label, fault := range map[string]localaws.Fault{"the reply": localaws.LoseReply, "throttled": localaws.Throttle} {
		t.Run(label, func(t *testing.T) {
			var armed atomic.Bool
			_, client := start(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
				if c.Operation == "PutParameter" && armed.CompareAndSwap(true, false) {
					return fault
				}
				return localaws.None
			}})
			put(t, client, "first")
			s, a := begin(t, client, "second")
			armed.Store(true)
			if err := s.Promote(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if m := describe(t, client); m.Version != 2 || a.Note != "" {
				t.Errorf("version %d, %q", m.Version, a.Note)
			}
		})
	}
}

// When a promotion is sent the target has the new value already, so others who use
// up the quota hold it up, and do not fail it.
func TestAPromotionThatIsThrottled(t *testing.T) {
	var left atomic.Int32
	_, client := start(t, localaws.Config{Fault: func(c localaws.Call) localaws.Fault {
		if c.Operation == "PutParameter" && left.Add(-1) >= 0 {
			return localaws.Throttle
		}
		return localaws.None
	}})
	put(t, client, "first")
	s, a := begin(t, client, "second")
	left.Store(6)
	if err := s.Promote(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if m := describe(t, client); m.Version != 2 || read(t, client, name) != "second" {
		t.Errorf("version %d", m.Version)
	}
}

// Siblings are the parts of a connection beside a plain password.
func TestSiblings(t *testing.T) {
	server, client := start(t, localaws.Config{})
	for field, value := range map[string]string{"host": "db.example.com", "port": "5432", "username": "app", "ssl": "false"} {
		server.AddParameter(localaws.Parameter{Name: "/shop/" + field, Type: "String", Value: value})
	}
	server.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: "x", Tags: map[string]string{"rekey:connection": "siblings"}})
	p := described(t, client)
	a, err := paramstore.New(client, p, unlimited()).Load(t.Context(), p.ARN, p.Token())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"host":"db.example.com","port":"5432","ssl":false,"username":"app"}`; a.Tags.Connection != want {
		t.Errorf("got %s, want %s", a.Tags.Connection, want)
	}
}

func TestSiblingsThatAreNotThere(t *testing.T) {
	server, client := start(t, localaws.Config{})
	server.AddParameter(localaws.Parameter{Name: name, Type: "SecureString", Value: "x", Tags: map[string]string{"rekey:connection": "siblings"}})
	p := described(t, client)
	_, err := paramstore.New(client, p, unlimited()).Load(t.Context(), p.ARN, p.Token())
	if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "/shop/username") {
		t.Errorf("got %v", err)
	}
}

// A parameter that is deleted is ErrGone, unless a record tells that it was in
// the middle of a rotation.
func TestDeleted(t *testing.T) {
	_, client := start(t, localaws.Config{})
	put(t, client, "first")
	p := described(t, client)
	s, _ := begin(t, client, "second")
	if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Load(t.Context(), p.ARN, p.Token())
	if err == nil || errors.Is(err, paramstore.ErrGone) || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), p.Record()) {
		t.Errorf("with a record: %v", err)
	}
	if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(p.Record())}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), p.ARN, p.Token()); !errors.Is(err, paramstore.ErrGone) || !rotators.IsPermanent(err) {
		t.Errorf("without: %v", err)
	}
}

// counted is a Limiter that lets everybody through.
type counted int

func (c *counted) Wait(context.Context) error { *c++; return nil }

// All that a rotation takes of the account's writes has been waited for when the target is
// changed: from then until the promotion applications may be locked out. That holds too
// for who finds the pending value of another run. Who wants to know only how far an
// attempt is takes none.
func TestWritesAreWaitedForBeforeTheTargetIsChanged(t *testing.T) {
	_, client := start(t, localaws.Config{})
	put(t, client, "first")
	p := described(t, client) // and the next description is on one page
	var waits counted
	s := paramstore.New(client, p, &waits)
	step := func(want counted, what string, err error) {
		t.Helper()
		if err != nil || waits != want {
			t.Errorf("%s: %d were waited for, want %d (%v)", what, waits, want, err)
		}
		waits = 0
	}
	_, err := s.Look(t.Context(), p.ARN, p.Token())
	step(0, "the look", err)
	a, err := s.Load(t.Context(), p.ARN, p.Token())
	step(1, "the description", err)
	step(2, "the record, and the promotion to come", s.PutPending(t.Context(), a, rotators.NewSecret("second")))
	_, err = s.Load(t.Context(), p.ARN, p.Token())
	step(0, "the second load", err)

	if _, err := client.DescribeParameters(t.Context(), &ssm.DescribeParametersInput{}); err != nil {
		t.Fatal(err) // the fourth answer, which localaws leaves empty
	}
	s = paramstore.New(client, p, &waits)
	a, err = s.Load(t.Context(), p.ARN, p.Token())
	step(2, "the description by another run, and its promotion", err)
	step(0, "the promotion", s.Promote(t.Context(), a))
	if got := read(t, client, name); got != "second" {
		t.Errorf("the value is %q", got)
	}
}

// The record has the description with which the parameter is promoted, after a note that
// says whose it is; the description alone where there is no room for both. So what
// Parameter Store would refuse of it is refused before anything is changed, and
// a parameter with as long an ARN as there can be is rotated.
func TestDescriptions(t *testing.T) {
	const prefix = "arn:aws:ssm:us-east-1:000000000000:parameter/"
	for label, c := range map[string]struct {
		name, own string
		both      bool
	}{
		"none":                             {"/shop/password", "", true},
		"a short one":                      {"/shop/password", "The shop's login", true},
		"one of 1,024 characters":          {"/shop/password", strings.Repeat("x", 1024), false},
		"one of 1,024 that are two bytes":  {"/shop/password", strings.Repeat("é", 1024), false},
		"an ARN of 1,010 characters":       {"/" + strings.Repeat("a", 1010-len(prefix)), "", false},
		"both of them as long as they can": {"/" + strings.Repeat("a", 1010-len(prefix)), strings.Repeat("x", 1024), false},
	} {
		t.Run(label, func(t *testing.T) {
			_, client := start(t, localaws.Config{})
			describe := func(name string) paramstore.Described {
				t.Helper()
				found, err := paramstore.Describe(t.Context(), client, []string{name})
				if err != nil || len(found) != 1 {
					t.Fatal(found, err)
				}
				return found[0]
			}
			_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: &c.name, Value: aws.String("first"), Type: types.ParameterTypeSecureString, Description: &c.own})
			if err != nil {
				t.Fatal(err)
			}
			p := describe(c.name).Parameter
			if err := p.Check(); err != nil {
				t.Fatal(err)
			}
			s := paramstore.New(client, p, unlimited())
			a, err := s.Load(t.Context(), p.ARN, p.Token())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.PutPending(t.Context(), a, rotators.NewSecret("second")); err != nil {
				t.Fatal(err)
			}
			record := describe(p.Record()).Description
			if both := strings.Contains(record, p.ARN) && strings.HasSuffix(record, c.own) && record != c.own; both != c.both || !both && record != c.own {
				t.Errorf("the record is described as %q", record)
			}
			if a, err = s.Load(t.Context(), p.ARN, p.Token()); err != nil {
				t.Fatal(err)
			}
			if err := s.Promote(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if after := describe(c.name); after.Description != c.own || after.Base != 2 {
				t.Errorf("version %d is described as %q", after.Base, after.Description)
			}
		})
	}
}
