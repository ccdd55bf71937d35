package generated

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 987654321, time.UTC)

// owner has one value rotated, with a clock.
type owner struct {
	t        *testing.T
	settings rotators.Settings
	now      time.Time
	value    string
}

// newOwner reads options as the tag has them.
func newOwner(t *testing.T, value, options string) *owner {
	given := map[string]string{}
	for word := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(word, "=")
		given[name] = value
	}
	return &owner{t, rotators.Settings{Grace: -1, Options: given}, start, value}
}

func (o *owner) rotator() *Rotator { return &Rotator{Now: func() time.Time { return o.now }} }

func (o *owner) rotation() rotators.Rotation {
	return rotators.Rotation{Token: "the-token", Current: rotators.NewSecret(o.value), Settings: o.settings}
}

// try takes all steps but promotion.
func (o *owner) try() (next string, err error) {
	r := o.rotation()
	if r.Pending, err = o.rotator().Create(o.t.Context(), r); err != nil {
		return "", err
	}
	if err = o.rotator().Set(o.t.Context(), r); err == nil {
		r.Current = rotators.Secret{}
		err = o.rotator().Test(o.t.Context(), r)
	}
	return r.Pending.Reveal(), err
}

func (o *owner) rotate() {
	o.t.Helper()
	next, err := o.try()
	if err != nil {
		o.t.Fatalf("%v: %v", o.settings.Options, err)
	}
	o.value = next
}

// dryTest is what Secrets Manager does when a schedule is configured.
func (o *owner) dryTest() error {
	return o.rotator().Test(o.t.Context(), rotators.Rotation{Pending: rotators.NewSecret(o.value), Settings: o.settings})
}

func (o *owner) field(name string) string {
	o.t.Helper()
	f, err := rotators.NewSecret(o.value).Field(name)
	if err != nil {
		o.t.Fatal(err)
	}
	return f.Reveal()
}

// keys are those that count now.
func (o *owner) keys() []Key {
	o.t.Helper()
	keys, err := Keys(o.value, o.now)
	if err != nil {
		o.t.Fatal(err)
	}
	return keys
}

// every algorithm, the RSA ones of each family once: making their keys takes long.
var tried = []string{"HS256", "HS384", "HS512", "RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"}

var triedSSH = []string{"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"}

func TestRandomTexts(t *testing.T) {
	for _, c := range []struct{ value, options, want string }{
		{"{}", "", `^{"secret":"[A-Za-z0-9._-]{32}"}$`},
		{"changeme", "", `^[A-Za-z0-9._-]{32}$`},
		{"changeme", "hex=32", `^[0-9a-f]{64}$`},
		{"changeme", "base64url=16", `^[A-Za-z0-9_-]{22}$`},
		{"changeme", "base64=32", `^[A-Za-z0-9+/]{43}=$`},
		{"changeme", "alg=HS512", `^[A-Za-z0-9_-]{86}$`},
		{"{ \"a\":1.0, \"SECRET_KEY_BASE\" : \"old-old-old\" }\n", "field=SECRET_KEY_BASE hex=64", `^{ "a":1\.0, "SECRET_KEY_BASE" : "[0-9a-f]{128}" }` + "\n$"},
		{`{"previous":"of the owner","secret":"","kid":"theirs"}`, "", `^{"previous":"of the owner","secret":"[^"]{32}","kid":"theirs"}$`},
		{`{"secret":null,"b":2}`, "alg=HS256", `^{"secret":"[A-Za-z0-9_-]{43}","b":2,"kid":"[A-Za-z0-9_-]{22}","alg":"HS256"}$`},
	} {
		o := newOwner(t, c.value, c.options)
		if err := o.dryTest(); err != nil {
			t.Errorf("%s with %q: %v", c.value, c.options, err)
		}
		seen := map[string]bool{}
		for range 3 {
			o.rotate()
			if !regexp.MustCompile(c.want).MatchString(o.value) || seen[o.value] {
				t.Errorf("%s with %q becomes %s, want %s", c.value, c.options, o.value, c.want)
			}
			seen[o.value] = true
		}
	}
	o := newOwner(t, "{}", "")
	o.settings.Password = rotators.PasswordPolicy{Length: 50, Only: "0123456789abcdef"}
	if o.rotate(); !regexp.MustCompile(`^{"secret":"[0-9a-f]{50}"}$`).MatchString(o.value) {
		t.Errorf("with a policy: %s", o.value)
	}
}

