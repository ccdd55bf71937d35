package rotators

import (
	"encoding/json"
	"maps"
	"net/url"
	"strings"
	"testing"
)

func TestField(t *testing.T) {
	object := " {\"host\" : \"db\\u002eexample\", \"port\":5432, \"ssl\": false,\n\"dbname\":null, \"password\":\"a\\\"b\", \"tags\":{ \"a\":1 }} "
	link := "postgres://ap%40p:p%2Fw%20d@[::1]:5432/sh%6fp?sslmode=require&x=a%20b\n"
	for _, c := range []struct{ value, field, want string }{
		{object, "host", "db.example"}, {object, "port", "5432"}, {object, "ssl", "false"}, {object, "dbname", ""},
		{object, "password", `a"b`}, {object, "tags", `{ "a":1 }`}, {object, "none", ""},
		{link, "engine", "postgres"}, {link, "username", "ap@p"}, {link, "password", "p/w d"}, {link, "host", "::1"}, {link, "port", "5432"},
		{link, "dbname", "shop"}, {link, "sslmode", "require"}, {link, "x", "a b"}, {link, "none", ""},
		{"postgresql://u:p@db", "host", "db"}, {"postgresql://u:p@db", "port", ""}, {"postgresql://u:p@db", "dbname", ""},
		{"postgres://u:p:q@db/x", "password", "p:q"},
	} {
		got, err := NewSecret(c.value).Field(c.field)
		if err != nil || got.Reveal() != c.want {
			t.Errorf("field %s of %q is %q (%v), want %q", c.field, c.value, got.Reveal(), err, c.want)
		}
	}
	for _, value := range []string{
		"", "plain", `"a string"`, "[1]", `{"password":"topsecret"`, `{"password":"topsecret"} x`, `{"password":topsecret}`, `{"a":1,}`,
		"https://example.com/no-password", "postgres://user@db/x", "://u:p@h", "ht tp://u:p@h", "postgres://u:p%zz@db",
		`{"password":"topsecret","password":"topsecret"}`,
	} {
		_, err := NewSecret(value).Field("password")
		if err == nil || !IsPermanent(err) {
			t.Errorf("%q: %v", value, err)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("the error holds the value: %v", err)
		}
	}
}

func TestReplaceLeavesEveryOtherByte(t *testing.T) {
	for _, c := range []struct{ value, with, want string }{
		{" {\n\t\"port\": 5432.0, \"password\" :\"old-password\",  \"u\\u0073er\":\"x\", \"n\":1e3 }\r\n", `n"<é`, " {\n\t\"port\": 5432.0, \"password\" :\"n\\\"<é\",  \"u\\u0073er\":\"x\", \"n\":1e3 }\r\n"},
		{`{"pass\u0077ord":"old-password"}`, "new", `{"pass\u0077ord":"new"}`},
		{`{"username":"old-password","password":"old-password","host":"old-password"}`, "new", `{"username":"old-password","password":"new","host":"old-password"}`},
		{"postgres://App:o%6cd-password@DB.example:5432/shop?a=%7e ", "n/e w@:", "postgres://App:n%2Fe%20w%40%3A@DB.example:5432/shop?a=%7e "},
	} {
		got, err := NewSecret(c.value).Replace("password", NewSecret(c.with))
		if err != nil || got.Reveal() != c.want {
			t.Errorf("%q becomes\n%q (%v), want\n%q", c.value, got.Reveal(), err, c.want)
		}
	}
}

func TestReplaceTheUserOfAURL(t *testing.T) {
	got, err := NewSecret("postgres://app%40x:old-password@db:5432/app%40x?x=y").Replace("username", NewSecret("app@x_clone"))
	if want := "postgres://app%40x_clone:old-password@db:5432/app%40x?x=y"; err != nil || got.Reveal() != want {
		t.Errorf("got %q (%v), want %q", got.Reveal(), err, want)
	}
}

