package watch

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Record is what was seen. All times are since the watch began. It holds user
// names and no other part of a credential.
type Record struct {
	Name  string        // of what was watched
	Lanes []Lane        // one per credential, in the order in which they were first seen
	End   time.Duration // when it was last looked
	Notes []string      // what was not seen, and why

	// Tried and those below count the logins of the application that this
	// package's comment describes, and no others.
	Tried, Refused, Unclear int
	// Gaps is how often that application was locked out, and Longest for how long
	// at most: from the end of the last login that was accepted, or the start of
	// the first refused one if there was none before, to the end of the first that
	// was accepted again.
	Gaps    int
	Longest time.Duration

	out        bool // the last login told of was refused
	outSince   time.Duration
	acceptedAt time.Duration // end of the last accepted login; -1: none yet
}

// Lane is one credential.
type Lane struct {
	User  string
	New   bool // an earlier lane has the same user
	Spans []Span

	// All logins with it, whoever got it from where.
	Accepted, Refused, Unclear int
}

// Span is a row of logins with one credential that had one outcome.
type Span struct {
	From, To time.Duration // from the start of the first to the end of the last
	Outcome  Outcome
	Readers  bool // readers got this credential, and the logins were the application's
}

// Outcome is what a login told.
type Outcome int

const (
	Unclear Outcome = iota // nothing: no network, no time, no connection left
	Accepted
	Refused // the target itself said that the credential is wrong
)

// Login is one login.
type Login struct {
	Lane     int
	From, To time.Duration
	Outcome  Outcome
	Readers  bool // it is the application's, which had just read this credential
}

// NewRecord returns one in which nothing was seen.
func NewRecord(name string) *Record { return &Record{Name: name, acceptedAt: -1} }

// AddLane adds a credential and returns its lane.
func (r *Record) AddLane(user string) int {
	r.Lanes = append(r.Lanes, Lane{
		User: user, New: slices.ContainsFunc(r.Lanes, func(l Lane) bool { return l.User == user }),
	})
	return len(r.Lanes) - 1
}

// apart is from which length on a time in which nothing was tried is left open in
// a lane: nobody knows what was the case.
const apart = time.Second

// Add adds a login. Those of the application come in their order. It tells
// whether something is other than it was.
func (r *Record) Add(l Login) (changed bool) {
	r.End = max(r.End, l.To)
	lane := &r.Lanes[l.Lane]
	switch l.Outcome {
	case Accepted:
		lane.Accepted++
	case Refused:
		lane.Refused++
	default:
		lane.Unclear++
	}
	if l.Readers {
		r.count(l)
	}
	if n := len(lane.Spans); n > 0 {
		last := &lane.Spans[n-1]
		if last.Outcome == l.Outcome && last.Readers == l.Readers && l.From-last.To < apart {
			last.To = max(last.To, l.To)
			return false
		}
		if l.From < last.From || last.Readers && !l.Readers && l.From < last.To {
			return false // it began before what is known since, and is late to tell
		}
	}
	lane.Spans = append(lane.Spans, Span{l.From, l.To, l.Outcome, l.Readers})
	return true
}

func (r *Record) count(l Login) {
	r.Tried++
	switch l.Outcome {
	case Unclear:
		r.Unclear++
	case Refused:
		r.Refused++
		if !r.out {
			r.out, r.outSince = true, r.acceptedAt
			if r.acceptedAt < 0 {
				r.outSince = l.From
			}
			r.Gaps++
		}
		r.Longest = max(r.Longest, l.To-r.outSince)
	case Accepted:
		if r.out {
			r.out, r.Longest = false, max(r.Longest, l.To-r.outSince)
		}
		r.acceptedAt = l.To
	}
}

