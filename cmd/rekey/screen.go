package main

import (
	"io"

	"github.com/rekeyhq/rekey/internal/bounded"
)

// screen is where a command prints. What is printed may be what a server, AWS or a
// function said, so that nothing goes through that a terminal obeys, but for the ends of
// lines and tabs.
type screen struct{ raw io.Writer }

// Write implements io.Writer. It is to be given whole characters.
func (s *screen) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.raw, bounded.Lines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// rawly is a screen's way around itself, for what moves the cursor.
func rawly(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.raw
	}
	return w
}