func TestReplaceRefuses(t *testing.T) {
	for _, c := range []struct{ value, field, mention string }{
		{`{"password":"old-password","url":"postgres://u:old-password@h/d"}`, "password", `"url"`},
		{`{"password":"pw","url":"postgres://u:pw@h/d"}`, "password", `"url"`},
		{`{"password":"old/password","url":"postgres://u:old%2Fpassword@h/d"}`, "password", `"url"`},
		{`{"password":"old-password","backup":{"admin":["x","old-password"]}}`, "password", `"backup"`},
		{`{"password":"old-password","PGPASSWORD":"old-password"}`, "password", `"PGPASSWORD"`},
		{`postgres://u:old-password@h/d?fallback=old-password`, "password", `"fallback"`},
		{`{"password":1234}`, "password", "holds a string"},
		{`{"password":null}`, "password", "holds a string"},
		{`{"user":"x"}`, "password", "holds a string"},
		{`{"password":"old-password","password":"old-password"}`, "password", "twice"},
		{`postgres://u:old-password@h/d`, "host", "only the user and the password"},
		{`old-password`, "password", "neither"},
	} {
		got, err := NewSecret(c.value).Replace(c.field, NewSecret("new"))
		if err == nil {
			t.Errorf("%s becomes %s", c.value, got.Reveal())
			continue
		}
		if !strings.Contains(err.Error(), c.mention) || !IsPermanent(err) || strings.Contains(err.Error(), "old-password") {
			t.Errorf("%s: %v", c.value, err)
		}
	}
	if _, err := NewSecret(`{"password":"x"}`).Replace("password", Secret{}); err == nil {
		t.Error("a password is replaced by nothing")
	}
}

func TestWith(t *testing.T) {
	for _, c := range []struct{ value, want, mention string }{
		{"{}", `{"kid":"n\"<é"}`, ""},
		{" {\n } ", " {\"kid\":\"n\\\"<é\"\n } ", ""},
		{" { \"a\" : 1.50 , \"b\":{ \"kid\":\"}\" }\n}\r\n", " { \"a\" : 1.50 , \"b\":{ \"kid\":\"}\" },\"kid\":\"n\\\"<é\"\n}\r\n", ""},
		{`{"a":"old","k\u0069d" :"old" , "c":null}`, `{"a":"old","k\u0069d" :"n\"<é" , "c":null}`, ""},
		{`{"kid":null,"a":""}`, `{"kid":"n\"<é","a":""}`, ""},
		{`{"kid":""}`, `{"kid":"n\"<é"}`, ""},
		{`{"kid":17}`, "", "holds no string"},
		{`{"kid":{}}`, "", "holds no string"},
		{`{"kid":"a","kid":"b"}`, "", "twice"},
		{`{"kid":"a"`, "", "not one"},
		{"postgres://u:p@h/d", "", "is a connection string"},
		{"plain", "", "neither"},
	} {
		got, err := NewSecret(c.value).With("kid", NewSecret(`n"<é`))
		if got.Reveal() != c.want || (err == nil) != (c.mention == "") || err != nil && (!strings.Contains(err.Error(), c.mention) || !IsPermanent(err)) {
			t.Errorf("%q becomes\n%q (%v), want\n%q", c.value, got.Reveal(), err, c.want)
		}
	}
}

// Whatever the value, With either fails or adds or changes exactly the field.
func FuzzWith(f *testing.F) {
	f.Add(`{"kid":"old","a":[1,{"b":"c"}]}`, "kid", "new")
	f.Add(" {\n} ", "q\"", "")
	f.Fuzz(func(t *testing.T, text, name, with string) {
		before := NewSecret(text)
		after, err := before.With(name, NewSecret(with))
		if err != nil {
			return
		}
		var was, is map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &was) != nil || json.Unmarshal([]byte(after.Reveal()), &is) != nil {
			t.Fatalf("%q becomes %q, and one of them is no object", text, after.Reveal())
		}
		// What is not UTF-8 cannot stand in JSON; encoding/json replaces it.
		for _, s := range []*string{&name, &with} {
			b, _ := json.Marshal(*s)
			_ = json.Unmarshal(b, s)
		}
		read, err := after.Field(name)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", text, after.Reveal(), err)
		}
		if read.Reveal() != with {
			t.Fatalf("%q becomes %q, in which %q is %q", text, after.Reveal(), name, read.Reveal())
		}
		delete(was, name)
		delete(is, name)
		if !maps.EqualFunc(was, is, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Fatalf("%q becomes %q: other fields changed", text, after.Reveal())
		}
	})
}

