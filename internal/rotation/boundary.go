package rotation

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"index/suffixarray"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/internal/readings"
	"github.com/rekeyhq/rekey/rotators"
)

// StepError is how every failed step ends. Lambda reports the name of this Go
// type as the errorType, and alarms hang on it, so it never changes.
//
// Its text holds none of the values the attempt knew. The errors it wraps are
// as they were made, for errors.Is and errors.As; do not print them.
type StepError struct {
	Step Step
	ID   string
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s of %s: %s", e.Step, e.ID, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// masked prints as text, and wraps an error that may print as more. The error
// sits behind a func so that no fmt verb reaches it.
type masked struct {
	text  string
	chain func() error
}

func (m *masked) Error() string { return m.text }
func (m *masked) Unwrap() error { return m.chain() }

// guard runs call, turns a panic into an error, and masks the values known to
// m, those it learned during the call included, in what comes out. That is also cut
// and made printable: a rotator may quote a server, and not only ours do.
func (m *mask) guard(call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{value: p, stack: string(debug.Stack())}
		}
		if err != nil {
			chain := err
			err = &masked{text: m.show(err.Error()), chain: func() error { return chain }}
		}
	}()
	return call()
}

// panicked is what a panic becomes. The stack goes into the log only.
type panicked struct {
	value any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// IsPanic tells whether err, or an error it wraps, is what a panic became.
func IsPanic(err error) bool {
	var p *panicked
	return errors.As(err, &p)
}

// mask knows the values of one attempt and hides them in texts. It takes them apart only when
// there is a text, and one after the other: the parts take many times the memory.
type mask struct {
	values []known
	own    []string // what the owner of the rotated secret wrote besides its values
}

// known is a value that is to be hidden.
type known struct {
	value rotators.Secret
	other bool // of another secret than the rotated one
}

// form is a known text, as some programs spell it, and the number of the value that it is of.
type form struct {
	text, known string
	source      int
	other       bool
}

// parts are the texts that a value consists of.
type parts struct {
	forms  []form
	looked map[string]int // how deep texts were looked into
}

// deepest is how deep values are looked for in values: a URL in a field of an object in a
// text. Whoever writes a value could else have each level double the work.
const deepest = 3

// hidden is what stands in a text where a value stood.
const hidden = "[redacted]"

// shortest is the length from which a field is masked. Shorter ones are no
// secrets, and hiding every "eu" or "yes" would make an error unreadable. The
// password is masked whatever its length.
const shortest = 4

// learn adds a value of the rotated secret: the whole of it, and the fields of a JSON object
// or URL. Fields that say where a credential belongs, such as host, stay readable.
func (m *mask) learn(value rotators.Secret) { m.add(value, false) }

// learnOther adds the value of another secret.
func (m *mask) learnOther(value rotators.Secret) { m.add(value, true) }

func (m *mask) add(value rotators.Secret, other bool) {
	same := func(k known) bool { return k.other == other && k.value.Equal(value) }
	if !value.IsZero() && !slices.ContainsFunc(m.values, same) {
		m.values = append(m.values, known{value, other})
	}
}

// wrote notes texts that the owner of the rotated secret wrote besides its values.
func (m *mask) wrote(texts ...string) { m.own = append(m.own, texts...) }

// written returns all that the owner of the rotated secret wrote, and how deep each text is to
// be decoded. The owner may guess there at the value of another secret, hundreds of
// times: showing the owner's own text tells the owner nothing, and hiding a part of that text would
// say which guess is right.
func (m *mask) written() map[string]int {
	depths := map[string]int{strings.Join(m.own, between): decodings + 1} // an error may quote a text once more
	for _, k := range m.values {
		if k.other {
			continue
		}
		whole := k.value.Reveal()
		texts := k.value.Texts()
		d := json.NewDecoder(strings.NewReader(whole))
		for token, err := d.Token(); err == nil; token, err = d.Token() {
			if text, ok := token.(string); ok {
				texts = append(append(texts, text), rotators.NewSecret(text).Texts()...)
			}
		}
		depths[strings.Join(texts, between)] = decodings + 1
		depths[whole] = decodings + 2
	}
	return depths
}

// between stands between texts that are noted together. It is in no alphabet of an encoding,
// and in no error.
const between = "\x1f"

// decodings is how deep an error is decoded in which known texts are looked for: JSON in JSON,
// or in base64.
const decodings = 2

// maxOwn is how many bytes of readings of what the owner wrote are looked through, which takes some
// seconds. A hundred old versions of a kilobyte have a few hundred kilobytes.
const maxOwn = 16 << 20

// without takes from forms those of other secrets that the owner of the rotated secret wrote,
// in any reading. Capitals do not count, because host names lose them; and of what is
// known by a spelling the owner may have written that, or what is spelled so. It is not sure
// if what the owner wrote has too many readings.
func (m *mask) without(forms []form) (left []form, sure bool) {
	size := 0
	for text, depth := range m.written() {
		all, complete := readings.Of(text, depth)
		for _, r := range all {
			size += len(r.Text)
		}
		if !complete || size > maxOwn {
			return nil, false
		}
		for _, r := range all {
			if !slices.ContainsFunc(forms, func(f form) bool { return f.other }) {
				break
			}
			index := suffixarray.New([]byte(strings.ToLower(r.Text)))
			has := func(text string) bool { return len(index.Lookup([]byte(strings.ToLower(text)), 1)) > 0 }
			forms = slices.DeleteFunc(forms, func(f form) bool { return f.other && (has(f.text) || has(f.known)) })
		}
	}
	return forms, true
}

// learnTo adds a value: the whole of it, and what it consists of down to a depth.
func (p *parts) learnTo(depth int, value rotators.Secret) {
	whole := value.Reveal()
	looked, known := p.looked[whole]
	if whole == "" || known && looked >= depth {
		return
	}
	if p.looked == nil {
		p.looked = map[string]int{}
	}
	p.looked[whole] = depth
	if !known {
		p.add(whole)
	}
	if depth == 0 {
		return
	}
	if trimmed := strings.TrimSpace(whole); trimmed != whole && len(trimmed) >= shortest {
		p.learnTo(depth, rotators.NewSecret(trimmed))
	}
	p.addLogin(value)
	if p.addJSON(depth, whole) {
		return
	}
	p.addLines(whole)
	p.addParameters(depth, value)
	p.addPairs(depth, whole)
}

// addLogin adds the password of a value whatever its length, and the password after the
// user's name, as an Authorization header has them: a short one alone is not looked for in
// base64.
func (p *parts) addLogin(value rotators.Secret) {
	password, err := value.Field("password")
	if err != nil || password.IsZero() {
		return
	}
	p.add(password.Reveal())
	if trimmed := strings.TrimSpace(password.Reveal()); trimmed != "" {
		p.add(trimmed)
	}
	if user, err := value.Field("username"); err == nil {
		p.add(user.Reveal() + ":" + password.Reveal())
	}
}

// addJSON adds what stands in a JSON text, and reports whether the text is an object, an
// array or a string. Of a field that is there twice it adds both.
func (p *parts) addJSON(depth int, text string) bool {
	trimmed := strings.TrimSpace(text)
	if trimmed == "" || !strings.Contains(`{["`, trimmed[:1]) || !json.Valid([]byte(trimmed)) {
		return false
	}
	d := json.NewDecoder(strings.NewReader(trimmed))
	d.UseNumber()
	// Of each object or array that is open: whether it is an object, whether its next token
	// is a name, and whether it stands in a public field.
	type level struct{ object, name, public bool }
	levels, public := []level{}, false
	for {
		token, err := d.Token()
		if err != nil {
			return true // its end: the text is valid
		}
		if n := len(levels); n > 0 && levels[n-1].object && levels[n-1].name {
			if name, ok := token.(string); ok {
				levels[n-1].name, public = false, levels[n-1].public || rotators.Public(name)
				continue
			}
		}
		switch token := token.(type) {
		case json.Delim:
			if token == '{' || token == '[' {
				levels = append(levels, level{token == '{', true, public})
				continue
			}
			levels = levels[:len(levels)-1]
		case string:
			if public {
				p.addCredentials(token)
			} else {
				p.addLeaf(depth, token)
			}
		case json.Number:
			if !public {
				p.addNumber(token)
			}
		}
		public = false
		if n := len(levels); n > 0 {
			levels[n-1].name, public = true, levels[n-1].public
		}
	}
}

// addNumber adds a number as it is spelled, and as Go prints it.
func (p *parts) addNumber(n json.Number) {
	if len(n) >= shortest {
		p.add(n.String())
	}
	if f, err := n.Float64(); err == nil {
		for _, form := range []byte("gf") {
			if text := strconv.FormatFloat(f, form, -1, 64); len(text) >= shortest && len(text) <= 64 {
				p.add(text)
			}
		}
	}
}

// addCredentials adds the password in a text that is public but for that: a host that is
// written as a URL with a login.
func (p *parts) addCredentials(text string) {
	p.addLogin(rotators.NewSecret(text))
	p.addUserinfo(text)
}

// addUserinfo adds what stands between the user and the host of a connection string, up to
// the first and up to the last at sign: user:password@host, with a scheme or without, as
// drivers for Go spell it, and with a password that should have been escaped.
func (p *parts) addUserinfo(text string) {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	user, rest, ok := strings.Cut(text, ":")
	if !ok || strings.ContainsAny(user, " \t\n{[\"=@/?") {
		return
	}
	first, last := strings.Index(rest, "@"), strings.LastIndex(rest, "@")
	for _, at := range []int{first, last} {
		if at > 0 && (at >= shortest || first == last) {
			p.add(rest[:at])
			if password, err := url.PathUnescape(rest[:at]); err == nil && password != rest[:at] {
				p.add(password)
			}
		}
	}
}

// addPairs adds the values of a connection string of names and values, as libpq and .NET
// have it, and of a file of such lines: host=db password='it”s', Server=db;Password=x.
func (p *parts) addPairs(depth int, text string) {
	p.addUserinfo(text)
	const space = " \t\r\n;&"
	for rest := text; ; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return
		}
		name = name[strings.LastIndexAny(strings.TrimRight(name, " \t"), space+"?")+1:]
		after = strings.TrimLeft(after, " \t")
		var value string
		if after != "" && (after[0] == '\'' || after[0] == '"') {
			value, rest = quoted(after)
			p.addPair(depth, name, after[1:max(1, len(after)-len(rest)-1)])
		} else {
			end := strings.IndexAny(after, space)
			if end < 0 {
				end = len(after)
			}
			value, rest = after[:end], after[end:]
			// With semicolons between them, values may hold spaces.
			if semicolon := strings.IndexAny(after[:min(len(after), longestSpaced)], ";\n"); semicolon > end {
				p.addPair(depth, name, strings.TrimSpace(after[:semicolon]))
			}
		}
		p.addPair(depth, name, value)
	}
}

