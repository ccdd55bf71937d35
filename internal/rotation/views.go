package rotation

import (
	"html"
	"index/suffixarray"
	"strconv"
	"strings"
	"unicode/utf16"
)

// view is a text as a program reads it that takes escapes for what they stand for. Which
// characters are escaped, and how, differs from encoder to encoder: known texts are looked
// for where escapes are decoded, so that no list of spellings has to be complete.
type view struct {
	text string
	at   []int32 // where each byte, and the end, is in the first view; nil: at the same place

	index *suffixarray.Index
}

// deepestEscapes is how often escapes are decoded: JSON in JSON, or a URL in JSON.
const deepestEscapes = 2

// viewsOf returns a text, and every reading of it that differs.
func viewsOf(text string) []view {
	views, last := []view{{text: text, index: suffixarray.New([]byte(text))}}, 0
	for range deepestEscapes {
		from := last
		last = len(views)
		for _, v := range views[from:last] {
			for _, escape := range []escape{backslash, percent, entity} {
				if decoded, ok := v.decoded(escape); ok {
					views = append(views, decoded)
				}
			}
		}
	}
	return views
}

// place returns where a byte of the view is in the first view.
func (v view) place(i int) int {
	if v.at == nil {
		return i
	}
	return int(v.at[i])
}

// has reports whether a text stands in the view. Of the many texts that are looked for few do,
// and each look takes as long as the text, not as the view.
func (v view) has(text string) bool { return len(v.index.Lookup([]byte(text), 1)) > 0 }

// find returns where a text that is not empty begins and ends in the view, from a byte on.
func (v view) find(text string, from int) (begin, end int, ok bool) {
	at := strings.Index(v.text[from:], text)
	return from + at, from + at + len(text), at >= 0 && text != ""
}

// escape is one language's way to write a character by others: the character that begins
// every escape, and what reads one at the beginning of a text. It returns how long the escape is,
// 0 if there is none, and what the escape stands for.
type escape struct {
	mark byte
	read func(text string) (length int, meaning string)
}

// decoded is the view with its escapes decoded, if it has any.
func (v view) decoded(e escape) (out view, ok bool) {
	if strings.IndexByte(v.text, e.mark) < 0 {
		return v, false
	}
	var b strings.Builder
	b.Grow(len(v.text))
	out.at = make([]int32, 0, len(v.text)+1)
	for i := 0; i < len(v.text); {
		n, meaning := 0, ""
		if v.text[i] == e.mark {
			n, meaning = e.read(v.text[i:])
		}
		ok = ok || n > 0
		if n == 0 {
			n, meaning = 1, v.text[i:i+1]
		}
		for range len(meaning) {
			out.at = append(out.at, int32(v.place(i)))
		}
		b.WriteString(meaning)
		i += n
	}
	if !ok {
		return v, false
	}
	out.text, out.at = b.String(), append(out.at, int32(v.place(len(v.text))))
	out.index = suffixarray.New([]byte(out.text))
	return out, true
}

// backslash reads JSON's escapes, and those that Go, C and Python have besides.
var backslash = escape{'\\', func(text string) (int, string) {
	if len(text) < 2 {
		return 0, ""
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[text[1]]
	if digits == 0 {
		if i := strings.IndexByte(`"\/'bfnrtav`, text[1]); i >= 0 {
			return 2, "\"\\/'\b\f\n\r\t\a\v"[i : i+1]
		}
		return 0, ""
	}
	c, ok := hexadecimal(text, 2, digits)
	if !ok {
		return 0, ""
	}
	if digits == 2 {
		return 4, string([]byte{byte(c)})
	}
	if utf16.IsSurrogate(c) && strings.HasPrefix(text[6:], `\u`) {
		if low, ok := hexadecimal(text, 8, 4); ok {
			return 12, string(utf16.DecodeRune(c, low))
		}
	}
	return 2 + digits, string(c)
}}

// percent reads a URL's escapes.
var percent = escape{'%', func(text string) (int, string) {
	c, ok := hexadecimal(text, 1, 2)
	if !ok {
		return 0, ""
	}
	return 3, string([]byte{byte(c)})
}}

// longestEntity is how long an HTML entity is at most that is decoded: &#x10FFFF; is 10
// bytes, and programs that escape a value write few by name.
const longestEntity = 10

// entity reads the escapes of HTML and XML.
var entity = escape{'&', func(text string) (int, string) {
	end := strings.IndexByte(text[:min(len(text), longestEntity)], ';') + 1
	meaning := html.UnescapeString(text[:end])
	if meaning == text[:end] {
		return 0, ""
	}
	return end, meaning
}}

// hexadecimal reads so many hexadecimal digits.
func hexadecimal(text string, from, digits int) (rune, bool) {
	if len(text) < from+digits {
		return 0, false
	}
	c, err := strconv.ParseUint(text[from:from+digits], 16, 32)
	return rune(c), err == nil
}
