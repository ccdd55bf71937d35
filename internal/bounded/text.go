package bounded

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxText is how many bytes a text of a server's may have to be shown. The longest error
// that the three engines were seen to write for what rekey asks has 300.
const MaxText = 1 << 10

// Mark stands where a text was cut off.
const Mark = " [cut]"

// Text is what a server said, to be shown in an error in one line, and printable. Of a
// text that would be longer than MaxText it says the length alone: a part of the text
// could end in a part of a value, which nothing would know for one.
func Text(said string) string {
	if len(said) <= MaxText {
		if shown := escape(said, ""); len(shown) <= MaxText {
			return shown
		}
	}
	return fmt.Sprintf("(%d bytes, which are too many to be shown)", len(said))
}

// Lines is a text to be shown that may have lines and tabs: all else that is not
// printable is escaped.
func Lines(text string) string { return escape(text, "\n\t") }

// Printable is a text as Text and Lines spell it if they find it in a server's words.
func Printable(text string) string { return escape(text, "") }

// Cut is at most the first limit bytes of a text. If that is not all of it, Mark
// follows.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + Mark
}

// escape writes what is not printable as Go does in quotes: a terminal obeys control
// characters, a log takes a line's end for the end of an entry, and characters that
// have no width or turn the direction of writing make a text look like another.
func escape(text, keep string) string {
	var b strings.Builder
	for i, c := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		whole := text[i : i+size]
		if c == utf8.RuneError && size == 1 || !unicode.IsPrint(c) && !strings.ContainsRune(keep, c) {
			quoted := strconv.Quote(whole)
			whole = quoted[1 : len(quoted)-1]
		}
		b.WriteString(whole)
	}
	return b.String()
}
