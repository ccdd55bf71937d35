package readings

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// encoding writes bytes by characters of an alphabet, each of which stands for so many bits.
type encoding struct {
	alphabet [256]int8 // the bits that a character stands for, or -1
	bits     int
	starts   int  // how many characters make whole bytes together
	lines    bool // a word goes on in the next line, as long texts are encoded
}

// inLines is the encoding of texts that are written in several lines.
func (e encoding) inLines() encoding {
	e.lines = true
	return e
}

// base64 has both of its alphabets.
var base64 = newEncoding(6, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", "-_", 62)

var hexadecimal = newEncoding(4, "0123456789abcdef", "ABCDEF", 10)

// newEncoding has more characters stand for what those of the alphabet do from a number on.
func newEncoding(bits int, alphabet, more string, from int) (e encoding) {
	for i := range e.alphabet {
		e.alphabet[i] = -1
	}
	e.bits, e.starts = bits, 1
	for e.starts*bits%8 != 0 {
		e.starts++
	}
	for i := range len(alphabet) {
		e.alphabet[alphabet[i]] = int8(i)
	}
	for i := range len(more) {
		e.alphabet[more[i]] = int8(from + i)
	}
	return e
}

// ways returns the codes that decode words in the first way in which text comes out, in the
// second, and so on.
func (e encoding) ways() (ways []code) {
	marks := ""
	if e.lines {
		marks = "\r\n" // in one line there is nothing that the encoding within a line does not find
	}
	for n := range e.starts {
		ways = append(ways, code{marks: marks, encodes: true, read: e.nth(n)})
	}
	return ways
}

// nth returns the read of a code: it decodes a word in the nth way in which text comes out, or in
// the last if there are fewer. What stands before the encoding may look like a part of the word,
// so the encoding may begin at any of the first characters that make whole bytes together.
// A word that encodes no text stays as it is.
func (e encoding) nth(n int) func(text string) (int, string, []span, bool) {
	return func(text string) (length int, meaning string, at []span, ok bool) {
		length = e.word(text)
		begin, found := 0, 0
		for skip := 0; skip < min(e.starts, length) && found <= n; skip++ {
			var b strings.Builder
			e.decode(text[skip:length], func(c byte, _, _ int) { b.WriteByte(c) })
			if textual(b.String()) {
				begin, found = skip, found+1
				meaning = text[:skip] + b.String()
			}
		}
		if found == 0 {
			return max(1, length), "", nil, false
		}
		for i := range begin {
			at = append(at, span{int32(i), int32(i + 1)})
		}
		e.decode(text[begin:length], func(_ byte, from, to int) {
			at = append(at, span{int32(begin + from), int32(begin + to)})
		})
		return length, meaning, at, true
	}
}

// decode calls yield with each byte that a word stands for, and where its bits stand.
func (e encoding) decode(word string, yield func(c byte, begin, end int)) {
	value, bits, begin := uint(0), 0, 0
	for i := range len(word) {
		v := e.alphabet[word[i]]
		if v < 0 {
			continue // between two lines
		}
		if bits == 0 {
			begin = i
		}
		value, bits = value<<e.bits|uint(v), bits+e.bits
		if bits >= 8 {
			bits -= 8
			yield(byte(value>>bits), begin, i+1)
			begin = i
		}
	}
}

// word returns how long the word is at the beginning of a text: characters of the alphabet,
// and, of an encoding in lines, the line breaks and indentations between them.
func (e encoding) word(text string) (length int) {
	for i := 0; i < len(text); {
		if e.alphabet[text[i]] >= 0 {
			i++
			length = i
			continue
		}
		if length == 0 || !e.lines {
			break
		}
		broken := false
		for ; i < len(text) && space(text[i]); i++ {
			broken = broken || text[i] == '\n' || text[i] == '\r'
		}
		if !broken {
			break
		}
	}
	return length
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// Of what is decoded something must be text: all of it if that is short, or so many
// characters in a row. Of a thousand random bytes one in four has that by chance.
const (
	shortText = 4
	textInRow = 8
)

// textual reports whether bytes look like what somebody would have encoded.
func textual(decoded string) bool {
	row := 0
	for i, c := range decoded {
		bad := c == utf8.RuneError && !strings.HasPrefix(decoded[i:], "\uFFFD")
		if bad || unicode.IsControl(c) && c != 0 && c != '\t' && c != '\n' && c != '\r' {
			row = 0
			continue
		}
		if row += utf8.RuneLen(c); row >= textInRow {
			return true
		}
	}
	return row == len(decoded) && row >= shortText
}