func TestOptions(t *testing.T) {
	for options, mention := range map[string]string{
		"algo=ES256":                "alg, keyring, bits (of RSA keys)",
		"alg=ES257":                 "there are ES256, ES384, ES512, EdDSA, HS256",
		"keyring=true":              "neither yes nor no",
		"alg=RS256 bits=1024":       "none of 2048",
		"alg=ES256 bits=2048":       "for RSA keys",
		"bits=2048":                 "for RSA keys",
		"hex=15":                    "from 16 to 1024",
		"hex=32 base64=32":          "leave one",
		"alg=HS256 hex=32":          "leave one",
		"alg=ES256 field=x":         "of their own",
		"keyring=yes field=x":       "of their own",
		"alg=ES256 comment=me@here": "for SSH keys",
	} {
		o := newOwner(t, "{}", options)
		_, err := o.try()
		if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), mention) {
			t.Errorf("%s: %v", options, err)
		}
		if dry := o.dryTest(); dry == nil || dry.Error() != err.Error() {
			t.Errorf("%s: the dry test says %v", options, dry)
		}
	}
}

// A first value can be empty, a key in use or something to be left alone.
func TestFirstValues(t *testing.T) {
	pair := func(options string, fields ...string) string {
		o := newOwner(t, "{}", options)
		o.rotate()
		kept := map[string]string{}
		for _, name := range fields {
			kept[name] = o.field(name)
		}
		b, _ := json.Marshal(kept)
		return string(b)
	}
	es256, ssh := pair("alg=ES256", "private_key"), pair("alg=ssh-ed25519", "private_key")
	for _, c := range []struct {
		what, value, options, mention string
		keys                          int // in the end
	}{
		{"nothing yet", "{}", "alg=ES256 keyring=yes", "", 1},
		{"empty fields", `{"jwks":"","private_key":"","kid":null}`, "alg=ES256 keyring=yes", "", 1},
		{"empty among others", `{"issuer":"https://a","secret":""}`, "alg=HS256 keyring=yes", "", 1},
		{"a private key alone", es256, "alg=ES256 keyring=yes", "", 2},
		{"a private key, another algorithm", es256, "alg=EdDSA keyring=yes", "", 2},
		{"an SSH key alone", ssh, "alg=ssh-rsa keyring=yes", "", 2},
		{"a text in use", `{"secret":"what signs the cookies now"}`, "alg=HS256 keyring=yes", "", 2},
		{"a text in use", `{"secret":"what signs the cookies now"}`, "keyring=yes", "", 2},

		{"a plain text", "changeme", "alg=ES256", "store {}", 0},
		{"a plain text", "changeme", "keyring=yes", "store {}", 0},
		{"a URL", "redis://:hunter2hunter2@h:1/", "", "URL with a password", 0},
		{"no object", `{"a":`, "", "not one", 0},
		{"other fields", `{"password":"hunter2hunter2"}`, "", "no field \"secret\"", 0},
		{"other fields", `{"key":"hunter2hunter2"}`, "alg=ES256", "no field \"private_key\"", 0},
		{"no key", `{"private_key":"hunter2hunter2"}`, "alg=ES256", "openssl pkcs8", 0},
		{"no key", `{"private_key":"hunter2hunter2"}`, "alg=ssh-ed25519", "ssh-keygen -p", 0},
		{"a key of the other kind", ssh, "alg=ES256", "PKCS#8", 0},
		{"a key of the other kind", es256, "alg=ssh-ed25519", "OpenSSH", 0},
		{"a field that is taken", `{"secret":"hunter2hunter2","previous":"a note"}`, "keyring=yes", "give that another name", 0},
		{"a key set that is no string", `{"private_key":"","jwks":{"keys":[]}}`, "alg=ES256", "holds no string", 0},
		{"the key a second time", `{"secret":"hunter2hunter2","JWT_KEY":"hunter2hunter2"}`, "", `"JWT_KEY"`, 0},
		{"an HMAC key", pair("alg=HS256", "secret", "kid", "alg"), "", "write alg=HS256 there", 0},
	} {
		o := newOwner(t, c.value, c.options)
		dry := o.dryTest()
		next, err := o.try()
		if c.mention != "" {
			if err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), c.mention) || strings.Contains(fmt.Sprint(err, dry), "hunter2") {
				t.Errorf("%s, %s with %q: %v", c.what, c.value, c.options, err)
			}
			continue
		}
		if o.value = next; err != nil || dry != nil || len(o.keys()) != c.keys {
			t.Errorf("%s with %q: %v, the dry test %v", c.what, c.options, err, dry)
		}
	}
}

