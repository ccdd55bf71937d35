package apikey

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/rotators"
)

// within is a text in base64 of a document, so many levels deep.
func within(text string, levels int) string {
	for range levels {
		text = base64.StdEncoding.EncodeToString([]byte(`["` + text + `"]`))
	}
	return text
}

func TestMentions(t *testing.T) {
	const short, id = "key-1", "AKIAIOSFODNN7EXAMPLE"
	for _, c := range []struct {
		id, text string
		found    bool
	}{
		{short, "key-1", true},
		{short, "key-10", false},
		{short, "monkey-1", false},
		{short, `{"ids":"a\nkey-1"}`, true},
		{short, `["x",{"key-1":true}]`, true},
		{short, "next=a%3Dkey-1", true},
		{short, "a2V5LTE=", true},
		{short, "a2V5LTEw", false},
		{id, `{"id":"\u0041KIAIOSFODNN7EXAMPLE"}`, true},
		{id, `a\nAKIAIOSFODNN7EXAMPLE`, true},
		{id, "AKIAIOSFODNN7EXAMPL", false},
		{id, "QUtJQUlPU0ZPRE5O\n  N0VYQU1QTEU", true},
		{id, "data:\n  credentials: aWQ9QUtJQUlPU0ZPRE5ON0VYQU1QTEUKc2VjcmV0PXg=\n", true},
		{id, `{"auth":"Basic QUtJQUlPU0ZPRE5ON0VYQU1QTEU6eA=="}`, true},
		{id, "Basic QUtJQUlPU0ZPRE5OOEVYQU1QTEU6eA==", false},
		{id, "id=414b4941494f53464f444e4e374558414d504c45", true},
		{id, "\xff\xfeA\x00K\x00I\x00A\x00I\x00O\x00S\x00F\x00O\x00D\x00N\x00N\x007\x00E\x00X\x00A\x00M\x00P\x00L\x00E\x00\r\x00", true}, // what Windows' > writes
		{id, "QQBLAEkAQQBJAE8AUwBGAE8ARABOAE4ANwBFAFgAQQBNAFAATABFAA==", true},
		{id, "data:\n  credentials: |\n    W2RlZmF1bHRdCmF3c19hY2Nlc3Nfa2V5X2lkID0gQUtJQUl\n    PU0ZPRE5ON0VYQU1QTEUK\n", true},
		{id, "X=WT1XM1JsWm1GMWJIUmRDbUYzYzE5aFkyTmxjM05mYTJWNVgybGtJRDBnUVV0SlFVbFBVMFpQUkU1T04wVllRVTFRVEVVPQ==", true}, // base64 in base64
		{id, `{"a":1}` + "\n" + `{"k":"\u0041KIAIOSFODNN7EXAMPLE"}`, true},
		{id, "\ufeff" + `{"k":"\u0041KIAIOSFODNN7EXAMPLE"}`, true},
		{id, "100% %41KIAIOSFODNN7EXAMPLE", true},
		{"104233", "apiVersion: v1\ndata:\n  id: MTA0MjMz\n  secret: c2VjcmV0\n", true}, // no padding before the next line
		{"", "key-1", false},
		{short, `{"\u006bey-1":true}`, true},
		{short, "key-1A", false},
		{short, "Zkey-1", false},
		{short, "key-1_", true},
		{short, "key-10 or key-1", true},
		{short, base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe?>,key-1")), true}, // with - and _
		{short, within("key-1", 4), true},
		{short, within("key-1", 5), false},
		{id[:long], "x" + id[:long] + "x", true},
		{id[:long-1], "x" + id[:long-1] + "x", false},
	} {
		if got := Mentions(rotators.NewSecret(c.text), c.id); got != c.found {
			t.Errorf("%q mentions %q: %t, want %t", c.text, c.id, got, c.found)
		}
	}
}

// What a value has besides, and be it certificates of 40 KB, hides no id.
func TestMentionsInALargeValue(t *testing.T) {
	const id = "AKIAIOSFODNN7EXAMPLE"
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	var certificates strings.Builder
	for i := 0; certificates.Len() < 40<<10; i++ {
		sum := sha256.Sum256(fmt.Append(nil, i))
		certificates.WriteString(base64.RawStdEncoding.EncodeToString(sum[:]) + "\n")
	}
	docker := encode(`{"auths":{"registry.example.com":{"auth":"` + encode(id+":secret") + `"}}}`)
	for name, blob := range map[string]string{
		"a manifest":  "kind: Secret\ndata:\n  .dockerconfigjson: " + docker + "\n",
		"cloud-init":  encode("write_files:\n- encoding: b64\n  content: " + docker + "\n"),
		"a file":      encode("#!/bin/sh\necho " + encode("AWS_ACCESS_KEY_ID="+id) + " | base64 -d\n"),
		"hexadecimal": hex.EncodeToString([]byte(docker)),
	} {
		text, _ := json.Marshal(map[string]string{"ca": certificates.String(), "blob": blob})
		if !Mentions(rotators.NewSecret(string(text)), id) {
			t.Errorf("the id in %s is not found", name)
		}
	}
}

// TestMentionsIsBounded has a value of the largest size be all escapes and brackets, of
// which an unbounded search would not come to an end.
func TestMentionsIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"escapes":  strings.Repeat("%25", 64<<10/3),
		"brackets": strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"strings":  `["` + strings.Repeat(`%2541","`, 64<<10/8) + `"]`,
		"base64":   strings.Repeat("QUFB", 64<<10/4),
	} {
		if Mentions(rotators.NewSecret(text), "key-1") {
			t.Errorf("%s: an id is found that is not there", name)
		}
	}
}
