// Package inbase64 finds a text within the base64 of a longer one.
package inbase64

import (
	"encoding/base64"
	"strings"
)

// Encodings are the two alphabets of base64, without padding.
var Encodings = []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding}

// Cores returns what of the base64 of any text around this one is sure to stand there, in
// both alphabets: the text may begin at any of three alignments. The first characters also
// encode what stands before the text, and the last may also encode what follows.
func Cores(text string) (cores []string) {
	for _, encoding := range Encodings {
		for lead := range 3 {
			encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", lead) + text))
			cores = append(cores, encoded[(lead*8+5)/6:(lead+len(text))*8/6])
		}
	}
	return cores
}
