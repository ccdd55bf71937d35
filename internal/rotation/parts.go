package rotation

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/rotators"
)

// parts are the texts that a value consists of.
type parts struct {
	forms  []form
	looked map[string]int // how deep texts were looked into
}

// deepest is how deep values are looked for in values: a URL in a field of an object in a
// text. Whoever writes a value could else have each level double the work.
const deepest = 3

// shortest is the length from which a field is masked. Shorter ones are no
// secrets, and hiding every "eu" or "yes" would make an error unreadable. The
// password is masked whatever its length.
const shortest = 4

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