// What was signed before a rotation verifies until the time that is in the value,
// whoever rotates meanwhile.
func TestKeyring(t *testing.T) {
	for _, alg := range tried {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t, `{ "issuer":"shop", "private_key":"", "secret":"" }`, "keyring=yes alg="+alg)
			o.settings.Grace = time.Hour
			o.rotate()
			first := o.keys()[0]
			message := []byte("header.payload")
			signature, err := first.Sign(message)
			if err != nil {
				t.Fatal(err)
			}
			// verifies looks for the key by its id, as a consumer does.
			verifies := func(at time.Time) bool {
				keys, err := Keys(o.value, at)
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == first.ID })
				return i >= 0 && keys[i].Alg == alg && keys[i].Verify(message, signature) == nil && keys[i].Verify([]byte("header.paylord"), signature) == ErrSignature
			}
			expect := func(what string, keys int, last time.Time) {
				t.Helper()
				if got := len(o.keys()); got != keys {
					t.Errorf("%s: %d keys count, want %d", what, got, keys)
				}
				if !verifies(last) || verifies(last.Add(time.Nanosecond)) {
					t.Errorf("%s: the first key does not count until %v exactly", what, last)
				}
				if set, err := JWKS(o.value, o.now); o.keys()[0].Public != nil && (err != nil || strings.Count(string(set), `"kid"`) != keys) {
					t.Errorf("%s: the key set is %s (%v)", what, set, err)
				}
				if !strings.HasPrefix(o.value, `{ "issuer":"shop", `) {
					t.Errorf("%s: other bytes changed", what)
				}
			}
			end := start.Truncate(time.Second).Add(time.Hour)
			o.rotate()
			expect("after a rotation", 2, end.Add(-time.Nanosecond))
			if _, err := o.keys()[1].Sign(message); err == nil {
				t.Error("an earlier key signs")
			}
			o.now = start.Add(30 * time.Minute)
			o.rotate()
			expect("after a second one within the grace", 3, end.Add(-time.Nanosecond))
			o.settings.Grace = 10 * time.Minute
			o.rotate()
			expect("after one with a shorter grace", 4, start.Truncate(time.Second).Add(40*time.Minute-time.Nanosecond))
			o.now = start.Add(41 * time.Minute)
			if got := len(o.keys()); got != 1 {
				t.Errorf("%d keys count when all graces are over", got)
			}
			kid := o.keys()[0].ID
			o.rotate()
			if keys := o.keys(); len(keys) != 2 || keys[1].ID != kid || strings.Contains(o.value, first.ID) {
				t.Errorf("%d keys; those whose time was over must go", len(keys))
			}
			o.settings.Grace = 0
			if o.rotate(); len(o.keys()) != 1 || strings.Contains(o.value, kid) {
				t.Error("rekey:grace=0m leaves earlier keys")
			}
			o.settings.Grace = -1
			o.rotate()
			if until := o.keys()[1].Until; !until.Equal(o.now.Truncate(time.Second).Add(24 * time.Hour)) {
				t.Errorf("by default it counts until %v", until)
			}
			o.settings.Options["keyring"] = "no"
			if o.rotate(); len(o.keys()) != 1 || strings.Contains(o.value, `"exp"`) {
				t.Errorf("without a keyring %d keys count", len(o.keys()))
			}
		})
	}
}

