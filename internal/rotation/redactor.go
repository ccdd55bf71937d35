package rotation

import (
	"cmp"
	"encoding/json"
	"index/suffixarray"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/internal/bounded"
	"github.com/rekeyhq/rekey/internal/readings"
	"github.com/rekeyhq/rekey/rotators"
)

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

// hidden is what stands in a text where a value stood.
const hidden = "[redacted]"

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
func (m *mask) wrote(texts ...string) {
	for _, text := range texts {
		if !slices.Contains(m.own, text) { // an attempt is loaded again before each revocation
			m.own = append(m.own, text)
		}
	}
}

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
		for _, r := range all { // also where nothing is left to look for, so that the time tells nothing
			index := suffixarray.New([]byte(strings.ToLower(r.Text)))
			has := func(text string) bool { return len(index.Lookup([]byte(strings.ToLower(text)), 1)) > 0 }
			forms = slices.DeleteFunc(forms, func(f form) bool { return f.other && (has(f.text) || has(f.known)) })
		}
	}
	return forms, true
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
	tooMuch = " (nothing of the error is shown, because the versions of this secret are together larger than rekey looks through: store a smaller value, and rotate again to see the error)"
	tooDeep = " (nothing of the error is shown, because the values of this secret have more encodings in one another than rekey looks through: store a value with fewer, and rotate again to see the error)"
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
			if slices.ContainsFunc(views, func(v view) bool { return len(v.places(f, 1)) > 0 }) {
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

// places finds where a known text stands in the view, in no order: n places at most, or all if n
// is negative. One place takes as long to find as the known text is, not as the view.
func (v view) places(f form, n int) []int {
	if f.text == "" || v.Encoded && len(f.text) < shortest {
		return nil
	}
	return v.index.Lookup([]byte(f.text), n)
}

// mark notes where a known text stands and overlaps none of another value.
func (v view) mark(f form, of []int32, begins []bool) {
	source := int32(f.source)
	places := v.places(f, -1)
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
