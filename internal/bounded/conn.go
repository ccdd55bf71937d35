// Package bounded limits what a server may do to rekey: how much it sends, how long
// it takes, and what its words do to a terminal or a log. A stranger who can write a
// secret chooses the host that rekey logs in to, and the host answers before anything
// is proved. It is for the rotators that open connections, for the boundary around
// every rotator, and for the rekey command.
package bounded

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// MaxTime is how long a login or a statement may take if the caller sets no deadline.
// Lambda always sets one. The longest honest wait is for locks, of which each rotator
// limits its own to ten seconds or less.
const MaxTime = time.Minute

// Within is ctx, with a deadline in MaxTime if ctx has none. The caller calls cancel.
func Within(ctx context.Context) (limited context.Context, cancel context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, MaxTime)
}

// ErrTooMuch is what a Conn's Read returns once the server has sent as much as it may.
var ErrTooMuch = errors.New("the server sends more than rekey reads")

// Conn is a connection on which a server may send a limited number of bytes.
type Conn struct {
	net.Conn
	left *atomic.Int64
}

// NewConn returns a Conn that reads at most so many bytes from conn.
func NewConn(conn net.Conn, bytes int64) *Conn { return NewBudget(bytes).Conn(conn) }

// Budget is how many bytes several connections may be sent together.
type Budget struct{ left atomic.Int64 }

// NewBudget returns a Budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{}
	b.left.Store(bytes)
	return b
}

// Conn returns a Conn that reads from conn what is left of the budget.
func (b *Budget) Conn(conn net.Conn) *Conn { return &Conn{Conn: conn, left: &b.left} }

// Read implements net.Conn. Its error is ErrTooMuch once the limit is reached.
func (c *Conn) Read(p []byte) (int, error) {
	left := c.left.Load()
	if left <= 0 {
		return 0, ErrTooMuch
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), left)])
	c.left.Add(-int64(n))
	return n, err
}

// Spent reports whether the limit is reached.
func (c *Conn) Spent() bool { return c.left.Load() <= 0 }

// past is a deadline that ends a read or write under way.
var past = time.Unix(1, 0)

// Do calls f, which reads from and writes to the connection until the deadline of ctx,
// or until ctx is cancelled, or for MaxTime. If one of these ended it, the error is
// that of ctx. f may use a TLS connection on top of c.
func (c *Conn) Do(ctx context.Context, f func() error) error {
	ctx, cancel := Within(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(past)
		close(ended)
	})
	err := f()
	if !stop() {
		// It must not end what uses the connection next.
		<-ended
	}
	if err != nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
