package due

import (
	"testing"
	"time"
)

func TestOpen(t *testing.T) {
	// 1 August 2026 is a Saturday.
	for _, c := range []struct {
		window, now, until string // until "": closed
	}{
		{"02:00-05:00", "Sat 2026-08-01 01:59:59", ""},
		{"02:00-05:00", "Sat 2026-08-01 02:00:00", "Sat 2026-08-01 05:00:00"},
		{"02:00-05:00", "Sat 2026-08-01 04:59:59", "Sat 2026-08-01 05:00:00"},
		{"02:00-05:00", "Sat 2026-08-01 05:00:00", ""},
		{"22:00-02:00", "Sat 2026-08-01 21:59:59", ""},
		{"22:00-02:00", "Sat 2026-08-01 23:59:59", "Sun 2026-08-02 02:00:00"},
		{"22:00-02:00", "Sat 2026-08-01 00:00:00", "Sat 2026-08-01 02:00:00"},
		{"22:00-02:00", "Sat 2026-08-01 02:00:00", ""},
		{"00:00-24:00", "Sat 2026-08-01 23:59:59", "Sun 2026-08-02 00:00:00"},
		{"00:00-24:00", "Sun 2026-08-02 00:00:00", "Mon 2026-08-03 00:00:00"},
		{"22:00-00:00", "Sat 2026-08-01 23:59:59", "Sun 2026-08-02 00:00:00"},
		{"22:00-00:00", "Sun 2026-08-02 00:00:00", ""},
		{"Sat Sun 01:00-06:00", "Fri 2026-07-31 02:00:00", ""},
		{"Sat Sun 01:00-06:00", "Sat 2026-08-01 02:00:00", "Sat 2026-08-01 06:00:00"},
		{"Sat Sun 01:00-06:00", "Sun 2026-08-02 02:00:00", "Sun 2026-08-02 06:00:00"},
		{"Sat Sun 01:00-06:00", "Mon 2026-08-03 02:00:00", ""},
		// A week starts on Monday here, and a window may run into it.
		{"Sun 22:00-02:00", "Sun 2026-08-02 01:00:00", ""},
		{"Sun 22:00-02:00", "Sun 2026-08-02 22:00:00", "Mon 2026-08-03 02:00:00"},
		{"Sun 22:00-02:00", "Mon 2026-08-03 01:59:59", "Mon 2026-08-03 02:00:00"},
		{"Sun 22:00-02:00", "Mon 2026-08-03 02:00:00", ""},
		{"Sun 22:00-02:00", "Mon 2026-08-03 22:00:00", ""},
		{"Mon 00:00-24:00", "Mon 2026-08-03 00:00:00", "Tue 2026-08-04 00:00:00"},
		{"Mon 00:00-24:00", "Sun 2026-08-02 23:59:59", ""},
	} {
		w, err := parseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		now := instant(t, c.now)
		until, open := w.Open(now)
		if open != (c.until != "") || open && !until.Equal(instant(t, c.until)) {
			t.Errorf("%s at %s: open %t, until %s", c.window, c.now, open, until)
		}
		if opens := w.Opens(now); !open {
			_, early := w.Open(opens.Add(-time.Second))
			if _, opened := w.Open(opens); !opens.After(now) || !opened || early {
				t.Errorf("%s at %s: opens at %s", c.window, c.now, opens)
			}
		}
		if elsewhere, _ := w.Open(now.In(time.FixedZone("", -9*3600))); !elsewhere.Equal(until) {
			t.Errorf("%s at %s, said in another zone: until %s", c.window, c.now, elsewhere)
		}
	}
	if until, open := (Window{}).Open(instant(t, "Sat 2026-08-01 02:00:00")); !open || !until.IsZero() {
		t.Errorf("any time: open %t, until %s", open, until)
	}
}

// Hour by hour through a fortnight, a window is open exactly when a person who
// reads the tag says so.
func TestOpenHourByHour(t *testing.T) {
	w, err := parseWindow("Fri Sun 21:00-03:00")
	if err != nil {
		t.Fatal(err)
	}
	for hour := range 14 * 24 {
		now := instant(t, "Mon 2026-08-03 00:30:00").Add(time.Duration(hour) * time.Hour)
		day, hour := now.Weekday(), now.Hour()
		want := hour >= 21 && (day == time.Friday || day == time.Sunday) || hour < 3 && (day == time.Saturday || day == time.Monday)
		if _, open := w.Open(now); open != want {
			t.Errorf("open at %s: %t", now, open)
		}
	}
}