// longestSpaced is how far a value with spaces in it is looked for: each pair would else
// look through all that follows.
const longestSpaced = 256

func (p *parts) addPair(depth int, name, value string) {
	if !public(strings.TrimSpace(name)) {
		p.addLeaf(depth, value)
	}
}

// public reports whether a parameter of a connection string is no secret.
func public(parameter string) bool { return rotators.Public(parameter) || parameter == "user" }

// quoted reads a quoted text, in which a backslash or a second quote stands before a quote,
// and returns what follows.
func quoted(text string) (value, rest string) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
		case text[i] == text[0] && i+1 < len(text) && text[i+1] == text[0]:
			i++
		case text[i] == text[0]:
			return b.String(), text[i+1:]
		}
		b.WriteByte(text[i])
	}
	return b.String(), ""
}

// addParameters adds the query parameters of a URL, as they are and as they are
// spelled.
func (p *parts) addParameters(depth int, value rotators.Secret) {
	_, query, _ := strings.Cut(value.Reveal(), "?")
	query, _, _ = strings.Cut(query, "#")
	for pair := range strings.SplitSeq(strings.TrimSpace(query), "&") {
		name, spelled, _ := strings.Cut(pair, "=")
		if public(name) {
			continue
		}
		p.addLeaf(depth, spelled)
		for _, unescape := range []func(string) (string, error){url.QueryUnescape, url.PathUnescape} {
			if parameter, err := unescape(spelled); err == nil {
				p.addLeaf(depth, parameter)
			}
		}
	}
}

