// Package readings finds a text however it is written: as it is, behind escapes of JSON, URLs
// or HTML, in base64, in hexadecimal digits, in UTF-16, and in one of these within another.
// Which characters are escaped, and how, differs from program to program. So a text is
// decoded and then searched; no list of spellings has to be complete.
package readings

import "strings"

// Reading is a text, or what a text stands for where escapes or an encoding are decoded.
type Reading struct {
	Text string
	// Encoded reports whether base64 or hexadecimal digits were decoded. Some words
	// look like these, so that two or three characters may stand there by chance.
	Encoded bool

	at []span // where each byte is in the text that was read; nil: at the same place
}

// span is where in a text something is: from a byte up to before another.
type span struct{ begin, end int32 }

// Place returns where a piece of the reading that is not empty is in the text that was read.
func (r Reading) Place(begin, end int) (from, to int) {
	if r.at == nil {
		return begin, end
	}
	return int(r.at[begin].begin), int(r.at[end-1].end)
}

// maxRead is how many bytes all readings of a text may have together: 32 of the largest
// value, of 64 KiB. Whoever writes a text could else have each decoding multiply the work.
const maxRead = 2 << 20

// Of returns a text and its readings, those first that took the fewest decodings, and depth at
// most. It is not complete if there are more readings than have maxRead bytes.
func Of(text string, depth int) (all []Reading, complete bool) {
	all = []Reading{{Text: text}}
	seen := map[string]bool{text: true}
	read, last := 0, 0
	for range depth {
		from := last
		last = len(all)
		for _, r := range all[from:last] {
			for _, ways := range codes {
				for _, c := range ways {
					next, ok := r.decoded(c)
					if !ok || seen[next.Text] {
						break // nor does the next way give anything new
					}
					if read += len(next.Text); read > maxRead {
						return all, false
					}
					seen[next.Text] = true
					all = append(all, next)
				}
			}
		}
	}
	return all, true
}

// code is one way to write characters by others.
type code struct {
	marks   string // a text without any of these characters has nothing to decode; "": any text may have
	encodes bool   // is an encoding, and not escapes
	// read decodes the beginning of a text that is not empty. length is the number of bytes
	// read, at least 1; meaning is the text that these bytes stand for; at is the place of each
	// byte of the meaning, nil if each stands for all of them. ok is false where nothing is to be decoded.
	read func(text string) (length int, meaning string, at []span, ok bool)
}

// codes are the escapes, each of which is read in one way, and the encodings, of which a word
// may make text in several.
var codes = [][]code{
	{{marks: `\`, read: escape(backslash)}},
	{{marks: "%", read: escape(percent)}},
	{{marks: "&", read: escape(entity)}},
	{{marks: "\x00", read: escape(wide)}},
	base64.ways(),
	base64.inLines().ways(),
	hexadecimal.ways(),
	hexadecimal.inLines().ways(),
}

// decoded returns the reading with all decoded that a code has written, if there is any.
func (r Reading) decoded(c code) (next Reading, any bool) {
	if c.marks != "" && !strings.ContainsAny(r.Text, c.marks) {
		return r, false
	}
	var b strings.Builder
	for i := 0; i < len(r.Text); {
		length, meaning, at, ok := c.read(r.Text[i:])
		if ok && !any {
			any = true
			next = Reading{Encoded: r.Encoded || c.encodes, at: make([]span, 0, len(r.Text))}
			next.copy(&b, r, 0, i)
		}
		switch {
		case ok:
			b.WriteString(meaning)
			for j := range len(meaning) {
				begin, end := 0, length
				if at != nil {
					begin, end = int(at[j].begin), int(at[j].end)
				}
				next.append(r, i+begin, i+end)
			}
		case any:
			next.copy(&b, r, i, i+length)
		}
		i += length
	}
	next.Text = b.String()
	return next, any
}

// copy appends a piece of another reading as it is.
func (r *Reading) copy(b *strings.Builder, of Reading, begin, end int) {
	b.WriteString(of.Text[begin:end])
	for i := begin; i < end; i++ {
		r.append(of, i, i+1)
	}
}

func (r *Reading) append(of Reading, begin, end int) {
	begin, end = of.Place(begin, end)
	r.at = append(r.at, span{int32(begin), int32(end)})
}
