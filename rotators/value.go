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
	"unicode/utf8"

	"github.com/rekeyhq/rekey/internal/plaintext"
)

// Field reads one field of the value; the zero Secret if there is no such field
// or it is null. What fields there are depends on how the value is written:
//
//   - a JSON object: its members. A string is decoded; a number, a boolean, an
//     object or an array is returned as it is spelled.
//   - a URL, such as postgres://app:pw@db:5432/shop?sslmode=require: engine (the
//     scheme), username, password, host, port, dbname (the path), and each query
//     parameter under its own name, of which user means username. A parameter whose
//     name is that of another public field (see [Public]) is no field.
//   - a JDBC URL of PostgreSQL, MySQL or MariaDB, and keywords and values of libpq,
//     host=db user=app password=pw: the same fields.
//
// A URL, a JDBC URL or a text for libpq is a connection string. Its field ssl is false if
// its driver goes without TLS by what it says (sslmode=disable, or the driver's own
// word for that), and true if it asks for TLS.
//
// A JSON object without a password of its own may have one connection string with a password
// as the text of one member, {"DATABASE_URL": "postgres://app:pw@db/shop"}: then the fields
// engine, username, password, host, port, dbname and ssl are also those of the connection
// string. One with a password and without a host may have one without a password.
//
// For anything else, and for a value that says a field twice, the error says what is
// wrong, without a byte of the value, and is permanent.
func (s Secret) Field(name string) (Secret, error) {
	v, err := s.parse()
	if err != nil {
		return Secret{}, err
	}
	f, _, err := v.find(name)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(f.text), nil
}

// Texts returns the names and texts of the value's fields, whatever else is wrong with the
// value. Of a JSON object they include those of connection strings in its members. An error
// may quote each of them.
func (s Secret) Texts() (texts []string) {
	add := func(v value) {
		for _, f := range v.fields {
			texts = append(texts, f.name, f.text)
		}
	}
	text := s.Reveal()
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		v, _ := parseConnection(text) // its fields up to what cannot be read
		add(v)
		return texts
	}
	object, _ := parseObject(text)
	add(object)
	for _, f := range object.fields {
		if inner, err := parseConnection(f.text); !errors.Is(err, errNoConnection) {
			add(inner)
		}
	}
	return texts
}

