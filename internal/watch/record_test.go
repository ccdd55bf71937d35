package watch

import (
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// seen makes a record of logins that last 8 ms each, one after the other, written
// as "lane signs" with the signs of the drawing. Those in one column of several
// lanes began together.
func seen(name string, users []string, lanes ...string) *Record {
	r := NewRecord(name)
	for _, user := range users {
		r.AddLane(user)
	}
	for n := range len(lanes[0]) {
		for lane, signs := range lanes {
			l := Login{Lane: lane, From: time.Duration(n) * 10 * time.Millisecond}
			l.To = l.From + 8*time.Millisecond
			switch signs[n] {
			case ' ':
				continue
			case '#', '=':
				l.Outcome = Accepted
			case 'X', '-':
				l.Outcome = Refused
			}
			l.Readers = strings.IndexByte("#X!", signs[n]) >= 0
			r.Add(l)
		}
	}
	return r
}

var (
	singleUser = seen("shop/single-user", []string{"app", "app"},
		"####################XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX----------------------------",
		"              ------===============================?=################?###########")
	alternatingUsers = seen("shop/alternating-users", []string{"app", "app_clone"},
		"########################################======================================",
		"          ----------====================######################################")
	overlap = seen("shop/overlap & <grace>", []string{"app", "app"},
		"########################################=====================-----------------",
		"          ----------====================######################################")
	nothing = seen("shop/quiet", []string{"app"}, "###!##")
)

// The drawings of fixed observations; go test -update writes them anew.
func TestDrawings(t *testing.T) {
	for file, r := range map[string]*Record{
		"single-user": singleUser, "alternating-users": alternatingUsers, "overlap": overlap, "nothing": nothing,
	} {
		for name, got := range map[string]string{file + ".txt": r.Text(), file + ".svg": r.SVG()} {
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s is not what is drawn now:\n%s", name, got)
			}
		}
		for line := range strings.Lines(r.Text()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
				t.Errorf("%s: a line has %d columns: %s", file, n, line)
			}
		}
		if strings.Contains(r.SVG()+r.Text(), "%!") {
			t.Errorf("%s: a value is not printed as what it is", file)
		}
		if n := len(r.SVG()); n > 10_000 {
			t.Errorf("%s.svg has %d bytes", file, n)
		}
		for d := xml.NewDecoder(strings.NewReader(r.SVG())); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s.svg: %v", file, err)
			}
		}
	}
}

func TestCounts(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for name, c := range map[string]struct {
		lanes                   []string
		tried, refused, unclear int
		gaps                    int
		longest                 time.Duration
		summary                 string
	}{
		"all accepted": {
			[]string{"#####"}, 5, 0, 0, 0, 0,
			"Of 5 logins with what readers got, none was refused.",
		},
		"one login": {
			[]string{"#"}, 1, 0, 0, 0, 0,
			"Of 1 login with what readers got, none was refused.",
		},
		// From the end of the last accepted one, 18 ms, to that of the first, 58 ms.
		"locked out until the next value": {
			[]string{"##XXX---", "  ===###"}, 8, 3, 0, 1, ms(40),
			"Of 8 logins with what readers got, 3 refused, in a gap of 40 ms.",
		},
		"other credentials do not count": {
			[]string{"######", "---===", " - = -"}, 6, 0, 0, 0, 0,
			"Of 6 logins with what readers got, none was refused.",
		},
		"refused from the first login on": {
			[]string{"XX#"}, 3, 2, 0, 1, ms(28),
			"Of 3 logins with what readers got, 2 refused, in a gap of 28 ms.",
		},
		"refused to the end": {
			[]string{"##XX"}, 4, 2, 0, 1, ms(20),
			"Of 4 logins with what readers got, 2 refused, in a gap of 20 ms that had not ended.",
		},
		"the longest of two gaps": {
			[]string{"#X#XX##"}, 7, 3, 0, 2, ms(30),
			"Of 7 logins with what readers got, 3 refused, in 2 gaps, the longest of 30 ms.",
		},
		"what is not known is neither": {
			[]string{"#!#!!X!#"}, 8, 1, 4, 1, ms(50),
			"Of 8 logins with what readers got, 1 refused, in a gap of 50 ms, and of 4 nothing is known.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := seen("x", []string{"a", "b", "c"}[:len(c.lanes)], c.lanes...)
			if r.Tried != c.tried || r.Refused != c.refused || r.Unclear != c.unclear || r.Gaps != c.gaps || r.Longest != c.longest {
				t.Errorf("tried %d, refused %d, unclear %d, %d gaps, longest %v", r.Tried, r.Refused, r.Unclear, r.Gaps, r.Longest)
			}
			if got := r.Summary(); got != c.summary {
				t.Errorf("got  %s\nwant %s", got, c.summary)
			}
		})
	}
}

// A login that is late to tell does not split what is known since: one begun before
// readers got the credential, or in the moment in which they did.
func TestLateLogin(t *testing.T) {
	const ms = time.Millisecond
	for _, late := range []time.Duration{10 * ms, 20 * ms, 22 * ms} {
		r := NewRecord("x")
		r.AddLane("app")
		r.Add(Login{From: 0, To: 8 * ms, Outcome: Accepted})
		r.Add(Login{From: 20 * ms, To: 25 * ms, Outcome: Accepted, Readers: true})
		if r.Add(Login{From: late, To: 30 * ms, Outcome: Accepted}) {
			t.Errorf("begun at %v it changed something", late)
		}
		if lane := r.Lanes[0]; len(lane.Spans) != 2 || lane.Accepted != 3 {
			t.Errorf("begun at %v: %+v", late, lane)
		}
	}
}

// A user's name comes from a value that others write.
func TestUserNames(t *testing.T) {
	r := seen("x", []string{"a\x1b[2J\n<script>" + strings.Repeat("long", 50)}, "###")
	if strings.Contains(r.SVG(), "<script") {
		t.Error("markup in the SVG")
	}
	for _, drawing := range []string{r.Text(), r.SVG()} {
		if strings.Contains(drawing, "\x1b") || strings.Contains(drawing, strings.Repeat("long", 25)) {
			t.Errorf("%q", drawing)
		}
	}
}
