package rotatortest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Wire is the way out for the rotator under test: give it to database drivers
// as their dialer and to HTTP clients as their transport. Each write to a
// connection and each HTTP round trip is one outside call.
type Wire struct {
	mu    sync.Mutex
	calls int
	crash int  // the call at which the process dies; 0: none
	after bool // whether that call still has its effect
	dead  bool
	stand func(call int) // runs before each call; nil: nothing does
	conns map[*conn]bool
}

// errDead is what every call gets from the crash on. A rotator that takes it
// for an answer of the target fails the suite.
var errDead = errors.New("rotatortest: the process has crashed, so this call never happened")

var transport = http.DefaultTransport.(*http.Transport).Clone()

// DialContext connects like net.Dialer's method of that name.
func (w *Wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var c *conn
	err := w.call(func() error {
		raw, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		c = &conn{Conn: raw, wire: w}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.conns == nil {
			w.conns = map[*conn]bool{}
		}
		w.conns[c] = true
		return nil
	})
	if err != nil {
		if c != nil {
			_ = c.Close()
		}
		return nil, err
	}
	return c, nil
}

// RoundTrip implements http.RoundTripper. The response is read to its end
// first, so that a crash falls before or after it, never into it.
func (w *Wire) RoundTrip(req *http.Request) (*http.Response, error) {
	var resp *http.Response
	err := w.call(func() (err error) {
		if resp, err = transport.RoundTrip(req); err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// call lets one outside call happen, or not.
func (w *Wire) call(do func() error) error {
	w.mu.Lock()
	if w.dead {
		w.mu.Unlock()
		return errDead
	}
	w.calls++
	call, stand := w.calls, w.stand
	dies := call == w.crash
	w.mu.Unlock()
	if stand != nil {
		stand(call)
	}
	if !dies {
		return do()
	}
	if w.after {
		_ = do()
	}
	w.die()
	return errDead
}

// standBefore has the call-th call from now on wait until do is through. The
// calls that do makes are not waited for.
func (w *Wire) standBefore(call int, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	call += w.calls
	w.stand = func(at int) {
		if at == call {
			w.mu.Lock()
			w.stand = nil
			w.mu.Unlock()
			do()
		}
	}
}

// beforeEach has do run before each call.
func (w *Wire) beforeEach(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stand = func(int) { do() }
}

// die cuts everything off.
func (w *Wire) die() {
	w.mu.Lock()
	w.dead = true
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// revive makes the Wire that of a new process, which does not crash.
func (w *Wire) revive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead, w.crash, w.calls = false, 0, 0
}

func (w *Wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// isDead tells whether the crash has happened.
func (w *Wire) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// conn counts its writes.
type conn struct {
	net.Conn
	wire *Wire
}

// patience is how long a crash waits for the target to be through with the last
// write it got. Targets hang up on a client that does, so this only bounds a
// broken one.
const patience = 5 * time.Second

func (c *conn) Write(p []byte) (n int, err error) {
	err = c.wire.call(func() error {
		if n, err = c.Conn.Write(p); err != nil {
			return err
		}
		if c.wire.dying() {
			// The write must have had its effect before the process is gone. The
			// target is told that nothing more will come, and when it hangs up
			// it is through. Nobody gets to see what it answers.
			if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, _ = io.Copy(io.Discard, c.Conn)
		}
		return nil
	})
	return n, err
}

func (c *conn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// dying tells whether the call under way is the last one.
func (w *Wire) dying() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls == w.crash
}
