package rotation

import (
	"cmp"
	"encoding/base64"
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

// mask knows the values of one attempt and hides them in texts.
type mask struct {
	forms  []string
	known  map[string]int // how deep texts were looked into
	others []string       // forms of the values of other secrets
	said   []string       // what the rotated secret's owner wrote into its public fields
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
	m.learnTo(deepest, value)
	var object map[string]any
	if json.Unmarshal([]byte(value.Reveal()), &object) == nil {
		for name, member := range object {
			if text, ok := member.(string); ok && rotators.Public(name) {
				m.hear(text)
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
	other := &mask{}
	other.learnTo(deepest, value)
	m.others = append(m.others, other.forms...)
}

// hear notes a text of the rotated secret's owner, in the spellings in which errors quote it.
func (m *mask) hear(text string) {
	if len(text) >= shortest {
		m.said = append(m.said, text, strings.ToLower(text), inner(strconv.Quote(text)), bounded.Printable(text))
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
	if password, err := value.Field("password"); err == nil && !password.IsZero() {
		m.add(password.Reveal())
	}
	var object map[string]any
	if json.Unmarshal([]byte(whole), &object) != nil {
		m.addLines(whole)
		m.addParameters(depth, value)
		return
	}
	for name, member := range object {
		if !rotators.Public(name) {
			m.addLeaves(depth, member)
		}
	}
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
		m.addLeaves(depth, spelled)
		for _, unescape := range []func(string) (string, error){url.QueryUnescape, url.PathUnescape} {
			if parameter, err := unescape(spelled); err == nil {
				m.addLeaves(depth, parameter)
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

// addLeaves adds the texts in a decoded JSON value, however deep it is, and what these
// hold down to a depth.
func (m *mask) addLeaves(depth int, v any) {
	switch v := v.(type) {
	case string:
		if len(v) >= shortest {
			m.learnTo(depth-1, rotators.NewSecret(v)) // it may hold an object or a URL
		}
	case []any:
		for _, member := range v {
			m.addLeaves(depth, member)
		}
	case map[string]any:
		for name, member := range v {
			if !rotators.Public(name) {
				m.addLeaves(depth, member)
			}
		}
	}
}

func (m *mask) add(text string) {
	from := len(m.forms)
	m.forms = append(m.forms, text,
		inner(strconv.Quote(text)), inner(strconv.QuoteToASCII(text)), inner(jsonText(text, true)), inner(jsonText(text, false)),
		strings.ReplaceAll(text, `'`, `''`), strings.ReplaceAll(text, `\`, `\\`),
		bounded.Printable(text), bounded.Lines(text),
		url.QueryEscape(text), url.PathEscape(text), strings.TrimPrefix(url.UserPassword("", text).String(), ":"),
		hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))),
	)
	m.forms = append(m.forms, base64Forms(text)...)
	// The many spellings of most texts are one and the same.
	slices.Sort(m.forms[from:])
	m.forms = m.forms[:from+len(slices.Compact(m.forms[from:]))]
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

// around returns what stands before, between and after known texts. Where known texts
// overlap, all of both is left out.
func (m *mask) around(text string) (parts []string) {
	var hits []span
	for _, form := range m.forms {
		hits = append(hits, spans(text, form)...)
	}
	var said []span
	for _, form := range m.others {
		for _, hit := range spans(text, form) {
			if said == nil {
				for _, own := range m.said {
					said = append(said, spans(text, own)...)
				}
			}
			if !slices.ContainsFunc(said, hit.within) {
				hits = append(hits, hit)
			}
		}
	}
	slices.SortFunc(hits, func(a, b span) int { return cmp.Or(a.from-b.from, b.to-a.to) })
	end := 0
	for i, hit := range hits {
		if i == 0 || hit.from >= end {
			parts = append(parts, text[end:hit.from])
		}
		end = max(end, hit.to)
	}
	return append(parts, text[end:])
}

// span is a part of a text.
type span struct{ from, to int }

func (s span) within(other span) bool { return other.from <= s.from && s.to <= other.to }

// spans returns where a text holds another, overlapping ones included.
func spans(text, part string) (all []span) {
	for from := 0; part != ""; from++ {
		at := strings.Index(text[from:], part)
		if at < 0 {
			break
		}
		from += at
		all = append(all, span{from, from + len(part)})
	}
	return all
}

// base64Forms returns what of the base64 of any text around this one is sure
// to stand there: an Authorization header encodes "user:password", in which
// the password starts at any of three alignments.
func base64Forms(text string) (forms []string) {
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		forms = append(forms, encoding.EncodeToString([]byte(text)))
		if len(text) < 2*shortest {
			continue // too little would be left between the ragged ends
		}
		for lead := range 3 {
			encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", lead) + text))
			// The first characters also encode the lead, the last may also
			// encode what follows.
			forms = append(forms, encoded[(lead*8+5)/6:(lead+len(text))*8/6])
		}
	}
	return forms
}

// jsonText writes text as a JSON string, with the escapes for <, > and & that
// some encoders add for HTML's sake, or without.
func jsonText(text string, html bool) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(html)
	_ = enc.Encode(text) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}

// inner takes the quotes off.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }

// errNoCurrent is what a secret without a first value gets.
var errNoCurrent = rotators.Permanent(errors.New("the secret has no current value: store a first, working one"))
