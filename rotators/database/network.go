package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rekeyhq/rekey/rotators"
)

// DialFunc makes network connections, as net.Dialer's DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// network is what one step connects by. A host name is resolved once: the address of
// the first connection is the address of all later ones to that name and port. Else
// whoever owns the name could have a password proved at one server and changed at
// another.
type network struct {
	limits rotators.Limits

	mu        sync.Mutex
	addresses map[string]string // by host:port as DNS compares names
}

// Dial makes the network connection of this login. The first one of a step to a host
// name is made to the name, the later ones to the address that the first one reached.
// A nil dial is a net.Dialer. A place that the operator's limits exclude gets no
// connection, and from a dial of the caller's own no byte: the error is then permanent
// and wraps rotators.ErrHost.
func (l Login) Dial(ctx context.Context, dial DialFunc) (net.Conn, error) {
	n := l.network
	if n == nil {
		n = &network{}
	}
	target := net.JoinHostPort(l.Host, strconv.Itoa(l.Port))
	key := strings.ToLower(net.JoinHostPort(strings.TrimSuffix(l.Host, "."), strconv.Itoa(l.Port)))
	n.mu.Lock()
	address, known := n.addresses[key]
	n.mu.Unlock()
	if known {
		target = address
	}

	var excluded atomic.Bool // the dialer's error does not say so
	allowed := func(address string) error {
		at, err := netip.ParseAddrPort(address)
		if n.limits.Hosts.Name(l.Host) || err == nil && n.limits.Hosts.Address(at.Addr()) {
			return nil
		}
		excluded.Store(true)
		return rotators.Permanent(fmt.Errorf("%s:%d: %w", l.Host, l.Port, rotators.ErrHost))
	}
	if dial == nil {
		dial = (&net.Dialer{Control: func(_, address string, _ syscall.RawConn) error { return allowed(address) }}).DialContext
	}
	conn, err := dial(ctx, "tcp", target)
	if err != nil {
		if excluded.Load() {
			return nil, allowed("")
		}
		return nil, err
	}
	reached := ""
	a, tcp := conn.RemoteAddr().(*net.TCPAddr)
	if tcp {
		reached = a.String()
	}
	if err := allowed(reached); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Another port is that of something in between, a SOCKS proxy say, which resolves the
	// name itself.
	if !known && tcp && a.Port == l.Port {
		n.mu.Lock()
		if n.addresses == nil {
			n.addresses = map[string]string{}
		}
		n.addresses[key] = reached
		n.mu.Unlock()
	}
	return conn, nil
}

// permitted says why the operator's limits forbid a login; nil if they do not. What the
// address decides shows only when a connection is made.
func permitted(limits rotators.Limits, l Login) error {
	if limits.RequireTLS && l.Plaintext {
		return rotators.Permanent(errors.New("the value says \"ssl\": false, and this function makes no connection without TLS (its environment variable REKEY_REQUIRE_TLS): remove \"ssl\": false from the value"))
	}
	return nil
}
