package paramstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/internal/paramstore"
	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

// over is a target with two passwords.
type over struct {
	accepts map[string]bool
	n       int
}

func (o *over) Create(context.Context, rotators.Rotation) (rotators.Secret, error) {
	o.n++
	return rotators.NewSecret(fmt.Sprintf("made %d", o.n)), nil
}

func (o *over) Set(_ context.Context, r rotators.Rotation) error {
	o.accepts = map[string]bool{r.Pending.Reveal(): true, r.Current.Reveal(): true}
	return nil
}

func (o *over) Test(_ context.Context, r rotators.Rotation) error {
	if o.accepts[r.Pending.Reveal()] {
		return nil
	}
	return rotators.Refused(errors.New("refused"))
}

func (o *over) Grace(rotators.Settings) time.Duration { return time.Hour }

func (o *over) Retire(_ context.Context, r rotators.Rotation) error {
	o.accepts = map[string]bool{r.Current.Reveal(): true}
	return nil
}

func (o *over) engine() *rotation.Engine {
	return &rotation.Engine{Registry: rotators.Registry{"over": o}, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }}
}

func tagged(t *testing.T, client *ssm.Client, tags ...types.Tag) {
	t.Helper()
	_, err := client.AddTagsToResource(t.Context(), &ssm.AddTagsToResourceInput{ResourceType: "Parameter", ResourceId: aws.String(name), Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
}

// With so many tags of an owner's that rekey's find no room, nothing is changed; with one
// less rotation and retirement go on as ever.
func TestTheLimitOfTags(t *testing.T) {
	for owners, fits := range map[int]bool{48: true, 49: false, 50: false} {
		_, client := start(t, localaws.Config{})
		put(t, client, "first")
		tagged(t, client, types.Tag{Key: aws.String("rekey:rotator"), Value: aws.String("over")})
		for i := range owners - 1 {
			tagged(t, client, types.Tag{Key: aws.String(fmt.Sprintf("team:%02d", i)), Value: aws.String("x")})
		}
		o := &over{accepts: map[string]bool{"first": true}}
		for rotations := range 3 {
			p := described(t, client)
			err := o.engine().Run(t.Context(), paramstore.New(client, p, unlimited()), p.ARN, p.Token())
			if !fits {
				if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "tags") || o.n > 0 {
					t.Errorf("%d tags: made %d: %v", owners, o.n, err)
				}
				break
			}
			if err != nil {
				t.Fatalf("%d tags, rotation %d: %v", owners, rotations, err)
			}
			retire := paramstore.New(client, paramstore.Parameter{ARN: p.ARN, Name: p.Name}, unlimited())
			late := o.engine()
			late.Now = func() time.Time { return time.Now().Add(4 * time.Hour) }
			if err := late.Retire(t.Context(), retire, p.ARN, fmt.Sprint(p.Base)); err != nil || len(o.accepts) != 1 {
				t.Fatalf("%d tags, retirement %d: the target accepts %v: %v", owners, rotations, o.accepts, err)
			}
		}
	}
}

// That "kms" is in a name does not make a denial one of a key.
func TestADenialOfWhatIsCalledKMS(t *testing.T) {
	for _, n := range []string{"/shop/db", "/shop/kms-db", "/kms/kms:Decrypt"[:8]} {
		var deny atomic.Bool
		_, client := start(t, localaws.Config{Authorize: func(_ string, needs []localaws.Access) *localaws.Denial {
			for _, a := range needs {
				// What template.yaml's policy does with a parameter without the tag.
				if deny.Load() && a.Action == "ssm:GetParameters" && !strings.Contains(a.Resource, "/rekey/pending/") {
					return &localaws.Denial{Access: a}
				}
			}
			return nil
		}})
		_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: &n, Value: aws.String("first"), Type: types.ParameterTypeSecureString, Tags: []types.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("over")}}})
		if err != nil {
			t.Fatal(err)
		}
		found, err := paramstore.Describe(t.Context(), client, []string{n})
		if err != nil {
			t.Fatal(err)
		}
		p := found[0].Parameter
		deny.Store(true)
		if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: &n}); err != nil {
			t.Fatal(err)
		}
		if _, err = paramstore.New(client, p, unlimited()).Load(t.Context(), p.ARN, p.Token()); !errors.Is(err, paramstore.ErrGone) {
			t.Errorf("%s: %v", n, err)
		}
	}
}

// A parameter of as long a name as there is, whose record's description has no room for
// the ARN, is rotated like any other.
func TestTheLongestName(t *testing.T) {
	_, client := start(t, localaws.Config{})
	n := "/" + strings.Repeat(strings.Repeat("a", 99)+"/", 9) + "pw"
	_, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: &n, Value: aws.String("first"), Type: types.ParameterTypeSecureString, Tags: []types.Tag{{Key: aws.String("rekey:rotator"), Value: aws.String("over")}}})
	if err != nil {
		t.Fatal(err)
	}
	found, err := paramstore.Describe(t.Context(), client, []string{n})
	if err != nil {
		t.Fatal(err)
	}
	o, p := &over{accepts: map[string]bool{"first": true}}, found[0].Parameter
	if err := o.engine().Run(t.Context(), paramstore.New(client, p, unlimited()), p.ARN, p.Token()); err != nil {
		t.Error(err)
	}
}

// A record that an earlier parameter of this name has left is not rolled forward if what
// clients get works, and is if it does not and the record may.
func TestARecordOfAnEarlierIncarnation(t *testing.T) {
	for _, works := range []bool{true, false} {
		var ahead atomic.Int64
		server, client := start(t, localaws.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		put(t, client, "first")
		put(t, client, "second")
		base := described(t, client) // version 2
		server.AddParameter(localaws.Parameter{Name: base.Record(), Type: "SecureString", Value: "of an earlier one"})
		if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
			t.Fatal(err)
		}
		ahead.Store(int64(time.Hour))
		put(t, client, "made anew")
		put(t, client, "made anew again")
		tagged(t, client, types.Tag{Key: aws.String("rekey:rotator"), Value: aws.String("over")})
		p := described(t, client)
		if p.Record() != base.Record() {
			t.Fatal("the record is of another version")
		}
		o := &over{accepts: map[string]bool{"made anew again": works, "of an earlier one": !works}}
		err := o.engine().Run(t.Context(), paramstore.New(client, p, unlimited()), p.ARN, p.Token())
		if works {
			if got := read(t, client, name); err != nil || got != "made anew again" {
				t.Errorf("clients get %q: %v", got, err)
			}
			err := o.engine().Run(t.Context(), paramstore.New(client, p, unlimited()), p.ARN, p.Token())
			if got := read(t, client, name); err != nil && !strings.Contains(err.Error(), "deleted a moment ago") || err == nil && got != "made 1" {
				t.Errorf("the next time clients get %q: %v", got, err)
			}
			continue
		}
		if !errors.Is(err, rotation.ErrReadersRefused) {
			t.Fatal(err)
		}
		store := paramstore.New(client, p, unlimited())
		store.Adopt = true
		if err := o.engine().Run(t.Context(), store, p.ARN, p.Token()); err != nil || !o.accepts[read(t, client, name)] {
			t.Errorf("clients get %q, the target accepts %v: %v", read(t, client, name), o.accepts, err)
		}
	}
}