// The values of texts and SSH keys have their earlier ones in one field.
func TestKeyringOfTextsAndSSHKeys(t *testing.T) {
	o := newOwner(t, "{}", "keyring=yes")
	o.rotate()
	first := o.field("secret")
	o.rotate()
	want := fmt.Sprintf(`{"secret":%q,"previous":"{\"keys\":[{\"secret\":\"%s\",\"exp\":%d}]}"}`, o.field("secret"), first, start.Unix()+86400)
	if o.value != want {
		t.Errorf("the value is %s, want %s", o.value, want)
	}

	o = newOwner(t, "{}", "keyring=yes alg=ssh-ed25519 comment=deploy@shop")
	o.rotate()
	first = o.field("public_key")
	delete(o.settings.Options, "comment")
	o.rotate()
	if second := o.field("public_key"); !strings.HasSuffix(first, " deploy@shop") || !strings.HasSuffix(second, " deploy@shop") || first == second {
		t.Errorf("the keys are %s and %s", first, second)
	}
	for after, want := range map[time.Duration]string{23 * time.Hour: o.field("public_key") + "\n" + first + "\n", 25 * time.Hour: o.field("public_key") + "\n"} {
		if got, err := AuthorizedKeys(o.value, start.Add(after)); string(got) != want || err != nil {
			t.Errorf("after %v they are %s (%v)", after, got, err)
		}
	}
}

