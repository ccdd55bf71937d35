package due

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/rotators"
)

// tagged returns the tags of a parameter with these changes, each as
// name=value, or name alone to leave that tag out.
func tagged(changes ...string) map[string]string {
	tags := map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d", "Team": "shop"}
	for _, change := range changes {
		name, value, set := strings.Cut(change, "=")
		if delete(tags, "rekey:"+name); set {
			tags["rekey:"+name] = value
		}
	}
	return tags
}

// schedule reads tags that must be right.
func schedule(t testing.TB, changes ...string) Schedule {
	t.Helper()
	s, _, err := Read(tagged(changes...))
	if err != nil {
		t.Fatalf("%s: %v", changes, err)
	}
	return s
}

func arn(i int) string {
	return fmt.Sprintf("arn:aws:ssm:us-east-1:000000000000:parameter/shop/%d/password", i)
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse("Mon 2006-01-02 15:04:05", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestReadAccepts(t *testing.T) {
	for _, changes := range []string{
		"every=4h", "every=12h", "every=30d", "every=999d", "every=23976h",
		"window=02:00-05:00", "window=Sat Sun 01:00-06:00", "window=sat SUN  01:00-06:00", "window=Sun Mon 22:00-02:00",
		"window=00:00-24:00", "window=22:00-00:00", "window=23:00-24:00", "window=00:30-00:00", "window=02:00-01:59", "window=02:17-03:17",
		"every=1d window=02:00-05:00", "every=7d window=Sat 01:00-06:00", "every=6d window=Sat Sun 01:00-06:00", "every=3d window=Mon Tue Wed Thu Fri 01:00-06:00",
		"paused=yes", "paused=no", "stage=prod", "stage=eu-1/blue", "admin-for=/shop/ /other/",
		"grace=29d", "every=27h strategy=overlap", "every=25h strategy=overlap grace=22h", "every=4h strategy=overlap grace=0m", "every=4h", "every=8d window=Sat 01:00-06:00 grace=6d",
		"retire=3", "connection=postgres://app@db:5432/shop",
	} {
		if _, _, err := Read(tagged(split(changes)...)); err != nil {
			t.Errorf("%s: %v", changes, err)
		}
	}
}

// split takes "every=1d window=Sat 01:00-06:00" apart.
func split(changes string) (tags []string) {
	for word := range strings.SplitSeq(changes, " ") {
		if len(tags) > 0 && !strings.Contains(word, "=") {
			tags[len(tags)-1] += " " + word
			continue
		}
		tags = append(tags, word)
	}
	return tags
}

func TestReadRefuses(t *testing.T) {
	const (
		noTimes = ` is no start and end: write them last and without spaces, from 00:00 to 24:00 UTC, such as 02:00-05:00 or Sat Sun 01:00-06:00`
		noDay   = ` is no day: use Mon Tue Wed Thu Fri Sat Sun, separated by spaces`
	)
	for _, c := range []struct {
		change, want string
	}{
		{"rotator", `tag rekey:rotator: is missing: name a rotator, such as postgres; only a parameter with this tag is rotated`},
		{"rotator=", `tag rekey:rotator: is empty: name a rotator, such as postgres`},

		{"every", `tag rekey:every: is missing: write how often to rotate, such as 30d or 12h`},
		{"every=", `tag rekey:every: "" is no period: write a whole number of days or hours, such as 30d or 12h`},
		{"every=monthly", `tag rekey:every: "monthly" is no period: write a whole number of days or hours, such as 30d or 12h`},
		{"every=30", `tag rekey:every: "30" is no period: write a whole number of days or hours, such as 30d or 12h`},
		{"every=-30d", `tag rekey:every: "-30d" is no period: write a whole number of days or hours, such as 30d or 12h`},
		{"every=1.5d", `tag rekey:every: "1.5d" is no period: write a whole number of days or hours, such as 30d or 12h`},
		{"every=90m", `tag rekey:every: "90m" is in minutes, and the planner runs once an hour: write days or hours, such as 30d or 12h`},
		{"every=0d", `tag rekey:every: "0d" is too short: write 4h or longer`},
		{"every=3h", `tag rekey:every: "3h" is too short: write 4h or longer`},
		{"every=1000d", `tag rekey:every: "1000d" is too long: write 999d or shorter`},
		{"every=23977h", `tag rekey:every: "23977h" is too long: write 999d or shorter`},

		{"window=", `tag rekey:window: is empty: write 02:00-05:00 or Sat Sun 01:00-06:00, in UTC, or take the tag off`},
		{"window=nightly", `tag rekey:window: "nightly"` + noTimes},
		{"window=Sat Sun", `tag rekey:window: "Sun"` + noTimes},
		{"window=01:00-06:00 Sat", `tag rekey:window: "Sat"` + noTimes},
		{"window=02:00 - 05:00", `tag rekey:window: "05:00"` + noTimes},
		{"window=2:00-5:00", `tag rekey:window: "2:00-5:00"` + noTimes},
		{"window=02-05", `tag rekey:window: "02-05"` + noTimes},
		{"window=02:00-25:00", `tag rekey:window: "02:00-25:00"` + noTimes},
		{"window=02:00-24:01", `tag rekey:window: "02:00-24:01"` + noTimes},
		{"window=24:00-02:00", `tag rekey:window: "24:00-02:00"` + noTimes},
		{"window=02:00-05:00-06:00", `tag rekey:window: "02:00-05:00-06:00"` + noTimes},
		{"window=Saturday 01:00-06:00", `tag rekey:window: "Saturday"` + noDay},
		{"window=Sat/Sun 01:00-06:00", `tag rekey:window: "Sat/Sun"` + noDay},
		{"window=01:00-02:00 04:00-06:00", `tag rekey:window: "01:00-02:00"` + noDay},
		{"window=Sat Sun SAT 01:00-06:00", `tag rekey:window: Sat is named twice`},
		{"window=02:00-02:00", `tag rekey:window: 02:00-02:00 is never open: write a later end, or take the tag off to rotate at any time`},
		{"window=02:00-02:59", `tag rekey:window: 02:00-02:59 is open for 59 minutes only, and the planner runs once an hour: make it at least an hour long`},
		{"window=23:50-00:20", `tag rekey:window: 23:50-00:20 is open for 30 minutes only, and the planner runs once an hour: make it at least an hour long`},

		{"every=1d window=Sat 01:00-06:00", `tags rekey:every, rekey:window: the window opens up to 7d apart, and the period is 1d: write rekey:every=7d or longer, or a window that opens more often, or none`},
		{"every=12h window=02:00-05:00", `tags rekey:every, rekey:window: the window opens up to 1d apart, and the period is 12h: write rekey:every=1d or longer, or a window that opens more often, or none`},
		{"every=12h window=00:00-24:00", `tags rekey:every, rekey:window: the window opens up to 1d apart, and the period is 12h: write rekey:every=1d or longer, or a window that opens more often, or none`},
		{"every=5d window=Sat Sun 01:00-06:00", `tags rekey:every, rekey:window: the window opens up to 6d apart, and the period is 5d: write rekey:every=6d or longer, or a window that opens more often, or none`},

		{"every=24h grace=24h", `tags rekey:every, rekey:grace: with a period of 1d, rotations can be 22h apart, and the previous credential stays valid for 1d: lengthen rekey:every or shorten rekey:grace`},
		{"every=12h strategy=overlap", `tags rekey:every, rekey:grace: with a period of 12h, rotations can be 10h apart, and the previous credential stays valid for 1d: lengthen rekey:every or shorten rekey:grace`},
		{"every=26h strategy=overlap", `tags rekey:every, rekey:grace: with a period of 26h, rotations can be 1d apart, and the previous credential stays valid for 1d: lengthen rekey:every or shorten rekey:grace`},
		{"every=4h grace=150m", `tags rekey:every, rekey:grace: with a period of 4h, rotations can be 2h apart, and the previous credential stays valid for 150m: lengthen rekey:every or shorten rekey:grace`},
		{"every=9d window=Sat 01:00-06:00 grace=8d", `tags rekey:every, rekey:grace: with a period of 9d, rotations can be 7d apart, and the previous credential stays valid for 8d: lengthen rekey:every or shorten rekey:grace`},

		{"stage=", `tag rekey:stage: "" is no stage: write one word, such as prod`},
		{"stage=blue green", `tag rekey:stage: "blue green" is no stage: write one word, such as prod`},
		{"paused=true", `tag rekey:paused: "true" is neither yes nor no`},
		{"paused=", `tag rekey:paused: "" is neither yes nor no`},
		{"grace=never", `tag rekey:grace: "never" is no period: write a whole number and a unit, such as 7d, 12h or 30m`},
		{"evry=30d", `tag rekey:evry: there is no such tag: rekey reads rekey:rotator, rekey:strategy, rekey:admin, rekey:admin-for, rekey:every, rekey:window, rekey:grace, rekey:password, rekey:connection, rekey:options, rekey:seal, rekey:stage, rekey:paused`},
	} {
		_, _, err := Read(tagged(split(c.change)...))
		if err == nil || err.Error() != c.want || !rotators.IsPermanent(err) {
			t.Errorf("%s\n got %v\nwant %s", c.change, err, c.want)
		}
	}
}

// An owner who corrects one tag should not find the next mistake an hour
// later, and whose parameter it is can be told in spite of the mistakes.
func TestReadNamesEveryMistake(t *testing.T) {
	s, _, err := Read(tagged("rotator", "every=1m", "window=noon", "strategy=best", "paused=yes", "stage=blue"))
	if s.Stage != "blue" || !s.Paused {
		t.Errorf("got %+v", s)
	}
	for _, key := range []string{"rotator", "every", "window", "strategy"} {
		if err == nil || strings.Count(err.Error(), "tag rekey:"+key+": ") != 1 {
			t.Errorf("%s is not named once in: %v", key, err)
		}
	}
}

func TestReadDecodes(t *testing.T) {
	s, tags, err := Read(tagged("every=12h", "stage=blue", "paused=yes", "grace=1h", "retire=7"))
	if err != nil || s.Every != 12*time.Hour || s.Stage != "blue" || !s.Paused || s.Grace != time.Hour || tags.Retire != "7" || tags.Settings.Rotator != "postgres" {
		t.Errorf("got %+v, %+v, %v", s, tags, err)
	}
	for changes, want := range map[string]time.Duration{"": -1, "strategy=single-user": -1, "strategy=overlap": 24 * time.Hour, "strategy=overlap grace=0m": 0, "grace=7d": 7 * 24 * time.Hour} {
		if got := schedule(t, split(changes)...).Grace; got != want {
			t.Errorf("%q: the grace is %s, want %s", changes, got, want)
		}
	}
}

func TestDeadline(t *testing.T) {
	changed := instant(t, "Sat 2026-08-01 02:20:00")
	for changes, want := range map[string]string{
		"every=30d":                            "Mon 2026-08-31 02:20:00",
		"every=30d window=02:00-05:00":         "Mon 2026-08-31 05:00:00",
		"every=30d window=22:00-03:00":         "Mon 2026-08-31 03:00:00",
		"every=30d window=03:00-05:00":         "Mon 2026-08-31 02:20:00",
		"every=30d window=01:00-02:20":         "Mon 2026-08-31 02:20:00",
		"every=7d window=Sat 01:00-06:00":      "Sat 2026-08-08 06:00:00",
		"every=10d window=Sat Sun 01:00-06:00": "Tue 2026-08-11 02:20:00",
	} {
		if got := schedule(t, split(changes)...).Deadline(changed); !got.Equal(instant(t, want)) {
			t.Errorf("%s: %s, want %s", changes, got, want)
		}
	}
}

var schedules = []string{
	"every=4h", "every=5h", "every=1d", "every=30d", "every=999d",
	"every=1d window=02:00-05:00", "every=36h window=23:30-00:30", "every=30d window=00:00-24:00",
	"every=7d window=Sat 01:00-06:00", "every=8d window=Sun 22:00-02:00", "every=30d window=Sat Sun 01:00-06:00",
	"every=3d window=Mon Tue Wed Thu Fri 01:00-06:00", "every=999d window=Thu Mon 01:00-02:00", "every=8d window=Sun Wed Mon 20:00-04:00",
}

func TestDueIsWithinThePeriod(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 1))
	from := instant(t, "Sun 2014-01-05 00:00:00")
	for _, changes := range schedules {
		s := schedule(t, split(changes)...)
		for i := range 5000 {
			changed := from.Add(time.Duration(random.Int64N(int64(30 * 365 * 24 * time.Hour))))
			if i%5 == 0 { // on a slot, or as a window opens
				changed = s.Due(arn(i), changed)
			}
			checkDue(t, s, arn(i), changed)
		}
	}
}

