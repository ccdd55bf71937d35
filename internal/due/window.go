package due

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const week = 7 * 24 * time.Hour

// Window is the part of each week in which a parameter may be rotated, in UTC.
// The zero Window is any time.
type Window struct {
	openings []time.Duration // since Monday 00:00, ascending
	length   time.Duration   // an hour to a day, so that no two overlap
}

var days = []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// parseWindow reads "02:00-05:00" or "Sat Sun 22:00-02:00". The days are those
// on which the window opens.
func parseWindow(text string) (Window, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Window{}, errors.New("is empty: write 02:00-05:00 or Sat Sun 01:00-06:00, in UTC, or take the tag off")
	}
	names, times := words[:len(words)-1], words[len(words)-1]
	from, to, _ := strings.Cut(times, "-")
	start, startOK := timeOfDay(from)
	end, endOK := timeOfDay(to)
	if !startOK || !endOK || start == 24*time.Hour {
		return Window{}, fmt.Errorf("%q is no start and end: write them last and without spaces, from 00:00 to 24:00 UTC, such as 02:00-05:00 or Sat Sun 01:00-06:00", times)
	}
	w := Window{length: end - start}
	switch {
	case w.length == 0:
		return Window{}, fmt.Errorf("%s is never open: write a later end, or take the tag off to rotate at any time", times)
	case w.length < 0:
		w.length += 24 * time.Hour
	}
	if w.length < tick {
		return Window{}, fmt.Errorf("%s is open for %d minutes only, and the planner runs once an hour: make it at least an hour long", times, w.length/time.Minute)
	}
	for _, name := range names {
		day := slices.IndexFunc(days, func(d string) bool { return strings.EqualFold(d, name) })
		if day < 0 {
			return Window{}, fmt.Errorf("%q is no day: use %s, separated by spaces", name, strings.Join(days, " "))
		}
		opening := time.Duration(day)*24*time.Hour + start
		if slices.Contains(w.openings, opening) {
			return Window{}, fmt.Errorf("%s is named twice", days[day])
		}
		w.openings = append(w.openings, opening)
	}
	if len(names) == 0 {
		for day := range days {
			w.openings = append(w.openings, time.Duration(day)*24*time.Hour+start)
		}
	}
	slices.Sort(w.openings)
	return w, nil
}

// timeOfDay reads 00:00 to 24:00.
func timeOfDay(text string) (time.Duration, bool) {
	if text == "24:00" {
		return 24 * time.Hour, true
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != len("15:04") {
		return 0, false
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, true
}

// Open tells whether the window is open at now, and until when: the first
// instant at which it is closed. At any time is always open, until the zero
// time.
func (w Window) Open(now time.Time) (until time.Time, open bool) {
	if w.anyTime() {
		return time.Time{}, true
	}
	until = w.opening(w.count(now) - 1).Add(w.length)
	if !now.Before(until) {
		return time.Time{}, false
	}
	return until, true
}

// Opens returns when a window that is closed at now opens next.
func (w Window) Opens(now time.Time) time.Time { return w.opening(w.count(now)) }

func (w Window) anyTime() bool { return len(w.openings) == 0 }

// Openings are numbered from a Monday before all times there are: the zero
// time is a Monday too, which is why Truncate finds the start of a week.
var firstMonday = time.Time{}.Add(-week).Unix()

// opening returns the time of the opening with this number.
func (w Window) opening(number int64) time.Time {
	n := int64(len(w.openings))
	monday := time.Unix(firstMonday+number/n*int64(week/time.Second), 0)
	return monday.Add(w.openings[number%n]).UTC()
}

// count returns how many openings there are up to and including t, which is
// the number of the first one after t.
func (w Window) count(t time.Time) int64 {
	monday := t.Truncate(week)
	weeks := (monday.Unix() - firstMonday) / int64(week/time.Second)
	number := weeks * int64(len(w.openings))
	for _, opening := range w.openings {
		if opening <= t.Sub(monday) {
			number++
		}
	}
	return number
}

// spans returns the shortest and the longest time that it takes from an
// opening to the nth after it.
func (w Window) spans(n int64) (shortest, longest time.Duration) {
	for i := range int64(len(w.openings)) {
		span := w.opening(i + n).Sub(w.opening(i))
		if i == 0 || span < shortest {
			shortest = span
		}
		longest = max(longest, span)
	}
	return shortest, longest
}

// within returns the largest n such that from any opening to the nth after it
// takes no longer than every; 0 if the next one may already be too far.
func (w Window) within(every time.Duration) int64 {
	n := int64(every/week) * int64(len(w.openings))
	for {
		if _, longest := w.spans(n + 1); longest > every {
			return n
		}
		n++
	}
}