// Replace returns the value with one existing string field replaced and every
// other byte as it was: order, white space and number spellings included. In a
// connection string only the user and the password can be replaced.
//
// It refuses, naming the place, a value in which the old text stands a second
// time, in a connection string beside the password say: half of it would go on
// saying what is no longer so. All its errors are permanent.
func (s Secret) Replace(name string, with Secret) (Secret, error) {
	if with.IsZero() {
		return Secret{}, Permanent(fmt.Errorf("field %q cannot be replaced by nothing", name))
	}
	if !utf8.ValidString(with.Reveal()) {
		return Secret{}, Permanent(fmt.Errorf("field %q cannot be replaced by what is no text in UTF-8", name))
	}
	v, err := s.parse()
	if err != nil {
		return Secret{}, err
	}
	f, also, err := v.find(name)
	if err != nil {
		return Secret{}, err
	}
	if f.end == 0 || !f.isString {
		return Secret{}, Permanent(fmt.Errorf("the value has no field %q that holds a string", name))
	}
	if f.spell == nil {
		return Secret{}, Permanent(fmt.Errorf("field %q of a connection string cannot be replaced, only the user and the password", name))
	}
	place := v.secondPlace(f)
	if place == "" && also != "" {
		place = also
	}
	if place != "" {
		return Secret{}, Permanent(fmt.Errorf("the old %s also stands in %s, where it would be left behind: take it out of there, and have readers build it from the fields", name, place))
	}
	spelled, err := f.spell(with.Reveal())
	if err != nil {
		return Secret{}, Permanent(err)
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
	if v.isConnection {
		return Secret{}, Permanent(fmt.Errorf("the value is a connection string, which has no place for the field %q: make it a JSON object", name))
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
// there is no such field. spell writes another text in its place; nil: it has none.
type field struct {
	name       string
	text       string
	isString   bool
	start, end int
	spell      func(text string) (string, error)
}

// value is a parsed value: its fields in order, and its form.
type value struct {
	fields       []field
	isConnection bool
	text         string // of an object, to find what its members spell
}

func (s Secret) parse() (value, error) {
	text := s.Reveal()
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		return parseObject(text)
	}
	v, err := parseConnection(text)
	switch {
	case errors.Is(err, errNoConnection):
		if why := plaintext.Why(text); why != "" {
			return value{}, Permanent(errors.New("the value " + why))
		}
		return value{}, Permanent(errors.New("the value is neither a JSON object nor a connection string with a password, so it has no fields; if it is a password in plain text, say in the tag rekey:connection where it is used"))
	case err != nil:
		return value{}, Permanent(fmt.Errorf("the value is or looks like a connection string: it %w", err))
	case !v.has("password"):
		return value{}, Permanent(errors.New("the value is a connection string without a password, so there is nothing to rotate: add the password, or make it a JSON object with a password beside it"))
	}
	return v, nil
}

// field finds a field of the value's own: a member of an object, a part of a connection string.
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

func (v value) has(name string) bool {
	return slices.ContainsFunc(v.fields, func(f field) bool { return f.name == name && f.text != "" })
}

// connectionFields are what an object may say by a connection string.
var connectionFields = []string{"engine", "username", "password", "host", "port", "dbname", "ssl"}

// find finds a field, the value's own or one of the connection string in a member of it.
// also names the place where the same is said a second time, if there is one.
func (v value) find(name string) (f field, also string, err error) {
	f, err = v.field(name)
	if err != nil || v.isConnection || !slices.Contains(connectionFields, name) {
		return f, "", err
	}
	inner, member, err := v.connection()
	if err != nil {
		if f.end != 0 {
			err = nil // the object says so itself
		}
		return f, "", err
	}
	g, err := inner.field(name)
	switch {
	case err != nil || g.end == 0:
		return f, "", err
	case f.end == 0 || f.text == "":
		return g, "", nil
	case name == "ssl" && strings.EqualFold(f.text, "false") == (g.text == "false"):
		return f, fmt.Sprintf("the field %q", member), nil
	case f.text != g.text && name != "engine":
		return field{}, "", Permanent(fmt.Errorf("the fields %q and %q of the value do not say the same %s: correct one, or remove it", name, member, name))
	}
	return f, fmt.Sprintf("the field %q", member), nil
}

// connection finds the member that holds a connection string, and returns the fields of that
// with their places in the object. An object with a password needs one without a
// password, for the host it does not name; any other needs one with a password. None: the
// zero value.
func (v value) connection() (found value, member string, err error) {
	needPassword := !v.has("password")
	if !needPassword && (v.has("host") || v.has("dbInstanceIdentifier") || v.has("dbClusterIdentifier")) {
		return value{}, "", nil
	}
	for _, m := range v.fields {
		if !m.isString {
			continue
		}
		inner, err := parseConnection(m.text)
		// What cannot be read matters only where it may hold the credential or, without one,
		// where it is a connection string that says where the credential is used.
		silent := err != nil && !strings.Contains(m.text, "@") && !strings.Contains(m.text, "password") && (needPassword || !errors.As(err, new(parameterError)))
		if errors.Is(err, errNoConnection) || silent || isWeb(m.text) || err == nil && (!inner.has("host") || inner.has("password") != needPassword) {
			continue
		}
		if err != nil {
			return value{}, "", Permanent(fmt.Errorf("the field %q of the value is or looks like a connection string: it %w", m.name, err))
		}
		if member != "" {
			return value{}, "", Permanent(fmt.Errorf("the fields %q and %q of the value both hold a connection string, and a secret is one credential: keep each in a secret of its own", member, m.name))
		}
		if found, err = inner.within(m, v.text); err != nil {
			return value{}, "", err
		}
		member = m.name
	}
	return found, member, nil
}

// isWeb reports whether a text is the URL of a page or of an API. Objects have such beside
// a database's credential.
func isWeb(text string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(text), "://")
	return scheme == "http" || scheme == "https"
}

// within returns the fields of a connection string, which is the text of a member of an
// object, with their places and spellings in that object.
func (v value) within(m field, object string) (value, error) {
	at, ok := placesInJSON(object[m.start:m.end], m.text)
	if !ok {
		return value{}, Permanent(fmt.Errorf("the field %q of the value is spelled in a way in which its password is not found again: write it without needless escapes", m.name))
	}
	inner := value{isConnection: true}
	for _, f := range v.fields {
		f.start, f.end = m.start+at[f.start], m.start+at[f.end]
		if spell := f.spell; spell != nil {
			f.spell = func(text string) (string, error) {
				spelled, err := spell(text)
				quoted := quoteJSON(spelled)
				return quoted[1 : len(quoted)-1], err
			}
		}
		inner.fields = append(inner.fields, f)
	}
	return inner, nil
}

// placesInJSON finds, for each byte of the text that a JSON string spells, and for its end,
// where the spelling of it starts.
func placesInJSON(spelled, text string) (at []int, ok bool) {
	var decoded strings.Builder
	end := len(spelled) - 1
	for i := 1; i < end; {
		n := 1
		switch {
		case spelled[i] == '\\' && spelled[i+1] == 'u':
			n = 6
			// Two escapes may spell one character.
			if pair := spelled[i:min(i+12, end)]; len(pair) == 12 && pair[6:8] == `\u` && unquoteJSON(pair) != unquoteJSON(pair[:6])+unquoteJSON(pair[6:]) {
				n = 12
			}
		case spelled[i] == '\\':
			n = 2
		default:
			_, n = utf8.DecodeRuneInString(spelled[i:end])
		}
		part := unquoteJSON(spelled[i : i+n])
		for range len(part) {
			at = append(at, i)
		}
		decoded.WriteString(part)
		i += n
	}
	return append(at, end), decoded.String() == text
}

// unquoteJSON decodes the inside of a JSON string.
func unquoteJSON(inside string) (text string) {
	_ = json.Unmarshal([]byte(`"`+inside+`"`), &text) // it is a part of a string that has been decoded
	return text
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
	v := value{text: text}
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
			f.isString, f.spell = true, spellJSON
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
		if inner, err := parseConnection(text); err == nil {
			if p, err := inner.field("password"); err == nil && p.text == f.text {
				return true
			}
		}
		return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) })
	}
	look := v.fields
	if inner, _, err := v.connection(); err == nil && !v.isConnection {
		look = slices.Concat(look, inner.fields)
	}
	for _, other := range look {
		// What holds f itself is no other place.
		if other.start <= f.start && other.end >= f.end && (!v.isConnection || other.name == f.name) || Public(other.name) {
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

func spellJSON(text string) (string, error) { return quoteJSON(text), nil }

// quoteJSON writes text as a JSON string without the escapes for <, > and &
// that encoding/json adds for HTML's sake.
func quoteJSON(text string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