// Summary says in a sentence how the application fared.
func (r *Record) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Of %s with what readers got, ", count(r.Tried, "login"))
	switch {
	case r.Refused == 0:
		b.WriteString("none was refused")
	case r.Gaps == 1:
		fmt.Fprintf(&b, "%s refused, in a gap of %s", number(r.Refused), milliseconds(r.Longest))
	default:
		fmt.Fprintf(&b, "%s refused, in %d gaps, the longest of %s", number(r.Refused), r.Gaps, milliseconds(r.Longest))
	}
	if r.out {
		b.WriteString(" that had not ended")
	}
	if r.Unclear > 0 {
		fmt.Fprintf(&b, ", and of %s nothing is known", number(r.Unclear))
	}
	return b.String() + "."
}

// mark is a moment at which something was seen for the first time.
type mark struct {
	at     time.Duration
	letter string
	what   string
}

// marks finds them, in their order.
func (r *Record) marks() []mark {
	var marks []mark
	for i, lane := range r.Lanes {
		name := r.label(i)
		got, was := false, Unclear // readers got it before; the last clear outcome
		for n, s := range lane.Spans {
			pending := !got && !s.Readers
			if n == 0 && pending {
				marks = append(marks, mark{s.From, "C", name + " is stored, pending"})
			}
			switch {
			case pending && s.Outcome == Accepted && was != Accepted:
				marks = append(marks, mark{s.From, "S", name + " is accepted"})
			case got && !s.Readers && s.Outcome == Refused && was == Accepted:
				marks = append(marks, mark{s.From, "R", name + " is refused"})
			}
			got = got || s.Readers
			if s.Outcome != Unclear {
				was = s.Outcome
			}
		}
	}
	before := -1
	for _, s := range r.read() {
		if before >= 0 && s.lane != before {
			marks = append(marks, mark{s.From, "P", "readers get " + r.label(s.lane)})
		}
		before = s.lane
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return int(a.at - b.at) })
	return marks
}

// readSpan is a span in which readers got the credential of a lane.
type readSpan struct {
	Span
	lane int
}

func (r *Record) read() []readSpan {
	var read []readSpan
	for i, lane := range r.Lanes {
		for _, s := range lane.Spans {
			if s.Readers {
				read = append(read, readSpan{s, i})
			}
		}
	}
	slices.SortStableFunc(read, func(a, b readSpan) int { return int(a.From - b.From) })
	return read
}

// label names a credential by its place and its user.
func (r *Record) label(i int) string {
	text := fmt.Sprint(i+1, " ", printable(r.Lanes[i].User))
	if r.Lanes[i].New {
		text += " (new)"
	}
	return text
}

// window is the time that is worth drawing: what changed, and a little around it.
// If nothing changed it is all there is.
func (r *Record) window() (from, to time.Duration) {
	var points []time.Duration
	for _, m := range r.marks() {
		points = append(points, m.at)
	}
	for _, s := range r.read() {
		if s.Outcome == Refused {
			points = append(points, s.From, s.To)
		}
	}
	if len(points) == 0 {
		return 0, r.End
	}
	from, to = slices.Min(points), slices.Max(points)
	around := max((to-from)/5, 100*time.Millisecond)
	return max(0, from-around), min(r.End, to+around)
}

// drawn are a lane's spans as they are drawn: each lasts until the next one
// begins, unless nothing was tried for a while.
func (l *Lane) drawn() []Span {
	spans := slices.Clone(l.Spans)
	for i := range spans[:max(0, len(spans)-1)] {
		if next := spans[i+1].From; next-spans[i].To < apart {
			spans[i].To = next
		}
	}
	return spans
}

// step is how far apart the lines of the axis are, so that there are five or a few
// less: 1, 2 or 5 with zeros.
func step(length time.Duration) time.Duration {
	const most = 5
	for unit := time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if length/(n*unit) <= most {
				return n * unit
			}
		}
	}
}

func milliseconds(d time.Duration) string {
	return number(int(d.Round(time.Millisecond)/time.Millisecond)) + " ms"
}

// number writes 12345 as 12,345.
func number(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return number(n) + " " + what
}

// printable keeps a name from doing anything to a terminal, and in sight.
func printable(name string) string {
	const most = 80
	runes := []rune(strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return '?'
	}, name))
	if len(runes) > most {
		runes = append(runes[:most-1], '…')
	}
	return string(runes)
}
