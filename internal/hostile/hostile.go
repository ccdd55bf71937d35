// Package hostile has servers that do to their clients what no honest server does:
// they send without end, slowly or all at once, announce what no memory holds, ask for
// what they are not to have, and answer other questions than were asked. It is for
// rekey's own tests; no function that ships imports it.
//
// Each is one conversation in a protocol as far as some moment of it, and from there a
// lie. They know the client's password, Password, so that they can lie after a login
// too.
package hostile

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Password is that of every user.
const Password = "correct horse battery staple"

// Case is one server.
type Case struct {
	Name string
	// Serve serves one connection to its end, with TLS if cfg is not nil. Serve reports
	// whether the conversation reached the lie.
	Serve func(c net.Conn, cfg *tls.Config) (told bool)
	// Endless says that the server never ends what it has begun.
	Endless bool
}

// T is what this package needs of a test.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

// Server listens for clients.
type Server struct {
	Port int
	left sync.WaitGroup
	told atomic.Bool
}

// Listen has a server listen on a port of localhost.
func Listen(t T, c Case, cfg *tls.Config) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	s := &Server{Port: l.Addr().(*net.TCPAddr).Port}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.left.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(t.Context(), func() { conn.Close() })
				defer stop()
				if c.Serve(conn, cfg) {
					s.told.Store(true)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		s.left.Wait()
	})
	return s
}

// Left returns when every client there was is gone, and says whether that was within
// the time.
func (s *Server) Left(within time.Duration) bool {
	gone := make(chan struct{})
	go func() {
		s.left.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return true
	case <-time.After(within):
		return false
	}
}

// Told reports whether a client has heard the server's lie. A test of a lie that no
// client has heard tests nothing. Told is final once Left has returned true.
func (s *Server) Told() bool { return s.told.Load() }

// lie is what a server does from some moment on. Its client is asked is what it has
// just said.
type lie struct {
	name    string
	endless bool
	tell    func(w io.ReadWriter)
}

// say tells a lie once, and then nothing more.
func say(name string, bytes ...[]byte) lie {
	return lie{name, false, func(w io.ReadWriter) {
		for _, b := range bytes {
			_, _ = w.Write(b)
		}
		_, _ = io.Copy(io.Discard, w)
	}}
}

// flood says some things and then one again and again, as fast as it can.
func flood(name string, again []byte, first ...[]byte) lie {
	return lie{name, true, func(w io.ReadWriter) {
		for _, b := range first {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
		many := again
		for len(many) < 1<<16 {
			many = append(many, again...)
		}
		for {
			if _, err := w.Write(many); err != nil {
				return
			}
		}
	}}
}

// Beat is the time between two bytes of a server that is slow.
const Beat = 100 * time.Millisecond

// drip says some things, and the last one again and again, a byte at each beat, so that
// no wait for the next byte is ever long.
func drip(name string, again []byte, first ...[]byte) lie {
	return lie{name, true, func(w io.ReadWriter) {
		for _, b := range first {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
		beat := time.NewTicker(Beat)
		defer beat.Stop()
		for {
			for i := range again {
				<-beat.C
				if _, err := w.Write(again[i : i+1]); err != nil {
					return
				}
			}
		}
	}}
}

// escapes are what a terminal obeys, a log's line ends at, and no text holds.
const escapes = "\x1b]0;PWNED\x07\x1b[2J\nlevel=INFO msg=\"all is well\"\r\xff\u009b31m"

func concat(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func big(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