// Whatever the value, Replace either fails or changes exactly the field.
func FuzzReplace(f *testing.F) {
	f.Add(`{"password":"old","a":[1,{"b":"c"}]}`, "new")
	f.Add("postgres://u:old@h:1/d?x=y", "n/w")
	f.Add(` {"password" : "\u0041\n" , "port":5432.0}`, `q"\`)
	f.Fuzz(func(t *testing.T, text, with string) {
		before := NewSecret(text)
		after, err := before.Replace("password", NewSecret(with))
		if err != nil {
			return
		}
		v, err := before.parse()
		if err != nil {
			t.Fatal(err)
		}
		old, _ := v.field("password")
		got := after.Reveal()
		if !strings.HasPrefix(got, text[:old.start]) || !strings.HasSuffix(got, text[old.end:]) {
			t.Fatalf("%q becomes %q: bytes around the password changed", text, got)
		}
		read, err := after.Field("password")
		want := with
		if strings.HasPrefix(strings.TrimSpace(text), "{") {
			// What is not UTF-8 cannot stand in JSON; encoding/json replaces it.
			b, _ := json.Marshal(with)
			_ = json.Unmarshal(b, &want)
		}
		if err != nil || read.Reveal() != want {
			t.Fatalf("%q becomes %q, which reads as %q (%v), want %q", text, got, read.Reveal(), err, want)
		}
		if v.isConnection {
			if u, err := url.Parse(strings.TrimSpace(text)); err == nil && u.User != nil {
				u2, err := url.Parse(strings.TrimSpace(got))
				if err != nil || u2.Host != u.Host || u2.User.Username() != u.User.Username() {
					t.Fatalf("%q becomes %q: net/url reads another host or user", text, got)
				}
			}
		}
	})
}

func TestGenerate(t *testing.T) {
	const safe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"
	seen := map[string]bool{}
	for range 200 {
		s, err := PasswordPolicy{}.Generate(32, safe)
		p := s.Reveal()
		if err != nil || len(p) != 32 || seen[p] || strings.Trim(p, safe) != "" || classes([]rune(p)) != 15 {
			t.Fatalf("%q, %v", p, err)
		}
		seen[p] = true
	}
	for _, c := range []struct {
		policy  PasswordPolicy
		length  int
		without string
	}{
		{PasswordPolicy{Length: 12}, 12, ""},
		{PasswordPolicy{Length: MaxPasswordLength}, MaxPasswordLength, ""},
		{PasswordPolicy{Exclude: "-._ABC/@"}, 32, "-._ABC"},
		{PasswordPolicy{Only: "0123456789abcdef!"}, 32, "ghijkl!"},
		{PasswordPolicy{Length: 8, Only: "0123456789"}, 8, "abc"},
	} {
		s, err := c.policy.Generate(32, safe)
		if p := s.Reveal(); err != nil || len(p) != c.length || strings.ContainsAny(p, c.without) {
			t.Errorf("%+v: %q, %v", c.policy, p, err)
		}
	}
	for _, policy := range []PasswordPolicy{{Length: 7}, {Length: MaxPasswordLength + 1}, {Length: 2_000_000_000}, {Only: "abc"}, {Only: "!!!!!!!!!!!!!!!!!"}, {Exclude: safe}} {
		if _, err := policy.Generate(32, safe); err == nil || !IsPermanent(err) || policy.Length > MaxPasswordLength && !strings.Contains(err.Error(), "4096 or fewer") {
			t.Errorf("%+v: %v", policy, err)
		}
	}
}
