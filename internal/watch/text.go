package watch

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The drawing is 80 columns wide.
const (
	labelWidth = 22
	laneWidth  = 58
)

// Text draws the record for a terminal.
func (r *Record) Text() string {
	var b strings.Builder
	line := func(label, rest string) {
		b.WriteString(strings.TrimRight(fitted(label)+rest, " ") + "\n")
	}
	from, to := r.window()
	// A column is the time from its start to before the next one's.
	column := func(at time.Duration) int {
		if to <= from {
			return 0
		}
		return min(laneWidth-1, int(int64(at-from)*laneWidth/int64(to-from)))
	}
	marks := r.marks()

	fmt.Fprintf(&b, "%s\n\n", printable(r.Name))
	letters := []byte(strings.Repeat(" ", laneWidth))
	for _, m := range marks {
		// What falls into one column stands side by side.
		at := column(m.at)
		for at < laneWidth-1 && letters[at] != ' ' {
			at++
		}
		letters[at] = m.letter[0]
	}
	if len(marks) > 0 {
		line("", string(letters))
	}
	for i := range r.Lanes {
		cells := []byte(strings.Repeat(" ", laneWidth))
		for _, s := range r.Lanes[i].drawn() {
			if s.To < from || s.From > to {
				continue
			}
			for c := column(max(s.From, from)); c <= column(min(s.To, to)); c++ {
				if sign := s.sign(); strings.IndexByte(signs, sign) > strings.IndexByte(signs, cells[c]) {
					cells[c] = sign
				}
			}
		}
		line(r.label(i), string(cells))
	}
	axis := []byte(strings.Repeat(" ", laneWidth))
	for at := time.Duration(0); at <= to-from; at += step(to - from) {
		text := milliseconds(at)
		if c := column(from + at); c+len(text) <= laneWidth {
			copy(axis[c:], text)
		}
	}
	line("", string(axis))

	b.WriteString(`
  # accepted, readers get it    X refused, readers get it
  = accepted                    - refused                    ? cannot tell

`)
	for _, m := range marks {
		fmt.Fprintf(&b, "  %s %9s  %s\n", m.letter, milliseconds(m.at-from), m.what)
	}
	if len(marks) > 0 {
		b.WriteString("\n")
	}
	for i, lane := range r.Lanes {
		fmt.Fprintf(&b, "%s: %s\n", r.label(i), lane.counts())
	}
	b.WriteString(r.Summary() + "\n")
	for _, note := range r.Notes {
		b.WriteString(note + "\n")
	}
	return b.String()
}

// signs are what a column of a lane can show, the most telling last: that is what
// it shows of several.
const signs = " ?=-#X"

func (s Span) sign() byte {
	switch {
	case s.Outcome == Unclear:
		return '?'
	case s.Outcome == Refused && s.Readers:
		return 'X'
	case s.Outcome == Refused:
		return '-'
	case s.Readers:
		return '#'
	}
	return '='
}

// counts says how often a credential was tried.
func (l *Lane) counts() string {
	text := fmt.Sprintf("%s accepted, %s refused", count(l.Accepted, "login"), number(l.Refused))
	if l.Unclear > 0 {
		text += fmt.Sprintf("; of %s nothing is known", number(l.Unclear))
	}
	return text
}

// fitted makes a label as wide as its column.
func fitted(label string) string {
	runes := []rune(label)
	if len(runes) > labelWidth-2 {
		runes = slices.Concat(runes[:labelWidth-3], []rune("…"))
	}
	return string(runes) + strings.Repeat(" ", labelWidth-len(runes))
}
