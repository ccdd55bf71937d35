package apikey

import (
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/internal/readings"
	"github.com/rekeyhq/rekey/rotators"
)

// Mentions reports whether a value contains the id of a key, however the id is written: as it
// is, behind escapes of JSON, URLs or HTML, in base64, in hexadecimal digits, in UTF-16, and in
// one of these in the other down to four levels. A key is kept for what Mentions finds, so that a
// chance match costs nothing but a key too many. For the same reason Mentions is true of a value that has
// too many such readings to look through, two megabytes.
func Mentions(v rotators.Secret, id string) bool {
	if id == "" {
		return false
	}
	all, complete := readings.Of(v.Reveal(), deepest)
	return !complete || slices.ContainsFunc(all, func(r readings.Reading) bool { return mentions(r.Text, id) })
}

// deepest is how many encodings may lie in one another: a manifest of Kubernetes has a
// file in base64, and that has JSON.
const deepest = 4

// long is from how many characters an id is found within a longer word, too. An escape
// before the id, such as the n of \n, looks like a part of the word. Shorter ids, such as
// key-1, stand in other ids, such as key-10.
const long = 16

// mentions reports whether a text contains an id; a short one not as a part of a longer word.
func mentions(text, id string) bool {
	if len(id) >= long {
		return strings.Contains(text, id)
	}
	word := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	for from := 0; ; from++ {
		at := strings.Index(text[from:], id)
		if at < 0 {
			return false
		}
		from += at
		end := from + len(id)
		if (from == 0 || !word(text[from-1])) && (end == len(text) || !word(text[end])) {
			return true
		}
	}
}
