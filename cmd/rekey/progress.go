package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
)

// progress tells somebody who waits how far the work is: on a terminal in one
// line that is written over and over, elsewhere in a line per thousand.
type progress struct {
	w        io.Writer
	terminal bool
	width    int // of what the terminal's line holds
}

func newProgress(w io.Writer) *progress {
	w = rawly(w) // texts of ours and numbers only
	p := &progress{w: w}
	if file, ok := w.(*os.File); ok {
		info, err := file.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// part begins a part of the work and returns what is told how much of it is done.
// A total of 0 is not known.
func (p *progress) part(doing string, total int) (tell func(done int)) {
	const step = 1000
	said := 0
	return func(done int) {
		text := doing + ": " + number(done)
		if total > 0 {
			text += " of " + number(total)
		}
		switch {
		case p.terminal:
			fmt.Fprintf(p.w, "\r%-*s", p.width, text)
			p.width = len(text)
		case done/step > said/step:
			fmt.Fprintln(p.w, text)
			said = done
		}
	}
}

// clear empties the terminal's line.
func (p *progress) clear() {
	if p.width > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.width, "")
		p.width = 0
	}
}

// number writes 12345 as 12,345.
func number(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
