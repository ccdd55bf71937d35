package rotators

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
)

// Field reads one field of the value; the zero Secret if there is no such field
// or it is null. What fields there are depends on how the value is written:
//
//   - a JSON object: its members. A string is decoded; a number, a boolean, an
//     object or an array is returned as it is spelled.
//   - a URL with a password, such as postgres://app:pw@db:5432/shop?sslmode=require:
//     engine (the scheme), username, password, host, port, dbname (the path),
//     and each query parameter under its own name.
//
// For anything else, and for a JSON object that has the field twice, the error
// says what is wrong, without a byte of the value, and is permanent.
func (s Secret) Field(name string) (Secret, error) {
	v, err := s.parse()
	if err != nil {
		return Secret{}, err
	}
	f, err := v.field(name)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(f.text), nil
}

// Replace returns the value with one existing string field replaced and every
// other byte as it was: order, white space and number spellings included. In a
// URL only the user and the password can be replaced.
//
// It refuses, naming the place, a value in which the old text stands a second
// time, in a connection string beside the password say: half of it would go on
// saying what is no longer so. All its errors are permanent.
func (s Secret) Replace(name string, with Secret) (Secret, error) {
	if with.IsZero() {
		return Secret{}, Permanent(fmt.Errorf("field %q cannot be replaced by nothing", name))
	}
	v, err := s.parse()
	if err != nil {
		return Secret{}, err
	}
	f, err := v.field(name)
	if err != nil {
		return Secret{}, err
	}
	if f.end == 0 || !f.isString {
		return Secret{}, Permanent(fmt.Errorf("the value has no field %q that holds a string", name))
	}
	if place := v.secondPlace(f); place != "" {
		return Secret{}, Permanent(fmt.Errorf("the old %s also stands in %s, where it would be left behind: take it out of there, and have readers build it from the fields", name, place))
	}
	spelled, err := v.spell(name, with.Reveal())
	if err != nil {
		return Secret{}, err
	}
	text := s.Reveal()
	return NewSecret(text[:f.start] + spelled + text[f.end:]), nil
}

// With returns the value with a string field set: in the place of the string or
// null that is there or, if there is no such field, as the last one. Every other
// byte stays as it was. It is for what stands beside a credential; unlike Replace
// it does not look for the old text in other places. The value must be a JSON
// object. All its errors are permanent.
func (s Secret) With(name string, text Secret) (Secret, error) {
	v, err := s.parse()
	if err != nil {
		return Secret{}, err
	}
	if v.isURL {
		return Secret{}, Permanent(fmt.Errorf("the value is a URL, which has no place for the field %q: make it a JSON object", name))
	}
	f, err := v.field(name)
	if err != nil {
		return Secret{}, err
	}
	whole, spelled := s.Reveal(), quoteJSON(text.Reveal())
	switch {
	case f.end == 0 && len(v.fields) == 0:
		f.end = strings.IndexByte(whole, '{') + 1
		f.start, spelled = f.end, quoteJSON(name)+":"+spelled
	case f.end == 0:
		f.end = v.fields[len(v.fields)-1].end
		f.start, spelled = f.end, ","+quoteJSON(name)+":"+spelled
	case !f.isString && f.text != "":
		return Secret{}, Permanent(fmt.Errorf("the field %q of the value holds no string: take it out, or put \"\" there, and it is filled", name))
	}
	return NewSecret(whole[:f.start] + spelled + whole[f.end:]), nil
}

// field is one field and where its spelling stands in the value. end is 0 if
// there is no such field.
type field struct {
	name       string
	text       string
	isString   bool
	start, end int
}

// value is a parsed value: its fields in order, and its form.
type value struct {
	fields []field
	isURL  bool
}

func (s Secret) parse() (value, error) {
	text := s.Reveal()
	switch trimmed := strings.TrimSpace(text); {
	case strings.HasPrefix(trimmed, "{"):
		return parseObject(text)
	case strings.Contains(trimmed, "://"):
		if v, ok := parseURL(text); ok {
			return v, nil
		}
	}
	return value{}, Permanent(errors.New("the value is neither a JSON object nor a URL with a password, so it has no fields; if it is a password in plain text, say in the tag rekey:connection where it is used"))
}

func (v value) field(name string) (field, error) {
	var found field
	for _, f := range v.fields {
		if f.name != name {
			continue
		}
		if found.end != 0 {
			return field{}, Permanent(fmt.Errorf("the value has the field %q twice: readers may take either, so remove one", name))
		}
		found = f
	}
	return found, nil
}

// spell writes text the way the form wants it.
func (v value) spell(name, text string) (string, error) {
	if v.isURL {
		if name != "username" && name != "password" {
			return "", Permanent(fmt.Errorf("field %q of a URL cannot be replaced, only the user and the password", name))
		}
		return escapeUserinfo(text), nil
	}
	return quoteJSON(text), nil
}

