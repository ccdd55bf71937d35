package watch

import (
	"fmt"
	"strings"
	"time"
)

// The measures of the drawing, in pixels.
const (
	svgWidth  = 760
	svgLeft   = 170 // where lanes begin
	svgRight  = 740 // where they end
	svgTop    = 84  // of the first lane
	svgLane   = 30  // from one lane to the next
	svgLegend = 44  // from the axis' numbers to the legend
)

// look is how a span is drawn: what readers get is thick, what is refused is red
// and, among what readers get, hatched, so that colour is not all that tells.
type look struct {
	class  string
	height int
	what   string
}

var (
	readersIn  = look{"g", 18, "accepted, and what readers get"}
	readersOut = look{"r", 18, "refused, and what readers get"}
	otherIn    = look{"h", 6, "accepted"}
	otherOut   = look{"s", 6, "refused"}
	unknown    = look{"u", 6, "cannot tell"}
)

func (s Span) look() look {
	switch {
	case s.Outcome == Unclear:
		return unknown
	case s.Outcome == Refused && s.Readers:
		return readersOut
	case s.Outcome == Refused:
		return otherOut
	case s.Readers:
		return readersIn
	}
	return otherIn
}

// SVG draws the record as a picture that needs nothing else and has a background
// of its own, for pages light and dark.
func (r *Record) SVG() string {
	from, to := r.window()
	length := max(to-from, time.Millisecond)
	x := func(at time.Duration) float64 {
		return svgLeft + float64(min(max(at, from), from+length)-from)/float64(length)*(svgRight-svgLeft)
	}
	marks := r.marks()
	bottom := svgTop + svgLane*len(r.Lanes)
	legend := bottom + svgLegend
	height := legend + 20*((len(marks)+1)/2) + 46

	var b strings.Builder
	write := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	write(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-labelledby="title desc">`, svgWidth, height)
	write(`<title id="title">%s</title>`, escape(printable(r.Name)))
	write(`<desc id="desc">%s</desc>`, escape(r.description(marks, from)))
	b.WriteString(`<style>text{font:13px system-ui,sans-serif;fill:#1f2328}.n{font-size:11px;fill:#59636e}.b{font-weight:600}` +
		`.g{fill:#1f883d}.r{fill:url(#x)}.h{fill:#6fbf83}.s{fill:#e5908f}.u{fill:#afb8c1}.l{stroke:#d1d9e0}.m{stroke:#59636e;stroke-dasharray:3 3}</style>
<defs><pattern id="x" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#cf222e"/><rect width="2" height="6" fill="#ffb3b3"/></pattern></defs>
`)
	write(`<rect x=".5" y=".5" width="%d" height="%d" rx="6" fill="#fff" stroke="#d1d9e0"/>`, svgWidth-1, height-1)
	write(`<text class="b" x="20" y="26">%s</text>`, escape(printable(r.Name)))
	write(`<text x="20" y="46">%s</text>`, escape(r.Summary()))

	for at, apart := time.Duration(0), step(length); at <= length; at += apart {
		write(`<path class="l" d="M%.1f %dV%d"/>`, x(from+at), svgTop-4, bottom)
		write(`<text class="n" x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(from+at), bottom+16, milliseconds(at))
	}
	for i := range r.Lanes {
		middle := svgTop + svgLane*i + svgLane/2
		write(`<text x="20" y="%d">%s</text>`, middle+4, escape(strings.TrimRight(fitted(r.label(i)), " ")))
		for _, s := range r.Lanes[i].drawn() {
			if s.To < from || s.From > to {
				continue
			}
			l := s.look()
			// What was short is still there to be seen.
			write(`<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d"/>`, l.class, x(s.From), middle-l.height/2, max(x(s.To)-x(s.From), 1.5), l.height)
		}
	}
	// Letters that would stand on one another stand side by side.
	free := 0.0
	for _, m := range marks {
		at := max(x(m.at), free)
		free = at + 11
		write(`<path class="m" d="M%.1f %dV%d"/><text class="b" x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(m.at), svgTop-4, bottom, at, svgTop-10, m.letter)
	}
	for i, m := range marks {
		write(`<text x="%d" y="%d"><tspan class="b">%s</tspan> %s: %s</text>`,
			20+(svgWidth-20)/2*(i%2), legend+20*(i/2), m.letter, milliseconds(m.at-from), escape(m.what))
	}
	at := 20
	for _, l := range []look{readersIn, readersOut, otherIn, otherOut, unknown} {
		y := height - 20
		write(`<rect class="%s" x="%d" y="%d" width="18" height="%d"/><text class="n" x="%d" y="%d">%s</text>`, l.class, at, y-4-l.height/2, l.height, at+24, y, l.what)
		at += 24 + 6*len(l.what) + 16
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// description is the picture in words.
func (r *Record) description(marks []mark, from time.Duration) string {
	var b strings.Builder
	for _, m := range marks {
		fmt.Fprintf(&b, "%s: %s. ", milliseconds(m.at-from), m.what)
	}
	for i, lane := range r.Lanes {
		fmt.Fprintf(&b, "%s: %s. ", r.label(i), lane.counts())
	}
	return b.String() + r.Summary()
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func escape(text string) string { return escaper.Replace(text) }