// checkDue holds for every schedule that Read accepts.
func checkDue(t *testing.T, s Schedule, arn string, changed time.Time) {
	t.Helper()
	due := s.Due(arn, changed)
	if !due.After(changed) || due.After(changed.Add(s.Every)) || s.Deadline(changed).Before(changed.Add(s.Every)) {
		t.Fatalf("%+v: %s, changed %s, is due %s, overdue %s", s, arn, changed, due, s.Deadline(changed))
	}
	if at := due.In(time.FixedZone("", 5*3600)); !s.Due(arn, at).Equal(s.Due(arn, due)) {
		t.Fatalf("%+v: %s, changed %s, is due %s, in UTC %s", s, arn, at, s.Due(arn, at), s.Due(arn, due))
	}
	// It may be changed at any time, and returns to its own slots.
	next := s.Due(arn, due)
	if again := s.Due(arn, due.Add(next.Sub(due)/2)); !again.Equal(next) {
		t.Fatalf("%+v: %s is due %s after %s, and %s if it was changed half way", s, arn, next, due, again)
	}
	if next.Sub(due) < s.least() {
		t.Fatalf("%+v: %s is due %s and %s, which is less than %s", s, arn, due, next, s.least())
	}
	if s.Window.anyTime() {
		if due.After(changed.Add(s.Every - lead)) {
			t.Fatalf("%+v: %s, changed %s, is due %s: that is no two hours before its period ends", s, arn, changed, due)
		}
		return
	}
	until, open := s.Window.Open(due)
	before, _ := s.Window.Open(due.Add(-1))
	if !open || until.Equal(before) || until.Sub(due) < tick {
		t.Fatalf("%+v: %s, changed %s, is due %s, when no window opens for an hour", s, arn, changed, due)
	}
}