// longLine is from which length a line of a longer text is masked by itself.
const longLine = 16

// addLines adds the lines of a text that has several, a private key say: an error
// may show but a piece of it.
func (p *parts) addLines(text string) {
	if !strings.Contains(strings.TrimSpace(text), "\n") {
		return
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) >= longLine && !strings.HasPrefix(line, "-----") {
			p.add(line)
		}
	}
}

// addLeaf adds a text within a value, and what it holds down to a depth: it may be an
// object or a URL.
func (p *parts) addLeaf(depth int, text string) {
	if len(text) >= shortest {
		p.learnTo(depth-1, rotators.NewSecret(text))
	}
}

// add adds a text, and the spellings of it that decoding does not turn into it.
func (p *parts) add(text string) {
	forms := []string{text, strings.ReplaceAll(text, `'`, `''`), strings.ReplaceAll(text, " ", "+"), bounded.Printable(text), bounded.Lines(text)}
	slices.Sort(forms)
	for _, spelled := range slices.Compact(forms) {
		p.forms = append(p.forms, form{text: spelled, known: text})
	}
}

// hide replaces every known text.
func (m *mask) hide(text string) string {
	return strings.Join(m.around(text), hidden)
}

// maxError is how many bytes of an error are shown, about: a page of a log viewer. What
// one server says is cut by the rotators to a kilobyte, so that only others' are as long.
const maxError = 8 << 10

