// Package due decides when a parameter is rotated: from its tags, its last
// change and the time, and from nothing else. It is for the planner, and for
// the commands that show what the planner will do.
package due

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/rekeyhq/rekey/internal/rotation"
	"github.com/rekeyhq/rekey/rotators"
)

const (
	// tick is how often the planner runs.
	tick = time.Hour
	// lead is how long before the end of its period a parameter without a
	// window comes due at the latest: the planner acts up to a tick after
	// that, and has another tick when the first one fails.
	lead = 2 * tick

	// The shortest and the longest period are those of Secrets Manager's
	// schedules.
	shortest = 4 * time.Hour
	longest  = 999 * 24 * time.Hour

	// defaultGrace is how long the previous of two passwords stays valid where
	// rekey:grace says nothing.
	defaultGrace = 24 * time.Hour
)

// Schedule is what a parameter's tags say about when it is rotated.
type Schedule struct {
	Every  time.Duration // rekey:every, a whole number of hours
	Window Window        // rekey:window
	// Grace is how long the previous credential stays valid after a rotation:
	// rekey:grace or what is usual for the strategy. Negative: for good.
	Grace  time.Duration
	Stage  string // rekey:stage; "" if the tag is absent
	Paused bool   // rekey:paused
}

// Read decodes the tags of a parameter: its schedule, and with
// [rotation.ReadTags] everything else that rekey reads, so that what is wrong
// with any tag is known before the parameter is queued. The error is permanent
// and names every tag that is wrong and what to write instead. Next to an error
// only Stage and Paused are of use: they tell whose the broken parameter is.
func Read(tags map[string]string) (Schedule, rotation.Tags, error) {
	t, err := rotation.ReadTags(tags)
	problems := []error{err}
	read := func(name string, decode func(value string, present bool) error) bool {
		key := rotation.TagPrefix + name
		value, present := tags[key]
		err := decode(value, present)
		if err != nil {
			problems = append(problems, fmt.Errorf("tag %s: %w", key, err))
		}
		return err == nil
	}

	s := Schedule{Grace: Grace(t.Settings)}
	read("rotator", func(_ string, present bool) error {
		if !present {
			return errors.New("is missing: name a rotator, such as postgres; only a parameter with this tag is rotated")
		}
		return nil
	})
	everyOK := read("every", func(value string, present bool) (err error) {
		if !present {
			return errors.New("is missing: write how often to rotate, such as 30d or 12h")
		}
		s.Every, err = parseEvery(value)
		return err
	})
	windowOK := read("window", func(value string, present bool) (err error) {
		if present {
			s.Window, err = parseWindow(value)
		}
		return err
	})
	read("stage", func(value string, present bool) error {
		if present && (value == "" || strings.ContainsFunc(value, unicode.IsSpace)) {
			return fmt.Errorf("%q is no stage: write one word, such as prod", value)
		}
		s.Stage = value
		return nil
	})
	read("paused", func(value string, present bool) error {
		if present && value != "yes" && value != "no" {
			return fmt.Errorf("%q is neither yes nor no", value)
		}
		s.Paused = value == "yes"
		return nil
	})
	if everyOK && windowOK {
		problems = append(problems, s.check())
	}
	return s, t, rotators.Permanent(errors.Join(problems...))
}

// check tells whether the tags that are right one by one go together.
func (s Schedule) check() error {
	if !s.Window.anyTime() && s.Window.within(s.Every) == 0 {
		_, apart := s.Window.spans(1)
		return fmt.Errorf("tags rekey:every, rekey:window: the window opens up to %[1]s apart, and the period is %[2]s: write rekey:every=%[1]s or longer, or a window that opens more often, or none",
			period(apart), period(s.Every))
	}
	if least := s.least(); s.Grace >= least {
		return fmt.Errorf("tags rekey:every, rekey:grace: with a period of %s, rotations can be %s apart, and the previous credential stays valid for %s: lengthen rekey:every or shorten rekey:grace",
			period(s.Every), period(least), period(s.Grace))
	}
	return nil
}

// least is the shortest time from one scheduled rotation to the next.
func (s Schedule) least() time.Duration {
	if s.Window.anyTime() {
		return s.Every - lead
	}
	least, _ := s.Window.spans(s.Window.within(s.Every))
	return least
}

// Due returns when the parameter with this ARN, last changed then, comes due:
// after changed, and not after changed and the period. The planner rotates it
// at its first tick from then on at which the window is open.
//
// The hash of the ARN spreads what was created on one day over the whole first
// period, and so over every later one: time is divided into slots, and a
// parameter has its own. Without a window its slots are two hours less than the
// period apart, so that the planner's next tick, or the one after, is never too
// late. With a window it comes due as one opens, at every nth opening, n being
// as many as a period is sure to hold.
func (s Schedule) Due(arn string, changed time.Time) time.Time {
	sum := sha256.Sum256([]byte(arn))
	hash := binary.BigEndian.Uint64(sum[:])
	if s.Window.anyTime() {
		apart := s.Every - lead
		offset := time.Duration(hash % uint64(apart))
		return changed.UTC().Add(apart - offset).Truncate(apart).Add(offset)
	}
	apart := s.Window.within(s.Every)
	own := int64(hash % uint64(apart))
	next := s.Window.count(changed)
	return s.Window.opening(next + (own-next%apart+apart)%apart)
}

// Deadline returns when a parameter last changed then is overdue: at the end
// of its period, or, if the window is open at that time, as it closes. The
// second is for periods of exactly so many openings, such as 7d with a window
// on Saturdays, where nobody can be earlier and a planner is minutes later.
func (s Schedule) Deadline(changed time.Time) time.Time {
	end := changed.Add(s.Every).UTC()
	if until, open := s.Window.Open(end); open && !until.IsZero() {
		return until
	}
	return end
}

func parseEvery(text string) (time.Duration, error) {
	every, err := rotation.ParsePeriod(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no period: write a whole number of days or hours, such as 30d or 12h", text)
	case strings.HasSuffix(text, "m"):
		return 0, fmt.Errorf("%q is in minutes, and the planner runs once an hour: write days or hours, such as 30d or 12h", text)
	case every < shortest:
		return 0, fmt.Errorf("%q is too short: write %s or longer", text, period(shortest))
	case every > longest:
		return 0, fmt.Errorf("%q is too long: write %s or shorter", text, period(longest))
	}
	return every, nil
}

// Grace is how long the previous of two passwords stays valid, as the settings say;
// negative if they do not.
func Grace(settings rotators.Settings) time.Duration {
	if settings.Grace < 0 && settings.Strategy == "overlap" {
		return defaultGrace
	}
	return settings.Grace
}

// period writes a length of time as tags do.
func period(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dm", d/time.Minute)
}
