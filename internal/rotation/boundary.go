package rotation

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/internal/inbase64"
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

// form is a way to write a known text, and the number of the value that the text is of.
type form struct {
	text   string
	source int
	other  bool // of another secret than the rotated one
}

// mask knows the values of one attempt and hides them in texts.
type mask struct {
	forms  []form
	source int             // of what is learned now
	known  map[string]int  // how deep texts were looked into
	said   map[string]bool // what the rotated secret's owner wrote into its public fields
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

// learn adds a value: the whole of it, the fields of a JSON object or URL, and
// the ways in which programs commonly write such a text. Fields that say where
// a credential belongs, such as host, stay readable.
func (m *mask) learn(value rotators.Secret) {
	m.source++
	m.learnTo(deepest, value)
	var object map[string]any
	if json.Unmarshal([]byte(value.Reveal()), &object) == nil {
		for name, member := range object {
			if rotators.Public(name) {
				m.hear(member)
			}
		}
		return
	}
	for _, name := range []string{"host", "username", "dbname"} { // of a URL
		if field, err := value.Field(name); err == nil {
			m.hear(field.Reveal())
		}
	}
}

// learnOther adds the value of another secret. What the owner of the rotated secret wrote
// may hold it: showing the owner's own text tells the owner nothing, and hiding a part of
// that text would say which of hundreds of guesses is right.
func (m *mask) learnOther(value rotators.Secret) {
	m.source++
	other := &mask{source: m.source}
	other.learnTo(deepest, value)
	for _, f := range other.forms {
		f.other = true
		m.forms = append(m.forms, f)
	}
}

// hear notes what the rotated secret's owner wrote into a public field, in the spellings in
// which errors quote it: a text, or a list of texts.
func (m *mask) hear(member any) {
	switch member := member.(type) {
	case []any:
		for _, entry := range member {
			m.hear(entry)
		}
	case string:
		if m.said == nil {
			m.said = map[string]bool{}
		}
		for _, text := range append(strings.Split(member, ","), member) {
			if text = strings.TrimSpace(text); len(text) >= shortest {
				for _, spelled := range []string{text, strings.ToLower(text), bounded.Printable(text)} {
					m.said[spelled] = true
				}
			}
		}
	}
}

func (m *mask) learnTo(depth int, value rotators.Secret) {
	whole := value.Reveal()
	looked, known := m.known[whole]
	if whole == "" || known && looked >= depth {
		return
	}
	if m.known == nil {
		m.known = map[string]int{}
	}
	m.known[whole] = depth
	if !known {
		m.add(whole)
	}
	if depth == 0 {
		return
	}
	if trimmed := strings.TrimSpace(whole); trimmed != whole && len(trimmed) >= shortest {
		m.learnTo(depth, rotators.NewSecret(trimmed))
	}
	m.addLogin(value)
	if m.addJSON(depth, whole) {
		return
	}
	m.addLines(whole)
	m.addParameters(depth, value)
	m.addPairs(depth, whole)
}

// addLogin adds the password of a value whatever its length, and the base64 of it after the
// user's name, as an Authorization header has it: a short password alone leaves too little
// in that to be found.
func (m *mask) addLogin(value rotators.Secret) {
	password, err := value.Field("password")
	if err != nil || password.IsZero() {
		return
	}
	m.add(password.Reveal())
	if trimmed := strings.TrimSpace(password.Reveal()); trimmed != "" {
		m.add(trimmed)
	}
	if user, err := value.Field("username"); err == nil {
		login := []byte(user.Reveal() + ":" + password.Reveal())
		for _, encoding := range inbase64.Encodings {
			m.know(encoding.EncodeToString(login))
		}
	}
}

// addJSON adds what stands in a JSON text, and reports whether the text is an object, an
// array or a string. Of a field that is there twice it adds both.
func (m *mask) addJSON(depth int, text string) bool {
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
				m.addCredentials(token)
			} else {
				m.addLeaf(depth, token)
			}
		case json.Number:
			if !public {
				m.addNumber(token)
			}
		}
		public = false
		if n := len(levels); n > 0 {
			levels[n-1].name, public = true, levels[n-1].public
		}
	}
}

// addNumber adds a number as it is spelled, and as Go prints it.
func (m *mask) addNumber(n json.Number) {
	if len(n) >= shortest {
		m.add(n.String())
	}
	if f, err := n.Float64(); err == nil {
		for _, form := range []byte("gf") {
			if text := strconv.FormatFloat(f, form, -1, 64); len(text) >= shortest && len(text) <= 64 {
				m.add(text)
			}
		}
	}
}

// addCredentials adds the password in a text that is public but for that: a host that is
// written as a URL with a login.
func (m *mask) addCredentials(text string) {
	m.addLogin(rotators.NewSecret(text))
	m.addUserinfo(text)
}

// addUserinfo adds what stands between the user and the host of a connection string, up to
// the first and up to the last at sign: user:password@host, with a scheme or without, as
// drivers for Go spell it, and with a password that should have been escaped.
func (m *mask) addUserinfo(text string) {
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
			m.add(rest[:at])
		}
	}
}