// show is what of an error may be shown, in one line. It is redacted before it is cut, so
// that no piece of a value is left at the end.
func (m *mask) show(text string) string {
	var b strings.Builder
	for i, part := range m.around(text) {
		if i > 0 {
			b.WriteString(hidden)
		}
		if b.Len() >= maxError {
			return b.String() + bounded.Mark
		}
		// Joined errors have a line each. Whose lines they are would not show.
		b.WriteString(bounded.Printable(strings.ReplaceAll(part, "\n", "; ")))
		if b.Len() > maxError {
			return bounded.Cut(b.String(), maxError)
		}
	}
	return b.String()
}

// maxKnown is how many bytes of values are taken apart for one text: a megabyte takes a second,
// or five if somebody wrote it for that. A secret has up to a hundred old versions, most of a kilobyte.
const maxKnown = 2 << 20

// What is in the place of an error that cannot be redacted.
const (
	tooMuch = " (nothing of the error is shown, because the versions of this secret are together larger than rekey looks through)"
	tooDeep = " (nothing of the error is shown, because the value of this secret has more encodings in one another than rekey looks through)"
)

// around returns what stands before, between and after known texts. The longest are looked
// for first, and a text that overlaps a longer one of another value does not count: whoever
// writes a value could else try out, by a text that ends in a guess, how a value begins that
// they may not read. Where two texts of one value overlap, both are left out whole. What
// the owner of the rotated secret wrote is shown, whatever it has in common with the value
// of another secret.
func (m *mask) around(text string) []string {
	size := 0
	for _, k := range m.values {
		size += len(k.value.Reveal())
	}
	if size > maxKnown {
		return []string{"", tooMuch}
	}
	views := viewsOf(text)
	var forms []form // those that stand in the text
	for i, k := range m.values {
		p := parts{}
		p.learnTo(deepest, k.value)
		for _, f := range p.forms {
			f.source, f.other = i+1, k.other
			if slices.ContainsFunc(views, func(v view) bool { return v.has(f) }) {
				forms = append(forms, f)
			}
		}
	}
	slices.SortFunc(forms, func(a, b form) int {
		if a.text == b.text && a.other != b.other { // so that the one of the rotated secret stays
			if b.other {
				return -1
			}
			return 1
		}
		return cmp.Or(len(b.text)-len(a.text), strings.Compare(a.text, b.text), a.source-b.source)
	})
	forms = slices.CompactFunc(forms, func(a, b form) bool { return a.text == b.text })
	if slices.ContainsFunc(m.values, func(k known) bool { return k.other }) {
		var sure bool
		if forms, sure = m.without(forms); !sure {
			return []string{"", tooDeep} // whatever the text is: to go by what it holds would tell a guess
		}
	}
	of := make([]int32, len(text))      // by which value each byte is known; 0: by none
	begins := make([]bool, len(text)+1) // where a known text begins that overlaps none before it
	for _, f := range forms {
		for _, v := range views {
			v.mark(f, of, begins)
		}
	}
	parts, end := []string{}, 0
	for i := 0; i < len(text); {
		if of[i] == 0 {
			i++
			continue
		}
		parts = append(parts, text[end:i])
		for i++; i < len(text) && of[i] != 0 && !begins[i]; i++ {
		}
		end = i
	}
	return append(parts, text[end:])
}

// view is a reading of a text, in which known texts are looked for.
type view struct {
	readings.Reading
	index *suffixarray.Index
}

func viewsOf(text string) (views []view) {
	all, _ := readings.Of(text, decodings)
	for _, r := range all {
		views = append(views, view{r, suffixarray.New([]byte(r.Text))})
	}
	return views
}

// has reports whether a known text stands in the view. It takes as long as that text, not as
// the view.
func (v view) has(f form) bool {
	return f.text != "" && (!v.Encoded || len(f.text) >= shortest) && len(v.index.Lookup([]byte(f.text), 1)) > 0
}

// mark notes where a known text stands and overlaps none of another value.
func (v view) mark(f form, of []int32, begins []bool) {
	if !v.has(f) {
		return
	}
	source := int32(f.source)
	places := v.index.Lookup([]byte(f.text), -1)
	slices.Sort(places)
	last := 0 // where the text ended that was noted last: one that overlaps itself is noted once
next:
	for _, at := range places {
		if at < last {
			continue
		}
		begin, end := v.Place(at, at+len(f.text))
		for i := begin; i < end; i++ {
			if of[i] != 0 && of[i] != source {
				continue next
			}
		}
		last = at + len(f.text)
		begins[begin] = begins[begin] || of[begin] == 0
		for i := begin; i < end; i++ {
			of[i] = source
			begins[i] = begins[i] && i == begin
		}
	}
}

// errNoCurrent is what a secret without a first value gets.
var errNoCurrent = rotators.Permanent(errors.New("the secret has no current value: store a first, working one"))