// What does not belong together is refused, whoever stored it.
func TestATestThatFails(t *testing.T) {
	made := func(options string) *owner {
		o := newOwner(t, "{}", options)
		o.rotate()
		o.rotate()
		return o
	}
	es, other := made("alg=ES256 keyring=yes"), made("alg=ES256 keyring=yes")
	hs, text := made("alg=HS256 keyring=yes"), made("keyring=yes")
	ssh, ssh2 := made("alg=ssh-ed25519 keyring=yes"), made("alg=ssh-rsa")
	set := func(o *owner, name, with string) string {
		v, err := rotators.NewSecret(o.value).With(name, rotators.NewSecret(with))
		if err != nil {
			t.Fatal(err)
		}
		return v.Reveal()
	}
	jwks := func(change func(keys []map[string]any) []map[string]any) string {
		var s struct {
			Keys []map[string]any `json:"keys"`
		}
		if err := json.Unmarshal([]byte(es.field("jwks")), &s); err != nil {
			t.Fatal(err)
		}
		s.Keys = change(s.Keys)
		b, _ := json.Marshal(s)
		return set(es, "jwks", string(b))
	}
	member := func(i int, name string, value any) string {
		return jwks(func(keys []map[string]any) []map[string]any { keys[i][name] = value; return keys })
	}
	for _, c := range []struct {
		what, value string
		of          *owner
		mention     string
	}{
		{"another's key set", set(es, "jwks", other.field("jwks")), es, "not the public half"},
		{"another's private key", set(es, "private_key", other.field("private_key")), es, "not the public half"},
		{"another id", set(es, "kid", other.field("kid")), es, `"kid" does not name`},
		{"another algorithm", set(es, "alg", "ES384"), es, "not made"},
		{"an SSH algorithm", set(es, "alg", "ecdsa-sha2-nistp256"), es, "not made"},
		{"a key set without a key", set(es, "jwks", `{"keys":[]}`), es, "no JSON Web Key Set"},
		{"a key set that is none", set(es, "jwks", `[1]`), es, "no JSON Web Key Set"},
		{"the current key missing", jwks(func(keys []map[string]any) []map[string]any { return keys[1:] }), es, "the first key, which signs, has an end"},
		{"a key twice", jwks(func(keys []map[string]any) []map[string]any {
			again := maps.Clone(keys[0])
			again["kid"], again["exp"] = "again", 1
			return append(keys, again)
		}), es, "same key twice"},
		{"an id twice", member(1, "kid", es.field("kid")), es, "same id"},
		{"an end of what signs", member(0, "exp", 1), es, "has an end"},
		{"an earlier key without an end", member(1, "exp", 0), es, "until when"},
		{"a point off the curve", member(1, "x", strings.Repeat("A", 43)), es, "malformed"},
		{"a short coordinate", member(1, "x", "AA"), es, "malformed"},
		{"a symmetric key", member(1, "kty", "oct"), es, "malformed"},
		{"an algorithm of another key", member(1, "alg", "RS256"), es, "alg for which it is not made"},
		{"two private keys", set(es, "private_key", es.field("private_key")+other.field("private_key")), es, "PKCS#8"},
		{"an earlier text without an end", set(hs, "previous", `{"keys":[{"kid":"a","alg":"HS256","secret":"x"}]}`), hs, "until when"},
		{"an earlier text without a text", set(hs, "previous", `{"keys":[{"kid":"a","alg":"HS256","exp":1}]}`), hs, "no secret"},
		{"the current text as an earlier one", set(text, "previous", fmt.Sprintf(`{"keys":[{"secret":%q,"exp":1}]}`, text.field("secret"))), text, "same key twice"},
		{"an id of two texts", set(hs, "previous", fmt.Sprintf(`{"keys":[{"kid":%q,"alg":"HS256","secret":"x","exp":1}]}`, hs.field("kid"))), hs, "same id"},
		{"another's public SSH key", set(ssh, "public_key", ssh2.field("public_key")), ssh, "not the public half"},
		{"a public SSH key with options", set(ssh, "public_key", `no-pty `+ssh.field("public_key")), ssh, "type, key and comment"},
		{"an earlier SSH key that is none", set(ssh, "previous", `{"keys":[{"public_key":"ssh-rsa AAAA","exp":1}]}`), ssh, "type, key and comment"},
	} {
		r := c.of.rotation()
		r.Pending = rotators.NewSecret(c.value)
		for step, err := range map[string]error{"Test": c.of.rotator().Test(t.Context(), r), "Set": c.of.rotator().Set(t.Context(), r)} {
			if err == nil || !rotators.IsPermanent(err) || !rotators.IsRefused(err) || !strings.Contains(err.Error(), c.mention) {
				t.Errorf("%s: %s says %v", c.what, step, err)
			}
		}
	}
	for _, o := range []*owner{es, hs, text, ssh} {
		r := o.rotation()
		r.Pending = rotators.NewSecret("{}")
		if err := o.rotator().Set(t.Context(), r); err == nil || !rotators.IsPermanent(err) {
			t.Errorf("%v: Set takes a value without a key: %v", o.settings.Options, err)
		}
	}
}

// An attempt that lay must not leave less of the grace than was promised to what the current
// key signed: a tenth is allowed for.
func TestAnAttemptThatLay(t *testing.T) {
	for _, alg := range []string{"HS256", "EdDSA", "ssh-ed25519"} {
		o := newOwner(t, "{}", "keyring=yes alg="+alg)
		o.rotate()
		r := o.rotation()
		var err error
		if r.Pending, err = o.rotator().Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		for _, soon := range []time.Duration{0, time.Minute, 2 * time.Hour} {
			o.now = start.Add(soon)
			if err := o.rotator().Set(t.Context(), r); err != nil {
				t.Errorf("%s, after %v: %v", alg, soon, err)
			}
		}
		for _, late := range []time.Duration{3 * time.Hour, 23 * time.Hour, 24 * time.Hour, 80 * 24 * time.Hour} {
			o.now = start.Add(late)
			if err := o.rotator().Set(t.Context(), r); err == nil || !rotators.IsPermanent(err) || !strings.Contains(err.Error(), "--remove-from-version-id the-token") {
				t.Errorf("%s, after %v: %v", alg, late, err)
			}
		}
		// The advice is followed: the attempt is dropped, and a new one made.
		if _, err := o.try(); err != nil {
			t.Errorf("%s, anew: %v", alg, err)
		}
	}
}