// addPairs adds the values of a connection string of names and values, as libpq and .NET
// have it, and of a file of such lines: host=db password='it”s', Server=db;Password=x.
func (m *mask) addPairs(depth int, text string) {
	m.addUserinfo(text)
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
			m.addPair(depth, name, after[1:max(1, len(after)-len(rest)-1)])
		} else {
			end := strings.IndexAny(after, space)
			if end < 0 {
				end = len(after)
			}
			value, rest = after[:end], after[end:]
			// With semicolons between them, values may hold spaces.
			if semicolon := strings.IndexAny(after[:min(len(after), longestSpaced)], ";\n"); semicolon > end {
				m.addPair(depth, name, strings.TrimSpace(after[:semicolon]))
			}
		}
		m.addPair(depth, name, value)
	}
}

// longestSpaced is how far a value with spaces in it is looked for: each pair would else
// look through all that follows.
const longestSpaced = 256

func (m *mask) addPair(depth int, name, value string) {
	if !rotators.Public(strings.TrimSpace(name)) {
		m.addLeaf(depth, value)
	}
}

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
func (m *mask) addParameters(depth int, value rotators.Secret) {
	_, query, _ := strings.Cut(value.Reveal(), "?")
	query, _, _ = strings.Cut(query, "#")
	for pair := range strings.SplitSeq(strings.TrimSpace(query), "&") {
		name, spelled, _ := strings.Cut(pair, "=")
		if rotators.Public(name) {
			continue
		}
		m.addLeaf(depth, spelled)
		for _, unescape := range []func(string) (string, error){url.QueryUnescape, url.PathUnescape} {
			if parameter, err := unescape(spelled); err == nil {
				m.addLeaf(depth, parameter)
			}
		}
	}
}

// longLine is from which length a line of a longer text is masked by itself.
const longLine = 16

// addLines adds the lines of a text that has several, a private key say: an error
// may show but a piece of it.
func (m *mask) addLines(text string) {
	if !strings.Contains(strings.TrimSpace(text), "\n") {
		return
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) >= longLine && !strings.HasPrefix(line, "-----") {
			m.add(line)
		}
	}
}

// addLeaf adds a text within a value, and what it holds down to a depth: it may be an
// object or a URL.
func (m *mask) addLeaf(depth int, text string) {
	if len(text) >= shortest {
		m.learnTo(depth-1, rotators.NewSecret(text))
	}
}

// add adds a text, and the spellings of it that decoding escapes does not turn into it: see
// views.
func (m *mask) add(text string) {
	forms := []string{text, hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text)))}
	forms = append(forms, base64Forms(text)...)
	if strings.ContainsFunc(text, func(c rune) bool { return !strings.ContainsRune(alphanumeric, c) }) {
		forms = append(forms,
			strings.ReplaceAll(text, `'`, `''`), strings.ReplaceAll(text, " ", "+"),
			bounded.Printable(text), bounded.Lines(text),
		)
	}
	m.know(forms...)
}

// know adds forms. The many spellings of most texts are one and the same.
func (m *mask) know(forms ...string) {
	slices.Sort(forms)
	for _, text := range slices.Compact(forms) {
		m.forms = append(m.forms, form{text: text, source: m.source})
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

// around returns what stands before, between and after known texts. The longest are looked
// for first, and a text that overlaps a longer one of another value does not count: whoever
// writes a value could else try out, by a text that ends in a guess, how a value begins that
// they may not read. Where two texts of one value overlap, both are left out whole. What
// the owner of the rotated secret wrote is shown, whatever it has in common with the value
// of another secret.
func (m *mask) around(text string) []string {
	forms := slices.Clone(m.forms)
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
	of := make([]int32, len(text)) // by which value each byte is known; 0: by none
	views := viewsOf(text)
	said := m.saidIn(views)
	begins := make([]bool, len(text)+1) // where a known text begins that overlaps none before it
	for _, f := range forms {
		source := int32(f.source + 1)
		for _, v := range views {
			if !v.has(f.text) {
				continue
			}
		next:
			for from := 0; ; {
				at, end, ok := v.find(f.text, from)
				if !ok {
					break
				}
				from = end
				begin, end := v.place(at), v.place(end)
				if f.other && said[begin] >= end {
					continue
				}
				for i := at; i < from; i++ {
					if other := of[v.place(i)]; other != 0 && other != source {
						for from = i; from < len(v.text) && of[v.place(from)] == other; {
							from++
						}
						continue next
					}
				}
				begins[begin] = begins[begin] || of[begin] == 0
				for i := begin; i < end; i++ {
					of[i] = source
					begins[i] = begins[i] && i == begin
				}
			}
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

// saidIn returns, for each byte of a text, to where a text of the owner's goes that begins
// there or before.
func (m *mask) saidIn(views []view) []int {
	reach := make([]int, len(views[0].text)+1)
	for said := range m.said {
		for _, v := range views {
			for from := 0; ; {
				at, end, ok := v.find(said, from)
				if !ok {
					break
				}
				from = end
				reach[v.place(at)] = max(reach[v.place(at)], v.place(end))
			}
		}
	}
	for i := 1; i < len(reach); i++ {
		reach[i] = max(reach[i], reach[i-1])
	}
	return reach
}

// base64Forms returns the base64 of a text, and what of it stands in that of a longer one:
// an Authorization header encodes "user:password".
func base64Forms(text string) (forms []string) {
	for _, encoding := range inbase64.Encodings {
		forms = append(forms, encoding.EncodeToString([]byte(text)))
	}
	for _, core := range inbase64.Cores(text) {
		if len(core) >= 6 { // else texts that are no base64 would hold it
			forms = append(forms, core)
		}
	}
	return forms
}

// errNoCurrent is what a secret without a first value gets.
var errNoCurrent = rotators.Permanent(errors.New("the secret has no current value: store a first, working one"))
