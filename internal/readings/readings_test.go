package readings

import (
	stdbase64 "encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
)

// codecs are programs' ways to write a text, none of them by this package's code.
var codecs = map[string]func(string) string{
	"JSON":               func(s string) string { b, _ := json.Marshal(s); return string(b) },
	"JSON, all escaped":  func(s string) string { return each(s, `\u%04x`) },
	"JSON, capitals":     func(s string) string { return each(s, `\u%04X`) },
	"Go's quotation":     func(s string) string { return fmt.Sprintf("%q", s) },
	"ASCII quotation":    func(s string) string { return fmt.Sprintf("%+q", s) },
	"URL":                url.PathEscape,
	"URL, all escaped":   func(s string) string { return eachByte(s, "%%%02x") },
	"HTML":               html.EscapeString,
	"XML, all escaped":   func(s string) string { return each(s, "&#x%x;") },
	"base64":             func(s string) string { return stdbase64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 for URLs":    func(s string) string { return stdbase64.URLEncoding.EncodeToString([]byte(s)) },
	"base64 with a user": func(s string) string { return stdbase64.StdEncoding.EncodeToString([]byte("app:" + s + "\n")) },
	"base64 in lines": func(s string) string {
		return lines(stdbase64.StdEncoding.EncodeToString([]byte(strings.Repeat("#", 50) + s + strings.Repeat("#", 50))))
	},
	"hexadecimal":           func(s string) string { return hex.EncodeToString([]byte(s)) },
	"hexadecimal, capitals": func(s string) string { return fmt.Sprintf("%X", s) },
	"UTF-16": func(s string) string {
		var b strings.Builder
		for _, u := range utf16.Encode([]rune(s)) {
			b.Write([]byte{byte(u), byte(u >> 8)})
		}
		return b.String()
	},
}

func each(s, how string) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		fmt.Fprintf(&b, how, u)
	}
	return b.String()
}

func eachByte(s, how string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, how, c)
	}
	return b.String()
}

func lines(s string) string {
	var b strings.Builder
	for ; len(s) > 64; s = s[64:] {
		b.WriteString(s[:64] + "\n    ")
	}
	return b.String() + s
}

// A text is found in each code, and in each code within each other, whatever stands around
// it; its place is where the code stands.
func TestAnyWriting(t *testing.T) {
	for _, text := range []string{"AKIAIOSFODNN7EXAMPLE", `pa+ss/w<o>r&d"On'e\`, "with % and a tab\t"} {
		for inner, encode := range codecs {
			for outer, again := range codecs {
				if inner == "UTF-16" && outer == "XML, all escaped" {
					continue // XML has no zero
				}
				written := again("<" + encode(text) + ">")
				all, complete := Of("before="+written+", and after", 4)
				found := false
				for _, r := range all {
					at := strings.Index(r.Text, text)
					if at < 0 {
						continue
					}
					found = true
					begin, end := r.Place(at, at+len(text))
					if begin < len("before=") || end > len("before=")+len(written) {
						t.Errorf("%q in %s in %s: the place is %d to %d", text, inner, outer, begin, end)
					}
				}
				if !found || !complete {
					t.Errorf("%q in %s in %s is not found in %q; all readings: %v", text, inner, outer, written, complete)
				}
			}
		}
	}
}

// What is around a text that is in base64 or in digits is not taken for a part of it.
func TestPlaceInAnEncoding(t *testing.T) {
	for before := range 7 {
		for _, encode := range []string{"base64", "hexadecimal"} {
			written := codecs[encode](strings.Repeat("#", before) + "AKIAIOSFODNN7EXAMPLE" + "####")
			all, _ := Of("x="+written, 1)
			for _, r := range all {
				if at := strings.Index(r.Text, "AKIAIOSFODNN7EXAMPLE"); at >= 0 {
					begin, end := r.Place(at, at+20)
					per := map[string]float64{"base64": 4. / 3, "hexadecimal": 2}[encode]
					if from, to := 2+int(float64(before)*per), 2+int(float64(before+20)*per+.99); begin != from || end != to {
						t.Errorf("%s after %d: %d to %d, want %d to %d", encode, before, begin, end, from, to)
					}
				}
			}
		}
	}
}

// Prose is none of these.
func TestProseHasFewReadings(t *testing.T) {
	const prose = "the current password of the user \"app\" at db.example.com:5432 is refused, so nothing was changed: rotate again, and if it stays so set the password in the secret by hand; the server said: FATAL: password authentication failed for user \"app\" (SQLSTATE 28P01)"
	if all, _ := Of(prose, 4); len(all) > 2 {
		for _, r := range all {
			t.Logf("%q", r.Text)
		}
		t.Errorf("%d readings", len(all))
	}
}

func TestReadingsAreBounded(t *testing.T) {
	for _, text := range []string{strings.Repeat("%25", 64<<10/3), strings.Repeat(`\\`, 32<<10), strings.Repeat("&amp;", 13<<10), strings.Repeat("QUFB", 16<<10), strings.Repeat("4142", 16<<10), strings.Repeat(`%25\\&amp;QUFBQUFBQUFBQUFB `, 2500)} {
		all, _ := Of(text, 4)
		total := 0
		for _, r := range all[1:] {
			total += len(r.Text)
		}
		if total > maxRead {
			t.Errorf("%d readings of %d bytes", len(all), total)
		}
	}
}