// A fleet that was made in one moment, as Terraform does: hourly ticks for 90
// days, and up to five minutes from a tick until a rotation is done.
func TestNinetyDaysOfAFleet(t *testing.T) {
	const (
		fleet   = 10_000
		latency = 5 * time.Minute
	)
	for _, c := range []struct {
		changes string
		days    float64 // over how many days of rotations each period is spread
	}{
		{"every=30d", 30},
		{"every=30d window=02:00-05:00", 30},
		{"every=30d window=23:00-01:00", 30},
		{"every=30d window=Sat Sun 01:00-06:00", 8},
		{"every=30d window=Sat 01:00-06:00", 4},
		{"every=14d window=Sun 22:00-02:00", 2},
		{"every=28d window=Mon Tue Wed Thu Fri 01:00-06:00", 20},
		{"every=7d window=Sat 00:00-24:00", 1},
		{"every=1d window=02:30-03:30", 1},
		{"every=12h", 0.5},
	} {
		t.Run(c.changes, func(t *testing.T) {
			t.Parallel()
			s := schedule(t, split(c.changes)...)
			random := rand.New(rand.NewPCG(4, 2))
			start := instant(t, "Mon 2026-03-02 09:41:07")
			end := start.Add(90 * 24 * time.Hour)
			type parameter struct {
				changed, due, deadline time.Time
				rotated                int
			}
			parameters := make([]parameter, fleet)
			for i := range parameters {
				parameters[i] = parameter{start, s.Due(arn(i), start), s.Deadline(start), 0}
			}
			perDay := map[time.Time]int{}
			for now := start; now.Before(end); now = now.Add(tick) {
				until, open := s.Window.Open(now)
				for i := range parameters {
					p := &parameters[i]
					if now.After(p.deadline) {
						t.Fatalf("at %s %s is overdue since %s", now, arn(i), p.deadline)
					}
					if !open || now.Before(p.due) {
						continue
					}
					done := now.Add(time.Duration(random.Int64N(int64(latency))))
					age := done.Sub(p.changed)
					if done.After(p.deadline) || age > s.Every && s.Window.anyTime() || age > s.Every+latency {
						t.Fatalf("%s, changed %s, is rotated only %s", arn(i), p.changed, done)
					}
					if p.rotated > 0 && age < s.least()-latency {
						t.Fatalf("%s, rotated %s, is rotated again %s", arn(i), p.changed, done)
					}
					if !until.IsZero() && done.After(until) {
						t.Fatalf("%s is rotated %s, after the window closed", arn(i), done)
					}
					*p = parameter{done, s.Due(arn(i), done), s.Deadline(done), p.rotated + 1}
					perDay[now.Truncate(24*time.Hour)]++
				}
			}
			for i, p := range parameters {
				if least := int(end.Sub(start) / s.Every); p.rotated < least {
					t.Errorf("%s was rotated %d times, want %d", arn(i), p.rotated, least)
				}
			}
			most := 0
			for day, n := range perDay {
				most = max(most, n)
				if share := fleet / c.days; float64(n) > 1.25*share {
					t.Errorf("%d rotations on %s: more than 1.25 times %.0f", n, day.Format(time.DateOnly), share)
				}
			}
			t.Logf("rotations on %d days, at most %d on one", len(perDay), most)
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range [][4]string{{"30d", "02:00-05:00", "7d", "overlap"}, {"12h", "Sat Sun 22:00-02:00", "1h", "single-user"}, {"90m", "24:00-00:00", "", ""}, {"7d", "sun 00:00-24:00", "1d", "overlap"}} {
		f.Add(s[0], s[1], s[2], s[3], "prod", "yes", int64(1_800_000_000))
	}
	f.Fuzz(func(t *testing.T, every, window, grace, strategy, stage, paused string, changed int64) {
		tags := map[string]string{"rekey:rotator": "postgres"}
		for name, value := range map[string]string{"every": every, "window": window, "grace": grace, "strategy": strategy, "stage": stage, "paused": paused} {
			if value != "" {
				tags["rekey:"+name] = value
			}
		}
		s, _, err := Read(tags)
		if err != nil {
			if !rotators.IsPermanent(err) || !strings.HasPrefix(err.Error(), "tag") {
				t.Fatalf("%v: %v", tags, err)
			}
			return
		}
		if s.Every < shortest || s.Every > longest || s.Every%time.Hour != 0 || s.Grace >= s.Every || s.Window.anyTime() != (window == "") || s.Stage != stage || s.Paused != (paused == "yes") {
			t.Fatalf("%v: %+v", tags, s)
		}
		checkDue(t, s, arn(0), time.Unix(changed%(1<<33), 0))
	})
}

func FuzzDue(f *testing.F) {
	for i := range schedules {
		f.Add(arn(i), uint8(i), uint16(i), int64(1_800_000_000), int64(i))
	}
	f.Fuzz(func(t *testing.T, arn string, kind uint8, hours uint16, seconds, nanoseconds int64) {
		s := schedule(t, split(schedules[int(kind)%len(schedules)])...)
		s.Every += time.Duration(hours) * time.Hour
		s.Every = min(s.Every, longest)
		// From 1833 to 2242, so that what lies before the Unix epoch is in it.
		checkDue(t, s, arn, time.Unix(seconds%(1<<32)+(1<<32), nanoseconds%int64(time.Second)))
		checkDue(t, s, arn, time.Unix(-seconds%(1<<32), nanoseconds%int64(time.Second)))
	})
}

func ExampleSchedule_Due() {
	s, _, err := Read(map[string]string{"rekey:rotator": "postgres", "rekey:every": "30d", "rekey:window": "Sat Sun 01:00-06:00"})
	if err != nil {
		fmt.Println(err)
		return
	}
	changed := time.Date(2026, 8, 3, 9, 0, 0, 0, time.UTC)
	for range 3 {
		changed = s.Due("arn:aws:ssm:us-east-1:000000000000:parameter/shop/db", changed)
		fmt.Println(changed.Format("Mon 2 January 15:04"))
	}
	// Output:
	// Sat 22 August 01:00
	// Sat 19 September 01:00
	// Sat 17 October 01:00
}
