package bounded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
)

// pair is a Conn and the other end of it.
func pair(t *testing.T, bytes int64) (*Conn, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return NewConn(ours, bytes), theirs
}

func TestBytesAreCounted(t *testing.T) {
	c, theirs := pair(t, 10)
	go func() { _, _ = io.WriteString(theirs, "0123456789 and more") }()
	got, err := io.ReadAll(c)
	if string(got) != "0123456789" || !errors.Is(err, ErrTooMuch) || !c.Spent() {
		t.Errorf("read %q, %v", got, err)
	}
}

// What one connection was sent is missing from what another of the same budget may be.
func TestBytesAreCountedTogether(t *testing.T) {
	b := NewBudget(10)
	for _, want := range []string{"0123456", "012", ""} {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := b.Conn(ours)
		go func() { _, _ = io.WriteString(theirs, "0123456"); theirs.Close() }()
		got, err := io.ReadAll(c)
		if whole := len(want) == 7; string(got) != want || whole != (err == nil) || !whole && !errors.Is(err, ErrTooMuch) {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
}

// A caller's deadline, its cancellation, and neither of them ends what waits for a server.
func TestDoEnds(t *testing.T) {
	read := func(c *Conn) func() error {
		return func() error { _, err := c.Read(make([]byte, 1)); return err }
	}
	c, _ := pair(t, 10)
	limited, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Do(limited, read(c)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	if err := c.Do(cancelled, func() error { cancel(); return read(c)() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := c.Do(cancelled, func() error { t.Error("it was called"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	unlimited, cancel := Within(context.Background())
	defer cancel()
	if at, ok := unlimited.Deadline(); !ok || time.Until(at) > MaxTime {
		t.Errorf("without a deadline: %v, %t", at, ok)
	}
	given, _ := limited.Deadline()
	kept, cancel := Within(limited)
	defer cancel()
	if at, _ := kept.Deadline(); !at.Equal(given) {
		t.Errorf("the caller's deadline became %v", at)
	}
}

// What ended one exchange does not end the next one, which puts a password back.
func TestDoLeavesNothingBehind(t *testing.T) {
	for range 100 {
		c, theirs := pair(t, 10)
		ctx, cancel := context.WithCancel(t.Context())
		if err := c.Do(ctx, func() error { cancel(); return nil }); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(theirs, "x") }()
		if err := c.Do(t.Context(), func() error { _, err := c.Read(make([]byte, 1)); return err }); err != nil {
			t.Fatalf("the next exchange: %v", err)
		}
	}
}

func TestTexts(t *testing.T) {
	for said, want := range map[string]string{
		"":                       "",
		`it's "quoted" \ ünï 名😀`: `it's "quoted" \ ünï 名😀`,
		"\x1b[2J\x07\x00\x7f":    `\x1b[2J\a\x00\x7f`,
		"\u009b31m\u202e\u200b":  `\u009b31m\u202e\u200b`,
		"one\ntwo\tthree\r":      `one\ntwo\tthree\r`,
		"\xff\xc3(":              `\xff\xc3(`,
		"\ufffd":                 "\ufffd",
	} {
		if got := Text(said); got != want {
			t.Errorf("Text(%q) is %q, want %q", said, got, want)
		}
	}
	if got := Lines("one\ntwo\tthree\r\x1b"); got != "one\ntwo\tthree\\r\\x1b" {
		t.Errorf("Lines: %q", got)
	}
	if got := Text(strings.Repeat("x", MaxText)); got != strings.Repeat("x", MaxText) {
		t.Errorf("cut too early: %d", len(got))
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b]0;x\x07")
	f.Add(strings.Repeat("名", MaxText))
	f.Add(strings.Repeat("\xff", MaxText))
	f.Fuzz(func(t *testing.T, said string) {
		got := Text(said)
		if len(got) > MaxText || strings.ContainsFunc(got, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("%q", got)
		}
		if got != Printable(said) && got != fmt.Sprintf("(%d bytes, which are too many to be shown)", len(said)) {
			t.Errorf("%q of %q", got, said)
		}
	})
}
