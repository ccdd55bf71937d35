package functions_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rekeyhq/rekey/internal/localaws"
	"github.com/rekeyhq/rekey/rotators/apikey"
	"github.com/rekeyhq/rekey/rotators/rotatortest"
)

// TestLabelledVersionThatEscapesTheKey has a version with the owner's own label hold the
// old key in files of other forms. The retirement keeps the key.
func TestLabelledVersionThatEscapesTheKey(t *testing.T) {
	quoted := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	for name, value := range map[string]func(id, secret string) string{
		"a file of lines in JSON": func(id, secret string) string {
			return quoted(map[string]string{"ids": "AKIAANOTHERUSERSKEY0\n" + id, "secrets": "x\n" + secret})
		},
		"a table in JSON": func(id, secret string) string {
			return quoted(map[string]string{"table": "shop\t" + id + "\t" + secret})
		},
		"XML in JSON": func(id, secret string) string {
			return quoted(map[string]string{"xml": "<id>" + id + "</id><secret>" + secret + "</secret>"})
		},
		"a URL": func(id, secret string) string {
			return "smtp://x/?next=" + url.QueryEscape("id="+id+"&secret="+secret)
		},
		"escaped letters": func(id, secret string) string {
			return fmt.Sprintf(`{"mailer":{"AccessKeyId":"\u0041%s","SecretAccessKey":%q}}`, id[1:], secret)
		},
		"base64 in JSON": func(id, secret string) string {
			return quoted(map[string]any{"data": map[string]any{"credentials": []byte("id=" + id + "\nsecret=" + secret)}})
		},
		"base64 in lines of 76": func(id, secret string) string {
			b := base64.StdEncoding.EncodeToString([]byte("# the mailer's, for all of us\n[default]\nkey = " + id + "\nsecret = " + secret))
			return "data:\n  credentials: |\n    " + b[:76] + "\n    " + b[76:] + "\n"
		},
		// What Windows' > writes. It is stored as the secret's binary value.
		"binary UTF-16": func(id, secret string) string {
			var b strings.Builder
			for _, u := range utf16.Encode([]rune("\ufeffkey = " + id + "\r\nsecret = " + secret + "\r\n")) {
				b.Write([]byte{byte(u), byte(u >> 8)})
			}
			return b.String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyed(t, "secretsmanager", localaws.IAMDelays{})
			ctx := t.Context()
			_, after, _ := strings.Cut(k.first, `"SecretAccessKey":"`)
			secret, _, _ := strings.Cut(after, `"`)
			v := value(idIn(k.first), secret)
			k.giveUp(token)
			put := &secretsmanager.PutSecretValueInput{SecretId: &k.arn, VersionStages: []string{"blue"}, SecretString: &v}
			if !utf8.ValidString(v) {
				put.SecretString, put.SecretBinary = nil, []byte(v)
			}
			if _, err := secretsmanager.NewFromConfig(k.person).PutSecretValue(ctx, put); err != nil {
				t.Fatal(err)
			}
			k.begin(tokenOf(2))
			if err := k.rotate(ctx, &rotatortest.Wire{}, tokenOf(2)); err != nil {
				t.Fatal(err)
			}
			k.pass(25 * time.Hour)
			if err := k.retire(ctx, &rotatortest.Wire{}); err == nil || !strings.Contains(err.Error(), "a version in use holds the same key") {
				t.Errorf("the retirement says %v", err)
			}
			if err := k.works(ctx, "the key of the version with the label blue", k.first); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForgedIntents has somebody who may only tag the user claim, by intents that rekey
// does not write, that rekey minted an old key of another application. That key stays.
func TestForgedIntents(t *testing.T) {
	everyKeyed(t, localaws.IAMDelays{}, func(t *testing.T, k *keyed) {
		ctx := t.Context()
		theirs, err := k.theirs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		made := k.now
		k.pass(30 * 24 * time.Hour)
		var tags []iamtypes.Tag
		for _, window := range [][2]time.Time{
			{made.AddDate(-5, 0, 0), k.now.AddDate(70, 0, 0)},        // of years
			{made.Add(-time.Second), made.Add(4 * time.Second)},      // spent
			{made.Add(-time.Second), k.now.Add(time.Second)},         // since the key was made
			{k.now.Add(time.Hour), made.Add(4 * time.Second)},        // backwards
			{k.now.Add(time.Hour), k.now.Add(time.Hour + 5*1e9)},     // of the future
			{made.Add(-time.Minute), made.Add(-time.Minute + 5*1e9)}, // before the key was made
		} {
			for _, over := range []time.Time{k.now.Add(-time.Hour), time.Unix(1<<32-1, 0)} {
				tags = append(tags, iamtypes.Tag{
					Key: aws.String(fmt.Sprintf("rekey:intent:%d", len(tags))),
					Value: aws.String(fmt.Sprintf("%s %s %s %s", apikey.Name(k.arn, "x", over),
						window[0].UTC().Format(time.RFC3339), window[1].UTC().Format(time.RFC3339), idIn(k.first))),
				})
			}
		}
		if _, err := iam.NewFromConfig(k.person).TagUser(ctx, &iam.TagUserInput{UserName: aws.String(keyUser), Tags: tags}); err != nil {
			t.Fatal(err)
		}
		err = k.rotate(ctx, &rotatortest.Wire{}, token)
		t.Logf("rotate: %v", err)
		if err := errors.Join(k.harm, k.works(ctx, "the other application's key", theirs)); err != nil {
			t.Error(err)
		}
	})
}
