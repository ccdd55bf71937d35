package readings

import (
	"html"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// escape returns the read of a code of which each escape stands for one character.
func escape(read func(text string) (length int, meaning string)) func(string) (int, string, []span, bool) {
	return func(text string) (int, string, []span, bool) {
		length, meaning := read(text)
		return max(1, length), meaning, nil, length > 0
	}
}

// backslash reads JSON's escapes, and those that Go, C and Python have besides.
func backslash(text string) (int, string) {
	if text[0] != '\\' || len(text) < 2 {
		return 0, ""
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[text[1]]
	if digits == 0 {
		if i := strings.IndexByte(`"\/'bfnrtav`, text[1]); i >= 0 {
			return 2, "\"\\/'\b\f\n\r\t\a\v"[i : i+1]
		}
		return 0, ""
	}
	c, ok := number(text, 2, digits)
	if !ok {
		return 0, ""
	}
	if digits == 2 {
		return 4, string([]byte{byte(c)})
	}
	if utf16.IsSurrogate(c) && strings.HasPrefix(text[2+digits:], `\u`) {
		low, _ := number(text, 4+digits, 4)
		if pair := utf16.DecodeRune(c, low); pair != utf8.RuneError {
			return 8 + digits, string(pair)
		}
	}
	return 2 + digits, string(c)
}

// percent reads a URL's escapes.
func percent(text string) (int, string) {
	if text[0] != '%' {
		return 0, ""
	}
	c, ok := number(text, 1, 2)
	if !ok {
		return 0, ""
	}
	return 3, string([]byte{byte(c)})
}

// longestEntity is how long an entity is at most that is decoded: &#x10FFFF; has ten
// characters, and programs that escape a value write few by name.
const longestEntity = 10

// entity reads the escapes of HTML and XML.
func entity(text string) (int, string) {
	if text[0] != '&' {
		return 0, ""
	}
	end := strings.IndexByte(text[:min(len(text), longestEntity)], ';') + 1
	meaning := html.UnescapeString(text[:end])
	if meaning == text[:end] {
		return 0, ""
	}
	return end, meaning
}

// wide reads the half of UTF-16 that is zero where a text is ASCII: as nothing.
func wide(text string) (int, string) {
	if text[0] != 0 {
		return 0, ""
	}
	return 1, ""
}

// number reads hexadecimal digits.
func number(text string, from, digits int) (rune, bool) {
	if len(text) < from+digits {
		return 0, false
	}
	c, err := strconv.ParseUint(text[from:from+digits], 16, 32)
	return rune(c), err == nil
}