// The owner empties the field of the current key, to have another made. What that key and the
// ones before it have signed verifies until their time is over; with a grace of 0 nothing does.
func TestAnEmptiedFieldKeepsTheKeysBefore(t *testing.T) {
	for _, c := range []struct {
		options, field string
		left           int // of the three keys there were: the text of the current one is gone
	}{
		{"alg=ES256 keyring=yes", "private_key", 3}, {"alg=EdDSA keyring=yes", "private_key", 3}, {"alg=ssh-ed25519 keyring=yes", "private_key", 3},
		{"alg=HS256 keyring=yes", "secret", 2}, {"keyring=yes", "secret", 2},
	} {
		o := newOwner(t, "{}", c.options)
		for range 3 {
			o.rotate()
			o.now = o.now.Add(time.Hour)
		}
		before := o.keys()
		emptied, err := rotators.NewSecret(o.value).With(c.field, rotators.NewSecret(""))
		if err != nil || len(before) != 3 {
			t.Fatal(len(before), err)
		}
		o.value = emptied.Reveal()
		leaked := *o
		o.rotate()
		after := o.keys()
		if len(after) != 1+c.left {
			t.Errorf("%s: %d keys count", c.options, len(after))
			continue
		}
		for i, k := range before[3-c.left:] {
			kept := after[1+i]
			if !k.same(kept) || k.ID != kept.ID || kept.Until.IsZero() || kept.Until.After(o.now.Add(24*time.Hour)) || !k.Until.IsZero() && !k.Until.Equal(kept.Until) {
				t.Errorf("%s: key %d, which counted until %v, is %q until %v", c.options, i, k.Until, kept.ID, kept.Until)
			}
		}
		leaked.settings.Grace = 0
		leaked.rotate()
		if got := leaked.keys(); len(got) != 1 {
			t.Errorf("%s: with a grace of 0 %d keys count", c.options, len(got))
		}
	}
}

// What stands beside an emptied field and is no earlier key is not written over.
func TestAnEmptiedFieldBesideWhatIsNoKey(t *testing.T) {
	for value, want := range map[string]string{
		`{"private_key":"","jwks":"{\"keys\":[{\"kty\":\"oct\"}]}"}`: `the field "jwks": a key is malformed, or of a type other than RSA, EC and Ed25519; empty it, too`,
		`{"private_key":"","jwks":""}`:                               "",
		`{"private_key":""}`:                                         "",
	} {
		o := newOwner(t, value, "alg=EdDSA keyring=yes")
		if _, err := o.try(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v", value, err)
		}
	}
}