// parseObject finds the members of a JSON object and where each value stands.
func parseObject(text string) (value, error) {
	// The decoder's own errors quote what they stumbled over, so only the
	// position is passed on.
	dec := json.NewDecoder(strings.NewReader(text))
	bad := func() (value, error) {
		return value{}, Permanent(fmt.Errorf("the value starts like a JSON object but is not one: look at byte %d", dec.InputOffset()))
	}
	if _, err := dec.Token(); err != nil {
		return bad()
	}
	var v value
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return bad()
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return bad()
		}
		f := field{name: key.(string), text: string(raw), end: int(dec.InputOffset())}
		f.start = f.end - len(raw)
		switch {
		case raw[0] == '"':
			f.isString = true
			if err := json.Unmarshal(raw, &f.text); err != nil {
				return bad()
			}
		case bytes.Equal(raw, []byte("null")):
			f.text = ""
		}
		v.fields = append(v.fields, f)
	}
	if _, err := dec.Token(); err != nil {
		return bad()
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bad()
	}
	return v, nil
}

// parseURL reads scheme://user:password@host:port/path?query. It works on the
// bytes and does not call url.Parse, which re-spells what it reads. It reports
// false for anything without a password.
func parseURL(text string) (value, bool) {
	scheme, rest, _ := strings.Cut(text, "://")
	scheme = strings.TrimSpace(scheme)
	if scheme == "" || strings.Trim(strings.ToLower(scheme), "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" {
		return value{}, false
	}
	base := len(text) - len(rest)
	trimmed := strings.TrimRight(rest, " \t\r\n")

	authority, tail := trimmed, ""
	if i := strings.IndexAny(trimmed, "/?#"); i >= 0 {
		authority, tail = trimmed[:i], trimmed[i:]
	}
	at := strings.LastIndexByte(authority, '@')
	if at < 0 {
		return value{}, false
	}
	user, password, ok := strings.Cut(authority[:at], ":")
	if !ok || password == "" {
		return value{}, false
	}
	start := base + len(user) + 1
	host, port := authority[at+1:], ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
	}
	tail, _, _ = strings.Cut(tail, "#")
	path, query, _ := strings.Cut(tail, "?")

	v := value{isURL: true}
	clean := true
	add := func(name, text string, start, end int) {
		plain, err := url.PathUnescape(text)
		if err != nil {
			clean = false
		}
		if plain != "" {
			v.fields = append(v.fields, field{name: name, text: plain, isString: true, start: start, end: end})
		}
	}
	end := len(text) // only the places of user and password are ever used
	add("engine", strings.ToLower(scheme), 0, end)
	add("username", user, base, base+len(user))
	add("password", password, start, start+len(password))
	add("host", strings.Trim(host, "[]"), 0, end)
	add("port", port, 0, end)
	add("dbname", strings.TrimPrefix(path, "/"), 0, end)
	for pair := range strings.SplitSeq(query, "&") {
		if name, text, ok := strings.Cut(pair, "="); ok {
			add(name, text, 0, end)
		}
	}
	return v, clean
}

// Public names the fields that say where a credential belongs, or which one it is, in
// the spelling of AWS's templates, of IAM, of managed external secrets and of JSON Web
// Keys. Their text is no secret: errors may show it.
func Public(field string) bool {
	return slices.Contains([]string{
		"engine", "host", "port", "username", "dbname", "ssl", "sslmode", "masterarn",
		"dbInstanceIdentifier", "dbClusterIdentifier", "nodes",
		"UserName", "AccessKeyId", "apiKeyId", "adminSecretArn",
		"alg", "kid",
	}, field)
}

// containable is from which length a text that stands inside a longer one is
// taken for the secret and not for chance.
const containable = 8

// secondPlace names a place, other than f and the public fields, in which the
// text of f stands.
func (v value) secondPlace(f field) string {
	var forms []string
	if len(f.text) >= containable {
		forms = []string{f.text, escapeUserinfo(f.text), url.QueryEscape(f.text)}
	}
	holds := func(text string) bool {
		if text == f.text {
			return true
		}
		if inner, ok := parseURL(text); ok {
			if p, err := inner.field("password"); err == nil && p.text == f.text {
				return true
			}
		}
		return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) })
	}
	for _, other := range v.fields {
		if other.start == f.start && other.name == f.name || Public(other.name) {
			continue
		}
		if other.isString {
			if holds(other.text) {
				return fmt.Sprintf("the field %q", other.name)
			}
			continue
		}
		for text := range leaves(other.text) {
			if holds(text) {
				return fmt.Sprintf("the field %q", other.name)
			}
		}
	}
	return ""
}

// leaves yields the strings inside a JSON value, keys included.
func leaves(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		dec := json.NewDecoder(strings.NewReader(text))
		for {
			tok, err := dec.Token()
			if err != nil {
				return
			}
			if s, ok := tok.(string); ok && !yield(s) {
				return
			}
		}
	}
}

func escapeUserinfo(text string) string {
	return strings.TrimPrefix(url.UserPassword("", text).String(), ":")
}

// quoteJSON writes text as a JSON string without the escapes for <, > and &
// that encoding/json adds for HTML's sake.
func quoteJSON(text string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
