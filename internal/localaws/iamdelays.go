package localaws

import "time"

// IAMDelays are how long it takes until what was written to IAM is known
// everywhere; 0: no time. AWS documents that it takes some and leaves open how
// long: 10 to 15 seconds are seen.
//
// For the first half of a delay all that look find what was there before. In the
// second half what they find flaps: the 1st, 3rd, 6th, 10th, ... look finds what
// was there before and the others what was written, so that a row of successes
// of any length may be followed by a failure. When the delay is over, nobody
// finds anything old. What is written during a delay begins a new one, before
// whose end nothing in between is found.
type IAMDelays struct {
	// Keys is the time until the services, IAM and STS among them, accept a key
	// that was created or activated, and refuse one that was made inactive or
	// deleted.
	Keys time.Duration
	// Reads is the time until ListAccessKeys, ListUserTags and GetUser show what
	// was written. The limits always count what is really there.
	Reads time.Duration
}

// written is something that was written, and what was there before until all know.
type written[T any] struct {
	value, before T
	at, until     time.Time
	looks         int // since the flapping began
}

func (w *written[T]) write(value T, now time.Time, delay time.Duration) {
	if !now.Before(w.until) {
		w.before = w.value
	}
	w.value, w.at, w.until, w.looks = value, now, now.Add(delay), 0
}

func (w *written[T]) look(now time.Time) T {
	switch {
	case !now.Before(w.until):
		return w.value
	case now.Sub(w.at) < w.until.Sub(w.at)/2:
		return w.before
	}
	w.looks++
	rest := w.looks
	for row := 1; rest > 0; row++ {
		rest -= row
	}
	if rest == 0 {
		return w.before
	}
	return w.value
}
