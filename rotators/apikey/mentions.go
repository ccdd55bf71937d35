package apikey

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/internal/inbase64"
	"github.com/rekeyhq/rekey/rotators"
)

// Mentions reports whether a value contains the id of a key: in its text, in the strings of
// a JSON document, in text that is escaped for URLs, or in base64, one in the other down to
// four levels. An id of 16 characters or more is found in base64 wherever that stands; a
// shorter one if the base64 is all of the text, or all of a string of the document. A key
// is kept for what Mentions finds, so that a chance match costs nothing but a key too many.
func Mentions(v rotators.Secret, id string) bool {
	return id != "" && mentions(v.Reveal(), finder(id), deepest)
}

// deepest is how many encodings may lie in one another: a manifest of Kubernetes has a
// file in base64, and that has JSON. Whoever writes a value could else have each level
// cost more.
const deepest = 4

func mentions(text string, found func(string) bool, depth int) bool {
	if found(text) {
		return true
	}
	if depth == 0 {
		return false
	}
	var document any
	if json.Unmarshal([]byte(text), &document) == nil {
		return anyString(document, func(s string) bool { return mentions(s, found, depth-1) })
	}
	for _, decode := range []func(string) (string, error){url.QueryUnescape, fromBase64(base64.StdEncoding), fromBase64(base64.URLEncoding)} {
		if decoded, err := decode(text); err == nil && decoded != text && mentions(decoded, found, depth-1) {
			return true
		}
	}
	return false
}

// long is from how many characters an id is found within a longer word, too. An escape
// before the id, such as the n of \n, looks like a part of the word. Shorter ids, such as
// key-1, stand in other ids, such as key-10.
const long = 16

// finder returns a function that reports whether a text contains an id; a short one not as
// a part of a longer word.
func finder(id string) func(text string) bool {
	if len(id) >= long {
		forms := append(inbase64.Cores(id), id)
		return func(text string) bool {
			return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) })
		}
	}
	word := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	return func(text string) bool {
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
}

// anyString reports whether found is true of a string of a decoded JSON document, the
// names of its members included.
func anyString(document any, found func(string) bool) bool {
	switch d := document.(type) {
	case string:
		return found(d)
	case []any:
		for _, member := range d {
			if anyString(member, found) {
				return true
			}
		}
	case map[string]any:
		for name, member := range d {
			if found(name) || anyString(member, found) {
				return true
			}
		}
	}
	return false
}

// fromBase64 decodes a text, with padding and line breaks or without.
func fromBase64(encoding *base64.Encoding) func(string) (string, error) {
	return func(text string) (string, error) {
		decoded, err := encoding.WithPadding(base64.NoPadding).DecodeString(strings.TrimRight(strings.Join(strings.Fields(text), ""), "="))
		return string(decoded), err
	}
}