// The examples of RFC 7638, RFC 8037 (appendix A) and RFC 7515 (appendix A.3).
func TestRFCs(t *testing.T) {
	for _, c := range []struct{ key, thumbprint, jws string }{
		{`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256"}`,
			"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", ""},
		{`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","alg":"EdDSA"}`,
			"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
			"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
		{`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","alg":"ES256"}`,
			"oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U",
			"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
	} {
		var j jwk
		if err := json.Unmarshal([]byte(c.key), &j); err != nil {
			t.Fatal(err)
		}
		public, err := j.public()
		if err != nil {
			t.Fatal(err)
		}
		if got := thumbprint(public); got != c.thumbprint {
			t.Errorf("%s has the thumbprint %s, want %s", j.Kty, got, c.thumbprint)
		}
		if c.jws == "" {
			continue
		}
		dot := strings.LastIndex(c.jws, ".")
		signature, err := base64.RawURLEncoding.DecodeString(c.jws[dot+1:])
		k := Key{Alg: j.Alg, Public: public}
		if err != nil || k.Verify([]byte(c.jws[:dot]), signature) != nil || k.Verify([]byte(c.jws[:dot]+"x"), signature) == nil {
			t.Errorf("the signature of %s does not verify (%v)", j.Kty, err)
		}
	}
}

// RFC 7518 wants a salt as long as the hash, and strict verifiers refuse others.
func TestTheSaltOfPS384(t *testing.T) {
	o := newOwner(t, "{}", "alg=PS384")
	o.rotate()
	k := o.keys()[0]
	signature, err := k.Sign([]byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha512.Sum384([]byte("message"))
	if err := rsa.VerifyPSS(k.Public.(*rsa.PublicKey), crypto.SHA384, digest[:], signature, &rsa.PSSOptions{SaltLength: len(digest)}); err != nil {
		t.Error(err)
	}
}

// Printing a key shows nothing of it.
func TestAKeyDoesNotPrint(t *testing.T) {
	for _, alg := range []string{"HS256", "EdDSA", "ssh-ed25519"} {
		o := newOwner(t, "{}", "keyring=yes alg="+alg)
		o.rotate()
		o.rotate()
		for _, k := range o.keys() {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
				text := fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k) + fmt.Sprintf(verb, []Key{k})
				if s := k.Secret.Reveal(); s != "" && strings.Contains(text, s) {
					t.Errorf("%s prints the text with %s", alg, verb)
				}
				if private := k.Signer(); private != nil && strings.Contains(text, fmt.Sprintf(verb, private)) {
					t.Errorf("%s prints the private key with %s", alg, verb)
				}
			}
		}
	}
}

// Whatever a value holds, reading it ends well, and what can be read can be rotated
// and keeps its keys.
func FuzzKeys(f *testing.F) {
	for _, options := range []string{"keyring=yes", "alg=HS256 keyring=yes", "alg=ES256 keyring=yes", "alg=EdDSA keyring=yes", "alg=ssh-ed25519 keyring=yes", "alg=ecdsa-sha2-nistp256"} {
		o := &owner{now: start, value: "{}", settings: rotators.Settings{Grace: -1, Options: map[string]string{}}}
		for word := range strings.FieldsSeq(options) {
			name, value, _ := strings.Cut(word, "=")
			o.settings.Options[name] = value
		}
		for range 2 {
			next, err := o.rotator().Create(f.Context(), o.rotation())
			if err != nil {
				f.Fatal(err)
			}
			o.value = next.Reveal()
			f.Add(o.value)
		}
	}
	f.Add(`{"secret":"a text","previous":"{\"keys\":[]}"}`)
	f.Fuzz(func(t *testing.T, value string) {
		keys, err := Keys(value, start)
		if err != nil {
			return
		}
		o := newOwner(t, value, "alg=HS256 keyring=yes")
		switch a := algorithms[keys[0].Alg]; {
		case a.ssh:
			o.settings.Options["alg"] = "ssh-ed25519"
		case a.family > hmacFamily:
			o.settings.Options["alg"] = "EdDSA"
		}
		next, err := o.try()
		if err != nil {
			// A value that is refused is refused for good, and for its form.
			if !rotators.IsPermanent(err) {
				t.Fatal(err)
			}
			return
		}
		now, err := Keys(next, start)
		if err != nil || len(now) != len(keys)+1 || !now[1].same(keys[0]) {
			t.Fatalf("%d keys become %d (%v)", len(keys), len(now), err)
		}
	})
}

// Whatever a file holds, reading it ends well, and what can be read is written so
// that it reads the same.
func FuzzOpenSSH(f *testing.F) {
	for _, alg := range []string{"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp521"} {
		signer, err := algorithms[alg].generate(2048)
		if err != nil {
			f.Fatal(err)
		}
		private, err := writeOpenSSH(signer, "me@here")
		if err != nil {
			f.Fatal(err)
		}
		block := strings.Split(strings.TrimSpace(private.Reveal()), "\n")
		der, err := base64.StdEncoding.DecodeString(strings.Join(block[1:len(block)-1], ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		text := "-----BEGIN OPENSSH PRIVATE KEY-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END OPENSSH PRIVATE KEY-----\n"
		signer, comment, err := readOpenSSH(text)
		if err != nil {
			return
		}
		again, err := writeOpenSSH(signer, comment)
		if err != nil {
			t.Fatal(err)
		}
		read, as, err := readOpenSSH(again.Reveal())
		if err != nil || as != comment || !read.(interface{ Equal(crypto.PrivateKey) bool }).Equal(signer) {
			t.Fatalf("reads as another key (%v)", err)
		}
	})
}
