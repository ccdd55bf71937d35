package due

import (
	"os"
	"strings"
	"testing"
	"time"
)

// Every opening of a window that is as short as it may be has a tick in it, and nothing is
// overdue for want of one. Ticks come on the hour, by the minute, which is how exact
// EventBridge is; that template.yaml lets them come no later is asked of the template.
func TestEveryWindowHasATick(t *testing.T) {
	template, err := os.ReadFile("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	spread := time.Minute
	if strings.Contains(string(template), "Mode: FLEXIBLE") {
		spread = 10 * time.Minute
	}
	for _, text := range []string{"02:00-03:00", "02:05-03:05", "02:01-03:01", "02:09-03:09", "Sat 02:05-03:05"} {
		s, _, err := Read(map[string]string{"rekey:rotator": "postgres", "rekey:every": "7d", "rekey:window": text})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		changed, opened, late := start, map[time.Time]bool{}, 0
		const hours = 24 * 365 * 4
		for h := range hours {
			now := start.Add(time.Duration(h)*time.Hour + time.Duration(h*7919%int(spread/time.Second))*time.Second)
			until, open := s.Window.Open(now)
			if open {
				opened[until] = true
			}
			if open && !now.Before(s.Due("arn:aws:ssm:us-east-1:1:parameter/a", changed)) {
				if now.After(s.Deadline(changed)) {
					late++
				}
				changed = now
			}
		}
		if missed := int(s.Window.count(start.Add(hours*time.Hour))-s.Window.count(start)) - len(opened); missed > 0 || late > 0 {
			t.Errorf("%s: %d openings without a tick, %d rotations late", text, missed, late)
		}
	}
}
